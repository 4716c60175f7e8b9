package registry_test

import (
	"testing"

	"registry/server/registry"
)

// TestMirrorsAreAsPublicAsTheirUpstream: whatever was stored when the flag said otherwise, in every list.
func TestMirrorsAreAsPublicAsTheirUpstream(t *testing.T) {
	f := newFixture(t)
	f.put("up/app", "v1", image(f.blob("up/app", "config")))
	if err := f.SetPublic(t.Context(), "up/app", true); err != nil {
		t.Fatal(err)
	}
	f.SetMirrors(func(repo registry.RepoName) (mirrored, public bool) { return repo == "up/app", false })
	page := registry.Page{Limit: 10}
	all, _, err := f.RepositoryInfos(t.Context(), page)
	if err != nil || len(all) != 1 || all[0].Public {
		t.Errorf("%+v, %v", all, err)
	}
	asked := func(_ registry.RepoName, public bool) (bool, error) { return !public, nil }
	some, _, err := f.RepositoryInfosFor(t.Context(), page, asked)
	if err != nil || len(some) != 1 || some[0].Public {
		t.Errorf("%+v, %v", some, err)
	}
}

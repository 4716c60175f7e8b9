package syncer_test

import (
	"net/http"
	"strings"
	"testing"

	"registry/server/registry"
	"registry/server/syncer"

	"github.com/google/go-cmp/cmp"
)

// plan is what Plan says: "copy/app:v1: why" for removals, "not copy/app: why" for refusals.
func (x *target) plan(reports []syncer.Report) (list []string) {
	x.t.Helper()
	removals, refusals, err := x.Plan(x.t.Context(), reports)
	if err != nil {
		x.t.Fatal(err)
	}
	for _, r := range removals {
		list = append(list, r.String()+": "+r.Why)
	}
	for _, r := range refusals {
		list = append(list, "not "+string(r.Repository)+": "+r.Why)
	}
	return list
}

func TestPlan(t *testing.T) {
	cosign := registry.Tag("sha256-" + strings.Repeat("a", 64) + ".sig")
	none := func(http.ResponseWriter, *http.Request) bool { return false }
	answer := func(path, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			if body == "" {
				w.WriteHeader(http.StatusInternalServerError)
			}
			w.Write([]byte(body))
			return true
		}
	}
	const only = "{source: HOST/team/app, target: copy/app, type: repository, tags: {allow: [v1]}}"
	const missing = "the source does not have it"
	for _, x := range []struct {
		name, entries string
		evil          func(http.ResponseWriter, *http.Request) bool
		want          []string
	}{
		{"gone", "{source: HOST/team/app, target: copy/app, type: repository}", none, []string{"copy/app:v0: " + missing}},
		{"filtered", only, none, []string{"copy/app:" + string(cosign) + ": the filters do not allow it", "copy/app:v0: " + missing, "copy/app:v2: the filters do not allow it"}},
		{"digest tags stay", strings.ReplaceAll(only, "type:", "digestTags: true, type:"), none, []string{"copy/app:v0: " + missing, "copy/app:v2: the filters do not allow it"}},
		{"two entries", only + ", {source: HOST/team/app, target: copy/app, type: repository, tags: {allow: [v2]}}", none, []string{"copy/app:" + string(cosign) + ": the filters do not allow it", "copy/app:v0: " + missing}},
		{"an image beside", only + ", {source: 'HOST/team/other:v1', target: 'copy/app:v0', type: image}", none, []string{"copy/app:" + string(cosign) + ": the filters do not allow it", "copy/app:v2: the filters do not allow it"}},
		{"an image alone", "{source: 'HOST/team/app:v1', target: 'copy/app:v1', type: image}", none, nil},
		{"failed", only, answer("/tags/list", ""), []string{"not copy/app: its tags could not be listed: status 500 Internal Server Error"}},
		{"empty", only, answer("/tags/list", `{"tags":[]}`), []string{"not copy/app: the source has no tags"}},
		{"null", only, answer("/tags/list", `{}`), []string{"not copy/app: the source has no tags"}},
		{"nothing let through", strings.ReplaceAll(only, "v1", "v7"), none, []string{"not copy/app: the filters let no tag through"}},
		{"of two, one failed", only + ", {source: HOST/team/absent, target: copy/app, type: repository}", none,
			[]string{"not copy/app: its tags could not be listed: the source does not have it, or not for everybody: status 404 Not Found"}},
		{"registry", "{source: HOST, target: whole, type: registry}", none, []string{"whole/team/app:v0: " + missing}},
		{"registry failed", "{source: HOST/team/app, target: whole/team/app, type: repository}, {source: HOST, target: whole, type: registry}", answer("_catalog", ""),
			[]string{"not whole/team/app: the repositories of HOST could not be listed"}},
		{"images failed", only, answer("/manifests/v1", ""), []string{"copy/app:" + string(cosign) + ": the filters do not allow it", "copy/app:v0: " + missing, "copy/app:v2: the filters do not allow it"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			o, tgt := newOrigin(t), newTarget(t)
			for _, tag := range []registry.Tag{"v0", "v1", "v2", cosign} {
				o.image("team/app", string(tag), tag)
			}
			o.image("team/other", "x", "v1")
			tgt.run(entries(t, o, "sync: [{source: HOST/team/app, target: copy/app, type: repository}, {source: HOST, target: whole, type: registry}]"))
			if err := o.DeleteTag(t.Context(), "team/app", "v0"); err != nil {
				t.Fatal(err)
			}
			o.turn(x.evil)
			_, reports := tgt.run(entries(t, o, "sync: ["+x.entries+"]"))
			got := tgt.plan(reports)
			for i := range got {
				got[i] = strings.ReplaceAll(got[i], o.host, "HOST")
			}
			if d := cmp.Diff(x.want, got); d != "" {
				t.Errorf("- want, + got\n%s", d)
			}
		})
	}
}

func TestPruneCanBeUndone(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	o.image("team/app", "one", "v1")
	o.image("team/app", "two", "v2")
	app := entries(t, o, appEntry)
	x.run(app)
	if err := o.DeleteTag(t.Context(), "team/app", "v1"); err != nil {
		t.Fatal(err)
	}
	_, reports := x.run(app)
	removals, _, err := x.Plan(t.Context(), reports)
	if err != nil {
		t.Fatal(err)
	}
	removed, err := x.Prune(t.Context(), append(removals, syncer.Removal{Repository: "copy/app", Tag: "gone"}))
	if err != nil || len(removed) != 1 || removed[0].Tag != "v1" {
		t.Errorf("%v, %v", removed, err)
	}
	if _, err := x.Manifest(t.Context(), "copy/app", tagged("v1")); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
	if _, err := x.RestoreTag(t.Context(), "copy/app", "v1", ""); err != nil {
		t.Error(err)
	}
	if _, err := x.Manifest(t.Context(), "copy/app", tagged("v1")); err != nil {
		t.Error(err)
	}
	// A tag that may not change stays, and the rest goes.
	if err := x.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "copy/*", Tag: "v1"}); err != nil {
		t.Fatal(err)
	}
	removed, err = x.Prune(t.Context(), []syncer.Removal{{Repository: "copy/app", Tag: "v1"}, {Repository: "copy/app", Tag: "v2"}})
	if !registry.TagImmutable.Is(err) || len(removed) != 1 {
		t.Errorf("%v, %v", removed, err)
	}
}

package registry_test

import (
	"strings"
	"testing"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// TestTagsThatDoNotMove: an immutable tag is pushed again with what it points at, and with nothing else; whoever may only
// create moves no tag. All or nothing, through whatever call.
func TestTagsThatDoNotMove(t *testing.T) {
	f := newFixture(t)
	one, other := image(f.blob("team/app", "one")), image(f.blob("team/app", "other"))
	first := f.put("team/app", "v1", one)
	second := f.put("team/app", "", other)
	f.put("team/app", "latest", one)
	if err := f.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "team/**", Tag: "v*"}); err != nil {
		t.Fatal(err)
	}
	if err := f.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "team/**", Tag: "["}); !registry.RuleInvalid.Is(err) {
		t.Errorf("a rule that is no glob: %v", err)
	}
	content, mediaType := encode(other)
	put := func(keep bool, tags ...registry.Tag) error {
		_, err := f.PutManifest(t.Context(), "team/app", registry.Put{Ref: registry.Reference{Digest: second.Digest}, Tags: tags, MediaType: mediaType, Content: content, KeepTags: keep})
		return err
	}
	_, copied := f.Copy(t.Context(), "team/app", registry.Reference{Digest: second.Digest}, "team/app", []registry.Tag{"v1"}, false)
	for what, err := range map[string]error{
		"push": put(false, "v1"), "push with others": put(false, "new", "v1"), "copy": copied,
		"delete": f.DeleteTag(t.Context(), "team/app", "v1"), "delete by digest": f.DeleteManifest(t.Context(), "team/app", first.Digest),
	} {
		if !registry.TagImmutable.Is(err) || !strings.Contains(err.Error(), "team/**:v*") {
			t.Errorf("%s of an immutable tag: %v", what, err)
		}
	}
	if err := put(true, "fresh", "latest"); !registry.Denied.Is(err) {
		t.Errorf("moving a tag with the right to create: %v", err)
	}
	missing, missingType := encode(image(v1.Descriptor{Digest: digest.FromString("elsewhere"), Size: 9}))
	_, err := f.PutManifest(t.Context(), "team/app", registry.Put{Ref: tag("latest"), MediaType: missingType, Content: missing, KeepTags: true})
	if !registry.Denied.Is(err) { // whoever may not push it need not know what it lacks
		t.Errorf("moving a tag to what is not all there with the right to create: %v", err)
	}
	if err := put(true, "fresh"); err != nil {
		t.Errorf("a new tag with the right to create: %v", err)
	}
	f.put("team/app", "v1", one)
	f.put("other/app", "v1", image(f.blob("other/app", "one")))
	f.put("other/app", "v1", image(f.blob("other/app", "other")))
	for ref, want := range map[registry.Tag]string{"v1": string(first.Digest), "latest": string(first.Digest), "fresh": string(second.Digest)} {
		if m, err := f.StatManifest(t.Context(), "team/app", registry.Reference{Tag: ref}); err != nil || string(m.Digest) != want {
			t.Errorf("%s is %v, %v; want %s", ref, m.Digest, err, want)
		}
	}
	if _, err := f.StatManifest(t.Context(), "team/app", tag("new")); !registry.ManifestUnknown.Is(err) {
		t.Errorf("a tag of a refused push: %v", err)
	}
}

// Nothing that an image with an immutable tag needs can be deleted from under it; other repositories' tags keep nothing
// here.
func TestImmutableImagesStayWhole(t *testing.T) {
	f := newFixture(t)
	layer, config := f.blob("team/app", "layer"), f.blob("team/app", "config")
	child := f.put("team/app", "", image(config, layer))
	f.put("team/app", "v1", index(child))
	spare := f.blob("team/app", "spare")
	f.put("team/app", "latest", image(spare))
	f.blob("team/other", "spare")
	f.put("team/other", "v1", image(spare))
	if err := f.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "team/**", Tag: "v*"}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"layer":  f.DeleteBlob(t.Context(), "team/app", layer.Digest),
		"config": f.DeleteBlob(t.Context(), "team/app", config.Digest),
		"child":  f.DeleteManifest(t.Context(), "team/app", child.Digest),
	} {
		if !registry.TagImmutable.Is(err) {
			t.Errorf("deleting the %s: %v", what, err)
		}
	}
	if err := f.DeleteBlob(t.Context(), "team/app", spare.Digest); err != nil {
		t.Errorf("deleting what only a tag that may move needs: %v", err)
	}
}

package registry_test

import (
	"slices"
	"testing"
	"time"

	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

func TestTagHistory(t *testing.T) {
	f := newFixture(t)
	one := f.put("a", "v1", image(f.blob("a", "one"))).Digest
	f.pass(time.Hour)
	two := f.put("a", "v1", image(f.blob("a", "two"))).Digest
	f.put("a", "v1", image(f.blob("a", "two"))) // the same again is no change
	f.pass(time.Hour)
	if err := f.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	now := f.now
	log, err := f.TagLog(t.Context(), "a", "v1", 10)
	if err != nil || len(log) != 3 || log[0].Before != two || log[0].After != "" || log[1].Before != one || log[1].After != two || log[2].Before != "" {
		t.Fatalf("%+v, %v", log, err)
	}
	for at, want := range map[time.Duration]digest.Digest{-time.Minute: two, -61 * time.Minute: one, -119 * time.Minute: one, -3 * time.Hour: "", time.Minute: ""} {
		if got, err := f.TagAt(t.Context(), "a", "v1", now.Add(at)); got != want || want == "" && !registry.ManifestUnknown.Is(err) {
			t.Errorf("%s: %s, %v", at, got, err)
		}
	}
	want := func(want digest.Digest, to digest.Digest) {
		t.Helper()
		if got, err := f.RestoreTag(t.Context(), "a", "v1", to); got != want || err != nil {
			t.Errorf("restored %s, %v, want %s", got, err, want)
		}
		if m, err := f.StatManifest(t.Context(), "a", tag("v1")); m.Digest != want || err != nil {
			t.Errorf("is %s, %v, want %s", m.Digest, err, want)
		}
	}
	want(two, "") // takes back the deletion
	want(one, one)
	want(two, "") // takes back the restoration
	// A manifest that was deleted or collected comes back with the tag.
	f.pass(2 * time.Hour)
	f.collect(gc.Options{Grace: time.Hour, Untagged: true, UndoWindow: 168 * time.Hour})
	f.wantGone("a", "one")
	want(one, one)
	f.wantThere("a", "one")
	if _, err := f.RestoreTag(t.Context(), "a", "v1", digest.FromString("x")); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
	if _, err := f.RestoreTag(t.Context(), "a", "never", ""); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
}

// An index comes back with its children, its referrers and its tags, unless a tag has been given away.
func TestUndelete(t *testing.T) {
	f := newFixture(t)
	child := f.put("a", "child", image(f.blob("a", "config"), f.blob("a", "layer")))
	root := f.put("a", "v1", index(child))
	f.put("a", "latest", index(child))
	referrer := f.put("a", "", artifact(f.blob("a", "signature"), &root))
	if err := f.DeleteRepository(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	f.wantGone("a", child, root, referrer, "config")
	other := f.put("a", "latest", image(f.blob("a", "other")))
	f.pass(100 * time.Hour)
	f.collect(gc.Options{Grace: time.Hour, UndoWindow: 168 * time.Hour})
	var deleted []registry.Deleted
	if err := f.DeletedManifests(t.Context(), "", func(d registry.Deleted) error { deleted = append(deleted, d); return nil }); err != nil || len(deleted) != 3 {
		t.Fatal(deleted, err)
	}
	back, err := f.Undelete(t.Context(), "a", root.Digest)
	slices.Sort(back.Tags)
	if err != nil || len(back.Manifests) != 3 || !slices.Equal(back.Tags, []registry.Tag{"child", "v1"}) {
		t.Error(back, err)
	}
	f.wantThere("a", child, root, referrer, "config", "layer", "signature", other)
	if m, err := f.StatManifest(t.Context(), "a", tag("latest")); m.Digest != other.Digest {
		t.Error(m, err)
	}
	if list, err := f.Referrers(t.Context(), "a", root.Digest, "", registry.Page{Limit: 9}); len(list.Descriptors) != 1 {
		t.Error(list, err)
	}
	f.wantWhole()
	if _, err := f.Undelete(t.Context(), "a", root.Digest); !registry.ManifestUnknown.Is(err) {
		t.Error("a second time:", err)
	}
}

func TestNoUndo(t *testing.T) {
	f := newFixture(t, noUndo)
	m := f.put("a", "v1", image(f.blob("a", "config")))
	if err := f.DeleteManifest(t.Context(), "a", m.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Undelete(t.Context(), "a", m.Digest); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
	f.pass(time.Hour)
	f.collect(gc.Options{Grace: time.Hour})
	f.collect(thorough)
	f.wantFiles(0, 0)
}

func TestWhy(t *testing.T) {
	f := newFixture(t)
	opt := gc.Options{Grace: 24 * time.Hour, Untagged: true, UntaggedAfter: 168 * time.Hour, UndoWindow: 168 * time.Hour}
	layer := f.blob("a", "layer")
	child := f.put("a", "", image(f.blob("a", "config"), layer))
	root := f.put("a", "v1", index(child))
	referrer := f.put("a", "", artifact(f.blob("a", "signature"), &root))
	why := func(d digest.Digest, blob bool) (kinds []string, w gc.Why) {
		t.Helper()
		var err error
		if blob {
			w, err = gc.WhyBlob(t.Context(), f.Registry, d, opt)
		} else {
			w, err = gc.WhyManifest(t.Context(), f.Registry, "a", registry.Reference{Digest: d}, opt)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range w.Holds {
			kinds = append(kinds, h.Kind)
		}
		return kinds, w
	}
	if kinds, w := why(layer.Digest, true); !w.Held || !slices.Equal(kinds, []string{"manifest"}) {
		t.Errorf("%+v", w)
	}
	for _, d := range []digest.Digest{child.Digest, referrer.Digest} {
		if kinds, w := why(d, false); !w.Held || !slices.Equal(kinds, []string{"tag", "index or subject"}) {
			t.Errorf("%+v", w)
		}
	}
	at := f.now
	if err := f.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	if _, w := why(child.Digest, false); w.Held || !w.CollectedAfter.Equal(at.Add(168*time.Hour).UTC().Truncate(time.Microsecond)) {
		t.Errorf("%+v", w)
	}
	if err := f.DeleteManifest(t.Context(), "a", child.Digest); err != nil {
		t.Fatal(err)
	}
	if kinds, w := why(layer.Digest, true); w.Held || !slices.Equal(kinds, []string{"lease", "undo"}) || !w.CollectedAfter.Equal(at.Add(168*time.Hour).UTC().Truncate(time.Microsecond)) {
		t.Errorf("%+v", w)
	}
	if kinds, w := why(child.Digest, false); w.Held || !slices.Equal(kinds, []string{"undo"}) {
		t.Errorf("%+v", w)
	}
	// What it says is what happens.
	f.pass(169 * time.Hour)
	f.collect(opt)
	if _, err := gc.WhyBlob(t.Context(), f.Registry, layer.Digest, opt); !registry.BlobUnknown.Is(err) {
		t.Error(err)
	}
}

func TestUsage(t *testing.T) {
	f := newFixture(t)
	one := f.put("a", "v1", image(f.blob("a", "config one"), f.blob("a", "shared in a"), f.blob("a", "shared by all")))
	two := f.put("a", "v2", image(f.blob("a", "config two"), f.blob("a", "shared in a"), f.blob("a", "shared by all")))
	three := f.put("b", "v1", image(f.blob("b", "config three"), f.blob("b", "shared by all")))
	f.blob("b", "needed by nobody")
	list, _, err := f.RepositoryUsages(t.Context(), registry.Page{Limit: 10})
	want := []registry.Usage{
		{Repository: "a", Logical: 44 + one.Size + two.Size, Unique: 31 + one.Size + two.Size, Shared: 13},
		{Repository: "b", Logical: 41 + three.Size, Unique: 28 + three.Size, Shared: 13, Reclaim: 16},
	}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%+v\nwant %+v, %v", list, want, err)
	}
	list, _, err = f.TagUsages(t.Context(), "a", registry.Page{Limit: 10})
	want = []registry.Usage{
		{Repository: "a", Tag: "v1", Logical: 34 + one.Size, Unique: 10 + one.Size, Shared: 24},
		{Repository: "a", Tag: "v2", Logical: 34 + two.Size, Unique: 10 + two.Size, Shared: 24},
	}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%+v\nwant %+v, %v", list, want, err)
	}
	if err := f.DeleteManifest(t.Context(), "a", two.Digest); err != nil {
		t.Fatal(err)
	}
	total, err := f.TotalUsage(t.Context())
	if want := (registry.TotalUsage{Blobs: 72, Manifests: one.Size + three.Size, Reclaimable: 16, Undo: 10}); total != want || err != nil {
		t.Errorf("%+v, want %+v, %v", total, want, err)
	}
}

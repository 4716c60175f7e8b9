package registry_test

import (
	"path/filepath"
	"testing"

	"registry/db/dbtest"
	"registry/server/backup"
	"registry/server/check"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// findings are what a check finds.
func (f *fixture) findings() (list []check.Finding) {
	f.t.Helper()
	_, err := check.Run(f.t.Context(), f.Registry, check.Options{Found: func(found check.Finding) { list = append(list, found) }})
	if err != nil {
		f.t.Fatal(err)
	}
	return list
}

// A database that is rebuilt knows which manifests are copies of an upstream's: what they lack was not asked for, and they
// may be evicted. What was pushed is none.
func TestCopiesAreRebuilt(t *testing.T) {
	for name, late := range map[string]bool{"the journal is written whole": false, "the journal is added to": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			pushed := f.put("own", "v1", image(f.blob("own", "config"), f.blob("own", "layer")))
			if late {
				if err := f.ExportJournal(t.Context(), 0); err != nil {
					t.Fatal(err)
				}
			}
			config := f.blob("up/x", "config of the copy")
			content, mediaType := encode(image(config, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString("not fetched"), Size: 11}))
			if _, err := f.CacheManifest(t.Context(), "up/x", registry.CachedManifest{Ref: tag("v1"), MediaType: mediaType, Content: content}); err != nil {
				t.Fatal(err)
			}
			if err := f.ExportJournal(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "new.db")
			if _, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: path, Blobs: f.root, Schema: dbtest.Schema(t)}); err != nil {
				t.Fatal(err)
			}
			rebuilt := openAt(t, path, f.root)
			if found := rebuilt.findings(); len(found) != 0 {
				t.Errorf("%+v", found)
			}
			if _, err := gc.Evict(t.Context(), rebuilt.Registry, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := rebuilt.Manifest(t.Context(), "up/x", tag("v1")); !registry.ManifestUnknown.Is(err) {
				t.Errorf("the copy was not evicted: %v", err)
			}
			if _, err := rebuilt.Manifest(t.Context(), "own", registry.Reference{Digest: pushed.Digest}); err != nil {
				t.Error(err)
			}
		})
	}
}

// Layers that are fetched from elsewhere need not be here, and nothing is said of them; of the others it is.
func TestCheckKnowsForeignLayers(t *testing.T) {
	f := newFixture(t)
	foreign := v1.Descriptor{MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest: digest.FromString("elsewhere"), Size: 9, URLs: []string{"https://example.com/x"}}
	m := f.put("a", "v1", image(f.blob("a", "config"), foreign, f.blob("a", "layer")))
	if found := f.findings(); len(found) != 0 {
		t.Errorf("%+v", found)
	}
	if _, whole, err := f.HasManifest(t.Context(), "a", m.Digest); !whole || err != nil {
		t.Errorf("whole %v, %v", whole, err)
	}
	// It was here, and went.
	f.blob("a", "elsewhere")
	if err := f.DeleteBlob(t.Context(), "a", foreign.Digest); err != nil {
		t.Fatal(err)
	}
	if found := f.findings(); len(found) != 0 {
		t.Errorf("after the foreign layer was deleted: %+v", found)
	}
	if err := f.DeleteBlob(t.Context(), "a", digest.FromString("layer")); err != nil {
		t.Fatal(err)
	}
	if found := f.findings(); len(found) != 1 || found[0].Kind != "reference" {
		t.Errorf("after a layer was deleted: %+v", found)
	}
	if _, whole, err := f.HasManifest(t.Context(), "a", m.Digest); whole || err != nil {
		t.Errorf("whole %v, %v", whole, err)
	}
}

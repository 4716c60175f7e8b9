package registry_test

import (
	"fmt"
	"testing"
	"time"

	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// A manifest that came when more references were allowed is read, tagged, deleted and undeleted as any other.
func TestManyStored(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.Sparse, c.UndoWindow = registry.SparseAll, time.Hour })
	config := f.blob("a", "config")
	f.blob("a", "layer 7")
	layers := make([]v1.Descriptor, registry.MaxReferences+500)
	for i := range layers {
		text := fmt.Sprint("layer ", i)
		layers[i] = v1.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(text), Size: int64(len(text))}
	}
	ctx := t.Context()
	if _, err := f.tryPut("a", "t", image(config, layers...)); !registry.ManifestInvalid.Is(err) {
		t.Errorf("a manifest with too many references: %v, want ManifestInvalid", err)
	}
	if _, err := f.tryPut("a", "t", image(config, layers[:registry.MaxReferences]...)); err != nil {
		t.Errorf("a manifest with as many references as it may have: %v", err)
	}
	content, mediaType := encode(image(config, layers...))
	d := digest.FromBytes(content)
	if err := f.PutOld(ctx, "a", "t", mediaType, content); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteManifest(ctx, "a", d); err != nil {
		t.Fatal(err)
	}
	if _, err := f.RestoreTag(ctx, "a", "t", d); err != nil {
		t.Fatal(err)
	}
	m, err := f.Manifest(ctx, "a", registry.Reference{Tag: "t"})
	if err != nil || m.Digest != d {
		t.Fatalf("the tag is %v, %v, want %v", m.Digest, err, d)
	}
	if c, err := m.Contents(); err != nil || len(c.Blobs) != len(layers)+1 {
		t.Errorf("it has %d references, %v", len(c.Blobs), err)
	}
	if _, whole, err := f.HasManifest(ctx, "a", d); err != nil || whole {
		t.Errorf("it is whole although it misses layers, %v", err)
	}
	f.blob("a", "layer 3") // which it missed
	why, err := gc.WhyBlob(ctx, f.Registry, layers[3].Digest, gc.Options{})
	if err != nil || !why.Held {
		t.Errorf("a layer that came later is held by %v, %v", why, err)
	}
}

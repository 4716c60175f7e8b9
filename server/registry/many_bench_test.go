package registry_test

import (
	"fmt"
	"testing"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkManyReferences is how long a manifest with as many references as it may have keeps other writers waiting.
func BenchmarkManyReferences(b *testing.B) {
	for _, there := range []bool{true, false} {
		b.Run(fmt.Sprintf("there=%v", there), func(b *testing.B) {
			f := newFixture(b, func(c *registry.Config) { c.Sparse = registry.SparseAll })
			var layers []v1.Descriptor
			config := f.blob("a", "config")
			for i := range 9_990 {
				text := fmt.Sprint("layer ", i)
				d := v1.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(text), Size: int64(len(text))}
				if there {
					d = f.blob("a", text)
				}
				layers = append(layers, d)
			}
			b.ResetTimer()
			for i := range b.N {
				m := image(config, layers...)
				m.Annotations = map[string]string{"n": fmt.Sprint(i)}
				f.put("a", "t", m)
			}
		})
	}
}

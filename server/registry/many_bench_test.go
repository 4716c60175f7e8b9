package registry_test

import (
	"fmt"
	"testing"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkManyReferences is how long a manifest with as many references as it may have keeps other writers waiting, when it
// is pushed, pushed again, deleted and undeleted.
func BenchmarkManyReferences(b *testing.B) {
	for _, there := range []bool{true, false} {
		b.Run(fmt.Sprintf("there=%v", there), func(b *testing.B) {
			f := newFixture(b, func(c *registry.Config) {
				c.Sparse = registry.SparseAll
				c.UndoWindow = time.Hour
			})
			var layers []v1.Descriptor
			config := f.blob("a", "config")
			for i := range registry.MaxReferences {
				text := fmt.Sprint("layer ", i)
				d := v1.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString(text), Size: int64(len(text))}
				if there {
					d = f.blob("a", text)
				}
				layers = append(layers, d)
			}
			took := map[string]time.Duration{}
			step := func(name string, do func() error) {
				begin := time.Now()
				if err := do(); err != nil {
					b.Fatal(err)
				}
				took[name] += time.Since(begin)
			}
			b.ResetTimer()
			for i := range b.N {
				m := image(config, layers...)
				m.Annotations = map[string]string{"n": fmt.Sprint(i)}
				var d digest.Digest
				step("put", func() error { d = f.put("a", "t", m).Digest; return nil })
				step("again", func() error { f.put("a", "t", m); return nil })
				step("delete", func() error { return f.DeleteManifest(b.Context(), "a", d) })
				step("undo", func() error { _, err := f.RestoreTag(b.Context(), "a", "t", d); return err })
			}
			for name, sum := range took {
				b.ReportMetric(float64(sum.Milliseconds())/float64(b.N), name+"-ms")
			}
		})
	}
}

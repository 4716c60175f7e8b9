package registry_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Uploads that start at the same time are not more than there may be.
func TestParallelStarts(t *testing.T) {
	const most = 5
	f := newFixture(t, func(c *registry.Config) { c.MaxUploads = most })
	var started atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			_, err := f.StartUpload(t.Context(), "a", digest.SHA256)
			if err == nil {
				started.Add(1)
			} else if !registry.TooManyRequests.Is(err) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := started.Load(); n != most {
		t.Errorf("%d uploads started, want %d", n, most)
	}
}

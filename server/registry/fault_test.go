package registry_test

import (
	"errors"
	"fmt"
	"testing"

	"registry/blobs"
	"registry/blobs/blobtest"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Every operation of the store fails once on the way of a push, in both kinds: it failed, and it failed but happened.
// The push may fail, and then says so; whatever the repository shows afterwards is whole, and pushing again heals it.
func TestStoreFaults(t *testing.T) {
	for _, op := range []blobtest.Op{blobtest.OpStage, blobtest.OpWrite, blobtest.OpCommit, blobtest.OpRemove, blobtest.OpDiscard} {
		for _, happened := range []bool{false, true} {
			t.Run(fmt.Sprint(op, " happened ", happened), func(t *testing.T) {
				f := newFixture(t)
				faulty := &blobtest.Faulty{Store: f.store}
				f.Registry = registry.New(registry.Config{DB: f.db, Blobs: faulty})
				f.blob("a", "here before") // so that the next push replaces a file
				faulty.FailNext(op, 1, happened)
				for _, content := range []string{"here before", "new"} {
					d := digest.FromString(content)
					err := f.PutBlob(t.Context(), "a", d, chunk(content))
					if err != nil && !errors.Is(err, blobtest.ErrInjected) {
						t.Error("another error:", err)
					}
					got, readErr := f.read("a", d)
					if err == nil && got != content || readErr == nil && got != content {
						t.Errorf("after %v: %q, %v", err, got, readErr)
					}
					if _, statErr := f.StatBlob(t.Context(), "a", d); (statErr == nil) != (readErr == nil) {
						t.Errorf("HEAD says %v, GET %v", statErr, readErr)
					}
				}
				for _, content := range []string{"here before", "new"} {
					f.blob("a", content)
					if got, err := f.read("a", digest.FromString(content)); got != content {
						t.Error(got, err)
					}
				}
			})
		}
	}
}

// A full disk is said to be full, whichever operation meets it.
func TestFullDisk(t *testing.T) {
	if code := registry.AsError(fmt.Errorf("write: %w", blobs.ErrFull)).Code; code != registry.StorageFull {
		t.Error(code)
	}
}

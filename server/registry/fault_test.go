package registry_test

import (
	"context"
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

// An upload whose bytes the disk has lost cannot be continued: what is left would become a blob.
func TestLostBytesEndTheUpload(t *testing.T) {
	f := newFixture(t)
	f.Registry = registry.New(registry.Config{DB: f.db, Blobs: lossy{f.store}})
	u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.AppendUpload(t.Context(), "a", u.ID, chunk("content")); !errors.Is(err, blobs.ErrLost) {
		t.Error(err)
	}
	if _, err := f.UploadStatus(t.Context(), "a", u.ID); !registry.BlobUploadUnknown.Is(err) {
		t.Error("the upload goes on:", err)
	}
	if err := f.store.Staged(t.Context(), func(id string, _ blobs.Info) error { return errors.New(id) }); err != nil {
		t.Error("the staged file is still there:", err)
	}
}

// lossy is a store that loses what is written.
type lossy struct{ blobs.Store }

func (s lossy) Stage(ctx context.Context, id string, offset int64) (blobs.Stage, error) {
	stage, err := s.Store.Stage(ctx, id, offset)
	return lossyStage{stage}, err
}

type lossyStage struct{ blobs.Stage }

func (lossyStage) Write(p []byte) (int, error) { return len(p), blobs.ErrLost }

// A full disk is said to be full, whichever operation meets it.
func TestFullDisk(t *testing.T) {
	if code := registry.AsError(fmt.Errorf("write: %w", blobs.ErrFull)).Code; code != registry.StorageFull {
		t.Error(code)
	}
}

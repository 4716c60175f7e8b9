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

// A sequence of pushes, mounts, replacements and deletions, during which the k-th of each operation of the store fails,
// in both kinds: it failed, and it failed but happened. A step may fail, and then says so; whatever the repositories
// show afterwards is whole, and the same sequence again heals it.
func TestStoreFaults(t *testing.T) {
	for _, op := range []blobtest.Op{blobtest.OpStage, blobtest.OpWrite, blobtest.OpCommit, blobtest.OpRemove, blobtest.OpDiscard} {
		for _, happened := range []bool{false, true} {
			t.Run(fmt.Sprint(op, " happened ", happened), func(t *testing.T) {
				for k := 1; failOnce(t, op, k, happened); k++ {
				}
			})
		}
	}
}

// failOnce runs the sequence with a fault, and says whether there was such an operation.
func failOnce(t *testing.T, op blobtest.Op, k int, happened bool) bool {
	f := newFixture(t)
	faulty := &blobtest.Faulty{Store: f.store}
	f.Registry = registry.New(registry.Config{DB: f.db, Blobs: faulty})
	f.blob("a", "here before") // so that a push replaces a file
	faulty.FailNext(op, k, happened)
	acknowledged := map[registry.RepoName]map[string]bool{"a": {"here before": true}, "b": {}}
	for i, step := range faultySequence(f) {
		err := step.run()
		switch {
		case err == nil:
			acknowledged[step.repo][step.content] = !step.removes
		case !errors.Is(err, blobtest.ErrInjected) && !registry.BlobUnknown.Is(err):
			t.Errorf("%s %d, step %d: another error: %v", op, k, i, err)
		}
		for repo, has := range acknowledged {
			for content, want := range has {
				got, err := f.read(repo, digest.FromString(content))
				_, statErr := f.StatBlob(t.Context(), repo, digest.FromString(content))
				if want && got != content || err == nil && got != content || (err == nil) != (statErr == nil) {
					t.Errorf("%s %d, step %d: %s in %s: %q, GET says %v, HEAD %v", op, k, i, content, repo, got, err, statErr)
				}
			}
		}
	}
	fired := faulty.Fired()
	faulty.FailNext(op, 0, false)
	for i, step := range faultySequence(f) {
		if err := step.run(); err != nil {
			t.Errorf("%s %d, step %d again: %v", op, k, i, err)
		}
	}
	return fired
}

type faultyStep struct {
	repo    registry.RepoName
	content string
	removes bool
	run     func() error
}

func faultySequence(f *fixture) []faultyStep {
	ctx := f.t.Context()
	put := func(content string) func() error {
		return func() error { return f.PutBlob(ctx, "a", digest.FromString(content), chunk(content)) }
	}
	chunks := func(content string) func() error {
		return func() error {
			u, err := f.StartUpload(ctx, "a", digest.SHA256)
			if err == nil {
				_, err = f.AppendUpload(ctx, "a", u.ID, chunk(content[:3]))
			}
			if err == nil {
				_, err = f.FinishUpload(ctx, "a", u.ID, digest.FromString(content), chunk(content[3:]))
			}
			return err
		}
	}
	cancel := func() error {
		u, err := f.StartUpload(ctx, "a", digest.SHA256)
		if err == nil {
			_, err = f.AppendUpload(ctx, "a", u.ID, chunk("never finished"))
		}
		if err == nil {
			err = f.CancelUpload(ctx, "a", u.ID)
		}
		return err
	}
	mount := func() error {
		mounted, err := f.MountBlob(ctx, "b", digest.FromString("new"), "a")
		if err == nil && !mounted {
			err = registry.BlobUnknown.With("new")
		}
		return err
	}
	remove := func() error { return f.DeleteBlob(ctx, "a", digest.FromString("new")) }
	return []faultyStep{
		{"a", "here before", false, put("here before")},
		{"a", "new", false, put("new")},
		{"a", "in chunks", false, chunks("in chunks")},
		{"a", "", true, cancel},
		{"b", "new", false, mount},
		{"a", "new", false, put("new")},
		{"a", "new", true, remove},
		{"a", "new", false, chunks("new")},
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

package registry_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
	"time"

	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// killed makes a filling that has taken so many bytes of a blob when its process is killed.
func (f *fixture) killed(d digest.Digest, content []byte, n int) {
	f.t.Helper()
	filling := f.NewBlobFetch(f.t.Context(), "up.example/a", d, int64(len(content)))
	broken := io.MultiReader(bytes.NewReader(content[filling.Staged():n]), iotest.ErrReader(errors.New("killed")))
	if err := filling.Take(f.t.Context(), broken); !registry.BlobUploadInvalid.Is(err) {
		f.t.Fatal(err)
	}
}

func (f *fixture) staged() (n int) {
	f.t.Helper()
	files, err := filepath.Glob(filepath.Join(f.root, "uploads", "*"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			n++
		}
	}
	return n
}

// TestFillingGoesOn sees that what a fetch has brought is there for the next one, whatever became of its process.
func TestFillingGoesOn(t *testing.T) {
	f := newFixture(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	d := digest.FromBytes(content)
	f.killed(d, content, 700_000)
	f.Registry = registry.New(registry.Config{DB: f.db, Blobs: f.store}) // another process
	f.killed(d, content, 900_000)
	f.Registry = registry.New(registry.Config{DB: f.db, Blobs: f.store})
	if other := f.NewBlobFetch(t.Context(), "up.example/b", d, int64(len(content))); other.Staged() != 0 {
		t.Error("another repository has it")
	}
	next := f.NewBlobFetch(t.Context(), "up.example/a", d, int64(len(content)))
	if next.Staged() != 900_000 {
		t.Fatalf("%d bytes are there", next.Staged())
	}
	if same := f.NewBlobFetch(t.Context(), "up.example/a", d, int64(len(content))); same.Staged() != 0 {
		t.Error("two have the same bytes")
	}
	if err := errors.Join(next.Take(t.Context(), bytes.NewReader(content[900_000:])), next.Finish(t.Context())); err != nil {
		t.Fatal(err)
	}
	if size, err := f.StatBlob(t.Context(), "up.example/a", d); err != nil || size != int64(len(content)) {
		t.Error(size, err)
	}
	f.wantWhole()
	if n := f.staged(); n != 0 {
		t.Errorf("%d files are left", n)
	}
	f.wantNoUploads()
}

func (f *fixture) wantNoUploads() {
	f.t.Helper()
	err := f.db.View(f.t.Context(), func(tx *db.Tx) error {
		n, _, err := tx.CountUploads("up.example/a", "")
		if n != 0 {
			f.t.Errorf("%d sessions are left", n)
		}
		return err
	})
	if err != nil {
		f.t.Error(err)
	}
}

// TestFillingBeginsAnew sees that bytes are not gone on from that may be wrong, and that nothing of them stays.
func TestFillingBeginsAnew(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	d := digest.FromBytes(content)
	for name, change := range map[string]func(*fixture){
		"another boot": func(f *fixture) {
			err := f.db.Update(t.Context(), func(tx *db.Tx) error {
				u, err := tx.UploadBy("up.example/a", "fetch:"+d.String())
				if err == nil {
					err = tx.DeleteUpload(u.ID)
				}
				u.BootID = "another"
				return errors.Join(err, tx.CreateUpload(u))
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"no file": func(f *fixture) {
			files, _ := filepath.Glob(filepath.Join(f.root, "uploads", "*"))
			for _, file := range files {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
		},
		"short file": func(f *fixture) {
			files, _ := filepath.Glob(filepath.Join(f.root, "uploads", "*"))
			for _, file := range files {
				if err := os.Truncate(file, 10); err != nil {
					t.Fatal(err)
				}
			}
		},
		"expired": func(f *fixture) {
			f.pass(48 * time.Hour)
			if _, err := f.ExpireUploads(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		f := newFixture(t)
		f.killed(d, content, 700_000)
		change(f)
		if next := f.NewBlobFetch(t.Context(), "up.example/a", d, int64(len(content))); next.Staged() != 0 {
			t.Errorf("%s: it goes on from %d", name, next.Staged())
		}
		if n := f.staged(); n != 0 {
			t.Errorf("%s: %d files are left", name, n)
		}
		f.wantNoUploads()
	}
}

// TestFillingDropped sees what stays of a filling that fails.
func TestFillingDropped(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	d := digest.FromBytes(content)
	for _, keep := range []bool{true, false} {
		f := newFixture(t)
		filling := f.NewBlobFetch(t.Context(), "up.example/a", d, int64(len(content)))
		if err := filling.Take(t.Context(), bytes.NewReader(content[:700_000])); err != nil {
			t.Fatal(err)
		}
		filling.Drop(t.Context(), keep)
		filling.Fail(errors.New("enough"))
		want := int64(0)
		if keep {
			want = 700_000
		} else {
			f.wantNoUploads()
		}
		if n := f.staged(); n != 0 != keep {
			t.Errorf("%d files are left", n)
		}
		if next := f.NewBlobFetch(t.Context(), "up.example/a", d, int64(len(content))); next.Staged() != want {
			t.Errorf("%d bytes are there, want %d", next.Staged(), want)
		}
	}
}

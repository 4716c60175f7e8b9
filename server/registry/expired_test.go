package registry_test

import (
	"testing"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// An upload that a collection in another process has expired is unknown, whatever the client does next.
func TestExpiredByAnotherProcess(t *testing.T) {
	const content = "some bytes"
	d := digest.FromString(content)
	for name, do := range map[string]func(f *fixture, id string) error{
		"status": func(f *fixture, id string) error { _, err := f.UploadStatus(t.Context(), "a", id); return err },
		"append": func(f *fixture, id string) error {
			_, err := f.AppendUpload(t.Context(), "a", id, chunk("x"))
			return err
		},
		"finish": func(f *fixture, id string) error {
			_, err := f.FinishUpload(t.Context(), "a", id, d, chunk(""))
			return err
		},
		"finish with bytes": func(f *fixture, id string) error {
			_, err := f.FinishUpload(t.Context(), "a", id, d, chunk("x"))
			return err
		},
		"finish, wrong": func(f *fixture, id string) error {
			_, err := f.FinishUpload(t.Context(), "a", id, digest.FromString("x"), chunk(""))
			return err
		},
		"cancel": func(f *fixture, id string) error { return f.CancelUpload(t.Context(), "a", id) },
		"status, then finish": func(f *fixture, id string) error {
			f.UploadStatus(t.Context(), "a", id)
			_, err := f.FinishUpload(t.Context(), "a", id, d, chunk(""))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.AppendUpload(t.Context(), "a", u.ID, chunk(content)); err != nil {
				t.Fatal(err)
			}
			f.pass(time.Hour)
			other := registry.New(registry.Config{DB: f.db, Blobs: f.store, UploadTimeout: time.Minute})
			if n, err := other.ExpireUploads(t.Context()); err != nil || n != 1 {
				t.Fatalf("%d expired: %v", n, err)
			}
			if err := do(f, u.ID); !registry.BlobUploadUnknown.Is(err) {
				t.Errorf("%v, want BlobUploadUnknown", err)
			}
			f.wantFiles(0, 0)
		})
	}
}

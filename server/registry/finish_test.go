package registry_test

import (
	"testing"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// A client that has lost the answer to the request that ended its session sends it again. Nothing else gets that answer.
func TestFinishUploadAgain(t *testing.T) {
	f := newFixture(t)
	const content = "0123456789"
	d, other := digest.FromString(content), f.blob("a", "other").Digest
	f.blob("b", "another repository has blobs, too")
	alice, bob := f.As(registry.Actor{User: "alice"}), f.As(registry.Actor{User: "bob"})
	for _, last := range []string{"", "56789"} {
		u, err := alice.StartUpload(t.Context(), "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice.AppendUpload(t.Context(), "a", u.ID, chunk(content[:len(content)-len(last)])); err != nil {
			t.Fatal(err)
		}
		finish := func(r *registry.Registry, repo registry.RepoName, id string, d digest.Digest, last string) error {
			u, err := r.FinishUpload(t.Context(), repo, id, d, chunk(last))
			if err == nil && (u.Offset != int64(len(content)) || u.ID != id) {
				t.Errorf("%+v", u)
			}
			return err
		}
		restarted := registry.New(registry.Config{DB: f.db, Blobs: f.store})
		for range 2 {
			for _, r := range []*registry.Registry{alice, restarted.As(registry.Actor{User: "alice"})} {
				if err := finish(r, "a", u.ID, d, last); err != nil {
					t.Error(err)
				}
			}
		}
		cancelled, err := alice.StartUpload(t.Context(), "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := alice.CancelUpload(t.Context(), "a", cancelled.ID); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"another user": finish(bob, "a", u.ID, d, last), "no user": finish(f.Registry, "a", u.ID, d, last),
			"another digest": finish(alice, "a", u.ID, other, last), "another repository": finish(alice, "b", u.ID, d, last),
			"another session": finish(alice, "a", cancelled.ID, d, last), "no session": finish(alice, "a", "", d, last),
		} {
			if !registry.BlobUploadUnknown.Is(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := alice.UploadStatus(t.Context(), "a", u.ID); !registry.BlobUploadUnknown.Is(err) {
			t.Error("the session goes on:", err)
		}
		if _, err := alice.AppendUpload(t.Context(), "a", u.ID, chunk("x")); !registry.BlobUploadUnknown.Is(err) {
			t.Error("the session goes on:", err)
		}
		if err := alice.DeleteBlob(t.Context(), "a", d); err != nil {
			t.Fatal(err)
		}
		if err := finish(alice, "a", u.ID, d, last); !registry.BlobUploadUnknown.Is(err) {
			t.Error("the blob was deleted:", err)
		}
	}
}

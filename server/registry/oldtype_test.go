package registry_test

import (
	"path/filepath"
	"testing"

	"registry/db"
	"registry/db/dbtest"
	"registry/server/backup"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// What was stored before its media type was refused stays: it is read, copied, deleted, brought back and rebuilt.
func TestRefusedMediaTypesThatAreStoredStay(t *testing.T) {
	f := newFixture(t, func(cfg *registry.Config) { cfg.UndoWindow = 1 << 50 })
	content := []byte(`{"x":"<script>alert(1)</script>"}`)
	d := digest.FromBytes(content)
	byDigest := registry.Reference{Digest: d}
	err := f.db.Update(t.Context(), func(tx *db.Tx) error {
		id, err := tx.MakeRepository("old", false)
		if err != nil {
			return err
		}
		m := db.Manifest{RepositoryID: id, Digest: d, MediaType: "text/html", Size: int64(len(content)), Content: content}
		if m.ID, _, err = tx.PutManifest(m); err != nil {
			return err
		}
		return tx.SetTag(id, "v1", m.ID)
	})
	if err != nil {
		t.Fatal(err)
	}
	look := func(what string, r *registry.Registry, repo registry.RepoName, ref registry.Reference) {
		t.Helper()
		m, err := r.Manifest(t.Context(), repo, ref)
		if err != nil || string(m.Content) != string(content) || m.MediaType != "text/html" || m.ServedAs() != "application/octet-stream" {
			t.Errorf("%s: %+v, %v", what, m, err)
		}
	}
	look("stored", f.Registry, "old", tag("v1"))
	if _, err := f.PutManifest(t.Context(), "old", registry.Put{Ref: byDigest, MediaType: "text/html", Content: content}); !registry.ManifestInvalid.Is(err) {
		t.Errorf("pushed again: %v", err)
	}
	if _, err := f.CacheManifest(t.Context(), "copy", registry.CachedManifest{Ref: byDigest, MediaType: "text/html", Content: content}); !registry.ManifestInvalid.Is(err) {
		t.Errorf("from an upstream: %v", err)
	}
	if _, err := registry.ReadManifest("text/html", content); !registry.ManifestInvalid.Is(err) {
		t.Errorf("imported: %v", err)
	}
	written := []byte(`{"mediaType":"text/html"}`)
	if _, err := registry.ReadDocument(digest.FromBytes(written), written); !registry.ManifestInvalid.Is(err) {
		t.Errorf("taken over: %v", err)
	}
	if err := f.DeleteManifest(t.Context(), "old", d); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Undelete(t.Context(), "old", d); err != nil {
		t.Fatal(err)
	}
	look("brought back", f.Registry, "old", tag("v1"))
	if _, err := f.Copy(t.Context(), "old", tag("v1"), "copied", []registry.Tag{"v1"}, true); err != nil {
		t.Fatal(err)
	}
	look("copied", f.Registry, "copied", tag("v1"))
	m, err := f.Manifest(t.Context(), "old", byDigest)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := m.Contents(); err != nil || c.MediaType != "text/html" {
		t.Errorf("read for an export: %+v, %v", c, err)
	}
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "new.db")
	report, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: path, Blobs: f.root, Schema: dbtest.Schema(t)})
	if err != nil || report.Broken != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	look("rebuilt", openAt(t, path, f.root).Registry, "old", tag("v1"))
}

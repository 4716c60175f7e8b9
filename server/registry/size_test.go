package registry_test

import (
	"iter"
	"path/filepath"
	"strings"
	"testing"

	"registry/db/dbtest"
	"registry/server/backup"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

func one(p registry.BulkManifest) iter.Seq2[registry.BulkManifest, error] {
	return func(yield func(registry.BulkManifest, error) bool) { yield(p, nil) }
}

// A manifest that says another size than a blob has is a mistake when it is pushed, and content when it is brought from a
// registry that has it: it is served whole then, and goes wherever its readers push it.
func TestWrongSizes(t *testing.T) {
	all := func(registry.RepoName, bool) (bool, error) { return true, nil }
	none := func(registry.RepoName, bool) (bool, error) { return false, nil }
	for name, bring := range map[string]func(f *fixture, content []byte, mediaType string) error{
		"mirror": func(f *fixture, content []byte, mediaType string) error {
			_, err := f.CacheManifest(t.Context(), "from", registry.CachedManifest{Ref: registry.Reference{Digest: digest.FromBytes(content)}, MediaType: mediaType, Content: content})
			return err
		},
		"sync": func(f *fixture, content []byte, mediaType string) error {
			_, err := f.PutManifest(t.Context(), "from", registry.Put{Ref: tag("v1"), MediaType: mediaType, Content: content, AnySize: true})
			return err
		},
		"import": func(f *fixture, content []byte, mediaType string) error {
			return f.PutAll(t.Context(), one(registry.BulkManifest{Repo: "from", Put: registry.Put{Ref: tag("v1"), MediaType: mediaType, Content: content}}))
		},
		"take-over": func(f *fixture, content []byte, mediaType string) error {
			doc, err := registry.ReadDocument(digest.FromBytes(content), content)
			if err == nil {
				_, err = f.Ingest(t.Context(), "from", registry.Ingestion{Documents: []*registry.Document{doc}})
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			layer := f.blob("from", "layer")
			layer.Size += 7
			content, mediaType := encode(image(f.blob("from", "config"), layer))
			ref := registry.Reference{Digest: digest.FromBytes(content)}
			push := func(repo registry.RepoName, mayRead func(registry.RepoName, bool) (bool, error)) error {
				f.blob(repo, "layer")
				f.blob(repo, "config")
				_, err := f.PutManifest(t.Context(), repo, registry.Put{Ref: ref, MediaType: mediaType, Content: content, MayRead: mayRead})
				return err
			}
			if err := push("to", all); !registry.ManifestInvalid.Is(err) || !strings.Contains(err.Error(), "has 5 bytes, its descriptor says 12") {
				t.Fatalf("a push: %v", err)
			}
			if err := bring(f, content, mediaType); err != nil {
				t.Fatal(err)
			}
			if got, err := f.read("from", layer.Digest); err != nil || got != "layer" {
				t.Errorf("%q, %v", got, err)
			}
			if err := push("from", nil); err != nil {
				t.Errorf("pushed again: %v", err)
			}
			if err := push("to", none); !registry.ManifestInvalid.Is(err) {
				t.Errorf("pushed by a stranger: %v", err)
			}
			if err := push("to", all); err != nil {
				t.Errorf("copied by a reader: %v", err)
			}
			if err := f.DeleteManifest(t.Context(), "from", ref.Digest); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Undelete(t.Context(), "from", ref.Digest); err != nil {
				t.Errorf("undeleted: %v", err)
			}
			if err := f.ExportJournal(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "new.db")
			report, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: path, Blobs: f.root, Schema: dbtest.Schema(t)})
			if err != nil || report.Manifests != 2 {
				t.Errorf("rebuilt: %+v, %v", report, err)
			}
			rebuilt := openAt(t, path, f.root)
			if got, err := rebuilt.read("to", layer.Digest); err != nil || got != "layer" {
				t.Errorf("rebuilt: %q, %v", got, err)
			}
		})
	}
}

// An index is a manifest whose children have sizes.
func TestWrongSizeOfChild(t *testing.T) {
	f := newFixture(t)
	child := f.put("a", "v1", image(f.blob("a", "config")))
	child.Size++
	content, mediaType := encode(index(child))
	put := registry.Put{Ref: tag("multi"), MediaType: mediaType, Content: content}
	if _, err := f.PutManifest(t.Context(), "a", put); !registry.ManifestInvalid.Is(err) {
		t.Error(err)
	}
	put.AnySize = true
	if _, err := f.PutManifest(t.Context(), "a", put); err != nil {
		t.Error(err)
	}
}

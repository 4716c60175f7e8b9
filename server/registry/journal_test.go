package registry_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server/backup"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// measuredJournal remembers the longest piece that was added to the journal at once.
type measuredJournal struct {
	*blobs.Dir
	longest int
}

func (m *measuredJournal) AppendJournal(ctx context.Context, size int64, lines []byte) error {
	m.longest = max(m.longest, len(lines))
	return m.Dir.AppendJournal(ctx, size, lines)
}

// However large the manifests are that were pushed since the last time, few of them are in memory at once, and all of
// them arrive.
func TestJournalOfLargeManifests(t *testing.T) {
	f := newFixture(t)
	m := &measuredJournal{Dir: f.store}
	f.Registry = registry.New(registry.Config{DB: f.db, Blobs: m})
	config := f.blob("a", "config")
	large := func(i int) {
		x := image(config)
		x.Annotations = map[string]string{"x": strings.Repeat(string(rune('a'+i)), 3<<20)}
		f.put("a", fmt.Sprint("v", i), x)
	}
	large(0)
	large(1)
	large(2)
	large(3)
	for range 2 { // the first writes all of it, the second what is new
		if err := f.ExportJournal(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			large(4 + i)
		}
	}
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if m.longest > 16<<20 {
		t.Errorf("%d MiB at once", m.longest>>20)
	}
	report, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: filepath.Join(t.TempDir(), "new.db"), Blobs: f.root, Schema: dbtest.Schema(t)})
	if err != nil || report.Manifests != 12 || report.Tags != 12 || report.Broken != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	r, err := m.OpenJournal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := io.Copy(io.Discard, r); err != nil || n < 12*3<<20 {
		t.Error(n, err)
	}
}

// A manifest that does not say what it is may be pushed again as something else, and is rebuilt as that.
func TestJournalOfMediaTypes(t *testing.T) {
	f := newFixture(t)
	content := []byte(`{"schemaVersion":2}`)
	ref := registry.Reference{Digest: digest.FromBytes(content)}
	for _, mediaType := range []string{"application/x.one", "application/x.two"} {
		if _, err := f.PutManifest(t.Context(), "a", registry.Put{Ref: ref, MediaType: mediaType, Content: content}); err != nil {
			t.Fatal(err)
		}
		if err := f.ExportJournal(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "new.db")
	if _, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: path, Blobs: f.root, Schema: dbtest.Schema(t)}); err != nil {
		t.Fatal(err)
	}
	if m, err := openAt(t, path, f.root).Manifest(t.Context(), "a", ref); err != nil || m.MediaType != "application/x.two" {
		t.Errorf("%+v, %v", m, err)
	}
}

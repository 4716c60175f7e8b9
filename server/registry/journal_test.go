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
	"registry/server/registry"
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
		if err := f.ExportJournal(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			large(4 + i)
		}
	}
	if err := f.ExportJournal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.longest > 16<<20 {
		t.Errorf("%d MiB at once", m.longest>>20)
	}
	report, _, err := registry.Rebuild(t.Context(), registry.RebuildOptions{DB: filepath.Join(t.TempDir(), "new.db"), Blobs: f.root, Schema: dbtest.Schema(t)})
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

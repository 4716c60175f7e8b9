package power

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// controls break the server in one place each. A rig that does not notice proves nothing.
var controls = []struct {
	name, file, old, new string
	masked               string // why nothing is lost all the same, on file systems that can be tested here
}{
	{name: "a blob is not flushed", file: "blobs/durable.go",
		old: "return info, f.Sync()\n",
		new: "return info, nil\n"},
	{name: "a blob is flushed before it has its name", file: "blobs/durable.go",
		old: "if err := moveNew(from, to); err != nil {\n\t\treturn Info{}, err\n\t}\n\tinfo, err := syncFile(to, size)\n",
		new: "info, err := syncFile(from, size)\n\tif err := moveNew(from, to); err != nil {\n\t\treturn Info{}, err\n\t}\n"},
	{name: "new directories are not flushed", file: "blobs/durable.go",
		old:    "if err := syncDir(parent); err != nil {",
		new:    "if err := error(nil); err != nil {",
		masked: "a journal takes a directory together with its entry in the parent, so the flush of the shard brings both"},
	{name: "row before bytes", file: "server/registry/upload.go",
		old: "stamp, err := r.blobs.Commit(ctx, u.ID, name, u.Size)\n",
		new: "defer r.blobs.Commit(ctx, u.ID, name, u.Size)\n\tstamp, err := int64(1), error(nil)\n"},
	{name: "blob is relaxed", file: "server/registry/upload.go",
		old: "r.db.Update(ctx, func(tx *db.Tx) error {\n\t\tif time.Now()",
		new: "r.db.Relaxed(ctx, func(tx *db.Tx) error {\n\t\tif time.Now()"},
	{name: "Update is NORMAL", file: "db/writer.go",
		old: `mode = "PRAGMA synchronous = FULL"`,
		new: `mode = "PRAGMA synchronous = NORMAL"`},
	{name: "Update is OFF", file: "db/writer.go",
		old: `mode = "PRAGMA synchronous = FULL"`,
		new: `mode = "PRAGMA synchronous = OFF"`},
	{name: "mount is relaxed", file: "server/registry/pull.go",
		old: "err = r.db.Update(ctx, func(tx *db.Tx) error {\n\t\tb, err = source",
		new: "err = r.db.Relaxed(ctx, func(tx *db.Tx) error {\n\t\tb, err = source"},
	{name: "manifest is relaxed", file: "server/registry/push.go",
		old: "err = r.db.Update(ctx, put)\n\tif",
		new: "err = r.db.Relaxed(ctx, put)\n\tif"},
	{name: "deletion of a tag is relaxed", file: "server/registry/manage.go",
		old: "r.db.Reclaim(ctx, func(tx *db.Tx) error {\n\t\tif _, err := tx.StatTaggedManifest",
		new: "r.db.Relaxed(ctx, func(tx *db.Tx) error {\n\t\tif _, err := tx.StatTaggedManifest"},
	{name: "deletion of a manifest is relaxed", file: "server/registry/manage.go",
		old: "r.db.Reclaim(ctx, func(tx *db.Tx) error {\n\t\tm, err",
		new: "r.db.Relaxed(ctx, func(tx *db.Tx) error {\n\t\tm, err"},
	{name: "deletion of a blob is relaxed", file: "server/registry/manage.go",
		old: "r.db.Reclaim(ctx, func(tx *db.Tx) error {\n\t\tb, err",
		new: "r.db.Relaxed(ctx, func(tx *db.Tx) error {\n\t\tb, err"},
	{name: "name of a new database is not flushed", file: "db/db.go",
		old:    "return errors.Join(inherit(f, filepath.Dir(path)), f.Close(), syncDir(filepath.Dir(path)))",
		new:    "return f.Close()",
		masked: "SQLite flushes the folder for the journal that makes the file, and again for the log"},
}

func TestControls(t *testing.T) {
	if os.Getenv("POWER_CONTROLS") != "1" {
		t.Skip("set POWER_CONTROLS=1 to see whether a broken server is found")
	}
	const enough, masked = 300, 50 // cycles: most are found in less than ten, the rarest in some dozens
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range controls {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			binary := build(t, "-overlay", overlay(t, filepath.Join(root, c.file), c.old, c.new))
			for _, kind := range []string{"ext4", "xfs"} {
				t.Run(kind, func(t *testing.T) {
					t.Parallel()
					r := newRig(t, kind, binary)
					cycles := enough
					if c.masked != "" {
						cycles = masked
					}
					n := r.run(cycles)
					switch {
					case len(r.lost) > 0:
						t.Logf("found in cycle %d: %s", n, r.lost[0])
					case c.masked != "":
						t.Logf("nothing lost in %d cycles: %s", n, c.masked)
					default:
						t.Errorf("not found in %d cycles with %d operations", n, r.acknowledged)
					}
				})
			}
		})
	}
}

// What the controls break has to be there to be broken.
func TestControlsFit(t *testing.T) {
	for _, c := range controls {
		t.Run(c.name, func(t *testing.T) { overlay(t, filepath.Join("../..", c.file), c.old, c.new) })
	}
}

// overlay returns a file for go build -overlay that has one text of a source file replaced by another.
func overlay(t *testing.T, path, old, new string) string {
	t.Helper()
	source, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), old); n != 1 {
		t.Fatalf("%s has %q %d times", path, old, n)
	}
	broken, list := filepath.Join(t.TempDir(), "broken.go"), filepath.Join(t.TempDir(), "overlay.json")
	text, _ := json.Marshal(map[string]any{"Replace": map[string]string{path: broken}})
	if err := os.WriteFile(broken, []byte(strings.Replace(string(source), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return list
}

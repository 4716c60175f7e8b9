package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"registry/db"
	"registry/db/dbtest"
)

// oldDatabase makes a database as the program of a version left it.
func oldDatabase(t *testing.T, version int, content string) (path string) {
	t.Helper()
	schema, err := os.ReadFile(fmt.Sprintf("testdata/schema-%d.sql", version))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "reg.db")
	query(t, path, string(schema)+fmt.Sprintf("; PRAGMA journal_mode = WAL; PRAGMA application_id = %d; PRAGMA user_version = %d;", 0x72656769, version)+content)
	return path
}

// query runs SQL beside the package, and returns what it answers as text.
func query(t *testing.T, path, text string) (lines []string) {
	t.Helper()
	c, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rows, err := c.QueryContext(context.Background(), text)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		line := ""
		for _, v := range values {
			line += fmt.Sprintf("%v|", *v.(*any))
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

// shape describes the tables, columns, keys and indexes of a database, whatever text made them.
func shape(t *testing.T, path string) (lines []string) {
	for _, table := range query(t, path, `SELECT name, wr, strict FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite_%'`) {
		name, _, _ := strings.Cut(table, "|")
		lines = append(lines, table)
		for _, pragma := range []string{"table_xinfo", "foreign_key_list"} {
			for _, line := range query(t, path, fmt.Sprintf(`SELECT * FROM pragma_%s('%s')`, pragma, name)) {
				lines = append(lines, name+" "+pragma+" "+line)
			}
		}
		for _, line := range query(t, path, fmt.Sprintf(`SELECT l.name, l."unique", i.* FROM pragma_index_list('%s') l JOIN pragma_index_xinfo(l.name) i`, name)) {
			lines = append(lines, name+" index "+line)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestUpgrade(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "fresh.db")
	dbtest.OpenAt(t, fresh, nil)
	const common = `
		INSERT INTO repositories (id, name, created_at) VALUES (1, 'a', 10), (2, 'b', 20);
		INSERT INTO blobs (id, digest, size, generation, created_at) VALUES (1, x'010000000000000000000000000000000000000000000000000000000000000000', 5, 'g', 30);
		INSERT INTO repository_blobs VALUES (2, 1, 40);
		INSERT INTO manifests VALUES (7, 2, x'010000000000000000000000000000000000000000000000000000000000000000', 'm', 2, 50, 50, x'7b7d');
		INSERT INTO tags (repository_id, name, manifest_id, updated_at) VALUES (2, 'v1', 7, 60);
		INSERT INTO uploads (id, repository, algorithm, size, hash_state, boot_id, updated_at) VALUES ('u', 'a', 'sha256', 3, x'00', 'boot', 70);`
	content := map[int]string{
		1: common + `INSERT INTO manifest_blobs VALUES (7, 1);`,
		2: common + `INSERT INTO manifest_blobs VALUES (7, 1, 2); UPDATE blobs SET verified_at = 30; UPDATE uploads SET created_at = 70;`,
		3: common + `INSERT INTO manifest_blobs VALUES (7, 1, 2); UPDATE blobs SET verified_at = 30; UPDATE uploads SET created_at = 70;
			INSERT INTO usage (repository_id) VALUES (1); INSERT INTO usage (repository_id, manifests, blobs, alone) VALUES (2, 2, 5, 5);`,
	}
	content[4] = content[3]
	for version, rows := range content {
		path := oldDatabase(t, version, rows)
		before := shape(t, path)
		d := dbtest.OpenAt(t, path, nil)
		if got, want := shape(t, path), shape(t, fresh); !slices.Equal(got, want) {
			t.Errorf("version %d becomes\n%s\nnot\n%s", version, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		got := query(t, path, `SELECT repository_id, blob_id FROM manifest_blobs UNION ALL SELECT verified_at, damaged_at FROM blobs UNION ALL SELECT created_at, size FROM uploads`)
		if want := []string{"2|1|", "30|0|", "70|3|"}; !slices.Equal(got, want) {
			t.Errorf("version %d: %q, want %q", version, got, want)
		}
		got = query(t, path, `SELECT name, public FROM repositories UNION ALL SELECT id, owner FROM uploads`)
		if want := []string{"a|0|", "b|0|", "u||"}; !slices.Equal(got, want) { // nothing is public that was not said to be
			t.Errorf("version %d: %q, want %q", version, got, want)
		}
		got = query(t, path, `SELECT * FROM usage ORDER BY repository_id`)
		if want := []string{"-1|0|0|0|0|0|", "0|0|0|0|0|0|", "1|0|0|0|0|0|", "2|2|5|5|0|0|"}; !slices.Equal(got, want) {
			t.Errorf("version %d: %q, want %q", version, got, want)
		}
		err := d.View(t.Context(), func(tx *db.Tx) error {
			m, err := tx.TaggedManifest("b", "v1")
			if string(m.Content) != "{}" {
				t.Errorf("%+v", m)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if !slices.Equal(shape(t, fmt.Sprintf("%s.schema-%d", path, version)), before) {
			t.Errorf("the copy of version %d has another shape than the original had", version)
		}
	}
}

// A program of the old version may still serve the database: the new one does not change it under its feet.
func TestUpgradeOfADatabaseInUse(t *testing.T) {
	path := oldDatabase(t, 1, "")
	c, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := c.QueryRowContext(t.Context(), "SELECT count(*) FROM tags").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Open(t.Context(), db.Options{Path: path, Schema: dbtest.Schema(t)}); !errors.Is(err, db.ErrInUse) {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	dbtest.OpenAt(t, path, nil)
}

// An upgrade that fails on its way leaves what was there.
func TestUpgradeIsOneTransaction(t *testing.T) {
	path := oldDatabase(t, 1, `CREATE TABLE notes (x INTEGER);`) // in the way of the last statement of the step
	before := shape(t, path)
	for range 2 {
		if _, err := db.Open(t.Context(), db.Options{Path: path, Schema: dbtest.Schema(t)}); err == nil || !strings.Contains(err.Error(), "upgrade") {
			t.Error(err)
		}
	}
	if got := shape(t, path); !slices.Equal(got, before) {
		t.Errorf("%s\nbecame\n%s", strings.Join(before, "\n"), strings.Join(got, "\n"))
	}
	if got := query(t, path, "PRAGMA user_version"); got[0] != "1|" {
		t.Error(got)
	}
}

func TestSnapshot(t *testing.T) {
	d := dbtest.Open(t)
	if err := d.Update(t.Context(), func(tx *db.Tx) error { _, err := tx.MakeRepository("a", false); return err }); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy.db")
	for range 2 { // the second replaces the first
		if err := d.Snapshot(t.Context(), to); err != nil {
			t.Fatal(err)
		}
	}
	err := dbtest.OpenAt(t, to, nil).View(t.Context(), func(tx *db.Tx) error {
		_, err := tx.RepositoryID("a")
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

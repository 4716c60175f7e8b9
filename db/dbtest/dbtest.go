// Package dbtest opens real databases for tests.
package dbtest

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"registry/db"
)

// Open returns a new database with the schema of schema.sql, closed when the test ends.
func Open(t testing.TB) *db.DB { return OpenAt(t, filepath.Join(t.TempDir(), "reg.db"), nil) }

// Twice says whether DBTEST_TWICE=1 has every function of a write transaction run twice. Every test passes with it.
func Twice() bool { return os.Getenv("DBTEST_TWICE") == "1" }

// OpenAt opens the database at path, with a clock of the test's own unless now is nil.
func OpenAt(t testing.TB, path string, now func() time.Time) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{Path: path, Schema: Schema(t), Now: now, Twice: Twice()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, ok := t.(*testing.T); ok { // benchmarks have large ones
			sumsAreRight(t, d)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// sumsAreRight compares what the database says of its usage with what it has, whatever the test did.
func sumsAreRight(t testing.TB, d *db.DB) {
	var wrong int64
	err := d.View(context.Background(), func(tx *db.Tx) (err error) { wrong, err = tx.WrongUsages(); return err })
	if err == nil && wrong != 0 { // a test may have broken the database
		t.Errorf("the usage of %d repositories is wrong", wrong)
	}
}

// Schema reads schema.sql, which package main embeds and no package below it can.
func Schema(t testing.TB) string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "..", "..", "schema.sql"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

//go:build unix

package registry_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"registry/db/dbtest"
	"registry/server/backup"
)

// A new database takes the place of a file, past symbolic links, and of nothing else.
func TestDatabasesReplaceFiles(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config 1")))
	dir, at := filepath.Join(t.TempDir(), "backup"), t.TempDir()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	pipe, link, real := filepath.Join(dir, "reg.db"), filepath.Join(at, "link.db"), filepath.Join(at, "real.db")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err == nil {
		t.Error("a backup was made where a pipe is")
	}
	if err := os.Remove(pipe); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(at, "fifo.db")
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.WriteFile(real, nil, 0o600), os.Symlink("real.db", link)); err != nil {
		t.Fatal(err)
	}
	opt := backup.RestoreOptions{From: dir, DB: fifo, Blobs: filepath.Join(at, "blobs"), Replace: true}
	if _, _, err := backup.Restore(t.Context(), opt); err == nil {
		t.Error("a pipe became a database")
	}
	if _, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: fifo, Blobs: opt.Blobs, Schema: dbtest.Schema(t), Replace: true}); err == nil {
		t.Error("a pipe became a rebuilt database")
	}
	if info, err := os.Lstat(fifo); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Error("the pipe is gone", err)
	}
	opt.DB = link
	if _, _, err := backup.Restore(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != "real.db" {
		t.Error("the link was replaced", err)
	}
	openAt(t, real, opt.Blobs).pull("a", "v1", "config 1")
}

package db_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"registry/db"
	"registry/db/dbtest"
)

const serviceUser = 65534

// What root makes beside the database of another user belongs to that user: the service could not open it otherwise.
func TestRootGivesWhatItMakes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := filepath.Join(t.TempDir(), "service")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, serviceUser, serviceUser); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "reg.db")
	d := dbtest.OpenAt(t, path, time.Now)
	if err := d.Update(t.Context(), func(tx *db.Tx) error { return tx.SetNote("a", "b") }); err != nil {
		t.Fatal(err)
	}
	if err := d.KeepBallast(); err != nil {
		t.Fatal(err)
	}
	if err := d.Snapshot(t.Context(), filepath.Join(dir, "copy.db")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 5 { // reg.db with -wal, -shm and -turn, copy.db
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Sys().(*syscall.Stat_t).Uid != serviceUser {
			t.Errorf("%s is root's", e.Name())
		}
	}
}

// A database that takes the place of another one has its owner, whoever the directory belongs to.
func TestInheritOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	fresh, path := filepath.Join(dir, "fresh"), filepath.Join(dir, "reg.db")
	for _, name := range []string{fresh, path} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(path, serviceUser, serviceUser); err != nil {
		t.Fatal(err)
	}
	if err := db.InheritOwner(fresh, path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(fresh); err != nil || info.Sys().(*syscall.Stat_t).Uid != serviceUser {
		t.Error("the new database is root's", err)
	}
	// The owner of the directory may have put a link there: root must not give away what it points at.
	if err := os.Remove(fresh); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, fresh); err != nil {
		t.Fatal(err)
	}
	if err := db.InheritOwner(fresh, path); err == nil {
		t.Error("a symbolic link was followed")
	}
	if info, err := os.Stat(secret); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Error("what a link points at was given away", err)
	}
}

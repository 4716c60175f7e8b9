package db

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// On a disk without a free byte a database is opened again, with what the ballast kept, and things can be removed.
func TestOpenOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip("no file system to fill:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "reg.db")
	d := openHere(t, path)
	if err := d.KeepBallast(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "everything else"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(struct{ io.Writer }{f}, zeros{}); err == nil {
		t.Fatal("the disk is not full")
	}
	d = openHere(t, path)
	defer d.Close()
	if err := d.Reclaim(t.Context(), func(tx *Tx) error { return tx.SetNote("a", "b") }); err != nil {
		t.Error(err)
	}
}

// A ballast that a killed process did not come to fill is made again.
func TestBallastOfAKilledProcess(t *testing.T) {
	d := &DB{path: filepath.Join(t.TempDir(), "reg.db")}
	ballast := d.path + ballasts[0]
	for _, path := range []string{d.path, ballast} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.KeepBallast(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(ballast); err == nil && info.Size() == 0 {
		t.Error("the empty file is still there")
	}
}

package db

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Without room for it a database is not written anew, and says how much it takes.
func TestCompactWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Skip("no file system to fill:", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "reg.db")
	d := openOld(t, path)
	defer d.Close()
	bloat(t, d)
	if err := os.WriteFile(filepath.Join(dir, "everything else"), make([]byte, 20<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	size := sizeOf(t, path)
	if _, _, err := d.Compact(t.Context()); !errors.Is(err, ErrNoRoom) || sizeOf(t, path) != size {
		t.Errorf("%d bytes of %d, %v", sizeOf(t, path), size, err)
	}
	wantWhole(t, d)
}

//go:build unix

package db

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// noFollow refuses to open a symbolic link: the owner of the database may have made it, and root would follow.
const noFollow = syscall.O_NOFOLLOW

// inherit gives a file that root has just made to the owner of path. SQLite does the same with its log and the index of
// that, so that another user's database stays of use to that user.
func inherit(f *os.File, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
		return f.Chown(int(s.Uid), int(s.Gid))
	}
	return nil
}

// InheritOwner gives a closed database that root made to the owner of path, or of its directory if path is missing.
func InheritOwner(fresh, path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|noFollow, 0)
	if err != nil {
		return err
	}
	err = inherit(f, path)
	if errors.Is(err, os.ErrNotExist) {
		err = inherit(f, filepath.Dir(path))
	}
	return errors.Join(err, f.Close())
}

// mayWrite says why this process cannot write to a file or a directory, nil if it can.
func mayWrite(path string) error {
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err != nil {
		return &os.PathError{Op: "write to", Path: path, Err: err}
	}
	return nil
}

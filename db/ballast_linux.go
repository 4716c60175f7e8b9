package db

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ballastFor returns how much the disk of a file can spare: a sixteenth of what is free, which leaves room to come
// back to when the disk has been full; nothing if that is too little to be of use.
func ballastFor(path string) (int64, error) {
	free, err := freeBytes(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	const useful = 256 << 10
	size := min(ballastSize, free/16)
	if size < useful {
		return 0, nil
	}
	return size, nil
}

// freeBytes returns how many bytes the disk of a directory has for this process.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// reserve gives a file real blocks. errCannotReserve if its file system cannot.
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		err = errCannotReserve
	}
	return err
}

package db

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile locks an open file until it is closed, ErrServed if it is locked. What is locked is a byte far beyond the
// text, because no other process can read what is locked.
func lockFile(f *os.File) error {
	const far = 1 << 30 // in units of 4 GiB
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{OffsetHigh: far})
	if err == windows.ERROR_LOCK_VIOLATION {
		return ErrServed
	}
	return err
}

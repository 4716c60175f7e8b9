//go:build unix

package db

import (
	"os"

	"golang.org/x/sys/unix"
)

// turn is a queue of the processes that write to a database: a lock on a file beside it. A process that dies leaves it.
// Without the file, writers ask for SQLite's lock whenever they like, which is as safe and less fair.
type turn struct{ f *os.File }

func openTurn(path string) *turn {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return &turn{}
	}
	return &turn{f}
}

// take waits for the turn. The caller calls release.
func (t *turn) take() (release func()) {
	if t.f == nil || flock(t.f, unix.LOCK_EX) != nil {
		return func() {}
	}
	return func() { flock(t.f, unix.LOCK_UN) }
}

func flock(f *os.File, how int) (err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), how)
	}
	return err
}

func (t *turn) close() {
	if t.f != nil {
		t.f.Close()
	}
}

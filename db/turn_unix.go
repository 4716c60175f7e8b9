//go:build unix

package db

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// turn is a queue of the processes that write to a database: a lock on a file beside it. A process that dies leaves it.
// Without the file, writers ask for SQLite's lock whenever they like, which is as safe and less fair.
//
// A process that stands still does not leave it. So nobody waits for the turn for long, and after that
// only once it has been free again.
type turn struct {
	f     *os.File
	stuck bool
}

func openTurn(database string) *turn {
	f, err := openOwned(database+"-turn", database)
	if err != nil {
		return &turn{}
	}
	return &turn{f: f}
}

// take waits for the turn, and goes without it when patience ends. The caller calls release.
func (t *turn) take(patience time.Duration) (release func()) {
	if t.f == nil {
		return func() {}
	}
	const pause = 200 * time.Microsecond
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		err := flock(t.f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			t.stuck = false
			return func() { flock(t.f, unix.LOCK_UN) }
		}
		if err != unix.EWOULDBLOCK || t.stuck || time.Now().After(deadline) {
			t.stuck = true
			return func() {}
		}
	}
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

package db

import (
	"errors"
	"os"
)

// Removing something from a database needs room for the log first. On a disk without a free byte nothing could ever be
// removed, so a file keeps a little room that is given up then. It lies beside the database because that is the disk
// that has to have the room.

// ballastSize is enough for the log of the collector's first batches; what they free pays for the next ones.
const ballastSize = 4 << 20

// KeepBallast makes the ballast file if it is missing and the disk has plenty of room for it. It returns whether the
// ballast is there. On a file system that cannot reserve space there is none.
func (d *DB) KeepBallast() (kept bool, err error) {
	if info, err := os.Stat(d.ballast()); err == nil && info.Size() > 0 {
		return true, nil
	} else if err == nil { // a process was killed in the middle of making it
		if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, err
		}
	}
	size, err := ballastFor(d.ballast())
	if err != nil || size == 0 {
		return false, err
	}
	f, err := os.OpenFile(d.ballast(), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if err := errors.Join(reserve(f, size), f.Close()); err != nil {
		return false, errors.Join(err, os.Remove(d.ballast()))
	}
	return true, nil
}

func (d *DB) ballast() string { return d.path + "-ballast" }

// dropBallast gives the room free. It returns whether there was any.
func (d *DB) dropBallast() bool {
	if err := os.Remove(d.ballast()); err != nil {
		return false
	}
	d.log.Warn("the disk is full: the reserve is given up so that things can be removed")
	return true
}

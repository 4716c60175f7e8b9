package db

import (
	"errors"
	"os"
)

// Removing something from a database needs room for the log first. On a disk without a free byte nothing could ever be
// removed, so two files keep a little room that is given up then: one by whoever deletes, the other by the collector
// only, or many small deletions would leave it nothing. They lie beside the database because that is the disk that has
// to have the room.
var ballasts = []string{"-ballast", "-ballast2"}

// ballastSize, of each, is enough for the log of the collector's first batches; what they free pays for the next ones.
const ballastSize = 4 << 20

// KeepBallast makes the ballast files if they are missing and the disk has plenty of room for them. On a file system that
// cannot reserve space there are none.
func (d *DB) KeepBallast() error {
	for _, suffix := range ballasts {
		if err := keepBallast(d.path+suffix, d.path); err != nil {
			return err
		}
	}
	return nil
}

func keepBallast(path, database string) error {
	if info, err := os.Stat(path); err == nil && info.Size() > 0 {
		return nil
	} else if err == nil { // a process was killed in the middle of making it
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	size, err := ballastFor(path)
	if err != nil || size == 0 {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(inherit(f, database), reserve(f, size), f.Close())
	if err == nil {
		return nil
	}
	if errors.Is(err, errCannotReserve) {
		return os.Remove(path)
	}
	return errors.Join(err, os.Remove(path))
}

var errCannotReserve = errors.New("the file system cannot reserve space")

// dropBallast gives room free: the first ballast, or with last the next one that is left. It returns whether there was
// any.
func (d *DB) dropBallast(last bool) bool {
	for i, suffix := range ballasts {
		if i > 0 && !last {
			break
		}
		if os.Remove(d.path+suffix) == nil {
			d.log.Warn("the disk is full: a reserve is given up so that things can be removed")
			return true
		}
	}
	return false
}

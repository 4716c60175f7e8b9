package db

import (
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// The few words this package has for failure, wrapped with %w.
var (
	ErrNotFound = errors.New("no such row")
	ErrConflict = errors.New("row exists or is still needed") // a constraint of the schema
	ErrBusy     = errors.New("database is busy")              // another process held the write lock for longer than busyTimeout
	ErrFull     = errors.New("database disk is full")
	ErrCorrupt  = errors.New("database is damaged")
)

// errCannotOpen means that SQLite could not open or make a file, and does not say why.
var errCannotOpen = errors.New("a file of the database cannot be opened")

// wrap puts one of this package's words before what the driver said.
func wrap(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		return err
	}
	if se.Code() == sqlite3.SQLITE_IOERR_SHMSIZE { // the index of the log, which the first to open the database makes
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	switch se.Code() & 0xff { // the low byte is the primary code, the rest says more
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: %w", ErrFull, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case sqlite3.SQLITE_READONLY: // the numbers of these two say nothing to a person
		return ErrReadOnly
	case sqlite3.SQLITE_CANTOPEN:
		return errCannotOpen
	case sqlite3.SQLITE_CONSTRAINT:
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

// isIOError says whether the disk failed, otherwise than by being full.
func isIOError(err error) bool {
	var se *sqlite.Error
	return errors.As(err, &se) && se.Code()&0xff == sqlite3.SQLITE_IOERR
}

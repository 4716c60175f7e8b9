package db

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/jmoiron/sqlx"
)

// ErrReadOnly is returned for writes to a database that can only be read.
var ErrReadOnly = errors.New("the database can only be read")

// ReadOnly says whether the database can only be read, because it lies where this process may not write. Every write
// fails with ErrReadOnly then.
func (d *DB) ReadOnly() bool { return d.writer == nil }

// unwritable says why a database that is there cannot be written, nil if it can: SQLite makes files beside it.
func unwritable(path string) error {
	if _, err := os.Stat(path); err != nil {
		return nil // opening it says why
	}
	if err := mayWrite(filepath.Dir(path)); err != nil {
		return err
	}
	return mayWrite(path)
}

// openReadOnly opens a database on a medium, or in a directory, where this process cannot write. why is the reason.
func openReadOnly(ctx context.Context, opt Options, why error) (_ *DB, err error) {
	bindDriver()
	d := &DB{path: opt.Path, now: opt.Now, log: opt.Log, readers: make(chan *conn, readers), stop: func() {}}
	f, err := os.Open(opt.Path) // whose error says more than SQLite's
	if err != nil {
		return nil, err
	}
	f.Close()
	for _, dsn := range readOnlyDSNs(opt.Path) {
		if err = d.openReaders(ctx, dsn); err == nil {
			return d, nil
		}
	}
	if log, statErr := os.Stat(opt.Path + "-wal"); statErr == nil && log.Size() > 0 {
		return nil, fmt.Errorf("it was not closed in good order, and its log cannot be folded in where it is: %w; copy the files to where they can be written", why)
	}
	return nil, err
}

// readOnlyDSNs are the ways to open a database for reading, in the order in which they are tried. Where there is the index
// of the log another process may be writing, which sees the directory with other rights. Where there is no log, nothing
// writes, and SQLite need not make an index, which it could not.
func readOnlyDSNs(path string) (all []string) {
	dsn := func(more url.Values) string {
		more.Set("mode", "ro")
		more["_pragma"] = []string{fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "foreign_keys(ON)", "temp_store(MEMORY)", "cache_size(-8000)"}
		return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), OmitHost: true}).String() + "?" + more.Encode()
	}
	if _, err := os.Stat(path + "-shm"); err == nil {
		all = append(all, dsn(url.Values{}))
	}
	if log, err := os.Stat(path + "-wal"); err != nil || log.Size() == 0 {
		all = append(all, dsn(url.Values{"immutable": {"1"}}))
	}
	return all
}

// openReaders opens the connections of a database that is only read.
func (d *DB) openReaders(ctx context.Context, dsn string) (err error) {
	if d.pool, err = sqlx.Open("sqlite", dsn); err != nil {
		return wrap(err)
	}
	defer func() {
		if err != nil {
			for len(d.readers) > 0 {
				(<-d.readers).close()
			}
			err = errors.Join(err, d.pool.Close())
		}
	}()
	for range readers {
		r, err := d.connect(ctx, readerPragmas)
		if err != nil {
			return err
		}
		d.readers <- r
	}
	return d.read(ctx, func(c *conn) error { return checkReadable(ctx, c) })
}

// checkReadable refuses what prepare would refuse, or upgrade.
func checkReadable(ctx context.Context, c *conn) error {
	var version, application int
	if err := errors.Join(c.GetContext(ctx, &version, "PRAGMA user_version"), c.GetContext(ctx, &application, "PRAGMA application_id")); err != nil {
		return wrap(err)
	}
	switch {
	case application != applicationID:
		return errors.New("this SQLite file is not a registry's database")
	case version > schemaVersion:
		return fmt.Errorf("schema version %d was written by a newer program, this one knows %d: run the newer one", version, schemaVersion)
	case version < schemaVersion:
		return fmt.Errorf("it is of schema version %d, and has to be upgraded to %d where it can be written", version, schemaVersion)
	}
	return inspect(ctx, c)
}

// plain puts a reason that a person understands in place of SQLite's when it cannot open a file.
func plain(path string, err error) error {
	if !errors.Is(err, errCannotOpen) {
		return err
	}
	if why := mayWrite(filepath.Dir(path)); why != nil {
		return why
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if _, statErr := os.Stat(path + suffix); statErr == nil {
			if why := mayWrite(path + suffix); why != nil {
				return why
			}
		}
	}
	return err
}

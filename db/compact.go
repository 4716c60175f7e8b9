package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// What is removed from the database leaves free pages in its file, which what is added later uses. The file of a new
// database can also give them back, a few at a time, in transactions like any other (PRAGMA auto_vacuum, "incremental"):
// collection does that when there are more than will be used soon. The file of an older one has to be written anew for it.

// initialize gives a database without a byte what has to be said before its first page.
func initialize(ctx context.Context, path string) (err error) {
	if info, err := os.Stat(path); err != nil || info.Size() > 0 {
		return err
	}
	c, err := openFile(path, "page_size(4096)", "auto_vacuum(INCREMENTAL)", "journal_mode(WAL)")
	if err != nil {
		return err
	}
	return errors.Join(wrap(c.PingContext(ctx)), c.Close())
}

// Pages are what the file of a database consists of.
type Pages struct {
	All, Free  int64
	GivesBack  bool // free ones can be given back
	sizeOfPage int64
}

// pages reads them.
func (c *conn) pages(ctx context.Context) (p Pages, err error) {
	var mode int
	err = errors.Join(
		c.GetContext(ctx, &p.All, "PRAGMA page_count"), c.GetContext(ctx, &p.Free, "PRAGMA freelist_count"),
		c.GetContext(ctx, &p.sizeOfPage, "PRAGMA page_size"), c.GetContext(ctx, &mode, "PRAGMA auto_vacuum"))
	const incremental = 2
	p.GivesBack = mode == incremental
	return p, wrap(err)
}

// Bytes is the size of the file when the log is folded in.
func (p Pages) Bytes() int64 { return p.All * p.sizeOfPage }

// Spare is how many free pages are more than will be used soon: an eighth of those in use, or a megabyte, stays.
func (p Pages) Spare() int64 {
	const least = 256
	return max(0, p.Free-max(least, (p.All-p.Free)/8))
}

// Pages returns what the file consists of, as of this transaction.
func (tx *Tx) Pages() (Pages, error) { return tx.conn.pages(context.Background()) }

// GiveBack gives up to n free pages back, at least one, moving pages in use from the end of the file into their place. The
// file gets shorter when the log is folded in.
func (tx *Tx) GiveBack(n int) error {
	size := 1
	for size*2 <= n { // few statements, which stay prepared
		size *= 2
	}
	// A row without a column for each page.
	return tx.rows(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", size), nil, func(*sql.Rows) error { return nil })
}

// ErrNoRoom means that there is not enough room on the disk to write the database anew.
var ErrNoRoom = errors.New("there is not enough room to write the database anew")

// Compact writes the database anew without its free pages, so that from then on it can also give pages back by itself. It
// returns the size of the file in bytes before and after. Others who write wait for it, those who read do not. It needs
// room for two copies beside the database, or fails with ErrNoRoom before it begins. Interrupted, it has changed nothing.
func (d *DB) Compact(ctx context.Context) (before, after int64, err error) {
	c, err := d.connect(ctx, []string{
		"temp_store(FILE)", // not in memory
		"temp_store_directory('" + strings.ReplaceAll(filepath.Dir(d.path), "'", "''") + "')",
	})
	if err != nil {
		return 0, 0, err
	}
	defer c.close()
	turn := openTurn(d.path + "-turn")
	defer turn.close()
	defer turn.take(turnWait)()
	if _, err := c.checkpoint(ctx, restartWAL); err != nil && !errors.Is(err, ErrBusy) {
		return 0, 0, err
	}
	p, err := c.pages(ctx)
	if err != nil {
		return 0, 0, err
	}
	before = p.Bytes()
	if err := d.roomFor(2 * (p.All - p.Free) * p.sizeOfPage); err != nil {
		return before, before, err
	}
	for _, statement := range []string{"PRAGMA auto_vacuum = INCREMENTAL", "VACUUM"} {
		if _, err := c.ExecContext(ctx, statement); err != nil {
			return before, before, wrap(err)
		}
	}
	if p, err = c.pages(ctx); err != nil {
		return before, before, err
	}
	return before, p.Bytes(), d.fold(ctx)
}

// fold makes the file as short as its pages allow, waiting a moment for those who read.
func (d *DB) fold(ctx context.Context) error {
	const tries = 50
	for n := 1; ; n++ {
		err := d.Checkpoint(ctx)
		if !errors.Is(err, ErrBusy) || n == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// roomFor fails with ErrNoRoom if the disk has not so many bytes, and some to spare.
func (d *DB) roomFor(size int64) error {
	const spare = 16 << 20
	free, err := freeBytes(filepath.Dir(d.path))
	if err != nil {
		return err
	}
	if free < size+spare {
		return fmt.Errorf("%w: it takes %d MiB, and %d MiB are free", ErrNoRoom, (size+spare)>>20, free>>20)
	}
	return nil
}

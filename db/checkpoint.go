package db

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The log is folded into the database beside the writer, never by it: copying thousands of pages and syncing them would
// keep everybody waiting who commits meanwhile.
const (
	foldAfter = 2048    // pages that are worth it: 8 MiB
	longLog   = 16384   // pages after which the log is begun anew, for which the writer has to wait: 64 MiB
	idleFold  = 4 << 20 // bytes of a log that is cut to nothing when there is time
)

// What becomes of the log's file when all of it is in the database.
const (
	truncateWAL = "PRAGMA wal_checkpoint(TRUNCATE)" // its room is free for others
	restartWAL  = "PRAGMA wal_checkpoint(RESTART)"  // its room is for what is written next
	keepLog     = "PRAGMA wal_checkpoint(PASSIVE)"  // it goes on; nobody waits, and what is in use by a reader stays
	lookOnly    = "PRAGMA wal_checkpoint(NOOP)"     // nothing: how long it is
)

// checkpoint folds the log into the database, on a connection of its own that gives up soon if a reader or another writer
// is in the way.
func (w *writer) checkpoint(ctx context.Context, mode string) error {
	if w == nil {
		return ErrReadOnly
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	c, err := w.db.connect(ctx, []string{"busy_timeout(100)"})
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.checkpoint(ctx, mode)
	return err
}

// checkpoint runs a checkpoint and returns how many pages of the log are not in the database afterwards, and how long the log
// is. ErrBusy if the checkpoint could not do all that was asked.
func (c *conn) checkpoint(ctx context.Context, mode string) (l logPages, err error) {
	var busy, folded int
	if err := c.QueryRowxContext(ctx, mode).Scan(&busy, &l.all, &folded); err != nil {
		return l, wrap(err)
	}
	l.waiting = l.all - folded
	if busy != 0 {
		err = fmt.Errorf("%w: %d of %d pages of the log are folded in", ErrBusy, folded, l.all)
	}
	return l, err
}

// logPages are pages of the log.
type logPages struct{ all, waiting int }

// checkpoints keeps the log short: while others write by folding it in again and again, and once a minute by cutting it
// to nothing, so that a start is quick. Readers in the way postpone that: the log then grows until the next try, which
// Stats.WALBytes shows.
func (d *DB) checkpoints(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-d.writer.grown:
			err = d.foldGrown(ctx)
		case <-tick.C:
			if d.Stats().WALBytes >= idleFold {
				err = d.writer.checkpoint(ctx, truncateWAL)
			}
		}
		if err != nil && ctx.Err() == nil {
			d.log.Warn("checkpoint postponed", "err", err)
		}
	}
}

// foldGrown folds the log in if it has grown enough. Under a load that never pauses it would not come to an end by itself.
func (d *DB) foldGrown(ctx context.Context) error {
	c, err := d.connect(ctx, []string{"busy_timeout(1000)"})
	if err != nil {
		return err
	}
	defer c.close()
	l, err := c.checkpoint(ctx, lookOnly)
	if err == nil && l.waiting >= foldAfter {
		l, err = c.checkpoint(ctx, keepLog)
	}
	if err == nil && l.all >= longLog {
		turn := openTurn(d.path)
		defer turn.close()
		defer turn.take(turnWait)() // nobody would leave the lock free for long enough
		_, err = c.checkpoint(ctx, restartWAL)
	}
	if errors.Is(err, ErrBusy) {
		err = nil // the next one will do
	}
	return err
}

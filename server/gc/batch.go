package gc

import (
	"context"
	"errors"
	"time"

	"registry/blobs"
	"registry/db"
)

// How a collection removes without being in the way: in transactions that are short for as long as others write, with
// the files after their rows.

const (
	// A transaction removes as much as takes so long: others wait for it if they write, too. Nobody waits longer than
	// that, however slow the machine is. Then, if somebody else writes, a pause follows that is politePause times as long,
	// and others count as writing until they have not for politeTime: a client between two pushes is still there.
	aloneBatch, politeBatch = 10 * time.Millisecond, 300 * time.Microsecond
	maxBatch                = 200
	politePause             = 50
	politeTime              = 2 * time.Second
	firstLook               = 200 * time.Millisecond // for so long somebody is taken to write before it is known
	// flushAfter is how many files wait for the removal of their rows to become durable.
	flushAfter = 200
)

// view reads, unless the time is used up.
func (c *collector) view(ctx context.Context, fn func(*db.Tx) error) error {
	if err := c.enough(); err != nil {
		return err
	}
	return errors.Join(ctx.Err(), c.db.View(ctx, fn))
}

// enough returns errEnough when the time is used up.
func (c *collector) enough() error {
	if !c.stop.IsZero() && time.Now().After(c.stop) {
		return errEnough
	}
	return nil
}

// inBatches calls remove for a list, as much of it at a time as others can bear. On a full disk, where every page of the
// log is dear, it goes on with less.
func inBatches[T any](c *collector, list []T, remove func([]T) error) error {
	for len(list) > 0 {
		n := min(c.batch, len(list))
		err := remove(list[:n])
		if errors.Is(err, db.ErrFull) && !c.full {
			c.full, c.batch = true, min(c.batch, 8)
			continue
		}
		if err != nil {
			return err
		}
		list = list[n:]
		c.adapt(n)
	}
	return nil
}

// adapt chooses the size of the next batch by the time that one of n has taken.
func (c *collector) adapt(n int) {
	bearable := aloneBatch
	if c.isBusy() || c.full {
		bearable = politeBatch
	}
	fits := int(bearable * time.Duration(n) / max(c.took, time.Microsecond))
	c.batch = max(1, min(fits, 2*n, maxBatch))
}

// writesOfOthers counts the transactions in this process that were not the collector's.
func (c *collector) writesOfOthers() uint64 { return c.db.Transactions() - c.lock.Writes() }

// isBusy says whether others write, too.
func (c *collector) isBusy() bool { return time.Since(c.seen) < politeTime }

// sweep removes in one transaction, and lets others write after it if there are any.
func (c *collector) sweep(ctx context.Context, fn func(*db.Tx) error) error {
	return c.sweepWith(ctx, c.lock.Relaxed, fn)
}

func (c *collector) sweepWith(ctx context.Context, write func(context.Context, func(*db.Tx) error) error, fn func(*db.Tx) error) error {
	if err := c.enough(); err != nil {
		return err
	}
	var version int64
	timed := func(tx *db.Tx) (err error) {
		began := time.Now()
		defer func() { c.took = time.Since(began) }()
		if version, err = tx.Version(); err != nil {
			return err
		}
		return fn(tx)
	}
	err := write(ctx, timed)
	if errors.Is(err, db.ErrFull) && len(c.gone) > 0 { // the files that wait are room
		if err = c.flush(ctx); err == nil {
			err = write(ctx, timed)
		}
	}
	c.report.LongestLock = max(c.report.LongestLock, c.took)
	if c.opt.Progress != nil {
		c.opt.Progress(c.report)
	}
	if others := c.writesOfOthers(); version != c.version || others != c.others {
		if c.version != 0 { // else it is the first time that we look
			c.seen = time.Now()
		}
		c.version, c.others = version, others
	}
	if err == nil && c.isBusy() && !c.opt.DryRun {
		time.Sleep(min(politePause*c.took, 100*time.Millisecond))
	}
	return err
}

// remove adds files whose rows a sweep has removed to those that wait.
func (c *collector) remove(ctx context.Context, list []db.StoredBlob) error {
	if c.gone = append(c.gone, list...); len(c.gone) < flushAfter && !c.full {
		return nil
	}
	return c.flush(ctx)
}

// flush makes the removal of rows durable and removes their files. One that cannot be removed is an orphan for later.
func (c *collector) flush(ctx context.Context) error {
	if len(c.gone) == 0 {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	if err := c.lock.Update(ctx, func(*db.Tx) error { return nil }); err != nil {
		return err
	}
	for _, b := range c.gone {
		if err := c.store.Remove(ctx, blobs.Name{Digest: b.Digest, Generation: b.Generation}); err != nil {
			c.log.Warn("a file stays for a later collection", "digest", b.Digest, "generation", b.Generation, "err", err)
			continue
		}
		c.report.Blobs++
		c.report.Bytes += b.Size
		c.opt.Found(Garbage{Kind: "blob", Digest: b.Digest, Bytes: b.Size, Why: "no repository has it"})
	}
	c.gone = c.gone[:0]
	return nil
}

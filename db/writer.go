package db

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"
)

// ErrClosed is returned for writes after Close.
var ErrClosed = errors.New("database is closed")

// maxGroup bounds a group of functions that commit together, so that the first does not wait for the last for long.
const maxGroup = 256

// A write is one function on its way through the writer.
type write struct {
	fn      func(*Tx) error
	durable bool
	taken   atomic.Bool // by the writer, which then runs fn; or by a caller that gave up, and nobody does
	done    chan error  // receives one result
}

// writer runs every write transaction, one after the other, on one connection.
//
// An fsync takes longer than most transactions. So functions that arrive while a commit is under way run together in
// the next transaction, each within its own savepoint, and are answered after the one commit: at 16 clients three
// times, on a busy disk eight times as many as one by one, and no slower for a single client.
type writer struct {
	db      *DB
	conn    *conn
	queue   chan *write
	closing chan struct{}
	closed  chan struct{}
	full    bool // PRAGMA synchronous is FULL on the connection
	turn    *turn
	torn    bool // the disk may not have pages of the log that SQLite believes it has
	sums    sums // of the group
	wrote   uint // groups since the checkpointer was last woken
	grown   chan struct{}
}

func newWriter(d *DB, c *conn) *writer {
	w := &writer{db: d, conn: c, queue: make(chan *write, maxGroup), closing: make(chan struct{}), closed: make(chan struct{}), full: true, turn: openTurn(d.path), grown: make(chan struct{}, 1)}
	go w.run()
	return w
}

// close lets what is queued finish and returns when the connection is closed.
func (w *writer) close() {
	if w == nil {
		return
	}
	close(w.closing)
	<-w.closed
}

// do queues fn and waits for its result. A caller whose context ends before fn has begun gets the context's error and
// fn never runs; later the result is waited for, since fn may use what the caller owns.
func (w *writer) do(ctx context.Context, fn func(*Tx) error, durable bool) error {
	if w == nil {
		return ErrReadOnly
	}
	r := &write{fn: fn, durable: durable, done: make(chan error, 1)}
	select {
	case w.queue <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-w.closed:
		return ErrClosed
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
	case <-w.closed:
		if r.taken.CompareAndSwap(false, true) {
			return ErrClosed
		}
	}
	return <-r.done
}

func (w *writer) run() {
	defer close(w.closed)
	defer w.conn.close()
	defer w.turn.close()
	var next *write // begins the next group: it did not fit into the last one
	for {
		if next == nil {
			select {
			case next = <-w.queue:
			default:
				select {
				case next = <-w.queue:
				case <-w.closing:
					return
				}
			}
		}
		next = w.group(next)
	}
}

// group commits first and whatever else is queued in one transaction and answers them. It returns a write that it took
// from the queue but that has to begin the next group.
func (w *writer) group(first *write) (next *write) {
	var ran []*write
	var errs []error
	err := w.begin(first.durable)
	for r := first; r != nil; {
		if r.taken.CompareAndSwap(false, true) {
			ran = append(ran, r)
			if err == nil {
				var result error
				result, err = w.runOne(r.fn)
				errs = append(errs, result)
			}
		}
		if len(ran) == maxGroup {
			break
		}
		select {
		case r = <-w.queue:
			// A group that began without fsync cannot change its mind in the middle of a transaction.
			if r.durable && !w.full {
				next, r = r, nil
			}
		default:
			r = nil
		}
	}
	if err = w.end(err); err != nil {
		w.torn = w.torn || isIOError(err)
	}
	w.wake()
	w.db.stats.groups.Add(1)
	w.db.stats.transactions.Add(uint64(len(ran)))
	for i, r := range ran {
		// What fn returned may rest on what others of its group wrote, so a failed commit is everybody's failure.
		if err != nil {
			r.done <- err
		} else {
			r.done <- errs[i]
		}
	}
	return next
}

// wake has the checkpointer look at the log now and then.
func (w *writer) wake() {
	const often = 32
	if w.wrote++; w.wrote < often {
		return
	}
	w.wrote = 0
	select {
	case w.grown <- struct{}{}:
	default:
	}
}

func (w *writer) begin(durable bool) error {
	if w.torn {
		// A failed sync is told once, and the kernel then forgets the pages it could not write: those of earlier relaxed
		// transactions too. The next sync would succeed without them, and after a power cut the log would end at the
		// first one, with whatever was acknowledged behind it. So nothing more goes behind them: they are copied into
		// the database, from memory, and the log begins anew.
		if err := w.checkpoint(context.Background(), truncateWAL); err != nil {
			return err
		}
		w.torn = false
	}
	if durable != w.full {
		mode := "PRAGMA synchronous = NORMAL"
		if durable {
			mode = "PRAGMA synchronous = FULL"
		}
		if err := w.conn.exec(mode); err != nil {
			return err
		}
		w.full = durable
	}
	return w.lock()
}

// turnWait is how long a write waits for its turn.
const turnWait = 5 * time.Second

// lock begins a write transaction, which another process may be in the middle of. A server that commits one group after
// the other leaves the lock free for microseconds only, so whoever asked for it from time to time would hardly ever get
// it. Therefore writers queue: the one that has the turn asks again and again, and the others wait until it has the lock.
func (w *writer) lock() error {
	const pause = 200 * time.Microsecond
	release := w.turn.take(turnWait)
	defer release()
	for deadline := time.Now().Add(busyTimeout); ; time.Sleep(pause) {
		err := w.conn.exec("BEGIN IMMEDIATE")
		if !errors.Is(err, ErrBusy) || time.Now().After(deadline) {
			return err
		}
	}
}

// end commits the transaction, or takes it back if it was lost. If it fails nothing of the group remains, as far as the
// disk lets us know.
func (w *writer) end(lost error) error {
	err := lost
	if err == nil {
		err = w.sums.write(&Tx{conn: w.conn})
	}
	if err == nil {
		err = w.conn.exec("COMMIT")
	}
	if err != nil {
		// SQLite has rolled back by itself after some errors, and then has nothing to roll back.
		w.conn.exec("ROLLBACK")
		w.sums = sums{}
	}
	return err
}

// runOne runs fn within a savepoint, so that its failure takes back its own changes and no others. If the disk fails, or
// is full, SQLite takes back the whole transaction: lost says so. Whatever ran after that would not be part of it.
func (w *writer) runOne(fn func(*Tx) error) (err, lost error) {
	if err := w.conn.exec("SAVEPOINT one"); err != nil {
		return err, err
	}
	if w.db.twice {
		call(fn, &Tx{conn: w.conn, Now: w.db.now()})
		if err := w.conn.exec("ROLLBACK TO one"); err != nil {
			return err, err
		}
	}
	tx := &Tx{conn: w.conn, Now: w.db.now()}
	if err := call(fn, tx); err != nil {
		back := errors.Join(w.conn.exec("ROLLBACK TO one"), w.conn.exec("RELEASE one"))
		if back != nil {
			lost = errors.Join(err, back)
		}
		return err, lost
	}
	w.sums.merge(tx.sums)
	err = w.conn.exec("RELEASE one")
	return err, err
}

// call turns a panic of fn into an error: the goroutine it would end serves everybody.
func call(fn func(*Tx) error, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a transaction: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(tx)
}

package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"registry/db"
)

// Collection, backup and repair exclude each other across processes by a row that their holder touches every second.
// One that stops doing so, because it was killed or hangs, loses the row to the next. Since every write of such work
// proves in its own transaction that the row is still held, a holder that comes back too late can do no harm.
const (
	lockName = "storage"
	lockBeat = time.Second
	lockLost = 5 * time.Second // without a beat, as seen by who waits
	// LockWait is long enough for a killed holder to lose a lock.
	LockWait = 8 * time.Second
)

// ErrLocked is returned when other work that excludes this one is under way, in this process or another.
var ErrLocked = errors.New("the registry is being maintained by another process")

// MaintenanceLock is held by work that excludes other work.
type MaintenanceLock struct {
	r      *Registry
	lock   string
	holder string
	writes atomic.Uint64 // transactions of the work itself
}

// WithMaintenanceLock runs work while it holds the lock of storage. It waits for another holder for a moment, and then fails with
// ErrLocked. The context that work gets ends when the lock is lost.
func (r *Registry) WithMaintenanceLock(ctx context.Context, purpose string, work func(context.Context, *MaintenanceLock) error) error {
	begin := func(fn func(*db.Tx) error) error { return r.db.Collect(ctx, true, fn) }
	return r.withLock(ctx, lockName, purpose, LockWait, begin, work)
}

// withLock is alone for any lock. begin runs the transactions that take it.
func (r *Registry) withLock(ctx context.Context, lock, purpose string, wait time.Duration, begin func(func(*db.Tx) error) error,
	work func(context.Context, *MaintenanceLock) error,
) error {
	x := &MaintenanceLock{r: r, lock: lock, holder: rand.Text()}
	if r.db.ReadOnly() {
		return work(ctx, x) // which nothing else can be in the way of
	}
	host, _ := os.Hostname()
	if err := x.take(ctx, fmt.Sprintf("%s by process %d on %s", purpose, os.Getpid(), host), wait, begin); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var beating sync.WaitGroup
	beating.Go(func() { x.beat(ctx, cancel) })
	err := work(ctx, x)
	if lost := context.Cause(ctx); errors.Is(lost, ErrLocked) {
		err = lost
	}
	cancel(nil)
	beating.Wait()
	dropping := r.db.Relaxed(context.WithoutCancel(ctx), func(tx *db.Tx) error { return tx.DropLock(lock, x.holder) })
	if dropping != nil {
		r.log.Warn("a lock was not given back; it is free when its beat has not moved for a while", "lock", lock, "err", dropping)
	}
	return err
}

// beats remembers since when the beats of other holders have not moved, from one try to the next.
type beats struct {
	mu   sync.Mutex
	seen map[string]sighting // by lock
}

type sighting struct {
	db.Lock
	since time.Time
}

// still returns for how long a lock has been seen as it is.
func (b *beats) still(name string, l db.Lock, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.seen[name]
	if !ok || s.Lock != l || now.Before(s.since) {
		if b.seen == nil {
			b.seen = map[string]sighting{}
		}
		s = sighting{l, now}
		b.seen[name] = s
	}
	return now.Sub(s.since)
}

// take takes the lock. Whether another holder lives is seen by its beat, which moves: no clock is asked what time it is,
// only how much of it passes.
func (x *MaintenanceLock) take(ctx context.Context, purpose string, wait time.Duration, begin func(func(*db.Tx) error) error) error {
	const pause = lockBeat / 4
	var other, dead db.Lock
	for waited, still := time.Duration(0), time.Duration(0); ; waited, still = waited+pause, still+pause {
		before, taken := other, false
		err := begin(func(tx *db.Tx) (err error) {
			other, taken, err = tx.TakeLock(x.lock, x.holder, purpose, dead)
			return err
		})
		if err != nil {
			return AsError(err)
		}
		if taken {
			return nil
		}
		if other != before {
			still = 0
		}
		if max(still, x.r.beats.still(x.lock, other, x.r.db.Now())) >= lockLost && dead != other {
			dead = other
			continue
		}
		if waited >= wait {
			return fmt.Errorf("%w: %s", ErrLocked, other.Purpose)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (x *MaintenanceLock) beat(ctx context.Context, lost context.CancelCauseFunc) {
	tick := time.NewTicker(lockBeat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := x.r.db.Relaxed(ctx, x.held(func(*db.Tx) error { return nil }))
		if errors.Is(err, ErrLocked) {
			lost(err)
			return
		}
	}
}

// StillHeld fails with ErrLocked if the lock was lost.
func (x *MaintenanceLock) StillHeld(ctx context.Context) error {
	if x.r.db.ReadOnly() {
		return nil
	}
	return x.Update(ctx, func(*db.Tx) error { return nil })
}

// Update is a durable write of the work, and relaxed one that a later Update makes durable. They fail with ErrLocked if
// the lock was lost.
func (x *MaintenanceLock) Update(ctx context.Context, fn func(*db.Tx) error) error {
	return x.r.db.Collect(ctx, true, x.held(fn))
}

func (x *MaintenanceLock) Relaxed(ctx context.Context, fn func(*db.Tx) error) error {
	return x.r.db.Collect(ctx, false, x.held(fn))
}

// Spare is relaxed for what can be left undone: it gives up no reserve on a full disk.
func (x *MaintenanceLock) Spare(ctx context.Context, fn func(*db.Tx) error) error {
	return x.r.db.Relaxed(ctx, x.held(fn))
}

// SeizeMaintenanceLock takes the lock from whoever holds it, and does not keep it alive: only who works on a copy of a
// database may.
func (r *Registry) SeizeMaintenanceLock(ctx context.Context, purpose string) (*MaintenanceLock, error) {
	x := &MaintenanceLock{r: r, lock: lockName, holder: rand.Text()}
	err := r.db.Relaxed(ctx, func(tx *db.Tx) error {
		if err := tx.DropLocks(); err != nil {
			return err
		}
		_, _, err := tx.TakeLock(lockName, x.holder, purpose, db.Lock{})
		return err
	})
	return x, err
}

// Writes counts the transactions of the work itself.
func (x *MaintenanceLock) Writes() uint64 { return x.writes.Load() }

func (x *MaintenanceLock) held(fn func(*db.Tx) error) func(*db.Tx) error {
	return func(tx *db.Tx) error {
		x.writes.Add(1)
		if err := tx.BeatLock(x.lock, x.holder); err != nil {
			if errors.Is(err, db.ErrNotFound) {
				err = fmt.Errorf("%w, which took over from this one", ErrLocked)
			}
			return err
		}
		return fn(tx)
	}
}

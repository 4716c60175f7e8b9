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
	lockLost = 5 * time.Second // without a beat
	lockWait = 8 * time.Second // long enough for a killed holder to lose the lock
)

// ErrLocked is returned when other work that excludes this one is under way, in this process or another.
var ErrLocked = errors.New("the registry is being maintained by another process")

// exclusive is work that holds the lock.
type exclusive struct {
	r      *Registry
	holder string
	writes atomic.Uint64 // transactions of the work itself
}

// alone runs work while it holds the lock. It waits for another holder for a moment, and then fails with ErrLocked. The
// context that work gets ends when the lock is lost.
func (r *Registry) alone(ctx context.Context, purpose string, work func(context.Context, *exclusive) error) error {
	x := &exclusive{r: r, holder: rand.Text()}
	host, _ := os.Hostname()
	if err := x.take(ctx, fmt.Sprintf("%s by process %d on %s", purpose, os.Getpid(), host)); err != nil {
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
	dropping := r.db.Relaxed(context.WithoutCancel(ctx), func(tx *db.Tx) error { return tx.DropLock(lockName, x.holder) })
	if dropping != nil {
		r.log.Warn("the maintenance lock was not given back; it runs out by itself", "err", dropping)
	}
	return err
}

func (x *exclusive) take(ctx context.Context, purpose string) error {
	for waited := time.Duration(0); ; waited += lockBeat / 4 {
		var other db.Lock
		taken := false
		err := x.r.db.Collect(ctx, true, func(tx *db.Tx) (err error) {
			other, taken, err = tx.TakeLock(lockName, x.holder, purpose, tx.Now.Add(-lockLost))
			return err
		})
		if err != nil {
			return AsError(err)
		}
		if taken {
			return nil
		}
		if waited >= lockWait {
			return fmt.Errorf("%w: %s", ErrLocked, other.Purpose)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockBeat / 4):
		}
	}
}

func (x *exclusive) beat(ctx context.Context, lost context.CancelCauseFunc) {
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

// update is a durable write of the work, and relaxed one that a later update makes durable. They fail with ErrLocked if
// the lock was lost.
func (x *exclusive) update(ctx context.Context, fn func(*db.Tx) error) error {
	return x.r.db.Collect(ctx, true, x.held(fn))
}

func (x *exclusive) relaxed(ctx context.Context, fn func(*db.Tx) error) error {
	return x.r.db.Collect(ctx, false, x.held(fn))
}

func (x *exclusive) held(fn func(*db.Tx) error) func(*db.Tx) error {
	return func(tx *db.Tx) error {
		x.writes.Add(1)
		if err := tx.BeatLock(lockName, x.holder); err != nil {
			if errors.Is(err, db.ErrNotFound) {
				err = fmt.Errorf("%w, which took over from this one", ErrLocked)
			}
			return err
		}
		return fn(tx)
	}
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"registry/blobs"
	"registry/db"

	"golang.org/x/time/rate"
)

// After a move to another machine every file looks different, and every client asks for everything before it pushes. So
// whoever only wants to know whether a large blob is there is not kept waiting while it is read: its row and its size
// answer, and it is queued to be read. One that turns out to be damaged is found by that, or by its first reader, and does
// not exist from then on.

const (
	// maxUnread bounds the queue. What does not fit is queued when it is asked for again.
	maxUnread = 10_000
	// rereadRate is how many bytes a second are read for the queue: clients have the rest of the disk and of the processor.
	rereadRate = 64 << 20
)

// unread are the files to be read because they look different, in the order in which they were asked for. The zero value
// is empty.
type unread struct {
	mu      sync.Mutex
	waiting map[blobs.Name]bool
	order   []blobs.Name
	added   chan struct{} // has a value when something was added
}

func (u *unread) add(name blobs.Name) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.waiting[name] || len(u.order) >= maxUnread {
		return
	}
	if u.waiting == nil {
		u.waiting = map[blobs.Name]bool{}
	}
	u.waiting[name] = true
	u.order = append(u.order, name)
	select {
	case u.signal() <- struct{}{}:
	default:
	}
}

// signal is called with the lock.
func (u *unread) signal() chan struct{} {
	if u.added == nil {
		u.added = make(chan struct{}, 1)
	}
	return u.added
}

// next waits for a file. ok is false when ctx has ended.
func (u *unread) next(ctx context.Context) (name blobs.Name, ok bool) {
	for {
		u.mu.Lock()
		added := u.signal()
		if len(u.order) > 0 {
			name = u.order[0]
			u.order = u.order[1:]
			delete(u.waiting, name)
			u.mu.Unlock()
			return name, ctx.Err() == nil
		}
		u.mu.Unlock()
		select {
		case <-added:
		case <-ctx.Done():
			return name, false
		}
	}
}

// reread reads what is queued, one file at a time, until ctx ends.
func (r *Registry) reread(ctx context.Context) {
	limit := rate.NewLimiter(rereadRate, PieceSize)
	for {
		name, ok := r.unread.next(ctx)
		if !ok {
			return
		}
		err := r.rereadOne(ctx, name, func(n int) error { return limit.WaitN(ctx, n) })
		if err != nil && ctx.Err() == nil && !BlobUnknown.Is(err) { // which is logged
			r.log.Error("a file that looks different could not be read", "digest", name.Digest, "err", err)
		}
	}
}

// rereadOne reads a file and notes what it finds, unless it has been read since it was queued or is no longer a blob's.
func (r *Registry) rereadOne(ctx context.Context, name blobs.Name, wait func(int) error) error {
	b, err := r.stored(ctx, name.Digest)
	if errors.Is(err, db.ErrNotFound) || err == nil && b.Generation != name.Generation {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := r.blobs.Stat(ctx, name)
	if err == nil && info.Stamp == b.Stamp {
		return nil
	}
	if err == nil && info.Size != b.Size {
		return r.quarantine(ctx, name, fmt.Errorf("the file has %d bytes, not %d", info.Size, b.Size))
	}
	if err == nil {
		info, err = r.HashFile(ctx, name, b.Size, wait)
	}
	switch {
	case err == nil:
		r.MarkVerified(ctx, name, info.Stamp)
	case errors.Is(err, ErrDamaged):
		err = r.quarantine(ctx, name, err)
	}
	return err
}

package registry

import (
	"context"
	"sync"
	"time"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

// The two ways to go through everything that is stored: by the rows, and by the files.

// walkPage is how many are asked for at a time.
const walkPage = 500

// EachStored calls fn for every blob that a database has, several at a time, until one fails; it returns that error.
func EachStored(ctx context.Context, d *db.DB, parallel int, fn func(context.Context, db.StoredBlob) error) error {
	work := make(chan db.StoredBlob)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for b := range work {
				if err := fn(ctx, b); err != nil {
					cancel(err)
				}
			}
		})
	}
	err := sendStored(ctx, d, work)
	close(work)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func sendStored(ctx context.Context, d *db.DB, work chan<- db.StoredBlob) error {
	for after := int64(0); ; {
		var list []db.StoredBlob
		err := d.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.StoredBlobs(after, walkPage); return err })
		if err != nil || len(list) == 0 {
			return err
		}
		for _, b := range list {
			after = b.ID
			select {
			case work <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// Orphan is a file that no row names.
type Orphan struct {
	blobs.Name
	blobs.Info
}

// IsAhead says whether the clock was ahead when a file was written.
func IsAhead(info blobs.Info) bool { return db.IsAhead(info.Changed, time.Now()) }

// Orphans calls fn for files that no row of a database names and that last changed before a time or are ahead, beginning with those
// of from as Store.Names does, and seen for every file, until one of them fails. next is where to go on then: what came
// before it has been looked at.
func Orphans(ctx context.Context, store blobs.Store, rows *db.DB, from digest.Digest, before time.Time, seen func() error, fn func(Orphan) error) (next digest.Digest, err error) {
	next = from
	var page []Orphan
	flush := func() error {
		found, err := withoutRow(ctx, rows, page)
		for _, o := range found {
			if err == nil {
				err = fn(o)
			}
		}
		page = page[:0]
		return err
	}
	err = store.Names(ctx, from, func(name blobs.Name, info blobs.Info) error {
		if len(page) == 0 {
			next = name.Digest
		}
		if err := seen(); err != nil {
			return err
		}
		if !info.Changed.Before(before) && !IsAhead(info) {
			return nil
		}
		if page = append(page, Orphan{name, info}); len(page) < walkPage {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	return next, err
}

// withoutRow returns those of a page that no row names.
func withoutRow(ctx context.Context, rows *db.DB, page []Orphan) (found []Orphan, err error) {
	err = rows.View(ctx, func(tx *db.Tx) error {
		for _, o := range page {
			stored, err := tx.IsStored(o.Digest, o.Generation)
			if err != nil {
				return err
			}
			if !stored {
				found = append(found, o)
			}
		}
		return nil
	})
	return found, err
}

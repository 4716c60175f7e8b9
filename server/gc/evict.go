package gc

import (
	"context"
	"errors"
	"time"

	"registry/db"
	"registry/server/registry"
)

// Evict removes copies until they take at most limit bytes, beginning with the one that was pulled longest ago: the bytes
// of blobs that only copies need. What was pushed stays, whoever else has a copy of it. The report counts what went.
// ErrLocked as for Collect.
func Evict(ctx context.Context, reg *registry.Registry, limit int64) (Report, error) {
	takes, err := cachedBytes(ctx, reg.Storage().DB)
	if err != nil || takes <= limit {
		return Report{Complete: err == nil}, err
	}
	c := newCollector(reg, Options{})
	c.leases.Leases = c.now.Add(time.Second) // what is loose goes, however new it is
	err = reg.WithMaintenanceLock(ctx, "eviction", func(ctx context.Context, lock *registry.MaintenanceLock) error {
		c.lock, c.batch = lock, 1
		err := c.evict(ctx, limit)
		c.report.Complete = err == nil
		return errors.Join(err, c.flush(ctx))
	})
	return c.report, err
}

func cachedBytes(ctx context.Context, d *db.DB) (n int64, err error) {
	err = d.View(ctx, func(tx *db.Tx) (err error) { n, err = tx.CachedBytes(); return err })
	if err != nil {
		return 0, registry.AsError(err)
	}
	return n, nil
}

// evict removes the oldest copies while all of them take more than limit bytes.
func (c *collector) evict(ctx context.Context, limit int64) error {
	const page = 100 // after so many it is added up again
	for last := (db.Idle{LeasedAt: time.UnixMicro(0)}); ; {
		takes, err := cachedBytes(ctx, c.db)
		if err != nil || takes <= limit {
			return err
		}
		var oldest []db.Idle
		err = c.view(ctx, func(tx *db.Tx) (err error) { oldest, err = tx.OldestCached(last, page); return err })
		if err != nil || len(oldest) == 0 {
			return err
		}
		for _, last = range oldest {
			freed, err := c.evictOne(ctx, last)
			if err != nil {
				return err
			}
			if takes -= freed; takes <= limit {
				break
			}
		}
	}
}

func (c *collector) evictOne(ctx context.Context, i db.Idle) (freed int64, err error) {
	var loose []db.StoredBlob
	gone := false
	err = c.sweep(ctx, func(tx *db.Tx) error {
		loose = loose[:0]
		var ids []int64
		may, err := tx.MayEvict(i)
		if gone = err == nil && may; gone {
			ids, err = tx.Evict(i)
		}
		for _, id := range ids {
			if err == nil {
				loose, err = c.loosen(tx, id, loose)
			}
		}
		return err
	})
	if err != nil || !gone {
		return 0, err
	}
	for _, b := range loose {
		freed += b.Size
	}
	c.report.Manifests++
	return freed, c.remove(ctx, loose)
}

package gc

import (
	"context"
	"errors"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// What a collection does, phase by phase. Each phase reads a page of candidates, and removes them in small transactions
// that ask again.

// markPage is how many candidates are read at a time.
const markPage = 500

// beginAnew gives a time to what a clock that was ahead has left behind.
func (c *collector) beginAnew(ctx context.Context) error {
	for n := int64(1); n > 0; {
		err := c.sweep(ctx, func(tx *db.Tx) (err error) { n, err = tx.BeginAnew(maxBatch); return err })
		if err != nil {
			return err
		}
	}
	return nil
}

// forgetDeleted ends the undo of what was deleted before the window.
func (c *collector) forgetDeleted(ctx context.Context) error {
	before := c.now.Add(-c.opt.UndoWindow)
	for {
		var expired []db.DeletedManifest
		err := c.view(ctx, func(tx *db.Tx) (err error) {
			expired, err = tx.ExpiredDeletions(before, markPage)
			return err
		})
		if err != nil || len(expired) == 0 {
			return err
		}
		err = inBatches(c, expired, func(some []db.DeletedManifest) error { return c.forget(ctx, some, before) })
		if err != nil {
			return err
		}
	}
}

func (c *collector) forget(ctx context.Context, expired []db.DeletedManifest, before time.Time) error {
	var gone []db.DeletedManifest
	err := c.sweep(ctx, func(tx *db.Tx) error {
		gone = gone[:0]
		for _, m := range expired {
			err := tx.ForgetDeleted(m.ID, before)
			if err == nil {
				gone = append(gone, m)
			} else if !errors.Is(err, db.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range gone {
		c.report.Deleted++
		c.opt.Found(Garbage{Kind: "deleted", Repository: m.Repository, Digest: m.Digest,
			Why: "it was deleted before the undo window", Since: m.DeletedAt})
	}
	return nil
}

func (c *collector) sweepUntagged(ctx context.Context) error {
	if !c.opt.Untagged {
		return nil
	}
	cut := c.leases
	cut.Leases = c.now.Add(-max(c.opt.UntaggedAfter, c.opt.Grace))
	for again := true; again; {
		before := c.report.Manifests
		postponed, err := c.sweepManifests(ctx, "no tag, index or subject holds it",
			func(tx *db.Tx, after int64) ([]db.Idle, error) { return tx.UntaggedManifests(after, cut, markPage) },
			func(tx *db.Tx, id int64) ([]db.Idle, bool, error) { return deadHolders(tx, id, cut) })
		if err != nil {
			return err
		}
		again = postponed && c.report.Manifests > before
	}
	return nil
}

// maxHolders bounds what is removed together with a manifest.
const maxHolders = 200

// deadHolders returns a manifest with everything that holds it, if none of it is alive. They go together: an index must
// not be left without its child for the moment in which a tag may bring it back. If there are too many the answer is
// postponed until some of them have gone by themselves.
func deadHolders(tx *db.Tx, id int64, cut db.Cutoff) (dead []db.Idle, postponed bool, err error) {
	holders, err := tx.Holders(id, cut, maxHolders)
	if err != nil {
		return nil, false, err
	}
	for _, h := range holders {
		if h.Alive {
			return nil, false, nil
		}
		dead = append(dead, h.Idle)
	}
	if len(dead) == maxHolders {
		return nil, true, nil
	}
	return dead, false, nil
}

func (c *collector) sweepDangling(ctx context.Context) error {
	_, err := c.sweepManifests(ctx, "its subject is not there",
		func(tx *db.Tx, after int64) ([]db.Idle, error) {
			return tx.DanglingReferrers(after, c.leases, markPage)
		},
		func(tx *db.Tx, id int64) (dead []db.Idle, postponed bool, err error) {
			dead, err = tx.Dangling(id, c.leases)
			return dead, false, err
		})
	return err
}

// sweepManifests removes what garbage says is garbage of what list finds, and asks again in the transaction. Removing an
// index begins no lease of what it held: that ran out with the index's own.
func (c *collector) sweepManifests(ctx context.Context, why string, list func(*db.Tx, int64) ([]db.Idle, error),
	garbage func(*db.Tx, int64) (dead []db.Idle, postponed bool, err error),
) (postponed bool, err error) {
	for after := int64(0); ; {
		var found []int64
		done := false
		err := c.view(ctx, func(tx *db.Tx) error {
			candidates, err := list(tx, after)
			done = len(candidates) == 0
			for _, m := range candidates {
				after = m.ID
				dead, later, err := garbage(tx, m.ID)
				if err != nil {
					return err
				}
				postponed = postponed || later
				if len(dead) > 0 {
					found = append(found, m.ID)
				}
			}
			return err
		})
		if err != nil || done {
			return postponed, err
		}
		if err := inBatches(c, found, func(some []int64) error { return c.removeManifests(ctx, why, some, garbage) }); err != nil {
			return postponed, err
		}
	}
}

func (c *collector) removeManifests(ctx context.Context, why string, ids []int64, garbage func(*db.Tx, int64) ([]db.Idle, bool, error)) error {
	gone := map[int64]db.Idle{}
	err := c.sweep(ctx, func(tx *db.Tx) error {
		clear(gone)
		// All of them are asked before the first is removed: one that goes must not look like a subject that is gone.
		for _, id := range ids {
			dead, _, err := garbage(tx, id)
			if err != nil {
				return err
			}
			if began, err := tx.BeginLeases(dead, c.leases); began || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			for _, m := range dead {
				gone[m.ID] = m
			}
		}
		for _, m := range gone {
			if err := tx.DeleteManifest(db.Manifest{ID: m.ID, RepositoryID: m.RepositoryID, Digest: m.Digest}, c.opt.UndoWindow > 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range gone {
		c.report.Manifests++
		c.opt.Found(Garbage{Kind: "manifest", Repository: m.Repository, Digest: m.Digest, Why: why, Since: m.LeasedAt})
	}
	return nil
}

// sweepLinks takes blobs from repositories that no longer need them, and removes those that no repository has then.
func (c *collector) sweepLinks(ctx context.Context) error {
	for last := (db.Idle{}); ; {
		var idle []db.Idle
		err := c.view(ctx, func(tx *db.Tx) (err error) {
			idle, err = tx.IdleBlobs(last.RepositoryID, last.ID, c.leases, markPage)
			return err
		})
		if err != nil || len(idle) == 0 {
			return err
		}
		last = idle[len(idle)-1]
		if err := inBatches(c, idle, func(some []db.Idle) error { return c.unlink(ctx, some) }); err != nil {
			return err
		}
	}
}

func (c *collector) unlink(ctx context.Context, idle []db.Idle) error {
	var unlinked []db.Idle
	var loose []db.StoredBlob
	err := c.sweep(ctx, func(tx *db.Tx) error {
		unlinked, loose = unlinked[:0], loose[:0]
		for _, i := range idle {
			done, err := tx.UnlinkIdle(i, c.leases)
			if err != nil {
				return err
			}
			if !done {
				continue
			}
			unlinked = append(unlinked, i)
			if loose, err = c.loosen(tx, i.ID, loose); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, i := range unlinked {
		c.report.Links++
		c.opt.Found(Garbage{Kind: "link", Repository: i.Repository, Digest: i.Digest, Why: "no manifest of the repository needs it", Since: i.LeasedAt})
	}
	return c.remove(ctx, loose)
}

// loosen removes the row of a blob and adds it to the list, if nothing has the blob.
func (c *collector) loosen(tx *db.Tx, id int64, loose []db.StoredBlob) ([]db.StoredBlob, error) {
	b, err := tx.RemoveLoose(id, c.leases)
	if errors.Is(err, db.ErrNotFound) {
		return loose, nil
	}
	return append(loose, b), err
}

// sweepBlobs removes the blobs that no repository has, because they or their manifests were deleted.
func (c *collector) sweepBlobs(ctx context.Context) error {
	for after := int64(0); ; {
		var ids []int64
		err := c.view(ctx, func(tx *db.Tx) (err error) {
			ids, err = tx.LooseBlobs(after, c.leases, markPage)
			return err
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		after = ids[len(ids)-1]
		err = inBatches(c, ids, func(some []int64) error {
			var loose []db.StoredBlob
			err := c.sweep(ctx, func(tx *db.Tx) (err error) {
				loose = loose[:0]
				for _, id := range some {
					if loose, err = c.loosen(tx, id, loose); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			return c.remove(ctx, loose)
		})
		if err != nil {
			return err
		}
	}
}

// sweepRepositories removes repositories that have nothing.
func (c *collector) sweepRepositories(ctx context.Context) error {
	for after := int64(0); ; {
		var empty []int64
		err := c.view(ctx, func(tx *db.Tx) (err error) {
			empty, err = tx.EmptyRepositories(after, c.leases, markPage)
			return err
		})
		if err != nil || len(empty) == 0 {
			return err
		}
		after = empty[len(empty)-1]
		err = inBatches(c, empty, func(some []int64) error {
			n := int64(0)
			err := c.sweep(ctx, func(tx *db.Tx) error {
				n = 0
				for _, id := range some {
					done, err := tx.RemoveEmptyRepository(id, c.leases)
					if err != nil {
						return err
					}
					if done {
						n++
					}
				}
				return nil
			})
			if err == nil {
				c.report.Repositories += n
			}
			return err
		})
		if err != nil {
			return err
		}
	}
}

func (c *collector) sweepUploads(ctx context.Context) error {
	if c.opt.DryRun {
		return nil // the server expires them every minute, collection or not
	}
	n, err := c.reg.ExpireUploads(ctx)
	c.report.Uploads += int64(n)
	return err
}

// filesCursor is the note of where an interrupted search for orphans goes on.
const filesCursor = "collection.files"

// sweepFiles removes files that no row names: a crash left them between a file and its row, or between the removal of a
// row and that of its file.
func (c *collector) sweepFiles(ctx context.Context) error {
	var from string
	if err := c.view(ctx, func(tx *db.Tx) (err error) { from, err = tx.Note(filesCursor); return err }); err != nil {
		return err
	}
	before := c.now.Add(-max(c.opt.Grace, registry.MinOrphanAge))
	next, err := registry.Orphans(ctx, c.store, c.rows, digest.Digest(from), before, c.enough, func(o registry.Orphan) error {
		if toucher, ok := c.store.(blobs.Toucher); ok && registry.IsAhead(o.Info) {
			return toucher.Touch(ctx, o.Name)
		} else if registry.IsAhead(o.Info) {
			return nil
		}
		if err := c.store.Remove(ctx, o.Name); err != nil {
			return err
		}
		c.report.Files++
		c.report.Bytes += o.Size
		c.opt.Found(Garbage{Kind: "file", Digest: o.Digest, Bytes: o.Size, Why: "no row names it", Since: o.Changed})
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if err == nil {
		next = ""
	}
	if noting := c.lock.Update(ctx, func(tx *db.Tx) error { return tx.SetNote(filesCursor, next.String()) }); noting != nil {
		return noting
	}
	return err
}

// tidyJournal prunes the changes that are copied to the journal and too old to be undone.
func (c *collector) tidyJournal(ctx context.Context) error {
	if c.opt.DryRun {
		return nil
	}
	if err := c.reg.ExportJournal(ctx, registry.LockWait); err != nil {
		c.log.Warn("the journal beside the blobs is behind", "err", err)
	}
	c.others = c.writesOfOthers() // the export is nobody else
	before := c.now.Add(-max(c.opt.UndoWindow, 0))
	for done := false; !done; {
		n := c.batch
		err := c.sweep(ctx, func(tx *db.Tx) error {
			last, err := registry.JournaledChange(tx)
			if err != nil {
				return err
			}
			pruned, err := tx.PruneChanges(before, last, n)
			done = pruned < int64(n)
			return err
		})
		if err != nil {
			return err
		}
		c.adapt(n)
	}
	return nil
}

// giveBack makes the database's file shorter where it has many more free pages than will be used soon. It is the last thing
// on a disk that was full: it writes to the log first, and what was removed has made room only then.
func (c *collector) giveBack(ctx context.Context) error {
	if c.opt.DryRun {
		return nil
	}
	for spare := int64(1); spare > 0; {
		n := min(int64(c.batch), spare)
		err := c.sweepWith(ctx, c.lock.Spare, func(tx *db.Tx) error {
			before, err := tx.Pages()
			if err != nil || !before.GivesBack || before.Spare() == 0 {
				spare = 0
				return err
			}
			if err := tx.GiveBack(int(min(n, before.Spare()))); err != nil {
				return err
			}
			after, err := tx.Pages()
			spare = after.Spare()
			if after.All >= before.All { // nothing more can be done
				spare = 0
			}
			c.report.Database += before.Bytes() - after.Bytes()
			return err
		})
		if errors.Is(err, db.ErrFull) {
			c.log.Warn("the database keeps its free pages: there is no room to move pages", "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		c.adapt(int(n))
	}
	return nil
}

// compact writes the database anew.
func (c *collector) compact(ctx context.Context) error {
	before, after, err := c.db.Compact(ctx)
	c.report.Database += before - after
	return err
}

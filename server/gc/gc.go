// Package gc collects garbage: it removes what nothing refers to, beside a live server, in its process or another. What it
// relies on:
//
//   - Whatever a client was told is there has a lease (201, a mount, a HEAD), which is as long as the grace, or as long
//     as its push if an upload session of the repository is open.
//   - A candidate is found by reading. In the transaction that removes it the same question is asked again, so that a
//     tag, a manifest or a lease that came meanwhile keeps it.
//   - The row goes first, durably, then the file. A later push of the same content makes another file with another name.
//     Rows are removed a few at a time, so that nobody waits for long, and made durable many at a time.
//   - A file without a row is garbage only when it is older than any push could be between its file and its row.
//
// So it may be killed at any point, and what it did not come to is found by the next one.
package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

const (
	// DefaultGrace is how long a lease lasts, and minGrace how short it may be unless forced: the registry renews leases
	// on that.
	DefaultGrace = 24 * time.Hour
	minGrace     = time.Hour
)

// Options say what may be collected. A zero Grace has to be forced.
type Options struct {
	Grace         time.Duration // how long leases last
	Compact       bool          // write the database anew when all else is done, so that its file is as short as it can be
	Force         bool          // accept a grace under an hour: pushes under way may fail, and have to be made again
	Untagged      bool          // also manifests that neither a tag nor an index nor a subject has held for UntaggedAfter
	UntaggedAfter time.Duration // not less than Grace counts
	UndoWindow    time.Duration // what was deleted longer ago is gone for good
	MaxDuration   time.Duration // stop in good order after so long; 0: no limit. The next one goes on.
	DryRun        bool          // change nothing
	Tmp           string        // directory for the copy of the database that a dry run works on; "": that of the database
	Found         func(Garbage) // called for everything that goes, nil for nobody
	Progress      func(Report)
}

// Garbage is something that collection removes, and why.
type Garbage struct {
	Kind       string            `json:"kind"` // manifest, link (a repository's right to a blob), blob, file, upload, deleted
	Repository registry.RepoName `json:"repository,omitempty"`
	Digest     digest.Digest     `json:"digest,omitempty"`
	Bytes      int64             `json:"bytes"` // that its removal frees
	Why        string            `json:"why"`
	Since      time.Time         `json:"since,omitzero"`
}

// Report counts what a collection removed, or would have.
type Report struct {
	Phase        string        `json:"phase"` // what it is at, or was when it stopped
	Complete     bool          `json:"complete"`
	DryRun       bool          `json:"dryRun"`
	Started      time.Time     `json:"started"`
	Took         time.Duration `json:"tookNanoseconds"`
	Deleted      int64         `json:"deleted"`   // that can no longer be undeleted
	Manifests    int64         `json:"manifests"` // untagged or dangling
	Links        int64         `json:"links"`     // of repositories to blobs
	Blobs        int64         `json:"blobs"`
	Files        int64         `json:"files"` // that no row named
	Uploads      int64         `json:"uploads"`
	Repositories int64         `json:"repositories"` // that had nothing
	Bytes        int64         `json:"bytes"`        // freed, of blobs and files
	Database     int64         `json:"database"`     // freed, of the database's file
	LongestLock  time.Duration `json:"longestLockNanoseconds"`
}

// errEnough stops a collection that has used its time.
var errEnough = errors.New("the time is used up")

// Collect removes what nothing refers to. ErrLocked if another collection or a backup is under way. What was removed
// before an error stays removed; the report says how much.
func Collect(ctx context.Context, reg *registry.Registry, opt Options) (Report, error) {
	if opt.Grace < minGrace && !opt.Force {
		return Report{}, fmt.Errorf("a grace under %s makes pushes fail that are under way; force it if that is meant", minGrace)
	}
	if opt.DryRun {
		return rehearse(ctx, reg, opt)
	}
	if reg.ReadOnly() {
		return Report{}, registry.AsError(db.ErrReadOnly)
	}
	c := newCollector(reg, opt)
	err := reg.WithMaintenanceLock(ctx, "collection", c.run)
	return c.report, err
}

// collector is one run.
type collector struct {
	reg     *registry.Registry
	lock    *registry.MaintenanceLock
	db      *db.DB
	log     *slog.Logger
	opt     Options
	store   blobs.Store
	rows    *db.DB // where the rows of files are looked up: a rehearsal has removed some from its copy
	now     time.Time
	stop    time.Time // zero: never
	leases  db.Cutoff
	full    bool            // the disk is, or was
	batch   int             // how much a transaction removes
	took    time.Duration   // for how long the last one kept others waiting
	seen    time.Time       // when others last wrote
	version int64           // of the database: it changes when another process writes
	others  uint64          // transactions that somebody else made in this process
	gone    []db.StoredBlob // whose rows are removed, but perhaps not durably, and whose files are not
	report  Report
}

func newCollector(reg *registry.Registry, opt Options) *collector {
	at := reg.Storage()
	now := at.DB.Now()
	c := &collector{reg: reg, opt: opt, db: at.DB, store: at.Blobs, log: at.Log, rows: at.DB, now: now, seen: time.Now().Add(firstLook - politeTime), report: Report{Started: now, DryRun: opt.DryRun},
		leases: reg.Cutoff(now, opt.Grace)}
	if opt.MaxDuration > 0 {
		c.stop = time.Now().Add(opt.MaxDuration)
	}
	if c.opt.Found == nil {
		c.opt.Found = func(Garbage) {}
	}
	return c
}

func (c *collector) run(ctx context.Context, lock *registry.MaintenanceLock) error {
	c.lock = lock
	start := time.Now()
	var err error
	for _, phase := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"times from the future", c.beginAnew},
		{"expired deletions", c.forgetDeleted},
		{"untagged manifests", c.sweepUntagged},
		{"dangling referrers", c.sweepDangling},
		{"blobs of repositories", c.sweepLinks},
		{"blobs", c.sweepBlobs},
		{"repositories", c.sweepRepositories},
		{"uploads", c.sweepUploads},
		{"files", c.sweepFiles},
		{"journal", c.tidyJournal},
		{"pages of the database", c.giveBack},
	} {
		c.report.Phase, c.batch = phase.name, 1
		err = phase.run(ctx)
		if flushing := c.flush(ctx); flushing != nil && (err == nil || errors.Is(err, errEnough)) {
			err = flushing
		}
		if err != nil {
			break
		}
	}
	c.report.Took = time.Since(start)
	if c.report.Complete = err == nil; errors.Is(err, errEnough) {
		err = nil
	}
	if c.report.Complete {
		c.report.Phase = "done"
	}
	if c.opt.DryRun {
		return err
	}
	if c.opt.Compact && c.report.Complete {
		err = c.compact(ctx)
	}
	err = errors.Join(err, c.remember(ctx))
	if folding := c.db.Checkpoint(ctx); folding != nil && !errors.Is(folding, db.ErrBusy) {
		c.log.Warn("the database's log was not folded in", "err", folding)
	}
	c.reg.KeepReserve()
	return err
}

// collectionNote is the note with the report of the last run and the sums of all, for metrics and people.
const collectionNote = "collection"

// History is what the collectors of all processes have done.
type History struct {
	Last  Report `json:"last"`
	Runs  int64  `json:"runs"`
	Blobs int64  `json:"blobs"`
	Bytes int64  `json:"bytes"`
}

func (c *collector) remember(ctx context.Context) error {
	return c.db.Collect(context.WithoutCancel(ctx), false, func(tx *db.Tx) error {
		all, err := collections(tx)
		if err != nil {
			return err
		}
		all.Last, all.Runs, all.Blobs, all.Bytes = c.report, all.Runs+1, all.Blobs+c.report.Blobs, all.Bytes+c.report.Bytes
		text, err := json.Marshal(all)
		if err != nil {
			return err
		}
		return tx.SetNote(collectionNote, string(text))
	})
}

func collections(tx *db.Tx) (all History, err error) {
	text, err := tx.Note(collectionNote)
	if err != nil || text == "" {
		return all, err
	}
	return all, json.Unmarshal([]byte(text), &all)
}

// Collections returns what collectors have done so far. Runs is 0 if none has run.
func Collections(ctx context.Context, reg *registry.Registry) (all History, err error) {
	err = reg.Storage().DB.View(ctx, func(tx *db.Tx) (err error) { all, err = collections(tx); return err })
	if err != nil {
		return all, registry.AsError(err)
	}
	return all, nil
}

// rehearse collects on a copy of the database, and removes no file: what it reports is what a collection would do now,
// without anybody waiting for it.
func rehearse(ctx context.Context, reg *registry.Registry, opt Options) (Report, error) {
	at := reg.Storage()
	dir, err := copyDir(at.DB, opt.Tmp)
	if err != nil {
		return Report{}, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "copy-"+strconv.Itoa(os.Getpid())+".db")
	if err := at.DB.Snapshot(ctx, path); err != nil {
		return Report{}, registry.AsError(err)
	}
	copied, err := db.Open(ctx, db.Options{Path: path, Now: at.DB.Now})
	if err != nil {
		return Report{}, registry.AsError(err)
	}
	c := newCollector(reg.Over(copied, untouched{at.Blobs}), opt)
	c.rows = at.DB
	lock, err := c.reg.SeizeMaintenanceLock(ctx, "rehearsal") // who collects for real holds it in the copy, too
	if err == nil {
		err = c.run(ctx, lock)
	}
	return c.report, errors.Join(err, copied.Close())
}

// copyDir makes the directory of a rehearsal's copy: in tmp or, if that is "", beside the database, where there is room for
// databases. What killed processes left there is removed.
func copyDir(d *db.DB, tmp string) (string, error) {
	if tmp == "" {
		tmp = filepath.Dir(d.Path())
	}
	pattern := filepath.Base(d.Path()) + "-dry-run-*"
	left, _ := filepath.Glob(filepath.Join(tmp, pattern))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			os.RemoveAll(path)
		}
	}
	return os.MkdirTemp(tmp, pattern)
}

// untouched is a store that nothing is removed from.
type untouched struct{ blobs.Store }

func (untouched) Remove(context.Context, blobs.Name) error { return nil }

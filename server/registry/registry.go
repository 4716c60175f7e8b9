// Package registry is the registry without HTTP: push, pull, tag, list, delete and copy, as the OCI distribution
// specification defines them. The HTTP server, the command line and everything else that acts on content are callers of
// it; it alone knows both the database and the blob store, and so it alone keeps them in step:
//
//   - Bytes are durable before the row that names them is committed, and the row's removal is committed before the
//     bytes are removed. A crash in between leaves a file that nothing names, never a row without its bytes.
//   - Content is read through a repository that has it. There is no way to ask for a digest alone.
//   - What is answered with success is durable, except how far an upload has come: that survives a killed process if it
//     has come anywhere.
//   - A manifest and everything it changes (links, children, referrers, tags) is one transaction.
//
// Every method fails with an *Error of the table in errors.go.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/match"

	"golang.org/x/sync/singleflight"
)

// Sparse says whether a manifest may name content its repository does not have.
type Sparse int

const (
	SparseNone  Sparse = iota // nothing may be missing
	SparseIndex               // children of an index may
	SparseAll                 // config, layers and children may
)

// ParseSparse reads none, index or all.
func ParseSparse(s string) (Sparse, error) {
	switch s {
	case "none":
		return SparseNone, nil
	case "index":
		return SparseIndex, nil
	case "all":
		return SparseAll, nil
	}
	return 0, fmt.Errorf("%q: want none, index or all", s)
}

// Config is what a registry is made of. Zero fields but the first two have defaults.
type Config struct {
	DB            *db.DB
	Blobs         blobs.Store
	Log           *slog.Logger  // nil: discarded
	Sparse        Sparse        // SparseNone
	UploadTimeout time.Duration // an upload that has not moved for so long expires; 24 h
	MaxUploads    int           // open upload sessions of one repository; 10,000
	UndoWindow    time.Duration // how long deletions can be undone; 7 days, negative: not at all
	JournalEvery  time.Duration // how far the journal beside the blobs may be behind while Maintain runs; 2 s
	Public        bool          // repositories that a push makes are public
	AuditKeep     time.Duration // how long it is remembered who did what; 90 days, negative: for ever
}

const (
	defaultUploadTimeout = 24 * time.Hour
	defaultMaxUploads    = 10_000
	defaultUndoWindow    = 7 * 24 * time.Hour
	defaultJournalEvery  = 2 * time.Second
	defaultAuditKeep     = 90 * 24 * time.Hour
)

// Registry is safe for concurrent use, and several processes may have one each over the same database and store.
type Registry struct {
	*shared
	actor *Actor // nil: nobody in particular
}

// shared is what a Registry has in common with those that As makes of it.
type shared struct {
	db            *db.DB
	blobs         blobs.Store
	log           *slog.Logger
	sparse        Sparse
	uploadTimeout time.Duration
	maxUploads    int
	undoWindow    time.Duration
	journalEvery  time.Duration
	public        bool
	auditKeep     time.Duration
	bootID        string
	reading       singleflight.Group // of suspicious blobs
	unread        unread
	sessions      sessions
	beats         beats
	totals        totalsCache
	globs         match.Cache                            // of immutable tags
	mirrors       func(RepoName) (mirrored, public bool) // nil: none is
}

// New joins a database and a store. The caller closes the database after the last call.
func New(cfg Config) *Registry {
	r := &shared{
		db: cfg.DB, blobs: cfg.Blobs, log: cfg.Log, sparse: cfg.Sparse, uploadTimeout: cfg.UploadTimeout, maxUploads: cfg.MaxUploads,
		undoWindow: cfg.UndoWindow, journalEvery: cfg.JournalEvery, public: cfg.Public, auditKeep: cfg.AuditKeep, bootID: bootID(),
		sessions: sessions{busy: map[string]chan struct{}{}, known: map[string]known{}, empty: map[uploadsOf]int{}},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.uploadTimeout <= 0 {
		r.uploadTimeout = defaultUploadTimeout
	}
	if r.maxUploads <= 0 {
		r.maxUploads = defaultMaxUploads
	}
	if r.undoWindow == 0 {
		r.undoWindow = defaultUndoWindow
	}
	if r.journalEvery <= 0 {
		r.journalEvery = defaultJournalEvery
	}
	if r.auditKeep == 0 {
		r.auditKeep = defaultAuditKeep
	}
	return &Registry{shared: r}
}

// What CheckPair finds when the database and the store do not belong together.
var (
	ErrLostDatabase = errors.New("the database is empty but the blob directory is not: restore the database, rebuild it from what is beside the blobs (registry rebuild), or move the blobs away to start anew")
	ErrLostBlobs    = errors.New("the blob directory has none of the blobs that the database names: is it the right directory? If the blobs are lost, restore them, or move the database away to start anew")
)

// pairedNote is set in a database once it has been served with its blobs.
const pairedNote = "paired"

// CheckPair guards against serving a database beside blobs that are not its own. From a new database beside the blobs of
// a lost one every pull would fail, and a collection would remove everything; beside an empty or a wrong directory
// clients would be told that blobs are there and would not push them again. It returns ErrLostDatabase or ErrLostBlobs
// then. One blob that is found is enough: single lost files are not for the start to find.
func (r *Registry) CheckPair(ctx context.Context) error {
	const tries = 3 // pushes may replace the files of a small registry while they are looked for
	for try := 1; ; try++ {
		err := r.checkPair(ctx)
		if try == tries || !errors.Is(err, ErrLostBlobs) {
			return err
		}
	}
}

func (r *Registry) checkPair(ctx context.Context) error {
	const sample = 20
	var some []db.StoredBlob
	paired := ""
	err := r.db.View(ctx, func(tx *db.Tx) (err error) {
		if some, err = tx.StoredBlobs(0, sample); err == nil {
			paired, err = tx.Note(pairedNote)
		}
		return err
	})
	if err != nil {
		return AsError(err)
	}
	if len(some) > 0 {
		err = r.findOne(ctx, some)
	} else if paired == "" {
		// Later a file without a row is a push under way, or what a crash left of one.
		err = r.blobs.Names(ctx, "", func(blobs.Name, blobs.Info) error { return ErrLostDatabase })
	}
	if err != nil || paired != "" || r.db.ReadOnly() {
		return err
	}
	if err := r.db.Reclaim(ctx, func(tx *db.Tx) error { return tx.SetNote(pairedNote, "yes") }); err != nil {
		return AsError(err)
	}
	return nil
}

func (r *Registry) findOne(ctx context.Context, some []db.StoredBlob) error {
	for _, b := range some {
		_, err := r.blobs.Stat(ctx, blobs.Name{Digest: b.Digest, Generation: b.Generation})
		if err == nil {
			return nil
		}
		if !errors.Is(err, blobs.ErrNotFound) {
			return AsError(err)
		}
	}
	return ErrLostBlobs
}

// ReadOnly says whether the registry lies where it can only be read. Reads leave no trace then, and every change fails.
func (r *Registry) ReadOnly() bool { return r.db.ReadOnly() }

// Maintain does what has to be done from time to time, until ctx ends: it lets uploads expire, keeps a reserve for a full
// disk, copies changes to the journal beside the blobs, and what is written to the audit to the log, and reads files that
// look different.
func (r *Registry) Maintain(ctx context.Context) {
	if r.db.ReadOnly() {
		return
	}
	var reading sync.WaitGroup
	reading.Go(func() { r.reread(ctx) })
	defer reading.Wait()
	expire, export := time.NewTicker(min(time.Minute, r.uploadTimeout)), time.NewTicker(r.journalEvery)
	defer expire.Stop()
	defer export.Stop()
	r.expire(ctx)
	var exportErr error
	var audit auditLog
	for {
		select {
		case <-ctx.Done():
			return
		case <-expire.C:
			r.expire(ctx)
		case <-export.C:
			err := r.ExportJournal(ctx, 0)
			if err != nil && exportErr == nil && ctx.Err() == nil { // once, not every two seconds
				r.log.Error("the journal beside the blobs is behind", "err", err)
			}
			exportErr = err
			if err := audit.follow(ctx, r); err != nil && ctx.Err() == nil {
				r.log.Error("the audit cannot be read", "err", err)
			}
		}
	}
}

func (r *Registry) expire(ctx context.Context) {
	if n, err := r.ExpireUploads(ctx); err != nil && ctx.Err() == nil {
		r.log.Error("expiring uploads failed", "err", err)
	} else if n > 0 {
		r.log.Info("uploads expired", "count", n)
	}
	if err := r.pruneAudit(ctx); err != nil && ctx.Err() == nil {
		r.log.Error("old rows of the audit could not be removed", "err", err)
	}
	r.KeepReserve()
}

// KeepReserve sees to it that there will be room to remove things from a full disk.
func (r *Registry) KeepReserve() {
	if err := r.db.KeepBallast(); err != nil {
		r.log.Warn("no reserve could be kept for a full disk", "err", err)
	}
}

// Readable proves that the registry can serve pulls: it reads from the database, and a byte of a blob if there is any.
func (r *Registry) Readable(ctx context.Context) error {
	const sample = 20 // one that is lost or damaged is for check to report
	var some []db.StoredBlob
	err := r.db.View(ctx, func(tx *db.Tx) (err error) {
		some, err = tx.StoredBlobs(0, sample)
		return err
	})
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	var failed error
	for _, b := range some {
		if failed = r.readByte(ctx, blobs.Name{Digest: b.Digest, Generation: b.Generation}); failed == nil {
			return nil
		}
	}
	if failed != nil {
		return fmt.Errorf("blobs: %w", failed)
	}
	return nil
}

func (r *Registry) readByte(ctx context.Context, name blobs.Name) error {
	f, _, err := r.blobs.Open(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 1)); err != io.EOF { // which an empty blob ends with
		return err
	}
	return nil
}

// Writable proves that the registry can take a push: it writes to the database and to the store.
func (r *Registry) Writable(ctx context.Context) error {
	if err := r.db.Relaxed(ctx, (*db.Tx).Probe); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	if err := r.blobs.Check(ctx); err != nil {
		return fmt.Errorf("blobs: %w", err)
	}
	return nil
}

// Totals counts everything the registry has.
type Totals = db.Totals

// totalsFor is how long counted totals are good: counting reads whole indexes.
const totalsFor = 30 * time.Second

type totalsCache struct {
	sync.Mutex
	at     time.Time
	totals Totals
}

// Totals returns figures that are at most half a minute old.
func (r *Registry) Totals(ctx context.Context) (Totals, error) {
	r.totals.Lock()
	defer r.totals.Unlock()
	if time.Since(r.totals.at) < totalsFor && !r.totals.at.IsZero() {
		return r.totals.totals, nil
	}
	var t Totals
	err := r.db.View(ctx, func(tx *db.Tx) (err error) {
		t, err = tx.Totals()
		return err
	})
	if err != nil {
		return Totals{}, AsError(err)
	}
	r.totals.at, r.totals.totals = time.Now(), t
	return t, nil
}

// DBStats reads the counters of the database.
func (r *Registry) DBStats() db.Stats { return r.db.Stats() }

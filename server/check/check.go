// Package check compares what the database says with what is stored.
package check

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// Options say how thorough a check is.
type Options struct {
	ReadData     bool          // read every blob and compare it with its digest
	SkipVerified time.Duration // but not those that were read and found good within this time; 0: all
	Rate         int64         // bytes a second to read at most; 0: no limit
	Parallel     int           // files read at a time; 0: 2
	Repair       bool          // mark damaged blobs, so that the next push heals them, and clear marks that are wrong
	MaxDuration  time.Duration // stop in good order after so long; 0: no limit
	Found        func(Finding) // called for each finding, by one goroutine at a time; nil for nobody
	Progress     func(Report)
}

// Finding is something that is not as it should be.
type Finding struct {
	// missing, size, digest, unreadable, damaged (found before): a blob. file: no row names it. manifest: its content does
	// not have its digest. reference: a manifest names what its repository does not have. database: SQLite's words.
	Kind       string            `json:"kind"`
	Repository registry.RepoName `json:"repository,omitempty"`
	Digest     digest.Digest     `json:"digest,omitempty"`
	Detail     string            `json:"detail"`
	Tags       []string          `json:"tags,omitempty"`  // images that need it, up to 20
	Known      bool              `json:"known,omitempty"` // it was found before, and clients are told that it is not there
	Repaired   bool              `json:"repaired"`
}

// Report counts what a check looked at.
type Report struct {
	Complete  bool          `json:"complete"`
	Took      time.Duration `json:"tookNanoseconds"`
	Blobs     int64         `json:"blobs"`
	Read      int64         `json:"read"`      // of these, those whose bytes were read
	BytesRead int64         `json:"bytesRead"` //
	Manifests int64         `json:"manifests"`
	Files     int64         `json:"files"`
	Findings  int64         `json:"findings"`
}

// Run compares what the database says with what is stored. It changes nothing without Repair but the times at which
// blobs were last verified, and may run beside a live server. An error means that it could not look.
func Run(ctx context.Context, reg *registry.Registry, opt Options) (Report, error) {
	at := reg.Storage()
	c := &checker{reg: reg, db: at.DB, store: at.Blobs, opt: opt, now: at.DB.Now()}
	if c.opt.Parallel <= 0 {
		c.opt.Parallel = 2
	}
	if opt.MaxDuration > 0 {
		c.stop = time.Now().Add(opt.MaxDuration)
	}
	if opt.Rate > 0 {
		c.limit = rate.NewLimiter(rate.Limit(opt.Rate), max(int(min(opt.Rate, 64<<20)), registry.PieceSize))
	}
	start := time.Now()
	var err error
	for _, look := range []func(context.Context) error{c.database, c.manifests, c.references, c.blobs, c.files} {
		if err = look(ctx); err != nil {
			break
		}
	}
	c.report.Took, c.report.Complete = time.Since(start), err == nil
	if errors.Is(err, errEnough) {
		err = nil
	}
	if err != nil {
		return c.report, registry.AsError(err)
	}
	return c.report, nil
}

// errEnough stops a check that has used its time.
var errEnough = errors.New("the time is used up")

// maxTags is how many images are named for a finding: a base layer may be in every image.
const maxTags = 20

// checker is one check.
type checker struct {
	reg   *registry.Registry
	db    *db.DB
	store blobs.Store
	opt   Options
	now   time.Time
	stop  time.Time
	limit *rate.Limiter

	mu     sync.Mutex
	report Report
}

func (c *checker) enough() error {
	if !c.stop.IsZero() && time.Now().After(c.stop) {
		return errEnough
	}
	return nil
}

func (c *checker) found(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Findings++
	if c.opt.Found != nil {
		c.opt.Found(f)
	}
}

func (c *checker) count(add func(*Report)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.report)
	if c.opt.Progress != nil {
		c.opt.Progress(c.report)
	}
}

func (c *checker) database(ctx context.Context) error {
	problems, err := c.db.Integrity(ctx)
	for _, p := range problems {
		c.found(Finding{Kind: "database", Detail: p})
	}
	if err != nil {
		return err
	}
	return c.usage(ctx)
}

// usage adds up what the sums of usage say.
func (c *checker) usage(ctx context.Context) error {
	var wrong int64
	err := c.db.View(ctx, func(tx *db.Tx) (err error) { wrong, err = tx.WrongUsages(); return err })
	if err != nil || wrong == 0 {
		return err
	}
	f := Finding{Kind: "database", Detail: fmt.Sprintf("what du shows is wrong for %d repositories", wrong)}
	if c.opt.Repair {
		if err := c.db.RepairUsage(ctx); err != nil {
			return err
		}
		f.Repaired = true
	}
	c.found(f)
	return nil
}

// manifests compares the content of every manifest with its digest.
func (c *checker) manifests(ctx context.Context) error {
	for after := int64(0); ; {
		var list []db.JournalManifest
		err := c.db.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.JournalManifests(after, 100); return err })
		if err = errors.Join(err, ctx.Err(), c.enough()); err != nil || len(list) == 0 {
			return err
		}
		for _, m := range list {
			after = m.ID
			if m.Digest.Algorithm().FromBytes(m.Content) != m.Digest {
				c.found(Finding{Kind: "manifest", Repository: m.Repository, Digest: m.Digest, Detail: "its content does not have its digest: push it again",
					Tags: c.tags(ctx, func(tx *db.Tx) ([]db.Image, error) { return tx.TagsOfManifest(m.ID, maxTags) })})
			}
		}
		c.count(func(r *Report) { r.Manifests += int64(len(list)) })
	}
}

// tags names the images that are hit.
func (c *checker) tags(ctx context.Context, find func(*db.Tx) ([]db.Image, error)) (names []string) {
	var images []db.Image
	if err := c.db.View(ctx, func(tx *db.Tx) (err error) { images, err = find(tx); return err }); err != nil {
		return []string{"(unknown: " + err.Error() + ")"}
	}
	for _, i := range images {
		names = append(names, fmt.Sprintf("%s:%s", i.Repository, i.Tag))
	}
	return names
}

// references looks for manifests that need what their repository does not have, which is not said of layers that are
// fetched from elsewhere. Where sparse manifests are accepted
// that is as it should be.
func (c *checker) references(ctx context.Context) error {
	var broken []db.Missing
	if err := c.db.View(ctx, func(tx *db.Tx) (err error) { broken, err = tx.UnlinkedHolds(100); return err }); err != nil {
		return err
	}
	for _, m := range broken {
		c.foundMissing(ctx, m, "needs a blob that its repository does not have, and the database believes it has")
	}
	if c.reg.AcceptsMissing() {
		return nil
	}
	for last := (db.Missing{}); ; {
		var list []db.Missing
		err := c.db.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.MissingReferences(last, 100); return err })
		if err = errors.Join(err, ctx.Err()); err != nil || len(list) == 0 {
			return err
		}
		for _, m := range list {
			last = db.Missing{ManifestID: m.ManifestID, Digest: m.Digest}
			if needed, err := c.isNeeded(ctx, m); err != nil {
				return err
			} else if !needed {
				continue
			}
			c.foundMissing(ctx, m, "names "+m.Digest.String()+", which its repository does not have: it was deleted, or never pushed")
		}
	}
}

// isNeeded says whether the manifest is still there and needs what it misses.
func (c *checker) isNeeded(ctx context.Context, m db.Missing) (needed bool, err error) {
	err = c.db.View(ctx, func(tx *db.Tx) error {
		manifest, err := tx.ManifestByID(m.ManifestID)
		needed = err == nil && registry.Needs(manifest, m.Digest)
		return err
	})
	if errors.Is(err, db.ErrNotFound) {
		err = nil
	}
	return needed, err
}

func (c *checker) foundMissing(ctx context.Context, m db.Missing, detail string) {
	c.found(Finding{Kind: "reference", Repository: m.Repository, Digest: m.Manifest, Detail: detail,
		Tags: c.tags(ctx, func(tx *db.Tx) ([]db.Image, error) { return tx.TagsOfManifest(m.ManifestID, maxTags) })})
}

// blobs looks at the file of every blob, and reads it if that was asked for or it looks different.
func (c *checker) blobs(ctx context.Context) error {
	return registry.EachStored(ctx, c.db, c.opt.Parallel, func(ctx context.Context, b db.StoredBlob) error {
		return errors.Join(c.enough(), c.blob(ctx, b))
	})
}

// blob checks one. Its error means that the check cannot go on.
func (c *checker) blob(ctx context.Context, b db.StoredBlob) error {
	name := blobs.Name{Digest: b.Digest, Generation: b.Generation}
	info, err := c.store.Stat(ctx, name)
	read := false
	if err == nil && info.Size == b.Size {
		read = b.Damaged || c.opt.ReadData && (c.opt.SkipVerified <= 0 || db.Age(b.VerifiedAt, c.now) > c.opt.SkipVerified) ||
			b.Stamp != 0 && info.Stamp != b.Stamp
	}
	var impatient error // says nothing about the blob
	if read {
		info, err = c.reg.HashFile(ctx, name, b.Size, func(n int) error {
			if c.limit != nil {
				impatient = c.limit.WaitN(ctx, n)
			}
			return impatient
		})
	}
	if ended := errors.Join(ctx.Err(), impatient); ended != nil {
		return ended
	}
	c.count(func(r *Report) {
		if r.Blobs++; read {
			r.Read++
			r.BytesRead += b.Size
		}
	})
	finding := Finding{Digest: b.Digest, Known: b.Damaged}
	switch {
	case errors.Is(err, blobs.ErrNotFound):
		finding.Kind, finding.Detail = "missing", "the file is missing"
	case errors.Is(err, registry.ErrDamaged):
		finding.Kind, finding.Detail = "digest", err.Error()
	case err != nil:
		finding.Kind, finding.Detail = "unreadable", err.Error()
	case info.Size != b.Size:
		finding.Kind, finding.Detail = "size", fmt.Sprintf("the file has %d bytes, not %d", info.Size, b.Size)
	case b.Damaged && !c.opt.Repair:
		finding.Kind, finding.Detail = "damaged", "it was found damaged before, but its bytes are right: repair makes it available again"
	case read:
		c.reg.MarkVerified(ctx, name, info.Stamp)
		return nil
	default:
		return nil
	}
	return c.bad(ctx, b, finding, err)
}

func (c *checker) bad(ctx context.Context, b db.StoredBlob, f Finding, why error) error {
	// A push may have replaced the file, or a collection removed it, since the row was read.
	still := false
	err := c.db.View(ctx, func(tx *db.Tx) (err error) { still, err = tx.IsStored(b.Digest, b.Generation); return err })
	if err != nil || !still {
		return err
	}
	f.Tags = c.tags(ctx, func(tx *db.Tx) ([]db.Image, error) { return tx.TagsOfBlob(b.ID, maxTags) })
	// Only what the disk itself says of the bytes is damage: without a free file descriptor nothing can be read either.
	if f.Kind == "unreadable" && !errors.Is(why, syscall.EIO) {
		c.found(f)
		return nil
	}
	if c.opt.Repair && f.Kind != "damaged" {
		if f.Kind == "missing" {
			if err := c.store.Check(ctx); err != nil {
				return fmt.Errorf("a file is missing and the store is not usable: %w", err)
			}
		}
		err := c.db.Reclaim(ctx, func(tx *db.Tx) error { return tx.MarkDamaged(b.Digest, b.Generation) })
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return err
		}
		f.Repaired = err == nil
		f.Detail += "; clients are told it is not there, so that the next push heals it"
	}
	c.found(f)
	return nil
}

// files looks for files that no row names and that are too old to be waiting for theirs.
func (c *checker) files(ctx context.Context) error {
	seen := func() error { c.count(func(r *Report) { r.Files++ }); return c.enough() }
	_, err := registry.Orphans(ctx, c.store, c.db, "", c.now.Add(-registry.MinOrphanAge), seen, func(o registry.Orphan) error {
		if registry.IsAhead(o.Info) {
			return nil // how old it is, collection will know
		}
		c.found(Finding{Kind: "file", Digest: o.Digest, Detail: fmt.Sprintf("no row names the file of generation %s (%d bytes): collection removes it", o.Generation, o.Size)})
		return nil
	})
	return err
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// RebuildOptions say what is rebuilt.
type RebuildOptions struct {
	DB, Blobs    string // paths
	Schema       string // the text of schema.sql
	AllowNetwork bool
	Replace      bool // a damaged database is there, and is moved out of the way
	ReadData     bool // read every blob; otherwise each is read when it is first pulled
	Log          *slog.Logger
}

// RebuildReport counts what was found.
type RebuildReport struct {
	Took      time.Duration `json:"tookNanoseconds"`
	Blobs     int64         `json:"blobs"`
	Damaged   int64         `json:"damaged"` // files that do not have their digest
	Manifests int64         `json:"manifests"`
	Tags      int64         `json:"tags"`
	LostTags  int64         `json:"lostTags"` // whose manifest is not in the journal
	Broken    int64         `json:"broken"`   // lines of the journal that cannot be read
	// Users, groups' members, grants, API tokens, immutable rules and public repositories, by their kinds.
	Policy map[string]int64 `json:"policy"`
	Lost   []string         `json:"lost"` // what is in no journal, in words
}

// lost names what a rebuilt registry does not have.
func (b *rebuilder) lost() (lost []string) {
	if len(b.report.Policy) == 0 {
		lost = append(lost, "users, groups, grants, API tokens, immutable rules and public repositories: the journal has none")
	} else if b.report.Broken > 0 {
		lost = append(lost, "changes of rights in the broken lines of the journal: look at what users may do now")
	}
	return append(lost,
		"logins: users log in again, with the passwords and API tokens they have, and docker and others get new tokens",
		"the audit, times of logins, pushes and pulls, and uploads under way",
		"what could be undone: deleted manifests, and what tags pointed at before")
}

// Rebuild makes a database from a blob directory: the blobs from the files, repositories, manifests and tags from the
// journal beside them. What was pushed in the last seconds before the database was lost may not be in the journal. The
// database is put in its place when it is complete; one that was there is kept under the name that retired returns. No
// server may run on it.
func Rebuild(ctx context.Context, opt RebuildOptions) (report RebuildReport, retired string, err error) {
	start := time.Now()
	if opt.DB, err = db.Real(opt.DB); err != nil {
		return report, "", err
	}
	if err := mayReplace(ctx, opt.DB, opt.Replace); err != nil {
		return report, "", err
	}
	store, err := blobs.OpenDir(ctx, opt.Blobs, blobs.DirOptions{AllowNetwork: opt.AllowNetwork})
	if err != nil {
		return report, "", err
	}
	fresh := opt.DB + ".rebuilding"
	if err := os.MkdirAll(filepath.Dir(fresh), 0o700); err != nil {
		return report, "", err
	}
	if err := db.Discard(fresh); err != nil {
		return report, "", err
	}
	database, err := db.Open(ctx, db.Options{Path: fresh, Schema: opt.Schema, Log: opt.Log})
	if err != nil {
		return report, "", err
	}
	b := rebuilder{reg: registry.New(registry.Config{DB: database, Blobs: store, Log: opt.Log}), db: database, store: store, opt: opt, report: &report}
	report.Policy = map[string]int64{}
	err = b.blobs(ctx)
	if err == nil {
		err = b.journal(ctx)
	}
	if err = errors.Join(err, database.Close()); err != nil {
		return report, "", errors.Join(err, db.Discard(fresh))
	}
	report.Took, report.Lost = time.Since(start), b.lost()
	retired, err = install(ctx, fresh, opt.DB, "before-rebuild", opt.Replace)
	return report, retired, err
}

type rebuilder struct {
	reg    *registry.Registry
	db     *db.DB
	store  blobs.Store
	opt    RebuildOptions
	report *RebuildReport
}

// A transaction of the rebuilding holds so many lines, or bytes of manifests.
const (
	rebuildBatch = 500
	rebuildBytes = 8 << 20
)

// write runs fn in a transaction. What fn counts in the report counts once, although it may run again.
func (b *rebuilder) write(ctx context.Context, fn func(*db.Tx) error) error {
	before := *b.report
	before.Policy = maps.Clone(b.report.Policy)
	return b.db.Relaxed(ctx, func(tx *db.Tx) error {
		*b.report = before
		b.report.Policy = maps.Clone(before.Policy)
		return fn(tx)
	})
}

// blobs makes a row of every file. Of two files with the same digest the newer one counts.
func (b *rebuilder) blobs(ctx context.Context) error {
	type found struct {
		blob    db.NewBlob
		changed time.Time
	}
	shard, list := "", map[digest.Digest]found{}
	flush := func() error {
		err := b.db.Relaxed(ctx, func(tx *db.Tx) error {
			for _, f := range list {
				if _, _, err := tx.PutBlob(f.blob); err != nil {
					return err
				}
			}
			return nil
		})
		b.report.Blobs += int64(len(list))
		clear(list)
		return err
	}
	err := b.store.Names(ctx, "", func(name blobs.Name, info blobs.Info) error {
		// Files of one digest come together, within the first two digits of the hash.
		if s := name.Digest.String()[:len("sha256:00")]; s != shard {
			shard = s
			if err := flush(); err != nil {
				return err
			}
		}
		n := db.NewBlob{Digest: name.Digest, Size: info.Size, Generation: name.Generation}
		if b.opt.ReadData {
			if _, err := b.reg.HashFile(ctx, name, info.Size, nil); errors.Is(err, registry.ErrDamaged) {
				b.report.Damaged++
				return nil
			} else if err != nil {
				return err
			}
			n.Stamp = info.Stamp
		}
		// A power cut in the middle of a push may have left a file with some of its bytes, never with more.
		if other, ok := list[name.Digest]; !ok || info.Size > other.blob.Size || info.Size == other.blob.Size && info.Changed.After(other.changed) {
			list[name.Digest] = found{n, info.Changed}
		}
		return nil
	})
	return errors.Join(err, flush())
}

// journalKey is what a line is about.
type journalKey struct {
	repo   registry.RepoName
	tag    registry.Tag
	digest digest.Digest // of a manifest
}

func keyOf(l registry.JournalLine) journalKey {
	if l.Tag != "" {
		return journalKey{repo: l.Repository, tag: l.Tag}
	}
	return journalKey{repo: l.Repository, digest: l.Digest}
}

// journal reads the journal several times: which line about each thing is the last, and then what these say.
func (b *rebuilder) journal(ctx context.Context) error {
	last, policy := map[journalKey]int64{}, map[db.PolicyKey]registry.JournalLine{}
	broken, err := registry.ReadJournal(ctx, b.store, func(l registry.JournalLine) error {
		if l.Policy != nil {
			if l.ID >= policy[l.Policy.Key()].ID {
				policy[l.Policy.Key()] = l
			}
			return nil
		}
		last[keyOf(l)] = max(last[keyOf(l)], l.ID)
		return nil
	})
	if errors.Is(err, blobs.ErrNotFound) {
		return fmt.Errorf("there is no journal beside the blobs: repositories, manifests and tags cannot be rebuilt: %w", err)
	}
	if err != nil {
		return err
	}
	b.report.Broken = int64(broken)
	if err := b.policy(ctx, policy); err != nil {
		return err
	}
	for _, tags := range []bool{false, true} { // a tag needs its manifest
		var batch []registry.JournalLine
		bytes := 0
		flush := func() error {
			err := b.write(ctx, func(tx *db.Tx) error { return b.apply(ctx, tx, batch) })
			clear(batch)
			batch, bytes = batch[:0], 0
			return err
		}
		_, err := registry.ReadJournal(ctx, b.store, func(l registry.JournalLine) error {
			if l.Policy != nil || (l.Tag != "") != tags || last[keyOf(l)] != l.ID {
				return nil
			}
			last[keyOf(l)] = -1 // the line may be there twice
			bytes += len(l.Content)
			if batch = append(batch, l); len(batch) < rebuildBatch && bytes < rebuildBytes {
				return nil
			}
			return flush()
		})
		if err = errors.Join(err, flush()); err != nil {
			return err
		}
	}
	return nil
}

func (b *rebuilder) apply(ctx context.Context, tx *db.Tx, lines []registry.JournalLine) error {
	for _, l := range lines {
		var err error
		switch {
		case l.Tag != "":
			err = b.tag(tx, l)
		case !l.Deleted:
			err = b.manifest(ctx, tx, l)
		}
		if err != nil {
			return fmt.Errorf("change %d of %s: %w", l.ID, l.Repository, err)
		}
	}
	return nil
}

// policy writes the entries that are left: users before what they have.
func (b *rebuilder) policy(ctx context.Context, last map[db.PolicyKey]registry.JournalLine) error {
	entries := map[string][]db.PolicyEntry{}
	for key, l := range last {
		if !l.Deleted {
			entries[key.Kind] = append(entries[key.Kind], l.Policy.Entry())
		}
	}
	for _, kind := range db.PolicyKinds() {
		for some := range slices.Chunk(entries[kind], rebuildBatch) {
			err := b.write(ctx, func(tx *db.Tx) (err error) {
				for _, e := range some {
					if err == nil {
						err = b.putPolicy(tx, e)
					}
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		delete(entries, kind)
	}
	for _, unknown := range entries {
		b.report.Broken += int64(len(unknown))
	}
	return nil
}

// putPolicy writes an entry. One of a user who is gone, or that cannot be, is no line that was written here.
func (b *rebuilder) putPolicy(tx *db.Tx, e db.PolicyEntry) (err error) {
	if e.Kind == db.PolicyPublic {
		_, err = registry.ParseRepoName(e.Name)
	}
	if err == nil {
		err = tx.PutPolicy(e)
		if err != nil && !errors.Is(err, db.ErrNotFound) && !errors.Is(err, db.ErrConflict) {
			return err
		}
	}
	if err != nil {
		b.report.Broken++
		return nil
	}
	b.report.Policy[e.Kind]++
	return nil
}

func (b *rebuilder) tag(tx *db.Tx, l registry.JournalLine) error {
	if l.Digest == "" {
		return nil
	}
	if _, err := registry.ParseTag(string(l.Tag)); err != nil {
		b.report.Broken++
		return nil
	}
	m, err := tx.StatManifest(l.Repository, l.Digest)
	if errors.Is(err, db.ErrNotFound) {
		b.report.LostTags++
		return nil
	}
	if err != nil {
		return err
	}
	b.report.Tags++
	return tx.SetTag(m.RepositoryID, l.Tag, m.ID)
}

func (b *rebuilder) manifest(ctx context.Context, tx *db.Tx, l registry.JournalLine) error {
	whole, err := b.reg.RestoreManifest(ctx, tx, l)
	if err != nil {
		return err
	}
	if whole {
		b.report.Manifests++
	} else {
		b.report.Broken++
	}
	return nil
}

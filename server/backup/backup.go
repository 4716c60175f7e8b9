// Package backup makes and restores backups, and rebuilds a database from its blobs.
package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/check"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// A backup is a directory with a database and the blobs it names, laid out as a server has them: it can be served as it
// is. The database is copied first, at one moment; then the blobs that the copy names, which collection leaves alone
// meanwhile. Making it again into the same directory copies what is new and removes what is no longer named.
const (
	backupDB    = "reg.db"
	backupBlobs = "blobs"
)

// BlobsOf returns the directory of the blobs of a database, unless another one is named: that of the database's name with
// -blobs, as the other files beside it are called; or blobs beside it, where versions before this one and backups have
// them. It is an error if both hold blobs: one of them would be left behind.
func BlobsOf(path string) (string, error) {
	named, older := path+"-blobs", filepath.Join(filepath.Dir(path), backupBlobs)
	isOlder, err := blobs.IsStore(older)
	if err != nil || !isOlder {
		return named, err
	}
	isNamed, err := blobs.IsStore(named)
	if err == nil && isNamed {
		err = fmt.Errorf("both %s and %s hold blobs of a registry", named, older)
	}
	return older, err
}

// Options say how a backup is made.
type Options struct {
	Copy     bool // copy bytes even where a hard link would do: in-place damage of one is no damage of the other then
	Verify   bool // read everything that is in the backup, also what was there before
	Progress func(Report)
}

// Report counts the blobs of a backup, or of a restoration.
type Report struct {
	Took    time.Duration   `json:"tookNanoseconds"`
	Blobs   int64           `json:"blobs"`   // all of them
	Bytes   int64           `json:"bytes"`   // of all
	Linked  int64           `json:"linked"`  // by hard link
	Copied  int64           `json:"copied"`  //
	Removed int64           `json:"removed"` // that the new backup does not name
	Damaged []digest.Digest `json:"damaged"` // are damaged or missing in the registry, and not in the backup
	Tokens  int64           `json:"tokens"`  // of users, which are good again with a restored backup
}

// Make makes or renews a backup in dir, while others push and pull. It is verified: a blob in it was read on the way,
// or looks as it did when it last was. The new database takes its place last, so until then the old backup is good.
func Make(ctx context.Context, reg *registry.Registry, dir string, opt Options) (report Report, err error) {
	start := time.Now()
	err = reg.WithMaintenanceLock(ctx, "backup", func(ctx context.Context, lock *registry.MaintenanceLock) error {
		return renew(ctx, reg, lock, dir, opt, &report)
	})
	report.Took = time.Since(start)
	return report, err
}

func renew(ctx context.Context, reg *registry.Registry, lock *registry.MaintenanceLock, dir string, opt Options, report *Report) error {
	at := reg.Storage()
	if err := db.MakeDir(dir); err != nil {
		return err
	}
	path, err := db.Real(filepath.Join(dir, backupDB))
	if err != nil {
		return err
	}
	own := fmt.Errorf("%s is where the registry keeps its own files: a backup needs a directory of its own", dir)
	if isSame(dir, filepath.Dir(at.DB.Path())) || isSame(path, at.DB.Path()) {
		return own
	}
	to, err := blobs.OpenDir(ctx, filepath.Join(dir, backupBlobs), blobs.DirOptions{AllowNetwork: true})
	if err != nil {
		return err
	}
	if same, err := blobs.Same(to, at.Blobs); err != nil || same {
		return cmp.Or(err, own)
	}
	fresh := path + ".new"
	if err := db.Discard(fresh); err != nil {
		return err
	}
	if err := at.DB.Snapshot(ctx, fresh); err != nil {
		return registry.AsError(err)
	}
	named, err := db.Open(ctx, db.Options{Path: fresh, Now: at.DB.Now, Log: at.Log})
	if err != nil {
		return registry.AsError(err)
	}
	t := transfer{from: reg, source: at, to: to, named: named, previous: openPrevious(ctx, path, at.Log), copying: opt.Copy, verify: opt.Verify, report: report, progress: opt.Progress}
	err = t.all(ctx)
	if t.previous != nil {
		err = errors.Join(err, t.previous.Close())
	}
	if err == nil {
		err = settleCopy(ctx, named, to)
	}
	if err == nil { // whoever lost the lock may have missed blobs that a collection removed since
		err = lock.StillHeld(ctx)
	}
	if err = errors.Join(err, named.Close()); err != nil {
		return errors.Join(err, db.Discard(fresh))
	}
	if err := db.Unused(ctx, path); err != nil {
		return errors.Join(err, db.Discard(fresh))
	}
	if err := db.Replace(fresh, path); err != nil {
		return err
	}
	return t.removeOthers(ctx, path)
}

// settleCopy makes a copied database one of its own: no staged bytes are beside it and no maintenance is under way, and
// its journal is written.
func settleCopy(ctx context.Context, named *db.DB, store blobs.Store) error {
	err := named.Update(ctx, func(tx *db.Tx) error {
		return errors.Join(registry.ForgetJournal(tx), tx.DropLocks(), tx.DropUploads())
	})
	if err != nil {
		return err
	}
	return registry.New(registry.Config{DB: named, Blobs: store}).ExportJournal(ctx, 0)
}

// isSame says whether two paths lead to the same file or directory.
func isSame(a, b string) bool {
	aInfo, aErr := os.Stat(a)
	bInfo, bErr := os.Stat(b)
	return aErr == nil && bErr == nil && os.SameFile(aInfo, bInfo)
}

// openPrevious opens the database of the backup that is there, nil if there is none that can be read: everything in the
// directory is read again then.
func openPrevious(ctx context.Context, path string, log *slog.Logger) *db.DB {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return nil
	}
	previous, err := db.Open(ctx, db.Options{Path: path, Log: log})
	if err != nil {
		log.Warn("the database of the backup that is there cannot be read", "err", err)
		return nil
	}
	return previous
}

// transfer brings the blobs that a database names from a registry to a directory.
type transfer struct {
	from     *registry.Registry
	source   registry.Storage // of from
	to       *blobs.Dir
	named    *db.DB
	previous *db.DB // that named what is in the directory; nil for none
	copying  bool
	verify   bool
	progress func(Report)

	mu     sync.Mutex
	report *Report
}

const transferParallel = 4

func (t *transfer) all(ctx context.Context) error {
	return registry.EachStored(ctx, t.named, transferParallel, func(ctx context.Context, b db.StoredBlob) error {
		if err := t.one(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", b.Digest, err)
		}
		return nil
	})
}

func (t *transfer) one(ctx context.Context, b db.StoredBlob) error {
	name := blobs.Name{Digest: b.Digest, Generation: b.Generation}
	how, err := t.bring(ctx, b, name)
	if err == nil {
		var info blobs.Info
		if info, err = t.to.Stat(ctx, name); err == nil && (info.Stamp != b.Stamp || b.Damaged) {
			err = t.named.Relaxed(ctx, func(tx *db.Tx) error { return tx.MarkVerified(b.Digest, b.Generation, info.Stamp) })
		}
	}
	damaged := errors.Is(err, registry.ErrDamaged) || errors.Is(err, blobs.ErrNotFound)
	if damaged {
		err = t.named.Relaxed(ctx, func(tx *db.Tx) error { return tx.MarkDamaged(b.Digest, b.Generation) })
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Blobs++
	t.report.Bytes += b.Size
	if damaged {
		t.report.Damaged = append(t.report.Damaged, b.Digest)
	} else if how != nil {
		*how++
	}
	if t.progress != nil {
		t.progress(*t.report)
	}
	return err
}

// bring sees to it that the directory has the bytes. how is the counter of the way in which they came.
func (t *transfer) bring(ctx context.Context, b db.StoredBlob, name blobs.Name) (how *int64, err error) {
	if info, err := t.to.Stat(ctx, name); err == nil && info.Size == b.Size {
		known := false
		if !t.verify {
			if known, err = t.knows(ctx, b, info); err != nil {
				return nil, err
			}
		}
		if !known {
			_, err = registry.HashStored(ctx, t.to, name, b.Size, nil)
		}
		if !errors.Is(err, registry.ErrDamaged) { // what could not be read now may be good
			return nil, err
		}
	}
	if err := t.to.Remove(ctx, name); err != nil {
		return nil, err
	}
	source := name
	for {
		how, err := t.take(ctx, b, source, name)
		if !errors.Is(err, blobs.ErrNotFound) {
			return how, err
		}
		// The blob may have been pushed again since the database was copied: the same bytes are in another file.
		var now db.StoredBlob
		err = t.source.DB.View(ctx, func(tx *db.Tx) (err error) { now, err = tx.StoredBlob(b.Digest); return err })
		if err != nil || now.Generation == source.Generation {
			return nil, blobs.ErrNotFound
		}
		source.Generation = now.Generation
	}
}

// knows says whether a file in the directory looks as it did when its bytes were last known to be right. It may be a
// link to the registry's own file, so that damage in place is damage of both.
func (t *transfer) knows(ctx context.Context, b db.StoredBlob, info blobs.Info) (known bool, err error) {
	if b.Damaged || info.Stamp == b.Stamp || t.previous == nil {
		return !b.Damaged && info.Stamp == b.Stamp, nil
	}
	var was db.StoredBlob
	err = t.previous.View(ctx, func(tx *db.Tx) (err error) { was, err = tx.StoredBlob(b.Digest); return err })
	if errors.Is(err, db.ErrNotFound) {
		return false, nil
	}
	return was.Generation == b.Generation && was.Stamp == info.Stamp && !was.Damaged, err
}

// take links or copies one file. blobs.ErrNotFound if it is not there.
func (t *transfer) take(ctx context.Context, b db.StoredBlob, source, name blobs.Name) (how *int64, err error) {
	info, err := t.source.Blobs.Stat(ctx, source)
	if err != nil {
		return nil, err
	}
	if !t.copying && source == name && info.Size == b.Size {
		if info.Stamp != b.Stamp || b.Damaged {
			if _, err := t.from.HashFile(ctx, name, b.Size, nil); err != nil {
				return nil, err
			}
		}
		if linker, ok := t.source.Blobs.(blobs.Linker); ok {
			err := linker.Link(ctx, name, t.to)
			if !errors.Is(err, errors.ErrUnsupported) {
				return &t.report.Linked, err
			}
		}
	}
	return &t.report.Copied, copyBlob(ctx, t.source.Blobs, source, t.to, name, b.Size)
}

// copyBlob copies bytes from one store to another and verifies them on the way: registry.ErrDamaged.
func copyBlob(ctx context.Context, from blobs.Store, source blobs.Name, to blobs.Store, target blobs.Name, size int64) error {
	f, _, err := from.Open(ctx, source)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = registry.CopyIn(ctx, f, to, target, size)
	return err
}

// removeOthers removes the blobs that the backup's database, at path, does not name.
func (t *transfer) removeOthers(ctx context.Context, path string) error {
	named, err := db.Open(ctx, db.Options{Path: path, Log: t.source.Log})
	if err != nil {
		return registry.AsError(err)
	}
	err = t.to.Names(ctx, "", func(name blobs.Name, _ blobs.Info) error {
		stored := true
		err := named.View(ctx, func(tx *db.Tx) (err error) { stored, err = tx.IsStored(name.Digest, name.Generation); return err })
		if err != nil || stored {
			return err
		}
		t.report.Removed++
		return t.to.Remove(ctx, name)
	})
	return errors.Join(err, named.Close())
}

// RestoreOptions say what is restored, and where.
type RestoreOptions struct {
	From         string // directory of the backup
	DB, Blobs    string // paths of the registry that is made of it
	AllowNetwork bool
	Replace      bool // the registry's database may be there: it is moved out of the way
	EndTokens    bool // those of the backup are good for nothing, since they may have been revoked after it was made
	Progress     func(Report)
}

// ErrExists is returned by Restore and Rebuild when there is a database that they may not replace.
var ErrExists = errors.New("there is a database already")

// Restore makes a registry of a backup. Everything is read and verified before anything is replaced, and the database is
// put in its place last; the one that was there is kept beside it, under the name that retired returns. No server may
// run on the target.
func Restore(ctx context.Context, opt RestoreOptions) (report Report, retired string, err error) {
	start := time.Now()
	if opt.DB, err = db.Real(opt.DB); err != nil {
		return report, "", err
	}
	fresh := opt.DB + ".restoring"
	if err := mayReplace(ctx, opt.DB, opt.Replace); err != nil {
		return report, "", err
	}
	// The backup may have been served. What that left in the log belongs to it; what it still writes cannot be copied.
	backup := filepath.Join(opt.From, backupDB)
	if _, err := os.Stat(backup); err != nil {
		return report, "", fmt.Errorf("no backup at %s: %w", opt.From, err)
	}
	if isSame(backup, opt.DB) {
		return report, "", fmt.Errorf("%s is the backup's own database: it can be served as it is", opt.DB)
	}
	if err := db.Unused(ctx, backup); err != nil {
		return report, "", err
	}
	if err := db.Folded(backup); err != nil {
		return report, "", err
	}
	if err := db.MakeDir(filepath.Dir(opt.DB)); err != nil {
		return report, "", err
	}
	if err := errors.Join(db.Discard(fresh), copyFile(backup, fresh), db.InheritOwner(fresh, opt.DB)); err != nil {
		return report, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Discard(fresh))
		}
	}()
	from, err := blobs.OpenExisting(filepath.Join(opt.From, backupBlobs))
	if err != nil {
		return report, "", err
	}
	named, err := db.Open(ctx, db.Options{Path: fresh})
	if err != nil {
		return report, "", err
	}
	err = restore(ctx, named, from, opt, &report)
	if err = errors.Join(err, named.Close()); err != nil {
		return report, "", err
	}
	report.Took = time.Since(start)
	retired, err = install(ctx, fresh, opt.DB, "before-restore", opt.Replace)
	return report, retired, err
}

// mayReplace refuses a target that is in use, or that holds something nobody allowed to replace.
func mayReplace(ctx context.Context, path string, replace bool) error {
	if err := db.Unused(ctx, path); err != nil {
		return err
	}
	if !replace && !db.IsEmpty(ctx, path) {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	return nil
}

// install puts a finished database in its place.
func install(ctx context.Context, fresh, path, why string, replace bool) (retired string, err error) {
	if err := mayReplace(ctx, path, replace); err != nil { // a server may have been started meanwhile
		return "", err
	}
	if err := db.SyncClosed(fresh); err != nil { // before the old one goes
		return "", err
	}
	if err := db.InheritOwner(fresh, path); err != nil {
		return "", err
	}
	if db.IsEmpty(ctx, path) {
		err = db.Discard(path)
	} else {
		retired, err = db.Retire(path, why)
	}
	if err != nil {
		return "", err
	}
	return retired, db.Install(fresh, path)
}

func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Sync(), target.Close())
}

func restore(ctx context.Context, named *db.DB, from *blobs.Dir, opt RestoreOptions, report *Report) error {
	problems, err := named.Integrity(ctx)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("the backup's database is damaged: %s", problems[0])
	}
	// Two passes: the backup is known to be good before the first byte of the target changes.
	reg := registry.New(registry.Config{DB: named, Blobs: from})
	var bad atomic.Int64
	var first atomic.Pointer[string]
	_, err = check.Run(ctx, reg, check.Options{ReadData: true, Found: func(f check.Finding) {
		if f.Known || f.Kind == "file" || f.Kind == "reference" {
			return
		}
		text := fmt.Sprintf("%s %s: %s", f.Kind, f.Digest, f.Detail)
		first.CompareAndSwap(nil, &text)
		bad.Add(1)
	}})
	if err != nil {
		return err
	}
	if n := bad.Load(); n > 0 {
		return fmt.Errorf("the backup is damaged, nothing was replaced: %d findings, the first: %s", n, *first.Load())
	}
	to, err := blobs.OpenDir(ctx, opt.Blobs, blobs.DirOptions{AllowNetwork: opt.AllowNetwork})
	if err != nil {
		return err
	}
	if same, err := blobs.Same(to, from); err != nil || same {
		return cmp.Or(err, fmt.Errorf("%s has the backup's own blobs: it can be served as it is", opt.Blobs))
	}
	t := transfer{from: reg, source: reg.Storage(), to: to, named: named, verify: true, report: report, progress: opt.Progress}
	if err := t.all(ctx); err != nil {
		return err
	}
	err = named.Update(ctx, func(tx *db.Tx) (err error) {
		if opt.EndTokens { // before the journal says that there are some
			return tx.EndTokens()
		}
		report.Tokens, err = tx.CountTokens()
		return err
	})
	if err != nil {
		return err
	}
	return settleCopy(ctx, named, to)
}

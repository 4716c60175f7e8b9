package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/blobs"
	"registry/blobs/blobtest"
	"registry/db"
	"registry/db/dbtest"
	"registry/server/backup"
	"registry/server/check"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// openAt opens a registry that is there already.
func openAt(t *testing.T, database, root string) *fixture {
	t.Helper()
	f := &fixture{t: t, root: root}
	var err error
	if f.db, err = db.Open(t.Context(), db.Options{Path: database, Schema: dbtest.Schema(t), Twice: dbtest.Twice()}); err != nil {
		t.Fatal(err)
	}
	f.close = sync.OnceFunc(func() {
		if err := f.db.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.close)
	if f.store, err = blobs.OpenDir(t.Context(), root, blobs.DirOptions{}); err != nil {
		t.Fatal(err)
	}
	f.Registry = registry.New(registry.Config{DB: f.db, Blobs: f.store})
	return f
}

// wantWhole checks everything.
func (f *fixture) wantWhole() {
	f.t.Helper()
	_, err := check.Run(context.Background(), f.Registry, check.Options{ReadData: true, Found: func(x check.Finding) { f.t.Errorf("%+v", x) }})
	if err != nil {
		f.t.Error(err)
	}
}

// pull reads the image of a tag whole.
func (f *fixture) pull(repo registry.RepoName, ref string, contents ...string) {
	f.t.Helper()
	if _, err := f.Manifest(context.Background(), repo, tag(ref)); err != nil {
		f.t.Errorf("%s:%s: %v", repo, ref, err)
	}
	f.wantThere(repo, toAny(contents)...)
}

func toAny(list []string) (all []any) {
	for _, s := range list {
		all = append(all, s)
	}
	return all
}

func TestBackupAndRestore(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config 1"), f.blob("a", "shared")))
	f.put("b", "v1", image(f.blob("b", "config 2"), f.blob("b", "shared")))
	dir := filepath.Join(t.TempDir(), "backup")
	renew := func(opt backup.Options) backup.Report {
		t.Helper()
		r, err := backup.Make(t.Context(), f.Registry, dir, opt)
		if err != nil {
			t.Fatal(err)
		}
		r.Took = 0
		return r
	}
	if r := renew(backup.Options{}); r.Linked != 3 || r.Blobs != 3 || r.Bytes != 22 {
		t.Errorf("%+v", r)
	}
	f.put("a", "v2", image(f.blob("a", "config 3"), f.blob("a", "shared"))) // shared has another file now
	if err := f.DeleteRepository(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	f.pass(time.Hour)
	f.collect(thorough)
	if r := renew(backup.Options{Copy: true, Verify: true}); r.Copied != 2 || r.Removed != 2 || r.Blobs != 3 {
		t.Errorf("%+v", r)
	}
	if r := renew(backup.Options{}); r.Copied+r.Linked+r.Removed != 0 {
		t.Errorf("the same again: %+v", r)
	}
	// The backup can be served as it is.
	served := openAt(t, filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs"))
	served.pull("a", "v1", "config 1", "shared")
	served.pull("a", "v2", "config 3")
	served.wantGone("b", "config 2")
	served.wantWhole()
	served.close()
	target := filepath.Join(t.TempDir(), "missing", "target")
	opt := backup.RestoreOptions{From: dir, DB: filepath.Join(target, "reg.db"), Blobs: filepath.Join(target, "blobs")}
	if r, retired, err := backup.Restore(t.Context(), opt); err != nil || retired != "" || r.Blobs != 3 {
		t.Fatal(r, retired, err)
	}
	if _, _, err := backup.Restore(t.Context(), opt); !errors.Is(err, backup.ErrExists) {
		t.Error("an existing database:", err)
	}
	restored := openAt(t, opt.DB, opt.Blobs)
	restored.pull("a", "v1", "config 1", "shared")
	restored.wantWhole()
	opt.Replace = true
	if _, _, err := backup.Restore(t.Context(), opt); !errors.Is(err, db.ErrInUse) {
		t.Error("a database in use:", err)
	}
	restored.put("a", "v3", image(restored.blob("a", "config 4")))
	restored.close()
	// A damaged backup replaces nothing.
	path := served.path(digest.FromString("config 1"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("cOnfig 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := backup.Restore(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "nothing was replaced") {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(target, "*restor*")); len(left) != 0 {
		t.Error("left behind:", left)
	}
	renew(backup.Options{Verify: true}) // heals the backup
	_, retired, err := backup.Restore(t.Context(), opt)
	if err != nil || retired == "" {
		t.Fatal(retired, err)
	}
	restored = openAt(t, opt.DB, opt.Blobs)
	restored.pull("a", "v1", "config 1", "shared")
	if _, err := restored.Manifest(t.Context(), "a", tag("v3")); !registry.ManifestUnknown.Is(err) {
		t.Error("what came after the backup is there:", err)
	}
	old := openAt(t, retired, opt.Blobs)
	old.pull("a", "v3", "config 4")
}

// A blob that is damaged in the registry does not stop the backup of the others, and the backup says so.
func TestBackupOfDamage(t *testing.T) {
	f := newFixture(t)
	d := f.blob("a", "content").Digest
	f.blob("a", "other")
	if err := damages["flip"](f.path(d), ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{})
	if err != nil || !slices.Equal(r.Damaged, []digest.Digest{d}) {
		t.Fatal(r, err)
	}
	target := backup.RestoreOptions{From: dir, DB: filepath.Join(t.TempDir(), "reg.db"), Blobs: filepath.Join(t.TempDir(), "blobs")}
	if _, _, err := backup.Restore(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	restored := openAt(t, target.DB, target.Blobs)
	restored.wantGone("a", "content")
	restored.wantThere("a", "other")
	restored.blob("a", "content")
	restored.wantWhole()
}

// Backups under load: each is whole by itself.
func TestBackupUnderLoad(t *testing.T) {
	f := newFixture(t)
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for p := range 4 {
		load.Go(func() {
			repo := registry.RepoName(fmt.Sprint("repo", p%2))
			for i := 0; ctx.Err() == nil; i++ {
				f.put(repo, fmt.Sprintf("v%d-%d", p, i%3), image(f.blob(repo, fmt.Sprint(p, i)), f.blob(repo, fmt.Sprint("shared", i%5))))
				if i%7 == 0 {
					f.DeleteTag(ctx, repo, registry.Tag(fmt.Sprintf("v%d-%d", p, i%3)))
				}
			}
		})
	}
	dir := t.TempDir()
	for range 5 {
		if r, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err != nil || len(r.Damaged) != 0 {
			t.Fatal(r, err)
		}
		b := openAt(t, filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs"))
		b.wantWhole()
		b.close()
	}
	stop()
	load.Wait()
}

// A registry without its database comes back from the blob directory.
func TestRebuild(t *testing.T) {
	f := newFixture(t)
	amd := f.put("a/b", "", image(f.blob("a/b", "amd"), f.blob("a/b", "shared")))
	arm := f.put("a/b", "", image(f.blob("a/b", "arm")))
	f.put("a/b", "multi", index(amd, arm))
	f.put("a/b", "gone", image(f.blob("a/b", "gone")))
	if err := f.ExportJournal(t.Context(), 0); err != nil { // the whole, and from now on what changes
		t.Fatal(err)
	}
	f.put("a/b", "", artifact(f.blob("a/b", "signature"), &amd))
	f.put("c", "v1", image(f.blob("c", "shared")))
	f.put("c", "v1", image(f.blob("c", "second")))
	f.put("c", "v2", image(f.blob("c", "deleted")))
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	moved, err := f.StatManifest(t.Context(), "c", tag("v2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.DeleteTag(t.Context(), "a/b", "gone"), f.DeleteManifest(t.Context(), "c", moved.Digest), f.ExportJournal(t.Context(), 0)); err != nil {
		t.Fatal(err)
	}
	before := f.everything()
	opt := backup.RebuildOptions{DB: filepath.Join(t.TempDir(), "missing", "reg.db"), Blobs: f.root, Schema: dbtest.Schema(t)}
	r, retired, err := backup.Rebuild(t.Context(), opt)
	if err != nil || retired != "" || r.Broken+r.LostTags+r.Damaged != 0 || r.Blobs != 7 {
		t.Fatal(r, retired, err)
	}
	b := openAt(t, opt.DB, f.root)
	if after := b.everything(); !slices.Equal(before, after) {
		t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	b.wantWhole()
	list, err := b.Referrers(t.Context(), "a/b", amd.Digest, "", registry.Page{Limit: 10})
	if err != nil || len(list.Descriptors) != 1 {
		t.Error(list, err)
	}
	b.close()
	// Once more in its place, with a damaged blob and a torn journal.
	if err := damages["flip"](f.path(digest.FromString("arm")), ""); err != nil {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(f.root, "journal"))
	if err == nil {
		err = os.WriteFile(filepath.Join(f.root, "journal"), journal[:len(journal)-5], 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := backup.Rebuild(t.Context(), opt); !errors.Is(err, backup.ErrExists) {
		t.Error(err)
	}
	opt.Replace, opt.ReadData = true, true
	r, retired, err = backup.Rebuild(t.Context(), opt)
	if err != nil || retired == "" || r.Broken != 1 || r.Damaged != 1 {
		t.Error(r, retired, err)
	}
	b = openAt(t, opt.DB, f.root)
	b.blob("a/b", "arm") // heals it
	b.pull("a/b", "multi", "amd", "arm", "shared")
}

// everything lists repositories, tags and manifests.
func (f *fixture) everything() (lines []string) {
	f.t.Helper()
	ctx := context.Background()
	names, _, err := f.Repositories(ctx, registry.Page{Limit: 1000})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, name := range names {
		infos, _, err := f.TagInfos(ctx, registry.RepoName(name), registry.Page{Limit: 1000})
		if err != nil {
			f.t.Fatal(err)
		}
		for _, i := range infos {
			m, err := f.Manifest(ctx, registry.RepoName(name), tag(string(i.Name)))
			lines = append(lines, fmt.Sprint(name, ":", i.Name, " ", m.Digest, m.MediaType, string(m.Content), err))
		}
	}
	err = f.db.View(ctx, func(tx *db.Tx) error {
		all, err := tx.JournalManifests(0, 1000)
		var more []string
		for _, m := range all {
			more = append(more, fmt.Sprint(m.Repository, "@", m.Digest, m.MediaType, string(m.Content)))
		}
		slices.Sort(more)
		lines = append(lines, more...)
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return lines
}

// The journal is written anew when it is lost, cut short, or another registry's, and when most of it is old news.
func TestJournalIsWrittenAnew(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	journal := filepath.Join(f.root, "journal")
	for name, harm := range map[string]func() error{
		"lost":  func() error { return os.Remove(journal) },
		"cut":   func() error { return os.Truncate(journal, 10) },
		"other": func() error { return os.WriteFile(journal, []byte("00000000 {}\n"), 0o600) },
		"none":  func() error { return nil },
	} {
		if err := f.ExportJournal(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		f.put("a", "v2", image(f.blob("a", name)))
		if err := f.ExportJournal(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		opt := backup.RebuildOptions{DB: filepath.Join(t.TempDir(), "reg.db"), Blobs: f.root, Schema: dbtest.Schema(t)}
		if _, _, err := backup.Rebuild(t.Context(), opt); err != nil {
			t.Fatal(err)
		}
		b := openAt(t, opt.DB, f.root)
		if before, after := f.everything(), b.everything(); !slices.Equal(before, after) {
			t.Errorf("%s: before\n%s\nafter\n%s", name, strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
	}
}

// Several processes may export at once: nothing gets lost between them.
func TestJournalOfManyExporters(t *testing.T) {
	f := newFixture(t)
	ctx, stop := context.WithCancel(t.Context())
	var exporters sync.WaitGroup
	for range 3 {
		other := registry.New(registry.Config{DB: f.db, Blobs: f.store})
		exporters.Go(func() {
			for ctx.Err() == nil {
				if err := other.ExportJournal(context.Background(), 0); err != nil {
					t.Error(err)
				}
				if time.Now().UnixNano()%5 == 0 {
					f.store.ReplaceJournal(context.Background(), func(w io.Writer) error { return nil }) // somebody's accident
				}
			}
		})
	}
	for i := range 150 {
		f.put("a", fmt.Sprint("v", i%20), image(f.blob("a", fmt.Sprint(i))))
	}
	stop()
	exporters.Wait()
	f.put("a", "last", image(f.blob("a", "last")))
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	opt := backup.RebuildOptions{DB: filepath.Join(t.TempDir(), "reg.db"), Blobs: f.root, Schema: dbtest.Schema(t)}
	if _, _, err := backup.Rebuild(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if before, after := f.everything(), openAt(t, opt.DB, f.root).everything(); !slices.Equal(before, after) {
		t.Errorf("before %d lines, after %d", len(before), len(after))
	}
}

// Damage in place of a file that a backup shares with the registry is not made good by backing up again.
func TestBackupAgainAfterDamage(t *testing.T) {
	for _, copied := range []bool{false, true} {
		for _, found := range []bool{false, true} {
			f := newFixture(t)
			f.put("a", "v1", image(f.blob("a", "config")))
			dir := filepath.Join(t.TempDir(), "backup")
			renew := func() backup.Report {
				r, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{Copy: copied})
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			renew()
			if err := damages["flip"](f.path(digest.FromString("config")), ""); err != nil {
				t.Fatal(err)
			}
			if found {
				f.wantGone("a", "config")
			}
			r := renew()
			b := openAt(t, filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs"))
			if got, err := b.read("a", digest.FromString("config")); err == nil && got != "config" {
				t.Errorf("copied %v, found %v: served %q", copied, found, got)
			} else if (len(r.Damaged) == 0) != copied || copied != (err == nil) {
				t.Errorf("copied %v, found %v: %+v, %v", copied, found, r, err)
			}
		}
	}
}

// A backup with verification that is broken off takes nothing from the one that is there.
func TestBackupBrokenOff(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	f.blob("a", strings.Repeat("large", 8<<20))
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{Copy: true}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := backup.Make(ctx, f.Registry, dir, backup.Options{Copy: true, Verify: true, Progress: func(backup.Report) { cancel() }}); err == nil {
		t.Error("not broken off")
	}
	openAt(t, filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs")).wantWhole()
}

// A backup onto the registry's own blobs would remove what is pushed meanwhile: whatever stands before the store, and by
// whatever path.
func TestBackupOntoItself(t *testing.T) {
	for name, wrap := range map[string]func(blobs.Store) blobs.Store{
		"directory": func(s blobs.Store) blobs.Store { return s },
		"wrapped":   func(s blobs.Store) blobs.Store { return &blobtest.Faulty{Store: s} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, func(cfg *registry.Config) { cfg.Blobs = wrap(cfg.Blobs) })
			f.put("a", "v1", image(f.blob("a", "config 1")))
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(filepath.Dir(f.root), link); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{filepath.Dir(f.root), link, filepath.Dir(f.file)} {
				if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{Progress: func(backup.Report) {
					f.put("a", "v2", image(f.blob("a", "config 2")))
				}}); err == nil || !strings.Contains(err.Error(), "a backup needs a directory of its own") {
					t.Errorf("%s: %v", dir, err)
				}
			}
			f.pull("a", "v1", "config 1")
			if _, err := os.Stat(filepath.Join(filepath.Dir(f.file), "blobs")); err == nil {
				t.Error("a second directory of blobs was made beside the database")
			}
		})
	}
}

// A backup is not restored onto itself, which would move its database out of the way.
func TestRestoreOntoItself(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config 1")))
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	for _, opt := range []backup.RestoreOptions{
		{DB: filepath.Join(dir, "reg.db"), Blobs: filepath.Join(elsewhere, "blobs")},
		{DB: filepath.Join(elsewhere, "reg.db"), Blobs: filepath.Join(dir, "blobs")},
	} {
		opt.From, opt.Replace = dir, true
		if _, _, err := backup.Restore(t.Context(), opt); err == nil || !strings.Contains(err.Error(), "it can be served as it is") {
			t.Error(err)
		}
	}
	openAt(t, filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs")).wantWhole()
}

// A directory that is missing is made, for its owner alone.
func TestRestoreMakesTheDirectory(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config 1")))
	dir, at := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "new", "place")
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	opt := backup.RestoreOptions{From: dir, DB: filepath.Join(at, "reg.db"), Blobs: filepath.Join(at, "reg.db-blobs")}
	missing := opt
	missing.From = filepath.Join(dir, "missing")
	if _, _, err := backup.Restore(t.Context(), missing); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(at); err == nil {
		t.Error("made for a backup that is not there")
	}
	if _, _, err := backup.Restore(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	openAt(t, opt.DB, opt.Blobs).pull("a", "v1", "config 1")
}

// A backup that stood still and lost the lock may have missed what a collection took: it does not replace a good one.
func TestBackupLosesTheLock(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config 1")))
	dir := filepath.Join(t.TempDir(), "backup")
	_, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{Progress: func(backup.Report) {
		err := f.db.Update(context.Background(), func(tx *db.Tx) error {
			if err := tx.DropLocks(); err != nil {
				return err
			}
			_, _, err := tx.TakeLock("storage", "another", "", db.Lock{})
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}})
	if _, statErr := os.Stat(filepath.Join(dir, "reg.db")); !errors.Is(err, registry.ErrLocked) || statErr == nil {
		t.Error(err, statErr)
	}
}

// A backup that is served is not restored, and one that was served by a process that was killed is restored with what was
// pushed to it.
func TestRestoreOfAServedBackup(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config 1")))
	dir := filepath.Join(t.TempDir(), "backup")
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	served := openAt(t, filepath.Join(dir, "reg.db"), filepath.Join(dir, "blobs"))
	served.put("a", "v2", image(served.blob("a", "config 2")))
	killed := filepath.Join(t.TempDir(), "killed")
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil { // what a killed process leaves
		t.Fatal(err)
	}
	restore := func(from string) (*fixture, error) {
		at := t.TempDir()
		opt := backup.RestoreOptions{From: from, DB: filepath.Join(at, "reg.db"), Blobs: filepath.Join(at, "blobs")}
		if _, _, err := backup.Restore(t.Context(), opt); err != nil {
			return nil, err
		}
		return openAt(t, opt.DB, opt.Blobs), nil
	}
	if _, err := restore(dir); !errors.Is(err, db.ErrInUse) {
		t.Error(err)
	}
	r, err := restore(killed)
	if err != nil {
		t.Fatal(err)
	}
	r.pull("a", "v1", "config 1")
	r.pull("a", "v2", "config 2")
}

// A backup has the tokens that were good when it was made. Restoring says how many, and ends them when asked.
func TestRestoreEndsTokens(t *testing.T) {
	f := newFixture(t)
	var before db.User
	err := f.db.Update(t.Context(), func(tx *db.Tx) error {
		id, err := tx.CreateUser(db.User{Name: "alice", Password: "x", Generation: 7})
		before = db.User{ID: id}
		return errors.Join(err, tx.CreateAPIToken(db.APIToken{User: "alice", Name: "ci", Hash: []byte("h"), Scopes: "pull:**"}),
			tx.CreateRefreshToken(db.RefreshToken{ID: "r", User: "alice"}, tx.Now, 10), tx.RotateSigningKey(db.SigningKey{ID: "k", Secret: []byte("s")}, tx.Now))
	})
	if err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(t.TempDir(), "backup")
	if _, err := backup.Make(t.Context(), f.Registry, from, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	for _, end := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "reg.db")
		report, _, err := backup.Restore(t.Context(), backup.RestoreOptions{From: from, DB: path, Blobs: filepath.Join(dir, "blobs"), EndTokens: end})
		if err != nil || (report.Tokens == 2) == end {
			t.Errorf("%v: %+v, %v", end, report, err)
		}
		err = dbtest.OpenAt(t, path, nil).View(t.Context(), func(tx *db.Tx) error {
			n, err := tx.CountTokens()
			u, userErr := tx.User("alice")
			keys, keyErr := tx.SigningKeys()
			if (n == 0) != end || (u.Generation != 7) != end || (len(keys) == 0) != end || u.ID != before.ID {
				t.Errorf("%v: %d tokens, %+v, %d keys", end, n, u, len(keys))
			}
			return errors.Join(err, userErr, keyErr)
		})
		if err != nil {
			t.Error(err)
		}
		rebuild, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: filepath.Join(dir, "rebuilt.db"), Blobs: filepath.Join(dir, "blobs"), Schema: dbtest.Schema(t)})
		if err != nil || (rebuild.Policy["token"] == 0) != end {
			t.Errorf("%v: the journal: %+v, %v", end, rebuild, err)
		}
	}
}

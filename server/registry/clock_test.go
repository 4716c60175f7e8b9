package registry_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"registry/db"
	"registry/server/check"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// wrong is how far the clock is ahead in these tests before it is put right.
const wrong = 365 * 24 * time.Hour

// ahead does something while the clock is wrong.
func (f *fixture) ahead(do func()) {
	f.pass(wrong)
	do()
	f.pass(-wrong)
}

// What was leased, made and tagged while the clock was ahead is collected in the end, but not before its grace has passed
// by the right clock: the wrong one may have been put right a moment ago.
func TestCollectAfterAWrongClock(t *testing.T) {
	f := newFixture(t, noUndo)
	opt := gc.Options{Grace: 2 * time.Hour, Untagged: true, UntaggedAfter: 2 * time.Hour}
	var blob, mounted, untagged, dangling digest.Digest
	f.ahead(func() {
		blob, mounted = f.blob("a", "loose").Digest, f.blob("a", "mounted").Digest
		if ok, err := f.MountBlob(t.Context(), "b", mounted, "a"); !ok || err != nil {
			t.Fatal(ok, err)
		}
		config := f.blob("c", "config")
		untagged = f.put("c", "", image(config)).Digest
		subject := f.put("c", "", image(config, f.blob("c", "layer")))
		dangling = f.put("c", "", artifact(config, &subject)).Digest
		if err := f.DeleteManifest(t.Context(), "c", subject.Digest); err != nil {
			t.Fatal(err)
		}
	})
	f.collect(opt)
	f.pass(time.Hour)
	f.collect(opt)
	f.wantThere("a", blob, mounted)
	f.wantThere("b", mounted)
	f.wantThere("c", untagged, dangling)
	for range 3 { // what is removed begins the leases of what it held, and what is empty goes last
		f.pass(3 * time.Hour)
		f.collect(opt)
	}
	f.wantFiles(0, 0)
	err := f.db.View(t.Context(), func(tx *db.Tx) error {
		left, err := tx.EmptyRepositories(0, db.Cutoff{Leases: tx.Now.Add(wrong)}, 10)
		if len(left) > 0 {
			t.Error("there are still repositories", left)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// An upload from the future expires, and keeps what its repository was promised for as long as any other.
func TestUploadAfterAWrongClock(t *testing.T) {
	f := newFixture(t)
	f.ahead(func() {
		u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
		if err == nil {
			_, err = f.AppendUpload(t.Context(), "a", u.ID, chunk("some"))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	for i, want := range []int{0, 0, 1} {
		if n, err := f.ExpireUploads(t.Context()); n != want || err != nil {
			t.Errorf("%d: %d expired, %v", i, n, err)
		}
		f.pass(13 * time.Hour)
	}
}

// What was deleted while the clock was ahead can be brought back with its tags, also after a collection, until the undo
// window has passed.
func TestUndeleteAfterAWrongClock(t *testing.T) {
	for _, collected := range []bool{false, true} {
		f := newFixture(t)
		config := f.blob("a", "config")
		v1 := f.put("a", "v1", image(config)).Digest
		v2 := f.put("a", "v2", image(config, f.blob("a", "layer"))).Digest
		f.ahead(func() {
			for _, d := range []digest.Digest{v1, v2} {
				if err := f.DeleteManifest(t.Context(), "a", d); err != nil {
					t.Fatal(err)
				}
				f.pass(time.Second)
			}
		})
		if collected {
			f.collect(gc.Options{Grace: 2 * time.Hour, UndoWindow: 24 * time.Hour})
		}
		for tag, d := range map[registry.Tag]digest.Digest{"v1": v1, "v2": v2} {
			back, err := f.Undelete(t.Context(), "a", d)
			if err != nil || len(back.Tags) != 1 || back.Tags[0] != tag {
				t.Errorf("collected %v: %+v, %v", collected, back, err)
			}
		}
	}
	f := newFixture(t)
	d := f.put("a", "v1", image(f.blob("a", "config"))).Digest
	f.ahead(func() {
		if err := f.DeleteManifest(t.Context(), "a", d); err != nil {
			t.Fatal(err)
		}
	})
	for range 2 {
		f.collect(gc.Options{Grace: 2 * time.Hour, UndoWindow: 24 * time.Hour})
		f.pass(25 * time.Hour)
	}
	if _, err := f.Undelete(t.Context(), "a", d); !registry.ManifestUnknown.Is(err) {
		t.Error("for ever:", err)
	}
}

// A blob that was verified in the future is read by the next scrub.
func TestScrubAfterAWrongClock(t *testing.T) {
	f := newFixture(t)
	f.ahead(func() { f.blob("a", "content") })
	report, err := check.Run(t.Context(), f.Registry, check.Options{ReadData: true, SkipVerified: time.Hour})
	if err != nil || report.Read != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

// What a tag pointed at is found by the order of its changes where their times say nothing.
func TestTagAtAfterAWrongClock(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "config")
	f.put("a", "v", image(config))
	var second digest.Digest
	f.ahead(func() { second = f.put("a", "v", image(config, config)).Digest })
	if d, err := f.TagAt(t.Context(), "a", "v", f.db.Now()); d != second || err != nil {
		t.Error(d, err)
	}
}

// A lock whose beat does not move is taken, whatever time it has; one whose beat moves is not, whatever the clocks do.
func TestLocksAfterAWrongClock(t *testing.T) {
	for _, off := range []time.Duration{wrong, -wrong} {
		f := newFixture(t)
		f.pass(off)
		hold := func(tx *db.Tx) error { _, _, err := tx.TakeLock("storage", "dead", "", db.Lock{}); return err }
		if err := f.db.Update(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
		f.pass(-off)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := gc.Collect(ctx, f.Registry, thorough); !errors.Is(err, context.Canceled) { // it looks once
			t.Error(off, err)
		}
		f.pass(time.Minute)
		beat := func(tx *db.Tx) error { return tx.BeatLock("storage", "dead") }
		if err := f.db.Update(t.Context(), beat); err != nil {
			t.Fatal(err)
		}
		if _, err := gc.Collect(ctx, f.Registry, thorough); !errors.Is(err, context.Canceled) {
			t.Error(off, "taken from a holder who lives:", err)
		}
		f.pass(time.Minute)
		f.collect(thorough)
	}
}

// The journal is written although a process that was writing it died while the clock was ahead.
func TestJournalAfterAWrongClock(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	f.ahead(func() {
		hold := func(tx *db.Tx) error { _, _, err := tx.TakeLock("journal", "dead", "", db.Lock{}); return err }
		if err := f.db.Update(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
	})
	for range 2 {
		if err := f.ExportJournal(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		f.pass(time.Minute)
	}
	if _, err := os.Stat(filepath.Join(f.root, "journal")); err != nil {
		t.Error(err)
	}
}

// A file from the future that no row names goes when it has been there for as long as any other.
func TestOrphanAfterAWrongClock(t *testing.T) {
	f := newFixture(t)
	name := f.orphan("garbage")
	path := filepath.Join(f.root, "sha256", name.Digest.Encoded()[:2], name.Digest.Encoded()+"."+name.Generation)
	if err := os.Chtimes(path, time.Now(), time.Now().Add(wrong)); err != nil {
		t.Fatal(err)
	}
	f.collect(gc.Options{Grace: time.Hour})
	f.wantFiles(1, 0)
	f.pass(2 * time.Hour)
	f.collect(gc.Options{Grace: time.Hour})
	f.wantFiles(0, 0)
}

// The audit forgets what is from the future with what came after it.
func TestAuditAfterAWrongClock(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.AuditKeep = 24 * time.Hour })
	event := func(action string) {
		if err := f.db.Update(t.Context(), func(tx *db.Tx) error { return tx.Audit(db.Event{Action: action}) }); err != nil {
			t.Fatal(err)
		}
	}
	f.ahead(func() { event("ahead") })
	event("old")
	f.pass(48 * time.Hour)
	event("new")
	if err := f.db.Update(t.Context(), func(tx *db.Tx) error { _, err := tx.PruneEvents(tx.Now.Add(-24*time.Hour), 100); return err }); err != nil {
		t.Fatal(err)
	}
	if events, err := f.Audit(t.Context(), registry.EventFilter{}, 10); err != nil || len(events) != 1 {
		t.Errorf("%+v, %v", events, err)
	}
}

// Under a clock that was never set nothing is given its time.
func TestCollectUnderAClockThatWasNeverSet(t *testing.T) {
	f := newFixture(t)
	d := f.put("a", "v1", image(f.blob("a", "config"))).Digest
	if err := f.DeleteManifest(t.Context(), "a", d); err != nil {
		t.Fatal(err)
	}
	now := f.now
	f.pass(time.Unix(0, 0).Sub(now))
	f.collect(gc.Options{Grace: time.Hour, UndoWindow: 24 * time.Hour})
	f.pass(now.Sub(f.now))
	f.collect(gc.Options{Grace: time.Hour, UndoWindow: 24 * time.Hour})
	if _, err := f.Undelete(t.Context(), "a", d); err != nil {
		t.Error(err)
	}
}

// An API token that was made while the clock was ahead lives for as long as it was given, from when the clock was right.
func TestAPITokenAfterAWrongClock(t *testing.T) {
	f := newFixture(t)
	f.ahead(func() {
		err := f.db.Update(t.Context(), func(tx *db.Tx) error {
			_, err := tx.CreateUser(db.User{Name: "alice", Password: "x"})
			for name, expires := range map[string]time.Time{"an hour": tx.Now.Add(time.Hour), "for ever": {}} {
				if err == nil {
					err = tx.CreateAPIToken(db.APIToken{User: "alice", Name: name, Hash: []byte(name), ExpiresAt: expires})
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	if _, err := f.ExpireUploads(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := f.db.View(t.Context(), func(tx *db.Tx) error {
		tokens, err := tx.APITokens("alice")
		if len(tokens) != 2 || tokens[0].ExpiresAt.Sub(tx.Now).Round(time.Second) != time.Hour || !tokens[1].ExpiresAt.IsZero() || db.IsAhead(tokens[1].CreatedAt, tx.Now) {
			t.Errorf("now %v: %+v", tx.Now, tokens)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

package registry_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// thorough collects everything that may be collected at all.
var thorough = gc.Options{Force: true, Untagged: true}

func (f *fixture) collect(opt gc.Options) gc.Report {
	f.t.Helper()
	report, err := gc.Collect(context.Background(), f.Registry, opt)
	if err != nil {
		f.t.Fatal(err)
	}
	return report
}

// wantGone and wantThere look at blobs by their content and at manifests by their descriptor.
func (f *fixture) wantGone(repo registry.RepoName, things ...any) {
	f.t.Helper()
	f.wantAll(repo, false, things)
}
func (f *fixture) wantThere(repo registry.RepoName, things ...any) {
	f.t.Helper()
	f.wantAll(repo, true, things)
}

func (f *fixture) wantAll(repo registry.RepoName, want bool, things []any) {
	f.t.Helper()
	for _, thing := range things {
		var err error
		switch x := thing.(type) {
		case string:
			_, err = f.read(repo, digest.FromString(x))
		case v1.Descriptor:
			_, err = f.Manifest(context.Background(), repo, registry.Reference{Digest: x.Digest})
		}
		if there := err == nil; there != want || err != nil && !registry.BlobUnknown.Is(err) && !registry.ManifestUnknown.Is(err) {
			f.t.Errorf("%v in %s: %v, want it there: %v", thing, repo, err, want)
		}
	}
}

// Whatever a tag reaches stays, at any depth and through any mixture of indexes and referrers.
func TestCollectKeepsWhatIsReached(t *testing.T) {
	f := newFixture(t)
	amd := f.put("a", "", image(f.blob("a", "amd config"), f.blob("a", "amd layer")))
	arm := f.put("a", "", image(f.blob("a", "arm config"), f.blob("a", "shared")))
	inner := f.put("a", "", index(amd, arm))
	outer := f.put("a", "v1", index(inner))
	signature := f.put("a", "", artifact(f.blob("a", "signature"), &amd))
	signed := f.put("a", "", artifact(f.blob("a", "signed"), &signature))
	f.put("b", "v1", image(f.blob("b", "b config"), f.blob("b", "shared")))
	f.pass(1000 * time.Hour)
	if r := f.collect(thorough); r.Manifests+r.Blobs+r.Links+r.Repositories != 0 || !r.Complete {
		t.Errorf("%+v", r)
	}
	f.wantThere("a", amd, arm, inner, outer, signature, signed, "amd config", "amd layer", "arm config", "shared", "signature", "signed")
	// Without the tag everything goes at once, although each of these holds another.
	if err := f.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Fatal(err)
	}
	if r := f.collect(gc.Options{Force: true}); r.Manifests != 0 {
		t.Errorf("untagged manifests went without being asked for: %+v", r)
	}
	f.pass(time.Second)
	if r := f.collect(thorough); r.Manifests != 6 || r.Blobs != 5 {
		t.Errorf("%+v", r)
	}
	f.wantGone("a", amd, arm, inner, outer, signature, signed, "amd config", "shared", "signed")
	f.wantThere("b", "shared", "b config")
	f.wantFiles(2, 0)
	if names, _, err := f.Repositories(t.Context(), registry.Page{Limit: 9}); err != nil || !slices.Equal(names, []string{"b"}) {
		t.Error(names, err)
	}
}

// An index that refers to its own child as its subject holds it, and is held by it. Neither is reached.
func TestCollectCycle(t *testing.T) {
	f := newFixture(t)
	child := f.put("a", "", image(f.blob("a", "config")))
	loop := index(child)
	loop.Subject = &child
	f.put("a", "", loop)
	f.pass(time.Second)
	if r := f.collect(thorough); r.Manifests != 2 {
		t.Errorf("%+v", r)
	}
}

func artifact(config v1.Descriptor, subject *v1.Descriptor) v1.Manifest {
	m := image(config)
	m.Subject = subject
	return m
}

func TestCollectLeases(t *testing.T) {
	f := newFixture(t)
	opt := gc.Options{Grace: 24 * time.Hour, Untagged: true, UntaggedAfter: 168 * time.Hour}
	f.blob("a", "pushed")
	f.blob("a", "asked for")
	f.blob("b", "pushed")
	child := f.put("a", "", image(f.blob("a", "config")))
	f.pass(23 * time.Hour)
	f.collect(opt)
	if _, err := f.StatBlob(t.Context(), "a", digest.FromString("asked for")); err != nil {
		t.Error(err)
	}
	if ok, err := f.MountBlob(t.Context(), "c", digest.FromString("pushed"), "b"); !ok || err != nil {
		t.Error(ok, err)
	}
	f.pass(2 * time.Hour)
	if r := f.collect(opt); r.Links != 2 || r.Blobs != 0 {
		t.Errorf("%+v", r)
	}
	f.wantGone("a", "pushed")
	f.wantGone("b", "pushed")
	f.wantThere("a", "asked for", child, "config")
	f.wantThere("c", "pushed")
	f.pass(24 * time.Hour)
	if r := f.collect(opt); r.Links != 2 || r.Blobs != 2 || r.Bytes != int64(len("pushed")+len("asked for")) {
		t.Errorf("%+v", r)
	}
	// A tag that moves starts the clock of the manifest it leaves.
	f.put("a", "v1", image(f.blob("a", "config")))
	f.pass(200 * time.Hour)
	f.put("a", "v1", image(f.blob("a", "other config")))
	f.pass(100 * time.Hour)
	f.collect(opt)
	f.wantThere("a", child, "config")
	f.pass(100 * time.Hour)
	f.collect(opt)
	f.wantGone("a", child, "config")
	f.wantThere("a", "other config")
}

// A push that takes longer than the grace keeps what it was promised before and since.
func TestCollectKeepsThePushUnderWay(t *testing.T) {
	f := newFixture(t, func(cfg *registry.Config) { cfg.UploadTimeout = 10 * time.Hour })
	opt := gc.Options{Grace: time.Hour, Untagged: true}
	f.blob("a", "skipped") // a HEAD found it
	child := f.put("a", "", image(f.blob("a", "config")))
	f.pass(30 * time.Minute)
	u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		f.pass(50 * time.Minute)
		if u, err = f.AppendUpload(t.Context(), "a", u.ID, chunk("part")); err != nil {
			t.Fatal(err)
		}
		f.collect(opt)
		f.wantThere("a", "skipped", "config", child)
	}
	f.pass(2 * time.Hour) // it was broken off
	f.collect(opt)
	f.wantGone("a", "skipped", "config", child)
	f.wantFiles(0, 1)
	f.pass(10 * time.Hour) // and expires
	f.collect(opt)
	f.wantFiles(0, 0)
}

// The last upload of a long push ends before its manifest comes: what was pushed first is still kept.
func TestCollectKeepsALongPushToItsManifest(t *testing.T) {
	f := newFixture(t)
	opt := gc.Options{Grace: time.Hour, Untagged: true}
	first := f.blob("a", "first")
	u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	f.pass(3 * time.Hour)
	if _, err := f.FinishUpload(t.Context(), "a", u.ID, digest.FromString("last"), chunk("last")); err != nil {
		t.Fatal(err)
	}
	f.collect(opt)
	f.put("a", "v1", image(first, v1.Descriptor{MediaType: "x", Digest: digest.FromString("last"), Size: 4}))
	if _, err := f.UploadStatus(t.Context(), "a", u.ID); !registry.BlobUploadUnknown.Is(err) {
		t.Error("the session can be continued:", err)
	}
	f.pass(25 * time.Hour)
	if n, err := f.ExpireUploads(t.Context()); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// A client that finds a child by its digest does not push it again.
func TestCollectKeepsAManifestThatWasAskedFor(t *testing.T) {
	f := newFixture(t)
	opt := gc.Options{Grace: 2 * time.Hour, Untagged: true}
	child := f.put("a", "", image(f.blob("a", "config")))
	f.pass(3 * time.Hour)
	if _, err := f.StatManifest(t.Context(), "a", registry.Reference{Digest: child.Digest}); err != nil {
		t.Fatal(err)
	}
	f.collect(opt)
	f.put("a", "v1", index(child))
	f.pass(3 * time.Hour)
	f.collect(opt)
	f.pull("a", "v1", "config")
}

// Referrers live as long as their subject, and then for the grace.
func TestCollectDanglingReferrers(t *testing.T) {
	f := newFixture(t, noUndo)
	opt := gc.Options{Grace: time.Hour}
	subject := f.put("a", "v1", image(f.blob("a", "config")))
	referrer := f.put("a", "", artifact(f.blob("a", "signature"), &subject))
	tagged := f.put("a", "keep", artifact(f.blob("a", "tagged"), &subject))
	f.pass(100 * time.Hour)
	f.collect(opt)
	f.wantThere("a", referrer)
	if err := f.DeleteManifest(t.Context(), "a", subject.Digest); err != nil {
		t.Fatal(err)
	}
	f.pass(30 * time.Minute)
	f.collect(opt)
	f.wantThere("a", referrer, "signature")
	f.pass(time.Hour)
	f.collect(opt)
	f.wantGone("a", referrer, subject, "signature", "config")
	f.wantThere("a", tagged, "tagged")
}

func noUndo(cfg *registry.Config) { cfg.UndoWindow = -1 }

// What is deleted can be undeleted until the window ends, and is gone from the disk after it.
func TestCollectHonoursTheUndoWindow(t *testing.T) {
	f := newFixture(t)
	opt := gc.Options{Grace: time.Hour, Untagged: true, UndoWindow: 168 * time.Hour}
	m := f.put("a", "v1", image(f.blob("a", "config")))
	f.pass(24 * time.Hour)
	if err := f.DeleteRepository(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	f.pass(167 * time.Hour)
	f.collect(opt)
	f.wantFiles(1, 0)
	f.wantGone("a", m, "config")
	back, err := f.Undelete(t.Context(), "a", m.Digest)
	if err != nil || len(back.Manifests) != 1 || !slices.Equal(back.Tags, []registry.Tag{"v1"}) {
		t.Error(back, err)
	}
	f.wantThere("a", m, "config")
	if err := f.DeleteManifest(t.Context(), "a", m.Digest); err != nil {
		t.Fatal(err)
	}
	f.pass(169 * time.Hour)
	if r := f.collect(opt); r.Deleted != 1 || r.Blobs != 1 || r.Bytes != int64(len("config")) {
		t.Errorf("%+v", r)
	}
	f.wantFiles(0, 0)
	if _, err := f.Undelete(t.Context(), "a", m.Digest); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
}

// orphan stores a file without a row.
func (f *fixture) orphan(content string) blobs.Name {
	f.t.Helper()
	ctx := context.Background()
	name := blobs.Name{Digest: digest.FromString(content), Generation: strings.Repeat("7", 32)}
	stage, err := f.store.Stage(ctx, name.Generation, 0)
	if err == nil {
		_, err = stage.Write([]byte(content))
		err = errors.Join(err, stage.Close())
	}
	if err == nil {
		_, err = f.store.Commit(ctx, name.Generation, name, int64(len(content)))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return name
}

func TestCollectFilesAndUploads(t *testing.T) {
	f := newFixture(t, noUndo)
	f.put("a", "v1", image(f.blob("a", "config")))
	orphan := f.orphan("orphan")
	if r := f.collect(thorough); r.Files != 0 {
		t.Errorf("a file that may be waiting for its row went: %+v", r)
	}
	f.pass(2 * time.Hour)
	var found []gc.Garbage
	opt := thorough
	opt.Found = func(g gc.Garbage) { found = append(found, g) }
	if r := f.collect(opt); r.Files != 1 || r.Bytes != 6 || len(found) != 1 || found[0].Kind != "file" || found[0].Digest != orphan.Digest {
		t.Errorf("%+v, %+v", r, found)
	}
	f.wantThere("a", "config")
	f.wantFiles(1, 0)
}

// A dry run says what a collection then does, and does nothing.
func TestCollectDryRun(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config"), f.blob("a", "layer")))
	f.put("a", "v1", image(f.blob("a", "config"), f.blob("a", "new layer")))
	f.blob("b", "loose")
	f.pass(48 * time.Hour)
	run := func(dry bool) (lines []string, r gc.Report) {
		r = f.collect(gc.Options{Grace: 24 * time.Hour, Untagged: true, UntaggedAfter: 24 * time.Hour, DryRun: dry,
			Found: func(g gc.Garbage) {
				lines = append(lines, fmt.Sprint(g.Kind, g.Repository, g.Digest, g.Bytes, g.Why, g.Since))
			}})
		r.Took, r.LongestLock, r.DryRun = 0, 0, false
		return lines, r
	}
	dryLines, dry := run(true)
	f.wantFiles(4, 0)
	lines, report := run(false)
	if dry != report || !slices.Equal(dryLines, lines) || report.Manifests != 1 || report.Blobs != 2 {
		t.Errorf("rehearsed %+v\n%s\nand did %+v\n%s", dry, strings.Join(dryLines, "\n"), report, strings.Join(lines, "\n"))
	}
}

func TestCollectWithinATime(t *testing.T) {
	f := newFixture(t)
	for i := range 300 {
		f.blob("a", fmt.Sprint(i))
	}
	f.pass(time.Hour)
	opt := thorough
	opt.MaxDuration = time.Nanosecond
	if r := f.collect(opt); r.Complete || r.Blobs != 0 {
		t.Errorf("%+v", r)
	}
	// Each goes on where the one before stopped, if it has time enough to come so far.
	for opt.MaxDuration = time.Millisecond; !f.collect(opt).Complete; {
		opt.MaxDuration += opt.MaxDuration/2 + 1
	}
	f.wantFiles(0, 0)
}

func TestCollectExcludesOthers(t *testing.T) {
	f := newFixture(t)
	hold := func(tx *db.Tx) error {
		if err := tx.DropLocks(); err != nil {
			return err
		}
		_, _, err := tx.TakeLock("storage", "another", "backup", db.Lock{})
		return err
	}
	if err := f.db.Update(t.Context(), hold); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := gc.Collect(ctx, f.Registry, thorough); !errors.Is(err, context.DeadlineExceeded) {
		t.Error("it did not wait:", err)
	}
	f.pass(time.Minute) // the other gives no sign of life
	f.collect(thorough)
	// One that loses the lock in the middle removes nothing more.
	for i := range 250 {
		f.blob("a", fmt.Sprint(i))
	}
	f.pass(time.Hour)
	opt := thorough
	opt.Progress = func(r gc.Report) {
		f.pass(time.Minute)
		if err := f.db.Update(context.Background(), hold); err != nil {
			t.Error(err)
		}
	}
	if r, err := gc.Collect(t.Context(), f.Registry, opt); !errors.Is(err, registry.ErrLocked) || r.Blobs > 100 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A grace under the hour breaks pushes, and has to be meant.
func TestCollectGrace(t *testing.T) {
	f := newFixture(t)
	if _, err := gc.Collect(t.Context(), f.Registry, gc.Options{Grace: time.Minute}); err == nil {
		t.Error("accepted")
	}
}

// What comes between the look and the removal keeps what it needs.
func TestCollectAsksAgain(t *testing.T) {
	f := newFixture(t)
	for i := range 101 { // two batches: the first is held up while the second is looked at
		f.blob("a", fmt.Sprint(i))
	}
	f.pass(time.Hour)
	opt := thorough
	once := false
	opt.Progress = func(gc.Report) {
		if once {
			return
		}
		once = true
		f.put("a", "v1", image(f.blob("a", "config"), v1.Descriptor{MediaType: "x", Digest: digest.FromString("100"), Size: 3}))
	}
	f.collect(opt)
	f.wantThere("a", "100", "config")
}

// An image that is brought back, copied or pushed sparse while a blob of it is damaged holds the blob all the same: when
// somebody else heals it, it stays.
func TestCollectKeepsWhatWasDamaged(t *testing.T) {
	for name, bring := range map[string]func(f *fixture, m v1.Descriptor) (registry.RepoName, error){
		"undelete": func(f *fixture, m v1.Descriptor) (registry.RepoName, error) {
			err := f.DeleteManifest(t.Context(), "a", m.Digest)
			if err == nil {
				_, err = f.Undelete(t.Context(), "a", m.Digest)
			}
			return "a", err
		},
		"copy": func(f *fixture, m v1.Descriptor) (registry.RepoName, error) {
			_, err := f.Copy(t.Context(), "a", tag("v1"), "b", []registry.Tag{"v1"}, true)
			return "b", err
		},
		"sparse": func(f *fixture, m v1.Descriptor) (registry.RepoName, error) {
			err := f.DeleteManifest(t.Context(), "a", m.Digest)
			f.Registry = registry.New(registry.Config{DB: f.db, Blobs: f.store, Sparse: registry.SparseAll})
			f.put("a", "v1", image(v1.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("config"), Size: 6},
				v1.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromString("layer"), Size: 5}))
			return "a", err
		},
	} {
		f := newFixture(t)
		layer := f.blob("a", "layer")
		m := f.put("a", "v1", image(f.blob("a", "config"), layer))
		if err := damages["deletion"](f.path(layer.Digest), ""); err != nil {
			t.Fatal(err)
		}
		f.wantGone("a", "layer") // which marks it
		repo, err := bring(f, m)
		if err != nil {
			t.Fatal(name, err)
		}
		f.blob("c", "layer") // heals it
		f.wantThere(repo, "layer")
		f.pass(1000 * time.Hour)
		f.collect(thorough)
		f.pull(repo, "v1", "config", "layer")
	}
}

// An index was pushed when its child was only a blob. It holds the child as soon as that is a manifest, too.
func TestCollectKeepsChildThatWasABlob(t *testing.T) {
	f := newFixture(t)
	child := image(f.blob("a", "config"))
	content, _ := encode(child)
	both := f.blob("a", string(content))
	both.MediaType = v1.MediaTypeImageManifest
	f.put("a", "v1", index(both))
	f.put("a", "", child)
	f.pass(1000 * time.Hour)
	f.collect(thorough)
	f.wantThere("a", both, "config", string(content))
}

// A digest may be that of a blob and of a manifest. An index that lists it loses one, and then the other.
func TestDeleteBlobAndManifestOfOneDigest(t *testing.T) {
	f := newFixture(t)
	child := image(f.blob("a", "config"))
	content, _ := encode(child)
	both := f.blob("a", string(content))
	both.MediaType = v1.MediaTypeImageManifest
	f.put("a", "v1", index(both))
	f.put("a", "", child)
	f.put("a", "v1", index(both))
	if err := f.DeleteBlob(t.Context(), "a", both.Digest); err != nil {
		t.Error(err)
	}
	if err := f.DeleteManifest(t.Context(), "a", both.Digest); err != nil {
		t.Error(err)
	}
}

// A client is told that a layer is here while only an old manifest holds it, which goes before the push comes to its end.
func TestCollectKeepsWhatHeadFound(t *testing.T) {
	f := newFixture(t)
	config, layer := f.blob("a", "config"), f.blob("a", "layer")
	f.put("a", "", image(config, layer))
	f.pass(48 * time.Hour)
	if _, err := f.StatBlob(t.Context(), "a", layer.Digest); err != nil {
		t.Fatal(err)
	}
	f.pass(59 * time.Minute)
	if r := f.collect(gc.Options{Grace: time.Hour, Untagged: true}); r.Manifests != 1 {
		t.Errorf("%+v", r)
	}
	f.put("a", "v1", image(f.blob("a", "config"), layer))
	f.pull("a", "v1", "config", "layer")
}

// After much was removed the file of the database shrinks; writing it anew takes the rest.
func TestCollectGivesPagesBack(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	size := func() int64 {
		info, err := os.Stat(f.file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	for _, value := range []string{strings.Repeat("x", 5000), ""} {
		err := f.db.Update(t.Context(), func(tx *db.Tx) error {
			for i := range 2000 {
				if err := tx.SetNote(fmt.Sprint("note ", i), value); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			err = f.db.Checkpoint(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	large := size()
	r := f.collect(thorough)
	if small := size(); small > large/2 || r.Database < large/2 {
		t.Errorf("%d bytes before, %d after, %d reported", large, small, r.Database)
	}
	between, opt := size(), thorough
	opt.Compact = true
	if r := f.collect(opt); size() >= between || r.Database <= 0 {
		t.Errorf("%d bytes before, %d after, %d reported", between, size(), r.Database)
	}
	f.wantWhole()
	f.pull("a", "v1", "config")
}

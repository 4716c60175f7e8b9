package registry_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"registry/blobs"
	"registry/server/check"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// path is where the bytes of a blob are.
func (f *fixture) path(d digest.Digest) (path string) {
	f.t.Helper()
	err := f.store.Names(context.Background(), "", func(n blobs.Name, _ blobs.Info) error {
		if n.Digest == d {
			path = filepath.Join(f.root, d.Algorithm().String(), d.Encoded()[:2], d.Encoded()+"."+n.Generation)
		}
		return nil
	})
	if err != nil || path == "" {
		f.t.Fatal(d, "has no file", err)
	}
	return path
}

// damages are what happens to files.
var damages = map[string]func(path string, other string) error{
	"flip": func(path, _ string) error {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content[rand.IntN(len(content))] ^= 1 << rand.IntN(8)
		return os.WriteFile(path, content, 0o600)
	},
	"truncation": func(path, _ string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, rand.Int64N(info.Size()))
	},
	"growth": func(path, _ string) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		_, err = f.Write([]byte("x"))
		return errors.Join(err, f.Close())
	},
	"deletion": func(path, _ string) error { return os.Remove(path) },
	"swap": func(path, other string) error {
		return errors.Join(os.Rename(path, path+".tmp"), os.Rename(other, path), os.Rename(path+".tmp", other))
	},
	// Another file of the same size, with the time of the first: what rsync or a careless restore leaves.
	"replacement": func(path, _ string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(os.Remove(path), os.WriteFile(path, make([]byte, info.Size()), 0o600), os.Chtimes(path, info.ModTime(), info.ModTime()))
	},
}

// A hundred damaged blobs: each is found by whoever comes first, a check, a HEAD, a GET, a range or a mount; none is
// served as if it were whole; each is healed by pushing it again.
func TestDamage(t *testing.T) {
	f := newFixture(t)
	contents, tags := map[digest.Digest]string{}, map[digest.Digest]string{}
	var digests []digest.Digest
	for i := range 120 {
		content := strings.Repeat(fmt.Sprint("content ", i, " "), 1+rand.IntN(5000))
		d := f.blob("a", content)
		contents[d.Digest], tags[d.Digest] = content, fmt.Sprint("a:v", i)
		f.put("a", fmt.Sprint("v", i), image(d))
		digests = append(digests, d.Digest)
	}
	damaged := digests[:100]
	i := 0
	for len(damaged) > i {
		for name, damage := range damages {
			if i < len(damaged) {
				// The other of a swap is one that is looked at, too.
				if err := damage(f.path(damaged[i]), f.path(digests[100+i%20])); err != nil {
					t.Fatal(name, err)
				}
				i++
			}
		}
	}
	// Before anybody has looked: what the reader gets is the blob, or an error.
	for n, d := range digests {
		wrong := func(err error) bool { return err == nil || !registry.BlobUnknown.Is(err) }
		var err error
		switch n % 4 {
		case 0:
			_, err = f.StatBlob(t.Context(), "a", d)
		case 1:
			var got string
			if got, err = f.read("a", d); err == nil && got != contents[d] {
				t.Errorf("%s was served with other bytes", d)
			}
		case 2:
			var b *registry.Blob
			if b, err = f.Blob(t.Context(), "a", d); err == nil {
				b.Close()
			}
		case 3:
			var mounted bool
			if mounted, err = f.MountBlob(t.Context(), "b", d, "a"); err == nil && !mounted {
				err = registry.BlobUnknown.With(nil)
			}
		}
		if n < 100 && wrong(err) {
			t.Errorf("damaged blob %d, asked in way %d: %v", n, n%4, err)
		}
	}
	found := map[digest.Digest]check.Finding{}
	report, err := check.Run(t.Context(), f.Registry, check.Options{ReadData: true, Repair: true, Found: func(x check.Finding) { found[x.Digest] = x }})
	if err != nil || !report.Complete {
		t.Fatal(report, err)
	}
	for _, d := range damaged {
		if x := found[d]; !x.Repaired || len(x.Tags) != 1 || x.Tags[0] != tags[d] {
			t.Errorf("%s: %+v", d, x)
		}
		if _, err := f.StatBlob(t.Context(), "a", d); !registry.BlobUnknown.Is(err) {
			t.Error("HEAD of a damaged blob:", err)
		}
	}
	for _, d := range digests {
		f.blob("a", contents[d])
		if got, err := f.read("a", d); got != contents[d] {
			t.Errorf("pushed again, but %v", err)
		}
	}
	f.collect(gc.Options{Grace: time.Hour})
	report, err = check.Run(t.Context(), f.Registry, check.Options{ReadData: true, Found: func(x check.Finding) { t.Errorf("%+v", x) }})
	if err != nil || report.Read != 120 {
		t.Error(report, err)
	}
}

// A large blob is checked while it is served: its last bytes are held back until the digest is known.
func TestDamageOfALargeBlob(t *testing.T) {
	f := newFixture(t)
	content := strings.Repeat("0123456789abcdef", 9<<20/16)
	d := f.blob("a", content).Digest
	if err := damages["flip"](f.path(d), ""); err != nil {
		t.Fatal(err)
	}
	b, err := f.Blob(t.Context(), "a", d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got, err := io.ReadAll(b)
	if !registry.BlobUnknown.Is(err) || b.Err() == nil || len(got) >= len(content) {
		t.Errorf("%d of %d bytes, %v", len(got), len(content), err)
	}
	if _, err := f.StatBlob(t.Context(), "a", d); !registry.BlobUnknown.Is(err) {
		t.Error(err)
	}
	f.blob("a", content)
	if got, err := f.read("a", d); got != content {
		t.Error(err)
	}
	// A file that only looks different is served, whole or in part, and is not read again after that.
	for _, whole := range []bool{true, false} {
		later := time.Now().Add(time.Hour)
		if err := os.Chtimes(f.path(d), later, later); err != nil {
			t.Fatal(err)
		}
		b, err := f.Blob(t.Context(), "a", d)
		if err != nil {
			t.Fatal(err)
		}
		if _, plain := b.File.(*os.File); plain {
			t.Error("a file that looks different is trusted")
		}
		offset := int64(5)
		if whole {
			offset = 0
		}
		if _, err := b.Seek(offset, io.SeekStart); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(b); string(got) != content[offset:] || err != nil || b.Err() != nil {
			t.Error(len(got), err)
		}
		b.Close()
		if b, err = f.Blob(t.Context(), "a", d); err != nil {
			t.Fatal(err)
		}
		if _, plain := b.File.(*os.File); !plain {
			t.Error("a verified file is still suspicious")
		}
		b.Close()
	}
}

// moved gives a file the looks of a copy that cp -a or rsync made on another machine.
func (f *fixture) moved(d digest.Digest) {
	f.t.Helper()
	path := f.path(d)
	info, err := os.Stat(path)
	content, reading := os.ReadFile(path)
	err = errors.Join(err, reading, os.WriteFile(path+".copy", content, 0o600), os.Chtimes(path+".copy", info.ModTime(), info.ModTime()), os.Rename(path+".copy", path))
	if err != nil {
		f.t.Fatal(err)
	}
}

// isVerified says whether the bytes are known to be right.
func (f *fixture) isVerified(d digest.Digest) (verified bool) {
	f.t.Helper()
	b, err := f.Blob(context.Background(), "a", d)
	if err != nil {
		f.t.Fatal(err)
	}
	defer b.Close()
	_, verified = b.File.(*os.File)
	return verified
}

// After a move to another machine a HEAD or a mount of a large blob reads nothing, and says nothing of its bytes; they are
// read by and by.
func TestMovedBlobsAreReadLater(t *testing.T) {
	store := &countedReads{}
	f := newFixture(t, func(c *registry.Config) { store.Store, c.Blobs = c.Blobs, store })
	content := strings.Repeat("0123456789abcdef", 9<<20/16)
	good, bad := f.blob("a", content).Digest, f.blob("a", content+"x").Digest
	f.moved(good)
	f.moved(bad)
	if err := damages["flip"](f.path(bad), ""); err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{good, bad, good} {
		if size, err := f.StatBlob(t.Context(), "a", d); err != nil || size < 9<<20 {
			t.Error(size, err)
		}
		if mounted, err := f.MountBlob(t.Context(), "b", d, "a"); !mounted || err != nil {
			t.Error(mounted, err)
		}
	}
	if n := store.opened.Load(); n != 0 {
		t.Errorf("%d files were opened", n)
	}
	if f.isVerified(good) {
		t.Error("bytes that were not read are taken for right")
	}
	stop := maintain(f.Registry)
	for !f.isVerified(good) { // which ends, or the test does not
		time.Sleep(time.Millisecond)
	}
	for !registry.BlobUnknown.Is(f.stat("a", bad)) {
		time.Sleep(time.Millisecond)
	}
	stop()
	f.blob("a", content+"x")
	if got, err := f.read("a", bad); got != content+"x" || err != nil {
		t.Error(len(got), err)
	}
}

func (f *fixture) stat(repo registry.RepoName, d digest.Digest) error {
	_, err := f.StatBlob(context.Background(), repo, d)
	return err
}

// countedReads counts what is opened.
type countedReads struct {
	blobs.Store
	opened atomic.Int64
}

func (c *countedReads) Open(ctx context.Context, name blobs.Name) (blobs.File, blobs.Info, error) {
	c.opened.Add(1)
	return c.Store.Open(ctx, name)
}

// A store that is gone as a whole is no reason to forget every blob.
func TestLostStoreMarksNothing(t *testing.T) {
	f := newFixture(t)
	d := f.blob("a", "content").Digest
	if err := os.Rename(f.root, f.root+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.read("a", d); !registry.Internal.Is(err) {
		t.Error(err)
	}
	if _, err := check.Run(t.Context(), f.Registry, check.Options{Repair: true}); err == nil {
		t.Error("the check went on")
	}
	if err := os.Rename(f.root+".away", f.root); err != nil {
		t.Fatal(err)
	}
	if got, err := f.read("a", d); got != "content" {
		t.Error(got, err)
	}
}

func TestCheckFindsMore(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "config")
	f.put("a", "v1", image(config, f.blob("a", "layer")))
	kinds := func(opt check.Options) (kinds []string) {
		opt.Found = func(x check.Finding) { kinds = append(kinds, x.Kind) }
		if _, err := check.Run(t.Context(), f.Registry, opt); err != nil {
			t.Error(err)
		}
		return kinds
	}
	if got := kinds(check.Options{ReadData: true}); len(got) != 0 {
		t.Error(got)
	}
	if err := f.DeleteBlob(t.Context(), "a", config.Digest); err != nil {
		t.Fatal(err)
	}
	if got := kinds(check.Options{}); fmt.Sprint(got) != "[reference]" {
		t.Error(got)
	}
	sparse := registry.New(registry.Config{DB: f.db, Blobs: f.store, Sparse: registry.SparseAll})
	if r, err := check.Run(t.Context(), sparse, check.Options{}); err != nil || r.Findings != 0 {
		t.Error(r, err)
	}
	// A mark that is wrong is cleared by repair.
	layer := digest.FromString("layer")
	if err := os.Rename(f.path(layer), f.root+".aside"); err != nil {
		t.Fatal(err)
	}
	f.wantGone("a", "layer")
	if err := os.Rename(f.root+".aside", filepath.Join(f.root, "sha256", layer.Encoded()[:2], layer.Encoded()+"."+f.row(layer))); err != nil {
		t.Fatal(err)
	}
	f.blob("a", "config")
	if got := kinds(check.Options{}); fmt.Sprint(got) != "[damaged]" {
		t.Error(got)
	}
	if got := kinds(check.Options{Repair: true}); len(got) != 0 {
		t.Error(got)
	}
	f.wantThere("a", "layer", "config")
}

// unreadable is a store whose files cannot be opened at the moment.
type unreadable struct {
	*blobs.Dir
	err error
}

func (u unreadable) Open(context.Context, blobs.Name) (blobs.File, blobs.Info, error) {
	return nil, blobs.Info{}, &os.PathError{Op: "open", Path: "x", Err: u.err}
}

// A check that cannot open a file does not take it from the clients, unless it is the disk that cannot read it.
func TestCheckThatCannotRead(t *testing.T) {
	for _, why := range []error{syscall.EMFILE, syscall.EACCES, syscall.EIO} {
		f := newFixture(t)
		f.put("a", "v1", image(f.blob("a", "config")))
		findings := 0
		r := registry.New(registry.Config{DB: f.db, Blobs: unreadable{f.store, why}})
		_, err := check.Run(t.Context(), r, check.Options{ReadData: true, Repair: true, Found: func(check.Finding) { findings++ }})
		if err != nil || findings != 1 {
			t.Error(why, err, findings)
		}
		if _, err := f.read("a", digest.FromString("config")); (err == nil) != (why != syscall.EIO) {
			t.Error(why, err)
		}
	}
}

// The rate holds for small blobs, too: at a byte a second what is beyond the first breath takes longer than anybody waits.
func TestCheckKeepsToItsRate(t *testing.T) {
	f := newFixture(t)
	for i := range 3 {
		f.blob("a", strings.Repeat(fmt.Sprint(i), 200_000))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if r, err := check.Run(ctx, f.Registry, check.Options{ReadData: true, Rate: 1}); err == nil {
		t.Errorf("everything was read: %+v", r)
	}
	if r, err := check.Run(t.Context(), f.Registry, check.Options{ReadData: true, Rate: 1 << 30}); err != nil || r.Read != 3 {
		t.Error(r, err)
	}
}

// What du shows is checked against what there is.
func TestCheckOfUsage(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	c, err := sql.Open("sqlite", f.file)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.ExecContext(t.Context(), "UPDATE usage SET alone = alone + 1 WHERE repository_id > 0"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct{ repair, found bool }{{false, true}, {true, true}, {false, false}} {
		var found []check.Finding
		_, err := check.Run(t.Context(), f.Registry, check.Options{Repair: step.repair, Found: func(f check.Finding) { found = append(found, f) }})
		if err != nil || (len(found) == 1) != step.found || step.found && found[0].Repaired != step.repair {
			t.Errorf("%+v: %+v, %v", step, found, err)
		}
	}
}

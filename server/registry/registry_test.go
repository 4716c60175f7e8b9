package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// fixture is a registry over a real database and a real directory, with a clock of its own.
type fixture struct {
	*registry.Registry
	t     testing.TB
	db    *db.DB
	store *blobs.Dir
	file  string // of the database
	root  string // of the store
	close func() // of one that openAt made
	mu    sync.Mutex
	now   time.Time
}

func newFixture(t testing.TB, change ...func(*registry.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, now: time.Now(), file: filepath.Join(t.TempDir(), "reg.db")}
	f.db = dbtest.OpenAt(t, f.file, func() time.Time {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.now
	})
	var err error
	f.root = filepath.Join(t.TempDir(), "blobs")
	if f.store, err = blobs.OpenDir(t.Context(), f.root, blobs.DirOptions{}); err != nil {
		t.Fatal(err)
	}
	cfg := registry.Config{DB: f.db, Blobs: f.store}
	for _, c := range change {
		c(&cfg)
	}
	f.Registry = registry.New(cfg)
	return f
}

func (f *fixture) pass(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func chunk(s string) registry.Chunk {
	return registry.Chunk{Body: strings.NewReader(s), Start: -1, Length: -1}
}

func (f *fixture) blob(repo registry.RepoName, content string) v1.Descriptor {
	f.t.Helper()
	d := digest.FromString(content)
	if err := f.PutBlob(context.Background(), repo, d, chunk(content)); err != nil {
		f.t.Fatal(err)
	}
	return v1.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(content))}
}

func (f *fixture) put(repo registry.RepoName, ref string, manifest any) v1.Descriptor {
	f.t.Helper()
	desc, err := f.tryPut(repo, ref, manifest)
	if err != nil {
		f.t.Fatal(err)
	}
	return desc
}

// tryPut pushes a manifest, by its digest if ref is empty.
func (f *fixture) tryPut(repo registry.RepoName, ref string, manifest any) (v1.Descriptor, error) {
	content, mediaType := encode(manifest)
	d := digest.FromBytes(content)
	if ref == "" {
		ref = d.String()
	}
	parsed, err := registry.ParseReference(ref)
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = f.PutManifest(context.Background(), repo, registry.Put{Ref: parsed, MediaType: mediaType, Content: content})
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}, err
}

func encode(manifest any) (content []byte, mediaType string) {
	content, _ = json.Marshal(manifest)
	switch m := manifest.(type) {
	case v1.Manifest:
		mediaType = m.MediaType
	case v1.Index:
		mediaType = m.MediaType
	}
	return content, mediaType
}

func image(config v1.Descriptor, layers ...v1.Descriptor) v1.Manifest {
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: config, Layers: append([]v1.Descriptor{}, layers...)}
	m.SchemaVersion = 2
	return m
}

func index(children ...v1.Descriptor) v1.Index {
	m := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: append([]v1.Descriptor{}, children...)}
	m.SchemaVersion = 2
	return m
}

func tag(s string) registry.Reference { return registry.Reference{Tag: registry.Tag(s)} }

func (f *fixture) read(repo registry.RepoName, d digest.Digest) (string, error) {
	b, err := f.Blob(context.Background(), repo, d)
	if err != nil {
		return "", err
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	return string(content), err
}

func TestUploadInChunks(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		u, err := f.StartUpload(ctx, "a/b", alg)
		if err != nil {
			t.Fatal(err)
		}
		if u, err = f.AppendUpload(ctx, "a/b", u.ID, chunk("hello ")); err != nil || u.Offset != 6 {
			t.Fatal(u, err)
		}
		if u, err = f.AppendUpload(ctx, "a/b", u.ID, registry.Chunk{Body: strings.NewReader("x"), Start: 3, Length: 1}); !registry.RangeInvalid.Is(err) || u.Offset != 6 {
			t.Fatal(u, err)
		}
		if u, err = f.AppendUpload(ctx, "a/b", u.ID, registry.Chunk{Body: strings.NewReader("wor"), Start: 6, Length: 5}); !registry.BlobUploadInvalid.Is(err) || u.Offset != 6 {
			t.Fatal(u, err)
		}
		if _, err := f.UploadStatus(ctx, "other", u.ID); !registry.BlobUploadUnknown.Is(err) {
			t.Error("another repository sees the session:", err)
		}
		want := alg.FromString("hello world")
		if u, err = f.FinishUpload(ctx, "a/b", u.ID, alg.FromString("other"), chunk("world")); !registry.DigestInvalid.Is(err) || u.Offset != 6 {
			t.Fatal(u, err)
		}
		if u, err = f.FinishUpload(ctx, "a/b", u.ID, want, chunk("world")); err != nil || u.Offset != 11 {
			t.Fatal(u, err)
		}
		if got, err := f.read("a/b", want); err != nil || got != "hello world" {
			t.Error(got, err)
		}
		if _, err := f.read("other", want); !registry.BlobUnknown.Is(err) {
			t.Error("another repository has the blob:", err)
		}
		if _, err := f.UploadStatus(ctx, "a/b", u.ID); !registry.BlobUploadUnknown.Is(err) {
			t.Error("the session is still there:", err)
		}
	}
}

// The client names sha512 only when it closes an upload that was hashed with sha256 on the way in.
func TestAlgorithmNamedAtTheEnd(t *testing.T) {
	f := newFixture(t)
	for want, ok := range map[digest.Digest]bool{digest.SHA512.FromString("hello"): true, digest.SHA512.FromString("other"): false} {
		u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.AppendUpload(t.Context(), "a", u.ID, chunk("hello")); err != nil {
			t.Fatal(err)
		}
		_, err = f.FinishUpload(t.Context(), "a", u.ID, want, chunk(""))
		if ok && err != nil || !ok && !registry.DigestInvalid.Is(err) {
			t.Errorf("%s: %v", want, err)
		}
		if got, err := f.read("a", want); ok != (err == nil && got == "hello") {
			t.Errorf("%s: %q, %v", want, got, err)
		}
	}
	f.wantFiles(1, 0)
}

func (f *fixture) wantFiles(committed, staged int) {
	f.t.Helper()
	c, s := 0, 0
	err := errors.Join(
		f.store.Names(context.Background(), "", func(blobs.Name, blobs.Info) error { c++; return nil }),
		f.store.Staged(context.Background(), func(string, blobs.Info) error { s++; return nil }))
	if err != nil || c != committed || s != staged {
		f.t.Errorf("%d committed and %d staged files, want %d and %d; %v", c, s, committed, staged, err)
	}
}

// brokenBody gives its text and then fails, as a body does whose client went away.
type brokenBody struct{ io.Reader }

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestUploadGoesOnAfterBreakAndRestart(t *testing.T) {
	f := newFixture(t)
	u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if u, err = f.AppendUpload(t.Context(), "a", u.ID, registry.Chunk{Body: brokenBody{strings.NewReader("hello ")}, Start: -1, Length: -1}); !registry.BlobUploadInvalid.Is(err) || u.Offset != 6 {
		t.Fatal(u, err)
	}
	// What a killed server wrote but did not record is cut off.
	stage, err := f.store.Stage(t.Context(), u.ID, 6)
	if err == nil {
		_, err = stage.Write([]byte("unrecorded"))
		err = errors.Join(err, stage.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	again := registry.New(registry.Config{DB: f.db, Blobs: f.store})
	if u, err = again.UploadStatus(t.Context(), "a", u.ID); err != nil || u.Offset != 6 {
		t.Fatal(u, err)
	}
	if _, err := again.FinishUpload(t.Context(), "a", u.ID, digest.FromString("hello world"), chunk("world")); err != nil {
		t.Fatal(err)
	}
	if got, err := f.read("a", digest.FromString("hello world")); got != "hello world" {
		t.Error(got, err)
	}
}

// A server that is stopped in good order leaves a row even for uploads without bytes.
func TestEmptyUploadGoesOnAfterStop(t *testing.T) {
	f := newFixture(t)
	for _, settled := range []bool{false, true} {
		u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if settled {
			f.SettleUploads(t.Context())
		}
		again := registry.New(registry.Config{DB: f.db, Blobs: f.store})
		_, err = again.FinishUpload(t.Context(), "a", u.ID, digest.FromString("hello"), chunk("hello"))
		if settled && err != nil || !settled && !registry.BlobUploadUnknown.Is(err) {
			t.Errorf("settled %t: %v", settled, err)
		}
	}
}

// What a refused chunk or a killed server left in the staged file never becomes part of a blob, even if the closing
// request has no body that would be written over it.
func TestLeftoversAreCutOff(t *testing.T) {
	f := newFixture(t)
	d := digest.FromString("hello")
	for name, leave := range map[string]func(id string){
		"wrong length": func(id string) {
			c := registry.Chunk{Body: strings.NewReader("xyz"), Start: 5, Length: 9}
			if _, err := f.AppendUpload(t.Context(), "a", id, c); !registry.BlobUploadInvalid.Is(err) {
				t.Error(err)
			}
		},
		"wrong digest": func(id string) {
			if _, err := f.FinishUpload(t.Context(), "a", id, d, chunk("xyz")); !registry.DigestInvalid.Is(err) {
				t.Error(err)
			}
		},
		"killed": func(id string) {
			stage, err := f.store.Stage(t.Context(), id, 5)
			if err == nil {
				_, err = stage.Write([]byte("xyz"))
				err = errors.Join(err, stage.Close())
			}
			if err != nil {
				t.Error(err)
			}
		},
	} {
		u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
		if err == nil {
			_, err = f.AppendUpload(t.Context(), "a", u.ID, chunk("hello"))
		}
		if err != nil {
			t.Fatal(err)
		}
		leave(u.ID)
		if _, err := f.FinishUpload(t.Context(), "a", u.ID, d, registry.Chunk{Body: strings.NewReader(""), Start: -1, Length: 0}); err != nil {
			t.Error(name, err)
		}
		if got, err := f.read("a", d); got != "hello" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// The closing request names sha512, brings the whole content, and breaks off: what came is hashed with sha512 when the
// upload goes on.
func TestBrokenCloseWithAnotherAlgorithm(t *testing.T) {
	f := newFixture(t)
	d := digest.SHA512.FromString("hello world")
	u, err := f.StartUpload(t.Context(), "a", digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	broken := registry.Chunk{Body: brokenBody{strings.NewReader("hello ")}, Start: -1, Length: -1}
	if u, err = f.FinishUpload(t.Context(), "a", u.ID, d, broken); !registry.BlobUploadInvalid.Is(err) || u.Offset != 6 {
		t.Fatal(u, err)
	}
	if _, err := f.FinishUpload(t.Context(), "a", u.ID, d, chunk("world")); err != nil {
		t.Error(err)
	}
	if got, err := f.read("a", d); got != "hello world" {
		t.Error(got, err)
	}
}

// A session of another boot may have lost bytes that its hash has seen.
func TestUploadOfAnotherBootIsUnknown(t *testing.T) {
	f := newFixture(t)
	id := strings.Repeat("ab", 16)
	err := f.db.Relaxed(t.Context(), func(tx *db.Tx) error {
		return tx.CreateUpload(db.Upload{ID: id, Repository: "a", Algorithm: digest.SHA256, HashState: []byte{}, BootID: "another"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.AppendUpload(t.Context(), "a", id, chunk("x")); !registry.BlobUploadUnknown.Is(err) {
		t.Error(err)
	}
}

func TestUploadsExpire(t *testing.T) {
	f := newFixture(t)
	u, _ := f.StartUpload(t.Context(), "a", digest.SHA256)
	f.AppendUpload(t.Context(), "a", u.ID, chunk("x"))
	f.pass(23 * time.Hour)
	fresh, _ := f.StartUpload(t.Context(), "a", digest.SHA256)
	f.AppendUpload(t.Context(), "a", fresh.ID, chunk("x"))
	f.wantFiles(0, 2)
	f.pass(2 * time.Hour)
	if n, err := f.ExpireUploads(t.Context()); n != 1 || err != nil {
		t.Error(n, err)
	}
	f.wantFiles(0, 1)
	if _, err := f.UploadStatus(t.Context(), "a", u.ID); !registry.BlobUploadUnknown.Is(err) {
		t.Error(err)
	}
	if _, err := f.UploadStatus(t.Context(), "a", fresh.ID); err != nil {
		t.Error(err)
	}
	if err := f.CancelUpload(t.Context(), "a", fresh.ID); err != nil {
		t.Error(err)
	}
	f.wantFiles(0, 0)
}

// A session without bytes is written down when it does not move, so that other processes know of it too.
func TestEmptyUploads(t *testing.T) {
	f := newFixture(t)
	again := registry.New(registry.Config{DB: f.db, Blobs: f.store})
	u, _ := f.StartUpload(t.Context(), "a", digest.SHA256)
	if _, err := again.UploadStatus(t.Context(), "a", u.ID); !registry.BlobUploadUnknown.Is(err) {
		t.Error(err)
	}
	f.pass(2 * time.Minute)
	if n, err := f.ExpireUploads(t.Context()); n != 0 || err != nil {
		t.Error(n, err)
	}
	if _, err := again.FinishUpload(t.Context(), "a", u.ID, digest.FromString("x"), chunk("x")); err != nil {
		t.Error(err)
	}
	if _, err := f.AppendUpload(t.Context(), "a", u.ID, chunk("x")); !registry.BlobUploadUnknown.Is(err) {
		t.Error(err)
	}
	cancelled, _ := f.StartUpload(t.Context(), "a", digest.SHA256)
	if err := f.CancelUpload(t.Context(), "a", cancelled.ID); err != nil {
		t.Error(err)
	}
	if err := f.CancelUpload(t.Context(), "a", cancelled.ID); !registry.BlobUploadUnknown.Is(err) {
		t.Error(err)
	}
	if _, err := f.AppendUpload(t.Context(), "a", cancelled.ID, chunk("x")); !registry.BlobUploadUnknown.Is(err) {
		t.Error(err)
	}
	f.wantFiles(1, 0)
}

// A single POST that a crash cut has bytes but no session.
func TestOrphansExpire(t *testing.T) {
	f := newFixture(t)
	stage, err := f.store.Stage(t.Context(), strings.Repeat("cd", 16), 0)
	if err != nil {
		t.Fatal(err)
	}
	stage.Close()
	if n, err := f.ExpireUploads(t.Context()); n != 0 || err != nil {
		t.Error(n, err)
	}
	f.pass(25 * time.Hour)
	if n, err := f.ExpireUploads(t.Context()); n != 1 || err != nil {
		t.Error(n, err)
	}
	f.wantFiles(0, 0)
}

func TestTooManyUploads(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.MaxUploads = 2 })
	for i := range 3 {
		if _, err := f.StartUpload(t.Context(), "a", digest.SHA256); registry.TooManyRequests.Is(err) != (i == 2) {
			t.Error(i, err)
		}
	}
	if _, err := f.StartUpload(t.Context(), "b", digest.SHA256); err != nil {
		t.Error(err)
	}
}

// Two chunks at once without a Content-Range: both are taken, one after the other, whole.
func TestConcurrentChunks(t *testing.T) {
	f := newFixture(t)
	u, _ := f.StartUpload(t.Context(), "a", digest.SHA256)
	a, b := strings.Repeat("a", 1<<20), strings.Repeat("b", 1<<20)
	var wg sync.WaitGroup
	for _, s := range []string{a, b} {
		wg.Go(func() {
			if _, err := f.AppendUpload(t.Context(), "a", u.ID, chunk(s)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, err := f.FinishUpload(t.Context(), "a", u.ID, digest.FromString(a+b), chunk(""))
	if err != nil {
		_, err = f.FinishUpload(t.Context(), "a", u.ID, digest.FromString(b+a), chunk(""))
	}
	if err != nil {
		t.Error(err)
	}
}

func TestSameBlobFromManyPushers(t *testing.T) {
	f := newFixture(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for j := range 4 {
				f.blob(registry.RepoName(fmt.Sprint("r", i%8)), fmt.Sprint("content ", j))
			}
		})
	}
	wg.Wait()
	for i := range 8 {
		for j := range 4 {
			want := fmt.Sprint("content ", j)
			if got, err := f.read(registry.RepoName(fmt.Sprint("r", i)), digest.FromString(want)); got != want {
				t.Error(got, err)
			}
		}
	}
	f.wantFiles(4, 0)
}

// Readers never see a blob missing while pushes of the same content replace its file.
func TestReadWhileReplaced(t *testing.T) {
	f := newFixture(t)
	d := f.blob("a", "content").Digest
	stop := make(chan bool)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(stop)
		for range 200 {
			f.blob("b", "content")
		}
	})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if got, err := f.read("a", d); got != "content" {
					t.Error(got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	f.wantFiles(1, 0)
}

func TestMount(t *testing.T) {
	f := newFixture(t)
	d := f.blob("a", "content").Digest
	for _, c := range []struct {
		repo, from registry.RepoName
		d          digest.Digest
		want       bool
	}{{"b", "a", d, true}, {"c", "", d, true}, {"d", "nope", d, false}, {"d", "a", digest.FromString("x"), false}, {"d", "", digest.FromString("x"), false}} {
		if got, err := f.MountBlob(t.Context(), c.repo, c.d, c.from); got != c.want || err != nil {
			t.Error(c, got, err)
		}
		if got, err := f.read(c.repo, c.d); (got == "content") != c.want {
			t.Error(c, got, err)
		}
	}
}

func TestManifestNeedsItsContent(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	layer := v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromString("layer"), Size: 5}
	_, err := f.tryPut("a", "latest", image(config, layer))
	if !registry.ManifestBlobUnknown.Is(err) || !strings.Contains(err.Error(), layer.Digest.String()) {
		t.Error(err)
	}
	f.blob("b", "layer") // another repository's does not count
	if _, err := f.tryPut("a", "latest", image(config, layer)); !registry.ManifestBlobUnknown.Is(err) {
		t.Error(err)
	}
	if names, _, err := f.Repositories(t.Context(), registry.Page{Limit: 10}); len(names) != 0 || err != nil {
		t.Error("a refused push left a repository:", names, err)
	}
	f.blob("a", "layer")
	layer.Size++
	if _, err := f.tryPut("a", "latest", image(config, layer)); !registry.ManifestInvalid.Is(err) {
		t.Error("a wrong size was accepted:", err)
	}
	layer.Size--
	pushed := f.put("a", "latest", image(config, layer))
	m, err := f.Manifest(t.Context(), "a", tag("latest"))
	content, _ := encode(image(config, layer))
	if err != nil || !bytes.Equal(m.Content, content) || m.Digest != pushed.Digest || m.MediaType != v1.MediaTypeImageManifest {
		t.Error(m, err)
	}
	if _, err := f.tryPut("a", "i", index(v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1})); !registry.ManifestBlobUnknown.Is(err) {
		t.Error(err)
	}
	f.put("a", "i", index(pushed))
	f.put("a", "cache", index(layer, config)) // a build cache lists blobs in an index
}

func TestSparse(t *testing.T) {
	absent := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1}
	for sparse, want := range map[registry.Sparse][2]bool{registry.SparseNone: {false, false}, registry.SparseIndex: {true, false}, registry.SparseAll: {true, true}} {
		f := newFixture(t, func(c *registry.Config) { c.Sparse = sparse })
		if _, err := f.tryPut("a", "i", index(absent)); (err == nil) != want[0] {
			t.Error(sparse, "index", err)
		}
		if _, err := f.tryPut("a", "m", image(absent)); (err == nil) != want[1] {
			t.Error(sparse, "image", err)
		}
	}
}

func TestTagsAndDigests(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	one, two := f.put("a", "v1", image(config)), f.put("a", "v2", image(config, config))
	f.put("a", "latest", image(config))
	if tags, more, err := f.Tags(t.Context(), "a", registry.Page{Limit: 2}); err != nil || !more || fmt.Sprint(tags) != "[latest v1]" {
		t.Error(tags, more, err)
	}
	if tags, more, err := f.Tags(t.Context(), "a", registry.Page{Last: "m", Limit: 2}); err != nil || more || fmt.Sprint(tags) != "[v1 v2]" {
		t.Error(tags, more, err)
	}
	if tags, more, err := f.Tags(t.Context(), "a", registry.Page{}); err != nil || more || len(tags) != 0 {
		t.Error(tags, more, err)
	}
	if err := f.DeleteTag(t.Context(), "a", "v1"); err != nil {
		t.Error(err)
	}
	if err := f.DeleteTag(t.Context(), "a", "v1"); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
	if _, err := f.StatManifest(t.Context(), "a", registry.Reference{Digest: one.Digest}); err != nil {
		t.Error("deleting a tag deleted the manifest:", err)
	}
	if err := f.DeleteManifest(t.Context(), "a", one.Digest); err != nil {
		t.Error(err)
	}
	if _, err := f.Manifest(t.Context(), "a", tag("latest")); !registry.ManifestUnknown.Is(err) {
		t.Error("the tag of a deleted manifest is still there:", err)
	}
	if err := f.DeleteManifest(t.Context(), "a", two.Digest); err != nil {
		t.Error(err)
	}
	if names, _, err := f.Repositories(t.Context(), registry.Page{Limit: 10}); len(names) != 0 || err != nil {
		t.Error("an empty repository is listed:", names, err)
	}
}

func TestManyTagsAtOnce(t *testing.T) {
	f := newFixture(t)
	content, mediaType := encode(image(f.blob("a", "{}")))
	p := registry.Put{Ref: registry.Reference{Digest: digest.SHA512.FromBytes(content)}, MediaType: mediaType, Content: content}
	for i := range 12 {
		p.Tags = append(p.Tags, registry.Tag(fmt.Sprint("t", i)))
	}
	res, err := f.PutManifest(t.Context(), "a", p)
	if err != nil || res.Digest != p.Ref.Digest {
		t.Fatal(res, err)
	}
	for _, name := range p.Tags {
		if m, err := f.StatManifest(t.Context(), "a", registry.Reference{Tag: name}); err != nil || m.Digest != res.Digest {
			t.Error(name, m, err)
		}
	}
	p.Ref.Digest = digest.FromString("other")
	if _, err := f.PutManifest(t.Context(), "a", p); !registry.DigestInvalid.Is(err) {
		t.Error(err)
	}
}

func (f *fixture) referrers(repo registry.RepoName, subject digest.Digest, artifactType string) (list []v1.Descriptor) {
	f.t.Helper()
	page := registry.Page{Limit: 7}
	for {
		r, err := f.Referrers(context.Background(), repo, subject, artifactType, page)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, raw := range r.Descriptors {
			var d v1.Descriptor
			if err := json.Unmarshal([]byte(raw), &d); err != nil {
				f.t.Fatal(err)
			}
			list = append(list, d)
		}
		if page.Last = r.Last; !r.More {
			return list
		}
	}
}

func TestReferrers(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	subject := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("later"), Size: 5}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			m := image(config)
			m.Subject, m.ArtifactType, m.Annotations = &subject, fmt.Sprint("type/", i%2), map[string]string{"n": fmt.Sprint(i)}
			for range 2 { // pushed twice, listed once
				f.put("a", "", m)
			}
		})
	}
	wg.Wait()
	all := f.referrers("a", subject.Digest, "")
	seen := map[string]bool{}
	for _, d := range all {
		seen[d.Annotations["n"]] = true
	}
	if len(all) != 30 || len(seen) != 30 {
		t.Errorf("%d referrers, %d different", len(all), len(seen))
	}
	if n := len(f.referrers("a", subject.Digest, "type/1")); n != 15 {
		t.Error(n, "of one type")
	}
	if err := f.DeleteManifest(t.Context(), "a", all[0].Digest); err != nil {
		t.Error(err)
	}
	if n := len(f.referrers("a", subject.Digest, "")); n != 29 {
		t.Error(n, "after a deletion")
	}
	if n := len(f.referrers("b", subject.Digest, "")); n != 0 {
		t.Error(n, "in another repository")
	}
	if _, err := f.Referrers(t.Context(), "a", subject.Digest, "", registry.Page{Last: "x", Limit: 1}); !registry.PaginationInvalid.Is(err) {
		t.Error(err)
	}
}

// A client that did not know the referrers API kept a list under a tag.
func TestReferrersUnderTheFallbackTag(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	subject := f.put("a", "v1", image(config))
	known := image(config)
	known.Subject, known.ArtifactType = &subject, "type/known"
	listed := f.put("a", "", known)
	tagged := f.put("a", "", image(config, config, config))
	tagged.ArtifactType = "type/tagged"
	fallback := index(listed, tagged)
	f.put("a", strings.Replace(subject.Digest.String(), ":", "-", 1), fallback)
	if n := len(f.referrers("a", subject.Digest, "")); n != 2 {
		t.Error(n, "referrers, want each once")
	}
	if got := f.referrers("a", subject.Digest, "type/tagged"); len(got) != 1 || got[0].Digest != tagged.Digest {
		t.Error(got)
	}
	if err := f.DeleteManifest(t.Context(), "a", tagged.Digest); err != nil {
		t.Error(err)
	}
	if n := len(f.referrers("a", subject.Digest, "")); n != 1 {
		t.Error(n, "referrers, one of them deleted")
	}
}

// What a manifest lost by a deletion it holds again when it comes back.
func TestDeletedBlobComesBack(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	child := f.put("a", "v1", image(config))
	parent := f.put("a", "i", index(child))
	if err := f.DeleteBlob(t.Context(), "a", config.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := f.StatBlob(t.Context(), "a", config.Digest); !registry.BlobUnknown.Is(err) {
		t.Error(err)
	}
	if _, err := f.tryPut("a", "again", image(config)); !registry.ManifestBlobUnknown.Is(err) {
		t.Error("a manifest without its blob was accepted:", err)
	}
	held := func() (n int) {
		t.Helper()
		err := f.db.View(t.Context(), func(tx *db.Tx) error {
			m, err := tx.StatManifest("a", child.Digest)
			if err != nil {
				return err
			}
			list, err := tx.BlobsOf(m.ID)
			n = len(list)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := held(); n != 0 {
		t.Error("holds", n)
	}
	f.blob("a", "{}")
	if n := held(); n != 1 {
		t.Error("holds", n)
	}
	if err := f.DeleteManifest(t.Context(), "a", child.Digest); err != nil {
		t.Fatal(err)
	}
	f.put("a", "", image(config))
	err := f.db.View(t.Context(), func(tx *db.Tx) error {
		m, err := tx.StatManifest("a", parent.Digest)
		if err != nil {
			return err
		}
		children, err := tx.Children(m.ID)
		if len(children) != 1 {
			t.Error("the index holds", len(children))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCopy(t *testing.T) {
	f := newFixture(t)
	config := f.blob("a", "{}")
	child := f.put("a", "", image(config))
	root := f.put("a", "v1", index(child))
	signature := image(config, config)
	signature.Subject = &child
	f.put("a", "", signature)
	res, err := f.Copy(t.Context(), "a", tag("v1"), "b", []registry.Tag{"x", "y"}, true)
	if err != nil || res.Digest != root.Digest || res.Manifests != 3 || res.Blobs != 1 {
		t.Error(res, err)
	}
	if got, err := f.read("b", config.Digest); got != "{}" {
		t.Error(got, err)
	}
	if n := len(f.referrers("b", child.Digest, "")); n != 1 {
		t.Error(n, "referrers came along")
	}
	if err := f.DeleteRepository(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if _, _, err := f.Tags(t.Context(), "a", registry.Page{Limit: 1}); !registry.NameUnknown.Is(err) {
		t.Error(err)
	}
	for _, name := range []string{"x", "y"} {
		if m, err := f.Manifest(t.Context(), "b", tag(name)); err != nil || m.Digest != root.Digest {
			t.Error(m, err)
		}
	}
	if res, err := f.Copy(t.Context(), "b", tag("x"), "c", []registry.Tag{"z"}, false); err != nil || res.Manifests != 2 {
		t.Error(res, err)
	}
	if _, err := f.Copy(t.Context(), "b", tag("nope"), "c", nil, false); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
}

func TestHeadRenewsOldLeases(t *testing.T) {
	f := newFixture(t)
	d := f.blob("a", "content").Digest
	leased := func() (at time.Time) {
		t.Helper()
		err := f.db.View(t.Context(), func(tx *db.Tx) error {
			b, err := tx.Blob("a", d)
			at = b.LeasedAt
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	first := leased()
	stat := func() {
		if _, err := f.StatBlob(t.Context(), "a", d); err != nil {
			t.Error(err)
		}
	}
	f.pass(10 * time.Minute)
	if stat(); leased() != first {
		t.Error("a young lease was renewed")
	}
	f.pass(time.Hour)
	if stat(); leased() == first {
		t.Error("an old lease was not renewed")
	}
}

// generation returns the name of the file that has the content.
func (f *fixture) generation(content string) (name blobs.Name) {
	f.store.Names(context.Background(), "", func(n blobs.Name, _ blobs.Info) error {
		if n.Digest == digest.FromString(content) {
			name = n
		}
		return nil
	})
	return name
}

// row returns the generation that the database has for a blob.
func (f *fixture) row(d digest.Digest) (generation string) {
	err := f.db.View(context.Background(), func(tx *db.Tx) error {
		b, err := tx.StoredBlob(d)
		generation = b.Generation
		return err
	})
	if err != nil {
		f.t.Error(err)
	}
	return generation
}

func TestDatabaseAndBlobsBelongTogether(t *testing.T) {
	f := newFixture(t)
	if err := f.CheckPair(t.Context()); err != nil {
		t.Error(err)
	}
	f.blob("a", "content")
	if err := f.CheckPair(t.Context()); err != nil {
		t.Error(err)
	}
	// Once they have been served together, files without rows are those of a crash.
	f.pass(100 * time.Hour)
	if err := f.store.Remove(t.Context(), blobs.Name{Digest: digest.FromString("content"), Generation: f.row(digest.FromString("content"))}); err != nil {
		t.Fatal(err)
	}
	f.collect(thorough)
	f.orphan("orphan")
	if err := f.CheckPair(t.Context()); err != nil {
		t.Error(err)
	}
	f.blob("a", "content")
	lost := registry.New(registry.Config{DB: dbtest.Open(t), Blobs: f.store})
	if err := lost.CheckPair(t.Context()); !errors.Is(err, registry.ErrLostDatabase) {
		t.Error(err)
	}
	other := newFixture(t)
	moved := registry.New(registry.Config{DB: f.db, Blobs: other.store})
	for range 2 { // an empty directory, then that of another registry
		if err := moved.CheckPair(t.Context()); !errors.Is(err, registry.ErrLostBlobs) {
			t.Error(err)
		}
		other.blob("a", "other")
	}
	f.blob("a", "second")
	if err := f.store.Remove(t.Context(), f.generation("content")); err != nil {
		t.Error(err)
	}
	if err := f.CheckPair(t.Context()); err != nil {
		t.Error("one lost file of two:", err)
	}
}

func TestReadyAndTotals(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "{}")))
	if err := f.Writable(t.Context()); err != nil {
		t.Error(err)
	}
	got, err := f.Totals(t.Context())
	if want := (registry.Totals{Repositories: 1, Manifests: 1, Tags: 1, Blobs: 1, Bytes: 2}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	infos, _, err := f.RepositoryInfos(t.Context(), registry.Page{Limit: 9})
	if err != nil || len(infos) != 1 || infos[0].Tags != 1 || infos[0].LastPush.IsZero() {
		t.Error(infos, err)
	}
}

// Sessions count whether they have a row or not, for their repository and for their user.
func TestUploadsInMemoryAndRowsCountTogether(t *testing.T) {
	f := newFixture(t, func(c *registry.Config) { c.MaxUploads = 3 })
	alice, bob := f.As(registry.Actor{User: "alice"}), f.As(registry.Actor{User: "bob"})
	start := func(r *registry.Registry, repo registry.RepoName) (registry.Upload, error) {
		return r.StartUpload(t.Context(), repo, digest.SHA256)
	}
	for range 2 { // with a row
		u, err := start(alice, "a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := alice.AppendUpload(t.Context(), "a", u.ID, registry.Chunk{Body: strings.NewReader("x"), Start: -1, Length: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := start(alice, "a"); err != nil { // without
		t.Fatal(err)
	}
	for _, x := range []struct {
		r    *registry.Registry
		repo registry.RepoName
		ok   bool
	}{{bob, "a", false}, {alice, "b", false}, {bob, "b", true}} {
		if _, err := start(x.r, x.repo); (err == nil) != x.ok || err != nil && !registry.TooManyRequests.Is(err) {
			t.Error(x.repo, err)
		}
	}
}

package syncer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/check"
	"registry/server/registry"
	"registry/server/syncer"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRegistry(t *testing.T) *registry.Registry {
	t.Helper()
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return registry.New(registry.Config{DB: dbtest.Open(t), Blobs: store})
}

// origin is a registry to copy from, which can be made to misbehave.
type origin struct {
	*registry.Registry
	t    *testing.T
	host string
	mu   sync.Mutex
	evil func(http.ResponseWriter, *http.Request) bool // whether it has answered in its place
	got  []string                                      // "GET /v2/…" of every request
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{Registry: newRegistry(t), t: t}
	s, err := server.New(server.Config{Registry: o.Registry})
	if err != nil {
		t.Fatal(err)
	}
	handler := s.Handler()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.got = append(o.got, r.Method+" "+strings.TrimPrefix(r.URL.Path, "/v2/"))
		evil := o.evil
		o.mu.Unlock()
		if evil == nil || !evil(w, r) {
			handler.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(ts.Close)
	o.host = strings.TrimPrefix(ts.URL, "http://")
	return o
}

func (o *origin) turn(evil func(http.ResponseWriter, *http.Request) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.evil = evil
}

// asked returns what it was asked since the last time, sorted, without the question of the API's version.
func (o *origin) asked() (list []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list, o.got = o.got, nil
	slices.Sort(list)
	return list
}

func (o *origin) blob(repo, content string) v1.Descriptor {
	o.t.Helper()
	d := digest.FromString(content)
	err := o.PutBlob(o.t.Context(), registry.RepoName(repo), d, registry.Chunk{Body: strings.NewReader(content), Start: -1, Length: int64(len(content))})
	if err != nil {
		o.t.Fatal(err)
	}
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(content))}
}

// put pushes a manifest under tags and returns its descriptor.
func (o *origin) put(repo, mediaType string, manifest any, tags ...registry.Tag) v1.Descriptor {
	o.t.Helper()
	content, err := json.MarshalIndent(manifest, "", "   ") // as nobody else writes it
	if err != nil {
		o.t.Fatal(err)
	}
	d := digest.FromBytes(content)
	_, err = o.PutManifest(o.t.Context(), registry.RepoName(repo), registry.Put{Ref: registry.Reference{Digest: d}, Tags: tags, MediaType: mediaType, Content: content})
	if err != nil {
		o.t.Fatal(err)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

// image pushes one with two layers, of which one is in every image.
func (o *origin) image(repo, layer string, tags ...registry.Tag) v1.Descriptor {
	return o.about(repo, layer, nil, tags...)
}

func (o *origin) about(repo, layer string, subject *v1.Descriptor, tags ...registry.Tag) v1.Descriptor {
	o.t.Helper()
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: o.blob(repo, "{}"), Layers: []v1.Descriptor{o.blob(repo, "base"), o.blob(repo, layer)}, Subject: subject}
	m.SchemaVersion = 2
	m.Config.MediaType = v1.MediaTypeImageConfig
	return o.put(repo, m.MediaType, m, tags...)
}

// index pushes one of images for linux.
func (o *origin) index(repo string, images map[string]v1.Descriptor, tags ...registry.Tag) v1.Descriptor {
	m := v1.Index{MediaType: v1.MediaTypeImageIndex}
	m.SchemaVersion = 2
	for _, arch := range []string{"amd64", "arm64"} {
		d := images[arch]
		d.Platform = &v1.Platform{OS: "linux", Architecture: arch}
		m.Manifests = append(m.Manifests, d)
	}
	return o.put(repo, m.MediaType, m, tags...)
}

// target is a registry that is copied to.
type target struct {
	*registry.Registry
	*syncer.Syncer
	t     *testing.T
	mu    sync.Mutex
	now   time.Time
	slept []time.Duration
}

func newTarget(t *testing.T) *target {
	t.Helper()
	x := &target{Registry: newRegistry(t), t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	x.Syncer = syncer.New(syncer.Config{Registry: x.Registry, Stall: 5 * time.Second, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Now: func() time.Time { x.mu.Lock(); defer x.mu.Unlock(); return x.now },
		Sleep: func(ctx context.Context, d time.Duration) error {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.slept, x.now = append(x.slept, d), x.now.Add(d)
			return ctx.Err()
		}})
	t.Cleanup(x.Close)
	return x
}

// entries parses entries that copy from an origin, which they call HOST.
func entries(t *testing.T, o *origin, text string) []syncer.Entry {
	t.Helper()
	list, err := syncer.Parse([]byte(strings.ReplaceAll("creds: [{registry: 'HOST', tls: disabled}]\n"+text, "HOST", o.host)), "")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const appEntry = "sync: [{source: HOST/team/app, target: copy/app, type: repository}]"

// run runs entries, and returns their results: "copied team/app:v1", and so on.
func (x *target) run(list []syncer.Entry) (results []string, reports []syncer.Report) {
	for _, e := range list {
		r := x.Run(x.t.Context(), e, false)
		for _, o := range r.Images {
			_, name, _ := strings.Cut(o.Source, "/")
			results = append(results, string(o.Result)+" "+name)
		}
		reports = append(reports, r)
	}
	return results, reports
}

func (x *target) wants(list []syncer.Entry, want ...string) []syncer.Report {
	x.t.Helper()
	got, reports := x.run(list)
	if d := cmp.Diff(want, got); d != "" {
		x.t.Fatalf("- want, + got\n%s", d)
	}
	return reports
}

// has sees that a tag and everything of it is as the origin has it.
func (x *target) has(o *origin, from, to registry.RepoName, ref registry.Reference) {
	x.t.Helper()
	a, err := o.Manifest(x.t.Context(), from, ref)
	if err != nil {
		x.t.Fatal(err)
	}
	b, err := x.Manifest(x.t.Context(), to, ref)
	if err != nil {
		x.t.Fatalf("%s:%s: %v", to, ref, err)
	}
	if d := cmp.Diff(a, b); d != "" {
		x.t.Errorf("%s:%s: %s", to, ref, d)
	}
	var m struct {
		Layers    []v1.Descriptor
		Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(b.Content, &m); err != nil {
		x.t.Fatal(err)
	}
	for _, l := range m.Layers {
		blob, err := x.Blob(x.t.Context(), to, l.Digest)
		if err != nil {
			x.t.Fatal(err)
		}
		content, _ := io.ReadAll(blob)
		blob.Close()
		if digest.FromBytes(content) != l.Digest {
			x.t.Errorf("blob %s is %q", l.Digest, content)
		}
	}
	for _, child := range m.Manifests {
		x.has(o, from, to, registry.Reference{Digest: child.Digest})
	}
}

func tagged(tag registry.Tag) registry.Reference { return registry.Reference{Tag: tag} }

func TestSync(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	o.image("team/app", "one", "v1")
	o.index("team/app", map[string]v1.Descriptor{"amd64": o.image("team/app", "amd"), "arm64": o.image("team/app", "arm")}, "v2")
	app := entries(t, o, appEntry)
	dry := x.Run(t.Context(), app[0], true)
	if dry.Count(syncer.Would) != 2 {
		t.Errorf("%+v", dry)
	}
	if got := o.asked(); slices.ContainsFunc(got, func(s string) bool {
		return strings.Contains(s, "blobs") || strings.HasPrefix(s, "GET team/app/manifests")
	}) {
		t.Errorf("a dry run asked %q", got)
	}
	if _, _, err := x.Tags(t.Context(), "copy/app", registry.Page{}); !registry.NameUnknown.Is(err) {
		t.Errorf("a dry run left something: %v", err)
	}
	reports := x.wants(app, "copied team/app:v1", "copied team/app:v2")
	for _, tag := range []registry.Tag{"v1", "v2"} {
		x.has(o, "team/app", "copy/app", tagged(tag))
	}
	blobs := 0
	for _, i := range reports[0].Images {
		blobs += i.Blobs
	}
	o.asked()
	if blobs != 5 {
		t.Errorf("%d blobs were fetched", blobs)
	}
	// Nothing has changed.
	x.wants(app, "same team/app:v1", "same team/app:v2")
	want := []string{"GET team/app/tags/list", "HEAD team/app/manifests/v1", "HEAD team/app/manifests/v2"}
	if d := cmp.Diff(want, o.asked()); d != "" {
		t.Error(d)
	}
	// A tag has moved.
	moved := o.image("team/app", "two", "v1")
	x.wants(app, "copied team/app:v1", "same team/app:v2")
	want = []string{"GET team/app/blobs/" + digest.FromString("two").String(), "GET team/app/manifests/" + moved.Digest.String(),
		"GET team/app/tags/list", "HEAD team/app/manifests/v1", "HEAD team/app/manifests/v2"}
	if d := cmp.Diff(want, o.asked()); d != "" {
		t.Error(d)
	}
	x.has(o, "team/app", "copy/app", tagged("v1"))
	// Something was lost here.
	if err := x.DeleteBlob(t.Context(), "copy/app", digest.FromString("arm")); err != nil {
		t.Fatal(err)
	}
	x.wants(app, "same team/app:v1", "copied team/app:v2")
	x.has(o, "team/app", "copy/app", tagged("v2"))
	// What is here somewhere is linked.
	o.asked()
	x.wants(entries(t, o, strings.ReplaceAll(appEntry, "copy/app", "second")), "copied team/app:v1", "copied team/app:v2")
	for _, asked := range o.asked() {
		if strings.Contains(asked, "blobs") {
			t.Errorf("fetched what is here: %s", asked)
		}
	}
	x.has(o, "team/app", "second", tagged("v2"))
}

func TestSyncTypes(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	for _, tag := range []registry.Tag{"v1.0.0", "v1.4.2", "v2.0.0", "v2.1.0-rc.1", "latest"} {
		o.image("team/app", string(tag), tag)
	}
	pinned := o.image("team/other", "x", "v1")
	list := entries(t, o, `
sync:
  - {source: HOST/team/app, target: ranged, type: repository, tags: {semverRange: ['>=1.4 <2', '^2']}}
  - {source: HOST/team/app, target: matched, type: repository, tags: {allow: ['v1\..*'], deny: ['.*\.2']}}
  - {source: HOST/team/app, target: 'one:stable', type: image}
  - {source: 'HOST/team/other@`+pinned.Digest.String()+`', target: 'pinned:v0', type: image}
  - {source: HOST, target: all, type: registry, repos: {deny: ['team/app']}}
  - {source: HOST/team/absent, target: absent, type: repository}
`)
	x.wants(list, "copied team/app:v1.4.2", "copied team/app:v2.0.0", "copied team/app:v1.0.0", "copied team/app:latest",
		"copied team/other@"+pinned.Digest.String(), "copied team/other:v1", "failed team/absent")
	if m, err := x.Manifest(t.Context(), "one", tagged("stable")); err != nil || m.MediaType != v1.MediaTypeImageManifest {
		t.Error(m, err)
	}
	if m, err := x.Manifest(t.Context(), "pinned", tagged("v0")); err != nil || m.Digest != pinned.Digest {
		t.Error(m, err)
	}
	x.has(o, "team/other", "all/team/other", tagged("v1"))
}

func TestSyncPlatforms(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	amd, arm := o.image("team/app", "amd"), o.image("team/app", "arm")
	index := o.index("team/app", map[string]v1.Descriptor{"amd64": amd, "arm64": arm}, "v1")
	one := entries(t, o, strings.ReplaceAll(appEntry, "type:", "platforms: [linux/amd64], type:"))
	x.wants(one, "copied team/app:v1")
	if m, err := x.Manifest(t.Context(), "copy/app", tagged("v1")); err != nil || m.Digest != index.Digest {
		t.Error(m, err)
	}
	x.has(o, "team/app", "copy/app", registry.Reference{Digest: amd.Digest})
	if _, err := x.Manifest(t.Context(), "copy/app", registry.Reference{Digest: arm.Digest}); !registry.ManifestUnknown.Is(err) {
		t.Error(err)
	}
	o.asked()
	x.wants(one, "same team/app:v1")
	if got := o.asked(); len(got) != 2 {
		t.Errorf("%q", got)
	}
	// Later the others are wanted, too.
	x.wants(entries(t, o, appEntry), "copied team/app:v1")
	x.has(o, "team/app", "copy/app", tagged("v1"))
	report, err := check.Run(t.Context(), x.Registry, check.Options{Found: func(f check.Finding) { t.Errorf("%+v", f) }})
	if err != nil || report.Findings != 0 {
		t.Errorf("%+v, %v", report, err)
	}
	x.wants(entries(t, o, strings.ReplaceAll(appEntry, "type:", "platforms: [plan9/amd64], type:")), "failed team/app:v1")
}

func TestSyncReferrers(t *testing.T) {
	for _, api := range []bool{true, false} {
		t.Run(fmt.Sprint(api), func(t *testing.T) {
			o, x := newOrigin(t), newTarget(t)
			amd := o.image("team/app", "amd")
			index := o.index("team/app", map[string]v1.Descriptor{"amd64": amd, "arm64": o.image("team/app", "arm")}, "v1")
			sbom := o.about("team/app", "sbom", &index)
			signature := o.about("team/app", "signature of sbom", &sbom)
			child := o.about("team/app", "signature of child", &amd)
			cosign := registry.Tag("sha256-" + amd.Digest.Encoded() + ".sig")
			o.image("team/app", "cosign", cosign)
			o.image("team/app", "another", "sha256-"+registry.Tag(strings.Repeat("a", 64))+".sig")
			if !api { // clients keep them under tags
				for _, list := range [][2]v1.Descriptor{{index, sbom}, {sbom, signature}, {amd, child}} {
					fallback := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{list[1]}}
					fallback.SchemaVersion = 2
					o.put("team/app", v1.MediaTypeImageIndex, fallback, registry.Tag("sha256-"+list[0].Digest.Encoded()))
				}
				o.turn(func(w http.ResponseWriter, r *http.Request) bool {
					if strings.Contains(r.URL.Path, "/referrers/") {
						http.NotFound(w, r)
						return true
					}
					return false
				})
			}
			plain := strings.ReplaceAll(appEntry, "type:", "tags: {allow: [v1]}, type:")
			x.wants(entries(t, o, plain), "copied team/app:v1")
			if _, err := x.Manifest(t.Context(), "copy/app", registry.Reference{Digest: sbom.Digest}); !registry.ManifestUnknown.Is(err) {
				t.Errorf("referrers came without being asked for: %v", err)
			}
			all := entries(t, o, strings.ReplaceAll(plain, "tags:", "referrers: true, digestTags: true, tags:"))
			x.wants(all, "copied team/app:v1")
			for _, d := range []v1.Descriptor{sbom, signature, child} {
				x.has(o, "team/app", "copy/app", registry.Reference{Digest: d.Digest})
			}
			x.has(o, "team/app", "copy/app", tagged(cosign))
			page, err := x.Referrers(t.Context(), "copy/app", index.Digest, "", registry.Page{Limit: 10})
			if err != nil || len(page.Descriptors) != 1 {
				t.Error(page, err)
			}
			tags, _, err := x.Tags(t.Context(), "copy/app", registry.Page{Limit: 10})
			if err != nil || !api && len(tags) != 5 || api && len(tags) != 2 {
				t.Errorf("%q, %v", tags, err)
			}
			o.asked()
			x.wants(all, "same team/app:v1")
			for _, asked := range o.asked() {
				if strings.Contains(asked, "blobs") || api && strings.HasPrefix(asked, "GET team/app/manifests") {
					t.Errorf("asked %s for what is here", asked)
				}
			}
		})
	}
}

func TestSyncGoesOn(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	for _, tag := range []registry.Tag{"bad-blob", "bad-manifest", "cut", "good", "short"} {
		o.image("team/app", strings.Repeat(string(tag), 1000), tag)
	}
	bad, err := o.Manifest(t.Context(), "team/app", tagged("bad-manifest"))
	if err != nil {
		t.Fatal(err)
	}
	layer := func(tag string) string { return digest.FromString(strings.Repeat(tag, 1000)).String() }
	cut := false
	o.turn(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/manifests/"+bad.Digest.String()):
			io.WriteString(w, `{"schemaVersion":2}`)
		case strings.HasSuffix(r.URL.Path, layer("bad-blob")):
			io.WriteString(w, strings.Repeat("BAD-BLOB", 1000))
		case strings.HasSuffix(r.URL.Path, layer("short")):
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "short")
		case strings.HasSuffix(r.URL.Path, layer("cut")) && !cut:
			cut = true
			w.Header().Set("Content-Length", "3000")
			io.WriteString(w, strings.Repeat("cut", 500))
		default:
			return false
		}
		return true
	})
	app := entries(t, o, appEntry)
	reports := x.wants(app, "failed team/app:bad-blob", "failed team/app:bad-manifest", "copied team/app:cut", "copied team/app:good", "failed team/app:short")
	for _, i := range reports[0].Images {
		if (i.Error != "") != (i.Result == syncer.Failed) {
			t.Errorf("%+v", i)
		}
	}
	tags, _, err := x.Tags(t.Context(), "copy/app", registry.Page{Limit: 10})
	if d := cmp.Diff([]string{"cut", "good"}, tags); d != "" || err != nil {
		t.Error(d, err)
	}
	x.has(o, "team/app", "copy/app", tagged("cut"))
	for _, d := range []string{"bad-blob", "short"} {
		if _, err := x.StatBlob(t.Context(), "copy/app", digest.Digest(layer(d))); !registry.BlobUnknown.Is(err) {
			t.Errorf("%s: %v", d, err)
		}
	}
	o.turn(nil)
	x.wants(app, "copied team/app:bad-blob", "copied team/app:bad-manifest", "same team/app:cut", "same team/app:good", "copied team/app:short")
}

// What a run has brought before it failed is not fetched again by the next.
func TestSyncResumes(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	content := strings.Repeat("layer", 1000)
	o.image("team/app", content, "v1")
	var mu sync.Mutex
	var ranges []string
	tries, down := 0, true
	o.turn(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "GET" || !strings.HasSuffix(r.URL.Path, digest.FromString(content).String()) {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		ranges = append(ranges, r.Header.Get("Range"))
		if tries++; tries > 1 {
			if down {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return down
		}
		w.Header().Set("Content-Length", "5000")
		io.WriteString(w, content[:3000])
		return true
	})
	app := entries(t, o, appEntry)
	x.wants(app, "failed team/app:v1")
	mu.Lock()
	ranges, down = nil, false
	mu.Unlock()
	x.wants(app, "copied team/app:v1")
	if !slices.Equal(ranges, []string{"bytes=3000-"}) {
		t.Errorf("asked for %q", ranges)
	}
	x.has(o, "team/app", "copy/app", tagged("v1"))
}

// A tag does not move to an image of which something is missing, not even if others may be left out.
func TestSyncMovesTagsLast(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	app := entries(t, o, strings.ReplaceAll(appEntry, "type:", "platforms: [linux/arm64], type:"))
	old := o.image("team/app", "old", "v1")
	x.wants(app, "copied team/app:v1")
	arm := o.image("team/app", "arm")
	o.index("team/app", map[string]v1.Descriptor{"amd64": o.image("team/app", "amd"), "arm64": arm}, "v1")
	for _, missing := range []string{arm.Digest.String(), digest.FromString("arm").String()} {
		o.turn(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, missing) {
				w.WriteHeader(http.StatusInternalServerError)
				return true
			}
			return false
		})
		x.wants(app, "failed team/app:v1")
		if m, err := x.Manifest(t.Context(), "copy/app", tagged("v1")); err != nil || m.Digest != old.Digest {
			t.Error(m.Digest, err)
		}
	}
	o.turn(nil)
	x.wants(app, "copied team/app:v1")
}

func TestSyncSparesUpstream(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	o.image("team/app", "one", "v1")
	left, busy := 3, 2
	o.turn(func(w http.ResponseWriter, r *http.Request) bool {
		if busy > 0 && r.Method == "HEAD" {
			busy--
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		w.Header().Set("RateLimit-Remaining", fmt.Sprintf("%d;w=21600", left))
		if r.Method == "HEAD" {
			left += 4
		}
		return false
	})
	app := entries(t, o, strings.ReplaceAll(appEntry, "type:", "ratelimit: {min: 10, retry: 15m}, type:"))
	x.wants(app, "copied team/app:v1")
	want := []time.Duration{30 * time.Second, 30 * time.Second, 15 * time.Minute, 15 * time.Minute}
	if d := cmp.Diff(want, x.slept); d != "" {
		t.Error(d)
	}
	// One that never has enough of it is given up.
	busy = 1000
	x.wants(app, "failed team/app:v1")
}

// Registries ban who keeps trying a wrong password.
func TestSyncShowsRefusedCredentialsOnce(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	shown := 0
	o.turn(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			shown++
		}
		w.Header().Set("Www-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	list, err := syncer.Parse([]byte(strings.ReplaceAll(`
creds: [{registry: 'HOST', tls: disabled, user: me, pass: wrong}]
sync:
  - {source: HOST/a, target: a, type: repository}
  - {source: HOST/b, target: b, type: repository}
  - {source: HOST/c, target: c, type: image}
`, "HOST", o.host)), "")
	if err != nil {
		t.Fatal(err)
	}
	_, reports := x.run(list)
	for _, r := range reports {
		if r.Count(syncer.Failed) != 1 || !strings.Contains(r.Images[0].Error, "refuses the credentials") || strings.Contains(r.Images[0].Error, "wrong") {
			t.Errorf("%+v", r)
		}
	}
	if shown != 1 {
		t.Errorf("shown %d times", shown)
	}
	x.mu.Lock()
	x.now = x.now.Add(time.Hour)
	x.mu.Unlock()
	if x.run(list[:1]); shown == 1 {
		t.Error("never shown again")
	}
}

func TestSyncEndsWithContext(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	for i := range 10 {
		o.image("team/app", fmt.Sprint(i), registry.Tag(fmt.Sprint("v", i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	o.turn(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	})
	r := x.Run(ctx, entries(t, o, "defaults: {parallel: 3}\n"+appEntry)[0], false)
	if r.Count(syncer.Copied)+r.Count(syncer.Same) != 0 {
		t.Errorf("%+v", r)
	}
}

// What is private here is shown to nobody because another registry knows its digest.
func TestSyncLinksNothingPrivate(t *testing.T) {
	o, x := newOrigin(t), newTarget(t)
	o.image("team/app", "secret", "v1")
	d := digest.FromString("secret")
	for _, repo := range []registry.RepoName{"private", "copy/app"} {
		content := map[registry.RepoName]string{"private": "secret", "copy/app": "x"}[repo]
		if err := x.PutBlob(t.Context(), repo, digest.FromString(content), registry.Chunk{Body: strings.NewReader(content), Start: -1, Length: -1}); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.SetPublic(t.Context(), "copy/app", true); err != nil {
		t.Fatal(err)
	}
	o.turn(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, d.String()) {
			http.NotFound(w, r)
			return true
		}
		return false
	})
	app := entries(t, o, appEntry)
	x.wants(app, "failed team/app:v1")
	if err := x.SetPublic(t.Context(), "copy/app", false); err != nil {
		t.Fatal(err)
	}
	x.wants(app, "failed team/app:v1")
	if err := x.SetPublic(t.Context(), "private", true); err != nil {
		t.Fatal(err)
	}
	x.wants(app, "copied team/app:v1")
}

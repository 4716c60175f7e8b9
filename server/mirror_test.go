package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/check"
	"registry/server/gc"
	"registry/server/mirror"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// origin is a real registry that a test can make misbehave.
type origin struct {
	*client
	good  http.Handler
	mu    sync.Mutex
	evil  http.HandlerFunc // answers in its place; nil: it answers itself
	asked []string         // "GET /v2/…" of every request
	auth  []string         // its Authorization headers
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{good: newServer(t).Handler()}
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		evil := o.evil
		if r.Header.Get("User-Agent") == "registry-mirror" {
			o.asked = append(o.asked, r.Method+" "+r.URL.Path)
			o.auth = append(o.auth, r.Header.Get("Authorization"))
		} else {
			evil = nil // the test itself
		}
		o.mu.Unlock()
		if evil == nil {
			evil = o.good.ServeHTTP
		}
		evil(w, r)
	}))
	t.Cleanup(ts.Close)
	o.client = &client{t, ts.URL, ts.Client()}
	return o
}

// turn makes the origin answer with a handler from now on.
func (o *origin) turn(evil http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.evil = evil
}

// requests returns what it was asked since the last time.
func (o *origin) requests() (list []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list, o.asked = o.asked, nil
	return list
}

// seen returns the same, and goes on.
func (o *origin) seen() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.asked)
}

// image pushes an image with one layer to the origin, and returns its manifest.
func (o *origin) image(repo, tag, layer string) string {
	o.t.Helper()
	o.push(repo, layer)
	image := imageOf(layer, "")
	if a := o.do("PUT", "/v2/"+repo+"/manifests/"+tag, image, ociManifest); a.StatusCode != 201 {
		o.t.Fatal(a.Status, a.body)
	}
	return image
}

// clock is the time of a test.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.nanos.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.nanos.Add(1000)).UTC() }

func (c *clock) pass(d time.Duration) { c.nanos.Add(int64(d)) }

// mirrored is a mirror of an origin under the name up.example, as a client sees it.
type mirrored struct {
	*client
	*clock
	registry *registry.Registry
	mirror   *mirror.Mirror
}

func newMirror(t *testing.T, o *origin, options string, change ...func(*mirror.Config, *server.Config)) *mirrored {
	t.Helper()
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := &mirrored{clock: newClock()}
	d := dbtest.OpenAt(t, filepath.Join(t.TempDir(), "reg.db"), m.now)
	m.registry = registry.New(registry.Config{DB: d, Blobs: store, UndoWindow: -1})
	m.serve(t, o, options, change...)
	return m
}

// again is the mirror after its server has been started again.
func (m *mirrored) again(t *testing.T, o *origin) *mirrored {
	t.Helper()
	next := &mirrored{clock: m.clock, registry: m.registry}
	next.serve(t, o, "")
	return next
}

func (m *mirrored) serve(t *testing.T, o *origin, options string, change ...func(*mirror.Config, *server.Config)) {
	t.Helper()
	upstreams, err := mirror.ParseUpstreams("up.example=" + o.url + options)
	if err != nil {
		t.Fatal(err)
	}
	mc := mirror.Config{Registry: m.registry, Upstreams: upstreams, Now: m.now, Stall: 300 * time.Millisecond, Budget: 2 * time.Second,
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }, Log: slog.New(slog.NewTextHandler(testLog{t}, nil))}
	sc := server.Config{Registry: m.registry}
	for _, c := range change {
		c(&mc, &sc)
	}
	m.mirror = mirror.New(mc)
	t.Cleanup(m.mirror.Close)
	sc.Mirror = m.mirror
	s, err := server.New(sc)
	if err != nil {
		t.Fatal(err)
	}
	m.client = newClient(t, s)
}

// testLog writes to the log of a test.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) { l.t.Logf("%s", bytes.TrimSpace(p)); return len(p), nil }

// get pulls something; err is set if the answer broke off.
func (m *mirrored) get(path string, headers ...string) (a answer, err error) {
	m.t.Helper()
	r, _ := http.NewRequest("GET", m.url+path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := m.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp, string(body)}, err
}

// pull pulls something that must be there.
func (m *mirrored) pull(path, want string) answer {
	m.t.Helper()
	a, err := m.get(path)
	if err != nil || a.StatusCode != 200 || a.body != want {
		m.t.Fatalf("GET %s: %v, %v, %.200q", path, a.Response, err, a.body)
	}
	return a
}

// noise is content that cannot be compressed and is the same each time.
func noise(size int, seed byte) string {
	b := make([]byte, 0, size+64)
	for d := digest.FromBytes([]byte{seed}); len(b) < size; d = digest.FromString(string(d)) {
		b = append(b, d.Encoded()...)
	}
	return string(b[:size])
}

func TestMirrorPull(t *testing.T) {
	o := newOrigin(t)
	layer := noise(300_000, 1)
	image := o.image("team/app", "v1", layer)
	o.requests()
	m := newMirror(t, o, "")
	repo := "/v2/up.example/team/app"
	m.pull(repo+"/manifests/v1", image)
	m.pull(repo+"/blobs/"+digest.FromString(layer).String(), layer)
	if got := len(o.requests()); got != 2 {
		t.Errorf("%d requests for a cold pull", got)
	}
	// What is here costs the upstream nothing.
	m.pull(repo+"/manifests/v1", image)
	m.pull(repo+"/manifests/"+digest.FromString(image).String(), image)
	m.pull(repo+"/blobs/"+digest.FromString(layer).String(), layer)
	a := m.do("HEAD", repo+"/blobs/"+digest.FromString(layer).String(), "")
	if a.StatusCode != 200 || a.ContentLength != int64(len(layer)) {
		t.Error(a.Status)
	}
	if got := o.requests(); len(got) != 0 {
		t.Errorf("asked for what is here: %q", got)
	}
	// A tag costs a HEAD after its time, and a GET if it has moved.
	m.pass(6 * time.Minute)
	m.pull(repo+"/manifests/v1", image)
	if got := o.requests(); len(got) != 1 || !strings.HasPrefix(got[0], "HEAD ") {
		t.Errorf("asked %q for a tag that is the same", got)
	}
	m.pull(repo+"/manifests/v1", image)
	if got := o.requests(); len(got) != 0 {
		t.Errorf("asked again: %q", got)
	}
	next := o.image("team/app", "v1", "another")
	o.requests()
	m.pull(repo+"/manifests/v1", image) // for a while
	m.pass(6 * time.Minute)
	if a := m.pull(repo+"/manifests/v1", next); a.Header.Get("Warning") != "" {
		t.Error(a.Header)
	}
	if got := o.requests(); len(got) != 2 {
		t.Errorf("asked %q for a tag that has moved", got)
	}
	m.pull(repo+"/manifests/"+digest.FromString(image).String(), image)
}

// TestMirrorNames sees what is whose.
func TestMirrorNames(t *testing.T) {
	o := newOrigin(t)
	image := o.image("library/nginx", "v1", "layer")
	m := newMirror(t, o, " docker.io="+o.url)
	o.requests()
	m.pull("/v2/docker.io/nginx/manifests/v1", image)
	m.pull("/v2/docker.io/library/nginx/manifests/v1", image)
	if a := m.pull("/v2/library/nginx/manifests/v1?ns=docker.io", image); a.Header.Get("Oci-Namespace") != "docker.io" {
		t.Error(a.Header)
	}
	m.pull("/v2/nginx/manifests/v1?ns=docker.io", image)
	if got := o.requests(); len(got) != 1 {
		t.Errorf("%q: four names of one image", got)
	}
	m.pull("/v2/library/nginx/manifests/v1?ns=up.example", image)
	o.requests()
	for path, status := range map[string]int{
		"/v2/library/nginx/manifests/v1":                                      404, // a local name
		"/v2/library/nginx/manifests/v1?ns=":                                  404,
		"/v2/library/nginx/manifests/v1?ns=quay.io":                           404,
		"/v2/library/nginx/manifests/v1?ns=" + url.QueryEscape(o.url):         404, // no address to dial
		"/v2/library/nginx/manifests/v1?ns=" + strings.TrimPrefix(o.url, "h"): 404,
		"/v2/docker.io/manifests/v1":                                          404, // no repository of an upstream
		"/v2/docker.iox/library/nginx/manifests/v1":                           404,
		"/v2/library/nginx/tags/list":                                         404,
		"/v2/library/nginx/blobs/" + digest.FromString("layer").String():      404,
	} {
		if a, err := m.get(path); err != nil || a.StatusCode != status || a.Header.Get("Oci-Namespace") != "" {
			t.Error(path, a.Response, err)
		}
	}
	if got := o.requests(); len(got) != 0 {
		t.Errorf("asked the upstream %q", got)
	}
	// Pushes are for other names.
	m.push("team/app", "layer")
	if a := m.do("GET", "/v2/team/app/blobs/"+digest.FromString("layer").String()+"?ns="+strings.TrimPrefix(m.url, "http://"), ""); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	for _, path := range []string{"/v2/docker.io/library/nginx/blobs/uploads/", "/v2/library/nginx/blobs/uploads/?ns=docker.io"} {
		if a := m.do("POST", path, ""); a.StatusCode != 403 || !strings.Contains(a.body, "docker.io") {
			t.Error(path, a.Status, a.body)
		}
	}
	if a := m.do("PUT", "/v2/docker.io/x/manifests/v1", image, ociManifest); a.StatusCode != 403 {
		t.Error(a.Status)
	}
	if a := m.do("GET", "/v2/nginx/tags/list?ns=docker.io", ""); a.StatusCode != 200 || !strings.Contains(a.body, `"tags":["v1"]`) {
		t.Error(a.Status, a.body)
	}
}

// TestMirrorSparse pulls one child of an index, and no more.
func TestMirrorSparse(t *testing.T) {
	o := newOrigin(t)
	child, other := o.image("a", "amd64", "amd64"), o.image("a", "arm64", "arm64")
	index := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d},{"mediaType":%q,"digest":%q,"size":%d}]}`,
		v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, digest.FromString(child), len(child), v1.MediaTypeImageManifest, digest.FromString(other), len(other))
	if a := o.do("PUT", "/v2/a/manifests/v1", index, "Content-Type: "+v1.MediaTypeImageIndex); a.StatusCode != 201 {
		t.Fatal(a.Status, a.body)
	}
	m := newMirror(t, o, "")
	m.pull("/v2/up.example/a/manifests/v1", index)
	m.pull("/v2/up.example/a/manifests/"+digest.FromString(child).String(), child)
	m.pull("/v2/up.example/a/blobs/"+digest.FromString("amd64").String(), "amd64")
	for _, asked := range o.requests() {
		if strings.Contains(asked, digest.FromString(other).String()) || strings.Contains(asked, digest.FromString("arm64").String()) {
			t.Error(asked)
		}
	}
	// Collection takes nothing of it, and check finds nothing missing.
	m.pass(48 * time.Hour)
	if _, err := gc.Collect(t.Context(), m.registry, gc.Options{Grace: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	report, err := check.Run(t.Context(), m.registry, check.Options{Found: func(f check.Finding) { t.Error(f) }})
	if err != nil || report.Findings != 0 {
		t.Error(report, err)
	}
	o.turn(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	m.pull("/v2/up.example/a/manifests/"+digest.FromString(child).String(), child)
	m.pull("/v2/up.example/a/blobs/"+digest.FromString("amd64").String(), "amd64")
}

// evil is what an upstream may do with a request for a blob of 1 MB, or for a manifest, and what a client may see of it.
type evil struct {
	name     string
	answer   func(content string) http.HandlerFunc // called once for the case: it may count
	statuses []int                                 // any of these
	whole    bool                                  // the client gets all of it in spite of that
	broken   bool                                  // or it may see an answer that breaks off
}

func sending(content string, change func(h http.Header)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		change(w.Header())
		io.WriteString(w, content)
	}
}

// half sends the first half and breaks the connection.
func half(w http.ResponseWriter, content string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	io.WriteString(w, content[:len(content)/2])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func status(code int, headers ...string) func(string) http.HandlerFunc {
	return func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for _, h := range headers {
				name, value, _ := strings.Cut(h, ": ")
				w.Header().Set(name, value)
			}
			w.WriteHeader(code)
		}
	}
}

// once answers the first request in one way and the others in another.
func once(first, then http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int64
	return func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			first(w, r)
			return
		}
		then(w, r)
	}
}

func good(content string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
	}
}

func stall(w http.ResponseWriter, r *http.Request) {
	if f, ok := w.(http.Flusher); ok && w.Header().Get("Content-Length") != "" {
		f.Flush()
	}
	<-r.Context().Done()
}

func raw(text string) func(string) http.HandlerFunc {
	return func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				io.WriteString(conn, text)
				conn.Close()
			}
		}
	}
}

func flipped(content string, at int) string {
	b := []byte(content)
	b[at] ^= 1
	return string(b)
}

func TestMirrorEvil(t *testing.T) {
	elsewhere := atomic.Int64{}
	trap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1); io.WriteString(w, `{"token":"x"}`) }))
	defer trap.Close()
	none := func(http.Header) {}
	gone, failed, busy := []int{404}, []int{502}, []int{429}
	both := []evil{
		{name: "500", answer: status(500), statuses: failed},
		{name: "503 with html", answer: func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>", http.StatusServiceUnavailable) }
		}, statuses: failed},
		{name: "not there", answer: status(404), statuses: gone},
		{name: "denied", answer: status(403), statuses: gone},
		{name: "401 without a challenge", answer: status(401), statuses: gone},
		{name: "401 of an unknown kind", answer: status(401, `Www-Authenticate: Negotiate`), statuses: gone},
		{name: "401 with a broken challenge", answer: status(401, `Www-Authenticate: Bearer realm="`), statuses: []int{404, 502}},
		{name: "Basic without a user", answer: status(401, `Www-Authenticate: Basic realm="x"`), statuses: []int{404, 502}},
		{name: "realm elsewhere", answer: status(401, `Www-Authenticate: Bearer realm="`+trap.URL+`/token",service="x"`), statuses: failed},
		{name: "realm that is a file", answer: status(401, `Www-Authenticate: Bearer realm="file:///etc/passwd"`), statuses: failed},
		{name: "redirect to a private address", answer: status(307, "Location: "+trap.URL+"/x"), statuses: failed},
		{name: "redirect to the cloud's metadata", answer: status(302, "Location: http://169.254.169.254/latest/"), statuses: failed},
		{name: "redirect to a name of this machine", answer: status(302, "Location: http://localhost:"+portOf(trap.URL)+"/"), statuses: failed},
		{name: "redirect to a file", answer: status(302, "Location: file:///etc/passwd"), statuses: failed},
		{name: "redirect in a circle", answer: func(string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			}
		}, statuses: failed},
		{name: "redirect to nowhere", answer: status(302), statuses: failed},
		{name: "429", answer: status(429, "Retry-After: 7"), statuses: busy},
		{name: "429 without a time", answer: status(429), statuses: busy},
		{name: "429 for ever", answer: status(429, "Retry-After: 99999999999999999999"), statuses: busy},
		{name: "204", answer: status(204), statuses: failed},
		{name: "no answer", answer: func(string) http.HandlerFunc { return stall }, statuses: failed},
		{name: "connection closed", answer: raw(""), statuses: failed},
		{name: "no HTTP", answer: raw("SSH-2.0-OpenSSH_9.9\r\n"), statuses: failed},
		{name: "header without end", answer: raw("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), statuses: failed},
		{name: "length that is none", answer: raw("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"), statuses: failed},
		{name: "empty", answer: func(string) http.HandlerFunc { return sending("", none) }, statuses: failed},
		{name: "other bytes", answer: func(c string) http.HandlerFunc { return sending(flipped(c, 10), none) }, statuses: failed, broken: true},
		{name: "captive portal", answer: func(string) http.HandlerFunc { return sending("<html>log in</html>", none) }, statuses: failed},
	}
	ofBlobs := append(both,
		evil{name: "last byte wrong", answer: func(c string) http.HandlerFunc { return sending(flipped(c, len(c)-1), none) }, statuses: failed, broken: true},
		evil{name: "compressed on the way", answer: func(c string) http.HandlerFunc {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			io.WriteString(z, c)
			z.Close()
			return sending(b.String(), func(h http.Header) { h.Set("Content-Encoding", "gzip") })
		}, statuses: failed, broken: true},
		evil{name: "longer", answer: func(c string) http.HandlerFunc { return sending(c+"x", none) }, statuses: failed, broken: true},
		evil{name: "longer than it says", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush() // chunked
				io.WriteString(w, c+"x")
			}
		}, statuses: failed, broken: true},
		evil{name: "without end", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				for r.Context().Err() == nil {
					if _, err := io.WriteString(w, c); err != nil {
						return
					}
				}
			}
		}, statuses: failed, broken: true},
		evil{name: "shorter", answer: func(c string) http.HandlerFunc { return sending(c[1:], none) }, statuses: failed, broken: true},
		evil{name: "shorter than it says", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				io.WriteString(w, c[1:])
			}
		}, statuses: failed, broken: true},
		evil{name: "of unknown length", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); io.WriteString(w, c) }
		}, whole: true},
		evil{name: "reset each time", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { half(w, c) }
		}, statuses: failed, broken: true},
		evil{name: "reset once", answer: func(c string) http.HandlerFunc {
			return once(func(w http.ResponseWriter, r *http.Request) { half(w, c) }, good(c))
		}, whole: true},
		evil{name: "reset once, then no ranges", answer: func(c string) http.HandlerFunc {
			return once(func(w http.ResponseWriter, r *http.Request) { half(w, c) }, sending(c, none))
		}, whole: true},
		evil{name: "reset once, then another range", answer: func(c string) http.HandlerFunc {
			return once(func(w http.ResponseWriter, r *http.Request) { half(w, c) }, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 1-%d/%d", len(c)-1, len(c)))
				w.WriteHeader(206)
				io.WriteString(w, c)
			})
		}, statuses: failed, broken: true},
		evil{name: "reset once, then gone", answer: func(c string) http.HandlerFunc {
			return once(func(w http.ResponseWriter, r *http.Request) { half(w, c) }, status(404)(c))
		}, statuses: []int{404, 502}, broken: true},
		evil{name: "stall in the middle", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", strconv.Itoa(len(c)))
				io.WriteString(w, c[:len(c)/2])
				stall(w, r)
			}
		}, statuses: failed, broken: true},
		evil{name: "slow drip", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", strconv.Itoa(len(c)))
				for rest := c; rest != ""; {
					n := min(len(rest), 100_000)
					io.WriteString(w, rest[:n])
					rest = rest[n:]
					w.(http.Flusher).Flush()
					time.Sleep(20 * time.Millisecond)
				}
			}
		}, whole: true},
	)
	ofManifests := append(both,
		evil{name: "5 MiB", answer: func(c string) http.HandlerFunc { return sending(c+strings.Repeat(" ", 5<<20), none) }, statuses: failed},
		evil{name: "digest header lies", answer: func(c string) http.HandlerFunc {
			return sending(c, func(h http.Header) { h.Set("Docker-Content-Digest", digest.FromString("x").String()) })
		}, statuses: failed},
		evil{name: "another type", answer: func(c string) http.HandlerFunc {
			return sending(c, func(h http.Header) { h.Set("Content-Type", v1.MediaTypeImageIndex) })
		}, statuses: failed},
		evil{name: "a script", answer: func(c string) http.HandlerFunc {
			return sending(`{"x":"<script>alert(1)</script>"}`, func(h http.Header) { h.Set("Content-Type", "text/html; charset=utf-8") })
		}, statuses: failed},
		evil{name: "schema 1", answer: func(c string) http.HandlerFunc {
			return sending(`{"schemaVersion":1,"name":"a"}`, func(h http.Header) { h.Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+json") })
		}, statuses: failed},
		evil{name: "slow drip", answer: func(c string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
				for i := range c {
					io.WriteString(w, c[i:i+1])
					w.(http.Flusher).Flush()
				}
			}
		}, whole: true},
	)
	o := newOrigin(t)
	layer := noise(1_000_000, 2)
	image := o.image("a", "v1", layer)
	try := func(kind, path, content string, e evil, cached bool) {
		t.Run(kind+"/"+e.name, func(t *testing.T) {
			o.turn(nil)
			m := newMirror(t, o, "")
			if cached {
				m.pull("/v2/up.example/a/manifests/v1", image)
			}
			o.turn(e.answer(content))
			for range 2 {
				a, err := m.get(path)
				switch {
				case e.whole && (err != nil || a.body != content):
					t.Errorf("%v, %v, %d bytes", a.Response, err, len(a.body))
				case !e.whole && err == nil && a.StatusCode == 200:
					t.Errorf("a complete answer of %d bytes", len(a.body))
				case err != nil && !e.broken:
					t.Error(err)
				case err == nil && !e.whole && !contains(e.statuses, a.StatusCode):
					t.Errorf("%s %s, want %d", a.Status, a.body, e.statuses)
				}
				if a.Response != nil && a.StatusCode == 429 && a.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			}
			if e.whole {
				return
			}
			// Nothing wrong was kept, and nothing is held against the upstream for ever.
			o.turn(nil)
			m.pass(24 * time.Hour)
			if a, err := m.get(path); err != nil || a.body != content {
				t.Errorf("afterwards: %v, %v", a.Response, err)
			}
		})
	}
	for _, e := range ofBlobs {
		try("blob", "/v2/up.example/a/blobs/"+digest.FromString(layer).String(), layer, e, true)
	}
	for _, e := range ofManifests {
		try("manifest by tag", "/v2/up.example/a/manifests/v1", image, e, false)
		if e.name != "digest header lies" { // nobody looks at it then
			try("manifest by digest", "/v2/up.example/a/manifests/"+digest.FromString(image).String(), image, e, false)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests went to an address that nobody configured", n)
	}
}

func portOf(address string) string {
	u, _ := url.Parse(address)
	return u.Port()
}

func contains(list []int, n int) bool {
	for _, x := range list {
		if x == n {
			return true
		}
	}
	return false
}

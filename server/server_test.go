package server_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newServer returns a server over a real database and a real directory.
func newServer(t testing.TB, change ...func(*server.Config)) *server.Server {
	t.Helper()
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Registry: registry.New(registry.Config{DB: dbtest.Open(t), Blobs: store})}
	for _, c := range change {
		c(&cfg)
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client speaks to a server over a real connection.
type client struct {
	t   testing.TB
	url string
	*http.Client
}

func newClient(t testing.TB, s *server.Server) *client {
	t.Helper()
	ts := httptest.NewServer(s.Handler())
	t.Cleanup(ts.Close)
	return &client{t, ts.URL, ts.Client()}
}

type answer struct {
	*http.Response
	body string
}

// do sends a request whose headers are "Name: value" and returns the whole answer.
func (c *client) do(method, path, body string, headers ...string) answer {
	c.t.Helper()
	r, err := http.NewRequest(method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	return c.send(r)
}

func (c *client) send(r *http.Request) answer {
	c.t.Helper()
	resp, err := c.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer{resp, string(got)}
}

func (c *client) push(repo, content string) digest.Digest {
	c.t.Helper()
	d := digest.FromString(content)
	if a := c.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), content); a.StatusCode != 201 {
		c.t.Fatal(a.Status, a.body)
	}
	return d
}

func imageOf(content string, more string) string {
	d := fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromString(content), len(content))
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]%s}`, v1.MediaTypeImageManifest, d, d, more)
}

const ociManifest = "Content-Type: " + v1.MediaTypeImageManifest

// exchange is a request and what its answer must have. Header values that begin with ~ must only be contained.
type exchange struct {
	method, path, body string
	send               []string
	status             int
	code               string
	want               []string
	wantBody           string
}

func TestExchanges(t *testing.T) {
	c := newClient(t, newServer(t))
	blob := c.push("a/b", "0123456789")
	image := imageOf("0123456789", "")
	m, m512 := digest.FromString(image), digest.SHA512.FromString(image)
	absent := digest.FromString("absent")
	subject := imageOf("0123456789", fmt.Sprintf(`,"artifactType":"x/y","subject":{"mediaType":"a/b","digest":%q,"size":1}`, absent))
	for _, x := range []exchange{
		{"GET", "/v2/", "", nil, 200, "", []string{"Docker-Distribution-Api-Version: registry/2.0", "X-Content-Type-Options: nosniff"}, "{}"},
		{"GET", "/v2", "", nil, 200, "", nil, "{}"},
		{"HEAD", "/v2/", "", nil, 200, "", []string{"Content-Length: 2"}, ""},
		{"GET", "/v2/nope", "", nil, 404, "NOT_FOUND", nil, ""},
		{"GET", "/elsewhere", "", nil, 404, "NOT_FOUND", nil, ""},
		{"BREW", "/v2/", "", nil, 405, "UNSUPPORTED", []string{"Allow: GET, HEAD, OPTIONS"}, ""},
		{"POST", "/v2/a/tags/list", "", nil, 405, "UNSUPPORTED", []string{"Allow: GET, HEAD, OPTIONS"}, ""},
		{"OPTIONS", "/v2/a/tags/list", "", []string{"Origin: https://evil.example"}, 204, "", []string{"Allow: GET, HEAD, OPTIONS", "Access-Control-Allow-Origin: "}, ""},
		{"GET", "/v2/A/tags/list", "", nil, 400, "NAME_INVALID", nil, ""},
		{"GET", "/v2/a%2Fb/tags/list", "", nil, 400, "NAME_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/list%2f", "", nil, 404, "NOT_FOUND", nil, ""},
		{"GET", "/v2/" + strings.Repeat("a", 20_000) + "/tags/list", "", nil, 414, "UNSUPPORTED", nil, ""},
		{"GET", "/v2/c/tags/list", "", nil, 404, "NAME_UNKNOWN", nil, ""},

		{"HEAD", "/v2/a/b/blobs/" + blob.String(), "", nil, 200, "", []string{"Content-Length: 10", "Docker-Content-Digest: " + blob.String(), "Content-Type: application/octet-stream"}, ""},
		{"GET", "/v2/a/b/blobs/" + strings.Replace(blob.String(), ":", "%3A", 1), "", nil, 200, "", []string{"Etag: \"" + blob.String() + "\""}, "0123456789"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=2-4"}, 206, "", []string{"Content-Range: bytes 2-4/10"}, "234"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=-2"}, 206, "", nil, "89"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=500-"}, 416, "", []string{"Content-Range: bytes */10"}, ""},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=0-0" + strings.Repeat(",0-0", 999)}, 200, "", nil, "0123456789"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{`If-None-Match: "` + blob.String() + `"`}, 304, "", nil, ""},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=0-0", `If-Range: "nope"`}, 200, "", nil, "0123456789"},
		{"GET", "/v2/c/blobs/" + blob.String(), "", nil, 404, "BLOB_UNKNOWN", nil, ""},
		{"HEAD", "/v2/c/blobs/" + blob.String(), "", nil, 404, "", nil, ""},
		{"GET", "/v2/a/b/blobs/sha256:x", "", nil, 400, "DIGEST_INVALID", nil, ""},

		{"PUT", "/v2/a/b/manifests/v1", image, []string{ociManifest + "; charset=utf-8"}, 201, "", []string{"Location: /v2/a/b/manifests/" + m.String(), "Docker-Content-Digest: " + m.String()}, ""},
		{"GET", "/v2/a/b/manifests/v1", "", []string{"Accept: text/html"}, 200, "", []string{ociManifest, "Docker-Content-Digest: " + m.String()}, image},
		{"HEAD", "/v2/a/b/manifests/" + m.String(), "", nil, 200, "", []string{fmt.Sprint("Content-Length: ", len(image)), ociManifest}, ""},
		{"GET", "/v2/a/b/manifests/v1", "", []string{`If-None-Match: "x", W/"` + m.String() + `"`}, 304, "", nil, ""},
		{"PUT", "/v2/a/b/manifests/" + m512.String() + "?tag=x&tag=y", image, []string{ociManifest}, 201, "", []string{"Docker-Content-Digest: " + m512.String(), "Oci-Tag: x"}, ""},
		{"GET", "/v2/a/b/manifests/y", "", nil, 200, "", []string{"Docker-Content-Digest: " + m512.String()}, image},
		{"PUT", "/v2/a/b/manifests/v1?tag=x", image, []string{ociManifest}, 400, "TAG_INVALID", nil, ""},
		{"PUT", "/v2/a/b/manifests/" + m.String() + "?tag=.x", image, []string{ociManifest}, 400, "TAG_INVALID", nil, ""},
		{"PUT", "/v2/a/b/manifests/" + absent.String(), image, []string{ociManifest}, 400, "DIGEST_INVALID", nil, ""},
		{"PUT", "/v2/a/b/manifests/sha256:baddigeststring", image, []string{ociManifest}, 400, "DIGEST_INVALID", nil, ""},
		{"GET", "/v2/a/b/manifests/sha256:baddigeststring", "", nil, 404, "MANIFEST_UNKNOWN", nil, ""},
		{"PUT", "/v2/a/b/manifests/v2", "{", []string{ociManifest}, 400, "MANIFEST_INVALID", nil, ""},
		{"PUT", "/v2/a/b/manifests/v2", strings.Repeat(" ", 4<<20+1), []string{ociManifest}, 413, "MANIFEST_INVALID", nil, ""},
		{"PUT", "/v2/c/manifests/v2", image, []string{ociManifest}, 404, "MANIFEST_BLOB_UNKNOWN", nil, ""},
		{"PUT", "/v2/a/b/manifests/sig", subject, []string{ociManifest}, 201, "", []string{"Oci-Subject: " + absent.String()}, ""},
		{"GET", "/v2/a/b/referrers/" + absent.String() + "?artifactType=x/y", "", nil, 200, "", []string{"Content-Type: " + v1.MediaTypeImageIndex, "Oci-Filters-Applied: artifactType"}, "~" + digest.FromString(subject).String()},
		{"GET", "/v2/a/b/referrers/" + absent.String() + "?artifactType=z", "", nil, 200, "", []string{"Oci-Filters-Applied: artifactType"}, `~"manifests":[]`},
		{"GET", "/v2/nope/referrers/" + absent.String(), "", nil, 200, "", []string{"Oci-Filters-Applied: "}, `~"manifests":[]`},

		{"GET", "/v2/a/b/tags/list", "", nil, 200, "", []string{"Link: "}, `{"name":"a/b","tags":["sig","v1","x","y"]}`},
		{"GET", "/v2/a/b/tags/list?n=2", "", nil, 200, "", []string{`Link: </v2/a/b/tags/list?last=v1&n=2>; rel="next"`}, `{"name":"a/b","tags":["sig","v1"]}`},
		{"GET", "/v2/a/b/tags/list?n=2&last=v1", "", nil, 200, "", []string{"Link: "}, `{"name":"a/b","tags":["x","y"]}`},
		{"GET", "/v2/a/b/tags/list?n=0", "", nil, 200, "", []string{"Link: "}, `{"name":"a/b","tags":[]}`},
		{"GET", "/v2/a/b/tags/list?n=99999999999999999999", "", nil, 200, "", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=-1", "", nil, 400, "PAGINATION_NUMBER_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=x", "", nil, 400, "PAGINATION_NUMBER_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=1&last=zzz%0d%0aX-Evil:1", "", nil, 200, "", []string{"X-Evil: "}, `{"name":"a/b","tags":[]}`},
		{"GET", "/v2/_catalog", "", nil, 200, "", nil, `{"repositories":["a/b"]}`},

		{"POST", "/v2/c/blobs/uploads/?mount=" + blob.String() + "&from=a/b", "", nil, 201, "", []string{"Location: /v2/c/blobs/" + blob.String()}, ""},
		{"POST", "/v2/c/blobs/uploads/?mount=" + absent.String() + "&from=a/b", "", nil, 202, "", []string{"Location: ~/v2/c/blobs/uploads/", "Range: 0-0"}, ""},
		{"POST", "/v2/c/blobs/uploads?digest-algorithm=sha512", "", nil, 202, "", []string{"Location: ~/v2/c/blobs/uploads/"}, ""},
		{"POST", "/v2/c/blobs/uploads/?digest-algorithm=md5", "", nil, 400, "DIGEST_INVALID", nil, ""},
		{"POST", "/v2/c/blobs/uploads/?digest=" + absent.String(), "other", nil, 400, "DIGEST_INVALID", nil, ""},
		{"GET", "/v2/c/blobs/uploads/x", "", nil, 404, "BLOB_UPLOAD_UNKNOWN", nil, ""},

		{"DELETE", "/v2/a/b/manifests/v1", "", nil, 202, "", nil, ""},
		{"DELETE", "/v2/a/b/manifests/v1", "", nil, 404, "MANIFEST_UNKNOWN", nil, ""},
		{"DELETE", "/v2/a/b/manifests/" + m512.String(), "", nil, 202, "", nil, ""},
		{"GET", "/v2/a/b/manifests/y", "", nil, 404, "MANIFEST_UNKNOWN", nil, ""},
		{"DELETE", "/v2/a/b/blobs/" + blob.String(), "", nil, 202, "", nil, ""},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", nil, 404, "BLOB_UNKNOWN", nil, ""},
		{"GET", "/v2/c/blobs/" + blob.String(), "", nil, 200, "", nil, "0123456789"},
		{"GET", "/livez", "", nil, 200, "", nil, "ok\n"},
		{"GET", "/healthz", "", nil, 200, "", nil, "ok\n"},
		{"GET", "/metrics", "", nil, 200, "", nil, `~registry_http_requests_total{code="200",handler="tags",method="get"} 6`},
		{"GET", "/metrics", "", nil, 200, "", nil, "~registry_tags 1\n"},
	} {
		name := x.method + " " + x.path[:min(len(x.path), 100)]
		a := c.do(x.method, x.path, x.body, x.send...)
		if a.StatusCode != x.status || x.wantBody != "" && !matches(a.body, x.wantBody) {
			t.Errorf("%s: %s %.300s", name, a.Status, a.body)
		}
		for _, h := range x.want {
			header, value, _ := strings.Cut(h, ": ")
			if got := a.Header.Get(header); !matches(got, value) {
				t.Errorf("%s: %s is %q, want %q", name, header, got, value)
			}
		}
		if x.code != "" {
			checkError(t, name, a, x.code)
		}
	}
}

func matches(got, want string) bool {
	if part, ok := strings.CutPrefix(want, "~"); ok {
		return strings.Contains(got, part)
	}
	return got == want
}

func checkError(t *testing.T, name string, a answer, code string) {
	t.Helper()
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Code != code || e.Errors[0].Message == "" {
		t.Errorf("%s: body %.200q, want the error %s", name, a.body, code)
	}
	if got := a.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: error with Content-Type %q", name, got)
	}
}

func TestUploadOverHTTP(t *testing.T) {
	c := newClient(t, newServer(t))
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	for _, x := range []struct {
		method, query, body, contentRange string
		status                            int
		rangeHeader                       string
	}{
		{"GET", "", "", "", 204, "0-0"},
		{"PATCH", "", "0123", "0-3", 202, "0-3"},
		{"PATCH", "", "0123", "0-3", 416, "0-3"},
		{"PATCH", "", "89", "8-9", 416, "0-3"},
		{"PATCH", "", "45", "4-99", 400, ""},
		{"PATCH", "", "45", "0x4-0x5", 400, ""},
		{"PATCH", "", "", "", 202, "0-3"},
		{"PATCH", "", "45", "bytes 4-5/10", 202, "0-5"},
		{"PATCH", "", "67", "", 202, "0-7"},
		{"GET", "", "", "", 204, "0-7"},
		{"PUT", "", "89", "", 400, ""},
		{"PUT", "?digest=sha256:x", "89", "", 400, ""},
		{"PUT", "?digest=" + digest.FromString("wrong").String(), "89", "", 400, ""},
		{"PUT", "?digest=" + digest.FromString("0123456789").String(), "89", "9-10", 416, "0-7"},
		{"PUT", "?digest=" + digest.FromString("0123456789").String(), "89", "8-9", 201, "0-9"},
		{"GET", "", "", "", 404, ""},
	} {
		var headers []string
		if x.contentRange != "" {
			headers = append(headers, "Content-Range: "+x.contentRange)
		}
		a := c.do(x.method, location+x.query, x.body, headers...)
		if a.StatusCode != x.status || a.Header.Get("Range") != x.rangeHeader {
			t.Fatalf("%+v: %s, Range %q, %s", x, a.Status, a.Header.Get("Range"), a.body)
		}
	}
	if a := c.do("GET", "/v2/a/blobs/"+digest.FromString("0123456789").String(), ""); a.body != "0123456789" {
		t.Error(a.Status, a.body)
	}
	cancelled := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	for _, status := range []int{204, 404} {
		if a := c.do("DELETE", cancelled, ""); a.StatusCode != status {
			t.Error(a.Status)
		}
	}
	if a := c.do("GET", strings.Replace(c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location"), "/v2/a/", "/v2/b/", 1), ""); a.StatusCode != 404 {
		t.Error("another repository sees the session:", a.Status)
	}
}

// Two PATCHes at once at the same offset: one is taken, the other told where the upload ends.
func TestTwoChunksAtOnce(t *testing.T) {
	c := newClient(t, newServer(t))
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	content := strings.Repeat("x", 1<<20)
	statuses := make(chan int, 2)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			statuses <- c.do("PATCH", location, content, fmt.Sprintf("Content-Range: 0-%d", len(content)-1)).StatusCode
		})
	}
	wg.Wait()
	if sum := <-statuses + <-statuses; sum != 202+416 {
		t.Error("statuses add up to", sum)
	}
	if a := c.do("PUT", location+"?digest="+digest.FromString(content).String(), ""); a.StatusCode != 201 {
		t.Error(a.Status, a.body)
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMemoryDoesNotGrowWithTheLayer(t *testing.T) {
	c := newClient(t, newServer(t))
	const size = 256 << 20
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	r, err := http.NewRequest("PATCH", c.url+location, io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if a := c.send(r); a.StatusCode != 202 || a.Header.Get("Range") != fmt.Sprintf("0-%d", size-1) {
		t.Fatal(a.Status, a.Header)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
		t.Errorf("%d MiB were allocated for a layer of %d MiB", got>>20, size>>20)
	}
}

// readerFrom is a ResponseWriter that says how it was written to.
type readerFrom struct {
	*httptest.ResponseRecorder
	direct int64
}

func (w *readerFrom) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(w.ResponseRecorder, src)
	w.direct += n
	return n, err
}

// The file reaches the connection's own ReadFrom, which is where sendfile is.
func TestSendfileIsReached(t *testing.T) {
	s := newServer(t)
	content := strings.Repeat("0123456789", 300_000)
	d := newClient(t, s).push("a", content)
	w := &readerFrom{ResponseRecorder: httptest.NewRecorder()}
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v2/a/blobs/"+d.String(), nil))
	if w.Body.String() != content || w.direct != int64(len(content)) {
		t.Errorf("%d bytes, %d of them by ReadFrom", w.Body.Len(), w.direct)
	}
}

func TestReadOnly(t *testing.T) {
	c := newClient(t, newServer(t, func(cfg *server.Config) { cfg.ReadOnly = true }))
	for method, path := range map[string]string{"POST": "/v2/a/blobs/uploads/", "PUT": "/v2/a/manifests/v1", "DELETE": "/v2/a/manifests/v1"} {
		a := c.do(method, path, "{}")
		if a.StatusCode != 405 {
			t.Error(method, a.Status)
		}
		checkError(t, method, a, "UNSUPPORTED")
	}
	if a := c.do("GET", "/v2/_catalog", ""); a.StatusCode != 200 {
		t.Error(a.Status)
	}
}

// A body without a byte for the idle time is given up, and what came before can be continued.
func TestIdleBody(t *testing.T) {
	c := newClient(t, newServer(t, func(cfg *server.Config) { cfg.BodyIdleTimeout = 100 * time.Millisecond }))
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n0123456789", location)
	answer, err := io.ReadAll(conn) // ends because the server gives up
	if err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) {
		t.Errorf("%q, %v", answer, err)
	}
	if a := c.do("GET", location, ""); a.Header.Get("Range") != "0-9" {
		t.Error(a.Status, a.Header)
	}
}

// serve runs a server on a free port until stop is called, which returns what Serve returned.
func serve(t *testing.T, s *server.Server) (address string, stop func() error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	return ln.Addr().String(), func() error { cancel(); return <-done }
}

// waitFor asks a path, without the network, until the answer is as wanted.
func waitFor(s *server.Server, path string, wanted func(*httptest.ResponseRecorder) bool) {
	for {
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if wanted(w) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDrain(t *testing.T) {
	s := newServer(t)
	address, stop := serve(t, s)
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c := &client{t, "http://" + address, &http.Client{Transport: transport}}
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	body, feed := io.Pipe()
	r, err := http.NewRequest("PATCH", c.url+location, body)
	if err != nil {
		t.Fatal(err)
	}
	status := make(chan string, 1)
	go func() {
		resp, err := c.Do(r)
		if err != nil {
			status <- err.Error()
			return
		}
		resp.Body.Close()
		status <- resp.Status
	}()
	feed.Write([]byte("begun"))
	// A connection whose request has not reached the handler is idle, and may be closed.
	waitFor(s, "/metrics", func(w *httptest.ResponseRecorder) bool {
		return strings.Contains(w.Body.String(), "registry_http_in_flight_requests 1\n")
	})
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	waitFor(s, "/readyz", func(w *httptest.ResponseRecorder) bool { return w.Code == 503 })
	feed.Write([]byte(", finished"))
	feed.Close()
	if got := <-status; got != "202 Accepted" {
		t.Error("the request under way ended with", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestDrainEnds(t *testing.T) {
	for name, end := range map[string]func(*server.Server){"by time": func(*server.Server) {}, "by Close": func(s *server.Server) { s.Close() }} {
		s := newServer(t, func(cfg *server.Config) {
			if cfg.DrainTimeout = time.Hour; name == "by time" {
				cfg.DrainTimeout = time.Millisecond
			}
		})
		address, stop := serve(t, s)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v2/a/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", digest.FromString("x"))
		go end(s)
		if err := stop(); err != nil && !errors.Is(err, http.ErrServerClosed) {
			t.Error(name, err)
		}
		conn.Close()
	}
}

func TestCertificateIsReloaded(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, cert, key, "first")
	s := newServer(t, func(cfg *server.Config) { cfg.TLSCert, cfg.TLSKey = cert, key })
	address, stop := serve(t, s)
	name := func() string {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := name(); got != "first" {
		t.Error(got)
	}
	writeFile(t, key, "broken")
	if got := name(); got != "first" {
		t.Error("a broken pair is in use:", got)
	}
	writeCertificate(t, cert, key, "second")
	for deadline := time.Now().Add(20 * time.Second); name() != "second"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new pair is not in use")
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := server.New(server.Config{TLSCert: cert}); err == nil {
		t.Error("a certificate without a key was accepted")
	}
}

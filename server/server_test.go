package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

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
		{"GET", "/v2/a/b/tags/list%2f", "", nil, 400, "NAME_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/../list", "", nil, 400, "NAME_INVALID", nil, ""},
		{"GET", "/v2/" + strings.Repeat("a", 20_000) + "/tags/list", "", nil, 414, "UNSUPPORTED", nil, ""},
		{"GET", "/v2/c/tags/list", "", nil, 404, "NAME_UNKNOWN", nil, ""},

		{"HEAD", "/v2/a/b/blobs/" + blob.String(), "", nil, 200, "", []string{"Content-Length: 10", "Docker-Content-Digest: " + blob.String(), "Content-Type: application/octet-stream"}, ""},
		{"GET", "/v2/a/b/blobs/" + strings.Replace(blob.String(), ":", "%3A", 1), "", nil, 200, "", []string{"Etag: \"" + blob.String() + "\""}, "0123456789"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=2-4"}, 206, "", []string{"Content-Range: bytes 2-4/10"}, "234"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=-2"}, 206, "", nil, "89"},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=500-"}, 416, "", []string{"Content-Range: bytes */10"}, ""},
		{"GET", "/v2/a/b/blobs/" + blob.String(), "", []string{"Range: bytes=0-0" + strings.Repeat(",0-0", 999)}, 206, "", []string{"Content-Range: bytes 0-0/10"}, "0"},
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
		{"GET", "/v2/a/b/tags/list?n=2&ns=local.example&x=1%262", "", nil, 200, "", []string{`Link: </v2/a/b/tags/list?last=v1&n=2&ns=local.example&x=1%262>; rel="next"`}, ""},
		{"GET", "/v2/a/b/tags/list?n=0", "", nil, 200, "", []string{"Link: "}, `{"name":"a/b","tags":[]}`},
		{"GET", "/v2/a/b/tags/list?n=99999999999999999999", "", nil, 200, "", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=-1", "", nil, 400, "PAGINATION_NUMBER_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=x", "", nil, 400, "PAGINATION_NUMBER_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=%2B1", "", nil, 400, "PAGINATION_NUMBER_INVALID", nil, ""},
		{"GET", "/v2/a/b/tags/list?n=-99999999999999999999", "", nil, 400, "PAGINATION_NUMBER_INVALID", nil, ""},
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
		{"GET", "/metrics", "", nil, 200, "", nil, `~registry_http_requests_total{code="200",handler="tags",method="get"} 7`},
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
		if a.StatusCode != 405 || strings.Contains(a.Header.Get("Allow"), method) || !strings.Contains(a.body, "read-only") {
			t.Error(method, a.Status, a.Header.Get("Allow"), a.body)
		}
		checkError(t, method, a, "UNSUPPORTED")
	}
	if a := c.do("GET", "/v2/_catalog", ""); a.StatusCode != 200 {
		t.Error(a.Status)
	}
}

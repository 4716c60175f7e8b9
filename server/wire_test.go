package server_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"strings"
	"testing"
	"time"

	"registry/server"
)

// Requests as no client of net/http sends them. None may be left without an answer.
func TestWire(t *testing.T) {
	c := newClient(t, newServer(t))
	blob := "/v2/a/blobs/" + c.push("a", "0123456789").String()
	empty := "/v2/a/blobs/" + c.push("a", "").String()
	for _, x := range []struct{ wire, status, header, body string }{
		{"G@T /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", ""},
		{"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "NOT_FOUND"},
		{"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "NOT_FOUND"},
		{"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "200", "", ""},
		{"TRACE /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", "405", "Allow: GET, HEAD, OPTIONS", "UNSUPPORTED"},
		{"GET /v2/a/../a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "NAME_INVALID"},
		{"GET //v2/ HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "NOT_FOUND"},
		{"GET /v2/a%2Fb/tags/list HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "NAME_INVALID"},
		// What an encoded slash is part of is not valid, and nothing before it is lost.
		{"GET /v2/a/blobs/sha256:..%2f.. HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "DIGEST_INVALID"},
		{"HEAD /v2/a/blobs/sha256:..%2F..%2fx HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", ""},
		{"DELETE /v2/a/blobs/..%2f.. HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "DIGEST_INVALID"},
		{"GET /v2/a/referrers/sha256:%2e%2e%2f HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "DIGEST_INVALID"},
		{"GET /v2/a/manifests/a%2fb HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "MANIFEST_UNKNOWN"},
		{"DELETE /v2/a/manifests/..%2f..%2fb HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "MANIFEST_UNKNOWN"},
		{"PUT /v2/a/manifests/a%2fb HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "400", "", "TAG_INVALID"},
		{"PUT /v2/a/manifests/sha256:..%2fb HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "400", "", "DIGEST_INVALID"},
		{"GET /v2/a/blobs/uploads/..%2f.. HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "BLOB_UPLOAD_UNKNOWN"},
		{"PATCH /v2/a/blobs/uploads/..%2f..%2fa HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "404", "", "BLOB_UPLOAD_UNKNOWN"},
		{"DELETE /v2/a/blobs/uploads/%252f HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "BLOB_UPLOAD_UNKNOWN"},
		{"GET /v2%2fa/tags/list HTTP/1.1\r\nHost: x\r\n\r\n", "404", "", "NOT_FOUND"},
		{"GET /v2/a/blobs%2fuploads/x HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "NAME_INVALID"},
		// A path that is not encoded as it should be hides its slash from URL.EscapedPath.
		{"GET /v2/a%2fb/blobs/uploads/\" HTTP/1.1\r\nHost: x\r\n\r\n", "400", "", "NAME_INVALID"},
		{"GET /v2/a/tags/list HTTP/1.0\r\n\r\n", "200", "", `{"name":"a","tags":[]}`},
		{"GET /v2/a/tags/list?n=1;last=x HTTP/1.1\r\nHost: x\r\n\r\n", "200", "", ""},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=500-\r\n\r\n", "416", "Content-Range: bytes */10", "RANGE_INVALID"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=9-0\r\n\r\n", "416", "Content-Range: bytes */10", "RANGE_INVALID"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=x-\r\n\r\n", "416", "Content-Type: application/json", "RANGE_INVALID"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=8-18446744073709551615\r\n\r\n", "206", "Content-Range: bytes 8-9/10", "89"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=18446744073709551615-\r\n\r\n", "416", "Content-Range: bytes */10", "RANGE_INVALID"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=-18446744073709551615\r\n\r\n", "206", "Content-Range: bytes 0-9/10", "0123456789"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=-0\r\n\r\n", "416", "Content-Range: bytes */10", "RANGE_INVALID"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=-0,0-0\r\n\r\n", "206", "Content-Range: bytes 0-0/10", "0"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-2,1-4\r\n\r\n", "206", "Content-Range: bytes 0-4/10", "01234"},
		{"GET " + empty + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-\r\n\r\n", "200", "Content-Length: 0", ""},
		{"GET " + empty + " HTTP/1.1\r\nHost: x\r\nRange: bytes=-5\r\n\r\n", "200", "Content-Length: 0", ""},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,4-5\r\nIf-Range: \"other\"\r\n\r\n", "200", "", "0123456789"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,4-5\r\nIf-Range: \"" + blob[len("/v2/a/blobs/"):] + "\"\r\n\r\n", "206", "multipart", ""},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,4-5\r\nIf-None-Match: *\r\n\r\n", "304", "", ""},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,4-5\r\nIf-Match: \"other\"\r\n\r\n", "412", "", ""},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: items=0-5\r\n\r\n", "200", "", "0123456789"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1,4-5\r\n\r\n", "206", "Content-Type: multipart/byteranges", "Content-Range: bytes 4-5/10\r\n"},
		{"GET " + blob + " HTTP/1.1\r\nHost: x\r\nIf-Match: \"other\"\r\n\r\n", "412", "", ""},
		{"HEAD " + blob + " HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"" + blob[len("/v2/a/blobs/"):] + "\"\r\n\r\n", "304", "Docker-Content-Digest: sha256:", ""},
		{"PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nContent-Range: 0-1\r\nContent-Range: 4-5\r\nContent-Length: 2\r\n\r\nab", "400", "", "BLOB_UPLOAD_INVALID"},
	} {
		if got := c.wire(x.wire); !strings.HasPrefix(got, "HTTP/1.") || got[9:12] != x.status || !strings.Contains(got, x.header) || !strings.Contains(got, x.body) {
			t.Errorf("%.100q:\n%s", x.wire, got)
		}
	}
}

// A request whose end a proxy may have read elsewhere is the last on its connection, whatever follows.
func TestRequestsThatMayHideAnother(t *testing.T) {
	c := newClient(t, newServer(t))
	const hidden = "GET /v2/_catalog HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	for _, x := range []struct {
		wire string
		want int // answers
	}{
		{"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		{"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 1},
		{"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 1},
		{"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 1},
		{"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n", 1},
		{"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n12345", 2},
		{"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 2},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, x.wire+hidden+"GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
		got, _ := io.ReadAll(conn) // a reset, too, is an end
		conn.Close()
		if n := strings.Count(string(got), "HTTP/1."); n < x.want || n > x.want && x.want == 1 {
			t.Errorf("%.100q: %d answers: %s", x.wire, n, got)
		}
	}
}

// wire sends bytes as they are and returns the answer.
func (c *client) wire(text string) string {
	c.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, text)
	// Not closed for writing, which the server would take for a client that has gone away.
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		c.t.Errorf("%.100q: %v", text, err)
		return ""
	}
	defer resp.Body.Close()
	got, err := httputil.DumpResponse(resp, true)
	if err != nil {
		c.t.Errorf("%.100q: %v", text, err)
	}
	return string(got)
}

// net/http reads what a handler left of a body before it answers. A client that announces a body and sends none must not
// keep a connection, nor the file behind an answer, for ever.
func TestBodyThatDoesNotCome(t *testing.T) {
	var cfg server.Config
	blob := newClient(t, newServer(t, func(c *server.Config) { cfg = *c })).push("a", strings.Repeat("0123456789", 10_000))
	cfg.BodyIdleTimeout = 50 * time.Millisecond
	c := newClient(t, newServer(t, func(c *server.Config) { *c = cfg }))
	for _, request := range []string{
		"GET /v2/a/blobs/" + blob.String(), "GET /v2/a/tags/list", "GET /v2/pot", "PUT /v2/a/manifests/x?tag=y", "PUT /v2/a/manifests/x",
		"GET /livez", "GET /readyz", "GET /metrics",
	} {
		for _, body := range []string{"Content-Length: 100", "Content-Length: 10000000", "Transfer-Encoding: chunked"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", request, body)
			// Whether an answer gets through after the wait is a matter of luck; that the server ends it is not.
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s with %s keeps its connection", request, body)
			}
			conn.Close()
		}
	}
}

// A client that does not read what it asked for is given up.
func TestAnswerThatIsNotRead(t *testing.T) {
	var cfg server.Config
	patient := newServer(t, func(c *server.Config) { cfg = *c })
	content := strings.Repeat("0123456789", 3_000_000) // more than the buffers of a connection
	blob := newClient(t, patient).push("a", content)
	cfg.BodyIdleTimeout = 50 * time.Millisecond
	s := newServer(t, func(c *server.Config) { *c = cfg })
	c := newClient(t, s)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v2/a/blobs/%s HTTP/1.1\r\nHost: x\r\n\r\n", blob)
	waitFor(s, "/metrics", func(w *httptest.ResponseRecorder) bool {
		return strings.Contains(w.Body.String(), `registry_http_requests_total{code="200",handler="blob",method="get"} 1`)
	})
}

// A client that is refused learns it before it has sent its body, however long that takes.
func TestRefusedBeforeTheBody(t *testing.T) {
	c := newClient(t, newServer(t)) // which waits a minute for a byte
	for _, request := range []string{
		"PUT /v2/A/manifests/x", "DELETE /v2/pot", "PUT /v2/a/blobs/uploads/x?digest=y", "POST /v2/_catalog", "PUT /elsewhere",
	} {
		for _, body := range []string{"Content-Length: 100", "Content-Length: 10000000", "Transfer-Encoding: chunked"} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "%s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n\r\n", request, body)
			conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s with %s: %v", request, body, err)
			} else if resp.StatusCode < 400 || !resp.Close {
				t.Errorf("%s with %s: %s, closed: %v", request, body, resp.Status, resp.Close)
			}
			conn.Close()
		}
	}
}

package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"registry/server"
	"registry/server/certs"

	"github.com/opencontainers/go-digest"
)

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
		return strings.Contains(w.Body.String(), `registry_http_in_flight_requests{handler="blob_upload_chunk"} 1`)
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
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if strings.Contains(w.Body.String(), `registry_http_in_flight_requests{handler="blob_upload"} 1`) {
			t.Error(name, "a handler outlives Serve")
		}
		conn.Close()
	}
}

// failing is a source of certificates that has none in the end.
type failing struct{ server.Certificates }

func (failing) Run(context.Context) error { return errors.New("no certificate") }

// Serve waits for the work on certificates, and ends when that fails.
func TestCertificatesEndServe(t *testing.T) {
	own, err := certs.NewOwn(certs.OwnConfig{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(cfg *server.Config) { cfg.TLS = failing{own} })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(t.Context(), ln); err == nil || !strings.Contains(err.Error(), "no certificate") {
		t.Error(err)
	}
}

// Over TLS the same things hold on HTTP/2.
func TestHTTP2(t *testing.T) {
	dir := t.TempDir()
	own, err := certs.NewOwn(certs.OwnConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ca, err := certs.Authority(dir)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots}}
	checkHTTP2(t, "https://", transport, func(cfg *server.Config) { cfg.TLS = own })
}

// A proxy may speak HTTP/2 without TLS, and others go on with HTTP/1 on the same port.
func TestUnencryptedHTTP2(t *testing.T) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	checkHTTP2(t, "http://", transport, func(*server.Config) {})
	address, stop := serve(t, newServer(t))
	defer stop()
	plain := &http.Transport{}
	defer plain.CloseIdleConnections()
	c := &client{t, "http://" + address, &http.Client{Transport: plain}}
	if a := c.do("GET", "/v2/", "", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"); a.StatusCode != 200 || a.ProtoMajor != 1 {
		t.Error(a.Proto, a.Status)
	}
}

// checkHTTP2 pushes and pulls over HTTP/2, and lets a body stall.
func checkHTTP2(t *testing.T, scheme string, transport *http.Transport, change func(*server.Config)) {
	t.Helper()
	s := newServer(t, change, func(cfg *server.Config) { cfg.BodyIdleTimeout = 200 * time.Millisecond })
	address, stop := serve(t, s)
	c := &client{t, scheme + address, &http.Client{Transport: transport}}
	content := strings.Repeat("0123456789", 300_000)
	blob := "/v2/a/blobs/" + digest.FromString(content).String()
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	if a := c.do("PATCH", location, content); a.StatusCode != 202 || a.ProtoMajor != 2 {
		t.Fatal(a.Proto, a.Status, a.body)
	}
	if a := c.do("PUT", location+"?digest="+digest.FromString(content).String(), ""); a.StatusCode != 201 {
		t.Error(a.Status, a.body)
	}
	if a := c.do("GET", blob, ""); a.StatusCode != 200 || a.body != content {
		t.Error(a.Status, len(a.body))
	}
	if a := c.do("GET", blob, "", "Range: bytes=1000000-1000009"); a.StatusCode != 206 || a.body != "0123456789" {
		t.Error(a.Status, a.body)
	}
	body, feed := io.Pipe()
	defer feed.Close()
	r, err := http.NewRequest("PATCH", c.url+c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location"), body)
	if err != nil {
		t.Fatal(err)
	}
	go feed.Write([]byte("0123456789"))
	if a := c.send(r); a.StatusCode != 408 {
		t.Error("an idle body was answered with", a.Status)
	}
	transport.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// What asks for / is told that a server is here. That a page is for people is not for it to say.
func TestRoot(t *testing.T) {
	c := newClient(t, newServer(t))
	for _, method := range []string{"GET", "HEAD"} {
		if a := c.do(method, "/", ""); a.StatusCode != 200 || a.body != "" || a.Header.Get("Cache-Control") != "no-cache" {
			t.Error(method, a.Status, a.body)
		}
	}
	if a := c.do("POST", "/", ""); a.StatusCode != 404 {
		t.Error(a.Status)
	}
}

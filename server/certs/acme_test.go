package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/acme/autocert"
)

// buffer is a log that is read while it is written.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// newACME is one of a directory that answers what handler does.
func newACME(t *testing.T, handler http.HandlerFunc, change ...func(*ACMEConfig)) (a *ACME, log *buffer) {
	t.Helper()
	directory := httptest.NewTLSServer(handler)
	t.Cleanup(directory.Close)
	log = new(buffer)
	cfg := ACMEConfig{Dir: filepath.Join(t.TempDir(), "tls", "acme"), Names: []string{"registry.example", "other.example"},
		Directory: directory.URL, Roots: x509.NewCertPool(), Log: slog.New(slog.NewTextHandler(log, nil))}
	cfg.Roots.AddCert(directory.Certificate())
	for _, c := range change {
		c(&cfg)
	}
	a, err := NewACME(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.manager.Client.HTTPClient.CloseIdleConnections)
	return a, log
}

// run runs the background work until the test ends.
func run(t *testing.T, a *ACME) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A CA that does not answer well is asked once by the server, and not once more by each client that comes along.
func TestACMEAsksOnce(t *testing.T) {
	var asked atomic.Int32
	a, log := newACME(t, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(404) },
		func(cfg *ACMEConfig) { cfg.Names = cfg.Names[:1] })
	run(t, a)
	for _, name := range []string{"registry.example", "REGISTRY.example", "stranger.example", ""} {
		if _, err := shake(t, a.Config(), &tls.Config{ServerName: name, InsecureSkipVerify: true}); err == nil {
			t.Errorf("%q: there is a certificate", name)
		}
		if _, err := a.get(&tls.ClientHelloInfo{ServerName: name}); err == nil || !strings.Contains(err.Error(), "so far") {
			t.Errorf("%q: autocert was asked: %v", name, err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("the CA was asked %d times", asked.Load())
	}
	if got := log.String(); !strings.Contains(got, "no TLS certificate") || !strings.Contains(got, "registry.example") {
		t.Error(got)
	}
}

// With the certificates of an earlier process nobody is asked. A client that says no name that is known gets the first.
func TestACMEKeepsCertificates(t *testing.T) {
	a, _ := newACME(t, func(http.ResponseWriter, *http.Request) { t.Error("the CA was asked") })
	o := open(t, t.TempDir(), &clock{time.Now()}, machine())
	for _, name := range a.Names {
		pair, err := o.ca.issue([]string{name}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := (cache{a.Dir, quiet}).Put(t.Context(), name, pair); err != nil {
			t.Fatal(err)
		}
	}
	run(t, a)
	if !slices.Contains(a.Config().NextProtos, "acme-tls/1") {
		t.Error("tls-alpn-01 is not answered")
	}
	for asked, want := range map[string]string{"registry.example": "registry.example", "Other.Example": "other.example",
		"": "registry.example", "localhost": "registry.example"} {
		state, err := shake(t, a.Config(), &tls.Config{ServerName: asked, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Errorf("%q: %v", asked, err)
			continue
		}
		if got := state.PeerCertificates[0].DNSNames[0]; got != want || state.NegotiatedProtocol != "h2" {
			t.Errorf("%q: got %q, %s", asked, got, state.NegotiatedProtocol)
		}
	}
}

// Run does not wait for a CA that does not answer.
func TestACMEStops(t *testing.T) {
	asked, end := make(chan struct{}, 2), make(chan struct{})
	a, _ := newACME(t, func(http.ResponseWriter, *http.Request) { asked <- struct{}{}; <-end })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	<-asked
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("still running")
	}
	close(end)
	for _, name := range a.Names { // what was left behind has ended too
		a.manager.GetCertificate(asking(name))
	}
}

func TestACMEHTTP(t *testing.T) {
	for origin, want := range map[string]string{
		"": "https://registry.example:443/v2/a?b=c", "https://registry.example:8443": "https://registry.example:8443/v2/a?b=c",
	} {
		a, _ := newACME(t, nil, func(cfg *ACMEConfig) { cfg.Origin = origin })
		handler := a.manager.HTTPHandler(a.redirect())
		ask := func(method, path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			r := httptest.NewRequest(method, path, nil)
			r.Host = "registry.example:80"
			handler.ServeHTTP(w, r)
			return w
		}
		if w := ask("GET", "/v2/a?b=c"); w.Code != 302 || w.Header().Get("Location") != want {
			t.Errorf("%q: %d %s", origin, w.Code, w.Header())
		}
		if w := ask("POST", "/v2/a"); w.Code != 400 {
			t.Errorf("%q: POST: %d", origin, w.Code)
		}
		if w := ask("GET", "/.well-known/acme-challenge/"+strings.Repeat("x", 5000)); w.Code != 404 || strings.Contains(w.Body.String(), a.Dir) {
			t.Errorf("%q: %d %s", origin, w.Code, w.Body)
		}
	}
}

func TestACMEHTTPAddressTaken(t *testing.T) {
	taken := httptest.NewServer(nil)
	defer taken.Close()
	a, _ := newACME(t, nil, func(cfg *ACMEConfig) { cfg.HTTPAddr = taken.Listener.Addr().String() })
	if err := a.Run(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestIsLate(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	cert := &x509.Certificate{NotBefore: begin, NotAfter: begin.AddDate(0, 0, 90)}
	for days, want := range map[int]bool{0: false, 61: false, 67: false, 68: true, 100: true} {
		if got := isLate(cert, begin.AddDate(0, 0, days)); got != want {
			t.Errorf("after %d days: %v", days, got)
		}
	}
}

func TestCache(t *testing.T) {
	c := cache{t.TempDir(), quiet}
	if _, err := c.Get(t.Context(), "registry.example"); err != autocert.ErrCacheMiss {
		t.Error(err)
	}
	for _, key := range []string{"registry.example", "../up+token", "acme_account+key"} {
		if err := c.Put(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(t.Context(), key); err != nil || string(got) != key {
			t.Errorf("%q, %v", got, err)
		}
		info, err := os.Stat(c.path(key))
		if err != nil || info.Mode().Perm() != 0o600 || filepath.Dir(c.path(key)) != c.dir {
			t.Error(info, err)
		}
		if err := c.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
		if err := c.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	if err := os.Remove(c.dir); err != nil {
		t.Error("something is left:", err)
	}
	if err := c.Put(t.Context(), "a.example", nil); !os.IsNotExist(err) {
		t.Error(err, fs.ErrNotExist)
	}
}

package doctor_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/auth"
	"registry/server/doctor"
	"registry/server/gc"
	"registry/server/registry"
	"registry/server/remote"
)

type proxy func(http.Handler) http.Handler

// answers changes the headers of answers.
func answers(change func(r *http.Request, h http.Header)) proxy {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&changing{ResponseWriter: w, change: func(h http.Header) { change(r, h) }}, r)
		})
	}
}

type changing struct {
	http.ResponseWriter
	change func(http.Header)
	done   bool
}

func (w *changing) WriteHeader(status int) {
	if !w.done {
		w.done = true
		w.change(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *changing) Write(p []byte) (int, error) {
	if !w.done {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// without removes a header.
func without(names ...string) proxy {
	return answers(func(_ *http.Request, h http.Header) {
		for _, name := range names {
			h.Del(name)
		}
	})
}

// replaced changes text in a header.
func replaced(name, old, replacement string) proxy {
	return answers(func(_ *http.Request, h http.Header) {
		if v := h.Get(name); v != "" {
			h.Set(name, strings.Replace(v, old, replacement, 1))
		}
	})
}

// located makes the path of every Location an address at origin.
func located(origin string) proxy {
	return answers(func(_ *http.Request, h http.Header) {
		if v := h.Get("Location"); strings.HasPrefix(v, "/") {
			h.Set("Location", origin+v)
		}
	})
}

// on answers some requests itself, as a proxy does.
func on(method, part string, answer func(http.ResponseWriter, *http.Request, http.Handler)) proxy {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == method && strings.Contains(r.URL.RequestURI(), part) {
				answer(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

func status(code int) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(code)
		io.WriteString(w, "<html>nginx</html>")
	}
}

// ready answers as a registry that is not.
func ready(text string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, text+"\n")
	}
}

func zipped(w http.ResponseWriter, r *http.Request, next http.Handler) {
	inner := httptest.NewRecorder()
	next.ServeHTTP(inner, r)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(inner.Body.Bytes())
	z.Close()
	for k, v := range inner.Header() {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(inner.Code)
	w.Write(b.Bytes())
}

// registryHandler is a real registry, with users or without.
func registryHandler(t *testing.T, users bool) http.Handler {
	t.Helper()
	database := dbtest.Open(t)
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Registry: registry.New(registry.Config{DB: database, Blobs: store})}
	if users {
		cfg.Auth = auth.New(auth.Config{DB: database})
		if _, err := cfg.Auth.Start(t.Context(), "password of the admin"); err != nil {
			t.Fatal(err)
		}
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s.Handler()
}

// examine lets the doctor look at a server.
func examine(t *testing.T, ts *httptest.Server, users bool) []doctor.Check {
	t.Helper()
	t.Cleanup(ts.Close)
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	base, _ := url.Parse(ts.URL)
	opt := doctor.Options{Base: base, Size: 2 << 20, Slow: 1500 * time.Millisecond, Lag: 1500 * time.Millisecond}
	if c := ts.Certificate(); c != nil {
		opt.Remote.CA = x509.NewCertPool()
		opt.Remote.CA.AddCert(c)
	}
	if users {
		opt.Remote = remote.Config{User: "admin", Password: "password of the admin", CA: opt.Remote.CA}
	}
	opt.Remote.Backoff = func(int) time.Duration { return time.Millisecond }
	checks, err := doctor.Run(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return checks
}

// bad are the checks that found something.
func bad(checks []doctor.Check) []doctor.Check {
	return slices.DeleteFunc(checks, func(c doctor.Check) bool { return c.Level == doctor.OK })
}

func serveTLS(h http.Handler) *httptest.Server {
	ts := httptest.NewUnstartedServer(h)
	ts.EnableHTTP2 = true
	ts.StartTLS()
	return ts
}

func TestHealthy(t *testing.T) {
	for name, users := range map[string]bool{"open": false, "users": true} {
		for scheme, serve := range map[string]func(http.Handler) *httptest.Server{"http": httptest.NewServer, "https": serveTLS} {
			h := registryHandler(t, users)
			checks := examine(t, serve(h), users)
			if len(checks) < 12 {
				t.Errorf("%s, %s: only %d checks", name, scheme, len(checks))
			}
			if !slices.ContainsFunc(checks, func(c doctor.Check) bool { return c.Name == "ready" }) {
				t.Errorf("%s, %s: nothing says whether it takes pushes", name, scheme)
			}
			if found := bad(checks); len(found) > 0 {
				t.Errorf("%s, %s: %+v", name, scheme, found)
			}
			// Nothing is left.
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/v2/_catalog", nil))
			if !users && strings.Contains(w.Body.String(), "doctor") {
				t.Error(w.Body)
			}
		}
	}
}

func TestTroubles(t *testing.T) {
	slow := func(d time.Duration) func(http.ResponseWriter, *http.Request, http.Handler) {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			time.Sleep(d)
			next.ServeHTTP(w, r)
		}
	}
	for name, test := range map[string]struct {
		tls, users bool
		between    proxy
		check      string // that finds it
		level      doctor.Level
		says       string // something of what to change
	}{
		"Location without TLS":      {true, false, located("http://127.0.0.1"), "location", doctor.Problem, "X-Forwarded-Proto"},
		"Location of another host":  {false, false, located("http://registry.internal:5000"), "location", doctor.Problem, "proxy_set_header Host"},
		"Location of another port":  {false, false, located("http://127.0.0.1"), "location", doctor.Problem, "$http_host"},
		"no Location":               {false, false, without("Location"), "location", doctor.Problem, "Location"},
		"realm without TLS":         {true, true, replaced("Www-Authenticate", "https://", "http://"), "realm", doctor.Problem, "X-Forwarded-Proto"},
		"realm of another port":     {false, true, replaced("Www-Authenticate", "127.0.0.1:", "127.0.0.1:1"), "realm", doctor.Problem, "--external-url"},
		"realm of another host":     {false, true, replaced("Www-Authenticate", "127.0.0.1", "registry.internal"), "realm", doctor.Problem, "--external-url"},
		"no challenge":              {false, true, without("Www-Authenticate"), "realm", doctor.Problem, "WWW-Authenticate"},
		"Basic only":                {false, true, replaced("Www-Authenticate", "Bearer", "Basic"), "realm", doctor.Warning, "Bearer"},
		"Authorization is dropped":  {false, true, dropAuthorization, "login", doctor.Problem, "Authorization"},
		"no pushes":                 {false, false, on("GET", "/readyz?writes=1", ready("degraded: blobs")), "ready", doctor.Problem, "disk"},
		"no pulls":                  {false, false, on("GET", "/readyz?writes=1", ready("database failed")), "ready", doctor.Problem, "log"},
		"body limit":                {false, false, on("PATCH", "/uploads/", status(413)), "body", doctor.Problem, "client_max_body_size"},
		"no chunked bodies":         {false, false, on("PATCH", "/uploads/", status(411)), "body", doctor.Problem, "chunked"},
		"PATCH is refused":          {false, false, on("PATCH", "/uploads/", status(405)), "body", doctor.Problem, "every method"},
		"body is cut":               {false, false, on("PATCH", "/uploads/", cutBody), "body", doctor.Problem, "client_max_body_size"},
		"request buffering":         {false, false, on("PATCH", "/uploads/", buffer), "buffering", doctor.Warning, "proxy_request_buffering off"},
		"slow commit":               {false, false, on("PUT", "digest=", slow(1600*time.Millisecond)), "commit", doctor.Problem, "disk"},
		"commit runs out of time":   {false, false, on("PUT", "digest=", status(504)), "commit", doctor.Problem, "proxy_read_timeout"},
		"clock is behind":           {false, false, clock(-10 * time.Minute), "clock", doctor.Problem, "NTP"},
		"clock is ahead":            {false, false, clock(2 * time.Minute), "clock", doctor.Problem, "NTP"},
		"Range is ignored":          {false, false, on("GET", "/blobs/", withoutRange), "range", doctor.Problem, "Range"},
		"HEAD without length":       {false, false, on("HEAD", "/blobs/", headless), "head", doctor.Problem, "Content-Length"},
		"compression":               {false, false, on("GET", "/manifests/", zipped), "manifest", doctor.Problem, "gzip off"},
		"digest header is dropped":  {false, false, without("Docker-Content-Digest"), "head", doctor.Warning, "headers"},
		"version header is dropped": {false, false, without("Docker-Distribution-Api-Version"), "api", doctor.Warning, "headers"},
		"Range header is dropped":   {false, false, without("Range"), "body", doctor.Warning, "headers"},
		"type is changed":           {false, false, answers(func(_ *http.Request, h http.Header) { h.Set("Content-Type", h.Get("Content-Type")+"; charset=utf-8") }), "manifest", doctor.Problem, "charset"},
		"bytes are changed":         {false, false, on("GET", "/blobs/", otherBytes), "pull", doctor.Problem, "bodies"},
		"answer is cut":             {false, false, on("GET", "/blobs/", cutAnswer), "pull", doctor.Problem, "proxy_max_temp_file_size"},
		"redirect":                  {false, false, on("GET", "/v2/", redirect), "api", doctor.Problem, "address it redirects to"},
		"a web page":                {false, false, on("GET", "/v2/", status(200)), "api", doctor.Problem, "pass /v2/ on"},
		"under a path":              {false, false, on("GET", "/v2/", status(404)), "api", doctor.Problem, "root of the host"},
		"registry is down":          {false, false, on("GET", "/v2/", status(502)), "api", doctor.Problem, "does not reach"},
		"queries are refused":       {false, false, on("GET", "ns=", status(403)), "ns", doctor.Problem, "?ns="},
		"DELETE is refused":         {false, false, on("DELETE", "/v2/", status(405)), "delete", doctor.Warning, "DELETE pass"},
		"nothing may be deleted":    {false, false, both(on("PATCH", "/uploads/", status(413)), on("DELETE", "/v2/", status(405))), "delete", doctor.Warning, "expires"},
		"no referrers":              {false, false, on("GET", "/referrers/", status(404)), "referrers", doctor.Warning, "tags"},
		"push is forbidden":         {false, false, on("POST", "/uploads/", status(403)), "location", doctor.Problem, "right to push"},
	} {
		t.Run(name, func(t *testing.T) {
			serve := httptest.NewServer
			if test.tls {
				serve = serveTLS
			}
			found := bad(examine(t, serve(test.between(registryHandler(t, test.users))), test.users))
			if !slices.ContainsFunc(found, func(c doctor.Check) bool {
				return c.Name == test.check && c.Level == test.level && strings.Contains(c.Advice, test.says)
			}) {
				t.Errorf("not named: %+v", found)
			}
			// One fault is not named as ten.
			if len(found) > 3 {
				t.Errorf("%d findings: %+v", len(found), found)
			}
		})
	}
}

func both(outer, inner proxy) proxy {
	return func(next http.Handler) http.Handler { return outer(inner(next)) }
}

func dropAuthorization(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v2/") {
			r.Header.Del("Authorization")
		}
		next.ServeHTTP(w, r)
	})
}

func cutBody(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	io.CopyN(io.Discard, r.Body, 100_000)
	if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
		conn.Close()
	}
}

func buffer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(text))
	next.ServeHTTP(w, r)
}

func clock(off time.Duration) proxy {
	return answers(func(_ *http.Request, h http.Header) { h.Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat)) })
}

func withoutRange(w http.ResponseWriter, r *http.Request, next http.Handler) {
	r.Header.Del("Range")
	next.ServeHTTP(w, r)
}

func headless(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&changing{ResponseWriter: w, change: func(h http.Header) { h.Del("Content-Length") }}, r)
}

func otherBytes(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.Header.Get("Range") != "" {
		next.ServeHTTP(w, r)
		return
	}
	inner := httptest.NewRecorder()
	next.ServeHTTP(inner, r)
	text := inner.Body.Bytes()
	text[len(text)/2] ^= 1
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Write(text)
}

func cutAnswer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.Header.Get("Range") != "" {
		next.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(2<<20))
	w.Write(make([]byte, 1000))
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func redirect(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	http.Redirect(w, r, "https://registry.example.com/v2/", http.StatusMovedPermanently)
}

// certificate makes one that has signed itself, or that is signed by a CA nobody knows.
func certificate(t *testing.T, change func(*x509.Certificate), byOther bool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: !byOther}
	change(c)
	parent, signer := c, key
	if byOther {
		parent = &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "company CA"}, IsCA: true}
		if signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestCertificates(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*x509.Certificate)
		other  bool
		level  doctor.Level
		says   string
	}{
		"expired":      {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false, doctor.Problem, "renew"},
		"not yet good": {func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }, false, doctor.Problem, "clock"},
		"ends soon":    {func(c *x509.Certificate) { c.NotAfter = time.Now().Add(24 * time.Hour) }, false, doctor.Warning, "renew"},
		"another name": {func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"registry.example.com"} }, false, doctor.Problem, "subject alternative names"},
		"no chain":     {func(*x509.Certificate) {}, true, doctor.Problem, "intermediate"},
	} {
		ts := httptest.NewUnstartedServer(registryHandler(t, false))
		ts.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, test.change, test.other)}}
		ts.EnableHTTP2 = true
		ts.Config.ErrorLog = nil
		ts.StartTLS()
		if test.other { // whose CA nobody trusts
			defer ts.Close()
			base, _ := url.Parse(ts.URL)
			checks, err := doctor.Run(t.Context(), doctor.Options{Base: base, Remote: remote.Config{CA: x509.NewCertPool()}})
			if err != nil || len(checks) != 1 && len(checks) != 2 {
				t.Fatal(name, checks, err)
			}
			if c := bad(checks)[0]; c.Name != "certificate" || c.Level != test.level || !strings.Contains(c.Advice, test.says) {
				t.Errorf("%s: %+v", name, c)
			}
			continue
		}
		found := bad(examine(t, ts, false))
		if len(found) != 1 || found[0].Name != "certificate" || found[0].Level != test.level || !strings.Contains(found[0].Advice, test.says) {
			t.Errorf("%s: %+v", name, found)
		}
	}
}

func TestNoRegistry(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	for name, base := range map[string]*url.URL{"nothing listens": {Scheme: "http", Host: address}, "no such host": {Scheme: "https", Host: "no-such-host.invalid"}} {
		checks, err := doctor.Run(t.Context(), doctor.Options{Base: base})
		if err != nil || len(checks) != 1 || checks[0].Name != "connection" || checks[0].Level != doctor.Problem {
			t.Errorf("%s: %+v %v", name, checks, err)
		}
	}
	plain := httptest.NewServer(registryHandler(t, false))
	defer plain.Close()
	base, _ := url.Parse(plain.URL)
	base.Scheme = "https"
	checks, err := doctor.Run(t.Context(), doctor.Options{Base: base})
	if err != nil || len(checks) != 1 || !strings.Contains(checks[0].Advice, "http://") {
		t.Errorf("%+v %v", checks, err)
	}
}

// TestLeavesNothing sees that a registry where deletions can be undone keeps next to nothing of an examination.
func TestLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "blobs")
	store, err := blobs.OpenDir(t.Context(), dir, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New(registry.Config{DB: dbtest.Open(t), Blobs: store, UndoWindow: 24 * time.Hour})
	s, err := server.New(server.Config{Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	if found := bad(examine(t, httptest.NewServer(s.Handler()), false)); len(found) > 0 {
		t.Fatalf("%+v", found)
	}
	if _, err := gc.Collect(t.Context(), reg, gc.Options{Force: true, UndoWindow: 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	var left int64
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(path, "sha256") {
			return err
		}
		info, err := e.Info()
		left += info.Size()
		return err
	})
	if err != nil || left > 1000 {
		t.Errorf("%d bytes are left, %v", left, err)
	}
}

// TestThroughProxy sees that a registry that only a proxy reaches is examined as any other.
func TestThroughProxy(t *testing.T) {
	ts := serveTLS(registryHandler(t, false))
	defer ts.Close()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	asked := make(chan string, 100)
	tunnel := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != "example.com:443" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		asked <- r.Host
		up, err := net.Dial("tcp", ts.Listener.Addr().String())
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		down, sent, err := w.(http.Hijacker).Hijack()
		if err != nil {
			up.Close()
			return
		}
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { io.Copy(up, sent); up.Close() }()
		go func() { io.Copy(down, up); down.Close() }()
	}))
	defer tunnel.Close()
	address, _ := url.Parse(tunnel.URL)
	opt := doctor.Options{Base: &url.URL{Scheme: "https", Host: "example.com"}, Size: 1 << 20, Remote: remote.Config{CA: x509.NewCertPool(), Proxy: http.ProxyURL(address)}}
	opt.Remote.CA.AddCert(ts.Certificate())
	checks, err := doctor.Run(t.Context(), opt)
	if err != nil || len(checks) < 12 || len(bad(checks)) > 0 {
		t.Errorf("%+v, %v", bad(checks), err)
	}
	if len(asked) < 2 {
		t.Error("the proxy was not used")
	}
	opt.Base = &url.URL{Scheme: "https", Host: "elsewhere.example"}
	if checks, err := doctor.Run(t.Context(), opt); err != nil || len(checks) != 1 || !strings.Contains(checks[0].Advice, "NO_PROXY") {
		t.Errorf("%+v, %v", checks, err)
	}
}

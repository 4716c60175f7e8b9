package server_test

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/auth"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// ask is an exchange without a connection, whose Host may be anything.
func ask(h http.Handler, method, host, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// paths are one of every kind that a server answers, or does not.
var paths = []string{"/", "/v2/", "/v2", "/v2/_catalog", "/v2/a/tags/list", "/v2/a/manifests/v1", "/v2/a/blobs/sha256:bad", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads/x",
	"/v2/A/blobs/uploads/", "/auth/token", "/token", "/api/v1/users", "/api/v1/nothing", "/livez", "/readyz", "/metrics", "/nothing", "/v2/a%2fb/tags/list"}

// A browser runs nothing of any answer, shows none within a page, and loads none into another site's.
func TestNoAnswerRunsInABrowser(t *testing.T) {
	open, closed := newServer(t).Handler(), newManaged(t, auth.Config{}).handler
	for users, h := range map[string]http.Handler{"without users": open, "with users": closed} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"} {
			for _, path := range paths {
				for _, header := range []string{"X-A: b", "Origin: https://evil.example", "Sec-Fetch-Site: cross-site"} {
					w := ask(h, method, "127.0.0.1", path, header)
					for name, want := range map[string]string{
						"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
						"Cross-Origin-Resource-Policy": "same-origin",
						"Access-Control-Allow-Origin":  "", "Access-Control-Allow-Credentials": "", "Strict-Transport-Security": "",
					} {
						if got := w.Header().Get(name); got != want {
							t.Errorf("%s: %s %s: %s is %q", users, method, path, name, got)
						}
					}
				}
			}
		}
	}
}

// Whatever may change something is refused to the pages of other sites, on every path, before anything is looked at. What
// is no browser says neither where its page is from nor that it has none.
func TestOtherSitesPagesChangeNothing(t *testing.T) {
	m := newManaged(t, auth.Config{})
	open := newServer(t).Handler()
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("alice:password-alice"))
	foreign := []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: https://evil.example", "Origin: null", "Origin: http://127.0.0.1:1"}
	for _, h := range []http.Handler{m.handler, open} {
		for _, path := range paths {
			for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "BREW"} {
				for _, header := range foreign {
					if w := ask(h, method, "127.0.0.1", path, header, basic); w.Code != 403 || !strings.Contains(w.Body.String(), `"DENIED"`) || !strings.Contains(w.Body.String(), "another site") {
						t.Errorf("%s %s with %s: %d %s", method, path, header, w.Code, w.Body)
					}
				}
				for _, header := range []string{"X-A: b", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none", "Origin: http://127.0.0.1"} {
					if w := ask(h, method, "127.0.0.1", path, header); strings.Contains(w.Body.String(), "another site") {
						t.Errorf("%s %s with %s: %d %s", method, path, header, w.Code, w.Body)
					}
				}
			}
			for _, header := range foreign {
				if w := ask(h, "GET", "127.0.0.1", path, header); w.Code == 403 {
					t.Errorf("GET %s with %s: %d %s", path, header, w.Code, w.Body)
				}
			}
		}
	}
	// A form that mounts a private blob, with the login of who looks at it.
	d := digest.FromString("secret")
	if a := m.as("alice", "POST", "/v2/alice/private/blobs/uploads/?digest="+d.String(), "secret"); a.StatusCode != 201 {
		t.Fatal(a.Status)
	}
	mount := "/v2/alice/mine/blobs/uploads/?from=alice/private&mount=" + d.String()
	if a := m.as("alice", "POST", mount, "", "Origin: https://evil.example", "Content-Type: application/x-www-form-urlencoded"); a.StatusCode != 403 {
		t.Errorf("mounted by another site's form: %s", a.Status)
	}
	if a := m.as("alice", "POST", mount, ""); a.StatusCode != 201 {
		t.Errorf("mounted: %s", a.Status)
	}
}

// A name that leads here without being this server's is no origin that reads or changes anything.
func TestHosts(t *testing.T) {
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	own := []string{"127.0.0.1", "127.0.0.1:5000", "[::1]:5000", "[::1]", "192.0.2.7:80", "[fe80::1]:5000", "localhost", "LocalHost:5000", "localhost.", "a.localhost:1", "A.B.Localhost",
		machine, strings.ToUpper(machine) + ":5000", "reg.example", "REG.example:8443", "reg.example.:1", "other.lan:5000", "a.cert.lan", "B.CERT.lan.:1", ""}
	foreign := []string{"evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", "1.evil.example:5000", "notlocalhost", "reg.example.evil.example",
		"evil.reg.example", "127.0.0.1evil", "[evil]:5000", "other.lan.evil", ".localhost.evil", "x", "cert.lan", "a.b.cert.lan", "acert.lan"}
	with := func(loopback bool) http.Handler {
		return newServer(t, func(cfg *server.Config) {
			cfg.Loopback, cfg.ExternalURL, cfg.AllowedHosts = loopback, "https://Reg.example:8443", []string{"Other.LAN", "*.Cert.lan"}
		}).Handler()
	}
	loopback, network, users := with(true), with(false), newManaged(t, auth.Config{}).handler
	refused := func(w *httptest.ResponseRecorder, host string) bool {
		if w.Code != 421 {
			return false
		}
		name, _, _ := strings.Cut(host, ":")
		if !strings.Contains(w.Body.String(), "--allowed-host") || !strings.Contains(w.Body.String(), name) && name != "[evil]" || !strings.Contains(w.Body.String(), `"DENIED"`) {
			t.Errorf("%s: the answer names no flag: %s", host, w.Body)
		}
		return true
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "POST", "OPTIONS"} {
		for _, path := range []string{"/v2/_catalog", "/v2/a/manifests/latest", "/livez", "/metrics", "/nothing"} {
			for _, host := range own {
				if refused(ask(loopback, method, host, path), host) || refused(ask(network, method, host, path, "User-Agent: Mozilla/5.0"), host) {
					t.Errorf("%s %s for %q is refused", method, path, host)
				}
			}
			for _, host := range foreign {
				if w := ask(loopback, method, host, path); !refused(w, host) {
					t.Errorf("%s %s for %q on loopback: %d", method, path, host, w.Code)
				}
				for _, agent := range []string{"docker/28.0", "containerd/v2", "go-containerregistry", ""} {
					if w := ask(network, method, host, path, "User-Agent: "+agent); refused(w, host) {
						t.Errorf("%s %s for %q by %q is refused", method, path, host, agent)
					}
				}
				for _, header := range []string{"User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "User-Agent: Opera/9.80", "Origin: http://" + host, "Sec-Fetch-Site: same-origin",
					"Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-User: ?1"} {
					if w := ask(network, method, host, path, header); !refused(w, host) {
						t.Errorf("%s %s for %q with %s: %d", method, path, host, header, w.Code)
					}
					if w := ask(users, method, host, path, header); refused(w, host) {
						t.Errorf("%s %s for %q with users and %s is refused", method, path, host, header)
					}
				}
			}
		}
	}
}

// A page of an origin that the operator names reads and changes; with * every page reads, and changes nothing.
func TestCORS(t *testing.T) {
	const ui, other = "https://ui.example:8443", "https://other.example"
	m := newManaged(t, auth.Config{}, func(cfg *server.Config) { cfg.CORSOrigins = []string{ui} })
	every := newServer(t, func(cfg *server.Config) { cfg.CORSOrigins = []string{server.AnyOrigin} }).Handler()
	both := newServer(t, func(cfg *server.Config) { cfg.CORSOrigins = []string{ui, server.AnyOrigin} }).Handler()
	h := m.handler
	for _, c := range []struct {
		what, origin string
		handler      http.Handler
		method       string // of the request, or of the one that a preflight asks for
		allow        string
		preflight    string // methods
	}{
		{"named", ui, h, "GET", ui, "GET, HEAD, POST, PUT, PATCH, DELETE"},
		{"named", ui, h, "PUT", ui, "GET, HEAD, POST, PUT, PATCH, DELETE"},
		{"named", ui, h, "DELETE", ui, "GET, HEAD, POST, PUT, PATCH, DELETE"},
		{"not named", other, h, "GET", "", ""},
		{"not named", other, h, "DELETE", "", ""},
		{"another port", "https://ui.example", h, "GET", "", ""},
		{"no origin", "", h, "GET", "", ""},
		{"a sandboxed page", "null", h, "GET", "", ""},
		{"every", other, every, "GET", "*", "GET, HEAD"},
		{"every", other, every, "HEAD", "*", "GET, HEAD"},
		{"every", other, every, "PUT", "", ""},
		{"every", other, every, "DELETE", "", ""},
		{"every and named", ui, both, "DELETE", ui, "GET, HEAD, POST, PUT, PATCH, DELETE"},
		{"every and named", other, both, "GET", "*", "GET, HEAD"},
	} {
		for _, path := range paths {
			w := ask(c.handler, c.method, "127.0.0.1", path, "Origin: "+c.origin)
			got := w.Header().Get("Access-Control-Allow-Origin")
			if got != c.allow || w.Header().Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("%s: %s %s: %v", c.what, c.method, path, w.Header())
			}
			if exposed := w.Header().Get("Access-Control-Expose-Headers"); strings.Contains(exposed, "Docker-Content-Digest") != (got != "") || strings.Contains(exposed, "WWW-Authenticate") != (got != "") {
				t.Errorf("%s: %s %s exposes %q", c.what, c.method, path, exposed)
			}
			if refused := strings.Contains(w.Body.String(), "another site"); refused != (c.allow == "" && c.origin != "" && c.method != "GET") {
				t.Errorf("%s: %s %s: %d %s", c.what, c.method, path, w.Code, w.Body)
			}
			if named := c.what != "every"; named != (w.Header().Get("Vary") == "Origin") {
				t.Errorf("%s: %s %s: Vary %q", c.what, c.method, path, w.Header().Get("Vary"))
			}
			w = ask(c.handler, "OPTIONS", "127.0.0.1", path, "Origin: "+c.origin, "Access-Control-Request-Method: "+c.method, "Access-Control-Request-Headers: authorization")
			if got := w.Header().Get("Access-Control-Allow-Methods"); got != c.preflight || w.Header().Get("Access-Control-Allow-Origin") != c.allow {
				t.Errorf("%s: preflight of %s %s: %v", c.what, c.method, path, w.Header())
			}
			if c.preflight != "" && (w.Code != 204 || !strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization")) {
				t.Errorf("%s: preflight of %s %s: %d %v", c.what, c.method, path, w.Code, w.Header())
			}
		}
	}
	if w := ask(h, "GET", "127.0.0.1", "/v2/", "Origin: "+ui); w.Code != 401 {
		t.Errorf("a named origin is no login: %d", w.Code)
	}
}

func TestParseOrigin(t *testing.T) {
	for raw, want := range map[string]string{"*": "*", "https://UI.example:443/": "https://ui.example", "http://127.0.0.1:8080": "http://127.0.0.1:8080"} {
		if got, err := server.ParseOrigin(raw); err != nil || got != want {
			t.Errorf("%q: %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{"", "null", "ui.example", "https://*.example", "https://ui.example/path", "file:///x", "https://a,https://b"} {
		if got, err := server.ParseOrigin(raw); err == nil {
			t.Errorf("%q: %q", raw, got)
		}
	}
}

func TestHSTS(t *testing.T) {
	on := func(cfg *server.Config) { cfg.HSTS = true }
	named := func(cfg *server.Config) { cfg.HSTS, cfg.ExternalURL = true, "https://reg.example" }
	for _, c := range []struct {
		what    string
		change  func(*server.Config)
		tls     bool
		headers []string
		want    string
	}{
		{"off", func(*server.Config) {}, true, nil, ""},
		{"HTTPS", on, true, nil, "max-age=31536000"},
		{"HTTP", on, false, []string{"X-A: b"}, ""},
		{"a proxy's HTTPS", named, false, nil, "max-age=31536000"},
	} {
		r := httptest.NewRequest("GET", "/v2/", nil)
		if r.Host = "127.0.0.1"; c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		w := httptest.NewRecorder()
		newServer(t, c.change).Handler().ServeHTTP(w, r)
		if got := w.Header().Get("Strict-Transport-Security"); got != c.want {
			t.Errorf("%s: %q", c.what, got)
		}
	}
}

// What was stored when its type was not yet refused is not shown by a browser.
func TestOldScriptsAreSaved(t *testing.T) {
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	database := dbtest.Open(t)
	c := newClient(t, newServer(t, func(cfg *server.Config) { cfg.Registry = registry.New(registry.Config{DB: database, Blobs: store}) }))
	content := `{"x":"<script>alert(1)</script>"}`
	d := digest.FromString(content)
	for _, mediaType := range []string{"text/html", "image/svg+xml", "application/xhtml+xml", "application/javascript", "application/pdf"} {
		if a := c.do("PUT", "/v2/a/manifests/v1", content, "Content-Type: "+mediaType); a.StatusCode != 400 || !strings.Contains(a.body, "MANIFEST_INVALID") {
			t.Errorf("%s: %s %s", mediaType, a.Status, a.body)
		}
	}
	err = database.Update(t.Context(), func(tx *db.Tx) error {
		id, err := tx.MakeRepository("a", false)
		if err != nil {
			return err
		}
		_, _, err = tx.PutManifest(db.Manifest{RepositoryID: id, Digest: d, MediaType: "text/html", Size: int64(len(content)), Content: []byte(content)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "HEAD"} {
		a := c.do(method, "/v2/a/manifests/"+d.String(), "")
		if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/octet-stream" || a.Header.Get("Docker-Content-Digest") != d.String() || method == "GET" && a.body != content {
			t.Errorf("%s: %s %v %s", method, a.Status, a.Header, a.body)
		}
	}
}

package remote_test

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/auth"
	"registry/server/registry"
	"registry/server/remote"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// peer is a registry with something in front of it.
type peer struct {
	*registry.Registry
	*remote.Client
	t    *testing.T
	base *url.URL
}

// newPeer returns a real registry behind what between makes of its handler.
func newPeer(t *testing.T, between func(http.Handler) http.Handler) *peer {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reg := registry.New(registry.Config{DB: dbtest.Open(t), Blobs: store})
	s, err := server.New(server.Config{Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	handler := s.Handler()
	if between != nil {
		handler = between(handler)
	}
	ts := httptest.NewServer(handler)
	t.Cleanup(ts.Close)
	p := &peer{Registry: reg, t: t}
	p.base, _ = url.Parse(ts.URL)
	p.Client = p.as(remote.Config{})
	return p
}

func (p *peer) as(cfg remote.Config) *remote.Client {
	p.t.Helper()
	cfg.Backoff = func(int) time.Duration { return time.Millisecond }
	c, err := remote.New(p.base, cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// push pushes a blob of this size in chunks of 1 MiB and compares what has arrived.
func (p *peer) push(size int) error {
	p.t.Helper()
	content := random(size)
	d := digest.FromBytes(content)
	var sent int64
	_, err := p.PushBlob(p.t.Context(), remote.Upload{Repo: "a/b", Digest: d, Size: int64(size), Body: strings.NewReader(string(content)), Chunk: 1 << 20,
		Sent: func(n int64) { sent += n }})
	if err != nil {
		return err
	}
	b, err := p.Blob(p.t.Context(), "a/b", d)
	if err != nil {
		return err
	}
	defer b.Close()
	if got, err := io.ReadAll(b); err != nil || digest.FromBytes(got) != d {
		p.t.Error("other bytes arrived", err)
	}
	if sent != int64(size) {
		p.t.Errorf("%d bytes were reported of %d", sent, size)
	}
	return nil
}

func TestPushBlob(t *testing.T) {
	p := newPeer(t, nil)
	for _, size := range []int{0, 1, 1000, 1 << 20, 3<<20 + 1} {
		if err := p.push(size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// Every nth request fails in its way, before or after the registry has seen it.
func TestPushGoesOn(t *testing.T) {
	broken := func(w http.ResponseWriter) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	}
	for name, fault := range map[string]func(h http.Handler, w http.ResponseWriter, r *http.Request){
		"502": func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) },
		"429": func(_ http.Handler, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"cut": func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { broken(w) },
		"cut in the middle": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, 1000), failing{}))
			h.ServeHTTP(httptest.NewRecorder(), r)
			broken(w)
		},
		"answer lost": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(httptest.NewRecorder(), r)
			broken(w)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			p := newPeer(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1)%3 == 0 {
						fault(h, w, r)
						return
					}
					h.ServeHTTP(w, r)
				})
			})
			for range 3 {
				if err := p.push(5<<20 + 17); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// A proxy that lets only so much pass, and says so or not.
func TestPushThroughBodyLimit(t *testing.T) {
	for name, tooLarge := range map[string]func(w http.ResponseWriter){
		"413": func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestEntityTooLarge) },
		"cut": func(w http.ResponseWriter) {
			if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
				conn.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.ContentLength > 300<<10 {
						tooLarge(w)
						return
					}
					h.ServeHTTP(w, r)
				})
			})
			if err := p.push(2 << 20); err != nil {
				t.Error(err)
			}
		})
	}
}

// The registry forgets the upload in the middle, as after a restart without its disk.
func TestPushBeginsAnew(t *testing.T) {
	var patches atomic.Int64
	var reg *registry.Registry
	p := newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch && patches.Add(1) == 3 {
				id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
				if err := reg.CancelUpload(context.WithoutCancel(r.Context()), "a/b", id); err != nil {
					t.Error(err)
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	reg = p.Registry
	if err := p.push(5 << 20); err != nil {
		t.Error(err)
	}
}

func TestPushGivesUp(t *testing.T) {
	for name, status := range map[string]int{"refused": http.StatusForbidden, "broken": http.StatusInternalServerError, "413": 413} {
		var n atomic.Int64
		p := newPeer(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPatch {
					n.Add(1)
					w.WriteHeader(status)
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		var answer *remote.StatusError
		if err := p.push(1 << 20); !errors.As(err, &answer) || answer.Status != status {
			t.Errorf("%s: %v", name, err)
		}
		if n.Load() > 8 {
			t.Errorf("%s: %d tries", name, n.Load())
		}
	}
}

func TestMinAndMaxLength(t *testing.T) {
	var largest atomic.Int64
	p := newPeer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				w.Header().Set("OCI-Chunk-Max-Length", "100000")
			}
			if r.Method == http.MethodPatch {
				largest.Store(max(largest.Load(), r.ContentLength))
			}
			h.ServeHTTP(w, r)
		})
	})
	if err := p.push(1 << 20); err != nil || largest.Load() != 100000 {
		t.Error(err, largest.Load())
	}
}

// layout writes an index of two images, and returns its directory.
func layout(t *testing.T) (dir string, root v1.Descriptor) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, content []byte) {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	add := func(mediaType string, content []byte) v1.Descriptor {
		d := digest.FromBytes(content)
		write("blobs/sha256/"+d.Encoded(), content)
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	}
	addJSON := func(mediaType string, value any) v1.Descriptor {
		content, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return add(mediaType, content)
	}
	index := v1.Index{MediaType: v1.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for n := range 2 {
		m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Config: add(v1.MediaTypeImageConfig, fmt.Appendf(nil, `{"n":%d}`, n))}
		m.SchemaVersion = 2
		m.Layers = []v1.Descriptor{add(v1.MediaTypeImageLayer, random(300_000)), add(v1.MediaTypeImageLayer, []byte("shared"))}
		index.Manifests = append(index.Manifests, addJSON(m.MediaType, m))
	}
	root = addJSON(index.MediaType, index)
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	top, _ := json.Marshal(v1.Index{Manifests: []v1.Descriptor{root}})
	write("index.json", top)
	return dir, root
}

func asTar(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func TestPushLayout(t *testing.T) {
	dir, root := layout(t)
	for name, path := range map[string]string{"directory": dir, "tar": asTar(t, dir)} {
		p := newPeer(t, nil)
		for turn := range 2 {
			c, err := remote.OpenLayout(path, "")
			if err != nil {
				t.Fatal(name, err)
			}
			report, err := p.Push(t.Context(), c, "a/b", "v1", remote.PushOptions{Chunk: 100_000})
			if err := errors.Join(err, c.Close()); err != nil {
				t.Fatal(name, err)
			}
			if report.Manifests != 3 || report.Blobs+report.There != 5 || turn == 1 && report.Blobs > 0 {
				t.Errorf("%s: %+v", name, report)
			}
		}
		if d, err := p.Digest(t.Context(), "a/b", "v1"); err != nil || d != root.Digest {
			t.Error(name, d, err)
		}
		if tags, err := p.Client.Tags(t.Context(), "a/b"); err != nil || len(tags) != 1 {
			t.Error(name, tags, err)
		}
	}
}

func TestPushArtifact(t *testing.T) {
	p := newPeer(t, nil)
	path := filepath.Join(t.TempDir(), "report.txt")
	if err := os.WriteFile(path, []byte("all is well"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := remote.NewArtifact("application/vnd.example", []string{path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := p.Push(t.Context(), c, "a/b", "", remote.PushOptions{}); err != nil {
		t.Fatal(err)
	}
	m, err := p.Manifest(t.Context(), "a/b", registry.Reference{Digest: c.Root.Digest})
	if err != nil || !strings.Contains(string(m.Content), `"report.txt"`) {
		t.Error(string(m.Content), err)
	}
}

func TestBadLayouts(t *testing.T) {
	empty := t.TempDir()
	damaged, root := layout(t)
	if err := os.WriteFile(filepath.Join(damaged, "blobs/sha256", root.Digest.Encoded()), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("not a tar ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, nil)
	for _, name := range []string{empty, damaged, text, filepath.Join(empty, "none")} {
		c, err := remote.OpenLayout(name, "")
		if err == nil {
			_, err = p.Push(t.Context(), c, "a/b", "v1", remote.PushOptions{})
			c.Close()
		}
		if err == nil {
			t.Errorf("%s was pushed", name)
		}
	}
}

func TestLogin(t *testing.T) {
	dir := t.TempDir()
	database := dbtest.Open(t)
	store, err := blobs.OpenDir(t.Context(), filepath.Join(dir, "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	authority := auth.New(auth.Config{DB: database})
	if _, err := authority.Start(t.Context(), "password of the admin"); err != nil {
		t.Fatal(err)
	}
	if err := authority.CreateUser(t.Context(), registry.Actor{}, "alice", "correct horse battery", false, true); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Config{Registry: registry.New(registry.Config{DB: database, Blobs: store}), Auth: authority})
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.Handler())
	defer ts.Close()
	base, _ := url.Parse(ts.URL)
	push := func(cfg remote.Config) error {
		c, err := remote.New(base, cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.PushBlob(t.Context(), remote.Upload{Repo: "alice/a", Digest: digest.FromString("x"), Size: 1, Body: strings.NewReader("x")})
		return err
	}
	t.Setenv("DOCKER_CONFIG", dir)
	if err := push(remote.Config{}); err == nil {
		t.Error("pushed without a login")
	}
	if err := push(remote.Config{User: "alice", Password: "wrong"}); err == nil {
		t.Error("pushed with a wrong password")
	}
	if err := push(remote.Config{User: "alice", Password: "correct horse battery"}); err != nil {
		t.Error(err)
	}
	config := fmt.Sprintf(`{"auths":{%q:{"auth":"YWxpY2U6Y29ycmVjdCBob3JzZSBiYXR0ZXJ5"}}}`, base.Host)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := push(remote.Config{}); err != nil {
		t.Error("with the config of Docker:", err)
	}
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"example.com/a":            "https://example.com|a|",
		"example.com:5000/a/b:v1":  "https://example.com:5000|a/b|v1",
		"localhost:5000/a:v1":      "http://localhost:5000|a|v1",
		"127.0.0.1/a":              "http://127.0.0.1|a|",
		"[::1]:5000/a":             "http://[::1]:5000|a|",
		"https://localhost:5000/a": "https://localhost:5000|a|",
		"http://example.com":       "http://example.com||",
		"https://example.com/":     "https://example.com||",
		"":                         "",
		"ftp://example.com/a":      "",
		"example.com/A":            "",
		"example.com/a:b:c":        "",
		"example.com/a:":           "",
		"example.com/:v1":          "",
		"example.com:0/a":          "",
		"example.com:x/a":          "",
		"user:pw@example.com/a":    "",
		"example.com/../a":         "",
		"example.com/a?b":          "",
		"exam ple.com/a":           "",
		"example.com/" + strings.Repeat("a", 256): "",
	} {
		target, err := remote.ParseTarget(text)
		got := ""
		if err == nil {
			got = target.Base.String() + "|" + target.Repo + "|" + target.Tag
		}
		if got != want {
			t.Errorf("%q is %q, %v, want %q", text, got, err, want)
		}
	}
}

// What cannot get better is not tried again: one line says what to do about it.
func TestPushFailsAtOnce(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	closed := httptest.NewServer(nil)
	closed.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	dir, _ := layout(t)
	for name, c := range map[string]struct{ url, advice string }{
		"refused":     {closed.URL, "see that the registry runs"},
		"no TLS":      {strings.Replace(plain.URL, "http:", "https:", 1), "name it as http://"},
		"certificate": {secure.URL, "--ca FILE"},
		"no host":     {"https://registry.invalid", "see whether the name is right"},
	} {
		base, _ := url.Parse(c.url)
		client, err := remote.New(base, remote.Config{Backoff: func(int) time.Duration { t.Errorf("%s: tried again", name); return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		content, err := remote.OpenLayout(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Push(t.Context(), content, "a/b", "v1", remote.PushOptions{})
		if err == nil || !strings.Contains(err.Error(), c.advice) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "sha256") {
			t.Errorf("%s: %v", name, err)
		}
		if err := content.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A registry that is started again in the middle of a push refuses connections for a moment.
func TestPushOutlastsRestart(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	ts := httptest.NewServer(http.NotFoundHandler())
	base, _ := url.Parse(ts.URL)
	tries := 0
	c, err := remote.New(base, remote.Config{Backoff: func(int) time.Duration { tries++; return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Tags(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	ts.Close()
	_, err = c.PushBlob(t.Context(), remote.Upload{Repo: "a/b", Digest: digest.FromString("x"), Size: 1, Body: strings.NewReader("x")})
	if err == nil || tries < 2 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

// TestOtherRegistries sees that lists go by Link, and that GET tells what HEAD does not.
func TestOtherRegistries(t *testing.T) {
	heads := 0
	blob, manifest := []byte("a blob"), []byte(`{"schemaVersion":2}`)
	serve := func(status int, page bool) *remote.Client {
		t.Setenv("DOCKER_CONFIG", t.TempDir())
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			switch {
			case r.Header.Get("Authorization") == "" && r.URL.Path != "/token":
				w.Header()["Www-Authenticate"] = []string{`Basic realm="x"`, `Bearer realm="http://` + r.Host + `/token"`}
				w.WriteHeader(http.StatusUnauthorized)
			case r.URL.Path == "/token":
				io.WriteString(w, `{"token":"t"}`)
			case page:
				w.Header().Set("Content-Type", "text/html")
				w.(http.Flusher).Flush()
				io.WriteString(w, "<html>")
			case r.Method == http.MethodHead && status != 0:
				heads++
				w.WriteHeader(status)
			case strings.HasSuffix(r.URL.Path, "/tags/list") && !q.Has("next_page"):
				w.Header().Set("Link", `<http://internal.example/x?next_page=tok>; rel="next"`)
				io.WriteString(w, `{"tags":["a"]}`)
			case strings.HasSuffix(r.URL.Path, "/tags/list"):
				io.WriteString(w, `{"tags":["b"]}`)
			case strings.HasSuffix(r.URL.Path, "/manifests/none"):
				w.WriteHeader(http.StatusNotFound)
			case strings.Contains(r.URL.Path, "/manifests/"):
				w.Write(manifest)
			default:
				w.Write(blob)
			}
		}))
		t.Cleanup(ts.Close)
		base, _ := url.Parse(ts.URL)
		c, err := remote.New(base, remote.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	u := remote.Upload{Repo: "a/b", Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	for _, status := range []int{403, 404, 405, 501} {
		c := serve(status, false)
		if tags, err := c.Tags(t.Context(), "a/b"); err != nil || fmt.Sprint(tags) != "[a b]" {
			t.Error(status, tags, err)
		}
		if d, err := c.Digest(t.Context(), "a/b", "v1"); err != nil || d != digest.FromBytes(manifest) {
			t.Error(status, d, err)
		}
		if d, err := c.Digest(t.Context(), "a/b", "none"); err != nil || d != "" {
			t.Error(status, d, err)
		}
		if there, err := c.HasBlob(t.Context(), u); err != nil || there != (status != 404) {
			t.Error(status, there, err)
		}
	}
	if heads != 12 {
		t.Error(heads, "heads")
	}
	c := serve(0, true)
	if there, err := c.HasBlob(t.Context(), u); there {
		t.Error("a page is taken for a blob", err)
	}
	if d, err := c.Digest(t.Context(), "a/b", "v1"); err == nil {
		t.Error("a page is taken for a manifest", d)
	}
}

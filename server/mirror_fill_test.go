package server_test

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/server/mirror"
	"registry/server/registry"

	"registry/server"

	"github.com/opencontainers/go-digest"
)

// large is a blob that is not held in memory.
type large struct {
	size   int64
	digest digest.Digest
}

func newLarge(size int64) large {
	l := large{size: size}
	hash := sha256.New()
	io.Copy(hash, l.reader())
	l.digest = digest.NewDigest(digest.SHA256, hash)
	return l
}

func (l large) reader() io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{1}), l.size)
}

// layerSize is 64 MiB, or what MIRROR_LAYER says in MiB.
func layerSize() int64 {
	if mib, err := strconv.ParseInt(os.Getenv("MIRROR_LAYER"), 10, 64); err == nil {
		return mib << 20
	}
	return 64 << 20
}

// gated is an upstream's answer that waits in the middle until it is told to go on.
type gated struct {
	large
	half chan struct{} // closed when half of it is sent
	open chan struct{} // closed by the test: the other half follows
}

func newGated(size int64) *gated {
	return &gated{newLarge(size), make(chan struct{}), make(chan struct{})}
}

func (g *gated) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", strconv.FormatInt(g.size, 10))
	body := g.reader()
	io.CopyN(w, body, g.size/2)
	w.(http.Flusher).Flush()
	close(g.half) // which panics if it is asked twice
	select {
	case <-g.open:
		io.Copy(w, body)
	case <-r.Context().Done():
	}
}

// patiently lets an upstream wait for the test.
func patiently(mc *mirror.Config, _ *server.Config) { mc.Stall = time.Minute }

// TestMirrorOneFetch has 16 clients ask for a layer that is not here. Each gets its first byte before the upstream has sent
// the last, which it does once.
func TestMirrorOneFetch(t *testing.T) {
	o := newOrigin(t)
	g := newGated(layerSize())
	o.turn(g.ServeHTTP)
	m := newMirror(t, o, "", patiently)
	path := "/v2/up.example/a/blobs/" + g.digest.String()
	var first, all sync.WaitGroup
	const clients = 16
	first.Add(clients)
	for range clients {
		all.Go(func() {
			resp, err := m.Get(m.url + path)
			if err != nil || resp.StatusCode != 200 || resp.ContentLength != g.size {
				first.Done()
				t.Error(resp, err)
				return
			}
			defer resp.Body.Close()
			hash := sha256.New()
			_, err = io.CopyN(hash, resp.Body, 1)
			first.Done()
			if _, rest := io.Copy(hash, resp.Body); err != nil || rest != nil || digest.NewDigest(digest.SHA256, hash) != g.digest {
				t.Error("wrong bytes:", err, rest)
			}
		})
	}
	first.Wait() // while the upstream waits, too
	close(g.open)
	all.Wait()
	if got := o.requests(); len(got) != 1 {
		t.Errorf("the upstream was asked %d times", len(got))
	}
	o.turn(func(http.ResponseWriter, *http.Request) { t.Error("asked for what is here") })
	if a := m.do("GET", path, "", "Range: bytes=0-9"); a.StatusCode != 206 || len(a.body) != 10 {
		t.Error(a.Status)
	}
}

// TestMirrorDistribution pulls through from distribution, if it is in PATH.
func TestMirrorDistribution(t *testing.T) {
	program, err := exec.LookPath("distribution")
	if err != nil {
		t.Skip("distribution is not in PATH")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	dir := t.TempDir()
	config := "version: 0.1\nstorage: {filesystem: {rootdirectory: " + dir + "/data}}\nhttp: {addr: " + address + "}\n"
	if err := os.WriteFile(dir+"/config.yml", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", dir+"/config.yml")
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	o := &origin{client: &client{t, "http://" + address, &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}}
	for try := 0; ; try++ {
		if resp, err := o.Get(o.url + "/v2/"); err == nil {
			resp.Body.Close()
			break
		} else if try == 100 {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	layer := noise(1<<20, 4)
	image := imageOf(layer, "")
	a := o.do("POST", "/v2/team/app/blobs/uploads/", "")
	if a = o.do("PUT", strings.TrimPrefix(a.Header.Get("Location"), o.url)+"&digest="+digest.FromString(layer).String(), layer); a.StatusCode != 201 {
		t.Fatal(a.Status, a.body)
	}
	if a = o.do("PUT", "/v2/team/app/manifests/v1", image, ociManifest); a.StatusCode != 201 {
		t.Fatal(a.Status, a.body)
	}
	m := newMirror(t, o, "", patiently)
	for range 2 {
		m.pull("/v2/up.example/team/app/manifests/v1", image)
		m.pull("/v2/up.example/team/app/blobs/"+digest.FromString(layer).String(), layer)
		m.pass(time.Hour)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if a := m.pull("/v2/up.example/team/app/manifests/v1", image); a.Header.Get("Warning") == "" {
		t.Error("no warning")
	}
	if a := m.do("GET", "/v2/up.example/team/app/manifests/v2", ""); a.StatusCode != 502 {
		t.Error(a.Status)
	}
}

// TestMirrorRange asks for parts of a layer while it comes, of what is here and of what is not.
func TestMirrorRange(t *testing.T) {
	o := newOrigin(t)
	g := newGated(8 << 20)
	o.turn(g.ServeHTTP)
	m := newMirror(t, o, "", patiently)
	path := "/v2/up.example/a/blobs/" + g.digest.String()
	content, _ := io.ReadAll(g.reader())
	if a := m.do("GET", path, "", "Range: bytes=1000000-1999999"); a.StatusCode != 206 || a.body != string(content[1000000:2000000]) || a.Header.Get("Content-Range") != "bytes 1000000-1999999/8388608" {
		t.Error(a.Status, a.Header)
	}
	if a := m.do("GET", path, "", "Range: bytes=9000000-"); a.StatusCode != 416 {
		t.Error(a.Status)
	}
	if a := m.do("GET", path, "", `If-None-Match: "`+g.digest.String()+`"`); a.StatusCode != 304 {
		t.Error(a.Status)
	}
	<-g.half
	var end sync.WaitGroup
	end.Go(func() {
		if a := m.do("GET", path, "", "Range: bytes=-10"); a.StatusCode != 206 || a.body != string(content[8<<20-10:]) {
			t.Error(a.Status)
		}
	})
	end.Go(func() {
		if a := m.do("GET", path, "", "Range: bytes=0-0,5000000-5000009"); a.StatusCode != 200 || a.body != string(content) {
			t.Error(a.Status)
		}
	})
	close(g.open)
	end.Wait()
	if got := o.requests(); len(got) != 1 {
		t.Errorf("the upstream was asked %q", got)
	}
}

// TestMirrorClientGone sees that a client that goes away in the middle stops nothing.
func TestMirrorClientGone(t *testing.T) {
	o := newOrigin(t)
	g := newGated(8 << 20)
	o.turn(g.ServeHTTP)
	m := newMirror(t, o, "", patiently)
	path := "/v2/up.example/a/blobs/" + g.digest.String()
	resp, err := m.Get(m.url + path)
	if err != nil {
		t.Fatal(err)
	}
	io.CopyN(io.Discard, resp.Body, 1000)
	resp.Body.Close()
	<-g.half
	close(g.open)
	if a := m.do("GET", path, ""); digest.FromString(a.body) != g.digest {
		t.Error(a.Status)
	}
	if got := o.requests(); len(got) != 1 {
		t.Errorf("the upstream was asked %q", got)
	}
}

// TestMirrorStops sees that a server that stops leaves nothing behind, and no client with half a blob that looks whole.
func TestMirrorStops(t *testing.T) {
	o := newOrigin(t)
	g := newGated(8 << 20)
	o.turn(g.ServeHTTP)
	m := newMirror(t, o, "", patiently)
	resp, err := m.Get(m.url + "/v2/up.example/a/blobs/" + g.digest.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-g.half
	m.mirror.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil || n > 4<<20 {
		t.Error(n, err)
	}
	if _, err := m.registry.StatBlob(t.Context(), "up.example/a", g.digest); !registry.BlobUnknown.Is(err) {
		t.Error(err)
	}
	if a := m.do("GET", "/v2/up.example/a/blobs/"+g.digest.String(), ""); a.StatusCode != 502 {
		t.Error(a.Status)
	}
}

// TestMirrorHeldBack sees that the end of a blob waits for the proof that it is right: of a wrong one a client gets at most
// all but the last 64 KiB.
func TestMirrorHeldBack(t *testing.T) {
	o := newOrigin(t)
	layer := noise(2<<20, 3)
	o.turn(sending(flipped(layer, 1<<20), func(h http.Header) { h.Set("Content-Length", strconv.Itoa(len(layer))) }))
	m := newMirror(t, o, "")
	a, err := m.get("/v2/up.example/a/blobs/" + digest.FromString(layer).String())
	if err == nil || len(a.body) > len(layer)-64<<10 {
		t.Errorf("%d of %d bytes, %v", len(a.body), len(layer), err)
	}
	if a, err := m.get("/v2/up.example/a/blobs/"+digest.FromString(layer).String(), "Range: bytes=-1"); err == nil && a.StatusCode < 400 {
		t.Errorf("a part of a wrong blob: %s %q", a.Status, a.body)
	}
	// A small one is an error, and no broken answer.
	small := strings.Repeat("s", 1000)
	o.turn(sending(flipped(small, 1), func(http.Header) {}))
	if a, err := m.get("/v2/up.example/b/blobs/" + digest.FromString(small).String()); err != nil || a.StatusCode != 502 {
		t.Error(a.Response, err)
	}
}

package server_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"registry/db/dbtest"
	"registry/server"
	"registry/server/auth"
	"registry/server/mirror"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Registries that are not like this one.

// instead makes the origin answer requests of a method, with something in their path, by a handler.
func (o *origin) instead(method, part string, h http.HandlerFunc) {
	o.turn(func(w http.ResponseWriter, r *http.Request) {
		if (method == "" || r.Method == method) && strings.Contains(r.URL.Path, part) {
			h(w, r)
			return
		}
		o.good.ServeHTTP(w, r)
	})
}

// TestMirrorTagsOfAnyUpstream sees that a client gets each tag once, in order, whatever pages the upstream has.
func TestMirrorTagsOfAnyUpstream(t *testing.T) {
	var tags []string
	for i := range 250 {
		tags = append(tags, fmt.Sprintf("v%03d", i))
	}
	page := func(w http.ResponseWriter, r *http.Request, cursor string, at, n int) {
		to := min(at+n, len(tags))
		if to < len(tags) {
			w.Header().Set("Link", fmt.Sprintf(`<http://internal.example%s?%s=tok-%d&n=%d>; rel="next"`, r.URL.Path, cursor, to, n))
		}
		json.NewEncoder(w).Encode(map[string]any{"name": "a", "tags": tags[at:to]})
	}
	for kind, answer := range map[string]http.HandlerFunc{
		"a cursor that is no name": func(w http.ResponseWriter, r *http.Request) {
			at, err := strconv.Atoi(strings.TrimPrefix(r.URL.Query().Get("last"), "tok-"))
			if r.URL.Query().Has("last") && err != nil {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			page(w, r, "last", at, 70)
		},
		"a cursor of another name": func(w http.ResponseWriter, r *http.Request) {
			at, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Query().Get("next_page"), "tok-"))
			page(w, r, "next_page", at, 70)
		},
		"everything at once": func(w http.ResponseWriter, r *http.Request) { page(w, r, "last", 0, len(tags)) },
	} {
		t.Run(kind, func(t *testing.T) {
			o := newOrigin(t)
			o.instead("GET", "/tags/list", answer)
			m := newMirror(t, o, "")
			var got []string
			for path := "/v2/up.example/a/tags/list?n=40"; path != ""; {
				a := m.do("GET", path, "")
				var list struct{ Tags []string }
				if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.Header.Get("Warning") != "" {
					t.Fatal(a.Status, a.body, a.Header)
				}
				if got = append(got, list.Tags...); len(got) > len(tags) {
					t.Fatal("it does not end")
				}
				path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
			}
			if !slices.Equal(got, tags) {
				t.Errorf("%d tags: %q", len(got), got)
			}
			if asked := o.requests(); len(asked) > 4 {
				t.Errorf("each page was asked for again: %q", asked)
			}
		})
	}
}

// TestMirrorWithoutHead sees that a tag that moved is noticed where HEAD is refused, missing, or says nothing.
func TestMirrorWithoutHead(t *testing.T) {
	for _, kind := range []int{403, 404, 405, 501, 200} {
		o := newOrigin(t)
		o.instead("HEAD", "", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(kind) })
		layer := noise(1000, 1)
		m := newMirror(t, o, "")
		m.pull("/v2/up.example/a/manifests/v1", o.image("a", "v1", layer))
		moved := o.image("a", "v1", layer+"2")
		m.pass(time.Hour)
		if a := m.pull("/v2/up.example/a/manifests/v1", moved); a.Header.Get("Warning") != "" {
			t.Errorf("%d: %s", kind, a.Header.Get("Warning"))
		}
		m.pass(time.Hour)
		o.requests()
		m.pull("/v2/up.example/a/manifests/v1", moved)
		if asked := o.requests(); len(asked) != 2 {
			t.Errorf("%d: asked %q", kind, asked)
		}
		if kind == 200 {
			continue // a length of 0 is a length
		}
		// No manifest names this one.
		o.push("b", layer)
		if a := m.do("HEAD", "/v2/up.example/b/blobs/"+digest.FromString(layer).String(), ""); a.StatusCode != 200 || a.ContentLength != int64(len(layer)) {
			t.Errorf("%d: %s, %d bytes", kind, a.Status, a.ContentLength)
		}
	}
}

// TestMirrorReadsMediaType sees that a manifest is what it says where the upstream says that it is just a file.
func TestMirrorReadsMediaType(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8", "application/octet-stream", "text/plain", ""} {
		o.instead("GET", "/manifests/", func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = []string{contentType}
			io.WriteString(w, image)
		})
		m := newMirror(t, o, "")
		if a := m.pull("/v2/up.example/a/manifests/v1", image); a.Header.Get("Content-Type") != v1.MediaTypeImageManifest {
			t.Errorf("%q: served as %q", contentType, a.Header.Get("Content-Type"))
		}
	}
}

// TestMirrorGoesOn sees that a fetch goes on however often its connection breaks, as long as that brings something.
func TestMirrorGoesOn(t *testing.T) {
	o := newOrigin(t)
	layer := noise(3_000_000, 4)
	image := o.image("a", "v1", layer)
	opened := 0
	o.instead("GET", "/blobs/", func(w http.ResponseWriter, r *http.Request) {
		opened++
		first := 0
		if text := r.Header.Get("Range"); text != "" {
			fmt.Sscanf(text, "bytes=%d-", &first)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, len(layer)-1, len(layer)))
		}
		if opened%3 == 0 { // now and then there is nobody at all
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(layer)-first))
		if first > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		io.WriteString(w, layer[first:min(first+100_000, len(layer))])
	})
	var pauses []time.Duration
	m := newMirror(t, o, "", func(mc *mirror.Config, _ *server.Config) {
		mc.Sleep = func(ctx context.Context, d time.Duration) error { pauses = append(pauses, d); return ctx.Err() }
	})
	m.pull("/v2/up.example/a/manifests/v1", image)
	m.pull("/v2/up.example/a/blobs/"+digest.FromString(layer).String(), layer)
	if opened < 30 || len(pauses) < opened/3-1 {
		t.Errorf("opened %d times, with %d pauses", opened, len(pauses))
	}
}

// TestMirrorTakesNoPage sees that a page for people is not taken for a blob, however long it is.
func TestMirrorTakesNoPage(t *testing.T) {
	o := newOrigin(t)
	layer := noise(200_000, 5)
	image := o.image("a", "v1", layer)
	page := "<html>" + strings.Repeat("log in here ", 40_000)
	serve := func(body string, length bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			if length {
				w.Header().Set("Content-Length", strconv.Itoa(len(body)))
			} else {
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, body)
		}
	}
	path := "/v2/up.example/a/blobs/" + digest.FromString(layer).String()
	for _, length := range []bool{true, false} {
		for _, known := range []bool{true, false} {
			o.turn(nil)
			m := newMirror(t, o, "")
			if known {
				m.pull("/v2/up.example/a/manifests/v1", image)
			}
			o.instead("", "/blobs/", serve(page, length))
			if a, err := m.get(path); err != nil || a.StatusCode != 502 {
				t.Errorf("length %v, known %v: %v, %d bytes, %v", length, known, a.Status, len(a.body), err)
			}
			if a := m.do("HEAD", path, ""); !known && a.StatusCode != 502 {
				t.Errorf("length %v: HEAD %s, %d bytes", length, a.Status, a.ContentLength)
			}
		}
	}
	// A blob may be a page: its length says so.
	o.instead("", "/blobs/", serve(layer, true))
	m := newMirror(t, o, "")
	m.pull("/v2/up.example/a/manifests/v1", image)
	m.pull(path, layer)
}

// TestMirrorChallenges sees that the first challenge that can be met is, of several.
func TestMirrorChallenges(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	var bearer string
	ask := func(challenges func() []string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/token":
				io.WriteString(w, `{"token":"t"}`)
			case r.Header.Get("Authorization") == "Bearer t":
				o.good.ServeHTTP(w, r)
			default:
				w.Header()["Www-Authenticate"] = challenges()
				w.WriteHeader(http.StatusUnauthorized)
			}
		}
	}
	u, err := url.Parse(o.url)
	if err != nil {
		t.Fatal(err)
	}
	bearer = `Bearer realm="http://` + u.Host + `/token",service="a, b"`
	for _, challenges := range [][]string{{bearer}, {`Basic realm="x"`, bearer}, {`Basic realm="x", ` + bearer}, {"Negotiate", "NTLM", bearer}, {bearer, `Basic realm="x"`}} {
		o.turn(ask(func() []string { return challenges }))
		m := newMirror(t, o, "")
		m.pull("/v2/up.example/a/manifests/v1", image)
	}
	// One that leads elsewhere is none that can be met, and nothing is sent there.
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("asked elsewhere") }))
	defer elsewhere.Close()
	o.turn(ask(func() []string { return []string{`Bearer realm="` + elsewhere.URL + `/token"`, bearer} }))
	newMirror(t, o, "").pull("/v2/up.example/a/manifests/v1", image)
}

// from asks as a client with an address, behind a proxy.
func (m *mirrored) from(address string, method, path string) answer {
	m.t.Helper()
	return m.do(method, path, "", "X-Forwarded-For: "+address)
}

func behindProxy(_ *mirror.Config, sc *server.Config) {
	sc.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// load counts the requests that are under way, and how many were at most.
type load struct{ now, most atomic.Int64 }

func (l *load) add() (done func()) {
	n := l.now.Add(1)
	for most := l.most.Load(); n > most && !l.most.CompareAndSwap(most, n); most = l.most.Load() {
	}
	return func() { l.now.Add(-1) }
}

// TestMirrorIsNoAmplifier sees that a client that asks for what is not there has only so much of it asked, and little of it
// at a time, and that this costs the others nothing.
func TestMirrorIsNoAmplifier(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	var load load
	o.turn(func(w http.ResponseWriter, r *http.Request) {
		defer load.add()()
		o.good.ServeHTTP(w, r)
	})
	m := newMirror(t, o, "", patiently, behindProxy)
	var refused atomic.Int64
	group := errgroup.Group{}
	for i := range 300 {
		paths := []string{"/manifests/t%d", "/manifests/sha256:%064x", "/blobs/sha256:%064x"}
		path := "/v2/up.example/none" + fmt.Sprintf(paths[i%3], i)
		method := []string{"GET", "HEAD"}[i%2]
		group.Go(func() error {
			switch a := m.from("192.0.2.1", method, path); {
			case a.StatusCode == 429 && a.Header.Get("Retry-After") != "":
				refused.Add(1)
			case a.StatusCode != 404:
				t.Errorf("%s: %s %v", path, a.Status, a.Header)
			}
			return nil
		})
	}
	group.Wait()
	// 60 misses, those that were under way, and one more a second; a tag that HEAD does not find is asked for by GET, too.
	if asked := o.requests(); len(asked) > 150 || len(asked) < 50 {
		t.Errorf("asked %d times", len(asked))
	}
	if load.most.Load() > 8 || refused.Load() < 200 {
		t.Errorf("%d at once, %d refused", load.most.Load(), refused.Load())
	}
	// Another client is served, and the same one gets what is here, and later more.
	if a := m.from("192.0.2.2", "GET", "/v2/up.example/a/manifests/v1"); a.body != image {
		t.Error(a.Status, a.body)
	}
	if a := m.from("192.0.2.1", "GET", "/v2/up.example/a/manifests/v1"); a.body != image {
		t.Error(a.Status, a.body)
	}
	if a := m.from("192.0.2.1", "GET", "/v2/up.example/a/blobs/"+digest.FromString("layer").String()); a.body != "layer" {
		t.Error("a blob that a manifest names:", a.Status)
	}
	m.pass(time.Minute)
	if a := m.from("192.0.2.1", "GET", "/v2/up.example/none/manifests/new"); a.StatusCode != 404 {
		t.Error(a.Status)
	}
}

// TestMirrorBoundsStrangers sees that many addresses are no way around the limit of one, and that a /64 is one address.
func TestMirrorBoundsStrangers(t *testing.T) {
	o := newOrigin(t)
	m := newMirror(t, o, "", patiently, behindProxy)
	refused := 0
	for i := range 300 {
		if a := m.from(fmt.Sprintf("192.0.2.%d", i%250), "GET", fmt.Sprintf("/v2/up.example/none/manifests/t%d", i)); a.StatusCode == 429 {
			refused++
		}
	}
	if asked := len(o.requests()); asked > 241 || refused != 300-asked {
		t.Errorf("asked %d times, %d refused", asked, refused)
	}
	m.pass(time.Hour)
	for i := range 100 {
		m.from(fmt.Sprintf("2001:db8::%x:1", i), "GET", fmt.Sprintf("/v2/up.example/none/manifests/u%d", i))
	}
	if asked := len(o.requests()); asked > 61 {
		t.Errorf("asked %d times for one network", asked)
	}
}

// TestMirrorAsksOnce sees that clients who want to know the same have it asked once, lists and sizes too.
func TestMirrorAsksOnce(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	m := newMirror(t, o, "", patiently, behindProxy)
	for _, c := range []struct{ method, path string }{
		{"GET", "/tags/list?n=%d"},
		{"GET", "/referrers/" + digest.FromString(image).String() + "?artifactType=x/%d"},
		{"HEAD", "/blobs/" + digest.FromString("layer").String() + "?x=%d"},
		{"HEAD", "/blobs/" + digest.FromString("none").String() + "?x=%d"},
		{"GET", "/manifests/none?x=%d"},
	} {
		gate := make(chan struct{})
		o.turn(func(w http.ResponseWriter, r *http.Request) {
			<-gate
			o.good.ServeHTTP(w, r)
		})
		o.requests()
		group := errgroup.Group{}
		for i := range 40 {
			group.Go(func() error {
				m.from(fmt.Sprintf("192.0.2.%d", i), c.method, "/v2/up.example/a"+fmt.Sprintf(c.path, i+1))
				return nil
			})
		}
		for len(o.seen()) == 0 {
			runtime.Gosched()
		}
		close(gate)
		group.Wait()
		if asked := o.requests(); len(asked) > 2 || len(asked) == 2 && asked[0] == asked[1] {
			t.Errorf("%s: asked %q", c.path, asked)
		}
	}
}

// TestMirrorFewLists sees that few lists are read at a time, however many clients want one, since any may be long, and that
// pulls do not wait for them.
func TestMirrorFewLists(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	m := newMirror(t, o, "", patiently, behindProxy)
	var load load
	gate := make(chan struct{})
	o.instead("GET", "/tags/list", func(w http.ResponseWriter, r *http.Request) {
		defer load.add()()
		<-gate
		io.WriteString(w, `{"tags":["v1"]}`)
	})
	group := errgroup.Group{}
	for i := range 20 {
		group.Go(func() error {
			if a := m.from(fmt.Sprintf("192.0.2.%d", i), "GET", fmt.Sprintf("/v2/up.example/repo%d/tags/list", i)); !strings.Contains(a.body, "v1") {
				t.Error(a.Status, a.body)
			}
			return nil
		})
	}
	for load.now.Load() < 2 {
		runtime.Gosched()
	}
	if a := m.from("192.0.2.1", "GET", "/v2/up.example/a/manifests/v1"); a.body != image {
		t.Error(a.Status)
	}
	close(gate)
	group.Wait()
	if load.most.Load() != 2 || len(o.requests()) != 21 {
		t.Errorf("%d at once", load.most.Load())
	}
}

// TestMirrorBusyForOne sees that an upstream that refuses one client, with 429 or as if the password were wrong, is asked
// for the others, until it refuses them too.
func TestMirrorBusyForOne(t *testing.T) {
	file := userFile(t, "robot:secret")
	for name, test := range map[string]struct {
		refuse http.HandlerFunc
		status int
		lasts  time.Duration
	}{
		"429": {status(429, "Retry-After: 600")(""), 429, 10 * time.Minute},
		"401": {status(401, `Www-Authenticate: Basic realm="x"`)(""), 502, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			image := o.image("a", "v1", "layer")
			o.image("a", "v2", "layer")
			m := newMirror(t, o, ",public,user="+file, behindProxy)
			o.instead("", "/none/", test.refuse)
			if a := m.from("192.0.2.1", "GET", "/v2/up.example/none/manifests/v1"); a.StatusCode != test.status {
				t.Error(a.Status)
			}
			if a := m.from("192.0.2.1", "GET", "/v2/up.example/a/manifests/v1"); a.StatusCode != test.status {
				t.Error("the client that was refused:", a.Status)
			}
			if a := m.from("192.0.2.2", "GET", "/v2/up.example/a/manifests/v1"); a.body != image {
				t.Error("another:", a.Status)
			}
			if a := m.from("192.0.2.2", "GET", "/v2/up.example/none/manifests/v1"); a.StatusCode != test.status {
				t.Error(a.Status)
			}
			o.requests()
			if a := m.from("192.0.2.3", "GET", "/v2/up.example/a/manifests/v2"); a.StatusCode != test.status {
				t.Error("when two were refused:", a.Status)
			}
			if asked := o.requests(); len(asked) != 0 {
				t.Errorf("asked %q", asked)
			}
			m.pass(test.lasts + time.Second)
			if a := m.from("192.0.2.3", "GET", "/v2/up.example/a/manifests/v2"); a.StatusCode != 200 {
				t.Error(a.Status)
			}
		})
	}
}

// TestMirrorUsersOnly sees that clients that have not logged in get what is here and have nothing asked.
func TestMirrorUsersOnly(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	m := newMirror(t, o, "", func(mc *mirror.Config, sc *server.Config) {
		mc.UsersOnly = true
		sc.Auth = auth.New(auth.Config{DB: dbtest.OpenAt(t, filepath.Join(t.TempDir(), "users.db"), nil), Anonymous: true})
		if _, err := sc.Auth.Start(t.Context(), "a password for admin"); err != nil {
			t.Fatal(err)
		}
	})
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(m.do("GET", "/auth/token?service=registry&scope=repository:up.example/a:pull", "").body), &token); err != nil {
		t.Fatal(err)
	}
	stranger, user := "Authorization: Bearer "+token.Token, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("admin:a password for admin"))
	layer := digest.FromString("layer").String()
	paths := []string{"/manifests/v1", "/manifests/" + digest.FromString(image).String(), "/blobs/" + layer}
	for _, path := range paths {
		if a := m.do("GET", "/v2/up.example/a"+path, "", stranger); a.StatusCode != 404 || !strings.Contains(a.body, "logged in") {
			t.Error(path, a.Status, a.body)
		}
	}
	if a := m.do("HEAD", "/v2/up.example/a/blobs/"+layer, "", stranger); a.StatusCode != 404 {
		t.Error(a.Status)
	}
	if a := m.do("GET", "/v2/up.example/a/tags/list", "", stranger); a.StatusCode == 200 && a.Header.Get("Warning") == "" {
		t.Error(a.Status, a.body)
	}
	if asked := o.requests(); len(asked) != 0 {
		t.Errorf("asked %q", asked)
	}
	for _, who := range []string{user, stranger} { // what is here by then
		for _, path := range paths {
			if a := m.do("GET", "/v2/up.example/a"+path, "", who); a.StatusCode != 200 {
				t.Error(path, a.Status, a.body)
			}
		}
	}
}

// TestMirrorThroughProxy sees that an upstream is asked through its proxy, wherever that is, and that a proxy leads to
// nothing that this server would not dial itself, nor sees or gets what is another's.
func TestMirrorThroughProxy(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	o.push("a", "evil")
	const secret = "Basic cm9ib3Q6c2VjcmV0"
	var mu sync.Mutex
	var asked []string
	target := ""
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.URL.String())
		mu.Unlock()
		switch {
		case r.Header.Get("Proxy-Authorization") != "Basic bWU6b2Y=":
			w.WriteHeader(http.StatusProxyAuthRequired)
		case r.URL.Host == "cdn.example" && r.Header.Get("Authorization") == "":
			io.WriteString(w, "layer")
		case r.URL.Host != "registry.test":
			t.Errorf("asked for %s with %v", r.URL, r.Header)
		case r.Header.Get("Authorization") != secret:
			w.Header().Set("Www-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, target, http.StatusTemporaryRedirect)
		default:
			r.Header.Del("Authorization")
			o.good.ServeHTTP(w, r)
		}
	}))
	defer proxy.Close()
	u, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("me", "of")
	configure := func(mc *mirror.Config, _ *server.Config) {
		mc.Upstreams, err = mirror.ParseUpstreams("up.example=http://registry.test,public,user=" + userFile(t, "robot:secret") + ",proxy=" + u.String())
		if err != nil {
			t.Fatal(err)
		}
	}
	m := newMirror(t, o, "", configure)
	m.pull("/v2/up.example/a/manifests/v1", image)
	target = "http://cdn.example/x"
	m.pull("/v2/up.example/a/blobs/"+digest.FromString("layer").String(), "layer")
	for _, target = range []string{
		"http://169.254.169.254/latest/", "http://[::ffff:10.0.0.1]/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://localhost:5000/",
		"http://metadata.google.internal/", "http://intranet/", "http://printer.local./", "http://168.63.129.16/", "http://" + u.Host + "/",
	} {
		m := newMirror(t, o, "", configure)
		mu.Lock()
		asked = nil
		mu.Unlock()
		if a := m.do("GET", "/v2/up.example/a/manifests/v1", ""); a.StatusCode != 200 {
			t.Fatal(a.Status)
		}
		if a := m.do("GET", "/v2/up.example/a/blobs/"+digest.FromString("layer").String(), ""); a.StatusCode != 502 {
			t.Errorf("%s: %s", target, a.Status)
		}
		mu.Lock()
		for _, address := range asked {
			if !strings.HasPrefix(address, "http://registry.test/") {
				t.Errorf("%s: asked for %s", target, address)
			}
		}
		mu.Unlock()
	}
}

// TestMirrorResumesAfterRestart sees that a fetch that a stopped server did not end goes on where it was.
func TestMirrorResumesAfterRestart(t *testing.T) {
	o := newOrigin(t)
	layer := noise(1_000_000, 6)
	image := o.image("a", "v1", layer)
	other := noise(1_000_000, 7)
	blob := "/v2/up.example/a/blobs/" + digest.FromString(layer).String()
	const had = 3 << 18 // as many buffers as fit
	rest := fmt.Sprintf("bytes=%d-", had)
	for name, test := range map[string]struct {
		known bool             // by a manifest
		then  http.HandlerFunc // answers after the restart; nil: the origin does
		whole bool
		asked []string
	}{
		"named by a manifest": {true, nil, true, []string{rest}},
		"of unknown size":     {false, nil, true, []string{rest}},
		"without ranges":      {true, sending(layer, func(http.Header) {}), true, []string{rest}},
		"shorter than it was": {false, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }, false, []string{rest, ""}},
		"with other bytes":    {true, sending(other, func(http.Header) {}), false, []string{rest}},
		"gone":                {true, status(404)(""), false, []string{rest}},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var ranges []string
			answer := func(h http.HandlerFunc) {
				o.instead("GET", "/blobs/", func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					ranges = append(ranges, r.Header.Get("Range"))
					mu.Unlock()
					h(w, r)
				})
			}
			o.turn(nil)
			m := newMirror(t, o, "", patiently)
			if test.known {
				m.pull("/v2/up.example/a/manifests/v1", image)
			}
			answer(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
				io.WriteString(w, layer[:had])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			})
			if a := m.do("GET", blob, "", fmt.Sprintf("Range: bytes=0-%d", had-1)); a.body != layer[:had] {
				t.Fatal(a.Status, len(a.body))
			}
			m.mirror.Close()
			m = m.again(t, o)
			ranges = nil
			if answer(o.good.ServeHTTP); test.then != nil {
				answer(test.then)
			}
			if a, err := m.get(blob); test.whole != (err == nil && a.body == layer) {
				t.Errorf("%v, %d bytes, %v", a.Status, len(a.body), err)
			}
			if !slices.Equal(ranges, test.asked) {
				t.Errorf("asked for %q, want %q", ranges, test.asked)
			}
			answer(o.good.ServeHTTP)
			m.pass(time.Hour)
			if a, err := m.get(blob); err != nil || a.body != layer {
				t.Errorf("afterwards: %v, %d bytes, %v", a.Status, len(a.body), err)
			}
		})
	}
}

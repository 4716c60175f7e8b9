package server_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"registry/db/dbtest"
	"registry/server"
	"registry/server/auth"
	"registry/server/check"
	"registry/server/gc"
	"registry/server/mirror"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// TestMirrorStale sees that what is here is served whatever happens to the upstream, with a warning where it may be older.
func TestMirrorStale(t *testing.T) {
	o := newOrigin(t)
	layer := "layer"
	image := o.image("a", "v1", layer)
	m := newMirror(t, o, "", func(mc *mirror.Config, _ *server.Config) { mc.Budget = 100 * time.Millisecond })
	tag, blob := "/v2/up.example/a/manifests/v1", "/v2/up.example/a/blobs/"+digest.FromString(layer).String()
	m.pull(tag, image)
	m.pull(blob, layer)
	for name, evil := range map[string]http.HandlerFunc{
		"down":      raw("")(""),
		"500":       status(500)(""),
		"stalls":    stall,
		"429":       status(429, "Retry-After: 60")(""),
		"deleted":   status(404)(""),
		"denied":    status(403)(""),
		"redirects": status(302, "Location: http://127.0.0.1:1/")(""),
	} {
		t.Run(name, func(t *testing.T) {
			m.pass(24 * time.Hour)
			o.turn(evil)
			o.requests()
			for range 3 {
				begin := time.Now()
				a := m.pull(tag, image)
				if w := a.Header.Get("Warning"); !strings.HasPrefix(w, `299 - "`) {
					t.Errorf("Warning: %q", w)
				}
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("took %s", took)
				}
				m.pull("/v2/up.example/a/manifests/"+digest.FromString(image).String(), image)
				m.pull(blob, layer)
			}
			// net/http tries again where that is safe, and GET tells whether it is HEAD alone that is refused.
			twice := name == "down" || name == "deleted" || name == "denied"
			if got := o.requests(); len(got) != 1 && (!twice || len(got) != 2) {
				t.Errorf("asked %q", got)
			}
			o.turn(nil)
			for try := 1; ; try++ { // the request that stalls may not have been given up yet
				m.pass(24 * time.Hour)
				a := m.pull(tag, image)
				if a.Header.Get("Warning") == "" {
					break
				}
				if try == 100 {
					t.Fatalf("afterwards: %s", a.Header.Get("Warning"))
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

// TestMirrorRetryAfter sees that an upstream that wants to be left alone is, by everybody, for as long as it said.
func TestMirrorRetryAfter(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	m := newMirror(t, o, "")
	o.turn(status(429, "Retry-After: 100")(""))
	for range 3 {
		if a := m.do("GET", "/v2/up.example/a/manifests/v1", ""); a.StatusCode != 429 || a.Header.Get("Retry-After") != "100" {
			t.Error(a.Status, a.Header)
		}
	}
	if a := m.do("GET", "/v2/up.example/b/manifests/v1", ""); a.StatusCode != 429 {
		t.Error(a.Status)
	}
	m.pass(40 * time.Second)
	if a := m.do("GET", "/v2/up.example/a/manifests/v1", ""); a.Header.Get("Retry-After") != "60" {
		t.Error(a.Status, a.Header)
	}
	if got := o.requests(); len(got) != 1 {
		t.Errorf("asked %q", got)
	}
	o.turn(nil)
	m.pass(61 * time.Second)
	m.pull("/v2/up.example/a/manifests/v1", image)
}

// TestMirrorNegative sees that what the upstream does not have is asked for once a minute.
func TestMirrorNegative(t *testing.T) {
	o := newOrigin(t)
	m := newMirror(t, o, "")
	d := digest.FromString("nothing").String()
	paths := []string{"/v2/up.example/a/manifests/v1", "/v2/up.example/a/manifests/" + d, "/v2/up.example/a/blobs/" + d}
	for range 3 {
		for _, path := range paths {
			if a := m.do("GET", path, ""); a.StatusCode != 404 {
				t.Error(a.Status)
			}
		}
		m.do("HEAD", paths[2], "")
	}
	if got := o.requests(); len(got) != 3 {
		t.Errorf("asked %q", got)
	}
	image := o.image("a", "v1", "layer")
	m.pass(2 * time.Minute)
	m.pull(paths[0], image)
}

// TestMirrorOffline sees that an offline mirror asks nobody.
func TestMirrorOffline(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	offline := false
	m := newMirror(t, o, "", func(mc *mirror.Config, _ *server.Config) { mc.Offline = offline })
	m.pull("/v2/up.example/a/manifests/v1", image)
	up, err := mirror.ParseUpstreams("up.example=" + o.url)
	if err != nil {
		t.Fatal(err)
	}
	second := mirror.New(mirror.Config{Registry: m.registry, Upstreams: up, Now: m.now, Offline: true})
	t.Cleanup(second.Close)
	s, err := server.New(server.Config{Registry: m.registry, Mirror: second})
	if err != nil {
		t.Fatal(err)
	}
	m.client = newClient(t, s)
	m.pass(time.Hour)
	o.requests()
	if a := m.pull("/v2/up.example/a/manifests/v1", image); a.Header.Get("Warning") == "" {
		t.Error(a.Header)
	}
	for _, path := range []string{"/v2/up.example/a/blobs/" + digest.FromString("layer").String(), "/v2/up.example/b/manifests/v1"} {
		if a := m.do("GET", path, ""); a.StatusCode != 404 || !strings.Contains(a.body, "offline") {
			t.Error(a.Status, a.body)
		}
	}
	if a := m.do("GET", "/v2/up.example/a/tags/list", ""); a.StatusCode != 200 || a.Header.Get("Warning") == "" {
		t.Error(a.Status, a.body)
	}
	if got := o.requests(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
}

// withLogin makes an origin ask for a token of its own, and for a password before that.
func (o *origin) withLogin(realm string) {
	o.turn(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/token" && user == "robot" && password == "secret":
			io.WriteString(w, `{"token":"good"}`)
		case r.URL.Path == "/token":
			w.WriteHeader(401)
		case r.Header.Get("Authorization") == "Bearer good":
			o.good.ServeHTTP(w, r)
		default:
			w.Header().Set("Www-Authenticate", `Bearer realm="`+realm+`",service="x"`)
			w.WriteHeader(401)
		}
	})
}

// userFile writes a file with a login.
func userFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "user")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestMirrorCredentials sees where they go: to the upstream and its own realm, and nowhere else.
func TestMirrorCredentials(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	var trapped, leaked atomic.Int64
	trap := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		trapped.Add(1)
		if len(r.Header["Authorization"]) > 0 || len(r.Header["Cookie"]) > 0 {
			leaked.Add(1)
		}
		io.WriteString(w, "layer")
	}))
	defer trap.Close()
	file := userFile(t, "robot:secret\n")
	path, blob := "/v2/up.example/a/manifests/v1", "/v2/up.example/a/blobs/"+digest.FromString("layer").String()
	t.Run("own realm", func(t *testing.T) {
		o.withLogin(o.url + "/token")
		newMirror(t, o, ",user="+file).pull(path, image)
	})
	t.Run("a line each", func(t *testing.T) { newMirror(t, o, ",user="+userFile(t, "robot\r\nsecret\r\n")).pull(path, image) })
	t.Run("redirect of a blob", func(t *testing.T) {
		o.turn(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("Www-Authenticate", "Basic realm=x")
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, trap.URL+"/layer", http.StatusTemporaryRedirect)
		})
		newMirror(t, o, ",private-network,user="+file).pull(blob, "layer")
		if trapped.Load() != 1 {
			t.Error("not followed")
		}
	})
	for name, realm := range map[string]string{
		"another port": trap.URL + "/token", "another name": strings.Replace(o.url, "127.0.0.1", "localhost", 1) + "/token",
		"in the name": strings.Replace(o.url, "http://", "http://x@evil.example:80/", 1), "https": strings.Replace(o.url, "http:", "https:", 1) + "/token",
	} {
		t.Run("realm with "+name, func(t *testing.T) {
			trapped.Store(0)
			o.withLogin(realm)
			if a := newMirror(t, o, ",private-network,user="+file).do("GET", path, ""); a.StatusCode != 502 {
				t.Error(a.Status, a.body)
			}
			if trapped.Load() != 0 {
				t.Error("asked there")
			}
		})
	}
	t.Run("realm that is configured", func(t *testing.T) {
		tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "robot" || password != "secret" {
				w.WriteHeader(401)
			}
			io.WriteString(w, `{"token":"good"}`)
		}))
		defer tokens.Close()
		o.withLogin(tokens.URL)
		newMirror(t, o, ",private-network,realm="+strings.TrimPrefix(tokens.URL, "http://")+",user="+file).pull(path, image)
	})
	if leaked.Load() != 0 {
		t.Error("credentials went elsewhere")
	}
}

// TestMirrorWrongPassword sees that a password that is refused is not tried again and again.
func TestMirrorWrongPassword(t *testing.T) {
	for name, set := range map[string]func(*origin){
		"token": func(o *origin) { o.withLogin(o.url + "/token") },
		"basic": func(o *origin) { o.turn(status(401, "Www-Authenticate: Basic realm=x")("")) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			image := o.image("a", "v1", "layer")
			m := newMirror(t, o, ",user="+userFile(t, "robot:wrong"))
			m.pull("/v2/up.example/a/manifests/v1", image) // when nobody asked for it
			m.pass(time.Hour)
			set(o)
			o.requests()
			tries := 0
			for _, wait := range []time.Duration{0, 30 * time.Second, 31 * time.Second, 100 * time.Second, 21 * time.Second} {
				m.pass(wait)
				if a := m.do("GET", "/v2/up.example/b/manifests/v1", ""); a.StatusCode != 502 || strings.Contains(a.body, "secret") {
					t.Error(a.Status, a.body)
				}
				if a := m.pull("/v2/up.example/a/manifests/v1", image); a.Header.Get("Warning") == "" {
					t.Error("no warning")
				}
				if len(o.requests()) > 0 {
					tries++
				}
			}
			if tries != 3 { // at once, after one minute, after two more
				t.Errorf("%d tries", tries)
			}
		})
	}
}

// TestMirrorRights sees that copies of an upstream with a login are private, others public, and that who may not read them
// causes no request.
func TestMirrorRights(t *testing.T) {
	file := userFile(t, "robot:secret")
	for options, public := range map[string]bool{"": true, ",user=" + file: false, ",private": false, ",user=" + file + ",public": true} {
		o := newOrigin(t)
		image := o.image("a", "v1", "layer")
		m := newMirror(t, o, options, func(mc *mirror.Config, sc *server.Config) {
			users := dbtest.OpenAt(t, filepath.Join(t.TempDir(), "users.db"), nil)
			sc.Auth = auth.New(auth.Config{DB: users, Anonymous: true, Taken: mirror.Prefixes(mc.Upstreams)})
			if _, err := sc.Auth.Start(t.Context(), "a password for admin"); err != nil {
				t.Fatal(err)
			}
			if err := sc.Auth.CreateUser(t.Context(), registry.Actor{}, "up.example", "a password of him", false, true); err == nil {
				t.Error("somebody may have the name of an upstream")
			}
			for _, user := range []string{"alice", "bob"} {
				if err := sc.Auth.CreateUser(t.Context(), registry.Actor{}, user, "a password of "+user, false, false); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := auth.New(auth.Config{DB: users, Taken: []string{"alice"}}).Start(t.Context(), ""); err == nil {
				t.Error("alice has the name of an upstream")
			}
			rule, _ := auth.ParseRule("pull:up.example/**")
			if err := sc.Auth.SetGrant(t.Context(), registry.Actor{}, "alice", rule); err != nil {
				t.Fatal(err)
			}
		})
		path := "/v2/up.example/a/manifests/v1"
		as := func(user, path string) answer {
			r, _ := http.NewRequest("GET", m.url+path, nil)
			if user != "" {
				r.SetBasicAuth(user, "a password of "+user)
			}
			return m.send(r)
		}
		token := func() answer {
			var text string
			a := m.do("GET", "/auth/token?service=registry&scope=repository:up.example/a:pull", "")
			if _, rest, ok := strings.Cut(a.body, `"token":"`); ok {
				text, _, _ = strings.Cut(rest, `"`)
			}
			return m.do("GET", path, "", "Authorization: Bearer "+text)
		}
		for _, cold := range []bool{true, false} {
			if !public {
				if a := as("", path); a.StatusCode != 401 {
					t.Error(options, a.Status)
				}
				if a := token(); a.StatusCode != 401 {
					t.Error(options, a.Status)
				}
				a, missing := as("bob", path), as("bob", "/v2/nope/a/manifests/v1")
				if a.StatusCode != 404 || strings.ReplaceAll(a.body, "up.example", "nope") != missing.body {
					t.Error(options, a.Status, a.body, missing.body)
				}
				if cold {
					if got := o.requests(); len(got) != 0 {
						t.Errorf("%s: asked %q for somebody who may not read", options, got)
					}
				}
			} else {
				if a := token(); a.StatusCode != 200 || a.body != image {
					t.Error(options, a.Status, a.body)
				}
				if a := as("bob", path); a.StatusCode != 200 {
					t.Error(options, a.Status, a.body)
				}
			}
			if a := as("alice", path); a.StatusCode != 200 || a.body != image {
				t.Error(options, a.Status, a.body)
			}
			if a := as("bob", "/v2/_catalog"); strings.Contains(a.body, "up.example") != public {
				t.Error(options, a.body)
			}
		}
	}
}

// TestMirrorCollect sees what a collection of untagged manifests takes of copies: what no tag holds and nobody has pulled
// for so long.
func TestMirrorCollect(t *testing.T) {
	o := newOrigin(t)
	m := newMirror(t, o, "")
	pulled, idle, tagged := o.image("a", "v1", "pulled"), o.image("a", "v2", "idle"), o.image("a", "v3", "tagged")
	path := func(image string) string { return "/v2/up.example/a/manifests/" + digest.FromString(image).String() }
	m.pull(path(pulled), pulled)
	m.pull(path(idle), idle)
	m.pull("/v2/up.example/a/manifests/v3", tagged)
	for range 10 {
		m.pass(24 * time.Hour)
		m.pull(path(pulled), pulled)
		if _, err := gc.Collect(t.Context(), m.registry, gc.Options{Grace: 24 * time.Hour, Untagged: true, UntaggedAfter: 7 * 24 * time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	o.turn(status(500)(""))
	m.pull(path(pulled), pulled)
	m.pull(path(tagged), tagged)
	if a := m.do("GET", path(idle), ""); a.StatusCode != 502 {
		t.Error("still there:", a.Status)
	}
}

// TestMirrorImmutable sees that a tag that may not move does not, whatever the upstream does.
func TestMirrorImmutable(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	m := newMirror(t, o, "")
	m.pull("/v2/up.example/a/manifests/v1", image)
	if err := m.registry.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "up.example/**", Tag: "v*"}); err != nil {
		t.Fatal(err)
	}
	o.image("a", "v1", "another")
	m.pass(time.Hour)
	if a := m.pull("/v2/up.example/a/manifests/v1", image); a.Header.Get("Warning") == "" {
		t.Error("no warning")
	}
}

// TestMirrorLists sees that tags and referrers are the upstream's, as long as it answers.
func TestMirrorLists(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v1", "layer")
	o.image("a", "v2", "layer")
	subject := imageOf("layer", `,"artifactType":"x/y","subject":{"mediaType":"a/b","digest":"`+digest.FromString(image).String()+`","size":1}`)
	if a := o.do("PUT", "/v2/a/manifests/"+digest.FromString(subject).String(), subject, ociManifest); a.StatusCode != 201 {
		t.Fatal(a.Status, a.body)
	}
	m := newMirror(t, o, "")
	m.pull("/v2/up.example/a/manifests/v1", image)
	if a := m.do("GET", "/v2/up.example/a/tags/list?n=1", ""); !strings.Contains(a.body, `["v1"]`) || !strings.Contains(a.Header.Get("Link"), "last=v1") {
		t.Error(a.body, a.Header)
	}
	referrers := "/v2/up.example/a/referrers/" + digest.FromString(image).String()
	for query, want := range map[string]bool{"": true, "?artifactType=x/y": true, "?artifactType=z": false} {
		if a := m.do("GET", referrers+query, ""); a.StatusCode != 200 || strings.Contains(a.body, digest.FromString(subject).String()) != want {
			t.Error(query, a.Status, a.body)
		}
	}
	o.turn(status(500)(""))
	if a := m.do("GET", "/v2/up.example/a/tags/list", ""); !strings.Contains(a.body, `["v1","v2"]`) || a.Header.Get("Warning") != "" {
		t.Error("a list is remembered as long as a tag:", a.body, a.Header)
	}
	m.pass(6 * time.Minute)
	if a := m.do("GET", "/v2/up.example/a/tags/list", ""); !strings.Contains(a.body, `["v1"]`) || a.Header.Get("Warning") == "" {
		t.Error(a.body, a.Header)
	}
	if a := m.do("GET", referrers, ""); a.StatusCode != 200 || a.Header.Get("Warning") == "" {
		t.Error(a.Status)
	}
	if a := m.do("GET", "/metrics", ""); !strings.Contains(a.body, `registry_upstream_requests_total{result="500",upstream="up.example"} 1`) {
		t.Error("not counted:", a.body)
	}
}

// TestMirrorEvict sees what has to go when copies take too much: those that were pulled longest ago, and never a push.
func TestMirrorEvict(t *testing.T) {
	o := newOrigin(t)
	m := newMirror(t, o, "")
	const size = 100_000
	shared := noise(size, 100)
	o.image("a", "shared", shared)
	m.push("mine", shared)
	if a := m.do("PUT", "/v2/mine/manifests/v1", imageOf(shared, ""), ociManifest); a.StatusCode != 201 {
		t.Fatal(a.Status, a.body)
	}
	m.pull("/v2/up.example/a/manifests/shared", imageOf(shared, ""))
	m.pull("/v2/up.example/a/blobs/"+digest.FromString(shared).String(), shared)
	var layers []string
	for i := range 5 {
		layer := noise(size, byte(i))
		layers = append(layers, layer)
		tag := "v" + string(rune('0'+i))
		m.pass(2 * time.Hour)
		m.pull("/v2/up.example/a/manifests/"+tag, o.image("a", tag, layer))
		m.pull("/v2/up.example/a/blobs/"+digest.FromString(layer).String(), layer)
	}
	m.pass(2 * time.Hour)
	m.pull("/v2/up.example/a/manifests/"+digest.FromString(imageOf(layers[0], "")).String(), imageOf(layers[0], "")) // it is wanted again
	report, err := gc.Evict(t.Context(), m.registry, 3*size)
	if err != nil || !report.Complete || report.Blobs != 2 || report.Bytes != 2*size {
		t.Error(report, err)
	}
	o.turn(status(500)(""))
	for i, layer := range layers {
		a, err := m.get("/v2/up.example/a/blobs/" + digest.FromString(layer).String())
		if gone := i == 1 || i == 2; err != nil || gone != (a.StatusCode != 200) {
			t.Error(i, a.Response, err)
		}
	}
	o.turn(nil)
	m.pass(time.Hour)
	if report, err = gc.Evict(t.Context(), m.registry, 1); err != nil || !report.Complete {
		t.Error(report, err)
	}
	m.pull("/v2/mine/blobs/"+digest.FromString(shared).String(), shared)
	m.pull("/v2/mine/manifests/v1", imageOf(shared, ""))
	// What was evicted comes back.
	m.pull("/v2/up.example/a/manifests/v1", imageOf(layers[1], ""))
	m.pull("/v2/up.example/a/blobs/"+digest.FromString(layers[1]).String(), layers[1])
	checked, err := check.Run(t.Context(), m.registry, check.Options{ReadData: true, Found: func(f check.Finding) { t.Error(f) }})
	if err != nil || checked.Findings != 0 {
		t.Error(checked, err)
	}
}

// A tag that was checked while the clock was ahead is asked for again when it is right, and a copy that was pulled then is
// not the last to be evicted.
func TestMirrorAfterAWrongClock(t *testing.T) {
	o := newOrigin(t)
	m := newMirror(t, o, "")
	const wrong = 365 * 24 * time.Hour
	m.pass(wrong)
	m.pull("/v2/up.example/a/manifests/v1", o.image("a", "v1", "layer"))
	m.pass(-wrong)
	m.pull("/v2/up.example/a/manifests/v1", o.image("a", "v1", "another layer"))
}

package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"registry/server"
	"registry/server/mirror"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
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
	if opened < 30 || len(pauses) < opened-2 {
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

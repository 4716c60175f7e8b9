package mirror

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// remoteOf is a client of a handler.
func remoteOf(t *testing.T, h http.HandlerFunc) *Remote {
	ts := httptest.NewServer(h)
	t.Cleanup(ts.Close)
	ups, err := ParseUpstreams("up.example=" + ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := NewRemote(ups[0], time.Second, nil)
	t.Cleanup(r.Close)
	return r
}

// TestWholeLists sees that the next page is the one that Link says: the cursor is no name, and may be called as the
// registry likes.
func TestWholeLists(t *testing.T) {
	for _, cursor := range []string{"last=tok%2B", "next_page=tok%2B"} {
		wholeLists(t, cursor)
	}
	all := remoteOf(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"tags":["a","b","c"]}`) })
	if tags, err := all.AllTags(t.Context(), "x"); err != nil || fmt.Sprint(tags) != "[a b c]" {
		t.Errorf("whatever is asked: %q, %v", tags, err)
	}
}

func wholeLists(t *testing.T, cursor string) {
	pages := map[string]string{"n=1000": `"a","b"`, cursor + "2": `"c","-"`, cursor + "3": "", cursor + "4": `"d"`}
	next := map[string]string{"n=1000": cursor + "2", cursor + "2": cursor + "3", cursor + "3": cursor + "4"}
	r := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		names, ok := pages[r.URL.RawQuery]
		if !ok {
			http.Error(w, r.URL.RawQuery, http.StatusMethodNotAllowed)
			return
		}
		if next := next[r.URL.RawQuery]; next != "" {
			w.Header().Set("Link", `</elsewhere?`+next+`>; rel="next"`)
		}
		w.Header().Set("RateLimit-Remaining", "76;w=21600")
		fmt.Fprintf(w, `{"tags":[%s]}`, names)
	})
	repos := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		if next := next[r.URL.RawQuery]; next != "" {
			w.Header().Set("Link", `</v2/_catalog?`+next+`>; rel="next"`)
		}
		fmt.Fprintf(w, `{"repositories":[%s]}`, pages[r.URL.RawQuery])
	})
	if _, known := r.Remaining(); known {
		t.Error("nobody has said what is left")
	}
	tags, err := r.AllTags(t.Context(), "x")
	if err != nil || fmt.Sprint(tags) != "[a b c d]" {
		t.Errorf("%q, %v", tags, err)
	}
	if names, err := repos.AllRepositories(t.Context()); err != nil || fmt.Sprint(names) != "[a b c d]" {
		t.Errorf("%q, %v", names, err)
	}
	if left, known := r.Remaining(); left != 76 || !known {
		t.Error(left, known)
	}
}

func TestListsThatDoNotEnd(t *testing.T) {
	r := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", `</v2/x?n=1>; rel="next"`)
		io.WriteString(w, `{"tags":["a","b"],"manifests":[{}]}`)
	})
	if tags, err := r.AllTags(t.Context(), "x"); !errors.Is(err, errEndless) || tags != nil {
		t.Errorf("%q, %v", tags, err)
	}
	if list, err := r.Referrers(t.Context(), "x", digest.FromString(""), ""); !errors.Is(err, errEndless) || list != nil {
		t.Errorf("%d, %v", len(list), err)
	}
}

func TestReferrersOfAllPages(t *testing.T) {
	var asked []string
	r := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+"?"+r.URL.RawQuery)
		if r.URL.Query().Get("page") == "" {
			w.Header().Set("Link", `<http://evil.example/v2/y/referrers/z?page=2>; rel="next"`)
		}
		fmt.Fprintf(w, `{"manifests":[{"artifactType":"a/b","x":%q},{"artifactType":"other"}]}`, r.URL.RawQuery)
	})
	d := digest.FromString("x")
	path := "/v2/x/referrers/" + d.String()
	for artifactType, want := range map[string]int{"": 4, "a/b": 2, "none": 0} {
		asked = nil
		list, err := r.Referrers(t.Context(), "x", d, artifactType)
		if err != nil || len(list) != want || want > 1 && !strings.Contains(string(list[want/2]), `"x":"page=2"`) {
			t.Errorf("%q: %s, %v", artifactType, list, err)
		}
		query := ""
		if artifactType != "" {
			query = url.Values{"artifactType": {artifactType}}.Encode()
		}
		if !slices.Equal(asked, []string{path + "?" + query, path + "?page=2"}) {
			t.Errorf("%q", asked)
		}
	}
	broken := remoteOf(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"manifests":[7]}`) })
	if list, err := broken.Referrers(t.Context(), "x", d, ""); !errors.Is(err, ErrWrong) {
		t.Errorf("%s, %v", list, err)
	}
}

// TestEnvProxy sees that a Remote goes by the proxy of the environment only where that is said. It is the only test of the
// package that asks for it, since net/http reads the environment once.
func TestEnvProxy(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"tags":[%q]}`, "by-proxy-to-"+r.URL.Host)
	}))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "direct.invalid")
	for host, want := range map[string]string{"registry.invalid": "[by-proxy-to-registry.invalid]", "direct.invalid": "[]"} {
		for _, env := range []bool{true, false} {
			r := NewRemote(Upstream{Name: "up.example", URL: &url.URL{Scheme: "http", Host: host}, EnvProxy: env}, time.Second, nil)
			if !env {
				want = "[]"
			}
			if tags, _ := r.AllTags(t.Context(), "x"); fmt.Sprint(tags) != want {
				t.Errorf("%s, %v: %q", host, env, tags)
			}
			r.Close()
		}
	}
}

package mirror

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
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

func TestWholeLists(t *testing.T) {
	r := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		last := r.URL.Query().Get("last")
		if last != "-" {
			w.Header().Set("Link", `</v2/x?n=1>; rel="next"`)
		}
		w.Header().Set("RateLimit-Remaining", "76;w=21600")
		names := map[string]string{"": `"a","b"`, "b": `"c","-"`, "-": `"d"`}[last]
		fmt.Fprintf(w, `{"tags":[%s],"repositories":[%s]}`, names, names)
	})
	if _, known := r.Remaining(); known {
		t.Error("nobody has said what is left")
	}
	tags, err := r.AllTags(t.Context(), "x")
	if err != nil || fmt.Sprint(tags) != "[a b c d]" {
		t.Errorf("%q, %v", tags, err)
	}
	repos, err := r.AllRepositories(t.Context())
	if err != nil || fmt.Sprint(repos) != "[a b c d]" {
		t.Errorf("%q, %v", repos, err)
	}
	if left, known := r.Remaining(); left != 76 || !known {
		t.Error(left, known)
	}
}

func TestListsThatDoNotEnd(t *testing.T) {
	r := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", `</v2/x?n=1>; rel="next"`)
		io.WriteString(w, `{"tags":["a","b"]}`)
	})
	if tags, err := r.AllTags(t.Context(), "x"); !errors.Is(err, errEndless) || tags != nil {
		t.Errorf("%q, %v", tags, err)
	}
	if list, err := r.AllReferrers(t.Context(), "x", digest.FromString("")); !errors.Is(err, errEndless) || list != nil {
		t.Errorf("%d, %v", len(list), err)
	}
}

func TestAllReferrers(t *testing.T) {
	var asked []string
	r := remoteOf(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path+"?"+r.URL.RawQuery)
		if r.URL.RawQuery == "" {
			w.Header().Set("Link", `<http://evil.example/v2/y/referrers/z?page=2>; rel="next"`)
		}
		fmt.Fprintf(w, `{"manifests":[{"digest":%q}]}`, digest.FromString(r.URL.RawQuery))
	})
	d := digest.FromString("x")
	list, err := r.AllReferrers(t.Context(), "x", d)
	if err != nil || len(list) != 2 || list[1].Digest != digest.FromString("page=2") {
		t.Errorf("%v, %v", list, err)
	}
	if path := "/v2/x/referrers/" + d.String(); !slices.Equal(asked, []string{path + "?", path + "?page=2"}) {
		t.Errorf("%q", asked)
	}
}

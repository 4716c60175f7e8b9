package remote

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestNextPage(t *testing.T) {
	for _, c := range []struct {
		links []string
		want  string
	}{
		{nil, ""},
		{[]string{`</v2/a/tags/list?n=5&last=x>; rel="next"`}, "n=5&last=x"},
		{[]string{`<https://elsewhere.example/other?next_page=gAAA%3D>; rel=next`}, "next_page=gAAA%3D"},
		{[]string{`</a?b=1>; title="x, y"; rel="prev next"`}, "b=1"},
		{[]string{`</a?b=1>; rel="prev"`, `</a?b=3>; REL="Next"`}, "b=3"},
		{[]string{`</a?b=1>; rel="first", </a?b=2>;rel=next;x=y`}, "b=2"},
		{[]string{`</a?b=1>; rel="nextish"`}, ""},
		{[]string{`</a?rel=next>; rel="prev"`}, ""},
		{[]string{`</a>; rel="next"`}, "error"},
		{[]string{`<%zz?a=b>; rel="next"`}, "error"},
		{[]string{`next`}, ""},
	} {
		got, err := NextPage(http.Header{"Link": c.links})
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%q: %q, want %q", c.links, got, c.want)
		}
	}
}

func TestChallenges(t *testing.T) {
	const bearer = `Bearer realm="https://r.example/token",service="a, b",scope="repository:x:pull,push"`
	for _, c := range []struct {
		values   []string
		password bool
		want     string
	}{
		{[]string{bearer}, false, bearer},
		{[]string{`Basic realm="x"`, bearer}, false, bearer},
		{[]string{`Basic realm="x"`, bearer}, true, `Basic realm="x"`},
		{[]string{`Basic realm="x", ` + bearer}, false, bearer},
		{[]string{bearer + `, Basic realm="x"`}, true, bearer},
		{[]string{`Negotiate`, `NTLM`, bearer}, false, bearer},
		{[]string{`Negotiate, NTLM abc==, ` + bearer}, false, bearer},
		{[]string{`Bearer realm="https://elsewhere.example/token"`, `Basic realm="x"`}, true, `Basic realm="x"`},
		{[]string{`Bearer error="x"`, `Basic realm="x"`}, true, `Basic realm="x"`},
		{[]string{`bearer  realm = "https://r.example/token" , service="s"`}, false, `bearer realm = "https://r.example/token",service="s"`},
		{[]string{`Digest realm="a \" Bearer, b"`, bearer}, false, bearer},
		{[]string{`Basic realm="x"`}, false, `Basic realm="x"`}, // none can be met: as it is
		{[]string{`Bearer realm="`}, false, `Bearer realm="`},
		{[]string{`,,`}, false, `,,`},
	} {
		next := roundTrip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": c.values}, Body: http.NoBody}, nil
		})
		resp, err := Challenged{Next: next, Basic: func(*http.Request) bool { return c.password },
			Realm: func(u *url.URL) bool { return u.Host == "r.example" }}.RoundTrip(&http.Request{})
		if err != nil || resp.Header.Get("Www-Authenticate") != c.want {
			t.Errorf("%q: %q, %v", c.values, resp.Header, err)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func FuzzChallenges(f *testing.F) {
	f.Add(`Basic realm="x", Bearer realm="https://r.example/token",service="a\", b"`)
	f.Add(`"`)
	f.Fuzz(func(t *testing.T, text string) {
		size := 0
		for _, c := range splitChallenges([]string{text}) {
			size += len(c)
			if strings.TrimSpace(c) == "" {
				t.Errorf("an empty challenge of %q", text)
			}
		}
		if size > 2*len(text)+2 {
			t.Errorf("%d bytes of %d", size, len(text))
		}
	})
}

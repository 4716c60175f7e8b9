package server_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestConditions(t *testing.T) {
	c := newClient(t, newServer(t))
	c.push("a", "x")
	one, two := imageOf("x", ""), imageOf("x", `,"annotations":{"n":"2"}`)
	first, second := digest.FromString(one).String(), digest.FromString(two).String()
	quoted := func(d string) string { return `"` + d + `"` }
	for _, x := range []struct {
		method, ref, body, header string
		status                    int
		now                       string // what the tag v1 points at
	}{
		{"PUT", "v1", one, "If-Match: *", 412, ""},
		{"PUT", "v1", one, "If-Match: " + quoted(first), 412, ""},
		{"DELETE", "v1", "", "If-Match: *", 404, ""},
		{"DELETE", "v1", "", "If-None-Match: *", 404, ""},
		{"PUT", "v1", "{", "If-Match: *", 400, ""},
		{"PUT", "v1", one, "If-None-Match: *", 201, first},
		{"PUT", "v1", two, "If-None-Match: *", 412, first},
		{"PUT", "v1", one, "If-None-Match: *", 412, first},
		{"PUT", "v1", two, "If-Match: " + quoted(second), 412, first},
		{"PUT", "v1", two, "If-Match: W/" + quoted(first), 412, first},
		{"PUT", "v1", two, `If-Match: "other", ""`, 412, first},
		{"PUT", "v1", two, "If-Match: " + first, 400, first},
		{"PUT", "v1", two, `If-Match: "` + first, 400, first},
		{"PUT", "v1", two, "If-None-Match: W/" + quoted(first), 412, first},
		{"PUT", "v1", two, `If-Match: "other", ` + quoted(first) + " ,", 201, second},
		{"PUT", "v1", one, "If-None-Match: " + quoted(first), 201, first},
		{"PUT", "v1", two, "If-Match: *", 201, second},
		{"PUT", second, two, "If-None-Match: *", 412, second},
		{"PUT", second, two, "If-Match: " + quoted(second), 201, second},
		{"DELETE", "v1", "", "If-Match: " + quoted(first), 412, second},
		{"DELETE", "v1", "", "If-None-Match: *", 412, second},
		{"DELETE", "v1", "", "If-Match: x", 400, second},
		{"DELETE", second, "", "If-Match: " + quoted(first), 412, second},
		{"DELETE", "v1", "", "If-Match: " + quoted(second), 202, ""},
		{"DELETE", second, "", "If-Match: " + quoted(second), 202, ""},
	} {
		name := fmt.Sprintf("%s %.9s with %s", x.method, x.ref, x.header)
		a := c.do(x.method, "/v2/a/manifests/"+x.ref, x.body, x.header, ociManifest)
		if a.StatusCode != x.status || x.status == 412 && !strings.Contains(a.body, `{"errors":[{"code":"PRECONDITION_FAILED","message":"`) {
			t.Errorf("%s: %s %s", name, a.Status, a.body)
		}
		if now := c.do("HEAD", "/v2/a/manifests/v1", "").Header.Get("Docker-Content-Digest"); now != x.now {
			t.Errorf("%s: the tag is at %s", name, now)
		}
	}
}

// Of many who move a tag from what they have seen, one succeeds.
func TestOneMovesTheTag(t *testing.T) {
	c := newClient(t, newServer(t))
	c.push("a", "x")
	was := imageOf("x", "")
	if a := c.do("PUT", "/v2/a/manifests/v1", was, ociManifest); a.StatusCode != 201 {
		t.Fatal(a.Status, a.body)
	}
	statuses := make(chan int, 20)
	var wg sync.WaitGroup
	for i := range cap(statuses) {
		wg.Go(func() {
			next := imageOf("x", fmt.Sprintf(`,"annotations":{"n":"%d"}`, i))
			statuses <- c.do("PUT", "/v2/a/manifests/v1", next, ociManifest, `If-Match: "`+digest.FromString(was).String()+`"`).StatusCode
		})
	}
	wg.Wait()
	close(statuses)
	count := map[int]int{}
	for s := range statuses {
		count[s]++
	}
	if count[201] != 1 || count[412] != 19 {
		t.Error(count)
	}
}

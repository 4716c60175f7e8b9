package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/image-spec/specs-go/v1"
)

// One client has its share of the budget, another one's is still there, and nothing is held when they are done.
func TestBudgetIsShared(t *testing.T) {
	b := newBudget(time.Hour)
	b.patience = time.Millisecond
	var held []func()
	take := func(client string, n int64) bool {
		release, err := b.acquire(t.Context(), client, n)
		if err == nil {
			held = append(held, release)
		} else if !registry.TooManyRequests.Is(err) {
			t.Error(err)
		}
		return err == nil
	}
	if !take("a", manifestShare-1) || !take("a", 1) || take("a", 1) {
		t.Error("a client has not its share, or more")
	}
	if !take("b", 100*manifestBudget) || take("b", 1) || take("c", 1) {
		t.Error("a second client has not the rest")
	}
	for _, release := range held {
		release()
	}
	if !b.total.TryAcquire(manifestBudget) || len(b.shares) != 0 {
		t.Error("something is still held", b.shares)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.acquire(gone, "a", 1); err != context.Canceled || len(b.shares) != 0 {
		t.Error(err, b.shares)
	}
}

// Manifests that do not end keep their sender's others waiting and nobody else's, and small ones not at all.
func TestLargeManifestsWait(t *testing.T) {
	w := newWorld(t)
	s, err := New(Config{Registry: w.reg, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	w.must(err)
	s.manifests.patience = 10 * time.Millisecond
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	w.blob("a", "config")
	large := theImage("config", strings.Repeat("x", 3<<20))
	put := func(client string, length int, body io.Reader) int {
		r, err := http.NewRequest("PUT", server.URL+"/v2/a/manifests/t", body)
		w.must(err)
		r.ContentLength = int64(length)
		r.Header.Set("Content-Type", v1.MediaTypeImageManifest)
		r.Header.Set("X-Forwarded-For", client)
		resp, err := server.Client().Do(r)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		if resp.StatusCode == 429 && resp.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		return resp.StatusCode
	}
	var ends []*io.PipeWriter
	done := make(chan int)
	for range 2 { // as many as a share is for
		from, to := io.Pipe()
		ends = append(ends, to)
		go func() { done <- put("192.0.2.1", len(large), from) }()
		fmt.Fprint(to, large[:len(large)-1]) // returns when all but the last buffers are read
	}
	for what, x := range map[string]struct {
		client, content string
		status          int
	}{
		"another large one":  {"192.0.2.1", large, 429},
		"a small one":        {"192.0.2.1", theImage("config", "small"), 201},
		"somebody else's":    {"192.0.2.2", large, 201},
		"one of many bytes":  {"192.0.2.1", theImage("config", strings.Repeat("x", 500<<10)), 201},
		"one with no length": {"192.0.2.2", theImage("config", strings.Repeat("x", 600<<10)), 201},
	} {
		length := len(x.content)
		if what == "one with no length" {
			length = -1
		}
		if got := put(x.client, length, strings.NewReader(x.content)); got != x.status {
			t.Errorf("%s: %d, want %d", what, got, x.status)
		}
	}
	for _, to := range ends {
		fmt.Fprint(to, large[len(large)-1:])
		to.Close()
		if got := <-done; got != 201 {
			t.Errorf("the rest came, and the answer is %d", got)
		}
	}
	if got := put("192.0.2.1", len(large), strings.NewReader(large)); got != 201 {
		t.Errorf("when they are done: %d", got)
	}
	over := theImage("config", strings.Repeat("x", 4<<20))
	for _, length := range []int{len(over), -1} {
		if got := put("192.0.2.1", length, strings.NewReader(over)); got != 413 && got != 0 { // 0: the answer came before the end
			t.Errorf("one that is too large: %d", got)
		}
	}
}

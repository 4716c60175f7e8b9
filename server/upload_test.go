package server_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/server"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

func TestUploadOverHTTP(t *testing.T) {
	c := newClient(t, newServer(t))
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	for _, x := range []struct {
		method, query, body, contentRange string
		status                            int
		rangeHeader                       string
	}{
		{"GET", "", "", "", 204, "0-0"},
		{"PATCH", "", "0123", "0-3", 202, "0-3"},
		{"PATCH", "", "0123", "0-3", 416, "0-3"},
		{"PATCH", "", "89", "8-9", 416, "0-3"},
		{"PATCH", "", "45", "4-99", 400, ""},
		{"PATCH", "", "45", "0x4-0x5", 400, ""},
		{"PATCH", "", "", "", 202, "0-3"},
		{"PATCH", "", "45", "bytes 4-5/10", 202, "0-5"},
		{"PATCH", "", "67", "", 202, "0-7"},
		{"GET", "", "", "", 204, "0-7"},
		{"PUT", "", "89", "", 400, ""},
		{"PUT", "?digest=sha256:x", "89", "", 400, ""},
		{"PUT", "?digest=" + digest.FromString("wrong").String(), "89", "", 400, ""},
		{"PUT", "?digest=" + digest.FromString("0123456789").String(), "89", "9-10", 416, "0-7"},
		{"PUT", "?digest=" + digest.FromString("0123456789").String(), "89", "8-9", 201, "0-9"},
		{"PUT", "?digest=" + digest.FromString("0123456789").String(), "89", "8-9", 201, "0-9"}, // whose answer was lost
		{"PUT", "?digest=" + digest.FromString("wrong").String(), "89", "8-9", 404, ""},
		{"GET", "", "", "", 404, ""},
	} {
		var headers []string
		if x.contentRange != "" {
			headers = append(headers, "Content-Range: "+x.contentRange)
		}
		a := c.do(x.method, location+x.query, x.body, headers...)
		if a.StatusCode != x.status || a.Header.Get("Range") != x.rangeHeader {
			t.Fatalf("%+v: %s, Range %q, %s", x, a.Status, a.Header.Get("Range"), a.body)
		}
	}
	if a := c.do("GET", "/v2/a/blobs/"+digest.FromString("0123456789").String(), ""); a.body != "0123456789" {
		t.Error(a.Status, a.body)
	}
	cancelled := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	for _, status := range []int{204, 404} {
		if a := c.do("DELETE", cancelled, ""); a.StatusCode != status {
			t.Error(a.Status)
		}
	}
	if a := c.do("GET", strings.Replace(c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location"), "/v2/a/", "/v2/b/", 1), ""); a.StatusCode != 404 {
		t.Error("another repository sees the session:", a.Status)
	}
}

// Two PATCHes at once at the same offset: one is taken, the other told where the upload ends.
func TestTwoChunksAtOnce(t *testing.T) {
	c := newClient(t, newServer(t))
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	content := strings.Repeat("x", 1<<20)
	statuses := make(chan int, 2)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			statuses <- c.do("PATCH", location, content, fmt.Sprintf("Content-Range: 0-%d", len(content)-1)).StatusCode
		})
	}
	wg.Wait()
	if sum := <-statuses + <-statuses; sum != 202+416 {
		t.Error("statuses add up to", sum)
	}
	if a := c.do("PUT", location+"?digest="+digest.FromString(content).String(), ""); a.StatusCode != 201 {
		t.Error(a.Status, a.body)
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMemoryDoesNotGrowWithTheLayer(t *testing.T) {
	c := newClient(t, newServer(t))
	const size = 256 << 20
	location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
	r, err := http.NewRequest("PATCH", c.url+location, io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if a := c.send(r); a.StatusCode != 202 || a.Header.Get("Range") != fmt.Sprintf("0-%d", size-1) {
		t.Fatal(a.Status, a.Header)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
		t.Errorf("%d MiB were allocated for a layer of %d MiB", got>>20, size>>20)
	}
}

// A body without a byte for the idle time is given up with 408, for which clients try again, and what came before can be
// continued.
func TestIdleBody(t *testing.T) {
	s := newServer(t, func(cfg *server.Config) { cfg.BodyIdleTimeout = 100 * time.Millisecond })
	ts := httptest.NewUnstartedServer(s.Handler())
	ts.EnableHTTP2 = true
	ts.StartTLS()
	t.Cleanup(ts.Close)
	for protocol, c := range map[string]*client{"HTTP/1.1": newClient(t, s), "HTTP/2.0": {t, ts.URL, ts.Client()}} {
		location := c.do("POST", "/v2/a/blobs/uploads/", "").Header.Get("Location")
		nothing := "?digest=" + digest.FromString("").String()
		for _, x := range []struct{ method, path, code string }{
			{"PATCH", location, "BLOB_UPLOAD_INVALID"}, {"PUT", location + nothing, "BLOB_UPLOAD_INVALID"},
			{"POST", "/v2/a/blobs/uploads/" + nothing, "BLOB_UPLOAD_INVALID"}, {"PUT", "/v2/a/manifests/t", "MANIFEST_INVALID"},
		} {
			body, rest := io.Pipe()
			go rest.Write([]byte("0123456789"))
			r, err := http.NewRequest(x.method, c.url+x.path, body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", v1.MediaTypeImageManifest)
			a := c.send(r)
			rest.Close()
			if a.StatusCode != 408 || !strings.Contains(a.body, x.code) || a.Proto != protocol {
				t.Errorf("%s %s %s: %s %s", protocol, x.method, x.path, a.Status, a.body)
			}
		}
		if a := c.do("GET", location, ""); a.Header.Get("Range") != "0-19" {
			t.Error(protocol, a.Status, a.Header)
		}
		content := strings.Repeat("0123456789", 2)
		if a := c.do("PUT", location+"?digest="+digest.FromString(content).String(), ""); a.StatusCode != 201 {
			t.Error(protocol, a.Status, a.body)
		}
	}
}

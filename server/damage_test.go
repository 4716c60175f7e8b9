package server_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Nobody takes a damaged blob for a good one: a large one breaks off before its end, a small one is not there, and after
// that neither is the large one, until it is pushed again.
func TestDamagedBlob(t *testing.T) {
	root := filepath.Join(t.TempDir(), "blobs")
	store, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, func(cfg *server.Config) {
		cfg.Registry = registry.New(registry.Config{DB: dbtest.Open(t), Blobs: store})
	})
	for _, c := range []*client{newClient(t, s), newHTTP2Client(t, s)} {
		for _, content := range []string{"small", strings.Repeat("large ", 2<<20)} {
			d := c.push("a", content)
			flip(t, root, d)
			resp, err := c.Get(c.url + "/v2/a/blobs/" + d.String())
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK && err == nil {
				t.Errorf("%d of %d bytes complete with 200", len(got), len(content))
			}
			for _, method := range []string{"GET", "HEAD"} {
				if a := c.do(method, "/v2/a/blobs/"+d.String(), ""); a.StatusCode != http.StatusNotFound {
					t.Error(method, a.Status)
				}
			}
			c.push("a", content)
			if a := c.do("GET", "/v2/a/blobs/"+d.String(), ""); a.body != content {
				t.Error(a.Status, len(a.body))
			}
		}
	}
}

// flip changes a byte of every file of a blob.
func flip(t *testing.T, root string, d digest.Digest) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "sha256", d.Encoded()[:2], d.Encoded()+".*"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err == nil {
			content[len(content)/2] ^= 1
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// newHTTP2Client speaks HTTP/2 to a server.
func newHTTP2Client(t *testing.T, s *server.Server) *client {
	t.Helper()
	ts := httptest.NewUnstartedServer(s.Handler())
	ts.EnableHTTP2 = true
	ts.StartTLS()
	t.Cleanup(ts.Close)
	return &client{t, ts.URL, ts.Client()}
}

// outOfFiles is a store in a process that may open no more files.
type outOfFiles struct{ blobs.Store }

func (outOfFiles) Open(context.Context, blobs.Name) (blobs.File, blobs.Info, error) {
	return nil, blobs.Info{}, &os.PathError{Op: "open", Path: "blob", Err: syscall.EMFILE}
}

func (outOfFiles) Stage(context.Context, string, int64) (blobs.Stage, error) {
	return nil, &os.PathError{Op: "open", Path: "stage", Err: syscall.ENFILE}
}

// A server that can open no more files asks its clients to come again: nothing is wrong with their requests.
func TestOutOfFiles(t *testing.T) {
	dir, err := blobs.OpenDir(t.Context(), t.TempDir(), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	database := dbtest.Open(t)
	with := func(store blobs.Store) *client {
		return newClient(t, newServer(t, func(c *server.Config) { c.Registry = registry.New(registry.Config{DB: database, Blobs: store}) }))
	}
	blob := with(dir).push("a", "0123456789")
	c := with(outOfFiles{dir})
	for _, a := range []answer{
		c.do("GET", "/v2/a/blobs/"+blob.String(), ""),
		c.do("POST", "/v2/a/blobs/uploads/?digest="+digest.FromString("more").String(), "more"),
	} {
		if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(a.body, "UNAVAILABLE") {
			t.Error(a.Status, a.Header, a.body)
		}
	}
}

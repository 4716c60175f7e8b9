package server_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/registry"
)

// Neither a method nor a path that a client makes up becomes a label.
func TestMetricLabelsAreBounded(t *testing.T) {
	c := newClient(t, newServer(t))
	for _, x := range []string{"BREW /v2/", "BREW /v2/pot/tags/list", "GET /v2/pot", "GET /pot", "DELETE /v2/pot/tags/list", "GET /v2/pot/blobs/pot"} {
		method, path, _ := strings.Cut(x, " ")
		c.do(method, path, "")
	}
	if a := c.do("GET", "/metrics", ""); strings.Contains(a.body, "pot") || strings.Contains(strings.ToLower(a.body), "brew") || !strings.Contains(a.body, `method="other"`) {
		t.Error(a.body)
	}
}

// unfit is a store that takes nothing.
type unfit struct{ blobs.Store }

func (unfit) Check(context.Context) error { return errors.New("/secret/blobs: no such directory") }

// When something fails, readiness says what without saying where it is, other answers not even that, and the metrics
// that need no database are there.
func TestPartsFail(t *testing.T) {
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "reg.db")
	reg := registry.New(registry.Config{DB: dbtest.OpenAt(t, path, nil), Blobs: unfit{store}})
	fresh := func() *client { // one whose server remembers no answer of readiness
		return newClient(t, newServer(t, func(cfg *server.Config) { cfg.Registry = reg }))
	}
	for path, want := range map[string]int{"/readyz": 200, "/readyz?writes=0": 200, "/readyz?writes=1": 503} {
		if a := fresh().do("GET", path, ""); a.StatusCode != want || a.body != "degraded: blobs\n" {
			t.Error(path, a.Status, a.body)
		}
	}
	dropTables(t, path)
	c := fresh()
	for range 2 { // the second answer is a remembered one
		if a := c.do("GET", "/readyz", ""); a.StatusCode != 503 || a.body != "database failed\n" {
			t.Error(a.Status, a.body)
		}
	}
	a := c.do("GET", "/v2/a/tags/list", "")
	checkError(t, "tags", a, "UNKNOWN")
	if a.StatusCode != 500 || strings.Contains(a.body, "no such table") {
		t.Error(a.Status, a.body)
	}
	if a := c.do("GET", "/metrics", ""); a.StatusCode != 200 || !strings.Contains(a.body, `registry_http_requests_total{code="500"`) || strings.Contains(a.body, "no such table") {
		t.Error(a.Status, a.body)
	}
	if a := c.do("GET", "/livez", ""); a.StatusCode != 200 {
		t.Error(a.Status)
	}
}

// lost is a store that has lost what it took.
type lost struct{ blobs.Store }

func (lost) Open(context.Context, blobs.Name) (blobs.File, blobs.Info, error) {
	return nil, blobs.Info{}, errors.New("/secret/blobs: input/output error")
}

// Readiness tells what works: see the table of serveReady.
func TestReadiness(t *testing.T) {
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	database := dbtest.Open(t)
	with := func(store blobs.Store, readOnly bool) *client {
		reg := registry.New(registry.Config{DB: database, Blobs: store})
		return newClient(t, newServer(t, func(cfg *server.Config) { cfg.Registry, cfg.ReadOnly = reg, readOnly }))
	}
	check := func(c *client, path string, status int, body string) {
		t.Helper()
		if a := c.do("GET", path, ""); a.StatusCode != status || a.body != body {
			t.Errorf("%s: %s %q, want %d %q", path, a.Status, a.body, status, body)
		}
	}
	whole := with(store, false)
	check(whole, "/readyz", 200, "ok\n")
	check(whole, "/readyz?writes=1", 200, "ok\n")
	check(whole, "/readyz?writes=perhaps", 400, "writes may be 0 or 1\n")
	check(with(lost{store}, false), "/readyz", 200, "ok\n") // there is nothing to read
	whole.push("a", "content")
	readOnly := with(store, true)
	check(readOnly, "/readyz", 200, "degraded: read-only\n")
	check(readOnly, "/readyz?writes=1", 503, "degraded: read-only\n")
	check(with(lost{store}, false), "/readyz", 503, "blobs failed\n")
	check(with(lost{store}, true), "/readyz?writes=1", 503, "blobs failed\n")
}

func dropTables(t *testing.T, path string) {
	t.Helper()
	conn, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for {
		var name string
		err := conn.QueryRow("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").Scan(&name)
		if errors.Is(err, sql.ErrNoRows) {
			return
		}
		if err == nil {
			_, err = conn.Exec("DROP TABLE " + name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

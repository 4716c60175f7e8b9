package soak

import (
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/gc"
	"registry/server/registry"
)

// A server that collects by itself has one writer for clients and collection. It runs in the test's own process, since
// no flag of serve allows to be without a grace; the race detector, if it is on, sees it too.
func TestCollectionInsideServer(t *testing.T) {
	soak(t, 10*time.Second, 0, (*rig).startInside, func(r *rig) (collected, error) {
		report, err := gc.Collect(r.t.Context(), r.registry, gc.Options{Force: true, Untagged: true, UndoWindow: -1})
		return collected{report.Manifests, report.Blobs, report.Bytes}, err
	})
}

func (r *rig) startInside() (end func()) {
	r.t.Helper()
	read, write := io.Pipe()
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		r.watch(read, nil)
	}()
	log := slog.New(slog.NewJSONHandler(write, nil))
	ctx, stop := context.WithCancel(r.t.Context())
	must := func(err error) {
		if err != nil {
			r.t.Helper()
			r.t.Fatal(err)
		}
	}
	database, err := db.Open(ctx, db.Options{Path: r.database(), Schema: dbtest.Schema(r.t), Log: log})
	must(err)
	dir, err := blobs.OpenDir(ctx, filepath.Join(r.dir, "reg.db-blobs"), blobs.DirOptions{})
	must(err)
	r.registry = registry.New(registry.Config{DB: database, Blobs: dir, Log: log})
	s, err := server.New(server.Config{Registry: r.registry, Log: log})
	must(err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	r.conn = newConn("http://" + listener.Addr().String())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, listener) }()
	return func() {
		r.conn.http.CloseIdleConnections()
		stop()
		if err := <-done; err != nil {
			r.fail("the server ended with %v", err)
		}
		must(database.Close())
		write.Close()
		<-logged
	}
}

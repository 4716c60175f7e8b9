package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// get pulls a path and throws the answer away.
func (c *client) get(path string) {
	resp, err := c.Get(c.url + path)
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		err = errors.Join(err, resp.Body.Close())
	}
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Error(err, path)
	}
}

var sizes = []struct {
	name string
	n    int
}{{"4KiB", 4 << 10}, {"1MiB", 1 << 20}, {"64MiB", 64 << 20}}

func BenchmarkBlobPush(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			c := newClient(b, newServer(b))
			content := strings.Repeat("x", size.n)
			path := "/v2/a/blobs/uploads/?digest=" + digest.FromString(content).String()
			b.SetBytes(int64(size.n))
			for b.Loop() {
				if a := c.do("POST", path, content); a.StatusCode != 201 {
					b.Fatal(a.Status)
				}
			}
		})
	}
}

func BenchmarkBlobPull(b *testing.B) {
	for _, size := range sizes {
		b.Run(size.name, func(b *testing.B) {
			c := newClient(b, newServer(b))
			path := "/v2/a/blobs/" + c.push("a", strings.Repeat("x", size.n)).String()
			b.SetBytes(int64(size.n))
			for b.Loop() {
				c.get(path)
			}
		})
	}
}

func BenchmarkManifest(b *testing.B) {
	s := newServer(b)
	c := newClient(b, s)
	c.push("a", "0123456789")
	var n atomic.Int64
	put := func() {
		image := imageOf("0123456789", fmt.Sprintf(`,"annotations":{"n":"%d"}`, n.Add(1)))
		if a := c.do("PUT", "/v2/a/manifests/v1", image, ociManifest); a.StatusCode != 201 {
			b.Error(a.Status, a.body)
		}
	}
	c.Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	put()
	for name, op := range map[string]func(){
		"PUT": put, "GET": func() { c.get("/v2/a/manifests/v1") }, "HEAD": func() { c.do("HEAD", "/v2/a/manifests/v1", "") },
	} {
		b.Run(name+"/1-client", func(b *testing.B) {
			for b.Loop() {
				op()
			}
		})
		b.Run(name+"/16-clients", func(b *testing.B) {
			b.SetParallelism(8) // times two processors
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					op()
				}
			})
		})
	}
}

// manyTags returns a store with n blobs and n tags of one manifest, written in large transactions.
func manyTags(b *testing.B, n int) (dbPath string, store *blobs.Dir) {
	b.Helper()
	dbPath = filepath.Join(b.TempDir(), "reg.db")
	store, err := blobs.OpenDir(b.Context(), filepath.Join(b.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		b.Fatal(err)
	}
	d := dbtest.OpenAt(b, dbPath, nil)
	reg := registry.New(registry.Config{DB: d, Blobs: store})
	err = reg.PutBlob(b.Context(), "a", digest.FromString("0123456789"), registry.Chunk{Body: strings.NewReader("0123456789"), Start: -1, Length: -1})
	if err == nil {
		_, err = reg.PutManifest(b.Context(), "a", registry.Put{Ref: registry.Reference{Tag: "latest"}, Content: []byte(imageOf("0123456789", ""))})
	}
	for i := 0; i < n && err == nil; i += 10_000 {
		err = d.Update(b.Context(), func(tx *db.Tx) error { return fill(tx, i, min(n, i+10_000)) })
	}
	if err != nil {
		b.Fatal(err)
	}
	return dbPath, store
}

func fill(tx *db.Tx, from, to int) error {
	m, err := tx.StatTaggedManifest("a", "latest")
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		d := digest.FromString(fmt.Sprint(i))
		id, _, err := tx.PutBlob(db.NewBlob{Digest: d, Size: 100, Generation: strings.Repeat("0", 32)})
		if err == nil {
			err = errors.Join(tx.LinkBlob(m.RepositoryID, id, d), tx.SetTag(m.RepositoryID, db.Tag(fmt.Sprintf("tag-%07d", i)), m.ID))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkTagPage(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dbPath, store := manyTags(b, n)
			s, err := server.New(server.Config{Registry: registry.New(registry.Config{DB: dbtest.OpenAt(b, dbPath, nil), Blobs: store})})
			if err != nil {
				b.Fatal(err)
			}
			c := newClient(b, s)
			path := fmt.Sprintf("/v2/a/tags/list?n=100&last=tag-%07d", n/2)
			for b.Loop() {
				c.get(path)
			}
		})
	}
}

// BenchmarkStart is from nothing to the first manifest, in this process.
func BenchmarkStart(b *testing.B) {
	dbPath, store := manyTags(b, 100_000)
	schema := dbtest.Schema(b)
	for b.Loop() {
		d, err := db.Open(context.Background(), db.Options{Path: dbPath, Schema: schema})
		if err != nil {
			b.Fatal(err)
		}
		reg := registry.New(registry.Config{DB: d, Blobs: store})
		err = reg.CheckPair(b.Context())
		if err == nil {
			_, err = reg.Manifest(b.Context(), "a", registry.Reference{Tag: "tag-0050000"})
		}
		if err := errors.Join(err, d.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

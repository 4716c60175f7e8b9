package blobs_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"registry/blobs"

	"github.com/opencontainers/go-digest"
)

func openDir(t testing.TB) *blobs.Dir {
	t.Helper()
	d, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// BenchmarkCommit is a small blob from nothing to durable.
func BenchmarkCommit(b *testing.B) {
	content := []byte(strings.Repeat("x", 4096))
	for _, clients := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(clients, "-clients"), func(b *testing.B) {
			d := openDir(b)
			var n atomic.Int64
			b.SetParallelism(clients)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					id := fmt.Sprintf("%032x", n.Add(1))
					stage, err := d.Stage(b.Context(), id, 0)
					if err == nil {
						_, err = stage.Write(content)
						stage.Close()
					}
					if err == nil {
						_, err = d.Commit(b.Context(), id, blobs.Name{Digest: digest.FromString(id), Generation: id}, int64(len(content)))
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkLargeCommit is the part of a 1 GiB layer's push that the client waits for after its last byte.
func BenchmarkLargeCommit(b *testing.B) {
	const size, buf = 1 << 30, 256 << 10
	content := make([]byte, buf)
	d := openDir(b)
	for i := range b.N {
		id := fmt.Sprintf("%032x", i)
		name := blobs.Name{Digest: digest.FromString(id), Generation: id}
		b.StopTimer()
		stage, err := d.Stage(b.Context(), id, 0)
		if err != nil {
			b.Fatal(err)
		}
		for range size / buf {
			if _, err := stage.Write(content); err != nil {
				b.Fatal(err)
			}
		}
		stage.Close()
		b.StartTimer()
		if _, err := d.Commit(b.Context(), id, name, size); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := d.Remove(b.Context(), name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

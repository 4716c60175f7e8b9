package registry_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"registry/db"
	"registry/server/gc"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// large fills a registry with n blobs without files, a hundred manifests a repository with ten layers each for half of
// them, and nothing for the other half.
func (f *fixture) large(n int) {
	f.t.Helper()
	const layers, manifests = 10, 100
	blob := func(i int) digest.Digest { return digest.FromString(fmt.Sprint("blob ", i)) }
	for from := 0; from < n; from += layers * manifests {
		err := f.db.Relaxed(f.t.Context(), func(tx *db.Tx) error {
			repo, err := tx.MakeRepository(db.RepoName(fmt.Sprintf("repo%04d", from/layers/manifests/2)), false)
			if err != nil {
				return err
			}
			used := from/layers/manifests%2 == 0
			for i := from; i < min(n, from+layers*manifests); i++ {
				id, _, err := tx.PutBlob(db.NewBlob{Digest: blob(i), Size: 1000, Generation: strings.Repeat("0", 32)})
				if err == nil {
					err = tx.LinkBlob(repo, id, blob(i))
				}
				if err != nil {
					return err
				}
				if !used || i%layers != layers-1 {
					continue
				}
				content := fmt.Appendf(nil, `{"manifest":%d,"filler":%q}`, i, strings.Repeat("x", 1500))
				m, _, err := tx.PutManifest(db.Manifest{RepositoryID: repo, Digest: digest.FromBytes(content), MediaType: "x", Content: content})
				var named []digest.Digest
				for l := i - layers + 1; l <= i; l++ {
					named = append(named, blob(l))
				}
				var found []db.FoundBlob
				if err == nil {
					found, err = tx.FindBlobs(repo, named)
				}
				if err == nil {
					err = tx.Hold(repo, m, db.References{Blobs: found})
				}
				if err == nil {
					err = tx.SetTag(repo, db.Tag(fmt.Sprint("v", i)), m)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// BenchmarkCollect collects half of the blobs of a registry. It reports what marking alone takes, the longest time for
// which a writer had to wait, the memory of the process, and how long a small push takes meanwhile, for five seconds, and
// before. The rest is removed without pushes.
func BenchmarkCollect(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				f := newFixture(b)
				f.pass(-1000 * time.Hour)
				f.large(n)
				f.pass(1000 * time.Hour)
				b.StartTimer()
				mark := time.Now()
				f.collect(gc.Options{Grace: 2000 * time.Hour, Untagged: true})
				b.ReportMetric(float64(time.Since(mark).Milliseconds()), "mark-ms")
				quiet := f.pushFor(time.Second)
				runtime.GC()
				var beside gc.Report
				busy := f.pushWhile(func() {
					beside = f.collect(gc.Options{Grace: time.Hour, Untagged: true, MaxDuration: 5 * time.Second})
				})
				rest := f.collect(gc.Options{Grace: time.Hour, Untagged: true})
				if beside.Blobs+rest.Blobs != int64(n/2) {
					b.Fatalf("%+v %+v", beside, rest)
				}
				if rest.Blobs > 0 {
					b.ReportMetric(float64(rest.Took.Microseconds())/float64(rest.Blobs), "sweep-us/blob")
				}
				b.ReportMetric(float64(max(beside.LongestLock, rest.LongestLock).Microseconds())/1000, "longest-lock-ms")
				b.ReportMetric(float64(residentKiB())/1024, "resident-MiB")
				b.ReportMetric(quiet, "push-p99-before-ms")
				b.ReportMetric(busy, "push-p99-during-ms")
			}
		})
	}
}

func (f *fixture) pushFor(d time.Duration) float64 { return f.pushWhile(func() { time.Sleep(d) }) }

// pushWhile pushes small blobs, one after the other, while work runs, and returns the 99th percentile in milliseconds.
func (f *fixture) pushWhile(work func()) float64 {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan []time.Duration)
	go func() {
		var took []time.Duration
		for i := 0; ctx.Err() == nil; i++ {
			content := fmt.Sprint("push ", time.Now().UnixNano(), i)
			start := time.Now()
			if err := f.PutBlob(context.Background(), "pushed", digest.FromString(content), chunk(content)); err != nil {
				f.t.Error(err)
			}
			took = append(took, time.Since(start))
			time.Sleep(time.Millisecond)
		}
		done <- took
	}()
	work()
	stop()
	took := <-done
	slices.Sort(took)
	return float64(took[len(took)*99/100].Microseconds()) / 1000
}

func residentKiB() (n int) {
	text, _ := os.ReadFile("/proc/self/status")
	if _, rest, ok := strings.Cut(string(text), "VmRSS:"); ok {
		fmt.Sscan(rest, &n)
	}
	return n
}

// BenchmarkUsage is what du asks.
func BenchmarkUsage(b *testing.B) {
	f := newFixture(b)
	f.large(1_000_000)
	for name, ask := range map[string]func() error{
		"repositories": func() error { _, _, err := f.RepositoryUsages(b.Context(), registry.Page{Limit: 1000}); return err },
		"repository":   func() error { _, err := f.RepositoryUsage(b.Context(), "repo0001"); return err },
		"total":        func() error { _, err := f.TotalUsage(b.Context()); return err },
		"tags":         func() error { _, _, err := f.TagUsages(b.Context(), "repo0001", registry.Page{Limit: 100}); return err },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := ask(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

//go:build linux

package faults

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sequence are the operations of which every system call fails once. Each works on an image that was pushed before it.
var sequence = []struct {
	name string
	run  func(p *pusher, before image, fresh string) error
}{
	{"push", func(p *pusher, _ image, fresh string) error { return p.single(fresh) }},
	{"push in chunks", func(p *pusher, _ image, fresh string) error { return p.chunked(fresh) }},
	{"replace", func(p *pusher, before image, _ string) error { return p.single(before.layer) }},
	{"cancel", func(p *pusher, _ image, fresh string) error { return p.cancelled(fresh) }},
	{"mount", func(p *pusher, before image, _ string) error { return p.mount(before.layer) }},
	{"move a tag", func(p *pusher, before image, fresh string) error {
		return p.tag(before.tag, manifest(before.config, before.layer, before.config))
	}},
	{"delete a tag", func(p *pusher, before image, _ string) error { return p.remove(p.manifestPath(before.tag)) }},
	{"delete a manifest", func(p *pusher, before image, _ string) error {
		return p.remove(p.digestPath(manifest(before.config, before.layer)), p.manifestPath(before.tag))
	}},
	{"delete a blob", func(p *pusher, before image, _ string) error { return p.remove(p.blobPath(p.repo, before.layer)) }},
	{"ask for readiness", func(p *pusher, _ image, _ string) error {
		_, err := p.request("GET", "/readyz", nil, "")
		return err
	}},
}

// Each system call on the way of each operation fails, one after the other, until the operation has no more of them.
func TestEachCallFails(t *testing.T) {
	depth := setting(t, "FAULTS_DEPTH", 12)
	for _, kind := range []struct {
		errno   unix.Errno
		forever bool
	}{{unix.EIO, false}, {unix.ENOSPC, false}, {unix.EIO, true}, {unix.EROFS, true}} {
		t.Run(fmt.Sprintf("%s forever %v", unix.ErrnoName(kind.errno), kind.forever), func(t *testing.T) {
			t.Parallel()
			s := serveInjected(t, memory(t))
			failed, ran := 0, 0
			var all book
			for i, call := range slices.Sorted(maps.Keys(calls)) {
				var recent book
				for _, op := range sequence {
					for k := 1; k <= depth; k++ {
						ran++
						f := fault{call: call, errno: kind.errno, k: k, forever: kind.forever}
						p := &pusher{server: s, book: &book{}, repo: "a"}
						fired := p.attempt(op.name, op.run, f)
						recent.add(p.book)
						if !fired {
							break
						}
						failed++
					}
					s.alive()
				}
				// A killed server has not closed its database: the next one reads the log, with what was refused in it.
				s.end([]os.Signal{syscall.SIGKILL, syscall.SIGTERM}[i%2])
				s.start()
				s.check(&recent, "after a restart")
				all.add(&recent)
			}
			s.check(&all, "at the end")
			t.Logf("%d of %d operations met a fault, %d things acknowledged", failed, ran, all.acknowledged())
		})
	}
}

// memory returns a directory where a sync takes no time, if there can be one.
func memory(t *testing.T) string {
	if canMount(t) != nil {
		return t.TempDir()
	}
	return tmpfs(t, 500*mib, 0)
}

// serveInjected starts a server whose system calls can fail on files in dir.
func serveInjected(t *testing.T, dir string) *server {
	s := &server{t: t, db: filepath.Join(dir, "reg.db"), blobs: filepath.Join(dir, "blobs"), injector: newInjector(dir)}
	s.startOnce()
	return s
}

// attempt runs an operation during which a call fails, and then again. It says whether there was such a call.
func (p *pusher) attempt(name string, run func(*pusher, image, string) error, f fault) bool {
	p.t.Helper()
	what := name + ", " + f.String()
	size := 1000
	if f.call == "sync_file_range" {
		size = 20 << 20 // what is small is not written back before it is complete
	}
	before, fresh := randomImage("t"+rand.Text(), 1001), random(size)
	if err := p.push(before); err != nil {
		p.t.Fatalf("before %s: %v", what, err)
	}
	p.injector.arm(f)
	err := run(p, before, fresh)
	if f.call != "open" {
		p.check(&book{right: map[string][]string{p.blobPath(p.repo, before.config): {before.config}}}, what)
	}
	hits := p.injector.disarm()
	switch {
	case err == nil && f.errno == unix.ENOSPC && !f.forever && strings.HasPrefix(name, "delete"):
		// The reserve was given up, and the second try had room.
	case err == nil:
		for _, h := range hits {
			if h.mustFail() && name != "ask for readiness" {
				p.t.Errorf("%s: the answer is good although it failed: %v", what, h)
			}
		}
	case !isRefusal(err):
		p.t.Errorf("%s: %v", what, err)
	case len(hits) == 0:
		p.t.Errorf("%s: %v, and nothing has failed", what, err)
	default:
		p.checkStatus(what, err, f, hits)
	}
	p.check(p.book, what)
	if err := run(p, before, fresh); err != nil {
		p.t.Errorf("%s: again: %v", what, err)
	}
	return len(hits) > 0
}

// mustFail says whether what was answered with success rests on the call. It does not on the removal of a file that is
// not needed any more, on the database itself as opposed to its log, which will be copied into it again, and on the list
// of uploads, which the server reads now and then of its own accord.
func (h hit) mustFail() bool {
	return h.call != "unlink" && h.path != "blobs/uploads" && (h.path == "reg.db-wal" || strings.HasPrefix(h.path, "blobs/"))
}

// checkStatus sees that a full disk, and nothing else, is said to be full. SQLite forgets why a sync failed; file systems
// find out that they are full before that.
func (p *pusher) checkStatus(what string, err error, f fault, hits []hit) {
	p.t.Helper()
	var r refusal
	errors.As(err, &r)
	want := 500
	if f.errno == unix.ENOSPC && !(f.call == "fsync" && hits[0].path == "reg.db-wal") {
		want = 507
	}
	if r.status != want {
		p.t.Errorf("%s: %v, want %d; %v", what, err, want, hits)
	}
}

// Calls fail at random while clients push, several at a time: what shares a commit with a failure must not be lost.
func TestCallsFailAtRandom(t *testing.T) {
	t.Parallel()
	s := serveInjected(t, t.TempDir())
	var all book
	names := slices.Sorted(maps.Keys(calls))
	end := time.Now().Add(time.Duration(setting(t, "FAULTS_SECONDS", 4)) * time.Second)
	refused, fired := 0, 0
	for round := 0; time.Now().Before(end); round++ {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		var mu sync.Mutex
		for _, repo := range []string{"a", "b", "c", "d"} {
			p := &pusher{server: s, book: &all, repo: repo}
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					err := p.push(randomImage("v1", 1+mathrand.IntN(20_000)))
					if err != nil && !isRefusal(err) {
						t.Error(err)
						return
					}
					if err != nil {
						mu.Lock()
						refused++
						mu.Unlock()
					}
				}
			})
		}
		for range 20 {
			s.injector.arm(fault{
				call: names[mathrand.IntN(len(names))], errno: []unix.Errno{unix.EIO, unix.ENOSPC}[mathrand.IntN(2)],
				k: 1 + mathrand.IntN(20), forever: mathrand.IntN(2) == 0,
			})
			time.Sleep(time.Duration(5+mathrand.IntN(20)) * time.Millisecond)
			fired += len(s.injector.disarm())
			time.Sleep(time.Duration(mathrand.IntN(10)) * time.Millisecond)
		}
		close(stop)
		wg.Wait()
		s.check(&all, "before the end")
		s.end([]os.Signal{syscall.SIGKILL, syscall.SIGTERM}[round%2])
		s.start()
		s.check(&all, "after a restart")
		if t.Failed() {
			return
		}
	}
	t.Logf("%d calls failed, %d pushes refused, %d things acknowledged", fired, refused, all.acknowledged())
}

//go:build linux

package faults

import (
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// filler takes space that a test gives back.
type filler struct{ dir string }

func (f filler) path(i int) string { return filepath.Join(f.dir, fmt.Sprint("filler", i)) }

// take writes file i with some bytes.
func (f filler) take(t *testing.T, i, size int) {
	t.Helper()
	if err := os.WriteFile(f.path(i), make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// takeRest writes until nothing more fits, bytes or files. A file system may find some more when it has been synced.
func (f filler) takeRest(t *testing.T) {
	t.Helper()
	for i := 1; ; i++ {
		file, err := os.Create(f.path(i))
		if err == nil {
			for err == nil {
				_, err = file.Write(make([]byte, 1024))
			}
			err = errors.Join(err, file.Sync())
			file.Close()
			if info, _ := os.Stat(f.path(i)); info.Size() > 0 {
				continue
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
		return
	}
}

func (f filler) give(t *testing.T) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(f.dir, "filler*"))
	for _, path := range list {
		err = errors.Join(err, os.Remove(path))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// tmpfs mounts a file system of this many bytes, and inodes unless there are 0.
func tmpfs(t *testing.T, size, inodes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,nr_inodes=%d", size, inodes)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// ext4 makes a file system of this many bytes in a file, with more options for mkfs, and mounts it.
func ext4(t *testing.T, image string, size int, options ...string) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, int64(size))); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", append(options, "-q", "-F", image)...).CombinedOutput(); err != nil {
		t.Skipf("mkfs.ext4: %v %s", err, out)
	}
	return loop(t, image)
}

// loop mounts a file.
func loop(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("mount -o loop: %v %s", err, out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

// unmount waits for what the kernel still has to close of a server that was killed.
func unmount(t *testing.T, dir string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = unix.Unmount(dir, 0); err == nil {
			return
		}
	}
	t.Error("unmount:", err)
}

// needsMounts skips a test that cannot mount.
func needsMounts(t *testing.T) {
	t.Helper()
	if err := canMount(t); err != nil {
		t.Skip("nothing can be mounted here:", err)
	}
}

func canMount(t *testing.T) error {
	if os.Getenv(inside) == "" {
		return errors.New("only root can, in a namespace of its own")
	}
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")
	if err == nil {
		unmount(t, dir)
	}
	return err
}

const mib = 1 << 20

// A disk becomes full while clients push, and has space again later. The server runs on.
func TestFullDisk(t *testing.T) {
	needsMounts(t)
	small := func(size int) func(*testing.T) string {
		return func(t *testing.T) string { return tmpfs(t, size, 0) }
	}
	// Blocks are as large as on a large disk, or smaller.
	blocks := func(size, block int) func(*testing.T) string {
		return func(t *testing.T) string {
			return ext4(t, filepath.Join(t.TempDir(), "image"), size, "-b", fmt.Sprint(block))
		}
	}
	for _, test := range []struct {
		name   string
		small  func(*testing.T) string
		size   int  // bytes that fit, about
		db     bool // the database is on it
		blobs  bool
		inodes bool // there are few files, not few bytes
	}{
		{"tmpfs 3 MiB", small(3 * mib), 3 * mib, true, true, false},
		{"tmpfs 8 MiB", small(8 * mib), 8 * mib, true, true, false},
		{"tmpfs 30 MiB", small(30 * mib), 30 * mib, true, true, false},
		{"ext4 5 MiB", blocks(5*mib, 1024), 4 * mib, true, true, false},
		{"ext4 12 MiB", blocks(12*mib, 4096), 8 * mib, true, true, false},
		{"ext4 30 MiB", blocks(30*mib, 4096), 20 * mib, true, true, false},
		{"few inodes", func(t *testing.T) string { return tmpfs(t, 30*mib, 100+256) }, 1 * mib, true, true, true},
		{"tmpfs for the database", small(3 * mib), 3 * mib, true, false, false},
		{"ext4 for the database", blocks(5*mib, 4096), 4 * mib, true, false, false},
		{"tmpfs for the blobs", small(1 * mib), 1 * mib, false, true, false},
		{"ext4 for the blobs", blocks(3*mib, 1024), 2 * mib, false, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, large := test.small(t), t.TempDir()
			s := &server{t: t, db: filepath.Join(large, "reg.db"), blobs: filepath.Join(large, "blobs")}
			if test.db {
				s.db = filepath.Join(dir, "reg.db")
			}
			if test.blobs {
				s.blobs = filepath.Join(dir, "blobs")
			}
			s.startOnce()
			f := filler{dir}
			if test.inodes {
				for i := range 50 {
					f.take(t, 1000+i, 0)
				}
			} else {
				f.take(t, 0, test.size/2)
			}
			trouble(s, test.size/40, []int{507}, func() {
				f.takeRest(t)
				s.ready(false)
			}, func() { f.give(t) })
		})
	}
}

// Files cannot grow beyond a limit, of which the kernel tells with a signal besides.
func TestFileSizeLimit(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can lift a limit of another process")
	}
	t.Parallel()
	dir := t.TempDir()
	s := &server{t: t, db: filepath.Join(dir, "reg.db"), blobs: filepath.Join(dir, "blobs")}
	s.startOnce()
	s.limit(mib)
	// SQLite does not tell what kept it from writing.
	trouble(s, mib, []int{507, 500}, func() {}, func() { s.limit(unix.RLIM_INFINITY) })
}

// The disk of the blobs becomes read-only and writable again. That of the database cannot: it has files that are open
// for writing. What it would be like is among the calls that fail with EROFS.
func TestReadOnlyBlobs(t *testing.T) {
	needsMounts(t)
	t.Parallel()
	dir := tmpfs(t, 30*mib, 0)
	s := &server{t: t, db: filepath.Join(t.TempDir(), "reg.db"), blobs: filepath.Join(dir, "blobs")}
	s.startOnce()
	remount := func(flags uintptr) {
		t.Helper()
		var err error
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			// Not while a file is open for writing, which is most of the time.
			if err = unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err == nil {
				return
			}
		}
		t.Fatal("remount:", err)
	}
	time.AfterFunc(300*time.Millisecond, func() { remount(unix.MS_RDONLY) })
	trouble(s, 10_000, []int{500}, func() { s.ready(false) }, func() { remount(0) })
}

// trouble has clients push images until each has been refused a few times, with one of some statuses, while something
// gets in their way. makeWorse sees to it that nothing is accepted any more, and end ends it.
func trouble(s *server, size int, statuses []int, makeWorse, end func()) {
	t := s.t
	t.Helper()
	refusedWell := func(err error) bool {
		var r refusal
		return errors.As(err, &r) && slices.Contains(statuses, r.status)
	}
	all := &book{}
	var mu sync.Mutex
	var refused []image
	var pushers []*pusher
	var wg sync.WaitGroup
	for _, repo := range []string{"a", "b"} {
		p := &pusher{server: s, book: all, repo: repo}
		pushers = append(pushers, p)
		wg.Go(func() {
			for i, left := 0, 3; left > 0; i++ {
				im := randomImage(fmt.Sprint("v", i%10), size/2+mathrand.IntN(size))
				err := p.push(im)
				if err == nil {
					continue
				}
				if !refusedWell(err) {
					t.Error(err)
					return
				}
				left--
				mu.Lock()
				refused = append(refused, im)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.alive()
	if t.Failed() {
		return
	}
	before := all.acknowledged()
	s.check(all, "in trouble")
	makeWorse()
	for _, p := range pushers {
		im := randomImage("worse", 2*size)
		if err := p.push(im); !refusedWell(err) {
			t.Error("in worse trouble:", err)
		}
	}
	s.check(all, "in worse trouble")
	for _, path := range []string{"/livez", "/v2/", "/v2/_catalog"} {
		if a, err := s.request("GET", path, nil, ""); err != nil || a.status != 200 {
			t.Errorf("%s: %d %v", path, a.status, err)
		}
	}
	end()
	s.ready(true)
	for i, im := range refused {
		if err := pushers[i%2].push(im); err != nil {
			t.Error("afterwards:", err)
		}
	}
	s.check(all, "afterwards")
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		s.end(sig)
		s.start()
		s.check(all, "after "+sig.String())
	}
	t.Logf("%d things acknowledged in trouble, %d later, %d pushes refused", before, all.acknowledged()-before, len(refused))
}

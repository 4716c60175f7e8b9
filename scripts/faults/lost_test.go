//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The file system has promised space that the disk under it has not. A sync fails, and the kernel forgets the pages that
// it could not write. What is acknowledged when there is space again has to survive a power cut all the same.
func TestDiskThatLosesPages(t *testing.T) {
	needsMounts(t)
	t.Parallel()
	disk := tmpfs(t, 20*mib, 0)
	image := filepath.Join(disk, "image")
	// The journal would have the file system give up.
	dir := ext4(t, image, 64*mib, "-b", "4096", "-O", "^has_journal", "-E", "nodiscard")
	onePageAtATime(t, dir)
	s := &server{t: t, db: filepath.Join(dir, "reg.db"), blobs: filepath.Join(t.TempDir(), "blobs")}
	s.startOnce()
	p := &pusher{server: s, book: &book{}, repo: "a"}
	if err := p.push(randomImage("before", 1000)); err != nil {
		t.Fatal(err)
	}
	flush(t, dir)
	f := filler{disk}
	f.takeRest(t)
	// A part of an upload is acknowledged without a sync: its pages are among those that are lost.
	for range 20 {
		a, err := s.send("POST", "/v2/a/blobs/uploads/", nil, "", 202)
		if err == nil {
			_, err = s.send("PATCH", a.header.Get("Location"), []byte("x"), "", 202)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := p.single("refused"); !isRefusal(err) {
		t.Fatal("a push without a disk under it:", err)
	}
	f.give(t)
	for i := range 3 {
		if err := p.push(randomImage(fmt.Sprint("after", i), 1000)); err != nil {
			t.Error(err)
		}
	}
	if err := p.single("refused"); err != nil {
		t.Error(err)
	}
	// What a power cut would leave is what the file has now.
	left := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("cp", "--sparse=always", image, left).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	s.end(syscall.SIGKILL)
	s.db = filepath.Join(loop(t, left), "reg.db")
	s.start()
	s.check(p.book, "after a power cut")
	s.end(syscall.SIGKILL)
}

// flush writes what a file system holds back.
func flush(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// onePageAtATime has the kernel write no more than a page at a time to the loop device that is mounted at dir: of a longer
// write that succeeds in part the device says that it has succeeded.
func onePageAtATime(t *testing.T, dir string) {
	t.Helper()
	var st unix.Stat_t
	err := unix.Stat(dir, &st)
	if err == nil {
		queue := fmt.Sprintf("/sys/dev/block/%d:%d/queue/max_sectors_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
		err = os.WriteFile(queue, []byte("4"), 0)
	}
	if err != nil {
		t.Skip("no small writes:", err)
	}
}

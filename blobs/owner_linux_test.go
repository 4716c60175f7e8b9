package blobs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"registry/blobs"

	"golang.org/x/sys/unix"
)

const serviceUser = 65534

// asServiceUser runs fn with the rights that another user has to files. The thread ends with it.
func asServiceUser(t *testing.T, fn func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		unix.Setfsgid(serviceUser)
		unix.Setfsuid(serviceUser)
		fn()
	}()
	<-done
}

// sharedTemp is a temporary directory that every user can reach.
func sharedTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A server may write staged files and still take no blob, because root made the shards.
func TestCheckNoticesShardsOfAnotherUser(t *testing.T) {
	root := filepath.Join(sharedTemp(t), "blobs")
	d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	publishOne(t, d)
	give := func(paths ...string) {
		for _, path := range paths {
			if err := os.Chown(filepath.Join(root, path), serviceUser, serviceUser); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(what string, denied bool) {
		t.Helper()
		asServiceUser(t, func() {
			if err := d.Check(t.Context()); errors.Is(err, fs.ErrPermission) != denied || !denied && err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	if os.Geteuid() == 0 {
		give("", "uploads")
	}
	check("all shards are root's", true)
	give("sha256")
	check("a new shard could be made, but none is missing", true)
	shards, err := filepath.Glob(filepath.Join(root, "sha256", "??"))
	if err != nil || len(shards) != 256 {
		t.Fatal(len(shards), err)
	}
	for i, shard := range shards {
		if i == 77 {
			check("most shards are root's", true)
		}
		give(shard[len(root):])
	}
	check("nothing is root's", false)
	if left, _ := filepath.Glob(filepath.Join(root, "*", "check-*")); len(left) > 0 {
		t.Error("left behind:", left)
	}
}

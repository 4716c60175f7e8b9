package blobs_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
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

// What root stores in the directory of another user is of use to that user.
func TestRootGivesWhatItMakes(t *testing.T) {
	top := sharedTemp(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	if err := os.Chown(top, serviceUser, serviceUser); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(top, "new", "blobs")
	d, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := publishOne(t, d)
	if err := d.ReplaceJournal(t.Context(), func(w io.Writer) error { _, err := io.WriteString(w, "line\n"); return err }); err != nil {
		t.Fatal(err)
	}
	n := 0
	err = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Sys().(*syscall.Stat_t).Uid != serviceUser {
			t.Errorf("%s is root's", path)
		}
		n++
		return err
	})
	if err != nil || n < 256 {
		t.Error(n, err)
	}
	asServiceUser(t, func() {
		own, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
		if err == nil {
			err = errors.Join(own.Check(t.Context()), own.Remove(t.Context(), name))
		}
		if err != nil {
			t.Error(err)
		}
	})
}

// A hard link to a file that the owner cannot read would be a blob that only root can serve.
func TestRootLinksWhatTheOwnerCanRead(t *testing.T) {
	top := sharedTemp(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	from, err := blobs.OpenDir(t.Context(), filepath.Join(top, "from"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	name := publishOne(t, from)
	root := filepath.Join(top, "to")
	if err := errors.Join(os.Mkdir(root, 0o700), os.Chown(root, serviceUser, serviceUser)); err != nil {
		t.Fatal(err)
	}
	to, err := blobs.OpenDir(t.Context(), root, blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := from.Link(t.Context(), name, to); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a file that only root can read was linked: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(top, "from", "sha256", "*", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	file, err := os.Open(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := to.Adopt(t.Context(), file, name); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a file that only root can read was adopted: %v", err)
	}
	if err := os.Chmod(files[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := from.Link(t.Context(), name, to); err != nil {
		t.Error(err)
	}
}

package power

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk is a file system in a sparse file, with a power switch.
type disk struct {
	t     *testing.T
	image string
	at    string // where it is mounted
}

// mountOptions put off what a file system writes by itself after a few seconds: only what was flushed is to survive.
var mountOptions = map[string]string{"ext4": "loop,commit=300", "xfs": "loop"}

// newDisk makes a file system and mounts it until the test ends. It skips the test where that is not possible, or where
// the switch does nothing.
func newDisk(t *testing.T, kind string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system takes root")
	}
	mkfs, err := exec.LookPath("mkfs." + kind)
	if err != nil {
		t.Skip(err)
	}
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image"), at: t.TempDir()}
	err = os.WriteFile(d.image, nil, 0o600)
	if err == nil {
		err = os.Truncate(d.image, 1<<30)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", d.image).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", mkfs, err, out)
	}
	if out, err := d.mount(kind); err != nil {
		t.Skipf("mounting a file system of %s on a loop device: %v %s", kind, err, out)
	}
	t.Cleanup(d.unmount)
	d.trySwitch(kind)
	return d
}

func (d *disk) mount(kind string) ([]byte, error) {
	return exec.Command("mount", "-t", kind, "-o", mountOptions[kind], d.image, d.at).CombinedOutput()
}

// unmount also frees the loop device, which mount made for this one use. A process that another test is just starting
// has our open files for a moment, so it tries for a while.
func (d *disk) unmount() {
	d.t.Helper()
	var out []byte
	err := errors.New("not tried")
	for end := time.Now().Add(5 * time.Second); err != nil && time.Now().Before(end); {
		if out, err = exec.Command("umount", d.at).CombinedOutput(); err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
	if err != nil {
		d.t.Fatalf("umount: %v %s", err, out)
	}
}

// remount is what a machine does when the power is back.
func (d *disk) remount(kind string) {
	d.t.Helper()
	d.unmount()
	if out, err := d.mount(kind); err != nil {
		d.t.Fatalf("%s after a power cut: %v %s", kind, err, out)
	}
}

// cut stops the file system at once: what it has not yet sent to the disk never gets there, every later write or flush
// fails. It is EXT4_IOC_SHUTDOWN, which is XFS_IOC_GOINGDOWN, and says not to flush the journal first. What the file
// system has sent counts as written: a disk's own cache, and whether the file system flushes that, are not looked at.
func (d *disk) cut() error {
	const shutdown, noLogFlush = 0x8004587d, 2 // _IOR('X', 125, __u32)
	f, err := os.Open(d.at)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), shutdown, noLogFlush), f.Close())
}

// trySwitch makes sure that a cut takes what was not flushed, and nothing else.
func (d *disk) trySwitch(kind string) {
	d.t.Helper()
	flushed, written := filepath.Join(d.at, "flushed"), filepath.Join(d.at, "written")
	err := errors.Join(os.Mkdir(flushed, 0o700), syncPath(d.at), os.Mkdir(written, 0o700))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.cut(); err != nil {
		d.t.Skipf("no power switch for %s: %v", kind, err)
	}
	d.remount(kind)
	if _, err := os.Stat(flushed); err != nil {
		d.t.Fatal("the cut took what was flushed:", err)
	}
	if _, err := os.Stat(written); !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal("the cut left what was not flushed:", err)
	}
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

package cli

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal makes a pseudo terminal and returns both of its ends.
func terminal(t *testing.T) (near, far *os.File) {
	t.Helper()
	near, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals:", err)
	}
	t.Cleanup(func() { near.Close() })
	n, err := unix.IoctlGetInt(int(near.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(near.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		far, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skip("no terminals:", err)
	}
	return near, far
}

// A server that was started from a terminal ends in good order when that is gone, unless nohup started it.
func TestTerminalGone(t *testing.T) {
	// What this process ignores, because nohup started it, its children would ignore.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	for _, nohup := range []bool{false, true} {
		near, far := terminal(t)
		dir := t.TempDir()
		p := &process{log: filepath.Join(dir, "log"), exited: make(chan struct{})}
		script := `exec registry serve --port 0`
		if nohup {
			script = `trap "" HUP; ` + script
		}
		p.Cmd = exec.Command("sh", "-c", script)
		p.Stdin, p.SysProcAttr = far, &syscall.SysProcAttr{Setsid: true, Setctty: true}
		if err := p.start(dir, os.Environ()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		far.Close()
		if _, err := p.address(); err != nil {
			t.Fatal(err)
		}
		near.Close()
		if nohup {
			if _, err := p.await("settings reloaded"); err != nil {
				t.Error(err)
			}
			p.Process.Signal(syscall.SIGTERM)
		}
		if code, err := p.wait(); err != nil || code != 0 {
			t.Errorf("nohup %v: exit code %d, %v; log:\n%s", nohup, code, err, p.everything())
		}
		if p.logged("stopping") == "" {
			t.Errorf("nohup %v: it did not say that it stops:\n%s", nohup, p.everything())
		}
	}
}

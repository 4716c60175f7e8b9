//go:build unix

package cli

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// server starts a server in a directory of its own and returns when it serves.
func server(t *testing.T, env []string, args ...string) (p *process, url string) {
	t.Helper()
	dir := t.TempDir()
	p, err := launch(dir, append(os.Environ(), env...), filepath.Join(dir, "log"), "", append([]string{"--port", "0"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	addr, err := p.address()
	if err != nil {
		t.Fatal(err)
	}
	return p, "http://" + addr
}

// slowUpload is a PATCH whose body comes when the test says so.
type slowUpload struct {
	body   *io.PipeWriter
	status chan string
}

// startSlowUpload returns when the server has taken the first bytes.
func startSlowUpload(t *testing.T, url string) *slowUpload {
	t.Helper()
	answer, err := http.Post(url+"/v2/slow/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	r, w := io.Pipe()
	u := &slowUpload{body: w, status: make(chan string, 1)}
	req, err := http.NewRequest(http.MethodPatch, url+answer.Header.Get("Location"), r)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			u.status <- err.Error()
			return
		}
		answer.Body.Close()
		u.status <- answer.Status
	}()
	u.write(t, "first")
	return u
}

func (u *slowUpload) write(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(u.body, s); err != nil {
		t.Fatal(err)
	}
}

// A request under way when SIGTERM comes is answered, nothing new is taken, and the process ends well.
func TestGracefulStop(t *testing.T) {
	p, url := server(t, nil)
	upload := startSlowUpload(t, url)
	time.Sleep(100 * time.Millisecond) // the first bytes are with the handler, not only in a socket
	p.Process.Signal(syscall.SIGTERM)
	if _, err := p.await("stopping"); err != nil {
		t.Fatal(err)
	}
	upload.write(t, "second")
	upload.body.Close()
	if got := <-upload.status; got != "202 Accepted" {
		t.Errorf("the upload under way ended with %q", got)
	}
	if code, err := p.wait(); err != nil || code != 0 {
		t.Errorf("exit code %d, %v; log:\n%s", code, err, p.everything())
	}
	if _, err := http.Get(url + "/v2/"); err == nil {
		t.Error("a request after the stop was answered")
	}
}

// A second signal does not wait for requests under way.
func TestSecondSignal(t *testing.T) {
	for _, second := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		p, url := server(t, nil)
		startSlowUpload(t, url)
		time.Sleep(100 * time.Millisecond)
		p.Process.Signal(syscall.SIGTERM)
		if _, err := p.await("stopping"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.exited:
			t.Fatal("ended while a request was under way")
		case <-time.After(100 * time.Millisecond):
		}
		start := time.Now()
		p.Process.Signal(second)
		if code, err := p.wait(); err != nil || code != 1 {
			t.Errorf("%v: exit code %d, %v", second, code, err)
		}
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%v: ended after %v", second, took)
		}
	}
}

// When the time to drain is over the server cuts what is left, and says by its exit code nothing of it.
func TestDrainTimeout(t *testing.T) {
	p, url := server(t, nil, "--drain-timeout", "200ms")
	startSlowUpload(t, url)
	time.Sleep(100 * time.Millisecond)
	p.Process.Signal(syscall.SIGTERM)
	if code, err := p.wait(); err != nil || code != 0 {
		t.Errorf("exit code %d, %v; log:\n%s", code, err, p.everything())
	}
}

// systemd learns when the server is ready and when it stops.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	p, _ := server(t, []string{"NOTIFY_SOCKET=" + path})
	heard := func() string {
		buf := make([]byte, 100)
		socket.SetReadDeadline(time.Now().Add(patience))
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	if got := heard(); got != "READY=1" {
		t.Errorf("first heard %q", got)
	}
	p.Process.Signal(syscall.SIGTERM)
	if got := heard(); got != "STOPPING=1" {
		t.Errorf("then heard %q", got)
	}
}

// activate runs serve the way systemd does for a socket unit: the listening socket is descriptor 3.
func activate(t *testing.T, listen string, args ...string) *process {
	t.Helper()
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	dir := t.TempDir()
	p := &process{log: filepath.Join(dir, "log"), exited: make(chan struct{})}
	p.Cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec registry serve "$@"`, "sh"}, args...)...)
	p.ExtraFiles = []*os.File{socket}
	if err := p.start(dir, os.Environ()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

func TestSocketActivation(t *testing.T) {
	p := activate(t, "127.0.0.1:0")
	addr, err := p.address()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get("http://" + addr + "/v2/")
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", answer, err)
	}
	answer.Body.Close()
	if strings.HasSuffix(addr, ":5000") {
		t.Errorf("listens on %s, not on the socket it was given", addr)
	}
}

// A socket that is open to the network is refused like an address that is.
func TestSocketActivationRefusesNetwork(t *testing.T) {
	p := activate(t, "0.0.0.0:0")
	if code, err := p.wait(); err != nil || code != 2 {
		t.Errorf("exit code %d, %v; log:\n%s", code, err, p.everything())
	}
}

//go:build linux

// Package faults gives a real server full disks, read-only disks and system calls that fail, and looks at what it does:
// it answers with a clean error, serves what it has, loses nothing that it had acknowledged, and takes pushes again
// when the trouble ends, without a restart. What mounts disks needs root and is skipped without.
//
// FAULTS_DEPTH (12) bounds which call of a request fails, FAULTS_SECONDS (4) how long clients push while calls fail at
// random.
package faults

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"golang.org/x/sys/unix"
)

// binary is the server's program, built once.
var binary string

// inside is set for tests in a mount namespace of their own.
const inside = "FAULTS_NAMESPACE"

// TestMain runs the tests in a mount namespace of their own if it may: whatever they mount is gone when they end, even
// if they are killed. The same program also starts servers whose system calls fail (see launch).
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(launching) != "":
		launch()
	case os.Getuid() == 0 && os.Getenv(inside) == "":
		// The kernel ends the child when the thread ends that has started it.
		runtime.LockOSThread()
		cmd := exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		if cmd.ProcessState == nil {
			// A container may have root but not its rights. Then the tests that mount are skipped.
			fmt.Fprintln(os.Stderr, "no mount namespace:", err)
			os.Exit(run(m))
		}
		os.Exit(cmd.ProcessState.ExitCode())
	default:
		os.Exit(run(m))
	}
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "registry")
	if out, err := exec.Command("go", "build", "-o", binary, "registry").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v %s", err, out)
		return 1
	}
	return m.Run()
}

func setting(t *testing.T, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// server is a process that serves a database and a directory of blobs, and others after it that serve the same.
type server struct {
	t         *testing.T
	db, blobs string
	injector  *injector // nil: nobody looks at its system calls
	url       string
	cmd       *exec.Cmd
	ended     chan struct{}

	mu  sync.Mutex
	log []string
}

// start runs a process and returns when it answers.
func (s *server) start() {
	s.t.Helper()
	args := []string{binary, "serve", "--db", s.db, "--blobs", s.blobs, "--addr", "127.0.0.1:0", "--log-format", "json", "--journal-interval", "1h"}
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.injector != nil {
		s.injector.wrap(s.t, s.cmd)
	}
	stderr, err := s.cmd.StderrPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.ended = make(chan struct{})
	if s.injector != nil {
		s.injector.attach(s)
	}
	urls := make(chan string, 1)
	go s.read(stderr, urls)
	s.url = <-urls
	if s.url == "" {
		s.t.Fatalf("the server did not start: %s", s.logged())
	}
}

// read keeps what the server logs, and sends on the address it listens at, or "" if it ends before it has one.
func (s *server) read(stderr io.Reader, urls chan<- string) {
	cmd, ended := s.cmd, s.ended
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ URL string }
		json.Unmarshal(lines.Bytes(), &line)
		if line.URL != "" {
			urls <- line.URL
		}
		if !strings.Contains(lines.Text(), `"level":"INFO"`) {
			s.mu.Lock()
			s.log = append(s.log, lines.Text())
			s.mu.Unlock()
		}
	}
	cmd.Wait()
	close(ended)
	close(urls)
}

// logged returns the end of what was not said at level INFO.
func (s *server) logged() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.log[max(0, len(s.log)-20):], "\n")
}

// alive fails the test if the process has ended by itself.
func (s *server) alive() {
	s.t.Helper()
	select {
	case <-s.ended:
		s.t.Fatalf("the server has ended: %s", s.logged())
	default:
	}
}

// end sends a signal and waits for the process. What it has logged must not tell of a panic.
func (s *server) end(sig os.Signal) {
	s.t.Helper()
	s.alive()
	s.cmd.Process.Signal(sig)
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.t.Errorf("the server does not end: %s", s.logged())
		s.cmd.Process.Kill()
		<-s.ended
	}
	if strings.Contains(s.logged(), "panic") {
		s.t.Errorf("a panic: %s", s.logged())
	}
}

// startOnce starts the first server and ends the last one when the test ends.
func (s *server) startOnce() {
	s.t.Helper()
	s.start()
	s.t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
	})
}

var (
	// writing gives every request its own connection, so that none is tried again behind our back. It keeps that to
	// itself: a client that says Connection: close may lose the answer that comes before the end of its body.
	writing = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: -1}, Timeout: time.Minute}
	reading = &http.Client{Timeout: time.Minute}
)

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (s *server) request(method, path string, body []byte, mediaType string) (answer, error) {
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	client := writing
	if method == http.MethodGet {
		client = reading
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, content}, err
}

// refusal is an answer that is an error of the server's own, in the form it should have.
type refusal struct {
	request string
	status  int
}

func (r refusal) Error() string { return fmt.Sprintf("%s: %d", r.request, r.status) }

// send expects one of some statuses. The error is a refusal if the server says in good form that it cannot; anything
// else is another error, with which nobody should have to live.
func (s *server) send(method, path string, body []byte, mediaType string, want ...int) (answer, error) {
	a, err := s.request(method, path, body, mediaType)
	request := method + " " + path
	if err != nil {
		return a, fmt.Errorf("%s: no answer: %w", request, err)
	}
	for _, status := range want {
		if a.status == status {
			return a, nil
		}
	}
	if err := s.wellFormed(a); err != nil {
		return a, fmt.Errorf("%s: %w", request, err)
	}
	return a, refusal{request, a.status}
}

// wellFormed says what is wrong with an answer that tells of trouble on the server's side.
func (s *server) wellFormed(a answer) error {
	var form struct {
		Errors []struct{ Code, Message string }
	}
	bad := func(what string) error { return fmt.Errorf("%s: %d %v %s", what, a.status, a.header, a.body) }
	code := map[int]string{http.StatusInternalServerError: "UNKNOWN", http.StatusInsufficientStorage: "STORAGE_FULL"}[a.status]
	switch {
	case code == "":
		return bad("neither done nor a clean error")
	case a.header.Get("Content-Type") != "application/json" || json.Unmarshal(a.body, &form) != nil || len(form.Errors) != 1:
		return bad("not the form of an error")
	case form.Errors[0].Code != code || form.Errors[0].Message == "":
		return bad("another code or no message")
	case bytes.ContainsAny(a.body, "/") || strings.Contains(strings.ToLower(string(a.body)), "sqlite"):
		return bad("it tells what is nobody's business")
	}
	return nil
}

// isRefusal says whether err is a clean error.
func isRefusal(err error) bool {
	var r refusal
	return errors.As(err, &r)
}

// ready waits until /readyz says that pushes work, or that they do not: the answer is a second old at most.
func (s *server) ready(want bool) {
	s.t.Helper()
	status := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[want]
	var a answer
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if a, err = s.request("GET", "/readyz?writes=1", nil, ""); err == nil && a.status == status {
			return
		}
	}
	s.t.Errorf("/readyz?writes=1: %d %s, want %d; %v", a.status, a.body, status, err)
}

// limit sets the largest file the process may write.
func (s *server) limit(bytes uint64) {
	s.t.Helper()
	l := unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(s.cmd.Process.Pid, unix.RLIMIT_FSIZE, &l, nil); err != nil {
		s.t.Fatal(err)
	}
}

//go:build linux

package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	ownName  = "registry"
	patience = 2 * time.Minute // for a server to start or stop
)

// target is a server that can be measured. In the words of its command, and in its file, {addr}, {host}, {port}, {data}
// (a fresh directory) and {config} (the path of the file) stand for what they are called.
type target struct {
	name    string
	command []string
	config  string
}

// Access logs are off everywhere, deletes are on, and nothing else is changed, but that distribution sends no traces.
const distributionConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: "{data}"}
  cache: {blobdescriptor: inmemory}
  delete: {enabled: true}
http: {addr: "{addr}"}
`

var (
	ownFlags  = []string{"serve", "--db", "{data}/reg.db", "--blobs", "{data}/blobs", "--addr", "{addr}", "--log-level", "warn"}
	peerFlags = map[string][]string{
		"distribution": {"serve", "{config}"},
		"olareg":       {"serve", "--addr", "{host}", "--port", "{port}", "--dir", "{data}", "--api-delete", "--api-blob-delete"},
	}
)

// build makes this registry's program from the clone around the working directory.
func build(ctx context.Context, dir string) (target, error) {
	t := target{name: ownName, command: append([]string{filepath.Join(dir, "registry")}, ownFlags...)}
	out, err := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", t.command[0], "registry").CombinedOutput()
	if err != nil {
		return t, fmt.Errorf("building the registry (run this inside its clone): %w: %s", err, out)
	}
	return t, nil
}

// findPeers returns the known peers that are installed, and those that were given as NAME=COMMAND. A known peer's command
// may be the program alone.
func findPeers(given []string, missing func(name string)) (list []target, err error) {
	commands := map[string]string{}
	names := []string{"distribution", "olareg"}
	for _, g := range given {
		name, command, ok := strings.Cut(g, "=")
		if !ok || name == "" || command == "" || name == ownName || strings.HasPrefix(name, "limit") {
			return nil, fmt.Errorf("-peer %s: want NAME=COMMAND, with a name of its own", g)
		}
		if commands[name] = command; !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		t := target{name: name, command: strings.Fields(commands[name])}
		if len(t.command) == 0 {
			if _, err := exec.LookPath(name); err != nil {
				missing(name)
				continue
			}
			t.command = []string{name}
		}
		if len(t.command) == 1 {
			t.command = append(t.command, peerFlags[name]...)
		}
		if name == "distribution" {
			t.config = distributionConfig
		}
		if t.command[0], err = exec.LookPath(t.command[0]); err != nil {
			return nil, fmt.Errorf("-peer %s: %w", name, err)
		}
		list = append(list, t)
	}
	return list, nil
}

// limits are this program in another role, without and with fsync.
func limits() ([]target, error) {
	self, err := os.Executable()
	return []target{
		{name: "limit", command: []string{self, "-limit", "{addr}", "{data}", "false"}},
		{name: "limit-fsync", command: []string{self, "-limit", "{addr}", "{data}", "true"}},
	}, err
}

// version is what a Go program says that it was built from.
func (t target) version() string {
	info, err := buildinfo.ReadFile(t.command[0])
	if err != nil || info.Main.Version == "" || strings.HasPrefix(t.name, "limit") {
		return ""
	}
	return info.Main.Version
}

// server is a running target. It and all that it started are one process group.
type server struct {
	cmd    *exec.Cmd
	pid    int // of the server itself
	url    string
	data   string
	exited chan struct{}
	log    *bytes.Buffer // to be read after exited
}

// launch starts a target on a free port, below a command such as strace if there is one. It has a clean environment: some
// of its variables would be settings of the target.
func (t target) launch(data, config string, below ...string) (*server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := ln.Addr().String()
	host, port, _ := net.SplitHostPort(addr)
	if err := ln.Close(); err != nil {
		return nil, err
	}
	fill := strings.NewReplacer("{addr}", addr, "{host}", host, "{port}", port, "{data}", data, "{config}", config)
	if err := errors.Join(os.MkdirAll(data, 0o700), os.WriteFile(config, []byte(fill.Replace(t.config)), 0o600)); err != nil {
		return nil, err
	}
	words := below
	for _, w := range t.command {
		words = append(words, fill.Replace(w))
	}
	s := &server{cmd: exec.Command(words[0], words[1:]...), url: "http://" + addr, data: data, exited: make(chan struct{}), log: &bytes.Buffer{}}
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + data, "TMPDIR=" + filepath.Dir(config), "OTEL_TRACES_EXPORTER=none"}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	s.pid = s.cmd.Process.Pid
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	return s, nil
}

// until asks until the server gives the answer.
func (s *server) until(ask func() error) error {
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-s.exited:
			return fmt.Errorf("the server has ended: %s: %.1000s", s.cmd.ProcessState, s.log)
		default:
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the server does not answer: %w", err)
		}
	}
}

func (s *server) signal(sig syscall.Signal) {
	select {
	case <-s.exited: // its id may be somebody else's by now
	default:
		syscall.Kill(-s.cmd.Process.Pid, sig)
	}
}

func (s *server) kill() {
	s.signal(syscall.SIGKILL)
	<-s.exited
}

func (s *server) stop() {
	s.signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.kill()
	}
}

// cpu is the processor time that the server and its ended children took.
func (s *server) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		return 0, err
	}
	const userTime, ticks = 11, 4 // fields after the name, which is in parentheses and may contain anything
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var sum time.Duration
	for _, f := range fields[userTime : userTime+ticks] {
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100 on Linux
	}
	return sum, nil
}

// memory reads VmRSS or VmHWM in MiB.
func (s *server) memory(field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		return 0, err
	}
	var kib float64
	_, rest, _ := strings.Cut(string(text), field+":")
	_, err = fmt.Sscan(rest, &kib)
	return kib / 1024, err
}

// forgetPeak begins VmHWM anew.
func (s *server) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid), []byte("5"), 0)
}

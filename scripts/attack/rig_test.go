//go:build linux

// Package attack lets clients that mean harm at a server while an honest one works beside them. What must hold: the honest
// client is served, every attacker is answered as their requests deserve and never with a server's error, and the server's
// memory stays bounded.
//
//	ATTACK_TIME=1m   how long each attack lasts; the honest client works as long alone before it (1s)
//	ATTACK_SCALE=8   how many times the things that an attack needs are made (1)
//
// The honest client's times are printed and not judged: the machine may be doing something else.
package attack

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"github.com/opencontainers/go-digest"
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "attack")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "registry")
		if out, err := exec.Command("go", "build", "-o", binary, "registry").CombinedOutput(); err != nil {
			panic(string(out))
		}
		return m.Run()
	}())
}

func duration(t *testing.T) time.Duration {
	d, err := time.ParseDuration(or(os.Getenv("ATTACK_TIME"), "1s"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func scale(t *testing.T) int {
	n, err := strconv.Atoi(or(os.Getenv("ATTACK_SCALE"), "1"))
	if err != nil || n < 1 {
		t.Fatalf("ATTACK_SCALE=%s", os.Getenv("ATTACK_SCALE"))
	}
	return n
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// target is a server with users: admin, alice, who is honest, and mallory.
type target struct {
	t       *testing.T
	origin  string
	process *exec.Cmd
	mu      sync.Mutex
	wrong   []string      // answers that nobody may get
	count   map[int]int   // answers to attackers, by status
	answer  chan struct{} // one is put into it by each answer, if it is empty
}

// start serves a new registry with more flags.
func start(t *testing.T, flags ...string) *target {
	t.Helper()
	database := filepath.Join(t.TempDir(), "reg.db")
	for _, user := range []string{"admin", "alice", "mallory"} {
		add := exec.Command(binary, "user", "add", user, "--password-stdin", "--db", database)
		if user == "admin" {
			add.Args = append(add.Args, "--admin")
		}
		add.Stdin = strings.NewReader(password(user))
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	s := &target{t: t, count: map[int]int{}, answer: make(chan struct{}, 1)}
	s.process = exec.Command(binary, append([]string{"serve", "--db", database, "--addr", "127.0.0.1:0", "--auth", "token",
		"--trusted-proxies", "127.0.0.1", "--log-format", "text"}, flags...)...)
	log, err := s.process.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if _, after, ok := strings.Cut(lines.Text(), "msg=serving url="); ok {
				address <- strings.Fields(after)[0]
			}
		}
		close(address)
	}()
	t.Cleanup(func() {
		s.process.Process.Signal(syscall.SIGTERM)
		if err := s.process.Wait(); err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	if s.origin = <-address; s.origin == "" {
		t.Fatal("the server did not start")
	}
	return s
}

func password(user string) string { return "the password of " + user }

// client is somebody with an address of their own, which the server believes because its peer is a trusted proxy.
type client struct {
	*target
	http    *http.Client
	user    string // "" for anonymous
	address string
}

func (s *target) client(user, address string) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &client{s, &http.Client{Transport: transport, Timeout: time.Minute}, user, address}
}

// do sends a request and returns the status, the header and the body; status 0 if there was no answer.
func (c *client) do(ctx context.Context, method, path, body string, headers ...string) (int, http.Header, []byte) {
	r, err := http.NewRequestWithContext(ctx, method, c.origin+path, strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return 0, nil, nil
	}
	r.Header.Set("X-Forwarded-For", c.address)
	// A connection that waits may be closed to make room for another while a request is on its way: the client then sends
	// it again by a new one. The empty value says so to net/http, and is not sent.
	r.Header["Idempotency-Key"] = nil
	if c.user != "" {
		r.SetBasicAuth(c.user, password(c.user))
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, nil, nil
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, nil
	}
	return resp.StatusCode, resp.Header, content
}

// attack is do by somebody whose requests must not be answered with a server's error; 503 asks them to come again.
func (c *client) attack(ctx context.Context, method, path, body string, headers ...string) (int, []byte) {
	status, header, content := c.do(ctx, method, path, body, headers...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[status]++
	if status != 0 {
		select {
		case c.answer <- struct{}{}:
		default:
		}
	}
	if status >= 500 && !(status == 503 && header.Get("Retry-After") != "") {
		c.wrong = append(c.wrong, fmt.Sprintf("%s %.80s: %d %.200s", method, path, status, content))
	}
	return status, content
}

func (c *client) pushBlob(ctx context.Context, repo, content string) error {
	d := digest.FromString(content)
	if status, _, body := c.do(ctx, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), content); status != 201 {
		return fmt.Errorf("pushing a blob: %d %.200s", status, body)
	}
	return nil
}

const ociManifest = "application/vnd.oci.image.manifest.v1+json"

func descriptor(mediaType, content string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digest.FromString(content), len(content))
}

func manifest(config, more string) string {
	c := descriptor("application/vnd.oci.image.config.v1+json", config)
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]%s}`, ociManifest, c, c, more)
}

// works is a push and a pull of an image by the honest client.
func (c *client) works(ctx context.Context, n int) error {
	repo, config := "alice/app", fmt.Sprint("config ", n)
	if err := c.pushBlob(ctx, repo, config); err != nil {
		return err
	}
	image := manifest(config, "")
	if status, _, body := c.do(ctx, "PUT", "/v2/"+repo+"/manifests/latest", image, "Content-Type: "+ociManifest); status != 201 {
		return fmt.Errorf("pushing a manifest: %d %.200s", status, body)
	}
	if status, _, body := c.do(ctx, "GET", "/v2/"+repo+"/manifests/latest", ""); status != 200 || string(body) != image {
		return fmt.Errorf("pulling a manifest: %d %.200s", status, body)
	}
	path := "/v2/" + repo + "/blobs/" + digest.FromString(config).String()
	if status, _, body := c.do(ctx, "GET", path, ""); status != 200 || string(body) != config {
		return fmt.Errorf("pulling a blob: %d %.200s", status, body)
	}
	return nil
}

// keepWorking lets the honest client work until ctx ends, and returns how long each round took.
func (c *client) keepWorking(ctx context.Context) (took []time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		start := time.Now()
		err := c.works(context.WithoutCancel(ctx), n)
		if err != nil {
			c.t.Errorf("the honest client: %v", err)
			return took
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	return took
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(100 * time.Microsecond)
}

// peak returns the most memory that the server had resident since forgetPeak, in bytes.
func (s *target) peak() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		var kib int64
		if n, _ := fmt.Sscanf(string(line), "VmHWM: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	s.t.Fatal("no VmHWM")
	return 0
}

func (s *target) forgetPeak() {
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.process.Process.Pid), []byte("5"), 0); err != nil {
		s.t.Fatal(err)
	}
}

// withstand lets the honest client work alone and then beside the attackers, each of which is called over and over, and
// checks what must hold. requests is how many of theirs are under way at a time.
func (s *target) withstand(requests int, attack func(ctx context.Context, i int)) {
	s.t.Helper()
	honest := s.client("alice", "192.0.2.1")
	if err := honest.works(s.t.Context(), -1); err != nil {
		s.t.Fatal(err)
	}
	quiet, stop := context.WithTimeout(s.t.Context(), duration(s.t))
	before := honest.keepWorking(quiet)
	stop()
	s.forgetPeak()
	clear(s.count)
	select {
	case <-s.answer: // to what prepared the attack
	default:
	}
	ctx, stop := context.WithTimeout(s.t.Context(), time.Minute)
	defer stop()
	// A slow machine may need longer for the first answer than the attack is to last.
	go func() {
		select {
		case <-time.After(duration(s.t)):
		case <-ctx.Done():
		}
		select {
		case <-s.answer:
		case <-ctx.Done():
		}
		stop()
	}()
	var attackers sync.WaitGroup
	for i := range requests {
		attackers.Go(func() {
			for ctx.Err() == nil {
				attack(ctx, i)
			}
		})
	}
	during := honest.keepWorking(ctx)
	attackers.Wait()
	s.t.Logf("honest: %d rounds, 50%% %s, 99%% %s alone; %d rounds, 50%% %s, 99%% %s beside; attackers' answers %v; peak %d MiB",
		len(before), quantile(before, .5), quantile(before, .99), len(during), quantile(during, .5), quantile(during, .99), s.count, s.peak()>>20)
	if len(during) == 0 {
		s.t.Error("the honest client did nothing beside the attackers")
	}
	answered := 0
	for status, n := range s.count {
		if status != 0 {
			answered += n
		}
	}
	if answered == 0 {
		s.t.Error("no attacker was answered")
	}
	for _, w := range s.wrong[:min(len(s.wrong), 5)] {
		s.t.Errorf("an attacker was answered with %s", w)
	}
	if bound := int64(256+requests) << 20; s.peak() > bound {
		s.t.Errorf("the server had %d MiB, want at most %d", s.peak()>>20, bound>>20)
	}
}

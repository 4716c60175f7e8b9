// Package soak runs the collector back to back beside a server that clients push to, mount, tag,
// delete and pull from, and looks all the time at what must be there.
//
//	SOAK_TIME=5m            how long each test takes
//	SOAK_DIR=DIRECTORY      keep database and blobs there, in a new directory for each test
//	SOAK_SERVE=FLAGS        more flags for serve, such as those that make it collect by itself
//	SOAK_GC_COMMAND=WORDS   run this in the shell instead of registry gc, with the database as $SOAK_DB
package soak

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed
	"registry/server/registry"
)

func TestCollectionLeavesLiveImagesAlone(t *testing.T) {
	soak(t, 20*time.Second, 0, (*rig).start, (*rig).command)
}

// With a grace no push fails that takes less time.
func TestGraceProtectsPushes(t *testing.T) {
	soak(t, 10*time.Second, 2*time.Second, (*rig).start, (*rig).command)
}

func TestKilledCollectionHarmsNothing(t *testing.T) {
	soak(t, 10*time.Second, 0, (*rig).start, (*rig).roughly)
}

func soak(t *testing.T, duration, grace time.Duration, start func(*rig) (end func()), collect func(*rig) (collected, error)) {
	if s := os.Getenv("SOAK_TIME"); s != "" {
		var err error
		if duration, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	if s := os.Getenv("SOAK_DIR"); s != "" {
		dir = filepath.Join(s, t.Name())
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, dir)
	r.grace = grace
	r.loose = os.Getenv("SOAK_GC_COMMAND") != ""
	r.run(duration, func() func() { return start(r) }, func() (collected, error) { return collect(r) })
	r.report()
	if r.figures["collector: cycles"] == 0 || r.figures["live manifests pulled whole"] == 0 {
		t.Error("nothing was proved")
	}
	if !r.loose && (r.figures["collector: blobs"] == 0 || r.figures["collector: manifests"] == 0) {
		t.Error("nothing was collected")
	}
}

// build makes the program, once for all tests.
var builds struct {
	sync.Once
	path string
	err  error
}

func build(t *testing.T) string {
	builds.Do(func() {
		var dir string
		if dir, builds.err = os.MkdirTemp("", "soak"); builds.err != nil {
			return
		}
		builds.path = filepath.Join(dir, "registry")
		if out, err := exec.Command("go", "build", "-o", builds.path, "registry").CombinedOutput(); err != nil {
			builds.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if builds.err != nil {
		t.Fatal(builds.err)
	}
	return builds.path
}

func TestMain(m *testing.M) {
	status := m.Run()
	if builds.path != "" {
		os.RemoveAll(filepath.Dir(builds.path))
	}
	os.Exit(status)
}

// rig is a server, a collector and clients.
type rig struct {
	t           *testing.T
	dir, binary string
	conn        conn
	registry    *registry.Registry // if the server runs inside the test
	grace       time.Duration
	loose       bool // the collector may leave what it should take

	mu       sync.Mutex
	figures  map[string]int64
	failures []string
	stop     context.CancelFunc
	ctx      context.Context // ends when the clients are to stop
}

func newRig(t *testing.T, dir string) *rig {
	return &rig{t: t, dir: dir, binary: build(t), figures: map[string]int64{}}
}

func (r *rig) database() string { return filepath.Join(r.dir, "reg.db") }

func (r *rig) stopped() bool { return r.ctx.Err() != nil }

// fail notes what must not happen, and ends the run: what comes after the first failure is of little use.
func (r *rig) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(time.Now().Format("15:04:05.000 ")+format, args...))
	r.stop()
}

func (r *rig) count(figure string, n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.figures[figure] += n
}

// report prints the figures, and makes the failures those of the test.
func (r *rig) report() {
	r.t.Helper()
	const enough = 20
	for i, failure := range r.failures {
		if i == enough {
			r.t.Errorf("... and %d more", len(r.failures)-enough)
			break
		}
		r.t.Error(failure)
	}
	r.count("BROKEN", 0)
	for _, name := range slices.Sorted(maps.Keys(r.figures)) {
		r.t.Logf("%10d  %s", r.figures[name], name)
	}
}

// collected is what a collector says it has removed.
type collected struct{ Manifests, Blobs, Bytes int64 }

// collector runs once.
type collector func() (collected, error)

// command is the real collector: another process.
func (r *rig) command() (c collected, err error) {
	var out, stderr bytes.Buffer
	cmd := r.newCommand(&out, &stderr)
	if err := cmd.Run(); err != nil {
		return c, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, &stderr)
	}
	if r.loose && out.Len() == 0 {
		return c, nil
	}
	if err := json.Unmarshal(out.Bytes(), &c); err != nil {
		return c, fmt.Errorf("gc printed %q: %w", &out, err)
	}
	return c, nil
}

func (r *rig) newCommand(stdout, stderr io.Writer) *exec.Cmd {
	cmd := exec.Command(r.binary, "gc", "--db", r.database(), "--grace", r.grace.String(), "--force", "--untagged-after", "0", "--undo-window", "0", "--json")
	if r.loose {
		cmd = exec.Command("sh", "-c", os.Getenv("SOAK_GC_COMMAND"))
		cmd.Env = append(os.Environ(), "SOAK_DB="+r.database())
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd
}

// roughly kills collectors and starts two at once, as long as the clients work. The next one has to cope with that.
func (r *rig) roughly() (c collected, err error) {
	switch {
	case r.stopped():
		return r.command()
	case rand.IntN(2) == 0:
		cmd := r.newCommand(io.Discard, io.Discard)
		if err := cmd.Start(); err != nil {
			return c, err
		}
		kill := time.AfterFunc(time.Duration(rand.IntN(500))*time.Millisecond, func() { cmd.Process.Kill() })
		cmd.Wait()
		if !kill.Stop() {
			r.count("collector: killed", 1)
		}
		return c, nil
	}
	var both [2]collected
	var errs [2]error
	var wg sync.WaitGroup
	for i := range both {
		wg.Go(func() { both[i], errs[i] = r.command() })
	}
	wg.Wait()
	r.count("collector: two at once", 1)
	// One may give up waiting for the other, which takes its time beside busy clients. Both may not.
	for i := range errs {
		if errs[i] != nil && errs[1-i] == nil && strings.Contains(errs[i].Error(), registry.ErrLocked.Error()) {
			errs[i] = nil
			r.count("collector: gave up waiting", 1)
		}
	}
	return collected{both[0].Manifests + both[1].Manifests, both[0].Blobs + both[1].Blobs, both[0].Bytes + both[1].Bytes}, errors.Join(errs[:]...)
}

// run lets the clients work beside the collector, and then looks at everything that is left.
func (r *rig) run(duration time.Duration, start func() (end func()), collect collector) {
	r.ctx, r.stop = context.WithTimeout(r.t.Context(), duration)
	defer r.stop()
	end := start()
	var working, collecting sync.WaitGroup
	done := make(chan struct{})
	list := make([]*client, clients)
	for i := range list {
		list[i] = newClient(r, i)
		working.Go(list[i].run)
	}
	collecting.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				r.collect(collect)
			}
		}
	})
	working.Wait()
	close(done)
	collecting.Wait()
	time.Sleep(r.grace)
	r.collect(collect) // what the last deeds left, which a cycle under way may have missed
	for _, c := range list {
		c.checkEverything()
	}
	end()
	r.checkDisk(list)
	if out, err := exec.Command(r.binary, "check", "--db", r.database(), "--read-data").CombinedOutput(); err != nil {
		r.fail("registry check: %v: %s", err, out)
	}
}

func (r *rig) collect(collect collector) {
	start := time.Now()
	c, err := collect()
	if err != nil {
		r.fail("collector: %v", err)
		return
	}
	r.count("collector: cycles", 1)
	r.count("collector: ms", time.Since(start).Milliseconds())
	r.count("collector: manifests", c.Manifests)
	r.count("collector: blobs", c.Blobs)
	r.count("collector: bytes", c.Bytes)
}

// start runs the server. end asks it to stop and waits.
func (r *rig) start() (end func()) {
	r.t.Helper()
	args := []string{"serve", "--db", r.database(), "--addr", "127.0.0.1:0", "--log-format", "json"}
	cmd := exec.Command(r.binary, append(args, strings.Fields(os.Getenv("SOAK_SERVE"))...)...)
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cmd.Process.Kill() }) // if a test ends before end
	urls := make(chan string, 1)
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		r.watch(stderr, urls)
	}()
	select {
	case url := <-urls:
		r.conn = newConn(url)
	case <-logged:
		cmd.Wait()
		r.t.Fatalf("the server did not start: %v", r.failures)
	}
	return func() {
		r.conn.http.CloseIdleConnections()
		cmd.Process.Signal(syscall.SIGTERM)
		<-logged
		if err := cmd.Wait(); err != nil {
			r.fail("the server ended with %v", err)
		}
	}
}

// watch reads the server's log: an error is a failure even if no client saw it.
func (r *rig) watch(log io.Reader, urls chan<- string) {
	lines := bufio.NewReader(log)
	for {
		text, err := lines.ReadBytes('\n')
		var line struct{ Level, Msg, URL string }
		if json.Unmarshal(text, &line); line.URL != "" {
			select { // only the first is waited for
			case urls <- line.URL:
			default:
			}
		}
		switch {
		case line.Level == "WARN":
			r.count("warning of the server: "+line.Msg, 1)
		case line.Level == "ERROR", line.Level == "" && len(text) > 0: // or a panic, which is not JSON
			r.fail("the server logged %s", bytes.TrimSpace(text))
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.fail("the server's log: %v", err)
			}
			return
		}
	}
}

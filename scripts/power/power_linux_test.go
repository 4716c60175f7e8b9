// Package power runs a real server on a file system of its own, cuts that file system's power at random moments while
// clients push and delete, and then looks at everything the server had acknowledged. It needs root, loop devices and
// mkfs.ext4 or mkfs.xfs. POWER_CYCLES sets how often, 15 times for each of the two by default. POWER_CONTROLS=1 breaks
// the server in one place after the other, and wants each of them found.
package power

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite"
)

const (
	maxClients  = 8
	perRegistry = 5 // cycles, before a registry that is new: its directories are made, and its database
)

// TestMain runs the tests in a process with namespaces of its own. What they mount is seen by nobody else, who might
// keep it from being unmounted, and whatever way they end their mounts and servers end with them.
func TestMain(m *testing.M) {
	const inside = "POWER_INSIDE"
	if os.Getenv(inside) != "" {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil { // of the processes in here
			panic(err)
		}
	}
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is about the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		os.Exit(m.Run()) // which skips, since it may not mount either
	}
	cmd.Wait()
	os.Exit(cmd.ProcessState.ExitCode())
}

func TestAcknowledgedSurvivesPowerCut(t *testing.T) {
	cycles := 15
	if s := os.Getenv("POWER_CYCLES"); s != "" {
		var err error
		if cycles, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	binary := build(t)
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, kind, binary)
			n := r.run(cycles)
			for _, lost := range r.lost {
				t.Error(lost)
			}
			t.Logf("%d cycles, %d operations acknowledged, %d answers checked", n, r.acknowledged, r.checked)
		})
	}
}

// build makes the program, with flags of go build before the package.
func build(t *testing.T, flags ...string) (binary string) {
	t.Helper()
	binary = filepath.Join(t.TempDir(), "registry")
	args := append(append([]string{"build", "-o", binary}, flags...), "registry")
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	return binary
}

// kinds are those of acknowledgements.
var kinds = []string{"blob", "mount", "manifest", "no blob", "no tag", "no manifest"}

// rig remembers what servers, one after the other over the same data, have acknowledged.
type rig struct {
	t            *testing.T
	kind, binary string
	disks        [2]*disk
	db, blobs    string // of the registry in use

	off   atomic.Bool // the power goes: from now on a server may refuse what it is asked
	acked chan string // gets what has been acknowledged when somebody waits for it

	mu           sync.Mutex
	server       *os.Process
	known        map[string]string   // path, and the digest of what it answers with; "" says that it is not there
	unsure       []map[string]string // changes of known that were asked for and not answered: each happened whole or not at all
	lost         []string            // what is not as it was acknowledged
	acknowledged int
	checked      int
}

func newRig(t *testing.T, kind, binary string) *rig {
	return &rig{t: t, kind: kind, binary: binary, disks: [2]*disk{newDisk(t, kind), newDisk(t, kind)}, acked: make(chan string)}
}

// run runs cycles until something was lost, and returns how many.
func (r *rig) run(cycles int) int {
	for n := range cycles {
		if n%perRegistry == 0 {
			r.newRegistry(n / perRegistry)
		}
		r.cycle()
		if len(r.lost) > 0 {
			return n + 1
		}
	}
	return cycles
}

// newRegistry goes on with an empty registry. Every other one has its blobs on a second disk: beside the database they
// gain from its flushes, since a journal that is flushed for one file takes along what was done to all.
func (r *rig) newRegistry(n int) {
	for _, d := range r.disks { // of the ones before there is nothing to be learned any more
		old, err := filepath.Glob(filepath.Join(d.at, "registry*"))
		for _, path := range old {
			err = errors.Join(err, os.RemoveAll(path))
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	name := fmt.Sprint("registry", n)
	r.db = filepath.Join(r.disks[0].at, name, "reg.db")
	r.blobs = filepath.Join(r.disks[n%2].at, name, "blobs")
	r.known, r.unsure = map[string]string{}, nil
	for _, d := range r.disks {
		if err := errors.Join(os.Mkdir(filepath.Join(d.at, name), 0o700), syncPath(d.at)); err != nil {
			r.t.Fatal(err)
		}
	}
}

// cycle runs a server and its clients, cuts the power, and looks at what is left when it is back.
func (r *rig) cycle() {
	r.off.Store(false)
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	dark := make(chan error, 1)
	go func() { dark <- r.cutSoon() }()

	url, kill, err := r.start()
	if err != nil && !r.off.Load() {
		r.fail("%v", err)
	}
	var wg sync.WaitGroup
	if err == nil {
		clients := maxClients
		if rand.IntN(2) == 0 {
			clients = 1 // whose acknowledgements nobody else's flush comes to the rescue of
		}
		for c := range clients {
			wg.Go(func() { r.client(ctx, url, c) })
		}
	}
	if err := <-dark; err != nil {
		r.t.Fatal(err)
	}
	kill()
	cancel()
	wg.Wait()
	for _, d := range r.disks {
		d.remount(r.kind)
	}

	url, kill, err = r.start()
	defer kill()
	if err != nil {
		r.fail("after the power cut: %v", err)
		return
	}
	r.checkAnswers(url)
	r.checkRows()
}

// cutSoon cuts the power of both disks at a random moment. Most of the time it waits for an acknowledgement of some kind
// and is quick then, before anything else is flushed that takes along what the server has forgotten.
func (r *rig) cutSoon() error {
	time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
	if i := rand.IntN(len(kinds) * 3 / 2); i < len(kinds) {
		for tooLong := time.After(time.Second); ; {
			select {
			case kind := <-r.acked:
				if kind != kinds[i] {
					continue
				}
			case <-tooLong:
			}
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.off.Store(true)
	if r.server != nil {
		freeze(r.server)
		defer r.server.Kill()
	}
	return errors.Join(r.disks[0].cut(), r.disks[1].cut())
}

// freeze stops a process in the middle of what it does: without power nothing runs. Else it would act on what the kernel
// says while the power goes, and that is wrong: a flush which is under way then may be told that it has succeeded. Such
// a system call goes on, but does not come back.
func freeze(p *os.Process) {
	stopped := p.Signal(syscall.SIGSTOP)
	for running := stopped == nil; running; { // it may have ended already
		running = false
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		for _, thread := range threads {
			stat, _ := os.ReadFile(thread)
			_, state, _ := strings.Cut(string(stat), ") ") // after the name: R is running, S waits for anything but a disk
			running = running || strings.HasPrefix(state, "R") || strings.HasPrefix(state, "S")
		}
	}
}

// start runs a server and returns when it answers. kill ends it with SIGKILL.
func (r *rig) start() (url string, kill func(), err error) {
	cmd := exec.Command(r.binary, "serve", "--db", r.db, "--blobs", r.blobs, "--addr", "127.0.0.1:0", "--log-format", "json")
	stderr, err := cmd.StderrPipe()
	r.mu.Lock()
	if err == nil {
		err = cmd.Start()
	}
	r.server = cmd.Process
	r.mu.Unlock()
	if err != nil {
		r.t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	r.t.Cleanup(kill)
	lines := bufio.NewScanner(stderr)
	var said string
	for url == "" && lines.Scan() {
		var line struct{ Msg, URL string }
		json.Unmarshal(lines.Bytes(), &line)
		said += lines.Text() + "\n"
		url = line.URL
	}
	if url == "" {
		return "", kill, fmt.Errorf("the server did not start: %s", said)
	}
	go io.Copy(io.Discard, stderr)
	return url, kill, nil
}

func (r *rig) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, fmt.Sprintf(format, args...))
}

// client works on repositories of its own until the server is gone.
func (r *rig) client(ctx context.Context, url string, c int) {
	for i := 0; ctx.Err() == nil; i++ {
		if err := r.image(url, c, i); err != nil {
			var refused statusError
			if errors.As(err, &refused) && !r.off.Load() {
				r.fail("refused while the disk was fine: %v", err)
			}
			return
		}
	}
}

// image pushes an image as clients do, in pieces of its own and one that all share, and then changes something else.
func (r *rig) image(url string, c, i int) error {
	repo, other := fmt.Sprintf("/v2/team/app%d", c), fmt.Sprintf("/v2/team/other%d", c)
	layer := bytes.Repeat([]byte(fmt.Sprintf("layer %d %d %d ", c, i, rand.Uint64())), 1+rand.IntN(3000))
	shared := bytes.Repeat([]byte(fmt.Sprint("shared ", i%5)), 1000)
	var descriptors []string
	for _, content := range [][]byte{layer, shared} {
		if err := r.pushBlob(url, repo, content, rand.IntN(2) == 0); err != nil {
			return err
		}
		descriptors = append(descriptors, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromBytes(content), len(content)))
	}
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, v1.MediaTypeImageManifest, descriptors[0], strings.Join(descriptors, ","))
	d := digest.FromString(manifest).String()
	tag, byDigest := fmt.Sprintf("%s/manifests/t%d", repo, i%3), repo+"/manifests/"+d
	err := r.do("manifest", map[string]string{tag: d, byDigest: d}, func() error {
		_, err := send("PUT", url+tag, manifest, 201, "Content-Type", v1.MediaTypeImageManifest)
		return err
	})
	if err != nil {
		return err
	}
	blob := digest.FromBytes(layer).String()
	switch rand.IntN(6) {
	case 0:
		return r.pushBlob(url, repo, layer, rand.IntN(2) == 0) // once more: a new file takes the place of the first
	case 1, 2:
		err := r.do("mount", map[string]string{other + "/blobs/" + blob: blob}, func() error {
			_, err := send("POST", url+other+"/blobs/uploads/?mount="+blob+"&from="+strings.TrimPrefix(repo, "/v2/"), "", 201)
			return err
		})
		if err != nil || rand.IntN(2) == 0 {
			return err
		}
		return r.remove("no blob", url, other+"/blobs/"+blob)
	case 3:
		return r.remove("no tag", url, tag)
	case 4:
		return r.remove("no manifest", url, byDigest, tag)
	}
	return nil
}

func (r *rig) pushBlob(url, repo string, content []byte, inOne bool) error {
	d := digest.FromBytes(content).String()
	return r.do("blob", map[string]string{repo + "/blobs/" + d: d}, func() error {
		if inOne {
			_, err := send("POST", url+repo+"/blobs/uploads/?digest="+d, string(content), 201)
			return err
		}
		h, err := send("POST", url+repo+"/blobs/uploads/", "", 202)
		if err != nil {
			return err
		}
		half := len(content) / 2
		if _, err = send("PATCH", url+h.Get("Location"), string(content[:half]), 202); err != nil {
			return err
		}
		_, err = send("PUT", url+h.Get("Location")+"?digest="+d, string(content[half:]), 201)
		return err
	})
}

// remove deletes what has the first of the paths, and with it all the others.
func (r *rig) remove(kind, url string, paths ...string) error {
	changes := map[string]string{}
	for _, path := range paths {
		changes[path] = ""
	}
	return r.do(kind, changes, func() error {
		_, err := send("DELETE", url+paths[0], "", 202)
		return err
	})
}

// do has op make changes, which count as soon as it returns nil.
func (r *rig) do(kind string, changes map[string]string, op func() error) error {
	r.mu.Lock()
	for path := range changes {
		r.known[path] += "" // it was not there if nobody has said so before
	}
	r.mu.Unlock()
	err := op()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.unsure = append(r.unsure, changes)
		return err
	}
	for path, d := range changes {
		r.known[path] = d
	}
	r.acknowledged++
	select {
	case r.acked <- kind:
	default:
	}
	return nil
}

// checkAnswers asks for everything that any server has acknowledged.
func (r *rig) checkAnswers(url string) {
	found := map[string]string{}
	for path := range r.known {
		d, err := look(url + path)
		if err != nil {
			r.fail("%s: %v", path, err)
		}
		found[path] = d
	}
	for _, changes := range r.unsure {
		happened := true
		for path, d := range changes {
			happened = happened && found[path] == d
		}
		for path, d := range changes {
			if happened {
				r.known[path] = d
			}
		}
	}
	r.unsure = nil
	for path, want := range r.known {
		if found[path] != want {
			r.fail("%s is %q, want %q", path, found[path], want)
		}
	}
	r.checked += len(found)
}

// checkRows holds the database against the files: a row has its bytes. The server runs, so that the log of the database
// is still there for the next one: in use it is hardly ever short.
func (r *rig) checkRows() {
	db, err := sql.Open("sqlite", r.db)
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	var sound string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&sound); err != nil || sound != "ok" {
		r.fail("the database is damaged: %v %s", err, sound)
		return
	}
	rows, err := db.Query("SELECT digest, size, generation FROM blobs")
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var packed []byte
		var size int64
		var generation string
		if err := rows.Scan(&packed, &size, &generation); err != nil {
			r.t.Fatal(err)
		}
		hash := hex.EncodeToString(packed[1:])
		content, err := os.ReadFile(filepath.Join(r.blobs, "sha256", hash[:2], hash+"."+generation))
		if err != nil || int64(len(content)) != size || digest.FromBytes(content).Encoded() != hash {
			r.fail("the row of %s has %d bytes of %d: %v", hash, len(content), size, err)
		}
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
}

// client gives every request its own connection, so that none is tried again behind our back.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func send(method, url, body string, status int, header ...string) (http.Header, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if len(header) == 2 {
		req.Header.Set(header[0], header[1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != status {
		text, _ := io.ReadAll(resp.Body)
		return nil, statusError(fmt.Sprintf("%s %s: %s %s", method, url, resp.Status, text))
	}
	return resp.Header, nil
}

// statusError is an answer that should have been another.
type statusError string

func (e statusError) Error() string { return string(e) }

// look returns the digest of what a URL answers with, "" if there is nothing.
func look(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", err
	case resp.StatusCode == http.StatusNotFound:
		return "", nil
	case resp.StatusCode != http.StatusOK:
		return "", errors.New(resp.Status)
	}
	return digest.FromBytes(content).String(), nil
}

// Package crash kills a real server, and a collector beside it, at random moments while clients push, mount, retag and
// delete, and then looks at everything that was acknowledged. CRASH_CYCLES sets how often, 60 by default.
package crash

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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	_ "modernc.org/sqlite"
)

const pushers = 8

func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	cycles := 60
	if s := os.Getenv("CRASH_CYCLES"); s != "" {
		var err error
		if cycles, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{t: t, dir: t.TempDir(), binary: filepath.Join(t.TempDir(), "registry"), tags: map[string]string{}}
	if out, err := exec.Command("go", "build", "-o", r.binary, "registry").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for n := range cycles {
		if n%50 == 49 {
			r.tidy()
		}
		if r.cycle(); t.Failed() {
			t.Fatal("in cycle", n)
		}
	}
	t.Logf("%d cycles: %d blobs acknowledged and found, %d images pulled whole, %d tags and %d manifests deleted, %d images pushed, %d files left; %d uploads went on after a kill",
		cycles, r.found, r.pulled, r.untagged, r.deleted, r.pushed, r.files(), r.resumed)
}

// rig remembers what servers, one after the other over the same data, have acknowledged.
type rig struct {
	t           *testing.T
	dir, binary string

	mu     sync.Mutex
	fresh  map[string]time.Time // paths of blobs that were acknowledged in this cycle, which end in their digest; when they were asked for
	tags   map[string]string    // path of a tag that one pusher owns, and the digest it was last acknowledged to have, or gone
	unsure map[string]string    // of tags whose last push or deletion was not answered, the same

	killed time.Time // when the last server was

	found, pulled, untagged, deleted, pushed, resumed int
}

// gone is what a deleted tag points at.
const gone = "gone"

// cycle runs a server, pushes to it, kills it, and looks at what is left: first at the files, then through a new server.
func (r *rig) cycle() {
	url, kill := r.start()
	r.unsure, r.fresh = map[string]string{}, map[string]time.Time{}
	half := r.halfAnUpload(url)
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { r.collect(ctx) })
	for p := range pushers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := r.push(url, p, i); err != nil {
					var refused statusError
					if errors.As(err, &refused) {
						r.t.Error(err) // it lived long enough to answer, and had nothing to refuse
					}
					return
				}
			}
		})
	}
	time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
	kill()
	r.killed = time.Now()
	cancel()
	wg.Wait()
	r.checkRows()
	url, kill = r.start()
	r.checkAcknowledged(url)
	half(url)
	kill()
	if out, err := r.command(r.t.Context(), "check", "--read-data").CombinedOutput(); err != nil {
		r.t.Errorf("check: %v\n%s", err, out)
	}
}

// tidy lets a collector come to its end: the others are killed, and leave more to read from cycle to cycle.
func (r *rig) tidy() {
	if out, err := r.gc(r.t.Context()).CombinedOutput(); err != nil {
		r.t.Errorf("gc: %v %s", err, out)
	}
}

func (r *rig) gc(ctx context.Context) *exec.Cmd {
	return r.command(ctx, "gc", "--grace", grace.String(), "--force", "--untagged-after", "0")
}

// command is killed when ctx ends.
func (r *rig) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, r.binary, append(args, "--db", filepath.Join(r.dir, "reg.db"))...)
}

// grace is short, so that the collectors of a later cycle have something to do.
const grace = 3 * time.Second

// collect runs collectors, one after the other, and kills the last. What was acknowledged within the grace is safe from
// them although nothing needs it yet, and so is whatever a tag reaches.
func (r *rig) collect(ctx context.Context) {
	for ctx.Err() == nil {
		if out, err := r.gc(ctx).CombinedOutput(); err != nil && ctx.Err() == nil {
			r.t.Errorf("gc: %v %s", err, out)
		}
	}
}

// files counts those of blobs.
func (r *rig) files() (n int) {
	filepath.WalkDir(filepath.Join(r.dir, "reg.db-blobs", "sha256"), func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	return n
}

// start runs a server and returns when it answers. kill ends it with SIGKILL.
func (r *rig) start() (url string, kill func()) {
	r.t.Helper()
	cmd := exec.Command(r.binary, "serve", "--db", filepath.Join(r.dir, "reg.db"), "--addr", "127.0.0.1:0", "--log-format", "json")
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	var said string
	for url == "" && lines.Scan() {
		var line struct{ Msg, URL string }
		json.Unmarshal(lines.Bytes(), &line)
		said += lines.Text() + "\n"
		url = line.URL
	}
	if url == "" {
		cmd.Wait()
		r.t.Fatalf("the server did not start: %s", said)
	}
	go io.Copy(io.Discard, stderr)
	return url, func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// push pushes an image as clients do, in pieces of one pusher's own and one that all share, and sometimes deletes what it
// pushed before.
func (r *rig) push(url string, p, i int) error {
	repo := fmt.Sprintf("%s/v2/team%d/app", url, p%3)
	tag := fmt.Sprintf("/v2/team%d/app/manifests/p%d", p%3, p)
	switch i % 6 {
	case 3:
		return r.deletes(url, tag, false)
	case 5:
		return r.deletes(url, tag, true)
	}
	layer := bytes.Repeat([]byte(fmt.Sprintf("layer %d %d %d ", p, i, rand.Uint64())), 1+rand.IntN(3000))
	shared := bytes.Repeat([]byte(fmt.Sprint("shared ", i%5)), 1000)
	var descriptors []string
	for n, content := range [][]byte{layer, shared} {
		d, err := r.pushBlob(repo, content, i%2 == 0, n == 1 && i%3 == 0)
		if err != nil {
			return err
		}
		descriptors = append(descriptors, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, d, len(content)))
	}
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, v1.MediaTypeImageManifest, descriptors[0], strings.Join(descriptors, ","))
	return r.change(tag, digest.FromString(manifest).String(), &r.pushed, func() error {
		_, err := send("PUT", url+tag, manifest, 201, "Content-Type", v1.MediaTypeImageManifest)
		return err
	})
}

// change is what a tag goes through: until it is answered, nobody knows whether it happened.
func (r *rig) change(tag, to string, count *int, request func() error) error {
	r.set(func() { r.unsure[tag] = to })
	if err := request(); err != nil {
		return err
	}
	r.set(func() {
		delete(r.unsure, tag)
		r.tags[tag] = to
		*count++
	})
	return nil
}

// set changes what the rig remembers.
func (r *rig) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// deletes takes the image of a tag away, if there is one: the tag, or the manifest with it.
func (r *rig) deletes(url, tag string, manifest bool) error {
	var d string
	r.set(func() { d = r.tags[tag] })
	if d == "" || d == gone {
		return nil
	}
	path, count := tag, &r.untagged
	if manifest {
		path, count = tag[:strings.LastIndexByte(tag, '/')+1]+d, &r.deleted
	}
	return r.change(tag, gone, count, func() error { _, err := send("DELETE", url+path, "", 202); return err })
}

// pushBlob pushes a blob in one request, in three, or by a mount if another team has it.
func (r *rig) pushBlob(repo string, content []byte, inOne, mount bool) (digest.Digest, error) {
	d, asked := digest.FromBytes(content), time.Now()
	switch origin := repo[:strings.Index(repo, "/v2/")]; {
	case mount:
		// The answer is 201 if there is one, or a session as without asking.
		h, err := send("POST", repo+"/blobs/uploads/?from=team0/app&mount="+d.String(), "", 0)
		if err == nil && h.Get("Docker-Content-Digest") == "" {
			_, err = send("PUT", origin+h.Get("Location")+"?digest="+d.String(), string(content), 201)
		}
		if err != nil {
			return "", err
		}
	case inOne:
		if _, err := send("POST", repo+"/blobs/uploads/?digest="+d.String(), string(content), 201); err != nil {
			return "", err
		}
	default:
		h, err := send("POST", repo+"/blobs/uploads/", "", 202)
		if err != nil {
			return "", err
		}
		if _, err = send("PATCH", origin+h.Get("Location"), string(content[:len(content)/2]), 202); err != nil {
			return "", err
		}
		if _, err := send("PUT", origin+h.Get("Location")+"?digest="+d.String(), string(content[len(content)/2:]), 201); err != nil {
			return "", err
		}
	}
	r.set(func() { r.fresh[repo[strings.Index(repo, "/v2/"):]+"/blobs/"+d.String()] = asked })
	return d, nil
}

// halfAnUpload sends the first part of a blob. The function it returns sends the rest to another server.
func (r *rig) halfAnUpload(url string) func(url string) {
	first, rest := strings.Repeat("first ", 50_000), fmt.Sprint("rest ", rand.Uint64())
	h, err := send("POST", url+"/v2/half/blobs/uploads/", "", 202)
	if err == nil {
		_, err = send("PATCH", url+h.Get("Location"), first, 202)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return func(url string) {
		status, err := send("GET", url+h.Get("Location"), "", 204)
		if err != nil || status.Get("Range") != fmt.Sprintf("0-%d", len(first)-1) {
			r.t.Errorf("an acknowledged chunk is gone: %v %v", status, err)
			return
		}
		d := digest.FromString(first + rest).String()
		if _, err := send("PUT", url+h.Get("Location")+"?digest="+d, rest, 201); err != nil {
			r.t.Error("an upload did not go on:", err)
		}
		r.resumed++
		if err := r.pullBlob(url + "/v2/half/blobs/" + d); err != nil {
			r.t.Error(err)
		}
	}
}

// checkRows holds the database against the files while no server runs: a row has its bytes.
func (r *rig) checkRows() {
	db, err := sql.Open("sqlite", filepath.Join(r.dir, "reg.db"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
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
		content, err := os.ReadFile(filepath.Join(r.dir, "reg.db-blobs", "sha256", hash[:2], hash+"."+generation))
		if err != nil || int64(len(content)) != size || digest.FromBytes(content).Encoded() != hash {
			r.t.Errorf("the row of %s has %d bytes of %d: %v", hash, len(content), size, err)
		}
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) checkAcknowledged(url string) {
	for path, asked := range r.fresh {
		if r.killed.Sub(asked) > grace-time.Second { // on a machine that was busy with something else
			continue
		}
		if err := r.pullBlob(url + path); err != nil {
			r.t.Error(err)
		}
	}
	for tag := range r.unsure {
		r.tags[tag] += "" // the tag may be a new one
	}
	for tag, want := range r.tags {
		content, err := get(url + tag)
		got := digest.FromBytes(content).String()
		if errors.Is(err, errNotFound) {
			got, err = gone, nil
		}
		if asked, ok := r.unsure[tag]; ok && got == asked {
			r.tags[tag] = asked // it was not answered, but it happened
		} else if err != nil || got != want && !(want == "" && got == gone) {
			r.t.Errorf("%s is %s, want %s; %v", tag, got, want, err)
		}
		if got == gone {
			continue
		}
		if err := r.pull(url, tag, content); err != nil {
			r.t.Error(err)
		}
	}
}

// pull reads what a manifest needs.
func (r *rig) pull(url, tag string, content []byte) error {
	var m v1.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		return err
	}
	repo := tag[:strings.Index(tag, "/manifests/")]
	for _, l := range m.Layers {
		if err := r.pullBlob(url + repo + "/blobs/" + l.Digest.String()); err != nil {
			return fmt.Errorf("%s: %w", tag, err)
		}
	}
	r.pulled++
	return nil
}

func (r *rig) pullBlob(url string) error {
	want := digest.Digest(url[strings.LastIndexByte(url, '/')+1:])
	content, err := get(url)
	if err == nil && digest.FromBytes(content) != want {
		err = errors.New("other bytes")
	}
	if err != nil {
		return fmt.Errorf("%s: %d bytes, %w", url, len(content), err)
	}
	r.found++
	return nil
}

// client gives every request its own connection, so that none is tried again behind our back.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

// send returns the header of an answer that has this status; 0 is any that says success.
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
	if resp.StatusCode != status && !(status == 0 && resp.StatusCode/100 == 2) {
		text, _ := io.ReadAll(resp.Body)
		return nil, statusError(fmt.Sprintf("%s %s: %s %s", method, url, resp.Status, text))
	}
	return resp.Header, nil
}

// statusError is an answer that should have been another.
type statusError string

func (e statusError) Error() string { return string(e) }

func get(url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		err = errNotFound
	default:
		err = errors.Join(err, errors.New(resp.Status))
	}
	return content, err
}

var errNotFound = errors.New("404")

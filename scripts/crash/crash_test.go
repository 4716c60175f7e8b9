// Package crash kills a real server at random moments while clients push to it, and then looks at everything it had
// acknowledged. CRASH_CYCLES sets how often, 20 by default.
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

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	_ "modernc.org/sqlite"
)

const pushers = 8

func TestKilledServerKeepsWhatItAcknowledged(t *testing.T) {
	cycles := 20
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
	for range cycles {
		r.cycle()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d cycles, %d blobs, %d manifests, %d tags acknowledged and found; %d uploads went on after a kill",
		cycles, len(r.blobs), len(r.manifests), len(r.tags), r.resumed)
}

// rig remembers what servers, one after the other over the same data, have acknowledged.
type rig struct {
	t           *testing.T
	dir, binary string

	mu        sync.Mutex
	blobs     []string          // paths that answer with content of the digest they end in
	manifests []string          // the same
	tags      map[string]string // path of a tag that one pusher owns, and the digest it was last acknowledged to have
	unsure    map[string]string // of tags whose last push was not answered
	resumed   int
}

// cycle runs a server, pushes to it, kills it, and looks at what is left: first at the files, then through a new server.
func (r *rig) cycle() {
	url, kill := r.start()
	r.unsure = map[string]string{}
	half := r.halfAnUpload(url)
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
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
	cancel()
	wg.Wait()
	r.checkRows()
	url, kill = r.start()
	r.checkAcknowledged(url)
	half(url)
	kill()
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

// push pushes an image as clients do, in pieces of one pusher's own and one that all share.
func (r *rig) push(url string, p, i int) error {
	repo := fmt.Sprintf("%s/v2/team%d/app", url, p%3)
	layer := bytes.Repeat([]byte(fmt.Sprintf("layer %d %d %d ", p, i, rand.Uint64())), 1+rand.IntN(3000))
	shared := bytes.Repeat([]byte(fmt.Sprint("shared ", i%5)), 1000)
	var descriptors []string
	for _, content := range [][]byte{layer, shared} {
		d, err := r.pushBlob(repo, content, i%2 == 0)
		if err != nil {
			return err
		}
		descriptors = append(descriptors, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, d, len(content)))
	}
	manifest := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, v1.MediaTypeImageManifest, descriptors[0], strings.Join(descriptors, ","))
	tag := fmt.Sprintf("/v2/team%d/app/manifests/p%d", p%3, p)
	d := digest.FromString(manifest).String()
	r.mu.Lock()
	r.unsure[tag] = d
	r.mu.Unlock()
	if _, err := send("PUT", url+tag, manifest, 201, "Content-Type", v1.MediaTypeImageManifest); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unsure, tag)
	r.tags[tag] = d
	r.manifests = append(r.manifests, fmt.Sprintf("/v2/team%d/app/manifests/%s", p%3, d))
	return nil
}

func (r *rig) pushBlob(repo string, content []byte, inOne bool) (digest.Digest, error) {
	d := digest.FromBytes(content)
	if inOne {
		if _, err := send("POST", repo+"/blobs/uploads/?digest="+d.String(), string(content), 201); err != nil {
			return "", err
		}
	} else {
		h, err := send("POST", repo+"/blobs/uploads/", "", 202)
		if err != nil {
			return "", err
		}
		origin := repo[:strings.Index(repo, "/v2/")]
		if _, err = send("PATCH", origin+h.Get("Location"), string(content[:len(content)/2]), 202); err != nil {
			return "", err
		}
		if _, err := send("PUT", origin+h.Get("Location")+"?digest="+d.String(), string(content[len(content)/2:]), 201); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs = append(r.blobs, repo[strings.Index(repo, "/v2/"):]+"/blobs/"+d.String())
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
		r.blobs = append(r.blobs, "/v2/half/blobs/"+d)
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
		content, err := os.ReadFile(filepath.Join(r.dir, "blobs", "sha256", hash[:2], hash+"."+generation))
		if err != nil || int64(len(content)) != size || digest.FromBytes(content).Encoded() != hash {
			r.t.Errorf("the row of %s has %d bytes of %d: %v", hash, len(content), size, err)
		}
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) checkAcknowledged(url string) {
	for _, path := range append(append([]string{}, r.blobs...), r.manifests...) {
		want := digest.Digest(path[strings.LastIndexByte(path, '/')+1:])
		if content, err := get(url + path); err != nil || digest.FromBytes(content) != want {
			r.t.Errorf("%s: %d bytes, %v", path, len(content), err)
		}
	}
	for tag, want := range r.tags {
		content, err := get(url + tag)
		got := digest.FromBytes(content).String()
		if pushed, ok := r.unsure[tag]; ok && got == pushed {
			r.tags[tag] = pushed // it was not answered, but it happened
			continue
		}
		if err != nil || got != want {
			r.t.Errorf("%s is %s, want %s; %v", tag, got, want, err)
		}
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

func get(url string) ([]byte, error) {
	resp, err := client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(resp.Status))
	}
	return content, err
}

//go:build unix

// Package takeover fills a real distribution with images, takes its directory over with the registry's binary and pulls
// every image whole from there; then the same with a directory that was damaged.
//
//	go test ./scripts/takeover -images 1000 -v
//
// It wants `distribution` in PATH (github.com/distribution/distribution/v3/cmd/registry under that name) and is skipped
// without.
package takeover

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

var images = flag.Int("images", 40, "how many to push")

const repositories = 20

func TestTakeover(t *testing.T) {
	if _, err := exec.LookPath("distribution"); err != nil {
		t.Skip("distribution is not in PATH")
	}
	binary := filepath.Join(t.TempDir(), "registry")
	if out, err := exec.Command("go", "build", "-o", binary, "registry").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	dir := t.TempDir()
	old := startDistribution(t, dir)
	start := time.Now()
	pushed := fill(t, old.url)
	t.Logf("pushed %d images to distribution in %s", len(pushed), time.Since(start).Round(time.Millisecond))

	t.Run("whole", func(t *testing.T) {
		r := rig{t, binary, t.TempDir()}
		before := files(t, dir)
		out, code := r.run("import", "distribution", dir, "--verify-against", old.url)
		t.Logf("%s", out)
		if code != 0 {
			t.Errorf("exit status %d", code)
		}
		old.stop()
		r.pullAll(pushed, nil)
		if out, code := r.run("check", "--read-data"); code != 0 {
			t.Errorf("check: %d %s", code, out)
		}
		if after := files(t, dir); after != before {
			t.Error("the directory is not as it was")
		}
		out, code = r.run("import", "distribution", dir)
		t.Logf("again: %s", out)
		if code != 0 || !strings.Contains(out, " 0 manifests, ") {
			t.Errorf("again: exit status %d %s", code, out)
		}
	})
	t.Run("killed", func(t *testing.T) {
		r := rig{t, binary, t.TempDir()}
		for range 8 {
			cmd := exec.Command(binary, "import", "distribution", dir)
			cmd.Dir = r.dir
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
			cmd.Process.Kill()
			cmd.Wait()
		}
		if out, code := r.run("import", "distribution", dir); code != 0 {
			t.Errorf("%d %s", code, out)
		}
		r.pullAll(pushed, nil)
		if out, code := r.run("check", "--read-data"); code != 0 {
			t.Errorf("check: %d %s", code, out)
		}
	})
	t.Run("damaged", func(t *testing.T) {
		r := rig{t, binary, t.TempDir()}
		hit := damage(t, dir, pushed)
		out, code := r.run("import", "distribution", dir, "--read-data")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Logf("%d images hit; %s", len(hit), strings.Join(lines[max(0, len(lines)-2):], "; "))
		if code != 3 {
			t.Errorf("exit status %d", code)
		}
		for name := range hit {
			if !strings.Contains(out, strings.Split(name, "@")[0]) {
				t.Errorf("nothing was said of %s", name)
			}
		}
		r.pullAll(pushed, hit)
	})
	t.Run("moved", func(t *testing.T) { // out of the damaged directory, to which an image of schema 1 is added
		r := rig{t, binary, t.TempDir()}
		schema1(t, dir)
		before := blobsIn(t, dir)
		out, code := r.run("import", "distribution", dir, "--move")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		t.Logf("%s", strings.Join(lines[max(0, len(lines)-3):], "; "))
		if code != 3 || !strings.Contains(out, "removed ") || !strings.Contains(out, "left ") {
			t.Errorf("exit status %d", code)
		}
		if out, code := r.run("gc", "--grace", "0s", "--force"); code != 0 {
			t.Errorf("gc: %d %s", code, out)
		}
		after := blobsIn(t, dir)
		for d := range blobsIn(t, r.dir) {
			after[d] = true
		}
		for d := range before {
			if !after[d] {
				t.Errorf("%s is nowhere", d)
			}
		}
	})
}

// schema1 adds to the directory an image of Docker's schema 1, which no registry of today takes, with a layer of its own.
func schema1(t *testing.T, dir string) {
	t.Helper()
	layer := content(1<<40, 5_000)
	manifest := fmt.Appendf(nil, `{"schemaVersion":1,"name":"team0/app0","tag":"old","fsLayers":[{"blobSum":"%s"}],"history":[]}`, digest.FromBytes(layer))
	root := filepath.Join(dir, "docker/registry/v2")
	repo := filepath.Join(root, "repositories/team0/app0")
	write := func(text []byte, path ...string) {
		file := filepath.Join(path...)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, text, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range [][]byte{layer, manifest} {
		hex := digest.FromBytes(text).Encoded()
		write(text, root, "blobs/sha256", hex[:2], hex, "data")
	}
	write([]byte(digest.FromBytes(layer)), repo, "_layers/sha256", digest.FromBytes(layer).Encoded(), "link")
	d := digest.FromBytes(manifest)
	write([]byte(d), repo, "_manifests/revisions/sha256", d.Encoded(), "link")
	write([]byte(d), repo, "_manifests/tags/old/current/link")
}

var hashes = regexp.MustCompile(`/([0-9a-f]{64})(/data|\.[0-9a-f]+)$`)

// blobsIn are the hashes of the blobs that a directory of distribution or of the registry has bytes of.
func blobsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if m := hashes.FindStringSubmatch(path); m != nil {
			all[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

type rig struct {
	t           *testing.T
	binary, dir string
}

func (r rig) run(args ...string) (out string, code int) {
	r.t.Helper()
	cmd := exec.Command(r.binary, args...)
	cmd.Dir = r.dir
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// pullAll serves what was taken and pulls every image but those that were hit, which must not be there.
func (r rig) pullAll(pushed map[string]image, hit map[string]bool) {
	r.t.Helper()
	server := start(r.t, r.dir, "/readyz", r.binary, "serve", "--addr")
	defer server.stop()
	begin := time.Now()
	for name, i := range pushed {
		err := pull(server.url, i.repo, i.tag, i.digest)
		if hit[name] && err == nil {
			r.t.Errorf("%s is damaged and was pulled", name)
		} else if !hit[name] && err != nil {
			r.t.Errorf("%s: %v", name, err)
		}
		if i.referrer != "" && !hit[name] {
			if err := hasReferrer(server.url, i); err != nil {
				r.t.Errorf("%s: %v", name, err)
			}
		}
	}
	r.t.Logf("pulled %d images whole in %s", len(pushed)-len(hit), time.Since(begin).Round(time.Millisecond))
}

type server struct {
	url  string
	stop func()
}

// start runs a server that takes its address as the last argument, until the test ends.
func start(t *testing.T, dir, ready string, command ...string) server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	cmd := exec.Command(command[0], append(command[1:], address)...)
	cmd.Dir = dir
	if strings.HasPrefix(command[len(command)-1], "REGISTRY_") { // it takes its address by a variable
		cmd.Args = cmd.Args[:len(cmd.Args)-2]
		cmd.Env = append(os.Environ(), command[len(command)-1]+"="+address)
	}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	t.Cleanup(stop)
	for range 200 {
		if answer, err := http.Get("http://" + address + ready); err == nil {
			answer.Body.Close()
			return server{"http://" + address, stop}
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	t.Fatalf("%s does not answer: %s", command[0], log.String())
	return server{}
}

func startDistribution(t *testing.T, dir string) server {
	t.Helper()
	config := filepath.Join(t.TempDir(), "config.yml")
	text := "version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: " + dir + "}\n  delete: {enabled: true}\nhttp: {addr: '127.0.0.1:0'}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, dir, "/v2/", "distribution", "serve", config, "REGISTRY_HTTP_ADDR")
}

// image is one that was pushed.
type image struct {
	repo, tag string
	digest    digest.Digest
	own       digest.Digest // of a layer that no other image has
	referrer  digest.Digest // "" if it has none
}

// fill pushes images of several kinds: plain ones, indexes, Docker's, and with referrers.
func fill(t *testing.T, url string) map[string]image {
	t.Helper()
	all := map[string]image{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan int)
	for range 4 {
		wg.Go(func() {
			for n := range work {
				i, err := pushImage(url, n)
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				all[i.repo+":"+i.tag] = i
				mu.Unlock()
			}
		})
	}
	for n := range *images {
		work <- n
	}
	close(work)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

func pushImage(url string, n int) (image, error) {
	i := image{repo: fmt.Sprintf("team%d/app%d", n%4, n%repositories), tag: fmt.Sprintf("v%d", n)}
	p := pusher{url: url, repo: i.repo}
	manifest := p.image(n, v1.MediaTypeImageManifest)
	i.own = manifest.Layers[1].Digest
	switch n % 5 {
	case 0: // an index of two
		other := p.image(n+1_000_000, v1.MediaTypeImageManifest)
		index := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{p.manifest("", manifest.MediaType, manifest), p.manifest("", other.MediaType, other)}}
		index.SchemaVersion = 2
		i.digest = p.manifest(i.tag, index.MediaType, index).Digest
	case 1:
		manifest.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
		i.digest = p.manifest(i.tag, manifest.MediaType, manifest).Digest
	default:
		subject := p.manifest(i.tag, manifest.MediaType, manifest)
		i.digest = subject.Digest
		if n%5 == 2 {
			signature := p.image(n+2_000_000, v1.MediaTypeImageManifest)
			signature.Subject, signature.ArtifactType = &subject, "application/x-signature"
			i.referrer = p.manifest("", signature.MediaType, signature).Digest
		}
	}
	return i, p.err
}

// pusher pushes until something fails.
type pusher struct {
	url, repo string
	err       error
}

func (p *pusher) image(n int, mediaType string) v1.Manifest {
	m := v1.Manifest{MediaType: mediaType, Config: p.blob(v1.MediaTypeImageConfig, fmt.Appendf(nil, `{"n":%d}`, n))}
	m.SchemaVersion = 2
	m.Layers = []v1.Descriptor{p.blob(v1.MediaTypeImageLayerGzip, content(uint64(n%repositories), 100_000)), p.blob(v1.MediaTypeImageLayerGzip, content(uint64(n)+1<<32, 20_000))}
	return m
}

func content(seed uint64, size int) []byte {
	data := make([]byte, size)
	source := rand.New(rand.NewPCG(seed, 0))
	for i := range data {
		data[i] = byte(source.Uint32())
	}
	return data
}

func (p *pusher) do(method, url, contentType string, body []byte) http.Header {
	if p.err != nil {
		return http.Header{}
	}
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err == nil {
		req.Header.Set("Content-Type", contentType)
		var answer *http.Response
		if answer, err = http.DefaultClient.Do(req); err == nil {
			defer answer.Body.Close()
			text, _ := io.ReadAll(answer.Body)
			if answer.StatusCode >= 300 {
				err = fmt.Errorf("%s %s: %s %s", method, url, answer.Status, text)
			}
			p.err = err
			return answer.Header
		}
	}
	p.err = err
	return http.Header{}
}

func (p *pusher) blob(mediaType string, content []byte) v1.Descriptor {
	d := digest.FromBytes(content)
	location := p.do("POST", p.url+"/v2/"+p.repo+"/blobs/uploads/", "", nil).Get("Location")
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	p.do("PUT", location+separator+"digest="+d.String(), "application/octet-stream", content)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func (p *pusher) manifest(tag, mediaType string, manifest any) v1.Descriptor {
	content, err := json.Marshal(manifest)
	p.err = errors.Join(p.err, err)
	d := digest.FromBytes(content)
	if tag == "" {
		tag = d.String()
	}
	p.do("PUT", p.url+"/v2/"+p.repo+"/manifests/"+tag, mediaType, content)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func get(url string) (content []byte, header http.Header, err error) {
	answer, err := http.Get(url)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	if content, err = io.ReadAll(answer.Body); err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", url, answer.Status, content)
	}
	return content, answer.Header, err
}

// pull reads an image to the last byte and compares every digest.
func pull(url, repo, ref string, want digest.Digest) error {
	content, header, err := get(url + "/v2/" + repo + "/manifests/" + ref)
	if err != nil {
		return err
	}
	var m struct {
		MediaType         string
		Config            v1.Descriptor
		Layers, Manifests []v1.Descriptor
	}
	if err := json.Unmarshal(content, &m); err != nil {
		return err
	}
	if digest.FromBytes(content) != want || header.Get("Content-Type") != m.MediaType {
		return fmt.Errorf("%s is %s of type %s", ref, digest.FromBytes(content), header.Get("Content-Type"))
	}
	for _, child := range m.Manifests {
		if err := pull(url, repo, child.Digest.String(), child.Digest); err != nil {
			return err
		}
	}
	if m.Manifests == nil {
		m.Layers = append(m.Layers, m.Config)
	}
	for _, layer := range m.Layers {
		content, _, err := get(url + "/v2/" + repo + "/blobs/" + layer.Digest.String())
		if err == nil && digest.FromBytes(content) != layer.Digest {
			err = fmt.Errorf("%s has other bytes", layer.Digest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func hasReferrer(url string, i image) error {
	content, _, err := get(url + "/v2/" + i.repo + "/referrers/" + i.digest.String())
	if err == nil && !bytes.Contains(content, []byte(i.referrer)) {
		err = fmt.Errorf("%s is not among its referrers", i.referrer)
	}
	return err
}

// files is everything in a directory, with sizes and times.
func files(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&all, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// damage breaks something of every seventh image or so, each time in another way, and returns those that are lost by it.
func damage(t *testing.T, dir string, pushed map[string]image) map[string]bool {
	t.Helper()
	root := filepath.Join(dir, "docker/registry/v2")
	hit := map[string]bool{}
	n := 0
	for name, i := range pushed {
		if n++; n%7 != 0 {
			continue
		}
		hit[name] = true
		layer := filepath.Join(root, "blobs/sha256", i.own.Encoded()[:2], i.own.Encoded(), "data")
		manifest := filepath.Join(root, "blobs/sha256", i.digest.Encoded()[:2], i.digest.Encoded(), "data")
		tag := filepath.Join(root, "repositories", i.repo, "_manifests/tags", i.tag, "current/link")
		var err error
		switch n / 7 % 6 {
		case 0:
			err = os.Truncate(layer, 100)
		case 1:
			err = os.Remove(layer)
		case 2:
			err = flip(layer)
		case 3:
			err = os.Truncate(manifest, 0)
		case 4:
			err = os.Truncate(tag, 0)
		case 5:
			err = os.WriteFile(tag, []byte("sha256:rubbish"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return hit
}

func flip(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	content[len(content)/2] ^= 1
	return os.WriteFile(path, content, 0o600)
}

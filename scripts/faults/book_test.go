//go:build linux

package faults

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// gone is the content of what is not there.
const gone = ""

// book knows what the registry may answer with. Something acknowledged has one right content. A request that was
// refused, or not answered, may have happened all the same, now or when the next server reads the database's log: then
// both contents are right, until the next acknowledged request settles it.
type book struct {
	mu    sync.Mutex
	right map[string][]string // by path
}

// maybe notes that a request is on its way that gives path this content.
func (b *book) maybe(path, content string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.right == nil {
		b.right = map[string][]string{}
	}
	if len(b.right[path]) == 0 {
		b.right[path] = []string{gone}
	}
	b.right[path] = append(b.right[path], content)
}

// surely notes that the request was acknowledged.
func (b *book) surely(path, content string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.right[path] = []string{content}
}

// add takes over what another book knows.
func (b *book) add(other *book) {
	if b.right == nil {
		b.right = map[string][]string{}
	}
	maps.Copy(b.right, other.right)
}

// acknowledged counts what has one right content.
func (b *book) acknowledged() (n int) {
	for _, right := range b.right {
		if len(right) == 1 && right[0] != gone {
			n++
		}
	}
	return n
}

// check reads everything in the book.
func (s *server) check(b *book, when string) {
	s.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for path, right := range b.right {
		a, err := s.request("GET", path, nil, "")
		got := string(a.body)
		if a.status == http.StatusNotFound {
			got = gone
		}
		if err != nil || a.status != http.StatusOK && a.status != http.StatusNotFound || !slices.Contains(right, got) {
			s.t.Errorf("%s: GET %s: %d with %d bytes, %v", when, path, a.status, len(a.body), err)
		}
	}
}

// pusher sends what clients send, and keeps the book. Each has its own repositories.
type pusher struct {
	*server
	*book
	repo string
}

func (p *pusher) blobPath(repo, content string) string {
	return "/v2/" + repo + "/blobs/" + digest.FromString(content).String()
}

// single pushes a blob in one request.
func (p *pusher) single(content string) error {
	path := p.blobPath(p.repo, content)
	p.maybe(path, content)
	_, err := p.send("POST", "/v2/"+p.repo+"/blobs/uploads/?digest="+digest.FromString(content).String(), []byte(content), "", 201)
	if err == nil {
		p.surely(path, content)
	}
	return err
}

// chunked pushes a blob in an upload session.
func (p *pusher) chunked(content string) error {
	path := p.blobPath(p.repo, content)
	a, err := p.send("POST", "/v2/"+p.repo+"/blobs/uploads/", nil, "", 202)
	if err != nil {
		return err
	}
	session, half := a.header.Get("Location"), len(content)/2
	if _, err = p.send("PATCH", session, []byte(content[:half]), "", 202); err != nil {
		return err
	}
	p.maybe(path, content)
	if _, err = p.send("PUT", session+"?digest="+digest.FromString(content).String(), []byte(content[half:]), "", 201); err == nil {
		p.surely(path, content)
	}
	return err
}

// cancelled begins an upload session and cancels it.
func (p *pusher) cancelled(content string) error {
	a, err := p.send("POST", "/v2/"+p.repo+"/blobs/uploads/", nil, "", 202)
	if err == nil {
		_, err = p.send("PATCH", a.header.Get("Location"), []byte(content), "", 202)
	}
	if err == nil {
		_, err = p.send("DELETE", a.header.Get("Location"), nil, "", 204)
	}
	return err
}

// mount takes a blob into another repository.
func (p *pusher) mount(content string) error {
	path := p.blobPath(p.repo+"/mounted", content)
	p.maybe(path, content)
	_, err := p.send("POST", fmt.Sprintf("/v2/%s/mounted/blobs/uploads/?mount=%s&from=%s", p.repo, digest.FromString(content), p.repo), nil, "", 201)
	if err == nil {
		p.surely(path, content)
	}
	return err
}

func manifest(blobs ...string) string {
	var list []string
	for _, content := range blobs {
		list = append(list, fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromString(content), len(content)))
	}
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s]}`, v1.MediaTypeImageManifest, list[0], strings.Join(list, ","))
}

// tag pushes a manifest by a tag.
func (p *pusher) tag(tag, manifest string) error {
	byTag, byDigest := p.manifestPath(tag), p.digestPath(manifest)
	p.maybe(byTag, manifest)
	p.maybe(byDigest, manifest)
	_, err := p.send("PUT", byTag, []byte(manifest), v1.MediaTypeImageManifest, 201)
	if err == nil {
		p.surely(byTag, manifest)
		p.surely(byDigest, manifest)
	}
	return err
}

func (p *pusher) manifestPath(ref string) string { return "/v2/" + p.repo + "/manifests/" + ref }

func (p *pusher) digestPath(manifest string) string {
	return p.manifestPath(digest.FromString(manifest).String())
}

// remove deletes what is at the first path, with which the others go. Deleting it again finds nothing, which is as good.
func (p *pusher) remove(paths ...string) error {
	for _, path := range paths {
		p.maybe(path, gone)
	}
	_, err := p.send("DELETE", paths[0], nil, "", 202, 404)
	if err == nil {
		for _, path := range paths {
			p.surely(path, gone)
		}
	}
	return err
}

// image is what a client pushes in one go.
type image struct{ layer, config, tag string }

func randomImage(tag string, size int) image {
	return image{random(size), random(100), tag}
}

func random(size int) string {
	b := make([]byte, size)
	rand.Read(b)
	return string(b)
}

// push pushes an image until a request fails. In chunks or in one, as the length of the layer will have it.
func (p *pusher) push(i image) error {
	push := p.single
	if len(i.layer)%2 == 0 {
		push = p.chunked
	}
	if err := push(i.layer); err != nil {
		return err
	}
	if err := p.single(i.config); err != nil {
		return err
	}
	if err := p.mount(i.layer); err != nil {
		return err
	}
	return p.tag(i.tag, manifest(i.config, i.layer))
}

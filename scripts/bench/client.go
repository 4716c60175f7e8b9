//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// errMissing says that a target does not have what a row asks for. Its other rows count.
var errMissing = errors.New("not supported")

// blob is content of any size that is known without being held: its number, and then the same random bytes again and
// again. Their period fits no page and no range, so bytes from a wrong place do not pass for the right ones.
type blob struct {
	digest digest.Digest
	size   int64
	head   [8]byte
}

var noise = sync.OnceValue(func() []byte {
	b := make([]byte, 1<<20+4099)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
})

// newBlob makes the content with a number; small ones with different numbers share next to nothing.
func newBlob(number uint64, size int64) *blob {
	b := &blob{size: size}
	binary.BigEndian.PutUint64(b.head[:], number)
	hash := digest.SHA256.Digester()
	if _, err := io.Copy(hash.Hash(), b.part(0, size)); err != nil {
		panic(err) // a hash takes everything
	}
	b.digest = hash.Digest()
	return b
}

// at returns some of the bytes at an offset, at least one and perhaps beyond the end.
func (b *blob) at(offset int64) []byte {
	if offset < int64(len(b.head)) {
		return b.head[offset:]
	}
	n := noise()
	start := binary.BigEndian.Uint64(b.head[:]) * 8209 // so that small blobs are not the same bytes after the head
	return n[(start+uint64(offset))%uint64(len(n)):]
}

// part reads size bytes from an offset on.
func (b *blob) part(offset, size int64) io.Reader { return &part{b, offset, offset + size} }

type part struct {
	*blob
	offset, end int64
}

func (p *part) Read(buf []byte) (int, error) {
	if p.offset == p.end {
		return 0, io.EOF
	}
	n := copy(buf[:min(int64(len(buf)), p.end-p.offset)], p.at(p.offset))
	p.offset += int64(n)
	return n, nil
}

// image is a small one: a config of 2 KiB, four layers of 8 KiB and a manifest.
type image struct {
	blobs    []*blob
	manifest []byte
	digest   digest.Digest
	tag      string
}

func newImage(number int) *image {
	im := &image{tag: fmt.Sprint("v", number)}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for i := range 5 {
		b := newBlob(uint64(number*5+i), 8<<10)
		if i == 0 {
			b = newBlob(uint64(number*5), 2<<10)
			m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: b.digest, Size: b.size}
		} else {
			m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: b.digest, Size: b.size})
		}
		im.blobs = append(im.blobs, b)
	}
	im.manifest, im.digest = encode(m)
	return im
}

func encode(m v1.Manifest) ([]byte, digest.Digest) {
	content, err := json.Marshal(m)
	if err != nil {
		panic(err) // it has nothing that JSON has not
	}
	return content, digest.FromBytes(content)
}

// client is one client with one connection. Its methods fail if the answer is not the right one in every byte.
type client struct {
	http   *http.Client
	origin *url.URL
	buf    []byte
}

func newClient(origin string) (*client, error) {
	u, err := url.Parse(origin)
	return &client{&http.Client{Timeout: 10 * time.Minute, Transport: &http.Transport{
		DisableCompression: true, WriteBufferSize: 64 << 10, ReadBufferSize: 64 << 10, DialContext: (&net.Dialer{}).DialContext,
	}}, u, make([]byte, 256<<10)}, err
}

func (c *client) close() { c.http.CloseIdleConnections() }

// send makes a request, with a body unless size is 0; -1 is a size that the server is not told. The answer has one of the
// statuses, and its body is to be dropped or compared.
func (c *client) send(method, ref string, body io.Reader, size int64, header http.Header, statuses ...int) (*http.Response, error) {
	u, err := c.origin.Parse(ref)
	if err != nil {
		return nil, err
	}
	if u.Host != c.origin.Host {
		return nil, fmt.Errorf("%s %s: leads away from %s", method, ref, c.origin.Host)
	}
	req := &http.Request{Method: method, URL: u, Header: header, ContentLength: size}
	if header == nil {
		req.Header = http.Header{}
	}
	if size != 0 {
		req.Body = io.NopCloser(body)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(statuses, resp.StatusCode) {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s, want %d: %s", method, ref, resp.Status, statuses, text)
	}
	return resp, nil
}

func drop(resp *http.Response) error {
	_, err := io.Copy(io.Discard, resp.Body)
	return errors.Join(err, resp.Body.Close())
}

// call is send for answers of which only the header matters.
func (c *client) call(method, ref string, body io.Reader, size int64, header http.Header, statuses ...int) (*http.Response, error) {
	resp, err := c.send(method, ref, body, size, header, statuses...)
	if err != nil {
		return nil, err
	}
	return resp, drop(resp)
}

func (c *client) base() error {
	_, err := c.call("GET", "/v2/", nil, 0, nil, 200)
	return err
}

func blobPath(repo string, b *blob) string { return "/v2/" + repo + "/blobs/" + b.digest.String() }
func manifestPath(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }
func uploadPath(repo string) string        { return "/v2/" + repo + "/blobs/uploads/" }

// begin opens an upload and returns where it goes on.
func (c *client) begin(repo string) (string, error) {
	resp, err := c.call("POST", uploadPath(repo), nil, 0, nil, 202)
	return location(resp, err)
}

func location(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	u, err := resp.Location()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", resp.Request.Method, resp.Request.URL.Path, err)
	}
	return u.String(), nil
}

func (c *client) patch(at string, body io.Reader, size int64, header http.Header) (string, error) {
	resp, err := c.call("PATCH", at, body, size, header, 202)
	return location(resp, err)
}

// finish ends an upload, with the whole blob if nothing of it was sent before.
func (c *client) finish(at string, b *blob, whole bool) error {
	u, err := url.Parse(at)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("digest", b.digest.String())
	u.RawQuery = q.Encode()
	var size int64
	if whole {
		size = b.size
	}
	resp, err := c.call("PUT", u.String(), b.part(0, size), size, http.Header{"Content-Type": {"application/octet-stream"}}, 201)
	return sameDigest(resp, err, b.digest, false)
}

// sameDigest checks the digest that an answer names. Not every answer has to name one.
func sameDigest(resp *http.Response, err error, want digest.Digest, must bool) error {
	if err != nil {
		return err
	}
	if got := resp.Header.Get("Docker-Content-Digest"); got != want.String() && (got != "" || must) {
		return fmt.Errorf("%s %s: digest %q, want %s", resp.Request.Method, resp.Request.URL.Path, got, want)
	}
	return nil
}

// pushStream pushes a blob as docker does: POST, one PATCH, PUT.
func (c *client) pushStream(repo string, b *blob, size int64) error {
	at, err := c.begin(repo)
	if err == nil {
		at, err = c.patch(at, b.part(0, b.size), size, nil)
	}
	if err != nil {
		return err
	}
	return c.finish(at, b, false)
}

// pushWhole pushes a blob in two requests.
func (c *client) pushWhole(repo string, b *blob) error {
	at, err := c.begin(repo)
	if err != nil {
		return err
	}
	return c.finish(at, b, true)
}

func (c *client) pushChunks(repo string, b *blob, chunk int64) error {
	at, err := c.begin(repo)
	for offset := int64(0); err == nil && offset < b.size; offset += chunk {
		n := min(chunk, b.size-offset)
		at, err = c.patch(at, b.part(offset, n), n, http.Header{"Content-Range": {fmt.Sprintf("%d-%d", offset, offset+n-1)}})
	}
	if err != nil {
		return err
	}
	return c.finish(at, b, false)
}

// pushNew is pushStream for a blob that nobody has pushed: the client asks first.
func (c *client) pushNew(repo string, b *blob) error {
	if _, err := c.call("HEAD", blobPath(repo, b), nil, 0, nil, 404); err != nil {
		return err
	}
	return c.pushStream(repo, b, b.size)
}

// mount takes a blob from another repository, or pushes it if the registry wants that.
func (c *client) mount(repo, from string, b *blob) error {
	q := url.Values{"mount": {b.digest.String()}, "from": {from}}
	resp, err := c.call("POST", uploadPath(repo)+"?"+q.Encode(), nil, 0, nil, 201, 202)
	if err != nil || resp.StatusCode == 201 {
		return err
	}
	at, err := location(resp, nil)
	if err != nil {
		return err
	}
	return c.finish(at, b, true)
}

// pushImage pushes an image that is new, or mounts its blobs from another repository.
func (c *client) pushImage(repo, from string, im *image) error {
	for _, b := range im.blobs {
		push := c.pushNew
		if from != "" {
			push = func(repo string, b *blob) error { return c.mount(repo, from, b) }
		}
		if err := push(repo, b); err != nil {
			return err
		}
	}
	_, err := c.putManifest(repo, im.tag, im.manifest, im.digest)
	return err
}

func (c *client) putManifest(repo, ref string, content []byte, d digest.Digest) (*http.Response, error) {
	header := http.Header{"Content-Type": {v1.MediaTypeImageManifest}}
	resp, err := c.call("PUT", manifestPath(repo, ref), bytes.NewReader(content), int64(len(content)), header, 201)
	return resp, sameDigest(resp, err, d, false)
}

func (c *client) pullImage(repo string, im *image) error {
	for _, ref := range []string{im.tag, im.digest.String()} {
		if err := c.pullManifest(repo, ref, im); err != nil {
			return err
		}
	}
	for _, b := range im.blobs {
		if err := c.pull(repo, b, 0, b.size); err != nil {
			return err
		}
	}
	return nil
}

var accept = http.Header{"Accept": {v1.MediaTypeImageManifest}}

func (c *client) pullManifest(repo, ref string, im *image) error {
	resp, err := c.send("GET", manifestPath(repo, ref), nil, 0, accept, 200)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err == nil && !bytes.Equal(content, im.manifest) {
		err = fmt.Errorf("GET %s: not the manifest that was pushed", resp.Request.URL.Path)
	}
	return sameDigest(resp, err, im.digest, true)
}

func (c *client) headManifest(repo string, im *image) error {
	resp, err := c.call("HEAD", manifestPath(repo, im.tag), nil, 0, accept, 200)
	if err == nil && resp.ContentLength != int64(len(im.manifest)) {
		err = fmt.Errorf("HEAD %s: length %d, want %d", resp.Request.URL.Path, resp.ContentLength, len(im.manifest))
	}
	return sameDigest(resp, err, im.digest, true)
}

func (c *client) deleteManifest(repo string, im *image) error {
	_, err := c.call("DELETE", manifestPath(repo, im.digest.String()), nil, 0, nil, 202)
	return err
}

// pull pulls size bytes of a blob from an offset on, all of it or a range, and compares each byte.
func (c *client) pull(repo string, b *blob, offset, size int64) error {
	header, status, want := http.Header{}, 200, ""
	if size != b.size {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, offset+size-1))
		status, want = 206, fmt.Sprintf("bytes %d-%d/%d", offset, offset+size-1, b.size)
	}
	resp, err := c.send("GET", blobPath(repo, b), nil, 0, header, status)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Range"); got != want {
		return fmt.Errorf("GET %s: Content-Range %q, want %q", resp.Request.URL.Path, got, want)
	}
	if err := c.compare(resp.Body, b, offset, size); err != nil {
		return fmt.Errorf("GET %s: %w", resp.Request.URL.Path, err)
	}
	return nil
}

func (c *client) compare(r io.Reader, b *blob, offset, size int64) error {
	for end := offset + size; ; {
		n, err := r.Read(c.buf)
		for got := c.buf[:n]; len(got) > 0; {
			want := b.at(offset)
			want = want[:min(len(want), len(got))]
			if offset+int64(len(want)) > end || !bytes.Equal(got[:len(want)], want) {
				return fmt.Errorf("wrong bytes at %d", offset)
			}
			got, offset = got[len(want):], offset+int64(len(want))
		}
		if err == io.EOF && offset == end {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", size-(end-offset), size, err)
		}
	}
}

// list reads a page into a struct. errMissing if there is no such list.
func (c *client) list(path string, n int, last string, into any) error {
	q := url.Values{"n": {strconv.Itoa(n)}}
	if last != "" {
		q.Set("last", last)
	}
	resp, err := c.send("GET", path+"?"+q.Encode(), nil, 0, nil, 200, 404, 405)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != 200:
		return fmt.Errorf("GET %s: %w", path, errMissing)
	}
	return json.Unmarshal(content, into)
}

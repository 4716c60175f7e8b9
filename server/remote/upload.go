package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Pieces that uploads are sent in, in bytes.
const (
	DefaultChunk = 64 << 20
	minChunk     = 256 << 10 // below this a body limit is no limit but a fault
)

// maxTries is how often a request, or the way on from the same offset, is tried before it is given up.
const maxTries = 8

// Upload is a blob that is to be pushed.
type Upload struct {
	Repo   string
	Digest digest.Digest
	Size   int64
	Body   io.ReaderAt
	Chunk  int64           // 0: DefaultChunk; made smaller if the way there does not let that much pass
	Sent   func(n int64)   // called as bytes arrive, negative when they were lost; nil for nobody
	Retry  func(err error) // called before something is tried again; nil for nobody
}

// errGone is an upload that the registry no longer knows.
var errGone = errors.New("the registry no longer knows the upload")

// PushBlob pushes a blob unless it is there, which pushed tells. The bytes go in chunks, each a PATCH ("Pushing a blob in
// chunks"). After an error it asks how far the upload has come and goes on there; if the registry has forgotten the
// upload it begins anew. It gives up when nothing moves any more, or at an answer that trying again does not change.
func (c *Client) PushBlob(ctx context.Context, u Upload) (pushed bool, err error) {
	there, err := c.HasBlob(ctx, u)
	if err != nil || there {
		return false, err
	}
	for tries := 1; ; tries++ {
		s := sending{c: c, u: u, chunk: u.Chunk}
		if s.chunk <= 0 {
			s.chunk = DefaultChunk
		}
		err := s.all(ctx)
		if err == nil || tries == maxTries || !errors.Is(err, errGone) {
			return err == nil, err
		}
		s.report(-s.offset)
		if err := s.pause(ctx, tries, err); err != nil {
			return false, err
		}
	}
}

// HasBlob asks whether the repository has a blob.
func (c *Client) HasBlob(ctx context.Context, u Upload) (there bool, err error) {
	s := sending{c: c, u: u}
	err = s.persist(ctx, func() error {
		there, err = c.statBlob(ctx, http.MethodHead, u)
		if status := statusOf(err); status != http.StatusNotFound && NoHead(status) {
			there, err = c.statBlob(ctx, http.MethodGet, u)
		}
		if statusOf(err) == http.StatusNotFound {
			err = nil
		}
		return err
	})
	return there, err
}

// statBlob asks by HEAD, or by GET of one byte. What answers with another length, or with a page, does not have the blob.
func (c *Client) statBlob(ctx context.Context, method string, u Upload) (there bool, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL(u.Repo, "/blobs/"+u.Digest.String()), nil)
	if err != nil {
		return false, err
	}
	if method == http.MethodGet {
		req.Header.Set("Range", "bytes=0-0")
	}
	answer, err := c.Do(req, u.Repo, Push)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close() // of a GET without ranges nothing is read
	switch answer.StatusCode {
	case http.StatusOK:
		return answer.ContentLength == u.Size || answer.ContentLength < 0 && !IsPage(answer.Header), nil
	case http.StatusPartialContent:
		return strings.HasSuffix(answer.Header.Get("Content-Range"), fmt.Sprintf("/%d", u.Size)), nil
	}
	return false, failed(answer)
}

// sending is one upload session.
type sending struct {
	c        *Client
	u        Upload
	location string
	offset   int64 // bytes that the registry has
	chunk    int64
}

func (s *sending) all(ctx context.Context) error {
	if err := s.persist(ctx, func() error { return s.begin(ctx) }); err != nil {
		return err
	}
	for tries := 0; s.offset < s.u.Size; {
		before := s.offset
		err := s.patch(ctx)
		if err == nil {
			tries = 0
			continue
		}
		if statusOf(err) == http.StatusRequestEntityTooLarge && s.shrink() {
			s.c.passes.Store(s.chunk) // the other uploads need not find out
			continue                  // nothing was taken, and the next does not have to wait
		}
		if tries++; tries >= maxTries || !s.mayRetry(err, tries) {
			return err
		}
		if err := s.pause(ctx, tries, err); err != nil {
			return err
		}
		if err := s.persist(ctx, func() error { return s.ask(ctx) }); err != nil {
			return err
		}
		if s.offset > before {
			tries = 0
		}
	}
	return s.close(ctx)
}

// begin opens the session. The registry may want larger chunks, or smaller ones.
func (s *sending) begin(ctx context.Context) error {
	address := s.c.URL(s.u.Repo, "/blobs/uploads/")
	if s.u.Digest.Algorithm() != digest.SHA256 {
		address += "?digest-algorithm=" + s.u.Digest.Algorithm().String()
	}
	answer, err := s.c.send(ctx, http.MethodPost, address, strings.NewReader(""), 0, nil, s.u.Repo, Push, http.StatusAccepted)
	if err != nil {
		return err
	}
	if least, err := strconv.ParseInt(answer.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil {
		s.chunk = max(s.chunk, least)
	}
	if most, err := strconv.ParseInt(answer.Header.Get("OCI-Chunk-Max-Length"), 10, 64); err == nil && most > 0 {
		s.chunk = min(s.chunk, most)
	}
	if passes := s.c.passes.Load(); passes > 0 {
		s.chunk = min(s.chunk, passes)
	}
	s.offset = 0
	return s.follow(answer)
}

// follow takes the address that the upload goes on at.
func (s *sending) follow(answer *http.Response) error {
	text := answer.Header.Get("Location")
	location, err := answer.Request.URL.Parse(text)
	if err != nil || text == "" {
		return fmt.Errorf("%s %s: the answer has no Location to go on at", answer.Request.Method, answer.Request.URL.Redacted())
	}
	s.location = location.String()
	return nil
}

// patch sends the next chunk.
func (s *sending) patch(ctx context.Context) error {
	n := min(s.chunk, s.u.Size-s.offset)
	header := http.Header{"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", s.offset, s.offset+n-1)}}
	body := io.NewSectionReader(s.u.Body, s.offset, n)
	answer, err := s.c.send(ctx, http.MethodPatch, s.location, body, n, header, s.u.Repo, Push, http.StatusAccepted, http.StatusNoContent)
	if err != nil {
		return err
	}
	s.advance(s.offset + n)
	return s.follow(answer)
}

func (s *sending) advance(to int64) {
	s.report(to - s.offset)
	s.offset = to
}

func (s *sending) report(n int64) {
	if s.u.Sent != nil && n != 0 {
		s.u.Sent(n)
	}
}

// ask finds out how far the upload has come. errGone.
func (s *sending) ask(ctx context.Context) error {
	answer, err := s.c.send(ctx, http.MethodGet, s.location, nil, 0, nil, s.u.Repo, Push, http.StatusNoContent, http.StatusOK, http.StatusAccepted)
	if status := statusOf(err); status == http.StatusNotFound || status == http.StatusBadRequest || status == http.StatusMethodNotAllowed {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil {
		return err
	}
	offset, err := received(answer.Header.Get("Range"))
	if err != nil || offset > s.u.Size {
		return fmt.Errorf("%w: Range is %q", errGone, answer.Header.Get("Range"))
	}
	s.advance(offset)
	if answer.Header.Get("Location") == "" {
		return nil
	}
	return s.follow(answer)
}

// received reads a Range such as 0-1023. 0-0 is what registries also say when they have nothing.
func received(text string) (int64, error) {
	first, last, ok := strings.Cut(strings.TrimPrefix(text, "bytes="), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	switch {
	case text == "" || text == "0-0" || text == "0--1":
		return 0, nil
	case !ok || first != "0" || err != nil || end < 0:
		return 0, fmt.Errorf("%q is not a range from 0", text)
	}
	return end + 1, nil
}

// shrink makes the chunks smaller, unless they are as small as may be.
func (s *sending) shrink() bool {
	smaller := s.chunk / 2
	if smaller < minChunk {
		return false
	}
	s.chunk = smaller
	return true
}

// mayRetry says whether an error may pass, and makes the chunks smaller if they may be the trouble: not every proxy says
// 413, some break the connection.
func (s *sending) mayRetry(err error, tries int) bool {
	switch status := statusOf(err); {
	case errors.As(err, new(*Unreachable)):
		return false
	case status == 0 && tries >= 2:
		s.shrink()
		return true
	case status == http.StatusRequestedRangeNotSatisfiable:
		return true // an answer was lost: ask how far it has come
	case status == http.StatusNotFound:
		return true // asking will tell that it is gone
	}
	return isPassing(err)
}

// isPassing says whether trying again may help.
func isPassing(err error) bool {
	var network *url.Error
	switch status := statusOf(err); {
	case errors.As(err, new(*Unreachable)):
		return false
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
		return true
	case status == http.StatusNotImplemented || status == http.StatusInsufficientStorage:
		return false
	case status != 0:
		return status >= 500
	default:
		return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
	}
}

// close ends the upload: the registry compares the digest, and there is a blob.
func (s *sending) close(ctx context.Context) error {
	address, err := url.Parse(s.location)
	if err != nil {
		return err
	}
	query := address.Query()
	query.Set("digest", s.u.Digest.String())
	address.RawQuery = query.Encode()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	tries := 0
	return s.persist(ctx, func() error {
		if tries++; tries > 1 { // the first answer may have been lost
			if there, err := s.c.HasBlob(ctx, s.u); err == nil && there {
				return nil
			}
		}
		_, err := s.c.send(ctx, http.MethodPut, address.String(), strings.NewReader(""), 0, header, s.u.Repo, Push, http.StatusCreated)
		if statusOf(err) == http.StatusNotFound {
			err = fmt.Errorf("%w: %w", errGone, err)
		}
		return err
	})
}

// persist tries something again as long as that may help.
func (s *sending) persist(ctx context.Context, try func() error) error {
	for tries := 1; ; tries++ {
		err := try()
		if err == nil || tries == maxTries || errors.Is(err, errGone) || !isPassing(err) {
			return err
		}
		if err := s.pause(ctx, tries, err); err != nil {
			return err
		}
	}
}

// pause waits before the next try, for as long as the registry asks for if it does.
func (s *sending) pause(ctx context.Context, tries int, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s.u.Retry != nil {
		s.u.Retry(why)
	}
	wait := s.c.backoff(tries)
	var status *StatusError
	if errors.As(why, &status) {
		wait = max(wait, min(status.RetryAfter, 5*time.Minute))
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait):
		return nil
	}
}

// PushManifest pushes a manifest by a tag, or by its digest if tag is empty.
func (c *Client) PushManifest(ctx context.Context, repo, tag, mediaType string, content []byte) error {
	if tag == "" {
		tag = digest.FromBytes(content).String()
	}
	s := sending{c: c}
	return s.persist(ctx, func() error {
		_, err := c.send(ctx, http.MethodPut, c.URL(repo, "/manifests/"+tag), strings.NewReader(string(content)), int64(len(content)),
			http.Header{"Content-Type": {mediaType}}, repo, Push, http.StatusCreated)
		return err
	})
}

package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"registry/server/registry"
	"registry/server/remote"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// What may go wrong with another registry. Everything else that a Remote fails with means that it is not there, or does
// not do what a registry does.
var (
	ErrUnknown     = errors.New("the upstream does not have it")
	ErrCredentials = errors.New("the upstream refuses the credentials")
	ErrWrong       = errors.New("the upstream sent wrong bytes")
)

// Busy is the error of a registry that was asked too much.
type Busy struct {
	After time.Duration // when it wants to be asked again
}

func (b Busy) Error() string {
	return fmt.Sprintf("the upstream wants to be left alone for %s", b.After)
}

const (
	maxManifest = 4 << 20 // bytes
	maxList     = 16 << 20
	maxTokens   = 5000 // requests after which tokens are forgotten: there is one for each repository
	defaultBusy = time.Minute
	longestBusy = 6 * time.Hour
)

// Remote is another registry as a client sees it. It logs in where that is asked for, and shows credentials and itself to
// nobody else. It is safe for concurrent use.
type Remote struct {
	up      Upstream
	stall   time.Duration
	note    func(result string)
	http    *http.Client
	auth    atomic.Pointer[auth.Client]
	used    atomic.Int64
	proxies sync.Map     // addresses of those that were used
	left    atomic.Int64 // pulls that are left, and one more; 0 if nobody said
}

// NewRemote makes a client of a registry. It gives up on an answer that brings no byte for the time stall, and tells note,
// unless it is nil, how each request ended: a status, or failed.
func NewRemote(up Upstream, stall time.Duration, note func(result string)) *Remote {
	if note == nil {
		note = func(string) {}
	}
	r := &Remote{up: up, stall: stall, note: note}
	transport := &http.Transport{Proxy: r.proxyOf, DialContext: r.dial, ForceAttemptHTTP2: true, DisableCompression: true, TLSHandshakeTimeout: dialTimeout,
		ResponseHeaderTimeout: stall, IdleConnTimeout: time.Minute, MaxIdleConnsPerHost: 16, MaxResponseHeaderBytes: 64 << 10}
	r.http = &http.Client{Transport: remote.Challenged{Next: guard{r, transport}, Basic: r.hasPassword, Realm: r.isRealm}, CheckRedirect: follow}
	r.forget()
	return r
}

// Close ends idle connections.
func (r *Remote) Close() { r.http.CloseIdleConnections() }

// forget makes a client that has no tokens.
func (r *Remote) forget() {
	r.auth.Store(&auth.Client{Client: r.http, Cache: auth.NewCache(), Header: http.Header{"User-Agent": {"registry-mirror"}}, Credential: r.credential})
}

func (r *Remote) credential(_ context.Context, host string) (auth.Credential, error) {
	if host != r.up.URL.Host || r.up.User == "" {
		return auth.EmptyCredential, nil
	}
	return auth.Credential{Username: r.up.User, Password: r.up.Secret}, nil
}

func (r *Remote) hasPassword(req *http.Request) bool {
	return r.up.User != "" && req.URL.Host == r.up.URL.Host
}

func (r *Remote) isRealm(u *url.URL) bool { return r.isOwn(u.Scheme, u.Host) }

// do asks the registry something about a repository. The answer has one of the statuses; else there is an error.
func (r *Remote) do(ctx context.Context, method, repo, path string, header http.Header, statuses ...int) (*http.Response, error) {
	ctx = auth.WithScopes(ctx, auth.ScopeRepository(repo, auth.ActionPull))
	return r.ask(ctx, method, repo+"/"+path, header, statuses...)
}

// ask is do for whatever the scopes of ctx are about.
func (r *Remote) ask(ctx context.Context, method, path string, header http.Header, statuses ...int) (*http.Response, error) {
	if r.used.Add(1)%maxTokens == 0 {
		r.forget()
	}
	req, err := http.NewRequestWithContext(ctx, method, r.up.URL.String()+"/v2/"+path, nil)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := r.auth.Load().Do(req)
	if err != nil {
		err = r.refused(err)
		r.note(result(err))
		return nil, err
	}
	r.note(strconv.Itoa(resp.StatusCode))
	r.noteLimit(resp.Header)
	for _, status := range statuses {
		if resp.StatusCode == status {
			return resp, nil
		}
	}
	resp.Body.Close()
	return nil, r.unexpected(resp)
}

func result(err error) string {
	if errors.As(err, new(Busy)) {
		return "429"
	}
	return "failed"
}

// refused sees whether it was the login that failed.
func (r *Remote) refused(err error) error {
	var answer *errcode.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusUnauthorized && answer.StatusCode != http.StatusForbidden {
		return err
	}
	if r.up.User == "" {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return fmt.Errorf("%w: %w", ErrCredentials, err)
}

// statusError is a status that was not the wanted one.
type statusError struct {
	code int
	text string
}

func (e statusError) Error() string { return "status " + e.text }

// unexpected is the error for a status. Many registries answer a question about a repository that is not there with 401 or
// 403; only to a password it means that the password is wrong.
func (r *Remote) unexpected(resp *http.Response) error {
	scheme, _, _ := strings.Cut(resp.Header.Get("Www-Authenticate"), " ")
	switch err := (statusError{resp.StatusCode, resp.Status}); {
	case resp.StatusCode == http.StatusUnauthorized && r.up.User != "" && strings.EqualFold(scheme, "basic"):
		return fmt.Errorf("%w: %w", ErrCredentials, err)
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusGone:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	default:
		return err
	}
}

// busy reads Retry-After (RFC 9110 section 10.2.3), within reason.
func busy(resp *http.Response) Busy {
	text := resp.Header.Get("Retry-After")
	after := defaultBusy
	if seconds, err := strconv.Atoi(text); err == nil {
		after = time.Duration(min(seconds, int(longestBusy.Seconds()))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		after = time.Until(at)
	}
	return Busy{After: min(max(after, time.Second), longestBusy)}
}

// Manifest is a manifest of another registry, whose bytes have its digest.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Content   []byte
}

// accepted are the manifests there are. Without saying so one gets those of ten years ago.
var accepted = http.Header{"Accept": {strings.Join([]string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json", "*/*;q=0.1"}, ", ")}}

// Manifest pulls what ref names. ErrWrong if it has not the digest that was asked for, or not the one that was announced.
func (r *Remote) Manifest(ctx context.Context, repo string, ref registry.Reference) (Manifest, error) {
	resp, err := r.do(ctx, http.MethodGet, repo, "manifests/"+ref.String(), accepted, http.StatusOK)
	if err != nil {
		return Manifest{}, err
	}
	defer resp.Body.Close()
	content, err := r.readAll(resp, maxManifest)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Digest: ref.Digest, MediaType: typeOf(resp.Header.Get("Content-Type"), content), Content: content}
	if m.Digest == "" {
		m.Digest = digest.FromBytes(content)
		if said, err := registry.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil {
			m.Digest = said
		}
	}
	if m.Digest.Algorithm().FromBytes(content) != m.Digest {
		return Manifest{}, fmt.Errorf("%w: the manifest is not %s", ErrWrong, m.Digest)
	}
	return m, nil
}

// typeOf returns what a manifest is: its Content-Type, or what it says itself where that is one of those which file servers
// give to anything.
func typeOf(contentType string, content []byte) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.TrimSpace(mediaType)
	switch strings.ToLower(mediaType) {
	case "", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain":
		return registry.MediaTypeOf(content)
	}
	return mediaType
}

// readAll reads a small body.
func (r *Remote) readAll(resp *http.Response, limit int64) ([]byte, error) {
	body := r.patient(resp.Body)
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%w: more than %d bytes", ErrWrong, limit)
	}
	return content, err
}

// Resolve returns the digest that a tag points at by now: what HEAD says, or, where HEAD is refused or says nothing, that of
// what GET brings, which is returned as well.
func (r *Remote) Resolve(ctx context.Context, repo string, tag registry.Tag) (d digest.Digest, got *Manifest, err error) {
	resp, err := r.head(ctx, repo, "manifests/"+string(tag))
	if err == nil {
		if d, err := registry.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && !remote.IsPage(resp.Header) {
			return d, nil, nil
		}
	} else if !mayLackHead(err) {
		return "", nil, err
	}
	m, err := r.Manifest(ctx, repo, registry.Reference{Tag: tag})
	if err != nil {
		return "", nil, err
	}
	return m.Digest, &m, nil
}

// Probe asks about a tag without a GET, so that it costs no pull.
func (r *Remote) Probe(ctx context.Context, repo string, tag registry.Tag) error {
	_, err := r.head(ctx, repo, "manifests/"+string(tag))
	return err
}

func (r *Remote) head(ctx context.Context, repo, path string) (*http.Response, error) {
	resp, err := r.do(ctx, http.MethodHead, repo, path, accepted, http.StatusOK)
	if err == nil {
		resp.Body.Close()
	}
	return resp, err
}

// BlobSize returns how many bytes a blob has, -1 if the registry does not say.
func (r *Remote) BlobSize(ctx context.Context, repo string, d digest.Digest) (int64, error) {
	resp, err := r.head(ctx, repo, "blobs/"+d.String())
	switch {
	case err == nil && remote.IsPage(resp.Header):
		return 0, errPage
	case err == nil:
		return resp.ContentLength, nil
	case !mayLackHead(err):
		return 0, err
	}
	body, size, err := r.Blob(ctx, repo, d, 0, -1)
	if err == nil {
		err = body.Close()
	}
	return size, err
}

// mayLackHead says whether a failure may be that of HEAD alone.
func mayLackHead(err error) bool {
	var status statusError
	return errors.As(err, &status) && remote.NoHead(status.code)
}

var errPage = fmt.Errorf("%w: a web page", ErrWrong)

// Blob opens a blob to read from an offset on. size is that of the whole, -1 if the registry does not say; want is what
// the manifest says, -1 if that is not known; from the second part on it is what the first part said, and has to be the same. Nothing has shown yet that the bytes are right. The caller closes the body.
func (r *Remote) Blob(ctx context.Context, repo string, d digest.Digest, from, want int64) (body io.ReadCloser, size int64, err error) {
	header := http.Header{}
	if from > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
	}
	resp, err := r.do(ctx, http.MethodGet, repo, "blobs/"+d.String(), header, http.StatusOK, http.StatusPartialContent)
	if err != nil {
		return nil, 0, err
	}
	body, size = r.patient(resp.Body), resp.ContentLength
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		size, err = readContentRange(resp.Header.Get("Content-Range"), from)
	case remote.IsPage(resp.Header) && (size < 0 || size != want):
		err = errPage
	}
	if err == nil && from > 0 && size >= 0 && want >= 0 && size != want {
		err = fmt.Errorf("%w: %d bytes now, and %d before", ErrWrong, size, want)
	}
	if err == nil && resp.StatusCode == http.StatusOK {
		_, err = io.CopyN(io.Discard, body, from)
	}
	if err != nil {
		body.Close()
		return nil, 0, err
	}
	return body, size, nil
}

func readContentRange(text string, from int64) (size int64, err error) {
	var first, last int64
	if n, _ := fmt.Sscanf(text, "bytes %d-%d/%d", &first, &last, &size); n != 3 || first != from || last != size-1 {
		return 0, fmt.Errorf("%w: another range than was asked for", ErrWrong)
	}
	return size, nil
}

// patient ends a body that brings no byte for the time stall.
func (r *Remote) patient(body io.ReadCloser) io.ReadCloser {
	p := &patientBody{ReadCloser: body, stall: r.stall}
	p.timer = time.AfterFunc(r.stall, func() { p.stalled.Store(true); body.Close() })
	return p
}

type patientBody struct {
	io.ReadCloser
	stall   time.Duration
	timer   *time.Timer
	stalled atomic.Bool
}

func (p *patientBody) Read(b []byte) (int, error) {
	n, err := p.ReadCloser.Read(b)
	if p.stalled.Load() {
		return n, fmt.Errorf("the upstream sent nothing for %s", p.stall)
	}
	p.timer.Reset(p.stall)
	return n, err
}

func (p *patientBody) Close() error {
	p.timer.Stop()
	return p.ReadCloser.Close()
}

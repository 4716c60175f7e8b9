// Package remote is a client of registries, whoever made them: it logs in as the specification of distribution says,
// asks what is there, and pushes through whatever stands in between, in chunks that a small body limit lets pass and that
// go on where a broken connection left them. It knows nothing of this registry.
package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Target is where something is, or goes: a registry, and in it a repository with a tag.
type Target struct {
	Base *url.URL // scheme and host
	Repo string   // "" for the registry as such
	Tag  string   // "" for none
}

func (t Target) String() string {
	s := t.Base.Host
	if t.Repo != "" {
		s += "/" + t.Repo
	}
	if t.Tag != "" {
		s += ":" + t.Tag
	}
	return s
}

// The grammar of the distribution specification ("Pulling manifests").
var (
	repoName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	hostName = regexp.MustCompile(`^([a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:.]+\])(:[0-9]+)?$`) // url.Parse takes more
	tagName  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// ParseTarget reads [http://|https://]HOST[:PORT][/REPO[:TAG]]. Without a scheme it is https, but http for this machine.
func ParseTarget(s string) (Target, error) {
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		scheme, rest = "", s
	}
	host, repo, _ := strings.Cut(rest, "/")
	base, err := parseHost(host)
	if err != nil {
		return Target{}, fmt.Errorf("%q: %w", s, err)
	}
	switch {
	case scheme == "" && isLoopback(base.Hostname()):
		base.Scheme = "http"
	case scheme == "":
		base.Scheme = "https"
	case scheme != "http" && scheme != "https":
		return Target{}, fmt.Errorf("%q: want http:// or https://", s)
	default:
		base.Scheme = scheme
	}
	t := Target{Base: base}
	repo = strings.TrimSuffix(repo, "/")
	t.Repo, t.Tag, found = strings.Cut(repo, ":")
	if t.Repo != "" && (!repoName.MatchString(t.Repo) || len(t.Repo) > 255) || t.Repo == "" && found {
		return Target{}, fmt.Errorf("%q: %q is not a repository name", s, t.Repo)
	}
	if found && !tagName.MatchString(t.Tag) {
		return Target{}, fmt.Errorf("%q: %q is not a tag", s, t.Tag)
	}
	return t, nil
}

func parseHost(host string) (*url.URL, error) {
	u, err := url.Parse("https://" + host)
	if err != nil || !hostName.MatchString(host) {
		return nil, fmt.Errorf("%q is not HOST or HOST:PORT", host)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%q has no port from 1 to 65535", host)
		}
	}
	return u, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Config is what a client has of its own. Everything may be zero.
type Config struct {
	User, Password string                                // "": those of Docker's config.json, if it has any for the host
	CA             *x509.CertPool                        // nil: the machine's
	Proxy          func(*http.Request) (*url.URL, error) // nil: that of HTTPS_PROXY, HTTP_PROXY and NO_PROXY
	UserAgent      string                                //
	Backoff        func(int) time.Duration               // before the nth try again, counted from 1; nil: half a second, doubled up to 30 s
}

// ProxyOf returns the proxy for a request, nil for none.
func (cfg Config) ProxyOf(req *http.Request) (*url.URL, error) {
	if cfg.Proxy == nil {
		return http.ProxyFromEnvironment(req)
	}
	return cfg.Proxy(req)
}

// Client talks to one registry. It is safe for concurrent use.
type Client struct {
	base     *url.URL
	auth     *auth.Client
	backoff  func(int) time.Duration
	answered atomic.Bool  // it has, once
	passes   atomic.Int64 // the largest chunk that may pass, as far as was found out; 0: not known
}

// New returns a client of the registry at base. It opens no connection.
func New(base *url.URL, cfg Config) (*Client, error) {
	credential, err := credentialOf(base, cfg)
	if err != nil {
		return nil, err
	}
	c := &Client{base: base, backoff: cfg.Backoff}
	if c.backoff == nil {
		c.backoff = func(n int) time.Duration { return min(500*time.Millisecond<<min(n-1, 8), 30*time.Second) }
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = cfg.ProxyOf
	transport.TLSClientConfig = &tls.Config{RootCAs: cfg.CA, MinVersion: tls.VersionTLS12}
	transport.ResponseHeaderTimeout = 5 * time.Minute
	login := Challenged{Next: transport, Basic: c.hasPassword(credential), Realm: func(*url.URL) bool { return true }}
	c.auth = &auth.Client{Client: &http.Client{Transport: login}, Cache: auth.NewCache(), Credential: credential, ClientID: "registry"}
	c.auth.SetUserAgent(cfg.UserAgent)
	return c, nil
}

// hasPassword says of a request whether there is a password for its host.
func (c *Client) hasPassword(credential auth.CredentialFunc) func(*http.Request) bool {
	return func(req *http.Request) bool {
		if credential == nil || req.URL.Host != c.base.Host {
			return false
		}
		found, err := credential(req.Context(), req.URL.Host)
		return err == nil && found.Username != ""
	}
}

// credentialOf finds what the registry, and no other host, is told who asks. Credential helpers are not run: what they
// are is what a file of the user says.
func credentialOf(base *url.URL, cfg Config) (auth.CredentialFunc, error) {
	if cfg.User != "" {
		return auth.StaticCredential(base.Host, auth.Credential{Username: cfg.User, Password: cfg.Password}), nil
	}
	dir := os.Getenv("DOCKER_CONFIG")
	if home, err := os.UserHomeDir(); dir == "" && err == nil {
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	if _, err := os.Stat(path); dir == "" || err != nil {
		return nil, nil
	}
	store, err := credentials.NewFileStore(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func(ctx context.Context, host string) (auth.Credential, error) {
		if host != base.Host {
			return auth.EmptyCredential, nil
		}
		return store.Get(ctx, host)
	}, nil
}

// Pull and Push are what a request may need to be allowed.
const (
	Pull   = "pull"
	Push   = "pull,push"
	Delete = "delete,pull,push"
)

// URL is an address of the repository's part of the API.
func (c *Client) URL(repo, path string) string {
	return c.base.Scheme + "://" + c.base.Host + "/v2/" + repo + path
}

// Do sends a request with the token or the password that it needs. A body has to have GetBody, because it may be sent
// twice. The caller closes the answer's body.
func (c *Client) Do(req *http.Request, repo, actions string) (*http.Response, error) {
	ctx := req.Context()
	if repo != "" {
		ctx = auth.WithScopesForHost(ctx, c.base.Host, "repository:"+repo+":"+actions)
	}
	if c.base.Scheme == "https" && req.URL.Scheme == "http" {
		return nil, fmt.Errorf("the registry at https://%s says to go on at %s without TLS: the proxy in front of it has to send X-Forwarded-Proto", c.base.Host, req.URL.Redacted())
	}
	answer, err := c.auth.Do(req.WithContext(ctx))
	if err != nil {
		return nil, c.unreachable(req, err)
	}
	c.answered.Store(true)
	return answer, nil
}

// StatusError is an answer that was not the wanted one.
type StatusError struct {
	Method, URL string
	Status      int
	Text        string // the registry's words, or the beginning of the body
	RetryAfter  time.Duration
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s %s: %d %s", e.Method, e.URL, e.Status, http.StatusText(e.Status))
	if e.Text != "" {
		s += ": " + e.Text
	}
	return s
}

// statusOf is the status of an answer that err is about, 0 if there was none.
func statusOf(err error) int {
	var status *StatusError
	if errors.As(err, &status) {
		return status.Status
	}
	return 0
}

// failed reads what an answer that was not the wanted one says.
func failed(answer *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	words := strings.Join(strings.Fields(string(text)), " ")
	if strings.HasPrefix(words, "<") {
		words = "" // a proxy's web page says no more than the status
	}
	if json.Unmarshal(text, &body) == nil && len(body.Errors) > 0 {
		words = strings.TrimSpace(body.Errors[0].Code + " " + body.Errors[0].Message)
	}
	seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	return &StatusError{answer.Request.Method, answer.Request.URL.Redacted(), answer.StatusCode, fmt.Sprintf("%.200s", words), time.Duration(seconds) * time.Second}
}

// send is Do for one of the wanted statuses; any other is a *StatusError. The body of the answer has been closed.
func (c *Client) send(ctx context.Context, method, address string, body io.ReaderAt, size int64, header http.Header, repo, actions string, want ...int) (*http.Response, error) {
	answer, _, err := c.ask(ctx, method, address, body, size, header, repo, actions, want...)
	return answer, err
}

// maxAnswer bounds manifests and lists of tags.
const maxAnswer = 4 << 20

func (c *Client) ask(ctx context.Context, method, address string, body io.ReaderAt, size int64, header http.Header, repo, actions string, want ...int) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, nil, err
	}
	if body != nil {
		req.ContentLength = size
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(body, 0, size)), nil }
		req.Body, _ = req.GetBody()
		if size == 0 {
			req.Body = http.NoBody
		}
	}
	for key, values := range header {
		req.Header[key] = values
	}
	answer, err := c.Do(req, repo, actions)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	for _, status := range want {
		if answer.StatusCode == status {
			content, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
			if err == nil && len(content) > maxAnswer {
				err = fmt.Errorf("%s %s: the answer is longer than %d bytes", method, address, maxAnswer)
			}
			return answer, content, err
		}
	}
	return answer, nil, failed(answer)
}

// accepted are the manifests a client takes: some registries hide what it does not name.
var accepted = http.Header{"Accept": {strings.Join([]string{v1.MediaTypeImageIndex, v1.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json", "*/*"}, ", ")}}

// Digest returns the digest of the manifest that a tag points at; "" if there is none.
func (c *Client) Digest(ctx context.Context, repo, tag string) (digest.Digest, error) {
	address := c.URL(repo, "/manifests/"+tag)
	answer, err := c.send(ctx, http.MethodHead, address, nil, 0, accepted, repo, Pull, http.StatusOK)
	if err != nil && !NoHead(statusOf(err)) {
		return "", err
	}
	if err == nil && !IsPage(answer.Header) {
		if d, err := digest.Parse(answer.Header.Get("Docker-Content-Digest")); err == nil {
			return d, nil
		}
	}
	answer, content, err := c.ask(ctx, http.MethodGet, address, nil, 0, accepted, repo, Pull, http.StatusOK)
	switch {
	case statusOf(err) == http.StatusNotFound:
		return "", nil
	case err == nil && IsPage(answer.Header):
		err = errPage(answer)
	}
	if err != nil {
		return "", err
	}
	return digest.FromBytes(content), nil
}

// errPage is the error for a page for people where a registry was asked.
func errPage(answer *http.Response) error {
	return fmt.Errorf("%s %s: a web page answers, not a registry", answer.Request.Method, answer.Request.URL.Redacted())
}

// Tags returns the tags of a repository, none if there is no such repository.
func (c *Client) Tags(ctx context.Context, repo string) (tags []string, err error) {
	const pages = 10_000
	query := "n=1000"
	for range pages {
		address := c.URL(repo, "/tags/list?"+query)
		answer, content, err := c.ask(ctx, http.MethodGet, address, nil, 0, nil, repo, Pull, http.StatusOK)
		if statusOf(err) == http.StatusNotFound {
			return tags, nil
		}
		if err != nil {
			return nil, err
		}
		var page struct{ Tags []string }
		if err := json.Unmarshal(content, &page); err != nil {
			return nil, fmt.Errorf("GET %s: %w", address, err)
		}
		tags = append(tags, page.Tags...)
		next, err := NextPage(answer.Header)
		switch {
		case err != nil:
			return nil, fmt.Errorf("GET %s: %w", address, err)
		case next == "", next == query && len(page.Tags) == 0:
			return tags, nil
		case next == query:
			return nil, fmt.Errorf("GET %s: the list does not end", address)
		}
		query = next
	}
	return nil, fmt.Errorf("%s: the list of tags does not end", repo)
}

// isNoHost says whether a connection failed because nothing has this name.
func isNoHost(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// isCertificate says whether a connection failed because of who answered.
func isCertificate(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification)
}

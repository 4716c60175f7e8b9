// Package doctor does with a registry what clients do, a login, a push, a pull, ranges and deletions, and names what is
// wrong with it or with what stands in front of it, in the words of those who can change that. It works against any
// registry, and leaves nothing behind that could be pulled where deletions are allowed.
package doctor

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"registry/server/remote"

	"github.com/opencontainers/go-digest"
)

// Level is how bad a finding is.
type Level string

// The levels. With a problem some clients fail; with a warning something is slower or less safe than it could be.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Problem Level = "problem"
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"` // a word
	Did    string `json:"did"`  // what was done
	Level  Level  `json:"level"`
	Found  string `json:"found"`            // what came of it
	Advice string `json:"advice,omitempty"` // what to change
}

// Options say what is looked at.
type Options struct {
	Base   *url.URL
	Repo   string // that the push goes to; "": doctor/ and a random name
	Remote remote.Config
	Size   int64         // bytes of the blob; 0: 64 MiB
	Slow   time.Duration // a commit that takes longer is slow; 0: 10 s
	Lag    time.Duration // without an answer for so long a body is taken to be buffered; 0: 3 s
	Found  func(Check)   // called for each check; nil for nobody
}

const (
	leeway     = time.Minute // that tokens allow for clocks
	expiresIn  = 14 * 24 * time.Hour
	dialWithin = 15 * time.Second
)

// Run looks at everything, as far as it gets. An error means that it could not look at all.
func Run(ctx context.Context, opt Options) ([]Check, error) {
	client, err := remote.New(opt.Base, opt.Remote)
	if err != nil {
		return nil, err
	}
	var name [8]byte
	rand.Read(name[:])
	p := &patient{opt: opt, base: opt.Base, client: client, repo: opt.Repo, size: opt.Size}
	if p.repo == "" {
		p.repo = "doctor/" + hex.EncodeToString(name[:])
	}
	if p.size <= 0 {
		p.size = 64 << 20
	}
	if p.opt.Slow <= 0 {
		p.opt.Slow = 10 * time.Second
	}
	if p.opt.Lag <= 0 {
		p.opt.Lag = 3 * time.Second
	}
	rand.Read(p.seed[:])
	if p.digest, err = digest.FromReader(p.body()); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) bool{p.connect, p.api, p.ready, p.login, p.upload, p.send, p.commit, p.head, p.pull, p.ranges, p.manifest, p.namespace, p.referrers, p.rules} {
		if !step(ctx) || ctx.Err() != nil {
			break
		}
	}
	p.remove(context.WithoutCancel(ctx))
	return p.checks, ctx.Err()
}

// patient is the registry that is looked at.
type patient struct {
	opt    Options
	base   *url.URL
	client *remote.Client
	repo   string
	checks []Check

	size     int64
	seed     [32]byte
	digest   digest.Digest // of the body
	location string        // of the upload
	asksFor  string        // the challenge of the registry, "" for none

	blobs     []digest.Digest // that were pushed
	pushed    digest.Digest   // the manifest
	mediaType string
	content   []byte
}

// body is what is pushed: bytes that nothing can compress.
func (p *patient) body() io.Reader { return io.LimitReader(mathrand.NewChaCha8(p.seed), p.size) }

func (p *patient) add(level Level, name, did, found, advice string) {
	c := Check{name, did, level, found, advice}
	p.checks = append(p.checks, c)
	if p.opt.Found != nil {
		p.opt.Found(c)
	}
}

// look is one check while it is made: the worst that is found counts.
type look struct {
	p         *patient
	name, did string
	problems  int
}

func (p *patient) look(name, did string) *look { return &look{p: p, name: name, did: did} }

func (l *look) problem(advice, format string, args ...any) {
	l.problems++
	l.p.add(Problem, l.name, l.did, fmt.Sprintf(format, args...), advice)
}

func (l *look) warning(advice, format string, args ...any) {
	l.problems++
	l.p.add(Warning, l.name, l.did, fmt.Sprintf(format, args...), advice)
}

// ok says what was found, unless something was wrong.
func (l *look) ok(format string, args ...any) {
	if l.problems == 0 {
		l.p.add(OK, l.name, l.did, fmt.Sprintf(format, args...), "")
	}
}

// connect looks at the connection and the certificate. Nothing is sent to whom is not trusted.
func (p *patient) connect(ctx context.Context) bool {
	address := p.base.Host
	if p.base.Port() == "" {
		address = net.JoinHostPort(p.base.Hostname(), map[string]string{"http": "80", "https": "443"}[p.base.Scheme])
	}
	if proxy := p.proxy(); proxy != nil {
		return p.connectThrough(ctx, proxy)
	}
	l := p.look("connection", "connected to "+address)
	dialer := &net.Dialer{Timeout: dialWithin}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		l.problem("see that the name resolves, the server runs and listens on this address, and no firewall is in between", "no connection: %v", err)
		return false
	}
	defer conn.Close()
	if p.base.Scheme == "http" {
		p.plain(l)
		return true
	}
	conn.SetDeadline(time.Now().Add(dialWithin))
	secure := tls.Client(conn, &tls.Config{ServerName: p.base.Hostname(), InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}) // verified below
	if err := secure.HandshakeContext(ctx); err != nil {
		l.problem("serve HTTPS on this port, or name it as http://"+p.base.Host, "no TLS: %v", err)
		return false
	}
	p.certificate(secure.ConnectionState())
	return !p.found("certificate")
}

// plain says what it means that there is no TLS.
func (p *patient) plain(l *look) {
	if ip := net.ParseIP(p.base.Hostname()); p.base.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		l.warning("serve HTTPS; otherwise every client has to be told that this registry is insecure", "no TLS: passwords and images can be read and changed on the way")
	}
	l.ok("plain HTTP")
}

// proxy is the one on the way to the registry, nil for none.
func (p *patient) proxy() *url.URL {
	proxy, err := p.opt.Remote.ProxyOf(&http.Request{URL: p.base})
	if err != nil {
		return nil // whatever is asked fails with this error
	}
	return proxy
}

// errLooked ends a connection that was only to be looked at.
var errLooked = errors.New("looked at")

// connectThrough is connect by a proxy, which is asked for a tunnel if there is to be TLS.
func (p *patient) connectThrough(ctx context.Context, proxy *url.URL) bool {
	l := p.look("connection", "connected through the proxy "+proxy.Host)
	if p.base.Scheme == "http" {
		p.plain(l)
		return true
	}
	if proxy.Scheme == "https" {
		l.ok("the certificate is not looked at by itself where there is TLS to the proxy, too")
		return true
	}
	states := make(chan tls.ConnectionState, 1)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = http.ProxyURL(proxy)
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error { // verified below
		select {
		case states <- state:
		default:
		}
		return errLooked
	}}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: dialWithin}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.client.URL("", ""), nil)
	if err == nil {
		_, err = client.Do(req) // which sends nothing but the handshake
	}
	select {
	case state := <-states:
		l.ok("it lets TLS pass")
		p.certificate(state)
		return !p.found("certificate")
	default:
		l.problem("see that the proxy of HTTPS_PROXY runs and may go there, or name this host in NO_PROXY", "no TLS connection: %v", remote.Cause(err))
		return false
	}
}

func (p *patient) certificate(state tls.ConnectionState) {
	l := p.look("certificate", "looked at the certificate")
	leaf := state.PeerCertificates[0]
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{DNSName: p.base.Hostname(), Roots: p.opt.Remote.CA, Intermediates: intermediates})
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &name):
		l.problem("get a certificate that has this name among its subject alternative names", "it is for %s, not for %s", strings.Join(names(leaf), ", "), p.base.Hostname())
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && time.Now().Before(leaf.NotBefore):
		l.problem("set this machine's clock, or wait", "it is good only from %s on", leaf.NotBefore.UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		l.problem("renew the certificate, and have the server read it again", "it expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case err != nil && len(state.PeerCertificates) == 1 && leaf.Issuer.String() != leaf.Subject.String():
		l.problem("send the intermediate certificates after the server's own in its file, or have clients trust the CA (--ca FILE tries that)",
			"this machine does not trust %s, and the server sends no intermediate certificate", leaf.Issuer)
	case err != nil:
		l.problem("have clients trust the CA (--ca FILE tries that)", "this machine does not trust %s: %v", leaf.Issuer, err)
	case time.Until(leaf.NotAfter) < expiresIn:
		l.warning("renew it, by itself if possible", "it expires at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	l.ok("good until %s", leaf.NotAfter.UTC().Format(time.DateOnly))
	h := p.look("http/2", "asked for HTTP/2")
	if state.NegotiatedProtocol != "h2" {
		h.warning("switch HTTP/2 on: clients that pull many layers need fewer connections", "the server speaks HTTP/1.1 only")
	}
	h.ok("it is spoken")
}

func names(leaf *x509.Certificate) []string {
	all := leaf.DNSNames
	for _, ip := range leaf.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		all = []string{"nobody (it has no subject alternative name)"}
	}
	return all
}

// bare sends a request without credentials and follows no redirect.
func (p *patient) bare(ctx context.Context, address string) (*http.Response, []byte, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = p.opt.Remote.ProxyOf
	transport.TLSClientConfig = &tls.Config{RootCAs: p.opt.Remote.CA}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, err
	}
	answer, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<10))
	return answer, text, err
}

// api asks for /v2/, by which clients find out what they speak to.
func (p *patient) api(ctx context.Context) bool {
	l := p.look("api", "GET /v2/")
	answer, text, err := p.bare(ctx, p.client.URL("", ""))
	if err != nil {
		l.problem("see the server's log", "%v", err)
		return false
	}
	switch status := answer.StatusCode; {
	case status >= 300 && status < 400:
		l.problem("name the registry by the address it redirects to, and do not redirect /v2/: clients do not follow with what they push", "it redirects to %s", answer.Header.Get("Location"))
		return false
	case status >= 500:
		l.problem("the proxy does not reach the registry, or the registry fails: see their logs", "it answers %s", answer.Status)
		return false
	case status != http.StatusOK && status != http.StatusUnauthorized:
		l.problem("have the proxy pass /v2/ on as it is, at the root of the host: clients know no other path", "it answers %s, which no registry does", answer.Status)
		return false
	}
	if answer.Header.Get("Docker-Distribution-Api-Version") == "" && strings.Contains(string(text), "<html") {
		l.problem("have the proxy pass /v2/ on to the registry", "a web page answers, not a registry")
		return false
	}
	if answer.Header.Get("Docker-Distribution-Api-Version") == "" {
		l.warning("have the proxy keep the registry's headers", "the header Docker-Distribution-Api-Version is missing: old clients take this for no registry")
	}
	l.ok("it answers %s", answer.Status)
	p.clock(answer)
	if answer.StatusCode == http.StatusUnauthorized {
		p.asksFor = answer.Header.Get("Www-Authenticate")
		p.challenge(p.asksFor)
	}
	return true
}

// ready asks a registry of this kind, if the proxy lets it be asked, whether it takes pushes. Others have no such address.
func (p *patient) ready(ctx context.Context) bool {
	answer, text, err := p.bare(ctx, p.base.Scheme+"://"+p.base.Host+"/readyz?writes=1")
	if err != nil {
		return true
	}
	l := p.look("ready", "GET /readyz?writes=1")
	said := strings.TrimSpace(string(text))
	switch {
	case answer.StatusCode == http.StatusOK && said == "ok":
		l.ok("pulls and pushes work")
	case answer.StatusCode != http.StatusServiceUnavailable:
	case strings.HasPrefix(said, "degraded: "):
		l.problem("see the server's log and its disk, unless the registry is meant to be read-only", "pulls work, pushes do not: %s", said)
	case said == "stopping" || strings.HasSuffix(said, " failed"):
		l.problem("see the server's log", "%.80s", said)
	}
	return true
}

// clock compares clocks: a token of a server whose clock is ahead is not good yet, one that is behind ends it too soon.
func (p *patient) clock(answer *http.Response) {
	l := p.look("clock", "compared the server's clock with this machine's")
	theirs, err := http.ParseTime(answer.Header.Get("Date"))
	if err != nil {
		l.warning("have the proxy keep the header Date", "the server does not say what time it is")
		return
	}
	if off := time.Since(theirs).Round(time.Second); off.Abs() > leeway {
		l.problem("set both clocks by NTP: tokens and certificates depend on them", "they differ by %s", off.Abs())
	}
	l.ok("they agree")
}

// challenge looks at where clients are sent for a token.
func (p *patient) challenge(text string) {
	l := p.look("realm", "read the challenge of GET /v2/")
	scheme, parameters, _ := strings.Cut(text, " ")
	switch {
	case text == "":
		l.problem("have the proxy keep the header WWW-Authenticate", "401 without a challenge: clients do not know how to log in")
	case strings.EqualFold(scheme, "basic"):
		l.warning("use tokens (Bearer) if images are to be pulled without a login", "it asks for Basic credentials: nobody can pull anonymously")
	case !strings.EqualFold(scheme, "bearer"):
		l.problem("have the registry, and nothing in front of it, ask for the login", "it asks for %s, which clients of registries do not know", scheme)
	default:
		p.origin(l, "the token endpoint", parameter(parameters, "realm"))
	}
	l.ok("%s", text)
}

// parameter reads one of key="value", ….
func parameter(text, key string) string {
	_, rest, _ := strings.Cut(text, key+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// origin looks at an address the registry gives out: it has to be one that the client can reach as it reached this one.
func (p *patient) origin(l *look, what, address string) {
	u, err := url.Parse(address)
	switch {
	case err != nil || address == "":
		l.problem("see the registry's configuration", "%s is %q, which is no address", what, address)
	case u.Host == "" && u.Scheme == "" && strings.HasPrefix(address, "/"):
	case u.Scheme == p.base.Scheme && hostPort(u) == hostPort(p.base):
	case u.Hostname() == p.base.Hostname() && p.base.Scheme == "https" && u.Scheme == "http":
		l.problem("have the proxy send X-Forwarded-Proto: https, and the registry trust it, or tell the registry its address (here --trusted-proxies or --external-url; distribution: http.host)",
			"%s is at %s: the registry does not know that TLS ends in front of it, and clients do not send passwords there", what, address)
	case u.Hostname() == p.base.Hostname() && u.Scheme == p.base.Scheme:
		l.problem("have the proxy pass on the host with its port (proxy_set_header Host $http_host), or tell the registry its address (here --trusted-proxies or --external-url; distribution: http.host)",
			"%s is at port %s, and the registry was reached at %s", what, port(u), port(p.base))
	case what == "the token endpoint" && u.Scheme == "https":
		l.warning("if that is not a token server of its own, tell the registry its address (here --trusted-proxies or --external-url; distribution: http.host)", "%s is on another host, %s", what, u.Host)
	default:
		l.problem("have the proxy pass on the host (proxy_set_header Host $http_host), or tell the registry its address (here --trusted-proxies or --external-url; distribution: http.host)",
			"%s is at %s: clients do not send there what they log in with", what, address)
	}
}

func port(u *url.URL) string {
	if u.Port() != "" {
		return u.Port()
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

func hostPort(u *url.URL) string { return net.JoinHostPort(strings.ToLower(u.Hostname()), port(u)) }

// login asks again as a client that follows the challenge does.
func (p *patient) login(ctx context.Context) bool {
	if p.asksFor == "" {
		if p.opt.Remote.User != "" {
			p.add(Warning, "login", "asked without credentials", "the registry asks nobody for a login: everybody may do what it allows", "switch on users if that is not meant")
		}
		return true
	}
	l := p.look("login", "logged in as the challenge says")
	answer, _, err := p.do(ctx, http.MethodGet, p.client.URL("", ""), nil, nil)
	switch {
	case err != nil:
		l.problem("look at user and password, and whether this machine reaches the token endpoint", "%v", err)
	case answer.StatusCode == http.StatusUnauthorized && p.opt.Remote.User == "":
		l.problem("say --user, or log in with docker login", "it does not let anybody in without a login")
	case answer.StatusCode != http.StatusOK:
		l.problem("look at user and password, at the clocks, and whether the proxy keeps the header Authorization", "it answers %s", answer.Status)
	}
	l.ok("it works")
	return l.problems == 0
}

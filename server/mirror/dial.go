package mirror

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// errPrivate keeps an upstream from having this server ask others that only it can reach.
var errPrivate = errors.New("the address is private, and was not configured")

// private are the networks that are not the internet, beside those that net/netip knows.
var private = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's own services, reached from every machine there
	netip.MustParsePrefix("fec0::/10"),        // site-local addresses, as they were before fc00::/7
	// Addresses that have one of IPv4 in them, where a gateway takes it out again.
	netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("::/96"),
	netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("::ffff:0:0:0/96"),
}

func isPrivate(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range private {
		if p.Contains(a) {
			return true
		}
	}
	return !a.IsGlobalUnicast() || a.IsPrivate()
}

const (
	dialTimeout  = 10 * time.Second
	maxRedirects = 5
)

// dialer connects to what an upstream names, and looks at each address after the name was resolved, so that no name can
// hide one.
func (r *Remote) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if !r.mayBePrivate(address) {
		d.ControlContext = func(_ context.Context, _, resolved string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(resolved)
			if err != nil || isPrivate(a.Addr()) {
				return fmt.Errorf("%s: %w", resolved, errPrivate)
			}
			return nil
		}
	}
	return d.DialContext(ctx, network, address)
}

// mayBePrivate says whether the user meant a host to be reached wherever it is.
func (r *Remote) mayBePrivate(address string) bool {
	return r.up.Network || r.isProxy(address) || r.up.isLiteral() && address == withPort(r.up.URL.Scheme, r.up.URL.Host)
}

func withPort(scheme, host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	port := "443"
	if scheme == "http" {
		port = "80"
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), port)
}

// guard is the last that sees a request before it leaves. A request that did not come from a redirect goes to the upstream
// or to where its tokens come from; only such a one carries credentials.
type guard struct {
	r    *Remote
	next http.RoundTripper
}

var errForeign = errors.New("this host is not the upstream's")

func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := g.r.checkProxied(req); err != nil {
		return nil, err
	}
	if g.r.isOwn(req.URL.Scheme, req.URL.Host) {
		return g.send(req)
	}
	if req.Response == nil {
		return nil, fmt.Errorf("%s gives tokens for %s: %w; say realm=%s if that is right", req.URL.Host, g.r.up.Name, errForeign, req.URL.Host)
	}
	req = req.Clone(req.Context())
	for _, header := range []string{"Authorization", "Cookie", "Referer"} {
		req.Header.Del(header)
	}
	return g.send(req)
}

// send makes an error of 429, wherever it comes from: who asks for a token would not see Retry-After.
func (g guard) send(req *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		resp.Body.Close()
		return nil, busy(resp)
	}
	return resp, err
}

// isOwn says whether a host may see the credentials.
func (r *Remote) isOwn(scheme, host string) bool {
	if scheme != r.up.URL.Scheme {
		return false
	}
	address := withPort(scheme, strings.ToLower(host))
	return address == withPort(scheme, r.up.URL.Host) || r.up.Realm != "" && address == withPort(scheme, r.up.Realm)
}

// follow bounds redirects.
func follow(req *http.Request, via []*http.Request) error {
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("more than %d redirects", maxRedirects)
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		return errors.New("a redirect of a request with a body")
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return errors.New("a redirect from https to http")
	}
	return nil
}

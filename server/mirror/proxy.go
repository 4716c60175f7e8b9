package mirror

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// A proxy between this server and an upstream is dialed wherever it is, since it was configured. It resolves names itself,
// so what can be looked at here is the name alone: none that can only be private is asked of it, unless it was configured.

// proxyOf returns the proxy for a request, nil for none, and remembers that it may be dialed.
func (r *Remote) proxyOf(req *http.Request) (proxy *url.URL, err error) {
	if proxy = r.up.Proxy; r.up.EnvProxy {
		proxy, err = http.ProxyFromEnvironment(req)
	}
	if err != nil || proxy == nil {
		return nil, err
	}
	r.proxies.Store(addressOf(proxy), true)
	return proxy, nil
}

func (r *Remote) isProxy(address string) bool {
	_, ok := r.proxies.Load(address)
	return ok
}

// checkProxied refuses a request that a proxy would take to where this server does not go itself, or that goes to the
// proxy as if it were a registry.
func (r *Remote) checkProxied(req *http.Request) error {
	proxy, err := r.proxyOf(req)
	if err != nil {
		return err
	}
	address := addressOf(req.URL)
	configured := r.up.Network || r.isOwn(req.URL.Scheme, req.URL.Host)
	if !configured && (r.isProxy(address) || proxy != nil && isPrivateName(req.URL.Hostname())) {
		return fmt.Errorf("%s: %w", address, errPrivate)
	}
	return nil
}

func addressOf(u *url.URL) string { return withPort(u.Scheme, strings.ToLower(u.Host)) }

// numeric matches the last part of what some take for an address of IPv4, such as 2130706433, 0x7f.1 or 127.1.
var numeric = regexp.MustCompile(`^(0[xX][0-9a-fA-F]*|[0-9]+)$`)

// isPrivateName says whether a host is a private address, however it is written, or has a name that only private networks
// have (RFC 6761, RFC 6762, RFC 8375).
func isPrivateName(host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return isPrivate(address)
	}
	labels := strings.Split(strings.ToLower(strings.TrimSuffix(host, ".")), ".")
	last := labels[len(labels)-1]
	switch last {
	case "localhost", "local", "internal", "lan", "arpa":
		return true
	}
	return len(labels) == 1 || numeric.MatchString(last)
}

func parseProxy(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("proxy: want an address such as http://proxy.example.com:3128") // not the text, which may have a password
	}
	return u, nil
}

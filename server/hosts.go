package server

import (
	"net/http"
	"net/netip"
	"os"
	"strings"

	"registry/server/registry"
)

// hosts are the names by which a server without users is known. A page of a site whose name leads to this server's
// address (DNS rebinding) has this server's origin for the browser, and may read and change everything; but its requests
// have that site's name as their Host.
type hosts struct {
	names map[string]bool // lower case
	all   bool            // every request needs one of them, not only a browser's
}

// newHosts returns the names of a server: this machine's, and what the configuration says.
func newHosts(cfg Config, all bool) *hosts {
	h := &hosts{names: map[string]bool{"localhost": true}, all: all}
	if name, err := os.Hostname(); err == nil {
		h.add(name)
		first, _, _ := strings.Cut(name, ".")
		h.add(first)
	}
	if _, authority, ok := strings.Cut(cfg.ExternalURL, "://"); ok {
		h.add(hostName(authority))
	}
	for _, name := range cfg.AllowedHosts {
		h.add(name)
	}
	return h
}

func (h *hosts) add(name string) { h.names[strings.TrimSuffix(strings.ToLower(name), ".")] = true }

// check refuses a request for a host that is not this server. Nil hosts refuse nothing.
func (h *hosts) check(r *http.Request) error {
	if h == nil || h.knows(r.Host) || !h.all && !isBrowser(r) {
		return nil
	}
	name := logged(hostName(r.Host))
	return registry.Misdirected.With("this server does not know itself as " + name + ": if it is to be served by that name, start it with --allowed-host " + name)
}

// knows says whether a Host is one of the server's. That of an address is: no name leads elsewhere with it. One that is
// empty is, too: only old clients that are no browsers send it.
func (h *hosts) knows(host string) bool {
	name := hostName(host)
	if name == "" || h.names[name] {
		return true
	}
	if c := name[0]; c == '[' || '0' <= c && c <= '9' {
		if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
			return true
		}
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	_, parent, _ := strings.Cut(name, ".")
	return h.names[name] || h.names["*."+parent] || strings.HasSuffix(name, ".localhost")
}

// hostName is HOST of HOST or HOST:PORT, as it is.
func hostName(s string) string {
	if at := strings.LastIndexByte(s, ':'); at > strings.LastIndexByte(s, ']') {
		return s[:at]
	}
	return s
}

// isBrowser says whether a request has what browsers send and clients of registries do not. Browsers send Origin and
// Sec-Fetch-* not always, but all call themselves Mozilla.
func isBrowser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Sec-Fetch-User", "Sec-Fetch-Storage-Access"} {
		if _, ok := r.Header[name]; ok {
			return true
		}
	}
	agent := r.Header.Get("User-Agent")
	return strings.HasPrefix(agent, "Mozilla/") || strings.HasPrefix(agent, "Opera/")
}

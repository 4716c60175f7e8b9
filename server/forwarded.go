package server

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// What proxies in front of the server say about a request: who sent it, and by which name the server was called. Every
// client can send these headers, so nothing in them counts unless the peer is a trusted proxy, with one exception: see
// origin. X-Forwarded-* count where there is one of them, else Forwarded; a proxy adds to one kind and passes the other on
// as a client sent it, so if both are there and contradict each other neither counts.

// clientAddress returns the address of who sent the request: the peer, or for a trusted peer the last address on the way
// that is not one of a trusted proxy. It is not valid if the peer has none, as on a Unix socket.
func (s *Server) clientAddress(r *http.Request) netip.Addr {
	address := peerAddress(r)
	if !s.trustsPeer(r) {
		return address
	}
	return s.sender(s.hopsOf(r.Header), address)
}

// sender is the last address on the way that is not one of a trusted proxy. peer is the one that the hops came from.
func (s *Server) sender(hops []hop, peer netip.Addr) netip.Addr {
	address := peer
	for _, hop := range slices.Backward(hops) {
		sender, ok := parseHop(hop.sender)
		if !ok {
			break
		}
		if address = sender; !s.trusts(address) {
			break
		}
	}
	return address
}

// origin returns scheme://host[:port] of this server as the client sees it, without a port that goes without saying. The
// host consists of letters, digits, dots, dashes and underscores or is an IPv6 address in brackets: an origin may be put in
// quotes. A request that says something else gets the address that it came in by. That the client came by HTTPS is believed
// of every peer: it will send a password there, and who lies about that harms only themselves.
func (s *Server) origin(r *http.Request) string {
	if s.cfg.ExternalURL != "" {
		return s.cfg.ExternalURL
	}
	seen := hop{scheme: "http", host: r.Host}
	if r.TLS != nil {
		seen.scheme = "https"
	}
	if s.trustsPeer(r) {
		seen = s.outermost(s.hopsOf(r.Header)).or(seen)
	} else if saysHTTPS(r.Header) {
		seen.scheme = "https"
	}
	host, port, ok := ParseHost(seen.host)
	if !ok {
		host, port = localAddress(r)
	} else if port == "" {
		port = seen.port
	}
	return joinOrigin(seen.scheme, host, port)
}

// ParseExternalURL returns the origin that a URL is. It has nothing else: no path, no query, no user.
func ParseExternalURL(raw string) (origin string, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", errors.New("not a URL such as https://registry.example:5000")
	}
	if u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") {
		return "", errors.New("more than scheme, host and port")
	}
	host, port, ok := ParseHost(u.Host)
	if !ok {
		return "", fmt.Errorf("%q is not a valid host", u.Host)
	}
	return joinOrigin(u.Scheme, host, port), nil
}

// ParseHost takes HOST or HOST:PORT apart, an IPv6 address being in brackets before and after. Of what is ok nothing has a
// meaning in a shell, a path, a URL or a header, but brackets in a shell.
func ParseHost(s string) (host, port string, ok bool) {
	host, port = s, ""
	if at := strings.LastIndexByte(s, ':'); at > strings.LastIndexByte(s, ']') {
		host, port = s[:at], s[at+1:]
		if !isPort(port) {
			return "", "", false
		}
	}
	if inside, found := strings.CutPrefix(host, "["); found {
		address, err := netip.ParseAddr(strings.TrimSuffix(inside, "]"))
		return host, port, err == nil && strings.HasSuffix(inside, "]") && address.Is6() && address.Zone() == ""
	}
	return host, port, isName(host)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

// isName says whether a host is a DNS name or an IPv4 address. Names in private networks have underscores, and a dot at the
// end says that nothing is to be added.
func isName(host string) bool {
	return len(strings.TrimSuffix(host, ".")) <= 253 && namePattern.MatchString(host)
}

var namePattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

func joinOrigin(scheme, host, port string) string {
	if port == "" || scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// localAddress is the one the request came in by, as a host and a port.
func localAddress(r *http.Request) (host, port string) {
	if address, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		if host, port, ok := ParseHost((&net.TCPAddr{IP: address.IP, Port: address.Port}).String()); ok {
			return host, port
		}
	}
	return "localhost", ""
}

func peerAddress(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return peer.Addr().Unmap().WithZone("")
}

// trustsPeer says whether a request comes from a trusted proxy. A peer without an address is one on a Unix socket.
func (s *Server) trustsPeer(r *http.Request) bool {
	address := peerAddress(r)
	return s.trusts(address) || s.cfg.TrustUnix && !address.IsValid()
}

func (s *Server) trusts(address netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

// hop is what a proxy says of a request it passes on: who sent it, and for what. Fields it does not say are empty; scheme
// is http or https.
type hop struct{ sender, scheme, host, port string }

// or fills what h does not say.
func (h hop) or(other hop) hop {
	h.scheme = cmp.Or(h.scheme, other.scheme)
	if h.host == "" {
		h.host, h.port = other.host, cmp.Or(h.port, other.port)
	}
	return h
}

// outermost is what the trusted proxies say that the client spoke to.
func (s *Server) outermost(hops []hop) (out hop) {
	for _, h := range slices.Backward(hops) {
		out = h.or(out)
		if sender, ok := parseHop(h.sender); !ok || !s.trusts(sender) {
			break
		}
	}
	return out
}

// hopsOf are what the proxies on the way say, the nearest last: in X-Forwarded-* if there is one of them, else in
// Forwarded (RFC 7239), and nothing if they contradict each other.
func (s *Server) hopsOf(header http.Header) []hop {
	name := forwardedBy(header)
	if name == "" || name == "Forwarded" {
		return parseForwarded(header["Forwarded"])
	}
	hops := parseXForwarded(header)
	if len(header["Forwarded"]) > 0 && !s.agree(hops, parseForwarded(header["Forwarded"])) {
		if s.contradicted.CompareAndSwap(false, true) {
			s.log.Warn("a trusted proxy sends Forwarded and X-Forwarded-* that contradict each other, so neither is believed: have it set one and remove the other",
				"forwarded", logged(strings.Join(header["Forwarded"], ", ")), name, logged(strings.Join(header[name], ", ")))
		}
		return nil
	}
	return hops
}

// agree says whether what X-Forwarded-* say is also what Forwarded says: the same sender, and scheme and host if both have
// one. A client can make Forwarded unreadable, so that the sender is missing there is no agreement.
func (s *Server) agree(x, forwarded []hop) bool {
	one, other := s.outermost(x), s.outermost(forwarded)
	hostOf := func(h hop) string { host, _, _ := ParseHost(h.host); return strings.ToLower(host) }
	switch {
	case x[len(x)-1].sender != "" && s.sender(x, netip.Addr{}) != s.sender(forwarded, netip.Addr{}):
		return false
	case one.scheme != "" && other.scheme != "" && one.scheme != other.scheme:
		return false
	}
	return one.host == "" || other.host == "" || hostOf(one) == hostOf(other)
}

// saysHTTPS says whether the nearest proxy says that it was spoken to by HTTPS.
func saysHTTPS(header http.Header) bool {
	if proto := header["X-Forwarded-Proto"]; len(proto) > 0 {
		return scheme(lastOf(proto)) == "https"
	}
	hops := parseForwarded(header["Forwarded"])
	return len(hops) > 0 && hops[len(hops)-1].scheme == "https"
}

// parseXForwarded reads X-Forwarded-*.
func parseXForwarded(header http.Header) (hops []hop) {
	name := func(what string) string { return "X-Forwarded-" + what }
	for _, sender := range list(header[name("For")]) {
		hops = append(hops, hop{sender: sender})
	}
	if len(hops) == 0 {
		hops = make([]hop, 1)
	}
	// Most proxies set the others, and do not add to them. Of several the last is that of the proxy that is trusted.
	last := &hops[len(hops)-1]
	last.scheme, last.host = scheme(lastOf(header[name("Proto")])), lastOf(header[name("Host")])
	if port := lastOf(header[name("Port")]); isPort(port) {
		last.port = port
	}
	return hops
}

// noticeProxy says, once, that a proxy speaks for its clients and is not believed: all of them then have one address, and
// what one does wrong is held against all.
func (s *Server) noticeProxy(r *http.Request) {
	if s.noticed.Load() {
		return
	}
	name := forwardedBy(r.Header)
	if name == "" || s.trustsPeer(r) || !s.noticed.CompareAndSwap(false, true) {
		return
	}
	s.log.Warn("a request says by a header for whom it is passed on, which is believed of no proxy that is not trusted: "+
		"all clients of that proxy have its address; if it is yours, name it with --trusted-proxies", "header", name, "proxy", peerAddress(r))
}

// forwardedBy names the first header by which a proxy says something of the client, "" if there is none.
func forwardedBy(h http.Header) string {
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "Forwarded"} {
		if len(h[name]) > 0 {
			return name
		}
	}
	return ""
}

// list splits a header at its commas.
func list(values []string) (items []string) {
	for _, v := range values {
		for item := range strings.SplitSeq(v, ",") {
			items = append(items, strings.TrimSpace(item))
		}
	}
	return items
}

func lastOf(values []string) string {
	if items := list(values); len(items) > 0 {
		return items[len(items)-1]
	}
	return ""
}

// parseForwarded reads Forwarded. A quote that is not closed could swallow what a proxy has added, so then nothing counts.
func parseForwarded(values []string) (hops []hop) {
	all := strings.Join(values, ",")
	if strings.Count(all, `"`)%2 != 0 { // escapes do not count: no address and no host needs one
		return nil
	}
	for _, element := range splitUnquoted(all, ',') {
		var h hop
		for _, pair := range splitUnquoted(element, ';') {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			value = strings.Trim(value, `"`)
			switch strings.ToLower(name) {
			case "for":
				h.sender = value
			case "proto":
				h.scheme = scheme(value)
			case "host":
				h.host = value
			}
		}
		hops = append(hops, h)
	}
	return hops
}

// splitUnquoted splits at the separators that are not in quotes.
func splitUnquoted(s string, separator rune) []string {
	quoted := false
	var parts []string
	begin := 0
	for i, r := range s {
		switch {
		case r == '"':
			quoted = !quoted
		case r == separator && !quoted:
			parts = append(parts, s[begin:i])
			begin = i + 1
		}
	}
	return append(parts, s[begin:])
}

// parseHop reads an address as proxies write it, with or without a port. What hides behind a word is not known.
func parseHop(s string) (netip.Addr, bool) {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	address, err := netip.ParseAddr(strings.Trim(s, "[]"))
	return address.Unmap().WithZone(""), err == nil
}

func scheme(s string) string {
	if s = strings.ToLower(s); s == "http" || s == "https" {
		return s
	}
	return ""
}

package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

// behind is a server that trusts these proxies.
func behind(external string, proxies ...string) *Server {
	s := &Server{cfg: Config{ExternalURL: external}, log: slog.New(slog.DiscardHandler)}
	for _, p := range proxies {
		s.cfg.TrustedProxies = append(s.cfg.TrustedProxies, netip.MustParsePrefix(p))
	}
	return s
}

// request comes from a peer to http://local:5000 at 192.0.2.1, with headers "Name: value".
func request(peer string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", "/v2/", nil)
	r.RemoteAddr, r.Host = peer, "local:5000"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	address := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5000}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, address))
}

const (
	proxy    = "10.1.2.3:4567"
	stranger = "203.0.113.9:4567"
)

// A peer on a Unix socket has no address. Whether its word counts is a setting of its own.
func TestUnixPeer(t *testing.T) {
	r := request("@", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example")
	s := behind("", "0.0.0.0/0", "::/0")
	if address, origin := s.clientAddress(r), s.origin(r); address.IsValid() || origin != "https://local:5000" { // HTTPS in front is believed of anybody
		t.Error("not trusted:", address, origin)
	}
	s.cfg.TrustUnix = true
	if address, origin := s.clientAddress(r), s.origin(r); address.String() != "198.51.100.7" || origin != "https://reg.example" {
		t.Error("trusted:", address, origin)
	}
	if address := s.clientAddress(request(stranger, "X-Forwarded-For: 198.51.100.7")); address.String() != "198.51.100.7" {
		t.Error(address)
	}
}

func TestClientAddress(t *testing.T) {
	s := behind("", "10.0.0.0/8", "fd00::/8", "127.0.0.1/32")
	for _, c := range []struct {
		what    string
		peer    string
		headers []string
		want    string
	}{
		{"nothing said", proxy, nil, "10.1.2.3"},
		{"one proxy", proxy, []string{"X-Forwarded-For: 198.51.100.7"}, "198.51.100.7"},
		{"a stranger", stranger, []string{"X-Forwarded-For: 198.51.100.7", "Forwarded: for=198.51.100.7"}, "203.0.113.9"},
		{"a client that says what it likes", proxy, []string{"X-Forwarded-For: 127.0.0.1, 1.1.1.1, 198.51.100.7"}, "198.51.100.7"},
		{"two proxies", proxy, []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.9.9.9"}, "198.51.100.7"},
		{"two proxies, two lines", proxy, []string{"X-Forwarded-For: 1.1.1.1, 198.51.100.7", "X-Forwarded-For: 10.9.9.9"}, "198.51.100.7"},
		{"proxies only", proxy, []string{"X-Forwarded-For: 10.7.7.7, 10.9.9.9"}, "10.7.7.7"},
		{"no address", proxy, []string{"X-Forwarded-For: unknown"}, "10.1.2.3"},
		{"no address before a proxy", proxy, []string{"X-Forwarded-For: 1.1.1.1, <script>, 10.9.9.9"}, "10.9.9.9"},
		{"an empty one", proxy, []string{"X-Forwarded-For: 1.1.1.1,"}, "10.1.2.3"},
		{"with a port", proxy, []string{"X-Forwarded-For: 198.51.100.7:1234"}, "198.51.100.7"},
		{"IPv6", proxy, []string{"X-Forwarded-For: 2001:db8::7"}, "2001:db8::7"},
		{"IPv6 in brackets", proxy, []string{"X-Forwarded-For: [2001:db8::7]"}, "2001:db8::7"},
		{"IPv6 with a port", "[fd00::1%eth0]:1", []string{"X-Forwarded-For: [2001:db8::7]:99"}, "2001:db8::7"},
		{"IPv4 in IPv6", "[::ffff:10.1.2.3]:1", []string{"X-Forwarded-For: ::ffff:198.51.100.7"}, "198.51.100.7"},
		{"RFC 7239", proxy, []string{`Forwarded: for=1.1.1.1, For="[2001:db8::7]:99";proto=https, for=10.9.9.9`}, "2001:db8::7"},
		{"RFC 7239 beside the other", proxy, []string{"Forwarded: for=198.51.100.7", "X-Forwarded-For: 198.51.100.7"}, "198.51.100.7"},
		{"RFC 7239 beside more of the other", proxy, []string{`Forwarded: for="198.51.100.7:80";proto=https`, "X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.9.9.9"}, "198.51.100.7"},
		{"RFC 7239 against the other", proxy, []string{"Forwarded: for=1.1.1.1", "X-Forwarded-For: 198.51.100.7"}, "10.1.2.3"},
		{"RFC 7239 that names none against the other", proxy, []string{"Forwarded: for=unknown", "X-Forwarded-For: 198.51.100.7"}, "10.1.2.3"},
		{"RFC 7239 that cannot be read beside the other", proxy, []string{`Forwarded: for=", for=1.1.1.1`, "X-Forwarded-For: 198.51.100.7"}, "10.1.2.3"},
		{"RFC 7239 without a sender beside the other", proxy, []string{"Forwarded: proto=http", "X-Forwarded-For: 198.51.100.7"}, "10.1.2.3"},
		{"RFC 7239 against another word", proxy, []string{"Forwarded: for=198.51.100.7;proto=http", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https"}, "10.1.2.3"},
		{"RFC 7239 beside another word", proxy, []string{"Forwarded: for=1.1.1.1", "X-Forwarded-Proto: https"}, "10.1.2.3"},
		{"RFC 7239, hidden", proxy, []string{"Forwarded: for=1.1.1.1, for=_hidden"}, "10.1.2.3"},
		{"RFC 7239, an open quote", proxy, []string{`Forwarded: for=1.1.1.1;x=", for=198.51.100.7`}, "10.1.2.3"},
		{"RFC 7239, an open quote before another", proxy, []string{`Forwarded: for=1.1.1.1;x=", for="[2001:db8::7]"`}, "10.1.2.3"},
		{"RFC 7239, an escape", proxy, []string{`Forwarded: for=1.1.1.1;x="\", for="\"[2001:db8::7]"`}, "10.1.2.3"},
		{"a Unix socket", "@", []string{"X-Forwarded-For: 198.51.100.7"}, "invalid IP"},
	} {
		if got := s.clientAddress(request(c.peer, c.headers...)).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestOrigin(t *testing.T) {
	s := behind("", "10.0.0.0/8")
	for _, c := range []struct {
		what    string
		peer    string
		headers []string
		want    string
	}{
		{"nothing said", proxy, nil, "http://local:5000"},
		{"a stranger", stranger, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "X-Forwarded-Port: 1",
			"Forwarded: host=evil.example;proto=https"}, "https://local:5000"},
		{"a stranger by HTTPS", stranger, []string{"Forwarded: proto=http, proto=https;host=evil.example"}, "https://local:5000"},
		{"a stranger by HTTP", stranger, []string{"X-Forwarded-Proto: https, http", "Forwarded: proto=https"}, "http://local:5000"},
		{"RFC 7239 beside the other", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: Reg.example", "Forwarded: for=1.1.1.1;proto=https;host=\"reg.example:443\""}, "https://Reg.example"},
		{"RFC 7239 against the other's host", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example", "Forwarded: host=evil.example"}, "http://local:5000"},
		{"scheme and host", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example"}, "https://reg.example"},
		{"host with a port", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example:8443"}, "https://reg.example:8443"},
		{"port beside the host", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example", "X-Forwarded-Port: 8443"}, "https://reg.example:8443"},
		{"port that goes without saying", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example", "X-Forwarded-Port: 443"}, "https://reg.example"},
		{"host with a port and another", proxy, []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example:1", "X-Forwarded-Port: 2"}, "https://reg.example:1"},
		{"scheme alone", proxy, []string{"X-Forwarded-Proto: HTTPS"}, "https://local:5000"},
		{"behind two proxies", proxy, []string{"X-Forwarded-For: 198.51.100.7, 10.9.9.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: reg.example", "X-Forwarded-Port: 8443"},
			"https://reg.example:8443"},
		{"a client's word before the proxy's", proxy, []string{"X-Forwarded-Host: evil.example, reg.example"}, "http://reg.example"},
		{"a client's line before the proxy's", proxy, []string{"X-Forwarded-Host: evil.example", "X-Forwarded-Host: reg.example"}, "http://reg.example"},
		{"an unknown scheme", proxy, []string{"X-Forwarded-Proto: javascript"}, "http://local:5000"},
		{"a quote", proxy, []string{`X-Forwarded-Host: reg.example",evil="`}, "http://192.0.2.1:5000"},
		{"a space", proxy, []string{"X-Forwarded-Host: reg example"}, "http://192.0.2.1:5000"},
		{"a path", proxy, []string{"X-Forwarded-Host: reg.example/x", "X-Forwarded-Port: 1"}, "http://192.0.2.1:5000"},
		{"a user", proxy, []string{"X-Forwarded-Host: a@reg.example"}, "http://192.0.2.1:5000"},
		{"a port that is none", proxy, []string{"X-Forwarded-Host: reg.example", "X-Forwarded-Port: 443x"}, "http://reg.example"},
		{"RFC 7239", proxy, []string{`Forwarded: for=198.51.100.7;proto=https;host="reg.example:8443"`}, "https://reg.example:8443"},
		{"RFC 7239 behind two proxies", proxy, []string{"Forwarded: for=6.6.6.6;host=evil.example, for=198.51.100.7;proto=https;host=reg.example, for=10.9.9.9;proto=http;host=inner"},
			"https://reg.example"},
		{"RFC 7239 without a host", proxy, []string{"Forwarded: host=evil.example, proto=https;for=198.51.100.7"}, "https://local:5000"},
	} {
		if got := s.origin(request(c.peer, c.headers...)); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
}

func TestOriginWithoutProxy(t *testing.T) {
	for host, want := range map[string]string{
		"reg.example": "https://reg.example", "reg.example:443": "https://reg.example", "reg.example:80": "https://reg.example:80",
		"[2001:db8::1]:5000": "https://[2001:db8::1]:5000", "[2001:db8::1]": "https://[2001:db8::1]",
		"": "https://192.0.2.1:5000", `"`: "https://192.0.2.1:5000", "2001:db8::1": "https://192.0.2.1:5000",
	} {
		r := request(stranger)
		r.Host, r.TLS = host, &tls.ConnectionState{}
		if got := behind("").origin(r); got != want {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
	r := request(proxy, "X-Forwarded-Host: other.example")
	if got := behind("https://reg.example:8443", "0.0.0.0/0").origin(r); got != "https://reg.example:8443" {
		t.Error(got)
	}
	if got := behind("").origin(&http.Request{}); got != "http://localhost" {
		t.Error(got)
	}
}

func TestParseExternalURL(t *testing.T) {
	for raw, want := range map[string]string{
		"https://reg.example": "https://reg.example", "https://reg.example/": "https://reg.example", "HTTPS://reg.example:8443": "https://reg.example:8443",
		"https://reg.example:443": "https://reg.example", "http://[::1]:5000": "http://[::1]:5000", "http://10.0.0.1:80": "http://10.0.0.1",
	} {
		if got, err := ParseExternalURL(raw); err != nil || got != want {
			t.Errorf("%q: %q, %v", raw, got, err)
		}
	}
	for _, raw := range []string{
		"", "reg.example", "reg.example:5000", "//reg.example", "ftp://reg.example", "https://", "https://:5000", "https:reg.example",
		"https://user:hunter2@reg.example", "https://reg.example/v2", "https://reg.example?", "https://reg.example?a=b", "https://reg.example#",
		"https://reg.example#x", "https://reg example", "https://reg.example:x", "https://user:hunter2@reg.example:x", "https://[::1%25eth0]",
	} {
		if got, err := ParseExternalURL(raw); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %q, %v", raw, got, err)
		}
	}
}

func TestParseHost(t *testing.T) {
	for s, want := range map[string][2]string{
		"localhost": {"localhost", ""}, "a-b.c:1": {"a-b.c", "1"}, "A.example:65535": {"A.example", "65535"}, "127.0.0.1:5000": {"127.0.0.1", "5000"},
		"[::1]": {"[::1]", ""}, "[fd00::a]:5000": {"[fd00::a]", "5000"}, "1": {"1", ""},
		"a_b:5000": {"a_b", "5000"}, "registry.dc_1.consul": {"registry.dc_1.consul", ""}, "_x": {"_x", ""}, "a.:5000": {"a.", "5000"},
		"registry.lan.": {"registry.lan.", ""}, strings.Repeat("a", 253) + ".": {strings.Repeat("a", 253) + ".", ""},
	} {
		if host, port, ok := ParseHost(s); !ok || host != want[0] || port != want[1] {
			t.Errorf("%q: %q, %q, %v", s, host, port, ok)
		}
	}
	for _, s := range []string{
		"", ":", ":1", "a:", "a:0", "a:01", "a:+1", "a:65536", "a:x", "a:1:2", "-a", "a-", ".a", ".", "a..", "a..b", "a b", "a/b", "a\nb", "a'b", "$(a)",
		"..", "::1", "[::1", "::1]", "[::1]x", "[::1]:", "[::1]]", "[[::1]]", "[127.0.0.1]", "[::1%eth0]", "[]", "a]:1", "\u017f", "\u212a.example", strings.Repeat("a", 254), strings.Repeat("a", 254) + ".",
	} {
		if host, port, ok := ParseHost(s); ok {
			t.Errorf("%q: %q, %q", s, host, port)
		}
	}
}

// Whatever is sent, an origin is a scheme, a host and a port, and has nothing that could leave quotes; and a stranger's
// headers change nothing.
func FuzzOrigin(f *testing.F) {
	f.Add("local:5000", "https", "reg.example:8443", "443", "198.51.100.7, 10.9.9.9", `for="[::1]:1";host=a;proto=http`)
	f.Add("", `"`, "a\nb", "0", ",,", `x="`)
	f.Add(" ", "https", "0", "0", "0", "")
	f.Add("_", "0", "a_b.", "0", "0", "0")
	f.Add("[::1]:1", "HTTP", "[::1%25a]", "+1", "[", `for=";host="a"b`)
	f.Fuzz(func(t *testing.T, host, proto, forwardedHost, port, sender, forwarded string) {
		s := behind("", "10.0.0.0/8")
		for _, headers := range []http.Header{
			{"X-Forwarded-Proto": {proto}, "X-Forwarded-Host": {forwardedHost}, "X-Forwarded-Port": {port}, "X-Forwarded-For": {sender}},
			{"Forwarded": {forwarded, sender}},
		} {
			r := request(proxy)
			r.Host, r.Header = host, headers
			checkOrigin(t, s.origin(r))
			s.clientAddress(r)
			r.RemoteAddr = stranger
			plain := request(stranger)
			plain.Host = host
			got, want := s.origin(r), s.origin(plain)
			if saysHTTPS(r.Header) { // which leaves the host, and the port if it does not go without saying
				https := plain.Clone(plain.Context()) // which has the address of this side
				https.TLS = &tls.ConnectionState{}
				want = s.origin(https)
			}
			if got != want {
				t.Errorf("a stranger made %q of %q", got, want)
			}
			if got := s.clientAddress(r).String(); got != "203.0.113.9" {
				t.Errorf("a stranger is called %s", got)
			}
		}
	})
}

func checkOrigin(t *testing.T, origin string) {
	t.Helper()
	rest, ok := strings.CutPrefix(origin, "http://")
	if !ok {
		rest, ok = strings.CutPrefix(origin, "https://")
	}
	u, err := url.Parse(origin)
	if !ok || err != nil || u.Host != rest || u.Hostname() == "" || strings.ContainsFunc(rest, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.:[]", r))
	}) {
		t.Errorf("%q is no origin: %v", origin, err)
	}
}

// That a proxy is not trusted, or contradicts itself, is said once.
func TestProxiesAreNoticedOnce(t *testing.T) {
	for _, c := range []struct {
		what    string
		peer    string
		headers []string
		want    string // in the one line, "" for none
	}{
		{"no proxy", stranger, nil, ""},
		{"a trusted one", proxy, []string{"X-Forwarded-For: 198.51.100.7"}, ""},
		{"a stranger", stranger, []string{"X-Forwarded-For: 198.51.100.7"}, "--trusted-proxies"},
		{"a stranger by RFC 7239", stranger, []string{"Forwarded: for=198.51.100.7"}, "--trusted-proxies"},
		{"a trusted one that contradicts itself", proxy, []string{"X-Forwarded-For: 198.51.100.7", "Forwarded: for=1.1.1.1"}, "contradict"},
	} {
		var log bytes.Buffer
		s, err := New(Config{TrustedProxies: behind("", "10.0.0.0/8").cfg.TrustedProxies, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			s.Handler().ServeHTTP(httptest.NewRecorder(), request(c.peer, c.headers...))
			s.clientAddress(request(c.peer, c.headers...))
		}
		if lines := strings.Count(log.String(), "\n"); c.want == "" && lines > 0 || c.want != "" && (lines != 1 || !strings.Contains(log.String(), c.want)) {
			t.Errorf("%s: logged %q", c.what, log.String())
		}
	}
}

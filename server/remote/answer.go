package remote

import (
	"errors"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// What has to be known of the answers of registries, whichever client asked.

// ErrLink is a link to a next page that cannot be followed.
var ErrLink = errors.New("the link to the next page cannot be followed")

var (
	linkTarget = regexp.MustCompile(`<([^<>]*)>([^<]*)`)
	relNext    = regexp.MustCompile(`(?i);\s*rel\s*=\s*("[^"]*\bnext\b[^"]*"|next\s*(?:[;,]|$))`)
)

// NextPage returns the query of the next page of a list, "" if there is none (RFC 8288). What is in it is the registry's
// business: some have cursors that no client can make from a name. The query is all that is believed of the address.
func NextPage(h http.Header) (query string, err error) {
	for _, link := range linkTarget.FindAllStringSubmatch(strings.Join(h.Values("Link"), ", "), -1) {
		if !relNext.MatchString(link[2]) {
			continue
		}
		if u, err := url.Parse(link[1]); err == nil && u.RawQuery != "" {
			return u.RawQuery, nil
		}
		return "", ErrLink
	}
	return "", nil
}

// NoHead says whether a status may mean that HEAD alone is refused, or not there: what GET answers counts then.
func NoHead(status int) bool {
	return slices.Contains([]int{http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented}, status)
}

// IsPage says whether an answer is a page for people, such as that of a portal or a proxy in between.
func IsPage(h http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	return mediaType == "text/html" || mediaType == "application/xhtml+xml"
}

// Challenged reduces what a 401 asks for to the first challenge that can be met (RFC 9110 section 11.6.1): the package that
// logs in reads no other. If none can be met, it stays as it is.
type Challenged struct {
	Next  http.RoundTripper
	Basic func(*http.Request) bool // whether there is a password for the host of a request
	Realm func(*url.URL) bool      // whether tokens may be fetched there
}

// RoundTrip implements http.RoundTripper.
func (c Challenged) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.Next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	for _, challenge := range splitChallenges(resp.Header.Values("Www-Authenticate")) {
		if c.canMeet(req, challenge) {
			resp.Header.Set("Www-Authenticate", challenge)
			break
		}
	}
	return resp, err
}

var realmOf = regexp.MustCompile(`(?i)(?:^|[\s,])realm\s*=\s*(?:"([^"]*)"|([^\s,"]+))`)

func (c Challenged) canMeet(req *http.Request, challenge string) bool {
	scheme, parameters, _ := strings.Cut(challenge, " ")
	switch strings.ToLower(scheme) {
	case "basic":
		return c.Basic(req)
	case "bearer":
		m := realmOf.FindStringSubmatch(parameters)
		if m == nil {
			return false
		}
		u, err := url.Parse(m[1] + m[2])
		return err == nil && u.Host != "" && c.Realm(u)
	}
	return false
}

// schemeOf matches the first part of a challenge. Its other parts begin with a name and an equals sign.
var schemeOf = regexp.MustCompile(`^[-!#$%&'*+.^_|~0-9A-Za-z]+(\s+[^=\s]|$)`)

// splitChallenges returns the challenges of header values, each of which may have several, with a space after the scheme.
func splitChallenges(values []string) (list []string) {
	for _, part := range splitOutsideQuotes(strings.Join(values, ",")) {
		switch part = strings.TrimSpace(part); {
		case part == "":
		case schemeOf.MatchString(part):
			scheme, rest, _ := strings.Cut(part, " ")
			list = append(list, strings.TrimSpace(scheme+" "+strings.TrimSpace(rest)))
		case len(list) > 0:
			list[len(list)-1] += "," + part
		}
	}
	return list
}

// splitOutsideQuotes splits at commas that are in no quoted string (RFC 9110 section 5.6.4).
func splitOutsideQuotes(s string) (parts []string) {
	quoted, start := false, 0
	for i := 0; i < len(s); i++ {
		switch {
		case quoted && s[i] == '\\':
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == ',' && !quoted:
			parts, start = append(parts, s[start:i]), i+1
		}
	}
	return append(parts, s[start:])
}

package server

import (
	"errors"
	"net/http"
	"strings"
)

// cors says which other sites' pages may read answers (Fetch, "HTTP CORS protocol"). Such a page logs in with an
// Authorization header of its own; what the browser knows by itself it never gets to use.
type cors struct {
	any     bool            // every origin, to read
	origins map[string]bool // may do everything
}

// newCORS returns nil for no origins.
func newCORS(origins []string) *cors {
	if len(origins) == 0 {
		return nil
	}
	c := &cors{origins: map[string]bool{}}
	for _, origin := range origins {
		if origin == AnyOrigin {
			c.any = true
		} else {
			c.origins[origin] = true
		}
	}
	return c
}

// AnyOrigin stands for every origin.
const AnyOrigin = "*"

// ParseOrigin returns an origin as browsers send it, or AnyOrigin.
func ParseOrigin(raw string) (string, error) {
	if raw == AnyOrigin {
		return raw, nil
	}
	origin, err := ParseExternalURL(raw)
	if err != nil {
		return "", errors.New("neither * nor an origin such as https://ui.example:8443")
	}
	return strings.ToLower(origin), nil
}

// What a page may send, and which headers of an answer it may read beyond those that every page may.
const (
	corsMethods = "GET, HEAD, POST, PUT, PATCH, DELETE"
	corsHeaders = "Accept, Authorization, Cache-Control, Content-Range, Content-Type, Docker-Content-Digest, If-Match, If-Modified-Since, If-None-Match, Range, X-Requested-With"
	corsExposed = "Accept-Ranges, Content-Length, Content-Range, Docker-Content-Digest, Docker-Distribution-Api-Version, Docker-Upload-UUID, ETag, Link, Location, " +
		"OCI-Chunk-Min-Length, OCI-Filters-Applied, OCI-Namespace, OCI-Subject, OCI-Tag, Range, Retry-After, Warning, WWW-Authenticate, X-Request-Id"
	corsMaxAge = "600" // seconds
)

// allow adds to an answer what lets a page read it. If the request only asks what a page may send, preflight is true, and
// that is the answer: such a request has no login.
func (c *cors) allow(h http.Header, r *http.Request) (preflight bool) {
	if c == nil {
		return false
	}
	if len(c.origins) > 0 {
		h.Add("Vary", "Origin") // also without one: caches do not know yet who asks next
	}
	origin, method := r.Header.Get("Origin"), r.Method
	wanted := r.Header.Get("Access-Control-Request-Method")
	preflight = method == http.MethodOptions && wanted != ""
	if preflight {
		method = wanted
	}
	methods := corsMethods
	switch {
	case origin == "":
		return false
	case c.origins[origin]:
		h.Set("Access-Control-Allow-Origin", origin)
	case c.any && (method == http.MethodGet || method == http.MethodHead):
		h.Set("Access-Control-Allow-Origin", AnyOrigin)
		methods = "GET, HEAD"
	default:
		return false
	}
	if !preflight {
		h.Set("Access-Control-Expose-Headers", corsExposed)
		return false
	}
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	return true
}

func writePreflight(w *recorder, _ *http.Request) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

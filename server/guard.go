package server

import (
	"net/http"
	"strings"

	"registry/server/registry"
)

// A browser sends requests for whichever page made it, with the login and from the place of the one who looks at that
// page, and shows what it gets. So that no other site's page can use this registry in the name of its visitor, every
// request passes what is here first, whatever it asks for. Other clients notice nothing of it.

// Headers of answers. net/http does not change the slices.
var (
	// contentPolicy keeps a browser from running anything that is in an answer, and from showing it within a page.
	contentPolicy = []string{"default-src 'none'; frame-ancestors 'none'; sandbox"}
	// sameOrigin keeps it from loading an answer into another site's page, as a script or an image.
	sameOrigin  = []string{"same-origin"}
	nosniff     = []string{"nosniff"}
	strictHTTPS = []string{"max-age=31536000"} // a year; other hosts of the domain are not this server's business
	apiVersion  = []string{"registry/2.0"}
	closeAfter  = []string{"close"}
)

// guard is what stands before everything that one listener serves.
type guard struct {
	s     *Server
	hosts *hosts // nil: every Host is served
	cors  *cors  // nil: no other site's page reads answers
}

// protect returns next behind the guard.
func (g guard) protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-Content-Type-Options"] = nosniff
		h["Content-Security-Policy"] = contentPolicy
		h["Cross-Origin-Resource-Policy"] = sameOrigin
		if g.s.cfg.HSTS && strings.HasPrefix(g.s.origin(r), "https:") {
			h["Strict-Transport-Security"] = strictHTTPS
		}
		if mayHideRequest(r) {
			h["Connection"] = closeAfter
		}
		g.s.noticeProxy(r)
		if err := g.hosts.check(r); err != nil {
			g.refuse(w, r, err)
			return
		}
		preflight := g.cors.allow(h, r)
		if err := g.checkOrigin(r); err != nil {
			g.refuse(w, r, err)
			return
		}
		if preflight {
			g.s.wrap("preflight", writePreflight).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mayHideRequest says whether a proxy in front may have read the end of a request elsewhere than this server did: with
// both Content-Length and Transfer-Encoding, or Transfer-Encoding in HTTP/1.0. What follows on the connection could then be a
// request that the proxy took for a body, so it must not be answered (RFC 9112 section 6.1). net/http removes these
// headers from what it shows, so all requests that may have had them count.
func mayHideRequest(r *http.Request) bool {
	return r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0)
}

// checkOrigin refuses what a page of another origin makes a browser ask with a method that may change something. Reading
// is left to the browser, which does not let the page have the answer.
func (g guard) checkOrigin(r *http.Request) error {
	if err := g.s.crossOrigin.Check(r); err != nil {
		return &registry.Error{Code: registry.Denied, Detail: "the request comes from another site's page", Err: err}
	}
	return nil
}

func (g guard) refuse(w http.ResponseWriter, r *http.Request, err error) {
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	}
	g.s.wrap("refused", func(*recorder, *http.Request) error { return err }).ServeHTTP(w, r)
}

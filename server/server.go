// Package server speaks the OCI distribution specification over HTTP. It is protocol only: a handler takes a request
// apart, makes one call of package registry, and puts the answer together. The list of what there is to ask is the table
// in routes.go.
package server

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"registry/server/registry"

	"github.com/julienschmidt/httprouter"
)

// Config is what a server is made of. Only Registry has no default.
type Config struct {
	Registry        *registry.Registry
	Log             *slog.Logger  // nil: discarded
	ReadOnly        bool          // refuse whatever changes something
	MaxManifest     int64         // bytes; 4 MiB
	BodyIdleTimeout time.Duration // without a byte in or out; 1 minute
	DrainTimeout    time.Duration // for requests under way when the server stops; 30 s
	TLSCert, TLSKey string        // files, read again when they change; "" serves plain HTTP
	DebugAddr       string        // where pprof listens; "" nowhere
	Version         string        // for the metric of the build
	OnReady         func()        // called when requests are being answered
}

const (
	defaultMaxManifest = 4 << 20
	defaultIdle        = time.Minute
	defaultDrain       = 30 * time.Second
)

// Server answers requests.
type Server struct {
	cfg      Config
	registry *registry.Registry
	log      *slog.Logger
	handler  http.Handler
	metrics  *metrics
	health   health
	http     *http.Server
	draining atomic.Bool
	closing  chan struct{} // closed by Close
	closed   atomic.Bool
}

// New makes a server. It reads the TLS files, and fails if they do not fit.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxManifest <= 0 {
		cfg.MaxManifest = defaultMaxManifest
	}
	if cfg.BodyIdleTimeout <= 0 {
		cfg.BodyIdleTimeout = defaultIdle
	}
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = defaultDrain
	}
	s := &Server{cfg: cfg, registry: cfg.Registry, log: cfg.Log, closing: make(chan struct{})}
	s.metrics = newMetrics(s)
	s.handler = s.router()
	return s, s.prepareHTTP()
}

// Handler answers everything the server answers, without a listener.
func (s *Server) Handler() http.Handler { return s.handler }

// router joins the API, which finds its routes itself, and the few paths beside it. All that httprouter would do by
// itself (redirects, OPTIONS, 405) is off: the API's answers are JSON, and no path is ever made into another.
func (s *Server) router() http.Handler {
	mux := httprouter.New()
	mux.RedirectTrailingSlash, mux.RedirectFixedPath, mux.HandleMethodNotAllowed, mux.HandleOPTIONS = false, false, false, false
	api := s.observe(http.HandlerFunc(s.serveAPI))
	mux.NotFound = api // also methods that nobody has heard of
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		mux.Handler(method, "/v2", api)
		mux.Handler(method, "/v2/*path", api)
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/livez", "/live"} {
			mux.HandlerFunc(method, path, s.serveLive)
		}
		for _, path := range []string{"/readyz", "/ready", "/healthz"} {
			mux.HandlerFunc(method, path, s.serveReady)
		}
		mux.Handler(method, "/metrics", s.metrics.handler())
	}
	return mux
}

// maxURI is longer than any address the API has a use for.
const maxURI = 16 << 10

// serveAPI answers a request below /v2/, or one that nothing else answers.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := s.dispatch(w.(*recorder), r); err != nil {
		s.writeError(w.(*recorder), r, err)
	}
}

func (s *Server) dispatch(w *recorder, r *http.Request) error {
	if len(r.RequestURI) > maxURI {
		return registry.AddressTooLong.With(nil)
	}
	t, err := parsePath(r.URL.Path)
	if t.endpoint == "" {
		return err
	}
	w.target = t
	route := findRoute(t.endpoint, r.Method)
	if route != nil {
		w.route = route
	}
	// Decoding makes %2F a separator, so a path with one would be understood as another than the one a proxy in front
	// has checked.
	if strings.Contains(strings.ToLower(r.URL.EscapedPath()), "%2f") {
		return registry.NameInvalid.With("the path has an encoded slash")
	}
	switch {
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allowed(t.endpoint))
		w.WriteHeader(http.StatusNoContent)
		return nil
	case route == nil:
		w.Header().Set("Allow", allowed(t.endpoint))
		return registry.Unsupported.With("the endpoint does not have this method")
	case err != nil:
		return refuse(r.Method, t, err)
	case s.cfg.ReadOnly && route.access.writes():
		return registry.Unsupported.With("the registry is read-only")
	}
	return route.handler(s, w, r, t)
}

// refuse returns the error for a path that has an endpoint but is not valid. What can be no reference is the reference of
// no manifest, so asking for it finds nothing; only pushing to it is wrong.
func refuse(method string, t target, err error) error {
	if t.endpoint == endpointManifest && method != http.MethodPut && !registry.NameInvalid.Is(err) {
		return registry.ManifestUnknown.With(nil)
	}
	return err
}

// isClientGone says whether the client ended the request before the answer.
func isClientGone(r *http.Request, err error) bool {
	return r.Context().Err() != nil && errors.Is(err, r.Context().Err())
}

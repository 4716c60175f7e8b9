// Package server speaks the OCI distribution specification over HTTP. It is protocol only: a handler takes a request
// apart, makes one call of package registry, and puts the answer together. The list of what there is to ask is the table
// in routes.go.
package server

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"registry/server/admin"
	"registry/server/auth"
	"registry/server/mirror"
	"registry/server/registry"

	"github.com/julienschmidt/httprouter"
)

// Config is what a server is made of. Only Registry has no default.
type Config struct {
	Registry        *registry.Registry
	Mirror          *mirror.Mirror  // nil: none
	Auth            *auth.Authority // nil: everybody may do everything
	Log             *slog.Logger    // nil: discarded
	ReadOnly        bool            // refuse whatever changes something
	MaxManifest     int64           // bytes; 4 MiB
	BodyIdleTimeout time.Duration   // without a byte in or out; 1 minute
	KeepAlive       time.Duration   // a connection may wait so long for its next request; 2 minutes
	DrainTimeout    time.Duration   // for requests under way when the server stops; 30 s
	TLS             Certificates    // nil: plain HTTP
	ExternalURL     string          // scheme://host[:port] by which clients know the server; "": what a request says
	TrustedProxies  []netip.Prefix
	TrustUnix       bool     // a peer on a Unix socket is a trusted proxy
	MaxConnections  int      // 0: half of the files that the process may have open, 10,000 at most
	AllowedHosts    []string // names by which a server without users is known, beside its own; *.lan is all one label below lan
	Loopback        bool     // it listens for this machine only
	CORSOrigins     []string // of pages that may read answers, as ParseOrigin returns them
	HSTS            bool     // tell browsers that came by HTTPS to do so the next time, too
	DebugAddr       string   // where pprof listens; "" nowhere
	Version         string   // for the metric of the build
	OnReady         func()   // called when requests are being answered
}

const (
	defaultMaxManifest = 4 << 20
	defaultIdle        = time.Minute
	defaultKeepAlive   = 2 * time.Minute
	defaultDrain       = 30 * time.Second
)

// Server answers requests.
type Server struct {
	cfg         Config
	registry    *registry.Registry
	log         *slog.Logger
	handler     http.Handler
	metrics     *metrics
	crossOrigin *http.CrossOriginProtection
	health      health
	connections *connections
	manifests   *budget
	http        *http.Server
	draining    atomic.Bool
	began       atomic.Int64  // requests of the API
	underWay    sync.RWMutex  // read-locked by every request of the API
	closing     chan struct{} // closed by Close
	closed      atomic.Bool
	// What the log has said once: that a proxy speaks for its clients and is not believed, or contradicts itself.
	noticed, contradicted atomic.Bool
}

// New makes a server. It starts nothing.
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
	if cfg.KeepAlive <= 0 {
		cfg.KeepAlive = defaultKeepAlive
	}
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = defaultDrain
	}
	s := &Server{cfg: cfg, registry: cfg.Registry, log: cfg.Log, closing: make(chan struct{}), crossOrigin: http.NewCrossOriginProtection()}
	if err := s.trustOrigins(); err != nil {
		return nil, err
	}
	s.manifests = newBudget(cfg.BodyIdleTimeout)
	s.connections = newConnections(cfg.MaxConnections, s.trusts, s.log)
	s.metrics = newMetrics(s)
	g := guard{s: s, cors: newCORS(cfg.CORSOrigins)}
	if cfg.Auth == nil {
		g.hosts = newHosts(cfg, cfg.Loopback)
	}
	s.handler = g.protect(s.router())
	s.prepareHTTP()
	return s, nil
}

// trustOrigins names the origins whose pages may change something: the server's own, whatever a proxy makes of the Host,
// and those of CORS.
func (s *Server) trustOrigins() error {
	trusted := slices.Clone(s.cfg.CORSOrigins)
	if s.cfg.ExternalURL != "" {
		trusted = append(trusted, strings.ToLower(s.cfg.ExternalURL))
	}
	for _, origin := range trusted {
		if origin == AnyOrigin {
			continue
		}
		if err := s.crossOrigin.AddTrustedOrigin(origin); err != nil {
			return err
		}
	}
	return nil
}

// Handler answers everything the server answers, without a listener.
func (s *Server) Handler() http.Handler { return s.handler }

// router joins the API, which finds its routes itself, and the few paths beside it. All that httprouter would do by
// itself (redirects, OPTIONS, 405) is off: the API's answers are JSON, and no path is ever made into another. The
// management API finds its routes itself, too.
func (s *Server) router() http.Handler {
	mux := httprouter.New()
	mux.RedirectTrailingSlash, mux.RedirectFixedPath, mux.HandleMethodNotAllowed, mux.HandleOPTIONS = false, false, false, false
	api := s.observe("", http.HandlerFunc(s.serveAPI))
	mux.NotFound = api // also methods that nobody has heard of
	// Not mux.Handler, which copies each request to add parameters that the API does not read.
	handle := func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { api.ServeHTTP(w, r) }
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		mux.Handle(method, "/v2", handle)
		mux.Handle(method, "/v2/*path", handle)
	}
	if s.cfg.Auth != nil {
		for _, path := range []string{"/auth/token", "/token"} {
			mux.Handler("GET", path, s.wrap("token", s.getToken))
			mux.Handler("POST", path, s.wrap("token", s.postToken))
		}
		management := s.wrap("management", s.manage)
		mux.NotFound = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, admin.Prefix) {
				management.ServeHTTP(w, r)
				return
			}
			api.ServeHTTP(w, r)
		})
	}
	for _, method := range []string{"GET", "HEAD"} {
		for _, path := range []string{"/livez", "/live"} {
			mux.Handler(method, path, s.withDeadline(s.serveLive))
		}
		for _, path := range []string{"/readyz", "/ready", "/healthz"} {
			mux.Handler(method, path, s.withDeadline(s.serveReady))
		}
		mux.Handler(method, "/", s.withDeadline(s.serveRoot(api)))
		mux.Handler(method, "/metrics", s.wrap("metrics", s.serveMetrics))
	}
	return mux
}

// wrap is a handler of something that is not the specification's, with all that its API has: errors are answered in
// the same form.
func (s *Server) wrap(name string, handle func(*recorder, *http.Request) error) http.Handler {
	return s.observe(name, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := handle(w.(*recorder), r); err != nil {
			s.writeError(w.(*recorder), r, err)
		}
	}))
}

// serveRoot says to load balancers and monitors that ask for / that a server is here, as registry:2 does. A browser gets
// what there is for people.
func (s *Server) serveRoot(pages http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept"), "text/html") {
			pages.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-cache")
		w.WriteHeader(http.StatusOK)
	}
}

// withDeadline gives an exchange that is withDeadline both ways one deadline for the whole.
func (s *Server) withDeadline(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		control.SetWriteDeadline(time.Now().Add(s.cfg.BodyIdleTimeout))
		r, _ = watchBody(r, control, s.cfg.BodyIdleTimeout)
		h(w, r)
	})
}

// maxURI is longer than any address the API has a use for.
const maxURI = 16 << 10

// serveAPI answers a request below /v2/, or one that nothing else answers.
func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request) {
	w.Header()["Docker-Distribution-Api-Version"] = apiVersion
	if rec := w.(*recorder); rec.namespace != "" {
		w.Header().Set("Oci-Namespace", rec.namespace)
	}
	if err := s.dispatch(w.(*recorder), r); err != nil {
		s.writeError(w.(*recorder), r, err)
	}
}

func (s *Server) dispatch(w *recorder, r *http.Request) error {
	if len(r.RequestURI) > maxURI {
		return registry.AddressTooLong.With(nil)
	}
	if w.target.endpoint == "" {
		return w.invalid
	}
	switch {
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allowed(w.target.endpoint, s.cfg.ReadOnly))
		w.WriteHeader(http.StatusNoContent)
		return nil
	case w.route == nil:
		return s.refuseMethod(w, "the endpoint does not have this method")
	case w.invalid != nil:
		return refuse(r.Method, w.target, w.invalid)
	case s.cfg.ReadOnly && w.route.access.writes():
		return s.refuseMethod(w, "the registry is read-only")
	}
	if err := s.authorize(w, r); err != nil {
		return err
	}
	if w.mirrored && w.route.access == accessPush {
		return s.cfg.Mirror.Refuse(w.target.repo)
	}
	return s.handle(w, r)
}

// refuseMethod returns the error for a method that the endpoint does not have, or not now. The answer lists those it has
// (RFC 9110 section 15.5.6).
func (s *Server) refuseMethod(w *recorder, why string) error {
	w.Header().Set("Allow", allowed(w.target.endpoint, s.cfg.ReadOnly))
	return registry.Unsupported.With(why)
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

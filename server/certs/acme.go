package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// LetsEncrypt is the directory of the CA that is asked by default.
const LetsEncrypt = autocert.DefaultACMEDirectory

// ACMEConfig says whom to ask for which certificates. Only Roots, Email, HTTPAddr, HTTP and Origin may be left out.
type ACMEConfig struct {
	Dir       string         // for the account's key and the certificates
	Names     []string       // DNS names, lower case; a client that says none of them gets the first
	Directory string         // URL
	Roots     *x509.CertPool // of the directory's own HTTPS; nil: those of the system
	Email     string
	HTTPAddr  string       // where to answer http-01; tls-alpn-01 is answered on the listener of Config in any case
	HTTP      net.Listener // of HTTPAddr, if the caller has opened it
	Origin    string       // https://host[:port] to send the other requests of HTTPAddr to; "": the same host, port 443
	Log       *slog.Logger
}

// ACME has certificates from a CA that speaks ACME (RFC 8555). It is its background work that asks for them and not, as
// with autocert alone, whatever handshake comes along: CAs count attempts that fail.
type ACME struct {
	ACMEConfig
	manager *autocert.Manager
	names   map[string]*named
}

// named is what is known of a name's certificate.
type named struct {
	tried chan struct{} // closed after the first attempt to have one
	had   atomic.Bool
}

const (
	patience   = 5 * time.Second // of a handshake with the first attempt
	firstPause = 2 * time.Minute // after an attempt that failed, doubled each time; autocert forgets it after 1 minute
	lastPause  = time.Hour
	acmeCheck  = time.Hour
)

// NewACME makes the directory, and asks nobody yet.
func NewACME(cfg ACMEConfig) (*ACME, error) {
	if err := ensureDir(cfg.Dir); err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: cfg.Roots, MinVersion: tls.VersionTLS12}
	a := &ACME{ACMEConfig: cfg, names: map[string]*named{}}
	for _, name := range cfg.Names {
		a.names[name] = &named{tried: make(chan struct{})}
	}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      cache{cfg.Dir, cfg.Log},
		HostPolicy: a.allow,
		Email:      cfg.Email,
		Client: &acme.Client{DirectoryURL: cfg.Directory, UserAgent: "registry",
			HTTPClient: &http.Client{Transport: transport, Timeout: time.Minute}},
	}
	return a, nil
}

func (a *ACME) allow(_ context.Context, host string) error {
	if name, _, err := net.SplitHostPort(host); err == nil { // of an http-01 request to another port than 80
		host = name
	}
	if a.names[strings.ToLower(host)] == nil {
		return fmt.Errorf("no certificate is wanted for %q", host)
	}
	return nil
}

// Config is for the listener.
func (a *ACME) Config() *tls.Config {
	c := config(a.get)
	c.NextProtos = append(c.NextProtos, acme.ALPNProto)
	return c
}

// get returns a certificate that is there. Only in the first moments of the server it waits for one.
func (a *ACME) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := strings.ToLower(hello.ServerName)
	if a.names[name] == nil {
		name = a.Names[0]
	} else if slices.Equal(hello.SupportedProtos, []string{acme.ALPNProto}) {
		return a.manager.GetCertificate(hello) // the CA looks at its challenge
	}
	select {
	case <-a.names[name].tried:
	case <-time.After(patience):
	}
	if !a.names[name].had.Load() {
		return nil, fmt.Errorf("there is no certificate for %s so far", name)
	}
	return a.manager.GetCertificate(asking(name))
}

// asking is a handshake of a client of our own day: for others autocert would want a second certificate.
func asking(name string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: name, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
}

// Run obtains the certificates, and answers http-01 if there is an address for that. What autocert is doing when ctx ends
// is not waited for: it takes no context, and gives up after five minutes at the latest.
func (a *ACME) Run(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	work, stop := context.WithCancel(ctx)
	defer stop()
	failed, err := a.serveHTTP(work, &background)
	if err != nil {
		return err
	}
	for name := range a.names {
		background.Go(func() { a.keep(work, name) })
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// keep has a certificate for a name obtained, and then watches that it is renewed, which autocert does in silence.
func (a *ACME) keep(ctx context.Context, name string) {
	pause := firstPause
	for first := true; ctx.Err() == nil; first = false {
		cert, err := a.obtain(ctx, name)
		next := acmeCheck
		switch {
		case ctx.Err() != nil:
		case err != nil:
			a.Log.Error("no TLS certificate", "name", name, "directory", a.Directory, "err", err, "retry", pause)
			next, pause = pause, min(2*pause, lastPause)
		case !a.names[name].had.Swap(true):
			a.Log.Info("TLS certificate obtained", "name", name, "ends", cert.Leaf.NotAfter)
		case isLate(cert.Leaf, time.Now()):
			a.Log.Error("TLS certificate is not renewed", "name", name, "directory", a.Directory, "ends", cert.Leaf.NotAfter)
		}
		if first {
			close(a.names[name].tried)
		}
		sleep(ctx, next)
	}
}

// isLate says whether less than a quarter of a certificate's life is left. It is renewed when it is a third.
func isLate(cert *x509.Certificate, now time.Time) bool {
	return cert.NotAfter.Sub(now) < cert.NotAfter.Sub(cert.NotBefore)/4
}

// obtain returns the certificate in use, that of an earlier process, or a new one.
func (a *ACME) obtain(ctx context.Context, name string) (*tls.Certificate, error) {
	type result struct {
		cert *tls.Certificate
		err  error
	}
	done := make(chan result, 1)
	go func() {
		cert, err := a.manager.GetCertificate(asking(name))
		done <- result{cert, err}
	}()
	select {
	case r := <-done:
		return r.cert, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// serveHTTP answers http-01 until ctx ends, and sends everybody else to HTTPS. A server that fails says so on the channel.
func (a *ACME) serveHTTP(ctx context.Context, background *sync.WaitGroup) (failed <-chan error, err error) {
	if a.HTTPAddr == "" {
		return nil, nil
	}
	ln := a.HTTP
	if ln == nil {
		if ln, err = new(net.ListenConfig).Listen(ctx, "tcp", a.HTTPAddr); err != nil {
			return nil, err
		}
	}
	const limit = 10 * time.Second
	plain := &http.Server{
		Handler: a.manager.HTTPHandler(a.redirect()), ReadTimeout: limit, WriteTimeout: limit, IdleTimeout: limit,
		ErrorLog: slog.NewLogLogger(a.Log.Handler(), slog.LevelDebug),
	}
	result := make(chan error, 1)
	background.Go(func() { result <- plain.Serve(ln) })
	background.Go(func() { <-ctx.Done(); plain.Close() })
	a.Log.Info("http-01 is answered", "address", ln.Addr().String())
	return result, nil
}

// redirect sends to the same path of the origin, or is nil for what autocert does by itself.
func (a *ACME) redirect() http.Handler {
	if a.Origin == "" {
		return nil
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "Use HTTPS", http.StatusBadRequest)
			return
		}
		path := &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		http.Redirect(w, r, a.Origin+"/"+strings.TrimLeft(path.String(), "/"), http.StatusFound)
	})
}

// cache keeps what autocert wants kept, durably: it would ask for no other account with a key that was half written.
type cache struct {
	dir string
	log *slog.Logger
}

func (c cache) path(key string) string { return filepath.Join(c.dir, url.PathEscape(key)) }

// Get does not look for answers to http-01: autocert has its own in memory, and the key is what some client sent.
func (c cache) Get(_ context.Context, key string) ([]byte, error) {
	if strings.HasSuffix(key, "+http-01") {
		return nil, autocert.ErrCacheMiss
	}
	data, err := os.ReadFile(c.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, autocert.ErrCacheMiss
	}
	return data, err
}

// Put logs its error as well, since autocert goes on without a word.
func (c cache) Put(_ context.Context, key string, data []byte) error {
	err := install(c.path(key), data, os.Rename)
	if err != nil {
		c.log.Error("what belongs to a TLS certificate is not kept", "err", err)
	}
	return err
}

func (c cache) Delete(_ context.Context, key string) error {
	err := os.Remove(c.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

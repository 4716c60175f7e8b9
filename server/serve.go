package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

const (
	headerTimeout = 10 * time.Second // for a request's header to come in
	maxHeader     = 64 << 10         // bytes
	slack         = 8 << 20          // bytes
)

// Certificates is where a server's certificate comes from. Package certs has what there is.
type Certificates interface {
	Config() *tls.Config // for the listener
	// Run renews what Config gives. It returns nil when ctx has ended, or before that an error that ends the server.
	Run(ctx context.Context) error
}

func (s *Server) prepareHTTP() {
	s.http = &http.Server{
		Handler: s.connections.handler(s.handler), ConnState: s.connections.stateChanged, ConnContext: s.connections.remember,
		ReadHeaderTimeout: headerTimeout, IdleTimeout: s.cfg.KeepAlive, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	// A proxy that knows that it may speaks HTTP/2 without TLS. Nothing else is asked to: there is no upgrade to it.
	s.http.Protocols = new(http.Protocols)
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetHTTP2(true)
	s.http.Protocols.SetUnencryptedHTTP2(s.cfg.TLS == nil)
	if s.cfg.TLS != nil {
		s.http.TLSConfig = s.cfg.TLS.Config()
	}
}

// Serve answers requests on ln, which it closes, until ctx ends. Then it is no longer ready, lets the requests under way
// finish within the drain time, waits for its background work and returns nil. Any other end is an error.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	// What requests leave behind is collected when it is as much as what is alive, which here is so little that under load
	// the collector would run all the time. These bytes count as alive, and take no memory because nobody touches them.
	defer runtime.KeepAlive(make([]byte, slack))
	var background sync.WaitGroup
	defer background.Wait()
	work, stop := context.WithCancel(ctx)
	defer stop()
	background.Go(func() { s.registry.Maintain(work) })
	background.Go(func() { s.rest(work) })
	if err := s.serveDebug(work, &background); err != nil {
		return errors.Join(err, ln.Close())
	}
	failed := make(chan error, 2)
	if s.cfg.TLS != nil {
		background.Go(func() {
			if err := s.cfg.TLS.Run(work); err != nil {
				failed <- err
			}
		})
	}
	background.Go(func() {
		if s.http.TLSConfig != nil {
			failed <- s.http.ServeTLS(s.connections.listener(ln), "", "")
		} else {
			failed <- s.http.Serve(s.connections.listener(ln))
		}
	})
	if s.cfg.OnReady != nil {
		s.cfg.OnReady()
	}
	select {
	case err := <-failed:
		return errors.Join(err, s.cutOff())
	case <-ctx.Done():
		return s.drain()
	}
}

// rest gives memory back to the system when there was no request for a moment, once until there is one again.
func (s *Server) rest(ctx context.Context) {
	const moment = 2 * time.Second
	tick := time.NewTicker(moment)
	defer tick.Stop()
	var seen, rested int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := s.began.Load()
		if began == seen && began != rested {
			debug.FreeOSMemory()
			rested = began
		}
		seen = began
	}
}

// drain ends the server in order. The requests that do not finish in time are cut off; what they had not been answered
// was not promised.
func (s *Server) drain() error {
	s.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.http.Shutdown(ctx) }()
	select {
	case err := <-done:
		if err != nil {
			s.log.Warn("requests cut off", "after", s.cfg.DrainTimeout)
			return s.cutOff()
		}
		return nil
	case <-s.closing:
		cancel()
		<-done
		return s.cutOff()
	}
}

// cutOff closes every connection and waits for the handlers, which notice soon: after Serve the caller closes what they
// use.
func (s *Server) cutOff() error {
	err := s.http.Close()
	s.underWay.Lock()
	defer s.underWay.Unlock()
	return err
}

// Close cuts every connection off at once, whether the server drains or not.
func (s *Server) Close() error {
	if s.closed.CompareAndSwap(false, true) {
		close(s.closing)
	}
	return s.http.Close()
}

// debugHandler answers with the profiler's pages. There is no login, so it answers to the names of this machine only. The
// pages are no content of strangers: browsers show them, and save its files.
func (s *Server) debugHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return guard{s: s, hosts: newHosts(s.cfg, true)}.protect(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		mux.ServeHTTP(w, r)
	}))
}

// serveDebug serves the profiles of net/http/pprof on their own address: they tell too much for the public one.
func (s *Server) serveDebug(ctx context.Context, background *sync.WaitGroup) error {
	if s.cfg.DebugAddr == "" {
		return nil
	}
	ln, err := net.Listen("tcp", s.cfg.DebugAddr)
	if err != nil {
		return err
	}
	profiles := &http.Server{Handler: s.debugHandler(), ReadHeaderTimeout: headerTimeout}
	background.Go(func() {
		if err := profiles.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("debug server failed", "err", err)
		}
	})
	background.Go(func() { <-ctx.Done(); profiles.Close() })
	s.log.Info("profiles are served", "address", ln.Addr().String())
	return nil
}

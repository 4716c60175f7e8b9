package server

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// health remembers the last answer of the readiness check for a moment, so that many probes cost one write.
type health struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

const (
	healthFor     = time.Second
	healthTimeout = 10 * time.Second
)

// serveLive says that the process answers.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	writeBody(w, r, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
}

// serveReady says whether a push would be taken now: the server is not stopping, the database takes a write and the
// store takes a file. The answer names the part that fails and nothing else; the log has the reason.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	status, text := http.StatusOK, "ok\n"
	if s.draining.Load() {
		status, text = http.StatusServiceUnavailable, "stopping\n"
	} else if err := s.ready(r.Context()); err != nil {
		part, _, _ := strings.Cut(err.Error(), ":")
		status, text = http.StatusServiceUnavailable, part+" failed\n"
	}
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, r, status, "text/plain; charset=utf-8", []byte(text))
}

func (s *Server) ready(ctx context.Context) error {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if time.Since(s.health.at) < healthFor {
		return s.health.err
	}
	// A probe that gives up must not leave its impatience to the next one as a failure.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
	defer cancel()
	s.health.err = s.registry.Ready(ctx)
	s.health.at = time.Now()
	if s.health.err != nil {
		s.log.Error("not ready", "err", s.health.err)
	}
	return s.health.err
}

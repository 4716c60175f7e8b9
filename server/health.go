package server

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// health remembers the last answer of the readiness check for a moment, so that many probes cost one write.
type health struct {
	mu            sync.Mutex
	at            time.Time
	reads, writes error
}

const (
	healthFor     = time.Second
	healthTimeout = 10 * time.Second
)

// serveLive says that the process answers.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request) {
	writeBody(w, r, http.StatusOK, "text/plain; charset=utf-8", []byte("ok\n"))
}

// serveReady says what works now: a load balancer, or what starts containers, acts on the status.
//
//	reads and writes work                                             200 ok
//	only reads work: a full or read-only disk, a read-only registry   200 degraded: PART, with ?writes=1 503
//	reads fail                                                        503 PART failed
//	the server stops                                                  503 stopping
//
// The answer names the part that fails and nothing else; the log has the reason.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	status, text := s.readiness(r)
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, r, status, "text/plain; charset=utf-8", []byte(text+"\n"))
}

func (s *Server) readiness(r *http.Request) (status int, text string) {
	writes, err := strconv.ParseBool(cmp.Or(r.URL.Query().Get("writes"), "0"))
	if err != nil {
		return http.StatusBadRequest, "writes may be 0 or 1"
	}
	if s.draining.Load() {
		return http.StatusServiceUnavailable, "stopping"
	}
	readErr, writeErr := s.ready(r.Context())
	switch {
	case readErr != nil:
		return http.StatusServiceUnavailable, partOf(readErr) + " failed"
	case writeErr == nil:
		return http.StatusOK, "ok"
	case writes:
		return http.StatusServiceUnavailable, "degraded: " + partOf(writeErr)
	}
	return http.StatusOK, "degraded: " + partOf(writeErr)
}

// partOf is the first word of an error of the readiness check.
func partOf(err error) string {
	part, _, _ := strings.Cut(err.Error(), ":")
	return part
}

// errReadOnly is why a registry that is meant to be read takes no push.
var errReadOnly = errors.New("read-only")

// ready returns why pulls fail, and why pushes do.
func (s *Server) ready(ctx context.Context) (reads, writes error) {
	s.health.mu.Lock()
	defer s.health.mu.Unlock()
	if time.Since(s.health.at) < healthFor {
		return s.health.reads, s.health.writes
	}
	// A probe that gives up must not leave its impatience to the next one as a failure.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
	defer cancel()
	s.health.writes = errReadOnly
	if s.health.reads = s.registry.Readable(ctx); s.health.reads != nil {
		s.log.Error("not ready", "err", s.health.reads)
	} else if !s.cfg.ReadOnly {
		if s.health.writes = s.registry.Writable(ctx); s.health.writes != nil {
			s.log.Error("not ready for pushes", "err", s.health.writes)
		}
	}
	s.health.at = time.Now()
	return s.health.reads, s.health.writes
}

package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"registry/server/auth"
	"registry/server/registry"
)

// recorder is the ResponseWriter of the API. It remembers what is worth logging, and has a deadline for every part of
// the answer instead of one for the whole.
type recorder struct {
	http.ResponseWriter
	control   *http.ResponseController
	idle      time.Duration
	deadline  time.Time // of the connection, as last set for writing
	id        string
	target    target // of the path
	invalid   error  // what is wrong with the path
	mirrored  bool   // the target is in a repository that mirrors another registry's
	namespace string // the ?ns= that said so, if it did
	name      string // of what is beside the API of the specification, for logs and metrics
	route     *route // nil if the path or the method has none
	caller    auth.Caller
	registry  *registry.Registry // as the caller uses it
	source    registry.RepoName  // that a push mounts a blob from
	keepTags  bool               // the caller may push what is new, and move no tag
	body      *idleBody          // nil if nothing watches it
	status    int                // 0 until the header is written
	bytes     int64              // of the body, out
}

// sendPart is how much of a file the kernel is asked to send under one deadline: a client that takes at least this much
// in the idle time is never cut off, however large the blob.
const sendPart = 256 << 10

// extend moves the deadline for writing when enough of it has passed for the system call to be worth it.
func (w *recorder) extend() {
	now := time.Now()
	if w.deadline.Sub(now) > w.idle*3/4 {
		return
	}
	w.deadline = now.Add(w.idle)
	w.control.SetWriteDeadline(w.deadline) // a test's ResponseWriter has none, and no client to wait for
}

func (w *recorder) WriteHeader(status int) {
	w.extend()
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.extend()
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// smallBody is what fits into the buffer of a connection, with a header before it.
const smallBody = 3 << 10

// ReadFrom keeps sendfile reachable: io.Copy to a ResponseWriter that hides its ReadFrom copies through memory, which
// costs more than half of the speed.
func (w *recorder) ReadFrom(src io.Reader) (total int64, err error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	limited, ok := src.(*io.LimitedReader)
	to, can := w.ResponseWriter.(io.ReaderFrom)
	if !ok || !can || limited.N <= smallBody { // one write for header and body is less than two
		return io.Copy(struct{ io.Writer }{w}, src)
	}
	for limited.N > 0 {
		w.extend()
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, sendPart)}
		size := part.N
		n, err := to.ReadFrom(part)
		limited.N -= n
		w.bytes += n
		total += n
		if err != nil || n < size {
			return total, err
		}
	}
	return total, nil
}

// Unwrap lets http.ResponseController find the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// idleBody ends a body that stays without a byte for the idle time. There is no limit on the whole: a layer may take
// hours.
type idleBody struct {
	io.ReadCloser
	control  *http.ResponseController
	idle     time.Duration
	deadline time.Time
	total    bool // the deadline is for the whole
	ended    bool // there is no more to read
	bytes    int64
}

// errStalled is what reading such a body ends with. Whatever a handler makes of it, the answer is 408: the client may try
// again (RFC 9110 section 15.5.9).
var errStalled = errors.New("no byte of the body came for the idle time")

// watchBody gives r an idleBody in place of its body. The deadline runs from now on and not from the first Read: before
// it writes an answer, net/http reads what a handler left of a body, and must not wait for a client that sends nothing.
// r is a copy, because net/http looks at the body of its own to see how it was left.
func watchBody(r *http.Request, control *http.ResponseController, idle time.Duration) (*http.Request, *idleBody) {
	b := &idleBody{ReadCloser: r.Body, control: control, idle: idle}
	if r.Body == nil || r.Body == http.NoBody {
		b.ended = true
		return r, b
	}
	b.extend()
	watched := *r
	watched.Body = b
	return &watched, b
}

// extend is recorder.extend for reading.
func (b *idleBody) extend() {
	if b.total {
		return
	}
	if now := time.Now(); b.deadline.Sub(now) < b.idle*3/4 {
		b.deadline = now.Add(b.idle)
		b.control.SetReadDeadline(b.deadline)
	}
}

// limitTime gives a request's body one deadline for the whole of it. It is for small ones, which come at once from an honest
// client.
func limitTime(body io.Reader, total time.Duration) {
	if b, ok := body.(*idleBody); ok {
		b.total, b.deadline = true, time.Now().Add(total)
		b.control.SetReadDeadline(b.deadline)
	}
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.extend()
	n, err := b.ReadCloser.Read(p)
	b.bytes += int64(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("%w: %w", errStalled, err)
	}
	if err == io.EOF {
		b.ended = true
		// The handler may take longer than the idle time with what it has read, and the server reads on meanwhile to
		// notice a client that goes away.
		b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// observe gives requests an id, deadlines, a line in the log and their share of the metrics, and turns a panic of a
// handler into an answer. name is empty for the API of the specification, whose routes have names of their own.
func (s *Server) observe(name string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s.began.Add(1)
		s.underWay.RLock()
		defer s.underWay.RUnlock()
		w := &recorder{ResponseWriter: rw, control: http.NewResponseController(rw), idle: s.cfg.BodyIdleTimeout, id: newRequestID(), registry: s.registry}
		w.Header().Set("X-Request-Id", w.id)
		if w.name = name; name == "" {
			w.target, w.invalid = parsePath(requestPath(r.URL))
			w.route = findRoute(w.target.endpoint, r.Method)
			if s.cfg.Mirror != nil && w.target.repo != "" {
				s.findMirror(w, r)
			}
		}
		r, body := watchBody(r, w.control, w.idle)
		w.body = body
		s.metrics.begin(w)
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				s.log.Error("panic", "id", w.id, "panic", p, "stack", string(debug.Stack()))
				if w.status == 0 {
					s.writeError(w, r, errPanic)
					p = nil
				}
			}
			took := time.Since(start)
			s.metrics.end(w, r, body.bytes, took)
			s.logRequest(w, r, body.bytes, took)
			if p != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(w, r)
	})
}

type panicError struct{}

func (panicError) Error() string { return "panic" }

var errPanic = panicError{}

func newRequestID() string {
	var id [8]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// logRequest writes the one line of a request. Everything the client chose is either checked (the repository) or from a
// list (the route); headers, queries and credentials do not get here.
func (s *Server) logRequest(w *recorder, r *http.Request, received int64, took time.Duration) {
	level := slog.LevelInfo
	if w.status >= 500 {
		level = slog.LevelError
	}
	if !s.log.Enabled(r.Context(), level) {
		return
	}
	address := r.RemoteAddr // of a socket that is not TCP
	if client := s.clientAddress(r); client.IsValid() {
		address = client.String()
	}
	s.log.LogAttrs(r.Context(), level, "request",
		slog.String("id", w.id), slog.String("method", methodLabel(r.Method)), slog.String("route", w.label()),
		slog.String("repository", string(w.target.repo)), slog.String("reference", w.target.reference.String()),
		slog.Int("status", w.status), slog.Int64("bytes", w.bytes), slog.Int64("received", received),
		slog.Duration("duration", took), slog.String("user", w.caller.Name), slog.String("address", address))
}

// label names the route in logs and metrics, with a bounded number of values.
func (w *recorder) label() string {
	switch {
	case w.name != "":
		return w.name
	case w.route == nil:
		return "none"
	}
	return w.route.label
}

// methodLabel bounds the methods that logs and metrics see: a client may send any word.
func methodLabel(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return method
	}
	return "other"
}

func statusLabel(status int) string { return strconv.Itoa(status) }

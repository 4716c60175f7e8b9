package server

import (
	"io"
	"net/http"
	"time"
)

// manifestTime is how many idle times the whole of a manifest may take.
const manifestTime = 5

// checkedBody asks again, when the whole body is there, whether its sender may do what they ask for: a layer takes hours, and
// their right may have ended meanwhile. What they may not do fails like a body that broke off.
type checkedBody struct {
	io.ReadCloser
	total time.Duration // for the whole body, from the first Read; 0: the idle time is enough
	check func() error
	asked bool
	err   error // what check returned
}

func (b *checkedBody) Read(p []byte) (int, error) {
	if b.total > 0 {
		limitTime(b.ReadCloser, b.total)
		b.total = 0
	}
	n, err := b.ReadCloser.Read(p)
	if err != io.EOF {
		return n, err
	}
	if !b.asked {
		b.asked, b.err = true, b.check()
	}
	if b.err != nil {
		return n, b.err
	}
	return n, io.EOF
}

// handle calls the handler of a route that the caller may use. Whatever a body is for, the caller has to have the right when
// all of it is there.
func (s *Server) handle(w *recorder, r *http.Request) error {
	if s.cfg.Auth == nil || !w.route.access.writes() || r.Body == nil || r.Body == http.NoBody {
		return w.route.handler(s, w, r, w.target)
	}
	body := &checkedBody{ReadCloser: r.Body, check: func() error { return s.authorizeAgain(w, r) }}
	if w.target.endpoint == endpointManifest {
		body.total = manifestTime * s.cfg.BodyIdleTimeout
	}
	checked := *r
	checked.Body = body
	err := w.route.handler(s, w, &checked, w.target)
	if body.err != nil {
		return body.err
	}
	return err
}

// authorizeAgain is authorize for a caller who was let in before.
func (s *Server) authorizeAgain(w *recorder, r *http.Request) (err error) {
	if w.caller, err = s.cfg.Auth.Again(r.Context(), w.caller); err != nil {
		return s.challenge(w, r, err)
	}
	return s.permit(w, r)
}

package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"registry/server/registry"
)

// retryAfter is how long a client is told to wait that asked too much, or at a bad moment, if nobody knows better.
const retryAfter = registry.RetryAfter(5 * time.Second)

// statusClientGone is logged for a request whose client did not wait for the answer. Nobody receives it.
const statusClientGone = 499

// writeError answers with an error of the specification's form ("Error Codes"). What caused it goes to the log only.
func (s *Server) writeError(w *recorder, r *http.Request, err error) {
	if isClientGone(r, err) {
		if w.status == 0 {
			w.WriteHeader(statusClientGone) // not nothing, which would mean 200 to whoever does receive it
		}
		w.status = statusClientGone
		return
	}
	if errors.Is(err, errStalled) {
		err = &registry.Error{Code: stalled(w.target.endpoint), Err: err}
	}
	e := registry.AsError(err)
	if e.Code.Status >= 500 {
		s.log.Error("request failed", "id", w.id, "method", r.Method, "repository", w.target.repo, "err", err)
	} else {
		s.log.Debug("request refused", "id", w.id, "method", r.Method, "path", logged(r.URL.EscapedPath()), "err", err)
	}
	if w.status != 0 {
		// The answer has begun: all that is left is to break the connection, so that nobody takes it for complete.
		panic(http.ErrAbortHandler)
	}
	if e.Code.Status == http.StatusTooManyRequests || e.Code.Status == http.StatusServiceUnavailable {
		wait, ok := e.Detail.(registry.RetryAfter)
		if !ok {
			wait = retryAfter
		}
		w.Header().Set("Retry-After", strconv.Itoa(wait.Seconds()))
	}
	if r.ProtoMajor == 1 && w.body != nil && !w.body.ended {
		// Otherwise net/http reads the rest of a body first, to use the connection again, and a client that waits for the
		// answer before it sends more waits in vain.
		w.Header()["Connection"] = closeAfter
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	body, err := json.Marshal(map[string][]entry{"errors": {{e.Code.Name, e.Code.Message, e.Detail}}})
	if err != nil {
		s.log.Error("error detail cannot be written", "id", w.id, "err", err)
	}
	writeBody(w, r, e.Code.Status, "application/json", body)
}

// stalled is the error of a body that did not come to an endpoint.
func stalled(e endpoint) *registry.Code {
	switch e {
	case endpointUploads, endpointUpload:
		return registry.UploadStalled
	case endpointManifest:
		return registry.ManifestStalled
	}
	return registry.RequestStalled
}

// logged cuts off what the client chose, which may be very long.
func logged(s string) string { return s[:min(len(s), 500)] }

// writeBody answers with a body of known length, which HEAD leaves out.
func writeBody(w http.ResponseWriter, r *http.Request, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		w.Write(body)
	}
}

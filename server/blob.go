package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"registry/server/registry"
)

// getBase says that this is a registry ("Determining Support", end-1).
func (s *Server) getBase(w *recorder, r *http.Request, _ target) error {
	writeBody(w, r, http.StatusOK, "application/json", []byte("{}"))
	return nil
}

// blobHeader describes a blob. Its type is inert whatever it contains, and it never changes.
func blobHeader(h http.Header, t target) {
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", t.digest.String())
	h.Set("Etag", `"`+t.digest.String()+`"`)
	h.Set("Cache-Control", "max-age=31536000")
}

// getBlob answers with a blob or ranges of it ("Pulling blobs", end-2).
func (s *Server) getBlob(w *recorder, r *http.Request, t target) error {
	if w.mirrored {
		if done, err := s.getMirrored(w, r, t); done || err != nil {
			return err
		}
	}
	b, err := s.registry.Blob(r.Context(), t.repo, t.digest)
	if err != nil {
		return err
	}
	defer b.Close()
	blobHeader(w.Header(), t)
	if spans := chooseRanges(r, b.Size); spans != nil && wantsRanges(r, t.digest) {
		newParts(spans, b.Size).write(w, b.File) // an error is the client's, or b's
		return b.Err()
	}
	content := contentWriter{ResponseWriter: w}
	// The file itself is handed on, so that the kernel copies it to the connection.
	http.ServeContent(&content, r, "", time.Time{}, b.File)
	return errors.Join(b.Err(), content.err())
}

// contentWriter is what http.ServeContent writes to. It keeps back the errors, which are plain text, for the writer of
// errors to answer.
type contentWriter struct {
	http.ResponseWriter
	failed int // status
}

func (w *contentWriter) WriteHeader(status int) {
	if status == http.StatusRequestedRangeNotSatisfiable || status >= 500 {
		w.failed = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *contentWriter) Write(p []byte) (int, error) {
	if w.failed != 0 {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom leads to the one of the recorder.
func (w *contentWriter) ReadFrom(src io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, src) }

func (w *contentWriter) err() error {
	switch w.failed {
	case 0:
		return nil
	case http.StatusRequestedRangeNotSatisfiable:
		return registry.RangeUnknown.With(nil)
	}
	return fmt.Errorf("the stored file cannot be served: status %d", w.failed)
}

// headBlob says that a blob is there ("Checking if content exists in the registry", end-2).
func (s *Server) headBlob(w *recorder, r *http.Request, t target) error {
	size, err := s.statBlob(w, r, t)
	if err != nil {
		return err
	}
	blobHeader(w.Header(), t)
	if isCached(r, t.digest) {
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	return nil
}

// deleteBlob takes a blob from its repository ("Deleting Blobs", end-10).
func (s *Server) deleteBlob(w *recorder, r *http.Request, t target) error {
	if err := w.registry.DeleteBlob(r.Context(), t.repo, t.digest); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

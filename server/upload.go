package server

import (
	"fmt"
	"net/http"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// postUpload begins a push: it takes the blob at once with ?digest= ("Single POST", end-4b), mounts it from another
// repository with ?mount= (end-11), or else opens a session (end-4a).
func (s *Server) postUpload(w *recorder, r *http.Request, t target) error {
	q := r.URL.Query()
	if q.Has("digest") {
		return s.postBlob(w, r, t, q.Get("digest"))
	}
	alg, err := registry.ParseAlgorithm(q.Get("digest-algorithm"))
	if err != nil {
		return err
	}
	if d, err := registry.ParseDigest(q.Get("mount")); err == nil { // what cannot be mounted is uploaded
		mounted, err := s.mount(w, r, t, d, q.Get("from"))
		if err != nil {
			return err
		}
		if mounted {
			writeCreated(w, t, d)
			return nil
		}
		alg = d.Algorithm() // of the blob that the client will upload instead
	}
	u, err := w.registry.StartUpload(r.Context(), t.repo, alg)
	if err != nil {
		return err
	}
	writeUpload(w, t, u, http.StatusAccepted)
	return nil
}

func (s *Server) postBlob(w *recorder, r *http.Request, t target, text string) error {
	d, err := registry.ParseDigest(text)
	if err != nil {
		return err
	}
	c, err := readChunk(r)
	if err != nil {
		return err
	}
	if err := w.registry.PutBlob(r.Context(), t.repo, d, c); err != nil {
		return err
	}
	writeCreated(w, t, d)
	return nil
}

// mount gives the repository a blob that another one has, or any other if from is empty. mounted is false if there is none
// that the caller, as their token stands, may read, or from is no name: the client uploads the blob then, as if it were not
// there, and is told of no repository.
func (s *Server) mount(w *recorder, r *http.Request, t target, d digest.Digest, from string) (mounted bool, err error) {
	var source registry.RepoName
	if from != "" {
		if source, err = registry.ParseRepoName(from); err != nil {
			return false, nil
		}
	}
	if s.cfg.Auth != nil {
		if source, err = s.mountable(w, r, d, source); source == "" || err != nil {
			return false, err
		}
	}
	return w.registry.MountBlob(r.Context(), t.repo, d, source)
}

// mountable is the repository that a blob may be mounted from: from, or if that is empty any; "" if the
// caller may read none that has it.
func (s *Server) mountable(w *recorder, r *http.Request, d digest.Digest, from registry.RepoName) (registry.RepoName, error) {
	mayRead := s.cfg.Auth.MayMount(w.caller)
	if from == "" {
		found, err := s.registry.FindBlob(r.Context(), d, mayRead)
		if registry.BlobUnknown.Is(err) {
			err = nil
		}
		return found, err
	}
	public, err := s.registry.IsPublic(r.Context(), from)
	if err != nil {
		return "", err
	}
	if may, err := mayRead(from, public); !may {
		return "", err
	}
	return from, nil
}

// getUpload says how far a session has come (end-13).
func (s *Server) getUpload(w *recorder, r *http.Request, t target) error {
	u, err := w.registry.UploadStatus(r.Context(), t.repo, t.upload)
	if err != nil {
		return err
	}
	writeUpload(w, t, u, http.StatusNoContent)
	return nil
}

// patchUpload adds a chunk ("Pushing a blob in chunks", end-5).
func (s *Server) patchUpload(w *recorder, r *http.Request, t target) error {
	c, err := readChunk(r)
	if err != nil {
		return err
	}
	u, err := w.registry.AppendUpload(r.Context(), t.repo, t.upload, c)
	if err != nil {
		return withProgress(w, t, u, err)
	}
	writeUpload(w, t, u, http.StatusAccepted)
	return nil
}

// putUpload ends a session, with or without a last chunk (end-6).
func (s *Server) putUpload(w *recorder, r *http.Request, t target) error {
	d, err := registry.ParseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	c, err := readChunk(r)
	if err != nil {
		return err
	}
	u, err := w.registry.FinishUpload(r.Context(), t.repo, t.upload, d, c)
	if err != nil {
		return withProgress(w, t, u, err)
	}
	h := w.Header()
	h.Set("Range", byteRange(u.Offset))
	writeCreated(w, t, d)
	return nil
}

// deleteUpload cancels a session (end-14).
func (s *Server) deleteUpload(w *recorder, r *http.Request, t target) error {
	if err := w.registry.CancelUpload(r.Context(), t.repo, t.upload); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// withProgress tells a client whose chunk was out of order where to go on.
func withProgress(w http.ResponseWriter, t target, u registry.Upload, err error) error {
	if registry.RangeInvalid.Is(err) && u.ID != "" {
		progressHeader(w.Header(), t, u)
	}
	return err
}

func progressHeader(h http.Header, t target, u registry.Upload) {
	h.Set("Location", target{endpoint: endpointUpload, repo: t.repo, upload: u.ID}.path())
	h.Set("Range", byteRange(u.Offset))
	h.Set("Docker-Upload-Uuid", u.ID)
}

func writeUpload(w http.ResponseWriter, t target, u registry.Upload, status int) {
	progressHeader(w.Header(), t, u)
	w.Header().Set("Content-Length", "0")
	if status == http.StatusNoContent {
		w.Header().Del("Content-Length")
	}
	w.WriteHeader(status)
}

// byteRange is the range of the first n bytes. There is no form for none; clients take this one as such.
func byteRange(n int64) string {
	return fmt.Sprintf("0-%d", max(n-1, 0))
}

// writeCreated answers that a blob is stored. Location has no host: behind a proxy only the client knows it.
func writeCreated(w http.ResponseWriter, t target, d digest.Digest) {
	h := w.Header()
	h.Set("Location", target{endpoint: endpointBlob, repo: t.repo, digest: d}.path())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}

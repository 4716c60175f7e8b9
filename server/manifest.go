package server

import (
	"net/http"
	"strconv"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// manifestHeader describes a manifest with the media type it was pushed with, whatever the client accepts: its digest
// is of these bytes and no others. Types that are refused by now, which browsers show or run, are not named.
func manifestHeader(h http.Header, m registry.Manifest) {
	h.Set("Content-Type", m.ServedAs())
	h.Set("Content-Length", strconv.FormatInt(m.Size, 10))
	h.Set("Docker-Content-Digest", m.Digest.String())
	h.Set("Etag", `"`+m.Digest.String()+`"`)
}

// isCached says whether the client has the content already (RFC 9110 section 13.1.2).
func isCached(r *http.Request, d digest.Digest) bool {
	for tag := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == "*" || strings.Trim(tag, `"`) == d.String() {
			return true
		}
	}
	return false
}

func writeNotModified(w http.ResponseWriter, m registry.Manifest) {
	w.Header().Set("Docker-Content-Digest", m.Digest.String())
	w.Header().Set("Etag", `"`+m.Digest.String()+`"`)
	w.WriteHeader(http.StatusNotModified)
}

// getManifest answers with a manifest, byte for byte as it was pushed ("Pulling manifests", end-3).
func (s *Server) getManifest(w *recorder, r *http.Request, t target) error {
	if err := s.fetchManifest(w, r, t); err != nil {
		return err
	}
	m, err := s.registry.Manifest(r.Context(), t.repo, t.reference)
	if err != nil {
		return err
	}
	if isCached(r, m.Digest) {
		writeNotModified(w, m)
		return nil
	}
	manifestHeader(w.Header(), m)
	w.WriteHeader(http.StatusOK)
	w.Write(m.Content)
	return nil
}

// headManifest is getManifest without the content, for clients that poll a tag.
func (s *Server) headManifest(w *recorder, r *http.Request, t target) error {
	if err := s.fetchManifest(w, r, t); err != nil {
		return err
	}
	m, err := s.registry.StatManifest(r.Context(), t.repo, t.reference)
	if err != nil {
		return err
	}
	if isCached(r, m.Digest) {
		writeNotModified(w, m)
		return nil
	}
	manifestHeader(w.Header(), m)
	w.WriteHeader(http.StatusOK)
	return nil
}

// maxTags is how many tags one push may set. The specification asks for ten at least.
const maxTags = 100

// putManifest stores a manifest under a tag, or under its digest and the tags of ?tag= ("Pushing manifests", end-7a and
// end-7b).
func (s *Server) putManifest(w *recorder, r *http.Request, t target) error {
	tags, err := extraTags(r, t)
	if err != nil {
		return err
	}
	only, err := readCondition(r)
	if err != nil {
		return err
	}
	content, release, err := s.readManifest(w, r)
	if err != nil {
		return err
	}
	defer release()
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	res, err := w.registry.PutManifest(r.Context(), t.repo, registry.Put{
		Ref: t.reference, Tags: tags, MediaType: strings.TrimSpace(mediaType), Content: content, KeepTags: w.keepTags, If: only, MayRead: s.mayRead(w),
	})
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", target{endpoint: endpointManifest, repo: t.repo, reference: registry.Reference{Digest: res.Digest}}.path())
	h.Set("Docker-Content-Digest", res.Digest.String())
	if res.Subject != "" {
		h.Set("Oci-Subject", res.Subject.String())
	}
	for _, tag := range tags {
		h.Add("Oci-Tag", string(tag))
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// mayRead says which repositories the caller may read: without users, all.
func (s *Server) mayRead(w *recorder) func(registry.RepoName, bool) (bool, error) {
	if s.cfg.Auth == nil {
		return func(registry.RepoName, bool) (bool, error) { return true, nil }
	}
	return s.cfg.Auth.MayRead(w.caller)
}

// extraTags reads ?tag=, which goes with a push by digest only.
func extraTags(r *http.Request, t target) (tags []registry.Tag, err error) {
	texts := r.URL.Query()["tag"]
	if len(texts) > 0 && t.reference.Digest == "" {
		return nil, registry.TagInvalid.With("?tag= goes with a push by digest")
	}
	if len(texts) > maxTags {
		return nil, registry.TagInvalid.With("more than " + strconv.Itoa(maxTags) + " tags")
	}
	for _, text := range texts {
		tag, err := registry.ParseTag(text)
		if err != nil {
			return nil, err
		}
		tags = append(tags, tag)
	}
	return tags, nil
}

// deleteManifest removes a tag, or a manifest with all of its tags ("Deleting tags", "Deleting Manifests", end-9).
func (s *Server) deleteManifest(w *recorder, r *http.Request, t target) error {
	only, err := readCondition(r)
	switch {
	case err != nil:
	case t.reference.Tag != "":
		err = w.registry.DeleteTagIf(r.Context(), t.repo, t.reference.Tag, only)
	case !only.Holds(t.reference.Digest): // which is what it is
		err = registry.ConditionFailed.With(nil)
	default:
		err = w.registry.DeleteManifest(r.Context(), t.repo, t.reference.Digest)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

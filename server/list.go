package server

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"registry/server/registry"

	"github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxPage is the default and the most of a page of names.
	maxPage = 10_000
	// maxReferrers is the same for referrers. Some clients read only the first page, so it is not small.
	maxReferrers = 1000
)

// readPage reads n and last. n=0 asks for nothing; more than limit is clamped, however much it is.
func readPage(q url.Values, limit int) (registry.Page, error) {
	p := registry.Page{Last: q.Get("last"), Limit: limit}
	text := q.Get("n")
	if text == "" {
		return p, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return p, registry.PaginationInvalid.With("n is not a number of entries")
	}
	p.Limit = int(min(n, uint64(limit)))
	return p, nil
}

// linkNext points at the page after last (RFC 8288): whatever else this page was asked with, the next one is, too. The
// address is a path: only the client knows the host.
func linkNext(h http.Header, r *http.Request, p registry.Page, last string) {
	q := r.URL.Query()
	q.Set("n", strconv.Itoa(p.Limit))
	q.Set("last", last)
	h.Set("Link", "<"+r.URL.EscapedPath()+"?"+q.Encode()+`>; rel="next"`)
}

func writeJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	writeBody(w, r, http.StatusOK, "application/json", body)
	return nil
}

// names makes an empty list an empty JSON array.
func names(list []string) []string { return append([]string{}, list...) }

// getTags lists tags ("Listing Tags", end-8a and end-8b).
func (s *Server) getTags(w *recorder, r *http.Request, t target) error {
	p, err := readPage(r.URL.Query(), maxPage)
	if err != nil {
		return err
	}
	tags, more, err := s.tags(w, r, t, p)
	if err != nil {
		return err
	}
	if more {
		linkNext(w.Header(), r, p, tags[len(tags)-1])
	}
	return writeJSON(w, r, struct {
		Name registry.RepoName `json:"name"`
		Tags []string          `json:"tags"`
	}{t.repo, names(tags)})
}

// repositories is the page of the catalog that the caller may see.
func (s *Server) repositories(w *recorder, r *http.Request, p registry.Page) ([]string, bool, error) {
	if s.cfg.Auth == nil {
		return s.registry.Repositories(r.Context(), p)
	}
	if s.cfg.Auth.ReadsOnlyPublic(w.caller) {
		if list, more, ok, err := s.registry.PublicRepositories(r.Context(), p); ok {
			return list, more, err
		}
	}
	return s.registry.RepositoriesFor(r.Context(), p, s.cfg.Auth.MayRead(w.caller))
}

// getCatalog lists repositories, as distribution does.
func (s *Server) getCatalog(w *recorder, r *http.Request, _ target) error {
	p, err := readPage(r.URL.Query(), maxPage)
	if err != nil {
		return err
	}
	repositories, more, err := s.repositories(w, r, p)
	if err != nil {
		return err
	}
	if more {
		linkNext(w.Header(), r, p, repositories[len(repositories)-1])
	}
	return writeJSON(w, r, map[string][]string{"repositories": names(repositories)})
}

// getReferrers lists what has a subject, as an index ("Listing Referrers", end-12a and end-12b).
func (s *Server) getReferrers(w *recorder, r *http.Request, t target) error {
	q := r.URL.Query()
	p, err := readPage(q, maxReferrers)
	if err != nil {
		return err
	}
	filter := q.Get("artifactType")
	page, err := s.referrers(w, r, t, filter, p)
	if err != nil {
		return err
	}
	if filter != "" {
		w.Header().Set("Oci-Filters-Applied", "artifactType")
	}
	if page.More {
		linkNext(w.Header(), r, p, page.Last)
	}
	writeIndex(w, r, page.Descriptors)
	return nil
}

// writeIndex answers with an index of descriptors, which are not copied for that: there may be much of them, for many
// clients at once.
func writeIndex(w http.ResponseWriter, r *http.Request, descriptors []string) {
	const begin, end = `{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `","manifests":[`, "]}"
	length := len(begin) + max(len(descriptors)-1, 0) + len(end)
	for _, d := range descriptors {
		length += len(d)
	}
	w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	io.WriteString(w, begin)
	for i, d := range descriptors {
		if i > 0 {
			io.WriteString(w, ",")
		}
		io.WriteString(w, d)
	}
	io.WriteString(w, end)
}

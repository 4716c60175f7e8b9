package server

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/mirror"
	"registry/server/registry"

	"github.com/prometheus/client_golang/prometheus"
)

// findMirror makes the target of a request the repository with the copies, if it is about another registry's content: by
// its path, or by ?ns= ("Registry Proxying").
func (s *Server) findMirror(w *recorder, r *http.Request) {
	ns := ""
	if strings.Contains(r.URL.RawQuery, "ns=") {
		ns = r.URL.Query().Get("ns")
	}
	if ns == r.Host {
		ns = "" // the registry that is named is this one
	}
	repo, mirrored, err := s.cfg.Mirror.Resolve(w.target.repo, ns)
	if err != nil {
		w.invalid = err
		return
	}
	w.target.repo, w.mirrored = repo, mirrored
	if mirrored {
		w.namespace = ns
	}
}

// mirrorClient is the one for whom an upstream is asked: a user, or whoever is in a network where one may have any address.
func (s *Server) mirrorClient(w *recorder, r *http.Request) mirror.Client {
	if w.caller.Name != "" {
		return mirror.Client{Name: w.caller.Name, User: true}
	}
	address := s.clientAddress(r).Unmap().WithZone("")
	if address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			address = network.Addr()
		}
	}
	return mirror.Client{Name: address.String()}
}

// fetchManifest sees to it that the registry has a manifest as its upstream has it, or warns that it may have an older one.
func (s *Server) fetchManifest(w *recorder, r *http.Request, t target) error {
	if !w.mirrored {
		return nil
	}
	stale, err := s.cfg.Mirror.Manifest(r.Context(), s.mirrorClient(w, r), t.repo, t.reference)
	if stale != "" {
		warn(w, stale)
	}
	return err
}

// warn tells whoever pulls ("Warnings").
func warn(w http.ResponseWriter, text string) {
	w.Header().Set("Warning", `299 - "`+strings.NewReplacer(`\`, ``, `"`, ``).Replace(text)+`"`)
}

// getMirrored answers with a blob that is on its way. done is false if it is here.
func (s *Server) getMirrored(w *recorder, r *http.Request, t target) (done bool, err error) {
	follower, size, err := s.cfg.Mirror.Blob(r.Context(), s.mirrorClient(w, r), t.repo, t.digest)
	if follower == nil || err != nil {
		return false, err
	}
	defer follower.Close()
	chooseRanges(r, size) // several are answered with the whole, which is on its way
	blobHeader(w.Header(), t)
	content := contentWriter{ResponseWriter: inPieces{w}}
	http.ServeContent(&content, r, "", time.Time{}, follower)
	return true, errors.Join(follower.Err(), content.err())
}

// statBlob returns the size of a blob, as its upstream says if it is not here.
func (s *Server) statBlob(w *recorder, r *http.Request, t target) (int64, error) {
	if w.mirrored {
		return s.cfg.Mirror.StatBlob(r.Context(), s.mirrorClient(w, r), t.repo, t.digest)
	}
	return s.registry.StatBlob(r.Context(), t.repo, t.digest)
}

// inPieces hides the ReadFrom of a recorder, whose deadline is for the client alone: here it is the upstream that everybody
// waits for.
type inPieces struct{ http.ResponseWriter }

// ReadFrom writes what has come as it comes.
func (w inPieces) ReadFrom(src io.Reader) (int64, error) {
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
}

// withMirrors adds to what a client asks for the names that mirrored repositories have here: it may know them by shorter
// ones.
func (s *Server) withMirrors(asked []auth.Access) []auth.Access {
	if s.cfg.Mirror == nil {
		return asked
	}
	for _, a := range asked {
		repo, mirrored, err := s.cfg.Mirror.Resolve(registry.RepoName(a.Name), "")
		if err == nil && mirrored && string(repo) != a.Name {
			asked = append(asked, auth.Access{Type: a.Type, Name: string(repo), Actions: a.Actions})
		}
	}
	return asked
}

// tags is a page of the tags of a repository, as its upstream has them if it is a mirror.
func (s *Server) tags(w *recorder, r *http.Request, t target, p registry.Page) (tags []string, more bool, err error) {
	if w.mirrored {
		tags, more, err = s.cfg.Mirror.Tags(r.Context(), s.mirrorClient(w, r), t.repo, p)
		if err == nil {
			return tags, more, nil
		}
		warn(w, "these are only the tags that have been pulled before")
	}
	return s.registry.Tags(r.Context(), t.repo, p)
}

// referrers is the same for what has a subject.
func (s *Server) referrers(w *recorder, r *http.Request, t target, artifactType string, p registry.Page) (registry.Referrers, error) {
	if w.mirrored {
		list, err := s.cfg.Mirror.Referrers(r.Context(), s.mirrorClient(w, r), t.repo, t.digest, artifactType)
		if err == nil {
			return registry.PageReferrers(list, p)
		}
		warn(w, "these are only the referrers that have been pulled before")
	}
	return s.registry.Referrers(r.Context(), t.repo, t.digest, artifactType, p)
}

// upstreams collects what the mirror has counted.
type upstreams struct{ mirror *mirror.Mirror }

var (
	descUpstream      = prometheus.NewDesc("registry_upstream_requests_total", "Requests to upstreams, by status or failed.", []string{"upstream", "result"}, nil)
	descUpstreamBytes = prometheus.NewDesc("registry_upstream_bytes_total", "Bytes of blobs fetched.", []string{"upstream"}, nil)
	descFetched       = prometheus.NewDesc("registry_upstream_fetched_total", "Blobs and manifests fetched.", []string{"upstream", "kind"}, nil)
	descServed        = prometheus.NewDesc("registry_mirror_served_total", "Answers without fetching: hit (nobody was asked), confirmed (a tag had not changed), stale (nobody could be asked).", []string{"upstream", "kind"}, nil)
)

// Describe implements prometheus.Collector.
func (u upstreams) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descUpstream, descUpstreamBytes, descFetched, descServed} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (u upstreams) Collect(ch chan<- prometheus.Metric) {
	for _, f := range u.mirror.Figures() {
		counter := func(d *prometheus.Desc, n int64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), append([]string{f.Upstream}, labels...)...)
		}
		for result, n := range f.Requests {
			counter(descUpstream, n, result)
		}
		counter(descUpstreamBytes, f.Bytes)
		counter(descFetched, f.Blobs, "blob")
		counter(descFetched, f.Manifests, "manifest")
		counter(descServed, f.Hits, "hit")
		counter(descServed, f.Confirmed, "confirmed")
		counter(descServed, f.Stale, "stale")
	}
}

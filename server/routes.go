package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// access is the permission a route requires. Zero is invalid, so that no route can be added without one.
type access int

const (
	accessLogin   access = iota + 1 // to have logged in, be it as nobody
	accessPull                      // to read the repository
	accessPush                      // to write to it
	accessDelete                    // to delete from it
	accessCatalog                   // to see what repositories there are
)

// writes says whether requests with this access change anything.
func (a access) writes() bool { return a == accessPush || a == accessDelete }

// endpoint is a path of the distribution specification's API with its variable parts named.
type endpoint string

const (
	endpointBase      endpoint = "/v2/"
	endpointCatalog   endpoint = "/v2/_catalog"
	endpointTags      endpoint = "/v2/<name>/tags/list"
	endpointManifest  endpoint = "/v2/<name>/manifests/<reference>"
	endpointBlob      endpoint = "/v2/<name>/blobs/<digest>"
	endpointUploads   endpoint = "/v2/<name>/blobs/uploads/"
	endpointUpload    endpoint = "/v2/<name>/blobs/uploads/<id>"
	endpointReferrers endpoint = "/v2/<name>/referrers/<digest>"
)

// route is a line of the product: a method of an endpoint, the access it needs and the handler that answers. label is
// the name that distribution's metrics have for the endpoint.
type route struct {
	label    string
	method   string
	endpoint endpoint
	access   access
	handler  func(*Server, *recorder, *http.Request, target) error
}

var routes = []route{
	{"base", http.MethodGet, endpointBase, accessLogin, (*Server).getBase},
	{"catalog", http.MethodGet, endpointCatalog, accessCatalog, (*Server).getCatalog},
	{"tags", http.MethodGet, endpointTags, accessPull, (*Server).getTags},
	{"manifest", http.MethodGet, endpointManifest, accessPull, (*Server).getManifest},
	{"manifest", http.MethodHead, endpointManifest, accessPull, (*Server).headManifest},
	{"manifest", http.MethodPut, endpointManifest, accessPush, (*Server).putManifest},
	{"manifest", http.MethodDelete, endpointManifest, accessDelete, (*Server).deleteManifest},
	{"blob", http.MethodGet, endpointBlob, accessPull, (*Server).getBlob},
	{"blob", http.MethodHead, endpointBlob, accessPull, (*Server).headBlob},
	{"blob", http.MethodDelete, endpointBlob, accessDelete, (*Server).deleteBlob},
	{"blob_upload", http.MethodPost, endpointUploads, accessPush, (*Server).postUpload},
	{"blob_upload_chunk", http.MethodGet, endpointUpload, accessPush, (*Server).getUpload},
	{"blob_upload_chunk", http.MethodPatch, endpointUpload, accessPush, (*Server).patchUpload},
	{"blob_upload_chunk", http.MethodPut, endpointUpload, accessPush, (*Server).putUpload},
	{"blob_upload_chunk", http.MethodDelete, endpointUpload, accessPush, (*Server).deleteUpload},
	{"referrers", http.MethodGet, endpointReferrers, accessPull, (*Server).getReferrers},
}

// findRoute returns the route of a method, or nil. HEAD is answered wherever GET is (RFC 9110 section 9.1).
func findRoute(e endpoint, method string) *route {
	for i := range routes {
		if routes[i].endpoint == e && routes[i].method == method {
			return &routes[i]
		}
	}
	if method == http.MethodHead {
		return findRoute(e, http.MethodGet)
	}
	return nil
}

// allowed lists the methods of an endpoint, for the Allow header.
func allowed(e endpoint, readOnly bool) string {
	methods := []string{http.MethodOptions}
	for _, r := range routes {
		if r.endpoint == e && !(readOnly && r.access.writes()) {
			methods = append(methods, r.method)
		}
	}
	if slices.Contains(methods, http.MethodGet) && !slices.Contains(methods, http.MethodHead) {
		methods = append(methods, http.MethodHead)
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

// target is a path that has been understood. What the access check looks at and what the handler works on is this one
// value, so they cannot differ.
type target struct {
	endpoint  endpoint
	repo      registry.RepoName  // in every endpoint with a <name>
	reference registry.Reference // endpointManifest
	digest    digest.Digest      // endpointBlob, endpointReferrers
	upload    string             // endpointUpload; any text
}

// requestPath is the path of a request, decoded once, but for encoded slashes: decoded they would be separators, and the
// path another one than a proxy in front has checked. No name, tag, digest or id has a percent sign, so the part with the
// slash is not valid, and the error is that of this part. RawPath is what was sent, whenever it is not what Path would be
// sent as.
func requestPath(u *url.URL) string {
	if !hasEncodedSlash(u.RawPath) {
		return u.Path
	}
	path, err := url.PathUnescape(encodedSlash.Replace(u.RawPath))
	if err != nil { // not from a parsed URL
		return u.RawPath
	}
	return path
}

var encodedSlash = strings.NewReplacer("%2f", "%252f", "%2F", "%252F")

func hasEncodedSlash(path string) bool {
	return strings.Contains(path, "%2f") || strings.Contains(path, "%2F")
}

// parsePath understands the path of a request, as requestPath returns it. Repository names contain slashes, and any of the words of
// the API is a legal part of one ("a/blobs/uploads" is a name), so a path is read from the right. The error is NotFound
// for a path of another form; else it says which part is not valid.
func parsePath(path string) (target, error) {
	rest, ok := strings.CutPrefix(path, "/v2")
	switch {
	case ok && (rest == "" || rest == "/"):
		return target{endpoint: endpointBase}, nil
	case !ok || rest[0] != '/':
		return target{}, registry.NotFound.With(nil)
	case rest == "/_catalog":
		return target{endpoint: endpointCatalog}, nil
	}
	head, last := cutLast(rest[1:])
	head, kind := cutLast(head)
	if name, ok := strings.CutSuffix(head, "/blobs"); ok && kind == "uploads" {
		if last == "" {
			return named(target{endpoint: endpointUploads}, name, nil)
		}
		return named(target{endpoint: endpointUpload, upload: last}, name, nil)
	}
	var t target
	var err error
	switch {
	case kind == "blobs" && last == "uploads":
		t.endpoint = endpointUploads
	case kind == "tags" && last == "list":
		t.endpoint = endpointTags
	case kind == "manifests":
		t.endpoint = endpointManifest
		t.reference, err = registry.ParseReference(last)
	case kind == "blobs":
		t.endpoint = endpointBlob
		t.digest, err = registry.ParseDigest(last)
	case kind == "referrers":
		t.endpoint = endpointReferrers
		t.digest, err = registry.ParseDigest(last)
	case hasEncodedSlash(rest) || strings.Contains(rest+"/", "/./") || strings.Contains(rest+"/", "/../"):
		return target{}, registry.NameInvalid.With("the path has an encoded slash, . or ..")
	default:
		return target{}, registry.NotFound.With(nil)
	}
	return named(t, head, err)
}

// cutLast cuts off the last segment of a path.
func cutLast(path string) (head, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// named completes a target with its repository. A bad name is reported before err, a bad last part.
func named(t target, name string, err error) (target, error) {
	repo, nameErr := registry.ParseRepoName(name)
	if nameErr != nil {
		return target{endpoint: t.endpoint}, nameErr
	}
	if err != nil {
		return target{endpoint: t.endpoint}, err
	}
	t.repo = repo
	return t, nil
}

// path is the way back of parsePath: the canonical path of a target.
func (t target) path() string {
	p := strings.Replace(string(t.endpoint), "<name>", string(t.repo), 1)
	p = strings.Replace(p, "<reference>", t.reference.String(), 1)
	p = strings.Replace(p, "<digest>", t.digest.String(), 1)
	return strings.Replace(p, "<id>", t.upload, 1)
}

package server

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"registry/server/registry"
)

var (
	hash64 = strings.Repeat("0f", 32)
	sha256 = "sha256:" + hash64
	sha512 = "sha512:" + hash64 + hash64
)

var paths = []struct {
	path     string
	endpoint endpoint
	repo     string
	last     string // reference, digest or upload id
	code     *registry.Code
}{
	{"/v2", endpointBase, "", "", nil},
	{"/v2/", endpointBase, "", "", nil},
	{"/v2/_catalog", endpointCatalog, "", "", nil},
	{"/v2/a/tags/list", endpointTags, "a", "", nil},
	{"/v2/a/b/c/d/tags/list", endpointTags, "a/b/c/d", "", nil},
	{"/v2/x/tags/list/tags/list", endpointTags, "x/tags/list", "", nil},
	{"/v2/a/blobs/uploads/tags/list", endpointTags, "a/blobs/uploads", "", nil},
	{"/v2/tags/list/manifests/latest", endpointManifest, "tags/list", "latest", nil},
	{"/v2/manifests/manifests/manifests", endpointManifest, "manifests", "manifests", nil},
	{"/v2/a/blobs/uploads/manifests/" + sha256, endpointManifest, "a/blobs/uploads", sha256, nil},
	{"/v2/a/blobs/" + sha512, endpointBlob, "a", sha512, nil},
	{"/v2/blobs/blobs/" + sha256, endpointBlob, "blobs", sha256, nil},
	{"/v2/a/blobs/uploads", endpointUploads, "a", "", nil},
	{"/v2/a/blobs/uploads/", endpointUploads, "a", "", nil},
	{"/v2/a/blobs/uploads/blobs/uploads/", endpointUploads, "a/blobs/uploads", "", nil},
	{"/v2/a/blobs/uploads/x", endpointUpload, "a", "x", nil},
	{"/v2/a/blobs/uploads/blobs/uploads/x", endpointUpload, "a/blobs/uploads", "x", nil},
	{"/v2/a/referrers/" + sha256, endpointReferrers, "a", sha256, nil},
	{"/", "", "", "", registry.NotFound},
	{"", "", "", "", registry.NotFound},
	{"/v1/", "", "", "", registry.NotFound},
	{"/v2x", "", "", "", registry.NotFound},
	{"/v2/a", "", "", "", registry.NotFound},
	{"/v2/a/b", "", "", "", registry.NotFound},
	{"/v2//", "", "", "", registry.NotFound},
	{"/v2/a/tags/list/", "", "", "", registry.NotFound},
	{"/v2/a/tags", "", "", "", registry.NotFound},
	{"/v2/tags/list", endpointTags, "", "", registry.NameInvalid},
	{"/v2/A/tags/list", endpointTags, "", "", registry.NameInvalid},
	{"/v2//a/tags/list", endpointTags, "", "", registry.NameInvalid},
	{"/v2/a//tags/list", endpointTags, "", "", registry.NameInvalid},
	{"/v2/a/../b/tags/list", endpointTags, "", "", registry.NameInvalid},
	{"/v2/blobs/uploads/", "", "", "", registry.NotFound},
	{"/v2/a/manifests/", endpointManifest, "", "", registry.TagInvalid},
	{"/v2/a/manifests/.x", endpointManifest, "", "", registry.TagInvalid},
	{"/v2/a/manifests/sha256:x", endpointManifest, "", "", registry.DigestInvalid},
	{"/v2/a/blobs/x", endpointBlob, "", "", registry.DigestInvalid},
	{"/v2/a/blobs/" + sha256 + "\n", endpointBlob, "", "", registry.DigestInvalid},
	{"/v2/a/blobs/" + strings.ToUpper(sha256), endpointBlob, "", "", registry.DigestInvalid},
}

func TestParsePath(t *testing.T) {
	for _, c := range paths {
		got, err := parsePath(c.path)
		if c.code != nil {
			if !c.code.Is(err) || got.endpoint != c.endpoint || got.repo != "" {
				t.Errorf("%q: %+v, %v", c.path, got, err)
			}
			continue
		}
		last := got.reference.String() + got.digest.String() + got.upload
		if err != nil || got.endpoint != c.endpoint || string(got.repo) != c.repo || last != c.last {
			t.Errorf("%q: %+v, %v", c.path, got, err)
		}
		if back, err := parsePath(got.path()); err != nil || back != got {
			t.Errorf("%q became %q: %+v, %v", c.path, got.path(), back, err)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, c := range paths {
		f.Add(c.path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parsePath(path)
		if err != nil {
			var e *registry.Error
			if !errors.As(err, &e) || e.Code.Status >= 500 || got.repo != "" {
				t.Errorf("%q: %+v, %v", path, got, err)
			}
			return
		}
		if back, err := parsePath(got.path()); err != nil || back != got {
			t.Errorf("%q became %q: %+v, %v", path, got.path(), back, err)
		}
		if _, err := registry.ParseRepoName(string(got.repo)); err != nil && strings.Contains(string(got.endpoint), "<name>") {
			t.Errorf("%q gave the name %q", path, got.repo)
		}
	})
}

func TestEveryRouteHasAnAccessRule(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range routes {
		key := r.method + " " + string(r.endpoint)
		if r.access < accessLogin || r.access > accessCatalog || r.handler == nil || r.label == "" || seen[key] {
			t.Errorf("%s: access %d, label %q, twice %v", key, r.access, r.label, seen[key])
		}
		seen[key] = true
		changes := r.method != http.MethodGet && r.method != http.MethodHead
		if changes != r.access.writes() && r.endpoint != endpointUpload {
			t.Errorf("%s changes something (%v) with access %d", key, changes, r.access)
		}
	}
}

func TestAllowed(t *testing.T) {
	for e, want := range map[endpoint]string{
		endpointBase: "GET, HEAD, OPTIONS", endpointManifest: "DELETE, GET, HEAD, OPTIONS, PUT", endpointUploads: "OPTIONS, POST",
	} {
		if got := allowed(e, false); got != want {
			t.Errorf("%s: %s, want %s", e, got, want)
		}
	}
	if got := allowed(endpointManifest, true); got != "GET, HEAD, OPTIONS" {
		t.Errorf("read-only: %s", got)
	}
}

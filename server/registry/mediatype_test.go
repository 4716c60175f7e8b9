package registry

import (
	"strings"
	"testing"
)

// realTypes are media types of manifests that real tools push.
var realTypes = []string{
	"application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json", "application/vnd.oci.artifact.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.cncf.helm.chart.v3+json", "application/vnd.dev.cosign.simplesigning.v1+json", "application/vnd.in-toto+json",
	"application/vnd.wasm.config.v0+json", "application/vnd.buildkit.cacheconfig.v0", "application/vnd.ollama.image.model",
	"application/vnd.cncf.oras.artifact.manifest.v1+json", "application/json", "application/octet-stream", "application/spdx+json",
	"APPLICATION/VND.OCI.IMAGE.MANIFEST.V1+JSON", "application/x.a!#$&-^_.+b", "application/" + strings.Repeat("a", maxMediaType-len("application/")),
}

var refusedTypes = []string{
	"text/html", "TEXT/HTML", "text/plain", "text/xml", "text/javascript", "image/svg+xml", "multipart/related", "message/rfc822", "video/mp4", "model/x", "x/y",
	"application/xml", "Application/XML", "application/xhtml+xml", "application/xhtml+XML", "application/atom+xml", "application/vnd.x+xml", "application/xslt+xml",
	"application/javascript", "application/x-javascript", "application/ecmascript", "application/pdf", "application/PDF", "application/x-shockwave-flash",
	"application/x-xpinstall", "application/x-x509-ca-cert", "application/signed-exchange",
	"application/", "application", "/json", "application/.x", "application/+xml", "application/a/b", "application/a b", "application/a(b)", "application/a*", "application/a%2f",
	"application/ä", "application/a\x7f", "application/a\nb", "", " application/json", "xapplication/json",
	"application/" + strings.Repeat("a", maxMediaType-len("application/")+1),
}

func TestMediaTypesThatBrowsersRunAreRefused(t *testing.T) {
	content := func(mediaType string) []byte {
		switch {
		case isIndex(mediaType):
			return []byte(`{"schemaVersion":2,"manifests":[]}`)
		case isImage(mediaType):
			return []byte(strings.Replace(image(""), `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, "", 1))
		}
		return []byte(`{"x":"<script>alert(1)</script>"}`)
	}
	for _, s := range realTypes {
		if doc, err := parseManifest(s, content(s)); err != nil || doc.mediaType != s {
			t.Errorf("%q: %v", s, err)
		}
		if got := (Manifest{MediaType: s}).ServedAs(); got != s {
			t.Errorf("%q is served as %q", s, got)
		}
	}
	for _, s := range refusedTypes {
		_, err := parseManifest(s, content(s))
		if !ManifestInvalid.Is(err) {
			t.Errorf("%q: %v, want ManifestInvalid", s, err)
		}
		if got := (Manifest{MediaType: s}).ServedAs(); got != inertType {
			t.Errorf("%q is served as %q", s, got)
		}
	}
	for name := range activeTypes {
		if checkMediaType(name) == nil || name != strings.ToLower(name) || !strings.HasPrefix(name, "application/") {
			t.Errorf("%q stands in the list for nothing", name)
		}
	}
}

// A manifest may say its type itself, in another case than the request.
func TestMediaTypesAreTheSameInUpperCase(t *testing.T) {
	upper := "Application/VND.OCI.Image.Manifest.v1+JSON"
	for _, c := range []struct{ contentType, content string }{
		{upper, image("")},
		{"", strings.Replace(image(""), "application/vnd.oci.image.manifest.v1+json", upper, 1)},
		{strings.ToLower(upper), strings.Replace(image(""), "application/vnd.oci.image.manifest.v1+json", upper, 1)},
	} {
		if doc, err := parseManifest(c.contentType, []byte(c.content)); err != nil || len(doc.blobs) != 2 {
			t.Errorf("%+v, %v", doc, err)
		}
		if _, err := parseManifest(c.contentType, []byte(strings.Replace(c.content, `"layers"`, `"manifests":[],"layers"`, 1))); !ManifestInvalid.Is(err) {
			t.Errorf("an image with manifests: %v", err)
		}
	}
	if doc, err := parseManifest("", []byte(strings.Replace(image(""), "application/vnd.oci.image.layer.v1.tar+gzip", strings.ToUpper(dockerForeignLayer), 1))); err != nil || !doc.blobs[1].optional {
		t.Errorf("%+v, %v", doc, err)
	}
}

func TestServedAsTakesNoMemory(t *testing.T) {
	for _, s := range realTypes[:5] {
		if n := testing.AllocsPerRun(100, func() { Manifest{MediaType: s}.ServedAs() }); n != 0 {
			t.Errorf("%s: %v allocations", s, n)
		}
	}
}

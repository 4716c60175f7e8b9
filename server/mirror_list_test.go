package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// Lists through a mirror have the pages that were asked for, and the next one is of the same repository.
func TestMirrorPages(t *testing.T) {
	o := newOrigin(t)
	image := o.image("a", "v0", "layer")
	for i := range 5 {
		o.image("a", fmt.Sprint("v", i), "layer")
		content := imageOf("layer", fmt.Sprintf(`,"annotations":{"n":"%d"},"subject":{"mediaType":"a/b","digest":%q,"size":1}`, i, digest.FromString(image)))
		if a := o.do("PUT", "/v2/a/manifests/"+digest.FromString(content).String(), content, ociManifest); a.StatusCode != 201 {
			t.Fatal(a.Status, a.body)
		}
	}
	m := newMirror(t, o, "")
	for _, first := range []string{
		"/v2/up.example/a/referrers/" + digest.FromString(image).String() + "?n=2", "/v2/a/referrers/" + digest.FromString(image).String() + "?n=2&ns=up.example",
		"/v2/up.example/a/tags/list?n=2", "/v2/a/tags/list?ns=up.example&n=2",
	} {
		seen := map[string]bool{}
		next := first
		for pages := 0; next != ""; pages++ {
			a := m.do("GET", next, "")
			var list struct {
				Manifests []v1.Descriptor
				Tags      []string
			}
			if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.StatusCode != 200 || len(list.Manifests)+len(list.Tags) > 2 || pages > 2 {
				t.Fatal(next, a.Status, a.body)
			}
			for _, d := range list.Manifests {
				seen[d.Digest.String()] = true
			}
			for _, tag := range list.Tags {
				seen[tag] = true
			}
			next, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
		}
		if len(seen) != 5 {
			t.Errorf("%s: %d entries of 5", first, len(seen))
		}
	}
}

package bundle_test

import (
	"encoding/json"
	"errors"
	"testing"

	"registry/server/bundle"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// An archive that names content without bringing it gets no repository the private content of another.
func TestPrivateStaysPrivate(t *testing.T) {
	const secret = "secret layer"
	config := "{}"
	layer := v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: digest.FromString(secret), Size: int64(len(secret))}
	m := v1.Manifest{Versioned: versioned, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{layer},
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromString(config), Size: int64(len(config))}}
	text := must[[]byte](t)(json.Marshal(m))
	line := func(repo string) v1.Descriptor {
		return v1.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(text), Size: int64(len(text)),
			Annotations: map[string]string{v1.AnnotationRefName: repo + ":v1"}}
	}
	layout := func(blobs []string, lines ...v1.Descriptor) []byte {
		index := must[[]byte](t)(json.Marshal(v1.Index{Versioned: versioned, Manifests: lines}))
		list := []entry{file("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), file("index.json", string(index))}
		for _, content := range blobs {
			list = append(list, file("blobs/sha256/"+digest.FromString(content).Encoded(), content))
		}
		return join(t, list)
	}
	without, with := []string{string(text), config}, []string{string(text), config, secret}
	for name, test := range map[string]struct {
		repo    registry.RepoName // that has the blob here
		public  bool
		archive []byte
		taken   bool
	}{
		"private":             {"team/private", false, layout(without, line("evil/app")), false},
		"private, two claims": {"team/private", false, layout(without, line("evil/app"), line("team/private")), false},
		"its bytes":           {"team/private", false, layout(with, line("evil/app"), line("evil/other")), true},
		"public":              {"team/public", true, layout(without, line("evil/app")), true},
		"the same repository": {"evil/app", false, layout(without, line("evil/app")), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.blob(test.repo, layer.MediaType, secret)
			if test.public {
				if err := s.SetPublic(t.Context(), test.repo, true); err != nil {
					t.Fatal(err)
				}
			}
			_, err := s.importBytes(test.archive, bundle.ImportOptions{})
			if taken := err == nil; taken != test.taken {
				t.Errorf("taken %v: %v", taken, err)
			}
			var missing bundle.MissingError
			if !test.taken && !errors.As(err, &missing) {
				t.Errorf("want a MissingError: %v", err)
			}
			if _, err := s.StatBlob(t.Context(), "evil/app", layer.Digest); (err == nil) != test.taken {
				t.Errorf("evil/app and the blob: %v", err)
			}
		})
	}
}

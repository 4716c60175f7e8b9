// Package bundle carries content from one registry to another by file, where no network leads. A bundle is a plain OCI
// image layout in a tar, which other tools read as well, with one more file, bundle.json, that says what belongs where:
// repositories, tags, and what the receiver has to have already. It reaches the registry through the methods of package
// registry only, as any other client does.
//
// What it promises:
//
//   - Manifests and blobs cross byte for byte, with their media types. The same content makes the same bundle.
//   - An import checks all it can before it writes: names, sizes, the signature, and that everything is there that any
//     manifest needs. Then blobs come, each read once and verified while it is stored, and then all manifests and tags
//     in one transaction. If anything fails before that, nobody sees any of it. Blobs that have come stay for a while, so
//     that the next try is fast.
//   - No name in an archive ever becomes the name of a file.
//
// plan.go says what goes into a bundle, export.go writes it; source.go and scan.go read an archive, place.go and import.go
// bring it in.
package bundle

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Files of a layout beside blobs/.
const (
	layoutFile    = "oci-layout"
	indexFile     = "index.json"
	bundleFile    = "bundle.json"
	signatureFile = "bundle.sig"
	dockerFile    = "manifest.json"
)

// layoutText is all that oci-layout has to say.
const layoutText = `{"imageLayoutVersion":"1.0.0"}`

// version is that of bundle.json. A bundle of a later one is refused.
const version = 1

// Manifest is bundle.json: what a bundle holds, and where that belongs.
type Manifest struct {
	Version      int          `json:"version"`
	Repositories []Repository `json:"repositories"`
	Files        []File       `json:"files"` // of the layout, but this one and its signature
	Blobs        []Blob       `json:"blobs"` // of the layout, manifests included
}

// Repository is a repository as far as a bundle knows it.
type Repository struct {
	Name      registry.RepoName              `json:"name"`
	Tags      map[registry.Tag]digest.Digest `json:"tags,omitempty"`
	Manifests []Descriptor                   `json:"manifests,omitempty"` // in the bundle, in the order of digests
	Required  Required                       `json:"required,omitzero"`
}

// Required is what a bundle does not hold although it belongs to it: the receiver has said that they have it.
type Required struct {
	Manifests []digest.Digest `json:"manifests,omitempty"` // in the same repository
	Blobs     []Blob          `json:"blobs,omitempty"`     // in the same repository, or in a public one
}

// Descriptor says what a manifest is.
type Descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// Blob is a blob with its size in bytes.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// File is a file of the layout.
type File struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// ErrInvalid is an archive that is not what it should be: damaged, incomplete, hostile or of an unknown kind.
var ErrInvalid = errors.New("bundle refused")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// readManifest reads bundle.json and checks every name in it.
func readManifest(text []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, invalid("%s: %w", bundleFile, err)
	}
	if m.Version != version {
		return nil, invalid("%s has version %d, this program knows version %d", bundleFile, m.Version, version)
	}
	for _, r := range m.Repositories {
		if err := r.check(); err != nil {
			return nil, invalid("%s: %w", bundleFile, err)
		}
	}
	for _, b := range m.Blobs {
		if _, err := registry.ParseDigest(string(b.Digest)); err != nil {
			return nil, invalid("%s: %w", bundleFile, err)
		}
	}
	return m, nil
}

func (r Repository) check() error {
	_, err := registry.ParseRepoName(string(r.Name))
	all := append([]digest.Digest{}, r.Required.Manifests...)
	for tag, d := range r.Tags {
		_, bad := registry.ParseTag(string(tag))
		err = errors.Join(err, bad)
		all = append(all, d)
	}
	for _, m := range r.Manifests {
		all = append(all, m.Digest)
	}
	for _, b := range r.Required.Blobs {
		all = append(all, b.Digest)
	}
	for _, d := range all {
		if _, bad := registry.ParseDigest(string(d)); bad != nil {
			return bad
		}
	}
	return err
}

// checkSignature sees that the bundle was signed with the key, if one is asked for.
func checkSignature(key ed25519.PublicKey, text, signature []byte) error {
	switch {
	case key == nil:
		return nil
	case text == nil:
		return invalid("it has no %s, so it cannot be signed", bundleFile)
	case signature == nil:
		return invalid("it is not signed")
	case !ed25519.Verify(key, text, signature):
		return invalid("the signature is not of this key, or not of this bundle")
	}
	return nil
}

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"registry/db"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types that image-spec has no name for.
const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	dockerForeignLayer  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	ociNonDistributable = "application/vnd.oci.image.layer.nondistributable.v1."
	dockerManifests     = "application/vnd.docker.distribution.manifest." // as all of them begin
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json"

	// maxReferences bounds how long other writers wait while a manifest is stored, deleted or undeleted: less than 40 ms. It
	// is for what comes in: there may be manifests with more.
	maxReferences = 2_000
)

// A document is what the registry has to know of a manifest. The bytes themselves are kept as they came.
type document struct {
	mediaType    string
	blobs        []reference // config, layers, and the blobs of an artifact manifest
	children     []reference // manifests of an index; build caches list blobs there
	subject      digest.Digest
	artifactType string
	annotations  map[string]string
}

type reference struct {
	digest    digest.Digest
	size      int64
	mediaType string
	optional  bool // a layer that is fetched from elsewhere and need not be here
}

// parseManifest reads a manifest that comes from a client or another registry, of any media type that browsers do nothing
// with. It is strict about what two readers could understand differently: a media type that contradicts contentType,
// members given twice or in another case, content of both an image and an index (CVE-2021-41190). The error is
// ManifestInvalid.
func parseManifest(contentType string, content []byte) (*document, error) {
	if err := checkBounds(content); err != nil {
		return nil, ManifestInvalid.With(err.Error())
	}
	doc, err := readManifest(contentType, content)
	if err == nil {
		err = checkMediaType(doc.mediaType)
	}
	if err == nil && len(doc.blobs)+len(doc.children) > maxReferences+1 { // one is the configuration
		err = fmt.Errorf("it has more than %d references", maxReferences)
	}
	if err != nil {
		return nil, ManifestInvalid.With(err.Error())
	}
	return doc, nil
}

// parseStored reads a manifest that is stored here already, whatever the rules were when it came. ManifestInvalid.
func parseStored(mediaType string, content []byte) (*document, error) {
	doc, err := readManifest(mediaType, content)
	if err != nil {
		return nil, ManifestInvalid.With(err.Error())
	}
	return doc, nil
}

func readManifest(contentType string, content []byte) (*document, error) {
	if !utf8.Valid(content) {
		return nil, fmt.Errorf("not UTF-8")
	}
	if !json.Valid(content) {
		return nil, fmt.Errorf("not a JSON value")
	}
	m, err := members(content, "schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "subject", "annotations")
	if err != nil {
		return nil, err
	}
	doc := &document{}
	if doc.mediaType, err = m.mediaType(contentType); err != nil {
		return nil, err
	}
	if err := m.checkShape(doc.mediaType); err != nil {
		return nil, err
	}
	if err := doc.readReferences(m); err != nil {
		return nil, err
	}
	return doc, doc.readDescription(m)
}

// mediaType returns what the manifest is: what the request says, which must be what the manifest says if both do.
func (m object) mediaType(contentType string) (string, error) {
	own, err := m.text("mediaType")
	if err != nil {
		return "", err
	}
	switch {
	case own == "" && contentType == "":
		return "", fmt.Errorf("no media type: the request has no Content-Type and the manifest no mediaType")
	case own != "" && contentType != "" && !strings.EqualFold(own, contentType):
		return "", fmt.Errorf("mediaType is %.80q but Content-Type is %.80q", own, contentType)
	case contentType == "":
		contentType = own
	}
	if len(contentType) > maxMediaType || !isMediaType(contentType) {
		return "", fmt.Errorf("%.80q is not a media type", contentType)
	}
	return contentType, nil
}

// isMediaType keeps out what could not stand in a Content-Type header on the way back.
func isMediaType(s string) bool {
	slash := strings.IndexByte(s, '/')
	if slash <= 0 || slash == len(s)-1 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '"' || s[i] == ';' || s[i] == ',' {
			return false
		}
	}
	return true
}

// IsManifest says whether a media type is that of an image, an index or an artifact manifest, of whatever version.
func IsManifest(mediaType string) bool {
	return isImage(mediaType) || isIndex(mediaType) || isType(mediaType, ociArtifact) || strings.HasPrefix(strings.ToLower(mediaType), dockerManifests)
}

// IsForeign says whether a media type is that of a layer that is fetched from elsewhere, so that it need not be here.
func IsForeign(mediaType string) bool {
	return isType(mediaType, dockerForeignLayer) || strings.HasPrefix(strings.ToLower(mediaType), ociNonDistributable)
}

func isImage(mediaType string) bool {
	return isType(mediaType, v1.MediaTypeImageManifest, dockerManifest)
}

func isIndex(mediaType string) bool {
	return isType(mediaType, v1.MediaTypeImageIndex, dockerManifestList)
}

// isType says whether a media type is one of these. Its case makes no difference (RFC 6838 section 4.2).
func isType(mediaType string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(mediaType, name) })
}

// checkShape sees that the members fit the media type, where the specification says which.
func (m object) checkShape(mediaType string) error {
	version, versionErr := m.integer("schemaVersion")
	_, hasVersion := m["schemaVersion"]
	switch {
	case isType(mediaType, dockerSchema1, dockerSchema1Signed) || hasVersion && versionErr == nil && version == 1:
		return fmt.Errorf("schema 1 of Docker is not supported: push schema 2 or an OCI manifest")
	case hasVersion && versionErr != nil:
		return versionErr
	case (isImage(mediaType) || isIndex(mediaType)) && version != 2:
		return fmt.Errorf("schemaVersion is not 2")
	}
	_, config := m["config"]
	_, layers := m["layers"]
	_, manifests := m["manifests"]
	switch {
	case (config || layers) && manifests:
		return fmt.Errorf("both an image (config, layers) and an index (manifests)")
	case isImage(mediaType) && manifests, isIndex(mediaType) && (config || layers):
		return fmt.Errorf("it has what its media type %.80q does not", mediaType)
	case isImage(mediaType) && !config:
		return fmt.Errorf("an image manifest needs config")
	}
	return nil
}

func (doc *document) readReferences(m object) error {
	if raw, ok := m["config"]; ok {
		d, err := readDescriptor(raw)
		if err != nil {
			return fmt.Errorf("config: %w", err)
		}
		doc.blobs = append(doc.blobs, d.reference())
		doc.artifactType = d.mediaType // unless the manifest has its own
	}
	for _, name := range []string{"layers", "blobs", "manifests"} {
		items, err := m.list(name)
		if err != nil {
			return err
		}
		for i, raw := range items {
			d, err := readDescriptor(raw)
			if err != nil {
				return fmt.Errorf("%s[%d]: %w", name, i, err)
			}
			if name == "manifests" {
				doc.children = append(doc.children, d.reference())
			} else {
				doc.blobs = append(doc.blobs, d.reference())
			}
		}
	}
	if raw, ok := m["subject"]; ok {
		d, err := readDescriptor(raw)
		if err != nil {
			return fmt.Errorf("subject: %w", err)
		}
		doc.subject = d.digest
	}
	return nil
}

// Needs says whether a manifest that is here needs what it names: not if that is a layer that is fetched from elsewhere.
func Needs(m db.Manifest, d digest.Digest) bool {
	doc, err := parseStored(m.MediaType, m.Content)
	if err != nil {
		return true
	}
	optional := false
	for _, ref := range append(doc.blobs, doc.children...) {
		if ref.digest == d {
			if optional = ref.optional; !optional {
				return true
			}
		}
	}
	return !optional
}

// isWhole says whether a manifest has everything it needs.
func isWhole(tx *db.Tx, manifestID int64) (bool, error) {
	missing, damaged, err := tx.Lacking(manifestID)
	if err != nil || damaged || len(missing) == 0 {
		return err == nil && !damaged, err
	}
	m, err := tx.ManifestByID(manifestID)
	return err == nil && !slices.ContainsFunc(missing, func(d digest.Digest) bool { return Needs(m, d) }), err
}

// readDescription reads what the referrers API shows of a manifest.
func (doc *document) readDescription(m object) error {
	own, err := m.text("artifactType")
	if err != nil {
		return err
	}
	if own != "" || !isImage(doc.mediaType) {
		doc.artifactType = own
	}
	raw, ok := m["annotations"]
	if !ok {
		return nil
	}
	if err := eachMember(raw, isText); err != nil {
		return fmt.Errorf("annotations: want an object of strings")
	}
	if doc.subject != "" { // else they are only for those who read the manifest
		return json.Unmarshal(raw, &doc.annotations)
	}
	return nil
}

func isText(name string, value json.RawMessage) error {
	if !bytes.HasPrefix(value, []byte{'"'}) && !isNull(value) {
		return fmt.Errorf("%.40q is not a string", name)
	}
	return nil
}

type descriptor struct {
	mediaType    string
	artifactType string
	digest       digest.Digest
	size         int64
}

func (d descriptor) reference() reference {
	return reference{digest: d.digest, size: d.size, mediaType: d.mediaType, optional: IsForeign(d.mediaType)}
}

// readDescriptor reads a content descriptor (image-spec, "OCI Content Descriptors").
func readDescriptor(raw json.RawMessage) (d descriptor, err error) {
	m, err := members(raw, "mediaType", "digest", "size", "artifactType")
	if err != nil {
		return d, err
	}
	if d.mediaType, err = m.text("mediaType"); err != nil {
		return d, err
	}
	if d.artifactType, err = m.text("artifactType"); err != nil {
		return d, err
	}
	text, err := m.text("digest")
	if err != nil {
		return d, err
	}
	if d.digest, err = ParseDigest(text); err != nil {
		return d, fmt.Errorf("digest %.80q is not valid", text)
	}
	if d.size, err = m.integer("size"); err != nil {
		return d, err
	}
	if d.size < 0 {
		return d, fmt.Errorf("size is negative")
	}
	return d, nil
}

package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

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
	maxReferences       = 10_000 // in one manifest
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
	doc, err := readManifest(contentType, content)
	if err == nil {
		err = checkMediaType(doc.mediaType)
	}
	if err != nil {
		return nil, ManifestInvalid.With(err.Error())
	}
	return doc, nil
}

// parseStored reads a manifest that is stored here already, whatever its media type. ManifestInvalid.
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

// object is a JSON object with its members unread.
type object map[string]json.RawMessage

// members reads one level of a JSON object. known are the names this program acts on: they may appear once, and in no
// other case, because parsers differ in which of two they take.
func members(data []byte, known ...string) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("not a JSON object")
	}
	m := object{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name := t.(string)
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("member %.40q is given twice", name)
		}
		for _, k := range known {
			if name != k && strings.EqualFold(name, k) {
				return nil, fmt.Errorf("member %.40q differs from %q in case only", name, k)
			}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		m[name] = value
	}
	return m, nil
}

// text returns a string member, "" if there is none.
func (m object) text(name string) (s string, err error) {
	raw, ok := m[name]
	if !ok {
		return "", nil
	}
	if len(raw) == 0 || raw[0] != '"' {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return s, json.Unmarshal(raw, &s)
}

// integer returns an integer member. JSON has no integers; a fraction or an exponent is refused rather than rounded.
func (m object) integer(name string) (int64, error) {
	n, err := strconv.ParseInt(string(m[name]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not an integer", name)
	}
	return n, nil
}

// list returns an array member; ok is false if there is none.
func (m object) list(name string) (items []json.RawMessage, ok bool, err error) {
	raw, ok := m[name]
	if !ok {
		return nil, false, nil
	}
	if len(raw) == 0 || raw[0] != '[' {
		return nil, true, fmt.Errorf("%s is not an array", name)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.Token()
	for dec.More() {
		var item json.RawMessage
		if err := dec.Decode(&item); err != nil {
			return nil, true, err
		}
		if items = append(items, item); len(items) > maxReferences {
			return nil, true, fmt.Errorf("%s has more than %d entries", name, maxReferences)
		}
	}
	return items, true, nil
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
	case isImage(mediaType) && (!config || !layers):
		return fmt.Errorf("an image manifest needs config and layers")
	case isIndex(mediaType) && !manifests:
		return fmt.Errorf("an index needs manifests")
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
		items, _, err := m.list(name)
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
	if raw, ok := m["subject"]; ok && string(raw) != "null" {
		d, err := readDescriptor(raw)
		if err != nil {
			return fmt.Errorf("subject: %w", err)
		}
		doc.subject = d.digest
	}
	return nil
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
	if raw, ok := m["annotations"]; ok && string(raw) != "null" {
		if err := json.Unmarshal(raw, &doc.annotations); err != nil {
			return fmt.Errorf("annotations: want an object of strings")
		}
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
	optional := isType(d.mediaType, dockerForeignLayer) || strings.HasPrefix(strings.ToLower(d.mediaType), ociNonDistributable)
	return reference{digest: d.digest, size: d.size, mediaType: d.mediaType, optional: optional}
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

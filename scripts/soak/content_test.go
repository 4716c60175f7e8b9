package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// blob is content that clients push. The contents are few and recur: what was deleted and collected a moment ago is
// pushed again, under the same digest.
type blob struct {
	mediaType string
	digest    digest.Digest
	content   []byte
}

func newBlob(mediaType string, content []byte) blob {
	return blob{mediaType, digest.FromBytes(content), content}
}

// layers are shared by all clients and repositories: enough of them that some are held by nothing at any moment. Half
// of them are tiny, so that pushing them takes no time and what is raced is the registry, not the network. Some have
// digests of the other algorithm.
var layers = func() (list []blob) {
	random := rand.NewChaCha8([32]byte{})
	for i := range 160 {
		content := make([]byte, 1+i)
		if i%2 == 1 {
			content = make([]byte, i<<10)
		}
		random.Read(content)
		b := newBlob(v1.MediaTypeImageLayer, content)
		if i%10 == 3 {
			b.digest = digest.SHA512.FromBytes(content)
		}
		list = append(list, b)
	}
	return list
}()

// hot are the first layers, which many images have.
const hot = 8

// empty is the config that all artifacts share.
var empty = newBlob(v1.DescriptorEmptyJSON.MediaType, []byte("{}"))

// manifest is an image, an artifact or an index.
type manifest struct {
	mediaType string
	digest    digest.Digest
	content   []byte
	blobs     []blob // config first
	children  []*manifest
	subject   digest.Digest // "" if it has none
}

func (m *manifest) descriptor() *v1.Descriptor {
	return &v1.Descriptor{MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.content))}
}

// newImage makes an image or, with a subject, an artifact. Two of the same config and layers are the same.
func newImage(config blob, layers []blob, artifactType string, subject *manifest) *manifest {
	m := &manifest{mediaType: v1.MediaTypeImageManifest, blobs: append([]blob{config}, layers...)}
	doc := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: m.mediaType, ArtifactType: artifactType}
	for i, b := range m.blobs {
		d := v1.Descriptor{MediaType: b.mediaType, Digest: b.digest, Size: int64(len(b.content))}
		if i == 0 {
			doc.Config = d
		} else {
			doc.Layers = append(doc.Layers, d)
		}
	}
	if subject != nil {
		m.subject, doc.Subject = subject.digest, subject.descriptor()
	}
	return m.encode(doc)
}

func newIndex(children ...*manifest) *manifest {
	m := &manifest{mediaType: v1.MediaTypeImageIndex, children: children}
	doc := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: m.mediaType}
	for _, c := range children {
		doc.Manifests = append(doc.Manifests, *c.descriptor())
	}
	return m.encode(doc)
}

func (m *manifest) encode(doc any) *manifest {
	content, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	m.content, m.digest = content, digest.FromBytes(content)
	return m
}

// image makes one of the few images of a client: nobody else pushes it, but most of its layers.
func (c *client) image() *manifest {
	const kinds = 8
	kind := c.IntN(kinds)
	config := newBlob(v1.MediaTypeImageConfig, fmt.Appendf(nil, `{"author":"client %d","created":"%d"}`, c.number, kind))
	of := rand.New(rand.NewPCG(uint64(c.number), uint64(kind)))
	own := []blob{layers[of.IntN(hot)]}
	for range 1 + kind%3 {
		own = append(own, layers[hot+of.IntN(len(layers)-hot)])
	}
	return newImage(config, own, "", nil)
}

// artifact makes one of the few referrers of a subject.
func (c *client) artifact(subject *manifest) *manifest {
	kind := fmt.Sprintf("application/vnd.soak.%d", c.IntN(3))
	return newImage(empty, []blob{layers[c.IntN(hot)]}, kind, subject)
}

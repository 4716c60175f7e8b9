package registry

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// What those need who bring content here from elsewhere, or take it there: a manifest's references, a list of what a
// repository has, and many manifests at once.

// Content is what a manifest refers to.
type Content struct {
	Digest    digest.Digest
	Size      int64 // bytes
	MediaType string
	Optional  bool // it need not be here: a layer that is fetched from elsewhere
}

// Contents is what a manifest says of itself.
type Contents struct {
	MediaType string
	Blobs     []Content // config, layers, and the blobs of an artifact manifest
	Children  []Content // manifests of an index; build caches list blobs there
	Subject   digest.Digest
}

// ReadManifest reads a manifest as PutManifest would. mediaType is what it came as, "" if nobody said. ManifestInvalid.
func ReadManifest(mediaType string, content []byte) (Contents, error) {
	doc, err := parseManifest(mediaType, content)
	if err != nil {
		return Contents{}, err
	}
	return doc.contents(), nil
}

// Contents reads a manifest that is stored here. ManifestInvalid.
func (m Manifest) Contents() (Contents, error) {
	doc, err := parseStored(m.MediaType, m.Content)
	if err != nil {
		return Contents{}, err
	}
	return doc.contents(), nil
}

func (doc *document) contents() Contents {
	return Contents{MediaType: doc.mediaType, Blobs: contents(doc.blobs), Children: contents(doc.children), Subject: doc.subject}
}

func contents(refs []reference) (list []Content) {
	for _, ref := range refs {
		list = append(list, Content{Digest: ref.digest, Size: ref.size, MediaType: ref.mediaType, Optional: ref.optional})
	}
	return list
}

// BulkManifest is a manifest with the repository it goes to. Ref is its digest. Without Content only tags are set: the
// repository has the manifest already, or else the error is ManifestUnknown.
type BulkManifest struct {
	Repo RepoName
	Put
}

// PutAll does for many manifests, children before their index, what PutManifest does for one, all or nothing: until it
// returns nil, nobody sees any of them. It goes through the list within the transaction, while others wait to write.
func (r *Registry) PutAll(ctx context.Context, list iter.Seq2[BulkManifest, error]) error {
	err := r.db.Update(ctx, func(tx *db.Tx) error {
		for p, err := range list {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = r.place(tx, p)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return AsError(err)
	}
	return nil
}

func (r *Registry) place(tx *db.Tx, p BulkManifest) error {
	if p.Content == nil {
		m, err := tx.StatManifest(p.Repo, p.Ref.Digest)
		if err != nil {
			return Unknown(err, ManifestUnknown, fmt.Sprintf("%s@%s", p.Repo, p.Ref.Digest))
		}
		return r.tagAll(tx, p.Repo, m, parsedPut{Put: p.Put, digest: m.Digest, tags: p.Tags}, "import")
	}
	parsed, err := p.parse()
	if err != nil {
		return err
	}
	parsed.AnySize = true
	return r.put(tx, p.Repo, parsed, "import")
}

// Inventory is what a repository has, whole and undamaged, in the order of digests.
type Inventory struct {
	Name      RepoName        `json:"name"`
	Public    bool            `json:"public,omitempty"`
	Manifests []digest.Digest `json:"manifests"`
	Blobs     []digest.Digest `json:"blobs"`
}

// Inventory lists the manifests and blobs of a repository as they are at one moment. NameUnknown.
func (r *Registry) Inventory(ctx context.Context, repo RepoName) (Inventory, error) {
	i := Inventory{Name: repo}
	err := r.db.View(ctx, func(tx *db.Tx) error {
		id, err := tx.RepositoryID(repo)
		if err != nil {
			return err
		}
		if i.Manifests, err = tx.ManifestDigests(id); err != nil {
			return err
		}
		if i.Blobs, err = tx.BlobDigests(id); err != nil {
			return err
		}
		public, err := tx.IsPublic(repo)
		i.Public = r.isPublic(repo, public)
		return err
	})
	slices.Sort(i.Manifests)
	slices.Sort(i.Blobs)
	return i, Unknown(err, NameUnknown, repo)
}

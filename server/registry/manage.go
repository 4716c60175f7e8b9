package registry

import (
	"context"
	"fmt"
	"math"
	"strings"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// DeleteTag removes a tag and nothing else (end-9). ManifestUnknown.
func (r *Registry) DeleteTag(ctx context.Context, repo RepoName, tag Tag) error {
	return r.DeleteTagIf(ctx, repo, tag, Condition{})
}

// DeleteTagIf is DeleteTag under a condition. ConditionFailed.
func (r *Registry) DeleteTagIf(ctx context.Context, repo RepoName, tag Tag, only Condition) error {
	err := r.db.Reclaim(ctx, func(tx *db.Tx) error {
		if _, err := tx.StatTaggedManifest(repo, tag); err != nil {
			return err
		}
		if err := only.check(tx, repo, Reference{Tag: tag}); err != nil {
			return err
		}
		if err := r.refuseImmutable(tx, repo, string(tag)); err != nil {
			return err
		}
		if err := tx.DeleteTag(repo, tag); err != nil {
			return err
		}
		return r.audit(tx, "delete", repo, string(tag))
	})
	return Unknown(err, ManifestUnknown, tag)
}

// DeleteManifest removes a manifest and the tags that point at it (end-9). ManifestUnknown; TagImmutable if an image with
// such a tag needs it. It can be undeleted until the undo window ends.
func (r *Registry) DeleteManifest(ctx context.Context, repo RepoName, d digest.Digest) error {
	err := r.db.Reclaim(ctx, func(tx *db.Tx) error {
		m, err := tx.StatManifest(repo, d)
		if err != nil {
			return err
		}
		if err := r.refuseImmutableImages(tx, repo, func() ([]db.Image, error) { return tx.TagsOfManifest(m.ID, math.MaxInt) }); err != nil {
			return err
		}
		if err := r.deleteManifest(tx, m); err != nil {
			return err
		}
		return r.audit(tx, "delete", repo, string(d))
	})
	return Unknown(err, ManifestUnknown, d)
}

func (r *Registry) deleteManifest(tx *db.Tx, m db.Manifest) error {
	if err := tx.ReleaseManifest(m); err != nil {
		return err
	}
	return tx.DeleteManifest(m, r.undoWindow > 0)
}

// DeleteBlob takes a blob from a repository (end-10). Other repositories keep it. BlobUnknown; TagImmutable if an image
// with such a tag needs it.
func (r *Registry) DeleteBlob(ctx context.Context, repo RepoName, d digest.Digest) error {
	err := r.db.Reclaim(ctx, func(tx *db.Tx) error {
		b, err := tx.Blob(repo, d)
		if err != nil {
			return err
		}
		if err := r.refuseImmutableImages(tx, repo, func() ([]db.Image, error) { return tx.TagsNeedingBlob(b.RepositoryID, b.ID, math.MaxInt) }); err != nil {
			return err
		}
		if err := tx.UnlinkBlob(b, d); err != nil {
			return err
		}
		return r.audit(tx, "delete", repo, "blob "+string(d))
	})
	return Unknown(err, BlobUnknown, d)
}

// DeleteRepository removes everything a repository has, its unfinished uploads included. It works in steps, so that
// others can write in between; if it fails or is interrupted the rest is still there and it can be called again.
// NameUnknown.
func (r *Registry) DeleteRepository(ctx context.Context, repo RepoName) error {
	for done := false; !done; {
		err := r.db.Reclaim(ctx, func(tx *db.Tx) (err error) {
			if done, err = r.deleteSome(tx, repo); err != nil || !done {
				return err
			}
			return r.audit(tx, "delete", repo, "repository")
		})
		if err != nil {
			return Unknown(err, NameUnknown, repo)
		}
	}
	var uploads []string
	err := r.db.View(ctx, func(tx *db.Tx) (err error) {
		uploads, err = tx.UploadsOf(repo)
		return err
	})
	for _, k := range r.sessions.which(func(k known) bool { return k.Repository == repo && !k.saved }) {
		uploads = append(uploads, k.ID)
	}
	for _, id := range uploads {
		if err == nil {
			err = r.cancel(ctx, id)
		}
		if BlobUploadUnknown.Is(err) {
			err = nil
		}
	}
	return Unknown(err, NameUnknown, repo)
}

// HasUploads says whether this process has upload sessions in a namespace that the database does not know of yet.
func (r *Registry) HasUploads(namespace string) bool {
	return len(r.sessions.which(func(k known) bool {
		return k.Repository == RepoName(namespace) || strings.HasPrefix(string(k.Repository), namespace+"/")
	})) > 0
}

func (r *Registry) deleteSome(tx *db.Tx, repo RepoName) (done bool, err error) {
	const batch = 100
	id, err := tx.RepositoryID(repo)
	if err != nil {
		return false, err
	}
	manifests, err := tx.SomeManifests(id, batch)
	if err != nil {
		return false, err
	}
	for _, m := range manifests {
		if err := r.deleteManifest(tx, m); err != nil {
			return false, err
		}
	}
	if len(manifests) == batch {
		return false, nil
	}
	return true, tx.DropRepository(id)
}

// CopyResult counts what a copy brought to its target, whether or not it was there before.
type CopyResult struct {
	Digest    digest.Digest `json:"digest"`
	Manifests int           `json:"manifests"` // children and referrers included
	Blobs     int           `json:"blobs"`
}

// Copy gives repository to the manifest that src names in from, with its children and blobs and, if referrers is set,
// the manifests that have any of these as their subject; then it points tags at it. All or nothing, and no bytes are
// copied. Within one repository it only tags. ManifestUnknown.
func (r *Registry) Copy(ctx context.Context, from RepoName, src Reference, to RepoName, tags []Tag, referrers bool) (CopyResult, error) {
	return r.CopyIf(ctx, from, src, CopyTarget{Repository: to, Tags: tags, Referrers: referrers})
}

// CopyTarget is where a manifest is copied to.
type CopyTarget struct {
	Repository RepoName
	Tags       []Tag
	Referrers  bool
	If         Condition // of what each of Tags points at
}

// CopyIf is Copy under a condition. ConditionFailed.
func (r *Registry) CopyIf(ctx context.Context, from RepoName, src Reference, target CopyTarget) (CopyResult, error) {
	var result CopyResult
	to, tags := target.Repository, target.Tags
	if _, mirrored := r.mirrored(to); mirrored {
		return result, Denied.With("repositories under this name mirror another registry")
	}
	err := r.db.Update(ctx, func(tx *db.Tx) error {
		root, err := named(tx, from, src, (*db.Tx).Manifest, (*db.Tx).TaggedManifest)
		if err != nil {
			return Unknown(err, ManifestUnknown, src.String())
		}
		c := copier{tx: tx, referrers: target.Referrers, copied: map[digest.Digest]int64{}, blobs: map[int64]bool{}}
		if c.to, err = tx.MakeRepository(to, r.public); err != nil {
			return err
		}
		id := root.ID
		if from != to {
			if id, err = c.copy(root); err != nil {
				return err
			}
		}
		for _, tag := range tags {
			if err := target.If.check(tx, to, Reference{Tag: tag}); err != nil {
				return err
			}
			if err := r.setTag(tx, to, tag, db.Manifest{RepositoryID: c.to, ID: id, Digest: root.Digest}); err != nil {
				return err
			}
		}
		result = CopyResult{Digest: root.Digest, Manifests: len(c.copied), Blobs: len(c.blobs)}
		return r.audit(tx, "copy", to, "from "+string(from)+", "+pushed(tags, root.Digest))
	})
	if err != nil {
		return CopyResult{}, AsError(err)
	}
	return result, nil
}

// copier links manifests and their blobs into another repository within one transaction.
type copier struct {
	tx        *db.Tx
	to        int64
	referrers bool
	copied    map[digest.Digest]int64 // by digest, with its key in the target
	blobs     map[int64]bool
}

// copy brings children before their index and referrers after their subject.
func (c *copier) copy(m db.Manifest) (id int64, err error) {
	if id, done := c.copied[m.Digest]; done {
		return id, nil
	}
	children, err := c.tx.Children(m.ID)
	if err != nil {
		return 0, err
	}
	for _, child := range children {
		if _, err := c.copy(child); err != nil {
			return 0, err
		}
	}
	if id, err = c.copyOne(m); err != nil || !c.referrers {
		return id, err
	}
	attached, err := c.tx.ReferrersOf(m.RepositoryID, m.Digest)
	if err != nil {
		return 0, err
	}
	for _, referrer := range attached {
		if _, err := c.copy(referrer); err != nil {
			return 0, err
		}
	}
	return id, nil
}

func (c *copier) copyOne(m db.Manifest) (id int64, err error) {
	held, err := c.tx.BlobsOf(m.ID)
	if err != nil {
		return 0, err
	}
	for _, b := range held {
		c.blobs[b.ID] = true
		if err := c.tx.LinkBlob(c.to, b.ID, b.Digest); err != nil {
			return 0, err
		}
	}
	doc, err := parseStored(m.MediaType, m.Content)
	if err != nil {
		return 0, fmt.Errorf("stored manifest %s: %w", m.Digest, err)
	}
	m.RepositoryID = c.to
	// What the source misses the copy may miss too.
	id, err = storeManifest(c.tx, m, doc, SparseAll, acceptSize)
	c.copied[m.Digest] = id
	return id, err
}

package registry

import (
	"context"
	"errors"
	"time"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// A copy of another registry's content is content like any other, in a repository of its own name. What is different:
//
//   - It may lack anything that it names, which is fetched when somebody asks for it.
//   - Its tags remember when the other registry was last seen to agree.
//   - It may be evicted. Whoever asks for it again waits for it again, and loses nothing.

// CachedManifest is a manifest as another registry has it.
type CachedManifest struct {
	Ref       Reference // what it was asked for by
	MediaType string
	Content   []byte
	Public    bool // everybody may read it
}

// CacheManifest stores a manifest of another registry, and points the tag it was asked for by at it. Errors as for
// PutManifest, but nothing has to be there before it.
func (r *Registry) CacheManifest(ctx context.Context, repo RepoName, c CachedManifest) (Manifest, error) {
	doc, err := parseManifest(c.MediaType, c.Content)
	if err != nil {
		return Manifest{}, err
	}
	m := db.Manifest{Digest: c.Ref.Digest, MediaType: doc.mediaType, Size: int64(len(c.Content)), Content: c.Content}
	switch {
	case m.Digest == "":
		m.Digest = digest.FromBytes(c.Content)
	case m.Digest.Algorithm().FromBytes(c.Content) != m.Digest:
		return Manifest{}, DigestInvalid.With("the manifest does not have this digest")
	}
	err = r.db.Update(ctx, func(tx *db.Tx) error {
		if m.RepositoryID, err = tx.MakeRepository(repo, c.Public); err != nil {
			return err
		}
		if err := tx.SetPublic(repo, c.Public); err != nil { // for when it is no mirror any more
			return err
		}
		if m.ID, err = storeManifest(tx, m, doc, SparseAll, r.warnSize(repo, m.Digest)); err != nil {
			return err
		}
		if c.Ref.Tag == "" {
			return tx.CacheManifest(m.ID)
		}
		if err := r.setTag(tx, repo, c.Ref.Tag, m); err != nil {
			return err
		}
		return tx.ConfirmTag(repo, c.Ref.Tag, m.Digest)
	})
	if err != nil {
		return Manifest{}, AsError(err)
	}
	return manifestOf(m), nil
}

// SetMirrors tells the registry which repositories mirror others, and which of those are public, whether there is anything in
// them yet or not. It is called before anybody uses the registry.
func (r *Registry) SetMirrors(mirrors func(RepoName) (mirrored, public bool)) { r.mirrors = mirrors }

// mirrored says whether a repository is a mirror, and public then.
func (r *Registry) mirrored(repo RepoName) (public, mirrored bool) {
	if r.mirrors == nil {
		return false, false
	}
	mirrored, public = r.mirrors(repo)
	return public, mirrored
}

// isPublic says who may read a repository of which the database says stored.
func (r *Registry) isPublic(repo RepoName, stored bool) bool {
	if public, mirrored := r.mirrored(repo); mirrored {
		return public
	}
	return stored
}

// CheckedAt returns when the other registry was last seen to agree with a tag, by the clock of now; the zero time if it
// never was, or that is not known. ManifestUnknown.
func (r *Registry) CheckedAt(ctx context.Context, repo RepoName, tag Tag, now time.Time) (time.Time, error) {
	at, err := db.Cached(ctx, r.db, db.Key{What: "checked", Repository: repo, Item: string(tag)}, func(tx *db.Tx) (time.Time, error) {
		return tx.CheckedAt(repo, tag)
	})
	if db.IsAhead(at, now) {
		at = time.Time{}
	}
	return at, Unknown(err, ManifestUnknown, tag)
}

// ConfirmTag notes that the other registry agrees with a tag now. If it has another manifest by now nothing is noted.
func (r *Registry) ConfirmTag(ctx context.Context, repo RepoName, tag Tag, d digest.Digest) error {
	err := r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.ConfirmTag(repo, tag, d) })
	if err != nil && !errors.Is(err, db.ErrNotFound) {
		return AsError(err)
	}
	return nil
}

// NotePull notes that somebody pulls a copy, so that others are evicted before it.
func (r *Registry) NotePull(ctx context.Context, repo RepoName, d digest.Digest) error {
	err := r.db.Relaxed(ctx, func(tx *db.Tx) error {
		m, err := tx.StatManifest(repo, d)
		if err != nil {
			return err
		}
		return tx.PullCached(m)
	})
	return Unknown(err, ManifestUnknown, d)
}

// WantedSize returns how many bytes a blob has by the manifests of the repository that miss it; ok is false if none does.
func (r *Registry) WantedSize(ctx context.Context, repo RepoName, d digest.Digest) (size int64, ok bool, err error) {
	var missers []db.Manifest
	err = r.db.View(ctx, func(tx *db.Tx) (err error) { missers, err = tx.Missers(repo, d, 1); return err })
	if err != nil || len(missers) == 0 {
		return 0, false, Unknown(err, BlobUnknown, d)
	}
	doc, err := parseStored(missers[0].MediaType, missers[0].Content)
	if err != nil {
		return 0, false, err
	}
	for _, ref := range append(doc.blobs, doc.children...) {
		if ref.digest == d {
			return ref.size, true, nil
		}
	}
	return 0, false, nil
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// TagChange is what happened to a tag once.
type TagChange struct {
	At     time.Time     `json:"at"`
	Before digest.Digest `json:"before,omitempty"` // "" if there was no tag
	After  digest.Digest `json:"after,omitempty"`  // "" if it was removed
	// Whether Before can be had again: as a manifest that is there, or that can be undeleted.
	Restorable bool `json:"restorable"`
}

// TagLog returns up to limit changes of a tag, the latest first, of those that are remembered: all within the undo
// window. ManifestUnknown if there are none.
func (r *Registry) TagLog(ctx context.Context, repo RepoName, tag Tag, limit int) (log []TagChange, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		changes, err := tx.TagChanges(repo, tag, math.MaxInt64, limit)
		if err == nil && len(changes) == 0 {
			err = db.ErrNotFound
		}
		for _, c := range changes {
			if err != nil {
				break
			}
			t := TagChange{At: c.At, Before: c.Before, After: c.After}
			if c.Before != "" {
				t.Restorable, err = canRestore(tx, repo, c.Before)
			}
			log = append(log, t)
		}
		return err
	})
	return log, Unknown(err, ManifestUnknown, tag)
}

func canRestore(tx *db.Tx, repo RepoName, d digest.Digest) (bool, error) {
	_, err := tx.StatManifest(repo, d)
	if errors.Is(err, db.ErrNotFound) {
		_, err = tx.DeletedManifest(repo, d)
	}
	if errors.Is(err, db.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// TagAt returns what a tag pointed at at a time. ManifestUnknown if it did not exist then, or nobody remembers.
func (r *Registry) TagAt(ctx context.Context, repo RepoName, tag Tag, at time.Time) (d digest.Digest, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		now, err := tx.StatTaggedManifest(repo, tag)
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return err
		}
		d = now.Digest
		// Backwards from now, each change that came later is taken back. One from the future came before
		// the one after it.
		when := tx.Now
		for before := int64(math.MaxInt64); ; {
			changes, err := tx.TagChanges(repo, tag, before, 100)
			if err != nil || len(changes) == 0 {
				return err
			}
			for _, c := range changes {
				if !db.IsAhead(c.At, tx.Now) {
					when = c.At
				}
				if !when.After(at) {
					return nil
				}
				d, before = c.Before, c.ID
			}
		}
	})
	if err == nil && d == "" {
		err = db.ErrNotFound
	}
	return d, Unknown(err, ManifestUnknown, fmt.Sprintf("%s did not exist at %s", tag, at.Format(time.RFC3339)))
}

// RestoreTag points a tag at a manifest it pointed at before, and undeletes that if need be. With an empty digest it
// takes back the last change of the tag. ManifestUnknown if the manifest is gone for good.
func (r *Registry) RestoreTag(ctx context.Context, repo RepoName, tag Tag, to digest.Digest) (digest.Digest, error) {
	return r.RestoreTagIf(ctx, repo, tag, to, Condition{})
}

// RestoreTagIf is RestoreTag under a condition. ConditionFailed.
func (r *Registry) RestoreTagIf(ctx context.Context, repo RepoName, tag Tag, to digest.Digest, only Condition) (digest.Digest, error) {
	restored := to
	err := r.db.Update(ctx, func(tx *db.Tx) error {
		restored = to
		if err := only.check(tx, repo, Reference{Tag: tag}); err != nil {
			return err
		}
		if restored == "" {
			changes, err := tx.TagChanges(repo, tag, math.MaxInt64, 1)
			if err != nil {
				return err
			}
			if len(changes) == 0 || changes[0].Before == "" {
				return ManifestUnknown.With(fmt.Sprintf("nothing is remembered that %s pointed at before", tag))
			}
			restored = changes[0].Before
		}
		u := undeleter{tx: tx, repo: repo, done: map[digest.Digest]bool{}}
		if err := u.undelete(restored); err != nil {
			return err
		}
		m, err := tx.StatManifest(repo, restored)
		if err != nil {
			return err
		}
		if err := r.setTag(tx, repo, tag, m); err != nil {
			return err
		}
		return r.audit(tx, "restore", repo, pushed([]Tag{tag}, m.Digest))
	})
	return restored, Unknown(err, ManifestUnknown, restored.String())
}

// Deleted is a manifest that can be undeleted.
type Deleted struct {
	Repository RepoName      `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	MediaType  string        `json:"mediaType"`
	DeletedAt  time.Time     `json:"deletedAt"`
	Tags       []Tag         `json:"tags"` // that went with it, and that nothing has taken since
}

// DeletedManifests calls fn for what can be undeleted, of a repository or of all if repo is empty.
func (r *Registry) DeletedManifests(ctx context.Context, repo RepoName, fn func(Deleted) error) error {
	const batch = 100
	for after := int64(0); ; {
		var list []Deleted
		err := r.db.View(ctx, func(tx *db.Tx) error {
			found, err := tx.DeletedManifests(repo, after, batch)
			for _, m := range found {
				after = m.ID
				var tags []Tag
				if err == nil {
					tags, err = lostTags(tx, m)
				}
				list = append(list, Deleted{Repository: m.Repository, Digest: m.Digest, MediaType: m.MediaType, DeletedAt: m.DeletedAt, Tags: tags})
			}
			return err
		})
		if err != nil {
			return AsError(err)
		}
		for _, d := range list {
			if err := fn(d); err != nil {
				return err
			}
		}
		if len(list) < batch {
			return nil
		}
	}
}

// lostTags returns the tags that a deletion took with it and that do not exist now.
func lostTags(tx *db.Tx, m db.DeletedManifest) (tags []Tag, err error) {
	changes, err := tx.TagsLostAt(m.Repository, m.Digest, m.DeletedAt)
	for _, c := range changes {
		if err != nil {
			break
		}
		_, err = tx.StatTaggedManifest(m.Repository, c.Tag)
		if errors.Is(err, db.ErrNotFound) {
			tags, err = append(tags, c.Tag), nil
		}
	}
	return tags, err
}

// Undeleted is what an undeletion brought back.
type Undeleted struct {
	Manifests []digest.Digest `json:"manifests"`
	Tags      []Tag           `json:"tags"`
}

// Undelete brings a deleted manifest back, with the children and referrers that were deleted too and the tags that went
// with it, unless they exist again. All or nothing. ManifestUnknown if it was not deleted within the undo window.
func (r *Registry) Undelete(ctx context.Context, repo RepoName, d digest.Digest) (back Undeleted, err error) {
	err = r.db.Update(ctx, func(tx *db.Tx) error {
		if _, err := tx.DeletedManifest(repo, d); err != nil {
			return err
		}
		u := undeleter{tx: tx, repo: repo, tags: true, done: map[digest.Digest]bool{}}
		err := u.undelete(d)
		if back = u.back; err != nil {
			return err
		}
		return r.audit(tx, "undelete", repo, d.String())
	})
	return back, Unknown(err, ManifestUnknown, d.String())
}

// undeleter works within one transaction.
type undeleter struct {
	tx   *db.Tx
	repo RepoName
	tags bool // bring back tags, too
	done map[digest.Digest]bool
	back Undeleted
}

// undelete brings back a manifest if it is deleted: its children before it, its referrers after it. It is no error if
// there is nothing to bring back.
func (u *undeleter) undelete(d digest.Digest) error {
	if u.done[d] {
		return nil
	}
	u.done[d] = true
	m, err := u.tx.DeletedManifest(u.repo, d)
	if errors.Is(err, db.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	doc, err := parseStored(m.MediaType, m.Content)
	if err != nil {
		return fmt.Errorf("stored manifest %s: %w", d, err)
	}
	for _, child := range doc.children {
		if err := u.undelete(child.digest); err != nil {
			return err
		}
	}
	if err := u.undeleteOne(m, doc); err != nil {
		return err
	}
	referrers, err := u.tx.DeletedReferrers(u.repo, d)
	if err != nil {
		return err
	}
	for _, referrer := range referrers {
		if err := u.undelete(referrer); err != nil {
			return err
		}
	}
	return nil
}

func (u *undeleter) undeleteOne(m db.DeletedManifest, doc *document) error {
	tags, err := lostTags(u.tx, m)
	if err != nil {
		return err
	}
	repositoryID, err := u.tx.MakeRepository(u.repo, false)
	if err != nil {
		return err
	}
	lost, err := u.tx.LeaseDeletedBlobs(m.ID, repositoryID)
	if err != nil {
		return err
	}
	for _, b := range lost {
		if err := u.tx.LinkBlob(repositoryID, b.ID, b.Digest); err != nil {
			return err
		}
	}
	// What it missed before, or misses since, it may miss now.
	id, err := storeManifest(u.tx, db.Manifest{RepositoryID: repositoryID, Digest: m.Digest, MediaType: m.MediaType,
		Size: int64(len(m.Content)), Content: m.Content}, doc, SparseAll, acceptSize)
	if err != nil {
		return err
	}
	u.back.Manifests = append(u.back.Manifests, m.Digest)
	if u.tags {
		for _, tag := range tags {
			if err := u.tx.SetTag(repositoryID, tag, id); err != nil {
				return err
			}
			u.back.Tags = append(u.back.Tags, tag)
		}
	}
	return u.tx.ForgetDeleted(m.ID, m.DeletedAt.Add(time.Microsecond))
}

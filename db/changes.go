package db

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// Change is what happened to a tag, or to a manifest if Tag is empty.
type Change struct {
	ID            int64 // grows
	At            time.Time
	Repository    RepoName
	Tag           Tag
	Before, After digest.Digest // "" for nothing
}

// record adds a change. The digests are packed, nil for nothing.
func (tx *Tx) record(repositoryID int64, tag string, before, after []byte) error {
	_, err := tx.run(`INSERT INTO changes (at, repository, tag, before, after) SELECT ?, name, ?, ?, ? FROM repositories WHERE id = ?`,
		micros(tx.Now), tag, before, after, repositoryID)
	return err
}

// TagChanges returns up to limit changes of a tag with ids below before, the latest first.
func (tx *Tx) TagChanges(repo RepoName, tag Tag, before int64, limit int) ([]Change, error) {
	return tx.changes(`SELECT id, at, repository, tag, before, after FROM changes
		WHERE repository = ? AND tag = ? AND id < ? ORDER BY id DESC LIMIT ?`, string(repo), string(tag), before, limit)
}

// Changes returns up to limit changes after an id, in order.
func (tx *Tx) Changes(after int64, limit int) ([]Change, error) {
	return tx.changes(`SELECT id, at, repository, tag, before, after FROM changes WHERE id > ? ORDER BY id LIMIT ?`, after, limit)
}

// LastChange returns the id of the latest change, 0 if there was none.
func (tx *Tx) LastChange() (id int64, err error) {
	err = tx.row(`SELECT coalesce(max(id), 0) FROM changes`, nil, &id)
	return id, err
}

func (tx *Tx) changes(query string, args ...any) (list []Change, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var c Change
		var at int64
		var before, after []byte
		if err := r.Scan(&c.ID, &at, &c.Repository, &c.Tag, &before, &after); err != nil {
			return err
		}
		c.At = fromMicros(at)
		if before != nil {
			if c.Before, err = unpackDigest(before); err != nil {
				return err
			}
		}
		if after != nil {
			if c.After, err = unpackDigest(after); err != nil {
				return err
			}
		}
		list = append(list, c)
		return nil
	})
	return list, err
}

// PruneChanges removes those of the oldest limit changes that are older than before and not above copied. The latest
// stays. It looks at no others: times grow with ids.
func (tx *Tx) PruneChanges(before time.Time, copied int64, limit int) (int64, error) {
	return tx.run(`DELETE FROM changes WHERE id IN (
		SELECT id FROM (SELECT id, at FROM changes WHERE id <= ? AND id < (SELECT max(id) FROM changes) ORDER BY id LIMIT ?) AS oldest WHERE at < ?)`,
		copied, limit, micros(before))
}

// DeletedManifest is a manifest that can be undeleted.
type DeletedManifest struct {
	ID         int64
	Repository RepoName
	Digest     digest.Digest
	MediaType  string
	DeletedAt  time.Time
	Content    []byte
}

// keepDeleted copies a manifest that is about to go to where it can be undeleted from, with its hold on its blobs.
func (tx *Tx) keepDeleted(manifestID int64) error {
	var id int64
	err := tx.row(`
		INSERT INTO deleted_manifests (repository, digest, media_type, deleted_at, subject, content)
		SELECT r.name, m.digest, m.media_type, ?, f.subject, m.content
		FROM manifests m JOIN repositories r ON r.id = m.repository_id LEFT JOIN referrers f ON f.manifest_id = m.id WHERE m.id = ?
		ON CONFLICT (repository, digest) DO UPDATE SET media_type = excluded.media_type, deleted_at = excluded.deleted_at
		RETURNING id`, []any{micros(tx.Now), manifestID}, &id)
	if err != nil {
		return err
	}
	_, err = tx.run(`INSERT INTO deleted_manifest_blobs (deleted_id, blob_id) SELECT ?, blob_id FROM manifest_blobs WHERE manifest_id = ?
		ON CONFLICT DO NOTHING`, id, manifestID)
	return err
}

const deletedColumns = `SELECT id, repository, digest, media_type, deleted_at, content FROM deleted_manifests `

// DeletedManifest returns a manifest that can be undeleted. ErrNotFound.
func (tx *Tx) DeletedManifest(repo RepoName, d digest.Digest) (DeletedManifest, error) {
	packed, err := packDigest(d)
	if err != nil {
		return DeletedManifest{}, err
	}
	list, err := tx.deleted(deletedColumns+`WHERE repository = ? AND digest = ?`, string(repo), packed)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return DeletedManifest{}, err
	}
	return list[0], nil
}

// withoutContent is deletedColumns for lists, which may be of many large manifests.
const withoutContent = `SELECT id, repository, digest, media_type, deleted_at, NULL FROM deleted_manifests `

// DeletedManifests returns up to limit manifests that can be undeleted, with keys above after, of a repository or of
// all if repo is empty, without their content.
func (tx *Tx) DeletedManifests(repo RepoName, after int64, limit int) ([]DeletedManifest, error) {
	return tx.deleted(withoutContent+`WHERE (repository = ? OR ? = '') AND id > ? ORDER BY id LIMIT ?`, string(repo), string(repo), after, limit)
}

// ExpiredDeletions returns up to limit manifests that were deleted before a time, the oldest first, without their content.
func (tx *Tx) ExpiredDeletions(before time.Time, limit int) ([]DeletedManifest, error) {
	return tx.deleted(withoutContent+`WHERE deleted_at < ? ORDER BY deleted_at LIMIT ?`, micros(before), limit)
}

func (tx *Tx) deleted(query string, args ...any) (list []DeletedManifest, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var m DeletedManifest
		var packed []byte
		var at int64
		if err := r.Scan(&m.ID, &m.Repository, &packed, &m.MediaType, &at, &m.Content); err != nil {
			return err
		}
		m.DeletedAt = fromMicros(at)
		m.Digest, err = unpackDigest(packed)
		list = append(list, m)
		return err
	})
	return list, err
}

// LeaseDeletedBlobs begins the leases of the blobs that a deleted manifest still holds anew in a repository. It returns those
// that the repository no longer has.
func (tx *Tx) LeaseDeletedBlobs(deletedID, repositoryID int64) ([]HeldBlob, error) {
	if _, err := tx.run(`UPDATE repository_blobs SET leased_at = ? WHERE repository_id = ?
		AND blob_id IN (SELECT blob_id FROM deleted_manifest_blobs WHERE deleted_id = ?)`, micros(tx.Now), repositoryID, deletedID); err != nil {
		return nil, err
	}
	return tx.heldBlobs(`SELECT b.id, b.digest FROM deleted_manifest_blobs d JOIN blobs b ON b.id = d.blob_id
		WHERE d.deleted_id = ? AND NOT EXISTS (SELECT 1 FROM repository_blobs WHERE repository_id = ? AND blob_id = b.id)`, deletedID, repositoryID)
}

// ForgetDeleted removes a deleted manifest for good. ErrNotFound if it was deleted again since before, or is gone.
func (tx *Tx) ForgetDeleted(id int64, before time.Time) error {
	var found int64
	if err := tx.row(`SELECT id FROM deleted_manifests WHERE id = ? AND deleted_at < ?`, []any{id, micros(before)}, &found); err != nil {
		return err
	}
	if err := tx.countForgotten(id); err != nil {
		return err
	}
	return tx.runAll([]any{id},
		`DELETE FROM deleted_manifest_blobs WHERE deleted_id = ?`,
		`DELETE FROM deleted_manifests WHERE id = ?`)
}

// errEnough ends a list.
var errEnough = errors.New("enough")

// JournalManifest is a manifest with everything that the journal says of it.
type JournalManifest struct {
	ID         int64
	Repository RepoName
	Digest     digest.Digest
	MediaType  string
	PushedAt   time.Time
	Content    []byte
	Cached     bool      // it is a copy of what an upstream has
	Tags       []TagInfo // Name and Updated
}

// JournalManifests returns up to limit manifests with keys above after, in their order, and no more when their contents
// are large. There are none left when it returns none.
func (tx *Tx) JournalManifests(after int64, limit int) (list []JournalManifest, err error) {
	const maxBytes = 8 << 20
	bytes := 0
	err = tx.rows(`SELECT m.id, r.name, m.digest, m.media_type, m.pushed_at, m.content,
			EXISTS (SELECT 1 FROM cached_manifests c WHERE c.manifest_id = m.id) FROM manifests m JOIN repositories r ON r.id = m.repository_id
		WHERE m.id > ? ORDER BY m.id LIMIT ?`, []any{after, limit}, func(r *sql.Rows) error {
		var m JournalManifest
		var packed []byte
		var pushed int64
		if err := r.Scan(&m.ID, &m.Repository, &packed, &m.MediaType, &pushed, &m.Content, &m.Cached); err != nil {
			return err
		}
		m.PushedAt = fromMicros(pushed)
		m.Digest, err = unpackDigest(packed)
		list = append(list, m)
		if bytes += len(m.Content); err == nil && bytes >= maxBytes {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	for i := range list {
		if err == nil {
			err = tx.rows(`SELECT name, updated_at FROM tags WHERE manifest_id = ?`, []any{list[i].ID}, func(r *sql.Rows) error {
				var t TagInfo
				var updated int64
				err := r.Scan(&t.Name, &updated)
				t.Updated = fromMicros(updated)
				list[i].Tags = append(list[i].Tags, t)
				return err
			})
		}
	}
	return list, err
}

// TagsLostAt returns the removals of tags that pointed at a manifest, by the transaction of this time. The plus signs keep
// SQLite to the index by time: that by tag would have it read every change of the repository.
func (tx *Tx) TagsLostAt(repo RepoName, d digest.Digest, at time.Time) ([]Change, error) {
	packed, err := packDigest(d)
	if err != nil {
		return nil, err
	}
	return tx.changes(`SELECT id, at, repository, tag, before, after FROM changes
		WHERE repository = ? AND +tag > '' AND at = ? AND before = ? AND after IS NULL ORDER BY +tag`, string(repo), micros(at), packed)
}

// DeletedReferrers returns the digests of the deleted manifests of a repository that have a subject.
func (tx *Tx) DeletedReferrers(repo RepoName, subject digest.Digest) (list []digest.Digest, err error) {
	packed, err := packDigest(subject)
	if err != nil {
		return nil, err
	}
	err = tx.rows(`SELECT digest FROM deleted_manifests WHERE repository = ? AND subject = ? ORDER BY id`, []any{string(repo), packed}, func(r *sql.Rows) error {
		var packed []byte
		if err := r.Scan(&packed); err != nil {
			return err
		}
		d, err := unpackDigest(packed)
		list = append(list, d)
		return err
	})
	return list, err
}

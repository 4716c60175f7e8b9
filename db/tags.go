package db

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// SetTag points a tag at a manifest of the same repository. If it pointed at another, that one's lease begins now.
func (tx *Tx) SetTag(repositoryID int64, tag Tag, manifestID int64) error {
	return tx.SetTagIf(repositoryID, tag, manifestID, func() error { return nil })
}

// SetTagIf is SetTag that asks before it moves a tag from one manifest to another, and fails with what mayMove returns.
func (tx *Tx) SetTagIf(repositoryID int64, tag Tag, manifestID int64, mayMove func() error) error {
	now := micros(tx.Now)
	var oldID int64
	var before, after []byte
	err := tx.row(`SELECT m.id, m.digest FROM tags t JOIN manifests m ON m.id = t.manifest_id WHERE t.repository_id = ? AND t.name = ?`,
		[]any{repositoryID, string(tag)}, &oldID, &before)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if oldID != 0 && oldID != manifestID {
		if err := mayMove(); err != nil {
			return err
		}
		if _, err := tx.run(`UPDATE manifests SET leased_at = ? WHERE id = ?`, now, oldID); err != nil {
			return err
		}
	}
	if _, err := tx.run(`
		INSERT INTO tags (repository_id, name, manifest_id, updated_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (repository_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at`,
		repositoryID, string(tag), manifestID, now); err != nil {
		return err
	}
	if oldID == manifestID {
		return nil
	}
	if err := tx.row(`SELECT digest FROM manifests WHERE id = ?`, []any{manifestID}, &after); err != nil {
		return err
	}
	return tx.record(repositoryID, string(tag), before, after)
}

// DeleteTag removes a tag and begins the lease of what it pointed at. ErrNotFound.
func (tx *Tx) DeleteTag(repo RepoName, tag Tag) error {
	var repositoryID, manifestID int64
	err := tx.row(`
		DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = ?) AND name = ? RETURNING repository_id, manifest_id`,
		[]any{string(repo), string(tag)}, &repositoryID, &manifestID)
	if err != nil {
		return err
	}
	var before []byte
	if err := tx.row(`UPDATE manifests SET leased_at = ? WHERE id = ? RETURNING digest`, []any{micros(tx.Now), manifestID}, &before); err != nil {
		return err
	}
	return tx.record(repositoryID, string(tag), before, nil)
}

// Tags returns up to limit tags after last, in byte order.
func (tx *Tx) Tags(repositoryID int64, last string, limit int) ([]string, error) {
	return tx.strings(`SELECT name FROM tags WHERE repository_id = ? AND name > ? ORDER BY name LIMIT ?`, repositoryID, last, limit)
}

// TagInfo is what a list of tags shows.
type TagInfo struct {
	Name      Tag
	Digest    digest.Digest
	MediaType string
	Size      int64 // of the manifest
	Updated   time.Time
}

// TagInfos is Tags with what they point at.
func (tx *Tx) TagInfos(repositoryID int64, last string, limit int) (infos []TagInfo, err error) {
	err = tx.rows(`
		SELECT t.name, m.digest, m.media_type, m.size, t.updated_at
		FROM tags t JOIN manifests m ON m.id = t.manifest_id
		WHERE t.repository_id = ? AND t.name > ? ORDER BY t.name LIMIT ?`, []any{repositoryID, last, limit}, func(r *sql.Rows) error {
		var i TagInfo
		var packed []byte
		var updated int64
		if err := r.Scan(&i.Name, &packed, &i.MediaType, &i.Size, &updated); err != nil {
			return err
		}
		i.Updated = fromMicros(updated)
		i.Digest, err = unpackDigest(packed)
		infos = append(infos, i)
		return err
	})
	return infos, err
}

package db

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
)

// What people and the check ask, beside what collection asks.

// Integrity reads the whole database and returns what is wrong with it, in SQLite's words: damaged pages, indexes that
// do not match their tables, rows that refer to rows that are not there.
func (d *DB) Integrity(ctx context.Context) (problems []string, err error) {
	c, err := d.connect(ctx, readerPragmas)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := c.SelectContext(ctx, &problems, "PRAGMA integrity_check(20)"); err != nil {
		return nil, wrap(err)
	}
	if len(problems) == 1 && problems[0] == "ok" {
		problems = nil
	}
	rows, err := c.QueryContext(ctx, "PRAGMA foreign_key_check")
	if err != nil {
		return nil, wrap(err)
	}
	defer rows.Close()
	for rows.Next() && len(problems) < 20 {
		var table, parent string
		var row, key sql.NullInt64
		if err := rows.Scan(&table, &row, &parent, &key); err != nil {
			return nil, err
		}
		problems = append(problems, fmt.Sprintf("row %d of %s refers to no row of %s", row.Int64, table, parent))
	}
	return problems, wrap(rows.Err())
}

// Image is a tag with its repository.
type Image struct {
	Repository RepoName
	Tag        Tag
}

// reaching follows children to the indexes they are in, and these to tags. SQLite keeps the order of a CROSS JOIN: left to
// itself it would read every tag.
const reaching = `
	UNION SELECT c.manifest_id FROM up JOIN manifest_children c ON c.child_id = up.id
	)
	SELECT r.name, t.name FROM up CROSS JOIN tags t CROSS JOIN repositories r
	WHERE t.manifest_id = up.id AND r.id = t.repository_id LIMIT ?`

// TagsOfBlob returns up to limit tags whose images need a blob.
func (tx *Tx) TagsOfBlob(blobID int64, limit int) ([]Image, error) {
	return tx.images(`WITH RECURSIVE up (id) AS (SELECT manifest_id FROM manifest_blobs WHERE blob_id = ?`+reaching, blobID, limit)
}

// TagsNeedingBlob is TagsOfBlob for one repository.
func (tx *Tx) TagsNeedingBlob(repositoryID, blobID int64, limit int) ([]Image, error) {
	return tx.images(`WITH RECURSIVE up (id) AS (SELECT manifest_id FROM manifest_blobs WHERE blob_id = ? AND repository_id = ?`+reaching, blobID, repositoryID, limit)
}

// TagsOfManifest returns up to limit tags that point at a manifest or an index that has it, at any depth.
func (tx *Tx) TagsOfManifest(manifestID int64, limit int) ([]Image, error) {
	return tx.images(`WITH RECURSIVE up (id) AS (SELECT CAST(? AS BIGINT)`+reaching, manifestID, limit)
}

func (tx *Tx) images(query string, args ...any) (list []Image, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var i Image
		err := r.Scan(&i.Repository, &i.Tag)
		list = append(list, i)
		return err
	})
	return list, err
}

// Missing is content that a manifest names and its repository does not have.
type Missing struct {
	Repository RepoName
	ManifestID int64
	Manifest   digest.Digest
	Digest     digest.Digest
}

// MissingReferences returns up to limit missing references after another one, in a fixed order. What a cached manifest
// misses is left out: it has only not been asked for.
func (tx *Tx) MissingReferences(after Missing, limit int) (list []Missing, err error) {
	packed := []byte{}
	if after.Digest != "" {
		if packed, err = packDigest(after.Digest); err != nil {
			return nil, err
		}
	}
	err = tx.rows(`SELECT r.name, m.id, m.digest, x.digest FROM missing_references x
		JOIN manifests m ON m.id = x.manifest_id JOIN repositories r ON r.id = x.repository_id
		WHERE (x.manifest_id, x.digest) > (?, ?) AND NOT EXISTS (SELECT 1 FROM cached_manifests c WHERE c.manifest_id = m.id) ORDER BY x.manifest_id, x.digest LIMIT ?`,
		[]any{after.ManifestID, packed, limit}, func(r *sql.Rows) error {
			var m Missing
			var manifest, content []byte
			if err := r.Scan(&m.Repository, &m.ManifestID, &manifest, &content); err != nil {
				return err
			}
			if m.Manifest, err = unpackDigest(manifest); err == nil {
				m.Digest, err = unpackDigest(content)
			}
			list = append(list, m)
			return err
		})
	return list, err
}

// UnlinkedHolds returns up to limit blobs that a manifest holds although its repository does not have them: a broken
// invariant.
func (tx *Tx) UnlinkedHolds(limit int) (list []Missing, err error) {
	err = tx.rows(`SELECT r.name, m.id, m.digest, b.digest FROM manifest_blobs mb
		JOIN manifests m ON m.id = mb.manifest_id JOIN repositories r ON r.id = m.repository_id JOIN blobs b ON b.id = mb.blob_id
		WHERE mb.repository_id <> m.repository_id
		   OR NOT EXISTS (SELECT 1 FROM repository_blobs x WHERE x.repository_id = m.repository_id AND x.blob_id = mb.blob_id) LIMIT ?`,
		[]any{limit}, func(r *sql.Rows) error {
			var m Missing
			var manifest, content []byte
			if err := r.Scan(&m.Repository, &m.ManifestID, &manifest, &content); err != nil {
				return err
			}
			if m.Manifest, err = unpackDigest(manifest); err == nil {
				m.Digest, err = unpackDigest(content)
			}
			list = append(list, m)
			return err
		})
	return list, err
}

// StoredBlob returns a blob by digest, whoever has it. ErrNotFound.
func (tx *Tx) StoredBlob(d digest.Digest) (b StoredBlob, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return b, err
	}
	b.Digest = d
	var verified int64
	err = tx.row(`SELECT id, generation, size, stamp, verified_at, damaged_at <> 0 FROM blobs WHERE digest = ?`,
		[]any{packed}, &b.ID, &b.Generation, &b.Size, &b.Stamp, &verified, &b.Damaged)
	b.VerifiedAt = fromMicros(verified)
	return b, err
}

// BlobHolder is a repository that has a blob.
type BlobHolder struct {
	RepositoryID int64
	Repository   RepoName
	LeasedAt     time.Time
	InSession    bool // an upload session of the repository is open that keeps the lease, see Cutoff
}

// BlobHolders returns up to limit repositories that have a blob.
func (tx *Tx) BlobHolders(blobID int64, c Cutoff, limit int) (list []BlobHolder, err error) {
	err = tx.rows(`SELECT r.id, r.name, x.leased_at, `+openSession+`
		FROM repository_blobs x JOIN repositories r ON r.id = x.repository_id WHERE x.blob_id = ? ORDER BY r.name LIMIT ?`,
		[]any{micros(c.Sessions), c.Grace.Microseconds(), blobID, limit}, func(r *sql.Rows) error {
			var h BlobHolder
			var leased int64
			err := r.Scan(&h.RepositoryID, &h.Repository, &leased, &h.InSession)
			h.LeasedAt = fromMicros(leased)
			list = append(list, h)
			return err
		})
	return list, err
}

// ManifestsOfBlob returns up to limit manifests of a repository that need a blob.
func (tx *Tx) ManifestsOfBlob(repositoryID, blobID int64, limit int) ([]Manifest, error) {
	return tx.manifests(manifestColumns+` FROM manifest_blobs mb JOIN manifests m ON m.id = mb.manifest_id
		WHERE mb.blob_id = ? AND mb.repository_id = ? LIMIT ?`, false, blobID, repositoryID, limit)
}

// DeletionsOfBlob returns up to limit deleted manifests that need a blob if they are undeleted.
func (tx *Tx) DeletionsOfBlob(blobID int64, limit int) ([]DeletedManifest, error) {
	return tx.deleted(`SELECT m.id, repository, digest, media_type, deleted_at, NULL FROM deleted_manifests m
		JOIN deleted_manifest_blobs d ON d.deleted_id = m.id WHERE d.blob_id = ? ORDER BY m.id LIMIT ?`, blobID, limit)
}

// TagsOf returns up to limit tags that point at a manifest.
func (tx *Tx) TagsOf(manifestID int64, limit int) ([]string, error) {
	return tx.strings(`SELECT name FROM tags WHERE manifest_id = ? ORDER BY name LIMIT ?`, manifestID, limit)
}

// ManifestDigests returns the digests of all manifests of a repository, in no order.
func (tx *Tx) ManifestDigests(repositoryID int64) ([]digest.Digest, error) {
	return tx.digests(`SELECT digest FROM manifests WHERE repository_id = ?`, repositoryID)
}

// BlobDigests returns the digests of all undamaged blobs of a repository, in no order.
func (tx *Tx) BlobDigests(repositoryID int64) ([]digest.Digest, error) {
	return tx.digests(`SELECT b.digest FROM repository_blobs l JOIN blobs b ON b.id = l.blob_id WHERE l.repository_id = ? AND b.damaged_at = 0`, repositoryID)
}

func (tx *Tx) digests(query string, args ...any) (list []digest.Digest, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
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

package db

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// Blob is a blob as one repository has it.
type Blob struct {
	ID           int64
	RepositoryID int64
	Size         int64  // bytes
	Generation   string // names its file, together with the digest
	LeasedAt     time.Time
}

// Blob returns a blob that the repository has. ErrNotFound if it has not, whoever else may.
func (tx *Tx) Blob(repo RepoName, d digest.Digest) (b Blob, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return b, err
	}
	var leased int64
	err = tx.row(`
		SELECT b.id, r.id, b.size, b.generation, l.leased_at
		FROM repositories r JOIN blobs b JOIN repository_blobs l ON l.repository_id = r.id AND l.blob_id = b.id
		WHERE r.name = ? AND b.digest = ?`,
		[]any{string(repo), packed}, &b.ID, &b.RepositoryID, &b.Size, &b.Generation, &leased)
	b.LeasedAt = fromMicros(leased)
	return b, err
}

// BlobSomewhere returns the key of a blob that some repository has. ErrNotFound if none has.
func (tx *Tx) BlobSomewhere(d digest.Digest) (id int64, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return 0, err
	}
	err = tx.row(`SELECT id FROM blobs b WHERE digest = ? AND EXISTS (SELECT 1 FROM repository_blobs WHERE blob_id = b.id)`,
		[]any{packed}, &id)
	return id, err
}

// PutBlob records that the file of this generation is stored and durable. If the digest had a file of another
// generation, its generation is returned in old: nothing names that file once this transaction has committed.
func (tx *Tx) PutBlob(d digest.Digest, size int64, generation string) (id int64, old string, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return 0, "", err
	}
	err = tx.row(`SELECT id, generation FROM blobs WHERE digest = ?`, []any{packed}, &id, &old)
	if errors.Is(err, ErrNotFound) {
		err = tx.row(`INSERT INTO blobs (digest, size, generation, created_at) VALUES (?, ?, ?, ?) RETURNING id`,
			[]any{packed, size, generation, micros(tx.Now)}, &id)
		return id, "", err
	}
	if err == nil {
		_, err = tx.run(`UPDATE blobs SET generation = ?, size = ? WHERE id = ?`, generation, size, id)
	}
	return id, old, err
}

// LinkBlob lets the repository read a blob, and leases it from now. Manifests of the repository that missed it hold it
// from now on.
func (tx *Tx) LinkBlob(repositoryID, blobID int64, d digest.Digest) error {
	_, err := tx.run(`
		INSERT INTO repository_blobs (repository_id, blob_id, leased_at) VALUES (?, ?, ?)
		ON CONFLICT (repository_id, blob_id) DO UPDATE SET leased_at = excluded.leased_at`, repositoryID, blobID, micros(tx.Now))
	if err != nil {
		return err
	}
	return tx.found(repositoryID, d, `INSERT INTO manifest_blobs (manifest_id, blob_id) VALUES (?, ?) ON CONFLICT DO NOTHING`, blobID)
}

// found turns the missing references to d into ones that insert makes of (manifest, target).
func (tx *Tx) found(repositoryID int64, d digest.Digest, insert string, target int64) error {
	packed, err := packDigest(d)
	if err != nil {
		return err
	}
	holders, err := tx.ints(`DELETE FROM missing_references WHERE repository_id = ? AND digest = ? RETURNING manifest_id`, repositoryID, packed)
	for _, holder := range holders {
		if err == nil {
			_, err = tx.run(insert, holder, target)
		}
	}
	return err
}

// UnlinkBlob takes a blob from a repository. Manifests that need it keep a missing reference. The bytes stay until
// collection finds that no repository has them.
func (tx *Tx) UnlinkBlob(b Blob, d digest.Digest) error {
	packed, err := packDigest(d)
	if err != nil {
		return err
	}
	holders, err := tx.ints(`
		SELECT mb.manifest_id FROM manifest_blobs mb JOIN manifests m ON m.id = mb.manifest_id
		WHERE mb.blob_id = ? AND m.repository_id = ?`, b.ID, b.RepositoryID)
	if err != nil {
		return err
	}
	for _, holder := range holders {
		if err := tx.miss(b.RepositoryID, packed, holder); err != nil {
			return err
		}
		if _, err := tx.run(`DELETE FROM manifest_blobs WHERE manifest_id = ? AND blob_id = ?`, holder, b.ID); err != nil {
			return err
		}
	}
	_, err = tx.run(`DELETE FROM repository_blobs WHERE repository_id = ? AND blob_id = ?`, b.RepositoryID, b.ID)
	return err
}

func (tx *Tx) miss(repositoryID int64, packed []byte, manifestID int64) error {
	_, err := tx.run(`INSERT INTO missing_references (repository_id, digest, manifest_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		repositoryID, packed, manifestID)
	return err
}

// BlobIsHeld says whether a manifest of the blob's repository needs it.
func (tx *Tx) BlobIsHeld(b Blob) (held bool, err error) {
	err = tx.row(`
		SELECT EXISTS (SELECT 1 FROM manifest_blobs mb JOIN manifests m ON m.id = mb.manifest_id
		               WHERE mb.blob_id = ? AND m.repository_id = ?)`, []any{b.ID, b.RepositoryID}, &held)
	return held, err
}

// LeaseBlob begins the lease of a blob anew. ErrNotFound if its repository no longer has it.
func (tx *Tx) LeaseBlob(b Blob) error {
	n, err := tx.run(`UPDATE repository_blobs SET leased_at = ? WHERE repository_id = ? AND blob_id = ?`, micros(tx.Now), b.RepositoryID, b.ID)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// StoredBlob names the file of a blob.
type StoredBlob struct {
	Digest     digest.Digest
	Generation string
}

// SomeBlobs returns up to limit blobs, none if there is none at all.
func (tx *Tx) SomeBlobs(limit int) (list []StoredBlob, err error) {
	err = tx.rows(`SELECT digest, generation FROM blobs ORDER BY id LIMIT ?`, []any{limit}, func(r *sql.Rows) error {
		var b StoredBlob
		var packed []byte
		if err := r.Scan(&packed, &b.Generation); err != nil {
			return err
		}
		b.Digest, err = unpackDigest(packed)
		list = append(list, b)
		return err
	})
	return list, err
}

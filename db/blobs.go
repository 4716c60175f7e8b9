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
	Stamp        int64  // what the file looked like when its bytes were last known to be right; 0: not known
	Damaged      bool   // the bytes are gone or wrong: for clients there is no such blob
	LeasedAt     time.Time
}

// Blob returns a blob that the repository has, damaged or not. ErrNotFound if it has not, whoever else may.
func (tx *Tx) Blob(repo RepoName, d digest.Digest) (b Blob, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return b, err
	}
	var leased int64
	err = tx.row(`
		SELECT b.id, r.id, b.size, b.generation, b.stamp, b.damaged_at <> 0, l.leased_at
		FROM repositories r JOIN repository_blobs l ON l.repository_id = r.id JOIN blobs b ON b.id = l.blob_id
		WHERE r.name = ? AND b.digest = ?`,
		[]any{string(repo), packed}, &b.ID, &b.RepositoryID, &b.Size, &b.Generation, &b.Stamp, &b.Damaged, &leased)
	b.LeasedAt = fromMicros(leased)
	return b, err
}

// BlobSomewhere returns a blob as some repository has it. ErrNotFound if none has, or if it is damaged.
func (tx *Tx) BlobSomewhere(d digest.Digest) (b Blob, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return b, err
	}
	var leased int64
	err = tx.row(`
		SELECT b.id, l.repository_id, b.size, b.generation, b.stamp, l.leased_at
		FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id
		WHERE b.digest = ? AND b.damaged_at = 0 LIMIT 1`,
		[]any{packed}, &b.ID, &b.RepositoryID, &b.Size, &b.Generation, &b.Stamp, &leased)
	b.LeasedAt = fromMicros(leased)
	return b, err
}

// IsFromSession says whether the bytes of a blob that the repository has were brought by a session.
func (tx *Tx) IsFromSession(repo RepoName, d digest.Digest, session []byte) (is bool, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return false, err
	}
	err = tx.row(`
		SELECT EXISTS (SELECT 1 FROM repositories r JOIN repository_blobs l ON l.repository_id = r.id JOIN blobs b ON b.id = l.blob_id
		WHERE r.name = ? AND b.digest = ? AND b.session = ? AND b.damaged_at = 0)`, []any{string(repo), packed, session}, &is)
	return is, err
}

// NewBlob is a blob whose file is stored and durable.
type NewBlob struct {
	Digest     digest.Digest
	Size       int64
	Generation string
	Stamp      int64  // of the file whose bytes have been seen to have the digest; 0 if nobody has read them
	Session    []byte // a hash of what tells the session that brought it; empty if it was none
}

// PutBlob records a blob. If the digest had a file of another generation, its generation is returned in old: nothing
// names that file once this transaction has committed. A damaged blob is healed.
func (tx *Tx) PutBlob(n NewBlob) (id int64, old string, err error) {
	packed, err := packDigest(n.Digest)
	if err != nil {
		return 0, "", err
	}
	now := micros(tx.Now)
	verified := now
	if n.Stamp == 0 {
		verified = 0
	}
	session := append([]byte{}, n.Session...) // not NULL
	err = tx.row(`INSERT INTO blobs (digest, size, generation, created_at, stamp, verified_at, session) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (digest) DO NOTHING RETURNING id`, []any{packed, n.Size, n.Generation, now, n.Stamp, verified, session}, &id)
	if err == nil {
		tx.countNew(id, n.Size)
	}
	if !errors.Is(err, ErrNotFound) {
		return id, "", err
	}
	if err = tx.row(`SELECT id, generation FROM blobs WHERE digest = ?`, []any{packed}, &id, &old); err == nil {
		_, err = tx.run(`UPDATE blobs SET generation = ?, size = ?, stamp = ?, verified_at = ?, damaged_at = 0, session = ? WHERE id = ?`,
			n.Generation, n.Size, n.Stamp, verified, session, id)
	}
	return id, old, err
}

// LinkBlob lets the repository read a blob, and leases it from now. Manifests of the repository that missed it hold it
// from now on.
func (tx *Tx) LinkBlob(repositoryID, blobID int64, d digest.Digest) error {
	n, err := tx.run(`INSERT INTO repository_blobs (repository_id, blob_id, leased_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		repositoryID, blobID, micros(tx.Now))
	if err == nil && n > 0 {
		err = tx.countLink(repositoryID, blobID)
	} else if err == nil {
		_, err = tx.run(`UPDATE repository_blobs SET leased_at = ? WHERE repository_id = ? AND blob_id = ?`, micros(tx.Now), repositoryID, blobID)
	}
	if err != nil {
		return err
	}
	return tx.found(repositoryID, d, func(manifestID int64) error {
		return tx.recount(blobID, func() error { return tx.holdBlob(manifestID, blobID, repositoryID) })
	})
}

func (tx *Tx) holdBlob(manifestID, blobID, repositoryID int64) error {
	_, err := tx.run(`INSERT INTO manifest_blobs (manifest_id, blob_id, repository_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		manifestID, blobID, repositoryID)
	return err
}

// found calls hold for the manifests that missed d in their repository, and no longer do.
func (tx *Tx) found(repositoryID int64, d digest.Digest, hold func(manifestID int64) error) error {
	packed, err := packDigest(d)
	if err != nil {
		return err
	}
	// Nearly always there are none, and to ask costs a fraction of a DELETE ... RETURNING.
	holders, err := tx.ints(`SELECT manifest_id FROM missing_references WHERE repository_id = ? AND digest = ?`, repositoryID, packed)
	if len(holders) > 0 && err == nil {
		_, err = tx.run(`DELETE FROM missing_references WHERE repository_id = ? AND digest = ?`, repositoryID, packed)
	}
	for _, holder := range holders {
		if err == nil {
			err = hold(holder)
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
	holders, err := tx.ints(`SELECT manifest_id FROM manifest_blobs WHERE blob_id = ? AND repository_id = ?`, b.ID, b.RepositoryID)
	if err != nil {
		return err
	}
	err = tx.recount(b.ID, func() error {
		for _, holder := range holders {
			if err := tx.miss(b.RepositoryID, packed, holder); err != nil {
				return err
			}
			if _, err := tx.run(`DELETE FROM manifest_blobs WHERE manifest_id = ? AND blob_id = ?`, holder, b.ID); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tx.unlink(b.RepositoryID, b.ID)
}

func (tx *Tx) unlink(repositoryID, blobID int64) error {
	if err := tx.countUnlinked(repositoryID, ` AND x.blob_id = ?`, blobID); err != nil {
		return err
	}
	_, err := tx.run(`DELETE FROM repository_blobs WHERE repository_id = ? AND blob_id = ?`, repositoryID, blobID)
	return err
}

func (tx *Tx) miss(repositoryID int64, packed []byte, manifestID int64) error {
	_, err := tx.run(`INSERT INTO missing_references (repository_id, digest, manifest_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`,
		repositoryID, packed, manifestID)
	return err
}

// BlobIsHeld says whether a manifest of the blob's repository needs it.
func (tx *Tx) BlobIsHeld(b Blob) (held bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = ? AND repository_id = ?)`, []any{b.ID, b.RepositoryID}, &held)
	return held, err
}

// BlobIsNeeded says whether a manifest of any repository needs the blob.
func (tx *Tx) BlobIsNeeded(blobID int64) (needed bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = ?)`, []any{blobID}, &needed)
	return needed, err
}

// LeaseBlob begins the lease of a blob anew. ErrNotFound if its repository no longer has it.
func (tx *Tx) LeaseBlob(b Blob) error {
	n, err := tx.run(`UPDATE repository_blobs SET leased_at = ? WHERE repository_id = ? AND blob_id = ?`, micros(tx.Now), b.RepositoryID, b.ID)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// StoredBlob is a blob without regard to who has it. Digest and Generation name its file.
type StoredBlob struct {
	ID         int64
	Digest     digest.Digest
	Generation string
	Size       int64
	Stamp      int64
	VerifiedAt time.Time
	Damaged    bool
}

// StoredBlobs returns up to limit blobs with keys above after, in their order.
func (tx *Tx) StoredBlobs(after int64, limit int) (list []StoredBlob, err error) {
	err = tx.rows(`SELECT id, digest, generation, size, stamp, verified_at, damaged_at <> 0 FROM blobs WHERE id > ? ORDER BY id LIMIT ?`,
		[]any{after, limit}, func(r *sql.Rows) error {
			var b StoredBlob
			var packed []byte
			var verified int64
			if err := r.Scan(&b.ID, &packed, &b.Generation, &b.Size, &b.Stamp, &verified, &b.Damaged); err != nil {
				return err
			}
			b.VerifiedAt = fromMicros(verified)
			b.Digest, err = unpackDigest(packed)
			list = append(list, b)
			return err
		})
	return list, err
}

// MarkVerified notes that the file of this generation has the digest and looks like stamp, and heals a blob that was
// marked damaged. ErrNotFound if the blob has another generation by now, or is gone.
func (tx *Tx) MarkVerified(d digest.Digest, generation string, stamp int64) error {
	return tx.mark(`UPDATE blobs SET stamp = ?, verified_at = ?, damaged_at = 0 WHERE digest = ? AND generation = ?`, d, generation, stamp, micros(tx.Now))
}

// MarkDamaged notes that the file of this generation is gone or wrong. ErrNotFound as for MarkVerified.
func (tx *Tx) MarkDamaged(d digest.Digest, generation string) error {
	return tx.mark(`UPDATE blobs SET damaged_at = ? WHERE digest = ? AND generation = ?`, d, generation, micros(tx.Now))
}

func (tx *Tx) mark(query string, d digest.Digest, generation string, args ...any) error {
	packed, err := packDigest(d)
	if err != nil {
		return err
	}
	n, err := tx.run(query, append(args, packed, generation)...)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

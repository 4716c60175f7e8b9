package db

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// Manifest is a manifest as one repository has it.
type Manifest struct {
	ID           int64
	RepositoryID int64
	Digest       digest.Digest
	MediaType    string
	Size         int64
	LeasedAt     time.Time
	Content      []byte // nil where a method says so
}

const (
	manifestByDigest = ` FROM repositories r JOIN manifests m ON m.repository_id = r.id WHERE r.name = ? AND m.digest = ?`
	manifestByTag    = ` FROM repositories r JOIN tags t ON t.repository_id = r.id JOIN manifests m ON m.id = t.manifest_id
		WHERE r.name = ? AND t.name = ?`
	manifestColumns = `SELECT m.id, m.repository_id, m.digest, m.media_type, m.size, m.leased_at`
	contentColumn   = `, m.content`
)

// Manifest returns a manifest of the repository by digest. ErrNotFound.
func (tx *Tx) Manifest(repo RepoName, d digest.Digest) (Manifest, error) {
	packed, err := packDigest(d)
	if err != nil {
		return Manifest{}, err
	}
	return tx.manifest(manifestColumns+contentColumn+manifestByDigest, true, string(repo), packed)
}

// StatManifest is Manifest without the content.
func (tx *Tx) StatManifest(repo RepoName, d digest.Digest) (Manifest, error) {
	packed, err := packDigest(d)
	if err != nil {
		return Manifest{}, err
	}
	return tx.manifest(manifestColumns+manifestByDigest, false, string(repo), packed)
}

// TaggedManifest returns the manifest a tag of the repository points at. ErrNotFound.
func (tx *Tx) TaggedManifest(repo RepoName, tag Tag) (Manifest, error) {
	return tx.manifest(manifestColumns+contentColumn+manifestByTag, true, string(repo), string(tag))
}

// StatTaggedManifest is TaggedManifest without the content.
func (tx *Tx) StatTaggedManifest(repo RepoName, tag Tag) (Manifest, error) {
	return tx.manifest(manifestColumns+manifestByTag, false, string(repo), string(tag))
}

func (tx *Tx) manifest(query string, withContent bool, args ...any) (m Manifest, err error) {
	var packed []byte
	var leased int64
	dest := []any{&m.ID, &m.RepositoryID, &packed, &m.MediaType, &m.Size, &leased}
	if withContent {
		dest = append(dest, &m.Content)
	}
	if err := tx.row(query, args, dest...); err != nil {
		return m, err
	}
	m.LeasedAt = fromMicros(leased)
	m.Digest, err = unpackDigest(packed)
	return m, err
}

// PutManifest stores a manifest in its repository and returns its key; added says whether it was new there. If it was
// there before, its media type becomes the one of this push and its lease begins anew. Manifests of the repository that
// missed it as their child, or had to do with a blob of the same digest, hold it from now on.
func (tx *Tx) PutManifest(m Manifest) (id int64, added bool, err error) {
	packed, err := packDigest(m.Digest)
	if err != nil {
		return 0, false, err
	}
	now := micros(tx.Now)
	var was string
	err = tx.row(`SELECT id, media_type FROM manifests WHERE repository_id = ? AND digest = ?`, []any{m.RepositoryID, packed}, &id, &was)
	if err == nil {
		_, err = tx.run(`UPDATE manifests SET media_type = ?, leased_at = ? WHERE id = ?`, m.MediaType, now, id)
		if err == nil && m.MediaType != was {
			err = tx.record(m.RepositoryID, "", packed, packed)
		}
	}
	if !errors.Is(err, ErrNotFound) {
		return id, false, err
	}
	err = tx.row(`
		INSERT INTO manifests (repository_id, digest, media_type, size, pushed_at, leased_at, content) VALUES (?, ?, ?, ?, ?, ?, ?)
		RETURNING id`, []any{m.RepositoryID, packed, m.MediaType, len(m.Content), now, now, m.Content}, &id)
	if err != nil {
		return 0, false, err
	}
	tx.sums.add(m.RepositoryID, sum{manifests: int64(len(m.Content))})
	if err := tx.record(m.RepositoryID, "", nil, packed); err != nil {
		return 0, false, err
	}
	if _, err := tx.run(`INSERT INTO manifest_children (manifest_id, child_id)
		SELECT mb.manifest_id, ? FROM blobs b JOIN manifest_blobs mb ON mb.blob_id = b.id AND mb.repository_id = ? WHERE b.digest = ?`,
		id, m.RepositoryID, packed); err != nil {
		return 0, false, err
	}
	return id, true, tx.found(m.RepositoryID, m.Digest, func(manifestID int64) error { return tx.holdChild(manifestID, id) })
}

func (tx *Tx) holdChild(manifestID, childID int64) error {
	_, err := tx.run(`INSERT INTO manifest_children (manifest_id, child_id) VALUES (?, ?) ON CONFLICT DO NOTHING`, manifestID, childID)
	return err
}

// LeaseManifest begins the lease of a manifest anew. ErrNotFound if it is gone.
func (tx *Tx) LeaseManifest(m Manifest) error {
	n, err := tx.run(`UPDATE manifests SET leased_at = ? WHERE id = ? AND repository_id = ?`, micros(tx.Now), m.ID, m.RepositoryID)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// Lacking returns what a manifest names and its repository does not have, and whether something that it has is damaged as
// far as is known.
func (tx *Tx) Lacking(manifestID int64) (missing []digest.Digest, damaged bool, err error) {
	if missing, err = tx.digests(`SELECT digest FROM missing_references WHERE manifest_id = ?`, manifestID); err != nil {
		return nil, false, err
	}
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM manifest_blobs mb JOIN blobs b ON b.id = mb.blob_id WHERE mb.manifest_id = ? AND b.damaged_at <> 0)`,
		[]any{manifestID}, &damaged)
	return missing, damaged, err
}

// ManifestByID returns a manifest with its content. ErrNotFound.
func (tx *Tx) ManifestByID(id int64) (Manifest, error) {
	return tx.manifest(manifestColumns+contentColumn+` FROM manifests m WHERE m.id = ?`, true, id)
}

// MarkOdd notes that a manifest was taken although it says a wrong size of something.
func (tx *Tx) MarkOdd(m Manifest) error {
	packed, err := packDigest(m.Digest)
	if err == nil {
		_, err = tx.run(`INSERT INTO odd_manifests (manifest_id, digest) VALUES (?, ?) ON CONFLICT DO NOTHING`, m.ID, packed)
	}
	return err
}

// OddManifest returns the repositories that have a manifest which was taken so.
func (tx *Tx) OddManifest(d digest.Digest) (list []Visibility, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return nil, err
	}
	err = tx.rows(`SELECT r.name, r.public FROM odd_manifests o JOIN manifests m ON m.id = o.manifest_id JOIN repositories r ON r.id = m.repository_id
		WHERE o.digest = ?`, []any{packed}, func(r *sql.Rows) error {
		var v Visibility
		err := r.Scan(&v.Repository, &v.Public)
		list = append(list, v)
		return err
	})
	return list, err
}

// ReleaseManifest begins the leases of everything that only the manifest may hold: it is about to be deleted because a
// client asked for it, and collection takes the rest after the grace.
func (tx *Tx) ReleaseManifest(m Manifest) error {
	packed, err := packDigest(m.Digest)
	if err != nil {
		return err
	}
	now := micros(tx.Now)
	if _, err := tx.run(`UPDATE repository_blobs SET leased_at = ? WHERE repository_id = ? AND blob_id IN (SELECT blob_id FROM manifest_blobs WHERE manifest_id = ?)`,
		now, m.RepositoryID, m.ID); err != nil {
		return err
	}
	if _, err := tx.run(`UPDATE manifests SET leased_at = ? WHERE id IN (SELECT child_id FROM manifest_children WHERE manifest_id = ?)`, now, m.ID); err != nil {
		return err
	}
	_, err = tx.run(`UPDATE manifests SET leased_at = ? WHERE id IN (SELECT manifest_id FROM referrers WHERE repository_id = ? AND subject = ?)`,
		now, m.RepositoryID, packed)
	return err
}

// DeleteManifest removes a manifest, the tags that point at it and its entry among the referrers of its subject. Indexes
// that list it keep a missing reference. With keep it can be undeleted, and its blobs stay until that ends.
func (tx *Tx) DeleteManifest(m Manifest, keep bool) error {
	packed, err := packDigest(m.Digest)
	if err != nil {
		return err
	}
	if err := tx.countUnheld(m.ID, keep); err != nil {
		return err
	}
	if keep {
		if err := tx.keepDeleted(m.ID); err != nil {
			return err
		}
	}
	tags, err := tx.strings(`DELETE FROM tags WHERE manifest_id = ? RETURNING name`, m.ID)
	for _, tag := range append(tags, "") { // the manifest's own change comes last
		if err == nil {
			err = tx.record(m.RepositoryID, tag, packed, nil)
		}
	}
	if err != nil {
		return err
	}
	if _, err := tx.run(`INSERT INTO missing_references (repository_id, digest, manifest_id) SELECT ?, ?, manifest_id FROM manifest_children WHERE child_id = ?
		ON CONFLICT DO NOTHING`, // it missed the blob of the same digest
		m.RepositoryID, packed, m.ID); err != nil {
		return err
	}
	if err := tx.runAll([]any{m.ID},
		`DELETE FROM cached_manifests WHERE manifest_id = ?`,
		`DELETE FROM odd_manifests WHERE manifest_id = ?`,
		`DELETE FROM referrers WHERE manifest_id = ?`,
		`DELETE FROM manifest_children WHERE child_id = ?`,
		`DELETE FROM manifest_children WHERE manifest_id = ?`,
		`DELETE FROM manifest_blobs WHERE manifest_id = ?`,
		`DELETE FROM missing_references WHERE manifest_id = ?`); err != nil {
		return err
	}
	var size int64
	err = tx.row(`DELETE FROM manifests WHERE id = ? RETURNING size`, []any{m.ID}, &size)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	tx.sums.add(m.RepositoryID, sum{manifests: -size})
	return err
}

// SomeManifests returns up to limit manifests of a repository, without content.
func (tx *Tx) SomeManifests(repositoryID int64, limit int) ([]Manifest, error) {
	return tx.manifests(manifestColumns+` FROM manifests m WHERE m.repository_id = ? LIMIT ?`, false, repositoryID, limit)
}

// Children returns the manifests an index holds, with content.
func (tx *Tx) Children(manifestID int64) ([]Manifest, error) {
	return tx.manifests(manifestColumns+contentColumn+` FROM manifest_children c JOIN manifests m ON m.id = c.child_id WHERE c.manifest_id = ?`, true, manifestID)
}

// ReferrersOf returns the manifests that have a subject, with content, in the order of their digests.
func (tx *Tx) ReferrersOf(repositoryID int64, subject digest.Digest) ([]Manifest, error) {
	packed, err := packDigest(subject)
	if err != nil {
		return nil, err
	}
	return tx.manifests(manifestColumns+contentColumn+`
		FROM referrers f JOIN manifests m ON m.id = f.manifest_id WHERE f.repository_id = ? AND f.subject = ? ORDER BY f.digest`,
		true, repositoryID, packed)
}

func (tx *Tx) manifests(query string, withContent bool, args ...any) (list []Manifest, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var m Manifest
		var packed []byte
		var leased int64
		dest := []any{&m.ID, &m.RepositoryID, &packed, &m.MediaType, &m.Size, &leased}
		if withContent {
			dest = append(dest, &m.Content)
		}
		if err := r.Scan(dest...); err != nil {
			return err
		}
		m.LeasedAt = fromMicros(leased)
		m.Digest, err = unpackDigest(packed)
		list = append(list, m)
		return err
	})
	return list, err
}

// HeldBlob is a blob that a manifest needs.
type HeldBlob struct {
	ID     int64
	Digest digest.Digest
}

// BlobsOf returns the blobs a manifest holds.
func (tx *Tx) BlobsOf(manifestID int64) ([]HeldBlob, error) {
	return tx.heldBlobs(`SELECT b.id, b.digest FROM manifest_blobs mb JOIN blobs b ON b.id = mb.blob_id WHERE mb.manifest_id = ?`, manifestID)
}

func (tx *Tx) heldBlobs(query string, args ...any) (list []HeldBlob, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var b HeldBlob
		var packed []byte
		if err := r.Scan(&b.ID, &packed); err != nil {
			return err
		}
		b.Digest, err = unpackDigest(packed)
		list = append(list, b)
		return err
	})
	return list, err
}

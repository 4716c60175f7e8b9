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
	Content      []byte // nil where a method says so
}

const (
	manifestByDigest = ` FROM repositories r JOIN manifests m ON m.repository_id = r.id WHERE r.name = ? AND m.digest = ?`
	manifestByTag    = ` FROM repositories r JOIN tags t ON t.repository_id = r.id JOIN manifests m ON m.id = t.manifest_id
		WHERE r.name = ? AND t.name = ?`
	manifestColumns = `SELECT m.id, m.repository_id, m.digest, m.media_type, m.size`
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
	dest := []any{&m.ID, &m.RepositoryID, &packed, &m.MediaType, &m.Size}
	if withContent {
		dest = append(dest, &m.Content)
	}
	if err := tx.row(query, args, dest...); err != nil {
		return m, err
	}
	m.Digest, err = unpackDigest(packed)
	return m, err
}

// PutManifest stores a manifest in its repository and returns its key; added says whether it was new there. If it was
// there before, its media type becomes the one of this push and its lease begins anew. Manifests of the repository that
// missed it as their child hold it from now on.
func (tx *Tx) PutManifest(m Manifest) (id int64, added bool, err error) {
	packed, err := packDigest(m.Digest)
	if err != nil {
		return 0, false, err
	}
	now := micros(tx.Now)
	err = tx.row(`UPDATE manifests SET media_type = ?, leased_at = ? WHERE repository_id = ? AND digest = ? RETURNING id`,
		[]any{m.MediaType, now, m.RepositoryID, packed}, &id)
	if !errors.Is(err, ErrNotFound) {
		return id, false, err
	}
	err = tx.row(`
		INSERT INTO manifests (repository_id, digest, media_type, size, pushed_at, leased_at, content) VALUES (?, ?, ?, ?, ?, ?, ?)
		RETURNING id`, []any{m.RepositoryID, packed, m.MediaType, len(m.Content), now, now, m.Content}, &id)
	if err != nil {
		return 0, false, err
	}
	return id, true, tx.found(m.RepositoryID, m.Digest, insertChild, id)
}

const insertChild = `INSERT INTO manifest_children (manifest_id, child_id) VALUES (?, ?) ON CONFLICT DO NOTHING`

// HoldBlob records that a manifest needs a blob of its repository. ErrNotFound if the repository has no such blob, and
// then nothing is recorded. size is what the repository's copy has.
func (tx *Tx) HoldBlob(repositoryID, manifestID int64, d digest.Digest) (size int64, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return 0, err
	}
	var blobID int64
	err = tx.row(`
		SELECT b.id, b.size FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id AND l.repository_id = ?
		WHERE b.digest = ?`, []any{repositoryID, packed}, &blobID, &size)
	if err != nil {
		return 0, err
	}
	_, err = tx.run(`INSERT INTO manifest_blobs (manifest_id, blob_id) VALUES (?, ?) ON CONFLICT DO NOTHING`, manifestID, blobID)
	return size, err
}

// HoldChild records that an index needs another manifest of its repository. ErrNotFound as for HoldBlob.
func (tx *Tx) HoldChild(repositoryID, manifestID int64, d digest.Digest) (size int64, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return 0, err
	}
	var childID int64
	err = tx.row(`SELECT id, size FROM manifests WHERE repository_id = ? AND digest = ?`, []any{repositoryID, packed}, &childID, &size)
	if err != nil {
		return 0, err
	}
	_, err = tx.run(insertChild, manifestID, childID)
	return size, err
}

// Miss records that a manifest names content that its repository does not have.
func (tx *Tx) Miss(repositoryID, manifestID int64, d digest.Digest) error {
	packed, err := packDigest(d)
	if err != nil {
		return err
	}
	return tx.miss(repositoryID, packed, manifestID)
}

// DeleteManifest removes a manifest, the tags that point at it and its entry among the referrers of its subject. What
// only it held is leased from now: collection takes it after the grace. Indexes that list it keep a missing reference.
func (tx *Tx) DeleteManifest(m Manifest) error {
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
	if _, err := tx.run(`INSERT INTO missing_references (repository_id, digest, manifest_id) SELECT ?, ?, manifest_id FROM manifest_children WHERE child_id = ?`,
		m.RepositoryID, packed, m.ID); err != nil {
		return err
	}
	return tx.runAll([]any{m.ID},
		`DELETE FROM tags WHERE manifest_id = ?`,
		`DELETE FROM referrers WHERE manifest_id = ?`,
		`DELETE FROM manifest_children WHERE child_id = ?`,
		`DELETE FROM manifest_children WHERE manifest_id = ?`,
		`DELETE FROM manifest_blobs WHERE manifest_id = ?`,
		`DELETE FROM missing_references WHERE manifest_id = ?`,
		`DELETE FROM manifests WHERE id = ?`)
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
		dest := []any{&m.ID, &m.RepositoryID, &packed, &m.MediaType, &m.Size}
		if withContent {
			dest = append(dest, &m.Content)
		}
		if err := r.Scan(dest...); err != nil {
			return err
		}
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
func (tx *Tx) BlobsOf(manifestID int64) (list []HeldBlob, err error) {
	err = tx.rows(`SELECT b.id, b.digest FROM manifest_blobs mb JOIN blobs b ON b.id = mb.blob_id WHERE mb.manifest_id = ?`,
		[]any{manifestID}, func(r *sql.Rows) error {
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

// SetTag points a tag at a manifest of the same repository. If it pointed at another, that one's lease begins now.
func (tx *Tx) SetTag(repositoryID int64, tag Tag, manifestID int64) error {
	now := micros(tx.Now)
	if _, err := tx.run(`UPDATE manifests SET leased_at = ? WHERE id = (SELECT manifest_id FROM tags WHERE repository_id = ? AND name = ?)`,
		now, repositoryID, string(tag)); err != nil {
		return err
	}
	_, err := tx.run(`
		INSERT INTO tags (repository_id, name, manifest_id, updated_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (repository_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated_at = excluded.updated_at`,
		repositoryID, string(tag), manifestID, now)
	return err
}

// DeleteTag removes a tag and begins the lease of what it pointed at. ErrNotFound.
func (tx *Tx) DeleteTag(repo RepoName, tag Tag) error {
	var manifestID int64
	err := tx.row(`
		DELETE FROM tags WHERE repository_id = (SELECT id FROM repositories WHERE name = ?) AND name = ? RETURNING manifest_id`,
		[]any{string(repo), string(tag)}, &manifestID)
	if err != nil {
		return err
	}
	_, err = tx.run(`UPDATE manifests SET leased_at = ? WHERE id = ?`, micros(tx.Now), manifestID)
	return err
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

// Referrer is a manifest as its subject lists it.
type Referrer struct {
	Digest       digest.Digest
	ArtifactType string
	Descriptor   []byte // JSON, as the referrers API answers with
}

// PutReferrer lists a manifest under its subject, which need not exist.
func (tx *Tx) PutReferrer(m Manifest, subject digest.Digest, r Referrer) error {
	packedSubject, err := packDigest(subject)
	if err != nil {
		return err
	}
	packed, err := packDigest(r.Digest)
	if err != nil {
		return err
	}
	_, err = tx.run(`
		INSERT INTO referrers (manifest_id, repository_id, subject, digest, artifact_type, descriptor) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (manifest_id) DO UPDATE SET artifact_type = excluded.artifact_type, descriptor = excluded.descriptor`,
		m.ID, m.RepositoryID, packedSubject, packed, r.ArtifactType, string(r.Descriptor))
	return err
}

// Referrers returns up to limit referrers of a subject with digests after last, in the order of digests; of one
// artifact type unless artifactType is empty. last is "" for the first page.
func (tx *Tx) Referrers(repo RepoName, subject digest.Digest, artifactType string, last digest.Digest, limit int) (list []Referrer, err error) {
	packed, err := packDigest(subject)
	if err != nil {
		return nil, err
	}
	after := []byte{}
	if last != "" {
		if after, err = packDigest(last); err != nil {
			return nil, err
		}
	}
	query := `SELECT f.digest, f.artifact_type, f.descriptor FROM repositories r JOIN referrers f ON f.repository_id = r.id
		WHERE r.name = ? AND f.subject = ? AND f.digest > ?`
	args := []any{string(repo), packed, after}
	if artifactType != "" {
		query, args = query+` AND f.artifact_type = ?`, append(args, artifactType)
	}
	err = tx.rows(query+` ORDER BY f.digest LIMIT ?`, append(args, limit), func(r *sql.Rows) error {
		var f Referrer
		var packed []byte
		if err := r.Scan(&packed, &f.ArtifactType, &f.Descriptor); err != nil {
			return err
		}
		f.Digest, err = unpackDigest(packed)
		list = append(list, f)
		return err
	})
	return list, err
}

// IsReferrer says whether the referrers of a subject list the digest.
func (tx *Tx) IsReferrer(repo RepoName, subject, d digest.Digest) (listed bool, err error) {
	packedSubject, err := packDigest(subject)
	if err != nil {
		return false, err
	}
	packed, err := packDigest(d)
	if err != nil {
		return false, err
	}
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM repositories r JOIN referrers f ON f.repository_id = r.id
		WHERE r.name = ? AND f.subject = ? AND f.digest = ?)`, []any{string(repo), packedSubject, packed}, &listed)
	return listed, err
}

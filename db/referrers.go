package db

import (
	"database/sql"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Referrer is a manifest as its subject lists it.
type Referrer struct {
	Digest       digest.Digest
	ArtifactType string // not read by Referrers
	Descriptor   string // JSON, as the referrers API answers with
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
		m.ID, m.RepositoryID, packedSubject, packed, r.ArtifactType, r.Descriptor)
	return err
}

// Referrers calls fn for referrers of a subject with digests after last, in the order of digests, until it returns false; of
// one artifact type unless artifactType is empty. last is "" for the first page. Rows are
// read one by one, so what is large can be stopped in time.
func (tx *Tx) Referrers(repo RepoName, subject digest.Digest, artifactType string, last digest.Digest, fn func(Referrer) bool) error {
	packed, err := packDigest(subject)
	if err != nil {
		return err
	}
	after := []byte{}
	if last != "" {
		if after, err = packDigest(last); err != nil {
			return err
		}
	}
	query := `SELECT f.digest, f.descriptor FROM repositories r JOIN referrers f ON f.repository_id = r.id
		WHERE r.name = ? AND f.subject = ? AND f.digest > ?`
	args := []any{string(repo), packed, after}
	if artifactType != "" {
		query, args = query+` AND f.artifact_type = ?`, append(args, artifactType)
	}
	err = tx.rows(query+` ORDER BY f.digest`, args, func(r *sql.Rows) error {
		var f Referrer
		var packed sql.RawBytes
		if err := r.Scan(&packed, &f.Descriptor); err != nil {
			return err
		}
		if f.Digest, err = unpackDigest(packed); err == nil && !fn(f) {
			err = errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return err
}

// UnlistedChildren returns the digests after last of the manifests that an index names, that are here, and that are no
// referrers of a subject, in no particular order.
func (tx *Tx) UnlistedChildren(index Manifest, subject, last digest.Digest) (list []digest.Digest, err error) {
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
	err = tx.rows(`
		SELECT m.digest FROM manifest_children c CROSS JOIN manifests m
		WHERE c.manifest_id = ? AND m.id = c.child_id AND m.digest > ?
			AND NOT EXISTS (SELECT 1 FROM referrers f WHERE f.repository_id = m.repository_id AND f.subject = ? AND f.digest = m.digest)`, []any{index.ID, after, packed}, func(r *sql.Rows) error {
		var packed sql.RawBytes
		if err := r.Scan(&packed); err != nil {
			return err
		}
		d, err := unpackDigest(packed)
		list = append(list, d)
		return err
	})
	return list, err
}

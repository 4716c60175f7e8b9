package db

import (
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"
)

// A manifest may name thousands of digests, and other writers wait while it is stored. So what its repository has of them
// is asked for all of them at once, and what it holds and misses is written at once. For a few, as most have, a statement for
// each takes less time than reading JSON.
const fewReferences = 8

// FoundBlob is what a repository has of a blob. The zero FoundBlob is nothing.
type FoundBlob struct {
	Size    int64 // of the repository's copy, in bytes
	Damaged bool

	id      int64
	counted counted
}

// Exists says whether the repository has the blob, damaged or not.
func (b FoundBlob) Exists() bool { return b.id != 0 }

// FindBlobs returns what a repository has of blobs, in the order of the digests.
func (tx *Tx) FindBlobs(repositoryID int64, list []digest.Digest) ([]FoundBlob, error) {
	found := make([]FoundBlob, len(list))
	if len(list) <= fewReferences {
		for i, d := range list {
			if err := tx.findBlob(repositoryID, d, &found[i]); err != nil && !errors.Is(err, ErrNotFound) {
				return nil, err
			}
		}
		return found, nil
	}
	digests, err := packDigests(list)
	if err != nil {
		return nil, err
	}
	err = tx.rows(`
		SELECT j.key, b.id, b.damaged_at <> 0, `+countedColumns+`
		FROM json_each(?) j CROSS JOIN blobs b ON b.digest = unhex(j.value)
		CROSS JOIN repository_blobs l ON l.blob_id = b.id AND l.repository_id = ?`, []any{digests, repositoryID}, func(r *sql.Rows) error {
		var at int
		var b FoundBlob
		if err := r.Scan(append([]any{&at, &b.id, &b.Damaged}, b.counted.dest()...)...); err != nil {
			return err
		}
		b.Size = b.counted.size
		found[at] = b
		return nil
	})
	return found, err
}

func (tx *Tx) findBlob(repositoryID int64, d digest.Digest, b *FoundBlob) error {
	packed, err := packDigest(d)
	if err != nil {
		return err
	}
	err = tx.row(`
		SELECT b.id, b.damaged_at <> 0, `+countedColumns+` FROM blobs b
		JOIN repository_blobs l ON l.blob_id = b.id AND l.repository_id = ? WHERE b.digest = ?`,
		[]any{repositoryID, packed}, append([]any{&b.id, &b.Damaged}, b.counted.dest()...)...)
	b.Size = b.counted.size
	return err
}

// FoundManifest is what a repository has of a manifest. The zero FoundManifest is nothing.
type FoundManifest struct {
	Size int64 // bytes

	id int64
}

// Exists says whether the repository has the manifest.
func (m FoundManifest) Exists() bool { return m.id != 0 }

// FindManifests returns what a repository has of manifests, in the order of the digests.
func (tx *Tx) FindManifests(repositoryID int64, list []digest.Digest) ([]FoundManifest, error) {
	found := make([]FoundManifest, len(list))
	if len(list) == 0 {
		return found, nil
	}
	digests, err := packDigests(list)
	if err != nil {
		return nil, err
	}
	err = tx.rows(`
		SELECT j.key, m.id, m.size
		FROM json_each(?) j CROSS JOIN manifests m ON m.repository_id = ? AND m.digest = unhex(j.value)`, []any{digests, repositoryID}, func(r *sql.Rows) error {
		var at int
		var m FoundManifest
		err := r.Scan(&at, &m.id, &m.Size)
		if err == nil {
			found[at] = m
		}
		return err
	})
	return found, err
}

// References is what a manifest names: what its repository has, as it was found in the same transaction, and what it does
// not have.
type References struct {
	Blobs    []FoundBlob // a damaged one, too: it is held, so that collection does not take it when it is healed
	Children []FoundManifest
	Missing  []digest.Digest
}

// Hold records what a manifest holds and misses. Everything may be given more than once, and may be recorded already.
func (tx *Tx) Hold(repositoryID, manifestID int64, refs References) error {
	var blobs, children []int64
	for _, b := range refs.Blobs {
		blobs = append(blobs, b.id)
	}
	for _, c := range refs.Children {
		children = append(children, c.id)
	}
	if err := tx.holdBlobs(repositoryID, manifestID, blobs); err != nil {
		return err
	}
	counted := make(map[int64]bool, len(refs.Blobs))
	for _, b := range refs.Blobs {
		if c := b.counted; c.unheld && !counted[b.id] {
			counted[b.id] = true
			tx.count(c, -1)
			c.unheld = false
			tx.count(c, 1)
		}
	}
	if err := tx.insertAll(`INSERT INTO manifest_children (manifest_id, child_id)
		SELECT ?, value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING`, children, manifestID); err != nil {
		return err
	}
	if len(refs.Missing) == 0 {
		return nil
	}
	slices.Sort(refs.Missing) // as the index is
	missing, err := packDigests(refs.Missing)
	if err != nil {
		return err
	}
	_, err = tx.run(`INSERT INTO missing_references (repository_id, digest, manifest_id)
		SELECT ?, unhex(value), ? FROM json_each(?) WHERE true ON CONFLICT DO NOTHING`, repositoryID, manifestID, missing)
	return err
}

func (tx *Tx) holdBlobs(repositoryID, manifestID int64, blobs []int64) error {
	if len(blobs) > fewReferences {
		return tx.insertAll(`INSERT INTO manifest_blobs (manifest_id, blob_id, repository_id)
			SELECT ?, value, ? FROM json_each(?) WHERE true ON CONFLICT DO NOTHING`, blobs, manifestID, repositoryID)
	}
	for _, id := range blobs {
		if err := tx.holdBlob(manifestID, id, repositoryID); err != nil {
			return err
		}
	}
	return nil
}

// insertAll runs a statement whose last argument is a list of keys, unless there are none.
func (tx *Tx) insertAll(query string, ids []int64, args ...any) error {
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids) // as the index is
	list, err := json.Marshal(ids)
	if err == nil {
		_, err = tx.run(query, append(args, string(list))...)
	}
	return err
}

// packDigests returns digests, at least one, as a JSON array of what is stored of each, in hexadecimal: JSON has no bytes.
func packDigests(list []digest.Digest) (string, error) {
	out := make([]byte, 0, 2+len(list)*70)
	for i, d := range list {
		packed, err := packDigest(d)
		if err != nil {
			return "", err
		}
		if out = append(out, ','); i == 0 {
			out[0] = '['
		}
		out = append(hex.AppendEncode(append(out, '"'), packed), '"')
	}
	return string(append(out, ']')), nil
}

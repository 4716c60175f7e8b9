package db

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// What is known of copies of another registry's content. They are rows like any other; these queries are about where
// they came from, and when somebody last wanted them.

// CheckedAt returns when the upstream of a tag was last seen to agree with it, the zero time if it never was. ErrNotFound
// if there is no such tag.
func (tx *Tx) CheckedAt(repo RepoName, tag Tag) (time.Time, error) {
	var at int64
	err := tx.row(`SELECT t.checked_at FROM repositories r JOIN tags t ON t.repository_id = r.id WHERE r.name = ? AND t.name = ?`,
		[]any{string(repo), string(tag)}, &at)
	if err != nil || at == 0 {
		return time.Time{}, err
	}
	return fromMicros(at), nil
}

// ConfirmTag notes that an upstream agrees now with what a tag points at, if that is still d. ErrNotFound if it is not.
func (tx *Tx) ConfirmTag(repo RepoName, tag Tag, d digest.Digest) error {
	m, err := tx.StatTaggedManifest(repo, tag)
	if err != nil {
		return err
	}
	if m.Digest != d {
		return ErrNotFound
	}
	if _, err := tx.run(`UPDATE tags SET checked_at = ? WHERE repository_id = ? AND name = ?`, micros(tx.Now), m.RepositoryID, string(tag)); err != nil {
		return err
	}
	return tx.CacheManifest(m.ID)
}

// CacheManifest notes that an upstream has a manifest, and that somebody pulls it now.
func (tx *Tx) CacheManifest(manifestID int64) error {
	_, err := tx.run(`INSERT INTO cached_manifests (manifest_id, pulled_at) VALUES (?, ?) ON CONFLICT (manifest_id) DO UPDATE SET pulled_at = excluded.pulled_at`,
		manifestID, micros(tx.Now))
	return err
}

// IsCached says whether a manifest is a copy of what an upstream has.
func (tx *Tx) IsCached(manifestID int64) (cached bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM cached_manifests WHERE manifest_id = ?)`, []any{manifestID}, &cached)
	return cached, err
}

// PullCached notes that somebody pulls a manifest, if it is a cached one, and begins its lease anew.
func (tx *Tx) PullCached(m Manifest) error {
	n, err := tx.run(`UPDATE cached_manifests SET pulled_at = ? WHERE manifest_id = ?`, micros(tx.Now), m.ID)
	if err != nil || n == 0 {
		return err
	}
	return tx.LeaseManifest(m)
}

// Missers returns up to limit manifests of a repository, with content, that name d, which the repository does not have.
func (tx *Tx) Missers(repo RepoName, d digest.Digest, limit int) ([]Manifest, error) {
	packed, err := packDigest(d)
	if err != nil {
		return nil, err
	}
	return tx.manifests(manifestColumns+contentColumn+` FROM repositories r JOIN missing_references x ON x.repository_id = r.id
		JOIN manifests m ON m.id = x.manifest_id WHERE r.name = ? AND x.digest = ? LIMIT ?`, true, string(repo), packed, limit)
}

const (
	byCached = `EXISTS (SELECT 1 FROM manifest_blobs mb JOIN cached_manifests c ON c.manifest_id = mb.manifest_id WHERE mb.blob_id = b.id)`
	byPushed = `EXISTS (SELECT 1 FROM manifest_blobs mb WHERE mb.blob_id = b.id AND NOT EXISTS (SELECT 1 FROM cached_manifests c WHERE c.manifest_id = mb.manifest_id))`
)

// CachedBytes adds up the blobs that cached manifests need and no other does. It reads all that there are.
func (tx *Tx) CachedBytes() (n int64, err error) {
	err = tx.row(`SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE `+byCached+` AND NOT `+byPushed, nil, &n)
	return n, err
}

// evictable is the condition that no pushed index needs manifest x.
const evictable = `NOT EXISTS (SELECT 1 FROM manifest_children k WHERE k.child_id = x.id
	AND NOT EXISTS (SELECT 1 FROM cached_manifests p WHERE p.manifest_id = k.manifest_id))`

// OldestCached returns up to limit cached manifests that may go, those after another one in the order in which they were
// pulled; Idle.LeasedAt is when that was.
func (tx *Tx) OldestCached(after Idle, limit int) (list []Idle, err error) {
	return tx.idle(`SELECT x.repository_id, r.name, x.id, x.digest, x.size, c.pulled_at
		FROM cached_manifests c JOIN manifests x ON x.id = c.manifest_id JOIN repositories r ON r.id = x.repository_id
		WHERE (c.pulled_at, c.manifest_id) > (?, ?) AND `+evictable+` ORDER BY c.pulled_at, c.manifest_id LIMIT ?`, micros(after.LeasedAt), after.ID, limit)
}

// MayEvict says whether OldestCached would still return a manifest, and nobody has pulled it since it did.
func (tx *Tx) MayEvict(i Idle) (may bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM cached_manifests c JOIN manifests x ON x.id = c.manifest_id
		WHERE c.manifest_id = ? AND c.pulled_at = ? AND `+evictable+`)`, []any{i.ID, micros(i.LeasedAt)}, &may)
	return may, err
}

// Evict removes a cached manifest for good, with the right of its repository to the blobs that no other manifest of it
// needs. It returns the keys of those, which may be loose now.
func (tx *Tx) Evict(i Idle) (loose []int64, err error) {
	held, err := tx.BlobsOf(i.ID)
	if err != nil {
		return nil, err
	}
	if err := tx.DeleteManifest(Manifest{ID: i.ID, RepositoryID: i.RepositoryID, Digest: i.Digest}, false); err != nil {
		return nil, err
	}
	for _, b := range held {
		still, err := tx.BlobIsHeld(Blob{ID: b.ID, RepositoryID: i.RepositoryID})
		if err != nil {
			return nil, err
		}
		if still {
			continue
		}
		if err := tx.unlink(i.RepositoryID, b.ID); err != nil {
			return nil, err
		}
		loose = append(loose, b.ID)
	}
	return loose, nil
}

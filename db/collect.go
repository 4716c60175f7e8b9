package db

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// What garbage collection asks. Nothing here walks from the tags down: whether something is held is asked of the thing
// itself, upwards, by an index. So a question costs the same in a registry of any size, may be asked again in the
// transaction that removes, and is the same one that explains why something stays.

// Cutoff says which promises have run out.
type Cutoff struct {
	Leases   time.Time     // a lease that began before has
	Sessions time.Time     // an upload session that has not moved since is none
	Grace    time.Duration // an open session keeps what was leased this long before it began, and later
}

// leaseOver is the condition that the lease of x began before Cutoff.Leases. So is that of one from the future, which
// nothing can tell from an old one: what may remove x then begins it anew first (Cutoff.begins).
const leaseOver = `(x.leased_at < ? OR x.leased_at > ?)`

// openSession is the condition that the lease of x in repository r counts although it began before Cutoff.Leases: a push
// that takes longer than the grace is still going on.
const openSession = `EXISTS (SELECT 1 FROM uploads u WHERE u.repository = r.name AND u.updated_at >= ? AND u.created_at - ? <= x.leased_at)`

// args are those of leaseOver and openSession.
func (c Cutoff) args(tx *Tx) []any {
	return []any{micros(c.Leases), tx.ahead(), micros(c.Sessions), c.Grace.Microseconds()}
}

// begins says whether a period begins anew because its time is from the future. Without a grace there are no periods.
func (c Cutoff) begins(at, now time.Time) bool { return c.Grace > 0 && IsAhead(at, now) }

// Idle is a manifest or a blob that a repository has and that may have to go.
type Idle struct {
	RepositoryID int64
	Repository   RepoName
	ID           int64 // of the manifest or the blob
	Digest       digest.Digest
	Size         int64
	LeasedAt     time.Time
}

func (tx *Tx) idle(query string, args ...any) (list []Idle, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var i Idle
		var packed []byte
		var leased int64
		if err := r.Scan(&i.RepositoryID, &i.Repository, &i.ID, &packed, &i.Size, &leased); err != nil {
			return err
		}
		i.LeasedAt = fromMicros(leased)
		i.Digest, err = unpackDigest(packed)
		list = append(list, i)
		return err
	})
	return list, err
}

const idleManifest = `SELECT x.repository_id, r.name, x.id, x.digest, x.size, x.leased_at FROM manifests x JOIN repositories r ON r.id = x.repository_id `

// UntaggedManifests returns up to limit manifests with keys above after that no tag points at and whose lease has run
// out. An index or a subject may hold them all the same.
func (tx *Tx) UntaggedManifests(after int64, c Cutoff, limit int) ([]Idle, error) {
	return tx.idle(idleManifest+`
		WHERE x.id > ? AND `+leaseOver+` AND NOT `+openSession+` AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = x.id)
		ORDER BY x.id LIMIT ?`, append(append([]any{after}, c.args(tx)...), limit)...)
}

// Holder is a manifest that holds another one, or itself.
type Holder struct {
	Idle
	Alive bool // a tag points at it, or its lease has not run out
}

// Holders returns the manifest itself, the indexes it is in, what it refers to as its subject, and so on upwards: it has
// to stay if any of them is alive. At most limit are returned, in no particular order.
func (tx *Tx) Holders(manifestID int64, c Cutoff, limit int) (list []Holder, err error) {
	err = tx.rows(`
		WITH RECURSIVE holders (id) AS (
			SELECT CAST(? AS BIGINT)
			UNION SELECT c.manifest_id FROM holders h JOIN manifest_children c ON c.child_id = h.id
			UNION SELECT s.id FROM holders h JOIN referrers f ON f.manifest_id = h.id
				JOIN manifests s ON s.repository_id = f.repository_id AND s.digest = f.subject
			LIMIT ?
		)
		SELECT x.repository_id, r.name, x.id, x.digest, x.size, x.leased_at,
			NOT `+leaseOver+` OR `+openSession+` OR EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = x.id)
		FROM holders h JOIN manifests x ON x.id = h.id JOIN repositories r ON r.id = x.repository_id`,
		append([]any{manifestID, limit}, c.args(tx)...), func(r *sql.Rows) error {
			var h Holder
			var packed []byte
			var leased int64
			if err := r.Scan(&h.RepositoryID, &h.Repository, &h.ID, &packed, &h.Size, &leased, &h.Alive); err != nil {
				return err
			}
			h.LeasedAt = fromMicros(leased)
			h.Digest, err = unpackDigest(packed)
			list = append(list, h)
			return err
		})
	return list, err
}

const dangling = ` JOIN referrers f ON f.manifest_id = x.id
	WHERE ` + leaseOver + ` AND NOT ` + openSession + `
	AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = x.id)
	AND NOT EXISTS (SELECT 1 FROM manifest_children c WHERE c.child_id = x.id)
	AND NOT EXISTS (SELECT 1 FROM manifests s WHERE s.repository_id = f.repository_id AND s.digest = f.subject)`

// DanglingReferrers returns up to limit manifests with keys above after whose subject is not there, that neither a tag
// nor an index holds, and whose lease has run out.
func (tx *Tx) DanglingReferrers(after int64, c Cutoff, limit int) ([]Idle, error) {
	return tx.idle(idleManifest+dangling+` AND f.manifest_id > ? ORDER BY f.manifest_id LIMIT ?`, append(c.args(tx), after, limit)...)
}

// Dangling returns a manifest if DanglingReferrers would still return it.
func (tx *Tx) Dangling(id int64, c Cutoff) ([]Idle, error) {
	return tx.idle(idleManifest+dangling+` AND x.id = ?`, append(c.args(tx), id)...)
}

const idleBlob = `FROM repository_blobs x JOIN repositories r ON r.id = x.repository_id
	WHERE ` + leaseOver + ` AND NOT ` + openSession + `
	AND NOT EXISTS (SELECT 1 FROM manifest_blobs mb WHERE mb.blob_id = x.blob_id AND mb.repository_id = x.repository_id)`

// IdleBlobs returns up to limit blobs after (repositoryID, blobID) that no manifest of their repository needs and whose
// lease has run out.
func (tx *Tx) IdleBlobs(repositoryID, blobID int64, c Cutoff, limit int) ([]Idle, error) {
	return tx.idle(`SELECT i.repository_id, i.name, i.blob_id, b.digest, b.size, i.leased_at FROM (
			SELECT x.repository_id, r.name, x.blob_id, x.leased_at `+idleBlob+`
			AND (x.repository_id, x.blob_id) > (?, ?) ORDER BY x.repository_id, x.blob_id LIMIT ?
		) i JOIN blobs b ON b.id = i.blob_id`, append(c.args(tx), repositoryID, blobID, limit)...)
}

// UnlinkIdle takes a blob from its repository if IdleBlobs would still return it.
func (tx *Tx) UnlinkIdle(i Idle, c Cutoff) (done bool, err error) {
	var leased int64
	err = tx.row(`SELECT x.leased_at `+idleBlob+` AND x.repository_id = ? AND x.blob_id = ?`, append(c.args(tx), i.RepositoryID, i.ID), &leased)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.begins(fromMicros(leased), tx.Now) {
		return false, tx.LeaseBlob(Blob{ID: i.ID, RepositoryID: i.RepositoryID})
	}
	err = tx.unlink(i.RepositoryID, i.ID)
	return err == nil, err
}

// BeginLeases begins the leases anew of those manifests that have one from the future, and says whether there are any:
// what they are part of does not go yet.
func (tx *Tx) BeginLeases(list []Idle, c Cutoff) (began bool, err error) {
	for _, i := range list {
		if c.begins(i.LeasedAt, tx.Now) {
			began = true
			if err := tx.LeaseManifest(Manifest{ID: i.ID, RepositoryID: i.RepositoryID}); err != nil {
				return began, err
			}
		}
	}
	return began, nil
}

const looseBlob = `FROM blobs b WHERE (b.created_at < ? OR b.created_at > ?)
	AND NOT EXISTS (SELECT 1 FROM repository_blobs x WHERE x.blob_id = b.id)
	AND NOT EXISTS (SELECT 1 FROM manifest_blobs mb WHERE mb.blob_id = b.id)
	AND NOT EXISTS (SELECT 1 FROM deleted_manifest_blobs d WHERE d.blob_id = b.id)`

// LooseBlobs returns up to limit blobs with keys above after that no repository has and nothing that can be undeleted
// needs.
func (tx *Tx) LooseBlobs(after int64, c Cutoff, limit int) ([]int64, error) {
	return tx.ints(`SELECT b.id `+looseBlob+` AND b.id > ? ORDER BY b.id LIMIT ?`, micros(c.Leases), tx.ahead(), after, limit)
}

// RemoveLoose removes the row of a blob if LooseBlobs would still return it; ErrNotFound if not. Nothing names the file
// once this transaction has committed.
func (tx *Tx) RemoveLoose(id int64, c Cutoff) (b StoredBlob, err error) {
	var packed []byte
	var created int64
	err = tx.row(`SELECT b.digest, b.generation, b.size, b.created_at `+looseBlob+` AND b.id = ?`, []any{micros(c.Leases), tx.ahead(), id},
		&packed, &b.Generation, &b.Size, &created)
	if err == nil && c.begins(fromMicros(created), tx.Now) {
		if _, err = tx.run(`UPDATE blobs SET created_at = ? WHERE id = ?`, micros(tx.Now), id); err == nil {
			err = ErrNotFound
		}
	}
	if err != nil {
		return b, err
	}
	if b.Digest, err = unpackDigest(packed); err != nil {
		return b, err
	}
	tx.count(counted{size: b.Size, owner: noOwner, unheld: true}, -1)
	_, err = tx.run(`DELETE FROM blobs WHERE id = ?`, id)
	return b, err
}

const emptyRepository = ` FROM repositories r WHERE (r.created_at < ? OR r.created_at > ?)
	AND NOT EXISTS (SELECT 1 FROM repository_blobs x WHERE x.repository_id = r.id)
	AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repository_id = r.id)`

// EmptyRepositories returns up to limit repositories with keys above after that have nothing, and were made before the
// leases that count.
func (tx *Tx) EmptyRepositories(after int64, c Cutoff, limit int) ([]int64, error) {
	return tx.ints(`SELECT r.id`+emptyRepository+` AND r.id > ? ORDER BY r.id LIMIT ?`, micros(c.Leases), tx.ahead(), after, limit)
}

// RemoveEmptyRepository removes a repository if EmptyRepositories would still return it.
func (tx *Tx) RemoveEmptyRepository(id int64, c Cutoff) (done bool, err error) {
	var created int64
	err = tx.row(`SELECT r.created_at`+emptyRepository+` AND r.id = ?`, []any{micros(c.Leases), tx.ahead(), id}, &created)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.begins(fromMicros(created), tx.Now) {
		_, err := tx.run(`UPDATE repositories SET created_at = ? WHERE id = ?`, micros(tx.Now), id)
		return false, err
	}
	if err := tx.recordDropped(id); err != nil {
		return false, err
	}
	if _, err := tx.run(`DELETE FROM repositories WHERE id = ?`, id); err != nil {
		return false, err
	}
	return true, tx.removeUsage(id)
}

// IsStored says whether a row names the file of this digest and generation, or an open upload will make one.
func (tx *Tx) IsStored(d digest.Digest, generation string) (named bool, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return false, err
	}
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM blobs WHERE digest = ? AND generation = ?) OR EXISTS (SELECT 1 FROM uploads WHERE id = ?)`,
		[]any{packed, generation, generation}, &named)
	return named, err
}

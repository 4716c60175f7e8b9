package db

import (
	"context"
	"database/sql"
)

// Usage is how many bytes something takes. Each blob and manifest counts once.
type Usage struct {
	Logical     int64 // everything in it
	Unique      int64 // of that, what nothing else has: it would be freed with it
	Reclaimable int64 // of that, blobs that no manifest needs and nothing that can be undeleted
}

// RepositoryUsage is the usage of a repository.
type RepositoryUsage struct {
	Repository RepoName
	Usage
}

const repositoryUsage = `SELECT r.name, u.manifests + u.blobs, u.manifests + u.alone, u.unheld - u.kept
	FROM repositories r JOIN usage u ON u.repository_id = r.id `

func (u *RepositoryUsage) dest() []any {
	return []any{&u.Repository, &u.Logical, &u.Unique, &u.Reclaimable}
}

// RepositoryUsages returns the usage of up to limit repositories with names after last.
func (tx *Tx) RepositoryUsages(last string, limit int) (list []RepositoryUsage, err error) {
	err = tx.rows(repositoryUsage+`WHERE r.name > ? ORDER BY r.name LIMIT ?`, []any{last, limit}, func(r *sql.Rows) error {
		var u RepositoryUsage
		err := r.Scan(u.dest()...)
		list = append(list, u)
		return err
	})
	return list, err
}

// RepositoryUsage returns the usage of a repository. ErrNotFound.
func (tx *Tx) RepositoryUsage(repo RepoName) (u RepositoryUsage, err error) {
	err = tx.row(repositoryUsage+`WHERE r.name = ?`, []any{string(repo)}, u.dest()...)
	return u, err
}

// TotalUsage is what all of it takes.
type TotalUsage struct {
	Blobs       int64 // bytes of all of them
	Manifests   int64 // bytes
	Reclaimable int64 // of blobs that no manifest needs and nothing that can be undeleted
	Undo        int64 // of blobs that only deleted manifests need
	Damaged     int64 // of blobs found damaged
}

// TotalUsage adds the usage of all repositories up.
func (tx *Tx) TotalUsage() (u TotalUsage, err error) {
	err = tx.row(`SELECT sum(alone), sum(manifests), sum(unheld - kept), sum(kept),
		(SELECT coalesce(sum(size), 0) FROM blobs WHERE damaged_at <> 0) FROM usage`,
		nil, &u.Blobs, &u.Manifests, &u.Reclaimable, &u.Undo, &u.Damaged)
	return u, err
}

// TagUsage returns the usage of a manifest with what it holds: its blobs, its children and theirs, and the same of its
// referrers. Unique is what nothing outside of that needs.
func (tx *Tx) TagUsage(manifestID int64) (u Usage, err error) {
	err = tx.row(`
		WITH RECURSIVE held (id) AS (
			SELECT ?
			UNION SELECT c.child_id FROM held JOIN manifest_children c ON c.manifest_id = held.id
			UNION SELECT f.manifest_id FROM held JOIN manifests s ON s.id = held.id
				JOIN referrers f ON f.repository_id = s.repository_id AND f.subject = s.digest
		), manifest (bytes) AS (
			SELECT coalesce(sum(m.size), 0) FROM held JOIN manifests m ON m.id = held.id
		)
		SELECT (SELECT bytes FROM manifest) + coalesce(sum(b.size), 0),
		       (SELECT bytes FROM manifest) + coalesce(sum(CASE WHEN
		           NOT EXISTS (SELECT 1 FROM manifest_blobs mb WHERE mb.blob_id = b.id AND mb.manifest_id NOT IN (SELECT id FROM held))
		           AND NOT EXISTS (SELECT 1 FROM repository_blobs x WHERE x.blob_id = b.id AND x.repository_id <> root.repository_id)
		           THEN b.size ELSE 0 END), 0)
		FROM (SELECT DISTINCT mb.blob_id AS id FROM held JOIN manifest_blobs mb ON mb.manifest_id = held.id) AS blob
		CROSS JOIN blobs b CROSS JOIN manifests root WHERE b.id = blob.id AND root.id = ?`, []any{manifestID, manifestID}, &u.Logical, &u.Unique)
	return u, err
}

// The table usage is kept while things change: adding up takes seconds at a million blobs. Whatever changes how a blob
// counts says so to sums of its transaction; triggers would do it by themselves, at a fifth of the time of a push. The
// sums of a group are written once, before it commits.

// The rows of blobs that have no single owner.
const (
	severalOwners = 0
	noOwner       = -1
)

// sums are changes of usage. The zero value is empty.
type sums struct {
	rows    map[int64]sum // by owner
	removed []int64       // repositories: what was said of them before is void, and their keys may be used again
}

// sum is a change of a row of usage, in bytes.
type sum struct{ manifests, blobs, alone, unheld, kept int64 }

func (s *sums) add(owner int64, n sum) {
	if s.rows == nil {
		s.rows = map[int64]sum{}
	}
	old := s.rows[owner]
	s.rows[owner] = sum{old.manifests + n.manifests, old.blobs + n.blobs, old.alone + n.alone, old.unheld + n.unheld, old.kept + n.kept}
}

func (s *sums) remove(repositoryID int64) {
	delete(s.rows, repositoryID)
	s.removed = append(s.removed, repositoryID)
}

// merge adds what happened later.
func (s *sums) merge(later sums) {
	for _, id := range later.removed {
		delete(s.rows, id)
	}
	for owner, n := range later.rows {
		s.add(owner, n)
	}
}

// write applies the sums to the table. They are empty afterwards.
func (s *sums) write(tx *Tx) error {
	for owner, n := range s.rows {
		if n == (sum{}) {
			continue
		}
		if _, err := tx.run(`UPDATE usage SET manifests = manifests + ?, blobs = blobs + ?, alone = alone + ?, unheld = unheld + ?, kept = kept + ?
			WHERE repository_id = ?`, n.manifests, n.blobs, n.alone, n.unheld, n.kept, owner); err != nil {
			return err
		}
	}
	*s = sums{}
	return nil
}

// counted is how a blob b counts.
type counted struct {
	size         int64
	owner        int64 // the repository that has it, if it is the only one
	unheld, kept bool
}

const (
	// countedColumns are the fields of counted.
	countedColumns = `b.size, ` + ownerColumn + `, ` + unheldColumn + `, ` + keptColumn
	ownerColumn    = `(SELECT CASE count(*) WHEN 0 THEN -1 WHEN 1 THEN max(repository_id) ELSE 0 END
		FROM (SELECT repository_id FROM repository_blobs WHERE blob_id = b.id LIMIT 2) AS owners)`
	unheldColumn = `NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = b.id)`
	keptColumn   = `EXISTS (SELECT 1 FROM deleted_manifest_blobs WHERE blob_id = b.id)`
)

func (c *counted) dest() []any { return []any{&c.size, &c.owner, &c.unheld, &c.kept} }

// count adds a blob to the sum of its owner, or with -1 takes it from there.
func (tx *Tx) count(c counted, sign int64) {
	n := sum{alone: sign * c.size}
	if c.unheld {
		n.unheld = sign * c.size
	}
	if c.unheld && c.kept {
		n.kept = sign * c.size
	}
	tx.sums.add(c.owner, n)
}

// recount lets a change happen and counts the blob as it is afterwards.
func (tx *Tx) recount(blobID int64, change func() error) error {
	before, err := tx.counted(blobID)
	if err == nil {
		err = change()
	}
	if err != nil {
		return err
	}
	after, err := tx.counted(blobID)
	tx.count(before, -1)
	tx.count(after, 1)
	return err
}

func (tx *Tx) counted(blobID int64) (c counted, err error) {
	err = tx.row(`SELECT `+countedColumns+` FROM blobs b WHERE b.id = ?`, []any{blobID}, c.dest()...)
	return c, err
}

// countNew counts a blob that has just been recorded. Nobody has it yet.
func (tx *Tx) countNew(blobID, size int64) {
	tx.newest, tx.newestSize = blobID, size
	tx.count(counted{size: size, owner: noOwner, unheld: true}, 1)
}

// countLink counts a blob that a repository has just got.
func (tx *Tx) countLink(repositoryID, blobID int64) error {
	var before counted
	if blobID == tx.newest { // as nearly always in a push: there is nothing to ask
		tx.newest, before = 0, counted{size: tx.newestSize, owner: noOwner, unheld: true}
	} else if err := tx.row(`SELECT b.size, `+ownerWithout+`, `+unheldColumn+`, `+keptColumn+`
		FROM repository_blobs x JOIN blobs b ON b.id = x.blob_id WHERE x.repository_id = ? AND x.blob_id = ?`, []any{repositoryID, blobID}, before.dest()...); err != nil {
		return err
	}
	after := before
	after.owner = severalOwners
	if before.owner == noOwner {
		after.owner = repositoryID
	}
	tx.sums.add(repositoryID, sum{blobs: before.size})
	tx.count(before, -1)
	tx.count(after, 1)
	return nil
}

// removeUsage removes the row of a repository that is gone.
func (tx *Tx) removeUsage(repositoryID int64) error {
	tx.sums.remove(repositoryID)
	_, err := tx.run(`DELETE FROM usage WHERE repository_id = ?`, repositoryID)
	return err
}

// ownerWithout is the owner of b when a repository no longer has it.
const ownerWithout = `(SELECT CASE count(*) WHEN 0 THEN -1 WHEN 1 THEN max(repository_id) ELSE 0 END
	FROM (SELECT repository_id FROM repository_blobs WHERE blob_id = b.id AND repository_id <> x.repository_id LIMIT 2) AS owners)`

// countUnlinked counts blobs that are about to be taken from a repository: all of them, or one.
func (tx *Tx) countUnlinked(repositoryID int64, one string, args ...any) error {
	return tx.rows(`SELECT `+countedColumns+`, `+ownerWithout+` FROM repository_blobs x JOIN blobs b ON b.id = x.blob_id
		WHERE x.repository_id = ?`+one, append([]any{repositoryID}, args...), func(r *sql.Rows) error {
		var c counted
		var after int64
		if err := r.Scan(append(c.dest(), &after)...); err != nil {
			return err
		}
		tx.sums.add(repositoryID, sum{blobs: -c.size})
		tx.count(c, -1)
		c.owner = after
		tx.count(c, 1)
		return nil
	})
}

// countUnheld counts the blobs of a manifest that is about to go; keep says that it can be undeleted.
func (tx *Tx) countUnheld(manifestID int64, keep bool) error {
	return tx.rows(`SELECT `+countedColumns+`,
		NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob_id = b.id AND manifest_id <> mb.manifest_id)
		FROM manifest_blobs mb JOIN blobs b ON b.id = mb.blob_id WHERE mb.manifest_id = ?`, []any{manifestID}, func(r *sql.Rows) error {
		var c counted
		var last bool
		if err := r.Scan(append(c.dest(), &last)...); err != nil {
			return err
		}
		tx.count(c, -1)
		c.unheld, c.kept = last, c.kept || keep
		tx.count(c, 1)
		return nil
	})
}

// countForgotten counts the blobs of a deleted manifest that is about to be forgotten. Those that a manifest holds count as
// before.
func (tx *Tx) countForgotten(deletedID int64) error {
	return tx.rows(`SELECT `+countedColumns+`,
		EXISTS (SELECT 1 FROM deleted_manifest_blobs WHERE blob_id = b.id AND deleted_id <> d.deleted_id)
		FROM deleted_manifest_blobs d JOIN blobs b ON b.id = d.blob_id WHERE d.deleted_id = ? AND `+unheldColumn, []any{deletedID}, func(r *sql.Rows) error {
		var c counted
		var others bool
		if err := r.Scan(append(c.dest(), &others)...); err != nil {
			return err
		}
		tx.count(c, -1)
		c.kept = others
		tx.count(c, 1)
		return nil
	})
}

// countedUsage is what usage must say. It is part of an upgrade, too: a later schema that changes it leaves the upgrade a
// copy of this one.
const countedUsage = `
	SELECT r.id AS repository_id,
	       (SELECT coalesce(sum(size), 0) FROM manifests WHERE repository_id = r.id) AS manifests,
	       (SELECT coalesce(sum(b.size), 0) FROM repository_blobs x JOIN blobs b ON b.id = x.blob_id WHERE x.repository_id = r.id) AS blobs,
	       coalesce(c.alone, 0) AS alone, coalesce(c.unheld, 0) AS unheld, coalesce(c.kept, 0) AS kept
	FROM (SELECT id FROM repositories UNION ALL SELECT 0 UNION ALL SELECT -1) AS r LEFT JOIN (
		SELECT owner, sum(size) AS alone, sum(CASE WHEN unheld THEN size ELSE 0 END) AS unheld, sum(CASE WHEN unheld AND kept THEN size ELSE 0 END) AS kept
		FROM (SELECT b.size AS size, ` + ownerColumn + ` AS owner, ` + unheldColumn + ` AS unheld, ` + keptColumn + ` AS kept FROM blobs b) AS each_blob GROUP BY owner
	) AS c ON c.owner = r.id`

// WrongUsages adds everything up and returns how many rows of usage say something else. It reads every blob.
func (tx *Tx) WrongUsages() (n int64, err error) {
	err = tx.row(`WITH counted AS (`+countedUsage+`)
		SELECT (SELECT count(*) FROM (SELECT * FROM counted EXCEPT SELECT * FROM usage) AS other) +
		       (SELECT count(*) FROM usage WHERE repository_id NOT IN (SELECT repository_id FROM counted))`, nil, &n)
	return n, err
}

// RepairUsage writes usage anew. Other writers wait for it.
func (d *DB) RepairUsage(ctx context.Context) error {
	c, err := d.connect(ctx, []string{"query_only(OFF)"}) // not the writer: a group has sums in memory that it has not written
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if _, err := c.ExecContext(ctx, `DELETE FROM usage; INSERT INTO usage `+countedUsage); err != nil {
		c.exec("ROLLBACK")
		return wrap(err)
	}
	return c.exec("COMMIT")
}

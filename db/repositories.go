package db

import (
	"database/sql"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

// RepositoryID returns the key of a repository. ErrNotFound if it never had content or was removed.
func (tx *Tx) RepositoryID(name RepoName) (id int64, err error) {
	err = tx.row(`SELECT id FROM repositories WHERE name = ?`, []any{string(name)}, &id)
	return id, err
}

// MakeRepository returns the key of a repository. One that is missing is made, public or not.
func (tx *Tx) MakeRepository(name RepoName, public bool) (id int64, err error) {
	id, err = tx.RepositoryID(name)
	if !errors.Is(err, ErrNotFound) {
		return id, err
	}
	err = tx.row(`INSERT INTO repositories (name, created_at, public) VALUES (?, ?, ?) RETURNING id`, []any{string(name), micros(tx.Now), asInt(public)}, &id)
	if err == nil {
		_, err = tx.run(`INSERT INTO usage (repository_id) VALUES (?)`, id)
	}
	if err == nil && public {
		err = tx.recordPolicy(PolicyKey{PolicyPublic, string(name), ""})
	}
	return id, err
}

// Repositories returns up to limit names after last, in byte order, of repositories that have a manifest.
func (tx *Tx) Repositories(last string, limit int) ([]string, error) {
	return tx.strings(`
		SELECT name FROM repositories r
		WHERE name > ? AND EXISTS (SELECT 1 FROM manifests WHERE repository_id = r.id)
		ORDER BY name LIMIT ?`, last, limit)
}

// Visibility is who may read a repository: everybody, or whom its owner lets.
type Visibility struct {
	Repository RepoName
	Public     bool
}

// Visibilities is Repositories with who may read them.
func (tx *Tx) Visibilities(last string, limit int) (list []Visibility, err error) {
	err = tx.rows(`
		SELECT name, public FROM repositories r
		WHERE name > ? AND EXISTS (SELECT 1 FROM manifests WHERE repository_id = r.id)
		ORDER BY name LIMIT ?`, []any{last, limit}, func(r *sql.Rows) error {
		var v Visibility
		err := r.Scan(&v.Repository, &v.Public)
		list = append(list, v)
		return err
	})
	return list, err
}

// PublicRepositories is Repositories for those that are public. It reads no others.
func (tx *Tx) PublicRepositories(last string, limit int) ([]string, error) {
	return tx.strings(`
		SELECT name FROM repositories r
		WHERE public = 1 AND name > ? AND EXISTS (SELECT 1 FROM manifests WHERE repository_id = r.id)
		ORDER BY name LIMIT ?`, last, limit)
}

// BlobVisibility is a repository that has a blob.
type BlobVisibility struct {
	ID int64
	Visibility
}

// BlobVisibilities returns up to limit repositories with keys after another one that have a blob.
func (tx *Tx) BlobVisibilities(d digest.Digest, after int64, limit int) (list []BlobVisibility, err error) {
	packed, err := packDigest(d)
	if err != nil {
		return nil, err
	}
	err = tx.rows(`
		SELECT r.id, r.name, r.public FROM blobs b JOIN repository_blobs rb ON rb.blob_id = b.id JOIN repositories r ON r.id = rb.repository_id
		WHERE b.digest = ? AND b.damaged_at = 0 AND rb.repository_id > ? ORDER BY rb.repository_id LIMIT ?`, []any{packed, after, limit}, func(r *sql.Rows) error {
		var h BlobVisibility
		err := r.Scan(&h.ID, &h.Repository, &h.Public)
		list = append(list, h)
		return err
	})
	return list, err
}

// RepositoryInfo is what a list of repositories shows.
type RepositoryInfo struct {
	Name            RepoName
	Public          bool
	Tags, Manifests int64
	Bytes           int64 // of the blobs the repository has and of its manifests, each counted once
	LastPush        time.Time
}

const repositoryInfos = `
		SELECT name, public,
		       (SELECT count(*) FROM tags WHERE repository_id = r.id),
		       (SELECT count(*) FROM manifests WHERE repository_id = r.id),
		       (SELECT blobs + manifests FROM usage WHERE repository_id = r.id),
		       (SELECT max(pushed_at) FROM manifests WHERE repository_id = r.id)
		FROM repositories r
		WHERE EXISTS (SELECT 1 FROM manifests WHERE repository_id = r.id) `

// RepositoryInfos is Repositories with figures.
func (tx *Tx) RepositoryInfos(last string, limit int) ([]RepositoryInfo, error) {
	return tx.repositoryInfos(repositoryInfos+`AND name > ? ORDER BY name LIMIT ?`, last, limit)
}

// RepositoryInfo is what RepositoryInfos says of one. ErrNotFound if it has no manifest.
func (tx *Tx) RepositoryInfo(name RepoName) (RepositoryInfo, error) {
	infos, err := tx.repositoryInfos(repositoryInfos+`AND name = ?`, string(name))
	if err == nil && len(infos) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return RepositoryInfo{}, err
	}
	return infos[0], nil
}

func (tx *Tx) repositoryInfos(query string, args ...any) (infos []RepositoryInfo, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var i RepositoryInfo
		var pushed int64
		err := r.Scan(&i.Name, &i.Public, &i.Tags, &i.Manifests, &i.Bytes, &pushed)
		i.LastPush = fromMicros(pushed)
		infos = append(infos, i)
		return err
	})
	return infos, err
}

// DropRepository removes a repository's right to its blobs and the repository itself. ErrConflict while it has
// manifests. The blobs lose their last holder, and collection takes those that nobody else holds.
func (tx *Tx) DropRepository(id int64) error {
	if err := tx.recordDropped(id); err != nil {
		return err
	}
	if err := tx.countUnlinked(id, ""); err != nil {
		return err
	}
	if err := tx.runAll([]any{id},
		`DELETE FROM repository_blobs WHERE repository_id = ?`,
		`DELETE FROM repositories WHERE id = ?`); err != nil {
		return err
	}
	return tx.removeUsage(id)
}

// recordDropped notes that a repository is about to go: one that is made again is not public because of it.
func (tx *Tx) recordDropped(id int64) error {
	_, err := tx.run(`INSERT INTO changes (at, repository, tag) SELECT ?, '', ? || name || ? FROM repositories WHERE id = ? AND public = 1`,
		micros(tx.Now), PolicyPublic+"\n", "\n", id)
	return err
}

// Totals counts everything there is.
type Totals struct {
	Repositories, Manifests, Tags, Blobs, Bytes, Uploads int64
	Damaged                                              int64 // blobs
}

// Totals counts an index of every table.
func (tx *Tx) Totals() (t Totals, err error) {
	err = tx.row(`
		SELECT count(*) FILTER (WHERE repository_id > 0 AND manifests > 0), (SELECT count(*) FROM manifests), (SELECT count(*) FROM tags),
		       (SELECT count(*) FROM blobs), sum(alone), (SELECT count(*) FROM uploads), (SELECT count(*) FROM blobs WHERE damaged_at <> 0)
		FROM usage`,
		nil, &t.Repositories, &t.Manifests, &t.Tags, &t.Blobs, &t.Bytes, &t.Uploads, &t.Damaged)
	return t, err
}

// Probe writes and takes back a row, which proves that the database takes writes: the lock, the disk and its space.
func (tx *Tx) Probe() error {
	if _, err := tx.run(`INSERT INTO uploads (id, repository, algorithm, size, hash_state, boot_id, updated_at) VALUES ('probe', '', '', 0, ?, '', 0)`, []byte{}); err != nil {
		return err
	}
	_, err := tx.run(`DELETE FROM uploads WHERE id = 'probe'`)
	return err
}

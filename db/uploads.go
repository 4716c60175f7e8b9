package db

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Upload is the state of an upload session.
type Upload struct {
	ID         string
	Repository RepoName
	Algorithm  digest.Algorithm
	Size       int64  // bytes received
	HashState  []byte // of the hash after these bytes
	BootID     string // of the machine when they were written
	// When the session began and when it last moved. CreateUpload writes them; Upload does not read them.
	CreatedAt, UpdatedAt time.Time
	Owner                string // the user who began it, and alone may go on; a blob that is fetched has one that is no user
}

// CreateUpload writes a new session.
func (tx *Tx) CreateUpload(u Upload) error {
	_, err := tx.run(`
		INSERT INTO uploads (id, repository, algorithm, size, hash_state, boot_id, updated_at, created_at, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		u.ID, string(u.Repository), string(u.Algorithm), u.Size, u.HashState, u.BootID, micros(u.UpdatedAt), micros(u.CreatedAt), u.Owner)
	return err
}

// Upload reads a session of a repository. ErrNotFound if the repository has no such session, whoever else may.
func (tx *Tx) Upload(repo RepoName, id string) (u Upload, err error) {
	u.ID, u.Repository = id, repo
	err = tx.row(`SELECT algorithm, size, hash_state, boot_id, owner FROM uploads WHERE id = ? AND repository = ?`,
		[]any{id, string(repo)}, &u.Algorithm, &u.Size, &u.HashState, &u.BootID, &u.Owner)
	return u, err
}

// UploadBy reads the session of an owner in a repository that has come farthest. ErrNotFound if there is none.
func (tx *Tx) UploadBy(repo RepoName, owner string) (u Upload, err error) {
	u.Repository, u.Owner = repo, owner
	err = tx.row(`SELECT id, algorithm, size, hash_state, boot_id FROM uploads WHERE owner = ? AND repository = ? ORDER BY size DESC LIMIT 1`,
		[]any{owner, string(repo)}, &u.ID, &u.Algorithm, &u.Size, &u.HashState, &u.BootID)
	return u, err
}

// SaveUpload writes how far a session has come. ErrNotFound if it was cancelled or has expired.
func (tx *Tx) SaveUpload(u Upload) error {
	n, err := tx.run(`UPDATE uploads SET algorithm = ?, size = ?, hash_state = ?, updated_at = ? WHERE id = ?`,
		string(u.Algorithm), u.Size, u.HashState, micros(tx.Now), u.ID)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// DeleteUpload ends a session. ErrNotFound if there is none.
func (tx *Tx) DeleteUpload(id string) error {
	n, err := tx.run(`DELETE FROM uploads WHERE id = ?`, id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// EndUpload ends a session whose blob is stored. If it was open for longer than long, a session that nobody can continue
// takes its place under a new id until it expires: earlier layers of the same push may have no manifest yet, and their
// leases may have run out meanwhile. ErrNotFound if there is none.
func (tx *Tx) EndUpload(id, newID string, long time.Duration) error {
	n, err := tx.run(`DELETE FROM uploads WHERE id = ? AND created_at >= ?`, id, micros(tx.Now.Add(-long)))
	if err != nil || n == 1 {
		return err
	}
	n, err = tx.run(`UPDATE uploads SET id = ?, size = 0, hash_state = ?, boot_id = '', updated_at = ? WHERE id = ?`, newID, []byte{}, micros(tx.Now), id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// DropUploads ends every session, in a copy of a database that has no staged bytes beside it.
func (tx *Tx) DropUploads() error {
	_, err := tx.run(`DELETE FROM uploads`)
	return err
}

// CountUploads returns the number of open sessions of a repository, and of a user.
func (tx *Tx) CountUploads(repo RepoName, owner string) (ofRepo, ofOwner int, err error) {
	err = tx.row(`SELECT (SELECT count(*) FROM uploads WHERE repository = ?), (SELECT count(*) FROM uploads WHERE owner = ? AND owner <> '')`,
		[]any{string(repo), owner}, &ofRepo, &ofOwner)
	return ofRepo, ofOwner, err
}

// IdleUploads returns up to limit sessions that have not moved since before, oldest first.
func (tx *Tx) IdleUploads(before time.Time, limit int) ([]string, error) {
	return tx.strings(`SELECT id FROM uploads WHERE updated_at < ? ORDER BY updated_at LIMIT ?`, micros(before), limit)
}

// UploadsOf returns the sessions of a repository.
func (tx *Tx) UploadsOf(repo RepoName) ([]string, error) {
	return tx.strings(`SELECT id FROM uploads WHERE repository = ?`, string(repo))
}

// HasUpload says whether there is a session with this id, in any repository.
func (tx *Tx) HasUpload(id string) (exists bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM uploads WHERE id = ?)`, []any{id}, &exists)
	return exists, err
}

// ExpireUpload ends a session that has not moved since before. ErrNotFound if it has, or is gone.
func (tx *Tx) ExpireUpload(id string, before time.Time) error {
	n, err := tx.run(`DELETE FROM uploads WHERE id = ? AND updated_at < ?`, id, micros(before))
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

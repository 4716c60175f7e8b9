package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

// Upload is how far an upload session has come.
type Upload struct {
	ID     string // 32 hexadecimal digits
	Offset int64  // bytes received
}

// Chunk is a part of a blob on its way in.
type Chunk struct {
	Body   io.Reader
	Start  int64 // offset of its first byte; -1: it goes where the upload ends
	Length int64 // bytes that were announced; -1: none were
}

// StartUpload opens a session ("Pushing a blob in chunks", end-4a), which is remembered in this process only until it has
// bytes or has waited for them for a minute. TooManyRequests if the repository, or
// the user, has too many.
func (r *Registry) StartUpload(ctx context.Context, repo RepoName, alg digest.Algorithm) (Upload, error) {
	state, err := saveHash(alg.Hash())
	if err != nil {
		return Upload{}, AsError(err)
	}
	now := r.db.Now()
	u := db.Upload{ID: newUploadID(), Repository: repo, Algorithm: alg, HashState: state, BootID: r.bootID, CreatedAt: now, UpdatedAt: now, Owner: r.user()}
	var ofRepo, ofOwner int
	err = r.db.Lookup(ctx, func(tx *db.Tx) (err error) { ofRepo, ofOwner, err = tx.CountUploads(u.Repository, u.Owner); return err })
	if err != nil {
		return Upload{}, AsError(err)
	}
	room, err := r.sessions.begin(u, func(repo, owner int) error { return r.tooMany(u, ofRepo+repo, ofOwner+owner) })
	if err == nil && !room {
		err = r.db.Relaxed(ctx, func(tx *db.Tx) error { return r.createUpload(tx, u) })
	}
	if err != nil {
		return Upload{}, AsError(err)
	}
	return Upload{ID: u.ID}, nil
}

// newUploadID returns 128 random bits: nobody can guess another's session, and no two uploads share a file name.
func newUploadID() string {
	var id [16]byte
	rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// UploadStatus says how far a session has come (end-13). While a chunk is coming in it may lag behind.
func (r *Registry) UploadStatus(ctx context.Context, repo RepoName, id string) (Upload, error) {
	u, err := r.upload(ctx, repo, id)
	if err == nil && u.saved {
		err = r.isOpen(ctx, id)
	}
	if err != nil {
		return Upload{}, err
	}
	return Upload{ID: u.ID, Offset: u.Size}, nil
}

// isOpen sees that a session with a row still has it: another process may have expired it. BlobUploadUnknown.
func (r *Registry) isOpen(ctx context.Context, id string) error {
	var has bool
	err := r.db.View(ctx, func(tx *db.Tx) (err error) { has, err = tx.HasUpload(id); return err })
	if err == nil && !has {
		r.sessions.forget(id)
		err = db.ErrNotFound
	}
	return Unknown(err, BlobUploadUnknown, nil)
}

func (r *Registry) upload(ctx context.Context, repo RepoName, id string) (known, error) {
	u, ok := r.sessions.find(id)
	var err error
	if !ok || u.Repository != repo {
		u = known{saved: true}
		err = r.db.View(ctx, func(tx *db.Tx) (err error) {
			u.Upload, err = tx.Upload(repo, id)
			return err
		})
	}
	if err == nil && r.actor != nil && u.Owner != r.actor.User {
		err = db.ErrNotFound // a stranger's session does not exist
	}
	if err == nil && u.BootID != r.bootID {
		err = db.ErrNotFound // the hash has seen bytes that a power cut may have taken from the file
	}
	return u, Unknown(err, BlobUploadUnknown, nil)
}

// AppendUpload adds a chunk to a session (end-5). On a RangeInvalid error, beside which the session's state is
// returned, nothing was taken. If the body breaks off, what came before stays and the upload can go on from there; if
// it ends cleanly before the announced length, nothing of it stays.
func (r *Registry) AppendUpload(ctx context.Context, repo RepoName, id string, c Chunk) (Upload, error) {
	s, err := r.openSession(ctx, repo, id)
	if err != nil {
		return Upload{}, err
	}
	defer s.close()
	err = s.take(ctx, c, false)
	return s.state(), err
}

// FinishUpload ends a session with an optional last chunk (end-6): the blob is durable and the repository has it when it
// returns nil, and Upload.Offset is its size. If the content does not have the digest the error is DigestInvalid, the
// last chunk is taken back and the session stays as it was. Called again for a session that it has ended it succeeds again.
func (r *Registry) FinishUpload(ctx context.Context, repo RepoName, id string, want digest.Digest, c Chunk) (Upload, error) {
	s, err := r.openSession(ctx, repo, id)
	if BlobUploadUnknown.Is(err) {
		return r.finishedUpload(ctx, repo, id, want, c, err)
	}
	if err != nil {
		return Upload{}, err
	}
	defer s.close()
	before := s.Upload
	if s.Size == 0 && s.Algorithm != want.Algorithm() {
		s.Algorithm, s.hash = want.Algorithm(), want.Algorithm().Hash()
	}
	if err := s.take(ctx, c, true); err != nil {
		return s.state(), err
	}
	if s.Algorithm == want.Algorithm() && digest.NewDigest(s.Algorithm, s.hash) != want {
		s.Upload = before
		if err := s.save(ctx); err != nil {
			return s.state(), err
		}
		return s.state(), DigestInvalid.With("the content does not have this digest")
	}
	return s.state(), r.publish(ctx, s, want)
}

// finishedUpload is FinishUpload for a client that sends the request again, because it has lost the answer. The blob's row
// knows the session, until another one replaces the bytes; the error is otherwise for any other request for a session that
// has ended.
func (r *Registry) finishedUpload(ctx context.Context, repo RepoName, id string, d digest.Digest, c Chunk, otherwise error) (Upload, error) {
	finished := false
	if d.Validate() != nil { // no blob has it
		return Upload{}, otherwise
	}
	err := r.db.View(ctx, func(tx *db.Tx) (err error) {
		finished, err = tx.IsFromSession(repo, d, sessionHash(db.Upload{ID: id, Repository: repo, Owner: r.user()}))
		return err
	})
	if err != nil {
		return Upload{}, AsError(err)
	}
	if !finished {
		return Upload{}, otherwise
	}
	if _, err := io.Copy(io.Discard, c.Body); err != nil { // it may come with the last chunk again
		return Upload{}, &Error{Code: BlobUploadInvalid, Detail: "the body broke off", Err: err}
	}
	size, err := r.StatBlob(ctx, repo, d)
	if BlobUnknown.Is(err) {
		err = otherwise
	}
	return Upload{ID: id, Offset: size}, err
}

// sessionHash tells a session, of a repository and an owner, from all others.
func sessionHash(u db.Upload) []byte {
	sum := sha256.Sum256([]byte(u.ID + "\x00" + string(u.Repository) + "\x00" + u.Owner))
	return sum[:16]
}

// CancelUpload ends a session and removes its bytes.
func (r *Registry) CancelUpload(ctx context.Context, repo RepoName, id string) error {
	if _, err := r.upload(ctx, repo, id); err != nil {
		return err
	}
	return r.cancel(ctx, id)
}

// cancel is CancelUpload of a session that anybody began.
func (r *Registry) cancel(ctx context.Context, id string) error {
	k, known := r.sessions.find(id)
	r.sessions.forget(id)
	err := r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.DeleteUpload(id) })
	if err != nil && !(known && !k.saved && errors.Is(err, db.ErrNotFound)) {
		return Unknown(err, BlobUploadUnknown, nil)
	}
	return r.discard(ctx, id)
}

// discard removes the bytes of a session that is gone, unless a chunk of it is coming in, which does it then.
func (r *Registry) discard(ctx context.Context, id string) error {
	release, ok := r.sessions.tryLock(id)
	if !ok {
		return nil
	}
	defer release()
	if err := r.blobs.Discard(ctx, id); err != nil {
		return AsError(err)
	}
	return nil
}

// PutBlob stores a blob that comes in one piece ("Single POST", end-4b).
func (r *Registry) PutBlob(ctx context.Context, repo RepoName, want digest.Digest, c Chunk) error {
	s := &session{r: r, hash: want.Algorithm().Hash(), single: true}
	s.Upload = db.Upload{ID: newUploadID(), Repository: repo, Algorithm: want.Algorithm()}
	err := s.take(ctx, c, true)
	if err == nil && digest.NewDigest(s.Algorithm, s.hash) != want {
		err = DigestInvalid.With("the content does not have this digest")
	}
	if err != nil {
		r.blobs.Discard(context.WithoutCancel(ctx), s.ID)
		return err
	}
	return r.publish(ctx, s, want)
}

// publish makes the staged bytes of a session a blob of its repository: bytes first, row second. The session ends in the
// same transaction.
func (r *Registry) publish(ctx context.Context, s *session, d digest.Digest) error {
	u := s.Upload
	// From here on the client's patience is not asked: a half-done publish helps nobody.
	ctx = context.WithoutCancel(ctx)
	name := blobs.Name{Digest: d, Generation: u.ID}
	stored := time.Now().Round(0) // the wall's clock goes on while the machine sleeps
	stamp, err := r.blobs.Commit(ctx, u.ID, name, u.Size)
	if errors.Is(err, blobs.ErrNotFound) && s.saved { // another process has expired the session, unless the file is lost
		if gone := r.isOpen(ctx, u.ID); gone != nil {
			return gone
		}
	}
	if err != nil {
		return AsError(err)
	}
	if u.Algorithm != d.Algorithm() {
		// The client named another algorithm only at the end, so this digest was not computed on the way in.
		if _, err := r.HashFile(ctx, name, u.Size, nil); err != nil {
			if errors.Is(err, ErrDamaged) {
				err = DigestInvalid.With("the content does not have this digest")
			}
			s.abandon(ctx)
			return errors.Join(err, r.blobs.Remove(ctx, name))
		}
	}
	var old string
	err = r.db.Update(ctx, func(tx *db.Tx) error {
		if time.Now().Round(0).Sub(stored) > MinOrphanAge/2 {
			return errors.New("the machine stood still in the middle of a push: the file may have been collected")
		}
		if err := s.end(tx); err != nil {
			return Unknown(err, BlobUploadUnknown, nil)
		}
		repositoryID, err := tx.MakeRepository(u.Repository, r.public)
		if err != nil {
			return err
		}
		var id int64
		if id, old, err = tx.PutBlob(db.NewBlob{Digest: d, Size: u.Size, Generation: u.ID, Stamp: stamp, Session: sessionHash(u)}); err != nil {
			return err
		}
		return tx.LinkBlob(repositoryID, id, d)
	})
	if err != nil {
		// Only a session that ended meanwhile says for sure that no row names the file. After any other failure a row
		// may, and the file has to stay: at worst it is garbage for the collector.
		if BlobUploadUnknown.Is(err) {
			r.blobs.Remove(ctx, name)
		}
		return AsError(err)
	}
	r.sessions.forget(u.ID)
	if old != "" {
		if err := r.blobs.Remove(ctx, blobs.Name{Digest: d, Generation: old}); err != nil {
			r.log.Warn("replaced file stays for the collector", "digest", d, "generation", old, "err", err)
		}
	}
	return nil
}

// ExpireUploads ends the sessions that have not moved for the upload timeout, removes their bytes, and those of uploads
// that a crash left without a session. It returns how many there were.
func (r *Registry) ExpireUploads(ctx context.Context) (n int, err error) {
	const batch = 100
	r.settleIdle(ctx)
	if err := r.db.Relaxed(ctx, func(tx *db.Tx) error { _, err := tx.BeginAnew(batch); return err }); err != nil {
		return 0, AsError(err)
	}
	before := r.db.Now().Add(-r.uploadTimeout)
	for {
		var idle []string
		err := r.db.View(ctx, func(tx *db.Tx) (err error) {
			before = tx.Now.Add(-r.uploadTimeout)
			idle, err = tx.IdleUploads(before, batch)
			return err
		})
		if err != nil || len(idle) == 0 {
			orphans, err := r.discardOrphans(ctx, before)
			return n + orphans, err
		}
		for _, id := range idle {
			err := r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.ExpireUpload(id, before) })
			if errors.Is(err, db.ErrNotFound) {
				continue
			}
			if err == nil {
				n++
				err = r.discard(ctx, id)
			}
			if err != nil {
				return n, AsError(err)
			}
		}
	}
}

func (r *Registry) discardOrphans(ctx context.Context, before time.Time) (n int, err error) {
	err = r.blobs.Staged(ctx, func(id string, info blobs.Info) error {
		if !info.Changed.Before(before) && !IsAhead(info) {
			return nil
		}
		var has bool
		err := r.db.View(ctx, func(tx *db.Tx) (err error) {
			has, err = tx.HasUpload(id)
			return err
		})
		if err != nil || has {
			return err
		}
		if IsAhead(info) {
			if toucher, ok := r.blobs.(blobs.Toucher); ok {
				err = toucher.TouchStaged(ctx, id)
			}
			return err
		}
		n++
		return r.discard(ctx, id)
	})
	if err != nil {
		return n, AsError(err)
	}
	return n, nil
}

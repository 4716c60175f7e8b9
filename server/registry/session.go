package registry

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

const (
	// PieceSize is how many bytes are read, written and hashed at a time.
	PieceSize = 256 << 10
	// A long chunk saves how far it has come every saveBytes and every saveTime, so that a killed server costs the
	// client no more than that, and a slow upload does not expire.
	saveBytes = 16 << 20
	saveTime  = time.Minute
	// sessionWait is how long a chunk waits for another one of the same session. Two at once happen when a client has
	// given up on a connection and the server has not noticed yet.
	sessionWait = 10 * time.Second
)

var buffers = sync.Pool{New: func() any { return new([PieceSize]byte) }}

// sessions lets one chunk at a time work on a session, and knows how far those are that this process works on.
//
// A session gets its row with its first bytes, so that they survive a killed process; what is lost with an empty one is
// nothing. Most blobs are small: they come with the request that ends the session, or in one chunk before it.
type sessions struct {
	sync.Mutex
	busy  map[string]chan struct{} // closed when the session is free again
	known map[string]known
	empty map[uploadsOf]int // sessions without a row
}

// uploadsOf is whose sessions are counted: those of a repository, or of a user.
type uploadsOf struct {
	repo  RepoName
	owner string
}

// counted are the counts that a session is a part of.
func counted(u db.Upload) []uploadsOf {
	if u.Owner == "" {
		return []uploadsOf{{repo: u.Repository}}
	}
	return []uploadsOf{{repo: u.Repository}, {owner: u.Owner}}
}

// known is what the table has on a session, or will have.
type known struct {
	db.Upload
	saved bool // there is a row
}

const (
	// maxKnown bounds the memory for sessions: the ones beyond have a row from the beginning, which is read each time.
	maxKnown = 4096
	// settleTime is how long a session that does not move is remembered. Then it has a row, like any other.
	settleTime = time.Minute
)

// begin adds a session that has no row yet, unless check returns an error for how many others without one there are: of the
// repository, and of the user. ok is false if there is no room.
func (s *sessions) begin(u db.Upload, check func(ofRepo, ofOwner int) error) (ok bool, err error) {
	s.Lock()
	defer s.Unlock()
	if err := check(s.empty[uploadsOf{repo: u.Repository}], s.empty[uploadsOf{owner: u.Owner}]); err != nil {
		return false, err
	}
	if len(s.known) >= maxKnown {
		return false, nil
	}
	s.known[u.ID] = known{Upload: u}
	for _, of := range counted(u) {
		s.empty[of]++
	}
	return true, nil
}

// count returns how many sessions without a row there are, apart from one: of a repository, and of its user.
func (s *sessions) count(u db.Upload) (ofRepo, ofOwner int) {
	s.Lock()
	defer s.Unlock()
	ofRepo, ofOwner = s.empty[uploadsOf{repo: u.Repository}], s.empty[uploadsOf{owner: u.Owner}]
	if k, ok := s.known[u.ID]; ok && !k.saved {
		ofRepo, ofOwner = ofRepo-1, ofOwner-1
	}
	return ofRepo, ofOwner
}

func (s *sessions) find(id string) (known, bool) {
	s.Lock()
	defer s.Unlock()
	k, ok := s.known[id]
	return k, ok
}

// saved notes what the row of a session says now.
func (s *sessions) saved(u db.Upload) {
	s.Lock()
	defer s.Unlock()
	s.forgetLocked(u.ID)
	if len(s.known) < maxKnown {
		s.known[u.ID] = known{Upload: u, saved: true}
	}
}

// forget says whether the session was known.
func (s *sessions) forget(id string) bool {
	s.Lock()
	defer s.Unlock()
	return s.forgetLocked(id)
}

func (s *sessions) forgetLocked(id string) bool {
	k, ok := s.known[id]
	if !ok {
		return false
	}
	delete(s.known, id)
	if !k.saved {
		for _, of := range counted(k.Upload) {
			if s.empty[of]--; s.empty[of] == 0 {
				delete(s.empty, of)
			}
		}
	}
	return true
}

// which returns the sessions that match.
func (s *sessions) which(match func(known) bool) (list []known) {
	s.Lock()
	defer s.Unlock()
	for _, k := range s.known {
		if match(k) {
			list = append(list, k)
		}
	}
	return list
}

// lock waits until the session is free. The caller calls release.
func (s *sessions) lock(ctx context.Context, id string) (release func(), err error) {
	timeout := time.NewTimer(sessionWait)
	defer timeout.Stop()
	for {
		release, ok := s.tryLock(id)
		if ok {
			return release, nil
		}
		s.Lock()
		free := s.busy[id]
		s.Unlock()
		if free == nil {
			continue
		}
		select {
		case <-free:
		case <-timeout.C:
			return nil, RangeInvalid.With("another request is writing to this upload")
		case <-ctx.Done():
			return nil, AsError(ctx.Err())
		}
	}
}

func (s *sessions) tryLock(id string) (release func(), ok bool) {
	s.Lock()
	defer s.Unlock()
	if s.busy[id] != nil {
		return nil, false
	}
	free := make(chan struct{})
	s.busy[id] = free
	return func() {
		s.Lock()
		defer s.Unlock()
		delete(s.busy, id)
		close(free)
	}, true
}

// session is an upload that this request works on, alone.
type session struct {
	known
	r       *Registry
	hash    hash.Hash
	release func()
	single  bool             // it is in no list: the blob comes in one request, and nobody can ask for it
	fetched bool             // single, and its row is for the next BlobFetch of the same blob
	written func(size int64) // called when the staged file has more bytes, if not nil
}

func (r *Registry) openSession(ctx context.Context, repo RepoName, id string) (*session, error) {
	release, free := r.sessions.tryLock(id)
	if !free {
		// Ask before waiting: a stranger who guesses ids must not learn which sessions are busy.
		if _, err := r.upload(ctx, repo, id); err != nil {
			return nil, err
		}
		var err error
		if release, err = r.sessions.lock(ctx, id); err != nil {
			return nil, err
		}
	}
	s := &session{r: r, release: release}
	var err error
	if s.known, err = r.upload(ctx, repo, id); err == nil {
		s.hash, err = loadHash(s.Algorithm, s.HashState)
	}
	if err == nil && !s.saved && r.db.Now().Sub(s.UpdatedAt) >= settleTime {
		err = s.save(ctx)
	}
	if err != nil {
		release()
		return nil, AsError(err)
	}
	return s, nil
}

func (s *session) close() { s.release() }

func (s *session) state() Upload { return Upload{ID: s.ID, Offset: s.Size} }

// take writes a chunk to the staged file and saves how far it came. The last one is saved only if it did not come whole:
// else the session ends now, or goes back to what is saved.
func (s *session) take(ctx context.Context, c Chunk, last bool) error {
	if c.Start >= 0 && c.Start != s.Size {
		return RangeInvalid.With(fmt.Sprintf("the upload has %d bytes", s.Size))
	}
	if last && c.Length == 0 && s.Size > 0 {
		return nil
	}
	before := s.Upload
	stage, err := s.r.blobs.Stage(ctx, s.ID, s.Size)
	if errors.Is(err, blobs.ErrNotFound) {
		return &Error{Code: BlobUploadUnknown, Err: err}
	}
	if err != nil {
		return AsError(err)
	}
	err = s.copy(ctx, stage, c)
	if closing := stage.Close(); err == nil && closing != nil {
		err = AsError(closing)
	}
	if errors.Is(err, blobs.ErrLost) {
		s.abandon(context.WithoutCancel(ctx))
		return err
	}
	if errors.Is(err, errLength) {
		s.Upload = before
		err = BlobUploadInvalid.With("the body does not have the announced length")
	} else if state, hashing := saveHash(s.hash); hashing == nil {
		s.HashState = state
	}
	if err == nil && (last || s.Size == before.Size) {
		return nil
	}
	if saving := s.save(context.WithoutCancel(ctx)); err == nil {
		err = saving
	}
	return err
}

// end takes the session out of the table. ErrNotFound if it was cancelled.
func (s *session) end(tx *db.Tx) error {
	if s.fetched && s.saved {
		return tx.DeleteUpload(s.ID)
	}
	if s.saved {
		return tx.EndUpload(s.ID, newUploadID(), leaseRenewal)
	}
	if _, ok := s.r.sessions.find(s.ID); !ok && !s.single {
		return db.ErrNotFound
	}
	return nil
}

// abandon ends a session whose bytes the disk has lost: going on would make a blob of what is left.
func (s *session) abandon(ctx context.Context) {
	err := s.r.blobs.Discard(ctx, s.ID)
	s.r.sessions.forget(s.ID)
	if s.saved {
		err = errors.Join(err, s.r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.DeleteUpload(s.ID) }))
		s.saved = false
	}
	if err != nil {
		s.r.log.Error("an upload whose bytes are lost could not be removed", "upload", s.ID, "err", err)
	}
}

var errLength = errors.New("chunk has another length than announced")

// copy moves the body to the staged file and the hash. On return s.Size counts what both have seen. What is written is
// hashed beside the reading and writing of what follows; a body that ends in the first buffer needs no company for that.
func (s *session) copy(ctx context.Context, stage io.Writer, c Chunk) error {
	buf, other := buffers.Get().(*[PieceSize]byte), (*[PieceSize]byte)(nil)
	var hashing sync.WaitGroup
	defer func() {
		hashing.Wait()
		buffers.Put(buf)
		if other != nil {
			buffers.Put(other)
		}
	}()
	start, saved, savedAt := s.Size, s.Size, time.Now()
	for {
		n, readErr := fill(c.Body, buf[:])
		if c.Length >= 0 && s.Size-start+int64(n) > c.Length {
			return errLength
		}
		if n > 0 {
			if _, err := stage.Write(buf[:n]); err != nil {
				return AsError(err)
			}
			s.Size += int64(n)
			if s.written != nil {
				s.written(s.Size)
			}
			hashing.Wait()
			if full := buf[:n]; readErr != nil {
				s.hash.Write(full)
			} else {
				hashing.Go(func() { s.hash.Write(full) })
				if other == nil {
					other = buffers.Get().(*[PieceSize]byte)
				}
				buf, other = other, buf
			}
		}
		if readErr == io.EOF {
			if c.Length >= 0 && s.Size-start != c.Length {
				return errLength
			}
			return nil
		}
		if readErr != nil {
			return &Error{Code: BlobUploadInvalid, Detail: "the body broke off", Err: readErr}
		}
		if !s.saved && !s.single || s.Size-saved >= saveBytes || time.Since(savedAt) >= saveTime {
			saved, savedAt = s.Size, time.Now()
			hashing.Wait()
			if err := s.checkpoint(ctx); err != nil {
				return err
			}
		}
	}
}

// fill reads until the buffer is full or the body ends: the network hands out small pieces, the disk wants large ones.
func fill(body io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = body.Read(buf[n:])
		n += m
	}
	return n, err
}

func (s *session) checkpoint(ctx context.Context) (err error) {
	if s.HashState, err = saveHash(s.hash); err != nil {
		return AsError(err)
	}
	return s.save(ctx)
}

// save writes the session's row. If the session has been cancelled, its bytes go and the error is BlobUploadUnknown.
func (s *session) save(ctx context.Context) error {
	if s.fetched {
		return s.saveFetched(ctx)
	}
	if s.single {
		return nil
	}
	err := s.r.db.Relaxed(ctx, func(tx *db.Tx) error {
		s.UpdatedAt = tx.Now
		if s.saved {
			return tx.SaveUpload(s.Upload)
		}
		return s.r.firstSave(tx, s.Upload)
	})
	if errors.Is(err, db.ErrNotFound) {
		s.r.sessions.forget(s.ID)
		s.r.blobs.Discard(ctx, s.ID)
	}
	if err != nil {
		return Unknown(err, BlobUploadUnknown, nil)
	}
	s.saved = true
	s.r.sessions.saved(s.Upload)
	return nil
}

// firstSave gives a session its row. ErrNotFound if it was cancelled: whoever cancels forgets it first, and then looks for
// a row.
func (r *Registry) firstSave(tx *db.Tx, u db.Upload) error {
	if _, ok := r.sessions.find(u.ID); !ok {
		return db.ErrNotFound
	}
	return r.createUpload(tx, u)
}

func (r *Registry) createUpload(tx *db.Tx, u db.Upload) error {
	if err := r.refuseUpload(tx, u); err != nil {
		return err
	}
	return tx.CreateUpload(u)
}

// refuseUpload returns TooManyRequests if the repository, or the user, has as many sessions as there may be.
func (r *Registry) refuseUpload(tx *db.Tx, u db.Upload) error {
	ofRepo, ofOwner, err := tx.CountUploads(u.Repository, u.Owner)
	if err != nil {
		return err
	}
	repo, owner := r.sessions.count(u)
	return r.tooMany(u, ofRepo+repo, ofOwner+owner)
}

func (r *Registry) tooMany(u db.Upload, ofRepo, ofOwner int) error {
	if ofRepo >= r.maxUploads {
		return TooManyRequests.With(fmt.Sprintf("the repository has %d unfinished uploads", ofRepo))
	}
	if ofOwner >= r.maxUploads && u.Owner != "" {
		return TooManyRequests.With(fmt.Sprintf("%s has %d unfinished uploads", u.Owner, ofOwner))
	}
	return nil
}

// SettleUploads writes every upload session down, so that another process can go on with it after this one. Nobody works on
// one any more when it is called.
func (r *Registry) SettleUploads(ctx context.Context) {
	r.settleUploads(ctx, func(known) bool { return true })
}

// settleIdle does so with the sessions that have not moved for a while.
func (r *Registry) settleIdle(ctx context.Context) {
	before := r.db.Now().Add(-settleTime)
	r.settleUploads(ctx, func(k known) bool { return k.UpdatedAt.Before(before) })
}

// settleUploads writes sessions down, and forgets all that it has seen: they have a row now. One that cannot be written
// has no bytes to lose.
func (r *Registry) settleUploads(ctx context.Context, idle func(known) bool) {
	for _, k := range r.sessions.which(idle) {
		release, free := r.sessions.tryLock(k.ID)
		if !free {
			continue
		}
		if k, ok := r.sessions.find(k.ID); ok && idle(k) {
			if !k.saved {
				err := r.db.Relaxed(ctx, func(tx *db.Tx) error { return r.firstSave(tx, k.Upload) })
				if err != nil && !errors.Is(err, db.ErrNotFound) {
					r.log.Warn("an upload without bytes is forgotten", "upload", k.ID, "err", err)
				}
			}
			r.sessions.forget(k.ID)
		}
		release()
	}
}

func saveHash(h hash.Hash) ([]byte, error) {
	m, ok := h.(encoding.BinaryMarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of %T cannot be saved", h)
	}
	return m.MarshalBinary()
}

func loadHash(alg digest.Algorithm, state []byte) (hash.Hash, error) {
	if !alg.Available() {
		return nil, fmt.Errorf("no hash %q", alg)
	}
	h := alg.Hash()
	m, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of %T cannot be loaded", h)
	}
	return h, m.UnmarshalBinary(state)
}

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
	// copyBuffer is what is read, written and hashed at a time.
	copyBuffer = 256 << 10
	// A long chunk saves how far it has come every saveBytes and every saveTime, so that a killed server costs the
	// client no more than that, and a slow upload does not expire.
	saveBytes = 16 << 20
	saveTime  = time.Minute
	// sessionWait is how long a chunk waits for another one of the same session. Two at once happen when a client has
	// given up on a connection and the server has not noticed yet.
	sessionWait = 10 * time.Second
)

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// sessions lets one chunk at a time work on a session.
type sessions struct {
	sync.Mutex
	busy map[string]chan struct{} // closed when the session is free again
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
	db.Upload
	r       *Registry
	hash    hash.Hash
	release func()
	unsaved bool // it has no row
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
	u, err := r.upload(ctx, repo, id)
	if err != nil {
		release()
		return nil, err
	}
	h, err := loadHash(u.Algorithm, u.HashState)
	if err != nil {
		release()
		return nil, AsError(err)
	}
	return &session{Upload: u, r: r, hash: h, release: release}, nil
}

func (s *session) close() { s.release() }

func (s *session) state() Upload { return Upload{ID: s.ID, Offset: s.Size} }

// take writes a chunk to the staged file and saves how far it came. The last one is saved only if it did not come whole:
// else the session ends now, or goes back to what is saved.
func (s *session) take(ctx context.Context, c Chunk, last bool) error {
	if c.Start >= 0 && c.Start != s.Size {
		return RangeInvalid.With(fmt.Sprintf("the upload has %d bytes", s.Size))
	}
	before := s.Upload
	// An empty chunk opens the file too: what a killed server or a refused chunk left beyond s.Size has to go before the
	// file becomes a blob.
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

// abandon ends a session whose bytes the disk has lost: going on would make a blob of what is left.
func (s *session) abandon(ctx context.Context) {
	err := s.r.blobs.Discard(ctx, s.ID)
	if !s.unsaved {
		err = errors.Join(err, s.r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.DeleteUpload(s.ID) }))
	}
	if err != nil {
		s.r.log.Error("an upload whose bytes are lost could not be removed", "upload", s.ID, "err", err)
	}
}

var errLength = errors.New("chunk has another length than announced")

// copy moves the body to the staged file and the hash. On return s.Size counts what both have seen.
func (s *session) copy(ctx context.Context, stage io.Writer, c Chunk) error {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
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
			s.hash.Write(buf[:n])
			s.Size += int64(n)
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
		if s.Size-saved >= saveBytes || time.Since(savedAt) >= saveTime {
			saved, savedAt = s.Size, time.Now()
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
	if s.unsaved {
		return nil
	}
	err := s.r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.SaveUpload(s.Upload) })
	if errors.Is(err, db.ErrNotFound) {
		s.r.blobs.Discard(ctx, s.ID)
	}
	return unknown(err, BlobUploadUnknown, nil)
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

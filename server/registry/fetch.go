package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

// heldBack is how many of the last bytes of a fetch nobody gets before all of them are known to be right: who reads a
// blob whose bytes are wrong gets no complete one.
const heldBack = 64 << 10

// BlobFetch is a blob of known size that comes from elsewhere, and that others read while it does. One goroutine calls Take
// and then Finish, or Drop and Fail; Readers may be opened by any.
type BlobFetch struct {
	Repository RepoName
	Digest     digest.Digest
	Size       int64 // bytes; whoever makes a BlobFetch without knowing it says it before others see it

	session *session

	mu      sync.Mutex
	staged  int64
	grown   chan struct{} // closed, and another put in its place, when something changes
	ended   bool
	failure error
}

// NewBlobFetch begins one, of a size that may be -1 for not known yet. It goes on where an earlier one was dropped, or was
// when its process ended: Staged says from where. Nothing is stored before Take.
func (r *Registry) NewBlobFetch(ctx context.Context, repo RepoName, d digest.Digest, size int64) *BlobFetch {
	f := &BlobFetch{Repository: repo, Digest: d, Size: size, grown: make(chan struct{})}
	f.session = &session{r: r, hash: d.Algorithm().Hash(), single: true, fetched: true, written: f.grow}
	f.session.Upload = db.Upload{ID: newUploadID(), Repository: repo, Algorithm: d.Algorithm(), Owner: fetcher(d)}
	if u, state, ok := r.dropped(ctx, repo, d, size); ok {
		f.session.Upload, f.session.hash, f.staged = u, state, u.Size
	}
	now := r.db.Now()
	f.session.BootID, f.session.CreatedAt, f.session.UpdatedAt = r.bootID, now, now
	return f
}

// fetcher is the owner of the session of a blob that is fetched. No user has such a name.
func fetcher(d digest.Digest) string { return "fetch:" + string(d) }

// dropped takes over what an earlier fetch has brought, from any process that might: who removes the row has the bytes.
func (r *Registry) dropped(ctx context.Context, repo RepoName, d digest.Digest, size int64) (u db.Upload, state hash.Hash, ok bool) {
	err := r.db.View(ctx, func(tx *db.Tx) (err error) { u, err = tx.UploadBy(repo, fetcher(d)); return err })
	if err == nil {
		err = r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.DeleteUpload(u.ID) })
	}
	if errors.Is(err, db.ErrNotFound) {
		return u, nil, false
	}
	if err != nil {
		r.log.Warn("a fetch begins anew: what it has brought before cannot be taken over", "repository", repo, "digest", d, "err", err)
		return u, nil, false
	}
	// The hash vouches for no bytes that a power cut may have taken.
	if u.BootID == r.bootID && u.Algorithm == d.Algorithm() && (size < 0 || u.Size <= size) {
		if state, err = loadHash(u.Algorithm, u.HashState); err == nil && r.hasStaged(ctx, u) {
			return u, state, true
		}
	}
	if err := r.blobs.Discard(ctx, u.ID); err != nil {
		r.log.Warn("staged bytes stay until they expire", "upload", u.ID, "err", err)
	}
	return u, nil, false
}

func (r *Registry) hasStaged(ctx context.Context, u db.Upload) bool {
	stage, err := r.blobs.Stage(ctx, u.ID, u.Size)
	return err == nil && stage.Close() == nil
}

// saveFetched writes down how far a fetched blob has come. That is for later: without it the fetch goes on all the same.
func (s *session) saveFetched(ctx context.Context) error {
	if s.Size == 0 {
		return nil
	}
	err := s.r.db.Relaxed(ctx, func(tx *db.Tx) error {
		s.UpdatedAt = tx.Now
		if s.saved {
			return tx.SaveUpload(s.Upload)
		}
		return tx.CreateUpload(s.Upload)
	})
	switch {
	case err == nil:
		s.saved = true
	case errors.Is(err, db.ErrNotFound): // it has expired, with its bytes
		s.saved = false
		return Unknown(err, BlobUploadUnknown, nil)
	default:
		s.r.log.Warn("how far a fetch has come could not be written down", "repository", s.Repository, "err", err)
	}
	return nil
}

// Staged returns how many bytes have come.
func (f *BlobFetch) Staged() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.staged
}

func (f *BlobFetch) grow(staged int64) { f.change(func() { f.staged = staged }) }

func (f *BlobFetch) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.grown)
	f.grown = make(chan struct{})
}

// Take adds what body has. It is called again with the rest if body ended too early or broke off, which is BlobUploadInvalid,
// and not after any other error. UpstreamFailed for a body that is too long.
func (f *BlobFetch) Take(ctx context.Context, body io.Reader) error {
	rest := f.Size - f.session.Size
	err := f.session.take(ctx, Chunk{Body: io.LimitReader(body, rest+1), Start: -1, Length: -1}, true)
	if f.session.Size > f.Size {
		return UpstreamFailed.With(fmt.Sprintf("the blob has more than %d bytes there", f.Size))
	}
	if err == nil && f.session.Size < f.Size {
		err = f.session.save(context.WithoutCancel(ctx))
	}
	return err
}

// Finish makes the bytes a blob of the repository, durably. UpstreamFailed if they are not the blob; then and after any other
// error the caller calls Drop and Fail.
func (f *BlobFetch) Finish(ctx context.Context) error {
	var err error
	switch s := f.session; {
	case s.Size != f.Size:
		err = UpstreamFailed.With(fmt.Sprintf("the blob has %d bytes there, not %d", s.Size, f.Size))
	case digest.NewDigest(s.Algorithm, s.hash) != f.Digest:
		err = UpstreamFailed.With("the blob does not have its digest there")
	default:
		err = s.r.publish(ctx, s, f.Digest)
	}
	if err == nil {
		f.change(func() { f.ended = true })
	}
	return err
}

// Drop gives up the bytes that have come, or keeps them for the next fetch of the same blob, which may be made when it
// returns. They are kept until they expire as those of an upload do.
func (f *BlobFetch) Drop(ctx context.Context, keep bool) {
	ctx = context.WithoutCancel(ctx)
	s := f.session
	if keep && s.Size > 0 {
		state, err := saveHash(s.hash)
		if s.HashState = state; err == nil && s.save(ctx) == nil && s.saved {
			return
		}
	}
	s.abandon(ctx)
}

// Fail ends the fetch: who reads it gets err.
func (f *BlobFetch) Fail(err error) {
	f.change(func() { f.ended, f.failure = true, err })
}

// status returns how many bytes may be read, and what to wait for if they are not all.
func (f *BlobFetch) status() (readable int64, ended bool, grown chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return f.Size, true, nil, f.failure
	}
	return max(0, min(f.staged, f.Size-heldBack)), false, f.grown, nil
}

// Wait returns when the fetch has ended, or n bytes may be read.
func (f *BlobFetch) Wait(ctx context.Context, n int64) error {
	for {
		readable, ended, grown, err := f.status()
		if ended || readable >= n {
			return err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Follow opens a fetch to read. It waits for the first bytes, and fails as the fetch does if none come. ok is false if
// it has ended, or its store cannot be read so early and it has ended meanwhile: the registry has the blob then. Reads end
// when ctx does. The caller closes the reader, and asks Err after reading it.
func (f *BlobFetch) Follow(ctx context.Context) (reader *FetchReader, ok bool, err error) {
	store, can := f.session.r.blobs.(blobs.StagedReader)
	first := int64(1)
	if !can {
		first = f.Size + 1
	}
	if err := f.Wait(ctx, first); err != nil {
		return nil, false, err
	}
	if _, ended, _, err := f.status(); ended {
		return nil, false, err
	}
	file, err := store.OpenStaged(ctx, f.session.ID)
	if errors.Is(err, blobs.ErrNotFound) { // it ended at this moment
		return nil, false, f.Wait(ctx, f.Size+1)
	}
	if err != nil {
		return nil, false, AsError(err)
	}
	return &FetchReader{ctx: ctx, fetch: f, file: file}, true, nil
}

// FetchReader reads a fetch from its beginning or anywhere else, waiting for what has not come yet.
type FetchReader struct {
	ctx    context.Context // of the request that reads, which io.Reader has no place for
	fetch  *BlobFetch
	file   blobs.StagedFile
	offset int64
	err    error
}

// Read implements io.Reader.
func (r *FetchReader) Read(p []byte) (int, error) {
	size := r.fetch.Size
	if r.offset >= size {
		return 0, io.EOF
	}
	if r.err = r.fetch.Wait(r.ctx, r.offset+1); r.err != nil {
		return 0, r.err
	}
	readable, _, _, err := r.fetch.status()
	if r.err = err; err != nil {
		return 0, err
	}
	n, err := r.file.ReadAt(p[:min(int64(len(p)), readable-r.offset)], r.offset)
	r.offset += int64(n)
	if n > 0 {
		return n, nil
	}
	r.err = fmt.Errorf("staged bytes cannot be read: %w", errors.Join(err, io.ErrUnexpectedEOF))
	return 0, r.err
}

// Seek implements io.Seeker.
func (r *FetchReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.fetch.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	r.offset = offset
	return offset, nil
}

// Close ends the reading. The fetch goes on.
func (r *FetchReader) Close() error { return r.file.Close() }

// Err returns why a read failed, nil if none has.
func (r *FetchReader) Err() error { return r.err }

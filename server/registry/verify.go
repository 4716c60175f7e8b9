package registry

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

// No answer that completes with success carries bytes that do not have the digest. Hashing every blob at every pull
// would cost a core for each gigabyte a second, so the row remembers what the file looked like when its bytes were last
// known to be right: size, time of writing and identity (blobs.Info.Stamp). As long as the file looks the same it is
// served as it is, by the kernel. A file that looks different is read: small ones before they are served, large ones
// while they are, with the last bytes held back until the digest is known, or soon after they were asked for (reread.go).
//
// That catches whatever somebody or something does to the file: truncation, another file in its place, a restore from
// the wrong backup, an editor, a loss after a crash. It does not catch a disk that returns other bits than were written
// and says nothing: Check with ReadData does, from time to time.
//
// A blob that is found damaged is marked, and does not exist for clients until it is pushed again.

// smallBlob is the size up to which a suspicious file is read before the answer begins.
const smallBlob = 8 << 20

// ErrDamaged is what serving a damaged blob ends with.
var ErrDamaged = errors.New("stored bytes do not have the digest")

// locate finds the bytes of a blob that the repository has. reach opens or looks at the file.
func (r *Registry) locate(ctx context.Context, repo RepoName, d digest.Digest, reach func(blobs.Name) (blobs.Info, error)) (b db.Blob, info blobs.Info, err error) {
	var last string
	for {
		b, err = db.Cached(ctx, r.db, db.Key{What: "blob", Repository: repo, Item: d.String()}, func(tx *db.Tx) (db.Blob, error) {
			return tx.Blob(repo, d)
		})
		if err == nil && b.Damaged {
			err = db.ErrNotFound
		}
		if err != nil {
			return b, info, Unknown(err, BlobUnknown, d.String())
		}
		name := blobs.Name{Digest: d, Generation: b.Generation}
		info, err = reach(name)
		if err == nil {
			return b, info, nil
		}
		if !errors.Is(err, blobs.ErrNotFound) {
			return b, info, AsError(err)
		}
		// A push of the same content may have replaced the file between the two steps: then the row names another one.
		if b.Generation == last {
			return b, info, r.quarantine(ctx, name, errMissing)
		}
		last = b.Generation
	}
}

var errMissing = errors.New("the file is missing")

// quarantine marks a blob damaged. It returns the error for the client, who is told that there is no such blob and may
// push it.
func (r *Registry) quarantine(ctx context.Context, name blobs.Name, why error) error {
	ctx = context.WithoutCancel(ctx)
	if errors.Is(why, errMissing) {
		// The whole directory may be gone for the moment, with its disk. That is no blob's damage.
		if err := r.blobs.Check(ctx); err != nil {
			return AsError(fmt.Errorf("%s: %w; and the store is not usable: %w", name.Digest, why, err))
		}
	}
	err := r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.MarkDamaged(name.Digest, name.Generation) })
	if err != nil && !errors.Is(err, db.ErrNotFound) && !errors.Is(err, db.ErrReadOnly) { // a push may have healed it meanwhile
		return AsError(errors.Join(why, err))
	}
	r.log.Error("damaged blob: clients are told it is not there until it is pushed again", "digest", name.Digest, "generation", name.Generation, "err", why)
	return &Error{Code: BlobUnknown, Detail: name.Digest.String(), Err: why}
}

// verifyBeforeUse is quick if the file looks as it did when its bytes were known to be right. If it does not, they are read. An
// error is the one for the client.
func (r *Registry) verifyBeforeUse(ctx context.Context, d digest.Digest, b db.Blob, info blobs.Info) error {
	if info.Stamp == b.Stamp {
		return nil
	}
	name := blobs.Name{Digest: d, Generation: b.Generation}
	if info.Size != b.Size {
		return r.quarantine(ctx, name, fmt.Errorf("the file has %d bytes, not %d", info.Size, b.Size))
	}
	return r.readAgain(ctx, name, info)
}

// readAgain reads a file whose bytes are not known to be right, and notes what it finds. seen is what the caller saw of
// it: bytes that came in between are nobody's. Many may ask for the same file; one of them reads it for all.
func (r *Registry) readAgain(ctx context.Context, name blobs.Name, seen blobs.Info) error {
	ctx = context.WithoutCancel(ctx)
	stamp, err, _ := r.reading.Do(name.Digest.String()+name.Generation, func() (any, error) {
		info, err := r.HashFile(ctx, name, seen.Size, nil)
		if errors.Is(err, ErrDamaged) {
			return 0, r.quarantine(ctx, name, err)
		}
		if err == nil {
			r.MarkVerified(ctx, name, info.Stamp)
		}
		return info.Stamp, err
	})
	if err == nil && stamp != seen.Stamp {
		err = fmt.Errorf("%s changes while it is read", name.Digest)
	}
	if err != nil {
		return AsError(err)
	}
	return nil
}

// MarkVerified notes that the bytes are right. If that fails they will be read again: a pull does not fail because the
// database takes no writes.
func (r *Registry) MarkVerified(ctx context.Context, name blobs.Name, stamp int64) {
	err := r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.MarkVerified(name.Digest, name.Generation, stamp) })
	if err != nil && !errors.Is(err, db.ErrNotFound) && !errors.Is(err, db.ErrReadOnly) {
		r.log.Warn("a verified blob could not be noted", "digest", name.Digest, "err", err)
	}
}

// HashFile reads a file and compares: ErrDamaged if it does not have its digest or size, another error if it could not
// be read. wait, if not nil, is called after each piece with its size. info is of before the reading.
func (r *Registry) HashFile(ctx context.Context, name blobs.Name, size int64, wait func(n int) error) (info blobs.Info, err error) {
	return HashStored(ctx, r.blobs, name, size, wait)
}

func HashStored(ctx context.Context, store blobs.Store, name blobs.Name, size int64, wait func(n int) error) (info blobs.Info, err error) {
	f, info, err := store.Open(ctx, name)
	if err != nil {
		return info, err
	}
	defer f.Close()
	if info.Size != size {
		return info, fmt.Errorf("%w: %d bytes are stored, not %d", ErrDamaged, info.Size, size)
	}
	buf := buffers.Get().(*[PieceSize]byte)
	defer buffers.Put(buf)
	h := name.Digest.Algorithm().Hash()
	for {
		n, err := fill(f, buf[:])
		h.Write(buf[:n])
		ended := err == io.EOF
		if ended {
			err = nil
		}
		if err == nil && n > 0 && wait != nil {
			err = wait(n)
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return info, err
		}
		if ended {
			break
		}
	}
	if digest.NewDigest(name.Digest.Algorithm(), h) != name.Digest {
		return info, ErrDamaged
	}
	return info, nil
}

// checkedFile is a large file whose bytes are not known to be right. What reads it from its beginning gets them as they
// come, but the last of them only if all have the digest. What reads it in another way waits until it has been read.
type checkedFile struct {
	blobs.File
	r    *Registry
	ctx  context.Context // of the request
	name blobs.Name
	size int64
	info blobs.Info

	hash     hash.Hash
	position int64 // of the next byte to read
	hashed   int64 // bytes from the beginning
	trusted  bool
	err      error
}

func (f *checkedFile) Seek(offset int64, whence int) (int64, error) {
	n, err := f.File.Seek(offset, whence)
	f.position = n
	return n, err
}

func (f *checkedFile) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	if !f.trusted && f.position != f.hashed {
		if f.err = f.r.readAgain(f.ctx, f.name, f.info); f.err != nil {
			return 0, f.err
		}
		f.trusted = true
	}
	n, err := f.File.Read(p)
	f.position += int64(n)
	if f.trusted {
		return n, err
	}
	f.hash.Write(p[:n])
	f.hashed += int64(n)
	switch {
	case f.hashed == f.size && digest.NewDigest(f.name.Digest.Algorithm(), f.hash) == f.name.Digest:
		f.trusted = true
		f.r.MarkVerified(f.ctx, f.name, f.info.Stamp)
	case f.hashed >= f.size || err == io.EOF:
		f.err = f.r.quarantine(f.ctx, f.name, ErrDamaged)
		return 0, f.err
	}
	return n, err
}

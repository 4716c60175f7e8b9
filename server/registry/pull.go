package registry

import (
	"context"
	"errors"
	"time"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
)

// leaseRenewal is the age at which a HEAD begins a blob's lease anew. It is half the shortest grace a collection can
// have, so a lease never runs out on a client that was told the blob is here and is still pushing what needs it.
const leaseRenewal = 30 * time.Minute

// Manifest is a manifest as its repository has it.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Size      int64
	Content   []byte // as pushed, not to be changed; nil from StatManifest
}

// Manifest returns what ref names ("Pulling manifests", end-3). ManifestUnknown.
func (r *Registry) Manifest(ctx context.Context, repo RepoName, ref Reference) (Manifest, error) {
	m, err := r.findManifest(ctx, "manifest", repo, ref, (*db.Tx).Manifest, (*db.Tx).TaggedManifest)
	return manifestOf(m), Unknown(err, ManifestUnknown, ref.String())
}

// StatManifest is Manifest without the content. Clients skip pushing a child of an index that it finds by digest, so that
// is a promise: its lease is renewed when it is getting old.
func (r *Registry) StatManifest(ctx context.Context, repo RepoName, ref Reference) (Manifest, error) {
	m, err := r.findManifest(ctx, "manifest without content", repo, ref, (*db.Tx).StatManifest, (*db.Tx).StatTaggedManifest)
	if err == nil && ref.Digest != "" && !r.db.ReadOnly() && db.Age(m.LeasedAt, r.db.Now()) > leaseRenewal {
		err = r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.LeaseManifest(m) })
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			r.log.Warn("a lease could not be renewed", "digest", m.Digest, "err", err) // reads go on when the disk is full
			err = nil
		}
	}
	return manifestOf(m), Unknown(err, ManifestUnknown, ref.String())
}

func manifestOf(m db.Manifest) Manifest {
	return Manifest{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, Content: m.Content}
}

// lookups of a manifest, by digest and by tag.
type (
	byDigest func(*db.Tx, RepoName, digest.Digest) (db.Manifest, error)
	byTag    func(*db.Tx, RepoName, Tag) (db.Manifest, error)
)

func (r *Registry) findManifest(ctx context.Context, what string, repo RepoName, ref Reference, d byDigest, t byTag) (db.Manifest, error) {
	return db.Cached(ctx, r.db, db.Key{What: what, Repository: repo, Item: ref.String()}, func(tx *db.Tx) (db.Manifest, error) {
		return named(tx, repo, ref, d, t)
	})
}

// named looks a manifest up by what ref has.
func named(tx *db.Tx, repo RepoName, ref Reference, d byDigest, t byTag) (db.Manifest, error) {
	if ref.Digest != "" {
		return d(tx, repo, ref.Digest)
	}
	return t(tx, repo, ref.Tag)
}

// Blob is an open blob.
type Blob struct {
	Digest digest.Digest
	Size   int64 // bytes
	blobs.File
}

// Err returns why the bytes that were read are not the blob, nil if they are: whoever has passed some of them on must
// not let it look complete.
func (b *Blob) Err() error {
	if f, ok := b.File.(*checkedFile); ok {
		return f.err
	}
	return nil
}

// Blob opens a blob of the repository ("Pulling blobs", end-2). BlobUnknown if the repository does not have it, or only
// damaged. The caller closes it, and asks Err after reading it.
func (r *Registry) Blob(ctx context.Context, repo RepoName, d digest.Digest) (*Blob, error) {
	var f blobs.File
	b, info, err := r.locate(ctx, repo, d, func(name blobs.Name) (info blobs.Info, err error) {
		f, info, err = r.blobs.Open(ctx, name)
		return info, err
	})
	if err != nil {
		return nil, err
	}
	if info.Stamp != b.Stamp && info.Size == b.Size && b.Size > smallBlob {
		name := blobs.Name{Digest: d, Generation: b.Generation}
		f = &checkedFile{File: f, r: r, ctx: ctx, name: name, size: b.Size, info: info, hash: d.Algorithm().Hash()}
	} else if err := r.verifyBeforeUse(ctx, d, b, info); err != nil {
		f.Close()
		return nil, err
	}
	return &Blob{Digest: d, Size: b.Size, File: f}, nil
}

// StatBlob returns the size of a blob of the repository. Clients skip uploading what it finds, so it is a promise: its
// lease is renewed when it is getting old, also if a manifest holds it, which may itself be about to be collected; and a
// damaged blob is not found.
func (r *Registry) StatBlob(ctx context.Context, repo RepoName, d digest.Digest) (size int64, err error) {
	b, info, err := r.locate(ctx, repo, d, func(name blobs.Name) (blobs.Info, error) { return r.blobs.Stat(ctx, name) })
	if err != nil {
		return 0, err
	}
	if err := r.verifyOrQueue(ctx, d, b, info); err != nil {
		return 0, err
	}
	if db.Age(b.LeasedAt, r.db.Now()) <= leaseRenewal || r.db.ReadOnly() { // where nothing can be collected
		return b.Size, nil
	}
	err = r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.LeaseBlob(b) })
	if err != nil && !errors.Is(err, db.ErrNotFound) && r.isHeld(ctx, b) {
		r.log.Warn("a lease could not be renewed", "digest", d, "err", err) // reads go on when the disk is full
		err = nil
	}
	return b.Size, Unknown(err, BlobUnknown, d.String())
}

// isHeld says whether a manifest of the repository needs the blob.
func (r *Registry) isHeld(ctx context.Context, b db.Blob) (held bool) {
	err := r.db.View(ctx, func(tx *db.Tx) (err error) { held, err = tx.BlobIsHeld(b); return err })
	return err == nil && held
}

// verifyOrQueue is trust for those who only want to know that the blob is there. Where reading it would keep them waiting, its
// size has to do, and it is queued to be read: a large file, or one of which it is not known what it looked like, as after
// a rebuild.
func (r *Registry) verifyOrQueue(ctx context.Context, d digest.Digest, b db.Blob, info blobs.Info) error {
	if info.Stamp != b.Stamp && info.Size == b.Size && (b.Size > smallBlob || b.Stamp == 0) {
		r.unread.add(blobs.Name{Digest: d, Generation: b.Generation})
		return nil
	}
	return r.verifyBeforeUse(ctx, d, b, info)
}

// MountBlob gives the repository a blob that another one has ("Mounting a blob from another repository", end-11), or any
// other if from is empty. mounted is false if there is none: the client uploads it then.
func (r *Registry) MountBlob(ctx context.Context, repo RepoName, d digest.Digest, from RepoName) (mounted bool, err error) {
	var b db.Blob
	err = r.db.Update(ctx, func(tx *db.Tx) error {
		b, err = source(tx, d, from)
		if err != nil {
			return err
		}
		repositoryID, err := tx.MakeRepository(repo, r.public)
		if err != nil {
			return err
		}
		return tx.LinkBlob(repositoryID, b.ID, d)
	})
	if err == nil {
		err = r.statVerified(ctx, d, b)
	}
	if errors.Is(err, db.ErrNotFound) || BlobUnknown.Is(err) {
		return false, nil
	}
	if err != nil {
		return false, AsError(err)
	}
	return true, nil
}

// FindBlob returns a repository that has a blob, of those that may be read. BlobUnknown.
func (r *Registry) FindBlob(ctx context.Context, d digest.Digest, mayRead func(repo RepoName, public bool) (bool, error)) (found RepoName, err error) {
	const batch = 1000
	list := make([]db.BlobVisibility, batch)
	for after := int64(0); len(list) == batch; {
		if err := r.db.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.BlobVisibilities(d, after, batch); return err }); err != nil {
			return "", AsError(err)
		}
		for _, h := range list { // between transactions: it takes time, and there are few readers
			if err := ctx.Err(); err != nil {
				return "", AsError(err)
			}
			may, err := mayRead(h.Repository, r.isPublic(h.Repository, h.Public))
			if err != nil {
				return "", err
			}
			if may {
				return h.Repository, nil
			}
			after = h.ID
		}
	}
	return "", BlobUnknown.With(d.String())
}

// statVerified looks at the bytes before they are promised. BlobUnknown if they are missing or damaged, and also if a push
// replaces the file at this moment: in both cases the client brings them.
func (r *Registry) statVerified(ctx context.Context, d digest.Digest, b db.Blob) error {
	info, err := r.blobs.Stat(ctx, blobs.Name{Digest: d, Generation: b.Generation})
	if errors.Is(err, blobs.ErrNotFound) {
		return BlobUnknown.With(d.String())
	}
	if err != nil {
		return err
	}
	return r.verifyOrQueue(ctx, d, b, info)
}

// source returns a blob that can be mounted. ErrNotFound.
func source(tx *db.Tx, d digest.Digest, from RepoName) (b db.Blob, err error) {
	if from == "" {
		return tx.BlobSomewhere(d)
	}
	b, err = tx.Blob(from, d)
	if err == nil && b.Damaged {
		err = db.ErrNotFound
	}
	return b, err
}

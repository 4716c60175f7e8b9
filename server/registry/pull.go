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
	Content   []byte // as pushed; nil from StatManifest
}

// Manifest returns what ref names ("Pulling manifests", end-3). ManifestUnknown.
func (r *Registry) Manifest(ctx context.Context, repo RepoName, ref Reference) (Manifest, error) {
	return r.manifest(ctx, repo, ref, (*db.Tx).Manifest, (*db.Tx).TaggedManifest)
}

// StatManifest is Manifest without the content.
func (r *Registry) StatManifest(ctx context.Context, repo RepoName, ref Reference) (Manifest, error) {
	return r.manifest(ctx, repo, ref, (*db.Tx).StatManifest, (*db.Tx).StatTaggedManifest)
}

func (r *Registry) manifest(ctx context.Context, repo RepoName, ref Reference,
	byDigest func(*db.Tx, RepoName, digest.Digest) (db.Manifest, error), byTag func(*db.Tx, RepoName, Tag) (db.Manifest, error),
) (Manifest, error) {
	var m db.Manifest
	err := r.db.View(ctx, func(tx *db.Tx) (err error) {
		if ref.Digest != "" {
			m, err = byDigest(tx, repo, ref.Digest)
		} else {
			m, err = byTag(tx, repo, ref.Tag)
		}
		return err
	})
	if err != nil {
		return Manifest{}, unknown(err, ManifestUnknown, ref.String())
	}
	return Manifest{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size, Content: m.Content}, nil
}

// Blob is an open blob.
type Blob struct {
	Digest digest.Digest
	Size   int64 // bytes
	blobs.File
}

// Blob opens a blob of the repository ("Pulling blobs", end-2). BlobUnknown if the repository does not have it. The
// caller closes it.
func (r *Registry) Blob(ctx context.Context, repo RepoName, d digest.Digest) (*Blob, error) {
	var last string
	for {
		b, err := r.blob(ctx, repo, d)
		if err != nil {
			return nil, err
		}
		f, err := r.blobs.Open(ctx, blobs.Name{Digest: d, Generation: b.Generation})
		if err == nil {
			return &Blob{Digest: d, Size: b.Size, File: f}, nil
		}
		// A push of the same content may have replaced the file between the two steps: then the row names another one.
		if !errors.Is(err, blobs.ErrNotFound) || b.Generation == last {
			return nil, AsError(err)
		}
		last = b.Generation
	}
}

func (r *Registry) blob(ctx context.Context, repo RepoName, d digest.Digest) (b db.Blob, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		b, err = tx.Blob(repo, d)
		return err
	})
	return b, unknown(err, BlobUnknown, d.String())
}

// StatBlob returns the size of a blob of the repository. Clients skip uploading what it finds, so it is a promise: if no
// manifest holds the blob, its lease is renewed when it is getting old.
func (r *Registry) StatBlob(ctx context.Context, repo RepoName, d digest.Digest) (size int64, err error) {
	var b db.Blob
	var renew bool
	err = r.db.View(ctx, func(tx *db.Tx) error {
		if b, err = tx.Blob(repo, d); err != nil {
			return err
		}
		if tx.Now.Sub(b.LeasedAt) > leaseRenewal {
			held, err := tx.BlobIsHeld(b)
			renew = !held
			return err
		}
		return nil
	})
	if err == nil && renew {
		err = r.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.LeaseBlob(b) })
	}
	return b.Size, unknown(err, BlobUnknown, d.String())
}

// MountBlob gives the repository a blob that another one has ("Mounting a blob from another repository", end-11), or any
// other if from is empty. mounted is false if there is none: the client uploads it then.
func (r *Registry) MountBlob(ctx context.Context, repo RepoName, d digest.Digest, from RepoName) (mounted bool, err error) {
	err = r.db.Update(ctx, func(tx *db.Tx) error {
		id, err := mountable(tx, d, from)
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		repositoryID, err := tx.MakeRepository(repo)
		if err != nil {
			return err
		}
		mounted = true
		return tx.LinkBlob(repositoryID, id, d)
	})
	if err != nil {
		return false, AsError(err)
	}
	return mounted, nil
}

func mountable(tx *db.Tx, d digest.Digest, from RepoName) (id int64, err error) {
	if from == "" {
		return tx.BlobSomewhere(d)
	}
	b, err := tx.Blob(from, d)
	return b.ID, err
}

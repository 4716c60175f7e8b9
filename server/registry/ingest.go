package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"registry/blobs"
	"registry/db"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// What another registry left in files on this machine is taken in two steps, which are those of a push: IngestFile makes the
// bytes durable in the store, Take commits the rows that name them, together with the manifests and tags that need them.

// IngestedBlob is bytes in the store that no row names yet. Unless Take follows within half an hour they are garbage, which
// collection removes.
type IngestedBlob struct {
	Digest digest.Digest
	Size   int64

	generation string
	stamp      int64 // 0: nobody has read the bytes
	at         time.Time
}

// IngestOptions say how a file is taken.
type IngestOptions struct {
	Copy bool // its bytes are copied, and read on the way; otherwise the file gets a second name
	Read bool // its bytes are read, also if they are not copied; otherwise the first pull reads them
}

// IngestFile brings the bytes of a regular file that is open into the store. ErrDamaged if they were read and do not have the
// digest; errors.ErrUnsupported if the file cannot have a second name in the store and has to be copied.
func (r *Registry) IngestFile(ctx context.Context, d digest.Digest, f *os.File, opt IngestOptions) (IngestedBlob, error) {
	info, err := f.Stat()
	if err != nil {
		return IngestedBlob{}, err
	}
	a := IngestedBlob{Digest: d, Size: info.Size(), generation: newUploadID(), at: time.Now().Round(0)}
	name := blobs.Name{Digest: d, Generation: a.generation}
	if opt.Copy {
		a.stamp, err = CopyIn(ctx, f, r.blobs, name, a.Size)
		a.at = time.Now().Round(0)
		return a, err
	}
	adopter, ok := r.blobs.(blobs.Adopter)
	if !ok {
		return a, errors.ErrUnsupported
	}
	if _, err := adopter.Adopt(ctx, f, name); err != nil || !opt.Read {
		return a, err
	}
	stored, err := r.HashFile(ctx, name, a.Size, nil)
	if err != nil {
		return a, errors.Join(err, r.blobs.Remove(context.WithoutCancel(ctx), name))
	}
	a.stamp = stored.Stamp
	return a, nil
}

// Stored returns the size of a blob that the registry has undamaged, whichever repository may read it: whoever brings
// its bytes need not do so again. BlobUnknown.
func (r *Registry) Stored(ctx context.Context, d digest.Digest) (size int64, err error) {
	b, err := r.stored(ctx, d)
	return b.Size, Unknown(err, BlobUnknown, d.String())
}

func (r *Registry) stored(ctx context.Context, d digest.Digest) (b db.StoredBlob, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) (err error) { b, err = tx.StoredBlob(d); return err })
	if err == nil && b.Damaged {
		err = db.ErrNotFound
	}
	return b, err
}

// VerifyBlob reads a blob unless it is known to be right. BlobUnknown if it is damaged, which is noted, or not there.
func (r *Registry) VerifyBlob(ctx context.Context, d digest.Digest) error {
	b, err := r.stored(ctx, d)
	if err != nil {
		return Unknown(err, BlobUnknown, d.String())
	}
	name := blobs.Name{Digest: d, Generation: b.Generation}
	info, err := r.blobs.Stat(ctx, name)
	if errors.Is(err, blobs.ErrNotFound) {
		return r.quarantine(ctx, name, errMissing)
	}
	if err != nil {
		return AsError(err)
	}
	return r.verifyBeforeUse(ctx, d, db.Blob{Size: b.Size, Generation: b.Generation, Stamp: b.Stamp}, info)
}

// IsStoredAs says whether a file is the very file in which the registry keeps a blob, and whether a manifest needs that.
func (r *Registry) IsStoredAs(ctx context.Context, d digest.Digest, file os.FileInfo) (same, needed bool, err error) {
	b, err := r.stored(ctx, d)
	if err != nil {
		return false, false, ignoreNotFound(err)
	}
	f, _, err := r.blobs.Open(ctx, blobs.Name{Digest: d, Generation: b.Generation})
	if errors.Is(err, blobs.ErrNotFound) {
		return false, false, nil
	}
	if err != nil {
		return false, false, AsError(err)
	}
	defer f.Close()
	own, ok := f.(*os.File)
	if !ok {
		return false, false, nil
	}
	info, err := own.Stat()
	if err != nil || !os.SameFile(info, file) {
		return false, false, err
	}
	err = r.db.View(ctx, func(tx *db.Tx) (err error) { needed, err = tx.BlobIsNeeded(b.ID); return err })
	return true, needed, ignoreNotFound(err)
}

// HasBlob says whether the repository has a blob, undamaged as far as is known. It promises nothing to anybody.
func (r *Registry) HasBlob(ctx context.Context, repo RepoName, d digest.Digest) (has bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		b, err := tx.Blob(repo, d)
		has = err == nil && !b.Damaged
		return err
	})
	return has, ignoreNotFound(err)
}

// HasManifest says whether the repository has a manifest, and whether that is whole: everything it needs is there.
func (r *Registry) HasManifest(ctx context.Context, repo RepoName, d digest.Digest) (has, whole bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		m, err := tx.StatManifest(repo, d)
		if has = err == nil; has {
			whole, err = isWhole(tx, m.ID)
		}
		return err
	})
	return has, whole, ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if err == nil || errors.Is(err, db.ErrNotFound) {
		return nil
	}
	return AsError(err)
}

// Document is a manifest that has been read.
type Document struct {
	Contents
	Digest  digest.Digest
	Content []byte

	doc *document
}

// ReadDocument reads a manifest that comes without a Content-Type. One that does not say itself what it is can only be
// of the OCI's: Docker's formats require their mediaType. ManifestInvalid; DigestInvalid if it does not have the digest.
func ReadDocument(d digest.Digest, content []byte) (*Document, error) {
	if d.Algorithm().FromBytes(content) != d {
		return nil, DigestInvalid.With("the manifest does not have this digest")
	}
	doc, err := parseManifest(MediaTypeOf(content), content)
	if err != nil {
		return nil, err
	}
	return &Document{Contents: doc.contents(), Digest: d, Content: content, doc: doc}, nil
}

// MediaTypeOf returns the media type that a manifest has of its own, or that its members show: an image has a configuration,
// which an index has not. "" if it cannot be read.
func MediaTypeOf(content []byte) string {
	if !json.Valid(content) {
		return ""
	}
	m, err := members(content, "mediaType", "config")
	if err != nil {
		return ""
	}
	own, err := m.text("mediaType")
	if err != nil || own != "" {
		return own
	}
	if _, ok := m["config"]; ok {
		return v1.MediaTypeImageManifest
	}
	return v1.MediaTypeImageIndex
}

// Ingestion is content for one repository.
type Ingestion struct {
	Files     []IngestedBlob  // whose bytes are in the store
	Blobs     []digest.Digest // that the repository has from now on, ingested here or stored before
	Documents []*Document     // children before their index
	Tags      map[Tag]digest.Digest
}

// Ingest commits an ingestion, all or nothing. A tag that the repository has, and that points at something else, stays as it
// is: these are returned. ManifestBlobUnknown if something is missing that must not be, as for PutManifest.
func (r *Registry) Ingest(ctx context.Context, repo RepoName, in Ingestion) (kept []Tag, err error) {
	ctx = context.WithoutCancel(ctx)
	var unused []IngestedBlob
	err = r.db.Update(ctx, func(tx *db.Tx) error {
		kept, unused = nil, nil
		id, err := tx.MakeRepository(repo, r.public)
		if err != nil {
			return err
		}
		t := ingesting{r: r, tx: tx, repo: repo, repositoryID: id}
		if unused, err = t.files(in.Files); err != nil {
			return err
		}
		if err := t.link(in.Blobs); err != nil {
			return err
		}
		if err := t.store(in.Documents); err != nil {
			return err
		}
		if kept, err = t.point(in.Tags); err != nil {
			return err
		}
		return r.audit(tx, "import", repo, fmt.Sprintf("%d blobs, %d manifests, %d tags", len(in.Blobs), len(in.Documents), len(in.Tags)-len(kept)))
	})
	if err != nil {
		return nil, AsError(err)
	}
	for _, a := range unused {
		if err := r.blobs.Remove(ctx, blobs.Name{Digest: a.Digest, Generation: a.generation}); err != nil {
			r.log.Warn("a file stays for the collector", "digest", a.Digest, "generation", a.generation, "err", err)
		}
	}
	return kept, nil
}

// ingesting is one transaction of Take.
type ingesting struct {
	r            *Registry
	tx           *db.Tx
	repo         RepoName
	repositoryID int64
}

// files writes the rows of blobs. It returns the bytes that no row names afterwards: those of a blob that another process
// has brought meanwhile, and the damaged ones that were there before. Bytes that have not been read prove no right to a
// blob that others have brought.
func (t *ingesting) files(list []IngestedBlob) (unused []IngestedBlob, err error) {
	for _, a := range list {
		if time.Now().Round(0).Sub(a.at) > MinOrphanAge/2 {
			return nil, errors.New("too long between bytes and rows: the files may have been collected; run it again")
		}
		b, err := t.tx.StoredBlob(a.Digest)
		if err == nil && !b.Damaged {
			if a.stamp == 0 {
				return nil, fmt.Errorf("another process has stored %s meanwhile: run it again", a.Digest)
			}
			unused = append(unused, a)
			continue
		}
		if err != nil && !errors.Is(err, db.ErrNotFound) {
			return nil, err
		}
		_, old, err := t.tx.PutBlob(db.NewBlob{Digest: a.Digest, Size: a.Size, Generation: a.generation, Stamp: a.stamp})
		if err != nil {
			return nil, err
		}
		if old != "" {
			unused = append(unused, IngestedBlob{Digest: a.Digest, generation: old})
		}
	}
	return unused, nil
}

func (t *ingesting) link(list []digest.Digest) error {
	for _, d := range list {
		b, err := t.tx.StoredBlob(d)
		if err == nil {
			err = t.tx.LinkBlob(t.repositoryID, b.ID, d)
		}
		if err != nil {
			return Unknown(err, BlobUnknown, d.String())
		}
	}
	return nil
}

func (t *ingesting) store(list []*Document) error {
	for _, d := range list {
		m := db.Manifest{RepositoryID: t.repositoryID, Digest: d.Digest, MediaType: d.MediaType, Size: int64(len(d.Content)), Content: d.Content}
		if _, err := storeManifest(t.tx, m, d.doc, t.r.sparse, t.r.warnSize(t.repo, d.Digest)); err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
	}
	return nil
}

var errKept = errors.New("the tag stays")

func (t *ingesting) point(tags map[Tag]digest.Digest) (kept []Tag, err error) {
	for tag, d := range tags {
		if now, err := t.tx.StatTaggedManifest(t.repo, tag); err == nil && now.Digest == d {
			continue // as an earlier run left it
		}
		m, err := t.tx.StatManifest(t.repo, d)
		if err != nil {
			return nil, Unknown(err, ManifestUnknown, d.String())
		}
		err = t.tx.SetTagIf(t.repositoryID, tag, m.ID, func() error { return errKept })
		if errors.Is(err, errKept) {
			kept = append(kept, tag)
		} else if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

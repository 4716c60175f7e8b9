package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// Put is a manifest as a client pushes it.
type Put struct {
	Ref       Reference // the tag or digest it is pushed by
	Tags      []Tag     // more tags it gets, if it is pushed by digest
	MediaType string    // Content-Type without parameters, "" if the client gave none
	Content   []byte
	KeepTags  bool      // a tag that points at something else is not moved, nor is a manifest made one of another type: Denied
	If        Condition // of what Ref names
	// Sparse says what may be missing, if the registry does not let more be.
	Sparse Sparse
	// AnySize takes a manifest although it says another size of something than that has: it comes from a registry that
	// has taken it. A warning is logged.
	AnySize bool
	// MayRead says which repositories the client may read. If one of them has the manifest it is taken here with the same
	// wrong sizes. nil for none.
	MayRead func(repo RepoName, public bool) (bool, error)
}

// PutResult is what was stored.
type PutResult struct {
	Digest  digest.Digest // sha256, or what the manifest was pushed by
	Subject digest.Digest // "" if it has none
}

// PutManifest stores a manifest and points tags at it, all or nothing ("Pushing manifests", end-7a and end-7b). Errors:
// ManifestInvalid; DigestInvalid if the content does not have the digest of Ref; ManifestBlobUnknown, with the missing
// digests as its detail, if the repository lacks what the manifest needs and may not lack it; ConditionFailed.
func (r *Registry) PutManifest(ctx context.Context, repo RepoName, p Put) (PutResult, error) {
	m, err := p.parse()
	if err != nil {
		return PutResult{}, err
	}
	put := func(tx *db.Tx) error { return r.put(tx, repo, m, "push") }
	err = r.db.Update(ctx, put)
	if errors.Is(err, errWrongSize) && p.MayRead != nil {
		found, looking := r.hasOdd(ctx, m.digest, p.MayRead)
		if m.AnySize = found; found {
			err = r.db.Update(ctx, put)
		}
		err = cmp.Or(looking, err)
	}
	if err != nil {
		return PutResult{}, AsError(err)
	}
	return PutResult{Digest: m.digest, Subject: m.doc.subject}, nil
}

// parsedPut is a push that has been understood.
type parsedPut struct {
	Put
	doc    *document
	digest digest.Digest
	tags   []Tag // all that it gets
}

func (p Put) parse() (m parsedPut, err error) {
	m = parsedPut{Put: p, tags: p.Tags}
	if m.doc, err = parseManifest(p.MediaType, p.Content); err != nil {
		return m, err
	}
	alg := digest.SHA256
	if p.Ref.Digest != "" {
		alg = p.Ref.Digest.Algorithm()
	} else {
		m.tags = []Tag{p.Ref.Tag}
	}
	m.digest = alg.FromBytes(p.Content)
	if p.Ref.Digest != "" && m.digest != p.Ref.Digest {
		return m, DigestInvalid.With("the manifest does not have this digest")
	}
	return m, nil
}

// put does within a transaction what PutManifest does; action is what the audit calls it.
func (r *Registry) put(tx *db.Tx, repo RepoName, p parsedPut, action string) error {
	if err := p.If.check(tx, repo, p.Ref); err != nil {
		return err
	}
	repositoryID, err := tx.MakeRepository(repo, r.public)
	if err != nil {
		return err
	}
	m := db.Manifest{RepositoryID: repositoryID, Digest: p.digest, MediaType: p.doc.mediaType, Size: int64(len(p.Content)), Content: p.Content}
	if p.KeepTags {
		if err := keepTags(tx, repo, p.tags, p.digest); err != nil {
			return err
		}
	}
	if err := r.keepMediaType(tx, repo, m, p.KeepTags); err != nil {
		return err
	}
	wrong := refuseSize
	if p.AnySize {
		wrong = r.warnSize(repo, p.digest)
	}
	if m.ID, err = storeManifest(tx, m, p.doc, max(r.sparse, p.Sparse), wrong); err != nil {
		return err
	}
	return r.tagAll(tx, repo, m, p, action)
}

func (r *Registry) tagAll(tx *db.Tx, repo RepoName, m db.Manifest, p parsedPut, action string) error {
	for _, tag := range p.tags {
		if err := r.setTag(tx, repo, tag, m); err != nil {
			return err
		}
	}
	return r.audit(tx, action, repo, pushed(p.tags, p.digest))
}

// errWrongSize is in the error of a manifest that says another size of something than that has.
var errWrongSize = errors.New("a descriptor has a wrong size")

// wrongSize decides on such an error: it returns the error, or nil if the manifest is taken all the same. Clients compare
// what they get with its digest, and registries have such manifests; new ones are mistakes.
type wrongSize func(error) error

func refuseSize(err error) error { return err }

func acceptSize(error) error { return nil }

func (r *Registry) warnSize(repo RepoName, d digest.Digest) wrongSize {
	return func(err error) error {
		r.log.Warn("a manifest says a wrong size, and is taken as it is", "repository", repo, "digest", d, "err", err)
		return nil
	}
}

// hasOdd says whether a repository that may be read has a manifest that was taken with wrong sizes.
func (r *Registry) hasOdd(ctx context.Context, d digest.Digest, mayRead func(RepoName, bool) (bool, error)) (found bool, err error) {
	var list []db.Visibility
	err = r.db.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.OddManifest(d); return err })
	for _, v := range list {
		if err == nil && !found {
			found, err = mayRead(v.Repository, r.isPublic(v.Repository, v.Public))
		}
	}
	return found, err
}

// storeManifest writes a manifest with everything that follows from it: what it holds, what it misses, and its entry
// among the referrers of its subject. wrong decides on wrong sizes; a manifest that was here before keeps its own.
func storeManifest(tx *db.Tx, m db.Manifest, doc *document, sparse Sparse, wrong wrongSize) (id int64, err error) {
	added := false
	if m.ID, added, err = tx.PutManifest(m); err != nil {
		return 0, err
	}
	if !added {
		wrong = acceptSize
	}
	h := holder{tx: tx, m: m, wrong: wrong}
	if err := h.holdBlobs(distinct(doc.blobs), func(b reference) bool { return sparse == SparseAll || b.optional }); err != nil {
		return 0, err
	}
	if err := h.holdChildren(distinct(doc.children), sparse != SparseNone); err != nil {
		return 0, err
	}
	if len(h.missing) > 0 {
		return 0, ManifestBlobUnknown.With(h.missing)
	}
	if err := tx.Hold(m.RepositoryID, m.ID, h.refs); err != nil {
		return 0, err
	}
	if h.odd {
		if err := tx.MarkOdd(m); err != nil {
			return 0, err
		}
	}
	if doc.subject == "" {
		return m.ID, nil
	}
	desc, err := doc.referrer(m.Digest, m.Size)
	if err != nil {
		return 0, err
	}
	return m.ID, tx.PutReferrer(m, doc.subject, db.Referrer{Digest: m.Digest, ArtifactType: shownType(doc.artifactType), Descriptor: string(desc)})
}

// distinct leaves out references that say nothing new: others wait for the transaction that asks for each of them.
func distinct(list []reference) []reference {
	seen, different := make(map[reference]bool, len(list)), make([]reference, 0, len(list))
	for _, ref := range list {
		key := ref
		key.mediaType = "" // of the same bytes
		if !seen[key] {
			seen[key] = true
			different = append(different, ref)
		}
	}
	return different
}

// holder finds what a manifest refers to, and collects what the client has to send first.
type holder struct {
	tx      *db.Tx
	m       db.Manifest
	wrong   wrongSize
	odd     bool // a wrong size was taken
	refs    db.References
	missing []missingReference
}

type missingReference struct {
	Digest digest.Digest `json:"digest"`
}

// maxMissing bounds the detail of an error.
const maxMissing = 20

// holdBlobs finds blobs. What the repository lacks, or has damaged bytes of, may be missing or has to be sent first.
func (h *holder) holdBlobs(list []reference, mayMiss func(reference) bool) error {
	found, err := h.tx.FindBlobs(h.m.RepositoryID, digests(list))
	for i, b := range found {
		if err != nil {
			break
		}
		ref := list[i]
		switch {
		case b.Exists() && !b.Damaged:
			h.refs.Blobs = append(h.refs.Blobs, b)
			err = h.checkSize(ref, b.Size)
		case mayMiss(ref) && b.Exists():
			h.refs.Blobs = append(h.refs.Blobs, b)
		case mayMiss(ref):
			h.refs.Missing = append(h.refs.Missing, ref.digest)
		case len(h.missing) < maxMissing:
			h.missing = append(h.missing, missingReference{ref.digest})
		}
	}
	return err
}

// holdChildren finds manifests, and blobs where there is none.
func (h *holder) holdChildren(list []reference, mayMiss bool) error {
	found, err := h.tx.FindManifests(h.m.RepositoryID, digests(list))
	var others []reference
	for i, c := range found {
		if err != nil {
			break
		}
		if !c.Exists() {
			others = append(others, list[i])
			continue
		}
		h.refs.Children = append(h.refs.Children, c)
		err = h.checkSize(list[i], c.Size)
	}
	if err != nil {
		return err
	}
	return h.holdBlobs(others, func(reference) bool { return mayMiss })
}

func (h *holder) checkSize(ref reference, size int64) error {
	if size == ref.size {
		return nil
	}
	h.odd = true
	detail := fmt.Sprintf("%s has %d bytes, its descriptor says %d", ref.digest, size, ref.size)
	return h.wrong(&Error{Code: ManifestInvalid, Detail: detail, Err: errWrongSize})
}

func digests(list []reference) []digest.Digest {
	all := make([]digest.Digest, len(list))
	for i, ref := range list {
		all[i] = ref.digest
	}
	return all
}

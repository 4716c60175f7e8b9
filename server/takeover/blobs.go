package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Files taken at a time. Links wait for the disk's log, which many of them share; bytes that are read compete for it.
const (
	linkParallel = 32
	readParallel = 4
)

// layers takes the blobs that the repository may read.
func (r *repository) layers(ctx context.Context) error {
	const batchBytes = 4 << 30 // so that the rows follow soon when bytes are read
	var batch []digest.Digest
	var bytes int64
	flush := func() error {
		err := r.takeBlobs(ctx, batch)
		batch, bytes = batch[:0], 0
		return err
	}
	err := r.from.links(layers(string(r.name)), func(l link) error {
		if l.err != nil {
			r.found(Finding{Kind: "link", Digest: l.digest, Detail: l.err.Error()})
			return nil // a manifest that needs the blob brings it
		}
		has, err := r.reg.HasBlob(ctx, r.name, l.digest)
		if err != nil || has {
			return err
		}
		if info, err := r.from.root.Lstat(data(l.digest)); err == nil {
			bytes += info.Size()
		}
		if batch = append(batch, l.digest); len(batch) < maxBatch && bytes < batchBytes {
			return ctx.Err()
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// takeBlobs commits the blobs of a batch that can be taken. The others are findings.
func (r *repository) takeBlobs(ctx context.Context, batch []digest.Digest) error {
	ingestion, why, err := r.adopt(ctx, batch)
	for i, d := range batch {
		if why[i] != "" && r.bad[d] == "" {
			r.bad[d] = why[i]
			r.found(Finding{Kind: "blob", Digest: d, Detail: why[i]})
		}
	}
	if err != nil || len(ingestion.Blobs) == 0 || r.opt.DryRun {
		return err
	}
	_, err = r.reg.Ingest(ctx, r.name, ingestion)
	r.progress()
	return err
}

// adopt brings the bytes of blobs into the store, several at a time. why says of each why it cannot be taken.
func (r *repository) adopt(ctx context.Context, batch []digest.Digest) (ingestion registry.Ingestion, why []string, err error) {
	adopted := make([]*registry.IngestedBlob, len(batch))
	why = make([]string, len(batch))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(linkParallel)
	if r.opt.Copy || r.opt.ReadData {
		group.SetLimit(readParallel)
	}
	for i, d := range batch {
		if why[i] = r.bad[d]; why[i] == "" {
			group.Go(func() (err error) { adopted[i], why[i], err = r.bring(ctx, d); return err })
		}
	}
	err = group.Wait()
	for i, d := range batch {
		if why[i] != "" {
			continue
		}
		ingestion.Blobs = append(ingestion.Blobs, d)
		r.written[d] = true
		if a := adopted[i]; a != nil {
			ingestion.Files = append(ingestion.Files, *a)
			r.report.Blobs++
			r.report.Bytes += a.Size
		}
	}
	return ingestion, why, err
}

// bring sees to it that the bytes of a blob are in the store and that the repository may have them. adopted is nil if they
// were there; why says what is wrong with those of the directory.
func (r *repository) bring(ctx context.Context, d digest.Digest) (adopted *registry.IngestedBlob, why string, err error) {
	_, err = r.reg.Stored(ctx, d)
	here := err == nil
	if err != nil && !registry.BlobUnknown.Is(err) {
		return nil, "", err
	}
	if here {
		if open, err := r.mayLink(ctx, d); open || err != nil {
			return nil, "", err
		}
	}
	f, info, err := r.from.open(data(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "its bytes are missing", nil
	}
	if err != nil {
		return nil, err.Error(), nil
	}
	defer f.Close()
	a := &registry.IngestedBlob{Digest: d, Size: info.Size()}
	if here {
		a, err = nil, r.prove(ctx, d, f, info)
	} else {
		*a, err = r.adoptFile(ctx, d, f, info)
	}
	switch {
	case errors.Is(err, registry.ErrDamaged):
		return nil, fmt.Sprintf("its %d bytes do not have the digest", info.Size()), nil
	case errors.Is(err, errors.ErrUnsupported):
		return nil, "", ErrNoLink
	case err != nil:
		return nil, "", fmt.Errorf("%s: %w", d, err)
	}
	return a, "", nil
}

// mayLink says whether the repository may have a blob that is here by its digest alone: this run has brought it, the
// repository has it, or everybody may read it. Anything else is private: a link in the directory proves no right to it.
func (r *repository) mayLink(ctx context.Context, d digest.Digest) (bool, error) {
	if r.written[d] {
		return true, nil
	}
	_, err := r.reg.FindBlob(ctx, d, func(repo registry.RepoName, public bool) (bool, error) {
		return public || repo == r.name, nil
	})
	if registry.BlobUnknown.Is(err) {
		return false, nil
	}
	return err == nil, err
}

// prove sees that the directory has the bytes of a blob that is here. ErrDamaged if they are others.
func (t *taker) prove(ctx context.Context, d digest.Digest, f *os.File, info fs.FileInfo) error {
	same, _, err := t.reg.IsStoredAs(ctx, d, info)
	if same || err != nil {
		return err
	}
	return compare(f, d)
}

// adoptFile takes the bytes of a blob that is not here. A dry run looks whether it could.
func (t *taker) adoptFile(ctx context.Context, d digest.Digest, f *os.File, info fs.FileInfo) (a registry.IngestedBlob, err error) {
	a = registry.IngestedBlob{Digest: d, Size: info.Size()}
	switch {
	case info.Size() == 0 && d != emptyOf(d.Algorithm()):
		err = registry.ErrDamaged // what a power cut leaves; it costs nothing to see
	case t.opt.DryRun && (t.opt.ReadData || t.opt.Copy):
		err = compare(f, d)
	case !t.opt.DryRun:
		a, err = t.reg.IngestFile(ctx, d, f, registry.IngestOptions{Copy: t.opt.Copy, Read: t.opt.ReadData})
	}
	return a, err
}

func emptyOf(algorithm digest.Algorithm) digest.Digest { return algorithm.FromBytes(nil) }

func compare(f *os.File, d digest.Digest) error {
	v := d.Verifier()
	if _, err := io.Copy(v, f); err != nil {
		return err
	}
	if !v.Verified() {
		return registry.ErrDamaged
	}
	return nil
}

// blob sees to it that the repository has a blob that a manifest needs, with the size it says. why is what keeps it from
// that.
func (r *repository) blob(ctx context.Context, n registry.Content) (why string, err error) {
	has, err := r.reg.HasBlob(ctx, r.name, n.Digest)
	if err != nil {
		return "", err
	}
	if !has { // its link is damaged or lost, or it is a layer that never was here
		if _, missing := r.from.root.Lstat(data(n.Digest)); missing != nil && n.Optional {
			return "its bytes are missing", nil
		}
		if err := r.takeBlobs(ctx, []digest.Digest{n.Digest}); err != nil || r.bad[n.Digest] != "" {
			return r.bad[n.Digest], err
		}
	}
	size, err := r.size(ctx, n.Digest)
	if err != nil || size == n.Size {
		return "", err
	}
	return r.wrongSize(ctx, n, size)
}

// size is that of the stored blob, or of the one that would be stored.
func (t *taker) size(ctx context.Context, d digest.Digest) (int64, error) {
	size, err := t.reg.Stored(ctx, d)
	if !registry.BlobUnknown.Is(err) {
		return size, err
	}
	info, err := t.from.root.Lstat(data(d))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// wrongSize finds out which of the two is wrong, a blob or the manifest that says another size. The manifest is taken all the
// same, with a warning.
func (r *repository) wrongSize(ctx context.Context, n registry.Content, size int64) (why string, err error) {
	err = r.verify(ctx, n.Digest)
	if err == nil || !registry.BlobUnknown.Is(err) && !errors.Is(err, registry.ErrDamaged) {
		return "", err
	}
	why = fmt.Sprintf("its %d bytes do not have the digest", size)
	r.bad[n.Digest] = why
	r.found(Finding{Kind: "blob", Digest: n.Digest, Detail: why})
	return why, nil
}

// verify reads a blob: as it is here, or, if a dry run has not taken it, as it is in the directory.
func (t *taker) verify(ctx context.Context, d digest.Digest) error {
	err := t.reg.VerifyBlob(ctx, d)
	if !t.opt.DryRun || !registry.BlobUnknown.Is(err) {
		return err
	}
	f, _, err := t.from.open(data(d))
	if err != nil {
		return err
	}
	defer f.Close()
	return compare(f, d)
}

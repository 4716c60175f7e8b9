// Package takeover makes the storage directory of another registry this registry's: that of distribution (registry:2,
// registry:3), by hard link where it can, so that terabytes take as long as their files have names.
//
// It reads the directory through a handle that nothing leads out of, and takes nothing on trust: names, tags and digests
// go through the registry's parsers, manifests are compared with their digests, and blobs are read when they are first
// pulled, or at once if that is asked for. What is damaged is reported and left out; the rest is taken. For each
// repository the order is that of a push: blobs, then manifests with what they hold, then tags, each batch a transaction.
// So what is here is whole at every moment, and a run that was ended goes on with the next one, which passes over what is
// here.
package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"registry/server/registry"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"
)

// Options say what is taken, and how.
type Options struct {
	Dir      string          // the storage directory, or a folder of it down to the one that has repositories
	Repo     string          // a glob of repositories; "" for all
	Copy     bool            // copy bytes and verify them on the way; otherwise files get a second name, which both registries use
	Move     bool            // remove from the directory what was taken, in the end, but not what the rest of it refers to
	ReadData bool            // read every blob now; otherwise each is read when it is first pulled
	DryRun   bool            // look, and take nothing
	Sparse   registry.Sparse // what may be missing: as the registry has it
	Found    func(Finding)   // called for each finding; nil for nobody
	Progress func(Report)
}

// Finding is something in the directory that could not be taken, or only in part.
type Finding struct {
	// name: no repository, tag or digest can have it. folder: it cannot be listed. link: a link that is damaged; what it stands for is taken if it is
	// clear what that is. blob: missing, or its bytes are wrong. manifest: the same, or something it needs is missing, or
	// it is of a kind that the registry does not take. tag: what it points at is not here. kept: a tag that points at
	// something else here, and goes on to do so. differs: see Compare.
	Kind       string        `json:"kind"`
	Repository string        `json:"repository,omitempty"`
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest,omitempty"`
	Detail     string        `json:"detail"`
}

// Report counts.
type Report struct {
	Took         time.Duration `json:"tookNanoseconds"`
	Repositories int64         `json:"repositories"`
	Blobs        int64         `json:"blobs"` // taken now
	Bytes        int64         `json:"bytes"` // of these
	Manifests    int64         `json:"manifests"`
	Tags         int64         `json:"tags"`
	Before       int64         `json:"before"`  // manifests that were here before, whole
	Removed      int64         `json:"removed"` // files of blobs, from the directory
	Kept         int64         `json:"kept"`    // files of blobs that were taken and are left: what was not taken refers to them
	Findings     int64         `json:"findings"`
}

// ErrNoLink is returned when the files cannot have a second name in the registry's blob directory.
var ErrNoLink = errors.New("the directory is on another file system than the registry's blobs, or its files cannot be linked from there")

// Run takes a directory over. An error means that it could not go on, not that something was found. The other registry
// should not be written to meanwhile; what is pushed to it later the next run takes.
func Run(ctx context.Context, reg *registry.Registry, opt Options) (report Report, err error) {
	start := time.Now()
	from, err := openLayout(opt.Dir)
	if err != nil {
		return report, err
	}
	defer from.close()
	t := &taker{reg: reg, from: from, opt: opt, bad: map[digest.Digest]string{}, written: map[digest.Digest]bool{}}
	err = from.repositories("", func(name string, err error) error { return t.repository(ctx, name, err) })
	if err == nil && opt.Move && !opt.DryRun {
		err = t.removeTaken(ctx)
	}
	t.report.Took = time.Since(start)
	return t.report, err
}

// taker is one run.
type taker struct {
	reg     *registry.Registry
	from    *layout
	opt     Options
	report  Report
	bad     map[digest.Digest]string // blobs that cannot be taken, and why
	written map[digest.Digest]bool   // blobs whose bytes this run has taken from the directory, or seen there
	done    []string                 // repositories that have nothing left to take
	left    []string                 // those that have
	unread  bool                     // a folder could not be listed: what it refers to is not known
}

func (t *taker) found(f Finding) {
	t.report.Findings++
	if t.opt.Found != nil {
		t.opt.Found(f)
	}
}

func (t *taker) progress() {
	if t.opt.Progress != nil {
		t.opt.Progress(t.report)
	}
}

func (t *taker) repository(ctx context.Context, name string, unreadable error) error {
	if unreadable != nil {
		t.unread = true
		t.found(Finding{Kind: "folder", Repository: name, Detail: unreadable.Error()})
		return nil
	}
	if t.opt.Repo != "" && !doublestar.MatchUnvalidated(t.opt.Repo, name) {
		return nil
	}
	repo, err := registry.ParseRepoName(name)
	if err != nil {
		t.left = append(t.left, name)
		t.found(Finding{Kind: "name", Repository: name, Detail: "not a repository name here"})
		return nil
	}
	before := t.report.Findings
	r := repository{taker: t, name: repo, revisions: map[digest.Digest]bool{}, seen: map[digest.Digest]bool{}}
	for _, step := range []func(context.Context) error{r.layers, r.manifests, r.tags} {
		err := step(ctx)
		if errors.As(err, new(folderError)) {
			r.found(Finding{Kind: "folder", Detail: err.Error()})
			err = r.flush(ctx)
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	t.report.Repositories++
	if t.report.Findings == before {
		t.done = append(t.done, name)
	} else {
		t.left = append(t.left, name)
	}
	t.progress()
	return nil
}

// A transaction has so many manifests or tags, or bytes of manifests.
const (
	maxBatch      = 256
	maxBatchBytes = 8 << 20
	maxManifest   = 4 << 20
)

// repository is one that is being taken.
type repository struct {
	*taker
	name      registry.RepoName
	revisions map[digest.Digest]bool // manifests that the directory has
	seen      map[digest.Digest]bool // manifests that were dealt with; true: the registry has it, or will with the batch
	batch     registry.Ingestion
	bytes     int
}

func (r *repository) found(f Finding) {
	f.Repository = string(r.name)
	r.taker.found(f)
}

// manifests takes the manifests of the repository, children before their index.
func (r *repository) manifests(ctx context.Context) error {
	err := r.from.links(revisions(string(r.name)), func(l link) error {
		if l.err != nil {
			r.found(Finding{Kind: "link", Digest: l.digest, Detail: l.err.Error()})
		}
		if l.digest != "" {
			r.revisions[l.digest] = true
		}
		return nil
	})
	for d := range r.revisions {
		if err == nil {
			_, err = r.manifest(ctx, d)
		}
	}
	if err != nil {
		return err
	}
	return r.flush(ctx)
}

// manifest sees to it that the registry has a manifest, or will with the batch. What keeps it from that is a finding.
func (r *repository) manifest(ctx context.Context, d digest.Digest) (here bool, err error) {
	if here, seen := r.seen[d]; seen {
		return here, nil
	}
	r.seen[d] = false
	if _, whole, err := r.reg.HasManifest(ctx, r.name, d); err != nil {
		return false, err
	} else if whole {
		r.report.Before++
		r.seen[d] = true
		return true, nil
	}
	doc, err := r.read(d)
	if err != nil {
		r.found(Finding{Kind: "manifest", Digest: d, Detail: err.Error()})
		return false, nil
	}
	if err := r.need(ctx, doc); err != nil {
		var missing missingError
		if errors.As(err, &missing) {
			r.found(Finding{Kind: "manifest", Digest: d, Detail: err.Error()})
			err = nil
		}
		return false, err
	}
	r.seen[d] = true
	r.batch.Documents = append(r.batch.Documents, doc)
	r.report.Manifests++
	if r.bytes += len(doc.Content); len(r.batch.Documents) < maxBatch && r.bytes < maxBatchBytes {
		return true, nil
	}
	return true, r.flush(ctx)
}

// read reads a manifest from the directory.
func (t *taker) read(d digest.Digest) (*registry.Document, error) {
	f, info, err := t.from.open(data(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("its content is missing")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > maxManifest {
		return nil, fmt.Errorf("it has %d bytes, which is more than a manifest may have", info.Size())
	}
	content, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return registry.ReadDocument(d, content)
}

// missingError says what a manifest cannot be taken without.
type missingError struct{ what string }

func (e missingError) Error() string { return e.what }

// need sees to it that everything a manifest names is here, or will be with the batch.
func (r *repository) need(ctx context.Context, doc *registry.Document) error {
	for _, n := range doc.Blobs {
		why, err := r.blob(ctx, n)
		if err == nil && why != "" && !n.Optional && r.opt.Sparse != registry.SparseAll {
			err = missingError{fmt.Sprintf("it needs %s: %s", n.Digest, why)}
		}
		if err != nil {
			return err
		}
	}
	for _, n := range doc.Children {
		here, err := r.child(ctx, n)
		if err == nil && !here && r.opt.Sparse == registry.SparseNone {
			err = missingError{fmt.Sprintf("it lists %s, which is not here", n.Digest)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// child is a manifest of the repository, or a blob in the index of a build cache.
func (r *repository) child(ctx context.Context, n registry.Content) (here bool, err error) {
	if r.revisions[n.Digest] {
		return r.manifest(ctx, n.Digest)
	}
	if has, _, err := r.reg.HasManifest(ctx, r.name, n.Digest); has || err != nil {
		return has, err
	}
	return r.reg.HasBlob(ctx, r.name, n.Digest)
}

// flush commits the batch.
func (r *repository) flush(ctx context.Context) error {
	batch := r.batch
	r.batch, r.bytes = registry.Ingestion{}, 0
	if r.opt.DryRun || len(batch.Documents) == 0 && len(batch.Tags) == 0 && len(batch.Blobs) == 0 {
		return nil
	}
	kept, err := r.reg.Ingest(ctx, r.name, batch)
	for _, tag := range kept {
		r.report.Tags--
		r.found(Finding{Kind: "kept", Tag: string(tag), Digest: batch.Tags[tag], Detail: "the tag points at something else here, and is left so"})
	}
	r.progress()
	return err
}

func (r *repository) tags(ctx context.Context) error {
	err := r.from.tags(string(r.name), func(name string, to link) error {
		tag, err := registry.ParseTag(name)
		switch {
		case err != nil:
			r.found(Finding{Kind: "name", Tag: name, Detail: "not a tag here"})
			return nil
		case to.err != nil:
			r.found(Finding{Kind: "link", Tag: name, Detail: to.err.Error()})
			return nil
		case !r.seen[to.digest]:
			r.found(Finding{Kind: "tag", Tag: name, Digest: to.digest, Detail: r.whyNot(to.digest)})
			return nil
		}
		if r.batch.Tags == nil {
			r.batch.Tags = map[registry.Tag]digest.Digest{}
		}
		r.batch.Tags[tag] = to.digest
		if r.report.Tags++; len(r.batch.Tags) < maxBatch {
			return nil
		}
		return r.flush(ctx)
	})
	if err != nil {
		return err
	}
	return r.flush(ctx)
}

func (r *repository) whyNot(d digest.Digest) string {
	if r.revisions[d] {
		return "its manifest could not be taken"
	}
	return "the repository does not have its manifest: it was deleted, or its link is lost"
}

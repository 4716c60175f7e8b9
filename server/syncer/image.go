package syncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"registry/server/mirror"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	maxDepth     = 8      // of indexes in indexes
	maxManifests = 10_000 // of an image with everything that refers to it
)

// copier copies one image.
type copier struct {
	*Syncer
	src  *source
	e    Entry
	task task
	dry  bool
	out  Outcome
	done map[digest.Digest]bool // manifests that are here
	all  []digest.Digest        // of these, in order
}

// errWould ends a dry run where it would fetch something.
var errWould = errors.New("it would be copied")

// copy brings an image, moves its tag, and brings what refers to it.
func (s *Syncer) copy(ctx context.Context, src *source, e Entry, t task, dry bool) Outcome {
	c := &copier{Syncer: s, src: src, e: e, task: t, dry: dry, done: map[digest.Digest]bool{}}
	separator := ":"
	if t.ref.Digest != "" {
		separator = "@"
	}
	c.out = Outcome{Source: e.Upstream.Name + "/" + string(t.from) + separator + t.ref.String(), Target: string(t.to) + ":" + string(t.tag), Result: Same}
	s.copies(t.to, e.Upstream.Name)
	err := c.image(ctx, t.ref, t.tag)
	if err == nil {
		err = c.attached(ctx)
	}
	switch {
	case errors.Is(err, errWould):
		c.out.Result = Would
	case err != nil:
		c.out.Result, c.out.Error = Failed, explain(err)
	}
	return c.out
}

// image brings what ref names, and points a tag at it then.
func (c *copier) image(ctx context.Context, ref registry.Reference, tag registry.Tag) error {
	d, err := c.digestOf(ctx, ref)
	if err != nil {
		return err
	}
	if c.out.Digest == "" {
		c.out.Digest = d
	}
	m, doc, err := c.content(ctx, d, 0)
	if err != nil {
		return err
	}
	have, err := c.cfg.Registry.StatManifest(ctx, c.task.to, registry.Reference{Tag: tag})
	switch {
	case err == nil && have.Digest == d:
		return nil
	case err != nil && !registry.ManifestUnknown.Is(err):
		return err
	case c.dry:
		return errWould
	}
	c.out.Result = Copied
	return c.put(ctx, m, doc, tag)
}

// digestOf asks what ref names.
func (c *copier) digestOf(ctx context.Context, ref registry.Reference) (d digest.Digest, err error) {
	if ref.Digest != "" {
		return ref.Digest, nil
	}
	err = c.src.try(ctx, func() (err error) {
		d, _, err = c.src.remote.Resolve(ctx, string(c.task.from), ref.Tag)
		return err
	})
	return d, err
}

// document is what has to be known of a manifest to copy it.
type document struct {
	Config    *v1.Descriptor  `json:"config"`
	Layers    []v1.Descriptor `json:"layers"`
	Blobs     []v1.Descriptor `json:"blobs"`
	Manifests []v1.Descriptor `json:"manifests"`

	sparse bool // some of its manifests are not wanted
}

// content brings everything of a manifest, so that it can be put.
func (c *copier) content(ctx context.Context, d digest.Digest, depth int) (m registry.Manifest, doc document, err error) {
	switch {
	case depth > maxDepth:
		return m, doc, errors.New("indexes in indexes are too deep")
	case len(c.done) >= maxManifests:
		return m, doc, errors.New("there are too many manifests")
	}
	if _, err := registry.ParseDigest(d.String()); err != nil {
		return m, doc, err
	}
	if m, err = c.manifest(ctx, d); err != nil {
		return m, doc, fmt.Errorf("manifest %s: %w", d, err)
	}
	if err = json.Unmarshal(m.Content, &doc); err != nil {
		return m, doc, fmt.Errorf("manifest %s: %w", d, err)
	}
	children, err := choose(doc.Manifests, c.e.Platforms)
	if err != nil {
		return m, doc, err
	}
	doc.sparse = len(children) < len(doc.Manifests)
	c.mark(d)
	for _, child := range children {
		if err = c.child(ctx, child, depth+1); err != nil {
			return m, doc, err
		}
	}
	blobs := slices.Concat(doc.Layers, doc.Blobs)
	if doc.Config != nil {
		blobs = append(blobs, *doc.Config)
	}
	for _, b := range blobs {
		if err = c.blob(ctx, b); err != nil {
			return m, doc, fmt.Errorf("blob %s: %w", b.Digest, err)
		}
	}
	return m, doc, nil
}

func (c *copier) mark(d digest.Digest) {
	if !c.done[d] {
		c.done[d] = true
		c.all = append(c.all, d)
	}
}

// child brings what an index names, which build caches let be blobs.
func (c *copier) child(ctx context.Context, d v1.Descriptor, depth int) error {
	if !registry.IsManifest(d.MediaType) {
		return c.blob(ctx, d)
	}
	return c.whole(ctx, d.Digest, depth)
}

// whole brings a manifest that has no tag, with everything it needs.
func (c *copier) whole(ctx context.Context, d digest.Digest, depth int) error {
	if c.done[d] {
		return nil
	}
	m, doc, err := c.content(ctx, d, depth)
	if err != nil {
		return err
	}
	_, err = c.cfg.Registry.StatManifest(ctx, c.task.to, registry.Reference{Digest: d})
	if !registry.ManifestUnknown.Is(err) {
		return err
	}
	c.out.Result = Copied
	return c.put(ctx, m, doc, "")
}

func (c *copier) put(ctx context.Context, m registry.Manifest, doc document, tag registry.Tag) error {
	p := registry.Put{Ref: registry.Reference{Digest: m.Digest}, MediaType: m.MediaType, Content: m.Content, AnySize: true}
	if doc.sparse {
		p.Sparse = registry.SparseIndex
	}
	if tag != "" {
		p.Tags = []registry.Tag{tag}
	}
	_, err := c.cfg.Registry.PutManifest(ctx, c.task.to, p)
	return err
}

// manifest returns a manifest that is here, or fetches it.
func (c *copier) manifest(ctx context.Context, d digest.Digest) (m registry.Manifest, err error) {
	ref := registry.Reference{Digest: d}
	if _, err = c.cfg.Registry.StatManifest(ctx, c.task.to, ref); err == nil { // which leases it
		m, err = c.cfg.Registry.Manifest(ctx, c.task.to, ref)
	}
	if !registry.ManifestUnknown.Is(err) {
		return m, err
	}
	if c.dry {
		return m, errWould
	}
	if err = c.src.spare(ctx, c.e.Rate, func() error { return c.look(ctx) }); err != nil {
		return m, err
	}
	var got mirror.Manifest
	err = c.src.try(ctx, func() (err error) { got, err = c.src.remote.Manifest(ctx, string(c.task.from), ref); return err })
	if err == nil {
		c.out.Manifests++
	}
	return registry.Manifest{Digest: d, MediaType: got.MediaType, Size: int64(len(got.Content)), Content: got.Content}, err
}

// look asks the upstream something that costs no pull.
func (c *copier) look(ctx context.Context) error {
	tag := c.task.ref.Tag
	if tag == "" {
		tag = "latest"
	}
	err := c.src.try(ctx, func() error { return c.src.remote.Probe(ctx, string(c.task.from), tag) })
	if errors.Is(err, mirror.ErrUnknown) {
		return nil
	}
	return err
}

// blob sees to it that the target has a blob: it has it, another repository here has it, or the source.
func (c *copier) blob(ctx context.Context, d v1.Descriptor) error {
	if registry.IsForeign(d.MediaType) {
		return nil
	}
	if _, err := registry.ParseDigest(d.Digest.String()); err != nil {
		return err
	}
	for {
		if have, err := c.have(ctx, d.Digest); have || err != nil {
			return err
		}
		mine := false // another's copy that was waited for is here now; else this one tries
		_, err, _ := c.flights.Do(d.Digest.String(), func() (any, error) { mine = true; return nil, c.fetch(ctx, d) })
		if mine {
			return err
		}
	}
}

// have says whether the target has a blob, after linking it from where it is: what is public, or came from the same
// registry. Of anything else the other registry might know the digest only.
func (c *copier) have(ctx context.Context, d digest.Digest) (bool, error) {
	reg, to := c.cfg.Registry, c.task.to
	_, err := reg.StatBlob(ctx, to, d)
	if !registry.BlobUnknown.Is(err) {
		return err == nil, err
	}
	if c.dry {
		return false, errWould
	}
	open, err := reg.IsPublic(ctx, to)
	if err != nil {
		return false, err
	}
	from, err := reg.FindBlob(ctx, d, func(repo registry.RepoName, public bool) (bool, error) {
		return public || !open && !c.cfg.Public && c.isCopy(repo, c.e.Upstream.Name), nil
	})
	if registry.BlobUnknown.Is(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	linked, err := reg.MountBlob(ctx, to, d, from)
	if linked {
		c.out.Linked++
		c.out.Result = Copied
	}
	return linked, err
}

// fetch brings a blob, going on where its connection breaks. How long it is the source says, or else the manifest.
func (c *copier) fetch(ctx context.Context, d v1.Descriptor) error {
	f := c.cfg.Registry.NewBlobFetch(ctx, c.task.to, d.Digest, d.Size)
	err := c.pour(ctx, f)
	if err == nil {
		err = f.Finish(ctx)
	}
	if err != nil {
		f.Drop(ctx, mirror.MayResume(ctx, err))
		f.Fail(err)
		return err
	}
	c.out.Blobs++
	c.out.Bytes += f.Size
	c.out.Result = Copied
	return nil
}

func (c *copier) pour(ctx context.Context, f *registry.BlobFetch) error {
	return mirror.Resume(ctx, c.cfg.Sleep, f.Staged, func() (done bool, err error) {
		if f.Size > 0 && f.Staged() == f.Size {
			return true, nil // all of it had come before
		}
		err = c.take(ctx, f)
		return f.Staged() == f.Size, err
	})
}

// take adds what one answer has.
func (c *copier) take(ctx context.Context, f *registry.BlobFetch) error {
	var body io.ReadCloser
	var size int64
	err := c.src.try(ctx, func() (err error) {
		body, size, err = c.src.remote.Blob(ctx, string(c.task.from), f.Digest, f.Staged(), f.Size)
		return err
	})
	if err != nil {
		return err
	}
	defer body.Close()
	if f.Staged() == 0 && size >= 0 { // whatever the manifest says
		f.Size = size
	}
	return f.Take(ctx, body)
}

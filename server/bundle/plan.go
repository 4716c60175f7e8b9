package bundle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is a tag that goes into a bundle.
type Image struct {
	Repo registry.RepoName
	Tag  registry.Tag
}

// Platform is an operating system and an architecture, and a variant unless that is empty.
type Platform struct{ OS, Architecture, Variant string }

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT].
func ParsePlatform(s string) (p Platform, err error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return p, fmt.Errorf("%q: want a platform such as linux/amd64 or linux/arm/v7", s)
	}
	p.OS, p.Architecture = parts[0], parts[1]
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// matches says whether an image for q is one for p. An image that names no variant runs on every one, and arm64 is v8.
func (p Platform) matches(q *v1.Platform) bool {
	if q == nil || q.OS != p.OS || q.Architecture != p.Architecture {
		return false
	}
	variant := func(s string) string {
		if s == "v8" && p.Architecture == "arm64" {
			return ""
		}
		return s
	}
	return p.Variant == "" || variant(q.Variant) == variant(p.Variant)
}

// plan is what an export puts into a bundle.
type plan struct {
	repos []*repoPlan
	blobs map[digest.Digest]stored // all that is in the bundle, manifests included
	index []entry
	kept  *contents // of the manifests
}

// stored is where the bytes of a blob are.
type stored struct {
	repo     registry.RepoName
	size     int64
	manifest bool
}

// entry is a line of index.json.
type entry struct {
	Descriptor
	repo registry.RepoName
	tag  registry.Tag // "" for a referrer without one
}

// repoPlan is what one repository puts into a bundle.
type repoPlan struct {
	name     registry.RepoName
	tags     map[registry.Tag]digest.Digest
	held     map[digest.Digest]Descriptor // manifests in the bundle
	required map[digest.Digest]bool       // manifests that the receiver has
	blobs    map[digest.Digest]int64      // that the receiver has, and manifests of the bundle need
	roots    map[digest.Digest]bool       // referrers, which no index reaches
}

// planner walks what tags reach.
type planner struct {
	ctx  context.Context
	reg  *registry.Registry
	opt  ExportOptions
	plan *plan
	repo *repoPlan
	skip []string // images that have no manifest of the platform
	kept *contents
	undo []func() // of what the tag that is being planned has added so far
	// An index that is being planned lacks something.
	sparse bool
}

// attempts is how often what ref names is planned while others change it.
const attempts = 10

// attempt plans what ref names. What others delete or move meanwhile is taken out of the plan again, and planned as it is
// by then, or not at all if it is gone.
func (p *planner) attempt(ref registry.Reference, add func() error) (err error) {
	defer func(outer bool) { p.sparse = outer }(p.sparse)
	for range attempts {
		before, gone := p.reg.StatManifest(p.ctx, p.repo.name, ref)
		if registry.ManifestUnknown.Is(gone) {
			return nil
		}
		mark := len(p.undo)
		p.sparse = false
		err = cmp.Or(gone, add())
		lacking := registry.ManifestUnknown.Is(err) || registry.BlobUnknown.Is(err) || err == nil && p.sparse
		if !lacking {
			return err
		}
		now, gone := p.reg.StatManifest(p.ctx, p.repo.name, ref)
		if gone == nil && now.Digest == before.Digest {
			return err // it is as the registry has it
		}
		for _, undo := range slices.Backward(p.undo[mark:]) {
			undo()
		}
		p.undo = p.undo[:mark]
	}
	return cmp.Or(err, errRestless)
}

var errRestless = errors.New("it changes all the time")

// put adds to a map of the plan.
func put[K comparable, V any](p *planner, m map[K]V, key K, value V) {
	old, was := m[key]
	p.undo = append(p.undo, func() {
		if delete(m, key); was {
			m[key] = old
		}
	})
	m[key] = value
}

func (p *planner) all(images iter.Seq2[Image, error]) error {
	p.plan = &plan{blobs: map[digest.Digest]stored{}, kept: p.kept}
	byName := map[registry.RepoName]*repoPlan{}
	for image, err := range images {
		if err != nil {
			return err
		}
		if p.repo = byName[image.Repo]; p.repo == nil {
			p.repo = &repoPlan{name: image.Repo, tags: map[registry.Tag]digest.Digest{}, held: map[digest.Digest]Descriptor{},
				required: map[digest.Digest]bool{}, blobs: map[digest.Digest]int64{}, roots: map[digest.Digest]bool{}}
			byName[image.Repo] = p.repo
		}
		if err := p.attempt(registry.Reference{Tag: image.Tag}, func() error { return p.tag(image.Tag) }); err != nil {
			return fmt.Errorf("%s:%s: %w", image.Repo, image.Tag, err)
		}
		p.undo = p.undo[:0]
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if r := byName[name]; len(r.tags) > 0 {
			p.plan.add(r)
		}
	}
	return nil
}

// tag plans a tag with everything it reaches.
func (p *planner) tag(tag registry.Tag) error {
	if _, done := p.repo.tags[tag]; done {
		return nil
	}
	m, err := p.reg.Manifest(p.ctx, p.repo.name, registry.Reference{Tag: tag})
	if err != nil {
		return err
	}
	if len(p.opt.Platforms) == 1 {
		child, err := p.only(m)
		if err != nil {
			return err
		}
		if child == "" {
			p.skip = append(p.skip, fmt.Sprintf("%s:%s", p.repo.name, tag))
			return nil
		}
		m.Digest = child
	}
	put(p, p.repo.tags, tag, m.Digest)
	return p.manifest(m.Digest)
}

// only returns the manifest of the only platform that is asked for, "" if an index has none. What is no index is for
// whatever platform it is for.
func (p *planner) only(m registry.Manifest) (digest.Digest, error) {
	if !isIndex(m.MediaType) {
		return m.Digest, nil
	}
	for child, err := range p.children(m) {
		if err != nil || child.Platform != nil {
			return child.Digest, err
		}
	}
	return "", nil
}

func isIndex(mediaType string) bool {
	return strings.EqualFold(mediaType, v1.MediaTypeImageIndex) || strings.EqualFold(mediaType, dockerManifestList)
}

// children yields the descriptors of an index that are of the platforms asked for, or of none.
func (p *planner) children(m registry.Manifest) iter.Seq2[v1.Descriptor, error] {
	return func(yield func(v1.Descriptor, error) bool) {
		var index v1.Index
		if err := json.Unmarshal(m.Content, &index); err != nil {
			yield(v1.Descriptor{}, err)
			return
		}
		for _, child := range index.Manifests {
			wanted := len(p.opt.Platforms) == 0 || child.Platform == nil ||
				slices.ContainsFunc(p.opt.Platforms, func(want Platform) bool { return want.matches(child.Platform) })
			if wanted && !yield(child, nil) {
				return
			}
		}
	}
}

// manifest plans a manifest, its children, and what refers to any of them.
func (p *planner) manifest(d digest.Digest) error {
	if _, held := p.repo.held[d]; held || p.repo.required[d] {
		return nil
	}
	m, err := p.reg.Manifest(p.ctx, p.repo.name, registry.Reference{Digest: d})
	if err != nil {
		return err
	}
	contents, err := m.Contents()
	if err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	if p.opt.Have.hasManifest(p.repo.name, d) && p.hasAll(contents) {
		put(p, p.repo.required, d, true)
	} else {
		if err := p.kept.add(d, m.Content); err != nil {
			return err
		}
		put(p, p.repo.held, d, Descriptor{MediaType: m.MediaType, Digest: d, Size: m.Size})
		put(p, p.plan.blobs, d, stored{repo: p.repo.name, size: m.Size, manifest: true})
	}
	if err := p.contents(m, contents); err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	if p.opt.NoReferrers {
		return nil
	}
	return p.referrers(d)
}

// hasAll says whether the receiver has the blobs of a manifest, too: they may have it without them, or damaged ones.
func (p *planner) hasAll(c registry.Contents) bool {
	return !slices.ContainsFunc(c.Blobs, func(b registry.Content) bool { return !b.Optional && !p.opt.Have.hasBlob(p.repo.name, b.Digest) })
}

func (p *planner) contents(m registry.Manifest, c registry.Contents) error {
	for _, b := range c.Blobs {
		if err := p.blob(m.Digest, b); err != nil {
			return err
		}
	}
	wanted := map[digest.Digest]bool{}
	if isIndex(m.MediaType) {
		for child, err := range p.children(m) {
			if err != nil {
				return err
			}
			wanted[child.Digest] = true
		}
	}
	for _, child := range c.Children {
		if !wanted[child.Digest] && isIndex(m.MediaType) {
			continue
		}
		err := p.manifest(child.Digest)
		if registry.ManifestUnknown.Is(err) { // a blob in an index, or missing: a sparse index stays one
			child.Optional = true
			err = p.blob(m.Digest, child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blob plans a blob, which the bundle holds or the receiver has.
func (p *planner) blob(holder digest.Digest, b registry.Content) error {
	if _, planned := p.plan.blobs[b.Digest]; planned || p.repo.required[holder] {
		return nil
	}
	if p.opt.Have.hasBlob(p.repo.name, b.Digest) {
		put(p, p.repo.blobs, b.Digest, b.Size)
		return nil
	}
	size, err := p.reg.StatBlob(p.ctx, p.repo.name, b.Digest)
	if registry.BlobUnknown.Is(err) && b.Optional {
		p.sparse = true
		return nil
	}
	if err == nil {
		put(p, p.plan.blobs, b.Digest, stored{repo: p.repo.name, size: size})
	}
	return err
}

// referrers plans what refers to a manifest: what the registry lists, and what has a tag made of its digest.
func (p *planner) referrers(subject digest.Digest) error {
	page := registry.Page{Limit: listPage}
	for {
		list, err := p.reg.Referrers(p.ctx, p.repo.name, subject, "", page)
		if err != nil {
			return err
		}
		for _, raw := range list.Descriptors {
			var found Descriptor
			if err := json.Unmarshal([]byte(raw), &found); err != nil {
				return err
			}
			err := p.attempt(registry.Reference{Digest: found.Digest}, func() error {
				put(p, p.repo.roots, found.Digest, true)
				return p.manifest(found.Digest)
			})
			if err != nil {
				return err
			}
		}
		if page.Last = list.Last; !list.More {
			return p.derivedTags(subject)
		}
	}
}

const listPage = 1000

// derivedTags plans tags such as sha256-….sig, under which signatures are kept where referrers are not listed.
func (p *planner) derivedTags(subject digest.Digest) error {
	prefix := subject.Algorithm().String() + "-" + subject.Encoded()[:64]
	end := len(prefix) - 1
	page := registry.Page{Last: prefix[:end] + string(prefix[end]-1) + "~", Limit: listPage}
	for {
		tags, more, err := p.reg.Tags(p.ctx, p.repo.name, page)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			if !strings.HasPrefix(tag, prefix) {
				return nil
			}
			if page.Last = tag; p.repo.tags[registry.Tag(tag)] != "" {
				continue
			}
			err := p.attempt(registry.Reference{Tag: registry.Tag(tag)}, func() error { return p.derivedTag(registry.Tag(tag)) })
			if err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
	}
}

func (p *planner) derivedTag(tag registry.Tag) error {
	m, err := p.reg.StatManifest(p.ctx, p.repo.name, registry.Reference{Tag: tag})
	if err != nil {
		return err
	}
	put(p, p.repo.tags, tag, m.Digest)
	return p.manifest(m.Digest)
}

// add puts a repository's lines into the index: its tags, and referrers that have none. What the receiver has is in no
// line, since other tools would look for it in the layout.
func (p *plan) add(r *repoPlan) {
	p.repos = append(p.repos, r)
	tagged := map[digest.Digest]bool{}
	for _, tag := range slices.Sorted(maps.Keys(r.tags)) {
		d := r.tags[tag]
		if desc, held := r.held[d]; held {
			tagged[d] = true
			p.index = append(p.index, entry{Descriptor: desc, repo: r.name, tag: tag})
		}
	}
	for _, d := range slices.Sorted(maps.Keys(r.roots)) {
		if desc, held := r.held[d]; held && !tagged[d] {
			p.index = append(p.index, entry{Descriptor: desc, repo: r.name})
		}
	}
}

// manifest makes bundle.json, but for its files.
func (p *plan) manifest() *Manifest {
	m := &Manifest{Version: version, Repositories: []Repository{}, Blobs: []Blob{}}
	for _, r := range p.repos {
		repo := Repository{Name: r.name, Tags: r.tags}
		for _, d := range slices.Sorted(maps.Keys(r.held)) {
			repo.Manifests = append(repo.Manifests, r.held[d])
		}
		repo.Required.Manifests = slices.Sorted(maps.Keys(r.required))
		for _, d := range slices.Sorted(maps.Keys(r.blobs)) {
			repo.Required.Blobs = append(repo.Required.Blobs, Blob{d, r.blobs[d]})
		}
		m.Repositories = append(m.Repositories, repo)
	}
	for _, d := range slices.Sorted(maps.Keys(p.blobs)) {
		m.Blobs = append(m.Blobs, Blob{d, p.blobs[d].size})
	}
	return m
}

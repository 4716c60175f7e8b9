package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// claim is what an archive says: a manifest belongs to a repository, perhaps under a tag.
type claim struct {
	Descriptor
	repo registry.RepoName
	tag  registry.Tag // "" for none
}

// placement is where everything of an archive goes, once it is known that everything is there.
type placement struct {
	ctx     context.Context
	reg     *registry.Registry
	from    *archive
	sparse  registry.Sparse
	repos   map[registry.RepoName]*target
	made    map[digest.Digest][]byte // manifests that were made for a docker archive
	layers  map[digest.Digest]string // the names of blobs that are not under blobs/
	needs   map[digest.Digest]*need
	missing map[Missing]bool
}

// target is what one repository gets.
type target struct {
	name      registry.RepoName
	manifests []Descriptor // children before their index
	placed    map[digest.Digest]bool
	tags      map[digest.Digest][]registry.Tag
	tagged    map[registry.Tag]digest.Digest
	own       map[digest.Digest]Descriptor // what bundle.json says is a manifest; nil if there is none
}

// need is a blob that manifests of the archive need.
type need struct {
	size  int64
	repos map[registry.RepoName]bool // that lack it
	found registry.RepoName          // a public one that has it, so that it is mounted
}

// Missing is something that a bundle needs and neither it nor the registry has.
type Missing struct {
	Repo   registry.RepoName `json:"repository"`
	Digest digest.Digest     `json:"digest"`
}

// MissingError is what an import fails with when it lacks something. Nothing was written then.
type MissingError []Missing

func (e MissingError) Error() string {
	const some = 5
	var names []string
	for _, m := range e[:min(len(e), some)] {
		names = append(names, fmt.Sprintf("%s@%s", m.Repo, m.Digest))
	}
	if len(e) > some {
		names = append(names, fmt.Sprintf("and %d more", len(e)-some))
	}
	return "neither the bundle nor its repository here has " + strings.Join(names, ", ")
}

func newPlacement(ctx context.Context, reg *registry.Registry, from *archive, sparse registry.Sparse) *placement {
	return &placement{ctx: ctx, reg: reg, from: from, sparse: sparse, repos: map[registry.RepoName]*target{},
		made: map[digest.Digest][]byte{}, layers: map[digest.Digest]string{}, needs: map[digest.Digest]*need{},
		missing: map[Missing]bool{}}
}

func (p *placement) target(repo registry.RepoName) *target {
	t := p.repos[repo]
	if t == nil {
		t = &target{name: repo, placed: map[digest.Digest]bool{}, tags: map[digest.Digest][]registry.Tag{}, tagged: map[registry.Tag]digest.Digest{}}
		p.repos[repo] = t
	}
	return t
}

// bundle places what bundle.json says.
func (p *placement) bundle(m *Manifest, names Names) error {
	for _, r := range m.Repositories {
		t := p.target(names.repo(r.Name))
		if t.own == nil {
			t.own = map[digest.Digest]Descriptor{}
		}
		for _, d := range r.Manifests {
			t.own[d.Digest] = d
		}
		if err := p.repository(t, r); err != nil {
			return err
		}
	}
	return nil
}

func (p *placement) repository(t *target, r Repository) error {
	required := map[digest.Digest]bool{}
	for _, d := range r.Required.Manifests {
		required[d] = true
		if err := p.require(t, d); err != nil {
			return err
		}
	}
	for _, d := range r.Manifests {
		if size, ok := p.from.has(d.Digest); ok && size != d.Size {
			return invalid("%s has %d bytes, %s says %d", d.Digest, size, bundleFile, d.Size)
		}
		if err := p.manifest(t, d, 0); err != nil {
			return err
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(r.Tags)) {
		d := r.Tags[tag]
		if !t.placed[d] && !required[d] {
			return invalid("%s:%s is %s, which the bundle neither has nor requires", r.Name, tag, d)
		}
		if err := t.tag(tag, d); err != nil {
			return err
		}
	}
	return nil
}

// require sees that the registry has a manifest that a bundle leaves out.
func (p *placement) require(t *target, d digest.Digest) error {
	_, err := p.reg.StatManifest(p.ctx, t.name, registry.Reference{Digest: d})
	if registry.ManifestUnknown.Is(err) {
		p.missing[Missing{Repo: t.name, Digest: d}] = true
		return nil
	}
	return err
}

// complete returns a MissingError if anything is missing.
func (p *placement) complete() error {
	if len(p.missing) == 0 {
		return nil
	}
	return MissingError(slices.SortedFunc(maps.Keys(p.missing), func(a, b Missing) int {
		return cmp.Or(cmp.Compare(a.Repo, b.Repo), cmp.Compare(a.Digest, b.Digest))
	}))
}

func (t *target) tag(tag registry.Tag, d digest.Digest) error {
	if was, ok := t.tagged[tag]; ok && was != d {
		return invalid("%s:%s is both %s and %s", t.name, tag, was, d)
	} else if !ok {
		t.tagged[tag] = d
		t.tags[d] = append(t.tags[d], tag)
	}
	return nil
}

// claims places what another tool's archive says.
func (p *placement) claims(claims []claim) error {
	for _, c := range claims {
		t := p.target(c.repo)
		if err := p.manifest(t, c.Descriptor, 0); err != nil {
			return err
		}
		if c.tag == "" {
			continue
		}
		if err := t.tag(c.tag, c.Digest); err != nil {
			return err
		}
	}
	return nil
}

// maxDepth bounds indexes within indexes.
const maxDepth = 32

// manifest places a manifest of the archive, its children before it. One that the archive does not have must be here.
func (p *placement) manifest(t *target, d Descriptor, depth int) error {
	if t.placed[d.Digest] {
		return nil
	}
	if depth > maxDepth {
		return invalid("%s: indexes are nested too deep", d.Digest)
	}
	text, err := p.read(d.Digest)
	if err != nil {
		return err
	}
	if text == nil {
		return p.absent(t, d)
	}
	contents, err := registry.ReadManifest(d.MediaType, text)
	if err != nil {
		return invalid("%s: %w", d.Digest, err)
	}
	t.placed[d.Digest] = true
	for _, child := range contents.Children {
		if err := p.child(t, child, depth); err != nil {
			return err
		}
	}
	for _, b := range contents.Blobs {
		if err := p.blob(t, b, b.Optional || p.sparse == registry.SparseAll); err != nil {
			return err
		}
	}
	t.manifests = append(t.manifests, Descriptor{MediaType: contents.MediaType, Digest: d.Digest, Size: int64(len(text))})
	return nil
}

func (p *placement) read(d digest.Digest) ([]byte, error) {
	if text, ok := p.made[d]; ok {
		return text, nil
	}
	return p.from.manifest(d)
}

// absent deals with a manifest that the archive does not have.
func (p *placement) absent(t *target, d Descriptor) error {
	if _, there := p.from.has(d.Digest); there {
		return invalid("%s is called a manifest and is none", d.Digest)
	}
	return p.require(t, d.Digest)
}

// child places what an index lists: a manifest, or, in the index of a build cache, a blob.
func (p *placement) child(t *target, c registry.Content, depth int) error {
	d := Descriptor{MediaType: c.MediaType, Digest: c.Digest, Size: c.Size}
	own, isOwn := t.own[c.Digest]
	switch {
	case isOwn:
		return p.manifest(t, own, depth+1)
	}
	_, inside := p.from.has(c.Digest)
	if inside && (t.own == nil && registry.IsManifest(c.MediaType)) {
		return p.manifest(t, d, depth+1)
	}
	_, err := p.reg.StatManifest(p.ctx, t.name, registry.Reference{Digest: c.Digest})
	if registry.ManifestUnknown.Is(err) {
		err = p.blob(t, c, p.sparse != registry.SparseNone)
	}
	return err
}

// blob notes that a repository needs a blob, unless it has it. A manifest may say a wrong size: the registry warns of it.
func (p *placement) blob(t *target, c registry.Content, mayMiss bool) error {
	n := p.needs[c.Digest]
	if n == nil {
		n = &need{size: c.Size, repos: map[registry.RepoName]bool{}}
		p.needs[c.Digest] = n
	}
	size, inside := p.size(c.Digest)
	if inside {
		n.size = size
	}
	if _, asked := n.repos[t.name]; asked {
		return nil
	}
	lacks, err := p.lacks(t.name, c.Digest)
	if err != nil || !lacks {
		n.repos[t.name] = false
		return err
	}
	if n.found == "" {
		if n.found, err = p.elsewhere(c.Digest); err != nil {
			return err
		}
	}
	switch {
	case inside || n.found != "":
		n.repos[t.name] = true
	case !mayMiss:
		p.missing[Missing{Repo: t.name, Digest: c.Digest}] = true
	}
	return nil
}

// size is that of a blob of the archive.
func (p *placement) size(d digest.Digest) (int64, bool) {
	if name, ok := p.layers[d]; ok {
		return p.from.files[name], true
	}
	return p.from.has(d)
}

func (p *placement) lacks(repo registry.RepoName, d digest.Digest) (bool, error) {
	_, err := p.reg.StatBlob(p.ctx, repo, d)
	if registry.BlobUnknown.Is(err) || registry.NameUnknown.Is(err) {
		return true, nil
	}
	return false, err
}

// elsewhere returns a public repository that has a blob, "" if none has. What is private goes to no other repository
// because an archive names its digest: only bytes are a right to it.
func (p *placement) elsewhere(d digest.Digest) (registry.RepoName, error) {
	repo, err := p.reg.FindBlob(p.ctx, d, func(_ registry.RepoName, public bool) (bool, error) { return public, nil })
	if registry.BlobUnknown.Is(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	lacks, err := p.lacks(repo, d)
	if lacks {
		repo = ""
	}
	return repo, err
}

// all yields everything that is placed, in an order in which it can be stored.
func (p *placement) all() iter.Seq2[registry.BulkManifest, error] {
	return func(yield func(registry.BulkManifest, error) bool) {
		for _, name := range slices.Sorted(maps.Keys(p.repos)) {
			for placed, err := range p.repos[name].all(p) {
				if !yield(placed, err) {
					return
				}
			}
		}
	}
}

func (t *target) all(p *placement) iter.Seq2[registry.BulkManifest, error] {
	return func(yield func(registry.BulkManifest, error) bool) {
		for _, m := range t.manifests {
			text, err := p.read(m.Digest)
			if err == nil && text == nil {
				err = errors.New("a manifest is gone from the archive")
			}
			put := registry.Put{Ref: registry.Reference{Digest: m.Digest}, Tags: t.tags[m.Digest], MediaType: m.MediaType, Content: text}
			if !yield(registry.BulkManifest{Repo: t.name, Put: put}, err) {
				return
			}
		}
		for _, d := range slices.Sorted(maps.Keys(t.tags)) {
			put := registry.Put{Ref: registry.Reference{Digest: d}, Tags: t.tags[d]}
			if !t.placed[d] && !yield(registry.BulkManifest{Repo: t.name, Put: put}, nil) {
				return
			}
		}
	}
}

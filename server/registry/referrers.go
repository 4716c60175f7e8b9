package registry

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	"registry/db"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// maxReferrersBytes bounds a page of referrers with its frame and commas, and what is read for it: clients refuse
	// indexes larger than a manifest may be, and many pages may be on their way at once.
	maxReferrersBytes = 1 << 20
	// referrersFrame is more than what stands around the descriptors.
	referrersFrame = 128
	// maxAnnotations bounds what a list shows of a manifest's annotations, in bytes of JSON. The rest is in the manifest.
	maxAnnotations = 64 << 10
	// maxDescriptor is more than a descriptor with so many annotations has.
	maxDescriptor = maxAnnotations + 2<<10
)

// Referrers is a page of the manifests that have a subject, in the order of their digests.
type Referrers struct {
	Descriptors []string // each a JSON object
	Last        string   // Page.Last of the next page
	More        bool
}

// referrer is an entry of a list on its way to a page.
type referrer struct {
	digest     digest.Digest
	descriptor string // JSON
}

// Referrers lists the manifests of the repository that have a subject, of one artifact type unless it is empty ("Listing
// Referrers", end-12a and end-12b), with what clients keep under the subject's fallback tag ("Referrers Tag Schema"). There
// are none of a subject or a repository that does not exist. PaginationInvalid if Page.Last is not from a page before.
func (r *Registry) Referrers(ctx context.Context, repo RepoName, subject digest.Digest, artifactType string, p Page) (Referrers, error) {
	page, err := newReferrersPage(p)
	if err != nil || p.Limit <= 0 {
		return page.Referrers, err
	}
	var listed []referrer
	var tagged taggedReferrers
	err = r.db.View(ctx, func(tx *db.Tx) (err error) {
		if listed, err = listedReferrers(tx, repo, subject, artifactType, page); err != nil {
			return err
		}
		tagged, err = findTaggedReferrers(tx, repo, subject, page)
		return err
	})
	if err != nil {
		return page.Referrers, Unknown(err, NameUnknown, repo)
	}
	more, err := tagged.read(artifactType)
	if err == nil {
		err = page.fill(sorted(append(listed, more...)))
	}
	return page.Referrers, Unknown(err, NameUnknown, repo)
}

// PageReferrers is a page of descriptors that another registry lists. What has no digest that can be asked for here is left
// out.
func PageReferrers(list []string, p Page) (Referrers, error) {
	page, err := newReferrersPage(p)
	if err != nil || p.Limit <= 0 {
		return page.Referrers, err
	}
	var all []referrer
	for _, descriptor := range list {
		if f, _ := readReferrer([]byte(descriptor)); f.digest > page.after {
			all = append(all, f)
		}
	}
	return page.Referrers, page.fill(sorted(all))
}

// listedReferrers are those that have the subject: one more than the page has room for, if there are so many.
func listedReferrers(tx *db.Tx, repo RepoName, subject digest.Digest, artifactType string, page *referrersPage) (list []referrer, err error) {
	size := 0
	err = tx.Referrers(repo, subject, artifactType, page.after, func(f db.Referrer) bool {
		list = append(list, referrer{digest: f.Digest, descriptor: f.Descriptor})
		size += len(f.Descriptor)
		return len(list) <= page.limit && (size <= maxReferrersBytes || len(list) < 2)
	})
	return list, err
}

// taggedReferrers is what clients keep under the fallback tag of a subject.
type taggedReferrers struct {
	index []byte
	here  map[digest.Digest]bool // what the index names, is here, and is not listed by the registry itself
}

// findTaggedReferrers asks for what a page needs. The index is not read here, where it would keep others from the database:
// it may name thousands.
func findTaggedReferrers(tx *db.Tx, repo RepoName, subject digest.Digest, page *referrersPage) (t taggedReferrers, err error) {
	m, err := tx.TaggedManifest(repo, referrersTag(subject))
	if errors.Is(err, db.ErrNotFound) || err == nil && !isIndex(m.MediaType) {
		return t, nil
	}
	if err != nil {
		return t, err
	}
	list, err := tx.UnlistedChildren(m, subject, page.after)
	if err != nil || len(list) == 0 {
		return t, err
	}
	t = taggedReferrers{m.Content, map[digest.Digest]bool{}}
	for _, d := range list {
		t.here[d] = true
	}
	return t, nil
}

// read returns their descriptors of one artifact type, or of all.
func (t taggedReferrers) read(artifactType string) (list []referrer, err error) {
	if len(t.here) == 0 {
		return nil, nil
	}
	var index struct{ Manifests []json.RawMessage }
	if err := json.Unmarshal(t.index, &index); err != nil {
		return nil, err
	}
	for _, raw := range index.Manifests {
		f, ofType := readReferrer(raw)
		if t.here[f.digest] && (artifactType == "" || ofType == artifactType) {
			list = append(list, f)
		}
	}
	return list, nil
}

// readReferrer reads a descriptor that was not made here. Its digest is "" if it has none that can be asked for.
func readReferrer(raw []byte) (f referrer, artifactType string) {
	var of struct{ Digest, ArtifactType string }
	if json.Unmarshal(raw, &of) == nil {
		f.digest, _ = ParseDigest(of.Digest)
	}
	f.descriptor = string(raw)
	return f, of.ArtifactType
}

// sorted brings entries into the order of their digests, each digest once.
func sorted(list []referrer) []referrer {
	slices.SortStableFunc(list, func(a, b referrer) int { return strings.Compare(string(a.digest), string(b.digest)) })
	return slices.CompactFunc(list, func(a, b referrer) bool { return a.digest == b.digest })
}

// referrersPage is a page that is being filled.
type referrersPage struct {
	Referrers
	after digest.Digest // the last of the page before; "" if this is the first
	limit int           // entries
	left  int           // bytes
}

func newReferrersPage(p Page) (page *referrersPage, err error) {
	page = &referrersPage{limit: p.Limit, left: maxReferrersBytes - referrersFrame}
	if p.Last != "" {
		if page.after, err = ParseDigest(p.Last); err != nil {
			return page, PaginationInvalid.With("last is not a digest")
		}
	}
	return page, nil
}

// fill adds those of a sorted list until there is no room. One has room whatever its size.
func (page *referrersPage) fill(list []referrer) error {
	for _, f := range list {
		size := len(f.descriptor) + len(",") // also of what is not shown: it was read
		if n := len(page.Descriptors); n == page.limit || n > 0 && size > page.left {
			page.More = true
			return nil
		}
		bound, err := boundDescriptor(f.descriptor)
		if err != nil {
			return err
		}
		page.left -= size
		page.Descriptors = append(page.Descriptors, bound)
		page.Last = f.digest.String()
	}
	return nil
}

// referrer returns the descriptor that the referrers API lists for the manifest ("Listing Referrers").
func (doc *document) referrer(d digest.Digest, size int64) ([]byte, error) {
	return json.Marshal(v1.Descriptor{
		MediaType: doc.mediaType, Digest: d, Size: size, ArtifactType: shownType(doc.artifactType), Annotations: shownAnnotations(doc.annotations),
	})
}

// boundDescriptor is a descriptor as a list shows it. Those of other registries and earlier versions may be as large as a
// manifest.
func boundDescriptor(descriptor string) (string, error) {
	if len(descriptor) <= maxDescriptor {
		return descriptor, nil
	}
	var d v1.Descriptor
	if err := json.Unmarshal([]byte(descriptor), &d); err != nil {
		d.Annotations = nil // not all of them are text
	}
	bound, err := json.Marshal(v1.Descriptor{
		MediaType: shownType(d.MediaType), Digest: d.Digest, Size: d.Size, ArtifactType: shownType(d.ArtifactType), Annotations: shownAnnotations(d.Annotations),
	})
	return string(bound), err
}

// shownType is a media type as a list shows it: what is longer than one may be is none.
func shownType(mediaType string) string {
	if len(mediaType) > maxMediaType {
		return ""
	}
	return mediaType
}

// shownAnnotations are those that fit into maxAnnotations, in the order of their names.
func shownAnnotations(all map[string]string) map[string]string {
	shown := map[string]string{}
	left := maxAnnotations
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if size := jsonSize(name) + jsonSize(all[name]) + len(":,"); size <= left {
			shown[name] = all[name]
			left -= size
		}
	}
	return shown
}

// jsonSize is the length of a text in JSON, or more if it is too long to be shown.
func jsonSize(text string) int {
	if len(text) > maxAnnotations {
		return len(text)
	}
	encoded, _ := json.Marshal(text) // it can be written, whatever it is
	return len(encoded)
}

// referrersTag is the tag under which clients keep the referrers of a subject when a registry does not list them
// ("Referrers Tag Schema").
func referrersTag(subject digest.Digest) Tag {
	part := func(s string, limit int) string {
		s = s[:min(len(s), limit)]
		return strings.Map(func(c rune) rune {
			if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' {
				return c
			}
			return '-'
		}, s)
	}
	return Tag(part(subject.Algorithm().String(), 32) + "-" + part(subject.Encoded(), 64))
}

package syncer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"registry/server/registry"
)

// Removal is a tag here that its source has no more, or that the filters keep out by now.
type Removal struct {
	Repository registry.RepoName `json:"repository"`
	Tag        registry.Tag      `json:"tag"`
	Why        string            `json:"why"`
}

func (r Removal) String() string { return string(r.Repository) + ":" + string(r.Tag) }

// Refusal is a repository of which nothing is removed, because it is not known well enough what its source has.
type Refusal struct {
	Repository registry.RepoName `json:"repository"`
	Why        string            `json:"why"`
}

// keep is what the entries of a file want in one repository.
type keep struct {
	source map[registry.Tag]bool // what any of the sources has
	wanted map[registry.Tag]bool
	whole  bool   // an entry copies a whole repository to it
	digest bool   // and tags that belong to manifests by their names, as long as a source has them
	others bool   // or as long as they are here: nobody has listed those of a single image
	why    string // why nothing is removed, "" if nothing is against it
}

// Plan names what may be removed after the entries of a whole file have run. It names nothing of a repository if a list
// could not be had or is empty, or if nothing would be left that the file wants; and nothing of repositories that no entry
// copies as a whole.
func (s *Syncer) Plan(ctx context.Context, reports []Report) (removals []Removal, refusals []Refusal, err error) {
	for target, k := range keeps(reports) {
		switch {
		case !k.whole:
			continue
		case k.why == "" && len(k.wanted) == 0:
			k.why = "the filters let no tag through"
		}
		if k.why != "" {
			refusals = append(refusals, Refusal{target, k.why})
			continue
		}
		list, err := s.unwanted(ctx, target, k)
		if err != nil {
			return nil, nil, err
		}
		removals = append(removals, list...)
	}
	slices.SortFunc(removals, func(a, b Removal) int { return strings.Compare(a.String(), b.String()) })
	slices.SortFunc(refusals, func(a, b Refusal) int { return strings.Compare(string(a.Repository), string(b.Repository)) })
	return removals, refusals, nil
}

// keeps puts together what several entries want of one target.
func keeps(reports []Report) map[registry.RepoName]*keep {
	all := map[registry.RepoName]*keep{}
	of := func(target registry.RepoName) *keep {
		if all[target] == nil {
			all[target] = &keep{source: map[registry.Tag]bool{}, wanted: map[registry.Tag]bool{}}
		}
		return all[target]
	}
	for _, r := range reports {
		if r.entry.Type == Image {
			k := of(r.entry.Target)
			k.wanted[r.entry.TargetTag] = true
			k.others = k.others || r.entry.DigestTags
		}
		for _, l := range r.listings {
			k := of(l.target)
			k.whole, k.digest = true, k.digest || r.entry.DigestTags
			if l.err == nil && len(l.has) == 0 {
				l.err = errors.New("the source has no tags")
			}
			if l.err != nil {
				k.why = explain(l.err)
			}
			for _, tag := range l.has {
				k.source[tag] = true
			}
			for _, tag := range l.wanted {
				k.wanted[tag] = true
			}
		}
	}
	for _, r := range reports { // what it would have listed is not known
		for target, k := range all {
			if r.entry.Type == Registry && !r.listed && strings.HasPrefix(string(target), string(r.entry.Target)+"/") {
				k.why = "the repositories of " + r.Source + " could not be listed"
			}
		}
	}
	return all
}

// unwanted lists the tags of a repository that may go.
func (s *Syncer) unwanted(ctx context.Context, target registry.RepoName, k *keep) (list []Removal, err error) {
	page := registry.Page{Limit: 1000}
	for more := true; more; {
		var tags []string
		tags, more, err = s.cfg.Registry.Tags(ctx, target, page)
		if registry.NameUnknown.Is(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for _, text := range tags {
			page.Last = text
			switch tag := registry.Tag(text); {
			case k.wanted[tag], isDigestTag(text) && (k.others || k.digest && k.source[tag]):
			case k.source[tag]:
				list = append(list, Removal{target, tag, "the filters do not allow it"})
			default:
				list = append(list, Removal{target, tag, "the source does not have it"})
			}
		}
	}
	return list, nil
}

// isDigestTag says whether a tag belongs to a manifest by its name.
func isDigestTag(tag string) bool {
	prefix, _, _ := strings.Cut(tag, ".")
	algorithm, hex, ok := strings.Cut(prefix, "-")
	return ok && (algorithm == "sha256" || algorithm == "sha512") && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// Prune removes tags that Plan has named, so that they can be restored within the undo window. It tries all of them.
func (s *Syncer) Prune(ctx context.Context, removals []Removal) (removed []Removal, err error) {
	for _, r := range removals {
		failed := s.cfg.Registry.DeleteTag(ctx, r.Repository, r.Tag)
		switch {
		case failed == nil:
			removed = append(removed, r)
		case !registry.ManifestUnknown.Is(failed): // which somebody else removed
			err = errors.Join(err, fmt.Errorf("%s: %w", r, failed))
		}
	}
	return removed, err
}

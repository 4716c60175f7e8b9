package command

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"registry/server/registry"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"
)

// pattern is what an argument names: repositories, or tags or one manifest in them. Repository and tag may be globs.
type pattern struct {
	repo   string
	tag    string        // "" if the argument has none
	digest digest.Digest // "" if the argument has none
}

// parsePattern takes REPO, REPO:TAG or REPO@DIGEST apart.
func parsePattern(arg string) (p pattern, err error) {
	repo, hash, isDigest := strings.Cut(arg, "@")
	if isDigest {
		if p.digest, err = registry.ParseDigest(hash); err != nil {
			return p, usagef("%s: %q is not a digest", arg, hash)
		}
	}
	tag, isTag := "", false
	if colon := strings.LastIndexByte(repo, ':'); colon > strings.LastIndexByte(repo, '/') { // or it is a host's
		repo, tag, isTag = repo[:colon], repo[colon+1:], true
	}
	if p.repo, p.tag = repo, tag; isTag && isDigest {
		return p, usagef("%s: say a tag or a digest, not both", arg)
	}
	if err := checkGlob(repo, func() error { _, err := registry.ParseRepoName(repo); return err }); err != nil {
		return p, usagef("%s: %q is not a repository name: names here have no host in front, only a-z, 0-9, '.', '_', '-' and '/'", arg, repo)
	}
	if !isTag {
		return p, nil
	}
	if err := checkGlob(tag, func() error { _, err := registry.ParseTag(tag); return err }); err != nil {
		return p, usagef("%s: %q is not a tag", arg, tag)
	}
	return p, nil
}

// checkGlob checks a glob as such and everything else by exact.
func checkGlob(s string, exact func() error) error {
	switch {
	case !isGlob(s):
		return exact()
	case !doublestar.ValidatePattern(s):
		return errors.New("bad glob")
	}
	return nil
}

// parsePatterns parses all arguments before anything is done about the first.
func parsePatterns(args []string) ([]pattern, error) {
	var all []pattern
	for _, arg := range args {
		p, err := parsePattern(arg)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

func (p pattern) String() string {
	switch {
	case p.digest != "":
		return p.repo + "@" + p.digest.String()
	case p.tag != "":
		return p.repo + ":" + p.tag
	}
	return p.repo
}

const globCharacters = `*?[{\`

func isGlob(s string) bool { return strings.ContainsAny(s, globCharacters) }

func (p pattern) isGlob() bool { return isGlob(p.repo) || isGlob(p.tag) }

// image is the one manifest that the pattern names.
func (p pattern) image() (registry.RepoName, registry.Reference, error) {
	if p.isGlob() || p.tag == "" && p.digest == "" {
		return "", registry.Reference{}, usagef("%s: want REPO:TAG or REPO@DIGEST", p)
	}
	return registry.RepoName(p.repo), registry.Reference{Tag: registry.Tag(p.tag), Digest: p.digest}, nil
}

// pageSize is how many entries one transaction reads.
const pageSize = 1000

// matching yields what list returns, page by page, as far as its name matches the glob. It reads only the part of the
// list where names begin as the glob does, so an exact name costs one lookup.
func matching[T any](glob string, list func(registry.Page) ([]T, bool, error), name func(T) string) iter.Seq2[T, error] {
	prefix, exact := glob, !isGlob(glob)
	if at := strings.IndexAny(glob, globCharacters); at >= 0 {
		prefix = glob[:at]
	}
	if under, ok := strings.CutSuffix(glob, "/**"); ok {
		glob = under + "/**/*" // team/** is what is under team, not team itself
	}
	return func(yield func(T, error) bool) {
		page := registry.Page{Last: justBefore(prefix), Limit: pageSize}
		for {
			items, more, err := list(page)
			if err != nil {
				yield(*new(T), err)
				return
			}
			for _, item := range items {
				page.Last = name(item)
				if !strings.HasPrefix(page.Last, prefix) || exact && page.Last != glob {
					return
				}
				if doublestar.MatchUnvalidated(glob, page.Last) && !yield(item, nil) {
					return
				}
			}
			if !more {
				return
			}
		}
	}
}

// justBefore returns a string that sorts after every name that sorts before prefix, and before prefix itself: no name
// has a byte above '~'.
func justBefore(prefix string) string {
	if prefix == "" {
		return ""
	}
	last := len(prefix) - 1
	return prefix[:last] + string([]byte{prefix[last] - 1, '~'})
}

func repositories(ctx context.Context, reg *registry.Registry, glob string) iter.Seq2[string, error] {
	return matching(glob, func(p registry.Page) ([]string, bool, error) { return reg.Repositories(ctx, p) }, sameString)
}

func tags(ctx context.Context, reg *registry.Registry, repo, glob string) iter.Seq2[string, error] {
	list := func(p registry.Page) ([]string, bool, error) { return reg.Tags(ctx, registry.RepoName(repo), p) }
	return matching(glob, list, sameString)
}

func sameString(s string) string { return s }

// inEach yields what inner yields for each repository that matches. A repository that is named exactly need not be in
// the catalog: inner says whether it exists.
func inEach[T any](ctx context.Context, reg *registry.Registry, glob string, inner func(repo string) iter.Seq2[T, error]) iter.Seq2[T, error] {
	if !isGlob(glob) {
		return inner(glob)
	}
	return func(yield func(T, error) bool) {
		for repo, err := range repositories(ctx, reg, glob) {
			if err != nil {
				yield(*new(T), err)
				return
			}
			for item, err := range inner(repo) {
				if !yield(item, err) || err != nil {
					return
				}
			}
		}
	}
}

// explain says in the words of the command line what the registry did not find.
func explain(what pattern, err error) error {
	switch {
	case registry.NameUnknown.Is(err):
		return fmt.Errorf("%s: no such repository", what.repo)
	case registry.ManifestUnknown.Is(err) && what.digest != "":
		return fmt.Errorf("%s: no such manifest", what)
	case registry.ManifestUnknown.Is(err):
		return fmt.Errorf("%s: no such tag", what)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

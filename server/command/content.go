package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"registry/server/registry"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
)

// The commands that list, remove and copy. They work on the database beside a running server, as the server itself
// would.

func (p *Program) repoList(ctx context.Context, s *settings) (err error) {
	patterns, err := repoPatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	if len(patterns) == 0 {
		patterns = []pattern{{repo: "**"}}
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	infos := forEach(patterns, func(what pattern) iter.Seq2[registry.RepositoryInfo, error] { return listRepositories(ctx, reg, what) })
	return list(s, infos, []string{"NAME", "TAGS", "MANIFESTS", "SIZE", "LAST PUSH"}, func(i registry.RepositoryInfo) []string {
		return []string{string(i.Name), fmt.Sprint(i.Tags), fmt.Sprint(i.Manifests), humanSize(i.Bytes), timestamp(i.LastPush)}
	})
}

func listRepositories(ctx context.Context, reg *registry.Registry, what pattern) iter.Seq2[registry.RepositoryInfo, error] {
	all := matching(what.repo,
		func(p registry.Page) ([]registry.RepositoryInfo, bool, error) { return reg.RepositoryInfos(ctx, p) },
		func(i registry.RepositoryInfo) string { return string(i.Name) })
	return orMissing(all, what, registry.NameUnknown)
}

// repoPatterns parses arguments that name whole repositories.
func repoPatterns(args []string) ([]pattern, error) {
	patterns, err := parsePatterns(args)
	for _, what := range patterns {
		if what.tag != "" || what.digest != "" {
			return nil, usagef("%s: want a repository; for tags there is registry tag", what)
		}
	}
	return patterns, err
}

func (p *Program) repoRemove(ctx context.Context, s *settings) error {
	patterns, err := repoPatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	return p.remove(ctx, s, removal{
		noun:     "repository",
		nouns:    "repositories",
		patterns: patterns,
		find: func(reg *registry.Registry, what pattern) iter.Seq2[pattern, error] {
			return inEach(ctx, reg, what.repo, func(repo string) iter.Seq2[pattern, error] {
				_, _, err := reg.Tags(ctx, registry.RepoName(repo), registry.Page{}) // says whether it exists
				return one(pattern{repo: repo}, err)
			})
		},
		remove: func(reg *registry.Registry, what pattern) error {
			return reg.DeleteRepository(ctx, registry.RepoName(what.repo))
		},
	})
}

// listedTag is a tag with the repository it is in.
type listedTag struct {
	Repository string `json:"repository"`
	registry.TagInfo
}

func (p *Program) tagList(ctx context.Context, s *settings) (err error) {
	patterns, err := parsePatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	if len(patterns) == 0 {
		return usagef("tag list wants a repository; '**' for all")
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	infos := forEach(patterns, func(what pattern) iter.Seq2[listedTag, error] { return listTags(ctx, reg, what) })
	return list(s, infos, []string{"TAG", "DIGEST", "MANIFEST", "UPDATED"}, func(i listedTag) []string {
		return []string{i.Repository + ":" + string(i.Name), i.Digest.String(), humanSize(i.Size), timestamp(i.Updated)}
	})
}

func listTags(ctx context.Context, reg *registry.Registry, what pattern) iter.Seq2[listedTag, error] {
	glob := what.tag
	if glob == "" {
		glob = "*"
	}
	all := inEach(ctx, reg, what.repo, func(repo string) iter.Seq2[listedTag, error] {
		return matching(glob, func(p registry.Page) (items []listedTag, more bool, err error) {
			infos, more, err := reg.TagInfos(ctx, registry.RepoName(repo), p)
			for _, i := range infos {
				items = append(items, listedTag{repo, i})
			}
			return items, more, err
		}, func(i listedTag) string { return string(i.Name) })
	})
	if what.tag == "" {
		return all
	}
	return orMissing(all, what, registry.ManifestUnknown)
}

func (p *Program) tagRemove(ctx context.Context, s *settings) error {
	patterns, err := parsePatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	for _, what := range patterns {
		if what.tag == "" && what.digest == "" {
			return usagef("%s: want REPO:TAG or REPO@DIGEST; for all tags say '%s:*'", what, what)
		}
	}
	only, err := s.condition()
	if err != nil {
		return err
	}
	if only != (registry.Condition{}) && (len(patterns) != 1 || patterns[0].isGlob() || patterns[0].tag == "") {
		return usagef("--if-match goes with one REPO:TAG")
	}
	return p.remove(ctx, s, removal{
		noun:     "tag or manifest",
		nouns:    "tags and manifests",
		patterns: patterns,
		find: func(reg *registry.Registry, what pattern) iter.Seq2[pattern, error] {
			return findImages(ctx, reg, what)
		},
		remove: func(reg *registry.Registry, what pattern) error {
			if what.digest != "" {
				return reg.DeleteManifest(ctx, registry.RepoName(what.repo), what.digest)
			}
			return reg.DeleteTagIf(ctx, registry.RepoName(what.repo), registry.Tag(what.tag), only)
		},
	})
}

// findImages yields the tags or manifests that match, each as an exact pattern.
func findImages(ctx context.Context, reg *registry.Registry, what pattern) iter.Seq2[pattern, error] {
	all := inEach(ctx, reg, what.repo, func(repo string) iter.Seq2[pattern, error] {
		if what.digest != "" {
			_, err := reg.StatManifest(ctx, registry.RepoName(repo), registry.Reference{Digest: what.digest})
			if isGlob(what.repo) && registry.ManifestUnknown.Is(err) {
				return func(func(pattern, error) bool) {}
			}
			return one(pattern{repo: repo, digest: what.digest}, err)
		}
		return func(yield func(pattern, error) bool) {
			for tag, err := range tags(ctx, reg, repo, what.tag) {
				if !yield(pattern{repo: repo, tag: tag}, err) {
					return
				}
			}
		}
	})
	return orMissing(all, what, registry.ManifestUnknown)
}

// removal is what repo rm and tag rm do differently.
type removal struct {
	noun, nouns string
	patterns    []pattern
	find        func(*registry.Registry, pattern) iter.Seq2[pattern, error]
	remove      func(*registry.Registry, pattern) error
}

// remove finds everything first, so that a mistyped argument removes nothing, asks, and then removes.
func (p *Program) remove(ctx context.Context, s *settings, r removal) (err error) {
	if len(r.patterns) == 0 {
		return usagef("nothing to remove was named; see %s --help", s.Command.HelpName)
	}
	undo, err := s.undoWindow()
	if err != nil {
		return err
	}
	reg, stores, err := p.openConfigured(ctx, s, registry.Config{UndoWindow: undo})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	found, err := p.findAll(reg, r)
	if err != nil {
		return err
	}
	if s.Bool("dry-run") {
		for _, what := range found {
			fmt.Fprintln(p.Stdout, "would remove", what)
		}
		return nil
	}
	if !s.Bool("yes") && isTerminal(p.Stdin) && !p.confirm(found, r) {
		return errors.New("nothing removed")
	}
	for _, what := range found {
		if err := r.remove(reg, what); err != nil {
			return explain(what, err)
		}
		fmt.Fprintln(p.Stdout, "removed", what)
	}
	return nil
}

// findAll lists what the patterns match, each thing once. Nothing at all is an error: a script that cleans up by a glob
// with a typing mistake in it should not look as if it had worked.
func (p *Program) findAll(reg *registry.Registry, r removal) ([]pattern, error) {
	var found, idle []pattern
	seen := map[pattern]bool{}
	for _, what := range r.patterns {
		matched := false
		for thing, err := range r.find(reg, what) {
			if err != nil {
				return nil, explain(what, err)
			}
			if matched = true; !seen[thing] {
				seen[thing] = true
				found = append(found, thing)
			}
		}
		if !matched {
			idle = append(idle, what)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("nothing matches %s", joined(idle))
	}
	if len(idle) > 0 {
		fmt.Fprintf(p.Stderr, "registry: nothing matches %s\n", joined(idle))
	}
	return found, nil
}

func joined(patterns []pattern) string {
	var words []string
	for _, what := range patterns {
		words = append(words, what.String())
	}
	return strings.Join(words, ", ")
}

func (p *Program) confirm(found []pattern, r removal) bool {
	for _, what := range found {
		fmt.Fprintln(p.Stderr, " ", what)
	}
	noun := r.nouns
	if len(found) == 1 {
		noun = r.noun
	}
	return p.agrees(fmt.Sprintf("Remove %s %s", humanize.Comma(int64(len(found))), noun))
}

// agrees asks somebody at a terminal.
func (p *Program) agrees(question string) bool {
	fmt.Fprintf(p.Stderr, "%s? [y/N] ", question)
	answer, _ := bufio.NewReader(p.Stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}

func (p *Program) copy(ctx context.Context, s *settings) (err error) {
	if s.NArg() != 2 {
		return usagef("cp wants a source and a destination: registry cp %s", s.Command.ArgsUsage)
	}
	patterns, err := parsePatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	src, dst := patterns[0], patterns[1]
	from, ref, err := src.image()
	if err != nil {
		return err
	}
	if dst.isGlob() || dst.digest != "" {
		return usagef("%s: want REPO or REPO:TAG to copy to", dst)
	}
	if dst.tag == "" {
		dst.tag = src.tag
	}
	only, err := s.condition()
	if err != nil {
		return err
	}
	if dst.tag == "" && only != (registry.Condition{}) {
		return usagef("%s: --if-match and --if-absent want REPO:TAG to copy to", dst)
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	var tags []registry.Tag
	if dst.tag != "" {
		tags = append(tags, registry.Tag(dst.tag))
	}
	done, err := reg.CopyIf(ctx, from, ref, registry.CopyTarget{Repository: registry.RepoName(dst.repo), Tags: tags, Referrers: !s.Bool("no-referrers"), If: only})
	if registry.ConditionFailed.Is(err) {
		return explain(dst, err)
	}
	if err != nil {
		return explain(src, err)
	}
	return printCopy(s, dst, done)
}

// condition is what the flags ask of a tag before it changes.
func (s *settings) condition() (only registry.Condition, err error) {
	if s.Bool("if-absent") {
		only.NoneMatch = &registry.Digests{Any: true}
	}
	text := s.String("if-match")
	if text == "" {
		return only, nil
	}
	d, err := registry.ParseDigest(text)
	if err != nil {
		return only, usagef("--if-match: %w", err)
	}
	if only.NoneMatch != nil {
		return only, usagef("say --if-match or --if-absent, not both")
	}
	only.Match = &registry.Digests{Of: []digest.Digest{d}}
	return only, nil
}

func printCopy(s *settings, dst pattern, done registry.CopyResult) error {
	if s.Bool("json") {
		return printJSON(s.App.Writer, done)
	}
	if dst.tag == "" {
		dst.digest = done.Digest
	}
	copied := ""
	if done.Manifests > 0 {
		copied = fmt.Sprintf(" (manifests: %d, blobs: %d)", done.Manifests, done.Blobs)
	}
	_, err := fmt.Fprintf(s.App.Writer, "%s is now %s%s\n", dst, done.Digest, copied)
	return err
}

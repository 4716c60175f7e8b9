package takeover

import (
	"context"
	"errors"
	"fmt"

	"registry/server/registry"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"
)

// Remote is a running registry that is asked what it has.
type Remote interface {
	Tags(ctx context.Context, repo string) ([]string, error)
	// Digest is of the manifest that a tag points at; "" if there is none.
	Digest(ctx context.Context, repo, tag string) (digest.Digest, error)
}

// Compare asks the registry that a directory was taken from, while it still runs, what its tags point at, and reports
// every one that points at something else here. n is how many tags it compared.
func Compare(ctx context.Context, reg *registry.Registry, remote Remote, opt Options) (n int, err error) {
	from, err := openLayout(opt.Dir)
	if err != nil {
		return 0, err
	}
	defer from.close()
	err = from.repositories("", func(name string, unreadable error) error {
		repo, invalid := registry.ParseRepoName(name)
		if unreadable != nil || invalid != nil || opt.Repo != "" && !doublestar.MatchUnvalidated(opt.Repo, name) {
			return nil
		}
		tags, err := tagsOfBoth(ctx, reg, remote, repo)
		for tag := range tags {
			if err == nil {
				n++
				err = compareTag(ctx, reg, remote, repo, tag, opt.Found)
			}
		}
		return err
	})
	return n, err
}

func tagsOfBoth(ctx context.Context, reg *registry.Registry, remote Remote, repo registry.RepoName) (map[string]bool, error) {
	all := map[string]bool{}
	theirs, err := remote.Tags(ctx, string(repo))
	for _, tag := range theirs {
		all[tag] = true
	}
	page := registry.Page{Limit: 1000}
	for more := err == nil; more; {
		var ours []string
		ours, more, err = reg.Tags(ctx, repo, page)
		if registry.NameUnknown.Is(err) {
			return all, nil
		}
		for _, tag := range ours {
			all[tag], page.Last = true, tag
		}
		more = more && err == nil
	}
	return all, err
}

func compareTag(ctx context.Context, reg *registry.Registry, remote Remote, repo registry.RepoName, tag string, found func(Finding)) error {
	theirs, err := remote.Digest(ctx, string(repo), tag)
	if err != nil {
		return err
	}
	parsed, err := registry.ParseTag(tag)
	if err != nil {
		found(Finding{Kind: "differs", Repository: string(repo), Tag: tag, Detail: "not a tag here"})
		return nil
	}
	ours, err := reg.StatManifest(ctx, repo, registry.Reference{Tag: parsed})
	if err != nil && !registry.ManifestUnknown.Is(err) {
		return errors.Join(err, ctx.Err())
	}
	if ours.Digest != theirs {
		found(Finding{Kind: "differs", Repository: string(repo), Tag: tag, Digest: ours.Digest, Detail: fmt.Sprintf("there it is %s, here %s", orNothing(theirs), orNothing(ours.Digest))})
	}
	return nil
}

func orNothing(d digest.Digest) string {
	if d == "" {
		return "nothing"
	}
	return d.String()
}

package mirror

import (
	"context"
	"errors"
	"slices"
	"time"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// listTimeout is for lists, which are asked for anew each time.
const listTimeout = 10 * time.Second

// Tags lists the tags that the upstream has, as registry.Registry.Tags does.
func (m *Mirror) Tags(ctx context.Context, repo registry.RepoName, p registry.Page) (tags []string, more bool, err error) {
	err = m.list(ctx, repo, func(ctx context.Context, remote *Remote, name string) (err error) {
		tags, more, err = remote.Tags(ctx, name, p.Last, p.Limit)
		return err
	})
	if err != nil || p.Limit <= 0 {
		return nil, false, err
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool { _, err := registry.ParseTag(tag); return err != nil })
	if len(tags) > p.Limit {
		return tags[:p.Limit], true, nil
	}
	return tags, more && len(tags) > 0, nil
}

// Referrers lists the descriptors of what has a subject at the upstream, all of them.
func (m *Mirror) Referrers(ctx context.Context, repo registry.RepoName, subject digest.Digest, artifactType string) (list []string, err error) {
	err = m.list(ctx, repo, func(ctx context.Context, remote *Remote, name string) error {
		found, err := remote.Referrers(ctx, name, subject, artifactType)
		for _, d := range found {
			list = append(list, string(d))
		}
		return err
	})
	return list, err
}

// list asks an upstream something that is not kept.
func (m *Mirror) list(ctx context.Context, repo registry.RepoName, ask func(context.Context, *Remote, string) error) error {
	up, name := m.of(repo)
	if err := up.mayAsk(m.cfg, true); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	err := ask(within, up.remote, name)
	if ctx.Err() == nil && !errors.Is(err, ErrUnknown) {
		up.heard(m.cfg, err)
	}
	return err
}

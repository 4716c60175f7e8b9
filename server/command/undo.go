package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// oneTag is the tag that the only argument names.
func (s *settings) oneTag() (registry.RepoName, registry.Tag, error) {
	patterns, err := parsePatterns(s.Args().Slice())
	if err != nil {
		return "", "", err
	}
	if len(patterns) != 1 || patterns[0].tag == "" || patterns[0].isGlob() {
		return "", "", usagef("%s wants one REPO:TAG", s.Command.HelpName)
	}
	return registry.RepoName(patterns[0].repo), registry.Tag(patterns[0].tag), nil
}

func (p *Program) tagLog(ctx context.Context, s *settings) (err error) {
	repo, tag, err := s.oneTag()
	if err != nil {
		return err
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	changes, err := reg.TagLog(ctx, repo, tag, 1000)
	if registry.ManifestUnknown.Is(err) {
		return fmt.Errorf("nothing is remembered of %s:%s", repo, tag)
	}
	if err != nil {
		return err
	}
	return list(s, all(changes), []string{"AT", "POINTED AT", "CAN BE RESTORED", "THEN"}, func(c registry.TagChange) []string {
		return []string{timestamp(c.At), orNothing(c.Before), yesNo(c.Restorable), orNothing(c.After)}
	})
}

func orNothing(d digest.Digest) string {
	if d == "" {
		return "nothing"
	}
	return d.String()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (p *Program) tagRestore(ctx context.Context, s *settings) (err error) {
	repo, tag, err := s.oneTag()
	if err != nil {
		return err
	}
	if s.String("at") != "" && s.String("to") != "" {
		return usagef("say --at or --to, not both")
	}
	at, err := s.moment("at")
	if err != nil {
		return err
	}
	var to digest.Digest
	if text := s.String("to"); text != "" {
		if to, err = registry.ParseDigest(text); err != nil {
			return usagef("--to: %w", err)
		}
	}
	only, err := s.condition()
	if err != nil {
		return err
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	if !at.IsZero() {
		if to, err = reg.TagAt(ctx, repo, tag, at); err != nil {
			return err
		}
	}
	if to, err = reg.RestoreTagIf(ctx, repo, tag, to, only); err != nil {
		return err
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, map[string]any{"repository": repo, "tag": tag, "digest": to})
	}
	_, err = fmt.Fprintf(p.Stdout, "%s:%s is %s\n", repo, tag, to)
	return err
}

// moment reads a time, or how long ago it was. It is zero if the flag was not given.
func (s *settings) moment(name string) (time.Time, error) {
	text := s.String(name)
	if text == "" {
		return time.Time{}, nil
	}
	ago, err := time.ParseDuration(text)
	if err != nil {
		ago, err = auth.ParseLifetime(text) // knows days
	}
	if err == nil && ago >= 0 {
		return time.Now().Add(-ago), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--%s %q is not a time such as 2026-01-31T12:00:00Z, nor 36h for so long ago", name, text)
}

// undelete brings manifests back, or lists those that can be brought back.
func (p *Program) undelete(ctx context.Context, s *settings) (err error) {
	patterns, err := parsePatterns(s.Args().Slice())
	if err != nil {
		return err
	}
	for _, what := range patterns {
		if what.isGlob() || what.tag != "" {
			return usagef("%s: want REPO or REPO@DIGEST; for a tag see registry tag restore", what)
		}
	}
	reg, stores, err := p.openExisting(ctx, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	if len(patterns) == 0 {
		return p.listDeleted(ctx, s, reg)
	}
	var all []undeleted
	for _, what := range patterns {
		done, err := undelete(ctx, reg, what)
		if all = append(all, done...); err != nil {
			return err
		}
	}
	if s.Bool("json") {
		return printJSON(p.Stdout, all)
	}
	for _, u := range all {
		for _, d := range u.Manifests {
			fmt.Fprintf(p.Stdout, "undeleted %s@%s\n", u.Repository, d)
		}
		for _, tag := range u.Tags {
			fmt.Fprintf(p.Stdout, "undeleted %s:%s\n", u.Repository, tag)
		}
	}
	return nil
}

type undeleted struct {
	Repository string `json:"repository"`
	registry.Undeleted
}

// undelete brings back one manifest, or all of a repository.
func undelete(ctx context.Context, reg *registry.Registry, what pattern) (done []undeleted, err error) {
	digests := []digest.Digest{what.digest}
	if what.digest == "" {
		digests = nil
		err := reg.DeletedManifests(ctx, registry.RepoName(what.repo), func(d registry.Deleted) error {
			digests = append(digests, d.Digest)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	back := map[digest.Digest]bool{}
	for _, d := range digests {
		if back[d] {
			continue // with an index it belongs to
		}
		u, err := reg.Undelete(ctx, registry.RepoName(what.repo), d)
		if err != nil {
			return done, fmt.Errorf("%s@%s cannot be undeleted: %w", what.repo, d, err)
		}
		for _, m := range u.Manifests {
			back[m] = true
		}
		done = append(done, undeleted{what.repo, u})
	}
	if len(done) == 0 {
		return nil, fmt.Errorf("nothing of %s can be undeleted", what)
	}
	return done, nil
}

func (p *Program) listDeleted(ctx context.Context, s *settings, reg *registry.Registry) error {
	items := func(yield func(registry.Deleted, error) bool) {
		stop := errors.New("stop")
		err := reg.DeletedManifests(ctx, "", func(d registry.Deleted) error {
			if !yield(d, nil) {
				return stop
			}
			return nil
		})
		if err != nil && !errors.Is(err, stop) {
			yield(registry.Deleted{}, err)
		}
	}
	return list(s, items, []string{"MANIFEST", "DELETED", "TAGS"}, func(d registry.Deleted) []string {
		var tags []string
		for _, tag := range d.Tags {
			tags = append(tags, string(tag))
		}
		return []string{string(d.Repository) + "@" + d.Digest.String(), timestamp(d.DeletedAt), strings.Join(tags, " ")}
	})
}

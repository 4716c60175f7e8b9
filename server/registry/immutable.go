package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"registry/db"

	"registry/server/match"

	"github.com/opencontainers/go-digest"
)

// ImmutableRule says which tags never point at anything else than they do: those that match the glob Tag in
// repositories that match the glob Repository.
type ImmutableRule struct {
	Repository string `json:"repository"`
	Tag        string `json:"tag"`
}

// ImmutableRules returns every rule.
func (r *Registry) ImmutableRules(ctx context.Context) ([]ImmutableRule, error) {
	return r.SomeImmutableRules(ctx, ImmutableRule{}, -1)
}

// SomeImmutableRules returns up to limit rules after another one; all if limit is negative.
func (r *Registry) SomeImmutableRules(ctx context.Context, after ImmutableRule, limit int) (rules []ImmutableRule, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		list, err := tx.SomeImmutableRules(db.ImmutableRule(after), limit)
		for _, rule := range list {
			rules = append(rules, ImmutableRule(rule))
		}
		return err
	})
	if err != nil {
		return nil, AsError(err)
	}
	return rules, nil
}

// AddImmutableRule adds a rule for tags that are there and tags to come. RuleInvalid if a glob is malformed.
func (r *Registry) AddImmutableRule(ctx context.Context, rule ImmutableRule) error {
	for _, glob := range []string{rule.Repository, rule.Tag} {
		compiled, err := match.Compile(glob)
		if err != nil {
			return RuleInvalid.With(fmt.Sprintf("%.80q is not a glob", glob))
		}
		if compiled.Cost() > maxGlobCost {
			return RuleInvalid.With(fmt.Sprintf("%.80q has too many wildcards", glob))
		}
	}
	err := r.db.Update(ctx, func(tx *db.Tx) error {
		if err := tx.AddImmutableRule(db.ImmutableRule(rule)); err != nil {
			return err
		}
		return r.audit(tx, "immutable", "", rule.Repository+":"+rule.Tag)
	})
	return Unknown(err, RuleUnknown, nil)
}

// maxGlobCost bounds what comparing a name with a glob takes: every push that moves a tag does it, while other pushes wait.
const maxGlobCost = 300

// DeleteImmutableRule removes a rule. RuleUnknown.
func (r *Registry) DeleteImmutableRule(ctx context.Context, rule ImmutableRule) error {
	err := r.db.Update(ctx, func(tx *db.Tx) error {
		if err := tx.DeleteImmutableRule(db.ImmutableRule(rule)); err != nil {
			return err
		}
		return r.audit(tx, "mutable", "", rule.Repository+":"+rule.Tag)
	})
	return Unknown(err, RuleUnknown, rule.Repository+":"+rule.Tag)
}

// refuseImmutable returns TagImmutable, with the rule as its detail, if there is one for any of the tags.
func (r *Registry) refuseImmutable(tx *db.Tx, repo RepoName, tags ...string) error {
	rules, err := tx.ImmutableRules()
	if err != nil || len(tags) == 0 {
		return err
	}
	for _, rule := range rules {
		repositories, repoErr := r.globs.Compile(rule.Repository)
		names, tagErr := r.globs.Compile(rule.Tag)
		if err := errors.Join(repoErr, tagErr); err != nil {
			return fmt.Errorf("the rule %s:%s: %w", rule.Repository, rule.Tag, err)
		}
		if !repositories.MayMatch(string(repo)) {
			continue
		}
		for _, tag := range tags {
			if names.MayMatch(tag) {
				return TagImmutable.With(fmt.Sprintf("tag %s cannot be changed: the rule %s:%s makes it immutable", tag, rule.Repository, rule.Tag))
			}
		}
	}
	return nil
}

// refuseImmutableImages is refuseImmutable for the tags of images that need what is to go. Where there is no rule, nothing
// looks for them.
func (r *Registry) refuseImmutableImages(tx *db.Tx, repo RepoName, images func() ([]db.Image, error)) error {
	rules, err := tx.ImmutableRules()
	if err != nil || len(rules) == 0 {
		return err
	}
	list, err := images()
	if err != nil {
		return err
	}
	var tags []string
	for _, i := range list {
		tags = append(tags, string(i.Tag))
	}
	return r.refuseImmutable(tx, repo, tags...)
}

// keepMediaType refuses a push that would give a manifest another media type, which one that does not say its own can have
// had: its tags would stand for something else. It is as with setTag.
func (r *Registry) keepMediaType(tx *db.Tx, repo RepoName, m db.Manifest, keep bool) error {
	was, err := tx.StatManifest(repo, m.Digest)
	if errors.Is(err, db.ErrNotFound) || err == nil && strings.EqualFold(was.MediaType, m.MediaType) {
		return nil
	}
	if err != nil {
		return err
	}
	if keep {
		return Denied.With(fmt.Sprintf("the manifest is here as %s, and changing that needs the right to push", was.MediaType))
	}
	tags, err := tx.TagsOf(was.ID, math.MaxInt)
	if err != nil {
		return err
	}
	return r.refuseImmutable(tx, repo, tags...)
}

// setTag points a tag at a manifest. If it points at another one it must not be immutable.
func (r *Registry) setTag(tx *db.Tx, repo RepoName, tag Tag, m db.Manifest) error {
	return tx.SetTagIf(m.RepositoryID, tag, m.ID, func() error { return r.refuseImmutable(tx, repo, string(tag)) })
}

// keepTags refuses a push that would move a tag, by whoever may only push what is new.
func keepTags(tx *db.Tx, repo RepoName, tags []Tag, d digest.Digest) error {
	for _, tag := range tags {
		was, err := tx.StatTaggedManifest(repo, tag)
		if errors.Is(err, db.ErrNotFound) || err == nil && was.Digest == d {
			continue
		}
		if err != nil {
			return err
		}
		return Denied.With(fmt.Sprintf("tag %s exists, and moving it needs the right to push", tag))
	}
	return nil
}

package syncer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"registry/server/mirror"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// attached brings what refers to any manifest of the image, if that is wanted, and what refers to that.
func (c *copier) attached(ctx context.Context) error {
	if c.e.Referrers {
		for i := 0; i < len(c.all); i++ {
			if err := c.referrers(ctx, c.all[i]); err != nil {
				return fmt.Errorf("what refers to %s: %w", c.all[i], err)
			}
		}
	}
	if c.e.DigestTags {
		return c.digestTags(ctx)
	}
	return nil
}

func (c *copier) referrers(ctx context.Context, subject digest.Digest) error {
	list, err := c.listReferrers(ctx, subject)
	for _, d := range list {
		if err == nil {
			err = c.whole(ctx, d.Digest, 0)
		}
	}
	return err
}

// listReferrers asks for the list, or for the tag that has it where there are none ("Referrers Tag Schema").
func (c *copier) listReferrers(ctx context.Context, subject digest.Digest) (list []v1.Descriptor, err error) {
	repo := string(c.task.from)
	var raw []json.RawMessage
	err = c.src.try(ctx, func() (err error) { raw, err = c.src.remote.Referrers(ctx, repo, subject, ""); return err })
	if !errors.Is(err, mirror.ErrUnknown) {
		for _, text := range raw {
			var d v1.Descriptor
			err = errors.Join(err, json.Unmarshal(text, &d))
			list = append(list, d)
		}
		return list, err
	}
	tag := registry.Tag(digestTag(subject))
	if c.task.listed != nil && !slices.Contains(c.task.listed, tag) {
		return nil, nil
	}
	var m mirror.Manifest
	err = c.src.try(ctx, func() (err error) {
		m, err = c.src.remote.Manifest(ctx, repo, registry.Reference{Tag: tag})
		return err
	})
	if errors.Is(err, mirror.ErrUnknown) {
		return nil, nil
	}
	var index v1.Index
	if err == nil {
		err = json.Unmarshal(m.Content, &index)
	}
	return index.Manifests, err
}

// digestTag is how the tags begin that belong to a manifest by their name.
func digestTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()[:min(64, len(d.Encoded()))]
}

// digestTags copies the tags that belong to manifests of the image, but for those that are copied anyway.
func (c *copier) digestTags(ctx context.Context) (err error) {
	tags := c.task.listed
	if tags == nil {
		err = c.src.try(ctx, func() (err error) { tags, err = c.src.remote.AllTags(ctx, string(c.task.from)); return err })
	}
	if err != nil {
		return fmt.Errorf("its tags could not be listed: %w", err)
	}
	prefixes := map[string]bool{}
	for _, d := range c.all {
		prefixes[digestTag(d)] = true
	}
	for _, tag := range tags {
		if prefix, _, _ := strings.Cut(string(tag), "."); !prefixes[prefix] || slices.Contains(c.task.wanted, tag) {
			continue
		}
		if err := c.image(ctx, registry.Reference{Tag: tag}, tag); err != nil {
			return fmt.Errorf("tag %s: %w", tag, err)
		}
	}
	return nil
}

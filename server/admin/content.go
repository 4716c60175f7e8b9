package admin

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"registry/server/auth"
	"registry/server/registry"
)

type visibility struct {
	Visibility string `json:"visibility"`
}

func visibilityOf(public bool) visibility {
	if public {
		return visibility{"public"}
	}
	return visibility{"private"}
}

func getVisibility(ctx context.Context, c Call) (Answer, error) {
	if _, _, err := c.Registry.Tags(ctx, c.Repo, registry.Page{}); err != nil { // says whether it exists
		return Answer{}, err
	}
	public, err := c.Registry.IsPublic(ctx, c.Repo)
	return found(visibilityOf(public)), err
}

func putVisibility(ctx context.Context, c Call, in visibility) (Answer, error) {
	public := in.Visibility == "public"
	if in != visibilityOf(public) {
		return Answer{}, registry.RequestInvalid.With("visibility may be public or private")
	}
	return found(in), c.Registry.SetPublic(ctx, c.Repo, public)
}

type repository struct {
	Name registry.RepoName `json:"name"`
	visibility
	Tags      int64     `json:"tags"`
	Manifests int64     `json:"manifests"`
	Bytes     int64     `json:"bytes"` // of its blobs and manifests, each counted once
	LastPush  time.Time `json:"lastPush"`
}

func getRepositories(ctx context.Context, c Call) (Answer, error) {
	p, err := c.page()
	if err != nil {
		return Answer{}, err
	}
	infos, more, err := c.Registry.RepositoryInfosFor(ctx, p, c.Auth.MayRead(c.Caller))
	if err != nil {
		return Answer{}, err
	}
	var list []repository
	for _, i := range infos {
		list = append(list, repository{i.Name, visibilityOf(i.Public), i.Tags, i.Manifests, i.Bytes, i.LastPush})
	}
	return listed("repositories", list, more, p, func(r repository) string { return string(r.Name) }), nil
}

func getImmutable(ctx context.Context, c Call) (Answer, error) {
	return paged(c, "rules", func(p registry.Page, limit int) ([]registry.ImmutableRule, error) {
		repository, tag, _ := strings.Cut(p.Last, "\n")
		return c.Registry.SomeImmutableRules(ctx, registry.ImmutableRule{Repository: repository, Tag: tag}, limit)
	}, func(r registry.ImmutableRule) string { return r.Repository + "\n" + r.Tag })
}

func putImmutable(ctx context.Context, c Call, in registry.ImmutableRule) (Answer, error) {
	return done(), c.Registry.AddImmutableRule(ctx, in)
}

func deleteImmutable(ctx context.Context, c Call, in registry.ImmutableRule) (Answer, error) {
	return done(), c.Registry.DeleteImmutableRule(ctx, in)
}

// getAudit lists events, the latest first, so that a page goes on before an id and not after a name.
func getAudit(ctx context.Context, c Call) (Answer, error) {
	p, err := c.page()
	if err != nil {
		return Answer{}, err
	}
	f, err := c.events()
	if err != nil {
		return Answer{}, err
	}
	events, more, err := onPage(p, func(_ registry.Page, limit int) ([]registry.Event, error) { return c.Registry.Audit(ctx, f, limit) })
	if err != nil {
		return Answer{}, err
	}
	a := found(map[string][]registry.Event{"events": append([]registry.Event{}, events...)})
	if more {
		a.Next = url.Values{}
		for _, name := range []string{"user", "action", "repository", "since"} {
			if value := c.Query.Get(name); value != "" {
				a.Next.Set(name, value)
			}
		}
		a.Next.Set("n", strconv.Itoa(p.Limit))
		a.Next.Set("before", strconv.FormatInt(events[len(events)-1].ID, 10))
	}
	return a, nil
}

// events reads which events are asked for.
func (c Call) events() (f registry.EventFilter, err error) {
	f = registry.EventFilter{User: c.Query.Get("user"), Action: c.Query.Get("action")}
	if text := c.Query.Get("repository"); text != "" {
		if f.Repository, err = registry.ParseRepoName(text); err != nil {
			return f, err
		}
	}
	if text := c.Query.Get("before"); text != "" {
		if f.Before, err = strconv.ParseInt(text, 10, 64); err != nil || f.Before < 0 {
			return f, registry.PaginationInvalid.With("before is not the id of an event")
		}
	}
	if text := c.Query.Get("since"); text != "" {
		if f.Since, err = time.Parse(time.RFC3339, text); err == nil {
			return f, nil
		}
		ago, err := auth.ParseLifetime(text)
		if err != nil {
			return f, registry.RequestInvalid.With("since is neither a time such as 2026-01-31T12:00:00Z nor 36h or 7d for so long ago")
		}
		f.Since = time.Now().Add(-ago)
	}
	return f, nil
}

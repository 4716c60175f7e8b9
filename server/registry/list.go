package registry

import (
	"context"
	"errors"
	"time"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// Page asks for a part of a list.
type Page struct {
	Last  string // what comes after it, in byte order; it need not exist
	Limit int    // entries at most; 0 asks for none
}

// paged asks for one more than the page has, which tells whether there are more.
func paged[T any](p Page, list func(last string, limit int) ([]T, error)) (items []T, more bool, err error) {
	if p.Limit <= 0 {
		return nil, false, nil
	}
	items, err = list(p.Last, p.Limit+1)
	if len(items) > p.Limit {
		return items[:p.Limit], true, err
	}
	return items, false, err
}

// Tags lists the tags of a repository ("Listing Tags", end-8a and end-8b). NameUnknown.
func (r *Registry) Tags(ctx context.Context, repo RepoName, p Page) (tags []string, more bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		id, err := tx.RepositoryID(repo)
		if err != nil {
			return err
		}
		tags, more, err = paged(p, func(last string, limit int) ([]string, error) { return tx.Tags(id, last, limit) })
		return err
	})
	return tags, more, Unknown(err, NameUnknown, repo)
}

// TagInfo is a tag and what it points at.
type TagInfo struct {
	Name      Tag           `json:"name"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	Size      int64         `json:"size"` // of the manifest, in bytes
	Updated   time.Time     `json:"updated"`
}

// TagInfos is Tags with what they point at.
func (r *Registry) TagInfos(ctx context.Context, repo RepoName, p Page) (infos []TagInfo, more bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		id, err := tx.RepositoryID(repo)
		if err != nil {
			return err
		}
		list, m, err := paged(p, func(last string, limit int) ([]db.TagInfo, error) { return tx.TagInfos(id, last, limit) })
		more = m
		for _, i := range list {
			infos = append(infos, TagInfo(i))
		}
		return err
	})
	return infos, more, Unknown(err, NameUnknown, repo)
}

// Repositories lists the repositories that have a manifest.
func (r *Registry) Repositories(ctx context.Context, p Page) (names []string, more bool, err error) {
	err = r.db.Lookup(ctx, func(tx *db.Tx) error {
		names, more, err = paged(p, tx.Repositories)
		return err
	})
	return names, more, Unknown(err, NameUnknown, nil)
}

// PublicRepositories is Repositories for those who may read only public ones, however many others there are. ok is false
// if that is not known from the list, because what mirrors another registry is as public as that.
func (r *Registry) PublicRepositories(ctx context.Context, p Page) (names []string, more, ok bool, err error) {
	if r.mirrors != nil {
		return nil, false, false, nil
	}
	err = r.db.Lookup(ctx, func(tx *db.Tx) error {
		names, more, err = paged(p, tx.PublicRepositories)
		return err
	})
	return names, more, true, Unknown(err, NameUnknown, nil)
}

// RepositoriesFor is Repositories for somebody who may not see all of them.
func (r *Registry) RepositoriesFor(ctx context.Context, p Page, mayRead func(repo RepoName, public bool) (bool, error)) (names []string, more bool, err error) {
	return listFor(ctx, r, p, mayRead, func(_ *db.Tx, repo RepoName) (string, error) { return string(repo), nil })
}

// listFor is a page of what item makes of the repositories that the caller may read. Whether they may is asked between
// transactions: it takes time, and there are few readers.
func listFor[T any](ctx context.Context, r *Registry, p Page, mayRead func(RepoName, bool) (bool, error), item func(*db.Tx, RepoName) (T, error)) (items []T, more bool, err error) {
	const batch = 1000
	last := p.Last
	items, more, err = paged(p, func(_ string, limit int) (seen []T, err error) {
		for end := false; !end; {
			var list []db.Visibility
			if err := r.db.View(ctx, func(tx *db.Tx) (err error) { list, err = tx.Visibilities(last, batch); return err }); err != nil {
				return nil, err
			}
			end = len(list) < batch
			var readable []RepoName
			for _, v := range list {
				if last = string(v.Repository); len(seen)+len(readable) == limit {
					return appendItems(ctx, r, seen, readable, item)
				}
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				may, err := mayRead(v.Repository, r.isPublic(v.Repository, v.Public))
				if err != nil {
					return nil, err
				}
				if may {
					readable = append(readable, v.Repository)
				}
			}
			if seen, err = appendItems(ctx, r, seen, readable, item); err != nil {
				return nil, err
			}
		}
		return seen, nil
	})
	if err != nil {
		return nil, false, AsError(err)
	}
	return items, more, nil
}

// appendItems appends what item makes of repositories. One that is gone by now is left out.
func appendItems[T any](ctx context.Context, r *Registry, items []T, repos []RepoName, item func(*db.Tx, RepoName) (T, error)) ([]T, error) {
	if len(repos) == 0 {
		return items, nil
	}
	err := r.db.View(ctx, func(tx *db.Tx) error {
		for _, repo := range repos {
			one, err := item(tx, repo)
			if errors.Is(err, db.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			items = append(items, one)
		}
		return nil
	})
	return items, err
}

// IsPublic says whether a repository is public. One that does not exist is not.
func (r *Registry) IsPublic(ctx context.Context, repo RepoName) (bool, error) {
	if public, mirrored := r.mirrored(repo); mirrored {
		return public, nil
	}
	public, err := db.Cached(ctx, r.db, db.Key{What: "visibility", Repository: repo}, func(tx *db.Tx) (bool, error) { return tx.IsPublic(repo) })
	if err != nil {
		return false, AsError(err)
	}
	return public, nil
}

// SetPublic makes a repository public or private. NameUnknown.
func (r *Registry) SetPublic(ctx context.Context, repo RepoName, public bool) error {
	err := r.db.Update(ctx, func(tx *db.Tx) error {
		if err := tx.SetPublic(repo, public); err != nil {
			return err
		}
		return r.audit(tx, "visibility", repo, visibility(public))
	})
	return Unknown(err, NameUnknown, repo)
}

func visibility(public bool) string {
	if public {
		return "public"
	}
	return "private"
}

// RepositoryInfo is a repository with its figures.
type RepositoryInfo struct {
	Name      RepoName  `json:"name"`
	Public    bool      `json:"public"`
	Tags      int64     `json:"tags"`
	Manifests int64     `json:"manifests"`
	Bytes     int64     `json:"bytes"` // of its blobs and manifests, each counted once
	LastPush  time.Time `json:"lastPush"`
}

// RepositoryInfos is Repositories with figures.
func (r *Registry) RepositoryInfos(ctx context.Context, p Page) (infos []RepositoryInfo, more bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		list, m, err := paged(p, tx.RepositoryInfos)
		more = m
		for _, i := range list {
			i.Public = r.isPublic(i.Name, i.Public)
			infos = append(infos, RepositoryInfo(i))
		}
		return err
	})
	return infos, more, Unknown(err, NameUnknown, nil)
}

// RepositoryInfosFor is RepositoryInfos for somebody who may not see all of them.
func (r *Registry) RepositoryInfosFor(ctx context.Context, p Page, mayRead func(repo RepoName, public bool) (bool, error)) ([]RepositoryInfo, bool, error) {
	return listFor(ctx, r, p, mayRead, func(tx *db.Tx, repo RepoName) (RepositoryInfo, error) {
		info, err := tx.RepositoryInfo(repo)
		info.Public = r.isPublic(repo, info.Public)
		return RepositoryInfo(info), err
	})
}

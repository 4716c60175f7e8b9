package registry

import (
	"context"

	"registry/db"
)

// Usage is how many bytes something takes.
type Usage struct {
	Repository RepoName `json:"repository"`
	Tag        Tag      `json:"tag,omitempty"`
	Logical    int64    `json:"logical"`     // all of it, each blob and manifest once
	Unique     int64    `json:"unique"`      // what nothing else has: removing it frees that, after the grace
	Shared     int64    `json:"shared"`      // the rest
	Reclaim    int64    `json:"reclaimable"` // of Unique, blobs that no manifest needs
}

func usage(repo RepoName, tag Tag, u db.Usage) Usage {
	return Usage{Repository: repo, Tag: tag, Logical: u.Logical, Unique: u.Unique, Shared: u.Logical - u.Unique, Reclaim: u.Reclaimable}
}

// RepositoryUsages returns the usage of repositories, a page at a time.
func (r *Registry) RepositoryUsages(ctx context.Context, p Page) (list []Usage, more bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		found, m, err := paged(p, tx.RepositoryUsages)
		more = m
		for _, u := range found {
			list = append(list, usage(u.Repository, "", u.Usage))
		}
		return err
	})
	return list, more, Unknown(err, NameUnknown, nil)
}

// RepositoryUsage returns the usage of one repository. NameUnknown.
func (r *Registry) RepositoryUsage(ctx context.Context, repo RepoName) (u Usage, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		found, err := tx.RepositoryUsage(repo)
		u = usage(found.Repository, "", found.Usage)
		return err
	})
	return u, Unknown(err, NameUnknown, repo)
}

// TagUsages returns the usage of the images that tags of a repository point at, with their referrers. NameUnknown.
func (r *Registry) TagUsages(ctx context.Context, repo RepoName, p Page) (list []Usage, more bool, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		id, err := tx.RepositoryID(repo)
		if err != nil {
			return err
		}
		var tags []string
		if tags, more, err = paged(p, func(last string, limit int) ([]string, error) { return tx.Tags(id, last, limit) }); err != nil {
			return err
		}
		for _, tag := range tags {
			m, err := tx.StatTaggedManifest(repo, Tag(tag))
			if err != nil {
				return err
			}
			u, err := tx.TagUsage(m.ID)
			if err != nil {
				return err
			}
			list = append(list, usage(repo, Tag(tag), u))
		}
		return nil
	})
	return list, more, Unknown(err, NameUnknown, repo)
}

// TotalUsage is what the registry takes as a whole, in bytes.
type TotalUsage struct {
	Blobs       int64 `json:"blobs"`
	Manifests   int64 `json:"manifests"`
	Reclaimable int64 `json:"reclaimable"` // blobs that no manifest needs
	Undo        int64 `json:"undo"`        // blobs that only deleted manifests need, until the undo window ends
	Damaged     int64 `json:"damaged"`
}

// TotalUsage adds everything up.
func (r *Registry) TotalUsage(ctx context.Context) (u TotalUsage, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		t, err := tx.TotalUsage()
		u = TotalUsage(t)
		return err
	})
	return u, Unknown(err, NameUnknown, nil)
}

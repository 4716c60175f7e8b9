package gc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"registry/db"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Hold is something that keeps a manifest or a blob.
type Hold struct {
	Kind       string            `json:"kind"` // tag, index, subject, manifest, lease, upload, undo
	Repository registry.RepoName `json:"repository"`
	Tag        registry.Tag      `json:"tag,omitempty"`
	Digest     digest.Digest     `json:"digest,omitempty"` // of what holds it
	Until      time.Time         `json:"until,omitzero"`   // when it ends by itself
}

// Why is what holds a manifest or a blob, or since when nothing does.
type Why struct {
	Kind    string        `json:"kind"` // manifest or blob
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"`
	Damaged bool          `json:"damaged,omitempty"`
	Holds   []Hold        `json:"holds"`
	// Held says that something holds it that does not end by itself. If not, collection takes it after CollectedAfter,
	// unless that is zero: it takes no untagged manifests unless it is told to.
	Held           bool      `json:"held"`
	Since          time.Time `json:"since,omitzero"` // when the last of what held it went
	CollectedAfter time.Time `json:"collectedAfter,omitzero"`
}

// maxHolds bounds how much of each kind is listed: a base layer may be in every image.
const maxHolds = 20

// WhyManifest explains what keeps a manifest of a repository from a collection with these options. ManifestUnknown.
func WhyManifest(ctx context.Context, reg *registry.Registry, repo registry.RepoName, ref registry.Reference, opt Options) (w Why, err error) {
	err = reg.Storage().DB.View(ctx, func(tx *db.Tx) error {
		m, err := registry.StatIn(tx, repo, ref)
		if errors.Is(err, db.ErrNotFound) && ref.Digest != "" {
			return whyDeleted(reg, tx, repo, ref.Digest, opt, &w)
		}
		if err != nil {
			return err
		}
		w = Why{Kind: "manifest", Digest: m.Digest, Size: m.Size}
		return whyManifest(reg, tx, m, opt, &w)
	})
	return w, registry.Unknown(err, registry.ManifestUnknown, ref.String())
}

func whyDeleted(reg *registry.Registry, tx *db.Tx, repo registry.RepoName, d digest.Digest, opt Options, w *Why) error {
	m, err := tx.DeletedManifest(repo, d)
	if err != nil {
		return err
	}
	until := db.Known(m.DeletedAt, tx.Now).Add(max(opt.UndoWindow, 0))
	*w = Why{Kind: "deleted manifest", Digest: d, Size: int64(len(m.Content)), Since: m.DeletedAt, CollectedAfter: until,
		Holds: []Hold{{Kind: "undo", Repository: repo, Digest: d, Until: until}}}
	return nil
}

func whyManifest(reg *registry.Registry, tx *db.Tx, m db.Manifest, opt Options, w *Why) error {
	cut := reg.Cutoff(tx.Now, opt.Grace)
	untagged := max(opt.UntaggedAfter, opt.Grace)
	holders, err := tx.Holders(m.ID, cut, maxHolders)
	if err != nil {
		return err
	}
	alive := len(holders) == maxHolders
	for _, h := range holders {
		tags, err := tx.TagsOf(h.ID, maxHolds)
		if err != nil {
			return err
		}
		for _, tag := range tags {
			w.Holds = append(w.Holds, Hold{Kind: "tag", Repository: h.Repository, Tag: registry.Tag(tag), Digest: h.Digest})
			w.Held = true
		}
		if h.ID != m.ID && len(w.Holds) < maxHolds {
			w.Holds = append(w.Holds, Hold{Kind: "index or subject", Repository: h.Repository, Digest: h.Digest})
		}
		if leased := db.Known(h.LeasedAt, tx.Now); leased.After(w.Since) {
			w.Since = leased
		}
		alive = alive || h.Alive
	}
	if until := w.Since.Add(opt.Grace); !w.Held && until.After(tx.Now) {
		w.Holds = append(w.Holds, Hold{Kind: "lease", Repository: holders[0].Repository, Until: until})
	} else if alive && !w.Held {
		w.Holds = append(w.Holds, Hold{Kind: "upload", Repository: holders[0].Repository})
	}
	dangling, err := tx.Dangling(m.ID, reg.Cutoff(tx.Now.Add(opt.Grace+time.Hour), opt.Grace))
	switch {
	case err != nil || w.Held:
		w.Since = time.Time{}
	case len(dangling) > 0:
		w.CollectedAfter = w.Since.Add(opt.Grace)
	case opt.Untagged:
		w.CollectedAfter = w.Since.Add(untagged)
	}
	return err
}

// WhyBlob explains what keeps a blob, in all repositories, from a collection with these options. BlobUnknown.
func WhyBlob(ctx context.Context, reg *registry.Registry, d digest.Digest, opt Options) (w Why, err error) {
	err = reg.Storage().DB.View(ctx, func(tx *db.Tx) error {
		b, err := tx.StoredBlob(d)
		if err != nil {
			return err
		}
		w = Why{Kind: "blob", Digest: d, Size: b.Size, Damaged: b.Damaged}
		return whyBlob(reg, tx, b, opt, &w)
	})
	return w, registry.Unknown(err, registry.BlobUnknown, d.String())
}

func whyBlob(reg *registry.Registry, tx *db.Tx, b db.StoredBlob, opt Options, w *Why) error {
	holders, err := tx.BlobHolders(b.ID, reg.Cutoff(tx.Now, opt.Grace), maxHolds)
	if err != nil {
		return err
	}
	for _, h := range holders {
		manifests, err := tx.ManifestsOfBlob(h.RepositoryID, b.ID, maxHolds)
		if err != nil {
			return err
		}
		for _, m := range manifests {
			w.Holds = append(w.Holds, Hold{Kind: "manifest", Repository: h.Repository, Digest: m.Digest})
			w.Held = true
		}
		leased := db.Known(h.LeasedAt, tx.Now)
		if leased.After(w.Since) {
			w.Since = leased
		}
		if len(manifests) > 0 {
			continue
		}
		if until := leased.Add(opt.Grace); until.After(tx.Now) {
			w.Holds = append(w.Holds, Hold{Kind: "lease", Repository: h.Repository, Until: until})
		} else if h.InSession {
			w.Holds = append(w.Holds, Hold{Kind: "upload", Repository: h.Repository})
		}
	}
	w.CollectedAfter = w.Since
	if len(holders) > 0 {
		w.CollectedAfter = w.Since.Add(opt.Grace)
	}
	deletions, err := tx.DeletionsOfBlob(b.ID, maxHolds)
	for _, m := range deletions {
		until := db.Known(m.DeletedAt, tx.Now).Add(max(opt.UndoWindow, 0))
		w.Holds = append(w.Holds, Hold{Kind: "undo", Repository: m.Repository, Digest: m.Digest, Until: until})
		if until.After(w.CollectedAfter) {
			w.CollectedAfter = until
		}
	}
	if w.Held {
		w.Since, w.CollectedAfter = time.Time{}, time.Time{}
	}
	return err
}

// String says it in a line.
func (h Hold) String() string {
	switch h.Kind {
	case "tag":
		return fmt.Sprintf("tag %s:%s (%s)", h.Repository, h.Tag, h.Digest)
	case "lease":
		return fmt.Sprintf("lease in %s until %s: a client was told it is there, or it lost what held it", h.Repository, h.Until.UTC().Format(time.RFC3339))
	case "upload":
		return fmt.Sprintf("an upload that is open in %s: a push may still be going on", h.Repository)
	case "undo":
		return fmt.Sprintf("deleted manifest %s@%s, which can be undeleted until %s", h.Repository, h.Digest, h.Until.UTC().Format(time.RFC3339))
	}
	return fmt.Sprintf("%s %s@%s", h.Kind, h.Repository, h.Digest)
}

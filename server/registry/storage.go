package registry

import (
	"log/slog"
	"time"

	"registry/blobs"
	"registry/db"
)

// Storage is where a registry keeps everything. It is for the packages that maintain the whole of it (gc, check, backup),
// which follow the rules at the top of this package.
type Storage struct {
	DB    *db.DB
	Blobs blobs.Store
	Log   *slog.Logger
}

// Storage returns where the registry keeps everything.
func (r *Registry) Storage() Storage { return Storage{DB: r.db, Blobs: r.blobs, Log: r.log} }

// Over returns a registry with the same settings over another database and store, such as copies of its own.
func (r *Registry) Over(d *db.DB, store blobs.Store) *Registry {
	return New(Config{DB: d, Blobs: store, Log: r.log, Sparse: r.sparse, UploadTimeout: r.uploadTimeout, UndoWindow: r.undoWindow})
}

// MinOrphanAge is how old a file without a row must be before it may be removed, whatever the grace: a push has stored its
// file but not committed its row yet.
const MinOrphanAge = time.Hour

// Cutoff returns up to when leases and upload sessions have ended for a collection with a grace.
func (r *Registry) Cutoff(now time.Time, grace time.Duration) db.Cutoff {
	// Uploads that were broken off stay open for a day. Only one that moves is a push that is still going on.
	return db.Cutoff{Leases: now.Add(-grace), Sessions: now.Add(-min(grace, r.uploadTimeout)), Grace: grace}
}

// AcceptsMissing says whether manifests may name content that their repository does not have.
func (r *Registry) AcceptsMissing() bool { return r.sparse != SparseNone }

// StatIn returns the row of a manifest of a repository without its content. db.ErrNotFound.
func StatIn(tx *db.Tx, repo RepoName, ref Reference) (db.Manifest, error) {
	return named(tx, repo, ref, (*db.Tx).StatManifest, (*db.Tx).StatTaggedManifest)
}

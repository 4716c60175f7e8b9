package registry

import (
	"context"
	"strings"
	"time"

	"registry/db"

	"github.com/opencontainers/go-digest"
)

// Actor is for whom something is done.
type Actor struct {
	User    string // "" for nobody who logged in
	Address string // "" for a command on this machine
}

// As returns the registry as an actor uses it: what the actor changes is written to the audit in the same transaction, and
// upload sessions are their own.
func (r *Registry) As(a Actor) *Registry { return &Registry{shared: r.shared, actor: &a} }

func (r *Registry) user() string {
	if r.actor == nil {
		return ""
	}
	return r.actor.User
}

// audit writes what the actor does. Without one there is nobody to write about.
func (r *Registry) audit(tx *db.Tx, action string, repo RepoName, detail string) error {
	if r.actor == nil {
		return nil
	}
	e := db.Event{User: r.actor.User, Address: r.actor.Address, Action: action, Repository: repo, Detail: detail}
	return tx.Audit(e)
}

// pushed describes a manifest and the tags that point at it now.
func pushed(tags []Tag, d digest.Digest) string {
	var s strings.Builder
	for _, t := range tags {
		s.WriteString(string(t) + " ")
	}
	return s.String() + string(d)
}

// pruneAudit removes what is older than it has to be.
func (r *Registry) pruneAudit(ctx context.Context) error {
	const batch = 1000
	if r.auditKeep < 0 {
		return nil
	}
	for n := int64(batch); n >= batch; {
		err := r.db.Relaxed(ctx, func(tx *db.Tx) (err error) {
			n, err = tx.PruneEvents(tx.Now.Add(-r.auditKeep), batch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// auditLog copies what is written to the audit to the log, whatever process wrote it.
type auditLog struct {
	last  int64 // event that is in the log
	began bool
}

// follow logs what came since the last time. The first time nothing did.
func (a *auditLog) follow(ctx context.Context, r *Registry) error {
	const batch = 1000
	last, err := db.Cached(ctx, r.db, db.Key{What: "audit"}, (*db.Tx).LastEvent)
	if !a.began {
		a.began, a.last = err == nil, last
	}
	for err == nil && a.last < last {
		var list []db.Event
		err = r.db.Lookup(ctx, func(tx *db.Tx) (err error) { list, err = tx.EventsAfter(a.last, batch); return err })
		for _, e := range list {
			r.log.Info("audit", "at", e.At, "user", e.User, "address", e.Address, "action", e.Action, "repository", e.Repository, "detail", e.Detail)
			a.last = e.ID
		}
		if len(list) < batch {
			break
		}
	}
	return err
}

// Event is something that somebody did.
type Event struct {
	ID         int64     `json:"id"` // grows
	At         time.Time `json:"at"`
	User       string    `json:"user"`
	Address    string    `json:"address"` // "" for a command on this machine
	Action     string    `json:"action"`
	Repository RepoName  `json:"repository,omitempty"`
	Detail     string    `json:"detail"`
}

// EventFilter chooses events. Zero fields choose all.
type EventFilter = db.EventFilter

// Audit returns up to limit events, the latest first.
func (r *Registry) Audit(ctx context.Context, f EventFilter, limit int) (events []Event, err error) {
	err = r.db.View(ctx, func(tx *db.Tx) error {
		list, err := tx.Events(f, limit)
		for _, e := range list {
			events = append(events, Event(e))
		}
		return err
	})
	if err != nil {
		return nil, AsError(err)
	}
	return events, nil
}

package db

import (
	"database/sql"
	"time"
)

// Event is something that somebody did.
type Event struct {
	ID         int64 // grows
	At         time.Time
	User       string // "" if nobody had logged in
	Address    string // "" on this machine, by command
	Action     string
	Repository RepoName
	Detail     string
}

// Audit writes an event, at the time of the transaction.
func (tx *Tx) Audit(e Event) error {
	_, err := tx.run(`INSERT INTO audit (at, actor, address, action, repository, detail) VALUES (?, ?, ?, ?, ?, ?)`,
		micros(tx.Now), e.User, e.Address, e.Action, string(e.Repository), e.Detail)
	return err
}

// EventFilter chooses events. Zero fields choose all.
type EventFilter struct {
	User, Action string
	Repository   RepoName
	Since        time.Time
	Before       int64 // ids below it
}

// Events returns up to limit events, the latest first.
func (tx *Tx) Events(f EventFilter, limit int) (list []Event, err error) {
	before := f.Before
	if before <= 0 {
		before = 1<<63 - 1
	}
	return tx.events(`WHERE id < ? AND at >= ? AND ? IN ('', actor) AND ? IN ('', action) AND ? IN ('', repository) ORDER BY id DESC LIMIT ?`,
		before, whenever(f.Since), f.User, f.Action, string(f.Repository), limit)
}

// EventsAfter returns up to limit events after an id, in order.
func (tx *Tx) EventsAfter(id int64, limit int) ([]Event, error) {
	return tx.events(`WHERE id > ? ORDER BY id LIMIT ?`, id, limit)
}

// LastEvent returns the id of the latest event, 0 if there is none.
func (tx *Tx) LastEvent() (id int64, err error) {
	err = tx.row(`SELECT coalesce(max(id), 0) FROM audit`, nil, &id)
	return id, err
}

func (tx *Tx) events(where string, args ...any) (list []Event, err error) {
	err = tx.rows(`SELECT id, at, actor, address, action, repository, detail FROM audit `+where, args, func(r *sql.Rows) error {
		var e Event
		var at int64
		err := r.Scan(&e.ID, &at, &e.User, &e.Address, &e.Action, &e.Repository, &e.Detail)
		e.At = fromMicros(at)
		list = append(list, e)
		return err
	})
	return list, err
}

// PruneEvents removes up to limit events from before a time, and as many from the future that came before one of these,
// and returns how many. The last one stays, so that no id is
// used twice.
func (tx *Tx) PruneEvents(before time.Time, limit int) (int64, error) {
	return tx.run(`DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? AND id < (SELECT max(id) FROM audit) ORDER BY at LIMIT ?)
		OR id IN (SELECT id FROM audit WHERE at > ? AND id < (SELECT max(id) FROM audit WHERE at < ?) LIMIT ?)`,
		micros(before), limit, tx.ahead(), micros(before), limit)
}

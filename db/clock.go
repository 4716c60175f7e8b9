package db

import (
	"database/sql"
	"math"
	"time"
)

// A clock that was ahead once leaves times from the future behind: of a machine without a battery for its clock, of a
// wrong setting. Nothing may wait until they have come. So every stored time that is compared goes by these rules:
//
//   - Whether the holder of a lock lives is seen by its beat moving, not by the time in it (TakeLock).
//   - Any other time from the future is not known. What was confirmed, verified or retired then counts as long ago (Age).
//   - What begins a period (a lease, the undo of a deletion, an upload) begins it anew when collection comes across it: it
//     may have happened a moment ago, by a clock that has been put back since.

// Skew is how far a stored time may be ahead of the clock: the clocks of two processes differ a little, and a clock is
// put right by small steps.
const Skew = time.Minute

// IsAhead says whether a stored time is from the future.
func IsAhead(at, now time.Time) bool { return at.After(now.Add(Skew)) }

// Age returns how long ago a stored time was. One that is not known, because it is zero or from the future, was as long
// ago as can be.
func Age(at, now time.Time) time.Duration {
	if at.IsZero() || IsAhead(at, now) {
		return math.MaxInt64
	}
	return now.Sub(at)
}

// Known returns a stored time that begins a period as it counts now: one from the future begins it now.
func Known(at, now time.Time) time.Time {
	if IsAhead(at, now) {
		return now
	}
	return at
}

// ahead is the last stored time that is not from the future.
func (tx *Tx) ahead() int64 { return micros(tx.Now.Add(Skew)) }

// plausible is a time at which this program did not exist yet: a clock that says less was never set.
var plausible = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// BeginAnew begins what a clock that was ahead has written, up to limit rows of each kind: uploads, pulls of cached
// manifests, lives of API tokens, and deletions. It returns how many rows it has changed: none while the clock itself is wrong for certain.
func (tx *Tx) BeginAnew(limit int) (n int64, err error) {
	if tx.Now.Before(plausible) {
		return 0, nil
	}
	for _, query := range []string{
		`UPDATE uploads SET updated_at = ? WHERE id IN (SELECT id FROM uploads WHERE updated_at > ? LIMIT ?)`,
		`UPDATE uploads SET created_at = ? WHERE id IN (SELECT id FROM uploads WHERE created_at > ? LIMIT ?)`,
		`UPDATE cached_manifests SET pulled_at = ? WHERE manifest_id IN (SELECT manifest_id FROM cached_manifests WHERE pulled_at > ? LIMIT ?)`,
	} {
		changed, err := tx.run(query, micros(tx.Now), tx.ahead(), limit)
		if err != nil {
			return n, err
		}
		n += changed
	}
	tokens, err := tx.beginTokens(limit)
	if err != nil {
		return n, err
	}
	deletions, err := tx.beginDeletions(limit)
	return n + tokens + deletions, err
}

// beginTokens lets API tokens that were made in the future live from now on, for as long as they were given.
func (tx *Tx) beginTokens(limit int) (n int64, err error) {
	keys, err := tx.policyKeys(`SELECT 'token', u.name, t.name FROM api_tokens t JOIN users u ON u.id = t.user_id WHERE t.created_at > ? LIMIT ?`, tx.ahead(), limit)
	for _, k := range keys {
		if err == nil {
			_, err = tx.run(`UPDATE api_tokens SET expires_at = CASE expires_at WHEN 0 THEN 0 ELSE expires_at - created_at + ? END, created_at = ?
				WHERE name = ? AND user_id = (SELECT id FROM users WHERE name = ?)`, micros(tx.Now), micros(tx.Now), k.Item, k.Name)
		}
	}
	if len(keys) > 0 {
		err = tx.policyChanged(err, keys...)
	}
	return int64(len(keys)), err
}

// beginDeletions gives changes and deletions from the future a time now. Those of one transaction keep one time in common,
// by which TagsLostAt finds the tags that a manifest took with it, and later ones keep a later one.
func (tx *Tx) beginDeletions(limit int) (n int64, err error) {
	type moment struct {
		repository string
		at         int64
	}
	var found []moment
	err = tx.rows(`SELECT repository, at FROM changes WHERE at > ? UNION SELECT repository, deleted_at FROM deleted_manifests WHERE deleted_at > ?
		ORDER BY 2 LIMIT ?`, []any{tx.ahead(), tx.ahead(), limit}, func(r *sql.Rows) error {
		var m moment
		err := r.Scan(&m.repository, &m.at)
		found = append(found, m)
		return err
	})
	now := micros(tx.Now)
	for i, m := range found {
		for _, query := range []string{
			`UPDATE changes SET at = ? WHERE repository = ? AND at = ?`,
			`UPDATE deleted_manifests SET deleted_at = ? WHERE repository = ? AND deleted_at = ?`,
		} {
			if err != nil {
				return n, err
			}
			var changed int64
			changed, err = tx.run(query, now-int64(len(found)-1-i), m.repository, m.at)
			n += changed
		}
	}
	return n, err
}

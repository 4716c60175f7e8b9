package db

import (
	"errors"
	"time"
)

// Lock is work that somebody does alone.
type Lock struct {
	Holder  string // "" if nobody holds it
	Purpose string
	BeatAt  time.Time
}

// TakeLock gives the lock to holder, unless another holds it: then taken is false and the lock is returned as it is. A
// caller who has seen it like that for long enough knows that its holder is dead, and takes it by saying so. The time in
// it proves nothing: the clock may have been wrong when it was written, and may be wrong now.
func (tx *Tx) TakeLock(name, holder, purpose string, dead Lock) (l Lock, taken bool, err error) {
	var beat int64
	err = tx.row(`SELECT holder, purpose, beat_at FROM locks WHERE name = ?`, []any{name}, &l.Holder, &l.Purpose, &beat)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return l, false, err
	}
	if l.BeatAt = fromMicros(beat); l.Holder != "" && l.Holder != holder && l != dead {
		return l, false, nil
	}
	_, err = tx.run(`INSERT INTO locks (name, holder, purpose, beat_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, purpose = excluded.purpose, beat_at = excluded.beat_at`,
		name, holder, purpose, micros(tx.Now))
	return Lock{Holder: holder, Purpose: purpose, BeatAt: tx.Now}, err == nil, err
}

// BeatLock is the holder's sign of life: the beat moves, whatever the clock does. ErrNotFound if another has the lock by now.
func (tx *Tx) BeatLock(name, holder string) error {
	now := micros(tx.Now)
	n, err := tx.run(`UPDATE locks SET beat_at = CASE WHEN beat_at < ? THEN ? ELSE beat_at + 1 END WHERE name = ? AND holder = ?`, now, now, name, holder)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// DropLock gives the lock back. It is no error if another has it by now.
func (tx *Tx) DropLock(name, holder string) error {
	_, err := tx.run(`DELETE FROM locks WHERE name = ? AND holder = ?`, name, holder)
	return err
}

// DropLocks frees every lock, in a copy of a database whose holders know nothing of it.
func (tx *Tx) DropLocks() error {
	_, err := tx.run(`DELETE FROM locks`)
	return err
}

// Note returns what was noted under a name, "" if nothing was.
func (tx *Tx) Note(name string) (value string, err error) {
	err = tx.row(`SELECT value FROM notes WHERE name = ?`, []any{name}, &value)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	return value, err
}

// SetNote notes a value under a name.
func (tx *Tx) SetNote(name, value string) error {
	_, err := tx.run(`INSERT INTO notes (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
	return err
}

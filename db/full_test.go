package db

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

// A transaction that finds the disk full in its middle, because it is larger than the cache, says so as one does that
// finds out at its end: SQLite has taken it back by then, and what the commit says is something else.
func TestFullInTheMiddle(t *testing.T) {
	d := openHere(t, filepath.Join(t.TempDir(), "reg.db"))
	defer d.Close()
	set := func(tx *Tx, pages int) error {
		_, err := tx.conn.ExecContext(context.Background(), fmt.Sprintf("PRAGMA max_page_count = %d", pages))
		return err
	}
	err := d.Update(t.Context(), func(tx *Tx) error {
		if err := set(tx, 1); err != nil { // which means: as many as there are
			return err
		}
		return tx.SetNote("x", string(make([]byte, 1<<20)))
	})
	if !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	if err := d.Update(t.Context(), func(tx *Tx) error { return errors.Join(set(tx, 1<<30), tx.SetNote("x", "y")) }); err != nil {
		t.Error(err)
	}
}

package db

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"testing"
)

// SQLite ends the whole transaction when a statement meets a full disk. The functions that share the transaction are
// told so, and those that come later do not run: each would be in a transaction of its own that nobody commits.
func TestFullDiskEndsTheGroup(t *testing.T) {
	d := openHere(t, filepath.Join(t.TempDir(), "reg.db"))
	defer d.Close()
	repository := func(name RepoName) func(*Tx) error {
		return func(tx *Tx) error { _, err := tx.MakeRepository(name, false); return err }
	}
	fill := func(tx *Tx) error {
		if _, err := tx.run("PRAGMA max_page_count = 1"); err != nil { // what it has now
			return err
		}
		_, err := tx.run(`INSERT INTO uploads (id, repository, algorithm, size, hash_state, boot_id, updated_at) VALUES ('a', '', '', 0, zeroblob(100000), '', 0)`)
		return err
	}
	// The first function holds the writer until the others wait in the queue, in this order.
	hold, held := make(chan bool), make(chan bool)
	results := []chan error{}
	do := func(fn func(*Tx) error) {
		result := make(chan error, 1)
		results = append(results, result)
		queued := len(d.writer.queue)
		go func() { result <- d.Update(context.Background(), fn) }()
		for len(results) > 1 && len(d.writer.queue) == queued {
			runtime.Gosched()
		}
	}
	do(func(*Tx) error { close(held); <-hold; return nil })
	<-held
	do(repository("before"))
	do(fill)
	do(repository("after"))
	close(hold)
	for i, result := range results {
		if err := <-result; !errors.Is(err, ErrFull) {
			t.Errorf("function %d: %v", i, err)
		}
	}
	err := d.Update(t.Context(), func(tx *Tx) error {
		for _, name := range []RepoName{"before", "after"} {
			if _, err := tx.RepositoryID(name); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", name, err)
			}
		}
		_, err := tx.run("PRAGMA max_page_count = 1000000")
		return errors.Join(err, repository("later")(tx))
	})
	if err != nil {
		t.Error(err)
	}
}

package db_test

import (
	"errors"
	"path/filepath"
	"testing"

	"registry/db"
	"registry/db/dbtest"
)

// TestRecall asks the same question again and again while this database and another one of the same file, as another
// process would have it, commit: an answer is never older than the last commit.
func TestRecall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	ours, theirs := dbtest.OpenAt(t, path, nil), dbtest.OpenAt(t, path, nil)
	for i, writer := range []*db.DB{ours, theirs, theirs, ours} {
		for j, write := range []func(*db.DB, db.RepoName) error{
			func(d *db.DB, name db.RepoName) error { return d.Update(t.Context(), make1(name)) },
			func(d *db.DB, name db.RepoName) error { return d.Relaxed(t.Context(), drop1(name)) },
		} {
			if err := write(writer, "a"); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				for _, d := range []*db.DB{ours, theirs} {
					_, err := db.Cached(t.Context(), d, db.Key{What: "id", Repository: "a"}, func(tx *db.Tx) (int64, error) { return tx.RepositoryID("a") })
					if gone := j == 1; errors.Is(err, db.ErrNotFound) != gone || err != nil && !gone {
						t.Fatalf("round %d, write %d: %v", i, j, err)
					}
				}
			}
		}
		if err := theirs.Checkpoint(t.Context()); err != nil && !errors.Is(err, db.ErrBusy) {
			t.Fatal(err)
		}
	}
}

func make1(name db.RepoName) func(*db.Tx) error {
	return func(tx *db.Tx) error { _, err := tx.MakeRepository(name, false); return err }
}

func drop1(name db.RepoName) func(*db.Tx) error {
	return func(tx *db.Tx) error {
		id, err := tx.RepositoryID(name)
		if err != nil {
			return err
		}
		return tx.DropRepository(id)
	}
}

// TestRecallSpares says that a question is not asked twice while nothing is committed, and asked again after a commit.
func TestRecallSpares(t *testing.T) {
	d := dbtest.Open(t)
	asked := 0
	ask := func(item string) int {
		t.Helper()
		n, err := db.Cached(t.Context(), d, db.Key{What: "n", Item: item}, func(*db.Tx) (int, error) { asked++; return asked, nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ask("a")
	if asked == 1 && ask("a") == 2 {
		t.Skip("nothing is remembered here")
	}
	if n := ask("b"); n != 2 {
		t.Error("another question has the answer of the first:", n)
	}
	if err := d.Relaxed(t.Context(), make1("x")); err != nil {
		t.Fatal(err)
	}
	if n := ask("a"); n != 3 {
		t.Error("an answer of before the commit:", n)
	}
}

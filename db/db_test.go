package db_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/db"
	"registry/db/dbtest"
)

func TestWritesThatArriveTogether(t *testing.T) {
	d := dbtest.Open(t)
	refused := errors.New("refused")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			write := d.Update
			if i%3 == 0 {
				write = d.Relaxed
			}
			err := write(t.Context(), func(tx *db.Tx) error {
				if _, err := tx.MakeRepository(db.RepoName(fmt.Sprint("repo", i)), false); err != nil {
					return err
				}
				switch i % 10 {
				case 7:
					return refused
				case 8:
					panic("boom")
				}
				return nil
			})
			switch bad := err != nil; {
			case i%10 == 7 && !errors.Is(err, refused), i%10 == 8 && (err == nil || !strings.Contains(err.Error(), "boom")), i%10 < 7 && bad:
				t.Errorf("write %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range 200 {
		err := d.View(t.Context(), func(tx *db.Tx) error {
			_, err := tx.RepositoryID(db.RepoName(fmt.Sprint("repo", i)))
			return err
		})
		if gone := i%10 == 7 || i%10 == 8; errors.Is(err, db.ErrNotFound) != gone || err != nil && !gone {
			t.Errorf("repository %d: %v", i, err)
		}
	}
	if s := d.Stats(); s.Transactions != 200 || s.Groups == 0 || s.Groups > 200 {
		t.Errorf("stats %+v", s)
	}
}

func TestCancelledWriteNeverRuns(t *testing.T) {
	d := dbtest.Open(t)
	hold, held := make(chan bool), make(chan bool)
	go d.Update(context.Background(), func(*db.Tx) error { close(held); <-hold; return nil })
	<-held
	ctx, cancel := context.WithCancel(t.Context())
	ran := false
	result := make(chan error)
	go func() { result <- d.Update(ctx, func(*db.Tx) error { ran = true; return nil }) }()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hold)
	if err := d.Update(t.Context(), func(*db.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
	if ran {
		t.Error("a cancelled write ran")
	}
}

func TestReadersCannotWrite(t *testing.T) {
	d := dbtest.Open(t)
	err := d.View(t.Context(), func(tx *db.Tx) error {
		_, err := tx.MakeRepository("a", false)
		return err
	})
	if err == nil {
		t.Error("a reader wrote")
	}
}

func TestWriteAfterClose(t *testing.T) {
	d, err := db.Open(t.Context(), db.Options{Path: filepath.Join(t.TempDir(), "reg.db"), Schema: dbtest.Schema(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Update(t.Context(), func(*db.Tx) error { return nil }); !errors.Is(err, db.ErrClosed) {
		t.Error(err)
	}
}

// Two programs open a new file at once, and write to it at the same time: a collector beside a server.
func TestTwoWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	var wg sync.WaitGroup
	for p := range 2 {
		wg.Go(func() {
			d, err := db.Open(t.Context(), db.Options{Path: path, Schema: dbtest.Schema(t)})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			for i := range 100 {
				err := d.Update(t.Context(), func(tx *db.Tx) error {
					_, err := tx.MakeRepository(db.RepoName(fmt.Sprintf("r%d-%d", p, i)), false)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestOpenRefuses(t *testing.T) {
	good := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "reg.db")
		d, err := db.Open(t.Context(), db.Options{Path: path, Schema: dbtest.Schema(t)})
		if err != nil {
			t.Fatal(err)
		}
		err = d.Update(t.Context(), func(tx *db.Tx) error {
			for i := range 500 {
				if _, err := tx.MakeRepository(db.RepoName(fmt.Sprint("repository-with-a-name-", i)), false); err != nil {
					return err
				}
			}
			return nil
		})
		if err := errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
		return path
	}
	exec := func(query string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			raw, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			if _, err := raw.Exec(query); err != nil {
				t.Fatal(err)
			}
		}
	}
	overwrite := func(at int64, n int) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte(strings.Repeat("\xa5", n)), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		harm func(t *testing.T, path string)
		want string
	}{
		"newer":          {exec("PRAGMA user_version = 99"), "newer program"},
		"not ours":       {exec("PRAGMA application_id = 7"), "not a registry's database"},
		"analysed":       {exec("ANALYZE"), "analysed"},
		"damaged header": {overwrite(0, 100), "not a database"},
		"damaged page":   {overwrite(4096*3, 4096), "damaged"},
		"cut short":      {func(t *testing.T, path string) { os.Truncate(path, 4096*5) }, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := good(t)
			c.harm(t, path)
			d, err := db.Open(t.Context(), db.Options{Path: path, Schema: dbtest.Schema(t)})
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want it to say %q", err, c.want)
			}
		})
	}
}

func TestNewFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	d := dbtest.OpenAt(t, path, nil)
	if err := d.Update(t.Context(), func(tx *db.Tx) error { _, err := tx.MakeRepository("a", false); return err }); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + "-wal", path + "-shm"} {
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p, info.Mode(), err)
		}
	}
}

func TestStrangePaths(t *testing.T) {
	for _, name := range []string{"with space.db", "per%cent.db", "que?stion.db", "ha#sh.db", "&and=.db"} {
		path := filepath.Join(t.TempDir(), name)
		dbtest.OpenAt(t, path, nil)
		if _, err := os.Stat(path + "-wal"); err != nil {
			t.Error(err)
		}
	}
}

// A database whose log could not be folded in when it was closed does not take the place of another without it.
func TestInstallWithLog(t *testing.T) {
	for name, move := range map[string]func(from, to string) error{"install": db.Install, "replace": db.Replace} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from.db"), filepath.Join(dir, "to.db")
		d, err := db.Open(t.Context(), db.Options{Path: from, Schema: dbtest.Schema(t)})
		if err != nil {
			t.Fatal(err)
		}
		reader, err := sql.Open("sqlite", from)
		if err != nil {
			t.Fatal(err)
		}
		snapshot, err := reader.Begin()
		if err == nil {
			err = snapshot.QueryRow("SELECT count(*) FROM blobs").Scan(new(int))
		}
		if err == nil {
			err = d.Update(t.Context(), func(tx *db.Tx) error { _, err := tx.MakeRepository("a", false); return err })
		}
		if err = errors.Join(err, d.Close()); err != nil {
			t.Fatal(err)
		}
		if err := move(from, to); err == nil {
			t.Error(name, "without the log")
		}
		if err := errors.Join(snapshot.Rollback(), reader.Close()); err != nil { // the last to close it folds the log in
			t.Fatal(err)
		}
		if err := move(from, to); err != nil {
			t.Error(name, err)
		}
		if got := query(t, to, "SELECT name FROM repositories"); len(got) != 1 {
			t.Error(name, got)
		}
	}
}

// Opening a database does not wait for who writes to it: beside a busy server it would hardly ever get the lock.
func TestOpenBesideAWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	d := dbtest.OpenAt(t, path, nil)
	inside, leave := make(chan bool), make(chan bool)
	enter := sync.OnceFunc(func() { close(inside) })
	written, opened := make(chan error, 1), make(chan error, 1)
	go func() {
		written <- d.Update(context.Background(), func(*db.Tx) error { enter(); <-leave; return nil })
	}()
	<-inside
	go func() {
		other, err := db.Open(context.Background(), db.Options{Path: path, Schema: dbtest.Schema(t)})
		if err == nil {
			err = other.Close()
		}
		opened <- err
	}()
	select {
	case err := <-opened:
		if err != nil {
			t.Error(err)
		}
		close(leave)
	case <-time.After(5 * time.Second):
		t.Error("it waits")
		close(leave)
		<-opened
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}

// TestLookup asks once, and sees what was committed since the last one on the same connection; twice it may not ask.
func TestLookup(t *testing.T) {
	d := dbtest.Open(t)
	find := func(tx *db.Tx) error { _, err := tx.RepositoryID("a"); return err }
	for range 10 {
		if err := d.Lookup(t.Context(), find); !errors.Is(err, db.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if err := d.Update(t.Context(), func(tx *db.Tx) error { _, err := tx.MakeRepository("a", false); return err }); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := d.Lookup(t.Context(), find); err != nil {
			t.Fatal(err)
		}
	}
	err := d.Lookup(t.Context(), func(tx *db.Tx) error { return errors.Join(find(tx), find(tx)) })
	if err == nil || errors.Is(err, db.ErrNotFound) {
		t.Error("a second statement ran, on another snapshot:", err)
	}
}

package db

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// bloat makes a database large and then nearly empty.
func bloat(t *testing.T, d *DB) {
	t.Helper()
	const rows = 3000
	err := d.Update(t.Context(), func(tx *Tx) error {
		for i := range rows {
			if err := tx.SetNote(fmt.Sprint("note ", i), strings.Repeat("x", 2000)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = d.Update(t.Context(), func(tx *Tx) error { _, err := tx.run(`DELETE FROM notes WHERE name <> 'note 7'`); return err })
	}
	if err == nil {
		err = d.Checkpoint(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// openOld opens a database whose file was made without the means to give pages back.
func openOld(t *testing.T, path string) *DB {
	t.Helper()
	if err := makePrivate(path); err != nil {
		t.Fatal(err)
	}
	c, err := openFile(path, "page_size(4096)", "journal_mode(WAL)")
	if err == nil {
		err = errors.Join(c.Ping(), c.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return openHere(t, path)
}

// wantWhole looks at what bloat left, and at everything else.
func wantWhole(t *testing.T, d *DB) {
	t.Helper()
	problems, err := d.Integrity(t.Context())
	if err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
	if err := d.View(t.Context(), func(tx *Tx) error {
		text, err := tx.Note("note 7")
		if len(text) != 2000 {
			t.Errorf("%d bytes of a note are left", len(text))
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// A new database gives pages back in steps, and keeps some for what comes.
func TestGiveBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	d := openHere(t, path)
	defer d.Close()
	bloat(t, d)
	before := sizeOf(t, path)
	for spare := int64(1); spare > 0; {
		err := d.Update(t.Context(), func(tx *Tx) error {
			was, err := tx.Pages()
			if err == nil {
				err = tx.GiveBack(50)
			}
			now, pageErr := tx.Pages()
			if given := was.All - now.All; given < 1 || given > 50 {
				t.Errorf("%d pages at once", given)
			}
			spare = now.Spare()
			return errors.Join(err, pageErr)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := sizeOf(t, path); after > before/4 || after < 1<<20 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	wantWhole(t, d)
}

// An older database is written anew, and gives pages back from then on. Another process has it open meanwhile.
func TestCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	d := openOld(t, path)
	defer d.Close()
	bloat(t, d)
	if err := d.View(t.Context(), func(tx *Tx) error {
		p, err := tx.Pages()
		if p.GivesBack {
			t.Error("it is no older one")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	other := openHere(t, path)
	defer other.Close()
	before, after, err := d.Compact(t.Context())
	if err != nil || before < 5<<20 || after > before/4 || sizeOf(t, path) != after {
		t.Errorf("%d bytes before, %d after, %d in the file, %v", before, after, sizeOf(t, path), err)
	}
	for _, one := range []*DB{d, other} {
		wantWhole(t, one)
		if err := one.Update(t.Context(), func(tx *Tx) error {
			p, err := tx.Pages()
			if !p.GivesBack {
				t.Error("it still gives nothing back")
			}
			return errors.Join(err, tx.SetNote("a", "b"))
		}); err != nil {
			t.Error(err)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "etilqs*"))
	if err != nil || len(left) > 0 {
		t.Error("temporary files are left", left, err)
	}
}

package db

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Under a load that never pauses the log is folded in all the same, and does not grow for ever.
func TestLogIsFoldedIn(t *testing.T) {
	d := openHere(t, filepath.Join(t.TempDir(), "reg.db"))
	defer d.Close()
	c, err := d.connect(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	content := bytes.Repeat([]byte("m"), 1<<20)
	anew := false
	for n, deadline, last := 0, time.Now().Add(time.Minute), (logPages{}); !anew; n++ {
		err := d.Relaxed(t.Context(), func(tx *Tx) error {
			repo, err := tx.MakeRepository("a", false)
			if err != nil {
				return err
			}
			_, _, err = tx.PutManifest(Manifest{RepositoryID: repo, Digest: digest.FromString("m"), MediaType: time.Now().String(), Content: content})
			if err == nil && n%2 == 1 {
				err = tx.DeleteManifest(Manifest{ID: 1, RepositoryID: repo, Digest: digest.FromString("m")}, false)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.checkpoint(t.Context(), lookOnly)
		if err != nil {
			t.Fatal(err)
		}
		anew = l.all < last.all
		last = l
		if l.all > 8*longLog || time.Now().After(deadline) {
			t.Fatalf("after %d writes %d pages are not folded in, of %d", n, l.waiting, l.all)
		}
	}
}

package db_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/db"
	"registry/db/dbtest"

	"github.com/opencontainers/go-digest"
)

// Whatever happens in whatever order and in whatever groups, the sums are what adding up says.
func TestUsageSums(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	d := dbtest.OpenAt(t, path, nil)
	random := rand.New(rand.NewPCG(1, 2))
	const repositories, blobs, manifests = 3, 6, 8
	errTakenBack := errors.New("taken back")
	repoName := func(i int) db.RepoName { return db.RepoName(fmt.Sprint("r", i)) }
	blob := func(i int) (digest.Digest, int64) { return digest.FromString(fmt.Sprint("blob ", i)), int64(1) << i }
	content := func(i int) []byte { return []byte(strings.Repeat("m", i+1)) }
	past := db.Cutoff{Leases: time.Now().Add(time.Hour), Sessions: time.Now().Add(time.Hour)}
	operations := []func(tx *db.Tx, repo int64, name db.RepoName, n int) error{
		func(tx *db.Tx, repo int64, _ db.RepoName, n int) error { // push a blob
			b, size := blob(n % blobs)
			id, _, err := tx.PutBlob(db.NewBlob{Digest: b, Size: size, Generation: strings.Repeat("0", 32)})
			if err != nil {
				return err
			}
			return tx.LinkBlob(repo, id, b)
		},
		func(tx *db.Tx, repo int64, _ db.RepoName, n int) error { // mount one
			b, _ := blob(n % blobs)
			from, err := tx.BlobSomewhere(b)
			if err != nil {
				return err
			}
			return tx.LinkBlob(repo, from.ID, b)
		},
		func(tx *db.Tx, repo int64, _ db.RepoName, n int) error { // push a manifest, sparse if it has to be
			c := content(n % manifests)
			id, _, err := tx.PutManifest(db.Manifest{RepositoryID: repo, Digest: digest.FromBytes(c), MediaType: "m", Content: c})
			var named []digest.Digest
			for i := range blobs {
				if n>>i&1 != 0 {
					b, _ := blob(i)
					named = append(named, b)
				}
			}
			if n%3 == 0 { // many references are found in another way than few
				named = slices.Repeat(named, 10)
			}
			found, finding := tx.FindBlobs(repo, named)
			if err = errors.Join(err, finding); err != nil {
				return err
			}
			var refs db.References
			for i, b := range found {
				if b.Exists() {
					refs.Blobs = append(refs.Blobs, b)
				} else {
					refs.Missing = append(refs.Missing, named[i])
				}
			}
			return tx.Hold(repo, id, refs)
		},
		func(tx *db.Tx, repo int64, name db.RepoName, n int) error { // delete a manifest, with or without undo
			m, err := tx.Manifest(name, digest.FromBytes(content(n%manifests)))
			if err != nil {
				return err
			}
			return tx.DeleteManifest(m, n%3 > 0)
		},
		func(tx *db.Tx, repo int64, name db.RepoName, n int) error { // end its undo
			m, err := tx.DeletedManifest(name, digest.FromBytes(content(n%manifests)))
			if err != nil {
				return err
			}
			return tx.ForgetDeleted(m.ID, time.Now().Add(time.Hour))
		},
		func(tx *db.Tx, repo int64, name db.RepoName, n int) error { // delete a blob
			d, _ := blob(n % blobs)
			b, err := tx.Blob(name, d)
			if err != nil {
				return err
			}
			return tx.UnlinkBlob(b, d)
		},
		func(tx *db.Tx, _ int64, _ db.RepoName, n int) error { // find one damaged
			d, _ := blob(n % blobs)
			return tx.MarkDamaged(d, strings.Repeat("0", 32))
		},
		func(tx *db.Tx, _ int64, _ db.RepoName, n int) error { // collect
			idle, err := tx.IdleBlobs(0, 0, past, n%5)
			for _, i := range idle {
				if err == nil {
					_, err = tx.UnlinkIdle(i, past)
				}
			}
			loose, listing := tx.LooseBlobs(0, past, n%5)
			for _, id := range loose {
				if err == nil {
					_, err = tx.RemoveLoose(id, past)
				}
			}
			return errors.Join(err, listing)
		},
		func(tx *db.Tx, repo int64, name db.RepoName, n int) error { // remove a repository
			list, err := tx.SomeManifests(repo, 100)
			for _, m := range list {
				if err == nil {
					err = tx.DeleteManifest(m, true)
				}
			}
			if err != nil {
				return err
			}
			return tx.DropRepository(repo)
		},
		func(tx *db.Tx, _ int64, _ db.RepoName, _ int) error { // and empty ones
			ids, err := tx.EmptyRepositories(0, past, 10)
			for _, id := range ids {
				if err == nil {
					_, err = tx.RemoveEmptyRepository(id, past)
				}
			}
			return err
		},
	}
	var done [10]int
	for range 400 {
		var group sync.WaitGroup
		for range random.IntN(8) { // that may commit together
			kind, n, fails := random.IntN(len(operations)), random.IntN(1<<10), random.IntN(6) == 0
			if kind >= 8 && random.IntN(3) > 0 {
				kind = 0 // not so often
			}
			group.Go(func() {
				err := d.Relaxed(t.Context(), func(tx *db.Tx) error {
					name := repoName(n % repositories)
					repo, err := tx.MakeRepository(name, false)
					if err == nil {
						err = operations[kind](tx, repo, name, n)
					}
					if fails && err == nil {
						err = errTakenBack
					}
					return err
				})
				if err != nil && !errors.Is(err, db.ErrNotFound) && !errors.Is(err, errTakenBack) {
					t.Error(err)
				}
			})
			done[kind]++
		}
		group.Wait()
		if wrong := wrongUsages(t, d); wrong != 0 {
			t.Fatalf("%d rows are wrong after %v:\n%q\nwant\n%q", wrong, done, query(t, path, "SELECT * FROM usage"), "what adding up says")
		}
	}
	if slices.Contains(done[:], 0) {
		t.Error(done)
	}
}

func wrongUsages(t *testing.T, d *db.DB) (n int64) {
	if err := d.View(t.Context(), func(tx *db.Tx) (err error) { n, err = tx.WrongUsages(); return err }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRepairUsage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reg.db")
	d := dbtest.OpenAt(t, path, nil)
	if err := d.Update(t.Context(), func(tx *db.Tx) error { _, err := tx.MakeRepository("a", false); return err }); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{
		`UPDATE usage SET blobs = 7`, `DELETE FROM usage WHERE repository_id = 0`, `INSERT INTO usage (repository_id) VALUES (9)`,
	} {
		query(t, path, damage)
		if wrongUsages(t, d) == 0 {
			t.Error("not noticed:", damage)
		}
		if err := d.RepairUsage(t.Context()); err != nil {
			t.Error(err)
		}
		if wrongUsages(t, d) != 0 {
			t.Error("not repaired:", damage)
		}
	}
}

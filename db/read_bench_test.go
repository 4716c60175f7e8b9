package db_test

import (
	"context"
	"testing"

	"registry/db"
	"registry/db/dbtest"

	"github.com/opencontainers/go-digest"
)

// BenchmarkRead is a question that every pull asks, with a transaction around it and without.
func BenchmarkRead(b *testing.B) {
	d := dbtest.Open(b)
	content := []byte("{}")
	err := d.Update(b.Context(), func(tx *db.Tx) error {
		repositoryID, err := tx.MakeRepository("library/app", false)
		if err != nil {
			return err
		}
		id, _, err := tx.PutManifest(db.Manifest{RepositoryID: repositoryID, Digest: digest.FromBytes(content), MediaType: "application/json", Content: content})
		if err != nil {
			return err
		}
		return tx.SetTag(repositoryID, "latest", id)
	})
	if err != nil {
		b.Fatal(err)
	}
	for name, read := range map[string]func(context.Context, func(*db.Tx) error) error{"View": d.View, "Lookup": d.Lookup} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				err := read(b.Context(), func(tx *db.Tx) error {
					_, err := tx.StatTaggedManifest("library/app", "latest")
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

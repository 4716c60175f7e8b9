package db

import (
	"os"
	"testing"
)

// openHere opens a database for tests within the package, which dbtest cannot be used in. The test closes it.
func openHere(t *testing.T, path string) *DB {
	t.Helper()
	schema, err := os.ReadFile("../schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(t.Context(), Options{Path: path, Schema: string(schema)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

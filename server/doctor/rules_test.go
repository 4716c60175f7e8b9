package doctor_test

import (
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/auth"
	"registry/server/doctor"
	"registry/server/registry"
)

// An admin is told of rules that cost more than new ones may: they are from before there was a bound.
func TestCostlyRules(t *testing.T) {
	database := dbtest.Open(t)
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config{Registry: registry.New(registry.Config{DB: database, Blobs: store}), Auth: auth.New(auth.Config{DB: database})}
	if _, err := cfg.Auth.Start(t.Context(), "password of the admin"); err != nil {
		t.Fatal(err)
	}
	err = database.Update(t.Context(), func(tx *db.Tx) error {
		for grantee, glob := range map[string]string{"@team": "team/**", "@old": strings.Repeat("{*a,a*}", 40) + "z"} {
			if err := tx.SetGrant(db.Grant{Grantee: grantee, Repository: glob, Actions: 1}); err != nil {
				return err
			}
		}
		return tx.CreateAPIToken(db.APIToken{User: "admin", Name: "ci", Hash: []byte("x"), Scopes: "pull:" + strings.Repeat("*a", 160)})
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, c := range examine(t, httptest.NewServer(s.Handler()), true) {
		if c.Name == "rules" {
			found = append(found, string(c.Level)+" "+c.Found[:min(len(c.Found), 18)])
			if c.Level != doctor.Warning || c.Advice == "" {
				t.Errorf("%+v", c)
			}
		}
	}
	if got := strings.Join(found, "; "); got != "warning those of @old, suc; warning those of admin/ci," {
		t.Error(got)
	}
}

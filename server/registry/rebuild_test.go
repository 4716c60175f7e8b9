package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"registry/db"
	"registry/db/dbtest"
	"registry/server/backup"
	"registry/server/registry"
)

// policy lists everything that says who may do what.
func (f *fixture) policy() (lines []string) {
	f.t.Helper()
	err := f.db.View(context.Background(), func(tx *db.Tx) error {
		keys, err := tx.PolicyKeys()
		for _, k := range keys {
			if err == nil {
				var e db.PolicyEntry
				e, err = tx.PolicyEntry(k)
				lines = append(lines, fmt.Sprintf("%+v", e))
			}
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// policyChanges are changes of who may do what, and of what was said before them.
var policyChanges = [][]func(*db.Tx) error{{
	func(tx *db.Tx) error {
		_, err := tx.CreateUser(db.User{Name: "alice", Password: "$argon2id$alice", Admin: true, Generation: 1<<62 + 1})
		return err
	},
	func(tx *db.Tx) error {
		_, err := tx.CreateUser(db.User{Name: "bob", Password: "$argon2id$bob", Generation: 2})
		return err
	},
	func(tx *db.Tx) error {
		_, err := tx.CreateUser(db.User{Name: "carol", Password: "$argon2id$carol", Generation: 3})
		return err
	},
	func(tx *db.Tx) error { return tx.AddMember(db.Member{Group: "team", User: "bob"}) },
	func(tx *db.Tx) error { return tx.AddMember(db.Member{Group: "team", User: "carol"}) },
	func(tx *db.Tx) error { return tx.SetGrant(db.Grant{Grantee: "bob", Repository: "a/**", Actions: 3}) },
	func(tx *db.Tx) error { return tx.SetGrant(db.Grant{Grantee: "carol", Repository: "a/**", Actions: 3}) },
	func(tx *db.Tx) error {
		return tx.SetGrant(db.Grant{Grantee: "bob", Repository: "carol/**", Actions: 3})
	},
	func(tx *db.Tx) error { return tx.SetGrant(db.Grant{Grantee: "@team", Repository: "b/*", Actions: 1}) },
	func(tx *db.Tx) error {
		return tx.CreateAPIToken(db.APIToken{User: "bob", Name: "the ci", Hash: []byte("hash of bob's"), Scopes: "pull:**", ExpiresAt: time.Unix(3e9, 0)})
	},
	func(tx *db.Tx) error {
		return tx.CreateAPIToken(db.APIToken{User: "carol", Name: "ci", Hash: []byte("hash of carol's"), Scopes: "push:a/**"})
	},
	func(tx *db.Tx) error { return tx.AddImmutableRule(db.ImmutableRule{Repository: "prod/**", Tag: "v*"}) },
	func(tx *db.Tx) error { return tx.AddImmutableRule(db.ImmutableRule{Repository: "old/**", Tag: "*"}) },
	func(tx *db.Tx) error { return tx.SetPublic("a", true) },
	func(tx *db.Tx) error { return tx.SetPublic("b", true) },
}, {
	func(tx *db.Tx) error {
		u, err := tx.User("bob")
		if err == nil {
			u.Disabled, u.Generation = true, 4
			err = tx.SaveUser(u)
		}
		return err
	},
	func(tx *db.Tx) error {
		u, err := tx.User("alice")
		if err == nil {
			err = tx.UpgradePassword(u.ID, u.Password, "$argon2id$better")
		}
		return err
	},
	func(tx *db.Tx) error { return tx.RemoveMember(db.Member{Group: "team", User: "bob"}) },
	func(tx *db.Tx) error { return tx.SetGrant(db.Grant{Grantee: "bob", Repository: "a/**", Actions: 1}) },
	func(tx *db.Tx) error { return tx.DeleteGrant("@team", "b/*") },
	func(tx *db.Tx) error { return tx.DeleteImmutableRule(db.ImmutableRule{Repository: "old/**", Tag: "*"}) },
	func(tx *db.Tx) error { return tx.SetPublic("b", false) },
}, {
	func(tx *db.Tx) error { // the next of the name has nothing of the one before
		u, err := tx.User("carol")
		if err == nil {
			err = tx.DeleteUser(u)
		}
		return err
	},
	func(tx *db.Tx) error {
		_, err := tx.CreateUser(db.User{Name: "carol", Password: "$argon2id$another", Generation: 5})
		return err
	},
	func(tx *db.Tx) error { return tx.DeleteAPIToken("bob", "the ci") },
	func(tx *db.Tx) error {
		return tx.CreateAPIToken(db.APIToken{User: "bob", Name: "another", Hash: []byte("another hash"), Scopes: "pull:**"})
	},
}}

// Who may do what is rebuilt as it was, from the journal of the registry, of its backup, and of what that was restored to.
func TestRebuildOfRights(t *testing.T) {
	f := newFixture(t)
	for _, repo := range []registry.RepoName{"a", "b", "gone"} {
		f.put(repo, "v1", image(f.blob(repo, "config")))
	}
	secret := []byte("a secret to sign with")
	if err := f.db.Update(t.Context(), func(tx *db.Tx) error {
		return tx.RotateSigningKey(db.SigningKey{ID: "key", Secret: secret}, tx.Now)
	}); err != nil {
		t.Fatal(err)
	}
	for _, changes := range policyChanges {
		for _, change := range changes {
			if err := f.db.Update(t.Context(), change); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.ExportJournal(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.db.Update(t.Context(), func(tx *db.Tx) error { return tx.SetPublic("gone", true) }); err != nil {
		t.Fatal(err)
	}
	if err := f.DeleteRepository(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	f.put("gone", "v1", image(f.blob("gone", "config"))) // and is private
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(f.root, "journal"))
	if err != nil || bytes.Contains(journal, secret) || bytes.Contains(journal, []byte(base64.StdEncoding.EncodeToString(secret))) {
		t.Error("a secret is in the journal", err)
	}
	if info, err := os.Stat(filepath.Join(f.root, "journal")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}

	dir, restored := filepath.Join(t.TempDir(), "backup"), t.TempDir()
	if _, err := backup.Make(t.Context(), f.Registry, dir, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	opt := backup.RestoreOptions{From: dir, DB: filepath.Join(restored, "reg.db"), Blobs: filepath.Join(restored, "blobs")}
	if _, _, err := backup.Restore(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	want, content := f.policy(), f.everything()
	for name, root := range map[string]string{"registry": f.root, "backup": filepath.Join(dir, "blobs"), "restored": opt.Blobs} {
		database := filepath.Join(t.TempDir(), "rebuilt.db")
		report, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: database, Blobs: root, Schema: dbtest.Schema(t)})
		if err != nil || report.Broken > 0 || report.Policy["user"] != 3 || report.Policy["token"] != 1 || len(report.Lost) == 0 {
			t.Errorf("%s: %+v, %v", name, report, err)
			continue
		}
		b := openAt(t, database, root)
		if got := b.policy(); !slices.Equal(got, want) {
			t.Errorf("%s: before\n%s\nafter\n%s", name, strings.Join(want, "\n"), strings.Join(got, "\n"))
		}
		if got := b.everything(); !slices.Equal(got, content) {
			t.Errorf("%s: other content\n%s", name, strings.Join(got, "\n"))
		}
		// The journal of the next time says the same.
		if err := b.ExportJournal(t.Context(), 0); err != nil {
			t.Error(err)
		}
		b.close()
	}
}

// A journal that an earlier program wrote says nothing of rights: it is written anew. One that is rebuilt from says so.
func TestJournalOfAnEarlierProgram(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	report, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: filepath.Join(t.TempDir(), "reg.db"), Blobs: f.root, Schema: dbtest.Schema(t)})
	if err != nil || !strings.Contains(strings.Join(report.Lost, "\n"), "users, groups, grants, API tokens") {
		t.Errorf("%+v, %v", report, err)
	}
	err = f.db.Update(t.Context(), func(tx *db.Tx) error {
		note, err := tx.Note("journal")
		if err == nil {
			err = tx.SetNote("journal", strings.Replace(note, `"format":1`, `"format":0`, 1))
		}
		return err
	})
	if err == nil {
		err = f.db.Update(t.Context(), policyChanges[0][0])
	}
	if err == nil {
		err = f.db.Update(t.Context(), func(tx *db.Tx) error { // that program pruned what it had copied
			_, err := tx.PruneChanges(tx.Now.Add(time.Hour), 1<<62, 1000)
			return err
		})
	}
	if err == nil {
		err = f.ExportJournal(t.Context(), 0)
	}
	journal, reading := os.ReadFile(filepath.Join(f.root, "journal"))
	if err != nil || reading != nil || !bytes.Contains(journal, []byte("alice")) {
		t.Errorf("%s: %v %v", journal, err, reading)
	}
}

// Lines that no program wrote are counted, and nothing comes of them.
func TestRebuildFromOddLines(t *testing.T) {
	f := newFixture(t)
	f.put("a", "v1", image(f.blob("a", "config")))
	if err := f.ExportJournal(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.store.ReplaceJournal(t.Context(), registry.OddJournal); err != nil {
		t.Fatal(err)
	}
	report, _, err := backup.Rebuild(t.Context(), backup.RebuildOptions{DB: filepath.Join(t.TempDir(), "reg.db"), Blobs: f.root, Schema: dbtest.Schema(t)})
	if err != nil || report.Broken != registry.OddLines || report.Policy["user"] != 1 {
		t.Errorf("%+v, %v", report, err)
	}
}

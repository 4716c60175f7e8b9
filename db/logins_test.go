package db_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"registry/db"
	"registry/db/dbtest"
)

// Families of refresh tokens are bounded, and end with their user.
func TestRefreshTokens(t *testing.T) {
	now := time.Unix(2e9, 0)
	d := dbtest.OpenAt(t, t.TempDir()+"/reg.db", func() time.Time { return now })
	update := func(fn func(*db.Tx) error) {
		t.Helper()
		if err := d.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(user string) (ids string) {
		t.Helper()
		update(func(tx *db.Tx) error {
			ids = ""
			list, err := tx.RefreshTokens(user, time.Unix(0, 0), "", 100)
			for _, r := range list {
				ids += r.ID
			}
			return err
		})
		return ids
	}
	var alice int64
	update(func(tx *db.Tx) (err error) {
		if alice, err = tx.CreateUser(db.User{Name: "alice"}); err != nil {
			return err
		}
		_, err = tx.CreateUser(db.User{Name: "bob"})
		return err
	})
	for i, user := range []string{"alice", "bob", "alice", "alice", "alice"} {
		now = now.Add(time.Minute)
		update(func(tx *db.Tx) error {
			return tx.CreateRefreshToken(db.RefreshToken{ID: string(rune('a' + i)), User: user, APIToken: fmt.Sprint(i)}, now.Add(-time.Hour), 3)
		})
	}
	if got := ids("alice") + " " + ids("bob") + " " + ids(""); got != "cde b bcde" {
		t.Error(got)
	}
	now = now.Add(59 * time.Minute)
	update(func(tx *db.Tx) error { return tx.UsedRefreshToken("c") })
	now = now.Add(10 * time.Minute)
	update(func(tx *db.Tx) error {
		return tx.CreateRefreshToken(db.RefreshToken{ID: "f", User: "alice"}, now.Add(-time.Hour), 3)
	})
	if got := ids("alice"); got != "cf" {
		t.Error("those that were not used for an hour stay:", got)
	}
	update(func(tx *db.Tx) error { return tx.DeleteRefreshTokensOf("alice", "2") })
	if got := ids("alice"); got != "f" {
		t.Error(got)
	}
	if err := d.Update(t.Context(), func(tx *db.Tx) error { return tx.DeleteRefreshToken("alice", "b") }); !errors.Is(err, db.ErrNotFound) {
		t.Error("that of another user:", err)
	}
	update(func(tx *db.Tx) error {
		if err := tx.AddLoginNetwork(alice, "192.0.2.1", 2); err != nil {
			return err
		}
		return tx.DeleteUser(db.User{ID: alice, Name: "alice"})
	})
	if got := ids(""); got != "b" {
		t.Error(got)
	}
}

func TestLoginNetworks(t *testing.T) {
	now := time.Unix(2e9, 0)
	d := dbtest.OpenAt(t, t.TempDir()+"/reg.db", func() time.Time { return now })
	known := ""
	err := d.Update(t.Context(), func(tx *db.Tx) error {
		known = ""
		id, err := tx.CreateUser(db.User{Name: "alice"})
		for _, network := range []string{"a", "b", "a", "c"} {
			now = now.Add(time.Minute)
			tx.Now = now
			err = errors.Join(err, tx.AddLoginNetwork(id, network, 2))
		}
		for _, network := range []string{"a", "b", "c", "d"} {
			is, knownErr := tx.LoggedInFrom("alice", network)
			if err = errors.Join(err, knownErr); is {
				known += network
			}
		}
		return err
	})
	if err != nil || known != "ac" {
		t.Error(known, err)
	}
}

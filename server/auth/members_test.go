package auth_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"registry/db"
	"registry/db/dbtest"
	"registry/server/auth"
	"registry/server/registry"
)

// What a user may do by all their groups together costs no more than one grantee's rules may.
func TestCostOfMembers(t *testing.T) {
	ctx, database := t.Context(), dbtest.Open(t)
	a := auth.New(auth.Config{DB: database})
	if _, err := a.Start(ctx, "password of the admin"); err != nil {
		t.Fatal(err)
	}
	err := database.Update(ctx, func(tx *db.Tx) error {
		_, err := tx.CreateUser(db.User{Name: "alice", Password: "x"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var by registry.Actor
	grant := func(grantee, glob string) error {
		rule, err := auth.ParseRule("pull:" + glob)
		if err != nil {
			t.Fatal(err)
		}
		return a.SetGrant(ctx, by, grantee, rule)
	}
	join := func(group string) error { return a.AddMember(ctx, by, auth.Member{Group: group, User: "alice"}) }
	costly := func(first string) string { return first + "/" + strings.Repeat("*a", 30) + "z" }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(what string, err error) {
		t.Helper()
		if !registry.RequestInvalid.Is(err) || !strings.Contains(fmt.Sprint(err), "alice") {
			t.Errorf("%s: %v, want RequestInvalid that names alice", what, err)
		}
	}
	n := 0
	for ; n < 10; n++ { // groups that alice may be in
		must(grant(fmt.Sprint("@g", n), costly("team")+fmt.Sprint(n)))
		if join(fmt.Sprint("g", n)) != nil {
			break
		}
	}
	if n == 0 || n == 10 {
		t.Fatalf("alice is in %d groups", n)
	}
	refused("one group more", join(fmt.Sprint("g", n)))
	if is, err := a.IsMember(ctx, auth.Member{Group: fmt.Sprint("g", n), User: "alice"}); is || err != nil {
		t.Errorf("alice is in a group that was refused: %v", err)
	}
	refused("a grant to a group", grant("@g0", costly("team")+"x"))
	refused("a grant to alice", grant("alice", costly("team")+"x"))
	must(grant("@g0", costly("other")))                   // which no other rule is about
	must(grant(fmt.Sprint("@g", n), costly("team")+"xx")) // alice is not in it
	for i := range 20 {                                   // what costs nothing
		must(grant(fmt.Sprint("@h", i), fmt.Sprintf("team/%d/**", i)))
		must(join(fmt.Sprint("h", i)))
	}
	if list, err := a.CostlyRules(ctx, "", 10); err != nil || len(list) != 0 {
		t.Errorf("costly rules: %v, %v", list, err)
	}
	must(database.Update(context.Background(), func(tx *db.Tx) error { // as before there was a bound
		return tx.AddMember(db.Member{Group: fmt.Sprint("g", n), User: "alice"})
	}))
	list, err := a.CostlyRules(ctx, "", 10)
	if err != nil || len(list) != 1 || list[0].Owner != "alice and groups" {
		t.Errorf("costly rules: %v, %v", list, err)
	}
}

// Rules without wildcards, and those for all below a name, mean what they mean to the matcher.
func TestLiteralRules(t *testing.T) {
	for _, c := range []struct{ rule, name string }{
		{"team", "team"}, {"team/**", "team"}, {"team/**", "team/a/b"}, {"team/a/**", "team/a"}, {"team/*", "team/a"},
		{"team", "team/a"}, {"team/**", "teams"}, {"team/a/**", "team"}, {"team/a/**", "team/ab"}, {"team/*", "team"}, {"team/*", "team/a/b"},
	} {
		want := map[string]bool{"team team": true, "team/** team": true, "team/** team/a/b": true, "team/a/** team/a": true, "team/* team/a": true}
		if got := auth.Allows(t, "pull:"+c.rule, db.RepoName(c.name)); got != want[c.rule+" "+c.name] {
			t.Errorf("%s in %s: %v", c.rule, c.name, got)
		}
	}
}

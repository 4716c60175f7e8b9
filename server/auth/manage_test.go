package auth_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"registry/db/dbtest"
	"registry/server/auth"
	"registry/server/registry"
)

func TestParseLifetime(t *testing.T) {
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"": 0, "90d": 90 * day, "1d12h": 36 * time.Hour, "12h": 12 * time.Hour, "36500d": 36500 * day, "90m": 90 * time.Minute, "0d1h": time.Hour,
	} {
		if got, err := auth.ParseLifetime(text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"0", "0d", "d", "-1d", "1d-24h", "1d-48h", "90", "1w", "36501d", "99999999d", "1d2000000h", "-5m", "1.5d", "+1d", "1 d", "1dd"} {
		if got, err := auth.ParseLifetime(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestInNamespace(t *testing.T) {
	for glob, want := range map[string]bool{
		"alice": true, "alice/app": true, "alice/**": true, "alice/*": true, "alice/{a,b}": true, `alice/\*`: true,
		"alice**": false, "alice*/x": false, "**": false, "{alice,bob}/**": false, "alicia/x": false, "alice-2/**": false,
		"bob/**": false, "*/alice": false, `\alice/x`: false, "[a]lice/x": false, "": false,
	} {
		if got := auth.InNamespace("alice", glob); got != want {
			t.Errorf("%q: %v", glob, got)
		}
	}
}

// There is always an admin who can log in, once there is one.
func TestOnlyAdminStays(t *testing.T) {
	a := auth.New(auth.Config{DB: dbtest.Open(t)})
	ctx, by := t.Context(), registry.Actor{User: "somebody"}
	for name, admin := range map[string]bool{"ann": true, "bob": false} {
		if err := a.CreateUser(ctx, by, name, "passphrase", admin, true); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{
		"removed":  a.DeleteUser(ctx, by, "ann"),
		"disabled": a.SetDisabled(ctx, by, "ann", true),
		"demoted":  a.SetAdmin(ctx, by, "ann", false),
	} {
		if !registry.Conflict.Is(err) {
			t.Errorf("the only admin can be %s: %v", what, err)
		}
	}
	if u, err := a.User(ctx, "ann"); err != nil || !u.Admin || u.Disabled {
		t.Errorf("%+v, %v", u, err)
	}
	if err := a.DeleteUser(ctx, by, "bob"); err != nil {
		t.Error(err)
	}
	if err := a.CreateUser(ctx, by, "cid", "passphrase", true, true); err != nil {
		t.Fatal(err)
	}
	if err := a.SetDisabled(ctx, by, "cid", true); err != nil {
		t.Error(err)
	}
	if err := a.SetAdmin(ctx, by, "ann", false); !registry.Conflict.Is(err) {
		t.Errorf("the only admin is one who cannot log in: %v", err)
	}
	if err := a.SetAdmin(ctx, by, "cid", false); err != nil {
		t.Errorf("an admin who could not log in: %v", err)
	}
}

func TestTokenNames(t *testing.T) {
	a := auth.New(auth.Config{DB: dbtest.Open(t)})
	ctx, by := t.Context(), registry.Actor{}
	if err := a.CreateUser(ctx, by, "ann", "passphrase", false, true); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\n", "\x7f", "\xff"} {
		if _, err := a.CreateAPIToken(ctx, by, "ann", name, "pull:**", 0); !registry.RequestInvalid.Is(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := a.CreateAPIToken(ctx, by, "ann", "laptop 2", "pull:**", 0); err != nil {
		t.Error(err)
	}
}

// Whoever registers pays as for a login.
func TestRegistrationIsThrottled(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	a := auth.New(auth.Config{DB: dbtest.OpenAt(t, filepath.Join(t.TempDir(), "reg.db"), func() time.Time { return noon })})
	ctx, by := t.Context(), registry.Actor{Address: "192.0.2.1"}
	if err := a.CreateUser(ctx, by, "ann", "passphrase", false, false); err != nil {
		t.Fatal(err)
	}
	for range 29 {
		if err := a.CreateUser(ctx, by, "ann", "passphrase", false, false); !registry.Taken.Is(err) {
			t.Fatal(err)
		}
	}
	if err := a.CreateUser(ctx, by, "ann", "passphrase", false, false); !registry.TooManyRequests.Is(err) {
		t.Error(err)
	}
	if err := a.CreateUser(ctx, by, "bob", "passphrase", false, false); err != nil {
		t.Error(err)
	}
	if err := a.CreateUser(ctx, by, "ann", "passphrase", false, true); !registry.Taken.Is(err) {
		t.Error(err)
	}
}

// What a user gives others costs them little, and is not without end.
func TestGrantsAreBounded(t *testing.T) {
	a := auth.New(auth.Config{DB: dbtest.Open(t)})
	ctx, by := t.Context(), registry.Actor{User: "eve"}
	for _, name := range []string{"eve", "ann"} {
		if err := a.CreateUser(ctx, by, name, "passphrase", false, true); err != nil {
			t.Fatal(err)
		}
	}
	give := func(grantee, glob string) error {
		return a.SetGrant(ctx, by, grantee, auth.Rule{Actions: auth.Pull, Repository: glob})
	}
	if err := give("ann", "eve/"+strings.Repeat("*a", 80)); err != nil {
		t.Fatal(err)
	}
	if err := give("ann", "eve/*"+strings.Repeat("*b", 20)); !registry.RequestInvalid.Is(err) {
		t.Error("grants that together cost too much:", err)
	}
	if err := give("ann", "team/*"+strings.Repeat("*b", 20)); err != nil {
		t.Error("no name is compared with both:", err)
	}
	for i := range 999 {
		if err := give("ann", fmt.Sprint("eve/a", i)); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := give("eve", "eve/one-more"); !registry.RequestInvalid.Is(err) {
		t.Error(err)
	}
	if err := give("ann", "eve/a7"); err != nil {
		t.Error("one that is there:", err)
	}
	if err := give("ann", "team/x"); err != nil {
		t.Error(err)
	}
}

func TestTokensAreBounded(t *testing.T) {
	a := auth.New(auth.Config{DB: dbtest.Open(t)})
	ctx, by := t.Context(), registry.Actor{}
	if err := a.CreateUser(ctx, by, "ann", "passphrase", false, true); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		if _, err := a.CreateAPIToken(ctx, by, "ann", fmt.Sprint("token", i), "pull:**", 0); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := a.CreateAPIToken(ctx, by, "ann", "one more", "pull:**", 0); !registry.RequestInvalid.Is(err) {
		t.Error(err)
	}
	if err := a.DeleteAPIToken(ctx, by, "ann", "token7"); err != nil {
		t.Error(err)
	}
	if _, err := a.CreateAPIToken(ctx, by, "ann", "one more", "pull:**", 0); err != nil {
		t.Error(err)
	}
}

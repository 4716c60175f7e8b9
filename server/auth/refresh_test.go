package auth

import (
	"context"
	"testing"
	"time"
)

// refreshed logs alice in and returns her refresh token.
func (w *world) refreshed(password, client string) string {
	w.t.Helper()
	c, err := w.Login(w.t.Context(), "alice", password, here)
	w.must(err)
	issued, err := w.Issue(w.t.Context(), c, w.reg, TokenRequest{Refresh: true, Client: client, From: here})
	w.must(err)
	if issued.Refresh == "" {
		w.t.Fatal("no refresh token")
	}
	return issued.Refresh
}

// refresh uses a refresh token and returns the next one of its family.
func (w *world) refresh(token string) (next string, err error) {
	w.t.Helper()
	c, err := w.Refresh(w.t.Context(), token, here)
	if err != nil {
		return "", err
	}
	issued, err := w.Issue(w.t.Context(), c, w.reg, TokenRequest{Refresh: true, From: here})
	return issued.Refresh, err
}

func (w *world) families(user string) []RefreshToken {
	w.t.Helper()
	list, err := w.RefreshTokens(w.t.Context(), user, "", 100)
	w.must(err)
	return list
}

// A family of refresh tokens goes on as long as it is used, and ends 90 days after its last use.
func TestFamilyEndsAfterItsLastUse(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	first := w.refreshed(cheapPassword, "docker\n\x1b[31m")
	token := first
	for range 5 {
		w.sleep(80 * 24 * time.Hour)
		next, err := w.refresh(token)
		w.must(err)
		token = next
	}
	list := w.families("alice")
	if len(list) != 1 || list[0].Client != "docker[31m" || list[0].Address != here.String() || !list[0].LastUsed.Equal(w.now()) || !list[0].Expires.Equal(w.now().Add(familyLifetime)) {
		t.Errorf("%q, at %v", list, w.now())
	}
	w.sleep(familyLifetime)
	for _, token := range []string{first, token} {
		if _, err := w.refresh(token); !isUnauthorized(err) {
			t.Error("a family that was not used goes on:", err)
		}
	}
	if list := w.families(""); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

// What ends a login ends its family, and each family ends alone.
func TestFamiliesEnd(t *testing.T) {
	for name, end := range map[string]func(*world, RefreshToken) error{
		"revoked": func(w *world, f RefreshToken) error {
			return w.DeleteRefreshToken(context.Background(), somebody, "alice", f.ID)
		},
		"password": func(w *world, _ RefreshToken) error {
			return w.SetPassword(context.Background(), somebody, "alice", "another password")
		},
		"disabled": func(w *world, _ RefreshToken) error {
			return w.SetDisabled(context.Background(), somebody, "alice", true)
		},
		"removed": func(w *world, _ RefreshToken) error { return w.DeleteUser(context.Background(), somebody, "alice") },
	} {
		w := newWorld(t)
		w.user("alice")
		token := w.refreshed(cheapPassword, "docker")
		w.must(end(w.elsewhere(), w.families("alice")[0]))
		if _, err := w.refresh(token); !isUnauthorized(err) {
			t.Errorf("%s: %v", name, err)
		}
		if list := w.families(""); len(list) != 0 {
			t.Errorf("%s: %+v", name, list)
		}
	}
	w := newWorld(t)
	w.user("alice")
	w.user("bob")
	one, two := w.refreshed(cheapPassword, "one"), w.refreshed(w.apiToken("alice", "ci", "pull:**", 0), "two")
	for _, f := range w.families("alice") {
		if f.Client == "one" {
			if err := w.DeleteRefreshToken(t.Context(), somebody, "bob", f.ID); err == nil {
				t.Error("another user ends it")
			}
		}
	}
	w.must(w.DeleteAPIToken(t.Context(), somebody, "alice", "ci"))
	if _, err := w.refresh(two); !isUnauthorized(err) {
		t.Error(err)
	}
	if _, err := w.refresh(one); err != nil || len(w.families("alice")) != 1 {
		t.Error(err, w.families("alice"))
	}
}

// A client that asks for a refresh token with every pull makes one row a minute.
func TestEqualLoginsShareAFamily(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	for range 50 {
		w.refreshed(cheapPassword, "ci")
		w.refreshed(cheapPassword, "other")
	}
	if list := w.families("alice"); len(list) != 2 {
		t.Errorf("%d families", len(list))
	}
	w.sleep(time.Minute)
	w.refreshed(cheapPassword, "ci")
	for _, f := range w.families("alice") {
		w.must(w.DeleteRefreshToken(t.Context(), somebody, "alice", f.ID))
	}
	if _, err := w.refresh(w.refreshed(cheapPassword, "ci")); err != nil { // not that of the one that was revoked
		t.Error(err)
	}
}

// Refresh tokens of earlier versions have no family: the first use begins one.
func TestRefreshTokenWithoutAFamily(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	c, err := w.Login(t.Context(), "alice", cheapPassword, here)
	w.must(err)
	old, err := w.sign(t.Context(), c, typeRefresh, nil, w.now(), oldLifetime)
	w.must(err)
	long, err := w.sign(t.Context(), c, typeRefresh, nil, w.now(), refreshLifetime)
	w.must(err)
	if _, err := w.refresh(long); !isUnauthorized(err) {
		t.Error("one that no version made:", err)
	}
	next, err := w.refresh(old)
	if err != nil || len(w.families("alice")) != 1 {
		t.Fatal(err, w.families("alice"))
	}
	w.sleep(oldLifetime)
	if _, err := w.refresh(old); !isUnauthorized(err) {
		t.Error(err)
	}
	if _, err := w.refresh(next); err != nil {
		t.Error(err)
	}
}

// A family that was used while the clock was ahead does not go on until 90 days after that time.
func TestFamilyAfterAWrongClock(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	token := w.refreshed(cheapPassword, "docker")
	const wrong = 30 * 24 * time.Hour
	w.sleep(wrong)
	next, err := w.refresh(token)
	w.must(err)
	w.sleep(-wrong)
	for _, token := range []string{token, next} {
		if _, err := w.refresh(token); !isUnauthorized(err) {
			t.Error("a family from the future goes on:", err)
		}
	}
	w.refreshed(cheapPassword, "docker")
	if list := w.families("alice"); len(list) != 1 {
		t.Errorf("it is kept: %v", list)
	}
}

package server

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"registry/db"
)

// A bearer token does not get another one: it would never end, and a refresh token is good for more than it.
func TestBearerGetsNoToken(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	narrow := w.token(basic("alice", password("alice")), "repository:alice/a:pull").Token
	for _, token := range []string{narrow, w.token("").Token} {
		if got := w.ask("GET", "/auth/token?offline_token=true", "", bearer(token)); got.Code != 401 {
			t.Error(got.Code)
		}
		form := url.Values{"access_type": {"offline"}}.Encode()
		if got := w.ask("POST", "/auth/token", form, bearer(token), "Content-Type: application/x-www-form-urlencoded"); got.Code != 401 {
			t.Error(got.Code)
		}
	}
}

// issued_at is for those who know the field, and not for those who count a token's life from it on a clock of their own.
func TestIssuedAt(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	for query, want := range map[string]bool{"scope=repository:alice/a:pull": true, "": true, "service=": true, "service=registry": false, "service=other&scope=repository:alice/a:pull": false} {
		form := []string{"Content-Type: application/x-www-form-urlencoded", basic("alice", password("alice"))}
		for _, got := range []*httptest.ResponseRecorder{w.ask("GET", "/auth/token?"+query, "", form[1]), w.ask("POST", "/auth/token", query, form...)} {
			if has := strings.Contains(got.Body.String(), `"issued_at":"2`); got.Code != 200 || has != want || strings.Contains(got.Body.String(), "issued_at") != want {
				t.Errorf("%q: %d, issued_at %v", query, got.Code, has)
			}
		}
	}
}

// What somebody gets with an API token ends with it, also if another API token is made then.
func TestBearerOfAnAPITokenThatIsRevoked(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.blob("alice/a", "secret")
	w.image("alice/a", "v1", "secret", "")
	old := w.token(basic("alice", w.apiToken("alice", "old", "pull:other/**", 0)), "repository:alice/a:pull")
	w.must(w.auth.DeleteAPIToken(t.Context(), nobody, "alice", "old"))
	w.apiToken("alice", "new", "admin:**", 0)
	if got := w.ask("GET", "/v2/", "", bearer(old.Token)); got.Code != 401 {
		t.Error("the access token:", got.Code)
	}
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {old.Refresh}, "scope": {"repository:alice/a:pull,push"}}
	if got := w.ask("POST", "/auth/token", form.Encode(), "Content-Type: application/x-www-form-urlencoded"); got.Code != 401 {
		t.Error("the refresh token:", got.Code)
	}
}

// Whoever sends rubbish makes the database no longer: only tries that the throttle let through are written down.
func TestRubbishIsNotRecorded(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	events := func() (n int) {
		w.must(w.db.View(t.Context(), func(tx *db.Tx) error {
			list, err := tx.Events(db.EventFilter{Action: "login refused"}, 100)
			n = len(list)
			return err
		}))
		return n
	}
	for _, header := range []string{"Basic", "Basic !", "Bearer x", "Rubbish x", basic("alice", "")[len("Authorization: "):] + "!", "Bearer " + w.token("").Token} {
		if got := w.ask("GET", "/auth/token", "", "Authorization: "+header); got.Code != 401 {
			t.Errorf("%.20s: %d", header, got.Code)
		}
	}
	if n := events(); n != 0 {
		t.Errorf("%d events of rubbish", n)
	}
	for _, path := range []string{"/auth/token", "/v2/"} {
		w.ask("GET", path, "", basic("alice", "wrong password"))
	}
	if n := events(); n != 2 {
		t.Errorf("%d events of two wrong passwords", n)
	}
}

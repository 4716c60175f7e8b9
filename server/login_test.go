package server

import (
	"bytes"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"registry/db"
	"registry/server/auth"
)

// Refused logins are answered alike whatever is wrong, and in the end with the time to wait.
func TestRefusedLoginsOverHTTP(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"alice", "disabled"} {
		w.user(name)
	}
	w.must(w.auth.SetDisabled(t.Context(), nobody, "disabled", true))
	for _, path := range []string{"/v2/", "/auth/token", "/v2/alice/a/tags/list"} {
		first := ""
		for _, x := range [][2]string{{"alice", "wrong password"}, {"disabled", password("disabled")}, {"unknown", "x"}, {"", ""}, {"Alice", password("alice")}, {"alice", strings.Repeat("p", 100_000)}, {"alice\x00", password("alice")}} {
			got := w.ask("GET", path, "", basic(x[0], x[1]))
			got.Header().Del("X-Request-Id")
			text := got.Body.String() + got.Header().Get("Www-Authenticate") + got.Header().Get("Content-Length")
			if first == "" {
				first = text
			}
			if got.Code != 401 || text != first {
				t.Errorf("%s %.20q: %d %s", path, x, got.Code, text)
			}
		}
	}
	for n := 0; ; n++ {
		got := w.ask("GET", "/v2/", "", basic("unknown", "x"))
		if got.Code == 429 {
			if got.Header().Get("Retry-After") != "6" || code(got) != "TOOMANYREQUESTS" || n < 20 {
				t.Error(n, got.Header(), got.Body)
			}
			break
		}
		if n > 40 {
			t.Fatal("no end")
		}
	}
	if got := w.ask("GET", "/v2/", "", basic("alice", password("alice"))); got.Code != 200 {
		t.Error("she pays for another:", got.Code)
	}
}

// Neither the log nor the audit has what lets somebody in.
func TestSecretsAreNotWrittenDown(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := New(Config{Registry: w.reg, Log: logger, Auth: auth.New(auth.Config{DB: w.db, Anonymous: true, Log: logger})})
	w.must(err)
	w.http = s.Handler()
	api := w.apiToken("alice", "x", "pull:**", 0)
	got := w.token(basic("alice", password("alice")), "repository:alice/a:pull")
	secrets := []string{password("alice"), api, got.Token, got.Refresh, "a wrong one", url.QueryEscape(password("alice")), basic("alice", password("alice"))[len("Authorization: Basic "):]}
	for _, secret := range secrets {
		w.ask("GET", "/v2/", "", basic("alice", secret))
		w.ask("GET", "/v2/", "", basic(secret, secret))
		w.ask("GET", "/v2/alice/a/manifests/v1?token="+url.QueryEscape(secret), "", bearer(secret))
		w.ask("GET", "/auth/token?password="+url.QueryEscape(secret), "", "Authorization: Basic "+secret)
		w.ask("POST", "/auth/token", form("grant_type", "password", "username", secret, "password", secret), formType)
		w.ask("POST", "/auth/token", form("grant_type", "refresh_token", "refresh_token", secret), formType)
	}
	if !strings.Contains(log.String(), "user=alice") {
		t.Error("nothing is logged:", log.String())
	}
	w.must(w.db.View(t.Context(), func(tx *db.Tx) error {
		events, err := tx.Events(db.EventFilter{}, 1000)
		for _, e := range events {
			log.WriteString(e.User + " " + e.Action + " " + e.Detail + "\n")
		}
		return err
	}))
	if !strings.Contains(log.String(), "login refused") {
		t.Error("nothing is in the audit")
	}
	for _, secret := range secrets {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%.30s is written down", secret)
		}
	}
}

package server

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"registry/server/admin"
	"registry/server/auth"
)

// Whoever may not use a route of the management is refused, before anything is done, and is told nothing of private
// repositories: each route of its table, by each principal of the matrix who may not.
func TestManagementRefuses(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.TokenLifetime = 24 * time.Hour })
	for _, k := range kinds {
		if k.exists {
			w.blob(k.name, held)
			w.image(k.name, "fixed", held, "fixed")
		}
	}
	w.public(publicRepo.name)
	n := 0
	for _, p := range principals(w) {
		if p.works {
			continue // as with every other wrong header
		}
		whole := p.user != "" && !p.bearer && !p.invalid && !strings.Contains(p.name, "API token")
		for _, r := range admin.Routes() {
			mine := p.allows(privateRepo, true)
			may := map[admin.Access]bool{admin.Everybody: !p.invalid, admin.Reader: !p.invalid, admin.User: whole, admin.Admin: whole && p.user == "admin",
				admin.RepositoryRead: !p.invalid && (mine.pull || p.bearer && p.rights.pull), admin.RepositoryAdmin: !p.invalid && (mine.pull || p.bearer && p.rights.pull)}
			if rule, ok := may[r.Access]; !ok || rule {
				if !ok {
					t.Errorf("%s %s has no rule", r.Method, r.Pattern)
				}
				continue
			}
			answers := map[kind]*httptest.ResponseRecorder{}
			for _, k := range []kind{privateRepo, missingRepo} {
				path := admin.Prefix + strings.NewReplacer("<repo>", k.name, "<name>", "alice", "<group>", "team").Replace(r.Pattern)
				var headers []string
				if h := p.header(k.name); h != "" {
					headers = append(headers, h)
				}
				n++
				got := w.ask(r.Method, path, `{}`, headers...)
				answers[k] = got
				want := 403
				switch {
				case p.invalid || p.user == "" || p.bearer:
					want = 401
				case r.Access == admin.RepositoryRead || r.Access == admin.RepositoryAdmin:
					want = 404
				}
				if got.Code != want || (want == 401) != (got.Header().Get("Www-Authenticate") != "") {
					t.Errorf("%s: %s %s: %d %s, want %d", p.name, r.Method, path, got.Code, strings.TrimSpace(got.Body.String()), want)
				}
			}
			w.checkTwins(fmt.Sprintf("%s: %s %s", p.name, r.Method, r.Pattern), variant{}, answers[privateRepo], answers[missingRepo])
		}
	}
	t.Logf("%d requests", n)
	if n < 1000 {
		t.Error("they are too few")
	}
}

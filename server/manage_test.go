package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server"
	"registry/server/admin"
	"registry/server/auth"
	"registry/server/registry"
)

// managed is a server with the users ann, who is an admin, alice and bob. Their passwords are password-NAME.
type managed struct {
	*client
	auth    *auth.Authority
	handler http.Handler
}

func newManaged(t *testing.T, cfg auth.Config, change ...func(*server.Config)) managed {
	t.Helper()
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.DB = dbtest.Open(t)
	a := auth.New(cfg)
	if _, err := a.Start(t.Context(), "password-admin"); err != nil {
		t.Fatal(err)
	}
	for name, admin := range map[string]bool{"ann": true, "alice": false, "bob": false} {
		if err := a.CreateUser(t.Context(), registry.Actor{}, name, "password-"+name, admin, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.DeleteUser(t.Context(), registry.Actor{}, auth.FirstAdmin); err != nil {
		t.Fatal(err)
	}
	sc := server.Config{Registry: registry.New(registry.Config{DB: cfg.DB, Blobs: store}), Auth: a}
	for _, c := range change {
		c(&sc)
	}
	s, err := server.New(sc)
	if err != nil {
		t.Fatal(err)
	}
	return managed{newClient(t, s), a, s.Handler()}
}

// as sends a request with Basic authentication: a name, or name:password. No name sends none.
func (m managed) as(who, method, path, body string, headers ...string) answer {
	m.t.Helper()
	if who == "" {
		return m.do(method, path, body, headers...)
	}
	name, password, ok := strings.Cut(who, ":")
	if !ok {
		password = "password-" + name
	}
	r, _ := http.NewRequest(method, m.url, nil)
	r.SetBasicAuth(name, password)
	return m.do(method, path, body, append(headers, "Authorization: "+r.Header.Get("Authorization"))...)
}

// token is a bearer token as a client gets it.
func (m managed) token(who, query string) string {
	m.t.Helper()
	a := m.as(who, "GET", "/auth/token"+query, "")
	var t struct{ Token string }
	if err := json.Unmarshal([]byte(a.body), &t); err != nil || t.Token == "" {
		m.t.Fatal(a.Status, a.body)
	}
	return "Authorization: Bearer " + t.Token
}

// pushAs pushes an image of one byte.
func (m managed) pushAs(who, repo, tag string) {
	m.t.Helper()
	blob := "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" // of x
	if a := m.as(who, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+blob, "x"); a.StatusCode != 201 {
		m.t.Fatal(a.Status, a.body)
	}
	if a := m.as(who, "PUT", "/v2/"+repo+"/manifests/"+tag, imageOf("x", ""), ociManifest); a.StatusCode != 201 {
		m.t.Fatal(a.Status, a.body)
	}
}

// managing is a request of the management API and its answer: want is the body, part of it after a ~, or the code of an
// error.
type managing struct {
	who, method, path, body string
	status                  int
	want                    string
}

func (m managed) exchange(list []managing) {
	m.t.Helper()
	t, _ := m.t.(*testing.T)
	for _, x := range list {
		name := x.who + " " + x.method + " " + x.path + " " + x.body[:min(len(x.body), 100)]
		a := m.as(x.who, x.method, "/api/v1/"+x.path, x.body)
		switch {
		case a.StatusCode != x.status:
			t.Errorf("%s: %s %.300s", name, a.Status, a.body)
		case x.status >= 400:
			checkError(t, name, a, x.want)
		case !matches(a.body, x.want):
			t.Errorf("%s: %.500s", name, a.body)
		}
		if challenged := a.Header.Get("Www-Authenticate") != ""; challenged != (a.StatusCode == 401) {
			t.Errorf("%s: %s with the challenge %q", name, a.Status, a.Header.Get("Www-Authenticate"))
		}
	}
}

func TestManageUsers(t *testing.T) {
	m := newManaged(t, auth.Config{Anonymous: true})
	m.pushAs("ann", "team/app", "v1")
	m.exchange([]managing{
		{"", "GET", "users", "", 401, "UNAUTHORIZED"},
		{"alice:wrong", "GET", "users", "", 401, "UNAUTHORIZED"},
		{"alice", "GET", "users", "", 403, "DENIED"},
		{"ann", "GET", "users", "", 200, `~{"users":[{"name":"alice","admin":false,"disabled":false,"created":"`},
		{"ann", "GET", "users?n=0", "", 200, `{"users":[]}`},
		{"ann", "GET", "users?n=1&last=alice", "", 200, `~"name":"ann","admin":true`},
		{"ann", "GET", "users?n=x", "", 400, "PAGINATION_NUMBER_INVALID"},
		{"ann", "HEAD", "users", "", 200, ""},
		{"ann", "GET", "users/bob", "", 200, `~"name":"bob"`},
		{"ann", "GET", "users/nobody", "", 404, "NOT_FOUND"},
		{"bob", "GET", "users/bob", "", 403, "DENIED"},

		{"", "POST", "users", `{"name":"cid","password":"password-cid"}`, 401, "UNAUTHORIZED"},
		{"alice", "POST", "users", `{"name":"cid","password":"password-cid"}`, 403, "DENIED"},
		{"alice", "POST", "users", `{"name":"bob","password":"password-cid"}`, 403, "DENIED"},
		{"ann", "POST", "users", `{"name":"cid","password":"password-cid"}`, 201, `~{"name":"cid","admin":false`},
		{"ann", "POST", "users", `{"name":"cid","password":"password-cid"}`, 409, "TAKEN"},
		{"ann", "POST", "users", `{"username":"dora","password":"password-dora","admin":true}`, 201, `~{"name":"dora","admin":true`},
		{"ann", "POST", "users", `{"username":"eve","name":"eve","password":"password-eve"}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"Eve","password":"password-eve"}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"users","password":"password-eve"}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"eve","password":"short"}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"eve","password":"password-eve","role":"king"}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"eve","password":"password-eve"}{}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":["eve"],"password":"password-eve"}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", ``, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"eve"` + strings.Repeat(" ", 64<<10) + `}`, 400, "REQUEST_INVALID"},
		{"ann", "POST", "users", `{"name":"team","password":"password-team"}`, 201, `~"team"`}, // an admin says whose team/app is

		{"alice", "PUT", "users/alice/password", `{"password":"password-new"}`, 403, "DENIED"},
		{"alice", "PUT", "users/alice/password", `{"password":"password-new","old":"password-bob"}`, 403, "DENIED"},
		{"alice", "PUT", "users/bob/password", `{"password":"password-new","old":"password-bob"}`, 403, "DENIED"},
		{"alice", "PUT", "users/nobody/password", `{"password":"password-new","old":"password-bob"}`, 403, "DENIED"},
		{"alice", "PUT", "users/alice/password", `{"password":"short","old":"password-alice"}`, 400, "REQUEST_INVALID"},
		{"alice", "PUT", "users/alice/password", `{"password":"password-new","old":"password-alice"}`, 204, ""},
		{"alice", "GET", "tokens", "", 401, "UNAUTHORIZED"},
		{"alice:password-new", "GET", "tokens", "", 200, `{"tokens":[]}`},
		{"ann", "PUT", "users/alice/password", `{"password":"password-alice"}`, 204, ""},
		{"ann", "PUT", "users/nobody/password", `{"password":"password-alice"}`, 404, "NOT_FOUND"},

		{"bob", "PUT", "users/bob/admin", `{"admin":true}`, 403, "DENIED"},
		{"ann", "PUT", "users/bob/admin", `{}`, 400, "REQUEST_INVALID"},
		{"ann", "PUT", "users/bob/admin", `{"admin":null}`, 400, "REQUEST_INVALID"},
		{"ann", "PUT", "users/bob/admin", `{"admin":true}`, 204, ""},
		{"bob", "GET", "users/bob", "", 200, `~"admin":true`},
		{"ann", "PUT", "users/bob/admin", `{"admin":false}`, 204, ""},
		{"ann", "PUT", "users/bob/disabled", `{"disabled":true}`, 204, ""},
		{"bob", "GET", "tokens", "", 401, "UNAUTHORIZED"},
		{"ann", "PUT", "users/bob/disabled", `{"disabled":false}`, 204, ""},
		{"bob", "GET", "tokens", "", 200, `{"tokens":[]}`},

		{"ann", "DELETE", "users/ann", "", 409, "CONFLICT"},
		{"ann", "DELETE", "users/dora", "", 204, ""},
		{"ann", "DELETE", "users/dora", "", 404, "NOT_FOUND"},
		{"ann", "PUT", "users/ann/admin", `{"admin":false}`, 409, "CONFLICT"},
		{"ann", "PUT", "users/ann/disabled", `{"disabled":true}`, 409, "CONFLICT"},
		{"bob", "DELETE", "users/cid", "", 403, "DENIED"},
		{"ann", "PATCH", "users/cid", "", 405, "UNSUPPORTED"},
		{"ann", "GET", "nothing", "", 404, "NOT_FOUND"},
		{"ann", "GET", "users%2fcid", "", 400, "NAME_INVALID"},
	})
}

func TestRegistration(t *testing.T) {
	m := newManaged(t, auth.Config{Registration: true})
	m.pushAs("ann", "team/app", "v1")
	m.exchange([]managing{
		{"", "POST", "users", `{"name":"king","password":"password-king","admin":true}`, 401, "UNAUTHORIZED"},
		{"alice", "POST", "users", `{"name":"king","password":"password-king","admin":true}`, 403, "DENIED"},
		{"", "POST", "users", `{"name":"cid","password":"password-cid"}`, 201, `~"cid"`},
		{"", "POST", "users", `{"name":"cid","password":"password-cid"}`, 409, "TAKEN"},
		{"", "POST", "users", `{"name":"team","password":"password-team"}`, 409, "TAKEN"}, // team/app would be theirs
		{"cid", "GET", "tokens", "", 200, `{"tokens":[]}`},
	})
}

func TestManageTokens(t *testing.T) {
	m := newManaged(t, auth.Config{})
	m.pushAs("alice", "alice/app", "v1")
	a := m.as("alice", "POST", "/api/v1/tokens", `{"name":"ci","scopes":["pull:alice/**","push,delete:alice/app"],"ttl":"90d"}`)
	var made struct{ Name, User, Token string }
	if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.StatusCode != 201 || made.Name != "ci" || made.User != "alice" || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatal(a.Status, a.body)
	}
	m.exchange([]managing{
		{"", "GET", "tokens", "", 401, "UNAUTHORIZED"},
		{"alice", "GET", "tokens", "", 200, `~{"tokens":[{"user":"alice","name":"ci","scopes":["pull:alice/**","push,delete:alice/app"],"created":"`},
		{"alice", "POST", "tokens", `{"name":"ci","scopes":["pull:**"]}`, 409, "TAKEN"},
		{"alice", "POST", "tokens", `{"name":"x","scopes":[]}`, 400, "REQUEST_INVALID"},
		{"alice", "POST", "tokens", `{"name":"x","scopes":["shout:**"]}`, 400, "REQUEST_INVALID"},
		{"alice", "POST", "tokens", `{"name":"x","scopes":["pull:**"],"ttl":"soon"}`, 400, "REQUEST_INVALID"},
		{"alice", "POST", "tokens", `{"name":"x/y","scopes":["pull:**"]}`, 400, "REQUEST_INVALID"},
		{"bob", "GET", "tokens?user=alice", "", 403, "DENIED"},
		{"bob", "POST", "tokens?user=alice", `{"name":"x","scopes":["pull:**"]}`, 403, "DENIED"},
		{"bob", "DELETE", "tokens/ci?user=alice", "", 403, "DENIED"},
		{"bob", "DELETE", "tokens/ci", "", 404, "NOT_FOUND"},
		{"ann", "GET", "tokens?user=alice", "", 200, `~"ci"`},
		{"ann", "POST", "tokens?user=nobody", `{"name":"x","scopes":["pull:**"]}`, 404, "NOT_FOUND"},
		{"ann", "POST", "tokens?user=bob", `{"name":"x","scopes":["pull:**"]}`, 201, `~"user":"bob"`},
		// A token is no user, and never becomes one.
		{"alice:" + made.Token, "GET", "tokens", "", 403, "DENIED"},
		{"alice:" + made.Token, "POST", "tokens", `{"name":"more","scopes":["admin:**"]}`, 403, "DENIED"},
		{"alice:" + made.Token, "PUT", "users/alice/password", `{"password":"password-new","old":"` + made.Token + `"}`, 403, "DENIED"},
		{"alice", "PUT", "users/alice/password", `{"password":"password-new","old":"` + made.Token + `"}`, 403, "DENIED"},
		{"alice:" + made.Token, "PUT", "alice/app/visibility", `{"visibility":"public"}`, 403, "DENIED"},
		{"alice:" + made.Token, "GET", "repo", "", 200, `~"alice/app"`},
		{"alice", "DELETE", "tokens/ci", "", 204, ""},
		{"alice:" + made.Token, "GET", "repo", "", 401, "UNAUTHORIZED"},
	})
}

func TestManageRights(t *testing.T) {
	m := newManaged(t, auth.Config{})
	m.pushAs("alice", "alice/app", "v1")
	m.exchange([]managing{
		{"", "GET", "grants", "", 401, "UNAUTHORIZED"},
		{"bob", "PUT", "grants", `{"grantee":"bob","repository":"alice/**","actions":"pull"}`, 403, "DENIED"},
		{"alice", "PUT", "grants", `{"grantee":"bob","repository":"**","actions":"pull"}`, 403, "DENIED"},
		{"alice", "PUT", "grants", `{"grantee":"bob","repository":"alice**","actions":"pull"}`, 403, "DENIED"},
		// Whoever is not an admin is not told who else there is.
		{"alice", "PUT", "grants", `{"grantee":"nobody","repository":"alice/**","actions":"pull"}`, 204, ""},
		{"alice", "DELETE", "grants?grantee=nobody&repository=" + url.QueryEscape("alice/**"), "", 204, ""},
		{"ann", "PUT", "grants", `{"grantee":"nobody","repository":"alice/**","actions":"pull"}`, 404, "NOT_FOUND"},
		{"alice", "PUT", "grants", `{"grantee":"bob","repository":"alice/**","actions":"shout"}`, 400, "REQUEST_INVALID"},
		{"alice", "PUT", "grants", `{"grantee":"bob","repository":"alice/[","actions":"pull"}`, 400, "REQUEST_INVALID"},
		{"bob", "GET", "repo", "", 200, `{"repositories":[]}`},
		{"alice", "PUT", "grants", `{"grantee":"bob","repository":"alice/**","actions":"pull"}`, 204, ""},
		{"bob", "GET", "repo", "", 200, `~"alice/app"`},
		{"ann", "PUT", "grants", `{"grantee":"@team","repository":"team/**","actions":"push,delete"}`, 204, ""},
		{"ann", "GET", "grants", "", 200, `~{"grants":[{"grantee":"@team","repository":"team/**","actions":"push,delete","created":"`},
		{"alice", "GET", "grants", "", 200, `~{"grants":[{"grantee":"bob","repository":"alice/**"`},
		{"bob", "GET", "grants", "", 200, `~{"grants":[{"grantee":"bob","repository":"alice/**"`},
		{"bob", "DELETE", "grants", `{"grantee":"bob","repository":"alice/**"}`, 403, "DENIED"},
		{"alice", "DELETE", "grants?grantee=bob&repository=" + url.QueryEscape("alice/**"), "", 204, ""},
		{"alice", "DELETE", "grants", `{"grantee":"bob","repository":"alice/**"}`, 404, "NOT_FOUND"},
		{"alice", "DELETE", "grants?user=bob", "", 400, "REQUEST_INVALID"},
		{"bob", "GET", "repo", "", 200, `{"repositories":[]}`},
		{"bob", "GET", "grants", "", 200, `{"grants":[]}`},

		{"alice", "PUT", "groups/team/members/alice", "", 403, "DENIED"},
		{"ann", "PUT", "groups/team/members/nobody", "", 404, "NOT_FOUND"},
		{"ann", "PUT", "groups/Team/members/bob", "", 400, "REQUEST_INVALID"},
		{"ann", "GET", "groups/team/members/bob", "", 404, "NOT_FOUND"},
		{"ann", "PUT", "groups/team/members/bob", "", 204, ""},
		{"ann", "PUT", "groups/team/members/alice", "", 204, ""},
		{"ann", "PUT", "groups/other/members/bob", "", 204, ""},
		{"ann", "GET", "groups", "", 200, `{"groups":[{"name":"other","members":["bob"]},{"name":"team","members":["alice","bob"]}]}`},
		{"ann", "GET", "groups/team/members/bob", "", 200, `{"group":"team","user":"bob"}`},
		{"ann", "DELETE", "groups/team/members/bob", "", 204, ""},
		{"ann", "DELETE", "groups/team/members/bob", "", 404, "NOT_FOUND"},

		{"alice", "POST", "keys/rotate", "", 403, "DENIED"},
		{"ann", "POST", "keys/rotate", "", 204, ""},
		{"ann", "GET", "keys/rotate", "", 405, "UNSUPPORTED"},
	})
}

func TestManageContent(t *testing.T) {
	m := newManaged(t, auth.Config{Anonymous: true})
	m.pushAs("alice", "alice/app/web", "v1")
	m.pushAs("alice", "alice", "v1")
	m.pushAs("bob", "bob/app", "v1")
	m.exchange([]managing{
		{"", "GET", "repo", "", 200, `{"repositories":[]}`},
		{"alice", "GET", "repo", "", 200, `~{"name":"alice/app/web","visibility":"private","tags":1,"manifests":1,"bytes":`},
		{"", "GET", "alice/app/web/visibility", "", 401, "UNAUTHORIZED"},
		{"", "GET", "nothing/visibility", "", 401, "UNAUTHORIZED"},
		{"bob", "GET", "alice/app/web/visibility", "", 404, "NAME_UNKNOWN"},
		{"bob", "PUT", "alice/app/web/visibility", `{"visibility":"public"}`, 404, "NAME_UNKNOWN"},
		{"", "PUT", "alice/app/web/visibility", `{"visibility":"public"}`, 401, "UNAUTHORIZED"},
		{"alice", "GET", "alice/app/web/visibility", "", 200, `{"visibility":"private"}`},
		{"alice", "PUT", "alice/app/web/visibility", `{"visibility":"secret"}`, 400, "REQUEST_INVALID"},
		{"alice", "PUT", "alice/app/web/visibility", `{}`, 400, "REQUEST_INVALID"},
		{"alice", "PUT", "alice/other/visibility", `{"visibility":"public"}`, 404, "NAME_UNKNOWN"},
		{"alice", "GET", "alice/other/visibility", "", 404, "NAME_UNKNOWN"},
		{"alice", "PUT", "alice/App/visibility", `{"visibility":"public"}`, 400, "NAME_INVALID"},
		{"alice", "PUT", "alice/app/web/visibility", `{"visibility":"public"}`, 200, `{"visibility":"public"}`},
		{"alice", "PUT", "alice/visibility", `{"visibility":"public"}`, 200, `{"visibility":"public"}`},
		{"bob", "PUT", "alice/app/web/visibility", `{"visibility":"private"}`, 403, "DENIED"},
		{"", "PUT", "alice/app/web/visibility", `{"visibility":"private"}`, 401, "UNAUTHORIZED"},
		{"", "GET", "alice/app/web/visibility", "", 200, `{"visibility":"public"}`},
		{"", "GET", "repo", "", 200, `~{"repositories":[{"name":"alice","visibility":"public"`},
		{"bob", "GET", "repo?n=1&last=alice/app/web", "", 200, `~[{"name":"bob/app","visibility":"private"`},
		{"ann", "PUT", "bob/app/visibility", `{"visibility":"public"}`, 200, `{"visibility":"public"}`},

		{"alice", "GET", "immutable", "", 403, "DENIED"},
		{"ann", "GET", "immutable", "", 200, `{"rules":[]}`},
		{"ann", "PUT", "immutable", `{"repository":"alice/**","tag":"v*"}`, 204, ""},
		{"ann", "PUT", "immutable", `{"repository":"alice/**"}`, 400, "RULE_INVALID"},
		{"ann", "GET", "immutable", "", 200, `{"rules":[{"repository":"alice/**","tag":"v*"}]}`},
		{"ann", "DELETE", "immutable?repository=alice/**&tag=v*", "", 204, ""},
		{"ann", "DELETE", "immutable", `{"repository":"alice/**","tag":"v*"}`, 404, "RULE_UNKNOWN"},

		{"alice", "GET", "audit", "", 403, "DENIED"},
		{"ann", "GET", "audit?action=visibility&user=ann", "", 200, `~"user":"ann","address":"127.0.0.1","action":"visibility","repository":"bob/app","detail":"public"`},
		{"ann", "GET", "audit?repository=nothing", "", 200, `{"events":[]}`},
		{"ann", "GET", "audit?since=2999-01-01T00:00:00Z", "", 200, `{"events":[]}`},
		{"ann", "GET", "audit?since=7d&action=immutable", "", 200, `~alice/**:v*`},
		{"ann", "GET", "audit?since=yesterday", "", 400, "REQUEST_INVALID"},
		{"ann", "GET", "audit?before=x", "", 400, "PAGINATION_NUMBER_INVALID"},
		{"ann", "GET", "audit?repository=A", "", 400, "NAME_INVALID"},
	})
}

// Nothing in an answer tells a private repository from one that does not exist.
func TestPrivateLooksMissing(t *testing.T) {
	m := newManaged(t, auth.Config{Anonymous: true})
	ask := func() (all string) {
		for _, who := range []string{"", "bob"} {
			for _, method := range []string{"GET", "PUT"} {
				a := m.as(who, method, "/api/v1/alice/app/visibility", `{"visibility":"public"}`)
				a.Header.Del("Date")
				a.Header.Del("X-Request-Id")
				all += fmt.Sprintln(who, method, a.Status, a.Header, a.body)
			}
		}
		return all
	}
	missing := ask()
	m.pushAs("alice", "alice/app", "v1")
	if private := ask(); private != missing {
		t.Errorf("missing:\n%s\nprivate:\n%s", missing, private)
	}
}

// Following Link, one gets everything once.
func TestManagePages(t *testing.T) {
	m := newManaged(t, auth.Config{})
	for _, repo := range []string{"alice/a", "alice/b", "bob/x", "alice/c"} {
		m.pushAs("ann", repo, "v1")
	}
	for path, want := range map[string]int{"users?n=1": 3, "repo?n=2": 3, "audit?n=1&action=push&user=ann": 4} {
		who := "ann"
		if strings.HasPrefix(path, "repo") {
			who = "alice"
		}
		seen, next := 0, "/api/v1/"+path
		for range 10 {
			a := m.as(who, "GET", next, "")
			var page map[string][]json.RawMessage
			if err := json.Unmarshal([]byte(a.body), &page); err != nil || a.StatusCode != 200 {
				t.Fatal(next, a.Status, a.body)
			}
			for _, items := range page {
				seen += len(items)
			}
			link, _, ok := strings.Cut(a.Header.Get("Link"), `>; rel="next"`)
			if next = strings.TrimPrefix(link, "<"); !ok {
				break
			}
		}
		if seen != want || next != "" {
			t.Errorf("%s: %d entries, want %d; then %q", path, seen, want, next)
		}
	}
}

// What another registry's users do: a token without a scope, and with it the visibility.
func TestManageWithBearer(t *testing.T) {
	m := newManaged(t, auth.Config{Anonymous: true})
	m.pushAs("alice", "alice/app", "v1")
	whole, narrow := m.token("alice", ""), m.token("alice", "?scope=repository:alice/app:pull,push")
	for _, x := range []struct {
		token, method, path, body string
		status                    int
		challenge                 string
	}{
		{whole, "PUT", "/api/v1/alice/app/visibility", `{"visibility":"public"}`, 200, ""},
		{whole, "GET", "/api/v1/alice/app/visibility", "", 200, ""},
		{whole, "GET", "/api/v1/tokens", "", 200, ""},
		{whole, "GET", "/api/v1/repo", "", 200, ""},
		{whole, "GET", "/api/v1/users", "", 403, ""},
		{whole, "PUT", "/api/v1/bob/app/visibility", `{"visibility":"public"}`, 404, ""},
		{whole, "GET", "/v2/alice/app/manifests/v1", "", 401, `scope="repository:alice/app:pull"`}, // for managing, not for this
		{narrow, "PUT", "/api/v1/alice/app/visibility", `{"visibility":"private"}`, 401, `scope="registry:management:*",error="insufficient_scope"`},
		{narrow, "GET", "/api/v1/tokens", "", 401, `scope="registry:management:*"`},
		{narrow, "GET", "/api/v1/repo", "", 401, `scope="registry:catalog:*"`},
		{"Authorization: Bearer x", "GET", "/api/v1/repo", "", 401, `error="invalid_token"`},
		{m.token("alice", "?scope=registry:management:*"), "PUT", "/api/v1/alice/app/visibility", `{"visibility":"private"}`, 200, ""},
		{m.token("alice", "?scope=registry:catalog:*"), "GET", "/api/v1/repo", "", 200, ""},
		{m.token("", "?scope=registry:management:*"), "GET", "/api/v1/tokens", "", 401, `scope="registry:management:*"`},
	} {
		a := m.do(x.method, x.path, x.body, x.token)
		if a.StatusCode != x.status || !strings.Contains(a.Header.Get("Www-Authenticate"), x.challenge) {
			t.Errorf("%s %s with %.40s: %s %q %s", x.method, x.path, x.token, a.Status, a.Header.Get("Www-Authenticate"), a.body)
		}
	}
}

// Every route that is not for everybody refuses somebody who has not logged in, and whatever changes something refuses
// on a read-only registry and for a page of another site.
func TestManageRefusals(t *testing.T) {
	m := newManaged(t, auth.Config{})
	readOnly := newManaged(t, auth.Config{}, func(cfg *server.Config) { cfg.ReadOnly = true })
	open := newClient(t, newServer(t))
	for _, r := range admin.Routes() {
		path := admin.Prefix + strings.NewReplacer("<repo>", "alice/app", "<name>", "alice", "<group>", "team").Replace(r.Pattern)
		if a := m.do(r.Method, path, "{}"); a.StatusCode != 401 || a.Header.Get("Www-Authenticate") == "" {
			t.Errorf("%s %s by nobody: %s", r.Method, path, a.Status)
		}
		if a := open.do(r.Method, path, "{}"); a.StatusCode != 404 {
			t.Errorf("%s %s without users: %s", r.Method, path, a.Status)
		}
		if !r.Changes() {
			continue
		}
		a := readOnly.as("ann", r.Method, path, "{}")
		if a.StatusCode != 405 || strings.Contains(a.Header.Get("Allow"), r.Method) || !strings.Contains(a.body, "read-only") {
			t.Errorf("%s %s read-only: %s, Allow %s", r.Method, path, a.Status, a.Header.Get("Allow"))
		}
		if a := m.as("ann", r.Method, path, "{}", "Sec-Fetch-Site: cross-site"); a.StatusCode != 403 {
			t.Errorf("%s %s from another site: %s", r.Method, path, a.Status)
		}
		if a := m.as("ann", r.Method, path, "{}", "Origin: https://evil.example"); a.StatusCode != 403 {
			t.Errorf("%s %s from another origin: %s", r.Method, path, a.Status)
		}
	}
	if a := readOnly.as("ann", "GET", "/api/v1/users", ""); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	for method, want := range map[string]int{"OPTIONS": 204, "BREW": 405, "PATCH": 405} {
		if a := m.do(method, "/api/v1/users", ""); a.StatusCode != want || a.Header.Get("Allow") != "GET, HEAD, OPTIONS, POST" {
			t.Errorf("%s: %s, Allow %s", method, a.Status, a.Header.Get("Allow"))
		}
	}
	if a := readOnly.do("OPTIONS", "/api/v1/users", ""); a.Header.Get("Allow") != "GET, HEAD, OPTIONS" {
		t.Errorf("Allow %s", a.Header.Get("Allow"))
	}
}

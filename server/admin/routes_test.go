package admin

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"registry/server/auth"
	"registry/server/registry"
)

func TestEveryRouteHasAnAccessRule(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Routes() {
		key := r.Method + " " + r.Pattern
		if r.Access.String() == "" || r.handler == nil || seen[key] {
			t.Errorf("%s: access %d, twice %v", key, r.Access, seen[key])
		}
		seen[key] = true
		if r.Access == Everybody && r.Pattern != "users" {
			t.Errorf("%s lets everybody in", key)
		}
		if r.Changes() && (r.Access == Reader || r.Access == RepositoryRead) {
			t.Errorf("%s changes something for whoever reads", key)
		}
		if r.Access != Everybody && r.Access.Scope() == "" {
			t.Errorf("%s: a client cannot know what token to ask for", key)
		}
	}
}

// No user has a name that is a word of the paths: their namespace would be one, too.
func TestWordsAreReserved(t *testing.T) {
	for _, r := range routes {
		for i, word := range strings.Split(r.Pattern, "/") {
			if i == 0 && word[0] != '<' || word == "visibility" {
				err := (&auth.Authority{}).CreateUser(t.Context(), registry.Actor{}, word, "passphrase", false, true)
				if !registry.RequestInvalid.Is(err) {
					t.Errorf("%s: a user may be called %s: %v", r.Pattern, word, err)
				}
			}
		}
	}
}

func TestFind(t *testing.T) {
	for _, c := range []struct {
		method, path string
		pattern      string // "" if the method is not there
		target       Target
		methods      string
		code         *registry.Code
	}{
		{"GET", "users", "users", Target{}, "GET HEAD OPTIONS POST", nil},
		{"HEAD", "users", "users", Target{}, "GET HEAD OPTIONS POST", nil},
		{"POST", "users", "users", Target{}, "GET HEAD OPTIONS POST", nil},
		{"PATCH", "users", "", Target{}, "GET HEAD OPTIONS POST", nil},
		{"BREW", "keys/rotate", "", Target{}, "OPTIONS POST", nil},
		{"DELETE", "users/alice", "users/<name>", Target{Name: "alice"}, "DELETE GET HEAD OPTIONS", nil},
		{"PUT", "users/alice/password", "users/<name>/password", Target{Name: "alice"}, "OPTIONS PUT", nil},
		{"PUT", "groups/team/members/bob", "groups/<group>/members/<name>", Target{Group: "team", Name: "bob"}, "DELETE GET HEAD OPTIONS PUT", nil},
		{"DELETE", "tokens/my laptop", "tokens/<name>", Target{Name: "my laptop"}, "DELETE OPTIONS", nil},
		{"PUT", "alice/app/visibility", "<repo>/visibility", Target{Repo: "alice/app"}, "GET HEAD OPTIONS PUT", nil},
		{"PUT", "alice/visibility", "<repo>/visibility", Target{Repo: "alice"}, "GET HEAD OPTIONS PUT", nil},
		{"GET", "a/b/c/d/visibility", "<repo>/visibility", Target{Repo: "a/b/c/d"}, "GET HEAD OPTIONS PUT", nil},
		{"GET", "a/visibility/visibility", "<repo>/visibility", Target{Repo: "a/visibility"}, "GET HEAD OPTIONS PUT", nil},
		{"GET", "users/visibility", "<repo>/visibility", Target{Repo: "users"}, "DELETE GET HEAD OPTIONS PUT", nil},
		{"GET", "users/alice/password/visibility", "<repo>/visibility", Target{Repo: "users/alice/password"}, "GET HEAD OPTIONS PUT", nil},
		{"PUT", "Alice/app/visibility", "<repo>/visibility", Target{}, "GET HEAD OPTIONS PUT", registry.NameInvalid},
		{"PUT", "alice/../bob/visibility", "<repo>/visibility", Target{}, "GET HEAD OPTIONS PUT", registry.NameInvalid},
		{"PUT", "/visibility", "<repo>/visibility", Target{}, "GET HEAD OPTIONS PUT", registry.NameInvalid},
		{"GET", "visibility", "", Target{}, "", registry.NotFound},
		{"GET", "", "", Target{}, "", registry.NotFound},
		{"GET", "/", "", Target{}, "", registry.NotFound},
		{"GET", "users/", "", Target{}, "", registry.NotFound},
		{"GET", "/users", "", Target{}, "", registry.NotFound},
		{"GET", "users/alice/", "", Target{}, "", registry.NotFound},
		{"GET", "users//password", "", Target{}, "", registry.NotFound},
		{"GET", "groups/team/members", "", Target{}, "", registry.NotFound},
		{"GET", "nothing", "", Target{}, "", registry.NotFound},
		{"POST", "keys", "", Target{}, "", registry.NotFound},
	} {
		r, methods, target, err := Find(c.method, Prefix+c.path)
		pattern := ""
		if r != nil {
			pattern = r.Pattern
		}
		if pattern != c.pattern || target != c.target || strings.Join(methods, " ") != c.methods || (err != nil) != (c.code != nil) || err != nil && !c.code.Is(err) {
			t.Errorf("%s %s: %s, %+v, %s, %v", c.method, c.path, pattern, target, methods, err)
		}
	}
	if _, methods, _, err := Find(http.MethodGet, "/v2/users"); methods != nil || !registry.NotFound.Is(err) {
		t.Errorf("%v, %v", methods, err)
	}
}

// What is found is one route, with names that can be what they stand for.
func FuzzFind(f *testing.F) {
	for _, r := range routes {
		f.Add(r.Method, Prefix+r.Pattern)
	}
	f.Add("PUT", Prefix+"a/b/visibility")
	f.Fuzz(func(t *testing.T, method, path string) {
		r, methods, target, err := Find(method, path)
		if (r == nil || err != nil) && target != (Target{}) || r == nil && err == nil && methods == nil {
			t.Errorf("%q %q: %v, %v, %+v, %v", method, path, r, methods, target, err)
		}
		if r == nil || err != nil {
			return
		}
		back := strings.NewReplacer("<repo>", string(target.Repo), "<name>", target.Name, "<group>", target.Group).Replace(r.Pattern)
		if Prefix+back != path || strings.Contains(target.Name+target.Group, "/") {
			t.Errorf("%q became %q", path, Prefix+back)
		}
		if _, err := registry.ParseRepoName(string(target.Repo)); err != nil && strings.Contains(r.Pattern, "<repo>") {
			t.Errorf("%q gave the name %q", path, target.Repo)
		}
	})
}

func TestDecode(t *testing.T) {
	for body, want := range map[string]string{
		`{"name":"a","admin":true}`: "", ` {"name":"a"} ` + "\n": "", `{}`: "",
		``: "want a JSON object", `null`: "want a JSON object", `[]`: "want a JSON object", `"a"`: "want a JSON object",
		"{\"name\":\"\xff\"}": "in UTF-8", `{"name":1}`: "name cannot be a number", `{"admin":"true"}`: "admin cannot be a string",
		`{"nam":"a"}`: "unknown field", `{"name":"a"}{}`: "something follows", `{"name":"a"}x`: "something follows", `{"name":"a"`: "unexpected EOF",
		`{"name":"a"} {"name":"b"}`: "something follows", `{'name':1}`: "invalid character",
	} {
		_, err := decode[newUser]([]byte(body))
		if want == "" && err != nil || want != "" && (!registry.RequestInvalid.Is(err) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// The table of README.md has every route, with who may use it.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| `/api/v1/…` |")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, r := range routes {
		documented := false
		for row := range strings.Lines(table) {
			cells := strings.Split(row, " | ")
			documented = documented || strings.Contains(cells[0], "`"+r.Method+" "+r.Pattern+"`") && cells[1] == r.Access.String()
		}
		if !documented {
			t.Errorf("README.md does not have %s %s for %s", r.Method, r.Pattern, r.Access)
		}
	}
	if got := strings.Count(table, "`GET ") + strings.Count(table, "`PUT ") + strings.Count(table, "`POST ") + strings.Count(table, "`DELETE "); got != len(routes) {
		t.Errorf("README.md has %d routes, want %d", got, len(routes))
	}
}

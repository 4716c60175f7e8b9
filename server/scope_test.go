package server

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// askedScope is a scope as a client may send it, and what an admin gets for it.
type askedScope struct{ text, granted string }

var askedScopes = []askedScope{
	{"repository:a/b:pull", "repository:a/b:pull"},
	{"repository:a/c:push,pull", "repository:a/c:pull,push"},
	{"repository:a/d:*", "repository:a/d:pull,push,delete"},
	{"repository:a/e:pull,frobnicate", "repository:a/e:pull"},
	{"registry:catalog:*", "registry:catalog:*"},
	{"registry:management:*", "registry:management:*"},
	// What is not understood.
	{"", ""}, {" ", ""}, {":", ""}, {"::", ""}, {"*", ""}, {"repository", ""}, {"repository:a/b", ""}, {"repository:a/b:", ""},
	{"repository:Team/App:pull", ""}, {"repository::pull", ""}, {"repository:*:*", ""}, {"repository:a/../b:pull", ""},
	{"repository:localhost:5000/a:pull", ""}, {"repository:a/b:frobnicate", ""}, {"repository:a/b:Pull", ""}, {"Repository:a/b:pull", ""},
	{"other:thing:read", ""}, {"other:management:*", ""}, {"registry:management", ""}, {"registry:management:", ""},
	{"registry:management:pull", ""}, {"registry:catalog:pull", ""}, {"registry:other:*", ""}, {"registry:*:*", ""},
	{"REGISTRY:MANAGEMENT:*", ""}, {"repository:a/b:pull:push", ""}, {"repository:" + strings.Repeat("a", 5000) + ":pull", ""},
	{"\x00", ""}, {"\xff\xfe", ""}, {"repository:ä:pull", ""},
}

// What a request for a token asks for and the registry does not understand grants nothing, in whatever form it comes and
// whatever it comes with; only a request without any scope gets the right to manage.
func TestTokenScopesAgainstAModel(t *testing.T) {
	w := newWorld(t)
	admin := basic("admin", "the admin's password")
	refresh := w.token(admin).Refresh
	forms := map[string]func(scopes []string) (code int, body []byte){
		"GET": func(scopes []string) (int, []byte) {
			got := w.ask("GET", "/auth/token?"+url.Values{"service": {"registry"}, "scope": scopes}.Encode(), "", admin)
			return got.Code, got.Body.Bytes()
		},
		"POST with Basic": func(scopes []string) (int, []byte) {
			got := w.ask("POST", "/auth/token", url.Values{"scope": scopes}.Encode(), admin, formType)
			return got.Code, got.Body.Bytes()
		},
		"POST with the scope in the query": func(scopes []string) (int, []byte) {
			got := w.ask("POST", "/auth/token?"+url.Values{"scope": scopes}.Encode(), "", admin)
			return got.Code, got.Body.Bytes()
		},
		"POST with a password": func(scopes []string) (int, []byte) {
			f := url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {"the admin's password"}, "scope": scopes}
			got := w.ask("POST", "/auth/token", f.Encode(), formType)
			return got.Code, got.Body.Bytes()
		},
		"refresh": func(scopes []string) (int, []byte) {
			f := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}, "scope": scopes}
			got := w.ask("POST", "/auth/token", f.Encode(), formType)
			return got.Code, got.Body.Bytes()
		},
	}
	check := func(how string, scopes []string, want string) {
		t.Helper()
		code, body := forms[how](scopes)
		var got answeredToken
		if code != 200 || json.Unmarshal(body, &got) != nil {
			t.Fatalf("%s %.80q: %d %s", how, scopes, code, body)
		}
		manages := w.ask("GET", "/api/v1/users", "", bearer(got.Token)).Code == 200
		if got.Scope != want || manages != strings.Contains(want, "registry:management:*") {
			t.Errorf("%s %.80q: %q, want %q; may list users: %v", how, scopes, got.Scope, want, manages)
		}
	}
	for how := range forms {
		check(how, nil, "registry:catalog:* registry:management:*")
		for i, one := range askedScopes {
			two := askedScopes[(i+7)%len(askedScopes)]
			check(how, []string{one.text}, one.granted)
			both := slices.DeleteFunc([]string{one.granted, two.granted}, func(s string) bool { return s == "" })
			check(how, []string{one.text, two.text}, strings.Join(both, " "))
			check(how, []string{one.text + " " + two.text}, strings.Join(both, " "))
		}
	}
}

// A request that cannot be read whole is refused: what is left of it may be a request without a scope.
func TestTokenRequestsThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	admin := basic("admin", "the admin's password")
	for _, x := range []struct{ method, query, body, kind string }{
		{"GET", "?scope=%zz", "", ""},
		{"GET", "?scope=repository:a:pull;x", "", ""},
		{"POST", "?scope=%zz", "", formType},
		{"POST", "", "scope=%zz", formType},
		{"POST", "", "scope=a;b", formType},
		{"POST", "", `{"scope":"repository:a:pull"}`, "Content-Type: application/json"},
		{"POST", "", "scope=repository:a:pull", "Content-Type: text/plain"},
		{"POST", "", "scope=repository:a:pull", "Content-Type: "},
		{"POST", "", "--x\r\nContent-Disposition: form-data; name=\"scope\"\r\n\r\nrepository:a:pull\r\n--x--\r\n", "Content-Type: multipart/form-data; boundary=x"},
		{"POST", "", "scope=" + strings.Repeat("x", 70<<10), formType},
	} {
		headers := []string{admin}
		if x.kind != "" {
			headers = append(headers, x.kind)
		}
		if got := w.ask(x.method, "/auth/token"+x.query, x.body, headers...); got.Code != 400 {
			t.Errorf("%s %s %.40q %s: %d %s", x.method, x.query, x.body, x.kind, got.Code, got.Body)
		}
	}
}

package server

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"registry/blobs"
	"registry/db/dbtest"
	"registry/server/auth"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// A mount that cannot be made is an upload, whatever keeps it from being made, and says of no repository that it has the
// blob. What the client needs a token for it is told when it comes without one.
func TestMount(t *testing.T) {
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	database := dbtest.Open(t)
	reg := registry.New(registry.Config{DB: database, Blobs: store})
	a := auth.New(auth.Config{DB: database, Anonymous: true})
	if _, err := a.Start(t.Context(), "the admin's password"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		if err := a.CreateUser(t.Context(), registry.Actor{}, name, "password of "+name, false, true); err != nil {
			t.Fatal(err)
		}
	}
	const content = "a layer"
	d := digest.FromString(content)
	if err := reg.PutBlob(t.Context(), "alice/base", d, registry.Chunk{Body: strings.NewReader(content), Start: -1, Length: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Registry: reg, Auth: a})
	if err != nil {
		t.Fatal(err)
	}
	bearer := func(user string, scopes ...string) string {
		r := httptest.NewRequest("GET", "/auth/token?"+url.Values{"scope": scopes}.Encode(), nil)
		r.SetBasicAuth(user, "password of "+user)
		got := httptest.NewRecorder()
		s.Handler().ServeHTTP(got, r)
		var token struct{ Token string }
		if err := json.Unmarshal(got.Body.Bytes(), &token); err != nil || got.Code != 200 {
			t.Fatal(got.Code, err)
		}
		return "Bearer " + token.Token
	}
	post := func(repo, query, authorization string) (status int, challenged string) {
		r := httptest.NewRequest("POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String()+query, nil)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
		}
		got := httptest.NewRecorder()
		s.Handler().ServeHTTP(got, r)
		_, rest, _ := strings.Cut(got.Header().Get("Www-Authenticate"), `,scope="`)
		challenged, _, _ = strings.Cut(rest, `"`)
		return got.Code, challenged
	}

	const both = "repository:alice/app:pull,push repository:alice/base:pull"
	for repo, query := range map[string]string{"alice/named": "&from=alice/base", "alice/any": ""} {
		one := "repository:" + repo + ":pull,push"
		status, challenged := post(repo, query, bearer("alice", one))
		if status != 202 || challenged != "" {
			t.Errorf("mount with %q, the source not in the token: %d, scope %q", query, status, challenged)
		}
		if status, _ = post(repo, query, bearer("alice", one+" repository:alice/base:pull")); status != 201 {
			t.Errorf("mount with %q and the source in the token: %d", query, status)
		}
		for _, scope := range []string{"repository:bob/app:pull,push", "repository:bob/app:pull,push repository:alice/base:pull"} {
			if status, challenged = post("bob/app", query, bearer("bob", scope)); status != 202 || challenged != "" {
				t.Errorf("mount with %q by a stranger with %s: %d, scope %q", query, scope, status, challenged)
			}
		}
	}
	if status, challenged := post("alice/app", "&from=alice/base", ""); status != 401 || challenged != both {
		t.Errorf("mount without a login: %d, scope %q", status, challenged)
	}
	token := bearer("alice", both)
	for _, from := range []string{`&from=%22evil`, "&from=Upper", "&from=alice/nothing", "&from=alice/app"} {
		if status, challenged := post("alice/app", from, token); status != 202 || challenged != "" {
			t.Errorf("mount with %q: %d, scope %q", from, status, challenged)
		}
	}
	for _, query := range []string{"", "md5:" + strings.Repeat("0", 32), "sha256:x", "%2e%2e%2f", d.String()[:70]} {
		r := httptest.NewRequest("POST", "/v2/alice/app/blobs/uploads/?from=alice/base&mount="+query, nil)
		r.Header.Set("Authorization", token)
		got := httptest.NewRecorder()
		s.Handler().ServeHTTP(got, r)
		if got.Code != 202 || got.Header().Get("Location") == "" {
			t.Errorf("mount of %q: %d", query, got.Code)
		}
	}
	if status, challenged := post("alice/app", `&from=%22evil`, ""); status != 401 || challenged != "repository:alice/app:pull,push" {
		t.Errorf("mount from what is no name: %d, scope %q", status, challenged)
	}
}

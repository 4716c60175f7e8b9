package server

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"registry/server/auth"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// held is a body during which something happens.
type heldBody struct {
	io.Reader
	event func()
}

func (b *heldBody) Read(p []byte) (int, error) {
	if b.event != nil {
		b.event()
		b.event = nil
	}
	return b.Reader.Read(p)
}

// askHeld is ask with a body during which something happens.
func (w *world) askHeld(method, target, body string, event func(), headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, &heldBody{strings.NewReader(body), event})
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	got := httptest.NewRecorder()
	w.http.ServeHTTP(got, r.WithContext(context.Background()))
	return got
}

// Whoever has lost their right while a body came has lost it: nothing of the body is taken.
func TestRightsEndDuringABody(t *testing.T) {
	events := map[string]func(*world){
		"disabled": func(w *world) { w.must(w.auth.SetDisabled(context.Background(), nobody, "alice", true)) },
		"removed":  func(w *world) { w.must(w.auth.DeleteUser(context.Background(), nobody, "alice")) },
		"password": func(w *world) {
			w.must(w.auth.SetPassword(context.Background(), nobody, "alice", "another passphrase"))
		},
		"no grant":     func(w *world) { w.must(w.auth.DeleteGrant(context.Background(), nobody, "alice", "team/**")) },
		"only pull":    func(w *world) { w.grant("alice", "pull:team/**") },
		"nothing":      func(*world) {},
		"another user": func(w *world) { w.user("bob") },
	}
	for name, event := range events {
		for _, how := range []string{"Basic", "Bearer", "API token"} {
			if how != "Basic" && !slices.Contains([]string{"disabled", "password", "nothing"}, name) {
				continue
			}
			w := newWorld(t)
			w.user("alice")
			w.grant("alice", "push:team/**")
			w.blob("team/app", "content")
			header := basic("alice", password("alice"))
			switch how {
			case "Bearer":
				header = bearer(w.token(header, "repository:team/app:pull,push").Token)
			case "API token":
				header = basic("alice", w.apiToken("alice", "x", "push:**", 0))
			}
			want := name == "nothing" || name == "another user" || name == "password" && how == "API token"
			image := theImage("content", name)
			put := w.askHeld("PUT", "/v2/team/app/manifests/v1", image, func() { event(w) }, header, "Content-Type: "+v1.MediaTypeImageManifest)
			if (put.Code == 201) != want || !want && put.Code != 401 && put.Code != 403 {
				t.Errorf("%s by %s: PUT of a manifest: %d %s", name, how, put.Code, put.Body)
			}
			admin := basic("admin", "the admin's password")
			if got := w.ask("GET", "/v2/team/app/manifests/v1", "", admin); (got.Code == 200) != want {
				t.Errorf("%s by %s: the manifest: %d", name, how, got.Code)
			}
		}
		if name == "only pull" || name == "removed" || name == "another user" {
			continue
		}
		w := newWorld(t)
		w.user("alice")
		w.grant("alice", "push:team/**")
		d := digest.FromString("layer")
		w.askHeld("POST", "/v2/team/app/blobs/uploads/?digest="+d.String(), "layer", func() { event(w) }, basic("alice", password("alice")))
		got := w.ask("HEAD", "/v2/team/app/blobs/"+d.String(), "", basic("admin", "the admin's password"))
		if want := name == "nothing" || name == "another user"; (got.Code == 200) != want {
			t.Errorf("%s: the blob: %d", name, got.Code)
		}
	}
}

// The same goes for the management API: a grant that is written while its author is removed would be the next user's.
func TestRightsEndDuringAManagementCall(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.user("eve")
	body := `{"grantee":"eve","repository":"alice/**","actions":"admin"}`
	got := w.askHeld("PUT", "/api/v1/grants", body, func() { w.must(w.auth.DeleteUser(context.Background(), nobody, "alice")) }, basic("alice", password("alice")))
	if got.Code != 401 {
		t.Error(got.Code, got.Body)
	}
	admin := basic("admin", "the admin's password")
	if got := w.ask("GET", "/api/v1/grants", "", admin); strings.Contains(got.Body.String(), "alice") {
		t.Error(got.Body)
	}
	read := false
	got = w.askHeld("PUT", "/api/v1/users/eve/admin", `{"admin":true}`, func() { read = true }, basic("eve", password("eve")))
	if got.Code != 403 || read {
		t.Error("the body of a call that is not allowed is read:", got.Code, read)
	}
}

// The next user of a name gets nothing that the last one gave others.
func TestGrantsEndWithTheNamespace(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.user("eve")
	w.grant("eve", "admin:alice/**")
	w.grant("@team", "pull:alice")
	w.grant("eve", "pull:alice2/**")
	w.must(w.auth.DeleteUser(t.Context(), nobody, "alice"))
	got := w.ask("GET", "/api/v1/grants", "", basic("admin", "the admin's password"))
	if text := got.Body.String(); strings.Contains(text, `"alice/`) || strings.Contains(text, `"alice"`) || !strings.Contains(text, "alice2/**") {
		t.Error(text)
	}
}

// Nobody registers a name that means something already.
func TestRegisteredNamesHaveNoPast(t *testing.T) {
	w := newWorld(t, func(c *auth.Config) { c.Registration, c.Taken = true, []string{"quay"} })
	w.user("alice")
	w.blob("undoable/app", "content")
	w.image("undoable/app", "v1", "content", "x")
	w.must(w.reg.DeleteRepository(t.Context(), "undoable/app"))
	w.blob("pushed/app", "content")
	w.grant("alice", "pull:given/**")
	w.grant("alice", "pull:{one,two}/**")
	w.grant("@squad", "pull:other/**")
	w.grant("alice", "pull:**")
	if got := w.ask("POST", "/v2/open/app/blobs/uploads/", "", basic("admin", "the admin's password")); got.Code != 202 {
		t.Fatal(got.Code)
	}
	if got := w.ask("PUT", "/api/v1/grants", `{"grantee":"squatted","repository":"alice/**","actions":"pull"}`, basic("alice", password("alice"))); got.Code != 204 {
		t.Error("a grant tells who exists:", got.Code, got.Body)
	}
	for name, want := range map[string]int{
		"undoable": 409, "pushed": 409, "given": 409, "one": 409, "two": 409, "squad": 409, "open": 409, "alice": 409,
		"admin": 400, "quay": 400, "docker.io": 400, "a.b": 400, "root": 400,
		"fresh": 201, "squatted": 201, "giver": 201,
	} {
		got := w.ask("POST", "/api/v1/users", fmt.Sprintf(`{"name":%q,"password":"a passphrase"}`, name), "Content-Type: application/json")
		if got.Code != want {
			t.Errorf("%s: %d %s, want %d", name, got.Code, got.Body, want)
		}
	}
	for _, password := range []string{"password", "Password1!", "12345678", "aaaaaaaa", "registry1", "newcomer"} {
		got := w.ask("POST", "/api/v1/users", fmt.Sprintf(`{"name":"newcomer","password":%q}`, password))
		if got.Code != 400 {
			t.Errorf("%s: %d", password, got.Code)
		}
	}
}

// A member that is there twice, or in another case, is read differently by others.
func TestManagementMembersAreExact(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	for _, body := range []string{
		`{"disabled":true,"disabled":false}`, `{"Disabled":true}`, `{"disabled":true,"DISABLED":false}`, `{"diſabled":true}`, `{"disabled":true,"x":1}`, `{"disabled":true,}`,
	} {
		if got := w.ask("PUT", "/api/v1/users/alice/disabled", body, basic("admin", "the admin's password")); got.Code != 400 {
			t.Errorf("%s: %d %s", body, got.Code, got.Body)
		}
	}
	if got := w.ask("DELETE", "/api/v1/grants?grantee=alice&grantee=bob&repository=x", "", basic("admin", "the admin's password")); got.Code != 400 {
		t.Error(got.Code)
	}
}

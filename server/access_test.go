package server

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// Figures are for admins, and for API tokens of theirs that are for every repository.
func TestWhoReadsMetrics(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	admin := basic("admin", "the admin's password")
	for _, x := range []struct {
		from   string
		header string
		want   int
	}{
		{"127.0.0.1:1", "", 401}, {"[::1]:1", "", 401}, {"[::ffff:127.0.0.1]:1", "", 401}, {"127.0.0.1:1", admin, 200},
		{"192.0.2.1:1", "", 401}, {"192.0.2.1:1", "X-Forwarded-For: 127.0.0.1", 401}, {"192.0.2.1:1", "X-Forwarded-User: admin", 401}, {"no address", "", 401},
		{"192.0.2.1:1", basic("alice", password("alice")), 401}, {"192.0.2.1:1", admin, 200},
		{"192.0.2.1:1", basic("admin", w.apiToken("admin", "one", "admin:one", 0)), 401}, {"192.0.2.1:1", basic("admin", w.apiToken("admin", "all", "pull:**", 0)), 200},
		{"192.0.2.1:1", basic("alice", w.apiToken("alice", "all", "admin:**", 0)), 401},
		{"192.0.2.1:1", bearer(w.token(admin, "registry:management:*").Token), 401}, {"192.0.2.1:1", bearer(w.token("").Token), 401},
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.RemoteAddr = x.from
		if name, value, ok := strings.Cut(x.header, ": "); ok {
			r.Header.Set(name, value)
		}
		got := httptest.NewRecorder()
		if w.http.ServeHTTP(got, r); got.Code != x.want || (got.Code == 401) != (got.Header().Get("Www-Authenticate") != "") {
			t.Errorf("%s %.30q: %d", x.from, x.header, got.Code)
		}
	}
}

// No path, however it is written, leads around the check.
func TestPathsToPrivateContent(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.user("bob")
	w.blob("alice/a", "private bytes")
	w.image("alice/a", "v1", "private bytes", "")
	for _, path := range []string{
		"/v2/alice%2fa/manifests/v1", "/v2/alice%2Fa/manifests/v1", "/v2//alice/a/manifests/v1", "/v2/alice//a/manifests/v1", "/v2/alice/a/manifests/v1/", "/v2/alice/a/manifests//v1",
		"/./v2/alice/a/manifests/v1", "/v2/./alice/a/manifests/v1", "/v2/bob/../alice/a/manifests/v1", "/v2/alice/a/manifests/v1%00", "/v2/alice/a/manifests/v1%23", "/v2/ALICE/a/manifests/v1",
		"/v2/alice/a/manifests/v1;x=1", "/v2/alice/a/manifests/v1?repository=bob/b", "/V2/alice/a/manifests/v1", "/v2/%61lice/a/manifests/v1", "/v2/alice/a/manifests/%76%31", "/v2/alice/a/tags/list?n=1",
		"/v2/bob/b/manifests/v1?from=alice/a", "/v2/alice/a/_trust/x", "/debug/pprof/", "/debug/vars", "/data/", "/config", "/reg.db", "/blobs/", "/api/users", "/swagger/", "/auth/", "/auth/token/", "/metrics/",
	} {
		for _, header := range []string{"", basic("bob", password("bob"))} {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"} {
				r := httptest.NewRequest(method, path, nil)
				if header != "" {
					r.Header.Set("Authorization", header[len("Authorization: "):])
				}
				got := httptest.NewRecorder()
				if w.http.ServeHTTP(got, r); got.Code < 300 || got.Code >= 500 || strings.Contains(got.Body.String(), "schemaVersion") {
					t.Errorf("%s %s %.20q: %d", method, path, header, got.Code)
				}
			}
		}
	}
}

// A session is the one of who began it, whoever may push as well.
func TestUploadOfSomebodyElse(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"alice", "writer"} {
		w.user(name)
	}
	w.grant("writer", "push:alice/**")
	alice, writer := basic("alice", password("alice")), basic("writer", password("writer"))
	for _, body := range []string{"", "some bytes"} { // a session without bytes has no row yet
		location := w.ask("POST", "/v2/alice/a/blobs/uploads/", "", alice).Header().Get("Location")
		if body != "" {
			w.ask("PATCH", location, body, alice)
		}
		for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
			for _, header := range []string{writer, bearer(w.token(writer, "repository:alice/a:pull,push").Token), basic("admin", "the admin's password")} {
				got := w.ask(method, location+"?digest=sha256:"+strings.Repeat("0", 64), "x", header)
				if got.Code != 404 || code(got) != "BLOB_UPLOAD_UNKNOWN" || got.Header().Get("Range") != "" {
					t.Errorf("%s: %d %s", method, got.Code, got.Body)
				}
			}
		}
		if got := w.ask("PATCH", location, "x", basic("alice", w.apiToken("alice", "t"+body, "push:alice/a", 0))); got.Code != 202 {
			t.Error("she goes on with a token:", got.Code)
		}
	}
}

// The catalog has what somebody may read, whatever page they ask for and whatever they ask with.
func TestCatalogOfEverybody(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.user("bob")
	w.grant("bob", "pull:alice/shared*")
	for _, repo := range []string{"alice/a", "alice/b", "alice/pub", "alice/shared1", "alice/shared2", "bob/x", "other/pub", "other/z"} {
		w.blob(repo, "x")
		w.image(repo, "v1", "x", "")
		if strings.HasSuffix(repo, "pub") {
			w.public(repo)
		}
	}
	bob := basic("bob", password("bob"))
	for header, want := range map[string]string{
		bob: `["alice/pub","alice/shared1","alice/shared2","bob/x","other/pub"]`,
		bearer(w.token(bob, "registry:catalog:*").Token):             `["alice/pub","alice/shared1","alice/shared2","bob/x","other/pub"]`,
		bearer(w.token("", "registry:catalog:*").Token):              `["alice/pub","other/pub"]`,
		basic("bob", w.apiToken("bob", "x", "pull:alice/**", 0)):     `["alice/pub","alice/shared1","alice/shared2"]`,
		basic("admin", w.apiToken("admin", "x", "pull:other/**", 0)): `["other/pub","other/z"]`,
		basic("alice", password("alice")):                            `["alice/a","alice/b","alice/pub","alice/shared1","alice/shared2","other/pub"]`,
		basic("admin", "the admin's password"):                       `["alice/a","alice/b","alice/pub","alice/shared1","alice/shared2","bob/x","other/pub","other/z"]`,
	} {
		if got := w.ask("GET", "/v2/_catalog", "", header); got.Body.String() != `{"repositories":`+want+`}` {
			t.Errorf("%.30s: %s", header, got.Body)
		}
		var all []string
		path := "/v2/_catalog?n=2"
		for path != "" {
			got := w.ask("GET", path, "", header)
			list := strings.TrimSuffix(strings.TrimPrefix(got.Body.String(), `{"repositories":[`), "]}")
			all = append(all, list)
			path, _, _ = strings.Cut(strings.TrimPrefix(got.Header().Get("Link"), "<"), ">")
		}
		if got := "[" + strings.Join(all, ",") + "]"; got != want {
			t.Errorf("%.30s by pages: %s", header, got)
		}
	}
	if got := w.ask("GET", "/v2/_catalog?last=alice/zzz&n=1", "", bob); got.Body.String() != `{"repositories":["bob/x"]}` {
		t.Error(got.Body)
	}
}

// What a tag stands for is content and media type: neither changes for somebody who may only add, nor under a rule.
func TestMediaTypeOfWhatIsThere(t *testing.T) {
	const oci, docker = "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"
	w := newWorld(t)
	w.user("alice")
	w.user("creator")
	w.grant("creator", "create:alice/**")
	alice, creator := basic("alice", password("alice")), basic("creator", password("creator"))
	text := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":1},"layers":[]}`, w.blob("alice/a", "x"))
	digest := digest.FromString(text).String()
	for i, x := range []struct {
		by, reference, mediaType string
		status                   int
		is                       string
	}{
		{creator, "v1", oci, 201, oci}, {creator, "v1", oci, 201, oci}, {creator, digest, docker, 403, oci}, {creator, "v2", docker, 403, oci}, {creator, digest + "?tag=v2", docker, 403, oci},
		{alice, digest, docker, 201, docker}, {alice, "v1", oci, 201, oci},
	} {
		got := w.ask("PUT", "/v2/alice/a/manifests/"+x.reference, text, x.by, "Content-Type: "+x.mediaType)
		is := w.ask("HEAD", "/v2/alice/a/manifests/v1", "", alice).Header().Get("Content-Type")
		if got.Code != x.status || is != x.is {
			t.Errorf("%d: %d %s; the tag is %s", i, got.Code, got.Body, is)
		}
	}
	w.must(w.reg.AddImmutableRule(t.Context(), registry.ImmutableRule{Repository: "alice/*", Tag: "v*"}))
	if got := w.ask("PUT", "/v2/alice/a/manifests/"+digest, text, alice, "Content-Type: "+docker); got.Code != 409 {
		t.Error(got.Code, got.Body)
	}
	if got := w.ask("PUT", "/v2/alice/a/manifests/"+digest+"?tag=other", text, alice, "Content-Type: "+oci); got.Code != 201 {
		t.Error(got.Code, got.Body)
	}
}

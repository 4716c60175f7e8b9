package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"registry/db"
	"registry/server/auth"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// The matrix asks everything of everybody: each route, for each kind of repository, by each kind of principal. What has to
// come out is said by a model of the rules that is written here, and calls nothing of package auth.

// can is a set of what somebody can do, in the model.
type can struct{ pull, create, push, del bool }

func (c can) and(d can) can {
	return can{c.pull && d.pull, c.create && d.create, c.push && d.push, c.del && d.del}
}

var everything = can{true, true, true, true}

// kind is a kind of repository. All of them are in the namespace of alice.
type kind struct {
	name           string
	exists, public bool
}

// The names have one length, so that answers about them can be compared.
var (
	publicRepo  = kind{"alice/pub", true, true}
	privateRepo = kind{"alice/prv", true, false}
	missingRepo = kind{"alice/nil", false, false}
	kinds       = []kind{publicRepo, privateRepo, missingRepo}
)

const (
	otherRepo  = "alice/oth" // what tokens are for that are for something else
	sourceRepo = "alice/src" // private, blobs are mounted from it
	held       = "what the manifests hold"
)

// principal is somebody who asks, and what the model knows of them.
type principal struct {
	name    string
	header  func(repo string) string // Authorization, whole; "" none
	user    string                   // "" nobody
	invalid bool                     // their credentials are not good
	works   bool                     // refusing them takes hashing, which is throttled
	rights  can                      // in private repositories of alice's
	bounds  can                      // that a token leaves them, in them
	bearer  bool                     // they show a bearer token
	narrow  bool                     // which is for another repository, and not for the catalog
}

// needs is what a request needs of the one who sends it.
type needs int

const (
	needNothing needs = iota
	needLogin
	needCatalog
	needPull
	needPush // to create is enough
	needMove // of a tag that points elsewhere: to create is not enough, but lets one ask
	needDelete
	needPassword // to get a token
)

// outcome is a status with the code of an error.
type outcome struct {
	status int
	code   string
}

// cell is one request.
type cell struct {
	w *world
	n int
	p principal
	k kind
}

// variant is one way to use a route.
type variant struct {
	name     string
	method   string
	endpoint endpoint
	needs    needs
	// path, body and further headers. Whatever has to be there for this request alone is made if it will be needed.
	request func(c *cell, needed bool) (path, body string, headers []string)
	found   outcome // for those who may, in a repository that exists
	missing outcome // and in one that does not
}

func plain(path string) func(*cell, bool) (string, string, []string) {
	return func(c *cell, _ bool) (string, string, []string) {
		return strings.ReplaceAll(path, "<name>", c.k.name), "", nil
	}
}

var (
	theDigest = digest.FromString(theImage(held, "fixed"))
	noDigest  = digest.FromString("what nobody has")
)

// session starts an upload of a user.
func (c *cell) session(user string) string {
	u, err := c.w.reg.As(registry.Actor{User: user}).StartUpload(c.w.t.Context(), registry.RepoName(c.k.name), digest.SHA256)
	c.w.must(err)
	return "/v2/" + c.k.name + "/blobs/uploads/" + u.ID
}

func session(query string, foreign bool) func(*cell, bool) (string, string, []string) {
	return func(c *cell, needed bool) (string, string, []string) {
		path := "/v2/" + c.k.name + "/blobs/uploads/0123456789abcdef0123456789abcdef"
		if needed {
			user := c.p.user
			if foreign {
				user = "zoe"
			}
			path = c.session(user)
		}
		switch {
		case query != "" && c.k.exists:
			path += query + digest.FromString("x").String()
		case query != "":
			path += query + noDigest.String()
		}
		return path, "x", nil
	}
}

func putManifest(path func(c *cell, d digest.Digest) string) func(*cell, bool) (string, string, []string) {
	return func(c *cell, _ bool) (string, string, []string) {
		text := theImage(held, fmt.Sprint("cell ", c.n))
		return "/v2/" + c.k.name + "/manifests/" + path(c, digest.FromString(text)), text, []string{"Content-Type: application/vnd.oci.image.manifest.v1+json"}
	}
}

// fresh runs the request on something that make has made for it, if it has to be there.
func fresh(make func(c *cell) string, otherwise string) func(*cell, bool) (string, string, []string) {
	return func(c *cell, needed bool) (string, string, []string) {
		last := otherwise
		if needed && c.k.exists {
			last = make(c)
		}
		return "/v2/" + c.k.name + last, "", nil
	}
}

func mount(from string) func(*cell, bool) (string, string, []string) {
	return func(c *cell, _ bool) (string, string, []string) {
		d := noDigest
		// Also for whoever may, and has to ask for another token first.
		if c.k.exists && !c.p.invalid && !c.p.narrow && c.p.rights.and(c.p.bounds).create {
			d = c.w.blob(sourceRepo, fmt.Sprint("to mount ", c.n))
		}
		return "/v2/" + c.k.name + "/blobs/uploads/?mount=" + d.String() + from, "", nil
	}
}

func tokenFor(repo string) string {
	return "scope=repository:" + repo + ":pull,push,delete"
}

var variants = func() []variant {
	ok, accepted, created := outcome{200, ""}, outcome{202, ""}, outcome{201, ""}
	blob := "/v2/<name>/blobs/" + digest.FromString(held).String()
	manifest := "/v2/<name>/manifests/"
	list := []variant{
		{"base", "GET", endpointBase, needLogin, plain("/v2/"), ok, ok},
		{"catalog", "GET", endpointCatalog, needCatalog, plain("/v2/_catalog"), ok, ok},
		{"tags", "GET", endpointTags, needPull, plain("/v2/<name>/tags/list"), ok, outcome{404, "NAME_UNKNOWN"}},
		{"a page of tags", "GET", endpointTags, needPull, plain("/v2/<name>/tags/list?n=1&last=a"), ok, outcome{404, "NAME_UNKNOWN"}},
		{"manifest by tag", "GET", endpointManifest, needPull, plain(manifest + "fixed"), ok, outcome{404, "MANIFEST_UNKNOWN"}},
		{"manifest by digest", "GET", endpointManifest, needPull, plain(manifest + theDigest.String()), ok, outcome{404, "MANIFEST_UNKNOWN"}},
		{"manifest that is not there", "GET", endpointManifest, needPull, plain(manifest + "nothing"), outcome{404, "MANIFEST_UNKNOWN"}, outcome{404, "MANIFEST_UNKNOWN"}},
		{"blob", "GET", endpointBlob, needPull, plain(blob), ok, outcome{404, "BLOB_UNKNOWN"}},
		{"blob that is not there", "GET", endpointBlob, needPull, plain("/v2/<name>/blobs/" + noDigest.String()), outcome{404, "BLOB_UNKNOWN"}, outcome{404, "BLOB_UNKNOWN"}},
		{"referrers", "GET", endpointReferrers, needPull, plain("/v2/<name>/referrers/" + theDigest.String()), ok, ok},

		{"new tag", "PUT", endpointManifest, needPush, putManifest(func(c *cell, d digest.Digest) string { return fmt.Sprint("new", c.n) }), created, outcome{404, "MANIFEST_BLOB_UNKNOWN"}},
		{"new manifest", "PUT", endpointManifest, needPush, putManifest(func(c *cell, d digest.Digest) string { return d.String() }), created, outcome{404, "MANIFEST_BLOB_UNKNOWN"}},
		{"new tag by digest", "PUT", endpointManifest, needPush, putManifest(func(c *cell, d digest.Digest) string { return fmt.Sprint(d, "?tag=also", c.n) }), created, outcome{404, "MANIFEST_BLOB_UNKNOWN"}},
		{"moved tag", "PUT", endpointManifest, needMove, putManifest(func(c *cell, d digest.Digest) string { return "moves" }), created, outcome{404, "MANIFEST_BLOB_UNKNOWN"}},
		{"moved tag by digest", "PUT", endpointManifest, needMove, putManifest(func(c *cell, d digest.Digest) string { return fmt.Sprint(d, "?tag=more", c.n, "&tag=moves") }), created, outcome{404, "MANIFEST_BLOB_UNKNOWN"}},
		{"rubbish", "PUT", endpointManifest, needPush, plain(manifest + "rubbish"), outcome{400, "MANIFEST_INVALID"}, outcome{400, "MANIFEST_INVALID"}},

		{"start", "POST", endpointUploads, needPush, plain("/v2/<name>/blobs/uploads/"), accepted, accepted},
		{"whole blob", "POST", endpointUploads, needPush, func(c *cell, _ bool) (string, string, []string) {
			content, d := fmt.Sprint("whole ", c.n), noDigest
			if c.k.exists {
				d = digest.FromString(content)
			}
			return "/v2/" + c.k.name + "/blobs/uploads/?digest=" + d.String(), content, nil
		}, created, outcome{400, "DIGEST_INVALID"}},
		{"mount", "POST", endpointUploads, needPush, mount("&from=" + sourceRepo), created, accepted},
		{"mount from anywhere", "POST", endpointUploads, needPush, mount(""), created, accepted},
		{"status", "GET", endpointUpload, needPush, session("", false), outcome{204, ""}, outcome{204, ""}},
		{"chunk", "PATCH", endpointUpload, needPush, session("", false), accepted, accepted},
		{"finish", "PUT", endpointUpload, needPush, session("?digest=", false), created, outcome{400, "DIGEST_INVALID"}},
		{"cancel", "DELETE", endpointUpload, needPush, session("", false), outcome{204, ""}, outcome{204, ""}},

		{"untag", "DELETE", endpointManifest, needDelete, fresh(func(c *cell) string {
			tag := fmt.Sprint("gone", c.n)
			c.w.image(c.k.name, tag, held, "fixed")
			return "/manifests/" + tag
		}, "/manifests/gone"), accepted, outcome{404, "MANIFEST_UNKNOWN"}},
		{"manifest", "DELETE", endpointManifest, needDelete, fresh(func(c *cell) string {
			return "/manifests/" + digest.FromString(c.w.image(c.k.name, fmt.Sprint("del", c.n), held, fmt.Sprint("del", c.n))).String()
		}, "/manifests/"+noDigest.String()), accepted, outcome{404, "MANIFEST_UNKNOWN"}},
		{"blob", "DELETE", endpointBlob, needDelete, fresh(func(c *cell) string {
			return "/blobs/" + c.w.blob(c.k.name, fmt.Sprint("del ", c.n)).String()
		}, "/blobs/"+noDigest.String()), accepted, outcome{404, "BLOB_UNKNOWN"}},

		{"token", "GET", "/auth/token", needPassword, func(c *cell, _ bool) (string, string, []string) {
			return "/auth/token?service=registry&" + tokenFor(c.k.name), "", nil
		}, ok, ok},
		{"token by form", "POST", "/auth/token", needPassword, func(c *cell, _ bool) (string, string, []string) {
			return "/auth/token", tokenFor(c.k.name), []string{formType}
		}, ok, ok},

		{"options", "OPTIONS", endpointManifest, needNothing, plain(manifest + "fixed"), outcome{204, ""}, outcome{204, ""}},
		{"no such method", "POST", endpointTags, needNothing, plain("/v2/<name>/tags/list"), outcome{405, "UNSUPPORTED"}, outcome{405, "UNSUPPORTED"}},
		{"no reference", "GET", endpointManifest, needNothing, plain(manifest + ".x"), outcome{404, "MANIFEST_UNKNOWN"}, outcome{404, "MANIFEST_UNKNOWN"}},
		{"no digest", "GET", endpointBlob, needNothing, plain("/v2/<name>/blobs/sha256:x"), outcome{400, "DIGEST_INVALID"}, outcome{400, "DIGEST_INVALID"}},
		{"no endpoint", "GET", "", needNothing, plain("/v2/<name>/nothing"), outcome{404, "NOT_FOUND"}, outcome{404, "NOT_FOUND"}},
	}
	for _, v := range list { // whatever can be read can be asked for without its body
		if v.method == "GET" && v.needs != needNothing && v.needs != needPassword && v.endpoint != endpointUpload {
			v.name, v.method = v.name+" without its body", "HEAD"
			list = append(list, v)
		}
	}
	for _, x := range []struct{ method, query string }{{"GET", ""}, {"PATCH", ""}, {"PUT", "?digest="}, {"DELETE", ""}} {
		unknown := outcome{404, "BLOB_UPLOAD_UNKNOWN"}
		list = append(list, variant{"upload of somebody else", x.method, endpointUpload, needPush, session(x.query, true), unknown, unknown})
	}
	return list
}()

// allEndpoints is everything that there is a rule for, as "METHOD endpoint".
func allEndpoints() (list []string) {
	for _, r := range routes {
		list = append(list, r.method+" "+string(r.endpoint))
	}
	return append(list, "GET /auth/token", "POST /auth/token")
}

func TestTheMatrixHasEveryRoute(t *testing.T) {
	for _, e := range allEndpoints() {
		if !slices.ContainsFunc(variants, func(v variant) bool { return v.needs != needNothing && v.method+" "+string(v.endpoint) == e }) {
			t.Error(e, "is in no test")
		}
	}
}

// The rule of a route that nobody wrote one for is that nobody may use it.
func TestRouteWithoutARule(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	routes = append(routes, route{"forgotten", "LINK", endpointTags, 0, (*Server).getTags})
	defer func() { routes = routes[:len(routes)-1] }()
	w.blob("alice/pub", held)
	w.public("alice/pub")
	for _, header := range []string{"X: x", basic("alice", password("alice")), "Authorization: Bearer " + w.token(basic("alice", password("alice")), "repository:alice/pub:*").Token} {
		if got := w.ask("LINK", "/v2/alice/pub/tags/list", "", header); got.Code < 400 {
			t.Errorf("%.20s: %d", header, got.Code)
		}
	}
}

// principals makes everybody who asks.
func principals(w *world) (list []principal) {
	users := []struct {
		name, rule string
		rights     can
	}{
		{"alice", "", everything}, {"reader", "pull:alice/*", can{pull: true}}, {"writer", "push:alice/*", can{pull: true, create: true, push: true}},
		{"creator", "create:alice/*", can{pull: true, create: true}}, {"deleter", "delete:alice/*", can{pull: true, del: true}},
		{"stranger", "push:other/**", can{}}, {"al", "", can{}}, {"member", "", can{pull: true, create: true, push: true}}, {"admin", "", everything},
		{"guessed", "push:alice/*", everything}, {"disabled", "push:alice/*", everything}, {"late", "push:alice/*", everything}, {"removed", "push:alice/*", everything},
	}
	always := func(header string) func(string) string { return func(string) string { return header } }
	bearers := func(authorization string) func(string) string {
		tokens := map[string]string{}
		for _, k := range kinds {
			tokens[k.name] = bearer(w.token(authorization, "repository:"+k.name+":pull,push,delete registry:catalog:*").Token)
		}
		return func(repo string) string { return tokens[repo] }
	}
	all := func(name, user, authorization string, rights, bounds can) {
		tokens := bearers(authorization)
		other := bearer(w.token(authorization, "repository:"+otherRepo+":pull,push,delete").Token)
		list = append(list,
			principal{name: name, header: always(authorization), user: user, rights: rights, bounds: bounds},
			principal{name: name + " with a token", header: tokens, user: user, rights: rights, bounds: bounds, bearer: true},
			principal{name: name + " with a token for another repository", header: always(other), user: user, rights: rights, bounds: bounds, bearer: true, narrow: true})
	}
	gone := map[string]func(string) string{}
	for _, u := range users {
		if u.name != "admin" {
			w.user(u.name)
		}
		if u.name == "member" {
			w.must(w.auth.AddMember(w.t.Context(), nobody, auth.Member{Group: "team", User: "member"}))
			w.grant("@team", "push:alice/*")
		}
		if u.rule != "" {
			w.grant(u.name, u.rule)
		}
		secret := password(u.name)
		if u.name == "admin" {
			secret = "the admin's password"
		}
		switch u.name {
		case "disabled", "removed":
			gone[u.name] = bearers(basic(u.name, secret))
		case "guessed":
		case "late":
			gone[u.name] = bearers(basic(u.name, w.apiToken("late", "late", "push:**", time.Hour)))
		default:
			all(u.name, u.name, basic(u.name, secret), u.rights, everything)
		}
	}
	all("alice by API token to pull", "alice", basic("alice", w.apiToken("alice", "narrow", "pull:alice/**", 0)), everything, can{pull: true})
	all("alice by API token for elsewhere", "alice", basic("alice", w.apiToken("alice", "elsewhere", "push:bob/**", 0)), everything, can{})
	all("stranger by API token for everything", "stranger", basic("stranger", w.apiToken("stranger", "wide", "admin:**", 0)), can{}, everything)
	anonymous := bearers("")
	list = append(list,
		principal{name: "nobody", header: always(""), bounds: everything},
		principal{name: "nobody with a token", header: anonymous, bounds: everything, bearer: true},
		principal{name: "nobody with a token for another repository", header: always(bearer(w.token("", "repository:"+otherRepo+":pull").Token)), bounds: everything, bearer: true, narrow: true})

	late := w.apiToken("late", "later", "push:**", time.Hour)
	w.must(w.auth.SetDisabled(w.t.Context(), nobody, "disabled", true))
	w.must(w.auth.DeleteUser(w.t.Context(), nobody, "removed"))
	w.user("removed")
	w.sleep(2 * time.Hour)
	for name, tokens := range gone {
		list = append(list, principal{name: "bearer of " + name, header: tokens, invalid: true, bearer: true})
	}
	refresh := w.token(basic("alice", password("alice"))).Refresh
	list = append(list,
		principal{name: "rubbish as a token", header: always(bearer("x.y.z")), invalid: true, bearer: true},
		principal{name: "refresh token", header: always(bearer(refresh)), invalid: true, bearer: true},
		principal{name: "rubbish", header: always("Authorization: Basic !"), invalid: true},
		principal{name: "another scheme", header: always("Authorization: Negotiate x"), invalid: true},
		// The clock goes on with these: remembered passwords are forgotten.
		principal{name: "wrong password", header: always(basic("guessed", "wrong password")), invalid: true, works: true},
		principal{name: "disabled", header: always(basic("disabled", "cheap password")), invalid: true, works: true},
		principal{name: "API token that has expired", header: always(basic("late", late)), invalid: true, works: true})
	w.weaken()
	return list
}

// weaken gives those who are not let in a password that is cheap to compare with.
func (w *world) weaken() {
	const cheap = "$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$xUA8VRcyIcfbX7xCnu1vc1nHkn3VE/OUgXenO/l0FSk"
	w.must(w.db.Update(w.t.Context(), func(tx *db.Tx) error {
		for _, name := range []string{"guessed", "disabled", "late"} {
			u, err := tx.User(name)
			if err != nil {
				return err
			}
			u.Password = cheap
			if err := tx.SaveUser(u); err != nil {
				return err
			}
		}
		return nil
	}))
}

// allows is the model: whether a principal can do something in a repository.
func (p principal) allows(k kind, anonymous bool) can {
	c := p.rights
	c.pull = c.pull || k.public && (anonymous || p.user != "")
	return c.and(p.bounds)
}

// names is what a token names of what was asked for, which is everything: there is one word to create and to push.
func (c can) names() string {
	var list []string
	for _, x := range []struct {
		name string
		may  bool
	}{{"pull", c.pull}, {"push", c.create || c.push}, {"delete", c.del}} {
		if x.may {
			list = append(list, x.name)
		}
	}
	return strings.Join(list, ",")
}

// model is what a request has to end with, and the challenge that comes with it.
func model(v variant, p principal, k kind, anonymous bool) (want outcome, challenge string) {
	want = v.missing
	if k.exists {
		want = v.found
	}
	if v.needs == needNothing {
		return want, ""
	}
	unauthorized := outcome{401, "UNAUTHORIZED"}
	if v.needs == needPassword {
		if p.invalid || p.bearer {
			return unauthorized, `Basic realm="registry", charset="UTF-8"`
		}
		return want, ""
	}
	challenge = `Bearer realm="http://example.com/auth/token",service="registry"`
	word := map[needs]string{needPull: "pull", needPush: "pull,push", needMove: "pull,push", needDelete: "pull,delete"}[v.needs]
	mounts := strings.HasPrefix(v.name, "mount")
	source := "" // is named where the request names it
	if v.name == "mount" {
		source = " repository:" + sourceRepo + ":pull"
	}
	switch {
	case word != "":
		challenge += `,scope="repository:` + k.name + `:` + word + source + `"`
	case v.needs == needCatalog:
		challenge += `,scope="registry:catalog:*"`
	}
	if p.invalid {
		if p.bearer {
			challenge += `,error="invalid_token"`
		}
		return unauthorized, challenge
	}
	loggedIn := p.user != "" || p.bearer
	if loggedIn {
		challenge += `,error="insufficient_scope"`
	}
	c := p.allows(k, anonymous)
	may := map[needs]bool{needLogin: loggedIn, needCatalog: loggedIn && !p.narrow, needPull: c.pull, needPush: c.create, needMove: c.create, needDelete: c.del}[v.needs]
	inRepository := v.needs != needLogin && v.needs != needCatalog
	if inRepository && p.narrow {
		may = false
	}
	switch {
	case may && v.needs == needMove && !c.push && k.exists:
		return outcome{403, "DENIED"}, ""
	case may && mounts && p.bearer:
		return outcome{202, ""}, "" // the token does not name where it would come from, or there is no such blob
	case may:
		return want, ""
	case p.user == "" || p.bearer:
		return unauthorized, challenge
	case v.needs == needPull:
		return outcome{404, "NAME_UNKNOWN"}, ""
	}
	return outcome{403, "DENIED"}, ""
}

func TestMatrix(t *testing.T) {
	for _, anonymous := range []bool{true, false} {
		t.Run(fmt.Sprint("anonymous ", anonymous), func(t *testing.T) { testMatrix(t, anonymous) })
	}
}

func testMatrix(t *testing.T, anonymous bool) {
	w := newWorld(t, func(c *auth.Config) { c.Anonymous, c.TokenLifetime = anonymous, 24*time.Hour })
	for _, k := range kinds {
		if k.exists {
			w.blob(k.name, held)
			w.image(k.name, "fixed", held, "fixed")
			w.image(k.name, "moves", held, "moves")
		}
	}
	w.public(publicRepo.name)
	w.blob(sourceRepo, held)
	all := principals(w)
	n := 0
	for _, p := range all {
		for _, v := range variants {
			answers := map[kind]*httptest.ResponseRecorder{}
			for _, k := range kinds {
				n++
				c := &cell{w, n, p, k}
				want, challenge := model(v, p, k, anonymous)
				needed := want.status < 400 || want.status == 404 || want.status == 400
				path, body, headers := v.request(c, needed && !p.invalid && p.user != "")
				if h := p.header(k.name); h != "" {
					headers = append(headers, h)
				}
				if p.works {
					w.sleep(10 * time.Second)
				}
				got := w.ask(v.method, path, body, headers...)
				answers[k] = got
				w.check(fmt.Sprintf("%s: %s: %s %s", p.name, v.name, v.method, path), got, v, want, challenge)
				if v.needs == needPassword && got.Code == 200 {
					w.checkGrant(p, k, got, anonymous)
				}
			}
			if c := p.allows(privateRepo, anonymous); c == (can{}) || p.invalid || p.narrow {
				w.checkTwins(p.name+": "+v.name, v, answers[privateRepo], answers[missingRepo])
			}
		}
	}
	var has bool
	w.must(w.db.View(t.Context(), func(tx *db.Tx) error {
		_, err := tx.RepositoryID(registry.RepoName(missingRepo.name))
		has = err == nil
		return nil
	}))
	if has {
		t.Error("the missing repository is there")
	}
	t.Logf("%d cells: %d principals, %d variants", n, len(all), len(variants))
	if n < 3000 {
		t.Error("they are too few")
	}
}

func (w *world) check(name string, got *httptest.ResponseRecorder, v variant, want outcome, challenge string) {
	w.t.Helper()
	if got.Code != want.status || v.method != "HEAD" && code(got) != want.code {
		w.t.Errorf("%s: %d %s, want %d %s", name, got.Code, code(got), want.status, want.code)
	}
	if h := got.Header().Get("Www-Authenticate"); h != challenge {
		w.t.Errorf("%s: challenge %q, want %q", name, h, challenge)
	}
	if v.method == "HEAD" && got.Body.Len() != 0 {
		w.t.Errorf("%s: a body of %d bytes", name, got.Body.Len())
	}
}

// checkGrant looks at what a token is for: what the model says, of what was asked for.
func (w *world) checkGrant(p principal, k kind, got *httptest.ResponseRecorder, anonymous bool) {
	w.t.Helper()
	var token answeredToken
	w.must(json.Unmarshal(got.Body.Bytes(), &token))
	want := p.allows(k, anonymous).names()
	if want != "" {
		want = "repository:" + k.name + ":" + want
	}
	if token.Scope != want || token.Token != token.Access || token.ExpiresIn < 60 {
		w.t.Errorf("%s: a token for %q in %d s, want %q", p.name, token.Scope, token.ExpiresIn, want)
	}
}

// checkTwins compares the answers about a private and about a missing repository.
func (w *world) checkTwins(name string, v variant, private, missing *httptest.ResponseRecorder) {
	w.t.Helper()
	if v.needs == needPassword && private.Code == 200 {
		return // a token is another one each time
	}
	tidy := func(got *httptest.ResponseRecorder, repo string) string {
		h := got.Header().Clone()
		h.Del("Date")
		h.Del("X-Request-Id")
		text, err := json.Marshal(struct {
			Status int
			Header http.Header
			Body   string
		}{got.Code, h, got.Body.String()})
		w.must(err)
		return strings.ReplaceAll(string(text), repo, "<name>")
	}
	if a, b := tidy(private, privateRepo.name), tidy(missing, missingRepo.name); a != b {
		w.t.Errorf("%s tells a private repository from a missing one:\n%s\n%s", name, a, b)
	}
}

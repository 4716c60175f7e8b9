package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server/auth"
	"registry/server/registry"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go/v1"
)

// world is a server with users, over a real database and a real directory, with a clock of its own.
type world struct {
	t    testing.TB
	path string // of the database
	db   *db.DB
	reg  *registry.Registry
	auth *auth.Authority
	http http.Handler
	mu   sync.Mutex
	time time.Time
}

func newWorld(t testing.TB, change ...func(*auth.Config)) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "reg.db"), time: time.Now()}
	w.db = dbtest.OpenAt(t, w.path, w.now)
	store, err := blobs.OpenDir(t.Context(), filepath.Join(t.TempDir(), "blobs"), blobs.DirOptions{})
	w.must(err)
	w.reg = registry.New(registry.Config{DB: w.db, Blobs: store})
	cfg := auth.Config{DB: w.db, Anonymous: true}
	for _, c := range change {
		c(&cfg)
	}
	w.auth = auth.New(cfg)
	_, err = w.auth.Start(t.Context(), "the admin's password")
	w.must(err)
	s, err := New(Config{Registry: w.reg, Auth: w.auth})
	w.must(err)
	w.http = s.Handler()
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

// sleep moves the clock.
func (w *world) sleep(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

var nobody registry.Actor

// password is the one of a user.
func password(user string) string { return "password of " + user }

// user makes a user.
func (w *world) user(name string) {
	w.t.Helper()
	w.must(w.auth.CreateUser(w.t.Context(), nobody, name, password(name), false, true))
}

func (w *world) grant(grantee, rule string) {
	w.t.Helper()
	r, err := auth.ParseRule(rule)
	w.must(err)
	w.must(w.auth.SetGrant(w.t.Context(), nobody, grantee, r))
}

func (w *world) apiToken(user, name, scopes string, lifetime time.Duration) string {
	w.t.Helper()
	text, err := w.auth.CreateAPIToken(w.t.Context(), nobody, user, name, scopes, lifetime)
	w.must(err)
	return text
}

func (w *world) blob(repo, content string) digest.Digest {
	w.t.Helper()
	d := digest.FromString(content)
	w.must(w.reg.PutBlob(w.t.Context(), registry.RepoName(repo), d, registry.Chunk{Body: strings.NewReader(content), Start: -1, Length: int64(len(content))}))
	return d
}

// theImage is a manifest of one blob with something of its own.
func theImage(content, mark string) string {
	d := fmt.Sprintf(`{"mediaType":"application/octet-stream","digest":%q,"size":%d}`, digest.FromString(content), len(content))
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":[%s],"annotations":{"mark":%q}}`, v1.MediaTypeImageManifest, d, d, mark)
}

// image stores a manifest of a blob that is there, under a tag.
func (w *world) image(repo, tag, content, mark string) (text string) {
	w.t.Helper()
	text = theImage(content, mark)
	_, err := w.reg.PutManifest(w.t.Context(), registry.RepoName(repo), registry.Put{
		Ref: registry.Reference{Tag: registry.Tag(tag)}, MediaType: v1.MediaTypeImageManifest, Content: []byte(text)})
	w.must(err)
	return text
}

func (w *world) public(repo string) {
	w.t.Helper()
	w.must(w.reg.SetPublic(w.t.Context(), registry.RepoName(repo), true))
}

// ask sends a request whose headers are "Name: value".
func (w *world) ask(method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	got := httptest.NewRecorder()
	w.http.ServeHTTP(got, r.WithContext(context.Background()))
	return got
}

func basic(user, password string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(user, password)
	return "Authorization: " + r.Header.Get("Authorization")
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// answeredToken is what the token endpoint answers.
type answeredToken struct {
	Token     string `json:"token"`
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	Scope     string `json:"scope"`
	ExpiresIn int    `json:"expires_in"`
}

// token gets a bearer token, with an Authorization header unless it is empty.
func (w *world) token(authorization string, scopes ...string) answeredToken {
	w.t.Helper()
	q := url.Values{"scope": scopes, "offline_token": {"true"}}
	var headers []string
	if authorization != "" {
		headers = append(headers, authorization)
	}
	got := w.ask("GET", "/auth/token?"+q.Encode(), "", headers...)
	if got.Code != 200 {
		w.t.Fatal(got.Code, got.Body)
	}
	var t answeredToken
	w.must(json.Unmarshal(got.Body.Bytes(), &t))
	return t
}

// code is the code of an error.
func code(got *httptest.ResponseRecorder) string {
	var e struct{ Errors []struct{ Code string } }
	if json.Unmarshal(got.Body.Bytes(), &e) != nil || len(e.Errors) != 1 {
		return ""
	}
	return e.Errors[0].Code
}

func memberOf(group, user string) auth.Member { return auth.Member{Group: group, User: user} }

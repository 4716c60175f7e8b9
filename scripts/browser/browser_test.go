//go:build unix

// Package browser attacks a server with what the pages of other sites can make a real browser do.
//
//	go test ./scripts/browser -v
//	REGISTRY_BINARY=PATH go test ./scripts/browser     # another build of it
//
// It wants Debian's `chromium` in PATH and is skipped without, unless REGISTRY_BROWSER says that it must be there.
package browser

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "registry/server/command" // what is tested is built by the test: this tells its cache when it has changed

	"github.com/opencontainers/go-digest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// registry is a server on loopback.
type registry struct {
	t    *testing.T
	dir  string
	url  string // http://127.0.0.1:PORT
	port string
	stop func()
}

var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "registry")
	if err == nil {
		if binary = os.Getenv("REGISTRY_BINARY"); binary == "" {
			binary = filepath.Join(dir, "registry")
			var out []byte
			if out, err = exec.Command("go", "build", "-o", binary, "registry").CombinedOutput(); err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// start starts a server in a directory, and returns when it answers.
func start(t *testing.T, dir string, args ...string) *registry {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	defer log.Close()
	cmd := exec.Command(binary, append([]string{"serve", "--addr", "127.0.0.1:0", "--log-format", "text"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, log
	must(t, cmd.Start())
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	r := &registry{t: t, dir: dir, stop: func() {
		cmd.Process.Signal(os.Interrupt)
		<-exited
	}}
	t.Cleanup(r.stop)
	for deadline := time.After(patience); ; {
		text, err := os.ReadFile(log.Name())
		must(t, err)
		if m := serving.FindSubmatch(text); m != nil {
			r.port = string(m[1])
			r.url = "http://127.0.0.1:" + r.port
			return r
		}
		select {
		case <-exited:
			t.Fatalf("the server does not start: %s", text)
		case <-deadline:
			t.Fatalf("the server does not come: %s", text)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// serving is what a server logs when it answers.
var serving = regexp.MustCompile(`url=http://127\.0\.0\.1:(\d+)`)

// withUsers starts a server with the admin ann and the user alice.
func withUsers(t *testing.T, args ...string) *registry {
	t.Helper()
	dir := t.TempDir()
	for _, user := range [][]string{{"ann", "--admin"}, {"alice"}} {
		cmd := exec.Command(binary, append([]string{"user", "add", "--password-stdin"}, user...)...)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader("the password of "+user[0])
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	return start(t, dir, append([]string{"--auth", "token"}, args...)...)
}

// do is a request of a client that is no browser.
func (r *registry) do(user, method, path, body string, headers ...string) (status int, answer string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	must(r.t, err)
	if user != "" {
		req.SetBasicAuth(user, "the password of "+user)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	must(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(r.t, err)
	return resp.StatusCode, string(text)
}

// isAdmin says whether alice is one.
func (r *registry) isAdmin() bool {
	r.t.Helper()
	status, answer := r.do("ann", "GET", "/api/v1/users/alice", "")
	var user struct{ Admin bool }
	if err := json.Unmarshal([]byte(answer), &user); err != nil || status != 200 {
		r.t.Fatal(status, answer, err)
	}
	return user.Admin
}

// login opens an address for which ann's browser is asked for a password, and remembers it for the whole server.
func (r *registry) login(t *tab) {
	r.t.Helper()
	u, err := url.Parse(r.url + "/metrics")
	must(r.t, err)
	u.User = url.UserPassword("ann", "the password of ann")
	if status, _ := t.visit(u.String()); status != 200 {
		r.t.Fatalf("ann does not log in: %d", status)
	}
}

// script makes alice an admin before the page is loaded.
const script = `<script>var x = new XMLHttpRequest(); x.open('PUT', '/api/v1/users/alice/admin', false); x.send('{\"admin\":true}')</script>`

const manifest = `{"x":"` + script + `"}`

// An ordinary user stores a script, and an admin opens the link.
func TestStoredScript(t *testing.T) {
	r, tab := withUsers(t), startChromium(t).open()
	for _, kind := range []string{"text/html", "application/xhtml+xml", "image/svg+xml", "application/xml"} {
		status, answer := r.do("alice", "PUT", "/v2/alice/app/manifests/v1", manifest, "Content-Type: "+kind)
		if status != 400 || !strings.Contains(answer, "MANIFEST_INVALID") {
			t.Errorf("%s is taken: %d %s", kind, status, answer)
		}
		if status == 201 && kind == "text/html" {
			r.login(tab)
			tab.visit(r.url + "/v2/alice/app/manifests/v1")
		}
	}
	if r.isAdmin() {
		t.Error("alice is an admin")
	}
}

// The same script was stored before such types were refused.
func TestScriptStoredBefore(t *testing.T) {
	r := withUsers(t)
	if status, answer := r.do("alice", "PUT", "/v2/alice/app/manifests/v1", manifest, "Content-Type: application/vnd.example+json"); status != 201 {
		t.Fatal(status, answer)
	}
	r.stop()
	database, err := sql.Open("sqlite", filepath.Join(r.dir, "reg.db"))
	must(t, err)
	_, err = database.Exec(`UPDATE manifests SET media_type = 'text/html'`)
	must(t, err)
	must(t, database.Close())
	r = start(t, r.dir, "--auth", "token")
	tab := startChromium(t).open()
	r.login(tab)
	status, saved := tab.visit(r.url + "/v2/alice/app/manifests/v1")
	if status != 200 || !saved {
		t.Errorf("%d, saved %v: want it saved", status, saved)
	}
	if r.isAdmin() {
		t.Error("alice is an admin")
	}
}

// site is another site's page, at http://NAME:PORT.
func site(t *testing.T, name, page string) (origin string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, page)
	}))
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", name, 1)
}

// A form on another site mounts ann's private blob into alice's repository, with ann's login.
func TestForeignForm(t *testing.T) {
	r, tab := withUsers(t), startChromium(t).open()
	d := digest.FromString("secret")
	if status, answer := r.do("ann", "POST", "/v2/ann/private/blobs/uploads/?digest="+d.String(), "secret"); status != 201 {
		t.Fatal(status, answer)
	}
	r.login(tab)
	evil := site(t, "evil.example", fmt.Sprintf(`<form method=POST action="%s/v2/alice/app/blobs/uploads/?from=ann/private&amp;mount=%s"></form>`, r.url, d))
	if status, _ := tab.visit(evil); status != 200 {
		t.Fatal(status)
	}
	for len(tab.events) > 0 {
		<-tab.events
	}
	tab.run("document.forms[0].submit()")
	if status := tab.document(func(string) bool { return true }, false); status != 403 {
		t.Errorf("the form is answered with %d", status)
	}
	if status, _ := r.do("alice", "HEAD", "/v2/alice/app/blobs/"+d.String(), ""); status != 404 {
		t.Errorf("alice has ann's blob: %d", status)
	}
}

// Another site's page loads an answer into its own process, as it does with an image or a script.
func TestForeignPage(t *testing.T) {
	r, tab := start(t, t.TempDir()), startChromium(t).open()
	if status, answer := r.do("", "PUT", "/v2/app/manifests/v1", `{"x":1}`, "Content-Type: application/vnd.example+json"); status != 201 {
		t.Fatal(status, answer)
	}
	tab.visit(site(t, "evil.example", "<p>hello"))
	for _, path := range []string{"/v2/", "/v2/_catalog", "/v2/app/manifests/v1", "/v2/none/tags/list", "/livez", "/metrics", "/nothing"} {
		if got := tab.run("fetch(%q, {mode: 'no-cors'}).then(r => r.type)", r.url+path); got != "threw TypeError: Failed to fetch" {
			t.Errorf("%s is loaded: %s", path, got)
		}
	}
}

// A site lets its name lead to this machine when its page is open, and is then of the server's origin.
func TestRebinding(t *testing.T) {
	r, tab := start(t, t.TempDir()), startChromium(t).open()
	const taken = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	kind := "Content-Type: application/vnd.oci.image.index.v1+json"
	if status, answer := r.do("", "PUT", "/v2/app/manifests/latest", taken, kind); status != 201 {
		t.Fatal(status, answer)
	}
	rebound := "http://rebind.example:" + r.port
	tab.serve(rebound+"/page", "<p>hello")
	if status, _ := tab.visit(rebound + "/page"); status != 200 {
		t.Fatal(status)
	}
	const send = `fetch(%q, {method: %q, headers: {'Content-Type': 'application/vnd.oci.image.index.v1+json'}, body: %s}).then(r => r.status + ' ' + location.origin)`
	other := `'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"annotations":{"a":"b"}}'`
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v2/_catalog", "undefined"}, {"GET", "/v2/app/manifests/latest", "undefined"}, {"PUT", "/v2/app/manifests/latest", other},
		{"POST", "/v2/app/blobs/uploads/", "undefined"}, {"DELETE", "/v2/app/manifests/latest", "undefined"}, {"GET", "/metrics", "undefined"},
	} {
		if got := tab.run(send, c.path, c.method, c.body); got != "421 "+rebound {
			t.Errorf("%s %s: %s", c.method, c.path, got)
		}
	}
	if status, answer := r.do("", "GET", "/v2/app/manifests/latest", ""); status != 200 || answer != taken {
		t.Errorf("what was pushed is %d %s", status, answer)
	}
	// The same page under the server's own name may.
	tab.serve(r.url+"/page", "<p>hello")
	if status, _ := tab.visit(r.url + "/page"); status != 200 {
		t.Fatal(status)
	}
	if got := tab.run(send, "/v2/_catalog", "GET", "undefined"); got != "200 "+r.url {
		t.Errorf("the server's own page: %s", got)
	}
}

// The page of a registry browser that the operator has named uses the API, that of another site does not.
func TestCORS(t *testing.T) {
	ui, other := site(t, "ui.example", "ui"), site(t, "other.example", "other")
	r, tab := withUsers(t, "--cors-origins", ui), startChromium(t).open()
	if status, answer := r.do("ann", "PUT", "/v2/ann/app/manifests/v1", `{"x":1}`, "Content-Type: application/vnd.example+json"); status != 201 {
		t.Fatal(status, answer)
	}
	const (
		read   = `fetch(%q, {headers: {Authorization: 'Basic ' + btoa('ann:the password of ann')}}).then(async r => r.status + ' ' + r.headers.get('Docker-Content-Digest') + ' ' + await r.text())`
		remove = `fetch(%q, {method: 'DELETE', headers: {Authorization: 'Basic ' + btoa('ann:the password of ann')}}).then(r => r.status)`
		ask    = `fetch(%q).then(r => r.status + ' ' + r.headers.get('WWW-Authenticate'))`
	)
	catalog, image := r.url+"/v2/_catalog", r.url+"/v2/ann/app/manifests/v1"
	r.login(tab) // which must not help
	tab.visit(other)
	for _, code := range []string{fmt.Sprintf(read, catalog), fmt.Sprintf(remove, image), fmt.Sprintf(ask, catalog), fmt.Sprintf("fetch(%q, {credentials: 'include'}).then(r => r.text())", catalog)} {
		if got := tab.run("%s", code); got != "threw TypeError: Failed to fetch" {
			t.Errorf("another site's page: %s: %s", code, got)
		}
	}
	tab.visit(ui)
	if got := tab.run("fetch(%q, {credentials: 'include'}).then(r => r.text())", catalog); got != "threw TypeError: Failed to fetch" {
		t.Errorf("with the login of the browser: %s", got)
	}
	if got := tab.run(read, catalog); got != `200 null {"repositories":["ann/app"]}` {
		t.Errorf("the catalog: %s", got)
	}
	if got, want := tab.run(read, image), "200 "+digest.FromString(`{"x":1}`).String()+` {"x":1}`; got != want {
		t.Errorf("an image: %s, want %s", got, want)
	}
	if got := tab.run(ask, catalog); !strings.HasPrefix(got, "401 Bearer realm=") {
		t.Errorf("without a login: %s", got)
	}
	if got := tab.run(remove, image); got != "202" {
		t.Errorf("removed: %s", got)
	}
}

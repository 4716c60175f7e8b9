package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"registry/blobs"
	"registry/db"
	"registry/db/dbtest"
	"registry/server/registry"
)

// world is an Authority over a real database, with a clock of its own.
type world struct {
	t testing.TB
	*Authority
	path   string
	reg    *registry.Registry
	mu     sync.Mutex
	time   time.Time
	hashed int // passwords
}

func newWorld(t testing.TB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "reg.db"), time: time.Unix(2e9, 0)}
	w.open(dbtest.OpenAt(t, w.path, w.now), change...)
	if _, err := w.Start(t.Context(), "the admin's password"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) open(d *db.DB, change ...func(*Config)) {
	w.t.Helper()
	cfg := Config{DB: d, Anonymous: true}
	for _, c := range change {
		c(&cfg)
	}
	w.Authority = New(cfg)
	store, err := blobs.OpenDir(w.t.Context(), filepath.Join(w.t.TempDir(), "blobs"), blobs.DirOptions{})
	w.must(err)
	w.reg = registry.New(registry.Config{DB: d, Blobs: store})
	compare := w.logins.compare
	w.logins.compare = func(hash, password string) (bool, bool, error) {
		w.mu.Lock()
		w.hashed++
		w.mu.Unlock()
		return compare(hash, password)
	}
}

// elsewhere is the same world as another process has it.
func (w *world) elsewhere() *world {
	w.t.Helper()
	other := &world{t: w.t, path: w.path, time: w.now()}
	other.open(dbtest.OpenAt(w.t, w.path, w.now))
	return other
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

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

var somebody registry.Actor

const cheapPassword = "cheap password"

// user makes a user with the cheap password.
func (w *world) user(name string) {
	w.t.Helper()
	w.must(w.createUser(w.t.Context(), somebody, name, cheapHash, false, true))
}

// login is the error of a login, and how many passwords were hashed for it.
func (w *world) login(name, password string, from netip.Addr) (work int, err error) {
	before := w.hashed
	_, err = w.Login(w.t.Context(), name, password, from)
	return w.hashed - before, err
}

func (w *world) apiToken(user, name, scopes string, lifetime time.Duration) string {
	w.t.Helper()
	text, err := w.CreateAPIToken(w.t.Context(), somebody, user, name, scopes, lifetime)
	w.must(err)
	return text
}

func isUnauthorized(err error) bool { return registry.Unauthorized.Is(err) }

// Whatever is wrong with a login, the answer and the work are the same.
func TestRefusedLoginsAreAlike(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"alice", "disabled"} {
		w.user(name)
	}
	w.must(w.createUser(t.Context(), somebody, "imported", bcryptHash(t, cheapPassword), false, true))
	token := w.apiToken("disabled", "x", "pull:**", 0)
	short := w.apiToken("alice", "short", "pull:**", time.Minute)
	foreign := w.apiToken("alice", "foreign", "pull:**", 0)
	w.must(w.SetDisabled(t.Context(), somebody, "disabled", true))
	w.sleep(time.Hour)
	var first string
	for _, x := range [][2]string{
		{"alice", "wrong password"}, {"alice", ""}, {"alice", "\x00"}, {"alice", cheapPassword + "\x00"}, {"alice", "\xff\xfe"}, {"alice", strings.Repeat("p", 100_000)},
		{"alice", cheapPassword + " "}, {"alice", short}, {"alice", tokenPrefix}, {"imported", "wrong password"}, {"imported", strings.Repeat("L", 73)},
		{"imported", cheapPassword + "\x00" + cheapPassword}, {"imported", foreign},
		{"unknown", cheapPassword}, {"unknown", token}, {"", cheapPassword}, {"", ""}, {"Alice", cheapPassword}, {"alice\x00", cheapPassword}, {"alice/", cheapPassword},
		{strings.Repeat("a", 100_000), "x"}, {"@alice", cheapPassword}, {"admin", "password"}, {"admin", "admin"}, {"admin", ""}, {"admin", "Harbor12345"},
		{"disabled", cheapPassword}, {"disabled", "wrong password"}, {"disabled", token}, {"disabled", foreign},
	} {
		work, err := w.login(x[0], x[1], here)
		if !isUnauthorized(err) || work != 1 {
			t.Errorf("%.20q %.20q: %v, %d hashed", x[0], x[1], err, work)
			continue
		}
		if first == "" {
			first = err.Error()
		}
		if err.Error() != first {
			t.Errorf("%.20q %.20q: %q, not %q", x[0], x[1], err, first)
		}
	}
}

func TestLogin(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	for i, want := range []int{1, 0, 0} {
		if work, err := w.login("alice", cheapPassword, here); work != want || err != nil {
			t.Errorf("login %d: %d hashed, %v", i, work, err)
		}
	}
	if work, err := w.login("alice", "wrong password", here); work != 1 || !isUnauthorized(err) {
		t.Error(work, err)
	}
	w.sleep(rememberRight + time.Second)
	if work, err := w.login("alice", cheapPassword, here); work != 1 || err != nil {
		t.Error("a password is remembered for too long:", work, err)
	}
	users, err := w.Users(t.Context(), "", 10)
	if err != nil || len(users) != 2 || !users[1].LastLogin.Equal(w.now()) {
		t.Error(users, err)
	}
}

// A weak hash is replaced while the password is at hand, and that ends nothing.
func TestWeakHashesAreReplaced(t *testing.T) {
	w := newWorld(t)
	w.user("weak")
	w.must(w.createUser(t.Context(), somebody, "imported", bcryptHash(t, cheapPassword), false, true))
	for _, name := range []string{"weak", "imported"} {
		_, err := w.Login(t.Context(), name, cheapPassword, here)
		w.must(err)
		s, err := w.account(t.Context(), name)
		w.must(err)
		if !strings.HasPrefix(s.Password, "$argon2id$v=19$m=19456,t=2,p=1$") {
			t.Errorf("%s keeps %s", name, s.Password)
		}
		if work, err := w.login(name, cheapPassword, here); work != 0 || err != nil {
			t.Error(name, work, err)
		}
		w.sleep(rememberRight + time.Second)
		if work, err := w.login(name, cheapPassword, here); work != 1 || err != nil {
			t.Error(name, work, err)
		}
	}
}

// A hash that cannot be understood is our fault, and says nothing to the client.
func TestLoginWithABrokenHash(t *testing.T) {
	w := newWorld(t)
	w.must(w.createUser(t.Context(), somebody, "broken", "x", false, true))
	if _, err := w.login("broken", "whatever it is", here); !registry.Internal.Is(err) {
		t.Error(err)
	}
}

func TestThrottledLogins(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	w.user("bob")
	if _, err := w.login("alice", cheapPassword, there); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if _, err := w.login("alice", "wrong password", here); !isUnauthorized(err) {
			t.Fatal(err)
		}
	}
	work, err := w.login("alice", "wrong password", here)
	var e *registry.Error
	if !registry.TooManyRequests.Is(err) || work != 0 || !errors.As(err, &e) || e.Detail != registry.RetryAfter(6*time.Second) {
		t.Error(work, err)
	}
	// A right password that is remembered passes, as does a token; so do others, and she from elsewhere.
	token := w.apiToken("alice", "x", "pull:**", 0)
	for _, x := range []struct {
		name, password string
		from           netip.Addr
	}{{"alice", cheapPassword, here}, {"alice", token, here}, {"bob", cheapPassword, here}, {"alice", cheapPassword, there}} {
		if _, err := w.login(x.name, x.password, x.from); err != nil {
			t.Error(x, err)
		}
	}
	w.sleep(rememberRight + time.Second)
	if work, err := w.login("alice", cheapPassword, here); work != 1 || err != nil {
		t.Error(work, err)
	}
	for range 40 { // right ones cost nothing
		w.logins.right = map[[32]byte]rightPassword{}
		if _, err := w.login("bob", cheapPassword, here); err != nil {
			t.Fatal(err)
		}
	}
}

func TestHtpasswd(t *testing.T) {
	w := newWorld(t)
	w.user("there")
	y := "$2y$" + bcryptHash(t, "of one user")[4:]
	added, err := w.ImportHtpasswd(t.Context(), somebody, strings.NewReader("# users\n\none:"+y+"\nthere:"+y+"\n  two:"+bcryptHash(t, "of two user")+"  \n"))
	if err != nil || strings.Join(added, " ") != "one two" {
		t.Fatal(added, err)
	}
	if _, err := w.login("one", "of one user", here); err != nil {
		t.Error(err)
	}
	if _, err := w.login("there", cheapPassword, here); err != nil {
		t.Error("who was there has another password:", err)
	}
	for _, line := range []string{
		"three", "three:", "three:secret", "three:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "three:$apr1$x$y", "Three:" + y, "a/b:" + y, "root:" + y, ":" + y, "three:" + y[:30],
		"three:$2y$31$" + y[7:], // for which a processor would work for days
	} {
		added, err := w.ImportHtpasswd(t.Context(), somebody, strings.NewReader("four:"+y+"\n"+line+"\n"))
		if !registry.RequestInvalid.Is(err) || added != nil {
			t.Errorf("%q: %v %v", line, added, err)
		}
	}
	if s, err := w.known(t.Context(), "four"); s != nil || err != nil {
		t.Error("a file with a wrong line is imported in part", err)
	}
}

// may says what a caller may do in a private repository.
func (w *world) may(c Caller, repo string) (actions Actions) {
	w.t.Helper()
	for _, one := range []Actions{Pull, Create, Push, Delete, Admin} {
		ok, err := w.May(c, db.RepoName(repo), one, func() (bool, error) { return false, nil })
		w.must(err)
		if ok {
			actions |= one
		}
	}
	return actions
}

// An API token never widens what its user may do, however they come with it.
func TestAPITokens(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	rule := func(s string) Rule { r, err := ParseRule(s); w.must(err); return r }
	w.must(w.SetGrant(t.Context(), somebody, "alice", rule("push:team/*")))
	for _, x := range []struct {
		user, scopes, repo string
		want               Actions
	}{
		{"alice", "pull:alice/**", "alice/a", Pull}, {"alice", "pull:alice/**", "team/a", 0}, {"alice", "admin:**", "alice/a", All},
		{"alice", "admin:**", "team/a", Push | Create | Pull}, {"alice", "admin:**", "bob/a", 0}, {"alice", "delete:**", "team/a", Pull},
		{"alice", "create:team/a push:team/b", "team/a", Create | Pull}, {"admin", "pull:alice/**", "alice/a", Pull}, {"admin", "pull:alice/**", "bob/a", 0},
		{"admin", "push:**", "bob/a", Push | Create | Pull},
	} {
		text := w.apiToken(x.user, "x", x.scopes, 0)
		c, err := w.Login(t.Context(), x.user, text, here)
		w.must(err)
		asked := ParseScopes([]string{"repository:" + x.repo + ":* registry:catalog:* registry:management:*"})
		issued, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Scopes: asked, Refresh: true})
		w.must(err)
		b, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here)
		w.must(err)
		r, err := w.Refresh(t.Context(), issued.Refresh, here)
		w.must(err)
		again, err := w.Issue(t.Context(), r, w.reg, TokenRequest{Scopes: asked, Refresh: true})
		w.must(err)
		b2, err := w.Authenticate(t.Context(), "Bearer "+again.Token, here)
		w.must(err)
		for how, c := range map[string]Caller{"basic": c, "bearer": b, "refreshed": r, "bearer of refreshed": b2} {
			want := x.want
			if strings.HasPrefix(how, "bearer") {
				want &^= Admin
				if want.has(Create) { // a scope has one word for both, and the token's bounds stay
					want = want | x.want&Push
				}
			}
			if got := w.may(c, x.repo); got != want || c.IsUser() || c.IsAdmin() {
				t.Errorf("%s %s in %s by %s: %b, want %b; %v %v", x.user, x.scopes, x.repo, how, got, want, c.IsUser(), c.IsAdmin())
			}
		}
		if c.ReadsAll() != (x.user == "admin" && x.scopes == "push:**") {
			t.Errorf("%s with %s reads all: %v", x.user, x.scopes, c.ReadsAll())
		}
		w.must(w.DeleteAPIToken(t.Context(), somebody, x.user, "x"))
		if _, err := w.Login(t.Context(), x.user, text, here); !isUnauthorized(err) {
			t.Error("revoked:", err)
		}
		if _, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here); !isUnauthorized(err) {
			t.Error("revoked:", err)
		}
		if _, err := w.Refresh(t.Context(), issued.Refresh, here); !isUnauthorized(err) {
			t.Error("revoked:", err)
		}
	}
}

func TestAPITokenEnds(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.TokenLifetime = time.Hour })
	w.user("alice")
	w.user("bob")
	text := w.apiToken("alice", "x", "pull:**", 10*time.Minute)
	c, err := w.Login(t.Context(), "alice", text, here)
	w.must(err)
	issued, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Manage: true, Refresh: true})
	w.must(err)
	if _, err := w.Login(t.Context(), "bob", text, here); !isUnauthorized(err) {
		t.Error("a token of somebody else:", err)
	}
	if list, err := w.APITokens(t.Context(), "alice", APIToken{}, 10); err != nil || len(list) != 1 || !list[0].LastUsed.Equal(w.now()) {
		t.Error(list, err)
	}
	used := w.now()
	w.sleep(30 * time.Second)
	if _, err = w.Login(t.Context(), "alice", text, here); err != nil {
		t.Error(err)
	}
	if list, _ := w.APITokens(t.Context(), "", APIToken{}, 10); !list[0].LastUsed.Equal(used) {
		t.Error("each use is noted", list)
	}
	w.sleep(10 * time.Minute)
	if _, err := w.Login(t.Context(), "alice", text, here); !isUnauthorized(err) {
		t.Error("expired:", err)
	}
	if _, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here); !isUnauthorized(err) {
		t.Error("expired:", err)
	}
	for _, x := range [][2]string{{"x", ""}, {"x", "pull"}, {"x", "pull:["}, {"", "pull:**"}, {"x\n", "pull:**"}, {strings.Repeat("x", 65), "pull:**"}} {
		if _, err := w.CreateAPIToken(t.Context(), somebody, "alice", x[0], x[1], 0); !registry.RequestInvalid.Is(err) {
			t.Errorf("%q: %v", x, err)
		}
	}
	if _, err := w.CreateAPIToken(t.Context(), somebody, "alice", "y", "pull:**", -1); !registry.RequestInvalid.Is(err) {
		t.Error(err)
	}
	if _, err := w.CreateAPIToken(t.Context(), somebody, "nobody", "y", "pull:**", 0); !registry.Missing.Is(err) {
		t.Error(err)
	}
	if _, err := w.CreateAPIToken(t.Context(), somebody, "alice", "x", "pull:**", 0); !registry.Taken.Is(err) {
		t.Error(err)
	}
}

// What ends a user or their password ends what they got with it at once, whatever process did it.
func TestChangesEndEverything(t *testing.T) {
	for name, x := range map[string]struct {
		change       func(*world)
		login, token error // afterwards, of the old password and an API token
	}{
		"password": {func(w *world) { w.must(w.SetPassword(t.Context(), somebody, "alice", "another password")) }, registry.Unauthorized.With(nil), nil},
		"disable":  {func(w *world) { w.must(w.SetDisabled(t.Context(), somebody, "alice", true)) }, registry.Unauthorized.With(nil), registry.Unauthorized.With(nil)},
		"disable and enable": {func(w *world) {
			w.must(w.SetDisabled(t.Context(), somebody, "alice", true))
			w.must(w.SetDisabled(t.Context(), somebody, "alice", false))
		}, nil, nil},
		"remove": {func(w *world) { w.must(w.DeleteUser(t.Context(), somebody, "alice")) }, registry.Unauthorized.With(nil), registry.Unauthorized.With(nil)},
		"remove and make again": {func(w *world) {
			w.must(w.DeleteUser(t.Context(), somebody, "alice"))
			w.user("alice")
		}, nil, registry.Unauthorized.With(nil)},
	} {
		for _, where := range []string{"here", "elsewhere"} {
			t.Run(name+" "+where, func(t *testing.T) {
				w := newWorld(t)
				w.user("alice")
				by := w
				if where == "elsewhere" {
					by = w.elsewhere()
				}
				text := w.apiToken("alice", "x", "pull:**", 0)
				c, err := w.Login(t.Context(), "alice", cheapPassword, here)
				w.must(err)
				issued, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Manage: true, Refresh: true})
				w.must(err)
				if _, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here); err != nil {
					t.Fatal(err)
				}
				x.change(by)
				if _, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here); !isUnauthorized(err) {
					t.Error("the bearer token:", err)
				}
				if _, err := w.Refresh(t.Context(), issued.Refresh, here); !isUnauthorized(err) {
					t.Error("the refresh token:", err)
				}
				work, err := w.login("alice", cheapPassword, here)
				if work != 1 || (err == nil) != (x.login == nil) {
					t.Errorf("the password: %v, %d hashed", err, work)
				}
				if _, err := w.login("alice", text, here); (err == nil) != (x.token == nil) {
					t.Error("the API token:", err)
				}
			})
		}
	}
}

// What somebody may do is what the database says at that moment, also with a token from before.
func TestRightsAreOfNow(t *testing.T) {
	w := newWorld(t)
	other := w.elsewhere()
	w.user("alice")
	other.must(other.AddMember(t.Context(), somebody, Member{"team", "alice"}))
	c, err := w.Login(t.Context(), "alice", cheapPassword, here)
	w.must(err)
	issued, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Scopes: ParseScopes([]string{"repository:alice/a:pull"})})
	w.must(err)
	header := "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+cheapPassword))
	now := func() Actions {
		t.Helper()
		c, err := w.Authenticate(t.Context(), header, here)
		w.must(err)
		return w.may(c, "team/a")
	}
	for i, step := range []struct {
		do   func() error
		want Actions
	}{
		{func() error { return nil }, 0},
		{func() error { return other.SetGrant(t.Context(), somebody, "alice", Rule{Pull, "team/**"}) }, Pull},
		{func() error { return other.DeleteGrant(t.Context(), somebody, "alice", "team/**") }, 0},
		{func() error { return other.SetGrant(t.Context(), somebody, "alice", Rule{Pull, "team/*"}) }, Pull},
		{func() error { return other.SetGrant(t.Context(), somebody, "@team", Rule{Delete | Pull, "team/**"}) }, Delete | Pull},
		{func() error { return other.DeleteGrant(t.Context(), somebody, "alice", "team/*") }, Delete | Pull},
		{func() error { return other.RemoveMember(t.Context(), somebody, Member{"team", "alice"}) }, 0},
		{func() error { return other.SetAdmin(t.Context(), somebody, "alice", true) }, All},
		{func() error { return other.SetAdmin(t.Context(), somebody, "alice", false) }, 0},
	} {
		w.must(step.do())
		if got := now(); got != step.want {
			t.Errorf("step %d: %b, want %b", i, got, step.want)
		}
	}
	b, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here)
	w.must(err)
	if got := w.may(b, "alice/a"); got != Pull {
		t.Errorf("%b by a token of pull", got)
	}
	w.must(other.SetAdmin(t.Context(), somebody, "alice", true))
	b, err = w.Authenticate(t.Context(), "Bearer "+issued.Token, here)
	w.must(err)
	if got := w.may(b, "alice/a") | w.may(b, "other/a"); got != Pull || b.IsAdmin() {
		t.Errorf("%b by a token of pull of an admin", got)
	}
}

func TestStandingsAreRemembered(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	one, err := w.account(t.Context(), "alice")
	w.must(err)
	w.must(w.db.Update(t.Context(), func(tx *db.Tx) error { return tx.SetNote("something", "else") }))
	if two, err := w.account(t.Context(), "alice"); two != one || err != nil {
		t.Error("another commit makes a user be read again", err)
	}
	w.user("bob")
	if two, err := w.account(t.Context(), "alice"); two == one || err != nil {
		t.Error("a change of users does not", err)
	}
}

func TestKeyRotation(t *testing.T) {
	w := newWorld(t)
	other := w.elsewhere()
	w.user("alice")
	c, err := w.Login(t.Context(), "alice", cheapPassword, here)
	w.must(err)
	old, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Manage: true, Refresh: true})
	w.must(err)
	w.sleep(time.Minute)
	w.must(other.RotateKey(t.Context(), somebody))
	good := func(token string) bool {
		_, err := w.Authenticate(t.Context(), "Bearer "+token, here)
		return err == nil
	}
	fresh, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Manage: true, Refresh: true})
	w.must(err)
	if !good(old.Token) || !good(fresh.Token) {
		t.Error("a rotation ends tokens")
	}
	w.sleep(defaultLifetime + leeway)
	if good(old.Token) {
		t.Error("the old token has not ended")
	}
	if _, err := w.Refresh(t.Context(), old.Refresh, here); !isUnauthorized(err) {
		t.Error("the old key still signs for refresh tokens:", err)
	}
	if _, err := w.Refresh(t.Context(), fresh.Refresh, here); err != nil {
		t.Error(err)
	}
	keys, err := w.keys(t.Context())
	if err != nil || len(keys) != 2 || !keys[0].RetiredAt.IsZero() || len(keys[0].Secret) != 32 {
		t.Error(len(keys), err)
	}
	w.sleep(3 * refreshLifetime)
	w.must(w.RotateKey(t.Context(), somebody))
	if keys, err := w.keys(t.Context()); err != nil || len(keys) != 2 {
		t.Error("keys are kept for ever", len(keys), err)
	}
}

// A key that was retired, and a token that was issued, while the clock was ahead are not good until then.
func TestKeysAfterAWrongClock(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	c, err := w.Login(t.Context(), "alice", cheapPassword, here)
	w.must(err)
	const wrong = 365 * 24 * time.Hour
	good := func(token string) bool {
		_, err := w.Authenticate(t.Context(), "Bearer "+token, here)
		return err == nil
	}
	w.sleep(wrong)
	early, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Manage: true})
	w.must(err)
	if !good(early.Token) {
		t.Error("a token is not good")
	}
	w.sleep(-wrong)
	if good(early.Token) {
		t.Error("a token from the future is good for a year")
	}
	old, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Manage: true, Refresh: true})
	w.must(err)
	w.sleep(wrong)
	w.must(w.RotateKey(t.Context(), somebody))
	w.sleep(-wrong)
	if good(old.Token) {
		t.Error("a key that was retired in the future is good until then")
	}
	w.must(w.RotateKey(t.Context(), somebody))
	if keys, err := w.keys(t.Context()); err != nil || len(keys) != 2 {
		t.Error("a key that was retired in the future is kept", len(keys), err)
	}
}

func TestStart(t *testing.T) {
	w := newWorld(t)
	if made, err := w.Start(t.Context(), ""); made != "" || err != nil {
		t.Errorf("%q %v", made, err)
	}
	empty := &world{t: t, path: filepath.Join(t.TempDir(), "reg.db"), time: time.Unix(2e9, 0)}
	empty.open(dbtest.OpenAt(t, empty.path, empty.now))
	made, err := empty.Start(t.Context(), "")
	if err != nil || len(made) < 20 {
		t.Errorf("%q %v", made, err)
	}
	if c, err := empty.Login(t.Context(), FirstAdmin, made, here); err != nil || !c.IsAdmin() {
		t.Error(err)
	}
}

// Tokens that were found good are remembered, but not however many and large they are.
func TestRememberedBearersAreBounded(t *testing.T) {
	w := newWorld(t)
	w.user("alice")
	c, err := w.Login(t.Context(), "alice", cheapPassword, here)
	w.must(err)
	var scopes []string
	for i := range 60 {
		scopes = append(scopes, "repository:alice/a"+strings.Repeat("b", i)+":pull")
	}
	size := 0
	for _, asked := range [][]string{nil, scopes, scopes[:1]} {
		issued, err := w.Issue(t.Context(), c, w.reg, TokenRequest{Scopes: ParseScopes(asked), Manage: len(asked) == 0})
		w.must(err)
		if _, err := w.Authenticate(t.Context(), "Bearer "+issued.Token, here); err != nil {
			t.Error(err)
		}
	}
	for key := range w.bearers.known {
		size = max(size, len(key.text))
	}
	if size*maxBearers > 16<<20 || len(w.bearers.known) != 2 {
		t.Errorf("%d tokens, up to %d bytes each", len(w.bearers.known), size)
	}
}

func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f)
	w.user("alice")
	c, err := w.Login(f.Context(), "alice", cheapPassword, here)
	w.must(err)
	good, err := w.Issue(f.Context(), c, w.reg, TokenRequest{Manage: true, Refresh: true})
	w.must(err)
	right := base64.StdEncoding.EncodeToString([]byte("alice:" + cheapPassword))
	for _, s := range []string{"Basic " + right, "basic  " + right, "Bearer " + good.Token, "Bearer " + good.Refresh, "Basic", "Bearer", "Basic !!!!", "Basic Og==", "Bearer ....",
		"Bearer a.b", "Negotiate x", " ", "Basic " + right + ", Bearer x", "Bearer eyJhbGciOiJub25lIn0.e30."} {
		f.Add(s)
	}
	// Only whether a header is understood is of interest: a throttle and hashing would make it slow.
	w.logins.compare = func(_, password string) (bool, bool, error) { return password == cheapPassword, false, nil }
	f.Fuzz(func(t *testing.T, header string) {
		w.throttle.buckets = nil
		c, err := w.Authenticate(context.Background(), header, here)
		if err != nil {
			if !isUnauthorized(err) || c.LoggedIn || c.account != nil {
				t.Errorf("%q: %v, %+v", header, err, c)
			}
			return
		}
		if header == "" {
			if c.LoggedIn {
				t.Error("nobody has logged in")
			}
			return
		}
		_, rest, _ := strings.Cut(header, " ")
		rest = strings.TrimLeft(rest, " ")
		decoded, _ := base64.StdEncoding.DecodeString(rest)
		if rest != good.Token && string(decoded) != "alice:"+cheapPassword {
			t.Errorf("%q lets %q in", header, c.Name)
		}
	})
}

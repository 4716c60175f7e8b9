package server

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	hash256 "crypto/sha256"
	hash512 "crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"registry/db"
	"registry/server/auth"
)

var b64 = base64.RawURLEncoding

type object = map[string]any

// forge is a world with a private repository and somebody who knows the key that signs.
type forge struct {
	*world
	key    db.SigningKey
	header object
	claims object // of a good token of alice's for alice/a
}

func newForge(t *testing.T) *forge {
	f := &forge{world: newWorld(t)}
	for _, name := range []string{"alice", "bob"} {
		f.user(name)
	}
	f.blob("alice/a", "secret bytes")
	f.image("alice/a", "v1", "secret bytes", "")
	f.must(f.db.View(t.Context(), func(tx *db.Tx) error {
		keys, err := tx.SigningKeys()
		f.key = keys[0]
		return err
	}))
	f.header, f.claims = f.parts(f.token(basic("alice", password("alice")), "repository:alice/a:pull").Token)
	return f
}

// parts takes a token apart.
func (f *forge) parts(token string) (header, claims object) {
	f.t.Helper()
	texts := strings.Split(token, ".")
	for i, part := range []*object{&header, &claims} {
		raw, err := b64.DecodeString(texts[i])
		f.must(err)
		f.must(json.Unmarshal(raw, part))
	}
	return header, claims
}

// with is an object with other values, without those that are nil.
func with(o object, changes object) object {
	o = maps.Clone(o)
	for k, v := range changes {
		if o[k] = v; v == nil {
			delete(o, k)
		}
	}
	return o
}

func text(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// unsigned are the first two parts of a token. Each is an object or its text.
func unsigned(header, claims any) string {
	return b64.EncodeToString([]byte(text(header))) + "." + b64.EncodeToString([]byte(text(claims)))
}

func mac(new func() hash.Hash, key []byte, signed string) []byte {
	h := hmac.New(new, key)
	h.Write([]byte(signed))
	return h.Sum(nil)
}

// sign makes a token with the key of the server.
func (f *forge) sign(header, claims any) string {
	part := unsigned(header, claims)
	return part + "." + b64.EncodeToString(mac(hash256.New, f.key.Secret, part))
}

const secretPath = "/v2/alice/a/manifests/v1"

// status is the answer to a token.
func (f *forge) status(token string) int {
	got := f.ask("GET", secretPath, "", bearer(token))
	if strings.Contains(got.Body.String(), "sha256:") != (got.Code == 200) {
		f.t.Errorf("%d with %s", got.Code, got.Body)
	}
	if got.Code == 401 && !strings.Contains(got.Header().Get("Www-Authenticate"), `error="in`) {
		f.t.Errorf("401 with %q", got.Header().Get("Www-Authenticate"))
	}
	return got.Code
}

func TestForgedSignatures(t *testing.T) {
	f := newForge(t)
	good := f.sign(f.header, f.claims)
	if got := f.status(good); got != 200 {
		t.Fatal(got)
	}
	parts := strings.Split(good, ".")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	f.must(err)
	public, err := x509.MarshalPKIXPublicKey(&rsaKey.PublicKey)
	f.must(err)
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	jwk := object{"kty": "oct", "k": b64.EncodeToString([]byte("mine")), "alg": "HS256"}
	mine := func(header object) string {
		part := unsigned(with(f.header, header), f.claims)
		return part + "." + b64.EncodeToString(mac(hash256.New, []byte("mine"), part))
	}
	rs := func(header object) string {
		part := unsigned(with(f.header, header), f.claims)
		sum := hash256.Sum256([]byte(part))
		signature, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, sum[:])
		f.must(err)
		return part + "." + b64.EncodeToString(signature)
	}
	with512 := func(alg string, new func() hash.Hash, key []byte) string {
		part := unsigned(with(f.header, object{"alg": alg}), f.claims)
		return part + "." + b64.EncodeToString(mac(new, key, part))
	}
	signature, err := b64.DecodeString(parts[2])
	f.must(err)
	cases := map[string]string{
		"RS256":              rs(object{"alg": "RS256"}),
		"RS256 called HS256": rs(nil),
		"HS256 with a public key": func() string {
			p := unsigned(f.header, f.claims)
			return p + "." + b64.EncodeToString(mac(hash256.New, publicPEM, p))
		}(),
		"HS384":                       with512("HS384", hash512.New384, f.key.Secret),
		"HS512":                       with512("HS512", hash512.New, f.key.Secret),
		"jwk":                         mine(object{"jwk": jwk}),
		"jku":                         mine(object{"jku": "http://127.0.0.1:1/keys"}),
		"x5u":                         mine(object{"x5u": "http://127.0.0.1:1/cert"}),
		"x5c":                         mine(object{"x5c": []string{b64.EncodeToString(public)}}),
		"another key":                 mine(nil),
		"an empty key":                unsigned(f.header, f.claims) + "." + b64.EncodeToString(mac(hash256.New, nil, unsigned(f.header, f.claims))),
		"no signature":                parts[0] + "." + parts[1] + ".",
		"two parts":                   parts[0] + "." + parts[1],
		"four parts":                  good + "." + parts[2],
		"dot at the end":              good + ".",
		"half a signature":            parts[0] + "." + parts[1] + "." + b64.EncodeToString(signature[:16]),
		"longer signature":            parts[0] + "." + parts[1] + "." + b64.EncodeToString(append(signature, 0)),
		"padded":                      good + "=",
		"padded parts":                base64.URLEncoding.EncodeToString([]byte(text(f.header))) + "=." + parts[1] + "." + parts[2],
		"standard base64":             parts[0] + "." + parts[1] + "." + base64.StdEncoding.EncodeToString(signature),
		"other bits behind the last":  parts[0] + "." + parts[1] + "." + lastBits(parts[2]),
		"newline":                     good[:len(good)-4] + "\n" + good[len(good)-4:],
		"other claims":                parts[0] + "." + b64.EncodeToString([]byte(text(with(f.claims, object{"sub": "admin"})))) + "." + parts[2],
		"other header":                b64.EncodeToString([]byte(text(with(f.header, object{"x": 1})))) + "." + parts[1] + "." + parts[2],
		"empty":                       "",
		"dots":                        "..",
		"one byte":                    "x",
		"huge":                        strings.Repeat("A", 60_000) + "." + strings.Repeat("A", 60_000) + ".AAAA",
		"deep":                        b64.EncodeToString([]byte(text(f.header))) + "." + b64.EncodeToString([]byte(strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000))) + "." + parts[2],
		"deep access, signed":         f.sign(f.header, strings.Replace(text(f.claims), `"access":`, `"access":`+strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000)+`,"x":`, 1)),
		"a list":                      f.sign(f.header, "[]"),
		"null":                        f.sign(f.header, "null"),
		"no JSON":                     f.sign(f.header, text(f.claims)+"x"),
		"header is null":              f.sign("null", f.claims),
		"header is a list":            f.sign("[]", f.claims),
		"the same in upper case":      strings.ToUpper(good),
		"behind another":              good + " " + good,
		"password in place of it":     password("alice"),
		"base64 of user and password": base64.StdEncoding.EncodeToString([]byte("alice:" + password("alice"))),
	}
	for _, alg := range []any{"none", "None", "NONE", "nOnE", "", "none ", nil, 0, []string{"HS256"}, "hs256", "HS256 ", "ES256", "PS256", "EdDSA", "dir"} {
		part := unsigned(with(f.header, object{"alg": alg}), f.claims)
		cases[fmt.Sprintf("alg %v without a signature", alg)] = part + "."
		cases[fmt.Sprintf("alg %v with one", alg)] = part + "." + b64.EncodeToString(mac(hash256.New, f.key.Secret, part))
	}
	for _, kid := range []any{nil, "", "unknown", "secret", "../../../../dev/null", "/dev/null", "' OR '1'='1", "x' UNION SELECT 'mine' --", "\x00", 1, []string{f.key.ID}, object{}, strings.ToLower(f.key.ID) + " "} {
		cases[fmt.Sprintf("kid %v", kid)] = f.sign(with(f.header, object{"kid": kid}), f.claims)
		cases[fmt.Sprintf("kid %v with a key of mine", kid)] = mine(object{"kid": kid})
		part := unsigned(with(f.header, object{"kid": kid}), f.claims)
		cases[fmt.Sprintf("kid %v with an empty key", kid)] = part + "." + b64.EncodeToString(mac(hash256.New, []byte{}, part))
	}
	for name, token := range cases {
		if got := f.status(token); got != 401 {
			t.Errorf("%s: %d", name, got)
		}
	}
	// A header that says more is no reason to refuse what is signed well, nor to look at what it says.
	if got := f.status(f.sign(with(f.header, object{"jku": "http://127.0.0.1:1/", "jwk": jwk}), f.claims)); got != 200 {
		t.Error(got)
	}
}

// lastBits changes the bits of the last letter that stand for no byte.
func lastBits(s string) string {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(letters, s[len(s)-1])
	return s[:len(s)-1] + string(letters[i^1])
}

// Tokens that are signed well, by whoever knows the key, and say what none of ours does.
func TestForgedClaims(t *testing.T) {
	f := newForge(t)
	now := f.now().Unix()
	entry := func(kind, name string, actions ...string) object {
		return object{"access": []object{{"type": kind, "name": name, "actions": actions}}}
	}
	for name, change := range map[string]object{
		"exp missing": {"exp": nil}, "exp past": {"exp": now - 1}, "exp now": {"exp": now}, "exp a word": {"exp": "never"},
		"exp 1e300": {"exp": 1e300}, "exp -1e300": {"exp": -1e300}, "exp 0": {"exp": 0}, "exp -1": {"exp": -1}, "exp huge": {"exp": json.Number("9223372036854775807")},
		"exp far": {"exp": now + 25*3600}, "exp a list": {"exp": []int64{now + 100}}, "exp true": {"exp": true}, "exp an object": {"exp": object{}},
		"nbf future": {"nbf": now + 60}, "nbf missing": {"nbf": nil}, "nbf a word": {"nbf": "now"}, "iat future": {"iat": now + 60}, "iat missing": {"iat": nil},
		"iat long ago": {"iat": now - 30*86400}, "iat a word": {"iat": "x"},
		"iss missing": {"iss": nil}, "iss empty": {"iss": ""}, "iss another": {"iss": "evil"}, "iss a list": {"iss": []string{"registry"}}, "iss case": {"iss": "Registry"}, "iss longer": {"iss": "registry "},
		"aud missing": {"aud": nil}, "aud empty": {"aud": ""}, "aud none": {"aud": []string{}}, "aud another": {"aud": []string{"evil"}}, "aud case": {"aud": "REGISTRY"}, "aud a number": {"aud": 1}, "aud an object": {"aud": object{"registry": 1}},
		"sub missing": {"sub": nil}, "sub empty": {"sub": ""}, "sub another": {"sub": "bob"}, "sub admin": {"sub": "admin"}, "sub unknown": {"sub": "carol"}, "sub case": {"sub": "Alice"},
		"sub NUL": {"sub": "alice\x00"}, "sub a number": {"sub": 1}, "sub a list": {"sub": []string{"alice"}}, "gen missing": {"gen": nil}, "gen another": {"gen": "1"}, "gen a number": {"gen": 1},
		"tok unknown": {"tok": "x"}, "tok a number": {"tok": 1},
		"access missing": {"access": nil}, "access null": {"access": json.RawMessage("null")}, "access a word": {"access": "*"}, "access an object": {"access": object{"type": "repository"}},
		"any name": entry("repository", "*", "pull"), "any": entry("repository", "*", "*"), "glob": entry("repository", "alice/*", "pull"), "globs": entry("repository", "**", "pull"),
		"type case": entry("Repository", "alice/a", "pull"), "type any": entry("*", "alice/a", "pull"), "type empty": entry("", "alice/a", "pull"), "type plugin": entry("repository(plugin)", "alice/a", "pull"),
		"name case": entry("repository", "Alice/A", "pull"), "dots": entry("repository", "alice/b/../a", "pull"), "slash": entry("repository", "/alice/a", "pull"), "slash behind": entry("repository", "alice/a/", "pull"),
		"encoded": entry("repository", "alice%2fa", "pull"), "NUL": entry("repository", "alice/a\x00", "pull"), "prefix": entry("repository", "alice", "pull"),
		"action case": entry("repository", "alice/a", "Pull"), "actions joined": entry("repository", "alice/a", "pull,push"), "action of a route": entry("repository", "alice/a", "read"), "no actions": entry("repository", "alice/a"),
		"registry": entry("registry", "catalog", "*"), "management": entry("registry", "management", "*"), "push only": entry("repository", "alice/a", "push"), "name a list": {"access": []object{{"type": "repository", "name": []string{"alice/a"}, "actions": []string{"pull"}}}},
		"actions a word": {"access": []object{{"type": "repository", "name": "alice/a", "actions": "pull"}}}, "nested": {"access": []any{[]object{{"type": "repository", "name": "alice/a", "actions": []string{"pull"}}}}},
	} {
		if got := f.status(f.sign(f.header, with(f.claims, change))); got != 401 {
			t.Errorf("%s: %d", name, got)
		}
	}
	for name, change := range map[string]object{
		"nothing": {}, "aud a word": {"aud": "registry"}, "aud two": {"aud": []string{"x", "registry"}}, "exp a fraction": {"exp": float64(now) + 100.5}, "another claim": {"admin": true, "scope": "*"},
		"exp in digits": {"exp": fmt.Sprint(now + 100)}, "nbf within the leeway": {"nbf": now + 20}, "any action": entry("repository", "alice/a", "*"),
	} {
		if got := f.status(f.sign(f.header, with(f.claims, change))); got != 200 {
			t.Errorf("%s: %d", name, got)
		}
	}
	// Twice the same claim: whichever counts, it is signed, and the other does not count.
	double := strings.Replace(text(f.claims), `"sub":"alice"`, `"sub":"alice","sub":"bob"`, 1)
	if got := f.status(f.sign(f.header, double)); got != 401 {
		t.Error(got)
	}
	for _, typ := range []any{nil, "", "jwt", "refresh+JWT", "at+jwt", 1, []string{"JWT"}} {
		if got := f.status(f.sign(with(f.header, object{"typ": typ}), f.claims)); got != 401 {
			t.Errorf("typ %v: %d", typ, got)
		}
	}
}

func form(values ...string) string {
	q := url.Values{}
	for i := 0; i < len(values); i += 2 {
		q.Add(values[i], values[i+1])
	}
	return q.Encode()
}

const formType = "Content-Type: application/x-www-form-urlencoded"

// A refresh token is no access token and the other way round, wherever they are shown.
func TestKindsOfTokens(t *testing.T) {
	f := newForge(t)
	got := f.token(basic("alice", password("alice")), "repository:alice/a:pull")
	if f.status(got.Refresh) != 401 || f.status(got.Token) != 200 {
		t.Error("a refresh token lets in")
	}
	for _, token := range []string{got.Token, "", "x", f.sign(with(f.header, object{"typ": "refresh+JWT"}), with(f.claims, object{"exp": f.now().Add(31 * 24 * time.Hour).Unix()}))} {
		if a := f.ask("POST", "/auth/token", form("grant_type", "refresh_token", "refresh_token", token), formType); a.Code != 401 {
			t.Errorf("%.20s refreshes: %d", token, a.Code)
		}
	}
	for _, secret := range []string{got.Token, got.Refresh} {
		if a := f.ask("GET", secretPath, "", basic("alice", secret)); a.Code != 401 {
			t.Error("a bearer token is a password:", a.Code)
		}
	}
	if a := f.ask("POST", "/auth/token", form("grant_type", "client_credentials"), formType); a.Code != 400 {
		t.Error(a.Code)
	}
}

// Whatever is asked for when a token is refreshed, it is what the user may do.
func TestScopeOfRefreshedTokens(t *testing.T) {
	f := newForge(t)
	f.grant("bob", "pull:alice/*")
	refresh := f.token(basic("bob", password("bob")), "repository:alice/a:pull").Refresh
	a := f.ask("POST", "/auth/token", form("grant_type", "refresh_token", "refresh_token", refresh, "scope",
		"repository:alice/a:pull,push,delete,* repository:admin/x:pull repository:bob/b:push registry:catalog:* repository:**:*"), formType)
	var got answeredToken
	f.must(json.Unmarshal(a.Body.Bytes(), &got))
	if got.Scope != "repository:alice/a:pull repository:bob/b:push registry:catalog:*" {
		t.Error(got.Scope)
	}
	if got := f.ask("DELETE", secretPath, "", bearer(got.Token)); got.Code != 401 {
		t.Error(got.Code)
	}
	narrow := f.apiToken("alice", "x", "pull:alice/b", 0)
	refresh = f.token(basic("alice", narrow)).Refresh
	a = f.ask("POST", "/auth/token", form("grant_type", "refresh_token", "refresh_token", refresh, "scope", "repository:alice/a:pull repository:alice/b:push,pull registry:management:*"), formType)
	f.must(json.Unmarshal(a.Body.Bytes(), &got))
	if got.Scope != "repository:alice/b:pull" {
		t.Error(got.Scope)
	}
}

func TestTokensOfThoseWhoAreGone(t *testing.T) {
	for name, end := range map[string]func(*forge) error{
		"disabled": func(f *forge) error { return f.auth.SetDisabled(t.Context(), nobody, "alice", true) },
		"removed":  func(f *forge) error { return f.auth.DeleteUser(t.Context(), nobody, "alice") },
		"made again": func(f *forge) error {
			f.must(f.auth.DeleteUser(t.Context(), nobody, "alice"))
			f.user("alice")
			return nil
		},
		"another password": func(f *forge) error { return f.auth.SetPassword(t.Context(), nobody, "alice", "something else") },
	} {
		f := newForge(t)
		got := f.token(basic("alice", password("alice")), "repository:alice/a:pull")
		if f.status(got.Token) != 200 {
			t.Fatal(name)
		}
		f.must(end(f))
		if status := f.status(got.Token); status != 401 {
			t.Error(name, status)
		}
		if a := f.ask("POST", "/auth/token", form("grant_type", "refresh_token", "refresh_token", got.Refresh), formType); a.Code != 401 {
			t.Error(name, "refreshes:", a.Code)
		}
	}
}

// Credentials count in one place: one Authorization header.
func TestCredentialsElsewhere(t *testing.T) {
	f := newForge(t)
	good := f.sign(f.header, f.claims)
	alice := basic("alice", password("alice"))
	for _, query := range []string{"?token=", "?access_token=", "?authorization=Bearer+", "?bearer=", "?jwt="} {
		if got := f.ask("GET", secretPath+query+good, ""); got.Code != 401 {
			t.Error(query, got.Code)
		}
	}
	for _, headers := range [][]string{
		{bearer(good), bearer(good)}, {alice, alice}, {alice, bearer(good)}, {bearer("x"), alice}, {"Authorization: ", alice}, {alice, "Authorization: "},
		{alice + ", " + bearer(good)}, {"X-Forwarded-User: alice"}, {"X-Remote-User: admin"}, {"X-Forwarded-Email: alice"}, {"Remote-User: admin"}, {"X-Webauth-User: admin"},
		{"X-Forwarded-User: admin", "X-Forwarded-For: 127.0.0.1", "X-Real-Ip: 127.0.0.1"}, {"Cookie: token=" + good + "; session=" + good}, {"Proxy-" + alice}, {"X-" + alice},
		{"X-Original-Authorization: Bearer " + good}, {"X-Api-Key: " + good}, {"Authorization: Token " + good}, {"Authorization: " + good}, {"Authorization: Bearer\t" + good}, {"Authorization: Bearer" + good},
		{"X-Http-Method-Override: GET"}, {"X-Original-Url: /v2/"}, {"X-Rewrite-Url: /v2/"},
	} {
		if got := f.ask("GET", secretPath, "", headers...); got.Code != 401 || code(got) != "UNAUTHORIZED" {
			t.Errorf("%.60q: %d", headers, got.Code)
		}
	}
	for _, header := range []string{"Authorization: bearer " + good, "Authorization: BEARER  " + good, "Authorization: basic " + alice[len("Authorization: Basic "):]} {
		if got := f.ask("GET", secretPath, "", header); got.Code != 200 {
			t.Errorf("%.30q: %d", header, got.Code)
		}
	}
	if got := f.ask("GET", "/auth/token?username=alice&password="+url.QueryEscape(password("alice"))+"&account=alice&scope=repository:alice/a:pull", ""); strings.Contains(got.Body.String(), "alice") {
		t.Error("a password in the query counts:", got.Body)
	}
	got := f.ask("POST", "/auth/token?grant_type=password&username=alice&password="+url.QueryEscape(password("alice")), form("scope", "repository:alice/a:pull"), formType)
	if strings.Contains(got.Body.String(), "alice") {
		t.Error("a password in the query of a form counts:", got.Body)
	}
}

// An API token is a password, and keeps its scope as one.
func TestAPITokenAsPassword(t *testing.T) {
	f := newForge(t)
	narrow := basic("alice", f.apiToken("alice", "x", "pull:alice/**", 0))
	if got := f.ask("GET", secretPath, "", narrow); got.Code != 200 {
		t.Error(got.Code)
	}
	for _, x := range [][2]string{{"PUT", secretPath}, {"DELETE", secretPath}, {"POST", "/v2/alice/a/blobs/uploads/"}, {"POST", "/v2/alice/new/blobs/uploads/"}} {
		if got := f.ask(x[0], x[1], "", narrow); got.Code != 403 || code(got) != "DENIED" {
			t.Error(x, got.Code)
		}
	}
	if got := f.ask("GET", secretPath, "", basic("bob", f.apiToken("bob", "x", "admin:**", 0))); got.Code != 404 || code(got) != "NAME_UNKNOWN" {
		t.Error(got.Code)
	}
}

// With a secret of the operator's the keys of the database count for nothing, and the other way round.
func TestSecretOfTheOperator(t *testing.T) {
	f := newForge(t)
	good := f.sign(f.header, f.claims)
	secret := []byte("0123456789abcdef0123456789abcdef")
	s, err := New(Config{Registry: f.reg, Auth: auth.New(auth.Config{DB: f.db, Anonymous: true, Secret: secret})})
	f.must(err)
	before := f.http
	f.http = s.Handler()
	if got := f.status(good); got != 401 {
		t.Error(got)
	}
	f.key.Secret = secret
	theirs := f.sign(with(f.header, object{"kid": "secret"}), f.claims)
	if got := f.status(theirs); got != 200 {
		t.Error(got)
	}
	f.http = before
	if got := f.status(theirs); got != 401 {
		t.Error(got)
	}
}

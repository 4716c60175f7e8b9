package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"

	"registry/db"
	"registry/server/registry"

	"github.com/golang-jwt/jwt/v5"
)

// Token is what the token endpoint answers with.
type Token struct {
	Token     string
	Refresh   string // "" unless it was asked for
	IssuedAt  time.Time
	ExpiresIn time.Duration
	Scopes    []Access // what was granted
}

// claims are those of RFC 7519 and what else a token of ours says.
type claims struct {
	jwt.RegisteredClaims
	Access     []Access `json:"access"`
	Generation string   `json:"gen,omitempty"` // of the user: text, because numbers of JSON are not exact everywhere
	APIToken   string   `json:"tok,omitempty"` // the token that stood for the password: its mark
	Family     string   `json:"fam,omitempty"` // of refresh tokens
}

// What a token is for, in its header ("typ"), so that none passes for the other.
const (
	typeAccess  = "JWT"
	typeRefresh = "refresh+JWT"
)

// leeway is how much clocks may differ.
const leeway = 30 * time.Second

// TokenRequest is what a client asks for at the token endpoint.
type TokenRequest struct {
	Scopes  []Access // those that were understood
	Manage  bool     // the request had no scope at all: a user gets to manage what is theirs
	Refresh bool     // a token that gets more of these without the password, too
	Client  string   // what the client calls itself
	From    netip.Addr
}

// Issue makes a bearer token for a caller, with what they may do now of what they ask for. Unauthorized for the bearer of
// such a token: it would never end, and a refresh token may do more than it.
func (a *Authority) Issue(ctx context.Context, c Caller, reg *registry.Registry, asked TokenRequest) (t Token, err error) {
	if c.bearer {
		return Token{}, registry.Unauthorized.With(nil)
	}
	granted, err := a.grant(ctx, c, reg, asked)
	if err != nil {
		return Token{}, err
	}
	t = Token{Scopes: granted, ExpiresIn: a.lifetime, IssuedAt: a.db.Now().UTC().Truncate(time.Second)}
	if t.Token, err = a.sign(ctx, c, typeAccess, granted, t.IssuedAt, a.lifetime); err != nil {
		return Token{}, failed(err)
	}
	if asked.Refresh && c.account != nil {
		if t.Refresh, err = a.refreshToken(ctx, c, asked, t.IssuedAt); err != nil {
			return Token{}, failed(err)
		}
	}
	return t, nil
}

func (a *Authority) grant(ctx context.Context, c Caller, reg *registry.Registry, asked TokenRequest) (granted []Access, err error) {
	if asked.Manage && c.IsUser() {
		return []Access{{typeRegistry, nameCatalog, []string{anyAction}}, {typeRegistry, nameManagement, []string{anyAction}}}, nil
	}
	for _, s := range asked.Scopes {
		switch {
		case s.Type == typeRepository:
			repo := db.RepoName(s.Name)
			got, err := a.effective(ctx, c, reg, repo, s.bits())
			if err != nil {
				return nil, err
			}
			if got != 0 {
				granted = append(granted, Access{s.Type, s.Name, scopeNames(got)})
			}
		case s.Name == nameCatalog, s.Name == nameManagement && c.IsUser():
			granted = append(granted, Access{s.Type, s.Name, []string{anyAction}})
		}
	}
	return granted, nil
}

func (a *Authority) sign(ctx context.Context, c Caller, kind string, access []Access, now time.Time, lifetime time.Duration) (string, error) {
	keys, err := a.keys(ctx)
	if err != nil {
		return "", err
	}
	at := jwt.NewNumericDate(now)
	said := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: Service, Audience: jwt.ClaimStrings{Service}, Subject: c.Name, ID: rand.Text(),
			IssuedAt: at, NotBefore: at, ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
		},
		Access: access, APIToken: c.apiToken,
	}
	if c.account != nil {
		said.Generation = c.account.generation
	}
	if kind == typeRefresh {
		said.Family = c.family
	}
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, said)
	t.Header["typ"], t.Header["kid"] = kind, keys[0].ID
	return t.SignedString(keys[0].Secret)
}

// bearers remembers tokens whose signature was found good. What else makes a token good is looked at each time.
type bearers struct {
	sync.Mutex
	known map[bearerKey]bearer
}

type bearerKey struct{ kind, text string }

type bearer struct {
	claims
	key string // the id of its key
}

const (
	maxBearers    = 4096
	maxRemembered = 2 << 10 // bytes; a token for a few repositories has less
)

var errToken = errors.New("not a token of this registry, or one that has ended")

// verify returns what a token of a kind says, if it is one of ours and has not ended.
func (a *Authority) verify(ctx context.Context, text, kind string) (claims, error) {
	keys, err := a.keys(ctx)
	if err != nil {
		return claims{}, err
	}
	a.bearers.Lock()
	b, ok := a.bearers.known[bearerKey{kind, text}]
	a.bearers.Unlock()
	if !ok {
		if b, err = a.parse(text, kind, keys); err != nil {
			return claims{}, err
		}
	}
	if !ok && len(text) <= maxRemembered {
		a.bearers.Lock()
		if len(a.bearers.known) >= maxBearers || a.bearers.known == nil {
			a.bearers.known = map[bearerKey]bearer{}
		}
		a.bearers.known[bearerKey{kind, strings.Clone(text)}] = b
		a.bearers.Unlock()
	}
	if !b.ExpiresAt.After(a.db.Now()) || db.IsAhead(b.IssuedAt.Time, a.db.Now()) || !a.isGood(b.key, keys) {
		return claims{}, errToken
	}
	return b.claims, nil
}

// isGood says whether tokens of a key are good: of the one that signs, and for as long as a token lives after that.
func (a *Authority) isGood(id string, keys []db.SigningKey) bool {
	for _, k := range keys {
		if k.ID == id {
			return k.RetiredAt.IsZero() || db.Age(k.RetiredAt, a.db.Now()) < a.lifetime+leeway
		}
	}
	return false
}

// parse checks everything of a token that does not change. The algorithm is the one that is used here, whatever the
// token says, and a key is one of ours, found by its id.
func (a *Authority) parse(text, kind string, keys []db.SigningKey) (b bearer, err error) {
	if strings.ContainsAny(text, "\r\n") { // which decoding of base64 skips: one token would have many spellings
		return bearer{}, errToken
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(Service), jwt.WithAudience(Service),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(leeway), jwt.WithTimeFunc(a.db.Now), jwt.WithStrictDecoding())
	t, err := parser.ParseWithClaims(text, &b.claims, func(t *jwt.Token) (any, error) {
		b.key, _ = t.Header["kid"].(string)
		for _, k := range keys {
			if k.ID == b.key {
				return k.Secret, nil
			}
		}
		return nil, errToken
	})
	if err != nil {
		return bearer{}, errors.Join(errToken, err)
	}
	lifetime := a.lifetime
	if kind == typeRefresh {
		lifetime = refreshLifetime
	}
	// What lives longer than what is issued here was not issued here.
	if b.IssuedAt == nil || b.NotBefore == nil || b.ExpiresAt.Sub(b.IssuedAt.Time) > max(lifetime, maxLifetime(kind)) || t.Header["typ"] != kind {
		return bearer{}, errToken
	}
	return b, nil
}

// maxLifetime is what another process, or this one before, may have been told to issue.
func maxLifetime(kind string) time.Duration {
	if kind == typeRefresh {
		return refreshLifetime
	}
	return 24 * time.Hour
}

// caller is who a token was issued to, as they are now.
func (a *Authority) caller(ctx context.Context, said claims) (c Caller, err error) {
	c = Caller{Name: said.Subject, LoggedIn: true}
	if c.Name == "" {
		return c, nil
	}
	c.account, err = a.account(ctx, c.Name)
	if errors.Is(err, db.ErrNotFound) {
		return Caller{}, errToken
	}
	if err != nil {
		return Caller{}, err
	}
	if c.account.Disabled || said.Generation != c.account.generation {
		return Caller{}, errToken
	}
	if said.APIToken == "" {
		return c, nil
	}
	return c.withMark(said.APIToken, a.db.Now())
}

// Again is a caller as they are now: what they came with may have ended since, but not by its age. Unauthorized.
func (a *Authority) Again(ctx context.Context, c Caller) (Caller, error) {
	if c.account == nil {
		return c, nil
	}
	s, err := a.known(ctx, c.Name)
	if err != nil {
		return Caller{}, failed(err)
	}
	byToken := c.bounded && !c.bearer // which a new password does not end
	if s == nil || s.Disabled || s.generation != c.account.generation && !byToken {
		return Caller{}, refusedToken(errToken)
	}
	if c.account = s; !c.bounded {
		return c, nil
	}
	c, err = c.withMark(c.apiToken, a.db.Now())
	return c, refusedToken(err)
}

// withMark is a caller bound by the API token of their own that has a mark. errToken if there is none, or it has ended.
func (c Caller) withMark(mark string, now time.Time) (Caller, error) {
	for _, t := range c.account.tokens {
		if t.mark() == mark && t.isGood(now) {
			return c.boundBy(t), nil
		}
	}
	return Caller{}, errToken
}

// refusedToken tells a token that is not good from what went wrong while it was looked at.
func refusedToken(err error) error {
	if errors.Is(err, errToken) {
		return &registry.Error{Code: registry.Unauthorized, Detail: InvalidToken, Err: err}
	}
	return failed(err)
}

// InvalidToken is the detail of an Unauthorized error that a bearer token caused (RFC 6750 section 3.1).
const InvalidToken = "the token is not valid"

package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"registry/db"
	"registry/server/registry"
)

// Authenticate is who sent an Authorization header from an address ("" for none: the zero Caller). Unauthorized if it is
// not good, TooManyRequests if there were too many that were not.
func (a *Authority) Authenticate(ctx context.Context, header string, from netip.Addr) (Caller, error) {
	if header == "" {
		return Caller{}, nil
	}
	scheme, rest, _ := strings.Cut(header, " ")
	rest = strings.TrimLeft(rest, " ")
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		said, err := a.verify(ctx, rest, typeAccess)
		if err != nil {
			return Caller{}, refusedToken(err)
		}
		c, err := a.caller(ctx, said)
		c.bearer, c.access = true, said.Access
		return c, refusedToken(err)
	case strings.EqualFold(scheme, "Basic"):
		name, password, ok := parseBasic(rest)
		if !ok {
			return Caller{}, registry.Unauthorized.With(nil)
		}
		return a.Login(ctx, name, password, from)
	}
	return Caller{}, registry.Unauthorized.With(nil)
}

func parseBasic(text string) (name, password string, ok bool) {
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", "", false
	}
	name, password, ok = strings.Cut(string(decoded), ":")
	return name, password, ok
}

// tokenPrefix begins an API token, so that one that was published by mistake is found.
const tokenPrefix = "rgt_"

// Login is who has a name and a password, which may be an API token. For whatever is wrong the answer is the same, after
// the same work: Unauthorized, which the audit is told of without the name, for which some take their password.
// TooManyRequests if that happened too often.
func (a *Authority) Login(ctx context.Context, name, password string, from netip.Addr) (Caller, error) {
	s, err := a.known(ctx, name)
	if err != nil {
		return Caller{}, failed(err)
	}
	if s != nil && !s.Disabled && strings.HasPrefix(password, tokenPrefix) {
		if c, ok := a.withToken(ctx, s, password); ok {
			return c, nil
		}
	}
	if s != nil && !s.Disabled && a.logins.remembers(a.db.Now(), name, password, s.Generation) {
		return Caller{Name: name, LoggedIn: true, standing: s}, nil
	}
	if wait := a.throttle.enter(a.db.Now(), name, from); wait > 0 {
		return Caller{}, &registry.Error{Code: registry.TooManyRequests, Detail: registry.RetryAfter(wait)}
	}
	ok, weak, err := a.logins.check(ctx, s, password)
	if err != nil {
		return Caller{}, registry.AsError(err)
	}
	if !ok || s.Disabled {
		a.RecordLogin(ctx, registry.Actor{Address: AddressText(from)}, "login refused", "")
		return Caller{}, registry.Unauthorized.With(nil)
	}
	a.throttle.leave(a.db.Now(), name, from)
	a.logins.remember(a.db.Now(), name, password, s.Generation)
	if err := a.loggedIn(ctx, s.User, password, weak); err != nil {
		a.log.Error("a login could not be noted", "user", name, "err", err)
	}
	return Caller{Name: name, LoggedIn: true, standing: s}, nil
}

// AddressText is an address for the audit.
func AddressText(address netip.Addr) string {
	if !address.IsValid() {
		return "unix" // a socket of this machine
	}
	return address.String()
}

// known is standing that returns nil for somebody who does not exist.
func (a *Authority) known(ctx context.Context, name string) (*standing, error) {
	if CheckUserName(name) != nil {
		return nil, nil
	}
	s, err := a.standing(ctx, name)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	return s, err
}

// loggedIn notes a login, and replaces a weak hash while the password is at hand.
func (a *Authority) loggedIn(ctx context.Context, u db.User, password string, weak bool) error {
	better := ""
	if weak {
		hash, err := a.logins.hash(ctx, password)
		if err != nil {
			return err
		}
		better = hash
	}
	return a.db.Relaxed(ctx, func(tx *db.Tx) error {
		if better != "" {
			if err := tx.UpgradePassword(u.ID, u.Password, better); err != nil {
				return err
			}
		}
		return tx.LoggedIn(u.ID)
	})
}

func (t apiToken) isGood(now time.Time) bool { return t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt) }

// mark tells a token from all others that ever were, which its id does not: SQLite gives that of one that is gone to the
// next. It is the beginning of a hash of random text, and says nothing.
func (t apiToken) mark() string {
	return base64.RawURLEncoding.EncodeToString(t.Hash[:min(len(t.Hash), 12)])
}

// boundBy is a caller who came with an API token.
func (c Caller) boundBy(t apiToken) Caller {
	c.bounded, c.bounds, c.apiToken = true, t.rules, t.mark()
	return c
}

func hashToken(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func (a *Authority) withToken(ctx context.Context, s *standing, text string) (c Caller, ok bool) {
	hash := hashToken(text)
	for _, t := range s.tokens {
		if hmac.Equal(t.Hash, hash) && t.isGood(a.db.Now()) {
			a.used(ctx, t)
			return Caller{Name: s.Name, LoggedIn: true, standing: s}.boundBy(t), true
		}
	}
	return Caller{}, false
}

// uses remembers when it was last noted that a token was used.
type uses struct {
	sync.Mutex
	at map[string]time.Time
}

// used notes that a token was used, at most once a minute.
func (a *Authority) used(ctx context.Context, t apiToken) {
	const often = time.Minute
	now := a.db.Now()
	a.uses.Lock()
	if a.uses.at == nil || len(a.uses.at) > maxStandings {
		a.uses.at = map[string]time.Time{}
	}
	due := now.Sub(a.uses.at[t.mark()]) >= often
	if due {
		a.uses.at[t.mark()] = now
	}
	a.uses.Unlock()
	if !due {
		return
	}
	if err := a.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.UsedAPIToken(t.ID) }); err != nil {
		a.log.Error("the use of a token could not be noted", "user", t.User, "token", t.Name, "err", err)
	}
}

// logins checks passwords, few at a time because each takes memory and time on purpose, and remembers for a while which
// were right: clients with Basic authentication send them with every request.
type logins struct {
	key     []byte // of this process
	slots   chan struct{}
	compare func(hash, password string) (ok, weak bool, err error)
	mu      *sync.Mutex
	right   map[[sha256.Size]byte]rightPassword
}

type rightPassword struct {
	generation int64
	until      time.Time
}

const (
	loginSlots    = 2
	rememberRight = 5 * time.Minute
	maxRight      = 1024
)

func newLogins() logins {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return logins{key: key, slots: make(chan struct{}, loginSlots), compare: checkPassword, mu: &sync.Mutex{}, right: map[[sha256.Size]byte]rightPassword{}}
}

func (l *logins) sum(name, password string) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, l.key)
	h.Write([]byte(name + "\x00" + password)) // a name has no NUL
	h.Sum(sum[:0])
	return sum
}

func (l *logins) remembers(now time.Time, name, password string, generation int64) bool {
	if len(password) > maxPassword {
		return false
	}
	sum := l.sum(name, password)
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.right[sum]
	if !ok || r.generation != generation || now.After(r.until) {
		return false
	}
	// Whoever is at work goes on, whatever the throttle and the queue of others' passwords would have him wait for.
	l.right[sum] = rightPassword{generation, now.Add(rememberRight)}
	return true
}

func (l *logins) remember(now time.Time, name, password string, generation int64) {
	sum := l.sum(name, password)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.right) >= maxRight {
		clear(l.right)
	}
	l.right[sum] = rightPassword{generation, now.Add(rememberRight)}
}

// enter waits for a slot, which leave gives back.
func (l *logins) enter(ctx context.Context) error {
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *logins) leave() { <-l.slots }

// hash is hashPassword when it is its turn.
func (l *logins) hash(ctx context.Context, password string) (string, error) {
	if err := l.enter(ctx); err != nil {
		return "", err
	}
	defer l.leave()
	return hashPassword(password)
}

// check says whether a user's password is right and whether its hash is of a weak kind. For nobody it works as long and
// says no.
func (l *logins) check(ctx context.Context, s *standing, password string) (ok, weak bool, err error) {
	if err := l.enter(ctx); err != nil {
		return false, false, err
	}
	defer l.leave()
	hash := nobodysHash
	if s != nil {
		hash = s.Password
	}
	if len(password) > maxPassword || !utf8.ValidString(password) {
		password, s = "", nil
	}
	ok, weak, err = l.compare(hash, password)
	return ok && s != nil, weak, err
}

package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
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
		if c, t, ok := a.withToken(ctx, s, password); ok {
			a.noteLogin(ctx, s, from, "token "+t.Name)
			return c, nil
		}
	}
	if s != nil && !s.Disabled && a.logins.remembers(a.db.Now(), name, password, s.Generation) {
		a.noteLogin(ctx, s, from, withPassword)
		return Caller{Name: name, LoggedIn: true, account: s}, nil
	}
	err = a.logins.tries.do(ctx, a.logins.try(s, name, password, networkOf(from)), func(ctx context.Context) error {
		return a.check(ctx, s, name, password, from)
	})
	if err != nil {
		return Caller{}, err
	}
	a.noteLogin(ctx, s, from, withPassword)
	return Caller{Name: name, LoggedIn: true, account: s}, nil
}

// check pays for a try and hashes its password. s is the user's, nil if there is none.
func (a *Authority) check(ctx context.Context, s *accountState, name, password string, from netip.Addr) error {
	isKnown, err := a.loggedInFrom(ctx, name, networkOf(from))
	if err != nil {
		return failed(err)
	}
	if wait := a.throttle.enter(a.db.Now(), name, from, isKnown); wait > 0 {
		return tooMany(wait)
	}
	most, err := a.bcryptCost(ctx)
	if err != nil {
		return failed(err)
	}
	ok, weak, err := a.logins.check(ctx, s, password, most, place{networkOf(from).String(), isKnown})
	if errors.Is(err, errBusy) {
		a.throttle.leave(a.db.Now(), name, from, isKnown)
		return tooMany(time.Second)
	}
	if err != nil {
		return registry.AsError(err)
	}
	if !ok || s.Disabled {
		a.RecordLogin(ctx, registry.Actor{Address: AddressText(from)}, "login refused", "")
		return registry.Unauthorized.With(nil)
	}
	a.throttle.leave(a.db.Now(), name, from, isKnown)
	a.logins.remember(a.db.Now(), name, password, s.Generation)
	if !weak {
		return nil
	}
	if err := a.upgrade(ctx, s.User, password); err != nil {
		a.log.Error("a weak password hash could not be replaced", "user", name, "err", err)
	}
	return nil
}

var errBusy = errors.New("too many passwords wait to be checked")

func tooMany(wait time.Duration) error {
	return &registry.Error{Code: registry.TooManyRequests, Detail: registry.RetryAfter(wait)}
}

func (a *Authority) loggedInFrom(ctx context.Context, name string, network netip.Prefix) (is bool, err error) {
	if CheckUserName(name) != nil {
		return false, nil
	}
	err = a.db.Lookup(ctx, func(tx *db.Tx) (err error) { is, err = tx.LoggedInFrom(name, network.String()); return err })
	return is, err
}

// AddressText is an address for the audit.
func AddressText(address netip.Addr) string {
	if !address.IsValid() {
		return "unix" // a socket of this machine
	}
	return address.String()
}

// known is account that returns nil for somebody who does not exist.
func (a *Authority) known(ctx context.Context, name string) (*accountState, error) {
	if CheckUserName(name) != nil {
		return nil, nil
	}
	s, err := a.account(ctx, name)
	if errors.Is(err, db.ErrNotFound) {
		return nil, nil
	}
	return s, err
}

// upgrade replaces a weak hash while the password is at hand.
func (a *Authority) upgrade(ctx context.Context, u db.User, password string) error {
	better, err := a.logins.hash(ctx, password, place{known: true})
	if err != nil {
		return err
	}
	return a.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.UpgradePassword(u.ID, u.Password, better) })
}

// How somebody has logged in.
const (
	withPassword = ""
	withRefresh  = "refresh token"
)

// loginKey is what one row a minute is written of.
type loginKey struct{ user, address, how string }

// maxNetworks is how many networks of a user are remembered.
const maxNetworks = 64

// noteLogin writes a login to the audit, when the user came last, and from where: once a minute.
func (a *Authority) noteLogin(ctx context.Context, s *accountState, from netip.Addr, how string) {
	address := AddressText(from)
	if !a.seen.due(a.db.Now(), loginKey{s.Name, address, how}) {
		return
	}
	err := a.db.Relaxed(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		if how == withPassword {
			if err := tx.AddLoginNetwork(s.ID, networkOf(from).String(), maxNetworks); err != nil {
				return err
			}
		}
		if err := tx.LoggedIn(s.ID); err != nil {
			return err
		}
		return tx.Audit(db.Event{User: s.Name, Address: address, Action: "login", Detail: how})
	})
	if err != nil {
		a.log.Error("a login could not be noted", "user", s.Name, "err", err)
	}
}

func (t apiToken) isGood(now time.Time) bool { return t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt) }

// mark tells a token from all others that ever were, which its id does not: SQLite gives that of one that is gone to the
// next. It is the beginning of a hash of random text, and says nothing.
func (t apiToken) mark() string {
	return base64.RawURLEncoding.EncodeToString(t.Hash[:min(len(t.Hash), 12)])
}

// boundBy is a caller who came with an API token.
func (c Caller) boundBy(t apiToken) Caller {
	c.bounded, c.bounds, c.apiToken = true, t.rules(), t.mark()
	return c
}

func hashToken(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func (a *Authority) withToken(ctx context.Context, s *accountState, text string) (c Caller, t apiToken, ok bool) {
	hash := hashToken(text)
	for _, t := range s.tokens {
		if hmac.Equal(t.Hash, hash) && t.isGood(a.db.Now()) {
			a.used(ctx, t)
			return Caller{Name: s.Name, LoggedIn: true, account: s}.boundBy(t), t, true
		}
	}
	return Caller{}, apiToken{}, false
}

// uses remembers when something was last written down.
type uses[K comparable] struct {
	sync.Mutex
	at map[K]time.Time
}

// due says whether a minute has passed since it last said so.
func (u *uses[K]) due(now time.Time, key K) bool {
	const often = time.Minute
	u.Lock()
	defer u.Unlock()
	if at, ok := u.at[key]; ok && now.Sub(at) < often {
		return false
	}
	if u.at == nil || len(u.at) > maxAccounts {
		u.at = map[K]time.Time{}
	}
	u.at[key] = now
	return true
}

// used notes that a token was used, at most once a minute.
func (a *Authority) used(ctx context.Context, t apiToken) {
	if !a.uses.due(a.db.Now(), t.mark()) {
		return
	}
	if err := a.db.Relaxed(context.WithoutCancel(ctx), func(tx *db.Tx) error { return tx.UsedAPIToken(t.ID) }); err != nil {
		a.log.Error("the use of a token could not be noted", "user", t.User, "token", t.Name, "err", err)
	}
}

// logins checks passwords, few at a time because each takes memory and time on purpose, and remembers for a while which
// were right: clients with Basic authentication send them with every request.
type logins struct {
	key     []byte // of this process
	queue   *queue
	tries   tries
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
	maxRight      = 10_000
)

func newLogins() logins {
	key := make([]byte, sha256.Size)
	rand.Read(key)
	return logins{key: key, queue: newQueue(), compare: checkPassword, mu: &sync.Mutex{}, right: map[[sha256.Size]byte]rightPassword{},
		tries: tries{mu: &sync.Mutex{}, underWay: map[string]*oneTry{}}}
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
	// Whoever is at work goes on, whatever the throttle and the queue of others' passwords would have them wait for.
	l.right[sum] = rightPassword{generation, now.Add(rememberRight)}
	return true
}

func (l *logins) remember(now time.Time, name, password string, generation int64) {
	sum := l.sum(name, password)
	l.mu.Lock()
	defer l.mu.Unlock()
	for old := range l.right {
		if len(l.right) < maxRight {
			break
		}
		delete(l.right, old)
	}
	l.right[sum] = rightPassword{generation, now.Add(rememberRight)}
}

// hash is hashPassword when it is its turn.
func (l *logins) hash(ctx context.Context, password string, p place) (string, error) {
	if err := l.queue.enter(ctx, p); err != nil {
		return "", err
	}
	defer l.queue.leave()
	return hashPassword(password)
}

// try is what tells a try from others that are not equal.
func (l *logins) try(s *accountState, name, password string, network netip.Prefix) string {
	sum := l.sum(name, password)
	generation := int64(0)
	if s != nil {
		generation = s.Generation
	}
	return fmt.Sprintf("%x %d %s", sum, generation, network)
}

// tries makes equal tries that are under way one: a program that starts many clients at once tries one password.
type tries struct {
	mu       *sync.Mutex
	underWay map[string]*oneTry
}

type oneTry struct {
	done    chan struct{} // closed when err is set
	err     error
	waiting int
	cancel  context.CancelFunc // called when nobody waits for it any more
}

// do returns what fn returns, or what it returns to an equal try. fn ends when all who wait for it have gone.
func (t *tries) do(ctx context.Context, key string, fn func(context.Context) error) error {
	t.mu.Lock()
	one := t.underWay[key]
	if one == nil {
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		one = &oneTry{done: make(chan struct{}), cancel: cancel}
		t.underWay[key] = one
		go func() {
			err := fn(work)
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.underWay[key] == one {
				delete(t.underWay, key)
			}
			one.err = err
			close(one.done)
			cancel()
		}()
	}
	one.waiting++
	t.mu.Unlock()
	select {
	case <-one.done:
		return one.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if one.waiting--; one.waiting == 0 {
		one.cancel()
		if t.underWay[key] == one {
			delete(t.underWay, key)
		}
	}
	return registry.AsError(ctx.Err())
}

// check says whether a user's password is right and whether its hash is of a weak kind. For nobody it works as long and
// says no, as it does whatever the kind of the hash, where there are some of bcrypt of up to a cost.
func (l *logins) check(ctx context.Context, s *accountState, password string, bcryptCost int, p place) (ok, weak bool, err error) {
	if err := l.queue.enter(ctx, p); err != nil {
		return false, false, err
	}
	defer l.queue.leave()
	hash := nobodysHash
	if s != nil {
		hash = s.Password
	}
	if len(password) > maxPassword || !utf8.ValidString(password) {
		password, s = "", nil
	}
	ok, weak, err = l.compare(hash, password)
	return ok && s != nil, weak, errors.Join(err, pad(hash, bcryptCost))
}

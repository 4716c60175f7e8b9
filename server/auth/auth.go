// Package auth says who asks and what they may do, without an outside server: users with passwords, API tokens, signed
// bearer tokens that last for minutes, and the rights of each.
//
//   - Who somebody is: Authority.Authenticate reads an Authorization header, Basic or Bearer, into a Caller.
//   - What they may do: Authority.May, a few rules over what the database says now. A bearer token can only take from
//     that, never add: a right that was taken back is gone with the next request.
//   - Tokens: Authority.Issue makes the bearer tokens that clients of registries ask for (distribution's "Token
//     Authentication Specification").
//
// What is asked at every request is remembered until the database says that something changed, whatever process changed
// it (db.Tx.Policy).
package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"registry/db"
	"registry/server/registry"
)

// Config is what an Authority is made of. Only DB has no default.
type Config struct {
	DB            *db.DB
	Log           *slog.Logger  // nil: discarded
	Anonymous     bool          // public repositories are readable without a login
	Registration  bool          // anyone may register as a user
	TokenLifetime time.Duration // of bearer tokens; 5 min
	Secret        []byte        // signs bearer tokens in place of the keys in the database
	Taken         []string      // names that nobody may have: the repositories under them are not a user's
}

const (
	defaultLifetime = 5 * time.Minute
	minLifetime     = time.Minute // shorter ones are refused by clients
)

// Service is the name that bearer tokens are issued by and for.
const Service = "registry"

// Authority is safe for concurrent use.
type Authority struct {
	db           *db.DB
	log          *slog.Logger
	anonymous    bool
	registration bool
	lifetime     time.Duration
	secret       []byte
	taken        []string
	policy       policy
	logins       logins
	bearers      bearers
	throttle     throttle
	uses         uses[string] // of API tokens, by mark
	seen         uses[loginKey]
	newest       uses[familyKey]
	families     families
}

// New makes an Authority. Start prepares its database.
func New(cfg Config) *Authority {
	a := &Authority{db: cfg.DB, log: cfg.Log, anonymous: cfg.Anonymous, registration: cfg.Registration, secret: cfg.Secret, taken: cfg.Taken,
		lifetime: max(cfg.TokenLifetime, minLifetime), logins: newLogins()}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if cfg.TokenLifetime <= 0 {
		a.lifetime = defaultLifetime
	}
	return a
}

// FirstAdmin is the name of the user that the first start makes.
const FirstAdmin = "admin"

// Start sees to it that there is a key to sign with and somebody who may do everything. If there is no user yet it makes
// FirstAdmin with a password, at random if password is empty. It returns the password of a user that it made, else "". It
// fails if somebody has a name that nobody may have.
func (a *Authority) Start(ctx context.Context, password string) (made string, err error) {
	if password == "" {
		password = rand.Text()
	}
	hash, err := hashPassword(password)
	if err != nil {
		return "", err
	}
	begin := a.db.Update
	if a.db.ReadOnly() {
		begin = a.db.View // which fails if there is something to make
	}
	err = begin(ctx, func(tx *db.Tx) error {
		keys, err := tx.SigningKeys()
		if err == nil && len(keys) == 0 {
			err = tx.RotateSigningKey(newSigningKey(), tx.Now)
		}
		if err != nil {
			return err
		}
		if err := a.refuseTaken(tx); err != nil {
			return err
		}
		has, err := tx.HasUsers()
		if err != nil || has {
			return err
		}
		made = password
		_, err = tx.CreateUser(db.User{Name: FirstAdmin, Password: hash, Admin: true, Generation: newGeneration()})
		return err
	})
	return made, err
}

// refuseTaken looks for users whose namespace is not theirs.
func (a *Authority) refuseTaken(tx *db.Tx) error {
	for _, name := range a.taken {
		_, err := tx.User(name)
		if err == nil {
			return fmt.Errorf("there is a user %s, whose namespace would be that of the upstream: remove one of them", name)
		}
		if !errors.Is(err, db.ErrNotFound) {
			return err
		}
	}
	return nil
}

// RotateKey makes a new key to sign with. Bearer tokens that the old one signed are good until they end; its refresh tokens
// end with them, so that whoever has taken the key has nothing left then.
func (a *Authority) RotateKey(ctx context.Context, by registry.Actor) error {
	return a.change(ctx, by, "rotate key", "", func(tx *db.Tx) error {
		return tx.RotateSigningKey(newSigningKey(), tx.Now.Add(-2*maxLifetime(typeAccess)))
	})
}

// policy remembers what the database says about users and keys.
type policy struct {
	sync.Mutex
	number   int64 // db.Tx.Policy
	accounts map[string]*accountState
	keys     []db.SigningKey
	bcrypt   *int // the highest cost of a password's hash, 0 if there is none of bcrypt
}

// maxAccounts bounds how many users are remembered.
const maxAccounts = 10_000

// accountState is what a user may be asked about.
type accountState struct {
	db.User
	generation string // as tokens have it
	grants     ruleSet
	tokens     []apiToken
}

// storedRules are the rules of a token. Those that cannot be read allow nothing.
func (a *Authority) storedRules(t db.APIToken) ruleSet {
	set, err := readRules(t.Scopes)
	if err != nil {
		a.log.Error("the scopes of a token cannot be read", "user", t.User, "token", t.Name, "err", err)
	}
	return set
}

// apiToken is a token of a user.
type apiToken struct {
	db.APIToken
	rules func() ruleSet // compiled when they are first asked for: a user may have many tokens that nobody uses
}

// fresh forgets what it remembers if the database says something else now. It returns with the policy locked.
func (a *Authority) fresh(ctx context.Context) error {
	number, err := db.Cached(ctx, a.db, db.Key{What: "policy"}, (*db.Tx).Policy)
	a.policy.Lock()
	if err == nil && (number != a.policy.number || a.policy.accounts == nil || len(a.policy.accounts) >= maxAccounts) {
		a.policy.number, a.policy.accounts, a.policy.keys, a.policy.bcrypt = number, map[string]*accountState{}, nil, nil
	}
	return err
}

// account returns what is known of a user. ErrNotFound of package db if there is none.
func (a *Authority) account(ctx context.Context, name string) (*accountState, error) {
	err := a.fresh(ctx)
	known, number := a.policy.accounts[name], a.policy.number
	a.policy.Unlock()
	if known != nil || err != nil {
		return known, err
	}
	s := &accountState{}
	err = a.db.View(ctx, func(tx *db.Tx) (err error) {
		if s.User, err = tx.User(name); err != nil {
			return err
		}
		s.generation = strconv.FormatInt(s.Generation, 10)
		grants, err := tx.GrantsOf(s.User)
		if err != nil {
			return err
		}
		if s.grants, err = compileGrants(grants); err != nil {
			return err
		}
		tokens, err := tx.APITokens(name)
		for _, t := range tokens {
			s.tokens = append(s.tokens, apiToken{t, sync.OnceValue(func() ruleSet { return a.storedRules(t) })})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	a.policy.Lock()
	defer a.policy.Unlock()
	if a.policy.number == number { // else it may be from before the change
		a.policy.accounts[s.Name] = s // not name, which may be a part of a long header
	}
	return s, nil
}

// keys returns the keys that tokens may be signed with, the one that signs first.
func (a *Authority) keys(ctx context.Context) ([]db.SigningKey, error) {
	if a.secret != nil {
		return []db.SigningKey{{ID: "secret", Secret: a.secret}}, nil
	}
	err := a.fresh(ctx)
	keys, number := a.policy.keys, a.policy.number
	a.policy.Unlock()
	if keys != nil || err != nil {
		return keys, err
	}
	err = a.db.View(ctx, func(tx *db.Tx) (err error) { keys, err = tx.SigningKeys(); return err })
	if err == nil && (len(keys) == 0 || !keys[0].RetiredAt.IsZero()) {
		err = errors.New("the database has no key to sign tokens with")
	}
	if err != nil {
		return nil, err
	}
	a.policy.Lock()
	defer a.policy.Unlock()
	if a.policy.number == number {
		a.policy.keys = keys
	}
	return keys, nil
}

// bcryptCost returns the highest cost of those password hashes that are of bcrypt, 0 if there is none.
func (a *Authority) bcryptCost(ctx context.Context) (cost int, err error) {
	err = a.fresh(ctx)
	known, number := a.policy.bcrypt, a.policy.number
	a.policy.Unlock()
	if err != nil {
		return 0, err
	}
	if known != nil {
		return *known, nil
	}
	if err = a.db.View(ctx, func(tx *db.Tx) (err error) { cost, err = tx.BcryptCost(); return err }); err != nil {
		return 0, err
	}
	a.policy.Lock()
	defer a.policy.Unlock()
	if a.policy.number == number {
		a.policy.bcrypt = &cost
	}
	return cost, nil
}

func newSigningKey() db.SigningKey {
	secret := make([]byte, 32)
	rand.Read(secret)
	return db.SigningKey{ID: rand.Text()[:12], Secret: secret}
}

// failed makes the row of the table of errors of what the database said.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return registry.AsError(fmt.Errorf("auth: %w", err))
}

package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode"

	"registry/db"
	"registry/server/registry"
)

// Refresh tokens come in families: one login, and all the tokens that it gets later without the password. A family is a row
// of the database. It ends 90 days after its last use, and with what its user logged in with: when the password changes, the
// API token is revoked, or the user is disabled or removed. It can be listed and revoked.

const (
	familyLifetime = 90 * 24 * time.Hour // after the last use
	// refreshLifetime is what a refresh token says of itself. Its family says when it ends.
	refreshLifetime = 10 * 365 * 24 * time.Hour
	// oldLifetime is that of tokens of earlier versions, which have no family.
	oldLifetime = 30 * 24 * time.Hour
	maxFamilies = 1000 // of a user; those that were not used for longest end
	maxClient   = 64   // bytes
)

// familyKey is a login that gets one family a minute, however often it asks for one.
type familyKey struct {
	user, generation, apiToken, client, address string
}

// families remembers the newest family of each login.
type families struct {
	sync.Mutex
	newest map[familyKey]string
}

// refreshToken signs a refresh token of the caller's family, or of a new one. It is "" if the database does not take the row
// of a new one: the caller may go on pulling from a full disk.
func (a *Authority) refreshToken(ctx context.Context, c Caller, asked TokenRequest, now time.Time) (string, error) {
	if c.family == "" {
		id, err := a.newFamily(ctx, c, asked)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Error("a login gets no refresh token", "user", c.Name, "err", err)
			}
			return "", ctx.Err()
		}
		c.family = id
	}
	return a.sign(ctx, c, typeRefresh, nil, now, refreshLifetime)
}

// newFamily returns the family that an equal login got in the last minute, or makes one.
func (a *Authority) newFamily(ctx context.Context, c Caller, asked TokenRequest) (id string, err error) {
	t := db.RefreshToken{ID: rand.Text(), User: c.Name, APIToken: c.apiToken, Client: clientName(asked.Client), Address: AddressText(asked.From)}
	key := familyKey{c.Name, c.account.generation, t.APIToken, t.Client, t.Address}
	if !a.newest.due(a.db.Now(), key) {
		a.families.Lock()
		id = a.families.newest[key]
		a.families.Unlock()
		if _, err := a.family(ctx, id); err == nil {
			return id, nil
		}
	}
	err = a.db.Relaxed(ctx, func(tx *db.Tx) error { return tx.CreateRefreshToken(t, tx.Now.Add(-familyLifetime), maxFamilies) })
	if err != nil {
		return "", err
	}
	a.families.Lock()
	defer a.families.Unlock()
	if a.families.newest == nil || len(a.families.newest) > maxAccounts {
		a.families.newest = map[familyKey]string{}
	}
	a.families.newest[key] = t.ID
	return t.ID, nil
}

// clientName is what people are shown of what a client calls itself.
func clientName(text string) string {
	text = strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	return text[:min(len(text), maxClient)]
}

// family returns a family that has not ended. errToken.
func (a *Authority) family(ctx context.Context, id string) (t db.RefreshToken, err error) {
	err = a.db.Lookup(ctx, func(tx *db.Tx) (err error) { t, err = tx.RefreshToken(id); return err })
	if errors.Is(err, db.ErrNotFound) || err == nil && db.Age(t.UsedAt, a.db.Now()) >= familyLifetime {
		err = errToken
	}
	return t, err
}

// Refresh is who a refresh token was issued to, for a client at an address. Unauthorized if they or the token have ended.
func (a *Authority) Refresh(ctx context.Context, token string, from netip.Addr) (Caller, error) {
	said, err := a.verify(ctx, token, typeRefresh)
	if err != nil {
		return Caller{}, refusedToken(err)
	}
	c, err := a.caller(ctx, said)
	if err != nil {
		return Caller{}, refusedToken(err)
	}
	switch {
	case said.Family != "":
		err = a.useFamily(ctx, c, said.Family)
	case said.ExpiresAt.Sub(said.IssuedAt.Time) > oldLifetime:
		err = errToken
	}
	if err != nil {
		return Caller{}, refusedToken(err)
	}
	c.family = said.Family
	if c.account != nil {
		a.noteLogin(ctx, c.account, from, withRefresh)
	}
	return c, nil
}

// useFamily notes that a family of the caller is used, once a minute. errToken if it is no more.
func (a *Authority) useFamily(ctx context.Context, c Caller, id string) error {
	t, err := a.family(ctx, id)
	if err != nil {
		return err
	}
	if t.User != c.Name || t.APIToken != c.apiToken {
		return errToken
	}
	if db.Age(t.UsedAt, a.db.Now()) < time.Minute {
		return nil
	}
	if err := a.db.Relaxed(context.WithoutCancel(ctx), func(tx *db.Tx) error { return tx.UsedRefreshToken(id) }); err != nil {
		a.log.Error("the use of a refresh token could not be noted", "user", t.User, "err", err)
	}
	return nil
}

// RefreshToken is a family of refresh tokens, as others may see it.
type RefreshToken struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Client   string    `json:"client"`  // what it calls itself
	Address  string    `json:"address"` // from which the user logged in
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"lastUsed"`
	Expires  time.Time `json:"expires"` // unless it is used
}

// RefreshTokens returns up to limit families after an id, those of a user or, for "", of all, that have not ended.
func (a *Authority) RefreshTokens(ctx context.Context, user, after string, limit int) (list []RefreshToken, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) error {
		tokens, err := tx.RefreshTokens(user, tx.Now.Add(-familyLifetime), after, limit)
		for _, t := range tokens {
			list = append(list, RefreshToken{t.ID, t.User, t.Client, t.Address, t.CreatedAt, t.UsedAt, t.UsedAt.Add(familyLifetime)})
		}
		return err
	})
	return list, failed(err)
}

// DeleteRefreshToken ends a family. The bearer tokens that it got live for minutes. Missing.
func (a *Authority) DeleteRefreshToken(ctx context.Context, by registry.Actor, user, id string) error {
	return a.change(ctx, by, "revoke refresh token", user+"/"+id, func(tx *db.Tx) error { return tx.DeleteRefreshToken(user, id) })
}

package auth

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"registry/db"
	"registry/server/match"
	"registry/server/registry"

	"golang.org/x/crypto/bcrypt"
)

// User is what others may see of a user.
type User struct {
	Name      string    `json:"name"`
	Admin     bool      `json:"admin"`
	Disabled  bool      `json:"disabled"`
	Created   time.Time `json:"created"`
	LastLogin time.Time `json:"lastLogin,omitzero"`
}

// reserved names would look like somebody or something else, or like a part of the paths of package admin.
var reserved = []string{"anonymous", "api", "auth", "library", "registry", "root", "system", "token", "v1", "v2",
	"audit", "costly-rules", "grants", "groups", "immutable", "keys", "refresh-tokens", "repo", "tokens", "users", "visibility"}

const maxUserName = 64

// CheckUserName says what is wrong with a name. It is a component of repository names, since they begin with it.
func CheckUserName(name string) error {
	if _, err := db.ParseRepoName(name); err != nil || strings.Contains(name, "/") || len(name) > maxUserName {
		return fmt.Errorf("user name %.80q: want at most %d lower case letters and digits, joined by one of . _ __ -", name, maxUserName)
	}
	return nil
}

func checkNewName(name string) error {
	if err := CheckUserName(name); err != nil {
		return err
	}
	if slices.Contains(reserved, name) {
		return fmt.Errorf("user name %q is reserved", name)
	}
	return nil
}

// important names are for those whom an admin gives them to: others would take them for who they are not. So are names with
// a dot, which may be those of registries.
var important = []string{FirstAdmin, "administrator", "admins", "operator", "owner", "security", "staff", "superuser", "support"}

func checkRegistration(name string) error {
	if slices.Contains(important, name) || strings.Contains(name, ".") {
		return fmt.Errorf("user name %q is given by admins only", name)
	}
	return nil
}

// refusePast returns ErrConflict of package db if a name means something here although no user has it: there is or was
// content in its namespace, or a grant that admins made mentions it. It would be that of whoever takes the name.
func refusePast(tx *db.Tx, name string) error {
	has, err := tx.HasNamespace(name)
	if err == nil && has {
		err = db.ErrConflict
	}
	if err != nil {
		return err
	}
	owners := map[string]bool{}
	return tx.AllGrants(func(g db.Grant) error {
		if mentions(g.Repository, name) {
			return db.ErrConflict
		}
		if strings.TrimPrefix(g.Grantee, "@") != name {
			return nil
		}
		// Users may name anybody for their own repositories, and must not keep a name from others by that.
		owner, _, _ := strings.Cut(g.Repository, "/")
		byUser, known := owners[owner]
		if !known && InNamespace(owner, g.Repository) {
			_, err := tx.User(owner)
			if err != nil && !errors.Is(err, db.ErrNotFound) {
				return err
			}
			byUser = err == nil
			owners[owner] = byUser
		}
		if !byUser {
			return db.ErrConflict
		}
		return nil
	})
}

// mentions says whether a name is a word of a glob.
func mentions(glob, name string) bool {
	return slices.Contains(strings.FieldsFunc(glob, func(r rune) bool {
		return !(r == '.' || r == '_' || r == '-' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9')
	}), name)
}

// newGeneration is a number that no user had before.
func newGeneration() int64 {
	var b [8]byte
	rand.Read(b[:])
	return int64(binary.LittleEndian.Uint64(b[:]) >> 1)
}

// change runs fn in a transaction and writes to the audit who did it.
func (a *Authority) change(ctx context.Context, by registry.Actor, action, detail string, fn func(*db.Tx) error) error {
	err := a.db.Update(ctx, func(tx *db.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return tx.Audit(db.Event{User: by.User, Address: by.Address, Action: action, Detail: detail})
	})
	switch {
	case errors.Is(err, db.ErrNotFound):
		return registry.Missing.With(detail)
	case errors.Is(err, db.ErrConflict):
		return registry.Taken.With(detail)
	}
	return failed(err)
}

// invalid makes an error of what is wrong with a request.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return registry.RequestInvalid.With(err.Error())
}

// MayRegister says whether a caller may make a user of that kind.
func (a *Authority) MayRegister(c Caller, admin bool) bool {
	return c.IsAdmin() || a.registration && !admin
}

// CreateUser adds a user. RequestInvalid for a name or a password that cannot be; Taken if the name is, or if, unless
// trusted, it means something here already; TooManyRequests, unless trusted.
func (a *Authority) CreateUser(ctx context.Context, by registry.Actor, name, password string, admin, trusted bool) error {
	err := errors.Join(checkNewName(name), CheckNewPassword(name, password))
	if err == nil && !trusted {
		err = checkRegistration(name)
	}
	if err != nil {
		return invalid(err)
	}
	if slices.Contains(a.taken, name) {
		return invalid(fmt.Errorf("user name %q is that of an upstream", name))
	}
	if !trusted { // it costs what a login costs, and says whether there is such a user
		from, _ := netip.ParseAddr(by.Address)
		if wait := a.throttle.enter(a.db.Now(), name, from, false); wait > 0 {
			return tooMany(wait)
		}
	}
	hash, err := a.hash(ctx, by, password, trusted)
	if err != nil {
		return err
	}
	return a.createUser(ctx, by, name, hash, admin, trusted)
}

// hash hashes the password that somebody chooses. known says that they have shown who they are.
func (a *Authority) hash(ctx context.Context, by registry.Actor, password string, known bool) (string, error) {
	from, _ := netip.ParseAddr(by.Address)
	hash, err := a.logins.hash(ctx, password, place{networkOf(from).String(), known})
	if errors.Is(err, errBusy) {
		return "", tooMany(time.Second)
	}
	return hash, failed(err)
}

func (a *Authority) createUser(ctx context.Context, by registry.Actor, name, hash string, admin, trusted bool) error {
	return a.change(ctx, by, "create user", name, func(tx *db.Tx) error {
		if !trusted {
			if err := refusePast(tx, name); err != nil {
				return err
			}
		}
		_, err := tx.CreateUser(db.User{Name: name, Password: hash, Admin: admin, Generation: newGeneration()})
		return err
	})
}

// maxBcryptCost bounds how long a login of an imported user takes, to about a second: others wait for it.
const maxBcryptCost = 14

// ImportHtpasswd adds the users of a file of htpasswd's form with bcrypt hashes, which the first login of each replaces.
// Those that exist stay as they are. It returns the names of those it added; nothing is added if a line is wrong.
func (a *Authority) ImportHtpasswd(ctx context.Context, by registry.Actor, file io.Reader) (added []string, err error) {
	type entry struct{ name, hash string }
	var entries []entry
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if err := checkNewName(name); err != nil {
			return nil, invalid(fmt.Errorf("line %d: %w", n, err))
		}
		if cost, err := bcrypt.Cost([]byte(hash)); err != nil || !isBcrypt(hash) || cost > maxBcryptCost {
			return nil, invalid(fmt.Errorf("line %d: the password of %s is not hashed with bcrypt (htpasswd -B) of a cost up to %d", n, name, maxBcryptCost))
		}
		entries = append(entries, entry{name, hash})
	}
	if err := lines.Err(); err != nil {
		return nil, invalid(err)
	}
	for _, e := range entries {
		err := a.createUser(ctx, by, e.name, e.hash, false, true)
		if registry.Taken.Is(err) {
			continue
		}
		if err != nil {
			return added, err
		}
		added = append(added, e.name)
	}
	return added, nil
}

// Users returns up to limit users after a name.
func (a *Authority) Users(ctx context.Context, after string, limit int) (list []User, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) error {
		users, err := tx.Users(after, limit)
		for _, u := range users {
			list = append(list, shown(u))
		}
		return err
	})
	return list, failed(err)
}

// User returns a user. Missing.
func (a *Authority) User(ctx context.Context, name string) (u User, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) error {
		found, err := tx.User(name)
		u = shown(found)
		return err
	})
	if errors.Is(err, db.ErrNotFound) {
		return User{}, registry.Missing.With(name)
	}
	return u, failed(err)
}

func shown(u db.User) User { return User{u.Name, u.Admin, u.Disabled, u.CreatedAt, u.LastLoginAt} }

// HasUsers says whether there is any user.
func (a *Authority) HasUsers(ctx context.Context) (has bool, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) (err error) { has, err = tx.HasUsers(); return err })
	return has, failed(err)
}

// HasAdmin says whether there is an admin who may log in.
func (a *Authority) HasAdmin(ctx context.Context) (has bool, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) (err error) { has, err = tx.HasAdmin(); return err })
	return has, failed(err)
}

// keepAdmin returns Conflict if u was an admin who could log in and there is none any more.
func keepAdmin(tx *db.Tx, u db.User) error {
	if !u.Admin || u.Disabled {
		return nil
	}
	has, err := tx.HasAdmin()
	if err == nil && !has {
		return registry.Conflict.With(u.Name + " is the only admin")
	}
	return err
}

// update changes a user. What they were given before ends if ends is set. Conflict if there would be no admin any more.
func (a *Authority) update(ctx context.Context, by registry.Actor, action, name string, ends bool, fn func(*db.User)) error {
	return a.change(ctx, by, action, name, func(tx *db.Tx) error {
		u, err := tx.User(name)
		if err != nil {
			return err
		}
		before := u
		if fn(&u); ends {
			u.Generation = newGeneration()
		}
		if err := tx.SaveUser(u); err != nil {
			return err
		}
		if ends {
			if err := tx.DeleteRefreshTokens(u.ID); err != nil {
				return err
			}
		}
		return keepAdmin(tx, before)
	})
}

// SetPassword changes a password. What the old one got its owner ends, but for their API tokens. Missing.
func (a *Authority) SetPassword(ctx context.Context, by registry.Actor, name, password string) error {
	if err := CheckNewPassword(name, password); err != nil {
		return invalid(err)
	}
	hash, err := a.hash(ctx, by, password, true)
	if err != nil {
		return err
	}
	return a.update(ctx, by, "change password", name, true, func(u *db.User) { u.Password = hash })
}

// SetDisabled keeps a user out at once, or lets them in again. Missing, Conflict.
func (a *Authority) SetDisabled(ctx context.Context, by registry.Actor, name string, disabled bool) error {
	action := "enable user"
	if disabled {
		action = "disable user"
	}
	return a.update(ctx, by, action, name, true, func(u *db.User) { u.Disabled = disabled })
}

// SetAdmin makes a user an admin, or one no more. Missing, Conflict.
func (a *Authority) SetAdmin(ctx context.Context, by registry.Actor, name string, admin bool) error {
	action := "revoke admin"
	if admin {
		action = "grant admin"
	}
	return a.update(ctx, by, action, name, false, func(u *db.User) { u.Admin = admin })
}

// DeleteUser removes a user, with their tokens and grants but not their repositories. Missing; Conflict if they are the only
// admin.
func (a *Authority) DeleteUser(ctx context.Context, by registry.Actor, name string) error {
	return a.change(ctx, by, "remove user", name, func(tx *db.Tx) error {
		u, err := tx.User(name)
		if err != nil {
			return err
		}
		if err := tx.DeleteUser(u); err != nil {
			return err
		}
		return keepAdmin(tx, u)
	})
}

// APIToken is a password for a program, as others may see it.
type APIToken struct {
	User     string    `json:"user"`
	Name     string    `json:"name"`
	Scopes   Scopes    `json:"scopes"` // what it may do at most
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"`
	LastUsed time.Time `json:"lastUsed,omitzero"`
}

// Scopes are rules with spaces between them. In JSON they are an array.
type Scopes string

// MarshalJSON implements json.Marshaler.
func (s Scopes) MarshalJSON() ([]byte, error) { return json.Marshal(strings.Fields(string(s))) }

// isTokenName says whether a name is one line of text and a segment of a path.
func isTokenName(name string) bool {
	return name != "" && len(name) <= maxUserName && name != "." && name != ".." && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == '/' || unicode.IsControl(r) })
}

// ParseLifetime reads how long something lives: days, such as 90d, what time.ParseDuration reads, or both. "" is 0, for
// without end.
func ParseLifetime(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	const most = 100 * 365 * 24 * time.Hour
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		days, rest = "0", s
	}
	n, err := strconv.ParseUint(days, 10, 16)
	lifetime := time.Duration(n) * 24 * time.Hour
	if rest != "" && err == nil {
		var more time.Duration
		more, err = time.ParseDuration(rest)
		lifetime += min(max(more, -lifetime), most)
	}
	if err == nil && 0 < lifetime && lifetime <= most {
		return lifetime, nil
	}
	return 0, fmt.Errorf("%.40q is not a time to live, such as 90d or 12h", s)
}

// maxTokens bounds the API tokens of a user: all are looked through when one is used.
const maxTokens = 500

// CreateAPIToken makes a token and returns its text, which is kept nowhere. It lives for lifetime, without end if that is
// 0. RequestInvalid, Missing if there is no such user, Taken if they have a token of that name.
func (a *Authority) CreateAPIToken(ctx context.Context, by registry.Actor, user, name, scopes string, lifetime time.Duration) (text string, err error) {
	rules, err := ParseRules(scopes)
	switch {
	case err != nil:
		return "", invalid(err)
	case len(rules) == 0:
		return "", invalid(errors.New("a token needs a scope, such as pull:**"))
	case !isTokenName(name):
		return "", invalid(fmt.Errorf("token name: want 1 to %d characters, none of them a slash", maxUserName))
	case lifetime < 0:
		return "", invalid(errors.New("a token cannot live for less than no time"))
	}
	text = tokenPrefix + rand.Text() + rand.Text()
	t := db.APIToken{User: user, Name: name, Hash: hashToken(text), Scopes: formatRules(rules)}
	err = a.change(ctx, by, "create token", user+"/"+name+" "+t.Scopes, func(tx *db.Tx) error {
		if lifetime > 0 {
			t.ExpiresAt = tx.Now.Add(lifetime)
		}
		if err := tx.CreateAPIToken(t); err != nil {
			return err
		}
		n, err := tx.CountAPITokens(user)
		if err == nil && n > maxTokens {
			err = invalid(fmt.Errorf("%s has %d tokens: revoke those that are not used", user, maxTokens))
		}
		return err
	})
	if err != nil {
		return "", err
	}
	return text, nil
}

// APITokens returns up to limit tokens after another one, those of a user or, for "", of all.
func (a *Authority) APITokens(ctx context.Context, user string, after APIToken, limit int) (list []APIToken, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) error {
		tokens, err := tx.SomeAPITokens(user, after.User, after.Name, limit)
		for _, t := range tokens {
			list = append(list, APIToken{t.User, t.Name, Scopes(t.Scopes), t.CreatedAt, t.ExpiresAt, t.LastUsedAt})
		}
		return err
	})
	return list, failed(err)
}

// DeleteAPIToken revokes a token, at once. Missing.
func (a *Authority) DeleteAPIToken(ctx context.Context, by registry.Actor, user, name string) error {
	return a.change(ctx, by, "revoke token", user+"/"+name, func(tx *db.Tx) error {
		t, err := tx.APIToken(user, name)
		if err != nil {
			return err
		}
		if err := tx.DeleteRefreshTokensOf(user, apiToken{APIToken: t}.mark()); err != nil {
			return err
		}
		return tx.DeleteAPIToken(user, name)
	})
}

// Grant is what a user, or a group written with an @ before it, may do in the repositories that a glob matches.
type Grant struct {
	Grantee    string    `json:"grantee"`
	Repository string    `json:"repository"`
	Actions    string    `json:"actions"`
	Created    time.Time `json:"created"`
}

func checkGrantee(name string) error { return CheckUserName(strings.TrimPrefix(name, "@")) }

// SetGrant gives a right, in place of the one that the grantee has for the same glob. RequestInvalid, Missing.
func (a *Authority) SetGrant(ctx context.Context, by registry.Actor, grantee string, rule Rule) error {
	return a.setGrant(ctx, by, grantee, rule, true)
}

// OfferGrant is SetGrant by a user who is not told who else there is: a grantee who does not exist gets the right when an
// admin makes them. RequestInvalid.
func (a *Authority) OfferGrant(ctx context.Context, by registry.Actor, grantee string, rule Rule) error {
	return a.setGrant(ctx, by, grantee, rule, false)
}

func (a *Authority) setGrant(ctx context.Context, by registry.Actor, grantee string, rule Rule, exists bool) error {
	if err := errors.Join(checkGrantee(grantee), CheckGlob(rule.Repository)); err != nil {
		return invalid(err)
	}
	return a.change(ctx, by, "grant", grantee+" "+rule.String(), func(tx *db.Tx) error {
		if exists && grantee[0] != '@' {
			if _, err := tx.User(grantee); err != nil {
				return err
			}
		}
		if err := tx.SetGrant(db.Grant{Grantee: grantee, Repository: rule.Repository, Actions: int64(rule.Actions)}); err != nil {
			return err
		}
		return checkGrants(tx, grantee, rule.Repository)
	})
}

// maxGrants bounds the grants in the namespace of a user.
const maxGrants = 1000

// checkGrants returns RequestInvalid if a grant made the rules of its grantee, or of a member of that, too costly, or is one
// too many.
func checkGrants(tx *db.Tx, grantee, glob string) error {
	list, err := tx.GrantsTo(grantee)
	if err != nil {
		return err
	}
	set, err := compileGrants(list)
	if err != nil {
		return err
	}
	compiled, err := match.Compile(glob)
	if err != nil {
		return err
	}
	owner := compiled.FirstSegment()
	if set.costIn(owner) > maxCost {
		return invalid(errTooCostly)
	}
	if compiled.Cost() > 0 { // else nobody's rules cost more than before
		if err := checkMembers(tx, grantee, owner); err != nil {
			return err
		}
	}
	n, err := tx.CountGrantsIn(owner)
	if err == nil && n > maxGrants {
		err = invalid(fmt.Errorf("there are %d grants in the namespace of %s already: use globs, or groups", maxGrants, owner))
	}
	return err
}

// DeleteGrant takes a right back. Missing.
func (a *Authority) DeleteGrant(ctx context.Context, by registry.Actor, grantee, repository string) error {
	return a.change(ctx, by, "revoke", grantee+" "+repository, func(tx *db.Tx) error { return tx.DeleteGrant(grantee, repository) })
}

// Grants returns up to limit grants after another one: those of a user and in their namespace or, for "", all.
func (a *Authority) Grants(ctx context.Context, user string, after Grant, limit int) (list []Grant, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) error {
		grants, err := tx.Grants(user, after.Grantee, after.Repository, limit)
		for _, g := range grants {
			list = append(list, Grant{g.Grantee, g.Repository, Actions(g.Actions).String(), g.CreatedAt})
		}
		return err
	})
	return list, failed(err)
}

// Member is a user in a group.
type Member struct {
	Group string `json:"group"`
	User  string `json:"user"`
}

// AddMember puts a user into a group, which exists as long as it has members. RequestInvalid, Missing.
func (a *Authority) AddMember(ctx context.Context, by registry.Actor, m Member) error {
	if err := CheckUserName(m.Group); err != nil {
		return invalid(err)
	}
	return a.change(ctx, by, "add member", m.Group+" "+m.User, func(tx *db.Tx) error {
		if err := tx.AddMember(db.Member(m)); err != nil {
			return err
		}
		return checkMember(tx, m)
	})
}

// RemoveMember takes a user out of a group. Missing.
func (a *Authority) RemoveMember(ctx context.Context, by registry.Actor, m Member) error {
	return a.change(ctx, by, "remove member", m.Group+" "+m.User, func(tx *db.Tx) error { return tx.RemoveMember(db.Member(m)) })
}

// Members returns up to limit members of groups, those after another one.
func (a *Authority) Members(ctx context.Context, after Member, limit int) (list []Member, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) error {
		members, err := tx.Members(db.Member(after), limit)
		for _, m := range members {
			list = append(list, Member(m))
		}
		return err
	})
	return list, failed(err)
}

// IsMember says whether a user is in a group.
func (a *Authority) IsMember(ctx context.Context, m Member) (is bool, err error) {
	err = a.db.View(ctx, func(tx *db.Tx) (err error) { is, err = tx.IsMember(db.Member(m)); return err })
	return is, failed(err)
}

// RecordLogin writes a login to the audit, or one that failed.
func (a *Authority) RecordLogin(ctx context.Context, by registry.Actor, action, detail string) {
	err := a.db.Relaxed(ctx, func(tx *db.Tx) error {
		return tx.Audit(db.Event{User: by.User, Address: by.Address, Action: action, Detail: detail})
	})
	if err != nil && ctx.Err() == nil {
		a.log.Error("a login could not be written to the audit", "err", err)
	}
}

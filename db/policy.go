package db

import (
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Whatever says who may do what is copied to the journal beside the blobs, as manifests and tags are: a row of changes, in
// the transaction of what it changes, says of which entry; what the entry says is read when the row is copied. No entry
// has a secret, only hashes. Keys that tokens are signed with, and logins, are not copied: they are made again.

// PolicyKey names an entry. Name and Item are, for each kind:
//
//	user       the user, nothing
//	member     the group, the user in it
//	grant      the grantee, the glob
//	token      the user, the name of the API token
//	immutable  the glob of repositories, the glob of tags
//	public     the repository, nothing
type PolicyKey struct{ Kind, Name, Item string }

// The kinds of entries, in the order in which they may be written: users come before what they have.
const (
	PolicyUser      = "user"
	PolicyMember    = "member"
	PolicyGrant     = "grant"
	PolicyToken     = "token"
	PolicyImmutable = "immutable"
	PolicyPublic    = "public"
)

// PolicyKinds returns the kinds of entries in that order.
func PolicyKinds() []string {
	return []string{PolicyUser, PolicyMember, PolicyGrant, PolicyToken, PolicyImmutable, PolicyPublic}
}

// text is the key in the column tag of a change that has no repository.
func (k PolicyKey) text() string { return k.Kind + "\n" + k.Name + "\n" + k.Item }

// PolicyKey returns what a change is about if that is no tag and no manifest.
func (c Change) PolicyKey() (k PolicyKey, ok bool) {
	parts := strings.SplitN(string(c.Tag), "\n", 3)
	if c.Repository != "" || len(parts) != 3 {
		return k, false
	}
	return PolicyKey{parts[0], parts[1], parts[2]}, true
}

// PolicyEntry is an entry with what its kind has.
type PolicyEntry struct {
	PolicyKey
	Hash            []byte // of a password, as text with its parameters, or of a token
	Admin, Disabled bool
	Generation      int64
	Actions         int64
	Scopes          string
	CreatedAt       time.Time
	ExpiresAt       time.Time // zero: never
}

// policyNote counts the changes of everything that says who may do what, but for the visibility of repositories.
const policyNote = "policy"

// Policy returns a number that is another one after every change of users, tokens, grants, groups and keys.
func (tx *Tx) Policy() (n int64, err error) {
	err = tx.row(`SELECT value FROM notes WHERE name = ?`, []any{policyNote}, &n)
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return n, err
}

// policyChanged counts a change of these entries, unless it failed with err, which it returns.
func (tx *Tx) policyChanged(err error, keys ...PolicyKey) error {
	if err != nil {
		return err
	}
	n, err := tx.Policy()
	if err == nil {
		err = tx.SetNote(policyNote, strconv.FormatInt(n+1, 10))
	}
	if err != nil {
		return err
	}
	return tx.recordPolicy(keys...)
}

// recordPolicy adds changes of entries.
func (tx *Tx) recordPolicy(keys ...PolicyKey) error {
	for _, k := range keys {
		if _, err := tx.run(`INSERT INTO changes (at, repository, tag) VALUES (?, '', ?)`, micros(tx.Now), k.text()); err != nil {
			return err
		}
	}
	return nil
}

// policyOfUser returns the entries that go with a user.
func (tx *Tx) policyOfUser(u User) ([]PolicyKey, error) {
	return tx.policyKeys(`SELECT 'user', ?, '' UNION ALL SELECT 'member', group_name, ? FROM group_members WHERE user_id = ?
		UNION ALL SELECT 'grant', grantee, repository FROM grants WHERE grantee = ? OR `+inNamespace+`
		UNION ALL SELECT 'token', ?, name FROM api_tokens WHERE user_id = ?`,
		append(append([]any{u.Name, u.Name, u.ID, u.Name}, namespace(u.Name)...), u.Name, u.ID)...)
}

// PolicyKeys returns every entry there is.
func (tx *Tx) PolicyKeys() ([]PolicyKey, error) {
	return tx.policyKeys(`SELECT 'user', name, '' FROM users
		UNION ALL SELECT 'member', m.group_name, u.name FROM group_members m JOIN users u ON u.id = m.user_id
		UNION ALL SELECT 'grant', grantee, repository FROM grants
		UNION ALL SELECT 'token', u.name, t.name FROM api_tokens t JOIN users u ON u.id = t.user_id
		UNION ALL SELECT 'immutable', repository, tag FROM immutable_tags
		UNION ALL SELECT 'public', name, '' FROM repositories WHERE public = 1`)
}

func (tx *Tx) policyKeys(query string, args ...any) (list []PolicyKey, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var k PolicyKey
		err := r.Scan(&k.Kind, &k.Name, &k.Item)
		list = append(list, k)
		return err
	})
	return list, err
}

// PolicyEntry returns an entry. ErrNotFound if it is gone.
func (tx *Tx) PolicyEntry(k PolicyKey) (e PolicyEntry, err error) {
	e.PolicyKey = k
	var created, expires int64
	switch k.Kind {
	case PolicyUser:
		err = tx.row(`SELECT password, admin, disabled, generation, created_at FROM users WHERE name = ?`, []any{k.Name},
			&e.Hash, &e.Admin, &e.Disabled, &e.Generation, &created)
	case PolicyMember:
		err = tx.row(`SELECT 0 FROM group_members m JOIN users u ON u.id = m.user_id WHERE m.group_name = ? AND u.name = ?`, []any{k.Name, k.Item}, &created)
	case PolicyGrant:
		err = tx.row(`SELECT actions, created_at FROM grants WHERE grantee = ? AND repository = ?`, []any{k.Name, k.Item}, &e.Actions, &created)
	case PolicyToken:
		err = tx.row(`SELECT t.hash, t.scopes, t.created_at, t.expires_at FROM api_tokens t JOIN users u ON u.id = t.user_id WHERE u.name = ? AND t.name = ?`,
			[]any{k.Name, k.Item}, &e.Hash, &e.Scopes, &created, &expires)
	case PolicyImmutable:
		err = tx.row(`SELECT created_at FROM immutable_tags WHERE repository = ? AND tag = ?`, []any{k.Name, k.Item}, &created)
	case PolicyPublic:
		err = tx.row(`SELECT 0 FROM repositories WHERE name = ? AND public = 1`, []any{k.Name}, &created)
	default:
		err = ErrNotFound
	}
	e.CreatedAt, e.ExpiresAt = sometime(created), sometime(expires)
	return e, err
}

// PutPolicy writes an entry into a database that does not have it. ErrNotFound if its user is not there, ErrConflict if
// something else is in its place.
func (tx *Tx) PutPolicy(e PolicyEntry) error {
	created := micros(tx.Now)
	if !e.CreatedAt.IsZero() {
		created = micros(e.CreatedAt)
	}
	userOf := map[string]string{PolicyMember: e.Item, PolicyToken: e.Name}
	if e.Kind == PolicyGrant && !strings.HasPrefix(e.Name, "@") {
		userOf[PolicyGrant] = e.Name
	}
	var u User
	if name, has := userOf[e.Kind]; has {
		var err error
		if u, err = tx.User(name); err != nil {
			return err
		}
	}
	var err error
	switch e.Kind {
	case PolicyUser:
		_, err = tx.run(`INSERT INTO users (name, password, admin, disabled, generation, created_at) VALUES (?, ?, ?, ?, ?, ?)`,
			e.Name, string(e.Hash), asInt(e.Admin), asInt(e.Disabled), e.Generation, created)
	case PolicyMember:
		_, err = tx.run(`INSERT INTO group_members (group_name, user_id) VALUES (?, ?)`, e.Name, u.ID)
	case PolicyGrant:
		_, err = tx.run(`INSERT INTO grants (grantee, repository, actions, created_at) VALUES (?, ?, ?, ?)`, e.Name, e.Item, e.Actions, created)
	case PolicyToken:
		_, err = tx.run(`INSERT INTO api_tokens (user_id, name, hash, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)`,
			u.ID, e.Item, e.Hash, e.Scopes, created, whenever(e.ExpiresAt))
	case PolicyImmutable:
		_, err = tx.run(`INSERT INTO immutable_tags (repository, tag, created_at) VALUES (?, ?, ?)`, e.Name, e.Item, created)
	case PolicyPublic:
		if _, err = tx.MakeRepository(RepoName(e.Name), true); err == nil {
			err = tx.SetPublic(RepoName(e.Name), true)
		}
	default:
		err = ErrNotFound
	}
	return tx.policyChanged(err, e.PolicyKey)
}

package db

import (
	"database/sql"
	"time"
)

// Grant is what somebody may do in some repositories.
type Grant struct {
	Grantee    string // a user, or a group after an @
	Repository string // a glob
	Actions    int64  // bits that this package does not look at
	CreatedAt  time.Time
}

// SetGrant writes a grant in place of the one its grantee has for the same glob.
func (tx *Tx) SetGrant(g Grant) error {
	_, err := tx.run(`INSERT INTO grants (grantee, repository, actions, created_at) VALUES (?, ?, ?, ?)
		ON CONFLICT (grantee, repository) DO UPDATE SET actions = excluded.actions`, g.Grantee, g.Repository, g.Actions, micros(tx.Now))
	return tx.policyChanged(err, PolicyKey{PolicyGrant, g.Grantee, g.Repository})
}

// DeleteGrant takes a grant back. ErrNotFound.
func (tx *Tx) DeleteGrant(grantee, repository string) error {
	n, err := tx.run(`DELETE FROM grants WHERE grantee = ? AND repository = ?`, grantee, repository)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return tx.policyChanged(err, PolicyKey{PolicyGrant, grantee, repository})
}

// Grants returns up to limit grants by grantee and glob, those after another one: those of a user and in their namespace
// or, if user is empty, all.
func (tx *Tx) Grants(user, afterGrantee, afterRepository string, limit int) ([]Grant, error) {
	args := append([]any{afterGrantee, afterRepository, user, user}, namespace(user)...)
	return tx.grants(`SELECT grantee, repository, actions, created_at FROM grants
		WHERE (grantee, repository) > (?, ?) AND (? = '' OR grantee = ? OR `+inNamespace+`) ORDER BY grantee, repository LIMIT ?`, append(args, limit)...)
}

// GrantsTo returns the grants of a grantee.
func (tx *Tx) GrantsTo(grantee string) ([]Grant, error) {
	return tx.grants(`SELECT grantee, repository, actions, created_at FROM grants WHERE grantee = ? ORDER BY repository`, grantee)
}

// inNamespace is the condition that a grant is for repositories in the namespace of a name: its glob is the name, or begins
// with the name and a slash. Its arguments are those of namespace.
const inNamespace = `(repository = ? OR repository > ? AND repository < ?)`

func namespace(name string) []any { return []any{name, name + "/", name + "0"} } // 0 follows / in ASCII

// AllGrants calls fn for each grant, until it returns an error.
func (tx *Tx) AllGrants(fn func(Grant) error) error {
	return tx.rows(`SELECT grantee, repository, actions FROM grants`, nil, func(r *sql.Rows) error {
		var g Grant
		if err := r.Scan(&g.Grantee, &g.Repository, &g.Actions); err != nil {
			return err
		}
		return fn(g)
	})
}

// CountGrantsIn counts the grants in the namespace of a user, 0 if there is no such user.
func (tx *Tx) CountGrantsIn(user string) (n int, err error) {
	err = tx.row(`SELECT count(*) FROM grants WHERE `+inNamespace+` AND EXISTS (SELECT 1 FROM users WHERE name = ?)`,
		append(namespace(user), user), &n)
	return n, err
}

// GrantsOf returns the grants of a user and of the groups they are in.
func (tx *Tx) GrantsOf(u User) ([]Grant, error) {
	return tx.grants(`SELECT grantee, repository, actions, created_at FROM grants
		WHERE grantee = ? OR grantee IN (SELECT '@' || group_name FROM group_members WHERE user_id = ?)`, u.Name, u.ID)
}

// GrantsOfMembers calls fn for the grants of a user or, for a group, of each of its members, with those of all groups that they
// are in, a user after the other, until it returns an error.
func (tx *Tx) GrantsOfMembers(grantee string, fn func(user string, g Grant) error) error {
	return tx.rows(`
		WITH users_of (id, name) AS (
			SELECT id, name FROM users WHERE name = ?
			UNION ALL SELECT u.id, u.name FROM group_members m JOIN users u ON u.id = m.user_id WHERE '@' || m.group_name = ?
		), grantees (name, grantee) AS (
			SELECT name, name FROM users_of
			UNION ALL SELECT u.name, '@' || m.group_name FROM users_of u JOIN group_members m ON m.user_id = u.id
		)
		SELECT e.name, g.grantee, g.repository, g.actions FROM grantees e JOIN grants g ON g.grantee = e.grantee ORDER BY e.name`,
		[]any{grantee, grantee}, func(r *sql.Rows) error {
			var user string
			var g Grant
			if err := r.Scan(&user, &g.Grantee, &g.Repository, &g.Actions); err != nil {
				return err
			}
			return fn(user, g)
		})
}

func (tx *Tx) grants(query string, args ...any) (list []Grant, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var g Grant
		var created int64
		err := r.Scan(&g.Grantee, &g.Repository, &g.Actions, &created)
		g.CreatedAt = fromMicros(created)
		list = append(list, g)
		return err
	})
	return list, err
}

// Member is a user in a group.
type Member struct{ Group, User string }

// Members returns up to limit members of groups, in order, those after another one.
func (tx *Tx) Members(after Member, limit int) (list []Member, err error) {
	err = tx.rows(`SELECT m.group_name, u.name FROM group_members m JOIN users u ON u.id = m.user_id
		WHERE (m.group_name, u.name) > (?, ?) ORDER BY m.group_name, u.name LIMIT ?`, []any{after.Group, after.User, limit}, func(r *sql.Rows) error {
		var m Member
		err := r.Scan(&m.Group, &m.User)
		list = append(list, m)
		return err
	})
	return list, err
}

// IsMember says whether a user is in a group.
func (tx *Tx) IsMember(m Member) (is bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM group_members m JOIN users u ON u.id = m.user_id WHERE m.group_name = ? AND u.name = ?)`, []any{m.Group, m.User}, &is)
	return is, err
}

// AddMember puts a user into a group, which exists as long as it has members. ErrNotFound if there is no such user.
func (tx *Tx) AddMember(m Member) error {
	u, err := tx.User(m.User)
	if err == nil {
		_, err = tx.run(`INSERT INTO group_members (group_name, user_id) VALUES (?, ?) ON CONFLICT DO NOTHING`, m.Group, u.ID)
	}
	return tx.policyChanged(err, PolicyKey{PolicyMember, m.Group, m.User})
}

// RemoveMember takes a user out of a group. ErrNotFound if they are not in it.
func (tx *Tx) RemoveMember(m Member) error {
	n, err := tx.run(`DELETE FROM group_members WHERE group_name = ? AND user_id = (SELECT id FROM users WHERE name = ?)`, m.Group, m.User)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return tx.policyChanged(err, PolicyKey{PolicyMember, m.Group, m.User})
}

// IsPublic says whether a repository is public. A missing one is not.
func (tx *Tx) IsPublic(repo RepoName) (public bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM repositories WHERE name = ? AND public = 1)`, []any{string(repo)}, &public)
	return public, err
}

// SetPublic makes a repository public, or private. ErrNotFound.
func (tx *Tx) SetPublic(repo RepoName, public bool) error {
	n, err := tx.run(`UPDATE repositories SET public = ? WHERE name = ? AND public <> ?`, asInt(public), string(repo), asInt(public))
	if err == nil && n == 0 {
		_, err = tx.RepositoryID(repo)
		return err
	}
	if err != nil {
		return err
	}
	return tx.recordPolicy(PolicyKey{PolicyPublic, string(repo), ""})
}

// ImmutableRule says which tags never point at anything else. Both are globs.
type ImmutableRule struct{ Repository, Tag string }

// ImmutableRules returns every rule, in order.
func (tx *Tx) ImmutableRules() ([]ImmutableRule, error) {
	return tx.SomeImmutableRules(ImmutableRule{}, -1)
}

// SomeImmutableRules returns up to limit rules after another one; all if limit is negative.
func (tx *Tx) SomeImmutableRules(after ImmutableRule, limit int) (list []ImmutableRule, err error) {
	err = tx.rows(`SELECT repository, tag FROM immutable_tags WHERE (repository, tag) > (?, ?) ORDER BY repository, tag LIMIT ?`,
		[]any{after.Repository, after.Tag, limit}, func(r *sql.Rows) error {
			var i ImmutableRule
			err := r.Scan(&i.Repository, &i.Tag)
			list = append(list, i)
			return err
		})
	return list, err
}

// AddImmutableRule adds a rule.
func (tx *Tx) AddImmutableRule(i ImmutableRule) error {
	_, err := tx.run(`INSERT INTO immutable_tags (repository, tag, created_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING`, i.Repository, i.Tag, micros(tx.Now))
	if err != nil {
		return err
	}
	return tx.recordPolicy(PolicyKey{PolicyImmutable, i.Repository, i.Tag})
}

// DeleteImmutableRule removes a rule. ErrNotFound.
func (tx *Tx) DeleteImmutableRule(i ImmutableRule) error {
	n, err := tx.run(`DELETE FROM immutable_tags WHERE repository = ? AND tag = ?`, i.Repository, i.Tag)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return err
	}
	return tx.recordPolicy(PolicyKey{PolicyImmutable, i.Repository, i.Tag})
}

// SigningKey is a secret that bearer tokens are signed with.
type SigningKey struct {
	ID        string
	Secret    []byte
	CreatedAt time.Time
	RetiredAt time.Time // zero: it signs
}

// SigningKeys returns every key, the newest first.
func (tx *Tx) SigningKeys() (list []SigningKey, err error) {
	err = tx.rows(`SELECT id, secret, created_at, retired_at FROM signing_keys ORDER BY retired_at = 0 DESC, retired_at DESC`, nil, func(r *sql.Rows) error {
		var k SigningKey
		var created, retired int64
		err := r.Scan(&k.ID, &k.Secret, &created, &retired)
		k.CreatedAt, k.RetiredAt = fromMicros(created), sometime(retired)
		list = append(list, k)
		return err
	})
	return list, err
}

// RotateSigningKey makes k the key that signs, and forgets those that were retired before forget.
func (tx *Tx) RotateSigningKey(k SigningKey, forget time.Time) error {
	if _, err := tx.run(`DELETE FROM signing_keys WHERE retired_at <> 0 AND (retired_at < ? OR retired_at > ?)`, micros(forget), tx.ahead()); err != nil {
		return err
	}
	if _, err := tx.run(`UPDATE signing_keys SET retired_at = ? WHERE retired_at = 0`, micros(tx.Now)); err != nil {
		return err
	}
	_, err := tx.run(`INSERT INTO signing_keys (id, secret, created_at) VALUES (?, ?, ?)`, k.ID, k.Secret, micros(tx.Now))
	return tx.policyChanged(err)
}

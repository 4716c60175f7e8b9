package db

import (
	"database/sql"
	"errors"
	"time"
)

// User is somebody who may log in.
type User struct {
	ID              int64
	Name            string
	Password        string // its hash
	Admin, Disabled bool
	Generation      int64 // changes when what they were given before must end
	CreatedAt       time.Time
	LastLoginAt     time.Time // zero: never
}

const userColumns = `id, name, password, admin, disabled, generation, created_at, last_login_at`

func scanUser(scan func(...any) error) (u User, err error) {
	var created, login int64
	err = scan(&u.ID, &u.Name, &u.Password, &u.Admin, &u.Disabled, &u.Generation, &created, &login)
	u.CreatedAt, u.LastLoginAt = fromMicros(created), sometime(login)
	return u, err
}

// sometime is a time of which 0 means never.
func sometime(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return fromMicros(micros)
}

// whenever is the way back of sometime.
func whenever(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return micros(t)
}

// CreateUser adds a user and returns their key. ErrConflict if the name is taken.
func (tx *Tx) CreateUser(u User) (id int64, err error) {
	n, err := tx.run(`INSERT INTO users (name, password, admin, disabled, generation, created_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		u.Name, u.Password, asInt(u.Admin), asInt(u.Disabled), u.Generation, micros(tx.Now))
	if err == nil && n == 0 {
		return 0, ErrConflict
	}
	if err == nil {
		err = tx.row(`SELECT id FROM users WHERE name = ?`, []any{u.Name}, &id)
	}
	return id, tx.policyChanged(err, PolicyKey{PolicyUser, u.Name, ""})
}

// User returns the user of a name. ErrNotFound.
func (tx *Tx) User(name string) (u User, err error) {
	err = tx.rows(`SELECT `+userColumns+` FROM users WHERE name = ?`, []any{name}, func(r *sql.Rows) (err error) {
		u, err = scanUser(r.Scan)
		return err
	})
	if err == nil && u.ID == 0 {
		err = ErrNotFound
	}
	return u, err
}

// Users returns up to limit users after a name, in byte order.
func (tx *Tx) Users(after string, limit int) (list []User, err error) {
	err = tx.rows(`SELECT `+userColumns+` FROM users WHERE name > ? ORDER BY name LIMIT ?`, []any{after, limit}, func(r *sql.Rows) error {
		u, err := scanUser(r.Scan)
		list = append(list, u)
		return err
	})
	return list, err
}

// HasUsers says whether there is any user.
func (tx *Tx) HasUsers() (any bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM users)`, nil, &any)
	return any, err
}

// HasAdmin says whether there is an admin who is not disabled.
func (tx *Tx) HasAdmin() (any bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM users WHERE admin = 1 AND disabled = 0)`, nil, &any)
	return any, err
}

// SaveUser writes what may change of a user: password, admin, disabled and generation. ErrNotFound.
func (tx *Tx) SaveUser(u User) error {
	n, err := tx.run(`UPDATE users SET password = ?, admin = ?, disabled = ?, generation = ? WHERE id = ?`,
		u.Password, asInt(u.Admin), asInt(u.Disabled), u.Generation, u.ID)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return tx.policyChanged(err, PolicyKey{PolicyUser, u.Name, ""})
}

// UpgradePassword replaces the hash of a password by a better one of the same password, if it is still that one.
func (tx *Tx) UpgradePassword(id int64, from, to string) error {
	var name string
	err := tx.row(`UPDATE users SET password = ? WHERE id = ? AND password = ? RETURNING name`, []any{to, id, from}, &name)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return tx.policyChanged(err, PolicyKey{PolicyUser, name, ""})
}

// BcryptCost returns the highest cost of the password hashes that are of bcrypt, 0 if none is. It reads all users.
func (tx *Tx) BcryptCost() (cost int, err error) {
	err = tx.row(`SELECT coalesce(max(CAST(substr(password, 5, 2) AS INTEGER)), 0) FROM users WHERE password LIKE '$2_$%'`, nil, &cost)
	return cost, err
}

// LoggedIn notes that a user has logged in.
func (tx *Tx) LoggedIn(id int64) error {
	_, err := tx.run(`UPDATE users SET last_login_at = ? WHERE id = ?`, micros(tx.Now), id)
	return err
}

// DeleteUser removes a user with their tokens, the grants to them and in their namespace, and their places in groups. Their
// repositories stay. ErrNotFound.
func (tx *Tx) DeleteUser(u User) error {
	gone, err := tx.policyOfUser(u)
	if err != nil {
		return err
	}
	if err := tx.runAll([]any{u.ID},
		`DELETE FROM api_tokens WHERE user_id = ?`,
		`DELETE FROM refresh_tokens WHERE user_id = ?`,
		`DELETE FROM login_networks WHERE user_id = ?`,
		`DELETE FROM group_members WHERE user_id = ?`); err != nil {
		return err
	}
	if _, err := tx.run(`DELETE FROM grants WHERE grantee = ?`, u.Name); err != nil {
		return err
	}
	if _, err := tx.run(`DELETE FROM grants WHERE `+inNamespace, namespace(u.Name)...); err != nil {
		return err
	}
	n, err := tx.run(`DELETE FROM users WHERE id = ?`, u.ID)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return tx.policyChanged(err, gone...)
}

// HasNamespace says whether there is, or was, anything in the namespace of a name: repositories, what can be undeleted,
// history, or uploads under way.
func (tx *Tx) HasNamespace(name string) (exists bool, err error) {
	in := func(column string) string { return `(` + column + ` = ? OR ` + column + ` > ? AND ` + column + ` < ?)` }
	for table, column := range map[string]string{"repositories": "name", "deleted_manifests": "repository", "changes": "repository", "uploads": "repository"} {
		err := tx.row(`SELECT EXISTS (SELECT 1 FROM `+table+` WHERE `+in(column)+`)`, namespace(name), &exists)
		if err != nil || exists {
			return exists, err
		}
	}
	return false, nil
}

// APIToken is a password for a program.
type APIToken struct {
	ID         int64
	User       string
	Name       string
	Hash       []byte
	Scopes     string
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never
}

const tokenQuery = `SELECT t.id, u.name, t.name, t.hash, t.scopes, t.created_at, t.expires_at, t.last_used_at FROM api_tokens t JOIN users u ON u.id = t.user_id `

func (tx *Tx) apiTokens(query string, args ...any) (list []APIToken, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var t APIToken
		var created, expires, used int64
		err := r.Scan(&t.ID, &t.User, &t.Name, &t.Hash, &t.Scopes, &created, &expires, &used)
		t.CreatedAt, t.ExpiresAt, t.LastUsedAt = fromMicros(created), sometime(expires), sometime(used)
		list = append(list, t)
		return err
	})
	return list, err
}

// CreateAPIToken adds a token to a user. ErrNotFound if there is no such user, ErrConflict if the name is taken.
func (tx *Tx) CreateAPIToken(t APIToken) error {
	u, err := tx.User(t.User)
	if err != nil {
		return err
	}
	n, err := tx.run(`INSERT INTO api_tokens (user_id, name, hash, scopes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		u.ID, t.Name, t.Hash, t.Scopes, micros(tx.Now), whenever(t.ExpiresAt))
	if err == nil && n == 0 {
		return ErrConflict
	}
	return tx.policyChanged(err, PolicyKey{PolicyToken, t.User, t.Name})
}

// APITokens returns the tokens of a user by name, those of all users if user is empty.
func (tx *Tx) APITokens(user string) ([]APIToken, error) {
	return tx.apiTokens(tokenQuery+`WHERE ? IN ('', u.name) ORDER BY u.name, t.name`, user)
}

// SomeAPITokens returns up to limit tokens after another one by user and name, those of a user or, if user is empty, of all.
func (tx *Tx) SomeAPITokens(user, afterUser, afterName string, limit int) ([]APIToken, error) {
	return tx.apiTokens(tokenQuery+`WHERE ? IN ('', u.name) AND (u.name, t.name) > (?, ?) ORDER BY u.name, t.name LIMIT ?`, user, afterUser, afterName, limit)
}

// CountAPITokens returns how many tokens a user has.
func (tx *Tx) CountAPITokens(user string) (n int, err error) {
	err = tx.row(`SELECT count(*) FROM api_tokens WHERE user_id = (SELECT id FROM users WHERE name = ?)`, []any{user}, &n)
	return n, err
}

// APIToken returns a token of a user. ErrNotFound.
func (tx *Tx) APIToken(user, name string) (APIToken, error) {
	list, err := tx.apiTokens(tokenQuery+`WHERE u.name = ? AND t.name = ?`, user, name)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return APIToken{}, err
	}
	return list[0], nil
}

// UsedAPIToken notes that a token was used.
func (tx *Tx) UsedAPIToken(id int64) error {
	_, err := tx.run(`UPDATE api_tokens SET last_used_at = ? WHERE id = ?`, micros(tx.Now), id)
	return err
}

// DeleteAPIToken revokes a token. ErrNotFound.
func (tx *Tx) DeleteAPIToken(user, name string) error {
	n, err := tx.run(`DELETE FROM api_tokens WHERE name = ? AND user_id = (SELECT id FROM users WHERE name = ?)`, name, user)
	if err == nil && n == 0 {
		return ErrNotFound
	}
	return tx.policyChanged(err, PolicyKey{PolicyToken, user, name})
}

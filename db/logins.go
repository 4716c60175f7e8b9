package db

import (
	"database/sql"
	"math/rand/v2"
	"time"
)

// RefreshToken is a family of refresh tokens: one login, and all that it got without the password since.
type RefreshToken struct {
	ID        string
	User      string
	APIToken  string // mark of the API token that stood for the password, "" for the password
	Client    string // what the client calls itself
	Address   string // from which the user logged in
	CreatedAt time.Time
	UsedAt    time.Time
}

// CreateRefreshToken adds a family to a user, and ends those that were last used before expired, or that are more than
// most: of these the ones that were not used for longest. ErrNotFound if there is no such user.
func (tx *Tx) CreateRefreshToken(t RefreshToken, expired time.Time, most int) error {
	u, err := tx.User(t.User)
	if err != nil {
		return err
	}
	if _, err := tx.run(`DELETE FROM refresh_tokens WHERE user_id = ? AND (used_at < ? OR used_at > ?)`, u.ID, micros(expired), tx.ahead()); err != nil {
		return err
	}
	if _, err := tx.run(`DELETE FROM refresh_tokens WHERE id IN (SELECT id FROM refresh_tokens WHERE user_id = ? ORDER BY used_at DESC, id LIMIT -1 OFFSET ?)`,
		u.ID, most-1); err != nil {
		return err
	}
	_, err = tx.run(`INSERT INTO refresh_tokens (id, user_id, api_token, client, address, created_at, used_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		t.ID, u.ID, t.APIToken, t.Client, t.Address, micros(tx.Now), micros(tx.Now))
	return err
}

const refreshTokenQuery = `SELECT r.id, u.name, r.api_token, r.client, r.address, r.created_at, r.used_at FROM refresh_tokens r JOIN users u ON u.id = r.user_id `

func (tx *Tx) refreshTokens(query string, args ...any) (list []RefreshToken, err error) {
	err = tx.rows(refreshTokenQuery+query, args, func(r *sql.Rows) error {
		var t RefreshToken
		var created, used int64
		err := r.Scan(&t.ID, &t.User, &t.APIToken, &t.Client, &t.Address, &created, &used)
		t.CreatedAt, t.UsedAt = fromMicros(created), fromMicros(used)
		list = append(list, t)
		return err
	})
	return list, err
}

// RefreshToken returns a family. ErrNotFound.
func (tx *Tx) RefreshToken(id string) (RefreshToken, error) {
	list, err := tx.refreshTokens(`WHERE r.id = ?`, id)
	if err == nil && len(list) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return RefreshToken{}, err
	}
	return list[0], nil
}

// RefreshTokens returns up to limit families after an id that were used since a time, those of a user or, if user is empty,
// of all.
func (tx *Tx) RefreshTokens(user string, since time.Time, after string, limit int) ([]RefreshToken, error) {
	return tx.refreshTokens(`WHERE r.id > ? AND ? IN ('', u.name) AND r.used_at > ? ORDER BY r.id LIMIT ?`, after, user, micros(since), limit)
}

// UsedRefreshToken notes that a family was used.
func (tx *Tx) UsedRefreshToken(id string) error {
	_, err := tx.run(`UPDATE refresh_tokens SET used_at = ? WHERE id = ?`, micros(tx.Now), id)
	return err
}

// DeleteRefreshToken ends a family of a user. ErrNotFound.
func (tx *Tx) DeleteRefreshToken(user, id string) error {
	n, err := tx.run(`DELETE FROM refresh_tokens WHERE id = ? AND user_id = (SELECT id FROM users WHERE name = ?)`, id, user)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// DeleteRefreshTokens ends every family of a user.
func (tx *Tx) DeleteRefreshTokens(userID int64) error {
	_, err := tx.run(`DELETE FROM refresh_tokens WHERE user_id = ?`, userID)
	return err
}

// DeleteRefreshTokensOf ends the families that an API token of a user got.
func (tx *Tx) DeleteRefreshTokensOf(user, apiToken string) error {
	_, err := tx.run(`DELETE FROM refresh_tokens WHERE user_id = (SELECT id FROM users WHERE name = ?) AND api_token = ?`, user, apiToken)
	return err
}

// CountTokens returns how many API tokens and families of refresh tokens there are.
func (tx *Tx) CountTokens() (n int64, err error) {
	err = tx.row(`SELECT (SELECT count(*) FROM api_tokens) + (SELECT count(*) FROM refresh_tokens)`, nil, &n)
	return n, err
}

// EndTokens ends every token of every user, bearer tokens included: no key is left that signed one, and each user has
// another generation.
func (tx *Tx) EndTokens() error {
	if err := tx.runAll(nil, `DELETE FROM api_tokens`, `DELETE FROM refresh_tokens`, `DELETE FROM signing_keys`); err != nil {
		return err
	}
	ids, err := tx.ints(`SELECT id FROM users`)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := tx.run(`UPDATE users SET generation = ? WHERE id = ?`, rand.Int64(), id); err != nil {
			return err
		}
	}
	return tx.policyChanged(tx.Audit(Event{Action: "end tokens", Detail: "of all users, after a backup was restored"}))
}

// LoggedInFrom says whether a user has logged in from a network before.
func (tx *Tx) LoggedInFrom(name, network string) (known bool, err error) {
	err = tx.row(`SELECT EXISTS (SELECT 1 FROM login_networks n JOIN users u ON u.id = n.user_id WHERE u.name = ? AND n.network = ?)`,
		[]any{name, network}, &known)
	return known, err
}

// AddLoginNetwork notes that a user has logged in from a network. Only the last most networks are kept.
func (tx *Tx) AddLoginNetwork(userID int64, network string, most int) error {
	if _, err := tx.run(`INSERT INTO login_networks (user_id, network, used_at) VALUES (?, ?, ?)
		ON CONFLICT (user_id, network) DO UPDATE SET used_at = excluded.used_at`, userID, network, micros(tx.Now)); err != nil {
		return err
	}
	if _, err := tx.run(`DELETE FROM login_networks WHERE user_id = ? AND used_at > ?`, userID, tx.ahead()); err != nil {
		return err // they would be the last for long
	}
	_, err := tx.run(`DELETE FROM login_networks WHERE user_id = ? AND network IN
		(SELECT network FROM login_networks WHERE user_id = ? ORDER BY used_at DESC, network LIMIT -1 OFFSET ?)`, userID, userID, most)
	return err
}

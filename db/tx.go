package db

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/jmoiron/sqlx"
)

// Tx is a transaction, and the home of every query. It is valid until the function it was handed to returns, and only
// on that goroutine.
type Tx struct {
	conn *conn
	Now  time.Time // of everything this transaction writes

	single bool // of Lookup: there is no transaction around the statement
	spent  bool // and it has run

	sums               sums
	newest, newestSize int64 // the blob that this transaction recorded last, while no repository has it
}

var errSpent = errors.New("a lookup is one statement: use View")

func (tx *Tx) stmt(query string) (*sqlx.Stmt, error) {
	if tx.single && tx.spent {
		return nil, errSpent
	}
	tx.spent = true
	return tx.conn.stmt(query)
}

// Version returns a number that is another one whenever another process has committed since.
func (tx *Tx) Version() (n int64, err error) {
	err = tx.row(`PRAGMA data_version`, nil, &n)
	return n, err
}

// asInt is how a bool is stored: not every driver takes one for a column of integers.
func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// micros is how times are stored.
func micros(t time.Time) int64 { return t.UnixMicro() }

func fromMicros(n int64) time.Time { return time.UnixMicro(n).UTC() }

// row runs a query that has one row and scans its columns. ErrNotFound if it has none.
func (tx *Tx) row(query string, args []any, dest ...any) error {
	s, err := tx.stmt(query)
	if err != nil {
		return err
	}
	return wrap(s.Stmt.QueryRowContext(context.Background(), args...).Scan(dest...))
}

// rows runs a query and calls scan for each of its rows, until scan returns an error.
func (tx *Tx) rows(query string, args []any, scan func(*sql.Rows) error) error {
	s, err := tx.stmt(query)
	if err != nil {
		return err
	}
	rows, err := s.Stmt.QueryContext(context.Background(), args...)
	if err != nil {
		return wrap(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return wrap(rows.Err())
}

// run executes a statement and returns how many rows it changed.
func (tx *Tx) run(query string, args ...any) (int64, error) {
	s, err := tx.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := s.Stmt.ExecContext(context.Background(), args...)
	if err != nil {
		return 0, wrap(err)
	}
	return res.RowsAffected()
}

// runAll executes statements that take the same arguments.
func (tx *Tx) runAll(args []any, queries ...string) error {
	for _, q := range queries {
		if _, err := tx.run(q, args...); err != nil {
			return err
		}
	}
	return nil
}

// strings collects a query of one text column.
func (tx *Tx) strings(query string, args ...any) (list []string, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var s string
		err := r.Scan(&s)
		list = append(list, s)
		return err
	})
	return list, err
}

// ints collects a query of one integer column.
func (tx *Tx) ints(query string, args ...any) (list []int64, err error) {
	err = tx.rows(query, args, func(r *sql.Rows) error {
		var n int64
		err := r.Scan(&n)
		list = append(list, n)
		return err
	})
	return list, err
}

package db

import (
	"context"
	"fmt"
	"strings"

	"github.com/jmoiron/sqlx"
)

// conn is one connection with the statements prepared on it. One goroutine uses it at a time.
//
// Statements run without the caller's context: they are short, and the driver pays for a cancellable one with a
// goroutine. Callers look at their context between statements, where it matters.
type conn struct {
	*sqlx.Conn
	statements map[string]*sqlx.Stmt
}

func (d *DB) connect(ctx context.Context, pragmas []string) (*conn, error) {
	sc, err := d.pool.Connx(ctx)
	if err != nil {
		return nil, wrap(err)
	}
	c := &conn{Conn: sc, statements: map[string]*sqlx.Stmt{}}
	for _, p := range pragmas {
		if _, err := sc.ExecContext(ctx, "PRAGMA "+p); err != nil {
			c.close()
			return nil, wrap(err)
		}
	}
	return c, nil
}

// stmt returns query prepared on this connection. Queries are constants of this package, so the map stays small.
func (c *conn) stmt(query string) (*sqlx.Stmt, error) {
	if s := c.statements[query]; s != nil {
		return s, nil
	}
	s, err := c.PreparexContext(context.Background(), planOnce(query))
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", query, wrap(err))
	}
	c.statements[query] = s
	return s, nil
}

// planOnce hides from SQLite that a limit is a parameter. It would plan for its value, anew whenever one is bound.
func planOnce(query string) string { return strings.ReplaceAll(query, "LIMIT ?", "LIMIT +?") }

func (c *conn) exec(query string) error {
	s, err := c.stmt(query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(context.Background())
	return wrap(err)
}

func (c *conn) close() {
	for _, s := range c.statements {
		s.Close()
	}
	c.Close()
}

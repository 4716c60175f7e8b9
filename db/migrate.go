package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

const (
	// schemaVersion is the version of schema.sql, stored in PRAGMA user_version.
	schemaVersion = 1
	// applicationID marks the file as a registry's: "regi", stored in PRAGMA application_id.
	applicationID = 0x72656769
	// oldestSQLite is the first version without the bug that lost pages when the log was reset beside a reader.
	oldestSQLite = "3.51.3"
)

// prepare brings a new database to the schema and refuses one that this program must not write to.
func prepare(ctx context.Context, c *conn, schema string) error {
	var sqlite string
	if err := c.GetContext(ctx, &sqlite, "SELECT sqlite_version()"); err != nil {
		return wrap(err)
	}
	if number(sqlite) < number(oldestSQLite) {
		return fmt.Errorf("SQLite %s is too old, want %s or newer: it can lose writes", sqlite, oldestSQLite)
	}
	// One process at a time: two that start on a new file would both write the schema.
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := upgrade(ctx, c, schema); err != nil {
		c.exec("ROLLBACK")
		return err
	}
	return c.exec("COMMIT")
}

// number makes versions of three parts comparable.
func number(version string) (n int) {
	var major, minor, patch int
	fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch)
	return (major*1000+minor)*1000 + patch
}

func upgrade(ctx context.Context, c *conn, schema string) error {
	var version, application, tables int
	err := errors.Join(
		c.GetContext(ctx, &version, "PRAGMA user_version"),
		c.GetContext(ctx, &application, "PRAGMA application_id"),
		c.GetContext(ctx, &tables, "SELECT count(*) FROM sqlite_schema"))
	if err != nil {
		return wrap(err)
	}
	switch {
	case tables == 0 && version == 0 && application == 0:
		setup := fmt.Sprintf("%s\n;PRAGMA user_version = %d; PRAGMA application_id = %d", schema, schemaVersion, applicationID)
		_, err := c.ExecContext(ctx, setup)
		return wrap(err)
	case application != applicationID:
		return errors.New("this SQLite file is not a registry's database")
	case version > schemaVersion:
		return fmt.Errorf("schema version %d was written by a newer program, this one knows %d: run the newer one", version, schemaVersion)
	case version < schemaVersion:
		return fmt.Errorf("%w: schema version %d", ErrCorrupt, version)
	}
	return inspect(ctx, c)
}

// inspect looks for damage and for statistics. With statistics present the planner prepares every join again at each
// call, three times slower, so nothing may ever run ANALYZE on this file.
func inspect(ctx context.Context, c *conn) error {
	var statistics int
	if err := c.GetContext(ctx, &statistics, "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'"); err != nil {
		return wrap(err)
	}
	if statistics != 0 {
		return errors.New("the database has been analysed, which slows every query down: DROP TABLE sqlite_stat1 and sqlite_stat4")
	}
	// Reading every page finds every damage that SQLite can see, but would take minutes on a large file.
	var pages int
	if err := c.GetContext(ctx, &pages, "PRAGMA page_count"); err != nil {
		return wrap(err)
	}
	const small = 16 << 20 / 4096
	if pages > small {
		return nil
	}
	var problems []string
	if err := c.SelectContext(ctx, &problems, "PRAGMA quick_check(5)"); err != nil {
		return wrap(err)
	}
	if len(problems) != 1 || problems[0] != "ok" {
		return fmt.Errorf("%w: %s", ErrCorrupt, strings.Join(problems, "; "))
	}
	return nil
}

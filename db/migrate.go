package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

const (
	// schemaVersion is the version of schema.sql, stored in PRAGMA user_version.
	schemaVersion = 5
	// applicationID marks the file as a registry's: "regi", stored in PRAGMA application_id.
	applicationID = 0x72656769
	// oldestSQLite is the first version without the bug that lost pages when the log was reset beside a reader.
	oldestSQLite = "3.51.3"
)

// steps lead from each version of the schema to the next: steps[0] from 1 to 2. Each released schema stays in testdata,
// where a test compares what its steps make of it with schema.sql.
var steps = []string{`
	ALTER TABLE blobs ADD COLUMN stamp INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE blobs ADD COLUMN verified_at INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE blobs ADD COLUMN damaged_at INTEGER NOT NULL DEFAULT 0;
	UPDATE blobs SET verified_at = created_at;
	ALTER TABLE uploads ADD COLUMN created_at INTEGER NOT NULL DEFAULT 0;
	UPDATE uploads SET created_at = updated_at;
	CREATE TABLE new_manifest_blobs (
		manifest_id   INTEGER NOT NULL REFERENCES manifests (id),
		blob_id       INTEGER NOT NULL REFERENCES blobs (id),
		repository_id INTEGER NOT NULL,
		PRIMARY KEY (manifest_id, blob_id)
	) STRICT, WITHOUT ROWID;
	INSERT INTO new_manifest_blobs SELECT mb.manifest_id, mb.blob_id, m.repository_id FROM manifest_blobs mb JOIN manifests m ON m.id = mb.manifest_id;
	DROP TABLE manifest_blobs;
	ALTER TABLE new_manifest_blobs RENAME TO manifest_blobs;
	CREATE INDEX manifest_blobs_by_blob ON manifest_blobs (blob_id, repository_id);
	CREATE TABLE changes (
		id         INTEGER PRIMARY KEY,
		at         INTEGER NOT NULL,
		repository TEXT    NOT NULL,
		tag        TEXT    NOT NULL,
		before     BLOB,
		after      BLOB
	) STRICT;
	CREATE INDEX changes_by_tag ON changes (repository, tag, id);
	CREATE INDEX changes_by_time ON changes (repository, at);
	CREATE TABLE deleted_manifests (
		id         INTEGER PRIMARY KEY,
		repository TEXT    NOT NULL,
		digest     BLOB    NOT NULL,
		media_type TEXT    NOT NULL,
		deleted_at INTEGER NOT NULL,
		subject    BLOB,
		content    BLOB    NOT NULL,
		UNIQUE (repository, digest)
	) STRICT;
	CREATE INDEX deleted_manifests_by_subject ON deleted_manifests (repository, subject) WHERE subject IS NOT NULL;
	CREATE INDEX deleted_manifests_by_time ON deleted_manifests (deleted_at);
	CREATE TABLE deleted_manifest_blobs (
		deleted_id INTEGER NOT NULL REFERENCES deleted_manifests (id),
		blob_id    INTEGER NOT NULL REFERENCES blobs (id),
		PRIMARY KEY (deleted_id, blob_id)
	) STRICT, WITHOUT ROWID;
	CREATE INDEX deleted_manifest_blobs_by_blob ON deleted_manifest_blobs (blob_id);
	CREATE TABLE locks (
		name    TEXT    PRIMARY KEY,
		holder  TEXT    NOT NULL,
		purpose TEXT    NOT NULL,
		beat_at INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE TABLE notes (
		name  TEXT PRIMARY KEY,
		value TEXT NOT NULL
	) STRICT, WITHOUT ROWID;`, `
	CREATE INDEX blobs_damaged ON blobs (damaged_at) WHERE damaged_at <> 0;
	CREATE TABLE usage (
		repository_id INTEGER PRIMARY KEY,
		manifests     INTEGER NOT NULL DEFAULT 0,
		blobs         INTEGER NOT NULL DEFAULT 0,
		alone         INTEGER NOT NULL DEFAULT 0,
		unheld        INTEGER NOT NULL DEFAULT 0,
		kept          INTEGER NOT NULL DEFAULT 0
	) STRICT;
	INSERT INTO usage ` + countedUsage, `
	ALTER TABLE repositories ADD COLUMN public INTEGER NOT NULL DEFAULT 0;
	ALTER TABLE uploads ADD COLUMN owner TEXT NOT NULL DEFAULT '';
	CREATE TABLE users (
		id INTEGER PRIMARY KEY,
		name TEXT NOT NULL UNIQUE,
		password TEXT NOT NULL,
		admin INTEGER NOT NULL DEFAULT 0,
		disabled INTEGER NOT NULL DEFAULT 0,
		generation INTEGER NOT NULL,
		created_at INTEGER NOT NULL,
		last_login_at INTEGER NOT NULL DEFAULT 0
	) STRICT;
	CREATE TABLE group_members (
		group_name TEXT NOT NULL,
		user_id INTEGER NOT NULL REFERENCES users (id),
		PRIMARY KEY (group_name, user_id)
	) STRICT, WITHOUT ROWID;
	CREATE INDEX group_members_by_user ON group_members (user_id);
	CREATE TABLE grants (
		grantee TEXT NOT NULL,
		repository TEXT NOT NULL,
		actions INTEGER NOT NULL,
		created_at INTEGER NOT NULL,
		PRIMARY KEY (grantee, repository)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE api_tokens (
		id INTEGER PRIMARY KEY,
		user_id INTEGER NOT NULL REFERENCES users (id),
		name TEXT NOT NULL,
		hash BLOB NOT NULL UNIQUE,
		scopes TEXT NOT NULL,
		created_at INTEGER NOT NULL,
		expires_at INTEGER NOT NULL DEFAULT 0,
		last_used_at INTEGER NOT NULL DEFAULT 0,
		UNIQUE (user_id, name)
	) STRICT;
	CREATE TABLE signing_keys (
		id TEXT PRIMARY KEY,
		secret BLOB NOT NULL,
		created_at INTEGER NOT NULL,
		retired_at INTEGER NOT NULL DEFAULT 0
	) STRICT, WITHOUT ROWID;
	CREATE TABLE immutable_tags (
		repository TEXT NOT NULL,
		tag TEXT NOT NULL,
		created_at INTEGER NOT NULL,
		PRIMARY KEY (repository, tag)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE audit (
		id INTEGER PRIMARY KEY,
		at INTEGER NOT NULL,
		user TEXT NOT NULL,
		address TEXT NOT NULL,
		action TEXT NOT NULL,
		repository TEXT NOT NULL,
		detail TEXT NOT NULL
	) STRICT;
	CREATE INDEX audit_by_time ON audit (at);
	ALTER TABLE tags ADD COLUMN checked_at INTEGER NOT NULL DEFAULT 0;
	CREATE TABLE cached_manifests (
		manifest_id INTEGER PRIMARY KEY REFERENCES manifests (id),
		pulled_at   INTEGER NOT NULL
	) STRICT;
	CREATE INDEX cached_manifests_by_time ON cached_manifests (pulled_at);`, `
	CREATE INDEX uploads_by_owner ON uploads (owner);
	ALTER TABLE audit RENAME COLUMN user TO actor;
	CREATE INDEX repositories_public ON repositories (name) WHERE public = 1;
	CREATE INDEX grants_by_repository ON grants (repository);
	ALTER TABLE blobs ADD COLUMN session BLOB NOT NULL DEFAULT x'';
	CREATE TABLE refresh_tokens (
		id TEXT PRIMARY KEY,
		user_id INTEGER NOT NULL REFERENCES users (id),
		api_token TEXT NOT NULL,
		client TEXT NOT NULL,
		address TEXT NOT NULL,
		created_at INTEGER NOT NULL,
		used_at INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE INDEX refresh_tokens_by_user ON refresh_tokens (user_id, used_at);
	CREATE TABLE login_networks (
		user_id INTEGER NOT NULL REFERENCES users (id),
		network TEXT NOT NULL,
		used_at INTEGER NOT NULL,
		PRIMARY KEY (user_id, network)
	) STRICT, WITHOUT ROWID;
	CREATE TABLE odd_manifests (
		manifest_id INTEGER PRIMARY KEY REFERENCES manifests (id),
		digest      BLOB    NOT NULL
	) STRICT;
	CREATE INDEX odd_manifests_by_digest ON odd_manifests (digest);
	DELETE FROM notes WHERE name = 'journal'; -- it is written anew: it says more now`,
}

// prepare brings a database to the schema and refuses one that this program must not write to. An older one is copied
// to <path>.schema-<version> before it is touched, and upgraded in one transaction: cut off in the middle, it is still
// the older one.
func prepare(ctx context.Context, d *DB, c *conn, schema string) error {
	var sqlite string
	if err := c.GetContext(ctx, &sqlite, "SELECT sqlite_version()"); err != nil {
		return wrap(err)
	}
	if number(sqlite) < number(oldestSQLite) {
		return fmt.Errorf("SQLite %s is too old, want %s or newer: it can lose writes", sqlite, oldestSQLite)
	}
	if err := copyBeforeUpgrade(ctx, d, c); err != nil {
		return err
	}
	var version int
	if err := c.GetContext(ctx, &version, "PRAGMA user_version"); err != nil {
		return wrap(err)
	}
	// One process at a time: two that start on a new file would both write the schema. Where there is nothing to write
	// nobody waits, neither this one for a busy server nor the server for this one.
	begin := "BEGIN IMMEDIATE"
	if version == schemaVersion {
		begin = "BEGIN"
	}
	if err := c.exec(begin); err != nil {
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
	case version < 1:
		return fmt.Errorf("%w: schema version %d", ErrCorrupt, version)
	}
	if err := inspect(ctx, c); err != nil || version == schemaVersion {
		return err
	}
	for ; version < schemaVersion; version++ {
		if _, err := c.ExecContext(ctx, steps[version-1]); err != nil {
			return fmt.Errorf("upgrade from schema version %d: %w", version, wrap(err))
		}
	}
	_, err = c.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
	return wrap(err)
}

// errOlder means that the database has to be upgraded, and that nobody has looked yet whether an older program uses it.
var errOlder = errors.New("the database is older than the program")

// copyBeforeUpgrade copies a database that upgrade will change.
func copyBeforeUpgrade(ctx context.Context, d *DB, c *conn) error {
	var version, application int
	if err := errors.Join(c.GetContext(ctx, &version, "PRAGMA user_version"), c.GetContext(ctx, &application, "PRAGMA application_id")); err != nil {
		return wrap(err)
	}
	if application != applicationID || version < 1 || version >= schemaVersion {
		return nil
	}
	if !d.unused {
		return errOlder
	}
	to := fmt.Sprintf("%s.schema-%d", d.path, version)
	if err := snapshot(ctx, c, to, d.path); err != nil {
		return fmt.Errorf("copy before the upgrade: %w", err)
	}
	d.log.Info("the database is upgraded; the copy of the old one can be removed when all is well", "copy", to, "from", version, "to", schemaVersion)
	return nil
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

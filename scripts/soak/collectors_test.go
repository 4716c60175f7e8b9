package soak

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	registrydb "registry/db"
)

// TestRigNoticesMistakes is the proof of the rig: it must let a sound collector pass, and fail each that makes a mistake
// which collectors of registries have made.
func TestRigNoticesMistakes(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		r := newRig(t, t.TempDir())
		r.run(3*time.Second, r.start, sketch{}.collector(r))
		r.report()
	})
	for name, s := range map[string]sketch{
		"forgets the children of indexes":              {noChildren: true},
		"forgets referrers":                            {noReferrers: true},
		"does not look again before it removes":        {stale: true},
		"forgets that another repository has the blob": {oneRepository: true},
		"removes all files of a digest":                {allFiles: true},
		"removes the file before the row":              {fileFirst: true},
		"removes images that lack something":           {lacking: true},
		"ignores leases":                               {noLeases: true},
		"leaves blobs":                                 {keepBlobs: true},
		"loses a file now and then, held or not":       {lossy: true},
	} {
		t.Run(name, func(t *testing.T) {
			// Most are noticed at once, which ends the run. What is noticed only at the end is given short runs, and longer
			// ones where the machine is too slow for that.
			const enough = 2 * time.Minute
			duration := enough
			if s.keepBlobs {
				duration = 2 * time.Second
			}
			var r *rig
			for ; duration <= enough && (r == nil || len(r.failures) == 0); duration *= 2 {
				r = newRig(t, t.TempDir())
				if s.noLeases {
					r.grace = time.Second // of which this collector knows nothing
				}
				r.run(duration, r.start, s.collector(r))
			}
			if len(r.failures) == 0 {
				t.Fatal("not noticed")
			}
			t.Log(r.failures[0])
			if strings.Contains(r.failures[0], "collector:") {
				t.Error("the mistake is another one")
			}
		})
	}
}

// sketch is a small collector in one transaction, which nobody can use beside a large registry, with mistakes to choose
// from.
type sketch struct {
	noChildren, noReferrers, stale, oneRepository, allFiles, fileFirst, lacking, keepBlobs, lossy, noLeases bool
}

// pause is what a mistake of timing needs to become one that shows.
const pause = 30 * time.Millisecond

func (s sketch) collector(r *rig) collector {
	return func() (c collected, err error) {
		ctx := context.Background()
		db, err := sql.Open("sqlite", "file:"+r.database()+"?_pragma=busy_timeout(60000)")
		if err != nil {
			return c, err
		}
		defer db.Close()
		conn, err := db.Conn(ctx)
		if err != nil {
			return c, err
		}
		defer conn.Close()
		run := func(queries ...string) {
			for _, q := range queries {
				if err == nil {
					_, err = conn.ExecContext(ctx, q)
				}
			}
		}
		var files []string
		remove := func() {
			for _, path := range files {
				generations := []string{path}
				if s.allFiles {
					time.Sleep(pause / 10)
					generations, _ = filepath.Glob(strings.TrimSuffix(path, filepath.Ext(path)) + ".*")
				}
				for _, path := range generations {
					if removing := os.Remove(path); !errors.Is(removing, os.ErrNotExist) {
						err = errors.Join(err, removing)
					}
				}
			}
		}
		list := func(query string) {
			files = nil
			if err != nil {
				return
			}
			var rows *sql.Rows
			if rows, err = conn.QueryContext(ctx, query); err != nil {
				return
			}
			defer rows.Close()
			for rows.Next() {
				var packed []byte
				var generation string
				if err = rows.Scan(&packed, &generation); err != nil {
					return
				}
				path, _ := r.file(packed, generation)
				files = append(files, path)
			}
			err = rows.Err()
		}

		run("BEGIN IMMEDIATE")
		run(s.mark()...)
		if s.fileFirst {
			list(`SELECT digest, generation FROM blobs WHERE id NOT IN (SELECT blob_id FROM repository_blobs EXCEPT SELECT blob_id FROM idle)`)
			run("COMMIT")
			remove()
			time.Sleep(pause)
			run("BEGIN IMMEDIATE", "DROP TABLE dead", "DROP TABLE idle")
			run(s.mark()...)
		}
		if s.stale {
			run("COMMIT")
			time.Sleep(pause)
			run("BEGIN IMMEDIATE")
		}
		run(
			`DELETE FROM deleted_manifest_blobs`, // nothing can be undone
			`DELETE FROM deleted_manifests`,
			`DELETE FROM tags WHERE manifest_id IN dead`,
			`DELETE FROM referrers WHERE manifest_id IN dead`,
			`DELETE FROM manifest_children WHERE manifest_id IN dead OR child_id IN dead`,
			`DELETE FROM manifest_blobs WHERE manifest_id IN dead`,
			`DELETE FROM missing_references WHERE manifest_id IN dead`,
			`DELETE FROM odd_manifests WHERE manifest_id IN dead`,
			`DELETE FROM manifests WHERE id IN dead`,
			`DELETE FROM repository_blobs WHERE (repository_id, blob_id) IN idle`)
		switch {
		case s.keepBlobs:
		case s.oneRepository:
			list(`DELETE FROM blobs WHERE id IN (SELECT blob_id FROM idle) RETURNING digest, generation`)
		default:
			list(`DELETE FROM blobs WHERE id NOT IN (SELECT blob_id FROM repository_blobs) RETURNING digest, generation`)
		}
		if err == nil {
			err = conn.QueryRowContext(ctx, "SELECT count(*) FROM dead").Scan(&c.Manifests)
		}
		run("COMMIT")
		c.Blobs = int64(len(files))
		remove()
		if s.lossy {
			list(`SELECT digest, generation FROM blobs ORDER BY random() LIMIT 1`)
			remove()
		}
		return c, errors.Join(err, r.repairUsage(ctx))
	}
}

// repairUsage adds up what the sketch has not kept: what du shows is none of its mistakes.
func (r *rig) repairUsage(ctx context.Context) error {
	d, err := registrydb.Open(ctx, registrydb.Options{Path: r.database()})
	if err != nil {
		return err
	}
	return errors.Join(d.RepairUsage(ctx), d.Close())
}

// mark finds the manifests that can go, and the blobs that nothing else in their repository holds.
func (s sketch) mark() []string {
	live := `WITH RECURSIVE live(id) AS (SELECT manifest_id FROM tags`
	if !s.noChildren {
		live += ` UNION SELECT c.child_id FROM live JOIN manifest_children c ON c.manifest_id = live.id`
	}
	if !s.noReferrers {
		live += ` UNION SELECT f.manifest_id FROM live JOIN manifests s ON s.id = live.id
			JOIN referrers f ON f.repository_id = s.repository_id AND f.subject = s.digest`
	}
	dead := live + `) SELECT id FROM manifests WHERE id NOT IN live`
	if s.lacking {
		dead += ` OR id IN (SELECT manifest_id FROM missing_references)`
	}
	return []string{
		`CREATE TEMP TABLE dead AS ` + dead,
		`CREATE TEMP TABLE idle AS SELECT repository_id, blob_id FROM repository_blobs l WHERE NOT EXISTS (
			SELECT 1 FROM manifest_blobs mb JOIN manifests m ON m.id = mb.manifest_id
			WHERE mb.blob_id = l.blob_id AND m.repository_id = l.repository_id AND m.id NOT IN dead)`,
	}
}

package db

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPlans sees that what every pull and every list asks is answered from an index, in its order, however large the
// tables are: a plan that scans or sorts would only be noticed on a large registry.
func TestPlans(t *testing.T) {
	d := openHere(t, filepath.Join(t.TempDir(), "reg.db"))
	defer d.Close()
	one := []byte{packedSHA256}
	recorded := map[string]bool{}
	tx := &Tx{conn: <-d.readers}
	defer func() { d.readers <- tx.conn }()
	for name, run := range map[string]func(){
		"manifest by tag":    func() { tx.StatTaggedManifest("a", "b") },
		"manifest by digest": func() { tx.manifest(manifestColumns+manifestByDigest, false, "a", one) },
		"blob":               func() { tx.Blob("a", "sha256:"+digestOfNothing) },
		"blob is held":       func() { tx.BlobIsHeld(Blob{}) },
		"blob somewhere":     func() { tx.BlobSomewhere("sha256:" + digestOfNothing) },
		"tags":               func() { tx.Tags(1, "", 1) },
		"tag infos":          func() { tx.TagInfos(1, "", 1) },
		"repositories":       func() { tx.Repositories("", 1) },
		"referrers":          func() { tx.Referrers("a", "sha256:"+digestOfNothing, "", "", func(Referrer) bool { return true }) },
		"referrers, filter":  func() { tx.Referrers("a", "sha256:"+digestOfNothing, "x", "", func(Referrer) bool { return true }) },
		"unlisted children":  func() { tx.UnlistedChildren(Manifest{}, "sha256:"+digestOfNothing, "") },
		"upload":             func() { tx.Upload("a", "b") },
		"refresh token":      func() { tx.RefreshToken("a"); tx.DeleteRefreshTokensOf("a", "b") },
		"refresh tokens":     func() { tx.CreateRefreshToken(RefreshToken{}, d.now(), 1) },
		"networks":           func() { tx.LoggedInFrom("a", "b"); tx.AddLoginNetwork(1, "a", 1) },
		"uploads":            func() { tx.CountUploads("a", "b") },
		"blob visibilities":  func() { tx.BlobVisibilities("sha256:"+digestOfNothing, 0, 1) },
		"idle uploads":       func() { tx.IdleUploads(d.now(), 1) },
		"idle blobs":         func() { tx.IdleBlobs(1, 1, Cutoff{}, 1) },
		"idle blob again":    func() { tx.UnlinkIdle(Idle{}, Cutoff{}) },
		"loose blobs":        func() { tx.LooseBlobs(1, Cutoff{}, 1) },
		"loose blob again":   func() { tx.RemoveLoose(1, Cutoff{}) },
		"untagged manifests": func() { tx.UntaggedManifests(1, Cutoff{}, 1) },
		"holders":            func() { tx.Holders(1, Cutoff{}, 1) },
		"dangling referrers": func() { tx.DanglingReferrers(1, Cutoff{}, 1) },
		"dangling again":     func() { tx.Dangling(1, Cutoff{}) },
		"file is stored":     func() { tx.IsStored("sha256:"+digestOfNothing, "") },
		"stored blobs":       func() { tx.StoredBlobs(1, 1) },
		"changes":            func() { tx.Changes(1, 1) },
		"tag changes":        func() { tx.TagChanges("a", "b", 1, 1) },
		"expired deletions":  func() { tx.ExpiredDeletions(d.now(), 1) },
		"tags of a blob":     func() { tx.TagsOfBlob(1, 1); tx.TagsNeedingBlob(1, 1, 1) },
		"usage of a tag":     func() { tx.TagUsage(1) },
		"checked at":         func() { tx.CheckedAt("a", "b") },
		"missers":            func() { tx.Missers("a", "sha256:"+digestOfNothing, 1) },
		"oldest cached":      func() { tx.OldestCached(Idle{}, 1) },
		"may evict":          func() { tx.MayEvict(Idle{}) },
		"empty repositories": func() { tx.EmptyRepositories(1, Cutoff{}, 1) },
		"usage":              func() { tx.RepositoryUsages("", 1); tx.RepositoryUsage("a") },
		"inventory":          func() { tx.ManifestDigests(1); tx.BlobDigests(1) },
		"sums": func() {
			tx.counted(1)
			tx.countUnlinked(1, "")
			tx.countUnheld(1, true)
			tx.countForgotten(1)
			tx.countLink(1, 1)
		},
	} {
		run()
		for query := range tx.conn.statements {
			if recorded[query] {
				continue
			}
			recorded[query] = true
			for _, step := range plan(t, tx.conn, query) {
				if isScan(step) || strings.Contains(step, "TEMP B-TREE") && !strings.Contains(query, "DISTINCT") {
					t.Errorf("%s: %s\n%s", name, step, query)
				}
			}
		}
	}
}

// isScan says whether a step reads all of a table. What a query has collected so far may be read whole.
func isScan(step string) bool {
	what, found := strings.CutPrefix(step, "SCAN ")
	return found && !slices.Contains([]string{"CONSTANT ROW", "owners", "h", "up", "held", "i", "blob", "manifest"}, what)
}

const digestOfNothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func plan(t *testing.T, c *conn, query string) (steps []string) {
	t.Helper()
	rows, err := c.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+planOnce(query), make([]any, strings.Count(query, "?"))...)
	if err != nil {
		t.Fatal(query, err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, step)
	}
	return steps
}

// Removing a row looks for what refers to it. Without an index that begins with the reference it would read the whole
// table, for each row.
func TestReferencesHaveIndexes(t *testing.T) {
	d := openHere(t, filepath.Join(t.TempDir(), "reg.db"))
	defer d.Close()
	var bad []string
	c := <-d.readers
	defer func() { d.readers <- c }()
	err := c.SelectContext(t.Context(), &bad, `
		SELECT t.name || '.' || f."from" FROM pragma_table_list t JOIN pragma_foreign_key_list(t.name) f
		WHERE t.schema = 'main' AND NOT EXISTS (SELECT 1 FROM pragma_index_list(t.name) i JOIN pragma_index_info(i.name) x WHERE x.seqno = 0 AND x.name = f."from")
		AND NOT EXISTS (SELECT 1 FROM pragma_table_info(t.name) k WHERE k.name = f."from" AND k.pk = 1)`)
	if err != nil || len(bad) > 0 {
		t.Error(bad, err)
	}
}

// What was deleted is looked for among all that was deleted, in a write transaction; what is public among all that is not.
func TestUndoPlans(t *testing.T) {
	d := openHere(t, filepath.Join(t.TempDir(), "reg.db"))
	defer d.Close()
	tx := &Tx{conn: <-d.readers}
	defer func() { d.readers <- tx.conn }()
	for want, run := range map[string]func(){
		"SEARCH r USING COVERING INDEX repositories_public (name>?)":                                     func() { tx.PublicRepositories("a", 1) },
		"SEARCH changes USING INDEX changes_by_time (repository=? AND at=?)":                             func() { tx.TagsLostAt("a", "sha256:"+digestOfNothing, d.now()) },
		"SEARCH deleted_manifests USING INDEX deleted_manifests_by_subject (repository=? AND subject=?)": func() { tx.DeletedReferrers("a", "sha256:"+digestOfNothing) },
	} {
		for query := range tx.conn.statements {
			delete(tx.conn.statements, query)
		}
		run()
		for query := range tx.conn.statements {
			if got := plan(t, tx.conn, query); got[0] != want {
				t.Errorf("%q\n%s", got, query)
			}
		}
	}
}

package soak

import (
	"database/sql"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	_ "modernc.org/sqlite"
)

// checkEverything pulls all that is live, when nobody works any more. After a failure it counts what is broken, so that
// one can tell a lost layer from a lost repository.
func (c *client) checkEverything() {
	c.rig.count("live manifests at the end", int64(len(c.live)))
	for tag, m := range c.tags {
		if err := c.check(m, tag); err != nil {
			c.rig.fail("at the end: %v", err)
		}
	}
	for d, m := range c.live {
		if err := c.check(m, d.String()); err != nil {
			c.rig.fail("at the end: %v", err)
		}
	}
}

// checkDisk holds the database against the files, and both against what is live. The server has ended.
func (r *rig) checkDisk(list []*client) {
	db, err := sql.Open("sqlite", r.database())
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	files := r.checkRows(db)
	if err := r.checkFiles(files); err != nil {
		r.fail("blob directory: %v", err)
	}
	manifests, blobs := map[string]bool{}, map[digest.Digest]bool{}
	for _, c := range list {
		for _, m := range c.live {
			manifests[c.repo+m.digest.String()] = true
			for _, b := range m.blobs {
				blobs[b.digest] = true
			}
		}
	}
	var haveManifests, haveBlobs, links int
	for query, dest := range map[string]*int{
		"SELECT count(*) FROM manifests": &haveManifests,
		"SELECT count(*) FROM blobs":     &haveBlobs,
		"SELECT count(*) FROM manifest_blobs WHERE blob_id NOT IN (SELECT id FROM blobs)": &links,
	} {
		if err := db.QueryRow(query).Scan(dest); err != nil {
			r.t.Fatal(err)
		}
	}
	if links > 0 {
		r.fail("%d manifests hold a blob that has no row", links)
	}
	// Deleted content is gone from the disk within the grace, which there was none of, and one collection.
	if !r.loose && (haveManifests != len(manifests) || haveBlobs != len(blobs)) {
		r.fail("after the last collection there are %d manifests and %d blobs, but %d and %d live",
			haveManifests, haveBlobs, len(manifests), len(blobs))
	}
}

// file returns the path of a blob's file, and its digest, from what the row says.
func (r *rig) file(packed []byte, generation string) (string, digest.Digest) {
	algorithm := map[byte]digest.Algorithm{1: digest.SHA256, 2: digest.SHA512}[packed[0]]
	hash := hex.EncodeToString(packed[1:])
	return filepath.Join(r.dir, "reg.db-blobs", algorithm.String(), hash[:2], hash+"."+generation), digest.NewDigestFromEncoded(algorithm, hash)
}

// checkRows sees that every row has its bytes, and returns the names of the files.
func (r *rig) checkRows(db *sql.DB) map[string]bool {
	files := map[string]bool{}
	rows, err := db.Query("SELECT digest, size, generation FROM blobs")
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var packed []byte
		var size int64
		var generation string
		if err := rows.Scan(&packed, &size, &generation); err != nil {
			r.t.Fatal(err)
		}
		path, d := r.file(packed, generation)
		content, err := os.ReadFile(path)
		if err != nil || int64(len(content)) != size || d.Algorithm().FromBytes(content) != d {
			r.fail("the row of %s has %d bytes of %d: %v", d, len(content), size, err)
		}
		files[path] = true
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
	r.count("files at the end: named by a row", int64(len(files)))
	return files
}

// checkFiles counts the files that no row names. The collector may leave them for a while, since it cannot tell them
// from a push under way.
func (r *rig) checkFiles(named map[string]bool) error {
	for _, dir := range []string{"sha256", "sha512", "uploads"} {
		err := filepath.WalkDir(filepath.Join(r.dir, "reg.db-blobs", dir), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && !named[path] {
				r.count("files at the end: without a row, in "+dir, 1)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"registry/db"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
)

const (
	manyTags = "many/tags"
	subject  = digest.Digest("sha256:0000000000000000000000000000000000000000000000000000000000000000")
)

// largeRegistry measures a registry that has had years of pushes. It is made once: each round starts a server on it.
func (x *trial) largeRegistry() {
	data, seed := filepath.Join(x.work, "large"), newImage(0)
	if _, err := os.Stat(data); err != nil {
		x.say("filling the large registry")
		x.makeLarge(data, seed)
	}
	if x.err != nil {
		x.fail(os.RemoveAll(data))
		return
	}
	begin := time.Now()
	x.serve(data, func(c *client) error { return c.pullManifest(repoOf(0), seed.tag, seed) })
	x.add(milliseconds(time.Since(begin)), "ms", "start to the first manifest, with %s blobs and tags", humanize.Comma(int64(x.rows)))
	x.pageOfTags(manyTags, names("t%07d", x.rows))
	x.pageOfCatalog(names("catalog/%06d", x.rows/10))
	// That they are a hundred different ones is enough here.
	x.pageOfReferrers(manyTags, subject, x.rows/100, func(digest.Digest) bool { return true })
}

// makeLarge pushes an image, so that there is a file beside the rows that are then written to the database, and lets a
// server settle with them.
func (x *trial) makeLarge(data string, seed *image) {
	x.serve(data, (*client).base)
	x.one(func(c *client) error { return c.pushImage(repoOf(0), "", seed) })
	if x.err == nil {
		x.server.stop()
		x.err = fill(x.context, filepath.Join(data, "reg.db"), x.rows)
	}
	x.serve(data, (*client).base)
	if x.err == nil {
		x.server.stop()
	}
}

// fill writes rows as so many pushes would have: n blobs, a thousand in each repository and ten in each manifest; n tags
// in one repository; n/10 repositories with a manifest; n/100 referrers.
func fill(ctx context.Context, path string, n int) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return err
	}
	schema, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(root)), "schema.sql"))
	if err != nil {
		return err
	}
	d, err := db.Open(ctx, db.Options{Path: path, Schema: string(schema)})
	if err != nil {
		return err
	}
	f := filler{ctx: ctx, db: d}
	f.each(n/10, func(tx *db.Tx, i int) error {
		repo, err := tx.MakeRepository(db.RepoName(fmt.Sprint("blobs/", i/100)), false)
		if err != nil {
			return err
		}
		return fillManifest(tx, repo, i)
	})
	var repo, tagged int64
	f.each(1, func(tx *db.Tx, _ int) (err error) {
		if repo, err = tx.MakeRepository(manyTags, false); err == nil {
			tagged, _, err = tx.PutManifest(manifestOf(repo, 0))
		}
		return err
	})
	f.each(n, func(tx *db.Tx, i int) error { return tx.SetTag(repo, db.Tag(fmt.Sprintf("t%07d", i)), tagged) })
	f.each(n/10, func(tx *db.Tx, i int) error {
		id, err := tx.MakeRepository(db.RepoName(fmt.Sprintf("catalog/%06d", i)), false)
		if err == nil {
			_, _, err = tx.PutManifest(manifestOf(id, 0))
		}
		return err
	})
	f.each(n/100, func(tx *db.Tx, i int) (err error) {
		m := manifestOf(repo, i+1)
		if m.ID, _, err = tx.PutManifest(m); err != nil {
			return err
		}
		descriptor := fmt.Appendf(nil, `{"mediaType":%q,"digest":%q,"size":%d}`, m.MediaType, m.Digest, len(m.Content))
		return tx.PutReferrer(m, subject, db.Referrer{Digest: m.Digest, ArtifactType: "application/vnd.bench", Descriptor: string(descriptor)})
	})
	return errors.Join(f.err, d.Close())
}

func manifestOf(repo int64, number int) db.Manifest {
	content, d := small(&blob{digest: subject, size: 1000}, nil, fmt.Sprint(number))
	return db.Manifest{RepositoryID: repo, Digest: d, MediaType: "application/vnd.oci.image.manifest.v1+json", Content: content}
}

// fillManifest writes a manifest with its ten blobs, which have no files.
func fillManifest(tx *db.Tx, repo int64, number int) error {
	id, _, err := tx.PutManifest(manifestOf(repo, number))
	var named []digest.Digest
	for i := 0; i < 10 && err == nil; i++ {
		// In order: random ones take the database several times as long.
		d := digest.Digest(fmt.Sprintf("sha256:%016x%048x", number*10+i+1, 0))
		var blob int64
		if blob, _, err = tx.PutBlob(db.NewBlob{Digest: d, Size: 1000, Generation: strings.Repeat("0", 32)}); err != nil {
			break
		}
		err = tx.LinkBlob(repo, blob, d)
		named = append(named, d)
	}
	if err != nil {
		return err
	}
	found, err := tx.FindBlobs(repo, named)
	if err == nil {
		err = tx.Hold(repo, id, db.References{Blobs: found})
	}
	if err != nil {
		return err
	}
	return tx.SetTag(repo, db.Tag(fmt.Sprint("v", number)), id)
}

// filler writes in transactions of many rows, until the first error.
type filler struct {
	ctx context.Context
	db  *db.DB
	err error
}

func (f *filler) each(n int, row func(tx *db.Tx, i int) error) {
	const batch = 1000
	for from := 0; from < n && f.err == nil; from += batch {
		f.err = f.db.Relaxed(f.ctx, func(tx *db.Tx) error {
			for i := from; i < min(n, from+batch); i++ {
				if err := row(tx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

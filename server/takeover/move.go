package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"

	"github.com/opencontainers/go-digest"
)

// removeTaken removes from the directory the repositories that were taken without a finding, and the files that are the
// registry's as well and that only these refer to. A file goes only if a manifest here needs it: nothing else keeps it
// from the next collection. Where it is not known what the rest of the directory refers to, nothing goes.
func (t *taker) removeTaken(ctx context.Context) error {
	needed, err := t.stillNeeded(ctx)
	if errors.Is(err, errUnread) && ctx.Err() == nil {
		t.found(Finding{Kind: "folder", Detail: "nothing was removed: " + err.Error()})
		return nil
	}
	if err != nil {
		return err
	}
	err = t.from.blobs(func(d digest.Digest, info fs.FileInfo) error {
		same, held, err := t.reg.IsStoredAs(ctx, d, info)
		if err = errors.Join(err, ctx.Err()); err != nil || !same {
			return err
		}
		if needed[d] || !held {
			t.report.Kept++
			return nil
		}
		t.report.Removed++
		return t.from.removeBlob(d)
	})
	for _, name := range t.done {
		if err == nil {
			err = t.from.removeRepository(name)
		}
	}
	return err
}

var errUnread = errors.New("a part of the directory cannot be read, and what it refers to is not known")

// stillNeeded are the blobs that the repositories that are left refer to, by their links or by what is in their manifests.
func (t *taker) stillNeeded(ctx context.Context) (map[digest.Digest]bool, error) {
	needed := map[digest.Digest]bool{}
	if t.unread {
		return nil, errUnread
	}
	for _, name := range t.left {
		err := t.from.references(name, func(d digest.Digest) error {
			return errors.Join(ctx.Err(), t.from.reach(d, needed))
		})
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errUnread, name, err)
		}
	}
	return needed, nil
}

// references calls fn for the digests that a repository has links for, damaged or not.
func (l *layout) references(repo string, fn func(digest.Digest) error) error {
	each := func(l link) error {
		if l.digest == "" {
			return nil
		}
		return fn(l.digest)
	}
	return errors.Join(
		l.links(layers(repo), each),
		l.links(revisions(repo), each),
		l.tags(repo, func(_ string, to link) error { return each(to) }))
}

// anyDigest is a digest as the manifests of all formats spell it.
var anyDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}`)

// reach adds a blob to needed, and everything that it names if it may be a manifest, of whatever format.
func (l *layout) reach(d digest.Digest, needed map[digest.Digest]bool) error {
	for todo := []digest.Digest{d}; len(todo) > 0; {
		d, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if needed[d] {
			continue
		}
		needed[d] = true
		content, err := l.small(d)
		if err != nil {
			return err
		}
		for _, named := range anyDigest.FindAllString(content, -1) {
			todo = append(todo, digest.Digest(named))
		}
	}
	return nil
}

// small returns the content of a blob that has the size of a manifest, "" for any other and for one that is missing.
func (l *layout) small(d digest.Digest) (string, error) {
	f, info, err := l.open(data(d))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info.Size() > maxManifest {
		return "", nil
	}
	content, err := io.ReadAll(f)
	return string(content), err
}

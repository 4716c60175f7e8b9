package takeover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"registry/server/registry"

	"github.com/opencontainers/go-digest"
)

// layout is a storage directory of distribution, from the folder down that has blobs and repositories:
//
//	blobs/<algorithm>/<first 2 digits of the hash>/<hash>/data
//	repositories/<name>/_manifests/revisions/<algorithm>/<hash>/link
//	repositories/<name>/_manifests/tags/<tag>/current/link
//	repositories/<name>/_layers/<algorithm>/<hash>/link
//
// A link is a file with a digest in it. A folder without one is what a deletion left. Nothing outside the folder is
// read, whatever symbolic links say.
type layout struct {
	root *os.Root
}

// tops are where the folder may be in the directory that people name.
var tops = []string{".", "v2", "registry/v2", "docker/registry/v2"}

// ErrNoLayout is what a directory is refused with that is not distribution's.
var ErrNoLayout = errors.New("not a storage directory of distribution: it has no docker/registry/v2/repositories")

func openLayout(dir string) (*layout, error) {
	given, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer given.Close()
	for _, top := range tops {
		root, err := given.OpenRoot(top)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if info, err := root.Stat("repositories"); err == nil && info.IsDir() {
			return &layout{root}, nil
		}
		root.Close()
	}
	return nil, fmt.Errorf("%s: %w", dir, ErrNoLayout)
}

func (l *layout) close() error { return l.root.Close() }

// folderError is why a folder cannot be listed. Others can.
type folderError struct{ error }

// each calls fn for the entries of a folder, in no order. A folder that is missing has none.
func (l *layout) each(folder string, fn func(fs.DirEntry) error) error {
	f, err := l.folder(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return folderError{err}
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(1000)
		for _, e := range entries {
			if err := fn(e); err != nil {
				return err
			}
		}
		if err == io.EOF || errors.Is(err, fs.ErrNotExist) { // fn may have removed the folder
			return nil
		}
		if err != nil {
			return folderError{err}
		}
	}
}

// folder opens a directory, and nothing that would wait for a writer.
func (l *layout) folder(name string) (*os.File, error) {
	info, err := l.root.Stat(name)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", name)
	}
	if err != nil {
		return nil, err
	}
	return l.root.Open(name)
}

// repositories calls fn for the names of repositories, as they are, and for folders that cannot be searched for more,
// with the reason. One may be in the folder of another.
func (l *layout) repositories(under string, fn func(name string, err error) error) error {
	var inner []string
	is := false
	err := l.each(path.Join("repositories", under), func(e fs.DirEntry) error {
		switch name := path.Join(under, e.Name()); {
		case e.Name() == "_manifests" || e.Name() == "_layers":
			is = true
		case e.Type()&fs.ModeSymlink != 0:
			return fn(name, errors.New("a symbolic link, which is not followed"))
		case !strings.HasPrefix(e.Name(), "_") && e.IsDir():
			inner = append(inner, name)
		}
		return nil
	})
	if errors.As(err, new(folderError)) {
		err = fn(under, err)
	}
	if err == nil && is {
		err = fn(under, nil)
	}
	for _, name := range inner {
		if err == nil {
			err = l.repositories(name, fn)
		}
	}
	return err
}

// A link is what a file of that name says.
type link struct {
	digest digest.Digest // of the link's folder; of a tag, what it points at, "" if that cannot be read
	err    error         // why the link is no good
}

// Folders of links.
func revisions(repo string) string { return path.Join("repositories", repo, "_manifests/revisions") }
func layers(repo string) string    { return path.Join("repositories", repo, "_layers") }

// links calls fn for the links in a folder that has them by digest.
func (l *layout) links(folder string, fn func(link) error) error {
	return l.each(folder, func(algorithm fs.DirEntry) error {
		return l.each(path.Join(folder, algorithm.Name()), func(hash fs.DirEntry) error {
			at := path.Join(folder, algorithm.Name(), hash.Name())
			d, err := registry.ParseDigest(algorithm.Name() + ":" + hash.Name())
			if err != nil {
				return fn(link{err: fmt.Errorf("%s: not a digest", at)})
			}
			said, err := l.read(at)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && said != d {
				err = fmt.Errorf("%s/link names %s", at, said)
			}
			return fn(link{d, err})
		})
	})
}

// tags calls fn for the tags of a repository.
func (l *layout) tags(repo string, fn func(tag string, to link) error) error {
	folder := path.Join("repositories", repo, "_manifests/tags")
	return l.each(folder, func(e fs.DirEntry) error {
		d, err := l.read(path.Join(folder, e.Name(), "current"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fn(e.Name(), link{d, err})
	})
}

// read returns the digest in the link of a folder.
func (l *layout) read(folder string) (digest.Digest, error) {
	f, _, err := l.open(path.Join(folder, "link"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<10))
	if err != nil {
		return "", err
	}
	d, err := registry.ParseDigest(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("%s/link has %.80q, which is not a digest", folder, text)
	}
	return d, nil
}

// open opens a regular file. A device or a pipe would not end.
func (l *layout) open(name string) (*os.File, fs.FileInfo, error) {
	info, err := l.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := l.root.Open(name)
	return f, info, err
}

// data is the file of a blob.
func data(d digest.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

// blobs calls fn for the blobs that have a file.
func (l *layout) blobs(fn func(d digest.Digest, info fs.FileInfo) error) error {
	return l.each("blobs", func(algorithm fs.DirEntry) error {
		return l.each(path.Join("blobs", algorithm.Name()), func(shard fs.DirEntry) error {
			return l.each(path.Join("blobs", algorithm.Name(), shard.Name()), func(hash fs.DirEntry) error {
				d, err := registry.ParseDigest(algorithm.Name() + ":" + hash.Name())
				if err != nil || shard.Name() != d.Encoded()[:2] {
					return nil
				}
				info, err := l.root.Lstat(data(d))
				if err != nil || !info.Mode().IsRegular() {
					return nil
				}
				return fn(d, info)
			})
		})
	})
}

// removeBlob removes the file of a blob, and its folders as far as they are empty then.
func (l *layout) removeBlob(d digest.Digest) error {
	file := data(d)
	err := l.root.Remove(file)
	l.root.Remove(path.Dir(file))
	l.root.Remove(path.Dir(path.Dir(file)))
	return err
}

// removeRepository removes the links of a repository, and its folders as far as they are empty then.
func (l *layout) removeRepository(name string) error {
	folder := path.Join("repositories", name)
	err := errors.Join(l.root.RemoveAll(path.Join(folder, "_manifests")), l.root.RemoveAll(path.Join(folder, "_layers")))
	l.root.Remove(path.Join(folder, "_uploads"))
	for ; folder != "repositories"; folder = path.Dir(folder) {
		if l.root.Remove(folder) != nil {
			break
		}
	}
	return err
}

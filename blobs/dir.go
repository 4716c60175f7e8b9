package blobs

import (
	"context"
	"crypto/rand"
	_ "crypto/sha256" // the algorithms that digests may name
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// stagedDir holds uploads under way, in the same file system as what they become.
const stagedDir = "uploads"

// filePerm is the mode of a file that openFile makes.
const filePerm = 0o600

// DirOptions changes what OpenDir accepts.
type DirOptions struct {
	AllowNetwork bool // a network file system, where a sync may not mean what it says
}

// Dir is a Store in a directory:
//
//	<root>/<algorithm>/<first 2 digits of the hash>/<hash>.<generation>
//	<root>/uploads/<id>
//	<root>/journal
//
// Files that have other names are nobody's business here: they are neither listed nor touched.
//
// What root makes in the directory of another user belongs to that user, who could not use it otherwise.
type Dir struct {
	root      string
	made      madeDirs
	owner     *owner // who gets what is made; nil: it stays this process's
	syncsName bool   // a sync of a file that was just renamed makes its new name durable, too
}

var (
	_ Store   = (*Dir)(nil)
	_ Linker  = (*Dir)(nil)
	_ Adopter = (*Dir)(nil)
)

// OpenDir returns the store in root and makes the directory if it is missing. It refuses a network file system unless
// told otherwise.
func OpenDir(ctx context.Context, root string, opt DirOptions) (*Dir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	d := &Dir{root: root, made: madeDirs{done: map[string]bool{}}}
	if err := d.made.ensure(root); err != nil {
		return nil, translate(err)
	}
	if d.owner, err = foreignOwner(root); err != nil {
		return nil, translate(err)
	}
	if err := d.made.ensure(filepath.Join(root, stagedDir)); err != nil {
		return nil, translate(err)
	}
	if d.syncsName, err = syncsName(root); err != nil {
		return nil, translate(err)
	}
	if opt.AllowNetwork {
		return d, nil
	}
	if name, err := NetworkFS(root); err != nil || name != "" {
		return nil, errors.Join(err, fmt.Errorf("%s is on a network file system (%s), which may lose what it says it has written: use a local disk, or allow it explicitly", root, name))
	}
	return d, nil
}

// OpenExisting returns the store in a directory that is there already, to read from.
func OpenExisting(root string) (*Dir, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(root); err != nil {
		return nil, translate(err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", root)
	}
	return &Dir{root: root, made: madeDirs{done: map[string]bool{}}}, nil
}

// IsStore says whether a directory holds a store, whatever else is in it.
func IsStore(root string) (bool, error) {
	for _, name := range []string{"sha256", "sha512", stagedDir, journalFile} {
		info, err := os.Stat(filepath.Join(root, name))
		if err == nil && info.IsDir() == (name != journalFile) {
			return true, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false, err
		}
	}
	return false, nil
}

// Identity implements Store. It is that of the directory.
func (d *Dir) Identity() (string, error) {
	id, err := identity(d.root)
	return id, translate(err)
}

// isID says whether s is an upload id. Ids become file names, so nothing else may.
func isID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}

// isDigest is Digest.Validate for the algorithms there are, without its regular expression: every read of a blob asks.
func isDigest(d digest.Digest) bool {
	algorithm, hash, _ := strings.Cut(string(d), ":")
	alg := digest.Algorithm(algorithm)
	return (alg == digest.SHA256 || alg == digest.SHA512) && len(hash) == 2*alg.Size() && strings.Trim(hash, "0123456789abcdef") == ""
}

func (d *Dir) staged(id string) (string, error) {
	if !isID(id) {
		return "", fmt.Errorf("%.40q is not an upload id", id)
	}
	return filepath.Join(d.root, stagedDir, id), nil
}

func (d *Dir) committed(name Name) (string, error) {
	if !isDigest(name.Digest) {
		return "", fmt.Errorf("%.80q is not a sha256 or sha512 digest", name.Digest)
	}
	if !isID(name.Generation) {
		return "", fmt.Errorf("%.40q is not a generation", name.Generation)
	}
	return filepath.Join(d.root, shardOf(name.Digest), name.Digest.Encoded()+"."+name.Generation), nil
}

// Stage implements Store.
func (d *Dir) Stage(ctx context.Context, id string, offset int64) (Stage, error) {
	path, err := d.staged(id)
	if err != nil {
		return nil, err
	}
	if offset == 0 {
		f, err := d.create(path)
		if err != nil {
			return nil, translate(err)
		}
		return &dirStage{f: f}, nil
	}
	f, err := openFile(path, os.O_WRONLY|noFollow)
	if err != nil {
		return nil, translate(err)
	}
	if err := cutBack(f, offset); err != nil {
		return nil, errors.Join(translate(err), f.Close())
	}
	return &dirStage{f: f, end: offset, written: offset}, nil
}

// create makes a staged file, or empties the one that is there.
func (d *Dir) create(path string) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC | noFollow
	if d.owner == nil {
		return openFile(path, flags)
	}
	f, err := openFile(path, flags|os.O_EXCL) // given away is only what was made here
	if errors.Is(err, fs.ErrExist) {
		return openFile(path, flags)
	}
	if err != nil {
		return nil, err
	}
	if err := d.owner.give(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// cutBack makes the file end at offset and be written from there.
func cutBack(f *os.File, offset int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < offset {
		return fmt.Errorf("%w: %d bytes are staged, not %d", ErrNotFound, info.Size(), offset)
	}
	if info.Size() > offset {
		if err := f.Truncate(offset); err != nil {
			return err
		}
	}
	_, err = f.Seek(offset, io.SeekStart)
	return err
}

// writeBack is how much is written before the kernel is asked to begin writing it to the disk.
const writeBack = 8 << 20

// writeSize is how much is written at a time. The page cache takes each write in pages as large as it can be had, and
// finding pages that are larger than this may cost more than all the rest.
const writeSize = 32 << 10

// dirStage writes a staged file and has the disk follow closely, so that the sync at the end of a large layer finds
// little left to do and the client is not kept waiting for it.
type dirStage struct {
	f            *os.File
	end, written int64 // offsets: of the file, and up to where it is on its way to the disk
}

func (s *dirStage) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = s.f.Write(p[n:min(n+writeSize, len(p))])
		n += m
	}
	s.end += int64(n)
	if s.end-s.written >= writeBack {
		// The window before last must be on the disk before the next begins, which bounds what is dirty. The kernel tells
		// of a page that it could not write once: told here, the sync of Commit would not hear of it.
		if lost := startWriteBack(s.f, s.written, s.end-s.written, writeBack); lost != nil {
			return n, fmt.Errorf("%w: %w", ErrLost, translate(lost))
		}
		s.written = s.end
	}
	return n, translate(err)
}

func (s *dirStage) Close() error { return translate(s.f.Close()) }

// Commit implements Store.
func (d *Dir) Commit(ctx context.Context, id string, name Name, size int64) (stamp int64, err error) {
	from, err := d.staged(id)
	if err != nil {
		return 0, err
	}
	to, err := d.committed(name)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	info, err := d.publish(from, to, size)
	return info.Stamp, translate(err)
}

// stamp makes an Info.Stamp of what the system knows of a file.
func stamp(parts ...uint64) int64 {
	h := fnv.New64a()
	var b [8]byte
	for _, p := range parts {
		binary.LittleEndian.PutUint64(b[:], p)
		h.Write(b[:])
	}
	return int64(max(h.Sum64(), 1))
}

// Discard implements Store.
func (d *Dir) Discard(ctx context.Context, id string) error {
	path, err := d.staged(id)
	if err != nil {
		return err
	}
	return remove(path)
}

// Link implements Linker: both names are of one file then.
func (d *Dir) Link(ctx context.Context, name Name, to Store) error {
	other, ok := to.(*Dir)
	if !ok {
		return errors.ErrUnsupported
	}
	from, err := d.committed(name)
	if err != nil {
		return err
	}
	target, err := other.committed(name)
	if err != nil {
		return err
	}
	if err := other.link(from, target); err != nil {
		return err
	}
	return translate(syncDir(filepath.Dir(target)))
}

// link gives a file a second name, which is not yet durable. A file that the owner of this directory cannot read has to be
// copied: it would be of no use here.
func (d *Dir) link(from, to string) error {
	if readable, err := d.owner.reads(from); err != nil {
		return translate(err)
	} else if !readable {
		return errors.ErrUnsupported
	}
	if err := d.ensureShard(filepath.Dir(to)); err != nil {
		return translate(err)
	}
	err := os.Link(from, to)
	var why *os.LinkError
	if errors.As(err, &why) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) && !isFull(err) {
		return errors.ErrUnsupported // another file system, or one that knows no links
	}
	return translate(err)
}

// Adopt implements Adopter. The bytes are synced, too: who wrote them may not have done so.
func (d *Dir) Adopt(ctx context.Context, file *os.File, name Name) (Info, error) {
	to, err := d.committed(name)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Info{}, err
	}
	if err := d.link(file.Name(), to); err != nil {
		return Info{}, err
	}
	err = isFile(file, to)
	if err == nil {
		err = errors.Join(file.Sync(), syncDir(filepath.Dir(to)))
	}
	var info Info
	if err == nil {
		info, err = statPath(to)
	}
	if err != nil {
		os.Remove(to)
	}
	return info, translate(err)
}

// isFile says whether path is a name of the file that is open, and not of what came into its place since.
func isFile(file *os.File, path string) error {
	opened, err := file.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(path)
	if err == nil && (!named.Mode().IsRegular() || !os.SameFile(opened, named)) {
		err = fmt.Errorf("%s is no regular file, or was replaced at this moment", file.Name())
	}
	return err
}

// OpenStaged implements StagedReader.
func (d *Dir) OpenStaged(ctx context.Context, id string) (StagedFile, error) {
	path, err := d.staged(id)
	if err != nil {
		return nil, err
	}
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, translate(err)
	}
	return f, nil
}

// Open implements Store. The File is an *os.File.
func (d *Dir) Open(ctx context.Context, name Name) (File, Info, error) {
	path, err := d.committed(name)
	if err != nil {
		return nil, Info{}, err
	}
	f, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, Info{}, translate(err)
	}
	info, err := statFile(f)
	if err != nil {
		return nil, Info{}, errors.Join(translate(err), f.Close())
	}
	return f, info, nil
}

// Stat implements Store.
func (d *Dir) Stat(ctx context.Context, name Name) (Info, error) {
	path, err := d.committed(name)
	if err != nil {
		return Info{}, err
	}
	info, err := statPath(path)
	return info, translate(err)
}

// Remove implements Store.
func (d *Dir) Remove(ctx context.Context, name Name) error {
	path, err := d.committed(name)
	if err != nil {
		return err
	}
	return remove(path)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return translate(err)
	}
	return nil
}

// Touch implements Toucher.
func (d *Dir) Touch(ctx context.Context, name Name) error {
	path, err := d.committed(name)
	if err != nil {
		return err
	}
	return touch(path)
}

// TouchStaged implements Toucher.
func (d *Dir) TouchStaged(ctx context.Context, id string) error {
	path, err := d.staged(id)
	if err != nil {
		return err
	}
	return touch(path)
}

func touch(path string) error {
	if err := os.Chtimes(path, time.Time{}, time.Now()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return translate(err)
	}
	return nil
}

// Names implements Store.
func (d *Dir) Names(ctx context.Context, from digest.Digest, fn func(Name, Info) error) error {
	first := ""
	if from != "" {
		first = shardOf(from)
	}
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		for n := range 256 {
			shard := filepath.Join(alg.String(), fmt.Sprintf("%02x", n))
			if shard < first {
				continue
			}
			dir := filepath.Join(d.root, shard)
			err := each(ctx, dir, func(e fs.DirEntry) error {
				hash, generation, _ := strings.Cut(e.Name(), ".")
				name := Name{Digest: digest.NewDigestFromEncoded(alg, hash), Generation: generation}
				if !isDigest(name.Digest) || !isID(generation) || shardOf(name.Digest) != shard {
					return nil
				}
				return withInfo(dir, e, func(info Info) error { return fn(name, info) })
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// shardOf is the directory of a digest, relative to the root. The order of shards is that of Names.
func shardOf(d digest.Digest) string { return filepath.Join(d.Algorithm().String(), d.Encoded()[:2]) }

// Staged implements Store.
func (d *Dir) Staged(ctx context.Context, fn func(id string, info Info) error) error {
	dir := filepath.Join(d.root, stagedDir)
	return each(ctx, dir, func(e fs.DirEntry) error {
		if !isID(e.Name()) {
			return nil
		}
		return withInfo(dir, e, func(info Info) error { return fn(e.Name(), info) })
	})
}

// each calls fn for the entries of a directory, reading them a batch at a time: there may be millions. A directory that
// is missing has none.
func each(ctx context.Context, path string, fn func(fs.DirEntry) error) error {
	const batch = 512
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return translate(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.IsDir() {
		return err
	}
	for {
		entries, err := f.ReadDir(batch)
		for _, e := range entries {
			if err := errors.Join(ctx.Err(), fn(e)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return translate(err)
		}
	}
}

// withInfo calls fn unless the file is gone since its directory was read.
func withInfo(dir string, e fs.DirEntry, fn func(Info) error) error {
	if !e.Type().IsRegular() {
		return nil
	}
	info, err := statPath(filepath.Join(dir, e.Name()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return translate(err)
	}
	return fn(info)
}

// Check implements Store.
func (d *Dir) Check(ctx context.Context) error {
	err := d.checkStaging()
	if err == nil {
		err = d.checkShards(ctx)
	}
	return translate(err)
}

// checkStaging says whether a staged file can be written.
func (d *Dir) checkStaging() error {
	f, err := os.CreateTemp(filepath.Join(d.root, stagedDir), "check-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	want := rand.Text()
	if _, err := f.WriteString(want); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != want {
		return fmt.Errorf("the store does not return what was written: %w", errors.Join(err, io.ErrUnexpectedEOF))
	}
	return nil
}

// checkShards says whether a shard can be made, and whether each that is there takes a file: another user may have made
// some of them.
func (d *Dir) checkShards(ctx context.Context) error {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		above := filepath.Join(d.root, alg.String())
		if _, err := os.Stat(above); errors.Is(err, fs.ErrNotExist) {
			above = d.root
		}
		made, err := os.MkdirTemp(above, "check-")
		if err != nil {
			return err
		}
		if err := os.Remove(made); err != nil || above == d.root {
			return err
		}
		for n := range 256 {
			err := errors.Join(ctx.Err(), takesFiles(filepath.Join(above, fmt.Sprintf("%02x", n))))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// translate puts one of this package's words before what the system said.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: %w", ErrExists, err)
	case isFull(err):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

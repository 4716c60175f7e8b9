package bundle

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// member is a file or a directory of an archive as it comes by.
type member struct {
	name string
	size int64
	dir  bool
	link string    // what a link points at: from the top of the archive, or as from
	from string    // the folder that a symbolic link is in, "" for a hard link
	body io.Reader // of a file, good until the next member
}

// target is the name of what a link points at. It may lead out of the archive.
func (m member) target() string {
	if strings.HasPrefix(m.link, "/") {
		return m.link
	}
	return path.Join(m.from, strings.TrimPrefix(m.link, "./"))
}

// source is an archive that can be read again and again.
type source interface {
	walk(ctx context.Context, fn func(member) error) error
	io.Closer
}

// open opens an archive: a directory, a file, the parts of one in any order, or "-" for stdin, which is copied to a
// temporary file in tmp first, because an archive is read twice.
func open(paths []string, stdin io.Reader, tmp string) (source, error) {
	if len(paths) == 1 && paths[0] == "-" {
		file, err := spool(stdin, tmp)
		if err != nil {
			return nil, err
		}
		return newTar([]*os.File{file})
	}
	if len(paths) == 1 {
		info, err := os.Stat(paths[0])
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			return openLayout(paths[0])
		}
	}
	set, err := findParts(paths)
	if err != nil {
		return nil, err
	}
	if err := set.complete(); err != nil {
		return nil, err
	}
	return set.open()
}

// spool copies to a temporary file that is gone when it is closed, or the process ends.
func spool(from io.Reader, tmp string) (*os.File, error) {
	file, err := temporary(tmp)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(file, from); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// asCaller runs fn with run, if there is one.
func asCaller(run func(func() error) error, fn func() error) error {
	if run == nil {
		return fn()
	}
	return run(fn)
}

func temporary(tmp string) (*os.File, error) {
	file, err := os.CreateTemp(tmp, "registry-bundle-")
	if err != nil {
		return nil, err
	}
	return file, os.Remove(file.Name())
}

// partSet are the files of one archive in their order.
type partSet struct {
	parts  map[int]string // path by number; a whole file is number 1
	beside string         // path of the parts file
	known  *Parts         // nil if there is none
}

var partName = regexp.MustCompile(`^(.+)\.([0-9]{3,6})$`)

// findParts sorts the arguments.
func findParts(paths []string) (set partSet, err error) {
	set.parts = map[int]string{}
	base := ""
	for _, path := range paths {
		number, stem := 1, path
		if s, ok := strings.CutSuffix(path, partsSuffix); ok {
			number, stem = 0, s
		} else if m := partName.FindStringSubmatch(path); m != nil {
			stem = m[1]
			number, _ = strconv.Atoi(m[2])
		}
		if base == "" {
			base = stem
		}
		switch {
		case filepath.Base(base) != filepath.Base(stem):
			return set, fmt.Errorf("%s and %s are not parts of one bundle: import one bundle at a time", base, stem)
		case number > 0 && set.parts[number] != "":
			return set, fmt.Errorf("part %d is there twice: %s, %s", number, set.parts[number], path)
		case number == 0:
			set.beside = path
		default:
			set.parts[number] = path
		}
	}
	return set, set.readBeside(base)
}

func (s *partSet) readBeside(base string) error {
	if _, err := os.Stat(base + partsSuffix); s.beside == "" && err == nil && !slices.Contains(slices.Collect(maps.Values(s.parts)), base) {
		s.beside = base + partsSuffix
	}
	if s.beside == "" {
		return nil
	}
	text, err := readLimited(s.beside, maxSmallJSON)
	if err != nil {
		return err
	}
	s.known = &Parts{}
	if err := json.Unmarshal(text, s.known); err != nil || s.known.Version != version {
		return invalid("%s: not a list of parts of version %d", s.beside, version)
	}
	return nil
}

func readLimited(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = invalid("%s is larger than %d bytes", path, limit)
	}
	return text, err
}

// complete says which parts are missing, too many, or of the wrong size.
func (s partSet) complete() error {
	wrong := s.problems(false)
	if len(wrong) > 0 {
		return invalid("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// open opens the parts as one archive.
func (s partSet) open() (source, error) {
	var files []*os.File
	for _, number := range slices.Sorted(maps.Keys(s.parts)) {
		file, err := os.Open(s.parts[number])
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		files = append(files, file)
	}
	return newTar(files)
}

// tarSource is a tar, compressed or not, in one or more files.
type tarSource struct {
	files []*os.File
	ends  []int64 // where each file ends in the whole
}

func newTar(files []*os.File) (source, error) {
	t := &tarSource{files: files}
	end := int64(0)
	for _, f := range files {
		info, err := f.Stat()
		if err == nil && !info.Mode().IsRegular() {
			err = fmt.Errorf("%s is not a file: say - to read from a pipe", f.Name())
		}
		if err != nil {
			t.Close()
			return nil, err
		}
		end += info.Size()
		t.ends = append(t.ends, end)
	}
	return t, nil
}

func (t *tarSource) Close() (err error) {
	for _, f := range t.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// ReadAt reads across the files.
func (t *tarSource) ReadAt(p []byte, at int64) (n int, err error) {
	i, _ := slices.BinarySearchFunc(t.ends, at, func(end, at int64) int {
		if end <= at {
			return -1
		}
		return 1
	})
	for ; i < len(t.files) && n < len(p); i++ {
		start := int64(0)
		if i > 0 {
			start = t.ends[i-1]
		}
		m, err := t.files[i].ReadAt(p[n:min(int64(len(p)), int64(n)+t.ends[i]-at)], at-start)
		n, at = n+m, at+int64(m)
		if at < t.ends[i] {
			return n, err
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (t *tarSource) size() int64 { return t.ends[len(t.ends)-1] }

// Bounds of what a compressed archive may ask of the reader.
const maxWindow = 128 << 20 // bytes of memory

// decompressed returns the tar. If it is not compressed the reader can seek, and members are skipped for nothing.
func (t *tarSource) decompressed() (io.Reader, func(), error) {
	whole := io.NewSectionReader(t, 0, t.size())
	var magic [4]byte
	whole.ReadAt(magic[:], 0)
	switch {
	case magic == [4]byte{0x28, 0xb5, 0x2f, 0xfd}:
		z, err := zstd.NewReader(whole, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return nil, nil, err
		}
		return bufio.NewReaderSize(z, 1<<20), z.Close, nil
	case magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := gzip.NewReader(bufio.NewReaderSize(whole, 1<<20))
		return z, func() {}, err
	}
	return whole, func() {}, nil
}

func (t *tarSource) walk(ctx context.Context, fn func(member) error) error {
	r, done, err := t.decompressed()
	if err != nil {
		return invalid("%w", err)
	}
	defer done()
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return invalid("%w", err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader { // as git archive writes; it is about the others, which say more
			continue
		}
		m, err := tarMember(header)
		if err != nil {
			return err
		}
		m.body = archive
		if err := fn(m); err != nil {
			return err
		}
	}
}

// tarMember refuses what is neither a file, a directory nor a link; scan decides on links.
func tarMember(h *tar.Header) (m member, err error) {
	m = member{name: h.Name, size: h.Size}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return m, invalid("%.200q is a sparse file", h.Name)
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		m.dir = true
	case tar.TypeSymlink:
		m.link, m.from = h.Linkname, path.Dir(cleanName(m))
	case tar.TypeLink:
		m.link, m.size = h.Linkname, 0
	case tar.TypeGNUSparse:
		return m, invalid("%.200q is a sparse file", h.Name)
	default:
		return m, invalid("%.200q is no file and no directory", h.Name)
	}
	return m, nil
}

// dirSource is a layout in a directory. Its links may lead to what is beside it, as in stores that layouts share, and no
// further: nothing outside the folder that has the layout is read.
type dirSource struct {
	*os.Root        // of the folder that has the layout
	top      string // the layout in it
}

func openLayout(dir string) (source, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, err
	}
	if root, err := os.OpenRoot(filepath.Dir(dir)); err == nil {
		return dirSource{root, filepath.Base(dir)}, nil
	}
	root, err := os.OpenRoot(dir)
	return dirSource{root, "."}, err
}

func (d dirSource) walk(ctx context.Context, fn func(member) error) error {
	return d.folder(ctx, ".", fn)
}

func (d dirSource) folder(ctx context.Context, name string, fn func(member) error) error {
	entries, err := fs.ReadDir(d.FS(), path.Join(d.top, name))
	for _, e := range entries {
		if err == nil {
			err = errors.Join(ctx.Err(), d.entry(ctx, path.Join(name, e.Name()), fn))
		}
	}
	return err
}

// entry calls fn for a file, or for a folder and what is in it. What the archive would not have is not opened.
func (d dirSource) entry(ctx context.Context, name string, fn func(member) error) error {
	k := kindOf(name)
	at := path.Join(d.top, name)
	info, err := d.Stat(at)
	if k == unknownName && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		return fn(member{name: name})
	}
	if err != nil {
		return invalid("%.200q: %w", name, err)
	}
	if info.IsDir() {
		if err := fn(member{name: name, dir: true}); err != nil {
			return err
		}
		return d.folder(ctx, name, fn)
	}
	if !info.Mode().IsRegular() {
		return invalid("%.200q is no file and no directory", name)
	}
	file, err := d.Open(at)
	if err != nil {
		return err
	}
	defer file.Close()
	return fn(member{name: name, size: info.Size(), body: file})
}

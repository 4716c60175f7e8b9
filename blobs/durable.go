package blobs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// publish is the durable write, and the only one. Its system calls are
//
//	mkdir    <root>/<algorithm>, and all <shard> in it         the first time only, each level followed by the
//	fsync    of its parent                                     so that the way to the file is on the disk
//	rename   uploads/<id> → <shard>/<hash>.<generation>        which must not exist: renameat2, or lstat before
//	open     <shard>/<hash>.<generation>                       and cut off what was not counted
//	fsync                                                      the bytes are on the disk, and their name
//	fsync    <shard>                                           only where the one before does not bring the name
//
// and the row that names the file is written after it. Until then the name stands for nothing: nobody looks for it, and
// it is never used again, so it does no harm that a power cut may leave it with half of its bytes.
//
// A sync that failed is never tried again: the kernel has dropped the pages it could not write, and a second sync would
// succeed without them. The file goes.
func (d *Dir) publish(from, to string, size int64) (Info, error) {
	shard := filepath.Dir(to)
	if err := d.ensureShard(shard); err != nil {
		return Info{}, err
	}
	if err := moveNew(from, to); err != nil {
		return Info{}, err
	}
	info, err := syncFile(to, size)
	if err == nil && !d.syncsName {
		err = syncDir(shard)
	}
	if err != nil {
		os.Remove(to)
		return Info{}, err
	}
	return info, nil
}

func syncFile(path string, size int64) (Info, error) {
	f, err := openFile(path, os.O_RDWR)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	info, err := statFile(f)
	if err != nil {
		return Info{}, err
	}
	if info.Size > size {
		// Left by a killed server, or by a chunk that was refused.
		if err = f.Truncate(size); err == nil {
			info, err = statFile(f)
		}
		if err != nil {
			return Info{}, err
		}
	}
	if info.Size != size {
		return Info{}, fmt.Errorf("%s has %d bytes, %d were received", path, info.Size, size)
	}
	return info, f.Sync()
}

// lookAndMove is moveNew where the kernel cannot be asked for both at once. Names are random, so nobody races for one.
func lookAndMove(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s: %w", to, fs.ErrExist))
	}
	return os.Rename(from, to)
}

// ensureShard makes the directory of a file and all its siblings, so that one sync does for them: a new registry would
// have one with nearly every blob.
func (d *Dir) ensureShard(shard string) error {
	if d.made.has(shard) {
		return nil
	}
	all := make([]string, 256)
	for n := range all {
		all[n] = filepath.Join(filepath.Dir(shard), fmt.Sprintf("%02x", n))
	}
	return d.made.ensure(all...)
}

// madeDirs remembers which directories are there and durable, so that a commit does not ask every time.
type madeDirs struct {
	sync.Mutex
	done map[string]bool
}

func (m *madeDirs) has(path string) bool {
	m.Lock()
	defer m.Unlock()
	return m.done[path]
}

// ensure makes directories of one parent, and that with its parents. On return nil their entries, and that of every parent
// it made, have reached the disk. Directories that were there before this process are synced once: their maker may have
// died in between.
func (m *madeDirs) ensure(paths ...string) error {
	m.Lock()
	defer m.Unlock()
	return m.ensureLocked(paths...)
}

func (m *madeDirs) ensureLocked(paths ...string) error {
	if m.done[paths[len(paths)-1]] {
		return nil
	}
	parent := filepath.Dir(paths[0])
	for _, path := range paths {
		err := makeDir(path)
		if errors.Is(err, fs.ErrNotExist) && parent != path {
			if err := m.ensureLocked(parent); err != nil {
				return err
			}
			err = makeDir(path)
		}
		if errors.Is(err, fs.ErrExist) {
			var info fs.FileInfo
			if info, err = os.Stat(path); err == nil && !info.IsDir() {
				err = fmt.Errorf("%s is not a directory", path)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	for _, path := range paths {
		m.done[path] = true
	}
	return nil
}

// makeDir makes a directory, which belongs to whom its parent belongs if root makes it.
func makeDir(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	owner, err := foreignOwner(filepath.Dir(path))
	if err != nil {
		return err
	}
	return owner.givePath(path)
}

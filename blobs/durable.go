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
//	mkdir    <root>/<algorithm>, <root>/<algorithm>/<shard>    the first time only, each followed by the
//	fsync    of its parent                                     so that the way to the file is on the disk
//	lstat    <shard>/<hash>.<generation>                       must not exist: rename would overwrite
//	rename   uploads/<id> → <shard>/<hash>.<generation>
//	open     <shard>/<hash>.<generation>
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
	if err := d.made.ensure(shard); err != nil {
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
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	info, err := statFile(f)
	if err != nil {
		return Info{}, err
	}
	if info.Size != size {
		return Info{}, fmt.Errorf("%s has %d bytes, %d were received", path, info.Size, size)
	}
	return info, f.Sync()
}

// moveNew renames a file to a name that must not be used. Names are random, so nobody races for one: the look before the
// rename guards against a broken source of randomness.
func moveNew(from, to string) error {
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s: %w", to, fs.ErrExist))
	}
	return os.Rename(from, to)
}

// madeDirs remembers which directories are there and durable, so that a commit does not ask every time.
type madeDirs struct {
	sync.Mutex
	done map[string]bool
}

// ensure makes a directory with its parents. On return nil its entry, and that of every parent it made, has reached the
// disk. A directory that was there before this process is synced once: its maker may have died in between.
func (m *madeDirs) ensure(path string) error {
	m.Lock()
	defer m.Unlock()
	return m.ensureLocked(path)
}

func (m *madeDirs) ensureLocked(path string) error {
	if m.done[path] {
		return nil
	}
	parent := filepath.Dir(path)
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := m.ensureLocked(parent); err != nil {
			return err
		}
		err = os.Mkdir(path, 0o700)
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
	if err := syncDir(parent); err != nil {
		return err
	}
	m.done[path] = true
	return nil
}

package db

import (
	"sync"

	"golang.org/x/sys/unix"
)

// logIndex is the first page of the index of a log.
type logIndex struct {
	page  []byte
	fd    int
	id    fileID
	users int
}

type fileID struct{ device, inode uint64 }

// indexes are those of the open databases, each file once: locks belong to the process, and closing a file releases those
// that SQLite has on it for whichever DB.
var indexes = struct {
	sync.Mutex
	open map[fileID]*logIndex
}{open: map[fileID]*logIndex{}}

// openIndex is called with a connection open, so that SQLite puts no other file in its place, and the result is closed
// after the last connection. It is nil if the file cannot be read.
func openIndex(path string) *logIndex {
	indexes.Lock()
	defer indexes.Unlock()
	var s unix.Stat_t
	if unix.Stat(path, &s) != nil {
		return nil
	}
	id := fileID{uint64(s.Dev), s.Ino}
	i := indexes.open[id]
	if i == nil {
		if i = mapIndex(path); i == nil {
			return nil
		}
		i.id = id
		indexes.open[id] = i
	}
	i.users++
	return i
}

func mapIndex(path string) *logIndex {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	page, err := unix.Mmap(fd, 0, unix.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil // and the file stays open, for the sake of the locks
	}
	return &logIndex{page: page, fd: fd}
}

func (i *logIndex) close() {
	indexes.Lock()
	defer indexes.Unlock()
	if i.users--; i.users == 0 {
		delete(indexes.open, i.id)
		unix.Munmap(i.page)
		unix.Close(i.fd)
	}
}

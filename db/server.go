package db

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// A server keeps the state of uploads under way in memory, so a second one on the same database would cut off what the
// first has acknowledged. ServerLock keeps it out: a lock of the operating system on a file beside the database, which
// ends with its process, however that ends, and does not depend on clocks or on process ids, which are all 1 in
// containers. The file stays when the lock is given back: removing it could take it from under another process.
type ServerLock struct{ f *os.File }

// ServerLockOptions says which database to lock.
type ServerLockOptions struct {
	Path    string             // of the SQLite file; its folder is there
	Wait    time.Duration      // for another server to end
	Waiting func(ServerHolder) // called once if there is one to wait for; may be nil
	Now     func() time.Time   // nil: time.Now
}

// ServerHolder is the process that has the lock. Its fields are zero if it has not said who it is.
type ServerHolder struct {
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// ErrServed is returned when another server has the database.
var ErrServed = errors.New("another server uses this database")

// LockServer takes the lock, or returns an error that wraps ErrServed and says who has it. errors.ErrUnsupported if the
// file system has no locks. The caller closes the lock after the database.
func LockServer(ctx context.Context, opt ServerLockOptions) (*ServerLock, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	path := realPath(opt.Path) + "-server"
	l, err := waitForServer(ctx, path, opt)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", opt.Path, err)
	}
	l.sign(opt.Now())
	return l, nil
}

// realPath follows symbolic links, as SQLite does: two names of one database have one lock.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil { // there is no database yet
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

func waitForServer(ctx context.Context, path string, opt ServerLockOptions) (*ServerLock, error) {
	const pause = 50 * time.Millisecond
	deadline := time.Now().Add(opt.Wait)
	for waiting := false; ; {
		l, err := tryServerLock(path)
		if !errors.Is(err, ErrServed) {
			return l, err
		}
		holder := readHolder(path)
		if !time.Now().Before(deadline) {
			return nil, fmt.Errorf("%w: %s", err, holder.describe(opt.Now()))
		}
		if !waiting && opt.Waiting != nil {
			opt.Waiting(holder)
		}
		waiting = true
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// tryServerLock returns ErrServed if another has the lock. The file that it has locked is the one that the path names,
// not one that was removed meanwhile.
func tryServerLock(path string) (*ServerLock, error) {
	for {
		f, err := openOwned(path, filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		l := &ServerLock{f}
		if err := lockFile(f); err != nil {
			return nil, errors.Join(err, l.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(mine, named) {
			return l, nil
		}
		l.Close()
	}
}

// sign writes into the file whose lock it is. The lock does not depend on it: a server starts on a full disk, too.
func (l *ServerLock) sign(now time.Time) {
	host, _ := os.Hostname()
	text, _ := json.Marshal(ServerHolder{Host: host, PID: os.Getpid(), Since: now.UTC()})
	n, _ := l.f.WriteAt(append(text, '\n'), 0)
	l.f.Truncate(int64(n))
}

// readHolder reads what the holder has written. It may be about to: then who it is is not known.
func readHolder(path string) (h ServerHolder) {
	const most = 4 << 10
	f, err := os.Open(path)
	if err != nil {
		return h
	}
	defer f.Close()
	if text, err := io.ReadAll(io.LimitReader(f, most)); err != nil || json.Unmarshal(text, &h) != nil {
		return ServerHolder{}
	}
	return h
}

// describe says who the holder is and for how long, unless the clock has been set back since.
func (h ServerHolder) describe(now time.Time) string {
	if h.PID == 0 {
		return "it has not said which"
	}
	who := fmt.Sprintf("process %d on %s", h.PID, h.Host)
	if age := now.Sub(h.Since); age >= 0 {
		return fmt.Sprintf("%s, for %s", who, age.Round(time.Second))
	}
	return fmt.Sprintf("%s, since %s", who, h.Since.Format(time.RFC3339))
}

// String says who the holder is.
func (h ServerHolder) String() string { return h.describe(time.Now()) }

// Close gives the lock back.
func (l *ServerLock) Close() error { return l.f.Close() }

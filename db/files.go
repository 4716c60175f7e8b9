package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// What is done to a database as a file, by those who put another in its place.

// ErrInUse means that a process has the database open.
var ErrInUse = errors.New("the database is in use: stop the server first")

// errNotAFile means that a path is that of a device, a pipe or a directory.
var errNotAFile = errors.New("is not a file")

// isFile refuses what a database cannot be or take the place of. A symbolic link is followed.
func isFile(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s %w", path, errNotAFile)
	}
	return nil
}

// Real returns where a database is, past symbolic links, so that a new one takes the place of the file and not of the
// link. It refuses what is not a file, and a link that leads nowhere.
func Real(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return path, nil
	}
	if err == nil && info.Mode()&os.ModeSymlink != 0 {
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil {
		err = isFile(path)
	}
	return path, err
}

// openOwned opens a file, making it if it is missing, for the owner of like.
func openOwned(path, like string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return os.OpenFile(path, os.O_RDWR|noFollow, 0)
	}
	if err != nil {
		return nil, err
	}
	if err := inherit(f, like); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// MakeDir makes a missing directory for its owner alone, with those above it. What root makes in another user's belongs to
// that user. On return nil the entries have reached the disk.
func MakeDir(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := MakeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(inherit(d, parent), d.Close(), syncDir(parent))
}

// Unused returns nil if no process has the database open, or there is none, or it is so damaged that nobody can.
func Unused(ctx context.Context, path string) error {
	if err := isFile(path); err != nil {
		return err
	}
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return nil
	}
	// Exclusive locking asks for a lock that every open connection stands in the way of.
	c, err := openFile(path, "busy_timeout(200)", "locking_mode(EXCLUSIVE)")
	if err != nil {
		return err
	}
	defer c.Close()
	var n int
	err = wrap(c.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&n))
	if errors.Is(err, ErrBusy) {
		return fmt.Errorf("%s: %w", path, ErrInUse)
	}
	return nil
}

// openFile opens a database that is there, whatever is in it.
func openFile(path string, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"_pragma": pragmas, "mode": {"rw"}}
	return sql.Open("sqlite", (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), OmitHost: true}).String()+"?"+q.Encode())
}

// IsEmpty says whether there is no database, or one that was made and never used.
func IsEmpty(ctx context.Context, path string) bool {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return err == nil || errors.Is(err, os.ErrNotExist)
	}
	c, err := openFile(path)
	if err != nil {
		return false
	}
	defer c.Close()
	var n int
	err = c.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM repositories) + (SELECT count(*) FROM blobs) + (SELECT count(*) FROM deleted_manifests)").Scan(&n)
	return err == nil && n == 0
}

// Retire moves a database that nobody has open out of the way, with its log, and returns its new path: "" if there was
// none.
func Retire(path, why string) (to string, err error) {
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	to = fmt.Sprintf("%s.%s-%s", path, why, time.Now().UTC().Format("20060102T150405.000"))
	for _, suffix := range []string{"-wal", "-shm", ""} { // the log first: without it the rest is an older database
		err := os.Rename(path+suffix, to+suffix)
		if err != nil && !(suffix != "" && errors.Is(err, os.ErrNotExist)) {
			return "", err
		}
	}
	return to, syncDir(filepath.Dir(path))
}

// Folded returns an error if a closed database has a log beside it. Closing folds the log in, but does not say when it
// could not: on a full disk, or because another process reads it. Without its log the file is an older database, or none.
func Folded(path string) error {
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("the log of %s is not folded in: another process has it open, or the disk is full", path)
	}
	return nil
}

// SyncClosed makes the file of a closed database durable.
func SyncClosed(path string) error {
	if err := Folded(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Install gives a closed database the name of one that is not there. On return nil that has reached the disk.
func Install(from, path string) error {
	if err := SyncClosed(from); err != nil {
		return err
	}
	if err := os.Link(from, path); err != nil { // unlike a rename it fails if the name is taken
		return err
	}
	if err := os.Remove(from); err != nil {
		return err
	}
	os.Remove(from + "-turn")
	return syncDir(filepath.Dir(path))
}

// Replace gives a closed database the name of another closed one, which is gone then. On return nil that has reached the
// disk.
func Replace(from, path string) error {
	if err := SyncClosed(from); err != nil {
		return err
	}
	for _, suffix := range []string{"-wal", "-shm"} { // a log of the old one would be taken for the new one's
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(from, path); err != nil {
		return err
	}
	os.Remove(from + "-turn")
	return syncDir(filepath.Dir(path))
}

// Discard removes a database that nobody needs, with what lies beside it.
func Discard(path string) error {
	var errs []error
	for _, suffix := range []string{"", "-wal", "-shm", "-ballast", "-ballast2", "-turn"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

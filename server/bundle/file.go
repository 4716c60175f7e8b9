package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/term"
)

// newFile is a file that gets its name when it is complete. A device or a pipe cannot be replaced: it is written to.
type newFile struct {
	*os.File
	final string      // "" for a device or a pipe
	info  os.FileInfo // of the file under its temporary name
}

// createFile begins a file that only its owner can read. A symbolic link at path is followed: what it points at is
// replaced, not the link. With onlyFile a device or a pipe is refused.
func createFile(path string, onlyFile bool) (*newFile, error) {
	final, info, err := follow(path)
	if err != nil {
		return nil, err
	}
	switch {
	case info != nil && info.IsDir():
		return nil, fmt.Errorf("%s is a directory", path)
	case info != nil && !info.Mode().IsRegular() && onlyFile:
		return nil, fmt.Errorf("%s is neither a file nor missing, as the parts of a bundle have to be", path)
	case info != nil && !info.Mode().IsRegular():
		return openDevice(final)
	}
	// What a killed process left goes. Then the file has to be a new one: another user may have put a link there, to have
	// another file overwritten.
	temporary := final + ".partial"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if info, err = file.Stat(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &newFile{File: file, final: final, info: info}, nil
}

// follow returns where a path leads, past symbolic links, and what is there: nil for nothing.
func follow(path string) (final string, info os.FileInfo, err error) {
	const links = 40 // as Linux has it
	for range links {
		info, err := os.Stat(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
		if err == nil && !info.Mode().IsRegular() {
			return path, info, nil // links of /proc to pipes lead to no path
		}
		there, err := os.Readlink(path)
		if err != nil {
			return path, info, nil
		}
		if !filepath.IsAbs(there) {
			there = filepath.Join(filepath.Dir(path), there)
		}
		path = there
	}
	return "", nil, fmt.Errorf("%s: too many symbolic links", path)
}

// ErrTerminal is returned when a bundle would be written to a terminal.
var ErrTerminal = errors.New("a bundle is no text for a terminal: write it to a file or a pipe")

func openDevice(path string) (*newFile, error) {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if term.IsTerminal(int(file.Fd())) {
		return nil, errors.Join(ErrTerminal, file.Close())
	}
	return &newFile{File: file}, nil
}

// end makes the bytes durable.
func (f *newFile) end() error {
	if f.final == "" {
		return f.Close()
	}
	return errors.Join(f.Sync(), f.Close())
}

// install gives the file its name.
func (f *newFile) install() error {
	if f.final == "" {
		return nil
	}
	if !f.isOurs() {
		return fmt.Errorf("%s was replaced while it was written: does another export write to the same file?", f.Name())
	}
	return os.Rename(f.Name(), f.final)
}

// discard removes a file that has no name so far.
func (f *newFile) discard() {
	f.Close()
	if f.final != "" && f.isOurs() {
		os.Remove(f.Name())
	}
}

func (f *newFile) isOurs() bool {
	info, err := os.Lstat(f.Name())
	return err == nil && os.SameFile(info, f.info)
}

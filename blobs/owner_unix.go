//go:build unix

package blobs

import (
	"io/fs"
	"os"
	"syscall"
)

// noFollow refuses to write through a symbolic link: the owner of the directory may have made it, and root would follow.
const noFollow = syscall.O_NOFOLLOW

// owner is the user who gets what root makes. A nil one gets nothing.
type owner struct{ uid, gid int }

// foreignOwner returns the owner of a directory if this process is root and the directory is another user's.
func foreignOwner(path string) (*owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid != 0 {
		return &owner{int(s.Uid), int(s.Gid)}, nil
	}
	return nil, nil
}

func (o *owner) give(f *os.File) error {
	if o == nil {
		return nil
	}
	return f.Chown(o.uid, o.gid)
}

// givePath gives away what this process has just made.
func (o *owner) givePath(path string) error {
	if o == nil {
		return nil
	}
	return os.Lchown(path, o.uid, o.gid)
}

// reads says whether the owner can read a file.
func (o *owner) reads(path string) (bool, error) {
	if o == nil {
		return true, nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case !ok:
		return false, nil
	case int(s.Uid) == o.uid:
		return mode&fs.FileMode(0o400) != 0, nil
	case int(s.Gid) == o.gid:
		return mode&fs.FileMode(0o040) != 0, nil
	}
	return mode&fs.FileMode(0o004) != 0, nil
}

package blobs

import (
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// startWriteBack asks the kernel to begin writing a window of the file and waits for the window before it. The error is
// that of a page which could not be written; a file system that cannot be asked is none.
func startWriteBack(f *os.File, offset, length, window int64) error {
	fd := int(f.Fd())
	err := unix.SyncFileRange(fd, offset, length, unix.SYNC_FILE_RANGE_WRITE)
	if before := offset - window; err == nil && before >= 0 {
		const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		err = unix.SyncFileRange(fd, before, window, wait)
	}
	switch err {
	case unix.EINTR, unix.ENOSYS, unix.EINVAL, unix.ESPIPE, unix.EOPNOTSUPP:
		return nil
	}
	return err
}

// openFile is os.OpenFile without the four system calls by which that finds out that a regular file cannot be waited for.
func openFile(path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, filePerm)
		if err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EINTR {
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// moveNew renames a file to a name that must not be in use: it would be a broken source of randomness, or a bug.
func moveNew(from, to string) error {
	err := unix.EINTR
	for err == unix.EINTR {
		err, _ = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE).(unix.Errno)
	}
	switch err {
	case 0:
		return nil
	case unix.EINVAL, unix.ENOSYS: // the file system, or the kernel, does not know the flag
		return lookAndMove(from, to)
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

// statFile and statPath return what the system knows of a file. Its number alone does not tell it from another one in
// its place, because a number is given again as soon as it is free: the time at which the file was made does.
func statFile(f *os.File) (Info, error) { return statx(int(f.Fd()), "", f.Name()) }

func statPath(path string) (Info, error) { return statx(unix.AT_FDCWD, path, path) }

func statx(dir int, path, name string) (Info, error) {
	var s unix.Statx_t
	const mask = unix.STATX_SIZE | unix.STATX_MTIME | unix.STATX_CTIME | unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(dir, path, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, mask, &s); err != nil {
		return Info{}, &fs.PathError{Op: "statx", Path: name, Err: err}
	}
	changed := time.Unix(s.Mtime.Sec, int64(s.Mtime.Nsec))
	if c := time.Unix(s.Ctime.Sec, int64(s.Ctime.Nsec)); c.After(changed) {
		changed = c
	}
	return Info{Size: int64(s.Size), Changed: changed, Stamp: stamp(s.Size, uint64(s.Mtime.Sec), uint64(s.Mtime.Nsec),
		s.Ino, uint64(s.Btime.Sec), uint64(s.Btime.Nsec))}, nil
}

// networkFS are the file systems that are somewhere else, by the number statfs(2) has for them.
var networkFS = map[uint32]string{
	0x6969: "nfs", 0x517b: "smb", 0xff534d42: "cifs", 0xfe534d42: "smb2", 0x01021997: "9p", 0x5346414f: "afs",
	0x00c36400: "ceph", 0x73757245: "coda", 0x0bd00bd0: "lustre", 0x65735546: "fuse", 0x01161970: "gfs2", 0x7461636f: "ocfs2",
}

// NetworkFS returns the name of the network file system path is on, "" if it is on a local disk.
func NetworkFS(path string) (name string, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return "", err
	}
	return networkFS[uint32(s.Type)], nil
}

// A file system that has a log takes a file and the names it was given into it in the order in which they came. These
// are known to: ext4 and xfs by scripts/power, the others by what they document and are tested for upstream. ext2
// shares the number of ext4, and promises nothing after a power cut whoever syncs what.
var logsNames = map[uint32]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.F2FS_SUPER_MAGIC: "f2fs",
	0x2fc12fc1: "zfs",
}

// syncsName says whether a sync of a file under root also makes the name durable that it was just renamed to.
func syncsName(root string) (bool, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(root, &s); err != nil {
		return false, err
	}
	return logsNames[uint32(s.Type)] != "", nil
}

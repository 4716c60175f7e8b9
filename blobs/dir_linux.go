package blobs

import (
	"io/fs"
	"os"
	"syscall"
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

// identity is the number of a file, which another file in its place does not have, and when the system last changed
// anything about it, its name included.
func identity(info fs.FileInfo) (inode uint64, changed time.Time) {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino, time.Unix(int64(s.Ctim.Sec), int64(s.Ctim.Nsec))
	}
	return 0, time.Time{}
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

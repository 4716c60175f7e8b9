//go:build !linux

package blobs

import (
	"io/fs"
	"os"
)

// startWriteBack does nothing where the kernel cannot be asked: the sync at the end takes longer.
func startWriteBack(*os.File, int64, int64, int64) error { return nil }

func openFile(path string, flags int) (*os.File, error) { return os.OpenFile(path, flags, filePerm) }

func moveNew(from, to string) error { return lookAndMove(from, to) }

// statFile and statPath return what is known of a file: here that is its size and when it was written.
func statFile(f *os.File) (Info, error) { return fileInfo(f.Stat()) }

func statPath(path string) (Info, error) { return fileInfo(os.Lstat(path)) }

func fileInfo(info fs.FileInfo, err error) (Info, error) {
	if err != nil {
		return Info{}, err
	}
	return Info{Size: info.Size(), Changed: info.ModTime(), Stamp: stamp(uint64(info.Size()), uint64(info.ModTime().UnixNano()))}, nil
}

// NetworkFS cannot tell here and returns "".
func NetworkFS(string) (name string, err error) { return "", nil }

// syncsName cannot tell here.
func syncsName(string) (bool, error) { return false, nil }

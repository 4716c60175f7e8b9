package blobs

import (
	"errors"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"
)

// syncDir does nothing: a directory cannot be synced on Windows, which writes its entries through.
func syncDir(string) error { return nil }

func isFull(err error) bool { return errors.Is(err, windows.ERROR_DISK_FULL) }

// takesFiles cannot tell here.
func takesFiles(string) error { return nil }

// identity is the path of a directory, past links.
func identity(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	return "directory " + strings.ToLower(path), err
}

//go:build !linux

package blobs

import "os"

// startWriteBack does nothing where the kernel cannot be asked: the sync at the end takes longer.
func startWriteBack(*os.File, int64, int64, int64) error { return nil }

// NetworkFS cannot tell here and returns "".
func NetworkFS(string) (name string, err error) { return "", nil }

//go:build unix

package db

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile locks an open file until it is closed, ErrServed if it is locked.
func lockFile(f *os.File) error {
	switch err := flock(f, unix.LOCK_EX|unix.LOCK_NB); {
	case err == unix.EWOULDBLOCK:
		return ErrServed
	case err == unix.ENOLCK, errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("lock %s: %w: %w", f.Name(), errors.ErrUnsupported, err)
	default:
		return err
	}
}

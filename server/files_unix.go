//go:build unix

package server

import (
	"math"

	"golang.org/x/sys/unix"
)

// maxFiles is how many files the process may have open. Go has raised its limit to what the system allows.
func maxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024
	}
	return int(min(uint64(limit.Cur), math.MaxInt32))
}

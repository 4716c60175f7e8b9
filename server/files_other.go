//go:build !unix

package server

import "math"

// maxFiles is how many files the process may have open: here only memory limits them.
func maxFiles() int { return math.MaxInt32 }

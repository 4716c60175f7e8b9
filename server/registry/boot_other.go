//go:build !linux

package registry

import "crypto/rand"

// bootID is new for every process here: no upload outlives the process.
func bootID() string { return rand.Text() }

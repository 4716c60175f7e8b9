package registry

import (
	"crypto/rand"
	"os"
	"strings"
)

// bootID names the time since the machine booted: what was written since then is in the page cache or on the disk. Where
// the kernel does not tell, every process has its own, and no upload outlives it.
func bootID() string {
	if id, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		return strings.TrimSpace(string(id))
	}
	return rand.Text()
}

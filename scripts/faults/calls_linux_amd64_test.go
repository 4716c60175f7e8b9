package faults

import "golang.org/x/sys/unix"

func init() {
	oldCalls = map[string]uint32{"rename": unix.SYS_RENAME, "mkdir": unix.SYS_MKDIR, "unlink": unix.SYS_UNLINK, "open": unix.SYS_OPEN}
	for name, nr := range oldCalls {
		calls[name] = append(calls[name], nr)
	}
}

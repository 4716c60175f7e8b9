package command

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

func isRoot() bool { return os.Geteuid() == 0 }

func ownerOf(info os.FileInfo) owner {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || s.Uid == 0 {
		return owner{}
	}
	return newOwner(int(s.Uid), int(s.Gid))
}

// become gives the whole process the rights of the owner. It remains root's, so that asRoot is possible and the owner
// cannot trace it.
func (o owner) become() error {
	if err := syscall.Setgroups(o.groups); err != nil {
		return err
	}
	if err := syscall.Setresgid(-1, o.gid, -1); err != nil {
		return err
	}
	return syscall.Setresuid(-1, o.uid, -1)
}

// becomeForGood is become without a way back, for a server.
func (o owner) becomeForGood() error {
	if err := syscall.Setgroups(o.groups); err != nil {
		return err
	}
	if err := syscall.Setresgid(o.gid, o.gid, o.gid); err != nil {
		return err
	}
	return syscall.Setresuid(o.uid, o.uid, o.uid)
}

// do runs fn with the rights that the owner has to files, in a process of root.
func (o owner) do(fn func() error) error {
	return onThread(func() error {
		if err := unix.Setgroups(o.groups); err != nil {
			return err
		}
		if err := setThread(o.uid, o.gid); err != nil {
			return err
		}
		return fn()
	})
}

// asRoot runs fn with the rights to files of the user who started the process. What the command line names is opened and
// renamed this way.
func asRoot(fn func() error) error {
	uid, gid := os.Getuid(), os.Getgid()
	if uid == os.Geteuid() {
		return fn()
	}
	return onThread(func() error {
		if err := setThread(uid, gid); err != nil {
			return err
		}
		return fn()
	})
}

// onThread runs fn on a thread of its own that ends with it. System calls change the identity of one thread only; package
// syscall does it on all of them.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// setThread changes the user and the group that files see of the calling thread.
func setThread(uid, gid int) error {
	unix.Setfsgid(gid)
	unix.Setfsuid(uid)
	if got, _ := unix.SetfsuidRetUid(-1); got != uid { // which changes nothing and answers what it is
		return os.NewSyscallError("setfsuid", unix.EPERM)
	}
	return nil
}

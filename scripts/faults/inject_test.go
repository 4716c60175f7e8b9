//go:build linux

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls are the system calls that can be made to fail, by the name of what they do.
var calls = map[string][]uint32{
	"write":           {unix.SYS_WRITE},
	"pwrite":          {unix.SYS_PWRITE64},
	"fsync":           {unix.SYS_FSYNC, unix.SYS_FDATASYNC},
	"rename":          {unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2},
	"mkdir":           {unix.SYS_MKDIRAT},
	"unlink":          {unix.SYS_UNLINKAT},
	"open":            {unix.SYS_OPENAT},
	"truncate":        {unix.SYS_FTRUNCATE},
	"sync_file_range": {unix.SYS_SYNC_FILE_RANGE},
}

// oldCalls are those that only old architectures have, and SQLite makes there. They take a path first.
var oldCalls = map[string]uint32{}

// fault says which calls fail, on files below the injector's directory.
type fault struct {
	call    string // of the table above
	errno   unix.Errno
	k       int  // the first that fails, counted from 1 over all threads of the server
	forever bool // all that follow fail too
}

func (f fault) String() string {
	s := fmt.Sprintf("%s %s %d", f.call, unix.ErrnoName(f.errno), f.k)
	if f.forever {
		s += " and later"
	}
	return s
}

// hit is a call that was made to fail.
type hit struct{ call, path string }

// injector makes system calls of a server fail. A seccomp filter has the kernel ask here before each of them. strace
// could make them fail too, but counts by thread, and a server in Go has many: no two runs would be the same.
type injector struct {
	dir          string
	ours, theirs *os.File // the launcher sends the descriptor of its filter through these

	mu    sync.Mutex
	names map[int32]string
	armed *fault
	seen  int // calls that the armed fault is about
	hits  []hit
}

func newInjector(dir string) *injector {
	in := &injector{dir: dir, names: map[int32]string{}}
	for name, list := range calls {
		for _, nr := range list {
			in.names[int32(nr)] = name
		}
	}
	return in
}

// arm makes calls fail from now on.
func (in *injector) arm(f fault) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.armed, in.seen, in.hits = &f, 0, nil
}

// disarm ends that and returns what has failed.
func (in *injector) disarm() []hit {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.armed = nil
	return in.hits
}

const (
	launching    = "FAULTS_LAUNCH"
	exitNoFilter = 77
)

// wrap has cmd started by this program, through launch.
func (in *injector) wrap(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	in.ours, in.theirs = os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	cmd.Path = os.Args[0]
	cmd.Env = append(os.Environ(), launching+"=1")
	cmd.ExtraFiles = []*os.File{in.theirs}
}

// launch becomes the server, after it has put a filter on itself and sent the filter's descriptor through descriptor 3.
func launch() {
	runtime.LockOSThread() // the filter is on this thread, and execve keeps this one
	os.Unsetenv(launching)
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	var listener int
	if err == nil {
		listener, err = installFilter()
	}
	if err == nil {
		err = unix.Sendmsg(3, []byte{0}, unix.UnixRights(listener), nil, 0)
	}
	if err == nil {
		unix.CloseOnExec(3)
		err = unix.Exec(os.Args[0], os.Args, os.Environ())
	}
	// Nothing is written here: the filter would ask about it.
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOSYS) {
		unix.Exit(exitNoFilter)
	}
	unix.Exit(1)
}

// installFilter has the kernel ask about the calls of the table and let through all others.
func installFilter() (listener int, err error) {
	const load, equal, answer = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	program := []unix.SockFilter{{Code: load}} // the number of the call, which comes first
	for _, list := range calls {
		for _, nr := range list {
			program = append(program, unix.SockFilter{Code: equal, Jf: 1, K: nr}, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_USER_NOTIF})
		}
	}
	program = append(program, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}

// attach waits for the filter of a server that has been started, and answers what the kernel asks until the server ends.
func (in *injector) attach(s *server) {
	s.t.Helper()
	in.theirs.Close()
	defer in.ours.Close()
	rights := make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := unix.Recvmsg(int(in.ours.Fd()), make([]byte, 1), rights, 0)
	if n == 0 || err != nil {
		s.cmd.Wait()
		if s.cmd.ProcessState.ExitCode() == exitNoFilter {
			s.t.Skip("no seccomp filter that asks can be installed here")
		}
		s.t.Fatal("the launcher failed:", s.cmd.ProcessState, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil {
		s.t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		s.t.Fatal(err)
	}
	go in.serve(fds[0])
}

// What the kernel asks and is answered: struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type (
	question struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	reply struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}
)

func (in *injector) serve(listener int) {
	defer unix.Close(listener)
	for {
		p := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == unix.EINTR {
			continue
		}
		if p[0].Revents&unix.POLLIN == 0 {
			return // the server has ended
		}
		var q question
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
			continue // the thread was interrupted, and will ask again
		}
		in.answer(listener, q)
	}
}

func (in *injector) answer(listener int, q question) {
	in.mu.Lock()
	defer in.mu.Unlock()
	r := reply{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	name, path, seen := in.names[q.nr], "", in.seen
	if in.armed != nil && in.armed.call == name {
		if path = pathOf(q, name); strings.HasPrefix(path, in.dir) {
			in.seen++
			if in.seen == in.armed.k || in.armed.forever && in.seen > in.armed.k {
				r.flags, r.errno = 0, -int32(in.armed.errno)
			}
		}
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		in.seen = seen // interrupted meanwhile: the call comes again
	} else if r.errno != 0 {
		in.hits = append(in.hits, hit{name, strings.TrimPrefix(path, in.dir+"/")})
	}
}

// pathOf returns the file that a call is about: of a rename, the old name.
func pathOf(q question, name string) string {
	switch name {
	case "rename", "mkdir", "unlink", "open":
		// Those that take a path take it second, after the descriptor of a directory, but for the old ones.
		argument := q.args[1]
		if oldCalls[name] == uint32(q.nr) {
			argument = q.args[0]
		}
		return readString(q.pid, argument)
	}
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", q.pid, int32(q.args[0])))
	return path
}

// readString reads a string of another process.
func readString(pid uint32, address uint64) string {
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer mem.Close()
	buf := make([]byte, unix.PathMax)
	n, _ := mem.ReadAt(buf, int64(address))
	s, _, _ := strings.Cut(string(buf[:n]), "\x00")
	return s
}

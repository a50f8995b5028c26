package syscalls

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

// Record is one call, as Stream tells of it.
type Record struct {
	At       int64 // nanoseconds since 1970
	PID, TID int32 // in the container's first namespace
	Comm     string
	Call     string
	Args     []string
	Result   int64
	Errno    string // the name, if the call failed
	Took     time.Duration
	Ended    bool // false: the call does not return
}

// Stream is a Tracer that hands on the calls that pass its filters. Sink is called
// by the tasks' goroutines and must not wait.
type Stream struct {
	Calls  map[string]bool // nil: all
	PIDs   map[int32]bool  // processes; nil: all
	Of     *kernel.Cgroup  // the container whose calls count; nil: any
	Path   string          // part of a file name among the arguments
	Failed bool            // only what fails
	Sink   func(Record)

	mu   sync.Mutex
	open map[*kernel.Task]*Record
}

// shapes say what arguments are: f descriptor, p path, i number, u size, x bits, o mode, c fcntl's command,
// a address, w data that the call takes, its size in the next argument, r data that
// it gives, so many bytes as its result. Calls without a shape show what was in the registers.
var shapes = map[string]string{
	"read": "fru", "write": "fwu", "pread64": "frui", "pwrite64": "fwui", "readv": "fai", "writev": "fai",
	"open": "pxo", "openat": "fpxo", "openat2": "fpau", "creat": "po", "close": "f", "close_range": "iix",
	"stat": "pa", "lstat": "pa", "fstat": "fa", "newfstatat": "fpax", "statx": "fpxxa", "statfs": "pa", "fstatfs": "fa",
	"access": "po", "faccessat": "fpo", "faccessat2": "fpox", "lseek": "fii", "getdents64": "fau",
	"readlink": "pru", "readlinkat": "fpru", "mkdir": "po", "mkdirat": "fpo", "rmdir": "p", "unlink": "p", "unlinkat": "fpx",
	"rename": "pp", "renameat": "fpfp", "renameat2": "fpfpx", "link": "pp", "linkat": "fpfpx", "symlink": "pp", "symlinkat": "pfp",
	"chmod": "po", "fchmod": "fo", "fchmodat": "fpo", "chown": "pii", "fchown": "fii", "lchown": "pii", "fchownat": "fpiix",
	"chdir": "p", "fchdir": "f", "chroot": "p", "getcwd": "ru", "truncate": "pi", "ftruncate": "fi", "fallocate": "fxii",
	"mount": "ppaxa", "umount2": "px", "pivot_root": "pp", "utimensat": "fpax", "mknod": "pox", "mknodat": "fpox",
	"execve": "paa", "execveat": "fpaax", "exit": "i", "exit_group": "i", "wait4": "iaxa", "waitid": "iiax", "clone": "xaaaa",
	"clone3": "au", "fork": "", "vfork": "", "kill": "ii", "tkill": "ii", "tgkill": "iii",
	"mmap": "auxxfi", "munmap": "au", "mprotect": "aux", "madvise": "aui", "brk": "a", "mremap": "auuxa",
	"dup": "f", "dup2": "ff", "dup3": "ffx", "pipe": "a", "pipe2": "ax", "fcntl": "fcx", "flock": "fx", "ioctl": "fxa",
	"fsync": "f", "fdatasync": "f", "sync": "", "umask": "o", "sendfile": "ffau", "copy_file_range": "fafaux", "splice": "fafaux",
	"socket": "iii", "socketpair": "iiia", "bind": "fau", "connect": "fau", "listen": "fi", "accept": "faa", "accept4": "faax",
	"sendto": "fwuxau", "recvfrom": "fruxaa", "sendmsg": "fax", "recvmsg": "fax", "shutdown": "fi", "getsockname": "faa",
	"getpeername": "faa", "setsockopt": "fiiau", "getsockopt": "fiiaa", "poll": "aui", "ppoll": "auaau", "select": "iaaaa",
	"epoll_create1": "x", "epoll_ctl": "fifa", "epoll_wait": "faii", "epoll_pwait": "faiiau", "eventfd2": "ix",
	"inotify_add_watch": "fpx", "inotify_rm_watch": "fi", "memfd_create": "px", "futex": "axiaax", "nanosleep": "aa",
	"clock_nanosleep": "ixaa", "clock_gettime": "ia", "gettimeofday": "aa", "getrandom": "rux", "prctl": "iaaaa", "arch_prctl": "xa",
	"rt_sigaction": "iaau", "rt_sigprocmask": "iaau", "rt_sigreturn": "", "sigaltstack": "aa", "getpid": "", "gettid": "",
	"getppid": "", "getuid": "", "geteuid": "", "getgid": "", "getegid": "", "getpgrp": "", "setsid": "", "setpgid": "ii",
	"getpgid": "i", "setuid": "i", "setgid": "i", "setresuid": "iii", "setresgid": "iii", "prlimit64": "iiaa", "uname": "a",
	"sched_yield": "", "sched_getaffinity": "iua", "set_tid_address": "a", "set_robust_list": "au", "rseq": "auxx", "pause": "",
	"getxattr": "ppau", "lgetxattr": "ppau", "fgetxattr": "fpau", "setxattr": "ppaux", "listxattr": "pau", "removexattr": "pp",
	"ptrace": "iiaa", "seccomp": "iia", "unshare": "x", "setns": "fx", "timerfd_create": "ix", "signalfd4": "faux",
}

// fcntlNames are the commands of fcntl(2).
var fcntlNames = map[int]string{
	unix.F_DUPFD: "F_DUPFD", unix.F_GETFD: "F_GETFD", unix.F_SETFD: "F_SETFD", unix.F_GETFL: "F_GETFL", unix.F_SETFL: "F_SETFL",
	unix.F_GETLK: "F_GETLK", unix.F_SETLK: "F_SETLK", unix.F_SETLKW: "F_SETLKW", unix.F_SETOWN: "F_SETOWN", unix.F_GETOWN: "F_GETOWN",
	unix.F_SETSIG: "F_SETSIG", unix.F_GETSIG: "F_GETSIG", unix.F_SETOWN_EX: "F_SETOWN_EX", unix.F_GETOWN_EX: "F_GETOWN_EX",
	unix.F_OFD_GETLK: "F_OFD_GETLK", unix.F_OFD_SETLK: "F_OFD_SETLK", unix.F_OFD_SETLKW: "F_OFD_SETLKW",
	unix.F_SETLEASE: "F_SETLEASE", unix.F_GETLEASE: "F_GETLEASE", unix.F_NOTIFY: "F_NOTIFY", unix.F_DUPFD_CLOEXEC: "F_DUPFD_CLOEXEC",
	unix.F_SETPIPE_SZ: "F_SETPIPE_SZ", unix.F_GETPIPE_SZ: "F_GETPIPE_SZ", unix.F_ADD_SEALS: "F_ADD_SEALS", unix.F_GET_SEALS: "F_GET_SEALS",
	unix.F_GET_RW_HINT: "F_GET_RW_HINT", unix.F_SET_RW_HINT: "F_SET_RW_HINT",
}

// Enter implements Tracer.
func (s *Stream) Enter(t *kernel.Task, c *Call, a *Args) {
	pid := t.Group().ID().Contained()
	if s.Of != nil && t.Cgroup() != s.Of {
		return
	}
	if s.Calls != nil && !s.Calls[c.Name] || s.PIDs != nil && !s.PIDs[pid] {
		return
	}
	r := &Record{At: time.Now().UnixNano(), PID: pid, TID: t.ID().Contained(), Comm: t.Comm(), Call: c.Name}
	named := s.Path == ""
	shape, known := shapes[c.Name]
	if !known {
		shape = "xxxxxx"
	}
	for i, kind := range shape {
		text := argument(t, kind, a, i)
		named = named || kind == 'p' && strings.Contains(text, s.Path)
		r.Args = append(r.Args, text)
	}
	if !named {
		return
	}
	if c.Name == "exit" || c.Name == "exit_group" {
		if !s.Failed {
			s.Sink(*r)
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*kernel.Task]*Record{}
	}
	s.open[t] = r
}

// Exit implements Tracer.
func (s *Stream) Exit(t *kernel.Task, c *Call, a *Args, result uintptr, err error) {
	s.mu.Lock()
	r := s.open[t]
	delete(s.open, t)
	s.mu.Unlock()
	if r == nil {
		return
	}
	r.Took, r.Ended = time.Duration(time.Now().UnixNano()-r.At), true
	switch e, isErrno := err.(unix.Errno); {
	case err == nil:
		r.Result = int64(result)
		if i := strings.IndexByte(shapes[c.Name], 'r'); i >= 0 {
			r.Args[i] = data(t, a.Addr(i), uint64(result))
		}
	case err == errKeep:
		r.Result = int64(t.Context().Rax)
	case !isErrno:
		r.Result, r.Errno = -1, "EIO"
	default:
		r.Result, r.Errno = -1, errnoName(e)
	}
	if !s.Failed || r.Errno != "" {
		s.Sink(*r)
	}
}

// errnoName has names for what no application sees, too.
func errnoName(e unix.Errno) string {
	switch e {
	case kernel.ERESTARTSYS:
		return "ERESTARTSYS"
	case kernel.ERESTARTNOINTR:
		return "ERESTARTNOINTR"
	case kernel.ERESTARTNOHAND:
		return "ERESTARTNOHAND"
	case kernel.ERESTART_RESTARTBLOCK:
		return "ERESTART_RESTARTBLOCK"
	}
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}

func argument(t *kernel.Task, kind rune, a *Args, i int) string {
	switch kind {
	case 'f':
		if a.Int(i) == unix.AT_FDCWD {
			return "AT_FDCWD"
		}
		return strconv.Itoa(a.Int(i))
	case 'p':
		if a[i] == 0 {
			return "NULL"
		}
		if name, err := path(t, a.Addr(i)); err == nil {
			return strconv.Quote(name)
		}
	case 'w':
		return data(t, a.Addr(i), a[i+1])
	case 'i':
		return strconv.Itoa(a.Int(i))
	case 'c':
		if name := fcntlNames[a.Int(i)]; name != "" {
			return name
		}
		return strconv.Itoa(a.Int(i))
	case 'u':
		return strconv.FormatUint(a[i], 10)
	case 'o':
		return fmt.Sprintf("%#o", a.Uint32(i))
	case 'a':
		if a[i] == 0 {
			return "NULL"
		}
	}
	return fmt.Sprintf("%#x", a[i])
}

// data shows the first bytes of what lies at at.
func data(t *kernel.Task, at memory.Addr, n uint64) string {
	const most = 32
	if t.MM() == nil {
		return fmt.Sprintf("%#x", uint64(at))
	}
	b := make([]byte, min(n, most))
	got, _ := t.MM().Read(at, b)
	if got == 0 && n > 0 {
		return fmt.Sprintf("%#x", uint64(at))
	}
	text := strconv.QuoteToASCII(string(b[:got]))
	if n > most {
		text += "..."
	}
	return text
}

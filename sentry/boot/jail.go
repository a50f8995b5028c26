package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"bulkhead/jail"
	"bulkhead/jail/seccomp"
	"bulkhead/runtime/agent"
	"bulkhead/sentry/fs/sys"
	"bulkhead/sentry/loader"
)

// leaveHost gives up the host's files and all privileges. Whoever the process
// is from here on, its stub processes are too.
func (s *sandbox) leaveHost() (err error) {
	loader.Prepare()
	s.startup = jail.StartupPages()
	s.cpuinfo, _ = os.ReadFile("/proc/cpuinfo")
	s.caches = sys.HostCaches()
	if s.listener, err = agent.Listener(agent.ControlFD); err != nil {
		return err
	}
	// Rights over others' terminals and files are not needed for those that are open.
	if err := jail.EmptyRoot(); err != nil {
		return err
	}
	if err := jail.DropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return nil
}

// restrict allows the process no system calls but those that it makes.
func (s *sandbox) restrict() error {
	off := seccomp.Kill
	if s.config.LogLevel == "debug" || s.config.LogLevel == "trace" {
		off = seccomp.Trap // with stacks in the log
	}
	if os.Getenv("BULKHEAD_SECCOMP") == "log" {
		off = seccomp.Log
	}
	rows := append(seccomp.Runtime(os.Getpid()), calls(s.plat.Name())...)
	if len(s.config.Devices) > 0 {
		rows = append(rows, networkCalls...)
	}
	rows = append(rows, s.nameServerCalls()...)
	return seccomp.Install(rows, off)
}

// calls are what the sandbox may call beyond seccomp.Runtime.
func calls(platform string) []seccomp.Row {
	rows := []seccomp.Row{
		{NR: unix.SYS_SENDMSG, Name: "sendmsg", Why: "gofer, runtime"},
		{NR: unix.SYS_RECVMSG, Name: "recvmsg", Why: "gofer, runtime, with descriptors"},
		{NR: unix.SYS_ACCEPT4, Name: "accept4", Why: "runtime"},
		{NR: unix.SYS_GETSOCKNAME, Name: "getsockname", Why: "package net, after accept"},
		{NR: unix.SYS_GETPEERNAME, Name: "getpeername", Why: "package net, after accept"},
		{NR: unix.SYS_GETSOCKOPT, Name: "getsockopt", Why: "package net; SO_PEERCRED"},
		{NR: unix.SYS_SETSOCKOPT, Name: "setsockopt", Why: "package net"},
		{NR: unix.SYS_SHUTDOWN, Name: "shutdown", Why: "package net"},
		{NR: unix.SYS_FCNTL, Name: "fcntl", Why: "descriptors: duplicates, flags"},
		{NR: unix.SYS_DUP, Name: "dup", Why: "descriptors"},
		{NR: unix.SYS_FSTAT, Name: "fstat", Why: "host files"},
		{NR: unix.SYS_READV, Name: "readv", Why: "streams"},
		{NR: unix.SYS_WRITEV, Name: "writev", Why: "streams"},
		{NR: unix.SYS_PREAD64, Name: "pread64", Why: "host files"},
		{NR: unix.SYS_PWRITE64, Name: "pwrite64", Why: "host files"},
		{NR: unix.SYS_PREADV, Name: "preadv", Why: "host files"},
		{NR: unix.SYS_PWRITEV, Name: "pwritev", Why: "host files"},
		{NR: unix.SYS_PREADV2, Name: "preadv2", Why: "host files"},
		{NR: unix.SYS_PWRITEV2, Name: "pwritev2", Why: "host files"},
		{NR: unix.SYS_LSEEK, Name: "lseek", Why: "host files: data, holes"},
		{NR: unix.SYS_FTRUNCATE, Name: "ftruncate", Why: "host files, the arena"},
		{NR: unix.SYS_FALLOCATE, Name: "fallocate", Why: "host files, pages given back"},
		{NR: unix.SYS_FSYNC, Name: "fsync", Why: "host files"},
		{NR: unix.SYS_FDATASYNC, Name: "fdatasync", Why: "host files"},
		{NR: unix.SYS_COPY_FILE_RANGE, Name: "copy_file_range", Why: "host files"},
		{NR: unix.SYS_POLL, Name: "poll", Why: "streams"},
		{NR: unix.SYS_PPOLL, Name: "ppoll", Why: "streams"},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TIOCGWINSZ", When: seccomp.Is(1, unix.TIOCGWINSZ)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TIOCSWINSZ", When: seccomp.Is(1, unix.TIOCSWINSZ)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TCGETS", When: seccomp.Is(1, unix.TCGETS)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TCSETS", When: seccomp.Is(1, unix.TCSETS)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TCSETSW", When: seccomp.Is(1, unix.TCSETSW)},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "streams: FIONREAD", When: seccomp.Is(1, unix.TIOCINQ)},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "windows onto host files", When: seccomp.Is(3, unix.MAP_SHARED|unix.MAP_FIXED|unix.MAP_NORESERVE)},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "the arena", When: seccomp.Is(3, unix.MAP_SHARED)},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "the arena, windows given up", When: seccomp.Is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE)},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "reservations", When: seccomp.Is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)},
		{NR: unix.SYS_MPROTECT, Name: "mprotect", Why: "the arena; shootdown on kvm"},
		{NR: unix.SYS_SYSINFO, Name: "sysinfo", Why: "memory that programs see"},
		{NR: unix.SYS_EPOLL_WAIT, Name: "epoll_wait", Why: "streams"},
		{NR: unix.SYS_SCHED_SETAFFINITY, Name: "sched_setaffinity", Why: "placement of threads"},
		{NR: unix.SYS_SCHED_GETAFFINITY, Name: "sched_getaffinity", Why: "placement of threads"},
		{NR: unix.SYS_GETCPU, Name: "getcpu", Why: "placement of threads"},
		{NR: unix.SYS_PIPE2, Name: "pipe2", Why: "package os"},
		{NR: unix.SYS_SETITIMER, Name: "setitimer", Why: "runtime: profiles"},
	}
	return append(rows, platformCalls[platform]...)
}

// platformCalls are what one platform needs besides. On ptrace they are the
// stubs' as well, which a filter of their own holds to their page.
var platformCalls = map[string][]seccomp.Row{
	"kvm": {
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "KVM", When: []seccomp.Cond{{Arg: 1, Mask: 0xff00, Value: 0xae00}}},
		{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "userfaultfd: shootdown", When: []seccomp.Cond{{Arg: 1, Mask: 0xff00, Value: 0xaa00}}},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "struct kvm_run", When: seccomp.Is(3, unix.MAP_SHARED)},
	},
	"ptrace": {
		{NR: unix.SYS_PTRACE, Name: "ptrace", Why: "stubs"},
		{NR: unix.SYS_WAIT4, Name: "wait4", Why: "stubs"},
		{NR: unix.SYS_KILL, Name: "kill", Why: "stubs"},
		{NR: unix.SYS_TGKILL, Name: "tgkill", Why: "stubs"},
		{NR: unix.SYS_CLONE, Name: "clone", Why: "stubs: threads and processes, held by ptrace"},
		{NR: unix.SYS_MMAP, Name: "mmap", Why: "stubs map the arena and host files"},
		{NR: unix.SYS_MREMAP, Name: "mremap", Why: "stubs"},
		{NR: unix.SYS_PROCESS_VM_READV, Name: "process_vm_readv", Why: "stubs: does one live yet"},
		{NR: unix.SYS_PAUSE, Name: "pause", Why: "stubs"},
		{NR: unix.SYS_PRCTL, Name: "prctl", Why: "stubs: death signal, name"},
		{NR: unix.SYS_CAPSET, Name: "capset", Why: "stubs"},
		{NR: unix.SYS_SECCOMP, Name: "seccomp", Why: "stubs: a filter of their own"},
	},
}

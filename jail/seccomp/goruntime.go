package seccomp

import "golang.org/x/sys/unix"

// threadFlags are what Go's runtime clones a thread with (runtime/os_linux.go,
// cloneFlags; sys_linux_amd64.s adds SETTLS).
const threadFlags = unix.CLONE_SETTLS | unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_SYSVSEM | unix.CLONE_THREAD

// Runtime is what a Go program without cgo calls on its own account. The pid is
// the process's, as it sees itself.
func Runtime(pid int) []Row {
	return []Row{
		{unix.SYS_FUTEX, "futex", "runtime: sleep and wake of threads", nil},
		{unix.SYS_CLONE, "clone", "runtime: a new thread, never a process", Is(0, threadFlags)},
		{unix.SYS_MMAP, "mmap", "runtime: heap and stacks", Is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)},
		{unix.SYS_MMAP, "mmap", "runtime: commit of reserved heap", Is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)},
		{unix.SYS_MMAP, "mmap", "runtime: states of the vDSO's getrandom, one for each thread that draws (Linux 6.11, Go 1.24)", Is(3, unix.MAP_DROPPABLE|unix.MAP_ANONYMOUS)},
		{unix.SYS_MUNMAP, "munmap", "runtime: stacks of ended threads", nil},
		{unix.SYS_MADVISE, "madvise", "runtime: unused heap goes back", nil},
		{unix.SYS_PRCTL, "prctl", "runtime: names for anonymous memory (Go 1.25)", Is(0, unix.PR_SET_VMA)},
		{unix.SYS_RT_SIGACTION, "rt_sigaction", "runtime: handlers; SIGPIPE's on a crash", nil},
		{unix.SYS_RT_SIGPROCMASK, "rt_sigprocmask", "runtime: start of a thread", nil},
		{unix.SYS_RT_SIGRETURN, "rt_sigreturn", "end of a handler", nil},
		{unix.SYS_SIGALTSTACK, "sigaltstack", "runtime: start of a thread", nil},
		{unix.SYS_GETTID, "gettid", "runtime: start of a thread", nil},
		{unix.SYS_GETPID, "getpid", "runtime: preemption", nil},
		{unix.SYS_TGKILL, "tgkill", "runtime: preemption (SIGURG) and crash", Is(0, uint64(pid))},
		{unix.SYS_SCHED_YIELD, "sched_yield", "runtime: contended locks", nil},
		{unix.SYS_NANOSLEEP, "nanosleep", "runtime: sysmon", nil},
		{unix.SYS_CLOCK_GETTIME, "clock_gettime", "where the vDSO can not tell the time", nil},
		{unix.SYS_GETRANDOM, "getrandom", "runtime: seeds of maps and random numbers", nil},
		{unix.SYS_SCHED_GETAFFINITY, "sched_getaffinity", "runtime: GOMAXPROCS follows the CPUs we may use", nil},
		{unix.SYS_PREAD64, "pread64", "runtime: GOMAXPROCS follows the control group's quota", nil},
		{unix.SYS_EPOLL_CREATE1, "epoll_create1", "runtime: network poller", nil},
		{unix.SYS_EPOLL_CTL, "epoll_ctl", "runtime: network poller", nil},
		{unix.SYS_EPOLL_PWAIT, "epoll_pwait", "runtime: network poller and timers", nil},
		{unix.SYS_EVENTFD2, "eventfd2", "runtime: network poller's wake-up", nil},
		{unix.SYS_RESTART_SYSCALL, "restart_syscall", "the kernel, after a stop", nil},
		{unix.SYS_READ, "read", "runtime: poller's wake-up", nil},
		{unix.SYS_WRITE, "write", "log and crash report", nil},
		{unix.SYS_CLOSE, "close", "descriptors", nil},
		{unix.SYS_EXIT, "exit", "end of a thread", nil},
		{unix.SYS_EXIT_GROUP, "exit_group", "end of the process", nil},
	}
}

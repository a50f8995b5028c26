package table

import (
	"strings"

	"golang.org/x/sys/unix"
)

// grammar is what is known of calls: by family, name(argument, …) and the kind
// of what it returns. An argument is one of build's kinds (generate.go); what
// stands before a dot is its kind, behind it which. What the table of calls has
// and the grammar has not is called with arguments of any kind.
const grammar = `
# file
openat(at, path, f.open, mode) file
open(path, f.open, mode) file
openat2(at, path, openhow, e.openhow) file
creat(path, mode) file
close(fd)
close_range(fd, fd, f.closerange)
read(fd, buf, len)
write(fd, buf, len)
pread64(fd, buf, len, off)
pwrite64(fd, buf, len, off)
readv(fd, iov, count)
writev(fd, iov, count)
preadv(fd, iov, count, off, n.2)
pwritev(fd, iov, count, off, n.2)
preadv2(fd, iov, count, off, n.2, f.rwf)
pwritev2(fd, iov, count, off, n.2, f.rwf)
lseek(fd.file, off, n.6)
ftruncate(fd.file, off)
truncate(path, off)
fallocate(fd.file, f.fallocate, off, off)
fadvise64(fd, off, off, n.8)
readahead(fd.file, off, len)
sync_file_range(fd, off, off, n.8)
fsync(fd)
fdatasync(fd)
syncfs(fd)
copy_file_range(fd.file, offp, fd.file, offp, len, n.2)
sendfile(fd, fd.file, offp, len)
splice(fd, offp, fd.pipe, offp, len, f.splice)
splice(fd.pipe, offp, fd, offp, len, f.splice)
tee(fd.pipe, fd.pipe, len, f.splice)
vmsplice(fd.pipe, iov, count, f.splice)
dup(fd) any
dup2(fd, fd) any
dup3(fd, fd, f.open) any
fcntl(fd, e.fcntl, word) any
fcntl(fd, e.locks, flock)
flock(fd, f.flock)
ioctl(fd, e.ioctl, buf)
fstat(fd, buf)
stat(path, buf)
lstat(path, buf)
newfstatat(at, path, buf, f.at)
statx(at, path, f.at, word, buf)
statfs(path, buf)
fstatfs(fd, buf)
access(path, n.8)
faccessat2(at, path, n.8, f.at)
getdents64(fd.dir, buf, len)
getdents(fd.dir, buf, len)
getcwd(buf, len)
chdir(path)
fchdir(fd.dir)
mkdirat(at, path, mode)
mkdir(path, mode)
rmdir(path)
unlinkat(at, path, f.at)
unlink(path)
renameat2(at, path, at, path, n.8)
rename(path, path)
linkat(at, path, at, path, f.at)
link(path, path)
symlinkat(path, at, path)
symlink(path, path)
readlinkat(at, path, buf, len)
readlink(path, buf, len)
mknodat(at, path, mode, word)
fchmodat(at, path, mode)
fchmodat2(at, path, mode, f.at)
fchmod(fd, mode)
fchownat(at, path, id, id, f.at)
fchown(fd, id, id)
utimensat(at, path, times, f.at)
futimesat(at, path, times)
setxattr(path, xattr, buf, len, n.3)
fsetxattr(fd, xattr, buf, len, n.3)
getxattr(path, xattr, buf, len)
listxattr(path, buf, len)
flistxattr(fd, buf, len)
removexattr(path, xattr)
name_to_handle_at(at, path, buf, buf, f.at)
open_by_handle_at(fd, buf, f.open) file
memfd_create(path, f.memfd) memfd
umask(mode)
chroot(path)
cachestat(fd, buf, buf, n.2)
file_getattr(at, path, buf, len, f.at)

# memory
mmap(addr, maplen, f.prot, f.map, fd, pageoff) addr
mmap(addr, maplen, f.prot, f.map, fd.file, pageoff) addr
mmap(addr, maplen, f.prot, f.map, fd.memfd, pageoff) addr
munmap(addr, maplen)
mprotect(addr, maplen, f.prot)
mremap(addr, maplen, maplen, n.8, addr) addr
madvise(addr, maplen, e.madvise)
process_madvise(fd.pidfd, iov, count, e.madvise, n.2)
mincore(addr, maplen, buf)
msync(addr, maplen, n.8)
mlock(addr, maplen)
mlock2(addr, maplen, n.2)
munlock(addr, maplen)
mlockall(n.8)
munlockall()
brk(addr)
remap_file_pages(addr, maplen, n.2, n.8, n.2)
pkey_alloc(n.2, n.4)
pkey_mprotect(addr, maplen, f.prot, n.4)
mseal(addr, maplen, n.2)
userfaultfd(e.uffdflags) uffd
ioctl(fd.uffd, e.uffd, uffd)
process_vm_readv(pid, iov, count, iov, count, n.2)
process_vm_writev(pid, iov, count, iov, count, n.2)
move_pages(pid, n.8, buf, buf, buf, n.8)
mbind(addr, maplen, n.8, buf, n.64, n.8)
get_mempolicy(buf, buf, n.64, addr, n.8)
shmget(e.key, maplen, f.ipc) shm
shmat(id.shm, addr, f.shm) addr
shmdt(addr)
shmctl(id.shm, e.ipcctl, buf)
memfd_secret(n.2)
arch_prctl(e.arch, addr)
read(fd.mem, buf, len)
pwrite64(fd.mem, buf, len, addr)
pread64(fd.mem, buf, len, addr)

# process
fork() pid
vfork() pid
clone3(cloneargs, e.cloneargs) pid
execve(program, argv, argv)
execveat(at, program, argv, argv, f.at)
wait4(pid, buf, f.wait, buf)
waitid(n.5, pid, buf, f.wait, buf)
kill(pid, sig)
tkill(pid, sig)
tgkill(pid, pid, sig)
rt_sigqueueinfo(pid, sig, siginfo)
rt_tgsigqueueinfo(pid, pid, sig, siginfo)
pidfd_open(pid, f.open) pidfd
pidfd_send_signal(fd.pidfd, sig, siginfo, n.4)
pidfd_getfd(fd.pidfd, fd, n.2) any
rt_sigaction(sig, sigaction, buf, e.sigset)
rt_sigprocmask(n.4, sigset, buf, e.sigset)
rt_sigpending(buf, e.sigset)
rt_sigsuspend(sigset, e.sigset)
rt_sigtimedwait(sigset, buf, timespec, e.sigset)
rt_sigreturn()
sigaltstack(stackt, buf)
signalfd4(fd, sigset, e.sigset, f.open) signalfd
pause()
set_tid_address(buf)
set_robust_list(robust, e.robust)
get_robust_list(pid, buf, buf)
futex(word32, e.futex, small, timespec, word32, small)
futex(word32, e.futex, small, small, word32, small)
futex_waitv(waitv, n.4, n.2, timespec, n.3)
futex_wake(word32, small, small, e.futex2)
futex_wait(word32, small, small, e.futex2, timespec, n.3)
futex_requeue(waitv, n.2, small, small)
sched_yield()
sched_setaffinity(pid, len, buf)
sched_getaffinity(pid, len, buf)
sched_setscheduler(pid, n.8, buf)
sched_setattr(pid, buf, n.2)
sched_getattr(pid, buf, len, n.2)
sched_setparam(pid, buf)
setpriority(n.4, pid, small)
getpriority(n.4, pid)
prlimit64(pid, n.17, rlimit, buf)
setrlimit(n.17, rlimit)
getrusage(small, buf)
times(buf)
setpgid(pid, pid)
setsid()
getpgid(pid)
getsid(pid)
unshare(f.clone)
setns(fd, f.clone)
prctl(e.prctl, word, word, word, word)
seccomp(n.5, e.seccomp, bpf) any
ptrace(e.ptrace, pid, word, buf)
ptrace(e.ptrace, pid, addr, word)
kcmp(pid, pid, n.8, fd, fd)
setuid(id)
setresuid(id, id, id)
setgroups(n.8, buf)
getgroups(n.8, buf)
capset(caphdr, buf)
capget(caphdr, buf)
membarrier(e.membarrier, n.2, n.4)
personality(word)
exit(n.256)
exit_group(n.256)
process_mrelease(fd.pidfd, n.2)
getcpu(buf, buf, buf)
rseq(buf, n.64, n.2, word)
restart_syscall()

# poll
poll(pollfds, n.5, ms)
ppoll(pollfds, n.5, timespec, sigset, e.sigset)
select(n.70, buf, buf, buf, timeval)
pselect6(n.70, buf, buf, buf, timespec, buf)
epoll_create1(f.open) epoll
epoll_ctl(fd.epoll, n.4, fd, event)
epoll_wait(fd.epoll, buf, small, ms)
epoll_pwait(fd.epoll, buf, small, ms, sigset, e.sigset)
epoll_pwait2(fd.epoll, buf, small, timespec, sigset, e.sigset)
eventfd2(small, f.open) event
pipe2(buf, f.open)
inotify_init1(f.open) inotify
inotify_add_watch(fd.inotify, path, f.inotify) any
inotify_rm_watch(fd.inotify, small)
timerfd_create(e.clock, f.open) timerfd
timerfd_settime(fd.timerfd, n.4, itimerspec, buf)
timerfd_gettime(fd.timerfd, buf)
timer_create(e.clock, sigevent, buf)
timer_settime(n.8, n.2, itimerspec, buf)
timer_gettime(n.8, buf)
timer_delete(n.8)
setitimer(n.4, itimerval, buf)
getitimer(n.4, buf)
alarm(n.3)
nanosleep(timespec, buf)
clock_nanosleep(e.clock, n.2, timespec, buf)
clock_gettime(e.clock, buf)
clock_adjtime(e.clock, buf)
io_setup(small, contextp)
io_submit(context, n.4, iocbs)
io_getevents(context, n.4, n.4, buf, timespec)
io_cancel(context, iocbs, buf)
io_destroy(context)
io_pgetevents(context, n.4, n.4, buf, timespec, buf)
io_uring_setup(small, uringparams) uring
io_uring_enter(fd.uring, small, n.4, f.uringenter, sigset, e.sigset)
io_uring_register(fd.uring, n.40, buf, small)
mmap(addr, maplen, f.prot, f.map, fd.uring, e.uringoff) addr
read(fd, buf, len)
write(fd, buf, len)
fcntl(fd, e.fcntl, word)

# net
socket(e.family, e.socktype, e.protocol) socket
socketpair(e.family, e.socktype, n.2, buf)
bind(fd.socket, sockaddr, e.addrlen)
connect(fd.socket, sockaddr, e.addrlen)
listen(fd.socket, small)
accept4(fd.socket, buf, lenp, f.open) socket
accept(fd.socket, buf, lenp) socket
getsockname(fd.socket, buf, lenp)
getpeername(fd.socket, buf, lenp)
sendto(fd.socket, buf, len, f.msg, sockaddr, e.addrlen)
recvfrom(fd.socket, buf, len, f.msg, buf, lenp)
sendmsg(fd.socket, msghdr, f.msg)
recvmsg(fd.socket, msghdr, f.msg)
sendmmsg(fd.socket, mmsghdr, n.4, f.msg)
recvmmsg(fd.socket, mmsghdr, n.4, f.msg, timespec)
shutdown(fd.socket, n.4)
setsockopt(fd.socket, e.level, n.80, buf, small)
getsockopt(fd.socket, e.level, n.80, buf, lenp)
sendto(fd.netlink, netlink, len, f.msg, sockaddr, e.addrlen)
recvfrom(fd.netlink, buf, len, f.msg, buf, lenp)
ioctl(fd.socket, e.sockioctl, buf)
read(fd.socket, buf, len)
write(fd.socket, buf, len)
splice(fd.socket, offp, fd.pipe, offp, len, f.splice)
sendfile(fd.socket, fd.file, offp, len)
close(fd.socket)
fcntl(fd.socket, e.fcntl, word)
dup(fd.socket) socket
poll(pollfds, n.5, ms)

# ipc
msgget(e.key, f.ipc) msg
msgsnd(id.msg, buf, len, f.ipc)
msgrcv(id.msg, buf, len, small, f.ipc)
msgctl(id.msg, e.ipcctl, buf)
semget(e.key, small, f.ipc) sem
semop(id.sem, sembuf, n.4)
semtimedop(id.sem, sembuf, n.4, timespec)
semctl(id.sem, n.4, e.ipcctl, buf)
shmget(e.key, maplen, f.ipc) shm
shmat(id.shm, addr, f.shm) addr
shmdt(addr)
shmctl(id.shm, e.ipcctl, buf)
mq_open(mqname, f.open, mode, mqattr) mq
mq_timedsend(fd.mq, buf, len, n.8, timespec)
mq_timedreceive(fd.mq, buf, len, buf, timespec)
mq_notify(fd.mq, sigevent)
mq_getsetattr(fd.mq, mqattr, buf)
mq_unlink(mqname)
add_key(keytype, mqname, buf, len, e.keyring) key
request_key(keytype, mqname, path, e.keyring) key
keyctl(n.33, id.key, id.key, word, word)
keyctl(n.33, e.keyring, buf, len, word)

# mount
mount(path, path, fstype, f.mount, mountdata)
mount(path, dirpath, fstype, e.bind, mountdata)
mount(dirpath, dirpath, fstype, e.bind, mountdata)
umount2(dirpath, f.umount)
umount2(path, f.umount)
pivot_root(dirpath, dirpath)
open_tree(at, path, f.opentree) mnt
move_mount(fd.mnt, path, at, path, f.movemount)
fsopen(fstype, n.2) fsctx
fsconfig(fd.fsctx, n.9, xattr, buf, small)
fsmount(fd.fsctx, n.2, f.attr) mnt
fspick(at, path, n.16) fsctx
mount_setattr(at, path, f.at, buf, small)
statmount(buf, buf, len, n.2)
listmount(buf, buf, small, n.2)
chroot(path)
openat(at, path, f.open, mode) file
mkdirat(at, path, mode)
unshare(f.clone)
setns(fd, f.clone)
sethostname(path, small)
quotactl(word, path, id, buf)
swapon(path, n.2)
acct(path)
name_to_handle_at(at, path, buf, buf, f.at)

# tty
openat(at, ttypath, f.open, mode) tty
ioctl(fd.tty, e.ttyioctl, buf)
ioctl(fd.tty, e.ttyioctl, small)
write(fd.tty, buf, len)
read(fd.tty, buf, len)
setsid()
setpgid(pid, pid)
vhangup()
close(fd.tty)
poll(pollfds, n.5, ms)
fcntl(fd.tty, e.fcntl, word)
kill(pid, sig)
`

// flags are bits, of which any may be set together; choices stand for themselves.
var (
	flags = map[string][]uint64{
		"open": {unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_CREAT, unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, unix.O_NONBLOCK, unix.O_DIRECTORY,
			unix.O_NOFOLLOW, unix.O_CLOEXEC, unix.O_PATH, unix.O_TMPFILE, unix.O_DIRECT, unix.O_ASYNC, unix.O_NOATIME},
		"closerange": {2, 4, 1},
		"rwf":        {1, 2, 4, 8, 16, 32},
		"fallocate":  {1, 2, 4, 8, 16, 32, 64},
		"splice":     {1, 2, 4, 8},
		"flock":      {1, 2, 4, 8},
		"at":         {unix.AT_SYMLINK_NOFOLLOW, unix.AT_REMOVEDIR, unix.AT_SYMLINK_FOLLOW, unix.AT_NO_AUTOMOUNT, unix.AT_EMPTY_PATH, unix.AT_RECURSIVE},
		"memfd":      {1, 2, 4, 8, 16},
		"prot":       {unix.PROT_READ, unix.PROT_WRITE, unix.PROT_READ | unix.PROT_WRITE, unix.PROT_EXEC, unix.PROT_GROWSDOWN},
		"map": {unix.MAP_SHARED, unix.MAP_PRIVATE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS, unix.MAP_FIXED, unix.MAP_ANONYMOUS, unix.MAP_FIXED, unix.MAP_POPULATE, unix.MAP_NORESERVE,
			unix.MAP_GROWSDOWN, unix.MAP_LOCKED, unix.MAP_STACK, unix.MAP_HUGETLB, unix.MAP_FIXED_NOREPLACE, unix.MAP_32BIT, unix.MAP_SYNC},
		"ipc": {0o666, unix.IPC_CREAT, unix.IPC_CREAT, unix.IPC_EXCL, unix.IPC_NOWAIT, 0o10000, 0o20000, 0o40000},
		"shm": {0o10000, 0o20000, 0o40000, 0o100000},
		"clone": {unix.CLONE_VM, unix.CLONE_FS, unix.CLONE_FILES, unix.CLONE_SIGHAND, unix.CLONE_PTRACE, unix.CLONE_VFORK, unix.CLONE_PARENT, unix.CLONE_THREAD,
			unix.CLONE_NEWNS, unix.CLONE_SYSVSEM, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWUSER, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_IO, unix.CLONE_UNTRACED},
		"wait":      {1, 2, 4, 8, 0x1000000, 0x20000000, 0x40000000, 0x80000000},
		"inotify":   {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 0xfff, 1 << 24, 1 << 25, 1 << 26, 1 << 28, 1 << 29, 1 << 31},
		"msg":       {1, 2, 4, 0x20, 0x40, 0x40, 0x80, 0x100, 0x4000, 0x8000, 0x10000, 0x40000000, 0x20000000},
		"mount":     {1, 2, 4, 8, 16, 32, 1024, 2048, 4096, 8192, 16384, 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20, 1 << 21, 1 << 24},
		"umount":    {1, 2, 4, 8},
		"opentree":  {1, 1, unix.O_CLOEXEC, unix.AT_RECURSIVE, unix.AT_EMPTY_PATH},
		"movemount": {1, 2, 4, 4, 4, 0x10, 0x20, 0x40, 0x40, 0x100, 0x200},
		"attr":      {1, 2, 4, 8, 0x10, 0x20, 0x80, 0x100000, 0x200000},
		"uringenter": {1, 2, 4, 8, 16,
			1, 1},
	}
	choices = map[string][]uint64{
		"futex2":     {2, 2, 130, 130, 0, 1, 3, 6, 255},
		"bind":       {0x1000, 0x5000, 0, 0, 0x20, 0x1021, 0x80000, 0x100000, 0x40000, 0x20000, 0x44000, 0x2000},
		"openlike":   {0, unix.O_RDWR, unix.O_RDWR | unix.O_CREAT, unix.O_RDWR | unix.O_CREAT, unix.O_NONBLOCK, unix.O_RDWR | unix.O_NONBLOCK, unix.O_CLOEXEC, unix.O_WRONLY | unix.O_APPEND, unix.O_TMPFILE | unix.O_RDWR, unix.O_RDWR | unix.O_TRUNC},
		"uffdflags":  {1, 1, 0x80801, 0x800, 0, 2},
		"seccomp":    {0, 0, 0, 1, 2, 4, 8, 16, 32},
		"openhow":    {24, 24, 24, 0, 8, 32, 4096, 4097},
		"fcntl":      {0, 1, 2, 3, 4, 8, 9, 10, 11, 15, 16, 1024, 1025, 1026, 1030, 1031, 1032, 1033, 1034, 1035, 1036, 1037, 1038},
		"locks":      {5, 6, 7, 36, 37, 38},
		"ioctl":      {0x5401, 0x5421, 0x541b, 0x5450, 0x5451, 0x5460, 0x40086602, 0x80086601, 0xc0185879, 0xb701, 0xb702, 0xb703, 0xc020660b, 0x40049409, 0x5452, 0x8901, 0x8904},
		"madvise":    {0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 100, 101},
		"uffd":       {0xc018aa3f, 0xc020aa00, 0x8010aa01, 0x8010aa02, 0xc028aa03, 0xc020aa04, 0xc018aa06, 0xc020aa07, 0xc028aa05},
		"key":        {0, 0, 1, 2, 3, 0xffffffff},
		"ipcctl":     {0, 1, 2, 3, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20},
		"arch":       {0x1001, 0x1002, 0x1003, 0x1004, 0x1011, 0x1012, 0x1021, 0x1022, 0x2001, 0x3001, 0x5001},
		"cloneargs":  {88, 88, 64, 80, 0, 63, 4096, 5000},
		"sigset":     {8, 8, 8, 8, 8, 8, 0, 16, 128},
		"robust":     {24, 24, 0},
		"futex":      {0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 128, 129, 131, 132, 133, 134, 135, 137, 138, 139, 140, 256, 265, 0x100 | 137},
		"prctl":      {1, 2, 3, 4, 7, 8, 15, 16, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 47, 52, 53, 55, 56, 62, 65, 66, 0x53564d41, 0x59616d61, 11, 12, 13, 14, 19, 20},
		"ptrace":     {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 16, 16, 17, 24, 31, 32, 0x4200, 0x4201, 0x4202, 0x4203, 0x4204, 0x4205, 0x4206, 0x4206, 0x4206, 0x4207, 0x4208, 0x4209, 0x420a, 0x420b, 0x420c, 0x420d, 0x420e, 0x420f, 0x4210, 0x4211},
		"membarrier": {0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512},
		"clock":      {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0xffffffffffffffe6, 0xfffffffffffffffe, 0xfffffffffffffffd},
		"uringoff":   {0, 0x8000000, 0x10000000, 0x80000000, 0xc0000000},
		"family":     {1, 1, 2, 2, 10, 10, 16, 16, 0, 17, 38, 40},
		"socktype":   {1, 2, 3, 5, 1 | 2048, 2 | 2048, 5 | 2048, 3 | 2048, 1 | 0x80000, 4, 10},
		"protocol":   {0, 0, 0, 0, 1, 6, 17, 58, 255, 15, 4, 136},
		"addrlen":    {16, 16, 28, 28, 110, 2, 0, 12, 128, 129, 0xffffffff, 20},
		"level":      {1, 1, 0, 6, 41, 17, 270, 58, 255},
		"sockioctl":  {0x8901, 0x8902, 0x8903, 0x8904, 0x8905, 0x8906, 0x8910, 0x8912, 0x8913, 0x8914, 0x8915, 0x8916, 0x891b, 0x8927, 0x8933, 0x541b, 0x5411, 0x894b, 0x8921},
		"keyring":    {0xffffffff, 0xfffffffe, 0xfffffffd, 0xfffffffc, 0xfffffffb, 0xfffffffa, 0xfffffff9, 0, 1},
		"ttyioctl": {0x5401, 0x5402, 0x5403, 0x5404, 0x5405, 0x5406, 0x5407, 0x5408, 0x5409, 0x540a, 0x540b, 0x540c, 0x540d, 0x540e, 0x540f, 0x5410, 0x5411, 0x5412, 0x5413, 0x5414, 0x5415, 0x541a,
			0x541b, 0x541d, 0x5420, 0x5421, 0x5422, 0x5423, 0x5424, 0x5429, 0x5430, 0x5431, 0x5432, 0x5437, 0x5438, 0x5440, 0x5441, 0x802c542a, 0x402c542b},
	}
	// paths that are there, or may be, come first.
	paths = []string{
		"file", "file", "a", "b", "d", "d/a", "d/b", "d/d", "e", "l", "e/a", ".", "/host/file", "/host/a", "/host/d", "/host/d/a", "/dev/shm/a",
		"..", "/", "", "/host", "d/../d/a", "a/",
		"/proc/self", "/proc/self/fd", "/proc/self/maps", "/proc/self/mem", "/proc/self/exe", "/proc/self/status", "/proc/self/task", "/proc/1/root", "/proc/1/environ", "/proc/1/mem",
		"/proc/self/ns/mnt", "/proc/self/ns/pid", "/proc/self/ns/net", "/proc/self/ns/user", "/proc/self/mountinfo", "/proc/self/attr/current", "/proc/self/uid_map", "/proc/self/setgroups",
		"/proc/self/smaps", "/proc/self/pagemap", "/proc/self/fdinfo/3", "/proc/self/timers", "/proc/self/coredump_filter", "/proc/self/clear_refs", "/proc/self/comm", "/proc/self/auxv",
		"/proc/meminfo", "/proc/stat", "/proc/cpuinfo", "/proc/net/tcp", "/proc/net/unix", "/proc/sys/kernel/hostname", "/proc/sys/fs", "/proc/locks", "/proc/sysvipc/shm", "/proc/keys",
		"/proc/cmdline", "/proc/version", "/proc/kmsg", "/proc/kcore", "/proc/interrupts", "/proc/mounts", "/proc/self/fd/0", "/proc/self/fd/21", "/proc/thread-self/fd",
		"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts/0", "/dev/shm/a", "/dev/mqueue", "/dev/fuse", "/dev/fd/3",
		"/sys", "/sys/devices/system/cpu/online", "/sys/fs/cgroup", "/sys/fs/cgroup/memory.max", "/etc/passwd", "/executor", "/tmp", "/tmp/a",
	}
	texts = map[string][]string{
		"dirpath":   {"d", "d/d", ".", "/host", "/work", "/tmp", "e", "/proc", "/dev/pts", "/"},
		"mountdata": {"", "size=1m", "lowerdir=d,upperdir=e,workdir=f", "lowerdir=d:e", "newinstance", "mode=700,uid=1", "fd=5,rootmode=40000,user_id=0,group_id=0", "size=99999999999999999", "hidepid=2"},
		"xattr":     {"user.a", "user.b", "trusted.a", "security.capability", "system.posix_acl_access", "", "user.", "a", "overlay.opaque", "trusted.overlay.opaque", "size", "source", "mode"},
		"fstype":    {"tmpfs", "proc", "sysfs", "overlay", "devpts", "mqueue", "fuse", "bpf", "cgroup2", "ext4", "", "devtmpfs", "ramfs"},
		"mqname":    {"a", "b", "/a", "", "c"},
		"keytype":   {"user", "logon", "keyring", "big_key", ".x", ""},
		"ttypath":   {"/dev/tty", "/dev/ptmx", "/dev/pts/0", "/dev/pts/ptmx", "/dev/pts/1"},
		"program":   {"/executor", "/bin/busybox", "/proc/self/exe", "file", "d", "/dev/null", ""},
	}
	numbers = []uint64{0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 64, 100, 255, 256, 511, 512, 1000, 4095, 4096, 4097, 8192, 65535, 65536, 1 << 20, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32,
		1<<63 - 1, 1 << 63, 1<<64 - 1, 1<<64 - 2, 1<<64 - 100, 1<<64 - 4096}
)

// rule is a row of the grammar.
type rule struct {
	family string
	name   string
	args   []string
	gives  string
}

// rules are the grammar's rows.
func rules() (all []rule) {
	family := ""
	for line := range strings.Lines(grammar) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "# "); ok {
			family = name
			continue
		}
		name, rest, ok := strings.Cut(line, "(")
		if !ok {
			continue
		}
		args, gives, _ := strings.Cut(rest, ")")
		r := rule{family: family, name: name, gives: strings.TrimSpace(gives)}
		if args != "" {
			r.args = strings.Split(args, ", ")
		}
		all = append(all, r)
	}
	return all
}

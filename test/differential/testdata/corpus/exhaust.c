// What a process can take until a limit says no: how many, and with which errno.
#include "corpus.h"
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <arpa/inet.h>
#include <netinet/in.h>

static void limit(int which, long most) { setrlimit(which, &(struct rlimit){most, most}); }
// user: one that nobody else on this machine is, since Linux counts by user.
static int user(void) { return syscall(SYS_setresgid, 4242, 4242, 4242) || syscall(SYS_setresuid, 4242, 4242, 4242); }

// UNTIL prints how often call succeeded before it did not, at most so often.
#define UNTIL(most, call)                                                         \
	do {                                                                      \
		long n = 0;                                                       \
		errno = 0;                                                        \
		while (n < (most) && (long)(call) != -1)                          \
			n++;                                                      \
		say("%s: %ld, then %s", #call, n, n < (most) ? errname(errno) : "no end"); \
	} while (0)

static int pipe_pair(void) { int p[2]; return pipe(p); }
static int unix_pair(void) { int p[2]; return socketpair(AF_UNIX, SOCK_STREAM, 0, p); }

CASE(limit_of_descriptors)
{
	limit(RLIMIT_NOFILE, 40);
	UNTIL(100, dup(0));
	close(39);
	E(pipe_pair());
	E(unix_pair());
	E(dup2(0, 40));
	E(fcntl(0, F_DUPFD, 40));
	close(38), close(37);
	E(epoll_create1(0) >= 0);
	E(eventfd(0, 0) >= 0);
	E(timerfd_create(CLOCK_MONOTONIC, 0) >= 0);
	close(39);
	E(socket(AF_INET, SOCK_STREAM, 0) >= 0);
	E(memfd_create("m", 0));
	E(inotify_init1(0));
	E(syscall(SYS_pidfd_open, getpid(), 0));
	E(open("/dev/ptmx", O_RDWR));
	E(open("f", O_CREAT | O_RDWR, 0600));
	E(access("f", F_OK)); // the name was not made
	E(accept(39, NULL, NULL));
	E(syscall(SYS_io_uring_setup, 4, &(struct io_uring_params){0}));
	E(syscall(SYS_fsopen, "tmpfs", 0));
	E(mq_open("/bulkhead-none", O_RDWR | O_CREAT, 0600, NULL));
}

static int passes(int from, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	return sendmsg(from, &m, MSG_DONTWAIT);
}

CASE(limit_of_descriptors_in_flight)
{
	int p[2];
	limit(RLIMIT_NOFILE, 50);
	E(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	E(user());
	UNTIL(1000, passes(p[0], 0));
}

static int sigtimer(void)
{
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	int id; // the kernel's timer_t
	return syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &id);
}

CASE(limit_of_timers)
{
	E(user());
	limit(RLIMIT_SIGPENDING, 20);
	UNTIL(1000, sigtimer());
}

CASE(limit_of_queued_signals)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	E(user());
	limit(RLIMIT_SIGPENDING, 30);
	UNTIL(1000, sigqueue(getpid(), SIGRTMIN, (union sigval){0}));
	E(kill(getpid(), SIGUSR1)); // one without room is sent all the same
	E(kill(getpid(), SIGRTMIN + 1));
}

CASE(limit_of_processes)
{
	int p[2];
	char byte;
	E(pipe(p));
	E(setuid(100000 + getpid())); // of whom nothing else runs here
	limit(RLIMIT_NPROC, 10);
	long n = 0;
	for (pid_t pid; n < 100; n++) {
		pid = fork();
		if (pid < 0)
			break;
		if (pid == 0) {
			close(p[1]);
			read(p[0], &byte, 1);
			_exit(0);
		}
	}
	say("%ld children, then %s", n, errname(errno));
	close(p[1]);
	while (wait(NULL) > 0)
		;
}

CASE(limit_of_address_space)
{
	limit(RLIMIT_AS, 512L << 20);
	E(mmap(NULL, 600L << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0);
	void *a = mmap(NULL, 300L << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	E(a == MAP_FAILED ? -1 : 0);
	E(mremap(a, 300L << 20, 600L << 20, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
	void *end = sbrk(0);
	E(syscall(SYS_brk, (char *)end + (600L << 20)) == (long)end);
}

CASE(limit_of_locked_memory)
{
	char *a = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	limit(RLIMIT_MEMLOCK, 64 << 10);
	E(user());
	E(mlock(a, 64 << 10));
	E(mlock(a + (64 << 10), 4096));
	E(mlock(a, 32 << 10)); // what is locked already costs nothing
	E(mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) == MAP_FAILED ? -1 : 0);
	E(mlockall(MCL_FUTURE));
}

CASE(limit_of_maps)
{
	// Neighbours with other permissions cannot be one map (vm.max_map_count).
	const long most = 70000;
	char *a = mmap(NULL, most * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	long n = 0;
	while (n < most / 2 && mprotect(a + 2 * n * 4096, 4096, PROT_NONE) == 0)
		n++;
	say("%s after %s", n < most / 2 ? errname(errno) : "no end", n > 30000 ? "tens of thousands" : "few");
	E(munmap(a, most * 4096));
}

CASE(limit_of_file_size)
{
	signal(SIGXFSZ, SIG_IGN);
	limit(RLIMIT_FSIZE, 10000);
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	UNTIL(100, write(fd, (char[1000]){0}, 1000));
	E(ftruncate(fd, 10001));
	E(posix_fallocate(fd, 0, 20000));
	E(pwrite(fd, "abc", 3, 9999));
}

CASE(limit_of_pipes)
{
	int p[2];
	E(pipe(p));
	E(user());
	E(fcntl(p[0], F_SETPIPE_SZ, 1 << 20));
	E(fcntl(p[0], F_SETPIPE_SZ, (1 << 20) + 1)); // fs.pipe-max-size
	E(fcntl(p[0], F_SETPIPE_SZ, 1 << 31));
}

CASE(limit_of_message_queues)
{
	struct mq_attr attr = {.mq_maxmsg = 10, .mq_msgsize = 8192};
	char name[32];
	E(user());
	limit(RLIMIT_MSGQUEUE, 819200);
	int n = 0;
	for (; n < 100; n++) {
		sprintf(name, "/bulkhead-%d", n);
		if (mq_open(name, O_CREAT | O_RDWR, 0600, &attr) < 0)
			break;
	}
	say("%d queues, then %s", n, errname(errno));
	attr.mq_maxmsg = 100000;
	E(mq_open("/bulkhead-large", O_CREAT | O_RDWR, 0600, &attr));
	attr = (struct mq_attr){.mq_maxmsg = 10, .mq_msgsize = 1 << 30};
	E(mq_open("/bulkhead-large", O_CREAT | O_RDWR, 0600, &attr));
	while (n--) {
		sprintf(name, "/bulkhead-%d", n);
		mq_unlink(name);
	}
}

static long key(int n)
{
	char name[32];
	sprintf(name, "bulkhead-%d", n);
	return syscall(SYS_add_key, "user", name, "x", 1, -2); // the process's keyring
}

CASE(limit_of_keys)
{
	E(user());
	int n = 0;
	for (; n < 1000 && key(n) >= 0; n++)
		;
	say("%s keys, then %s", n > 150 && n <= 200 ? "almost 200" : "other", errname(errno));
	E(syscall(SYS_add_key, "user", "large", malloc(30000), 30000, -2));
	E(syscall(SYS_add_key, "user", "larger", malloc(40000), 40000, -2));
}

CASE(limit_of_sysv_objects)
{
	E(unshare(CLONE_NEWIPC));
	put("/proc/sys/kernel/shmmni", "50");
	put("/proc/sys/kernel/msgmni", "60");
	put("/proc/sys/kernel/sem", "32000 1024000000 500 70");
	UNTIL(100000, shmget(IPC_PRIVATE, 4096, 0600));
	UNTIL(100000, semget(IPC_PRIVATE, 1, 0600));
	UNTIL(100000, msgget(IPC_PRIVATE, 0600));
	E(semget(IPC_PRIVATE, 32001, 0600));
	E(shmget(IPC_PRIVATE, 0, 0600));
	E(shmget(IPC_PRIVATE, -1, 0600));
}

CASE(limit_of_sysv_messages)
{
	struct { long type; char text[4096]; } m = {1};
	E(unshare(CLONE_NEWIPC));
	int id = msgget(IPC_PRIVATE, 0600);
	UNTIL(1000, msgsnd(id, &m, 4096, IPC_NOWAIT));
	struct msqid_ds set;
	int empty = msgget(IPC_PRIVATE, 0600);
	E(msgctl(empty, IPC_STAT, &set));
	set.msg_qbytes = 100;
	E(msgctl(empty, IPC_SET, &set));
	UNTIL(1000, msgsnd(empty, &m, 0, IPC_NOWAIT)); // a queue takes no more messages than bytes
	struct sembuf up = {0, 1, SEM_UNDO}, many[501] = {{0}};
	int sem = semget(IPC_PRIVATE, 1, 0600);
	E(semctl(sem, 0, SETVAL, 32700));
	UNTIL(1000, semop(sem, &up, 1)); // SEMVMX, and what can be undone
	E(semop(sem, many, 501));
}

static int nest(int depth)
{
	int s;
	pid_t pid = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
	if (pid < 0) {
		say("%d: %s", depth, errname(errno));
		return 0;
	}
	if (pid == 0)
		_exit(depth < 50 ? nest(depth + 1) : 0);
	waitpid(pid, &s, 0);
	return 0;
}

CASE(limit_of_nested_namespaces)
{
	nest(1);
	int n = 0;
	while (n < 50 && unshare(CLONE_NEWUSER) == 0)
		n++;
	say("%d user namespaces, then %s", n, errname(errno));
}

CASE(limit_of_nested_epolls)
{
	struct epoll_event e = {EPOLLIN};
	int p[2], inner = epoll_create1(0), n = 0;
	pipe(p);
	E(epoll_ctl(inner, EPOLL_CTL_ADD, p[0], &e));
	for (; n < 20; n++) {
		int outer = epoll_create1(0);
		if (epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e))
			break;
		inner = outer;
	}
	say("%d, then %s", n, errname(errno));
	// Many paths to one file: 1,000 of one epoll, 500 of two, …
	UNTIL(2000, epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, inner, &e));
}

CASE(limit_of_aio)
{
	aio_context_t c = 0;
	E(syscall(SYS_io_setup, 1 << 30, &c));
	E(syscall(SYS_io_setup, 0, &c));
	c = 0;
	E(syscall(SYS_io_setup, 70000, &c)); // fs.aio-max-nr
}

CASE(limit_of_rings)
{
	struct io_uring_params p = {0};
	E(syscall(SYS_io_uring_setup, 0, &p));
	E(syscall(SYS_io_uring_setup, 40000, &p));
	p = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = 1 << 20};
	E(syscall(SYS_io_uring_setup, 8, &p));
}

CASE(limit_of_a_backlog)
{
	struct sockaddr_un at = {AF_UNIX, "s"};
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	E(bind(l, (void *)&at, sizeof at));
	E(listen(l, 3));
	UNTIL(100, connect(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), (void *)&at, sizeof at));
	struct sockaddr_un dgram = {AF_UNIX, "d"};
	int d = socket(AF_UNIX, SOCK_DGRAM, 0), from = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	E(bind(d, (void *)&dgram, sizeof dgram));
	UNTIL(1000, sendto(from, "x", 1, 0, (void *)&dgram, sizeof dgram)); // net.unix.max_dgram_qlen
}

CASE(limit_of_a_tmpfs)
{
	E(unshare(CLONE_NEWNS));
	mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mkdir("t", 0700);
	E(mount("t", "t", "tmpfs", 0, "size=1m,nr_inodes=20"));
	char name[32];
	int n = 0, fd;
	for (; n < 100; n++) {
		sprintf(name, "t/%d", n);
		if ((fd = open(name, O_CREAT | O_RDWR, 0600)) < 0)
			break;
		close(fd);
	}
	say("%d files, then %s", n, errname(errno));
	E(mkdir("t/d", 0700));
	E(symlink("a", "t/l"));
	E(link("t/0", "t/h"));
	fd = open("t/0", O_RDWR);
	UNTIL(1000, write(fd, malloc(65536), 65536));
	E(fallocate(fd, 0, 0, 2 << 20));
	E(setxattr("t/1", "trusted.b", malloc(65537), 65537, 0));
}

// A user's pipes get little room past fs.pipe-user-pages-soft.
CASE(limit_of_pipe_pages)
{
	int p[2], first[2], n = 0;
	limit(RLIMIT_NOFILE, 2200);
	E(user());
	pipe(first);
	E(fcntl(first[0], F_GETPIPE_SZ));
	while (n < 1040 && pipe(p) == 0 && fcntl(p[0], F_GETPIPE_SZ) == 65536)
		n++;
	E(n);
	E(fcntl(p[0], F_GETPIPE_SZ));
	E(fcntl(p[0], F_SETPIPE_SZ, 65536));
	E(fcntl(first[0], F_SETPIPE_SZ, 131072));
	E(fcntl(first[0], F_SETPIPE_SZ, 32768));
	E(fcntl(first[0], F_SETPIPE_SZ, 65536));
	fcntl(p[1], F_SETFL, O_NONBLOCK);
	char page[4096] = {0};
	UNTIL(20, write(p[1], page, sizeof page));
	E(mkfifo("f", 0600));
	int f = open("f", O_RDWR);
	E(fcntl(f, F_GETPIPE_SZ));
	for (int fd = 3; fd < 100; fd++)
		close(fd);
	E(pipe(p));
	E(fcntl(p[0], F_GETPIPE_SZ));
}

// Each call that sleeps, interrupted by a handler with and without SA_RESTART (man 7
// signal). A child sees its parent asleep in the call, signals, waits until the
// handler ran and the parent sleeps again, be it in the same call, and then feeds it.
#include "corpus.h"
#include <linux/futex.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static volatile int *rang, *word; // shared with the child

static void ring(int n) { ++*rang; }

static pid_t interrupter(int flags, void (*feed)(void))
{
	if (!rang) {
		rang = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		word = rang + 1;
	}
	struct sigaction a = {.sa_handler = ring, .sa_flags = flags ? SA_RESTART : 0};
	sigaction(SIGUSR1, &a, NULL);
	*rang = *word = 0;
	pid_t parent = getpid(), child = fork();
	if (child)
		return child;
	until_state(parent, 'S');
	kill(parent, SIGUSR1);
	while (!*rang)
		nap(1);
	until_state(parent, 'S');
	feed();
	_exit(0);
}

#define INTERRUPTED(call, feed, ...)                                                      \
	for (int flags = 0; flags < 2; flags++) {                                         \
		pid_t helper = interrupter(flags, feed);                                  \
		errno = 0;                                                                \
		long r = call;                                                            \
		int e = errno;                                                            \
		say("%s %s: %ld %s", #call, flags ? "restarting" : "plain", r, r < 0 ? errname(e) : ""); \
		waitpid(helper, NULL, 0);                                                 \
		__VA_ARGS__;                                                              \
	}

static int in, out;
static char b[1 << 16];
static void give(void) { write(out, "f", 1); }
static void nothing(void) {}
static void empty(void)
{
	while (read(in, b, sizeof b) > 0)
		;
}

static void ends(int socket)
{
	int p[2];
	socket ? socketpair(AF_UNIX, SOCK_STREAM, 0, p) : pipe(p);
	in = p[0], out = p[1];
}

CASE(restart_reads)
{
	ends(0);
	INTERRUPTED(read(in, b, 8), give, fcntl(in, F_SETFL, O_NONBLOCK), read(in, b, 8), fcntl(in, F_SETFL, 0))
	INTERRUPTED(readv(in, &(struct iovec){b, 8}, 1), give, )
	ends(1);
#define LEFT recv(in, b, 8, MSG_DONTWAIT)
	INTERRUPTED(read(in, b, 8), give, LEFT)
	INTERRUPTED(recv(in, b, 8, 0), give, LEFT)
	INTERRUPTED(recvmsg(in, &(struct msghdr){.msg_iov = &(struct iovec){b, 8}, .msg_iovlen = 1}, 0), give, LEFT)
	INTERRUPTED(recv(in, b, 1, MSG_PEEK), give, LEFT)
	struct timeval t = {50};
	setsockopt(in, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	INTERRUPTED(recv(in, b, 8, 0), give, LEFT)
	INTERRUPTED(read(in, b, 8), give, LEFT)
}

CASE(restart_writes)
{
	static char big[1 << 20];
	ends(0);
	fcntl(out, F_SETFL, O_NONBLOCK), write(out, big, sizeof big), fcntl(out, F_SETFL, 0);
	fcntl(in, F_SETFL, O_NONBLOCK);
	INTERRUPTED(write(out, big, 100), empty, fcntl(out, F_SETFL, O_NONBLOCK), write(out, big, sizeof big), fcntl(out, F_SETFL, 0))
}

CASE(restart_polls)
{
	ends(0);
	fcntl(in, F_SETFL, O_NONBLOCK);
	struct pollfd f = {in, POLLIN};
	fd_set set, one;
	FD_ZERO(&one);
	FD_SET(in, &one);
	int e = epoll_create1(0);
	struct epoll_event ev = {EPOLLIN};
	epoll_ctl(e, EPOLL_CTL_ADD, in, &ev);
	sigset_t none;
	sigemptyset(&none);
	struct timespec long_time = {50};
	INTERRUPTED(poll(&f, 1, -1), give, read(in, b, 8))
	INTERRUPTED(poll(&f, 1, 50000), give, read(in, b, 8))
	INTERRUPTED(ppoll(&f, 1, &long_time, NULL), give, read(in, b, 8))
	INTERRUPTED(epoll_wait(e, &ev, 1, -1), give, read(in, b, 8))
	INTERRUPTED((set = one, select(in + 1, &set, NULL, NULL, NULL)), give, read(in, b, 8))
	INTERRUPTED((set = one, pselect(in + 1, &set, NULL, NULL, NULL, &none)), give, read(in, b, 8))
}

CASE(restart_sleeps)
{
	struct timespec t = {50}, left = {0};
	INTERRUPTED(nanosleep(&t, &left), nothing, say("%d", left.tv_sec > 20))
	INTERRUPTED(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &t, NULL), nothing, )
	INTERRUPTED(pause(), nothing, )
	sigset_t none, hup;
	sigemptyset(&none), sigemptyset(&hup), sigaddset(&hup, SIGHUP);
	INTERRUPTED(sigsuspend(&none), nothing, )
	// By number, for musl's wrapper goes on after EINTR.
	INTERRUPTED(syscall(SYS_rt_sigtimedwait, &hup, NULL, &t, 8), nothing, )
}

static void wake(void)
{
	*word = 1;
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

CASE(restart_futex)
{
	struct timespec t = {50};
	INTERRUPTED(syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0), wake, )
	INTERRUPTED(syscall(SYS_futex, word, FUTEX_WAIT, 0, &t, NULL, 0), wake, )
	INTERRUPTED(syscall(SYS_futex, word, FUTEX_WAIT_BITSET, 0, NULL, NULL, 1), wake, )
}

static pid_t holder;
static void let_go(void) { kill(holder, SIGKILL); }

static void hold(int kind)
{
	int ready[2];
	pipe(ready);
	if (!(holder = fork())) {
		int own = open("f", O_RDWR);
		kind ? flock(own, LOCK_EX) : fcntl(own, F_SETLK, &(struct flock){F_WRLCK});
		write(ready[1], "r", 1);
		pause();
	}
	read(ready[0], b, 1);
}

CASE(restart_locks)
{
	put("f", "");
	for (int kind = 0; kind < 2; kind++)
		for (int flags = 0; flags < 2; flags++) {
			int fd = open("f", O_RDWR);
			hold(kind);
			pid_t helper = interrupter(flags, let_go);
			errno = 0;
			int r = kind ? flock(fd, LOCK_EX) : fcntl(fd, F_SETLKW, &(struct flock){F_WRLCK}), e = errno;
			say("%s %d: %s", kind ? "flock" : "fcntl", flags, r ? errname(e) : "ok");
			waitpid(helper, NULL, 0), waitpid(holder, NULL, 0);
			close(fd);
		}
}

CASE(restart_queues)
{
	int m = msgget(IPC_PRIVATE, 0600), s = semget(IPC_PRIVATE, 1, 0600);
	struct { long type; char text[8]; } text = {1};
	struct sembuf down = {0, -1, 0};
	struct timespec t = {50};
	INTERRUPTED(msgrcv(m, &text, 8, 0, 0), nothing, )
	INTERRUPTED(semop(s, &down, 1), nothing, )
	INTERRUPTED(semtimedop(s, &down, 1, &t), nothing, )
	msgctl(m, IPC_RMID, NULL), semctl(s, 0, IPC_RMID);
}

static struct sockaddr_un address = {AF_UNIX, "s"};
static void dial(void) { connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&address, sizeof address); }
static void read_fifo(void) { open("p", O_RDONLY); }
static void write_fifo(void) { open("p", O_WRONLY); }

CASE(restart_accept)
{
	int l = socket(AF_UNIX, SOCK_STREAM, 0);
	bind(l, (void *)&address, sizeof address), listen(l, 5);
	INTERRUPTED(accept(l, NULL, NULL) < 0, dial, fcntl(l, F_SETFL, O_NONBLOCK), accept(l, NULL, NULL), fcntl(l, F_SETFL, 0))
	struct timeval t = {50};
	setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	INTERRUPTED(accept(l, NULL, NULL) < 0, dial, fcntl(l, F_SETFL, O_NONBLOCK), accept(l, NULL, NULL), fcntl(l, F_SETFL, 0))
}

CASE(restart_opens)
{
	// Only with SA_RESTART: without, the child would wait for a parent that gave up.
	mkfifo("p", 0600);
	pid_t helper = interrupter(1, read_fifo);
	OK(open("p", O_WRONLY));
	waitpid(helper, NULL, 0);
	helper = interrupter(1, write_fifo);
	OK(open("p", O_RDONLY));
	waitpid(helper, NULL, 0);
	mkfifo("q", 0600);
	helper = interrupter(0, nothing);
	E(open("q", O_RDONLY));
	waitpid(helper, NULL, 0);
}

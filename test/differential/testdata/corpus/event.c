#include "corpus.h"
#include <linux/memfd.h>

CASE(pipes)
{
	int p[2];
	char b[100];
	E(pipe(p));
	E(write(p[1], "hello", 5));
	E(ioctl(p[0], FIONREAD, (int *)b));
	say("%d", *(int *)b);
	E(read(p[0], b, 3));
	E(read(p[0], b, 100));
	E(write(p[0], "x", 1));
	E(read(p[1], b, 1));
	fcntl(p[0], F_SETFL, O_NONBLOCK), fcntl(p[1], F_SETFL, O_NONBLOCK);
	E(read(p[0], b, 1));
	E(fcntl(p[0], F_GETPIPE_SZ));
	E(fcntl(p[0], F_SETPIPE_SZ, 5000));
	static char big[100000];
	E(write(p[1], big, sizeof big));
	E(write(p[1], big, 1));
	E(fcntl(p[0], F_SETPIPE_SZ, 4096));
	E(read(p[0], big, 1000));
	E(write(p[1], big, 4096)); // no page is free: atomic writes fit whole or not at all
	E(read(p[0], big, sizeof big));
	E(close(p[1]));
	E(read(p[0], b, 1));
	E(pipe2(p, O_NONBLOCK | O_CLOEXEC));
	E(fcntl(p[0], F_GETFL));
	E(fcntl(p[1], F_GETFD));
	E(pipe2(p, O_APPEND));
	E(pipe((int *)8));
	E(close(p[0]));
	signal(SIGPIPE, SIG_IGN);
	E(write(p[1], "x", 1));
	pipe(p);
	CHILD {
		signal(SIGPIPE, SIG_DFL);
		close(p[0]);
		write(p[1], "x", 1);
	}
	close(p[0]);
	CHILD { signal(SIGPIPE, SIG_DFL), write(p[1], "x", 1); }
	E(pipe2(p, O_DIRECT));
	E(write(p[1], "one", 3));
	E(write(p[1], "three", 5));
	E(read(p[0], b, 2));
	E(read(p[0], b, 100));
}

CASE(blocking_pipe)
{
	int p[2], q[2];
	static char big[1 << 20];
	pipe(p), pipe(q);
	if (!(child_pid = fork())) {
		close(p[1]);
		long total = 0, n;
		while ((n = read(p[0], big, 7777)) > 0) {
			for (long i = 0; i < n; i++)
				if (big[i] != (char)((total + i) % 251))
					_exit(1);
			total += n;
		}
		say("reader had %ld", total);
		write(q[1], "d", 1);
		_exit(0);
	}
	for (long i = 0; i < (long)sizeof big; i++)
		big[i] = i % 251;
	E(write(p[1], big, sizeof big));
	close(p[1]), close(p[0]);
	E(read(q[0], big, 1));
	int s;
	waitpid(child_pid, &s, 0);
	status("reader", s);
}

CASE(fifos)
{
	char b[10];
	E(mkfifo("p", 0644));
	E(mkfifo("p", 0644));
	E(open("p", O_WRONLY | O_NONBLOCK));
	int r = open("p", O_RDONLY | O_NONBLOCK);
	OK(r);
	E(read(r, b, 1)); // no writer: end of file
	int w = open("p", O_WRONLY | O_NONBLOCK);
	OK(w);
	E(read(r, b, 1));
	E(write(w, "abc", 3));
	E(read(r, b, 10));
	E(lseek(r, 0, SEEK_SET));
	close(w);
	struct pollfd p = {r, POLLIN};
	E(poll(&p, 1, 0));
	say("revents %x", p.revents);
	close(r);
	int both = open("p", O_RDWR);
	OK(both);
	E(write(both, "x", 1));
	E(read(both, b, 1));
	close(both);
	if (!(child_pid = fork())) {
		int fd = open("p", O_WRONLY); // blocks until the reader comes
		write(fd, "from child", 10);
		_exit(0);
	}
	r = open("p", O_RDONLY);
	E(read(r, b, 10));
	dump("b", b, 10);
	E(read(r, b, 10));
	wait(NULL);
}

CASE(polls)
{
	int p[2], s[2];
	pipe(p);
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	int file = open("f", O_CREAT | O_RDWR, 0600);
	struct pollfd f[6] = {{p[0], POLLIN}, {p[1], POLLOUT | POLLIN}, {s[0], POLLIN | POLLOUT | POLLRDHUP}, {file, POLLIN | POLLOUT}, {99, POLLIN}, {-1, POLLIN}};
#define POLL E(poll(f, 6, 0)), say("%x %x %x %x %x %x", f[0].revents, f[1].revents, f[2].revents, f[3].revents, f[4].revents, f[5].revents)
	POLL;
	write(p[1], "x", 1), write(s[1], "y", 1);
	POLL;
	shutdown(s[1], SHUT_WR);
	POLL;
	close(s[1]);
	POLL;
	close(p[1]);
	f[1].fd = -1;
	POLL;
	char c;
	read(p[0], &c, 1);
	POLL;
	pipe(p);
	close(p[0]);
	f[1].fd = p[1], f[0].fd = -1;
	POLL;
	E(poll(NULL, 0, 10));
	E(poll((void *)8, 1, 0));
	E(poll(f, 1 << 30, 0));
	struct timespec t = {0, 1000000}, bad = {0, -1};
	E(ppoll(NULL, 0, &t, NULL));
	E(ppoll(NULL, 0, &bad, NULL));
	fd_set r, w;
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_SET(file, &r);
	FD_SET(p[1], &w);
	struct timeval v = {0, 0};
	E(select(p[1] + 1, &r, &w, NULL, &v));
	say("%d %d", FD_ISSET(file, &r) != 0, FD_ISSET(p[1], &w) != 0);
	FD_SET(50, &r); // within the 64 that a small table holds, or Linux ignores it
	E(select(100, &r, NULL, NULL, &v));
	E(select(-1, &r, NULL, NULL, &v));
	v.tv_usec = 2000;
	E(select(0, NULL, NULL, NULL, &v));
	say("left %ld", (long)v.tv_usec);
	v.tv_sec = -1;
	E(select(0, NULL, NULL, NULL, &v));
}

// So many seconds that their nanoseconds, in 64 bits, are none: s6-supervise's for ever.
CASE(waits_for_ever)
{
	int p[2];
	pipe(p);
	pid_t pid = fork();
	if (pid == 0) {
		usleep(30000);
		_exit(write(p[1], "x", 1) != 1);
	}
	struct timespec t = {1L << 62, 0};
	E(ppoll(&(struct pollfd){p[0], POLLIN}, 1, &t, NULL));
	waitpid(pid, NULL, 0);
	fd_set none;
	FD_ZERO(&none);
	sigset_t child;
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	if ((pid = fork()) == 0)
		usleep(30000), _exit(0);
	t.tv_sec = 1L << 62;
	E(sigtimedwait(&child, NULL, &t) == SIGCHLD);
	waitpid(pid, NULL, 0);
	if ((pid = fork()) == 0)
		usleep(30000), _exit(write(p[1], "x", 1) != 1);
	fd_set r;
	FD_ZERO(&r);
	read(p[0], &(char){0}, 1);
	FD_SET(p[0], &r);
	struct timeval v = {1L << 62, 0};
	E(syscall(SYS_select, p[0] + 1, &r, NULL, NULL, &v));
	waitpid(pid, NULL, 0);
	// A clock is not set so far on, whoever asks.
	E(clock_settime(CLOCK_REALTIME, &(struct timespec){1L << 62, 0}));
	E(clock_settime(CLOCK_REALTIME, &(struct timespec){9223372036 - 30L * 365 * 86400, 0}));
	E(syscall(SYS_settimeofday, &(struct timeval){1L << 62, 0}, NULL));
	E(syscall(SYS_settimeofday, (void *)8, NULL));
	CHILD {
		setuid(1000);
		E(syscall(SYS_settimeofday, &(struct timeval){-1, 0}, NULL));
		E(syscall(SYS_settimeofday, NULL, NULL));
		E(clock_settime(CLOCK_REALTIME, &(struct timespec){1, -1}));
	}
}

static void on_signal(int n) { say("signal %d", n); }

CASE(poll_and_signals)
{
	sigset_t none, block;
	struct sigaction a = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &a, NULL);
	sigemptyset(&none), sigemptyset(&block), sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	raise(SIGUSR1);
	E(poll(NULL, 0, 1));
	E(ppoll(NULL, 0, NULL, &none));
	raise(SIGUSR1);
	E(pselect(0, NULL, NULL, NULL, NULL, &none));
	int e = epoll_create1(0);
	struct epoll_event event;
	raise(SIGUSR1);
	E(epoll_pwait(e, &event, 1, -1, &none));
	sigset_t now;
	sigprocmask(SIG_SETMASK, NULL, &now);
	say("still blocked %d", sigismember(&now, SIGUSR1));
	raise(SIGUSR1);
	struct timespec zero = {0, 0};
	E(ppoll(NULL, 0, &zero, &none)); // a poll that need not wait delivers nothing, but the signal stays
	sigpending(&now);
	say("pending %d", sigismember(&now, SIGUSR1));
	int p[2];
	pipe(p);
	write(p[1], "x", 1);
	struct pollfd f = {p[0], POLLIN};
	E(ppoll(&f, 1, NULL, &none));
}

static void waits(int e, int max)
{
	struct epoll_event v[16];
	int n = epoll_wait(e, v, max, 0), bits = 0;
	if (n < 0)
		say("epoll_wait: %s", errname(errno));
	for (int i = 0; i < n; i++)
		bits |= 1 << v[i].data.u32;
	say("epoll_wait %d: members %x, events %x", n, bits, n > 0 ? v[0].events : 0);
}

CASE(epolls)
{
	int p[2], q[2], e = epoll_create1(EPOLL_CLOEXEC);
	E(epoll_create(0));
	E(epoll_create1(1));
	E(fcntl(e, F_GETFD));
	pipe(p), pipe(q);
	struct epoll_event v = {EPOLLIN, {.u32 = 1}};
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v));
	E(epoll_ctl(e, EPOLL_CTL_MOD, q[0], &v));
	E(epoll_ctl(e, EPOLL_CTL_DEL, q[0], &v));
	E(epoll_ctl(e, EPOLL_CTL_ADD, 99, &v));
	E(epoll_ctl(e, EPOLL_CTL_ADD, e, &v));
	E(epoll_ctl(p[0], EPOLL_CTL_ADD, q[0], &v));
	E(epoll_ctl(e, 9, q[0], &v));
	int file = open("f", O_CREAT | O_RDWR, 0600);
	E(epoll_ctl(e, EPOLL_CTL_ADD, file, &v));
	waits(e, 4);
	write(p[1], "ab", 2);
	waits(e, 4);
	waits(e, 4);
	v.events = EPOLLIN | EPOLLET;
	E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &v));
	waits(e, 4);
	waits(e, 4);
	write(p[1], "c", 1);
	waits(e, 4);
	waits(e, 4);
	v.events = EPOLLIN | EPOLLONESHOT;
	E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &v));
	waits(e, 4);
	write(p[1], "d", 1);
	waits(e, 4);
	E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &v));
	waits(e, 4);
	E(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
	v.events = EPOLLIN, v.data.u32 = 2;
	E(epoll_ctl(e, EPOLL_CTL_ADD, q[0], &v));
	int dup_fd = dup(q[0]);
	v.data.u32 = 3;
	E(epoll_ctl(e, EPOLL_CTL_ADD, dup_fd, &v));
	write(q[1], "x", 1);
	waits(e, 4);
	close(q[0]); // the description lives on in the duplicate, and so does the watch
	waits(e, 4);
	close(dup_fd);
	waits(e, 4);
	int outer = epoll_create1(0);
	v.events = EPOLLIN, v.data.u32 = 4;
	E(epoll_ctl(outer, EPOLL_CTL_ADD, e, &v));
	E(epoll_ctl(e, EPOLL_CTL_ADD, outer, &v));
	waits(outer, 4);
	int ev = eventfd(1, 0);
	v.data.u32 = 5;
	E(epoll_ctl(e, EPOLL_CTL_ADD, ev, &v));
	waits(outer, 4);
	struct pollfd f = {outer, POLLIN};
	E(poll(&f, 1, 0));
	E(epoll_wait(e, &v, 0, 0));
	E(epoll_wait(e, (void *)8, 1, 0));
	E(epoll_wait(file, &v, 1, 0));
	close(p[1]);
	v.events = 0, v.data.u32 = 6;
	epoll_ctl(e, EPOLL_CTL_DEL, ev, NULL);
	epoll_ctl(e, EPOLL_CTL_ADD, p[0], &v);
	waits(e, 4); // hang-up is always reported
	int s[2], each[4];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	v.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, v.data.u32 = 7;
	int third = epoll_create1(0);
	epoll_ctl(third, EPOLL_CTL_ADD, s[0], &v);
	waits(third, 4);
	waits(third, 4);
	write(s[1], "x", 1);
	waits(third, 4);
	shutdown(s[1], SHUT_WR);
	waits(third, 4);
	int many = epoll_create1(0);
	for (int i = 0; i < 4; i++) {
		each[i] = eventfd(1, 0);
		v.events = EPOLLIN, v.data.u32 = i;
		epoll_ctl(many, EPOLL_CTL_ADD, each[i], &v);
	}
	waits(many, 2);
	waits(many, 2); // the others have their turn
	waits(many, 16);
}

CASE(epoll_of_thousands)
{
	enum { all = 3000 };
	static struct epoll_event out[all + 8];
	struct rlimit high = {all + 100, all + 100};
	setrlimit(RLIMIT_NOFILE, &high);
	int e = epoll_create1(0);
	for (int i = 0; i < all; i++) {
		struct epoll_event v = {EPOLLIN, {.u32 = i}};
		epoll_ctl(e, EPOLL_CTL_ADD, eventfd(1, 0), &v);
	}
	E(epoll_wait(e, out, all + 8, 0));
	E(epoll_wait(e, out, 2000, 0));
	E(out[0].data.u32);
	E(epoll_wait(e, out, 2000, 0)); // the rest first, then those that had their turn
	E(out[0].data.u32);
	E(epoll_wait(e, out, INT_MAX / sizeof *out, 0));
	E(epoll_wait(e, out, INT_MAX / sizeof *out + 1, 0));
}

// told says which real-time signals about descriptors have come, and forgets them.
static void told(const char *what)
{
	sigset_t set;
	siginfo_t i;
	struct timespec none = {0};
	sigemptyset(&set), sigaddset(&set, SIGIO), sigaddset(&set, SIGRTMIN + 1);
	while (sigtimedwait(&set, &i, &none) > 0)
		if (i.si_signo == SIGIO)
			say("%s: SIGIO, code %d", what, i.si_code);
		else
			say("%s: code %d, band %#lx, descriptor %d", what, i.si_code, i.si_band, i.si_fd);
}

CASE(directory_notes)
{
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, SIGIO), sigaddset(&set, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	mkdir("d", 0755), mkdir("d/sub", 0755), mkdir("e", 0755);
	put("f", "x");
	int f = open("f", O_RDONLY), d = open("d", O_RDONLY), path = open("d", O_PATH);
	E(fcntl(f, F_NOTIFY, DN_MULTISHOT));
	E(fcntl(f, F_NOTIFY, DN_CREATE));
	E(fcntl(path, F_NOTIFY, DN_CREATE));
	E(fcntl(d, F_NOTIFY, DN_MULTISHOT));
	E(fcntl(d, F_GETOWN));
	E(fcntl(d, F_NOTIFY, DN_CREATE));
	E(fcntl(d, F_GETOWN) == getpid());
	put("d/a", "a");
	told("created");
	put("d/b", "b");
	told("only once");
	E(fcntl(d, F_SETSIG, SIGRTMIN + 1));
	E(fcntl(d, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
	put("d/c", "c");
	told("another");
	unlink("d/c");
	told("removed");
	E(fcntl(d, F_NOTIFY, DN_DELETE | DN_RENAME));
	rename("d/a", "d/a2");
	told("renamed");
	rename("d/a2", "e/a");
	told("moved out");
	rename("e/a", "d/a");
	told("moved in");
	rename("e", "d/e");
	told("a directory in");
	chmod("d/a", 0600);
	told("changed");
	E(fcntl(d, F_NOTIFY, DN_ATTRIB | DN_MODIFY | DN_ACCESS | DN_MULTISHOT));
	chmod("d/a", 0644);
	told("changed");
	put("d/sub/x", "far below");
	told("below");
	int a = open("d/a", O_RDWR);
	char c;
	read(a, &c, 1);
	told("read");
	pwrite(a, "yy", 2, 0);
	told("written");
	ftruncate(a, 1);
	told("cut");
	int same = dup(d), again = open("d", O_RDONLY);
	CHILD {
		mkdir("d/of_child", 0755);
		close(d);
	}
	told("by a child");
	close(again);
	mkdir("d/still", 0755);
	told("still");
	close(same); // any of its numbers
	mkdir("d/after", 0755);
	told("after the close");
	again = open("d", O_RDONLY);
	E(fcntl(again, F_SETOWN, 0x7fffff));
	E(fcntl(again, F_SETOWN, -0x7fffff));
	E(fcntl(again, F_SETOWN, INT_MIN));
	E(fcntl(again, F_GETOWN));
	struct f_owner_ex o = {9, 0};
	E(fcntl(again, F_SETOWN_EX, &o));
	o.type = F_OWNER_TID, o.pid = gettid();
	E(fcntl(again, F_SETOWN_EX, &o));
	E(fcntl(again, F_NOTIFY, DN_DELETE));
	E(fcntl(again, F_GETOWN) == gettid());
	rmdir("d/after");
	told("to a thread");
	setpgid(0, 0);
	E(fcntl(again, F_SETOWN, -getpid()));
	E(fcntl(again, F_SETSIG, SIGCHLD));
	E(fcntl(again, F_SETSIG, 0));
	E(fcntl(again, F_NOTIFY, DN_DELETE));
	rmdir("d/still");
	told("to a process group");
	E(fcntl(again, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
	if (!fork()) {
		setpgid(0, 0);
		E(fcntl(again, F_NOTIFY, DN_CREATE | DN_MULTISHOT)); // this process's own, to the same group
		mkdir("d/two", 0755);
		told("in another group");
		_exit(0);
	}
	wait(NULL);
	told("twice told is once");
}

CASE(epoll_wakes)
{
	int e = epoll_create1(0), ev = eventfd(0, 0);
	struct epoll_event v = {EPOLLIN | EPOLLET, {.u32 = 9}};
	epoll_ctl(e, EPOLL_CTL_ADD, ev, &v);
	pid_t parent = getpid();
	if (!(child_pid = fork())) {
		until_state(parent, 'S');
		uint64_t one = 1;
		write(ev, &one, 8);
		_exit(0);
	}
	E(epoll_wait(e, &v, 1, -1));
	wait(NULL);
	E(epoll_wait(e, &v, 1, 5));
}

CASE(eventfds)
{
	uint64_t v = 3;
	int e = eventfd(0, EFD_NONBLOCK);
	E(read(e, &v, 8));
	v = 3;
	E(write(e, &v, 8));
	E(write(e, &v, 8));
	E(read(e, &v, 8));
	say("%ld", (long)v);
	v = -1;
	E(write(e, &v, 8));
	v = -2;
	E(write(e, &v, 8));
	v = 1;
	E(write(e, &v, 8));
	struct pollfd p = {e, POLLIN | POLLOUT};
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	E(read(e, &v, 4));
	E(write(e, &v, 4));
	E(read(e, &v, 100 > 8 ? 8 : 0));
	say("%lx", (long)v);
	int s = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
	E(read(s, &v, 8));
	say("%ld", (long)v);
	E(read(s, &v, 8));
	E(read(s, &v, 8));
	E(eventfd(0, 1 << 20));
	E(lseek(s, 0, SEEK_SET));
	E(pread(s, &v, 8, 0));
	E(fcntl(s, F_GETFD));
	int b = eventfd(0, 0);
	CHILD {
		v = 5;
		write(b, &v, 8);
	}
	E(read(b, &v, 8));
	say("%ld", (long)v);
}

CASE(timerfds)
{
	uint64_t n;
	int t = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	OK(t);
	E(timerfd_create(77, 0));
	E(timerfd_create(CLOCK_REALTIME, 1 << 20));
	E(read(t, &n, 8));
	struct itimerspec s = {{0, 0}, {0, 200000000}}, old;
	E(timerfd_settime(t, 0, &s, NULL));
	E(timerfd_gettime(t, &old));
	say("running %d, interval %ld", old.it_value.tv_nsec > 0, old.it_interval.tv_nsec);
	struct pollfd p = {t, POLLIN};
	E(poll(&p, 1, -1));
	E(read(t, &n, 8));
	say("%ld", (long)n);
	E(read(t, &n, 8));
	s.it_interval.tv_nsec = 1000000, s.it_value.tv_nsec = 1000000;
	E(timerfd_settime(t, 0, &s, NULL));
	nap(30);
	E(read(t, &n, 8));
	say("many %d", n >= 10 && n < 1000);
	E(read(t, &n, 4));
	s.it_value.tv_nsec = 0;
	E(timerfd_settime(t, 0, &s, NULL));
	E(timerfd_gettime(t, &old));
	say("stopped %ld", old.it_value.tv_nsec);
	s.it_value.tv_nsec = 1000000000;
	E(timerfd_settime(t, 0, &s, NULL));
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	struct itimerspec at = {{0, 0}, {now.tv_sec - 1, 0}};
	E(timerfd_settime(t, TFD_TIMER_ABSTIME, &at, NULL));
	E(poll(&p, 1, -1));
	E(read(t, &n, 8));
	say("%ld", (long)n);
	E(timerfd_settime(0, 0, &s, NULL));
	E(timerfd_settime(t, 99, &s, NULL));
	E(write(t, &n, 8));
	int blocking = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC);
	s.it_value.tv_nsec = 3000000, s.it_interval.tv_nsec = 0;
	E(timerfd_settime(blocking, 0, &s, NULL));
	E(read(blocking, &n, 8));
	say("%ld", (long)n);
}

CASE(signalfds)
{
	sigset_t m;
	struct signalfd_siginfo i[3];
	sigemptyset(&m), sigaddset(&m, SIGUSR1), sigaddset(&m, SIGRTMIN), sigaddset(&m, SIGCHLD);
	sigprocmask(SIG_BLOCK, &m, NULL);
	int s = signalfd(-1, &m, SFD_NONBLOCK);
	OK(s);
	E(read(s, i, sizeof i));
	raise(SIGUSR1), raise(SIGUSR1);
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 7});
	sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 8});
	struct pollfd p = {s, POLLIN};
	E(poll(&p, 1, 0));
	E(read(s, i, sizeof i));
	for (int k = 0; k < 3; k++)
		say("signo - %d code %d int %d from us %d", i[k].ssi_signo == (unsigned)SIGRTMIN ? 0 : i[k].ssi_signo, i[k].ssi_code, i[k].ssi_int, i[k].ssi_pid == (unsigned)getpid());
	E(read(s, i, 10));
	if (!(child_pid = fork()))
		_exit(3);
	poll(&p, 1, -1);
	E(read(s, i, sizeof i[0]));
	say("%d %d status %d child %d", i[0].ssi_signo, i[0].ssi_code, i[0].ssi_status, i[0].ssi_pid == (unsigned)child_pid);
	wait(NULL);
	sigemptyset(&m), sigaddset(&m, SIGUSR2);
	sigprocmask(SIG_BLOCK, &m, NULL);
	E(signalfd(s, &m, 0) == s);
	raise(SIGUSR1);
	E(read(s, i, sizeof i));
	raise(SIGUSR2);
	E(read(s, i, sizeof i[0]));
	E(signalfd(0, &m, 0));
	E(signalfd(-1, &m, 12345));
}

CASE(memfds)
{
	char b[16] = "";
	int m = memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	OK(m);
	E(write(m, "0123456789", 10));
	E(pread(m, b, 4, 2));
	dump("b", b, 4);
	E(ftruncate(m, 8192));
	char *shared = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0);
	shared[5000] = 'x';
	E(pread(m, b, 1, 5000));
	say("%c", b[0]);
	E(fcntl(m, F_GET_SEALS));
	E(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE));
	E(munmap(shared, 8192));
	E(fcntl(m, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK));
	E(write(m, "x", 1));
	E(ftruncate(m, 4096));
	E(ftruncate(m, 16384));
	E(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0) == MAP_FAILED);
	OK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, m, 0) == MAP_FAILED ? -1 : 0);
	E(fcntl(m, F_ADD_SEALS, F_SEAL_SEAL));
	E(fcntl(m, F_ADD_SEALS, F_SEAL_GROW));
	E(fcntl(m, F_GET_SEALS));
	int plain = memfd_create("", 0);
	E(fcntl(plain, F_GET_SEALS));
	E(fcntl(plain, F_ADD_SEALS, F_SEAL_GROW));
	E(fcntl(0, F_GET_SEALS));
	E(memfd_create("x", 0x8000));
	char path[40], link[64] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", m);
	E(readlink(path, link, sizeof link));
	say("%s", link);
	struct stat s;
	fstat(m, &s);
	say("%o %ld links %ld", s.st_mode, (long)s.st_size, (long)s.st_nlink);
}

CASE(pidfds)
{
	int p[2];
	pipe(p);
	if (!(child_pid = fork())) {
		char c;
		close(p[1]);
		read(p[0], &c, 1);
		_exit(7);
	}
	int fd = syscall(SYS_pidfd_open, child_pid, 0);
	OK(fd);
	E(syscall(SYS_pidfd_open, -1, 0));
	E(syscall(SYS_pidfd_open, child_pid, 1 << 5));
	struct pollfd f = {fd, POLLIN};
	E(poll(&f, 1, 0));
	E(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	E(fcntl(fd, F_GETFD));
	close(p[1]);
	E(poll(&f, 1, -1));
	siginfo_t i = {0};
	E(waitid(3 /* P_PIDFD */, fd, &i, WEXITED));
	say("code %d status %d", i.si_code, i.si_status);
	E(syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0));
	E(syscall(SYS_pidfd_send_signal, 0, SIGKILL, NULL, 0));
	if (!(child_pid = fork()))
		pause(), _exit(0);
	fd = syscall(SYS_pidfd_open, child_pid, 0);
	E(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
	int s;
	waitpid(child_pid, &s, 0);
	status("child", s);
}

// What the program's memory does not take comes again, an edge or a one-shot event too.
CASE(epoll_to_bad_memory)
{
	static const int kinds[] = {0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT};
	long page = sysconf(_SC_PAGESIZE);
	char *m = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(m + page, page, PROT_NONE);
	for (int k = 0; k < 4; k++) {
		int ep = epoll_create1(0), fds[3], sum = 0;
		for (int i = 0; i < 3; i++) {
			fds[i] = eventfd(1, 0);
			struct epoll_event e = {EPOLLIN | kinds[k], {.u32 = i}};
			epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &e);
		}
		say("kind %d", k);
		E(epoll_wait(ep, (void *)8, 3, 0));
		E(epoll_wait(ep, (struct epoll_event *)(m + page - 12), 3, 0)); // room for one
		struct epoll_event got[4];
		int n = epoll_wait(ep, got, 4, 0);
		for (int i = 0; i < n; i++)
			sum += (got[i].events == EPOLLIN) << got[i].data.u32;
		say("then %d: %d", n, sum);
		E(epoll_wait(ep, got, 4, 0));
		for (int i = 0; i < 3; i++)
			close(fds[i]);
		close(ep);
	}
}

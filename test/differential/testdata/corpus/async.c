// O_ASYNC: who hears by a signal that a descriptor is ready (fcntl(2), F_SETOWN).
#include "corpus.h"
#include <netinet/in.h>
#include <pty.h>

enum { WATCH = 40 }; // a real-time signal: it queues, and says which descriptor

static void watch(int fd)
{
	E(fcntl(fd, F_SETOWN, getpid()));
	E(fcntl(fd, F_SETSIG, WATCH));
	E(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC));
}

// heard prints the signals that are pending; at least one is waited for if some is wanted.
static void heard(const char *what, int fd, int some)
{
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, WATCH), sigaddset(&set, SIGIO);
	struct timespec none = {0};
	siginfo_t i;
	int n = 0, s;
	while ((s = some && !n ? sigwaitinfo(&set, &i) : sigtimedwait(&set, &i, &none)) > 0 && n++ < 9)
		if (s == WATCH)
			say("%s: code %d band %lx, its own %d", what, i.si_code, (long)i.si_band, i.si_fd == fd);
		else
			say("%s: SIGIO code %d", what, i.si_code);
	if (!n)
		say("%s: nothing", what);
}

static void begin(void)
{
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, WATCH), sigaddset(&set, SIGIO);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

CASE(async_pipe)
{
	int p[2];
	char b[8];
	begin();
	pipe2(p, O_NONBLOCK);
	write(p[1], "a", 1);
	watch(p[0]);
	heard("what was there before", p[0], 0);
	write(p[1], "b", 1);
	heard("a write", p[0], 1);
	read(p[0], b, 8);
	heard("a read", p[0], 0);
	fcntl(p[0], F_SETSIG, 0);
	write(p[1], "c", 1), write(p[1], "d", 1);
	heard("two without a signal of its own", p[0], 1);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	write(p[1], "e", 1);
	heard("no more", p[0], 0);
	fcntl(p[0], F_SETFL, O_NONBLOCK | O_ASYNC), fcntl(p[0], F_SETSIG, WATCH);
	int twin = dup(p[0]);
	write(p[1], "f", 1);
	heard("with a twin", p[0], 1);
	close(p[1]);
	heard("the end", p[0], 1);
	E(fcntl(p[0], F_GETFL) & O_ASYNC);
	close(p[0]), close(twin);
}

CASE(async_pipe_room)
{
	int p[2];
	static char b[65536];
	begin();
	pipe2(p, O_NONBLOCK);
	write(p[1], b, sizeof b);
	watch(p[1]);
	read(p[0], b, sizeof b);
	heard("room", p[1], 1);
	close(p[0]);
	heard("nobody reads", p[1], 1);
}

CASE(async_unix)
{
	int s[2];
	char b[8];
	begin();
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	watch(s[0]);
	write(s[1], "a", 1);
	heard("a write", s[0], 1);
	read(s[0], b, 8), write(s[0], "b", 1), read(s[1], b, 8);
	heard("our own", s[0], 0);
	close(s[1]);
	heard("the end", s[0], 1);
	socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
	watch(s[0]);
	write(s[1], "a", 1);
	heard("a datagram", s[0], 1);
	struct sockaddr_un at = {AF_UNIX, "listener"};
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	bind(l, (void *)&at, sizeof at), listen(l, 2);
	watch(l);
	connect(c, (void *)&at, sizeof at);
	heard("somebody calls", l, 1);
}

CASE(async_inet)
{
	struct sockaddr_in at = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof at;
	begin();
	int u = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET, SOCK_DGRAM, 0);
	bind(u, (void *)&at, size), getsockname(u, (void *)&at, &size);
	watch(u);
	sendto(v, "a", 1, 0, (void *)&at, size);
	heard("a datagram", u, 1);
	int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0);
	at.sin_port = 0;
	bind(l, (void *)&at, size), listen(l, 2), getsockname(l, (void *)&at, &size);
	watch(l);
	connect(c, (void *)&at, size);
	heard("somebody calls", l, 1);
	int a = accept(l, NULL, NULL);
	watch(a);
	write(c, "x", 1);
	heard("a write", a, 1);
}

CASE(async_terminal)
{
	int m, s;
	begin();
	openpty(&m, &s, NULL, NULL, NULL);
	watch(s);
	write(m, "no line yet", 11);
	heard("part of a line", s, 0);
	write(m, "\n", 1);
	heard("a line", s, 1);
}

CASE(async_owner)
{
	int p[2], s[2], v = 0;
	begin();
	pipe(p), socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	E(fcntl(p[0], F_SETFL, O_ASYNC));
	write(p[1], "a", 1);
	heard("nobody's", p[0], 0);
	struct f_owner_ex o = {F_OWNER_TID, syscall(SYS_gettid)};
	E(fcntl(p[0], F_SETOWN_EX, &o));
	write(p[1], "a", 1);
	heard("a thread's", p[0], 1);
	setpgid(0, 0);
	E(fcntl(p[0], F_SETOWN, -getpgrp()));
	write(p[1], "a", 1);
	heard("a group's", p[0], 1);
	v = getpid();
	E(ioctl(s[0], FIOSETOWN, &v));
	v = 1;
	E(ioctl(s[0], FIOASYNC, &v));
	E(fcntl(s[0], F_GETFL) & O_ASYNC);
	write(s[1], "a", 1);
	heard("a socket's", s[0], 1);
	v = -getpgrp();
	E(ioctl(s[0], SIOCSPGRP, &v));
	v = 0;
	E(ioctl(s[0], SIOCGPGRP, &v));
	say("%d %d", v == -getpgrp(), fcntl(s[0], F_GETOWN) == v);
	v = 0x7fffffff;
	E(ioctl(s[0], FIOSETOWN, &v));
	E(ioctl(s[0], FIOGETOWN, (void *)8));
	E(ioctl(p[0], FIOGETOWN, &v));
	v = 1;
	put("f", "");
	int f = open("f", O_RDWR), e = eventfd(0, 0);
	E(ioctl(f, FIOASYNC, &v));
	E(ioctl(e, FIOASYNC, &v));
	E(fcntl(f, F_SETFL, O_ASYNC));
	E(fcntl(f, F_GETFL) & O_ASYNC);
	E(ioctl(f, FIOASYNC, &v));
	v = 0;
	E(ioctl(f, FIOASYNC, &v));
	fcntl(p[0], F_SETOWN, getpid());
	CHILD { // the description is shared, its owner is the parent
		write(p[1], "a", 1);
		heard("the child", p[0], 0);
	}
	heard("the parent", p[0], 1);
	fcntl(p[0], F_SETOWN, 0);
	write(p[1], "a", 1);
	heard("nobody's again", p[0], 0);
}

// MSG_OOB on AF_UNIX streams (CONFIG_AF_UNIX_OOB), and on TCP.
#include "corpus.h"
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

static int s[2]; // 0 sends, 1 receives

static void pair(void)
{
	if (s[0])
		close(s[0]), close(s[1]);
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s);
}

static void out(const char *text, int flags) { ROW(send(s[0], text, strlen(text), flags), "send %s %x", text, flags); }

static void in(int size, int flags)
{
	char b[64] = "";
	struct iovec v = {b, size};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	ROW(recvmsg(s[1], &m, flags), "recv %d %x", size, flags);
	say(" \"%s\" %x", b, m.msg_flags);
}

static void state(void)
{
	int mark = -1; // not SIOCINQ: Linux 6.18 goes on counting urgent bytes that are gone
	ioctl(s[1], SIOCATMARK, &mark);
	struct pollfd p = {s[1], POLLIN | POLLPRI | POLLRDHUP};
	poll(&p, 1, 0);
	say(" mark %d, events %x", mark, p.revents);
}

CASE(urgent_byte)
{
	pair();
	in(1, MSG_OOB), state();
	out("", MSG_OOB);
	out("hello", MSG_OOB), state();
	in(10, MSG_OOB | MSG_PEEK), in(10, MSG_PEEK), state();
	in(10, 0), state(); // stops at the mark
	in(10, MSG_OOB), state();
	in(10, MSG_OOB), in(10, 0), state();
	out("x", MSG_OOB), state();
	in(1, MSG_OOB), state();
	out("after", 0), state();
	in(10, MSG_PEEK), in(10, 0), state();

	say("not received");
	out("hello", MSG_OOB), out("world", 0), state();
	in(10, 0), state(); // what comes before
	in(3, 0), state();  // it is lost
	in(10, 0), in(10, 0), state();

	say("two");
	out("hello", MSG_OOB), out("wor", MSG_OOB), state();
	in(1, MSG_OOB), out("ld", MSG_OOB), state();
	in(20, MSG_PEEK), in(20, 0), state();
	in(1, MSG_OOB), in(20, 0), state();

	say("taken in the middle");
	out("ab", MSG_OOB), in(1, MSG_OOB), out("cd", 0), state();
	in(20, 0), state();
	in(20, 0), state();
	out("ab", MSG_OOB), in(1, MSG_OOB), out("cd", 0), in(1, 0), state();
	in(20, MSG_PEEK), in(20, 0), in(20, 0), state();
}

CASE(urgent_inline)
{
	pair();
	E(setsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &(int){1}, sizeof(int)));
	out("hello", MSG_OOB), out("world", 0), state();
	in(1, MSG_OOB), in(20, MSG_PEEK), state();
	in(20, 0), state();
	in(20, 0), state();
	out("x", MSG_OOB), state();
	in(20, 0), in(20, 0), state();
}

CASE(urgent_ends)
{
	signal(SIGPIPE, SIG_IGN);
	pair();
	out("ab", MSG_OOB);
	close(s[0]), state();
	in(5, 0), in(1, MSG_OOB), in(5, 0), state();
	s[0] = 0;
	pair();
	out("a", MSG_OOB);
	shutdown(s[0], SHUT_WR), state();
	in(5, 0), state();
	out("a", MSG_OOB);
	s[0] = 0;
	int types[] = {SOCK_DGRAM, SOCK_SEQPACKET};
	for (int i = 0; i < 2; i++) {
		char b;
		socketpair(AF_UNIX, types[i] | SOCK_NONBLOCK, 0, s);
		E(send(s[0], "a", 1, MSG_OOB)), E(recv(s[1], &b, 1, MSG_OOB)), state();
	}
	s[1] = socket(AF_UNIX, SOCK_STREAM, 0);
	in(1, MSG_OOB), state();
	E(send(s[1], "a", 1, MSG_OOB));
	for (int taken = 0; taken < 2; taken++) { // only a mark is left: no reset
		s[0] = 0, pair();
		out("a", MSG_OOB);
		if (taken)
			in(1, MSG_OOB);
		close(s[1]);
		char b;
		E(recv(s[0], &b, 1, 0));
	}
}

static volatile int urgent, code;
static void on_urgent(int sig, siginfo_t *i, void *c) { urgent++, code = i->si_code; }

CASE(urgent_signal)
{
	struct sigaction act = {.sa_sigaction = on_urgent, .sa_flags = SA_SIGINFO};
	sigaction(SIGURG, &act, NULL);
	pair();
	out("a", MSG_OOB);
	say("%d", urgent); // of nobody's
	E(fcntl(s[1], F_SETOWN, getpid()));
	out("b", 0);
	say("%d", urgent);
	out("c", MSG_OOB);
	say("%d code %d", urgent, code);
	out("cde", MSG_OOB);
	say("%d", urgent);
	E(fcntl(s[1], F_SETOWN, 0));
	out("f", MSG_OOB);
	say("%d", urgent);
}

// A descriptor that comes with an urgent byte.
CASE(urgent_descriptor)
{
	pair();
	int p[2];
	pipe(p);
	char byte = 'x', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &p[1], sizeof(int));
	E(sendmsg(s[0], &m, MSG_OOB));
	close(p[1]);
	struct pollfd f = {p[0], POLLIN};
	poll(&f, 1, 0);
	say("%x", f.revents);
	in(5, 0); // passes both by
	poll(&f, 1, 0);
	say("%x", f.revents);
}

// The same on TCP, whose urgent byte stands among the others and whose owner is the one
// who accepted (man 7 tcp). Nagle's algorithm would have the bytes come when they like.
static void tcp_pair(void)
{
	if (s[0])
		close(s[0]), close(s[1]);
	int l = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
	socklen_t n = sizeof a;
	bind(l, (void *)&a, sizeof a), listen(l, 1), getsockname(l, (void *)&a, &n);
	s[0] = socket(AF_INET, SOCK_STREAM, 0);
	connect(s[0], (void *)&a, sizeof a);
	s[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	setsockopt(s[0], IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	close(l);
}

static void tcp_state(void)
{
	int in = -1;
	E(ioctl(s[1], SIOCINQ, &in));
	say(" %d wait", in);
	state();
}

CASE(urgent_tcp_byte)
{
	tcp_pair();
	in(1, MSG_OOB), tcp_state();
	out("", MSG_OOB), tcp_state();
	out("hello", MSG_OOB), tcp_state();
	in(10, MSG_OOB | MSG_PEEK), in(10, MSG_PEEK), tcp_state();
	in(2, 0), tcp_state();
	in(10, 0), tcp_state(); // stops at the mark
	in(10, MSG_OOB), tcp_state();
	in(10, MSG_OOB), in(10, 0), tcp_state();
	out("x", MSG_OOB), tcp_state();
	in(0, MSG_OOB), in(1, MSG_OOB), tcp_state();
	out("after", 0), tcp_state();
	in(10, MSG_PEEK), in(10, 0), tcp_state();

	say("not received");
	out("hello", MSG_OOB), out("world", 0), tcp_state();
	in(10, MSG_PEEK), in(10, 0), tcp_state();
	in(3, MSG_PEEK), in(3, 0), tcp_state(); // it is lost
	in(1, MSG_OOB), in(10, 0), in(10, 0), tcp_state();
	out("x", MSG_OOB), in(10, 0), tcp_state(), in(1, MSG_OOB);

	say("two");
	out("hello", MSG_OOB), out("wor", MSG_OOB), tcp_state();
	in(1, MSG_OOB), out("ld", MSG_OOB), tcp_state();
	in(20, MSG_PEEK), in(20, 0), tcp_state();
	in(1, MSG_OOB), in(20, 0), tcp_state();
	out("a", MSG_OOB), in(1, MSG_OOB), out("b", MSG_OOB), tcp_state(); // the first was next, and is gone
	in(9, 0), in(9, MSG_OOB), in(9, 0), tcp_state();
	out("a", MSG_OOB), out("b", MSG_OOB), tcp_state();
	in(9, 0), in(9, MSG_OOB), in(9, 0), tcp_state();

	say("all that was asked for");
	out("ab", MSG_OOB), out("cd", 0);
	in(4, MSG_WAITALL), in(2, MSG_WAITALL), tcp_state();
	char a, b[4];
	struct iovec v[] = {{&a, 1}, {b, 4}};
	out("abc", MSG_OOB), out("de", 0);
	E(readv(s[1], v, 2)), E(readv(s[1], v, 2)), tcp_state();
	say("%c%.1s", a, b);
}

CASE(urgent_tcp_inline)
{
	tcp_pair();
	E(setsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &(int){1}, sizeof(int)));
	out("hello", MSG_OOB), out("world", 0), tcp_state();
	in(1, MSG_OOB), in(20, MSG_PEEK), tcp_state();
	in(20, 0), tcp_state();
	in(20, 0), tcp_state();
	out("x", MSG_OOB), tcp_state();
	in(20, 0), in(20, 0), tcp_state();
	out("x", MSG_OOB), out("y", MSG_OOB), tcp_state();
	E(setsockopt(s[1], SOL_SOCKET, SO_OOBINLINE, &(int){0}, sizeof(int)));
	tcp_state(), in(20, 0), in(20, MSG_OOB), tcp_state();
}

CASE(urgent_tcp_ends)
{
	signal(SIGPIPE, SIG_IGN);
	tcp_pair();
	out("ab", MSG_OOB);
	close(s[0]), state();
	in(5, 0), in(1, MSG_OOB), in(5, 0), state();
	s[0] = 0;
	tcp_pair();
	out("a", MSG_OOB);
	shutdown(s[0], SHUT_WR), state();
	in(5, 0), state();
	out("a", MSG_OOB);
	for (int taken = 0; taken < 2; taken++) { // it was not read: a reset
		s[0] = 0, tcp_pair();
		out("a", MSG_OOB);
		if (taken)
			in(1, MSG_OOB);
		close(s[1]);
		char b;
		E(recv(s[0], &b, 1, 0));
	}
	s[0] = 0;
	s[1] = socket(AF_INET, SOCK_STREAM, 0);
	in(1, MSG_OOB), E(send(s[1], "a", 1, MSG_OOB));
	E(listen(s[1], 1));
	in(1, MSG_OOB), E(send(s[1], "a", 1, MSG_OOB));
	close(s[1]);
	s[1] = socket(AF_INET, SOCK_DGRAM, 0);
	in(1, MSG_OOB | MSG_DONTWAIT), E(send(s[1], "a", 1, MSG_OOB));
}

CASE(urgent_tcp_signal)
{
	struct sigaction act = {.sa_sigaction = on_urgent, .sa_flags = SA_SIGINFO};
	sigaction(SIGURG, &act, NULL);
	tcp_pair();
	out("a", MSG_OOB);
	say("%d", urgent); // of nobody's
	E(fcntl(s[1], F_SETOWN, getpid()));
	out("b", 0);
	say("%d", urgent);
	out("c", MSG_OOB);
	say("%d code %d", urgent, code);
	out("cde", MSG_OOB);
	say("%d", urgent);
	fd_set r, x;
	FD_ZERO(&r);
	FD_ZERO(&x);
	FD_SET(s[1], &r);
	FD_SET(s[1], &x);
	E(select(s[1] + 1, &r, NULL, &x, &(struct timeval){0}));
	say("%d %d", !!FD_ISSET(s[1], &r), !!FD_ISSET(s[1], &x));
	E(fcntl(s[1], F_SETOWN, 0));
	out("f", MSG_OOB);
	say("%d", urgent);
}

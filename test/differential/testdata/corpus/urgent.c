// MSG_OOB on AF_UNIX streams (CONFIG_AF_UNIX_OOB).
#include "corpus.h"
#include <linux/sockios.h>

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

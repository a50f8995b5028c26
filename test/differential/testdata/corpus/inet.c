#include "corpus.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#ifndef SO_TIMESTAMP_OLD
#define SO_TIMESTAMP_OLD 29
#endif
#ifndef IP_RECVORIGDSTADDR
#define IP_RECVORIGDSTADDR 20
#endif
#ifndef IPV6_TCLASS
#define IPV6_TCLASS 67
#endif

static struct sockaddr_in v4(int port)
{
	return (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static struct sockaddr_in6 v6(int port)
{
	return (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
}

static int port_of(int fd)
{
	struct sockaddr_in6 a;
	socklen_t n = sizeof a;
	getsockname(fd, (void *)&a, &n);
	return ntohs(a.sin6_port); // at the same place in both
}

// listener makes one at a port that is free; or, with type SOCK_DGRAM, a socket bound to one.
static int bound(int family, int type)
{
	int fd = socket(family, type, 0);
	struct sockaddr_in a = v4(0);
	struct sockaddr_in6 b = v6(0);
	if (bind(fd, family == AF_INET ? (void *)&a : (void *)&b, family == AF_INET ? sizeof a : sizeof b) || (type == SOCK_STREAM && listen(fd, 5)))
		say("bound: %s", errname(errno));
	return fd;
}

static int connected(int family, int type, int port)
{
	int fd = socket(family, type, 0);
	struct sockaddr_in a = v4(port);
	struct sockaddr_in6 b = v6(port);
	if (connect(fd, family == AF_INET ? (void *)&a : (void *)&b, family == AF_INET ? sizeof a : sizeof b))
		say("connected: %s", errname(errno));
	return fd;
}

// both makes the two ends of a connection.
static void both(int family, int *client, int *server)
{
	int l = bound(family, SOCK_STREAM);
	*client = connected(family, SOCK_STREAM, port_of(l));
	*server = accept(l, NULL, NULL);
	close(l);
}

static const char *events_of(int fd)
{
	static char text[4][128];
	static int turn;
	char *out = text[turn++ % 4];
	struct pollfd p = {fd, POLLIN | POLLOUT | POLLRDHUP | POLLPRI | POLLRDNORM | POLLWRNORM};
	poll(&p, 1, 0);
	static const struct { int bit; const char *name; } names[] = {{POLLIN, "IN"}, {POLLPRI, "PRI"}, {POLLOUT, "OUT"}, {POLLERR, "ERR"}, {POLLHUP, "HUP"}, {POLLRDNORM, "RDNORM"}, {POLLWRNORM, "WRNORM"}, {POLLRDHUP, "RDHUP"}};
	*out = 0;
	for (int i = 0; i < sizeof names / sizeof *names; i++)
		if (p.revents & names[i].bit)
			sprintf(out + strlen(out), " %s", names[i].name);
	return out;
}

static void say_name(const char *what, const void *bytes, socklen_t size)
{
	const struct sockaddr_in *a = bytes;
	const struct sockaddr_in6 *b = bytes;
	char text[64] = "";
	if (a->sin_family == AF_INET)
		say("%s: %u bytes, AF_INET %s, port %s", what, size, inet_ntop(AF_INET, &a->sin_addr, text, sizeof text), a->sin_port ? "set" : "0");
	else if (a->sin_family == AF_INET6)
		say("%s: %u bytes, AF_INET6 %s, port %s, scope %u", what, size, inet_ntop(AF_INET6, &b->sin6_addr, text, sizeof text), b->sin6_port ? "set" : "0", b->sin6_scope_id);
	else
		say("%s: %u bytes, family %d", what, size, a->sin_family);
}

static void say_names(int fd)
{
	char b[128];
	socklen_t n = sizeof b;
	if (getsockname(fd, (void *)b, &n))
		say("own name: %s", errname(errno));
	else
		say_name("own name", b, n);
	n = sizeof b;
	if (getpeername(fd, (void *)b, &n))
		say("peer's name: %s", errname(errno));
	else
		say_name("peer's name", b, n);
}

static int so_error(int fd)
{
	int e = -1;
	socklen_t n = sizeof e;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n);
	return e;
}

static int piped;
static void on_pipe(int n) { piped++; }

CASE(inet_sockets)
{
	static const int types[] = {0, SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_RDM, SOCK_SEQPACKET, 6, 11};
	static const int protocols[] = {-1, 0, 1, 6, 17, 58, 132, 255, 300};
	for (int f = 0; f < 2; f++)
		for (int t = 0; t < 8; t++)
			for (int p = 0; p < 9; p++) {
				if (types[t] == SOCK_RAW && protocols[p] >= 0 && protocols[p] != (f ? 58 : 1) && protocols[p] != 0 || protocols[p] == 132 && types[t] != SOCK_DGRAM || types[t] == 6 || types[t] == SOCK_DGRAM && (protocols[p] == 1 || protocols[p] == 58))
					continue; // what modules and sysctls decide
				int fd = socket(f ? AF_INET6 : AF_INET, types[t], protocols[p]);
				say("family %d type %d protocol %d: %s", f, types[t], protocols[p], fd < 0 ? errname(errno) : "ok");
				close(fd);
			}
	int fd[2];
	E(socketpair(AF_INET, SOCK_STREAM, 0, fd));
	int s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	say("nonblock %d cloexec %d mode %o", !!(fcntl(s, F_GETFL) & O_NONBLOCK), fcntl(s, F_GETFD), ({ struct stat st; fstat(s, &st); st.st_mode; }));
	static const int names[] = {SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_ERROR, SO_REUSEADDR, SO_KEEPALIVE, SO_BROADCAST, SO_RCVLOWAT, SO_SNDLOWAT, SO_PRIORITY, SO_OOBINLINE};
	int socks[] = {s, socket(AF_INET6, SOCK_DGRAM, 0), socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)};
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < sizeof names / sizeof *names; j++) {
			int v = -1;
			socklen_t n = sizeof v;
			int r = getsockopt(socks[i], SOL_SOCKET, names[j], &v, &n);
			say("socket %d option %d: %d %d", i, names[j], r ? -errno : v, n);
		}
	say_names(s), say_names(socks[1]);
	E(lseek(s, 0, SEEK_SET));
	char b[4];
	E(pread(s, b, 4, 0));
	E(read(s, b, 4));
	E(send(s, b, 4, MSG_NOSIGNAL));
	say("new%s", events_of(s));
	say("new datagram%s", events_of(socks[1]));
}

CASE(inet_addresses)
{
	int s = socket(AF_INET, SOCK_STREAM, 0), s6 = socket(AF_INET6, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in a = v4(0);
	struct sockaddr_in6 b = v6(0);
	E(bind(s, (void *)&a, 8));
	E(bind(s, (void *)&a, 200));
	E(bind(s, (void *)&a, -1));
	E(bind(s, NULL, sizeof a));
	E(bind(s6, (void *)&b, 16));
	E(bind(s6, (void *)&a, sizeof a));
	E(bind(s, (void *)&b, sizeof b));
	a.sin_addr.s_addr = inet_addr("192.0.2.1");
	E(bind(s, (void *)&a, sizeof a));
	a.sin_addr.s_addr = inet_addr("127.3.4.5");
	E(bind(s, (void *)&a, sizeof a));
	say_names(s);
	E(bind(s, (void *)&a, sizeof a));
	E(bind(s6, (void *)&b, sizeof b));
	say_names(s6);
	E(listen(u, 1));
	E(accept(u, NULL, NULL));
	E(accept(s, NULL, NULL));
	E(accept4(s, NULL, NULL, 77));
	E(connect(s, (void *)&a, 1));
	E(connect(s, (void *)&a, 8));
	E(connect(s, (void *)&b, sizeof b));
	E(connect(u, (void *)&b, sizeof b));
	a.sin_family = AF_UNSPEC;
	E(connect(u, (void *)&a, sizeof a));
	E(shutdown(s, SHUT_RDWR));
	E(shutdown(s, 7));
	E(shutdown(u, SHUT_RD));
	int x = socket(AF_INET, SOCK_DGRAM, 0);
	a.sin_addr.s_addr = 0, a.sin_port = 0;
	E(bind(x, (void *)&a, sizeof a)); // AF_UNSPEC and any
	say_names(x);
	int any = socket(AF_INET6, SOCK_DGRAM, 0);
	b.sin6_addr = in6addr_any;
	E(bind(any, (void *)&b, sizeof b));
	say_names(any);
	int two = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in same = {.sin_family = AF_INET, .sin_port = htons(port_of(any))};
	E(bind(two, (void *)&same, sizeof same));
	int three = socket(AF_INET6, SOCK_DGRAM, 0), on = 1;
	E(setsockopt(three, SOL_IPV6, IPV6_V6ONLY, &on, sizeof on));
	b.sin6_port = same.sin_port;
	E(bind(three, (void *)&b, sizeof b));
	E(setsockopt(any, SOL_IPV6, IPV6_V6ONLY, &on, sizeof on));
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &b.sin6_addr), b.sin6_port = 0;
	int mapped = socket(AF_INET6, SOCK_STREAM, 0);
	E(bind(mapped, (void *)&b, sizeof b));
	say_names(mapped);
	int only = socket(AF_INET6, SOCK_STREAM, 0);
	setsockopt(only, SOL_IPV6, IPV6_V6ONLY, &on, sizeof on);
	E(bind(only, (void *)&b, sizeof b));
}

CASE(inet_privileged_ports)
{
	E(setgid(99));
	E(setuid(99));
	struct sockaddr_in a = v4(80);
	int s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
	E(bind(s, (void *)&a, sizeof a));
	E(bind(u, (void *)&a, sizeof a));
	E(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	int v = 7;
	E(setsockopt(s, SOL_SOCKET, SO_PRIORITY, &v, sizeof v));
	E(setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &v, sizeof v));
	E(setsockopt(s, SOL_SOCKET, SO_MARK, &v, sizeof v));
	E(setsockopt(s, SOL_IP, IP_TRANSPARENT, &v, sizeof v));
}

static void exchange(int family)
{
	int l = bound(family, SOCK_STREAM);
	say("listener%s", events_of(l));
	int c = connected(family, SOCK_STREAM, port_of(l));
	say("listener%s client%s", events_of(l), events_of(c));
	char name[128];
	socklen_t n = sizeof name;
	int s = accept4(l, (void *)name, &n, SOCK_NONBLOCK);
	say_name("accepted", name, n);
	say("nonblock %d", !!(fcntl(s, F_GETFL) & O_NONBLOCK));
	say("ports agree %d", ((struct sockaddr_in *)name)->sin_port == htons(port_of(c)));
	say_names(c), say_names(s);
	char b[16] = "";
	E(recv(s, b, 16, 0));
	E(send(c, "hello", 5, 0));
	say("server%s", events_of(s));
	int waits;
	E(ioctl(s, FIONREAD, &waits));
	say("%d", waits);
	E(ioctl(c, TIOCOUTQ, &waits));
	say("%d", waits);
	E(recv(s, b, 3, MSG_PEEK));
	E(recv(s, b, 3, 0));
	say("%.3s", b);
	E(send(c, "again", 5, 0));
	E(send(c, "", 0, 0));
	E(recv(s, b, 16, MSG_WAITALL | MSG_DONTWAIT));
	say("%.7s", b);
	struct iovec v[3] = {{"ab", 2}, {NULL, 0}, {"cde", 3}};
	E(writev(s, v, 3));
	struct iovec w[2] = {{b, 1}, {b + 8, 8}};
	E(readv(c, w, 2));
	say("%c %.4s", b[0], b + 8);
	E(send(c, (void *)-4096, 5, 0));
	E(send(c, "x", 1, 0));
	E(recv(s, (void *)-4096, 5, 0));
	E(recv(s, b, 5, 0));
	E(recv(s, NULL, 0, 0));
	E(connect(c, (void *)name, n));
	E(listen(c, 1));
	E(bind(c, (void *)name, n));
	E(shutdown(c, SHUT_WR));
	say("after one half: client%s server%s", events_of(c), events_of(s));
	E(recv(s, b, 5, 0));
	E(send(s, "still", 5, 0));
	E(recv(c, b, 5, 0));
	signal(SIGPIPE, on_pipe);
	E(send(c, "no", 2, 0));
	E(send(c, "no", 2, MSG_NOSIGNAL));
	E(write(c, "no", 2));
	say("SIGPIPE %d", piped);
	E(shutdown(s, SHUT_RDWR));
	say("after both: client%s server%s", events_of(c), events_of(s));
	E(recv(c, b, 5, 0));
	E(recv(s, b, 5, 0));
	E(send(s, "no", 2, MSG_NOSIGNAL));
	say_names(l);
	E(close(l));
}

CASE(inet_stream) { exchange(AF_INET); }
CASE(inet6_stream) { exchange(AF_INET6); }

CASE(inet_dual_stack)
{
	int l = socket(AF_INET6, SOCK_STREAM, 0);
	E(listen(l, 5));
	say_names(l);
	int c = connected(AF_INET, SOCK_STREAM, port_of(l));
	int s = accept(l, NULL, NULL);
	say_names(s), say_names(c);
	E(send(c, "abc", 3, 0));
	char b[8];
	E(recv(s, b, 8, 0));
	int d = connected(AF_INET6, SOCK_STREAM, port_of(l));
	s = accept(l, NULL, NULL);
	say_names(s);
	struct sockaddr_in6 m = v6(port_of(l));
	inet_pton(AF_INET6, "::ffff:127.0.0.1", &m.sin6_addr);
	int e = socket(AF_INET6, SOCK_STREAM, 0);
	E(connect(e, (void *)&m, sizeof m));
	say_names(e);
	int u = socket(AF_INET6, SOCK_DGRAM, 0), x = bound(AF_INET, SOCK_DGRAM);
	m.sin6_port = htons(port_of(x));
	E(sendto(u, "hi", 2, 0, (void *)&m, sizeof m));
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	E(recvfrom(x, b, 8, 0, (void *)&a, &n));
	say_name("from", &a, n);
	E(sendto(x, "back", 4, 0, (void *)&a, n));
	struct sockaddr_in6 f;
	n = sizeof f;
	E(recvfrom(u, b, 8, 0, (void *)&f, &n));
	say_name("from", &f, n);
	int on = 1, w = socket(AF_INET6, SOCK_STREAM, 0);
	E(setsockopt(w, SOL_IPV6, IPV6_V6ONLY, &on, sizeof on));
	E(connect(w, (void *)&m, sizeof m));
	E(listen(w, 1));
	struct sockaddr_in t = v4(port_of(w));
	int z = socket(AF_INET, SOCK_STREAM, 0);
	E(connect(z, (void *)&t, sizeof t));
}

CASE(inet_refused)
{
	int l = bound(AF_INET, SOCK_STREAM);
	struct sockaddr_in a = v4(port_of(l));
	close(l);
	int s = socket(AF_INET, SOCK_STREAM, 0);
	E(connect(s, (void *)&a, sizeof a));
	say("after%s, error %d", events_of(s), so_error(s));
	say_names(s);
	E(connect(s, (void *)&a, sizeof a));
	int n = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	E(connect(n, (void *)&a, sizeof a));
	struct pollfd p = {n, POLLOUT};
	E(poll(&p, 1, 5000));
	say("polled%s", events_of(n));
	say("error %s", errname(so_error(n)));
	say("error %d%s", so_error(n), events_of(n));
	E(connect(n, (void *)&a, sizeof a));
	E(connect(n, (void *)&a, sizeof a));
	poll(&p, 1, 5000);
	E(send(n, "x", 1, MSG_NOSIGNAL));
	E(send(n, "x", 1, MSG_NOSIGNAL));
	char b[4];
	E(recv(n, b, 4, 0));
	l = bound(AF_INET, SOCK_STREAM);
	a.sin_port = htons(port_of(l));
	E(connect(s, (void *)&a, sizeof a));
	say("second try%s", events_of(s));
	int u = socket(AF_INET, SOCK_DGRAM, 0), gone = bound(AF_INET, SOCK_DGRAM);
	struct sockaddr_in d = v4(port_of(gone));
	close(gone);
	E(connect(u, (void *)&d, sizeof d));
	E(send(u, "x", 1, 0));
	say("datagram%s", events_of(u));
	E(send(u, "x", 1, 0));
	E(send(u, "x", 1, 0));
	E(recv(u, b, 4, 0));
	E(recv(u, b, 4, MSG_DONTWAIT));
	E(send(u, "x", 1, 0));
	say("error %s then %d", errname(so_error(u)), so_error(u));
	int v = socket(AF_INET, SOCK_DGRAM, 0);
	E(sendto(v, "x", 1, 0, (void *)&d, sizeof d));
	E(recv(v, b, 4, MSG_DONTWAIT));
}

CASE(inet_connect_nonblocking)
{
	int l = bound(AF_INET, SOCK_STREAM), s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = v4(port_of(l));
	E(connect(s, (void *)&a, sizeof a));
	struct pollfd p = {s, POLLOUT};
	E(poll(&p, 1, 5000));
	say("%s error %d", events_of(s), so_error(s));
	E(connect(s, (void *)&a, sizeof a));
	E(connect(s, (void *)&a, sizeof a));
	fcntl(l, F_SETFL, O_NONBLOCK);
	int x = accept(l, NULL, NULL);
	say("accepted %d", x >= 0);
	E(accept(l, NULL, NULL));
	struct sockaddr none = {AF_UNSPEC};
	E(connect(s, &none, sizeof none));
	say("disconnected%s", events_of(s));
	char b[4];
	E(recv(x, b, 4, 0));
	E(connect(s, (void *)&a, sizeof a));
	poll(&p, 1, 5000);
	E(connect(s, (void *)&a, sizeof a));
	int y = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), e = epoll_create1(0);
	struct epoll_event ev = {EPOLLOUT | EPOLLIN | EPOLLET, {.u32 = 1}}, got;
	E(epoll_ctl(e, EPOLL_CTL_ADD, y, &ev));
	E(epoll_wait(e, &got, 1, 0));
	say("%x", got.events);
	E(connect(y, (void *)&a, sizeof a));
	E(epoll_wait(e, &got, 1, 5000));
	say("%x", got.events);
	E(epoll_wait(e, &got, 1, 0));
	int z = accept(l, NULL, NULL);
	z = accept(l, NULL, NULL);
	E(send(z, "x", 1, 0));
	E(epoll_wait(e, &got, 1, 5000));
	say("%x", got.events);
	E(send(z, "x", 1, 0));
	E(epoll_wait(e, &got, 1, 5000));
	E(epoll_wait(e, &got, 1, 0));
	close(z);
	E(epoll_wait(e, &got, 1, 5000));
	say("%x", got.events);
}

CASE(inet_reset)
{
	int c, s;
	char b[8];
	signal(SIGPIPE, on_pipe);
	both(AF_INET, &c, &s);
	E(send(c, "unread", 6, 0));
	E(close(s)); // with something unread: a reset
	say("torn%s", events_of(c));
	E(recv(c, b, 8, 0));
	say("told%s", events_of(c));
	E(recv(c, b, 8, 0));
	E(send(c, "x", 1, 0));
	say("SIGPIPE %d", piped);
	say_names(c);
	both(AF_INET, &c, &s);
	E(send(s, "last", 4, 0));
	E(close(s));
	say("ended%s", events_of(c));
	E(send(c, "x", 1, 0));
	say("then torn%s", events_of(c));
	E(send(c, "x", 1, 0));
	say("SIGPIPE %d", piped);
	E(recv(c, b, 8, 0));
	E(recv(c, b, 8, 0));
	both(AF_INET6, &c, &s);
	struct linger now = {1, 0};
	E(setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now));
	E(send(s, "data", 4, 0));
	E(close(s));
	say("lingered%s", events_of(c));
	E(send(c, "x", 1, 0));
	say("error %d", so_error(c));
	E(send(c, "x", 1, 0));
	say("SIGPIPE %d", piped);
	int l = bound(AF_INET, SOCK_STREAM);
	c = connected(AF_INET, SOCK_STREAM, port_of(l));
	E(send(c, "never read", 10, 0));
	E(close(l)); // with a connection that nobody accepted
	say("not accepted%s", events_of(c));
	E(recv(c, b, 8, 0));
	l = bound(AF_INET, SOCK_STREAM);
	c = connected(AF_INET, SOCK_STREAM, port_of(l));
	E(send(c, "early", 5, 0));
	E(close(c));
	s = accept(l, NULL, NULL);
	say("closed before accept%s", events_of(s));
	E(recv(s, b, 8, 0));
	E(recv(s, b, 8, 0));
	say_names(s);
	E(shutdown(l, SHUT_RD));
	say("listener shut%s", events_of(l));
	E(accept(l, NULL, NULL));
	E(listen(l, 2));
	say("listens again%s", events_of(l));
	c = connected(AF_INET, SOCK_STREAM, port_of(l));
	say("accepts %d", accept(l, NULL, NULL) >= 0);
	both(AF_INET, &c, &s);
	E(shutdown(c, SHUT_RD));
	say("read half%s, its peer%s", events_of(c), events_of(s));
	E(recv(c, b, 8, 0));
	E(send(s, "late", 4, 0));
	E(recv(c, b, 8, 0));
	E(shutdown(c, SHUT_RD));
}

CASE(inet_reuse)
{
	int one = 1, l = bound(AF_INET, SOCK_STREAM), m = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = v4(port_of(l)), any = {.sin_family = AF_INET, .sin_port = a.sin_port};
	E(bind(m, (void *)&a, sizeof a));
	E(bind(m, (void *)&any, sizeof any));
	E(setsockopt(m, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	E(bind(m, (void *)&a, sizeof a));
	int c = connected(AF_INET, SOCK_STREAM, port_of(l)), s = accept(l, NULL, NULL);
	close(l), close(s), close(c); // the server ends first: TIME_WAIT is its
	int n = socket(AF_INET, SOCK_STREAM, 0);
	E(bind(n, (void *)&a, sizeof a));
	E(bind(m, (void *)&a, sizeof a));
	E(listen(m, 1));
	int p = socket(AF_INET, SOCK_STREAM, 0), q = socket(AF_INET, SOCK_STREAM, 0);
	E(setsockopt(p, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
	E(setsockopt(q, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
	struct sockaddr_in b = v4(0);
	E(bind(p, (void *)&b, sizeof b));
	b.sin_port = htons(port_of(p));
	E(bind(q, (void *)&b, sizeof b));
	E(listen(p, 16));
	E(listen(q, 16));
	int got = 0;
	fcntl(p, F_SETFL, O_NONBLOCK), fcntl(q, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 16; i++) {
		connected(AF_INET, SOCK_STREAM, port_of(p));
		struct pollfd fds[2] = {{p, POLLIN}, {q, POLLIN}};
		poll(fds, 2, 5000);
		got += accept(p, NULL, NULL) >= 0 || accept(q, NULL, NULL) >= 0;
	}
	say("accepted %d", got);
	int u = bound(AF_INET, SOCK_DGRAM), v = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in d = v4(port_of(u));
	E(bind(v, (void *)&d, sizeof d));
	E(setsockopt(v, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	E(bind(v, (void *)&d, sizeof d));
	close(u);
	u = socket(AF_INET, SOCK_DGRAM, 0);
	E(setsockopt(u, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	E(bind(u, (void *)&d, sizeof d));
	E(bind(v, (void *)&d, sizeof d));
	int r = socket(AF_INET, SOCK_STREAM, 0); // its own peer
	E(bind(r, (void *)&(struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, sizeof a));
	struct sockaddr_in self = v4(port_of(r));
	E(connect(r, (void *)&self, sizeof self));
	E(send(r, "mirror", 6, 0));
	char x[8];
	E(recv(r, x, 8, 0));
	E(shutdown(r, SHUT_WR));
	E(recv(r, x, 8, 0));
}

CASE(inet_datagram)
{
	int a = bound(AF_INET, SOCK_DGRAM), b = bound(AF_INET, SOCK_DGRAM);
	struct sockaddr_in to = v4(port_of(b)), from;
	char buf[65536];
	E(send(a, "x", 1, 0));
	E(sendto(a, "x", 1, 0, (void *)&to, 4));
	E(sendto(a, "x", 1, 0, (void *)&to, sizeof to));
	E(sendto(a, "", 0, 0, (void *)&to, sizeof to));
	E(sendto(a, "longer", 6, 0, (void *)&to, sizeof to));
	say("%s", events_of(b));
	int n;
	E(ioctl(b, FIONREAD, &n));
	say("%d", n);
	socklen_t size = sizeof from;
	E(recvfrom(b, buf, 10, MSG_PEEK, (void *)&from, &size));
	say_name("from", &from, size);
	E(recv(b, buf, 10, 0));
	E(recv(b, buf, 10, 0));
	E(recv(b, buf, 3, MSG_TRUNC | MSG_PEEK));
	struct iovec v = {buf, 3};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_name = &from, .msg_namelen = 100};
	E(recvmsg(b, &m, 0));
	say("flags %x name %u control %zu", m.msg_flags, m.msg_namelen, (size_t)m.msg_controllen);
	E(recv(b, buf, 10, MSG_DONTWAIT));
	memset(buf, 'q', sizeof buf);
	E(sendto(a, buf, 65507, 0, (void *)&to, sizeof to));
	E(recv(b, buf, sizeof buf, 0));
	E(sendto(a, buf, 65508, 0, (void *)&to, sizeof to));
	E(sendto(a, buf, 65536, 0, (void *)&to, sizeof to));
	struct sockaddr_in zero = to;
	zero.sin_port = 0;
	E(sendto(a, "x", 1, 0, (void *)&zero, sizeof zero));
	zero.sin_family = 77;
	E(sendto(a, "x", 1, 0, (void *)&zero, sizeof zero));
	struct sockaddr_in wide = to;
	wide.sin_addr.s_addr = 0;
	E(sendto(a, "any", 3, 0, (void *)&wide, sizeof wide));
	E(recv(b, buf, 10, 0));
	E(connect(a, (void *)&to, sizeof to));
	say_names(a);
	E(send(a, "in ", 3, MSG_MORE));
	E(send(a, "parts", 5, 0));
	E(recv(b, buf, 20, 0));
	struct sockaddr_in third = v4(port_of(a));
	int c = bound(AF_INET, SOCK_DGRAM);
	E(sendto(c, "stranger", 8, 0, (void *)&third, sizeof third));
	E(recv(a, buf, 10, MSG_DONTWAIT)); // connected to another
	E(sendto(b, "friend", 6, 0, (void *)&third, sizeof third));
	E(recv(a, buf, 10, 0));
	struct sockaddr none = {AF_UNSPEC};
	E(connect(a, &none, sizeof none));
	E(send(a, "x", 1, 0));
	E(connect(a, (void *)&to, sizeof to));
	E(shutdown(a, SHUT_WR));
	E(send(a, "x", 1, MSG_NOSIGNAL));
	E(shutdown(a, SHUT_RDWR));
	say("shut%s", events_of(a));
	E(recv(a, buf, 1, 0));
	E(send(b, "x", 1, MSG_OOB));
	struct mmsghdr many[3] = {};
	struct iovec parts[3] = {{"one", 3}, {"two!", 4}, {"three", 5}};
	for (int i = 0; i < 3; i++)
		many[i].msg_hdr = (struct msghdr){.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &parts[i], .msg_iovlen = 1};
	E(sendmmsg(c, many, 3, 0));
	say("%u %u %u", many[0].msg_len, many[1].msg_len, many[2].msg_len);
	struct iovec into[4] = {{buf, 10}, {buf + 10, 10}, {buf + 20, 10}, {buf + 30, 10}};
	struct mmsghdr got[4] = {};
	for (int i = 0; i < 4; i++)
		got[i].msg_hdr = (struct msghdr){.msg_iov = &into[i], .msg_iovlen = 1};
	E(recvmmsg(b, got, 4, MSG_DONTWAIT, NULL));
	say("%u %u %u", got[0].msg_len, got[1].msg_len, got[2].msg_len);
}

CASE(inet_datagram_flood)
{
	int a = bound(AF_INET, SOCK_DGRAM), b = bound(AF_INET, SOCK_DGRAM), size = 4096;
	struct sockaddr_in to = v4(port_of(b));
	setsockopt(b, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	static const int lengths[] = {0, 1, 100, 1000, 1400};
	char buf[2000] = "";
	for (int i = 0; i < 5; i++) {
		for (int k = 0; k < 1000; k++)
			sendto(a, buf, lengths[i], 0, (void *)&to, sizeof to);
		int n = 0;
		while (recv(b, buf, sizeof buf, MSG_DONTWAIT) >= 0)
			n++;
		say("%d bytes: a few kept %d", lengths[i], n > 2 && n < 20); // how many is the kernel's version's affair
	}
}

static void option(int fd, const char *name, int level, int number, int value)
{
	int v = -1, r;
	socklen_t n = sizeof v;
	r = getsockopt(fd, level, number, &v, &n);
	char was[32];
	sprintf(was, r ? "%.0d%s" : "%d", r ? 0 : v, errname(errno));
	r = setsockopt(fd, level, number, &value, sizeof value);
	const char *set = r ? errname(errno) : "ok";
	n = sizeof v, v = -1;
	r = getsockopt(fd, level, number, &v, &n);
	say("%s: %s, set to %d %s, now %d (%u)", name, was, value, set, r ? -errno : v, n);
}
#define O(fd, level, name, value) option(fd, #name " " #value, level, name, value)

CASE(inet_options)
{
	int s = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0), r = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	O(s, SOL_SOCKET, SO_REUSEADDR, 7);
	O(s, SOL_SOCKET, SO_REUSEPORT, 1);
	O(s, SOL_SOCKET, SO_KEEPALIVE, 1);
	O(s, SOL_SOCKET, SO_BROADCAST, 1);
	O(s, SOL_SOCKET, SO_OOBINLINE, 1);
	O(s, SOL_SOCKET, SO_DONTROUTE, 1);
	O(s, SOL_SOCKET, SO_RCVLOWAT, 5);
	O(s, SOL_SOCKET, SO_SNDLOWAT, 5);
	O(s, SOL_SOCKET, SO_PRIORITY, 3);
	O(s, SOL_SOCKET, SO_TYPE, 1);
	O(s, SOL_SOCKET, SO_ERROR, 1);
	O(s, SOL_SOCKET, SO_ACCEPTCONN, 1);
	O(s, SOL_SOCKET, SO_DOMAIN, 1);
	O(s, SOL_SOCKET, SO_PROTOCOL, 1);
	O(s, SOL_SOCKET, SO_SNDBUF, 30000);
	O(s, SOL_SOCKET, SO_RCVBUF, 30000);
	O(s, SOL_SOCKET, SO_RCVBUF, 1);
	O(u, SOL_SOCKET, SO_TIMESTAMP, 1);
	O(u, SOL_SOCKET, SO_TIMESTAMPNS, 1);
	O(u, SOL_SOCKET, SO_TIMESTAMP, 0);
	O(u, SOL_SOCKET, SO_RXQ_OVFL, 1);
	O(u, SOL_SOCKET, SO_NO_CHECK, 1);
	O(u, SOL_SOCKET, 999, 1);
	O(s, 999, 1, 1);
	O(s, SOL_IP, IP_TOS, 16);
	O(s, SOL_IP, IP_TOS, 300);
	O(s, SOL_IP, IP_TTL, 10);
	O(s, SOL_IP, IP_TTL, 0);
	O(s, SOL_IP, IP_TTL, 256);
	O(s, SOL_IP, IP_TTL, -1);
	O(u, SOL_IP, IP_PKTINFO, 5);
	O(u, SOL_IP, IP_RECVTTL, 1);
	O(u, SOL_IP, IP_RECVTOS, 1);
	O(u, SOL_IP, IP_RECVERR, 1);
	O(u, SOL_IP, IP_RECVORIGDSTADDR, 1);
	O(u, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO);
	O(u, SOL_IP, IP_MTU_DISCOVER, 9);
	O(u, SOL_IP, IP_MTU, 9);
	O(u, SOL_IP, IP_FREEBIND, 1);
	O(u, SOL_IP, IP_MULTICAST_TTL, 5);
	O(u, SOL_IP, IP_MULTICAST_TTL, 256);
	O(u, SOL_IP, IP_MULTICAST_LOOP, 0);
	O(u, SOL_IP, IP_HDRINCL, 1);
	O(r, SOL_IP, IP_HDRINCL, 1);
	O(s, SOL_IPV6, IPV6_V6ONLY, 1);
	O(s, SOL_TCP, TCP_NODELAY, 9);
	O(s, SOL_TCP, TCP_CORK, 1);
	O(s, SOL_TCP, TCP_KEEPIDLE, 100);
	O(s, SOL_TCP, TCP_KEEPIDLE, 0);
	O(s, SOL_TCP, TCP_KEEPINTVL, 10);
	O(s, SOL_TCP, TCP_KEEPINTVL, 40000);
	O(s, SOL_TCP, TCP_KEEPCNT, 3);
	O(s, SOL_TCP, TCP_KEEPCNT, 128);
	O(s, SOL_TCP, TCP_SYNCNT, 3);
	O(s, SOL_TCP, TCP_SYNCNT, 0);
	O(s, SOL_TCP, TCP_USER_TIMEOUT, 3000);
	O(s, SOL_TCP, TCP_USER_TIMEOUT, -1);
	O(s, SOL_TCP, TCP_DEFER_ACCEPT, 5);
	O(s, SOL_TCP, TCP_DEFER_ACCEPT, 1);
	O(s, SOL_TCP, TCP_QUICKACK, 0);
	O(s, SOL_TCP, TCP_MAXSEG, 1000);
	O(s, SOL_TCP, TCP_MAXSEG, 10);
	O(s, SOL_TCP, TCP_LINGER2, 10);
	O(s, SOL_TCP, TCP_FASTOPEN, 5);
	O(s, SOL_TCP, 99, 5);
	O(u, SOL_TCP, TCP_NODELAY, 1);
	int six = socket(AF_INET6, SOCK_DGRAM, 0), t = socket(AF_INET6, SOCK_STREAM, 0);
	O(six, SOL_IPV6, IPV6_V6ONLY, 5);
	O(six, SOL_IPV6, IPV6_UNICAST_HOPS, 5);
	O(six, SOL_IPV6, IPV6_UNICAST_HOPS, 256);
	O(six, SOL_IPV6, IPV6_UNICAST_HOPS, -1);
	O(six, SOL_IPV6, IPV6_MULTICAST_HOPS, 7);
	O(six, SOL_IPV6, IPV6_MULTICAST_HOPS, -1);
	O(six, SOL_IPV6, IPV6_MULTICAST_LOOP, 0);
	O(six, SOL_IPV6, IPV6_MULTICAST_LOOP, 2);
	O(six, SOL_IPV6, IPV6_MULTICAST_IF, 1);
	O(six, SOL_IPV6, IPV6_RECVPKTINFO, 1);
	O(six, SOL_IPV6, IPV6_RECVHOPLIMIT, 1);
	O(six, SOL_IPV6, IPV6_RECVTCLASS, 1);
	O(six, SOL_IPV6, IPV6_TCLASS, 32);
	O(six, SOL_IPV6, IPV6_TCLASS, 256);
	O(six, SOL_IPV6, IPV6_RECVERR, 1);
	O(six, SOL_IP, IP_TOS, 8);
	O(t, SOL_IP, IP_TTL, 8);
	O(t, SOL_IPV6, IPV6_TCLASS, 8);
	O(t, SOL_TCP, TCP_NODELAY, 1);
	struct timeval v = {2, 500000};
	socklen_t n = sizeof v;
	E(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &v, sizeof v));
	v = (struct timeval){};
	E(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &v, &n));
	say("%ld.%06ld %u", (long)v.tv_sec, (long)v.tv_usec, n);
	char cc[32] = "", small = 3;
	n = sizeof cc;
	E(setsockopt(s, SOL_TCP, TCP_CONGESTION, "reno", 4));
	E(getsockopt(s, SOL_TCP, TCP_CONGESTION, cc, &n));
	say("%s %u", cc, n);
	E(setsockopt(s, SOL_TCP, TCP_CONGESTION, "nonesuch", 8));
	E(setsockopt(s, SOL_TCP, TCP_NODELAY, &small, 1));
	E(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &small, 1));
	E(setsockopt(s, SOL_IP, IP_TTL, &small, 1));
	n = 1;
	E(getsockopt(s, SOL_IP, IP_TTL, cc, &n));
	say("%d %u", cc[0], n);
	E(setsockopt(s, SOL_TCP, TCP_NODELAY, (void *)-4096, 4));
	E(getsockopt(s, SOL_TCP, TCP_NODELAY, cc, NULL));
	E(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	n = sizeof cc;
	E(getsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, cc, &n));
	say("%s %u", cc, n);
	E(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "nonesuch", 9));
	E(setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
	struct linger l = {5, 10};
	E(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, 4));
	E(setsockopt(s, SOL_SOCKET, SO_LINGER, &l, sizeof l));
	n = sizeof l;
	E(getsockopt(s, SOL_SOCKET, SO_LINGER, &l, &n));
	say("%d %d %u", l.l_onoff, l.l_linger, n);
	E(setsockopt(s, SOL_TCP, 31, "tls", 3)); // TCP_ULP
}

CASE(inet_options_inherited)
{
	int l = bound(AF_INET, SOCK_STREAM), v = 1, idle = 77;
	setsockopt(l, SOL_TCP, TCP_NODELAY, &v, sizeof v), setsockopt(l, SOL_SOCKET, SO_KEEPALIVE, &v, sizeof v);
	setsockopt(l, SOL_TCP, TCP_KEEPIDLE, &idle, sizeof idle), setsockopt(l, SOL_IP, IP_TOS, (int[]){16}, 4);
	struct linger g = {1, 3};
	setsockopt(l, SOL_SOCKET, SO_LINGER, &g, sizeof g);
	setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){7, 0}, sizeof(struct timeval));
	int c = connected(AF_INET, SOCK_STREAM, port_of(l)), s = accept(l, NULL, NULL);
	static const int names[][2] = {{SOL_TCP, TCP_NODELAY}, {SOL_SOCKET, SO_KEEPALIVE}, {SOL_TCP, TCP_KEEPIDLE}, {SOL_IP, IP_TOS}, {SOL_SOCKET, SO_LINGER}, {SOL_SOCKET, SO_RCVTIMEO}, {SOL_SOCKET, SO_REUSEADDR}, {SOL_SOCKET, SO_ACCEPTCONN}};
	for (int i = 0; i < 8; i++) {
		long x[2] = {};
		socklen_t n = sizeof x;
		int r = getsockopt(s, names[i][0], names[i][1], x, &n);
		say("%d: %d, %ld %ld in %u", i, r, x[0], x[1], n);
	}
	struct tcp_info info = {};
	socklen_t n = sizeof info;
	E(getsockopt(s, SOL_TCP, TCP_INFO, &info, &n));
	say("state %d", info.tcpi_state);
	n = sizeof info;
	getsockopt(l, SOL_TCP, TCP_INFO, &info, &n), say("listener %d backlog %d", info.tcpi_state, info.tcpi_sacked);
	close(c);
	n = sizeof info;
	getsockopt(s, SOL_TCP, TCP_INFO, &info, &n), say("peer closed %d", info.tcpi_state);
}

static void show_control(struct msghdr *m)
{
	say("flags %x, control %zu", m->msg_flags, (size_t)m->msg_controllen);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		say(" level %d type %d length %zu", c->cmsg_level, c->cmsg_type, (size_t)c->cmsg_len);
		if (c->cmsg_level != SOL_SOCKET)
			dump(" data", CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	}
}

CASE(inet_control)
{
	int a = bound(AF_INET, SOCK_DGRAM), b = bound(AF_INET, SOCK_DGRAM), on = 1;
	struct sockaddr_in to = v4(port_of(b));
	setsockopt(b, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on), setsockopt(b, SOL_IP, IP_PKTINFO, &on, sizeof on);
	setsockopt(b, SOL_IP, IP_RECVTTL, &on, sizeof on), setsockopt(b, SOL_IP, IP_RECVTOS, &on, sizeof on);
	setsockopt(a, SOL_IP, IP_TOS, (int[]){0x10}, 4), setsockopt(a, SOL_IP, IP_TTL, (int[]){9}, 4);
	E(sendto(a, "x", 1, 0, (void *)&to, sizeof to));
	char buf[16], control[256];
	struct iovec v = {buf, sizeof buf};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	E(recvmsg(b, &m, 0));
	show_control(&m);
	E(sendto(a, "x", 1, 0, (void *)&to, sizeof to));
	m.msg_controllen = 40;
	E(recvmsg(b, &m, 0));
	show_control(&m);
	int c = bound(AF_INET6, SOCK_DGRAM), d = bound(AF_INET6, SOCK_DGRAM);
	struct sockaddr_in6 six = v6(port_of(d));
	setsockopt(d, SOL_IPV6, IPV6_RECVPKTINFO, &on, sizeof on), setsockopt(d, SOL_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof on);
	setsockopt(d, SOL_IPV6, IPV6_RECVTCLASS, &on, sizeof on), setsockopt(d, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
	setsockopt(c, SOL_IPV6, IPV6_UNICAST_HOPS, (int[]){9}, 4);
	E(sendto(c, "x", 1, 0, (void *)&six, sizeof six));
	m.msg_controllen = sizeof control;
	E(recvmsg(d, &m, 0));
	show_control(&m);
	union { struct cmsghdr h; char room[CMSG_SPACE(sizeof(int))]; } ttl = {};
	ttl.h = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_IP, .cmsg_type = IP_TTL};
	*(int *)CMSG_DATA(&ttl.h) = 33;
	struct msghdr out = {.msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &v, .msg_iovlen = 1, .msg_control = &ttl, .msg_controllen = sizeof ttl};
	E(sendmsg(a, &out, 0));
	m.msg_controllen = sizeof control;
	E(recvmsg(b, &m, 0));
	show_control(&m);
	*(int *)CMSG_DATA(&ttl.h) = 0;
	E(sendmsg(a, &out, 0));
	ttl.h.cmsg_type = 99;
	E(sendmsg(a, &out, 0));
	ttl.h.cmsg_level = SOL_SOCKET;
	E(sendmsg(a, &out, 0));
}

CASE(inet_errors_queued)
{
	int u = socket(AF_INET, SOCK_DGRAM, 0), gone = bound(AF_INET, SOCK_DGRAM), on = 1;
	struct sockaddr_in d = v4(port_of(gone)), name;
	close(gone);
	E(setsockopt(u, SOL_IP, IP_RECVERR, &on, sizeof on));
	E(sendto(u, "lost", 4, 0, (void *)&d, sizeof d));
	say("%s", events_of(u));
	char buf[16] = "", control[256];
	struct iovec v = {buf, sizeof buf};
	struct msghdr m = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	E(recvmsg(u, &m, MSG_ERRQUEUE));
	say("%s, to port %d", buf, name.sin_port == d.sin_port);
	show_control(&m);
	E(recvmsg(u, &m, MSG_ERRQUEUE));
	say("error %d", so_error(u));
}

CASE(inet_timeouts)
{
	int c, s, l = bound(AF_INET, SOCK_STREAM), u = bound(AF_INET, SOCK_DGRAM);
	struct timeval t = {0, 30000};
	char b[4];
	both(AF_INET, &c, &s);
	for (int i = 0; i < 3; i++)
		setsockopt((int[]){c, l, u}[i], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
	E(recv(c, b, 4, 0));
	E(read(c, b, 4));
	E(accept(l, NULL, NULL));
	E(recv(u, b, 4, 0));
	E(send(s, "x", 1, 0));
	E(recv(c, b, 4, MSG_WAITALL));
	t.tv_usec = -1;
	E(setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
	t.tv_usec = 30000;
	E(setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t));
	static char big[1 << 20];
	long sent = 0, n;
	while ((n = send(c, big, sizeof big, 0)) > 0)
		sent += n;
	say("%s, some went %d", errname(errno), sent > 0);
	say("full%s", events_of(c));
	while (recv(s, big, sizeof big, MSG_DONTWAIT) > 0)
		;
	say("empty%s", events_of(c));
}

CASE(inet_processes)
{
	int l = bound(AF_INET, SOCK_STREAM), port = port_of(l);
	for (int i = 0; i < 3; i++)
		if (!fork()) { // workers that share a listener
			int s = accept(l, NULL, NULL);
			char b[8];
			long n = recv(s, b, 8, 0);
			send(s, b, n, 0);
			_exit(0);
		}
	close(l);
	for (int i = 0; i < 3; i++) {
		int c = connected(AF_INET, SOCK_STREAM, port);
		char b[8] = {'a' + i};
		E(send(c, b, 1, 0));
		E(recv(c, b, 8, 0));
		say("%c", b[0]);
		E(recv(c, b, 8, 0));
		close(c);
	}
	while (wait(NULL) > 0)
		;
	int c = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = v4(port);
	E(connect(c, (void *)&a, sizeof a));
	int x, y;
	both(AF_INET, &x, &y);
	CHILD { // a copy keeps the connection open
		close(y);
	}
	E(send(x, "x", 1, 0));
	close(y);
	say("%s", events_of(x));
}

static void *feed(void *fd)
{
	static char block[65536];
	for (int i = 0; i < 64; i++) {
		memset(block, i, sizeof block);
		for (long done = 0; done < sizeof block;)
			done += send((long)fd, block + done, sizeof block - done, 0);
	}
	shutdown((long)fd, SHUT_WR);
	return NULL;
}

CASE(inet_stream_bulk)
{
	int c, s;
	both(AF_INET, &c, &s);
	pthread_t t;
	pthread_create(&t, NULL, feed, (void *)(long)c);
	static char b[100000];
	long total = 0, sum = 0, n;
	while ((n = recv(s, b, sizeof b, 0)) > 0) {
		for (long i = 0; i < n; i++)
			sum += b[i] * ((total + i) % 1021 + 1);
		total += n;
	}
	pthread_join(t, NULL);
	say("%ld bytes, %ld", total, sum);
	put("file", "content of a file");
	both(AF_INET6, &c, &s);
	int f = open("file", O_RDONLY), p[2];
	E(sendfile(c, f, NULL, 100));
	E(recv(s, b, 100, 0));
	say("%.17s", b);
	pipe(p);
	E(write(p[1], "piped", 5));
	E(splice(p[0], NULL, c, NULL, 100, 0));
	E(recv(s, b, 100, 0));
	E(send(s, "and back", 8, 0));
	E(splice(c, NULL, p[1], NULL, 100, 0));
	E(read(p[0], b, 100));
	say("%.8s", b);
	fcntl(c, F_SETFL, O_NONBLOCK);
	E(splice(c, NULL, p[1], NULL, 100, 0));
	int wait_all[2];
	both(AF_INET, &wait_all[0], &wait_all[1]);
	if (!fork()) {
		for (int i = 0; i < 5; i++)
			nap(5), send(wait_all[0], "abcd", 4, 0);
		_exit(0);
	}
	close(wait_all[0]);
	E(recv(wait_all[1], b, 18, MSG_WAITALL));
	say("%.18s", b);
	E(recv(wait_all[1], b, 18, MSG_WAITALL));
	wait(NULL);
}

CASE(inet_ping)
{
	int s = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	struct sockaddr_in a = v4(0), from;
	unsigned char m[16] = {8, 0, 0, 0, 0x12, 0x34, 0, 1, 'p', 'i', 'n', 'g'}, b[64];
	unsigned sum = 0;
	for (int i = 0; i < 16; i += 2)
		sum += m[i] << 8 | m[i + 1];
	sum = ~((sum & 0xffff) + (sum >> 16));
	m[2] = sum >> 8, m[3] = sum;
	say_names(s);
	E(sendto(s, m, 16, 0, (void *)&a, sizeof a));
	for (;;) {
		socklen_t n = sizeof from;
		long r = recvfrom(s, b, sizeof b, 0, (void *)&from, &n);
		if (b[20] == 8) // ours, on its way
			continue;
		say("%ld bytes, version %d, protocol %d, ttl %d", r, b[0] >> 4, b[9], b[8]);
		say_name("from", &from, n);
		dump("reply", b + 20 + 4, r - 24);
		say("type %d code %d", b[20], b[21]);
		break;
	}
	int f = ~(1 << 8);
	E(setsockopt(s, SOL_RAW, 1, &f, sizeof f)); // ICMP_FILTER: requests alone pass
	E(sendto(s, m, 16, 0, (void *)&a, sizeof a));
	E(recv(s, b, sizeof b, 0));
	say("type %d", b[20]);
	E(recv(s, b, sizeof b, MSG_DONTWAIT));
	int six = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
	struct sockaddr_in6 to = v6(0);
	m[0] = 128;
	E(sendto(six, m, 16, 0, (void *)&to, sizeof to));
	for (;;) {
		long r = recv(six, b, sizeof b, 0);
		if (b[0] != 129)
			continue;
		say("%ld bytes", r);
		dump("reply", b + 4, r - 4);
		break;
	}
	E(sendto(s, m, 16, 0, (void *)&to, sizeof to));
	E(listen(s, 1));
}

CASE(inet_devices)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq r = {.ifr_name = "lo"};
	E(ioctl(s, SIOCGIFINDEX, &r));
	say("%d", r.ifr_ifindex);
	E(ioctl(s, SIOCGIFFLAGS, &r));
	say("%x", r.ifr_flags & ~IFF_PROMISC);
	E(ioctl(s, SIOCGIFADDR, &r));
	say_name("address", &r.ifr_addr, 16);
	E(ioctl(s, SIOCGIFNETMASK, &r));
	say_name("mask", &r.ifr_addr, 16);
	E(ioctl(s, SIOCGIFMTU, &r));
	say("%d", r.ifr_mtu);
	E(ioctl(s, SIOCGIFHWADDR, &r));
	say("%d", r.ifr_hwaddr.sa_family);
	r.ifr_ifindex = 1;
	E(ioctl(s, SIOCGIFNAME, &r));
	say("%s", r.ifr_name);
	strcpy(r.ifr_name, "nonesuch");
	E(ioctl(s, SIOCGIFINDEX, &r));
	E(ioctl(s, SIOCGIFADDR, &r));
	E(ioctl(s, 0x8999, &r));
	E(ioctl(s, SIOCGIFINDEX, (void *)-4096));
	E(if_nametoindex("lo"));
	char name[IF_NAMESIZE];
	say("%s", if_indextoname(1, name));
	E(ioctl(s, SIOCATMARK, name));
	E(ioctl(s, TCGETS, name));
}

CASE(inet_multicast)
{
	int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0), t = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in any = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr("239.1.2.3")};
	E(bind(b, (void *)&any, sizeof any));
	struct ip_mreqn m = {to.sin_addr, {0}, 1};
	E(setsockopt(b, SOL_IP, IP_ADD_MEMBERSHIP, &m, sizeof m));
	E(setsockopt(b, SOL_IP, IP_ADD_MEMBERSHIP, &m, sizeof m));
	E(setsockopt(b, SOL_IP, IP_ADD_MEMBERSHIP, &m, 4));
	E(setsockopt(t, SOL_IP, IP_ADD_MEMBERSHIP, &m, sizeof m));
	struct ip_mreqn bad = {{inet_addr("10.0.0.1")}, {0}, 1};
	E(setsockopt(b, SOL_IP, IP_ADD_MEMBERSHIP, &bad, sizeof bad));
	bad = m, bad.imr_ifindex = 12345;
	E(setsockopt(b, SOL_IP, IP_ADD_MEMBERSHIP, &bad, sizeof bad));
	bad = m, bad.imr_multiaddr.s_addr = inet_addr("239.9.9.9");
	E(setsockopt(b, SOL_IP, IP_DROP_MEMBERSHIP, &bad, sizeof bad));
	E(setsockopt(a, SOL_IP, IP_MULTICAST_IF, &m, sizeof m));
	struct in_addr local = {htonl(INADDR_LOOPBACK)};
	E(setsockopt(a, SOL_IP, IP_MULTICAST_IF, &local, sizeof local));
	to.sin_port = htons(port_of(b));
	E(sendto(a, "all", 3, 0, (void *)&to, sizeof to));
	char buf[8];
	E(recv(b, buf, 8, MSG_DONTWAIT));
	E(setsockopt(b, SOL_IP, IP_DROP_MEMBERSHIP, &m, sizeof m));
	E(sendto(a, "all", 3, 0, (void *)&to, sizeof to));
	E(recv(b, buf, 8, MSG_DONTWAIT));
	int c = socket(AF_INET6, SOCK_DGRAM, 0);
	struct ipv6_mreq six = {.ipv6mr_interface = 1};
	inet_pton(AF_INET6, "ff05::1234", &six.ipv6mr_multiaddr);
	E(setsockopt(c, SOL_IPV6, IPV6_JOIN_GROUP, &six, sizeof six));
	E(setsockopt(c, SOL_IPV6, IPV6_JOIN_GROUP, &six, sizeof six));
	E(setsockopt(c, SOL_IPV6, IPV6_LEAVE_GROUP, &six, sizeof six));
	E(setsockopt(c, SOL_IPV6, IPV6_LEAVE_GROUP, &six, sizeof six));
	six.ipv6mr_interface = 12345;
	E(setsockopt(c, SOL_IPV6, IPV6_JOIN_GROUP, &six, sizeof six));
}

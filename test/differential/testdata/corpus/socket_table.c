// Sockets' options, states and messages, each in each kind of socket.
#include "corpus.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <linux/sockios.h>

struct kind { const char *name; int family, type, protocol; };
static struct kind kinds[] = {{"unix stream", AF_UNIX, SOCK_STREAM}, {"unix dgram", AF_UNIX, SOCK_DGRAM}, {"unix seqpacket", AF_UNIX, SOCK_SEQPACKET}, {"tcp", AF_INET, SOCK_STREAM}, {"udp", AF_INET, SOCK_DGRAM}, {"tcp6", AF_INET6, SOCK_STREAM}, {"udp6", AF_INET6, SOCK_DGRAM}};

CASE(socket_arguments)
{
	static int families[] = {0, AF_UNIX, AF_INET, AF_INET6, 45, 46, 100, -1}, types[] = {0, 1, 2, 3, 5, 7, SOCK_STREAM | SOCK_CLOEXEC, SOCK_STREAM | 0x100};
	EACH(f, families)
		EACH(t, types) {
			int fd = socket(families[f], types[t], 0);
			say("%d %x: %s", families[f], types[t], fd < 0 ? errname(errno) : "ok");
			close(fd);
		}
	static int protocols[] = {1, 6, 17, 41, 255, 256, -1};
	EACH(p, protocols) {
		int fd = socket(AF_INET, SOCK_STREAM, protocols[p]);
		say("stream %d: %s", protocols[p], fd < 0 ? errname(errno) : "ok"), close(fd);
		fd = socket(AF_INET, SOCK_DGRAM, protocols[p]);
		if (protocols[p] != 1)
			say("dgram %d: %s", protocols[p], fd < 0 ? errname(errno) : "ok"), close(fd);
		fd = socket(AF_UNIX, SOCK_STREAM, protocols[p]);
		say("unix %d: %s", protocols[p], fd < 0 ? errname(errno) : "ok"), close(fd);
	}
	int s[2];
	E(socketpair(AF_INET, SOCK_STREAM, 0, s));
	E(socketpair(AF_UNIX, SOCK_STREAM, 0, (int *)8));
	E(socketpair(AF_UNIX, 77, 0, s));
	E(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, s));
	E(fcntl(s[0], F_GETFL));
	CHILD {
		setuid(1000);
		E(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
	}
}

CASE(socket_options_level)
{
	static struct named options[] = {N(SO_DEBUG), N(SO_REUSEADDR), N(SO_TYPE), N(SO_ERROR), N(SO_DONTROUTE), N(SO_BROADCAST), N(SO_KEEPALIVE), N(SO_OOBINLINE), N(SO_NO_CHECK), N(SO_PRIORITY), N(SO_REUSEPORT), N(SO_PASSCRED), N(SO_RCVLOWAT), N(SO_SNDLOWAT), N(SO_ACCEPTCONN), N(SO_PROTOCOL), N(SO_DOMAIN), N(SO_MARK), N(SO_TIMESTAMP), N(SO_TIMESTAMPNS), N(SO_RXQ_OVFL), N(SO_WIFI_STATUS), N(SO_NOFCS), N(SO_SELECT_ERR_QUEUE), N(SO_LOCK_FILTER), N(SO_BUSY_POLL), N(SO_ZEROCOPY), N(1000)};
	EACH(k, kinds) {
		int fd = socket(kinds[k].family, kinds[k].type, 0);
		say("%s", kinds[k].name);
		EACH(o, options) {
			int v = -99;
			socklen_t n = sizeof v;
			errno = 0;
			int r = getsockopt(fd, SOL_SOCKET, options[o].value, &v, &n);
			if (options[o].value == SO_BUSY_POLL)
				continue;
			if (r)
				say(" %s: %s", options[o].name, errname(errno));
			else
				say(" %s: %d in %d", options[o].name, v, n);
		}
		close(fd);
	}
}

CASE(socket_options_set)
{
	static struct named options[] = {N(SO_REUSEADDR), N(SO_TYPE), N(SO_ERROR), N(SO_DONTROUTE), N(SO_BROADCAST), N(SO_KEEPALIVE), N(SO_OOBINLINE), N(SO_PRIORITY), N(SO_REUSEPORT), N(SO_PASSCRED), N(SO_RCVLOWAT), N(SO_SNDLOWAT), N(SO_ACCEPTCONN), N(SO_PROTOCOL), N(SO_DOMAIN), N(SO_MARK), N(SO_TIMESTAMP), N(1000)};
	static int values[] = {0, 1, 5, -1};
	EACH(k, kinds)
		EACH(o, options)
			EACH(v, values) {
				if (options[o].value == SO_RCVLOWAT && values[v] < 0)
					continue; // tcp_rmem bounds it
				int fd = socket(kinds[k].family, kinds[k].type, 0), got = -99;
				socklen_t n = sizeof got;
				errno = 0;
				int r = setsockopt(fd, SOL_SOCKET, options[o].value, &values[v], 4);
				const char *e = r ? errname(errno) : "ok";
				getsockopt(fd, SOL_SOCKET, options[o].value, &got, &n);
				say("%s %s %d: %s %d", kinds[k].name, options[o].name, values[v], e, got);
				close(fd);
			}
}

CASE(socket_options_sizes)
{
	EACH(k, kinds) {
		int fd = socket(kinds[k].family, kinds[k].type, 0), v[8] = {1};
		say("%s", kinds[k].name);
		for (socklen_t n = 0; n < 10; n++) {
			socklen_t size = n;
			v[0] = -1;
			ROW(getsockopt(fd, SOL_SOCKET, SO_TYPE, v, &size), "get %d", n);
			say(" %x in %d", v[0], size);
			v[0] = 1;
			ROW(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, v, n), "set %d", n);
		}
		socklen_t size = -1;
		E(getsockopt(fd, SOL_SOCKET, SO_TYPE, v, &size));
		E(getsockopt(fd, SOL_SOCKET, SO_TYPE, v, (void *)8));
		size = 4;
		E(getsockopt(fd, SOL_SOCKET, SO_TYPE, (void *)8, &size));
		E(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, (void *)8, 4));
		E(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, v, -1));
		E(getsockopt(fd, 77, SO_TYPE, v, &size));
		E(setsockopt(fd, 77, SO_TYPE, v, 4));
		struct linger l = {1, 5};
		E(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, 4));
		E(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, 8));
		l.l_linger = 0, size = sizeof l;
		E(getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &size));
		say("%d %d in %d", l.l_onoff, l.l_linger, size);
		struct timeval t = {3, 500000}, bad = {1, 1000000};
		E(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, 8));
		E(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bad, 16));
		E(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, 16));
		t.tv_sec = 0, size = sizeof t;
		E(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, &size));
		say("%ld %ld in %d", t.tv_sec, t.tv_usec, size);
		t.tv_sec = -1;
		E(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, 16));
		size = sizeof t;
		E(getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, &size));
		say("%ld %ld in %d", t.tv_sec, t.tv_usec, size);
		int b[] = {0, 1, 5000, 100000, 1 << 30, -1};
		EACH(i, b) {
			setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &b[i], 4), size = 4, getsockopt(fd, SOL_SOCKET, SO_SNDBUF, v, &size);
			say("send buffer %d: %d", b[i], v[0]);
			setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &b[i], 4), size = 4, getsockopt(fd, SOL_SOCKET, SO_RCVBUF, v, &size);
			say("receive buffer %d: %d", b[i], v[0]);
		}
		close(fd);
	}
}

CASE(socket_wrong_state)
{
	EACH(k, kinds) {
		int fd = socket(kinds[k].family, kinds[k].type, 0);
		char b[64];
		socklen_t n = sizeof b;
		struct sockaddr_storage a = {kinds[k].family};
		say("%s", kinds[k].name);
		fcntl(fd, F_SETFL, O_NONBLOCK);
		signal(SIGPIPE, SIG_IGN);
		E(accept(fd, NULL, NULL));
		E(read(fd, b, 1));
		E(write(fd, b, 1));
		E(send(fd, b, 0, 0));
		E(recv(fd, b, 0, 0));
		E(shutdown(fd, SHUT_RD));
		E(shutdown(fd, 3));
		E(shutdown(fd, -1));
		E(getpeername(fd, (void *)b, &n));
		n = 2;
		E(getsockname(fd, (void *)b, &n));
		say("%d", n);
		n = -1;
		E(getsockname(fd, (void *)b, &n));
		E(connect(fd, (void *)&a, 1));
		E(connect(fd, (void *)8, 16));
		E(connect(fd, (void *)&a, 129));
		E(bind(fd, (void *)&a, 1));
		E(bind(fd, (void *)&a, 0));
		E(bind(fd, (void *)&a, -1));
		a.ss_family = 99;
		E(bind(fd, (void *)&a, 28));
		E(connect(fd, (void *)&a, 28));
		E(sendto(fd, b, 1, 0, (void *)&a, 1));
		E(sendto(fd, b, 1, 0, (void *)8, 16));
		E(listen(fd, -1));
		E(listen(fd, 5));
		E(ioctl(fd, SIOCATMARK, b));
		E(ioctl(fd, SIOCINQ, b));
		E(ioctl(fd, SIOCOUTQ, b));
		E(lseek(fd, 0, SEEK_SET));
		E(pread(fd, b, 1, 0));
		E(ftruncate(fd, 0));
		E(fsync(fd));
		E(fallocate(fd, 0, 0, 1));
		close(fd);
	}
}

CASE(unix_addresses)
{
	struct sockaddr_un a = {AF_UNIX};
	int fd;
	socklen_t n;
#define BIND(name, size)                                                                  \
	do {                                                                              \
		fd = socket(AF_UNIX, SOCK_STREAM, 0);                                     \
		memset(a.sun_path, 0, sizeof a.sun_path);                                 \
		memcpy(a.sun_path, name, sizeof name - 1);                                \
		ROW(bind(fd, (void *)&a, size), "bind %s %d", name, (int)(size));         \
		n = sizeof a, memset(a.sun_path, 'q', sizeof a.sun_path);                 \
		getsockname(fd, (void *)&a, &n);                                          \
		dump(" name", &a, n);                                                     \
	} while (0)
	BIND("plain", 2 + 5);
	BIND("plain", 2 + 6);
	BIND("zero\0behind", 2 + 11);
	BIND("\0abstract-corpus", 2 + 16);
	BIND("\0abstract-corpus", 2 + 17);
	BIND("\0", 3);
	BIND("none/x", 9);
	BIND("plain/x", 10);
	BIND(".", 4);
	BIND("", 110);
	BIND("slash/", 9);
	E(bind(fd, (void *)&a, sizeof a));
	n = 2;
	fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	E(bind(fd, (void *)&(struct sockaddr_un){AF_UNIX}, 2)); // the kernel chooses
	n = sizeof a;
	getsockname(fd, (void *)&a, &n);
	say("%d %d", n, a.sun_path[0]);
	char big[108];
	memset(a.sun_path, 'l', 108);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	E(bind(fd, (void *)&a, 110));
	n = sizeof a;
	E(getsockname(fd, (void *)&a, &n));
	say("%d", n);
	E(listen(fd, 1));
	int c = socket(AF_UNIX, SOCK_STREAM, 0);
	E(connect(c, (void *)&a, 110));
	struct stat s;
	stat("plain", &s);
	say("%o", s.st_mode);
	strcpy(a.sun_path, "plain");
	E(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, 8));
	E(connect(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&a, 8));
	put("regular", "");
	strcpy(a.sun_path, "regular");
	E(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, 10));
	E(open("plain", O_RDONLY));
	unlink("plain"), strcpy(a.sun_path, "plain");
	E(connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, 8));
	chmod(".", 0755), setuid(1000);
	E(bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, 8));
}

static void shutdowns(int family, int type)
{
	static int hows[] = {-1, SHUT_RD, SHUT_WR, SHUT_RDWR};
	signal(SIGPIPE, SIG_IGN);
	EACH(x, hows)
		EACH(y, hows) {
			int s[2];
			char b[8];
			if (family == AF_UNIX)
				socketpair(AF_UNIX, type, 0, s);
			else {
				struct sockaddr_in in = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
				socklen_t n = sizeof in;
				int l = socket(AF_INET, SOCK_STREAM, 0);
				bind(l, (void *)&in, n), listen(l, 1), getsockname(l, (void *)&in, &n);
				s[0] = socket(AF_INET, SOCK_STREAM, 0);
				connect(s[0], (void *)&in, n);
				s[1] = accept(l, NULL, NULL), close(l);
			}
			write(s[1], "left", 4);
			if (hows[x] >= 0)
				shutdown(s[0], hows[x]);
			if (hows[y] >= 0)
				shutdown(s[1], hows[y]);
			if (family != AF_UNIX)
				poll(&(struct pollfd){s[0], POLLRDHUP}, 1, 30);
			struct pollfd p[2] = {{s[0], POLLIN | POLLOUT | POLLRDHUP}, {s[1], POLLIN | POLLOUT | POLLRDHUP}};
			poll(p, 2, 0);
			say("%d %d: %x %x", hows[x], hows[y], p[0].revents, p[1].revents);
			ROW(recv(s[0], b, 8, MSG_DONTWAIT), " recv");
			ROW(recv(s[0], b, 8, MSG_DONTWAIT), " recv");
			ROW(send(s[0], "x", 1, MSG_DONTWAIT), " send");
			ROW(send(s[1], "x", 1, MSG_DONTWAIT), " peer's send");
			ROW(recv(s[1], b, 8, MSG_DONTWAIT), " peer's recv");
			ROW(recv(s[1], b, 8, MSG_DONTWAIT), " peer's recv");
			close(s[0]), close(s[1]);
		}
}
CASE(shutdown_unix_stream) { shutdowns(AF_UNIX, SOCK_STREAM); }
CASE(shutdown_unix_dgram) { shutdowns(AF_UNIX, SOCK_DGRAM); }
CASE(shutdown_unix_seqpacket) { shutdowns(AF_UNIX, SOCK_SEQPACKET); }

static void message_flags(int type)
{
	static struct named flags[] = {N(0), N(MSG_PEEK), N(MSG_TRUNC), N(MSG_PEEK | MSG_TRUNC), N(MSG_WAITALL), N(MSG_OOB), N(MSG_ERRQUEUE), N(MSG_CMSG_CLOEXEC), N(MSG_DONTROUTE), N(MSG_EOR), N(0x1000000)};
	EACH(f, flags) {
		int s[2];
		char b[8] = "";
		socketpair(AF_UNIX, type, 0, s);
		send(s[1], "abcdef", 6, 0), send(s[1], "ghi", 3, 0);
		struct iovec v = {b, 4};
		struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
		ROW(recvmsg(s[0], &m, flags[f].value | MSG_DONTWAIT), "recvmsg %s", flags[f].name);
		say(" %.4s %x", b, m.msg_flags);
		ROW(recv(s[0], b, 8, flags[f].value | MSG_DONTWAIT), "recv %s", flags[f].name);
		if (flags[f].value != MSG_OOB)
			ROW(send(s[0], b, 1, flags[f].value | MSG_DONTWAIT), "send %s", flags[f].name);
		ROW(recv(s[1], b, 1, MSG_DONTWAIT), "peer");
		close(s[0]), close(s[1]);
	}
}
CASE(message_flags_stream) { message_flags(SOCK_STREAM); }
CASE(message_flags_dgram) { message_flags(SOCK_DGRAM); }
CASE(message_flags_seqpacket) { message_flags(SOCK_SEQPACKET); }

CASE(message_headers)
{
	int s[2];
	char b[16];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	struct iovec v = {"hello", 5}, bad = {(void *)8, 5};
	static struct iovec many[1025];
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	E(sendmsg(s[0], (void *)8, 0));
	m.msg_iovlen = 1025, m.msg_iov = many;
	E(sendmsg(s[0], &m, 0));
	m.msg_iovlen = 1024;
	E(sendmsg(s[0], &m, 0));
	m.msg_iovlen = 1, m.msg_iov = &bad;
	E(sendmsg(s[0], &m, 0));
	m.msg_iov = (void *)8;
	E(sendmsg(s[0], &m, 0));
	m.msg_iov = &v, m.msg_control = (void *)8, m.msg_controllen = 16;
	E(sendmsg(s[0], &m, 0));
	char control[64] = "";
	struct cmsghdr *c = (void *)control;
	m.msg_control = control, m.msg_controllen = 20;
	static int lens[] = {0, 15, 16, 17, 20, 21, 64};
	EACH(i, lens) {
		*c = (struct cmsghdr){lens[i], SOL_SOCKET, SCM_RIGHTS};
		*(int *)CMSG_DATA(c) = 1;
		ROW(sendmsg(s[0], &m, 0), "rights in %d", lens[i]);
	}
	*c = (struct cmsghdr){20, SOL_SOCKET, 77};
	E(sendmsg(s[0], &m, 0));
	*c = (struct cmsghdr){20, 77, 77};
	E(sendmsg(s[0], &m, 0));
	*c = (struct cmsghdr){20, SOL_SOCKET, SCM_RIGHTS};
	*(int *)CMSG_DATA(c) = 99;
	E(sendmsg(s[0], &m, 0));
	*(int *)CMSG_DATA(c) = s[0];
	E(sendmsg(s[0], &m, 0));
	m.msg_control = NULL, m.msg_controllen = 0;
	m.msg_name = "x", m.msg_namelen = 1;
	E(sendmsg(s[0], &m, 0));
	m.msg_namelen = -1;
	E(sendmsg(s[0], &m, 0));
	m.msg_name = NULL, m.msg_namelen = 0;
	struct iovec w = {b, 16};
	m.msg_iov = &w;
	m.msg_control = control, m.msg_controllen = 8; // no room for rights
	ioctl(s[1], FIONREAD, b), say("%d", *(int *)b);
	for (int i = 0; i < 3; i++) {
		m.msg_controllen = 17 + i;
		ROW(recvmsg(s[1], &m, MSG_DONTWAIT), "recvmsg");
		say(" %x %d", m.msg_flags, (int)m.msg_controllen);
	}
	static struct mmsghdr mm[3];
	for (int i = 0; i < 3; i++)
		mm[i].msg_hdr = (struct msghdr){.msg_iov = &v, .msg_iovlen = 1};
	mm[1].msg_hdr.msg_iov = (void *)8;
	E(sendmmsg(s[0], mm, 3, 0));
	say("%d %d", mm[0].msg_len, mm[1].msg_len);
	E(sendmmsg(s[0], mm + 1, 2, 0));
	E(sendmmsg(s[0], mm, 0, 0));
	E(sendmmsg(99, mm, 1, 0));
	struct timespec t = {0, 1000000000};
	E(recvmmsg(s[1], mm, 1, MSG_DONTWAIT, &t));
	t.tv_nsec = 1;
	mm[0].msg_hdr.msg_iov = &w;
	E(recvmmsg(s[1], mm, 3, MSG_WAITFORONE, &t));
	E(recvmmsg(s[1], mm, 1, MSG_DONTWAIT, NULL));
}

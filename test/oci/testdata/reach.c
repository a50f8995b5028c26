// reach is what containers of the network tests reach others with, and what those run.
//
//	reach dial ADDRESS PORT [udp [TRIES]]  how a connection goes, and on standard error how long it took
//	reach told ADDRESS [HOPS]      what a socket that asked hears of a datagram that comes to nothing, by whom
//	reach serve                    what answers the acts below, each at a port; "ready" on standard output
//	reach crowd ADDRESS CONNECTIONS  what comes of many peers that never read
//	reach pour                     what pours bytes over whoever connects
//	reach drink ADDRESS SECONDS    how many MiB of those come
//	reach syn|connect ADDRESS RATE  a flood, so many a second without end: first segments alone, from anywhere, or connections that say nothing
//	reach half|reset|full ADDRESS  what comes of a peer that sends no more, that resets, that never reads
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HALF = 7001, RESET, FULL, POUR };

static const char *said(long n) { return n < 0 ? strerrorname_np(errno) : "OK"; }

static int dial(const char *host, const char *port, int type)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = type}, *a;
	if (getaddrinfo(host, port, &hints, &a))
		return -1;
	int fd = socket(a->ai_family, a->ai_socktype, 0);
	if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
		return fd;
	int e = errno;
	close(fd);
	errno = e;
	return -1;
}

static int to(const char *host, int port)
{
	char text[8];
	snprintf(text, sizeof text, "%d", port);
	return dial(host, text, SOCK_STREAM);
}

static int poll_for(int fd, int events, int ms)
{
	struct pollfd p = {fd, events};
	poll(&p, 1, ms);
	return p.revents;
}

static int listener(int port)
{
	struct sockaddr_in a = {AF_INET, htons(port)};
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (void *)&a, sizeof a) || listen(fd, 100))
		perror("listen"), exit(1);
	return fd;
}

static void serve(void)
{
	static char b[65536];
	struct pollfd p[3];
	for (int i = 0; i < 3; i++)
		p[i] = (struct pollfd){listener(HALF + i), POLLIN};
	puts("ready");
	for (;;) {
		poll(p, 3, -1);
		for (int i = 0; i < 3; i++) {
			if (!p[i].revents)
				continue;
			int fd = accept(p[i].fd, NULL, NULL);
			switch (HALF + i) {
			case HALF: { // what came, in the end, goes nowhere: its number is printed
				long n, all = 0;
				shutdown(fd, SHUT_WR);
				while ((n = read(fd, b, sizeof b)) > 0)
					all += n;
				printf("half %ld %s\n", all, said(n));
				break;
			}
			case RESET: {
				struct linger l = {1, 0};
				read(fd, b, 1);
				setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
				break;
			}
			case FULL:
				continue; // for ever
			}
			close(fd);
		}
	}
}

static void pour(void)
{
	static char b[65536];
	int l = listener(POUR);
	puts("ready");
	for (;;) {
		int fd = accept(l, NULL, NULL);
		while (write(fd, b, sizeof b) > 0)
			;
		close(fd);
	}
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static unsigned short sum(const void *at, int n, unsigned s)
{
	for (const unsigned short *p = at; n > 1; n -= 2)
		s += *p++;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return ~s;
}

// syn sends a first segment from any address of the net and any port.
static void syn(int raw, struct in_addr to)
{
	static unsigned i;
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} p = {{.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP, .tot_len = htons(40), .daddr = to.s_addr}};
	struct sockaddr_in a = {AF_INET, 0, to};
	i++;
	p.ip.saddr = htonl(0x0a4d0000 | 10 + i % 200);
	p.tcp.source = htons(1024 + i / 200 % 60000), p.tcp.dest = htons(HALF), p.tcp.seq = htonl(i * 7919), p.tcp.doff = 5, p.tcp.syn = 1, p.tcp.window = 0xffff;
	struct {
		unsigned from, to;
		unsigned short protocol, size;
	} pseudo = {p.ip.saddr, p.ip.daddr, htons(IPPROTO_TCP), htons(20)};
	p.tcp.check = sum(&p.tcp, 20, (unsigned short)~sum(&pseudo, 12, 0));
	sendto(raw, &p, sizeof p, 0, (void *)&a, sizeof a);
}

static void flood(int connects, const char *host, double rate)
{
	enum { KEPT = 800 };
	static int kept[KEPT];
	struct sockaddr_in to = {AF_INET, htons(HALF)};
	int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	inet_pton(AF_INET, host, &to.sin_addr);
	double start = now();
	for (long n = 0;; n++) {
		while (n > (now() - start) * rate)
			usleep(1000);
		if (!connects) {
			syn(raw, to.sin_addr);
			continue;
		}
		int *fd = &kept[n % KEPT];
		if (*fd) {
			struct linger l = {1, 0};
			setsockopt(*fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
			close(*fd);
		}
		*fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connect(*fd, (void *)&to, sizeof to);
	}
}

int main(int argc, char **argv)
{
	static char b[65536];
	setvbuf(stdout, NULL, _IONBF, 0);
	signal(SIGPIPE, SIG_IGN);
	const char *act = argc > 1 ? argv[1] : "";
	if (!strcmp(act, "serve"))
		serve();
	if (!strcmp(act, "pour"))
		pour();
	if (argc > 3 && (!strcmp(act, "syn") || !strcmp(act, "connect")))
		flood(*act == 'c', argv[2], atof(argv[3]));
	if (argc < 3)
		return 99;
	alarm(30);
	if (!strcmp(act, "dial") && argc > 3) {
		struct timespec t, u;
		int udp = argc > 4;
		clock_gettime(CLOCK_MONOTONIC, &t);
		int fd = dial(argv[2], argv[3], udp ? SOCK_DGRAM : SOCK_STREAM);
		if (udp && fd >= 0) { // an answer, or what is told of the one that is under way: a router has patience with a few
			struct timeval patience = {0, 500000};
			int s = fd;
			setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
			for (int tries = 0; tries < (argc > 5 ? atoi(argv[5]) : 12); tries++) {
				send(s, "x", 1, 0);
				if ((fd = recv(s, b, 1, 0)) >= 0 || errno != EAGAIN)
					break;
			}
		}
		const char *how = said(fd);
		clock_gettime(CLOCK_MONOTONIC, &u);
		puts(how);
		fprintf(stderr, "%s %s: %s after %.2f ms\n", argv[2], argv[3], how, (u.tv_sec - t.tv_sec) * 1e3 + (u.tv_nsec - t.tv_nsec) / 1e6);
		return 0;
	}
	if (!strcmp(act, "drink") && argc > 3) {
		int fd = to(argv[2], POUR);
		double end = now() + atof(argv[3]);
		long all = 0, n;
		while (now() < end && (n = read(fd, b, sizeof b)) > 0)
			all += n;
		printf("%ld\n", all >> 20);
		return fd < 0;
	}
	if (!strcmp(act, "told")) {
		int six = !!strchr(argv[2], ':'), on = 1;
		int fd = dial(argv[2], "9", SOCK_DGRAM);
		if (six)
			setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof on);
		else
			setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof on);
		if (argc > 3) {
			int hops = atoi(argv[3]);
			setsockopt(fd, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_UNICAST_HOPS : IP_TTL, &hops, sizeof hops);
		}
		for (int tries = 0; tries < 12; tries++) {
			send(fd, "seven b", 7, 0);
			if (poll_for(fd, POLLERR, 500))
				break;
		}
		union {
			char b[512];
			struct cmsghdr align;
		} control;
		struct iovec v = {b, sizeof b};
		struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		long n = recvmsg(fd, &m, MSG_ERRQUEUE);
		struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m);
		if (!c)
			return printf("nothing, %s\n", said(n)), 0;
		struct sock_extended_err *e = (void *)CMSG_DATA(c);
		struct sockaddr *by = SO_EE_OFFENDER(e);
		char text[INET6_ADDRSTRLEN];
		inet_ntop(by->sa_family, six ? (void *)&((struct sockaddr_in6 *)by)->sin6_addr : (void *)&((struct sockaddr_in *)by)->sin_addr, text, sizeof text);
		printf("%s, by %s: %d %d %d, of %ld bytes\n", strerrorname_np(e->ee_errno), text, e->ee_origin, e->ee_type, e->ee_code, n);
		return 0;
	}
	if (!strcmp(act, "half")) {
		int fd = to(argv[2], HALF);
		int events = poll_for(fd, POLLRDHUP, -1);
		printf("hears %x, reads %ld", events, (long)read(fd, b, 1));
		long sent = 0, n = 0;
		for (int i = 0; i < 64 && (n = write(fd, b, sizeof b)) > 0; i++)
			sent += n;
		printf(", sends %ld %s", sent, said(n));
		printf(", polls %x", poll_for(fd, POLLIN | POLLRDHUP | POLLHUP, 0));
		printf(", ends %s\n", said(shutdown(fd, SHUT_WR)));
		events = poll_for(fd, POLLHUP, -1); // both have said all
		printf("over %x\n", events);
		return 0;
	}
	if (!strcmp(act, "reset")) {
		int fd = to(argv[2], RESET);
		write(fd, "x", 1);
		int events = poll_for(fd, POLLHUP, -1);
		printf("hears %x", events | poll_for(fd, POLLIN | POLLOUT | POLLRDHUP, 0));
		printf(", reads %s", said(read(fd, b, 1)));
		printf(", then %ld", (long)read(fd, b, 1));
		printf(", writes %s", said(write(fd, b, 1)));
		struct sockaddr_storage a;
		socklen_t len = sizeof a;
		printf(", peer %s\n", said(getpeername(fd, (void *)&a, &len)));
		return 0;
	}
	if (!strcmp(act, "crowd")) { // connections to such a peer, each filled; then one that is answered
		int n = atoi(argv[3]), full = 0, fd;
		long sent = 0, m;
		struct pollfd p[n];
		for (int i = 0; i < n; i++)
			if ((p[i] = (struct pollfd){to(argv[2], FULL), POLLOUT}).fd < 0)
				return printf("connection %d: %s\n", i, said(-1)), 1;
		for (int idle = 0; idle < 5;) { // nothing has moved for a second
			if (poll(p, n, 200) == 0)
				idle++;
			for (int i = 0; i < n; i++)
				if (p[i].revents & POLLOUT && (m = send(p[i].fd, b, sizeof b, MSG_DONTWAIT)) > 0)
					sent += m, idle = 0;
		}
		for (int i = 0; i < n; i++)
			if (!(poll_for(p[i].fd, POLLOUT, 0) & POLLOUT))
				full++;
		fd = to(argv[2], HALF);
		printf("%s, reached: %s\n", full > n * 9 / 10 ? "they wait" : "they do not wait", said(fd));
		fprintf(stderr, "%ld MiB sent, %d full\n", sent >> 20, full);
		return 0;
	}
	if (!strcmp(act, "full")) {
		int fd = to(argv[2], FULL);
		long sent = 0, n;
		for (int idle = 0; idle < 5 && sent < 64 << 20;) { // nothing has moved for a second
			if ((n = send(fd, b, sizeof b, MSG_DONTWAIT)) > 0) {
				sent += n, idle = 0;
			} else if (!(poll_for(fd, POLLOUT, 200) & POLLOUT))
				idle++;
		}
		printf("%s, %s\n", sent < 64 << 20 ? "bounded" : "without bounds", said(n));
		return 0;
	}
	return 99;
}

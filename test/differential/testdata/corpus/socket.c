#include "corpus.h"

static struct sockaddr_un at(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strcpy(a.sun_path, path);
	return a;
}
#define ADDR(a) (struct sockaddr *)&a, sizeof a

CASE(stream_sockets)
{
	char b[64];
	struct sockaddr_un a = at("sock"), from;
	socklen_t size;
	int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	OK(l);
	E(socket(AF_UNIX, 77, 0));
	E(socket(9999, SOCK_STREAM, 0));
	E(socket(AF_UNIX, SOCK_STREAM, 5));
	E(connect(c, ADDR(a)));
	E(listen(l, 1));
	E(bind(l, ADDR(a)));
	E(bind(l, ADDR(a)));
	int other = socket(AF_UNIX, SOCK_STREAM, 0);
	E(bind(other, ADDR(a)));
	E(connect(c, ADDR(a)));
	E(listen(l, 2));
	fcntl(l, F_SETFL, O_NONBLOCK);
	E(accept(l, NULL, NULL));
	E(connect(c, ADDR(a)));
	E(connect(c, ADDR(a)));
	struct pollfd p = {l, POLLIN};
	E(poll(&p, 1, 0));
	size = sizeof from;
	int s = accept4(l, (struct sockaddr *)&from, &size, SOCK_NONBLOCK);
	OK(s);
	say("peer's name %d bytes", (int)size);
	say("flags %x", fcntl(s, F_GETFL));
	size = sizeof from;
	E(getsockname(s, (struct sockaddr *)&from, &size));
	say("%d %s", (int)size, from.sun_path);
	size = sizeof from;
	E(getpeername(c, (struct sockaddr *)&from, &size));
	say("%d %s", (int)size, from.sun_path);
	E(getpeername(l, (struct sockaddr *)&from, &size));
	E(read(s, b, 1));
	E(write(c, "hello", 5));
	E(recv(s, b, 3, MSG_PEEK));
	E(recv(s, b, 64, MSG_DONTWAIT));
	dump("b", b, 5);
	E(send(s, "reply", 5, MSG_NOSIGNAL));
	E(recv(c, b, 5, MSG_WAITALL));
	E(shutdown(c, SHUT_WR));
	E(read(s, b, 1));
	E(send(c, "x", 1, MSG_NOSIGNAL));
	E(write(s, "still", 5));
	E(read(c, b, 64));
	E(close(s));
	E(read(c, b, 1));
	signal(SIGPIPE, SIG_IGN);
	E(write(c, "x", 1));
	E(shutdown(other, SHUT_RD));
	E(shutdown(c, 9));
	E(write(other, "x", 1));
	E(read(other, b, 1));
	E(unlink("sock"));
	close(c), c = socket(AF_UNIX, SOCK_STREAM, 0);
	E(connect(c, ADDR(a)));
	put("file", "");
	a = at("file");
	E(connect(c, ADDR(a)));
	a = at("none/x");
	E(bind(c, ADDR(a)));
	E(bind(0, ADDR(a)));
	a.sun_family = AF_INET;
	E(bind(c, ADDR(a)));
	a = at("");
	E(bind(c, (struct sockaddr *)&a, sizeof(sa_family_t)));
	size = sizeof from;
	E(getsockname(c, (struct sockaddr *)&from, &size));
	say("autobind %d bytes, abstract %d", (int)size, from.sun_path[0] == 0);
	socketpair(AF_UNIX, SOCK_STREAM, 0, (int[2]){0});
	// What was unread when the peer closed makes a reset.
	int v[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, v);
	write(v[0], "unread", 6);
	close(v[1]);
	E(read(v[0], b, 1));
	E(read(v[0], b, 1));
}

CASE(abstract_and_dgram)
{
	char b[64];
	struct sockaddr_un a = {.sun_family = AF_UNIX}, from;
	socklen_t size = sizeof(sa_family_t) + 10, got;
	int r = socket(AF_UNIX, SOCK_DGRAM, 0), s = socket(AF_UNIX, SOCK_DGRAM, 0);
	snprintf(a.sun_path + 1, 30, "%09d", getpid());
	E(bind(r, (struct sockaddr *)&a, size));
	E(bind(s, (struct sockaddr *)&a, size));
	E(listen(r, 1));
	E(write(s, "x", 1));
	E(sendto(s, "one", 3, 0, (struct sockaddr *)&a, size));
	E(sendto(s, "second", 6, 0, (struct sockaddr *)&a, size));
	E(sendto(s, "", 0, 0, (struct sockaddr *)&a, size));
	int n;
	E(ioctl(r, FIONREAD, &n));
	say("%d", n);
	got = sizeof from;
	E(recvfrom(r, b, 2, MSG_TRUNC, (struct sockaddr *)&from, &got));
	say("from %d bytes", (int)got);
	E(recv(r, b, 64, 0));
	E(recv(r, b, 64, 0));
	E(recv(r, b, 64, MSG_DONTWAIT));
	struct sockaddr_un named = at("client");
	E(bind(s, ADDR(named)));
	E(connect(s, (struct sockaddr *)&a, size));
	E(write(s, "connected", 9));
	got = sizeof from;
	E(recvfrom(r, b, 64, 0, (struct sockaddr *)&from, &got));
	say("from %s", from.sun_path);
	E(sendto(r, "back", 4, 0, (struct sockaddr *)&from, got));
	E(read(s, b, 64));
	E(connect(r, (struct sockaddr *)&from, got));
	close(s);
	E(write(r, "x", 1));
	E(write(r, "x", 1));
	struct sockaddr none = {AF_UNSPEC};
	E(connect(r, &none, sizeof none));
	int q[2];
	E(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, q));
	E(write(q[0], "packet", 6));
	E(write(q[0], "two", 3));
	E(read(q[1], b, 3));
	E(read(q[1], b, 64));
	close(q[0]);
	E(read(q[1], b, 64));
	int d[2];
	E(socketpair(AF_UNIX, SOCK_DGRAM, 0, d));
	struct mmsghdr m[3];
	struct iovec v[3] = {{"a", 1}, {"bb", 2}, {"ccc", 3}};
	memset(m, 0, sizeof m);
	for (int i = 0; i < 3; i++)
		m[i].msg_hdr.msg_iov = &v[i], m[i].msg_hdr.msg_iovlen = 1;
	E(sendmmsg(d[0], m, 3, 0));
	char out[3][4];
	for (int i = 0; i < 3; i++)
		v[i] = (struct iovec){out[i], 2};
	E(recvmmsg(d[1], m, 3, MSG_DONTWAIT, NULL));
	say("%d %d %d flags %x", m[0].msg_len, m[1].msg_len, m[2].msg_len, m[2].msg_hdr.msg_flags);
}

static long send_fds(int s, const int *fds, int count, const char *text)
{
	char control[CMSG_SPACE(sizeof(int) * 300)];
	memset(control, 0, sizeof control);
	struct iovec v = {(char *)text, strlen(text)};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * count)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	return syscall(SYS_sendmsg, s, &m, 0); // musl refuses more than 1024 bytes by itself
}

static int take_fds(int s, int *fds, int room, int flags)
{
	char control[CMSG_SPACE(sizeof(int) * 300)], b[64];
	struct iovec v = {b, sizeof b};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room ? CMSG_LEN(sizeof(int) * room) : 0};
	long n = recvmsg(s, &m, flags);
	int count = 0;
	struct cmsghdr *c = n >= 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (c && c->cmsg_type == SCM_RIGHTS) {
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(c), count * sizeof(int));
	}
	say("received %ld bytes, %d descriptors, flags %x%s", n, count, m.msg_flags, n < 0 ? errname(errno) : "");
	return count;
}

CASE(passing_descriptors)
{
	int s[2], fds[300], p[2], out[300];
	char b[16];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	put("f", "file text");
	fds[0] = open("f", O_RDONLY);
	pipe(p);
	fds[1] = p[1];
	E(send_fds(s[0], fds, 2, "ab"));
	close(fds[0]);
	take_fds(s[1], out, 2, MSG_CMSG_CLOEXEC);
	E(read(out[0], b, 4));
	E(fcntl(out[0], F_GETFD));
	E(write(out[1], "through", 7));
	E(read(p[0], b, 16));
	E(lseek(out[0], 0, SEEK_CUR));
	fds[0] = p[0], fds[1] = p[1], fds[2] = 0;
	send_fds(s[0], fds, 3, "x");
	take_fds(s[1], out, 1, 0); // truncated: the rest is closed
	send_fds(s[0], fds, 1, "y");
	take_fds(s[1], out, 0, 0);
	send_fds(s[0], fds, 1, "z"), write(s[0], "more", 4);
	E(read(s[1], b, 16)); // the descriptors are dropped, and end the read
	E(read(s[1], b, 16));
	fds[0] = 99;
	E(send_fds(s[0], fds, 1, "bad"));
	for (int i = 0; i < 254; i++)
		fds[i] = 0;
	E(send_fds(s[0], fds, 254, "many"));
	E(send_fds(s[0], fds, 253, "many"));
	take_fds(s[1], out, 253, 0);
	for (int i = 0; i < 253; i++)
		close(out[i]);
	fds[0] = s[0]; // a socket through itself, and a dead letter
	E(send_fds(s[0], fds, 1, "self"));
	close(s[0]);
	take_fds(s[1], out, 1, 0);
	CHILD {
		int q[2];
		socketpair(AF_UNIX, SOCK_DGRAM, 0, q);
		CHILD {
			int n = open("f", O_RDONLY);
			lseek(n, 5, SEEK_SET);
			send_fds(q[0], &n, 1, "from a child");
		}
		take_fds(q[1], out, 1, 0);
		E(read(out[0], b, 16));
	}
	// A pipe's write end in flight keeps the pipe open; the peer's close frees it.
	int q[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, q);
	pipe(p);
	send_fds(q[0], &p[1], 1, "w");
	close(p[1]);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	E(read(p[0], b, 1));
	close(q[1]);
	E(read(p[0], b, 1));
}

CASE(credentials_and_options)
{
	int s[2], v;
	struct ucred u;
	socklen_t size = sizeof u;
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	E(getsockopt(s[0], SOL_SOCKET, SO_PEERCRED, &u, &size));
	say("%d %d %d", u.pid == getpid(), u.uid, u.gid);
	static const struct { int option; const char *name; } rows[] = {
		{SO_TYPE, "type"}, {SO_DOMAIN, "domain"}, {SO_PROTOCOL, "protocol"}, {SO_ERROR, "error"}, {SO_ACCEPTCONN, "listening"}, {SO_PASSCRED, "passcred"}, {SO_KEEPALIVE, "keepalive"}, {SO_REUSEADDR, "reuse"},
	};
	for (int i = 0; i < 8; i++) {
		size = sizeof v, v = -5;
		int r = getsockopt(s[0], SOL_SOCKET, rows[i].option, &v, &size);
		say("%s: %d %d %d", rows[i].name, r, v, (int)size);
	}
	v = 4096;
	E(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, sizeof v));
	size = sizeof v;
	E(getsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, &size));
	say("%d", v);
	E(setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &v, 1));
	E(setsockopt(s[0], SOL_SOCKET, 9999, &v, sizeof v));
	E(getsockopt(s[0], 77, 1, &v, &size));
	E(getsockopt(0, SOL_SOCKET, SO_TYPE, &v, &size));
	v = 1;
	E(setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &v, sizeof v));
	write(s[0], "x", 1);
	char control[256], b[8];
	struct iovec i = {b, 8};
	struct msghdr m = {.msg_iov = &i, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	E(recvmsg(s[1], &m, 0));
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (c) {
		memcpy(&u, CMSG_DATA(c), sizeof u);
		say("type %d pid %d uid %d", c->cmsg_type, u.pid == getpid(), u.uid);
	}
	struct timeval t = {0, 5000};
	E(setsockopt(s[1], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
	E(read(s[1], b, 1));
	fcntl(s[0], F_SETFL, O_NONBLOCK);
	static char big[1 << 20];
	long total = 0, n;
	while ((n = write(s[0], big, sizeof big)) > 0)
		total += n;
	say("filled %d then %s", total > 1000, errname(errno));
	struct pollfd p = {s[0], POLLOUT};
	E(poll(&p, 1, 0));
	while (total > 0 && (n = read(s[1], big, sizeof big)) > 0)
		total -= n;
	say("drained %ld", total);
	E(poll(&p, 1, 0));
	E(ioctl(s[0], SIOCATMARK, &v) < 0);
	E(lseek(s[0], 0, SEEK_SET));
	E(pread(s[0], b, 1, 0));
}

static long resident(char *at, long size)
{
	static unsigned char in[64 << 10];
	long n = 0;
	for (long done = 0; done < size; done += sizeof in * 4096L) {
		mincore(at + done, sizeof in * 4096L, in);
		for (int i = 0; i < (int)sizeof in; i++)
			n += in[i] & 1;
	}
	return n * 4096;
}

// Far more room than comes costs no memory; and what is more than a call moves at once,
// but was to come whole, does.
CASE(receive_much)
{
	const long room = 1 << 30, much = 6 << 20;
	char *b = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	madvise(b, room, MADV_NOHUGEPAGE);
	int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET}, s[2];
	EACH(i, types) {
		socketpair(AF_UNIX, types[i], 0, s);
		write(s[0], "hello", 5);
		E(recv(s[1], b, room, 0));
		write(s[0], "hello", 5);
		struct iovec v[] = {{b + 1, room / 2}, {b + room / 2 + 1, room / 2 - 1}};
		struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
		E(recvmsg(s[1], &m, 0)), say("%x %.6s", m.msg_flags, b);
		say("%d", resident(b, room) < 32 << 20);
	}
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	pid_t writer = fork();
	if (writer == 0) {
		char part[1 << 10];
		for (long n = 0; n < much; n += sizeof part)
			memset(part, n >> 10, sizeof part), write(s[0], part, sizeof part);
		_exit(0);
	}
	close(s[0]);
	E(recv(s[1], b, much, MSG_WAITALL | MSG_PEEK) > 0);
	E(recv(s[1], b, much + 4096, MSG_WAITALL));
	long wrong = 0;
	for (long n = 0; n < much; n++)
		wrong += b[n] != (char)(n >> 10);
	say("%ld", wrong);
	waitpid(writer, NULL, 0);
}

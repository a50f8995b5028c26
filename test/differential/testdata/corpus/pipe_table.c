// Pipes and what moves bytes between descriptors: sizes, packets, every pair of kinds.
#include "corpus.h"
#include <linux/fs.h>

static char big[1 << 21];

CASE(pipe_sizes)
{
	int p[2];
	pipe2(p, O_NONBLOCK);
	static long sizes[] = {-1, 0, 1, 4095, 4096, 4097, 8192, 65536, 65537, 1 << 20};
	EACH(i, sizes) {
		ROW(fcntl(p[0], F_SETPIPE_SZ, sizes[i]), "to %ld", sizes[i]);
		ROW(fcntl(p[1], F_GETPIPE_SZ), "is");
		ROW(write(p[1], big, sizeof big), "takes");
		ROW(ioctl(p[0], FIONREAD, big), "FIONREAD");
		ROW(fcntl(p[0], F_SETPIPE_SZ, 4096), "smaller when full");
		ROW(read(p[0], big, sizeof big), "gives");
	}
	put("f", "");
	setuid(1000);
	E(fcntl(p[0], F_SETPIPE_SZ, 1 << 20));
	E(fcntl(p[0], F_SETPIPE_SZ, (1 << 20) + 1));
}

CASE(pipe_pages)
{
	// A pipe has slots of pages; what is written joins the last if it fits.
	int p[2];
	pipe2(p, O_NONBLOCK);
	fcntl(p[0], F_SETPIPE_SZ, 4 * 4096);
	static int sizes[] = {1, 4095, 4096, 8192};
	EACH(i, sizes) {
		int count = 0;
		long n, total = 0;
		while ((n = write(p[1], big, sizes[i])) > 0)
			count++, total += n;
		say("%d: %d times, %ld bytes", sizes[i], count, total);
		ROW(write(p[1], big, 1), "one more");
		read(p[0], big, 4096);
		ROW(write(p[1], big, sizes[i]), "after a page was read");
		while (read(p[0], big, sizeof big) > 0)
			;
	}
}

CASE(pipe_packets)
{
	int p[2];
	pipe2(p, O_DIRECT | O_NONBLOCK);
	static int sizes[] = {1, 4096, 4097, 10000};
	EACH(i, sizes) {
		ROW(write(p[1], big, sizes[i]), "write %d", sizes[i]);
		ROW(read(p[0], big, 100), "read 100");
		ROW(read(p[0], big, sizeof big), "read");
		while (read(p[0], big, sizeof big) > 0)
			;
	}
	write(p[1], "x", 1);
	ROW(write(p[1], "", 0), "empty");
	fcntl(p[1], F_SETFL, O_NONBLOCK); // a stream from now on
	read(p[0], big, 1);
	E(write(p[1], "ab", 2));
	E(write(p[1], "cd", 2));
}

CASE(pipe_polls)
{
	int p[2];
	pipe2(p, O_NONBLOCK);
	fcntl(p[0], F_SETPIPE_SZ, 8192);
	struct pollfd f[2] = {{p[0], POLLIN | POLLOUT | POLLHUP | POLLRDNORM}, {p[1], POLLIN | POLLOUT | POLLWRNORM}};
#define STATE(what) poll(f, 2, 0), say("%s: %x %x", what, f[0].revents, f[1].revents)
	STATE("empty");
	write(p[1], big, 1), STATE("a byte");
	write(p[1], big, 4096), STATE("two pages touched");
	read(p[0], big, 4000), STATE("most of a page read");
	read(p[0], big, 96), STATE("a page read");
	read(p[0], big, 4096), STATE("empty again");
	write(p[1], big, 9000), STATE("full");
	close(p[1]), f[1].fd = -1, STATE("no writer");
	read(p[0], big, 9000), STATE("no writer, empty");
	close(p[0]);
	pipe2(p, O_NONBLOCK);
	f[0].fd = -1, f[1].fd = p[1];
	close(p[0]), STATE("no reader");
	signal(SIGPIPE, SIG_IGN);
	E(write(p[1], "", 0));
	E(write(p[1], "x", 1));
	E(ioctl(p[1], FIONREAD, big));
}

enum { FILE_, DIR_, PIPE_R, PIPE_W, SOCK, NULLDEV, EVENT, CLOSED, KINDS };
static const char *kind_names[] = {"file", "dir", "pipe's end to read", "pipe's end to write", "socket", "null", "eventfd", "closed"};

static int kind_fd(int kind)
{
	int p[2];
	switch (kind) {
	case FILE_: put("f", "content of the file"); return open("f", O_RDWR);
	case DIR_: return open(".", O_RDONLY);
	case PIPE_R: pipe(p); write(p[1], "in the pipe", 11); return p[0];
	case PIPE_W: pipe(p); return p[1];
	case SOCK: socketpair(AF_UNIX, SOCK_STREAM, 0, p); write(p[1], "in the socket", 13); return p[0];
	case NULLDEV: return open("/dev/null", O_RDWR);
	case EVENT: return eventfd(1, 0);
	}
	return 999;
}

#define PAIRS(id, call)                                                                   \
	CASE(id)                                                                          \
	{                                                                                 \
		signal(SIGPIPE, SIG_IGN);                                                 \
		for (int a = 0; a < KINDS; a++)                                           \
			for (int b = 0; b < KINDS; b++) {                                 \
				int in = kind_fd(a), out = kind_fd(b);                    \
				ROW(call, "%s to %s", kind_names[a], kind_names[b]);      \
				syscall(SYS_close_range, 3, 900, 0);                      \
			}                                                                 \
	}
PAIRS(tee_pairs, tee(in, out, 5, SPLICE_F_NONBLOCK))
PAIRS(copy_range_pairs, copy_file_range(in, NULL, out, NULL, 5, 0))

CASE(splice_arguments)
{
	int p[2], q[2];
	pipe2(p, O_NONBLOCK), pipe2(q, O_NONBLOCK);
	put("f", "0123456789");
	int f = open("f", O_RDWR), ro = open("f", O_RDONLY), app = open("f", O_RDWR | O_APPEND);
	off_t at = 3, neg = -1;
	E(splice(f, &at, p[1], NULL, 4, 0));
	say("%ld", at);
	E(splice(f, &neg, p[1], NULL, 4, 0));
	E(splice(f, NULL, p[1], &at, 4, 0));
	E(splice(p[0], &at, f, NULL, 4, 0));
	E(splice(f, NULL, p[1], NULL, 4, 16));
	E(splice(f, NULL, p[1], NULL, 0, 0));
	E(splice(f, NULL, p[1], NULL, 4, SPLICE_F_MOVE | SPLICE_F_MORE | SPLICE_F_GIFT));
	E(splice(p[0], NULL, app, NULL, 2, 0));
	E(splice(p[0], NULL, ro, NULL, 2, 0));
	E(splice(p[0], NULL, p[1], NULL, 2, 0));
	E(splice(f, (off_t *)8, p[1], NULL, 1, 0));
	at = 100;
	E(splice(f, &at, p[1], NULL, 4, 0));
	E(tee(p[0], p[1], 4, 0));
	E(tee(p[0], q[1], 4, 16));
	E(tee(p[0], q[1], 0, 0));
	E(tee(p[0], q[1], 100, 0));
	char b[64];
	E(read(q[0], b, 64));
	dump("b", b, 4);
	E(tee(q[0], p[1], 4, 0));
	struct iovec v[2] = {{"abc", 3}, {"de", 2}}, bad = {(void *)8, 3};
	E(vmsplice(q[1], v, 2, 0));
	E(vmsplice(q[1], v, 2, 16));
	E(vmsplice(q[1], v, 0, 0));
	E(vmsplice(q[1], v, 1025, 0));
	E(vmsplice(q[1], &bad, 1, 0));
	E(vmsplice(f, v, 1, 0));
	struct iovec into = {b, 3};
	E(vmsplice(q[0], &into, 1, 0));
	dump("b", b, 3);
	E(sendfile(q[1], f, &neg, 1));
	E(sendfile(q[1], f, (off_t *)8, 1));
	at = 8;
	E(sendfile(q[1], f, &at, 100));
	say("%ld", at);
	E(sendfile(q[1], f, &at, 100));
	E(sendfile(app, f, NULL, 1));
	E(sendfile(ro, f, NULL, 1));
	E(sendfile(q[1], f, NULL, 0));
}

CASE(copy_range_arguments)
{
	put("f", "0123456789"), put("g", "");
	int f = open("f", O_RDWR), g = open("g", O_RDWR), app = open("g", O_RDWR | O_APPEND), ro = open("g", O_RDONLY), wo = open("f", O_WRONLY);
	loff_t a = 0, b = 0;
	E(copy_file_range(f, &a, g, &b, 4, 0));
	say("%ld %ld", a, b);
	E(copy_file_range(f, &a, f, &a, 4, 0));
	a = 0, b = 6;
	E(copy_file_range(f, &a, f, &b, 4, 0));
	a = 0, b = 2;
	E(copy_file_range(f, &a, f, &b, 4, 0));
	E(copy_file_range(f, NULL, app, NULL, 1, 0));
	E(copy_file_range(f, NULL, ro, NULL, 1, 0));
	E(copy_file_range(wo, NULL, g, NULL, 1, 0));
	E(copy_file_range(f, NULL, g, NULL, 1, 1));
	E(copy_file_range(f, NULL, g, NULL, 0, 0));
	a = 100;
	E(copy_file_range(f, &a, g, NULL, 1, 0));
	a = 8;
	E(copy_file_range(f, &a, g, NULL, 100, 0));
	a = 0, b = LLONG_MAX;
	E(copy_file_range(f, &a, g, &b, 1, 0));
	E(copy_file_range(f, (void *)8, g, NULL, 1, 0));
	show("g");
}

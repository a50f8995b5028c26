// io_uring, by its system calls: the rings are mapped and filled by hand, as
// liburing does it.
#include "corpus.h"
#include <linux/io_uring.h>
#include <netinet/in.h>

static struct ring {
	int fd;
	struct io_uring_params p;
	char *sq, *cq;
	struct io_uring_sqe *sqes;
	unsigned filled;
} R;

#define SQ(field) ((unsigned *)(R.sq + R.p.sq_off.field))
#define CQ(field) ((unsigned *)(R.cq + R.p.cq_off.field))

static int setup(unsigned entries, unsigned flags, unsigned cq_entries)
{
	memset(&R, 0, sizeof R);
	R.p.flags = flags;
	R.p.cq_entries = cq_entries;
	R.fd = syscall(SYS_io_uring_setup, entries, &R.p);
	if (R.fd < 0)
		return -1;
	size_t size = R.p.cq_off.cqes + R.p.cq_entries * sizeof(struct io_uring_cqe);
	size_t array = R.p.sq_off.array + R.p.sq_entries * 4;
	R.sq = mmap(NULL, size > array ? size : array, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, R.fd, IORING_OFF_SQ_RING);
	R.cq = R.sq;
	R.sqes = mmap(NULL, R.p.sq_entries * sizeof *R.sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, R.fd, IORING_OFF_SQES);
	if (R.sq == MAP_FAILED || R.sqes == MAP_FAILED)
		say("map: %s", errname(errno));
	return R.fd;
}

static struct io_uring_sqe *sqe(int op, int fd, const void *addr, unsigned len, unsigned long long off, unsigned long long data)
{
	unsigned tail = *SQ(tail), i = (tail + R.filled++) & *SQ(ring_mask);
	struct io_uring_sqe *s = &R.sqes[i];
	memset(s, 0, sizeof *s);
	if (!(R.p.flags & 0x10000))
		SQ(array)[i] = i;
	s->opcode = op, s->fd = fd, s->addr = (unsigned long)addr, s->len = len, s->off = off, s->user_data = data;
	return s;
}

static int enter(unsigned submit, unsigned least, unsigned flags)
{
	__atomic_store_n(SQ(tail), *SQ(tail) + R.filled, __ATOMIC_RELEASE);
	R.filled = 0;
	return syscall(SYS_io_uring_enter, R.fd, submit, least, flags, NULL, 8);
}

static int next(struct io_uring_cqe *c)
{
	unsigned head = *CQ(head);
	if (head == __atomic_load_n(CQ(tail), __ATOMIC_ACQUIRE))
		return 0;
	*c = ((struct io_uring_cqe *)(R.cq + R.p.cq_off.cqes))[head & *CQ(ring_mask)];
	__atomic_store_n(CQ(head), head + 1, __ATOMIC_RELEASE);
	return 1;
}

static int by_data(const void *a, const void *b)
{
	const struct io_uring_cqe *x = a, *y = b;
	return x->user_data < y->user_data ? -1 : x->user_data > y->user_data;
}

// results submits what is filled and says n results, in the order of their numbers.
static void results(int n)
{
	struct io_uring_cqe c[64];
	int got = 0, r = enter(R.filled, n, IORING_ENTER_GETEVENTS);
	if (r < 0)
		say("enter: %s", errname(errno));
	while (got < n) {
		if (next(&c[got]))
			got++;
		else if (syscall(SYS_io_uring_enter, R.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 8) < 0)
			break;
	}
	qsort(c, got, sizeof *c, by_data);
	for (int i = 0; i < got; i++)
		if (c[i].res < 0)
			say("%llu: %s%s", c[i].user_data, errname(-c[i].res), c[i].flags & IORING_CQE_F_MORE ? " more" : "");
		else
			say("%llu: %d%s%s", c[i].user_data, c[i].res, c[i].flags & IORING_CQE_F_MORE ? " more" : "",
			    c[i].flags & IORING_CQE_F_BUFFER ? " buffer" : "");
}

static void one(const char *what)
{
	say("%s", what);
	results(1);
}

CASE(uring_setup)
{
	struct io_uring_params p = {0};
	E(syscall(SYS_io_uring_setup, 0, &p));
	E(syscall(SYS_io_uring_setup, 32769, &p));
	E(syscall(SYS_io_uring_setup, 8, NULL));
	p.flags = 1U << 31;
	E(syscall(SYS_io_uring_setup, 8, &p));
	p.flags = 0, p.resv[0] = 1;
	E(syscall(SYS_io_uring_setup, 8, &p));
	memset(&p, 0, sizeof p), p.flags = IORING_SETUP_CQSIZE;
	E(syscall(SYS_io_uring_setup, 8, &p));
	p.cq_entries = 4;
	E(syscall(SYS_io_uring_setup, 8, &p));
	say("%d", setup(5, 0, 0) >= 0);
	say("%u %u masks %u %u entries %u %u", R.p.sq_entries, R.p.cq_entries, *SQ(ring_mask), *CQ(ring_mask), *SQ(ring_entries), *CQ(ring_entries));
	say("features single %d nodrop %d stable %d ext %d", !!(R.p.features & 1), !!(R.p.features & 2), !!(R.p.features & 4), !!(R.p.features & 256));
	say("closes on exec %d", fcntl(R.fd, F_GETFD));
	E(mmap(NULL, 4096, PROT_READ, MAP_SHARED, R.fd, 4096) == MAP_FAILED);
	E(syscall(SYS_io_uring_enter, R.fd, 0, 0, 0, NULL, 8));
	E(syscall(SYS_io_uring_enter, R.fd, 1, 0, 0, NULL, 8));
	E(syscall(SYS_io_uring_enter, R.fd, 0, 0, 1 << 20, NULL, 8));
	E(syscall(SYS_io_uring_enter, 99, 0, 0, 0, NULL, 8));
	E(syscall(SYS_io_uring_enter, 1, 0, 0, 0, NULL, 8));
	E(read(R.fd, &p, 1));
	E(write(R.fd, &p, 1));
	E(lseek(R.fd, 0, SEEK_CUR));
	E(setup(4, IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP, 1000000) >= 0);
	say("clamped %u", R.p.cq_entries);
	say("%d", setup(4, IORING_SETUP_R_DISABLED, 0) >= 0);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 1);
	E(enter(1, 0, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0));
	E(enter(1, 1, IORING_ENTER_GETEVENTS));
	struct io_uring_cqe c;
	say("%d", next(&c));
}

CASE(uring_nops)
{
	setup(8, 0, 0);
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < 8; i++)
			sqe(IORING_OP_NOP, -1, NULL, 0, 0, 10 * round + i);
		results(8);
	}
	say("head %u", *SQ(head));
	// More results than there is room for.
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 8; i++)
			sqe(IORING_OP_NOP, -1, NULL, 0, 0, 100 + 8 * round + i);
		E(enter(8, 0, 0));
	}
	say("overflowed %d", !!(*SQ(flags) & IORING_SQ_CQ_OVERFLOW));
	results(24);
	say("overflowed %d", !!(*SQ(flags) & IORING_SQ_CQ_OVERFLOW));
	struct pollfd p = {R.fd, POLLIN | POLLOUT};
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 1);
	enter(1, 0, 0);
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	results(1);
	sqe(250, -1, NULL, 0, 0, 1);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 2);
	E(enter(2, 0, 0));
	results(1);
	E(syscall(SYS_io_uring_enter, R.fd, 1, 0, 0, NULL, 8)); // the second is there still
	results(1);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 3)->flags = 0x80;
	one("bad flag");
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 4)->personality = 7;
	one("personality");
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 5)->flags = IOSQE_CQE_SKIP_SUCCESS;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 6);
	one("skipped");
}

CASE(uring_files)
{
	setup(16, 0, 0);
	struct iovec v[2] = {{"hello ", 6}, {"world", 5}};
	char b[64] = "", c[64] = "";
	sqe(IORING_OP_OPENAT, AT_FDCWD, "file", 0644, 0, 1)->open_flags = O_RDWR | O_CREAT;
	struct io_uring_cqe q;
	enter(1, 1, 1);
	next(&q);
	int fd = q.res;
	say("opened %d", fd >= 0);
	sqe(IORING_OP_WRITEV, fd, v, 2, 0, 1);
	one("writev");
	sqe(IORING_OP_READ, fd, b, 5, 6, 2);
	one("read");
	say("%s", b);
	sqe(IORING_OP_WRITE, fd, "HE", 2, -1, 3);
	sqe(IORING_OP_WRITE, fd, "LL", 2, -1, 4);
	say("at the position");
	results(2);
	E(lseek(fd, 0, SEEK_CUR));
	struct iovec w[2] = {{b, 4}, {c, 60}};
	sqe(IORING_OP_READV, fd, w, 2, 0, 5);
	one("readv");
	say("%s|%s", b, c);
	sqe(IORING_OP_READ, fd, b, 5, 100, 6);
	one("past the end");
	sqe(IORING_OP_READ, fd, (void *)8, 5, 0, 7);
	one("bad address");
	sqe(IORING_OP_READ, 77, b, 5, 0, 8);
	one("bad descriptor");
	sqe(IORING_OP_READV, fd, (void *)8, 1, 0, 9);
	one("bad vector");
	sqe(IORING_OP_READ, fd, b, 5, 0, 10)->rw_flags = 0x4000;
	one("bad flags");
	sqe(IORING_OP_WRITE, fd, "end", 3, 0, 30)->rw_flags = 16; // RWF_APPEND
	one("append");
	show("file");
	sqe(IORING_OP_FSYNC, fd, NULL, 0, 0, 11);
	one("fsync");
	sqe(IORING_OP_FSYNC, fd, NULL, 0, 0, 12)->fsync_flags = 8;
	one("bad fsync");
	sqe(IORING_OP_FALLOCATE, fd, (void *)1000, 0, 0, 13);
	one("fallocate");
	struct statx sx;
	sqe(IORING_OP_STATX, AT_FDCWD, "file", STATX_SIZE, (unsigned long)&sx, 14);
	one("statx");
	say("size %llu", sx.stx_size);
	sqe(IORING_OP_MKDIRAT, AT_FDCWD, "dir", 0755, 0, 15);
	one("mkdir");
	sqe(IORING_OP_RENAMEAT, AT_FDCWD, "file", AT_FDCWD, (unsigned long)"dir/moved", 16);
	one("rename");
	sqe(IORING_OP_SYMLINKAT, AT_FDCWD, "moved", 0, (unsigned long)"dir/soft", 17);
	one("symlink");
	sqe(IORING_OP_LINKAT, AT_FDCWD, "dir/moved", AT_FDCWD, (unsigned long)"hard", 18);
	one("link");
	sqe(IORING_OP_UNLINKAT, AT_FDCWD, "dir", 0, 0, 19)->unlink_flags = AT_REMOVEDIR;
	one("rmdir of a full one");
	sqe(IORING_OP_UNLINKAT, AT_FDCWD, "hard", 0, 0, 20);
	one("unlink");
	sqe(IORING_OP_OPENAT, AT_FDCWD, "none", 0, 0, 21);
	one("open none");
	struct { unsigned long long flags, mode, resolve; } how = {O_RDONLY, 0, 0};
	sqe(IORING_OP_OPENAT2, AT_FDCWD, "dir/soft", sizeof how, (unsigned long)&how, 22);
	enter(1, 1, 1), next(&q);
	say("openat2 %d", q.res >= 0);
	sqe(IORING_OP_CLOSE, q.res, NULL, 0, 0, 23);
	one("close");
	sqe(IORING_OP_CLOSE, R.fd, NULL, 0, 0, 24);
	one("close the ring");
	sqe(IORING_OP_FADVISE, fd, NULL, 0, 0, 25)->fadvise_advice = POSIX_FADV_SEQUENTIAL;
	one("fadvise");
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	m[0] = 7;
	sqe(IORING_OP_MADVISE, -1, m, 8192, 0, 26)->fadvise_advice = MADV_DONTNEED;
	one("madvise");
	say("%d", m[0]);
}

CASE(uring_pipes)
{
	int p[2], q[2];
	char b[64] = "";
	setup(16, 0, 0);
	pipe(p), pipe(q);
	sqe(IORING_OP_READ, p[0], b, 20, 0, 1);
	E(enter(1, 0, 0));
	sqe(IORING_OP_WRITE, p[1], "through", 7, 0, 2);
	results(2);
	say("%s", b);
	sqe(IORING_OP_WRITE, p[1], "spliced", 7, -1, 3);
	struct io_uring_sqe *s = sqe(IORING_OP_TEE, q[1], NULL, 4, 0, 4);
	s->splice_fd_in = p[0];
	s->off = 0;
	results(2);
	s = sqe(IORING_OP_SPLICE, q[1], (void *)-1, 7, -1, 5);
	s->splice_fd_in = p[0];
	one("splice");
	memset(b, 0, sizeof b);
	sqe(IORING_OP_READ, q[0], b, 20, -1, 6);
	one("read");
	say("%s", b);
	// Two readers wait; each gets what is written.
	char x[8] = "", y[8] = "";
	sqe(IORING_OP_READ, p[0], x, 1, 0, 7);
	enter(1, 0, 0);
	sqe(IORING_OP_READ, q[0], y, 1, 0, 8);
	enter(1, 0, 0);
	write(q[1], "b", 1), write(p[1], "a", 1);
	results(2);
	say("%s%s", x, y);
	close(p[1]);
	sqe(IORING_OP_READ, p[0], b, 20, 0, 9);
	one("end");
	signal(SIGPIPE, SIG_IGN);
	close(q[0]);
	sqe(IORING_OP_WRITE, q[1], "x", 1, 0, 10);
	one("broken");
}

CASE(uring_poll)
{
	int p[2];
	setup(16, 0, 0);
	pipe(p);
	sqe(IORING_OP_POLL_ADD, p[1], NULL, 0, 0, 1)->poll32_events = POLLOUT | POLLIN;
	one("ready");
	sqe(IORING_OP_POLL_ADD, p[0], NULL, 0, 0, 2)->poll32_events = POLLIN;
	enter(1, 0, 0);
	write(p[1], "x", 1);
	results(1);
	read(p[0], &(char){0}, 1);
	sqe(IORING_OP_POLL_ADD, p[0], NULL, 0, 0, 3)->poll32_events = POLLIN;
	enter(1, 0, 0);
	sqe(IORING_OP_POLL_REMOVE, -1, (void *)3, 0, 0, 4);
	say("removed");
	results(2);
	sqe(IORING_OP_POLL_REMOVE, -1, (void *)3, 0, 0, 5);
	one("nothing to remove");
	sqe(IORING_OP_POLL_ADD, p[0], NULL, IORING_POLL_ADD_MULTI, 0, 6)->poll32_events = POLLIN;
	enter(1, 0, 0);
	for (int i = 0; i < 3; i++) {
		write(p[1], "x", 1);
		results(1);
		read(p[0], &(char){0}, 1);
	}
	sqe(IORING_OP_ASYNC_CANCEL, -1, (void *)6, 0, 0, 7);
	say("cancelled");
	results(2);
	int q[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, q);
	sqe(IORING_OP_POLL_ADD, q[0], NULL, 0, 0, 20)->poll32_events = POLLIN;
	enter(1, 0, 0);
	struct io_uring_sqe *s = sqe(IORING_OP_POLL_REMOVE, -1, (void *)20, IORING_POLL_UPDATE_EVENTS | IORING_POLL_UPDATE_USER_DATA, 21, 22);
	s->poll32_events = POLLOUT;
	say("updated");
	results(2);
	sqe(IORING_OP_POLL_REMOVE, -1, (void *)20, IORING_POLL_UPDATE_USER_DATA, 23, 24);
	one("none to update");
	sqe(IORING_OP_POLL_REMOVE, -1, (void *)20, 0, 23, 25);
	one("bad update");
	sqe(IORING_OP_POLL_ADD, p[0], NULL, 0, 0, 8)->poll32_events = POLLIN;
	enter(1, 0, 0);
	close(p[1]);
	results(1);
}

static void *with_len(struct io_uring_sqe *s, unsigned flags) { s->timeout_flags = flags; return s; }

CASE(uring_timeouts)
{
	struct __kernel_timespec t = {0, 2000000}, longer = {100, 0}, bad = {0, -1}, zero = {0, 0};
	setup(16, 0, 0);
	sqe(IORING_OP_TIMEOUT, -1, &t, 1, 0, 1);
	one("expires");
	sqe(IORING_OP_TIMEOUT, -1, &zero, 1, 0, 2);
	one("zero");
	sqe(IORING_OP_TIMEOUT, -1, &longer, 1, 2, 3);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 4);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 5);
	say("counts");
	results(3);
	sqe(IORING_OP_TIMEOUT, -1, &bad, 1, 0, 6);
	one("bad time");
	sqe(IORING_OP_TIMEOUT, -1, &t, 2, 0, 7);
	one("bad length");
	sqe(IORING_OP_TIMEOUT, -1, (void *)8, 1, 0, 8);
	one("bad address");
	sqe(IORING_OP_TIMEOUT, -1, &longer, 1, 0, 9);
	enter(1, 0, 0);
	sqe(IORING_OP_TIMEOUT_REMOVE, -1, (void *)9, 0, 0, 10);
	say("removed");
	results(2);
	sqe(IORING_OP_TIMEOUT_REMOVE, -1, (void *)9, 0, 0, 11);
	one("none to remove");
	sqe(IORING_OP_TIMEOUT, -1, &longer, 1, 0, 12);
	enter(1, 0, 0);
	sqe(IORING_OP_TIMEOUT_REMOVE, -1, (void *)12, 0, (unsigned long)&t, 13)->timeout_flags = IORING_TIMEOUT_UPDATE;
	say("shortened");
	results(2);
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	struct __kernel_timespec abs = {now.tv_sec, now.tv_nsec};
	sqe(IORING_OP_TIMEOUT, -1, &abs, 1, 0, 14)->timeout_flags = IORING_TIMEOUT_ABS;
	one("past");
	sqe(IORING_OP_TIMEOUT, -1, &t, 1, 0, 15)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 16);
	say("breaks a chain");
	results(2);
	struct io_uring_sqe *s = sqe(IORING_OP_TIMEOUT, -1, &t, 1, 0, 17);
	s->flags = IOSQE_IO_LINK, s->timeout_flags = IORING_TIMEOUT_ETIME_SUCCESS;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 18);
	say("or does not");
	results(2);
	// A limit on the request before.
	int p[2];
	char b;
	pipe(p);
	sqe(IORING_OP_READ, p[0], &b, 1, 0, 19)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_LINK_TIMEOUT, -1, &t, 1, 0, 20);
	say("too late");
	results(2);
	write(p[1], "x", 1);
	sqe(IORING_OP_READ, p[0], &b, 1, 0, 21)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_LINK_TIMEOUT, -1, &longer, 1, 0, 22);
	say("in time");
	results(2);
	sqe(IORING_OP_LINK_TIMEOUT, -1, &t, 1, 0, 23);
	one("alone");
	struct { unsigned long mask; unsigned size, pad; unsigned long ts; } arg = {0, 8, 0, (unsigned long)&t};
	E(syscall(SYS_io_uring_enter, R.fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof arg));
	E(syscall(SYS_io_uring_enter, R.fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, 8));
}

CASE(uring_links)
{
	int p[2];
	char b[32] = "";
	setup(32, 0, 0);
	put("f", "linked text");
	int fd = open("f", O_RDWR);
	pipe(p);
	sqe(IORING_OP_READ, fd, b, 6, 0, 1)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_WRITE, p[1], b, 6, -1, 2)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_READ, p[0], b + 10, 6, -1, 3);
	say("chain");
	results(3);
	say("%s", b + 10);
	sqe(IORING_OP_READ, fd, b, 100, 0, 4)->flags = IOSQE_IO_LINK; // short
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 5)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 6);
	say("a short read breaks it");
	results(3);
	sqe(IORING_OP_READ, 99, b, 1, 0, 7)->flags = IOSQE_IO_HARDLINK;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 8);
	say("a hard link stays");
	results(2);
	sqe(IORING_OP_READ, 99, b, 1, 0, 9)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 10)->flags = IOSQE_IO_LINK;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 11);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 12);
	say("one chain fails, the next does not");
	results(4);
	sqe(IORING_OP_READ, p[0], b, 1, -1, 13)->flags = IOSQE_IO_LINK; // waits
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 14);
	enter(2, 0, 0);
	write(p[1], "z", 1);
	results(2);
	sqe(IORING_OP_READ, p[0], b, 1, -1, 15);
	enter(1, 0, 0);
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 16)->flags = IOSQE_IO_DRAIN;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 17);
	enter(2, 0, 0);
	struct io_uring_cqe c;
	say("drained: nothing yet %d", !next(&c));
	write(p[1], "z", 1);
	results(3);
	sqe(IORING_OP_READ, p[0], b, 1, -1, 18)->flags = IOSQE_ASYNC;
	enter(1, 0, 0);
	write(p[1], "z", 1);
	results(1);
}

CASE(uring_sockets)
{
	int s[2], d[2];
	char b[64] = "";
	setup(16, 0, 0);
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	sqe(IORING_OP_RECV, s[0], b, 64, 0, 1);
	enter(1, 0, 0);
	sqe(IORING_OP_SEND, s[1], "sent", 4, 0, 2);
	results(2);
	say("%s", b);
	sqe(IORING_OP_RECV, s[0], b, 64, 0, 3)->msg_flags = MSG_DONTWAIT;
	one("nothing");
	struct iovec v = {b, 64}, w = {"message", 7};
	struct msghdr in = {.msg_iov = &v, .msg_iovlen = 1}, out = {.msg_iov = &w, .msg_iovlen = 1};
	socketpair(AF_UNIX, SOCK_DGRAM, 0, d);
	sqe(IORING_OP_RECVMSG, d[0], &in, 1, 0, 4);
	enter(1, 0, 0);
	v.iov_base = NULL; // has been read
	sqe(IORING_OP_SENDMSG, d[1], &out, 1, 0, 5);
	results(2);
	say("%s", b);
	char control[CMSG_SPACE(sizeof(int))] = "";
	struct msghdr right = {.msg_iov = &w, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *h = CMSG_FIRSTHDR(&right);
	h->cmsg_level = SOL_SOCKET, h->cmsg_type = SCM_RIGHTS, h->cmsg_len = CMSG_LEN(sizeof(int));
	*(int *)CMSG_DATA(h) = s[0];
	sqe(IORING_OP_SENDMSG, d[1], &right, 1, 0, 6);
	one("a descriptor");
	memset(control, 0, sizeof control);
	v.iov_base = b;
	in.msg_control = control, in.msg_controllen = sizeof control;
	sqe(IORING_OP_RECVMSG, d[0], &in, 1, 0, 7);
	one("came");
	say("control %zu right %d", (size_t)in.msg_controllen, *(int *)CMSG_DATA((struct cmsghdr *)control) > 2);
	sqe(IORING_OP_SHUTDOWN, s[1], NULL, SHUT_WR, 0, 8);
	one("shutdown");
	sqe(IORING_OP_RECV, s[0], b, 64, 0, 9);
	one("end");
	sqe(IORING_OP_SEND, 1, "x", 1, 0, 10);
	one("no socket");
	close(s[0]);
	// A listener, with accept waiting.
	struct sockaddr_un a = {AF_UNIX, "sock"};
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0);
	bind(l, (void *)&a, sizeof a), listen(l, 5);
	struct sockaddr_un from;
	socklen_t size = sizeof from;
	sqe(IORING_OP_ACCEPT, l, &from, 0, (unsigned long)&size, 11);
	enter(1, 0, 0);
	sqe(IORING_OP_CONNECT, c, &a, 0, sizeof a, 12);
	struct io_uring_cqe q;
	int got = 0;
	enter(1, 2, 1);
	while (next(&q)) {
		say("%llu %d", q.user_data, q.res >= 0);
		if (++got == 2)
			break;
	}
	say("from %d bytes", (int)size);
	sqe(IORING_OP_CONNECT, socket(AF_UNIX, SOCK_STREAM, 0), &(struct sockaddr_un){AF_UNIX, "none"}, 0, sizeof a, 13);
	one("refused");
	sqe(IORING_OP_ACCEPT, l, NULL, 0, 0, 14)->ioprio = 1; // multishot
	enter(1, 0, 0);
	for (int i = 0; i < 3; i++) {
		c = socket(AF_UNIX, SOCK_STREAM, 0);
		connect(c, (void *)&a, sizeof a);
		enter(0, 1, 1);
		next(&q);
		say("accepted %d more %d", q.res > 0, !!(q.flags & IORING_CQE_F_MORE));
	}
	sqe(IORING_OP_ASYNC_CANCEL, -1, (void *)14, 0, 0, 15);
	results(2);
}

CASE(uring_register)
{
	char *m = mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec v[2] = {{m, 4096}, {m + 8192, 100}}, bad = {(void *)8, 100};
	setup(16, 0, 0);
	put("f", "fixed");
	int fds[3] = {open("f", O_RDWR), -1, -1}, fd = fds[0];
	E(syscall(SYS_io_uring_register, R.fd, IORING_UNREGISTER_BUFFERS, NULL, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_BUFFERS, v, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_BUFFERS, &bad, 1));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_BUFFERS, v, 2));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_BUFFERS, v, 2));
	sqe(IORING_OP_READ_FIXED, fd, m, 5, 0, 1);
	one("read");
	say("%s", m);
	sqe(IORING_OP_READ_FIXED, fd, m + 8192 + 96, 5, 0, 2)->buf_index = 1;
	one("out of the buffer");
	sqe(IORING_OP_READ_FIXED, fd, m, 5, 0, 3)->buf_index = 2;
	one("no such buffer");
	sqe(IORING_OP_WRITE_FIXED, fd, m + 1, 2, 3, 4);
	one("write");
	show("f");
	E(syscall(SYS_io_uring_register, R.fd, IORING_UNREGISTER_BUFFERS, NULL, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_FILES, fds, 3));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_FILES, fds, 3));
	sqe(IORING_OP_READ, 0, m, 5, 0, 5)->flags = IOSQE_FIXED_FILE;
	one("fixed file");
	sqe(IORING_OP_READ, 1, m, 5, 0, 6)->flags = IOSQE_FIXED_FILE;
	one("empty place");
	sqe(IORING_OP_READ, 9, m, 5, 0, 7)->flags = IOSQE_FIXED_FILE;
	one("no place");
	close(fd);
	sqe(IORING_OP_READ, 0, m, 5, 0, 8)->flags = IOSQE_FIXED_FILE;
	one("outlives its descriptor");
	int other = open("/dev/zero", O_RDONLY);
	struct io_uring_files_update u = {.offset = 1, .fds = (unsigned long)&other};
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_FILES_UPDATE, &u, 1));
	sqe(IORING_OP_READ, 1, m, 5, 0, 9)->flags = IOSQE_FIXED_FILE;
	one("updated");
	struct io_uring_sqe *s = sqe(IORING_OP_OPENAT, AT_FDCWD, "f", 0, 0, 10);
	s->open_flags = O_RDONLY, s->file_index = 3;
	one("opened into a place");
	sqe(IORING_OP_READ, 2, m, 5, 0, 11)->flags = IOSQE_FIXED_FILE;
	one("and read");
	sqe(IORING_OP_CLOSE, 0, NULL, 0, 0, 12)->file_index = 3;
	one("and closed");
	E(syscall(SYS_io_uring_register, R.fd, IORING_UNREGISTER_FILES, NULL, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_UNREGISTER_FILES, NULL, 0));
	int e = eventfd(0, EFD_NONBLOCK);
	unsigned long long n = 0;
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_EVENTFD, &e, 1));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_EVENTFD, &e, 1));
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 13);
	one("event");
	E(read(e, &n, 8));
	say("%llu", n);
	E(syscall(SYS_io_uring_register, R.fd, IORING_UNREGISTER_EVENTFD, NULL, 0));
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_EVENTFD, &other, 1));
	E(syscall(SYS_io_uring_register, R.fd, 999, NULL, 0));
	struct { struct io_uring_probe p; struct io_uring_probe_op ops[40]; } probe = {0};
	E(syscall(SYS_io_uring_register, R.fd, IORING_REGISTER_PROBE, &probe, 40));
	int supported = 0;
	for (int i = 0; i < 40; i++)
		supported += probe.p.ops[i].flags & IO_URING_OP_SUPPORTED;
	say("%d of the first 40", supported);
}

CASE(uring_buffers)
{
	static char pool[4][32];
	int p[2];
	setup(16, 0, 0);
	pipe(p);
	struct io_uring_sqe *s = sqe(IORING_OP_PROVIDE_BUFFERS, 4, pool, 32, 0, 1);
	s->buf_group = 7;
	one("provide");
	write(p[1], "picked", 6);
	s = sqe(IORING_OP_READ, p[0], NULL, 32, 0, 2);
	s->flags = IOSQE_BUFFER_SELECT, s->buf_group = 7;
	struct io_uring_cqe c;
	enter(1, 1, 1);
	next(&c);
	say("%d buffer %d: %.6s", c.res, c.flags >> 16, pool[c.flags >> 16]);
	s = sqe(IORING_OP_READ, p[0], NULL, 32, 0, 3);
	s->flags = IOSQE_BUFFER_SELECT, s->buf_group = 7;
	enter(1, 0, 0);
	write(p[1], "later", 5);
	enter(0, 1, 1);
	next(&c);
	say("%d %s %d", c.res, pool[c.flags >> 16], !!(c.flags & IORING_CQE_F_BUFFER));
	s = sqe(IORING_OP_REMOVE_BUFFERS, 9, NULL, 0, 0, 4);
	s->buf_group = 7;
	one("remove");
	write(p[1], "x", 1);
	s = sqe(IORING_OP_READ, p[0], NULL, 32, 0, 5);
	s->flags = IOSQE_BUFFER_SELECT, s->buf_group = 7;
	one("none left");
	s = sqe(IORING_OP_READ, p[0], NULL, 32, 0, 6);
	s->flags = IOSQE_BUFFER_SELECT, s->buf_group = 8;
	one("no group");
	s = sqe(IORING_OP_NOP, p[0], NULL, 32, 0, 7);
	s->flags = IOSQE_BUFFER_SELECT;
	one("needs none");
}

CASE(uring_cancel)
{
	int p[2];
	char b[4];
	setup(16, 0, 0);
	pipe(p);
	sqe(IORING_OP_ASYNC_CANCEL, -1, (void *)1, 0, 0, 2);
	one("none");
	sqe(IORING_OP_READ, p[0], b, 1, 0, 1);
	enter(1, 0, 0);
	sqe(IORING_OP_ASYNC_CANCEL, -1, (void *)1, 0, 0, 2);
	results(2);
	for (int i = 0; i < 3; i++)
		sqe(IORING_OP_READ, p[0], b, 1, 0, 5);
	enter(3, 0, 0);
	sqe(IORING_OP_ASYNC_CANCEL, -1, (void *)5, 0, 0, 6)->cancel_flags = 1; // all
	results(4);
	sqe(IORING_OP_READ, p[0], b, 1, 0, 7);
	enter(1, 0, 0);
	sqe(IORING_OP_ASYNC_CANCEL, p[0], NULL, 0, 0, 8)->cancel_flags = 2; // by descriptor
	results(2);
	sqe(IORING_OP_READ, p[0], b, 1, 0, 9);
	enter(1, 0, 0);
	close(p[1]);
	results(1);
	// What waits does not keep a process or its files.
	pipe(p);
	pid_t c = fork();
	if (!c) {
		setup(4, 0, 0);
		int q[2];
		pipe(q);
		sqe(IORING_OP_READ, q[0], b, 1, 0, 1);
		enter(1, 0, 0);
		_exit(0);
	}
	close(p[1]);
	E(read(p[0], b, 1));
	waitpid(c, NULL, 0);
	c = fork();
	if (!c) {
		setup(4, 0, 0);
		int q[2];
		pipe(q);
		sqe(IORING_OP_READ, q[0], b, 1, 0, 1);
		enter(1, 0, 0);
		execl("/bin/true", "true", NULL);
	}
	int s;
	waitpid(c, &s, 0);
	status("exec", s);
}

CASE(uring_hostile)
{
	setup(4, 0, 0);
	// Heads and tails out of all reason.
	*SQ(tail) = *SQ(head) + 100;
	E(syscall(SYS_io_uring_enter, R.fd, 2, 0, 0, NULL, 8) >= 0);
	setup(4, 0, 0);
	SQ(array)[0] = 77;
	*SQ(tail) = 1;
	E(syscall(SYS_io_uring_enter, R.fd, 1, 0, 0, NULL, 8));
	say("dropped %u", *SQ(dropped));
	setup(4, 0, 0);
	*CQ(head) = 12345;
	sqe(IORING_OP_NOP, -1, NULL, 0, 0, 1);
	E(enter(1, 0, 0));
	munmap(R.sqes, 4096);
	E(enter(0, 0, 0));
}

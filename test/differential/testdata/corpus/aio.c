// Linux AIO, by its system calls.
#include "corpus.h"
#include <linux/aio_abi.h>

static aio_context_t ctx;
static struct iocb cb[8], *list[8];

static struct iocb *fill(int i, int op, int fd, const void *buf, unsigned long n, long long off)
{
	memset(&cb[i], 0, sizeof cb[i]);
	cb[i].aio_lio_opcode = op, cb[i].aio_fildes = fd, cb[i].aio_buf = (unsigned long)buf, cb[i].aio_nbytes = n, cb[i].aio_offset = off;
	cb[i].aio_data = 100 + i;
	return list[i] = &cb[i];
}

static long submit(int n) { return syscall(SYS_io_submit, ctx, (long)n, list); }

static int by_data(const void *a, const void *b)
{
	const struct io_event *x = a, *y = b;
	return x->data < y->data ? -1 : x->data > y->data;
}

static void events(long least, long most)
{
	struct io_event e[8];
	long n = syscall(SYS_io_getevents, ctx, least, most, e, NULL);
	say("%ld events", n);
	qsort(e, n > 0 ? n : 0, sizeof *e, by_data);
	for (long i = 0; i < n; i++)
		if (e[i].res < 0)
			say("%llu: %s object %d", e[i].data, errname(-e[i].res), e[i].obj == (unsigned long)&cb[e[i].data - 100]);
		else
			say("%llu: %lld object %d", e[i].data, e[i].res, e[i].obj == (unsigned long)&cb[e[i].data - 100]);
}

CASE(aio_files)
{
	aio_context_t none = 0;
	E(syscall(SYS_io_setup, 0, &none));
	E(syscall(SYS_io_setup, 8, NULL));
	none = 1;
	E(syscall(SYS_io_setup, 8, &none));
	none = 0;
	E(syscall(SYS_io_setup, 1 << 30, &none));
	E(syscall(SYS_io_destroy, 12345));
	E(syscall(SYS_io_setup, 8, &ctx));
	put("f", "0123456789");
	int fd = open("f", O_RDWR), ro = open("f", O_RDONLY);
	char a[16] = "", b[16] = "";
	fill(0, IOCB_CMD_PREAD, fd, a, 4, 2);
	fill(1, IOCB_CMD_PWRITE, fd, "XY", 2, 5);
	struct iovec v[2] = {{b, 3}, {b + 8, 3}};
	fill(2, IOCB_CMD_PREADV, fd, v, 2, 4);
	fill(3, IOCB_CMD_FSYNC, fd, NULL, 0, 0);
	fill(4, IOCB_CMD_FDSYNC, fd, NULL, 0, 0);
	E(submit(3));
	events(3, 8);
	say("%s %s %s", a, b, b + 8);
	list[0] = &cb[3], list[1] = &cb[4];
	E(submit(2));
	events(2, 2);
	show("f");
	fill(0, IOCB_CMD_PREAD, 77, a, 4, 0);
	E(submit(1));
	fill(0, IOCB_CMD_PWRITE, ro, a, 4, 0);
	E(submit(1));
	fill(0, 99, fd, a, 4, 0);
	E(submit(1));
	fill(0, IOCB_CMD_PREAD, fd, a, 4, 0)->aio_reserved2 = 1;
	E(submit(1));
	fill(0, IOCB_CMD_PREAD, fd, a, -1, 0);
	E(submit(1));
	fill(0, IOCB_CMD_PREAD, fd, a, 4, 0)->aio_rw_flags = 1 << 20;
	E(submit(1));
	fill(0, IOCB_CMD_PWRITE, fd, "end", 3, 0)->aio_rw_flags = 16; // RWF_APPEND
	E(submit(1));
	events(1, 1);
	show("f");
	list[0] = (void *)8;
	E(submit(1));
	E(submit(-1));
	E(submit(0));
	E(syscall(SYS_io_submit, ctx, 1L, (void *)8));
	fill(0, IOCB_CMD_PREAD, fd, (void *)8, 4, 0);
	E(submit(1));
	events(1, 1);
	fill(0, IOCB_CMD_PREAD, fd, a, 4, 1000);
	E(submit(1));
	events(1, 1);
	fill(0, IOCB_CMD_PREAD, fd, a, 4, 0), fill(1, IOCB_CMD_PREAD, 77, a, 4, 0);
	E(submit(2));
	events(0, 8);
	struct timespec zero = {0, 0}, t = {0, 1000000};
	struct io_event e;
	E(syscall(SYS_io_getevents, ctx, 1L, 1L, &e, &zero));
	E(syscall(SYS_io_getevents, ctx, 1L, 1L, &e, &t));
	E(syscall(SYS_io_getevents, ctx, 2L, 1L, &e, &t));
	E(syscall(SYS_io_getevents, ctx, -1L, 1L, &e, &t));
	E(syscall(SYS_io_getevents, ctx + 1, 0L, 1L, &e, &t));
	E(syscall(SYS_io_getevents, ctx, 0L, 1L, &e, (void *)8));
	int ev = eventfd(0, EFD_NONBLOCK);
	unsigned long long n = 0;
	fill(0, IOCB_CMD_PREAD, fd, a, 4, 0)->aio_flags = IOCB_FLAG_RESFD;
	cb[0].aio_resfd = ev;
	E(submit(1));
	E(read(ev, &n, 8));
	say("%llu", n);
	cb[0].aio_resfd = fd;
	E(submit(1));
	events(1, 1);
	E(syscall(SYS_io_destroy, ctx));
	E(syscall(SYS_io_destroy, ctx));
	E(submit(1));
}

CASE(aio_poll)
{
	int p[2];
	struct io_event e;
	pipe(p);
	syscall(SYS_io_setup, 8, &ctx);
	fill(0, IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0);
	E(submit(1));
	struct timespec zero = {0, 0};
	E(syscall(SYS_io_getevents, ctx, 1L, 1L, &e, &zero));
	write(p[1], "x", 1);
	say("%ld events", syscall(SYS_io_getevents, ctx, 1L, 1L, &e, NULL));
	say("readable %d", !!(e.res & POLLIN)); // Linux may add bits that nobody asked for
	fill(0, IOCB_CMD_POLL, p[1], (void *)POLLOUT, 0, 0);
	E(submit(1));
	events(1, 1);
	fill(0, IOCB_CMD_POLL, p[0], (void *)0x10000, 0, 0);
	E(submit(1));
	read(p[0], &e, 1);
	fill(0, IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0);
	E(submit(1));
	E(syscall(SYS_io_cancel, ctx, &cb[0], &e));
	struct { unsigned long mask, size; } sig = {0, 8};
	E(syscall(SYS_io_pgetevents, ctx, 1L, 1L, &e, NULL, &sig));
	say("%llu", e.data);
	E(syscall(SYS_io_cancel, ctx, &cb[0], &e));
	cb[0].aio_key = 5;
	E(syscall(SYS_io_cancel, ctx, &cb[0], &e));
	fill(0, IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0);
	E(submit(1));
	E(syscall(SYS_io_destroy, ctx));
	// A context is its process's own.
	syscall(SYS_io_setup, 8, (ctx = 0, &ctx));
	CHILD {
		E(submit(0));
	}
	fill(0, IOCB_CMD_POLL, p[0], (void *)POLLIN, 0, 0);
	E(submit(1));
}

// rings uses io_uring by liburing, and AIO by libaio, as programs do: it copies a
// file with many requests under way, serves an echo on a unix socket with one
// ring, and prints sums that do not depend on the order of results.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BLOCK 4096
#define BLOCKS 200
#define DEPTH 32

static void fail(const char *what, int error)
{
	printf("%s: %s\n", what, strerror(error < 0 ? -error : error));
	exit(1);
}

static unsigned sum(const char *path)
{
	unsigned s = 0;
	int c;
	FILE *f = fopen(path, "r");
	while ((c = getc(f)) != EOF)
		s = s * 31 + c;
	fclose(f);
	return s;
}

// Each block is a read with a write linked behind it, from registered files and buffers.
static void copy(void)
{
	static char buffers[DEPTH][BLOCK];
	struct iovec v[DEPTH];
	struct io_uring ring;
	int r = io_uring_queue_init(2 * DEPTH, &ring, 0), done = 0, next = 0, under = 0;
	if (r)
		fail("init", r);
	int fds[2] = {open("from", O_RDONLY), open("to", O_WRONLY | O_CREAT | O_TRUNC, 0644)};
	for (int i = 0; i < DEPTH; i++)
		v[i] = (struct iovec){buffers[i], BLOCK};
	if ((r = io_uring_register_buffers(&ring, v, DEPTH)) || (r = io_uring_register_files(&ring, fds, 2)))
		fail("register", r);
	while (done < BLOCKS) {
		for (; under < DEPTH && next < BLOCKS; under++, next++) {
			int slot = next % DEPTH;
			struct io_uring_sqe *s = io_uring_get_sqe(&ring);
			io_uring_prep_read_fixed(s, 0, buffers[slot], BLOCK, (off_t)next * BLOCK, slot);
			io_uring_sqe_set_flags(s, IOSQE_FIXED_FILE | IOSQE_IO_LINK | IOSQE_CQE_SKIP_SUCCESS);
			s = io_uring_get_sqe(&ring);
			io_uring_prep_write_fixed(s, 1, buffers[slot], BLOCK, (off_t)next * BLOCK, slot);
			io_uring_sqe_set_flags(s, IOSQE_FIXED_FILE);
		}
		struct io_uring_cqe *c;
		if ((r = io_uring_submit_and_wait(&ring, 1)) < 0)
			fail("submit", r);
		unsigned head, n = 0;
		io_uring_for_each_cqe(&ring, head, c) {
			if (c->res != BLOCK)
				fail("copy", c->res);
			n++;
		}
		io_uring_cq_advance(&ring, n);
		done += n;
		under = 0;
		if (next < done)
			next = done;
		while (next > done) { // the slots of what is under way are not reused
			if ((r = io_uring_wait_cqe(&ring, &c)))
				fail("wait", r);
			if (c->res != BLOCK)
				fail("copy", c->res);
			io_uring_cqe_seen(&ring, c);
			done++;
		}
	}
	io_uring_queue_exit(&ring);
	printf("copied %d, the same %d\n", done, sum("from") == sum("to"));
}

enum { ACCEPT = 1, RECV, SEND };
#define CLIENTS 8
#define ROUNDS 50

static void *client(void *id)
{
	struct sockaddr_un a = {AF_UNIX, "echo"};
	char b[32], back[32];
	long total = 0;
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(s, (void *)&a, sizeof a))
		fail("connect", errno);
	for (int i = 0; i < ROUNDS; i++) {
		int n = snprintf(b, sizeof b, "client %ld round %d", (long)id, i);
		write(s, b, n);
		for (int got = 0; got < n;)
			got += read(s, back + got, n - got);
		total += !memcmp(b, back, n);
	}
	close(s);
	return (void *)total;
}

// One ring accepts by a multishot request, receives into buffers of a group, and sends.
static void serve(void)
{
	static char pool[16][64];
	struct sockaddr_un a = {AF_UNIX, "echo"};
	struct io_uring ring;
	struct io_uring_cqe *c;
	int l = socket(AF_UNIX, SOCK_STREAM, 0), closed = 0, r;
	bind(l, (void *)&a, sizeof a), listen(l, 50);
	if ((r = io_uring_queue_init(64, &ring, 0)))
		fail("init", r);
	io_uring_prep_provide_buffers(io_uring_get_sqe(&ring), pool, 64, 16, 1, 0);
	io_uring_submit(&ring);
	io_uring_wait_cqe(&ring, &c);
	printf("buffers %d\n", c->res);
	io_uring_cqe_seen(&ring, c);
	struct io_uring_sqe *s = io_uring_get_sqe(&ring);
	io_uring_prep_multishot_accept(s, l, NULL, NULL, 0);
	io_uring_sqe_set_data64(s, ACCEPT);
	pthread_t t[CLIENTS];
	io_uring_submit(&ring);
	for (long i = 0; i < CLIENTS; i++)
		pthread_create(&t[i], NULL, client, (void *)i);
	while (closed < CLIENTS) {
		if ((r = io_uring_submit_and_wait(&ring, 1)) < 0)
			fail("wait", r);
		while (!io_uring_peek_cqe(&ring, &c)) {
			unsigned long long data = c->user_data;
			int fd = data >> 8 & 0xffff, res = c->res, id = c->flags >> 16;
			int again = -1;
			switch (data & 0xff) {
			case ACCEPT:
				if (res < 0)
					fail("accept", res);
				again = res;
				break;
			case RECV:
				if (res == -ENOBUFS) {
					again = fd;
				} else if (res <= 0) {
					close(fd), closed++;
				} else {
					s = io_uring_get_sqe(&ring);
					io_uring_prep_send(s, fd, pool[id], res, 0);
					io_uring_sqe_set_data64(s, SEND | fd << 8 | (unsigned long long)id << 32);
				}
				break;
			case SEND:
				s = io_uring_get_sqe(&ring);
				id = data >> 32;
				io_uring_prep_provide_buffers(s, pool[id], 64, 1, 1, id);
				io_uring_sqe_set_flags(s, IOSQE_CQE_SKIP_SUCCESS);
				again = fd;
			}
			if (again >= 0) {
				s = io_uring_get_sqe(&ring);
				io_uring_prep_recv(s, again, NULL, 64, 0);
				s->buf_group = 1;
				io_uring_sqe_set_flags(s, IOSQE_BUFFER_SELECT);
				io_uring_sqe_set_data64(s, RECV | again << 8);
			}
			io_uring_cqe_seen(&ring, c);
		}
	}
	long total = 0;
	for (int i = 0; i < CLIENTS; i++) {
		void *n;
		pthread_join(t[i], &n);
		total += (long)n;
	}
	io_uring_queue_exit(&ring);
	printf("echoed %ld\n", total);
}

static void probe(void)
{
	struct io_uring_probe *p = io_uring_get_probe();
	int n = 0;
	for (int i = 0; i <= IORING_OP_LINKAT; i++)
		n += io_uring_opcode_supported(p, i);
	printf("%d operations up to linkat\n", n);
	io_uring_free_probe(p);
	struct io_uring ring;
	io_uring_queue_init(4, &ring, 0);
	struct __kernel_timespec ts = {0, 1000000};
	struct io_uring_cqe *c;
	printf("nothing to wait for: %s\n", strerror(-io_uring_wait_cqe_timeout(&ring, &c, &ts)));
	io_uring_queue_exit(&ring);
}

static void aio(void)
{
	static char buffers[DEPTH][BLOCK] __attribute__((aligned(4096)));
	io_context_t ctx = 0;
	struct iocb cb[DEPTH], *list[DEPTH];
	struct io_event events[DEPTH];
	int r = io_setup(DEPTH, &ctx), fd = open("from", O_RDONLY), e = eventfd(0, 0);
	if (r)
		fail("io_setup", r);
	long bytes = 0;
	for (int at = 0; at < BLOCKS; at += DEPTH) {
		int n = BLOCKS - at < DEPTH ? BLOCKS - at : DEPTH;
		for (int i = 0; i < n; i++) {
			io_prep_pread(&cb[i], fd, buffers[i], BLOCK, (long long)(at + i) * BLOCK);
			io_set_eventfd(&cb[i], e);
			list[i] = &cb[i];
		}
		if ((r = io_submit(ctx, n, list)) != n)
			fail("io_submit", r);
		unsigned long long told = 0, part;
		while (told < n)
			read(e, &part, 8), told += part;
		if ((r = io_getevents(ctx, n, n, events, NULL)) != n)
			fail("io_getevents", r);
		for (int i = 0; i < n; i++)
			bytes += events[i].res;
	}
	printf("aio read %ld, io_destroy %d\n", bytes, io_destroy(ctx));
}

int main(void)
{
	FILE *f = fopen("from", "w");
	for (int i = 0; i < BLOCKS * BLOCK; i++)
		putc(i * 7 + i / BLOCK, f);
	fclose(f);
	copy();
	serve();
	probe();
	aio();
	return 0;
}

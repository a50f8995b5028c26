// userfaultfd(2): missing pages that the program gives itself.
#include "corpus.h"
#include <linux/userfaultfd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { PAGE = 4096 };

static int begin(int flags, unsigned long features)
{
	int fd = syscall(SYS_userfaultfd, flags);
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api))
		say("begin: %s", errname(errno));
	return fd;
}

static int enlist(int fd, void *at, long size)
{
	struct uffdio_register r = {.range = {(long)at, size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	return ioctl(fd, UFFDIO_REGISTER, &r);
}

static int leave(int fd, void *at, long size) { return ioctl(fd, UFFDIO_UNREGISTER, &(struct uffdio_range){(long)at, size}); }
static int wake(int fd, void *at, long size) { return ioctl(fd, UFFDIO_WAKE, &(struct uffdio_range){(long)at, size}); }

static long given; // what the last of these two told
static int copies(int fd, void *to, const void *from, long size, long mode)
{
	struct uffdio_copy c = {(long)to, (long)from, size, mode, 99};
	int r = ioctl(fd, UFFDIO_COPY, &c);
	given = c.copy;
	return r;
}
static int zeroes(int fd, void *to, long size, long mode)
{
	struct uffdio_zeropage z = {{(long)to, size}, mode, 99};
	int r = ioctl(fd, UFFDIO_ZEROPAGE, &z);
	given = z.zeropage;
	return r;
}

static char *memory(int pages, int flags)
{
	return mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
}

static char filled[4 * PAGE] __attribute__((aligned(4096)));

CASE(userfault_errors)
{
	memset(filled, 'x', sizeof filled);
	E(syscall(SYS_userfaultfd, 0x10) == -1 ? errno == EINVAL : 0);
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	E(fcntl(fd, F_GETFD));
	E((fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK)));
	char *m = memory(8, MAP_PRIVATE), b[64];
	E(enlist(fd, m, PAGE)); // not begun
	E(read(fd, b, sizeof b));
	struct pollfd p = {fd, POLLIN};
	E(poll(&p, 1, 0));
	E(p.revents);
	struct uffdio_api api = {.api = 1};
	E(ioctl(fd, UFFDIO_API, &api));
	E((long)api.api);
	api = (struct uffdio_api){.api = UFFD_API, .features = 1ul << 60};
	E(ioctl(fd, UFFDIO_API, &api));
	E((long)api.features);
	E(ioctl(fd, UFFDIO_API, 8));
	api = (struct uffdio_api){.api = UFFD_API};
	E(ioctl(fd, UFFDIO_API, &api));
	E((long)(api.ioctls & (1ul << _UFFDIO_REGISTER | 1ul << _UFFDIO_UNREGISTER | 1ul << _UFFDIO_API)) != 0);
	E(ioctl(fd, UFFDIO_API, &api));
	E(poll(&p, 1, 0));
	E(read(fd, b, sizeof b));
	E(read(fd, b, 31));
	E(write(fd, b, 8));
	E(ioctl(fd, 12345, b));

	struct uffdio_register r = {.range = {(long)m, PAGE}};
	E(ioctl(fd, UFFDIO_REGISTER, &r)); // no mode
	r.mode = 1 << 10;
	E(ioctl(fd, UFFDIO_REGISTER, &r));
	E(ioctl(fd, UFFDIO_REGISTER, 8));
	E(enlist(fd, m + 1, PAGE));
	E(enlist(fd, m, PAGE - 1));
	E(enlist(fd, m, 0));
	E(enlist(fd, 0, PAGE));
	E(enlist(fd, m, -PAGE));
	put("file", "text");
	int file = open("file", O_RDWR);
	char *f = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	char *hole = memory(3, MAP_PRIVATE);
	munmap(hole + PAGE, PAGE);
	E(enlist(fd, hole + PAGE, PAGE));
	E(enlist(fd, hole, 3 * PAGE)); // a hole within is none of its business
	r = (struct uffdio_register){.range = {(long)m, 4 * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	E(ioctl(fd, UFFDIO_REGISTER, &r));
	E((long)(r.ioctls & (1 << _UFFDIO_WAKE | 1 << _UFFDIO_COPY | 1 << _UFFDIO_ZEROPAGE)));
	E(enlist(fd, m, 4 * PAGE)); // again
	int other = begin(O_NONBLOCK, 0);
	E(enlist(other, m + 3 * PAGE, 2 * PAGE));
	E(enlist(other, m + 4 * PAGE, PAGE));

	E(copies(fd, m, filled, PAGE, 0)), E(given);
	E(copies(fd, m, filled, PAGE, 0)), E(given);
	E(copies(fd, m + PAGE, filled + 100, PAGE, 0)), E(given); // from anywhere
	E(copies(fd, m + PAGE + 1, filled, PAGE, 0)), E(given);
	E(copies(fd, m + PAGE, filled, PAGE - 1, 0)), E(given);
	E(copies(fd, m + PAGE, filled, 0, 0)), E(given);
	E(copies(fd, m + 2 * PAGE, filled, PAGE, 1 << 10)), E(given);
	E(copies(fd, m + 2 * PAGE, (void *)8, PAGE, 0)), E(given);
	E(copies(fd, m + 2 * PAGE, filled, 4 * PAGE, 0)), E(given); // beyond
	E(copies(fd, hole + PAGE, filled, PAGE, 0)), E(given);
	E(copies(fd, m + 6 * PAGE, filled, PAGE, 0)), E(given); // nobody's
	E(zeroes(fd, m + 2 * PAGE, PAGE, 0)), E(given);
	E(zeroes(fd, m + 2 * PAGE, 2 * PAGE, 0)), E(given);
	E(zeroes(fd, m + 2 * PAGE, PAGE, 8)), E(given);
	E(copies(fd, m + 3 * PAGE, filled, PAGE, 0)), E(given);
	say("%d %d %d %d", m[0], m[PAGE], m[2 * PAGE], m[3 * PAGE]);
	madvise(m, 4 * PAGE, MADV_DONTNEED);
	E(copies(fd, m, filled, PAGE, 0));
	E(copies(fd, m, filled, 4 * PAGE, 0)), E(given); // the first is there
	E(copies(fd, m + PAGE, filled, 3 * PAGE, 0)), E(given);
	E(wake(fd, m + 1, PAGE));
	E(wake(fd, m, 0));
	E(wake(fd, m, PAGE));
	E(leave(fd, m, 0));
	E(leave(fd, m + 1, PAGE));
	E(leave(fd, m + PAGE, PAGE));
	E(leave(fd, m + PAGE, PAGE));
	madvise(m, 4 * PAGE, MADV_DONTNEED);
	E(m[PAGE]);
	E(copies(fd, m + PAGE, filled, PAGE, 0)), E(given);
	close(fd);
	E(m[0]); // nobody waits for anybody
	E(m[3 * PAGE]);
}

static int handler_fd, served, wrote;
static char *base;

// Serves as the kernel's neighbour: page n is full of the letter 'a'+n.
static void *serves(void *until)
{
	static char page[PAGE] __attribute__((aligned(4096)));
	for (served = wrote = 0; served < (long)until;) {
		struct pollfd p = {handler_fd, POLLIN};
		struct uffd_msg m;
		if (poll(&p, 1, -1) != 1 || p.revents != POLLIN)
			say("polled %x", p.revents);
		if (read(handler_fd, &m, sizeof m) != sizeof m)
			continue;
		if (m.event != UFFD_EVENT_PAGEFAULT)
			say("event %x", m.event);
		int n = ((char *)m.arg.pagefault.address - base) / PAGE;
		wrote += m.arg.pagefault.flags == UFFD_PAGEFAULT_FLAG_WRITE;
		if (m.arg.pagefault.flags & ~UFFD_PAGEFAULT_FLAG_WRITE || m.arg.pagefault.address % PAGE)
			say("flags %llx", m.arg.pagefault.flags);
		memset(page, 'a' + n, sizeof page);
		served++;
		if (copies(handler_fd, base + n * PAGE, page, PAGE, 0) && errno != EEXIST)
			say("copy %d: %s", n, errname(errno));
		else if (given < 0)
			wake(handler_fd, base + n * PAGE, PAGE);
	}
	return NULL;
}

static pthread_t server(int pages)
{
	pthread_t t;
	pthread_create(&t, NULL, serves, (void *)(long)pages);
	return t;
}

static void faults(int flags, int map)
{
	handler_fd = begin(flags | O_NONBLOCK, 0);
	base = memory(16, map);
	E(enlist(handler_fd, base, 16 * PAGE));
	pthread_t t = server(5);
	say("%c", base[0]);
	base[5 * PAGE + 7] = '!';
	say("%c%c%c", base[5 * PAGE + 6], base[5 * PAGE + 7], base[5 * PAGE + 8]);
	say("%c", base[15 * PAGE + 4095]);
	say("%c %c", base[3 * PAGE], base[2 * PAGE]);
	pthread_join(t, NULL);
	say("served %d, wrote %d", served, wrote);
	close(handler_fd);
	say("%d", base[PAGE]);
}

CASE(userfault_touch) { faults(0, MAP_PRIVATE); }
CASE(userfault_touch_user_only) { faults(UFFD_USER_MODE_ONLY, MAP_PRIVATE); }
CASE(userfault_touch_shared) { faults(0, MAP_SHARED); }

// System calls wait for pages, too, or find bad memory if they may not.
CASE(userfault_in_calls)
{
	int p[2];
	pipe(p);
	handler_fd = begin(O_NONBLOCK, 0);
	base = memory(16, MAP_PRIVATE);
	E(enlist(handler_fd, base, 16 * PAGE));
	pthread_t t = server(3);
	E(write(p[1], base + PAGE - 5, 10));
	char b[11] = {0};
	E(read(p[0], b, 10));
	say("%s", b);
	write(p[1], "hello", 5);
	E(read(p[0], base + 4 * PAGE, 5));
	say("%.6s", base + 4 * PAGE);
	pthread_join(t, NULL);
	close(handler_fd);

	handler_fd = begin(O_NONBLOCK | UFFD_USER_MODE_ONLY, 0);
	E(enlist(handler_fd, base, 16 * PAGE));
	E(write(p[1], base + 7 * PAGE, 1));
	write(p[1], "hello", 5);
	E(read(p[0], base + 7 * PAGE, 5));
	E(open(base + 7 * PAGE, O_RDONLY));
	E(stat("/", (void *)(base + 8 * PAGE)));
	struct pollfd f = {handler_fd, POLLIN};
	E(poll(&f, 1, 0));
}

static volatile sig_atomic_t signalled;
static void on_signal(int sig) { signalled = sig; }

static void *touches(void *at) { return (void *)(long)*(volatile char *)at; }

// Who waits for a page takes signals, is woken without one, and goes on when the
// descriptor is closed.
CASE(userfault_waits)
{
	int fd = begin(O_NONBLOCK, 0);
	char *m = memory(4, MAP_PRIVATE);
	E(enlist(fd, m, 4 * PAGE));
	struct sigaction act = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &act, NULL);
	pthread_t t[3];
	struct pollfd p = {fd, POLLIN};
	struct uffd_msg msg[4];
	pthread_create(&t[0], NULL, touches, m);
	E(poll(&p, 1, -1));
	E(read(fd, msg, sizeof msg) == sizeof *msg);
	E(poll(&p, 1, 0)); // it was told
	pthread_kill(t[0], SIGUSR1);
	E(poll(&p, 1, -1)); // it came again
	say("signal %d", signalled);
	E(read(fd, msg, sizeof msg) == sizeof *msg);
	E(wake(fd, m, PAGE)); // with nothing there
	E(poll(&p, 1, -1));
	E(zeroes(fd, m, PAGE, UFFDIO_ZEROPAGE_MODE_DONTWAKE));
	E(wake(fd, m, PAGE));
	void *got;
	pthread_join(t[0], &got);
	say("got %ld", (long)got);
	E(poll(&p, 1, 0));

	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, touches, m + (i + 1) * PAGE);
	int n = 0;
	while (n < 3) {
		poll(&p, 1, -1);
		long size = read(fd, msg, sizeof msg);
		n += size > 0 ? size / sizeof *msg : 0;
	}
	say("%d wait", n);
	E(leave(fd, m + PAGE, PAGE));
	pthread_join(t[0], &got);
	close(fd);
	pthread_join(t[1], &got);
	pthread_join(t[2], &got);
}

// A process that waits for a page can be killed, and its child has an ordinary copy.
CASE(userfault_ends)
{
	int fd = begin(O_NONBLOCK, 0);
	char *m = memory(4, MAP_PRIVATE);
	E(enlist(fd, m, 4 * PAGE));
	E(copies(fd, m, filled, PAGE, 0));
	CHILD {
		say("child: %d", m[PAGE]);
		E(copies(fd, m + PAGE, filled, PAGE, 0)); // the parent's
		E(copies(fd, m + PAGE, filled, PAGE, 0));
	}
	E(copies(fd, m + PAGE, filled, PAGE, 0));
	CHILD {
		int own = begin(O_NONBLOCK, 0);
		E(enlist(own, m + 2 * PAGE, 2 * PAGE));
		alarm(1);
		m[3 * PAGE] = 1;
	}
	CHILD {
		int own = begin(O_NONBLOCK, 0), p[2];
		E(enlist(own, m + 2 * PAGE, 2 * PAGE));
		pipe(p);
		alarm(1);
		write(p[1], m + 3 * PAGE, 1);
	}
	CHILD { // SIGBUS instead of waiting
		int own = begin(O_NONBLOCK, UFFD_FEATURE_SIGBUS), p[2];
		E(enlist(own, m + 2 * PAGE, 2 * PAGE));
		pipe(p);
		E(write(p[1], m + 3 * PAGE, 1));
		E(zeroes(own, m + 2 * PAGE, PAGE, 0));
		say("%d", m[2 * PAGE]);
		m[3 * PAGE] = 1;
	}
	char *moved = mremap(m, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory(2, MAP_PRIVATE));
	E(moved[0]);
	madvise(moved, 2 * PAGE, MADV_DONTNEED);
	E(moved[0]); // heard of no more
	E(munmap(m + 2 * PAGE, PAGE));
	E(mprotect(m + 3 * PAGE, PAGE, PROT_NONE));
	E(zeroes(fd, m + 3 * PAGE, PAGE, 0)), E(given);
	E(mprotect(m + 3 * PAGE, PAGE, PROT_READ));
	E(m[3 * PAGE]);
}

static volatile int stop;
static void *races_touch(void *x)
{
	for (int i = 0; !stop; i++)
		base[i % 8 * PAGE]++;
	return NULL;
}
static void *races_call(void *x)
{
	int null = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_RDONLY);
	for (int i = 0; !stop; i++) {
		write(null, base + (i % 8) * PAGE - (i % 8 ? 10 : 0), 2 * PAGE - 10);
		read(zero, base + (i + 3) % 8 * PAGE, 100);
		stat("/", (void *)(base + (i + 5) % 8 * PAGE));
	}
	return NULL;
}
static void *races_take(void *x)
{
	for (int i = 0; !stop; i++) {
		madvise(base + i % 8 * PAGE, PAGE, MADV_DONTNEED);
		if (i % 3 == 0)
			mprotect(base + i % 7 * PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC), mprotect(base, 8 * PAGE, PROT_READ | PROT_WRITE);
		if (i % 11 == 0)
			leave(handler_fd, base + i % 5 * PAGE, 2 * PAGE), enlist(handler_fd, base, 8 * PAGE);
		if (i % 50 == 0) {
			pid_t c = fork();
			if (!c)
				_exit(base[i % 8 * PAGE] & 0);
			waitpid(c, NULL, 0);
		}
	}
	return NULL;
}
static void *races_give(void *x)
{
	while (!stop) {
		struct pollfd p = {handler_fd, POLLIN};
		struct uffd_msg m[2];
		poll(&p, 1, 20);
		for (long n = read(handler_fd, m, sizeof m) / (long)sizeof *m; n > 0; n--) {
			char *at = (char *)m[n - 1].arg.pagefault.address;
			if (zeroes(handler_fd, at, PAGE, 0) && given == -EEXIST)
				wake(handler_fd, at, PAGE);
		}
	}
	return NULL;
}

// Everybody at once, and the end while some wait.
CASE(userfault_races)
{
	static void *(*const all[])(void *) = {races_touch, races_touch, races_call, races_call, races_take, races_give};
	handler_fd = begin(O_NONBLOCK, 0);
	base = memory(8, MAP_PRIVATE);
	E(enlist(handler_fd, base, 8 * PAGE));
	CHILD {
		handler_fd = begin(O_NONBLOCK, 0);
		base = memory(8, MAP_PRIVATE);
		enlist(handler_fd, base, 8 * PAGE);
		pthread_t t[6];
		for (int i = 0; i < 6; i++)
			pthread_create(&t[i], NULL, all[i], NULL);
		nap(200);
		stop = 1;
	}
}

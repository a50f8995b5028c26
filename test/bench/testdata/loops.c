// loops FILE DIRECTORY RUNS prints "name nanoseconds-per-operation" for each
// measurement, RUNS times each. It is static and unmodified: the same file runs
// natively and in every container. FILE is one of 64 KiB to open and read,
// DIRECTORY a place for new files.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *self, *file, *directory;
static int file_fd, pipe_fds[2], to[2], from[2];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void get_ppid(long n)
{
	while (n--)
		syscall(SYS_getppid);
}

static void clock_get(long n)
{
	struct timespec t;
	while (n--)
		clock_gettime(CLOCK_MONOTONIC, &t);
}

static void pipe_trip(long n)
{
	char c = 0;
	while (n--)
		if (write(pipe_fds[1], &c, 1) != 1 || read(pipe_fds[0], &c, 1) != 1)
			fail("pipe");
}

static void ping_pong(long n)
{
	char c = 0;
	while (n--)
		if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1)
			fail("ping-pong");
}

static void forks(long n)
{
	while (n--) {
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
}

static void fork_execs(long n)
{
	while (n--) {
		pid_t pid = fork();
		if (pid < 0)
			fail("fork");
		if (!pid) {
			execl(self, self, NULL);
			_exit(1);
		}
		int status;
		waitpid(pid, &status, 0);
		if (status)
			fail("exec");
	}
}

enum { pages = (64 << 20) / 4096 };
static char *region;

static void touch(long n)
{
	for (long i = 0; i < n; i++)
		region[i * 4096] = 1;
}

static void map_unmap(long n)
{
	while (n--) {
		char *p = mmap(NULL, 16 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (p == MAP_FAILED)
			fail("mmap");
		for (int i = 0; i < 4; i++)
			p[i * 4096] = 1;
		munmap(p, 16 << 10);
	}
}

static void open_close(long n)
{
	while (n--) {
		int fd = open(file, O_RDONLY);
		if (fd < 0)
			fail(file);
		close(fd);
	}
}

static void stats(long n)
{
	struct stat s;
	while (n--)
		if (stat(file, &s))
			fail(file);
}

static void preads(long n)
{
	static char b[4096];
	while (n--)
		if (pread(file_fd, b, sizeof b, n % 16 * 4096) != sizeof b)
			fail("pread");
}

static void create_unlink(long n)
{
	char path[300];
	snprintf(path, sizeof path, "%s/loops.%d", directory, getpid());
	while (n--) {
		int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd < 0)
			fail(path);
		close(fd);
		unlink(path);
	}
}

static void compute(long n)
{
	volatile uint64_t sink;
	uint64_t x = 88172645463325252ULL;
	while (n--)
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	sink = x;
	(void)sink;
}

// what is measured, with how many operations to begin with
static const struct {
	const char *name;
	void (*run)(long);
	long first;
} loops[] = {
	{"getppid", get_ppid, 1000},
	{"clock_gettime", clock_get, 1000},
	{"pipe round trip", pipe_trip, 100},
	{"ping-pong of two processes", ping_pong, 50},
	{"fork, exit, wait", forks, 5},
	{"fork, exec, wait", fork_execs, 5},
	{"first touch of a page, 64 MiB", touch, pages},
	{"mmap, touch, munmap 16 KiB", map_unmap, 50},
	{"open, close", open_close, 100},
	{"stat", stats, 100},
	{"pread 4 KiB", preads, 100},
	{"create, unlink", create_unlink, 50},
	{"compute step", compute, 1000000},
};

static double measure(void (*run)(long), long n)
{
	double begin = now();
	run(n);
	return now() - begin;
}

int main(int argc, char **argv)
{
	if (argc == 1) // what fork_execs executes
		return 0;
	self = "/proc/self/exe", file = argv[1], directory = argv[2];
	int runs = atoi(argv[3]);
	file_fd = open(file, O_RDONLY);
	if (file_fd < 0 || pipe(pipe_fds) || pipe(to) || pipe(from))
		fail(file);
	pid_t echo = fork();
	if (!echo) {
		char c;
		close(to[1]);
		while (read(to[0], &c, 1) == 1)
			if (write(from[1], &c, 1) != 1)
				break;
		_exit(0);
	}
	for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
		long n = loops[i].first;
		int fresh = loops[i].run == touch;
		// Grow to 40 ms an attempt, so that the clock and the warming up do not count.
		while (!fresh) {
			double took = measure(loops[i].run, n);
			if (took > 4e7)
				break;
			double want = took < 1e6 ? 10 : 5e7 / took;
			n = n * (want < 1.2 ? 1.2 : want) + 1;
		}
		for (int k = 0; k < runs; k++) {
			if (fresh) {
				region = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
				if (region == MAP_FAILED)
					fail("mmap");
			}
			printf("%s\t%.2f\n", loops[i].name, measure(loops[i].run, n) / n);
			if (fresh)
				munmap(region, 64 << 20);
		}
		fflush(stdout);
	}
	close(to[1]);
	waitpid(echo, NULL, 0);
	return 0;
}

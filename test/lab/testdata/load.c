/* init of a guest whose disk and network are measured. Each line that it prints
 * is a result: NAME, a space, bytes or requests, a space, nanoseconds. The words
 * of the kernel's command line say what to do:
 *   load=disk    read and write /dev/vda, past the page cache
 *   load=net     a TCP stream to 10.99.0.1 port 7000, then one from it
 * With a number for scale as its argument it is the other end of load=net.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DISK (64L << 20) /* bytes of it that are used */

static void fail(const char *what)
{
	printf("failed %s: %m\n", what);
	fflush(stdout);
	for (;;)
		pause();
}

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* worker does its share of the requests; each worker has its own sequence. */
static void worker(int disk, int write, long size, int requests, int seed, int sequential)
{
	char *buffer = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned x = 2463534242u + seed;
	long at = 0;

	if (buffer == MAP_FAILED)
		fail("memory");
	memset(buffer, seed + 1, size);
	for (int i = 0; i < requests; i++) {
		x ^= x << 13, x ^= x >> 17, x ^= x << 5;
		at = sequential ? (at + size) % DISK : x % (DISK / size) * size;
		if ((write ? pwrite(disk, buffer, size, at) : pread(disk, buffer, size, at)) != size)
			fail("disk");
	}
}

static void disk(const char *name, int write, long size, int requests, int workers)
{
	int fd = open("/dev/vda", O_RDWR | O_DIRECT);
	long long began;

	if (fd < 0)
		fail("/dev/vda");
	began = now();
	for (int i = 0; i < workers; i++)
		if (fork() == 0) {
			worker(fd, write, size, requests / workers, i, size > 4096);
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	printf("%s %d %lld\n", name, requests, now() - began);
	fflush(stdout);
	close(fd);
}

static void disks(int scale)
{
	disk("warm", 0, 1 << 20, 64, 1);
	disk("read-4k-1", 0, 4096, 4 * scale, 1);
	disk("write-4k-1", 1, 4096, 4 * scale, 1);
	disk("read-4k-8", 0, 4096, 8 * scale, 8);
	disk("write-4k-8", 1, 4096, 8 * scale, 8);
	disk("read-1m", 0, 1 << 20, scale / 2, 1);
	disk("write-1m", 1, 1 << 20, scale / 2, 1);
}

static void up(const char *name, const char *address)
{
	struct ifreq r = {0};
	struct sockaddr_in *in = (void *)&r.ifr_addr;
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(r.ifr_name, name);
	in->sin_family = AF_INET;
	inet_aton(address, &in->sin_addr);
	if (ioctl(s, SIOCSIFADDR, &r) < 0)
		fail(name);
	inet_aton("255.255.255.0", &in->sin_addr);
	ioctl(s, SIOCSIFNETMASK, &r);
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	if (ioctl(s, SIOCSIFFLAGS, &r) < 0)
		fail(name);
	close(s);
}

static int dial(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7000)};
	int s = socket(AF_INET, SOCK_STREAM, 0);

	inet_aton("10.99.0.1", &to.sin_addr);
	if (connect(s, (void *)&to, sizeof to) < 0)
		fail("connect");
	return s;
}

/* net sends total bytes and waits until all have arrived, then takes as many.
 * One byte the other way starts and ends each, so both ends agree on the time. */
static void net(const char *sent, const char *got, long total)
{
	static char buffer[256 << 10];
	long long began;
	char one;
	int s = dial();

	if (read(s, &one, 1) != 1)
		fail("start of sending");
	began = now();
	for (long n = 0; n < total; n += sizeof buffer)
		if (write(s, buffer, sizeof buffer) != sizeof buffer)
			fail("send");
	if (read(s, &one, 1) != 1)
		fail("end of sending");
	printf("%s %ld %lld\n", sent, total, now() - began);
	began = now();
	write(s, &one, 1);
	for (long n = 0; n < total;) {
		long k = read(s, buffer, sizeof buffer);
		if (k <= 0)
			fail("receive");
		n += k;
	}
	printf("%s %ld %lld\n", got, total, now() - began);
	fflush(stdout);
	close(s);
}

#define WARM (4L << 20) /* bytes */

/* peer is the lab's end of net, twice. It waits in the kernel and has no
 * scheduler of its own: Go's took a tenth of all instructions, now more and now less. */
static void peer(long total)
{
	static char buffer[256 << 10];
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7000)};
	long totals[] = {WARM, total};
	int l = socket(AF_INET, SOCK_STREAM, 0);
	int yes = 1;
	char one = 0;

	inet_aton("10.99.0.1", &at.sin_addr);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(l, (void *)&at, sizeof at) < 0 || listen(l, 1) < 0)
		fail("listen");
	printf("ready\n");
	fflush(stdout);
	for (int i = 0; i < 2; i++) {
		int s = accept(l, NULL, NULL);

		if (s < 0)
			fail("accept");
		setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
		write(s, &one, 1);
		for (long n = 0; n < totals[i];) {
			long k = read(s, buffer, sizeof buffer);
			if (k <= 0)
				fail("receive");
			n += k;
		}
		write(s, &one, 1);
		if (read(s, &one, 1) != 1)
			fail("start of sending");
		for (long n = 0; n < totals[i]; n += sizeof buffer)
			if (write(s, buffer, sizeof buffer) != sizeof buffer)
				fail("send");
		read(s, &one, 1); /* it closes when it has all */
		close(s);
	}
}

int main(int argc, char **argv)
{
	char line[4096] = "";
	char *word;
	int scale = 64;
	int fd;

	if (getpid() != 1) {
		peer(atol(argv[argc - 1]) << 18);
		return 0;
	}
	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mount("dev", "/dev", "devtmpfs", 0, 0);
	mount("proc", "/proc", "proc", 0, 0);
	fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof line - 1) < 0)
		fail("/proc/cmdline");
	if ((word = strstr(line, "scale=")))
		scale = atoi(word + 6);
	if (strstr(line, "load=disk"))
		disks(scale);
	if (strstr(line, "load=net")) {
		up("eth0", "10.99.0.2");
		net("warm", "warm", WARM);
		net("net-send", "net-receive", (long)scale << 18);
	}
	printf("done 0 0\n");
	fflush(stdout);
	for (;;)
		pause();
}

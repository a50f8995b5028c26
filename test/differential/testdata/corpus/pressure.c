// /proc/pressure: the form of what is read, and triggers.
#include "corpus.h"

static const char *resources[] = {"cpu", "io", "memory"};

CASE(pressure_files)
{
	DIR *d = opendir("/proc/pressure");
	int n = 0;
	for (struct dirent *e; d && (e = readdir(d));)
		n += e->d_name[0] != '.';
	E(n >= 3);
	for (int i = 0; i < 3; i++) {
		char path[64], b[512];
		struct stat s;
		snprintf(path, sizeof path, "/proc/pressure/%s", resources[i]);
		E(stat(path, &s)), E(s.st_mode), E((long)s.st_size);
		int fd = open(path, O_RDONLY);
		long size = read(fd, b, sizeof b - 1), to = 0;
		for (long from = 0; from < size; from++) // a number is a 9
			if (b[from] < '0' || b[from] > '9')
				b[to++] = b[from];
			else if (to == 0 || b[to - 1] != '9')
				b[to++] = '9';
		say("%.*s", (int)to, b);
		close(fd);
	}
}

static void trigger(const char *text, int size)
{
	int fd = open("/proc/pressure/memory", O_RDWR | O_NONBLOCK);
	ROW(write(fd, text, size), "%s (%d)", text, size);
	struct pollfd p = {fd, POLLPRI | POLLIN | POLLOUT};
	poll(&p, 1, 0);
	say(" %x", p.revents & ~POLLPRI); // it may have gone off
	if (write(fd, "some 1000000 2000000", 21) == -1)
		say(" %s", errname(errno));
	close(fd);
}

static void triggers(void)
{
	static const char *texts[] = {"full 150000 2000000", "some 0 1000000", "some 2000001 2000000", "some 5 0",
	                              "some 1 10000001", "some 5 10000000", "some", "some 5", "other 500 1000000", "some 500 4000000 x", "", "some x 1",
	                              "some 1000000 2000000 and more than fits"};
	for (int i = 0; i < (int)(sizeof texts / sizeof *texts); i++)
		trigger(texts[i], strlen(texts[i]) + 1);
	trigger("some 500000 2000000", 19); // without its last digit
	trigger("some", 0);
	int fd = open("/proc/pressure/cpu", O_RDWR);
	E(write(fd, (void *)8, 10));
	struct pollfd p = {fd, POLLPRI};
	E(poll(&p, 1, 0));
	E(p.revents);
	int ep = epoll_create1(0);
	struct epoll_event e = {EPOLLPRI};
	E(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
	E(write(fd, "some 2000000 2000000", 21));
}

CASE(pressure_triggers) { triggers(); }

CASE(pressure_triggers_unprivileged)
{
	E(syscall(SYS_setresuid, 4242, 4242, 4242));
	trigger("some 150000 1000000", 20);
	triggers();
}

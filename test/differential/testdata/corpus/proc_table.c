// The shape of /proc's files: their fields, and what a write into them answers.
#include "corpus.h"

// shape prints a text with each number as 0 and each run of blanks as one.
static void shape(const char *path, int most)
{
	static char text[65536];
	int fd = open(path, O_RDONLY);
	if (fd < 0) {
		say("%s: %s", path, errname(errno));
		return;
	}
	long n = 0, m;
	while ((m = read(fd, text + n, sizeof text - 1 - n)) > 0)
		n += m;
	close(fd);
	text[n] = 0;
	say("%s:", path);
	for (char *line = strtok(text, "\n"); line && most-- > 0; line = strtok(NULL, "\n")) {
		char out[600];
		int at = 0;
		for (char *c = line; *c && at < 590; c++)
			if (*c == ' ' || *c == '\t')
				at && out[at - 1] == ' ' ? 0 : (out[at++] = ' ');
			else if (*c >= '0' && *c <= '9')
				at && out[at - 1] == '0' ? 0 : (out[at++] = '0');
			else
				out[at++] = *c;
		out[at] = 0;
		say(" %s", out);
	}
}

CASE(proc_shapes)
{
	static const char *paths[] = {"/proc/self/statm", "/proc/self/io", "/proc/self/schedstat", "/proc/self/oom_score_adj", "/proc/self/oom_adj", "/proc/self/loginuid", "/proc/self/sessionid", "/proc/self/personality", "/proc/self/coredump_filter", "/proc/self/timerslack_ns", "/proc/self/setgroups", "/proc/self/uid_map", "/proc/self/timers", "/proc/self/wchan", "/proc/uptime", "/proc/loadavg", "/proc/sys/kernel/pid_max", "/proc/sys/fs/file-nr", "/proc/sys/fs/nr_open", "/proc/sys/kernel/ngroups_max", "/proc/sys/kernel/cap_last_cap", "/proc/sys/kernel/random/uuid", "/proc/sys/vm/overcommit_memory", "/proc/sys/net/core/somaxconn", "/proc/none", "/proc/self/none"};
	EACH(p, paths)
		if (p != 21)
			shape(paths[p], 8);
}

CASE(proc_status_fields)
{
	static char text[8192];
	int fd = open("/proc/self/status", O_RDONLY);
	text[read(fd, text, sizeof text - 1)] = 0;
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
		*strchr(line, ':') = 0;
		if (strncmp(line, "Cpus", 4) && strncmp(line, "Mems", 4) && strncmp(line, "x86", 3))
			say("%s", line);
	}
}

CASE(proc_limits)
{
	// All of them, whatever the host's are.
	for (int r = 0; r < RLIM_NLIMITS; r++) {
		long room = r == RLIMIT_AS || r == RLIMIT_STACK || r == RLIMIT_DATA || r == RLIMIT_FSIZE ? 1 << 30 : 100;
		setrlimit(r, &(struct rlimit){room, room});
	}
	shape("/proc/self/limits", 20);
}

CASE(proc_fdinfo)
{
	put("f", "x");
	int p[2], s[2], e = epoll_create1(0), v = eventfd(5, EFD_SEMAPHORE), t = timerfd_create(CLOCK_MONOTONIC, 0);
	pipe(p), socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	sigset_t set;
	sigemptyset(&set), sigaddset(&set, SIGUSR1);
	int g = signalfd(-1, &set, 0), f = open("f", O_RDWR | O_APPEND | O_CLOEXEC);

	int fds[] = {p[0], v, t, g, f, open(".", O_RDONLY), open("f", O_PATH)};
	EACH(k, fds) {
		char path[64];
		sprintf(path, "/proc/self/fdinfo/%d", fds[k]);
		shape(path, 8);
	}
}

CASE(proc_writes)
{
	static const char *rows[][2] = {{"oom_score_adj", "100"}, {"oom_score_adj", "1001"}, {"oom_score_adj", "-1001"}, {"oom_score_adj", "x"}, {"oom_score_adj", ""}, {"oom_score_adj", " 7\n"}, {"comm", "name"}, {"comm", ""}, {"setgroups", "deny"}, {"timerslack_ns", "60000"}, {"timerslack_ns", "x"}, {"uid_map", "0 0 1"}};
	EACH(r, rows) {
		char path[64];
		snprintf(path, sizeof path, "/proc/self/%s", rows[r][0]);
		int fd = open(path, O_WRONLY);
		if (fd < 0) {
			say("%s: %s", path, errname(errno));
			continue;
		}
		ROW(write(fd, rows[r][1], strlen(rows[r][1])), "%s \"%s\"", path, rows[r][1]);
		close(fd);
	}
	show("/proc/self/oom_score_adj");
	show("/proc/self/coredump_filter");
	show("/proc/self/timerslack_ns");
}

CASE(proc_directories)
{
	struct stat s;
	static const char *paths[] = {"/proc/self", "/proc/thread-self", "/proc/self/fd", "/proc/self/fd/0", "/proc/self/task", "/proc/self/ns", "/proc/self/ns/mnt", "/proc/self/mem", "/proc/self/environ", "/proc/self/exe", "/proc/self/root", "/proc/self/attr", "/proc/sys/kernel", "/proc/sys/kernel/hostname", "/proc/mounts", "/proc/net", "/proc/self/net", "/proc/self/auxv", "/proc/self/pagemap", "/proc/self/stack", "/proc/self/syscall"};
	EACH(p, paths) {
		errno = 0;
		int r = lstat(paths[p], &s);
		say("%s: %s %o", paths[p], r ? errname(errno) : "ok", r ? 0 : s.st_mode);
	}
	E(mkdir("/proc/x", 0755));
	E(unlink("/proc/self/comm"));
	E(open("/proc/x", O_CREAT | O_RDWR, 0600));
	E(chmod("/proc/self/comm", 0));
	E(symlink("a", "/proc/self/x"));
}

CASE(proc_pagemap)
{
	char *a = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(a, 3 * 4096, MADV_NOHUGEPAGE);
	a[0] = a[2 * 4096] = 1;
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t e[3] = {0};
	E(pread(fd, e, 24, (unsigned long)a / 4096 * 8));
	say("present %d %d", (int)(e[0] >> 63), (int)(e[2] >> 63));
	say("swapped %d, a file's %d", (int)(e[0] >> 62 & 1), (int)(e[0] >> 61 & 1));
	E(pread(fd, e, 7, 0));
	E(pread(fd, e, 8, 4));
	E(pread(fd, e, 8, 1L << 45));
	E(write(fd, e, 8));
}

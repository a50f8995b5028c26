#include "corpus.h"
#include <ctype.h>
#include <dirent.h>

// shape prints a file with each number made N, so that the form is compared.
static void shape(const char *path, int lines)
{
	static char text[1 << 16], out[1 << 16];
	int fd = open(path, O_RDONLY), at = 0;
	if (fd < 0) {
		say("%s: %s", path, errname(errno));
		return;
	}
	long size = 0, n;
	while ((n = read(fd, text + size, sizeof text - 1 - size)) > 0)
		size += n;
	close(fd);
	for (long i = 0; i < size && lines > 0; i++) {
		if (isdigit((unsigned char)text[i])) {
			if (!at || out[at - 1] != 'N')
				out[at++] = 'N';
		} else if (!(text[i] == ' ' && at && out[at - 1] == ' '))
			out[at++] = text[i];
		lines -= text[i] == '\n';
	}
	out[at] = 0;
	say("%s: %s", path, out);
}

static void field(const char *path, const char *name)
{
	char line[512];
	FILE *f = fopen(path, "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, name, strlen(name))) {
			line[strcspn(line, "\n")] = 0;
			say("%s %s", path, line);
			break;
		}
	if (f)
		fclose(f);
}

CASE(own_process)
{
	char b[600], path[64];
	prctl(PR_SET_NAME, "odd) (name");
	int fd = open("/proc/self/stat", O_RDONLY);
	long size = read(fd, b, sizeof b - 1);
	b[size] = 0;
	int fields = 0;
	char *rest = strrchr(b, ')') + 2;
	for (char *p = rest; *p; p++)
		fields += *p == ' ';
	int ppid, pgrp, session;
	sscanf(rest + 2, "%d %d %d", &ppid, &pgrp, &session);
	say("pid %d name %d state %c ppid %d pgrp %d session %d fields %d", atoi(b) == getpid(), strstr(b, "(odd) (name)") != NULL, *rest, ppid == getppid(), pgrp == getpgrp(), session == getsid(0), fields);
	show("/proc/self/comm");
	put("/proc/self/comm", "changed");
	show("/proc/self/comm");
	field("/proc/self/status", "Name:");
	field("/proc/self/status", "State:");
	field("/proc/self/status", "Umask:");
	field("/proc/self/status", "Threads:");
	field("/proc/self/status", "Uid:");
	field("/proc/self/status", "Groups:");
	field("/proc/self/status", "SigCgt:");
	field("/proc/self/status", "NoNewPrivs:");
	shape("/proc/self/statm", 1);
	shape("/proc/self/limits", 4);
	shape("/proc/self/cgroup", 0);
	size = readlink("/proc/self", b, sizeof b);
	b[size > 0 ? size : 0] = 0;
	say("self %d", atoi(b) == getpid());
	size = readlink("/proc/thread-self", b, sizeof b);
	b[size > 0 ? size : 0] = 0;
	snprintf(path, sizeof path, "%d/task/%d", getpid(), gettid());
	say("thread-self %d", !strcmp(b, path));
	size = readlink("/proc/self/root", b, sizeof b);
	say("root %.*s", (int)size, b);
	chdir("/usr/bin");
	size = readlink("/proc/self/cwd", b, sizeof b);
	say("cwd %.*s", (int)size, b);
	size = readlink("/proc/self/exe", b, sizeof b);
	say("exe ends %d", size > 6 && strstr(b, "corpus") != NULL);
	E(access("/proc/self/exe", X_OK));
	E(open("/proc/self/none", O_RDONLY));
	E(open("/proc/999999999/stat", O_RDONLY));
	E(mkdir("/proc/self/x", 0755));
	E(unlink("/proc/self/comm"));
	snprintf(path, sizeof path, "/proc/%d/stat", getpid());
	OK(open(path, O_RDONLY));
	struct stat s;
	E(stat("/proc/self/stat", &s));
	say("mode %o size %ld uid %d", s.st_mode, (long)s.st_size, s.st_uid);
	stat("/proc/self", &s);
	say("mode %o", s.st_mode);
	lstat("/proc/self/fd/0", &s);
	say("fd link %d", S_ISLNK(s.st_mode));
	struct statfs v;
	statfs("/proc", &v);
	say("%lx", (long)v.f_type);
}

CASE(descriptors_in_proc)
{
	char b[300];
	put("f", "0123456789");
	int fd = open("f", O_RDWR | O_APPEND | O_CLOEXEC), p[2];
	lseek(fd, 3, SEEK_SET);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	field(path, "pos:");
	field(path, "flags:");
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int again = open(path, O_RDONLY);
	E(read(again, b, 4));
	dump("again from its start", b, 4);
	pipe(p);
	snprintf(path, sizeof path, "/proc/self/fd/%d", p[0]);
	long size = readlink(path, b, sizeof b);
	say("%.6s", b);
	write(p[1], "pipe", 4);
	again = open(path, O_RDONLY);
	E(read(again, b, 4));
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", s);
	readlink(path, b, sizeof b);
	say("%.8s", b);
	E(open(path, O_RDONLY));
	snprintf(path, sizeof path, "/proc/self/fd/%d", epoll_create1(0));
	size = readlink(path, b, sizeof b);
	say("%.*s", (int)size, b);
	snprintf(path, sizeof path, "/proc/self/fd/%d", eventfd(0, 0));
	size = readlink(path, b, sizeof b);
	say("%.*s", (int)size, b);
	int count = 0;
	DIR *d = opendir("/proc/self/fd");
	for (struct dirent *e; (e = readdir(d));)
		count += isdigit(e->d_name[0]) && atoi(e->d_name) > 2;
	say("%d open beyond 2", count);
	E(unlink("/proc/self/fd/0"));
	E(readlink("/proc/self/fd/99", b, sizeof b));
	OK(open("/dev/stdout", O_WRONLY | O_APPEND));
}

CASE(other_processes)
{
	int p[2];
	char c, path[64];
	pipe(p);
	if (!(child_pid = fork())) {
		prctl(PR_SET_NAME, "kiddo");
		close(p[0]);
		write(p[1], "x", 1);
		pause();
	}
	read(p[0], &c, 1);
	until_state(child_pid, 'S');
	snprintf(path, sizeof path, "/proc/%d/comm", child_pid);
	char b[64];
	int fd = open(path, O_RDONLY), n = read(fd, b, 64);
	say("%.*s", n - 1, b);
	snprintf(path, sizeof path, "/proc/%d/task/%d/children", getpid(), getpid());
	fd = open(path, O_RDONLY), n = read(fd, b, 64);
	say("children %d", n > 0 && atoi(b) == child_pid);
	snprintf(path, sizeof path, "/proc/%d", child_pid);
	int dir = open(path, O_RDONLY);
	DIR *d = opendir("/proc");
	int found = 0;
	for (struct dirent *e; (e = readdir(d));)
		found += atoi(e->d_name) == child_pid;
	say("listed %d", found);
	kill(child_pid, SIGKILL);
	siginfo_t i;
	waitid(P_PID, child_pid, &i, WEXITED | WNOWAIT);
	snprintf(path, sizeof path, "/proc/%d/cmdline", child_pid);
	fd = open(path, O_RDONLY);
	E(read(fd, b, 64)); // a zombie has no arguments
	wait(NULL);
	E(openat(dir, "stat", O_RDONLY));
	E(open(path, O_RDONLY));
	CHILD {
		setresuid(1000, 1000, 1000);
		snprintf(path, sizeof path, "/proc/%d/environ", getppid());
		E(open(path, O_RDONLY));
		snprintf(path, sizeof path, "/proc/%d/status", getppid());
		OK(open(path, O_RDONLY));
		snprintf(path, sizeof path, "/proc/%d/fd", getppid());
		E(open(path, O_RDONLY));
	}
}

CASE(machine)
{
	shape("/proc/meminfo", 5);
	shape("/proc/uptime", 1);
	shape("/proc/loadavg", 1);
	shape("/proc/sys/kernel/pid_max", 1);
	shape("/proc/sys/kernel/osrelease", 0);
	shape("/proc/sys/fs/file-max", 1);
	shape("/proc/sys/vm/overcommit_memory", 1);
	shape("/proc/sys/kernel/random/boot_id", 0);
	shape("/proc/sys/kernel/ngroups_max", 1);
	char line[512];
	int cpus = 0, stat_cpus = 0, types = 0, mounts = 0;
	FILE *f = fopen("/proc/cpuinfo", "r");
	while (f && fgets(line, sizeof line, f))
		cpus += !strncmp(line, "processor", 9);
	f = fopen("/proc/stat", "r");
	while (f && fgets(line, sizeof line, f))
		stat_cpus += !strncmp(line, "cpu", 3) && isdigit(line[3]);
	f = fopen("/proc/filesystems", "r");
	while (f && fgets(line, sizeof line, f))
		types += strstr(line, "tmpfs") || strstr(line, "\tproc");
	f = fopen("/proc/mounts", "r");
	while (f && fgets(line, sizeof line, f))
		mounts += strstr(line, " /proc proc ") != NULL;
	say("cpus agree %d %d, file systems %d, proc is mounted %d", cpus == sysconf(_SC_NPROCESSORS_ONLN), stat_cpus == cpus, types >= 2, mounts > 0);
	shape("/sys/devices/system/cpu/online", 1);
	shape("/sys/devices/system/cpu/possible", 1);
	say("%ld %ld", sysconf(_SC_PAGESIZE), (long)(sysconf(_SC_PHYS_PAGES) > 1000));
}

CASE(devices)
{
	char b[16];
	struct stat s;
	int n = open("/dev/null", O_RDWR);
	E(write(n, "x", 1));
	E(read(n, b, 1));
	int z = open("/dev/zero", O_RDWR);
	memset(b, 1, 16);
	E(read(z, b, 16));
	say("%d %d", b[0], b[15]);
	E(write(z, b, 16));
	int f = open("/dev/full", O_RDWR);
	E(write(f, "x", 1));
	E(read(f, b, 4));
	int r = open("/dev/urandom", O_RDONLY);
	E(read(r, b, 16));
	r = open("/dev/random", O_RDONLY);
	E(read(r, b, 16));
	E(lseek(n, 10, SEEK_SET));
	E(lseek(z, 10, SEEK_SET));
	E(ftruncate(n, 0));
	const char *names[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"};
	for (int i = 0; i < 6; i++) {
		stat(names[i], &s);
		say("%s %o %lx", names[i], s.st_mode, (long)s.st_rdev);
	}
	OK(open("/dev/null", O_WRONLY | O_TRUNC | O_CREAT, 0600));
	E(open("/dev/null", O_RDONLY | O_DIRECTORY));
	struct pollfd p = {n, POLLIN | POLLOUT};
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	int shm = open("/dev/shm/bulkhead-test", O_CREAT | O_RDWR, 0600);
	E(write(shm, "abc", 3));
	E(unlink("/dev/shm/bulkhead-test"));
}

CASE(signal_by_directory)
{
	pid_t pid = fork();
	if (!pid)
		for (;;)
			pause();
	char path[64];
	snprintf(path, sizeof path, "/proc/%d", pid);
	int fd = open(path, O_RDONLY | O_DIRECTORY), through = open(path, O_PATH), root = open("/proc", O_RDONLY);
	E(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
	E(syscall(SYS_pidfd_send_signal, through, 0, NULL, 0));
	E(syscall(SYS_pidfd_send_signal, root, 0, NULL, 0));
	E(syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0));
	int s;
	waitpid(pid, &s, 0);
	status("child", s);
	E(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0));
}

CASE(timers_in_proc)
{
	timer_t a, b;
	struct sigevent e = {.sigev_notify = SIGEV_NONE};
	timer_create(CLOCK_MONOTONIC, &e, &a);
	e.sigev_notify = SIGEV_SIGNAL;
	e.sigev_signo = SIGUSR1;
	e.sigev_value.sival_int = 0x55;
	timer_create(CLOCK_REALTIME, &e, &b);
	char line[256];
	FILE *f = fopen("/proc/self/timers", "r");
	while (fgets(line, sizeof line, f)) {
		char *dot = strrchr(line, '.');
		line[strlen(line) - 1] = 0;
		if (!strncmp(line, "notify", 6) && dot)
			*dot = 0;
		say("%s", line);
	}
}

CASE(locks_in_proc)
{
	int fd = open("file", O_CREAT | O_RDWR, 0600), other = open("second", O_CREAT | O_RDWR, 0600);
	struct flock l = {F_WRLCK, SEEK_SET, 10, 5};
	fcntl(fd, F_SETLK, &l);
	flock(other, LOCK_SH);
	struct stat s[2];
	fstat(fd, s);
	fstat(other, s + 1);
	char line[256];
	FILE *f = fopen("/proc/locks", "r");
	for (int i = 0; i < 2; i++) {
		rewind(f);
		while (fgets(line, sizeof line, f)) {
			char kind[16], how[16], mode[16], end[32];
			unsigned major, minor;
			unsigned long ino, start;
			int n, pid;
			if (sscanf(line, "%d: %15s %15s %15s %d %x:%x:%lu %lu %31s", &n, kind, how, mode, &pid, &major, &minor, &ino, &start, end) == 10 &&
				ino == s[i].st_ino)
				say("%s %s %s ours %d from %lu to %s", kind, how, mode, pid == getpid(), start, end);
		}
	}
}

static void link_at(const char *name)
{
	char path[100], to[300] = "";
	struct stat st;
	snprintf(path, sizeof path, "/proc/self/map_files/%s", name);
	ROW(readlink(path, to, sizeof to - 1) > 0, "readlink %s", name);
	say("%s", strrchr(to, '/') ?: "");
	ROW(lstat(path, &st), "lstat");
	say("%o, size %ld", st.st_mode, (long)st.st_size);
	int f;
	ROW((f = open(path, O_RDWR)) < 0 ? -1 : 0, "open");
	char b[4] = "";
	E(pread(f, b, 3, 4096)), say("%s", b);
	close(f);
}

// Which file an area maps, by the area's addresses.
CASE(mapped_files)
{
	char *at = (char *)0x20000000;
	int f = open("file", O_RDWR | O_CREAT, 0600);
	ftruncate(f, 5 * 4096);
	E(pwrite(f, "abc", 3, 4096));
	mmap(at, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, f, 4096);
	mmap(at + 2 * 4096, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, f, 0);
	mmap(at + 6 * 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	int read_only = open("file", O_RDONLY);
	mmap(at + 8 * 4096, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, read_only, 0);
	close(f);
	struct stat st;
	E(stat("/proc/self/map_files", &st));
	say("%o", st.st_mode);
	E(stat("/proc/self/fd", &st));
	say("%ld", (long)st.st_size);
	int count = 0;
	DIR *d = opendir("/proc/self/map_files");
	for (struct dirent *e; (e = readdir(d));)
		if (!strncmp(e->d_name, "2000", 4))
			count++, say("%s %d", e->d_name, e->d_type);
	closedir(d);
	const char *names[] = {"20000000-20001000", "20002000-20005000", "20008000-20009000", "20006000-20007000", "20002000-20004000", "20000000-2000A000",
			       "0x20000000-20001000", "020000000-20001000", "20000000", "x", "20000000-20001000x"};
	EACH(i, names)
		link_at(names[i]);
	E(rename("file", "other")), link_at(names[0]);
	E(unlink("other")), link_at(names[0]); // no other name leads there
	E(munmap(at + 3 * 4096, 4096));
	link_at("20002000-20005000"), link_at("20002000-20003000"), link_at("20004000-20005000");
	unsigned head[2] = {0x20080522, 0}, none[6] = {0}; // _LINUX_CAPABILITY_VERSION_3
	E(syscall(SYS_capset, head, none));
	link_at("20002000-20003000");
}

CASE(clear_refs)
{
	const char *words[] = {"5", "5\n", "1", "0", "6", "-1", "x", ""};
	int f = open("/proc/self/clear_refs", O_WRONLY);
	EACH(i, words)
		ROW(write(f, words[i], strlen(words[i])), "%s", words[i]);
	char b[4];
	E(read(open("/proc/self/clear_refs", O_RDWR), b, 4));
	E(open("/proc/thread-self/clear_refs", O_WRONLY));
	E(access("/proc/thread-self/map_files", F_OK));
}

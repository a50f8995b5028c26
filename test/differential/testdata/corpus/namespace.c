// Namespaces as seen from inside: clone, unshare, setns, /proc/PID/ns, the maps
// of user namespaces, nested pid namespaces.
#include "corpus.h"
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <linux/sched.h>

static void put_map(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);
	errno = 0;
	long n = write(fd, text, strlen(text));
	if (n < 0)
		say("%s \"%s\": %s", path, text, errname(errno));
	else
		say("%s \"%s\": ok", path, text);
	close(fd);
}

static long has_caps(void)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	syscall(SYS_capget, &h, d);
	return (d[0].effective != 0) * 2 + (d[0].permitted != 0);
}

static unsigned long number(const char *path)
{
	struct stat s;
	return stat(path, &s) ? 0 : s.st_ino;
}

// until the other end of a pipe is closed
static void wait_for(int fd)
{
	char c;
	while (read(fd, &c, 1) > 0)
		;
}

CASE(ns_unshare_errors)
{
	E(unshare(0));
	E(unshare(0x1));
	E(unshare(CLONE_NEWUTS | 0x1));
	E(unshare(CLONE_PARENT));
	E(unshare(CLONE_FILES));
	E(unshare(CLONE_FS));
	E(unshare(CLONE_VM));
	E(unshare(CLONE_THREAD));
	E(setns(-1, 0));
	int p[2];
	pipe(p);
	E(setns(p[0], 0));
	int fd = open("/proc/self/ns/uts", O_RDONLY);
	E(setns(fd, CLONE_NEWIPC));
	E(setns(fd, CLONE_NEWUTS));
	E(setns(fd, 0));
	fd = open("/proc/self/ns/user", O_RDONLY);
	E(setns(fd, 0));
	E(open("/proc/self/ns/user", O_RDWR));
	E(read(fd, p, 1));
	E(ioctl(fd, TCGETS, p));
	CHILD {
		setresuid(1000, 1000, 1000);
		E(unshare(CLONE_NEWUTS));
		E(unshare(CLONE_NEWNS));
		E(unshare(CLONE_NEWPID));
		E(unshare(CLONE_NEWNET));
		E(setns(fd, 0));
	}
}

CASE(ns_clone_errors)
{
	E(syscall(SYS_clone, CLONE_NEWUSER | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
	E(syscall(SYS_clone, CLONE_NEWNS | CLONE_FS | SIGCHLD, 0, 0, 0, 0));
	E(syscall(SYS_clone, CLONE_NEWPID | CLONE_THREAD | CLONE_SIGHAND | CLONE_VM, 0, 0, 0, 0));
	E(syscall(SYS_clone, CLONE_NEWIPC | CLONE_SYSVSEM | SIGCHLD, 0, 0, 0, 0));
	struct clone_args a = {.exit_signal = SIGCHLD, .set_tid_size = 1};
	E(syscall(SYS_clone3, &a, sizeof a));
	pid_t ids[40] = {0};
	a.set_tid = (uintptr_t)ids, a.set_tid_size = 40;
	E(syscall(SYS_clone3, &a, sizeof a));
	a.set_tid_size = 2;
	ids[0] = ids[1] = 7000;
	CHILD {
		unshare(CLONE_NEWPID);
	}
	a.set_tid_size = 1;
	ids[0] = getpid();
	E(syscall(SYS_clone3, &a, sizeof a));
	ids[0] = -1;
	E(syscall(SYS_clone3, &a, sizeof a));
	ids[0] = 1 << 30;
	E(syscall(SYS_clone3, &a, sizeof a));
}

CASE(ns_set_tid)
{
	struct clone_args a = {.exit_signal = SIGCHLD, .flags = CLONE_NEWPID};
	pid_t id = 5;
	a.set_tid = (uintptr_t)&id, a.set_tid_size = 1;
	E(syscall(SYS_clone3, &a, sizeof a)); // the first must be 1
	id = 1;
	pid_t child = syscall(SYS_clone3, &a, sizeof a);
	if (child == 0) {
		say("pid %d", getpid());
		a.flags = 0, id = 77;
		pid_t inner = syscall(SYS_clone3, &a, sizeof a);
		if (inner == 0) {
			say("pid %d ppid %d", getpid(), getppid());
			_exit(3);
		}
		int s;
		E(waitpid(77, &s, 0));
		say("inner %d", inner);
		status("inner", s);
		CHILD {
			say("next %d", getpid());
		}
		id = 1;
		E(syscall(SYS_clone3, &a, sizeof a));
		_exit(4);
	}
	int s;
	waitpid(child, &s, 0);
	status("child", s);
}

// What comes before reboot(2) does anything. The command is 0 throughout, which only
// says who hears of Ctrl-Alt-Del, for natively nobody shall find out the hard way.
CASE(ns_reboot_refused)
{
	const unsigned one = 0xfee1dead, two = 0x28121969;
	E(syscall(SYS_reboot, 0, 0, 0, 0));
	E(syscall(SYS_reboot, one, 0, 0, 0));
	E(syscall(SYS_reboot, 0, two, 0, 0));
	E(syscall(SYS_reboot, one, -1, 0, 0));
	CHILD {
		setuid(1000); // who may not hears that, whatever the magic
		E(syscall(SYS_reboot, 0, 0, 0, 0));
		E(syscall(SYS_reboot, one, two, 0, 0));
	}
}

CASE(ns_uts)
{
	char before[65], now[65];
	gethostname(before, sizeof before);
	int old = open("/proc/self/ns/uts", O_RDONLY);
	CHILD {
		unsigned long was = number("/proc/self/ns/uts");
		E(unshare(CLONE_NEWUTS));
		say("changed %d", number("/proc/self/ns/uts") != was);
		gethostname(now, sizeof now);
		say("inherited %d", !strcmp(before, now));
		E(sethostname("inside", 6));
		E(setdomainname("domain", 6));
		show("/proc/sys/kernel/hostname");
		show("/proc/sys/kernel/domainname");
		gethostname(now, sizeof now);
		say("%s", now);
		put("/proc/sys/kernel/hostname", "written\n");
		gethostname(now, sizeof now);
		say("%s", now);
		CHILD {
			gethostname(now, sizeof now);
			say("child %s", now);
		}
		E(setns(old, CLONE_NEWUTS));
		gethostname(now, sizeof now);
		say("back %d", !strcmp(before, now) && number("/proc/self/ns/uts") == was);
	}
	gethostname(now, sizeof now);
	say("unchanged %d", !strcmp(before, now));
}

CASE(ns_user_maps)
{
	CHILD {
		E(unshare(CLONE_NEWUSER));
		say("uid %d %d gid %d caps %ld", getuid(), geteuid(), getgid(), has_caps());
		show("/proc/self/uid_map");
		show("/proc/self/setgroups");
		E(setuid(0));
		E(setgroups(0, NULL));
		put_map("/proc/self/uid_map", "0 0");
		put_map("/proc/self/uid_map", "0 0 0\n");
		put_map("/proc/self/uid_map", "");
		put_map("/proc/self/uid_map", "x 0 1\n");
		put_map("/proc/self/uid_map", "0 0 1\n0 1 1\n");
		put_map("/proc/self/uid_map", "0 0 2\n1 5 1\n");
		put_map("/proc/self/uid_map", "0 0 1\n");
		put_map("/proc/self/uid_map", "0 0 1\n");
		put_map("/proc/self/gid_map", "0 0 1\n");
		put_map("/proc/self/setgroups", "deny");
		put_map("/proc/self/setgroups", "nonsense");
		show("/proc/self/uid_map");
		show("/proc/self/gid_map");
		show("/proc/self/setgroups");
		E(setuid(0));
		E(setuid(1));
		E(setgid(1));
		say("uid %d gid %d caps %ld", getuid(), getgid(), has_caps());
		E(setgroups(0, NULL));
	}
	CHILD {
		E(setresgid(1000, 1000, 1000));
		E(setresuid(1000, 1000, 1000));
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
		E(unshare(CLONE_NEWUSER));
		say("uid %d gid %d caps %ld", getuid(), getgid(), has_caps());
		put_map("/proc/self/gid_map", "0 1000 1\n");
		put_map("/proc/self/setgroups", "deny");
		put_map("/proc/self/gid_map", "0 1000 1\n");
		put_map("/proc/self/uid_map", "0 0 1\n");
		put_map("/proc/self/uid_map", "0 1000 2\n");
		put_map("/proc/self/uid_map", "0 1000 1\n");
		put_map("/proc/self/setgroups", "allow");
		say("uid %d gid %d caps %ld", getuid(), getgid(), has_caps());
		struct stat s;
		stat("/", &s);
		say("root's files are %d %d", s.st_uid, s.st_gid);
		E(mkdir("/etc/x", 0700));
		E(chown("/etc/passwd", 0, 0));
		E(setgroups(0, NULL));
		E(sethostname("x", 1));
		E(unshare(CLONE_NEWUTS));
		E(sethostname("x", 1));
		E(setuid(5));
		E(setpriority(PRIO_PROCESS, 0, -5));
		E(chroot("/"));
		struct rlimit r;
		getrlimit(RLIMIT_NOFILE, &r);
		r.rlim_max += 1;
		E(setrlimit(RLIMIT_NOFILE, &r));
		E(mknod("dev", S_IFCHR | 0600, 0x103));
		E(clock_settime(CLOCK_REALTIME, &(struct timespec){1, 0}));
		execl("/bin/sh", "sh", "-c", "id -u; id -g", NULL);
	}
}

CASE(ns_user_range)
{
	int p[2];
	pipe(p);
	pid_t child = fork();
	if (child == 0) {
		close(p[1]);
		unshare(CLONE_NEWUSER);
		char c = 1;
		int fd = open("ready", O_CREAT | O_WRONLY, 0644);
		close(fd);
		wait_for(p[0]);
		show("/proc/self/uid_map");
		E(setresgid(0, 0, 0));
		E(setresuid(0, 0, 0));
		gid_t groups[2] = {7, 9}, got[4];
		E(setgroups(2, groups));
		E(getgroups(4, got));
		say("%d %d", got[0], got[1]);
		groups[0] = 100;
		E(setgroups(1, groups));
		E(setuid(60));
		E(mkdir("mine", 0755));
		E(chown("mine", 7, 8));
		E(chown("mine", 70, -1));
		E(setresuid(3, 4, 5));
		E(setresuid(0, 0, 0));
		struct stat s = {0};
		stat("mine", &s);
		say("%d %d", s.st_uid, s.st_gid);
		_exit(0);
	}
	close(p[0]);
	while (access("ready", F_OK))
		nap(1);
	chown(".", 100000, 200000);
	char path[64];
	sprintf(path, "/proc/%d/uid_map", child);
	int fd = open(path, O_WRONLY);
	E(write(fd, "0 100000 50\n", 12));
	sprintf(path, "/proc/%d/gid_map", child);
	fd = open(path, O_WRONLY);
	E(write(fd, "0 200000 50\n", 12));
	close(p[1]);
	int st;
	waitpid(child, &st, 0);
	status("child", st);
	struct stat s;
	E(stat("mine", &s));
	say("%d %d", s.st_uid, s.st_gid);
}

static int in_pidns(void *unused)
{
	say("pid %d tid %ld ppid %d pgrp %d sid %d", getpid(), syscall(SYS_gettid), getppid(), getpgrp(), getsid(0));
	E(setsid());
	say("pgrp %d sid %d", getpgrp(), getsid(0));
	E(kill(getppid(), 0));
	E(kill(1, SIGTERM)); // ignored: no handler
	E(kill(2, 0));
	CHILD {
		say("child %d of %d", getpid(), getppid());
		E(kill(1, SIGKILL)); // ignored, from inside
		E(setpgid(0, 0));
		say("pgrp %d", getpgrp());
	}
	pid_t middle = fork();
	if (middle == 0) {
		if (fork() == 0) {
			while (getppid() != 1)
				nap(1);
			_exit(9);
		}
		_exit(8);
	}
	int s;
	E(waitpid(middle, &s, 0)), status("middle", s);
	pid_t orphan = wait(&s);
	say("orphan %d", orphan), status("orphan", s);
	E(wait(NULL));
	return 5;
}

static char stack[65536] __attribute__((aligned(16)));

CASE(ns_pid)
{
	pid_t child = clone(in_pidns, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL);
	int s;
	waitpid(child, &s, 0);
	status("init", s);
	CHILD {
		E(unshare(CLONE_NEWPID));
		E(unshare(CLONE_NEWPID));
		say("for children %d", number("/proc/self/ns/pid") != number("/proc/self/ns/pid_for_children"));
		CHILD {
			say("first %d", getpid());
		}
		E(fork()); // its init has gone
	}
	CHILD {
		E(unshare(CLONE_NEWPID));
		pthread_t t;
		say("thread: %s", errname(pthread_create(&t, NULL, (void *)in_pidns, NULL)));
	}
}

static int init_dies(void *to)
{
	for (int i = 0; i < 3; i++)
		if (fork() == 0) {
			if (i == 1)
				setsid();
			for (;;)
				pause();
		}
	close(*(int *)to);
	return 0;
}

CASE(ns_pid_end)
{
	int p[2];
	pipe(p);
	pid_t child = clone(init_dies, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, p + 1);
	close(p[1]);
	int s;
	waitpid(child, &s, 0);
	status("init", s);
	wait_for(p[0]); // all have gone with it
	say("gone");
}

static int killed_from_outside(void *unused)
{
	signal(SIGTERM, SIG_DFL);
	for (;;)
		pause();
}

CASE(ns_pid_kill)
{
	pid_t child = clone(killed_from_outside, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL);
	E(kill(child, SIGTERM));
	until_state(child, 'S');
	E(kill(child, SIGKILL));
	int s;
	waitpid(child, &s, 0);
	status("init", s);
}

static int to_parent(void *from)
{
	siginfo_t i = {0};
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	E(sigwaitinfo(&set, &i));
	say("code %d from %d uid %d", i.si_code, i.si_pid, i.si_uid);
	E(sigwaitinfo(&set, &i));
	say("code %d from %d", i.si_code, i.si_pid);
	return 0;
}

CASE(ns_pid_siginfo)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1), sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pid_t child = clone(to_parent, stack + sizeof stack, CLONE_NEWPID | SIGCHLD, NULL);
	kill(child, SIGUSR1);
	union sigval v = {.sival_int = 3};
	until_state(child, 'S');
	sigqueue(child, SIGUSR1, v);
	siginfo_t i;
	sigemptyset(&set), sigaddset(&set, SIGCHLD);
	E(sigwaitinfo(&set, &i) == SIGCHLD);
	say("child's %d", i.si_pid == child);
	wait(NULL);
}

CASE(ns_status)
{
	int p[2], q[2];
	pipe(p), pipe(q);
	pid_t child = syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, 0, 0, 0, 0);
	if (child == 0) {
		close(p[1]), close(q[0]), close(q[1]);
		wait_for(p[0]);
		_exit(0);
	}
	close(p[0]);
	char path[64], line[256];
	sprintf(path, "/proc/%d/status", child);
	FILE *f = fopen(path, "r");
	while (fgets(line, sizeof line, f)) {
		int a, b, n = 0;
		if (!strncmp(line, "NSpid:", 6) && (n = sscanf(line + 6, "%d %d", &a, &b)) > 0)
			say("NSpid %d numbers, last %d", n, b);
	}
	fclose(f);
	sprintf(path, "/proc/%d/ns/pid", child);
	say("other %d", number(path) != number("/proc/self/ns/pid"));
	int fd = open(path, O_RDONLY);
	E(ioctl(fd, NS_GET_NSTYPE));
	E(ioctl(fd, NS_GET_OWNER_UID, line));
	int parent = ioctl(fd, NS_GET_PARENT);
	struct stat s;
	fstat(parent, &s);
	say("parent is ours %d", s.st_ino == number("/proc/self/ns/pid"));
	int user = ioctl(fd, NS_GET_USERNS);
	fstat(user, &s);
	say("owner is ours %d", s.st_ino == number("/proc/self/ns/user"));
	E(ioctl(user, NS_GET_PARENT) >= -1);
	E(ioctl(user, NS_GET_NSTYPE));
	CHILD {
		E(setns(fd, CLONE_NEWPID));
		E(getpid() != 1);
		pid_t in = fork();
		if (in == 0) {
			say("entered as %d of %d", getpid(), getppid());
			_exit(0);
		}
		waitpid(in, NULL, 0);
		E(setns(fd, CLONE_NEWPID));
	}
	int pidfd = syscall(SYS_pidfd_open, child, 0);
	E(setns(pidfd, 0));
	E(setns(pidfd, CLONE_NEWPID | CLONE_FS));
	CHILD {
		E(setns(pidfd, CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWNET));
	}
	close(p[1]);
	int st;
	waitpid(child, &st, 0);
	status("child", st);
	E(setns(pidfd, CLONE_NEWPID));
}

CASE(ns_links)
{
	static const char *names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
	static const int flags[] = {CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWNET, 0, 0, CLONE_NEWUSER, CLONE_NEWUTS};
	for (int i = 0; i < 8; i++) {
		char path[64], text[64];
		sprintf(path, "/proc/self/ns/%s", names[i]);
		long n = readlink(path, text, sizeof text - 1);
		text[n > 0 ? n : 0] = 0;
		unsigned long at = 0;
		say("%s: %.*s number agrees %d", names[i], (int)strcspn(text, "["), text,
		    sscanf(strchr(text, '[') + 1, "%lu", &at) == 1 && at == number(path));
		int fd = open(path, O_RDONLY);
		E(ioctl(fd, NS_GET_NSTYPE));
		close(fd);
		if (flags[i]) CHILD {
			unsigned long was = number(path);
			OK(unshare(flags[i]));
			say("new %d", number(path) != was);
		}
	}
}

CASE(ns_credentials)
{
	int s[2], one = 1;
	socketpair(AF_UNIX, SOCK_DGRAM, 0, s);
	setsockopt(s[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
	setsockopt(s[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
	pid_t child = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	char b, control[128];
	struct iovec v = {&b, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	if (child == 0) {
		write(s[1], "x", 1);
		recvmsg(s[1], &m, 0);
		struct ucred *u = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
		say("inside: pid %d uid %d", u->pid, u->uid);
		_exit(0);
	}
	recvmsg(s[0], &m, 0);
	struct ucred *u = (void *)CMSG_DATA(CMSG_FIRSTHDR(&m));
	say("outside: the child's %d uid %d", u->pid == child, u->uid);
	write(s[0], "y", 1);
	waitpid(child, NULL, 0);
}

static long seconds(int clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec;
}

CASE(ns_time)
{
	show("/proc/self/timens_offsets");
	long mono = seconds(CLOCK_MONOTONIC), boot = seconds(CLOCK_BOOTTIME);
	put_map("/proc/self/timens_offsets", "monotonic 1 0"); // the first namespace's stay
	E(unshare(CLONE_NEWTIME));
	say("for children %d", number("/proc/self/ns/time") != number("/proc/self/ns/time_for_children"));
	put_map("/proc/self/timens_offsets", "monotonic 1");
	put_map("/proc/self/timens_offsets", "realtime 1 0");
	put_map("/proc/self/timens_offsets", "monotonic 1 1000000000");
	put_map("/proc/self/timens_offsets", "monotonic -100000000000 0");
	put_map("/proc/self/timens_offsets", "monotonic 1000000 5\nboottime 2000000 0\n");
	show("/proc/self/timens_offsets");
	say("unmoved %d", seconds(CLOCK_MONOTONIC) - mono < 100);
	CHILD {
		show("/proc/self/timens_offsets");
		say("entered %d", number("/proc/self/ns/time") == number("/proc/self/ns/time_for_children"));
		put_map("/proc/self/timens_offsets", "monotonic 1 0");
		struct timespec t;
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
		say("monotonic moved %ld", (t.tv_sec - mono) / 1000);
		syscall(SYS_clock_gettime, CLOCK_BOOTTIME, &t);
		say("boottime moved %ld", (t.tv_sec - boot) / 1000);
		syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
		t.tv_nsec = 0, t.tv_sec += 1; // an absolute sleep is by the moved clock
		E(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL));
		int fd = timerfd_create(CLOCK_MONOTONIC, 0);
		struct itimerspec i = {{0, 0}, {t.tv_sec, 1}};
		E(timerfd_settime(fd, TFD_TIMER_ABSTIME, &i, NULL));
		unsigned long long n;
		E(read(fd, &n, 8));
	}
	char up[32] = "";
	FILE *f = popen("cut -d. -f1 /proc/uptime", "r");
	fgets(up, sizeof up, f);
	pclose(f);
	say("uptime moved %d", atol(up) >= 2000000);
	fflush(stdout);
	int fd = open("/proc/self/ns/time_for_children", O_RDONLY);
	E(setns(fd, CLONE_NEWTIME));
	say("in it %d", number("/proc/self/ns/time") == number("/proc/self/ns/time_for_children"));
}

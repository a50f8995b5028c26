// What a process is asked and told of itself: prctl, limits, scheduling, ids.
#include "corpus.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/syscall.h>

CASE(prctl_names)
{
	char b[17] = "";
	E(prctl(PR_SET_NAME, "a name that is far too long", 0, 0, 0));
	E(prctl(PR_GET_NAME, b));
	say("%s", b);
	show("/proc/self/comm");
	E(prctl(PR_SET_NAME, "", 0, 0, 0));
	show("/proc/self/comm");
	E(prctl(PR_SET_NAME, "odd\n(name) x", 0, 0, 0));
	show("/proc/self/comm");
	char line[64] = "";
	int fd = open("/proc/self/status", O_RDONLY);
	read(fd, line, 24);
	dump("status", line, 22);
	put("/proc/self/comm", "by file, which is long as well");
	prctl(PR_GET_NAME, b);
	say("%s", b);
	E(prctl(PR_SET_NAME, 8, 0, 0, 0));
}

CASE(prctl_no_new_privs)
{
	E(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
	E(prctl(PR_SET_NO_NEW_PRIVS, 2, 0, 0, 0));
	E(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0));
	E(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	E(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	CHILD { E(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)); }
	E(prctl(PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

CASE(prctl_ambient)
{
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0)); // not inheritable
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2];
	syscall(SYS_capget, &h, d);
	d[0].inheritable = 1 << CAP_CHOWN | 1 << CAP_KILL;
	E(syscall(SYS_capset, &h, d));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SETUID, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 99, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 1, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_CHOWN, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0);
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
	E(prctl(PR_CAP_AMBIENT, 9, 0, 0, 0));
	(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0);
	E(prctl(PR_SET_SECUREBITS, SECBIT_NO_CAP_AMBIENT_RAISE, 0, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
	E(prctl(PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0));
	E(prctl(PR_CAPBSET_READ, CAP_KILL, 0, 0, 0));
	E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0));
}

CASE(secure_bits)
{
	static int bits[] = {SECBIT_NOROOT, SECBIT_NOROOT_LOCKED, SECBIT_NO_SETUID_FIXUP, SECBIT_KEEP_CAPS, SECBIT_KEEP_CAPS_LOCKED, SECBIT_NO_CAP_AMBIENT_RAISE, 1 << 12};
	EACH(b, bits)
		CHILD {
			ROW(prctl(PR_SET_SECUREBITS, bits[b], 0, 0, 0), "set %x", bits[b]);
			E(prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
			E(prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
			E(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
			E(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
			E(setuid(1000));
			struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3};
			struct __user_cap_data_struct d[2];
			syscall(SYS_capget, &h, d);
			say("%x %x", d[0].effective & 1, d[0].permitted & 1);
			E(prctl(PR_SET_SECUREBITS, 0, 0, 0, 0));
			E(prctl(PR_CAPBSET_DROP, 0, 0, 0, 0));
		}
}

CASE(capability_calls)
{
	struct __user_cap_header_struct h = {0};
	struct __user_cap_data_struct d[2];
	E(syscall(SYS_capget, &h, NULL));
	say("%x", h.version);
	h.version = 0;
	E(syscall(SYS_capget, &h, d));
	E(syscall(SYS_capget, NULL, d));
	h.version = _LINUX_CAPABILITY_VERSION_1;
	E(syscall(SYS_capget, &h, d));
	h.version = _LINUX_CAPABILITY_VERSION_2;
	E(syscall(SYS_capget, &h, d));
	h.version = _LINUX_CAPABILITY_VERSION_3, h.pid = -1;
	E(syscall(SYS_capget, &h, d));
	h.pid = 99999;
	E(syscall(SYS_capget, &h, d));
	h.pid = getppid();
	E(syscall(SYS_capget, &h, d));
	E(syscall(SYS_capset, &h, d));
	h.pid = 0;
	E(syscall(SYS_capget, &h, d));
	d[0].permitted &= ~(1 << CAP_KILL);
	E(syscall(SYS_capset, &h, d)); // effective beyond permitted
	d[0].effective &= ~(1 << CAP_KILL);
	E(syscall(SYS_capset, &h, d));
	d[0].permitted |= 1 << CAP_KILL;
	E(syscall(SYS_capset, &h, d));
	d[0].permitted &= ~(1 << CAP_KILL), d[0].inheritable = 1 << CAP_KILL;
	E(syscall(SYS_capset, &h, d)); // within the bounding set, by CAP_SETPCAP
	E(syscall(SYS_capset, &h, (void *)8));
}

CASE(limit_table)
{
	for (int r = -1; r < 18; r++) {
		struct rlimit l = {0}, lower = {5, 10}, wrong = {10, 5};
		if (r == RLIMIT_AS || r == RLIMIT_DATA || r == RLIMIT_STACK || r == RLIMIT_NICE || r == RLIMIT_RTPRIO)
			continue;
		ROW(syscall(SYS_getrlimit, r, &l), "get %d", r);
		ROW(syscall(SYS_setrlimit, r, &wrong), "wrong %d", r);
		CHILD {
			ROW(syscall(SYS_setrlimit, r, &lower), "lower %d", r);
			syscall(SYS_getrlimit, r, &l);
			say("%ld %ld", (long)l.rlim_cur, (long)l.rlim_max);
			setuid(1000);
			l.rlim_cur = 20, l.rlim_max = 20;
			ROW(syscall(SYS_setrlimit, r, &l), "raise %d", r);
			l.rlim_cur = 10, l.rlim_max = 10;
			ROW(syscall(SYS_setrlimit, r, &l), "up to the maximum %d", r);
		}
	}
	struct rlimit l;
	E(syscall(SYS_prlimit64, 99999, RLIMIT_CORE, NULL, &l));
	E(syscall(SYS_prlimit64, 0, RLIMIT_CORE, (void *)8, NULL));
	E(syscall(SYS_prlimit64, 0, RLIMIT_CORE, NULL, (void *)8));
	E(syscall(SYS_prlimit64, 0, 77, NULL, NULL));
	E(syscall(SYS_prlimit64, getppid(), RLIMIT_CORE, NULL, &l));
	l.rlim_cur = l.rlim_max = (1 << 20) + 1;
	l.rlim_cur = l.rlim_max = -1;
	E(syscall(SYS_setrlimit, RLIMIT_NOFILE, &l));
}

CASE(limit_effects)
{
	struct rlimit l = {10, 100};
	put("f", "");
	int fd = open("f", O_RDWR);
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &l);
	char b[32] = "";
	E(write(fd, b, 8));
	E(write(fd, b, 8));
	E(write(fd, b, 8));
	E(pwrite(fd, b, 8, 100));
	E(ftruncate(fd, 11));
	E(ftruncate(fd, 10));
	E(fallocate(fd, 0, 0, 11));
	E(truncate("f", 1000));
	CHILD {
		signal(SIGXFSZ, SIG_DFL);
		lseek(fd, 0, SEEK_END);
		write(fd, b, 8);
	}
	l.rlim_cur = 4;
	setrlimit(RLIMIT_NOFILE, &l);
	E(dup(0));
	E(dup2(0, 4));
	E(fcntl(0, F_DUPFD, 4));
	E(fcntl(0, F_DUPFD, 3));
	E(open("f", O_RDONLY));
	E(pipe((int[2]){0}));
	E(socket(AF_UNIX, SOCK_STREAM, 0));
	E(eventfd(0, 0));
	E(epoll_create1(0));
	E(poll((struct pollfd[5]){0}, 5, 0));
	l.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &l);
	E(write(fd, b, 0));
	E(close(fd));
	E(open("f", O_RDONLY));
	E(poll(NULL, 0, 0));
	setuid(1000);
	l.rlim_cur = l.rlim_max = 1;
	setrlimit(RLIMIT_NPROC, &l);
	pid_t pid = fork();
	if (!pid)
		_exit(0);
	say("fork with another of this user's: %s", pid < 0 ? errname(errno) : "ok");
	l.rlim_cur = l.rlim_max = 0;
	setrlimit(RLIMIT_SIGPENDING, &l);
	E(sigqueue(getpid(), SIGRTMIN, (union sigval){0}));
	E(kill(getpid(), 0));
	E(timer_create(CLOCK_MONOTONIC, NULL, (timer_t *)b));
	l.rlim_cur = l.rlim_max = 0;
	setrlimit(RLIMIT_NICE, &l);
	E(setpriority(PRIO_PROCESS, 0, -1));
	E(setpriority(PRIO_PROCESS, 0, 5));
	E(setpriority(PRIO_PROCESS, 0, 4));
}

CASE(scheduler_table)
{
	static int policies[] = {SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, 4, SCHED_IDLE, 6, 8, -1, SCHED_FIFO | 0x40000000};
	static int priorities[] = {-1, 0, 1, 99, 100};
	EACH(p, policies) {
		ROW(sched_get_priority_max(policies[p]), "most of %x", policies[p]);
		ROW(sched_get_priority_min(policies[p]), "least of %x", policies[p]);
		EACH(i, priorities) {
			int realtime = (policies[p] & 0xff) == SCHED_FIFO || policies[p] == SCHED_RR;
			if (realtime && (priorities[i] == 1 || priorities[i] == 99))
				continue; // a cgroup may have no time for these
			struct sched_param s = {priorities[i]};
			CHILD {
				ROW(syscall(SYS_sched_setscheduler, 0, policies[p], &s), "%x at %d", policies[p], priorities[i]);
				struct sched_param got = {-7};
				ROW(syscall(SYS_sched_getscheduler, 0), "policy");
				syscall(SYS_sched_getparam, 0, &got);
				say("priority %d", got.sched_priority);
				s.sched_priority = 3;
				ROW(syscall(SYS_sched_setparam, 0, &s), "setparam 3");
			}
		}
	}
	struct sched_param s = {0};
	struct timespec t;
	E(syscall(SYS_sched_setscheduler, 99999, 0, &s));
	E(syscall(SYS_sched_setscheduler, -1, 0, &s));
	E(syscall(SYS_sched_setscheduler, 0, 0, NULL));
	E(syscall(SYS_sched_setscheduler, 0, 0, (void *)8));
	E(syscall(SYS_sched_getscheduler, 99999));
	E(syscall(SYS_sched_getscheduler, -1));
	E(syscall(SYS_sched_getparam, 0, NULL));
	E(syscall(SYS_sched_getparam, -1, &s));
	E(syscall(SYS_sched_rr_get_interval, -1, &t));
	E(syscall(SYS_sched_rr_get_interval, 99999, &t));
	E(syscall(SYS_sched_rr_get_interval, 0, (void *)8));
	setuid(1000);
	s.sched_priority = 1;
	E(syscall(SYS_sched_setscheduler, 0, SCHED_RR, &s));
	s.sched_priority = 0;
	E(syscall(SYS_sched_setscheduler, 0, SCHED_IDLE, &s));
}

CASE(affinity_table)
{
	unsigned long mask[32] = {0};
	E(syscall(SYS_sched_getaffinity, 0, 1, mask));
	E(syscall(SYS_sched_getaffinity, 0, 7, mask));
	E(syscall(SYS_sched_getaffinity, 0, 12, mask));
	E(syscall(SYS_sched_getaffinity, 0, 0, mask));
	E(syscall(SYS_sched_getaffinity, 0, sizeof mask, (void *)8));
	E(syscall(SYS_sched_getaffinity, 99999, sizeof mask, mask));
	E(syscall(SYS_sched_getaffinity, -1, sizeof mask, mask));
	unsigned long all = 0, none[2] = {0}, one = 1, high = 1UL << 63;
	syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	all = mask[0];
	E(syscall(SYS_sched_setaffinity, 0, 8, none));
	E(syscall(SYS_sched_setaffinity, 0, 0, none));
	E(syscall(SYS_sched_setaffinity, 0, 8, &high));
	E(syscall(SYS_sched_setaffinity, 0, 8, (void *)8));
	E(syscall(SYS_sched_setaffinity, 99999, 8, &one));
	E(syscall(SYS_sched_setaffinity, 0, 1, &one));
	memset(mask, 0, sizeof mask);
	syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	say("%lx", mask[0]);
	CHILD {
		memset(mask, 0, sizeof mask);
		syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
		say("%lx", mask[0]);
	}
	one = -1UL;
	E(syscall(SYS_sched_setaffinity, 0, 8, &one));
	syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	say("%d", mask[0] == all);
	unsigned cpu = 99, node = 99;
	E(syscall(SYS_getcpu, &cpu, &node, NULL));
	say("%d %d", cpu < 1024, node);
	E(syscall(SYS_getcpu, NULL, NULL, NULL));
	E(syscall(SYS_getcpu, (void *)8, NULL, NULL));
}

CASE(priority_table)
{
	static int whiches[] = {PRIO_PROCESS, PRIO_PGRP, 3, -1}, whos[] = {0, 99999, -1};
	EACH(w, whiches)
		EACH(o, whos) {
			ROW(syscall(SYS_getpriority, whiches[w], whos[o]), "get %d %d", whiches[w], whos[o]);
			ROW(syscall(SYS_setpriority, whiches[w], whos[o], 0), "set %d %d", whiches[w], whos[o]);
		}
	setpgid(0, 0);
	static int values[] = {-100, -20, -1, 0, 19, 100};
	EACH(v, values) {
		ROW(setpriority(PRIO_PGRP, 0, values[v]), "to %d", values[v]);
		ROW(syscall(SYS_getpriority, PRIO_PROCESS, 0), "is");
	}
	E(nice(-5));
	E(nice(100));
	setuid(1000);
	E(nice(0));
	E(nice(-1));
	E(setpriority(PRIO_PROCESS, 1, 19));
}

static void ids(const char *what)
{
	uid_t r, e, s;
	gid_t a, b, c;
	getresuid(&r, &e, &s), getresgid(&a, &b, &c);
	say("%s: %d %d %d, %d %d %d", what, r, e, s, a, b, c);
}

CASE(id_table)
{
	static int triples[][3] = {{-1, -1, -1}, {1, -1, -1}, {-1, 1, -1}, {-1, -1, 1}, {1, 2, 3}, {3, 2, 1}, {2, 2, 2}, {0, 0, 0}, {4, 4, 4}};
	EACH(start, triples)
		EACH(t, triples)
			CHILD {
				setresgid(triples[start][0], triples[start][1], triples[start][2]), setresuid(triples[start][0], triples[start][1], triples[start][2]);
				ROW(setresuid(triples[t][0], triples[t][1], triples[t][2]), "%d: setresuid %d %d %d", start, triples[t][0], triples[t][1], triples[t][2]);
				ROW(setreuid(triples[t][1], triples[t][0]), "setreuid");
				ROW(setuid(triples[t][2]), "setuid");
				ROW(setresgid(triples[t][0], triples[t][1], triples[t][2]), "setresgid");
				ROW(setregid(triples[t][1], triples[t][0]), "setregid");
				ROW(setgid(triples[t][2]), "setgid");
				ids("now");
			}
}

CASE(group_table)
{
	gid_t g[8] = {5, 3, 3, 9}, got[8];
	E(setgroups(4, g));
	E(getgroups(0, NULL));
	E(getgroups(3, got));
	E(getgroups(8, got));
	say("%d %d %d %d", got[0], got[1], got[2], got[3]);
	E(getgroups(-1, got));
	E(getgroups(8, (gid_t *)8));
	E(syscall(SYS_setgroups, 65537, g));
	E(syscall(SYS_setgroups, -1, g));
	E(syscall(SYS_setgroups, 1, 8));
	E(syscall(SYS_setgroups, 0, NULL));
	E(getgroups(8, got));
	g[0] = -1;
	E(syscall(SYS_setgroups, 1, g));
	setuid(1);
	E(syscall(SYS_setgroups, 0, NULL));
	E(setpgid(0, 99999));
	E(setpgid(-1, 0));
	E(setpgid(0, -1));
	E(setpgid(99999, 0));
	E(getpgid(99999));
	E(getsid(99999));
	E(getpgid(-1));
	CHILD {
		E(setsid() > 0);
		E(setsid());
		E(setpgid(0, 0));
	}
}

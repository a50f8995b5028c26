#include "corpus.h"
#include <linux/sched.h>

CASE(waits)
{
	int s;
	siginfo_t i;
	struct rusage r;
	E(wait(&s));
	E(waitpid(-1, &s, WNOHANG));
	E(waitpid(getpid(), &s, 0));
	E(waitpid(-1, &s, 0x100));
	E(waitid(P_ALL, 0, &i, 0));
	E(waitid(9, 0, &i, WEXITED));
	int p[2];
	pipe(p);
	if (!(child_pid = fork())) {
		char c;
		close(p[1]);
		read(p[0], &c, 1);
		_exit(300);
	}
	E(waitpid(child_pid, &s, WNOHANG));
	memset(&i, 7, sizeof i);
	E(waitid(P_PID, child_pid, &i, WEXITED | WNOHANG));
	say("signo %d pid %d", i.si_signo, i.si_pid);
	close(p[1]);
	E(waitid(P_PID, child_pid, &i, WEXITED | WNOWAIT));
	say("code %d status %d", i.si_code, i.si_status);
	say("%s", state_of(child_pid));
	E(wait4(child_pid, &s, 0, &r) == child_pid);
	status("child", s);
	E(kill(child_pid, 0));
	pid_t group = fork();
	if (!group)
		setpgid(0, 0), _exit(1);
	setpgid(group, group);
	pid_t other = fork();
	if (!other)
		_exit(2);
	E(waitpid(-group, &s, 0) == group);
	E(waitpid(0, &s, 0) == other);
	E(waitpid(-12345, &s, 0));
	if (!fork())
		kill(getpid(), SIGKILL);
	E(waitid(P_ALL, 0, &i, WEXITED));
	say("code %d status %d", i.si_code, i.si_status);
	for (int k = 0; k < 50; k++)
		if (!fork())
			_exit(k);
	int sum = 0, count = 0;
	while (wait(&s) > 0)
		sum += WEXITSTATUS(s), count++;
	say("%d children, %d", count, sum);
}

CASE(orphans)
{
	int p[2];
	pipe(p);
	E(prctl(PR_SET_CHILD_SUBREAPER, 1));
	if (!(child_pid = fork())) {
		if (!fork()) {
			char c;
			close(p[1]);
			read(p[0], &c, 1);
			_exit(42);
		}
		_exit(1);
	}
	int s;
	E(waitpid(child_pid, &s, 0) == child_pid);
	status("child", s);
	close(p[1]);
	E(wait(&s) > 0);
	status("adopted grandchild", s);
	E(wait(&s));
	int on;
	E(prctl(PR_GET_CHILD_SUBREAPER, &on));
	say("%d", on);
	// A session's leader that dies hangs up on nobody without a terminal.
	pipe(p);
	if (!(child_pid = fork())) {
		close(p[0]);
		E(setsid() == getpid());
		E(setsid());
		if (!fork()) {
			until_state(getsid(0), 'Z');
			say("group kept %d", getpgrp() == getsid(0));
			_exit(0);
		}
		_exit(0);
	}
	close(p[1]);
	char c;
	read(p[0], &c, 1); // until the grandchild is gone
	while (wait(&s) > 0)
		;
}

CASE(groups_and_sessions)
{
	int p[2];
	pipe(p);
	say("%d", getpgrp() == getpgid(0) && getsid(0) == getsid(getpid()));
	E(getpgid(0x7ffffff));
	E(getsid(0x7ffffff));
	E(setpgid(0x7ffffff, 0));
	E(setpgid(0, -1));
	E(setpgid(0, 0x7ffffff));
	E(setpgid(getppid(), 0));
	E(setpgid(0, 0));
	E(setsid());
	if (!(child_pid = fork())) {
		char c;
		close(p[1]);
		read(p[0], &c, 1);
		E(setsid() == getpid());
		E(setpgid(0, 0));
		E(setpgid(0, getppid()));
		execl("/bin/true", "true", NULL);
	}
	E(setpgid(child_pid, child_pid));
	E(getpgid(child_pid) == child_pid);
	E(setpgid(child_pid, getpid()));
	close(p[1]);
	int s;
	wait(&s);
	pipe(p);
	if (!(child_pid = fork()))
		execl("/bin/sh", "sh", "-c", "echo x >&$0; exec sleep 10", "1", NULL);
	nap(0);
	until_state(child_pid, 'S');
	for (;;) { // until the exec was made
		char name[64];
		snprintf(name, sizeof name, "/proc/%d/comm", child_pid);
		char text[16] = "";
		int fd = open(name, O_RDONLY);
		read(fd, text, 15), close(fd);
		if (!strcmp(text, "sleep\n"))
			break;
		nap(1);
	}
	E(setpgid(child_pid, 0));
	kill(child_pid, SIGKILL);
	wait(&s);
	status("child", s);
}

static int value;
static int cloned(void *how)
{
	value = 7;
	close(50);
	if (chdir("/"))
		return 1;
	return 9;
}

CASE(clone_flags)
{
	static char stack[1 << 16] __attribute__((aligned(16)));
	int s, parent = 0, child = 0;
	struct { const char *name; int flags; } rows[] = {
		{"nothing", 0}, {"VM", CLONE_VM}, {"FILES", CLONE_FILES}, {"FS", CLONE_FS}, {"VFORK", CLONE_VFORK | CLONE_VM},
		{"all", CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND},
	};
	char before[200], after[200];
	for (int i = 0; i < 6; i++) {
		chdir("/tmp");
		dup2(0, 50);
		value = 0;
		pid_t pid = clone(cloned, stack + sizeof stack, rows[i].flags | SIGCHLD, NULL);
		waitpid(pid, &s, 0);
		getcwd(after, sizeof after);
		say("%s: exit %d, memory %d, descriptor %s, directory %s", rows[i].name, WEXITSTATUS(s), value, fcntl(50, F_GETFD) < 0 ? "closed" : "open", after);
	}
	E(clone(cloned, stack + sizeof stack, CLONE_SIGHAND | SIGCHLD, NULL));
	E(clone(cloned, stack + sizeof stack, CLONE_THREAD | SIGCHLD, NULL));
	E(clone(cloned, stack + sizeof stack, CLONE_FS | CLONE_NEWNS | SIGCHLD, NULL));
	pid_t pid = clone(cloned, stack + sizeof stack, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_VM | CLONE_CHILD_CLEARTID | SIGCHLD, NULL, &parent, NULL, &child);
	waitpid(pid, &s, 0);
	say("parent tid %d, child tid cleared %d", parent == pid, child == 0);
	pid = clone(cloned, stack + sizeof stack, 0, NULL); // no exit signal: only __WCLONE sees it
	E(waitpid(pid, &s, 0));
	E(waitpid(pid, &s, __WCLONE) == pid);
	pid = clone(cloned, stack + sizeof stack, 0, NULL);
	E(waitpid(pid, &s, __WALL) == pid);
	if (!(child_pid = fork())) {
		pid = clone(cloned, stack + sizeof stack, CLONE_PARENT | SIGCHLD, NULL);
		E(waitpid(pid, &s, 0));
		_exit(0);
	}
	wait(NULL), wait(NULL);
	struct clone_args a = {.exit_signal = SIGCHLD};
	pid = syscall(SYS_clone3, &a, sizeof a);
	if (!pid)
		_exit(4);
	waitpid(pid, &s, 0);
	status("clone3", s);
	int pidfd = -1;
	a.flags = CLONE_PIDFD, a.pidfd = (uint64_t)&pidfd;
	pid = syscall(SYS_clone3, &a, sizeof a);
	if (!pid)
		_exit(5);
	siginfo_t i;
	E(waitid(3, pidfd, &i, WEXITED));
	say("%d", i.si_status);
	a.flags = CLONE_DETACHED, E(syscall(SYS_clone3, &a, sizeof a));
	a.flags = 0, a.exit_signal = 100, E(syscall(SYS_clone3, &a, sizeof a));
	E(syscall(SYS_clone3, &a, 8));
	E(syscall(SYS_clone3, &a, 5000));
	pid = vfork();
	if (!pid)
		value = 77, _exit(6);
	waitpid(pid, &s, 0);
	status("vfork", s);
	say("%d", value);
}

static void script(const char *name, const char *text)
{
	put(name, text);
	chmod(name, 0755);
}

CASE(exec_errors)
{
	char *a[] = {"name", "one", "", NULL}, *e[] = {"A=1", NULL};
	E(execve("none", a, e));
	put("plain", "text");
	E(execve("plain", a, e));
	chmod("plain", 0755);
	E(execve("plain", a, e));
	put("empty", ""), chmod("empty", 0755);
	E(execve("empty", a, e));
	E(execve("/tmp", a, e));
	E(execve("plain/x", a, e));
	E(execve("", a, e));
	script("missing", "#!/no/such/interpreter\n");
	E(execve("./missing", a, e));
	script("blank", "#!\n");
	E(execve("./blank", a, e));
	script("loop", "#!./loop\n");
	E(execve("./loop", a, e));
	script("dir", "#!/tmp\n");
	E(execve("./dir", a, e));
	put("elf", "\x7f" "ELF\2\1\1"), chmod("elf", 0755);
	E(execve("./elf", a, e));
	int fd = open("elf", O_WRONLY);
	script("arguments", "#!/bin/echo  first   second \nignored");
	E(execve("arguments", a, e) + 1 == 0 ? 0 : 0);
}

CASE(exec_scripts)
{
	script("arguments", "#!/bin/echo  first   second \nignored");
	CHILD { execl("./arguments", "zero", "a", "b c", NULL); }
	script("shell", "#!/bin/sh\necho $0 $# \"$1\" $A; exit 5");
	CHILD { execle("./shell", "zero", "x  y", NULL, (char *[]){"A=env", NULL}); }
	script("nested", "#!./shell arg\n");
	CHILD { execl("./nested", "zero", "last", NULL); }
	int fd = open("shell", O_RDONLY);
	CHILD { fexecve(fd, (char *[]){"zero", "f", NULL}, (char *[]){"A=fd", NULL}); }
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	CHILD { E(fexecve(fd, (char *[]){"zero", NULL}, (char *[]){NULL})); }
	CHILD { syscall(SYS_execveat, AT_FDCWD, "shell", (char *[]){"zero", "at", NULL}, (char *[]){NULL}, 0); }
	CHILD { E(syscall(SYS_execveat, AT_FDCWD, "shell", NULL, NULL, 0x8000)); }
	symlink("shell", "link");
	CHILD { E(syscall(SYS_execveat, AT_FDCWD, "link", (char *[]){"zero", NULL}, NULL, AT_SYMLINK_NOFOLLOW)); }
	char big[200000];
	memset(big, 'x', sizeof big), big[sizeof big - 1] = 0;
	CHILD { E(execl("/bin/true", "true", big, NULL)); }
	big[100000] = 0;
	CHILD { execl("/bin/sh", "sh", "-c", "echo ${#1}", "sh", big, NULL); }
	CHILD {
		static char *many[10001];
		for (int i = 0; i < 10000; i++)
			many[i] = "argument";
		many[0] = "sh", many[1] = "-c", many[2] = "echo $#";
		execve("/bin/sh", many, NULL);
	}
	CHILD {
		prctl(PR_SET_NAME, "renamed");
		execl("/bin/cat", "another name", "/proc/self/comm", NULL);
	}
	CHILD { execle("/bin/sh", "sh", "-c", "tr '\\0' ' ' </proc/$$/cmdline; echo; tr '\\0' ' ' </proc/$$/environ", NULL, (char *[]){"A=1", "B=two words", NULL}); }
	CHILD {
		int kept = open("shell", O_RDONLY), gone = open("shell", O_RDONLY | O_CLOEXEC);
		char command[100];
		dup2(kept, 60), dup2(gone, 61), fcntl(61, F_SETFD, FD_CLOEXEC);
		execl("/bin/sh", "sh", "-c", "for i in 60 61; do [ -e /proc/self/fd/$i ] && echo $i; done", NULL);
	}
}

static void *lives(void *x)
{
	for (;;)
		pause();
}
static void *executes(void *x)
{
	execl("/bin/sh", "sh", "-c", "echo in the new program; [ $$ = $0 ] && echo same pid; ls /proc/self/task | wc -l", x, NULL);
	return NULL;
}

CASE(exec_and_threads)
{
	static char pid[20];
	CHILD {
		pthread_t t;
		for (int i = 0; i < 5; i++)
			pthread_create(&t, NULL, lives, NULL);
		snprintf(pid, sizeof pid, "%d", getpid());
		pthread_create(&t, NULL, executes, pid);
		pause();
	}
	CHILD {
		sigset_t m;
		sigemptyset(&m), sigaddset(&m, SIGUSR1);
		sigprocmask(SIG_BLOCK, &m, NULL);
		raise(SIGUSR1);
		execl("/bin/grep", "grep", "-E", "Sig(Pnd|Blk|Ign|Cgt)|ShdPnd", "/proc/self/status", NULL);
	}
}

CASE(limits_and_priority)
{
	struct rusage r;
	struct tms t;
	E(getpriority(PRIO_PROCESS, 0));
	E(setpriority(PRIO_PROCESS, 0, 5));
	E(getpriority(PRIO_PROCESS, 0));
	E(setpriority(PRIO_PROCESS, 0, 100));
	E(getpriority(PRIO_PROCESS, 0));
	E(getpriority(9, 0));
	E(getpriority(PRIO_PROCESS, 0x7ffffff));
	E(nice(-3));
	E(sched_getscheduler(0));
	E(sched_get_priority_max(SCHED_FIFO));
	E(sched_get_priority_min(SCHED_RR));
	E(sched_get_priority_max(99));
	E(sched_yield());
	struct sched_param p = {0};
	E(sched_getparam(0, &p));
	say("%d", p.sched_priority);
	E(sched_setscheduler(0, SCHED_BATCH, &p));
	E(sched_getscheduler(0));
	E(sched_setscheduler(0, 77, &p));
	cpu_set_t set;
	E(sched_getaffinity(0, sizeof set, &set) == 0);
	say("cpus agree %d", CPU_COUNT(&set) == sysconf(_SC_NPROCESSORS_ONLN));
	CPU_ZERO(&set);
	E(sched_setaffinity(0, sizeof set, &set));
	CPU_SET(0, &set);
	E(sched_setaffinity(0, sizeof set, &set));
	E(syscall(SYS_sched_getaffinity, 0, 1, &set));
	E(sched_getaffinity(-1, sizeof set, &set));
	E(syscall(SYS_sched_getaffinity, -1, 1, &set));
	E(sched_setaffinity(-1, sizeof set, &set));
	E(sched_setaffinity(-1, sizeof set, (void *)8));
	E(sched_getscheduler(-1));
	E(sched_getparam(-1, &p));
	E(sched_setparam(-1, &p));
	E(sched_setparam(0x7ffffff, NULL));
	E(sched_setparam(0x7ffffff, (void *)8));
	E(sched_setscheduler(0x7ffffff, -1, &p));
	E(sched_rr_get_interval(-1, NULL));
	E(syscall(SYS_migrate_pages, -1, 0, NULL, NULL));
	E(syscall(SYS_move_pages, -1, 0L, NULL, NULL, NULL, 0));
	unsigned cpu, node;
	E(syscall(SYS_getcpu, &cpu, &node, NULL));
	say("on cpu %u", cpu);
	E(getrusage(RUSAGE_SELF, &r));
	E(getrusage(77, &r));
	volatile long x = 0;
	for (long i = 0; i < 50000000; i++)
		x += i;
	getrusage(RUSAGE_SELF, &r);
	say("time was used %d, memory %d", r.ru_utime.tv_sec * 1000000 + r.ru_utime.tv_usec > 5000, r.ru_maxrss > 100);
	CHILD {
		struct rlimit l = {1, 2};
		setrlimit(RLIMIT_CPU, &l);
		for (;;)
			x++;
	}
	CHILD { // the limit goes on to a child
		struct rlimit l = {100, 200};
		setrlimit(RLIMIT_CPU, &l);
		CHILD {
			getrlimit(RLIMIT_CPU, &l);
			say("inherited %ld %ld", (long)l.rlim_cur, (long)l.rlim_max);
		}
	}
	// Ticks ended it, and on a busy host it ran for only part of each.
	getrusage(RUSAGE_CHILDREN, &r);
	say("child's time %d", (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000000L + r.ru_utime.tv_usec + r.ru_stime.tv_usec > 100000);
	times(&t);
	say("times agree %d", t.tms_cutime + t.tms_cstime >= 10);
	struct rlimit l;
	for (int i = 0; i < 16; i++)
		if (getrlimit(i, &l))
			say("%d: %s", i, errname(errno));
	CHILD {
		setresuid(54321, 54321, 54321);
		struct rlimit none = {1, 1};
		setrlimit(RLIMIT_NPROC, &none);
		pid_t pid = fork();
		if (!pid)
			_exit(0);
		say("fork at the limit: %s", pid < 0 ? errname(errno) : "ok");
	}
	E(personality(0xffffffff));
	struct utsname u;
	uname(&u);
	say("%s %s release>4 %d", u.sysname, u.machine, atoi(u.release) > 4);
	E(getrandom(&x, 8, 0));
	E(getrandom(&x, 8, 99));
	E(syscall(9999));
	E(syscall(SYS_uselib, "x"));
}

// The end of a child whose parent is in the same job leaves no job orphaned that was not.
CASE(stopped_sibling)
{
	setsid();
	pid_t stopped = fork();
	if (!stopped) {
		raise(SIGSTOP);
		_exit(5);
	}
	int s;
	waitpid(stopped, &s, WUNTRACED);
	status("sibling", s);
	CHILD {}
	say("state %s", state_of(stopped));
	kill(stopped, SIGCONT);
	waitpid(stopped, &s, 0);
	status("sibling", s);
}

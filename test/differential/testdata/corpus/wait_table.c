// Epoll, timers, counters and children: what each call answers in each state.
#include "corpus.h"
#include <sys/ptrace.h>

static void drain(int e, const char *what)
{
	struct epoll_event got[8];
	int n = epoll_wait(e, got, 8, 0);
	char line[200] = "";
	for (int i = 0; i < n; i++)
		sprintf(line + strlen(line), " %d:%x", (int)got[i].data.u64, got[i].events);
	say("%s: %d%s", what, n, line);
}

CASE(epoll_edges)
{
	static struct named modes[] = {N(0), N(EPOLLET), N(EPOLLONESHOT), N(EPOLLET | EPOLLONESHOT), N(EPOLLEXCLUSIVE), N(EPOLLEXCLUSIVE | EPOLLET)};
	EACH(m, modes) {
		int e = epoll_create1(0), p[2], s[2];
		char b[8];
		pipe(p), socketpair(AF_UNIX, SOCK_STREAM, 0, s);
		say("%s", modes[m].name);
		struct epoll_event ev = {EPOLLIN | modes[m].value, {.u64 = 1}}, so = {EPOLLIN | EPOLLOUT | modes[m].value, {.u64 = 2}};
		E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
		E(epoll_ctl(e, EPOLL_CTL_ADD, s[0], &so));
		drain(e, "new"), drain(e, "again");
		write(p[1], "ab", 2), drain(e, "written"), drain(e, "again");
		write(p[1], "cd", 2), drain(e, "more"), drain(e, "again");
		read(p[0], b, 1), drain(e, "read some"), drain(e, "again");
		write(s[1], "x", 1), drain(e, "to the socket"), drain(e, "again");
		read(s[0], b, 8), drain(e, "read all"), drain(e, "again");
		E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
		drain(e, "modified"), drain(e, "again");
		close(p[1]), drain(e, "hung up"), drain(e, "again");
		shutdown(s[1], SHUT_WR), drain(e, "half closed"), drain(e, "again");
		close(s[1]), drain(e, "closed"), drain(e, "again");
		close(e), close(p[0]), close(s[0]);
	}
}

CASE(epoll_errors)
{
	int e = epoll_create1(0), p[2], other = epoll_create1(0);
	pipe(p);
	put("f", "");
	struct epoll_event ev = {EPOLLIN}, got[2];
	E(epoll_create1(1));
	E(epoll_create(0));
	E(epoll_create(-1));
	E(epoll_ctl(e, EPOLL_CTL_ADD, e, &ev));
	E(epoll_ctl(p[0], EPOLL_CTL_ADD, p[1], &ev));
	E(epoll_ctl(99, EPOLL_CTL_ADD, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, 99, &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, open("f", O_RDONLY), &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, open(".", O_RDONLY), &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, open("/dev/null", O_RDWR), &ev));
	E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_DEL, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], NULL));
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, dup(p[0]), &ev));
	E(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
	E(epoll_ctl(e, 9, p[0], &ev));
	ev.events = EPOLLEXCLUSIVE | EPOLLONESHOT;
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
	ev.events = EPOLLEXCLUSIVE | EPOLLIN;
	E(epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
	ev.events = EPOLLIN;
	E(epoll_ctl(e, EPOLL_CTL_MOD, p[0], &ev));
	E(epoll_ctl(e, EPOLL_CTL_ADD, other, &ev));
	E(epoll_ctl(other, EPOLL_CTL_ADD, e, &ev));
	int chain[7];
	for (int i = 0; i < 7; i++) {
		chain[i] = epoll_create1(0);
		if (i)
			ROW(epoll_ctl(chain[i], EPOLL_CTL_ADD, chain[i - 1], &ev), "depth %d", i);
	}
	E(epoll_wait(e, got, 0, 0));
	E(epoll_wait(e, got, -1, 0));
	E(epoll_wait(e, got, 1 << 28, 0));
	E(epoll_wait(p[0], got, 1, 0));
	E(epoll_wait(99, got, 1, 0));
	write(p[1], "x", 1);
	E(epoll_wait(e, (void *)8, 1, 0));
	E(epoll_wait(e, got, 1, -5));
	struct timespec t = {0, 1000000000}, none = {0};
	E(syscall(SYS_epoll_pwait2, e, got, 1, &t, NULL, 0));
	t.tv_nsec = -1;
	E(syscall(SYS_epoll_pwait2, e, got, 1, &t, NULL, 0));
	E(syscall(SYS_epoll_pwait2, e, got, 1, &none, (void *)8, 8));
	sigset_t set;
	sigemptyset(&set);
	E(syscall(SYS_epoll_pwait2, e, got, 1, &none, &set, 7));
	E(syscall(SYS_epoll_pwait2, e, got, 1, &none, &set, 8));
	E(read(e, got, 1));
	E(write(e, got, 1));
}

CASE(epoll_closing)
{
	int e = epoll_create1(0), p[2], d;
	pipe(p);
	struct epoll_event ev = {EPOLLIN, {.u64 = 7}};
	epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev);
	write(p[1], "x", 1);
	d = dup(p[0]);
	close(p[0]);
	drain(e, "a dup is left"); // the description lives on, and cannot be named any more
	E(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
	dup2(d, p[0]);
	E(epoll_ctl(e, EPOLL_CTL_DEL, p[0], NULL));
	epoll_ctl(e, EPOLL_CTL_ADD, d, &ev);
	close(d), close(p[0]);
	drain(e, "all closed");
	pipe(p);
	epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev);
	CHILD {
		close(p[0]);
		write(p[1], "x", 1);
	}
	drain(e, "a child closed its own");
	int q[2];
	pipe(q);
	ev.data.u64 = 8;
	epoll_ctl(e, EPOLL_CTL_ADD, q[1], &ev);
	close(q[0]);
	drain(e, "error without being asked for");
	int n = epoll_create1(0);
	ev.data.u64 = 9;
	E(epoll_ctl(n, EPOLL_CTL_ADD, e, &ev));
	drain(n, "nested");
	struct pollfd pf = {e, POLLIN};
	E(poll(&pf, 1, 0));
}

CASE(epoll_fairness)
{
	int e = epoll_create1(0), p[4][2];
	struct epoll_event got[4];
	for (int i = 0; i < 4; i++) {
		pipe(p[i]);
		struct epoll_event ev = {EPOLLIN, {.u64 = i}};
		epoll_ctl(e, EPOLL_CTL_ADD, p[i][0], &ev);
		write(p[i][1], "x", 1);
	}
	for (int i = 0; i < 6; i++) { // two at a time: all have their turn
		int n = epoll_wait(e, got, 2, 0);
		say("%d: %d %d", n, (int)got[0].data.u64, (int)got[1].data.u64);
	}
}

CASE(timerfd_table)
{
	static int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE, CLOCK_BOOTTIME, CLOCK_TAI, -1, 99};
	EACH(c, clocks) {
		int fd = timerfd_create(clocks[c], TFD_NONBLOCK);
		say("clock %d: %s", clocks[c], fd < 0 ? errname(errno) : "ok");
		close(fd);
	}
	E(timerfd_create(CLOCK_MONOTONIC, 1));
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), p[2];
	pipe(p);
	uint64_t n;
	struct itimerspec t = {{0, 0}, {0, 1000000000}}, old;
	E(timerfd_settime(fd, 0, &t, NULL));
	t.it_value.tv_nsec = -1;
	E(timerfd_settime(fd, 0, &t, NULL));
	t.it_value = (struct timespec){-1, 0};
	E(timerfd_settime(fd, 0, &t, NULL));
	t = (struct itimerspec){{0, -1}, {1, 0}};
	E(timerfd_settime(fd, 0, &t, NULL));
	t = (struct itimerspec){{7, 0}, {1000, 0}};
	E(timerfd_settime(fd, 4, &t, NULL));
	E(timerfd_settime(p[0], 0, &t, NULL));
	E(timerfd_settime(99, 0, &t, NULL));
	E(timerfd_settime(fd, 0, NULL, NULL));
	E(timerfd_settime(fd, 0, (void *)8, NULL));
	E(read(fd, &n, 8));
	E(timerfd_settime(fd, 0, &t, &old));
	say("%ld %ld", old.it_value.tv_sec, old.it_interval.tv_sec);
	E(timerfd_gettime(fd, &old));
	say("%d %ld", old.it_value.tv_sec >= 990, old.it_interval.tv_sec);
	E(timerfd_gettime(fd, (void *)8));
	E(timerfd_gettime(p[0], &old));
	E(read(fd, &n, 8));
	E(read(fd, &n, 7));
	E(write(fd, &n, 8));
	t = (struct itimerspec){{0, 0}, {0, 1}};
	E(timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL));
	struct pollfd pf = {fd, POLLIN};
	E(poll(&pf, 1, -1));
	E(read(fd, &n, 8));
	say("%ld", n);
	E(read(fd, &n, 8));
	E(timerfd_gettime(fd, &old));
	say("%ld.%ld", old.it_value.tv_sec, old.it_value.tv_nsec);
	t = (struct itimerspec){{1000, 0}, {0, 1}};
	E(timerfd_settime(fd, TFD_TIMER_ABSTIME, &t, NULL)); // long ago: how often depends on the clock
	fd = timerfd_create(CLOCK_REALTIME, 0);
	t = (struct itimerspec){{0, 0}, {1, 0}};
	E(timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &t, NULL));
	E(read(fd, &n, 8));
	say("%ld", n);
	E(lseek(fd, 0, SEEK_SET));
	E(pread(fd, &n, 8, 0));
}

CASE(eventfd_table)
{
	E(syscall(SYS_eventfd2, 0, 2));
	E(syscall(SYS_eventfd2, 0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC) >= 0);
	int fd = eventfd(3, EFD_NONBLOCK), sem = eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE);
	uint64_t n = 5, all = -1ULL, most = -2ULL;
	struct pollfd p[2] = {{fd, POLLIN | POLLOUT}, {sem, POLLIN | POLLOUT}};
	E(poll(p, 2, 0));
	say("%x %x", p[0].revents, p[1].revents);
	E(read(fd, &n, 7));
	E(read(fd, &n, 9));
	say("%ld", n);
	E(read(fd, &n, 8));
	for (int i = 0; i < 4; i++) {
		n = 0;
		ROW(read(sem, &n, 8), "semaphore");
		say("%ld", n);
	}
	E(write(fd, &n, 7));
	E(write(fd, &all, 8));
	E(write(fd, &most, 8));
	E(poll(p, 1, 0));
	say("%x", p[0].revents);
	n = 1;
	E(write(fd, &n, 8));
	n = 0;
	E(write(fd, &n, 8));
	E(read(fd, &n, 8));
	say("%lx", n);
	E(write(fd, (void *)8, 8));
	E(pread(fd, &n, 8, 0));
	E(lseek(fd, 0, SEEK_SET));
	E(ftruncate(fd, 0));
}

CASE(signalfd_table)
{
	sigset_t set;
	struct signalfd_siginfo i[3];
	sigfillset(&set);
	sigprocmask(SIG_SETMASK, &set, NULL);
	E(syscall(SYS_signalfd4, -1, &set, 7, 0));
	E(syscall(SYS_signalfd4, -1, &set, 8, 1));
	E(syscall(SYS_signalfd4, 0, &set, 8, 0));
	E(syscall(SYS_signalfd4, 99, &set, 8, 0));
	E(syscall(SYS_signalfd4, -1, (void *)8, 8, 0));
	int fd = signalfd(-1, &set, SFD_NONBLOCK);
	E(read(fd, i, sizeof *i));
	E(read(fd, i, 127));
	kill(getpid(), SIGUSR2), kill(getpid(), SIGUSR1), kill(getpid(), SIGUSR1);
	sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 42}), sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 43});
	struct pollfd p = {fd, POLLIN};
	E(poll(&p, 1, 0));
	E(read(fd, i, sizeof i));
	for (int k = 0; k < 3; k++)
		say("%d code %d value %d", i[k].ssi_signo, i[k].ssi_code, i[k].ssi_int);
	E(read(fd, i, sizeof i + 100));
	say("%d code %d value %d", i[0].ssi_signo, i[0].ssi_code, i[0].ssi_int);
	raise(SIGHUP);
	sigemptyset(&set), sigaddset(&set, SIGINT);
	E(syscall(SYS_signalfd4, fd, &set, 8, 0) == fd);
	E(read(fd, i, sizeof *i));
	raise(SIGINT);
	E(read(fd, i, sizeof *i));
	sigpending(&set);
	say("%d", sigismember(&set, SIGHUP));
	E(write(fd, i, 8));
	sigemptyset(&set), sigaddset(&set, SIGCHLD);
	fd = signalfd(-1, &set, 0);
	if (!(child_pid = fork()))
		_exit(5);
	E(read(fd, i, sizeof *i));
	say("%d code %d pid %d status %d", i[0].ssi_signo, i[0].ssi_code, i[0].ssi_pid == child_pid, i[0].ssi_status);
}

CASE(waitid_table)
{
	siginfo_t i;
	static struct named options[] = {N(0), N(WNOHANG), N(WEXITED), N(WSTOPPED), N(WCONTINUED), N(WNOWAIT), N(WEXITED | WNOHANG), N(WEXITED | WNOHANG | WNOWAIT), N(WEXITED | 0x10), N(WEXITED | WNOHANG | __WALL), N(WEXITED | WNOHANG | __WCLONE), N(WEXITED | WNOHANG | __WNOTHREAD)};
	static struct named types[] = {N(P_ALL), N(P_PID), N(P_PGID), N(3), N(4), N(-1)};
	EACH(o, options) // no child at all
		EACH(t, types)
			ROW(syscall(SYS_waitid, types[t].value, types[t].value == 3 ? 99 : 1, &i, options[o].value, NULL), "%s %s", types[t].name, options[o].name);
	E(syscall(SYS_waitid, P_PID, 0, &i, WEXITED, NULL));
	E(syscall(SYS_waitid, P_PID, -1, &i, WEXITED, NULL));
	E(syscall(SYS_waitid, P_PGID, -1, &i, WEXITED, NULL));
	E(syscall(SYS_waitid, 3, -1, &i, WEXITED, NULL));
	E(syscall(SYS_waitid, 3, 0, &i, WEXITED, NULL));
	if (!(child_pid = fork())) {
		raise(SIGSTOP);
		pause();
	}
	E(syscall(SYS_waitid, P_ALL, 0, &i, WSTOPPED | WNOWAIT, NULL));
	say("%d %d %d %d", i.si_signo, i.si_code, i.si_status, i.si_pid == child_pid);
	E(syscall(SYS_waitid, P_PID, child_pid, &i, WEXITED | WNOHANG, NULL));
	say("%d %d", i.si_signo, i.si_pid);
	E(syscall(SYS_waitid, P_PGID, 0, &i, WSTOPPED, NULL));
	memset(&i, 0, sizeof i);
	E(syscall(SYS_waitid, P_ALL, 0, &i, WSTOPPED | WNOHANG, NULL));
	say("%d", i.si_pid);
	kill(child_pid, SIGCONT);
	E(syscall(SYS_waitid, P_ALL, 0, &i, WCONTINUED, NULL));
	say("%d %d", i.si_code, i.si_status);
	kill(child_pid, SIGTERM);
	struct rusage r;
	E(syscall(SYS_waitid, P_ALL, 0, &i, WEXITED | WNOWAIT, &r));
	say("%d %d", i.si_code, i.si_status);
	E(syscall(SYS_waitid, P_ALL, 0, NULL, WEXITED, (void *)8));
}

CASE(wait4_table)
{
	int s;
	static int pids[] = {-1, 0, 1, -99999, INT_MIN, 99999};
	static struct named options[] = {N(0), N(WNOHANG), N(WUNTRACED), N(WCONTINUED), N(__WALL), N(__WCLONE), N(WEXITED), N(WNOWAIT), N(0x100)};
	EACH(o, options)
		EACH(p, pids)
			ROW(syscall(SYS_wait4, pids[p], &s, options[o].value, NULL), "%d %s", pids[p], options[o].name);
	if (!(child_pid = fork()))
		_exit(300);
	OK(syscall(SYS_wait4, -1, (void *)8, 0, NULL)); // EFAULT, and the child is gone all the same
	E(syscall(SYS_wait4, child_pid, &s, 0, NULL));
	if (!(child_pid = fork()))
		abort();
	struct rusage r;
	E(syscall(SYS_wait4, 0, &s, 0, &r) == child_pid);
	say("%x", s & ~0x80);
	E(r.ru_maxrss > 0);
	signal(SIGCHLD, SIG_IGN);
	if (!fork())
		_exit(1);
	E(syscall(SYS_wait4, -1, &s, 0, NULL));
	signal(SIGCHLD, SIG_DFL);
	struct sigaction a = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
	sigaction(SIGCHLD, &a, NULL);
	if (!fork())
		_exit(1);
	E(syscall(SYS_wait4, -1, &s, 0, NULL));
	a.sa_flags = 0;
	sigaction(SIGCHLD, &a, NULL);
	pid_t group = fork();
	if (!group) {
		setpgid(0, 0);
		_exit(7);
	}
	setpgid(group, group);
	E(syscall(SYS_wait4, 0, &s, WNOHANG, NULL)); // not of our group
	E(syscall(SYS_wait4, -group, &s, 0, NULL) == group);
	status("of the group", s);
	if (!(child_pid = syscall(SYS_clone, 0, 0, 0, 0, 0))) // tells nobody of its end
		_exit(9);
	E(syscall(SYS_wait4, child_pid, &s, 0, NULL));
	E(syscall(SYS_wait4, child_pid, &s, __WCLONE, NULL) == child_pid);
	status("clone", s);
}

static void stopped(int n) {}

CASE(wait_and_signals)
{
	int s;
	struct sigaction a = {.sa_handler = stopped};
	sigaction(SIGALRM, &a, NULL);
	if (!(child_pid = fork())) {
		pause();
		_exit(0);
	}
	ualarm(2000, 0);
	E(waitpid(child_pid, &s, 0));
	ualarm(2000, 0);
	E(waitid(P_PID, child_pid, (siginfo_t *)(char[128]){0}, WEXITED));
	kill(child_pid, SIGSTOP);
	E(waitpid(child_pid, &s, WUNTRACED) == child_pid);
	status("child", s);
	E(waitpid(child_pid, &s, WUNTRACED | WNOHANG));
	kill(child_pid, SIGCONT);
	E(waitpid(child_pid, &s, WCONTINUED) == child_pid);
	status("child", s);
	kill(child_pid, SIGSTOP), kill(child_pid, SIGKILL);
	E(waitpid(child_pid, &s, 0) == child_pid);
	status("child", s);
	a.sa_flags = SA_NOCLDSTOP, a.sa_handler = stopped;
	sigaction(SIGCHLD, &a, NULL);
	if (!(child_pid = fork()))
		raise(SIGSTOP), _exit(0);
	E(waitpid(child_pid, &s, WUNTRACED) == child_pid); // no SIGCHLD interrupts
	sigset_t all, old;
	sigfillset(&all), sigprocmask(SIG_BLOCK, &all, &old);
	kill(child_pid, SIGCONT);
	E(waitpid(child_pid, &s, 0) == child_pid);
	sigpending(&all);
	say("%d", sigismember(&all, SIGCHLD));
}

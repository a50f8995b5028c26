// POSIX timers on every clock, and their signals.
#include "corpus.h"

static volatile int fired, sivalue, sicode, on_tid;
static void on_timer(int sig, siginfo_t *i, void *c) { fired++, sivalue = i->si_value.sival_int, sicode = i->si_code, on_tid = syscall(SYS_gettid); }

CASE(timers_on_clocks)
{
	struct sigaction act = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &act, NULL);
	int clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_BOOTTIME, CLOCK_TAI};
	for (int i = 0; i < 6; i++) {
		struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value = {.sival_int = 40 + i}};
		int t = -1;
		long r = syscall(SYS_timer_create, clocks[i], &e, &t);
		if (r) {
			say("clock %d: %s", clocks[i], errname(errno));
			continue;
		}
		struct itimerspec s = {{0, 0}, {0, 1000000}}, old;
		fired = 0;
		syscall(SYS_timer_settime, t, 0, &s, &old);
		while (!fired)
			;
		say("clock %d: value %d code %d overrun %ld", clocks[i], sivalue, sicode, syscall(SYS_timer_getoverrun, t));
		syscall(SYS_timer_gettime, t, &s);
		say("left %ld %ld", (long)s.it_value.tv_sec, s.it_value.tv_nsec);
		E(syscall(SYS_timer_delete, t));
		E(syscall(SYS_timer_delete, t));
	}
	int t;
	for (int clock = 4; clock < 11; clock++)
		if (clock != 7 && clock != 8 && clock != 9) {
			long r = syscall(SYS_timer_create, clock, NULL, &t);
			say("clock %d: %s", clock, r ? errname(errno) : "ok");
		}
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, (void *)8));
	struct sigevent bad = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = 99};
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &bad, &t));
	bad.sigev_notify = 77, bad.sigev_signo = SIGUSR1;
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &bad, &t));
	bad.sigev_notify = 4; // SIGEV_THREAD_ID
	*(int *)&bad.sigev_notify_function = 1; // not ours
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &bad, &t));
	E(syscall(SYS_timer_gettime, 12345, &bad));
	E(syscall(SYS_timer_getoverrun, 12345));
	struct itimerspec invalid = {{0, 0}, {0, 1000000000}};
	syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &t);
	E(syscall(SYS_timer_settime, t, 0, &invalid, NULL));
	E(syscall(SYS_timer_settime, t, 0, NULL, NULL));
}

static void *waits(void *x)
{
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGUSR2);
	*(volatile int *)x = syscall(SYS_gettid);
	siginfo_t i;
	return (void *)(long)(sigwaitinfo(&s, &i) == SIGUSR2 ? i.si_value.sival_int : -1);
}

CASE(timers_to_threads)
{
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGUSR2);
	sigprocmask(SIG_BLOCK, &s, NULL);
	volatile int tid = 0;
	pthread_t p;
	void *r;
	pthread_create(&p, NULL, waits, (void *)&tid);
	while (!tid)
		nap(1);
	struct sigevent e = {.sigev_notify = 4, .sigev_signo = SIGUSR2, .sigev_value = {.sival_int = 9}};
	*(int *)&e.sigev_notify_function = tid;
	int t;
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t));
	struct itimerspec in = {{0, 0}, {0, 500000}};
	E(syscall(SYS_timer_settime, t, 0, &in, NULL));
	pthread_join(p, &r);
	say("%ld", (long)r);
	struct itimerspec many = {{0, 100000}, {0, 100000}};
	e.sigev_notify = SIGEV_SIGNAL;
	syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t);
	syscall(SYS_timer_settime, t, 0, &many, NULL);
	nap(5);
	siginfo_t i;
	say("%d", sigwaitinfo(&s, &i) == SIGUSR2);
	long over = syscall(SYS_timer_getoverrun, t);
	say("overrun %d, as the signal says %d", over > 5, over == i.si_overrun);
}

// A periodic timer that nobody reads goes on counting, and tells of it when it is read.
CASE(timerfd_unread)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec t = {{0, 10000000}, {0, 10000000}};
	uint64_t n = 0;
	E(timerfd_settime(fd, 0, &t, NULL));
	nap(65);
	E(timerfd_gettime(fd, &t));
	say("left within the interval %d", t.it_value.tv_sec == 0 && t.it_value.tv_nsec > 0 && t.it_value.tv_nsec <= 10000000);
	E(read(fd, &n, 8));
	say("at least six %d", n >= 6);
	struct pollfd p = {fd, POLLIN};
	E(poll(&p, 1, -1));
	E(read(fd, &n, 8));
	say("again %d", n >= 1);
	t.it_interval.tv_nsec = t.it_value.tv_nsec = 0;
	E(timerfd_settime(fd, 0, &t, NULL));
	E(read(fd, &n, 8));
}

static long nanoseconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

// While its signal is pending a timer sends no other, and what it missed is in that one.
CASE(timer_signal_pending)
{
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGUSR1), sigaddset(&s, SIGALRM), sigaddset(&s, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &s, NULL);
	int signals[] = {SIGUSR1, SIGUSR1, SIGRTMIN}, t[3];
	for (int i = 0; i < 3; i++) { // two of one standard signal: both are queued
		struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = signals[i], .sigev_value = {.sival_int = i}};
		E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t[i]));
		E(syscall(SYS_timer_settime, t[i], 0, &(struct itimerspec){{0, 1000}, {0, 1000}}, NULL));
	}
	nap(20);
	int seen = 0;
	for (int i = 0; i < 3; i++) {
		siginfo_t info;
		struct itimerspec stop = {0};
		int sig = sigtimedwait(&s, &info, &(struct timespec){1, 0});
		say("%d: code %d, many overruns %d, as told %d", sig == SIGRTMIN ? 0 : sig, info.si_code, info.si_overrun > 10000,
		    info.si_overrun == syscall(SYS_timer_getoverrun, t[info.si_value.sival_int]));
		seen |= 1 << info.si_value.sival_int;
		syscall(SYS_timer_settime, t[info.si_value.sival_int], 0, &stop, NULL);
	}
	say("seen %d", seen);

	E(setitimer(ITIMER_REAL, &(struct itimerval){{0, 1000}, {0, 1000}}, NULL));
	for (int i = 0; i < 3; i++) {
		nap(5);
		siginfo_t info;
		int sig = sigwaitinfo(&s, &info);
		say("alarm %d code %d", sig == SIGALRM, info.si_code);
	}
	// An interval that does not end before one looks: whose signal is pending has nothing left.
	struct itimerval left = {0};
	setitimer(ITIMER_REAL, &left, NULL);
	sigtimedwait(&s, NULL, &(struct timespec){0, 0});
	E(setitimer(ITIMER_REAL, &(struct itimerval){{1000, 0}, {0, 1000}}, NULL));
	sigwaitinfo(&s, NULL);
	getitimer(ITIMER_REAL, &left);
	say("goes on %d every %ld", left.it_value.tv_sec > 0, (long)left.it_interval.tv_sec);
}

// A timer whose signal is ignored goes on once that is no longer.
CASE(timer_signal_ignored)
{
	signal(SIGUSR1, SIG_IGN), signal(SIGALRM, SIG_IGN);
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	int t;
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t));
	E(syscall(SYS_timer_settime, t, 0, &(struct itimerspec){{0, 1000000}, {0, 1000000}}, NULL));
	nap(20);
	struct sigaction act = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO};
	fired = 0;
	sigaction(SIGUSR1, &act, NULL);
	long end = nanoseconds() + 10000000000;
	while (fired < 5 && nanoseconds() < end)
		;
	say("fired again %d, code %d", fired >= 5, sicode);
	E(syscall(SYS_timer_delete, t));

	// One that went off for good while nobody cared has nothing to tell.
	signal(SIGUSR1, SIG_IGN);
	E(syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t));
	E(syscall(SYS_timer_settime, t, 0, &(struct itimerspec){{0, 0}, {0, 1000000}}, NULL));
	struct itimerspec left;
	do
		nap(1);
	while (syscall(SYS_timer_gettime, t, &left) == 0 && left.it_value.tv_nsec);
	nap(20);
	fired = 0;
	sigaction(SIGUSR1, &act, NULL);
	nap(5);
	say("once: fired %d", fired);
}

// Setting a timer again and again while its signal is pending leaves one signal.
CASE(timer_set_again)
{
	sigset_t s;
	sigemptyset(&s), sigaddset(&s, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &s, NULL);
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
	int t, n = 0;
	syscall(SYS_timer_create, CLOCK_MONOTONIC, &e, &t);
	for (int i = 0; i < 50; i++) {
		syscall(SYS_timer_settime, t, 0, &(struct itimerspec){{0, 0}, {0, 1}}, NULL);
		nap(1);
	}
	while (sigtimedwait(&s, NULL, &(struct timespec){n ? 0 : 10, 0}) > 0)
		n++;
	say("%d pending", n);
}

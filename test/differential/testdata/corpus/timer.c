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

#include "corpus.h"
#include <sys/auxv.h>

static long long ns(int clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

CASE(clocks)
{
	struct timespec t;
	for (int i = 0; i <= 11; i++) {
		int r = clock_gettime(i, &t);
		say("clock %d: %s %s", i, r ? errname(errno) : "ok", r ? "" : t.tv_nsec >= 0 && t.tv_nsec < 1000000000 ? "sane" : "not sane");
		r = clock_getres(i, &t);
		say(" resolution: %s", r ? errname(errno) : i == 5 || i == 6 ? "coarse" : t.tv_sec == 0 ? "fine" : "?");
	}
	E(clock_getres(CLOCK_MONOTONIC, NULL));
	long long a = ns(CLOCK_MONOTONIC);
	for (int i = 0; i < 100000; i++) {
		long long b = ns(CLOCK_MONOTONIC);
		if (b < a) {
			say("went back by %lld", a - b);
			break;
		}
		a = b;
	}
	struct timeval v;
	gettimeofday(&v, NULL);
	long long real = ns(CLOCK_REALTIME), apart = real / 1000 - v.tv_sec * 1000000LL - v.tv_usec;
	say("agree %d, time() %d", apart >= 0 && apart < 1000000, llabs(time(NULL) - real / 1000000000) <= 1);
	say("coarse close %d", llabs(ns(CLOCK_MONOTONIC) - ns(CLOCK_MONOTONIC_COARSE)) < 500000000);
	say("boot not before monotonic %d", ns(CLOCK_BOOTTIME) + 1000000 >= ns(CLOCK_MONOTONIC));
	a = ns(CLOCK_MONOTONIC);
	struct timespec rest = {0, 20000000};
	E(nanosleep(&rest, NULL));
	say("slept %d", ns(CLOCK_MONOTONIC) - a >= 20000000);
	a = ns(CLOCK_PROCESS_CPUTIME_ID);
	nanosleep(&rest, NULL);
	say("sleep costs little %d", ns(CLOCK_PROCESS_CPUTIME_ID) - a < 15000000);
	a = ns(CLOCK_THREAD_CPUTIME_ID);
	for (volatile int i = 0; i < 30000000; i++)
		;
	say("work costs %d", ns(CLOCK_THREAD_CPUTIME_ID) - a > 5000000);
	rest.tv_nsec = 1000000000, E(nanosleep(&rest, NULL));
	rest.tv_nsec = -1, E(nanosleep(&rest, NULL));
	rest.tv_nsec = 0, rest.tv_sec = -1, E(nanosleep(&rest, NULL));
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_nsec += 10000000;
	if (t.tv_nsec >= 1000000000)
		t.tv_sec++, t.tv_nsec -= 1000000000;
	say("%d", clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL));
	say("%s", errname(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &t, NULL)));
	say("%s", errname(clock_nanosleep(77, 0, &t, NULL)));
	t.tv_sec = 0;
	say("%d", clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL));
	E(clock_settime(CLOCK_MONOTONIC, &t));
	say("vdso %d pagesz %ld clktck %ld execfn %d random %d secure %ld", getauxval(AT_SYSINFO_EHDR) != 0, getauxval(AT_PAGESZ), getauxval(AT_CLKTCK), getauxval(AT_EXECFN) != 0, getauxval(AT_RANDOM) != 0, getauxval(AT_SECURE));
	say("%d", memcmp((char *)getauxval(AT_SYSINFO_EHDR), "\x7f" "ELF", 4));
}

static volatile int rings, overrun;
static void ring(int n, siginfo_t *i, void *c)
{
	rings++;
	if (rings == 1)
		say("signal %d code %d value %d", n == SIGRTMIN ? 1000 : n, i->si_code, i->si_value.sival_int);
}

CASE(posix_timers)
{
	struct sigaction a = {.sa_sigaction = ring, .sa_flags = SA_SIGINFO};
	sigaction(SIGRTMIN, &a, NULL), sigaction(SIGALRM, &a, NULL), sigaction(SIGVTALRM, &a, NULL);
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN, .sigev_value.sival_int = 99};
	timer_t t, none;
	E(timer_create(CLOCK_MONOTONIC, &e, &t));
	struct itimerspec s = {{0, 2000000}, {0, 2000000}}, left;
	E(timer_settime(t, 0, &s, NULL));
	while (rings < 5)
		pause();
	E(timer_gettime(t, &left));
	say("interval %ld", left.it_interval.tv_nsec);
	sigset_t m;
	sigemptyset(&m), sigaddset(&m, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &m, NULL);
	nap(30);
	siginfo_t i;
	struct timespec zero = {0, 0};
	sigtimedwait(&m, &i, &zero);
	say("overruns %d, getoverrun agrees %d", i.si_overrun > 3, timer_getoverrun(t) >= i.si_overrun);
	memset(&s, 0, sizeof s);
	E(timer_settime(t, 0, &s, &left));
	say("was running %d", left.it_value.tv_nsec > 0);
	E(timer_delete(t));
	E(timer_delete(t));
	E(timer_settime(t, 0, &s, NULL));
	E(timer_create(77, &e, &t));
	e.sigev_signo = 99;
	E(timer_create(CLOCK_REALTIME, &e, &t));
	e.sigev_notify = SIGEV_NONE;
	E(timer_create(CLOCK_REALTIME, &e, &none));
	s.it_value.tv_sec = 100;
	E(timer_settime(none, 0, &s, NULL));
	timer_gettime(none, &left);
	say("left %d", left.it_value.tv_sec >= 99);
	s.it_value.tv_nsec = -1;
	E(timer_settime(none, 0, &s, NULL));
	e.sigev_notify = SIGEV_THREAD_ID, e.sigev_signo = SIGALRM, e.sigev_notify_thread_id = gettid();
	E(timer_create(CLOCK_MONOTONIC, &e, &t));
	rings = 0;
	s = (struct itimerspec){{0, 0}, {0, 1000000}};
	timer_settime(t, 0, &s, NULL);
	while (!rings)
		nap(1);
	e.sigev_notify = SIGEV_SIGNAL, e.sigev_signo = SIGVTALRM;
	E(timer_create(CLOCK_PROCESS_CPUTIME_ID, &e, &t));
	rings = 0;
	s.it_value.tv_nsec = 20000000;
	timer_settime(t, 0, &s, NULL);
	for (volatile long k = 0; !rings && k < 2000000000; k++)
		;
	say("cpu timer %d", rings);
}

CASE(interval_timers)
{
	struct sigaction a = {.sa_sigaction = ring, .sa_flags = SA_SIGINFO};
	sigaction(SIGALRM, &a, NULL), sigaction(SIGVTALRM, &a, NULL), sigaction(SIGPROF, &a, NULL);
	E(alarm(100));
	E(alarm(0));
	E(alarm(0));
	struct itimerval t = {{0, 1000}, {0, 1000}}, old;
	E(setitimer(ITIMER_REAL, &t, NULL));
	while (rings < 5)
		pause();
	t = (struct itimerval){{0, 0}, {0, 0}};
	E(setitimer(ITIMER_REAL, &t, &old));
	say("%ld %d", (long)old.it_interval.tv_usec, old.it_value.tv_usec > 0 || rings > 0);
	rings = 0;
	t.it_value.tv_usec = 10000;
	E(setitimer(ITIMER_VIRTUAL, &t, NULL));
	while (!rings)
		;
	rings = 0;
	E(setitimer(ITIMER_PROF, &t, NULL));
	while (!rings)
		;
	E(setitimer(9, &t, NULL));
	t.it_value.tv_usec = 1000000;
	E(setitimer(ITIMER_REAL, &t, NULL));
	E(getitimer(ITIMER_REAL, &old));
	alarm(50);
	CHILD { say("not inherited %d", alarm(0)); }
	say("kept %d", alarm(0) > 40);
}

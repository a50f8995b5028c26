// FUTEX_WAIT_REQUEUE_PI and FUTEX_CMP_REQUEUE_PI: condition variables of
// priority-inheriting mutexes; and KCMP_EPOLL_TFD.
#include "corpus.h"
#include <linux/futex.h>

enum { WAIT_REQUEUE_PI = 11, CMP_REQUEUE_PI = 12, PRIVATE = 128 };

static volatile int cond, mutex;
static volatile int state[8], id[8]; // thread i's: 1 it goes to wait, 2 it is back
static long result[8];
static int order[8], orders;

static long futex(volatile void *w, int op, unsigned v, void *t, volatile void *o, unsigned x) { return syscall(SYS_futex, w, op, v, t, o, x); }
static int tid(void) { return syscall(SYS_gettid); }

static void *waits(void *arg)
{
	long i = (long)arg;
	id[i] = tid(), state[i] = 1;
	errno = 0;
	long r = futex(&cond, WAIT_REQUEUE_PI | PRIVATE, 0, NULL, &mutex, 0);
	result[i] = r ? errno : 0;
	if (!r) {
		order[orders++] = (mutex & FUTEX_TID_MASK) == tid() ? i : 100 + i;
		futex(&mutex, FUTEX_UNLOCK_PI | PRIVATE, 0, NULL, NULL, 0);
	}
	state[i] = 2;
	return NULL;
}

static pthread_t thread[8];
static void sleeps(int i) // thread i does, or will not wake
{
	while (!state[i])
		sched_yield();
	until_state(id[i], 'S');
}

static void start(int n)
{
	orders = 0;
	for (long i = 0; i < n; i++) {
		state[i] = 0;
		pthread_create(&thread[i], NULL, waits, (void *)i);
		sleeps(i); // so that they wait in order
	}
}

static void finish(int n)
{
	for (int i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < n; i++)
		say(" %d: %s", i, result[i] ? errname(result[i]) : "ok");
	for (int i = 0; i < orders; i++)
		say(" owner %d", order[i]);
	say(" mutex %x", mutex);
}

CASE(requeue_errors)
{
	struct timespec past = {1, 0};
	mutex = cond = 0;
	E(futex(&cond, WAIT_REQUEUE_PI | PRIVATE, 0, NULL, &cond, 0));
	E(futex(&cond, WAIT_REQUEUE_PI | PRIVATE, 1, NULL, &mutex, 0));
	E(futex((char *)&cond + 1, WAIT_REQUEUE_PI | PRIVATE, 0, NULL, &mutex, 0));
	E(futex(&cond, WAIT_REQUEUE_PI | PRIVATE, 0, NULL, (char *)&mutex + 1, 0));
	E(futex((void *)8, WAIT_REQUEUE_PI | PRIVATE, 0, NULL, &mutex, 0));
	E(futex(&cond, WAIT_REQUEUE_PI | PRIVATE, 0, &past, &mutex, 0));
	E(futex(&cond, WAIT_REQUEUE_PI | PRIVATE | 256, 0, &past, &mutex, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, &mutex, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 0, NULL, &mutex, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 2, NULL, &mutex, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)-1, &mutex, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, &mutex, 7));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, &cond, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, (void *)8, 0));
}

CASE(requeue_to_free_mutex)
{
	mutex = 0;
	start(3);
	E(futex(&cond, FUTEX_WAKE | PRIVATE, 1, NULL, NULL, 0));
	E(futex(&cond, FUTEX_CMP_REQUEUE | PRIVATE, 1, (void *)1, &mutex, 0));
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)1, &cond + 8, 0)); // not what they wait for
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)10, &mutex, 0));
	finish(3);
}

CASE(requeue_to_owned_mutex)
{
	mutex = 0;
	E(futex(&mutex, FUTEX_LOCK_PI | PRIVATE, 0, NULL, NULL, 0));
	start(4);
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)1, &mutex, 0)); // two of them
	say("waiters %d, mine %d", !!(mutex & FUTEX_WAITERS), (mutex & FUTEX_TID_MASK) == tid());
	say("%d %d", state[0], state[2]);
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)10, &mutex, 0)); // the rest
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)10, &mutex, 0));
	E(futex(&mutex, FUTEX_UNLOCK_PI | PRIVATE, 0, NULL, NULL, 0));
	finish(4);
}

static void *waits_short(void *arg)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += 3;
	id[0] = tid(), state[0] = 1;
	long r = futex(&cond, WAIT_REQUEUE_PI | PRIVATE, 0, &t, &mutex, 0);
	result[0] = r ? errno : 0;
	return NULL;
}

static volatile int handled;
static void handles(int sig) { handled++; }

CASE(requeue_in_vain)
{
	mutex = 0, state[0] = 0, orders = 0;
	E(futex(&mutex, FUTEX_LOCK_PI | PRIVATE, 0, NULL, NULL, 0));
	pthread_create(&thread[0], NULL, waits_short, NULL);
	sleeps(0);
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, &mutex, 0)); // and no unlock
	pthread_join(thread[0], NULL);
	say("%s, mine %d", errname(result[0]), (mutex & FUTEX_TID_MASK) == tid());
	struct sigaction act = {.sa_handler = handles};
	sigaction(SIGUSR1, &act, NULL);
	start(2);
	pthread_kill(thread[0], SIGUSR1);
	while (!handled)
		sched_yield();
	sleeps(0); // again
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, (void *)10, &mutex, 0));
	pthread_kill(thread[0], SIGUSR1);
	while (state[0] != 2)
		sched_yield();
	E(futex(&mutex, FUTEX_UNLOCK_PI | PRIVATE, 0, NULL, NULL, 0));
	finish(2);
	mutex = 0x3ffffff0; // of nobody
	start(1);
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, &mutex, 0));
	mutex = 0;
	E(futex(&cond, CMP_REQUEUE_PI | PRIVATE, 1, NULL, &mutex, 0));
	finish(1);
}

static volatile int ready;
static void *locks(void *arg)
{
	struct sched_param p = {.sched_priority = (long)arg};
	if (p.sched_priority && syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &p))
		say("policy: %s", errname(errno));
	int i = ready;
	id[i] = tid(), state[i] = 1;
	futex(&mutex, FUTEX_LOCK_PI | PRIVATE, 0, NULL, NULL, 0);
	order[orders++] = (long)arg;
	futex(&mutex, FUTEX_UNLOCK_PI | PRIVATE, 0, NULL, NULL, 0);
	return NULL;
}

// The highest priority has it next.
CASE(pi_priorities)
{
	int priorities[] = {0, 3, 7, 3, 5};
	mutex = 0, orders = 0, ready = 0;
	E(futex(&mutex, FUTEX_LOCK_PI | PRIVATE, 0, NULL, NULL, 0));
	for (int i = 0; i < 5; i++) {
		pthread_create(&thread[i], NULL, locks, (void *)(long)priorities[i]);
		sleeps(i);
		ready++;
	}
	E(futex(&mutex, FUTEX_UNLOCK_PI | PRIVATE, 0, NULL, NULL, 0));
	for (int i = 0; i < 5; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < 5; i++)
		say("%d", order[i]);
}

CASE(compared_epoll_targets)
{
	int ep = epoll_create1(0), a = eventfd(0, 0), b = eventfd(0, 0), me = getpid();
	struct epoll_event e = {EPOLLIN};
	epoll_ctl(ep, EPOLL_CTL_ADD, a, &e);
	struct { unsigned ep, fd, nth; } slot = {ep, a, 0};
	E(syscall(SYS_kcmp, me, me, 7, a, &slot));
	say("%d", syscall(SYS_kcmp, me, me, 7, b, &slot) > 0);
	E(syscall(SYS_kcmp, me, me, 7, 99, &slot));
	E(syscall(SYS_kcmp, me, me, 7, a, 8));
	slot.nth = 1;
	E(syscall(SYS_kcmp, me, me, 7, a, &slot));
	slot.nth = 0, slot.fd = b;
	E(syscall(SYS_kcmp, me, me, 7, a, &slot));
	slot.ep = a;
	E(syscall(SYS_kcmp, me, me, 7, a, &slot));
	slot.ep = 99;
	E(syscall(SYS_kcmp, me, me, 7, a, &slot));
	slot.ep = ep, slot.fd = a;
	int copy = dup(a);
	close(a);
	dup2(b, a);
	E(syscall(SYS_kcmp, me, me, 7, copy, &slot)); // what was added
}

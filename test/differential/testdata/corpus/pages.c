// Calls about pages, schedulers and locks that came later to Linux.
#include "corpus.h"
#include <linux/futex.h>

#ifndef MADV_COLD
#define MADV_COLD 20
#endif

CASE(sealed_memory)
{
	char *m = mmap(NULL, 5 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	E(syscall(462, m + 1, 4096, 0));
	E(syscall(462, m, 4096, 1));
	E(syscall(462, m, 0, 0));
	E(mprotect(m + 4096, 4096, PROT_READ));
	E(syscall(462, m + 4096, 8192, 0));
	E(syscall(462, m + 4096, 8192, 0));
	E(munmap(m + 4096, 4096));
	E(munmap(m, 5 * 4096));
	E(mprotect(m + 8192, 4096, PROT_READ));
	E(mprotect(m, 4096, PROT_READ));
	E((long)mmap(m + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	E((long)mremap(m + 8192, 4096, 8192, MREMAP_MAYMOVE));
	E(madvise(m + 4096, 4096, MADV_DONTNEED));
	E(madvise(m + 8192, 4096, MADV_DONTNEED));
	E(munmap(m + 3 * 4096, 8192));
	E(syscall(462, m, 5 * 4096, 0));
	m[8192] = 3;
	CHILD {
		E(munmap(m + 8192, 4096));
		say("%d", m[8192]);
	}
}

CASE(remapped_pages)
{
	int fd = memfd_create("x", 0);
	ftruncate(fd, 4 * 4096);
	char *m = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (int i = 0; i < 4; i++)
		m[i * 4096] = 'a' + i;
	E(syscall(SYS_remap_file_pages, m, 4096, 0, 3, 0));
	E(syscall(SYS_remap_file_pages, m + 4096, 8192, 0, 0, 0));
	say("%c%c%c%c", m[0], m[4096], m[8192], m[3 * 4096]);
	m[0] = 'z';
	say("%c", m[3 * 4096]);
	E(syscall(SYS_remap_file_pages, m, 4096, PROT_READ, 1, 0));
	char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	E(syscall(SYS_remap_file_pages, p, 4096, 0, 1, 0));
	E(syscall(SYS_remap_file_pages, m, 0, 0, 1, 0));
}

CASE(advise_processes)
{
	int self = syscall(SYS_pidfd_open, getpid(), 0);
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct iovec v[2] = {{m, 4096}, {m + 4096, 4096}}, bad = {(void *)8, 4096};
	m[0] = 1;
	E(syscall(SYS_process_madvise, self, v, 2, MADV_COLD, 0));
	E(syscall(SYS_process_madvise, self, v, 2, MADV_COLD, 1));
	E(syscall(SYS_process_madvise, self, v, 2, 9999, 0));
	E(syscall(SYS_process_madvise, 99, v, 2, MADV_COLD, 0));
	E(syscall(SYS_process_madvise, 1, v, 2, MADV_COLD, 0));
	E(syscall(SYS_process_madvise, self, &bad, 1, MADV_COLD, 0));
	say("%d", m[0]);
	E(syscall(448, self, 0));
	E(syscall(448, self, 1));
	E(syscall(448, 99, 0));
	pid_t c = fork();
	if (!c)
		pause();
	int child = syscall(SYS_pidfd_open, c, 0);
	E(syscall(SYS_process_madvise, child, v, 2, MADV_COLD, 0));
	E(syscall(SYS_process_madvise, child, v, 2, MADV_DONTNEED, 0));
	kill(c, SIGKILL);
	waitpid(c, NULL, 0);
	E(syscall(SYS_process_madvise, child, v, 2, MADV_COLD, 0));
}

CASE(compared)
{
	pid_t me = getpid(), c = fork();
	if (!c)
		pause();
	int fd = open("/dev/null", O_RDONLY), copy = dup(fd), other = open("/dev/null", O_RDONLY);
	E(syscall(SYS_kcmp, me, me, 0, fd, copy));
	say("%d", syscall(SYS_kcmp, me, me, 0, fd, other) > 0);
	E(syscall(SYS_kcmp, me, me, 0, fd, 99));
	for (int type = 1; type < 7; type++)
		say("%d: self %ld child %d", type, syscall(SYS_kcmp, me, me, type, 0, 0), syscall(SYS_kcmp, me, c, type, 0, 0) > 0 && type != 5 && type != 6);
	E(syscall(SYS_kcmp, me, me, 99, 0, 0));
	E(syscall(SYS_kcmp, me, 999999, 0, 0, 0));
	kill(c, SIGKILL);
}

struct attr { unsigned size, policy; unsigned long long flags; int nice; unsigned priority; unsigned long long runtime, deadline, period; unsigned umin, umax; };

CASE(sched_attributes)
{
	struct attr a;
	char big[200] = {0};
	E(syscall(SYS_sched_getattr, 0, &a, sizeof a, 0));
	say("size %u policy %u nice %d priority %u", a.size, a.policy, a.nice, a.priority);
	E(syscall(SYS_sched_getattr, 0, &a, 48, 0));
	say("size %u", a.size);
	E(syscall(SYS_sched_getattr, 0, &a, 47, 0));
	E(syscall(SYS_sched_getattr, 0, &a, sizeof a, 1));
	E(syscall(SYS_sched_getattr, -1, &a, sizeof a, 0));
	E(syscall(SYS_sched_getattr, 999999, &a, sizeof a, 0));
	struct attr s = {.size = 48, .policy = SCHED_BATCH, .nice = 5};
	E(syscall(SYS_sched_setattr, 0, &s, 0));
	E(sched_getscheduler(0));
	E(getpriority(PRIO_PROCESS, 0));
	s.policy = 99;
	E(syscall(SYS_sched_setattr, 0, &s, 0));
	s.policy = SCHED_OTHER, s.priority = 4;
	E(syscall(SYS_sched_setattr, 0, &s, 0));
	s.priority = 0;
	E(syscall(SYS_sched_setattr, 0, &s, 1));
	E(syscall(SYS_sched_setattr, 0, NULL, 0));
	s.flags = 1 << 20;
	E(syscall(SYS_sched_setattr, 0, &s, 0));
	s.flags = 1; // reset on fork
	E(syscall(SYS_sched_setattr, 0, &s, 0));
	E(sched_getscheduler(0));
	memcpy(big, &s, 48);
	*(unsigned *)big = 200, big[150] = 1;
	E(syscall(SYS_sched_setattr, 0, big, 0));
	*(unsigned *)big = 20;
	E(syscall(SYS_sched_setattr, 0, big, 0));
	say("tells %u", *(unsigned *)big);
}

static int pi;
static long futex(void *w, int op, unsigned v, void *t, void *o, unsigned x) { return syscall(SYS_futex, w, op, v, t, o, x); }

static void *locks(void *x)
{
	long r = futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	int mine = (pi & FUTEX_TID_MASK) == syscall(SYS_gettid);
	futex(&pi, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	return (void *)(r * 10 + mine);
}

static void *dies(void *x)
{
	futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	while (!(*(volatile int *)&pi & FUTEX_WAITERS))
		nap(1);
	return NULL;
}

CASE(pi_futexes)
{
	int me = syscall(SYS_gettid);
	E(futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	say("owner %d", pi == me);
	E(futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	E(futex(&pi, FUTEX_TRYLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, locks, NULL);
	while (!(*(volatile int *)&pi & FUTEX_WAITERS))
		nap(1);
	E(futex(&pi, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	for (int i = 0; i < 4; i++) {
		void *r;
		pthread_join(t[i], &r);
		say("%ld", (long)r);
	}
	E(pi & FUTEX_TID_MASK);
	E(futex(&pi, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	pi = 0x3ffffff0; // nobody's
	E(futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	E(futex((char *)&pi + 1, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	E(futex((void *)8, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	pi = 0;
	pthread_create(&t[0], NULL, dies, NULL);
	while (!*(volatile int *)&pi)
		nap(1);
	E(futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	say("died %d mine %d", !!(pi & FUTEX_OWNER_DIED), (pi & FUTEX_TID_MASK) == me);
	pthread_join(t[0], NULL);
	pi = 0;
	pthread_create(&t[0], NULL, (void *)pause, NULL);
	struct timespec past = {1, 0}, bad = {0, -1};
	E(futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, &past, NULL, 0));
	E(futex(&pi, FUTEX_UNLOCK_PI_PRIVATE, 0, NULL, NULL, 0));
	E(futex(&pi, FUTEX_LOCK_PI_PRIVATE, 0, &bad, NULL, 0));
	pi = getppid();
	E(futex(&pi, FUTEX_LOCK_PI, 0, &past, NULL, 0));
	say("waiters %d", !!(pi & FUTEX_WAITERS));
}

static pthread_mutex_t inherit;
static long shared_count;
static void *counts(void *x)
{
	for (int i = 0; i < 2000; i++) {
		pthread_mutex_lock(&inherit);
		shared_count++;
		pthread_mutex_unlock(&inherit);
	}
	return NULL;
}

CASE(pi_mutexes)
{
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	say("%d", pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT));
	pthread_mutex_init(&inherit, &a);
	pthread_t t[6];
	for (int i = 0; i < 6; i++)
		pthread_create(&t[i], NULL, counts, NULL);
	for (int i = 0; i < 6; i++)
		pthread_join(t[i], NULL);
	say("%ld", shared_count);
}

static unsigned word, word2;
static void *waits2(void *x) { return (void *)syscall(455, &word, 0L, ~0U & 0xffffffffL, 2 | 128, NULL, 0); }

CASE(futex2)
{
	struct timespec past = {1, 0};
	E(syscall(454, &word, 0xffffffffL, 1, 2 | 128));
	E(syscall(454, &word, 0L, 1, 2 | 128));
	E(syscall(454, &word, 1L, 1, 1 | 128));
	E(syscall(454, &word, 1L, 1, 0x40));
	E(syscall(454, (char *)&word + 2, 1L, 1, 2));
	E(syscall(455, &word, 1L, 0xffffffffL, 2 | 128, NULL, 0));
	E(syscall(455, &word, 0L, 0L, 2 | 128, NULL, 0));
	E(syscall(455, &word, 0L, 1L, 2 | 128, &past, CLOCK_MONOTONIC));
	E(syscall(455, &word, 0L, 1L, 2 | 128, &past, 99));
	pthread_t t[2];
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, waits2, NULL);
	struct { unsigned long val, addr; unsigned flags, pad; } w[2] = {{0, (long)&word, 2 | 128, 0}, {0, (long)&word2, 2 | 128, 0}};
	int moved = 0;
	while (moved < 2)
		moved += syscall(456, w, 0, 0, 2);
	say("moved");
	int woken = 0;
	while (woken < 2)
		woken += syscall(454, &word2, 0xffffffffL, 5, 2 | 128);
	for (int i = 0; i < 2; i++) {
		void *r;
		pthread_join(t[i], &r);
		say("%ld", (long)r);
	}
	w[0].val = 9;
	E(syscall(456, w, 0, 0, 2));
	E(syscall(456, w, 1, 0, 2));
	E(syscall(456, NULL, 0, 0, 2));
}

CASE(xattrs_at)
{
	struct { unsigned long long value; unsigned size, flags; } a = {(unsigned long)"text", 4, 0};
	char b[64] = "";
	put("f", "x");
	mkdir("d", 0755);
	symlink("f", "l");
	int d = open(".", O_DIRECTORY), f = open("f", O_RDONLY);
	E(syscall(463, d, "f", 0, "user.one", &a, sizeof a));
	a.flags = XATTR_CREATE;
	E(syscall(463, d, "f", 0, "user.one", &a, sizeof a));
	E(syscall(463, f, "", AT_EMPTY_PATH, "user.two", &a, sizeof a));
	E(syscall(463, d, "f", 0, "user.x", &a, 8));
	E(syscall(463, d, "f", 0, "user.x", &a, 5000));
	E(syscall(463, d, "f", 1, "user.x", &a, sizeof a));
	E(syscall(463, d, "none", 0, "user.x", &a, sizeof a));
	a.value = (unsigned long)b, a.size = sizeof b, a.flags = 0;
	E(syscall(464, d, "l", 0, "user.one", &a, sizeof a));
	say("%s", b);
	E(syscall(464, d, "l", AT_SYMLINK_NOFOLLOW, "user.one", &a, sizeof a) == -1);
	a.size = 2;
	E(syscall(464, d, "f", 0, "user.one", &a, sizeof a));
	a.flags = 1;
	E(syscall(464, d, "f", 0, "user.one", &a, sizeof a));
	say("%d", (int)syscall(465, d, "f", 0, b, sizeof b) >= 18);
	E(syscall(466, d, "f", 0, "user.one"));
	E(syscall(466, d, "f", 0, "user.one"));
}

CASE(where_pages_are)
{
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	m[0] = 1;
	madvise(m + 4096, 4096, MADV_DONTNEED);
	void *pages[2] = {m, (void *)4096};
	int status[2] = {9, 9}, zero[2] = {0, 0};
	E(syscall(SYS_move_pages, 0, 2L, pages, NULL, status, 0));
	say("%d %s", status[0], errname(-status[1]));
	E(syscall(SYS_move_pages, 0, 2L, pages, NULL, status, 1));
	E(syscall(SYS_move_pages, 999999, 2L, pages, NULL, status, 0));
	E(syscall(SYS_move_pages, 0, 1L, (void *)8, NULL, status, 0));
	E(syscall(SYS_move_pages, 0, 0L, NULL, NULL, NULL, 0));
	E(syscall(450, m, 4096L, 0L, 1L));
	unsigned count;
	E(syscall(461, NULL, (void *)8, 0));
	E(syscall(461, NULL, &count, 1));
}

#include "corpus.h"
#include <linux/futex.h>
#include <linux/membarrier.h>

static long futex(void *word, int op, unsigned value, void *time, void *other, unsigned third) { return syscall(SYS_futex, word, op, value, time, other, third); }

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static volatile long counter;
static __thread int mine;

static void *adds(void *id)
{
	mine = (long)id;
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 20000; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
	}
	return (void *)(long)mine;
}

CASE(threads)
{
	pthread_t t[16];
	long sum = 0;
	pthread_barrier_init(&barrier, NULL, 16);
	for (long i = 0; i < 16; i++)
		pthread_create(&t[i], NULL, adds, (void *)i);
	for (int i = 0; i < 16; i++) {
		void *r;
		pthread_join(t[i], &r);
		sum += (long)r;
	}
	say("counter %ld, thread locals %ld", counter, sum);
}

static void *gives_number(void *n) { return (char *)n + 1; }

CASE(many_threads)
{
	static pthread_t t[500];
	long sum = 0;
	for (int round = 0; round < 4; round++) {
		for (long i = 0; i < 500; i++)
			if (pthread_create(&t[i], NULL, gives_number, (void *)i))
				say("create failed");
		for (int i = 0; i < 500; i++) {
			void *r;
			pthread_join(t[i], &r);
			sum += (long)r;
		}
	}
	say("sum %ld", sum);
}

// A page with a buffer that a call waits to fill, and words beside it.
static struct page {
	char into[16];
	int beside;
	pid_t reader;
} *page;

static void *waits_for_bytes(void *end)
{
	page->reader = gettid();
	return (void *)read(*(int *)end, page->into, sizeof page->into);
}

CASE(forks_while_a_thread_reads)
{
	int ends[3][2], hold[2];
	pipe(ends[0]), socketpair(AF_UNIX, SOCK_STREAM, 0, ends[1]), socketpair(AF_UNIX, SOCK_DGRAM, 0, ends[2]);
	for (int i = 0; i < 3; i++) {
		pthread_t t;
		void *n;
		page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		strcpy(page->into, "nothing");
		pipe(hold);
		pthread_create(&t, NULL, waits_for_bytes, &ends[i][0]);
		while (!page->reader)
			nap(1);
		until_state(page->reader, 'S');
		pid_t child = fork();
		if (!child) {
			char c;
			close(hold[1]);
			read(hold[0], &c, 1);
			say("%d: the child has %s, %d", i, page->into, page->beside);
			_exit(0);
		}
		page->beside = 7;
		write(ends[i][1], "bytes", 6);
		pthread_join(t, &n);
		say("%d: read %ld %s, %d", i, (long)n, page->into, page->beside);
		close(hold[0]), close(hold[1]);
		waitpid(child, NULL, 0);
	}
}

static int queue[8], head, tail;
static void *produces(void *x)
{
	for (int i = 1; i <= 5000; i++) {
		pthread_mutex_lock(&mutex);
		while (head - tail == 8)
			pthread_cond_wait(&condition, &mutex);
		queue[head++ % 8] = i;
		pthread_cond_broadcast(&condition);
		pthread_mutex_unlock(&mutex);
	}
	return NULL;
}

CASE(condition_variables)
{
	pthread_t t;
	long sum = 0;
	pthread_create(&t, NULL, produces, NULL);
	for (int i = 0; i < 5000; i++) {
		pthread_mutex_lock(&mutex);
		while (head == tail)
			pthread_cond_wait(&condition, &mutex);
		sum += queue[tail++ % 8];
		pthread_cond_broadcast(&condition);
		pthread_mutex_unlock(&mutex);
	}
	pthread_join(t, NULL);
	say("sum %ld", sum);
	struct timespec t0;
	clock_gettime(CLOCK_REALTIME, &t0);
	t0.tv_nsec += 5000000;
	if (t0.tv_nsec >= 1000000000)
		t0.tv_sec++, t0.tv_nsec -= 1000000000;
	pthread_mutex_lock(&mutex);
	say("%s", errname(pthread_cond_timedwait(&condition, &mutex, &t0)));
}

static int word, word2;
static void *waits_on(void *bits)
{
	long r = futex(&word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, NULL, NULL, (long)bits);
	return (void *)r;
}

CASE(futexes)
{
	struct timespec t = {0, 2000000}, bad = {0, -5};
	E(futex(&word, FUTEX_WAIT, 1, NULL, NULL, 0));
	E(futex(&word, FUTEX_WAIT, 0, &t, NULL, 0));
	E(futex(&word, FUTEX_WAIT, 0, &bad, NULL, 0));
	E(futex(&word, FUTEX_WAKE, 1, NULL, NULL, 0));
	E(futex(&word, FUTEX_WAIT_BITSET, 0, &t, NULL, 0));
	E(futex(&word, FUTEX_WAIT_BITSET, 0, &t, NULL, 1)); // absolute, long past
	E(futex(&word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0));
	E(futex(&word, 99, 0, NULL, NULL, 0));
	pthread_t a[6];
	for (long i = 0; i < 6; i++)
		pthread_create(&a[i], NULL, waits_on, (void *)(i < 3 ? 1L : 2L));
	// All six wait when a requeue that moves nothing counts them: poll /proc instead.
	for (int asleep = 0; asleep < 6;) {
		asleep = 0;
		char path[64];
		for (int tid = getpid() + 1; tid < getpid() + 100; tid++) {
			snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
			char text[512] = "";
			int fd = open(path, O_RDONLY);
			if (fd < 0)
				continue;
			read(fd, text, sizeof text - 1), close(fd);
			asleep += strrchr(text, ')')[2] == 'S';
		}
	}
	E(futex(&word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 2));
	E(futex(&word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 4));
	E(futex(&word, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, (void *)10L, &word2, 5));
	E(futex(&word, FUTEX_CMP_REQUEUE | FUTEX_PRIVATE_FLAG, 1, (void *)10L, &word2, 0));
	E(futex(&word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 10, NULL, NULL, 0));
	E(futex(&word2, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0));
	word2 = 5;
	E(futex(&word, FUTEX_WAKE_OP | FUTEX_PRIVATE_FLAG, 1, (void *)1L, &word2, FUTEX_OP(FUTEX_OP_ADD, 3, FUTEX_OP_CMP_EQ, 5)));
	say("word2 %d", word2);
	long sum = 0;
	for (int i = 0; i < 6; i++) {
		void *r;
		pthread_join(a[i], &r);
		sum += (long)r;
	}
	say("all woke with 0: %ld", sum);
	int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!(child_pid = fork())) {
		while (!__atomic_load_n(shared, __ATOMIC_SEQ_CST))
			futex(shared, FUTEX_WAIT, 0, NULL, NULL, 0);
		_exit(8);
	}
	until_state(child_pid, 'S');
	__atomic_store_n(shared, 1, __ATOMIC_SEQ_CST);
	E(futex(shared, FUTEX_WAKE, 1, NULL, NULL, 0));
	int s;
	wait(&s);
	status("child", s);
	E(syscall(SYS_set_tid_address, &word) == gettid());
	void *head;
	size_t size;
	E(syscall(SYS_get_robust_list, 0, &head, &size));
	say("%ld", (long)size);
	E(syscall(SYS_set_robust_list, head, 5));
	E(syscall(SYS_membarrier, 0, 0, 0) > 0);
}

CASE(membarriers)
{
	for (int command = 1; command < 1 << 6; command <<= 1)
		if (command != MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED && command != MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED)
			say("%x: %s", command, syscall(SYS_membarrier, command, 0, 0) ? errname(errno) : "ok");
	E(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0));
	E(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
	E(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 1, 0));
	E(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
	E(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
	E(syscall(SYS_membarrier, 1 << 9, 0, 0));
	E(syscall(SYS_membarrier, 3, 0, 0));
	CHILD {
		E(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
	}
}

static pthread_mutex_t robust;
static void *dies_holding(void *x)
{
	pthread_mutex_lock(&robust);
	return NULL;
}

CASE(robust_mutexes)
{
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &a);
	pthread_t t;
	pthread_create(&t, NULL, dies_holding, NULL);
	pthread_join(t, NULL);
	int e = pthread_mutex_lock(&robust);
	say("%s", errname(e));
	say("%d", pthread_mutex_consistent(&robust));
	say("%d", pthread_mutex_unlock(&robust));
	pthread_create(&t, NULL, dies_holding, NULL);
	pthread_join(t, NULL);
	pthread_mutex_lock(&robust), pthread_mutex_unlock(&robust);
	say("%s", errname(pthread_mutex_lock(&robust)));
	// Between processes, with one killed and one waiting.
	pthread_mutex_t *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(m, &a);
	int p[2];
	pipe(p);
	pid_t holder = fork();
	if (!holder) {
		pthread_mutex_lock(m);
		write(p[1], "x", 1);
		for (;;)
			pause();
	}
	char c;
	read(p[0], &c, 1);
	pid_t waiter = fork();
	if (!waiter)
		_exit(pthread_mutex_lock(m) == EOWNERDEAD ? 11 : 12);
	until_state(waiter, 'S');
	kill(holder, SIGKILL);
	int s;
	waitpid(waiter, &s, 0);
	status("waiter", s);
	waitpid(holder, &s, 0);
	status("holder", s);
}

static volatile int stop, handled_in;
static void handler(int n) { handled_in = gettid(); }
static void *spins(void *tid)
{
	__atomic_store_n((int *)tid, gettid(), __ATOMIC_SEQ_CST);
	while (!handled_in)
		;
	return NULL;
}
static void *sleeps(void *tid)
{
	sigset_t m;
	sigemptyset(&m), sigaddset(&m, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &m, &m); // or both signals could come between the look and the sleep
	__atomic_store_n((int *)tid, gettid(), __ATOMIC_SEQ_CST);
	while (!handled_in)
		sigsuspend(&m);
	return NULL;
}

static void *exits_group(void *x) { exit(13); }
static void *exits_thread(void *x)
{
	until_state(getpid(), 'Z'); // the leader is gone, the group is not
	say("leader is %s", state_of(getpid()));
	_exit(14);
}
static void *faults(void *x) { return (void *)(long)*(volatile int *)8; }
static void *cancelled(void *x)
{
	for (;;)
		pause();
}

CASE(thread_signals)
{
	struct sigaction a = {.sa_handler = handler};
	sigaction(SIGUSR1, &a, NULL);
	sigset_t m;
	sigemptyset(&m), sigaddset(&m, SIGUSR1);
	for (int i = 0; i < 2; i++) {
		int tid = 0;
		pthread_t t;
		handled_in = 0;
		pthread_sigmask(SIG_UNBLOCK, &m, NULL);
		pthread_create(&t, NULL, i ? sleeps : spins, &tid);
		while (!__atomic_load_n(&tid, __ATOMIC_SEQ_CST))
			sched_yield();
		pthread_sigmask(SIG_BLOCK, &m, NULL);
		kill(getpid(), SIGUSR1); // only the other thread can take it
		while (!handled_in)
			if (i)
				nap(1);
		pthread_kill(t, SIGUSR1);
		pthread_join(t, NULL);
		say("the right thread %d", handled_in == tid);
	}
	E(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
	sigpending(&m);
	say("pending %d", sigismember(&m, SIGUSR1));
	pthread_t t;
	CHILD {
		pthread_create(&t, NULL, exits_group, NULL);
		for (;;)
			pause();
	}
	CHILD {
		pthread_create(&t, NULL, exits_thread, NULL);
		pthread_exit(NULL);
	}
	CHILD {
		pthread_create(&t, NULL, faults, NULL);
		for (;;)
			pause();
	}
	pthread_create(&t, NULL, cancelled, NULL);
	pthread_cancel(t);
	void *r;
	pthread_join(t, &r);
	say("cancelled %d", r == PTHREAD_CANCELED);
	CHILD { // fork in a threaded program leaves one thread
		pthread_create(&t, NULL, cancelled, NULL);
		CHILD {
			long count = 0;
			struct stat s;
			stat("/proc/self/task", &s);
			say("threads %ld", (long)s.st_nlink - 2);
		}
	}
	CHILD { // a stop stops them all
		int tid;
		pthread_create(&t, NULL, spins, &tid);
		pid_t pid = getpid();
		if (!fork()) {
			kill(pid, SIGSTOP);
			until_state(pid, 'T');
			kill(pid, SIGCONT);
			kill(pid, SIGKILL);
			_exit(0);
		}
		for (;;)
			pause();
	}
}

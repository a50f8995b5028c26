// executor runs programs that bulkhead/test/table generates: it reads them from
// descriptor 0, runs each in PID, mount, IPC, UTS and network namespaces of its
// own, so that nothing of one is left for the next, and writes a struct report to
// descriptor 1. generate.go says what a program is, layout.go what memory it
// finds; the numbers here and there are the same.
//
// It calls by bare instructions: a program may take anything from beneath it,
// libc's state included, and a process that dies of that is as good as any.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define DATA 0x10000000UL // 64 pages, see layout.go
#define PAGES 64
#define SLOTS 64
#define THREADS 8
#define PAGE 4096UL
#define STACK (64 * 1024)

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

// What the driver is told of one program.
struct report {
	u32 magic, status, seen, broken; // broken: the executor could not set it up
	u64 value;                       // what was seen
	u32 done[512], failed[512];      // calls by number, that succeeded and that did not
};

enum { WELL, KILLED };                            // status: ended by itself, or by its time's end
enum { NOTHING, MARKER, GO_POINTER, OLD_PAGE };   // seen

// shared is what the processes of one program have in common with the
// supervisor. A program can find and spoil it, which costs a wrong report only of
// what it called; what was seen is looked for again by nobody else.
struct shared {
	volatile u64 slots[SLOTS];
	volatile u32 start;
	struct report report;
};

static struct shared *shared;
static u8 *program;
static u32 size;
static u8 marker[32];
static u32 marker_size;

static long bare(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	long result;
	register u64 r10 asm("r10") = d, r8 asm("r8") = e, r9 asm("r9") = f;
	asm volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}

// on_stack makes the call with the stack pointer that the program chose.
static long on_stack(u64 sp, long nr, const u64 *args)
{
	long result;
	register u64 r10 asm("r10") = args[3], r8 asm("r8") = args[4], r9 asm("r9") = args[5];
	register u64 keep asm("r12") = sp;
	asm volatile("xchg %%rsp, %%r12\n syscall\n mov %%r12, %%rsp"
		     : "=a"(result), "+r"(keep) : "a"(nr), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return result;
}

// Faults of the executor's own accesses to a program's memory: it goes on behind
// them. A thread's jump buffer is found by the stack that it is on.
struct thread {
	sigjmp_buf jump;
	volatile int armed;
	int index;
	u8 *at, *end;
};
static struct thread threads[THREADS * 16];
static u8 stacks[THREADS * 16][STACK] __attribute__((aligned(STACK)));
static volatile u32 stacks_used;

static struct thread *self(void)
{
	u64 here = ((u64)__builtin_frame_address(0) - (u64)stacks) / STACK;
	return here < THREADS * 16 ? &threads[here] : NULL;
}

static void on_fault(int n, siginfo_t *info, void *context)
{
	struct thread *t = self();
	if (t && t->armed) {
		t->armed = 0;
		siglongjmp(t->jump, 1);
	}
	_exit(40);
}

#define TRY(t) (t->armed = 1, sigsetjmp(t->jump, 0) == 0)
#define DONE(t) (t->armed = 0)

// The functions that a program can name by index.
static void handler_nothing(int n) {}
static void handler_call(int n) { bare(SYS_getpid, 0, 0, 0, 0, 0, 0); }
static void handler_unmap(int n) { bare(SYS_munmap, DATA + 48 * PAGE, PAGE, 0, 0, 0, 0); }
static void handler_spoil(int n, siginfo_t *info, void *context)
{
	// The frame that rt_sigreturn takes back, at a place of the program's choice.
	u64 *frame = context, at = shared->slots[SLOTS - 1];
	frame[at % 120] ^= shared->slots[SLOTS - 2];
}
static void handler_exit(int n) { bare(SYS_exit, 0, 0, 0, 0, 0, 0); }
static void restorer(void) { bare(SYS_rt_sigreturn, 0, 0, 0, 0, 0, 0); }
extern void real_restorer(void);
asm("real_restorer: mov $15, %eax\n syscall\n hlt");
static void *const code[] = {handler_nothing, handler_call, handler_unmap, handler_spoil, handler_exit, restorer, real_restorer};

// look fails the report if the bytes at a pointer that was passed hold what no
// container may see: the marker, or a pointer into a Go heap.
static void look(struct thread *t, u64 at)
{
	if (at < DATA || at >= DATA + PAGES * PAGE)
		return;
	u64 end = at + 2048;
	if (end > DATA + PAGES * PAGE)
		end = DATA + PAGES * PAGE;
	if (!TRY(t))
		return;
	for (u64 i = at; i + 8 <= end; i++) {
		u64 v = *(volatile u64 *)i;
		if (!(i & 7) && v >> 28 == 0xc00 && (v & 0xffff000) && !(v & 7)) { // in the first 256 MiB of the heap
			shared->report.seen = GO_POINTER;
			shared->report.value = v;
		}
		if (marker_size && *(u8 *)i == (u8)(marker[0] ^ 0x5a) && i + marker_size <= end) {
			u32 n = 0;
			while (n < marker_size && ((u8 *)i)[n] == (u8)(marker[n] ^ 0x5a))
				n++;
			if (n == marker_size)
				shared->report.seen = MARKER;
		}
	}
	DONE(t);
}

static u64 take(struct thread *t, int bytes)
{
	u64 v = 0;
	if (t->end - t->at < bytes) {
		t->at = t->end;
		return 0;
	}
	memcpy(&v, t->at, bytes);
	t->at += bytes;
	return v;
}

static u64 argument(struct thread *t)
{
	switch (take(t, 1)) {
	case 0:
		return take(t, 8);
	case 1:
		return shared->slots[take(t, 1) % SLOTS];
	case 2:
		return (u64)code[take(t, 1) % (sizeof code / sizeof *code)];
	case 3: {
		u64 slot = take(t, 1);
		return shared->slots[slot % SLOTS] + take(t, 8);
	}
	case 4:
		switch (take(t, 1)) {
		case 0:
			return bare(SYS_getpid, 0, 0, 0, 0, 0, 0);
		case 1:
			return bare(SYS_gettid, 0, 0, 0, 0, 0, 0);
		default:
			return bare(SYS_getppid, 0, 0, 0, 0, 0, 0);
		}
	case 5: {
		u64 at = take(t, 8), v = 0;
		if (TRY(t))
			v = *(volatile u64 *)at;
		DONE(t);
		return v;
	}
	}
	return 0;
}

static void store(u64 at, int bytes, u64 v)
{
	switch (bytes) {
	case 1: *(volatile u8 *)at = v; break;
	case 2: *(volatile u16 *)at = v; break;
	case 4: *(volatile u32 *)at = v; break;
	default: *(volatile u64 *)at = v;
	}
}

static void call(struct thread *t, int stacked)
{
	u64 sp = stacked ? argument(t) : 0, args[6];
	u32 nr = take(t, 4), slot = take(t, 1);
	for (int i = 0; i < 6; i++)
		args[i] = argument(t);
	long result = stacked ? on_stack(sp, nr, args) : bare(nr, args[0], args[1], args[2], args[3], args[4], args[5]);
	if (result >= -4095 && result < 0)
		shared->report.failed[nr % 512]++;
	else {
		shared->report.done[nr % 512]++;
		if (slot < SLOTS)
			shared->slots[slot] = result;
	}
	for (int i = 0; i < 6; i++)
		look(t, args[i]);
}

// Instructions that leave an ordinary program's path.
static void strange(u32 which)
{
	u64 low = 0, value;
	switch (which % 24) {
	case 0: asm volatile("int3"); break;
	case 1: asm volatile("ud2"); break;
	case 2: asm volatile("hlt"); break;
	case 3: asm volatile("outb %%al, $0x80" ::"a"(0)); break;
	case 4: asm volatile("inb $0x60, %%al" : "=a"(low)); break;
	case 5: asm volatile("int $0x80" : "+a"(low)::"memory"); break;
	case 6: asm volatile("int $0x20"); break;
	case 7: asm volatile("cli"); break;
	case 8: asm volatile("pushf\n orl $0x100, (%%rsp)\n popf\n nop\n nop\n pushf\n andl $~0x100, (%%rsp)\n popf" ::: "cc", "memory"); break;
	case 9: asm volatile("pushf\n orl $0x40000, (%%rsp)\n popf\n mov 1(%%rsp), %%rax\n pushf\n andl $~0x40000, (%%rsp)\n popf" ::: "rax", "cc", "memory"); break;
	case 10: asm volatile("rdtsc" : "=a"(low)::"rdx"); break;
	case 11: asm volatile("rdtscp" : "=a"(low)::"rdx", "rcx"); break;
	case 12: asm volatile("cpuid" : "+a"(low)::"rbx", "rcx", "rdx"); break;
	case 13: asm volatile("mov %%cr0, %0" : "=r"(value)); break;
	case 14: asm volatile("rdmsr" ::"c"(0xc0000082) : "rax", "rdx"); break;
	case 15: asm volatile("wrmsr" ::"c"(0xc0000082), "a"(0), "d"(0)); break;
	case 16: asm volatile("sgdt %0" : "=m"(*(u8(*)[16])(u64[2]){0})); break;
	case 17: asm volatile("mov %0, %%fs" ::"r"(0x2b)); break;
	case 18: asm volatile("mov %0, %%ds" ::"r"(0x13)); break;
	case 19: asm volatile("xor %%ecx, %%ecx\n xgetbv" ::: "rax", "rcx", "rdx"); break;
	case 20: ((void (*)(void))0xffffffffff600400UL)(); break; // vsyscall time()
	case 21: asm volatile("jmp *%0" ::"r"(0x7fffffffe000UL)); break; // where ptrace's stub page is
	case 22: asm volatile("jmp *%0" ::"r"(0x800000000000UL)); break;
	case 23: asm volatile("std\n syscall\n cld" : "+a"(low)::"rcx", "r11", "memory"); break;
	}
}

static void run(struct thread *t);

struct child {
	u8 *at, *end;
};

static int child_main(void *argument)
{
	struct child c = *(struct child *)argument;
	struct thread *t = self();
	if (!t)
		_exit(41);
	t->at = c.at, t->end = c.end, t->armed = 0;
	run(t);
	bare(SYS_exit, 0, 0, 0, 0, 0, 0);
	return 0;
}

static void forks(struct thread *t)
{
	u64 flags = argument(t);
	u32 slot = take(t, 1), length = take(t, 2);
	if (length > t->end - t->at)
		length = t->end - t->at;
	struct child c = {t->at, t->at + length};
	u32 mine = __atomic_fetch_add(&stacks_used, 1, __ATOMIC_RELAXED);
	if (mine < THREADS * 16) {
		long result = clone(child_main, stacks[mine] + STACK - 64, flags, &c, NULL, NULL, NULL);
		if (result > 0 && slot < SLOTS)
			shared->slots[slot] = result;
	}
	t->at += length;
	sched_yield(); // c is ours, and a child that shares our memory reads it
}

static void run(struct thread *t)
{
	while (t->at < t->end) {
		u8 op = take(t, 1);
		switch (op) {
		case 1:
		case 6:
			call(t, op == 6);
			break;
		case 2: {
			int bytes = take(t, 1);
			u64 at = argument(t), v = argument(t);
			if (TRY(t))
				store(at, bytes, v);
			DONE(t);
			break;
		}
		case 3: {
			u64 at = argument(t);
			u32 length = take(t, 2);
			if (length > t->end - t->at)
				length = t->end - t->at;
			if (TRY(t))
				memcpy((void *)at, t->at, length);
			DONE(t);
			t->at += length;
			break;
		}
		case 4:
			forks(t);
			break;
		case 5: { // another thread rewrites what a call is about to read
			int bytes = take(t, 1);
			u64 at = argument(t), a = argument(t), b = argument(t);
			u32 times = take(t, 2);
			if (TRY(t))
				for (volatile u32 i = 0; i < times * 16; i++) {
					store(at, bytes, a);
					store(at, bytes, b);
				}
			DONE(t);
			break;
		}
		case 7: {
			u32 times = take(t, 1), length = take(t, 2);
			if (length > t->end - t->at)
				length = t->end - t->at;
			u8 *at = t->at, *end = t->end;
			for (volatile u32 i = 0; i < times; i++) {
				t->at = at, t->end = at + length;
				run(t);
			}
			t->at = at + length, t->end = end;
			break;
		}
		case 8: {
			u64 at = argument(t);
			if (TRY(t))
				*(volatile u8 *)at;
			DONE(t);
			break;
		}
		case 9: {
			u32 which = take(t, 1);
			if (TRY(t))
				strange(which);
			DONE(t);
			break;
		}
		default:
			return;
		}
	}
}

static int thread_main(void *argument)
{
	struct thread *t = argument;
	__atomic_fetch_sub(&shared->start, 1, __ATOMIC_RELAXED);
	for (volatile int i = 0; i < 2000 && shared->start; i++)
		sched_yield();
	run(t);
	bare(SYS_exit, 0, 0, 0, 0, 0, 0);
	return 0;
}

// memory lays out what layout.go describes.
static void memory(int file)
{
	char *at = (char *)DATA;
	int f = MAP_FIXED;
	mmap(at, 16 * PAGE, PROT_READ | PROT_WRITE, f | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mmap(at + 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE, f | MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mmap(at + 32 * PAGE, 4 * PAGE, PROT_READ, f | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mmap(at + 36 * PAGE, 4 * PAGE, PROT_NONE, f | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mmap(at + 40 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, f | MAP_PRIVATE, file, 0);
	mmap(at + 44 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, f | MAP_SHARED, file, 0);
	mmap(at + 48 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE, f | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (u64 i = 0; i < 32 * PAGE / 8; i++) // small numbers, as structures have them
		((u64 *)DATA)[i] = i % 5;
}

static void slot(int n, long value) { shared->slots[n] = value; }

// descriptors are those that layout.go names; one that cannot be had stays -1.
static void descriptors(void)
{
	int p[2], on = 1;
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof in;
	mkdir("d", 0777), mkdir("d/d", 0777), mkdir("e", 0777), mkdir("f", 0777), symlink("d/a", "l"), close(creat("a", 0666)), close(creat("d/a", 0666));
	slot(0, open("file", O_RDWR | O_CREAT, 0666));
	ftruncate(shared->slots[0], 2 * PAGE + 100);
	slot(1, open(".", O_RDONLY | O_DIRECTORY));
	pipe2(p, O_NONBLOCK);
	slot(2, p[0]), slot(3, p[1]);
	socketpair(AF_UNIX, SOCK_STREAM, 0, p);
	slot(4, p[0]), slot(5, p[1]);
	socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, p);
	slot(6, p[0]), slot(7, p[1]);
	slot(8, epoll_create1(0));
	slot(9, eventfd(0, EFD_NONBLOCK));
	slot(10, timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
	slot(11, inotify_init1(IN_NONBLOCK));
	sigset_t all;
	sigfillset(&all);
	slot(12, signalfd(-1, &all, SFD_NONBLOCK));
	slot(13, memfd_create("m", MFD_ALLOW_SEALING));
	ftruncate(shared->slots[13], 8 * PAGE);
	slot(14, syscall(SYS_pidfd_open, getpid(), 0));
	slot(15, posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK));
	ioctl(shared->slots[15], TIOCSPTLCK, &(int){0});
	slot(16, ioctl(shared->slots[15], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK));
	slot(17, socket(AF_INET, SOCK_STREAM, 0));
	bind(shared->slots[17], (void *)&in, sizeof in);
	listen(shared->slots[17], 4);
	getsockname(shared->slots[17], (void *)&in, &length);
	slot(18, socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	connect(shared->slots[18], (void *)&in, sizeof in);
	slot(19, socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0));
	slot(20, socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK, 0));
	slot(21, open("/host/file", O_RDWR | O_CREAT, 0666));
	slot(22, open("/proc/self", O_RDONLY | O_DIRECTORY));
	slot(23, open("/proc/self/mem", O_RDWR));
	ioctl(shared->slots[18], FIONBIO, &on);
	memory(shared->slots[0]);
}

static u32 word(u32 at) { u32 v = 0; memcpy(&v, program + at, 4); return v; }

// body is a program's first process, PID 2 of its namespace.
static void body(void)
{
	u32 flags = word(4), count = word(8) % (THREADS + 1), at = 12 + 4 * THREADS;
	struct rlimit files = {256, 256}, small = {1 << 20, 1 << 20};
	descriptors();
	setrlimit(RLIMIT_NOFILE, &files);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	setrlimit(RLIMIT_FSIZE, &(struct rlimit){64 << 20, 64 << 20});
	if (flags & 1)
		syscall(SYS_setresuid, 1000, 1000, 1000);
	if (flags & 2)
		setrlimit(RLIMIT_MEMLOCK, &small);
	struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
	for (int i = 0; i < 5; i++)
		sigaction((int[]){SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE}[i], &fault, NULL);
	stacks_used = THREADS;
	shared->start = count;
	const int like = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
	for (u32 i = 0; i < count; i++) {
		u32 length = word(12 + 4 * i);
		if (at > size || length > size - at)
			break;
		threads[i].at = program + at, threads[i].end = program + at + length;
		at += length;
		clone(thread_main, stacks[i] + STACK - 64, like, &threads[i]);
	}
	bare(SYS_exit, 0, 0, 0, 0, 0, 0); // the process lives on in its threads
}

// world is PID 1 of a program's namespace: its end is the end of all in it.
static int world(void *unused)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int score = open("/proc/self/oom_score_adj", O_WRONLY);
	if (write(score, "0", 1) != 1)
		_exit(50);
	syscall(SYS_close_range, 0, ~0U, 0);
	mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL);
	umount2("/proc", MNT_DETACH);
	if (mount("proc", "/proc", "proc", 0, NULL) || mount("t", "/work", "tmpfs", 0, "size=32m,mode=777") || chdir("/work"))
		_exit(51);
	if (open("/dev/null", O_RDWR) != 0 || dup(0) != 1 || dup(0) != 2)
		_exit(52);
	prctl(PR_SET_NAME, "world");
	pid_t pid = fork();
	if (pid == 0)
		body();
	int status;
	while (waitpid(-1, &status, 0) > 0)
		;
	_exit(0);
}

// old_page looks whether fresh memory comes with what others left in it.
static void old_page(struct report *r)
{
	u64 *at = mmap(NULL, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return;
	for (u32 i = 0; i < 32 * PAGE / 8; i++)
		if (at[i]) {
			r->seen = OLD_PAGE;
			r->value = at[i];
		}
	munmap(at, 32 * PAGE);
}

static int all(int fd, void *bytes, u32 length, int out)
{
	for (u8 *at = bytes; length;) {
		long n = out ? write(fd, at, length) : read(fd, at, length);
		if (n <= 0)
			return 0;
		at += n, length -= n;
	}
	return 1;
}

static int one(int milliseconds)
{
	static u8 stack[STACK] __attribute__((aligned(64)));
	memset(shared, 0, sizeof *shared);
	for (int i = 0; i < SLOTS; i++)
		shared->slots[i] = -1;
	struct report *r = &shared->report;
	r->magic = 0x52455054;
	const int flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | (word(4) & 4 ? CLONE_NEWNET : 0);
	pid_t pid = clone(world, stack + sizeof stack, flags | SIGCHLD, NULL);
	if (pid < 0) {
		r->broken = errno;
		return 1;
	}
	struct pollfd ended = {syscall(SYS_pidfd_open, pid, 0), POLLIN};
	u32 status = WELL;
	if (poll(&ended, 1, milliseconds) == 0) {
		status = KILLED;
		kill(pid, SIGKILL);
	}
	close(ended.fd);
	int s = 0;
	while (waitpid(pid, &s, 0) != pid)
		;
	r->magic = 0x52455054, r->status = status; // the program could write here
	r->broken = WIFEXITED(s) && WEXITSTATUS(s) >= 50 ? WEXITSTATUS(s) : 0;
	old_page(r);
	return 1;
}

int main(int argc, char **argv)
{
	const u32 most = 1 << 20;
	if (argc > 2)
		marker_size = strlen(argv[2]);
	memcpy(marker, argc > 2 ? argv[2] : "", marker_size);
	int score = open("/proc/self/oom_score_adj", O_WRONLY);
	if (write(score, "-1000", 5) != 5)
		return 3;
	close(score);
	shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	program = mmap(NULL, most, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (;;) {
		if (!all(0, &size, 4, 0))
			return 0;
		if (size > most || size < 12 + 4 * THREADS || !all(0, program, size, 0))
			return 2;
		if (!one(argc > 1 ? atoi(argv[1]) : 1000) || !all(1, &shared->report, sizeof shared->report, 1))
			return 1;
	}
}

#include "corpus.h"
#include <setjmp.h>

#define PAGE 4096L
#define MAP(length, prot, flags) mmap(NULL, length, prot, flags, -1, 0)
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static sigjmp_buf back;
static siginfo_t fault;
static void on_fault(int n, siginfo_t *i, void *context)
{
	fault = *i;
	siglongjmp(back, n);
}

static void catch_faults(void)
{
	struct sigaction a = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
	sigaction(SIGSEGV, &a, NULL);
	sigaction(SIGBUS, &a, NULL);
}

// touch says what an access at p does.
static void touch(const char *what, volatile char *p, int write)
{
	int n = sigsetjmp(back, 1);
	if (n) {
		say("%s: signal %d code %d address right %d", what, n, fault.si_code, fault.si_addr == (void *)p);
		return;
	}
	if (write)
		*p = 1;
	else
		(void)*p;
	say("%s: fine", what);
}

CASE(mmap_errors)
{
	int ro = open("f", O_CREAT | O_RDONLY, 0600), wo = open("f", O_WRONLY), p[2];
	pipe(p);
#define FAILS(call) ((call) == MAP_FAILED ? -1 : 0)
	E(FAILS(mmap(NULL, 0, PROT_READ, ANON, -1, 0)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, 0, ro, 0)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_SHARED, ro, 0)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, 99, 0)));
	E(FAILS(mmap(NULL, PAGE, RW, MAP_SHARED, ro, 0)));
	E(FAILS(mmap(NULL, PAGE, RW, MAP_PRIVATE, ro, 0)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, wo, 0)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, ro, 100)));
	E(FAILS(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, p[0], 0)));
	E(FAILS(mmap((void *)1, PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0)));
	E(FAILS(mmap(NULL, 1UL << 62, PROT_READ, ANON, -1, 0)));
	E(FAILS(mmap((void *)(1UL << 50), PAGE, PROT_READ, ANON | MAP_FIXED, -1, 0)));
	char *m = MAP(3 * PAGE, RW, ANON);
	E(FAILS(mmap(m + PAGE, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0)));
	E(mmap(m + PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0) == m + PAGE);
	E(munmap(m + 1, PAGE));
	E(munmap(m, 0));
	E(munmap(m, 3 * PAGE));
	E(munmap(m, 3 * PAGE));
	E(mprotect(m, PAGE, PROT_READ));
	E(mprotect(m + 1, PAGE, PROT_READ));
	E(msync(m, PAGE, MS_SYNC));
	E(madvise(m, PAGE, MADV_DONTNEED));
	m = MAP(PAGE, RW, ANON);
	E(msync(m, PAGE, MS_SYNC | MS_ASYNC));
	E(madvise(m, PAGE, 9999));
	E(madvise(m + 1, PAGE, MADV_DONTNEED));
	E(mlock(m, PAGE));
	E(munlock(m, PAGE));
	struct rlimit as = {64 << 20, 64 << 20};
	CHILD {
		setrlimit(RLIMIT_AS, &as);
		E(FAILS(MAP(65 << 20, RW, ANON)));
	}
}

CASE(protections)
{
	catch_faults();
	char *m = MAP(4 * PAGE, RW, ANON);
	touch("write", m, 1);
	mprotect(m, PAGE, PROT_READ);
	touch("read of read-only", m, 0);
	touch("write to read-only", m + 9, 1);
	mprotect(m, PAGE, PROT_NONE);
	touch("read of none", m + 5, 0);
	mprotect(m, PAGE, RW);
	touch("write again", m, 1);
	munmap(m + PAGE, PAGE);
	touch("unmapped", m + PAGE + 1, 0);
	touch("null", NULL, 0);
	E(mprotect(m, 3 * PAGE, PROT_READ));
	touch("first is changed before the hole", m, 1);
	touch("after the hole not", m + 2 * PAGE, 1);
	int n = sigsetjmp(back, 1);
	if (n)
		say("non-canonical: signal %d code %d", n, fault.si_code);
	else
		*(volatile char *)0x8000000000000000 = 1;
	n = sigsetjmp(back, 1);
	if (n)
		say("execute: signal %d code %d right %d", n, fault.si_code, fault.si_addr == m + 3 * PAGE);
	else
		((void (*)(void))(m + 3 * PAGE))();
	char *code = MAP(PAGE, RW, ANON);
	memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6); // mov $42, %eax; ret
	mprotect(code, PAGE, PROT_READ | PROT_EXEC);
	say("code returns %d", ((int (*)(void))code)());
	mprotect(code, PAGE, RW | PROT_EXEC);
	code[1] = 43;
	say("changed code returns %d", ((int (*)(void))code)());
	memcpy(code, "\xb8\x6e\x00\x00\x00\x0f\x05\xc3", 8); // getppid by a syscall of our own
	say("own syscall %d", ((int (*)(void))code)() == getppid());
	CHILD { signal(SIGSEGV, SIG_DFL), *(volatile int *)8 = 1; }
	CHILD { signal(SIGSEGV, SIG_IGN), *(volatile int *)8 = 1; }
}

CASE(file_maps)
{
	catch_faults();
	char b[8192] = "";
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	memset(b, 'a', 6000);
	write(fd, b, 6000);
	char *s = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0), *p = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
	say("%c %c tail %d", s[0], p[5999], s[6000]);
	s[1] = 'S';
	pread(fd, b, 2, 0);
	say("read sees the shared map %c, private sees %c", b[1], p[1]);
	p[2] = 'P';
	say("shared keeps %c", s[2]);
	pwrite(fd, "w", 1, 2);
	pwrite(fd, "w", 1, 4096);
	say("private copy keeps %c, other page sees %c, shared sees %c%c", p[2], p[4096], s[2], s[4096]);
	touch("past the end in the last page", s + 8000, 1);
	touch("past the last page", s + 2 * PAGE, 0);
	ftruncate(fd, 3 * PAGE);
	touch("after growing", s + 2 * PAGE, 0);
	say("grown tail is zero %d", s[6500]);
	ftruncate(fd, 100);
	touch("after shrinking", s + PAGE, 0);
	touch("private after shrinking", p + PAGE, 0);
	touch("first page remains", s, 0);
	say("beyond the end %d", s[200]);
	E(msync(s, PAGE, MS_SYNC));
	close(fd);
	s[3] = 'Z';
	unlink("f");
	say("unlinked map lives %c", s[3]);
	put("g", "text of g");
	fd = open("g", O_RDONLY);
	char *ro = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	E(mprotect(ro, PAGE, RW));
	char *second = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, PAGE);
	touch("wholly past the end", second, 0);
	int dev = open("/dev/zero", O_RDWR);
	char *z = mmap(NULL, PAGE, RW, MAP_PRIVATE, dev, 0);
	z[0] = 'z';
	say("/dev/zero maps %c%d", z[0], z[1]);
}

CASE(copy_on_write)
{
	char *private = MAP(64 * PAGE, RW, ANON), *shared = MAP(PAGE, RW, MAP_SHARED | MAP_ANONYMOUS);
	for (int i = 0; i < 64; i++)
		private[i * PAGE] = i;
	CHILD {
		private[0] = 77, private[5 * PAGE] = 78, shared[0] = 's';
		int good = 1;
		for (int i = 6; i < 64; i++)
			good &= private[i * PAGE] == i;
		say("child sees %d %d, others %d", private[0], private[5 * PAGE], good);
	}
	say("parent sees %d %d, shared %c", private[0], private[5 * PAGE], shared[0]);
	int p[2], q[2];
	pipe(p), pipe(q);
	if (!(child_pid = fork())) {
		char c;
		read(p[0], &c, 1);
		say("child still sees %d", private[9 * PAGE]);
		if (!fork()) {
			private[9 * PAGE] = 1;
			_exit(0);
		}
		wait(NULL);
		say("after grandchild %d", private[9 * PAGE]);
		_exit(0);
	}
	private[9 * PAGE] = 99;
	write(p[1], "x", 1);
	wait(NULL);
	say("parent %d", private[9 * PAGE]);
	char *none = MAP(PAGE, RW, ANON);
	E(madvise(none, PAGE, MADV_DONTFORK));
	CHILD { none[0] = 1; }
	char *wipe = MAP(PAGE, RW, ANON);
	wipe[0] = 9;
	E(madvise(wipe, PAGE, MADV_WIPEONFORK));
	CHILD { say("wiped %d", wipe[0]); }
	// The kernel writes into a page shared by copy on write.
	CHILD {
		lseek(open("g", O_CREAT | O_RDWR, 0600), 0, SEEK_SET);
		int fd = open("g", O_RDWR);
		write(fd, "kernel", 6), lseek(fd, 0, SEEK_SET);
		read(fd, private + 20 * PAGE, 6);
		say("child %.6s", private + 20 * PAGE);
	}
	say("parent %d", private[20 * PAGE]);
}

CASE(remaps)
{
	catch_faults();
	char *m = MAP(4 * PAGE, RW, ANON);
	strcpy(m, "first"), strcpy(m + 3 * PAGE, "last");
	char *n = mremap(m, 4 * PAGE, 2 * PAGE, 0);
	say("shrunk in place %d", n == m);
	touch("cut off", m + 3 * PAGE, 0);
	char *blocker = mmap(m + 2 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0);
	E(mremap(m, 2 * PAGE, 8 * PAGE, 0) == MAP_FAILED ? -1 : 0);
	n = mremap(m, 2 * PAGE, 8 * PAGE, MREMAP_MAYMOVE);
	say("moved %d keeps %s", n != m, n);
	touch("old place", m, 0);
	touch("new tail", n + 7 * PAGE, 1);
	char *target = MAP(8 * PAGE, PROT_NONE, ANON);
	char *f = mremap(n, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target);
	say("fixed %d %s", f == target, f);
	E(mremap(f, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, f + PAGE) == MAP_FAILED ? -1 : 0);
	E(mremap(f, 8 * PAGE, 0, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
	E(mremap(f + 1, PAGE, PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
	E(mremap(f, PAGE, PAGE, MREMAP_FIXED, target) == MAP_FAILED ? -1 : 0);
	munmap(blocker, PAGE);
	E(mremap(m, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
	char *shared = MAP(PAGE, RW, MAP_SHARED | MAP_ANONYMOUS);
	shared[0] = 'x';
	char *twin = mremap(shared, 0, PAGE, MREMAP_MAYMOVE);
	say("twin %c", twin[0]);
	twin[1] = 'y';
	say("shares %c", shared[1]);
	E(mremap(f, 0, PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? -1 : 0);
	char *keep = mremap(f, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | 4 /* DONTUNMAP */);
	say("dontunmap %s, old is zero %d", keep, f[0]);
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	ftruncate(fd, 3 * PAGE);
	pwrite(fd, "third", 5, 2 * PAGE);
	char *file = mmap(NULL, PAGE, RW, MAP_SHARED, fd, PAGE);
	file = mremap(file, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
	say("%s", file + PAGE);
}

CASE(heap_and_advice)
{
	catch_faults();
	char *start = sbrk(0);
	E(brk(start + 10 * PAGE));
	touch("heap", start + 9 * PAGE, 1);
	E(brk(start));
	touch("given back", start + 9 * PAGE, 1);
	say("brk(0) answers the end %d", (char *)syscall(SYS_brk, 0) == start);
	char *m = MAP(4 * PAGE, RW, ANON);
	m[0] = 5, m[PAGE] = 6;
	E(madvise(m, PAGE, MADV_DONTNEED));
	say("%d %d", m[0], m[PAGE]);
	E(madvise(m, 4 * PAGE, MADV_WILLNEED));
	E(madvise(m, 4 * PAGE, MADV_HUGEPAGE) <= 0);
	unsigned char v[4];
	m[2 * PAGE] = 1;
	E(mincore(m, 3 * PAGE, v));
	say("%d %d", v[1] & 1, v[2] & 1);
	E(mincore(m + 1, PAGE, v));
	munmap(m, PAGE);
	E(mincore(m, PAGE, v));
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	ftruncate(fd, 2 * PAGE);
	char *s = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0), *p = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
	s[0] = 's', p[0] = 'p';
	E(madvise(p, PAGE, MADV_DONTNEED));
	say("private falls back to the file %c", p[0]);
	E(madvise(s, PAGE, MADV_DONTNEED));
	say("shared keeps %c", s[0]);
	E(madvise(s, PAGE, MADV_REMOVE));
	say("hole %d", s[0]);
	E(madvise(m + PAGE, PAGE, MADV_FREE));
	char *big = MAP(32 << 20, RW, ANON);
	long sum = 0;
	for (long i = 0; i < 32 << 20; i += PAGE)
		big[i] = i >> 12;
	for (long i = 0; i < 32 << 20; i += PAGE)
		sum += (unsigned char)big[i];
	say("sum %ld", sum);
	E(munmap(big + (8 << 20), 8 << 20));
	touch("hole of a big map", big + (9 << 20), 0);
	say("beside it %d", big[(16 << 20) + PAGE]);
}

CASE(bad_addresses)
{
	char *edge = MAP(2 * PAGE, RW, ANON);
	mprotect(edge + PAGE, PAGE, PROT_NONE);
	char *last = edge + PAGE - 4;
	void *bad = (void *)8, *kernel = (void *)0xffff800000000000;
	int p[2];
	pipe(p);
	memcpy(last, "abcd", 4);
	E(write(p[1], last, 8)); // partly there
	E(write(p[1], last, 4));
	E(read(p[0], last, 8) > 0);
	E(write(p[1], kernel, 1));
	E(pipe(bad));
	E(stat(bad, bad));
	E(stat("/", kernel));
	E(getcwd(bad, 100) == NULL ? -1 : 0);
	E(uname(bad));
	E(syscall(SYS_gettimeofday, bad, NULL));
	E(syscall(SYS_clock_gettime, 0, bad));
	E(nanosleep(bad, NULL));
	E(syscall(SYS_rt_sigprocmask, SIG_BLOCK, bad, NULL, 8));
	E(syscall(SYS_rt_sigaction, SIGUSR1, bad, NULL, 8));
	E(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4));
	E(execve(bad, NULL, NULL));
	E(syscall(SYS_execve, "/bin/true", bad, NULL));
	E(wait4(-1, bad, 0, NULL));
	E(getrlimit(RLIMIT_CORE, bad));
	E(getrusage(RUSAGE_SELF, bad));
	E(readlink("/proc/self/exe", bad, 10));
	E(syscall(SYS_futex, bad, 0, 0, NULL, NULL, 0));
	E(syscall(SYS_futex, edge + 1, 0, 0, NULL, NULL, 0));
	E(epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, 0, bad));
	E(getrandom(bad, 10, 0));
	E(socketpair(AF_UNIX, SOCK_STREAM, 0, bad));
	char *unterminated = MAP(2 * PAGE, RW, ANON);
	munmap(unterminated + PAGE, PAGE);
	memset(unterminated, 'a', PAGE);
	E(open(unterminated + PAGE - 10, O_RDONLY));
	memset(unterminated + PAGE - 10, '/', 9), unterminated[PAGE - 1] = 0;
	OK(open(unterminated + PAGE - 10, O_RDONLY));
	struct iovec local = {edge, 5}, remote = {"peek!", 5};
	E(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	dump("edge", edge, 5);
	remote.iov_base = bad;
	E(process_vm_readv(getpid(), &local, 1, &remote, 1, 0));
	E(process_vm_readv(-5, &local, 1, &remote, 1, 0));
	remote.iov_base = edge + 100;
	E(process_vm_writev(getppid(), &local, 1, &(struct iovec){edge, 0}, 1, 0));
}

CASE(maps_file)
{
	// The lines around a map of ours, with the address taken off.
	char line[512];
	int fd = open("mapped", O_CREAT | O_RDWR, 0600);
	ftruncate(fd, 4 * PAGE);
	char *m = mmap(NULL, 8 * PAGE, PROT_NONE, ANON, -1, 0);
	mmap(m + PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, PAGE);
	mmap(m + 4 * PAGE, PAGE, RW, ANON | MAP_FIXED, -1, 0);
	mmap(m + 5 * PAGE, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0);
	FILE *maps = fopen("/proc/self/maps", "r");
	int stack = 0, heap = 0, vdso = 0, text = 0;
	sbrk(PAGE);
	while (fgets(line, sizeof line, maps)) {
		unsigned long from, to, offset, inode;
		char mode[5], device[16], name[300] = "";
		sscanf(line, "%lx-%lx %4s %lx %15s %lu %299[^\n]", &from, &to, mode, &offset, device, &inode, name);
		stack |= !strcmp(name, "[stack]"), heap |= !strcmp(name, "[heap]"), vdso |= !strcmp(name, "[vdso]");
		text |= !strcmp(mode, "r-xp") && strstr(name, "corpus") != NULL;
		if (from >= (unsigned long)m && to <= (unsigned long)m + 8 * PAGE)
			say("+%lx %lx %s %lx inode %d %s", (from - (unsigned long)m) / PAGE, (to - from) / PAGE, mode, offset, inode != 0, *name ? strrchr(name, '/') : "-");
	}
	say("stack %d heap %d vdso %d text %d", stack, heap, vdso, text);
}

static int depth(int n)
{
	volatile char frame[1000];
	frame[0] = n;
	return n ? depth(n - 1) + frame[0] * 0 + 1 : 0;
}

CASE(stack)
{
	say("5 MB deep %d", depth(5000));
	CHILD {
		struct rlimit l = {1 << 20, 1 << 20};
		setrlimit(RLIMIT_STACK, &l);
		say("%d", depth(5000));
	}
	CHILD { say("%d", depth(20000000)); }
}

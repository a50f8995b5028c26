// Maps of memory: each call's arguments at their edges.
#include "corpus.h"
#include <setjmp.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MAP_SHARED_VALIDATE
#define MAP_SHARED_VALIDATE 3
#endif
#define P 4096L

// mapped is a map's answer: ok, or the errno.
#define MAPPED(call, ...)                                                         \
	do {                                                                      \
		char map_name[256];                                               \
		snprintf(map_name, sizeof map_name, __VA_ARGS__);                 \
		errno = 0;                                                        \
		void *map_got = call;                                             \
		say("%s: %s", map_name, map_got == MAP_FAILED ? errname(errno) : "ok"); \
	} while (0)

static sigjmp_buf out;
static void jump(int n, siginfo_t *i, void *c) { siglongjmp(out, n << 8 | i->si_code); }

// touch says what a read or a write of a byte meets.
static const char *touch(volatile char *at, int write)
{
	static char answer[32];
	struct sigaction a = {.sa_sigaction = jump, .sa_flags = SA_SIGINFO}, segv, bus;
	sigaction(SIGSEGV, &a, &segv), sigaction(SIGBUS, &a, &bus);
	int got = sigsetjmp(out, 1);
	if (got)
		sprintf(answer, "%s code %d", got >> 8 == SIGBUS ? "SIGBUS" : "SIGSEGV", got & 255);
	else {
		if (write)
			*at = 'w';
		sprintf(answer, "%02x", *(unsigned char *)at);
	}
	sigaction(SIGSEGV, &segv, NULL), sigaction(SIGBUS, &bus, NULL);
	return answer;
}

CASE(map_lengths)
{
	static unsigned long lengths[] = {0, 1, 4095, 4096, 4097, -1UL, -4096UL, 1UL << 47, (1UL << 47) - 4096, 1UL << 63};
	EACH(i, lengths) {
		MAPPED(mmap(0, lengths[i], PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), "mmap %lx", lengths[i]);
		ROW(munmap((void *)0x10000, lengths[i]), "munmap %lx", lengths[i]);
		ROW(mprotect((void *)0x10000, lengths[i], PROT_READ), "mprotect %lx", lengths[i]);
		ROW(madvise((void *)0x10000, lengths[i], MADV_NORMAL), "madvise %lx", lengths[i]);
		ROW(msync((void *)0x10000, lengths[i], MS_ASYNC), "msync %lx", lengths[i]);
		ROW(mincore((void *)0x10000, lengths[i], (void *)8), "mincore %lx", lengths[i]);
		ROW(munlock((void *)0x10000, lengths[i]), "munlock %lx", lengths[i]);
	}
}

CASE(map_addresses)
{
	static unsigned long at[] = {0, 1, 0x10001, 0x7ffffffff000, 0x800000000000, -4096UL, 0xffff800000000000};
	EACH(i, at) {
		if (at[i])
			MAPPED(mmap((void *)at[i], P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), "fixed %lx", at[i]);
		MAPPED(mmap((void *)at[i], P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "hint %lx", at[i]);
		if (at[i])
			MAPPED(mmap((void *)at[i], P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), "noreplace %lx", at[i]);
		ROW(munmap((void *)at[i], P), "munmap %lx", at[i]);
		ROW(mprotect((void *)at[i], P, PROT_READ), "mprotect %lx", at[i]);
		ROW(madvise((void *)at[i], P, MADV_DONTNEED), "madvise %lx", at[i]);
		ROW(msync((void *)at[i], P, MS_SYNC), "msync %lx", at[i]);
		ROW(mlock((void *)at[i], P), "mlock %lx", at[i]);
		MAPPED(mremap((void *)at[i], P, P, 0), "mremap %lx", at[i]);
	}
	char *a = mmap(0, 4 * P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(a + P, P);
	MAPPED(mmap(a + P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), "into the hole");
	MAPPED(mmap(a + P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), "onto a map");
	MAPPED(mmap(a + P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), "over a map");
	say("%d", mmap(a + P, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == a + P);
}

CASE(map_files)
{
	put("f", "content");
	mkdir("d", 0755);
	mkfifo("p", 0644);
	int p[2], fds[] = {open("f", O_RDONLY), open("f", O_WRONLY), open("f", O_RDWR), open("f", O_RDWR | O_APPEND), open("d", O_RDONLY), open("f", O_PATH), open("/dev/zero", O_RDWR), open("/dev/null", O_RDWR), open("p", O_RDWR), socket(AF_UNIX, SOCK_STREAM, 0), eventfd(0, 0), epoll_create1(0), -1, 777, open("/proc/self/maps", O_RDONLY)};
	static struct named flags[] = {N(MAP_SHARED), N(MAP_PRIVATE), N(MAP_SHARED_VALIDATE), N(0), N(MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS)}, prots[] = {N(PROT_READ), N(PROT_WRITE), N(PROT_EXEC), N(PROT_NONE)};
	EACH(i, fds)
		EACH(f, flags)
			EACH(q, prots)
				MAPPED(mmap(0, P, prots[q].value, flags[f].value, fds[i], 0), "%d %s %s", i, flags[f].name, prots[q].name);
	static unsigned long offsets[] = {1, P, P * 3, 1UL << 62, -P};
	EACH(o, offsets)
		MAPPED((void *)syscall(SYS_mmap, 0, P, PROT_READ, MAP_SHARED, fds[0], offsets[o]), "offset %lx", offsets[o]);
}

CASE(map_flags)
{
	static struct named flags[] = {N(MAP_LOCKED), N(MAP_POPULATE), N(MAP_NONBLOCK), N(MAP_NORESERVE), N(MAP_STACK), N(MAP_GROWSDOWN), N(MAP_DENYWRITE), N(MAP_EXECUTABLE), N(MAP_32BIT), N(0x80000), N(0x1000000), N(0x40)};
	put("f", "x");
	int fd = open("f", O_RDWR);
	EACH(f, flags) {
		if (flags[f].value == MAP_32BIT) {
			say("low: %d", (unsigned long)mmap(0, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0) < 1UL << 31);
			continue;
		}
		MAPPED(mmap(0, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | flags[f].value, -1, 0), "private %s", flags[f].name);
		MAPPED(mmap(0, P, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | flags[f].value, -1, 0), "shared %s", flags[f].name);
		MAPPED(mmap(0, P, PROT_READ, MAP_SHARED_VALIDATE | flags[f].value, fd, 0), "validate %s", flags[f].name);
	}
	MAPPED(mmap(0, P, PROT_READ, MAP_SHARED_VALIDATE | MAP_ANONYMOUS, -1, 0), "validate anonymous");
	MAPPED(mmap(0, P, 0x10 | PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "unknown protection");
	MAPPED(mmap(0, P, PROT_GROWSDOWN | PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "growsdown protection");
}

CASE(protect_table)
{
	static int prots[] = {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE, PROT_EXEC, PROT_READ | PROT_EXEC, 7};
	char *a = mmap(0, P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	*a = 'a';
	EACH(i, prots) {
		ROW(mprotect(a, P, prots[i]), "mprotect %d", prots[i]);
		say("read %s", touch(a, 0));
		say("write %s", touch(a, 1));
		int p[2];
		pipe(p);
		ROW(write(p[1], a, 1), "write from");
		write(p[1], "y", 1);
		ROW(read(p[0], a, 1), "read into");
		close(p[0]), close(p[1]);
	}
	static struct named more[] = {N(PROT_GROWSDOWN), N(PROT_GROWSUP), N(PROT_GROWSDOWN | PROT_GROWSUP), N(0x8), N(0x10), N(0x100)};
	EACH(i, more)
		ROW(mprotect(a, P, PROT_READ | more[i].value), "%s", more[i].name);
	E(mprotect(a + 1, P, PROT_READ));
	put("f", "x");
	int ro = open("f", O_RDONLY);
	char *s = mmap(0, P, PROT_READ, MAP_SHARED, ro, 0), *c = mmap(0, P, PROT_READ, MAP_PRIVATE, ro, 0);
	E(mprotect(s, P, PROT_READ | PROT_WRITE));
	E(mprotect(s, P, PROT_READ | PROT_EXEC));
	E(mprotect(c, P, PROT_READ | PROT_WRITE));
	char *h = mmap(0, 3 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(h + P, P);
	E(mprotect(h, 3 * P, PROT_READ)); // what lies before the hole is changed
	say("before %s", touch(h, 1));
	say("behind %s", touch(h + 2 * P, 1));
}

CASE(unmap_and_split)
{
	char *a = mmap(0, 5 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(a, 'z', 5 * P);
	E(munmap(a + P, P));
	E(munmap(a + P, P));
	E(munmap(a + 3 * P, 1));
	for (int i = 0; i < 5; i++)
		say("%d %s", i, touch(a + i * P, 0));
	E(munmap(a, 5 * P));
	E(munmap(a + 1, P));
	E(mincore(a, P, (void *)a));
	E(madvise(a, P, MADV_DONTNEED));
	E(msync(a, P, MS_SYNC));
	E(mlock(a, P));
	E(munlock(a, P));
}

CASE(file_end_faults)
{
	put("f", "abc");
	int fd = open("f", O_RDWR);
	char *s = mmap(0, 3 * P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), *c = mmap(0, 3 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	for (int i = 0; i < 3; i++)
		say("%d %s", i, touch(s + i * P, 0)), say("%d %s", i, touch(c + i * P, 1));
	s[5] = 'x'; // behind the end, in the last page: the file does not grow
	struct stat st;
	fstat(fd, &st);
	say("%ld", (long)st.st_size);
	ftruncate(fd, 2 * P);
	say("%s", touch(s + P, 1));
	say("%s", touch(c + P, 0));
	ftruncate(fd, 1);
	say("%s", touch(s + P, 0));
	say("%s", touch(c + P, 0)); // a private copy of what was cut off goes too
	say("%02x %02x", s[0], s[1]);
	ftruncate(fd, P);
	say("%02x %02x", s[0], s[5]);
	say("private %02x", c[0]);
	char b[1];
	E(pread(fd, b, 1, 0));
	E(write(1, s + 2 * P, 1));
	E(pread(fd, s + 2 * P, 1, 0));
}

CASE(remap_table)
{
	static struct named flags[] = {N(0), N(MREMAP_MAYMOVE), N(MREMAP_FIXED), N(MREMAP_MAYMOVE | MREMAP_FIXED), N(4), N(MREMAP_MAYMOVE | 4), N(8), N(MREMAP_MAYMOVE | MREMAP_FIXED | 4)};
	static long sizes[][2] = {{P, P}, {P, 2 * P}, {2 * P, P}, {0, P}, {P, 0}, {3 * P, 5 * P}, {P, 1L << 48}, {1, 1}, {-P, P}};
	EACH(f, flags)
		EACH(i, sizes) {
			char *room = mmap(0, 8 * P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *a = room + P;
			mmap(a, 2 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			*a = 'm';
			char *to = room + 5 * P;
			errno = 0;
			char *b = mremap(a, sizes[i][0], sizes[i][1], flags[f].value, to);
			if (b == MAP_FAILED)
				say("%s %lx %lx: %s", flags[f].name, sizes[i][0], sizes[i][1], errname(errno));
			else
				say("%s %lx %lx: %s %c", flags[f].name, sizes[i][0], sizes[i][1], b == a ? "stays" : b == to ? "there" : "moved", *b);
			munmap(room, 8 * P);
		}
	char *a = mmap(0, 4 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MAPPED(mremap(a + 1, P, P, MREMAP_MAYMOVE), "odd address");
	MAPPED(mremap(a, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, a + P), "overlapping");
	MAPPED(mremap(a, 2 * P, 2 * P, MREMAP_MAYMOVE | MREMAP_FIXED, a + 1), "to an odd address");
	MAPPED(mremap(a, P, P, MREMAP_MAYMOVE | MREMAP_FIXED, 0xffff800000000000), "to the kernel");
	munmap(a + P, P);
	MAPPED(mremap(a, 3 * P, 6 * P, MREMAP_MAYMOVE), "over a hole");
	char *s = mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	strcpy(s, "shared");
	char *t = mremap(s, 0, P, MREMAP_MAYMOVE);
	say("%s %s", t, t == s ? "same" : "twice");
	strcpy(t, "both");
	say("%s", s);
}

CASE(advice_table)
{
	put("f", "content");
	int fd = open("f", O_RDWR);
	char *maps[] = {mmap(0, 2 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), mmap(0, P, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), mmap(0, P, PROT_READ, MAP_SHARED, fd, 0), mmap(0, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
	static struct named advice[] = {N(MADV_NORMAL), N(MADV_RANDOM), N(MADV_SEQUENTIAL), N(MADV_WILLNEED), N(MADV_DONTNEED), N(5), N(6), N(7), N(MADV_FREE), N(MADV_REMOVE), N(MADV_DONTFORK), N(MADV_DOFORK), N(MADV_HUGEPAGE), N(MADV_NOHUGEPAGE), N(MADV_DONTDUMP), N(MADV_DODUMP), N(MADV_WIPEONFORK), N(MADV_KEEPONFORK), N(20), N(21), N(22), N(23), N(24), N(26), N(104), N(-1)};
	EACH(m, maps)
		EACH(a, advice) {
			if (m < 4)
				maps[m][0] = 'A';
			ROW(madvise(maps[m], P, advice[a].value), "map %d %s", m, advice[a].name);
			if (m < 4 && advice[a].value != MADV_FREE) {
				say(" %02x", maps[m][0]);
				madvise(maps[m], P, MADV_NORMAL);
			}
		}
	E(madvise(maps[0] + 1, P, MADV_NORMAL));
	E(madvise(maps[0], 0, MADV_DONTNEED));
	E(madvise(maps[0], 0, 77));
	munmap(maps[0], P);
	E(madvise(maps[0], 2 * P, MADV_DONTNEED));
}

CASE(advice_and_fork)
{
	char *a = mmap(0, 3 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	a[0] = a[P] = a[2 * P] = 'p';
	E(madvise(a + P, P, MADV_DONTFORK));
	E(madvise(a + 2 * P, P, MADV_WIPEONFORK));
	CHILD {
		for (int i = 0; i < 3; i++)
			say("child %d %s", i, touch(a + i * P, 0));
		CHILD { say("grandchild %s", touch(a + 2 * P, 0)); }
	}
	say("parent %c%c%c", a[0], a[P], a[2 * P]);
	E(madvise(a + P, P, MADV_DOFORK));
	E(madvise(a + 2 * P, P, MADV_KEEPONFORK));
	CHILD { say("child %c%c%c", a[0], a[P], a[2 * P]); }
}

CASE(sync_and_lock_table)
{
	put("f", "content");
	char *a = mmap(0, P, PROT_READ | PROT_WRITE, MAP_SHARED, open("f", O_RDWR), 0), v[4];
	for (int flags = 0; flags < 9; flags++)
		ROW(msync(a, P, flags), "msync %d", flags);
	E(msync(a + 1, 1, MS_SYNC));
	E(msync(a, 0, MS_SYNC));
	E(msync(a, 2 * P, MS_SYNC | MS_INVALIDATE));
	E(mincore(a, P, v));
	say("%d", v[0] & 1);
	E(mincore(a + 1, P, v));
	E(mincore(a, P, (void *)8));
	E(mlock(a, P));
	E(msync(a, P, MS_INVALIDATE));
	E(msync(a, P, MS_SYNC | MS_INVALIDATE));
	E(munlock(a, P));
	for (int flags = 0; flags < 9; flags++)
		ROW(mlockall(flags), "mlockall %d", flags);
	E(munlockall());
	for (int flags = 0; flags < 3; flags++)
		ROW(syscall(SYS_mlock2, a, P, flags), "mlock2 %d", flags);
	struct rlimit none = {P, P};
	setrlimit(RLIMIT_MEMLOCK, &none);
	setuid(1000);
	char *b = mmap(0, 4 * P, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munlock(a, P);
	E(mlock(b, P));
	E(mlock(b, P));
	E(mlock(b, 2 * P));
	E(mlockall(MCL_CURRENT));
	MAPPED(mmap(0, 2 * P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0), "locked map");
	none.rlim_cur = none.rlim_max = 0;
	setrlimit(RLIMIT_MEMLOCK, &none);
	E(munlock(b, 4 * P));
	E(mlock(b, P));
}

CASE(heap_edges)
{
	char *start = (char *)syscall(SYS_brk, 0);
	say("%d", (char *)syscall(SYS_brk, start + 100) == start + 100);
	start[99] = 'h';
	say("%s", touch(start + 99, 0));
	say("%d", (char *)syscall(SYS_brk, start + 10 * P) == start + 10 * P);
	say("%s", touch(start + 9 * P, 0));
	say("%d", (char *)syscall(SYS_brk, start) == start);
	say("%s", touch(start + 9 * P, 0));
	say("%d", (char *)syscall(SYS_brk, start + 10 * P) == start + 10 * P);
	say("%s", touch(start + 8 * P, 0)); // zeroes again
	say("%d", (char *)syscall(SYS_brk, 4096) == start + 10 * P);
	say("%d", (char *)syscall(SYS_brk, -1L) == start + 10 * P);
	syscall(SYS_brk, start);
	char *wall = (char *)(((long)start + 4 * P + P - 1) & -P);
	mmap(wall, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	say("%d", (char *)syscall(SYS_brk, start + 40 * P) == start);
	munmap(wall, P);
	struct rlimit l = {1 << 16, 1 << 20};
	setrlimit(RLIMIT_DATA, &l);
	say("%d", (char *)syscall(SYS_brk, start + (1 << 21)) == start);
}

CASE(address_space_limit)
{
	struct rlimit l = {1L << 32, 1L << 32};
	setrlimit(RLIMIT_AS, &l);
	MAPPED(mmap(0, 1L << 31, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), "2 GiB");
	MAPPED(mmap(0, 1L << 32, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), "4 GiB");
	char *a = mmap(0, P, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MAPPED(mremap(a, P, 1L << 32, MREMAP_MAYMOVE), "grown");
	l.rlim_cur = 4 * P;
	setrlimit(RLIMIT_AS, &l);
	MAPPED(mmap(0, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), "a page");
	MAPPED(mmap(a, P, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), "in another's place");
	if (!(child_pid = fork()))
		_exit(0);
	OK(child_pid < 0 ? -1 : waitpid(child_pid, NULL, 0));
}

#include "corpus.h"
#include <elf.h>
#include <sys/procfs.h>

// What is left of a process that a signal ends: the wait status's core flag, and the
// file. The names begin with core_: they are run where the host writes files named core.

static void core_limit(rlim_t n)
{
	struct rlimit l;
	getrlimit(RLIMIT_CORE, &l);
	l.rlim_cur = n;
	if (setrlimit(RLIMIT_CORE, &l))
		say("no limit %s", errname(errno));
}

// ends runs act in a child and says how it ended and what file is there.
static void ends(const char *what, void (*act)(void))
{
	siginfo_t i;
	int s = 0;
	pid_t p = fork();
	if (!p) {
		act();
		_exit(77);
	}
	memset(&i, 0, sizeof i);
	waitid(P_PID, p, &i, WEXITED | WNOWAIT);
	waitpid(p, &s, 0);
	struct stat st;
	int there = !lstat("core", &st);
	say("%s: signal %d core %d code %d status %d file %d", what, WIFSIGNALED(s) ? WTERMSIG(s) : 0, !!WCOREDUMP(s), i.si_code, i.si_status, there);
	if (there)
		say("  mode %o uid %d gid %d links %d some %d", st.st_mode, st.st_uid, st.st_gid, (int)st.st_nlink, st.st_size > 4096);
	unlink("core");
}

static void act_abort(void) { abort(); }
static void act_fault(void) { *(volatile int *)8 = 1; }
static void act_quit(void) { raise(SIGQUIT); }
static void act_term(void) { raise(SIGTERM); }
static void act_kill(void) { raise(SIGKILL); }
static void act_xcpu(void) { raise(SIGXCPU); }
static void act_trap(void) { __asm__ volatile("int3"); }
static void act_hidden(void) { prctl(PR_SET_DUMPABLE, 0); abort(); }
static void act_masked(void) { umask(0400); abort(); }
static void act_user(void) { setgid(1234); setuid(1234); prctl(PR_SET_DUMPABLE, 1); abort(); }
static void act_elsewhere(void) { chdir("/proc/self"); abort(); }
static void act_handled(void) { signal(SIGABRT, SIG_IGN); abort(); }
static void act_small(void) { core_limit(4095); abort(); }
static void act_least(void) { core_limit(4096); abort(); }

CASE(core_status)
{
	core_limit(0);
	ends("limit 0", act_abort);
	core_limit(RLIM_INFINITY);
	ends("abort", act_abort);
	ends("fault", act_fault);
	ends("quit", act_quit);
	ends("term", act_term);
	ends("kill", act_kill);
	ends("xcpu", act_xcpu);
	ends("trap", act_trap);
	ends("not dumpable", act_hidden);
	ends("umask", act_masked);
	ends("ignored", act_handled);
	ends("nowhere to write", act_elsewhere);
	ends("limit 4095", act_small);
	int s;
	if (!(child_pid = fork()))
		act_least();
	waitpid(child_pid, &s, 0);
	struct stat st;
	say("limit 4096: core %d within %d", !!WCOREDUMP(s), !stat("core", &st) && st.st_size <= 4096);
	unlink("core");

	// The user may not write here, then may.
	chmod(".", 0755);
	ends("other user", act_user);
	chmod(".", 0777);
	ends("other user's directory", act_user);

	// What is there already.
	symlink("target", "core");
	ends("symlink", act_abort);
	say("target %s", access("target", F_OK) ? errname(errno) : "there");
	close(open("core", O_CREAT | O_RDWR, 0666));
	link("core", "other");
	ends("hard link", act_abort);
	stat("other", &st);
	say("other %d links %d", (int)st.st_size, (int)st.st_nlink);
	mkdir("core", 0777);
	ends("directory", act_abort);
	rmdir("core");
}

static char *core;
static size_t core_size;

static void load_core(void)
{
	int fd = open("core", O_RDONLY);
	struct stat st;
	if (fd < 0 || fstat(fd, &st)) {
		say("core %s", errname(errno));
		_exit(1);
	}
	core_size = st.st_size;
	core = mmap(0, core_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
}

static Elf64_Phdr *segment_of(void *at)
{
	Elf64_Ehdr *h = (void *)core;
	Elf64_Phdr *p = (void *)(core + h->e_phoff);
	for (int i = 0; i < h->e_phnum; i++)
		if (p[i].p_type == PT_LOAD && (uintptr_t)at >= p[i].p_vaddr && (uintptr_t)at < p[i].p_vaddr + p[i].p_memsz)
			return p + i;
	return 0;
}

// in_core says what stands in the file for an address.
static void in_core(const char *what, char *at)
{
	Elf64_Phdr *p = segment_of(at);
	if (!p)
		return say("%s: no segment", what);
	size_t off = (uintptr_t)at - p->p_vaddr;
	if (off >= p->p_filesz)
		return say("%s: flags %d, not in the file", what, p->p_flags);
	say("%s: flags %d aligned %d %.20s", what, p->p_flags, p->p_offset % 4096 == 0 && p->p_align == 4096,
		p->p_offset + off + 20 <= core_size ? core + p->p_offset + off : "past the end");
}

static struct {
	char *written, *hidden, *shared, *readonly, *holes;
} areas;

static char in_data[32] = "initialized data";

static void make_areas(void)
{
	char **a = (char **)&areas;
	for (int i = 0; i < 5; i++)
		a[i] = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | (a + i == &areas.shared ? MAP_SHARED : MAP_PRIVATE), -1, 0);
	// Untouched memory is not asked for: small pieces are made at once here.
	// Neighbours would be merged into one segment here and maybe not there.
	for (int i = 0; i < 5; i++)
		munmap(a[i] + (a + i == &areas.holes ? 4096 : 8192), 4096);
	strcpy(areas.written, "written");
	strcpy(areas.hidden, "hidden");
	madvise(areas.hidden, 3 * 4096, MADV_DONTDUMP);
	strcpy(areas.shared, "shared");
	strcpy(areas.readonly, "readonly");
	mprotect(areas.readonly, 3 * 4096, PROT_READ);
	strcpy(areas.holes + 8192, "behind a hole");
}

static int ready[2];

static void *waiting(void *mark)
{
	// Tell, then wait for ever with the mark in a register that calls keep.
	pid_t me = syscall(SYS_gettid);
	write(ready[1], &me, sizeof(me));
	__asm__ volatile("mov %0, %%r12\n1: mov $34, %%eax\nsyscall\njmp 1b" ::"r"(mark) : "r12", "rax", "rcx", "r11", "memory");
	return 0;
}

// asleep returns when a thread of this process sleeps, after all that it had to do.
static void asleep(pid_t thread)
{
	char path[64], text[512];
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
	for (char *state = 0; !state || state[2] != 'S'; sched_yield()) {
		int fd = open(path, O_RDONLY);
		ssize_t n = read(fd, text, sizeof(text) - 1);
		close(fd);
		text[n > 0 ? n : 0] = 0;
		state = strrchr(text, ')');
	}
}

static void crash_with_threads(void)
{
	pthread_t t;
	pid_t c;
	prctl(PR_SET_NAME, "the/name");
	pipe(ready);
	for (long i = 1; i <= 3; i++) {
		pthread_create(&t, 0, waiting, (void *)(0x1111000000000000 * i));
		read(ready[0], &c, sizeof(c));
		asleep(c);
	}
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	sigprocmask(SIG_BLOCK, &m, 0);
	raise(SIGUSR1);
	__asm__ volatile("movabs $0x123456789abcdef0, %%r12\n"
		"movabs $0x4142434445464748, %%rax\nmovq %%rax, %%xmm7\n"
		"mov $16, %%ebx\nmovl $1, (%%rbx)" ::: "r12", "rax", "rbx", "xmm7", "memory");
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(uint64_t *)a, y = *(uint64_t *)b;
	return x < y ? -1 : x > y;
}

CASE(core_file)
{
	int s;
	core_limit(RLIM_INFINITY);
	make_areas();
	if (!(child_pid = fork()))
		crash_with_threads();
	waitpid(child_pid, &s, 0);
	say("signal %d core %d", WTERMSIG(s), !!WCOREDUMP(s));
	load_core();
	Elf64_Ehdr *h = (void *)core;
	say("type %d machine %d version %d phentsize %d shnum %d", h->e_type, h->e_machine, h->e_version, h->e_phentsize, h->e_shnum);
	Elf64_Phdr *p = (void *)(core + h->e_phoff);
	say("first is note %d, align %d", p->p_type == PT_NOTE, (int)p->p_align);
	int threads = 0, pids = 0;
	uint64_t marks[8] = {0};
	char order[256] = "";
	for (size_t at = p->p_offset; at < p->p_offset + p->p_filesz;) {
		Elf64_Nhdr *n = (void *)(core + at);
		char *name = (char *)(n + 1), *d = name + (n->n_namesz + 3 & ~3);
		at += sizeof *n + (n->n_namesz + 3 & ~3) + (n->n_descsz + 3 & ~3);
		if (threads < 2)
			sprintf(order + strlen(order), " %s:%x", name, n->n_type);
		if (n->n_type == NT_PRSTATUS) {
			struct elf_prstatus *r = (void *)d;
			if (!threads)
				say("prstatus %d: signo %d cursig %d pending %lx held %lx pid %d parent %d group %d rbx %llx fp %d orig %lld", n->n_descsz,
					r->pr_info.si_signo, r->pr_cursig, r->pr_sigpend, r->pr_sighold, r->pr_pid == child_pid, r->pr_ppid == getpid(),
					r->pr_pgrp == getpgrp(), (unsigned long long)r->pr_reg[5], r->pr_fpvalid, (long long)r->pr_reg[15]);
			else
				pids += r->pr_pid > child_pid && r->pr_reg[15] == SYS_pause;
			if (threads < 8)
				marks[threads] = r->pr_reg[3];
			threads++;
		} else if (n->n_type == NT_PRPSINFO) {
			struct elf_prpsinfo *i = (void *)d;
			say("prpsinfo %d: %s pid %d uid %d args %d", n->n_descsz, i->pr_fname, i->pr_pid == child_pid, i->pr_uid, strstr(i->pr_psargs, "core_file") != 0);
		} else if (n->n_type == 0x53494749) {
			siginfo_t *i = (void *)d;
			say("siginfo %d: %d code %d addr %p", n->n_descsz, i->si_signo, i->si_code, i->si_addr);
		} else if (n->n_type == NT_AUXV) {
			for (Elf64_auxv_t *a = (void *)d; a->a_type; a++)
				if (a->a_type == AT_PAGESZ || a->a_type == AT_UID)
					say("auxv %d %d", (int)a->a_type, (int)a->a_un.a_val);
		} else if (n->n_type == 0x46494c45) {
			uint64_t *f = (void *)d, found = 0;
			char *names = (char *)(f + 2 + 3 * f[0]);
			for (uint64_t i = 0; i < f[0]; i++, names += strlen(names) + 1)
				if ((uintptr_t)in_data >= f[2 + 3 * i] && (uintptr_t)in_data < f[3 + 3 * i])
					found = names[0] == '/';
			say("files %d page %d ours %d", f[0] > 0, (int)f[1], (int)found);
		} else if (n->n_type == NT_FPREGSET && threads == 1) {
			say("fpregs %d: xmm7 %.8s", n->n_descsz, d + 160 + 7 * 16);
		} else if (n->n_type == 0x202 && threads == 1) {
			say("xstate %d: xmm7 %.8s features %d", n->n_descsz > 512, d + 160 + 7 * 16, (*(uint64_t *)(d + 464) & 3) == 3);
		}
	}
	say("notes%s", order);
	say("threads %d, others in pause %d; the first has %llx", threads, pids, (unsigned long long)marks[0]);
	qsort(marks + 1, 3, 8, by_value);
	for (int i = 1; i < 4; i++)
		say("%llx", (unsigned long long)marks[i]);
	in_core("written", areas.written);
	in_core("hidden", areas.hidden);
	in_core("shared", areas.shared);
	in_core("readonly", areas.readonly);
	in_core("behind a hole", areas.holes + 8192);
	in_core("data", in_data);
	unlink("core");
}

static void filter(const char *text)
{
	int fd = open("/proc/self/coredump_filter", O_RDWR);
	E(write(fd, text, strlen(text)));
	char b[32] = "";
	pread(fd, b, sizeof b - 1, 0);
	say("filter %s", b);
	close(fd);
}

CASE(core_filter)
{
	int s;
	core_limit(RLIM_INFINITY);
	make_areas();
	filter("zzz");
	filter("0x4");
	for (int i = 0; i < 3; i++) {
		filter((char *[]){"0", "1", "2\n"}[i]);
		if (!(child_pid = fork()))
			act_fault();
		waitpid(child_pid, &s, 0);
		say("core %d", !!WCOREDUMP(s));
		load_core();
		in_core("written", areas.written);
		in_core("shared", areas.shared);
		in_core("data", in_data);
		unlink("core");
	}
	filter("0x33");
}

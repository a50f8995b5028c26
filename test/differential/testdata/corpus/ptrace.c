#include "corpus.h"
#include <elf.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>

#define RAW(request, pid, addr, data) syscall(SYS_ptrace, (long)(request), (long)(pid), (long)(addr), (long)(data))
#define SYSEMU 31
#define GETSIGMASK 0x420a
#define SETSIGMASK 0x420b
#define GET_SYSCALL_INFO 0x420e
#define SEIZE 0x4206
#define INTERRUPT 0x4207
#define LISTEN 0x4208
#define PEEKSIGINFO 0x4209

// what says how pid stopped or ended.
static int what(const char *label, pid_t pid)
{
	int s = 0;
	pid_t got = waitpid(pid, &s, __WALL);
	if (got == -1)
		say("%s: wait: %s", label, errname(errno));
	else if (WIFSTOPPED(s))
		say("%s: stopped by %d event %d", label, WSTOPSIG(s), s >> 16);
	else
		status(label, s);
	return s;
}

static pid_t tracee(void (*body)(void))
{
	pid_t pid = fork();
	if (pid)
		return pid;
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGSTOP);
	body();
	_exit(7);
}

static void nothing(void) {}
static void forever(void)
{
	for (;;)
		pause();
}

static volatile long word = 0x1122334455667788;

CASE(ptrace_traceme)
{
	pid_t pid = tracee(nothing);
	what("first", pid);
	char path[64], line[128];
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *f = fopen(path, "r");
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, "TracerPid", 9))
			say("TracerPid is us: %d", atoi(line + 10) == getpid());
		else if (!strncmp(line, "State", 5))
			say("%s", line);
	fclose(f);
	errno = 0;
	say("peek %lx", ptrace(PTRACE_PEEKDATA, pid, &word, 0));
	OK(ptrace(PTRACE_POKEDATA, pid, &word, 42));
	say("peek %lx here %lx", ptrace(PTRACE_PEEKDATA, pid, &word, 0), word);
	E(RAW(PTRACE_PEEKDATA, pid, 8, &word));
	E(RAW(PTRACE_PEEKDATA, pid, &word, 8));
	E(RAW(PTRACE_POKEDATA, pid, 8, 1));
	E(RAW(PTRACE_CONT, pid, 0, 65));
	E(RAW(PTRACE_CONT, pid, 0, -1));
	E(RAW(9999, pid, 0, 0));
	OK(ptrace(PTRACE_CONT, pid, 0, 0));
	what("end", pid);
	E(ptrace(PTRACE_CONT, pid, 0, 0));
	what("again", pid);
}

CASE(ptrace_errors)
{
	pid_t pid = fork();
	if (!pid)
		forever();
	E(ptrace(PTRACE_CONT, pid, 0, 0));
	E(ptrace(PTRACE_DETACH, pid, 0, 0));
	E(ptrace(PTRACE_ATTACH, getpid(), 0, 0));
	E(ptrace(PTRACE_ATTACH, 0, 0, 0));
	E(ptrace(PTRACE_ATTACH, -1, 0, 0));
	E(ptrace(PTRACE_ATTACH, 4000000, 0, 0));
	E(RAW(SEIZE, pid, 1, 0));
	E(RAW(SEIZE, pid, 0, 0x100));
	E(RAW(INTERRUPT, pid, 0, 0));
	OK(ptrace(PTRACE_ATTACH, pid, 0, 0));
	E(ptrace(PTRACE_ATTACH, pid, 0, 0));
	what("attached", pid);
	E(RAW(INTERRUPT, pid, 0, 0));
	E(RAW(LISTEN, pid, 0, 0));
	E(RAW(PTRACE_SETOPTIONS, pid, 0, 0x100));
	E(RAW(PTRACE_SETOPTIONS, pid, 0, -1));
	E(RAW(PTRACE_GETREGS, pid, 0, 8));
	E(RAW(PTRACE_GETREGSET, pid, 999, &word));
	E(RAW(GETSIGMASK, pid, 4, &word));
	E(RAW(PTRACE_PEEKUSER, pid, 1, &word));
	E(RAW(PTRACE_PEEKUSER, pid, 4096, &word));
	E(RAW(PTRACE_PEEKUSER, pid, -8, &word));
	E(RAW(PTRACE_POKEUSER, pid, 1, 1));
	E(RAW(PTRACE_POKEUSER, pid, 300, 1));
	E(RAW(PTRACE_POKEUSER, pid, offsetof(struct user, regs.cs), 0));
	E(RAW(PTRACE_POKEUSER, pid, offsetof(struct user, regs.ss), 8));
	E(RAW(PTRACE_POKEUSER, pid, offsetof(struct user, regs.ds), 8));
	E(RAW(PTRACE_POKEUSER, pid, offsetof(struct user, regs.fs_base), -1));
	E(ptrace(PTRACE_DETACH, pid, 0, 0));
	E(ptrace(PTRACE_DETACH, pid, 0, 0));
	kill(pid, SIGKILL);
	what("killed", pid);
	CHILD
	{
		E(ptrace(PTRACE_TRACEME, 0, 0, 0));
		E(ptrace(PTRACE_TRACEME, 0, 0, 0));
	}
}

static void three(void)
{
	syscall(SYS_getppid);
	long r = syscall(SYS_dup, 99);
	say("dup says %ld %s", r, r < 0 ? errname(errno) : "");
	r = syscall(SYS_getuid);
	say("getuid says %ld %s", r, r < 0 ? errname(errno) : "");
}

CASE(ptrace_syscall)
{
	pid_t pid = tracee(three);
	what("first", pid);
	OK(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD));
	for (int n = 0;; n++) {
		struct user_regs_struct r;
		int s;
		ptrace(PTRACE_SYSCALL, pid, 0, 0);
		waitpid(pid, &s, 0);
		if (!WIFSTOPPED(s)) {
			status("end", s);
			break;
		}
		if (WSTOPSIG(s) != (SIGTRAP | 0x80)) {
			say("signal %d", WSTOPSIG(s));
			continue;
		}
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		struct { uint8_t op, pad[3]; uint32_t arch; uint64_t ip, sp, a[8]; } info;
		memset(&info, 0, sizeof info);
		long size = RAW(GET_SYSCALL_INFO, pid, sizeof info, &info);
		if (r.orig_rax != SYS_getppid && r.orig_rax != SYS_dup && r.orig_rax != SYS_getuid)
			continue;
		siginfo_t si;
		ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
		say("call %lld op %d size %ld nr/ret %ld rax %lld si %d %d ip %d sp %d", r.orig_rax, info.op, size,
			r.orig_rax == SYS_getppid && info.op == 2 ? 0 : (long)info.a[0],
			r.orig_rax == SYS_getppid && info.op == 2 ? 0 : r.rax, si.si_signo, si.si_code,
			info.ip == r.rip, info.sp == r.rsp);
		if (r.orig_rax == SYS_dup && info.op == 1) { // another call, another argument
			say("arg %ld", (long)info.a[1]);
			r.orig_rax = SYS_fcntl;
			r.rdi = 1;
			r.rsi = F_GETFD;
			ptrace(PTRACE_SETREGS, pid, 0, &r);
		} else if (r.orig_rax == SYS_getuid && info.op == 1) { // no call
			OK(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.orig_rax), -1));
			OK(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, regs.rax), -EXDEV));
		}
	}
}

CASE(ptrace_sysemu)
{
	pid_t pid = tracee(three);
	what("first", pid);
	int s, n = 0;
	for (;;) {
		RAW(SYSEMU, pid, 0, 0);
		waitpid(pid, &s, 0);
		if (!WIFSTOPPED(s) || n++ > 20)
			break;
		struct user_regs_struct r;
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		say("emulate %lld, rax %lld", r.orig_rax, r.rax);
		if (r.orig_rax == SYS_exit_group) {
			kill(pid, SIGKILL);
			waitpid(pid, &s, 0);
			break;
		}
		if (r.orig_rax == SYS_write)
			r.rax = r.rdx;
		else
			r.rax = 5;
		ptrace(PTRACE_SETREGS, pid, 0, &r);
	}
	status("end", s);
}

static int handled;
static void handler(int sig, siginfo_t *i, void *c)
{
	handled++;
	say("handler %d code %d value %d", sig, i->si_code, i->si_value.sival_int);
}
static void signals(void)
{
	struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &a, 0);
	sigaction(SIGUSR2, &a, 0);
	signal(SIGHUP, SIG_IGN);
	raise(SIGHUP);
	raise(SIGUSR1);
	raise(SIGUSR1);
	raise(SIGUSR1);
	say("handled %d", handled);
	sigset_t m;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	sigaddset(&m, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &m, 0);
	union sigval v = {.sival_int = 11};
	sigqueue(getpid(), SIGRTMIN, v);
	v.sival_int = 12;
	sigqueue(getpid(), SIGRTMIN, v);
	raise(SIGUSR1);
	raise(SIGSTOP);
	raise(SIGTERM);
}

CASE(ptrace_signals)
{
	pid_t pid = tracee(signals);
	what("first", pid);
	siginfo_t si;
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("ignored", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGHUP);
	what("dropped", pid);
	OK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si));
	say("%d %d from itself %d", si.si_signo, si.si_code, si.si_pid == pid);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("changed", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGUSR2);
	what("info", pid);
	ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
	si.si_code = SI_QUEUE;
	si.si_value.sival_int = 77;
	OK(ptrace(PTRACE_SETSIGINFO, pid, 0, &si));
	ptrace(PTRACE_CONT, pid, 0, SIGUSR1);
	what("stop", pid);
	uint64_t mask = 0;
	OK(RAW(GETSIGMASK, pid, 8, &mask));
	say("mask %lx", mask & ~(3ul << 31)); // glibc may block its own
	struct { uint64_t off; uint32_t flags; int32_t nr; } args = {0, 0, 8};
	siginfo_t many[8];
	long n = RAW(PEEKSIGINFO, pid, &args, many);
	say("own %ld", n);
	for (int i = 0; i < n; i++)
		say("  %d", many[i].si_signo);
	args.flags = 1;
	n = RAW(PEEKSIGINFO, pid, &args, many);
	say("shared %ld", n);
	for (int i = 0; i < n; i++)
		say("  %d value %d", many[i].si_signo, many[i].si_value.sival_int);
	args.off = 1;
	E(RAW(PEEKSIGINFO, pid, &args, many));
	args.off = 5;
	E(RAW(PEEKSIGINFO, pid, &args, many));
	args.flags = 2;
	E(RAW(PEEKSIGINFO, pid, &args, many));
	mask = 1ul << (SIGRTMIN - 1) | 1ul << (SIGKILL - 1);
	OK(RAW(SETSIGMASK, pid, 8, &mask));
	OK(RAW(GETSIGMASK, pid, 8, &mask));
	say("mask %lx", mask);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("unblocked", pid);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("last", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGTERM);
	what("end", pid);
}

static void forks(void)
{
	pid_t pid = fork();
	if (!pid)
		_exit(1);
	waitpid(pid, 0, 0);
	if (!(pid = vfork()))
		_exit(2);
	waitpid(pid, 0, 0);
	execl("/proc/self/exe", "corpus", "-l", NULL);
	_exit(9);
}

static void events(int options, int seize)
{
	pid_t pid;
	if (seize) {
		int p[2];
		pipe(p);
		if (!(pid = fork())) {
			char c;
			read(p[0], &c, 1);
			forks();
		}
		OK(RAW(SEIZE, pid, 0, options));
		write(p[1], "", 1);
		close(p[0]);
		close(p[1]);
	} else {
		pid = tracee(forks);
		what("first", pid);
		ptrace(PTRACE_SETOPTIONS, pid, 0, options);
		ptrace(PTRACE_CONT, pid, 0, 0);
	}
	int null = open("/dev/null", O_WRONLY);
	for (int n = 0; n < 40; n++) {
		int s;
		pid_t got;
		if ((got = waitpid(pid, &s, __WALL)) < 0)
			break;
		if (!WIFSTOPPED(s)) {
			status("main", s);
			break;
		}
		unsigned long message = 0;
		int sig = WSTOPSIG(s), event = s >> 16;
		ptrace(PTRACE_GETEVENTMSG, pid, 0, &message);
		if (event == PTRACE_EVENT_EXIT)
			say("exit event %lx", message);
		else if (event == PTRACE_EVENT_EXEC) {
			say("exec event, old id ours %d", message == pid);
			break;
		} else
			say("stop %d event %d message %d", sig, event, message > 0);
		if (event >= PTRACE_EVENT_FORK && event <= PTRACE_EVENT_CLONE) {
			int cs, child = message;
			say("child %d", waitpid(child, &cs, __WALL) == child);
			say("child stop %d event %d", WSTOPSIG(cs), cs >> 16);
			siginfo_t si;
			E(ptrace(PTRACE_GETSIGINFO, child, 0, &si));
			say("code %d", si.si_code);
			ptrace(PTRACE_CONT, child, 0, 0);
			for (;;) {
				waitpid(child, &cs, __WALL);
				if (!WIFSTOPPED(cs))
					break;
				say("child stop %d event %d", WSTOPSIG(cs), cs >> 16);
				ptrace(PTRACE_CONT, child, 0, 0);
			}
			status("child", cs);
		}
		ptrace(PTRACE_CONT, pid, 0, event || sig == SIGTRAP ? 0 : sig);
	}
	close(null);
	kill(pid, SIGKILL);
	what("end", pid);
}

#define ALL (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT)
CASE(ptrace_events) { events(ALL, 0); }
CASE(ptrace_events_seized) { events(ALL, 1); }
CASE(ptrace_events_some) { events(PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC, 1); }

static void quiet_exec(void)
{
	int null = open("/dev/null", O_WRONLY);
	dup2(null, 1);
	execl("/proc/self/exe", "corpus", "-l", NULL);
	_exit(9);
}

CASE(ptrace_exec_trap)
{
	pid_t pid = tracee(quiet_exec);
	what("first", pid);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("exec", pid);
	siginfo_t si;
	OK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si));
	say("%d %d %d", si.si_signo, si.si_code, si.si_pid == pid);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("end", pid);
}

CASE(ptrace_group_stop)
{
	pid_t pid = tracee(forever);
	what("first", pid);
	siginfo_t si;
	OK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si));
	ptrace(PTRACE_CONT, pid, 0, SIGSTOP);
	what("group", pid);
	E(ptrace(PTRACE_GETSIGINFO, pid, 0, &si));
	E(RAW(LISTEN, pid, 0, 0));
	OK(ptrace(PTRACE_CONT, pid, 0, 0));
	nap(20);
	say("runs: %s", state_of(pid));
	kill(pid, SIGSTOP);
	what("once more", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGSTOP);
	what("group", pid);
	kill(pid, SIGCONT);
	nap(20);
	say("still: %s", state_of(pid));
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("cont", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGCONT);
	kill(pid, SIGSTOP);
	what("again", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGSTOP);
	what("group", pid);
	OK(ptrace(PTRACE_DETACH, pid, 0, 0));
	until_state(pid, 'T');
	say("detached: %s", state_of(pid));
	kill(pid, SIGCONT);
	until_state(pid, 'S');
	say("continued: %s", state_of(pid));
	kill(pid, SIGKILL);
	what("end", pid);
}

CASE(ptrace_listen)
{
	pid_t pid = fork();
	if (!pid)
		forever();
	until_state(pid, 'S');
	OK(RAW(SEIZE, pid, 0, 0));
	E(ptrace(PTRACE_CONT, pid, 0, 0));
	OK(RAW(INTERRUPT, pid, 0, 0));
	what("interrupt", pid);
	siginfo_t si;
	OK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si));
	say("%d %x", si.si_signo, si.si_code);
	ptrace(PTRACE_CONT, pid, 0, 0);
	kill(pid, SIGSTOP);
	what("signal", pid);
	E(RAW(LISTEN, pid, 0, 0));
	ptrace(PTRACE_CONT, pid, 0, SIGSTOP);
	what("group", pid);
	OK(ptrace(PTRACE_GETSIGINFO, pid, 0, &si));
	say("%d %x", si.si_signo, si.si_code);
	OK(RAW(LISTEN, pid, 0, 0));
	E(ptrace(PTRACE_CONT, pid, 0, 0));
	E(waitpid(pid, 0, WNOHANG | __WALL));
	kill(pid, SIGCONT);
	what("notified", pid);
	OK(ptrace(PTRACE_CONT, pid, 0, 0));
	what("cont", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGCONT);
	nap(20);
	say("runs: %s", state_of(pid));
	OK(RAW(INTERRUPT, pid, 0, 0));
	what("interrupt", pid);
	OK(ptrace(PTRACE_DETACH, pid, 0, SIGTERM)); // there is no signal to replace
	kill(pid, SIGKILL);
	what("end", pid);
}

CASE(ptrace_attach_stopped)
{
	pid_t pid = fork();
	if (!pid)
		forever();
	until_state(pid, 'S');
	kill(pid, SIGSTOP);
	until_state(pid, 'T');
	OK(ptrace(PTRACE_ATTACH, pid, 0, 0));
	what("attached", pid);
	say("state %s", state_of(pid));
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("sigstop", pid);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	kill(pid, SIGCONT);
	kill(pid, SIGKILL);
	what("end", pid);
	if (!(pid = fork()))
		forever();
	until_state(pid, 'S');
	kill(pid, SIGSTOP);
	until_state(pid, 'T');
	OK(RAW(SEIZE, pid, 0, PTRACE_O_EXITKILL));
	what("seized", pid);
	OK(ptrace(PTRACE_CONT, pid, 0, 0));
	kill(pid, SIGTERM);
	what("term", pid);
	ptrace(PTRACE_CONT, pid, 0, SIGTERM);
	what("end", pid);
}

CASE(ptrace_waitid)
{
	pid_t pid = tracee(nothing);
	siginfo_t si;
	memset(&si, 0, sizeof si);
	OK(waitid(P_PID, pid, &si, WSTOPPED | WNOWAIT | __WALL));
	say("%d %d %d", si.si_signo, si.si_code, si.si_status);
	OK(waitid(P_PID, pid, &si, WEXITED | __WALL));
	say("%d %d %d", si.si_signo, si.si_code, si.si_status);
	E(waitid(P_PID, pid, &si, WSTOPPED | WNOHANG));
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXIT);
	ptrace(PTRACE_CONT, pid, 0, 0);
	OK(waitid(P_PID, pid, &si, WSTOPPED));
	say("%d %d %x", si.si_signo, si.si_code, si.si_status);
	unsigned long message;
	OK(ptrace(PTRACE_GETEVENTMSG, pid, 0, &message));
	say("message %lx", message);
	ptrace(PTRACE_CONT, pid, 0, 0);
	OK(waitid(P_PID, pid, &si, WEXITED));
	say("%d %d %d", si.si_signo, si.si_code, si.si_status);
}

__attribute__((noinline)) static int victim(int x)
{
	__asm__ volatile("nop");
	return x + 1;
}
static void calls_victim(void) { _exit(victim(4)); }

CASE(ptrace_breakpoint)
{
	pid_t pid = tracee(calls_victim);
	what("first", pid);
	errno = 0;
	long text = ptrace(PTRACE_PEEKTEXT, pid, victim, 0);
	OK(ptrace(PTRACE_POKETEXT, pid, victim, (text & ~0xffl) | 0xcc));
	say("ours is untouched: %d", *(long *)victim == text);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("hit", pid);
	struct user_regs_struct r;
	siginfo_t si;
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
	say("at %ld arg %lld code %d orig %lld", (long)r.rip - (long)victim, r.rdi, si.si_code, r.orig_rax);
	OK(ptrace(PTRACE_POKETEXT, pid, victim, text));
	r.rip = (long)victim;
	r.rdi = 40;
	OK(ptrace(PTRACE_SETREGS, pid, 0, &r));
	ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
	what("step", pid);
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
	say("moved %d code %d TF %lld", r.rip > (long)victim && r.rip < (long)victim + 16, si.si_code, r.eflags >> 8 & 1);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("end", pid);
}

static void step_body(void)
{
	struct sigaction a = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &a, 0);
	raise(SIGTRAP);
	__asm__ volatile("mov $110, %%eax; syscall; nop; nop" ::: "rax", "rcx", "r11", "memory");
	raise(SIGTRAP);
	raise(SIGUSR1);
}

CASE(ptrace_step)
{
	pid_t pid = tracee(step_body);
	what("first", pid);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("mark", pid);
	int syscalls = 0;
	for (int n = 0; n < 5000; n++) {
		struct user_regs_struct r;
		siginfo_t si;
		int s;
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		long text = ptrace(PTRACE_PEEKTEXT, pid, r.rip, 0);
		unsigned long long was = r.rip;
		ptrace(PTRACE_SINGLESTEP, pid, 0, 0);
		if (waitpid(pid, &s, 0) < 0 || !WIFSTOPPED(s)) {
			status("ended", s);
			return;
		}
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
		if (WSTOPSIG(s) != SIGTRAP || si.si_code <= 0) {
			say("stop %d code %d", WSTOPSIG(s), si.si_code);
			break;
		}
		if ((text & 0xffff) == 0x050f && r.rip == was + 2) {
			syscalls++;
			if (r.orig_rax == 110)
				say("over the call: code %d orig %lld", si.si_code, r.orig_rax);
		}
	}
	say("calls stepped: %d", syscalls > 0);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("usr1", pid);
	ptrace(PTRACE_SINGLESTEP, pid, 0, SIGUSR1); // stops where the handler begins
	what("handler", pid);
	struct user_regs_struct r;
	siginfo_t si;
	ptrace(PTRACE_GETREGS, pid, 0, &r);
	ptrace(PTRACE_GETSIGINFO, pid, 0, &si);
	say("in it %d code %d", r.rip == (long)handler, si.si_code);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("end", pid);
}

static double fpu;
static void float_body(void)
{
	register double x __asm__("xmm3") = 2.5;
	__asm__ volatile("int3" : "+x"(x));
	fpu = x;
	say("xmm3 %f", fpu);
}

CASE(ptrace_fpregs)
{
	pid_t pid = tracee(float_body);
	what("first", pid);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("int3", pid);
	struct user_fpregs_struct f;
	OK(ptrace(PTRACE_GETFPREGS, pid, 0, &f));
	say("cwd %x mxcsr %x xmm3 %f", f.cwd, f.mxcsr, ((double *)f.xmm_space)[6]);
	((double *)f.xmm_space)[6] = 7.25;
	OK(ptrace(PTRACE_SETFPREGS, pid, 0, &f));
	static char area[16384];
	struct iovec v = {area, sizeof area};
	OK(ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &v));
	say("xmm3 %f features %d large %d", *(double *)(area + 160 + 48), *(uint64_t *)(area + 464) > 3, v.iov_len > 576);
	OK(ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &v));
	v.iov_len = 64;
	E(ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &v));
	v.iov_len = 63;
	E(ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &v));
	v.iov_len = sizeof area;
	OK(ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &v));
	say("prstatus %ld", (long)v.iov_len);
	v.iov_len = 16;
	OK(ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &v));
	say("prstatus %ld", (long)v.iov_len);
	v.iov_len = sizeof area;
	OK(ptrace(PTRACE_GETREGSET, pid, NT_PRFPREG, &v));
	say("fpreg %ld", (long)v.iov_len);
	v.iov_len = 512;
	E(ptrace(PTRACE_GETREGSET, pid, 0x999, &v));
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("end", pid);
}

static void *thread_body(void *a)
{
	syscall(SYS_exit, 5);
	return 0;
}
static void threads(void)
{
	pthread_t t;
	pthread_create(&t, 0, thread_body, 0);
	nap(50);
	pthread_create(&t, 0, (void *(*)(void *))forever, 0);
	nap(50);
	_exit(6);
}

CASE(ptrace_threads)
{
	pid_t pid = tracee(threads);
	what("first", pid);
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE);
	ptrace(PTRACE_CONT, pid, 0, 0);
	for (int n = 0; n < 2; n++) {
		int s;
		waitpid(pid, &s, 0);
		say("leader stop %d event %d", WSTOPSIG(s), s >> 16);
		unsigned long tid;
		ptrace(PTRACE_GETEVENTMSG, pid, 0, &tid);
		say("thread %d", waitpid(tid, &s, __WALL) == tid);
		say("stop %d event %d", WSTOPSIG(s), s >> 16);
		ptrace(PTRACE_CONT, tid, 0, 0);
		if (n == 0) {
			E(waitpid(tid, &s, __WALL) == tid);
			status("thread", s);
		}
		ptrace(PTRACE_CONT, pid, 0, 0);
		if (n == 1) {
			waitpid(tid, &s, __WALL);
			status("thread", s);
		}
	}
	what("end", pid);
}

CASE(ptrace_exitkill)
{
	for (int kill_it = 0; kill_it < 2; kill_it++) {
		int p[2];
		pipe(p);
		pid_t tracer = fork();
		if (!tracer) {
			pid_t pid = fork();
			if (!pid) {
				close(p[0]);
				forever();
			}
			close(p[1]);
			until_state(pid, 'S');
			RAW(SEIZE, pid, 0, kill_it ? PTRACE_O_EXITKILL : 0);
			if (!kill_it) {
				RAW(INTERRUPT, pid, 0, 0);
				waitpid(pid, 0, __WALL);
			}
			fcntl(p[0], F_SETOWN, pid);
			_exit(0);
		}
		close(p[1]);
		waitpid(tracer, 0, 0);
		struct pollfd f = {p[0], POLLIN};
		say("tracee gone: %d", poll(&f, 1, kill_it ? 5000 : 50));
		if (!kill_it)
			kill(fcntl(p[0], F_GETOWN), SIGKILL);
		close(p[0]);
	}
}

// Somebody else's child: its parent hears of its end after the tracer.
CASE(ptrace_foreign)
{
	sigset_t m;
	int sig;
	sigemptyset(&m);
	sigaddset(&m, SIGUSR1);
	sigprocmask(SIG_BLOCK, &m, 0);
	pid_t pid = fork();
	if (!pid)
		forever();
	until_state(pid, 'S');
	pid_t tracer = fork();
	if (!tracer) {
		OK(ptrace(PTRACE_ATTACH, pid, 0, 0));
		what("tracer", pid);
		ptrace(PTRACE_CONT, pid, 0, 0);
		kill(pid, SIGTERM);
		what("tracer", pid);
		ptrace(PTRACE_CONT, pid, 0, SIGTERM);
		siginfo_t si;
		waitid(P_PID, pid, &si, WEXITED | WNOWAIT | __WALL);
		say("tracer sees %d %d", si.si_code, si.si_status);
		kill(getppid(), SIGUSR1);
		nap(50);
		what("tracer", pid);
		what("tracer", pid);
		_exit(0);
	}
	sigwait(&m, &sig);
	E(waitpid(pid, 0, WNOHANG));
	what("parent", tracer);
	what("parent", pid);
}

CASE(ptrace_permission)
{
	pid_t pid = fork();
	if (!pid)
		forever();
	until_state(pid, 'S');
	CHILD
	{
		setgroups(0, 0);
		setresgid(1000, 1000, 1000);
		setresuid(1000, 1000, 1000);
		E(prctl(PR_GET_DUMPABLE));
		prctl(PR_SET_DUMPABLE, 1);
		E(ptrace(PTRACE_ATTACH, pid, 0, 0));
		char b[8];
		struct iovec l = {b, 8}, r = {(void *)&word, 8};
		E(process_vm_readv(pid, &l, 1, &r, 1, 0));
		pid_t own = fork();
		if (!own)
			forever();
		E(ptrace(PTRACE_ATTACH, own, 0, 0));
		what("own", own);
		ptrace(PTRACE_DETACH, own, 0, 0);
		kill(own, SIGKILL);
		what("own", own);
		if (!(own = fork())) {
			prctl(PR_SET_DUMPABLE, 0);
			forever();
		}
		until_state(own, 'S');
		E(ptrace(PTRACE_ATTACH, own, 0, 0));
		kill(own, SIGKILL);
		what("own", own);
	}
	kill(pid, SIGKILL);
	what("end", pid);
}

static const char constant[64] __attribute__((aligned(64))) = "read-only";
CASE(ptrace_proc_mem)
{
	pid_t pid = fork();
	if (!pid) {
		char *none = mmap((void *)0x10000000, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		strcpy(none, "hidden");
		mprotect(none, 4096, PROT_NONE);
		char *shared = mmap((void *)0x10001000, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		raise(SIGSTOP);
		_exit(strcmp(constant, "changed") ? 1 : 0);
	}
	waitpid(pid, 0, WUNTRACED);
	char path[64], b[16] = "";
	snprintf(path, sizeof path, "/proc/%d/mem", pid);
	int fd = open(path, O_RDWR);
	E(pread(fd, b, 10, (off_t)constant));
	say("%s", b);
	E(pwrite(fd, "changed", 8, (off_t)constant));
	E(pread(fd, b, 10, (off_t)constant));
	say("%s here %s", b, constant);
	E(pread(fd, b, 7, 0x10000000));
	say("%s", b);
	E(pwrite(fd, "changed", 8, 0x10000000));
	E(pread(fd, b, 8, 0x10000000));
	say("%s", b);
	E(pwrite(fd, "x", 1, 0x10001000));
	E(pread(fd, b, 8, 8));
	E(pwrite(fd, b, 8, 8));
	struct iovec l = {b, 8}, r = {(void *)0x10000000, 8};
	E(process_vm_readv(pid, &l, 1, &r, 1, 0));
	r.iov_base = (void *)constant;
	E(process_vm_readv(pid, &l, 1, &r, 1, 0));
	E(process_vm_writev(pid, &l, 1, &r, 1, 0));
	close(fd);
	kill(pid, SIGCONT);
	what("end", pid);
}

// A tracee's exit tells a tracer that is not its parent of each thread; exec by a thread
// takes the leader's id.
static void *exec_thread(void *a)
{
	quiet_exec();
	return 0;
}
static void thread_execs(void)
{
	pthread_t t;
	pthread_create(&t, 0, exec_thread, 0);
	forever();
}

CASE(ptrace_thread_exec)
{
	pid_t pid = tracee(thread_execs);
	what("first", pid);
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC);
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("clone", pid);
	unsigned long tid, message;
	int s;
	ptrace(PTRACE_GETEVENTMSG, pid, 0, &tid);
	waitpid(tid, &s, __WALL);
	ptrace(PTRACE_CONT, pid, 0, 0); // first: later pid is who executes
	ptrace(PTRACE_CONT, tid, 0, 0);
	what("exec", pid);
	ptrace(PTRACE_GETEVENTMSG, pid, 0, &message);
	say("by the thread %d", message == tid);
	E(ptrace(PTRACE_CONT, tid, 0, 0));
	ptrace(PTRACE_CONT, pid, 0, 0);
	what("end", pid);
}

static void interrupted_sleep(void)
{
	struct timespec t = {0, 600000000}; // far longer than it takes to interrupt it twice
	OK(nanosleep(&t, 0));
	struct pollfd f = {-1};
	E(poll(&f, 1, 100));
}

CASE(ptrace_restart)
{
	pid_t pid = tracee(interrupted_sleep);
	what("first", pid);
	ptrace(PTRACE_DETACH, pid, 0, 0);
	RAW(SEIZE, pid, 0, 0);
	for (int i = 0; i < 2; i++) {
		nap(30);
		OK(RAW(INTERRUPT, pid, 0, 0));
		int s;
		waitpid(pid, &s, __WALL);
		say("stop %d event %d", WSTOPSIG(s), s >> 16);
		ptrace(PTRACE_CONT, pid, 0, 0);
	}
	what("end", pid);
}

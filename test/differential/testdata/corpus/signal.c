#include "corpus.h"
#include <setjmp.h>
#include <ucontext.h>

static volatile int count;
static void counting(int n) { count++; }
static void naming(int n) { say("handler %d", n >= SIGRTMIN ? n - SIGRTMIN + 1000 : n); }
static void telling(int n, siginfo_t *i, void *context)
{
	say("handler %d signo %d code %d errno %d pid ours %d uid %d value %d", n, i->si_signo, i->si_code, i->si_errno, i->si_pid == getpid(), i->si_uid, i->si_code == SI_QUEUE || i->si_code == -60 ? i->si_value.sival_int : 0);
}

static void handle(int n, void (*f)(int), int flags)
{
	struct sigaction a = {.sa_handler = f, .sa_flags = flags};
	sigaction(n, &a, NULL);
}

CASE(actions)
{
	struct sigaction a = {.sa_handler = naming, .sa_flags = SA_RESTART}, old;
	sigaddset(&a.sa_mask, SIGUSR2);
	E(sigaction(SIGUSR1, &a, &old));
	say("default %d", old.sa_handler == SIG_DFL);
	E(sigaction(SIGUSR1, NULL, &old));
	say("ours %d restart %d mask %d", old.sa_handler == naming, (old.sa_flags & SA_RESTART) != 0, sigismember(&old.sa_mask, SIGUSR2));
	E(sigaction(SIGKILL, &a, NULL));
	E(sigaction(SIGSTOP, &a, NULL));
	E(sigaction(0, &a, NULL));
	E(sigaction(65, &a, NULL));
	E(raise(SIGUSR1));
	a.sa_handler = naming, a.sa_flags = SA_RESETHAND;
	sigaction(SIGUSR2, &a, NULL);
	raise(SIGUSR2);
	sigaction(SIGUSR2, NULL, &old);
	say("reset %d", old.sa_handler == SIG_DFL);
	E(kill(getpid(), 0));
	E(kill(getpid(), 65));
	E(kill(getpid(), -1));
	E(kill(0x7ffffff, SIGTERM));
	E(syscall(SYS_tgkill, getpid(), getpid(), 0));
	E(syscall(SYS_tgkill, getpid(), 0x7ffffff, 0));
	E(syscall(SYS_tgkill, -1, 1, 0));
	E(syscall(SYS_tkill, 0, 1));
	sigset_t m;
	sigfillset(&m);
	E(sigprocmask(SIG_SETMASK, &m, NULL));
	sigprocmask(SIG_SETMASK, NULL, &m);
	say("kill %d stop %d usr1 %d", sigismember(&m, SIGKILL), sigismember(&m, SIGSTOP), sigismember(&m, SIGUSR1));
	E(sigprocmask(77, &m, NULL));
}

CASE(information)
{
	struct sigaction a = {.sa_sigaction = telling, .sa_flags = SA_SIGINFO};
	for (int n = 1; n < 32; n++)
		sigaction(n, &a, NULL);
	kill(getpid(), SIGUSR1);
	raise(SIGUSR2);
	sigqueue(getpid(), SIGTERM, (union sigval){.sival_int = 42});
	alarm(1), pause();
	siginfo_t i = {.si_code = SI_USER};
	E(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &i));
	i.si_code = -60, i.si_value.sival_int = 6;
	E(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &i));
	E(syscall(SYS_rt_tgsigqueueinfo, getpid(), getpid(), SIGUSR1, &i));
}

static void on_child(int n, siginfo_t *i, void *c) { say("child: code %d status %d pid right %d", i->si_code, i->si_status, i->si_pid == child_pid); }

CASE(child_signals)
{
	struct sigaction a = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO};
	sigset_t block, none;
	sigemptyset(&block), sigaddset(&block, SIGCHLD), sigemptyset(&none);
	sigprocmask(SIG_BLOCK, &block, NULL);
	sigaction(SIGCHLD, &a, NULL);
	if (!(child_pid = fork()))
		_exit(5);
	E(sigsuspend(&none));
	wait(NULL);
	if (!(child_pid = fork()))
		kill(getpid(), SIGTERM), _exit(0);
	E(sigsuspend(&none));
	wait(NULL);
	if (!(child_pid = fork())) {
		raise(SIGSTOP);
		_exit(0);
	}
	E(sigsuspend(&none));
	kill(child_pid, SIGCONT);
	E(sigsuspend(&none));
	int s;
	waitpid(child_pid, &s, 0);
	status("child", s);
	sigset_t pending;
	struct timespec zero = {0, 0};
	sigtimedwait(&block, NULL, &zero); // the exit may have joined the continue's signal
	a.sa_flags |= SA_NOCLDSTOP;
	sigaction(SIGCHLD, &a, NULL);
	if (!(child_pid = fork())) {
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(child_pid, &s, WUNTRACED);
	status("child", s);
	sigpending(&pending);
	say("pending %d", sigismember(&pending, SIGCHLD));
	kill(child_pid, SIGKILL);
	E(sigsuspend(&none));
	wait(NULL);
	signal(SIGCHLD, SIG_IGN);
	if (!(child_pid = fork()))
		_exit(5);
	E(wait(&s)); // reaped by itself
	a.sa_handler = SIG_DFL, a.sa_flags = SA_NOCLDWAIT;
	sigaction(SIGCHLD, &a, NULL);
	if (!(child_pid = fork()))
		_exit(5);
	E(waitpid(child_pid, &s, 0));
}

CASE(real_time_queue)
{
	sigset_t m, none;
	sigfillset(&m), sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &m, NULL);
	struct sigaction a = {.sa_handler = naming};
	sigfillset(&a.sa_mask);
	for (int n = SIGRTMIN; n < SIGRTMIN + 4; n++)
		sigaction(n, &a, NULL);
	handle(SIGUSR1, naming, 0);
	for (int k = 0; k < 3; k++)
		for (int n = 3; n >= 0; n--)
			sigqueue(getpid(), SIGRTMIN + n, (union sigval){.sival_int = k * 10 + n});
	raise(SIGUSR1), raise(SIGUSR1);
	sigset_t one;
	sigemptyset(&one), sigaddset(&one, SIGRTMIN + 2), sigaddset(&one, SIGRTMIN + 1);
	siginfo_t i;
	struct timespec zero = {0, 0};
	for (int k = 0; k < 7; k++) {
		int n = sigtimedwait(&one, &i, &zero);
		say("%d value %d code %d", n < 0 ? -errno : n - SIGRTMIN, n < 0 ? 0 : i.si_value.sival_int, n < 0 ? 0 : i.si_code);
	}
	sigprocmask(SIG_SETMASK, &none, NULL);
	struct rlimit l = {10, 10};
	sigprocmask(SIG_SETMASK, &m, NULL);
	CHILD {
		setresuid(54321, 54321, 54321);
		setrlimit(RLIMIT_SIGPENDING, &l);
		int k = 0;
		while (!sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = k}))
			k++;
		say("queued %d then %s", k, errname(errno));
		E(raise(SIGUSR2)); // kill needs no room
	}
	zero.tv_nsec = -1;
	E(sigtimedwait(&one, &i, &zero));
	zero.tv_nsec = 1000000;
	E(sigtimedwait(&one, &i, &zero));
}

CASE(waiting)
{
	sigset_t m, none;
	sigemptyset(&none), sigemptyset(&m), sigaddset(&m, SIGUSR1), sigaddset(&m, SIGUSR2);
	sigprocmask(SIG_BLOCK, &m, NULL);
	pid_t parent = getpid();
	if (!(child_pid = fork())) {
		until_state(parent, 'S');
		kill(parent, SIGUSR2);
		_exit(0);
	}
	int n;
	siginfo_t i;
	E(sigwaitinfo(&m, &i));
	say("from child %d code %d", i.si_pid == child_pid, i.si_code);
	wait(NULL);
	raise(SIGUSR1);
	E(sigwait(&m, &n));
	say("%d", n);
	handle(SIGUSR1, naming, 0);
	raise(SIGUSR1);
	sigset_t pending;
	sigpending(&pending);
	say("pending %d %d", sigismember(&pending, SIGUSR1), sigismember(&pending, SIGUSR2));
	E(sigsuspend(&none));
	handle(SIGALRM, naming, 0);
	struct itimerval t = {{0, 0}, {0, 20000}};
	setitimer(ITIMER_REAL, &t, NULL);
	E(pause());
	handle(SIGALRM, SIG_IGN, 0);
	setitimer(ITIMER_REAL, &t, NULL);
	struct timespec rest = {0, 60000000};
	E(nanosleep(&rest, NULL)); // an ignored signal interrupts nothing
}

// nudge signals the parent once it sleeps.
static void nudge(int n)
{
	pid_t parent = getpid();
	if (!(child_pid = fork())) {
		until_state(parent, 'S');
		kill(parent, n);
		nap(20);
		until_state(parent, 'S');
		kill(parent, SIGUSR2);
		_exit(0);
	}
}

static int restart_pipe[2];
static void feed(int n)
{
	say("fed by %d", n);
	write(restart_pipe[1], "data", 4);
}

CASE(restarting)
{
	char b[8];
	int s;
	pipe(restart_pipe);
	handle(SIGUSR2, feed, 0);
	handle(SIGUSR1, naming, SA_RESTART);
	nudge(SIGUSR1);
	E(read(restart_pipe[0], b, 8)); // restarted, then interrupted by SIGUSR2
	while (waitpid(child_pid, &s, 0) < 0)
		;
	handle(SIGUSR2, feed, SA_RESTART);
	read(restart_pipe[0], b, 8);
	nudge(SIGUSR1);
	E(read(restart_pipe[0], b, 8));
	waitpid(child_pid, &s, 0);
	handle(SIGUSR1, naming, 0);
	handle(SIGUSR2, naming, 0);
	nudge(SIGUSR1);
	E(read(restart_pipe[0], b, 8));
	while (waitpid(child_pid, &s, 0) < 0)
		;
	handle(SIGUSR1, naming, SA_RESTART);
	handle(SIGUSR2, naming, SA_RESTART);
	nudge(SIGUSR1);
	E(poll(NULL, 0, 1000)); // never restarted
	waitpid(child_pid, &s, 0);
	nudge(SIGUSR1);
	struct timespec t = {1, 0}, left = {0, 0};
	E(nanosleep(&t, &left));
	say("left %d", left.tv_sec * 1000000000L + left.tv_nsec > 100000000); // the slack may make it more than asked
	waitpid(child_pid, &s, 0);
	nudge(SIGSTOP); // a stop and continue is not seen
	if (!fork()) {
		until_state(getppid(), 'T');
		kill(getppid(), SIGCONT);
		_exit(0);
	}
	nap(50);
	E(waitpid(child_pid, &s, 0) == child_pid);
	wait(&s);
	handle(SIGUSR2, SIG_DFL, 0);
}

static char *low, *high;
static void on_stack(int n)
{
	char here;
	stack_t s;
	sigaltstack(NULL, &s);
	say("on the other stack %d flags %d", &here > low && &here < high, s.ss_flags);
	E(sigaltstack(&s, NULL));
	if (n == SIGUSR1)
		raise(SIGUSR2);
}

CASE(alternate_stack)
{
	stack_t s, old;
	E(sigaltstack(NULL, &old));
	say("flags %d", old.ss_flags);
	low = malloc(1 << 16), high = low + (1 << 16);
	s.ss_sp = low, s.ss_size = 1 << 16, s.ss_flags = 0;
	E(sigaltstack(&s, NULL));
	handle(SIGUSR1, on_stack, SA_ONSTACK), handle(SIGUSR2, on_stack, SA_ONSTACK);
	raise(SIGUSR1);
	handle(SIGUSR2, on_stack, 0);
	raise(SIGUSR2);
	s.ss_size = 100;
	E(sigaltstack(&s, NULL));
	s.ss_flags = 77;
	E(sigaltstack(&s, NULL));
	s.ss_flags = SS_DISABLE;
	E(sigaltstack(&s, &old));
	say("old flags %d size %ld", old.ss_flags, (long)old.ss_size);
	raise(SIGUSR1);
	// Stack overflow is survivable on another stack.
	s.ss_flags = 0, s.ss_size = 1 << 16;
	sigaltstack(&s, NULL);
	CHILD {
		struct rlimit l = {200 << 10, 200 << 10};
		setrlimit(RLIMIT_STACK, &l);
		CHILD {
			handle(SIGSEGV, (void (*)(int))_exit, SA_ONSTACK);
			volatile char *p = (volatile char *)&l;
			for (;; p -= 1024)
				*p = 1;
		}
	}
}

static sigjmp_buf back;
static void fault(int n, siginfo_t *i, void *c)
{
	say("signal %d code %d address %d trap %d", n, i->si_code, i->si_addr != NULL, (int)((ucontext_t *)c)->uc_mcontext.gregs[REG_TRAPNO]);
	siglongjmp(back, 1);
}

static void divide(void) { __asm__ volatile("xor %%edx, %%edx; mov $1, %%eax; xor %%ecx, %%ecx; idiv %%ecx" ::: "eax", "ecx", "edx"); }

CASE(faults)
{
	struct sigaction a = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
	int all[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
	for (int i = 0; i < 6; i++)
		sigaction(all[i], &a, NULL);
	volatile int zero = 0;
	if (!sigsetjmp(back, 1))
		divide();
	if (!sigsetjmp(back, 1))
		__asm__ volatile("ud2");
	if (!sigsetjmp(back, 1))
		__asm__ volatile("int3");
	if (!sigsetjmp(back, 1))
		__asm__ volatile("hlt");
	if (!sigsetjmp(back, 1))
		__asm__ volatile("int $0x99");
	if (!sigsetjmp(back, 1))
		*(volatile int *)16 = 1;
	if (!sigsetjmp(back, 1))
		__asm__ volatile("movd %0, %%xmm0; divps %%xmm0, %%xmm0" ::"m"(zero) : "xmm0"); // masked: nothing
	if (!sigsetjmp(back, 1)) {
		unsigned control = 0x1f80 & ~0x200; // unmask divide by zero
		__asm__ volatile("ldmxcsr %0; xorps %%xmm0,%%xmm0; movss %1,%%xmm1; divss %%xmm0,%%xmm1" ::"m"(control), "m"((float){1}) : "xmm0", "xmm1");
	}
	unsigned control = 0x1f80;
	__asm__ volatile("ldmxcsr %0" ::"m"(control));
	if (!sigsetjmp(back, 1))
		__asm__ volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop" ::: "memory", "cc"); // single step
	static const char *what[] = {"fpe", "ill", "trap", "segv", "abrt", "blocked segv"};
	for (int i = 0; i < 6; i++) {
		if (!(child_pid = fork())) {
			struct rlimit none = {0, 0};
			setrlimit(RLIMIT_CORE, &none);
			for (int k = 0; k < 6; k++)
				signal(all[k], SIG_DFL);
			sigset_t m;
			sigfillset(&m);
			switch (i) {
			case 0: divide();
			case 1: __asm__ volatile("ud2");
			case 2: __asm__ volatile("int3");
			case 3: *(volatile int *)16 = 1;
			case 4: abort();
			case 5:
				signal(SIGSEGV, naming);
				sigprocmask(SIG_SETMASK, &m, NULL);
				*(volatile int *)16 = 1;
			}
		}
		int s;
		waitpid(child_pid, &s, 0);
		status(what[i], s);
	}
}

static void change(int n, siginfo_t *i, void *c)
{
	ucontext_t *u = c;
	u->uc_mcontext.gregs[REG_RAX] = 1234;
	u->uc_mcontext.gregs[REG_RIP] += 2; // over the ud2
	__asm__ volatile("pcmpeqb %%xmm5, %%xmm5; fldpi; fstp %%st(0); vzeroall" ::: "xmm5");
}

CASE(frame)
{
	struct sigaction a = {.sa_sigaction = change, .sa_flags = SA_SIGINFO};
	sigaction(SIGILL, &a, NULL);
	long rax = 1, rbx = 2, r15 = 3;
	double in = 2.5, out = 0;
	__asm__ volatile("movsd %4, %%xmm5; mov $7, %%r15; mov $8, %%rbx; stc; ud2; setc %%cl; movzbl %%cl, %%ecx; add %%rcx, %%r15; movsd %%xmm5, %3"
			 : "=a"(rax), "=&b"(rbx), "=m"(r15), "=m"(out)
			 : "m"(in)
			 : "rcx", "r15", "xmm5", "cc", "memory");
	__asm__ volatile("" ::: "memory");
	say("rax %ld rbx %ld xmm5 %g", rax, rbx, out);
	// A red zone and a call in flight survive a signal.
	handle(SIGUSR1, counting, 0);
	pid_t parent = getpid();
	if (!(child_pid = fork())) {
		for (int k = 0; k < 200; k++) {
			kill(parent, SIGUSR1);
			sched_yield();
		}
		_exit(0);
	}
	long sum = 0;
	double x = 1.5;
	for (long k = 0; k < 3000000; k++)
		sum += k * 3 % 7, x = x * 1.0000001 + 0.1 / (k + 1);
	int s;
	while (waitpid(child_pid, &s, 0) < 0)
		;
	say("sum %ld x %.6f some signals %d", sum, x, count > 0);
}

CASE(default_actions)
{
	struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	for (int n = 1; n < 32; n++) {
		if (n == SIGSTOP || n == SIGTSTP || n == SIGTTIN || n == SIGTTOU)
			continue;
		if (!(child_pid = fork())) {
			setpgid(0, 0);
			kill(getpid(), n);
			_exit(100);
		}
		int s;
		waitpid(child_pid, &s, 0);
		say("signal %d", n);
		status(" child", s);
	}
}

CASE(stop_and_continue)
{
	int s;
	siginfo_t i;
	if (!(child_pid = fork())) {
		raise(SIGSTOP);
		raise(SIGTSTP);
		_exit(3);
	}
	E(waitpid(child_pid, &s, WUNTRACED) == child_pid);
	status("child", s);
	E(waitpid(child_pid, &s, WUNTRACED | WNOHANG));
	say("%s", state_of(child_pid));
	kill(child_pid, SIGTERM); // waits for the continue, which lets it die
	E(waitid(P_PID, child_pid, &i, WEXITED | WNOHANG) + i.si_pid);
	kill(child_pid, SIGCONT);
	E(waitpid(child_pid, &s, 0) == child_pid);
	status("child", s);
	if (!(child_pid = fork())) {
		raise(SIGSTOP);
		pause(); // or its exit could overtake the continue
	}
	waitpid(child_pid, &s, WUNTRACED);
	kill(child_pid, SIGCONT);
	E(waitpid(child_pid, &s, WCONTINUED) == child_pid);
	status("child", s);
	kill(child_pid, SIGKILL);
	waitpid(child_pid, &s, 0);
	status("child", s);
	if (!(child_pid = fork())) {
		raise(SIGSTOP);
		_exit(3);
	}
	memset(&i, 0, sizeof i);
	E(waitid(P_PID, child_pid, &i, WSTOPPED));
	say("code %d status %d", i.si_code, i.si_status);
	kill(child_pid, SIGKILL);
	waitpid(child_pid, &s, 0);
	status("child", s);
}

CASE(masks_in_handlers)
{
	handle(SIGUSR1, naming, 0);
	sigset_t m;
	struct sigaction a = {.sa_handler = naming, .sa_flags = SA_NODEFER};
	sigaction(SIGUSR2, &a, NULL);
	CHILD { // inheritance: mask and handlers pass fork, pending does not
		sigemptyset(&m), sigaddset(&m, SIGUSR1);
		sigprocmask(SIG_BLOCK, &m, NULL);
		raise(SIGUSR1);
		CHILD {
			sigset_t p;
			sigpending(&p);
			say("pending %d", sigismember(&p, SIGUSR1));
			sigprocmask(SIG_SETMASK, NULL, &p);
			say("blocked %d", sigismember(&p, SIGUSR1));
		}
		sigprocmask(SIG_UNBLOCK, &m, NULL);
	}
	CHILD { // ignored passes exec, handlers do not
		signal(SIGUSR1, SIG_IGN);
		signal(SIGUSR2, naming);
		execl("/bin/sh", "sh", "-c", "kill -USR1 $$; echo alive; kill -USR2 $$; echo not here", NULL);
	}
	CHILD {
		setpgid(0, 0);
		if (!fork())
			pause();
		if (!fork())
			pause();
		signal(SIGTERM, SIG_IGN);
		kill(0, SIGTERM);
		int s;
		wait(&s), status("one", s);
		wait(&s), status("two", s);
		E(kill(-getpgrp(), 0));
		E(kill(-0x7ffffff, SIGTERM));
	}
	CHILD {
		setresuid(1000, 1000, 1000);
		E(kill(getppid(), 0));
		E(kill(1, SIGTERM));
	}
	CHILD {
		prctl(PR_SET_PDEATHSIG, SIGUSR1);
		int n = 0;
		prctl(PR_GET_PDEATHSIG, &n);
		say("%d", n);
		E(prctl(PR_SET_PDEATHSIG, 99));
	}
}

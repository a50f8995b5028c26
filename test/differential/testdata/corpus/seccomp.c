#include "corpus.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <ucontext.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RET(v) BPF_STMT(BPF_RET | BPF_K, v)
#define PROG(...) \
	struct sock_filter code[] = {__VA_ARGS__}; \
	struct sock_fprog prog = {sizeof code / sizeof *code, code}
// one answer for one call, all others are allowed
#define ONE(number, answer) PROG(LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), RET(answer), RET(SECCOMP_RET_ALLOW))

static long seccomp(unsigned op, unsigned flags, void *arg) { return syscall(SYS_seccomp, op, flags, arg); }

static long filter_one(int number, unsigned answer, unsigned flags)
{
	struct sock_filter code[] = {LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), RET(answer), RET(SECCOMP_RET_ALLOW)};
	struct sock_fprog prog = {4, code};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return seccomp(SECCOMP_SET_MODE_FILTER, flags, &prog);
}

static void lines(pid_t pid)
{
	char path[64], line[256];
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	FILE *f = fopen(path, "r");
	while (fgets(line, sizeof line, f))
		if (!strncmp(line, "Seccomp", 7) || !strncmp(line, "NoNewPrivs", 10))
			line[strlen(line) - 1] = 0, say("%s", line);
	fclose(f);
}

CASE(seccomp_arguments)
{
	ONE(SYS_getppid, SECCOMP_RET_ERRNO | 7);
	E(prctl(PR_GET_SECCOMP));
	E(seccomp(99, 0, 0));
	E(seccomp(SECCOMP_SET_MODE_STRICT, 1, 0));
	E(seccomp(SECCOMP_SET_MODE_STRICT, 0, &prog));
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, 0));
	E(seccomp(SECCOMP_SET_MODE_FILTER, 64, &prog));
	E(seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog));
	E(seccomp(SECCOMP_SET_MODE_FILTER, 32, &prog));
	E(prctl(PR_SET_SECCOMP, 0));
	E(prctl(PR_SET_SECCOMP, 3));
	E(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 0));
	uint32_t actions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
		SECCOMP_RET_USER_NOTIF, SECCOMP_RET_TRACE, SECCOMP_RET_LOG, SECCOMP_RET_ALLOW, 1, 0x10000, 0x7fff0001};
	for (int i = 0; i < 11; i++)
		E(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, actions + i));
	E(seccomp(SECCOMP_GET_ACTION_AVAIL, 1, actions));
	E(seccomp(SECCOMP_GET_ACTION_AVAIL, 0, 0));
	struct seccomp_notif_sizes sizes;
	E(seccomp(SECCOMP_GET_NOTIF_SIZES, 0, &sizes));
	say("%d %d %d", sizes.seccomp_notif, sizes.seccomp_notif_resp, sizes.seccomp_data);
	E(seccomp(SECCOMP_GET_NOTIF_SIZES, 1, &sizes));
	struct sock_fprog bad = prog;
	bad.len = 0;
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &bad));
	bad.len = 4097;
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &bad));
	bad.len = 4;
	bad.filter = (void *)8;
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &bad));
	bad.len = 3;
	bad.filter = code;
	code[2].k = SECCOMP_RET_ALLOW;
	code[1].jf = 1;
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &bad));
	CHILD
	{
		setgroups(0, 0);
		setresgid(1000, 1000, 1000);
		setresuid(1000, 1000, 1000);
		E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &prog));
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &prog));
		lines(getpid());
	}
}

CASE(seccomp_programs)
{
	static const struct { const char *name; struct sock_filter code[4]; int n; } rows[] = {
		{"allow", {RET(SECCOMP_RET_ALLOW)}, 1},
		{"no return", {LOAD(nr)}, 1},
		{"return X", {BPF_STMT(BPF_RET | BPF_X, 0)}, 1},
		{"unaligned", {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2), RET(SECCOMP_RET_ALLOW)}, 2},
		{"too far", {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), RET(SECCOMP_RET_ALLOW)}, 2},
		{"byte", {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"indirect", {BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"length", {BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"msh", {BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"mod", {BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 1), RET(SECCOMP_RET_ALLOW)}, 2},
		{"div 0", {BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"shift 32", {BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32), RET(SECCOMP_RET_ALLOW)}, 2},
		{"shift 31", {BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 31), RET(SECCOMP_RET_ALLOW)}, 2},
		{"jump out", {BPF_STMT(BPF_JMP | BPF_JA, 1), RET(SECCOMP_RET_ALLOW)}, 2},
		{"jump", {BPF_STMT(BPF_JMP | BPF_JA, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"branch out", {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"unset memory", {BPF_STMT(BPF_LD | BPF_MEM, 0), RET(SECCOMP_RET_ALLOW)}, 2},
		{"memory", {BPF_STMT(BPF_ST, 15), BPF_STMT(BPF_LDX | BPF_MEM, 15), RET(SECCOMP_RET_ALLOW)}, 3},
		{"no memory", {BPF_STMT(BPF_ST, 16), RET(SECCOMP_RET_ALLOW)}, 2},
		{"half set", {BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1), BPF_STMT(BPF_ST, 1), BPF_STMT(BPF_LD | BPF_MEM, 1), RET(SECCOMP_RET_ALLOW)}, 4},
		{"unknown", {BPF_STMT(0xffff, 0), RET(SECCOMP_RET_ALLOW)}, 2},
	};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct sock_fprog prog = {rows[i].n, (void *)rows[i].code};
		errno = 0;
		answer(rows[i].name, seccomp(SECCOMP_SET_MODE_FILTER, 0, &prog));
	}
}

CASE(seccomp_errno)
{
	E(filter_one(SYS_dup, SECCOMP_RET_ERRNO | EXDEV, 0));
	E(dup(1));
	E(filter_one(SYS_umask, SECCOMP_RET_ERRNO | 0, 0));
	E(umask(077));
	E(filter_one(SYS_getuid, SECCOMP_RET_ERRNO | 0xffff, 0));
	say("large %ld", syscall(SYS_getuid));
	say("errno %d", errno);
	E(filter_one(SYS_dup, SECCOMP_RET_ERRNO | EBUSY, 0)); // the last one set counts
	E(dup(1));
	E(filter_one(SYS_dup, SECCOMP_RET_ALLOW, 0));
	E(dup(1));
	lines(getpid());
	E(prctl(PR_GET_SECCOMP));
	E(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	CHILD
	{
		E(dup(1));
		lines(getpid());
	}
}

CASE(seccomp_argument_values)
{
	PROG(LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fcntl, 0, 8),
		LOAD(args[1]), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_GETFD, 0, 6),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2]) + 4), BPF_STMT(BPF_ST, 3),
		LOAD(args[2]), BPF_STMT(BPF_LDX | BPF_MEM, 3), BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 10, 1, 0), RET(SECCOMP_RET_ALLOW), RET(SECCOMP_RET_ERRNO | ETIME));
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &prog));
	E(syscall(SYS_fcntl, 1, F_GETFD, 1L));
	E(syscall(SYS_fcntl, 1, F_GETFD, 9L << 32));
	E(syscall(SYS_fcntl, 1, F_GETFD, 9L << 32 | 1));
	E(syscall(SYS_fcntl, 1, F_GETFL, 9L << 32 | 1) >= 0);
	struct sock_filter arch[] = {LOAD(arch), BPF_STMT(BPF_ALU | BPF_XOR | BPF_K, AUDIT_ARCH_X86_64),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0), RET(SECCOMP_RET_KILL_PROCESS), RET(SECCOMP_RET_ALLOW)};
	struct sock_fprog p2 = {5, arch};
	E(seccomp(SECCOMP_SET_MODE_FILTER, 0, &p2));
}

static void on_sys(int sig, siginfo_t *i, void *context)
{
	ucontext_t *c = context;
	say("trap %d code %d errno %d call %d arch %x address right %d", sig, i->si_code, i->si_errno, i->si_syscall, i->si_arch,
		(long)i->si_call_addr == c->uc_mcontext.gregs[REG_RIP]);
	say("rax %lld rdi %lld", (long long)c->uc_mcontext.gregs[REG_RAX], (long long)c->uc_mcontext.gregs[REG_RDI]);
	c->uc_mcontext.gregs[REG_RAX] = 1234;
}

CASE(seccomp_trap)
{
	struct sigaction a = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
	sigaction(SIGSYS, &a, 0);
	for (int i = 0; i < 10; i++) // a hot call site
		close(99);
	E(filter_one(SYS_close, SECCOMP_RET_TRAP | 42, 0));
	E(close(77));
	CHILD
	{
		signal(SIGSYS, SIG_IGN);
		close(5);
	}
	CHILD
	{
		sigset_t m;
		sigfillset(&m);
		sigprocmask(SIG_SETMASK, &m, 0);
		close(5);
	}
}

CASE(seccomp_kill)
{
	signal(SIGSYS, SIG_IGN);
	CHILD
	{
		filter_one(SYS_getppid, SECCOMP_RET_KILL_PROCESS, 0);
		getppid();
	}
	CHILD
	{
		filter_one(SYS_getppid, SECCOMP_RET_KILL_THREAD, 0);
		getppid();
	}
	CHILD
	{
		filter_one(SYS_getppid, 0x00010000, 0); // unknown actions kill
		getppid();
	}
	CHILD
	{
		filter_one(SYS_getppid, SECCOMP_RET_LOG, 0);
		E(getppid() > 0);
	}
	CHILD
	{
		filter_one(SYS_getppid, SECCOMP_RET_TRACE | 1, 0);
		E(syscall(SYS_getppid));
		filter_one(SYS_getuid, SECCOMP_RET_USER_NOTIF, 0);
		E(syscall(SYS_getuid));
	}
}

static void *dies(void *a)
{
	getppid();
	return (void *)1;
}
CASE(seccomp_kill_thread)
{
	pthread_t t;
	void *r = 0;
	filter_one(SYS_getppid, SECCOMP_RET_KILL_THREAD, 0);
	pthread_create(&t, 0, dies, 0);
	nap(50);
	say("alive");
	fflush(0);
	_exit(0);
}

CASE(seccomp_strict)
{
	CHILD
	{
		E(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
		write(1, "written\n", 8);
		syscall(SYS_exit, 3);
	}
	CHILD
	{
		E(seccomp(SECCOMP_SET_MODE_STRICT, 0, 0));
		syscall(SYS_getpid);
	}
	CHILD
	{
		E(seccomp(SECCOMP_SET_MODE_STRICT, 0, 0));
		exit(0); // exit_group is not among them
	}
}

static int ready[2], go[2];
static volatile int thread_tid;
static void *waits(void *a)
{
	char c;
	thread_tid = syscall(SYS_gettid);
	if (a)
		filter_one(SYS_umask, SECCOMP_RET_ERRNO | 3, 0);
	write(ready[1], "", 1);
	read(go[0], &c, 1);
	E(dup(99));
	E(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	return 0;
}

CASE(seccomp_tsync)
{
	for (int own = 0; own < 2; own++)
		CHILD
		{
			pthread_t t;
			char c;
			pipe(ready);
			pipe(go);
			pthread_create(&t, 0, waits, own ? "" : 0);
			read(ready[0], &c, 1);
			long r = filter_one(SYS_dup, SECCOMP_RET_ERRNO | EXDEV, SECCOMP_FILTER_FLAG_TSYNC);
			say("tsync %ld is the thread %d", r == 0 ? 0 : 1, r == thread_tid);
			E(filter_one(SYS_dup, SECCOMP_RET_ERRNO | EXDEV, SECCOMP_FILTER_FLAG_TSYNC | 16));
			write(go[1], "", 1);
			pthread_join(t, 0);
			E(dup(99));
		}
}

CASE(seccomp_exec)
{
	int s;
	pid_t pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);
		dup2(null, 1);
		filter_one(SYS_exit_group, SECCOMP_RET_ERRNO | 1, 0);
		filter_one(SYS_exit, SECCOMP_RET_KILL_PROCESS, 0);
		execl("/proc/self/exe", "corpus", "-l", NULL);
	}
	waitpid(pid, &s, 0);
	status("child", s);
}

CASE(seccomp_trace)
{
	pid_t pid = fork();
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		filter_one(SYS_dup, SECCOMP_RET_TRACE | 0x123, 0);
		for (int i = 0; i < 3; i++)
			say("dup %ld %s", syscall(SYS_dup, 99), errname(errno));
		_exit(2);
	}
	int s;
	waitpid(pid, &s, 0);
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD);
	ptrace(PTRACE_CONT, pid, 0, 0);
	for (int n = 0;; n++) {
		waitpid(pid, &s, 0);
		if (!WIFSTOPPED(s))
			break;
		unsigned long message;
		struct user_regs_struct r;
		struct { uint8_t op, pad[3]; uint32_t arch; uint64_t ip, sp, nr, a[6]; uint32_t data; } info = {0};
		ptrace(PTRACE_GETEVENTMSG, pid, 0, &message);
		ptrace(PTRACE_GETREGS, pid, 0, &r);
		long size = syscall(SYS_ptrace, 0x420eL, (long)pid, (long)sizeof info, &info);
		say("stop %d event %d message %lx call %lld rax %lld", WSTOPSIG(s), s >> 16, message, r.orig_rax, r.rax);
		say("info %ld op %d nr %ld data %x", size, info.op, (long)info.nr, info.data);
		if (n == 2) {
			r.orig_rax = -1;
			r.rax = 55;
			ptrace(PTRACE_SETREGS, pid, 0, &r);
		} else if (n == 3) {
			r.orig_rax = SYS_getpgid; // allowed by the filter
			r.rdi = -1;
			ptrace(PTRACE_SETREGS, pid, 0, &r);
		}
		ptrace(n == 0 ? PTRACE_SYSCALL : PTRACE_CONT, pid, 0, 0); // to the same call's exit
	}
	status("end", s);
}

static int send_fd(int via, int fd)
{
	char c = 0, control[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec v = {&c, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(h), &fd, sizeof fd);
	return sendmsg(via, &m, 0);
}

static int receive_fd(int via)
{
	int fd = -1;
	char c, control[CMSG_SPACE(sizeof fd)];
	struct iovec v = {&c, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	recvmsg(via, &m, 0);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
	return fd;
}

static void on_alarm(int sig) {}

static void supervised(int via)
{
	struct sigaction a = {.sa_handler = on_alarm};
	sigaction(SIGUSR1, &a, 0);
	int fd = filter_one(SYS_mkdir, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
	if (fd < 0) {
		say("listener: %s", errname(errno));
		_exit(1);
	}
	E(filter_one(SYS_rmdir, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER));
	send_fd(via, fd);
	close(fd);
	E(syscall(SYS_mkdir, "one", 0700));
	E(syscall(SYS_mkdir, "two", 0711));
	E(syscall(SYS_mkdir, "three", 0700));
	E(access("three", F_OK));
	long got = syscall(SYS_mkdir, "four", 0700);
	char b[8] = "";
	E(read(got, b, 4));
	say("%s cloexec %d", b, fcntl(got, F_GETFD));
	E(syscall(SYS_mkdir, "five", 0700));
	E(read(200, b, 4));
	E(syscall(SYS_mkdir, "signal", 0700));
	char c;
	write(via, "", 1);
	read(via, &c, 1);
	E(syscall(SYS_mkdir, "nobody", 0700));
}

CASE(seccomp_notify)
{
	int s[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	put("file", "data");
	pid_t pid = fork();
	if (!pid) {
		close(s[0]);
		dup2(open("log", O_CREAT | O_RDWR, 0600), 1); // not between the supervisor's lines
		supervised(s[1]);
		_exit(0);
	}
	close(s[1]);
	int fd = receive_fd(s[0]), file = open("file", O_RDONLY);
	struct pollfd p = {fd, POLLIN | POLLOUT};
	struct seccomp_notif n;
	struct seccomp_notif_resp r;
	struct seccomp_notif_addfd add;
	for (int i = 0; i < 6; i++) {
		say("poll %d %x", poll(&p, 1, 5000), p.revents);
		memset(&n, 1, sizeof n);
		if (i == 0)
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &n));
		memset(&n, 0, sizeof n);
		OK(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &n));
		char name[16] = "";
		struct iovec l = {name, 8}, remote = {(void *)n.data.args[0], 8};
		process_vm_readv(pid, &l, 1, &remote, 1, 0);
		say("call %d by the child %d %s %llo flags %d arch %x", n.data.nr, n.pid == pid, name, (unsigned long long)n.data.args[1], n.flags, n.data.arch);
		say("poll %d %x", poll(&p, 1, 0), p.revents);
		memset(&r, 0, sizeof r);
		memset(&add, 0, sizeof add);
		r.id = add.id = n.id;
		add.srcfd = file;
		switch (i) {
		case 0:
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &n.id));
			r.id++;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &r.id));
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			r.id--;
			r.flags = 2;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
			r.val = 1;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			r.flags = 0;
			r.val = 5;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			E(ioctl(fd, 0x12345, &r));
			break;
		case 1:
			r.error = -EDEADLK;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			break;
		case 2:
			r.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			break;
		case 3:
			add.flags = 8;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
			add.flags = 0;
			add.newfd = 9;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
			add.newfd = 0;
			add.newfd_flags = 1;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
			add.newfd_flags = O_CLOEXEC;
			add.srcfd = 99;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
			add.srcfd = file;
			add.id++;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
			add.id--;
			r.val = ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
			say("added %lld", (long long)r.val);
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
			break;
		case 4:
			lseek(file, 0, SEEK_SET);
			add.flags = SECCOMP_ADDFD_FLAG_SETFD | SECCOMP_ADDFD_FLAG_SEND;
			add.newfd = 200;
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ADDFD, &add));
			break;
		case 5: // interrupted before it is answered
			kill(pid, SIGUSR1);
			char c;
			read(s[0], &c, 1);
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_ID_VALID, &n.id));
			E(ioctl(fd, SECCOMP_IOCTL_NOTIF_SEND, &r));
		}
	}
	close(fd);
	write(s[0], "", 1);
	int status_;
	waitpid(pid, &status_, 0);
	status("child", status_);
	show("log");
}

CASE(seccomp_notify_hangup)
{
	int s[2];
	socketpair(AF_UNIX, SOCK_STREAM, 0, s);
	pid_t pid = fork();
	if (!pid) {
		send_fd(s[1], filter_one(SYS_mkdir, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER));
		_exit(0);
	}
	int fd = receive_fd(s[0]);
	waitpid(pid, 0, 0);
	struct pollfd p = {fd, POLLIN | POLLOUT};
	say("poll %d %x", poll(&p, 1, 5000), p.revents);
	struct seccomp_notif n = {0};
	E(ioctl(fd, SECCOMP_IOCTL_NOTIF_RECV, &n));
}

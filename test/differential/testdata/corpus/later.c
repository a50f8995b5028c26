// Calls with flags that came later, and old ones that few use.
#include "corpus.h"
#include <elf.h>

#ifndef RWF_NOWAIT
#define RWF_NOWAIT 8
#endif
#ifndef RWF_APPEND
#define RWF_APPEND 16
#endif

CASE(positioned_vectors)
{
	char a[8] = "", b[8] = "";
	put("f", "0123456789");
	int fd = open("f", O_RDWR), p[2];
	struct iovec v[2] = {{a, 3}, {b, 3}}, w[2] = {{"AB", 2}, {"CD", 2}};
	E(syscall(SYS_preadv2, fd, v, 2, 2, 0, 0));
	say("%s %s", a, b);
	E(lseek(fd, 0, SEEK_CUR));
	E(syscall(SYS_preadv2, fd, v, 2, -1L, -1L, 0));
	E(lseek(fd, 0, SEEK_CUR));
	E(syscall(SYS_preadv2, fd, v, 2, -2L, -1L, 0));
	E(syscall(SYS_preadv2, fd, v, 2, 0, 0, 1 << 20));
	E(syscall(SYS_preadv2, fd, v, 2, 0, 0, RWF_APPEND));
	E(syscall(SYS_pwritev2, fd, w, 2, 1, 0, RWF_APPEND));
	E(lseek(fd, 0, SEEK_CUR));
	show("f");
	E(syscall(SYS_pwritev2, fd, w, 2, 1, 0, 2 /* RWF_DSYNC */));
	E(syscall(SYS_pwritev2, fd, w, 1, -1L, -1L, 4 /* RWF_SYNC */));
	show("f");
	E(syscall(SYS_preadv2, fd, v, 1025, 0, 0, 0));
	E(syscall(SYS_preadv2, fd, v, 0, 0, 0, 0));
	E(syscall(SYS_preadv2, fd, (void *)8, 1, 0, 0, 0));
	pipe(p);
	E(syscall(SYS_preadv2, p[0], v, 2, -1L, -1L, RWF_NOWAIT));
	E(syscall(SYS_preadv2, p[0], v, 2, 0, 0, 0));
	write(p[1], "pipe", 4);
	E(syscall(SYS_preadv2, p[0], v, 2, -1L, -1L, RWF_NOWAIT));
	E(syscall(SYS_preadv2, p[1], v, 2, -1L, -1L, 0));
	int ap = open("f", O_RDWR | O_APPEND);
	E(syscall(SYS_pwritev2, ap, w, 1, 0, 0, 0));
	show("f");
}

CASE(closed_ranges)
{
	int a = dup2(1, 20), b = dup2(1, 21), c = dup2(1, 22);
	E(syscall(SYS_close_range, 21, 20, 0));
	E(syscall(SYS_close_range, 20, 22, 8));
	E(syscall(SYS_close_range, 20, 21, 4)); // cloexec
	say("%d %d %d", fcntl(20, F_GETFD), fcntl(21, F_GETFD), fcntl(22, F_GETFD));
	E(syscall(SYS_close_range, 20, 21, 0));
	say("%d %d %d", fcntl(20, F_GETFD), fcntl(21, F_GETFD), fcntl(22, F_GETFD));
	E(syscall(SYS_close_range, 22, ~0U, 2)); // unshare
	E(fcntl(22, F_GETFD));
	E(syscall(SYS_close_range, 1000, ~0U, 0));
}

CASE(copied_ranges)
{
	put("a", "0123456789");
	put("b", "");
	int a = open("a", O_RDONLY), b = open("b", O_RDWR), ap = open("b", O_WRONLY | O_APPEND), p[2];
	off_t from = 2, to = 1;
	E(copy_file_range(a, &from, b, &to, 4, 0));
	say("%ld %ld", (long)from, (long)to);
	show("b");
	E(copy_file_range(a, NULL, b, NULL, 100, 0));
	E(copy_file_range(a, NULL, b, NULL, 100, 0));
	E(copy_file_range(a, NULL, b, NULL, 1, 1));
	E(copy_file_range(b, NULL, a, NULL, 1, 0));
	E(copy_file_range(a, NULL, ap, NULL, 1, 0));
	pipe(p);
	E(copy_file_range(a, NULL, p[1], NULL, 1, 0));
	from = 0, to = 2;
	E(copy_file_range(b, &from, b, &to, 4, 0));
	from = 0, to = 5;
	E(copy_file_range(b, &from, b, &to, 4, 0));
	E(copy_file_range(open(".", O_RDONLY), NULL, b, NULL, 4, 0));
	show("b");
}

CASE(foreign_programs)
{
	Elf32_Ehdr h = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT}, .e_type = ET_EXEC, .e_machine = EM_ARM, .e_version = 1,
		.e_phoff = 52, .e_ehsize = 52, .e_phentsize = 32, .e_phnum = 1};
	int fd = open("arm", O_CREAT | O_WRONLY, 0755);
	write(fd, &h, sizeof h), close(fd);
	E(execl("arm", "arm", NULL));
	h.e_ident[EI_CLASS] = ELFCLASS64;
	fd = open("wrong", O_CREAT | O_WRONLY, 0755);
	write(fd, &h, sizeof h), close(fd);
	E(execl("wrong", "wrong", NULL));
	put("text", "no program\n"), chmod("text", 0755);
	E(execl("text", "text", NULL));
	put("empty", ""), chmod("empty", 0755);
	E(execl("empty", "empty", NULL));
	put("script", "#!/none/such\n"), chmod("script", 0755);
	E(execl("script", "script", NULL));
	put("loop", "#!loop\n"), chmod("loop", 0755);
	E(execl("loop", "loop", NULL));
}

CASE(foreign_memory)
{
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), b[32] = "";
	strcpy(m, "theirs");
	munmap(m + 4096, 4096);
	pid_t c = fork();
	if (!c) {
		m[0] = 'T';
		raise(SIGSTOP);
		say("child has %s", m);
		_exit(0);
	}
	waitpid(c, NULL, WUNTRACED);
	struct iovec l = {b, 16}, r = {m, 6}, two[2] = {{m, 3}, {m + 4090, 16}};
	E(process_vm_readv(c, &l, 1, &r, 1, 0));
	say("%s", b);
	l.iov_base = "Yours", l.iov_len = 6;
	E(process_vm_writev(c, &l, 1, &r, 1, 0));
	l.iov_base = b, l.iov_len = 32;
	E(process_vm_readv(c, &l, 1, two, 2, 0));
	r.iov_base = m + 4096;
	E(process_vm_readv(c, &l, 1, &r, 1, 0));
	E(process_vm_readv(c, &l, 1, &r, 1, 1));
	E(process_vm_readv(999999, &l, 1, &r, 1, 0));
	E(process_vm_readv(c, &l, 0, &r, 1, 0));
	E(process_vm_readv(c, (void *)8, 1, &r, 1, 0));
	E(process_vm_readv(c, &l, 1, (void *)8, 1, 0));
	kill(c, SIGCONT);
	waitpid(c, NULL, 0);
}

CASE(spliced_memory)
{
	int p[2];
	char b[64] = "";
	pipe(p);
	struct iovec v[2] = {{"from ", 5}, {"memory", 6}}, w = {b, 64};
	E(vmsplice(p[1], v, 2, 0));
	E(vmsplice(p[0], &w, 1, 0));
	say("%s", b);
	E(vmsplice(p[0], &w, 1, SPLICE_F_NONBLOCK));
	E(vmsplice(p[1], v, 2, 1 << 10));
	E(vmsplice(open("file", O_RDWR | O_CREAT, 0600), v, 2, 0));
	E(vmsplice(99, v, 2, 0));
	E(vmsplice(p[1], v, 0, 0));
	E(vmsplice(p[1], (void *)8, 1, 0));
}

CASE(round_robin)
{
	struct timespec t;
	struct sched_param p = {5};
	E(syscall(SYS_sched_setscheduler, 0, SCHED_RR, &p));
	E(sched_rr_get_interval(0, &t));
	say("%ld %ld", (long)t.tv_sec, t.tv_nsec);
	E(syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &p));
	E(sched_rr_get_interval(0, &t));
	say("%ld %ld", (long)t.tv_sec, t.tv_nsec);
	E(sched_rr_get_interval(-1, &t));
	E(sched_rr_get_interval(999999, &t));
	E(sched_rr_get_interval(0, (void *)8));
}

CASE(file_system_ids)
{
	chmod(".", 0777);
	E(syscall(SYS_setfsuid, -1));
	E(syscall(SYS_setfsuid, 1234));
	E(syscall(SYS_setfsuid, -1));
	E(syscall(SYS_setfsgid, 1234));
	E(syscall(SYS_setfsgid, -1));
	put("theirs", "x");
	struct stat s;
	stat("theirs", &s);
	say("%d %d", s.st_uid, s.st_gid);
	E(open("/etc/shadow", O_RDONLY));
	E(syscall(SYS_setfsuid, 0));
	CHILD {
		setuid(4321);
		E(syscall(SYS_setfsuid, 0));
		E(syscall(SYS_setfsuid, -1));
	}
}

CASE(old_calls)
{
	char b[64] = "";
	struct { int free; long f1; char name[6], pack[6]; } u;
	struct stat s;
	stat(".", &s);
	E(syscall(SYS_ustat, 0xffffffffUL, b));
	E(syscall(SYS_ustat, s.st_dev, b) * 0);
	E(syscall(SYS_ustat, s.st_dev, (void *)8));
	E(syscall(SYS_sysfs, 9));
	long n = syscall(SYS_sysfs, 3);
	say("%d", n > 3);
	long i = syscall(SYS_sysfs, 1, "proc");
	E(syscall(SYS_sysfs, 2, i, b));
	say("%s", b);
	E(syscall(SYS_sysfs, 1, "nonesuch"));
	E(syscall(SYS_sysfs, 2, 10000, b));
	E(syscall(SYS_uselib, "x"));
	E(syscall(SYS__sysctl, NULL));
	E(syscall(SYS_nfsservctl, 0));
	E(syscall(SYS_getpmsg));
	E(syscall(SYS_security));
	E(syscall(SYS_vserver));
	E(syscall(SYS_lookup_dcookie));
	E(syscall(SYS_epoll_ctl_old));
	E(syscall(SYS_create_module));
	E(personality(0xffffffff));
	E(personality(ADDR_NO_RANDOMIZE));
	E(personality(0xffffffff));
}

// churn WARM N makes WARM cycles of what containers do all day, and then N more
// for each line that it reads; after each lot it prints one. What a cycle
// takes it gives back.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WANT(what)                                                                \
	do {                                                                      \
		if (!(what)) {                                                    \
			perror(#what);                                            \
			exit(1);                                                  \
		}                                                                 \
	} while (0)

static void processes(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		execl("/bin/churn", "churn", NULL);
		_exit(9);
	}
	WANT(waitpid(pid, NULL, 0) == pid);
	pid = fork();
	if (pid == 0)
		for (;;)
			pause();
	WANT(ptrace(PTRACE_ATTACH, pid, 0, 0) == 0 || 1);
	kill(pid, SIGKILL);
	WANT(waitpid(pid, NULL, __WALL) == pid || 1);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

static void *thread(void *unused) { return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

static void memory(void)
{
	const long size = 1 << 20;
	char *a = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	WANT(a != MAP_FAILED);
	memset(a, 1, size);
	WANT(mprotect(a, size / 2, PROT_READ) == 0 && munmap(a, size) == 0);
	int fd = open("/bin/busybox", O_RDONLY);
	a = mmap(NULL, 65536, PROT_READ, MAP_PRIVATE, fd, 0);
	WANT(a != MAP_FAILED && a[0] == 0x7f);
	munmap(a, 65536), close(fd);
	int shm = shmget(IPC_PRIVATE, 65536, 0600);
	char *s = shmat(shm, NULL, 0);
	s[0] = 1;
	shmdt(s), shmctl(shm, IPC_RMID, NULL);
	fd = memfd_create("m", 0);
	WANT(write(fd, "abc", 3) == 3);
	close(fd);
	pthread_t t;
	void *page;
	WANT(pthread_create(&t, NULL, thread, NULL) == 0);
	pthread_join(t, &page);
	munmap(page, 4096);
}

static void files(void)
{
	char text[4096] = {1};
	int fd = open("/tmp/f", O_CREAT | O_RDWR, 0600);
	WANT(write(fd, text, sizeof text) == sizeof text);
	struct flock l = {F_WRLCK, SEEK_SET, 0, 10};
	fcntl(fd, F_SETLK, &l);
	close(fd);
	rename("/tmp/f", "/tmp/g"), symlink("/tmp/g", "/tmp/l"), unlink("/tmp/l"), unlink("/tmp/g");
	mkdir("/tmp/d", 0700), rmdir("/tmp/d");
	fd = inotify_init();
	inotify_add_watch(fd, "/tmp", IN_ALL_EVENTS);
	close(creat("/tmp/h", 0600)), unlink("/tmp/h");
	close(fd);
	fd = open("/proc/self/status", O_RDONLY);
	read(fd, text, sizeof text);
	close(fd);
	for (int i = 0; i < 10; i++) { // names that are not there
		sprintf(text, "/tmp/none-%d-%ld", i, random());
		access(text, F_OK);
		sprintf(text, "/bin/none-%d-%ld", i, random());
		access(text, F_OK);
	}
	fd = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	ioctl(fd, TIOCSPTLCK, &(int){0});
	close(ioctl(fd, TIOCGPTPEER, O_RDWR | O_NOCTTY));
	close(fd);
}

static void descriptors(void)
{
	int p[2], s[2];
	WANT(pipe(p) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET, c->cmsg_type = SCM_RIGHTS, c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &s[1], sizeof(int)); // a socket in its own queue, which no count brings to zero
	WANT(sendmsg(s[0], &m, 0) == 1);
	int e = epoll_create1(0), t = timerfd_create(CLOCK_MONOTONIC, 0), ev = eventfd(0, 0);
	struct itimerspec soon = {{0, 1000000}, {0, 1000000}};
	timerfd_settime(t, 0, &soon, NULL);
	struct epoll_event wanted = {EPOLLIN};
	epoll_ctl(e, EPOLL_CTL_ADD, t, &wanted), epoll_ctl(e, EPOLL_CTL_ADD, p[0], &wanted);
	WANT(epoll_wait(e, &wanted, 1, 1000) == 1);
	sigset_t all;
	sigfillset(&all);
	close(signalfd(-1, &all, 0));
	close(p[0]), close(p[1]), close(s[0]), close(s[1]), close(e), close(t), close(ev);
	struct sigevent none = {.sigev_notify = SIGEV_NONE};
	timer_t id;
	WANT(timer_create(CLOCK_MONOTONIC, &none, &id) == 0);
	timer_settime(id, 0, &soon, NULL);
	timer_delete(id);
	struct io_uring_params params = {0};
	int ring = syscall(SYS_io_uring_setup, 8, &params);
	if (ring >= 0)
		close(ring);
	mqd_t q = mq_open("/q", O_CREAT | O_RDWR, 0600, NULL);
	if (q >= 0)
		mq_send(q, "x", 1, 0), mq_close(q), mq_unlink("/q");
	int sem = semget(IPC_PRIVATE, 3, 0600);
	semctl(sem, 0, IPC_RMID);
}

static void network(void)
{
	struct sockaddr_in a = {AF_INET, 0, {htonl(INADDR_LOOPBACK)}};
	socklen_t size = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0), c = socket(AF_INET, SOCK_STREAM, 0), u = socket(AF_INET, SOCK_DGRAM, 0);
	struct linger none = {1, 0}; // no TIME_WAIT, which would be a leak of a minute
	WANT(bind(l, (void *)&a, size) == 0 && listen(l, 1) == 0 && getsockname(l, (void *)&a, &size) == 0);
	WANT(connect(c, (void *)&a, size) == 0);
	int s = accept(l, NULL, NULL);
	WANT(write(c, "abc", 3) == 3);
	setsockopt(c, SOL_SOCKET, SO_LINGER, &none, sizeof none);
	sendto(u, "abc", 3, 0, (void *)&a, size);
	close(u), close(c), close(s), close(l);
	close(socket(AF_NETLINK, SOCK_RAW, 0));
}

static void namespaces(void)
{
	const int kinds[] = {CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWUSER};
	for (int i = 0; i < 6; i++) {
		pid_t pid = syscall(SYS_clone, kinds[i] | SIGCHLD, NULL, NULL, NULL, NULL);
		if (pid == 0) {
			if (kinds[i] == CLONE_NEWNS)
				mount("t", "/mnt", "tmpfs", 0, NULL), close(creat("/mnt/f", 0600));
			if (kinds[i] == CLONE_NEWPID && fork() == 0)
				for (;;)
					pause();
			if (kinds[i] == CLONE_NEWNET)
				socket(AF_INET, SOCK_DGRAM, 0);
			_exit(0);
		}
		if (pid > 0)
			WANT(waitpid(pid, NULL, 0) == pid);
	}
}

static void cycles(int n)
{
	while (n--) {
		processes();
		memory();
		files();
		descriptors();
		network();
		namespaces();
	}
}

int main(int argc, char **argv)
{
	char line[16];
	if (argc < 3)
		return 0;
	cycles(atoi(argv[1]));
	do {
		puts("done");
		fflush(stdout);
		if (!fgets(line, sizeof line, stdin))
			return 0;
		cycles(atoi(argv[2]));
	} while (1);
}

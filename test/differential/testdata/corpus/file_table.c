// Calls on open files: each with each kind of descriptor, and at the edges of offsets.
#include "corpus.h"
#include <linux/fs.h>
#include <sys/sysmacros.h>

enum { KINDS = 14 };
static const char *names[] = {"file", "read-only", "write-only", "append", "dir", "pipe r", "pipe w", "socket", "null", "zero", "eventfd", "epoll", "proc", "closed"};

static void kinds(int *fd)
{
	int p[2];
	put("f", "0123456789");
	fd[0] = open("f", O_RDWR), fd[1] = open("f", O_RDONLY), fd[2] = open("f", O_WRONLY), fd[3] = open("f", O_RDWR | O_APPEND), fd[4] = open(".", O_RDONLY);
	pipe2(p, O_NONBLOCK), fd[5] = p[0], fd[6] = p[1];
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p), fd[7] = p[0];
	fd[8] = open("/dev/null", O_RDWR), fd[9] = open("/dev/zero", O_RDWR), fd[10] = eventfd(0, EFD_NONBLOCK), fd[11] = epoll_create1(0), fd[12] = open("/proc/self/stat", O_RDONLY), fd[13] = 999;
}
#define ALL(id, ...) CASE(kinds_##id) { int fds[KINDS]; char b[64] = ""; kinds(fds); for (int k = 0; k < KINDS; k++) { int fd = fds[k]; say("%s", names[k]); __VA_ARGS__ } }

ALL(reads, E(pread(fd, b, 1, 0)); E(pread(fd, b, 1, -1)); E(pread(fd, b, 0, 100)); E(readv(fd, NULL, -1)); E(preadv(fd, NULL, 0, -1));)
ALL(writes, if (k == 6 || k == 7 || k == 12) continue; E(write(fd, b, 0)); E(pwrite(fd, "x", 1, 0)); E(pwrite(fd, "x", 1, -1)); E(pwrite(fd, "x", 0, 1)); E(writev(fd, NULL, 1025)); E(pwritev(fd, NULL, 0, 0));)
ALL(seeks, if (k == 11 || k == 12) continue; E(lseek(fd, 0, SEEK_SET)); E(lseek(fd, 5, SEEK_SET)); E(lseek(fd, -1, SEEK_SET)); E(lseek(fd, 0, SEEK_CUR)); if (k != 4) { E(lseek(fd, 0, SEEK_END)); E(lseek(fd, 0, SEEK_DATA)); E(lseek(fd, 0, SEEK_HOLE)); E(lseek(fd, 10, SEEK_DATA)); E(lseek(fd, LLONG_MAX, SEEK_CUR)); } E(lseek(fd, 0, 5)); E(lseek(fd, 0, -1));)
ALL(sizes, if (k == 13) continue; E(ftruncate(fd, 5)); E(ftruncate(fd, -1)); E(ftruncate(fd, LLONG_MAX)); E(fallocate(fd, 0, 0, 1)); E(fallocate(fd, 0, -1, 1)); E(fallocate(fd, 0, 0, 0)); E(sync_file_range(fd, -1, 0, 0)); E(sync_file_range(fd, 0, 0, 8));)
// Not null, zero, eventfd and epoll: their inodes are the host's, and others may hold locks of them.
ALL(locks, if (k >= 8 && k <= 11) continue; E(flock(fd, LOCK_SH | LOCK_NB)); E(flock(fd, LOCK_EX | LOCK_NB)); E(flock(fd, LOCK_UN)); E(flock(fd, 0)); E(flock(fd, LOCK_SH | LOCK_EX)); struct flock l = {F_RDLCK}; E(fcntl(fd, F_SETLK, &l)); l.l_type = F_WRLCK; E(fcntl(fd, F_SETLK, &l)); E(fcntl(fd, F_GETLK, &l)); l.l_type = 9; E(fcntl(fd, F_SETLK, &l)); l.l_type = F_UNLCK, l.l_len = -1; E(fcntl(fd, F_SETLK, &l)); l.l_len = 0, l.l_whence = 7; E(fcntl(fd, F_SETLK, &l)); E(fcntl(fd, F_SETLK, 8)); E(fcntl(fd, F_OFD_SETLK, &(struct flock){F_UNLCK}));)
ALL(ioctls, int v = 1; E(ioctl(fd, FIONBIO, &v)); E(ioctl(fd, FIONBIO, 8)); v = 0; E(ioctl(fd, FIOASYNC, &v)); if (k < 4) E(ioctl(fd, FIONREAD, &v)); E(ioctl(fd, FIOCLEX)); E(fcntl(fd, F_GETFD)); E(ioctl(fd, FIONCLEX)); if (k == 11) continue; E(ioctl(fd, TCGETS, b)); E(ioctl(fd, TIOCGWINSZ, b)); E(ioctl(fd, 0xdeadbeef, b)); if (k > 4) E(ioctl(fd, FS_IOC_GETFLAGS, b)); E(isatty(fd));)
ALL(fcntls, E(fcntl(fd, F_GETFL)); E(fcntl(fd, F_GETFD)); E(fcntl(fd, F_SETFD, 1)); E(fcntl(fd, F_SETFD, 6)); E(fcntl(fd, F_GETFD)); E(fcntl(fd, F_GETOWN)); E(fcntl(fd, F_GETSIG)); E(fcntl(fd, F_SETSIG, 65)); E(fcntl(fd, F_SETSIG, -1)); E(fcntl(fd, F_SETSIG, 10)); E(fcntl(fd, F_GETSIG)); E(fcntl(fd, 999)); E(fcntl(fd, F_DUPFD, -1)); E(fcntl(fd, F_DUPFD, 1 << 30));)
ALL(attributes, struct stat s; E(fstat(fd, &s)); say("%o", s.st_mode & S_IFMT); E(fstat(fd, (void *)8)); if (k < 8) { /* the devices are the host's own */ E(fchmod(fd, 0600)); E(fchown(fd, -1, -1)); } if (k < 5) { E(futimens(fd, NULL)); E(fgetxattr(fd, "user.none", b, 1)); E(fsetxattr(fd, "user.a", "v", 1, 0)); E(fremovexattr(fd, "user.none")); E(flistxattr(fd, NULL, 0) >= 0); })
ALL(directories, if (k == 4) continue; E(syscall(SYS_getdents64, fd, b, 64)); E(fchdir(fd)); E(openat(fd, "x", O_RDONLY)); E(mkdirat(fd, "x", 0700)); E(unlinkat(fd, "x", 0)); E(inotify_add_watch(fd, "f", IN_MODIFY)); E(inotify_rm_watch(fd, 1));)
ALL(strangers, E(accept(fd, NULL, NULL)); if (k != 7) { E(listen(fd, 1)); E(send(fd, b, 1, 0)); E(recv(fd, b, 1, 0)); E(shutdown(fd, 0)); } E(getsockopt(fd, SOL_SOCKET, SO_TYPE, b, (void *)8)); E(epoll_wait(fd, (void *)b, 1, 0)); E(timerfd_gettime(fd, (void *)b)); E(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0)); E(syscall(SYS_pidfd_getfd, fd, 0, 0)); E(syscall(SYS_setns, fd, 0)); E(syscall(SYS_io_uring_enter, fd, 0, 0, 0, NULL, 0)); E(syscall(SYS_mq_getsetattr, fd, NULL, NULL)); E(syscall(SYS_fsconfig, fd, 0, "k", "v", 0)); E(syscall(SYS_fsmount, fd, 0, 0)); E(syscall(SYS_bpf, 99, b, 0) == -1);)

CASE(iov_table)
{
	put("f", "0123456789");
	int fd = open("f", O_RDWR);
	static char b[64];
	struct iovec ok[3] = {{b, 4}, {b + 4, 0}, {b + 8, 4}}, hole[3] = {{b, 4}, {(void *)8, 4}, {b, 4}}, first[2] = {{(void *)8, 4}, {b, 4}}, big[2] = {{b, LONG_MAX}, {b, 1}}, neg[1] = {{b, -1}}, sum[3] = {{b, 0x7fffffff}, {b, 0x7fffffff}, {b, 4}};
	E(preadv(fd, ok, 3, 0));
	E(preadv(fd, hole, 3, 0));
	E(preadv(fd, first, 2, 0));
	E(preadv(fd, neg, 1, 0));
	E(preadv(fd, ok, 1025, 0));
	E(preadv(fd, (void *)8, 1, 0));
	E(pwritev(fd, hole, 3, 0));
	E(pwritev(fd, first, 2, 0));
	E(pwritev(fd, neg, 1, 0));
	for (int flag = 1; flag < 8; flag <<= 1) {
		ROW(syscall(SYS_preadv2, fd, ok, 3, 0L, 0L, flag), "preadv2 %x", flag);
		ROW(syscall(SYS_pwritev2, fd, ok, 3, 0L, 0L, flag & ~2), "pwritev2 %x", flag & ~2);
	}
	lseek(fd, 2, SEEK_SET);
	E(syscall(SYS_preadv2, fd, ok, 1, -1L, 0L, 0));
	E(lseek(fd, 0, SEEK_CUR));
	E(syscall(SYS_preadv2, fd, ok, 1, -2L, 0L, 0));
	ftruncate(fd, 10);
	E(syscall(SYS_pwritev2, fd, ok, 1, 0L, 0L, 0x10)); // RWF_APPEND
	struct stat s;
	fstat(fd, &s);
	say("%ld", (long)s.st_size);
	int app = open("f", O_RDWR | O_APPEND);
	E(pwrite(app, "x", 1, 0));
	fstat(fd, &s);
	say("%ld", (long)s.st_size);
}

CASE(big_offsets)
{
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	char b[8];
	struct stat s;
	E(lseek(fd, 1L << 40, SEEK_SET));
	E(write(fd, "far", 3));
	fstat(fd, &s);
	say("%ld %d", (long)s.st_size, s.st_blocks < 100);
	E(pread(fd, b, 8, (1L << 40) - 2));
	dump("b", b, 5);
	E(lseek(fd, 0, SEEK_DATA));
	E(lseek(fd, 1L << 40, SEEK_HOLE));
	E(ftruncate(fd, 1L << 41));
	E(lseek(fd, (1L << 40) + 4096, SEEK_DATA));
	E(lseek(fd, 0, SEEK_HOLE));
	E(lseek(fd, 1L << 41, SEEK_HOLE));
	E(lseek(fd, 1L << 41, SEEK_DATA));
	E(ftruncate(fd, 5));
	E(lseek(fd, 0, SEEK_HOLE));
}

CASE(fallocate_table)
{
	static int modes[] = {0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_INSERT_RANGE | FALLOC_FL_KEEP_SIZE, 4, 0x80, 0x100, -1};
	static long ranges[][2] = {{0, 4096}, {100, 50}, {4000, 200}, {8000, 8192}, {100000, 1}};
	static char b[10000];
	EACH(m, modes)
		EACH(r, ranges) {
			int fd = open("f", O_CREAT | O_TRUNC | O_RDWR, 0600);
			memset(b, 'd', sizeof b);
			write(fd, b, 9000);
			ROW(fallocate(fd, modes[m], ranges[r][0], ranges[r][1]), "%x %ld %ld", modes[m], ranges[r][0], ranges[r][1]);
			struct stat s;
			fstat(fd, &s);
			long n = pread(fd, b, sizeof b, 0), zeros = 0;
			for (long i = 0; i < n; i++)
				zeros += !b[i];
			say(" size %ld zeros %ld", (long)s.st_size, zeros);
			close(fd);
		}
}

CASE(truncate_table)
{
	put("f", "x");
	mkdir("d", 0755), mkfifo("p", 0644), symlink("f", "l"), symlink("none", "dangling"), mknod("c", S_IFCHR | 0666, makedev(1, 3));
	static const char *paths[] = {"f", "d", "p", "l", "dangling", "none", "c", "f/", "f/x", "", "/dev/null"};
	EACH(p, paths)
		ROW(truncate(paths[p], 3), "%s", paths[p]);
	E(truncate("f", -1));
	E(truncate((char *)8, 0));
	chmod(".", 0777), chmod("f", 0444);
	setuid(1000);
	E(truncate("f", 0));
	E(open("f", O_WRONLY | O_TRUNC));
	E(open("f", O_RDONLY | O_TRUNC));
}

CASE(close_and_dup_table)
{
	struct rlimit l;
	getrlimit(RLIMIT_NOFILE, &l);
	E(close(-1));
	E(close(999));
	E(dup(-1));
	E(dup(999));
	E(dup2(0, -1));
	E(dup2(999, 0));
	E(dup2(0, 0));
	E(dup2(999, 999));
	E(dup2(0, l.rlim_cur));
	E(dup3(0, 0, 0));
	E(dup3(0, 5, 1));
	E(dup3(0, 5, O_CLOEXEC));
	E(fcntl(5, F_GETFD));
	E(dup2(5, 6));
	E(fcntl(6, F_GETFD));
	E(fcntl(0, F_DUPFD_CLOEXEC, 5));
	E(fcntl(7, F_GETFD));
	E(fcntl(0, F_DUPFD, l.rlim_cur));
	E(syscall(SYS_close_range, 6, 5, 0));
	E(syscall(SYS_close_range, 5, 6, 8));
	E(syscall(SYS_close_range, 5, 6, 4)); // CLOSE_RANGE_CLOEXEC
	E(fcntl(6, F_GETFD));
	E(syscall(SYS_close_range, 5, ~0U, 0));
	E(fcntl(6, F_GETFD));
	E(syscall(SYS_close_range, ~0U, ~0U, 0));
}

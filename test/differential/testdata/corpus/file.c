#include "corpus.h"

CASE(open_flags)
{
	E(open("none", O_RDONLY));
	E(open("f", O_CREAT | O_EXCL | O_RDWR, 0600));
	E(open("f", O_CREAT | O_EXCL | O_RDWR, 0600));
	E(write(3, "hello", 5));
	E(open("f", O_RDONLY | O_TRUNC));
	E(lseek(3, 0, SEEK_END));
	E(open("f", O_DIRECTORY));
	E(open(".", O_RDWR));
	E(open(".", O_WRONLY | O_CREAT, 0600));
	E(open("f/x", O_RDONLY));
	E(open("", O_RDONLY));
	E(open("new/", O_CREAT | O_WRONLY, 0600));
	E(symlink("f", "l"));
	E(open("l", O_RDONLY | O_NOFOLLOW));
	E(open("l", O_CREAT | O_EXCL | O_WRONLY, 0600));
	E(symlink("made", "dangling"));
	E(open("dangling", O_CREAT | O_WRONLY, 0600));
	E(access("made", F_OK));
	E(open((char *)1, O_RDONLY));
	E(openat(99, "f", O_RDONLY));
	E(openat(3, "f", O_RDONLY));
	int dir = open(".", O_RDONLY | O_DIRECTORY);
	OK(openat(dir, "f", O_RDONLY));
	E(openat(dir, "..", O_WRONLY));
	char name[300];
	memset(name, 'a', sizeof name);
	name[256] = 0;
	OK(open(name, O_CREAT | O_WRONLY, 0600));
	name[255] = 0;
	OK(open(name, O_CREAT | O_WRONLY, 0600));
	char path[PATH_MAX + 10];
	memset(path, '/', sizeof path);
	path[PATH_MAX - 1] = 0;
	OK(open(path, O_RDONLY));
	path[PATH_MAX - 1] = '/', path[PATH_MAX] = 0;
	OK(open(path, O_RDONLY));
}

CASE(read_write)
{
	char b[64] = "";
	int fd = open("f", O_CREAT | O_RDWR, 0644);
	E(write(fd, "0123456789", 10));
	E(read(fd, b, 5));
	E(lseek(fd, 3, SEEK_SET));
	E(read(fd, b, 4));
	dump("b", b, 4);
	E(lseek(fd, -2, SEEK_CUR));
	E(lseek(fd, -2, SEEK_SET));
	E(lseek(fd, -20, SEEK_END));
	E(lseek(fd, 0, 77));
	E(lseek(fd, 100, SEEK_END));
	E(read(fd, b, 1));
	E(write(fd, "!", 1));
	E(lseek(fd, 0, SEEK_END));
	E(pread(fd, b, 8, 106));
	dump("b", b, 5);
	E(pread(fd, b, 8, -1));
	E(pwrite(fd, "xy", 2, 4));
	E(lseek(fd, 0, SEEK_CUR));
	E(read(99, b, 1));
	E(write(-1, b, 1));
	E(read(fd, (void *)8, 0));
	lseek(fd, 0, SEEK_SET);
	E(read(fd, (void *)8, 4));
	E(write(fd, (void *)8, 4));
	int ro = open("f", O_RDONLY), wo = open("f", O_WRONLY);
	E(write(ro, "a", 1));
	E(read(wo, b, 1));
	int dir = open(".", O_RDONLY);
	E(read(dir, b, 1));
	E(pread(dir, b, 1, 0));
	int path = open("f", O_PATH);
	E(read(path, b, 1));
	E(write(path, b, 1));
	E(lseek(path, 0, SEEK_SET));
	E(fcntl(path, F_GETFL));
	E(fchmod(path, 0600));
}

CASE(vectors)
{
	char a[4] = "", b[8] = "", c[4] = "";
	int fd = open("f", O_CREAT | O_RDWR, 0644);
	struct iovec out[3] = {{"abc", 3}, {"", 0}, {"defgh", 5}};
	struct iovec in[3] = {{a, 2}, {b, 5}, {c, 4}};
	E(writev(fd, out, 3));
	E(preadv(fd, in, 3, 0));
	dump("a", a, 4);
	dump("b", b, 8);
	dump("c", c, 4);
	E(pwritev(fd, out, 1, 6));
	E(lseek(fd, 0, SEEK_SET));
	E(readv(fd, in, 3));
	dump("b", b, 5);
	E(readv(fd, in, 0));
	E(readv(fd, in, -1));
	E(readv(fd, in, IOV_MAX + 1));
	struct iovec bad[2] = {{a, 2}, {b, -1}};
	E(readv(fd, bad, 2));
	lseek(fd, 0, SEEK_SET);
	struct iovec fault[2] = {{a, 2}, {(void *)8, 4}};
	E(readv(fd, fault, 2));
	E(lseek(fd, 0, SEEK_CUR));
	E(readv(fd, (void *)8, 2));
	lseek(fd, 1, SEEK_SET);
	E(syscall(SYS_preadv2, fd, in, 3, -1L, 0L, 0));
	E(lseek(fd, 0, SEEK_CUR));
	E(syscall(SYS_preadv2, fd, in, 3, 0L, 0L, 1 << 20));
	E(syscall(SYS_pwritev2, fd, out, 1, 0L, 0L, 0x10 /* RWF_APPEND */));
	E(lseek(fd, 0, SEEK_END));
}

CASE(append)
{
	int a = open("f", O_CREAT | O_RDWR | O_APPEND, 0644), b = open("f", O_RDWR);
	E(write(a, "aaa", 3));
	E(write(b, "b", 1));
	E(lseek(a, 0, SEEK_SET));
	E(write(a, "cc", 2));
	E(lseek(a, 0, SEEK_CUR));
	E(pwrite(a, "Z", 1, 0)); // Linux appends, against POSIX
	show("f");
	E(fcntl(a, F_SETFL, 0));
	E(pwrite(a, "Y", 1, 0));
	show("f");
}

CASE(truncate_and_holes)
{
	struct stat s;
	put("f", "0123456789");
	E(truncate("f", 4));
	show("f");
	E(truncate("f", 8));
	show("f");
	E(truncate("f", -1));
	E(truncate("none", 1));
	E(truncate(".", 1));
	int ro = open("f", O_RDONLY), fd = open("f", O_RDWR);
	E(ftruncate(ro, 1));
	E(ftruncate(99, 1));
	E(ftruncate(fd, 1 << 20));
	fstat(fd, &s);
	say("size %ld blocks small %d", (long)s.st_size, s.st_blocks < 64);
	E(pwrite(fd, "x", 1, 512 << 10));
	E(lseek(fd, 8 << 10, SEEK_DATA));
	E(lseek(fd, 512 << 10, SEEK_HOLE));
	E(lseek(fd, 0, SEEK_HOLE));
	E(lseek(fd, 1 << 20, SEEK_DATA));
	E(lseek(fd, 600 << 10, SEEK_DATA));
	E(fallocate(fd, 0, 0, 2 << 20));
	E(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 3 << 20));
	fstat(fd, &s);
	say("size %ld", (long)s.st_size);
	E(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 512 << 10, 4096));
	char c = 7;
	E(pread(fd, &c, 1, 512 << 10));
	say("punched %d", c);
	E(fallocate(fd, 0, -1, 10));
	E(fallocate(fd, 0, 0, 0));
	E(fallocate(ro, 0, 0, 10));
	int p[2];
	E(pipe(p));
	E(fallocate(p[1], 0, 0, 10));
	E(ftruncate(p[1], 10));
	E(lseek(p[0], 0, SEEK_CUR));
}

CASE(descriptors)
{
	int fd = open("f", O_CREAT | O_RDWR, 0644);
	E(dup(fd));
	E(dup2(fd, 20));
	E(dup2(fd, fd));
	E(dup2(99, 20));
	E(dup2(99, 99));
	E(dup2(fd, -1));
	E(dup3(fd, fd, 0));
	E(dup3(fd, 21, O_CLOEXEC));
	E(dup3(fd, 21, O_APPEND));
	E(fcntl(20, F_GETFD));
	E(fcntl(21, F_GETFD));
	E(fcntl(fd, F_DUPFD, 10));
	E(fcntl(fd, F_DUPFD_CLOEXEC, 10));
	E(fcntl(11, F_GETFD));
	E(fcntl(11, F_SETFD, 0));
	E(fcntl(11, F_GETFD));
	E(fcntl(fd, F_DUPFD, -1));
	E(fcntl(fd, F_DUPFD, 1 << 30));
	E(fcntl(fd, 9999));
	E(fcntl(fd, F_GETFL));
	E(fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND | O_RDONLY));
	E(fcntl(10, F_GETFL));
	E(write(fd, "abc", 3));
	E(lseek(20, 0, SEEK_CUR));
	E(syscall(SYS_close_range, 10, 20, 0));
	E(fcntl(11, F_GETFD));
	E(fcntl(21, F_GETFD));
	E(syscall(SYS_close_range, 20, 10, 0));
	E(syscall(SYS_close_range, 0, 2, 1 << 5));
	E(syscall(SYS_close_range, 3, ~0U, 4 /* CLOEXEC */));
	E(fcntl(3, F_GETFD));
	E(close(21));
	E(close(21));
	E(close(-1));
	struct rlimit limit = {8, 8};
	E(setrlimit(RLIMIT_NOFILE, &limit));
	while (dup(0) >= 0)
		;
	E(dup(0));
	E(open("f", O_RDONLY));
	E(dup2(0, 8));
	int p[2];
	E(pipe(p));
	E(close(7));
	E(pipe(p));
	E(dup(0));
}

CASE(copies)
{
	put("from", "the quick brown fox jumps");
	int from = open("from", O_RDONLY), to = open("to", O_CREAT | O_RDWR, 0644);
	off_t at = 4;
	E(sendfile(to, from, &at, 5));
	say("at %ld, position %ld", (long)at, (long)lseek(from, 0, SEEK_CUR));
	E(sendfile(to, from, NULL, 1000));
	E(sendfile(to, from, NULL, 1000));
	show("to");
	loff_t in = 0, out = 10;
	E(copy_file_range(from, &in, to, &out, 9, 0));
	say("in %ld out %ld", (long)in, (long)out);
	show("to");
	E(copy_file_range(from, NULL, to, NULL, 5, 1));
	E(copy_file_range(99, NULL, to, NULL, 5, 0));
	E(copy_file_range(to, NULL, from, NULL, 5, 0));
	int p[2], q[2];
	E(pipe(p));
	E(pipe(q));
	in = 4;
	E(splice(from, &in, p[1], NULL, 11, 0));
	say("in %ld", (long)in);
	E(tee(p[0], q[1], 100, 0));
	char b[64];
	E(read(q[0], b, sizeof b));
	dump("b", b, 11);
	out = 0;
	E(splice(p[0], NULL, to, &out, 100, 0));
	show("to");
	E(splice(p[0], NULL, to, NULL, 100, SPLICE_F_NONBLOCK));
	E(splice(from, NULL, to, NULL, 10, 0));
	E(splice(p[0], &in, to, NULL, 10, 0));
	E(tee(p[0], p[1], 10, 0));
	struct iovec v = {"vmsplice", 8};
	E(vmsplice(p[1], &v, 1, 0));
	E(read(p[0], b, sizeof b));
	dump("b", b, 8);
	int appended = open("to", O_WRONLY | O_APPEND);
	E(write(p[1], "z", 1));
	E(splice(p[0], NULL, appended, NULL, 1, 0));
	int s[2];
	E(socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	at = 0;
	E(sendfile(s[0], from, &at, 9));
	E(read(s[1], b, sizeof b));
	dump("b", b, 9);
	E(splice(s[1], NULL, p[1], NULL, 10, SPLICE_F_NONBLOCK));
}

CASE(tmpfile_and_unlinked)
{
	struct stat s;
	int fd = open(".", O_TMPFILE | O_RDWR, 0640);
	OK(fd);
	E(write(fd, "secret", 6));
	fstat(fd, &s);
	say("links %ld mode %o", (long)s.st_nlink, s.st_mode);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	E(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	show("named");
	put("gone", "still here");
	fd = open("gone", O_RDWR);
	E(unlink("gone"));
	fstat(fd, &s);
	say("links %ld size %ld", (long)s.st_nlink, (long)s.st_size);
	char b[32];
	E(pread(fd, b, 32, 0));
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	long size = readlink(path, b, sizeof b);
	say("link ends in (deleted): %d", size == 32 || (size > 10 && !memcmp(b + size - 10, " (deleted)", 10)));
	int again = open(path, O_RDONLY);
	OK(again);
	E(read(again, b, 5));
	E(linkat(AT_FDCWD, path, AT_FDCWD, "back", AT_SYMLINK_FOLLOW));
}

CASE(stat_family)
{
	struct stat s, d;
	struct statx x;
	put("f", "12345");
	mkdir("d", 0751);
	symlink("f", "l");
	mkfifo("p", 0604);
	stat("f", &s);
	say("f %o %ld links %ld blksize>0 %d", s.st_mode, (long)s.st_size, (long)s.st_nlink, s.st_blksize > 0);
	stat("d", &d);
	say("d %o same device %d", d.st_mode, d.st_dev == s.st_dev);
	lstat("l", &d);
	say("l %o %ld", d.st_mode, (long)d.st_size);
	stat("l", &d);
	say("l is f %d", d.st_ino == s.st_ino);
	stat("p", &d);
	say("p %o", d.st_mode);
	fstat(0, &d);
	E(stat("none", &d));
	E(stat("f/", &d));
	E(stat("f", (void *)8));
	E(fstat(99, &d));
	E(fstatat(AT_FDCWD, "", &d, 0));
	int fd = open("f", O_RDONLY);
	E(fstatat(fd, "", &d, AT_EMPTY_PATH));
	say("same %d", d.st_ino == s.st_ino);
	E(fstatat(fd, "", &d, 1 << 30));
	E(syscall(SYS_statx, AT_FDCWD, "l", AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x));
	say("statx mode %o size %lld mask has basic %d", x.stx_mode, (long long)x.stx_size, (x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
	E(syscall(SYS_statx, AT_FDCWD, "f", 0x6000, STATX_SIZE, &x));
	E(syscall(SYS_statx, AT_FDCWD, "f", 0, 1U << 31, &x));
	E(chmod("f", 04755));
	stat("f", &s);
	say("mode %o", s.st_mode);
	E(fchmodat(AT_FDCWD, "none", 0600, 0));
	E(chown("f", 1000, 1001));
	stat("f", &s);
	say("%d:%d mode %o", s.st_uid, s.st_gid, s.st_mode); // setuid goes
	E(lchown("l", 5, -1));
	lstat("l", &d);
	say("%d:%d", d.st_uid, d.st_gid);
	struct statfs v;
	E(statfs(".", &v));
	say("bsize>0 %d namelen %ld", v.f_bsize > 0, (long)v.f_namelen);
	E(statfs("none", &v));
	E(fstatfs(99, &v));
}

CASE(times_of_files)
{
	struct stat s;
	put("f", "");
	struct timespec t[2] = {{1000, 111}, {2000, 222}};
	E(utimensat(AT_FDCWD, "f", t, 0));
	stat("f", &s);
	say("%ld.%09ld %ld.%09ld", (long)s.st_atim.tv_sec, s.st_atim.tv_nsec, (long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
	t[0].tv_nsec = UTIME_OMIT, t[1].tv_sec = 3000;
	E(utimensat(AT_FDCWD, "f", t, 0));
	stat("f", &s);
	say("%ld %ld", (long)s.st_atim.tv_sec, (long)s.st_mtim.tv_sec);
	t[0].tv_nsec = UTIME_NOW;
	E(utimensat(AT_FDCWD, "f", t, 0));
	stat("f", &s);
	say("now %d", s.st_atim.tv_sec > 1600000000);
	t[0].tv_nsec = 1000000000;
	E(utimensat(AT_FDCWD, "f", t, 0));
	E(utimensat(AT_FDCWD, "none", NULL, 0));
	symlink("f", "l");
	t[0].tv_nsec = 5, t[0].tv_sec = 77;
	E(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
	lstat("l", &s);
	say("%ld", (long)s.st_atim.tv_sec);
	int fd = open("f", O_RDWR);
	t[1].tv_sec = 44, t[1].tv_nsec = 0;
	E(futimens(fd, t));
	fstat(fd, &s);
	say("%ld", (long)s.st_mtim.tv_sec);
	E(write(fd, "x", 1));
	fstat(fd, &s);
	say("write moves mtime %d", s.st_mtim.tv_sec > 1600000000);
	struct timespec before = s.st_mtim;
	nap(20);
	E(fchmod(fd, 0600));
	fstat(fd, &s);
	say("chmod moves ctime %d, mtime %d", s.st_ctim.tv_nsec != before.tv_nsec, s.st_mtim.tv_nsec != before.tv_nsec);
}

CASE(limits_of_files)
{
	struct rlimit limit = {4096, 4096};
	CHILD {
		signal(SIGXFSZ, SIG_IGN);
		E(setrlimit(RLIMIT_FSIZE, &limit));
		int fd = open("f", O_CREAT | O_RDWR, 0644);
		E(pwrite(fd, "0123456789", 10, 4090));
		E(pwrite(fd, "x", 1, 4096));
		E(ftruncate(fd, 5000));
		E(ftruncate(fd, 4096));
	}
	CHILD {
		setrlimit(RLIMIT_FSIZE, &limit);
		int fd = open("g", O_CREAT | O_RDWR, 0644);
		E(pwrite(fd, "x", 1, 5000));
	}
	limit.rlim_cur = 10, limit.rlim_max = 5;
	E(setrlimit(RLIMIT_NOFILE, &limit));
	E(setrlimit(99, &limit));
	E(getrlimit(RLIMIT_NOFILE, (void *)8));
	struct rlimit old;
	limit.rlim_cur = 30, limit.rlim_max = 40;
	E(prlimit(0, RLIMIT_NOFILE, &limit, NULL));
	E(prlimit(getpid(), RLIMIT_NOFILE, NULL, &old));
	say("%ld %ld", (long)old.rlim_cur, (long)old.rlim_max);
	CHILD {
		OK(setresuid(1000, 1000, 1000));
		limit.rlim_max = 41;
		E(setrlimit(RLIMIT_NOFILE, &limit));
		limit.rlim_max = 35;
		E(setrlimit(RLIMIT_NOFILE, &limit));
	}
	E(umask(0777));
	int fd = open("m", O_CREAT | O_RDWR, 0666);
	struct stat s;
	fstat(fd, &s);
	say("%o", s.st_mode);
	E(umask(0));
}

CASE(sync_calls)
{
	int fd = open("f", O_CREAT | O_RDWR, 0644), p[2];
	E(write(fd, "data", 4));
	E(fsync(fd));
	E(fdatasync(fd));
	E(sync_file_range(fd, 0, 4, SYNC_FILE_RANGE_WRITE));
	E(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
	E(posix_fadvise(fd, 0, 0, 77));
	E(readahead(fd, 0, 4096));
	E(syncfs(fd));
	E(fsync(99));
	E(pipe(p));
	E(fsync(p[0]));
	E(posix_fadvise(p[0], 0, 0, POSIX_FADV_NORMAL));
	E(ioctl(fd, FIONREAD, &(int){0}));
	E(ioctl(fd, 0x12345678, 0));
	E(ioctl(fd, TCGETS, p));
	int on = 1;
	E(ioctl(p[0], FIONBIO, &on));
	char c;
	E(read(p[0], &c, 1));
	E(ioctl(fd, FIOCLEX));
	E(fcntl(fd, F_GETFD));
}

CASE(permissions)
{
	mkdir("closed", 0700);
	put("closed/f", "x");
	put("root", "x");
	chmod("root", 0600);
	put("group", "x");
	chown("group", 7, 1000), chmod("group", 0640);
	put("mine", "x");
	chown("mine", 1000, 1000), chmod("mine", 0400);
	mkdir("sticky", 01777), chmod("sticky", 01777);
	put("sticky/root", "x");
	chmod(".", 0755);
	CHILD {
		OK(setgroups(0, NULL));
		OK(setresgid(1000, 1000, 1000));
		OK(setresuid(1000, 1000, 1000));
		E(open("closed/f", O_RDONLY));
		E(open("root", O_RDONLY));
		OK(open("group", O_RDONLY));
		E(open("group", O_WRONLY));
		OK(open("mine", O_RDONLY));
		E(open("mine", O_WRONLY));
		E(open("new", O_CREAT | O_WRONLY, 0600));
		E(unlink("mine"));
		E(unlink("sticky/root"));
		E(rename("sticky/root", "sticky/other"));
		put("sticky/ours", "");
		E(unlink("sticky/ours"));
		E(chmod("root", 0644));
		E(chown("mine", 0, 0));
		E(chown("mine", 1000, 1000));
		E(chmod("mine", 02755));
		E(access("root", R_OK));
		E(access("mine", W_OK));
		E(access("group", R_OK));
		E(access("none", F_OK));
		E(access("root", 8));
		E(utimensat(AT_FDCWD, "root", NULL, 0));
		E(truncate("root", 0));
		E(mkdir("d", 0700));
		E(chdir("closed"));
		E(link("root", "hard"));
	}
	CHILD {
		OK(setresuid(1000, 0, 0));
		E(access("root", R_OK));
		E(faccessat(AT_FDCWD, "root", R_OK, AT_EACCESS));
		OK(open("root", O_RDONLY));
	}
}

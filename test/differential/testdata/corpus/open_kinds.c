// Each way to open meets each kind of file.
#include "corpus.h"
#include <sys/sysmacros.h>

static const char *kinds[] = {"file", "dir", "link", "dirlink", "dangling", "loop", "fifo", "sock", "null", "none"};

static void make_kinds(void)
{
	put("file", "content");
	mkdir("dir", 0755);
	symlink("file", "link");
	symlink("dir", "dirlink");
	symlink("nowhere", "dangling");
	symlink("loop", "loop");
	mkfifo("fifo", 0644);
	mknod("null", S_IFCHR | 0666, makedev(1, 3));
	struct sockaddr_un a = {AF_UNIX, "sock"};
	bind(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&a, sizeof a);
}

static void each_kind(struct named flags)
{
	EACH(k, kinds) {
		errno = 0;
		int fd = open(kinds[k], flags.value | O_NONBLOCK, 0644);
		if (fd < 0)
			say("%s %s: %s", flags.name, kinds[k], errname(errno));
		else
			say("%s %s: %x", flags.name, kinds[k], fcntl(fd, F_GETFL));
		close(fd);
	}
	unlink("none"), unlink("nowhere");
}

#define KINDS(id, flags) CASE(open_kinds_##id) { make_kinds(); each_kind((struct named){#flags, flags}); }
KINDS(read, O_RDONLY)
KINDS(write, O_WRONLY)
KINDS(both, O_RDWR)
KINDS(mode3, 3)
KINDS(path, O_PATH)
KINDS(path_nofollow, O_PATH | O_NOFOLLOW)
KINDS(path_directory, O_PATH | O_DIRECTORY | O_CREAT | O_RDWR)
KINDS(directory, O_DIRECTORY)
KINDS(directory_write, O_DIRECTORY | O_WRONLY)
KINDS(nofollow, O_NOFOLLOW | O_RDONLY)
KINDS(create, O_CREAT | O_RDONLY)
KINDS(create_write, O_CREAT | O_WRONLY)
KINDS(create_exclusive, O_CREAT | O_EXCL | O_RDWR)
KINDS(exclusive_alone, O_EXCL | O_RDWR)
KINDS(create_directory, O_CREAT | O_DIRECTORY)
KINDS(create_nofollow, O_CREAT | O_NOFOLLOW | O_RDWR)
KINDS(truncate, O_TRUNC | O_WRONLY)
KINDS(append, O_APPEND | O_WRONLY | O_NOATIME)
KINDS(tmpfile, O_TMPFILE | O_RDWR)
KINDS(tmpfile_read, O_TMPFILE | O_RDONLY)

CASE(open_trailing_slash)
{
	static const char *paths[] = {"file/", "dir/", "link/", "dirlink/", "dangling/", "fifo/", "none/", "file/.", "dir/.", "file/..", "dir/none/", "loop/", "//", "./", "dir//", "dirlink/."};
	static struct named flags[] = {N(O_RDONLY), N(O_RDONLY | O_CREAT), N(O_RDONLY | O_NOFOLLOW), N(O_PATH), N(O_PATH | O_NOFOLLOW)};
	make_kinds();
	EACH(f, flags)
		EACH(p, paths) {
			int fd = open(paths[p], flags[f].value | O_NONBLOCK, 0644);
			say("%s %s: %s", flags[f].name, paths[p], fd < 0 ? errname(errno) : "ok");
			close(fd);
		}
}

CASE(open_path_descriptor)
{
	make_kinds();
	char b[8];
	int fd = open("file", O_PATH), dir = open("dir", O_PATH), link = open("link", O_PATH | O_NOFOLLOW);
	struct stat s;
	E(read(fd, b, 1));
	E(write(fd, b, 1));
	E(lseek(fd, 0, SEEK_SET));
	E(fchmod(fd, 0600));
	E(fchown(fd, 0, 0));
	E(ftruncate(fd, 0));
	E(fsync(fd));
	E(fstat(fd, &s));
	E(fstatfs(fd, (struct statfs *)(char[256]){0}));
	E(ioctl(fd, FIONREAD, b));
	E(mmap(0, 4096, PROT_READ, MAP_PRIVATE, fd, 0));
	E(fgetxattr(fd, "user.x", b, 1));
	E(flock(fd, LOCK_SH));
	E(fcntl(fd, F_GETFL));
	E(fcntl(fd, F_SETFL, O_NONBLOCK));
	E(fcntl(fd, F_GETFD));
	E(fcntl(fd, F_SETLK, &(struct flock){F_RDLCK}));
	OK(fcntl(fd, F_DUPFD, 0));
	E(fchdir(dir));
	E(chdir(".."));
	E(syscall(SYS_getdents64, dir, b, 8));
	E(fallocate(fd, 0, 0, 1));
	E(posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL));
	E(readlinkat(link, "", b, 8));
	E(readlinkat(fd, "", b, 8));
	E(fstatat(link, "", &s, AT_EMPTY_PATH));
	say("%o", s.st_mode);
	E(faccessat(link, "", F_OK, AT_EMPTY_PATH));
	E(linkat(fd, "", AT_FDCWD, "hard", AT_EMPTY_PATH));
	E(linkat(link, "", AT_FDCWD, "hardlink", AT_EMPTY_PATH));
	struct pollfd p = {fd, POLLIN | POLLOUT};
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	E(epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, fd, &(struct epoll_event){EPOLLIN}));
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	OK(open(path, O_RDWR));
	snprintf(path, sizeof path, "/proc/self/fd/%d", link);
	OK(open(path, O_RDONLY));
	E(utimensat(fd, "", NULL, AT_EMPTY_PATH));
	E(futimens(fd, NULL));
	E(dup2(fd, 100));
	E(sendfile(1, fd, NULL, 1));
	E(fexecve(fd, (char *[]){"x", NULL}, environ));
}

CASE(open_modes_given)
{
	static int masks[] = {0, 022, 077, 0777}, modes[] = {0, 0644, 0777, 04755, 02755, 01777, 07777, 0170644};
	EACH(u, masks)
		EACH(m, modes) {
			struct stat s = {0}, d = {0}, p = {0};
			umask(masks[u]);
			close(open("f", O_CREAT | O_WRONLY, modes[m]));
			mkdir("d", modes[m]), mknod("p", S_IFIFO | modes[m] & 07777, 0);
			stat("f", &s), stat("d", &d), stat("p", &p);
			say("umask %o mode %o: %o %o %o", masks[u], modes[m], s.st_mode, d.st_mode, p.st_mode);
			unlink("f"), rmdir("d"), unlink("p");
		}
}

CASE(open_flags_kept)
{
	static struct named flags[] = {N(O_APPEND), N(O_ASYNC), N(O_CLOEXEC), N(O_CREAT), N(O_DSYNC), N(O_EXCL), N(O_LARGEFILE), N(O_NOATIME), N(O_NOCTTY), N(O_NONBLOCK), N(O_SYNC), N(O_TRUNC), N(O_DIRECTORY), N(O_NOFOLLOW)};
	put("f", "x");
	EACH(f, flags) {
		int fd = open("f", O_RDWR | flags[f].value & ~(O_DIRECTORY | O_EXCL), 0600);
		ROW(fcntl(fd, F_GETFL), "%s", flags[f].name);
		ROW(fcntl(fd, F_GETFD), "%s fd", flags[f].name);
		ROW(fcntl(fd, F_SETFL, flags[f].value), "set %s", flags[f].name);
		ROW(fcntl(fd, F_GETFL), "then");
		close(fd);
	}
	int dir = open(".", O_DIRECTORY | O_NOFOLLOW);
	E(fcntl(dir, F_GETFL));
	E(fcntl(dir, F_SETFL, O_APPEND | O_DIRECT));
	E(open("f", 0xffffffff));
	OK(open("f", 0x40000000));
	E(creat("dir/none", 0600));
	OK(creat("g", 0600));
}

// Extended attributes, watches and modes of files: names, values and events.
#include "corpus.h"
#include <dirent.h>
#include <linux/xattr.h>
#include <utime.h>

CASE(xattr_names)
{
	put("f", "");
	mkdir("d", 0755);
	symlink("f", "l");
	mkfifo("p", 0644);
	char name[300] = "user.", b[64];
	static const char *names[] = {"user.a", "user.", "user", "trusted.a", "security.a", "system.a", "nosuch.a", "User.a", "user.a b", "security.capability"};
	static const char *files[] = {"f", "d", "p", "none"};
	EACH(f, files)
		EACH(n, names) {
			ROW(setxattr(files[f], names[n], "v", 1, 0), "set %s of %s", names[n], files[f]);
			ROW(getxattr(files[f], names[n], b, 64), "get");
			ROW(removexattr(files[f], names[n]), "remove");
		}
	E(lsetxattr("l", "user.a", "v", 1, 0));
	E(lsetxattr("l", "trusted.a", "v", 1, 0));
	E(lgetxattr("l", "trusted.a", b, 64));
	memset(name + 5, 'n', 250);
	E(setxattr("f", name, "v", 1, 0));
	name[255] = 'n';
	E(setxattr("f", name, "v", 1, 0));
}

CASE(xattr_values)
{
	put("f", "");
	static char big[70000], b[70000];
	static struct named flags[] = {N(0), N(XATTR_CREATE), N(XATTR_REPLACE), N(XATTR_CREATE | XATTR_REPLACE), N(4)};
	EACH(f, flags) {
		removexattr("f", "user.a");
		ROW(setxattr("f", "user.a", "one", 3, flags[f].value), "new %s", flags[f].name);
		setxattr("f", "user.a", "one", 3, 0);
		ROW(setxattr("f", "user.a", "three", 5, flags[f].value), "old %s", flags[f].name);
	}
	E(getxattr("f", "user.a", b, 0));
	E(getxattr("f", "user.a", b, 1));
	E(getxattr("f", "user.a", (void *)8, 64));
	E(getxattr("f", "user.none", b, 64));
	E(getxattr("f", "user.a", b, 70000));
	E(setxattr("f", "user.empty", "", 0, 0));
	E(setxattr("f", "user.null", NULL, 0, 0));
	E(getxattr("f", "user.empty", b, 64));
	E(setxattr("f", "user.a", (void *)8, 1, 0));
	E(setxattr("f", "user.a", big, 65537, 0));
	E(setxattr("f", "user.a", big, 200, 0));
	E(getxattr("f", "user.a", b, 100));
	E(listxattr("f", NULL, 0));
	E(listxattr("f", b, 3));
	E(listxattr("f", (void *)8, 100));
	E(removexattr("f", "user.none"));
	E(removexattr("f", "user.empty"));
	E(listxattr("f", b, 100));
	chmod(".", 0755), chmod("f", 0444);
	setuid(1000);
	E(setxattr("f", "user.b", "v", 1, 0));
	E(getxattr("f", "user.a", b, 1000));
	E(setxattr("f", "trusted.b", "v", 1, 0));
	E(setxattr("f", "security.b", "v", 1, 0));
	E(getxattr("f", "trusted.b", b, 100));
}

static int watcher;
static void events(const char *what)
{
	static char b[8192] __attribute__((aligned(8)));
	char line[4000] = "";
	long n = read(watcher, b, sizeof b);
	uint32_t cookie = 0;
	for (long at = 0; at < n;) {
		struct inotify_event *e = (void *)(b + at);
		sprintf(line + strlen(line), " %d:%x%s%s%s", e->wd, e->mask, e->cookie ? e->cookie == cookie ? "=" : "~" : "", e->len ? ":" : "", e->len ? e->name : "");
		cookie = e->cookie;
		at += sizeof *e + e->len;
	}
	say("%s:%s", what, line);
}

CASE(inotify_operations)
{
	watcher = inotify_init1(IN_NONBLOCK);
	mkdir("d", 0755), put("d/f", "content"), put("g", "");
	inotify_add_watch(watcher, "d", IN_ALL_EVENTS), inotify_add_watch(watcher, "d/f", IN_ALL_EVENTS);
	char b[16];
	int fd = open("d/f", O_RDWR);
	events("open");
	read(fd, b, 4), events("read");
	read(fd, b, 0), events("read nothing");
	write(fd, "x", 1), events("write");
	write(fd, "x", 0), events("write nothing");
	pread(fd, b, 1, 100), events("read behind the end");
	ftruncate(fd, 2), events("ftruncate");
	ftruncate(fd, 2), events("ftruncate to the same");
	truncate("d/f", 1), events("truncate");
	fchmod(fd, 0600), events("fchmod");
	chown("d/f", 0, 0), events("chown");
	futimens(fd, NULL), events("futimens");
	utime("d/f", NULL), events("utime");
	fsetxattr(fd, "user.a", "v", 1, 0), events("fsetxattr");
	fremovexattr(fd, "user.a"), events("fremovexattr");
	fallocate(fd, 0, 0, 10), events("fallocate");
	link("d/f", "d/h"), events("link");
	rename("d/h", "d/i"), events("rename");
	rename("g", "d/f2"), events("rename into");
	rename("d/f2", "g"), events("rename out of");
	rename("g", "d/i"), events("rename onto");
	close(fd), events("close");
	close(open("d/f", O_RDONLY)), events("open and close");
	close(open("d/new", O_CREAT | O_WRONLY, 0600)), events("create");
	mkdir("d/s", 0755), events("mkdir");
	rmdir("d/s"), events("rmdir");
	symlink("x", "d/l"), mkfifo("d/p", 0600), mknod("d/n", S_IFREG, 0), events("symlink, mkfifo, mknod");
	unlink("d/l"), unlink("d/p"), unlink("d/n"), events("unlink");
	closedir(opendir("d")), events("opendir");
	stat("d/f", &(struct stat){0}), access("d/f", R_OK), events("stat");
	chmod("d", 0700), events("chmod of the directory");
	unlink("d/f"), events("unlink of the watched");
	unlink("d/new"), unlink("d/i"), events("the others");
	E(rmdir("d"));
	events("rmdir of the watched");
}

CASE(inotify_arguments)
{
	watcher = inotify_init1(IN_NONBLOCK);
	put("f", ""), symlink("f", "l"), mkdir("d", 0755);
	E(inotify_init1(1));
	E(inotify_add_watch(watcher, "f", 0));
	E(inotify_add_watch(watcher, "none", IN_MODIFY));
	E(inotify_add_watch(watcher, "f", IN_MODIFY));
	E(inotify_add_watch(watcher, "f", IN_OPEN));
	E(inotify_add_watch(watcher, "l", IN_OPEN));
	E(inotify_add_watch(watcher, "l", IN_OPEN | IN_DONT_FOLLOW));
	E(inotify_add_watch(watcher, "f", IN_MODIFY | IN_MASK_ADD));
	E(inotify_add_watch(watcher, "f", IN_MODIFY | IN_MASK_CREATE));
	E(inotify_add_watch(watcher, "d", IN_OPEN | IN_MASK_ADD | IN_MASK_CREATE));
	E(inotify_add_watch(watcher, "d", IN_OPEN | IN_MASK_CREATE));
	E(inotify_add_watch(watcher, "f", IN_MODIFY | IN_ONLYDIR));
	E(inotify_add_watch(watcher, "d", IN_CREATE | IN_ONESHOT));
	E(inotify_add_watch(0, "f", IN_MODIFY));
	E(inotify_add_watch(watcher, (char *)8, IN_MODIFY));
	put("d/x", ""), put("d/y", "");
	events("one shot");
	close(open("f", O_WRONLY)), put("f", "x");
	events("both masks");
	char b[64];
	put("f", "y");
	E(read(watcher, b, 4));
	E(read(watcher, b, 16));
	E(ioctl(watcher, FIONREAD, b));
	say("%d", *(int *)b);
	E(inotify_rm_watch(watcher, 1));
	E(inotify_rm_watch(watcher, 1));
	E(inotify_rm_watch(watcher, 99));
	events("removed");
	E(write(watcher, b, 1));
	E(lseek(watcher, 0, SEEK_SET));
	for (int i = 0; i < 3; i++)
		put("d/z", "");
	inotify_add_watch(watcher, "d", IN_MODIFY);
	int fd = open("d/z", O_WRONLY);
	for (int i = 0; i < 5; i++)
		write(fd, "same", 4);
	events("the same five times");
}

CASE(mode_table)
{
	put("f", "x"), mkdir("d", 0755);
	static int modes[] = {0, 0777, 01777, 02777, 04777, 07777, 0170644, -1};
	struct stat s;
	EACH(m, modes) {
		chmod("f", modes[m]), stat("f", &s);
		say("file %o: %o", modes[m], s.st_mode);
		chmod("d", modes[m]), stat("d", &s);
		say("directory %o: %o", modes[m], s.st_mode);
	}
	static int before[] = {06777, 06711, 06701, 02767, 02757, 04700};
	EACH(b, before) {
		chmod("f", before[b]);
		chown("f", 7, 8), stat("f", &s);
		say("chown %o: %o", before[b], s.st_mode);
		chmod("f", before[b]);
		chown("f", -1, -1), stat("f", &s);
		say("chown to nobody %o: %o", before[b], s.st_mode);
		chmod("f", before[b]);
		int fd = open("f", O_WRONLY);
		CHILD {
			setgid(500), setuid(500);
			write(fd, "y", 1);
		}
		stat("f", &s);
		say("written %o: %o", before[b], s.st_mode);
		chmod("f", before[b]);
		CHILD {
			setgid(500), setuid(500);
			ftruncate(fd, 0);
		}
		stat("f", &s);
		say("truncated %o: %o", before[b], s.st_mode);
		close(fd);
	}
	mkdir("g", 0777), chmod("g", 02777), chown("g", 0, 77), chmod("g", 02777);
	mkdir("g/d", 0755), put("g/f", "");
	stat("g/d", &s), say("%o %d", s.st_mode, s.st_gid);
	stat("g/f", &s), say("%o %d", s.st_mode, s.st_gid);
	chown("f", 500, 77), chmod(".", 0777);
	setgid(500), setuid(500);
	E(chmod("f", 02755)); // not our group: the bit is dropped
	stat("f", &s), say("%o", s.st_mode);
	E(chown("f", 500, 500));
	E(chown("f", 500, 78));
	E(chown("f", 0, -1));
	E(chmod("d", 0700));
	close(open("g/h", O_CREAT | O_WRONLY, 02755)), stat("g/h", &s), say("%o %d", s.st_mode, s.st_gid);
}

CASE(sticky_and_protected)
{
	chmod(".", 0755);
	mkdir("s", 0777), chmod("s", 01777);
	put("s/root", ""), mkfifo("s/fifo", 0666), symlink("root", "s/link"), chmod("s/fifo", 0666), chmod("s/root", 0666);
	CHILD {
		setgid(500), setuid(500);
		put("s/mine", "");
		E(unlink("s/root"));
		E(rename("s/root", "s/x"));
		E(rename("s/mine", "s/root"));
		E(link("s/root", "s/hard"));
		E(unlink("s/mine"));
		E(rmdir("s/none"));
		symlink("root", "s/ours");
	}
	CHILD {
		setgid(501), setuid(501);
		E(unlink("s/ours"));
		E(rename("s/link", "s/moved"));
	}
}

CASE(time_table)
{
	put("f", "x");
	struct stat s;
	struct timespec rows[][2] = {{{1, 2}, {3, 4}}, {{0, UTIME_OMIT}, {5, 6}}, {{7, 8}, {0, UTIME_OMIT}}, {{0, UTIME_OMIT}, {0, UTIME_OMIT}}, {{0, 1000000000}, {0, 0}}, {{0, -1}, {0, 0}}, {{-5, 0}, {-1, 999999999}}, {{1L << 33, 0}, {1L << 33, 1}}};
	EACH(r, rows) {
		ROW(utimensat(AT_FDCWD, "f", rows[r], 0), "row %d", r);
		stat("f", &s);
		say("%ld.%09ld %ld.%09ld", s.st_atim.tv_sec, s.st_atim.tv_nsec, s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
	}
	E(utimensat(AT_FDCWD, "none", NULL, 0));
	E(utimensat(AT_FDCWD, NULL, NULL, 0));
	E(utimensat(99, NULL, NULL, 0));
	E(utimensat(AT_FDCWD, "f", (void *)8, 0));
	E(utimensat(AT_FDCWD, "", NULL, 0));
	struct timeval v[2] = {{1, 1000000}, {0, 0}};
	E(utimes("f", v));
	v[0].tv_usec = 999999;
	E(utimes("f", v));
	struct utimbuf u = {11, 12};
	E(utime("f", &u));
	stat("f", &s);
	say("%ld %ld", s.st_atime, s.st_mtime);
	chmod("f", 0666), chmod(".", 0777);
	setuid(500);
	E(utimensat(AT_FDCWD, "f", NULL, 0));
	E(utimensat(AT_FDCWD, "f", rows[0], 0));
	E(utimensat(AT_FDCWD, "f", rows[3], 0));
	struct timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}}, half[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
	E(utimensat(AT_FDCWD, "f", now, 0));
	E(utimensat(AT_FDCWD, "f", half, 0));
}

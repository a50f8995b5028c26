#include "corpus.h"
#include <dirent.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

static int by_name(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }

static void list(const char *path)
{
	char *names[1000], line[3000] = "";
	int count = 0;
	DIR *dir = opendir(path);
	if (!dir) {
		say("list %s: %s", path, errname(errno));
		return;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		char name[300];
		snprintf(name, sizeof name, "%s/%d", e->d_name, e->d_type);
		names[count++] = strdup(name);
	}
	closedir(dir);
	qsort(names, count, sizeof *names, by_name);
	for (int i = 0; i < count; i++)
		snprintf(line + strlen(line), sizeof line - strlen(line), " %s", names[i]);
	say("%s:%s", path, line);
}

CASE(mkdir_rmdir)
{
	struct stat s;
	E(mkdir("d", 0755));
	E(mkdir("d", 0755));
	E(mkdir("d/e/f", 0755));
	E(mkdir("d/e/", 0700));
	put("d/f", "");
	E(mkdir("d/f/g", 0755));
	E(mkdir("d/f", 0755));
	E(mkdir("", 0755));
	E(mkdir("/", 0755));
	E(mkdir(".", 0755));
	stat("d", &s);
	E(rmdir("d"));
	E(rmdir("d/f"));
	E(rmdir("d/e/."));
	E(rmdir("d/e/.."));
	E(rmdir("none"));
	E(rmdir("."));
	E(rmdir("/"));
	E(unlink("d"));
	E(unlink("d/e"));
	E(unlink("d/f/"));
	E(unlink("d/f"));
	E(unlinkat(AT_FDCWD, "d/e", AT_REMOVEDIR));
	E(unlinkat(AT_FDCWD, "d", 0));
	E(unlinkat(AT_FDCWD, "d", 0x4000));
	list("d");
	symlink("d", "l");
	E(rmdir("l"));
	E(rmdir("l/"));
	E(rmdir("d"));
	E(mkdir("sticky", 07777));
	stat("sticky", &s);
	say("%o", s.st_mode);
	mkdir("setgid", 0755), chown("setgid", 0, 50), chmod("setgid", 02755);
	mkdir("setgid/sub", 0755);
	put("setgid/f", "");
	stat("setgid/sub", &s), say("%o %d", s.st_mode, s.st_gid);
	stat("setgid/f", &s), say("%o %d", s.st_mode, s.st_gid);
}

CASE(renames)
{
	put("a", "A"), put("b", "B");
	mkdir("d", 0755), mkdir("e", 0755), mkdir("d/sub", 0755);
	E(rename("a", "c"));
	E(rename("a", "c"));
	E(rename("c", "b"));
	show("b");
	E(rename("b", "d"));
	E(rename("d", "b"));
	E(rename("e", "d"));
	E(rename("d", "e"));
	E(rename("e", "e/sub/x"));
	E(rename("e/sub", "e"));
	E(rename("b", "b"));
	E(rename("none", "b"));
	E(rename("b", "none/x"));
	E(rename("b", "b/x"));
	E(rename("b", "q/"));
	E(rename("e", "q/"));
	E(rename("q/.", "r"));
	E(rename(".", "r"));
	E(rename("q/..", "r"));
	list("q");
	put("c", "C");
	E(link("b", "hard"));
	E(rename("b", "hard"));
	list(".");
	E(syscall(SYS_renameat2, AT_FDCWD, "b", AT_FDCWD, "c", 1));
	E(syscall(SYS_renameat2, AT_FDCWD, "b", AT_FDCWD, "new", 1));
	E(syscall(SYS_renameat2, AT_FDCWD, "new", AT_FDCWD, "q", 2));
	list(".");
	E(syscall(SYS_renameat2, AT_FDCWD, "q", AT_FDCWD, "none", 2));
	E(syscall(SYS_renameat2, AT_FDCWD, "q", AT_FDCWD, "c", 3));
	E(syscall(SYS_renameat2, AT_FDCWD, "q", AT_FDCWD, "c", 1 << 20));
	show("q");
	int fd = open("c", O_RDONLY);
	E(rename("q", "c"));
	char text[8];
	E(read(fd, text, 8));
	symlink("c", "l");
	E(rename("l", "m"));
	list(".");
}

CASE(links)
{
	struct stat s;
	char b[64];
	put("f", "text");
	mkdir("d", 0755);
	E(link("f", "g"));
	E(link("f", "g"));
	E(link("d", "h"));
	E(link("none", "h"));
	E(link("f", "d/h"));
	stat("f", &s);
	say("links %ld", (long)s.st_nlink);
	E(symlink("f", "l"));
	E(symlink("f", "l"));
	E(symlink("", "m"));
	E(link("l", "hardlink"));
	lstat("hardlink", &s);
	say("is link %d", S_ISLNK(s.st_mode));
	E(linkat(AT_FDCWD, "l", AT_FDCWD, "followed", AT_SYMLINK_FOLLOW));
	lstat("followed", &s);
	say("is link %d", S_ISLNK(s.st_mode));
	E(readlink("l", b, sizeof b));
	E(readlink("l", b, 0));
	E(symlink("0123456789", "long"));
	E(readlink("long", b, 4));
	dump("b", b, 4);
	E(readlink("f", b, sizeof b));
	E(readlink("none", b, sizeof b));
	symlink("loop2", "loop1"), symlink("loop1", "loop2");
	E(open("loop1", O_RDONLY));
	E(stat("loop1/x", &s));
	E(lstat("loop1", &s));
	for (int i = 0; i < 42; i++) {
		char from[16], to[16];
		snprintf(to, sizeof to, i ? "chain%d" : "f", i - 1);
		snprintf(from, sizeof from, "chain%d", i);
		symlink(i ? to : "f", from);
	}
	OK(open("chain39", O_RDONLY));
	OK(open("chain40", O_RDONLY));
	symlink("d", "ld");
	E(lstat("ld/", &s));
	say("dir %d", S_ISDIR(s.st_mode));
	E(unlink("ld/"));
	put("ld/inside", "i");
	show("d/inside");
	show("ld/../f");
	E(stat("f/..", &s));
	symlink("../f", "d/up");
	show("ld/up");
	E(access("dangling", F_OK));
}

CASE(directory_reading)
{
	mkdir("d", 0755);
	for (int i = 0; i < 300; i++) {
		char name[32];
		snprintf(name, sizeof name, "d/%03d", i);
		close(open(name, O_CREAT | O_WRONLY, 0600));
	}
	mkfifo("fifo", 0600), symlink("x", "link"), mkdir("sub", 0700);
	list(".");
	char b[512];
	int fd = open("d", O_RDONLY), seen = 0, calls = 0;
	for (long n; (n = syscall(SYS_getdents64, fd, b, sizeof b)) > 0; calls++)
		for (long at = 0; at < n; at += ((struct dirent64 *)(b + at))->d_reclen)
			seen++;
	say("seen %d in many calls %d", seen, calls > 10);
	E(syscall(SYS_getdents64, fd, b, sizeof b));
	E(lseek(fd, 0, SEEK_SET));
	E(syscall(SYS_getdents64, fd, b, 10));
	E(syscall(SYS_getdents64, 0x7fff, b, sizeof b));
	DIR *dir = opendir("d");
	int removed = 0;
	for (struct dirent *e; (e = readdir(dir));) // deletes while reading
		if (e->d_name[0] != '.' && !unlinkat(dirfd(dir), e->d_name, 0))
			removed++;
	say("removed %d", removed);
	E(rmdir("d"));
	rewinddir(dir);
	say("reads of a removed directory: %d", readdir(dir) != NULL);
	E(openat(dirfd(dir), "x", O_CREAT | O_RDWR, 0600));
	dir = opendir(".");
	readdir(dir), readdir(dir);
	long place = telldir(dir);
	char name[300];
	struct dirent *e = readdir(dir);
	snprintf(name, sizeof name, "%s", e->d_name);
	readdir(dir);
	seekdir(dir, place);
	say("seekdir comes back %d", !strcmp(readdir(dir)->d_name, name));
	put("f", "");
	fd = open("f", O_RDONLY);
	E(syscall(SYS_getdents64, fd, b, sizeof b));
}

CASE(current_directory)
{
	char b[PATH_MAX], c[PATH_MAX];
	mkdir("d", 0755), mkdir("d/e", 0755);
	getcwd(b, sizeof b);
	E(chdir("d/e"));
	getcwd(c, sizeof c);
	say("%s", c + strlen(b));
	E(chdir("none"));
	E(chdir(".."));
	put("f", "");
	E(chdir("f"));
	int fd = open("..", O_RDONLY), file = open("f", O_RDONLY);
	E(fchdir(fd));
	E(fchdir(file));
	E(fchdir(99));
	getcwd(c, sizeof c);
	say("%d", strcmp(b, c));
	E(syscall(SYS_getcwd, c, 2));
	say("getcwd %ld", syscall(SYS_getcwd, c, sizeof c) - (long)strlen(b));
	chdir("d/e");
	rmdir("../e");
	E(syscall(SYS_getcwd, c, sizeof c));
	E(open("x", O_CREAT | O_WRONLY, 0600));
	E(mkdir("y", 0700));
	E(open(".", O_RDONLY) >= 0);
	E(chdir(".."));
	CHILD { E(chdir("/")); }
	E(access("f", F_OK));
	CHILD {
		chdir("..");
		E(chroot("d"));
		E(access("../../../f", F_OK));
		E(chdir("/"));
		getcwd(c, sizeof c);
		say("%s", c);
		list("/");
		E(chroot("none"));
	}
}

CASE(resolve_flags)
{
	mkdir("d", 0755), put("d/f", "x"), put("f", "y");
	symlink("f", "d/l"), symlink("../f", "d/out"), symlink("/etc/passwd", "d/absolute");
	int d = open("d", O_PATH | O_DIRECTORY);
	const struct { const char *path; unsigned long resolve; } rows[] = {
		{"f", RESOLVE_BENEATH}, {"../f", RESOLVE_BENEATH}, {"out", RESOLVE_BENEATH}, {"absolute", RESOLVE_BENEATH},
		{"/etc/passwd", RESOLVE_BENEATH}, {"l", RESOLVE_BENEATH}, {"l", RESOLVE_NO_SYMLINKS}, {"f", RESOLVE_NO_SYMLINKS},
		{"absolute", RESOLVE_IN_ROOT}, {"../f", RESOLVE_IN_ROOT}, {"out", RESOLVE_IN_ROOT}, {"f", 1 << 20},
		{"/proc/self/fd/0", RESOLVE_NO_MAGICLINKS}, {"/proc/self/cmdline", RESOLVE_NO_XDEV},
	};
	for (int i = 0; i < (int)(sizeof rows / sizeof *rows); i++) {
		struct open_how how = {.flags = O_RDONLY, .resolve = rows[i].resolve};
		long fd = syscall(SYS_openat2, d, rows[i].path, &how, sizeof how);
		say("openat2 %s %lx: %s", rows[i].path, rows[i].resolve, fd < 0 ? errname(errno) : "ok");
		if (fd >= 0)
			close(fd);
	}
	struct open_how how = {.flags = O_RDONLY, .mode = 0600};
	E(syscall(SYS_openat2, d, "f", &how, sizeof how));
	how.mode = 0;
	E(syscall(SYS_openat2, d, "f", &how, 8));
	how.flags = 1ULL << 40;
	E(syscall(SYS_openat2, d, "f", &how, sizeof how));
}

CASE(xattrs)
{
	char b[64];
	put("f", ""), symlink("f", "l"), mkdir("d", 0755);
	E(setxattr("f", "user.one", "value", 5, 0));
	E(setxattr("f", "user.one", "other", 5, XATTR_CREATE));
	E(setxattr("f", "user.two", "x", 1, XATTR_REPLACE));
	E(setxattr("f", "user.two", "", 0, 0));
	E(getxattr("f", "user.one", b, sizeof b));
	dump("value", b, 5);
	E(getxattr("f", "user.one", b, 2));
	E(getxattr("f", "user.one", NULL, 0));
	E(getxattr("f", "user.none", b, sizeof b));
	E(getxattr("f", "bad", b, sizeof b));
	E(setxattr("f", "weird.name", "x", 1, 0));
	long size = listxattr("f", b, sizeof b);
	say("list size %ld", size);
	E(listxattr("f", b, 3));
	E(lsetxattr("l", "user.x", "x", 1, 0));
	E(lgetxattr("l", "user.one", b, sizeof b));
	E(removexattr("f", "user.one"));
	E(removexattr("f", "user.one"));
	E(setxattr("d", "user.dir", "d", 1, 0));
	int fd = open("f", O_RDWR);
	E(fsetxattr(fd, "user.fd", "1", 1, 0));
	E(fgetxattr(fd, "user.fd", b, sizeof b));
	E(setxattr("none", "user.a", "b", 1, 0));
	E(setxattr("f", "user.a", "b", 1, 7));
	E(setxattr("f", "user.big", b, 70000, 0));
}

static void events(int fd)
{
	char b[4096] __attribute__((aligned(8)));
	long n = read(fd, b, sizeof b);
	if (n < 0)
		say("no events: %s", errname(errno));
	for (long at = 0; at < n;) {
		struct inotify_event *e = (void *)(b + at);
		say("wd %d mask %x cookie %d name %s", e->wd, e->mask, e->cookie != 0, e->len ? e->name : "-");
		at += sizeof *e + e->len;
	}
}

CASE(inotify_events)
{
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	OK(fd);
	mkdir("d", 0755), put("f", "x");
	E(inotify_add_watch(fd, "d", IN_ALL_EVENTS));
	E(inotify_add_watch(fd, "f", IN_ALL_EVENTS));
	E(inotify_add_watch(fd, "none", IN_ALL_EVENTS));
	E(inotify_add_watch(fd, "f", 0));
	E(inotify_add_watch(fd, "f", IN_ONLYDIR | IN_CREATE));
	events(fd);
	put("d/a", "text");
	events(fd);
	mkdir("d/sub", 0755);
	rename("d/a", "d/b");
	events(fd);
	rename("d/b", "out");
	rename("out", "d/in");
	chmod("d/in", 0600);
	link("d/in", "d/hard");
	symlink("x", "d/sym");
	events(fd);
	show("d/in");
	unlink("d/in");
	rmdir("d/sub");
	events(fd);
	show("f");
	truncate("f", 0);
	events(fd);
	unlink("f");
	events(fd);
	E(inotify_rm_watch(fd, 1));
	E(inotify_rm_watch(fd, 1));
	E(inotify_rm_watch(fd, 77));
	events(fd);
	E(inotify_add_watch(fd, "d", IN_CREATE | IN_ONESHOT));
	put("d/one", ""), put("d/two", "");
	events(fd);
	struct pollfd p = {fd, POLLIN};
	E(poll(&p, 1, 0));
	E(inotify_add_watch(fd, "d", IN_CREATE | IN_MASK_ADD));
	put("d/three", "");
	E(poll(&p, 1, 0));
	int size;
	E(ioctl(fd, FIONREAD, &size));
	say("%d", size);
	char b[4];
	E(read(fd, b, 4));
}

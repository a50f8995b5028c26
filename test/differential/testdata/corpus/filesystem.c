// File systems: what Linux has beyond reading and writing, on tmpfs and on an
// overlay, which is what a container's root is.
#include "corpus.h"
#include <linux/falloc.h>
#include <sys/mount.h>

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#define RENAME_WHITEOUT 4
#endif

// on runs a part of a case on a tmpfs, then on an overlay over one.
static void on(void (*part)(void))
{
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		say("own mounts: %s", errname(errno));
	mkdir("t", 0755);
	if (mount("t", "t", "tmpfs", 0, "size=4m"))
		say("tmpfs: %s", errname(errno));
	chdir("t");
	say("== tmpfs");
	part();
	mkdir("l", 0755), mkdir("u", 0755), mkdir("w", 0755), mkdir("o", 0755);
	put("l/below", "from below"), chmod("l/below", 0755);
	mkdir("l/dir", 0755);
	put("l/dir/inside", "inside");
	if (mount("o", "o", "overlay", 0, "lowerdir=l,upperdir=u,workdir=w"))
		say("overlay: %s", errname(errno));
	chdir("o");
	say("== overlay");
	part();
}

static long rename2(const char *from, const char *to, unsigned flags)
{
	return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags);
}

static void ls(void)
{
	char cmd[] = "ls -A | grep -v '^[luwo]$' | tr '\\n' ' '";
	FILE *f = popen(cmd, "r");
	char line[512] = "";
	fgets(line, sizeof line, f);
	pclose(f);
	say("[%s]", line);
}

static void renames_part(void)
{
	put("a", "A"), put("b", "B");
	mkdir("d", 0755), mkdir("e", 0755);
	put("d/x", "X");
	E(rename2("a", "b", RENAME_NOREPLACE));
	E(rename2("a", "c", RENAME_NOREPLACE));
	E(rename2("c", "missing", RENAME_EXCHANGE));
	E(rename2("b", "c", RENAME_EXCHANGE));
	show("b"), show("c");
	E(rename2("b", "d", RENAME_EXCHANGE));
	show("b/x"), show("d");
	E(rename2("b", "d", RENAME_EXCHANGE));
	E(rename2("d", "d/x", RENAME_EXCHANGE));
	E(rename2("d", "d/y", 0));
	E(rename2("b", "c", RENAME_EXCHANGE | RENAME_NOREPLACE));
	E(rename2("b", "c", RENAME_EXCHANGE | RENAME_WHITEOUT));
	E(rename2("b", "c", 8));
	E(rename2("d", "e", RENAME_NOREPLACE));
	E(rename2("d", "e", 0));
	E(rename2("e", "b", 0));
	E(rename2("b", "e", 0));
	E(rename2("b", "b", RENAME_NOREPLACE));
	E(rename2("b", "b", RENAME_EXCHANGE));
	E(rename2("b", ".", 0));
	E(rename2("b", "..", RENAME_NOREPLACE));
	E(rename2("e/", "f", 0));
	E(rename2("b/", "g", 0));
	ls();
}

CASE(fs_renames) { on(renames_part); }

static void whiteout_part(void)
{
	put("a", "A");
	E(rename2("a", "b", RENAME_WHITEOUT));
	struct stat s;
	E(lstat("a", &s));
	say("%o %lx", s.st_mode, (long)s.st_rdev);
	E(mknod("w2", S_IFCHR, 0));
	E(lstat("w2", &s));
	E(rename2("b", "c", RENAME_WHITEOUT | RENAME_NOREPLACE));
	CHILD {
		setresuid(1000, 1000, 1000);
		E(rename2("c", "d", RENAME_WHITEOUT));
	}
}

CASE(fs_whiteouts) { on(whiteout_part); }

static void tmpfile_part(void)
{
	int fd = open(".", O_TMPFILE | O_RDWR, 0640);
	say("tmpfile %d", fd >= 0);
	struct stat s;
	fstat(fd, &s);
	say("links %d mode %o", (int)s.st_nlink, s.st_mode);
	E(write(fd, "text", 4));
	char path[64];
	sprintf(path, "/proc/self/fd/%d", fd);
	E(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
	show("named");
	fstat(fd, &s);
	say("links %d", (int)s.st_nlink);
	E(linkat(fd, "", AT_FDCWD, "again", AT_EMPTY_PATH));
	E(unlink("named"));
	E(unlink("again"));
	E(linkat(fd, "", AT_FDCWD, "third", AT_EMPTY_PATH));
	fd = open(".", O_TMPFILE | O_RDWR | O_EXCL, 0600);
	E(linkat(fd, "", AT_FDCWD, "excl", AT_EMPTY_PATH));
	E(open(".", O_TMPFILE | O_RDONLY, 0600));
	E(open("missing", O_TMPFILE | O_RDWR, 0600));
	E(open("named", O_TMPFILE | O_RDWR, 0600));
	E(open(".", O_TMPFILE | O_CREAT | O_RDWR, 0600));
}

CASE(fs_tmpfile) { on(tmpfile_part); }

static void fallocate_part(void)
{
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	struct stat s;
#define SIZE() (fstat(fd, &s), say("size %ld blocks %ld", (long)s.st_size, (long)s.st_blocks))
	E(fallocate(fd, 0, 0, 10000)), SIZE();
	E(fallocate(fd, FALLOC_FL_KEEP_SIZE, 10000, 20000)), SIZE();
	E(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
	E(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096)), SIZE();
	E(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, 4096));
	E(fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, 4096));
	E(fallocate(fd, FALLOC_FL_ZERO_RANGE, 0, 4096));
	E(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096));
	E(fallocate(fd, 0x100, 0, 4096));
	E(fallocate(fd, 0, 0, 0));
	E(fallocate(fd, 0, -1, 10));
	E(fallocate(fd, 0, 0, -10));
	E(fallocate(fd, 0, 0x7fffffffffffffff, 10));
	E(fallocate(fd, 0, 0, 100 << 20));
	int ro = open("f", O_RDONLY);
	E(fallocate(ro, 0, 0, 10));
	int p[2];
	pipe(p);
	E(fallocate(p[1], 0, 0, 10));
	E(fallocate(open(".", O_RDONLY), 0, 0, 10));
	E(posix_fallocate(fd, 0, 100));
}

CASE(fs_fallocate) { on(fallocate_part); }

static void seek_part(void)
{
	int fd = open("f", O_CREAT | O_RDWR, 0600);
	ftruncate(fd, 1 << 20);
	pwrite(fd, "x", 1, 65536);
	pwrite(fd, "y", 1, 524288);
	E(lseek(fd, 0, SEEK_DATA));
	E(lseek(fd, 65537, SEEK_DATA));
	E(lseek(fd, 65536, SEEK_HOLE));
	E(lseek(fd, 0, SEEK_HOLE));
	E(lseek(fd, 69632, SEEK_DATA));
	E(lseek(fd, 600000, SEEK_DATA));
	E(lseek(fd, 1 << 20, SEEK_HOLE));
	E(lseek(fd, (1 << 20) - 1, SEEK_HOLE));
	E(lseek(fd, -1, SEEK_DATA));
	E(lseek(fd, 1 << 21, SEEK_END));
	char b[5] = "";
	E(pread(fd, b, 4, 65534)), dump("at the edge", b, 4);
	struct stat s;
	fstat(fd, &s);
	say("blocks %ld", (long)s.st_blocks);
}

CASE(fs_seek_holes) { on(seek_part); }

static void direct_part(void)
{
	int fd = open("f", O_CREAT | O_RDWR | O_DIRECT, 0600);
	say("direct %d", fd >= 0);
	static char b[8192] __attribute__((aligned(4096)));
	E(write(fd, b, 4096));
	E(pread(fd, b, 4096, 0));
	E(fcntl(fd, F_SETFL, 0));
	E(fcntl(fd, F_SETFL, O_DIRECT));
	say("set %d", (fcntl(fd, F_GETFL) & O_DIRECT) != 0);
}

CASE(fs_direct) { on(direct_part); }

struct handle { unsigned bytes; int type; unsigned char f[128]; };

static void handle_part(void)
{
	put("f", "text");
	mkdir("d", 0755);
	struct handle h = {sizeof h.f}, g = {0};
	int id, id2;
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "f", &g, &id, 0));
	say("wants some %d", g.bytes > 0);
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "f", &h, &id, 0));
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "missing", &h, &id, 0));
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "f", &h, &id, 1 << 20));
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "f", NULL, &id, 0));
	g.bytes = 1000;
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "f", &g, &id, 0));
	g = h;
	g.bytes = sizeof g.f;
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "f", &g, &id2, 0));
	say("same %d %d", g.bytes == h.bytes && !memcmp(g.f, h.f, h.bytes), id == id2);
	int dir = open(".", O_RDONLY | O_DIRECTORY);
	int fd = syscall(SYS_open_by_handle_at, dir, &h, O_RDONLY);
	say("opened %d", fd >= 0);
	if (fd >= 0) {
		char b[8];
		E(read(fd, b, 8));
		close(fd);
	}
	rename("f", "renamed");
	fd = syscall(SYS_open_by_handle_at, dir, &h, O_RDONLY);
	say("after a rename %d", fd >= 0);
	close(fd);
	unlink("renamed");
	E(syscall(SYS_open_by_handle_at, dir, &h, O_RDONLY));
	E(syscall(SYS_open_by_handle_at, 99, &h, O_RDONLY));
	h.bytes = 0;
	E(syscall(SYS_open_by_handle_at, dir, &h, O_RDONLY));
	h.bytes = 999;
	E(syscall(SYS_open_by_handle_at, dir, &h, O_RDONLY));
	CHILD {
		setresuid(1000, 1000, 1000);
		E(syscall(SYS_open_by_handle_at, dir, &g, O_RDONLY));
	}
}

CASE(fs_handles) {
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		say("own mounts: %s", errname(errno));
	mkdir("t", 0755);
	mount("t", "t", "tmpfs", 0, "size=4m");
	chdir("t");
	handle_part();
	struct handle h = {sizeof h.f};
	int id;
	E(syscall(SYS_name_to_handle_at, AT_FDCWD, "/proc/self", &h, &id, 0));
	int p[2];
	pipe(p);
	E(syscall(SYS_name_to_handle_at, p[0], "", &h, &id, AT_EMPTY_PATH));
}

static void busy_part(void)
{
	int from = open("/bin/sleep", O_RDONLY), to = open("prog", O_CREAT | O_WRONLY, 0755);
	while (sendfile(to, from, NULL, 1 << 20) > 0)
		;
	E(execl("prog", "prog", "0", NULL));
	close(to);
	int p[2];
	pipe(p);
	fcntl(p[1], F_SETFD, FD_CLOEXEC);
	pid_t child = fork();
	if (child == 0) {
		execl("prog", "prog", "100", NULL);
		_exit(1);
	}
	close(p[1]);
	char c;
	read(p[0], &c, 1);
	E(open("prog", O_WRONLY));
	E(open("prog", O_RDWR | O_TRUNC));
	E(open("prog", O_WRONLY | O_CREAT, 0700));
	E(truncate("prog", 0));
	E(open("prog", O_RDONLY) >= 0);
	E(chmod("prog", 0700));
	E(rename("prog", "other"));
	E(open("other", O_WRONLY));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	E(open("other", O_WRONLY) >= 0);
	put("script", "#!/bin/sh\nexit 3\n");
	chmod("script", 0755);
	int fd = open("script", O_WRONLY);
	E(execl("script", "script", NULL));
	close(fd);
	CHILD {
		execl("script", "script", NULL);
	}
	E(unlink("other")), E(unlink("script"));
}

CASE(fs_text_busy) { on(busy_part); }

static void xattr_part(void)
{
	put("f", "");
	mkdir("d", 0755);
	symlink("f", "s");
	char b[300];
	E(setxattr("f", "user.a", "value", 5, 0));
	E(getxattr("f", "user.a", b, sizeof b)), dump("value", b, 5);
	E(setxattr("f", "user.a", "v2", 2, XATTR_CREATE));
	E(setxattr("f", "user.b", "v2", 2, XATTR_REPLACE));
	E(setxattr("d", "user.dir", "", 0, 0));
	E(lsetxattr("s", "user.a", "x", 1, 0));
	E(lsetxattr("s", "trusted.a", "x", 1, 0));
	E(setxattr("f", "trusted.a", "x", 1, 0));
	E(setxattr("f", "security.a", "x", 1, 0));
	E(setxattr("f", "system.a", "x", 1, 0));
	E(setxattr("f", "nonsense", "x", 1, 0));
	E(listxattr("f", NULL, 0));
	E(removexattr("f", "user.a"));
	E(removexattr("f", "user.a"));
	E(getxattr("f", "user.a", b, sizeof b));
	link("f", "g");
	E(getxattr("g", "trusted.a", b, sizeof b));
	CHILD {
		setresuid(1000, 1000, 1000);
		E(getxattr("f", "trusted.a", b, sizeof b));
		E(setxattr("f", "user.z", "x", 1, 0));
	}
}

CASE(fs_xattrs) { on(xattr_part); }

static void overlay_part(void)
{
	struct stat s, t;
	if (stat("below", &s))
		return;
	ino_t was = s.st_ino;
	int ro = open("below", O_RDONLY);
	char b[32] = "";
	E(chmod("below", 0700));
	stat("below", &s);
	say("number stays %d mode %o", s.st_ino == was, s.st_mode);
	put("below", "changed!");
	E(pread(ro, b, 8, 0));
	E(link("below", "hard"));
	put("hard", "by the link");
	show("below");
	stat("below", &s), stat("hard", &t);
	say("one file %d links %d", s.st_ino == t.st_ino, (int)s.st_nlink);
	E(unlink("below"));
	E(open("below", O_RDONLY));
	E(mkdir("below", 0755));
	E(rmdir("below"));
	E(rename("dir", "moved"));
	E(rename2("dir", "hard", RENAME_EXCHANGE));
	E(rmdir("dir"));
	put("dir/more", "more");
	E(unlink("dir/inside")), E(unlink("dir/more")), E(rmdir("dir"));
	E(mkdir("dir", 0700));
	E(access("dir/inside", F_OK));
	E(mkdir("dir/sub", 0755));
	E(rename("dir", "moved"));
	E(access("moved/sub", F_OK));
	E(access("dir", F_OK));
	ls();
	mkdir("bind", 0755);
	E(mount("moved", "bind", NULL, MS_BIND, NULL));
	E(rename("moved/sub", "bind/sub2"));
	E(link("hard", "bind/hard"));
	put("bind/new", "through the bind");
	show("moved/new");
}

CASE(fs_overlay) { on(overlay_part); }

CASE(fs_quota)
{
	E(syscall(SYS_quotactl, 0x80000100, "/dev/none", 0, NULL) < 0);
	E(syscall(SYS_quotactl, 1 << 8, NULL, 0, NULL) < 0);
}

// Mounts made inside: the old calls and the new ones, propagation, what
// /proc/self/mountinfo says.
#include "corpus.h"
#include <linux/mount.h>
#include <sys/mount.h>

#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x100
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

static char here[64];
static int groups[64], known;

// own gives the case mounts of its own, with a tmpfs at t.
static void own(void)
{
	getcwd(here, sizeof here);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		say("own mounts: %s", errname(errno));
	mkdir("t", 0755);
	if (mount("base", "t", "tmpfs", 0, "size=1m,mode=755"))
		say("tmpfs: %s", errname(errno));
	chdir("t");
}

// letter names a peer group the same way in every run.
static char letter(int group)
{
	for (int i = 0; i < known; i++)
		if (groups[i] == group)
			return 'A' + i;
	groups[known++] = group;
	return 'A' + known - 1;
}

// mounts prints those below the case's directory, without numbers.
static void mounts(const char *what)
{
	say("-- %s", what);
	known = 0;
	FILE *f = fopen("/proc/self/mountinfo", "r");
	static char line[4096];
	while (fgets(line, sizeof line, f)) {
		char *field[16], *save, optional[128] = "";
		int n = 0;
		line[strcspn(line, "\n")] = 0;
		for (char *p = strtok_r(line, " ", &save); p && n < 16; p = strtok_r(NULL, " ", &save))
			field[n++] = p;
		if (n < 9 || strncmp(field[4], here, strlen(here)))
			continue;
		int i = 6;
		for (; i < n && strcmp(field[i], "-"); i++) {
			char *number = strchr(field[i], ':');
			if (number)
				sprintf(optional + strlen(optional), " %.*s:%c", (int)(number - field[i]), field[i], letter(atoi(number + 1)));
			else
				sprintf(optional + strlen(optional), " %s", field[i]);
		}
		say("%s %s %s%s - %s %s %s", field[3], field[4] + strlen(here), field[5], optional, field[i + 1], field[i + 2], field[i + 3]);
	}
	fclose(f);
}

static void dir(const char *name)
{
	if (mkdir(name, 0755))
		say("mkdir %s: %s", name, errname(errno));
}

CASE(mount_errors)
{
	own();
	dir("a"), dir("b");
	put("file", "");
	E(mount("x", "a", "nonsense", 0, NULL));
	E(mount("x", "a", NULL, 0, NULL));
	E(mount("x", "missing", "tmpfs", 0, NULL));
	E(mount("x", "file", "tmpfs", 0, NULL));
	E(mount("x", "a", "tmpfs", 0, "nonsense=1"));
	E(mount("x", "a", "tmpfs", 0, "size=x"));
	E(mount("x", "a", "tmpfs", 0, "mode=9"));
	E(mount("x", "a", (char *)1, 0, NULL));
	E(mount("x", (char *)1, "tmpfs", 0, NULL));
	E(mount("x", "a", "tmpfs", 0, (char *)1));
	E(mount(NULL, "a", NULL, MS_BIND, NULL));
	E(mount("", "a", NULL, MS_BIND, NULL));
	E(mount("missing", "a", NULL, MS_BIND, NULL));
	E(mount("file", "a", NULL, MS_BIND, NULL));
	E(mount("a", "file", NULL, MS_BIND, NULL));
	E(mount(NULL, "a", NULL, MS_REMOUNT, NULL));
	E(mount(NULL, "a", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	E(mount(NULL, "a", NULL, MS_SHARED, NULL));
	E(mount(NULL, ".", NULL, MS_SHARED | MS_PRIVATE, NULL));
	E(mount(NULL, ".", NULL, MS_SHARED | MS_RDONLY, NULL));
	E(mount("a", "b", NULL, MS_MOVE, NULL));
	E(mount(".", "b", NULL, MS_MOVE, NULL));
	E(umount2("a", 0));
	E(umount2("missing", 0));
	E(umount2(".", 0x100));
	E(umount2(".", MNT_EXPIRE | MNT_DETACH));
	E(umount2("a/b", UMOUNT_NOFOLLOW));
	E(umount2(".", 0));
	symlink("a", "link");
	E(mount("x", "link", "tmpfs", 0, "size=4k"));
	E(umount2("link", UMOUNT_NOFOLLOW));
	E(umount2("link", 0));
	E(syscall(SYS_pivot_root, "a", "b"));
	E(syscall(SYS_pivot_root, "missing", "b"));
	E(syscall(SYS_pivot_root, "file", "b"));
	CHILD {
		setresuid(1000, 1000, 1000);
		E(mount("x", "a", "tmpfs", 0, NULL));
		E(mount(".", "a", NULL, MS_BIND, NULL));
		E(umount2(".", MNT_DETACH));
		E(syscall(SYS_pivot_root, "a", "b"));
	}
}

CASE(mount_flags)
{
	own();
	dir("a");
	static const struct { const char *name; unsigned long flags; } rows[] = {
		{"none", 0}, {"ro", MS_RDONLY}, {"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC},
		{"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}, {"relatime", MS_RELATIME}, {"strictatime", MS_STRICTATIME},
		{"all", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME},
		{"magic", MS_MGC_VAL | MS_NOSUID},
	};
	for (int i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		E(mount(rows[i].name, "a", "tmpfs", rows[i].flags, "size=64k"));
		struct statfs s;
		statfs("a", &s);
		say("statfs %#lx type %lx blocks %lu", (long)s.f_flags, (long)s.f_type, (long)s.f_blocks);
	}
	mounts("all");
	for (int i = 0; i < sizeof rows / sizeof rows[0]; i++)
		E(umount("a"));
	mounts("none");
}

CASE(mount_remount)
{
	own();
	dir("a"), dir("b");
	E(mount("x", "a", "tmpfs", MS_NOSUID | MS_NOATIME, "size=64k"));
	put("a/f", "text");
	E(mount("a", "b", NULL, MS_BIND | MS_RDONLY, NULL));
	mounts("bound");
	E(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
	mounts("bind read-only");
	E(open("b/f", O_RDWR));
	E(open("b/new", O_CREAT | O_RDWR, 0600));
	E(open("a/new", O_CREAT | O_RDWR, 0600) >= 0);
	E(chmod("b/f", 0600));
	E(unlink("b/f"));
	E(access("b/f", W_OK));
	E(truncate("b/f", 0));
	E(utimes("b/f", NULL));
	E(mount(NULL, "a", NULL, MS_REMOUNT | MS_RDONLY, NULL));
	mounts("all read-only");
	E(mount(NULL, "b", NULL, MS_REMOUNT | MS_BIND, NULL));
	E(open("b/f", O_RDWR));
	E(mount(NULL, "a", NULL, MS_REMOUNT | MS_NOEXEC, "size=128k"));
	mounts("again");
	E(open("b/f", O_RDWR) >= 0);
	E(mount(NULL, "a", NULL, MS_REMOUNT, "size=0"));
	E(mount(NULL, "a", NULL, MS_REMOUNT, "nr_inodes=2"));
	E(mount(NULL, "a", NULL, MS_REMOUNT | MS_STRICTATIME, "nonsense"));
	mounts("end");
}

CASE(mount_options_work)
{
	own();
	dir("m");
	put("prog", "#!/bin/sh\nexit 7\n");
	chmod("prog", 0755);
	E(mount(".", "m", NULL, MS_BIND, NULL));
	E(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_NOEXEC | MS_NODEV, NULL));
	E(access("m/prog", X_OK));
	E(execl("m/prog", "m/prog", NULL));
	int fd = open("m/prog", O_RDONLY);
	E(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0) == MAP_FAILED);
	E(mknod("null", S_IFCHR | 0666, 0x103));
	E(open("null", O_RDONLY) >= 0);
	E(open("m/null", O_RDONLY));
	symlink("prog", "link");
	E(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | 256 /* MS_NOSYMFOLLOW */, NULL));
	E(open("m/link", O_RDONLY));
	mounts("end");
}

CASE(mount_tmpfs_limits)
{
	own();
	dir("m");
	E(mount("x", "m", "tmpfs", 0, "size=16k,nr_inodes=4,mode=700,uid=5,gid=6"));
	struct stat s;
	stat("m", &s);
	say("%o %d %d", s.st_mode, s.st_uid, s.st_gid);
	static char block[32768];
	int fd = open("m/f", O_CREAT | O_RDWR, 0600);
	E(write(fd, block, 10000));
	E(write(fd, block, 10000));
	E(write(fd, block, 10000));
	E(ftruncate(fd, 1 << 20));
	E(fallocate(fd, 0, 0, 1 << 20));
	E(ftruncate(fd, 0));
	E(fallocate(fd, 0, 0, 16384));
	E(open("m/g", O_CREAT | O_RDWR, 0600) >= 0);
	E(mkdir("m/d", 0700));
	E(mkdir("m/e", 0700));
	E(symlink("x", "m/s"));
	E(link("m/g", "m/h"));
	struct statfs v;
	statfs("m", &v);
	say("blocks %lu free %lu files %lu free %lu", (long)v.f_blocks, (long)v.f_bfree, (long)v.f_files, (long)v.f_ffree);
	char *map = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	E(ftruncate(fd, 65536));
	CHILD {
		map[20000] = 1; // no room: SIGBUS
	}
	mounts("end");
}

CASE(mount_bind)
{
	own();
	dir("a"), dir("a/sub"), dir("b"), dir("c"), dir("d");
	put("a/f", "from a"), put("g", "");
	E(mount("inner", "a/sub", "tmpfs", 0, "size=64k"));
	put("a/sub/x", "inner");
	E(mount("a", "b", NULL, MS_BIND, NULL));
	E(mount("a", "c", NULL, MS_BIND | MS_REC, NULL));
	E(mount("a/f", "g", NULL, MS_BIND, NULL));
	show("g"), show("b/f"), show("b/sub/x"), show("c/sub/x");
	mounts("bound");
	E(rename("a/f", "b/f2"));
	E(link("a/f", "a/f3"));
	E(unlink("g"));
	E(rmdir("c"));
	E(umount("c"));
	E(umount2("c", MNT_DETACH));
	E(umount("g"));
	E(unlink("g"));
	E(mount("b", "d", NULL, MS_MOVE, NULL));
	mounts("moved");
	E(mount("d", "d/sub", NULL, MS_MOVE, NULL));
	show("d/f");
	E(mount("a/sub", "d/sub", NULL, MS_BIND, NULL));
	E(chdir("d/sub"));
	char name[128];
	getcwd(name, sizeof name);
	say("%s", name + strlen(here));
	E(umount(name));
	E(chdir(".."));
	E(umount("sub"));
}

CASE(mount_busy)
{
	own();
	dir("m");
	E(mount("x", "m", "tmpfs", 0, "size=64k"));
	int fd = open("m", O_RDONLY);
	E(umount("m"));
	close(fd);
	fd = open("m", O_PATH);
	E(umount("m"));
	close(fd);
	chdir("m");
	E(umount("../m"));
	chdir("..");
	put("m/f", "x");
	fd = open("m/f", O_RDWR);
	E(umount2("m", MNT_DETACH));
	E(write(fd, "y", 1));
	E(access("m/f", F_OK));
	E(fstat(fd, &(struct stat){0}));
	E(openat(fd, "..", O_RDONLY));
	E(mount("x", "m", "tmpfs", 0, "size=64k"));
	E(umount2("m", MNT_EXPIRE));
	E(umount2("m", MNT_EXPIRE));
	E(umount2("m", MNT_EXPIRE));
	E(mount("x", "m", "tmpfs", 0, "size=64k"));
	E(umount2("m", MNT_EXPIRE));
	put("m/f", "x");
	E(umount2("m", MNT_EXPIRE));
	fd = open("m/f", O_RDONLY);
	E(umount2("m", MNT_EXPIRE));
	E(mkdir("m/in", 0700));
	E(mount("y", "m/in", "tmpfs", 0, "size=64k"));
	close(fd);
	E(umount("m"));
	E(umount2("m", MNT_DETACH));
	mounts("end");
}

CASE(mount_shared)
{
	own();
	dir("a"), dir("b"), dir("c"), dir("d");
	E(mount("a", "a", NULL, MS_BIND, NULL));
	dir("a/x"), dir("a/y");
	E(mount(NULL, "a", NULL, MS_SHARED, NULL));
	E(mount("a", "b", NULL, MS_BIND, NULL));
	E(mount("a", "c", NULL, MS_BIND, NULL));
	E(mount(NULL, "c", NULL, MS_SLAVE, NULL));
	E(mount("a", "d", NULL, MS_BIND, NULL));
	E(mount(NULL, "d", NULL, MS_PRIVATE, NULL));
	mounts("groups");
	E(mount("in a", "a/x", "tmpfs", 0, "size=64k"));
	mounts("mounted in a");
	E(mount("in c", "c/y", "tmpfs", 0, "size=64k"));
	mounts("mounted in c");
	E(umount("b/x"));
	mounts("unmounted in b");
	E(mount("in b", "b/y", "tmpfs", 0, "size=64k"));
	mounts("mounted in b, under c's");
	E(umount("c/y"));
	E(umount("a/y"));
	mounts("unmounted");
	E(mount("a", "d", NULL, MS_MOVE, NULL));
	E(mount("b/x", "d/x", NULL, MS_MOVE, NULL));
	E(mount(NULL, "a", NULL, MS_PRIVATE, NULL));
	E(mount(NULL, "b", NULL, MS_PRIVATE, NULL));
	mounts("group gone");
}

CASE(mount_slave_chain)
{
	own();
	dir("a"), dir("b"), dir("c"), dir("d"), dir("e");
	E(mount("top", "a", "tmpfs", 0, "size=64k"));
	dir("a/x"), dir("a/y");
	E(mount(NULL, "a", NULL, MS_SHARED, NULL));
	E(mount("a", "b", NULL, MS_BIND, NULL));
	E(mount(NULL, "b", NULL, MS_SLAVE, NULL));
	E(mount(NULL, "b", NULL, MS_SHARED, NULL));
	E(mount("b", "c", NULL, MS_BIND, NULL));
	E(mount("b", "d", NULL, MS_BIND, NULL));
	E(mount(NULL, "d", NULL, MS_SLAVE, NULL));
	E(mount("d", "e", NULL, MS_BIND, NULL));
	mounts("chain");
	E(mount("new", "a/x", "tmpfs", 0, "size=64k"));
	mounts("from the top");
	E(mount("mid", "c/y", "tmpfs", 0, "size=64k"));
	mounts("from the middle");
	E(umount("a/x"));
	mounts("gone from the top");
	E(mount(NULL, "a", NULL, MS_PRIVATE, NULL));
	mounts("top private");
}

CASE(mount_unbindable)
{
	own();
	dir("a"), dir("a/u"), dir("a/v"), dir("b");
	E(mount("u", "a/u", "tmpfs", 0, "size=64k"));
	E(mount("v", "a/v", "tmpfs", 0, "size=64k"));
	E(mount(NULL, "a/u", NULL, MS_UNBINDABLE, NULL));
	E(mount("a/u", "b", NULL, MS_BIND, NULL));
	E(mount("a", "b", NULL, MS_BIND | MS_REC, NULL));
	mounts("rbind");
	E(mount(NULL, ".", NULL, MS_REC | MS_SHARED, NULL));
	mounts("all shared");
	E(mount(NULL, ".", NULL, MS_REC | MS_SLAVE, NULL));
	E(mount(NULL, ".", NULL, MS_REC | MS_PRIVATE, NULL));
	mounts("all private");
}

CASE(mount_namespace_propagation)
{
	own();
	dir("s"), dir("p");
	E(mount("s", "s", "tmpfs", 0, "size=64k"));
	E(mount("p", "p", "tmpfs", 0, "size=64k"));
	E(mount(NULL, "s", NULL, MS_SHARED, NULL));
	dir("s/x"), dir("p/x"), dir("s/y");
	int to[2], from[2];
	pipe(to), pipe(from);
	char c;
	pid_t child = fork();
	if (child == 0) {
		E(unshare(CLONE_NEWNS));
		write(from[1], "1", 1);
		read(to[0], &c, 1);
		mounts("in the child");
		E(mount("child's", "s/y", "tmpfs", 0, "size=64k"));
		write(from[1], "2", 1);
		read(to[0], &c, 1);
		mounts("at its end");
		_exit(0);
	}
	read(from[0], &c, 1);
	mount("parent's", "s/x", "tmpfs", 0, "size=64k");
	mount("parent's", "p/x", "tmpfs", 0, "size=64k");
	write(to[1], "1", 1);
	read(from[0], &c, 1);
	mounts("in the parent");
	E(umount("s/x"));
	write(to[1], "2", 1);
	waitpid(child, NULL, 0);
	mounts("the child has gone");
}

CASE(mount_pivot)
{
	own();
	dir("root"), dir("root/old"), dir("root/in");
	E(mount("root", "root", NULL, MS_BIND, NULL));
	E(syscall(SYS_pivot_root, "root", "root/in/../../b"));
	chdir("root");
	put("marker", "new");
	E(syscall(SYS_pivot_root, ".", "old"));
	show("/marker");
	char name[256];
	E(syscall(SYS_getcwd, name, sizeof name));
	say("%s", name);
	E(chdir("/"));
	E(access("/old/proc", F_OK));
	E(umount("/old"));
	E(umount2("/old", MNT_DETACH));
	E(access("/old/proc", F_OK));
	E(rmdir("/old"));
	E(open("/..", O_RDONLY) >= 0);
	show("/../marker");
}

CASE(mount_pivot_dot)
{
	own();
	dir("root");
	E(mount("new", "root", "tmpfs", 0, "size=64k"));
	put("root/marker", "new");
	chdir("root");
	E(syscall(SYS_pivot_root, ".", "."));
	E(umount2(".", MNT_DETACH));
	show("/marker");
	char name[256];
	E(syscall(SYS_getcwd, name, sizeof name));
	say("%s", name);
	CHILD {
		E(chroot("/"));
		mkdir("/r", 0755);
		E(chroot("/r"));
		E(unshare(CLONE_NEWUSER));
	}
}

CASE(mount_user)
{
	own();
	dir("a"), dir("b"), dir("a/hidden"), dir("c");
	put("secret", "covered");
	E(mount("secret", "secret", NULL, MS_BIND, NULL));
	E(mount("ro", "a", "tmpfs", MS_RDONLY | MS_NOSUID, "size=64k"));
	chmod(".", 0777), chmod("..", 0777);
	CHILD {
		setresgid(1000, 1000, 1000), setresuid(1000, 1000, 1000);
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
		E(unshare(CLONE_NEWUSER | CLONE_NEWNS));
		put("/proc/self/setgroups", "deny");
		put("/proc/self/uid_map", "0 1000 1");
		put("/proc/self/gid_map", "0 1000 1");
		mounts("as they came");
		E(umount("a"));
		E(umount2("a", MNT_DETACH));
		E(mount(NULL, "a", NULL, MS_REMOUNT | MS_BIND, NULL));
		E(mount(NULL, "a", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL));
		E(mount(NULL, "a", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL));
		E(mount("a", "b", NULL, MS_MOVE, NULL));
		E(mount("a", "b", NULL, MS_BIND, NULL));
		E(mount(".", "b", NULL, MS_BIND, NULL));
		E(mount(".", "b", NULL, MS_BIND | MS_REC, NULL));
		E(umount2("b/a", MNT_DETACH));
		E(umount2("b", MNT_DETACH));
		E(mount("mine", "c", "tmpfs", 0, "size=64k"));
		E(mount("mine", "c", "tmpfs", 0, "size=64k,uid=7"));
		E(mkdir("c/d", 0755));
		E(mknod("c/null", S_IFCHR | 0666, 0x103));
		E(mknod("c/fifo", S_IFIFO | 0666, 0));
		struct stat s;
		stat("c/d", &s);
		say("%d %d", s.st_uid, s.st_gid);
		E(mount("x", "c/d", "proc", 0, NULL));
		E(mount("x", "c/d", "sysfs", 0, NULL));
		E(mount("x", "c/d", "devpts", 0, "newinstance"));
		E(mount(NULL, "c", NULL, MS_REMOUNT, "size=128k"));
		mounts("end");
	}
}

CASE(mount_proc_nested)
{
	own();
	dir("proc");
	pid_t child = syscall(SYS_clone, CLONE_NEWPID | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0);
	if (child == 0) {
		E(mount("p", "proc", "proc", 0, NULL));
		CHILD {
			char link[64];
			long n = readlink("proc/self", link, sizeof link);
			say("self is %.*s", (int)n, link);
			n = readlink("/proc/self", link, sizeof link);
			say("outer self is one %d", n > 0);
			show("proc/sys/kernel/ns_last_pid");
		}
		show("proc/1/comm");
		E(access("proc/2", F_OK));
		mounts("end");
		_exit(0);
	}
	waitpid(child, NULL, 0);
	E(mount("p", "proc", "proc", 0, "hidepid=2"));
	E(mount("p", "proc", "proc", 0, "hidepid=9"));
	mounts("end");
}

CASE(mount_nsfs)
{
	own();
	put("ns", "");
	E(mount("/proc/self/ns/uts", "ns", NULL, MS_BIND, NULL));
	struct stat a, b;
	stat("ns", &a), stat("/proc/self/ns/uts", &b);
	say("same %d", a.st_ino == b.st_ino && a.st_dev == b.st_dev);
	int fd = open("ns", O_RDONLY);
	unshare(CLONE_NEWUTS);
	E(setns(fd, CLONE_NEWUTS));
	stat("/proc/self/ns/uts", &b);
	say("back %d", a.st_ino == b.st_ino);
	E(mount("/proc/self/fd", "ns", NULL, MS_BIND, NULL));
	E(umount("ns"));
	close(fd);
	E(umount("ns"));
	E(stat("ns", &a));
	say("size %ld", (long)a.st_size);
}

static struct { long long set, clear, propagation, user; } attr;

static long setattr(int dir, const char *path, int flags, long set, long clear, long propagation)
{
	attr.set = set, attr.clear = clear, attr.propagation = propagation;
	return syscall(SYS_mount_setattr, dir, path, flags, &attr, sizeof attr);
}

CASE(mount_setattr)
{
	own();
	dir("a"), dir("a/b");
	E(mount("a", "a", "tmpfs", 0, "size=64k"));
	dir("a/b");
	E(mount("b", "a/b", "tmpfs", MS_NOATIME, "size=64k"));
	E(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_RDONLY, 0, 0));
	mounts("ro");
	E(setattr(AT_FDCWD, "a", AT_RECURSIVE, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY, MS_SHARED));
	mounts("recursive");
	E(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_NOATIME, 0, 0));
	E(setattr(AT_FDCWD, "a", 0, MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME, 0));
	E(setattr(AT_FDCWD, "a/b", 0, MOUNT_ATTR_STRICTATIME | MOUNT_ATTR_NOEXEC, MOUNT_ATTR__ATIME, 0));
	mounts("atime");
	E(setattr(AT_FDCWD, "a", 0, 0, 0, 0));
	E(setattr(AT_FDCWD, "a", 0, 1L << 40, 0, 0));
	E(setattr(AT_FDCWD, "a", 0, 0, 0, MS_SHARED | MS_PRIVATE));
	E(setattr(AT_FDCWD, "a", 0, 0, 0, MS_RDONLY));
	E(setattr(AT_FDCWD, "a", 1, 0, 0, MS_PRIVATE));
	E(setattr(AT_FDCWD, "missing", 0, 0, 0, MS_PRIVATE));
	E(setattr(AT_FDCWD, "/proc/self", 0, MOUNT_ATTR_RDONLY, 0, 0));
	E(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, &attr, 16));
	E(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, NULL, sizeof attr));
	E(syscall(SYS_mount_setattr, AT_FDCWD, "a", 0, &attr, 5000));
}

CASE(mount_fsopen)
{
	own();
	dir("a"), dir("b"), dir("c");
	E(syscall(SYS_fsopen, "nonsense", 0));
	E(syscall(SYS_fsopen, "tmpfs", 8));
	E(syscall(SYS_fsopen, NULL, 0));
	int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	say("cloexec %d", fcntl(fs, F_GETFD));
	E(syscall(SYS_fsmount, fs, 0, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", "made", 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", "twice", 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", "64k", 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "mode", "700", 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "nonsense", "1", 0));
	char text[256];
	long n = read(fs, text, sizeof text);
	say("%.*s", n > 0 ? (int)n : 0, text);
	n = read(fs, text, sizeof text);
	say("%.*s", n > 0 ? (int)n : 0, text);
	E(read(fs, text, sizeof text));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "size", NULL, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "ro", "x", 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", NULL, 0));
	E(syscall(SYS_fsconfig, fs, 99, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, 0, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, -1, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	E(syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", "64k", 0));
	E(syscall(SYS_fsmount, fs, 2, 0));
	E(syscall(SYS_fsmount, fs, 0, 1 << 30));
	E(syscall(SYS_fsmount, fs, 0, MOUNT_ATTR__ATIME));
	int m = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME);
	say("mounted %d", m >= 0);
	E(mkdirat(m, "inside", 0755));
	E(syscall(SYS_fsmount, fs, 0, 0));
	mounts("nowhere yet");
	E(syscall(SYS_move_mount, m, "", AT_FDCWD, "a", 0));
	E(syscall(SYS_move_mount, m, "", AT_FDCWD, "missing", MOVE_MOUNT_F_EMPTY_PATH));
	E(syscall(SYS_move_mount, m, "inside", AT_FDCWD, "a", 0));
	E(syscall(SYS_move_mount, m, "", AT_FDCWD, "a", MOVE_MOUNT_F_EMPTY_PATH));
	mounts("moved to a");
	E(syscall(SYS_move_mount, m, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
	mounts("moved to b");
	E(access("b/inside", F_OK));
	E(syscall(SYS_move_mount, AT_FDCWD, "b", AT_FDCWD, "b/inside", 0));
	E(syscall(SYS_move_mount, AT_FDCWD, "b", AT_FDCWD, "c", 1 << 20));
	int p = syscall(SYS_fspick, AT_FDCWD, "b", 0);
	say("picked %d", p >= 0);
	E(syscall(SYS_fspick, AT_FDCWD, "b/inside", 0));
	E(syscall(SYS_fspick, AT_FDCWD, "b", 64));
	E(syscall(SYS_fsconfig, p, FSCONFIG_SET_STRING, "size", "128k", 0));
	E(syscall(SYS_fsconfig, p, FSCONFIG_SET_FLAG, "ro", NULL, 0));
	E(syscall(SYS_fsconfig, p, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
	mounts("reconfigured");
	CHILD {
		setresuid(1000, 1000, 1000);
		E(syscall(SYS_fsopen, "tmpfs", 0));
		E(syscall(SYS_fspick, AT_FDCWD, "b", 0));
		E(syscall(SYS_fsmount, fs, 0, 0));
		E(syscall(SYS_move_mount, m, "", AT_FDCWD, "c", MOVE_MOUNT_F_EMPTY_PATH));
	}
}

CASE(mount_open_tree)
{
	own();
	dir("a"), dir("b"), dir("c");
	E(mount("a", "a", "tmpfs", 0, "size=64k"));
	dir("a/in");
	E(mount("in", "a/in", "tmpfs", 0, "size=64k"));
	put("a/f", "a"), put("a/in/f", "in");
	E(syscall(SYS_open_tree, AT_FDCWD, "a", 0x40000000));
	E(syscall(SYS_open_tree, AT_FDCWD, "a", AT_RECURSIVE));
	E(syscall(SYS_open_tree, AT_FDCWD, "missing", OPEN_TREE_CLONE));
	int plain = syscall(SYS_open_tree, AT_FDCWD, "a", OPEN_TREE_CLOEXEC);
	say("plain %d flags %d", plain >= 0, fcntl(plain, F_GETFD));
	E(read(plain, here, 0));
	int one = syscall(SYS_open_tree, AT_FDCWD, "a", OPEN_TREE_CLONE);
	int all = syscall(SYS_open_tree, AT_FDCWD, "a", OPEN_TREE_CLONE | AT_RECURSIVE);
	E(faccessat(one, "f", F_OK, 0));
	E(faccessat(one, "in/f", F_OK, 0));
	E(faccessat(all, "in/f", F_OK, 0));
	E(setattr(all, "", AT_EMPTY_PATH | AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0));
	E(openat(all, "new", O_CREAT | O_RDWR, 0600));
	E(syscall(SYS_move_mount, all, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH));
	E(syscall(SYS_move_mount, one, "", AT_FDCWD, "c", MOVE_MOUNT_F_EMPTY_PATH));
	close(one), close(all);
	mounts("moved");
	show("b/in/f"), show("c/f");
	int gone = syscall(SYS_open_tree, AT_FDCWD, "a", OPEN_TREE_CLONE);
	int inside = openat(gone, "f", O_RDONLY);
	close(gone);
	char c;
	E(read(inside, &c, 1));
	E(syscall(SYS_move_mount, plain, "", AT_FDCWD, "c", MOVE_MOUNT_F_EMPTY_PATH));
	mounts("moved by a plain descriptor");
	E(mount(NULL, "c", NULL, MS_SHARED, NULL));
	E(mount("b", "b", NULL, MS_BIND, NULL));
	E(syscall(SYS_move_mount, AT_FDCWD, "c", AT_FDCWD, "b", MOVE_MOUNT_SET_GROUP));
	mounts("group set");
}

struct request { unsigned size, spare; unsigned long long id, param; };

CASE(mount_list)
{
	own();
	dir("a"), dir("b");
	E(mount("a", "a", "tmpfs", MS_NOSUID, "size=64k"));
	dir("a/in");
	E(mount("in", "a/in", "tmpfs", 0, "size=64k"));
	E(mount(NULL, "a", NULL, MS_SHARED, NULL));
	struct statx x;
	syscall(SYS_statx, AT_FDCWD, "a", 0, 0x4000 /* STATX_MNT_ID_UNIQUE */, &x);
	unsigned long long id = *(unsigned long long *)((char *)&x + 0x90), ids[64];
	say("unique %d", (x.stx_mask & 0x4000) != 0);
	struct request r = {sizeof r, 0, id, 0};
	E(syscall(458, &r, ids, 64, 0));
	unsigned long long in = ids[0];
	E(syscall(458, &r, ids, 64, 2));
	E(syscall(458, &r, ids, 0, 0));
	r.id = 5;
	E(syscall(458, &r, ids, 64, 0));
	r.id = ~0ULL;
	E(syscall(458, &r, ids, 64, 0) > 3);
	r.id = id + (1ULL << 40);
	E(syscall(458, &r, ids, 64, 0));
	r.size = 8;
	E(syscall(458, &r, ids, 64, 0));
	r = (struct request){sizeof r, 0, in, 0x3f};
	static unsigned char b[4096];
	E(syscall(457, &r, b, sizeof b, 0));
	unsigned *w = (void *)b;
	unsigned long long *q = (void *)b;
	char *s = (char *)b + 512;
	say("mask %llx magic %llx flags %x type %s", q[1], q[3], w[8], s + w[9]);
	say("id %d parent %d attr %llx propagation %llx", q[5] == in, q[6] == id, q[8], q[9]);
	say("root %s point %s", s + w[26], s + w[27] + strlen(here));
	r.id = id;
	E(syscall(457, &r, b, sizeof b, 0));
	say("attr %llx propagation %llx group %d", q[8], q[9], q[10] != 0);
	E(syscall(457, &r, b, 520, 0));
	r.param = 1;
	E(syscall(457, &r, b, 16, 0));
	E(syscall(457, &r, b, 512, 1));
	r.id = 9;
	E(syscall(457, &r, b, 512, 0));
}

CASE(mount_poll)
{
	own();
	dir("a");
	int fd = open("/proc/self/mountinfo", O_RDONLY), fd2 = open("/proc/self/mounts", O_RDONLY);
	struct pollfd p = {fd, POLLPRI | POLLERR, 0}, q = {fd2, POLLPRI, 0};
	E(poll(&p, 1, 0)), say("%x", p.revents);
	E(mount("a", "a", "tmpfs", 0, "size=64k"));
	E(poll(&p, 1, 0)), say("%x", p.revents);
	E(poll(&p, 1, 0)), say("%x", p.revents);
	E(poll(&q, 1, 0)), say("%x", q.revents);
	CHILD {
		nap(20);
		umount("a");
	}
	E(poll(&p, 1, -1)), say("%x", p.revents);
	p.events = POLLIN;
	E(poll(&p, 1, 0)), say("%x", p.revents);
	show("/dev/null");
	FILE *f = fopen("/proc/self/mounts", "r");
	char line[512], last[512];
	E(mount("a b\\c#d\te", "a", "tmpfs", MS_NOEXEC, "size=64k"));
	while (fgets(line, sizeof line, f))
		strcpy(last, line);
	say("%.9s %s", last, strstr(last, "tmpfs "));
	fclose(f);
	f = fopen("/proc/self/mountstats", "r");
	while (fgets(line, sizeof line, f))
		strcpy(last, line);
	say("%.20s %s", last, strstr(last, "with"));
}

CASE(mount_overlay)
{
	own();
	dir("l1"), dir("l2"), dir("u"), dir("w"), dir("m");
	put("l1/top", "l1"), put("l2/top", "l2"), put("l2/low", "low"), put("l2/gone", "gone");
	dir("l1/d"), dir("l2/d");
	put("l1/d/one", "1"), put("l2/d/two", "2");
	E(mount("o", "m", "overlay", 0, NULL));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:missing"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2/low"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2,upperdir=u"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2,upperdir=u,workdir=u"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2,upperdir=u,workdir=u/x"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2,upperdir=u,workdir=w,nonsense"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2"));
	show("m/top"), show("m/low"), show("m/d/one"), show("m/d/two");
	E(open("m/new", O_CREAT | O_RDWR, 0600));
	E(umount("m"));
	E(mount("o", "m", "overlay", MS_NOATIME, "lowerdir=l1:l2,upperdir=u,workdir=w"));
	put("m/top", "changed");
	show("l1/top"), show("u/top");
	E(unlink("m/gone"));
	struct stat s;
	E(stat("u/gone", &s));
	say("%o %lx", s.st_mode, (long)s.st_rdev);
	E(rename("m/d", "m/d2"));
	E(rmdir("m/d"));
	E(unlink("m/d/one")), E(unlink("m/d/two")), E(rmdir("m/d"));
	E(mkdir("m/d", 0755));
	char value[8];
	long n = getxattr("u/d", "trusted.overlay.opaque", value, sizeof value);
	say("opaque %.*s", n > 0 ? (int)n : 0, value);
	E(getxattr("m/d", "trusted.overlay.opaque", value, sizeof value));
	E(access("m/d/one", F_OK));
	E(setxattr("m/low", "user.x", "v", 1, 0));
	E(setxattr("m/low", "trusted.overlay.x", "v", 1, 0));
	E(getxattr("u/low", "user.x", value, sizeof value));
	E(link("m/low", "m/low2"));
	stat("m/low", &s);
	say("links %d", (int)s.st_nlink);
	E(rename("m/low", "m/low3"));
	E(access("m/low", F_OK));
	E(umount("l1/.."));
	struct statfs v;
	statfs("m", &v);
	say("type %lx", (long)v.f_type);
	E(umount("m"));
	E(mount("o", "m", "overlay", 0, "lowerdir=l1:l2,upperdir=u,workdir=w"));
	show("m/top"), show("m/low3");
	E(access("m/gone", F_OK));
	E(access("m/d/two", F_OK));
}

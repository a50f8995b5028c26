// What a path may be: its length, its dots, its descriptors.
#include "corpus.h"

CASE(path_lengths)
{
	static char path[8192];
	int lengths[] = {1, 254, 255, 256};
	EACH(i, lengths) {
		memset(path, 'n', sizeof path);
		path[lengths[i]] = 0;
		ROW(mkdir(path, 0755), "mkdir %d", lengths[i]);
		ROW(access(path, F_OK), "access %d", lengths[i]);
		ROW(rename(path, "other"), "rename %d", lengths[i]);
		ROW(symlink(path, path), "symlink %d", lengths[i]);
		ROW(link(path, "hard"), "link %d", lengths[i]);
		ROW(unlink(path), "unlink %d", lengths[i]);
		rmdir("other"), unlink("other"), unlink("hard");
	}
	int totals[] = {4094, 4095, 4096, 5000};
	EACH(i, totals) {
		for (int j = 0; j < totals[i]; j++)
			path[j] = j % 2 ? '/' : '.';
		path[totals[i]] = 0;
		ROW(access(path, F_OK), "dots %d", totals[i]);
		ROW(chdir(path), "chdir %d", totals[i]);
		ROW(stat(path, &(struct stat){0}), "stat %d", totals[i]);
	}
}

CASE(path_deep)
{
	static char name[201], b[8192];
	memset(name, 'd', 200);
	int depth = 0;
	while (depth < 30 && !mkdir(name, 0755) && !chdir(name))
		depth++;
	say("depth %d", depth);
	E(syscall(SYS_getcwd, b, sizeof b) > 4096);
	errno = 0;
	say("%s", getcwd(b, sizeof b) ? "there" : errname(errno));
	E(open("f", O_CREAT | O_RDWR, 0600) >= 0);
	E(access("f", F_OK));
	unlink("f");
	while (depth-- > 0)
		chdir(".."), rmdir(name);
	E(access(name, F_OK));
}

CASE(path_getcwd)
{
	char b[4096];
	mkdir("d", 0755), chdir("d");
	E(syscall(SYS_getcwd, b, 0));
	E(syscall(SYS_getcwd, b, 1));
	E(syscall(SYS_getcwd, b, 20));
	E(syscall(SYS_getcwd, b, 21) > 0);
	E(syscall(SYS_getcwd, (char *)8, 4096));
	E(syscall(SYS_getcwd, b, 4096));
	rmdir("../d");
	E(syscall(SYS_getcwd, b, 4096));
	E(chdir("."));
	E(chdir(".."));
	E(chdir("file"));
	chdir("/");
	E(syscall(SYS_getcwd, b, 2));
	E(chdir(""));
	E(chdir("/proc/self/fd"));
	E(chdir("/proc/self/exe"));
	E(fchdir(0));
	E(fchdir(-1));
}

CASE(path_unlinked_directory)
{
	mkdir("d", 0755);
	int d = open("d", O_RDONLY);
	chdir("d");
	rmdir("../d");
	struct stat s;
	E(fstat(d, &s));
	say("%d links", (int)s.st_nlink);
	E(open("f", O_CREAT | O_RDWR, 0600));
	E(mkdir("e", 0755));
	E(symlink("a", "b"));
	E(mkfifo("p", 0600));
	E(open(".", O_RDONLY) >= 0);
	E(open("..", O_RDONLY) >= 0);
	E(rename("../x", "y"));
	E(link("/proc/self/exe", "y"));
	E(access(".", W_OK));
	E(chmod(".", 0700));
	E(syscall(SYS_getdents64, d, (char[512]){0}, 512));
	E(openat(d, "f", O_CREAT | O_RDWR, 0600));
	E(fchdir(d));
	E(utimensat(d, ".", NULL, 0));
}

CASE(path_at_descriptors)
{
	put("f", "x");
	mkdir("d", 0755);
	int f = open("f", O_RDONLY), d = open("d", O_RDONLY), p[2];
	pipe(p);
	int at[] = {AT_FDCWD, f, d, p[0], -1, 999, -101};
	struct stat s;
	char b[8];
	EACH(i, at) {
		say("at %d", i);
		E(fstatat(at[i], "f", &s, 0));
		E(fstatat(at[i], "", &s, 0));
		E(fstatat(at[i], "", &s, AT_EMPTY_PATH));
		E(fstatat(at[i], "/", &s, 0));
		E(mkdirat(at[i], "new", 0755));
		E(readlinkat(at[i], "", b, 8));
		E(faccessat(at[i], "..", F_OK, 0));
		E(unlinkat(at[i], "new", AT_REMOVEDIR));
		E(utimensat(at[i], "f", NULL, 0));
		E(fchmodat(at[i], "f", 0600, 0));
		E(fchownat(at[i], "", 0, 0, AT_EMPTY_PATH));
		E(renameat(at[i], "none", at[i], "x"));
		E(symlinkat("t", at[i], "s"));
		E(syscall(SYS_execveat, at[i], "none", NULL, NULL, 0));
		unlinkat(at[i], "s", 0);
	}
}

CASE(path_at_flags)
{
	put("f", "x");
	struct stat s;
	struct statx x;
	for (int bit = 0; bit < 16; bit++) {
		int flag = 1 << bit;
		ROW(fstatat(AT_FDCWD, "f", &s, flag), "fstatat %x", flag);
		ROW(syscall(SYS_statx, AT_FDCWD, "f", flag, STATX_SIZE, &x), "statx %x", flag);
		ROW(syscall(SYS_faccessat2, AT_FDCWD, "f", R_OK, flag), "faccessat2 %x", flag);
		ROW(fchownat(AT_FDCWD, "f", 0, 0, flag), "fchownat %x", flag);
		ROW(utimensat(AT_FDCWD, "f", NULL, flag), "utimensat %x", flag);
		ROW(syscall(452, AT_FDCWD, "f", 0600, flag), "fchmodat2 %x", flag);
		ROW(syscall(SYS_execveat, AT_FDCWD, "none", NULL, NULL, flag), "execveat %x", flag);
		ROW(syscall(SYS_name_to_handle_at, AT_FDCWD, "none", NULL, NULL, flag), "name_to_handle_at %x", flag);
		ROW(syscall(SYS_open_tree, AT_FDCWD, "none", flag), "open_tree %x", flag);
	}
	for (int mode = -1; mode < 10; mode++)
		ROW(access("f", mode), "access %d", mode);
}

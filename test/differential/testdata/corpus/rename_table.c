// Renames, links and removals: each kind of file onto each other, and the paths that end oddly.
#include "corpus.h"
#include <linux/fs.h>

static const char *kinds[] = {"file", "empty", "full", "link", "dirlink", "fifo", "none"};

static void fresh(void)
{
	clear(open(".", O_RDONLY | O_DIRECTORY));
	put("file", "content");
	mkdir("empty", 0755), mkdir("full", 0755), mkdir("full/sub", 0755);
	symlink("file", "link"), symlink("full", "dirlink");
	mkfifo("fifo", 0644);
}

static void every_pair(unsigned flags)
{
	EACH(a, kinds)
		EACH(b, kinds) {
			fresh();
			char to[32];
			snprintf(to, sizeof to, "%s%s", kinds[b], a == b ? "" : "");
			errno = 0;
			int r = syscall(SYS_renameat2, AT_FDCWD, kinds[a], AT_FDCWD, to, flags);
			say("%s -> %s: %s %d%d", kinds[a], to, r ? errname(errno) : "ok", faccessat(AT_FDCWD, kinds[a], F_OK, AT_SYMLINK_NOFOLLOW) == 0, faccessat(AT_FDCWD, to, F_OK, AT_SYMLINK_NOFOLLOW) == 0);
		}
}

static void few_pairs(unsigned flags)
{
	// Only what flags change.
	static const char *pairs[][2] = {{"file", "none"}, {"file", "link"}, {"file", "empty"}, {"empty", "file"}, {"full", "file"}, {"full", "fifo"}, {"link", "dirlink"}, {"none", "file"}, {"file", "file"}, {"none", "none2"}};
	EACH(i, pairs) {
		fresh();
		ROW(syscall(SYS_renameat2, AT_FDCWD, pairs[i][0], AT_FDCWD, pairs[i][1], flags), "%s -> %s", pairs[i][0], pairs[i][1]);
		EACH(k, kinds) {
			struct stat s = {0};
			lstat(kinds[k], &s);
			say(" %s %o", kinds[k], s.st_mode & S_IFMT);
		}
	}
}

CASE(rename_pairs) { every_pair(0); }
CASE(rename_noreplace) { few_pairs(RENAME_NOREPLACE); }
CASE(rename_exchange) { few_pairs(RENAME_EXCHANGE); }

CASE(rename_flags)
{
	fresh();
	static struct named flags[] = {N(RENAME_NOREPLACE | RENAME_EXCHANGE), N(RENAME_EXCHANGE | RENAME_WHITEOUT), N(8), N(0x80000000), N(RENAME_NOREPLACE | RENAME_WHITEOUT)};
	EACH(f, flags)
		if (f != 4)
			ROW(syscall(SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "link", flags[f].value), "%s", flags[f].name);
}

CASE(rename_odd_paths)
{
	static const char *pairs[][2] = {
		{"file", "file/"}, {"file/", "new"}, {"file", "new/"}, {"empty/", "new/"}, {"empty", "new"}, {".", "new"}, {"..", "new"}, {"empty", "."}, {"empty", ".."}, {"empty", "full/sub/."},
		{"full", "full/sub/in"}, {"full", "full/sub"}, {"full/sub", "full"}, {"full/sub", "."}, {"link/", "new"}, {"dirlink/", "new"}, {"link", "new/"}, {"file", "link/"}, {"empty", "dirlink"}, {"empty", "dirlink/"},
		{"", "new"}, {"file", ""}, {"/", "new"}, {"file", "/"}, {"file", "none/new"}, {"file", "file/new"}, {"none/x", "new"}, {"file/x", "new"}, {"link/x", "new"}, {"empty/.", "new"}, {"empty/..", "new"}};
	EACH(i, pairs) {
		fresh();
		ROW(rename(pairs[i][0], pairs[i][1]), "%s -> %s", pairs[i][0], pairs[i][1]);
	}
}

CASE(link_table)
{
	fresh();
	static const char *pairs[][2] = {{"file", "a"}, {"file", "file"}, {"file", "link"}, {"link", "b"}, {"empty", "c"}, {"fifo", "d"}, {"none", "e"}, {"file", "new/"}, {"file/", "f"}, {"file", "none/f"}, {"file", "file/f"}, {"", "g"}, {"file", ""}, {".", "h"}, {"file", "."}, {"file", "/"}, {"dirlink", "i"}, {"dirlink/", "j"}, {"link/", "k"}};
	static struct named flags[] = {N(0), N(AT_SYMLINK_FOLLOW), N(AT_EMPTY_PATH), N(AT_SYMLINK_NOFOLLOW), N(AT_REMOVEDIR)};
	EACH(f, flags)
		EACH(i, pairs) {
			fresh();
			ROW(linkat(AT_FDCWD, pairs[i][0], AT_FDCWD, pairs[i][1], flags[f].value), "%s %s -> %s", flags[f].name, pairs[i][0], pairs[i][1]);
			if (i > 4 && f > 1)
				break;
		}
	struct stat s;
	fresh();
	link("file", "two"), link("two", "three");
	stat("file", &s);
	say("%d links", (int)s.st_nlink);
	unlink("two"), rename("three", "file");
	stat("file", &s);
	say("%d links", (int)s.st_nlink);
	E(access("three", F_OK)); // two names of one file: rename does nothing
}

CASE(symlink_table)
{
	char b[8192], big[5000];
	E(symlink("", "a"));
	E(symlink("x", ""));
	E(symlink("x", "a/"));
	E(symlink("x", "a"));
	E(symlink("y", "a"));
	E(symlink("y", "."));
	E(symlink("y", "/"));
	E(symlink("y", "none/b"));
	memset(big, 'x', sizeof big);
	big[4095] = 0;
	ROW(symlink(big, "long"), "4095");
	E(readlink("long", b, sizeof b));
	big[4095] = 'x', big[4096] = 0;
	ROW(symlink(big, "longer"), "4096");
	ROW(symlink("x", big), "long name");
	E(readlink("a", b, 0));
	E(readlink("a", b, -1));
	E(readlink("a", b, 1));
	E(readlink("a", (char *)8, 1));
	E(readlink(".", b, 8));
	E(readlink("a/", b, 8));
	E(readlink("", b, 8));
	E(readlink("none", b, 8));
	E(symlink("a/b/c", "deep"));
	E(readlink("deep", b, 3));
	dump("deep", b, 3);
	struct stat s;
	lstat("deep", &s);
	say("%o %ld", s.st_mode, (long)s.st_size);
	E(open("long", O_RDONLY));
	E(chmod("a", 0600));
	E(fchmodat(AT_FDCWD, "a", 0600, AT_SYMLINK_NOFOLLOW));
	E(lchown("a", 1, 1));
	for (int i = 0; i < 42; i++) {
		char from[8], to[8];
		sprintf(from, "l%d", i), sprintf(to, "l%d", i + 1);
		symlink(to, from);
	}
	put("l42", "");
	E(access("l0", F_OK));
	E(access("l1", F_OK));
	E(access("l2", F_OK));
	E(access("l3", F_OK));
}

CASE(unlink_table)
{
	static const char *paths[] = {"file", "empty", "full", "link", "dirlink", "fifo", "none", "file/", "empty/", "link/", "dirlink/", ".", "..", "/", "", "empty/.", "full/..", "file/x", "none/x", "full/sub", "empty//"};
	static struct named flags[] = {N(0), N(AT_REMOVEDIR), N(AT_EMPTY_PATH)};
	EACH(f, flags)
		EACH(i, paths) {
			if (f < 2 || i == 0)
				fresh();
			ROW(unlinkat(AT_FDCWD, paths[i], flags[f].value), "%s %s", flags[f].name, paths[i]);
		}
}

CASE(make_table)
{
	static const char *paths[] = {"new", "new2/", "file", "file/", "empty/", "link", "dirlink", "dangling", "dangling/", ".", "/", "", "none/x", "file/x", "new//", "empty/.", "full/.."};
	fresh();
	symlink("nowhere", "dangling");
	EACH(i, paths)
		ROW(mkdir(paths[i], 0755), "mkdir %s", paths[i]);
	fresh();
	symlink("nowhere", "dangling");
	EACH(i, paths)
		ROW(mknod(paths[i], S_IFREG | 0644, 0), "mknod %s", paths[i]);
	static int types[] = {0, S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, 0160000};
	EACH(i, types) {
		struct stat s = {0};
		char name[16];
		sprintf(name, "t%d", i);
		ROW(mknod(name, types[i] | 0640, 0x102), "mknod %o", types[i]);
		stat(name, &s);
		say(" %o %lx", s.st_mode, (long)s.st_rdev);
	}
}

// Capabilities of files: what a program has that is executed with them (capabilities(7)).
#include "corpus.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/mount.h>

enum { CHOWN = 1 << CAP_CHOWN, KILL = 1 << CAP_KILL, BIND = 1 << CAP_NET_BIND_SERVICE, RAW_ = 1 << CAP_NET_RAW, SETUID_ = 1 << CAP_SETUID, SETPCAP_ = 1 << CAP_SETPCAP };

// A caller as it stands before the execve.
struct caller {
	const char *name;
	int uid;
	unsigned inheritable, ambient, dropped; // dropped: from the bounding set
	int no_new_privs, securebits;
};

static const struct caller callers[] = {
	{"user", 1000},
	{"root"},
	{"user with inheritable", 1000, BIND | RAW_},
	{"user with ambient", 1000, CHOWN | BIND, CHOWN},
	{"user bounded", 1000, .dropped = RAW_},
	{"root bounded", 0, .dropped = RAW_},
	{"user with nothing new", 1000, .no_new_privs = 1},
	{"user with ambient and nothing new", 1000, CHOWN, CHOWN, .no_new_privs = 1},
	{"root without root", 0, BIND, .securebits = SECBIT_NOROOT},
};

static void become(const struct caller *c)
{
	for (int n = 0; n <= CAP_LAST_CAP; n++)
		if (!((CHOWN | KILL | BIND | RAW_ | SETUID_ | SETPCAP_) & ~c->dropped & 1UL << n) || n > 31)
			prctl(PR_CAPBSET_DROP, n, 0, 0, 0);
	prctl(PR_SET_SECUREBITS, c->securebits | SECBIT_KEEP_CAPS, 0, 0, 0);
	setgroups(0, NULL);
	if (c->uid)
		syscall(SYS_setresgid, c->uid, c->uid, c->uid), syscall(SYS_setresuid, c->uid, c->uid, c->uid);
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {{0, c->uid ? c->inheritable | c->ambient : SETPCAP_ | KILL | CHOWN | BIND, c->inheritable}};
	if (syscall(SYS_capset, &h, d))
		say("capset: %s", errname(errno));
	for (int n = 0; n < 32; n++)
		if (c->ambient & 1U << n)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, n, 0, 0);
	if (c->no_new_privs)
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

// tell executes a cat of its own status, and prints what that says of privilege.
static void tell(const char *path, const struct caller *c)
{
	int p[2];
	pipe(p);
	pid_t pid = fork();
	if (!pid) {
		dup2(p[1], 1), close(p[0]), close(p[1]);
		become(c);
		execl(path, "cat", "/proc/self/status", NULL);
		say("exec: %s", errname(errno));
		_exit(0);
	}
	close(p[1]);
	static char text[8192];
	long size = 0, n;
	while ((n = read(p[0], text + size, sizeof text - 1 - size)) > 0)
		size += n;
	text[size] = 0;
	close(p[0]), waitpid(pid, NULL, 0);
	say("%s", c->name);
	for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
		if (!strncmp(line, "Uid", 3) || !strncmp(line, "Cap", 3) && strncmp(line, "CapBnd", 6) || !strncmp(line, "exec", 4) || !strncmp(line, "capset", 6))
			say(" %s", line);
}

static void copy(const char *from, const char *to)
{
	int in = open(from, O_RDONLY), out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0755);
	while (sendfile(out, in, NULL, 1 << 20) > 0)
		;
	close(in), close(out);
	chmod(to, 0755);
}

static int give(const char *path, unsigned magic, unsigned permitted, unsigned inheritable, unsigned owner)
{
	unsigned v[6] = {magic, permitted, inheritable, 0, 0, owner};
	return setxattr(path, "security.capability", v, (magic & VFS_CAP_REVISION_MASK) == VFS_CAP_REVISION_3 ? 24 : 20, 0);
}

enum { V2 = VFS_CAP_REVISION_2, V3 = VFS_CAP_REVISION_3, ON = VFS_CAP_FLAGS_EFFECTIVE };

static void program(void)
{
	chmod(".", 0755);
	copy("/bin/cat", "prog");
}

#define EVERY(id, ...) CASE(file_caps_##id) { program(); __VA_ARGS__; EACH(c, callers) tell("./prog", &callers[c]); }
EVERY(none, (void)0)
EVERY(permitted, E(give("prog", V2, RAW_ | KILL, 0, 0)))
EVERY(effective, E(give("prog", V2 | ON, RAW_ | KILL, 0, 0)))
EVERY(inheritable, E(give("prog", V2 | ON, 0, BIND | CHOWN, 0)))
EVERY(empty, E(give("prog", V2, 0, 0, 0)))
EVERY(of_root, E(give("prog", V3 | ON, KILL, RAW_, 0)))
EVERY(of_another_root, E(give("prog", V3 | ON, KILL, 0, 1000)))
EVERY(setuid, E(chmod("prog", 04755)); E(give("prog", V2 | ON, KILL, 0, 0)))
EVERY(setuid_alone, E(chmod("prog", 04755)))
EVERY(setgid_of_user, E(chown("prog", 0, 50)); E(chmod("prog", 02755)); E(give("prog", V2, KILL, 0, 0)))

CASE(file_caps_script)
{
	program();
	put("script", "#!./prog\n"), chmod("script", 0755);
	E(give("script", V2 | ON, KILL, 0, 0));
	tell("./script", &callers[0]);
	E(give("prog", V2 | ON, RAW_, 0, 0));
	tell("./script", &callers[0]);
}

CASE(file_caps_mount)
{
	OK(unshare(CLONE_NEWNS));
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	mkdir("m", 0755);
	chmod(".", 0755);
	OK(mount("none", "m", "tmpfs", 0, "mode=755"));
	copy("/bin/cat", "m/prog");
	E(give("m/prog", V2 | ON, KILL, 0, 0));
	tell("m/prog", &callers[0]);
	OK(mount(NULL, "m", NULL, MS_REMOUNT | MS_BIND | MS_NOSUID, NULL));
	tell("m/prog", &callers[0]);
	tell("m/prog", &callers[1]);
}

// What changes a file takes its capabilities away.
CASE(file_caps_lost)
{
	char b[64];
	put("f", "text");
	E(give("f", V2, KILL, 0, 0));
	int fd = open("f", O_WRONLY);
	E(getxattr("f", "security.capability", b, sizeof b));
	E(write(fd, "x", 1));
	E(getxattr("f", "security.capability", b, sizeof b));
	E(give("f", V2, KILL, 0, 0));
	E(truncate("f", 2));
	E(getxattr("f", "security.capability", b, sizeof b));
	E(give("f", V2, KILL, 0, 0));
	E(chmod("f", 0700));
	E(getxattr("f", "security.capability", b, sizeof b));
	E(chown("f", 7, 7));
	E(getxattr("f", "security.capability", b, sizeof b));
	E(give("f", V3, KILL, 0, 0));
	E(getxattr("f", "security.capability", b, sizeof b));
	E(give("f", V3, KILL, 0, 1000));
	E(getxattr("f", "security.capability", b, sizeof b));
	E(removexattr("f", "security.capability"));
	setuid(1000);
	E(give("f", V2, KILL, 0, 0));
}

static void shown(const char *path)
{
	unsigned v[6] = {0};
	long n = getxattr(path, "security.capability", v, sizeof v);
	if (n < 0)
		say("shown: %s", errname(errno));
	else
		say("shown: %ld bytes, %#x %#x %#x, owner %u", n, v[0], v[1], v[2], v[5]);
}

// What root of a user namespace gives a file is its own: another sees whose.
CASE(file_caps_namespace)
{
	static const char map[] = "0 100000 65536\n";
	char c;
	int ready[2], mapped[2];
	put("f", "text"), put("g", "text");
	chown("f", 100000, 100000);
	chmod(".", 0755);
	pipe(ready), pipe(mapped);
	pid_t child = fork();
	if (child == 0) {
		unshare(CLONE_NEWUSER);
		write(ready[1], "", 1);
		read(mapped[0], &c, 1);
		E(setgid(0)), E(setuid(0));
		E(give("f", V2 | ON, KILL, RAW_, 0)), shown("f");
		E(give("f", V3, KILL, 0, 0)), shown("f");
		E(give("f", V3, KILL, 0, 5)), shown("f");
		E(give("f", V3, KILL, 0, 70000)), shown("f");
		E(give("g", V2, KILL, 0, 0)), shown("g");
		E(removexattr("f", "security.capability"));
		E(removexattr("g", "security.capability"));
		E(give("f", V2, KILL, 0, 0)), shown("f");
		_exit(0);
	}
	read(ready[0], &c, 1);
	for (int i = 0; i < 2; i++) {
		char path[64];
		snprintf(path, sizeof path, "/proc/%d/%s", child, i ? "gid_map" : "uid_map");
		int fd = open(path, O_WRONLY);
		E(write(fd, map, sizeof map - 1));
		close(fd);
	}
	write(mapped[1], "", 1);
	waitpid(child, NULL, 0);
	shown("f");
	pid_t other = fork();
	if (other == 0) {
		unshare(CLONE_NEWUSER);
		shown("f");
		_exit(0);
	}
	waitpid(other, NULL, 0);
}

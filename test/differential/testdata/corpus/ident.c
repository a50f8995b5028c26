#include "corpus.h"
#include <linux/capability.h>
#include <linux/securebits.h>

static void who(void)
{
	uid_t r, e, s;
	gid_t g, f, t;
	getresuid(&r, &e, &s), getresgid(&g, &f, &t);
	int fs = syscall(SYS_setfsuid, -1);
	say("uids %d %d %d fs %d gids %d %d %d", r, e, s, fs, g, f, t);
}

static void caps(void)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	E(syscall(SYS_capget, &h, d));
	say("effective %d permitted %d inheritable %d", d[0].effective != 0, d[0].permitted != 0, d[0].inheritable != 0);
}

CASE(user_ids)
{
	CHILD {
		E(setresuid(1, 2, 3));
		who(), caps();
		E(setresuid(-1, 3, -1));
		E(setresuid(4, -1, -1));
		E(setuid(1)), who();
		E(setreuid(3, 1)), who();
	}
	CHILD {
		E(setuid(1000)), who();
		E(setuid(0));
		E(seteuid(0));
		caps();
		E(setgid(5));
	}
	CHILD {
		E(seteuid(1000)), who(), caps();
		E(seteuid(0)), caps();
		E(setreuid(7, 8)), who();
		E(setreuid(8, 7)), who();
	}
	CHILD {
		E(setresgid(1, 2, 3)), who();
		E(setgid(9)), who();
		E(setregid(10, -1)), who();
	}
	CHILD {
		gid_t list[5] = {10, 20, 30}, out[5];
		E(setgroups(3, list));
		E(getgroups(0, NULL));
		E(getgroups(2, out));
		E(getgroups(5, out));
		say("%d %d %d", out[0], out[1], out[2]);
		E(setgroups(70000, list));
		setresuid(1, 1, 1);
		E(setgroups(1, list));
	}
	CHILD {
		E(syscall(SYS_setfsuid, 1000));
		who();
		put("x", "");
		struct stat s;
		if (!stat("x", &s))
			say("%d", s.st_uid);
	}
	CHILD {
		E(setresuid(1000, 1000, 0)), caps();
		E(setuid(0)), who();
		execl("/bin/sh", "sh", "-c", "id -u; id -g", NULL);
	}
	CHILD {
		chmod(".", 0777);
		put("suid", ""), unlink("suid");
		int from = open("/bin/id", O_RDONLY), to = open("suid", O_CREAT | O_WRONLY, 0755);
		while (sendfile(to, from, NULL, 1 << 20) > 0)
			;
		close(to);
		chown("suid", 1234, 4321), chmod("suid", 06755);
		CHILD { execl("./suid", "id", "-u", NULL); }
		CHILD { execl("./suid", "id", "-g", NULL); }
		CHILD { execl("./suid", "id", "-ru", NULL); }
		CHILD {
			prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
			execl("./suid", "id", "-u", NULL);
		}
	}
}

CASE(capability_sets)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0}, old = {1, 0};
	struct __user_cap_data_struct d[2], z[2];
	E(syscall(SYS_capget, &old, NULL));
	say("preferred %x", old.version);
	old.version = 1;
	E(syscall(SYS_capget, &old, d));
	h.pid = 0x7ffffff;
	E(syscall(SYS_capget, &h, d));
	h.pid = 0;
	CHILD {
		syscall(SYS_capget, &h, d);
		d[0].effective = 0, d[1].effective = 0;
		E(syscall(SYS_capset, &h, d));
		put("f", "");
		E(chown("f", 5, 5));
		E(setgroups(0, NULL));
		d[0].effective = 1 << CAP_CHOWN;
		E(syscall(SYS_capset, &h, d));
		E(chown("f", 5, 5));
		d[0].permitted = d[0].effective, d[1].permitted = 0;
		E(syscall(SYS_capset, &h, d));
		d[0].permitted |= 1 << CAP_SETUID;
		E(syscall(SYS_capset, &h, d));
		d[0].permitted = 0;
		E(syscall(SYS_capset, &h, d)); // effective beyond permitted
		E(chmod("f", 0600));           // not the owner, no CAP_FOWNER
	}
	CHILD {
		E(prctl(PR_SET_KEEPCAPS, 1));
		E(prctl(PR_GET_KEEPCAPS));
		setresuid(1000, 1000, 1000);
		caps();
		execl("/bin/sh", "sh", "-c", "grep CapEff /proc/$$/status", NULL);
	}
	CHILD {
		E(prctl(PR_CAPBSET_READ, CAP_CHOWN));
		E(prctl(PR_CAPBSET_DROP, CAP_CHOWN));
		E(prctl(PR_CAPBSET_READ, CAP_CHOWN));
		E(prctl(PR_CAPBSET_READ, 200));
		put("g", "");
		E(chown("g", 5, 5)); // effective still has it
		execl("/bin/sh", "sh", "-c", "chown 6 g 2>/dev/null || echo refused", NULL);
	}
	CHILD {
		syscall(SYS_capget, &h, d);
		d[0].inheritable = 1 << CAP_CHOWN;
		E(syscall(SYS_capset, &h, d));
		E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
		E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
		E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
		prctl(PR_SET_KEEPCAPS, 1);
		setresuid(1000, 1000, 1000);
		E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0));
		E(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
		execl("/bin/sh", "sh", "-c", "grep -E 'Cap(Eff|Amb|Inh)' /proc/$$/status", NULL);
	}
	E(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	E(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	E(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	E(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
	E(prctl(PR_GET_DUMPABLE));
	E(prctl(PR_SET_DUMPABLE, 7));
	E(prctl(12345));
	char name[17] = "";
	E(prctl(PR_SET_NAME, "a name that is too long"));
	E(prctl(PR_GET_NAME, name));
	say("%s", name);
	show("/proc/self/comm");
	E(prctl(PR_GET_SECUREBITS));
	E(prctl(PR_GET_TIMERSLACK));
}

// pam_loginuid(8), as cron's jobs and sshd's sessions need it.
static long login_write(const char *path, const char *text)
{
	int fd = open(path, O_RDWR);
	if (fd < 0)
		return -1;
	long n = write(fd, text, strlen(text));
	int e = errno;
	close(fd);
	errno = e;
	return n;
}

static void login_show(void)
{
	char b[2][20] = {{0}};
	int fd = open("/proc/self/loginuid", O_RDONLY);
	read(fd, b[0], 19);
	close(fd);
	fd = open("/proc/self/sessionid", O_RDONLY);
	read(fd, b[1], 19);
	close(fd);
	say("loginuid %s, %s", b[0], strcmp(b[1], "4294967295") ? "a session" : "no session");
}

static void *login_thread(void *path)
{
	E(login_write(path, "7"));
	return NULL;
}

CASE(login)
{
	CHILD {
		static const char *wrong[] = {"", "x", "-5", "0x10", "7 ", "4294967296", "99999999999999999999", "7\n\n"};
		EACH(i, wrong)
			ROW(login_write("/proc/self/loginuid", wrong[i]), "%s", wrong[i]);
		login_write("/proc/self/loginuid", "4294967295");
		login_show();
		E(login_write("/proc/self/loginuid", "1000\n"));
		login_show();
		char path[64];
		sprintf(path, "/proc/%d/loginuid", getppid());
		E(login_write(path, "1000"));
		CHILD
			login_show();
		pthread_t th;
		sprintf(path, "/proc/%d/loginuid", getpid());
		pthread_create(&th, NULL, login_thread, path);
		pthread_join(th, NULL);
		int fd = open("/proc/self/loginuid", O_RDWR);
		E(write(fd, "1001", 4));
		E(write(fd, "1002", 4));
		E(pwrite(fd, "1003", 4, 0));
		E(ftruncate(fd, 0));
		setuid(1000);
		E(pwrite(fd, "1004", 4, 0));
		E(pwrite(fd, "4294967295", 10, 0));
		login_show();
	}
}

// Keys: in keyrings of the case's own processes, which go with them.
#include "corpus.h"
#include <linux/keyctl.h>

static long add(const char *type, const char *desc, const void *data, unsigned long n, int ring) { return syscall(SYS_add_key, type, desc, data, n, ring); }
static long request(const char *type, const char *desc, const char *callout, int ring) { return syscall(SYS_request_key, type, desc, callout, ring); }
static long ctl(int op, unsigned long a, unsigned long b, unsigned long c, unsigned long d) { return syscall(SYS_keyctl, op, a, b, c, d); }

static void show_key(long id, const char *what)
{
	char b[200] = "";
	long n = ctl(KEYCTL_READ, id, (long)b, sizeof b, 0);
	if (n < 0)
		say("%s: %s", what, errname(errno));
	else
		say("%s: %ld \"%s\"", what, n, b);
}

static void describe(long id)
{
	char b[200] = "";
	long n = ctl(KEYCTL_DESCRIBE, id, (long)b, sizeof b, 0);
	say("%ld %s", n, b);
}

CASE(keys)
{
	say("session %d", ctl(KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) > 0);
	long id = add("user", "corpus:one", "secret", 6, KEY_SPEC_SESSION_KEYRING);
	say("added %d", id > 0);
	show_key(id, "read");
	describe(id);
	say("the same %d", add("user", "corpus:one", "other", 5, KEY_SPEC_SESSION_KEYRING) == id);
	show_key(id, "updated");
	E(ctl(KEYCTL_UPDATE, id, (long)"third", 5, 0));
	show_key(id, "updated again");
	E(ctl(KEYCTL_READ, id, 0, 0, 0));
	say("found %d", request("user", "corpus:one", NULL, 0) == id);
	E(request("user", "corpus:none", NULL, 0));
	E(request("nonsense", "x", NULL, 0));
	say("searched %d", ctl(KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, (long)"user", (long)"corpus:one", 0) == id);
	E(ctl(KEYCTL_SEARCH, KEY_SPEC_SESSION_KEYRING, (long)"user", (long)"none", 0));
	E(add("user", "", "x", 1, KEY_SPEC_SESSION_KEYRING));
	E(add("user", "x", "", 0, KEY_SPEC_SESSION_KEYRING));
	E(add("user", "x", "y", 40000, KEY_SPEC_SESSION_KEYRING));
	E(add("nonsense", "x", "y", 1, KEY_SPEC_SESSION_KEYRING));
	E(add(".hidden", "x", "y", 1, KEY_SPEC_SESSION_KEYRING));
	E(add("user", "x", "y", 1, 0));
	E(add("user", "x", "y", 1, -77));
	E(add("user", "x", (void *)8, 1, KEY_SPEC_SESSION_KEYRING));
	E(add("user", "x", "y", 1, id));
	E(add("keyring", "ring", "y", 1, KEY_SPEC_SESSION_KEYRING));
	long ring = add("keyring", "ring", NULL, 0, KEY_SPEC_SESSION_KEYRING);
	describe(ring);
	E(ctl(KEYCTL_LINK, id, ring, 0, 0));
	E(ctl(KEYCTL_LINK, KEY_SPEC_SESSION_KEYRING, ring, 0, 0));
	int ids[4] = {0};
	E(ctl(KEYCTL_READ, ring, (long)ids, sizeof ids, 0));
	say("holds it %d", ids[0] == id);
	E(ctl(KEYCTL_UNLINK, id, ring, 0, 0));
	E(ctl(KEYCTL_UNLINK, id, ring, 0, 0));
	E(ctl(KEYCTL_CLEAR, ring, 0, 0, 0));
	E(ctl(KEYCTL_CLEAR, id, 0, 0, 0));
	long logon = add("logon", "corpus:logon", "pw", 2, KEY_SPEC_SESSION_KEYRING);
	show_key(logon, "logon");
	E(add("logon", "nocolon", "pw", 2, KEY_SPEC_SESSION_KEYRING));
	E(ctl(KEYCTL_SETPERM, id, 0x3f000000, 0, 0));
	describe(id);
	E(ctl(KEYCTL_SETPERM, id, 0xffffffff, 0, 0));
	E(ctl(KEYCTL_SET_TIMEOUT, id, 1000, 0, 0));
	E(ctl(KEYCTL_REVOKE, id, 0, 0, 0));
	show_key(id, "revoked");
	E(ctl(KEYCTL_REVOKE, 99999999, 0, 0, 0));
	E(ctl(999, 0, 0, 0, 0));
	long temporary = add("user", "temporary", "t", 1, KEY_SPEC_PROCESS_KEYRING);
	say("process ring %d", temporary > 0);
	CHILD {
		say("inherits the session %d, not the process's %d", request("logon", "corpus:logon", NULL, 0) == logon,
		    request("user", "temporary", NULL, 0) == temporary);
		E(ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 0, 0, 0));
		say("%d", ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1, 0, 0) > 0);
		say("%d", ctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 1, 0, 0) > 0);
		describe(KEY_SPEC_PROCESS_KEYRING);
		describe(KEY_SPEC_SESSION_KEYRING);
	}
	CHILD {
		say("%d", ctl(KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0) > 0);
		E(request("logon", "corpus:logon", NULL, 0));
	}
	E(ctl(KEYCTL_INVALIDATE, temporary, 0, 0, 0));
	E(ctl(KEYCTL_INVALIDATE, temporary, 0, 0, 0));
}

// A case prints what calls answer: values, errnos, bytes; nothing that differs
// between two runs on Linux (pids, inode numbers, addresses, times).
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

// musl 1.2.3 has neither of these, glibc has no public name for the second.
#ifndef STATX_BASIC_STATS
#include <linux/stat.h>
#endif
#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

struct test_case {
	const char *name;
	void (*run)(void);
} __attribute__((aligned(16)));

// CASE(name) { … } is one program of the corpus: it starts in a process and an
// empty directory of its own.
#define CASE(id)                                                                  \
	static void case_##id(void);                                                  \
	static const struct test_case entry_##id __attribute__((section("cases"), used)) = {#id, case_##id}; \
	static void case_##id(void)

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *errname(int error);
void answer(const char *call, long value);  // prints the value, or -1 and errno
void succeeds(const char *call, long value); // prints ok, or errno
void status(const char *what, int wait_status);

#define E(call) (errno = 0, answer(#call, (long)(call)))
#define OK(call) (errno = 0, succeeds(#call, (long)(call)))

// CHILD { … } runs the block in a child, which then exits 0, and says how it ended.
#define CHILD                                                                     \
	for (int child_once = 1, child_status; child_once; child_once = 0,            \
	     waitpid(child_pid, &child_status, 0), status("child", child_status))     \
		for (pid_t child_pid_ = (child_pid = fork()); child_pid_ == 0; _exit(0))
extern pid_t child_pid;

// A row of a table of constants: struct named flags[] = {N(O_RDONLY), N(O_RDWR)}.
struct named {
	const char *name;
	long value;
};
#define N(constant) {#constant, constant}
#define EACH(row, table) for (int row = 0; row < (int)(sizeof table / sizeof *table); row++)

// ROW(call, format, …) prints what a call answered under a name of its own.
#define ROW(call, ...)                                                            \
	do {                                                                      \
		char row_name[256];                                               \
		snprintf(row_name, sizeof row_name, __VA_ARGS__);                 \
		errno = 0;                                                        \
		answer(row_name, (long)(call));                                   \
	} while (0)

void put(const char *path, const char *text);  // makes a file of text
int clear(int dirfd);                          // removes all in a directory, and closes it
void show(const char *path);                   // prints a file
void dump(const char *name, const void *bytes, long size);
void nap(int milliseconds);
const char *state_of(pid_t pid);               // the letter in /proc/pid/stat
void until_state(pid_t pid, char wanted);

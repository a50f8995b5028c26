#include "corpus.h"

static void other(const char *what, int fd, int type, long from, long size, int command)
{
	pid_t pid = fork();
	if (!pid) {
		struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = size};
		int r = fcntl(fd, command, &l);
		if (command == F_GETLK || command == F_OFD_GETLK)
			say("%s: %s type %d from %ld size %ld owner %d", what, r < 0 ? errname(errno) : "ok", l.l_type, (long)l.l_start, (long)l.l_len, l.l_pid == getppid() ? 1 : l.l_pid);
		else
			say("%s: %s", what, r < 0 ? errname(errno) : "ok");
		_exit(0);
	}
	waitpid(pid, NULL, 0);
}

static int lock(int fd, int type, long from, long size, int command)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = from, .l_len = size};
	return fcntl(fd, command, &l);
}

CASE(record_locks)
{
	put("f", "0123456789");
	int fd = open("f", O_RDWR), ro = open("f", O_RDONLY), wo = open("f", O_WRONLY);
	E(lock(fd, F_WRLCK, 0, 10, F_SETLK));
	other("read inside", fd, F_RDLCK, 5, 1, F_SETLK);
	other("ask", fd, F_RDLCK, 5, 1, F_GETLK);
	other("beyond", fd, F_WRLCK, 10, 0, F_SETLK);
	E(lock(fd, F_UNLCK, 4, 2, F_SETLK)); // splits
	other("hole", fd, F_WRLCK, 4, 2, F_SETLK);
	other("first half", fd, F_WRLCK, 0, 0, F_GETLK);
	other("second half", fd, F_WRLCK, 4, 0, F_GETLK);
	E(lock(fd, F_RDLCK, 2, 6, F_SETLK)); // downgrades the middle
	other("read middle", fd, F_RDLCK, 2, 6, F_SETLK);
	other("write middle", fd, F_WRLCK, 2, 6, F_GETLK);
	E(lock(ro, F_WRLCK, 20, 1, F_SETLK));
	E(lock(wo, F_RDLCK, 20, 1, F_SETLK));
	E(lock(fd, F_WRLCK, -1, 1, F_SETLK));
	E(lock(fd, 7, 0, 1, F_SETLK));
	E(lock(99, F_RDLCK, 0, 1, F_SETLK));
	E(lock(fd, F_WRLCK, 30, -5, F_SETLK));
	other("before", fd, F_WRLCK, 20, 0, F_GETLK);
	E(close(ro)); // any close of the file drops them all
	other("all gone", fd, F_WRLCK, 0, 0, F_SETLK);
	struct flock end = {.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = -2, .l_len = 1};
	E(fcntl(fd, F_SETLK, &end));
	other("from the end", fd, F_WRLCK, 0, 0, F_GETLK);
	end.l_whence = 9;
	E(fcntl(fd, F_SETLK, &end));
}

static void nothing(int n) {}

CASE(waiting_for_locks)
{
	put("f", "");
	int fd = open("f", O_RDWR), p[2], s;
	pipe(p);
	lock(fd, F_WRLCK, 0, 0, F_SETLK);
	if (!(child_pid = fork())) {
		E(lock(fd, F_WRLCK, 0, 0, F_SETLKW));
		_exit(1);
	}
	until_state(child_pid, 'S');
	say("releases");
	lock(fd, F_UNLCK, 0, 0, F_SETLK); // says nothing: the child speaks at once
	wait(&s);
	status("child", s);
	lock(fd, F_WRLCK, 0, 0, F_SETLK);
	if (!(child_pid = fork())) {
		struct sigaction a = {.sa_handler = nothing};
		sigaction(SIGUSR1, &a, NULL);
		write(p[1], "x", 1);
		E(lock(fd, F_RDLCK, 0, 0, F_SETLKW));
		_exit(2);
	}
	char c;
	read(p[0], &c, 1);
	until_state(child_pid, 'S');
	kill(child_pid, SIGUSR1);
	wait(&s);
	status("child", s);
	// Two wait for each other.
	lock(fd, F_UNLCK, 0, 0, F_SETLK);
	lock(fd, F_WRLCK, 0, 1, F_SETLK);
	if (!(child_pid = fork())) {
		lock(fd, F_WRLCK, 1, 1, F_SETLK);
		write(p[1], "x", 1);
		E(lock(fd, F_WRLCK, 0, 1, F_SETLKW));
		_exit(3);
	}
	read(p[0], &c, 1);
	until_state(child_pid, 'S');
	E(lock(fd, F_WRLCK, 1, 1, F_SETLKW));
	lock(fd, F_UNLCK, 0, 0, F_SETLK);
	wait(&s);
	status("child", s);
	lock(fd, F_WRLCK, 0, 0, F_SETLK); // a death releases too
	if (!(child_pid = fork())) {
		lock(fd, F_WRLCK, 0, 0, F_SETLKW);
		_exit(4);
	}
	pid_t holder = getpid();
	E(execl("/bin/sh", "sh", "-c", "exit 0", NULL)); // exec keeps the lock, exit releases it
}

CASE(open_file_locks)
{
	put("f", "");
	int a = open("f", O_RDWR), b = open("f", O_RDWR), d = dup(a);
	E(lock(a, F_WRLCK, 0, 10, F_OFD_SETLK));
	E(lock(b, F_RDLCK, 5, 1, F_OFD_SETLK));
	E(lock(d, F_RDLCK, 5, 1, F_OFD_SETLK));
	E(lock(b, F_RDLCK, 5, 1, F_OFD_SETLK));
	E(lock(b, F_WRLCK, 5, 1, F_SETLK));
	struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	E(fcntl(b, F_OFD_GETLK, &l));
	say("type %d owner %d", l.l_type, l.l_pid);
	close(a);
	E(lock(b, F_WRLCK, 0, 2, F_OFD_SETLK));
	close(d);
	E(lock(b, F_WRLCK, 0, 2, F_OFD_SETLK));
	l.l_pid = 5;
	E(fcntl(b, F_OFD_SETLK, &l));
}

CASE(whole_file_locks)
{
	put("f", "");
	int a = open("f", O_RDONLY), b = open("f", O_RDONLY), d = dup(a);
	E(flock(a, LOCK_SH));
	E(flock(b, LOCK_SH));
	E(flock(b, LOCK_EX | LOCK_NB));
	E(flock(a, LOCK_UN));
	E(flock(b, LOCK_EX | LOCK_NB));
	E(flock(d, LOCK_SH | LOCK_NB));
	E(flock(b, LOCK_UN));
	E(flock(a, LOCK_EX));
	E(flock(d, LOCK_EX)); // the same description
	CHILD { E(flock(a, LOCK_EX | LOCK_NB)); }
	CHILD { E(flock(b, LOCK_EX | LOCK_NB)); }
	if (!(child_pid = fork())) {
		close(a), close(d);
		E(flock(b, LOCK_EX));
		_exit(0);
	}
	until_state(child_pid, 'S');
	close(a);
	say("one descriptor remains");
	close(d);
	wait(NULL);
	E(flock(b, 0));
	E(flock(b, LOCK_SH | LOCK_EX));
	E(flock(99, LOCK_SH));
	int p[2];
	pipe(p);
	E(flock(p[0], LOCK_EX | LOCK_NB));
}

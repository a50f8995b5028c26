// POSIX message queues. Names are the whole host's in the native column: each has
// the case's process id in it.
#include "corpus.h"
#include <mqueue.h>

static char name[40];
static const char *own(void) { sprintf(name, "/corpus-%d", getpid()); return name; }

static long raw_open(const char *n, int flags, int mode, struct mq_attr *a) { return syscall(SYS_mq_open, n, flags, mode, a); }

static void state(mqd_t q, const char *what)
{
	struct mq_attr a;
	if (mq_getattr(q, &a))
		say("%s: %s", what, errname(errno));
	else
		say("%s: flags %ld holds %ld of %ld bytes, has %ld", what, a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
}

static void take(mqd_t q)
{
	char b[8192] = "";
	unsigned p = 77;
	long n = mq_receive(q, b, sizeof b, &p);
	if (n < 0)
		say("take: %s", errname(errno));
	else
		say("take: %ld \"%s\" priority %u", n, b, p);
}

CASE(mq_life)
{
	own();
	E(mq_open(name, O_RDWR));
	E(mq_unlink(name));
	struct mq_attr a = {.mq_maxmsg = 3, .mq_msgsize = 16};
	mqd_t q = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &a);
	say("opened %d, closes on exec %d", q >= 0, fcntl(q, F_GETFD));
	E(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &a));
	state(q, "new");
	char b[32];
	unsigned p;
	E(mq_receive(q, b, 15, NULL));
	E(mq_send(q, "low", 4, 1));
	E(mq_send(q, "high", 5, 9));
	E(mq_send(q, "low too", 8, 1));
	state(q, "full");
	E(mq_send(q, b, 17, 1));
	E(mq_send(q, b, 1, 32768));
	struct timespec past = {1, 0}, bad = {0, -1};
	E(mq_timedsend(q, b, 1, 1, &past));
	E(mq_timedsend(q, b, 1, 1, &bad));
	for (int i = 0; i < 3; i++) {
		memset(b, 0, sizeof b);
		long n = mq_receive(q, b, 16, &p);
		say("%ld %s %u", n, b, p);
	}
	E(mq_timedreceive(q, b, 16, NULL, &past));
	struct mq_attr nb = {.mq_flags = O_NONBLOCK}, old;
	E(mq_setattr(q, &nb, &old));
	state(q, "does not wait");
	E(mq_receive(q, b, 16, NULL));
	nb.mq_flags = O_APPEND;
	E(mq_setattr(q, &nb, NULL));
	for (int i = 0; i < 3; i++)
		mq_send(q, "", 0, 0);
	E(mq_send(q, "", 0, 0));
	struct pollfd f = {q, POLLIN | POLLOUT};
	E(poll(&f, 1, 0));
	say("%x", f.revents);
	E(mq_receive(q, b, 16, &p));
	E(poll(&f, 1, 0));
	say("%x", f.revents);
	char text[100] = "";
	say("state: %ld", pread(q, text, 99, 0));
	say("%s", text);
	E(write(q, "x", 1));
	struct stat s;
	fstat(q, &s);
	say("mode %o size %ld links %ld", s.st_mode, (long)s.st_size, (long)s.st_nlink);
	mqd_t ro = mq_open(name, O_RDONLY), wo = mq_open(name, O_WRONLY);
	E(mq_send(ro, "x", 1, 0));
	E(mq_receive(wo, b, 16, NULL));
	E(mq_unlink(name));
	E(mq_unlink(name));
	fstat(q, &s);
	say("links %ld", (long)s.st_nlink);
	E(mq_receive(q, b, 16, &p));
	E(mq_send(1, "x", 1, 0));
	E(mq_send(99, "x", 1, 0));
	E(mq_close(q));
	E(mq_close(q));
}

CASE(mq_names)
{
	struct mq_attr a = {.mq_maxmsg = 1, .mq_msgsize = 1};
	char longest[300];
	memset(longest, 'x', 299), longest[299] = 0;
	E(raw_open("", O_RDONLY, 0, NULL));
	E(raw_open("a/b", O_RDONLY, 0, NULL));
	E(raw_open("..", O_RDONLY, 0, NULL));
	E(raw_open(longest, O_RDONLY, 0, NULL));
	E(raw_open((void *)8, O_RDONLY, 0, NULL));
	own();
	a.mq_maxmsg = 0;
	E(raw_open(name + 1, O_RDWR | O_CREAT, 0600, &a));
	a.mq_maxmsg = 1, a.mq_msgsize = -1;
	E(raw_open(name + 1, O_RDWR | O_CREAT, 0600, &a));
	a.mq_msgsize = 1 << 30;
	E(raw_open(name + 1, O_RDWR | O_CREAT, 0600, &a));
	mqd_t q = raw_open(name + 1, O_RDWR | O_CREAT, 0640, NULL);
	state(q, "by default");
	CHILD {
		setgid(1234), setuid(1234);
		E(raw_open(name + 1, O_RDONLY, 0, NULL));
		E(mq_unlink(name));
	}
	fchmod(q, 0644);
	CHILD {
		setgid(1234), setuid(1234);
		E(raw_open(name + 1, O_RDWR, 0, NULL));
		say("%d", raw_open(name + 1, O_RDONLY, 0, NULL) > 0);
		struct mq_attr big = {.mq_maxmsg = 11, .mq_msgsize = 100};
		E(raw_open("corpus-big", O_RDWR | O_CREAT, 0600, &big));
	}
	mq_unlink(name);
	struct rlimit l = {1000, 1000};
	CHILD {
		setrlimit(RLIMIT_MSGQUEUE, &l);
		E(raw_open(name + 1, O_RDWR | O_CREAT, 0600, NULL));
	}
	show("/proc/sys/fs/mqueue/msg_max");
	show("/proc/sys/fs/mqueue/msgsize_default");
}

CASE(mq_waiting)
{
	own();
	struct mq_attr a = {.mq_maxmsg = 1, .mq_msgsize = 8};
	mqd_t q = mq_open(name, O_RDWR | O_CREAT, 0600, &a);
	mq_unlink(name);
	char b[8] = "";
	pid_t c = fork();
	if (!c) {
		long n = mq_receive(q, b, 8, NULL);
		say("child got %ld %s", n, b);
		_exit(0);
	}
	until_state(c, 'S');
	mq_send(q, "one", 4, 0);
	waitpid(c, NULL, 0);
	mq_send(q, "fill", 5, 0);
	c = fork();
	if (!c) {
		long n = mq_send(q, "more", 5, 0);
		say("child sent %ld", n);
		_exit(0);
	}
	until_state(c, 'S');
	mq_receive(q, b, 8, NULL);
	waitpid(c, NULL, 0);
	mq_receive(q, b, 8, NULL);
	say("%s", b);
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += 3000000;
	if (t.tv_nsec >= 1000000000)
		t.tv_sec++, t.tv_nsec -= 1000000000;
	E(mq_timedreceive(q, b, 8, NULL, &t));
}

static volatile int got, value, code, from;
static void notified(int sig, siginfo_t *i, void *c) { got = sig, value = i->si_value.sival_int, code = i->si_code, from = i->si_pid == getpid(); }

static volatile int thread_ran;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ran = PTHREAD_COND_INITIALIZER;
static void thread(union sigval v)
{
	pthread_mutex_lock(&lock);
	thread_ran = v.sival_int;
	pthread_cond_signal(&ran);
	pthread_mutex_unlock(&lock);
}

CASE(mq_notification)
{
	own();
	struct mq_attr a = {.mq_maxmsg = 4, .mq_msgsize = 8};
	mqd_t q = mq_open(name, O_RDWR | O_CREAT, 0600, &a);
	mq_unlink(name);
	struct sigaction act = {.sa_sigaction = notified, .sa_flags = SA_SIGINFO};
	sigaction(SIGUSR1, &act, NULL);
	struct sigevent e = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value = {.sival_int = 42}};
	E(mq_notify(q, &e));
	E(mq_notify(q, &e));
	char text[100] = "", b[8];
	pread(q, text, 99, 0);
	say("%.30s", text);
	E(mq_send(q, "x", 1, 0));
	say("signal %d value %d code %d from me %d", got, value, code, from);
	got = 0;
	E(mq_send(q, "x", 1, 0));
	say("once %d", got);
	E(mq_notify(q, &e));
	E(mq_send(q, "x", 1, 0));
	say("not empty before %d", got);
	while (mq_receive(q, b, 8, NULL) >= 0) {
		struct mq_attr s;
		mq_getattr(q, &s);
		if (!s.mq_curmsgs)
			break;
	}
	E(mq_notify(q, NULL));
	E(mq_notify(q, NULL));
	E(mq_send(q, "x", 1, 0));
	say("taken back %d", got);
	mq_receive(q, b, 8, NULL);
	e.sigev_signo = 100;
	E(mq_notify(q, &e));
	e.sigev_notify = 55;
	E(mq_notify(q, &e));
	e.sigev_notify = SIGEV_NONE;
	E(mq_notify(q, &e));
	E(mq_send(q, "x", 1, 0));
	mq_receive(q, b, 8, NULL);
	E(mq_notify(99, NULL));
	struct sigevent th = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = thread, .sigev_value = {.sival_int = 7}};
	E(mq_notify(q, &th));
	E(mq_send(q, "x", 1, 0));
	pthread_mutex_lock(&lock);
	while (!thread_ran)
		pthread_cond_wait(&ran, &lock);
	pthread_mutex_unlock(&lock);
	say("thread %d", thread_ran);
}

#include <sys/mount.h>
#include <dirent.h>
CASE(mq_file_system)
{
	own();
	mkdir("m", 0755);
	E(unshare(CLONE_NEWIPC | CLONE_NEWNS));
	mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	E(mount("mqueue", "m", "mqueue", 0, NULL));
	struct stat s;
	stat("m", &s);
	say("%o", s.st_mode);
	mqd_t q = mq_open("/one", O_RDWR | O_CREAT, 0600, NULL);
	mq_send(q, "abc", 3, 0);
	show("m/one");
	int fd = open("m/two", O_RDWR | O_CREAT, 0600);
	say("made %d", fd >= 0);
	state(fd, "with defaults");
	E(mq_send(fd, "x", 1, 0));
	DIR *d = opendir("m");
	int n = 0;
	while (readdir(d))
		n++;
	closedir(d);
	say("%d names", n);
	E(mkdir("m/dir", 0755));
	E(rename("m/one", "m/three"));
	E(link("m/one", "m/three"));
	E(symlink("x", "m/three"));
	E(unlink("m/two"));
	E(mq_open("/two", O_RDWR));
	E(mq_unlink("/one"));
	E(stat("m/one", &s));
	E(umount("m"));
	close(q), close(fd);
	E(umount("m"));
}

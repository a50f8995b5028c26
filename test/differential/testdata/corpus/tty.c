#include "corpus.h"
#include <pty.h>

static int master, slave;

static void open_pty(void)
{
	struct winsize w = {24, 80};
	if (openpty(&master, &slave, NULL, NULL, &w))
		say("openpty: %s", errname(errno));
	fcntl(master, F_SETFL, O_NONBLOCK);
}

// got prints what comes out of fd. A line discipline may work behind the
// writer's back: the first byte has long to come, what belongs to it follows at once.
static void got(const char *name, int fd)
{
	char b[1024];
	long size = 0;
	struct pollfd p = {fd, POLLIN};
	while (size < (long)sizeof b && poll(&p, 1, size ? 30 : 250) > 0 && (p.revents & POLLIN)) {
		long n = read(fd, b + size, sizeof b - size);
		if (n <= 0)
			break;
		size += n;
	}
	dump(name, b, size);
}

static void mode(tcflag_t add, tcflag_t remove)
{
	struct termios t;
	tcgetattr(slave, &t);
	t.c_lflag = (t.c_lflag | add) & ~remove;
	tcsetattr(slave, TCSANOW, &t);
}

CASE(terminal_defaults)
{
	struct termios t;
	struct winsize w;
	struct stat s;
	open_pty();
	E(tcgetattr(slave, &t));
	say("iflag %o oflag %o cflag %o lflag %o", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
	dump("cc", t.c_cc, 19);
	say("speed %o %o", cfgetispeed(&t), cfgetospeed(&t));
	E(isatty(slave));
	E(isatty(master));
	int p[2];
	pipe(p);
	E(isatty(p[0]));
	E(ioctl(slave, TIOCGWINSZ, &w));
	say("%d %d", w.ws_row, w.ws_col);
	w.ws_row = 50, w.ws_col = 132;
	E(ioctl(master, TIOCSWINSZ, &w));
	ioctl(slave, TIOCGWINSZ, &w);
	say("%d %d", w.ws_row, w.ws_col);
	say("name begins %d", !strncmp(ttyname(slave), "/dev/pts/", 9));
	E(fstat(slave, &s));
	say("char %d major %d", S_ISCHR(s.st_mode), (int)(s.st_rdev >> 8 & 0xfff));
	unsigned number;
	E(ioctl(master, TIOCGPTN, &number));
	int lock = 1;
	E(ioctl(master, TIOCSPTLCK, &lock));
	char path[40];
	snprintf(path, sizeof path, "/dev/pts/%u", number);
	E(open(path, O_RDWR | O_NOCTTY));
	lock = 0;
	E(ioctl(master, TIOCSPTLCK, &lock));
	OK(open(path, O_RDWR | O_NOCTTY));
	int again = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	OK(again);
	t.c_lflag = 0, t.c_cc[VMIN] = 3;
	E(tcsetattr(slave, TCSANOW, &t));
	E(tcsetattr(slave, TCSADRAIN, &t));
	E(tcsetattr(slave, TCSAFLUSH, &t));
	tcgetattr(again, &t);
	say("lflag %o vmin %d", t.c_lflag, t.c_cc[VMIN]);
	E(ioctl(slave, 0x5499, 0));
	E(tcsendbreak(slave, 0));
	E(tcdrain(slave));
	E(tcflow(slave, TCOOFF));
	E(tcflow(slave, TCOON));
	int ptmx = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	E(grantpt(ptmx));
	E(unlockpt(ptmx));
	say("%d", strncmp(ptsname(ptmx), "/dev/pts/", 9));
}

CASE(line_editing)
{
	int n;
	open_pty();
	write(master, "hello\n", 6);
	got("echo", master);
	E(ioctl(slave, FIONREAD, &n));
	say("%d", n);
	got("line", slave);
	write(master, "no newline", 10);
	got("echo", master);
	got("nothing", slave);
	write(master, "\x7f\x7f\x7f!\n", 5);
	got("erase echo", master);
	got("line", slave);
	write(master, "one two\x17three\n", 14);
	got("word erase echo", master);
	got("line", slave);
	write(master, "garbage\x15kept\n", 13);
	got("kill echo", master);
	got("line", slave);
	write(master, "a\x16\x03" "b\n", 5);
	got("literal echo", master);
	got("line", slave);
	write(master, "partial\x04", 8);
	got("eof echo", master);
	got("line", slave);
	fcntl(slave, F_SETFL, O_NONBLOCK);
	write(master, "\x04", 1);
	char b[100];
	E(read(slave, b, 100)); // an end of file
	E(read(slave, b, 100)); // and after it nothing
	write(master, "first\nsecond\n", 13);
	E(read(slave, b, 3));
	dump("b", b, 3);
	E(read(slave, b, 100));
	E(read(slave, b, 100));
	got("echo", master);
	write(master, "\t\x01\x1b[A\r", 6);
	got("control echo", master);
	got("line", slave);
	mode(0, ECHO);
	write(master, "silent\n", 7);
	got("no echo", master);
	got("line", slave);
	mode(ECHONL, 0);
	write(master, "x\n", 2);
	got("only newline", master);
	got("line", slave);
	char big[5000];
	memset(big, 'q', sizeof big);
	for (int i = 0; i < 5; i++)
		write(master, big, 1000);
	write(master, "\n", 1);
	say("long line %ld", (long)read(slave, big, sizeof big));
	tcflush(slave, TCIOFLUSH);
	got("flushed", slave);
}

CASE(raw_mode)
{
	struct termios t;
	char b[100];
	open_pty();
	write(master, "typed ahead", 11);
	got("echo", master);
	mode(0, ICANON | ECHO | ISIG);
	got("seen when raw", slave);
	write(slave, "out\n", 4);
	got("newline becomes", master);
	tcgetattr(slave, &t);
	t.c_oflag &= ~OPOST;
	tcsetattr(slave, TCSANOW, &t);
	write(slave, "out\n", 4);
	got("raw out", master);
	write(master, "a\rb\x03\x04", 5);
	got("raw in", slave);
	t.c_iflag &= ~ICRNL;
	tcsetattr(slave, TCSANOW, &t);
	write(master, "\r\n", 2);
	got("cr stays", slave);
	t.c_cc[VMIN] = 0, t.c_cc[VTIME] = 0;
	tcsetattr(slave, TCSANOW, &t);
	E(read(slave, b, 10));
	t.c_cc[VTIME] = 1;
	tcsetattr(slave, TCSANOW, &t);
	E(read(slave, b, 10));
	t.c_cc[VMIN] = 4, t.c_cc[VTIME] = 0;
	tcsetattr(slave, TCSANOW, &t);
	write(master, "abcdef", 6);
	E(read(slave, b, 5));
	E(read(slave, b, 0));
	if (!(child_pid = fork())) {
		until_state(getppid(), 'S');
		write(master, "ghi", 3);
		_exit(0);
	}
	E(read(slave, b, 10));
	wait(NULL);
	t.c_iflag |= ISTRIP | IUCLC | INLCR;
	t.c_lflag |= IEXTEN;
	tcsetattr(slave, TCSANOW, &t);
	write(master, "A\xe1\nZ", 4);
	got("mapped", slave);
	t.c_oflag |= OPOST | OCRNL | OLCUC;
	tcsetattr(slave, TCSANOW, &t);
	write(slave, "q\r\n", 3);
	got("mapped out", master);
	cfmakeraw(&t);
	E(tcsetattr(slave, TCSANOW, &t));
	tcgetattr(slave, &t);
	say("%o %o %o %o", t.c_iflag, t.c_oflag, t.c_cflag, t.c_lflag);
	int on = 1;
	E(ioctl(master, TIOCPKT, &on));
	write(slave, "pkt", 3);
	got("packet", master);
}

CASE(hang_up)
{
	char b[10];
	struct pollfd p;
	open_pty();
	write(slave, "bye", 3);
	close(slave);
	got("last words", master);
	E(read(master, b, 10));
	p.fd = master, p.events = POLLIN | POLLOUT;
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	open_pty();
	close(master);
	E(read(slave, b, 10));
	E(write(slave, "x", 1));
	p.fd = slave;
	E(poll(&p, 1, 0));
	say("%x", p.revents);
	struct termios t;
	E(tcgetattr(slave, &t));
	open_pty();
	if (!(child_pid = fork())) {
		close(master);
		setsid();
		E(ioctl(slave, TIOCSCTTY, 0));
		if (!fork()) {
			signal(SIGHUP, SIG_IGN);
			pause();
		}
		write(slave, "r", 1);
		pause();
	}
	close(slave);
	p.fd = master, p.events = POLLIN;
	poll(&p, 1, -1);
	close(master);
	int s;
	waitpid(child_pid, &s, 0);
	status("leader", s);
	kill(-child_pid, SIGKILL);
}

static void told(int n) { say("signal %d", n); }

CASE(job_control)
{
	char b[64];
	int p[2], s;
	open_pty();
	mode(NOFLSH, 0); // or a signal drops what echo it still finds on its way
	pipe(p);
	pid_t leader = fork();
	if (!leader) {
		E(setsid() == getpid());
		E(open("/dev/tty", O_RDWR));
		E(tcgetpgrp(slave));
		E(ioctl(slave, TIOCSCTTY, 0));
		E(ioctl(slave, TIOCSCTTY, 0));
		OK(open("/dev/tty", O_RDWR));
		say("%d %d", tcgetpgrp(slave) == getpid(), tcgetsid(slave) == getpid());
		signal(SIGTTOU, SIG_IGN);
		pid_t job = fork();
		if (!job) {
			setpgid(0, 0);
			signal(SIGTTOU, SIG_DFL);
			write(slave, "background write is fine\n", 25);
			E(read(slave, b, 10)); // SIGTTIN stops us; then foreground
			struct sigaction a = {.sa_handler = told};
			sigaction(SIGINT, &a, NULL), sigaction(SIGQUIT, &a, NULL), sigaction(SIGTSTP, &a, NULL), sigaction(SIGWINCH, &a, NULL);
			write(p[1], "1", 1), pause();
			write(p[1], "2", 1), pause();
			write(p[1], "3", 1), pause();
			write(p[1], "4", 1), pause();
			_exit(6);
		}
		setpgid(job, job);
		E(waitpid(job, &s, WUNTRACED) == job);
		status("job", s);
		E(tcsetpgrp(slave, job));
		E(tcsetpgrp(slave, 0x7ffffff));
		E(tcsetpgrp(slave, -1));
		write(master, "line\n", 5);
		kill(-job, SIGCONT);
		const char *keys[] = {"\x03", "\x1c", "\x1a", NULL};
		struct winsize w = {1, 2};
		for (int i = 0; i < 4; i++) {
			read(p[0], b, 1);
			until_state(job, 'S');
			if (keys[i])
				write(master, keys[i], 1);
			else
				ioctl(master, TIOCSWINSZ, &w);
		}
		E(waitpid(job, &s, 0) == job);
		status("job", s);
		E(tcsetpgrp(slave, getpgrp()));
		job = fork();
		if (!job) {
			setpgid(0, 0);
			signal(SIGTTOU, SIG_DFL);
			struct termios t;
			tcgetattr(slave, &t);
			E(tcsetattr(slave, TCSANOW, &t)); // from the background: SIGTTOU
			_exit(0);
		}
		E(waitpid(job, &s, WUNTRACED) == job);
		status("job", s);
		kill(job, SIGKILL);
		waitpid(job, &s, 0);
		job = fork();
		if (!job) {
			setpgid(0, 0);
			mode(TOSTOP, 0);
			E(write(slave, "x", 1));
			_exit(0);
		}
		waitpid(job, &s, WUNTRACED);
		status("job", s);
		kill(job, SIGKILL);
		waitpid(job, &s, 0);
		job = fork();
		if (!job) {
			setpgid(0, 0);
			signal(SIGTTIN, SIG_IGN);
			E(read(slave, b, 1));
			_exit(0);
		}
		waitpid(job, &s, 0);
		E(ioctl(slave, TIOCNOTTY));
		E(open("/dev/tty", O_RDWR));
		_exit(0);
	}
	E(waitpid(leader, &s, 0) == leader);
	status("leader", s);
	got("screen", master);
}

static volatile int stopped_by;
static void note_stop(int sig) { stopped_by = sig; }

// A foreground job that has died leaves all others in the background.
CASE(background_behind_the_dead)
{
	int master;
	pid_t leader = forkpty(&master, NULL, NULL, NULL);
	if (!leader) {
		pid_t job = fork();
		if (!job)
			setpgid(0, 0), pause(), _exit(0);
		setpgid(job, job);
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(0, job);
		kill(job, SIGKILL);
		waitpid(job, NULL, 0);
		printf("the dead one stays %d\n", tcgetpgrp(0) == job);
		struct sigaction a = {.sa_handler = note_stop};
		sigaction(SIGTTOU, &a, NULL);
		fflush(stdout);
		pid_t other = fork();
		if (!other) {
			struct termios t;
			setpgid(0, 0);
			tcgetattr(0, &t);
			int r = tcsetattr(0, TCSANOW, &t);
			printf("tcsetattr %d, EINTR %d, SIGTTOU %d\n", r, errno == EINTR, stopped_by == SIGTTOU);
			fflush(stdout);
			_exit(0);
		}
		waitpid(other, NULL, 0);
		_exit(0);
	}
	char b[4096];
	for (int n; (n = read(master, b, sizeof b)) > 0;)
		write(1, b, n);
	waitpid(leader, NULL, 0);
}

// corpus NAME... runs these cases, each in a child; corpus -a runs all; corpus -l lists them.
#include "corpus.h"

extern const struct test_case __start_cases[], __stop_cases[];
pid_t child_pid;

void say(const char *format, ...)
{
	char line[4096];
	va_list arguments;
	va_start(arguments, format);
	int size = vsnprintf(line, sizeof line - 1, format, arguments);
	va_end(arguments);
	if (size > (int)sizeof line - 2)
		size = sizeof line - 2;
	line[size++] = '\n';
	if (write(1, line, size) != size)
		_exit(99);
}

const char *errname(int error)
{
#ifdef __GLIBC__
	const char *name = strerrorname_np(error);
	return name ? name : "?";
#else
	return strerror(error);
#endif
}

void answer(const char *call, long value)
{
	if (value == -1 && errno)
		say("%s = -1 %s", call, errname(errno));
	else
		say("%s = %ld", call, value);
}

void succeeds(const char *call, long value)
{
	if (value == -1)
		say("%s: %s", call, errname(errno));
	else
		say("%s: ok", call);
}

void status(const char *what, int s)
{
	if (WIFEXITED(s))
		say("%s exited %d", what, WEXITSTATUS(s));
	else if (WIFSIGNALED(s))
		say("%s died by signal %d", what, WTERMSIG(s));
	else if (WIFSTOPPED(s))
		say("%s stopped by %d", what, WSTOPSIG(s));
	else if (WIFCONTINUED(s))
		say("%s continued", what);
}

void put(const char *path, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) != (long)strlen(text))
		say("put %s: %s", path, errname(errno));
	close(fd);
}

void show(const char *path)
{
	char text[2048];
	int fd = open(path, O_RDONLY);
	if (fd < 0) {
		say("show %s: %s", path, errname(errno));
		return;
	}
	long size = read(fd, text, sizeof text);
	close(fd);
	dump(path, text, size);
}

void dump(const char *name, const void *bytes, long size)
{
	char line[4000];
	int at = 0;
	const unsigned char *from = bytes;
	for (long i = 0; i < size && at < (int)sizeof line - 8; i++)
		if (from[i] >= ' ' && from[i] < 127 && from[i] != '\\')
			line[at++] = from[i];
		else
			at += sprintf(line + at, "\\%02x", from[i]);
	line[at] = 0;
	say("%s: %ld \"%s\"", name, size, line);
}

void nap(int milliseconds)
{
	struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

const char *state_of(pid_t pid)
{
	static char letter[2];
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	int fd = open(path, O_RDONLY);
	if (fd < 0)
		return "";
	long size = read(fd, text, sizeof text - 1);
	close(fd);
	if (size <= 0)
		return "";
	letter[0] = strrchr(text, ')')[2];
	return letter;
}

void until_state(pid_t pid, char wanted)
{
	while (state_of(pid)[0] != wanted)
		nap(1);
}

int clear(int dirfd)
{
	DIR *dir = fdopendir(dirfd);
	if (!dir)
		return -1;
	int left = 0;
	for (struct dirent *e; (e = readdir(dir));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dirfd, e->d_name, 0) == 0)
			continue;
		int in = openat(dirfd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
		left |= in < 0 || clear(in) || unlinkat(dirfd, e->d_name, AT_REMOVEDIR);
	}
	closedir(dir);
	return left;
}

static int run(const struct test_case *c)
{
	char dir[] = "/tmp/corpus.XXXXXX", remove[64];
	if (!mkdtemp(dir))
		return 1;
	pid_t pid = fork();
	if (pid == 0) {
		if (chdir(dir))
			_exit(98);
		umask(022);
		c->run();
		_exit(0);
	}
	int s = 0;
	waitpid(pid, &s, 0);
	if (s)
		status(c->name, s);
	if (clear(open(dir, O_RDONLY | O_DIRECTORY)) == 0 && rmdir(dir) == 0)
		return s != 0;
	snprintf(remove, sizeof remove, "rm -rf %s", dir); // deeper than we have descriptors
	return system(remove) || s != 0;
}

int main(int argc, char **argv)
{
	int failed = 0, found = 0;
	// What our caller ignores, blocks or has open is not ours to inherit. The
	// system call, since a libc keeps its own signals from us.
	long defaults[4] = {0};
	for (int n = 1; n < 65; n++)
		syscall(SYS_rt_sigaction, n, defaults, NULL, 8);
	syscall(SYS_close_range, 3, ~0U, 0);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	int list = argc > 1 && !strcmp(argv[1], "-l"), all = argc > 1 && !strcmp(argv[1], "-a");
	for (const struct test_case *c = __start_cases; c < __stop_cases; c++) {
		int wanted = all;
		for (int i = 1; i < argc; i++)
			wanted |= !strcmp(argv[i], c->name);
		if (list)
			say("%s", c->name);
		else if (wanted) {
			say("==== %s", c->name);
			failed |= run(c);
		}
		found |= list | wanted;
	}
	if (!found)
		say("corpus: no such case");
	return failed || !found;
}

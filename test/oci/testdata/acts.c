// acts NAME is what containers of the OCI tests run where a shell will not do.
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *act = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!strcmp(act, "fault"))
		*(volatile int *)8 = 1;
	if (!strcmp(act, "abort"))
		abort();
	if (!strcmp(act, "illegal"))
		__asm__ volatile("ud2");
	if (!strcmp(act, "divide"))
		__asm__ volatile("xor %%ecx, %%ecx; mov $1, %%eax; cltd; idiv %%ecx" ::: "eax", "ecx", "edx");
	if (!strcmp(act, "jump"))
		((void (*)(void))0x123)();
	if (!strcmp(act, "bomb")) { // forks until it may not
		static int pids[10000];
		int count = 0;
		while (count < 10000 && (pids[count] = fork()) > 0)
			count++;
		if (count < 10000 && pids[count] == 0)
			for (;;)
				pause();
		printf("%d forks, then %s\n", count, strerror(errno));
		while (count-- > 0)
			kill(pids[count], SIGKILL);
		return 0;
	}
	if (!strcmp(act, "draw")) { // N processes draw a random number each, and compute
		int n = atoi(argv[2]), told[2];
		char c;
		if (pipe(told) < 0)
			return 1;
		for (int i = 0; i < n; i++) {
			pid_t pid = fork();
			if (pid < 0)
				return 1;
			if (pid == 0) {
				if (getrandom(&c, 1, 0) == 1 && write(told[1], &c, 1) == 1)
					for (;;) // so that the next is served by another of the Sentry's threads
						;
				return 1;
			}
		}
		for (int i = 0; i < n; i++)
			if (read(told[0], &c, 1) != 1)
				return 1;
		printf("%d drew\n", n);
		signal(SIGTERM, SIG_IGN);
		kill(0, SIGTERM);
		return 0;
	}
	if (!strcmp(act, "chains")) { // every process forks for ever
		signal(SIGCHLD, SIG_IGN);
		for (;;)
			if (fork() < 0 && argc > 2)
				return 0;
	}
	if (!strcmp(act, "spin")) { // five compute for a second; what they used, in ms, and how long it took
		struct timespec t, u;
		struct rusage r;
		clock_gettime(CLOCK_MONOTONIC, &t);
		for (int i = 0; i < 5; i++)
			if (!fork())
				for (;;) {
					clock_gettime(CLOCK_MONOTONIC, &u);
					if (u.tv_sec - t.tv_sec + (u.tv_nsec - t.tv_nsec) / 1e9 > 1)
						_exit(0);
				}
		while (wait(NULL) > 0)
			;
		clock_gettime(CLOCK_MONOTONIC, &u);
		getrusage(RUSAGE_CHILDREN, &r);
		printf("%ld %ld\n", (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1000 + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1000,
			(u.tv_sec - t.tv_sec) * 1000 + (u.tv_nsec - t.tv_nsec) / 1000000);
		return 0;
	}
	if (!strcmp(act, "hog")) { // touches memory until it is killed
		for (long size = 0; size < 2L << 30; size += 1 << 20) {
			char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (p == MAP_FAILED)
				return 3;
			memset(p, 1, 1 << 20);
		}
		return 4;
	}
	if (!strcmp(act, "child_hog")) { // a child takes the memory; its parent lives
		int status;
		if (!fork())
			execl("/proc/self/exe", "acts", "hog", NULL);
		wait(&status);
		printf("child died by signal %d\n", WTERMSIG(status));
		return 0;
	}
	if (!strcmp(act, "full_sockets")) { // 90 MiB that nobody receives, if they may
		static char b[8192];
		int s[2], error = EAGAIN;
		for (int i = 0; i < 450 && error == EAGAIN && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0; i++) {
			while (write(s[0], b, sizeof b) > 0)
				;
			error = errno;
		}
		close(s[0]), close(s[1]); // what follows wants a page or two
		puts(strerror(error));
		return 0;
	}
	if (!strcmp(act, "call") && argc > 2) { // acts call NR [ARG…]: what a system call says
		long a[6] = {0};
		for (int i = 3; i < argc && i < 9; i++)
			a[i - 3] = strtol(argv[i], NULL, 0);
		long said = syscall(strtol(argv[2], NULL, 0), a[0], a[1], a[2], a[3], a[4], a[5]);
		if (said == -1)
			printf("%s\n", strerrorname_np(errno));
		else
			printf("%ld\n", said);
		return 0;
	}
	if (!strcmp(act, "ignore_term")) {
		signal(SIGTERM, SIG_IGN);
		puts("ready");
		for (;;)
			pause();
	}
	fprintf(stderr, "acts: no act %s\n", act);
	return 99;
}

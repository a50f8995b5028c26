// Counts on standard output, slowly; with an argument it first opens what no checkpoint keeps.
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int p[2];
	if (argc > 1 && pipe(p) < 0)
		return 1;
	double product = 1;
	for (int i = 1;; i++) {
		product *= 1.5;
		printf("%d %a\n", i, product);
		fflush(stdout);
		nanosleep(&(struct timespec){0, 5000000}, 0);
	}
}

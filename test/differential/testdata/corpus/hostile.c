// What bulkhead/test/table found: arguments that no program means.
#include "corpus.h"

CASE(exit_signal_that_is_none)
{
	signal(64, SIG_IGN); // before there is a child that may end
	for (int sig = 64; sig < 256; sig += 81) { // the last real one, and two of clone's byte beyond
		pid_t pid = syscall(SYS_clone, sig, NULL, NULL, NULL, NULL);
		if (pid == 0)
			_exit(7);
		int s = 0;
		E(waitpid(pid, &s, 0) == pid);
		E(waitpid(pid, &s, __WCLONE) == pid);
		status("child", s);
	}
}

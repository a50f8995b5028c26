// System V IPC. Objects are the whole host's in the native column: every case
// removes its own, and prints no id.
#include "corpus.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#ifndef SHM_STAT_ANY
#define SHM_STAT_ANY 15
#endif

union semun { int val; struct semid_ds *buf; unsigned short *array; void *info; };

// KEY is one that no other run has: it begins with the case's process id.
static key_t key;
#define KEY (key ? key : (key = 0x40000000 | getpid()))

static void *attach(int id, const void *at, int flags, const char *what)
{
	void *p = shmat(id, at, flags);
	if (p == (void *)-1)
		say("%s: %s", what, errname(errno));
	else
		say("%s: ok", what);
	return p;
}

static void show_shm(int id, const char *what)
{
	struct shmid_ds d;
	if (shmctl(id, IPC_STAT, &d))
		say("%s: %s", what, errname(errno));
	else
		say("%s: size %zu attached %lu mode %o uid %d cuid %d creator me %d last me %d atime %d dtime %d", what, d.shm_segsz,
		    (unsigned long)d.shm_nattch, d.shm_perm.mode, d.shm_perm.uid, d.shm_perm.cuid, d.shm_cpid == getpid(),
		    d.shm_lpid == getpid(), d.shm_atime != 0, d.shm_dtime != 0);
}

CASE(shm_life)
{
	E(shmget(IPC_PRIVATE, 0, 0600 | IPC_CREAT));
	E(shmget(KEY, 4096, 0600));
	int id = shmget(KEY, 5000, 0640 | IPC_CREAT | IPC_EXCL);
	say("made %d", id >= 0);
	E(shmget(KEY, 5000, 0640 | IPC_CREAT | IPC_EXCL));
	E(shmget(KEY, 5001, 0640));
	say("found %d", shmget(KEY, 0, 0) == id);
	show_shm(id, "new");
	char *p = attach(id, NULL, 0, "attach"), *q = attach(id, NULL, SHM_RDONLY, "read only");
	strcpy(p, "through one");
	say("%s", q);
	say("past the size %d", p[8191]);
	show_shm(id, "two");
	CHILD {
		show_shm(id, "forked");
		say("child sees %s", p);
		strcpy(p, "from child");
		shmdt(p);
		show_shm(id, "detached one");
	}
	say("%s", q);
	show_shm(id, "child gone");
	E(shmdt(p + 4096));
	E(shmdt(p + 1));
	E(shmdt((void *)0x10000));
	E(shmctl(id, IPC_RMID, NULL));
	show_shm(id, "removed");
	E(shmget(KEY, 0, 0));
	char *r = attach(id, NULL, 0, "attach removed");
	say("%s", r);
	E(shmdt(p));
	E(shmdt(q));
	E(shmdt(r));
	E(shmdt(r));
	struct shmid_ds d;
	say("gone %d", shmctl(id, IPC_STAT, &d) == -1 && (errno == EINVAL || errno == EIDRM));
	CHILD { q[0] = 1; }
}

CASE(shm_places)
{
	int id = shmget(IPC_PRIVATE, 8192, 0600);
	char *room = mmap(NULL, 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	attach(id, room, 0, "taken");
	attach(id, room + 1, 0, "odd");
	char *p = attach(id, room + 4097, SHM_RND | SHM_REMAP, "rounded, over");
	say("at %ld", (long)(p - room));
	attach(id, NULL, SHM_REMAP, "over nothing");
	strcpy(p, "text");
	p = attach(id, room + 16384, SHM_REMAP, "second");
	say("%s", p);
	E(mprotect(p, 4096, PROT_READ));
	struct shmid_ds split;
	shmctl(id, IPC_STAT, &split);
	say("split: %lu", (unsigned long)split.shm_nattch);
	E(shmdt(p));
	show_shm(id, "one left");
	E(mremap(room + 4096, 8192, 8192, MREMAP_MAYMOVE | MREMAP_FIXED, room + 32768) == room + 32768);
	E(shmdt(room + 32768));
	p = attach(id, NULL, SHM_RDONLY, "read only");
	E(mprotect(p, 4096, PROT_READ | PROT_WRITE));
	CHILD { p[0] = 1; }
	E(shmdt(p));
	p = attach(id, NULL, SHM_EXEC, "to run");
	memcpy(p, "\xb8\x2a\x00\x00\x00\xc3", 6);
	say("ran %d", ((int (*)(void))p)());
	E(munmap(p, 4096));
	show_shm(id, "half unmapped");
	E(shmdt(p));
	show_shm(id, "rest");
	E(shmctl(id, IPC_RMID, NULL));
	E(shmctl(-1, IPC_RMID, NULL));
	E(shmctl(id, 77, NULL));
	E((long)shmat(-1, NULL, 0));
}

CASE(shm_permissions)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600), other = shmget(IPC_PRIVATE, 4096, 0604);
	struct shmid_ds d;
	CHILD {
		setgid(1234), setuid(1234);
		E(shmctl(id, IPC_STAT, &d));
		E(shmctl(id, IPC_SET, &d));
		E(shmctl(id, IPC_RMID, NULL));
		attach(id, NULL, 0, "foreign");
		attach(other, NULL, 0, "writing");
		attach(other, NULL, SHM_RDONLY, "reading");
		E(shmctl(id, SHM_LOCK, NULL));
	}
	shmctl(id, IPC_STAT, &d);
	d.shm_perm.uid = 1234, d.shm_perm.mode = 0400;
	E(shmctl(id, IPC_SET, &d));
	show_shm(id, "given");
	CHILD {
		setgid(1234), setuid(1234);
		attach(id, NULL, 0, "writing");
		attach(id, NULL, SHM_RDONLY, "reading");
		d.shm_perm.mode = 0777;
		E(shmctl(id, IPC_SET, &d));
		E(shmctl(id, IPC_RMID, NULL));
	}
	say("gone %d", shmctl(id, IPC_STAT, &d) == -1);
	E(shmctl(other, SHM_LOCK, NULL));
	show_shm(other, "locked");
	E(shmctl(other, SHM_UNLOCK, NULL));
	E(shmctl(other, IPC_RMID, NULL));
	struct shminfo i;
	say("info %d", shmctl(0, IPC_INFO, (void *)&i) >= 0);
	say("max %lu min %lu mni %lu seg %lu", i.shmmax, i.shmmin, i.shmmni, i.shmseg);
}

CASE(shm_exec_and_exit)
{
	int id = shmget(IPC_PRIVATE, 4096, 0600);
	CHILD {
		attach(id, NULL, 0, "child");
		show_shm(id, "in child");
		shmctl(id, IPC_RMID, NULL);
		execl("/bin/true", "true", NULL);
	}
	struct shmid_ds d;
	say("gone with exec %d", shmctl(id, IPC_STAT, &d) == -1);
}

static int sem(int id, int n, int op, int flags)
{
	struct sembuf b = {n, op, flags};
	return semop(id, &b, 1);
}

static void show_sem(int id, const char *what)
{
	struct semid_ds d;
	union semun u = {.buf = &d};
	if (semctl(id, 0, IPC_STAT, u))
		say("%s: %s", what, errname(errno));
	else
		say("%s: %lu of mode %o otime %d", what, (unsigned long)d.sem_nsems, d.sem_perm.mode, d.sem_otime != 0);
}

CASE(sem_life)
{
	E(semget(IPC_PRIVATE, 0, 0600));
	E(semget(IPC_PRIVATE, -1, 0600));
	E(semget(IPC_PRIVATE, 32001, 0600));
	int id = semget(KEY, 3, 0600 | IPC_CREAT);
	E(semget(KEY, 4, 0600) == -1);
	say("found %d", semget(KEY, 2, 0600) == id);
	show_sem(id, "new");
	unsigned short v[3] = {1, 2, 3};
	union semun u = {.array = v};
	E(semctl(id, 0, SETALL, u));
	memset(v, 0, sizeof v);
	E(semctl(id, 0, GETALL, u));
	say("%d %d %d", v[0], v[1], v[2]);
	E(semctl(id, 1, GETVAL));
	E(semctl(id, 3, GETVAL));
	E(semctl(id, -1, GETVAL));
	say("pid me %d", semctl(id, 1, GETPID) == getpid());
	u.val = 32768;
	E(semctl(id, 0, SETVAL, u));
	u.val = 32767;
	E(semctl(id, 0, SETVAL, u));
	E(sem(id, 0, 1, 0));
	E(sem(id, 3, 1, 0));
	E(sem(id, 0, -32767, 0));
	E(sem(id, 0, -1, IPC_NOWAIT));
	E(sem(id, 1, 0, IPC_NOWAIT));
	E(sem(id, 0, 0, IPC_NOWAIT));
	show_sem(id, "used");
	struct sembuf three[3] = {{1, -1, 0}, {2, -1, 0}, {0, -1, IPC_NOWAIT}};
	E(semop(id, three, 3));
	E(semctl(id, 1, GETVAL));
	E(semctl(id, 2, GETVAL));
	struct sembuf twice[2] = {{1, -2, 0}, {1, 0, 0}};
	E(semop(id, twice, 2));
	E(semop(id, three, 0));
	E(semop(id, three, 501));
	E(semop(id, (void *)8, 1));
	E(semop(-1, three, 1));
	struct timespec t = {0, 2000000}, bad = {0, -1};
	struct sembuf one = {1, -1, 0};
	E(semtimedop(id, &one, 1, &t));
	E(semtimedop(id, &one, 1, &bad));
	E(semtimedop(id, &one, 1, (void *)8));
	E(semctl(id, 0, 99));
	struct seminfo i;
	u.info = &i;
	say("info %d", semctl(0, 0, IPC_INFO, u) >= 0);
	say("%d %d %d %d %d %d %d %d", i.semmni, i.semmns, i.semmsl, i.semopm, i.semvmx, i.semaem, i.semume, i.semusz);
	E(semctl(id, 0, IPC_RMID));
	say("gone %d", semop(id, three, 1) == -1);
}

static void until_waits(int id, int n, int command, int count)
{
	while (semctl(id, n, command) != count)
		nap(1);
}

CASE(sem_waiting)
{
	int id = semget(IPC_PRIVATE, 2, 0600);
	pid_t a = fork();
	if (!a) {
		E(sem(id, 0, -2, 0));
		_exit(0);
	}
	until_waits(id, 0, GETNCNT, 1);
	E(sem(id, 0, 1, 0));
	E(semctl(id, 0, GETNCNT));
	E(semctl(id, 0, GETZCNT));
	sem(id, 0, 1, 0);
	waitpid(a, NULL, 0);
	E(semctl(id, 0, GETVAL));
	say("pid of child %d", semctl(id, 0, GETPID) == a);
	sem(id, 1, 5, 0);
	a = fork();
	if (!a) {
		E(sem(id, 1, 0, 0));
		_exit(0);
	}
	until_waits(id, 1, GETZCNT, 1);
	union semun u = {.val = 0};
	semctl(id, 1, SETVAL, u);
	waitpid(a, NULL, 0);
	a = fork();
	if (!a) {
		E(sem(id, 0, -1, 0));
		_exit(0);
	}
	until_waits(id, 0, GETNCNT, 1);
	semctl(id, 0, IPC_RMID);
	waitpid(a, NULL, 0);
}

static void ignore(int sig) {}

CASE(ipc_interrupted)
{
	int id = semget(IPC_PRIVATE, 1, 0600), q = msgget(IPC_PRIVATE, 0600);
	struct { long type; char text[8]; } m;
	for (int restart = 0; restart < 2; restart++) {
		struct sigaction act = {.sa_handler = ignore, .sa_flags = restart ? SA_RESTART : 0};
		sigaction(SIGUSR1, &act, NULL);
		for (int which = 0; which < 2; which++) {
			pid_t parent = getpid(), c = fork();
			if (!c) {
				until_state(parent, 'S');
				kill(parent, SIGUSR1);
				_exit(0);
			}
			if (which)
				E(msgrcv(q, &m, 8, 0, 0));
			else
				E(sem(id, 0, -1, 0));
			waitpid(c, NULL, 0);
		}
	}
	E(semctl(id, 0, GETNCNT));
	semctl(id, 0, IPC_RMID);
	msgctl(q, IPC_RMID, NULL);
}

static void *undoes(void *id)
{
	sem((long)id, 0, 1, SEM_UNDO);
	return NULL;
}

CASE(sem_undo)
{
	int id = semget(IPC_PRIVATE, 2, 0600);
	union semun u = {.val = 5};
	semctl(id, 0, SETVAL, u);
	CHILD {
		sem(id, 0, -3, SEM_UNDO);
		sem(id, 1, 2, SEM_UNDO);
		E(semctl(id, 0, GETVAL));
		E(semctl(id, 1, GETVAL));
	}
	E(semctl(id, 0, GETVAL));
	E(semctl(id, 1, GETVAL));
	CHILD {
		sem(id, 0, -3, SEM_UNDO);
		execl("/bin/true", "true", NULL);
	}
	E(semctl(id, 0, GETVAL));
	CHILD {
		sem(id, 0, -3, SEM_UNDO);
		u.val = 1;
		semctl(id, 0, SETVAL, u); // forgets the undo
	}
	E(semctl(id, 0, GETVAL));
	CHILD { // the list is the process's, not a thread's
		pthread_t t;
		pthread_create(&t, NULL, undoes, (void *)(long)id);
		pthread_join(t, NULL);
		E(semctl(id, 0, GETVAL));
	}
	E(semctl(id, 0, GETVAL));
	CHILD { // and a fork's own
		sem(id, 0, 1, SEM_UNDO);
		CHILD { ; }
		E(semctl(id, 0, GETVAL));
	}
	CHILD { // never below zero
		sem(id, 0, 10, SEM_UNDO);
		sem(id, 0, -9, 0);
	}
	E(semctl(id, 0, GETVAL));
	CHILD { // undo wakes who waits
		pid_t c = fork();
		if (!c) {
			sem(id, 1, 1, SEM_UNDO);
			u.val = 0;
			until_waits(id, 1, GETZCNT, 1);
			_exit(0);
		}
		until_waits(id, 1, GETVAL, 1);
		E(sem(id, 1, 0, 0));
		waitpid(c, NULL, 0);
	}
	CHILD {
		sem(id, 0, 32767, SEM_UNDO);
		sem(id, 0, -32767, 0);
		E(sem(id, 0, 2, SEM_UNDO));
	}
	semctl(id, 0, IPC_RMID);
}

CASE(sem_permissions)
{
	int id = semget(IPC_PRIVATE, 1, 0604);
	struct semid_ds d;
	union semun u = {.buf = &d};
	CHILD {
		setgid(1234), setuid(1234);
		E(sem(id, 0, 1, 0));
		E(sem(id, 0, 0, 0));
		E(semctl(id, 0, GETVAL));
		u.val = 1;
		E(semctl(id, 0, SETVAL, u));
		u.buf = &d;
		E(semctl(id, 0, IPC_STAT, u));
		E(semctl(id, 0, IPC_SET, u));
		E(semctl(id, 0, IPC_RMID));
	}
	semctl(id, 0, IPC_RMID);
}

struct message { long type; char text[64]; };

static long take(int q, long type, size_t size, int flags)
{
	struct message m = {0};
	long n = msgrcv(q, &m, size, type, flags | IPC_NOWAIT);
	if (n < 0)
		say("take %ld: %s", type, errname(errno));
	else
		say("take %ld: type %ld, %ld \"%.*s\"", type, m.type, n, (int)n, m.text);
	return n;
}

static long give(int q, long type, const char *text)
{
	struct message m = {type};
	strcpy(m.text, text);
	return msgsnd(q, &m, strlen(text), IPC_NOWAIT);
}

CASE(msg_queue)
{
	E(msgget(KEY, 0600));
	int q = msgget(KEY, 0600 | IPC_CREAT);
	say("found %d", msgget(KEY, 0) == q);
	E(msgget(KEY, IPC_CREAT | IPC_EXCL | 0600));
	E(give(q, 0, "x"));
	E(give(q, -1, "x"));
	for (int i = 1; i < 8; i++) {
		char text[8] = {'a' + i};
		give(q, i % 4 + 1, text);
	}
	struct msqid_ds d;
	msgctl(q, IPC_STAT, &d);
	say("%lu messages, limit %lu, last sender me %d, receiver %d", (unsigned long)d.msg_qnum, (unsigned long)d.msg_qbytes,
	    d.msg_lspid == getpid(), d.msg_lrpid);
	take(q, 0, 64, 0);
	take(q, 3, 64, 0);
	take(q, -3, 64, 0);
	take(q, -3, 64, 0);
	take(q, 4, 64, MSG_EXCEPT);
	take(q, 77, 64, 0);
	take(q, LONG_MIN, 64, 0);
	take(q, 0, 64, MSG_COPY);
	take(q, 9, 64, MSG_COPY);
	take(q, 0, 64, MSG_COPY | MSG_EXCEPT);
	take(q, 0, 64, 0);
	take(q, 0, 64, 0);
	give(q, 1, "long text");
	take(q, 0, 4, 0);
	take(q, 0, 4, MSG_NOERROR);
	give(q, 1, "");
	take(q, 0, 64, 0);
	char big[9000] = {1};
	E(msgsnd(q, big, 8193, 0));
	E(msgsnd(q, big, -1, 0));
	E(msgsnd(q, (void *)8, 1, 0));
	E(msgrcv(q, big, -1, 0, 0));
	E(msgrcv(-1, big, 1, 0, 0));
	E(msgsnd(q, big, 8192, 0));
	E(msgsnd(q, big, 8192, IPC_NOWAIT));
	E(msgsnd(q, big, 1, IPC_NOWAIT));
	msgctl(q, IPC_STAT, &d);
	d.msg_qbytes = 100;
	E(msgctl(q, IPC_SET, &d));
	E(msgctl(q, IPC_RMID, NULL));
	say("gone %d", msgctl(q, IPC_STAT, &d) == -1);
	struct msginfo i;
	say("info %d", msgctl(0, IPC_INFO, (void *)&i) >= 0);
	say("%d %d %d", i.msgmax, i.msgmnb, i.msgmni);
}

CASE(msg_waiting)
{
	int q = msgget(IPC_PRIVATE, 0600);
	struct message m;
	pid_t c;
	for (int step = 0; step < 3; step++) {
		c = fork();
		if (!c) {
			if (step == 0)
				E(msgrcv(q, &m, 64, 2, 0));
			else if (step == 1)
				E(msgrcv(q, &m, 2, 0, 0));
			else
				E(msgrcv(q, &m, 64, 9, 0));
			_exit(0);
		}
		until_state(c, 'S');
		if (step == 0)
			give(q, 2, "two");
		else if (step == 1)
			give(q, 1, "too long");
		else
			msgctl(q, IPC_RMID, NULL);
		waitpid(c, NULL, 0);
		if (step < 2)
			take(q, 0, 64, 0);
	}

	q = msgget(IPC_PRIVATE, 0600);
	static char big[8200] = {1};
	c = fork();
	if (!c) {
		for (int i = 0; i < 5; i++)
			msgsnd(q, big, 8192, 0);
		say("sent five");
		E(msgsnd(q, big, 8192, 0));
		_exit(0);
	}
	for (int i = 0; i < 3; i++)
		msgrcv(q, big, 8192, 0, 0);
	struct msqid_ds d;
	do
		nap(1);
	while (msgctl(q, IPC_STAT, &d) == 0 && d.msg_qnum != 2);
	until_state(c, 'S');
	msgctl(q, IPC_RMID, NULL);
	waitpid(c, NULL, 0);
}

CASE(sysv_proc)
{
	show("/proc/sys/kernel/sem");
	show("/proc/sys/kernel/msgmax");
	show("/proc/sys/kernel/msgmnb");
	show("/proc/sys/kernel/msgmni");
	show("/proc/sys/kernel/shmmax");
	show("/proc/sys/kernel/shmall");
	show("/proc/sys/kernel/shmmni");
	show("/proc/sys/kernel/shm_rmid_forced");
	int id = shmget(KEY, 4096, 0600 | IPC_CREAT), fields = 0, found = 0;
	char line[400], *p = shmat(id, NULL, 0);
	FILE *f = fopen("/proc/sysvipc/shm", "r");
	fgets(line, sizeof line, f);
	say("%s", line);
	while (fgets(line, sizeof line, f)) {
		int key_, number, mode;
		long size;
		if (sscanf(line, "%d %d %o %ld", &key_, &number, &mode, &size) == 4 && number == id)
			say("key %d mode %o size %ld length %zu", key_ == KEY, mode, size, strlen(line));
	}
	fclose(f);
	f = fopen("/proc/self/maps", "r");
	while (fgets(line, sizeof line, f)) {
		unsigned long ino;
		char name[100] = "";
		if (sscanf(line, "%*s %*s %*s %*s %lu %99[^\n]", &ino, name) == 2 && strstr(name, "SYSV"))
			say("maps has %.5s %s, inode is the id %d", name, name + 14, ino == id);
	}
	fclose(f);
	shmctl(id, IPC_RMID, NULL);
}

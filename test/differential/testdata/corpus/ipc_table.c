// System V and POSIX IPC, keys, queues of requests: arguments at their edges.
#include "corpus.h"
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <mqueue.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

CASE(shm_table)
{
	static struct named flags[] = {N(0), N(IPC_CREAT), N(IPC_CREAT | IPC_EXCL), N(IPC_EXCL), N(SHM_HUGETLB), N(0x80000000)};
	static long sizes[] = {0, 1, 4096, 8192, -1};
	EACH(f, flags)
		EACH(s, sizes) {
			if (flags[f].value == SHM_HUGETLB)
				continue;
			int id = shmget(0x51423, sizes[s], flags[f].value | 0600);
			say("%s %ld: %s", flags[f].name, sizes[s], id < 0 ? errname(errno) : "ok");
			if (s == 2 && f == 2)
				shmctl(shmget(0x51423, 0, 0), IPC_RMID, NULL);
		}
	int id = shmget(0x51423, 0, IPC_CREAT | 0600);
	id = id < 0 ? shmget(0x51423, 4096, IPC_CREAT | 0600) : id;
	struct shmid_ds d;
	E(shmctl(id, IPC_STAT, &d));
	say("%o %d %d", d.shm_perm.mode, (int)d.shm_segsz, (int)d.shm_nattch);
	E(shmctl(id, 99, &d));
	E(shmctl(-1, IPC_STAT, &d));
	E(shmctl(id, IPC_STAT, (void *)8));
	E(shmctl(id, IPC_SET, (void *)8));
	E((long)shmat(id, (void *)1, 0));
	E((long)shmat(-1, 0, 0));
	E((long)shmat(id, 0, SHM_REMAP));
	// There is room behind it, whatever else is mapped.
	char *room = mmap(NULL, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(room, 1 << 20);
	char *at = shmat(id, room, SHM_RDONLY);
	E((long)shmat(id, at, 0) == (long)at);
	E((long)shmat(id, at, SHM_REMAP) == (long)at);
	E((long)shmat(id, at + 0x10001, SHM_RND | SHM_RDONLY) != -1);
	E(shmdt(at + 1));
	E(shmdt((void *)4096));
	E(shmdt(at));
	E(shmdt(at));
	E(shmctl(id, SHM_LOCK, NULL));
	shmctl(id, IPC_STAT, &d);
	say("%o", d.shm_perm.mode);
	E(shmctl(id, SHM_UNLOCK, NULL));
	E(shmctl(id, IPC_RMID, NULL));
	E((long)shmat(id, 0, 0) != -1);
	E(shmget(0x51423, 0, 0));
}

CASE(sem_table)
{
	static int counts[] = {-1, 0, 1, 2, 32000, 32001};
	EACH(c, counts) {
		int id = semget(IPC_PRIVATE, counts[c], 0600);
		say("%d: %s", counts[c], id < 0 ? errname(errno) : "ok");
		semctl(id, 0, IPC_RMID);
	}
	int id = semget(0x51424, 3, IPC_CREAT | 0600);
	E(semget(0x51424, 4, 0600));
	E(semget(0x51424, 0, 0600) == id);
	E(semget(0x51424, 3, IPC_CREAT | IPC_EXCL));
	unsigned short all[3] = {1, 2, 3};
	E(semctl(id, 0, SETALL, all));
	E(semctl(id, 1, GETVAL));
	E(semctl(id, 3, GETVAL));
	E(semctl(id, -1, GETVAL));
	E(semctl(id, 0, SETVAL, 32768));
	E(semctl(id, 0, SETVAL, -1));
	E(semctl(id, 0, SETVAL, 32767));
	E(semctl(id, 0, 99));
	E(semctl(id, 0, GETALL, (void *)8));
	all[1] = 40000;
	E(semctl(id, 0, SETALL, all));
	E(semctl(id, 1, GETNCNT));
	E(semctl(id, 1, GETZCNT));
	E(semctl(id, 1, GETPID) == getpid());
	struct sembuf ops[] = {{0, 1, 0}, {1, -1, IPC_NOWAIT}, {2, 0, IPC_NOWAIT}, {3, 1, 0}, {1, -5, IPC_NOWAIT}, {1, 1, SEM_UNDO}};
	E(semop(id, ops, 0));
	E(semop(id, ops, 501));
	E(semop(id, (void *)8, 1));
	EACH(o, ops)
		ROW(semop(id, &ops[o], 1), "op %d", o);
	E(semop(id, ops + 1, 2)); // all or nothing
	E(semctl(id, 1, GETVAL));
	struct timespec t = {0}, bad = {0, -1};
	struct sembuf wait = {2, 0, 0};
	E(semtimedop(id, &wait, 1, &t));
	E(semtimedop(id, &wait, 1, &bad));
	E(semctl(id, 0, IPC_RMID));
	E(semop(id, ops, 1));
}

CASE(msg_table)
{
	int id = msgget(IPC_PRIVATE, 0600);
	struct { long type; char text[9000]; } m = {1, "text"}, got;
	E(msgsnd(id, &m, -1, 0));
	E(msgsnd(id, &m, 8193, 0));
	E(msgsnd(id, &m, 0, 0));
	m.type = 0;
	E(msgsnd(id, &m, 1, 0));
	m.type = -1;
	E(msgsnd(id, &m, 1, 0));
	E(msgsnd(-1, &m, 1, 0));
	E(msgsnd(id, (void *)8, 1, 0));
	for (m.type = 5; m.type > 1; m.type--)
		msgsnd(id, &m, m.type, 0);
	struct msqid_ds d;
	E(msgctl(id, IPC_STAT, &d));
	say("%d messages, %d of %d bytes", (int)d.msg_qnum, (int)d.__msg_cbytes, (int)d.msg_qbytes);
	E(msgrcv(id, &got, 100, 9, IPC_NOWAIT));
	E(msgrcv(id, &got, 1, 5, IPC_NOWAIT));
	E(msgrcv(id, &got, 1, 5, IPC_NOWAIT | MSG_NOERROR));
	E(msgrcv(id, &got, 100, -3, IPC_NOWAIT));
	say("%ld", got.type);
	E(msgrcv(id, &got, 100, 4, IPC_NOWAIT | MSG_EXCEPT));
	say("%ld", got.type);
	E(msgrcv(id, &got, 100, LONG_MIN, IPC_NOWAIT));
	say("%ld", got.type);
	E(msgrcv(id, &got, 100, 0, IPC_NOWAIT | 040000)); // MSG_COPY
	say("%ld", got.type);
	E(msgrcv(id, &got, 100, 7, IPC_NOWAIT | 040000));
	E(msgrcv(id, &got, 100, 0, 040000));
	E(msgrcv(id, &got, -1, 0, 0));
	E(msgrcv(id, (void *)8, 100, 0, 0));
	d.msg_qbytes = 100;
	E(msgctl(id, IPC_SET, &d));
	m.type = 1;
	E(msgsnd(id, &m, 101, IPC_NOWAIT));
	E(msgsnd(id, &m, 90, IPC_NOWAIT));
	E(msgsnd(id, &m, 90, IPC_NOWAIT));
	E(msgctl(id, 99, &d));
	E(msgctl(id, IPC_RMID, NULL));
	E(msgctl(id, IPC_RMID, NULL));
	E(msgrcv(id, &got, 100, 0, IPC_NOWAIT));
}

CASE(mq_table)
{
	struct mq_attr a = {0, 3, 16};
	static const char *names[] = {"/corpus-mq", "corpus-mq", "/", "/a/b", "", "/..", "/."};
	EACH(n, names) {
		int q = mq_open(names[n], O_CREAT | O_RDWR | O_NONBLOCK, 0600, &a);
		say("%s: %s", names[n], q < 0 ? errname(errno) : "ok");
		mq_unlink(names[n]);
	}
	char name[300] = "/";
	memset(name + 1, 'q', 256);
	E(mq_open(name, O_CREAT | O_RDWR, 0600, &a));
	E(mq_open("/corpus-none", O_RDWR));
	E(mq_unlink("/corpus-none"));
	struct mq_attr bad[] = {{0, 0, 16}, {0, 3, 0}, {0, -1, 16}, {0, 1 << 20, 16}, {0, 3, 1 << 25}};
	EACH(b, bad)
		ROW(mq_open("/corpus-bad", O_CREAT | O_RDWR, 0600, &bad[b]), "attributes %d", b);
	int q = mq_open("/corpus-q", O_CREAT | O_RDWR | O_NONBLOCK, 0600, &a), ro = mq_open("/corpus-q", O_RDONLY), wo = mq_open("/corpus-q", O_WRONLY | O_NONBLOCK);
	E(mq_open("/corpus-q", O_CREAT | O_EXCL | O_RDWR, 0600, &a));
	char b[32];
	unsigned priority;
	E(mq_receive(q, b, 16, NULL));
	E(mq_receive(q, b, 15, NULL));
	E(mq_send(q, "x", 17, 0));
	E(mq_send(q, "x", 1, 32768));
	E(mq_send(ro, "x", 1, 0));
	E(mq_receive(wo, b, 16, NULL));
	E(mq_send(q, "low", 3, 1));
	E(mq_send(q, "high", 4, 32767));
	E(mq_send(q, "", 0, 1));
	E(mq_send(q, "x", 1, 1));
	E(mq_send(0, "x", 1, 1));
	for (int i = 0; i < 3; i++) {
		ROW(mq_receive(q, b, 16, &priority), "receive");
		say("%u", priority);
	}
	struct timespec t = {0, -1};
	E(mq_timedreceive(ro, b, 16, NULL, &t));
	t = (struct timespec){1, 0};
	E(mq_timedreceive(ro, b, 16, NULL, &t));
	E(mq_getattr(q, &a));
	say("%lx %ld %ld %ld", a.mq_flags, a.mq_maxmsg, a.mq_msgsize, a.mq_curmsgs);
	a.mq_flags = O_APPEND;
	E(mq_setattr(q, &a, NULL));
	E(mq_notify(q, NULL));
	struct sigevent e = {.sigev_notify = 99};
	E(syscall(SYS_mq_notify, q, &e));
	e.sigev_notify = SIGEV_SIGNAL, e.sigev_signo = 99;
	E(syscall(SYS_mq_notify, q, &e));
	e.sigev_signo = SIGUSR1;
	E(syscall(SYS_mq_notify, q, &e));
	E(syscall(SYS_mq_notify, q, &e));
	E(mq_unlink("/corpus-q"));
	E(mq_unlink("/corpus-q"));
}

CASE(key_table)
{
	E(syscall(SYS_add_key, "user", "corpus", "payload", 7, -99));
	E(syscall(SYS_add_key, "nosuch", "corpus", "p", 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "", "corpus", "p", 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, ".user", "corpus", "p", 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "user", "", "p", 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "user", NULL, "p", 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "user", "corpus", NULL, 0, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "user", "corpus", (void *)8, 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "user", "corpus", "p", 32768, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "user", "corpus", "p", 1 << 20 | 1, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_add_key, "keyring", "ring", "p", 1, KEY_SPEC_PROCESS_KEYRING));
	int k = syscall(SYS_add_key, "user", "corpus", "payload", 7, KEY_SPEC_PROCESS_KEYRING);
	char b[64] = "";
	E(syscall(SYS_keyctl, KEYCTL_READ, k, b, 3));
	say("%s", b);
	E(syscall(SYS_keyctl, KEYCTL_READ, k, b, 64));
	say("%s", b);
	E(syscall(SYS_keyctl, KEYCTL_READ, 0x7fffffff, b, 64));
	E(syscall(SYS_keyctl, KEYCTL_UPDATE, k, "other", 5));
	E(syscall(SYS_keyctl, KEYCTL_UPDATE, KEY_SPEC_PROCESS_KEYRING, "x", 1));
	E(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "corpus", 0) == k);
	E(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "none", 0));
	E(syscall(SYS_keyctl, KEYCTL_SEARCH, k, "user", "corpus", 0));
	E(syscall(SYS_request_key, "user", "corpus", NULL, 0) == k);
	E(syscall(SYS_request_key, "user", "none", NULL, 0));
	E(syscall(SYS_keyctl, KEYCTL_SETPERM, k, 0x3f3f0000));
	E(syscall(SYS_keyctl, KEYCTL_SETPERM, k, 0x40000000));
	E(syscall(SYS_keyctl, KEYCTL_SET_TIMEOUT, k, 1000));
	E(syscall(SYS_keyctl, KEYCTL_CHOWN, k, -1, -1));
	E(syscall(SYS_keyctl, KEYCTL_UNLINK, k, KEY_SPEC_THREAD_KEYRING));
	E(syscall(SYS_keyctl, KEYCTL_LINK, k, k));
	E(syscall(SYS_keyctl, KEYCTL_REVOKE, k));
	E(syscall(SYS_keyctl, KEYCTL_READ, k, b, 64));
	E(syscall(SYS_keyctl, KEYCTL_UNLINK, k, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_keyctl, KEYCTL_CLEAR, KEY_SPEC_PROCESS_KEYRING));
	E(syscall(SYS_keyctl, 999, 0, 0, 0, 0));
	E(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, -99, 0));
	E(syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_THREAD_KEYRING, 0));
}

CASE(aio_table)
{
	aio_context_t c = 0, busy = 1;
	E(syscall(SYS_io_setup, 0, &c));
	E(syscall(SYS_io_setup, -1, &c));
	E(syscall(SYS_io_setup, 4, &busy));
	E(syscall(SYS_io_setup, 4, (void *)8));
	E(syscall(SYS_io_destroy, 0));
	E(syscall(SYS_io_destroy, 4096));
	E(syscall(SYS_io_setup, 4, &c));
	char b[16] = "";
	put("f", "0123456789");
	int f = open("f", O_RDWR), ro = open("f", O_RDONLY), wo = open("f", O_WRONLY);
	struct iocb i = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = f, .aio_buf = (long)b, .aio_nbytes = 4}, *p = &i, *bad = (void *)8;
	struct io_event e;
	E(syscall(SYS_io_submit, c, 0, &p));
	E(syscall(SYS_io_submit, c, -1, &p));
	E(syscall(SYS_io_submit, c, 1, NULL));
	E(syscall(SYS_io_submit, c, 1, &bad));
	E(syscall(SYS_io_submit, 4096, 1, &p));
	E(syscall(SYS_io_submit, c, 1, &p));
	E(syscall(SYS_io_getevents, c, 1, 1, &e, NULL));
	say("%d", (int)e.res);
	struct { int opcode, fd; long at, size, offset; } rows[] = {{99, f, (long)b, 4, 0}, {0, 999, (long)b, 4, 0}, {0, wo, (long)b, 4, 0}, {1, ro, (long)b, 4, 0}, {0, f, 8, 4, 0}, {0, f, (long)b, -1, 0}, {0, f, (long)b, 4, -1}, {0, f, (long)b, 4, 100}, {7, f, (long)b, 1025, 0}, {6, f, 0, 0, 0}};
	EACH(r, rows) {
		memset(&i, 0, sizeof i);
		i.aio_lio_opcode = rows[r].opcode, i.aio_fildes = rows[r].fd, i.aio_buf = rows[r].at, i.aio_nbytes = rows[r].size, i.aio_offset = rows[r].offset;
		e.res = -999;
		ROW(syscall(SYS_io_submit, c, 1, &p), "submit %d", r);
		ROW(syscall(SYS_io_getevents, c, 0, 1, &e, &(struct timespec){0, 0}), "events");
		say("%d", (int)e.res);
	}
	i = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = f, .aio_flags = 4};
	E(syscall(SYS_io_submit, c, 1, &p));
	i = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = f, .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = f};
	E(syscall(SYS_io_submit, c, 1, &p));
	i = (struct iocb){.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = f, .aio_reserved2 = 1};
	E(syscall(SYS_io_submit, c, 1, &p));
	E(syscall(SYS_io_getevents, c, 2, 1, &e, NULL));
	E(syscall(SYS_io_getevents, c, -1, 1, &e, NULL));
	E(syscall(SYS_io_getevents, 4096, 0, 1, &e, NULL));
	E(syscall(SYS_io_cancel, c, &i, &e));
	E(syscall(SYS_io_destroy, c));
	E(syscall(SYS_io_submit, c, 1, &p));
}

CASE(uring_setup_table)
{
	static unsigned flags[] = {0, IORING_SETUP_IOPOLL, IORING_SETUP_SQ_AFF, IORING_SETUP_CQSIZE, IORING_SETUP_CLAMP, IORING_SETUP_ATTACH_WQ, IORING_SETUP_R_DISABLED, 1U << 31};
	static unsigned entries[] = {0, 1, 3, 4096, 32768, 32769, -1};
	EACH(f, flags)
		EACH(n, entries) {
			struct io_uring_params p = {.flags = flags[f]};
			if (flags[f] == IORING_SETUP_IOPOLL)
				continue;
			int fd = syscall(SYS_io_uring_setup, entries[n], &p);
			say("%x %d: %s %d %d", flags[f], entries[n], fd < 0 ? errname(errno) : "ok", fd < 0 ? 0 : p.sq_entries, fd < 0 ? 0 : p.cq_entries);
			close(fd);
		}
	struct io_uring_params p = {.resv = {1}};
	E(syscall(SYS_io_uring_setup, 1, &p));
	E(syscall(SYS_io_uring_setup, 1, (void *)8));
	p = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = 1};
	E(syscall(SYS_io_uring_setup, 4, &p));
	p = (struct io_uring_params){0};
	int fd = syscall(SYS_io_uring_setup, 1, &p);
	E(syscall(SYS_io_uring_enter, fd, 0, 0, 0x8000, NULL, 0));
	E(syscall(SYS_io_uring_enter, 0, 0, 0, 0, NULL, 0));
	E(syscall(SYS_io_uring_enter, 999, 0, 0, 0, NULL, 0));
	E(syscall(SYS_io_uring_enter, fd, 5, 0, 0, NULL, 0));
	E(syscall(SYS_io_uring_register, fd, 0, NULL, 1));
	E(syscall(SYS_io_uring_register, fd, 999, NULL, 0));
	E(syscall(SYS_io_uring_register, 0, 0, NULL, 1));
	E(syscall(SYS_io_uring_register, fd, 1, NULL, 0));
	E(syscall(SYS_io_uring_register, fd, 2, NULL, 0));
	E(syscall(SYS_io_uring_register, fd, 3, NULL, 0));
	E(syscall(SYS_io_uring_register, fd, 4, &(int){0}, 1));
	E(syscall(SYS_io_uring_register, fd, 5, NULL, 0));
}

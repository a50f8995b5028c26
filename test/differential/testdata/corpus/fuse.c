// A FUSE server inside, by the bare protocol.
#include <stddef.h>
#include "corpus.h"
#include <linux/fuse.h>
#include <dirent.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

static char contents[4096] = "hello from the server\n";
static size_t length = 22;
static int silent; // READ is not answered

static void attr_of(unsigned long long node, struct fuse_attr *a)
{
	memset(a, 0, sizeof *a);
	a->ino = node;
	a->mode = node == 1 ? S_IFDIR | 0755 : node == 3 ? S_IFLNK | 0777 : S_IFREG | 0644;
	a->nlink = node == 1 ? 2 : 1;
	a->size = node == 2 ? length : node == 3 ? 5 : 0;
	a->blksize = 4096;
	a->mtime = 1000000000;
}

static void answer_to(int fd, unsigned long long unique, int error, const void *data, size_t size)
{
	char b[16384];
	struct fuse_out_header *h = (void *)b;
	h->len = sizeof *h + size, h->error = error, h->unique = unique;
	memcpy(b + sizeof *h, data, size);
	write(fd, b, h->len);
}

static void entry_of(int fd, unsigned long long unique, unsigned long long node)
{
	struct fuse_entry_out e = {.nodeid = node};
	attr_of(node, &e.attr);
	answer_to(fd, unique, 0, &e, sizeof e);
}

static size_t dirent(char *to, unsigned long long ino, unsigned long long off, int type, const char *name)
{
	struct fuse_dirent *d = (void *)to;
	d->ino = ino, d->off = off, d->type = type, d->namelen = strlen(name);
	memcpy(d->name, name, d->namelen);
	return FUSE_DIRENT_SIZE(d);
}

static void serve(int fd)
{
	static char b[200000];
	for (;;) {
		long n = read(fd, b, sizeof b);
		if (n < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (n < 0) {
			_exit(errno == ENODEV ? 0 : 1);
		}
		struct fuse_in_header *h = (void *)b;
		char *body = b + sizeof *h;
		switch (h->opcode) {
		case FUSE_INIT: {
			struct fuse_init_out o = {.major = 7, .minor = 31, .max_readahead = 65536, .max_write = 8192};
			answer_to(fd, h->unique, 0, &o, sizeof o);
			break;
		}
		case FUSE_LOOKUP:
			if (h->nodeid == 1 && !strcmp(body, "hello"))
				entry_of(fd, h->unique, 2);
			else if (h->nodeid == 1 && !strcmp(body, "link"))
				entry_of(fd, h->unique, 3);
			else
				answer_to(fd, h->unique, -ENOENT, NULL, 0);
			break;
		case FUSE_GETATTR: {
			struct fuse_attr_out o = {0};
			attr_of(h->nodeid, &o.attr);
			answer_to(fd, h->unique, 0, &o, sizeof o);
			break;
		}
		case FUSE_SETATTR: {
			struct fuse_setattr_in *in = (void *)body;
			struct fuse_attr_out o = {0};
			if (in->valid & FATTR_SIZE)
				length = in->size;
			attr_of(h->nodeid, &o.attr);
			answer_to(fd, h->unique, 0, &o, sizeof o);
			break;
		}
		case FUSE_READLINK:
			answer_to(fd, h->unique, 0, "hello", 5);
			break;
		case FUSE_OPEN:
		case FUSE_OPENDIR: {
			struct fuse_open_out o = {.fh = 7, .open_flags = FOPEN_DIRECT_IO};
			answer_to(fd, h->unique, 0, &o, sizeof o);
			break;
		}
		case FUSE_READ: {
			struct fuse_read_in *in = (void *)body;
			if (silent)
				break;
			size_t left = in->offset < length ? length - in->offset : 0;
			answer_to(fd, h->unique, 0, contents + in->offset, left < in->size ? left : in->size);
			break;
		}
		case FUSE_WRITE: {
			struct fuse_write_in *in = (void *)body;
			if (in->offset + in->size > sizeof contents) {
				answer_to(fd, h->unique, -ENOSPC, NULL, 0);
				break;
			}
			memcpy(contents + in->offset, body + sizeof *in, in->size);
			if (in->offset + in->size > length)
				length = in->offset + in->size;
			silent = !memcmp(contents, "silence", 7);
			struct fuse_write_out o = {.size = in->size};
			answer_to(fd, h->unique, 0, &o, sizeof o);
			break;
		}
		case FUSE_READDIR: {
			struct fuse_read_in *in = (void *)body;
			char d[1024];
			size_t size = 0;
			if (in->offset == 0) {
				size += dirent(d + size, 1, 1, DT_DIR, ".");
				size += dirent(d + size, 1, 2, DT_DIR, "..");
				size += dirent(d + size, 2, 3, DT_REG, "hello");
				size += dirent(d + size, 3, 4, DT_LNK, "link");
			}
			answer_to(fd, h->unique, 0, d, size);
			break;
		}
		case FUSE_STATFS: {
			struct fuse_statfs_out o = {.st = {.blocks = 100, .bfree = 50, .bavail = 40, .files = 9, .ffree = 3, .bsize = 512, .namelen = 99, .frsize = 512}};
			answer_to(fd, h->unique, 0, &o, sizeof o);
			break;
		}
		case FUSE_UNLINK:
			answer_to(fd, h->unique, -EPERM, NULL, 0);
			break;
		case FUSE_FORGET:
		case FUSE_BATCH_FORGET:
		case FUSE_INTERRUPT:
			break;
		default:
			answer_to(fd, h->unique, -ENOSYS, NULL, 0);
		}
	}
}

CASE(fuse_server)
{
	char options[128], b[100];
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		say("own mounts: %s", errname(errno));
	mkdir("t", 0755);
	mount("t", "t", "tmpfs", 0, "size=1m");
	chdir("t");
	mkdir("m", 0755);
	mknod("dev", S_IFCHR | 0666, makedev(10, 229));
	int fd = open("dev", O_RDWR);
	say("device %d", fd >= 0);
	E(read(fd, b, sizeof b));
	E(write(fd, b, sizeof b));
	E(mount("x", "m", "fuse", 0, NULL));
	E(mount("x", "m", "fuse", 0, "fd=99,rootmode=40000,user_id=0,group_id=0"));
	sprintf(options, "fd=%d,rootmode=40000,user_id=0", fd);
	E(mount("x", "m", "fuse", 0, options));
	sprintf(options, "fd=%d,rootmode=40000,user_id=0,group_id=0,nonsense", fd);
	E(mount("x", "m", "fuse", 0, options));
	sprintf(options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	E(mount("x", "m", "fuse.mine", MS_NODEV, options));
	E(mount("x", "m", "fuse", 0, options));
	E(read(fd, b, sizeof b)); // too small for any request
	pid_t server = fork();
	if (server == 0)
		serve(fd);
	close(fd);
	show("m/hello");
	show("m/link");
	E(open("m/missing", O_RDONLY));
	struct stat s;
	E(stat("m/hello", &s));
	say("%o %d %ld %ld", s.st_mode, (int)s.st_nlink, (long)s.st_size, (long)s.st_mtime);
	E(lstat("m/link", &s));
	say("%o", s.st_mode);
	struct statfs f;
	E(statfs("m", &f));
	say("%lx %lu %lu %lu", (long)f.f_type, (long)f.f_blocks, (long)f.f_bavail, (long)f.f_namelen);
	FILE *ls = popen("ls -a m", "r");
	while (fgets(b, sizeof b, ls))
		say("%.*s", (int)strcspn(b, "\n"), b);
	pclose(ls);
	int x = open("m/hello", O_RDWR);
	E(pwrite(x, "HELLO", 5, 0));
	E(pread(x, b, 10, 0)), dump("read", b, 10);
	E(lseek(x, 0, SEEK_END));
	E(write(x, "more", 4));
	E(pwrite(x, "far", 3, 5000));
	E(ftruncate(x, 8));
	show("m/hello");
	E(fsync(x));
	E(unlink("m/hello"));
	E(mkdir("m/d", 0755));
	E(open("m/new", O_CREAT | O_RDWR, 0600));
	E(rename("m/hello", "m/other"));
	E(getxattr("m/hello", "user.x", b, sizeof b));
	CHILD {
		setresuid(1000, 1000, 1000);
		E(open("m/hello", O_RDONLY)); // without allow_other
	}
	E(umount("m"));
	E(pwrite(x, "silence", 7, 0));
	pid_t reader = fork();
	if (reader == 0) {
		E(pread(x, b, 10, 0) == -1);
		_exit(0);
	}
	int st;
	nap(100);
	kill(server, SIGKILL);
	waitpid(server, &st, 0);
	waitpid(reader, &st, 0);
	status("reader", st);
	E(pread(x, b, 10, 0));
	E(open("m/hello", O_RDONLY));
	close(x);
	E(umount("m"));
}

CASE(fuse_unmount)
{
	char options[128];
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		say("own mounts: %s", errname(errno));
	mkdir("t", 0755);
	mount("t", "t", "tmpfs", 0, "size=1m");
	chdir("t");
	mkdir("m", 0755);
	mknod("dev", S_IFCHR | 0666, makedev(10, 229));
	int fd = open("dev", O_RDWR);
	sprintf(options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	E(mount("x", "m", "fuse", 0, options));
	pid_t server = fork();
	if (server == 0)
		serve(fd);
	close(fd);
	show("m/hello");
	E(umount("m"));
	int st;
	waitpid(server, &st, 0);
	status("server", st);
}

package proc

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel/ipc"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// ipc is the namespace of who asks.
func (fs *FileSystem) ipc(ctx vfs.Context) *ipc.Namespace {
	if t, ok := caller(ctx); ok {
		return t.IPC()
	}
	return fs.Kernel.IPC()
}

// addSysvipc adds the three lists of System V objects.
func (fs *FileSystem) addSysvipc(dir *kernfs.Dir) {
	for name, list := range map[string]func(*bytes.Buffer, *ipc.Namespace){"shm": listShm, "sem": listSem, "msg": listMsg} {
		dir.Add(name, fs.NewFile(0o444, func(ctx vfs.Context) ([]byte, error) {
			var b bytes.Buffer
			list(&b, fs.ipc(ctx))
			return b.Bytes(), nil
		}))
	}
}

func listShm(b *bytes.Buffer, ns *ipc.Namespace) {
	b.WriteString("       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n")
	for _, s := range ns.Segments() {
		fmt.Fprintf(b, "%10d %10d  %4o %21d %5d %5d  %5d %5d %5d %5d %5d %10d %10d %10d %21d %21d\n", s.Key, s.ID, s.Mode, s.Size,
			s.CPID, s.LPID, s.Attached, s.UID, s.GID, s.CUID, s.CGID, s.Atime, s.Dtime, s.Ctime, s.Resident/memory.PageSize*memory.PageSize, 0)
	}
}

func listSem(b *bytes.Buffer, ns *ipc.Namespace) {
	b.WriteString("       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n")
	for _, s := range ns.SemSets() {
		fmt.Fprintf(b, "%10d %10d  %4o %10d %5d %5d %5d %5d %10d %10d\n", s.Key, s.ID, s.Mode, s.N, s.UID, s.GID, s.CUID, s.CGID, s.Otime, s.Ctime)
	}
}

func listMsg(b *bytes.Buffer, ns *ipc.Namespace) {
	b.WriteString("       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n")
	for _, q := range ns.MsgQueues() {
		fmt.Fprintf(b, "%10d %10d  %4o  %10d %10d %5d %5d %5d %5d %5d %5d %10d %10d %10d\n", q.Key, q.ID, q.Mode, q.Bytes, q.N,
			q.LSPID, q.LRPID, q.UID, q.GID, q.CUID, q.CGID, q.Stime, q.Rtime, q.Ctime)
	}
}

// ipcLimit is a file of /proc/sys that holds limits of the caller's IPC
// namespace. least and most bound each of its numbers (ipc/ipc_sysctl.c).
type ipcLimit struct {
	path        string
	fields      func(*ipc.Limits) []*int
	least, most int
}

func one(f func(*ipc.Limits) *int) func(*ipc.Limits) []*int {
	return func(l *ipc.Limits) []*int { return []*int{f(l)} }
}

const maxInt = 1<<31 - 1

var ipcLimits = []ipcLimit{
	{"kernel/shmmni", one(func(l *ipc.Limits) *int { return &l.ShmMNI }), 0, 1 << 15},
	{"kernel/shm_rmid_forced", one(func(l *ipc.Limits) *int { return &l.RmidForced }), 0, 1},
	{"kernel/sem", func(l *ipc.Limits) []*int { return []*int{&l.SemMSL, &l.SemMNS, &l.SemOPM, &l.SemMNI} }, 0, maxInt},
	{"kernel/msgmax", one(func(l *ipc.Limits) *int { return &l.MsgMax }), 0, maxInt},
	{"kernel/msgmnb", one(func(l *ipc.Limits) *int { return &l.MsgMNB }), 0, maxInt},
	{"kernel/msgmni", one(func(l *ipc.Limits) *int { return &l.MsgMNI }), 0, 1 << 15},
	{"fs/mqueue/queues_max", one(func(l *ipc.Limits) *int { return &l.MQueues }), 0, maxInt},
	{"fs/mqueue/msg_max", one(func(l *ipc.Limits) *int { return &l.MQMsgMax }), 1, 65536},
	{"fs/mqueue/msgsize_max", one(func(l *ipc.Limits) *int { return &l.MQMsgSizeMax }), 128, 16 << 20},
	{"fs/mqueue/msg_default", one(func(l *ipc.Limits) *int { return &l.MQMsgDefault }), 1, 65536},
	{"fs/mqueue/msgsize_default", one(func(l *ipc.Limits) *int { return &l.MQSizeDefault }), 128, 16 << 20},
}

// addIPCLimits adds the files that ipcLimits lists, and those of the two limits
// that are longer than an int.
func (fs *FileSystem) addIPCLimits(root *kernfs.Dir) {
	for _, x := range ipcLimits {
		f := fs.NewFile(0o644, func(ctx vfs.Context) ([]byte, error) {
			l := fs.ipc(ctx).Limits()
			var words []string
			for _, p := range x.fields(&l) {
				words = append(words, strconv.Itoa(*p))
			}
			return []byte(strings.Join(words, "\t") + "\n"), nil
		})
		f.Write = func(ctx vfs.Context, b []byte) error { return x.set(fs.ipc(ctx), string(b)) }
		place(root, x.path, f)
	}
	for path, field := range map[string]func(*ipc.Limits) *uint64{
		"kernel/shmmax": func(l *ipc.Limits) *uint64 { return &l.ShmMax },
		"kernel/shmall": func(l *ipc.Limits) *uint64 { return &l.ShmAll },
	} {
		f := fs.NewFile(0o644, func(ctx vfs.Context) ([]byte, error) {
			l := fs.ipc(ctx).Limits()
			return fmt.Appendf(nil, "%d\n", *field(&l)), nil
		})
		f.Write = func(ctx vfs.Context, b []byte) error {
			n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 0, 64)
			if err != nil {
				return unix.EINVAL
			}
			fs.ipc(ctx).SetLimits(func(l *ipc.Limits) { *field(l) = n })
			return nil
		}
		place(root, path, f)
	}
}

// set takes as many numbers as there are written.
func (x *ipcLimit) set(ns *ipc.Namespace, s string) error {
	words := strings.Fields(s)
	var numbers []int
	for _, w := range words {
		n, err := strconv.ParseInt(w, 0, 64)
		if err != nil || n < int64(x.least) || n > int64(x.most) {
			return unix.EINVAL
		}
		numbers = append(numbers, int(n))
	}
	ns.SetLimits(func(l *ipc.Limits) {
		fields := x.fields(l)
		for i, n := range numbers[:min(len(numbers), len(fields))] {
			*fields[i] = n
		}
	})
	return nil
}

// place adds f under a path, with the directories on the way.
func place(root *kernfs.Dir, path string, f vfs.Inode) {
	dir, name := root, path
	for {
		first, rest, ok := strings.Cut(name, "/")
		if !ok {
			dir.Add(name, f)
			return
		}
		dir, name = dir.Sub(first), rest
	}
}

package proc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"

	"bulkhead/sentry/fs/kernfs"
)

// taskFile is one file of a process's directory.
type taskFile struct {
	name  string
	perm  uint32
	on    where
	trace bool // only for who may trace the process
	read  func(fs *FileSystem, ctx vfs.Context, s subject) ([]byte, error)
	write func(fs *FileSystem, ctx vfs.Context, s subject, b []byte) error
	open  func(f *kernfs.File, s subject, name string) // sets what else there is
}

type where uint8

const (
	both where = iota
	wholeOnly
	threadOnly
)

// taskFiles are fs/proc/base.c's tgid_base_stuff and tid_base_stuff.
var taskFiles = []*taskFile{
	{name: "status", perm: 0o444, read: status},
	{name: "stat", perm: 0o444, read: stat},
	{name: "statm", perm: 0o444, read: statm},
	{name: "cmdline", perm: 0o444, read: cmdline},
	{name: "comm", perm: 0o644, read: comm, write: setComm},
	{name: "environ", perm: 0o400, trace: true, read: environ},
	{name: "auxv", perm: 0o400, trace: true, read: auxv},
	{name: "maps", perm: 0o444, trace: true, read: maps},
	{name: "smaps", perm: 0o444, trace: true, read: smaps},
	{name: "smaps_rollup", perm: 0o444, trace: true, read: smapsRollup},
	{name: "numa_maps", perm: 0o444, trace: true, read: numaMaps},
	{name: "mem", perm: 0o600, trace: true},
	{name: "pagemap", perm: 0o400, trace: true},
	{name: "clear_refs", perm: 0o200, write: clearRefs},
	{name: "mounts", perm: 0o444, read: mounts, open: openMounts},
	{name: "mountinfo", perm: 0o444, read: mountinfo, open: openMounts},
	{name: "mountstats", perm: 0o400, on: wholeOnly, read: mountstats},
	{name: "limits", perm: 0o444, read: limits},
	{name: "io", perm: 0o400, trace: true, read: ioCounts},
	{name: "cgroup", perm: 0o444, read: cgroup},
	{name: "cpuset", perm: 0o444, read: fixed("/\n")},
	{name: "wchan", perm: 0o444, read: fixed("0")}, // no symbols to name
	{name: "syscall", perm: 0o400, trace: true, read: syscall},
	{name: "stack", perm: 0o400, read: stack},
	{name: "personality", perm: 0o400, trace: true, read: personality},
	{name: "loginuid", perm: 0o644, read: loginUID, write: setLoginUID},
	{name: "sessionid", perm: 0o444, read: sessionID},
	{name: "oom_score", perm: 0o444, read: oomScore},
	{name: "oom_score_adj", perm: 0o644, read: oomScoreAdj, write: setOOMScoreAdj},
	{name: "oom_adj", perm: 0o644, read: oomAdj, write: setOOMAdj},
	{name: "uid_map", perm: 0o644, read: uidMap, open: openUser},
	{name: "gid_map", perm: 0o644, read: gidMap, open: openUser},
	{name: "projid_map", perm: 0o644, read: fixed(idMap), open: openUser},
	{name: "setgroups", perm: 0o644, read: setgroups, open: openUser},
	{name: "coredump_filter", perm: 0o644, on: wholeOnly, read: dumpFilter, write: setDumpFilter},
	{name: "sched", perm: 0o644, read: sched, write: refuseWrite},
	{name: "schedstat", perm: 0o444, read: schedstat},
	{name: "timerslack_ns", perm: 0o666, on: wholeOnly, read: timerSlack, write: setTimerSlack},
	{name: "timens_offsets", perm: 0o644, on: wholeOnly, read: timeOffsets, open: openTimeOffsets},
	{name: "timers", perm: 0o444, on: wholeOnly, read: timers},
	{name: "autogroup", perm: 0o644, on: wholeOnly, read: fixed("/autogroup-1 nice 0\n"), write: refuseWrite},
	{name: "children", perm: 0o444, on: threadOnly, read: children},
}

// idMap is the initial user namespace's.
const idMap = "         0          0 4294967295\n"

type reader = func(*FileSystem, vfs.Context, subject) ([]byte, error)

func fixed(text string) reader {
	return func(*FileSystem, vfs.Context, subject) ([]byte, error) { return []byte(text), nil }
}

func refuseWrite(*FileSystem, vfs.Context, subject, []byte) error  { return unix.EPERM }
func noModule(*FileSystem, vfs.Context, subject) ([]byte, error)   { return nil, unix.EINVAL } // no security module
func refuseModule(*FileSystem, vfs.Context, subject, []byte) error { return unix.EINVAL }

func (fs *FileSystem) newTaskFile(s subject, f *taskFile) vfs.Inode {
	n := fs.NewFile(f.perm, nil)
	n.Owner = s.owner
	if f.read != nil {
		n.Read = func(ctx vfs.Context) ([]byte, error) {
			if err := s.alive(); err != nil {
				return nil, err
			}
			return f.read(fs, ctx, s)
		}
	}
	if f.write != nil {
		n.Write = func(ctx vfs.Context, b []byte) error {
			if err := s.alive(); err != nil {
				return err
			}
			return f.write(fs, ctx, s, b)
		}
	}
	n.OnOpen = func(ctx vfs.Context, _ int) error {
		if err := s.alive(); err != nil {
			return err
		}
		if f.trace {
			return mayTrace(ctx, s)
		}
		return nil
	}
	if f.open != nil {
		f.open(n, s, f.name)
	}
	switch f.name {
	case "mem":
		openMem(n, s)
	case "pagemap":
		openPagemap(n, s)
	}
	return n
}

// openMem reads the memory that the process had when the file was opened.
// Permissions of the pages do not count (FOLL_FORCE).
func openMem(n *kernfs.File, s subject) {
	n.At = func(_ vfs.Context, dst memory.Buffers, off int64) (int, error) {
		m := s.memory()
		if m == nil {
			return 0, nil
		}
		b := make([]byte, min(dst.Len(), 1<<20))
		got, err := m.Peek(memory.Addr(off), b)
		if got == 0 && err != nil && len(b) > 0 {
			return 0, unix.EIO
		}
		return dst.CopyOut(b[:got]), nil
	}
	n.WriteAt = func(_ vfs.Context, src memory.Buffers, off int64) (int, error) {
		m := s.memory()
		if m == nil {
			return 0, nil
		}
		b := make([]byte, min(src.Len(), 1<<20))
		b = b[:src.CopyIn(b)]
		put, err := m.Poke(memory.Addr(off), b)
		if put == 0 && err != nil {
			return 0, unix.EIO
		}
		return put, nil
	}
}

// openPagemap has an entry of eight bytes a page (Documentation/admin-guide/mm/pagemap.rst).
// Which frame holds the page it does not tell, as to a reader without CAP_SYS_ADMIN.
func openPagemap(n *kernfs.File, s subject) {
	const entry, most = 8, 1 << 13 // bytes; entries a read
	n.At = func(_ vfs.Context, dst memory.Buffers, off int64) (int, error) {
		if off%entry != 0 || dst.Len()%entry != 0 {
			return 0, unix.EINVAL
		}
		m := s.memory()
		if m == nil {
			return 0, nil
		}
		var b []byte
		for _, e := range m.Pagemap(uint64(off/entry), min(uint64(dst.Len()/entry), most)) {
			b = binary.LittleEndian.AppendUint64(b, e)
		}
		return dst.CopyOut(b), nil
	}
}

// clearRefs forgets the peak of resident memory (5). Which pages were looked at since (1
// to 3) is not known: all count as referenced, always. Nor is which were written (4),
// and who asks for that would believe the answer.
func clearRefs(_ *FileSystem, _ vfs.Context, s subject, b []byte) error {
	v, err := parseInt(b)
	if err != nil || v < 1 || v > 5 || v == 4 {
		return unix.EINVAL
	}
	if m := s.memory(); m != nil && v == 5 {
		m.ResetPeak()
	}
	return nil
}

// text reads [from, to) of the process's memory.
func (s subject) text(from, to memory.Addr) []byte {
	m := s.memory()
	if m == nil || to <= from {
		return nil
	}
	b := make([]byte, min(uint64(to-from), 4<<20))
	n, _ := m.Read(from, b)
	return b[:n]
}

// cmdline are the arguments. A program that wrote over them, past their end into
// its environment, is shown up to the first NUL (fs/proc/base.c, get_mm_cmdline).
func cmdline(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	st := s.t.Start()
	if st == nil || s.memory() == nil {
		return nil, nil
	}
	b := s.text(st.ArgStart, st.ArgEnd)
	if len(b) == 0 || b[len(b)-1] == 0 {
		return b, nil
	}
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i+1], nil
	}
	b = append(b, s.text(st.EnvStart, st.EnvEnd)...)
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i+1]
	}
	return b, nil
}

func environ(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	st := s.t.Start()
	if st == nil {
		return nil, nil
	}
	return s.text(st.EnvStart, st.EnvEnd), nil
}

func auxv(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	st := s.t.Start()
	if st == nil || s.memory() == nil {
		return nil, nil
	}
	return st.Auxv, nil
}

func comm(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	return []byte(s.t.Comm() + "\n"), nil
}

func setComm(_ *FileSystem, ctx vfs.Context, s subject, b []byte) error {
	if t, ok := caller(ctx); !ok || t.Group() != s.g {
		return unix.EINVAL
	}
	s.t.SetComm(strings.TrimSuffix(string(b), "\n"))
	return nil
}

// limitRows are fs/proc/base.c's lnames.
var limitRows = []struct {
	name, unit string
	resource   int
}{
	{"Max cpu time", "seconds", unix.RLIMIT_CPU},
	{"Max file size", "bytes", unix.RLIMIT_FSIZE},
	{"Max data size", "bytes", unix.RLIMIT_DATA},
	{"Max stack size", "bytes", unix.RLIMIT_STACK},
	{"Max core file size", "bytes", unix.RLIMIT_CORE},
	{"Max resident set", "bytes", unix.RLIMIT_RSS},
	{"Max processes", "processes", unix.RLIMIT_NPROC},
	{"Max open files", "files", unix.RLIMIT_NOFILE},
	{"Max locked memory", "bytes", unix.RLIMIT_MEMLOCK},
	{"Max address space", "bytes", unix.RLIMIT_AS},
	{"Max file locks", "locks", unix.RLIMIT_LOCKS},
	{"Max pending signals", "signals", unix.RLIMIT_SIGPENDING},
	{"Max msgqueue size", "bytes", unix.RLIMIT_MSGQUEUE},
	{"Max nice priority", "", unix.RLIMIT_NICE},
	{"Max realtime priority", "", unix.RLIMIT_RTPRIO},
	{"Max realtime timeout", "us", unix.RLIMIT_RTTIME},
}

func limits(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-25s %-20s %-20s %-10s\n", "Limit", "Soft Limit", "Hard Limit", "Units")
	show := func(v uint64) string {
		if v == ^uint64(0) {
			return "unlimited"
		}
		return strconv.FormatUint(v, 10)
	}
	for _, r := range limitRows {
		l := s.g.Limits.Get(r.resource)
		fmt.Fprintf(&b, "%-25s %-20s %-20s ", r.name, show(l.Cur), show(l.Max))
		if r.unit == "" {
			b.WriteString("\n")
		} else {
			fmt.Fprintf(&b, "%-10s\n", r.unit)
		}
	}
	return b.Bytes(), nil
}

// ioCounts leaves cancelled_write_bytes at 0: nothing is written back later.
func ioCounts(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	c := &s.g.IO
	return fmt.Appendf(nil, "rchar: %d\nwchar: %d\nsyscr: %d\nsyscw: %d\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
		c.ReadBytes.Load(), c.WriteBytes.Load(), c.ReadCalls.Load(), c.WriteCalls.Load()), nil
}

// cgroup is /: a container has a control group namespace (cgroup_namespaces(7)).
func cgroup(*FileSystem, vfs.Context, subject) ([]byte, error) { return []byte("0::/\n"), nil }

// syscall shows the registers of the asking task alone: another's may change
// while one looks.
func syscall(_ *FileSystem, ctx vfs.Context, s subject) ([]byte, error) {
	if t, ok := caller(ctx); ok && t == s.t {
		r := t.Context()
		return fmt.Appendf(nil, "%d 0x%x 0x%x 0x%x 0x%x 0x%x 0x%x 0x%x 0x%x\n",
			t.SyscallNumber(), r.Rdi, r.Rsi, r.Rdx, r.R10, r.R8, r.R9, r.Rsp, r.Rip), nil
	}
	return []byte("running\n"), nil
}

// stack is empty: there is no kernel stack to show.
func stack(_ *FileSystem, ctx vfs.Context, _ subject) ([]byte, error) {
	if !ctx.Creds().Has(unix.CAP_SYS_ADMIN) {
		return nil, unix.EACCES
	}
	return nil, nil
}

func personality(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	return fmt.Appendf(nil, "%08x\n", s.t.Personality.Load()), nil
}

func parseInt(b []byte) (int64, error) {
	v, err := strconv.ParseInt(strings.TrimSpace(string(b)), 0, 64)
	if err != nil {
		return 0, unix.EINVAL
	}
	return v, nil
}

func loginUID(_ *FileSystem, ctx vfs.Context, s subject) ([]byte, error) {
	id, _ := userOf(ctx).UIDs().Out(s.t.Login().UID)
	return fmt.Appendf(nil, "%d", id), nil
}

// setLoginUID is fs/proc/base.c, proc_loginuid_write: a task says for itself whom it
// works for, once if it is not privileged.
func setLoginUID(_ *FileSystem, ctx vfs.Context, s subject, b []byte) error {
	if t, ok := caller(ctx); !ok || t != s.t {
		return unix.EPERM
	}
	v, err := strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return unix.ERANGE
	} else if err != nil {
		return unix.EINVAL
	}
	const unset = ^uint32(0)
	id := uint32(v)
	if id != unset {
		var ok bool
		if id, ok = ctx.Creds().User.UIDs().In(id); !ok {
			return unix.EINVAL
		}
	}
	if s.t.Login().UID != unset && !ctx.Creds().Has(unix.CAP_AUDIT_CONTROL) {
		return unix.EPERM
	}
	s.t.SetLogin(id)
	return nil
}

func sessionID(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	return fmt.Appendf(nil, "%d", s.t.Login().Session), nil
}

func timerSlack(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	return fmt.Appendf(nil, "%d\n", s.t.Slack.Load()), nil
}

func setTimerSlack(_ *FileSystem, ctx vfs.Context, s subject, b []byte) error {
	v, err := parseInt(b)
	if err != nil || v < 0 {
		return unix.EINVAL
	}
	if t, ok := caller(ctx); (!ok || t.Group() != s.g) && !ctx.Creds().Has(unix.CAP_SYS_NICE) {
		return unix.EPERM
	}
	if v == 0 {
		v = 50000
	}
	s.t.Slack.Store(uint64(v))
	return nil
}

func dumpFilter(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	return fmt.Appendf(nil, "%08x\n", s.g.DumpFilter.Load()), nil
}

// setDumpFilter is fs/proc/base.c, proc_coredump_filter_write: nine bits.
func setDumpFilter(_ *FileSystem, _ vfs.Context, s subject, b []byte) error {
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 0, 32)
	if err != nil {
		return unix.EINVAL
	}
	s.g.DumpFilter.Store(uint32(v) & 0x1ff)
	return nil
}

// schedstat: time on a CPU in nanoseconds, time waiting for one (not known), how
// often it ran.
func schedstat(_ *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	user, sys := s.t.CPUTime()
	v, i := s.t.Switches()
	return fmt.Appendf(nil, "%d 0 %d\n", int64(user+sys), v+i), nil
}

func sched(fs *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	user, sys := s.t.CPUTime()
	v, i := s.t.Switches()
	ns := int64(user + sys)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s (%d, #threads: %d)\n", s.t.Comm(), s.t.ID().In(fs.pids()), len(s.g.Tasks()))
	b.WriteString(strings.Repeat("-", 67) + "\n")
	fmt.Fprintf(&b, "%-45s:%14d.%06d\n", "se.sum_exec_runtime", ns/1e6, ns%1e6)
	for _, r := range []struct {
		name string
		v    int64
	}{
		{"nr_switches", int64(v + i)}, {"nr_voluntary_switches", int64(v)}, {"nr_involuntary_switches", int64(i)},
		{"policy", int64(s.t.Policy.Load())}, {"prio", priority(s.t) + 100},
	} {
		fmt.Fprintf(&b, "%-45s:%21d\n", r.name, r.v)
	}
	return b.Bytes(), nil
}

func children(fs *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	if s.t != s.g.Leader() {
		return nil, nil // which thread made a child is not kept for this
	}
	var b []byte
	for _, c := range s.g.Children() {
		b = fmt.Appendf(b, "%d ", c.ID().In(fs.pids()))
	}
	return b, nil
}

const pageSize = platform.PageSize

// timers is fs/proc/base.c, show_timer.
func timers(fs *FileSystem, _ vfs.Context, s subject) ([]byte, error) {
	const threadID = 4 // SIGEV_THREAD_ID
	notify := [...]string{"signal", "none", "thread", "?"}
	var b []byte
	for _, t := range s.g.Timers.All() {
		e := t.Sigev
		kind, to := "pid", s.g.ID().In(fs.pids())
		if e.Notify&threadID != 0 {
			kind, to = "tid", e.TID
		}
		b = fmt.Appendf(b, "ID: %d\nsignal: %d/%016x\nnotify: %s/%s.%d\nClockID: %d\n",
			t.ID, e.Signal, e.Value, notify[e.Notify&3], kind, to, t.Clock)
	}
	return b, nil
}

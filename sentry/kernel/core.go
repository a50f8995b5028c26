package kernel

import (
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// A core file is what fs/coredump.c and fs/binfmt_elf.c make of a process that ends by
// one of the signals of signal(7)'s action Core: all its threads come to their ends and
// wait there, with their registers saved, until the thread that took the signal has
// written the file; elfcore.go says what stands in it. A pipe (|program) is no
// pattern here: Linux runs such programs outside of every container.

var coreSignals = set(unix.SIGQUIT, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGFPE, unix.SIGSEGV, unix.SIGBUS,
	unix.SIGSYS, unix.SIGXCPU, unix.SIGXFSZ)

const (
	minCore     = 4096 // less than RLIMIT_CORE this is none (binfmt_elf.c, min_coredump)
	maxPattern  = 127  // bytes (CORENAME_MAX_SIZE with its NUL)
	defaultDump = 0x33 // coredump_filter: anonymous memory, ELF headers, private huge pages
)

// CorePattern is kernel.core_pattern and core_uses_pid.
type CorePattern struct {
	mu      sync.Mutex
	pattern string
	usesPID bool
}

// Get is both, Set and SetUsesPID change them. A pattern that Linux would have another
// program take is EINVAL.
func (c *CorePattern) Get() (pattern string, usesPID bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pattern, c.usesPID
}

func (c *CorePattern) Set(pattern string) error {
	if strings.HasPrefix(pattern, "|") || strings.HasPrefix(pattern, "@") {
		return unix.EINVAL
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pattern = pattern[:min(len(pattern), maxPattern)]
	return nil
}

func (c *CorePattern) SetUsesPID(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.usesPID = on
}

// dump is a core file in the making. Its fields are under Kernel.mu.
type dump struct {
	by       *Task
	missing  int           // threads that are still on their way
	gathered chan struct{} // closed when none is
	threads  []*Task       // that have come, with their registers saved
	done     chan struct{} // closed when they may go
}

// die ends the process for a signal, with a core file if there is to be one. Only
// t's own goroutine calls it.
func (t *Task) die(info *SigInfo) {
	k, g := t.k, t.group
	sig := info.Signo()
	status := int32(sig)
	k.mu.Lock()
	d := k.beginDumpLocked(t, sig)
	k.mu.Unlock()
	if d != nil && t.dumpCore(d, info) {
		status |= 0x80 // WCOREDUMP
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if d != nil {
		g.dump, g.exitStatus = nil, status
		close(d.done)
	}
	k.exitGroupLocked(g, status)
}

// beginDumpLocked has the other threads of t's process come to their ends, and nobody
// else decide how it ends; nil if no core is wanted (do_coredump, zap_threads).
func (k *Kernel) beginDumpLocked(t *Task, sig unix.Signal) *dump {
	g := t.group
	wanted := g.Limits.Get(unix.RLIMIT_CORE).Cur >= minCore && g.Dumpable.Load() == 1
	if !coreSignals.Has(sig) || !wanted || g.exiting || g.execing != nil || t.killed || t.mm == nil {
		return nil
	}
	d := &dump{by: t, gathered: make(chan struct{}), done: make(chan struct{})}
	g.dump, g.exiting, g.exitStatus = d, true, int32(sig)
	for _, x := range g.tasks {
		if x == t {
			continue
		}
		x.killed = true
		if !x.leaving {
			d.missing++
		}
		x.kick(workExit)
	}
	g.endStopsLocked(t)
	if d.missing == 0 {
		close(d.gathered)
	}
	return d
}

// joinDump is the first thing at a task's end: if the process leaves a core file, the
// task shows its registers and waits.
func (t *Task) joinDump() {
	k := t.k
	k.mu.Lock()
	d := t.group.dump
	t.leaving = true
	k.mu.Unlock()
	if d == nil || d.by == t {
		return
	}
	saved := t.thread != nil && t.SaveContext() == nil
	k.mu.Lock()
	if saved {
		d.threads = append(d.threads, t)
	}
	if d.missing--; d.missing == 0 {
		close(d.gathered)
	}
	k.mu.Unlock()
	<-d.done
}

// dumpCore writes the core file and reports whether it did.
func (t *Task) dumpCore(d *dump, info *SigInfo) bool {
	<-d.gathered
	if err := t.SaveContext(); err != nil {
		t.k.Log.Error("save registers", "task", t.ID().Global(), "err", err)
		return false
	}
	limit := t.group.Limits.Get(unix.RLIMIT_CORE).Cur
	f, err := t.openCore(info.Signo(), limit)
	if err != nil {
		t.k.Log.Debug("no core file", "task", t.group.PID(), "err", err)
		return false
	}
	defer f.Unref()
	// A file that is cut at the limit, or by a full disk, is a core file all the same.
	if err := t.writeCore(f, limit, d, info); err != nil {
		t.k.Log.Debug("core file is cut", "task", t.group.PID(), "err", err)
	}
	return true
}

// openCore makes the file that the pattern names, as the process itself would: of its
// file system user, mode 0600, new, and no link.
func (t *Task) openCore(sig unix.Signal, limit uint64) (*vfs.Description, error) {
	const want = 0o600
	name, mode := t.coreName(sig, limit), want&^t.fs.Umask()
	if name == "" {
		return nil, unix.ENOENT
	}
	start := t.fs.Start()
	vfs.Unlink(t, start, name)
	f, err := vfs.Open(t, start, name, vfs.OpenHow{
		Flags: unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_LARGEFILE, Mode: mode,
	})
	if err == nil && mode != want { // where others may have a hand in it, it stays empty
		f.Unref()
		return nil, unix.EPERM
	}
	return f, err
}

// program is the name of the program's file.
func (t *Task) program() string {
	if p, ok := t.group.Exe(); ok {
		name := vfs.Name(t.fs.Root(), p)
		return name[strings.LastIndexByte(name, '/')+1:]
	}
	return t.Comm()
}

// coreName is format_corename (core(5), Naming of core dump files).
func (t *Task) coreName(sig unix.Signal, limit uint64) string {
	pattern, usesPID := t.k.Core.Get()
	c := t.Creds()
	pid := strconv.Itoa(int(t.PID()))
	var b strings.Builder
	hasPID := false
	for i := 0; i < len(pattern); i++ {
		if pattern[i] != '%' {
			b.WriteByte(pattern[i])
			continue
		}
		if i++; i == len(pattern) {
			break
		}
		switch pattern[i] {
		case '%':
			b.WriteByte('%')
		case 'p':
			hasPID = true
			b.WriteString(pid)
		case 'P':
			b.WriteString(strconv.Itoa(int(t.group.id.Contained())))
		case 'i':
			b.WriteString(strconv.Itoa(int(t.TID())))
		case 'I':
			b.WriteString(strconv.Itoa(int(t.ID().Contained())))
		case 'u':
			b.WriteString(strconv.FormatUint(uint64(c.UID), 10))
		case 'g':
			b.WriteString(strconv.FormatUint(uint64(c.GID), 10))
		case 'd':
			b.WriteString(strconv.Itoa(int(t.group.Dumpable.Load())))
		case 's':
			b.WriteString(strconv.Itoa(int(sig)))
		case 't':
			b.WriteString(strconv.FormatInt(t.Now().Sec, 10))
		case 'h':
			host, _ := t.Namespaces().UTS.Names()
			b.WriteString(partOfName(host))
		case 'e':
			b.WriteString(partOfName(t.Comm()))
		case 'f':
			b.WriteString(partOfName(t.program()))
		case 'E':
			if p, ok := t.group.Exe(); ok {
				b.WriteString(partOfName(vfs.Name(t.fs.Root(), p)))
			}
		case 'c':
			b.WriteString(strconv.FormatUint(limit, 10))
		case 'C':
			b.WriteByte('0')
		}
	}
	if usesPID && !hasPID {
		b.WriteString("." + pid)
	}
	return b.String()
}

// partOfName keeps what a program calls itself from leading elsewhere (cn_esc_printf).
func partOfName(s string) string {
	s = strings.ReplaceAll(s, "/", "!")
	if s == "" || s == "." || s == ".." {
		return "!" + s[min(len(s), 1):]
	}
	return s
}

// coreSize is how much of the memory that v shows stands in a core file under filter
// (fs/coredump.c, vma_dump_size).
func coreSize(mm *memory.Space, v *memory.VMA, filter uint32) uint64 {
	const anonPrivate, anonShared, filePrivate, fileShared, elfHeaders = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
	size := uint64(v.End - v.Start)
	switch {
	case v.Name == "[vdso]":
		return size
	case v.DontDump:
		return 0
	case v.Shared && strings.HasSuffix(v.Name, " (deleted)"):
		return size * uint64(filter&anonShared/anonShared)
	case v.Shared:
		return size * uint64(filter&fileShared/fileShared)
	case v.Private > 0 && filter&anonPrivate != 0:
		return size
	case v.Anonymous:
		return 0
	case filter&filePrivate != 0:
		return size
	case filter&elfHeaders != 0 && v.Offset == 0 && v.Access&readable != 0:
		var magic [4]byte
		if n, _ := mm.Peek(v.Start, magic[:]); n == 4 && string(magic[:]) == "\x7fELF" {
			return memory.PageSize
		}
	}
	return 0
}

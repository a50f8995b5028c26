package kernel

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// Image is a program made ready by the loader.
type Image struct {
	MM    *memory.Space
	Entry uint64
	Stack uint64 // the first stack pointer
	Exe   vfs.Path
	Comm  string
	Creds *vfs.Creds // after set-user-ID and file capabilities
	// Secure says that the program gained privilege (AT_SECURE).
	Secure bool
	Start  *Start
}

// Drop gives up a program that is not going to run.
func (img *Image) Drop() {
	img.MM.Release()
	vfs.AllowWrite(img.Exe.Inode())
}

// Start is where a program's arguments lie, for /proc; it is immutable.
type Start struct {
	ArgStart, ArgEnd, EnvStart, EnvEnd memory.Addr
	Auxv                               []byte
}

// SingleOut ends all other threads of the process; the caller takes the
// leader's id. It is the point of no return of exec (fs/exec.c, de_thread).
func (t *Task) SingleOut() error {
	k, g := t.k, t.group
	k.mu.Lock()
	if g.exiting || g.execing != nil {
		k.mu.Unlock()
		return unix.EAGAIN
	}
	g.execing, g.execDone = t, make(chan struct{}, 1)
	for _, x := range g.tasks {
		if x != t {
			x.killed = true
			x.kick(workExit)
		}
	}
	g.endStopsLocked(t)
	// Threads that are traced end when their tracer has waited for them.
	for (len(g.tasks) > 1 || len(g.zombies) > 0) && !g.exiting {
		done := g.execDone
		k.mu.Unlock()
		select {
		case <-done:
		case <-t.interrupt:
		}
		k.mu.Lock()
	}
	defer k.mu.Unlock()
	defer func() { g.execing, g.execDone = nil, nil }()
	if g.exiting {
		return unix.EAGAIN
	}
	if t != g.leader {
		old := g.leader
		if tr := old.tr; tr != nil {
			k.unlinkLocked(old)
			tr.tracer.group.waiters.Notify(vfs.EventIn)
		}
		mine := t.ID()
		mine.task = nil
		mine.freeLocked()
		t.id.Store(g.id)
		g.id.task, t.exitSignal = t, old.exitSignal
		g.leader = t
		t.StartTime = old.StartTime
		for c := range g.children {
			if c.parentTask == old {
				c.parentTask = t
			}
		}
	}
	return nil
}

// Exec replaces the program. SingleOut came before.
func (t *Task) Exec(img Image) {
	k, g := t.k, t.group
	k.Execs.Add(1)
	old := t.mm
	if t.Tracer() != nil {
		img.MM.Unpatch()
	}
	if t.clearTID != 0 {
		old.StoreUint32(t.clearTID, 0)
		if key, err := old.Key(t.clearTID, true); err == nil {
			k.Futex.wake(key, 1, ^uint32(0))
		}
		t.clearTID = 0
	}
	t.exitRobust()
	t.exitPI()
	t.callEnds()
	t.ThreadKeyring.Store(0)
	g.ProcessKeyring.Store(0)
	g.Membarrier.Store(0)
	t.robust, t.RSeq, t.altStack, t.restart = RobustList{}, RSeq{}, AltStack{}, nil
	t.meterOut(old.Platform(), false)
	t.meterIn(img.MM.Platform())
	k.mu.Lock()
	t.mm = img.MM
	t.mm.SetOwner(t.PID())
	g.Handlers = g.Handlers.fork(true)
	g.execed = true
	if img.Secure {
		t.pdeath = 0
	}
	k.mu.Unlock()
	if n := t.Namespaces(); n.Time != n.TimeForChildren { // exec_task_namespaces
		t.namespaces.Swap(n.with(func(n *Namespaces) { n.Time = n.TimeForChildren.inhabit() })).drop()
	}
	g.Timers.exec()
	g.SetExe(img.Exe)
	t.SetComm(img.Comm)
	t.SetCreds(img.Creds)
	if img.Secure {
		g.Dumpable.Store(0)
	} else {
		g.Dumpable.Store(1)
	}
	if t.fds != nil {
		t.UnshareFDs()
		t.fds.CloseOnExec()
	}
	t.publish()
	old.Release()
	t.releaseVfork()
	call := t.ctx.Orig_rax
	t.SetEntry(img)
	t.ctx.Orig_rax = call // a tracer sees which call this was
}

// SetEntry puts the registers where a program starts: all zero but RIP and RSP
// (arch/x86/include/asm/elf.h, ELF_PLAT_INIT).
func (t *Task) SetEntry(img Image) {
	t.startInfo.Store(img.Start)
	t.ctx.Registers = platform.Registers{Rip: img.Entry, Rsp: img.Stack, Eflags: 0x202, Cs: 0x33, Ss: 0x2b, Orig_rax: ^uint64(0)}
	t.ctx.Partial = false
	t.ctx.FPU = nil
	t.ctx.Dirty = platform.DirtyAll
	t.haveSyscall = false
}

package kernel

import (
	"bytes"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel/ipc"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

type taskState uint8

const (
	taskNew taskState = iota
	taskRunning
	taskDead // off the list, or a zombie leader
)

// Task is one thread of the application. Fields without a lock belong to the
// task's goroutine.
type Task struct {
	k      *Kernel
	id     atomic.Pointer[PID]
	group  *ThreadGroup
	thread platform.Thread
	waiter platform.Waiter // the thread, if a CPU of its waits for answers; or nil
	ctx    platform.Context

	// work is not zero when the task must look at signals, stops or its end
	// before it runs application code again; inApp while Thread.Run is under way.
	work      atomic.Uint32
	hooks     atomic.Uint32 // not zero when system calls are to be seen by others
	inApp     atomic.Uint32
	interrupt chan struct{}                    // capacity 1: ends Block
	sleeper   atomic.Pointer[platform.Sleeper] // the thread, if it can sleep on its OS thread

	spawned bool // a task since the last sleep
	tryOnly bool // see TryOnly

	ownsPI  map[*piState]struct{} // under Kernel.pi.mu, as is the next
	waitsPI *piState

	endsMu sync.Mutex
	ends   map[any]func() // see AtEnd

	fs   *FSContext
	fds  *vfs.FDTable
	mm   *memory.Space
	view atomic.Pointer[view] // the three above, for other goroutines

	filter atomic.Pointer[Filter] // seccomp(2)
	strict atomic.Int32           // SeccompStrict

	creds      atomic.Pointer[vfs.Creds]
	namespaces atomic.Pointer[Namespaces]
	comm       atomic.Pointer[string]

	// Under Kernel.mu.
	state    taskState
	pending  pendingSignals
	mask     SigSet // written by the task alone
	killed   bool
	leaving  bool               // it has begun to end
	tr       *trace             // nil: nobody traces it
	tracees  map[*Task]struct{} // whom it traces
	frozen   bool               // it waits in frozenLocked, its registers saved
	halt     *halt              // the stop that it waits in
	message  uint64             // PTRACE_GETEVENTMSG
	trapping chan struct{}      // closed when an attached thread has come into a ptrace-stop

	// Stops to be made (Linux's jobctl): stopPending is to take part in a group-stop
	// by stopSig, which counts it if stopCounts; stopDequeued says that no SIGCONT
	// came since a signal was taken.
	stopPending, stopCounts, stopDequeued, trapStop, trapNotify bool
	stopSig                                                     unix.Signal

	exitStatus int32 // as wait(2) has it

	savedMask   SigSet // to restore after a handler, if restoreMask
	restoreMask bool
	altStack    AltStack
	semUndo     *ipc.UndoList // System V semaphores' adjustments; nil before the first
	restart     *Restart      // for ERESTART_RESTARTBLOCK
	haveSyscall bool          // the registers are those of a system call that may restart

	vforkDone  chan struct{} // closed when the child no longer uses the parent's memory
	vforker    *Task         // the parent, that waits for it
	clearTID   memory.Addr
	robust     RobustList
	exitSignal unix.Signal // told to the parent; leaders only
	pdeath     unix.Signal

	// CPU time, for clocks and /proc. Written by the task's goroutine.
	user, sys           spent
	entered             atomic.Int64  // when the present part began
	weighed             time.Duration // when the task looks at its meters next
	voluntary, involunt atomic.Uint64
	MinFaults           atomic.Uint64

	// Things the syscalls room keeps for a task.
	Nice        atomic.Int32
	Policy      atomic.Int32
	Priority    atomic.Int32
	Personality atomic.Uint32
	Slack       atomic.Uint64 // timer slack, nanoseconds
	Affinity    atomic.Uint64 // CPUs it asked for, by bit; 0 for all
	TSCFault    atomic.Bool
	RSeq        RSeq
	StartTime   time.Duration // since boot
	// Keyrings by id, 0 for none (keyctl(2)).
	SessionKeyring, ThreadKeyring atomic.Int32
	login                         atomic.Pointer[Login] // nil: nobody's
	startInfo                     atomic.Pointer[Start]
	blockedIn                     atomic.Pointer[string]
	callArgs                      [6]uint64
	callNumber                    atomic.Int64 // the system call being answered, -1 if none

	faultTrap, faultErr, faultAddr uint64 // of the last fault, for signal frames
}

// view is what /proc and other tasks may look at.
type view struct {
	fs  *FSContext
	fds *vfs.FDTable
	mm  *memory.Space
}

// RSeq is what rseq(2) registered.
type RSeq struct {
	At        memory.Addr
	Size      uint32
	Signature uint32
}

// FSContext is what CLONE_FS shares.
type FSContext struct {
	refs  atomic.Int32 // tasks
	mu    sync.Mutex
	ns    *vfs.Namespace
	root  vfs.Path
	cwd   vfs.Path
	umask uint32
}

// NewFSContext starts with both directories at root.
func NewFSContext(ns *vfs.Namespace, root, cwd vfs.Path, umask uint32) *FSContext {
	ns.Take()
	f := &FSContext{ns: ns, root: root, cwd: cwd, umask: umask}
	root.Hold()
	cwd.Hold()
	f.take()
	return f
}

func (f *FSContext) clone() *FSContext {
	f.mu.Lock()
	defer f.mu.Unlock()
	return NewFSContext(f.ns, f.root, f.cwd, f.umask)
}

func (f *FSContext) take() { f.refs.Add(1) }

func (f *FSContext) drop() {
	if f.refs.Add(-1) == 0 {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.root.Let()
		f.cwd.Let()
		f.ns.Drop()
	}
}

// unshareMounts gives f, which nobody else has yet, a copy of its mounts.
func (f *FSContext) unshareMounts(owner *vfs.UserNamespace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ns, moved := f.ns.Clone(owner)
	f.enterLocked(ns, moved(f.root), moved(f.cwd))
}

// enterMounts puts f at the root of ns.
func (f *FSContext) enterMounts(ns *vfs.Namespace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.enterLocked(ns, ns.Root(), ns.Root())
}

func (f *FSContext) enterLocked(ns *vfs.Namespace, root, cwd vfs.Path) {
	ns.Take()
	old := f.ns
	setPath(&f.root, root)
	setPath(&f.cwd, cwd)
	f.ns = ns
	old.Drop()
}

// setPath changes a directory that keeps its mount busy.
func setPath(at *vfs.Path, to vfs.Path) {
	to.Hold()
	at.Let()
	*at = to
}

// follow goes with a root that pivot_root(2) moved (fs/fs_struct.c, chroot_fs_refs).
func (f *FSContext) follow(from, to vfs.Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range []*vfs.Path{&f.root, &f.cwd} {
		if *p == from {
			setPath(p, to)
		}
	}
}

// Namespace is the mount namespace.
func (f *FSContext) Namespace() *vfs.Namespace {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ns
}

// Start is where names begin.
func (f *FSContext) Start() vfs.Start {
	f.mu.Lock()
	defer f.mu.Unlock()
	return vfs.Start{Root: f.root, At: f.cwd}
}

// Root and Cwd are the two directories.
func (f *FSContext) Root() vfs.Path { return f.Start().Root }
func (f *FSContext) Cwd() vfs.Path  { return f.Start().At }

// SetRoot and SetCwd change them.
func (f *FSContext) SetRoot(p vfs.Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	setPath(&f.root, p)
}

func (f *FSContext) SetCwd(p vfs.Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	setPath(&f.cwd, p)
}

// Umask is the file mode creation mask; SetUmask returns the old one.
func (f *FSContext) Umask() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.umask
}

func (f *FSContext) SetUmask(m uint32) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.umask
	f.umask = m & 0o777
	return old
}

// Kernel, TID, Group, Context, FS, FDs: what the task is and has. Context, FS,
// FDs and MM are for the task's own goroutine. TID and PID are as the task itself
// knows them (gettid(2)); how another does is Number's.
func (t *Task) Kernel() *Kernel     { return t.k }
func (t *Task) TID() int32          { return t.ID().Here() }
func (t *Task) Group() *ThreadGroup { return t.group }
func (t *Task) PID() int32          { return t.group.id.Here() }
func (t *Task) FS() *FSContext      { return t.fs }
func (t *Task) FDs() *vfs.FDTable   { return t.fds }
func (t *Task) MM() *memory.Space   { return t.mm }
func (t *Task) Log() *slog.Logger   { return t.k.Log }

// Look returns another task's file-system context, descriptors and memory; any
// may be nil once it has exited. They must not be changed.
func (t *Task) Look() (*FSContext, *vfs.FDTable, *memory.Space) {
	if v := t.view.Load(); v != nil {
		return v.fs, v.fds, v.mm
	}
	return nil, nil, nil
}

func (t *Task) publish() { t.view.Store(&view{t.fs, t.fds, t.mm}) }

// WithFDs runs f with other descriptors than the task's own.
func (t *Task) WithFDs(fds *vfs.FDTable, f func()) {
	old := t.fds
	t.fds = fds
	defer func() {
		t.fds = old
		fds.Unref()
	}()
	f()
}

// IPC is the namespace of System V IPC and POSIX message queues.
func (t *Task) IPC() *ipc.Namespace { return t.Namespaces().IPC.Contents().(*ipc.Namespace) }

// IPC is the first such namespace.
func (k *Kernel) IPC() *ipc.Namespace { return k.first.IPC() }

// SemUndo is the list of what semop(2) is to undo when the task ends.
func (t *Task) SemUndo() *ipc.UndoList {
	if t.semUndo == nil {
		t.semUndo = t.IPC().NewUndo()
	}
	return t.semUndo
}

// HasSemUndoOf says whether x would have the same undone; for kcmp(2).
func (t *Task) HasSemUndoOf(x *Task) bool { return t.semUndo == x.semUndo }

// DropSemUndo gives the list up, which undoes if nobody shares it: at the task's
// end, and for unshare(CLONE_SYSVSEM).
func (t *Task) DropSemUndo() {
	if t.semUndo != nil {
		t.semUndo.Release(t.PID(), t.Now().Sec)
		t.semUndo = nil
	}
}

// UnshareFS and UnshareFDs give the task copies of its own (unshare(2), exec).
func (t *Task) UnshareFS() {
	old := t.fs
	t.fs = old.clone()
	old.drop()
	t.publish()
}

func (t *Task) UnshareFDs() {
	old := t.fds
	t.fds = old.Clone()
	old.Unref()
	t.publish()
}

// Creds, Memory, Now and Limit make a Task a vfs.Context.
func (t *Task) Creds() *vfs.Creds         { return t.creds.Load() }
func (t *Task) SetCreds(c *vfs.Creds)     { t.creds.Store(c) }
func (t *Task) Memory() *memory.Space     { return t.mm }
func (t *Task) Now() unix.Timespec        { return unix.NsecToTimespec(t.k.Clock.Realtime()) }
func (t *Task) Limit(resource int) uint64 { return t.group.Limits.Get(resource).Cur }

// Comm is the thread's name, at most 15 bytes.
func (t *Task) Comm() string { return *t.comm.Load() }

func (t *Task) SetComm(s string) {
	if len(s) > 15 {
		s = s[:15]
	}
	if i := bytes.IndexByte([]byte(s), 0); i >= 0 {
		s = s[:i]
	}
	t.comm.Store(&s)
}

// SyscallNumber is the call that the task is in, or -1.
func (t *Task) SyscallNumber() int64 { return t.callNumber.Load() }

// SetSyscall records it; -1 for none.
func (t *Task) SetSyscall(n int64) { platform.Store64(&t.callNumber, n) }

// Start is where the program's arguments lie; nil before the first exec.
func (t *Task) Start() *Start { return t.startInfo.Load() }

// Work bits.
const (
	workSignal uint32 = 1 << iota
	workExit
)

// kick makes t look at its work soon, wherever it is.
func (t *Task) kick(bits uint32) {
	t.work.Or(bits)
	if t.inApp.Load() != 0 {
		t.thread.Interrupt()
	}
	select {
	case t.interrupt <- struct{}{}:
	default:
	}
	t.rouse()
}

// start runs the task on a goroutine of its own.
func (t *Task) start() {
	t.k.done.Add(1)
	go t.main()
}

func (t *Task) main() {
	defer t.k.done.Done()
	defer t.guard()
	thread, err := t.k.Platform.NewThread()
	if err != nil {
		t.k.Log.Error("start thread", "task", t.ID().Global(), "err", err)
		t.k.mu.Lock()
		t.k.killGroupLocked(t.group, unix.SIGKILL)
		t.k.mu.Unlock()
	} else {
		t.k.mu.Lock()
		t.thread = thread
		if t.group.cgroup.thaw != nil {
			t.work.Or(workSignal)
		}
		t.k.mu.Unlock()
		t.waiter, _ = thread.(platform.Waiter)
		if s, ok := thread.(platform.Sleeper); ok {
			t.sleeper.Store(&s)
		}
		defer thread.Close()
		t.meterIn(t.mm.Platform())
		t.loop()
	}
	t.exit()
}

// guard turns a panic on the task's goroutine into the end of the container.
func (t *Task) guard() {
	if v := recover(); v != nil {
		t.k.Crash(t.ID().Global(), v)
	}
}

// Guard is for the goroutines of the Sentry that are no task's, to be deferred:
// a panic there ends the container as one on a task's does.
func (k *Kernel) Guard() {
	if v := recover(); v != nil {
		k.Crash(0, v)
	}
}

// Crash ends the container for the panic v, recovered on a goroutine of task's (0: of no task's).
func (k *Kernel) Crash(task int32, v any) {
	p := &Panic{Task: task, Value: v, Stack: debug.Stack()}
	k.Log.Error("panic", "task", task, "value", v, "stack", string(p.Stack))
	if k.panicked.CompareAndSwap(nil, p) && k.onPanic != nil {
		k.onPanic(p)
	}
}

// loop alternates between application and Sentry until the task must exit.
func (t *Task) loop() {
	t.ctx.Dirty, t.ctx.Lazy = platform.DirtyAll, true
	t.entered.Store(int64(t.k.Clock.forCPUTime()))
	for {
		t.account(&t.sys)
		t.inApp.Store(1)
		if t.work.Load() != 0 {
			t.inApp.Store(0)
			if !t.doWork() {
				return
			}
			continue
		}
		ev, err := t.thread.Run(&t.ctx, t.mm.Platform())
		t.account(&t.user)
		platform.Store32(&t.inApp, 0)
		if err != nil {
			t.k.Log.Error("run application", "task", t.ID().Global(), "err", err)
			t.ForceSignal(unix.SIGKILL)
			continue
		}
		t.handle(ev)
	}
}

func (t *Task) handle(ev platform.Event) {
	switch ev.Reason {
	case platform.Syscall:
		t.haveSyscall = true
		if t.hooks.Load() != 0 {
			t.hookedCall()
		} else {
			t.k.Calls.Serve(t)
		}
		if t.k.io.n.Load() != 0 {
			t.k.sendIO()
		}
	case platform.Fault:
		t.fault(ev)
	case platform.Signal:
		t.softwareInterrupt(&ev)
		info := faultInfo(ev.Signal, ev.Code, uint64(ev.Addr))
		t.forceFault(info, ev)
	case platform.Interrupted:
	}
}

// softwareInterrupt mends what INT n raises: a protection fault, since ring 3
// may not use the gate (SDM, Interrupt 13). kvm_pvm reports it as an invalid opcode.
func (t *Task) softwareInterrupt(ev *platform.Event) {
	const opcode, fromGate = 0xcd, 2 // the IDT bit of the error code
	if ev.Signal != unix.SIGILL {
		return
	}
	var insn [2]byte
	if n, _ := t.mm.Read(memory.Addr(t.ctx.Rip), insn[:]); n < 2 || insn[0] != opcode {
		return
	}
	*ev = platform.Event{Reason: platform.Signal, Signal: unix.SIGSEGV, Code: SI_KERNEL, Trap: 13, Err: uint64(insn[1])<<3 | fromGate}
}

func (t *Task) fault(ev platform.Event) {
	t.MinFaults.Add(1)
	t.k.Faults.Add(1)
	err := t.mm.Fault(ev.Addr, ev.Access)
	if m, ok := err.(*memory.Missing); ok {
		t.AwaitPage(m) // or a signal: the program comes again, if it still wants it
		return
	}
	switch err {
	case nil:
		return
	case unix.ENOMEM:
		t.k.mu.Lock()
		dying := t.killed
		t.k.mu.Unlock()
		if !dying {
			t.k.killLargest(t.group.cgroup)
		}
	case unix.ENXIO, unix.EIO, unix.EHWPOISON, unix.ENOSPC:
		t.forceFault(faultInfo(unix.SIGBUS, 2 /* BUS_ADRERR */, uint64(ev.Addr)), ev)
	case unix.EACCES:
		t.forceFault(faultInfo(unix.SIGSEGV, 2 /* SEGV_ACCERR */, uint64(ev.Addr)), ev)
	case unix.EFAULT:
		t.forceFault(faultInfo(unix.SIGSEGV, 1 /* SEGV_MAPERR */, uint64(ev.Addr)), ev)
	default:
		t.k.Log.Error("resolve fault", "task", t.ID().Global(), "addr", ev.Addr, "err", err)
		t.forceFault(faultInfo(unix.SIGBUS, 2, uint64(ev.Addr)), ev)
	}
}

// AwaitPage waits until a page may be there that the program gives itself
// (userfaultfd(2)). ERESTARTSYS: a signal came before.
func (t *Task) AwaitPage(m *memory.Missing) error {
	w := m.Wait(t.TID())
	if w == nil {
		return nil
	}
	defer w.Cancel()
	return t.Block(w.C)
}

// Switches is how often the task slept, and how often it was interrupted.
func (t *Task) Switches() (voluntary, involuntary uint64) {
	return t.voluntary.Load(), t.involunt.Load()
}

// State is the letter that /proc/PID/stat shows.
func (t *Task) State() byte {
	t.k.mu.Lock()
	defer t.k.mu.Unlock()
	switch {
	case t.state == taskDead:
		return 'Z'
	case t.halt != nil && t.halt.traced:
		return 't'
	case t.halt != nil:
		return 'T'
	case t.blockedIn.Load() != nil:
		return 'S'
	}
	return 'R'
}

// Context is the task's registers. It is for the task itself, or for who knows it
// to stand still (haltLocked).
func (t *Task) Context() *platform.Context {
	if t.ctx.Partial {
		t.thread.Fill(&t.ctx)
	}
	return &t.ctx
}

// CallContext is Context with the number and the arguments of a system call alone
// (platform.Context, Lazy), and RAX for its result.
func (t *Task) CallContext() *platform.Context { return &t.ctx }

// CallArgs is room for the arguments of the call being answered.
func (t *Task) CallArgs() *[6]uint64 { return &t.callArgs }

// SaveContext brings the FPU state and the segment bases in Context up to date.
func (t *Task) SaveContext() error { return t.thread.Save(&t.ctx) }

// DirtyBases says that the caller changed a segment base in Context.
func (t *Task) DirtyBases() { t.ctx.Dirty |= platform.DirtyBase }

// Barrier makes the other threads of the process (or of all processes) pass
// through the Sentry, which orders their memory accesses.
func (t *Task) Barrier(all bool) {
	k := t.k
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.root.ids {
		x := p.task
		if x != nil && x != t && (all || x.group == t.group) && x.inApp.Load() != 0 && x.state == taskRunning {
			x.thread.Interrupt()
		}
	}
}

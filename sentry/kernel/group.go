package kernel

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// ThreadGroup is a process.
type ThreadGroup struct {
	k        *Kernel
	cgroup   *Cgroup
	id       *PID
	Limits   Limits
	Handlers *SignalHandlers // shared by CLONE_SIGHAND; replaced by exec

	ProcessKeyring atomic.Int32  // by id, 0 for none
	Membarrier     atomic.Uint32 // commands of membarrier(2) that it registered for
	OOMScoreAdj    atomic.Int32
	Dumpable       atomic.Int32
	DumpFilter     atomic.Uint32 // /proc/PID/coredump_filter
	IO             IOCount
	Timers         Timers
	exe            atomic.Pointer[vfs.Path]
	subreaper      atomic.Bool

	// Under Kernel.mu.
	leader     *Task
	tasks      []*Task // living threads
	zombies    []*Task // ended ones, not the leader, that their tracer has not waited for
	parent     *ThreadGroup
	parentTask *Task // who cloned it, for __WNOTHREAD and PDEATHSIG
	children   map[*ThreadGroup]struct{}
	jobs       *ProcessGroup
	pending    pendingSignals
	exiting    bool // exit_group or a fatal signal: no thread goes on
	exitStatus int32
	dead       bool // all threads have ended; a zombie until reaped
	turn       int  // whose it is to take a CPU timer's signal
	execed     bool
	execing    *Task
	dump       *dump         // the core file that is being written
	execDone   chan struct{} // told when threads end while execing
	oomKilled  bool

	stopCount int // threads that are on their way into a group-stop
	stopped   bool
	stopSig   unix.Signal
	stopTold  bool // the parent has waited for it
	continued bool

	childCPU, deadCPU [2]time.Duration // user, system: of reaped children, of ended threads
	maxRSS, childRSS  uint64

	// waiters hears of children that changed state.
	waiters vfs.Queue
	// ended is closed when the group is dead; pidfds and outside waiters use it.
	ended    chan struct{}
	endQueue vfs.Queue
	signals  vfs.Queue // signalfd
}

// IOCount is /proc/PID/io.
type IOCount struct {
	ReadBytes, WriteBytes, ReadCalls, WriteCalls atomic.Uint64
}

// PID is the process's number in the sandbox's first namespace.
func (g *ThreadGroup) PID() int32      { return g.id.Global() }
func (g *ThreadGroup) Kernel() *Kernel { return g.k }

// Leader is the first thread.
func (g *ThreadGroup) Leader() *Task {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.leader
}

// Tasks are the living threads.
func (g *ThreadGroup) Tasks() []*Task {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return append([]*Task(nil), g.tasks...)
}

// PPID is the parent's process id in the sandbox's first namespace, 0 if it has none inside.
func (g *ThreadGroup) PPID() int32 { return g.ParentIn(g.k.root) }

// ParentIn is the parent's process id in ns, 0 if there is none or ns does not see it.
func (g *ThreadGroup) ParentIn(ns *PIDNamespace) int32 {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	if g.parent == nil {
		return 0
	}
	return g.parent.id.In(ns)
}

// Ended is closed when no thread is left, and EndQueue told EventIn.
func (g *ThreadGroup) Ended() <-chan struct{} { return g.ended }
func (g *ThreadGroup) EndQueue() *vfs.Queue   { return &g.endQueue }

// Dead reports whether no thread is left.
func (g *ThreadGroup) Dead() bool {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.dead
}

// Exiting reports whether no thread goes on.
func (g *ThreadGroup) Exiting() bool {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.exiting
}

// ExitStatus is the status that wait(2) reports; valid when Dead.
func (g *ThreadGroup) ExitStatus() unix.WaitStatus {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return unix.WaitStatus(g.exitStatus)
}

// OOMKilled reports whether the memory limit ended the process.
func (g *ThreadGroup) OOMKilled() bool {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.oomKilled
}

// Exe is the program file.
func (g *ThreadGroup) Exe() (vfs.Path, bool) {
	if p := g.exe.Load(); p != nil {
		return *p, true
	}
	return vfs.Path{}, false
}

// SetExe takes over what keeps the program's file from being written (vfs.DenyWrite).
func (g *ThreadGroup) SetExe(p vfs.Path) {
	p.Hold()
	if old := g.exe.Swap(&p); old != nil {
		letExe(*old)
	}
}

func letExe(p vfs.Path) {
	p.Let()
	vfs.AllowWrite(p.Inode())
}

// inheritExe is for a forked process.
func (g *ThreadGroup) inheritExe(parent *ThreadGroup) {
	if p, ok := parent.Exe(); ok {
		vfs.DenyWrite(p.Inode()) // the parent denies it, so that this cannot fail
		g.SetExe(p)
	}
}

// SetSubreaper is prctl(PR_SET_CHILD_SUBREAPER).
func (g *ThreadGroup) SetSubreaper(on bool) { g.subreaper.Store(on) }
func (g *ThreadGroup) Subreaper() bool      { return g.subreaper.Load() }

// CPUTime is the time of all threads, living and ended.
func (g *ThreadGroup) CPUTime() (user, sys time.Duration) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.cpuTimeLocked()
}

func (g *ThreadGroup) cpuTimeLocked() (user, sys time.Duration) {
	user, sys = g.deadCPU[0], g.deadCPU[1]
	for _, t := range g.tasks {
		u, s := t.CPUTime()
		user, sys = user+u, sys+s
	}
	return
}

// ChildCPUTime is the time of children that were waited for, and ChildMaxRSS
// the largest of their resident sizes in bytes.
func (g *ThreadGroup) ChildCPUTime() (user, sys time.Duration) {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	return g.childCPU[0], g.childCPU[1]
}

// Children are the living and zombie children.
func (g *ThreadGroup) Children() []*ThreadGroup {
	g.k.mu.Lock()
	defer g.k.mu.Unlock()
	var cs []*ThreadGroup
	for c := range g.children {
		cs = append(cs, c)
	}
	return cs
}

// Limit is a soft and a hard resource limit.
type Limit struct{ Cur, Max uint64 }

// Limits are the resource limits of a process, by unix.RLIMIT_….
type Limits struct {
	mu sync.Mutex
	l  [16]Limit
}

// DefaultLimits are init's on Linux (include/asm-generic/resource.h), with the
// numbers of descriptors that container engines give.
func DefaultLimits() [16]Limit {
	const inf = ^uint64(0)
	var l [16]Limit
	for i := range l {
		l[i] = Limit{inf, inf}
	}
	l[unix.RLIMIT_STACK] = Limit{8 << 20, inf}
	l[unix.RLIMIT_CORE] = Limit{0, inf}
	l[unix.RLIMIT_NOFILE] = Limit{1024, 1 << 20}
	l[unix.RLIMIT_MEMLOCK] = Limit{8 << 20, 8 << 20}
	l[11 /* SIGPENDING */] = Limit{96014, 96014}
	l[12 /* MSGQUEUE */] = Limit{819200, 819200}
	l[13 /* NICE */] = Limit{0, 0}
	l[14 /* RTPRIO */] = Limit{0, 0}
	return l
}

// Get is one limit, Set changes it, All copies all.
func (l *Limits) Get(resource int) Limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.l[resource]
}

func (l *Limits) Set(resource int, v Limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.l[resource] = v
}

func (l *Limits) All() [16]Limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.l
}

func (l *Limits) SetAll(v [16]Limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.l = v
}

// Package kernel is the part of Linux that knows tasks: threads and processes,
// sessions and job control, signals, futexes, clocks and timers, exec, exit and
// wait, tracing and seccomp filters. It follows Linux's
// kernel/{fork,exit,signal,futex,ptrace,seccomp}.c in behaviour.
//
// A Task is a goroutine that runs its application thread until an event, answers
// it (system calls by the Calls that it was given), and goes back. Everything
// that links tasks to each other stands under one lock.
//
// Lock order: Kernel.mu, then SignalHandlers.mu, then locks of the rooms above
// (memory, vfs). Listener.mu, ioSignals.mu and cpuTimes.mu are leaves. Kernel.mu is never held while waiting or while application
// memory is touched.
package kernel

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

// Calls answers system calls. Serve is called on the task's goroutine with the
// registers as the call left them; it sets Rax.
type Calls interface {
	Serve(t *Task)
}

// Config is what a Kernel is made of.
type Config struct {
	Platform platform.Platform
	Arena    *memory.Arena
	Calls    Calls
	Log      *slog.Logger
	Hostname string
	Domain   string
	PIDs     int // of the first container's CgroupConfig, as are Memory, CPUs and Local
	Memory   uint64
	CPUs     int
	Local    any
	// Monotonic and Boottime are the offsets of the first container's time namespace.
	Monotonic, Boottime time.Duration
	// OrdinaryInit lets signals end process 1 as they end any other.
	OrdinaryInit bool
	World        any // what rooms above keep for the whole sandbox; see syscalls.World
	// NewNet makes what is in a network namespace; nil: nothing.
	NewNet NewContents
}

// Kernel is one container's (or pod's) operating system.
type Kernel struct {
	Config
	Clock   *Clock
	BootID  string
	Futex   futexTable
	pi      piTable
	io      ioSignals
	cpu     cpuTimes
	Faults  atomic.Uint64 // page faults answered
	Forks   atomic.Uint64 // tasks made by clone(2) and fork(2)
	Started atomic.Uint64 // processes made, by these or from outside
	Execs   atomic.Uint64
	Ends    [EndKinds]atomic.Uint64 // processes, by how they ended
	helpers atomic.Int64
	logins  atomic.Uint32
	Core    CorePattern

	vdso  vdso
	first *Home

	mu       sync.Mutex
	root     *PIDNamespace  // knows all tasks, zombies included
	live     int            // tasks
	done     sync.WaitGroup // task goroutines
	panicked atomic.Pointer[Panic]

	onPanic func(*Panic)
}

// Panic is a bug of ours that ended the container.
type Panic struct {
	Task  int32
	Value any
	Stack []byte
}

// PIDMax is one above the largest thread id (pid_max).
const PIDMax = 4194304

// New makes a kernel without tasks.
func New(c Config) (*Kernel, error) {
	var b [16]byte
	rand.Read(b[:])
	k := &Kernel{
		Config: c,
		Clock:  base,
		BootID: fmt.Sprintf("%x-%x-4%x-a%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])[:36],
	}
	k.Core.Set("core")
	k.first = k.firstHome()
	k.Futex.init()
	if err := k.vdso.init(c.Arena); err != nil {
		return nil, err
	}
	return k, nil
}

// OnPanic sets who hears of a bug that ended the container. Call it before the
// first task starts.
func (k *Kernel) OnPanic(f func(*Panic)) { k.onPanic = f }

// Task returns the thread with global id tid, zombies excluded, or nil. What an
// application names is Task.Find's.
func (k *Kernel) Task(tid int32) *Task { return k.TaskIn(k.root, tid) }

// Group returns the process with global id pid, zombies included, or nil.
func (k *Kernel) Group(pid int32) *ThreadGroup { return k.GroupIn(k.root, pid) }

// Groups returns all processes, zombies included, in no order.
func (k *Kernel) Groups() []*ThreadGroup {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.groupsLocked()
}

func (k *Kernel) groupsLocked() []*ThreadGroup {
	var gs []*ThreadGroup
	for _, p := range k.root.ids {
		if p.task != nil && p.task.group.id == p {
			gs = append(gs, p.task.group)
		}
	}
	return gs
}

// Live is how many tasks there are.
func (k *Kernel) Live() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live
}

// Wait returns when no task is left.
func (k *Kernel) Wait() { k.done.Wait() }

// killLargest is the out-of-memory killer: SIGKILL to the process of c with the most
// memory. It reports whether there was one.
func (k *Kernel) killLargest(c *Cgroup) bool {
	k.mu.Lock()
	victim, dying := c.largestLocked()
	if victim != nil {
		c.OOMKills.Add(1)
		k.killGroupLocked(victim, unix.SIGKILL)
	}
	told := c.onOOM
	k.mu.Unlock()
	if victim != nil && told != nil {
		told()
	}
	return victim != nil || dying
}

// largestLocked is the process to kill, unless one that was killed is yet to give its
// memory back.
func (c *Cgroup) largestLocked() (victim *ThreadGroup, dying bool) {
	var most uint64
	for _, g := range c.groupsLocked() {
		if g.exiting || g.dead {
			if g.oomKilled && !g.dead {
				return nil, true // its memory is on the way
			}
			continue
		}
		mm := g.leader.mm
		if mm == nil || g.OOMScoreAdj.Load() == -1000 {
			continue
		}
		size := mm.Sizes().Resident
		if size += uint64(max(0, int64(g.OOMScoreAdj.Load()))) * (most / 1000); victim == nil || size > most {
			victim, most = g, size
		}
	}
	if victim != nil {
		victim.oomKilled = true
		c.k.Log.Warn("out of memory: killed process", "task", victim.PID(), "comm", victim.leader.Comm(), "resident", most,
			"limit", c.Memory)
	}
	return victim, false
}

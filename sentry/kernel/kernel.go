// Package kernel is the part of Linux that knows tasks: threads and processes,
// sessions and job control, signals, futexes, clocks and timers, exec, exit and
// wait. It follows Linux's kernel/{fork,exit,signal,futex}.c in behaviour.
//
// A Task is a goroutine that runs its application thread until an event, answers
// it (system calls by the Calls that it was given), and goes back. Everything
// that links tasks to each other stands under one lock.
//
// Lock order: Kernel.mu, then SignalHandlers.mu, then locks of the rooms above
// (memory, vfs). Kernel.mu is never held while waiting or while application
// memory is touched.
package kernel

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

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
	PIDs     int    // most tasks at one time, 0 for none
	Memory   uint64 // bytes, 0 for the host's; what /proc/meminfo shows
	CPUs     int    // what programs count, at least 1
	Cgroup   string // path that /proc/PID/cgroup shows
	// OrdinaryInit lets signals end process 1 as they end any other.
	OrdinaryInit bool
	World        any // what rooms above keep for the whole container; see syscalls.World
	// NewIPC and NewNet make what is in a namespace; nil: nothing.
	NewIPC, NewNet NewContents
}

// Kernel is one container's (or pod's) operating system.
type Kernel struct {
	Config
	Clock    *Clock
	BootID   string
	Futex    futexTable
	Served   atomic.Uint64 // system calls served
	Forks    atomic.Uint64
	OOMKills atomic.Uint64

	vdso  vdso
	first *Namespaces

	mu       sync.Mutex
	tasks    map[int32]*Task // by thread id, zombies included
	sessions map[int32]*Session
	groups   map[int32]*ProcessGroup
	lastPID  int32
	init     *ThreadGroup
	live     int // tasks that count against PIDs
	limit    int
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
	if c.CPUs < 1 {
		c.CPUs = 1
	}
	var b [16]byte
	rand.Read(b[:])
	k := &Kernel{
		Config:   c,
		Clock:    base,
		BootID:   fmt.Sprintf("%x-%x-4%x-a%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])[:36],
		tasks:    map[int32]*Task{},
		sessions: map[int32]*Session{},
		groups:   map[int32]*ProcessGroup{},
		limit:    c.PIDs,
	}
	k.first = k.firstNamespaces()
	k.Futex.init()
	c.Arena.SetOnLimit(k.killLargest)
	if err := k.vdso.init(c.Arena); err != nil {
		return nil, err
	}
	return k, nil
}

// SetPIDs changes the limit on tasks; 0 for none.
func (k *Kernel) SetPIDs(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.limit = n
}

// OnPanic sets who hears of a bug that ended the container. Call it before the
// first task starts.
func (k *Kernel) OnPanic(f func(*Panic)) { k.onPanic = f }

// Task returns the thread with id tid, zombies excluded, or nil.
func (k *Kernel) Task(tid int32) *Task {
	k.mu.Lock()
	defer k.mu.Unlock()
	t := k.tasks[tid]
	if t == nil || t.state == taskDead {
		return nil
	}
	return t
}

// Group returns the process with id pid, zombies included, or nil.
func (k *Kernel) Group(pid int32) *ThreadGroup {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.groupLocked(pid)
}

func (k *Kernel) groupLocked(pid int32) *ThreadGroup {
	if t := k.tasks[pid]; t != nil && t.group.pid == pid {
		return t.group
	}
	return nil
}

// Groups returns all processes, zombies included, in no order.
func (k *Kernel) Groups() []*ThreadGroup {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.groupsLocked()
}

func (k *Kernel) groupsLocked() []*ThreadGroup {
	var gs []*ThreadGroup
	for id, t := range k.tasks {
		if t.group.pid == id {
			gs = append(gs, t.group)
		}
	}
	return gs
}

// Init is the process with id 1, nil before it was made.
func (k *Kernel) Init() *ThreadGroup {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.init
}

// Live is how many tasks there are, and LastPID the youngest's id.
func (k *Kernel) Live() (n int, last int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.live, k.lastPID
}

// Wait returns when no task is left.
func (k *Kernel) Wait() { k.done.Wait() }

// allocPIDLocked finds a free id and takes a place among the tasks allowed.
func (k *Kernel) allocPIDLocked() (int32, error) {
	if k.limit > 0 && k.live >= k.limit {
		return 0, unix.EAGAIN // kernel/cgroup/pids.c, pids_can_fork
	}
	for id := k.lastPID; ; {
		if id++; id >= PIDMax {
			id = 300 // RESERVED_PIDS, kernel/pid.c
		}
		if k.tasks[id] == nil && k.groups[id] == nil && k.sessions[id] == nil {
			k.lastPID = id
			k.live++
			return id, nil
		}
		if id == k.lastPID {
			return 0, unix.EAGAIN
		}
	}
}

// killLargest is the out-of-memory killer: SIGKILL to the process with the most
// memory. It reports whether there was one.
func (k *Kernel) killLargest() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	var victim *ThreadGroup
	var most uint64
	for _, g := range k.groupsLocked() {
		if g.exiting || g.dead {
			if g.oomKilled && !g.dead {
				return true // its memory is on the way
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
	if victim == nil {
		return false
	}
	victim.oomKilled = true
	k.OOMKills.Add(1)
	k.Log.Warn("out of memory: killed process", "task", victim.pid, "comm", victim.leader.Comm(), "resident", most,
		"limit", k.Memory)
	k.killGroupLocked(victim, unix.SIGKILL)
	return true
}

package ptrace

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// space implements platform.AddressSpace. It keeps what should be mapped; the
// stub process follows as late as it may: when a thread enters the space, or at
// once where something is taken away while a thread runs. So a Map that follows
// a fault is done by the faulting thread itself, through its own stopped tracee,
// and what is mapped before the first Run (fork, exec) is mapped in one go.
//
// A Segment's FD must stay open as long as it is mapped.
type space struct {
	p    *Platform
	proc *process

	running atomic.Int32  // threads in Run; pairs with behind
	behind  atomic.Bool   // todo is not empty
	changes atomic.Uint64 // counts what was done to the process

	mu      sync.Mutex
	regions regions
	todo    []span          // where the process may differ from regions
	tracees map[int]*tracee // by the OS thread that traces them
	threads map[int]*Thread // likewise
}

// NewAddressSpace implements platform.Platform.
func (p *Platform) NewAddressSpace() (platform.AddressSpace, error) {
	pr, err := p.newProcess()
	if err != nil {
		return nil, err
	}
	return &space{p: p, proc: pr, tracees: map[int]*tracee{}, threads: map[int]*Thread{}}, nil
}

// within checks what the memory room promises: whole pages of the application's.
func within(at platform.Addr, length uint64) (span, error) {
	s := span{at, at + platform.Addr(length)}
	if at%platform.PageSize != 0 || length%platform.PageSize != 0 || s.end < at || s.end > platform.TaskSize {
		return span{}, fmt.Errorf("ptrace: %#x bytes at %#x: %w", length, uint64(at), unix.EINVAL)
	}
	return s, nil
}

// Map implements platform.AddressSpace.
func (as *space) Map(at platform.Addr, seg platform.Segment, access platform.Access) error {
	s, err := within(at, uint64(len(seg.Host)))
	if err != nil || len(seg.Host) == 0 {
		return err
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	i := as.regions.find(at)
	if i < len(as.regions) {
		if r := as.regions[i]; r.start <= at && r.end >= s.end && r.access == access && r.sameFile(at, seg.FD, seg.Offset) {
			return nil
		}
	}
	if len(as.regions) >= as.p.maxMaps {
		return platform.ErrMemory
	}
	r := region{start: at, end: s.end, fd: seg.FD, offset: seg.Offset, access: access}
	lo, hi := as.regions.cut(s)
	takes := false
	for _, old := range as.regions[lo:hi] {
		takes = takes || old.shown
	}
	if hi == lo+1 { // the same pages with other access need no new mapping
		if old := as.regions[lo]; old.shown && old.start == s.start && old.end == s.end && old.sameFile(at, seg.FD, seg.Offset) {
			r.shown, r.has = true, old.has
			takes = old.has&^access != 0
		}
	}
	as.regions.replace(lo, hi, r)
	return as.changedLocked(s, takes)
}

// Protect implements platform.AddressSpace.
func (as *space) Protect(at platform.Addr, length uint64, access platform.Access) error {
	s, err := within(at, min(length, uint64(platform.TaskSize-min(at, platform.TaskSize))))
	if err != nil || length == 0 {
		return err
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	lo, hi := as.regions.cut(s)
	changes, takes := false, false
	for i := lo; i < hi; i++ {
		r := &as.regions[i]
		changes = changes || r.access != access
		takes = takes || r.shown && r.has&^access != 0
		r.access = access
	}
	as.regions.join(lo-1, hi)
	if !changes {
		return nil
	}
	return as.changedLocked(s, takes)
}

// Unmap implements platform.AddressSpace.
func (as *space) Unmap(at platform.Addr, length uint64) error {
	s, err := within(at, min(length, uint64(platform.TaskSize-min(at, platform.TaskSize))))
	if err != nil || length == 0 {
		return err
	}
	as.mu.Lock()
	defer as.mu.Unlock()
	lo, hi := as.regions.cut(s)
	takes := false
	for _, r := range as.regions[lo:hi] {
		takes = takes || r.shown
	}
	as.regions.replace(lo, hi)
	if !takes {
		return nil
	}
	return as.changedLocked(s, true)
}

// changedLocked notes that s is to be looked at, and does it at once if that
// takes something away from a thread that runs.
func (as *space) changedLocked(s span, takes bool) error {
	as.todo = addSpan(as.todo, s)
	as.behind.Store(true)
	if !takes || as.running.Load() == 0 {
		return nil
	}
	if x := as.tracees[unix.Gettid()]; x != nil { // the caller's own, and so not running
		return as.catchUpLocked(x)
	}
	return as.proc.lead(as.catchUpLocked)
}

// catchUp makes the process look as regions has it, through a stopped tracee of
// the caller's.
func (as *space) catchUp(x *tracee) error {
	as.mu.Lock()
	defer as.mu.Unlock()
	return as.catchUpLocked(x)
}

func (as *space) catchUpLocked(x *tracee) error {
	for _, s := range as.todo {
		if err := as.settleLocked(x, s); err == unix.ENOMEM {
			// Too many mappings, or the kernel's memory is short: begin anew. What
			// is mapped is a cache; the memory room maps again what faults.
			if _, err := x.call(unix.SYS_MUNMAP, 0, stubAt); err != nil {
				return fmt.Errorf("ptrace: empty stub %d: %w", as.proc.pid, err)
			}
			as.regions = as.regions[:0]
			break
		} else if err != nil {
			return err
		}
	}
	as.todo = as.todo[:0]
	as.changes.Add(1)
	as.behind.Store(false)
	return nil
}

// settleLocked settles the regions in s and removes what is between them.
func (as *space) settleLocked(x *tracee, s span) error {
	at := s.start
	for i := as.regions.find(s.start); i < len(as.regions) && as.regions[i].start < s.end; i++ {
		r := &as.regions[i]
		if err := drop(x, at, r.start); err != nil {
			return err
		}
		if err := r.settle(x); err != nil {
			if err != unix.ENOMEM { // a file that cannot be mapped so: it stays away
				as.regions.replace(i, i+1)
			}
			return err
		}
		at = r.end
	}
	if err := drop(x, at, s.end); err != nil {
		return err
	}
	lo := as.regions.find(s.start)
	as.regions.join(lo-1, as.regions.find(s.end))
	return nil
}

// drop unmaps a hole.
func drop(x *tracee, from, to platform.Addr) error {
	if from >= to {
		return nil
	}
	_, err := x.call(unix.SYS_MUNMAP, uint64(from), uint64(to-from))
	return describe(err, "unmap", from, to, x)
}

// atOnce is the size up to which pages get their entries with the mapping: it
// mostly answers a fault, and the native fault that this saves costs 4 µs.
const atOnce = 4 * platform.PageSize

// settle maps the region or changes its access.
func (r *region) settle(x *tracee) (err error) {
	at, length, prot := uint64(r.start), uint64(r.end-r.start), uint64(r.access.Prot())
	switch {
	case r.settled():
		return nil
	case r.shown:
		_, err = x.call(unix.SYS_MPROTECT, at, length, prot)
	default:
		flags := uint64(unix.MAP_SHARED | unix.MAP_FIXED)
		if length <= atOnce {
			flags |= unix.MAP_POPULATE
		}
		_, err = x.call(unix.SYS_MMAP, at, length, prot, flags, uint64(r.fd), uint64(r.offset))
	}
	if err == nil {
		r.shown, r.has = true, r.access
	}
	return describe(err, "map "+r.access.String(), r.start, r.end, x)
}

// describe leaves ENOMEM as it is, for catchUpLocked.
func describe(err error, what string, from, to platform.Addr, x *tracee) error {
	if err == nil || err == unix.ENOMEM {
		return err
	}
	return fmt.Errorf("ptrace: %s [%#x, %#x) in stub %d: %w", what, uint64(from), uint64(to), x.proc.pid, err)
}

// CPUTime implements platform.Metered, by the process's CPU clock: anybody may read
// a process's, a thread's only threads of the same (kernel/time/posix-cpu-timers.c, pid_for_clock).
func (as *space) CPUTime() (time.Duration, error) {
	const sched, whole = 2, 3 // CPUCLOCK_SCHED, and the bits below the process's number
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^as.proc.pid)<<whole|sched, &ts); err != nil {
		return 0, fmt.Errorf("ptrace: read the CPU clock of stub %d: %w", as.proc.pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Release implements platform.AddressSpace. The process is emptied for further
// use if no other OS thread traces a task in it, else it ends.
func (as *space) Release() {
	as.mu.Lock()
	defer as.mu.Unlock()
	me := unix.Gettid()
	mine := as.tracees[me]
	if len(as.tracees) == 0 || len(as.tracees) == 1 && mine != nil {
		if err := as.emptyLocked(mine); err == nil && as.proc.recycle() {
			return
		}
	}
	var tids []int
	for tid, x := range as.tracees {
		as.threads[tid].settleKicks()
		x.gone.Store(true)
		tids = append(tids, x.tid)
	}
	as.tracees = nil
	p, pr := as.p, as.proc
	p.mu.Lock()
	delete(p.all, pr) // or Close may kill it first, and wait for ever: it knows of no task that wants reaping
	p.mu.Unlock()
	p.reapers.Go(func() { pr.kill(tids...) })
}

// emptyLocked unmaps everything, through the caller's tracee if he has one,
// which goes back to sleep.
func (as *space) emptyLocked(mine *tracee) error {
	empty := func(x *tracee) error {
		_, err := x.call(unix.SYS_MUNMAP, 0, stubAt)
		return err
	}
	if mine == nil {
		return as.proc.lead(empty)
	}
	err := errors.Join(empty(mine), as.proc.abandon(mine))
	if err == nil {
		delete(as.tracees, unix.Gettid())
		mine.gone.Store(true)
	}
	return err
}

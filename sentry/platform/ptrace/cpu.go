package ptrace

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// cpus places threads. A stop costs a few microseconds where tracer and tracee
// share a CPU, and many times that where each stop and each resumption has to
// wake another one. So both are pinned to one CPU; and since pinned tasks are not
// balanced by the kernel, balance does what is needed of that every tick:
//
//   - a tracee that computed for a whole tick floats: it may run anywhere, until
//     it stops next;
//   - a thread that shares its CPU with others for several ticks while another
//     CPU stands idle is asked to move.
//
// And threads that take turns (two ends of a pipe, a parent that waits for its
// child) are brought together, for the same reason again: see sleeps.
//
// Nothing ticks while no thread runs.
type cpus struct {
	all  unix.CPUSet // what the Sentry may use
	ids  []int
	sets []unix.CPUSet // one CPU each, by index in ids

	ticking atomic.Bool

	mu      sync.Mutex
	threads map[*Thread]struct{}
	byTID   map[int]*Thread
	timer   *time.Timer
	stopped bool
}

const (
	tick     = 8 * time.Millisecond
	patience = 4           // ticks in a crowd before a thread moves
	aloof    = time.Second // how long it then stays away from whom it takes turns with
	turns    = 4           // before two threads count as taking turns
)

// place is a thread's share of it.
type place struct {
	cpu     int           // index in ids; the thread's own
	want    atomic.Int32  // where it should be
	runs    atomic.Uint64 // counts entries into and exits from Run: odd within
	floats  atomic.Bool   // the tracee was let go
	seen    uint64        // runs at the last tick
	crowded int           // ticks
	left    time.Time     // a crowd

	woke   *Thread // that this one woke last; of its own goroutine
	wokeAt uint64  // runs then
	turns  int     // how often who woke this thread went to sleep himself; under cpus.mu
}

func (c *cpus) init() error {
	if err := unix.SchedGetaffinity(0, &c.all); err != nil {
		return err
	}
	for id := range len(c.all) * 64 {
		if c.all.IsSet(id) {
			var one unix.CPUSet
			one.Set(id)
			c.ids, c.sets = append(c.ids, id), append(c.sets, one)
		}
	}
	c.threads, c.byTID = map[*Thread]struct{}{}, map[int]*Thread{}
	return nil
}

// alone says that there is nothing to place.
func (c *cpus) alone() bool { return len(c.ids) < 2 }

// near brings a sleeping task to the CPU of the caller, who will trace it for a
// moment. Where that fails it is only slower, here as in the functions below.
func (c *cpus) near(tid int) {
	if c.alone() {
		return
	}
	here := whichCPU()
	for i, id := range c.ids {
		if id == here {
			pin(tid, &c.sets[i])
		}
	}
}

// add pins the calling OS thread: where it is now, if no other thread computes
// there, for the kernel put it there.
func (c *cpus) add(t *Thread) {
	if c.alone() {
		return
	}
	c.mu.Lock()
	here := whichCPU()
	for i, id := range c.ids {
		if id == here {
			t.place.cpu = i
		}
	}
	t.place.cpu = c.bestLocked(t.place.cpu)
	t.place.want.Store(int32(t.place.cpu))
	c.threads[t], c.byTID[t.tid] = struct{}{}, t
	c.mu.Unlock()
	pin(0, &c.sets[t.place.cpu])
}

// bestLocked is the CPU with the fewest running threads; with preference.
func (c *cpus) bestLocked(prefer int) int {
	load := c.loadLocked()
	best := prefer
	for i, n := range load {
		if n < load[best] {
			best = i
		}
	}
	return best
}

// loadLocked counts the threads that are in Run, by CPU; who floats counts nowhere.
func (c *cpus) loadLocked() []int {
	load := make([]int, len(c.ids))
	for t := range c.threads {
		if t.place.runs.Load()&1 != 0 && !t.place.floats.Load() {
			load[t.place.want.Load()]++
		}
	}
	return load
}

// remove lets the OS thread go anywhere again.
func (c *cpus) remove(t *Thread) bool {
	if c.alone() {
		return true
	}
	c.mu.Lock()
	delete(c.threads, t)
	delete(c.byTID, t.tid)
	c.mu.Unlock()
	return pin(0, &c.all) == nil
}

// begin is called before a tracee is resumed.
func (c *cpus) begin(t *Thread) {
	if c.alone() {
		return
	}
	p := &t.place
	if p.floats.Load() {
		p.floats.Store(false)
		t.x.cpu = -1
		c.mu.Lock()
		p.want.Store(int32(c.bestLocked(p.cpu)))
		c.mu.Unlock()
	}
	if want := int(p.want.Load()); want != p.cpu {
		p.cpu = want
		pin(0, &c.sets[want])
	}
	if t.x.cpu != p.cpu {
		t.x.cpu = p.cpu
		pin(t.x.tid, &c.sets[p.cpu])
	}
	p.runs.Add(1)
	if !c.ticking.Load() && c.ticking.CompareAndSwap(false, true) {
		c.arm()
	}
}

func (c *cpus) end(t *Thread) {
	if !c.alone() {
		t.place.runs.Add(1)
	}
}

func (c *cpus) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopped:
	case c.timer == nil:
		c.timer = time.AfterFunc(tick, c.balance)
	default:
		c.timer.Reset(tick)
	}
}

func (c *cpus) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// balance is one tick.
func (c *cpus) balance() {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return
	}
	busy := c.balanceLocked()
	c.mu.Unlock()
	if busy {
		c.arm()
		return
	}
	c.ticking.Store(false)
	c.mu.Lock()
	busy = c.busyLocked()
	c.mu.Unlock()
	if busy && c.ticking.CompareAndSwap(false, true) { // begun meanwhile
		c.arm()
	}
}

// busyLocked says whether a thread runs that does not float.
func (c *cpus) busyLocked() bool {
	for _, n := range c.loadLocked() {
		if n > 0 {
			return true
		}
	}
	return false
}

func (c *cpus) balanceLocked() bool {
	floating := 0
	for t := range c.threads {
		p := &t.place
		runs := p.runs.Load()
		if runs&1 != 0 && runs == p.seen && !p.floats.Load() {
			if x := t.running.Load(); x != nil && pin(x.tid, &c.all) == nil {
				p.floats.Store(true)
			}
		}
		p.seen = runs
		if p.floats.Load() {
			floating++
		}
	}
	load := c.loadLocked()
	free, idle := -1, 0
	for i, n := range load {
		if n == 0 {
			free, idle = i, idle+1
		}
	}
	for t := range c.threads {
		p := &t.place
		want := p.want.Load()
		switch {
		case p.runs.Load()&1 == 0 || load[want] < 2 || idle <= floating:
			p.crowded = max(p.crowded-1, 0)
		case p.crowded < patience:
			p.crowded++
		default:
			p.crowded = 0
			load[want]--
			load[free]++
			p.want.Store(int32(free))
			p.left = time.Now()
			idle = 0 // one a tick
		}
	}
	return c.busyLocked()
}

// wakes notes that the calling thread, if it is one of ours, wakes t.
func (c *cpus) wakes(t *Thread) {
	if c.alone() {
		return
	}
	c.mu.Lock()
	waker := c.byTID[unix.Gettid()]
	c.mu.Unlock()
	if waker != nil && waker != t {
		waker.place.woke, waker.place.wokeAt = t, waker.place.runs.Load()
	}
}

// sleeps is told that t goes to sleep. If it woke another thread a moment ago the
// two take turns, and the other had better be here. Should they compute at the same
// time after all, balance parts them.
func (c *cpus) sleeps(t *Thread) {
	const soon = 2 * 3 // a few calls; runs counts twice
	p := &t.place
	other := p.woke
	if other == nil {
		return
	}
	p.woke = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	o := &other.place
	switch here := p.want.Load(); {
	case p.runs.Load()-p.wokeAt > soon:
		o.turns = 0
	case o.want.Load() == here:
	case o.turns < turns:
		o.turns++
	case time.Since(o.left) > aloof && time.Since(p.left) > aloof:
		o.turns = 0
		o.want.Store(here)
	}
}

package kvm

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lanes hands out pairs of CPUs: on one a runner runs the vCPU of a thread that calls a
// lot, on the other the thread's goroutine answers. Those for whom there is none queue; in the
// lane they take turns.
//
// A vCPU whose watcher got tired keeps its runner, which cannot leave it, and loses the
// lane: it computes, as any thread that runs its vCPU itself.
type lanes struct {
	queued  atomic.Int32 // len(queue)
	leaving atomic.Int32 // vCPUs in a lane that have been told to come out

	mu    sync.Mutex
	total int
	free  int
	queue []*vcpu
	idle  []*runner // who came last is last, and may still linger

	running sync.WaitGroup
}

// spareRunners is how many more runners than lanes are kept: each is an OS thread, and who computed
// in a lane has left one behind.
const spareRunners = 4

// What lanes knows of a vCPU: turn, for its own goroutine to see.
const (
	ashore = iota // no runner's
	queued        // for a lane
	aboard        // a runner has it, or is about to
)

// open makes as many lanes as this host has room for.
func (l *lanes) open() { l.total = runtime.NumCPU() / 2; l.free = l.total }

// close ends the runners; no vCPU is with any.
func (l *lanes) close() {
	l.mu.Lock()
	for _, r := range l.idle {
		close(r.work)
	}
	l.idle = nil
	l.mu.Unlock()
	l.running.Wait()
}

// engage gives v to a runner, or puts it in the queue.
func (l *lanes) engage(v *vcpu) {
	l.mu.Lock()
	if l.free > 0 {
		l.free--
		r := l.board(v)
		l.mu.Unlock()
		r.work <- v
		return
	}
	v.turn.Store(queued)
	l.queue = append(l.queue, v)
	l.queued.Store(int32(len(l.queue)))
	l.mu.Unlock()
}

// board gives v a lane; its runner is to be told. mu is held.
func (l *lanes) board(v *vcpu) *runner {
	v.lane = true
	v.turn.Store(aboard)
	if n := len(l.idle); n > 0 {
		r := l.idle[n-1]
		l.idle = l.idle[:n-1]
		return r
	}
	r := &runner{work: make(chan *vcpu, 1)}
	l.running.Add(1)
	go r.run(l)
	return r
}

// pop takes the first of the queue. mu is held.
func (l *lanes) pop() *vcpu {
	if len(l.queue) == 0 {
		return nil
	}
	v := l.queue[0]
	l.queue = slices.Delete(l.queue, 0, 1)
	l.queued.Store(int32(len(l.queue)))
	v.turn.Store(aboard)
	return v
}

// heir is who gets v's lane, or nil. mu is held.
func (l *lanes) heir(v *vcpu) *vcpu {
	if v.heir == nil {
		return l.pop()
	}
	h := v.heir
	v.heir = nil
	return h
}

// next is told by r that v is out, and gives it another vCPU, or nil. Where more than enough
// runners are idle, r has nothing to come back for.
func (l *lanes) next(r *runner, v *vcpu) *vcpu {
	l.mu.Lock()
	var heir *vcpu
	if v.lane {
		v.lane = false
		if v.leaving {
			v.leaving = false
			l.leaving.Add(-1)
		}
		if heir = l.heir(v); heir != nil {
			heir.lane = true
		} else {
			l.free++
		}
	}
	switch {
	case heir != nil:
	case len(l.idle) < l.total+spareRunners:
		l.idle = append(l.idle, r)
	default:
		close(r.work)
	}
	v.out.Store(true) // first: who sees that it is ashore looks at out next
	v.turn.Store(ashore)
	l.mu.Unlock()
	v.rouse()
	if heir != nil {
		heir.rouse()
	}
	return heir
}

// leaves says that v will soon be out. Its goroutine is about to sleep, and who is next
// can be told from here for less than by the runner.
func (l *lanes) leaves(v *vcpu) {
	l.mu.Lock()
	if !v.lane || v.leaving {
		l.mu.Unlock()
		return
	}
	v.leaving = true
	l.leaving.Add(1)
	v.heir = l.pop()
	heir := v.heir
	l.mu.Unlock()
	if heir != nil {
		heir.rouse()
	}
}

// give gives the lane of v away, and leaves it with its runner.
func (l *lanes) give(v *vcpu) {
	l.mu.Lock()
	if !v.lane {
		l.mu.Unlock()
		return
	}
	v.lane = false
	if v.leaving {
		v.leaving = false
		l.leaving.Add(-1)
	}
	heir := l.heir(v)
	if heir == nil {
		l.free++
		l.mu.Unlock()
		return
	}
	r := l.board(heir)
	l.mu.Unlock()
	r.work <- heir
	heir.rouse()
}

// cast takes v out of the queue, if it is there.
func (l *lanes) cast(v *vcpu) {
	if v.turn.Load() != queued {
		return
	}
	l.mu.Lock()
	i := slices.Index(l.queue, v)
	if i >= 0 {
		l.queue = slices.Delete(l.queue, i, i+1)
		l.queued.Store(int32(len(l.queue)))
		v.turn.Store(ashore)
	}
	l.mu.Unlock()
	if i >= 0 {
		v.rouse()
	}
}

// rouse wakes v's goroutine if it has parked.
func (v *vcpu) rouse() {
	if v.park.CompareAndSwap(true, false) {
		v.wake <- struct{}{}
	}
}

// await returns when it is the vCPU's turn, or false if it has left the queue.
func (t *thread) await() bool {
	v := t.v
	for start := time.Now(); t.p.lanes.leaving.Load() > 0 && time.Since(start) < linger; {
		if v.turn.Load() != queued {
			break
		}
		pause()
	}
	if t.intr.Load() { // Interrupt looks at the turn after it has set this
		t.p.lanes.cast(v)
	}
	for v.turn.Load() == queued { // a late rouse by the last runner may come between
		v.park.Store(true)
		if v.turn.Load() == queued || !v.park.CompareAndSwap(true, false) {
			<-v.wake
		}
	}
	t.since = time.Now()
	return v.turn.Load() == aboard || v.out.Load()
}

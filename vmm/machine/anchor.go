package machine

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// anchor keeps Go's monitor thread calm while devices work. That thread (runtime/proc.go,
// sysmon) sleeps deeply when nothing of a program runs, is woken by the next system call,
// and then looks around every 20 µs for at least 50 times. Devices that
// wake for each request would have it run all the time, and each of its timers throws a
// guest out of its CPU: in the lab, whose clock counts instructions, it took more than there
// are, and a guest's TCP came to a stop. It does not sleep deeply while something holds
// one of the scheduler's processors, and looks every 10 ms if it finds nothing to do; so
// that is what anchor does: it sleeps by a call that the scheduler does not know of.
//
// It finds something to do (retake) where a goroutine has not come back to the scheduler for
// 10 ms, be it that it only made short calls meanwhile, as a vCPU and a queue's do: it takes the
// processor away, and looks every 20 µs again. So those at work yield, once a look.
//
// A machine whose devices rest has no anchor, and costs nothing.
type anchor struct {
	busy  atomic.Bool   // since the last look
	down  atomic.Bool   // it holds
	looks atomic.Uint32 // so far

	mu   sync.Mutex
	wake chan struct{} // nil when closed
	done sync.WaitGroup
}

const (
	// look is as long as the scheduler lets a goroutine be before it sends a signal.
	look = 9 * time.Millisecond
	// patience is how many looks at resting devices end it.
	patience = 10
)

func (a *anchor) start() {
	a.wake = make(chan struct{}, 1)
	wake := a.wake
	a.done.Go(func() {
		for range wake {
			a.hold()
		}
	})
}

// touch says that a device works.
func (a *anchor) touch() {
	if !a.busy.Load() {
		a.busy.Store(true)
	}
	if a.down.Load() || !a.down.CompareAndSwap(false, true) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wake != nil {
		a.wake <- struct{}{} // has room: hold is over when down is false
	}
}

// yield lets a goroutine come back to the scheduler if there was a look after the one that was seen.
func (a *anchor) yield(seen *atomic.Uint32) {
	if n := a.looks.Load(); seen.Load() != n {
		seen.Store(n)
		runtime.Gosched()
	}
}

// hold returns when devices have rested.
func (a *anchor) hold() {
	for rested := 0; rested < patience; rested++ {
		pause := unix.NsecToTimespec(int64(look))
		rawSleep(&pause)
		runtime.Gosched()
		a.looks.Add(1)
		if a.busy.Swap(false) {
			rested = 0
		}
	}
	a.down.Store(false)
}

// stop ends it and waits.
func (a *anchor) stop() {
	a.mu.Lock()
	if a.wake != nil {
		close(a.wake)
		a.wake = nil
	}
	a.mu.Unlock()
	a.done.Wait()
}

package kvm

import (
	"errors"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/kvm"
	"bulkhead/sentry/platform"
)

// A runner is an OS thread that runs other goroutines' vCPUs, while these answer system
// calls without an exit. That takes two CPUs, a lane, and so there are half as many
// lanes as CPUs (lane.go).
type runner struct {
	work chan *vcpu // capacity 1
}

const (
	// stubRounds bounds the stub's wait for an answer: 150 to 350 µs (a PAUSE takes 60
	// to 140 cycles), twice what it costs to come out, wake somebody and go back in on the
	// hosts where that is dear. Whoever answers may be off its CPU for a while: with less than
	// half of it a compiler's calls came by a third more exits.
	stubRounds = 6000

	// linger is how long a runner waits for more work before it sleeps: to answer a
	// page fault takes less, and to wake it would take 45 µs.
	linger = 60 * time.Microsecond

	// enough calls in a row, each sooner than patience after the last answer,
	// are worth a runner; afterwards the goroutine watches the slot for so long.
	enough   = 3
	patience = 150 * time.Microsecond

	// mostDebt bounds how many more quick calls a hire takes for what others have
	// lost, and mostCredit how many in vain, in a row, those that paid make good for.
	mostDebt   = 32
	mostCredit = 16

	// slice is how long a thread has a lane that another one waits for: some thirty times
	// what it takes to change them.
	slice = time.Millisecond

	// yieldAfter is how long a watcher keeps other goroutines of its P waiting.
	yieldAfter = 10 * time.Microsecond
)

func (r *runner) run(l *lanes) {
	runtime.LockOSThread()
	defer l.running.Done()
	for v := range r.work {
		for v != nil {
			v.exit, v.err = v.VCPU.Run()
			v = l.next(r, v)
		}
		r.linger()
	}
}

// linger returns when there is work, or late.
func (r *runner) linger() {
	for start := time.Now(); len(r.work) == 0 && time.Since(start) < linger; {
		for range 16 {
			pause()
		}
	}
}

// hot says that a runner would pay.
func (t *thread) hot() bool {
	return t.quick >= enough+max(0, -t.credit) && !t.stepping && !t.p.pinned
}

// judge looks at an event that came by an exit.
func (t *thread) judge(ev platform.Event, start time.Time) {
	switch {
	case ev.Reason != platform.Syscall:
		t.quick = min(t.quick, 1)
	case time.Since(start) > t.p.exitCost+patience:
		t.quick = 0
	default:
		t.quick++
	}
}

// priceOf is what a runner costs that was hired in vain, in exits: the stub waits
// for nothing, and then it exits all the same.
func priceOf(exit time.Duration) int {
	return 1 + int(min(patience/max(exit, 1), mostDebt))
}

// settle judges a runner's work when one side got tired of waiting: the other did not
// get a CPU, or the application computes, or its calls take long. It has saved its
// thread so many exits, and cost its price. That goes to the thread's account, for
// some that serve hundreds of calls are worth many that serve none, as of a server
// with as many threads to run as CPUs. One that paid is hired again at once.
//
// Each is judged once: when the watcher gets tired it tells the stub not to wait,
// and whatever comes from there then says nothing of the runner.
func (t *thread) settle(price int) {
	if t.settled {
		return
	}
	t.settled, t.quick = true, 0
	if t.served >= price {
		t.quick = enough
	}
	t.credit = min(max(t.credit+t.served-price, -mostDebt), mostCredit*t.p.price)
}

// watch waits for the vCPU that a runner has, or is to have: for a call in the slot, or for its exit.
func (t *thread) watch(c *platform.Context) (platform.Event, error) {
	v := t.v
	var start, yielded time.Time
	for i := 1; ; i++ {
		if v.slot.state.Load() == posted {
			t.served++
			v.tally.add(tallyExitless)
			return t.call(c), nil
		}
		if v.out.Load() {
			exit, err := t.release()
			return t.decode(exit, err, c)
		}
		if v.turn.Load() != aboard && !t.await() {
			t.crewed = false
			return platform.Event{}, nil // Interrupt had it leave the queue: it runs by itself
		}
		pause()
		if i%64 != 0 {
			continue
		}
		now := time.Now()
		switch {
		case start.IsZero():
			start, yielded = now, now
		case now.Sub(start) > patience:
			t.settle(t.p.price)
			t.wait()
		case now.Sub(yielded) > yieldAfter:
			runtime.Gosched()
			yielded = now
		}
	}
}

// Waiting implements platform.Waiter: the stub rings at once.
func (t *thread) Waiting() {
	if t.crewed {
		t.settle(1)
		t.leave()
	}
}

// leave tells the stub to come out, and whose turn is next that this is near.
func (t *thread) leave() {
	t.p.lanes.leaves(t.v)
	t.v.slot.state.CompareAndSwap(posted, leave)
}

// wait parks until the runner is done, and gives the lane to others. The stub is told
// that nobody watches; if it has missed that, it rings when its rounds are over.
func (t *thread) wait() {
	v := t.v
	v.slot.spin.Store(0)
	t.p.lanes.give(v)
	v.park.Store(true)
	if (v.out.Load() || v.slot.state.Load() == posted) && v.park.CompareAndSwap(true, false) {
		return
	}
	<-v.wake
}

// release takes the vCPU back from its runner, which is done with it.
func (t *thread) release() (kvm.Exit, error) {
	t.crewed = false
	t.v.out.Store(false)
	t.v.tally.add(tallyExits)
	return t.v.exit, t.v.err
}

// endSlice lets the next in the queue have the lane, if t has had it for long.
func (t *thread) endSlice() error {
	if time.Since(t.since) < slice {
		return nil
	}
	t.settle(1)
	t.leave()
	return t.bringOut()
}

// bringOut makes the vCPU's state ours: a runner may have it, in the stub, where
// it waits for an answer.
func (t *thread) bringOut() error {
	v := t.v
	if !t.crewed {
		return nil
	}
	v.slot.state.CompareAndSwap(posted, leave)
	for start := time.Now(); !v.out.Load(); {
		if time.Since(start) > patience {
			v.Kick()
			t.wait()
			break
		}
		pause()
	}
	_, err := t.release()
	v.slot.state.CompareAndSwap(leave, posted)
	return err
}

func isFault(err error) bool { return errors.Is(err, unix.EFAULT) }

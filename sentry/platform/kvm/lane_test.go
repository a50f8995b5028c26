package kvm

import (
	"runtime"
	"sync"
	"testing"

	"bulkhead/sentry/platform"
)

// counting is mov eax,39; syscall; inc r15; jmp.
var counting = []byte{0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x49, 0xff, 0xc7, 0xeb, 0xf4}

// atRest fails the test unless nobody has a lane or waits for one.
func (w *world) atRest(lanes int) {
	w.tb.Helper()
	l := &w.p.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.idle); n > l.total+spareRunners {
		w.tb.Errorf("%d idle runners", n)
	}
	if l.free != lanes || len(l.queue) != 0 || l.queued.Load() != 0 || l.leaving.Load() != 0 {
		w.tb.Errorf("%d of %d lanes free, %d in the queue (told: %d), %d leaving", l.free, lanes, len(l.queue), l.queued.Load(), l.leaving.Load())
	}
}

// TestTurns has more threads that call without pause than lanes, some of which now and then
// are about to sleep, are looked at, or interrupted. No call is lost, or another's.
func TestTurns(t *testing.T) {
	w := newWorld(t)
	w.text(counting...)
	const threads, calls = 6, 3_000
	lanes := max(1, w.p.lanes.total)
	w.p.lanes.total, w.p.lanes.free = lanes, lanes
	var wg sync.WaitGroup
	var all [threads]*thread
	for i := range all {
		all[i] = w.thread()
	}
	for i, th := range all {
		wg.Go(func() {
			c := start()
			for n := 0; n < calls; {
				ev, err := th.Run(c, w.as)
				if err != nil {
					t.Error(err)
					return
				}
				if ev.Reason == platform.Interrupted {
					continue
				}
				if ev.Reason != platform.Syscall || c.Orig_rax != 39 || c.R15 != uint64(n) {
					t.Errorf("thread %d: event %+v, call %d, %d calls, want %d", i, ev, c.Orig_rax, c.R15, n)
					return
				}
				n++
				c.Rax = uint64(n)
				switch {
				case n%(100+i) == 0:
					th.Waiting()
				case n%(500+i) == 0:
					if err := th.Save(c); err != nil {
						t.Error(err)
					}
				case n%(700+i) == 0:
					all[(i+1)%threads].Interrupt()
				}
			}
		})
	}
	wg.Wait()
	exits, exitless := 0, 0
	for _, th := range all {
		exits += int(th.v.tally[tallyExitCalls].Load())
		exitless += int(th.v.tally[tallyExitless].Load())
		th.Close()
	}
	t.Logf("%d calls by exit, %d without", exits, exitless)
	w.atRest(lanes)
}

// TestInterruptInQueue: who waits for a lane need not get it to be interrupted, and
// goes on where it was.
func TestInterruptInQueue(t *testing.T) {
	w := newWorld(t)
	w.text(counting...)
	l := &w.p.lanes
	l.total, l.free = 1, 0 // somebody has it and keeps it
	th := w.thread()
	c := start()
	w.call(th, c, 39)
	th.quick, th.credit = 1000, 1000
	for range 50 {
		events := make(chan platform.Event)
		go func() {
			ev, err := th.Run(c, w.as)
			if err != nil {
				t.Error(err)
			}
			events <- ev
		}()
		for th.v.turn.Load() != queued {
			runtime.Gosched()
		}
		th.Interrupt()
		if ev := <-events; ev.Reason != platform.Interrupted {
			t.Fatalf("event %+v", ev)
		}
		th.quick = 1000
	}
	w.atRest(0)
	l.mu.Lock()
	l.free = 1
	l.mu.Unlock()
	was := c.R15
	w.call(th, c, 39)
	w.call(th, c, 39)
	if c.R15 < was+1 || c.R15 > was+2 {
		t.Errorf("%d calls before, now %d", was, c.R15)
	}
	th.Close()
	w.atRest(1)
}

// TestIdleRunners: threads that compute each leave a runner behind, of which few are kept.
func TestIdleRunners(t *testing.T) {
	w := newWorld(t)
	w.text(counting...)
	spin := w.pages(1)
	copy(spin, []byte{0xeb, 0xfe}) // jmp .
	w.show(textAt+0x10000, spin, platform.Read|platform.Exec)
	w.p.lanes.total, w.p.lanes.free = 1, 1
	var all [12]*thread
	var wg sync.WaitGroup
	for i := range all {
		th := w.thread()
		all[i] = th
		c := start()
		w.call(th, c, 39)
		th.quick, th.credit = 1000, 1000
		c.Rip, c.Dirty = textAt+0x10000, platform.DirtyGPR
		wg.Go(func() {
			if ev, err := th.Run(c, w.as); err != nil || ev.Reason != platform.Interrupted {
				t.Errorf("event %+v, %v", ev, err)
			}
		})
		for l := &w.p.lanes; ; runtime.Gosched() { // until its watcher has had enough
			l.mu.Lock()
			tired := th.v.turn.Load() == aboard && !th.v.lane
			l.mu.Unlock()
			if tired {
				break
			}
		}
	}
	for _, th := range all {
		th.Interrupt()
	}
	wg.Wait()
	for _, th := range all {
		th.Close()
	}
	w.atRest(1)
}

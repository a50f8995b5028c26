package platformtest

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

func testManyThreads(t *testing.T, newPlatform Make) {
	const threads, rounds = 64, 100
	p := newWorld(t, newPlatform).program(guestCount)
	err := together(threads, func(i int) error {
		g, err := p.start()
		if err != nil {
			return fmt.Errorf("thread %d: %w", i, err)
		}
		defer g.th.Close()
		g.Rbx = rounds
		for n := 0; ; n++ {
			if _, err := g.until(platform.Syscall); err != nil {
				return fmt.Errorf("thread %d: %w", i, err)
			}
			if g.Orig_rax == 0 && n == rounds {
				return nil
			}
			if want := uint64(1000*i + n); n > 0 && g.Orig_rax != want {
				return fmt.Errorf("thread %d: call %d, want %d", i, g.Orig_rax, want)
			}
			g.Rax = uint64(1000*i + n + 1)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := word(p.data.Host, 0).Load(); got != threads*rounds {
		t.Fatalf("counted %d, want %d", got, threads*rounds)
	}
}

// started waits until a guest has stored something into the word.
func started(w *atomic.Uint64) {
	for w.Load() == 0 {
		runtime.Gosched()
	}
}

func testInterruptSpinning(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestSpin)
	flag := word(p.data.Host, 0)
	for range 20 {
		g.Rip, g.Rax, g.Dirty = uint64(textAt), 0, platform.DirtyGPR
		flag.Store(0)
		go func() {
			started(flag)
			g.th.Interrupt()
		}()
		e := g.expect(t, platform.Interrupted)
		if spin := uint64(textAt) + 7; g.Rip < spin || g.Rip > spin+5 {
			t.Fatalf("interrupted outside the loop: %s", g.describe(e))
		}
		if int64(g.Orig_rax) != -1 {
			t.Fatalf("orig_rax %d, want -1", int64(g.Orig_rax))
		}
		g.Rax = 9
		g.call(t, 9)
	}
}

func testInterruptBefore(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestCall)
	g.th.Interrupt()
	g.th.Interrupt() // is one interruption
	g.expect(t, platform.Interrupted)
	g.call(t, unix.SYS_GETPPID)
	for nr := range uint64(100) {
		g.Rax = nr
		g.th.Interrupt()
		g.expect(t, platform.Interrupted)
		g.call(t, nr)
	}
}

// testInterruptNeverLost interrupts a thread that calls all the time, and
// counts: each interruption is reported once.
func testInterruptNeverLost(t *testing.T, newPlatform Make) {
	const rounds = 300
	_, g := newGuest(t, newPlatform, guestCall)
	g.call(t, unix.SYS_GETPPID) // threads may come up late
	seen := atomic.Uint64{}
	go func() {
		for n := range uint64(rounds) {
			g.th.Interrupt()
			for seen.Load() == n {
				runtime.Gosched()
			}
		}
	}()
	next := uint64(0)
	for n := uint64(0); n < rounds; {
		g.Rax = next
		e, err := g.run()
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Reason == platform.Interrupted:
			next = g.Rax
			n = seen.Add(1)
		case e.Reason == platform.Syscall && g.Orig_rax == next:
			next++
		default:
			t.Fatalf("call %d: got %s", next, g.describe(e))
		}
	}
	for range 100 {
		g.expect(t, platform.Syscall)
	}
}

// testNoRestart: results that the kernel itself would take for "restart this
// call" (include/linux/errno.h) are a number to the application.
func testNoRestart(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestCallspin)
	flag := word(p.data.Host, 0)
	for nr := int64(-520); nr <= -508; nr++ {
		g.Rip, g.Rax, g.Dirty = uint64(textAt), 1, platform.DirtyGPR
		g.call(t, 1)
		g.Rax = uint64(nr)
		flag.Store(0)
		go func() {
			started(flag)
			g.th.Interrupt()
		}()
		e := g.expect(t, platform.Interrupted)
		if g.Rip != uint64(textAt)+9 || g.Rax != uint64(nr) {
			t.Fatalf("result %d: %s, rax %d", nr, g.describe(e), int64(g.Rax))
		}
		// and when it comes from elsewhere, with a call long ago
		g.Dirty = platform.DirtyGPR
		go g.th.Interrupt()
		g.expect(t, platform.Interrupted)
		if g.Rip != uint64(textAt)+9 {
			t.Fatalf("rax %d moved rip to %#x", nr, g.Rip)
		}
	}
}

// testSleep passes a turn to and fro between two threads that can sleep.
func testSleep(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestCall)
	me, ok := g.th.(platform.Sleeper)
	if !ok {
		t.Skip("threads here are goroutines")
	}
	me.Wake()
	me.Wake()
	me.Sleep(-1) // has been woken
	me.Sleep(0)  // would time out
	var turn atomic.Uint64
	const turns = 2000
	pass := func(g *guest, me, other platform.Sleeper, parity uint64) error {
		for n := parity; n < turns; n += 2 {
			for turn.Load() != n {
				me.Sleep(time.Minute)
			}
			if _, err := g.until(platform.Syscall); err != nil {
				return err
			}
			turn.Add(1)
			other.Wake()
		}
		return nil
	}
	ready, done := make(chan platform.Sleeper, 1), make(chan error, 1)
	go func() {
		g, err := p.start()
		if err != nil {
			done <- err
			close(ready)
			return
		}
		defer g.th.Close()
		other := g.th.(platform.Sleeper)
		ready <- other
		done <- pass(g, other, me, 1)
	}()
	other := <-ready
	if other == nil {
		t.Fatal(<-done)
	}
	if err := pass(g, me, other, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func testSwitchSpaces(t *testing.T, newPlatform Make) {
	w := newWorld(t, newPlatform)
	a, b := w.program(guestBases), w.program(guestBases)
	word(a.data.Host, 0).Store(1)
	word(b.data.Host, 0).Store(2)
	g := a.guest()
	g.Fs_base, g.Gs_base, g.R15 = uint64(dataAt), uint64(dataAt), 0x1515
	for range 50 {
		for i, p := range []*program{a, b} {
			g.as = p.as
			g.call(t, uint64(i)+1)
			if g.R15 != 0x1515 {
				t.Fatalf("r15 %#x", g.R15)
			}
		}
	}
}

// testManySpaces: spaces come and go, threads too, as fork and exec have it.
func testManySpaces(t *testing.T, newPlatform Make) {
	w := newWorld(t, newPlatform)
	home := w.program(guestBases)
	g := home.guest()
	g.Fs_base, g.Gs_base = uint64(dataAt), uint64(dataAt)
	for n := range uint64(40) {
		as := w.space()
		if err := as.Map(textAt, home.text, rx); err != nil {
			t.Fatal(err)
		}
		data := w.mapped(as, dataAt, 1, rw)
		word(data.Host, 0).Store(100 + n)
		if n%2 == 0 { // this thread enters the new space and leaves it
			g.as = as
			g.call(t, 100+n)
			g.as = home.as
			g.call(t, 0)
			as.Release()
			continue
		}
		err := together(1, func(int) error { // a thread of its own
			child, err := home.start()
			if err != nil {
				return err
			}
			child.as = as
			child.Fs_base, child.Gs_base = uint64(dataAt), uint64(dataAt)
			_, err = child.until(platform.Syscall)
			if err == nil && child.Orig_rax != 100+n {
				err = fmt.Errorf("space %d: read %d", n, child.Orig_rax)
			}
			if n%4 == 1 {
				child.th.Close()
				as.Release()
			} else {
				as.Release()
				child.th.Close()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

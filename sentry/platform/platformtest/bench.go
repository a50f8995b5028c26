package platformtest

import (
	"sync/atomic"
	"testing"

	"bulkhead/sentry/platform"
)

// Bench measures what a platform costs.
func Bench(b *testing.B, newPlatform func(testing.TB) platform.Platform) {
	for _, c := range []struct {
		name string
		run  func(*testing.B, Make)
	}{
		{"Syscall", benchSyscall},
		{"SyscallAllRegisters", benchSyscallAll},
		{"Fault", benchFault},
		{"MapTouchUnmap16K", benchMap},
		{"FirstTouch", benchTouch},
		{"SwitchThreads", benchThreads},
		{"SwitchSleepers", benchSleepers},
		{"SwitchSpaces", benchSpaces},
		{"Interrupt", benchInterrupt},
		{"NewThread", benchNewThread},
		{"NewSpace", benchNewSpace},
	} {
		b.Run(c.name, func(b *testing.B) { c.run(b, newPlatform) })
	}
}

func benchSyscall(b *testing.B, newPlatform Make) {
	_, g := newGuest(b, newPlatform, guestCall)
	b.ReportAllocs()
	for b.Loop() {
		g.expect(b, platform.Syscall)
	}
}

func benchSyscallAll(b *testing.B, newPlatform Make) {
	_, g := newGuest(b, newPlatform, guestCall)
	for b.Loop() {
		g.Dirty = platform.DirtyGPR | platform.DirtyBase
		g.expect(b, platform.Syscall)
	}
}

// benchFault is a fault, its page mapped and its page taken away again.
func benchFault(b *testing.B, newPlatform Make) {
	p, g := newGuest(b, newPlatform, guestStore)
	seg := p.w.pages(1)
	for b.Loop() {
		g.Rip, g.Rdi, g.Dirty = uint64(textAt), uint64(nowhere), platform.DirtyGPR
		g.expect(b, platform.Fault)
		if err := p.as.Map(nowhere, seg, rw); err != nil {
			b.Fatal(err)
		}
		g.expect(b, platform.Syscall)
		if err := p.as.Unmap(nowhere, platform.PageSize); err != nil {
			b.Fatal(err)
		}
	}
}

func benchMap(b *testing.B, newPlatform Make) {
	p, g := newGuest(b, newPlatform, guestTouch)
	seg := p.w.pages(4)
	for b.Loop() {
		if err := p.as.Map(nowhere, seg, rw); err != nil {
			b.Fatal(err)
		}
		g.Rip, g.Rdi, g.Rsi, g.Rcx, g.Dirty = uint64(textAt), uint64(nowhere), platform.PageSize, 4, platform.DirtyGPR
		g.expect(b, platform.Syscall)
		if err := p.as.Unmap(nowhere, 4*platform.PageSize); err != nil {
			b.Fatal(err)
		}
	}
}

// benchTouch is the first touch of pages that are mapped but not allocated; ns/op is a page.
func benchTouch(b *testing.B, newPlatform Make) {
	const pages = 4096
	p, g := newGuest(b, newPlatform, guestTouch)
	for n := 0; n < b.N; n += pages {
		b.StopTimer()
		if p.w.next+pages*platform.PageSize > regionSize {
			b.Skip("the region is used up")
		}
		p.w.mapped(p.as, nowhere, pages, rw)
		g.Rip, g.Rdi, g.Rsi, g.Dirty = uint64(textAt), uint64(nowhere), platform.PageSize, platform.DirtyGPR
		g.Rcx = uint64(min(pages, b.N-n))
		b.StartTimer()
		g.expect(b, platform.Syscall)
	}
}

// benchThreads passes a turn between two threads; ns/op is two turns.
func benchThreads(b *testing.B, newPlatform Make) {
	p := newWorld(b, newPlatform).program(guestCall)
	ping, pong := make(chan struct{}), make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(pong)
		g, err := p.start()
		if err != nil {
			failed <- err
			return
		}
		defer g.th.Close()
		for range ping {
			if _, err := g.until(platform.Syscall); err != nil {
				failed <- err
				return
			}
			pong <- struct{}{}
		}
	}()
	g := p.guest()
	for b.Loop() {
		g.expect(b, platform.Syscall)
		ping <- struct{}{}
		if _, ok := <-pong; !ok {
			b.Fatal(<-failed)
		}
	}
	close(ping)
	<-pong
}

// benchSleepers does the same with platform.Sleeper.
func benchSleepers(b *testing.B, newPlatform Make) {
	p, g := newGuest(b, newPlatform, guestCall)
	me, ok := g.th.(platform.Sleeper)
	if !ok {
		b.Skip("threads here are goroutines")
	}
	var turn atomic.Uint32 // 1: the other's, 2: the end
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
		for {
			for turn.Load() == 0 {
				other.Sleep(-1)
			}
			if turn.Load() == 2 {
				done <- nil
				return
			}
			if _, err := g.until(platform.Syscall); err != nil {
				done <- err
				return
			}
			turn.Store(0)
			me.Wake()
		}
	}()
	other := <-ready
	if other == nil {
		b.Fatal(<-done)
	}
	for b.Loop() {
		g.expect(b, platform.Syscall)
		turn.Store(1)
		other.Wake()
		for turn.Load() == 1 {
			me.Sleep(-1)
		}
	}
	turn.Store(2)
	other.Wake()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func benchSpaces(b *testing.B, newPlatform Make) {
	w := newWorld(b, newPlatform)
	x, y := w.program(guestCall), w.program(guestCall)
	g := x.guest()
	for b.Loop() {
		g.as = y.as
		g.expect(b, platform.Syscall)
		g.as = x.as
		g.expect(b, platform.Syscall)
	}
}

func benchInterrupt(b *testing.B, newPlatform Make) {
	_, g := newGuest(b, newPlatform, guestCall)
	for b.Loop() {
		g.th.Interrupt()
		g.expect(b, platform.Interrupted)
		g.expect(b, platform.Syscall)
	}
}

func benchNewThread(b *testing.B, newPlatform Make) {
	p, g := newGuest(b, newPlatform, guestCall)
	g.expect(b, platform.Syscall)
	for b.Loop() {
		err := together(1, func(int) error {
			g, err := p.start()
			if err != nil {
				return err
			}
			defer g.th.Close()
			_, err = g.until(platform.Syscall)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// benchNewSpace is what fork and exit ask of a platform.
func benchNewSpace(b *testing.B, newPlatform Make) {
	p, g := newGuest(b, newPlatform, guestCall)
	g.expect(b, platform.Syscall)
	for b.Loop() {
		err := together(1, func(int) error {
			as, err := p.w.p.NewAddressSpace()
			if err != nil {
				return err
			}
			defer as.Release()
			if err := as.Map(textAt, p.text, rx); err != nil {
				return err
			}
			g, err := p.start()
			if err != nil {
				return err
			}
			defer g.th.Close()
			g.as = as
			_, err = g.until(platform.Syscall)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

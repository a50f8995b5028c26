package platformtest

import (
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// general is what syscall leaves alone.
func general(r *platform.Registers) []*uint64 {
	return []*uint64{&r.Rbx, &r.Rdx, &r.Rsi, &r.Rdi, &r.Rbp, &r.R8, &r.R9, &r.R10, &r.R12, &r.R13, &r.R14, &r.R15}
}

func testRegisters(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestInvert)
	for round := range 100 {
		var want [12]uint64
		for i, p := range general(&g.Registers) {
			v := rand.Uint64()
			*p, want[i] = v, ^v
		}
		g.Rsp = anyStack() // nothing of this guest's uses it
		rsp := g.Rsp
		g.Rip = uint64(textAt)
		g.Rax = uint64(round)
		g.Dirty = platform.DirtyGPR
		g.call(t, uint64(round))
		for i, p := range general(&g.Registers) {
			if *p != want[i] {
				t.Fatalf("round %d, register %d: got %#x, want %#x", round, i, *p, want[i])
			}
		}
		if end := uint64(textAt) + 38; g.Rip != end || g.Rsp != rsp {
			t.Fatalf("rip %#x rsp %#x, want %#x and %#x", g.Rip, g.Rsp, end, rsp)
		}
	}
}

// testRax changes registers without saying so: only RAX may count.
func testRax(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestCall)
	g.Rbx, g.R12 = 0x1111, 0x2222
	g.call(t, unix.SYS_GETPPID)
	for nr := range uint64(1000) {
		g.Rax, g.Rbx, g.R12 = nr, 7, 8
		g.call(t, nr)
		if g.Rbx != 0x1111 || g.R12 != 0x2222 {
			t.Fatalf("call %d: rbx %#x r12 %#x changed", nr, g.Rbx, g.R12)
		}
	}
}

func testGarbage(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestCall)
	for range 1000 {
		regs := g.Registers
		for _, p := range general(&regs) {
			*p = rand.Uint64()
		}
		regs.Rax, regs.Rip, regs.Rsp = rand.Uint64(), uint64(textAt), anyStack()
		g.Registers, g.Dirty = regs, platform.DirtyGPR
		g.call(t, regs.Rax)
		for i, p := range general(&g.Registers) {
			if want := *general(&regs)[i]; *p != want {
				t.Fatalf("call %#x, register %d: got %#x, want %#x", regs.Rax, i, *p, want)
			}
		}
	}
}

func testSingleStep(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestSteps)
	g.Rax, g.Rbx = 10, 20
	g.SingleStep = true
	for _, want := range []struct{ rip, rax, rbx uint64 }{{1, 10, 20}, {4, 11, 20}, {7, 11, 21}} {
		e := g.expect(t, platform.Signal)
		if e.Signal != unix.SIGTRAP || e.Code != trapTrace || e.Trap != 1 {
			t.Fatalf("got %s, want SIGTRAP TRAP_TRACE", g.describe(e))
		}
		if g.Rip != uint64(textAt)+want.rip || g.Rax != want.rax || g.Rbx != want.rbx {
			t.Fatalf("rip %#x rax %d rbx %d, want %+v", g.Rip, g.Rax, g.Rbx, want)
		}
		if g.Eflags&0x100 != 0 {
			t.Fatalf("the platform's trap flag shows in %#x", g.Eflags)
		}
	}
	g.call(t, 11)
	g.SingleStep = false
	g.Rax = 5
	g.call(t, 5) // the nop between was not stepped
}

// testTrapFlag: the application traces itself.
func testTrapFlag(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestTrap)
	e := g.expect(t, platform.Signal)
	if e.Signal != unix.SIGTRAP || e.Code != trapTrace {
		t.Fatalf("got %s, want SIGTRAP TRAP_TRACE", g.describe(e))
	}
	if g.Eflags&0x100 == 0 {
		t.Errorf("flags %#x lack the application's trap flag", g.Eflags)
	}
	g.Eflags &^= 0x100
	g.Dirty = platform.DirtyGPR
	g.call(t, unix.SYS_GETPPID)
}

func testBases(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestBases)
	word(p.data.Host, 0).Store(0xf0f0)
	word(p.data.Host, 0x808).Store(0x9090)
	g.Fs_base, g.Gs_base = uint64(dataAt), uint64(dataAt)+0x800
	g.call(t, 0xf0f0)
	if g.Rbx != 0x9090 {
		t.Fatalf("gs:8 is %#x, want 0x9090", g.Rbx)
	}
	g.Fs_base += 0x808
	g.Dirty = platform.DirtyBase
	g.call(t, 0x9090)
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	if g.Fs_base != uint64(dataAt)+0x808 || g.Gs_base != uint64(dataAt)+0x800 {
		t.Fatalf("saved bases %#x %#x", g.Fs_base, g.Gs_base)
	}
}

func testBasesInside(t *testing.T, newPlatform Make) {
	needFSGSBASE(t)
	_, g := newGuest(t, newPlatform, guestWrbase)
	g.Rdi, g.Rsi = 0x1234_5678_9000, 0x7654_3210_0000
	e, err := g.run()
	if err != nil {
		t.Fatal(err)
	}
	if e.Reason == platform.Signal && e.Signal == unix.SIGILL {
		t.Skip("wrfsbase is off on this host (CR4.FSGSBASE)")
	}
	if e.Reason != platform.Syscall {
		t.Fatalf("got %s", g.describe(e))
	}
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	if g.Fs_base != 0x1234_5678_9000 || g.Gs_base != 0x7654_3210_0000 {
		t.Fatalf("saved bases %#x %#x", g.Fs_base, g.Gs_base)
	}
}

func testSelfModifying(t *testing.T, newPlatform Make) {
	p := newWorld(t, newPlatform).program(guestPatch)
	if err := p.as.Map(textAt, p.text, rwx); err != nil {
		t.Fatal(err)
	}
	g := p.guest()
	for n := range uint64(50) {
		g.Rdi = 1000 + n
		g.Dirty = platform.DirtyGPR
		g.call(t, 1000+n)
	}
	for n := range uint64(50) { // and from the Sentry's side
		g.Rip = uint64(textAt) + 6
		g.Dirty = platform.DirtyGPR
		p.text.Host[7] = byte(n)
		p.text.Host[8], p.text.Host[9] = 0, 0
		g.call(t, n)
	}
}

func testClock(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestClock)
	g.Rbx = 0
	e := g.expect(t, platform.Syscall)
	if g.Rbx == 0 {
		t.Fatalf("the clock stood still: %s", g.describe(e))
	}
}

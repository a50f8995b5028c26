package platformtest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// si_code of include/uapi/asm-generic/siginfo.h, which x/sys/unix lacks.
const (
	siKernel  = 0x80
	illOpn    = 2
	fpeIntDiv = 1
	fpeFltDiv = 3
	trapTrace = 2
	trapBrkpt = 1
	busAdrAln = 1
)

// emulated are the exceptions that the lab's processor raises otherwise (QEMU 7.2,
// target/i386/tcg).
var emulated = map[string]string{
	"DB": "QEMU has no INT1 in a guest",
	"SS": "QEMU raises #GP for every address that is not canonical",
	"XM": "QEMU raises no SIMD floating-point exception",
}

func testExceptions(t *testing.T, newPlatform Make) {
	const wild = 0x8000_0000_0000_0000 // not canonical
	for _, c := range []struct {
		name   string
		guest  string
		set    func(*guest)
		signal unix.Signal
		code   int32
		trap   uint64
		rip    uint64 // behind textAt
		addr   bool   // si_addr is RIP
	}{
		{"UD", guestUd2, nil, unix.SIGILL, illOpn, 6, 0, true},
		{"DE", guestDiv, nil, unix.SIGFPE, fpeIntDiv, 0, 2, true},
		{"BP", guestInt3, nil, unix.SIGTRAP, siKernel, 3, 1, false},
		{"DB", guestInt1, nil, unix.SIGTRAP, trapBrkpt, 1, 1, true},
		{"GP privileged", guestHlt, nil, unix.SIGSEGV, siKernel, 13, 0, false},
		{"GP port", guestIn, nil, unix.SIGSEGV, siKernel, 13, 0, false},
		{"GP address", guestLoad, func(g *guest) { g.Rdi = wild }, unix.SIGSEGV, siKernel, 13, 0, false},
		{"SS", guestLoadstack, func(g *guest) { g.Rsp = wild }, unix.SIGBUS, siKernel, 12, 0, false},
		{"XM", guestSimd, nil, unix.SIGFPE, fpeFltDiv, 19, 0x1e, true},
		{"MF", guestX87, nil, unix.SIGFPE, fpeFltDiv, 16, 0x11, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if why := emulated[c.name]; why != "" && os.Getenv("BULKHEAD_LAB") != "" {
				t.Skip(why + ": to be run on a processor")
			}
			if c.name == "SS" {
				needWildStack(t)
			}
			_, g := newGuest(t, newPlatform, c.guest)
			if c.set != nil {
				c.set(g)
			}
			e := g.expect(t, platform.Signal)
			if e.Signal != c.signal || e.Code != c.code || e.Trap != c.trap {
				t.Fatalf("got %s, want signal %d code %d trap %d", g.describe(e), c.signal, c.code, c.trap)
			}
			want := uint64(textAt) + c.rip
			if c.name == "DB" && g.Rip == uint64(textAt) {
				// A hypervisor beneath the host's kernel that injects #DB for an INT1
				// which it intercepted may leave RIP there (seen on AMD, natively too).
				want = g.Rip
			}
			if g.Rip != want {
				t.Errorf("rip %#x, want %#x", g.Rip, want)
			}
			if c.addr && uint64(e.Addr) != g.Rip || !c.addr && e.Addr != 0 {
				t.Errorf("si_addr %#x with rip %#x", uint64(e.Addr), g.Rip)
			}
			g.Rip = uint64(textAt) // the thread lives on
			g.Dirty = platform.DirtyGPR
			g.expect(t, platform.Signal)
		})
	}
}

// prepared is data that a fault may meet: nothing, or a page with some access.
const absent = platform.Access(0x80)

func testFaults(t *testing.T, newPlatform Make) {
	const r, none = platform.Read, platform.Access(0)
	const wild platform.Addr = 0xffff_8000_0000_1000 // the kernel's half
	for _, c := range []struct {
		name  string
		guest string
		have  platform.Access // of the page at nowhere
		set   func(g *guest)
		want  platform.Access
		addr  platform.Addr // 0 is nowhere
	}{
		{"read nothing", guestLoad, absent, nil, platform.Read, 0},
		{"read none", guestLoad, none, nil, platform.Read, 0},
		{"write nothing", guestStore, absent, nil, platform.Write, 0},
		{"write none", guestStore, none, nil, platform.Write, 0},
		{"write read-only", guestStore, r, nil, platform.Write, 0},
		{"write text", guestStore, rx, nil, platform.Write, 0},
		{"add read-only", guestAdd, r, nil, platform.Write, 0},
		{"xchg read-only", guestXchg, r, nil, platform.Write, 0},
		{"movups read", guestMovupsLoad, absent, nil, platform.Read, 0},
		{"movups write", guestMovupsStore, absent, nil, platform.Write, 0},
		{"stos", guestStos, absent, func(g *guest) { g.Rcx = 4 }, platform.Write, 0},
		{"movs from", guestMovs, absent, func(g *guest) { g.Rsi = uint64(nowhere); g.Rdi = uint64(dataAt) }, platform.Read, 0},
		{"movs to", guestMovs, absent, func(g *guest) { g.Rsi = uint64(dataAt) }, platform.Write, 0},
		{"push", guestPush, absent, func(g *guest) { g.Rsp = uint64(nowhere) + 8 }, platform.Write, 0},
		{"pop", guestPop, absent, func(g *guest) { g.Rsp = uint64(nowhere) }, platform.Read, 0},
		{"call", guestCallq, absent, func(g *guest) { g.Rsp = uint64(nowhere) + 8; g.Rax = uint64(textAt) + 2 }, platform.Write, 0},
		{"jump to nothing", guestJump, absent, nil, platform.Exec, 0},
		{"jump to data", guestJump, rw, nil, platform.Exec, 0},
		{"jump to 0", guestJump, absent, func(g *guest) { g.Rdi = 0x10 }, platform.Exec, 0x10},
		{"read the kernel", guestLoad, absent, func(g *guest) { g.Rdi = uint64(wild) }, platform.Read, wild},
		{"jump to the kernel", guestJump, absent, func(g *guest) { g.Rdi = uint64(wild) }, platform.Exec, wild},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, g := newGuest(t, newPlatform, c.guest)
			seg := p.w.pages(1)
			if c.have != absent {
				if err := p.as.Map(nowhere, seg, c.have); err != nil {
					t.Fatal(err)
				}
			}
			g.Rdi = uint64(nowhere)
			if c.set != nil {
				c.set(g)
			}
			at := c.addr
			if at == 0 {
				at = nowhere
			}
			e := g.resolve(t, p, seg, at, c.want)
			if c.want == platform.Exec {
				return
			}
			if e.Reason == platform.Fault && at == nowhere {
				t.Fatalf("after the fault was answered: %s", g.describe(e))
			}
		})
	}
}

// resolve runs until the fault. A platform that cannot tell a write from a read
// may report the read first; once the page can be read it must say write.
func (g *guest) resolve(t *testing.T, p *program, seg platform.Segment, at platform.Addr, want platform.Access) platform.Event {
	t.Helper()
	rip := g.Rip
	e := g.expect(t, platform.Fault)
	if e.Access == platform.Read && want == platform.Write {
		if err := p.as.Map(at, seg, platform.Read); err != nil {
			t.Fatal(err)
		}
		e = g.expect(t, platform.Fault)
		t.Logf("the first fault said read")
	}
	if e.Access != want || e.Addr != at || e.Trap != 14 {
		t.Fatalf("got %s, want %v at %#x", g.describe(e), want, uint64(at))
	}
	if want != platform.Exec && g.Rip != rip {
		t.Fatalf("rip moved from %#x to %#x", rip, g.Rip)
	}
	if want == platform.Exec && g.Rip != uint64(at) {
		t.Fatalf("rip %#x, want %#x", g.Rip, uint64(at))
	}
	bits := e.Err & (1<<1 | 1<<2) // W, U (SDM, Page-Fault Exceptions)
	if bits&4 == 0 || (bits&2 != 0) != (want == platform.Write) {
		t.Errorf("error code %#x for %v", e.Err, want)
	}
	if at != nowhere || want == platform.Exec {
		return e
	}
	if err := p.as.Map(at, seg, rw); err != nil {
		t.Fatal(err)
	}
	e, err := g.run()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func testAlignment(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestAligned)
	g.Rdi++
	e, err := g.run()
	if err != nil {
		t.Fatal(err)
	}
	if e.Reason == platform.Syscall {
		t.Skip("alignment checks are off here (CR0.AM)")
	}
	if e.Reason != platform.Signal || e.Signal != unix.SIGBUS || e.Code != busAdrAln || e.Trap != 17 {
		t.Fatalf("got %s, want SIGBUS BUS_ADRALN", g.describe(e))
	}
}

// testOldEntries: what an x86-64 Linux without 32-bit programs has no entry for.
func testOldEntries(t *testing.T, newPlatform Make) {
	for _, c := range []struct {
		name, guest, far string
		moves            bool // RIP is lost, as SYSENTER has it
	}{
		{"int 0x80", guestInt80, "", false},
		{"sysenter", guestSysenter, "", true},
		{"int 0x80 in 32-bit code", guestFar, guestCompat, true},
		{"syscall in 32-bit code", guestFar, guestCompatsys, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, g := newGuest(t, newPlatform, c.guest)
			copy(p.text.Host[0x800:], code(c.far))
			copy(p.data.Host, []byte{0x00, 0x08, 0x40, 0x00, 0x23, 0x00}) // 0x23:0x400800
			g.Rsp, g.Rbp = 0x40_0900, 0x40_0900
			g.Dirty = platform.DirtyAll
			for range 3 {
				e, err := g.run()
				if err != nil {
					t.Fatal(err)
				}
				if e.Reason == platform.Syscall || e.Reason == platform.Interrupted {
					t.Fatalf("a 32-bit entry passed for a call: %s", g.describe(e))
				}
				if e.Reason == platform.Signal && e.Signal != unix.SIGSEGV && e.Signal != unix.SIGILL {
					t.Fatalf("got %s, want SIGSEGV or SIGILL", g.describe(e))
				}
				if !c.moves && g.Rip != uint64(textAt) {
					t.Fatalf("rip %#x, want the instruction", g.Rip)
				}
			}
		})
	}
}

// testVsyscall: the vsyscall page is either not there or another way to call.
func testVsyscall(t *testing.T, newPlatform Make) {
	const page = 0xffff_ffff_ff60_0000
	_, g := newGuest(t, newPlatform, guestVsyscall)
	rsp := g.Rsp
	e, err := g.run()
	if err != nil {
		t.Fatal(err)
	}
	if e.Reason == platform.Fault {
		if e.Addr != page || e.Access != platform.Exec {
			t.Fatalf("got %s", g.describe(e))
		}
		t.Log("there is no vsyscall page")
		return
	}
	if e.Reason != platform.Syscall || g.Orig_rax != unix.SYS_GETTIMEOFDAY || g.Rsp != rsp {
		t.Fatalf("got %s, want the call gettimeofday and the return done", g.describe(e))
	}
	g.Rax = unix.SYS_GETPID
	g.call(t, unix.SYS_GETPID)
}

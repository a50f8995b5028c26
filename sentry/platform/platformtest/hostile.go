package platformtest

import (
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// testHostileRegisters loads what sigreturn or ptrace may ask for. Whatever
// happens, it happens to the application: the thread must go on.
func testHostileRegisters(t *testing.T, newPlatform Make) {
	const iopl = 3 << 12
	for _, c := range []struct {
		name string
		set  func(*platform.Registers)
		want platform.Reason // 0: any event
	}{
		{"rip 0", func(r *platform.Registers) { r.Rip = 0 }, platform.Fault},
		{"rip not canonical", func(r *platform.Registers) { r.Rip = 1 << 63 }, 0},
		{"rip at the canonical edge", func(r *platform.Registers) { r.Rip = 1 << 47 }, 0},
		{"rip below the edge", func(r *platform.Registers) { r.Rip = 1<<47 - 2 }, 0},
		{"rip in the kernel", func(r *platform.Registers) { r.Rip = 0xffff_ffff_8100_0000 }, 0},
		{"rip all ones", func(r *platform.Registers) { r.Rip = ^uint64(0) }, 0},
		{"rsp not canonical", func(r *platform.Registers) { r.Rsp = 1 << 63 }, platform.Syscall},
		{"rsp in the kernel", func(r *platform.Registers) { r.Rsp = 0xffff_8880_0000_0000 }, platform.Syscall},
		{"flags NT", func(r *platform.Registers) { r.Eflags |= 1 << 14 }, platform.Syscall},
		{"flags AC", func(r *platform.Registers) { r.Eflags |= 1 << 18 }, platform.Syscall},
		{"flags DF", func(r *platform.Registers) { r.Eflags |= 1 << 10 }, platform.Syscall},
		{"flags RF", func(r *platform.Registers) { r.Eflags |= 1 << 16 }, platform.Syscall},
		{"flags IOPL", func(r *platform.Registers) { r.Eflags |= iopl }, platform.Syscall},
		{"flags VM VIF VIP", func(r *platform.Registers) { r.Eflags |= 1<<17 | 1<<19 | 1<<20 }, platform.Syscall},
		{"flags without IF", func(r *platform.Registers) { r.Eflags &^= 1 << 9 }, platform.Syscall},
		{"flags none", func(r *platform.Registers) { r.Eflags = 0 }, platform.Syscall},
		{"flags all", func(r *platform.Registers) { r.Eflags = ^uint64(0) }, 0},
		{"cs 0", func(r *platform.Registers) { r.Cs = 0 }, 0},
		{"cs of the kernel", func(r *platform.Registers) { r.Cs = 0x10 }, 0},
		{"cs all ones", func(r *platform.Registers) { r.Cs = ^uint64(0) }, 0},
		{"cs of data", func(r *platform.Registers) { r.Cs = 0x2b }, 0},
		{"ss 0", func(r *platform.Registers) { r.Ss = 0 }, 0},
		{"ss of the kernel", func(r *platform.Registers) { r.Ss = 0x18 }, 0},
		{"selectors", func(r *platform.Registers) { r.Ds, r.Es, r.Fs, r.Gs = 0xffff, 0x10, 0x33, 7 }, 0},
		{"bases not canonical", func(r *platform.Registers) { r.Fs_base, r.Gs_base = 1<<63, 1<<62 }, platform.Syscall},
		{"bases in the kernel", func(r *platform.Registers) { r.Fs_base, r.Gs_base = ^uint64(0), 1<<64-1<<40 }, platform.Syscall},
		{"orig_rax", func(r *platform.Registers) { r.Orig_rax, r.Rax = 3, ^uint64(511) }, platform.Syscall},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "rsp not canonical" && !wildStack() {
				c.want = 0
			}
			p, g := newGuest(t, newPlatform, guestCall)
			good := g.Registers
			for _, fresh := range []bool{true, false} { // the first Run, and after one
				g.Registers, g.Dirty = good, platform.DirtyGPR|platform.DirtyBase
				if fresh {
					g.Dirty = platform.DirtyAll
				}
				c.set(&g.Registers)
				e, err := g.run()
				if err != nil {
					t.Fatal(err)
				}
				if c.want != 0 && e.Reason != c.want {
					t.Fatalf("got %s, want reason %d", g.describe(e), c.want)
				}
				if g.Eflags&iopl != 0 {
					t.Errorf("the application has IOPL: flags %#x", g.Eflags)
				}
				g.Registers, g.Dirty = good, platform.DirtyAll
				g.FPU = nil
				g.call(t, unix.SYS_GETPPID)
			}
			copy(p.text.Host, code(guestIn)) // no port is open, whatever the flags
			g.Registers, g.Dirty = good, platform.DirtyAll
			c.set(&g.Registers)
			g.Rip = good.Rip
			e, err := g.run()
			if err != nil {
				t.Fatal(err)
			}
			if e.Reason == platform.Syscall || e.Reason == platform.Interrupted {
				t.Fatalf("reading a port: got %s", g.describe(e))
			}
		})
	}
}

// testSelectors: the application loads segment registers itself.
func testSelectors(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestSelectors)
	good := g.Registers
	for _, c := range []struct {
		selector uint64
		want     platform.Reason // 0: a call or #GP
	}{
		{0, platform.Syscall}, {3, platform.Syscall}, {0x2b, 0}, {0x33, 0}, {0x23, 0}, {0x53, 0},
		{0x08, platform.Signal}, {0x10, platform.Signal}, {0x40, platform.Signal},
		{0x07, platform.Signal}, {0xfffb, platform.Signal},
	} {
		g.Registers, g.Dirty = good, platform.DirtyGPR|platform.DirtyBase
		g.Rax = c.selector
		e, err := g.run()
		if err != nil {
			t.Fatalf("selector %#x: %v", c.selector, err)
		}
		gp := e.Reason == platform.Signal && e.Signal == unix.SIGSEGV && e.Trap == 13
		if c.want != 0 && e.Reason != c.want || e.Reason != platform.Syscall && !gp {
			t.Fatalf("selector %#x: got %s", c.selector, g.describe(e))
		}
	}
}

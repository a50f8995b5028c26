package boot

import (
	"errors"
	"testing"

	"bulkhead/kvm"

	"golang.org/x/sys/unix"
)

// TestEntered runs the test kernel for its few instructions, on any /dev/kvm: it
// finds registers, segments, page tables and its information as each protocol says.
func TestEntered(t *testing.T) {
	for _, p := range []Protocol{PVH, Linux64} {
		t.Run(p.String(), func(t *testing.T) {
			m := newRAM(t, 32*mib, 0)
			e := mustLoad(t, mustOpen(t, testKernel(nil)), m, Params{Cmdline: "quiet", Protocol: p})
			if got := run(t, m, e); got != 'q' {
				t.Errorf("the guest says %q", got)
			}
		})
	}
}

// run is what the guest that begins with e writes to port 0xf4.
func run(t *testing.T, m *ram, e Entry) byte {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := kvm.Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		t.Skip("needs /dev/kvm (load kvm-intel or kvm-amd; be root or in group kvm):", err)
	}
	must(err)
	defer s.Close()
	vm, err := s.NewVM()
	must(err)
	defer vm.Close()
	must(vm.SetTSSAddr(0xfffb_d000))
	must(vm.SetMemory(0, 0, m.below, 0))
	c, err := vm.NewVCPU(0)
	must(err)
	defer c.Close()
	list, err := s.CPUID()
	must(err)
	must(c.SetCPUID(list))
	sregs, err := c.Sregs()
	must(err)
	sregs, regs := e.Sregs(sregs), e.Registers()
	must(c.SetSregs(&sregs))
	must(c.SetRegs(&regs))
	why, err := c.Run()
	must(err)
	if why != kvm.ExitIO || c.IO().In || c.IO().Port != port {
		r, _ := c.Regs()
		t.Fatalf("the guest left with %v at %#x", why, r.RIP)
	}
	return c.IO().Data[0]
}

package kvm

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// machine is a guest of a few bytes: 2 MiB of memory at 0, code at 0x1000.
type machine struct {
	*VM
	t   *testing.T
	sys *System
	mem []byte
}

const codeAt = 0x1000

func open(t *testing.T) *System {
	t.Helper()
	s, err := Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		t.Skip("needs /dev/kvm (load kvm-intel or kvm-amd; be root or in group kvm):", err)
	}
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newMachine(t *testing.T, code ...byte) *machine {
	t.Helper()
	s := open(t)
	vm, err := s.NewVM()
	must(t, err)
	mem, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	must(t, err)
	t.Cleanup(func() { vm.Close(); unix.Munmap(mem) })
	must(t, vm.SetTSSAddr(0xfffb_d000))
	must(t, vm.SetMemory(0, 0, mem, 0))
	copy(mem[codeAt:], code)
	return &machine{vm, t, s, mem}
}

func (m *machine) put(at int, words ...uint64) {
	for i, w := range words {
		binary.LittleEndian.PutUint64(m.mem[at+8*i:], w)
	}
}

func (m *machine) vcpu(id int) *VCPU {
	m.t.Helper()
	c, err := m.NewVCPU(id)
	must(m.t, err)
	m.t.Cleanup(func() { c.Close() })
	list, err := m.sys.CPUID()
	must(m.t, err)
	must(m.t, c.SetCPUID(list))
	return c
}

var (
	code64 = Segment{Limit: ^uint32(0), Selector: 0x10, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data   = Segment{Limit: ^uint32(0), Selector: 0x18, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	task   = Segment{Base: 0x8000, Limit: 0x67, Selector: 0x40, Type: 11, Present: 1}
)

// Pages of the 64-bit guest.
const (
	pml4, pdpt, pd = 0x2000, 0x3000, 0x4000
	gdt, idt       = 0x5000, 0x6000
	gate           = 0x7000 // 16 bytes a vector
	tss            = 0x8000
	stack0         = 0xa000
	lstar          = 0xb000
)

// long puts c into 64-bit mode at ring 0 or 3, with every page mapped 1:1 for
// both rings, a gate for each vector and a task segment.
func (m *machine) long(c *VCPU, ring uint8) {
	m.put(pml4, pdpt|7)
	m.put(pdpt, pd|7)
	m.put(pd, 0|0x87)
	m.put(gdt, 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff,
		0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0,
		0x0000890000000067|tss<<16, 0)
	m.put(tss, stack0<<32)
	m.mem[tss+0x66] = 0x68 // the I/O bitmap lies past the limit: no port for ring 3
	for v := range 32 {
		h := uint64(gate + 16*v)
		m.put(idt+16*v, h&0xffff|0x10<<16|0xee<<40|h>>16<<48, h>>32)
		copy(m.mem[h:], []byte{0xe6, 0x80 + byte(v), 0xf4}) // out 0x80+v,al; hlt
	}
	s, err := c.Sregs()
	must(m.t, err)
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80050033, pml4, 0x620, 0xd01
	s.GDT, s.IDT = Table{Base: gdt, Limit: 0x4f}, Table{Base: idt, Limit: 32*16 - 1}
	s.CS, s.TR = code64, task
	d := data
	if ring == 3 {
		s.CS.Selector, s.CS.DPL = 0x33, 3
		d.Selector, d.DPL = 0x2b, 3
	}
	s.DS, s.ES, s.FS, s.GS, s.SS = d, d, d, d, d
	must(m.t, c.SetSregs(&s))
	must(m.t, c.SetRegs(&Regs{RIP: codeAt, RSP: 0x10000, RFLAGS: 2}))
	n, err := c.SetMSRs([]MSR{{Index: 0xc0000081, Data: 0x23<<48 | 0x10<<32}, {Index: 0xc0000082, Data: lstar}, {Index: 0xc0000084}})
	must(m.t, err)
	if n != 3 {
		m.t.Fatalf("SetMSRs wrote %d of 3", n)
	}
}

// flat puts c into a mode without paging: 32-bit with protection, or 16-bit.
func (m *machine) flat(c *VCPU, protected bool) {
	s, err := c.Sregs()
	must(m.t, err)
	if protected {
		s.CR0 |= 1
		s.CS = Segment{Limit: ^uint32(0), Selector: 8, Type: 11, Present: 1, S: 1, DB: 1, G: 1}
		s.DS, s.ES, s.SS = data, data, data
	} else {
		s.CS.Selector, s.CS.Base = 0, 0
	}
	must(m.t, c.SetSregs(&s))
	must(m.t, c.SetRegs(&Regs{RIP: codeAt, RSP: 0x8000, RFLAGS: 2, RAX: 40, RBX: 2}))
}

// expect runs c until it is where want says.
func expect(t *testing.T, c *VCPU, want Exit) {
	t.Helper()
	for {
		got, err := c.Run()
		must(t, err)
		if got == ExitInterrupted && want != ExitInterrupted {
			continue
		}
		if got != want {
			r, _ := c.Regs()
			if got == ExitInternalError {
				t.Log(c.InternalError())
			}
			t.Fatalf("exit %v at rip %#x, want %v", got, r.RIP, want)
		}
		return
	}
}

func expectPort(t *testing.T, c *VCPU, port uint16) {
	t.Helper()
	expect(t, c, ExitIO)
	if io := c.IO(); io.Port != port {
		r, _ := c.Regs()
		t.Fatalf("port %#x at rip %#x, want %#x", io.Port, r.RIP, port)
	}
}

// nowhere maps 2 MiB at 1 GiB to where no memory is.
func (m *machine) nowhere() {
	m.put(pdpt+8, 0xc007)
	m.put(0xc000, 0x4000_0087)
}

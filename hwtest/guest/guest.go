// Package guest makes machines of a few bytes and looks at what happens to them:
// each CPU mode, each instruction of ring 0 that a kernel needs, doorbells,
// interrupts and the rest of what a KVM host may promise and not keep. Where a
// fact can be read, package probe reads it; here it is done.
//
// Nothing in here waits without end: a guest that does not come back is kicked
// by a timer, and one that cannot be kicked is left behind and said so.
package guest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/cpuid"
	"bulkhead/kvm"
)

// Where things lie in a guest, which sees its first 2 MiB one to one.
const (
	CodeAt    = 0x1000
	pml4      = 0x2000
	pdpt      = 0x3000
	pd        = 0x4000
	gdt       = 0x5000
	idt       = 0x6000
	gates     = 0x7000 // 16 bytes a vector
	tss       = 0x8000
	stack0    = 0xa000 // of ring 0 after an exception, growing down
	LSTAR     = 0xb000
	stack     = 0x10000
	Scratch   = 0x20000 // one page of zeroes, RDI points to it
	tables    = 0x21000 // operands of LGDT and LIDT, RSI points to them
	PageTable = 0x30000 // free for a cost's own page tables, up to 0x60000
	Size      = 2 << 20
)

// FaultPort plus a vector is the port that the guest's handler of it writes to.
const FaultPort = 0x80

// DonePort is where a guest says that it came to its end.
const DonePort = 0x42

// Flags of every guest: interrupts are on, though none comes that was not asked
// for. QEMU's translator does not take a guest that loops without them off the
// processor for anybody's signal, and the machine around it stands still.
const Flags = 1<<9 | 1<<1

// IOPL3 in RFLAGS lets ring 3 reach every port.
const IOPL3 = 3 << 12

// Vectors are those with a handler.
const Vectors = 32

// Machine is a guest: one VM, its memory at 0 and its CPUs.
type Machine struct {
	*kvm.VM
	CPU *kvm.VCPU // number 0
	Mem []byte
	all []byte // the mapping that Mem is a part of

	cpuid  []kvm.CPUIDEntry
	others []*kvm.VCPU
}

// Options change what New makes.
type Options struct {
	Size  int  // bytes of memory; 0 means Size
	Chips bool // interrupt controllers in the kernel
	// CPUID is shown to the guest; nil means all that the host supports.
	CPUID []kvm.CPUIDEntry
}

// New makes a machine with one CPU, in the state of a reset.
func New(sys *kvm.System, o Options) (m *Machine, err error) {
	if o.Size == 0 {
		o.Size = Size
	}
	m = &Machine{cpuid: o.CPUID}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.all, err = unix.Mmap(-1, 0, o.Size+align, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("guest: map %d bytes: %w", o.Size, err)
	}
	m.Mem = aligned(m.all, o.Size)
	if m.cpuid == nil {
		if m.cpuid, err = sys.CPUID(); err != nil {
			return nil, err
		}
	}
	if m.VM, err = NewVM(sys); err != nil {
		return nil, err
	}
	if err = m.SetTSSAddr(0xfffb_d000); err != nil {
		return nil, err
	}
	if err = m.SetMemory(0, 0, m.Mem, 0); err != nil {
		return nil, err
	}
	if o.Chips {
		if err = m.NewIRQChip(); err != nil {
			return nil, err
		}
	}
	m.CPU, err = m.AddCPU(0)
	return m, err
}

// align lets the host back aligned 2 MiB of the guest by one page of its own.
const align = 2 << 20

// NewVM asks again where a signal came between, as Go's runtime sends them:
// mm/mmap.c, mm_take_all_locks gives up for one.
func NewVM(sys *kvm.System) (*kvm.VM, error) {
	for {
		vm, err := sys.NewVM()
		if !errors.Is(err, unix.EINTR) {
			return vm, err
		}
	}
}

// AddCPU makes one more CPU, closed with the machine.
func (m *Machine) AddCPU(id int) (*kvm.VCPU, error) {
	c, err := m.NewVCPU(id)
	if err != nil {
		return nil, err
	}
	m.others = append(m.others, c)
	return c, c.SetCPUID(m.cpuid)
}

// HoleAt is where no memory is, once MapHole has mapped 2 MiB of it.
const HoleAt = 0x4000_0000

// MapHole lets a guest reach HoleAt, for MMIO.
func (m *Machine) MapHole() {
	m.Put(pdpt+8, PageTable|7)
	m.Put(PageTable, HoleAt|0x87)
}

// Put stores words at an address.
func (m *Machine) Put(at int, words ...uint64) {
	for i, w := range words {
		binary.LittleEndian.PutUint64(m.Mem[at+8*i:], w)
	}
}

// Word loads one.
func (m *Machine) Word(at int) uint64 { return binary.LittleEndian.Uint64(m.Mem[at:]) }

// Selectors of the GDT that Long writes.
const (
	kernelCode = 0x10
	kernelData = 0x18
	userCode32 = 0x20 | 3
	userData   = 0x28 | 3
	userCode   = 0x30 | 3
	taskState  = 0x40
)

var (
	code64 = kvm.Segment{Limit: ^uint32(0), Selector: kernelCode, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	data   = kvm.Segment{Limit: ^uint32(0), Selector: kernelData, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	task   = kvm.Segment{Base: tss, Limit: tssLimit, Selector: taskState, Type: 11, Present: 1}
)

// tssLimit includes a bitmap of 256 ports and the byte of ones that ends it.
const tssLimit = 0x68 + 256/8

// CR4's bits that are set where the guest's CPUID has their feature.
const (
	cr4Base     = 0x620 // PAE, OSFXSR, OSXMMEXCPT
	cr4FSGSBase = 1 << 16
	cr4OSXSave  = 1 << 18
)

// Long puts c into 64-bit mode at ring 0 or 3 with code at CodeAt: all pages
// mapped one to one for both rings, a gate for each of Vectors, a task segment,
// the registers of SYSCALL. Ring 3 reaches the ports below 0x100, DonePort among
// them, by the segment's bitmap and by IOPL 3: a user-only host (kvm_pvm) has no
// ear for the latter, QEMU's translator none for the former (it wants the
// segment's type to be available, and a running one is busy).
func (m *Machine) Long(c *kvm.VCPU, ring uint8, code ...byte) error {
	m.writeTables()
	copy(m.Mem[CodeAt:], code)
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	s.CR0, s.CR3, s.CR4, s.EFER = 0x80050033, pml4, m.cr4(), 0xd01
	s.GDT, s.IDT = kvm.Table{Base: gdt, Limit: 0x4f}, kvm.Table{Base: idt, Limit: Vectors*16 - 1}
	s.CS, s.TR = code64, task
	d := data
	flags := uint64(Flags)
	if ring == 3 {
		flags |= IOPL3
		s.CS.Selector, s.CS.DPL = userCode, 3
		d.Selector, d.DPL = userData, 3
	}
	s.DS, s.ES, s.FS, s.GS, s.SS = d, d, d, d, d
	if err := c.SetSregs(&s); err != nil {
		return err
	}
	if err := m.setVectorState(c); err != nil {
		return err
	}
	if err := c.SetRegs(&kvm.Regs{RIP: CodeAt, RSP: stack, RDI: Scratch, RSI: tables, RFLAGS: flags}); err != nil {
		return err
	}
	// A short count is seen where it matters, by whoever uses SYSCALL.
	_, err = c.SetMSRs([]kvm.MSR{{Index: 0xc0000081, Data: 0x23<<48 | kernelCode<<32}, {Index: 0xc0000082, Data: LSTAR}, {Index: 0xc0000084}})
	return err
}

// setVectorState enables AVX where there is some.
func (m *Machine) setVectorState(c *kvm.VCPU) error {
	if !cpuid.XSave.In(m.cpuid) {
		return nil
	}
	xcr0 := uint64(3)
	if cpuid.AVX.In(m.cpuid) {
		xcr0 = 7
	}
	return c.SetXCR0(xcr0)
}

func (m *Machine) cr4() uint64 {
	v := uint64(cr4Base)
	if cpuid.FSGSBase.In(m.cpuid) {
		v |= cr4FSGSBase
	}
	if cpuid.XSave.In(m.cpuid) {
		v |= cr4OSXSave
	}
	return v
}

func (m *Machine) writeTables() {
	m.Put(pml4, pdpt|7)
	m.Put(pdpt, pd|7)
	m.Put(pd, 0|0x87)
	m.Put(gdt, 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff,
		0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0,
		0x0000890000000000|tss<<16|tssLimit, 0)
	m.Put(tss, stack0<<32)
	m.Mem[tss+0x66] = 0x68 // where the bitmap is
	m.Mem[tss+tssLimit] = 0xff
	m.Put(tables, gdt<<16|0x4f, 0, idt<<16|(Vectors*16-1), 0)
	for v := range Vectors {
		h := uint64(gates + 16*v)
		m.Put(idt+16*v, h&0xffff|kernelCode<<16|0xee<<40|h>>16<<48, h>>32)
		m.Gate(v, 0xe6, FaultPort+byte(v), 0xf4) // out 0x80+v,al; hlt
	}
}

// Gate is the handler of a vector, at most 16 bytes, until the next Long.
func (m *Machine) Gate(vector int, code ...byte) { copy(m.Mem[gates+16*vector:][:16], code) }

// Flat puts c into a mode without paging: 32-bit with protection, or 16-bit.
func (m *Machine) Flat(c *kvm.VCPU, protected bool, code ...byte) error {
	copy(m.Mem[CodeAt:], code)
	s, err := c.Sregs()
	if err != nil {
		return err
	}
	if protected {
		s.CR0 |= 1
		s.CS = kvm.Segment{Limit: ^uint32(0), Selector: 8, Type: 11, Present: 1, S: 1, DB: 1, G: 1}
		s.DS, s.ES, s.SS = data, data, data
	} else {
		s.CS.Selector, s.CS.Base = 0, 0
	}
	if err := c.SetSregs(&s); err != nil {
		return err
	}
	return c.SetRegs(&kvm.Regs{RIP: CodeAt, RSP: 0x9000, RDI: Scratch & 0xffff, RFLAGS: 2})
}

// Close ends the machine. Nobody runs one of its CPUs.
func (m *Machine) Close() error {
	var errs []error
	for _, c := range m.others {
		errs = append(errs, c.Close())
	}
	m.others = nil
	if m.VM != nil {
		errs = append(errs, m.VM.Close())
		m.VM = nil
	}
	if m.all != nil {
		errs = append(errs, unix.Munmap(m.all))
		m.all, m.Mem = nil, nil
	}
	return errors.Join(errs...)
}

package kvm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"bulkhead/kvm"
	"bulkhead/sentry/platform"
)

// Where a vCPU stands when nobody runs it.
type place uint8

const (
	nowhere place = iota // its registers mean nothing: load all
	inApp                // in the application's code
	inCall               // in the stub, a call posted
	inGate               // in a handler, behind its OUT
)

// vcpu is a virtual CPU with its own kernel half. It runs one thread at a time
// and goes back to the pool when that ends.
type vcpu struct {
	*kvm.VCPU
	p     *Platform
	half  uint64 // the entry of a top level for its kernel half
	slot  *slot
	frame *frame
	plain kvm.Sregs // as after a reset into user mode

	tally tally

	as *addressSpace // whose root is in CR3
	at place

	// What a runner leaves: see runner.go.
	exit kvm.Exit
	err  error
	out  atomic.Bool
	wake chan struct{}
	park atomic.Bool

	turn atomic.Uint32 // ashore, queued, aboard
	// Under lanes.mu: it has a lane, which it has been told to leave, and who gets that then.
	lane, leaving bool
	heir          *vcpu
}

// frame is what the CPU pushes at an exception, from the top of the stack down.
type frame struct{ code, rip, cs, flags, rsp, ss uint64 }

// compat says that the fault is that of a SYSCALL in 32-bit code.
func (f *frame) compat() bool {
	return f.cs&3 == 0 && (f.rip == compatAt || f.rip == compatAt&0xffffffff)
}

// newTables makes the pages that all vCPUs share, below half.
func (p *Platform) newTables() error {
	for _, at := range []*uint64{&p.stubPage, &p.gatePage, &p.idtPage, &p.tablePage} {
		page, err := p.mem.page()
		if err != nil {
			return err
		}
		*at = page
	}
	copy(p.mem.own[p.stubPage:], stub.code)
	gates, idt := p.mem.own[p.gatePage:], p.mem.table(p.idtPage)
	for v := range vectors {
		copy(gates[v*gateSize:], gate(v))
		h := gatesAt + uint64(v*gateSize)
		dpl := uint64(0)
		if v == 3 { // INT3
			dpl = 3
		}
		idt[2*v].Store(h&0xffff | kernelCS<<16 | 1<<32 | 0x8e<<40 | dpl<<45 | h>>16&0xffff<<48)
		idt[2*v+1].Store(h >> 32)
	}
	tables := p.mem.table(p.tablePage)
	for i, d := range gdt {
		tables[i].Store(d)
	}
	base := uint64(tablesAt + tssOffset)
	tables[taskSel/8].Store(tssLimit | base&0xffffff<<16 | 0x8b<<40 | base>>24&0xff<<56)
	tables[taskSel/8+1].Store(base >> 32)
	tss := p.mem.own[p.tablePage+tssOffset:][:tssLimit+1]
	binary.LittleEndian.PutUint64(tss[tssRSP0:], stackTop)
	binary.LittleEndian.PutUint64(tss[tssIST1:], stackTop)
	binary.LittleEndian.PutUint16(tss[tssBitmap:], tssSize)
	for i := range tss[tssSize:] {
		tss[tssSize+i] = 0xff
	}
	tss[tssSize+doorbell/8] &^= 1 << (doorbell % 8)
	return nil
}

// newVCPU makes a vCPU and its kernel half.
func (p *Platform) newVCPU(id int) (*vcpu, error) {
	var pages [5]uint64 // slot, stack, and three levels of tables
	for i := range pages {
		page, err := p.mem.page()
		if err != nil {
			return nil, err
		}
		pages[i] = page
	}
	slotPage, stackPage, t1, t2, t3 := pages[0], pages[1], pages[2], pages[3], pages[4]
	user := uint64(0)
	if p.userStub {
		user = pteU
	}
	t := p.mem.table(t1)
	const shown = pteP | pteA | pteD
	for _, e := range []struct{ at, pte uint64 }{
		{stubAt, p.stubPage | shown | user},
		{slotAt, slotPage | shown | user | pteW | pteNX},
		{gatesAt, p.gatePage | shown},
		{idtAt, p.idtPage | shown | pteNX},
		{tablesAt, p.tablePage | shown | pteNX},
		{stackAt, stackPage | shown | pteW | pteNX},
	} {
		t[index(e.at, 0)].Store(e.pte)
	}
	p.mem.table(t2)[index(half, 1)].Store(t1 | shown | pteW | pteU)
	p.mem.table(t3)[index(half, 2)].Store(t2 | shown | pteW | pteU)
	c, err := p.vm.NewVCPU(id)
	if err != nil {
		return nil, err
	}
	v := &vcpu{VCPU: c, p: p, half: t3 | shown | pteW | pteU, slot: p.mem.slot(slotPage),
		frame: p.mem.frame(stackPage), wake: make(chan struct{}, 1)}
	if err := v.setup(); err != nil {
		c.Close()
		return nil, err
	}
	return v, nil
}

// setup brings the vCPU from reset to where only user state is missing.
func (v *vcpu) setup() error {
	if err := v.SetCPUID(v.p.cpuid); err != nil {
		return err
	}
	if err := v.SetXCR0(v.p.xcr0); err != nil {
		return err
	}
	s, err := v.Sregs()
	if err != nil {
		return err
	}
	s.CR0, s.CR4, s.EFER = cr0, cr4, efer
	s.GDT = kvm.Table{Base: tablesAt, Limit: uint16(8*len(gdt) - 1)}
	// All 256, empty or not: KVM's emulator gives up at a vector beyond the limit,
	// where hardware raises #GP.
	s.IDT = kvm.Table{Base: idtAt, Limit: 256*16 - 1}
	s.CS = kvm.Segment{Limit: ^uint32(0), Selector: userCS, Type: 11, Present: 1, DPL: 3, S: 1, L: 1, G: 1}
	data := kvm.Segment{Limit: ^uint32(0), Selector: userSS, Type: 3, Present: 1, DPL: 3, S: 1, DB: 1, G: 1}
	s.SS = data
	data.Selector = 0
	s.DS, s.ES, s.FS, s.GS = data, data, data, data
	s.TR = kvm.Segment{Base: tablesAt + tssOffset, Limit: tssLimit, Selector: taskSel, Type: 11, Present: 1}
	s.LDT = kvm.Segment{Type: 2, Bad: 1}
	v.plain = s
	msrs := []kvm.MSR{
		{Index: msrSTAR, Data: (userSS-8)<<48 | kernelCS<<32},
		{Index: msrLSTAR, Data: stubAt},
		{Index: msrSFMASK, Data: flagsMasked},
	}
	n, err := v.SetMSRs(msrs)
	if err == nil && n < len(msrs) {
		err = fmt.Errorf("platform/kvm: msr %#x cannot be set", msrs[n].Index)
	}
	if err != nil {
		return err
	}
	// Intel's processors have no SYSCALL in 32-bit code and may refuse this one.
	_, _ = v.SetMSRs([]kvm.MSR{{Index: msrCSTAR, Data: compatAt}})
	// The application reads the host's own TSC, so that clocks need no exit. A
	// kernel without the attribute (before 5.16) starts at 0 with the first vCPU;
	// user-only hosts show the host's in any case.
	_ = v.SetTSCOffset(0)
	return nil
}

// canonical says that a is an address that the lower half can have.
func canonical(a uint64) bool { return a>>47 == 0 }

// base is a if WRFSBASE would take it, or 0.
func base(a uint64) uint64 {
	if int64(a<<16)>>16 != int64(a) {
		return 0
	}
	return a
}

// load sets the state that dirty names, and Rax, into a vCPU that is out.
func (v *vcpu) load(c *platform.Context, dirty platform.Dirty, root uint64) error {
	if dirty&platform.DirtyFPU != 0 {
		if err := v.loadFPU(c.FPU); err != nil {
			return err
		}
	}
	flags := c.Eflags&flagsUser | flagsFixed | flagIF
	if c.SingleStep {
		flags |= flagTF
	}
	r := kvm.Regs{RAX: c.Rax, RBX: c.Rbx, RCX: c.Rcx, RDX: c.Rdx, RSI: c.Rsi, RDI: c.Rdi, RSP: c.Rsp, RBP: c.Rbp,
		R8: c.R8, R9: c.R9, R10: c.R10, R11: c.R11, R12: c.R12, R13: c.R13, R14: c.R14, R15: c.R15,
		RIP: c.Rip, RFLAGS: flags}
	regs, sregs, _ := v.Synced()
	if root == 0 && dirty&platform.DirtyBase == 0 && v.at == inGate {
		// The handler's IRETQ sets what the frame says.
		*v.frame = frame{rip: r.RIP, cs: userCS, flags: r.RFLAGS, rsp: r.RSP, ss: userSS}
		r.RIP, r.RSP, r.RFLAGS = iretAt, stackTop-40, flagsFixed
		*regs = r
		v.MarkSynced(kvm.SyncRegs)
		return nil
	}
	*regs = r
	v.MarkSynced(kvm.SyncRegs)
	if root == 0 && dirty&platform.DirtyBase == 0 && (v.at == inApp || v.at == inCall && v.p.userStub) {
		return nil
	}
	s := v.plain
	if v.at == nowhere || dirty&platform.DirtyBase != 0 {
		s.FS.Base, s.GS.Base = base(c.Fs_base), base(c.Gs_base)
	} else {
		now, err := v.Sregs()
		if err != nil {
			return err
		}
		s.FS.Base, s.GS.Base = now.FS.Base, now.GS.Base
	}
	if root != 0 {
		v.plain.CR3 = root
	}
	s.CR3 = v.plain.CR3
	*sregs = s
	v.MarkSynced(kvm.SyncSregs)
	return nil
}

// fetch reads the general registers of a vCPU that is out, as the application
// would see them; system is what else an exception told.
func (v *vcpu) fetch(c *platform.Context) (cs uint16, err error) {
	r, err := v.Regs()
	if err != nil {
		return 0, err
	}
	s, err := v.Sregs()
	if err != nil {
		return 0, err
	}
	setRegs(c, &r)
	return s.CS.Selector, nil
}

func setRegs(c *platform.Context, r *kvm.Regs) {
	c.Rax, c.Rbx, c.Rcx, c.Rdx = r.RAX, r.RBX, r.RCX, r.RDX
	c.Rsi, c.Rdi, c.Rsp, c.Rbp = r.RSI, r.RDI, r.RSP, r.RBP
	c.R8, c.R9, c.R10, c.R11 = r.R8, r.R9, r.R10, r.R11
	c.R12, c.R13, c.R14, c.R15 = r.R12, r.R13, r.R14, r.R15
	c.Rip, c.Eflags = r.RIP, r.RFLAGS
	c.Cs, c.Ss, c.Orig_rax = userCS, userSS, ^uint64(0)
	c.Partial = false
}

// trapped reads the registers at an exception: the frame has what the handler's
// own registers hide.
func (v *vcpu) trapped(c *platform.Context) (code, cr2 uint64, err error) {
	r, err := v.Regs()
	if err != nil {
		return 0, 0, err
	}
	s, err := v.Sregs()
	if err != nil {
		return 0, 0, err
	}
	f := *v.frame
	if f.compat() {
		f.rip, f.flags = r.RCX-2, r.R11 // as SYSCALL left them (APM vol. 3, SYSCALL)
	} else if f.cs&3 != 3 {
		return 0, 0, fmt.Errorf("platform/kvm: exception in the stub, at %#x, cr2 %#x, code %#x", f.rip, s.CR2, f.code)
	}
	r.RIP, r.RSP, r.RFLAGS = f.rip, f.rsp, f.flags
	setRegs(c, &r)
	return f.code, s.CR2, nil
}

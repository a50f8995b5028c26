package kvm

import (
	"encoding/binary"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestModes(t *testing.T) {
	// add eax,ebx (16 or 32 bit alike); out 0x42,al; in al,0x43; out 0x44,al; hlt
	code := []byte{0x01, 0xd8, 0xe6, 0x42, 0xe4, 0x43, 0xe6, 0x44, 0xf4}
	for _, mode := range []string{"16", "32", "64"} {
		t.Run(mode, func(t *testing.T) {
			m := newMachine(t, code...)
			c := m.vcpu(0)
			if mode == "64" {
				m.long(c, 0)
				must(t, c.SetRegs(&Regs{RIP: codeAt, RAX: 40, RBX: 2, RFLAGS: 2}))
			} else {
				m.flat(c, mode == "32")
			}
			expectPort(t, c, 0x42)
			if io := c.IO(); io.In || io.Size != 1 || io.Data[0] != 42 {
				t.Errorf("out: %+v, want one byte 42", io)
			}
			expectPort(t, c, 0x43)
			io := c.IO()
			if !io.In {
				t.Errorf("in: %+v", io)
			}
			io.Data[0] = 7
			expectPort(t, c, 0x44)
			if got := c.IO().Data[0]; got != 7 {
				t.Errorf("the guest read %d, want 7", got)
			}
			expect(t, c, ExitHalt)
		})
	}
}

func TestMMIO(t *testing.T) {
	// mov rax,[0x40000000]; inc rax; mov [0x40000008],rax; hlt
	m := newMachine(t, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0x40, 0x48, 0xff, 0xc0, 0x48, 0x89, 0x04, 0x25, 8, 0, 0, 0x40, 0xf4)
	c := m.vcpu(0)
	m.long(c, 0)
	m.nowhere()
	expect(t, c, ExitMMIO)
	x := c.MMIO()
	if x.Write || x.Addr != 0x4000_0000 || len(x.Data) != 8 {
		t.Fatalf("read: %+v", x)
	}
	binary.LittleEndian.PutUint64(x.Data, 41)
	expect(t, c, ExitMMIO)
	x = c.MMIO()
	if !x.Write || x.Addr != 0x4000_0008 || binary.LittleEndian.Uint64(x.Data) != 42 {
		t.Fatalf("write: %+v", x)
	}
	expect(t, c, ExitHalt)
}

// TestFaults runs ring-3 code into the IDT.
func TestFaults(t *testing.T) {
	for _, f := range []struct {
		name   string
		vector uint16
		code   []byte
	}{
		{"ud2", 6, []byte{0x0f, 0x0b}},
		{"div", 0, []byte{0x31, 0xc9, 0xf7, 0xf1}},              // xor ecx,ecx; div ecx
		{"page", 14, []byte{0x8a, 0x04, 0x25, 0, 0, 0x20, 0}},   // mov al,[0x200000]
		{"port", 13, []byte{0xe6, 0x10}},                        // out 0x10,al
		{"int3", 3, []byte{0xcc}},                               //
		{"privilege", 13, []byte{0x0f, 0x22, 0xd8}},             // mov cr3,rax
		{"syscall then ud2", 6, []byte{0x0f, 0x05, 0x0f, 0x0b}}, // LSTAR returns to ring 3
	} {
		t.Run(f.name, func(t *testing.T) {
			m := newMachine(t, f.code...)
			// mov eax,cs; test al,3; jnz +3; sysretq; jmp rcx: in ring 3, where user-only
			// hosts stay, sysret would fault.
			copy(m.mem[lstar:], []byte{0x8c, 0xc8, 0xa8, 3, 0x75, 3, 0x48, 0x0f, 0x07, 0xff, 0xe1})
			c := m.vcpu(0)
			m.long(c, 3)
			c.KeepSynced(SyncRegs | SyncSregs)
			expectPort(t, c, 0x80+f.vector)
			r, s, _ := c.Synced()
			if s.CS.Selector != 0x10 {
				t.Errorf("handler runs with cs %#x", s.CS.Selector)
			}
			if f.vector == 14 && s.CR2 != 0x200000 {
				t.Errorf("cr2 %#x", s.CR2)
			}
			if r.RSP >= stack0 || r.RSP < stack0-64 {
				t.Errorf("rsp %#x, want just below %#x", r.RSP, stack0)
			}
		})
	}
}

// TestSyncRegs changes registers without an ioctl.
func TestSyncRegs(t *testing.T) {
	m := newMachine(t, 0xe6, 0x42, 0xe6, 0x42, 0xf4)
	c := m.vcpu(0)
	m.long(c, 0)
	c.KeepSynced(SyncRegs)
	expectPort(t, c, 0x42)
	r, _, _ := c.Synced()
	r.RAX, r.RIP = 99, codeAt+2
	c.MarkSynced(SyncRegs)
	expectPort(t, c, 0x42)
	if got := c.IO().Data[0]; got != 99 {
		t.Errorf("rax was %d, want 99", got)
	}
	expect(t, c, ExitHalt)
}

// TestKick ends an endless loop, and a Run that has not begun.
func TestKick(t *testing.T) {
	m := newMachine(t, 0xeb, 0xfe) // jmp .
	c := m.vcpu(0)
	m.long(c, 3)
	c.Kick()
	expect(t, c, ExitInterrupted)
	for range 20 {
		done := make(chan Exit)
		go func() {
			e, _ := c.Run()
			done <- e
		}()
		c.Kick()
		if e := <-done; e != ExitInterrupted {
			t.Fatalf("exit %v", e)
		}
	}
}

// TestTwoVCPUs lets one vCPU wait for the other's store.
func TestTwoVCPUs(t *testing.T) {
	// cmp dword [0x20000],1; jne .; mov dword [0x20000],2; hlt
	m := newMachine(t, 0x83, 0x3c, 0x25, 0, 0, 2, 0, 1, 0x75, 0xf6, 0xc7, 0x04, 0x25, 0, 0, 2, 0, 2, 0, 0, 0, 0xf4)
	// at 0x1100: mov dword [0x20000],1; cmp dword [0x20000],2; jne -10; hlt
	copy(m.mem[0x1100:], []byte{0xc7, 0x04, 0x25, 0, 0, 2, 0, 1, 0, 0, 0, 0x83, 0x3c, 0x25, 0, 0, 2, 0, 2, 0x75, 0xf6, 0xf4})
	a, b := m.vcpu(0), m.vcpu(1)
	m.long(a, 0)
	m.long(b, 0)
	must(t, b.SetRegs(&Regs{RIP: 0x1100, RFLAGS: 2}))
	var failed atomic.Value
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			e, err := a.Run()
			if err != nil || e != ExitInterrupted {
				if e != ExitHalt {
					failed.Store(e)
				}
				return
			}
		}
	}()
	expect(t, b, ExitHalt)
	<-done
	if f := failed.Load(); f != nil {
		t.Errorf("the other vcpu ended with %v", f)
	}
}

// TestVectors keeps AVX state across exits and shows it in XSAVE.
func TestVectors(t *testing.T) {
	// vpcmpeqd ymm1,ymm1,ymm1; int3; vmovdqu [0x20000],ymm1; hlt, in ring 3
	m := newMachine(t, 0xc5, 0xf5, 0x76, 0xc9, 0xcc, 0xc5, 0xfe, 0x7f, 0x0c, 0x25, 0, 0, 2, 0, 0xf4)
	c := m.vcpu(0)
	m.long(c, 3)
	must(t, c.SetXCR0(7))
	s, err := c.Sregs()
	must(t, err)
	s.CR4 |= 1 << 18
	must(t, c.SetSregs(&s))
	// An exit in ring 0 and back, and none by a port that the TSS gives to ring 3: QEMU's
	// emulation grants none in a guest, for it wants a TSS that is not busy
	// (target/i386/tcg/seg_helper.c, helper_check_io).
	copy(m.mem[gate+16*3:], []byte{0xe6, 0x83, 0x48, 0xcf}) // out 0x83,al; iretq
	expectPort(t, c, 0x83)
	var x XSave
	must(t, c.XSave(&x))
	if got := binary.LittleEndian.Uint64(x[160+16:]); got != ^uint64(0) {
		t.Errorf("xmm1 in the XSAVE area is %#x", got)
	}
	binary.LittleEndian.PutUint64(x[160+16:], 0x1234)
	must(t, c.SetXSave(&x))
	expectPort(t, c, 0x80+13) // hlt in ring 3
	if got := binary.LittleEndian.Uint64(m.mem[0x20000:]); got != 0x1234 {
		t.Errorf("ymm1 in the guest is %#x, want 0x1234", got)
	}
	if got := binary.LittleEndian.Uint64(m.mem[0x20010:]); got != ^uint64(0) {
		t.Errorf("its upper half is %#x", got)
	}
}

func TestDirtyLog(t *testing.T) {
	m := newMachine(t, 0xc6, 0x04, 0x25, 0, 0, 2, 0, 1, 0xe6, 0x42, 0xf4) // mov byte [0x20000],1; out
	must(t, m.SetMemory(0, 0, m.mem, LogDirty))
	c := m.vcpu(0)
	m.long(c, 0)
	expectPort(t, c, 0x42)
	bitmap := make([]uint64, len(m.mem)/PageSize/64)
	must(t, m.DirtyLog(0, bitmap))
	if bitmap[0]&(1<<0x20) == 0 {
		t.Errorf("page 0x20 is not among the dirty: %x", bitmap[0])
	}
	must(t, m.DirtyLog(0, bitmap))
	if bitmap[0]&(1<<0x20) != 0 {
		t.Error("the log was not cleared")
	}
}

// TestDoorbell rings eventfds by port and by address: no exit in between.
func TestDoorbell(t *testing.T) {
	// mov eax,1; out 0x42,al; mov dword [0x40000000],5; hlt
	m := newMachine(t, 0xb8, 1, 0, 0, 0, 0xe6, 0x42, 0xc7, 0x04, 0x25, 0, 0, 0, 0x40, 5, 0, 0, 0, 0xf4)
	c := m.vcpu(0)
	m.long(c, 0)
	m.nowhere()
	for _, d := range []Doorbell{{Addr: 0x42, Len: 1, Port: true}, {Addr: 0x4000_0000, Len: 4, Match: true, Data: 5}} {
		fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
		must(t, err)
		defer unix.Close(fd)
		must(t, m.BindDoorbell(fd, d))
		defer func() {
			var b [8]byte
			if _, err := unix.Read(fd, b[:]); err != nil || b[0] != 1 {
				t.Errorf("doorbell %+v: count %d, %v", d, b[0], err)
			}
			must(t, m.UnbindDoorbell(fd, d))
		}()
	}
	expect(t, c, ExitHalt)
}

// TestInterrupts halts with interrupts on and is woken by an irqfd routed as a
// message, by SIGNAL_MSI, and by a pin of the IOAPIC's neighbour, the PIC.
func TestInterrupts(t *testing.T) {
	// again: sti; hlt; jmp again
	m := newMachine(t, 0xfb, 0xf4, 0xeb, 0xfc)
	must(t, m.NewIRQChip())
	must(t, m.NewPIT(true))
	c := m.vcpu(0)
	m.long(c, 0)
	// Vector 0x50 rings port 0xd0; out 0xd0,al; mov [0xfee000b0],eax (EOI); iretq
	h := uint64(0x9000)
	m.put(idt+16*0x50, h&0xffff|0x10<<16|0x8e<<40, 0)
	copy(m.mem[h:], []byte{0xe6, 0xd0, 0x31, 0xc0, 0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xd2, 0x0f, 0x30, 0x48, 0xcf}) // x2apic: wrmsr 0x80b,0
	s, err := c.Sregs()
	must(t, err)
	s.IDT.Limit = 0x51*16 - 1
	s.APICBase |= 1<<10 | 1<<11 // x2APIC
	must(t, c.SetSregs(&s))
	if _, err := c.SetMSRs([]MSR{{Index: 0x80f, Data: 0x1ff}}); err != nil { // APIC on
		t.Fatal(err)
	}
	msg := MSI{Address: 0xfee0_0000, Data: 0x50}
	fd, err := unix.Eventfd(0, 0)
	must(t, err)
	defer unix.Close(fd)
	must(t, m.SetRoutes([]Route{PinRoute(0, 2, 0), MSIRoute(24, msg)}))
	must(t, m.BindIRQ(fd, 24))
	_, err = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	must(t, err)
	expectPort(t, c, 0xd0)
	// Deliver the second while the first is in service: taken after the EOI.
	ok, err := m.SignalMSI(msg)
	must(t, err)
	if !ok {
		t.Error("the message was not delivered")
	}
	expectPort(t, c, 0xd0)
	must(t, m.UnbindIRQ(fd, 24))
	var l LAPIC
	must(t, c.LAPIC(&l))
	must(t, c.SetLAPIC(&l))
	chip, err := m.IRQChip(2)
	must(t, err)
	must(t, m.SetIRQChip(chip))
	pit, err := m.PIT()
	must(t, err)
	must(t, m.SetPIT(pit))
	must(t, m.SetIRQ(0, true))
	must(t, m.SetIRQ(0, false))
}

// TestState reads every piece of state and writes it back.
func TestState(t *testing.T) {
	m := newMachine(t, 0xf4)
	c := m.vcpu(0)
	ev, err := c.Events()
	must(t, err)
	must(t, c.SetEvents(&ev))
	x, err := c.XCRs()
	must(t, err)
	must(t, c.SetXCRs(&x))
	d, err := c.DebugRegs()
	must(t, err)
	must(t, c.SetDebugRegs(&d))
	mp, err := c.MPState()
	must(t, err)
	must(t, c.SetMPState(mp))
	list := []MSR{{Index: 0xc0000081}, {Index: 0xc0000100}}
	if n, err := c.MSRs(list); err != nil || n != 2 {
		t.Errorf("MSRs read %d of 2: %v", n, err)
	}
	if n, err := c.SetMSRs([]MSR{{Index: 0x12345678}}); n == 1 {
		t.Errorf("an MSR that is not one was written: %v", err)
	}
	if got, err := c.CPUID(); err != nil || len(got) == 0 {
		t.Errorf("CPUID: %d entries, %v", len(got), err)
	}
	clock, err := m.Clock()
	must(t, err)
	must(t, m.SetClock(Clock{Clock: clock.Clock}))
	if khz, err := c.TSCKHz(); err != nil || khz == 0 {
		t.Errorf("TSC frequency %d kHz, %v", khz, err)
	}
	if n, _ := m.sys.Check(CapVCPUAttributes); n > 0 {
		must(t, c.SetTSCOffset(0))
	}
	for _, f := range []func() ([]uint32, error){m.sys.MSRs, m.sys.FeatureMSRs} {
		if list, err := f(); err != nil || len(list) == 0 {
			t.Errorf("list of %d MSRs, %v", len(list), err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	s := open(t)
	seen := map[Cap]bool{}
	for _, row := range Capabilities {
		if seen[row.Cap] || row.Why == "" || row.Since == "" {
			t.Errorf("row %v: twice, or without a reason or a kernel", row.Cap)
		}
		seen[row.Cap] = true
		n, err := s.Check(row.Cap)
		must(t, err)
		t.Logf("%-26s %d (%s)", row.Name, n, row.For)
	}
	missing, err := s.Missing(Sentry)
	must(t, err)
	for _, row := range missing {
		t.Errorf("the sentry needs %s for: %s", row.Name, row.Why)
	}
}

func TestBadMemory(t *testing.T) {
	m := newMachine(t)
	for _, at := range []struct {
		gpa  GPA
		host []byte
	}{{0x800, m.mem}, {0, m.mem[:100]}, {0, nil}, {0x1000, m.mem}} {
		if err := m.SetMemory(7, at.gpa, at.host, 0); err == nil {
			t.Errorf("slot of %d bytes at %v was taken", len(at.host), at.gpa)
		} else {
			t.Log(err)
		}
	}
	must(t, m.DropMemory(0))
}

// TestSignals makes machines while signals arrive, as Go's scheduler sends them to
// threads that run for long: KVM_CREATE_VM gives way to a pending one.
func TestSignals(t *testing.T) {
	system := open(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, thread := unix.Getpid(), unix.Gettid()
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Tgkill(pid, thread, unix.SIGURG)
			}
		}
	}()
	for range 20 {
		vm, err := system.NewVM()
		if err != nil {
			t.Error(err)
			break
		}
		must(t, vm.Close())
	}
	close(done)
	<-over
}

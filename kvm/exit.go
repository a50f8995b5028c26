package kvm

import (
	"fmt"
	"sync/atomic"
)

// Exit is why a vCPU left the guest (KVM_EXIT_…).
type Exit uint32

const (
	ExitUnknown       Exit = 0
	ExitException     Exit = 1
	ExitIO            Exit = 2
	ExitHypercall     Exit = 3
	ExitDebug         Exit = 4
	ExitHalt          Exit = 5
	ExitMMIO          Exit = 6
	ExitWindow        Exit = 7 // interrupts can be injected
	ExitShutdown      Exit = 8 // triple fault
	ExitFailEntry     Exit = 9
	ExitSetTPR        Exit = 11
	ExitInternalError Exit = 17
	ExitSystemEvent   Exit = 24
	ExitEOI           Exit = 26
	ExitReadMSR       Exit = 29
	ExitWriteMSR      Exit = 30
	ExitBusLock       Exit = 33
	ExitNotify        Exit = 37
	ExitMemoryFault   Exit = 39

	// Not the kernel's: what KVM_RUN said by errno.
	ExitInterrupted Exit = 1 << 31 // a kick or a signal
	ExitAgain       Exit = 1<<31 + 1
)

var exitNames = map[Exit]string{
	ExitUnknown: "unknown", ExitException: "exception", ExitIO: "io", ExitHypercall: "hypercall",
	ExitDebug: "debug", ExitHalt: "halt", ExitMMIO: "mmio", ExitWindow: "window",
	ExitShutdown: "shutdown", ExitFailEntry: "fail entry", ExitSetTPR: "set tpr",
	ExitInternalError: "internal error", ExitSystemEvent: "system event", ExitEOI: "eoi",
	ExitReadMSR: "rdmsr", ExitWriteMSR: "wrmsr", ExitBusLock: "bus lock", ExitNotify: "notify",
	ExitMemoryFault: "memory fault", ExitInterrupted: "interrupted", ExitAgain: "again",
}

func (e Exit) String() string {
	if s, ok := exitNames[e]; ok {
		return s
	}
	return fmt.Sprintf("exit %d", uint32(e))
}

// runPage is struct kvm_run. Both sides write it, never at the same time but
// for immediate_exit, which is in head.
type runPage struct {
	head       uint32 // request_interrupt_window, immediate_exit, padding
	_          uint32
	exitReason uint32
	readyIRQ   uint8
	ifFlag     uint8
	flags      uint16
	cr8        uint64
	apicBase   uint64
	union      [256]byte
	valid      uint64
	dirty      uint64
	regs       Regs
	sregs      Sregs
	events     Events
	_          [2048 - 144 - 312 - 64]byte
}

const (
	headWindow uint32 = 1
	headLeave  uint32 = 1 << 8
)

// leave sets or clears immediate_exit. It pairs with the kernel's read of the
// byte on the way into the guest.
func (p *runPage) leave(yes bool) {
	if yes {
		atomic.OrUint32(&p.head, headLeave)
	} else {
		atomic.AndUint32(&p.head, ^headLeave)
	}
}

type (
	exitIO struct {
		Direction, Size uint8
		Port            uint16
		Count           uint32
		Offset          uint64
	}
	exitMMIO struct {
		Addr  GPA
		Data  [8]byte
		Len   uint32
		Write uint8
	}
	exitInternal struct {
		Suberror, N uint32
		Data        [16]uint64
	}
	exitFailEntry struct {
		Reason uint64
		CPU    uint32
	}
	exitSystemEvent struct {
		Type, N uint32
		Data    [16]uint64
	}
	exitDebug struct {
		Exception, _ uint32
		PC, DR6, DR7 uint64
	}
	exitMSR struct {
		Error      uint8
		_          [7]uint8
		Why, Index uint32
		Data       uint64
	}
	exitMemoryFault struct {
		Flags uint64
		Addr  GPA
		Len   uint64
	}
)

// IO is a port access. Data lies in the shared page: for a read (In) the answer
// goes there before the next Run.
type IO struct {
	In   bool
	Port uint16
	Size int    // bytes an item
	Data []byte // all items
}

// IO is the access behind ExitIO.
func (c *VCPU) IO() IO {
	x := *c.run.io()
	n := uint64(x.Size) * uint64(x.Count)
	if x.Offset > uint64(len(c.shared)) || n > uint64(len(c.shared))-x.Offset {
		panic(fmt.Sprintf("kvm: io data at %d+%d, outside the shared page", x.Offset, n))
	}
	return IO{x.Direction == 0, x.Port, int(x.Size), c.shared[x.Offset : x.Offset+n]}
}

// Port is IO().Port without the data, for a doorbell.
func (c *VCPU) Port() uint16 { return c.run.io().Port }

// MMIO is an access to where no memory is. Data lies in the shared page: for a
// read the answer goes there before the next Run.
type MMIO struct {
	Write bool
	Addr  GPA
	Data  []byte
}

// MMIO is the access behind ExitMMIO.
func (c *VCPU) MMIO() MMIO {
	x := c.run.mmio()
	return MMIO{x.Write != 0, x.Addr, x.Data[:min(x.Len, 8)]}
}

// InternalError is what KVM could not do for the guest.
type InternalError struct {
	Suberror uint32 // 1: emulation
	Data     []uint64
	Insn     []byte // of an emulation failure, as far as it was fetched
}

func (e InternalError) Error() string {
	return fmt.Sprintf("kvm: internal error %d, instruction % x, data %#x", e.Suberror, e.Insn, e.Data)
}

// InternalError is the failure behind ExitInternalError.
func (c *VCPU) InternalError() InternalError {
	x := *c.run.internal()
	e := InternalError{Suberror: x.Suberror, Data: append([]uint64(nil), x.Data[:min(x.N, 16)]...)}
	if e.Suberror == 1 && len(e.Data) >= 3 {
		var b [16]byte // insn_size, insn_bytes[15]
		for i := range b {
			b[i] = byte(x.Data[1+i/8] >> (8 * (i % 8)))
		}
		e.Insn = append(e.Insn, b[1:1+min(b[0], 15)]...)
	}
	return e
}

// FailEntry is the hardware's reason behind ExitFailEntry.
func (c *VCPU) FailEntry() uint64 { return c.run.entry().Reason }

// SystemEvent is the type behind ExitSystemEvent: 1 shutdown, 2 reset, 3 crash.
func (c *VCPU) SystemEvent() (kind uint32, data []uint64) {
	x := *c.run.system()
	return x.Type, append([]uint64(nil), x.Data[:min(x.N, 16)]...)
}

// Debug is what is behind ExitDebug.
func (c *VCPU) Debug() (exception uint32, pc, dr6, dr7 uint64) {
	x := c.run.debug()
	return x.Exception, x.PC, x.DR6, x.DR7
}

// MSRExit is behind ExitReadMSR and ExitWriteMSR; SetMSRExit answers it.
func (c *VCPU) MSRExit() (index uint32, data uint64) {
	x := c.run.msr()
	return x.Index, x.Data
}

// SetMSRExit answers a read with data, or with failed makes it a #GP.
func (c *VCPU) SetMSRExit(data uint64, failed bool) {
	x := c.run.msr()
	x.Data, x.Error = data, 0
	if failed {
		x.Error = 1
	}
}

// MemoryFault is where the host had no page to give, behind ExitMemoryFault.
func (c *VCPU) MemoryFault() (at GPA, size uint64) {
	x := c.run.memory()
	return x.Addr, x.Len
}

// Sync is a set of register groups that go through the shared page.
type Sync uint64

const (
	SyncRegs   Sync = 1 << 0
	SyncSregs  Sync = 1 << 1
	SyncEvents Sync = 1 << 2
)

// KeepSynced says which groups each Run leaves in the shared page from now on.
func (c *VCPU) KeepSynced(s Sync) { c.run.valid = uint64(s) }

// Synced is the shared page's registers: as the last Run left them, if KeepSynced
// named their group. What is changed there counts after MarkSynced.
func (c *VCPU) Synced() (*Regs, *Sregs, *Events) { return &c.run.regs, &c.run.sregs, &c.run.events }

// MarkSynced makes the next Run load the groups in s from the shared page first.
func (c *VCPU) MarkSynced(s Sync) { c.run.dirty |= uint64(s) }

// RequestWindow makes Run return ExitWindow when an interrupt can be injected.
func (c *VCPU) RequestWindow(yes bool) {
	if yes {
		atomic.OrUint32(&c.run.head, headWindow)
	} else {
		atomic.AndUint32(&c.run.head, ^headWindow)
	}
}

// CanInterrupt says that Interrupt would be taken now.
func (c *VCPU) CanInterrupt() bool { return c.run.readyIRQ != 0 }

// CR8 is the task priority that user space keeps where it keeps the local APIC.
func (c *VCPU) CR8() uint64 { return c.run.cr8 }

// SetCR8 sets it.
func (c *VCPU) SetCR8(v uint64) { c.run.cr8 = v }

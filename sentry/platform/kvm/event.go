package kvm

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Codes of signals (include/uapi/asm-generic/siginfo.h).
const (
	siKernel   = 0x80
	fpeIntDiv  = 1
	illOpn     = 2
	trapBrkpt  = 1
	trapTrace  = 2
	busAdrAln  = 1
	busAdrErr  = 2
	segvMapErr = 1
)

// traps says what Linux makes of an exception (arch/x86/kernel/traps.c). here
// is for those whose si_addr is the instruction.
var traps = [vectors]struct {
	sig  unix.Signal
	code int32
	here bool
}{
	0:  {unix.SIGFPE, fpeIntDiv, true},
	1:  {unix.SIGTRAP, trapTrace, true},
	3:  {unix.SIGTRAP, siKernel, false},
	4:  {unix.SIGSEGV, siKernel, false},
	5:  {unix.SIGSEGV, siKernel, false},
	6:  {unix.SIGILL, illOpn, true},
	7:  {unix.SIGSEGV, siKernel, false},
	10: {unix.SIGSEGV, siKernel, false},
	11: {unix.SIGBUS, siKernel, false},
	12: {unix.SIGBUS, siKernel, false},
	13: {unix.SIGSEGV, siKernel, false},
	16: {unix.SIGFPE, 0, true},
	17: {unix.SIGBUS, busAdrAln, false},
	19: {unix.SIGFPE, 0, true},
}

// Bits of a page fault's error code.
const (
	faultWrite = 1 << 1
	faultFetch = 1 << 4
)

// trap makes an event of the exception that v left by.
func (v *vcpu) trap(vector int, c *platform.Context) (platform.Event, error) {
	code, cr2, err := v.trapped(c)
	if err != nil {
		return platform.Event{}, err
	}
	if v.frame.compat() { // a Linux without 32-bit programs has no such call
		return platform.Event{Reason: platform.Signal, Signal: unix.SIGILL, Code: illOpn, Addr: platform.Addr(c.Rip), Trap: 6}, nil
	}
	if hasErrorCode>>vector&1 == 0 {
		code = 0
	}
	ev := platform.Event{Trap: uint64(vector), Err: code}
	if vector == 14 {
		ev.Reason, ev.Addr, ev.Access = platform.Fault, platform.Addr(cr2), platform.Read
		if code&faultWrite != 0 {
			ev.Access = platform.Write
		} else if code&faultFetch != 0 {
			ev.Access = platform.Exec
		}
		ev.Err |= 4 // from user mode
		return ev, nil
	}
	t := traps[vector]
	if t.sig == 0 {
		return ev, fmt.Errorf("platform/kvm: exception %d at %#x", vector, c.Rip)
	}
	ev.Reason, ev.Signal, ev.Code = platform.Signal, t.sig, t.code
	if t.here {
		ev.Addr = platform.Addr(c.Rip)
	}
	if vector == 16 || vector == 19 {
		ev.Code, err = v.floatCode(vector)
	}
	return ev, err
}

// floatCode finds which unmasked exception was raised (arch/x86/kernel/fpu/core.c, fpu__exception_code).
func (v *vcpu) floatCode(vector int) (int32, error) {
	area, err := v.saveFPU(nil)
	if err != nil {
		return 0, err
	}
	status := uint32(binary.LittleEndian.Uint16(area[2:])) &^ uint32(binary.LittleEndian.Uint16(area[0:]))
	if vector == 19 {
		mx := binary.LittleEndian.Uint32(area[xsaveMXCSR:])
		status = ^(mx >> 7) & mx
	}
	for _, f := range []struct {
		bits uint32
		code int32
	}{{1, 7}, {4, 3}, {8, 4}, {0x12, 5}, {0x20, 6}} { // FLTINV FLTDIV FLTOVF FLTUND FLTRES
		if status&f.bits != 0 {
			return f.code, nil
		}
	}
	return 0, nil
}

// badAddress is what Linux makes of an address that the CPU refuses to load.
func badAddress() platform.Event {
	return platform.Event{Reason: platform.Signal, Signal: unix.SIGSEGV, Code: siKernel, Trap: 13}
}

package kvm

import (
	"sync/atomic"

	"bulkhead/sentry/platform"
)

// slot is what the stub and the Sentry share about one application thread. The
// first line of the cache has all that most calls need, and the others stay with the
// application's CPU until somebody asks for more. The application can
// write to it where the stub runs in ring 3: read each field once, and trust
// none more than a register.
type slot struct {
	state   atomic.Uint32 // the stub's store of posted pairs with watch's load, enter's store with the stub's load
	trapped atomic.Uint32 // the call came by SYSCALL, not from a patched site

	rax, rdi, rsi, rdx, r10, r8, r9 uint64

	rip, flags, rsp, rbx, rbp, r12, r13, r14 uint64

	r15, ret uint64 // ret: where the stub goes back to, rip or a trampoline
	_        [6]uint64

	spin atomic.Uint32 // rounds that the stub waits before it rings
	_    [2048 - 196]byte
	// The stub's stack grows down from here.
}

// States.
const (
	running  = 0 // in the application
	posted   = 1 // by the stub: a call, all registers in the slot
	answered = 2 // by the Sentry: rax is the result, go on
	leave    = 3 // by the Sentry: come out
)

// Offsets for the stub, plus one so that zero means none; TestSlot pins them.
const (
	offState = 1 + 8*iota
	offRAX
	offRDI
	offRSI
	offRDX
	offR10
	offR8
	offR9
	offRIP
	offFlags
	offRSP
	offRBX
	offRBP
	offR12
	offR13
	offR14
	offR15
	offRet
	offTrapped = 1 + 4
	offSpin    = 1 + 192
	offStack   = 1 + 2048
)

// call copies the posted number and arguments into c: one line of the cache.
func (s *slot) call(c *platform.Context) {
	c.Rax = s.rax
	c.Orig_rax = c.Rax
	c.Rdi, c.Rsi, c.Rdx, c.R10, c.R8, c.R9 = s.rdi, s.rsi, s.rdx, s.r10, s.r8, s.r9
	c.Partial = true
}

// fill copies the rest, which stays in the slot until the call is answered.
func (s *slot) fill(c *platform.Context) {
	rip, flags := s.rip, s.flags
	c.Rip, c.Rcx, c.Eflags, c.R11 = rip, rip, flags, flags
	c.Rsp, c.Rbx, c.Rbp = s.rsp, s.rbx, s.rbp
	c.R12, c.R13, c.R14, c.R15 = s.r12, s.r13, s.r14, s.r15
	c.Cs, c.Ss = userCS, userSS
	c.Partial = false
}

// wipe takes a thread's registers away before the next uses the slot.
func (s *slot) wipe() {
	s.state.Store(running)
	s.trapped.Store(0)
	s.spin.Store(0)
	s.ret = 0
	var c platform.Context
	s.set(&c)
}

func (s *slot) set(c *platform.Context) {
	s.rax, s.rdi, s.rsi, s.rdx, s.r10, s.r8, s.r9 = c.Rax, c.Rdi, c.Rsi, c.Rdx, c.R10, c.R8, c.R9
	s.rip, s.flags, s.rsp, s.rbx, s.rbp = c.Rip, c.Eflags, c.Rsp, c.Rbx, c.Rbp
	s.r12, s.r13, s.r14, s.r15 = c.R12, c.R13, c.R14, c.R15
}

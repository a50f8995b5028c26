package ptrace

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Offsets in the XSAVE area (SDM, XSAVE Area), and where the kernel tells a
// debugger which features there are (USER_XSTATE_XCR0_WORD).
const (
	fcwAt      = 0
	mxcsrAt    = 24
	featuresAt = 464
	headerAt   = 512
	headerEnd  = 576
)

// xstate is the shape of the FPU state on this host.
type xstate struct {
	fresh    []byte // the state after exec; its length is what the kernel demands
	features uint64 // XCR0, of what user space may set
	buffers  *sync.Pool
}

// readXState learns the shape from a stopped stub.
func readXState(tid int) (xstate, error) {
	b := make([]byte, 64<<10) // with AMX it is 11 KiB
	n, err := getXState(tid, b)
	if err != nil {
		return xstate{}, fmt.Errorf("ptrace: FPU state of stub %d: %w", tid, err)
	}
	if n < headerEnd {
		return xstate{}, fmt.Errorf("ptrace: FPU state of %d bytes: the host lacks XSAVE", n)
	}
	s := xstate{fresh: make([]byte, n), features: binary.LittleEndian.Uint64(b[featuresAt:])}
	s.buffers = &sync.Pool{New: func() any { b := make([]byte, n); return &b }}
	binary.LittleEndian.PutUint16(s.fresh[fcwAt:], 0x37f)
	binary.LittleEndian.PutUint32(s.fresh[mxcsrAt:], 0x1f80)
	binary.LittleEndian.PutUint64(s.fresh[headerAt:], 3) // x87 and SSE as they stand here
	return s, nil
}

// save reads a stopped tracee's state into c.
func (s *xstate) save(tid int, c *platform.Context) error {
	if len(c.FPU) != len(s.fresh) {
		c.FPU = make([]byte, len(s.fresh))
	}
	if _, err := getXState(tid, c.FPU); err != nil {
		return fmt.Errorf("ptrace: FPU state of stub %d: %w", tid, err)
	}
	return nil
}

// load sets a stopped tracee's state. What the kernel would refuse is what an
// application can put into a signal frame: it is trimmed first.
func (s *xstate) load(tid int, fpu []byte) error {
	b := s.fresh
	if len(fpu) >= headerAt {
		scratch := s.buffers.Get().(*[]byte)
		defer s.buffers.Put(scratch)
		b = *scratch
		s.trim(b, fpu)
	}
	err := setXState(tid, b)
	if err == unix.EINVAL {
		err = setXState(tid, s.fresh)
	}
	if err != nil {
		return fmt.Errorf("ptrace: set FPU state of stub %d: %w", tid, err)
	}
	return nil
}

// trim makes b of fpu without bits that XRSTOR faults on (SDM, Operation of XRSTOR).
func (s *xstate) trim(b, fpu []byte) {
	clear(b[copy(b, fpu):])
	le := binary.LittleEndian
	le.PutUint32(b[mxcsrAt:], le.Uint32(b[mxcsrAt:])&0xffff)
	have := uint64(3)
	if len(fpu) >= headerEnd {
		have = le.Uint64(b[headerAt:]) & s.features
	}
	clear(b[headerAt:headerEnd])
	le.PutUint64(b[headerAt:], have)
}

// moveFPU brings the state of the thread's last tracee to x.
func (t *Thread) moveFPU(x *tracee) error {
	if t.x == nil || t.x.gone.Load() || t.x == x {
		return t.p.xstate.load(x.tid, nil)
	}
	s := &t.p.xstate
	scratch := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(scratch)
	_, err := getXState(t.x.tid, *scratch)
	if err == nil {
		err = setXState(x.tid, *scratch)
	}
	if err != nil {
		return fmt.Errorf("ptrace: move FPU state of stub %d to %d: %w", t.x.tid, x.tid, err)
	}
	return nil
}

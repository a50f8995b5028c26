package memory

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

type Arena struct{}

func NewArena(p platform.Platform, limit uint64) (*Arena, error) { return nil, unix.ENOSYS }
func (a *Arena) SetLimit(bytes uint64)                           {}
func (a *Arena) Usage() uint64                                   { return 0 }
func (a *Arena) Close() error                                    { return nil }
func (a *Arena) SetOnLimit(f func() bool)                        {}

type Buffers [][]byte

func (b Buffers) Len() int               { return 0 }
func (b Buffers) CopyIn(dst []byte) int  { return 0 }
func (b Buffers) CopyOut(src []byte) int { return 0 }
func (b Buffers) Skip(n int) Buffers     { return nil }
func (b Buffers) Take(n int) Buffers     { return nil }
func (b Buffers) Zero(n int) int         { return 0 }

// Mappable backs a mapping with pages of its own.
type Mappable interface {
	Pages(off, n uint64, write bool) (Run, error)
	Attach(s *Space, at Addr, off, length uint64, shared bool)
	Detach(s *Space, at Addr, off, length uint64, shared bool)
	Ref()
	Unref()
}

type Run struct {
	platform.Segment
}

type Object struct{}

func NewObject(a *Arena) *Object                                            { return nil }
func (o *Object) Size() uint64                                              { return 0 }
func (o *Object) Truncate(size uint64) error                                { return unix.ENOSYS }
func (o *Object) ReadAt(dst Buffers, off uint64) (int, error)               { return 0, unix.ENOSYS }
func (o *Object) WriteAt(src Buffers, off uint64) (int, error)              { return 0, unix.ENOSYS }
func (o *Object) Punch(off, n uint64) error                                 { return unix.ENOSYS }
func (o *Object) Allocate(off, n uint64) error                              { return unix.ENOSYS }
func (o *Object) SeekData(off uint64) (uint64, error)                       { return 0, unix.ENOSYS }
func (o *Object) SeekHole(off uint64) (uint64, error)                       { return 0, unix.ENOSYS }
func (o *Object) Usage() uint64                                             { return 0 }
func (o *Object) Pages(off, n uint64, write bool) (Run, error)              { return Run{}, unix.ENOSYS }
func (o *Object) Attach(s *Space, at Addr, off, length uint64, shared bool) {}
func (o *Object) Detach(s *Space, at Addr, off, length uint64, shared bool) {}
func (o *Object) Ref()                                                      {}
func (o *Object) Unref()                                                    {}

type HostFile struct{}

func NewHostFile(a *Arena, fd int, writable bool, size func() (uint64, error)) *HostFile {
	return nil
}
func (h *HostFile) Pages(off, n uint64, write bool) (Run, error)              { return Run{}, unix.ENOSYS }
func (h *HostFile) Attach(s *Space, at Addr, off, length uint64, shared bool) {}
func (h *HostFile) Detach(s *Space, at Addr, off, length uint64, shared bool) {}
func (h *HostFile) Ref()                                                      {}
func (h *HostFile) Unref()                                                    {}
func (h *HostFile) Close() error                                              { return nil }

type Space struct{}

func NewSpace(a *Arena, p platform.Platform) (*Space, error) { return nil, unix.ENOSYS }
func (s *Space) Platform() platform.AddressSpace             { return nil }
func (s *Space) Fork() (*Space, error)                       { return nil, unix.ENOSYS }
func (s *Space) Retain()                                     {}
func (s *Space) Release()                                    {}

type MapRequest struct {
	At               Addr
	Length           uint64
	Fixed, NoReplace bool
	Prot, MaxProt    platform.Access // MaxProt 0: all
	Shared           bool
	Object           Mappable
	Offset           uint64
	GrowsDown        bool
	Populate         bool
	Locked           bool
	Noreserve        bool
	Low32            bool
	Name             string
	Dev, Ino         uint64
	Path             func() string
}

func (s *Space) Map(r MapRequest) (Addr, error)                          { return 0, unix.ENOSYS }
func (s *Space) Unmap(at Addr, n uint64) error                           { return unix.ENOSYS }
func (s *Space) Protect(at Addr, n uint64, access platform.Access) error { return unix.ENOSYS }
func (s *Space) Brk(to Addr) Addr                                        { return 0 }
func (s *Space) SetBrk(start Addr)                                       {}
func (s *Space) Advise(at Addr, n uint64, advice int) error              { return unix.ENOSYS }
func (s *Space) Sync(at Addr, n uint64, flags int) error                 { return unix.ENOSYS }
func (s *Space) Mincore(at Addr, n uint64) ([]byte, error)               { return nil, unix.ENOSYS }
func (s *Space) Lock(at Addr, n uint64) error                            { return unix.ENOSYS }
func (s *Space) Unlock(at Addr, n uint64) error                          { return unix.ENOSYS }
func (s *Space) SetLimits(as, data, stack uint64)                        {}
func (s *Space) Fault(at Addr, access platform.Access) error             { return unix.ENOSYS }
func (s *Space) Read(at Addr, p []byte) (int, error)                     { return 0, unix.ENOSYS }
func (s *Space) Write(at Addr, p []byte) (int, error)                    { return 0, unix.ENOSYS }
func (s *Space) String(at Addr, max int) (string, error)                 { return "", unix.ENOSYS }
func (s *Space) LoadUint32(at Addr) (uint32, error)                      { return 0, unix.ENOSYS }
func (s *Space) StoreUint32(at Addr, v uint32) error                     { return unix.ENOSYS }
func (s *Space) CompareAndSwapUint32(at Addr, old, new uint32) (bool, error) {
	return false, unix.ENOSYS
}
func (s *Space) Key(at Addr, shared bool) (FutexKey, error) { return FutexKey{}, unix.ENOSYS }
func (s *Space) VMAs() []VMA                                { return nil }
func (s *Space) Sizes() Sizes                               { return Sizes{} }
func (s *Space) Invalidate(obj Mappable, off, n uint64)     {}

// StackTop is the random address below which the loader puts the stack.
func (s *Space) StackTop() Addr { return 0 }

// SetStackRange names the area that /proc shows as [stack].
func (s *Space) SetStackRange(lo, hi Addr) {}

func (s *Space) Remap(old Addr, oldSize, newSize uint64, mayMove, fixed, dontUnmap bool, newAddr Addr) (Addr, error) {
	return 0, unix.ENOSYS
}

// Pin shows [at, at+n) for I/O without a copy.
func (s *Space) Pin(at Addr, n uint64, access platform.Access) (Buffers, func(), error) {
	return nil, nil, unix.ENOSYS
}

// FutexKey names a word of memory, whoever maps it.
type FutexKey struct {
	Owner  any // a *Space or an object
	Offset uint64
}

// VMA is an area as /proc/PID/maps and smaps show it.
type VMA struct {
	Start, End       Addr
	Access, MaxProt  platform.Access
	Shared           bool
	Offset, Dev, Ino uint64
	Name             string
	GrowsDown        bool
	Locked           bool
	Noreserve        bool
	DontFork         bool
	WipeOnFork       bool
	DontDump         bool
	Anonymous        bool   // no file behind it
	Resident         uint64 // bytes
	Private          uint64 // bytes of pages of its own (copied or anonymous)
}

// Sizes are sums over a space, in bytes, as /proc/PID/status and statm have them.
type Sizes struct {
	Virtual, PeakVirtual   uint64
	Resident, PeakResident uint64
	ResidentAnon           uint64
	ResidentFile           uint64
	ResidentShmem          uint64
	Shared                 uint64 // resident in files and shared memory
	Data, Stack, Text      uint64 // virtual
	Locked                 uint64
	Brk, BrkStart          Addr
	StackLow, StackHigh    Addr
}

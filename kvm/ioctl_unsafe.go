package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The one file of kvm that imports unsafe. It is sound because
//   - T is a kernel struct without Go pointers; TestLayout compares its size
//     with the size that the request number carries, and with the header's;
//   - the kernel is done with *arg when the call returns, and keeps no address
//     but that of guest memory, which its owner keeps mapped (SetMemory);
//   - the shared page outlives every use: VCPU.Close unmaps it and is last.
//
// Only KVM_RUN's EINTR goes up (runOnce): it is a kick, and a retry would swallow it. Any
// other request is begun again: KVM_CREATE_VM ends with EINTR when a signal of
// Go's scheduler is pending (mm/mmap.c, mm_take_all_locks).
func ioctl[T any](fd int, req uint32, arg *T) error {
again:
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(arg)))
	if errno == unix.EINTR {
		goto again
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// ioctlArg is ioctl for requests whose result is a number too.
func ioctlArg[T any](fd int, req uint32, arg *T) (int, error) {
again:
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(arg)))
	if errno == unix.EINTR {
		goto again
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// ioctlInt passes a number and returns one.
func ioctlInt(fd int, req uint32, arg uintptr) (int, error) {
again:
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), arg)
	if errno == unix.EINTR {
		goto again
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// runOnce is KVM_RUN.
func runOnce(fd int) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(runVCPU), 0); errno != 0 {
		return errno
	}
	return nil
}

// ioctlList passes a counted list: two words, of which the first is the count,
// then the entries. It returns the count that the kernel left there, and what
// the call returned.
func ioctlList[T any](fd int, req uint32, entries []T) (count, result int, err error) {
	const head = 8
	size := int(unsafe.Sizeof(*new(T)))
	buf := make([]uint64, (head+len(entries)*size+7)/8) // uint64 for the alignment
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(buf))), len(buf)*8)
	*(*uint32)(unsafe.Pointer(&buf[0])) = uint32(len(entries))
	raw := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(entries))), len(entries)*size)
	copy(bytes[head:], raw)
again:
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(unsafe.Pointer(&buf[0])))
	if errno == unix.EINTR {
		goto again
	}
	if errno != 0 {
		return 0, 0, errno
	}
	copy(raw, bytes[head:])
	return min(int(*(*uint32)(unsafe.Pointer(&buf[0]))), len(entries)), int(n), nil
}

// address is where b lies, for a structure that carries it as a number.
func address(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// ioctlBitmap passes a dirty-log request with the bitmap's address in it.
func ioctlBitmap(fd int, req uint32, arg *dirtyLog, bitmap []uint64) error {
	p := unsafe.Pointer(unsafe.SliceData(bitmap))
	arg.Bitmap = uint64(uintptr(p))
	err := ioctl(fd, req, arg)
	keep(p)
	return err
}

func ioctlClear(fd int, req uint32, arg *clearLog, bitmap []uint64) error {
	p := unsafe.Pointer(unsafe.SliceData(bitmap))
	arg.Bitmap = uint64(uintptr(p))
	err := ioctl(fd, req, arg)
	keep(p)
	return err
}

// ioctlAttr passes a device attribute whose value is one word.
func ioctlAttr(fd int, req uint32, group uint32, attr uint64, value *uint64) error {
	arg := deviceAttr{Group: group, Attr: attr, Addr: uint64(uintptr(unsafe.Pointer(value)))}
	err := ioctl(fd, req, &arg)
	keep(unsafe.Pointer(value))
	return err
}

// keep holds what p points to alive until here, and puts it on the heap, where
// it does not move while the kernel has its address as a number.
//
//go:noinline
func keep(p unsafe.Pointer) {
	if sink != nil {
		sink = p
	}
}

var sink unsafe.Pointer // always nil

// share maps what a vCPU shares with the kernel.
func share(fd, size int) (*runPage, []byte, error) {
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	if len(b) < int(unsafe.Sizeof(runPage{})) {
		unix.Munmap(b)
		return nil, nil, unix.EINVAL
	}
	return (*runPage)(unsafe.Pointer(unsafe.SliceData(b))), b, nil
}

// The union of the run page, seen as what its exit reason says.
func (p *runPage) io() *exitIO              { return (*exitIO)(unsafe.Pointer(&p.union)) }
func (p *runPage) mmio() *exitMMIO          { return (*exitMMIO)(unsafe.Pointer(&p.union)) }
func (p *runPage) internal() *exitInternal  { return (*exitInternal)(unsafe.Pointer(&p.union)) }
func (p *runPage) entry() *exitFailEntry    { return (*exitFailEntry)(unsafe.Pointer(&p.union)) }
func (p *runPage) system() *exitSystemEvent { return (*exitSystemEvent)(unsafe.Pointer(&p.union)) }
func (p *runPage) debug() *exitDebug        { return (*exitDebug)(unsafe.Pointer(&p.union)) }
func (p *runPage) msr() *exitMSR            { return (*exitMSR)(unsafe.Pointer(&p.union)) }
func (p *runPage) memory() *exitMemoryFault { return (*exitMemoryFault)(unsafe.Pointer(&p.union)) }

package syscalls

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

var le = binary.LittleEndian

// in reads exactly len(b) bytes of application memory.
func in(t *kernel.Task, at memory.Addr, b []byte) error {
	if n, err := t.MM().Read(at, b); n < len(b) {
		if err == nil {
			err = unix.EFAULT
		}
		return err
	}
	return nil
}

// out writes all of b to application memory.
func out(t *kernel.Task, at memory.Addr, b []byte) error {
	if n, err := t.MM().Write(at, b); n < len(b) {
		if err == nil {
			err = unix.EFAULT
		}
		return err
	}
	return nil
}

func in32(t *kernel.Task, at memory.Addr) (uint32, error) {
	var b [4]byte
	err := in(t, at, b[:])
	return le.Uint32(b[:]), err
}

func in64(t *kernel.Task, at memory.Addr) (uint64, error) {
	var b [8]byte
	err := in(t, at, b[:])
	return le.Uint64(b[:]), err
}

func out32(t *kernel.Task, at memory.Addr, v uint32) error {
	return out(t, at, le.AppendUint32(nil, v))
}

func out64(t *kernel.Task, at memory.Addr, v uint64) error {
	return out(t, at, le.AppendUint64(nil, v))
}

// inStruct reads a struct of fixed size in the host's layout, which is the
// application's too; outStruct writes one.
func inStruct[T any](t *kernel.Task, at memory.Addr) (v T, err error) {
	b := make([]byte, binary.Size(&v))
	if err = in(t, at, b); err != nil {
		return v, err
	}
	_, err = binary.Decode(b, le, &v)
	return v, err
}

func outStruct[T any](t *kernel.Task, at memory.Addr, v *T) error {
	b, err := binary.Append(nil, le, v)
	if err != nil {
		return err
	}
	return out(t, at, b)
}

// pathMax is PATH_MAX, the terminating NUL included.
const pathMax = 4096

// path reads a file name.
func path(t *kernel.Task, at memory.Addr) (string, error) {
	return t.MM().String(at, pathMax)
}

// inTimespec reads a struct timespec that must be valid.
func inTimespec(t *kernel.Task, at memory.Addr) (unix.Timespec, error) {
	var b [16]byte
	if err := in(t, at, b[:]); err != nil {
		return unix.Timespec{}, err
	}
	return unix.Timespec{Sec: int64(le.Uint64(b[:])), Nsec: int64(le.Uint64(b[8:]))}, nil
}

func outTimespec(t *kernel.Task, at memory.Addr, ts unix.Timespec) error {
	var b [16]byte
	le.PutUint64(b[:], uint64(ts.Sec))
	le.PutUint64(b[8:], uint64(ts.Nsec))
	return out(t, at, b[:])
}

// Package userfaultfd is userfaultfd(2): a program hears which of its pages are missing
// where it wants to fill them itself, and fills them (fs/userfaultfd.c). What a missing
// page is, is the memory room's business.
//
// Missing pages are all that can be heard of: no write-protection, minor faults or events.
package userfaultfd

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Requests (include/uapi/linux/userfaultfd.h): direction, size, type 0xAA, number.
const (
	apiRequest        = 0xc018aa3f
	registerRequest   = 0xc020aa00
	unregisterRequest = 0x8010aa01
	wakeRequest       = 0x8010aa02
	copyRequest       = 0xc028aa03
	zeroRequest       = 0xc020aa04
)

const (
	api = 0xaa // UFFD_API

	// Features of UFFDIO_API.
	missingShmem = 1 << 5
	sigbus       = 1 << 7
	threadID     = 1 << 8
	exactAddress = 1 << 11
	features     = missingShmem | sigbus | threadID | exactAddress

	generalRequests = 1<<0x3f | 1<<0 | 1<<1 // of every userfaultfd: API, REGISTER, UNREGISTER
	rangeRequests   = 1<<2 | 1<<3 | 1<<4    // of a range: WAKE, COPY, ZEROPAGE

	missingMode = 1 // UFFDIO_REGISTER_MODE_MISSING
	dontWake    = 1 // UFFDIO_COPY_MODE_DONTWAKE, UFFDIO_ZEROPAGE_MODE_DONTWAKE

	messageSize = 32   // struct uffd_msg
	pageFault   = 0x12 // UFFD_EVENT_PAGEFAULT
	writeFlag   = 1    // UFFD_PAGEFAULT_FLAG_WRITE
)

// File is a userfaultfd.
type File struct {
	vfs.NoFile
	faults   *memory.Userfault
	nonblock atomic.Bool

	mu       sync.Mutex
	ready    bool // UFFDIO_API was called
	features uint64

	queue vfs.Queue
}

// New makes one for s; flags are O_NONBLOCK or none. With userOnly the program alone
// waits for pages, its system calls find bad memory (UFFD_USER_MODE_ONLY).
func New(s *memory.Space, userOnly bool, flags int) *vfs.Description {
	f := &File{}
	f.SetFlags(flags)
	f.faults = s.NewUserfault(userOnly, func() { f.queue.Notify(vfs.EventIn) })
	return vfs.NewAnonymous(f, "anon_inode:[userfaultfd]", unix.O_RDONLY|flags)
}

// Stream implements vfs.Stream.
func (f *File) Stream() {}

// SetFlags implements vfs.FlagSetter.
func (f *File) SetFlags(flags int) { f.nonblock.Store(flags&unix.O_NONBLOCK != 0) }

// Queue implements vfs.File.
func (f *File) Queue() *vfs.Queue { return &f.queue }

// Release implements vfs.File.
func (f *File) Release() { f.faults.Close() }

// begun says that UFFDIO_API was called, and what it chose.
func (f *File) begun() (features uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.features, f.ready
}

// Ready implements vfs.File. Who polls must not block in the read that follows, which
// finds nothing if the thread went on meanwhile (userfaultfd_poll).
func (f *File) Ready(mask vfs.Events) vfs.Events {
	if _, ok := f.begun(); !ok {
		return vfs.EventErr
	}
	waiting := f.faults.Waiting()
	if !f.nonblock.Load() && mask&vfs.EventErr != 0 {
		return vfs.EventErr
	}
	if waiting {
		return vfs.EventIn & mask
	}
	return 0
}

// Read implements vfs.File: as many messages as there are and fit.
func (f *File) Read(_ vfs.Context, dst memory.Buffers, _ int64) (n int, err error) {
	chosen, ok := f.begun()
	if !ok || dst.Len() < messageSize {
		return 0, unix.EINVAL
	}
	for dst.Len() >= messageSize {
		w := f.faults.Next()
		if w == nil {
			break
		}
		m := message(w, chosen)
		if dst.CopyOut(m[:]) < len(m) {
			return n, unix.EFAULT
		}
		dst = dst.Skip(len(m))
		n += len(m)
	}
	if n == 0 {
		return 0, unix.EAGAIN
	}
	return n, nil
}

// message is struct uffd_msg of a page fault.
func message(w *memory.PageWait, features uint64) (m [messageSize]byte) {
	at, le := uint64(w.At), binary.LittleEndian
	if features&exactAddress == 0 {
		at &^= memory.PageSize - 1
	}
	m[0] = pageFault
	if w.Write {
		le.PutUint64(m[8:], writeFlag)
	}
	le.PutUint64(m[16:], at)
	if features&threadID != 0 {
		le.PutUint32(m[24:], uint32(w.Thread))
	}
	return m
}

// Ioctl implements vfs.File.
func (f *File) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	if _, ok := f.begun(); !ok && cmd != apiRequest {
		return 0, unix.EINVAL
	}
	at := memory.Addr(arg)
	switch cmd {
	case apiRequest:
		return 0, f.begin(ctx, at)
	case registerRequest:
		return 0, f.register(ctx, at)
	case unregisterRequest:
		r, err := read(ctx, at, 2)
		if err != nil {
			return 0, err
		}
		return 0, f.faults.Unregister(memory.Addr(r[0]), r[1])
	case wakeRequest:
		return 0, f.wake(ctx, at)
	case copyRequest:
		return 0, f.copy(ctx, at)
	case zeroRequest:
		return 0, f.zero(ctx, at)
	}
	return 0, unix.EINVAL
}

// read reads n words.
func read(ctx vfs.Context, at memory.Addr, n int) ([]uint64, error) {
	b := make([]byte, 8*n)
	if _, err := ctx.Memory().Read(at, b); err != nil {
		return nil, err
	}
	w := make([]uint64, n)
	for i := range w {
		w[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return w, nil
}

func write(ctx vfs.Context, at memory.Addr, words ...uint64) error {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	_, err := ctx.Memory().Write(at, b)
	return err
}

// begin is UFFDIO_API: version and features, which are answered with those there are.
func (f *File) begin(ctx vfs.Context, at memory.Addr) error {
	r, err := read(ctx, at, 2)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r[0] != api || r[1]&^features != 0 || f.ready {
		if err := write(ctx, at, 0, 0, 0); err != nil {
			return err
		}
		return unix.EINVAL
	}
	if err := write(ctx, at, api, features, generalRequests); err != nil {
		return err
	}
	f.ready, f.features = true, r[1]
	if r[1]&sigbus != 0 {
		f.faults.SignalInstead()
	}
	return nil
}

// register is UFFDIO_REGISTER: a range, a mode, and what can be done there.
func (f *File) register(ctx vfs.Context, at memory.Addr) error {
	r, err := read(ctx, at, 3)
	if err != nil {
		return err
	}
	if r[2] != missingMode {
		return unix.EINVAL
	}
	if err := f.faults.Register(memory.Addr(r[0]), r[1]); err != nil {
		return err
	}
	return write(ctx, at+24, rangeRequests)
}

func (f *File) wake(ctx vfs.Context, at memory.Addr) error {
	r, err := read(ctx, at, 2)
	if err != nil {
		return err
	}
	if err := f.faults.Valid(memory.Addr(r[0]), r[1]); err != nil {
		return err
	}
	f.faults.Wake(memory.Addr(r[0]), r[1])
	return nil
}

// piece is how much of what UFFDIO_COPY copies is read at once.
const piece = 64 << 10

// copy is UFFDIO_COPY: where to, where from, how much, a mode; and, told, how much it was.
func (f *File) copy(ctx vfs.Context, at memory.Addr) error {
	r, err := read(ctx, at, 4)
	if err != nil {
		return err
	}
	to, from, n, mode := memory.Addr(r[0]), memory.Addr(r[1]), r[2], r[3]
	if err := f.faults.Valid(to, n); err != nil {
		return err
	}
	if uint64(from)+n <= uint64(from) || mode&^dontWake != 0 {
		return unix.EINVAL
	}
	done := uint64(0)
	for buf := make([]byte, min(n, piece)); done < n && err == nil; {
		part := buf[:min(n-done, piece)]
		got, bad := ctx.Memory().Read(from+memory.Addr(done), part)
		if got -= got % memory.PageSize; got > 0 {
			var m uint64
			m, err = f.faults.Give(to+memory.Addr(done), part[:got], uint64(got))
			done += m
		}
		if err == nil && bad != nil {
			err = unix.EFAULT
		}
	}
	return f.given(ctx, at+32, to, n, done, err, mode)
}

// zero is UFFDIO_ZEROPAGE: a range, a mode; and, told, how much it was.
func (f *File) zero(ctx vfs.Context, at memory.Addr) error {
	r, err := read(ctx, at, 3)
	if err != nil {
		return err
	}
	to, n, mode := memory.Addr(r[0]), r[1], r[2]
	if err := f.faults.Valid(to, n); err != nil {
		return err
	}
	if mode&^dontWake != 0 {
		return unix.EINVAL
	}
	done, err := f.faults.Give(to, nil, n)
	return f.given(ctx, at+24, to, n, done, err, mode)
}

// given tells how much was given, or why nothing was, wakes those who waited for it, and
// is EAGAIN for less than was asked for.
func (f *File) given(ctx vfs.Context, out, at memory.Addr, want, done uint64, err error, mode uint64) error {
	told := done
	if done == 0 {
		e, ok := err.(unix.Errno)
		if !ok {
			return err
		}
		told = uint64(-int64(e))
	}
	if err := write(ctx, out, told); err != nil {
		return err
	}
	if done == 0 {
		return err
	}
	if mode&dontWake == 0 {
		f.faults.Wake(at, done)
	}
	if done < want {
		return unix.EAGAIN
	}
	return nil
}

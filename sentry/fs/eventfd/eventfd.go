// Package eventfd is eventfd(2): a counter to wait for (fs/eventfd.c).
package eventfd

import (
	"encoding/binary"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// File is an eventfd.
type File struct {
	vfs.NoFile
	semaphore bool

	mu    sync.Mutex
	count uint64

	queue vfs.Queue
}

// New makes an eventfd with the count initial. flags are EFD_NONBLOCK and
// EFD_SEMAPHORE.
func New(initial uint64, flags int) *vfs.Description {
	f := &File{count: initial, semaphore: flags&unix.EFD_SEMAPHORE != 0}
	return vfs.NewAnonymous(f, "anon_inode:[eventfd]", unix.O_RDWR|flags&unix.EFD_NONBLOCK)
}

// Semaphore and Count are for /proc/PID/fdinfo.
func (f *File) Semaphore() bool { return f.semaphore }

func (f *File) Count() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Stream implements vfs.Stream.
func (f *File) Stream() {}

func (f *File) Seek(_ vfs.Context, pos, _ int64, _ int) (int64, error) { return pos, nil }

// Queue implements vfs.File.
func (f *File) Queue() *vfs.Queue { return &f.queue }

// Ready implements vfs.File.
func (f *File) Ready(mask vfs.Events) (e vfs.Events) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count > 0 {
		e |= vfs.EventIn
	}
	if f.count < math.MaxUint64-1 {
		e |= vfs.EventOut
	}
	return e & mask
}

// Read implements vfs.File.
func (f *File) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	if dst.Len() < 8 {
		return 0, unix.EINVAL
	}
	f.mu.Lock()
	n := f.count
	switch {
	case n == 0:
		f.mu.Unlock()
		return 0, unix.EAGAIN
	case f.semaphore:
		n = 1
	}
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], n)
	if dst.CopyOut(b[:]) < len(b) {
		f.mu.Unlock()
		return 0, unix.EFAULT
	}
	f.count -= n
	f.mu.Unlock()
	f.queue.Notify(vfs.EventOut)
	return len(b), nil
}

// Write implements vfs.File.
func (f *File) Write(_ vfs.Context, src memory.Buffers, _ int64) (int, error) {
	var b [8]byte
	if src.Len() < len(b) {
		return 0, unix.EINVAL
	}
	if src.CopyIn(b[:]) < len(b) {
		return 0, unix.EFAULT
	}
	n := binary.NativeEndian.Uint64(b[:])
	if n == math.MaxUint64 {
		return 0, unix.EINVAL
	}
	f.mu.Lock()
	if n > math.MaxUint64-1-f.count {
		f.mu.Unlock()
		return 0, unix.EAGAIN
	}
	f.count += n
	f.mu.Unlock()
	f.queue.Notify(vfs.EventIn)
	return len(b), nil
}

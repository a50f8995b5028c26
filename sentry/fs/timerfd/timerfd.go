// Package timerfd is the file that counts a timer's expirations
// (timerfd_create(2)).
package timerfd

import (
	"encoding/binary"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// File is a timer's file.
type File struct {
	vfs.NoFile
	now   func() time.Duration
	timer *kernel.Timer
	queue vfs.Queue

	mu    sync.Mutex
	count uint64
}

// New makes a timer on the clock that now reads; flags are O_NONBLOCK or none.
func New(now func() time.Duration, flags int) *vfs.Description {
	f := &File{now: now}
	f.timer = kernel.NewPatientTimer(now, f.expired)
	return vfs.NewAnonymous(f, "anon_inode:[timerfd]", unix.O_RDWR|flags)
}

func (f *File) expired(missed int64) {
	f.mu.Lock()
	f.count += 1 + uint64(missed)
	f.mu.Unlock()
	f.queue.Notify(vfs.EventIn)
}

// Set arms the timer, relative to now or for a time on the clock, and returns
// what was left and the old interval. What had expired is forgotten.
func (f *File) Set(value, interval time.Duration, absolute bool) (left, old time.Duration) {
	if value != 0 && !absolute {
		value += f.now()
	}
	left, old = f.timer.Set(value, interval)
	f.mu.Lock()
	f.count = 0
	f.mu.Unlock()
	return left, old
}

// Left is the time to the next expiry, and the interval.
func (f *File) Left() (left, interval time.Duration) { return f.timer.Left() }

func (f *File) Stream() {}

// Seek does nothing (fs/read_write.c, noop_llseek).
func (f *File) Seek(_ vfs.Context, pos, _ int64, _ int) (int64, error) { return pos, nil }

func (f *File) Queue() *vfs.Queue { return &f.queue }

func (f *File) Ready(mask vfs.Events) vfs.Events {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return 0
	}
	return mask & vfs.EventIn
}

// Read takes the number of expirations since the last one.
func (f *File) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	if dst.Len() < 8 {
		return 0, unix.EINVAL
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count == 0 {
		return 0, unix.EAGAIN
	}
	n := dst.CopyOut(binary.LittleEndian.AppendUint64(nil, f.count+uint64(f.timer.Take())))
	f.count = 0
	return n, nil
}

func (f *File) Release() { f.timer.Set(0, 0) }

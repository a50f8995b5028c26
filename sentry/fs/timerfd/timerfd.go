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
	clock int // its number
	queue vfs.Queue

	mu    sync.Mutex // after the timer's own
	count uint64
	how   int // the flags of the last timerfd_settime
}

// New makes a timer on the clock that now reads, whose number is clock; flags are
// O_NONBLOCK or none.
func New(now func() time.Duration, clock, flags int) *vfs.Description {
	f := &File{now: now, clock: clock}
	f.timer = kernel.NewCountedTimer(now, f.expired)
	return vfs.NewAnonymous(f, "anon_inode:[timerfd]", unix.O_RDWR|flags)
}

func (f *File) expired(setting uint64, missed int64) {
	f.mu.Lock()
	if setting != f.timer.Setting() {
		f.mu.Unlock()
		return
	}
	f.count += 1 + uint64(missed)
	f.mu.Unlock()
	f.queue.Notify(vfs.EventIn)
}

// Set arms the timer, relative to now or for a time on the clock (TFD_TIMER_ABSTIME
// in flags), and returns what was left and the old interval. What had expired is
// forgotten.
func (f *File) Set(value, interval time.Duration, flags int) (left, old time.Duration) {
	if value != 0 && flags&unix.TFD_TIMER_ABSTIME == 0 {
		value += f.now()
	}
	return f.timer.Reset(value, interval, func() {
		f.mu.Lock()
		f.count, f.how = 0, flags
		f.mu.Unlock()
	})
}

// State is what /proc/PID/fdinfo tells: the clock, expirations not read yet, and
// the flags that Set had.
func (f *File) State() (clock int, ticks uint64, flags int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clock, f.count, f.how
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
	count := f.count
	f.count = 0
	f.mu.Unlock()
	if count == 0 {
		return 0, unix.EAGAIN
	}
	return dst.CopyOut(binary.LittleEndian.AppendUint64(nil, count+uint64(f.timer.Take()))), nil
}

func (f *File) Release() { f.timer.Set(0, 0) }

// Package signalfd is the file that signals are read from (signalfd(2)).
package signalfd

import (
	"encoding/binary"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// File gives the reader its own pending signals.
type File struct {
	vfs.NoFile
	group *kernel.ThreadGroup // whose signals wake a poll: the creator's
	mask  atomic.Uint64
}

// New makes a file for signals of mask; flags are O_NONBLOCK or none.
func New(g *kernel.ThreadGroup, mask kernel.SigSet, flags int) *vfs.Description {
	f := &File{group: g}
	f.SetMask(mask)
	return vfs.NewAnonymous(f, "anon_inode:[signalfd]", unix.O_RDWR|flags)
}

// SetMask changes the signals.
func (f *File) SetMask(mask kernel.SigSet) {
	f.mask.Store(uint64(mask))
	f.group.SignalQueue().Notify(vfs.EventIn)
}

// Mask is for /proc/PID/fdinfo.
func (f *File) Mask() kernel.SigSet { return kernel.SigSet(f.mask.Load()) }

func (f *File) Stream() {}

// Seek does nothing (fs/read_write.c, noop_llseek).
func (f *File) Seek(_ vfs.Context, pos, _ int64, _ int) (int64, error) { return pos, nil }

func (f *File) Queue() *vfs.Queue { return f.group.SignalQueue() }

func (f *File) Ready(mask vfs.Events) vfs.Events {
	if t := f.group.Leader(); t.HasSignal(f.Mask()) {
		return mask & vfs.EventIn
	}
	return 0
}

const infoSize = 128 // struct signalfd_siginfo

// Read takes as many signals as there are and fit.
func (f *File) Read(ctx vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	t, ok := ctx.(*kernel.Task)
	if !ok || dst.Len() < infoSize {
		return 0, unix.EINVAL
	}
	done := 0
	for dst.Len()-done >= infoSize {
		i := t.TakeSignal(f.Mask())
		if i == nil {
			break
		}
		done += dst.Skip(done).CopyOut(encode(i))
	}
	if done == 0 {
		return 0, unix.EAGAIN
	}
	return done, nil
}

// encode makes a signalfd_siginfo of a siginfo (fs/signalfd.c,
// signalfd_copyinfo).
func encode(i *kernel.SigInfo) []byte {
	le := binary.LittleEndian
	b := make([]byte, infoSize)
	copy(b[0:4], i[0:4])   // signo
	copy(b[4:8], i[4:8])   // errno
	copy(b[8:12], i[8:12]) // code
	code := i.Code()
	switch sig := i.Signo(); {
	case code == kernel.SI_TIMER:
		le.PutUint32(b[24:], i.Uint32(16)) // tid
		le.PutUint32(b[32:], i.Uint32(20)) // overrun
		le.PutUint32(b[44:], i.Uint32(24)) // int
		le.PutUint64(b[48:], i.Uint64(24)) // ptr
	case code == kernel.SI_QUEUE, code == kernel.SI_MESGQ:
		copy(b[12:20], i[16:24])
		le.PutUint32(b[44:], i.Uint32(24))
		le.PutUint64(b[48:], i.Uint64(24))
	case sig == unix.SIGCHLD && code > 0:
		copy(b[12:20], i[16:24])
		le.PutUint32(b[40:], i.Uint32(24)) // status
		le.PutUint64(b[56:], i.Uint64(32)) // utime
		le.PutUint64(b[64:], i.Uint64(40)) // stime
	case code > 0 && (sig == unix.SIGSEGV || sig == unix.SIGBUS || sig == unix.SIGILL || sig == unix.SIGFPE || sig == unix.SIGTRAP):
		le.PutUint64(b[72:], i.Uint64(16)) // addr
	default:
		copy(b[12:20], i[16:24]) // pid, uid
	}
	return b
}

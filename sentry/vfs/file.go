package vfs

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// File is what an open file description does. Offsets are given for every
// transfer; a stream ignores them. A File embeds NoFile for what it lacks.
type File interface {
	// Read and Write move bytes at off. They never wait: EAGAIN. Read returns
	// 0, nil at the end. A Write to an O_APPEND description gets off < 0.
	Read(ctx Context, dst memory.Buffers, off int64) (int, error)
	Write(ctx Context, src memory.Buffers, off int64) (int, error)

	// Ready says which of mask hold now; it always may add EventErr and EventHup.
	Ready(mask Events) Events
	// Queue is where changes of Ready are told; nil if they never change.
	Queue() *Queue

	Ioctl(ctx Context, cmd uint32, arg uint64) (uintptr, error)

	// Release is called once, when the last descriptor has gone.
	Release()
}

// Seeker is a File with an end to seek from, or positions of its own. Others
// seek by Attr.Size if they are regular files, and are ESPIPE if not.
type Seeker interface {
	// Seek is asked for whence SEEK_SET, SEEK_CUR, SEEK_END, SEEK_DATA, SEEK_HOLE
	// with pos the present offset.
	Seek(ctx Context, pos, offset int64, whence int) (int64, error)
}

// Stream is a File without positions: pread and lseek are ESPIPE.
type Stream interface{ Stream() }

// Dirent is one name of a directory. Off is the position behind it.
type Dirent struct {
	Name string
	Ino  uint64
	Type uint8 // unix.DT_…
	Off  int64
}

// DirReader is an open directory. "." and ".." are its business.
type DirReader interface {
	// ReadDir emits names from position off on until emit says false.
	ReadDir(ctx Context, off int64, emit func(Dirent) bool) error
}

// Mapper is a File that mmap(2) works on.
type Mapper interface {
	Mappable(ctx Context, access memory.MapRequest) (memory.Mappable, error)
}

// Syncer writes a file to where it lasts.
type Syncer interface {
	Fsync(ctx Context, dataOnly bool) error
}

// Allocator serves fallocate(2); mode are FALLOC_FL_…
type Allocator interface {
	Allocate(ctx Context, mode uint32, off, length int64) error
}

// FlagSetter hears of fcntl(F_SETFL) changes (O_NONBLOCK, O_ASYNC, O_DIRECT).
type FlagSetter interface {
	SetFlags(flags int)
}

// HostFD is a File that is a host descriptor, for zero-copy between two such.
type HostFD interface {
	HostFD() int
}

// NoFile answers what most files lack. It is always ready.
type NoFile struct{}

func (NoFile) Read(Context, memory.Buffers, int64) (int, error)  { return 0, unix.EINVAL }
func (NoFile) Write(Context, memory.Buffers, int64) (int, error) { return 0, unix.EINVAL }
func (NoFile) Ready(mask Events) Events                          { return mask & (EventIn | EventOut) }
func (NoFile) Queue() *Queue                                     { return nil }
func (NoFile) Ioctl(Context, uint32, uint64) (uintptr, error)    { return 0, unix.ENOTTY }
func (NoFile) Release()                                          {}

// SlowOpen is a File whose open(2) goes on: a FIFO without its other end. The
// caller of Open waits on Queue until Opened says true, or drops it.
type SlowOpen interface {
	File
	Opened() bool
}

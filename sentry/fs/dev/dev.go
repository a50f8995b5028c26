// Package dev is what stands in /dev: the memory devices (drivers/char/mem.c,
// random.c) and the tree with their nodes, which may be in any file system.
package dev

import (
	"crypto/rand"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// nodes are the devices that every container has (runtime-spec,
// config-linux.md, "Default Devices").
var nodes = []struct {
	name         string
	major, minor uint32
	file         vfs.File // nil: Options.TTY
}{
	{"null", 1, 3, null{}},
	{"zero", 1, 5, zero{}},
	{"full", 1, 7, full{}},
	{"random", 1, 8, random{}},
	{"urandom", 1, 9, random{}},
	{"tty", 5, 0, nil},
}

// links are the symlinks that every container has.
var links = []struct{ name, target string }{
	{"fd", "/proc/self/fd"},
	{"stdin", "/proc/self/fd/0"},
	{"stdout", "/proc/self/fd/1"},
	{"stderr", "/proc/self/fd/2"},
	{"ptmx", "pts/ptmx"},
}

// dirs are mount points.
var dirs = []struct {
	name string
	mode uint32
}{{"pts", 0o755}, {"shm", 0o1777}, {"mqueue", 0o1777}}

// Handle makes the device numbers work in all file systems. tty opens /dev/tty;
// nil: ENXIO, as without a controlling terminal.
func Handle(tty vfs.Opener) {
	for _, n := range nodes {
		open := tty
		if n.file != nil {
			open = func(vfs.Context, vfs.Path, int) (vfs.File, error) { return n.file, nil }
		} else if tty == nil {
			open = func(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ENXIO }
		}
		vfs.HandleDevice(unix.S_IFCHR, unix.Mkdev(n.major, n.minor), open)
	}
}

// Populate makes nodes, links and mount points in the directory at, leaving alone
// what is there.
func Populate(ctx vfs.Context, at vfs.Path) error {
	s := vfs.Start{Root: at, At: at}
	done := func(err error) bool { return err == nil || err == unix.EEXIST }
	for _, n := range nodes {
		if _, err := vfs.Mknod(ctx, s, n.name, unix.S_IFCHR|0o666, unix.Mkdev(n.major, n.minor)); !done(err) {
			return err
		}
	}
	for _, l := range links {
		if err := vfs.MakeSymlink(ctx, l.target, s, l.name); !done(err) {
			return err
		}
	}
	for _, d := range dirs {
		if err := vfs.Mkdir(ctx, s, d.name, d.mode); !done(err) {
			return err
		}
	}
	return nil
}

// null is /dev/null.
type null struct{ vfs.NoFile }

func (null) Read(vfs.Context, memory.Buffers, int64) (int, error)          { return 0, nil }
func (null) Write(_ vfs.Context, src memory.Buffers, _ int64) (int, error) { return src.Len(), nil }

// Seek implements vfs.Seeker: the position stays 0.
func (null) Seek(vfs.Context, int64, int64, int) (int64, error) { return 0, nil }

// zero is /dev/zero.
type zero struct{ null }

func (zero) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	n := dst.Len()
	done := dst.Zero(n)
	if done == 0 && n > 0 {
		return 0, unix.EFAULT
	}
	return done, nil
}

// Mappable implements vfs.Mapper: each mapping is memory of its own, of who maps it.
func (z zero) Mappable(ctx vfs.Context, r memory.MapRequest) (memory.Mappable, error) {
	mm := ctx.Memory()
	if mm == nil {
		return nil, unix.ENODEV
	}
	o := memory.NewObject(mm.Arena())
	if err := o.Truncate(r.Offset + r.Length); err != nil {
		o.Unref()
		return nil, err
	}
	return &fresh{Object: o}, nil
}

// fresh is an object whose first reference goes to whoever takes one first.
type fresh struct {
	*memory.Object
	taken atomic.Bool
}

func (f *fresh) Ref() {
	if f.taken.Swap(true) {
		f.Object.Ref()
	}
}

// full is /dev/full.
type full struct{ zero }

func (full) Write(vfs.Context, memory.Buffers, int64) (int, error) { return 0, unix.ENOSPC }

// Mappable: drivers/char/mem.c gives full_fops no mmap.
func (full) Mappable(vfs.Context, memory.MapRequest) (memory.Mappable, error) {
	return nil, unix.ENODEV
}

// random is /dev/random and /dev/urandom: the host's, which was ready before any
// sandbox started.
type random struct{ null }

// queue is where nobody is ever told anything, for epoll.
var queue vfs.Queue

func (random) Queue() *vfs.Queue { return &queue }

func (random) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	var b [4096]byte
	done := 0
	for want := dst.Len(); done < want; {
		part := b[:min(len(b), want-done)]
		rand.Read(part) // never fails (crypto/rand)
		n := dst.CopyOut(part)
		done += n
		if n < len(part) {
			if done == 0 {
				return 0, unix.EFAULT
			}
			break
		}
		dst = dst.Skip(n)
	}
	return done, nil
}

// entropyCount is RNDGETENTCNT (include/uapi/linux/random.h).
const entropyCount = 0x80045200

func (random) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	if cmd != entropyCount {
		return 0, unix.EINVAL // the others change the pool, which is not the container's
	}
	_, err := ctx.Memory().Write(memory.Addr(arg), []byte{0, 1, 0, 0}) // 256 bits
	return 0, err
}

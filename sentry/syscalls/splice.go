package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/pipe"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

func spliceCalls() []row {
	return []row{
		{unix.SYS_SENDFILE, sendfile, Full, ""},
		{unix.SYS_COPY_FILE_RANGE, copyFileRange, Full, ""},
		{unix.SYS_SPLICE, splice, Full, ""},
		{unix.SYS_TEE, tee, Full, ""},
		{unix.SYS_VMSPLICE, vmsplice, Full, "copies"},
	}
}

// two gets both descriptions of a transfer.
func two(t *kernel.Task, fd1, fd2 int) (x, y *vfs.Description, release func(), err error) {
	if x, err = t.FDs().Get(fd1); err != nil {
		return
	}
	if y, err = t.FDs().Get(fd2); err != nil {
		x.Unref()
		return
	}
	return x, y, func() { x.Unref(); y.Unref() }, nil
}

// offset reads an optional loff_t.
func offset(t *kernel.Task, at memory.Addr) (*int64, error) {
	if at == 0 {
		return nil, nil
	}
	v, err := in64(t, at)
	if err == nil && int64(v) < 0 {
		err = unix.EINVAL
	}
	o := int64(v)
	return &o, err
}

func putOffset(t *kernel.Task, at memory.Addr, o *int64) error {
	if o == nil {
		return nil
	}
	return out64(t, at, uint64(*o))
}

// moveBetween calls once until n bytes have moved, it moved none, or it would
// have to wait after it moved some.
func moveBetween(t *kernel.Task, in, out *vfs.Description, n uint64, nonblock, loop bool, once func(n int) (int, error)) (uintptr, error) {
	n = min(n, maxRW)
	done := uint64(0)
	for {
		m, err := once(int(n - done))
		done += uint64(m)
		switch {
		case err == unix.EAGAIN && done == 0 && !nonblock:
			d, mask := pipe.Blocked(in, out)
			err = t.Wait(d.Queue(), mask, false, 0, func() error {
				m, err := once(int(n - done))
				done += uint64(m)
				return err
			})
			if err != nil {
				return partial(done, err)
			}
			if done == 0 || !loop {
				return uintptr(done), nil
			}
		case err != nil:
			if err == unix.EPIPE {
				pipeSignal(t)
			}
			return partial(done, err)
		case m == 0 || done == n || !loop:
			return uintptr(done), nil
		}
	}
}

func sendfile(t *kernel.Task, a *Args) (uintptr, error) {
	dst, src, release, err := two(t, a.Int(0), a.Int(1))
	if err != nil {
		return 0, err
	}
	defer release()
	off, err := offset(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	switch _, stream := src.File().(vfs.Stream); {
	case !src.Readable(), !dst.Writable():
		return 0, unix.EBADF
	case dst.Flags()&unix.O_APPEND != 0:
		return 0, unix.EINVAL
	case stream && off != nil:
		return 0, unix.ESPIPE
	case stream:
		return 0, unix.EINVAL
	}
	n, err := moveBetween(t, src, dst, a.Size(3), dst.Flags()&unix.O_NONBLOCK != 0, true, func(n int) (int, error) {
		return pipe.Copy(t, src, off, dst, nil, n)
	})
	if e := putOffset(t, a.Addr(2), off); e != nil {
		return 0, e
	}
	return n, err
}

func copyFileRange(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(5) != 0 {
		return 0, unix.EINVAL
	}
	src, dst, release, err := two(t, a.Int(0), a.Int(2))
	if err != nil {
		return 0, err
	}
	defer release()
	in, err := offset(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	out, err := offset(t, a.Addr(3))
	if err != nil {
		return 0, err
	}
	if err := copyable(t, src, dst, in, out, a.Size(4)); err != nil {
		return 0, err
	}
	n, err := moveBetween(t, src, dst, a.Size(4), false, true, func(n int) (int, error) {
		return pipe.Copy(t, src, in, dst, out, n)
	})
	if e := putOffset(t, a.Addr(1), in); e != nil {
		return 0, e
	}
	if e := putOffset(t, a.Addr(3), out); e != nil {
		return 0, e
	}
	return n, err
}

// copyable is fs/read_write.c, generic_copy_file_checks.
func copyable(t *kernel.Task, src, dst *vfs.Description, in, out *int64, n uint64) error {
	x, err := src.Stat(t)
	if err != nil {
		return err
	}
	y, err := dst.Stat(t)
	if err != nil {
		return err
	}
	switch {
	case x.Type() == unix.S_IFDIR, y.Type() == unix.S_IFDIR:
		return unix.EISDIR
	case x.Type() != unix.S_IFREG, y.Type() != unix.S_IFREG:
		return unix.EINVAL
	case !src.Readable(), !dst.Writable(), dst.Flags()&unix.O_APPEND != 0:
		return unix.EBADF
	}
	from, to := src.Pos(), dst.Pos()
	if in != nil {
		from = *in
	}
	if out != nil {
		to = *out
	}
	// fs/read_write.c, generic_copy_file_checks: the sums are unsigned.
	if u, v := uint64(from), uint64(to); u+n < u || v+n < v {
		return unix.EOVERFLOW
	}
	if to >= memory.MaxObject && n > 0 && from < x.Size {
		return unix.EFBIG
	}
	left := min(int64(n), max(x.Size-from, 0))
	if x.Ino == y.Ino && x.Dev == y.Dev && from < to+left && to < from+left {
		return unix.EINVAL
	}
	return nil
}

const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK | unix.SPLICE_F_MORE | unix.SPLICE_F_GIFT

func splice(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Size(4) == 0 {
		return 0, nil
	}
	if a.Int(5)&^spliceFlags != 0 {
		return 0, unix.EINVAL
	}
	src, dst, release, err := two(t, a.Int(0), a.Int(2))
	if err != nil {
		return 0, err
	}
	defer release()
	if a[1] != 0 && pipe.Is(src) || a[3] != 0 && pipe.Is(dst) {
		return 0, unix.ESPIPE
	}
	in, err := offset(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	out, err := offset(t, a.Addr(3))
	if err != nil {
		return 0, err
	}
	nonblock := a.Int(5)&unix.SPLICE_F_NONBLOCK != 0 || (src.Flags()|dst.Flags())&unix.O_NONBLOCK != 0
	n, err := moveBetween(t, src, dst, a.Size(4), nonblock, false, func(n int) (int, error) {
		return pipe.Splice(t, src, in, dst, out, n)
	})
	if e := putOffset(t, a.Addr(1), in); e != nil {
		return 0, e
	}
	if e := putOffset(t, a.Addr(3), out); e != nil {
		return 0, e
	}
	return n, err
}

func tee(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(3)&^spliceFlags != 0 {
		return 0, unix.EINVAL
	}
	if a.Size(2) == 0 {
		return 0, nil
	}
	src, dst, release, err := two(t, a.Int(0), a.Int(1))
	if err != nil {
		return 0, err
	}
	defer release()
	return moveBetween(t, src, dst, a.Size(2), (a.Int(3)&unix.SPLICE_F_NONBLOCK|(src.Flags()|dst.Flags())&unix.O_NONBLOCK) != 0, false, func(n int) (int, error) {
		return pipe.Tee(src, dst, n)
	})
}

// vmsplice moves between memory and a pipe; pages are copied, not given.
func vmsplice(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(3)&^spliceFlags != 0 {
		return 0, unix.EINVAL
	}
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	if !pipe.Is(d) {
		return 0, unix.EBADF
	}
	pieces, err := inIovec(t, a.Addr(1), a.Size(2))
	if err != nil || len(pieces) == 0 {
		return 0, err
	}
	x := transfer{d: d, pos: -1, write: d.Writable(), nonblock: d.Flags()&unix.O_NONBLOCK != 0 || a.Int(3)&unix.SPLICE_F_NONBLOCK != 0}
	access := platform.Write
	if x.write {
		access = platform.Read
	}
	b, unpin, err := pinPieces(t, pieces, access)
	if err != nil {
		return 0, err
	}
	defer unpin()
	n, err := x.some(t, b)
	return uintptr(n), err
}

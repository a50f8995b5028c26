package pipe

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// end is d's pipe, or nil.
func end(d *vfs.Description) *File {
	f, _ := d.File().(*File)
	return f
}

// Is reports whether d is an end of a pipe.
func Is(d *vfs.Description) bool { return end(d) != nil }

// Blocked says what to wait for after Splice, Tee or Copy returned EAGAIN.
func Blocked(in, out *vfs.Description) (*vfs.Description, vfs.Events) {
	if in.Ready(vfs.EventIn) == 0 {
		return in, vfs.EventIn
	}
	return out, vfs.EventOut
}

// Splice is splice(2): one side at least is a pipe, and offsets are nil for
// pipes and for use of the position.
func Splice(ctx vfs.Context, in *vfs.Description, inOff *int64, out *vfs.Description, outOff *int64, n int) (int, error) {
	from, to := end(in), end(out)
	switch {
	case !in.Readable() || !out.Writable():
		return 0, unix.EBADF
	case from != nil && inOff != nil, to != nil && outOff != nil:
		return 0, unix.ESPIPE
	case from == nil && to == nil:
		return 0, unix.EINVAL
	case n <= 0:
		return 0, nil
	case from != nil && to != nil:
		return between(from, to, n, true)
	case from != nil:
		if out.Flags()&unix.O_APPEND != 0 {
			return 0, unix.EINVAL
		}
		return from.drain(n, func(b memory.Buffers) (int, error) { return writeTo(ctx, out, outOff, b) })
	}
	return to.fill(n, func(b memory.Buffers) (int, error) { return readFrom(ctx, in, inOff, b) })
}

// Tee is tee(2).
func Tee(in, out *vfs.Description, n int) (int, error) {
	from, to := end(in), end(out)
	switch {
	case !in.Readable() || !out.Writable():
		return 0, unix.EBADF
	case from == nil || to == nil:
		return 0, unix.EINVAL
	case n <= 0:
		return 0, nil
	}
	return between(from, to, n, false)
}

// between moves or copies bytes from one pipe to another.
func between(from, to *File, n int, take bool) (int, error) {
	a, b := from.p, to.p
	if a == b {
		return 0, unix.EINVAL
	}
	first, second := a, b
	if first.id > second.id {
		first, second = second, first
	}
	first.mu.Lock()
	second.mu.Lock()
	n, err := moveLocked(a, b, n, take, to.direct.Load())
	second.mu.Unlock()
	first.mu.Unlock()
	if n > 0 {
		b.queue.Notify(vfs.EventIn)
		if take {
			a.queue.Notify(vfs.EventOut)
		}
	}
	return n, err
}

func moveLocked(a, b *Pipe, n int, take, packet bool) (int, error) {
	if b.readers == 0 {
		return 0, unix.EPIPE
	}
	if err := a.emptyLocked(); err != nil || a.n == 0 {
		return 0, err
	}
	n, _ = a.chunkLocked(min(n, b.size-b.n))
	if n == 0 {
		return 0, unix.EAGAIN
	}
	room, err := b.roomLocked(n)
	if err != nil {
		return 0, memory.Errno(err)
	}
	data := a.dataLocked(n)
	dst := memory.Buffers{room[0], room[1]}
	dst.Skip(dst.CopyOut(data[0])).CopyOut(data[1])
	b.putLocked(n, packet)
	if take {
		a.takeLocked(n)
	}
	return n, nil
}

// drain hands up to n bytes of the pipe to write, and takes what that accepted.
func (f *File) drain(n int, write func(memory.Buffers) (int, error)) (int, error) {
	p := f.p
	p.mu.Lock()
	if err := p.emptyLocked(); err != nil || p.n == 0 {
		p.mu.Unlock()
		return 0, err
	}
	n, _ = p.chunkLocked(n)
	data := p.dataLocked(n)
	done, err := write(memory.Buffers{data[0], data[1]})
	if done > 0 {
		p.takeLocked(done)
	}
	p.mu.Unlock()
	if done > 0 {
		p.queue.Notify(vfs.EventOut)
		err = nil
	}
	return done, err
}

// fill lets read put up to n bytes into the pipe.
func (f *File) fill(n int, read func(memory.Buffers) (int, error)) (int, error) {
	p := f.p
	p.mu.Lock()
	if p.readers == 0 {
		p.mu.Unlock()
		return 0, unix.EPIPE
	}
	if n = min(n, p.size-p.n); n == 0 {
		p.mu.Unlock()
		return 0, unix.EAGAIN
	}
	room, err := p.roomLocked(n)
	if err != nil {
		p.mu.Unlock()
		return 0, memory.Errno(err)
	}
	done, err := read(memory.Buffers{room[0], room[1]})
	p.putLocked(max(done, 0), f.direct.Load())
	p.mu.Unlock()
	if done > 0 {
		p.queue.Notify(vfs.EventIn)
		err = nil
	}
	return done, err
}

func readFrom(ctx vfs.Context, d *vfs.Description, off *int64, b memory.Buffers) (int, error) {
	if off == nil {
		return d.Read(ctx, b)
	}
	n, err := d.Pread(ctx, b, *off)
	*off += int64(max(n, 0))
	return n, err
}

func writeTo(ctx vfs.Context, d *vfs.Description, off *int64, b memory.Buffers) (int, error) {
	if off == nil {
		return d.Write(ctx, b)
	}
	n, err := d.Pwrite(ctx, b, *off)
	*off += int64(max(n, 0))
	return n, err
}

// chunk is how much Copy moves at once.
const chunk = 256 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Copy moves up to n bytes, one chunk of them, between any two files, for
// sendfile(2) and copy_file_range(2). Offsets are nil to use the position. in
// must have positions, so that what out does not take is not lost.
func Copy(ctx vfs.Context, in *vfs.Description, inOff *int64, out *vfs.Description, outOff *int64, n int) (int, error) {
	if n <= 0 {
		return 0, nil
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	at := inOff
	if at == nil {
		pos, err := in.Seek(ctx, 0, unix.SEEK_CUR)
		if err != nil {
			return 0, err
		}
		at = &pos
	}
	got, err := in.Pread(ctx, memory.Buffers{buf[:min(n, chunk)]}, *at)
	if got <= 0 {
		return 0, err
	}
	done, err := writeTo(ctx, out, outOff, memory.Buffers{buf[:got]})
	if done <= 0 {
		return 0, err
	}
	*at += int64(done)
	if inOff == nil {
		_, err = in.Seek(ctx, *at, unix.SEEK_SET)
		return done, err
	}
	return done, nil
}

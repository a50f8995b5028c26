package fuse

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// file is a regular file, or a name for something elsewhere.
type file struct{ inode }

// open asks for a handle. A server without the call needs none.
func (i *inode) open(ctx vfs.Context, op uint32, flags int) (fh [8]byte, err error) {
	b, err := i.fs.conn.call(ctx, op, i.node, 16, le.AppendUint64(nil, uint64(uint32(flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_NOCTTY|unix.O_TRUNC)))))
	if err == unix.ENOSYS {
		return fh, nil
	}
	copy(fh[:], b)
	return fh, err
}

func (f *file) Open(ctx vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	if f.kind != unix.S_IFREG {
		return nil, unix.ENXIO
	}
	fh, err := f.open(ctx, opOpen, flags)
	if err != nil {
		return nil, err
	}
	return &openFile{f: f, fh: fh, flags: flags}, nil
}

// openFile is an open regular file.
type openFile struct {
	vfs.NoFile
	f     *file
	fh    [8]byte
	flags int

	mu    sync.Mutex
	shown *memory.Object // the contents as they were mapped last
}

// transfer is the head of READ, READDIR and WRITE.
func transfer(fh [8]byte, off int64, size, flags uint32) []byte {
	b := le.AppendUint64(fh[:8:8], uint64(off))
	b = le.AppendUint32(le.AppendUint32(b, size), 0)
	return le.AppendUint64(le.AppendUint64(b, 0), uint64(flags))
}

func (o *openFile) Read(ctx vfs.Context, dst memory.Buffers, off int64) (int, error) {
	most := uint32(maxTransfer)
	if m := o.f.fs.o.maxRead; m != 0 {
		most = min(most, max(m, 4096))
	}
	done := 0
	for done < dst.Len() {
		size := uint32(min(dst.Len()-done, int(most)))
		b, err := o.f.fs.conn.call(ctx, opRead, o.f.node, 0, transfer(o.fh, off+int64(done), size, uint32(o.flags)))
		if err != nil {
			return partial(done, err)
		}
		b = b[:min(len(b), int(size))]
		n := dst.Skip(done).CopyOut(b)
		done += n
		if n < len(b) {
			return partial(done, unix.EFAULT)
		}
		if uint32(n) < size {
			break
		}
	}
	return done, nil
}

func partial(done int, err error) (int, error) {
	if done > 0 {
		return done, nil
	}
	return 0, err
}

func (o *openFile) Write(ctx vfs.Context, src memory.Buffers, off int64) (int, error) {
	n, _, err := o.write(ctx, src, off)
	return n, err
}

// Append implements vfs.Appender.
func (o *openFile) Append(ctx vfs.Context, src memory.Buffers) (int, int64, error) {
	o.f.stale()
	a, err := o.f.Attr(ctx)
	if err != nil {
		return 0, 0, err
	}
	return o.write(ctx, src, a.Size)
}

func (o *openFile) write(ctx vfs.Context, src memory.Buffers, off int64) (int, int64, error) {
	if off < 0 {
		return o.Append(ctx, src)
	}
	defer o.f.stale()
	c := o.f.fs.conn
	done := 0
	for done < src.Len() {
		b := make([]byte, min(src.Len()-done, int(max(c.maxWrite, 4096))))
		b = b[:src.Skip(done).CopyIn(b)]
		if len(b) == 0 {
			n, err := partial(done, unix.EFAULT)
			return n, off + int64(n), err
		}
		at := off + int64(done)
		r, err := c.call(ctx, opWrite, o.f.node, 8, transfer(o.fh, at, uint32(len(b)), uint32(o.flags)), b)
		if err != nil {
			n, err := partial(done, err)
			return n, off + int64(n), err
		}
		n := min(int(le.Uint32(r)), len(b))
		done += n
		if n < len(b) {
			break
		}
	}
	return done, off + int64(done), nil
}

func (o *openFile) Fsync(ctx vfs.Context, dataOnly bool) error {
	flags := uint64(0)
	if dataOnly {
		flags = 1
	}
	_, err := o.f.fs.conn.call(ctx, opFsync, o.f.node, 0, o.fh[:], le.AppendUint64(nil, flags))
	if err == unix.ENOSYS {
		return nil
	}
	return err
}

// Mappable is the file's contents of now.
func (o *openFile) Mappable(ctx vfs.Context, m memory.MapRequest) (memory.Mappable, error) {
	if m.Shared && o.flags&unix.O_ACCMODE != unix.O_RDONLY {
		return nil, unix.ENODEV
	}
	a, err := o.f.Attr(ctx)
	if err != nil {
		return nil, err
	}
	object := memory.NewObject(o.f.fs.arena)
	b := make([]byte, maxTransfer)
	for off := int64(0); off < a.Size; {
		n, err := o.Read(ctx, memory.Buffers{b}, off)
		if err == nil && n > 0 {
			_, err = object.WriteAt(memory.Buffers{b[:n]}, uint64(off))
		}
		if err != nil {
			object.Unref()
			return nil, err
		}
		if n == 0 {
			break
		}
		off += int64(n)
	}
	o.mu.Lock()
	old := o.shown
	o.shown = object // held for the mapping, which takes a reference of its own
	o.mu.Unlock()
	if old != nil {
		old.Unref()
	}
	return object, nil
}

// Release closes the handle; nobody waits for that.
func (o *openFile) Release() {
	o.mu.Lock()
	if o.shown != nil {
		o.shown.Unref()
		o.shown = nil
	}
	o.mu.Unlock()
	o.f.fs.conn.post(opRelease, o.f.node, releaseOf(o.fh, o.flags))
}

func releaseOf(fh [8]byte, flags int) []byte {
	b := le.AppendUint64(fh[:8:8], uint64(uint32(flags)))
	return le.AppendUint64(b, 0)
}

// Open implements vfs.Inode.
func (d *dir) Open(ctx vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	fh, err := d.open(ctx, opOpendir, flags)
	if err != nil {
		return nil, err
	}
	return &openDir{d: d, fh: fh, flags: flags}, nil
}

type openDir struct {
	vfs.NoFile
	d     *dir
	fh    [8]byte
	flags int
}

func (*openDir) Read(vfs.Context, memory.Buffers, int64) (int, error) { return 0, unix.EISDIR }

// ReadDir implements vfs.DirReader. Linux leaves "." and ".." to the server, too.
func (o *openDir) ReadDir(ctx vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	const head = 24
	for {
		b, err := o.d.fs.conn.call(ctx, opReaddir, o.d.node, 0, transfer(o.fh, off, 4096, uint32(o.flags)))
		if err != nil || len(b) < head {
			return err
		}
		for len(b) >= head {
			size := int(le.Uint32(b[16:]))
			if size == 0 || size > len(b)-head || size > unix.NAME_MAX {
				return unix.EIO
			}
			name := b[head : head+size]
			if bytes.ContainsAny(name, "/\x00") {
				return unix.EIO
			}
			e := vfs.Dirent{Name: string(name), Ino: le.Uint64(b), Off: int64(le.Uint64(b[8:])), Type: uint8(le.Uint32(b[20:]))}
			if !emit(e) {
				return nil
			}
			off = e.Off
			b = b[min(len(b), head+(size+7)&^7):]
		}
	}
}

func (o *openDir) Fsync(ctx vfs.Context, dataOnly bool) error {
	_, err := o.d.fs.conn.call(ctx, opFsyncdir, o.d.node, 0, o.fh[:], make([]byte, 8))
	if err == unix.ENOSYS {
		return nil
	}
	return err
}

func (o *openDir) Release() {
	o.d.fs.conn.post(opReleasedir, o.d.node, releaseOf(o.fh, o.flags))
}

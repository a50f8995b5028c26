package gofer

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// Open implements vfs.Inode.
func (f *file) Open(_ vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	write := flags&unix.O_ACCMODE != unix.O_RDONLY
	fd, err := f.descriptor(write)
	if err != nil {
		return nil, err
	}
	f.hold()
	o := &openFile{file: f, fd: fd, writes: write}
	switch flags & unix.O_SYNC {
	case unix.O_SYNC:
		o.sync = unix.RWF_SYNC
	case unix.O_DSYNC:
		o.sync = unix.RWF_DSYNC
	}
	return o, nil
}

// openFile is an open regular file. O_DIRECT makes no difference: the host's page
// cache is the one that mappings see.
type openFile struct {
	vfs.NoFile
	file   *file
	fd     *hostFD
	writes bool
	sync   int // RWF_…, of each write
}

// maxPieces is IOV_MAX; a transfer of more pieces is a short one.
const maxPieces = 1024

// Read implements vfs.File.
func (o *openFile) Read(_ vfs.Context, dst memory.Buffers, off int64) (int, error) {
	if n := o.readAgain(dst, off); n > 0 {
		return n, nil
	}
	for {
		n, err := o.read(dst, off)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// A small file that is read over and over is read from the Sentry's own mapping of it,
// which takes less time than the host's call: the page cache is the same.
const (
	oftenRead = 16
	smallFile = 2 << 20 // one window
)

// readAgain reads so, if nobody can write to the file and all that is wanted is
// there. It says 0 where a read by the host is due.
func (o *openFile) readAgain(dst memory.Buffers, off int64) int {
	if o.fd.writable || o.fd.reads.Load() < oftenRead && o.fd.reads.Add(1) < oftenRead {
		return 0
	}
	size, ok := o.file.fixedSize(o.fd)
	want := int64(dst.Len())
	if !ok || size > smallFile || off < 0 || off >= size || want == 0 {
		return 0
	}
	n := o.fd.mappable(o.file.fs.arena).CopyOut(dst, uint64(off), uint64(size))
	if int64(n) < min(want, size-off) {
		return 0 // cut from outside meanwhile: the host knows
	}
	return n
}

func (o *openFile) read(dst memory.Buffers, off int64) (int, error) {
	switch len(dst) {
	case 0:
		return 0, nil
	case 1:
		return unix.Pread(o.fd.fd, dst[0], off)
	}
	return unix.Preadv(o.fd.fd, dst[:min(len(dst), maxPieces)], off)
}

// Write implements vfs.File.
func (o *openFile) Write(_ vfs.Context, src memory.Buffers, off int64) (int, error) {
	flags := o.sync
	if off < 0 {
		flags, off = flags|unix.RWF_APPEND, 0
	}
	o.fd.dirty.Store(true)
	for {
		n, err := o.write(src, off, flags)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

func (o *openFile) write(src memory.Buffers, off int64, flags int) (int, error) {
	switch {
	case len(src) == 0:
		return 0, nil
	case len(src) == 1 && flags == 0:
		return unix.Pwrite(o.fd.fd, src[0], off)
	}
	return unix.Pwritev2(o.fd.fd, src[:min(len(src), maxPieces)], off, flags)
}

// Append implements vfs.Appender.
func (o *openFile) Append(ctx vfs.Context, src memory.Buffers) (n int, end int64, err error) {
	if n, err = o.Write(ctx, src, -1); err != nil {
		return n, 0, err
	}
	a, err := o.file.Attr(ctx)
	return n, a.Size, err
}

// Seek implements vfs.Seeker. The host's position of the shared descriptor means
// nothing to anybody.
func (o *openFile) Seek(ctx vfs.Context, pos, offset int64, whence int) (int64, error) {
	switch whence {
	case unix.SEEK_SET:
		return offset, nil
	case unix.SEEK_CUR:
		return pos + offset, nil
	case unix.SEEK_END:
		a, err := o.file.Attr(ctx)
		return a.Size + offset, err
	case unix.SEEK_DATA, unix.SEEK_HOLE:
		return unix.Seek(o.fd.fd, offset, whence)
	}
	return 0, unix.EINVAL
}

// Mappable implements vfs.Mapper.
func (o *openFile) Mappable(_ vfs.Context, r memory.MapRequest) (memory.Mappable, error) {
	if r.Shared && (r.Prot|r.MaxProt)&platform.Write != 0 {
		o.fd.dirty.Store(true)
	}
	return &mapping{o.fd.mappable(o.file.fs.arena), o.file, o.fd}, nil
}

// Fsync implements vfs.Syncer.
func (o *openFile) Fsync(_ vfs.Context, dataOnly bool) error {
	o.fd.dirty.Store(false)
	if dataOnly {
		return unix.Fdatasync(o.fd.fd)
	}
	return unix.Fsync(o.fd.fd)
}

// Allocate implements vfs.Allocator.
func (o *openFile) Allocate(ctx vfs.Context, mode uint32, off, length int64) error {
	o.fd.dirty.Store(true)
	for {
		err := unix.Fallocate(o.fd.fd, mode, off, length)
		if err == unix.EINTR {
			continue
		}
		if err == nil && mode&unix.FALLOC_FL_COLLAPSE_RANGE != 0 {
			a, err := o.file.Attr(ctx)
			o.file.truncated(uint64(a.Size))
			return err
		}
		return err
	}
}

// HostFD implements vfs.HostFD.
func (o *openFile) HostFD() int {
	if o.writes {
		o.fd.dirty.Store(true)
	}
	return o.fd.fd
}

// Release implements vfs.File.
func (o *openFile) Release() {
	o.file.done(o.fd)
	o.file.letGo()
}

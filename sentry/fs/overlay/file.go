package overlay

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// file is a regular file.
type file struct {
	inode
	index string // its name in the work directory, if links counts

	sharedMu sync.Mutex
	shared   *sharedMap // if it was mapped shared before it was copied up
}

// linked says that other names of f may be below alone.
func (f *file) linked() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.links > 0
}

// SetAttr implements vfs.Inode. What is truncated away is not copied.
func (f *file) SetAttr(ctx vfs.Context, s vfs.SetAttr) error {
	limit := int64(-1)
	if s.Mask&vfs.SetSize != 0 {
		limit = s.Size
	}
	if err := f.copyUp(ctx, limit); err != nil {
		return err
	}
	if err := f.real().SetAttr(ctx, s); err != nil {
		return err
	}
	if s.Mask&vfs.SetSize != 0 {
		f.sharedMu.Lock()
		m := f.shared
		f.sharedMu.Unlock()
		if m != nil {
			m.truncated(uint64(s.Size))
		}
	}
	return nil
}

// Open implements vfs.Inode. Who wants to write gets the copy.
func (f *file) Open(ctx vfs.Context, at vfs.Path, flags int) (vfs.File, error) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY {
		if err := f.copyUp(ctx, -1); err != nil {
			return nil, err
		}
	}
	if f.above() && f.lower == nil {
		return f.real().Open(ctx, at, flags)
	}
	above := f.above()
	r, err := f.real().Open(ctx, at, flags)
	if err != nil {
		return nil, err
	}
	f.Pin()
	return &openFile{file: f, flags: flags, above: above, real: r}, nil
}

// openFile is an open file that is, or was, below. It goes over to the copy when
// there is one.
type openFile struct {
	vfs.NoFile
	file  *file
	flags int

	mu    sync.Mutex
	above bool
	real  vfs.File
	old   []vfs.File // of the lower file; somebody may be reading
}

// now is the file that counts.
func (o *openFile) now(ctx vfs.Context) (vfs.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.above && o.file.above() {
		r, err := o.file.real().Open(ctx, vfs.Path{}, o.flags)
		if err != nil {
			return nil, err
		}
		o.old = append(o.old, o.real)
		o.real, o.above = r, true
	}
	return o.real, nil
}

// Read implements vfs.File.
func (o *openFile) Read(ctx vfs.Context, dst memory.Buffers, off int64) (int, error) {
	f, err := o.now(ctx)
	if err != nil {
		return 0, err
	}
	return f.Read(ctx, dst, off)
}

// Write implements vfs.File.
func (o *openFile) Write(ctx vfs.Context, src memory.Buffers, off int64) (int, error) {
	f, err := o.now(ctx)
	if err != nil {
		return 0, err
	}
	return f.Write(ctx, src, off)
}

// Append implements vfs.Appender.
func (o *openFile) Append(ctx vfs.Context, src memory.Buffers) (int, int64, error) {
	f, err := o.now(ctx)
	if err != nil {
		return 0, 0, err
	}
	if a, ok := f.(vfs.Appender); ok {
		return a.Append(ctx, src)
	}
	n, err := f.Write(ctx, src, -1)
	if err != nil {
		return n, 0, err
	}
	a, err := o.file.Attr(ctx)
	return n, a.Size, err
}

// Seek implements vfs.Seeker.
func (o *openFile) Seek(ctx vfs.Context, pos, offset int64, whence int) (int64, error) {
	f, err := o.now(ctx)
	if err != nil {
		return 0, err
	}
	if s, ok := f.(vfs.Seeker); ok {
		return s.Seek(ctx, pos, offset, whence)
	}
	switch whence {
	case unix.SEEK_SET:
		return offset, nil
	case unix.SEEK_CUR:
		return pos + offset, nil
	case unix.SEEK_END:
		a, err := o.file.Attr(ctx)
		return a.Size + offset, err
	}
	return 0, unix.EINVAL
}

// Fsync implements vfs.Syncer.
func (o *openFile) Fsync(ctx vfs.Context, dataOnly bool) error {
	f, err := o.now(ctx)
	if err != nil {
		return err
	}
	if s, ok := f.(vfs.Syncer); ok {
		return s.Fsync(ctx, dataOnly)
	}
	return nil
}

// Allocate implements vfs.Allocator.
func (o *openFile) Allocate(ctx vfs.Context, mode uint32, off, length int64) error {
	f, err := o.now(ctx)
	if err != nil {
		return err
	}
	if a, ok := f.(vfs.Allocator); ok {
		return a.Allocate(ctx, mode, off, length)
	}
	return unix.EOPNOTSUPP
}

// SetFlags implements vfs.FlagSetter.
func (o *openFile) SetFlags(flags int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.flags = flags
	if s, ok := o.real.(vfs.FlagSetter); ok {
		s.SetFlags(flags)
	}
}

// Mappable implements vfs.Mapper. A private mapping shows the contents of when it
// was made, which POSIX allows; a shared one follows the file.
func (o *openFile) Mappable(ctx vfs.Context, r memory.MapRequest) (memory.Mappable, error) {
	f, err := o.now(ctx)
	if err != nil {
		return nil, err
	}
	m, ok := f.(vfs.Mapper)
	if !ok {
		return nil, unix.ENODEV
	}
	inner, err := m.Mappable(ctx, r)
	if err != nil || !r.Shared {
		return inner, err
	}
	return o.file.share(inner), nil
}

// Release implements vfs.File.
func (o *openFile) Release() {
	for _, f := range append(o.old, o.real) {
		f.Release()
	}
	o.file.Unpin()
}

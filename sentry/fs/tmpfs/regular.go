package tmpfs

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

// regular is a file with contents. They live as long as a name, a descriptor or a
// mapping does.
type regular struct {
	inode
	object   *memory.Object // nil: given up
	pins     int            // descriptors
	linkable bool           // without a name, but linkat may give one
	seals    uint32
	// writers are mappings that may write, for F_SEAL_WRITE. Atomic, since Ref is
	// called with locks of a Space, which a truncation takes inside mu.
	writers atomic.Int32
}

func newRegular(fs *FileSystem) *regular {
	return &regular{object: memory.NewObjectWithin(fs.arena, fs), seals: unix.F_SEAL_SEAL}
}

// Attr is for stat(2).
func (r *regular) Attr(vfs.Context) (vfs.Attr, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.attr
	if r.object != nil {
		a.Size = int64(r.object.Size())
		a.Blocks = int64(r.object.Usage() / 512)
	}
	return a, nil
}

// SetAttr changes the attributes, the size too.
func (r *regular) SetAttr(ctx vfs.Context, set vfs.SetAttr) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if set.Mask&vfs.SetMode != 0 && r.seals&sealExec != 0 && (r.attr.Mode^set.Mode)&0o111 != 0 {
		return unix.EPERM
	}
	if set.Mask&vfs.SetSize != 0 {
		if err := r.truncateLocked(ctx, uint64(set.Size)); err != nil {
			return err
		}
	}
	if set.Mask&(vfs.SetUID|vfs.SetGID|vfs.SetSize) != 0 {
		r.loseCapsLocked()
	}
	r.attr.Set(set)
	r.attr.Ctime = ctx.Now()
	return nil
}

func (r *regular) truncateLocked(ctx vfs.Context, size uint64) error {
	if r.object == nil {
		return unix.EIO
	}
	old, had := r.object.Size(), r.object.Usage()
	switch {
	case size < old && r.seals&unix.F_SEAL_SHRINK != 0, size > old && r.seals&unix.F_SEAL_GROW != 0:
		return unix.EPERM
	}
	if err := r.object.Truncate(size); err != nil {
		return err
	}
	if size != old || had != 0 { // so has shmem_truncate_range
		r.modifiedLocked(ctx)
	}
	return nil
}

// unlinkedLocked gives the contents up with the last link and descriptor.
func (r *regular) unlinkedLocked() {
	if r.attr.Nlink != 0 || r.pins != 0 || r.object == nil {
		return
	}
	o := r.object
	r.object = nil
	r.fs.inodes.Add(-1)
	o.Unref()
}

// Pin implements vfs.Pinner.
func (r *regular) Pin() {
	r.mu.Lock()
	r.pins++
	r.mu.Unlock()
}

// Unpin implements vfs.Pinner.
func (r *regular) Unpin() {
	r.mu.Lock()
	r.pins--
	r.unlinkedLocked()
	r.mu.Unlock()
}

// Open implements vfs.Inode.
func (r *regular) Open(_ vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.object == nil {
		return nil, unix.ENOENT // whoever kept the place did not Pin it
	}
	r.pins++
	return &file{r: r, noAtime: flags&unix.O_NOATIME != 0, writable: flags&unix.O_ACCMODE != unix.O_RDONLY}, nil
}

// file is an open regular file.
type file struct {
	vfs.NoFile
	r        *regular
	noAtime  bool
	writable bool
}

// Release implements vfs.File.
func (f *file) Release() { f.r.Unpin() }

// Read implements vfs.File.
func (f *file) Read(ctx vfs.Context, dst memory.Buffers, off int64) (int, error) {
	n, err := f.r.object.ReadAt(dst, uint64(off))
	if !f.noAtime {
		f.r.mu.Lock()
		f.r.accessedLocked(ctx)
		f.r.mu.Unlock()
	}
	return n, err
}

// Write implements vfs.File.
func (f *file) Write(ctx vfs.Context, src memory.Buffers, off int64) (int, error) {
	n, _, err := f.write(ctx, src, off)
	return n, err
}

// modifiedLocked stamps a change of contents.
func (r *regular) modifiedLocked(ctx vfs.Context) {
	r.inode.modifiedLocked(ctx)
	r.loseCapsLocked()
}

// Append implements vfs.Appender.
func (f *file) Append(ctx vfs.Context, src memory.Buffers) (int, int64, error) {
	return f.write(ctx, src, -1)
}

func (f *file) write(ctx vfs.Context, src memory.Buffers, off int64) (n int, end int64, err error) {
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	size := int64(r.object.Size())
	if off < 0 {
		off = size
	}
	length := int64(src.Len())
	if length == 0 {
		return 0, off, nil
	}
	if r.seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
		return 0, off, unix.EPERM
	}
	if off+length < 0 || off >= memory.MaxObject {
		return 0, off, unix.EFBIG
	}
	if off+length > size && r.seals&unix.F_SEAL_GROW != 0 {
		if off >= size {
			return 0, off, unix.EPERM
		}
		length = size - off
	}
	n, err = r.object.WriteAt(src.Take(int(length)), uint64(off))
	if err == unix.ENOMEM {
		err = unix.ENOSPC
	}
	if n > 0 {
		r.modifiedLocked(ctx)
	}
	return n, off + int64(n), err
}

// fitLocked is how many of the bytes from off on the size limit allows.
func (r *regular) fitLocked(off, length int64) int64 {
	first, last := off/pageSize, (off+length-1)/pageSize
	if r.fs.room((last - first + 1) * pageSize) {
		return length
	}
	var extra int64
	for page := first; page <= last; page++ {
		if at, err := r.object.SeekData(uint64(page * pageSize)); err == nil && at/pageSize == uint64(page) {
			continue
		}
		if extra += pageSize; !r.fs.room(extra) {
			return page*pageSize - off
		}
	}
	return length
}

// Seek implements vfs.Seeker.
func (f *file) Seek(_ vfs.Context, pos, offset int64, whence int) (int64, error) {
	o := f.r.object
	switch whence {
	case unix.SEEK_SET:
		return offset, nil
	case unix.SEEK_CUR:
		return pos + offset, nil
	case unix.SEEK_END:
		return int64(o.Size()) + offset, nil
	case unix.SEEK_DATA, unix.SEEK_HOLE:
		if offset < 0 {
			return 0, unix.ENXIO
		}
		seek := o.SeekData
		if whence == unix.SEEK_HOLE {
			seek = o.SeekHole
		}
		at, err := seek(uint64(offset))
		return int64(at), err
	}
	return 0, unix.EINVAL
}

// Allocate implements vfs.Allocator (mm/shmem.c, shmem_fallocate).
func (f *file) Allocate(ctx vfs.Context, mode uint32, off, n int64) error {
	const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch mode {
	case punch:
		if r.seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
			return unix.EPERM
		}
		r.modifiedLocked(ctx)
		return r.object.Punch(uint64(off), uint64(n))
	case 0, unix.FALLOC_FL_KEEP_SIZE:
	default:
		return unix.EOPNOTSUPP
	}
	end, size := off+n, int64(r.object.Size())
	grows := mode == 0 && end > size
	if grows && r.seals&unix.F_SEAL_GROW != 0 {
		return unix.EPERM
	}
	if r.fitLocked(off, n) < n {
		return unix.ENOSPC
	}
	if err := r.object.Allocate(uint64(off), uint64(n), interrupted(ctx)); err != nil {
		return err
	}
	if grows {
		if err := r.object.Truncate(uint64(end)); err != nil {
			return err
		}
	}
	r.modifiedLocked(ctx)
	return nil
}

// interrupted says whether a signal waits for who calls, if that is a task: the one
// thing that ends a fallocate of more than anybody has.
func interrupted(ctx vfs.Context) func() bool {
	if t, ok := ctx.(interface{ Interrupted() bool }); ok {
		return t.Interrupted
	}
	return func() bool { return false }
}

// Fsync implements vfs.Syncer: memory is where it lasts.
func (f *file) Fsync(vfs.Context, bool) error { return nil }

// Mappable implements vfs.Mapper.
func (f *file) Mappable(_ vfs.Context, m memory.MapRequest) (memory.Mappable, error) {
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if !m.Shared || !f.writable {
		return r.object, nil
	}
	if r.seals&(unix.F_SEAL_WRITE|unix.F_SEAL_FUTURE_WRITE) != 0 {
		if m.Prot&platform.Write != 0 {
			return nil, unix.EPERM
		}
		return r.object, nil
	}
	return &writableMap{r.object, r}, nil
}

// writableMap is the object as a mapping sees it that may write.
type writableMap struct {
	*memory.Object
	r *regular
}

// Ref implements memory.Mappable.
func (m *writableMap) Ref() {
	m.r.writers.Add(1)
	m.Object.Ref()
}

// Unref implements memory.Mappable.
func (m *writableMap) Unref() {
	m.r.writers.Add(-1)
	m.Object.Unref()
}

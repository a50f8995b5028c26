package vfs

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// mayRead checks the open mode for reading.
func (d *Description) mayRead() error {
	if !d.Readable() {
		return unix.EBADF
	}
	if d.typ == unix.S_IFDIR {
		return unix.EISDIR
	}
	return nil
}

// Read is read(2): at the position, and moving it.
func (d *Description) Read(ctx Context, dst memory.Buffers) (int, error) {
	if err := d.mayRead(); err != nil {
		return 0, err
	}
	if !d.placed {
		return d.didRead(d.file.Read(ctx, dst, 0))
	}
	d.posMu.Lock()
	defer d.posMu.Unlock()
	n, err := d.file.Read(ctx, dst, d.pos)
	d.pos += int64(max(n, 0))
	return d.didRead(n, err)
}

// Pread is pread(2).
func (d *Description) Pread(ctx Context, dst memory.Buffers, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, unix.EINVAL
	case d.Flags()&unix.O_PATH != 0:
		return 0, unix.EBADF
	case !d.placed:
		return 0, unix.ESPIPE
	}
	if err := d.mayRead(); err != nil {
		return 0, err
	}
	return d.didRead(d.file.Read(ctx, dst, off))
}

func (d *Description) didRead(n int, err error) (int, error) {
	if n > 0 && watched() {
		tellAt(d.path, unix.IN_ACCESS)
	}
	return n, err
}

// Write is write(2): at the position, or at the end with O_APPEND.
func (d *Description) Write(ctx Context, src memory.Buffers) (int, error) {
	if !d.Writable() {
		return 0, unix.EBADF
	}
	if src.Len() > 0 {
		if err := d.dropPrivileges(ctx); err != nil {
			return 0, err
		}
	}
	if !d.placed {
		return d.didWrite(d.file.Write(ctx, src, 0))
	}
	d.posMu.Lock()
	defer d.posMu.Unlock()
	if d.Flags()&unix.O_APPEND != 0 {
		return d.didWrite(d.append(ctx, src, &d.pos))
	}
	n, err := d.file.Write(ctx, src, d.pos)
	d.pos += int64(max(n, 0))
	return d.didWrite(n, err)
}

// append writes at the end and sets pos to what is the end then.
func (d *Description) append(ctx Context, src memory.Buffers, pos *int64) (int, error) {
	if a, ok := d.file.(Appender); ok {
		n, end, err := a.Append(ctx, src)
		if n > 0 {
			*pos = end
		}
		return n, err
	}
	n, err := d.file.Write(ctx, src, -1)
	if n > 0 {
		if a, e := d.Inode().Attr(ctx); e == nil {
			*pos = a.Size
		}
	}
	return n, err
}

// Pwrite is pwrite(2). With O_APPEND it appends, as Linux has it (BUGS there).
func (d *Description) Pwrite(ctx Context, src memory.Buffers, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, unix.EINVAL
	case d.Flags()&unix.O_PATH != 0:
		return 0, unix.EBADF
	case !d.placed:
		return 0, unix.ESPIPE
	case !d.Writable():
		return 0, unix.EBADF
	}
	if src.Len() > 0 {
		if err := d.dropPrivileges(ctx); err != nil {
			return 0, err
		}
	}
	if d.Flags()&unix.O_APPEND != 0 {
		var pos int64
		return d.didWrite(d.append(ctx, src, &pos))
	}
	return d.didWrite(d.file.Write(ctx, src, off))
}

func (d *Description) didWrite(n int, err error) (int, error) {
	if n > 0 && watched() {
		tellAt(d.path, unix.IN_MODIFY)
	}
	return n, err
}

// dropPrivileges takes set-id bits from a file that is being written.
func (d *Description) dropPrivileges(ctx Context) error {
	if d.typ != unix.S_IFREG || ctx.Creds().Has(unix.CAP_FSETID) {
		return nil
	}
	a, err := d.Inode().Attr(ctx)
	if err != nil {
		return err
	}
	drop := privileges(ctx.Creds(), &a)
	if drop == 0 {
		return nil
	}
	return d.Inode().SetAttr(ctx, SetAttr{Mask: SetMode, Mode: a.Mode & 0o7777 &^ drop})
}

// Pos is the position, for /proc/PID/fdinfo.
func (d *Description) Pos() int64 {
	d.posMu.Lock()
	defer d.posMu.Unlock()
	return d.pos
}

// Seek is lseek(2).
func (d *Description) Seek(ctx Context, off int64, whence int) (int64, error) {
	if d.Flags()&unix.O_PATH != 0 {
		return 0, unix.EBADF
	}
	if whence < unix.SEEK_SET || whence > unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	if _, own := d.file.(Seeker); !d.placed && !own {
		return 0, unix.ESPIPE
	}
	d.posMu.Lock()
	defer d.posMu.Unlock()
	pos, err := d.seek(ctx, off, whence)
	if err == nil && pos < 0 {
		err = unix.EINVAL
	}
	if err != nil {
		return 0, err
	}
	d.pos = pos
	return pos, nil
}

func (d *Description) seek(ctx Context, off int64, whence int) (int64, error) {
	if s, ok := d.file.(Seeker); ok {
		return s.Seek(ctx, d.pos, off, whence)
	}
	switch whence {
	case unix.SEEK_SET:
		return off, nil
	case unix.SEEK_CUR:
		return d.pos + off, nil
	}
	if d.typ == unix.S_IFDIR {
		return 0, unix.EINVAL // fs/libfs.c, dcache_dir_lseek
	}
	a, err := d.Inode().Attr(ctx)
	if err != nil {
		return 0, err
	}
	switch whence {
	case unix.SEEK_END:
		return a.Size + off, nil
	case unix.SEEK_DATA, unix.SEEK_HOLE: // a file that knows no holes
		if off < 0 || off >= a.Size {
			return 0, unix.ENXIO
		}
		if whence == unix.SEEK_HOLE {
			return a.Size, nil
		}
		return off, nil
	}
	return 0, unix.EINVAL
}

// ReadDir is getdents64(2): it moves the position behind each name that emit
// takes.
func (d *Description) ReadDir(ctx Context, emit func(Dirent) bool) error {
	if d.Flags()&unix.O_PATH != 0 {
		return unix.EBADF
	}
	r, ok := d.file.(DirReader)
	if !ok {
		return unix.ENOTDIR
	}
	if d.path.Dentry.Dead() {
		return unix.ENOENT
	}
	d.posMu.Lock()
	defer d.posMu.Unlock()
	err := r.ReadDir(ctx, d.pos, func(e Dirent) bool {
		if !emit(e) {
			return false
		}
		d.pos = e.Off
		return true
	})
	if err == nil && watched() {
		tellAt(d.path, unix.IN_ACCESS)
	}
	return err
}

// Stat is fstat(2).
func (d *Description) Stat(ctx Context) (Attr, error) { return d.Inode().Attr(ctx) }

// Truncate is ftruncate(2).
func (d *Description) Truncate(ctx Context, size int64) error {
	switch {
	case size < 0:
		return unix.EINVAL
	case d.Flags()&unix.O_PATH != 0:
		return unix.EBADF
	case d.typ != unix.S_IFREG || !d.Writable():
		return unix.EINVAL
	}
	i := d.Inode()
	a, err := i.Attr(ctx)
	if err != nil {
		return err
	}
	if err := truncate(ctx, i, &a, size, true); err != nil {
		return err
	}
	tellAt(d.path, unix.IN_MODIFY)
	return nil
}

// Allocate is fallocate(2) (fs/open.c, vfs_fallocate).
func (d *Description) Allocate(ctx Context, mode uint32, off, n int64) error {
	const known = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_COLLAPSE_RANGE |
		unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_INSERT_RANGE | unix.FALLOC_FL_UNSHARE_RANGE
	if d.Flags()&unix.O_PATH != 0 {
		return unix.EBADF
	}
	if off < 0 || n <= 0 {
		return unix.EINVAL
	}
	if mode&^known != 0 || mode&unix.FALLOC_FL_PUNCH_HOLE != 0 && mode != unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE {
		return unix.EOPNOTSUPP
	}
	if !d.Writable() {
		return unix.EBADF
	}
	a, ok := d.file.(Allocator)
	switch {
	case d.typ == unix.S_IFIFO:
		return unix.ESPIPE
	case d.typ == unix.S_IFDIR:
		return unix.EISDIR
	case d.typ != unix.S_IFREG:
		return unix.ENODEV
	case off+n < 0:
		return unix.EFBIG
	case !ok:
		return unix.EOPNOTSUPP
	}
	if err := a.Allocate(ctx, mode, off, n); err != nil {
		return err
	}
	if err := d.dropPrivileges(ctx); err != nil {
		return err
	}
	tellAt(d.path, unix.IN_MODIFY)
	return nil
}

// Sync is fsync(2) and fdatasync(2).
func (d *Description) Sync(ctx Context, dataOnly bool) error {
	if d.Flags()&unix.O_PATH != 0 {
		return unix.EBADF
	}
	if s, ok := d.file.(Syncer); ok {
		return s.Fsync(ctx, dataOnly)
	}
	if d.typ == unix.S_IFREG || d.typ == unix.S_IFDIR {
		return nil // nothing that could be lost
	}
	return unix.EINVAL
}

// Mappable is what mmap(2) maps. Open modes have been checked by the caller.
func (d *Description) Mappable(ctx Context, r memory.MapRequest) (memory.Mappable, error) {
	m, ok := d.file.(Mapper)
	if !ok || d.Flags()&unix.O_PATH != 0 {
		return nil, unix.ENODEV
	}
	return m.Mappable(ctx, r)
}

// Ioctl is ioctl(2), without the requests that every file has (FIOCLEX …).
func (d *Description) Ioctl(ctx Context, cmd uint32, arg uint64) (uintptr, error) {
	if d.Flags()&unix.O_PATH != 0 {
		return 0, unix.EBADF
	}
	return d.file.Ioctl(ctx, cmd, arg)
}

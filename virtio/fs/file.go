package fs

import (
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	maxOffset = math.MaxInt64
	// maxCopy keeps one COPY_FILE_RANGE from holding a worker for minutes; a
	// short count is allowed and callers go on.
	maxCopy = 64 << 20 // bytes
	maxIOV  = 1024     // UIO_MAXIOV
)

// openFlags is what of the guest's flags the host's open(2) sees. O_APPEND is
// not among them: a page that the guest writes back belongs where it says, also
// through a descriptor that appends, so it is asked for write by write. Nor is
// O_DIRECT, which is between the guest and its page cache.
func (t *tree) openFlags(guest uint32) (uint32, error) {
	const kept = unix.O_ACCMODE | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC
	flags := guest & kept
	if t.readOnly && (flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0) {
		return 0, unix.EROFS
	}
	return flags, nil
}

func (t *tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	flags, err := t.openFlags(in.Flags)
	if err != nil {
		return status(err)
	}
	n, err := t.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(n)
	return status(t.openFile(n, flags, in.Mode&fuse.OPEN_KILL_SUIDGID != 0, out))
}

// openFile opens a regular file. A client opens devices, FIFOs and sockets by
// itself and never sends them; the host's are none of its business.
func (t *tree) openFile(n *inode, flags uint32, drop bool, out *fuse.OpenOut) error {
	switch n.kind {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return unix.EISDIR
	default:
		return unix.ENXIO
	}
	fd, err := t.openQuietly(n.fd, flags)
	if err != nil {
		return err
	}
	h, err := t.handles.add(n.id, fd, flags&^unix.O_TRUNC)
	if err != nil {
		return err
	}
	out.Fh = h.id
	if drop && flags&unix.O_TRUNC != 0 {
		return dropPrivileges(fd)
	}
	f, err := look(n.fd)
	if err == nil && t.calm(n, &f) {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	}
	return err
}

// openQuietly leaves no access time behind in a read-only share, where the
// host lets us: EPERM says that the file is another's.
func (t *tree) openQuietly(fd int, flags uint32) (int, error) {
	if t.readOnly {
		if quiet, err := t.links.open(fd, flags|unix.O_NOATIME); err != unix.EPERM {
			return quiet, err
		}
	}
	return t.links.open(fd, flags)
}

func (t *tree) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	flags, err := t.openFlags(in.Flags)
	if err != nil {
		return status(err)
	}
	return t.within(in.NodeId, name, func(at place) error {
		// O_EXCL makes what is opened here ours: a device or FIFO of that name is
		// never opened.
		const made = unix.O_CREAT | unix.O_EXCL | unix.O_NONBLOCK
		fd := -1
		err := t.creator.as(in.Uid, in.Gid, func() (err error) {
			fd, err = beneath(at.dir.fd, name, flags&^unix.O_TRUNC|made, in.Mode&0o7777)
			return err
		})
		switch {
		case err == nil:
			return t.created(at, fd, flags, in.Mode, out)
		case err == unix.EEXIST && in.Flags&unix.O_EXCL == 0:
			return t.openExisting(at, flags, in.OpenFlags&fuse.OPEN_KILL_SUIDGID != 0, out)
		}
		return err
	})
}

// openExisting serves a CREATE that another was faster than.
func (t *tree) openExisting(at place, flags uint32, drop bool, out *fuse.CreateOut) error {
	if err := t.enter(at, &out.EntryOut, 0); err != nil {
		return err
	}
	n, err := t.inodes.get(out.NodeId)
	if err == nil {
		err = t.openFile(n, flags, drop, &out.OpenOut)
		t.inodes.put(n)
	}
	if err != nil {
		t.inodes.forget(out.NodeId, 1)
	}
	return err
}

// created tells the guest of a file that was just made and is open as fd.
func (t *tree) created(at place, fd int, flags, mode uint32, out *fuse.CreateOut) error {
	if err := t.enterOpen(at, fd, mode, &out.EntryOut); err != nil {
		unix.Close(fd)
		return err
	}
	h, err := t.handles.add(out.NodeId, fd, flags&^unix.O_TRUNC)
	if err != nil {
		t.inodes.forget(out.NodeId, 1)
		return err
	}
	out.Fh = h.id
	return nil
}

// enterOpen is enter for a file that is open as fd, whatever its name leads to
// by now.
func (t *tree) enterOpen(at place, fd int, mode uint32, out *fuse.EntryOut) error {
	if err := t.inodes.reserve(); err != nil {
		return err
	}
	path, err := t.links.open(fd, unix.O_PATH)
	if err == nil {
		var f found
		if f, err = look(path); err == nil {
			return t.tell(at, path, f, out, mode)
		}
		unix.Close(path)
	}
	t.inodes.unreserve()
	return err
}

func (t *tree) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	flags, err := t.openFlags(in.Flags)
	if err != nil {
		return status(err)
	}
	dir, err := t.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(dir)
	fd := -1
	err = t.creator.as(in.Uid, in.Gid, func() (err error) {
		how := unix.OpenHow{
			Flags:   uint64(flags&^unix.O_TRUNC | unix.O_TMPFILE | in.Flags&unix.O_EXCL | unix.O_CLOEXEC),
			Mode:    uint64(in.Mode & 0o7777),
			Resolve: unix.RESOLVE_BENEATH,
		}
		fd, err = open(dir.fd, ".", how)
		return err
	})
	if err != nil {
		return status(err)
	}
	return status(t.created(place{}, fd, flags, in.Mode, out))
}

func (t *tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { t.handles.release(in.Fh) }

// read is READ: from the file into the guest's own pages. It says how much of to
// was filled, which is less than all only at the end of the file: Linux's client
// takes a short answer for the file's size (fs/fuse/file.c, fuse_short_read), and
// a program that is mapped from there then dies of SIGBUS. So a host's file system
// that gives less at a time, or is interrupted by the Go runtime's signals, is
// asked until it says 0.
func (t *tree) read(id, at uint64, to [][]byte) (int, error) {
	h, err := t.handles.get(id)
	if err != nil {
		return 0, err
	}
	defer t.handles.put(h)
	done, total := 0, length(to)
	for done < total {
		if at > maxOffset-uint64(done) {
			return done, unix.EINVAL
		}
		part := tail(to, done)
		n, err := t.preadv(h.fd, part[:min(len(part), maxIOV)], int64(at)+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, nil
		default:
			done += n
		}
	}
	return done, nil
}

// Writev writes from the guest's own pages.
func (t *tree) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	h, err := t.handles.get(in.Fh)
	if err != nil {
		return 0, status(err)
	}
	defer t.handles.put(h)
	n, err := writeAll(h.fd, data, in.Offset, writeFlags(in))
	if n == 0 && err != nil {
		return 0, status(err)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := dropPrivileges(h.fd); err != nil {
			return 0, status(err)
		}
	}
	return uint32(n), fuse.OK
}

// writeFlags is how the guest's file wants this written. A page that comes out
// of the guest's cache is not the doing of whoever opened the file.
func writeFlags(in *fuse.WriteIn) int {
	flags := 0
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		return flags
	}
	if in.Flags&unix.O_APPEND != 0 {
		flags |= unix.RWF_APPEND
	}
	switch {
	case in.Flags&unix.O_SYNC == unix.O_SYNC: // which has O_DSYNC's bit
		flags |= unix.RWF_SYNC
	case in.Flags&unix.O_DSYNC != 0:
		flags |= unix.RWF_DSYNC
	}
	return flags
}

// writeAll writes all of data, which is at most maxIO bytes, and says how much
// was written before an error.
func writeAll(fd int, data [][]byte, at uint64, flags int) (int, error) {
	if at > maxOffset {
		return 0, unix.EFBIG
	}
	written, total := 0, length(data)
	for written < total {
		part := tail(data, written)
		n, err := unix.Pwritev2(fd, part[:min(len(part), maxIOV)], int64(at)+int64(written), flags)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return written, err
		}
		written += n
	}
	return written, nil
}

func (t *tree) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL // the client does the others
	}
	return t.withHandle(in.Fh, func(h *handle) error {
		at, err := unix.Seek(h.fd, int64(in.Offset), int(in.Whence)) // nothing here uses the position of a file
		out.Offset = uint64(at)
		return err
	})
}

func (t *tree) withHandle(id uint64, do func(*handle) error) fuse.Status {
	h, err := t.handles.get(id)
	if err != nil {
		return status(err)
	}
	defer t.handles.put(h)
	return status(do(h))
}

func (t *tree) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	const served = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if in.Mode&^uint32(served) != 0 {
		return fuse.Status(unix.EOPNOTSUPP)
	}
	return t.withHandle(in.Fh, func(h *handle) error {
		return unix.Fallocate(h.fd, in.Mode, int64(in.Offset), int64(in.Length))
	})
}

func (t *tree) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	if in.Flags != 0 || in.OffIn > maxOffset || in.OffOut > maxOffset {
		return 0, fuse.EINVAL
	}
	copied := 0
	s := t.withHandle(in.FhIn, func(from *handle) error {
		return failure(t.withHandle(in.FhOut, func(to *handle) (err error) {
			read, write := int64(in.OffIn), int64(in.OffOut)
			copied, err = unix.CopyFileRange(from.fd, &read, to.fd, &write, int(min(in.Len, maxCopy)), 0)
			return err
		}))
	})
	return uint32(max(copied, 0)), s
}

func (t *tree) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return t.withHandle(in.Fh, func(h *handle) error {
		const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
		if in.FsyncFlags&dataOnly != 0 {
			return unix.Fdatasync(h.fd)
		}
		return unix.Fsync(h.fd)
	})
}

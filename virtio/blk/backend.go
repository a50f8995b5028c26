package blk

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// disk is a raw file or a block device of the host.
type disk struct {
	path   string
	fd     int
	direct int // the same with O_DIRECT, or -1
	device bool

	readOnly bool

	sectors  uint64
	cut      int64 // bytes at its end that are no whole block
	block    int   // bytes: the unit that it likes to be addressed in
	physical int   // bytes: the unit in which it works
	optimal  int   // bytes, or 0 if it does not say

	mustWait atomic.Bool // its file system knows no RWF_NOWAIT
}

// nothing is what a device has that waits for a disk: no sectors, and no requests that succeed.
var nothing = &disk{path: "none", fd: -1, direct: -1, block: sectorSize, physical: 4096}

// openDisk opens, locks and measures the disk at path.
func openDisk(path string, readOnly, direct bool) (*disk, error) {
	mode := unix.O_RDWR
	if readOnly {
		mode = unix.O_RDONLY
	}
	// O_NONBLOCK: a FIFO would have us wait for its other end.
	fd, err := unix.Open(path, mode|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	return newDisk(path, fd, readOnly, direct)
}

// newDisk locks and measures what fd is, and takes it over.
func newDisk(path string, fd int, readOnly, direct bool) (*disk, error) {
	mode := unix.O_RDWR
	if readOnly {
		mode = unix.O_RDONLY
	}
	d := &disk{path: path, fd: fd, direct: -1, readOnly: readOnly}
	for _, step := range []func() error{
		d.classify,
		func() error { return d.lock(readOnly) },
		func() error { return d.bypass(direct, mode) },
		d.measure,
	} {
		if err := step(); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("disk %s: no such file; make one with: truncate -s 1G %s", path, path)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		return fmt.Errorf("disk %s: open it for writing: %w; give it as read-only, or change who may write it", path, err)
	case errors.Is(err, unix.EISDIR):
		return errKind(path, "a directory")
	}
	return fmt.Errorf("disk %s: open: %w", path, err)
}

func errKind(path, what string) error {
	return fmt.Errorf("disk %s: it is %s; give a raw file or a block device", path, what)
}

func (d *disk) classify() error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return fmt.Errorf("disk %s: stat: %w", d.path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		d.device = true
	case unix.S_IFDIR:
		return errKind(d.path, "a directory")
	default:
		return errKind(d.path, "neither file nor disk")
	}
	return nil
}

// lock keeps the disk from machines that would write what another one reads.
// The lock belongs to the open file, like QEMU's, which it excludes too.
func (d *disk) lock(readOnly bool) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if readOnly {
		l.Type = unix.F_RDLCK
	}
	err := unix.FcntlFlock(uintptr(d.fd), unix.F_OFD_SETLK, &l)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return fmt.Errorf("disk %s: locked by another machine, or given twice to this one; end that one, or give the disk as read-only to both", d.path)
	}
	return fmt.Errorf("disk %s: lock: %w", d.path, err)
}

// bypass opens the disk once more, for io past the page cache.
func (d *disk) bypass(direct bool, mode int) error {
	if !direct {
		return nil
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", d.fd), mode|unix.O_CLOEXEC|unix.O_DIRECT, 0)
	if err != nil {
		return fmt.Errorf("disk %s: open with O_DIRECT: %w; its file system may not have that, so leave direct out", d.path, err)
	}
	d.direct = fd
	return nil
}

// measure finds the disk's size and its units.
func (d *disk) measure() error {
	size, err := unix.Seek(d.fd, 0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("disk %s: find its size: %w", d.path, err)
	}
	d.block, d.physical = sectorSize, 4096
	if d.device {
		if size, err = d.ask(unix.BLKGETSIZE64, "size"); err != nil {
			return err
		}
		if err := d.askUnits(); err != nil {
			return err
		}
	}
	if d.direct >= 0 {
		d.block = max(d.block, d.directUnit())
	}
	d.physical = max(d.physical, d.block)
	if size < int64(d.block) {
		return fmt.Errorf("disk %s: %d bytes, shorter than a sector of %d; make it larger with: truncate -s 1G %s", d.path, size, d.block, d.path)
	}
	d.cut = size % int64(d.block)
	d.sectors = uint64(size-d.cut) / sectorSize
	return nil
}

// askUnits asks a block device; what it says beyond its sector is advice.
func (d *disk) askUnits() error {
	block, err := d.ask(unix.BLKSSZGET, "sector size")
	if err != nil {
		return err
	}
	d.block = int(block)
	if n, err := d.ask(unix.BLKPBSZGET, ""); err == nil && n >= block && n <= 1<<20 && n&(n-1) == 0 {
		d.physical = int(n)
	}
	if n, err := d.ask(unix.BLKIOOPT, ""); err == nil && n <= 1<<30 {
		d.optimal = int(n)
	}
	return nil
}

func (d *disk) ask(request uint, what string) (int64, error) {
	n, err := unix.IoctlGetInt(d.fd, request)
	if err != nil {
		return 0, fmt.Errorf("disk %s: ask for its %s: %w", d.path, what, err)
	}
	return int64(n), nil
}

// directUnit is the alignment that O_DIRECT wants, which older kernels do not tell.
func (d *disk) directUnit() int {
	var st unix.Statx_t
	err := unix.Statx(d.direct, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &st)
	if n := int(st.Dio_offset_align); err == nil && st.Mask&unix.STATX_DIOALIGN != 0 && n >= sectorSize && n <= 4096 {
		return n
	}
	return sectorSize
}

func (d *disk) close() error {
	if d == nothing {
		return nil
	}
	if d.direct >= 0 {
		unix.Close(d.direct)
	}
	return unix.Close(d.fd)
}

// errWouldWait says that a request is one for the pool.
var errWouldWait = errors.New("blk: the disk would have to be waited for")

// readNow reads what the page cache holds. What it did not get stays for read.
func (d *disk) readNow(r *request) error {
	for r.done < r.n {
		n, err := preadv2(d.fd, r.gather(r.chain.WriteSegments()), r.at+int64(r.done), unix.RWF_NOWAIT)
		switch {
		case err == unix.EOPNOTSUPP:
			d.mustWait.Store(true)
			return errWouldWait
		case err == unix.EAGAIN:
			return errWouldWait
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return errCut
		}
		r.done += max(n, 0)
	}
	return nil
}

// errCut is the end of a file that was longer when it was opened.
var errCut = errors.New("blk: the file has been cut short")

func (d *disk) read(r *request) error {
	return d.move(r, r.chain.WriteSegments(), preadv2, 0)
}

func (d *disk) write(r *request, durable bool) error {
	flags := 0
	if durable {
		flags = unix.RWF_DSYNC
	}
	return d.move(r, r.chain.ReadSegments(), pwritev2, flags)
}

type transfer func(fd int, v vector, at int64, flags int) (int, error)

// move goes on until all is done. Where O_DIRECT does not like an address or a
// length, the page cache takes that request; the kernel keeps both in step.
func (d *disk) move(r *request, segments [][]byte, do transfer, flags int) error {
	fd := d.fd
	if d.direct >= 0 {
		fd = d.direct
	}
	for r.done < r.n {
		n, err := do(fd, r.gather(segments), r.at+int64(r.done), flags)
		switch {
		case err == unix.EINTR:
		case err == unix.EINVAL && fd == d.direct:
			fd = d.fd
		case err != nil:
			return err
		case n == 0:
			return errCut
		}
		r.done += max(n, 0)
	}
	return nil
}

// gather is what is left of a request's data, for the kernel.
func (r *request) gather(segments [][]byte) vector {
	r.vector = r.vector[:0]
	skip, left := r.done, r.n-r.done
	for _, s := range segments {
		if skip >= len(s) {
			skip -= len(s)
			continue
		}
		s = s[skip:]
		skip = 0
		s = s[:min(left, len(s))]
		if left -= len(s); len(s) > 0 {
			r.vector = append(r.vector, unix.Iovec{Base: &s[0], Len: uint64(len(s))})
		}
		if left == 0 || len(r.vector) == maxVector {
			break
		}
	}
	return r.vector
}

const maxVector = 1024 // UIO_MAXIOV

func (d *disk) flush() error {
	if err := unix.Fdatasync(d.fd); err != nil {
		return fmt.Errorf("fdatasync: %w", err)
	}
	return nil
}

// spread discards the extents of r, or makes them zeroes.
func (d *disk) spread(r *request, durable bool) error {
	for _, e := range r.extents {
		if e.n == 0 {
			continue
		}
		var err error
		if r.kind == kindDiscard {
			err = d.discard(e)
		} else {
			err = d.zero(e)
		}
		if err != nil {
			return err
		}
	}
	if durable {
		return d.flush()
	}
	return nil
}

// discard drops what is there. It is advice (§5.2.6.2), so a disk that cannot
// do it has done it.
func (d *disk) discard(e extent) error {
	var err error
	if d.device {
		err = discardBlocks(d.fd, e)
	} else {
		err = d.allocate(unix.FALLOC_FL_PUNCH_HOLE, e)
	}
	if err == nil || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return fmt.Errorf("discard: %w", err)
}

var zeroes [64 << 10]byte

// zero makes e read as zeroes, and gives the space back if the driver allows that.
func (d *disk) zero(e extent) error {
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE)
	if e.unmap {
		mode = unix.FALLOC_FL_PUNCH_HOLE
	}
	err := d.allocate(mode, e)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("write zeroes: %w", err)
	}
	for e.n > 0 {
		n, err := unix.Pwrite(d.fd, zeroes[:min(e.n, int64(len(zeroes)))], e.at)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("write zeroes: %w", err)
		}
		e.at, e.n = e.at+int64(max(n, 0)), e.n-int64(max(n, 0))
	}
	return nil
}

// allocate is fallocate(2), which the runtime's own signals can interrupt.
func (d *disk) allocate(mode uint32, e extent) error {
	for {
		if err := unix.Fallocate(d.fd, mode|unix.FALLOC_FL_KEEP_SIZE, e.at, e.n); err != unix.EINTR {
			return err
		}
	}
}

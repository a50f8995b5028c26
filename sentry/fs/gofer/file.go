package gofer

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// file is a regular file. All its open files share one descriptor of the host's,
// for they give an offset with each transfer; it is opened for writing as well when the
// first writer comes.
type file struct {
	inode
	opening sync.Mutex // held while the gofer opens it

	temp, linkable bool // O_TMPFILE; set before anybody else sees it
}

// hostFD is a descriptor of the host's with its users: the inode that keeps it,
// and open files.
type hostFD struct {
	fd       int
	writable bool
	refs     atomic.Int32
	reads    atomic.Int32 // up to oftenRead
	dirty    atomic.Bool  // written, and not synced
	mapped   sync.Once
	host     atomic.Pointer[memory.HostFile] // if it was ever mapped
	before   *hostFD                         // a mapped one that this one replaced; it hears of truncations
}

func newHostFD(fd int, writable bool) *hostFD {
	h := &hostFD{fd: fd, writable: writable}
	h.refs.Store(1)
	return h
}

func (h *hostFD) drop() {
	if h.refs.Add(-1) > 0 {
		return
	}
	if m := h.host.Load(); m != nil {
		m.Close()
	}
	if h.before != nil {
		h.before.drop()
	}
	unix.Close(h.fd)
}

// mappable is the file as memory.
func (h *hostFD) mappable(a *memory.Arena) *memory.HostFile {
	h.mapped.Do(func() { h.host.Store(memory.NewHostFile(a, h.fd, h.writable, nil)) })
	return h.host.Load()
}

// mapping is the file as a mapping holds it: with its descriptor, which is the
// memory room's only from the first touch on.
type mapping struct {
	*memory.HostFile
	file *file
	fd   *hostFD
}

// Ref implements memory.Mappable.
func (m *mapping) Ref() {
	m.fd.refs.Add(1)
	m.HostFile.Ref()
}

// Unref implements memory.Mappable.
func (m *mapping) Unref() {
	m.HostFile.Unref()
	m.file.done(m.fd)
}

// use is the descriptor that h keeps, held for the caller, or nil.
func (h *handle) use(write bool) *hostFD {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd == nil || write && !h.fd.writable {
		return nil
	}
	h.fd.refs.Add(1)
	return h.fd
}

// keep replaces the descriptor by fd and holds that for the caller.
func (h *handle) keep(fd *hostFD) *hostFD {
	fd.refs.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.fd; old != nil && old.host.Load() != nil {
		fd.before = old
	} else if old != nil {
		old.drop()
	}
	h.fd = fd
	return fd
}

// release closes the descriptor unless an open file uses it.
func (h *handle) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd != nil && h.fd.refs.Load() == 1 {
		h.fd.drop()
		h.fd = nil
	}
}

// size is that of the file, if it can be asked for cheaply.
func (h *handle) size() int64 {
	fd := h.use(false)
	if fd == nil {
		return 0
	}
	defer fd.drop()
	var s unix.Stat_t
	unix.Fstat(fd.fd, &s)
	return s.Size
}

// provide keeps fd, open for reading and writing.
func (f *file) provide(fd int) {
	f.done(f.h.keep(newHostFD(fd, true)))
}

// done drops what descriptor gave. On an exclusive attachment it stays open for
// a while, for who opens the file again; on a shared one the host may want it closed.
func (f *file) done(fd *hostFD) {
	if fd.writable {
		f.Attr(nil) // what was written is known from now on, also without a descriptor
	}
	fd.drop()
	if fd.refs.Load() > 1 {
		return
	}
	if f.fs.exclusive() {
		f.fs.idle.add(f.h)
	} else {
		f.h.release()
	}
}

// descriptor is one of the host's that serves for reading, and for writing if
// asked; the caller is done with it.
func (f *file) descriptor(write bool) (*hostFD, error) {
	if fd := f.h.use(write); fd != nil {
		return fd, nil
	}
	f.opening.Lock()
	defer f.opening.Unlock()
	if fd := f.h.use(write); fd != nil {
		return fd, nil
	}
	q := wire.Request{Op: wire.Open, Flags: unix.O_RDONLY}
	if write {
		q.Flags = unix.O_RDWR
	}
	r, err := f.call(q)
	if err == unix.EMFILE { // ours is as likely to be full as the gofer's
		f.fs.idle.empty()
		r, err = f.call(q)
	}
	if err != nil {
		return nil, err
	}
	f.learn(&r.Attr)
	return f.h.keep(newHostFD(r.FD, write)), nil
}

// Attr implements vfs.Inode. While a descriptor is there to write by, what
// changes the file may pass us by: the host is asked, which costs no request.
func (f *file) Attr(vfs.Context) (vfs.Attr, error) {
	fd := f.h.use(false)
	if fd == nil {
		a, err := f.attributes()
		return f.show(&a), err
	}
	defer fd.drop()
	if !fd.writable && f.fs.exclusive() {
		if a, ok := f.cached(); ok {
			return f.show(&a), nil
		}
	}
	var s unix.Stat_t
	if err := unix.Fstat(fd.fd, &s); err != nil {
		return vfs.Attr{}, err
	}
	a := wire.Attr{
		Ino: s.Ino, Dev: s.Dev, Rdev: s.Rdev, Size: uint64(s.Size), Blocks: uint64(s.Blocks),
		Mode: s.Mode, Nlink: uint32(s.Nlink), BlockSize: uint32(s.Blksize),
		Atime: wireTime(s.Atim), Mtime: wireTime(s.Mtim), Ctime: wireTime(s.Ctim),
	}
	if !f.own(&a) {
		r, err := f.call(wire.Request{Op: wire.GetAttr})
		switch err {
		case nil:
			f.learn(&r.Attr)
			return f.show(&r.Attr), nil
		case unix.ESTALE: // nobody knows better any more
		default:
			return vfs.Attr{}, err
		}
	}
	return f.show(&a), nil
}

// own completes a, which fstat(2) has given here and now: with what that does not tell, and
// with the owner. In the Sentry's user namespace the host's are not mapped: it sees all
// but one of them as overflowuid (user_namespaces(7)). It reports whether the owner is certainly
// the one that the gofer has told, for nobody else changes it or nothing has changed since.
func (f *file) own(a *wire.Attr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a.UID, a.GID, a.Btime = f.attr.UID, f.attr.GID, f.attr.Btime
	if !f.fs.exclusive() && a.Ctime != f.attr.Ctime {
		return false
	}
	f.attr, f.asked = *a, time.Now()
	return true
}

// fixedSize is the file's size as long as nobody can change it: neither the host, nor
// anybody here, who would have had fd replaced by one for writing.
func (f *file) fixedSize(fd *hostFD) (int64, bool) {
	if !f.fs.exclusive() {
		return 0, false
	}
	f.h.mu.Lock()
	same := f.h.fd == fd
	f.h.mu.Unlock()
	if !same {
		return 0, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(f.attr.Size), !f.asked.IsZero()
}

// SetAttr implements vfs.Inode. A size is set by a descriptor, which whoever
// truncates is about to write by.
func (f *file) SetAttr(ctx vfs.Context, s vfs.SetAttr) error {
	if s.Mask&vfs.SetSize == 0 {
		return f.inode.SetAttr(ctx, s)
	}
	stamp := s.Mask&vfs.SetMtime != 0
	if err := f.resize(ctx, s.Size, stamp); err != nil {
		return err
	}
	if s.Mask &^= vfs.SetSize | vfs.SetMtime; s.Mask == 0 {
		return nil
	}
	return f.inode.SetAttr(ctx, s)
}

// resize truncates. The host's ftruncate(2) stamps always, by its own clock;
// whether truncate(2) to the size that there is does is the host's file system's affair.
func (f *file) resize(ctx vfs.Context, size int64, stamp bool) error {
	if !stamp {
		a, err := f.Attr(ctx)
		if err != nil {
			return err
		}
		if a.Size == size {
			return f.inode.SetAttr(ctx, vfs.SetAttr{Mask: vfs.SetSize, Size: size})
		}
	}
	return f.truncate(size)
}

func (f *file) truncate(size int64) error {
	fd, err := f.descriptor(true)
	if err != nil {
		return err
	}
	defer f.done(fd)
	if err := unix.Ftruncate(fd.fd, size); err != nil {
		return err
	}
	fd.dirty.Store(true)
	f.truncated(uint64(size))
	return nil
}

// truncated tells mappings that pages behind size are gone.
func (f *file) truncated(size uint64) {
	if fd := f.h.use(false); fd != nil {
		defer fd.drop()
		for g := fd; g != nil; g = g.before {
			if m := g.host.Load(); m != nil {
				m.Truncated(size)
			}
		}
	}
}

// sync writes back what was written by us.
func (f *file) sync() error {
	fd := f.h.use(true)
	if fd == nil {
		return nil
	}
	defer fd.drop()
	if !fd.dirty.Swap(false) {
		return nil
	}
	return unix.Fdatasync(fd.fd)
}

// idleFDs bounds how many descriptors stay open for files that nobody has open.
type idleFDs struct {
	mu    sync.Mutex
	slots [256]*handle
	hand  int
}

// add has h keep its descriptor; the one that came 256 files ago gives its up.
func (l *idleFDs) add(h *handle) {
	l.mu.Lock()
	if l.slots[(l.hand+len(l.slots)-1)%len(l.slots)] == h {
		l.mu.Unlock()
		return // a file that is opened over and over
	}
	old := l.slots[l.hand]
	l.slots[l.hand] = h
	l.hand = (l.hand + 1) % len(l.slots)
	l.mu.Unlock()
	if old != nil && old != h {
		old.release()
	}
}

// empty closes what is idle.
func (l *idleFDs) empty() {
	l.mu.Lock()
	all := l.slots
	l.slots = [256]*handle{}
	l.mu.Unlock()
	for _, h := range all {
		if h != nil {
			h.release()
		}
	}
}

package vfs

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// largeFile is O_LARGEFILE, which x/sys has as 0 on amd64; the kernel sets it on
// every open there and F_GETFL shows it.
const largeFile = 0o100000

// Appender is a File that tells where its O_APPEND writes ended.
type Appender interface {
	Append(ctx Context, src memory.Buffers) (n int, end int64, err error)
}

// Pinner is an inode that wants to know of descriptors that did not Open it
// (O_PATH), since they may be opened through /proc/self/fd later.
type Pinner interface {
	Pin()
	Unpin()
}

// Owner is who gets SIGIO for a description (F_SETOWN_EX, F_SETSIG).
type Owner struct {
	Type   int // of F_SETOWN_EX: thread, process, process group
	PID    int32
	Signal int
	Target Target // nil: nobody
}

// Description is an open file description: what descriptors refer to.
type Description struct {
	file   File
	path   Path
	typ    uint32 // S_IFMT of the inode
	writes bool   // counted in writers
	placed bool   // has a position

	flags atomic.Int32
	refs  atomic.Int64

	posMu sync.Mutex
	pos   int64

	mu    sync.Mutex
	owner Owner
	hooks []*func()

	asyncMu sync.Mutex // before Queue.mu, which comes before mu
	async   *Waiter    // for O_ASYNC
	urgent  *Waiter    // for SIGURG
}

// NewDescription makes a description with one reference. flags are open(2)'s.
func NewDescription(f File, p Path, flags int) *Description {
	var typ uint32
	if p.Dentry.dir != nil {
		typ = unix.S_IFDIR
	} else if a, err := p.Inode().Attr(SentryContext()); err == nil {
		typ = a.Type()
	}
	return newDescription(f, p, flags, typ)
}

func newDescription(f File, p Path, flags int, typ uint32) *Description {
	d := &Description{file: f, path: p, typ: typ}
	flags &^= unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_CLOEXEC
	if flags&unix.O_PATH == 0 && (!p.Dentry.anon || typ == unix.S_IFREG) {
		flags |= largeFile
	}
	d.flags.Store(int32(flags))
	d.refs.Store(1)
	_, stream := f.(Stream)
	_, seeks := f.(Seeker)
	d.placed = !stream && (seeks || typ == unix.S_IFREG || typ == unix.S_IFDIR)
	p.Mount.files.Add(1)
	if p.Mount.marked.Load() {
		p.Mount.marked.Store(false)
	}
	p.Mount.super.take()
	return d
}

// pathFile is the file of an O_PATH descriptor: nothing can be done with it.
type pathFile struct{ NoFile }

func newPathDescription(p Path, flags int) *Description {
	if pin, ok := p.Inode().(Pinner); ok {
		pin.Pin()
	}
	return NewDescription(pathFile{}, p, flags)
}

// Ref takes another reference.
func (d *Description) Ref() { d.refs.Add(1) }

// tryRef takes a reference unless the last one has gone.
func (d *Description) tryRef() bool {
	for {
		n := d.refs.Load()
		if n <= 0 {
			return false
		}
		if d.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Unref drops a reference; the last one releases the file.
func (d *Description) Unref() {
	switch n := d.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("vfs: description released twice")
	}
	d.mu.Lock()
	hooks := d.hooks
	d.hooks = nil
	d.mu.Unlock()
	d.endAsync()
	d.endUrgent()
	for _, h := range hooks {
		(*h)()
	}
	releaseLocks(d, d.path.Inode())
	d.file.Release()
	i := d.path.Inode()
	if d.Flags()&unix.O_PATH != 0 {
		if pin, ok := i.(Pinner); ok {
			pin.Unpin()
		}
	} else {
		if d.writes {
			dropWrite(i)
			d.path.Mount.writes.Add(-1)
			d.path.Mount.super.writes.Add(-1)
		}
		event := uint32(unix.IN_CLOSE_NOWRITE)
		if d.Writable() {
			event = unix.IN_CLOSE_WRITE
		}
		tellAt(d.path, event)
	}
	d.path.Mount.files.Add(-1)
	d.path.Mount.super.drop()
}

// OnRelease has f called when the last reference goes, unless cancelled.
func (d *Description) OnRelease(f func()) (cancel func()) {
	h := &f
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hooks = append(d.hooks, h)
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.hooks = slices.DeleteFunc(d.hooks, func(x *func()) bool { return x == h })
	}
}

// File does what the description does.
func (d *Description) File() File { return d.file }

// Path is the name that d was opened by.
func (d *Description) Path() Path { return d.path }

// Inode is what d is open on.
func (d *Description) Inode() Inode { return d.path.Inode() }

// Flags are what F_GETFL tells.
func (d *Description) Flags() int { return int(d.flags.Load()) }

// Readable reports whether d was opened for reading.
func (d *Description) Readable() bool {
	m := d.Flags() & (unix.O_ACCMODE | unix.O_PATH)
	return m == unix.O_RDONLY || m == unix.O_RDWR
}

// Writable reports whether d was opened for writing.
func (d *Description) Writable() bool {
	m := d.Flags() & (unix.O_ACCMODE | unix.O_PATH)
	return m == unix.O_WRONLY || m == unix.O_RDWR
}

// NonBlocking is O_NONBLOCK.
func (d *Description) NonBlocking() bool { return d.Flags()&unix.O_NONBLOCK != 0 }

// SetFlags is F_SETFL.
func (d *Description) SetFlags(ctx Context, flags int) error {
	const settable = unix.O_APPEND | unix.O_NONBLOCK | unix.O_ASYNC | unix.O_DIRECT | unix.O_NOATIME
	old := d.Flags()
	if old&unix.O_PATH != 0 {
		return unix.EBADF
	}
	if flags&^old&unix.O_NOATIME != 0 {
		a, err := d.Inode().Attr(ctx)
		if err != nil {
			return err
		}
		if !owns(ctx.Creds(), &a) {
			return unix.EPERM
		}
	}
	if flags&unix.O_DIRECT != 0 && old&unix.O_DIRECTORY != 0 {
		return unix.EINVAL
	}
	now := old&^settable | flags&settable
	d.flags.Store(int32(now))
	if s, ok := d.file.(FlagSetter); ok && now != old {
		s.SetFlags(now)
	}
	return nil
}

// Owner is who gets SIGIO.
func (d *Description) Owner() Owner {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.owner
}

// SetOwner says who gets SIGIO.
func (d *Description) SetOwner(o Owner) {
	d.mu.Lock()
	d.owner = o
	d.mu.Unlock()
	if o.Target != nil {
		d.hearUrgent()
	}
}

// OwnUnlessOwned sets who gets SIGIO if nobody does.
func (d *Description) OwnUnlessOwned(o Owner) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owner.Target == nil {
		o.Signal = d.owner.Signal
		d.owner = o
	}
}

// Ready says which of mask hold now.
func (d *Description) Ready(mask Events) Events {
	if mask&(EventRdNorm|EventWrNorm) == 0 {
		return d.file.Ready(mask)
	}
	got := d.file.Ready(mask | ordinary(mask))
	return (got | normal(got)) & (mask | EventErr | EventHup)
}

// Queue is where changes of Ready are told.
func (d *Description) Queue() *Queue { return d.file.Queue() }

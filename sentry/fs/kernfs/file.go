package kernfs

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

type buffers = memory.Buffers

// File is a file whose contents are written down when it is read from its
// beginning (fs/seq_file.c), and handed over as a whole when it is written.
type File struct {
	Node
	Read  func(ctx vfs.Context) ([]byte, error)
	Write func(ctx vfs.Context, b []byte) error // nil: EACCES on open, EINVAL later
	// WriteBy, if set, is Write for who needs to know who opened the file.
	WriteBy func(ctx vfs.Context, opener *vfs.Creds, b []byte) error
	// Watch, if set, is a queue and a number that changes: a poll sees POLLERR and
	// POLLPRI once after each change.
	Watch func() (*vfs.Queue, func() uint64)
	// OnOpen may refuse.
	OnOpen func(ctx vfs.Context, flags int) error
	// At, if set, reads at a position instead: /proc/PID/mem.
	At func(ctx vfs.Context, dst buffers, off int64) (int, error)
	// WriteAt, if set, writes there.
	WriteAt func(ctx vfs.Context, src buffers, off int64) (int, error)
}

// NewFile makes a readable file.
func (fs *FileSystem) NewFile(perm uint32, read func(ctx vfs.Context) ([]byte, error)) *File {
	return &File{Node: fs.NewNode(unix.S_IFREG | perm), Read: read}
}

// Text makes a file whose contents do not change.
func (fs *FileSystem) Text(s string) *File {
	return fs.NewFile(0o444, func(vfs.Context) ([]byte, error) { return []byte(s), nil })
}

// Open starts to read.
func (f *File) Open(ctx vfs.Context, _ vfs.Path, flags int) (vfs.File, error) {
	if flags&unix.O_ACCMODE != unix.O_RDONLY && f.Write == nil && f.WriteAt == nil {
		return nil, unix.EACCES
	}
	if f.OnOpen != nil {
		if err := f.OnOpen(ctx, flags); err != nil {
			return nil, err
		}
	}
	o := &openFile{f: f, opener: ctx.Creds()}
	if f.Watch != nil {
		if q, number := f.Watch(); q != nil {
			return &watchedFile{openFile: o, queue: q, number: number, seen: number()}, nil
		}
	}
	return o, nil
}

// SetAttr lets a file that can be written be truncated, for a shell's ">".
func (f *File) SetAttr(ctx vfs.Context, set vfs.SetAttr) error {
	if set.Mask&(vfs.SetMode|vfs.SetUID|vfs.SetGID) == 0 && set.Mask&vfs.SetSize != 0 && f.Write != nil {
		return nil
	}
	return f.Node.SetAttr(ctx, set)
}

type openFile struct {
	vfs.NoFile
	f      *File
	opener *vfs.Creds

	mu   sync.Mutex
	have bool
	text []byte
}

// maxWrite bounds what one write hands over.
const maxWrite = 64 << 10

func (o *openFile) Read(ctx vfs.Context, dst buffers, off int64) (int, error) {
	if o.f.At != nil {
		return o.f.At(ctx, dst, off)
	}
	if o.f.Read == nil {
		return 0, unix.EINVAL
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if off == 0 || !o.have {
		text, err := o.f.Read(ctx)
		if err != nil {
			return 0, err
		}
		o.text, o.have = text, true
	}
	if off >= int64(len(o.text)) {
		return 0, nil
	}
	return dst.CopyOut(o.text[off:]), nil
}

func (o *openFile) Write(ctx vfs.Context, src buffers, off int64) (int, error) {
	if o.f.WriteAt != nil {
		return o.f.WriteAt(ctx, src, off)
	}
	if o.f.Write == nil {
		return 0, unix.EINVAL
	}
	b := make([]byte, min(src.Len(), maxWrite))
	b = b[:src.CopyIn(b)]
	if o.f.WriteBy != nil {
		if err := o.f.WriteBy(ctx, o.opener, b); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	if err := o.f.Write(ctx, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// watchedFile is an openFile that changes are told of (fs/proc_namespace.c, mounts_poll).
type watchedFile struct {
	*openFile
	queue  *vfs.Queue
	number func() uint64

	seenMu sync.Mutex
	seen   uint64
}

func (w *watchedFile) Queue() *vfs.Queue { return w.queue }

func (w *watchedFile) Ready(mask vfs.Events) vfs.Events {
	r := mask & (vfs.EventIn | vfs.EventOut)
	w.seenMu.Lock()
	defer w.seenMu.Unlock()
	if n := w.number(); n != w.seen {
		w.seen = n
		r |= vfs.EventErr | mask&vfs.EventPri
	}
	return r
}

// Link is a symlink with a computed target.
type Link struct {
	Node
	Target func(ctx vfs.Context) (string, error)
}

// NewLink makes a symlink.
func (fs *FileSystem) NewLink(target func(ctx vfs.Context) (string, error)) *Link {
	return &Link{fs.NewNode(unix.S_IFLNK | 0o777), target}
}

// TextLink makes a symlink whose target does not change.
func (fs *FileSystem) TextLink(target string) *Link {
	return fs.NewLink(func(vfs.Context) (string, error) { return target, nil })
}

func (l *Link) Readlink(ctx vfs.Context) (string, error) { return l.Target(ctx) }

func (l *Link) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ELOOP }

// MagicLink leads to an object; its target is only what the object is called.
type MagicLink struct {
	Link
	To func(ctx vfs.Context) (vfs.Path, error)
}

// NewMagicLink makes one.
func (fs *FileSystem) NewMagicLink(perm uint32, target func(ctx vfs.Context) (string, error), to func(ctx vfs.Context) (vfs.Path, error)) *MagicLink {
	return &MagicLink{Link{fs.NewNode(unix.S_IFLNK | perm), target}, to}
}

func (l *MagicLink) Jump(ctx vfs.Context) (vfs.Path, error) { return l.To(ctx) }

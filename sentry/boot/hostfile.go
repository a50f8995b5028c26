package boot

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// hostFile is a descriptor of the host's that the container got: its standard
// streams, or one that --preserve-fds handed in. The host's file flags are not
// touched, since others share them; so a stream is asked before every transfer
// and moves no more than is sure not to wait.
type hostFile struct {
	vfs.NoFile
	fd      int
	stat    unix.Stat_t
	watch   *watcher
	queue   vfs.Queue
	watched bool
	uid     uint32 // the owner that is shown
}

// pipeSure is what a pipe that is ready takes without waiting (PIPE_BUF).
const pipeSure = 4096

// newHostFile takes over fd. It is shown as uid's: whom it belongs to on the host, a Sentry in
// a user namespace cannot know, and a program opens its own standard streams by name (an engine's
// log at /dev/stdout), for which other runtimes give them to its user.
func newHostFile(fd int, w *watcher, uid uint32) (*hostFile, error) {
	f := &hostFile{fd: fd, watch: w, uid: uid}
	if err := unix.Fstat(fd, &f.stat); err != nil {
		return nil, err
	}
	if f.isNull() {
		f.uid = 0
	}
	if !f.seekable() {
		f.watched = w.add(fd, &f.queue)
	}
	return f, nil
}

func (f *hostFile) isNull() bool {
	return f.stat.Mode&unix.S_IFMT == unix.S_IFCHR && f.stat.Rdev == unix.Mkdev(1, 3)
}

func (f *hostFile) seekable() bool {
	t := f.stat.Mode & unix.S_IFMT
	return t == unix.S_IFREG || t == unix.S_IFBLK
}

// name is what /proc/self/fd shows.
func (f *hostFile) name() string {
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFIFO:
		return "pipe:[" + itoa(f.stat.Ino) + "]"
	case unix.S_IFSOCK:
		return "socket:[" + itoa(f.stat.Ino) + "]"
	case unix.S_IFCHR:
		if f.isNull() {
			return "/dev/null"
		}
	}
	return "host:[" + itoa(f.stat.Ino) + "]"
}

// Attr is fstat(2) of the host's file, but for the owner.
func (f *hostFile) Attr() vfs.Attr {
	s := f.stat
	if f.seekable() {
		unix.Fstat(f.fd, &s)
	}
	return vfs.Attr{
		Dev: s.Dev, Ino: s.Ino, Mode: s.Mode, Nlink: uint32(s.Nlink), UID: f.uid, Rdev: s.Rdev, Size: s.Size,
		Blocks: s.Blocks, BlockSize: int32(s.Blksize), Atime: s.Atim, Mtime: s.Mtim, Ctime: s.Ctim,
	}
}

func (f *hostFile) poll(mask vfs.Events) vfs.Events {
	p := []unix.PollFd{{Fd: int32(f.fd), Events: int16(mask)}}
	for {
		if _, err := unix.Poll(p, 0); err != unix.EINTR {
			return vfs.Events(uint16(p[0].Revents))
		}
	}
}

// Ready, Queue: what poll(2) says on the host.
func (f *hostFile) Ready(mask vfs.Events) vfs.Events { return f.poll(mask) }

func (f *hostFile) Queue() *vfs.Queue {
	if !f.watched {
		return nil
	}
	f.watch.start()
	return &f.queue
}

// Read moves what is there. A regular file is read at the host's own position:
// it is shared with whoever opened it.
func (f *hostFile) Read(_ vfs.Context, dst memory.Buffers, off int64) (int, error) {
	if !f.seekable() && f.watched && f.poll(vfs.EventIn)&(vfs.EventIn|vfs.EventHup|vfs.EventErr) == 0 {
		return 0, unix.EAGAIN
	}
	n, err := unix.Readv(f.fd, dst)
	return max(n, 0), again(err)
}

// Write moves what there is room for. It ends short of that only where poll(2) says
// so: the watcher hears of changes, and of a pipe that was not full Linux tells none
// when it is read (fs/pipe.c, pipe_read).
func (f *hostFile) Write(_ vfs.Context, src memory.Buffers, off int64) (int, error) {
	if f.seekable() || !f.watched {
		n, err := unix.Writev(f.fd, src)
		return max(n, 0), again(err)
	}
	done := 0
	for {
		if f.poll(vfs.EventOut)&(vfs.EventOut|vfs.EventErr|vfs.EventHup) == 0 {
			if done > 0 {
				return done, nil
			}
			return 0, unix.EAGAIN
		}
		n, err := unix.Writev(f.fd, src.Skip(done).Take(pipeSure))
		done += max(n, 0)
		if err != nil && done == 0 {
			return 0, again(err)
		}
		if err != nil || n <= 0 || done == src.Len() {
			return done, nil
		}
	}
}

func again(err error) error {
	if err == unix.EINTR {
		return unix.EAGAIN
	}
	return err
}

// Seek moves the host's position.
func (f *hostFile) Seek(_ vfs.Context, _, offset int64, whence int) (int64, error) {
	return unix.Seek(f.fd, offset, whence)
}

// Ioctl knows what a pipe or socket of the host's has to read.
func (f *hostFile) Ioctl(ctx vfs.Context, cmd uint32, arg uint64) (uintptr, error) {
	if cmd != unix.TIOCINQ || ctx.Memory() == nil {
		return 0, unix.ENOTTY
	}
	n, err := unix.IoctlGetInt(f.fd, unix.TIOCINQ)
	if err != nil {
		return 0, err
	}
	return 0, ctx.Memory().StoreUint32(memory.Addr(arg), uint32(n))
}

func (f *hostFile) Release() {
	if f.watched {
		f.watch.remove(f.fd, &f.queue)
	}
	unix.Close(f.fd)
}

// stream is a hostFile without positions.
type stream struct{ *hostFile }

func (stream) Stream()                                            {}
func (stream) Seek(vfs.Context, int64, int64, int) (int64, error) { return 0, unix.ESPIPE }

// description makes it an open file.
func (f *hostFile) description() *vfs.Description {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		flags = unix.O_RDWR
	}
	flags &= unix.O_ACCMODE | unix.O_APPEND
	if f.seekable() {
		return vfs.NewAnonymousOn(attrOf{f}, f, f.name(), flags)
	}
	return vfs.NewAnonymousOn(attrOf{f}, stream{f}, f.name(), flags)
}

// attrOf is the inode behind a host file.
type attrOf struct{ f *hostFile }

func (a attrOf) Attr(vfs.Context) (vfs.Attr, error)     { return a.f.Attr(), nil }
func (a attrOf) SetAttr(vfs.Context, vfs.SetAttr) error { return unix.EPERM }

// Open makes a file of its own of the same stream: /dev/stdout, /proc/self/fd/1.
// A host's regular file keeps its position, which another open would not.
func (a attrOf) Open(vfs.Context, vfs.Path, int) (vfs.File, error) {
	fd, err := unix.FcntlInt(uintptr(a.f.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	f, err := newHostFile(fd, a.f.watch, a.f.uid)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	if f.seekable() {
		return f, nil
	}
	return stream{f}, nil
}

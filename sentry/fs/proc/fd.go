package proc

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

// addFDs adds fd and fdinfo. fs/proc/fd.c.
func (fs *FileSystem) addFDs(d *taskDir) {
	s := d.subject
	for _, dir := range []struct {
		name string
		typ  uint8
		make func(fd int, f *vfs.Description) vfs.Inode
	}{
		{"fd", unix.DT_LNK, func(fd int, f *vfs.Description) vfs.Inode { return fs.fdLink(s, fd, f) }},
		{"fdinfo", unix.DT_REG, func(fd int, _ *vfs.Description) vfs.Inode { return fs.fdInfo(s, fd) }},
	} {
		n := fs.NewDir(0o500)
		if dir.name == "fdinfo" {
			n = fs.NewDir(0o555)
		} else {
			n.Size = s.countFDs
		}
		n.Owner = s.owner
		n.Check = func(ctx vfs.Context, want vfs.Access) error {
			if t, ok := caller(ctx); ok && t.Group() == s.g {
				return nil
			}
			if err := mayTrace(ctx, s); err != nil {
				return err
			}
			uid, gid := s.owner()
			return kernfs.Allowed(ctx.Creds(), unix.S_IFDIR|0o500, uid, gid, want)
		}
		n.Find = func(_ vfs.Context, name string) (vfs.Inode, error) {
			fd, f, err := s.descriptor(name)
			if err != nil {
				return nil, err
			}
			defer f.Unref()
			return dir.make(fd, f), nil
		}
		n.List = func(vfs.Context) ([]kernfs.Entry, error) {
			t := s.fds()
			if t == nil {
				return nil, nil
			}
			var out []kernfs.Entry
			for _, fd := range t.FDs() {
				out = append(out, kernfs.Entry{Name: itoa(fd), Ino: fs.fdIno(s, dir.typ, fd), Type: dir.typ, Key: int64(fd)})
			}
			return out, nil
		}
		d.Add(dir.name, n)
	}
}

// countFDs is what stat(2) says of the size of /proc/PID/fd.
func (s subject) countFDs() int64 {
	if t := s.fds(); t != nil {
		return int64(len(t.FDs()))
	}
	return 0
}

// linkSize is what stat(2) says of links whose text is made when it is read.
func linkSize() int64 { return 64 }

// fdIno is a number that stays, for inodes that are made at each look.
func (fs *FileSystem) fdIno(s subject, typ uint8, fd int) uint64 {
	return fs.Hash(s.t.ID().Global(), s.whole, typ, fd)
}

// descriptor finds one by its name, with a reference.
func (s subject) descriptor(name string) (int, *vfs.Description, error) {
	fd, err := strconv.Atoi(name)
	if err != nil || strconv.Itoa(fd) != name {
		return 0, nil, unix.ENOENT
	}
	f, err := s.get(fd)
	return fd, f, err
}

func (s subject) get(fd int) (*vfs.Description, error) {
	t := s.fds()
	if t == nil {
		return nil, unix.ENOENT
	}
	f, err := t.Get(fd)
	if err != nil {
		return nil, unix.ENOENT
	}
	return f, nil
}

// fdLink leads to what a descriptor is open on; its permissions show how.
func (fs *FileSystem) fdLink(s subject, fd int, f *vfs.Description) vfs.Inode {
	perm := uint32(0)
	if f.Readable() {
		perm |= 0o500
	}
	if f.Writable() {
		perm |= 0o300
	}
	to := func(ctx vfs.Context) (vfs.Path, error) {
		f, err := s.get(fd)
		if err != nil {
			return vfs.Path{}, err
		}
		defer f.Unref()
		return f.Path(), nil
	}
	l := fs.NewMagicLink(perm, func(ctx vfs.Context) (string, error) {
		p, err := to(ctx)
		if err != nil {
			return "", err
		}
		return vfs.Name(rootOf(ctx), p), nil
	}, to)
	l.Size = linkSize
	l.SetIno(fs.fdIno(s, unix.DT_LNK, fd))
	l.Owner = s.owner
	return l
}

func (fs *FileSystem) fdInfo(s subject, fd int) vfs.Inode {
	n := fs.NewFile(0o444, func(vfs.Context) ([]byte, error) {
		f, err := s.get(fd)
		if err != nil {
			return nil, err
		}
		defer f.Unref()
		return fs.describe(s, fd, f), nil
	})
	n.OnOpen = func(ctx vfs.Context, _ int) error { return mayTrace(ctx, s) }
	n.SetIno(fs.fdIno(s, unix.DT_REG, fd))
	n.Owner = s.owner
	return n
}

// describe is what fdinfo says, with the lines that some files add.
func (fs *FileSystem) describe(s subject, fd int, f *vfs.Description) []byte {
	flags := f.Flags()
	if on, err := s.fds().Cloexec(fd); err == nil && on {
		flags |= unix.O_CLOEXEC
	}
	ino := uint64(0)
	if a, err := f.Inode().Attr(vfs.SentryContext()); err == nil {
		ino = a.Ino
	}
	b := fmt.Appendf(nil, "pos:\t%d\nflags:\t0%o\nmnt_id:\t%d\nino:\t%d\n", f.Pos(), flags, f.Path().Mount.ID(), ino)
	switch x := f.File().(type) {
	case interface { // eventfd
		Count() uint64
		Semaphore() bool
	}:
		semaphore := 0
		if x.Semaphore() {
			semaphore = 1
		}
		b = fmt.Appendf(b, "eventfd-count: %16x\neventfd-id: %d\neventfd-semaphore: %d\n", x.Count(), ino, semaphore)
	case interface { // timerfd
		State() (clock int, ticks uint64, flags int)
		Left() (left, interval time.Duration)
	}:
		clock, ticks, flags := x.State()
		left, interval := x.Left()
		b = fmt.Appendf(b, "clockid: %d\nticks: %d\nsettime flags: 0%o\nit_value: (%d, %d)\nit_interval: (%d, %d)\n", clock, ticks, flags,
			left/time.Second, left%time.Second, interval/time.Second, interval%time.Second)
	case interface{ Mask() kernel.SigSet }: // signalfd
		b = fmt.Appendf(b, "sigmask:\t%016x\n", uint64(x.Mask()))
	case interface{ PID() *kernel.PID }: // pidfd
		b = fmt.Appendf(b, "Pid:\t%d\nNSpid:\t%s\n", x.PID().In(fs.pids()), numbers(x.PID(), fs.pids()))
	case interface {
		Watched() map[int]unix.EpollEvent
	}:
		watched := x.Watched()
		var fds []int
		for fd := range watched {
			fds = append(fds, fd)
		}
		slices.Sort(fds)
		for _, fd := range fds {
			e := watched[fd]
			data := uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
			b = fmt.Appendf(b, "tfd: %8d events: %8x data: %16x \n", fd, e.Events, data)
		}
	}
	return b
}

package gofer

import (
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/vfs"
)

// link is a symlink. Where it leads never changes.
type link struct {
	inode
	target string
}

// Readlink implements vfs.Symlink.
func (l *link) Readlink(vfs.Context) (string, error) { return l.target, nil }

// Open implements vfs.Inode; vfs does not open symlinks.
func (*link) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ELOOP }

// special is a FIFO, a socket or a device, of which the host has the name alone.
type special struct{ inode }

// Open implements vfs.Inode: who opens a device that the Sentry does not have comes here.
func (*special) Open(vfs.Context, vfs.Path, int) (vfs.File, error) { return nil, unix.ENXIO }

// ConnectHost connects to a socket of the host's, if the attachment allows it.
// kind is SOCK_STREAM and so on; the descriptor does not block and is the caller's.
func (s *special) ConnectHost(kind int) (int, error) {
	if s.kind != unix.S_IFSOCK || s.fs.flags&wire.Sockets == 0 {
		return -1, unix.ECONNREFUSED
	}
	r, err := s.call(wire.Request{Op: wire.Connect, Flags: uint32(kind)})
	return r.FD, err
}

// GetXattr implements vfs.Xattrs. Most files have none, and are asked for the
// same few over and over (security.capability by each exec).
func (i *inode) GetXattr(_ vfs.Context, name string) ([]byte, error) {
	if !served(name) {
		return nil, unix.ENODATA
	}
	if i.fs.exclusive() {
		names, err := i.xattrNames()
		if err != nil {
			return nil, err
		}
		if _, ok := names[name]; !ok {
			return nil, unix.ENODATA
		}
	}
	r, err := i.call(wire.Request{Op: wire.GetXattr, Xattr: name})
	if name == fileCaps && err == nil {
		return i.fs.shownCaps(r.Data), nil
	}
	return r.Data, err
}

// served says that an attribute means something in here. The others in security.*
// are those of the host's modules: ls asks for SELinux's of each file.
func served(name string) bool {
	return strings.HasPrefix(name, "user.") || name == fileCaps
}

func (i *inode) xattrNames() (map[string]struct{}, error) {
	i.mu.Lock()
	names := i.xattrs
	i.mu.Unlock()
	if names != nil && i.fs.exclusive() {
		return names, nil
	}
	r, err := i.call(wire.Request{Op: wire.ListXattr})
	if err == unix.EOPNOTSUPP {
		err = nil // a file system without them
	}
	if err != nil {
		return nil, err
	}
	names = map[string]struct{}{}
	for n := range strings.SplitSeq(string(r.Data), "\x00") {
		if served(n) {
			names[n] = struct{}{}
		}
	}
	i.mu.Lock()
	i.xattrs = names
	i.mu.Unlock()
	return names, nil
}

// ListXattr implements vfs.Xattrs.
func (i *inode) ListXattr(vfs.Context) ([]string, error) {
	names, err := i.xattrNames()
	list := make([]string, 0, len(names))
	for n := range names {
		list = append(list, n)
	}
	return list, err
}

// SetXattr implements vfs.Xattrs.
func (i *inode) SetXattr(_ vfs.Context, name string, value []byte, flags int) error {
	if name == fileCaps {
		var err error
		if value, err = i.fs.keptCaps(value); err != nil {
			return err
		}
	}
	_, err := i.call(wire.Request{Op: wire.SetXattr, Xattr: name, Data: value, Flags: uint32(flags)})
	i.forgetXattrs()
	return err
}

// RemoveXattr implements vfs.Xattrs.
func (i *inode) RemoveXattr(_ vfs.Context, name string) error {
	_, err := i.call(wire.Request{Op: wire.RemoveXattr, Xattr: name})
	i.forgetXattrs()
	return err
}

func (i *inode) forgetXattrs() {
	i.mu.Lock()
	i.xattrs = nil
	i.staleLocked() // ctime
	i.mu.Unlock()
}

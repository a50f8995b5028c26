package fs

import (
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attributes translates what statx(2) said.
func (t *tree) attributes(f *found, out *fuse.Attr) {
	s := &f.stat
	*out = fuse.Attr{
		Ino: t.number(f), Size: s.Size, Blocks: s.Blocks, Blksize: s.Blksize,
		Mode: uint32(s.Mode), Nlink: s.Nlink, Owner: fuse.Owner{Uid: s.Uid, Gid: s.Gid},
		Atime: uint64(s.Atime.Sec), Atimensec: s.Atime.Nsec,
		Mtime: uint64(s.Mtime.Sec), Mtimensec: s.Mtime.Nsec,
		Ctime: uint64(s.Ctime.Sec), Ctimensec: s.Ctime.Nsec,
		Rdev: uint32(unix.Mkdev(s.Rdev_major, s.Rdev_minor)),
	}
}

// number is the inode number that the guest shows. Its one file system may be
// several of the host's, mounted beneath the shared directory, whose numbers
// must not meet, or tar takes two files for one.
func (t *tree) number(f *found) uint64 {
	if f.dev == t.inodes.root.dev {
		return f.ino
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	device, ok := t.devices[f.dev]
	if !ok {
		device = uint64(len(t.devices) + 1)
		t.devices[f.dev] = device
	}
	return f.ino ^ device<<48
}

func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, err := t.inodes.get(in.NodeId)
	if err == unix.ESTALE && in.Flags()&fuse.FUSE_GETATTR_FH != 0 {
		return t.attributesOfHandle(in.Fh(), out) // a file that the host replaced while it was open
	}
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(n)
	return t.report(n.fd, out)
}

func (t *tree) attributesOfHandle(id uint64, out *fuse.AttrOut) fuse.Status {
	h, err := t.handles.get(id)
	if err != nil {
		return status(err)
	}
	defer t.handles.put(h)
	return t.report(h.fd, out)
}

func (t *tree) report(fd int, out *fuse.AttrOut) fuse.Status {
	f, err := look(fd)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(t.ttl)
	t.attributes(&f, &out.Attr)
	return fuse.OK
}

// SetAttr makes its changes in the order in which a failure leaves the least
// behind that the guest would not have been allowed: owner, which clears
// set-user-ID, then mode, size and times.
func (t *tree) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, err := t.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(n)
	for _, step := range []func(*inode, *fuse.SetAttrIn) error{t.setOwner, t.setMode, t.setSize, t.setTimes} {
		if err := step(n, in); err != nil {
			return status(err)
		}
	}
	return t.report(n.fd, out)
}

func (t *tree) setOwner(n *inode, in *fuse.SetAttrIn) error {
	uid, setUID := in.GetUID()
	gid, setGID := in.GetGID()
	if !setUID && !setGID {
		return nil
	}
	own := func(id uint32, set bool) int {
		if !set {
			return -1
		}
		return int(id)
	}
	return unix.Fchownat(n.fd, "", own(uid, setUID), own(gid, setGID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

func (t *tree) setMode(n *inode, in *fuse.SetAttrIn) error {
	mode, ok := in.GetMode()
	if !ok {
		return nil
	}
	if n.kind == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	return t.chmod(n.fd, mode)
}

func (t *tree) chmod(fd int, mode uint32) error {
	return unix.Fchmodat(int(t.links), strconv.Itoa(fd), mode&0o7777, 0)
}

func (t *tree) setSize(n *inode, in *fuse.SetAttrIn) error {
	size, ok := in.GetSize()
	switch {
	case !ok:
		return nil
	case n.kind != unix.S_IFREG:
		return unix.EINVAL
	case size > maxOffset:
		return unix.EFBIG
	}
	fd, done, err := t.writable(n, in)
	if err != nil {
		return err
	}
	defer done()
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return err
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		return dropPrivileges(fd)
	}
	return nil
}

// writable is a descriptor to truncate n by: that of the guest's open file, or
// one made for this.
func (t *tree) writable(n *inode, in *fuse.SetAttrIn) (fd int, done func(), err error) {
	if id, ok := in.GetFh(); ok {
		if h, err := t.handles.get(id); err == nil {
			return h.fd, func() { t.handles.put(h) }, nil
		}
	}
	fd, err = t.links.open(n.fd, unix.O_WRONLY)
	return fd, func() { unix.Close(fd) }, err
}

func (t *tree) setTimes(n *inode, in *fuse.SetAttrIn) error {
	const either = fuse.FATTR_ATIME | fuse.FATTR_MTIME
	if in.Valid&either == 0 {
		return nil
	}
	at := func(set, now uint32, sec uint64, nsec uint32) unix.Timespec {
		switch {
		case in.Valid&set == 0:
			return unix.Timespec{Nsec: unix.UTIME_OMIT}
		case in.Valid&now != 0:
			return unix.Timespec{Nsec: unix.UTIME_NOW}
		}
		return unix.Timespec{Sec: int64(sec), Nsec: int64(min(nsec, 999_999_999))}
	}
	times := []unix.Timespec{
		at(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
		at(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
	}
	return unix.UtimesNanoAt(n.fd, "", times, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

// dropPrivileges clears set-user-ID, and set-group-ID of what a group may run,
// after a change by a user without CAP_FSETID in the guest. The host does so by
// itself only for users without that capability here.
func dropPrivileges(fd int) error {
	f, err := look(fd)
	if err != nil {
		return err
	}
	mode := uint32(f.stat.Mode) & 0o7777
	clean := mode &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		clean &^= unix.S_ISGID
	}
	if clean == mode {
		return nil
	}
	return unix.Fchmod(fd, clean)
}

// A stamp is how a file looked when the guest opened it.
type stamp struct {
	mtime, ctime unix.StatxTimestamp
	size         uint64
}

// calm says whether the guest may keep the pages that it has of n: nobody, here
// or there, changed the file since it was opened the last time. A file that
// changed just before that may change again within one tick of the host's clock
// and look the same, so such a look does not count.
func (t *tree) calm(n *inode, f *found) bool {
	const tick = 20 * time.Millisecond // twice the longest, with CONFIG_HZ=100
	looks := stamp{f.stat.Mtime, f.stat.Ctime, f.stat.Size}
	last := max(nanoseconds(looks.mtime), nanoseconds(looks.ctime))
	trusted := t.now().UnixNano()-last > int64(tick)

	t.inodes.mu.Lock()
	defer t.inodes.mu.Unlock()
	same := trusted && n.calm == looks
	n.calm = stamp{}
	if trusted {
		n.calm = looks
	}
	return same
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

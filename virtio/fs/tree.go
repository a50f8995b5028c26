package fs

import (
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// tree is the shared directory as go-fuse's dispatcher sees it. Requests that it
// does not define here never reach it (rules) or are the library's ENOSYS.
type tree struct {
	fuse.RawFileSystem
	readOnly bool
	ttl      time.Duration // how long the guest may believe a name and attributes
	now      func() time.Time
	preadv   func(fd int, to [][]byte, at int64) (int, error)

	links   links
	creator *creator
	inodes  *table
	handles *handles

	mu      sync.Mutex
	devices map[uint64]uint64 // host device → its number here, see number
}

// reset is what the guest's unmount, or a new mount, does.
func (t *tree) reset() {
	t.handles.clear()
	t.inodes.clear()
}

func (t *tree) Forget(id, count uint64) { t.inodes.forget(id, count) }

func (t *tree) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return t.within(in.NodeId, name, func(at place) error { return t.enter(at, out, 0) })
}

// within calls do with a checked name in a directory that is in use.
func (t *tree) within(id uint64, name string, do func(place) error) fuse.Status {
	if err := checkName(name); err != nil {
		return status(err)
	}
	dir, err := t.inodes.get(id)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(dir)
	return status(do(place{dir, name}))
}

// enter tells the guest of what stands at a place.
func (t *tree) enter(at place, out *fuse.EntryOut, wanted uint32) error {
	fd, f, err := t.inodes.openAt(at)
	if err != nil {
		return err
	}
	return t.tell(at, fd, f, out, wanted)
}

// tell tells the guest of the file that the counted descriptor fd is open to.
// wanted is the mode that the guest just made it with, or 0.
func (t *tree) tell(at place, fd int, f found, out *fuse.EntryOut, wanted uint32) error {
	if hidden := wanted & t.creator.umask &^ uint32(f.stat.Mode) & 0o777; hidden != 0 && f.kind() != unix.S_IFLNK {
		f.stat.Mode |= uint16(hidden)
		if err := t.chmod(fd, uint32(f.stat.Mode)); err != nil {
			unix.Close(fd)
			t.inodes.unreserve()
			return err
		}
	}
	n, err := t.inodes.add(at, fd, f)
	if err != nil {
		return err
	}
	t.entry(n.id, &f, out)
	return nil
}

func (t *tree) entry(id uint64, f *found, out *fuse.EntryOut) {
	out.NodeId = id // never given twice, so no Generation is needed
	out.SetEntryTimeout(t.ttl)
	out.SetAttrTimeout(t.ttl)
	t.attributes(f, &out.Attr)
}

func (t *tree) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	if err := checkNode(in.Mode, in.Rdev); err != nil {
		return status(err)
	}
	return t.make(&in.InHeader, name, in.Mode, out, func(at place) error {
		return unix.Mknodat(at.dir.fd, name, in.Mode, int(in.Rdev))
	})
}

// checkNode refuses devices: on the host they would open the host's. The one
// that opens nothing is overlayfs's whiteout.
func checkNode(mode, device uint32) error {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, 0:
		return nil
	case unix.S_IFCHR:
		if device == 0 {
			return nil
		}
	}
	return unix.EPERM
}

func (t *tree) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return t.make(&in.InHeader, name, in.Mode, out, func(at place) error {
		return unix.Mkdirat(at.dir.fd, name, in.Mode)
	})
}

func (t *tree) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return t.make(in, name, 0, out, func(at place) error { return unix.Symlinkat(target, at.dir.fd, name) })
}

// make makes a file as the guest's user and tells the guest of it.
func (t *tree) make(in *fuse.InHeader, name string, mode uint32, out *fuse.EntryOut, create func(place) error) fuse.Status {
	return t.within(in.NodeId, name, func(at place) error {
		if err := t.creator.as(in.Uid, in.Gid, func() error { return create(at) }); err != nil {
			return err
		}
		return t.enter(at, out, mode)
	})
}

func (t *tree) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	return t.within(in.NodeId, name, func(at place) error {
		n, err := t.inodes.get(in.Oldnodeid)
		if err != nil {
			return err
		}
		defer t.inodes.put(n)
		// The link in /proc leads to the inode itself, also where that is a symlink.
		err = unix.Linkat(int(t.links), strconv.Itoa(n.fd), at.dir.fd, name, unix.AT_SYMLINK_FOLLOW)
		if err != nil {
			return err
		}
		return t.enter(at, out, 0)
	})
}

func (t *tree) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return t.remove(in.NodeId, name, 0)
}

func (t *tree) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return t.remove(in.NodeId, name, unix.AT_REMOVEDIR)
}

func (t *tree) remove(id uint64, name string, flags int) fuse.Status {
	return t.within(id, name, func(at place) error {
		pinned := t.inodes.pin(at)
		err := unix.Unlinkat(at.dir.fd, name, flags)
		t.inodes.unpin(pinned, at, err == nil)
		return err
	})
}

func (t *tree) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	const served = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	if in.Flags&^uint32(served) != 0 {
		return fuse.EINVAL
	}
	return t.within(in.NodeId, name, func(from place) error {
		s := t.within(in.Newdir, newName, func(to place) error { return t.rename(from, to, in.Flags) })
		return failure(s)
	})
}

func (t *tree) rename(from, to place, flags uint32) error {
	exchange := flags&unix.RENAME_EXCHANGE != 0
	pinned := t.inodes.pin(to)
	err := unix.Renameat2(from.dir.fd, from.name, to.dir.fd, to.name, uint(flags))
	t.inodes.unpin(pinned, to, false)
	if err == nil {
		t.inodes.moved(from, to, exchange)
	}
	return err
}

func (t *tree) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n, err := t.inodes.get(in.NodeId)
	if err != nil {
		return nil, status(err)
	}
	defer t.inodes.put(n)
	if n.kind != unix.S_IFLNK {
		return nil, fuse.EINVAL
	}
	target := make([]byte, unix.PathMax)
	size, err := unix.Readlinkat(n.fd, "", target)
	if err != nil {
		return nil, status(err)
	}
	return target[:size], fuse.OK
}

func (t *tree) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n, err := t.inodes.get(in.NodeId)
	if err != nil {
		return status(err)
	}
	defer t.inodes.put(n)
	var s unix.Statfs_t
	if err := unix.Fstatfs(n.fd, &s); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
		Bsize: uint32(s.Bsize), Frsize: uint32(s.Frsize), NameLen: uint32(s.Namelen),
	}
	return fuse.OK
}

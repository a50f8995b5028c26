// Package fs is the file system device (virtio 1.3 §5.11): a directory of the
// host, shared with a guest that speaks FUSE to it, read-only or read-write.
//
// # Who does what
//
// github.com/hanwen/go-fuse takes requests apart and puts replies together. Its
// fuse.ProtocolServer needs no /dev/fuse: it takes a request and the room for the
// reply as slices, which are the guest's memory as the queue gives it, and hands
// a WRITE's data on by reference, for one pwritev2(2) out of the guest's pages. A
// socketpair on the library's /dev/fd mount point would copy all data twice.
// READ we serve ourselves, by one preadv(2) into the guest's pages, because the
// library would set aside a buffer for each (BenchmarkIO).
//
// Before the library sees a request it has passed a rule (request.go): everything
// but a WRITE's data is copied first, once, and lengths, names, and what a
// read-only share refuses are decided on the copy. Behind the library stands tree,
// which is ours: the library's loopback file system works by path, and a path can
// be made to lead out of the shared directory.
//
// # Containment
//
// A file is an O_PATH descriptor (inode.go). A name from the guest is one
// component, checked, and resolved by openat2(2) with RESOLVE_BENEATH and
// RESOLVE_NO_SYMLINKS in the directory that the guest means. No symlink is ever
// followed on the host, and only regular files and directories are opened. What
// the host itself mounts or bind-mounts beneath the directory is shared with it.
//
// The guest is root over the shared files: it may make set-user-ID programs and
// files of any owner (if the VMM may; see creator), which mean on the host what
// they say. Device nodes it may not make. So the directory should be closed to
// the host's other users, or lie on a file system mounted nosuid.
//
// # What a guest sees
//
// Names and attributes may be Options.Cache old (one second, if not said); data
// is the host's at every open, and later as soon as size or time of change tell
// (FUSE_AUTO_INVAL_DATA), for mmap too: the guest's pages are its page cache, not
// the host's, for there is no DAX window. Writes go through to the host at once.
// flock and fcntl locks hold among the processes of the guest; the host's know
// nothing of them. The access control is the guest's (default_permissions). A
// file that the host replaced is ESTALE, which Linux answers by looking again.
//
// # Snapshots
//
// Save keeps what the guest knows and has open, by place and inode number.
// Restore expects the same directory. A file that was open and has no name any
// more (unlinked), or that the host has replaced, is ESTALE after it.
//
// # Locks
//
//	session.mu
//	└ handle.mu
//	  └ inode.mu of a file
//	    └ inode.mu of its directory
//	      └ table.mu, handles.mu, tree.mu: nothing below
package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	tagSize     = 36 // bytes, §5.11.4
	hiprio      = 0  // the queue of FORGET and INTERRUPT, §5.11.2
	hiprioSize  = 128
	requestSize = 1024 // entries: 256 pages of data and some

	maxQueues = 64
	// maxInodes bounds the table that a guest can make us keep, at some 350 bytes
	// each. A guest needs half a gigabyte of memory to know so many.
	maxInodes = 1 << 19
)

// Options is what to share, and how.
type Options struct {
	Dir      string
	Tag      string // what the guest mounts: mount -t virtiofs TAG /mnt
	ReadOnly bool
	Queues   int           // of requests; 1 if 0
	Workers  int           // requests under way at one time; 32 if 0
	Cache    time.Duration // how long the guest may believe a name; 1 s if 0, nothing if negative
	// Descriptors is how many files of the host are open at one time at most, a
	// quarter of them for files that the guest has open. Half of RLIMIT_NOFILE
	// if 0.
	Descriptors int
	Log         *slog.Logger // slog.Default() if nil
}

// Device implements virtio.Runner, Configured, Resetter and Keeper.
type Device struct {
	*Front
	session *session
}

// New opens the directory. It reads /proc/self, and keeps a descriptor of it: a
// jail comes after it.
func New(o Options) (*Device, error) {
	o = o.defaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	t, err := newTree(o)
	if err != nil {
		return nil, err
	}
	d := &Device{session: newSession(t, o.Log)}
	d.Front = &Front{tag: o.Tag, queues: o.Queues, slots: make(chan struct{}, o.Workers), server: d}
	return d, nil
}

// Handle implements Server, for a Front in another process.
func (d *Device) Handle(in, out [][]byte) (int, error) { return d.session.handle(in, out) }

// Forget implements Server.
func (d *Device) Forget() { d.session.reset() }

func (o Options) defaults() Options {
	o.Queues = orElse(o.Queues, 1)
	o.Workers = orElse(o.Workers, 32)
	o.Cache = max(orElse(o.Cache, time.Second), 0)
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Descriptors == 0 {
		var limit unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) // fails for no reason that could occur; check sees 0
		o.Descriptors = int(min(limit.Cur/2, 1<<18))
	}
	return o
}

func orElse[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (o Options) check() error {
	switch {
	case o.Tag == "" || len(o.Tag) > tagSize:
		return fmt.Errorf("fs: share %s: tag %q has %d bytes; a tag has 1 to %d", o.Dir, o.Tag, len(o.Tag), tagSize)
	case o.Queues < 1 || o.Queues > maxQueues:
		return fmt.Errorf("fs: share %s: %d queues; 1 to %d can be had", o.Dir, o.Queues, maxQueues)
	case o.Workers < 1:
		return fmt.Errorf("fs: share %s: %d workers", o.Dir, o.Workers)
	case o.Descriptors < 128:
		return fmt.Errorf("fs: share %s: %d descriptors are too few to serve files; raise the limit of open files (ulimit -n) to 256 or more", o.Dir, o.Descriptors)
	}
	return nil
}

func newTree(o Options) (*tree, error) {
	root, err := unix.Open(o.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fs: share %s: %w", o.Dir, err)
	}
	t := &tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		readOnly:      o.ReadOnly,
		ttl:           o.Cache,
		now:           time.Now,
		preadv:        unix.Preadv,
		links:         -1,
		handles:       newHandles(o.Descriptors / 4),
		devices:       map[uint64]uint64{},
	}
	t.inodes, err = newTable(root, o.Descriptors*3/4, maxInodes)
	if err == nil {
		t.links, err = openLinks()
	}
	if err == nil {
		t.creator, err = newCreator()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fs: share %s: %w", o.Dir, err), unix.Close(root), closeIfOpen(int(t.links)))
	}
	return t, nil
}

func closeIfOpen(fd int) error {
	if fd < 0 {
		return nil
	}
	return unix.Close(fd)
}

// Close lets go of the host's files. The device has been stopped.
func (d *Device) Close() error {
	t := d.session.tree
	d.session.reset()
	err := errors.Join(closeIfOpen(t.inodes.root.fd), closeIfOpen(int(t.links)))
	t.inodes.root.fd, t.links = -1, -1
	return err
}

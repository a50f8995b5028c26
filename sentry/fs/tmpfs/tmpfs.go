// Package tmpfs is a file system in memory: /tmp, /dev/shm, the writable layer of
// an overlay, and memfd. Behaviour follows mm/shmem.c.
//
// Lock order: inode.mu of a directory before that of what is in it, of two
// directories in the order of their numbers; then the memory room's locks.
// Operations that take two have the vfs's directory locks, so that two of them
// never share a directory.
package tmpfs

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

const (
	pageSize = memory.PageSize
	// direntSize is what a name adds to its directory's size (BOGO_DIRENT_SIZE).
	direntSize = 20
	// shortSymlink is from what length on a symlink takes a page (SHORT_SYMLINK_LEN).
	shortSymlink = 128
	// maxXattrs bounds the attributes of one inode, in bytes; Linux charges them
	// to nr_inodes.
	maxXattrs = 1 << 20
)

// Options are mount options.
type Options struct {
	Size     uint64 // bytes; 0: no limit
	Inodes   uint64 // 0: no limit
	Mode     uint32 // of the root
	UID, GID uint32 // of the root
	// Type is the name in /proc/mounts; "" is "tmpfs".
	Type string

	showSize, showInodes bool // since they were asked for
}

// ParseOptions reads mount(2)'s data. total is what percentages of size mean.
func ParseOptions(data string, total uint64) (Options, error) {
	o := Options{Mode: 0o1777}
	for f := range strings.SplitSeq(data, ",") {
		key, value, _ := strings.Cut(f, "=")
		var err error
		switch key {
		case "size":
			o.Size, err = parseSize(value, total)
			o.Size, o.showSize = (o.Size+pageSize-1)&^(pageSize-1), true
		case "nr_blocks":
			o.Size, err = parseSize(value, 0)
			o.Size, o.showSize = o.Size*pageSize, true
		case "nr_inodes":
			o.Inodes, err = parseSize(value, 0)
			o.showInodes = true
		case "mode":
			o.Mode, err = parse32(value, 8)
			o.Mode &= 0o7777
		case "uid":
			o.UID, err = parse32(value, 10)
		case "gid":
			o.GID, err = parse32(value, 10)
		case "", "huge", "mpol", "inode32", "inode64", "noswap", "seclabel":
			// nothing to do here, and no harm in not doing it
		default:
			err = unix.EINVAL
		}
		if err != nil {
			return o, unix.EINVAL
		}
	}
	return o, nil
}

func parse32(s string, base int) (uint32, error) {
	n, err := strconv.ParseUint(s, base, 32)
	return uint32(n), err
}

// parseSize reads a number with k, m, g, t or % behind it.
func parseSize(s string, total uint64) (uint64, error) {
	if p, ok := strings.CutSuffix(s, "%"); ok && total != 0 {
		n, err := strconv.ParseUint(p, 10, 32)
		return total / 100 * n, err
	}
	shift := 0
	if s != "" {
		if i := strings.IndexByte("kmgt", s[len(s)-1]|0x20); i >= 0 {
			shift, s = 10*(i+1), s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(s, 0, 64)
	if err == nil && n > math.MaxInt64>>shift {
		err = unix.EINVAL
	}
	return n << shift, err
}

// Own says whose the root is: data's ids are the mounter's, who owns it where data
// has none.
func (o *Options) Own(ctx vfs.Context, data string) error {
	c := ctx.Creds()
	for _, id := range []struct {
		key  string
		at   *uint32
		mine uint32
		ids  *vfs.IDMap
	}{{"uid=", &o.UID, c.FSUID, c.User.UIDs()}, {"gid=", &o.GID, c.FSGID, c.User.GIDs()}} {
		if !strings.HasPrefix(data, id.key) && !strings.Contains(data, ","+id.key) {
			*id.at = id.mine
			continue
		}
		v, ok := id.ids.In(*id.at)
		if !ok {
			return unix.EINVAL
		}
		*id.at = v
	}
	return nil
}

// Default sets the limits that options did not: half of the memory total, and an
// inode for each page of it (mm/shmem.c, shmem_default_max_blocks).
func (o *Options) Default(total uint64) {
	if total == 0 {
		return
	}
	half := total / 2 &^ (pageSize - 1)
	if !o.showSize {
		o.Size = half
	}
	if !o.showInodes {
		o.Inodes = half / pageSize
	}
}

// FileSystem is one tmpfs.
type FileSystem struct {
	arena *memory.Arena
	opts  Options // as made
	typ   string
	dev   uint64
	root  *dir

	size      atomic.Int64 // limits; 0: none
	maxInodes atomic.Int64
	used      atomic.Int64 // bytes of file contents
	inodes    atomic.Int64
	lastIno   atomic.Uint64
}

// New makes an empty file system whose contents are in a.
func New(a *memory.Arena, o Options) *FileSystem {
	fs := &FileSystem{arena: a, opts: o, typ: o.Type, dev: vfs.NewDev()}
	if fs.typ == "" {
		fs.typ = "tmpfs"
	}
	fs.size.Store(int64(o.Size))
	fs.maxInodes.Store(int64(o.Inodes))
	fs.root = &dir{}
	fs.inodes.Add(1)
	fs.root.init(vfs.SentryContext(), fs, vfs.New{Mode: unix.S_IFDIR | o.Mode&0o7777, UID: o.UID, GID: o.GID})
	fs.root.parent = fs.root
	fs.root.attr.Nlink, fs.root.attr.Size = 2, 2*direntSize
	return fs
}

// Type is "tmpfs", unless Options say otherwise.
func (fs *FileSystem) Type() string { return fs.typ }

// ShowOptions is shmem_show_options.
func (fs *FileSystem) ShowOptions(ctx vfs.Context) string {
	if fs.typ == "ramfs" {
		return ""
	}
	var b strings.Builder
	if fs.opts.showSize {
		fmt.Fprintf(&b, ",size=%dk", fs.size.Load()>>10)
	}
	if fs.opts.showInodes {
		fmt.Fprintf(&b, ",nr_inodes=%d", fs.maxInodes.Load())
	}
	if fs.opts.Mode != 0o1777 {
		fmt.Fprintf(&b, ",mode=%03o", fs.opts.Mode)
	}
	user := ctx.Creds().User
	if fs.opts.UID != 0 {
		fmt.Fprintf(&b, ",uid=%d", user.ShowUID(fs.opts.UID))
	}
	if fs.opts.GID != 0 {
		fmt.Fprintf(&b, ",gid=%d", user.ShowGID(fs.opts.GID))
	}
	return strings.TrimPrefix(b.String(), ",")
}

// Handles implements vfs.Handled.
func (fs *FileSystem) Handles() {}

// Root is the top directory.
func (fs *FileSystem) Root() vfs.Inode { return fs.root }

// Sync has nothing to do.
func (fs *FileSystem) Sync(vfs.Context) error { return nil }

// Release frees the contents of all files that are not open.
func (fs *FileSystem) Release() { fs.root.releaseAll() }

// Remount changes the limits; they may not go below what is in use.
func (fs *FileSystem) Remount(_ vfs.Context, data string) error {
	o, err := ParseOptions(data, 0)
	if err != nil {
		return err
	}
	if o.Size != 0 && int64(o.Size) < fs.used.Load() || o.Inodes != 0 && int64(o.Inodes) < fs.inodes.Load() {
		return unix.EINVAL
	}
	if o.showSize {
		fs.size.Store(int64(o.Size))
		fs.opts.showSize = true
	}
	if o.showInodes {
		fs.opts.showInodes = true
		fs.maxInodes.Store(int64(o.Inodes))
	}
	return nil
}

// Statfs is statfs(2).
func (fs *FileSystem) Statfs(vfs.Context) (unix.Statfs_t, error) {
	st := unix.Statfs_t{Type: unix.TMPFS_MAGIC, Bsize: pageSize, Frsize: pageSize, Namelen: 255,
		Fsid: unix.Fsid{Val: [2]int32{int32(fs.dev)}}}
	if size := fs.size.Load(); size != 0 {
		st.Blocks = uint64(size) / pageSize
		st.Bfree = uint64(max(0, size-fs.used.Load())) / pageSize
		st.Bavail = st.Bfree
	}
	if n := fs.maxInodes.Load(); n != 0 {
		st.Files = uint64(n)
		st.Ffree = uint64(max(0, n-fs.inodes.Load()))
	}
	return st, nil
}

// takeInode counts one more inode.
func (fs *FileSystem) takeInode() error {
	if n, limit := fs.inodes.Add(1), fs.maxInodes.Load(); limit != 0 && n > limit {
		fs.inodes.Add(-1)
		return unix.ENOSPC
	}
	return nil
}

// Take and Give implement memory.Budget.
func (fs *FileSystem) Take(pages uint64) bool {
	n, limit := fs.used.Add(int64(pages)*pageSize), fs.size.Load()
	if limit != 0 && n > limit {
		fs.used.Add(-int64(pages) * pageSize)
		return false
	}
	return true
}

func (fs *FileSystem) Give(pages uint64) { fs.used.Add(-int64(pages) * pageSize) }

// room reports whether n more bytes of contents are allowed.
func (fs *FileSystem) room(n int64) bool {
	limit := fs.size.Load()
	return limit == 0 || fs.used.Load()+n <= limit
}

// Package tmpfs is a file system in memory: /tmp, /dev/shm, the writable layer of
// an overlay, and memfd. Behaviour follows mm/shmem.c.
//
// Lock order: inode.mu of a directory before that of what is in it, of two
// directories in the order of their numbers; then the memory room's locks.
// Operations that take two have the vfs's directory locks, so that two of them
// never share a directory.
package tmpfs

import (
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
			o.Size = (o.Size + pageSize - 1) &^ (pageSize - 1)
		case "nr_blocks":
			o.Size, err = parseSize(value, 0)
			o.Size *= pageSize
		case "nr_inodes":
			o.Inodes, err = parseSize(value, 0)
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

// FileSystem is one tmpfs.
type FileSystem struct {
	arena *memory.Arena
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
	fs := &FileSystem{arena: a, typ: o.Type, dev: vfs.NewDev()}
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
	if strings.Contains(data, "size=") || strings.Contains(data, "nr_blocks=") {
		fs.size.Store(int64(o.Size))
	}
	if strings.Contains(data, "nr_inodes=") {
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

// room reports whether n more bytes of contents are allowed.
func (fs *FileSystem) room(n int64) bool {
	limit := fs.size.Load()
	return limit == 0 || fs.used.Load()+n <= limit
}

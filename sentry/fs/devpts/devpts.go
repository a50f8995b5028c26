// Package devpts is the file system of pseudo-terminals: ptmx makes a pair, N is
// the slave end of pair N. Between the ends stands the line discipline N_TTY.
// Behaviour follows drivers/tty/{n_tty,tty_io,tty_ioctl,tty_jobctrl,pty}.c and
// fs/devpts/inode.c.
//
// Lock order: FileSystem.mu, Terminal.mu, then the kernel room's locks and
// vfs.Queue.mu.
package devpts

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Device numbers (Documentation/admin-guide/devices.txt). A slave N is 136:N,
// 137:N-256 and so on.
const (
	slaveMajor = 136
	slaveMinor = 256 // a major
)

var ptmxDev = unix.Mkdev(5, 2)

// Options are the mount options of devpts.
type Options struct {
	UID, GID *uint32 // of slaves; nil: the opener's
	Mode     uint32  // of slaves
	PtmxMode uint32
	Max      int
}

// ParseOptions reads mount(2)'s data.
func ParseOptions(data string) (Options, error) {
	o := Options{Mode: 0o600, PtmxMode: 0, Max: 1 << 20}
	for f := range strings.SplitSeq(data, ",") {
		key, value, _ := strings.Cut(f, "=")
		base := 10
		if key == "mode" || key == "ptmxmode" {
			base = 8
		}
		n, err := strconv.ParseUint(value, base, 32)
		v := uint32(n)
		switch key {
		case "", "newinstance":
			continue
		case "uid":
			o.UID = &v
		case "gid":
			o.GID = &v
		case "mode":
			o.Mode = v & 0o7777
		case "ptmxmode":
			o.PtmxMode = v & 0o7777
		case "max":
			o.Max = int(v)
		default:
			return o, unix.EINVAL
		}
		if err != nil {
			return o, unix.EINVAL
		}
	}
	return o, nil
}

// String is what /proc/mounts shows.
func (o Options) String() string {
	var b strings.Builder
	if o.UID != nil {
		fmt.Fprintf(&b, ",uid=%d", *o.UID)
	}
	if o.GID != nil {
		fmt.Fprintf(&b, ",gid=%d", *o.GID)
	}
	fmt.Fprintf(&b, ",mode=%03o,ptmxmode=%03o", o.Mode, o.PtmxMode)
	return b.String()[1:]
}

// FileSystem is one instance of devpts.
type FileSystem struct {
	opts Options
	dev  uint64
	root *rootDir
	ptmx *ptmx

	mu    sync.Mutex
	terms map[int]*Terminal // by index, until both ends are closed
}

// New makes an instance without terminals.
func New(opts Options, now unix.Timespec) *FileSystem {
	fs := &FileSystem{opts: opts, dev: vfs.NewDev(), terms: map[int]*Terminal{}}
	fs.root = &rootDir{meta{fs: fs, ino: 1, mode: unix.S_IFDIR | 0o755, times: now}}
	fs.ptmx = &ptmx{meta{fs: fs, ino: 2, mode: unix.S_IFCHR | opts.PtmxMode, rdev: ptmxDev, times: now}}
	return fs
}

// OwnDevices says that all devices here are made by the file system: they open
// whoever mounted it.
func (fs *FileSystem) OwnDevices() {}

// ShowOptions is what /proc/mounts shows.
func (fs *FileSystem) ShowOptions(vfs.Context) string { return fs.opts.String() }

func (fs *FileSystem) Type() string           { return "devpts" }
func (fs *FileSystem) Root() vfs.Inode        { return fs.root }
func (fs *FileSystem) Sync(vfs.Context) error { return nil }
func (fs *FileSystem) Release()               {}

func (fs *FileSystem) Statfs(vfs.Context) (unix.Statfs_t, error) {
	return unix.Statfs_t{Type: unix.DEVPTS_SUPER_MAGIC, Bsize: 4096, Frsize: 4096, Namelen: 255}, nil
}

// add finds the lowest free index for t.
func (fs *FileSystem) add(t *Terminal) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range fs.opts.Max {
		if fs.terms[i] == nil {
			t.index = i
			fs.terms[i] = t
			return nil
		}
	}
	return unix.ENOSPC
}

func (fs *FileSystem) remove(t *Terminal) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.terms, t.index)
}

// slaves are the terminals whose names exist.
func (fs *FileSystem) slaves() []*Terminal {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var ts []*Terminal
	for _, t := range fs.terms {
		if !t.closed.Load() {
			ts = append(ts, t)
		}
	}
	return ts
}

func (fs *FileSystem) find(name string) *Terminal {
	i, err := strconv.Atoi(name)
	if err != nil || strconv.Itoa(i) != name {
		return nil
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if t := fs.terms[i]; t != nil && !t.closed.Load() {
		return t
	}
	return nil
}

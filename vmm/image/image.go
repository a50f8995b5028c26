// Package image is a process that makes a disk of a directory: a container's root, for a
// machine that is to have it by virtio-blk. It is started by the runtime, and becomes the
// program that knows the file system: mkfs.erofs (erofs-utils) or mke2fs (e2fsprogs).
//
// The directory may be hostile, and change meanwhile. Those programs go by names, so
// before the first of them is read the process leaves the host: its root has the host's
// programs and libraries, read-only, the directory, and the disk; nothing else can be
// named, whatever a symbolic link says. It keeps the right to read all files, and no
// other. What it is to do it reads from agent.ConfigFD; what kept it from that it says on
// standard error.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/jail"
	"bulkhead/runtime/agent"
)

// exitFailed is the process's, whose reason is on standard error.
const exitFailed = 125

// Main is the process. It ends as the program that it becomes does.
func Main([]string) int {
	var r agent.ImageRequest
	err := json.NewDecoder(os.NewFile(agent.ConfigFD, "config")).Decode(&r)
	if err == nil {
		err = run(&r)
	}
	fmt.Fprintln(os.Stderr, err)
	return exitFailed
}

func run(r *agent.ImageRequest) error {
	runtime.LockOSThread() // what is given up below is the thread's that becomes the program
	if err := bound(); err != nil {
		return err
	}
	to, err := makeFile(r.Where)
	if err != nil {
		return fmt.Errorf("a file in %s: %w", r.Where, err)
	}
	if err := leaveHost(r, to); err != nil {
		return fmt.Errorf("leave the host: %w", err)
	}
	m, ok := makers[r.Type]
	if !ok {
		return fmt.Errorf("file system %q is none of erofs, ext4", r.Type)
	}
	program, err := m.find()
	if err != nil {
		return err
	}
	c := &census{}
	if r.Source != "" {
		if c, err = count(top + "/root"); err != nil {
			return err
		}
	}
	args, err := m.plan(r, c)
	if err != nil {
		return err
	}
	// No file of configuration, no locale: the same everywhere.
	return fmt.Errorf("%s: %w", program, unix.Exec(program, append([]string{m.program}, args...), []string{"PATH=/usr/sbin:/sbin", "MKE2FS_CONFIG=/none"}))
}

// bound is for trees that are made to be too much.
func bound() error {
	for _, l := range []struct {
		what  int
		bytes uint64
	}{
		{unix.RLIMIT_AS, 8 << 30},
		{unix.RLIMIT_STACK, 64 << 20}, // a frame of some KiB for each directory in which another is, of 2,000 at most
		{unix.RLIMIT_CORE, 0},
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(l.what, &now); err != nil {
			return err
		}
		most := min(l.bytes, now.Max) // not everybody may raise it
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return err
		}
	}
	return nil
}

// Where things are in the process's own root.
const (
	top  = "/top" // becomes the image's root; the source is root in there
	disk = "/disk"
)

// maker is a program that makes a file system on disk, and how it is called.
type maker struct {
	program, pkg string
	plan         func(*agent.ImageRequest, *census) ([]string, error)
}

var makers = map[string]maker{
	"erofs": {"mkfs.erofs", "erofs-utils", planEROFS},
	"ext4":  {"mke2fs", "e2fsprogs", planExt4},
}

// makeFile makes the disk and sends it to the runtime. It is ours to make, since a mount of
// another mount namespace cannot be copied. It has a name until its mount is in its place, for
// one without cannot be moved there; who is killed before that leaves an empty file.
func makeFile(dir string) (*os.File, error) {
	const name = "bulkhead-image."
	left, _ := filepath.Glob(filepath.Join(dir, name+"*"))
	for _, path := range left {
		if info, err := os.Lstat(path); err == nil && time.Since(info.ModTime()) > time.Minute {
			os.Remove(path)
		}
	}
	f, err := os.CreateTemp(dir, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(agent.FirstFD)
	if err := unix.Sendmsg(agent.FirstFD, []byte{0}, unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL); err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

func (m *maker) find() (string, error) {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"} {
		if path := filepath.Join(dir, m.program); unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not on this host (apt-get install %s)", m.program, m.pkg)
}

// census is what there is in a tree.
type census struct {
	files, bytes, blocks int64 // bytes: as long as files are; blocks: what they take, in bytes
	largest              string
	most                 int64  // the largest's bytes
	long                 string // a name that mkfs.erofs 1.5 does not take whole
}

// mostFiles bounds the memory that a tree takes to be looked at.
const mostFiles = 4 << 20

func count(dir string) (*census, error) {
	c := &census{}
	links := map[[2]uint64]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return short(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return nil // it is gone meanwhile
			}
			return short(&fs.PathError{Op: "lstat", Path: path, Err: err})
		}
		if c.files++; c.files > mostFiles {
			return fmt.Errorf("it has more than %d files", mostFiles)
		}
		if len(e.Name()) == unix.NAME_MAX {
			c.long = e.Name()
		}
		if st.Nlink > 1 && !e.IsDir() {
			if links[[2]uint64{st.Dev, st.Ino}] {
				return nil
			}
			links[[2]uint64{st.Dev, st.Ino}] = true
		}
		const block = 4096
		// A directory is of another size in each file system; its names are what counts.
		c.blocks += max(st.Blocks*512, block)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			c.bytes += (st.Size + block - 1) / block * block
			if c.bytes < 0 || st.Size > 1<<60 {
				return fmt.Errorf("%.64q alone is of %d bytes", e.Name(), st.Size)
			}
			if st.Size > c.most {
				c.largest, c.most = e.Name(), st.Size
			}
		} else {
			c.bytes += block
		}
		return nil
	})
	return c, err
}

// short is a failure without the path of thousands of bytes that it may be about.
func short(err error) error {
	var of *fs.PathError
	if errors.As(err, &of) && len(of.Path) > 256 {
		return fmt.Errorf("%s …%s: %w", of.Op, strconv.QuoteToASCII(of.Path[len(of.Path)-64:]), of.Err)
	}
	return err
}

// free is how much the disk can take at most.
func free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// planEROFS: mkfs.erofs writes files as long as they are, holes and all.
func planEROFS(r *agent.ImageRequest, c *census) ([]string, error) {
	room, err := free()
	if err != nil {
		return nil, err
	}
	if c.bytes > room {
		return nil, fmt.Errorf("%d MiB are needed and %s has %d free (the largest file is %.64q with %d MiB; an ext4 image keeps holes)", c.bytes>>20, r.Where, room>>20, c.largest, c.most>>20)
	}
	if c.long != "" {
		fmt.Fprintf(os.Stderr, "(a name is of 255 bytes, which not every mkfs.erofs takes; mke2fs does: %.16q…) ", c.long)
	}
	return []string{"--quiet", disk, top}, nil
}

// planExt4 makes a file of the size that was asked for, or with a GiB to be written to
// beside what is there. It has no journal: a disk that ends with its machine, or is not
// written to, has nothing to recover.
func planExt4(r *agent.ImageRequest, c *census) ([]string, error) {
	// Beside the files' blocks: maps of extents, names, groups' tables.
	need := c.blocks + c.blocks/16 + c.files*inodeSize + 16<<20
	room, err := free()
	if err != nil {
		return nil, err
	}
	if need > room {
		return nil, fmt.Errorf("%d MiB are needed and %s has %d free", need>>20, r.Where, room>>20)
	}
	size := r.Size
	const beside = 1 << 30
	switch {
	case size == 0 && r.Source == "":
		size = min(max(room, least), most)
	case size == 0:
		size = need + beside
	case size < need:
		return nil, fmt.Errorf("a disk of %d MiB is too small: the files need %d", size>>20, need>>20)
	}
	size = size / (1 << 20) * (1 << 20)
	const perInode = 16 << 10 // bytes, mke2fs's ordinary ratio
	args := []string{"-q", "-F", "-t", "ext4", "-b", "4096", "-I", strconv.Itoa(inodeSize), "-m", "0", "-O", "^has_journal",
		"-E", "nodiscard,lazy_itable_init=1", "-N", strconv.FormatInt(c.files+size/perInode, 10)}
	if r.Source != "" {
		args = append(args, "-d", top)
	}
	return append(args, disk, strconv.FormatInt(size>>10, 10)+"k"), nil
}

const (
	inodeSize = 256      // bytes
	least     = 64 << 20 // of a disk to write to
	most      = 64 << 30 // of one whose size nobody asked for: its tables are written
)

// kept: all files can be read.
const kept = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_DAC_OVERRIDE

// leaveHost makes the process's root: a small file system with copies of the mounts of what
// is needed.
func leaveHost(r *agent.ImageRequest, to *os.File) error {
	err := arrange(r, to.Name())
	if removed := os.Remove(to.Name()); err == nil {
		err = removed
	}
	if err != nil {
		return err
	}
	if err := unix.Chdir(here); err != nil {
		return err
	}
	if err := jail.ChangeRoot(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	// Of this thread, which is all that is left when it becomes the program.
	set := [2]unix.CapUserData{{Effective: kept, Permitted: kept}}
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &set[0])
}

// here is a directory that is on every host; it is ours to cover.
const here = "/sys"

// arrange puts the places into a small file system.
func arrange(r *agent.ImageRequest, to string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	places := []place{{path: disk, source: to, file: true}}
	if r.Source != "" {
		places = append(places, place{path: top + "/root", source: r.Source, readOnly: true})
	}
	links := map[string]string{}
	for _, dir := range []string{"/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache"} {
		info, err := os.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode()&fs.ModeSymlink != 0:
			if links[dir], err = os.Readlink(dir); err != nil {
				return err
			}
		default:
			places = append(places, place{path: dir, source: dir, readOnly: true, file: !info.IsDir()})
		}
	}
	for i := range places {
		if err := places[i].copy(); err != nil {
			return err
		}
	}
	if err := unix.Mount("image", here, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m,nr_inodes=64,mode=0755"); err != nil {
		return err
	}
	for at, to := range links {
		if err := os.Symlink(to, here+at); err != nil {
			return err
		}
	}
	if err := os.Mkdir(here+top, 0o755); err != nil {
		return err
	}
	for _, p := range places {
		if err := p.move(here); err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
	}
	return nil
}

// place is a mount in the process's root.
type place struct {
	path, source string
	fd           int // of the copy
	readOnly     bool
	file         bool
}

// copy makes fd a copy of the source's mount.
func (p *place) copy() error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE)
	fd, err := unix.OpenTree(unix.AT_FDCWD, p.source, flags)
	if err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	p.fd = fd
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}
	if p.readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("%s: mount_setattr: %w", p.path, err)
	}
	return nil
}

func (p *place) move(here string) error {
	at := here + p.path
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	var err error
	if p.file {
		err = os.WriteFile(at, nil, 0o600)
	} else {
		err = os.Mkdir(at, 0o755)
	}
	if err != nil {
		return err
	}
	return unix.MoveMount(p.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

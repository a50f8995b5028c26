// Package share is the process that holds a container's files where its wall is a
// machine: the root and the bind mounts, put side by side in a file system of their
// own, which becomes all that the process can name; and a virtio-fs server over it
// (virtio/fs/remote), whose device is in the machine's process. It is started as the
// gofer is, by the same descriptors, and gives up its privileges as that does.
package share

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path"
	"strconv"

	"bulkhead/jail"
	"bulkhead/jail/seccomp"
	"bulkhead/runtime/agent"
	"bulkhead/virtio/fs"
	"bulkhead/virtio/fs/remote"

	"golang.org/x/sys/unix"
)

// Root is the root's name in the share; the mounts are 1, 2, … there, in their order.
const Root = "root"

// MountName is the name of the i-th mount, from 0.
func MountName(i int) string { return strconv.Itoa(1 + i) }

// exitFailed is the process's, whose reason is in the log.
const exitFailed = 125

// Main is the process.
func Main([]string) int {
	log := slog.New(slog.NewTextHandler(os.NewFile(agent.LogFD, "log"), nil))
	if err := run(log); err != nil {
		log.Error("the share ended", "err", err)
		return exitFailed
	}
	return 0
}

func run(log *slog.Logger) error {
	text, err := io.ReadAll(os.NewFile(agent.ConfigFD, "config"))
	if err != nil {
		return err
	}
	var c agent.GoferConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	conn, err := connection()
	if err != nil {
		return err
	}
	if err := raiseFiles(); err != nil {
		return err
	}
	unix.Umask(0) // modes are the guest's
	if err := assemble(&c); err != nil {
		return err
	}
	// It reads /proc, which is there no longer when the tree is the root.
	server, err := fs.New(fs.Options{Dir: tree, Tag: "share", Cache: c.Cache, Log: log})
	if err != nil {
		return err
	}
	if err := enterJail(c.Debug); err != nil {
		return fmt.Errorf("leave the host: %w", err)
	}
	memory, err := remote.ReceiveMemory(conn)
	if errors.Is(err, io.EOF) {
		return nil // there is no machine after all
	}
	if err != nil {
		return err
	}
	return remote.Serve(conn, server, memory)
}

func connection() (*net.UnixConn, error) {
	f := os.NewFile(agent.GoferSocketFD, "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("the descriptor is no Unix socket")
	}
	return conn, nil
}

// raiseFiles allows as many descriptors as the kernel does: each file that the guest
// knows is one.
func raiseFiles() error {
	const enough = 1 << 20 // fs.nr_open as it usually is
	l := unix.Rlimit{Cur: enough, Max: enough}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		return nil
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	l.Cur = l.Max
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}

// tree is where the files are put together: a directory that is on every host, and
// ours to cover in a mount namespace of our own.
const tree = "/sys"

// assemble puts copies of the mounts of all that is shared into a small file system.
// What is read-only is so by the host's kernel.
func assemble(c *agent.GoferConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// All are opened before anything is covered.
	copies, err := openTrees(c)
	if err != nil {
		return err
	}
	defer closeTrees(copies)
	if err := unix.Mount("share", tree, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=1m,nr_inodes=4k,mode=0755"); err != nil {
		return fmt.Errorf("mount an empty root: %w", err)
	}
	root, err := unix.Open(tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := placeAll(copies, root, "", tree); err != nil {
		return err
	}
	return unix.Mount("", tree, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
}

// copied is a copy of the mount of one source.
type copied struct {
	fd           int
	name, source string
}

// openTrees copies the mounts of all that is shared of a container.
func openTrees(c *agent.GoferConfig) (all []copied, err error) {
	for i, m := range append([]agent.GoferMount{c.Root}, c.Mounts...) {
		if i == 0 && m.Source == "" {
			continue
		}
		fd, err := openTree(&m)
		if err != nil {
			closeTrees(all)
			return nil, fmt.Errorf("%s: %w", m.Source, err)
		}
		name := Root
		if i > 0 {
			name = MountName(i - 1)
		}
		all = append(all, copied{fd, name, m.Source})
	}
	return all, nil
}

func closeTrees(all []copied) {
	for _, c := range all {
		unix.Close(c.fd)
	}
}

// placeAll puts them side by side into a directory dir of root, which is at in our
// mount namespace.
func placeAll(all []copied, root int, dir, at string) error {
	for _, c := range all {
		if err := c.place(root, path.Join(dir, c.name), at); err != nil {
			return fmt.Errorf("%s: %w", c.source, err)
		}
	}
	return nil
}

func (c *copied) place(root int, name, at string) error {
	var st unix.Stat_t
	if err := unix.Fstat(c.fd, &st); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = unix.Mkdirat(root, name, 0o755)
	} else {
		err = unix.Mknodat(root, name, unix.S_IFREG|0o600, 0)
	}
	if err != nil {
		return err
	}
	return unix.MoveMount(c.fd, "", unix.AT_FDCWD, path.Join(at, name), unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// openTree is a copy of the mount of a source, and of those beneath it.
func openTree(m *agent.GoferMount) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	if m.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount_setattr: %w", err)
	}
	return fd, nil
}

// kept are the capabilities of a file server that stands in for the guest's root.
const kept = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID

// enterJail makes the tree the root, and gives up all that putting it together needed.
func enterJail(debug bool) error {
	if err := unix.Chdir(tree); err != nil {
		return err
	}
	if err := jail.ChangeRoot(); err != nil {
		return err
	}
	if err := jail.SetCapabilities(kept); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	off := seccomp.Kill
	if debug {
		off = seccomp.Trap
	}
	return seccomp.Install(append(append(seccomp.Runtime(os.Getpid()), Calls()...), calls...), off)
}

// calls are those beside the files' own.
var calls = []seccomp.Row{
	{NR: unix.SYS_RECVMSG, Name: "recvmsg", Why: "the guest's memory"},
	{NR: unix.SYS_FCNTL, Name: "fcntl", Why: "package os: flags of a descriptor"},
	{NR: unix.SYS_MMAP, Name: "mmap", Why: "the guest's memory", When: seccomp.Is(3, unix.MAP_SHARED)},
}

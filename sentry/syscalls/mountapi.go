package syscalls

import (
	"math/bits"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// The calls about mounts that go by descriptors (fs/fsopen.c, fs/namespace.c).

// mountDescriptor gives the task a descriptor of a place. A tree that hangs nowhere
// goes with its last descriptor.
func mountDescriptor(t *kernel.Task, p vfs.Path, detached, cloexec bool) (uintptr, error) {
	d, err := vfs.OpenPath(t, p, unix.O_PATH)
	if err != nil {
		if detached {
			p.Mount.Dissolve()
		}
		return 0, err
	}
	if detached {
		d.OnRelease(p.Mount.Dissolve)
	}
	return installNew(t, d, cloexec)
}

const (
	atRecursive      = 0x8000
	openTreeClone    = 1
	openTreeAllFlags = unix.AT_EMPTY_PATH | unix.AT_NO_AUTOMOUNT | unix.AT_SYMLINK_NOFOLLOW | atRecursive | openTreeClone | unix.O_CLOEXEC
)

func openTree(t *kernel.Task, a *Args) (uintptr, error) {
	return doOpenTree(t, a, nil)
}

func doOpenTree(t *kernel.Task, a *Args, attr *vfs.MountAttr) (uintptr, error) {
	flags := a.Int(2)
	ns := t.FS().Namespace()
	switch {
	case flags&^openTreeAllFlags != 0, flags&(atRecursive|openTreeClone) == atRecursive:
		return 0, unix.EINVAL
	case flags&openTreeClone != 0:
		if err := ns.MayMount(t); err != nil {
			return 0, err
		}
	}
	p, err := lookup(t, a.Int(0), a.Addr(1), flags&(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW), true)
	if err != nil {
		return 0, err
	}
	detached := flags&openTreeClone != 0
	if detached {
		if p, err = ns.OpenTree(t, p, flags&atRecursive != 0); err != nil {
			return 0, err
		}
	}
	if attr != nil {
		if err := ns.SetAttr(t, p, *attr, flags&atRecursive != 0); err != nil {
			if detached {
				p.Mount.Dissolve()
			}
			return 0, err
		}
	}
	return mountDescriptor(t, p, detached, flags&unix.O_CLOEXEC != 0)
}

func openTreeAttr(t *kernel.Task, a *Args) (uintptr, error) {
	if a[3] == 0 && a[4] != 0 {
		return 0, unix.EINVAL
	}
	if a[3] == 0 {
		return doOpenTree(t, a, nil)
	}
	attr, nothing, err := inMountAttr(t, a.Addr(3), a.Size(4))
	if err != nil {
		return 0, err
	}
	if nothing {
		return doOpenTree(t, a, nil)
	}
	return doOpenTree(t, a, &attr)
}

// flags of move_mount(2) (include/uapi/linux/mount.h).
const (
	moveFromSymlinks = 0x1
	moveFromEmpty    = 0x4
	moveToSymlinks   = 0x10
	moveToEmpty      = 0x40
	moveSetGroup     = 0x100
	moveBeneath      = 0x200
	moveKnown        = 0x377
)

func moveMount(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Uint32(4)
	ns := t.FS().Namespace()
	if err := ns.MayMount(t); err != nil {
		return 0, err
	}
	if flags&^moveKnown != 0 || flags&moveBeneath != 0 {
		return 0, unix.EINVAL
	}
	place := func(dirfd int, at memory.Addr, empty, follow bool) (vfs.Path, error) {
		look := 0
		if empty {
			look = unix.AT_EMPTY_PATH
		}
		if !follow {
			look |= unix.AT_SYMLINK_NOFOLLOW
		}
		return lookup(t, dirfd, at, look, true)
	}
	from, err := place(a.Int(0), a.Addr(1), flags&moveFromEmpty != 0, flags&moveFromSymlinks != 0)
	if err != nil {
		return 0, err
	}
	to, err := place(a.Int(2), a.Addr(3), flags&moveToEmpty != 0, flags&moveToSymlinks != 0)
	if err != nil {
		return 0, err
	}
	if flags&moveSetGroup != 0 {
		return 0, ns.JoinGroup(t, from, to)
	}
	return 0, ns.Move(t, from, to)
}

// fsContext is a file system that is being made, or one that is being changed.
type fsContext struct {
	vfs.NoFile
	kind *vfs.FSType

	mu       sync.Mutex
	phase    fsPhase
	options  []string
	source   string
	readonly bool
	fs       vfs.FileSystem // made, not mounted
	mount    *vfs.Mount     // to be changed
	log      []string
}

type fsPhase int

const (
	fsParams fsPhase = iota
	fsMade           // waits for fsmount
	fsReconf         // may be reconfigured
	fsDone           // mounted, or it went wrong
)

// Read gives the next message: what was wrong with a parameter.
func (c *fsContext) Read(_ vfs.Context, dst memory.Buffers, _ int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.log) == 0 {
		return 0, unix.ENODATA
	}
	if len(c.log[0]) > dst.Len() {
		return 0, unix.EMSGSIZE
	}
	n := dst.CopyOut([]byte(c.log[0]))
	c.log = c.log[1:]
	return n, nil
}

// Release drops what was made and never mounted.
func (c *fsContext) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fs != nil {
		c.fs.Release()
	}
	if c.mount != nil {
		c.mount.Super().Unpin()
	}
}

func (c *fsContext) Stream() {}

func installFSContext(t *kernel.Task, c *fsContext, cloexec bool) (uintptr, error) {
	return installNew(t, vfs.NewAnonymous(c, "anon_inode:[fscontext]", unix.O_RDWR), cloexec)
}

func fsopen(t *kernel.Task, a *Args) (uintptr, error) {
	if err := t.FS().Namespace().MayMount(t); err != nil {
		return 0, err
	}
	if a.Uint32(1)&^1 != 0 {
		return 0, unix.EINVAL
	}
	name, err := t.MM().String(a.Addr(0), 4096)
	if err == unix.ENAMETOOLONG {
		err = unix.EINVAL
	}
	if err != nil {
		return 0, err
	}
	kind, ok := local(t).FSTypes[name]
	if !ok {
		return 0, unix.ENODEV
	}
	return installFSContext(t, &fsContext{kind: kind}, a.Uint32(1)&1 != 0)
}

func fspick(t *kernel.Task, a *Args) (uintptr, error) {
	const cloexec, noFollow, noAutomount, empty = 1, 2, 4, 8
	if err := t.FS().Namespace().MayMount(t); err != nil {
		return 0, err
	}
	flags := a.Uint32(2)
	if flags&^(cloexec|noFollow|noAutomount|empty) != 0 {
		return 0, unix.EINVAL
	}
	look := 0
	if flags&noFollow != 0 {
		look |= unix.AT_SYMLINK_NOFOLLOW
	}
	if flags&empty != 0 {
		look |= unix.AT_EMPTY_PATH
	}
	p, err := lookup(t, a.Int(0), a.Addr(1), look, true)
	if err != nil {
		return 0, err
	}
	if p.Mount.Root() != p {
		return 0, unix.EINVAL
	}
	p.Mount.Super().Pin()
	kind := local(t).FSTypes[p.Mount.FS().Type()]
	if kind == nil {
		kind = &vfs.FSType{Name: p.Mount.FS().Type()}
	}
	c := &fsContext{kind: kind, phase: fsReconf, mount: p.Mount, readonly: p.Mount.Super().ReadOnly()}
	return installFSContext(t, c, flags&cloexec != 0)
}

// commands of fsconfig(2).
const (
	setFlag = iota
	setString
	setBinary
	setPath
	setPathEmpty
	setFD
	cmdCreate
	cmdReconfigure
	cmdCreateExcl
)

func fsconfig(t *kernel.Task, a *Args) (uintptr, error) {
	cmd, aux := a.Int(1), a.Int(4)
	key, value := a[2] != 0, a[3] != 0
	ok := false
	switch cmd {
	case setFlag:
		ok = key && !value && aux == 0
	case setString:
		ok = key && value && aux == 0
	case setBinary:
		ok = key && value && aux > 0 && aux <= 1<<20
	case setPath, setPathEmpty:
		ok = key && value && (aux == unix.AT_FDCWD || aux >= 0)
	case setFD:
		ok = key && !value && aux >= 0
	case cmdCreate, cmdCreateExcl, cmdReconfigure:
		ok = !key && !value && aux == 0
	default:
		return 0, unix.EOPNOTSUPP
	}
	if a.Int(0) < 0 || !ok {
		return 0, unix.EINVAL
	}
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	c, is := d.File().(*fsContext)
	if !is {
		return 0, unix.EINVAL
	}
	var k, v string
	if key {
		if k, err = t.MM().String(a.Addr(2), 256); err != nil {
			return 0, tooLong(err)
		}
	}
	if cmd == setString {
		if v, err = t.MM().String(a.Addr(3), 256); err != nil {
			return 0, tooLong(err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch cmd {
	case cmdCreate, cmdCreateExcl:
		return 0, c.create(t)
	case cmdReconfigure:
		return 0, c.reconfigure(t)
	}
	if c.phase != fsParams && c.phase != fsReconf {
		return 0, unix.EBUSY
	}
	return 0, c.set(cmd, k, v)
}

func tooLong(err error) error {
	if err == unix.ENAMETOOLONG {
		return unix.EINVAL
	}
	return err
}

// set is vfs_parse_fs_param.
func (c *fsContext) set(cmd int, key, value string) error {
	switch {
	case key == "":
		return unix.EINVAL
	case cmd == setFlag && (key == "ro" || key == "rw"):
		c.readonly = key == "ro"
		return nil
	case cmd == setFlag && slices.Contains([]string{"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"}, key):
		return nil
	case cmd == setString && key == "source":
		if c.source != "" {
			return c.complain("Multiple sources", unix.EINVAL)
		}
		c.source = value
		return nil
	case cmd != setFlag && cmd != setString:
		return c.complain(c.kind.Name+": Unknown parameter '"+key+"'", unix.EINVAL)
	}
	option := key
	if cmd == setString {
		option += "=" + value
	}
	if c.kind.Known != nil {
		if err := c.kind.Known(option); err != nil {
			return c.complain(c.kind.Name+": Unknown parameter '"+key+"'", err)
		}
	}
	c.options = append(c.options, option)
	return nil
}

func (c *fsContext) complain(text string, err error) error {
	c.log = append(c.log, "e "+text+"\n")
	return err
}

func (c *fsContext) create(t *kernel.Task) (err error) {
	if c.phase != fsParams {
		return unix.EBUSY
	}
	o := vfs.FSOptions{Source: c.source, Data: strings.Join(c.options, ","), ReadOnly: c.readonly, Start: t.FS().Start()}
	c.phase = fsDone
	if c.fs, err = makeFS(t, c.kind, o, 0); err == nil {
		c.phase = fsMade
	}
	return err
}

func (c *fsContext) reconfigure(t *kernel.Task) error {
	if c.phase != fsReconf {
		return unix.EBUSY
	}
	err := c.mount.Reconfigure(t, c.readonly, strings.Join(c.options, ","))
	c.options = nil
	return err
}

// Attributes of mounts (include/uapi/linux/mount.h).
const (
	attrAtime       = 0x70
	attrNoAtime     = 0x10
	attrStrictAtime = 0x20
	attrIDMap       = 0x100000
)

var attrBits = []struct {
	attr uint64
	flag vfs.MountFlags
}{
	{0x1, unix.MS_RDONLY}, {0x2, unix.MS_NOSUID}, {0x4, unix.MS_NODEV}, {0x8, unix.MS_NOEXEC},
	{0x80, unix.MS_NODIRATIME}, {0x200000, unix.MS_NOSYMFOLLOW},
}

// attrFlags translates attributes, but for those of atime; rest is what is none.
func attrFlags(attr uint64) (f vfs.MountFlags, rest uint64) {
	for _, b := range attrBits {
		if attr&b.attr != 0 {
			f |= b.flag
			attr &^= b.attr
		}
	}
	return f, attr
}

// atimeOf translates the choice of atime.
func atimeOf(attr uint64) (vfs.MountFlags, error) {
	switch attr & attrAtime {
	case 0:
		return unix.MS_RELATIME, nil
	case attrNoAtime:
		return unix.MS_NOATIME, nil
	case attrStrictAtime:
		return 0, nil
	}
	return 0, unix.EINVAL
}

func fsmount(t *kernel.Task, a *Args) (uintptr, error) {
	ns := t.FS().Namespace()
	if err := ns.MayMount(t); err != nil {
		return 0, err
	}
	flags, rest := attrFlags(uint64(a.Uint32(2)))
	if a.Uint32(1)&^1 != 0 || rest&^attrAtime != 0 {
		return 0, unix.EINVAL
	}
	atime, err := atimeOf(uint64(a.Uint32(2)))
	if err != nil {
		return 0, err
	}
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	c, ok := d.File().(*fsContext)
	if !ok {
		return 0, unix.EINVAL
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.phase == fsParams, c.phase == fsDone:
		return 0, unix.EINVAL
	case c.phase != fsMade:
		return 0, unix.EBUSY
	}
	p, err := ns.Detached(t, c.fs, vfs.MountOptions{Flags: flags | atime, Source: c.source, Data: strings.Join(c.options, ","), ReadOnly: c.readonly})
	if err != nil {
		return 0, err
	}
	c.fs, c.options, c.phase = nil, nil, fsReconf
	c.mount = p.Mount
	c.mount.Super().Pin()
	return mountDescriptor(t, p, true, a.Uint32(1)&1 != 0)
}

// inMountAttr reads struct mount_attr; nothing is true where it asks for none.
func inMountAttr(t *kernel.Task, at memory.Addr, size uint64) (attr vfs.MountAttr, nothing bool, err error) {
	const known = 32
	switch {
	case size > 4096:
		return attr, false, unix.E2BIG
	case size < known:
		return attr, false, unix.EINVAL
	}
	if err := t.FS().Namespace().MayMount(t); err != nil {
		return attr, false, err
	}
	b := make([]byte, size)
	if err := in(t, at, b); err != nil {
		return attr, false, err
	}
	for _, extra := range b[known:] {
		if extra != 0 {
			return attr, false, unix.E2BIG
		}
	}
	set, clear, propagation := le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:])
	if set|clear|propagation == 0 {
		return attr, true, nil
	}
	if propagation&^propagations != 0 || bits.OnesCount64(propagation) > 1 {
		return attr, false, unix.EINVAL
	}
	var rest1, rest2 uint64
	attr.Set, rest1 = attrFlags(set)
	attr.Clear, rest2 = attrFlags(clear)
	attr.Propagation = vfs.Propagation(propagation)
	if (rest1|rest2)&^attrAtime != 0 { // an id map is what no file system here allows
		return attr, false, unix.EINVAL
	}
	switch clear & attrAtime {
	case 0:
		if set&attrAtime != 0 {
			return attr, false, unix.EINVAL
		}
	case attrAtime:
		atime, err := atimeOf(set)
		if err != nil {
			return attr, false, err
		}
		attr.Set |= atime
		attr.Clear |= unix.MS_NOATIME | unix.MS_RELATIME
	default:
		return attr, false, unix.EINVAL
	}
	return attr, false, nil
}

func mountSetattr(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(2)
	if flags&^(unix.AT_EMPTY_PATH|atRecursive|unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT) != 0 {
		return 0, unix.EINVAL
	}
	attr, nothing, err := inMountAttr(t, a.Addr(3), a.Size(4))
	if err != nil || nothing {
		return 0, err
	}
	p, err := lookup(t, a.Int(0), a.Addr(1), flags&(unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW), true)
	if err != nil {
		return 0, err
	}
	return 0, t.FS().Namespace().SetAttr(t, p, attr, flags&atRecursive != 0)
}

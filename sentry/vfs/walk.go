package vfs

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of path walk (include/linux/limits.h, namei.h).
const (
	maxPath  = 4096
	maxName  = 255
	maxLinks = 40
)

// ResolveFlags say how a name is looked up.
type ResolveFlags uint32

const (
	ResolveNoFollow  ResolveFlags = 1 << iota // a symlink at the end is what is meant
	ResolveDirectory                          // ENOTDIR otherwise
	ResolveEmpty                              // "" is Start.At, whatever that is
	// Those of openat2(2).
	ResolveNoXdev
	ResolveNoMagic
	ResolveNoSymlinks
	ResolveBeneath
	ResolveInRoot
	ResolveCached
)

// resolveCached is RESOLVE_CACHED (include/uapi/linux/openat2.h); x/sys lacks it.
const resolveCached = 0x20

// resolveTable translates openat2(2)'s bits.
var resolveTable = []struct {
	bit  uint64
	flag ResolveFlags
}{
	{unix.RESOLVE_NO_XDEV, ResolveNoXdev},
	{unix.RESOLVE_NO_MAGICLINKS, ResolveNoMagic},
	{unix.RESOLVE_NO_SYMLINKS, ResolveNoSymlinks},
	{unix.RESOLVE_BENEATH, ResolveBeneath},
	{unix.RESOLVE_IN_ROOT, ResolveInRoot},
	{resolveCached, ResolveCached},
}

// Start says where names begin: the process's root and the directory that
// relative names are in.
type Start struct{ Root, At Path }

// walker is the state of one path walk.
type walker struct {
	ctx    Context
	creds  *Creds
	root   Path
	at     Path // reached so far
	flags  ResolveFlags
	links  int
	slash  bool // the last component had a slash behind it
	rooted bool // root has been used; see toRoot

	// What is left of names that symlinks interrupted: a stack of depth entries,
	// the first ones in room, so that a walk need not allocate.
	depth int
	room  [6]string
	more  []string
}

func (w *walker) push(rest string) {
	if w.depth < len(w.room) {
		w.room[w.depth] = rest
	} else {
		w.more = append(w.more, rest)
	}
	w.depth++
}

func (w *walker) pop() (rest string) {
	w.depth--
	if w.depth < len(w.room) {
		return w.room[w.depth]
	}
	n := len(w.more) - 1
	rest, w.more = w.more[n], w.more[:n]
	return rest
}

// start sets w to where name begins and checks it.
func (w *walker) start(ctx Context, s Start, name string, f ResolveFlags) error {
	w.ctx, w.creds, w.root, w.at, w.flags = ctx, ctx.Creds(), s.Root, s.At, f
	if len(name) >= maxPath {
		return unix.ENAMETOOLONG
	}
	if f&(ResolveBeneath|ResolveInRoot) != 0 {
		w.root = s.At
	}
	if name == "" {
		if f&ResolveEmpty == 0 {
			return unix.ENOENT
		}
		return nil
	}
	if name[0] == '/' {
		if f&ResolveBeneath != 0 {
			return unix.EXDEV
		}
		w.at, w.rooted = w.root, true
	}
	w.rooted = w.rooted || f&(ResolveBeneath|ResolveInRoot) != 0
	return nil
}

// toRoot goes to the root for an absolute symlink. Linux sets the root only when
// it is needed, and takes one not yet set for another mount (fs/namei.c,
// nd_jump_root).
func (w *walker) toRoot() error {
	if w.flags&ResolveBeneath != 0 {
		return unix.EXDEV
	}
	if w.flags&ResolveNoXdev != 0 && (!w.rooted || w.root.Mount != w.at.Mount) {
		return unix.EXDEV
	}
	w.at, w.rooted = w.root, true
	return nil
}

// walk goes along name. With parent it stops in the directory of the last
// component and returns that, which may be "", "." or ".."; symlinks at the end
// are then left alone (see follow).
func (w *walker) walk(name string, parent bool) (last string, err error) {
	for {
		for name != "" && name[0] == '/' {
			name = name[1:]
		}
		if name == "" {
			if w.depth == 0 {
				return "", nil
			}
			name = w.pop()
			continue
		}
		if w.at.Dentry.dir == nil {
			return "", unix.ENOTDIR
		}
		if err := w.at.Dentry.search(w.ctx, w.creds); err != nil {
			return "", err
		}
		comp, rest := name, ""
		if i := strings.IndexByte(name, '/'); i >= 0 {
			comp, rest = name[:i], name[i:]
		}
		tail := onlySlashes(rest)
		final := tail && w.depth == 0
		if final && rest != "" {
			w.slash = true
		}
		if final && parent {
			return comp, nil
		}
		next, err := w.step(comp)
		if err != nil {
			return "", err
		}
		link := next.Dentry.link
		if link == nil || final && !w.slash && w.flags&ResolveNoFollow != 0 {
			w.at = next
			name = rest
			continue
		}
		if name, err = w.follow(next, link, rest, tail); err != nil {
			return "", err
		}
	}
}

func onlySlashes(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '/' {
			return false
		}
	}
	return true
}

// step finds comp in w.at.
func (w *walker) step(comp string) (Path, error) {
	if comp == "." {
		return w.at, nil
	}
	if comp == ".." {
		return w.dotdot()
	}
	if len(comp) > maxName {
		return Path{}, unix.ENAMETOOLONG
	}
	c, err := w.at.Dentry.child(w.ctx, comp, w.flags&ResolveCached != 0)
	if err != nil {
		return Path{}, err
	}
	return w.cross(Path{w.at.Mount, c})
}

// cross goes over the mounts on p.
func (w *walker) cross(p Path) (Path, error) {
	if p.Dentry.mounts.Load() == 0 {
		return p, nil
	}
	t := p.top()
	if t.Mount != p.Mount && w.flags&ResolveNoXdev != 0 {
		return Path{}, unix.EXDEV
	}
	return t, nil
}

func (w *walker) dotdot() (Path, error) {
	w.rooted = true
	if w.at == w.root {
		if w.flags&ResolveBeneath != 0 {
			return Path{}, unix.EXDEV
		}
		return w.at, nil
	}
	p := w.at
	for p.Dentry == p.Mount.root {
		on := p.Mount.on.Load()
		if on == nil {
			return p, nil // the root of the tree, or of a detached mount
		}
		if w.flags&ResolveNoXdev != 0 {
			return Path{}, unix.EXDEV
		}
		if p = *on; p == w.root {
			return p, nil
		}
	}
	if p.Mount.root.Parent() != nil && !p.Dentry.under(p.Mount.root) {
		return Path{}, unix.ENOENT // moved out of what a bind mount shows (fs/namei.c, path_connected)
	}
	parent := p.Dentry.Parent()
	if parent == nil {
		return p, nil
	}
	return w.cross(Path{p.Mount, parent})
}

// follow enters the symlink at, of which rest is left behind in the name. It
// returns the name to go on with.
func (w *walker) follow(at Path, link Symlink, rest string, tail bool) (string, error) {
	if w.links++; w.links > maxLinks || w.flags&ResolveNoSymlinks != 0 {
		return "", unix.ELOOP
	}
	if at.Mount.flags.Load()&unix.MS_NOSYMFOLLOW != 0 {
		return "", unix.ELOOP
	}
	if j, ok := link.(Jumper); ok {
		if err := w.jump(j); err != nil {
			return "", err
		}
		return rest, nil
	}
	target, err := link.Readlink(w.ctx)
	if err != nil {
		return "", err
	}
	if target == "" {
		return "", unix.ENOENT
	}
	if target[0] == '/' {
		if err := w.toRoot(); err != nil {
			return "", err
		}
	}
	if !tail {
		w.push(rest)
	}
	return target, nil
}

func (w *walker) jump(j Jumper) error {
	if w.flags&ResolveNoMagic != 0 {
		return unix.ELOOP
	}
	if w.flags&(ResolveBeneath|ResolveInRoot) != 0 {
		return unix.EXDEV
	}
	p, err := j.Jump(w.ctx)
	if err != nil {
		return err
	}
	if w.flags&ResolveNoXdev != 0 && p.Mount != w.at.Mount {
		return unix.EXDEV
	}
	w.at = p
	return nil
}

// Resolve finds what name means.
func Resolve(ctx Context, s Start, name string, f ResolveFlags) (Path, error) {
	var w walker
	if err := w.start(ctx, s, name, f); err != nil {
		return Path{}, err
	}
	if _, err := w.walk(name, false); err != nil {
		return Path{}, err
	}
	if (w.slash || f&ResolveDirectory != 0) && w.at.Dentry.dir == nil {
		return Path{}, unix.ENOTDIR
	}
	return w.at, nil
}

// ResolveParent finds the directory that name's last component is in. last may
// be "", "." or "..", and has lost the slashes behind it.
func ResolveParent(ctx Context, s Start, name string) (dir Path, last string, err error) {
	p, err := parentOf(ctx, s, name)
	return p.dir, p.last, err
}

// parent is a place to make, remove or rename something at.
type parent struct {
	dir   Path
	last  string
	slash bool // last had slashes behind it
}

func parentOf(ctx Context, s Start, name string) (parent, error) {
	var w walker
	if err := w.start(ctx, s, name, 0); err != nil {
		return parent{}, err
	}
	last, err := w.walk(name, true)
	if err != nil {
		return parent{}, err
	}
	if w.at.Dentry.dir == nil {
		return parent{}, unix.ENOTDIR
	}
	return parent{w.at, last, w.slash}, nil
}

// normal reports whether the last component is a name.
func (p *parent) normal() bool { return p.last != "" && p.last != "." && p.last != ".." }

package overlay

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// dir is a directory: an upper one, lower ones, or all of them merged.
type dir struct {
	inode
	lowers    []vfs.Directory
	lowerPath string // where lowers are, from their layers' roots
}

// upperDir is the upper directory, or nil.
func (d *dir) upperDir() vfs.Directory {
	if u := d.upper.Load(); u != nil {
		return u.Inode.(vfs.Directory)
	}
	return nil
}

// Attr implements vfs.Inode. A merged directory has one link
// (fs/overlayfs/inode.c, ovl_getattr).
func (d *dir) Attr(ctx vfs.Context) (vfs.Attr, error) {
	a, err := d.inode.Attr(ctx)
	if err == nil && (d.above() && len(d.lowers) > 0 || len(d.lowers) > 1) {
		a.Nlink = 1
	}
	return a, err
}

// Volatile implements vfs.Volatile: a lower layer that others change is not what
// overlays are for, but it can be.
func (d *dir) Volatile() bool {
	for _, l := range d.lowers {
		if v, ok := l.(vfs.Volatile); ok && v.Volatile() {
			return true
		}
	}
	return false
}

// Lease implements vfs.Leaser. Linux says nothing at all about a lower layer that
// changes; to ask for each component of each name costs a round trip to the gofer.
func (d *dir) Lease() time.Duration { return time.Second }

// Lookup implements vfs.Directory.
func (d *dir) Lookup(ctx vfs.Context, name string) (vfs.Inode, error) {
	r, err := d.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return d.fs.adopt(&r, d, name)
}

// find looks name up in the layers.
func (d *dir) find(ctx vfs.Context, name string) (found, error) {
	var r found
	if d.upperDir() != nil {
		d.fs.tree.Lock()
		done, err := d.findAbove(ctx, name, &r)
		d.fs.tree.Unlock()
		if done || err != nil {
			return r, err
		}
	}
	if err := d.findBelow(ctx, name, &r); err != nil {
		return r, err
	}
	if r.upper == nil && r.lower == nil && len(r.lowers) == 0 {
		return r, unix.ENOENT
	}
	return r, nil
}

// findAbove looks in the upper layer; done if that settles it. The caller holds
// FS.tree.
func (d *dir) findAbove(ctx vfs.Context, name string, r *found) (done bool, err error) {
	i, err := d.upperDir().Lookup(ctx, name)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	white, isDir, err := look(ctx, i)
	if err != nil {
		return true, err
	}
	if white {
		return true, unix.ENOENT
	}
	r.upper = i
	if !isDir {
		return true, nil
	}
	if value, err := getXattr(ctx, i, d.fs.attr.opaque); err != nil || value == "y" {
		return true, err
	}
	redirect, err := getXattr(ctx, i, d.fs.attr.redirect)
	if err != nil || redirect == "" {
		return false, err
	}
	r.lowers, err = d.fs.at(ctx, redirect)
	r.lowerPath = redirect
	return true, err
}

// findBelow adds what the lower layers have.
func (d *dir) findBelow(ctx vfs.Context, name string, r *found) error {
	for _, l := range d.lowers {
		i, err := l.Lookup(ctx, name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return err
		}
		white, isDir, err := look(ctx, i)
		switch {
		case err != nil:
			return err
		case white:
			return nil
		case !isDir:
			if r.upper == nil && len(r.lowers) == 0 {
				r.lower = i
			}
			return nil
		}
		r.lowers = append(r.lowers, i.(vfs.Directory))
		r.lowerPath = d.lowerPath + "/" + name
		if len(d.lowers) > 1 {
			if value, err := getXattr(ctx, i, d.fs.attr.opaque); err != nil || value == "y" {
				return err
			}
		}
	}
	return nil
}

// look says whether i is a whiteout, or a directory.
func look(ctx vfs.Context, i vfs.Inode) (white, isDir bool, err error) {
	if _, ok := i.(vfs.Directory); ok {
		return false, true, nil
	}
	a, err := i.Attr(ctx)
	return a.Type() == unix.S_IFCHR && a.Rdev == 0, false, err
}

// getXattr is "" for what is not there.
func getXattr(ctx vfs.Context, i vfs.Inode, name string) (string, error) {
	x, ok := i.(vfs.Xattrs)
	if !ok {
		return "", nil
	}
	v, err := x.GetXattr(ctx, name)
	if err == unix.ENODATA || err == unix.EOPNOTSUPP || err == unix.EPERM {
		err = nil
	}
	return string(v), err
}

func setXattr(ctx vfs.Context, i vfs.Inode, name, value string) error {
	x, ok := i.(vfs.Xattrs)
	if !ok {
		return unix.EOPNOTSUPP
	}
	return x.SetXattr(ctx, name, []byte(value), 0)
}

// at gives the directories that path leads to in the lower layers.
func (f *FS) at(ctx vfs.Context, path string) ([]vfs.Directory, error) {
	var all []vfs.Directory
layers:
	for _, l := range f.o.Lowers {
		for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
			i, err := l.Lookup(ctx, name)
			if err == unix.ENOENT {
				continue layers
			}
			if err != nil {
				return nil, err
			}
			sub, ok := i.(vfs.Directory)
			if !ok {
				break layers
			}
			l = sub
		}
		all = append(all, l)
	}
	return all, nil
}

// below says whether the lower layers show something at name.
func (d *dir) below(ctx vfs.Context, name string) (bool, error) {
	var r found
	err := d.findBelow(ctx, name, &r)
	return r.lower != nil || len(r.lowers) > 0, err
}

// Prefetch tells the layers what a walk is going to ask for.
func (d *dir) Prefetch(names []string) {
	if len(d.lowers) == 1 {
		if p, ok := d.lowers[0].(interface{ Prefetch([]string) }); ok {
			p.Prefetch(names)
		}
	}
}

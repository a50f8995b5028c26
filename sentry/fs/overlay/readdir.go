package overlay

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// list reads a directory of a layer, without "." and "..".
func list(ctx vfs.Context, d vfs.Directory) ([]vfs.Dirent, error) {
	f, err := d.Open(ctx, vfs.Path{}, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Release()
	r, ok := f.(vfs.DirReader)
	if !ok {
		return nil, unix.ENOTDIR
	}
	var all []vfs.Dirent
	err = r.ReadDir(ctx, 0, func(e vfs.Dirent) bool {
		if e.Name != "." && e.Name != ".." {
			all = append(all, e)
		}
		return true
	})
	return all, err
}

// merge lists what d shows: the upper layer's names, then those below that no
// name or whiteout above hides.
func (d *dir) merge(ctx vfs.Context) ([]vfs.Dirent, error) {
	var layers []vfs.Directory
	up := d.upperDir()
	if up != nil {
		layers = append(layers, up)
	}
	layers = append(layers, d.lowers...)
	hidden := map[string]bool{}
	var all []vfs.Dirent
	for n, l := range layers {
		names, err := list(ctx, l)
		if err != nil {
			return nil, err
		}
		a, err := l.Attr(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range names {
			if hidden[e.Name] {
				continue
			}
			if n < len(layers)-1 {
				hidden[e.Name] = true
			}
			if e.Type == unix.DT_CHR {
				white, err := isWhite(ctx, l, e.Name)
				if err != nil {
					return nil, err
				}
				if white {
					continue
				}
			}
			e.Ino = d.fs.number(&vfs.Attr{Dev: a.Dev, Ino: e.Ino})
			all = append(all, e)
		}
	}
	return all, nil
}

func isWhite(ctx vfs.Context, l vfs.Directory, name string) (bool, error) {
	i, err := l.Lookup(ctx, name)
	if err == unix.ENOENT {
		return true, nil // gone meanwhile
	}
	if err != nil {
		return false, err
	}
	white, _, err := look(ctx, i)
	return white, err
}

// Names implements vfs.Lister where the layers do.
func (d *dir) Names(ctx vfs.Context) (map[string]struct{}, bool) {
	if d.Volatile() || len(d.lowers) > 1 {
		return nil, false
	}
	all := map[string]struct{}{}
	if len(d.lowers) == 1 {
		l, ok := d.lowers[0].(vfs.Lister)
		if !ok {
			return nil, false
		}
		if all, ok = l.Names(ctx); !ok {
			return nil, false
		}
	}
	up := d.upperDir()
	if up == nil {
		return all, true
	}
	names, err := list(ctx, up)
	if err != nil {
		return nil, false
	}
	for _, e := range names {
		all[e.Name] = struct{}{}
		if e.Type != unix.DT_CHR {
			continue
		}
		white, err := isWhite(ctx, up, e.Name)
		if err != nil {
			return nil, false
		}
		if white {
			delete(all, e.Name)
		}
	}
	return all, true
}

// Open implements vfs.Inode.
func (d *dir) Open(_ vfs.Context, at vfs.Path, _ int) (vfs.File, error) {
	d.Pin()
	return &openDir{dir: d, at: at}, nil
}

// openDir is an open directory. What it lists is as it was when its start was
// last read.
type openDir struct {
	vfs.NoFile
	dir  *dir
	at   vfs.Path
	list []vfs.Dirent
	read bool
}

// ReadDir implements vfs.DirReader. Position 0 is ".", 1 is "..", the rest follows.
func (o *openDir) ReadDir(ctx vfs.Context, off int64, emit func(vfs.Dirent) bool) error {
	if off == 0 || !o.read {
		names, err := o.dir.merge(ctx)
		if err != nil {
			return err
		}
		up := o.dir.ino
		if o.at.Dentry != nil && o.at.Dentry.Parent() != nil {
			if a, err := o.at.Dentry.Parent().Inode().Attr(ctx); err == nil {
				up = a.Ino
			}
		}
		o.list, o.read = append([]vfs.Dirent{{Name: ".", Ino: o.dir.ino, Type: unix.DT_DIR}, {Name: "..", Ino: up, Type: unix.DT_DIR}}, names...), true
	}
	for i := max(off, 0); i < int64(len(o.list)); i++ {
		e := o.list[i]
		e.Off = i + 1
		if !emit(e) {
			return nil
		}
	}
	return nil
}

// Fsync implements vfs.Syncer.
func (o *openDir) Fsync(ctx vfs.Context, dataOnly bool) error {
	up := o.dir.upperDir()
	if up == nil {
		return nil
	}
	f, err := up.Open(ctx, vfs.Path{}, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer f.Release()
	if s, ok := f.(vfs.Syncer); ok {
		return s.Fsync(ctx, dataOnly)
	}
	return nil
}

// Release implements vfs.File.
func (o *openDir) Release() { o.dir.Unpin() }

package proc

import (
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// addMapFiles adds map_files: a link for each area that maps a file, named by its
// addresses. fs/proc/base.c, proc_map_files_lookup.
func (fs *FileSystem) addMapFiles(d *taskDir) {
	s := d.subject
	dir := fs.NewDir(0o500)
	dir.Owner = s.owner
	dir.Find = func(ctx vfs.Context, name string) (vfs.Inode, error) {
		if err := mayTrace(ctx, s); err != nil {
			return nil, err
		}
		at, ok := parseRange(name)
		if !ok {
			return nil, unix.ENOENT
		}
		f, err := s.mapped(at)
		if err != nil {
			return nil, err
		}
		return fs.mapLink(s, at, f), nil
	}
	dir.List = func(ctx vfs.Context) (list []kernfs.Entry, err error) {
		if err := mayTrace(ctx, s); err != nil {
			return nil, err
		}
		m := s.memory()
		if m == nil {
			return nil, nil
		}
		for _, v := range m.VMAs() {
			if _, ok := v.Origin.(vfs.Mapped); ok {
				at := mapRange{v.Start, v.End}
				list = append(list, kernfs.Entry{Name: at.String(), Ino: fs.mapIno(s, at), Type: unix.DT_LNK, Key: int64(v.Start)})
			}
		}
		return list, nil
	}
	d.Add("map_files", dir)
}

// mapRange is an area's, as its link has it for a name.
type mapRange struct{ start, end memory.Addr }

func (r mapRange) String() string { return fmt.Sprintf("%x-%x", r.start, r.end) }

// parseRange takes a name in its only spelling (dname_to_vma_addr).
func parseRange(name string) (r mapRange, ok bool) {
	var start, end uint64
	if _, err := fmt.Sscanf(name, "%x-%x", &start, &end); err != nil {
		return r, false
	}
	r = mapRange{memory.Addr(start), memory.Addr(end)}
	return r, r.String() == name
}

// mapped finds the file of an area that is exactly r.
func (s subject) mapped(r mapRange) (vfs.Mapped, error) {
	if m := s.memory(); m != nil {
		for _, v := range m.VMAs() {
			if o, ok := v.Origin.(vfs.Mapped); ok && v.Start == r.start && v.End == r.end {
				return o, nil
			}
		}
	}
	return vfs.Mapped{}, unix.ENOENT
}

func (fs *FileSystem) mapIno(s subject, r mapRange) uint64 {
	return fs.Hash(s.t.ID().Global(), "map_files", uint64(r.start), uint64(r.end))
}

// mapLink leads to an area's file, for who may restore processes (proc_map_files_get_link):
// it may be a file that the names of who asks do not lead to. Its permissions show how
// the file was open. A file without any name, which nobody has open, is not there.
func (fs *FileSystem) mapLink(s subject, r mapRange, f vfs.Mapped) vfs.Inode {
	perm := uint32(0)
	if f.Readable {
		perm |= 0o400
	}
	if f.Writable {
		perm |= 0o200
	}
	find := func(ctx vfs.Context) (vfs.Path, error) {
		if err := mayTrace(ctx, s); err != nil {
			return vfs.Path{}, err
		}
		f, err := s.mapped(r)
		return f.Path, err
	}
	l := fs.NewMagicLink(perm, func(ctx vfs.Context) (string, error) {
		p, err := find(ctx)
		if err != nil {
			return "", err
		}
		return vfs.Name(rootOf(ctx), p), nil
	}, func(ctx vfs.Context) (vfs.Path, error) {
		if !ctx.Creds().Has(unix.CAP_SYS_ADMIN) && !ctx.Creds().Has(unix.CAP_CHECKPOINT_RESTORE) {
			return vfs.Path{}, unix.EPERM
		}
		return find(ctx)
	})
	l.Size = linkSize
	l.SetIno(fs.mapIno(s, r))
	l.Owner = s.owner
	return l
}

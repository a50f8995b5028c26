package vfs

import "golang.org/x/sys/unix"

// Rename is renameat2(2).
func Rename(ctx Context, s1 Start, old string, s2 Start, new string, flags uint) error {
	const known = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE | unix.RENAME_WHITEOUT
	if flags&^known != 0 || flags&unix.RENAME_EXCHANGE != 0 && flags&^unix.RENAME_EXCHANGE != 0 {
		return unix.EINVAL
	}
	from, err := parentOf(ctx, s1, old)
	if err != nil {
		return err
	}
	to, err := parentOf(ctx, s2, new)
	if err != nil {
		return err
	}
	switch {
	case from.dir.Mount != to.dir.Mount:
		return unix.EXDEV
	case !from.normal():
		return unix.EBUSY
	case !to.normal() && flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case !to.normal():
		return unix.EBUSY
	case from.dir.Mount.ReadOnly():
		return unix.EROFS
	}
	r := renaming{ctx: ctx, from: from, to: to, flags: flags}
	defer r.lock()()
	if err := r.lookup(); err != nil {
		return err
	}
	if r.target != nil && r.source.inode == r.target.inode {
		return nil // two links of one inode: nothing happens
	}
	if err := r.check(); err != nil {
		return err
	}
	return r.do()
}

// renaming is one rename(2) under way. Both directories are locked.
type renaming struct {
	ctx            Context
	from, to       parent
	flags          uint
	source, target *Dentry // target is nil if there is none
}

func (r *renaming) exchange() bool { return r.flags&unix.RENAME_EXCHANGE != 0 }

// lock takes the locks of both directories, the one nearer to the root first.
func (r *renaming) lock() (unlock func()) {
	a, b := r.from.dir.Dentry, r.to.dir.Dentry
	if a == b {
		a.mu.Lock()
		return a.mu.Unlock
	}
	s := a.super
	s.renames.Lock()
	if a.under(b) {
		a, b = b, a
	}
	a.mu.Lock()
	b.mu.Lock()
	return func() {
		b.mu.Unlock()
		a.mu.Unlock()
		s.renames.Unlock()
	}
}

// lookup finds source and target (fs/namei.c, do_renameat2).
func (r *renaming) lookup() (err error) {
	fd, td := r.from.dir.Dentry, r.to.dir.Dentry
	if r.source, err = fd.victimLocked(r.ctx, r.from.last); err != nil {
		return err
	}
	if r.target, err = td.victimLocked(r.ctx, r.to.last); err != nil && err != unix.ENOENT {
		return err
	}
	switch {
	case r.target != nil && r.flags&unix.RENAME_NOREPLACE != 0:
		return unix.EEXIST
	case r.target == nil && r.exchange():
		return unix.ENOENT
	case r.exchange() && r.target.dir == nil && r.to.slash:
		return unix.ENOTDIR
	case r.source.dir == nil && (r.from.slash || !r.exchange() && r.to.slash):
		return unix.ENOTDIR
	case td.under(r.source):
		return unix.EINVAL
	case r.target != nil && fd.under(r.target):
		if r.exchange() {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	}
	return nil
}

// check is vfs_rename's (fs/namei.c) part before the file system is asked.
func (r *renaming) check() error {
	fd, td := r.from.dir.Dentry, r.to.dir.Dentry
	isDir := r.source.dir != nil
	if err := mayDelete(r.ctx, fd, r.source, isDir); err != nil {
		return err
	}
	switch {
	case r.target == nil:
		if err := mayCreate(r.ctx, td); err != nil {
			return err
		}
	default:
		want := isDir
		if r.exchange() {
			want = r.target.dir != nil
		}
		if err := mayDelete(r.ctx, td, r.target, want); err != nil {
			return err
		}
	}
	if fd != td { // ".." changes
		if isDir {
			if err := r.source.access(r.ctx, MayWrite); err != nil {
				return err
			}
		}
		if r.exchange() && r.target.dir != nil {
			if err := r.target.access(r.ctx, MayWrite); err != nil {
				return err
			}
		}
	}
	if r.source.mounts.Load() != 0 || r.target != nil && r.target.mounts.Load() != 0 {
		return unix.EBUSY
	}
	return nil
}

func (r *renaming) do() error {
	fd, td := r.from.dir.Dentry, r.to.dir.Dentry
	replaced := r.target
	if r.exchange() {
		replaced = nil
	}
	if replaced != nil && replaced.dir != nil {
		replaced.mu.Lock()
		defer replaced.mu.Unlock()
	}
	if err := fd.dir.Rename(r.ctx, r.from.last, td.dir, r.to.last, r.flags); err != nil {
		return err
	}
	if replaced != nil {
		replaced.dead.Store(true)
	}
	fd.dropLocked(r.from.last)
	td.dropLocked(r.to.last)
	r.source.at.Store(&place{td, r.to.last})
	td.putLocked(r.to.last, r.source)
	switch {
	case r.exchange():
		r.target.at.Store(&place{fd, r.from.last})
		fd.putLocked(r.from.last, r.target)
	case r.flags&unix.RENAME_WHITEOUT == 0:
		fd.putAbsentLocked(r.from.last)
	default: // looked up when wanted
		if fd.complete {
			fd.setLocked(r.from.last, entry{known: true})
		}
	}
	r.tell(replaced)
	return nil
}

// tell sends the events of a rename (include/linux/fsnotify.h, fsnotify_move).
func (r *renaming) tell(replaced *Dentry) {
	if !watched() {
		return
	}
	fd, td := r.from.dir.Dentry, r.to.dir.Dentry
	move := func(from, to *Dentry, old, new string, d, over *Dentry) {
		var isDir uint32
		if d.dir != nil {
			isDir = unix.IN_ISDIR
		}
		cookie := moveCookie.Add(1)
		tell(from.inode, unix.IN_MOVED_FROM|isDir, cookie, old)
		tell(to.inode, unix.IN_MOVED_TO|isDir, cookie, new)
		if over != nil {
			tell(over.inode, unix.IN_ATTRIB, 0, "")
		}
		tell(d.inode, unix.IN_MOVE_SELF, 0, "")
	}
	move(fd, td, r.from.last, r.to.last, r.source, replaced)
	if r.exchange() {
		move(td, fd, r.to.last, r.from.last, r.target, nil)
	}
	if replaced != nil {
		tellIfGone(r.ctx, replaced.inode)
	}
}

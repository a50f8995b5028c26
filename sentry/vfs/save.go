package vfs

import "golang.org/x/sys/unix"

// Position is where the next read or write begins.
func (d *Description) Position() int64 {
	d.posMu.Lock()
	defer d.posMu.Unlock()
	return d.pos
}

// SetPosition is what a restored file begins with; it has to be one that it can have.
func (d *Description) SetPosition(at int64) error {
	d.posMu.Lock()
	defer d.posMu.Unlock()
	if at < 0 || at > 0 && !d.placed {
		return unix.EINVAL
	}
	d.pos = at
	return nil
}

// Named says whether p has a name that Resolve finds, as nothing but files of mounted file
// systems have, until they are deleted.
func (p Path) Named() bool { return p.Ok() && !p.Dentry.anon && !p.Dentry.Dead() }

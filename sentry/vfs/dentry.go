package vfs

import (
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"golang.org/x/sys/unix"
)

// maxAbsent bounds what a directory remembers of names that do not exist.
const maxAbsent = 256

// Dentry is a name in the tree with the inode that it stands for. A directory
// has one Dentry, another inode one per hard link that somebody looked up.
type Dentry struct {
	super    *Super
	inode    Inode
	dir      Directory // inode, if it is one
	link     Symlink   // inode, if it is one
	volatile bool
	lease    int64   // for how many nanoseconds a volatile answer is believed
	checker  Checker // inode, if it is one
	anon     bool    // no name in a tree; place.name is all that there is

	first place // where it was first; saves an allocation
	at    atomic.Pointer[place]

	mounts atomic.Int32 // mounts on it, in all namespaces; pairs with Namespace.find
	dead   atomic.Bool  // the name has gone; written with the parent's mu held
	used   atomic.Bool  // found since the cache's hand passed

	mu       sync.RWMutex
	children map[string]entry
	absent   int  // entries of children that say ENOENT
	complete bool // children has every name that the directory has
	tried    bool // Lister has been asked

	slot int // in the cache, -1 if not; guarded by cache.mu
}

// place is where a dentry hangs. It is replaced, never changed, so that walks up
// need no lock.
type place struct {
	parent *Dentry // nil: the root of a file system
	name   string
}

// entry is what a directory knows of a name. A dentry that the cache let go is
// held weakly, so that as long as somebody else has it, it is found again. All
// zero: there is no such name. known: there is one that was never looked up.
type entry struct {
	strong *Dentry
	weak   weak.Pointer[Dentry]
	until  int64 // the end of its lease
	known  bool
}

// born is what leases count from.
var born = time.Now()

func now() int64 { return int64(time.Since(born)) }

// leaseEnd is until when what is learnt now is believed.
func (d *Dentry) leaseEnd() int64 {
	if d.lease == 0 {
		return 0
	}
	return now() + d.lease
}

func (e entry) absent() bool {
	return e.strong == nil && !e.known && e.weak == (weak.Pointer[Dentry]{})
}

func newDentry(s *Super, parent *Dentry, name string, i Inode) *Dentry {
	d := &Dentry{super: s, inode: i, slot: -1}
	d.first = place{parent, name}
	d.at.Store(&d.first)
	d.dir, _ = i.(Directory)
	d.link, _ = i.(Symlink)
	d.checker, _ = i.(Checker)
	if v, ok := i.(Volatile); ok {
		d.volatile = v.Volatile()
	}
	if l, ok := i.(Leaser); ok && d.volatile {
		d.lease = int64(l.Lease())
	}
	return d
}

// Inode is what d stands for.
func (d *Dentry) Inode() Inode { return d.inode }

// Parent is the directory that d is in, nil for the root of a file system.
func (d *Dentry) Parent() *Dentry { return d.at.Load().parent }

// Name is d's last component.
func (d *Dentry) Name() string { return d.at.Load().name }

// Dead reports whether d's name has been removed.
func (d *Dentry) Dead() bool { return d.dead.Load() }

// child finds name in d. ENOENT if there is none; EAGAIN if cachedOnly and only
// the file system knows.
func (d *Dentry) child(ctx Context, name string, cachedOnly bool) (*Dentry, error) {
	if !d.volatile || d.lease != 0 {
		d.mu.RLock()
		e, ok := d.children[name]
		complete := d.complete
		d.mu.RUnlock()
		if d.volatile && (!ok || e.until < now()) {
			complete, ok, e = false, false, entry{} // ask again
		}
		if e.strong != nil {
			if !e.strong.used.Load() {
				e.strong.used.Store(true)
			}
			return e.strong, nil
		}
		if ok && e.absent() || !ok && complete {
			return nil, unix.ENOENT
		}
	}
	if cachedOnly {
		return nil, unix.EAGAIN
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.childLocked(ctx, name)
}

// childLocked is child for who holds d.mu.
func (d *Dentry) childLocked(ctx Context, name string) (*Dentry, error) {
	if d.dead.Load() {
		return nil, unix.ENOENT
	}
	e, ok := d.children[name]
	old := e.strong
	if old == nil {
		old = e.weak.Value()
	}
	switch {
	case d.volatile:
		return d.revalidate(ctx, name, old)
	case old != nil:
		if e.strong == nil {
			d.putLocked(name, old)
		}
		return old, nil
	case ok && e.absent(), !ok && d.complete:
		return nil, unix.ENOENT
	}
	if !ok && d.absent > 0 && !d.tried {
		if d.list(ctx); d.complete { // the second name that is not here: learn all
			if _, ok := d.children[name]; !ok {
				return nil, unix.ENOENT
			}
		}
	}
	i, err := d.dir.Lookup(ctx, name)
	if err == unix.ENOENT && !e.known {
		d.putAbsentLocked(name)
	}
	if err != nil {
		return nil, err
	}
	n := newDentry(d.super, d, name, i)
	d.putLocked(name, n)
	return n, nil
}

// revalidate asks for a name of a volatile directory again.
func (d *Dentry) revalidate(ctx Context, name string, old *Dentry) (*Dentry, error) {
	if old != nil && old.mounts.Load() != 0 {
		return old, nil // what is mounted on it stays, whatever becomes of the name
	}
	i, err := d.dir.Lookup(ctx, name)
	if old != nil && (err == unix.ENOENT || err == nil && i != old.inode) {
		old.dead.Store(true)
		d.dropLocked(name)
	}
	if err == unix.ENOENT && d.lease != 0 {
		d.putAbsentLocked(name)
	}
	if err != nil {
		return nil, err
	}
	if old != nil && i == old.inode {
		if d.lease != 0 {
			d.putLocked(name, old)
		}
		return old, nil
	}
	n := newDentry(d.super, d, name, i)
	d.putLocked(name, n)
	return n, nil
}

// list fills in all names, if the directory can tell them.
func (d *Dentry) list(ctx Context) {
	d.tried = true
	l, ok := d.dir.(Lister)
	if !ok {
		return
	}
	names, ok := l.Names(ctx)
	if !ok {
		return
	}
	for name, e := range d.children {
		if e.absent() {
			delete(d.children, name)
		}
	}
	for name := range names {
		if _, ok := d.children[name]; !ok {
			d.setLocked(name, entry{known: true})
		}
	}
	d.absent, d.complete = 0, true
}

func (d *Dentry) setLocked(name string, e entry) {
	if d.children == nil {
		d.children = make(map[string]entry)
	}
	if old, ok := d.children[name]; ok && old.absent() {
		d.absent--
	}
	d.children[name] = e
}

func (d *Dentry) putLocked(name string, c *Dentry) {
	if d.super.transient {
		d.sweepLocked(name)
		d.setLocked(name, entry{weak: weak.Make(c)})
		return
	}
	d.setLocked(name, entry{strong: c, until: d.leaseEnd()})
	cached.add(c)
}

// sweepLocked makes room for a new name among those whose dentries nobody used any
// more, each time that there are twice as many.
func (d *Dentry) sweepLocked(name string) {
	n := len(d.children)
	if _, ok := d.children[name]; ok || n < 64 || n&(n-1) != 0 || d.complete {
		return
	}
	for name, e := range d.children {
		if e.strong == nil && !e.known && !e.absent() && e.weak.Value() == nil {
			delete(d.children, name)
		}
	}
}

// dropLocked forgets name: it is unknown whether it exists.
func (d *Dentry) dropLocked(name string) {
	e, ok := d.children[name]
	if !ok {
		return
	}
	if e.strong != nil {
		cached.remove(e.strong)
	}
	if e.absent() {
		d.absent--
	}
	delete(d.children, name)
}

func (d *Dentry) putAbsentLocked(name string) {
	if d.volatile && d.lease == 0 || d.complete {
		d.dropLocked(name) // in a complete directory, not listed means absent
		return
	}
	if d.absent >= maxAbsent {
		for n, e := range d.children {
			if e.absent() {
				delete(d.children, n)
			}
		}
		d.absent = 0
	}
	if e, ok := d.children[name]; ok && e.strong != nil {
		cached.remove(e.strong)
	}
	d.setLocked(name, entry{until: d.leaseEnd()})
	d.absent++
}

// killLocked is called after the name of c in d was removed.
func (d *Dentry) killLocked(name string, c *Dentry) {
	if c != nil {
		c.dead.Store(true)
	}
	d.putAbsentLocked(name)
}

// Forget tells that names below p may have changed without us (what a file
// system with Volatile false may still learn): its cached children are asked for
// again.
func (p Path) Forget() {
	d := p.Dentry
	d.mu.Lock()
	defer d.mu.Unlock()
	d.complete, d.tried = false, false
	for name, e := range d.children {
		if e.absent() || e.known {
			delete(d.children, name)
		}
	}
	d.absent = 0
}

// under reports whether d is anc or below it.
func (d *Dentry) under(anc *Dentry) bool {
	for ; d != nil; d = d.Parent() {
		if d == anc {
			return true
		}
	}
	return false
}

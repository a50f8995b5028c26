package vfs

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// peers is a peer group: mounts of which one shows what is mounted on another
// (Documentation/filesystems/sharedsubtree.rst, fs/pnode.c). Its fields are under tree.
type peers struct {
	id      int
	members []*Mount
	slaves  []*Mount // which hear of what happens in the group, and do not tell
}

var peersID atomic.Int32

func without(list []*Mount, m *Mount) []*Mount {
	return slices.DeleteFunc(slices.Clone(list), func(x *Mount) bool { return x == m })
}

// share makes m a member of a group, of its own if it has none.
func (m *Mount) share() {
	m.unbindable = false
	if m.peers == nil {
		m.join(&peers{id: int(peersID.Add(1))})
	}
}

func (m *Mount) join(g *peers) {
	m.peers = g
	g.members = append(g.members, m)
}

func (m *Mount) follow(g *peers) {
	if m.master = g; g != nil {
		g.slaves = append(g.slaves, m)
	}
}

// enslave makes m hear of its group without telling; a mount that is in none stays
// what it is. The last member to go leaves the group's slaves to its master.
func (m *Mount) enslave() {
	g := m.peers
	if g == nil {
		return
	}
	m.peers, g.members = nil, without(g.members, m)
	if len(g.members) > 0 {
		m.unfollow()
		m.follow(g)
		return
	}
	for _, s := range g.slaves {
		s.master = nil
		s.follow(m.master)
	}
	g.slaves = nil
}

func (m *Mount) unfollow() {
	if m.master != nil {
		m.master.slaves = without(m.master.slaves, m)
		m.master = nil
	}
}

// privatize makes m neither tell nor hear.
func (m *Mount) privatize() {
	m.enslave()
	m.unfollow()
	m.unbindable = false
}

// Propagation is one of mount(2)'s MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE.
type Propagation int

func (m *Mount) setPropagation(p Propagation) {
	switch p {
	case unix.MS_SHARED:
		m.share()
	case unix.MS_SLAVE:
		m.enslave()
		m.unbindable = false
	case unix.MS_PRIVATE:
		m.privatize()
	case unix.MS_UNBINDABLE:
		m.privatize()
		m.unbindable = true
	}
}

// copying is how a copy propagates.
type copying int

const (
	alike        copying = iota // as what it is a copy of (clone_mnt without flags)
	apart                       // private
	behind                      // a slave of what is shared, else alike (CL_SHARED_TO_SLAVE)
	behindShared                // a slave, and shared with copies of its own (CL_SLAVE | CL_MAKE_SHARED)
)

// copy makes another mount of what m shows, with its top at root.
func (m *Mount) copy(root *Dentry, how copying) *Mount {
	m.super.take()
	n := newMount(m.super, root, MountOptions{Flags: m.Flags(), Source: m.source, Data: m.data})
	n.locked, n.pinned = m.locked, m.pinned
	switch {
	case how == apart:
	case how != alike && m.peers != nil:
		n.follow(m.peers)
	default:
		n.unbindable = m.unbindable
		if m.peers != nil {
			n.join(m.peers)
		}
		n.follow(m.master)
	}
	if how == behindShared {
		n.share()
	}
	return n
}

// copyTree copies m from root on, with the mounts below. Unbindable ones are left
// out unless all is said; seen, if not nil, hears of each copy.
func (m *Mount) copyTree(root *Dentry, how copying, all bool, seen func(old, new *Mount)) *Mount {
	top := m.copy(root, how)
	copies := map[*Mount]*Mount{m: top}
	if seen != nil {
		seen(m, top)
	}
	for _, old := range m.all()[1:] {
		on := old.on.Load()
		parent := copies[on.Mount]
		if parent == nil || on.Mount == m && !on.Dentry.under(root) || old.unbindable && !all {
			continue
		}
		c := old.copy(old.root, how)
		copies[old] = c
		c.attach(Path{parent, on.Dentry})
		if seen != nil {
			seen(old, c)
		}
	}
	return top
}

// graft hangs m, which is nowhere, at at, and copies of it wherever at's mount
// propagates to (fs/namespace.c, attach_recursive_mnt).
func (m *Mount) graft(at Path) error {
	ns := at.Mount.ns
	type pair struct {
		to   *Mount
		copy *Mount
	}
	var copies []pair
	if g := at.Mount.peers; g != nil {
		for _, x := range m.all() {
			x.share()
		}
		done := map[*peers]bool{}
		var visit func(g *peers, from *Mount, except *Mount)
		visit = func(g *peers, from, except *Mount) {
			done[g] = true
			for _, p := range slices.Clone(g.members) {
				if p != except && at.Dentry.under(p.root) {
					copies = append(copies, pair{p, from.copyTree(from.root, alike, false, nil)})
				}
			}
			for _, s := range slices.Clone(g.slaves) {
				switch {
				case s.peers != nil && done[s.peers], !at.Dentry.under(s.root) && s.peers == nil:
				case s.peers == nil:
					copies = append(copies, pair{s, from.copyTree(from.root, behind, false, nil)})
				default:
					c := from.copyTree(from.root, behindShared, false, nil)
					if at.Dentry.under(s.root) {
						copies = append(copies, pair{s, c})
						visit(s.peers, c, s)
						continue
					}
					visit(s.peers, c, s)
					c.scrap()
				}
			}
		}
		visit(g, m, at.Mount)
	}
	more := map[*Namespace]int{}
	more[ns] += len(m.all())
	for _, c := range copies {
		more[c.to.ns] += len(c.copy.all())
	}
	for to, n := range more {
		if to != nil && to.count+n > maxMounts {
			for _, c := range copies {
				c.copy.scrap()
			}
			return unix.ENOSPC
		}
	}
	m.attach(at)
	m.enter(ns)
	ns.changed()
	for _, c := range copies {
		to := c.to.ns
		c.copy.attach(Path{c.to, at.Dentry})
		if to == nil {
			continue
		}
		c.copy.enter(to)
		if to.owner != ns.owner { // lock_mnt_tree, in fs/namespace.c
			c.copy.lock(false)
		}
		to.changed()
	}
	return nil
}

// scrap takes a tree apart that hangs nowhere. Caller holds tree.
func (m *Mount) scrap() {
	for _, x := range slices.Backward(m.all()) {
		x.remove()
		x.super.drop()
	}
}

// remove takes one mount from its place, its group and its namespace.
func (m *Mount) remove() {
	m.detach()
	m.privatize()
	if m.ns != nil {
		m.ns.count--
		m.ns.changed()
		m.ns = nil
	}
}

// lock keeps a namespace of a lesser user from showing what is hidden, or
// loosening what is fixed (fs/namespace.c, lock_mnt_tree). The top may be moved unless it is said.
func (m *Mount) lock(top bool) {
	for _, x := range m.all() {
		f := x.flags.Load()
		x.locked |= atimeFlags | f&(unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC)
		if x != m || top {
			x.pinned = true
		}
	}
}

// atimeFlags are one choice.
const atimeFlags = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME

// gather is what has to go when gone go: the same mounts in all places that their parents
// propagate to, unless something else is mounted on them (fs/pnode.c, propagate_umount).
// Something that covers one of them wholly takes its place; that is done here.
func gather(gone []*Mount) []*Mount {
	in := map[*Mount]bool{}
	for _, m := range gone {
		in[m] = true
	}
	var more []*Mount
	for _, m := range gone {
		on := m.on.Load()
		if on == nil || on.Mount.peers == nil {
			continue
		}
		for _, p := range on.Mount.peers.reach() {
			if c := p.at(on.Dentry); c != nil && !in[c] && p != on.Mount && c.super == m.super {
				in[c] = true
				more = append(more, c)
			}
		}
	}
	// Whatever has something else on it stays; that may keep another.
	for again := true; again; {
		again = false
		for _, c := range more {
			if !in[c] {
				continue
			}
			for _, x := range c.children() {
				if !in[x] && x.on.Load().Dentry != c.root {
					in[c], again = false, true
				}
			}
		}
	}
	for _, c := range more {
		if !in[c] {
			continue
		}
		gone = append(gone, c)
		if top := c.at(c.root); top != nil && !in[top] {
			at := *c.on.Load()
			top.detach()
			c.detach()
			top.attach(at)
		}
	}
	return gone
}

// reach are all mounts that a change on a member of g reaches.
func (g *peers) reach() (to []*Mount) {
	done := map[*peers]bool{}
	var visit func(g *peers)
	visit = func(g *peers) {
		if done[g] {
			return
		}
		done[g] = true
		to = append(to, g.members...)
		for _, s := range g.slaves {
			if s.peers == nil {
				to = append(to, s)
			} else {
				visit(s.peers)
			}
		}
	}
	visit(g)
	return to
}

package gofer

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/gofer/wire"
	"bulkhead/sentry/vfs"
)

// dir is a directory.
type dir struct {
	inode

	mu sync.Mutex
	// names are those that are known to be there, with a hint of what is behind
	// them or nil. On a shared attachment they were there.
	names    map[string]*hint
	complete bool // names has all; on exclusive attachments alone
}

// hint is what is known of a name; the first that is set counts.
type hint struct {
	child known      // the inode that was looked up, if it is still around
	ahead vfs.Inode  // what a Prefetch went through, until it is looked up
	attr  *wire.Attr // what came with a list of the directory, until it is looked up
	seen  time.Time  // when child was
}

// Volatile implements vfs.Volatile.
func (d *dir) Volatile() bool { return !d.fs.exclusive() }

// Lookup implements vfs.Directory.
func (d *dir) Lookup(_ vfs.Context, name string) (vfs.Inode, error) {
	if !d.fs.exclusive() {
		return d.revalidate(name)
	}
	d.mu.Lock()
	h, there := d.names[name]
	complete := d.complete
	d.mu.Unlock()
	if !there && complete {
		return nil, unix.ENOENT
	}
	if h != nil {
		if i := d.take(name, h); i != nil {
			d.noteChild(name, i)
			return i, nil
		}
	}
	return d.ask(name)
}

// take is the inode that h knows of, or nil.
func (d *dir) take(name string, h *hint) vfs.Inode {
	switch {
	case h.child != nil:
		return h.child.get()
	case h.ahead != nil:
		return h.ahead
	case h.attr.Mode&unix.S_IFMT == unix.S_IFLNK:
		return nil // where it leads did not come along
	}
	return d.fs.adopt(h.attr, wire.NoID, "", d, name)
}

// child sends q about a child of d's.
func (d *dir) child(q wire.Request) (r wire.Reply, err error) {
	if q.ID, err = d.need(); err != nil {
		return wire.Reply{FD: -1}, err
	}
	return d.fs.conn.Call(&q)
}

// ask looks name up on the host. The directories on the way that have no id yet
// get theirs by the same request.
func (d *dir) ask(name string) (vfs.Inode, error) {
	id, way, names := d.route(name)
	r, err := d.fs.conn.Call(&wire.Request{Op: wire.Walk, ID: id, Names: names, Flags: wire.WalkList})
	if err != nil {
		return nil, err
	}
	for j, w := range way {
		if j >= len(r.Nodes) || keyOf(&r.Nodes[j].Attr).kind != unix.S_IFDIR {
			return nil, unix.ESTALE // the name of a directory of ours leads elsewhere
		}
		w.h.set(r.Nodes[j].ID)
	}
	if len(r.Nodes) == len(way) {
		d.note(r.Entries, r.End)
		return nil, r.Stop
	}
	n := &r.Nodes[len(way)]
	i := d.fs.adopt(&n.Attr, n.ID, n.Target, d, name)
	if sub, ok := i.(*dir); ok {
		sub.note(r.Entries, r.End)
	} else {
		d.note(r.Entries, r.End)
	}
	d.noteChild(name, i)
	return i, nil
}

// route leads to name in d from the nearest directory with an id: names from
// there, way the directories that they go through.
func (d *dir) route(name string) (id uint32, way []*dir, names []string) {
	names = []string{name}
	for len(names) < wire.MaxWalk {
		if id = d.h.get(); id != wire.NoID {
			break
		}
		d.inode.mu.Lock()
		up, own := d.parent, d.name
		d.inode.mu.Unlock()
		if up == nil {
			break // a directory that was removed: the gofer says EBADF
		}
		way, names = append([]*dir{d}, way...), append([]string{own}, names...)
		d = up
	}
	return id, way, names
}

// note keeps the entries of d, which are all if end.
func (d *dir) note(entries []wire.Entry, end bool) {
	if !d.fs.exclusive() || !end {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.complete {
		return
	}
	d.complete = true
	if d.names == nil {
		d.names = make(map[string]*hint, len(entries))
	}
	for i := range entries {
		e := &entries[i]
		if _, ok := d.names[e.Name]; ok {
			continue
		}
		var h *hint
		// Another name of a file may change it while this hint sleeps.
		if e.Attr.Mode&unix.S_IFMT == unix.S_IFDIR || e.Attr.Nlink == 1 {
			h = &hint{attr: &e.Attr}
		}
		d.names[e.Name] = h
	}
}

// noteChild keeps that name is there and leads to i.
func (d *dir) noteChild(name string, i vfs.Inode) {
	d.setName(name, &hint{child: weaken(i), seen: time.Now()})
}

// setName keeps what is known of name.
func (d *dir) setName(name string, h *hint) {
	const enough = 4096
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.names == nil || !d.fs.exclusive() && len(d.names) > enough {
		d.names = map[string]*hint{}
	}
	d.names[name] = h
}

// lookedUp is the inode that name led to lately.
func (d *dir) lookedUp(name string) vfs.Inode {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.names[name]; h != nil && h.child != nil {
		return h.child.get()
	}
	return nil
}

func (d *dir) dropName(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.names, name)
}

// revalidate is Lookup on a shared attachment: a name that leads where it did
// costs a stat on the host. A directory is believed to be there for as long as its
// attributes are, so that a walk to file after file beneath it asks for the files alone.
func (d *dir) revalidate(name string) (vfs.Inode, error) {
	d.mu.Lock()
	h := d.names[name]
	d.mu.Unlock()
	if h != nil && h.child != nil && time.Since(h.seen) < attrLife {
		if sub, ok := h.child.get().(*dir); ok {
			return sub, nil
		}
	}
	r, err := d.child(wire.Request{Op: wire.GetAttr, Name: name})
	if err != nil {
		d.dropName(name)
		return nil, err
	}
	if i := d.fs.find(&r.Attr); i != nil && r.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
		inodeOf(i).learn(&r.Attr)
		d.noteChild(name, i)
		return i, nil
	}
	r, err = d.child(wire.Request{Op: wire.Walk, Names: []string{name}, Flags: wire.WalkIDs})
	if err != nil {
		return nil, err
	}
	if len(r.Nodes) == 0 {
		return nil, r.Stop
	}
	n := &r.Nodes[0]
	i := d.fs.adopt(&n.Attr, n.ID, n.Target, nil, "")
	d.noteChild(name, i)
	return i, nil
}

// Prefetch learns in one request what a walk along names will ask for.
func (d *dir) Prefetch(names []string) {
	if !d.fs.exclusive() || len(names) < 2 {
		return
	}
	r, err := d.child(wire.Request{Op: wire.Walk, Names: names[:min(len(names), wire.MaxWalk)], Flags: wire.WalkList})
	if err != nil {
		return
	}
	at := d
	for j := range r.Nodes {
		n := &r.Nodes[j]
		i := d.fs.adopt(&n.Attr, n.ID, n.Target, at, names[j])
		at.setName(names[j], &hint{ahead: i})
		sub, ok := i.(*dir)
		if !ok {
			break
		}
		at = sub
	}
	at.note(r.Entries, r.End)
}

// Names implements vfs.Lister.
func (d *dir) Names(vfs.Context) (map[string]struct{}, bool) {
	if !d.fs.exclusive() {
		return nil, false
	}
	d.mu.Lock()
	complete := d.complete
	d.mu.Unlock()
	if !complete && !d.learnNames() {
		return nil, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make(map[string]struct{}, len(d.names))
	for n := range d.names {
		all[n] = struct{}{}
	}
	return all, true
}

// learnNames asks for all names, unless they are too many to pay.
func (d *dir) learnNames() bool {
	const many = 4 // replies of about 4,000 names each
	q := wire.Request{Op: wire.Names}
	var all []wire.Short
	for range many {
		r, err := d.child(q)
		if err != nil || !r.End && len(r.Short) == 0 {
			return false
		}
		all = append(all, r.Short...)
		if !r.End {
			q.Offset = r.Short[len(r.Short)-1].Cookie
			continue
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.names == nil {
			d.names = make(map[string]*hint, len(all))
		}
		for _, e := range all {
			if _, ok := d.names[e.Name]; !ok {
				d.names[e.Name] = nil
			}
		}
		d.complete = true
		return true
	}
	return false
}

package fs

import (
	"container/list"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// identity tells one file of the host from every other, also from a later one
// with the same number: that one was born later.
type identity struct {
	dev, ino uint64
	born     unix.StatxTimestamp // zero where the host's file system does not know
}

// place is a name in a directory.
type place struct {
	dir  *inode
	name string
}

// An inode is a file of the host that the guest knows by a number. We know it by
// an O_PATH descriptor, so that no name is looked at twice. A descriptor may be
// closed while nobody uses it; then the inode is found again by its place, and
// only if it is the same file.
type inode struct {
	id uint64
	identity
	kind uint32 // unix.S_IFMT of its mode, which never changes

	// Guarded by table.mu.
	lookups uint64        // how often the guest was told of it and has not forgotten
	users   int           // requests at work on it
	kids    int           // inodes whose place is in it
	at      []place       // where it was seen, the last one last; a directory is in one place
	idle    *list.Element // in table.idle, if its descriptor could be closed
	calm    stamp         // see calm

	mu sync.Mutex // held while fd is opened
	fd int        // -1 if closed; stands still while users > 0 and mu was held once
}

// table is all inodes that the guest knows. Lock order: inode.mu of a file,
// inode.mu of its directory, table.mu.
type table struct {
	limit int // descriptors that stay open
	most  int // inodes
	root  *inode

	mu     sync.Mutex
	next   uint64
	open   int
	ids    map[uint64]*inode
	files  map[identity]*inode
	places map[place]*inode
	idle   list.List // of *inode, the one used last in front
}

func newTable(root int, limit, most int) (*table, error) {
	found, err := look(root)
	if err != nil {
		return nil, err
	}
	t := &table{limit: limit, most: most}
	t.root = &inode{id: 1, identity: found.identity, kind: found.kind(), fd: root}
	t.clear()
	return t, nil
}

// clear forgets all but the root. Nobody may be using an inode.
func (t *table) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.ids {
		if n != t.root && n.fd >= 0 {
			unix.Close(n.fd)
		}
	}
	t.root.lookups, t.root.users, t.root.kids = 1, 0, 0
	t.next, t.open = 2, 0
	t.ids = map[uint64]*inode{t.root.id: t.root}
	t.files = map[identity]*inode{t.root.identity: t.root}
	t.places = map[place]*inode{}
	t.idle.Init()
}

// get is the inode that the guest calls id, with its descriptor open. put must
// follow. A number that we never gave, or that the guest has forgotten, is
// ESTALE; Linux answers so to a file handle of NFS that is no more.
func (t *table) get(id uint64) (*inode, error) {
	t.mu.Lock()
	n, ok := t.ids[id]
	if ok {
		t.useLocked(n)
	}
	t.mu.Unlock()
	if !ok {
		return nil, unix.ESTALE
	}
	return n, t.ensure(n)
}

// ensure opens n's descriptor if it is closed. On an error n is put.
func (t *table) ensure(n *inode) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd >= 0 {
		return nil
	}
	fd, err := t.reopen(n)
	if err != nil {
		t.put(n)
		return err
	}
	n.fd = fd
	return nil
}

func (t *table) useLocked(n *inode) {
	n.users++
	if n.idle != nil {
		t.idle.Remove(n.idle)
		n.idle = nil
	}
}

func (t *table) put(n *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.users--
	t.restLocked(n)
}

// restLocked decides what becomes of n now that something has let go of it.
func (t *table) restLocked(n *inode) {
	switch {
	case n.users > 0 || n == t.root:
	case n.lookups == 0 && n.kids == 0:
		t.dropLocked(n)
	case n.fd >= 0 && len(n.at) > 0 && n.idle == nil:
		n.idle = t.idle.PushFront(n)
	}
}

func (t *table) dropLocked(n *inode) {
	if n.idle != nil {
		t.idle.Remove(n.idle)
		n.idle = nil
	}
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
		t.open--
	}
	delete(t.ids, n.id)
	if t.files[n.identity] == n {
		delete(t.files, n.identity)
	}
	for len(n.at) > 0 {
		t.unplaceLocked(n, n.at[0])
	}
}

// evictLocked closes the descriptor that was used longest ago. It says no if
// all are in use, or belong to files that no place leads to.
func (t *table) evictLocked() bool {
	last := t.idle.Back()
	if last == nil {
		return false
	}
	n := t.idle.Remove(last).(*inode)
	n.idle = nil
	unix.Close(n.fd)
	n.fd = -1
	t.open--
	return true
}

// reserve counts one more descriptor. ENFILE is what a person then sees; files
// that are open or deleted, and directories that were moved by the host, are
// all that it can be for.
func (t *table) reserve() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open >= t.limit && !t.evictLocked() {
		return unix.ENFILE
	}
	t.open++
	return nil
}

func (t *table) unreserve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open--
}

// reopen finds n where it was seen. What else is found there now was put there
// by the host, and if it is nowhere n is gone as far as we can tell.
func (t *table) reopen(n *inode) (int, error) {
	t.mu.Lock()
	places := slices.Clone(n.at)
	for _, at := range places {
		t.useLocked(at.dir)
	}
	t.mu.Unlock()
	result, fd := error(unix.ESTALE), -1
	for _, at := range slices.Backward(places) {
		if fd >= 0 || result == unix.ENFILE {
			t.put(at.dir)
			continue
		}
		fd, result = t.reopenAt(n, at)
	}
	return fd, result
}

// reopenAt opens n if it stands at a place, whose directory it puts.
func (t *table) reopenAt(n *inode, at place) (int, error) {
	if err := t.ensure(at.dir); err != nil {
		return -1, err
	}
	defer t.put(at.dir)
	fd, found, err := t.openAt(at)
	switch {
	case err == unix.ENFILE:
		return -1, err
	case err != nil:
		return -1, unix.ESTALE
	case found.identity != n.identity:
		unix.Close(fd)
		t.unreserve()
		return -1, unix.ESTALE
	}
	return fd, nil
}

// openAt opens what stands at a place, whose directory is in use, and counts
// the descriptor.
func (t *table) openAt(at place) (int, found, error) {
	if err := t.reserve(); err != nil {
		return -1, found{}, err
	}
	fd, err := beneath(at.dir.fd, at.name, unix.O_PATH, 0)
	if err == nil {
		var f found
		if f, err = look(fd); err == nil {
			return fd, f, nil
		}
		unix.Close(fd)
	}
	t.unreserve()
	return -1, found{}, err
}

// add tells the guest of the file that the counted descriptor fd is open to: it
// is an inode that we know, or a new one. The caller is done with fd.
func (t *table) add(at place, fd int, f found) (*inode, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, known := t.files[f.identity]
	switch {
	case known && (n.users > 0 || n.fd >= 0): // one in use is open, or being opened
		unix.Close(fd)
		t.open--
	case known:
		n.fd = fd
	case len(t.ids) >= t.most:
		unix.Close(fd)
		t.open--
		return nil, unix.ENFILE
	default:
		n = &inode{id: t.next, identity: f.identity, kind: f.kind(), fd: fd}
		t.next++
		t.ids[n.id], t.files[n.identity] = n, n
	}
	n.lookups++
	if at.dir != nil && n != t.root { // O_TMPFILE has no place
		t.placeLocked(n, at)
	}
	t.restLocked(n)
	return n, nil
}

// forget takes back count lookups. It is never more than were made: a guest
// that says otherwise forgets the inode and no more.
func (t *table) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.ids[id]
	if !ok || n == t.root {
		return
	}
	n.lookups -= min(n.lookups, count)
	t.restLocked(n)
}

// maxPlaces bounds what is remembered of a file with many hard links.
const maxPlaces = 8

// placeLocked notes that n stands at a place.
func (t *table) placeLocked(n *inode, at place) {
	other := t.places[at]
	if other == n {
		return
	}
	if other != nil {
		t.unplaceLocked(other, at)
	}
	for len(n.at) == maxPlaces || n.kind == unix.S_IFDIR && len(n.at) > 0 {
		t.unplaceLocked(n, n.at[0])
	}
	if circular(n, at.dir) {
		return // what we know is of different times; n's descriptor stays open instead
	}
	n.at = append(n.at, at)
	t.places[at] = n
	at.dir.kids++
}

// circular says whether n is dir or above it. It can seem to be while the host,
// or a racing request, moves directories into one another. table.mu is held.
func circular(n, dir *inode) bool {
	for n.kind == unix.S_IFDIR {
		if dir == n {
			return true
		}
		if len(dir.at) == 0 {
			break
		}
		dir = dir.at[0].dir
	}
	return false
}

// unplaceLocked notes that n is no more at a place. If it is at no other its
// descriptor, if open, is the only way to it and stays so.
func (t *table) unplaceLocked(n *inode, at place) {
	i := slices.Index(n.at, at)
	if i < 0 {
		return
	}
	n.at = slices.Delete(n.at, i, i+1)
	if len(n.at) == 0 && n.idle != nil {
		t.idle.Remove(n.idle)
		n.idle = nil
	}
	delete(t.places, at)
	at.dir.kids--
	t.restLocked(at.dir)
}

// pin is the inode at a place that is about to lose its name, in use and with
// its descriptor open, or nil: unlinked files live on by descriptor alone.
func (t *table) pin(at place) *inode {
	t.mu.Lock()
	n := t.places[at]
	if n != nil {
		t.useLocked(n)
	}
	t.mu.Unlock()
	if n == nil || t.ensure(n) != nil {
		return nil
	}
	return n
}

// unpin ends pin. gone says that the name is no more.
func (t *table) unpin(n *inode, at place, gone bool) {
	if n == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if gone {
		t.unplaceLocked(n, at)
	}
	n.users--
	t.restLocked(n)
}

// moved notes a rename, or an exchange of two names.
func (t *table) moved(from, to place, exchanged bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, other := t.places[from], t.places[to]
	if from == to || n == other {
		return
	}
	if n != nil {
		t.unplaceLocked(n, from)
	}
	if other != nil {
		t.unplaceLocked(other, to)
	}
	if n != nil {
		t.placeLocked(n, to)
		t.restLocked(n)
	}
	if other != nil && exchanged {
		t.placeLocked(other, from)
		t.restLocked(other)
	}
}

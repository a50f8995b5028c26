package vfs

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Watch is told of what happens to an inode, and to names in it if it is a
// directory (inotify(7)).
type Watch struct {
	// Mask are the IN_… events wanted, and IN_EXCL_UNLINK.
	Mask atomic.Uint32
	// Notify is called with no lock of vfs that Watch functions take, but
	// possibly with directories locked. After IN_IGNORED nothing follows.
	Notify func(mask, cookie uint32, name string)

	inode Inode
}

var watches = struct {
	n  atomic.Int32
	mu sync.Mutex
	of map[Inode][]*Watch // slices are copied on write
	// host are inodes that the host changes too.
	host map[Inode]*hostWatch
}{of: make(map[Inode][]*Watch), host: make(map[Inode]*hostWatch)}

// HostWatched is an inode that others change without us. WatchHost has TellHost
// called with what they do, until stop; nil: it does not work.
type HostWatched interface {
	WatchHost() (stop func())
}

// hostWatch is what is known of an inode's watch on the host. Our own changes are
// told twice, here and by the host, in either order; balance says for which
// events one of the two has been passed on and the other is still to come. The host
// merges events, so that no more than one is waited for.
type hostWatch struct {
	stop    func()
	balance map[hostEvent]int
}

type hostEvent struct {
	mask uint32
	name string
}

// maxBalance bounds what a host that makes names without end leaves here; an event
// may be told twice then.
const maxBalance = 1024

// hostEvents are those that come from the host.
const hostEvents = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CLOSE_WRITE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_CREATE | unix.IN_DELETE | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// once says whether an event is to be passed on: the first of two that mean one
// change. way is 1 for ours and -1 for the host's.
func once(i Inode, mask uint32, name string, way int) bool {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	h := watches.host[i]
	if h == nil || mask&hostEvents == 0 {
		return true
	}
	if len(h.balance) > maxBalance {
		clear(h.balance)
	}
	k := hostEvent{mask & hostEvents, name}
	b := h.balance[k]
	next := max(-1, min(1, b+way))
	if h.balance[k] = next; next == 0 {
		delete(h.balance, k)
	}
	return b*way >= 0
}

// TellHost sends an event that the host told of.
func TellHost(i Inode, mask, cookie uint32, name string) {
	if !once(i, mask, name, -1) {
		return
	}
	if mask&unix.IN_DELETE_SELF != 0 {
		tellGone(i)
		return
	}
	for _, w := range watchers(i) {
		if w.Mask.Load()&mask&unix.IN_ALL_EVENTS != 0 {
			w.Notify(mask, cookie|1<<31, name) // not one of moveCookie's
		}
	}
}

// moveCookie numbers renames.
var moveCookie atomic.Uint32

func watched() bool { return watches.n.Load() != 0 }

// AddWatch starts telling w of i.
func AddWatch(i Inode, w *Watch) {
	watches.mu.Lock()
	first := len(watches.of[i]) == 0
	w.inode = i
	watches.of[i] = append(slices.Clip(watches.of[i]), w)
	watches.n.Add(1)
	watches.mu.Unlock()
	h, ok := i.(HostWatched)
	if !first || !ok {
		return
	}
	stop := h.WatchHost()
	if stop == nil {
		return
	}
	watches.mu.Lock()
	gone := len(watches.of[i]) == 0 || watches.host[i] != nil
	if !gone {
		watches.host[i] = &hostWatch{stop, map[hostEvent]int{}}
	}
	watches.mu.Unlock()
	if gone {
		stop()
	}
}

// forgetHostLocked is called when nobody watches i any more; the caller calls what it
// returns without the lock.
func forgetHostLocked(i Inode) (stop func()) {
	h := watches.host[i]
	if h == nil {
		return func() {}
	}
	delete(watches.host, i)
	return h.stop
}

// RemoveWatch ends that; w may have ended by itself.
func RemoveWatch(w *Watch) {
	stop := func() {}
	defer func() { stop() }()
	watches.mu.Lock()
	defer watches.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(watches.of[w.inode]), func(x *Watch) bool { return x == w })
	watches.n.Add(int32(len(rest) - len(watches.of[w.inode])))
	if watches.of[w.inode] = rest; len(rest) == 0 {
		delete(watches.of, w.inode)
		stop = forgetHostLocked(w.inode)
	}
}

func watchers(i Inode) []*Watch {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	return watches.of[i]
}

// tell sends an event to who watches i.
func tell(i Inode, mask, cookie uint32, name string) {
	if !watched() {
		return
	}
	all := watchers(i)
	if len(all) == 0 || !once(i, mask, name, 1) {
		return
	}
	for _, w := range all {
		if w.Mask.Load()&mask&unix.IN_ALL_EVENTS != 0 {
			w.Notify(mask, cookie, name)
		}
	}
}

// tellAt sends an event to who watches p or the directory it is in.
func tellAt(p Path, mask uint32) {
	if !watched() || p.Dentry.anon {
		return
	}
	if p.Dentry.dir != nil {
		mask |= unix.IN_ISDIR
	}
	at := p.Dentry.at.Load()
	if all := parentWatchers(at); len(all) > 0 && once(at.parent.inode, mask, at.name, 1) {
		for _, w := range all {
			m := w.Mask.Load()
			if m&mask&unix.IN_ALL_EVENTS != 0 && (m&unix.IN_EXCL_UNLINK == 0 || !p.Dentry.Dead()) {
				w.Notify(mask, 0, at.name)
			}
		}
	}
	tell(p.Inode(), mask, 0, "")
}

func parentWatchers(at *place) []*Watch {
	if at.parent == nil {
		return nil
	}
	return watchers(at.parent.inode)
}

// tellUnlinked is called after a link of i went. Linux sends IN_DELETE_SELF when
// the last descriptor has gone too; here it comes with the last link.
func tellUnlinked(ctx Context, i Inode) {
	if !watched() || len(watchers(i)) == 0 {
		return
	}
	tell(i, unix.IN_ATTRIB, 0, "")
	tellIfGone(ctx, i)
}

// tellIfGone ends the watches of i if it has no links.
func tellIfGone(ctx Context, i Inode) {
	if a, err := i.Attr(ctx); err != nil || a.Nlink == 0 {
		tellGone(i)
	}
}

// tellGone ends all watches of i.
func tellGone(i Inode) {
	if !watched() {
		return
	}
	watches.mu.Lock()
	all := watches.of[i]
	delete(watches.of, i)
	watches.n.Add(int32(-len(all)))
	stop := forgetHostLocked(i)
	watches.mu.Unlock()
	stop()
	for _, w := range all {
		if w.Mask.Load()&unix.IN_DELETE_SELF != 0 {
			w.Notify(unix.IN_DELETE_SELF, 0, "")
		}
		w.Notify(unix.IN_IGNORED, 0, "")
	}
}

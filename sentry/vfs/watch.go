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
}{of: make(map[Inode][]*Watch)}

// moveCookie numbers renames.
var moveCookie atomic.Uint32

func watched() bool { return watches.n.Load() != 0 }

// AddWatch starts telling w of i.
func AddWatch(i Inode, w *Watch) {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	w.inode = i
	watches.of[i] = append(slices.Clip(watches.of[i]), w)
	watches.n.Add(1)
}

// RemoveWatch ends that; w may have ended by itself.
func RemoveWatch(w *Watch) {
	watches.mu.Lock()
	defer watches.mu.Unlock()
	rest := slices.DeleteFunc(slices.Clone(watches.of[w.inode]), func(x *Watch) bool { return x == w })
	watches.n.Add(int32(len(rest) - len(watches.of[w.inode])))
	if watches.of[w.inode] = rest; len(rest) == 0 {
		delete(watches.of, w.inode)
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
	for _, w := range watchers(i) {
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
	if at.parent != nil {
		for _, w := range watchers(at.parent.inode) {
			m := w.Mask.Load()
			if m&mask&unix.IN_ALL_EVENTS != 0 && (m&unix.IN_EXCL_UNLINK == 0 || !p.Dentry.Dead()) {
				w.Notify(mask, 0, at.name)
			}
		}
	}
	tell(p.Inode(), mask, 0, "")
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
	watches.mu.Unlock()
	for _, w := range all {
		if w.Mask.Load()&unix.IN_DELETE_SELF != 0 {
			w.Notify(unix.IN_DELETE_SELF, 0, "")
		}
		w.Notify(unix.IN_IGNORED, 0, "")
	}
}

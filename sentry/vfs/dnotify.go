package vfs

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Target is who an Owner's signals go to, once found by number.
type Target interface {
	// SignalIO sends sig, or SIGIO if that is 0, about descriptor fd. It does not
	// wait and takes no lock of other rooms, for it is called under any of ours.
	SignalIO(sig, fd int, reason IOReason)

	// SignalUrgent sends SIGURG, likewise.
	SignalUrgent()
}

// IOReason is si_code of a signal about a descriptor (POLL_IN and so on).
type IOReason int32

// What F_NOTIFY asks for (include/uapi/linux/fcntl.h).
const (
	dnAccess    = 0x1
	dnModify    = 0x2
	dnCreate    = 0x4
	dnDelete    = 0x8
	dnRename    = 0x10
	dnAttrib    = 0x20
	dnMultishot = 0x80000000
)

// note is what an F_NOTIFY of one process on one open directory asked for
// (fs/notify/dnotify/dnotify.c).
type note struct {
	Watch
	key noteKey
	fd  int

	mu    sync.Mutex
	want  uint32 // DN_…
	moved uint32 // cookie of the name that went last
	ended bool
}

type noteKey struct {
	t *FDTable
	d *Description
}

var notes = struct {
	n  atomic.Int32 // so that a close without costs one load
	mu sync.Mutex   // before note.mu
	of map[noteKey]*note
}{of: make(map[noteKey]*note)}

// dirEvents are the events that a DN_… bit stands for.
var dirEvents = []struct{ dn, in uint32 }{
	{dnAccess, unix.IN_ACCESS},
	{dnModify, unix.IN_MODIFY},
	{dnAttrib, unix.IN_ATTRIB},
	{dnCreate, unix.IN_CREATE | unix.IN_MOVED_TO},
	{dnDelete, unix.IN_DELETE | unix.IN_MOVED_FROM},
	{dnRename, unix.IN_MOVED_FROM | unix.IN_MOVED_TO}, // both, in one directory
}

// DirNotify is fcntl(2)'s F_NOTIFY by the process with table t, which knows d as fd:
// d's owner hears of what happens in the directory, once, or with DN_MULTISHOT until
// the process closes it. What is asked for later is added; to ask for nothing ends it.
func DirNotify(t *FDTable, d *Description, fd int, want uint32) error {
	k := noteKey{t, d}
	if !NotifiesOf(want) {
		forgetNote(k)
		return nil
	}
	if d.typ != unix.S_IFDIR {
		return unix.ENOTDIR
	}
	notes.mu.Lock()
	n := notes.of[k]
	fresh := n == nil
	if fresh {
		n = &note{key: k}
		n.Notify = n.notify
		notes.of[k] = n
		notes.n.Add(1)
	}
	n.mu.Lock()
	n.fd = fd
	n.want |= want
	mask := uint32(0)
	for _, e := range dirEvents {
		if n.want&e.dn != 0 {
			mask |= e.in
		}
	}
	n.Mask.Store(mask)
	n.mu.Unlock()
	notes.mu.Unlock()
	if !fresh {
		return nil
	}
	AddWatch(d.Inode(), &n.Watch) // it may wait for who tells n of something
	n.mu.Lock()
	ended := n.ended
	n.mu.Unlock()
	if ended { // by another thread's close
		RemoveWatch(&n.Watch)
	}
	return nil
}

// NotifiesOf says whether an argument of F_NOTIFY asks for anything.
func NotifiesOf(want uint32) bool { return want&^dnMultishot != 0 }

// forgetNote is called when the process closes the directory by any of its numbers.
func forgetNote(k noteKey) {
	if notes.n.Load() == 0 {
		return
	}
	notes.mu.Lock()
	n := notes.of[k]
	if n != nil {
		delete(notes.of, k)
		notes.n.Add(-1)
	}
	notes.mu.Unlock()
	if n != nil {
		n.mu.Lock()
		n.ended = true
		n.mu.Unlock()
		RemoveWatch(&n.Watch)
	}
}

// notify implements Watch.
func (n *note) notify(mask, cookie uint32, _ string) {
	if mask&unix.IN_IGNORED != 0 {
		forgetNote(n.key)
		return
	}
	n.mu.Lock()
	times := 0
	for _, e := range dirEvents {
		if n.want&e.dn != 0 && mask&e.in != 0 && e.dn != dnRename {
			times++
		}
	}
	switch {
	case mask&unix.IN_MOVED_FROM != 0:
		n.moved = cookie
	case mask&unix.IN_MOVED_TO != 0 && n.want&dnRename != 0 && cookie == n.moved && cookie != 0:
		times++
	}
	last := n.want&dnMultishot == 0
	if n.ended {
		times = 0
	} else if last && times > 0 {
		times, n.ended = 1, true
	}
	fd := n.fd
	n.mu.Unlock()
	if times == 0 {
		return
	}
	if last {
		forgetNote(n.key)
	}
	if o := n.key.d.Owner(); o.Target != nil {
		for range times {
			o.Target.SignalIO(o.Signal, fd, IOMessage)
		}
	}
}

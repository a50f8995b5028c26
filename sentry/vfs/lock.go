package vfs

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Lock is a POSIX or open-file-description lock on a range of a file.
type Lock struct {
	Type       int16 // unix.F_RDLCK, F_WRLCK, F_UNLCK
	Start, End int64 // End is inclusive; MaxInt64: to the end of the file
	// Owner is the process's *FDTable for POSIX locks, the *Description for OFD.
	Owner any
	PID   int32 // to show; -1 for OFD locks
}

func (l *Lock) overlaps(m *Lock) bool { return l.Start <= m.End && m.Start <= l.End }

func (l *Lock) conflicts(m *Lock) bool {
	return l.Owner != m.Owner && l.overlaps(m) && (l.Type == unix.F_WRLCK || m.Type == unix.F_WRLCK)
}

// fileLocks are the locks of one inode.
type fileLocks struct {
	inode  Inode  // one of the file's
	ranges []Lock // by owner, the oldest first, and by Start
	whole  map[*Description]flock
}

// flock is a lock of flock(2).
type flock struct {
	op  int   // LOCK_SH or LOCK_EX
	pid int32 // who made it, to show
}

var locks = struct {
	n  atomic.Int32 // inodes with locks, so that a close without costs one load
	mu sync.Mutex
	of map[any]*fileLocks // by Identity
	// waits has, for each owner that waits for a POSIX lock, who holds it.
	waits map[any]any
}{of: make(map[any]*fileLocks), waits: make(map[any]any)}

// lockQueues are shared by inodes, by hash: a waiter looks again anyhow.
var (
	lockQueues [64]Queue
	lockSeed   = maphash.MakeSeed()
)

func lockQueue(i Inode) *Queue {
	return &lockQueues[maphash.Comparable(lockSeed, Identity(i))%uint64(len(lockQueues))]
}

// LockQueue is notified when a lock on d's file goes.
func LockQueue(d *Description) *Queue { return lockQueue(d.Inode()) }

// editLocks calls f with the locks of i and wakes waiters if it says so.
func editLocks(i Inode, f func(*fileLocks) (freed bool, err error)) error {
	locks.mu.Lock()
	id := Identity(i)
	l := locks.of[id]
	if l == nil {
		l = &fileLocks{inode: i}
		locks.of[id] = l
		locks.n.Add(1)
	}
	freed, err := f(l)
	if len(l.ranges) == 0 && len(l.whole) == 0 {
		delete(locks.of, id)
		locks.n.Add(-1)
	}
	locks.mu.Unlock()
	if freed {
		lockQueue(i).Notify(EventOut)
	}
	return err
}

// Flock is flock(2) with op LOCK_SH, LOCK_EX or LOCK_UN: EAGAIN if another
// description is in the way. As on Linux a conversion drops the old lock first. pid
// is whose it is, to show.
func Flock(d *Description, op int, pid int32) error {
	op &^= unix.LOCK_NB
	if op != unix.LOCK_SH && op != unix.LOCK_EX && op != unix.LOCK_UN {
		return unix.EINVAL
	}
	return editLocks(d.Inode(), func(l *fileLocks) (bool, error) {
		had := l.whole[d].op
		if had == op {
			return false, nil
		}
		delete(l.whole, d)
		if op == unix.LOCK_UN {
			return had != 0, nil
		}
		for _, other := range l.whole {
			if op == unix.LOCK_EX || other.op == unix.LOCK_EX {
				return had != 0, unix.EAGAIN
			}
		}
		if l.whole == nil {
			l.whole = make(map[*Description]flock)
		}
		l.whole[d] = flock{op, pid}
		return had != 0, nil
	})
}

// SetLock is F_SETLK and F_OFD_SETLK: EAGAIN if another owner is in the way.
// With wait the owner is noted as waiting until ForgetLock, and waiting in a
// circle is EDEADLK; wait on LockQueue and call it again.
func SetLock(d *Description, l Lock, wait bool) error {
	switch {
	case l.Start < 0 || l.End < l.Start:
		return unix.EINVAL
	case l.Type == unix.F_RDLCK && !d.Readable(), l.Type == unix.F_WRLCK && !d.Writable(), d.Flags()&unix.O_PATH != 0:
		return unix.EBADF
	case l.Type != unix.F_RDLCK && l.Type != unix.F_WRLCK && l.Type != unix.F_UNLCK:
		return unix.EINVAL
	}
	return editLocks(d.Inode(), func(f *fileLocks) (bool, error) {
		if l.Type != unix.F_UNLCK {
			if i := slices.IndexFunc(f.ranges, func(m Lock) bool { return l.conflicts(&m) }); i >= 0 {
				return false, blocked(l.Owner, f.ranges[i].Owner, wait)
			}
		}
		return f.set(l), nil
	})
}

// blocked notes that owner waits for holder, with locks.mu held.
func blocked(owner, holder any, wait bool) error {
	if !wait {
		return unix.EAGAIN
	}
	if _, ofd := owner.(*Description); ofd {
		return unix.EAGAIN // no deadlock detection, as on Linux
	}
	for at, n := holder, 0; at != nil && n <= len(locks.waits); at, n = locks.waits[at], n+1 {
		if at == owner {
			return unix.EDEADLK
		}
	}
	locks.waits[owner] = holder
	return unix.EAGAIN
}

// ForgetLock says that owner has stopped waiting, with or without the lock.
func ForgetLock(owner any) {
	locks.mu.Lock()
	delete(locks.waits, owner)
	locks.mu.Unlock()
}

// set puts l over what its owner had in that range, and reports whether anything
// was given up. An owner's locks stay together (fs/locks.c, posix_lock_inode).
func (f *fileLocks) set(l Lock) (freed bool) {
	mine := func(m Lock) bool { return m.Owner == l.Owner }
	first := slices.IndexFunc(f.ranges, mine)
	if first < 0 {
		first = len(f.ranges)
	}
	last := first
	var group []Lock
	for ; last < len(f.ranges) && mine(f.ranges[last]); last++ {
		m := f.ranges[last]
		switch {
		case !near(&m, &l):
			group = append(group, m)
		case m.Type == l.Type: // grow over it
			l.Start, l.End = min(l.Start, m.Start), max(l.End, m.End)
		case !m.overlaps(&l):
			group = append(group, m)
		default:
			freed = freed || l.Type == unix.F_UNLCK || m.Type == unix.F_WRLCK
			if m.Start < l.Start {
				left := m
				left.End = l.Start - 1
				group = append(group, left)
			}
			if m.End > l.End {
				right := m
				right.Start = l.End + 1
				group = append(group, right)
			}
		}
	}
	if l.Type != unix.F_UNLCK {
		group = append(group, l)
	}
	slices.SortFunc(group, func(a, b Lock) int { return cmp.Compare(a.Start, b.Start) })
	f.ranges = slices.Replace(f.ranges, first, last, group...)
	return freed
}

// near reports whether m overlaps l or touches it.
func near(m, l *Lock) bool {
	return (m.End == math.MaxInt64 || m.End+1 >= l.Start) && (l.End == math.MaxInt64 || l.End+1 >= m.Start)
}

// GetLock is F_GETLK: the first lock in the way of l, or l with F_UNLCK.
func GetLock(d *Description, l Lock) (Lock, error) {
	if l.Type != unix.F_RDLCK && l.Type != unix.F_WRLCK || l.Start < 0 || l.End < l.Start {
		return l, unix.EINVAL
	}
	if d.Flags()&unix.O_PATH != 0 {
		return l, unix.EBADF
	}
	err := editLocks(d.Inode(), func(f *fileLocks) (bool, error) {
		if i := slices.IndexFunc(f.ranges, func(m Lock) bool { return l.conflicts(&m) }); i >= 0 {
			l = f.ranges[i]
		} else {
			l.Type = unix.F_UNLCK
		}
		return false, nil
	})
	return l, err
}

// releaseLocks drops owner's locks on i, of every kind.
func releaseLocks(owner any, i Inode) {
	if locks.n.Load() == 0 {
		return
	}
	editLocks(i, func(f *fileLocks) (bool, error) {
		n := len(f.ranges) + len(f.whole)
		f.ranges = slices.DeleteFunc(f.ranges, func(m Lock) bool { return m.Owner == owner })
		if d, ok := owner.(*Description); ok {
			delete(f.whole, d)
		}
		return len(f.ranges)+len(f.whole) < n, nil
	})
}

// HeldLock is a lock and the file that it is on.
type HeldLock struct {
	Lock
	Flock bool
	Inode Inode
}

// HeldLocks are all locks, for /proc/locks.
func HeldLocks() []HeldLock {
	locks.mu.Lock()
	defer locks.mu.Unlock()
	var out []HeldLock
	for _, f := range locks.of {
		i := f.inode
		for _, l := range f.ranges {
			out = append(out, HeldLock{Lock: l, Inode: i})
		}
		for _, w := range f.whole {
			l := Lock{Type: unix.F_RDLCK, End: math.MaxInt64, PID: w.pid}
			if w.op == unix.LOCK_EX {
				l.Type = unix.F_WRLCK
			}
			out = append(out, HeldLock{l, true, i})
		}
	}
	return out
}

package vfs

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FDTable is a process's descriptors. Get takes no lock.
type FDTable struct {
	refs  atomic.Int32
	slots atomic.Pointer[[]atomic.Pointer[Description]] // pairs with Get; replaced when it grows

	mu      sync.Mutex
	open    bitset // numbers in use
	cloexec bitset
	low     int // no number below is free
}

// bitset is a set of descriptor numbers.
type bitset []uint64

func (b bitset) has(n int) bool { return n>>6 < len(b) && b[n>>6]&(1<<(n&63)) != 0 }
func (b bitset) clear(n int)    { b[n>>6] &^= 1 << (n & 63) }
func (b bitset) set(n int)      { b[n>>6] |= 1 << (n & 63) }

func (b bitset) put(n int, on bool) {
	if on {
		b.set(n)
	} else {
		b.clear(n)
	}
}

// free is the lowest number from min on that is not in b.
func (b bitset) free(min int) int {
	for w := min >> 6; w < len(b); w++ {
		word := ^b[w]
		if w == min>>6 {
			word &^= 1<<(min&63) - 1
		}
		if word != 0 {
			return w<<6 + bits.TrailingZeros64(word)
		}
	}
	return max(min, len(b)<<6)
}

// NewFDTable makes an empty table with one reference.
func NewFDTable() *FDTable {
	t := &FDTable{}
	t.refs.Store(1)
	t.growLocked(64)
	return t
}

// Ref counts another process that shares the table (CLONE_FILES).
func (t *FDTable) Ref() { t.refs.Add(1) }

// Shared reports whether several share it.
func (t *FDTable) Shared() bool { return t.refs.Load() > 1 }

// Unref drops a reference; the last one closes everything.
func (t *FDTable) Unref() {
	if t.refs.Add(-1) == 0 {
		t.CloseRange(0, len(*t.slots.Load())-1)
	}
}

// growLocked makes room for n descriptors.
func (t *FDTable) growLocked(n int) {
	n = 1 << bits.Len(uint(max(n, 64)-1))
	next := make([]atomic.Pointer[Description], n)
	if old := t.slots.Load(); old != nil {
		for i := range *old {
			next[i].Store((*old)[i].Load())
		}
	}
	t.slots.Store(&next)
	for _, b := range []*bitset{&t.open, &t.cloexec} {
		*b = append(*b, make(bitset, n>>6-len(*b))...)
	}
}

// Get returns what fd refers to, with a reference that the caller drops.
func (t *FDTable) Get(fd int) (*Description, error) {
	for {
		slots := *t.slots.Load()
		if uint(fd) >= uint(len(slots)) {
			return nil, unix.EBADF
		}
		d := slots[fd].Load()
		if d == nil {
			return nil, unix.EBADF
		}
		if d.tryRef() {
			return d, nil
		}
	}
}

// Install gives d the lowest free number from min on, which holds a reference of
// its own. limit is RLIMIT_NOFILE.
func (t *FDTable) Install(d *Description, min int, cloexec bool, limit int) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if min < 0 || min > 0 && min >= limit {
		return -1, unix.EINVAL
	}
	fd := t.open.free(max(min, t.low))
	if fd >= limit {
		return -1, unix.EMFILE
	}
	if min <= t.low {
		t.low = fd + 1
	}
	d.Ref()
	t.putLocked(fd, d, cloexec)
	return fd, nil
}

// Full is EMFILE if Install from number 0 on would be. Who is about to make or
// take something asks first, so that it is not made or lost (fs/open.c,
// do_sys_openat2); Install has the last word.
func (t *FDTable) Full(limit int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.low = t.open.free(t.low); t.low >= limit {
		return unix.EMFILE
	}
	return nil
}

// putLocked sets fd and returns what was there.
func (t *FDTable) putLocked(fd int, d *Description, cloexec bool) *Description {
	if fd >= len(*t.slots.Load()) {
		t.growLocked(fd + 1)
	}
	t.open.set(fd)
	t.cloexec.put(fd, cloexec)
	return (*t.slots.Load())[fd].Swap(d)
}

// takeLocked empties fd.
func (t *FDTable) takeLocked(fd int) *Description {
	t.open.clear(fd)
	t.cloexec.clear(fd)
	t.low = min(t.low, fd)
	return (*t.slots.Load())[fd].Swap(nil)
}

// drop closes what has been taken out of t.
func (t *FDTable) drop(d *Description) {
	if d != nil {
		releaseLocks(t, d.path.Inode()) // any close by the process drops its POSIX locks
		forgetNote(noteKey{t, d})
		d.Unref()
	}
}

// Dup3 makes new refer to what old does, closing what it was.
func (t *FDTable) Dup3(old, new int, cloexec bool, limit int) error {
	if old == new {
		return unix.EINVAL
	}
	if new < 0 || new >= limit {
		return unix.EBADF
	}
	d, err := t.Get(old)
	if err != nil {
		return err
	}
	t.mu.Lock()
	was := t.putLocked(new, d, cloexec)
	t.mu.Unlock()
	t.drop(was)
	return nil
}

// Replace makes fd refer to d, with a reference of its own, closing what it was.
func (t *FDTable) Replace(fd int, d *Description, cloexec bool) {
	d.Ref()
	t.mu.Lock()
	was := t.putLocked(fd, d, cloexec)
	t.mu.Unlock()
	t.drop(was)
}

// Close is close(2).
func (t *FDTable) Close(fd int) error {
	t.mu.Lock()
	if fd < 0 || !t.open.has(fd) {
		t.mu.Unlock()
		return unix.EBADF
	}
	d := t.takeLocked(fd)
	t.mu.Unlock()
	t.drop(d)
	return nil
}

// CloseRange closes all descriptors from first to last.
func (t *FDTable) CloseRange(first, last int) {
	t.closeWhere(first, last, func(int) bool { return true })
}

// CloseOnExec closes what has FD_CLOEXEC.
func (t *FDTable) CloseOnExec() {
	t.closeWhere(0, len(*t.slots.Load())-1, func(fd int) bool { return t.cloexec.has(fd) })
}

func (t *FDTable) closeWhere(first, last int, which func(fd int) bool) {
	var gone []*Description
	t.mu.Lock()
	for fd := first; fd <= last && fd < len(t.open)<<6; fd++ {
		if t.open[fd>>6]>>(fd&63) == 0 {
			fd |= 63
			continue
		}
		if t.open.has(fd) && which(fd) {
			gone = append(gone, t.takeLocked(fd))
		}
	}
	t.mu.Unlock()
	for _, d := range gone {
		t.drop(d)
	}
}

// CloexecRange sets FD_CLOEXEC on all descriptors from first to last.
func (t *FDTable) CloexecRange(first, last int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for fd := first; fd <= last && fd < len(t.open)<<6; fd++ {
		if t.open.has(fd) {
			t.cloexec.set(fd)
		}
	}
}

// Cloexec reports FD_CLOEXEC.
func (t *FDTable) Cloexec(fd int) (bool, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fd < 0 || !t.open.has(fd) {
		return false, unix.EBADF
	}
	return t.cloexec.has(fd), nil
}

// SetCloexec sets FD_CLOEXEC.
func (t *FDTable) SetCloexec(fd int, on bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if fd < 0 || !t.open.has(fd) {
		return unix.EBADF
	}
	t.cloexec.put(fd, on)
	return nil
}

// Clone copies the table, as fork does.
func (t *FDTable) Clone() *FDTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &FDTable{low: t.low, open: append(bitset(nil), t.open...), cloexec: append(bitset(nil), t.cloexec...)}
	c.refs.Store(1)
	old := *t.slots.Load()
	next := make([]atomic.Pointer[Description], len(old))
	for i := range old {
		if d := old[i].Load(); d != nil {
			d.Ref()
			next[i].Store(d)
		}
	}
	c.slots.Store(&next)
	return c
}

// Len is how many descriptors are open.
func (t *FDTable) Len() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, word := range t.open {
		n += bits.OnesCount64(word)
	}
	return n
}

// FDs are the numbers in use, in order.
func (t *FDTable) FDs() []int {
	t.mu.Lock()
	defer t.mu.Unlock()
	var fds []int
	for w, word := range t.open {
		for ; word != 0; word &= word - 1 {
			fds = append(fds, w<<6+bits.TrailingZeros64(word))
		}
	}
	return fds
}

package kernel

import (
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// futexBuckets spreads waiters; a power of two.
const futexBuckets = 256

// futexTable holds who sleeps on which word. Words are compared by Key, so that
// processes that share memory meet. Two buckets are locked in index order.
type futexTable struct {
	seed    maphash.Seed
	buckets [futexBuckets]futexBucket
}

type futexBucket struct {
	mu      sync.Mutex
	waiters map[memory.FutexKey][]*futexWaiter
}

type futexWaiter struct {
	key    memory.FutexKey
	bucket *futexBucket // under the lock of the bucket it names; nil once woken
	bits   uint32
	c      chan struct{} // closed on wake
	task   *Task         // to be roused then; nil for futex_waitv
	owner  *sync.Mutex
	pi     *piRequeue // of FUTEX_WAIT_REQUEUE_PI: nobody but FUTEX_CMP_REQUEUE_PI wakes it
}

func (f *futexTable) init() {
	f.seed = maphash.MakeSeed()
	for i := range f.buckets {
		f.buckets[i].waiters = map[memory.FutexKey][]*futexWaiter{}
	}
}

func (f *futexTable) hash(k memory.FutexKey) uint64 {
	return maphash.Comparable(f.seed, k) % futexBuckets
}

func (f *futexTable) bucket(k memory.FutexKey) *futexBucket {
	return &f.buckets[f.hash(k)]
}

// lock2 locks the buckets of two keys in order and returns them and the unlock.
func (f *futexTable) lock2(a, b memory.FutexKey) (*futexBucket, *futexBucket, func()) {
	i, j := f.hash(a), f.hash(b)
	x, y := &f.buckets[i], &f.buckets[j]
	switch {
	case i == j:
		x.mu.Lock()
		return x, y, x.mu.Unlock
	case i < j:
		x.mu.Lock()
		y.mu.Lock()
	default:
		y.mu.Lock()
		x.mu.Lock()
	}
	return x, y, func() { x.mu.Unlock(); y.mu.Unlock() }
}

func (b *futexBucket) add(w *futexWaiter) {
	w.bucket = b
	b.waiters[w.key] = append(b.waiters[w.key], w)
}

func (b *futexBucket) remove(w *futexWaiter) {
	l := b.waiters[w.key]
	for i, x := range l {
		if x == w {
			l = append(l[:i:i], l[i+1:]...)
			break
		}
	}
	b.set(w.key, l)
	w.bucket = nil
}

func (b *futexBucket) set(k memory.FutexKey, l []*futexWaiter) {
	if len(l) == 0 {
		delete(b.waiters, k)
	} else {
		b.waiters[k] = l
	}
}

// wakeLocked wakes up to n waiters of k that share a bit with bits. unix.EINVAL: it met
// one that waits to be requeued.
func (b *futexBucket) wakeLocked(k memory.FutexKey, n int, bits uint32) (woken int, err error) {
	l := b.waiters[k]
	if len(l) == 0 {
		return 0, nil
	}
	kept := make([]*futexWaiter, 0, len(l))
	for _, w := range l {
		if woken < n && w.pi != nil {
			n, err = 0, unix.EINVAL
		}
		if woken < n && w.bits&bits != 0 {
			w.bucket = nil
			close(w.c)
			if w.task != nil {
				w.task.rouse()
			}
			woken++
			continue
		}
		kept = append(kept, w)
	}
	b.set(k, kept)
	return woken, err
}

func (f *futexTable) wake(k memory.FutexKey, n int, bits uint32) (int, error) {
	b := f.bucket(k)
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wakeLocked(k, n, bits)
}

// cancel takes w out and reports whether it was still waiting.
func (f *futexTable) cancel(w *futexWaiter) bool {
	for {
		// A requeue may move w to another bucket; its key says which, under that
		// bucket's lock.
		w.owner.Lock()
		k := w.key
		w.owner.Unlock()
		b := f.bucket(k)
		b.mu.Lock()
		if w.bucket == nil {
			b.mu.Unlock()
			return false
		}
		if w.bucket == b {
			b.remove(w)
			b.mu.Unlock()
			return true
		}
		b.mu.Unlock()
	}
}

// FutexWait is FUTEX_WAIT(_BITSET). deadline is monotonic, 0 for none.
func (t *Task) FutexWait(at memory.Addr, shared bool, val, bits uint32, deadline time.Duration) error {
	if bits == 0 {
		return unix.EINVAL
	}
	f := &t.k.Futex
	w, err := f.enqueue(t, t.mm, at, shared, val, bits, nil)
	if err != nil {
		return err
	}
	err = t.BlockOn(w.c, deadline)
	if err != nil && !f.cancel(w) {
		return nil // woken in the meantime
	}
	return err
}

// enqueue puts a waiter on the word if it holds val. The word is read once
// without the lock, to bring its page in, and again with it.
func (f *futexTable) enqueue(t *Task, mm *memory.Space, at memory.Addr, shared bool, val, bits uint32, pi *piRequeue) (*futexWaiter, error) {
	if at&3 != 0 {
		return nil, unix.EINVAL
	}
	if v, err := mm.LoadUint32(at); err != nil {
		return nil, err
	} else if v != val {
		return nil, unix.EAGAIN
	}
	key, err := mm.Key(at, shared)
	if err != nil {
		return nil, err
	}
	w := &futexWaiter{key: key, bits: bits, c: make(chan struct{}), task: t, owner: new(sync.Mutex), pi: pi}
	b := f.bucket(key)
	b.mu.Lock()
	defer b.mu.Unlock()
	v, err := mm.LoadUint32(at)
	if err != nil {
		return nil, err
	}
	if v != val {
		return nil, unix.EAGAIN
	}
	b.add(w)
	return w, nil
}

// FutexWake is FUTEX_WAKE(_BITSET); it returns how many it woke.
func (t *Task) FutexWake(at memory.Addr, shared bool, n int, bits uint32) (int, error) {
	if bits == 0 || at&3 != 0 {
		return 0, unix.EINVAL
	}
	key, err := t.mm.Key(at, shared)
	if err != nil {
		return 0, err
	}
	return t.k.Futex.wake(key, n, bits)
}

// futexKeys are those of the two futexes of a requeue.
func (t *Task) futexKeys(from, to memory.Addr, shared bool) (k1, k2 memory.FutexKey, err error) {
	if k1, err = t.mm.Key(from, shared); err == nil {
		k2, err = t.mm.Key(to, shared)
	}
	return k1, k2, err
}

// FutexRequeue is FUTEX_REQUEUE, and with cmp not nil FUTEX_CMP_REQUEUE.
func (t *Task) FutexRequeue(from, to memory.Addr, shared bool, wake, move int, cmp *uint32) (int, error) {
	if from&3 != 0 || to&3 != 0 || wake < 0 || move < 0 {
		return 0, unix.EINVAL
	}
	k1, k2, err := t.futexKeys(from, to, shared)
	if err != nil {
		return 0, err
	}
	if _, err := t.mm.LoadUint32(from); err != nil {
		return 0, err
	}
	b1, b2, unlock := t.k.Futex.lock2(k1, k2)
	defer unlock()
	if cmp != nil {
		if v, err := t.mm.LoadUint32(from); err != nil {
			return 0, err
		} else if v != *cmp {
			return 0, unix.EAGAIN
		}
	}
	n, err := b1.wakeLocked(k1, wake, ^uint32(0))
	if err != nil {
		return 0, err
	}
	for moved := 0; moved < move && len(b1.waiters[k1]) > 0; moved++ {
		w := b1.waiters[k1][0]
		if w.pi != nil {
			return 0, unix.EINVAL
		}
		b1.remove(w)
		w.owner.Lock()
		w.key = k2
		w.owner.Unlock()
		b2.add(w)
		n++
	}
	return n, nil
}

// FutexWakeOp is FUTEX_WAKE_OP (include/uapi/linux/futex.h).
func (t *Task) FutexWakeOp(at1, at2 memory.Addr, shared bool, n1, n2 int, op uint32) (int, error) {
	k1, err := t.mm.Key(at1, shared)
	if err != nil {
		return 0, err
	}
	k2, err := t.mm.Key(at2, shared)
	if err != nil {
		return 0, err
	}
	if _, err := t.mm.LoadUint32(at2); err != nil {
		return 0, err
	}
	b1, b2, unlock := t.k.Futex.lock2(k1, k2)
	defer unlock()
	old, err := t.futexOp(at2, op)
	if err != nil {
		return 0, err
	}
	n, err := b1.wakeLocked(k1, n1, ^uint32(0))
	if err != nil {
		return 0, err
	}
	if hold, err := futexCompare(old, op); err != nil {
		return 0, err
	} else if hold {
		more, err := b2.wakeLocked(k2, n2, ^uint32(0))
		if n += more; err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (t *Task) futexOp(at memory.Addr, op uint32) (uint32, error) {
	arg := uint32(int32(op<<8) >> 20)
	if op&(8<<28) != 0 {
		arg = 1 << (arg & 31)
	}
	for {
		old, err := t.mm.LoadUint32(at)
		if err != nil {
			return 0, err
		}
		var v uint32
		switch op >> 28 & 7 {
		case 0:
			v = arg
		case 1:
			v = old + arg
		case 2:
			v = old | arg
		case 3:
			v = old &^ arg
		case 4:
			v = old ^ arg
		default:
			return 0, unix.ENOSYS
		}
		if done, err := t.mm.CompareAndSwapUint32(at, old, v); err != nil {
			return 0, err
		} else if done {
			return old, nil
		}
	}
}

func futexCompare(old, op uint32) (bool, error) {
	a, b := int32(old), int32(op<<20)>>20
	switch op >> 24 & 15 {
	case 0:
		return a == b, nil
	case 1:
		return a != b, nil
	case 2:
		return a < b, nil
	case 3:
		return a <= b, nil
	case 4:
		return a > b, nil
	case 5:
		return a >= b, nil
	}
	return false, unix.ENOSYS
}

// FutexWord is one of futex_waitv(2)'s.
type FutexWord struct {
	At     memory.Addr
	Val    uint32
	Shared bool
}

// FutexWaitv waits for any of several words and returns the index of one that
// was woken.
func (t *Task) FutexWaitv(words []FutexWord, deadline time.Duration) (int, error) {
	f := &t.k.Futex
	any := make(chan struct{}, 1)
	stop := make(chan struct{})
	defer close(stop)
	var ws []*futexWaiter
	woken := func() int {
		index := -1
		for i, w := range ws {
			if !f.cancel(w) {
				index = i
			}
		}
		return index
	}
	for _, word := range words {
		w, err := f.enqueue(nil, t.mm, word.At, word.Shared, word.Val, ^uint32(0), nil)
		if err != nil {
			if i := woken(); i >= 0 {
				return i, nil
			}
			return 0, err
		}
		ws = append(ws, w)
		go func() {
			select {
			case <-w.c:
				select {
				case any <- struct{}{}:
				default:
				}
			case <-stop:
			}
		}()
	}
	err := t.BlockUntil(any, deadline)
	if i := woken(); i >= 0 {
		return i, nil
	}
	return 0, err
}

package kernel

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// Bits of the word of a priority-inheriting futex (include/uapi/linux/futex.h): the
// owner's thread id below.
const (
	futexWaiters   = 0x80000000
	futexOwnerDied = 0x40000000
	futexTID       = 0x3fffffff
)

// piTable has the futexes that somebody waits for by FUTEX_LOCK_PI. Their words
// change hands in the kernel: who unlocks makes the thread of the highest priority that
// waits the owner, of several the one that waits longest (kernel/futex/pi.c). No
// priority is lent, since none is followed.
//
// mu is taken before a futexBucket's and locks of the memory room, and after none.
type piTable struct {
	mu     sync.Mutex
	states map[memory.FutexKey]*piState
}

type piState struct {
	key     memory.FutexKey
	owner   *Task
	waiters []*piWaiter
}

type piWaiter struct {
	task *Task
	at   memory.Addr
	c    chan struct{} // closed when it owns the futex
	got  bool
}

// FutexLockPI is FUTEX_LOCK_PI; with try it is FUTEX_TRYLOCK_PI. deadline is
// monotonic, 0 for none.
func (t *Task) FutexLockPI(at memory.Addr, shared, try bool, deadline time.Duration) error {
	key, err := t.mm.Key(at, shared)
	if err != nil {
		return err
	}
	if _, err := t.mm.LoadUint32(at); err != nil { // brings the page in
		return err
	}
	pi := &t.k.pi
	pi.mu.Lock()
	w, err := t.lockPILocked(key, at, try, nil)
	pi.mu.Unlock()
	if err != nil || w == nil {
		return err
	}
	err = t.BlockOn(w.c, deadline)
	pi.mu.Lock()
	defer pi.mu.Unlock()
	if w.got {
		return nil
	}
	t.leavePILocked(key, w)
	if err == ERESTARTSYS {
		err = ERESTARTNOINTR
	}
	return err
}

// leavePILocked ends a wait in vain.
func (t *Task) leavePILocked(key memory.FutexKey, w *piWaiter) {
	pi := &t.k.pi
	if s := pi.states[key]; s != nil {
		s.waiters = slices.DeleteFunc(s.waiters, func(x *piWaiter) bool { return x == w })
		pi.tidy(s)
	}
	t.waitsPI = nil
}

// tidy forgets a futex that nobody waits for. Its word says who owns it.
func (pi *piTable) tidy(s *piState) {
	if len(s.waiters) == 0 {
		delete(pi.states, s.key)
		if s.owner != nil {
			delete(s.owner.ownsPI, s)
		}
	}
}

// lockPILocked takes the futex, or queues the task for it: then there is a waiter, with
// channel c or one of its own. t may be another task than the caller's that waits for
// piTable.mu to go on.
func (t *Task) lockPILocked(key memory.FutexKey, at memory.Addr, try bool, c chan struct{}) (*piWaiter, error) {
	me := uint32(t.TID())
	pi := &t.k.pi
	for {
		v, err := t.mm.LoadUint32(at)
		if err != nil {
			return nil, err
		}
		s := pi.states[key]
		switch owner := v & futexTID; {
		case owner == me:
			return nil, unix.EDEADLK
		case owner == 0 && s == nil:
			if done, err := t.mm.CompareAndSwapUint32(at, v, me|v&futexOwnerDied); err != nil || done {
				return nil, err
			}
			continue
		case try:
			return nil, unix.EAGAIN
		}
		if s == nil {
			owner := t.Find(int32(v & futexTID))
			if owner == nil {
				return nil, unix.ESRCH
			}
			s = &piState{key: key, owner: owner}
		}
		if done, err := t.mm.CompareAndSwapUint32(at, v, v|futexWaiters); err != nil {
			return nil, err
		} else if !done {
			continue
		}
		for x, n := s, 0; x != nil && x.owner != nil && n < 1024; n++ {
			if x.owner == t {
				return nil, unix.EDEADLK
			}
			x = x.owner.waitsPI
		}
		if pi.states == nil {
			pi.states = map[memory.FutexKey]*piState{}
		}
		pi.states[key] = s
		s.own(s.owner)
		if c == nil {
			c = make(chan struct{})
		}
		w := &piWaiter{task: t, at: at, c: c}
		s.queue(w)
		t.waitsPI = s
		return w, nil
	}
}

// queue puts w behind those of at least its priority.
func (s *piState) queue(w *piWaiter) {
	i := len(s.waiters)
	for i > 0 && s.waiters[i-1].task.realtime() < w.task.realtime() {
		i--
	}
	s.waiters = slices.Insert(s.waiters, i, w)
}

// realtime is the priority of a task that has one of SCHED_FIFO or SCHED_RR, else 0.
func (t *Task) realtime() int32 {
	if p := t.Policy.Load(); p == unix.SCHED_FIFO || p == unix.SCHED_RR {
		return t.Priority.Load()
	}
	return 0
}

// own notes whose the futex is.
func (s *piState) own(t *Task) {
	if s.owner != nil && s.owner != t {
		delete(s.owner.ownsPI, s)
	}
	if s.owner = t; t != nil {
		if t.ownsPI == nil {
			t.ownsPI = map[*piState]struct{}{}
		}
		t.ownsPI[s] = struct{}{}
	}
}

// FutexUnlockPI is FUTEX_UNLOCK_PI.
func (t *Task) FutexUnlockPI(at memory.Addr, shared bool) error {
	key, err := t.mm.Key(at, shared)
	if err != nil {
		return err
	}
	if _, err := t.mm.LoadUint32(at); err != nil {
		return err
	}
	pi := &t.k.pi
	pi.mu.Lock()
	defer pi.mu.Unlock()
	for {
		v, err := t.mm.LoadUint32(at)
		switch {
		case err != nil:
			return err
		case v&futexTID != uint32(t.TID()):
			return unix.EPERM
		}
		if s := pi.states[key]; s != nil {
			return pi.hand(s, 0)
		}
		if done, err := t.mm.CompareAndSwapUint32(at, v, 0); err != nil || done {
			return err
		}
	}
}

// hand makes the first waiter the owner.
func (pi *piTable) hand(s *piState, died uint32) error {
	w := s.waiters[0]
	// The word is written in the waiter's memory, which is there: it waits.
	if err := w.task.mm.StoreUint32(w.at, uint32(w.task.TID())|futexWaiters|died); err != nil {
		return err
	}
	s.waiters = s.waiters[1:]
	w.got = true
	w.task.waitsPI = nil
	s.own(w.task)
	pi.tidy(s)
	close(w.c)
	w.task.rouse()
	return nil
}

// exitPI hands over what t owns and others wait for (exit_pi_state_list).
func (t *Task) exitPI() {
	pi := &t.k.pi
	pi.mu.Lock()
	defer pi.mu.Unlock()
	for s := range t.ownsPI {
		if err := pi.hand(s, futexOwnerDied); err != nil {
			s.own(nil)
		}
	}
	t.ownsPI = nil
}

// piRequeue is what a FUTEX_WAIT_REQUEUE_PI waits to be moved to: the condition variable's
// mutex. Its fields but key and at are under piTable.mu.
type piRequeue struct {
	key memory.FutexKey
	at  memory.Addr

	waiter *piWaiter // for the mutex, once moved there
	got    bool      // the mutex was free, and is its
}

// FutexWaitRequeuePI is FUTEX_WAIT_REQUEUE_PI: it waits on from if that holds val, until
// FUTEX_CMP_REQUEUE_PI moves it to the mutex to, and then for that. deadline is
// monotonic, 0 for none.
func (t *Task) FutexWaitRequeuePI(from, to memory.Addr, shared bool, val uint32, deadline time.Duration) error {
	if from == to {
		return unix.EINVAL
	}
	key, err := t.mm.Key(to, shared)
	if err != nil {
		return err
	}
	if k, err := t.mm.Key(from, shared); err != nil || k == key {
		return cmp.Or(err, error(unix.EINVAL))
	}
	r := &piRequeue{key: key, at: to}
	w, err := t.k.Futex.enqueue(t, t.mm, from, shared, val, ^uint32(0), r)
	if err != nil {
		return err
	}
	err = t.BlockOn(w.c, deadline)
	pi := &t.k.pi
	pi.mu.Lock()
	defer pi.mu.Unlock()
	switch {
	case r.got, r.waiter != nil && r.waiter.got:
		return nil
	case r.waiter != nil:
		t.leavePILocked(key, r.waiter)
		if err == ERESTARTSYS {
			err = unix.EAGAIN // from no longer holds val
		}
		return err
	}
	t.k.Futex.cancel(w)
	if err == ERESTARTSYS {
		err = ERESTARTNOINTR
	}
	return err
}

// FutexCmpRequeuePI is FUTEX_CMP_REQUEUE_PI: if from holds val, the first that waits there
// gets the mutex to if that is free, and up to move of the others wait for it from now
// on. It returns how many those are in all.
func (t *Task) FutexCmpRequeuePI(from, to memory.Addr, shared bool, wake, move int, val uint32) (n int, err error) {
	if from == to || from&3 != 0 || to&3 != 0 || move < 0 || wake != 1 {
		return 0, unix.EINVAL
	}
	k1, k2, err := t.futexKeys(from, to, shared)
	if err != nil {
		return 0, err
	}
	if k1 == k2 {
		return 0, unix.EINVAL
	}
	for _, at := range []memory.Addr{from, to} { // brings the pages in
		if _, err := t.mm.LoadUint32(at); err != nil {
			return 0, err
		}
	}
	pi, b := &t.k.pi, t.k.Futex.bucket(k1)
	pi.mu.Lock()
	defer pi.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if v, err := t.mm.LoadUint32(from); err != nil {
		return 0, err
	} else if v != val {
		return 0, unix.EAGAIN
	}
	for n < wake+move && len(b.waiters[k1]) > 0 {
		w := b.waiters[k1][0]
		if w.pi == nil || w.pi.key != k2 {
			return 0, unix.EINVAL
		}
		if err := w.moveLocked(b); err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

// moveLocked makes w, which waits in b, wait for its mutex or own it.
func (w *futexWaiter) moveLocked(b *futexBucket) error {
	r := w.pi
	q, err := w.task.lockPILocked(r.key, r.at, false, w.c)
	if err != nil {
		return err
	}
	b.remove(w)
	if r.waiter = q; q == nil {
		r.got = true
		close(w.c)
		w.task.rouse()
	}
	return nil
}

package kernel

import (
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
// change hands in the kernel: who unlocks makes the longest waiting thread the
// owner (kernel/futex/pi.c). No priority is lent, since none is followed.
//
// mu is taken before locks of the memory room, and after none.
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
	w, err := t.lockPILocked(key, at, try)
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
	if s := pi.states[key]; s != nil {
		s.waiters = slices.DeleteFunc(s.waiters, func(x *piWaiter) bool { return x == w })
		pi.tidy(s)
	}
	t.waitsPI = nil
	if err == ERESTARTSYS {
		err = ERESTARTNOINTR
	}
	return err
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

// lockPILocked takes the futex, or queues the task for it: then there is a waiter.
func (t *Task) lockPILocked(key memory.FutexKey, at memory.Addr, try bool) (*piWaiter, error) {
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
		w := &piWaiter{task: t, at: at, c: make(chan struct{})}
		s.waiters = append(s.waiters, w)
		t.waitsPI = s
		return w, nil
	}
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

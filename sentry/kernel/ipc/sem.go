package ipc

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

const (
	semValueMax = 32767 // SEMVMX
	SemUndo     = 0x1000

	// Most semaphores, and most undo entries, of a namespace: Linux charges them to
	// the container's memory; here they lie in the Sentry's.
	semMost = 4 << 20
)

type semSpace struct {
	mu     sync.Mutex
	ids    ids[*semSet]
	used   int // semaphores
	undone int // entries of undo lists
}

type semaphore struct {
	value int32
	pid   int32
}

type semSet struct {
	p            Perm
	sems         []semaphore
	otime, ctime int64
	waiting      []*semWaiter // in the order of their coming
	undos        map[*UndoList][]int16
}

func (s *semSet) perm() *Perm { return &s.p }

// SemOp is struct sembuf.
type SemOp struct {
	Num   uint16
	Op    int16
	Flags int16
}

// semWaiter is a call that sleeps. done and err are under semSpace.mu.
type semWaiter struct {
	ops      []SemOp
	undo     *UndoList // nil: no operation undoes
	pid      int32
	blocking int // the operation that does not go through
	done     bool
	err      error
	w        *vfs.Waiter
}

// UndoList is what a process (or several, by CLONE_SYSVSEM) has to undo when it
// ends.
type UndoList struct {
	ns    *Namespace
	users int // under semSpace.mu
	sets  map[*semSet]struct{}
}

// NewUndo makes a list with one user.
func (ns *Namespace) NewUndo() *UndoList {
	return &UndoList{ns: ns, users: 1, sets: map[*semSet]struct{}{}}
}

// Share adds a user.
func (u *UndoList) Share() *UndoList {
	u.ns.sem.mu.Lock()
	defer u.ns.sem.mu.Unlock()
	u.users++
	return u
}

// Release takes a user away; the last one's end undoes (ipc/sem.c, exit_sem).
func (u *UndoList) Release(pid int32, now int64) {
	ss := &u.ns.sem
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if u.users--; u.users > 0 {
		return
	}
	for s := range u.sets {
		for i, adj := range s.undos[u] {
			if adj != 0 {
				x := &s.sems[i]
				x.value = max(0, min(x.value+int32(adj), semValueMax))
				x.pid = pid
			}
		}
		s.dropUndo(ss, u)
		s.otime = now
		s.update(now)
	}
}

func (s *semSet) dropUndo(ss *semSpace, u *UndoList) {
	ss.undone -= len(s.undos[u])
	delete(s.undos, u)
	delete(u.sets, s)
}

// SemGet is semget(2).
func (ns *Namespace) SemGet(t Task, key int32, n, flags int) (int, error) {
	limits := ns.Limits()
	if n < 0 || n > limits.SemMSL {
		return 0, unix.EINVAL
	}
	ss := &ns.sem
	ss.mu.Lock()
	defer ss.mu.Unlock()
	fits := func(s *semSet) error {
		if n > len(s.sems) {
			return unix.EINVAL
		}
		return nil
	}
	return getOrMake(&ss.ids, t, key, flags, fits, func() (*semSet, error) {
		switch {
		case n == 0:
			return nil, unix.EINVAL
		case ss.used+n > limits.SemMNS, len(ss.ids.at) >= limits.SemMNI:
			return nil, unix.ENOSPC
		case ss.used+n > semMost:
			return nil, unix.ENOMEM
		}
		ss.used += n
		return &semSet{p: ns.newPerm(t, key, uint32(flags)), sems: make([]semaphore, n), ctime: seconds(t),
			undos: map[*UndoList][]int16{}}, nil
	})
}

// SemOp is semop(2) and semtimedop(2): deadline is monotonic, 0 for none. undo
// gives the caller's list; it is asked where an operation undoes.
func (ns *Namespace) SemOp(t Task, id int, ops []SemOp, deadline time.Duration, undo func() *UndoList) error {
	ss := &ns.sem
	w := &semWaiter{ops: ops, pid: t.PID()}
	want := uint32(0o444)
	top := uint16(0)
	for _, o := range ops {
		if o.Op != 0 {
			want = 0o222
		}
		if o.Flags&SemUndo != 0 && w.undo == nil {
			w.undo = undo()
		}
		top = max(top, o.Num)
	}
	ss.mu.Lock()
	s, err := ss.ids.get(id)
	if err == nil {
		if int(top) >= len(s.sems) {
			err = unix.EFBIG
		} else {
			err = s.p.allows(t, want)
		}
	}
	if err == nil && w.undo != nil && s.undos[w.undo] == nil {
		if ss.undone+len(s.sems) > semMost {
			err = unix.ENOMEM
		} else {
			ss.undone += len(s.sems)
			s.undos[w.undo] = make([]int16, len(s.sems))
			w.undo.sets[s] = struct{}{}
		}
	}
	if err != nil {
		ss.mu.Unlock()
		return err
	}
	if done, err := s.try(w); done {
		if err == nil {
			s.otime = seconds(t)
			s.update(s.otime)
		}
		ss.mu.Unlock()
		return err
	}
	c := make(chan struct{}, 1)
	w.w = t.Waiter(vfs.EventIn, c)
	s.waiting = append(s.waiting, w)
	ss.mu.Unlock()
	for {
		err = t.BlockOn(c, deadline)
		ss.mu.Lock()
		if w.done {
			ss.mu.Unlock()
			return w.err
		}
		if err != nil {
			s.waiting = slices.DeleteFunc(s.waiting, func(x *semWaiter) bool { return x == w })
			ss.mu.Unlock()
			if err == unix.ETIMEDOUT {
				return unix.EAGAIN
			}
			return err
		}
		ss.mu.Unlock()
	}
}

// try does all operations of w or none (ipc/sem.c, perform_atomic_semop). It says
// whether the call is over.
func (s *semSet) try(w *semWaiter) (done bool, err error) {
	var adj []int16
	if w.undo != nil {
		adj = s.undos[w.undo]
	}
	i := 0
	for ; i < len(w.ops); i++ {
		o := w.ops[i]
		x := &s.sems[o.Num]
		v := x.value + int32(o.Op)
		if o.Op == 0 && x.value != 0 || v < 0 {
			if o.Flags&NoWait != 0 {
				err = unix.EAGAIN
			}
			break
		}
		if v > semValueMax {
			err = unix.ERANGE
			break
		}
		if o.Flags&SemUndo != 0 {
			u := int32(adj[o.Num]) - int32(o.Op)
			if u < -semValueMax-1 || u > semValueMax {
				err = unix.ERANGE
				break
			}
			adj[o.Num] = int16(u)
		}
		x.value = v
	}
	if i == len(w.ops) {
		for _, o := range w.ops {
			s.sems[o.Num].pid = w.pid
		}
		return true, nil
	}
	w.blocking = i
	for i--; i >= 0; i-- {
		o := w.ops[i]
		s.sems[o.Num].value -= int32(o.Op)
		if o.Flags&SemUndo != 0 {
			adj[o.Num] += o.Op
		}
	}
	return err != nil, err
}

// alters says whether a call that went through may let others go on.
func (w *semWaiter) alters() bool {
	return slices.ContainsFunc(w.ops, func(o SemOp) bool { return o.Op != 0 })
}

// update lets calls that sleep go through, the oldest first.
func (s *semSet) update(now int64) {
	for i := 0; i < len(s.waiting); {
		w := s.waiting[i]
		done, err := s.try(w)
		if !done {
			i++
			continue
		}
		s.waiting = slices.Delete(s.waiting, i, i+1)
		w.finish(err)
		if err == nil {
			s.otime = now
			if w.alters() {
				i = 0
			}
		}
	}
}

func (w *semWaiter) finish(err error) {
	w.done, w.err = true, err
	w.w.Notify(vfs.EventIn)
}

// SemStat is struct semid64_ds.
type SemStat struct {
	Perm
	Otime, Ctime int64
	N            int
}

func (s *semSet) stat() SemStat { return SemStat{s.p, s.otime, s.ctime, len(s.sems)} }

// SemStat is IPC_STAT and its kin, as ShmStat.
func (ns *Namespace) SemStat(t Task, id int, byPlace, any bool) (SemStat, error) {
	ns.sem.mu.Lock()
	defer ns.sem.mu.Unlock()
	s, err := find(&ns.sem.ids, id, byPlace)
	if err != nil {
		return SemStat{}, err
	}
	if !any {
		if err := s.p.allows(t, 0o444); err != nil {
			return SemStat{}, err
		}
	}
	return s.stat(), nil
}

// SemSet is IPC_SET, SemRemove IPC_RMID.
func (ns *Namespace) SemSet(t Task, id int, o Owner) error {
	return ns.semControl(t, id, func(s *semSet) error {
		if err := s.p.set(o); err != nil {
			return err
		}
		s.ctime = seconds(t)
		return nil
	})
}

func (ns *Namespace) SemRemove(t Task, id int) error {
	return ns.semControl(t, id, func(s *semSet) error {
		ss := &ns.sem
		for u := range s.undos {
			s.dropUndo(ss, u)
		}
		ss.ids.remove(s)
		ss.used -= len(s.sems)
		for _, w := range s.waiting {
			w.finish(unix.EIDRM)
		}
		s.waiting = nil
		return nil
	})
}

func (ns *Namespace) semControl(t Task, id int, f func(*semSet) error) error {
	ns.sem.mu.Lock()
	defer ns.sem.mu.Unlock()
	s, err := ns.sem.ids.get(id)
	if err != nil {
		return err
	}
	if err := s.p.mayControl(t); err != nil {
		return err
	}
	return f(s)
}

// SemCount is how many semaphores id has, for GETALL and SETALL.
func (ns *Namespace) SemCount(t Task, id int, write bool) (int, error) {
	want := uint32(0o444)
	if write {
		want = 0o222
	}
	n := 0
	err := ns.semLook(t, id, want, func(s *semSet) error {
		n = len(s.sems)
		return nil
	})
	return n, err
}

// semLook calls f with a set that allows want.
func (ns *Namespace) semLook(t Task, id int, want uint32, f func(*semSet) error) error {
	ns.sem.mu.Lock()
	defer ns.sem.mu.Unlock()
	s, err := ns.sem.ids.get(id)
	if err != nil {
		return err
	}
	if err := s.p.allows(t, want); err != nil {
		return err
	}
	return f(s)
}

// SemValues is GETALL.
func (ns *Namespace) SemValues(t Task, id int) (v []uint16, err error) {
	err = ns.semLook(t, id, 0o444, func(s *semSet) error {
		for _, x := range s.sems {
			v = append(v, uint16(x.value))
		}
		return nil
	})
	return v, err
}

// SemAbout is what GETVAL, GETPID, GETNCNT and GETZCNT ask for.
type SemAbout struct {
	Value, PID, Rising, Zero int
}

// SemAbout looks at one semaphore. Who waits counts where it is stuck
// (ipc/sem.c, check_qop).
func (ns *Namespace) SemAbout(t Task, id, num int) (a SemAbout, err error) {
	err = ns.semLook(t, id, 0o444, func(s *semSet) error {
		if num < 0 || num >= len(s.sems) {
			return unix.EINVAL
		}
		a.Value, a.PID = int(s.sems[num].value), int(s.sems[num].pid)
		for _, w := range s.waiting {
			switch o := w.ops[w.blocking]; {
			case int(o.Num) != num:
			case o.Op == 0:
				a.Zero++
			case o.Op < 0:
				a.Rising++
			}
		}
		return nil
	})
	return a, err
}

// SemSetValue is SETVAL. Nobody undoes what was before.
func (ns *Namespace) SemSetValue(t Task, id, num, v int) error {
	if v > semValueMax || v < 0 {
		return unix.ERANGE
	}
	ns.sem.mu.Lock()
	defer ns.sem.mu.Unlock()
	s, err := ns.sem.ids.get(id)
	if err != nil {
		return err
	}
	if num < 0 || num >= len(s.sems) {
		return unix.EINVAL
	}
	if err := s.p.allows(t, 0o222); err != nil {
		return err
	}
	for _, adj := range s.undos {
		adj[num] = 0
	}
	s.sems[num] = semaphore{int32(v), t.PID()}
	s.ctime = seconds(t)
	s.update(s.ctime)
	return nil
}

// SemSetValues is SETALL.
func (ns *Namespace) SemSetValues(t Task, id int, v []uint16) error {
	for _, x := range v {
		if x > semValueMax {
			return unix.ERANGE
		}
	}
	return ns.semLook(t, id, 0o222, func(s *semSet) error {
		if len(v) != len(s.sems) {
			return unix.EIDRM // another set by now
		}
		for i, x := range v {
			s.sems[i] = semaphore{int32(x), t.PID()}
		}
		for _, adj := range s.undos {
			clear(adj)
		}
		s.ctime = seconds(t)
		s.update(s.ctime)
		return nil
	})
}

// SemInfo counts sets, semaphores, and says the highest place.
func (ns *Namespace) SemInfo() (sets, sems, highest int) {
	ns.sem.mu.Lock()
	defer ns.sem.mu.Unlock()
	return len(ns.sem.ids.at), ns.sem.used, ns.sem.ids.highest()
}

// SemSets are for /proc/sysvipc/sem.
func (ns *Namespace) SemSets() (l []SemStat) {
	ns.sem.mu.Lock()
	defer ns.sem.mu.Unlock()
	for _, s := range ns.sem.ids.all() {
		l = append(l, s.stat())
	}
	return l
}

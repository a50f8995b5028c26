package memory

import (
	"bytes"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Userfault hears of touches of missing pages in areas of a Space, whose contents a
// program gives itself (userfaultfd(2), fs/userfaultfd.c). A touch is one of the
// program's own, or a system call's that has changed nothing yet: it gives a Missing
// up to whoever can wait. Any other touch of the Sentry's finds bad memory there, as with
// UFFD_USER_MODE_ONLY: it may hold locks that the program needs to give the page.
type Userfault struct {
	s        *Space
	userOnly bool   // system calls find bad memory, too
	tell     func() // somebody waits; called without locks

	mu     sync.Mutex
	signal bool // SIGBUS instead of waiting
	asleep []*PageWait
	closed bool
}

// Missing is the error for a touch of a page that a Userfault's program is to give.
type Missing struct {
	of    *Userfault
	at    Addr
	write bool
}

func (*Missing) Error() string { return "memory: a page is missing that the program gives itself" }

// PageWait is a thread that waits for a page.
type PageWait struct {
	C      <-chan struct{} // closed when it had best look again
	At     Addr
	Write  bool
	Thread int32

	of   *Userfault
	c    chan struct{}
	told bool
}

// NewUserfault makes one for s. tell is called when a thread begins to wait; userOnly
// is UFFD_USER_MODE_ONLY.
func (s *Space) NewUserfault(userOnly bool, tell func()) *Userfault {
	return &Userfault{s: s, userOnly: userOnly, tell: tell}
}

// SignalInstead makes touches SIGBUS (UFFD_FEATURE_SIGBUS).
func (u *Userfault) SignalInstead() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.signal = true
}

func (u *Userfault) signals() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.signal
}

// given says that page v of ar is one that a program gives, and has not given yet.
func (s *Space) given(ar *area, v uint64) bool {
	if ar.faults == nil || s.table.get(v) != 0 {
		return false
	}
	o, ok := aheadOf(ar.obj)
	return !ok || !o.present(ar.offset(addr(v)))
}

// missing is the error for a touch of a page that is given.
func (s *Space) missing(ar *area, at Addr, write bool) error {
	if ar.faults.signals() {
		return unix.ENXIO
	}
	return &Missing{ar.faults, at, write}
}

// InCall is the error for a system call that touches the page: m itself where it can
// wait, else unix.EFAULT.
func (m *Missing) InCall() error {
	if m.of.userOnly {
		return unix.EFAULT
	}
	return m
}

// Wait begins to wait for the page as thread; nil if it is not missing any more. The
// caller waits for C, and then calls Cancel.
func (m *Missing) Wait(thread int32) *PageWait {
	w := m.of.add(m, thread)
	if w != nil {
		m.of.tell()
	}
	return w
}

func (u *Userfault) add(m *Missing, thread int32) *PageWait {
	s := u.s
	s.mu.RLock() // no page comes meanwhile
	defer s.mu.RUnlock()
	if ar := s.find(m.at); s.dead || ar == nil || ar.faults != u || !s.given(ar, vpn(m.at)) {
		return nil
	}
	c := make(chan struct{})
	w := &PageWait{C: c, At: m.at, Write: m.write, Thread: thread, of: u, c: c}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return nil
	}
	u.asleep = append(u.asleep, w)
	return w
}

// Cancel ends the wait.
func (w *PageWait) Cancel() {
	u := w.of
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asleep = slices.DeleteFunc(u.asleep, func(x *PageWait) bool { return x == w })
}

// Next is the oldest wait that it has not given before; nil if there is none.
func (u *Userfault) Next() *PageWait {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range u.asleep {
		if !w.told {
			w.told = true
			return w
		}
	}
	return nil
}

// Waiting says whether Next would give one.
func (u *Userfault) Waiting() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.ContainsFunc(u.asleep, func(w *PageWait) bool { return !w.told })
}

// Wake lets those who wait in [at, at+n) look again (UFFDIO_WAKE).
func (u *Userfault) Wake(at Addr, n uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asleep = slices.DeleteFunc(u.asleep, func(w *PageWait) bool {
		in := w.At >= at && uint64(w.At-at) < n
		if in {
			close(w.c)
		}
		return in
	})
}

// Close gives all areas back, and lets everybody go on.
func (u *Userfault) Close() {
	s := u.s
	s.mu.Lock()
	for _, ar := range s.areas {
		if ar.faults == u {
			ar.faults = nil
		}
	}
	s.merge(0, s.limit)
	s.unlock()
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	u.Wake(0, uint64(platform.TaskSize))
}

// Valid says that [at, at+n) is a range of pages (validate_range); if not, unix.EINVAL.
func (u *Userfault) Valid(at Addr, n uint64) error {
	switch s := u.s; {
	case at%PageSize != 0, n%PageSize != 0, n == 0, at < platform.MinAddr, at >= s.limit, n > uint64(s.limit-at):
		return unix.EINVAL
	}
	return nil
}

// Register makes u hear of missing pages in [at, at+n) (UFFDIO_REGISTER). Pages that hold
// nothing but zeros are missing from then on: some are made before a program touches
// them, and nobody can tell. unix.EBUSY: another hears of them; unix.EINVAL: nothing
// is mapped there, or a file.
func (u *Userfault) Register(at Addr, n uint64) error {
	s := u.s
	if err := u.Valid(at, n); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.unlock()
	if s.dead {
		return unix.ENOMEM
	}
	s.settle(false, 0)
	if err := u.mayRegister(at, at+Addr(n)); err != nil {
		return err
	}
	part, _, err := s.covered(at, at+Addr(n))
	if err != nil {
		return err
	}
	for _, ar := range part {
		if ar.faults == nil {
			ar.faults = u
			err = s.uncover(ar)
		}
		if err != nil {
			break
		}
	}
	s.merge(at, at+Addr(n))
	return err
}

func (u *Userfault) mayRegister(lo, hi Addr) error {
	s := u.s
	i := s.index(lo)
	if i == len(s.areas) || s.areas[i].start >= hi {
		return unix.EINVAL
	}
	for ; i < len(s.areas) && s.areas[i].start < hi; i++ {
		switch ar := s.areas[i]; {
		case !ar.userfaults():
			return unix.EINVAL
		case ar.max&platform.Write == 0:
			return unix.EPERM
		case ar.faults != nil && ar.faults != u:
			return unix.EBUSY
		}
	}
	return nil
}

// userfaults says that an area is of a kind whose pages a program can give
// (vma_can_userfault): anonymous, or of memory that has a file's life.
func (ar *area) userfaults() bool {
	if ar.is(trampolines) {
		return false
	}
	_, ours := backing(ar.obj).(*Object)
	return ar.obj == nil || ours
}

// uncover takes away what stands for a missing page: pages of zeros, which are given
// back, and what shows zeros without a page.
func (s *Space) uncover(ar *area) error {
	if ar.obj != nil {
		return nil
	}
	for v, end := vpn(ar.start), vpn(ar.end); v < end; {
		if hole := s.table.holes(v, end); hole > 0 {
			v += hole
			continue
		}
		first := v
		for pfn := s.table.get(v); v < end && pfn != 0 && isZero(s.a.bytes(pfn, 1)); pfn = s.table.get(v) {
			v++
		}
		if v == first {
			v++ // it holds something
		} else if err := s.forgetPages(ar, addr(first), addr(v), true); err != nil {
			return err
		}
	}
	if !ar.zeros {
		return nil
	}
	ar.mapped, ar.zeros = false, false
	return s.as.Unmap(ar.start, ar.size())
}

var zeroPage [PageSize]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// Unregister ends that (UFFDIO_UNREGISTER).
func (u *Userfault) Unregister(at Addr, n uint64) error {
	if err := u.Valid(at, n); err != nil {
		return err
	}
	if err := u.unregister(at, at+Addr(n)); err != nil {
		return err
	}
	u.Wake(at, n)
	return nil
}

func (u *Userfault) unregister(lo, hi Addr) error {
	s := u.s
	s.mu.Lock()
	defer s.unlock()
	if s.dead {
		return unix.ENOMEM
	}
	if err := u.mayRegister(lo, hi); err == unix.EBUSY || err == unix.EINVAL {
		return unix.EINVAL
	}
	part, _, err := s.covered(lo, hi)
	if err != nil {
		return err
	}
	for _, ar := range part {
		ar.faults = nil
	}
	s.merge(lo, hi)
	return nil
}

// Give puts pages of data at at, each where none is (UFFDIO_COPY, and with nil
// UFFDIO_ZEROPAGE of n bytes). It returns how many bytes, and why not more:
// unix.EEXIST, a page is there; unix.ENOENT, nobody hears of this memory.
func (u *Userfault) Give(at Addr, data []byte, n uint64) (done uint64, err error) {
	s := u.s
	if err := u.Valid(at, n); err != nil {
		return 0, err
	}
	for try := 0; done < n; {
		var page []byte
		if data != nil {
			page = data[done:][:PageSize]
		}
		err := s.give(at+Addr(done), at+Addr(n), page)
		switch {
		case err == nil:
			done, try = done+PageSize, 0
		case s.a.relieve(err, try):
			try++
		default:
			return done, errnoOf(err)
		}
	}
	return done, nil
}

// give puts one page at at, the first of those up to end.
func (s *Space) give(at, end Addr, data []byte) error {
	s.mu.Lock()
	defer s.unlock()
	ar := s.find(at)
	switch {
	case s.dead:
		return unix.ESRCH
	case ar == nil || ar.faults == nil || ar.end < end:
		return unix.ENOENT
	case !s.given(ar, vpn(at)):
		return unix.EEXIST
	case ar.obj != nil && ar.is(shared):
		return s.giveShared(ar, at, data)
	}
	e, err := s.a.alloc(1, data == nil)
	if err != nil {
		return err
	}
	copy(s.a.bytes(e.pfn, 1), data)
	s.table.set(vpn(at), e)
	if ar.prot == 0 {
		return nil
	}
	return s.showOwn(ar, vpn(at), e, true)
}

func (s *Space) giveShared(ar *area, at Addr, data []byte) error {
	r, err := ar.obj.Pages(ar.offset(at), PageSize, true)
	if err != nil {
		if err == unix.ENXIO {
			return unix.EFAULT // past the file's end
		}
		return err
	}
	defer r.Release()
	if data != nil && move(r.Host[:PageSize], data) < PageSize {
		return unix.EFAULT
	}
	return nil
}

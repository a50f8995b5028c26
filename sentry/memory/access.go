package memory

import (
	"bytes"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// view shows at, and what follows in a row within most bytes, if it is there and
// allows access. The bytes stay while s.mu is held or until run.Release, if the
// run has an owner. Space.mu is held, at least for reading.
func (s *Space) view(at Addr, most uint64, access platform.Access) (b []byte, r Run, ok bool) {
	ar := s.find(at)
	if ar == nil || !ar.allows(access) {
		return nil, Run{}, false
	}
	most = min(most, uint64(ar.end-at))
	write := access&platform.Write != 0
	in := uint64(at) % PageSize
	v := vpn(at)
	end := v + (in+most+PageSize-1)/PageSize
	if e := s.table.run(v, end, write && ar.private()); e.n > 0 {
		b = s.a.bytes(e.pfn, e.n)
		r = Run{pinned: e}
	} else if o, there := aheadOf(ar.obj); there && !(write && ar.private()) &&
		s.table.get(v) == 0 && o.present(ar.offset(addr(v))) {
		if ar.private() {
			end = v + s.table.holes(v, end)
		}
		run, err := o.pagesAhead(want{ar.offset(addr(v)), (end - v) * PageSize, PageSize, write, ar.private()})
		if err != nil {
			return nil, Run{}, false
		}
		b, r = run.Host, run
	} else {
		return nil, Run{}, false
	}
	b = b[in:]
	return b[:min(uint64(len(b)), most)], r, true
}

// bad is the error for at, which could not be made accessible: a page that the program
// gives itself can be waited for by a call that reads, which is how calls begin; after
// a store they could not begin again.
func bad(err error, want platform.Access) error {
	m := missing(err)
	switch {
	case m == nil:
		return copyErr(err)
	case want&platform.Write != 0:
		return unix.EFAULT
	}
	return m.InCall()
}

func missing(err error) *Missing {
	m, _ := err.(*Missing)
	return m
}

// each shows f the bytes of [at, at+n) piece by piece, under s.mu; f says how
// many it did. It returns how many in all, and unix.EFAULT for less than n.
func (s *Space) each(at Addr, n uint64, want platform.Access, f func([]byte) int) (uint64, error) {
	for done := uint64(0); done < n; {
		s.mu.RLock()
		b, r, ok := s.view(at+Addr(done), n-done, want)
		if !ok && want&platform.Write == 0 {
			b, ok = s.viewZeros(at+Addr(done), n-done, want)
		}
		part := 0
		if ok {
			part = f(b)
		}
		s.mu.RUnlock()
		r.Release()
		done += uint64(part)
		if ok && part < len(b) {
			return done, unix.EFAULT
		}
		if !ok {
			if err := s.fault(at+Addr(done), want, false); err != nil {
				return done, bad(err, want)
			}
		}
	}
	return n, nil
}

// copyErr is what a system call says of a fault: everything but a lack of memory
// is EFAULT.
func copyErr(err error) error {
	switch err {
	case unix.EACCES, unix.ENXIO:
		return unix.EFAULT
	}
	return err
}

// Read copies the bytes at at to p. It returns how many, and unix.EFAULT if
// fewer than asked for.
func (s *Space) Read(at Addr, p []byte) (int, error) {
	done := 0
	n, err := s.each(at, uint64(len(p)), platform.Read, func(b []byte) int {
		n := move(p[done:], b)
		done += n
		return n
	})
	return int(n), err
}

// Write copies p to at, as Read does the other way.
func (s *Space) Write(at Addr, p []byte) (int, error) {
	done := 0
	n, err := s.each(at, uint64(len(p)), platform.Write, func(b []byte) int {
		n := move(b, p[done:])
		done += n
		return n
	})
	return int(n), err
}

// String is the text at at, up to its NUL; unix.ENAMETOOLONG if that is not
// among the first limit bytes.
func (s *Space) String(at Addr, limit int) (string, error) {
	part := parts.Get().(*[PageSize]byte)
	defer parts.Put(part)
	var text []byte // what came before part, of a string that does not fit there
	for ahead := 128; len(text) < limit; ahead = PageSize {
		n := min(limit-len(text), ahead, int(PageSize-(uint64(at)+uint64(len(text)))%PageSize))
		have, end := 0, -1 // in part: how many bytes, and where the string ends
		_, err := s.each(at+Addr(len(text)), uint64(n), platform.Read, func(b []byte) int {
			got := move(part[have:have+len(b)], b)
			if i := bytes.IndexByte(part[have:have+got], 0); i >= 0 && end < 0 {
				end = have + i
			}
			have += got
			if end >= 0 {
				return len(b)
			}
			return got
		})
		if err != nil {
			return "", err
		}
		if end >= 0 && text == nil {
			return string(part[:end]), nil
		}
		if end >= 0 {
			return string(append(text, part[:end]...)), nil
		}
		text = append(text, part[:have]...)
	}
	return "", unix.ENAMETOOLONG
}

// parts are buffers of String, which every call with a path needs for a moment.
var parts = sync.Pool{New: func() any { return new([PageSize]byte) }}

// pins are what one Pin holds. They are kept for re-use, for I/O is frequent.
type pins struct {
	s       *Space
	runs    []Run
	bufs    Buffers // what Pin returned
	release func()

	// Where the Sentry stores, for a fork meanwhile. Space.storesMu guards the list.
	at         Addr
	end        Addr
	prev, next *pins
	listed     bool
}

var pinPool sync.Pool

func newPins(s *Space) *pins {
	p, _ := pinPool.Get().(*pins)
	if p == nil {
		p = new(pins)
		p.release = p.drop
	}
	p.s = s
	return p
}

func (p *pins) drop() {
	p.unlist()
	for i, r := range p.runs {
		r.Release()
		p.runs[i] = Run{}
	}
	clear(p.bufs)
	p.runs, p.bufs, p.s = p.runs[:0], p.bufs[:0], nil
	pinPool.Put(p)
}

// list notes that the Sentry is going to store into [at, at+n). Where nobody else
// uses the space nobody forks it meanwhile.
func (p *pins) list(at Addr, n uint64) {
	s := p.s
	if s.users.Load() == 1 || at >= s.limit || n == 0 {
		return
	}
	p.at, p.end, p.listed = at, at+Addr(min(n, uint64(s.limit-at))), true
	s.storesMu.Lock()
	if p.next = s.stores; p.next != nil {
		p.next.prev = p
	}
	s.stores = p
	s.storesMu.Unlock()
}

func (p *pins) unlist() {
	if !p.listed {
		return
	}
	s := p.s
	s.storesMu.Lock()
	if p.next != nil {
		p.next.prev = p.prev
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		s.stores = p.next
	}
	s.storesMu.Unlock()
	p.prev, p.next, p.listed = nil, nil, false
}

// Pin shows [at, at+n) for I/O without a copy, until the returned function is
// called (once), which takes the Buffers back too. The pages stay alive meanwhile, whatever becomes of the
// mapping. There may be fewer bytes, if a later page is not accessible; if the
// first is not, the error is unix.EFAULT.
func (s *Space) Pin(at Addr, n uint64, want platform.Access) (Buffers, func(), error) {
	p := newPins(s)
	if want&platform.Write != 0 {
		p.list(at, n)
	}
	bufs := p.bufs[:0]
	for done := uint64(0); done < n; {
		s.mu.RLock()
		b, r, ok := s.view(at+Addr(done), n-done, want)
		if ok && r.arena == nil && r.file == nil {
			s.a.pin(r.pinned.pfn, r.pinned.n)
			r.arena = s.a
		}
		s.mu.RUnlock()
		if ok && s.a.isCrowded(r.pinned) {
			r.Release()
			if done > 0 {
				break
			}
			p.drop()
			return nil, nil, unix.ENOMEM
		}
		if ok {
			bufs = append(bufs, b)
			p.runs = append(p.runs, r)
			done += uint64(len(b))
			continue
		}
		if err := s.fault(at+Addr(done), want, false); err != nil {
			err = bad(err, want&^platform.Write) // nothing is stored yet
			if done > 0 && missing(err) == nil {
				break
			}
			p.drop()
			return nil, nil, err
		}
	}
	p.bufs = bufs
	return bufs, p.release, nil
}

// word calls f with the aligned word at at.
func (s *Space) word(at Addr, want platform.Access, f func([]byte)) error {
	if at%4 != 0 {
		return unix.EINVAL
	}
	_, err := s.each(at, 4, want, func(b []byte) int {
		if !touch(func() { f(b) }) {
			return 0
		}
		return 4
	})
	return err
}

// LoadUint32 reads an aligned word at once.
func (s *Space) LoadUint32(at Addr) (v uint32, err error) {
	err = s.word(at, platform.Read, func(b []byte) { v = word(b).Load() })
	return v, err
}

// StoreUint32 stores an aligned word at once.
func (s *Space) StoreUint32(at Addr, v uint32) error {
	return s.word(at, platform.Write, func(b []byte) { word(b).Store(v) })
}

// CompareAndSwapUint32 replaces old by new and says whether old was there.
func (s *Space) CompareAndSwapUint32(at Addr, old, new uint32) (ok bool, err error) {
	err = s.word(at, platform.Write, func(b []byte) { ok = word(b).CompareAndSwap(old, new) })
	return ok, err
}

// FutexKey names a word of memory, whoever maps it. It can be compared.
type FutexKey struct {
	Owner  any // a *Space, or an object
	Offset uint64
}

// Key names the word at at. With shared, a word in a shared mapping has the
// object's name (kernel/futex/core.c, get_futex_key).
func (s *Space) Key(at Addr, sharedToo bool) (FutexKey, error) {
	if at%4 != 0 {
		return FutexKey{}, unix.EINVAL
	}
	if !sharedToo {
		if at >= s.limit {
			return FutexKey{}, unix.EFAULT
		}
		return FutexKey{s, uint64(at)}, nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch ar := s.find(at); {
	case ar == nil || ar.prot == 0:
		return FutexKey{}, unix.EFAULT
	case ar.is(shared):
		return FutexKey{identityOf(ar.obj), ar.offset(at)}, nil
	}
	return FutexKey{s, uint64(at)}, nil
}

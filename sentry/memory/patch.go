package memory

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// nearby is how far a trampoline may be from what jumps to it.
const nearby = Addr(0x7000_0000)

// PatchText implements platform.Patcher. The application's own reads see what
// is patched, as they would see a debugger's breakpoints; those of others do not
// (Peek, Original).
func (s *Space) PatchText(at platform.Addr, old, new []byte) error {
	if len(old) != len(new) || len(old) > 8 || uint64(at)%PageSize+uint64(len(old)) > PageSize {
		return unix.EINVAL
	}
	s.mu.Lock()
	defer s.unlock()
	ar := s.find(at)
	if ar == nil || ar.obj == nil || !ar.private() || ar.prot&(platform.Exec|platform.Write) != platform.Exec {
		return unix.EACCES
	}
	if s.pristine {
		return unix.EPERM
	}
	v, in := vpn(at), uint64(at)%PageSize
	var err error
	if s.table.exclusive(v) {
		err = storeText(s.a.bytes(s.table.get(v), 1), in, old, new)
	} else {
		err = s.patchCopy(ar, v, in, old, new)
	}
	if err == nil {
		if s.patches == nil {
			s.patches = map[Addr]changed{}
		}
		s.patches[at] = changed{bytes.Clone(old), bytes.Clone(new)}
	}
	return err
}

// storeText changes the text of a page that may be running, by one store if an
// aligned word holds it.
func storeText(b []byte, in uint64, old, new []byte) error {
	if !bytes.Equal(b[in:][:len(old)], old) {
		return unix.EAGAIN
	}
	first := in &^ 7
	if in+uint64(len(new)) > first+8 {
		copy(b[in:], new)
		return nil
	}
	var w [8]byte
	copy(w[:], b[first:])
	copy(w[in-first:], new)
	word64(b[first:]).Store(binary.NativeEndian.Uint64(w[:]))
	return nil
}

// patchCopy makes a private copy of a page that others see too, changes that,
// and shows it then.
func (s *Space) patchCopy(ar *area, v, in uint64, old, new []byte) error {
	e, err := s.a.alloc(1, false)
	if err != nil {
		return errnoOf(err)
	}
	b := s.a.bytes(e.pfn, 1)
	if err := s.copyPage(ar, v, b); err != nil || !bytes.Equal(b[in:][:len(old)], old) {
		s.a.unref(e.pfn, 1)
		return unix.EAGAIN
	}
	copy(b[in:], new)
	if s.table.get(v) == 0 {
		s.table.set(v, e)
	} else {
		s.table.replace(v, e)
	}
	err = s.showOwn(ar, v, e, true)
	if err != nil {
		s.as.Unmap(addr(v), PageSize)
	}
	s.table.dropStale()
	return err
}

// copyPage copies what stands at page v now.
func (s *Space) copyPage(ar *area, v uint64, b []byte) error {
	if pfn := s.table.get(v); pfn != 0 {
		copy(b, s.a.bytes(pfn, 1))
		return nil
	}
	if ar.obj == nil {
		return unix.EFAULT
	}
	r, err := ar.obj.Pages(ar.offset(addr(v)), PageSize, false)
	if err != nil {
		return err
	}
	defer r.Release()
	if move(b, r.Host) < PageSize {
		return unix.ENXIO
	}
	return nil
}

// TrampolineArea implements platform.Patcher. Below is preferred: above a
// program lies its heap.
func (s *Space) TrampolineArea(near platform.Addr, size uint64) (platform.Addr, error) {
	s.mu.Lock()
	defer s.unlock()
	if s.pristine {
		return 0, unix.EPERM
	}
	near &^= PageSize - 1
	size = pageUp(size)
	at, err := s.gap(size, PageSize, max(platform.MinAddr, near-min(near, nearby)), near)
	if err != nil {
		at, err = s.gap(size, PageSize, near, min(s.limit, near+nearby))
	}
	if err != nil {
		return 0, err
	}
	ar := newArea(at, MapRequest{Length: size, Prot: platform.Read | platform.Exec,
		MaxProt: platform.Read | platform.Exec})
	ar.flags |= trampolines
	if err := s.mayGrow(ar, at); err != nil {
		return 0, err
	}
	return at, s.replace(ar, all)
}

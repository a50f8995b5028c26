package memory

import (
	"golang.org/x/sys/unix"
)

// text is a program's or library's bytes, copied into the arena for private
// mappings, once for all processes. On kvm a guest's first touch of a page costs
// 28 µs where the host maps a file and 5 where it has anonymous memory: only of
// that does shadow paging take the neighbours along (arch/x86/kvm/mmu/mmu.c,
// kvm_mmu_prefetch_sptes asks for pages that the host may write). The price is
// memory, and that changes of a running program's file are seen by the next
// mapping only, which POSIX leaves open for private ones.
type text struct {
	o            *Object
	size         int64
	mtime, ctime unix.Timespec
}

// run notes that the file is mapped to be executed.
func (h *HostFile) run() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.ownLocked(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return unix.EIO
	}
	t := h.text
	if t != nil && t.size == st.Size && t.mtime == st.Mtim && t.ctime == st.Ctim {
		return nil
	}
	if t != nil {
		h.old = append(h.old, t)
	}
	o := NewObject(h.a)
	o.size = uint64(st.Size)
	h.text = &text{o, st.Size, st.Mtim, st.Ctim}
	return nil
}

// pages gives a run from off on, at most n bytes, read from fd if it is not there.
func (t *text) pages(fd int, off, n uint64) (Run, error) {
	t.o.mu.Lock()
	defer t.o.mu.Unlock()
	r, err := t.o.lookLocked(off, n)
	if err != nil || r.arena != nil {
		return r, err
	}
	if !t.o.a.plenty() {
		return Run{}, unix.ENOMEM
	}
	v := off / PageSize
	e, err := readPages(t.o.a, fd, off, t.o.table.holes(v, v+n/PageSize))
	if err != nil {
		return Run{}, err
	}
	t.o.table.set(v, e)
	t.o.a.cached.Add(int64(e.n))
	return t.o.lookLocked(off, n)
}

// read gives pages with a copy of the file from off on, at most n.
func (h *HostFile) read(off, n uint64) (extent, error) {
	size, err := h.size()
	if err != nil {
		return extent{}, unix.EIO
	}
	if off >= size {
		return extent{}, unix.ENXIO
	}
	h.mu.Lock()
	err = h.ownLocked()
	fd := h.fd
	h.mu.Unlock()
	if err != nil {
		return extent{}, err
	}
	return readPages(h.a, fd, off, min(n, pageUp(size-off)/PageSize))
}

// readPages reads at most n pages of a file into new ones; what lies behind its
// end is zero.
func readPages(a *Arena, fd int, off, n uint64) (extent, error) {
	e, err := a.alloc(uint32(min(n, hugePages)), false)
	if err != nil {
		return extent{}, err
	}
	b := a.bytes(e.pfn, e.n)
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, int64(off))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			a.unref(e.pfn, e.n)
			return extent{}, unix.ENXIO // as a page that cannot be read in: SIGBUS
		}
		if n == 0 {
			clear(b)
			break
		}
		b, off = b[n:], off+uint64(n)
	}
	return e, nil
}

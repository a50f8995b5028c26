package memory

import (
	"sync/atomic"

	"bulkhead/sentry/platform"
)

// Mappable backs a mapping with pages of its own: a tmpfs file, a file of the
// host's, a System V segment. What maps is an Object or a HostFile, or embeds one
// (to hold an open file with Ref and Unref): Run cannot be made elsewhere.
type Mappable interface {
	// Pages gives host memory that shows the object's bytes from off on: a run of
	// whole pages, at most n bytes, at least a page. write: the mapping stores into
	// it. unix.ENXIO is past the end (SIGBUS), unix.ENOMEM no memory. The caller
	// calls Run.Release once the pages are mapped or no longer used.
	Pages(off, n uint64, write bool) (Run, error)

	// Attach and Detach tell the object which spaces map it, so that Truncate and
	// Punch can take pages back from them (Space.Invalidate).
	Attach(s *Space, at Addr, off, length uint64, shared bool)
	Detach(s *Space, at Addr, off, length uint64, shared bool)

	// Ref and Unref hold the object (and its open file) for a mapping. Unref is
	// called without locks of this room.
	Ref()
	Unref()
}

// want says which pages a mapping asks for: from off on, at most n bytes of those
// that are there, and if the first is not, at most fill bytes made for it.
type want struct {
	off, n, fill uint64
	write        bool // the mapping stores into them
	private      bool // the mapping is private: a copy in the arena will do
}

// ahead is what Object and HostFile offer beyond Mappable.
type ahead interface {
	pagesAhead(want) (Run, error)

	// present says that pagesAhead would make nothing at off.
	present(off uint64) bool

	program() *programMark
}

var (
	_ ahead = (*Object)(nil)
	_ ahead = (*HostFile)(nil)
)

// programMark marks a file that was mapped privately to be executed: an ELF file.
// Only of these are private copies made ahead of need. Of other files a private
// mapping shows what is written to them until it stores itself, as on Linux,
// where POSIX would let it show either.
type programMark struct{ atomic.Bool }

func (p *programMark) program() *programMark { return p }

func isProgram(m Mappable) bool {
	o, ok := aheadOf(m)
	return ok && o.program().Load()
}

// Indirect is a Mappable that passes on to another, which may change (a file
// that is copied up). Identity, Attach and Ref are its own.
type Indirect interface {
	Backing() Mappable
}

// aheadOf finds the object behind m.
func aheadOf(m Mappable) (ahead, bool) {
	if i, ok := m.(Indirect); ok {
		m = i.Backing()
	}
	a, ok := m.(ahead)
	return a, ok
}

// identity is what two mappings of one object have in common, though each may
// hold another open file.
type identity interface{ identity() any }

func identityOf(m Mappable) any {
	if i, ok := m.(identity); ok {
		return i.identity()
	}
	return m
}

// backing is the Object or HostFile that serves m now.
func backing(m Mappable) any {
	if i, ok := m.(Indirect); ok {
		m = i.Backing()
	}
	return identityOf(m)
}

// Run is host memory that shows part of an object. Until Release it stays what
// it is, even if the object is truncated.
type Run struct {
	platform.Segment
	pinned extent // pages of the arena
	arena  *Arena
	file   *HostFile
}

// Release says that the pages are mapped (the object takes them back by
// Space.Invalidate) or not used any more.
func (r Run) Release() {
	switch {
	case r.arena != nil:
		r.arena.unpin(r.pinned.pfn, r.pinned.n)
	case r.file != nil:
		r.file.Unref()
	}
}

// readOnly says that the host lets nobody store there.
func (r Run) readOnly() bool { return r.file != nil && !r.file.writable }

// users are the spaces that map an object, with how many areas of each.
type users map[*Space]int

func (u users) attach(s *Space) { u[s]++ }

func (u users) detach(s *Space) {
	if u[s]--; u[s] == 0 {
		delete(u, s)
	}
}

func (u users) list() []*Space {
	l := make([]*Space, 0, len(u))
	for s := range u {
		l = append(l, s)
	}
	return l
}

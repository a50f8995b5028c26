package overlay

import (
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// sharedMap is a file that was mapped shared while it was below. When it is
// copied up the mappings forget the pages that they have, and ask here again.
type sharedMap struct {
	file *file

	mu    sync.Mutex
	inner memory.Mappable
	refs  int
	areas map[area]int
}

// area is one attachment, to be repeated on another object.
type area struct {
	space       *memory.Space
	at          memory.Addr
	off, length uint64
	shared      bool
}

// share gives what a shared mapping of f maps.
func (f *file) share(inner memory.Mappable) memory.Mappable {
	f.sharedMu.Lock()
	defer f.sharedMu.Unlock()
	if f.shared != nil {
		return f.shared
	}
	if f.above() {
		return inner
	}
	f.shared = &sharedMap{file: f, inner: inner, areas: map[area]int{}}
	return f.shared
}

// copied is called when f has become its copy.
func (f *file) copied() {
	f.sharedMu.Lock()
	defer f.sharedMu.Unlock()
	if f.shared == nil {
		return
	}
	ctx := vfs.SentryContext()
	o, err := f.real().Open(ctx, vfs.Path{}, unix.O_RDWR)
	if err != nil {
		return // the mappings go on with the old contents, as on Linux
	}
	defer o.Release() // what is mapped holds what it needs
	m, ok := o.(vfs.Mapper)
	if !ok {
		return
	}
	inner, err := m.Mappable(ctx, memory.MapRequest{Shared: true})
	if err == nil {
		f.shared.replace(inner)
	}
}

// replace has all mappings show next instead.
func (m *sharedMap) replace(next memory.Mappable) {
	m.mu.Lock()
	old := m.inner
	for range m.refs {
		next.Ref()
	}
	for a, n := range m.areas {
		for range n {
			next.Attach(a.space, a.at, a.off, a.length, a.shared)
			old.Detach(a.space, a.at, a.off, a.length, a.shared)
		}
	}
	m.inner = next
	refs, spaces := m.refs, m.spacesLocked()
	m.mu.Unlock()
	for _, s := range spaces {
		s.Invalidate(m, 0, ^uint64(0))
	}
	for range refs {
		old.Unref()
	}
}

func (m *sharedMap) spacesLocked() []*memory.Space {
	seen := map[*memory.Space]bool{}
	var all []*memory.Space
	for a := range m.areas {
		if !seen[a.space] {
			seen[a.space] = true
			all = append(all, a.space)
		}
	}
	return all
}

// truncated tells mappings that pages behind size are gone; the inner object
// knows them by another name.
func (m *sharedMap) truncated(size uint64) {
	m.mu.Lock()
	spaces := m.spacesLocked()
	m.mu.Unlock()
	from := (size + memory.PageSize - 1) / memory.PageSize * memory.PageSize
	for _, s := range spaces {
		s.Invalidate(m, from, ^uint64(0)-from)
	}
}

func (m *sharedMap) current() memory.Mappable {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inner
}

// Backing implements memory.Indirect.
func (m *sharedMap) Backing() memory.Mappable { return m.current() }

// Pages implements memory.Mappable.
func (m *sharedMap) Pages(off, n uint64, write bool) (memory.Run, error) {
	return m.current().Pages(off, n, write)
}

// Attach implements memory.Mappable.
func (m *sharedMap) Attach(s *memory.Space, at memory.Addr, off, length uint64, shared bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.areas[area{s, at, off, length, shared}]++
	m.inner.Attach(s, at, off, length, shared)
}

// Detach implements memory.Mappable.
func (m *sharedMap) Detach(s *memory.Space, at memory.Addr, off, length uint64, shared bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := area{s, at, off, length, shared}
	if m.areas[a]--; m.areas[a] <= 0 {
		delete(m.areas, a)
	}
	m.inner.Detach(s, at, off, length, shared)
}

// Ref implements memory.Mappable.
func (m *sharedMap) Ref() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refs++
	m.inner.Ref()
}

// Unref implements memory.Mappable.
func (m *sharedMap) Unref() {
	m.mu.Lock()
	m.refs--
	inner, last := m.inner, m.refs == 0
	m.mu.Unlock()
	if last {
		m.file.sharedMu.Lock()
		if m.file.shared == m {
			m.file.shared = nil
		}
		m.file.sharedMu.Unlock()
	}
	inner.Unref()
}

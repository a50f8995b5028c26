package memory

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// fakePlatform maps by Go maps, and counts what is asked of it.
type fakePlatform struct {
	private bool
	maps    atomic.Int64 // calls of Map
}

func (*fakePlatform) Name() string                          { return "fake" }
func (f *fakePlatform) Private() bool                       { return f.private }
func (*fakePlatform) AddMemory([]byte) error                { return nil }
func (*fakePlatform) Close() error                          { return nil }
func (f *fakePlatform) NewThread() (platform.Thread, error) { return nil, unix.ENOSYS }

func (f *fakePlatform) NewAddressSpace() (platform.AddressSpace, error) {
	return &fakeSpace{p: f, pages: map[uint64]fakePage{}}, nil
}

type fakePage struct {
	host   []byte
	access platform.Access
}

type fakeSpace struct {
	p     *fakePlatform
	mu    sync.Mutex
	pages map[uint64]fakePage
}

func (f *fakeSpace) Map(at Addr, seg platform.Segment, access platform.Access) error {
	if at%PageSize != 0 || len(seg.Host) == 0 || len(seg.Host)%PageSize != 0 {
		return fmt.Errorf("fake: map %d bytes at %#x", len(seg.Host), at)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.p.maps.Add(1)
	for i := 0; i < len(seg.Host); i += PageSize {
		f.pages[vpn(at)+uint64(i)/PageSize] = fakePage{seg.Host[i:][:PageSize], access}
	}
	return nil
}

func (f *fakeSpace) Protect(at Addr, n uint64, access platform.Access) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for v, p := range f.pages {
		if v >= vpn(at) && v < vpn(at+Addr(n)) {
			p.access = access
			f.pages[v] = p
		}
	}
	return nil
}

func (f *fakeSpace) Unmap(at Addr, n uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for v := range f.pages {
		if v >= vpn(at) && v < vpn(at+Addr(n)) {
			delete(f.pages, v)
		}
	}
	return nil
}

func (f *fakeSpace) Release() { f.pages = nil }

func (f *fakeSpace) page(at Addr) fakePage {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pages[vpn(at)]
}

// app does what an application's load or store does: it faults until it works.
func app(s *Space, at Addr, access platform.Access, f func([]byte)) error {
	for range 8 {
		p := s.as.(*fakeSpace).page(at)
		// Hardware lets a page be read that can be written or run.
		if p.host != nil && (p.access&access == access || access == platform.Read && p.access != 0) {
			if !touch(func() { f(p.host[uint64(at)%PageSize:]) }) {
				return unix.EIO
			}
			return nil
		}
		if err := s.Fault(at, access); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s at %#x: faults without end", access, at)
}

func load(s *Space, at Addr) (v uint64, err error) {
	err = app(s, at, platform.Read, func(b []byte) { v = binary.NativeEndian.Uint64(b) })
	return v, err
}

func store(s *Space, at Addr, v uint64) error {
	return app(s, at, platform.Write, func(b []byte) { binary.NativeEndian.PutUint64(b, v) })
}

func newTestArena(t testing.TB, private bool, limit uint64) (*Arena, *fakePlatform) {
	t.Helper()
	p := &fakePlatform{private: private}
	a, err := NewArena(p, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := a.Usage(); n != 0 {
			t.Errorf("%d bytes are in use at the end", n)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, p
}

func newTestSpace(t testing.TB, a *Arena) *Space {
	t.Helper()
	s, err := NewSpace(a, a.p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const rw = platform.Read | platform.Write

// mapAt maps or fails the test.
func mapAt(t testing.TB, s *Space, r MapRequest) Addr {
	t.Helper()
	at, err := s.Map(r)
	if err != nil {
		t.Fatalf("map %+v: %v", r, err)
	}
	return at
}

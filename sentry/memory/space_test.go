package memory

import (
	"bytes"
	"math"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

func TestMapErrors(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 3 * PageSize, Prot: rw})
	o := NewObject(a)
	defer o.Unref()
	for _, row := range []struct {
		name string
		r    MapRequest
		want error
	}{
		{"nothing", MapRequest{}, unix.EINVAL},
		{"odd place", MapRequest{At: 0x10001, Fixed: true, Length: 1}, unix.EINVAL},
		{"odd offset", MapRequest{Length: 1, Object: o, Offset: 1}, unix.EINVAL},
		{"far offset", MapRequest{Length: 2 * PageSize, Object: o, Offset: ^uint64(0) &^ (PageSize - 1)}, unix.EOVERFLOW},
		{"too low", MapRequest{At: 0x1000, Fixed: true, Length: 1}, unix.EPERM},
		{"too high", MapRequest{At: platform.TaskSize, Fixed: true, Length: 1}, unix.ENOMEM},
		{"too long", MapRequest{Length: ^uint64(0)}, unix.ENOMEM},
		{"longer than everything", MapRequest{Length: uint64(platform.TaskSize)}, unix.ENOMEM},
		{"not to be replaced", MapRequest{At: at, Fixed: true, NoReplace: true, Length: 1}, unix.EEXIST},
		{"beyond MaxProt", MapRequest{Length: 1, Prot: rw, MaxProt: platform.Read}, unix.EACCES},
	} {
		if _, err := s.Map(row.r); err != row.want {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
	}
}

func TestPlace(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	first := mapAt(t, s, MapRequest{Length: 1})
	if next := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw}); next != first-PageSize {
		t.Errorf("second mapping at %#x, want right below %#x", next, first)
	}
	if at := mapAt(t, s, MapRequest{Length: 1, At: 0x5000_0123}); at != 0x5000_0000 {
		t.Errorf("a hint gave %#x", at)
	}
	if at := mapAt(t, s, MapRequest{Length: 1, At: 0x5000_0000}); at == 0x5000_0000 {
		t.Error("a hint replaced a mapping")
	}
	if at := mapAt(t, s, MapRequest{Length: 1, Low32: true}); at < lowStart || at >= lowEnd {
		t.Errorf("MAP_32BIT gave %#x", at)
	}
	if at := mapAt(t, s, MapRequest{Length: 8 << 20}); at%hugeSize != 0 {
		t.Errorf("8 MiB at %#x", at)
	}
	stack := mapAt(t, s, MapRequest{At: 0x7000_0000, Fixed: true, Length: PageSize, Prot: rw, GrowsDown: true})
	if at := mapAt(t, s, MapRequest{At: stack - PageSize, Length: 1}); at == stack-PageSize {
		t.Error("a hint was followed into a stack's gap")
	}
}

func TestMerge(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	const at = 0x10_0000
	areas := func(want ...string) {
		t.Helper()
		var got []string
		for _, v := range s.VMAs() {
			got = append(got, v.Access.String())
		}
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("areas %v, want %v", got, want)
		}
	}
	mapAt(t, s, MapRequest{At: at, Fixed: true, Length: 4 * PageSize, Prot: rw})
	mapAt(t, s, MapRequest{At: at + 4*PageSize, Fixed: true, Length: 4 * PageSize, Prot: rw})
	areas("rw-")
	s.Protect(at+2*PageSize, 2*PageSize, platform.Read)
	areas("rw-", "r--", "rw-")
	s.Protect(at+2*PageSize, 2*PageSize, rw)
	areas("rw-")
	s.Unmap(at+PageSize, PageSize)
	areas("rw-", "rw-")
	mapAt(t, s, MapRequest{At: at + PageSize, Fixed: true, Length: PageSize, Prot: rw})
	areas("rw-")
	s.Advise(at, PageSize, unix.MADV_DONTFORK)
	areas("rw-", "rw-")
	s.Advise(at, PageSize, unix.MADV_DOFORK)
	areas("rw-")
	o := NewObject(a)
	defer o.Unref()
	o.Truncate(8 * PageSize)
	mapAt(t, s, MapRequest{At: 0x20_0000, Fixed: true, Length: PageSize, Prot: platform.Read, Object: o})
	mapAt(t, s, MapRequest{At: 0x20_1000, Fixed: true, Length: PageSize, Prot: platform.Read, Object: o, Offset: PageSize})
	areas("rw-", "r--")
	mapAt(t, s, MapRequest{At: 0x20_2000, Fixed: true, Length: PageSize, Prot: platform.Read, Object: o, Offset: PageSize})
	areas("rw-", "r--", "r--")
}

func TestStackGrows(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	s.SetLimits(1<<40, 1<<40, 1<<20)
	const top = Addr(0x7000_0000)
	mapAt(t, s, MapRequest{At: top - PageSize, Fixed: true, Length: PageSize, Prot: rw, GrowsDown: true})
	if err := store(s, top-1<<20, 7); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := store(s, top-1<<20-8, 7); err != unix.EFAULT {
		t.Errorf("past RLIMIT_STACK: %v", err)
	}
	if v, err := load(s, top-1<<20); v != 7 || err != nil {
		t.Errorf("%d, %v", v, err)
	}
	s.SetLimits(1<<40, 1<<40, 1<<30)
	below := mapAt(t, s, MapRequest{At: top - 4<<20, Fixed: true, Length: PageSize, Prot: rw})
	if err := store(s, below+PageSize+stackGuard-8, 1); err != unix.EFAULT {
		t.Errorf("into the guard gap: %v", err)
	}
	if err := store(s, below+PageSize+stackGuard, 1); err != nil {
		t.Errorf("at the guard gap: %v", err)
	}
}

func TestLimits(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	s.SetLimits(10*PageSize, 4*PageSize, 8<<20)
	if _, err := s.Map(MapRequest{Length: 11 * PageSize}); err != unix.ENOMEM {
		t.Errorf("past RLIMIT_AS: %v", err)
	}
	if _, err := s.Map(MapRequest{Length: 5 * PageSize, Prot: rw}); err != unix.ENOMEM {
		t.Errorf("past RLIMIT_DATA: %v", err)
	}
	at := mapAt(t, s, MapRequest{Length: 5 * PageSize})
	if err := s.Protect(at, 5*PageSize, rw); err != unix.ENOMEM {
		t.Errorf("mprotect past RLIMIT_DATA: %v", err)
	}
	mapAt(t, s, MapRequest{At: at, Fixed: true, Length: 4 * PageSize, Prot: rw})
	if _, err := s.Remap(at, 4*PageSize, 20*PageSize, true, false, false, 0); err != unix.ENOMEM {
		t.Errorf("mremap past RLIMIT_AS: %v", err)
	}
	if z := s.Sizes(); z.Virtual != 5*PageSize || z.Data != 4*PageSize {
		t.Errorf("%d bytes, %d of data", z.Virtual, z.Data)
	}
}

func TestBrk(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	const start = Addr(0x5555_0000_0000)
	s.SetBrk(start)
	for _, row := range []struct{ to, want Addr }{
		{0, start}, {start - 1, start}, {start + 5, start + 5}, {start + 3*PageSize, start + 3*PageSize},
		{start + PageSize, start + PageSize}, {start + 1<<50, start + PageSize},
	} {
		if got := s.Brk(row.to); got != row.want {
			t.Errorf("brk %#x: %#x, want %#x", row.to, got, row.want)
		}
	}
	if v := s.VMAs(); len(v) != 1 || v[0].Name != "[heap]" || v[0].End != start+PageSize {
		t.Errorf("%+v", v)
	}
	mapAt(t, s, MapRequest{At: start + 4*PageSize, Fixed: true, Length: 1})
	if got := s.Brk(start + 5*PageSize); got != start+PageSize {
		t.Errorf("the heap grew into a mapping: %#x", got)
	}
}

func TestRemap(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{At: 0x1000_0000, Length: 4 * PageSize, Prot: rw})
	shm := mapAt(t, s, MapRequest{Length: 2 * PageSize, Prot: rw, Shared: true})
	for _, row := range []struct {
		name           string
		old            Addr
		oldSize, size  uint64
		may, fix, keep bool
		to             Addr
		want           error
	}{
		{"odd", at + 1, 1, 1, false, false, false, 0, unix.EINVAL},
		{"to nothing", at, 1, 0, false, false, false, 0, unix.EINVAL},
		{"fixed but not movable", at, 1, 1, false, true, false, 0x2000_0000, unix.EINVAL},
		{"onto itself", at, 2 * PageSize, 2 * PageSize, true, true, false, at + PageSize, unix.EINVAL},
		{"nothing there", 0x3000_0000, 1, PageSize, true, false, false, 0, unix.EFAULT},
		{"across the end", at, 5 * PageSize, 6 * PageSize, true, false, false, 0, unix.EFAULT},
		{"double private", at, 0, PageSize, true, false, false, 0, unix.EINVAL},
		{"keep with another size", at, PageSize, 2 * PageSize, true, false, true, 0, unix.EINVAL},
		{"no room", at, 2 * PageSize, 3 * PageSize, false, false, false, 0, unix.ENOMEM},
		{"double shared", shm, 0, PageSize, true, false, false, 0, nil},
		{"keep", at, 4 * PageSize, 4 * PageSize, true, true, true, 0x4000_0000, nil},
	} {
		store(s, at, 42)
		got, err := s.Remap(row.old, row.oldSize, row.size, row.may, row.fix, row.keep, row.to)
		if err != row.want {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
		switch {
		case row.name == "double shared":
			store(s, shm, 5)
			if v, err := load(s, got); v != 5 || err != nil {
				t.Errorf("the double has %d, %v", v, err)
			}
		case row.keep && err == nil:
			if v, _ := load(s, got); v != 42 {
				t.Errorf("moved page has %d", v)
			}
			if v, err := load(s, at); v != 0 || err != nil {
				t.Errorf("what was kept has %d, %v", v, err)
			}
		}
	}
}

func TestForkAdvice(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 3 * PageSize, Prot: rw})
	for i := range Addr(3) {
		store(s, at+i*PageSize, uint64(i)+1)
	}
	s.Advise(at, PageSize, unix.MADV_DONTFORK)
	s.Advise(at+PageSize, PageSize, unix.MADV_WIPEONFORK)
	c, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(c, at); err != unix.EFAULT {
		t.Errorf("MADV_DONTFORK: %v", err)
	}
	if v, err := load(c, at+PageSize); v != 0 || err != nil {
		t.Errorf("MADV_WIPEONFORK: %d, %v", v, err)
	}
	if v, err := load(c, at+2*PageSize); v != 3 || err != nil {
		t.Errorf("plain: %d, %v", v, err)
	}
	c.Release()
	for i := range Addr(3) {
		if v, _ := load(s, at+i*PageSize); v != uint64(i)+1 {
			t.Errorf("parent's page %d has %d", i, v)
		}
	}
}

// TestForkUnderStore: what the Sentry is about to store for a thread stays its
// space's, though that is forked and stores beside it meanwhile.
func TestForkUnderStore(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	s.Retain() // another thread
	at := mapAt(t, s, MapRequest{At: 0x1000_0000, Length: 64 * PageSize, Prot: rw, Populate: true})
	var all []func()
	for range 2 { // the first of the list goes first, then the last
		b, release, err := s.Pin(at+PageSize-8, PageSize+16, platform.Write)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Fork()
		if err != nil {
			t.Fatal(err)
		}
		store(s, at+16, 1)
		store(s, at+PageSize, 1)
		store(c, at+16, 2)
		b.CopyOut([]byte("bytes read across a fork"))
		got := make([]byte, 24)
		if s.Read(at+PageSize-8, got); string(got) != "bytes read across a fork" {
			t.Errorf("the parent has %q", got)
		}
		if v, _ := load(c, at+PageSize-8); v != 0 {
			t.Errorf("the child has %#x", v)
		}
		c.Release()
		s.Write(at+PageSize-8, make([]byte, 24))
		all = append(all, release)
	}
	for _, r := range all {
		r()
	}
	if s.stores != nil {
		t.Error("a pin is listed still")
	}
	s.Release()
}

// TestForkInPlace: after the child is gone, the parent's pages are its own
// again, without a copy.
func TestForkInPlace(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{At: 0x1000_0000, Length: 64 * PageSize, Prot: rw, Populate: true})
	page := s.table.get(vpn(at))
	c, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	used := a.Usage()
	store(s, at, 1)
	if s.table.get(vpn(at)) != page || a.Usage() != used {
		t.Error("the page was copied")
	}
	if p := s.as.(*fakeSpace).page(at + 63*PageSize); p.access&platform.Write == 0 {
		t.Error("the neighbours were left for faults of their own")
	}
}

func TestMemoryLimit(t *testing.T) {
	a, _ := newTestArena(t, true, 64*PageSize)
	s, hog := newTestSpace(t, a), newTestSpace(t, a)
	defer s.Release()
	held := mapAt(t, hog, MapRequest{Length: 60 * PageSize, Prot: rw})
	for i := range Addr(60) {
		if err := store(hog, held+i*PageSize, 1); err != nil {
			t.Fatal(err)
		}
	}
	at := mapAt(t, s, MapRequest{Length: 40 * PageSize, Prot: rw})
	var err error
	n := Addr(0)
	for ; n < 40 && err == nil; n++ {
		err = store(s, at+n*PageSize, 1)
	}
	if err != unix.ENOMEM || a.Usage() > 64*PageSize {
		t.Errorf("%v after %d pages, %d bytes used", err, n, a.Usage())
	}
	calls := 0
	a.SetOnLimit(func() bool {
		if calls++; calls == 1 {
			hog.Release()
		}
		return calls == 1
	})
	for i := range Addr(40) {
		if err := store(s, at+i*PageSize, 1); err != nil {
			t.Fatalf("page %d: %v", i, err)
		}
	}
	if calls != 1 {
		t.Errorf("asked %d times for memory", calls)
	}
	o := NewObject(a)
	defer o.Unref()
	if n, err := o.WriteAt(Buffers{make([]byte, 64*PageSize)}, 0); err != nil || n != 24*PageSize {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
}

func TestTrim(t *testing.T) {
	for _, private := range []bool{true, false} {
		a, _ := newTestArena(t, private, 0)
		s := newTestSpace(t, a)
		at := mapAt(t, s, MapRequest{Length: 64 << 20, Prot: rw})
		for i := Addr(0); i < 64<<20; i += PageSize {
			store(s, at+i, uint64(i)+1)
		}
		s.Release()
		if a.dirty > keepPages {
			t.Errorf("%d free pages are kept", a.dirty)
		}
		a.idle()
		a.idle()
		if a.dirty != 0 {
			t.Errorf("%d free pages are kept for long", a.dirty)
		}
		s = newTestSpace(t, a)
		at = mapAt(t, s, MapRequest{Length: 64 << 20, Prot: rw})
		for i := Addr(0); i < 64<<20; i += 7 * PageSize {
			if v, err := load(s, at+i); v != 0 || err != nil {
				t.Fatalf("page %d has %d, %v", i/PageSize, v, err)
			}
		}
		s.Release()
	}
}

func TestString(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 2 * PageSize, Prot: rw})
	long := strings.Repeat("x", PageSize)
	for _, row := range []struct {
		at   Addr
		text string
		max  int
		want error
	}{
		{at, "", 1, nil},
		{at + 5, "abc", 4, nil},
		{at + 5, "abc", 3, unix.ENAMETOOLONG},
		{at + 100, long, PageSize + 1, nil},
		{at + 2*PageSize - 4, "abc", 10, nil},
	} {
		s.Write(row.at, append([]byte(row.text), 0))
		got, err := s.String(row.at, row.max)
		if err != row.want || err == nil && got != row.text {
			t.Errorf("%q within %d: %q, %v; want %v", row.text, row.max, got, err, row.want)
		}
	}
	s.Write(at+2*PageSize-4, []byte("abcd"))
	if _, err := s.String(at+2*PageSize-4, 10); err != unix.EFAULT {
		t.Errorf("past the end: %v", err)
	}
}

func TestShortAccess(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: 2 * PageSize, Prot: rw})
	s.Protect(at+PageSize, PageSize, 0)
	p := make([]byte, PageSize)
	if n, err := s.Write(at+PageSize-10, p); n != 10 || err != unix.EFAULT {
		t.Errorf("write: %d, %v", n, err)
	}
	if n, err := s.Read(at+PageSize-10, p); n != 10 || err != unix.EFAULT {
		t.Errorf("read: %d, %v", n, err)
	}
	bufs, release, err := s.Pin(at+PageSize-10, PageSize, platform.Read)
	if err != nil || bufs.Len() != 10 {
		t.Fatalf("pin: %d, %v", bufs.Len(), err)
	}
	release()
	if _, _, err := s.Pin(at+PageSize, 1, platform.Read); err != unix.EFAULT {
		t.Errorf("pin: %v", err)
	}
}

// TestPinOutlives: pinned pages are not used for anything else.
func TestPinOutlives(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw})
	bufs, release, err := s.Pin(at, PageSize, platform.Write)
	if err != nil {
		t.Fatal(err)
	}
	s.Unmap(at, PageSize)
	next := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw})
	bufs.CopyOut([]byte("late"))
	if v, _ := load(s, next); v != 0 {
		t.Errorf("a page under I/O was handed out: %#x", v)
	}
	release()
}

// A count of pins that wrapped would free a page in use.
func TestPinsEnd(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	for _, shared := range []bool{false, true} {
		at := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw, Shared: shared})
		var releases []func()
		var err error
		for range 1 << 16 {
			var release func()
			if _, release, err = s.Pin(at, PageSize, platform.Write); err != nil {
				break
			}
			releases = append(releases, release)
		}
		if err != unix.ENOMEM {
			t.Errorf("shared %v: %d pins, then %v, want %v", shared, len(releases), err, unix.ENOMEM)
		}
		if err := s.StoreUint32(at, 7); err != nil {
			t.Errorf("shared %v: a copy: %v", shared, err)
		}
		for _, release := range releases {
			release()
		}
		if _, release, err := s.Pin(at, PageSize, platform.Write); err != nil {
			t.Errorf("shared %v: after all: %v", shared, err)
		} else {
			release()
		}
	}
}

func TestWords(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw})
	shm := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw, Shared: true})
	if err := s.StoreUint32(at+1, 1); err != unix.EINVAL {
		t.Errorf("unaligned: %v", err)
	}
	s.StoreUint32(at+8, 5)
	if ok, err := s.CompareAndSwapUint32(at+8, 4, 6); ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := s.CompareAndSwapUint32(at+8, 5, 6); !ok || err != nil {
		t.Error(ok, err)
	}
	if v, err := s.LoadUint32(at + 8); v != 6 || err != nil {
		t.Error(v, err)
	}
	c, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	key := func(s *Space, at Addr, shared bool) FutexKey {
		k, err := s.Key(at, shared)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key(s, at, true) == key(c, at, true) {
		t.Error("a private word is the same in parent and child")
	}
	if key(s, shm+4, true) != key(c, shm+4, true) {
		t.Error("a shared word is not the same in parent and child")
	}
	if key(s, shm+4, false) == key(c, shm+4, false) {
		t.Error("FUTEX_PRIVATE_FLAG is not heeded")
	}
	if _, err := s.Key(0x10_0000, true); err != unix.EFAULT {
		t.Errorf("nowhere: %v", err)
	}
}

func TestObject(t *testing.T) {
	a, _ := newTestArena(t, false, 0)
	o := NewObject(a)
	defer o.Unref()
	text := bytes.Repeat([]byte("0123456789abcdef"), 1000)
	if n, err := o.WriteAt(Buffers{text[:100], text[100:]}, 5000); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
	got := make([]byte, 5000+len(text)+10)
	n, err := o.ReadAt(Buffers{got[:4999], got[4999:]}, 0)
	if err != nil || n != 5000+len(text) || !bytes.Equal(got[5000:n], text) || !bytes.Equal(got[:5000], make([]byte, 5000)) {
		t.Error(n, err)
	}
	if d, err := o.SeekData(0); d != PageSize || err != nil {
		t.Error(d, err)
	}
	if h, err := o.SeekHole(PageSize); h != 5000+uint64(len(text)) || err != nil {
		t.Error(h, err)
	}
	o.Punch(8192, 4096)
	if h, err := o.SeekHole(PageSize); h != 8192 || err != nil {
		t.Error(h, err)
	}
	o.Truncate(6000)
	o.Truncate(9000)
	tail := make([]byte, 3000)
	if o.ReadAt(Buffers{tail}, 6000); !bytes.Equal(tail, make([]byte, 3000)) {
		t.Error("what was cut off came back")
	}
	if u := o.Usage(); u != PageSize {
		t.Errorf("%d bytes are used", u)
	}
	if err := o.Allocate(100, 3*PageSize, func() bool { return false }); err != nil || o.Usage() != 4*PageSize || o.Size() != 9000 {
		t.Error(err, o.Usage(), o.Size())
	}
	if err := o.Truncate(1 << 63); err != unix.EFBIG {
		t.Error(err)
	}
}

func TestAllocateWithinReason(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	a.SetTotal(64 << 20)
	o := NewObject(a)
	defer o.Unref()
	never := func() bool { return false }
	if err := o.Allocate(0, 65<<20, never); err != unix.ENOSPC || o.Usage() != 0 {
		t.Errorf("more than the host has: %v, %d bytes used", err, o.Usage())
	}
	if err := o.Allocate(0, 32<<20, never); err != nil {
		t.Fatal(err)
	}
	if err := o.Allocate(0, 65<<20, never); err != nil {
		t.Errorf("half of it is there: %v", err)
	}
	if err := o.Allocate(70<<20, 60<<20, func() bool { return o.Usage() > 70<<20 }); err != unix.EINTR || o.Usage() > 75<<20 {
		t.Errorf("a signal meanwhile: %v, %d bytes used", err, o.Usage())
	}
}

func TestAdviceErrors(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	at := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw})
	shm := mapAt(t, s, MapRequest{At: at - 16*PageSize, Length: 2 * PageSize, Prot: rw, Shared: true})
	store(s, shm, 9)
	s.Lock(at, 1, math.MaxUint64)
	for _, row := range []struct {
		at   Addr
		n    uint64
		what int
		want error
	}{
		{at + 1, 1, unix.MADV_NORMAL, unix.EINVAL},
		{at, 1, 12345, unix.EINVAL},
		{at, 0, unix.MADV_DONTNEED, nil},
		{at, 2 * PageSize, unix.MADV_NORMAL, unix.ENOMEM},
		{at, PageSize, unix.MADV_DONTNEED, unix.EINVAL}, // locked
		{shm, PageSize, unix.MADV_WIPEONFORK, unix.EINVAL},
		{shm, PageSize, unix.MADV_FREE, unix.EINVAL},
		{shm, PageSize, unix.MADV_DONTNEED, nil},
		{at, PageSize, unix.MADV_REMOVE, unix.EINVAL},
	} {
		if err := s.Advise(row.at, row.n, row.what); err != row.want {
			t.Errorf("madvise(%#x, %d, %d): %v, want %v", row.at, row.n, row.what, err, row.want)
		}
	}
	if v, _ := load(s, shm); v != 9 {
		t.Errorf("MADV_DONTNEED changed shared memory to %d", v)
	}
	s.Advise(shm, PageSize, unix.MADV_REMOVE)
	if v, err := load(s, shm); v != 0 || err != nil {
		t.Errorf("MADV_REMOVE left %d, %v", v, err)
	}
	if vec, err := s.Mincore(shm, 2*PageSize); err != nil || len(vec) != 2 {
		t.Error(vec, err)
	}
}

// TestHammer has threads fault, fork, unmap and read all at once.
func TestHammer(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	o := NewObject(a)
	defer o.Unref()
	o.Truncate(64 * PageSize)
	at := mapAt(t, s, MapRequest{At: 0x1000_0000, Length: 64 * PageSize, Prot: rw})
	file := mapAt(t, s, MapRequest{At: 0x1100_0000, Length: 64 * PageSize, Prot: rw, Shared: true, Object: o})
	var wg sync.WaitGroup
	start := make(chan struct{})
	for id := range uint64(8) {
		wg.Go(func() {
			<-start
			buf := make([]byte, 100)
			for i := range uint64(300) {
				mine := at + Addr((id*8+i%8)*PageSize)
				switch (i + id) % 7 {
				case 0:
					if c, err := s.Fork(); err == nil {
						c.Write(mine, buf)
						c.Release()
					}
				case 1:
					o.Truncate((i % 64) * PageSize)
					o.Truncate(64 * PageSize)
				case 2:
					s.Read(file+Addr(i%64)*PageSize, buf)
				case 3:
					if b, release, err := s.Pin(file, 64*PageSize, platform.Write); err == nil {
						b.CopyOut(buf)
						release()
					}
				case 4:
					x := mapAt(t, s, MapRequest{Length: 40 * PageSize, Prot: rw})
					s.Unmap(x, 40*PageSize)
				default:
					if err := s.StoreUint32(mine, uint32(i)); err != nil {
						t.Error(err)
					}
					if v, err := s.LoadUint32(mine); v != uint32(i) || err != nil {
						t.Errorf("%d, %v; want %d", v, err, i)
					}
				}
			}
		})
	}
	close(start)
	wg.Wait()
}

func TestBuffers(t *testing.T) {
	b := Buffers{[]byte("abc"), nil, []byte("de"), []byte("fghi")}
	for n := range 11 {
		var got []byte
		for _, p := range append(b.Take(n)[:len(b.Take(n)):len(b.Take(n))], b.Skip(n)...) {
			got = append(got, p...)
		}
		if string(got) != "abcdefghi" || b.Take(n).Len() != min(n, 9) {
			t.Errorf("%d: %q", n, got)
		}
	}
	out := make([]byte, 6)
	if n := b.CopyIn(out); n != 6 || string(out) != "abcdef" {
		t.Error(n, string(out))
	}
	if n := b.Zero(4); n != 4 || string(bytes.Join(b, nil)) != "\x00\x00\x00\x00efghi" {
		t.Error(n)
	}
}

func TestPatch(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	o := NewObject(a)
	defer o.Unref()
	o.WriteAt(Buffers{[]byte("0123456789abcdef")}, 0)
	const rx = platform.Read | platform.Exec
	text := mapAt(t, s, MapRequest{Length: PageSize, Prot: rx, Object: o})
	data := mapAt(t, s, MapRequest{Length: PageSize, Prot: rw, Object: o})
	c, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	for _, row := range []struct {
		at       Addr
		old, new string
		want     error
	}{
		{text, "012", "xyz", nil},
		{text, "012", "xyz", unix.EAGAIN},
		{text + 3, "34567", "ZZZZZ", nil},
		{text + 6, "ZZ89", "1234", nil},
		{data, "012", "xyz", unix.EACCES},
		{0x10_0000, "012", "xyz", unix.EACCES},
	} {
		if err := s.PatchText(row.at, []byte(row.old), []byte(row.new)); err != row.want {
			t.Errorf("%q over %q: %v, want %v", row.new, row.old, err, row.want)
		}
	}
	for _, row := range []struct {
		s    *Space
		want string
	}{{s, "xyzZZZ1234abcdef"}, {c, "0123456789abcdef"}} {
		b := make([]byte, 16)
		if row.s.Read(text, b); string(b) != row.want {
			t.Errorf("%q, want %q", b, row.want)
		}
		app(row.s, text, platform.Exec, func(p []byte) {
			if string(p[:16]) != row.want {
				t.Errorf("runs %q, want %q", p[:16], row.want)
			}
		})
	}
	area, err := s.TrampolineArea(text, 3*PageSize)
	if err != nil || area > text || text-area > nearby {
		t.Fatalf("trampolines for %#x at %#x, %v", text, area, err)
	}
	host := s.as.(*fakeSpace).page(area).host
	copy(host, "jump")
	c2, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Release()
	copy(host, "leap")
	for _, row := range []struct {
		s    *Space
		want string
	}{{s, "leap"}, {c2, "jump"}} {
		app(row.s, area, platform.Exec, func(p []byte) {
			if string(p[:4]) != row.want {
				t.Errorf("runs %q, want %q", p[:4], row.want)
			}
		})
	}
}

// TestCharge: what the Sentry holds for a program counts against the limit.
func TestCharge(t *testing.T) {
	a, _ := newTestArena(t, true, 16*PageSize)
	if err := a.Charge(12); err != nil {
		t.Fatal(err)
	}
	if got := a.Usage(); got != 12*PageSize {
		t.Errorf("%d bytes in use, want %d", got, 12*PageSize)
	}
	err := a.Charge(5)
	if Errno(err) != unix.ENOMEM || a.Relieve(err, 0) {
		t.Errorf("past the limit: %v, want ENOMEM, and nobody to relieve it", err)
	}
	if err := a.Charge(-12); err != nil || a.Usage() != 0 {
		t.Errorf("given back: %v, %d bytes in use", err, a.Usage())
	}
}

// TestSpacesAreBounded: a page's count has no room for more users than spaces.
func TestSpacesAreBounded(t *testing.T) {
	a, _ := newTestArena(t, true, 0)
	s := newTestSpace(t, a)
	defer s.Release()
	a.spaces.Add(maxSpaces - 2) // others
	child, err := s.Fork()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Fork(); err != unix.EAGAIN {
		t.Errorf("one too many: %v, want EAGAIN", err)
	}
	child.Release()
	if child, err = s.Fork(); err != nil {
		t.Fatalf("after another's end: %v", err)
	}
	child.Release()
}

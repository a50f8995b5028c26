package memory_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/platform/kvm"
	"bulkhead/sentry/platform/ptrace"
)

// platforms run real code over real spaces.
var platforms = []struct {
	name string
	make func() (platform.Platform, error)
}{
	{"ptrace", func() (platform.Platform, error) { return ptrace.New() }},
	{"kvm", func() (platform.Platform, error) {
		fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: "/dev/kvm", Err: err}
		}
		return kvm.New(fd)
	}},
}

func each(t *testing.T, f func(*testing.T, *live)) {
	for _, p := range platforms {
		t.Run(p.name, func(t *testing.T) {
			pl, err := p.make()
			if err != nil {
				t.Skip(err)
			}
			f(t, newLive(t, pl))
		})
	}
}

func eachBench(b *testing.B, f func(*testing.B, *live)) {
	for _, p := range platforms {
		b.Run(p.name, func(b *testing.B) {
			pl, err := p.make()
			if err != nil {
				b.Skip(err)
			}
			f(b, newLive(b, pl))
		})
	}
}

// live is a program with one thread.
type live struct {
	testing.TB
	a      *memory.Arena
	p      platform.Platform
	s      *memory.Space
	th     platform.Thread
	c      platform.Context
	faults int
}

const (
	textAt = memory.Addr(0x40_0000)
	rw     = platform.Read | platform.Write
)

// What the program can do; each ends with a call.
var programs = []struct {
	name string
	at   uint64
	code string
}{
	// store RAX to RCX pages from RDI on
	{"store", 0x000, "\x48\x89\x07" + "\x48\x81\xc7\x00\x10\x00\x00" + "\x48\xff\xc9" + "\x75\xf1" + "\x0f\x05"},
	// add up RCX pages from RDI on
	{"load", 0x100, "\x48\x03\x07" + "\x48\x81\xc7\x00\x10\x00\x00" + "\x48\xff\xc9" + "\x75\xf1" + "\x0f\x05"},
	// call
	{"call", 0x200, "\x0f\x05"},
}

func newLive(t testing.TB, p platform.Platform) *live {
	a, err := memory.NewArena(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &live{TB: t, a: a, p: p}
	if l.s, err = memory.NewSpace(a, p); err != nil {
		t.Fatal(err)
	}
	at := l.mapAt(memory.MapRequest{At: textAt, Length: 4096, Prot: rw})
	for _, c := range programs {
		l.s.Write(at+memory.Addr(c.at), []byte(c.code))
	}
	if err := l.s.Protect(at, 4096, platform.Read|platform.Exec); err != nil {
		t.Fatal(err)
	}
	if l.th, err = p.NewThread(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.th.Close()
		l.s.Release()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if n := a.Usage(); n != 0 {
			t.Errorf("%d bytes in use at the end", n)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *live) mapAt(r memory.MapRequest) memory.Addr {
	l.Helper()
	at, err := l.s.Map(r)
	if err != nil {
		l.Fatalf("map %+v: %v", r, err)
	}
	return at
}

// in runs a program in s until its call.
func (l *live) in(s *memory.Space, name string, at memory.Addr, pages int, value uint64) (uint64, error) {
	l.Helper()
	for _, p := range programs {
		if p.name == name {
			l.c.Rip = uint64(textAt) + p.at
		}
	}
	l.c.Rdi, l.c.Rcx, l.c.Rax, l.c.Dirty = uint64(at), uint64(pages), value, platform.DirtyAll
	for {
		e, err := l.th.Run(&l.c, s.Platform())
		if err != nil {
			l.Fatal(err)
		}
		switch e.Reason {
		case platform.Syscall:
			return l.c.Orig_rax, nil
		case platform.Fault:
			l.faults++
			if err := s.Fault(e.Addr, e.Access); err != nil {
				return uint64(e.Addr), err
			}
		default:
			l.Fatalf("%+v at %#x", e, l.c.Rip)
		}
	}
}

func (l *live) must(name string, at memory.Addr, pages int, value uint64) uint64 {
	l.Helper()
	v, err := l.in(l.s, name, at, pages, value)
	if err != nil {
		l.Fatalf("%s: %v at %#x", name, err, v)
	}
	return v
}

func TestLive(t *testing.T) {
	each(t, func(t *testing.T, l *live) {
		at := l.mapAt(memory.MapRequest{Length: 8 << 20, Prot: rw})
		l.must("store", at, 2048, 3)
		if v := l.must("load", at, 2048, 0); v != 3*2048 {
			t.Errorf("sum %d", v)
		}
		c, err := l.s.Fork()
		if err != nil {
			t.Fatal(err)
		}
		l.must("store", at, 1000, 5)
		if v, err := l.in(c, "load", at, 2048, 0); v != 3*2048 || err != nil {
			t.Errorf("child: %d, %v", v, err)
		}
		l.in(c, "store", at, 2048, 1)
		if v := l.must("load", at, 2048, 0); v != 5*1000+3*1048 {
			t.Errorf("parent: %d", v)
		}
		c.Release()
		l.must("store", at, 2048, 7)
		if v := l.must("load", at, 2048, 0); v != 7*2048 {
			t.Errorf("parent alone: %d", v)
		}
		if err := l.s.Protect(at+4096, 4096, platform.Read); err != nil {
			t.Fatal(err)
		}
		if at2, err := l.in(l.s, "store", at, 3, 9); err != unix.EACCES || at2 != uint64(at)+4096 {
			t.Errorf("read-only: %#x, %v", at2, err)
		}
		l.s.Protect(at+4096, 4096, rw)
		moved, err := l.s.Remap(at, 8<<20, 16<<20, true, true, false, 0x2000_0000)
		if err != nil {
			t.Fatal(err)
		}
		if v := l.must("load", moved, 4096, 0); v != 7*2047+9 {
			t.Errorf("moved: %d", v)
		}
		if _, err := l.in(l.s, "load", at, 1, 0); err != unix.EFAULT {
			t.Errorf("where it was: %v", err)
		}
	})
}

func TestLiveFile(t *testing.T) {
	each(t, func(t *testing.T, l *live) {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Write(make([]byte, 3<<20))
		h := memory.NewHostFile(l.a, int(f.Fd()), true, func() (uint64, error) { return 3 << 20, nil })
		defer h.Close()
		for _, private := range []bool{true, false} {
			at := l.mapAt(memory.MapRequest{Length: 3 << 20, Prot: rw, Object: h, Shared: !private})
			l.must("store", at, 768, 6)
			if v := l.must("load", at, 768, 0); v != 768*6 {
				t.Errorf("private %v: %d", private, v)
			}
			b := make([]byte, 1)
			f.ReadAt(b, 2<<20)
			if (b[0] == 0) != private {
				t.Errorf("private %v: the file has %d", private, b[0])
			}
			l.s.Unmap(at, 3<<20)
		}
		shm := l.mapAt(memory.MapRequest{Length: 1 << 20, Prot: rw, Shared: true})
		l.must("store", shm, 256, 2)
		c, err := l.s.Fork()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Release()
		l.in(c, "store", shm, 100, 3)
		if v := l.must("load", shm, 256, 0); v != 300+312 {
			t.Errorf("shared by fork: %d", v)
		}
	})
}

// BenchmarkTouch is the first touch of 64 MiB, a page at a time.
func BenchmarkTouch(b *testing.B) {
	eachBench(b, func(b *testing.B, l *live) {
		const pages = 64 << 20 / 4096
		l.must("call", 0, 0, 0)
		l.faults = 0
		for b.Loop() {
			at := l.mapAt(memory.MapRequest{Length: 64 << 20, Prot: rw})
			l.must("store", at, pages, 1)
			if err := l.s.Unmap(at, 64<<20); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*pages), "ns/page")
		b.ReportMetric(float64(l.faults)/float64(b.N), "faults/op")
	})
}

// BenchmarkMapTouchUnmap is mmap, touch and munmap of 16 KiB.
func BenchmarkMapTouchUnmap(b *testing.B) {
	eachBench(b, func(b *testing.B, l *live) {
		for range 100 {
			l.must("call", 0, 0, 0)
		}
		l.faults = 0
		for b.Loop() {
			at := l.mapAt(memory.MapRequest{Length: 16 << 10, Prot: rw})
			l.must("store", at, 4, 1)
			if err := l.s.Unmap(at, 16<<10); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(l.faults)/float64(b.N), "faults/op")
	})
}

// BenchmarkLiveFork forks a program with 4 MiB, lets both touch a little, and
// ends the child.
func BenchmarkLiveFork(b *testing.B) {
	eachBench(b, func(b *testing.B, l *live) {
		at := l.mapAt(memory.MapRequest{Length: 4 << 20, Prot: rw})
		l.must("store", at, 1024, 1)
		l.faults = 0
		for b.Loop() {
			c, err := l.s.Fork()
			if err != nil {
				b.Fatal(err)
			}
			if _, err := l.in(c, "store", at, 16, 2); err != nil {
				b.Fatal(err)
			}
			c.Release()
			l.must("store", at, 16, 2)
		}
		b.ReportMetric(float64(l.faults)/float64(b.N), "faults/op")
	})
}

package memory

import (
	"testing"

	"bulkhead/sentry/platform"
)

// BenchmarkPin is the memory's share of a pread of 4 KiB.
func BenchmarkPin(b *testing.B) {
	a, _ := newTestArena(b, true, 0)
	s := newTestSpace(b, a)
	defer s.Release()
	at := mapAt(b, s, MapRequest{Length: 1 << 20, Prot: rw, Populate: true})
	b.ReportAllocs()
	for b.Loop() {
		_, release, err := s.Pin(at+100, 4096, platform.Write)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}

func BenchmarkRead(b *testing.B) {
	a, _ := newTestArena(b, true, 0)
	s := newTestSpace(b, a)
	defer s.Release()
	at := mapAt(b, s, MapRequest{Length: 1 << 20, Prot: rw, Populate: true})
	buf := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Read(at+8, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkString(b *testing.B) {
	a, _ := newTestArena(b, true, 0)
	s := newTestSpace(b, a)
	defer s.Release()
	at := mapAt(b, s, MapRequest{Length: 1 << 20, Prot: rw, Populate: true})
	s.Write(at, []byte("/usr/lib/x86_64-linux-gnu/libc.so.6\x00"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.String(at, 4096); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMapUnmap is mmap and munmap of 16 KiB, without the platform.
func BenchmarkMapUnmap(b *testing.B) {
	a, _ := newTestArena(b, true, 0)
	s := newTestSpace(b, a)
	defer s.Release()
	b.ReportAllocs()
	for b.Loop() {
		at := mapAt(b, s, MapRequest{Length: 16 << 10, Prot: rw})
		if err := s.Unmap(at, 16<<10); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFork forks 64 MiB and takes the child away again.
func BenchmarkFork(b *testing.B) {
	a, _ := newTestArena(b, false, 0)
	s := newTestSpace(b, a)
	defer s.Release()
	mapAt(b, s, MapRequest{Length: 64 << 20, Prot: rw, Populate: true})
	s.as.(*fakeSpace).pages = map[uint64]fakePage{}
	for b.Loop() {
		c, err := s.Fork()
		if err != nil {
			b.Fatal(err)
		}
		c.Release()
	}
}

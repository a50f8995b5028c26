package kvm

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"golang.org/x/arch/x86/x86asm"
	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// fakePatcher is what memory.Space does, for one page of text.
type fakePatcher struct {
	w     *world
	text  []byte // host's view of textAt
	areas uint64
	count int
}

func (f *fakePatcher) PatchText(at platform.Addr, old, new []byte) error {
	b := f.text[at-textAt:]
	if !bytes.Equal(b[:len(old)], old) {
		return unix.EAGAIN
	}
	f.count++
	w := (at - textAt) &^ 7
	if o := int(at-textAt) % 8; o+len(new) <= 8 {
		var v [8]byte
		copy(v[:], f.text[w:])
		copy(v[o:], new)
		word(f.text[w:]).Store(binary.LittleEndian.Uint64(v[:]))
		return nil
	}
	copy(b, new)
	return nil
}

func (f *fakePatcher) TrampolineArea(near platform.Addr, size uint64) (platform.Addr, error) {
	at := near&^0xfff + 0x5000_0000 + platform.Addr(f.areas*0x100000)
	f.areas++
	return at, f.w.as.Map(at, platform.Segment{FD: -1, Host: f.w.pages(int(size / pageSize))}, platform.Read|platform.Exec)
}

// patched is a world whose text may be patched.
func patched(tb testing.TB, code ...byte) (*world, *fakePatcher) {
	w := newWorld(tb)
	if !w.p.userStub {
		tb.Skip("SYSCALL enters ring 0 here, and is not dear")
	}
	w.text(append(bytes.Repeat([]byte{0x90}, 16), code...)...)
	f := &fakePatcher{w: w, text: w.arena[:pageSize]}
	w.show(dataAt, w.pages(1), platform.Read|platform.Write)
	w.as.SetPatcher(f)
	return w, f
}

var siteCases = []struct {
	name string
	code []byte // a loop with one call, number 110; counts in ebx; r14 is what is done to the result
}{
	{"mov eax", []byte{0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0x49, 0x89, 0xc6, 0xff, 0xc3, 0xeb, 0xf2}},
	{"mov rax", []byte{0x48, 0xc7, 0xc0, 110, 0, 0, 0, 0x0f, 0x05, 0x49, 0x89, 0xc6, 0xff, 0xc3, 0xeb, 0xf0}},
	// push 110; pop rax; syscall; cmp rax,-4096; mov r14,rax; inc ebx; jmp
	{"cmp", []byte{0x6a, 110, 0x58, 0x0f, 0x05, 0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x49, 0x89, 0xc6, 0xff, 0xc3, 0xeb, 0xee}},
	// push 110; pop rax; nop*5; syscall; mov r14,rax; inc ebx; jmp
	{"mov r14", []byte{0x6a, 110, 0x58, 0x90, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x05, 0x49, 0x89, 0xc6, 0xff, 0xc3, 0xeb, 0xef}},
}

// TestPatch runs each form of a site from before it is patched until after, and
// sees the same registers all the time.
func TestPatch(t *testing.T) {
	for _, s := range siteCases {
		t.Run(s.name, func(t *testing.T) {
			w, f := patched(t, s.code...)
			end := uint64(textAt + 16 + bytes.Index(s.code, []byte{0x0f, 0x05}) + 2)
			th := w.thread()
			defer th.Close()
			c := start()
			c.R12, c.Rsp = 0x1212, dataAt+0x800
			for i := range uint64(50) {
				w.call(th, c, 110)
				if c.Rip != end || c.Rcx != end || c.Rbx != i || c.R12 != 0x1212 || c.Rsp != dataAt+0x800 {
					t.Fatalf("call %d: %+v", i, c.Registers)
				}
				if i > 0 && c.R14 != 1000+i-1 {
					t.Fatalf("call %d: r14 %d", i, c.R14)
				}
				if i == 30 { // a full load at the return address
					c.Dirty = platform.DirtyAll
				}
				c.Rax = 1000 + i
			}
			if f.count != 1 {
				t.Errorf("%d patches", f.count)
			}
		})
	}
}

// TestPatchInterrupt stops a thread everywhere in a patched loop: it never sees
// itself outside its own code, and goes on where it was.
func TestPatchInterrupt(t *testing.T) {
	for _, s := range siteCases {
		t.Run(s.name, func(t *testing.T) {
			w, _ := patched(t, s.code...)
			th := w.thread()
			defer th.Close()
			c := start()
			for range 8 {
				w.call(th, c, 110)
			}
			var wg sync.WaitGroup
			stop := make(chan struct{})
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						th.Interrupt()
					}
				}
			})
			seen := map[uint64]int{}
			for n := 0; n < 500; {
				ev, err := th.Run(c, w.as)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case ev.Reason == platform.Syscall && c.Orig_rax == 110:
					c.Rax = 5
				case ev.Reason == platform.Interrupted && c.Rip >= textAt && c.Rip < textAt+16+uint64(len(s.code)):
					seen[c.Rip-textAt]++
					if n%3 == 0 {
						c.Dirty = platform.DirtyGPR
					}
				default:
					t.Fatalf("event %+v at %#x, rax %d", ev, c.Rip, c.Orig_rax)
				}
				n++
			}
			close(stop)
			wg.Wait()
			t.Log("stopped at offsets", seen)
		})
	}
}

// TestPatchThreads patches under the feet of other threads.
func TestPatchThreads(t *testing.T) {
	for _, s := range siteCases {
		t.Run(s.name, func(t *testing.T) {
			w, f := patched(t, s.code...)
			var wg sync.WaitGroup
			for n := range 4 {
				th := w.thread()
				wg.Go(func() {
					defer th.Close()
					c := start()
					for i := range uint64(40) {
						ev, err := th.Run(c, w.as)
						if err != nil || ev.Reason != platform.Syscall || c.Orig_rax != 110 || c.Rbx != i || i > 0 && c.R14 != i-1 {
							t.Errorf("thread %d, call %d: event %+v, %v, %+v", n, i, ev, err, c.Registers)
							return
						}
						c.Rax = i
					}
				})
			}
			wg.Wait()
			t.Logf("%d patches", f.count)
		})
	}
}

func TestParseSite(t *testing.T) {
	nops := bytes.Repeat([]byte{0x90}, 10)
	for _, c := range []struct {
		name          string
		before, after []byte
		nr            uint32
		kind          int
	}{
		{"glibc getpid", []byte{0xb8, 39, 0, 0, 0, 0x0f, 0x05}, []byte{0xc3}, 39, siteMov},
		{"another number", []byte{0xb8, 39, 0, 0, 0, 0x0f, 0x05}, []byte{0xc3, 0x90, 0x90}, 40, 0},
		{"mov r8d", []byte{0x41, 0xb8, 39, 0, 0, 0, 0x0f, 0x05}, []byte{0xc3, 0x90, 0x90}, 39, 0},
		{"glibc read", []byte{0x31, 0xc0, 0x0f, 0x05}, []byte{0x48, 0x3d, 0, 0xf0, 0xff, 0xff, 0x77}, 0, siteCall},
		{"Go Syscall6", []byte{0x90, 0x0f, 0x05}, []byte{0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff, 0x76}, 1, siteCall},
		{"musl", []byte{0x90, 0x0f, 0x05}, []byte{0x48, 0x89, 0xc7, 0xe8}, 1, siteCall},
		{"cut cmp", []byte{0x90, 0x0f, 0x05}, []byte{0x48, 0x3d, 0x01, 0xf0}, 1, 0},
		{"rip-relative", []byte{0x90, 0x0f, 0x05}, []byte{0x48, 0x8b, 0x05, 1, 2, 3, 4}, 1, 0},
		{"branch", []byte{0x90, 0x0f, 0x05}, []byte{0xe9, 1, 2, 3, 4}, 1, 0},
		{"no syscall", []byte{0x90, 0xcd, 0x80}, []byte{0x48, 0x89, 0xc7}, 1, 0},
	} {
		b := append(bytes.Clone(nops), c.before...)
		s, ok := parseSite(b[len(b)-10:], c.after, 0x401020, c.nr)
		if s.kind != c.kind || ok != (c.kind != 0) {
			t.Errorf("%s: kind %d, %v; want %d", c.name, s.kind, ok, c.kind)
		}
	}
}

// TestMovable disassembles what is moved: no branch, no memory, the right length.
func TestMovable(t *testing.T) {
	for op := range 256 {
		for modrm := range 256 {
			for rex := byte(0x48); rex < 0x50; rex++ {
				b := []byte{rex, byte(op), byte(modrm), 1, 2, 3, 4, 5}
				n := movable(b)
				if n == 0 {
					continue
				}
				in, err := x86asm.Decode(b, 64)
				if err != nil {
					t.Errorf("% x: %v, but moved", b, err)
					continue
				}
				if in.Len != n || in.PCRel != 0 {
					t.Errorf("% x is %v, %d bytes; moved %d", b, in, in.Len, n)
				}
				for _, a := range in.Args {
					if _, ok := a.(x86asm.Mem); ok {
						t.Errorf("% x is %v, and touches memory", b, in)
					}
				}
			}
		}
	}
}

func FuzzParseSite(f *testing.F) {
	f.Add([]byte{0x90, 0x90, 0x90, 0xb8, 39, 0, 0, 0, 0x0f, 0x05}, []byte{0x48, 0x3d, 0, 0xf0, 0xff, 0xff}, uint32(39))
	f.Fuzz(func(t *testing.T, before, after []byte, nr uint32) {
		s, ok := parseSite(before, after, 0x401020, nr)
		if ok && (len(s.old) != 5 || s.end-s.at > 9 || len(trampoline(s, 0x500000)) != trampSize) {
			t.Errorf("site %+v", s)
		}
	})
}

func BenchmarkPatched(b *testing.B) {
	for _, s := range siteCases {
		b.Run(s.name, func(b *testing.B) {
			w, _ := patched(b, s.code...)
			th := w.thread()
			c := start()
			for range 10 {
				w.call(th, c, 110)
			}
			b.ReportAllocs()
			least(b, func() { w.call(th, c, 110) })
			th.Close()
		})
	}
}

// least also reports the best hundred in a row: what a quiet machine would take.
func least(b *testing.B, f func()) {
	const batch = 100
	best, n, t := time.Duration(1<<62), 0, time.Now()
	for b.Loop() {
		f()
		if n++; n == batch {
			now := time.Now()
			best, n, t = min(best, now.Sub(t)), 0, now
		}
	}
	b.ReportMetric(float64(best.Nanoseconds())/batch, "least-ns/op")
}

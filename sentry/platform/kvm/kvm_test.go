package kvm

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// world is a platform with one address space and some memory.
type world struct {
	tb    testing.TB
	p     *Platform
	as    *addressSpace
	arena []byte
	used  int
}

const (
	textAt = 0x400000
	dataAt = 0x10000000
)

func newWorld(tb testing.TB) *world {
	tb.Helper()
	p, err := New(-1)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		tb.Skip("needs /dev/kvm:", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	arena, err := unix.Mmap(-1, 0, 128<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		tb.Fatal(err)
	}
	arena = arena[(-address(arena))%hugeSize:]
	w := &world{tb: tb, p: p, arena: arena}
	w.check(p.AddMemory(arena))
	as, err := p.NewAddressSpace()
	w.check(err)
	w.as = as.(*addressSpace)
	tb.Cleanup(func() {
		w.check(p.Close())
	})
	return w
}

func (w *world) check(err error) {
	w.tb.Helper()
	if err != nil {
		w.tb.Fatal(err)
	}
}

// pages takes n pages of the arena.
func (w *world) pages(n int) []byte {
	b := w.arena[w.used:][:n*pageSize]
	w.used += len(b)
	return b
}

func (w *world) show(at platform.Addr, host []byte, access platform.Access) {
	w.tb.Helper()
	w.check(w.as.Map(at, platform.Segment{FD: -1, Host: host}, access))
}

// text puts code at textAt.
func (w *world) text(code ...byte) {
	w.tb.Helper()
	host := w.pages((len(code) + pageSize - 1) / pageSize)
	copy(host, code)
	w.show(textAt, host, platform.Read|platform.Exec)
}

func (w *world) thread() *thread {
	w.tb.Helper()
	t, err := w.p.NewThread()
	w.check(err)
	return t.(*thread)
}

func start() *platform.Context {
	c := &platform.Context{Dirty: platform.DirtyAll}
	c.Rip, c.Rsp, c.Eflags = textAt, dataAt+0x1000, 0x202
	return c
}

// call runs t until it makes call nr.
func (w *world) call(t *thread, c *platform.Context, nr uint64) {
	w.tb.Helper()
	ev, err := t.Run(c, w.as)
	if err != nil || ev.Reason != platform.Syscall || c.Orig_rax != nr {
		w.tb.Fatalf("event %+v, %v, rip %#x, rax %d; want call %d", ev, err, c.Rip, c.Orig_rax, nr)
	}
}

func TestSyscall(t *testing.T) {
	w := newWorld(t)
	t.Logf("stub in user mode %v, exit %v, fpu %d bytes", w.p.userStub, w.p.exitCost, w.p.fpuSize)
	// mov eax,39; syscall; lea edi,[rax+1]; mov eax,60; syscall
	w.text(0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x8d, 0x78, 0x01, 0xb8, 60, 0, 0, 0, 0x0f, 0x05)
	th := w.thread()
	c := start()
	c.R15 = 0x1515
	w.call(th, c, 39)
	if c.Rip != textAt+7 || c.Rcx != c.Rip || c.R15 != 0x1515 || c.Rsp != dataAt+0x1000 {
		t.Errorf("registers %+v", c.Registers)
	}
	c.Rax = 41
	w.call(th, c, 60)
	if c.Rdi != 42 {
		t.Errorf("rdi %d, want 42", c.Rdi)
	}
	th.Close()
}

func BenchmarkSyscall(b *testing.B) {
	w := newWorld(b)
	w.text(0xb8, 110, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7)
	th := w.thread()
	c := start()
	b.ReportAllocs()
	least(b, func() { w.call(th, c, 110) })
	th.Close()
}

// BenchmarkNew is what a sandbox pays for its machine at start.
func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		p, err := New(-1)
		if err != nil {
			b.Skip(err)
		}
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

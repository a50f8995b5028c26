package kvm

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

const (
	rw = platform.Read | platform.Write
	rx = platform.Read | platform.Exec
)

// touch: mov al,[rdi]; mov eax,1; syscall; jmp .-11. A call says it could read.
var touch = []byte{0x8a, 0x07, 0xb8, 1, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf5}

// reader runs touch at any address.
type reader struct {
	w  *world
	th *thread
	c  *platform.Context
}

func (w *world) reader() *reader {
	return &reader{w, w.thread(), start()}
}

// sees says whether the byte at va can be read, and reads it where the Sentry has it.
func (r *reader) sees(va platform.Addr) bool {
	r.w.tb.Helper()
	r.c.Rip, r.c.Rdi, r.c.Dirty = textAt, uint64(va), platform.DirtyGPR
	if r.th.v.at == nowhere {
		r.c.Dirty = platform.DirtyAll
	}
	ev, err := r.th.Run(r.c, r.w.as)
	switch {
	case err != nil:
		r.w.tb.Fatal(err)
	case ev.Reason == platform.Syscall:
		return true
	case ev.Reason == platform.Fault && ev.Addr == va && ev.Access == platform.Read:
		return false
	}
	r.w.tb.Fatalf("event %+v at %#x", ev, r.c.Rip)
	return false
}

// TestModel does random things to one address space, small and huge, and after each
// reads through the guest at places that a model knows.
func TestModel(t *testing.T) {
	w := newWorld(t)
	w.text(touch...)
	r := w.reader()
	defer r.th.Close()
	const base, span = platform.Addr(0x7000_0000_0000), 8 << 20
	w.used = (w.used + hugeSize - 1) &^ (hugeSize - 1)
	host := w.pages(2 * span / pageSize)
	type state struct{ shown, readable bool }
	var model [span / pageSize]state
	seed := rand.Uint64()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	steps := 150
	if testing.Short() {
		steps = 40
	}
	for step := range steps {
		first, n := rng.IntN(len(model)), 1+rng.IntN(700)
		off := rng.IntN(len(model)) * pageSize
		if rng.IntN(2) == 0 { // a huge page's place
			first, n, off = first&^511, 512*(1+rng.IntN(2)), off&^(hugeSize-1)
		}
		n = min(n, len(model)-first)
		at, size := base+platform.Addr(first*pageSize), uint64(n*pageSize)
		access := []platform.Access{rw, platform.Read, 0, rx}[rng.IntN(4)]
		switch rng.IntN(3) {
		case 0:
			w.show(at, host[off:off+n*pageSize], access)
			for i := range n {
				model[first+i] = state{true, access != 0}
			}
		case 1:
			w.check(w.as.Unmap(at, size))
			clear(model[first : first+n])
		case 2:
			w.check(w.as.Protect(at, size, access))
			for i := range n {
				model[first+i].readable = model[first+i].shown && access != 0
			}
		}
		for range 6 {
			i := rng.IntN(len(model))
			if rng.IntN(2) == 0 {
				i = min(first+rng.IntN(n), len(model)-1)
			}
			va := base + platform.Addr(i*pageSize)
			if got := r.sees(va); got != model[i].readable {
				t.Fatalf("step %d: page %d: seen %v, want %v", step, i, got, model[i].readable)
			}
		}
	}
}

// TestRecycle makes and releases address spaces until tables have been used again
// many times, and looks for one space's memory in another.
func TestRecycle(t *testing.T) {
	w := newWorld(t)
	w.text(append([]byte(nil), 0x48, 0x8b, 0x07, 0x0f, 0x05)...) // mov rax,[rdi]; syscall
	textHost := w.arena[:pageSize]
	data := w.pages(64)
	th := w.thread()
	defer th.Close()
	for round := range 200 {
		as, err := w.p.NewAddressSpace()
		w.check(err)
		w.check(as.Map(textAt, platform.Segment{FD: -1, Host: textHost}, rx))
		i := round % 64
		page := data[i*pageSize:][:pageSize]
		binary.LittleEndian.PutUint64(page, uint64(round))
		va := platform.Addr(0x10_0000_0000 + uint64(round%7)*0x40_0000_0000 + uint64(round%5)*0x20_0000)
		w.check(as.Map(va, platform.Segment{FD: -1, Host: page}, rw))
		c := start()
		c.Rdi = uint64(va)
		ev, err := th.Run(c, as)
		if err != nil || ev.Reason != platform.Syscall || c.Orig_rax != uint64(round) {
			t.Fatalf("round %d: %+v, %v, rax %d", round, ev, err, c.Orig_rax)
		}
		as.Release()
	}
	if w.p.mem.ended.Load() == 0 {
		t.Error("no table was used again; the test is too small")
	}
}

// TestDoorbell: the application rings itself.
func TestDoorbell(t *testing.T) {
	w := newWorld(t)
	w.text(0xe6, doorbell, 0xb8, 39, 0, 0, 0, 0x0f, 0x05) // out doorbell,al; mov eax,39; syscall
	th := w.thread()
	defer th.Close()
	c := start()
	ev, err := th.Run(c, w.as)
	if err != nil || ev.Reason != platform.Signal || ev.Signal != unix.SIGSEGV {
		t.Fatalf("event %+v, %v", ev, err)
	}
	c.Rip, c.Dirty = textAt+2, platform.DirtyGPR
	w.call(th, c, 39)
}

// TestForgedSlot: where the application can write its slot, it harms itself alone.
func TestForgedSlot(t *testing.T) {
	w := newWorld(t)
	// mov eax,39; syscall; mov dword [slot.state],v; out doorbell,al; mov eax,60; syscall
	for _, state := range []byte{running, posted, answered, leave, 77} {
		code := []byte{0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc7, 0x04, 0x25}
		code = binary.LittleEndian.AppendUint32(code, uint32(slotAt&0xffffffff))
		code = append(code, state, 0, 0, 0, 0xe6, doorbell, 0xb8, 60, 0, 0, 0, 0x0f, 0x05)
		w.text(code...)
		th := w.thread()
		c := start()
		w.call(th, c, 39)
		for range 10 {
			ev, err := th.Run(c, w.as)
			if err != nil {
				t.Fatalf("state %d: %v", state, err)
			}
			if ev.Reason == platform.Syscall && c.Orig_rax == 60 {
				break
			}
			if ev.Reason == platform.Signal || ev.Reason == platform.Fault { // as a handler would
				c.Rip, c.Dirty = textAt+uint64(len(code))-7, platform.DirtyGPR
			}
		}
		if c.Orig_rax != 60 {
			t.Errorf("state %d: the thread does not go on", state)
		}
		th.Close()
	}
}

// TestCutFile: a page behind the end of a file is SIGBUS.
func TestCutFile(t *testing.T) {
	w := newWorld(t)
	w.text(touch...)
	f, err := os.CreateTemp(t.TempDir(), "cut")
	w.check(err)
	defer f.Close()
	w.check(f.Truncate(2 * pageSize))
	win, err := unix.Mmap(int(f.Fd()), 0, 2*pageSize, unix.PROT_READ, unix.MAP_SHARED)
	w.check(err)
	t.Cleanup(func() { unix.Munmap(win) })
	w.check(w.p.AddMemory(win))
	w.check(w.as.Map(dataAt, platform.Segment{FD: int(f.Fd()), Host: win}, platform.Read))
	r := w.reader()
	defer r.th.Close()
	if !r.sees(dataAt) {
		t.Fatal("the file is not there")
	}
	w.check(f.Truncate(pageSize))
	r.c.Rip, r.c.Rdi, r.c.Dirty = textAt, dataAt+pageSize, platform.DirtyGPR
	ev, err := r.th.Run(r.c, w.as)
	if err != nil || ev.Reason != platform.Signal || ev.Signal != unix.SIGBUS {
		t.Fatalf("event %+v, %v", ev, err)
	}
	if !r.sees(dataAt) {
		t.Error("the thread does not go on")
	}
}

// TestThreadsComeAndGo: vCPUs go back to the pool, from under a runner too.
func TestThreadsComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.text(0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 10 {
				pt, err := w.p.NewThread()
				if err != nil {
					t.Error(err)
					return
				}
				th := pt.(*thread)
				c := start()
				for range n + 3 {
					if ev, err := th.Run(c, w.as); err != nil || ev.Reason != platform.Syscall {
						t.Errorf("event %+v, %v", ev, err)
					}
					c.Rax = 1
				}
				th.Close()
			}
		})
	}
	wg.Wait()
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if len(w.p.idle) != len(w.p.all) || len(w.p.all) > 9 {
		t.Errorf("%d vcpus of %d are back", len(w.p.idle), len(w.p.all))
	}
}

// Package platformtest is what every platform must do: one suite of tests that
// takes a constructor, and benchmarks of what a platform costs. Its guests are
// a few instructions each, kept as commented bytes.
//
// What the suite holds a platform to, beyond platform.go's words: a Run never
// reports a Fault for an access that the mappings allowed when it began.
package platformtest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// Make makes the platform under test, or skips with the reason.
type Make func(testing.TB) platform.Platform

var suite = []struct {
	name string
	run  func(*testing.T, Make)
}{
	{"Registers", testRegisters},
	{"OnlyRaxIsCarriedBack", testRax},
	{"GarbageArguments", testGarbage},
	{"Exceptions", testExceptions},
	{"Faults", testFaults},
	{"Alignment", testAlignment},
	{"SingleStep", testSingleStep},
	{"TrapFlag", testTrapFlag},
	{"Bases", testBases},
	{"BasesSetInside", testBasesInside},
	{"SSE", testSSE},
	{"AVX", testAVX},
	{"AVX512", testAVX512},
	{"X87", testX87},
	{"FreshFPU", testFreshFPU},
	{"SavedFPU", testSavedFPU},
	{"SaveKeepsStored", testSaveKeeps},
	{"SelfModifying", testSelfModifying},
	{"ManyThreads", testManyThreads},
	{"InterruptSpinning", testInterruptSpinning},
	{"InterruptBefore", testInterruptBefore},
	{"InterruptNeverLost", testInterruptNeverLost},
	{"NoRestart", testNoRestart},
	{"Sleep", testSleep},
	{"SwitchSpaces", testSwitchSpaces},
	{"SwitchKeepsFPU", testSwitchFPU},
	{"Shootdown", testShootdown},
	{"Shared", testShared},
	{"CopyOnWrite", testCopyOnWrite},
	{"ReplaceMapping", testReplace},
	{"ProtectHoles", testProtectHoles},
	{"BigMap", testBigMap},
	{"SmallMaps", testSmallMaps},
	{"ManyMaps", testManyMaps},
	{"ManySpaces", testManySpaces},
	{"Clock", testClock},
	{"HostileRegisters", testHostileRegisters},
	{"HostileFPU", testHostileFPU},
	{"Selectors", testSelectors},
	{"OldEntries", testOldEntries},
	{"Vsyscall", testVsyscall},
}

// Run runs the suite.
func Run(t *testing.T, newPlatform func(testing.TB) platform.Platform) {
	for _, c := range suite {
		t.Run(c.name, func(t *testing.T) { c.run(t, newPlatform) })
	}
}

// Where a guest's parts lie.
const (
	textAt  platform.Addr = 0x40_0000
	dataAt  platform.Addr = 0x5555_0000_0000
	stackAt platform.Addr = 0x7ffd_0000_0000 // a page, RSP in its middle
	nowhere platform.Addr = 0x6666_0000_0000

	rw  = platform.Read | platform.Write
	rx  = platform.Read | platform.Exec
	rwx = rw | platform.Exec
)

// world is a platform with memory to map.
type world struct {
	tb     testing.TB
	p      platform.Platform
	fd     int // -1 if the platform wants private memory
	region []byte

	mu   sync.Mutex
	next int // bytes of region given out
}

const (
	regionSize = 3 << 30 // bytes; only what is touched costs anything

	// regionStep is how much is announced at a time: what is mapped may lie in several
	// regions, one behind the other (BigMap).
	regionStep = 512 << 20
)

func newWorld(tb testing.TB, newPlatform Make) *world {
	w := &world{tb: tb, p: newPlatform(tb), fd: -1}
	tb.Cleanup(func() {
		if err := w.p.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
		if w.region != nil {
			unix.Munmap(w.region)
		}
		if w.fd >= 0 {
			unix.Close(w.fd)
		}
	})
	if err := w.reserve(); err != nil {
		tb.Fatal(err)
	}
	return w
}

func (w *world) reserve() (err error) {
	flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	if !w.p.Private() {
		if w.fd, err = unix.MemfdCreate("platformtest", unix.MFD_CLOEXEC); err != nil {
			return fmt.Errorf("memfd: %w", err)
		}
		if err := unix.Ftruncate(w.fd, regionSize); err != nil {
			return fmt.Errorf("size memfd: %w", err)
		}
		flags = unix.MAP_SHARED
	}
	w.region, err = unix.Mmap(w.fd, 0, regionSize, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_NORESERVE)
	if err != nil {
		return fmt.Errorf("map %d bytes: %w", regionSize, err)
	}
	for at := 0; at < regionSize; at += regionStep {
		if err := w.p.AddMemory(w.region[at : at+regionStep]); err != nil {
			return err
		}
	}
	return nil
}

// pages gives out n pages of zeroes.
func (w *world) pages(n int) platform.Segment {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.next
	w.next += n * platform.PageSize
	return platform.Segment{FD: w.fd, Offset: int64(at), Host: w.region[at:w.next:w.next]}
}

func (w *world) space() platform.AddressSpace {
	w.tb.Helper()
	as, err := w.p.NewAddressSpace()
	if err != nil {
		w.tb.Fatalf("new address space: %v", err)
	}
	return as
}

// mapped gives [at, at+n pages) fresh memory and returns the Sentry's view.
func (w *world) mapped(as platform.AddressSpace, at platform.Addr, n int, access platform.Access) platform.Segment {
	w.tb.Helper()
	seg := w.pages(n)
	if err := as.Map(at, seg, access); err != nil {
		w.tb.Fatalf("map %d pages at %#x %v: %v", n, at, access, err)
	}
	return seg
}

// program is an address space that holds a guest: text, data and a stack.
type program struct {
	w                 *world
	as                platform.AddressSpace
	text, data, stack platform.Segment
}

func (w *world) program(guest string) *program {
	w.tb.Helper()
	as := w.space()
	w.tb.Cleanup(as.Release)
	p := &program{w: w, as: as}
	p.text = w.mapped(as, textAt, 1, rx)
	p.data = w.mapped(as, dataAt, 2, rw)
	p.stack = w.mapped(as, stackAt, 1, rw)
	copy(p.text.Host, code(guest))
	return p
}

// guest is a thread in a program. It belongs to one goroutine.
type guest struct {
	platform.Context
	th platform.Thread
	as platform.AddressSpace
}

func (p *program) start() (*guest, error) {
	th, err := p.w.p.NewThread()
	if err != nil {
		return nil, fmt.Errorf("new thread: %w", err)
	}
	g := &guest{th: th, as: p.as}
	g.Registers = platform.Registers{
		Rip: uint64(textAt), Rsp: uint64(stackAt) + platform.PageSize/2, Rdi: uint64(dataAt),
		Eflags: 0x202, Cs: 0x33, Ss: 0x2b, Rax: unix.SYS_GETPPID, Orig_rax: ^uint64(0),
	}
	g.Dirty = platform.DirtyAll
	return g, nil
}

// guest starts a thread for the test's own goroutine.
func (p *program) guest() *guest {
	p.w.tb.Helper()
	g, err := p.start()
	if err != nil {
		p.w.tb.Fatal(err)
	}
	p.w.tb.Cleanup(g.th.Close)
	return g
}

// newGuest is a world with one program and one thread.
func newGuest(tb testing.TB, newPlatform Make, text string) (*program, *guest) {
	tb.Helper()
	p := newWorld(tb, newPlatform).program(text)
	return p, p.guest()
}

func (g *guest) run() (platform.Event, error) {
	e, err := g.th.Run(&g.Context, g.as)
	if err != nil {
		return e, fmt.Errorf("run at %#x: %w", g.Rip, err)
	}
	if g.Dirty != 0 {
		return e, fmt.Errorf("run left Dirty at %b", g.Dirty)
	}
	return e, nil
}

// until runs until an event, which must have this reason.
func (g *guest) until(want platform.Reason) (platform.Event, error) {
	e, err := g.run()
	if err == nil && e.Reason != want {
		err = fmt.Errorf("got %s, want reason %d", g.describe(e), want)
	}
	return e, err
}

func (g *guest) expect(tb testing.TB, want platform.Reason) platform.Event {
	tb.Helper()
	e, err := g.until(want)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// call expects a system call with this number.
func (g *guest) call(tb testing.TB, nr uint64) {
	tb.Helper()
	g.expect(tb, platform.Syscall)
	if g.Orig_rax != nr {
		tb.Fatalf("call %d at %#x, want %d", int64(g.Orig_rax), g.Rip, nr)
	}
}

func (g *guest) describe(e platform.Event) string {
	return fmt.Sprintf("reason %d, access %v, addr %#x, signal %d code %d, trap %d err %#x; rip %#x, orig_rax %d",
		e.Reason, e.Access, uint64(e.Addr), e.Signal, e.Code, e.Trap, e.Err, g.Rip, int64(g.Orig_rax))
}

// together runs n functions in goroutines of their own and gives back what went wrong.
func together(n int, each func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = each(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// beside runs a guest in a goroutine of its own until one event.
func (p *program) beside(prepare func(*guest)) *companion {
	p.w.tb.Helper()
	c := &companion{ready: make(chan error, 1), done: make(chan struct{})}
	go c.loop(p, prepare)
	if err := <-c.ready; err != nil {
		p.w.tb.Fatal(err)
	}
	p.w.tb.Cleanup(func() { // whatever the test did not wait for
		if !c.ended.Load() {
			c.guest.th.Interrupt()
			<-c.done
		}
	})
	return c
}

type companion struct {
	guest *guest
	ready chan error
	ended atomic.Bool
	done  chan struct{}
	event platform.Event
	err   error
}

func (c *companion) loop(p *program, prepare func(*guest)) {
	defer close(c.done)
	g, err := p.start()
	c.guest = g
	if err == nil {
		defer g.th.Close()
		prepare(g)
	}
	c.ready <- err
	if err == nil {
		c.event, c.err = g.run()
	}
	c.ended.Store(true)
}

// wait waits for the event, which must have this reason.
func (c *companion) wait(tb testing.TB, want platform.Reason) platform.Event {
	tb.Helper()
	<-c.done
	if c.err != nil {
		tb.Fatal(c.err)
	}
	if c.event.Reason != want {
		tb.Fatalf("the other thread got %s, want reason %d", c.guest.describe(c.event), want)
	}
	return c.event
}

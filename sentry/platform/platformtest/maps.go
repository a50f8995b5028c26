package platformtest

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// testShootdown takes a page away from a thread that is using it. What the
// Sentry reads when the call has returned must stay so.
func testShootdown(t *testing.T, newPlatform Make) {
	unmap := func(as platform.AddressSpace, _ platform.Segment) error {
		return as.Unmap(dataAt, platform.PageSize)
	}
	readOnly := func(as platform.AddressSpace, _ platform.Segment) error {
		return as.Protect(dataAt, platform.PageSize, platform.Read)
	}
	none := func(as platform.AddressSpace, _ platform.Segment) error {
		return as.Protect(dataAt, platform.PageSize, 0)
	}
	replace := func(as platform.AddressSpace, other platform.Segment) error {
		return as.Map(dataAt, other, platform.Read)
	}
	for _, c := range []struct {
		name string
		take func(platform.AddressSpace, platform.Segment) error
	}{
		{"unmap", unmap}, {"read-only", readOnly}, {"none", none}, {"replace", replace},
	} {
		for _, who := range []string{"an outsider", "a thread of it"} {
			t.Run(c.name+" by "+who, func(t *testing.T) {
				p := newWorld(t, newPlatform).program(guestWriter)
				other := p.w.pages(1)
				if who == "a thread of it" {
					copy(p.text.Host[0x100:], code(guestCall))
					g := p.guest()
					g.Rip += 0x100
					g.expect(t, platform.Syscall)
				}
				for range 5 {
					if err := p.as.Map(dataAt, p.data, rw); err != nil {
						t.Fatal(err)
					}
					counter := word(p.data.Host, 0)
					counter.Store(0)
					c2 := p.beside(func(g *guest) { g.Rax = 0 })
					started(counter)
					if err := c.take(p.as, other); err != nil {
						t.Fatal(err)
					}
					after := counter.Load()
					e := c2.wait(t, platform.Fault)
					if e.Addr != dataAt {
						t.Fatalf("got %s", c2.guest.describe(e))
					}
					if got := counter.Load(); got != after {
						t.Fatalf("%d writes after the page was gone", got-after)
					}
				}
			})
		}
	}
}

func testShared(t *testing.T, newPlatform Make) {
	w := newWorld(t, newPlatform)
	a, b := w.program(guestStore), w.program(guestLoad)
	const elsewhere = nowhere + 0x5000
	seg := w.pages(1)
	if err := a.as.Map(nowhere, seg, rw); err != nil {
		t.Fatal(err)
	}
	if err := b.as.Map(elsewhere, seg, platform.Read); err != nil {
		t.Fatal(err)
	}
	writer, reader := a.guest(), b.guest()
	for v := range uint64(20) {
		writer.Rip, writer.Rdi, writer.Rax, writer.Dirty = uint64(textAt), uint64(nowhere), 500+v, platform.DirtyAll
		writer.call(t, 500+v)
		if got := word(seg.Host, 0).Load(); got != 500+v {
			t.Fatalf("the Sentry reads %d, want %d", got, 500+v)
		}
		reader.Rip, reader.Rdi, reader.Dirty = uint64(textAt), uint64(elsewhere), platform.DirtyAll
		reader.call(t, 500+v)
	}
}

// testCopyOnWrite does what fork does with a page.
func testCopyOnWrite(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestAdd)
	word(p.data.Host, 0).Store(41)
	g.Rax = 1
	g.call(t, 1)
	if err := p.as.Protect(dataAt, 2*platform.PageSize, platform.Read); err != nil {
		t.Fatal(err)
	}
	child := p.w.space()
	defer child.Release()
	for at, seg := range map[platform.Addr]platform.Segment{textAt: p.text, dataAt: p.data} {
		access := platform.Read
		if at == textAt {
			access = rx
		}
		if err := child.Map(at, seg, access); err != nil {
			t.Fatal(err)
		}
	}
	g.Rip, g.Rax, g.Rdi, g.Dirty = uint64(textAt), 1, uint64(dataAt), platform.DirtyGPR
	if e := g.expect(t, platform.Fault); e.Access != platform.Write || e.Addr != dataAt {
		t.Fatalf("got %s", g.describe(e))
	}
	copied := p.w.pages(1)
	copy(copied.Host, p.data.Host)
	if err := p.as.Map(dataAt, copied, rw); err != nil {
		t.Fatal(err)
	}
	g.call(t, 1)
	if got := word(copied.Host, 0).Load(); got != 43 {
		t.Errorf("the copy holds %d, want 43", got)
	}
	if got := word(p.data.Host, 0).Load(); got != 42 {
		t.Errorf("the child's page holds %d, want 42", got)
	}
	// The second page was not copied and is still read-only.
	g.Rip, g.Rdi, g.Dirty = uint64(textAt), uint64(dataAt)+platform.PageSize, platform.DirtyGPR
	g.expect(t, platform.Fault)
}

func testReplace(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestLoad)
	for n := range uint64(30) {
		seg := p.w.mapped(p.as, nowhere, 1+int(n%3), platform.Read)
		word(seg.Host, 0).Store(n)
		g.Rip, g.Rdi, g.Dirty = uint64(textAt), uint64(nowhere), platform.DirtyGPR
		g.call(t, n)
		if n%5 == 0 {
			if err := p.as.Unmap(nowhere, 3*platform.PageSize); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// testProtectHoles: Protect and Unmap pass over what is not there.
func testProtectHoles(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestStore)
	for i := range platform.Addr(8) {
		if i%2 == 0 {
			p.w.mapped(p.as, nowhere+i*platform.PageSize, 1, rw)
		}
	}
	store := func(i platform.Addr, want platform.Reason) {
		t.Helper()
		g.Rip, g.Rdi, g.Dirty = uint64(textAt), uint64(nowhere+i*platform.PageSize), platform.DirtyGPR
		g.expect(t, want)
	}
	store(6, platform.Syscall)
	if err := p.as.Protect(nowhere, 7*platform.PageSize, platform.Read); err != nil {
		t.Fatal(err)
	}
	for i := range platform.Addr(8) {
		store(i, platform.Fault)
	}
	if err := p.as.Protect(nowhere+4*platform.PageSize, 1<<30, rw); err != nil {
		t.Fatal(err)
	}
	store(2, platform.Fault)
	store(4, platform.Syscall)
	store(5, platform.Fault)
	store(6, platform.Syscall)
	if err := p.as.Unmap(nowhere, 6*platform.PageSize); err != nil {
		t.Fatal(err)
	}
	store(4, platform.Fault)
	store(6, platform.Syscall)
	if err := p.as.Unmap(nowhere-1<<30, 2<<30); err != nil {
		t.Fatal(err)
	}
	store(6, platform.Fault)
}

func testBigMap(t *testing.T, newPlatform Make) {
	const size = 1 << 30
	p, g := newGuest(t, newPlatform, guestTouch)
	seg := p.w.pages(size / platform.PageSize)
	begin := time.Now()
	if err := p.as.Map(nowhere, seg, rw); err != nil {
		t.Fatal(err)
	}
	g.Rdi, g.Rsi, g.Rcx = uint64(nowhere), size/16+platform.PageSize, 15
	g.call(t, unix.SYS_GETPPID)
	t.Logf("1 GiB mapped and 15 pages touched in %v", time.Since(begin))
	for i := range 15 {
		if got := word(seg.Host, i*(size/16+platform.PageSize)).Load(); got != 1 {
			t.Fatalf("touch %d left %d", i, got)
		}
	}
	if err := p.as.Unmap(nowhere, size); err != nil {
		t.Fatal(err)
	}
	g.Rip, g.Rdi, g.Rcx, g.Dirty = uint64(textAt), uint64(nowhere)+size/2, 1, platform.DirtyGPR
	g.expect(t, platform.Fault)
}

// testSmallMaps: a thousand maps that no platform can join, then gone again.
func testSmallMaps(t *testing.T, newPlatform Make) {
	const count, stride = 1000, 2 * platform.PageSize
	p, g := newGuest(t, newPlatform, guestTouch)
	segs := [count]platform.Segment{}
	for i := range segs {
		segs[i] = p.w.mapped(p.as, nowhere+platform.Addr(i*stride), 1, rw)
	}
	g.Rdi, g.Rsi, g.Rcx = uint64(nowhere), stride, count
	g.call(t, unix.SYS_GETPPID)
	for i, seg := range segs {
		if got := word(seg.Host, 0).Load(); got != 1 {
			t.Fatalf("page %d was touched %d times", i, got)
		}
	}
	for i := range segs {
		if err := p.as.Unmap(nowhere+platform.Addr(i*stride), platform.PageSize); err != nil {
			t.Fatal(err)
		}
		g.Rip, g.Rdi, g.Rcx, g.Dirty = uint64(textAt), uint64(nowhere)+uint64(i*stride), 1, platform.DirtyGPR
		g.expect(t, platform.Fault)
	}
}

// roomy maps n scattered pages; a platform may run out of mappings (ErrMemory),
// and must still run what there is.
func roomy(p *program, n int) (int, error) {
	seg := p.w.pages(1)
	for i := range n {
		err := p.as.Map(nowhere+platform.Addr(2*i*platform.PageSize), seg, platform.Read)
		if errors.Is(err, platform.ErrMemory) {
			return i, nil
		}
		if err != nil {
			return i, err
		}
	}
	return n, nil
}

// testManyMaps goes beyond vm.max_map_count, 65,530 on most hosts.
func testManyMaps(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestLoad)
	const wanted = 70_000
	n, err := roomy(p, wanted)
	if err != nil {
		t.Fatal(err)
	}
	if n < wanted {
		t.Logf("room for %d mappings", n)
	}
	g.Rdi = uint64(nowhere)
	e, err := g.run()
	if err != nil {
		t.Fatal(err)
	}
	if e.Reason == platform.Fault { // what was dropped is mapped again by the Sentry
		p.w.mapped(p.as, nowhere, 1, platform.Read)
		g.expect(t, platform.Syscall)
	}
}

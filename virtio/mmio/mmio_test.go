package mmio_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"bulkhead/virtio"
	"bulkhead/virtio/mmio"
	"bulkhead/virtio/virtiotest"

	"golang.org/x/sys/unix"
)

// echo answers what it reads and has a byte of configuration.
type echo struct {
	mu     sync.Mutex
	resets int
	block  chan struct{} // if not nil, Serve waits for it to close
	begun  chan struct{} // and says here that it does
	state  byte
}

func (*echo) ID() virtio.DeviceID { return 42 }
func (*echo) Features() uint64    { return 1 << 3 }
func (*echo) Queues() []uint16    { return []uint16{16, 8} }

func (e *echo) Serve(_ int, c *virtio.Chain) (int, error) {
	if e.block != nil {
		e.begun <- struct{}{}
		<-e.block
	}
	if c.Readable() == 0 {
		return 0, errors.New("echo: nothing to say")
	}
	var b [256]byte
	n, err := c.Read(b[:])
	if err != nil {
		return 0, err
	}
	return c.Write(b[:n])
}

func (e *echo) Reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resets++
}

func (e *echo) ReadConfig(at uint32, b []byte) {
	for i := range b {
		b[i] = byte(at) + byte(i)
	}
}

func (e *echo) WriteConfig(uint32, []byte) {}
func (e *echo) Save() ([]byte, error)      { return []byte{e.state}, nil }

func (e *echo) Restore(b []byte) error {
	if len(b) != 1 {
		return fmt.Errorf("echo: %d bytes of state, want 1", len(b))
	}
	e.state = b[0]
	return nil
}

// guest is a driver that reaches its device through registers.
type guest struct {
	t         testing.TB
	tr        *mmio.Transport
	mem       *virtiotest.Memory
	interrupt chan struct{}
	failed    chan error
	rings     []*virtiotest.Ring
	features  uint64
}

const (
	regStatus   = 0x070
	regQueueSel = 0x030
	regReady    = 0x044
	agreed      = uint32(mmio.Acknowledge | mmio.Driver | mmio.FeaturesOK)
	running     = agreed | uint32(mmio.DriverOK)
)

func newGuest(t *testing.T, dev virtio.Device) *guest {
	t.Helper()
	g := &guest{t: t, mem: virtiotest.NewMemory(1 << 20), interrupt: make(chan struct{}, 1000), failed: make(chan error, 10)}
	g.attach(dev)
	return g
}

// attach makes a transport for dev over the same memory.
func (g *guest) attach(dev virtio.Device) {
	g.t.Helper()
	tr, err := mmio.New(dev, g.mem, mmio.Lines{
		Interrupt: func() { g.interrupt <- struct{}{} },
		Failed:    func(err error) { g.failed <- err },
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.tr = tr
	g.t.Cleanup(tr.Close)
}

func (g *guest) get(at uint64) uint32 {
	b := make([]byte, 4)
	g.tr.Read(at, b)
	return binary.LittleEndian.Uint32(b)
}

func (g *guest) set(at uint64, v uint32) {
	g.tr.Write(at, binary.LittleEndian.AppendUint32(nil, v))
}

// agree climbs to FEATURES_OK.
func (g *guest) agree(features uint64) {
	g.t.Helper()
	g.features = features | virtio.FeatureVersion1
	g.set(regStatus, 0)
	g.set(regStatus, 1)
	g.set(regStatus, 3)
	for i := range uint32(2) {
		g.set(0x024, i)
		g.set(0x020, uint32(g.features>>(32*i)))
	}
	g.set(regStatus, agreed)
	if got := g.get(regStatus); got != agreed {
		g.t.Fatalf("status after FEATURES_OK: got %#x, want %#x", got, agreed)
	}
}

// setQueue writes the registers of queue i and makes it ready.
func (g *guest) setQueue(i int, l virtio.Layout) {
	g.set(regQueueSel, uint32(i))
	g.set(0x038, uint32(l.Size))
	for at, addr := range map[uint64]virtio.Addr{0x080: l.Desc, 0x090: l.Avail, 0x0a0: l.Used} {
		g.set(at, uint32(addr))
		g.set(at+4, uint32(addr>>32))
	}
	g.set(regReady, 1)
}

// up brings the device to life, with all its queues.
func (g *guest) up(features uint64) {
	g.t.Helper()
	g.agree(features)
	g.rings = nil
	for i := range 2 {
		g.set(regQueueSel, uint32(i))
		ring := virtiotest.NewRing(g.mem, uint16(g.get(0x034)), g.features)
		g.rings = append(g.rings, ring)
		g.setQueue(i, ring.Layout)
	}
	g.set(regStatus, running)
	if got := g.get(regStatus); got != running {
		g.t.Fatalf("status after DRIVER_OK: got %#x, want %#x", got, running)
	}
}

// offer puts a request of out and in bytes into queue i and rings.
func (g *guest) offer(i int, out string, in int) (answer []byte) {
	answer = g.describe(i, out, in)
	g.rings[i].Arm()
	if g.rings[i].Offer(0) {
		g.set(mmio.QueueNotify, uint32(i))
	}
	return answer
}

// describe writes such a request into the descriptors 0 and 1.
func (g *guest) describe(i int, out string, in int) (answer []byte) {
	r := g.rings[i]
	at := g.mem.Alloc(64)
	copy(g.mem.Bytes(at, 64), out)
	dst := g.mem.Alloc(64)
	r.SetDesc(0, virtiotest.Desc{Addr: at, Len: uint32(len(out)), Flags: virtiotest.Next, Next: 1})
	r.SetDesc(1, virtiotest.Desc{Addr: dst, Len: uint32(in), Flags: virtiotest.Write})
	return g.mem.Bytes(dst, in)
}

// finish waits for the interrupt and takes the used entry.
func (g *guest) finish(i int) int {
	g.t.Helper()
	for {
		if head, n, ok := g.rings[i].Reap(); ok {
			if head != 0 {
				g.t.Fatalf("used head %d, want 0", head)
			}
			return n
		}
		<-g.interrupt
		g.set(0x064, g.get(0x060))
		if g.get(regStatus)&uint32(mmio.NeedsReset) != 0 {
			g.t.Fatalf("the device failed: %v", <-g.failed)
		}
	}
}

func (g *guest) echo(i int, text string) {
	g.t.Helper()
	answer := g.offer(i, text, len(text))
	if n := g.finish(i); n != len(text) || string(answer) != text {
		g.t.Errorf("queue %d: sent %q, got %q of %d bytes", i, text, answer, n)
	}
}

func TestIdentity(t *testing.T) {
	g := newGuest(t, &echo{})
	for _, row := range []struct {
		name     string
		at       uint64
		want     uint32
		selector uint64
		sel      uint32
	}{
		{"MagicValue", 0x000, 0x74726976, 0, 0},
		{"Version", 0x004, 2, 0, 0},
		{"DeviceID", 0x008, 42, 0, 0},
		{"DeviceFeatures, low", 0x010, 1<<3 | 1<<28 | 1<<29, 0x014, 0},
		{"DeviceFeatures, high", 0x010, 1<<0 | 1<<8, 0x014, 1},
		{"DeviceFeatures, beyond", 0x010, 0, 0x014, 2},
		{"QueueSizeMax of queue 0", 0x034, 16, 0x030, 0},
		{"QueueSizeMax of queue 1", 0x034, 8, 0x030, 1},
		{"QueueSizeMax of no queue", 0x034, 0, 0x030, 2},
		{"QueueReady of no queue", 0x044, 0, 0x030, ^uint32(0)},
		{"SHMLenLow", 0x0b0, ^uint32(0), 0x0ac, 0},
		{"SHMLenHigh", 0x0b4, ^uint32(0), 0x0ac, 7},
		{"a hole", 0x0f0, 0, 0, 0},
		{"write-only", 0x050, 0, 0, 0},
	} {
		if row.selector != 0 {
			g.set(row.selector, row.sel)
		}
		if got := g.get(row.at); got != row.want {
			t.Errorf("%s: got %#x, want %#x", row.name, got, row.want)
		}
	}
}

func TestConfigWidths(t *testing.T) {
	g := newGuest(t, &echo{})
	for _, width := range []int{1, 2, 4, 8} {
		b := make([]byte, width)
		g.tr.Read(0x100+5, b)
		for i, got := range b {
			if got != byte(5+i) {
				t.Errorf("configuration byte %d of a read of %d at 5: got %d", i, width, got)
			}
		}
	}
	for _, at := range []uint64{mmio.Size - 1, mmio.Size, 1 << 40, ^uint64(0)} {
		b := []byte{9, 9}
		g.tr.Read(at, b)
		g.tr.Write(at, b)
		if b[0] != 0 || b[1] != 0 {
			t.Errorf("read across the end, at %#x: got %v, want zeroes", at, b)
		}
	}
}

func TestEcho(t *testing.T) {
	for _, features := range []uint64{0, virtio.FeatureEventIdx, 1<<3 | virtio.FeatureEventIdx} {
		g := newGuest(t, &echo{})
		g.up(features)
		for i := range 40 { // around the ring
			g.echo(i%2, "Hallo")
		}
		if m := g.tr.Metrics(); m.Chains != 40 || m.Read != 200 || m.Written != 200 || m.Interrupts == 0 || m.Notifications == 0 {
			t.Errorf("metrics after 40 requests of 5 bytes each way: %+v", m)
		}
	}
}

// TestLadder writes every status at every rung.
func TestLadder(t *testing.T) {
	path := []uint32{0, 1, 3, agreed, running}
	for rung, now := range path {
		for wants := range uint32(256) {
			g := newGuest(t, &echo{})
			if rung >= 3 {
				g.agree(0)
			}
			for _, s := range path[:rung+1] {
				if rung < 3 || s == running {
					g.set(regStatus, s)
				}
			}
			g.set(regStatus, wants)
			want := now
			switch next := append(path, 0)[rung+1]; {
			case wants == 0:
				want = 0
			case wants&^64 == next && rung == 2: // nobody wrote VERSION_1
			case wants&^64 == next && next != 0:
				want = next
			case wants&^64 == now|128:
				want = now | 128
			}
			if got := g.get(regStatus); got != want {
				t.Errorf("status %#x, write %#x: got %#x, want %#x", now, wants, got, want)
			}
		}
	}
}

func TestFeaturesRefused(t *testing.T) {
	for name, features := range map[string][2]uint32{
		"no version":   {0, 0},
		"not offered":  {1 << 5, 1},
		"legacy clash": {1, 1 << 2},
	} {
		g := newGuest(t, &echo{})
		g.set(regStatus, 1)
		g.set(regStatus, 3)
		for i, v := range features {
			g.set(0x024, uint32(i))
			g.set(0x020, v)
		}
		g.set(regStatus, agreed)
		if got := g.get(regStatus); got != 3 {
			t.Errorf("%s: status %#x, want 3", name, got)
		}
	}
}

func TestResetAndAgain(t *testing.T) {
	dev := &echo{}
	g := newGuest(t, dev)
	for round := range 5 {
		g.up(virtio.FeatureEventIdx)
		g.echo(0, "again")
		g.offer(1, "unheard", 7)
		<-g.interrupt
		g.set(regStatus, 0)
		if got := g.get(regStatus) | g.get(0x060); got != 0 {
			t.Errorf("round %d: status and interrupts after reset: %#x", round, got)
		}
		g.set(regQueueSel, 0)
		if g.get(regReady) != 0 {
			t.Errorf("round %d: a queue is ready after reset", round)
		}
	}
	if dev.resets < 5 {
		t.Errorf("device was reset %d times, want 5 or more", dev.resets)
	}
}

// TestResetWaits resets while a request is being served: the write returns only when it has ended.
func TestResetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &echo{block: make(chan struct{}), begun: make(chan struct{}, 1)}
		g := newGuest(t, dev)
		g.up(0)
		g.offer(0, "slow", 4)
		<-dev.begun
		reset := make(chan struct{})
		go func() { g.set(regStatus, 0); close(reset) }()
		synctest.Wait()
		select {
		case <-reset:
			t.Error("reset returned while the device was serving")
		default:
		}
		close(dev.block)
		<-reset
		dev.block = nil
		g.up(0)
		g.echo(0, "alive")
		g.tr.Close()
	})
}

func TestNeedsReset(t *testing.T) {
	g := newGuest(t, &echo{})
	g.up(0)
	before := g.get(0x0fc)
	g.offer(0, "", 4) // which echo does not answer
	if err := <-g.failed; err == nil {
		t.Error("failed for no reason")
	}
	if got := g.get(regStatus); got != running|uint32(mmio.NeedsReset) {
		t.Errorf("status: got %#x, want %#x", got, running|uint32(mmio.NeedsReset))
	}
	if g.get(0x060)&2 == 0 || g.get(0x0fc) == before {
		t.Error("no configuration interrupt, or no new generation")
	}
	g.set(mmio.QueueNotify, 0) // nobody is there
	g.up(0)
	g.echo(0, "risen")
}

func TestBadQueue(t *testing.T) {
	mem := virtiotest.NewMemory(1 << 20)
	good := virtiotest.NewRing(mem, 8, 0).Layout
	for name, change := range map[string]func(*virtio.Layout){
		"size 0":              func(l *virtio.Layout) { l.Size = 0 },
		"size 3":              func(l *virtio.Layout) { l.Size = 3 },
		"table not aligned":   func(l *virtio.Layout) { l.Desc += 8 },
		"avail not aligned":   func(l *virtio.Layout) { l.Avail++ },
		"used not aligned":    func(l *virtio.Layout) { l.Used += 2 },
		"table past memory":   func(l *virtio.Layout) { l.Desc = 1<<20 - 16 },
		"avail past memory":   func(l *virtio.Layout) { l.Avail = 1<<20 - 2 },
		"used past memory":    func(l *virtio.Layout) { l.Used = 1<<20 - 4 },
		"table wraps":         func(l *virtio.Layout) { l.Desc = ^virtio.Addr(15) },
		"avail wraps":         func(l *virtio.Layout) { l.Avail = ^virtio.Addr(1) },
		"used wraps":          func(l *virtio.Layout) { l.Used = ^virtio.Addr(3) },
		"avail in the desert": func(l *virtio.Layout) { l.Avail = 1 << 40 },
	} {
		g := newGuest(t, &echo{})
		g.agree(0)
		l := good
		change(&l)
		g.setQueue(0, l)
		if g.get(regReady) != 0 || g.get(regStatus)&uint32(mmio.NeedsReset) == 0 || len(g.failed) != 1 {
			t.Errorf("%s: ready %d, status %#x, %d failures", name, g.get(regReady), g.get(regStatus), len(g.failed))
		}
		g.set(regStatus, running)
		if g.get(regStatus)&uint32(mmio.DriverOK) != 0 {
			t.Errorf("%s: DRIVER_OK all the same", name)
		}
	}
}

func TestQueueReset(t *testing.T) {
	g := newGuest(t, &echo{})
	g.up(virtio.FeatureRingReset)
	g.echo(0, "before")
	g.set(regQueueSel, 0)
	g.set(0x0c0, 1)
	if g.get(0x0c0) != 0 || g.get(regReady) != 0 {
		t.Error("the queue is not reset")
	}
	g.echo(1, "the other goes on")
	g.rings[0] = virtiotest.NewRing(g.mem, 4, g.features)
	g.setQueue(0, g.rings[0].Layout)
	g.echo(0, "after")
	g.echo(1, "beside")
}

func TestSnapshot(t *testing.T) {
	g := newGuest(t, &echo{state: 7})
	g.up(virtio.FeatureEventIdx)
	for i := range 50 {
		g.echo(i%2, "before")
	}
	g.tr.Pause()
	answer := g.offer(0, "held", 4)
	saved, err := g.tr.Save()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(saved) // as the machine keeps it
	if err != nil {
		t.Fatal(err)
	}
	var state mmio.State
	if err := json.Unmarshal(b, &state); err != nil {
		t.Fatal(err)
	}
	other := &echo{}
	g.attach(other)
	if err := g.tr.Restore(state); err != nil {
		t.Fatal(err)
	}
	if other.state != 7 {
		t.Errorf("the device's own state: got %d, want 7", other.state)
	}
	if got := g.get(regStatus); got != running {
		t.Errorf("restored status: got %#x, want %#x", got, running)
	}
	g.tr.Resume()
	if n := g.finish(0); n != 4 || string(answer) != "held" {
		t.Errorf("the request made before the snapshot: %q of %d bytes", answer, n)
	}
	for range 20 {
		g.echo(1, "after")
	}
}

// TestInterruptSurvives restores a machine whose driver has not yet seen its interrupt.
func TestInterruptSurvives(t *testing.T) {
	g := newGuest(t, &echo{})
	g.up(0)
	g.offer(0, "quick", 5)
	<-g.interrupt
	g.tr.Pause()
	state, err := g.tr.Save()
	if err != nil {
		t.Fatal(err)
	}
	g.attach(&echo{})
	if err := g.tr.Restore(state); err != nil {
		t.Fatal(err)
	}
	g.tr.Resume()
	if len(g.interrupt) != 1 || g.get(0x060) != 1 {
		t.Errorf("%d interrupts after the restore, status %d; want 1 and 1", len(g.interrupt), g.get(0x060))
	}
}

// keeper is a Runner that only remembers what it was started with.
type keeper struct{ active []*virtio.Active }

func (*keeper) ID() virtio.DeviceID { return 42 }
func (*keeper) Features() uint64    { return 0 }
func (*keeper) Queues() []uint16    { return []uint16{16, 8} }
func (k *keeper) Start(a *virtio.Active) error {
	if a.Features&virtio.FeatureRingReset != 0 {
		return errors.New("keeper: no")
	}
	k.active = append(k.active, a)
	return nil
}
func (*keeper) Stop() {}

// TestStaleFailure fails an operation that has ended.
func TestStaleFailure(t *testing.T) {
	dev := &keeper{}
	g := newGuest(t, dev)
	g.up(0)
	g.up(0)
	dev.active[0].Fail(errors.New("late"))
	g.tr.Close() // waits for it
	if got := g.get(regStatus); got != running || len(g.failed) != 0 {
		t.Errorf("status %#x and %d failures, want %#x and none", got, len(g.failed), running)
	}
}

func TestStartFails(t *testing.T) {
	g := newGuest(t, &keeper{})
	g.agree(virtio.FeatureRingReset)
	g.set(regStatus, running)
	if got := g.get(regStatus); got != running|uint32(mmio.NeedsReset) || len(g.failed) != 1 {
		t.Errorf("status %#x and %d failures", got, len(g.failed))
	}
}

func TestRestoreRefuses(t *testing.T) {
	g := newGuest(t, &echo{})
	if _, err := g.tr.Save(); err == nil {
		t.Error("saved while it runs")
	}
	g.up(0)
	g.tr.Pause()
	good, err := g.tr.Save()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*mmio.State){
		"another device":  func(s *mmio.State) { s.Device = 1 },
		"fewer queues":    func(s *mmio.State) { s.Queues = s.Queues[:1] },
		"unknown feature": func(s *mmio.State) { s.DriverFeatures |= 1 << 50 },
		"queue nowhere":   func(s *mmio.State) { s.Queues[0].Desc = 1 << 50 },
	} {
		s := good
		s.Queues = append([]mmio.StateQueue{}, good.Queues...)
		change(&s)
		g.attach(&echo{})
		if err := g.tr.Restore(s); err == nil {
			t.Errorf("%s: restored", name)
		}
	}
}

// event is an eventfd, waited for as the machine does it: in read(2), with a
// thread. The runtime's poller would save the thread, but takes a second read and
// a trip through epoll: 7 to 100 µs there and back for BenchmarkDoorbell's 4 to
// 11, and the worst when other threads have work.
type event int

func newEvent(t testing.TB) event {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return event(fd)
}

func (e event) Wait() error {
	var count [8]byte
	for {
		if _, err := unix.Read(int(e), count[:]); err != unix.EINTR {
			return err
		}
	}
}

func (e event) Ring() { unix.Write(int(e), binary.NativeEndian.AppendUint64(nil, 1)) }

// eventGuest is a guest whose doorbells and interrupt are eventfds, as under KVM.
type eventGuest struct {
	*guest
	bells []event
	irq   event
}

func newEventGuest(t testing.TB) *eventGuest {
	t.Helper()
	g := &eventGuest{guest: &guest{t: t, mem: virtiotest.NewMemory(1 << 20)}}
	g.irq = newEvent(t)
	tr, err := mmio.New(&echo{}, g.mem, mmio.Lines{Interrupt: g.irq.Ring, Doorbell: func(int) virtio.Doorbell {
		g.bells = append(g.bells, newEvent(t))
		return g.bells[len(g.bells)-1]
	}})
	if err != nil {
		t.Fatal(err)
	}
	g.tr = tr
	t.Cleanup(tr.Close)
	g.up(virtio.FeatureEventIdx)
	return g
}

// request is a round of queue 0, prepared by offer.
func (g *eventGuest) request(tb testing.TB) {
	r := g.rings[0]
	r.Arm()
	if r.Offer(0) {
		g.bells[0].Ring()
	}
	for {
		if _, n, ok := r.Reap(); ok {
			if n != 4 {
				tb.Fatalf("answer of %d bytes, want 4", n)
			}
			return
		}
		if err := g.irq.Wait(); err != nil {
			tb.Fatal(err)
		}
		g.set(0x064, g.get(0x060))
	}
}

// TestEvents sends requests through eventfds while the machine pauses.
func TestEvents(t *testing.T) {
	g := newEventGuest(t)
	g.describe(0, "ping", 4)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 {
			g.request(t)
		}
	}()
	for {
		select {
		case <-done:
			if m := g.tr.Metrics(); m.Chains != 2000 || m.Notifications != 0 {
				t.Errorf("metrics %+v, want 2000 chains and no notification by Write", m)
			}
			return
		default:
			g.tr.Pause()
			g.tr.Resume()
		}
	}
}

// BenchmarkRequest is a request's way through eventfds from a thread to the
// device's and back, four bytes each way.
func BenchmarkRequest(b *testing.B) {
	g := newEventGuest(b)
	g.describe(0, "ping", 4)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		g.request(b)
	}
}

// BenchmarkDoorbell is the way there and back between two threads, as from a
// vCPU to a device.
func BenchmarkDoorbell(b *testing.B) {
	there, back := newEvent(b), newEvent(b)
	var device sync.WaitGroup
	defer func() { there.Ring(); device.Wait() }()
	var stop atomic.Bool
	device.Go(func() {
		for {
			there.Wait()
			if stop.Load() {
				return
			}
			back.Ring()
		}
	})
	for b.Loop() {
		there.Ring()
		back.Wait()
	}
	stop.Store(true)
}

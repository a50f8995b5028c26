package machine

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"

	"bulkhead/kvm"
	"bulkhead/virtio/rng"
	"bulkhead/vmm/ram"

	"golang.org/x/sys/unix"
)

func open(t testing.TB) *kvm.System {
	t.Helper()
	sys, err := kvm.Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		t.Skip("needs /dev/kvm, and the right to open it (group kvm):", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close() })
	return sys
}

// Pages of a guest of a few bytes.
const (
	pml4, pdpt, pd = 0x1000, 0x2000, 0x3000
	codeAt         = 0x4000
	dataAt         = 0x5000
)

// guest is a machine with code to run in 64-bit mode, ring 0: at codeAt, with
// the first GiB and the devices' mapped one to one.
func guest(t testing.TB, c Config, code ...byte) *Machine {
	t.Helper()
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if c.Memory == nil {
		c.Memory = memory(t)
	}
	m, err := New(open(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	load(t, m, code)
	return m
}

func memory(t testing.TB) *ram.Memory {
	t.Helper()
	mem, err := ram.New(32<<20, ram.Memfd)
	must(t, err)
	return mem
}

func load(t testing.TB, m *Machine, code []byte) {
	t.Helper()
	put := func(at int, v uint64) {
		for i := range 8 {
			m.mem.Bytes()[at+i] = byte(v >> (8 * i))
		}
	}
	put(pml4, pdpt|3)
	put(pdpt, pd|3)
	put(pdpt+8*3, 3<<30|0x83) // the GiB with the windows, if pages of that size are there
	for i := range 512 {
		put(pd+8*i, uint64(i)<<21|0x83)
	}
	copy(m.mem.Bytes()[codeAt:], code)
	c := m.cpus[0]
	s, err := c.Sregs()
	must(t, err)
	s.CR0, s.CR3, s.CR4, s.EFER = 0x8005_0033, pml4, 0x620, 0x500
	s.CS = kvm.Segment{Limit: ^uint32(0), Selector: 0x10, Type: 11, Present: 1, S: 1, L: 1, G: 1}
	d := kvm.Segment{Limit: ^uint32(0), Selector: 0x18, Type: 3, Present: 1, S: 1, DB: 1, G: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = d, d, d, d, d
	must(t, c.SetSregs(&s))
	must(t, c.SetRegs(&kvm.Regs{RIP: codeAt, RSP: codeAt, RFLAGS: 2}))
	m.stage = ready
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run starts m and waits for its end.
func run(t testing.TB, m *Machine) Ending {
	t.Helper()
	must(t, m.Start())
	select {
	case <-m.Done():
	case <-t.Context().Done():
		t.Fatal("the guest did not end")
	}
	return m.Ending()
}

// out is mov edx,port; mov al,v; out dx,al.
func out(port uint16, v byte) []byte {
	return []byte{0xba, byte(port), byte(port >> 8), 0, 0, 0xb0, v, 0xee}
}

func TestEndings(t *testing.T) {
	cases := []struct {
		name string
		code []byte
		want Ending
		exit int
	}{
		{"sleep state 5", out(sleepPort, 0x34), Ending{Reason: PowerOff}, 0},
		{"the reset register", out(resetPort, 0x06), Ending{Reason: Reset}, 100},
		{"the keyboard controller", out(0x64, 0xfe), Ending{Reason: Reset}, 100},
		{"the init's exit port", out(0x5f0, 7), Ending{Reason: PowerOff, Status: 7}, 7},
		{"a triple fault", []byte{0x0f, 0x0b}, Ending{Reason: TripleFault}, 101}, // ud2, without an IDT
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := run(t, guest(t, Config{}, c.code...))
			if got != c.want || got.Code() != c.exit {
				t.Errorf("the guest ended: %v, code %d; want %v, code %d", got, got.Code(), c.want, c.exit)
			}
		})
	}
}

// text is a writer that can be read meanwhile.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *text) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func TestSerialOutput(t *testing.T) {
	var w text
	var code []byte
	for _, b := range []byte("hello\n") {
		code = append(code, out(serialPort, b)...)
	}
	m := guest(t, Config{Serial: &w}, append(code, out(sleepPort, 0x34)...)...)
	run(t, m)
	must(t, m.Close())
	if got := w.buf.String(); got != "hello\n" {
		t.Errorf("the serial port wrote %q", got)
	}
}

// counting is a guest that counts at dataAt for ever.
var counting = []byte{
	0xbf, dataAt & 0xff, dataAt >> 8, 0, 0, // mov edi,dataAt
	0x48, 0xff, 0x07, // loop: inc qword [rdi]
	0xeb, 0xfb, // jmp loop
}

func TestPauseStopsTheGuest(t *testing.T) {
	m := guest(t, Config{}, counting...)
	must(t, m.Start())
	cell := m.mem.Bytes()[dataAt : dataAt+8]
	for range 20 {
		must(t, m.Pause())
		was := bytes.Clone(cell)
		for range 1000 {
			if !bytes.Equal(was, cell) {
				t.Fatalf("a paused guest counted from % x to % x", was, cell)
			}
		}
		must(t, m.Resume())
		for same := true; same; { // it goes on: else the test does not end
			must(t, m.Pause())
			same = bytes.Equal(was, cell)
			must(t, m.Resume())
		}
	}
}

func TestEndWhilePaused(t *testing.T) {
	m := guest(t, Config{CPUs: 4}, counting...)
	must(t, m.Start())
	must(t, m.Pause())
	m.End(Ending{Reason: TimedOut})
	if got := m.Ending(); got.Reason != TimedOut || got.Code() != 124 {
		t.Errorf("ended %v, code %d", got, got.Code())
	}
	if err := m.Resume(); !errors.Is(err, ErrEnded) {
		t.Errorf("resume of an ended machine: %v", err)
	}
}

// TestPauseRaces has many who pause, resume and end at once.
func TestPauseRaces(t *testing.T) {
	m := guest(t, Config{CPUs: 2}, counting...)
	must(t, m.Start())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if m.Pause() != nil {
					return
				}
				if m.Resume() != nil {
					return
				}
			}
		})
	}
	all.Wait()
	all.Go(func() { m.Pause() })
	all.Go(func() { m.End(Ending{Reason: Stopped}) })
	all.Go(func() { must(t, m.Close()) })
	all.Wait()
}

func TestBadConfigs(t *testing.T) {
	sys := open(t)
	cases := []struct {
		name string
		c    Config
		want string
	}{
		{"no CPU", Config{CPUs: 0}, "0 CPUs: a guest has 1 to 32"},
		{"300 CPUs", Config{CPUs: 300}, "300 CPUs: a guest has 1 to 32"},
		{"unknown feature", Config{CPUs: 1, Mask: []string{"sse9"}}, `no CPU feature "sse9"`},
		{"too many devices", Config{CPUs: 1, Devices: make([]Device, 19)}, "19 devices"},
		{"two of a name", Config{CPUs: 1, Devices: []Device{{"a", rng.New(rand.Reader)}, {"a", rng.New(rand.Reader)}}}, `two devices are called "a"`},
	}
	for _, c := range cases {
		c.c.Memory = memory(t)
		m, err := New(sys, c.c)
		if err == nil {
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with %q", c.name, err, c.want)
		}
	}
}

// TestVector: real-mode code that jumps to where a firmware would begin gets a reset.
func TestVector(t *testing.T) {
	m, err := New(open(t), Config{CPUs: 1, Memory: memory(t)})
	must(t, err)
	defer m.Close()
	must(t, m.writeVector())
	c := m.cpus[0] // as after power-on: cs f000, ip fff0
	s, err := c.Sregs()
	must(t, err)
	s.CS.Base = 0xf0000
	must(t, c.SetSregs(&s))
	m.stage = ready
	if e := run(t, m); e.Reason != Reset {
		t.Errorf("ended %v", e)
	}
}

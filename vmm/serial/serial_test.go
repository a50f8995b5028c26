package serial

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
)

// sink is a writer that can be stopped.
type sink struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	gate sync.Mutex // held: the terminal stands still
}

func (s *sink) Write(b []byte) (int, error) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

// rig is a UART with its interrupt line.
type rig struct {
	*UART
	out   sink
	mu    sync.Mutex
	high  bool
	edges int
}

func newRig(t testing.TB) *rig {
	r := &rig{}
	r.UART = New(&r.out, func(high bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if high == r.high {
			t.Errorf("the line was told twice that it is %v", high)
		}
		if r.high = high; high {
			r.edges++
		}
	})
	t.Cleanup(func() { r.Close() })
	return r
}

func (r *rig) get(reg uint64) byte {
	b := []byte{0}
	r.Read(reg, b)
	return b[0]
}

func (r *rig) put(reg uint64, v byte) { r.Write(reg, []byte{v}) }

func (r *rig) raised() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.high
}

// TestLinuxFindsA16550A takes the steps of drivers/tty/serial/8250/8250_port.c,
// autoconfig and autoconfig_16550a.
func TestLinuxFindsA16550A(t *testing.T) {
	r := newRig(t)
	r.put(enable, 0)
	if r.get(enable)&0xf != 0 {
		t.Error("IER cannot be cleared")
	}
	r.put(enable, 0xf)
	if r.get(enable)&0xf != 0xf {
		t.Error("IER cannot be set")
	}
	r.put(enable, 0)
	r.put(modem, loop|0x0a)
	if got := r.get(modeStat) & 0xf0; got != 0x90 {
		t.Errorf("looped, OUT2 and RTS read %#x as inputs, want 0x90", got)
	}
	r.put(modem, 0)
	r.put(identify, fifoOn)
	if got := r.get(identify) >> 6; got != 3 {
		t.Errorf("IIR's FIFO bits are %d, want 3: a 16550A", got)
	}
	r.put(line, divisor)
	r.put(data, 0x12)
	r.put(enable, 0x34)
	if r.get(data) != 0x12 || r.get(enable) != 0x34 {
		t.Error("the divisor does not read back")
	}
	r.put(line, 3)
	r.put(scratch, 0xa5)
	if r.get(scratch) != 0xa5 {
		t.Error("the scratch register does not read back")
	}
	if got := r.get(modeStat) & carrier; got != carrier {
		t.Errorf("modem status %#x: a getty would wait for a carrier", got)
	}
}

func TestOutput(t *testing.T) {
	r := newRig(t)
	want := strings.Repeat("all work and no play\n", 100)
	for _, b := range []byte(want) {
		if r.get(lineStat)&statEmpty != statEmpty {
			t.Fatal("the transmitter is busy")
		}
		r.put(data, b)
	}
	r.Close()
	if got := r.out.buf.String(); got != want {
		t.Errorf("%d bytes came out of %d", len(got), len(want))
	}
}

// TestStalledTerminal: no vCPU waits for it; the transmitter says that it is busy,
// and its interrupt comes when there is room again.
func TestStalledTerminal(t *testing.T) {
	r := newRig(t)
	r.out.gate.Lock()
	sent := 0
	for ; r.get(lineStat)&statEmpty != 0; sent++ {
		if sent > 4*queue {
			t.Fatal("the transmitter is never busy")
		}
		r.put(data, 'x')
	}
	r.put(enable, enableEmpty)
	r.get(identify)
	if r.raised() {
		t.Error("an interrupt for an empty transmitter, which is busy")
	}
	r.out.gate.Unlock()
	r.Close() // when all is written
	if !r.raised() || r.get(identify)&0xf != causeEmpty {
		t.Error("no interrupt when there was room again")
	}
	if r.out.buf.Len() != sent {
		t.Errorf("%d bytes came out of %d", r.out.buf.Len(), sent)
	}
}

func TestTransmitterInterrupt(t *testing.T) {
	r := newRig(t)
	r.put(enable, enableEmpty)
	if !r.raised() || r.get(identify)&0xf != causeEmpty || r.raised() {
		t.Error("enabling the interrupt of an idle transmitter raises it, reading IIR takes it away")
	}
	r.put(data, 'a')
	r.put(data, 'b')
	if !r.raised() || r.edges != 2 {
		t.Errorf("raised %v, %d edges: want one for what was sent in one go", r.raised(), r.edges)
	}
	r.put(enable, 0)
	if r.raised() {
		t.Error("a disabled interrupt")
	}
}

func TestInput(t *testing.T) {
	r := newRig(t)
	r.put(enable, enableData)
	want := strings.Repeat("0123456789", 20)
	done := make(chan error)
	go func() { done <- r.Receive([]byte(want)) }()
	var got []byte
	for len(got) < len(want) {
		if r.get(lineStat)&statData != 0 {
			if cause := r.get(identify) & 0xf; cause != causeData {
				t.Fatalf("bytes wait and IIR says %#x", cause)
			}
			got = append(got, r.get(data))
		}
	}
	if err := <-done; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if r.raised() {
		t.Error("the line stays high after the last byte")
	}
}

// TestTypedAhead: what is typed before the guest has the port open is not lost
// when it clears the FIFO.
func TestTypedAhead(t *testing.T) {
	r := newRig(t)
	done := make(chan error)
	go func() { done <- r.Receive([]byte("ahead")) }()
	for range 3 {
		r.put(identify, fifoOn|clearIn)
		if r.get(lineStat)&statData != 0 {
			t.Fatal("a byte came before the port was open")
		}
	}
	r.put(enable, enableData)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for _, want := range []byte("ahead") {
		if got := r.get(data); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestCloseEndsReceive(t *testing.T) {
	r := newRig(t)
	done := make(chan error)
	go func() { done <- r.Receive(make([]byte, 100)) }()
	r.Close()
	if err := <-done; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("receive: %v", err)
	}
}

func TestLoop(t *testing.T) {
	r := newRig(t)
	r.put(modem, loop)
	for i := range byte(20) {
		r.put(data, i)
	}
	for i := range byte(depth) {
		if got := r.get(data); got != i {
			t.Fatalf("byte %d came back as %d", i, got)
		}
	}
	if r.get(lineStat)&statData != 0 {
		t.Error("more than the FIFO holds")
	}
	r.Close()
	if r.out.buf.Len() != 0 {
		t.Errorf("looped bytes came out: %q", r.out.buf.String())
	}
}

func TestSnapshot(t *testing.T) {
	a := newRig(t)
	a.put(line, 3)
	a.put(identify, fifoOn)
	a.put(enable, enableData)
	a.put(scratch, 9)
	if err := a.Receive([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	a.get(data)
	b := newRig(t)
	b.high = true // as a's line, which the interrupt controller keeps
	b.Restore(a.Save())
	if b.get(scratch) != 9 || b.get(line) != 3 || b.get(identify) != fifosEnabled|causeData || b.get(data) != 'b' || b.get(data) != 'c' || b.raised() {
		t.Errorf("restored: %+v", b.Save())
	}
}

// FuzzRegisters: whatever a guest does, registers hold what they can hold and
// the line says what IIR says.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte("\x00a\x81\x02\x84\x10\x00b"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		r := newRig(t)
		for i := 0; i+1 < len(ops); i += 2 {
			reg, v := uint64(ops[i]%Ports), ops[i+1]
			if ops[i]&0x80 != 0 {
				r.put(reg, v)
			} else {
				r.get(reg)
			}
			if s := r.Save(); ops[i]&0x40 != 0 && len(s.In) < depth && s.Enable&enableData != 0 {
				if err := r.Receive([]byte{v}); err != nil {
					t.Fatal(err)
				}
			}
			s := r.Save()
			if len(s.In) > depth || s.Enable > enableMask || s.Modem > modemMask {
				t.Fatalf("after % x: %+v", ops[:i+2], s)
			}
		}
	})
}

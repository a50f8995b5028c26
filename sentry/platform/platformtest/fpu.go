package platformtest

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/cpu"

	"bulkhead/sentry/platform"
)

func testSSE(t *testing.T, newPlatform Make) { testVectors(t, newPlatform, guestSse, 256) }

func testAVX(t *testing.T, newPlatform Make) {
	if !cpu.X86.HasAVX {
		t.Skip("the CPU lacks AVX")
	}
	testVectors(t, newPlatform, guestAvx, 96)
}

func testAVX512(t *testing.T, newPlatform Make) {
	if !cpu.X86.HasAVX512F || !cpu.X86.HasAVX512BW {
		t.Skip("the CPU lacks AVX-512 F and BW")
	}
	testVectors(t, newPlatform, guestAvx512, 272)
}

// testVectors loads registers in four threads in turn, on both of two spaces'
// pages, and looks in each whether its own are there after the others ran.
func testVectors(t *testing.T, newPlatform Make, text string, size int) {
	w := newWorld(t, newPlatform)
	var guests []*guest
	var data [][]byte
	for i := range 4 {
		p := w.program(text)
		for range 2 {
			g := p.guest()
			off := len(guests) % 2 * platform.PageSize
			g.Rdi = uint64(dataAt) + uint64(off)
			g.Rsi = g.Rdi + 1024
			b := p.data.Host[off : off+platform.PageSize]
			for j := range size {
				b[j] = byte(rand.Uint32()) | byte(i&1)
			}
			guests, data = append(guests, g), append(data, b)
		}
	}
	for range 2 { // to the first call, then to the second
		for _, g := range guests {
			g.expect(t, platform.Syscall)
		}
	}
	for i, b := range data {
		if !bytes.Equal(b[:size], b[1024:1024+size]) {
			t.Errorf("guest %d: got %x, want %x", i, b[1024:1024+size], b[:size])
		}
	}
}

func testX87(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestFx87)
	g.Rsi = g.Rdi + 64
	word(p.data.Host, 0).Store(0x400921fb54442d18) // pi
	g.expect(t, platform.Syscall)
	_, other := newGuest(t, newPlatform, guestX87)
	other.expect(t, platform.Signal)
	g.expect(t, platform.Syscall)
	if got := word(p.data.Host, 64).Load(); got != 0x400921fb54442d18 {
		t.Fatalf("got %#x", got)
	}
}

// testFreshFPU: a nil FPU stored is the state after exec (fpu_reset_fpregs).
func testFreshFPU(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestSse)
	for i := range p.data.Host[:256] {
		p.data.Host[i] = 0xaa
	}
	g.expect(t, platform.Syscall) // the registers are full now
	copy(p.text.Host, code(guestControl))
	g.Rip, g.Rsi = uint64(textAt), uint64(dataAt)+64
	g.FPU = nil
	g.Dirty = platform.DirtyGPR | platform.DirtyFPU
	g.expect(t, platform.Syscall)
	out := p.data.Host[64:]
	if mxcsr, fcw := binary.LittleEndian.Uint32(out), binary.LittleEndian.Uint16(out[4:]); mxcsr != 0x1f80 || fcw != 0x37f {
		t.Errorf("mxcsr %#x fcw %#x, want 0x1f80 and 0x37f", mxcsr, fcw)
	}
	if xmm0 := out[16:32]; !bytes.Equal(xmm0, make16()) {
		t.Errorf("xmm0 %x, want zero", xmm0)
	}
}

func make16() []byte { return slices.Repeat([]byte{0}, 16) }

// xmm0At is where FXSAVE keeps XMM0 (SDM, Layout of the 64-Bit Mode FXSAVE Map).
const xmm0At = 160

// testSavedFPU saves, changes a register in the saved state, and loads it.
func testSavedFPU(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestSse)
	for i := range p.data.Host[:256] {
		p.data.Host[i] = byte(i)
	}
	g.Rsi = g.Rdi + 1024
	g.expect(t, platform.Syscall)
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	if len(g.FPU) < 576 {
		t.Fatalf("saved %d bytes, want an XSAVE area", len(g.FPU))
	}
	if got := g.FPU[xmm0At : xmm0At+256]; !bytes.Equal(got, p.data.Host[:256]) {
		t.Fatalf("saved %x, want %x", got, p.data.Host[:256])
	}
	want := slices.Repeat([]byte{0x5a}, 16)
	copy(g.FPU[xmm0At+32:], want) // XMM2
	g.Dirty = platform.DirtyFPU
	g.expect(t, platform.Syscall)
	if got := p.data.Host[1024+32 : 1024+48]; !bytes.Equal(got, want) {
		t.Errorf("xmm2 %x, want %x", got, want)
	}
	if got := p.data.Host[1024+48 : 1024+64]; !bytes.Equal(got, p.data.Host[48:64]) {
		t.Errorf("xmm3 %x, want %x", got, p.data.Host[48:64])
	}

	// The saved state moves to another thread, as clone has it.
	other := p.guest()
	other.Registers, other.FPU = g.Registers, slices.Clone(g.FPU)
	other.Rip, other.Rsi = uint64(textAt)+uint64(bytes.Index(code(guestSse), []byte{0x0f, 0x05})), g.Rsi+1024
	other.Dirty = platform.DirtyAll
	other.expect(t, platform.Syscall)
	other.expect(t, platform.Syscall)
	if got := p.data.Host[2048+32 : 2048+48]; !bytes.Equal(got, want) {
		t.Errorf("xmm2 of the other thread %x, want %x", got, want)
	}
}

// testSaveKeeps: what the Sentry stored and no Run has loaded yet is the state
// that Save shows. Two signals in a row come to this.
func testSaveKeeps(t *testing.T, newPlatform Make) {
	p, g := newGuest(t, newPlatform, guestSse)
	for i := range p.data.Host[:256] {
		p.data.Host[i] = byte(i)
	}
	g.expect(t, platform.Syscall)
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	want := slices.Repeat([]byte{0x5a}, 16)
	copy(g.FPU[xmm0At:], want)
	g.Fs_base = uint64(dataAt)
	g.Dirty = platform.DirtyFPU | platform.DirtyBase
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	if got := g.FPU[xmm0At : xmm0At+16]; !bytes.Equal(got, want) {
		t.Errorf("saved %x, want %x as stored", got, want)
	}
	if g.Fs_base != uint64(dataAt) {
		t.Errorf("saved FS base %#x, want %#x as stored", g.Fs_base, uint64(dataAt))
	}
	g.FPU = nil // the state after exec
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	if len(g.FPU) < 576 || !bytes.Equal(g.FPU[xmm0At:xmm0At+256], make([]byte, 256)) ||
		binary.LittleEndian.Uint32(g.FPU[24:]) != 0x1f80 || binary.LittleEndian.Uint16(g.FPU) != 0x37f {
		t.Errorf("a nil FPU stored: saved %d bytes that are not the state after exec", len(g.FPU))
	}
}

// testSwitchFPU: a thread that enters another address space keeps its registers.
func testSwitchFPU(t *testing.T, newPlatform Make) {
	w := newWorld(t, newPlatform)
	a, b := w.program(guestSse), w.program(guestSse)
	for i := range a.data.Host[:256] {
		a.data.Host[i] = byte(i)
	}
	g := a.guest()
	g.Rsi = g.Rdi + 1024
	g.expect(t, platform.Syscall)
	g.as = b.as
	g.expect(t, platform.Syscall)
	if got := b.data.Host[1024 : 1024+256]; !bytes.Equal(got, a.data.Host[:256]) {
		t.Fatalf("got %x, want %x", got, a.data.Host[:256])
	}
}

// testHostileFPU: what a signal frame of the application's may hold.
func testHostileFPU(t *testing.T, newPlatform Make) {
	_, g := newGuest(t, newPlatform, guestCall)
	g.expect(t, platform.Syscall)
	if err := g.th.Save(&g.Context); err != nil {
		t.Fatal(err)
	}
	good := slices.Clone(g.FPU)
	ones := slices.Repeat([]byte{0xff}, len(good))
	noise := slices.Clone(good)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, c := range []struct {
		name string
		fpu  []byte
	}{
		{"ones", ones}, {"noise", noise}, {"FXSAVE alone", good[:512]}, {"short", good[:100]}, {"empty", []byte{}},
	} {
		g.FPU, g.Dirty = slices.Clone(c.fpu), platform.DirtyFPU
		if _, err := g.until(platform.Syscall); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
}

package kvm

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/arch/x86/x86asm"
)

var update = flag.Bool("update", false, "rewrite testdata")

// TestSlot pins the offsets that the stub is assembled with.
func TestSlot(t *testing.T) {
	var s slot
	for _, f := range []struct {
		name string
		got  uintptr
		want int
	}{
		{"state", unsafe.Offsetof(s.state), offState}, {"trapped", unsafe.Offsetof(s.trapped), offTrapped},
		{"rax", unsafe.Offsetof(s.rax), offRAX}, {"rdi", unsafe.Offsetof(s.rdi), offRDI},
		{"rsi", unsafe.Offsetof(s.rsi), offRSI}, {"rdx", unsafe.Offsetof(s.rdx), offRDX},
		{"r10", unsafe.Offsetof(s.r10), offR10}, {"r8", unsafe.Offsetof(s.r8), offR8},
		{"r9", unsafe.Offsetof(s.r9), offR9}, {"rip", unsafe.Offsetof(s.rip), offRIP},
		{"flags", unsafe.Offsetof(s.flags), offFlags}, {"rsp", unsafe.Offsetof(s.rsp), offRSP},
		{"rbx", unsafe.Offsetof(s.rbx), offRBX}, {"rbp", unsafe.Offsetof(s.rbp), offRBP},
		{"r12", unsafe.Offsetof(s.r12), offR12}, {"r13", unsafe.Offsetof(s.r13), offR13},
		{"r14", unsafe.Offsetof(s.r14), offR14}, {"r15", unsafe.Offsetof(s.r15), offR15},
		{"ret", unsafe.Offsetof(s.ret), offRet}, {"spin", unsafe.Offsetof(s.spin), offSpin},
		{"stack", unsafe.Sizeof(s), offStack},
	} {
		if int(f.got) != f.want-1 {
			t.Errorf("slot.%s is at %d, the stub believes %d", f.name, f.got, f.want-1)
		}
	}
	if n := unsafe.Sizeof(frame{}); n != 48 {
		t.Errorf("a frame has %d bytes, the CPU pushes 48", n)
	}
	if n := unsafe.Sizeof(table{}); n != pageSize {
		t.Errorf("a table has %d bytes", n)
	}
}

// listing disassembles code that runs at base, a line an instruction, with
// the names of the slot's fields.
func listing(t *testing.T, code []byte, base uint64) string {
	t.Helper()
	var b strings.Builder
	names := map[uint64]string{}
	for _, in := range stubSource {
		if i := strings.IndexByte(in.text, ':'); i >= 0 {
			names[stubAt+stub.label(in.text[:i])] = in.text[:i]
		}
	}
	for at := 0; at < len(code); {
		in, err := x86asm.Decode(code[at:], 64)
		if err != nil {
			t.Fatalf("at %#x: %v: % x", at, err, code[at:])
		}
		pc := base + uint64(at)
		if n := names[pc]; n != "" {
			fmt.Fprintf(&b, "%s:\n", n)
		}
		text := x86asm.IntelSyntax(in, pc, func(a uint64) (string, uint64) {
			if a >= slotAt && a < slotAt+pageSize {
				return "slot", slotAt
			}
			if n, ok := names[a]; ok {
				return n, a
			}
			return "", 0
		})
		fmt.Fprintf(&b, "%4x  %-28s %s\n", at, fmt.Sprintf("% x", code[at:at+in.Len]), text)
		at += in.Len
	}
	return b.String()
}

// TestStub compares the machine code and its disassembly with testdata, to be
// read beside the source.
func TestStub(t *testing.T) {
	var b strings.Builder
	b.WriteString(listing(t, stub.code, stubAt))
	for _, v := range []int{3, 14} {
		fmt.Fprintf(&b, "gate %d:\n%s", v, listing(t, gate(v), gatesAt+uint64(v)*gateSize))
	}
	s := site{kind: siteMov, at: 0x401000, end: 0x401007, nr: 39}
	fmt.Fprintf(&b, "trampoline of mov, syscall:\n%s", listing(t, trampoline(s, 0x500000)[:22], 0x500000))
	s = site{kind: siteCall, at: 0x401000, end: 0x401002, insn: []byte{0x48, 0x3d, 0, 0xf0, 0xff, 0xff}}
	fmt.Fprintf(&b, "trampoline of syscall, cmp:\n%s", listing(t, trampoline(s, 0x500000)[:43], 0x500000))
	golden := filepath.Join("testdata", "stub.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("the stub changed; look at it, then run with -update\ngot:\n%s\nwant:\n%s", got, want)
	}
	if len(stub.code) > pageSize {
		t.Errorf("the stub has %d bytes", len(stub.code))
	}
}

// TestStubSource disassembles each instruction and compares its name with the
// comment beside its bytes.
func TestStubSource(t *testing.T) {
	at := 0
	for _, s := range stubSource {
		in, err := x86asm.Decode(stub.code[at:], 64)
		if err != nil {
			t.Fatal(err)
		}
		_, text, found := strings.Cut(s.text, ": ")
		if !found {
			text = s.text
		}
		name := strings.Fields(text)[0]
		got := strings.ToLower(strings.Fields(x86asm.IntelSyntax(in, 0, nil))[0])
		same := map[string]string{"sysret": "sysretq", "popfq": "popfq", "rcxz": "jrcxz", "int": "int3", "jnz": "jne"}
		if got != name && same[got] != name {
			t.Errorf("%q is %q", s.text, got)
		}
		at += in.Len
	}
	if at != len(stub.code) {
		t.Errorf("%d bytes of %d", at, len(stub.code))
	}
}

// TestReach: every jump to the stub is by an address that sign-extends from 32 bits.
func TestReach(t *testing.T) {
	for _, a := range []uint64{patchedAt, patched2At, slotAt} {
		if uint64(int64(int32(a))) != a {
			t.Errorf("%#x is not reached by 32 bits", a)
		}
	}
}

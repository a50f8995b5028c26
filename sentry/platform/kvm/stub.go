package kvm

import (
	"encoding/binary"
	"fmt"
)

// The stub is where SYSCALL lands (LSTAR), and where patched call sites jump
// (patchedAt). It runs in ring 0 where SYSCALL changes the ring (VMX, SVM) and
// in ring 3 where it does not (user-only hosts, kvm-hosts.md), and looks at CS
// to know how to return.
//
// In:  RAX..R15 as the application has them; RCX return address, R11 flags.
// Out: RAX from the slot, RCX and R11 as SYSCALL leaves them, the rest untouched.
// Stack: none of the application's (its red zone is not ours); a few words in
// the slot's page for the flags.
// Faults: none happen, all it touches is mapped for as long as the vCPU exists.
// If the application writes to its own slot it changes its own registers.
//
// A PAUSE takes 60 to 140 cycles, as much as a quick answer: so it looks several times before one.
//
// The registers are all in the slot before the state says so, and no register
// is lost before that: until `posted` a thread that is brought out can simply go on.
var stubSource = []insn{
	{text: "entry: mov [rsp], rsp", op: []byte{0x48, 0x89, 0x25}, slot: offRSP},
	{text: "mov dword [trapped], 1", op: []byte{0xc7, 0x05}, slot: offTrapped, tail: []byte{1, 0, 0, 0}},
	{text: "returns: mov [ret], rcx", op: []byte{0x48, 0x89, 0x0d}, slot: offRet},
	{text: "common: mov [rip], rcx", op: []byte{0x48, 0x89, 0x0d}, slot: offRIP},
	{text: "mov [flags], r11", op: []byte{0x4c, 0x89, 0x1d}, slot: offFlags},
	{text: "mov [rbx], rbx", op: []byte{0x48, 0x89, 0x1d}, slot: offRBX},
	{text: "mov [rbp], rbp", op: []byte{0x48, 0x89, 0x2d}, slot: offRBP},
	{text: "mov [r12], r12", op: []byte{0x4c, 0x89, 0x25}, slot: offR12},
	{text: "mov [r13], r13", op: []byte{0x4c, 0x89, 0x2d}, slot: offR13},
	{text: "mov [r14], r14", op: []byte{0x4c, 0x89, 0x35}, slot: offR14},
	{text: "mov [r15], r15", op: []byte{0x4c, 0x89, 0x3d}, slot: offR15},
	{text: "mov [rax], rax", op: []byte{0x48, 0x89, 0x05}, slot: offRAX},
	{text: "mov [rdi], rdi", op: []byte{0x48, 0x89, 0x3d}, slot: offRDI},
	{text: "mov [rsi], rsi", op: []byte{0x48, 0x89, 0x35}, slot: offRSI},
	{text: "mov [rdx], rdx", op: []byte{0x48, 0x89, 0x15}, slot: offRDX},
	{text: "mov [r10], r10", op: []byte{0x4c, 0x89, 0x15}, slot: offR10},
	{text: "mov [r8], r8", op: []byte{0x4c, 0x89, 0x05}, slot: offR8},
	{text: "mov [r9], r9", op: []byte{0x4c, 0x89, 0x0d}, slot: offR9},
	{text: "post: mov dword [state], posted", op: []byte{0xc7, 0x05}, slot: offState, tail: []byte{posted, 0, 0, 0}},
	{text: "posted: mov ecx, [spin]", op: []byte{0x8b, 0x0d}, slot: offSpin},
	{text: "jrcxz ring", op: []byte{0xe3}, jump: "ring"},
	{text: "wait: cmp dword [state], posted", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{posted}},
	{text: "jne seen", op: []byte{0x75}, jump: "seen"},
	{text: "cmp dword [state], posted", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{posted}},
	{text: "jne seen", op: []byte{0x75}, jump: "seen"},
	{text: "cmp dword [state], posted", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{posted}},
	{text: "jne seen", op: []byte{0x75}, jump: "seen"},
	{text: "cmp dword [state], posted", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{posted}},
	{text: "jne seen", op: []byte{0x75}, jump: "seen"},
	{text: "cmp dword [state], posted", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{posted}},
	{text: "jne seen", op: []byte{0x75}, jump: "seen"},
	{text: "cmp dword [state], posted", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{posted}},
	{text: "jne seen", op: []byte{0x75}, jump: "seen"},
	{text: "pause", op: []byte{0xf3, 0x90}},
	{text: "dec ecx", op: []byte{0xff, 0xc9}},
	{text: "jne wait", op: []byte{0x75}, jump: "wait"},
	{text: "ring: out doorbell, al", op: []byte{0xe6, doorbell}},
	{text: "seen: cmp dword [state], answered", op: []byte{0x83, 0x3d}, slot: offState, tail: []byte{answered}},
	{text: "jne ring", op: []byte{0x75}, jump: "ring"},
	{text: "finish: mov rax, [rax]", op: []byte{0x48, 0x8b, 0x05}, slot: offRAX},
	{text: "mov ecx, cs", op: []byte{0x8c, 0xc9}},
	{text: "test cl, 3", op: []byte{0xf6, 0xc1, 0x03}},
	{text: "jne ring3", op: []byte{0x75}, jump: "ring3"},
	{text: "mov rcx, [rip]", op: []byte{0x48, 0x8b, 0x0d}, slot: offRIP},
	{text: "sysretq", op: []byte{0x48, 0x0f, 0x07}},
	{text: "ring3: lea rsp, [stack]", op: []byte{0x48, 0x8d, 0x25}, slot: offStack},
	{text: "push qword [flags]", op: []byte{0xff, 0x35}, slot: offFlags},
	{text: "popfq", op: []byte{0x9d}},
	{text: "mov rcx, [rip]", op: []byte{0x48, 0x8b, 0x0d}, slot: offRIP},
	{text: "mov rsp, [rsp]", op: []byte{0x48, 0x8b, 0x25}, slot: offRSP},
	{text: "jmp [ret]", op: []byte{0xff, 0x25}, slot: offRet},
	{text: "int3", op: []byte{0xcc}},
	// From a trampoline, which has put the return address into RCX; at patched2 it
	// has also set where to go back to. MOV and LEA change no flags, so R11
	// gets the application's.
	{text: "patched: mov [ret], rcx", op: []byte{0x48, 0x89, 0x0d}, slot: offRet},
	{text: "patched2: mov [rsp], rsp", op: []byte{0x48, 0x89, 0x25}, slot: offRSP},
	{text: "lea rsp, [stack]", op: []byte{0x48, 0x8d, 0x25}, slot: offStack},
	{text: "pushfq", op: []byte{0x9c}},
	{text: "pop r11", op: []byte{0x41, 0x5b}},
	{text: "jmp common", op: []byte{0xe9}, jump: "common"},
}

var stub = mustAssemble(stubSource)

// Where things are in the stub.
var (
	patchedAt  = stubAt + stub.label("patched")
	postedAt   = stubAt + stub.label("posted")
	patched2At = stubAt + stub.label("patched2")
	stubEnd    = stubAt + uint64(len(stub.code))
)

// insn is one instruction: its bytes, then what completes them.
type insn struct {
	text string // "label: " and Intel syntax; [x] is the slot's field x
	op   []byte
	slot int    // with op ending in a RIP-relative ModRM: the field's offset + 1
	tail []byte // immediate after the displacement
	jump string // label: rel8, or rel32 after 0xe9
}

// assembled is the stub's bytes and the offsets of its labels.
type assembled struct {
	code   []byte
	labels map[string]uint64
}

func (a assembled) label(name string) uint64 {
	at, ok := a.labels[name]
	if !ok {
		panic("kvm: no label " + name)
	}
	return at
}

func mustAssemble(list []insn) assembled {
	a := assembled{labels: map[string]uint64{}}
	type fixup struct {
		at, size int
		label    string
	}
	var fixups []fixup
	for _, in := range list {
		for i := range in.text {
			if in.text[i] == ':' {
				a.labels[in.text[:i]] = uint64(len(a.code))
				break
			}
		}
		a.code = append(a.code, in.op...)
		switch {
		case in.slot != 0:
			next := stubAt + uint64(len(a.code)+4+len(in.tail))
			a.code = binary.LittleEndian.AppendUint32(a.code, uint32(slotAt+uint64(in.slot-1)-next))
			a.code = append(a.code, in.tail...)
		case in.jump != "":
			size := 1
			if in.op[0] == 0xe9 {
				size = 4
			}
			fixups = append(fixups, fixup{len(a.code), size, in.jump})
			a.code = append(a.code, make([]byte, size)...)
		}
	}
	for _, f := range fixups {
		d := int(a.label(f.label)) - f.at - f.size
		if f.size == 4 {
			binary.LittleEndian.PutUint32(a.code[f.at:], uint32(d))
		} else if d != int(int8(d)) {
			panic(fmt.Sprintf("kvm: %s is %d bytes away", f.label, d))
		} else {
			a.code[f.at] = byte(d)
		}
	}
	return a
}

// gateSize is the distance of two handlers.
const gateSize = 16

// hasErrorCode are the vectors at which the CPU pushes one (APM vol. 2 §8.2).
const hasErrorCode = 1<<8 | 1<<10 | 1<<11 | 1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<21 | 1<<29 | 1<<30

// gate is the handler of vector v: it leaves for the Sentry, and goes back to
// where the frame says if it is let.
func gate(v int) []byte {
	b := []byte{0xe6, byte(gatePorts + v)} // out port, al
	if hasErrorCode>>v&1 != 0 {
		b = append(b, 0x48, 0x83, 0xc4, 0x08) // add rsp, 8
	}
	return append(b, 0x48, 0xcf) // iretq
}

// iretAt is an IRETQ in the handlers' page.
const iretAt = gatesAt + 2

// Package bpf checks and runs classic BPF programs over struct seccomp_data, as
// Linux does for seccomp(2): net/core/filter.c, bpf_check_classic, and
// kernel/seccomp.c, seccomp_check_filter. The program is the application's: whatever it
// says, Run ends, for jumps go forward only, and touches nothing but its own words.
package bpf

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Limits of Linux's.
const (
	MaxInstructions = 4096 // BPF_MAXINSNS
	DataSize        = 64   // struct seccomp_data
	InstructionSize = 8    // struct sock_filter
	scratchWords    = 16   // BPF_MEMWORDS
)

// Data is struct seccomp_data.
type Data struct {
	Number int32
	Arch   uint32
	IP     uint64
	Args   [6]uint64
}

// word is the four bytes at off, which Parse has checked.
func (d *Data) word(off uint32) uint32 {
	half := func(v uint64) uint32 { return uint32(v >> (off % 8 * 8)) }
	switch {
	case off == 0:
		return uint32(d.Number)
	case off == 4:
		return d.Arch
	case off < 16:
		return half(d.IP)
	}
	return half(d.Args[(off-16)/8])
}

// Bytes is d as it lies in memory.
func (d *Data) Bytes() []byte {
	b, err := binary.Append(make([]byte, 0, DataSize), binary.LittleEndian, d)
	if err != nil {
		panic(err)
	}
	return b
}

// instruction is struct sock_filter.
type instruction struct {
	code   uint16
	jt, jf uint8
	k      uint32
}

// Program is one that has passed the checks.
type Program struct{ code []instruction }

// Len is how many instructions it has.
func (p *Program) Len() int { return len(p.code) }

// Parts of an instruction's code (include/uapi/linux/bpf_common.h).
const (
	ld, ldx, st, stx, alu, jmp, ret, misc = 0, 1, 2, 3, 4, 5, 6, 7

	word, imm, abs, mem, length = 0x00, 0x00, 0x20, 0x60, 0x80
	fromX                       = 0x08
	retA                        = 0x10
	tax, txa                    = 0x00, 0x80

	add, sub, mul, div, or, and, lsh, rsh, neg, xor = 0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xa0
	ja, jeq, jgt, jge, jset                         = 0x00, 0x10, 0x20, 0x30, 0x40
)

// known are the instructions that a filter may have.
var known = knownCodes()

func knownCodes() map[uint16]bool {
	known := map[uint16]bool{
		ld | word | abs: true, ld | word | length: true, ld | imm: true, ld | mem: true,
		ldx | word | length: true, ldx | imm: true, ldx | mem: true, st: true, stx: true,
		misc | tax: true, misc | txa: true, alu | neg: true, jmp | ja: true, ret: true, ret | retA: true,
	}
	for _, op := range []uint16{add, sub, mul, div, or, and, lsh, rsh, xor} {
		known[alu|op], known[alu|op|fromX] = true, true
	}
	for _, op := range []uint16{jeq, jgt, jge, jset} {
		known[jmp|op], known[jmp|op|fromX] = true, true
	}
	return known
}

// Parse reads an array of struct sock_filter. The error is unix.EINVAL.
func Parse(b []byte) (*Program, error) {
	n := len(b) / InstructionSize
	if len(b)%InstructionSize != 0 || n == 0 || n > MaxInstructions {
		return nil, unix.EINVAL
	}
	p := &Program{make([]instruction, n)}
	for i := range p.code {
		r := b[i*InstructionSize:]
		in := instruction{binary.LittleEndian.Uint16(r), r[2], r[3], binary.LittleEndian.Uint32(r[4:])}
		if !in.valid(uint32(n - i - 1)) {
			return nil, unix.EINVAL
		}
		p.code[i] = in
	}
	if last := p.code[n-1].code; last != ret && last != ret|retA || !p.initialized() {
		return nil, unix.EINVAL
	}
	return p, nil
}

// valid checks one instruction with so many behind it.
func (in *instruction) valid(behind uint32) bool {
	if !known[in.code] {
		return false
	}
	switch in.code {
	case ld | word | abs:
		return in.k < DataSize && in.k%4 == 0
	case alu | div:
		return in.k != 0
	case alu | lsh, alu | rsh:
		return in.k < 32
	case ld | mem, ldx | mem, st, stx:
		return in.k < scratchWords
	case jmp | ja:
		return in.k < behind
	}
	if in.code&7 == jmp {
		return uint32(in.jt) < behind && uint32(in.jf) < behind
	}
	return true
}

// initialized says that no word of scratch memory is read before it is written
// (check_load_and_stores).
func (p *Program) initialized() bool {
	masks := make([]uint16, len(p.code))
	for i := range masks {
		masks[i] = 0xffff
	}
	valid := uint16(0)
	for i, in := range p.code {
		valid &= masks[i]
		switch in.code {
		case st, stx:
			valid |= 1 << in.k
		case ld | mem, ldx | mem:
			if valid>>in.k&1 == 0 {
				return false
			}
		case jmp | ja:
			masks[i+1+int(in.k)] &= valid
			valid = 0xffff
		default:
			if in.code&7 == jmp {
				masks[i+1+int(in.jt)] &= valid
				masks[i+1+int(in.jf)] &= valid
				valid = 0xffff
			}
		}
	}
	return true
}

// Run is the program's answer to d.
func (p *Program) Run(d *Data) uint32 {
	v, _ := p.run(d, false)
	return v
}

// Constant is the program's answer to every call with d's number and
// architecture, if it is the same whatever the rest says
// (seccomp_is_const_allow).
func (p *Program) Constant(d *Data) (answer uint32, ok bool) { return p.run(d, true) }

func (p *Program) run(d *Data, constant bool) (answer uint32, ok bool) {
	var a, x uint32
	var m [scratchWords]uint32
	for pc := 0; ; pc++ {
		in := &p.code[pc]
		operand := in.k
		if in.code&fromX != 0 {
			operand = x
		}
		switch in.code {
		case ld | word | abs:
			if constant && in.k >= 8 {
				return 0, false
			}
			a = d.word(in.k)
		case ld | word | length:
			a = DataSize
		case ldx | word | length:
			x = DataSize
		case ld | imm:
			a = in.k
		case ldx | imm:
			x = in.k
		case ld | mem:
			a = m[in.k]
		case ldx | mem:
			x = m[in.k]
		case st:
			m[in.k] = a
		case stx:
			m[in.k] = x
		case misc | tax:
			x = a
		case misc | txa:
			a = x
		case ret:
			return in.k, true
		case ret | retA:
			return a, true
		case jmp | ja:
			pc += int(in.k)
		default:
			switch {
			case in.code&7 == alu:
				if in.code&0xf0 == div && operand == 0 {
					return 0, true
				}
				a = compute(in.code&0xf0, a, operand)
			case holds(in.code&0xf0, a, operand):
				pc += int(in.jt)
			default:
				pc += int(in.jf)
			}
		}
	}
}

func compute(op uint16, a, v uint32) uint32 {
	switch op {
	case add:
		return a + v
	case sub:
		return a - v
	case mul:
		return a * v
	case div:
		return a / v
	case or:
		return a | v
	case and:
		return a & v
	case lsh:
		return a << (v & 31)
	case rsh:
		return a >> (v & 31)
	case xor:
		return a ^ v
	}
	return -a
}

func holds(op uint16, a, v uint32) bool {
	switch op {
	case jeq:
		return a == v
	case jgt:
		return a > v
	case jge:
		return a >= v
	}
	return a&v != 0
}

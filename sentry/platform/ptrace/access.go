package ptrace

import "bulkhead/sentry/platform"

// stores says whether the instruction in code writes to addr in memory. It says
// no in any doubt. code may come from a hostile application and may have been
// changed since it faulted; the answer only decides how its own page is mapped.
// SDM vol. 2, Instruction Format and Opcode Map.
func stores(code []byte, r *platform.Registers, addr uint64) bool {
	d := decoder{code: code}
	d.prefixes()
	op := d.opcode()
	if d.bad {
		return false
	}
	pushed := r.Rsp-addr-1 < 8 // within [rsp-8, rsp)
	switch {
	case d.space == 0 && pushes(op):
		return pushed
	case d.space == mapString:
		return addr-r.Rdi+64 < 128 && (op < 0xa6 && addr-r.Rsi+64 >= 128 || op == 0xaa || op == 0xab)
	case d.space == mapMoffs:
		return true
	}
	modrm := d.next()
	reg := modrm >> 3 & 7
	switch {
	case d.bad:
		return false
	case d.space == 0 && op == 0xff && (reg == 2 || reg == 6): // call, push
		return pushed
	case modrm>>6 == 3:
		return false
	}
	if d.space == 0 && op == 0x8f { // pop
		return addr-r.Rsp >= 8
	}
	for _, s := range storing {
		if s.space == d.space && s.first <= op && op <= s.last && s.regs&(1<<reg) != 0 &&
			(s.prefix == 0 || s.prefix&(1<<d.prefix) != 0) && (s.forms == 0 || s.forms&d.form != 0) {
			return true
		}
	}
	return false
}

// Opcode spaces: the maps of VEX and EVEX have their numbers.
const (
	mapMoffs  = 100 // mov to an address in the instruction
	mapString = 101
)

// Mandatory prefixes as VEX numbers them.
const (
	pNone = 1 << iota
	p66
	pF3
	pF2
)

// Encodings.
const (
	legacy = 1 << iota
	vex
	evex
)

const allRegs = 0xff

// storing is the instructions whose ModRM operand is written (or read and written).
var storing = []struct {
	space       int
	first, last byte
	regs        byte // bits: the values of ModRM.reg
	prefix      byte // bits; 0 is any
	forms       byte // bits; 0 is any
}{
	{0, 0x00, 0x01, allRegs, 0, 0}, // add
	{0, 0x08, 0x09, allRegs, 0, 0}, // or
	{0, 0x10, 0x11, allRegs, 0, 0}, // adc
	{0, 0x18, 0x19, allRegs, 0, 0}, // sbb
	{0, 0x20, 0x21, allRegs, 0, 0}, // and
	{0, 0x28, 0x29, allRegs, 0, 0}, // sub
	{0, 0x30, 0x31, allRegs, 0, 0}, // xor
	{0, 0x80, 0x83, 0x7f, 0, 0},    // the same with an immediate, without cmp
	{0, 0x86, 0x89, allRegs, 0, 0}, // xchg, mov
	{0, 0x8c, 0x8c, allRegs, 0, 0}, // mov from a segment register
	{0, 0xc0, 0xc1, allRegs, 0, 0}, // shifts
	{0, 0xc6, 0xc7, 0x01, 0, 0},    // mov of an immediate
	{0, 0xd0, 0xd3, allRegs, 0, 0}, // shifts
	{0, 0xd9, 0xd9, 0xcc, 0, 0},    // fst, fstp, fnstenv, fnstcw
	{0, 0xdb, 0xdb, 0x8e, 0, 0},    // fisttp, fist, fistp, fstp m80
	{0, 0xdd, 0xdd, 0xce, 0, 0},    // fisttp, fst, fstp, fnsave, fnstsw
	{0, 0xdf, 0xdf, 0xce, 0, 0},    // fisttp, fist, fistp, fbstp, fistp m64
	{0, 0xf6, 0xf7, 0x0c, 0, 0},    // not, neg
	{0, 0xfe, 0xff, 0x03, 0, 0},    // inc, dec

	{1, 0x11, 0x11, allRegs, 0, 0},                // movups …
	{1, 0x13, 0x13, allRegs, pNone | p66, 0},      // movlps
	{1, 0x17, 0x17, allRegs, pNone | p66, 0},      // movhps
	{1, 0x29, 0x29, allRegs, pNone | p66, 0},      // movaps
	{1, 0x2b, 0x2b, allRegs, 0, 0},                // movntps
	{1, 0x7e, 0x7e, allRegs, pNone | p66, 0},      // movd; F3 7E loads
	{1, 0x7f, 0x7f, allRegs, 0, 0},                // movdqa …
	{1, 0x90, 0x9f, allRegs, 0, legacy},           // setcc
	{1, 0x91, 0x91, allRegs, 0, vex},              // kmov
	{1, 0xa4, 0xa5, allRegs, 0, legacy},           // shld
	{1, 0xab, 0xad, allRegs, 0, legacy},           // bts, shrd
	{1, 0xae, 0xae, 0x59, pNone, legacy},          // fxsave, stmxcsr, xsave, xsaveopt
	{1, 0xae, 0xae, 0x08, pNone, vex},             // vstmxcsr
	{1, 0xb0, 0xb1, allRegs, 0, legacy},           // cmpxchg
	{1, 0xb3, 0xb3, allRegs, 0, legacy},           // btr
	{1, 0xba, 0xba, 0xe0, 0, legacy},              // bts, btr, btc
	{1, 0xbb, 0xbb, allRegs, 0, legacy},           // btc
	{1, 0xc0, 0xc1, allRegs, 0, legacy},           // xadd
	{1, 0xc3, 0xc3, allRegs, pNone, legacy},       // movnti
	{1, 0xc7, 0xc7, 0x12, pNone, legacy},          // cmpxchg16b, xsavec
	{1, 0xd6, 0xd6, allRegs, p66, 0},              // movq
	{1, 0xe7, 0xe7, allRegs, pNone | p66, 0},      // movntq
	{2, 0x10, 0x15, allRegs, pF3, evex},           // vpmovusdb …
	{2, 0x20, 0x25, allRegs, pF3, evex},           // vpmovsdb …
	{2, 0x2e, 0x2f, allRegs, p66, vex},            // vmaskmov
	{2, 0x30, 0x35, allRegs, pF3, evex},           // vpmovdb …
	{2, 0x63, 0x63, allRegs, p66, evex},           // vpcompressb
	{2, 0x8a, 0x8b, allRegs, p66, evex},           // vcompressps
	{2, 0x8e, 0x8e, allRegs, p66, vex},            // vpmaskmov
	{2, 0xa0, 0xa3, allRegs, p66, evex},           // vscatter
	{2, 0xf1, 0xf1, allRegs, pNone | p66, legacy}, // movbe
	{2, 0xf9, 0xf9, allRegs, pNone, legacy},       // movdiri
	{3, 0x14, 0x17, allRegs, p66, 0},              // pextr, extractps
	{3, 0x19, 0x19, allRegs, p66, vex | evex},     // vextractf128
	{3, 0x1b, 0x1b, allRegs, p66, evex},
	{3, 0x1d, 0x1d, allRegs, p66, vex | evex}, // vcvtps2ph
	{3, 0x39, 0x39, allRegs, p66, vex | evex}, // vextracti128
	{3, 0x3b, 0x3b, allRegs, p66, evex},
	{5, 0x11, 0x11, allRegs, pF3, evex}, // vmovsh
	{5, 0x7e, 0x7e, allRegs, p66, evex}, // vmovw
}

// pushes says that a one-byte opcode writes below RSP and nowhere else.
func pushes(op byte) bool {
	return op >= 0x50 && op <= 0x57 || op == 0x68 || op == 0x6a || op == 0x9c || op == 0xe8
}

// decoder reads an instruction up to its ModRM byte.
type decoder struct {
	code   []byte
	at     int
	space  int  // opcode map
	prefix byte // 0 none, 1 66, 2 F3, 3 F2
	form   byte
	bad    bool
}

func (d *decoder) next() byte {
	if d.at >= len(d.code) {
		d.bad = true
		return 0
	}
	d.at++
	return d.code[d.at-1]
}

func (d *decoder) prefixes() {
	d.form = legacy
	for d.at < len(d.code) {
		switch d.code[d.at] {
		case 0x66:
			d.prefix = max(d.prefix, 1)
		case 0xf3:
			d.prefix = 2
		case 0xf2:
			d.prefix = 3
		case 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x67, 0xf0:
		default:
			if d.code[d.at]&0xf0 == 0x40 { // REX is the last
				d.at++
			}
			return
		}
		d.at++
	}
}

// opcode reads the opcode and whatever says in which map it is.
func (d *decoder) opcode() byte {
	op := d.next()
	switch op {
	case 0x0f:
		d.space = 1
		op = d.next()
		if op == 0x38 || op == 0x3a {
			d.space = int(op-0x38)/2 + 2
			op = d.next()
		}
	case 0xc5:
		d.form, d.space, d.prefix = vex, 1, d.next()&3
		op = d.next()
	case 0xc4:
		d.form, d.space = vex, int(d.next()&0x1f)
		d.prefix = d.next() & 3
		op = d.next()
	case 0x62:
		d.form, d.space = evex, int(d.next()&7)
		d.prefix = d.next() & 3
		d.next()
		op = d.next()
	case 0xa2, 0xa3:
		d.space = mapMoffs
	case 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf:
		d.space = mapString
	}
	return op
}

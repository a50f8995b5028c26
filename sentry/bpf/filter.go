package bpf

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Packet is what a socket's filter sees of one (struct sk_buff).
type Packet struct {
	Data     []byte // from where loads begin
	Link     []byte // from the link's header on
	Network  []byte // from the network's header on
	Protocol uint16 // ETH_P_…
	Kind     uint8  // PACKET_…
	Index    uint32 // of the device
	Hardware uint16 // ARPHRD_…
}

// Filter is a program over packets that has passed the checks: SO_ATTACH_FILTER
// (Documentation/networking/filter.rst). Extensions are the offsets SKF_NET_OFF,
// SKF_LL_OFF and, of SKF_AD_OFF, those that Packet has; others are EINVAL.
type Filter struct{ p Program }

// Loads that seccomp's programs do not have.
const (
	half, octet = 0x08, 0x10
	ind         = 0x40
	msh         = 0xb1 // ldx 4*([k]&0xf)
	mod         = 0x90
)

const (
	auxOffset     = 0xfffff000 // SKF_AD_OFF
	networkOffset = 0xfff00000 // SKF_NET_OFF
	linkOffset    = 0xffe00000 // SKF_LL_OFF

	auxProtocol, auxKind, auxIndex, auxHardware = auxOffset, auxOffset + 4, auxOffset + 8, auxOffset + 28
	auxTag, auxTagThere                         = auxOffset + 44, auxOffset + 48
)

// ParseFilter reads an array of struct sock_filter. The error is unix.EINVAL.
func ParseFilter(b []byte) (*Filter, error) {
	n := len(b) / InstructionSize
	if len(b)%InstructionSize != 0 || n == 0 || n > MaxInstructions {
		return nil, unix.EINVAL
	}
	f := &Filter{Program{make([]instruction, n)}}
	for i := range f.p.code {
		r := b[i*InstructionSize:]
		in := instruction{binary.LittleEndian.Uint16(r), r[2], r[3], binary.LittleEndian.Uint32(r[4:])}
		if !in.validInFilter(uint32(n - i - 1)) {
			return nil, unix.EINVAL
		}
		f.p.code[i] = in
	}
	if last := f.p.code[n-1].code; last != ret && last != ret|retA || !f.p.initialized() {
		return nil, unix.EINVAL
	}
	return f, nil
}

func (in *instruction) validInFilter(behind uint32) bool {
	switch in.code {
	case ld | word | abs, ld | half | abs, ld | octet | abs:
		if in.k >= auxOffset {
			switch in.k {
			case auxProtocol, auxKind, auxIndex, auxHardware, auxTag, auxTagThere:
				return true
			}
			return false
		}
		return true
	case ld | word | ind, ld | half | ind, ld | octet | ind, msh, alu | mod | fromX:
		return true
	case alu | mod:
		return in.k != 0
	}
	return in.valid(behind)
}

// Run is how many bytes of the packet are to be kept; a load beyond its end is 0.
func (f *Filter) Run(d *Packet) uint32 {
	var a, x uint32
	var m [scratchWords]uint32
	for pc := 0; ; pc++ {
		in := &f.p.code[pc]
		ok := true
		switch in.code {
		case ld | word | abs, ld | half | abs, ld | octet | abs:
			a, ok = d.load(in.k, in.code&0x18)
		case ld | word | ind, ld | half | ind, ld | octet | ind:
			a, ok = d.load(in.k+x, in.code&0x18)
		case msh:
			if x, ok = d.load(in.k, octet); ok {
				x = x & 0xf << 2
			}
		case ld | word | length:
			a = uint32(len(d.Data))
		case ldx | word | length:
			x = uint32(len(d.Data))
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
			return in.k
		case ret | retA:
			return a
		case jmp | ja:
			pc += int(in.k)
		default:
			v := in.k
			if in.code&fromX != 0 {
				v = x
			}
			op := in.code & 0xf0
			switch {
			case in.code&7 == alu && (op == div || op == mod) && v == 0:
				return 0
			case in.code&7 == alu && op == mod:
				a %= v
			case in.code&7 == alu:
				a = compute(op, a, v)
			case holds(op, a, v):
				pc += int(in.jt)
			default:
				pc += int(in.jf)
			}
		}
		if !ok {
			return 0
		}
	}
}

// load reads a big-endian number (bpf_internal_load_pointer_neg_helper).
func (d *Packet) load(at uint32, width uint16) (uint32, bool) {
	b := d.Data
	switch {
	case at >= auxOffset:
		switch at {
		case auxProtocol:
			return uint32(d.Protocol), true
		case auxKind:
			return uint32(d.Kind), true
		case auxIndex:
			return d.Index, true
		case auxHardware:
			return uint32(d.Hardware), true
		}
		return 0, at == auxTag || at == auxTagThere // no tag is ever taken off
	case at >= networkOffset:
		b, at = d.Network, at-networkOffset
	case at >= linkOffset:
		b, at = d.Link, at-linkOffset
	}
	n := uint64(len(b))
	switch {
	case width == octet && uint64(at)+1 <= n:
		return uint32(b[at]), true
	case width == half && uint64(at)+2 <= n:
		return uint32(binary.BigEndian.Uint16(b[at:])), true
	case width == word && uint64(at)+4 <= n:
		return binary.BigEndian.Uint32(b[at:]), true
	}
	return 0, false
}

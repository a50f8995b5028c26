package bpf

import (
	"encoding/binary"
	"testing"
)

func assemble(list ...[4]uint32) (b []byte) {
	for _, in := range list {
		b = binary.LittleEndian.AppendUint16(b, uint16(in[0]))
		b = append(b, byte(in[1]), byte(in[2]))
		b = binary.LittleEndian.AppendUint32(b, in[3])
	}
	return b
}

func TestFilter(t *testing.T) {
	d := &Packet{Data: []byte{0x45, 1, 2, 3, 4}, Link: []byte{9, 8, 7}, Network: []byte{6, 5}, Protocol: 0x800, Kind: 4, Index: 3, Hardware: 1}
	returnA := [4]uint32{ret | retA}
	for name, row := range map[string]struct {
		code []byte
		want uint32
		bad  bool
	}{
		"word":                {assemble([4]uint32{ld | word | abs, 0, 0, 1}, returnA), 0x01020304, false},
		"half":                {assemble([4]uint32{ld | half | abs, 0, 0, 3}, returnA), 0x0304, false},
		"beyond":              {assemble([4]uint32{ld | word | abs, 0, 0, 2}, [4]uint32{ret, 0, 0, 7}), 0, false},
		"header's length":     {assemble([4]uint32{msh, 0, 0, 0}, [4]uint32{misc | txa}, returnA), 20, false},
		"indirect":            {assemble([4]uint32{ldx | imm, 0, 0, 2}, [4]uint32{ld | octet | ind, 0, 0, 1}, returnA), 3, false},
		"indirect, around":    {assemble([4]uint32{ldx | imm, 0, 0, 0xffffffff}, [4]uint32{ld | octet | ind, 0, 0, 2}, returnA), 1, false},
		"link":                {assemble([4]uint32{ld | octet | abs, 0, 0, linkOffset + 1}, returnA), 8, false},
		"network":             {assemble([4]uint32{ld | octet | abs, 0, 0, networkOffset + 1}, returnA), 5, false},
		"protocol":            {assemble([4]uint32{ld | half | abs, 0, 0, auxProtocol}, returnA), 0x800, false},
		"kind":                {assemble([4]uint32{ld | half | abs, 0, 0, auxKind}, returnA), 4, false},
		"another extension":   {assemble([4]uint32{ld | half | abs, 0, 0, auxOffset + 1000}, returnA), 0, true},
		"remainder":           {assemble([4]uint32{ld | imm, 0, 0, 17}, [4]uint32{alu | mod, 0, 0, 5}, returnA), 2, false},
		"remainder of zero":   {assemble([4]uint32{alu | mod, 0, 0, 0}, returnA), 0, true},
		"no end":              {assemble([4]uint32{ld | imm, 0, 0, 17}), 0, true},
		"jump out":            {assemble([4]uint32{jmp | ja, 0, 0, 1}, returnA), 0, true},
		"half an instruction": {make([]byte, 12), 0, true},
	} {
		f, err := ParseFilter(row.code)
		if (err != nil) != row.bad {
			t.Errorf("%s: %v", name, err)
		} else if err == nil {
			if got := f.Run(d); got != row.want {
				t.Errorf("%s: %#x, want %#x", name, got, row.want)
			}
		}
	}
}

// FuzzFilter runs what passes the checks: it ends, and reads nothing beyond the packet.
func FuzzFilter(f *testing.F) {
	f.Add(assemble([4]uint32{ld | half | abs, 0, 0, 12}, [4]uint32{jmp | 0x10, 0, 1, 0x800}, [4]uint32{ret, 0, 0, 60}, [4]uint32{ret}), []byte("a packet with some bytes"))
	f.Add(assemble([4]uint32{msh, 0, 0, 14}, [4]uint32{ld | half | ind, 0, 0, 16}, [4]uint32{ret | retA}), []byte{0x45})
	f.Fuzz(func(t *testing.T, code, packet []byte) {
		p, err := ParseFilter(code)
		if err != nil {
			return
		}
		p.Run(&Packet{Data: packet, Link: packet, Network: packet[min(14, len(packet)):]})
	})
}

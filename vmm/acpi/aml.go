package acpi

import "slices"

// A term is a piece of AML, encoded (§20.2).
type term []byte

// Opcodes and prefixes of §20.2 that the DSDT needs.
const (
	opZero    = 0x00
	opOne     = 0x01
	opName    = 0x08
	opByte    = 0x0a
	opWord    = 0x0b
	opDWord   = 0x0c
	opString  = 0x0d
	opScope   = 0x10
	opBuffer  = 0x11
	opPackage = 0x12
	opMethod  = 0x14
	opArg0    = 0x68
	opNotify  = 0x86
	opEqual   = 0x93
	opIf      = 0xa0
	opExt     = 0x5b
	opDevice  = 0x82
)

// sized is an opcode and its content, with the length between (PkgLength,
// §20.2.4). The length counts itself, in one to four bytes.
func sized(op []byte, content ...term) term {
	body := slices.Concat(content...)
	n := len(body) + 1
	if n < 1<<6 {
		return slices.Concat(op, []byte{byte(n)}, body)
	}
	more := 1
	for n++; n >= 1<<(4+8*more); n++ {
		more++
	}
	length := []byte{byte(more<<6 | n&0xf)}
	for rest := n >> 4; more > 0; more-- {
		length = append(length, byte(rest))
		rest >>= 8
	}
	return slices.Concat(op, length, body)
}

func scope(path string, content ...term) term {
	return sized([]byte{opScope}, append([]term{term(path)}, content...)...)
}

// device is one of four letters, which is how long a name is.
func device(name string, content ...term) term {
	return sized([]byte{opExt, opDevice}, append([]term{term(name)}, content...)...)
}

func name(n string, value term) term { return slices.Concat(term{opName}, term(n), value) }

func pack(values ...term) term {
	return sized([]byte{opPackage}, append([]term{{byte(len(values))}}, values...)...)
}

// method has one argument, and waits for no other run of itself (§19.6.85: Serialized).
func method(name string, content ...term) term {
	const oneSerialized = 1 | 1<<3
	return sized([]byte{opMethod}, append([]term{term(name), {oneSerialized}}, content...)...)
}

// ifArg is If (Arg0 == v) {…}.
func ifArg(v uint32, content ...term) term {
	return sized([]byte{opIf}, append([]term{{opEqual, opArg0}, integer(v)}, content...)...)
}

// notify tells the driver of the device called so that something happened to it (§5.6.6).
func notify(device string, what uint32) term {
	return slices.Concat(term{opNotify}, term(device), integer(what))
}

func text(s string) term { return slices.Concat(term{opString}, term(s), term{0}) }

// integer is v in its shortest form.
func integer(v uint32) term {
	switch {
	case v == 0:
		return term{opZero}
	case v == 1:
		return term{opOne}
	case v < 1<<8:
		return term{opByte, byte(v)}
	case v < 1<<16:
		return le.AppendUint16(term{opWord}, uint16(v))
	}
	return le.AppendUint32(term{opDWord}, v)
}

// eisa is EISAID(id): three letters of five bits and four hexadecimal digits, in big-endian (§19.3.4).
func eisa(id string) term {
	v := uint32(id[0]-'@')<<26 | uint32(id[1]-'@')<<21 | uint32(id[2]-'@')<<16
	for i, c := range []byte(id[3:7]) {
		digit := uint32(c - '0')
		if c >= 'A' {
			digit = uint32(c-'A') + 10
		}
		v |= digit << (12 - 4*i)
	}
	return term{opDWord, byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}

// resources is ResourceTemplate(){…}: descriptors and the end tag (§6.4.2.9) in a buffer.
func resources(descriptors ...term) term {
	b := append(slices.Concat(descriptors...), 0x79, 0)
	return sized([]byte{opBuffer}, integer(uint32(len(b))), b)
}

// ports is n ports from first on (§6.4.2.5), decoded by all 16 bits.
func ports(first uint16, n byte) term {
	d := le.AppendUint16(term{0x47, 1}, first)
	d = le.AppendUint16(d, first)
	return append(d, 1, n)
}

// memory is a fixed window (§6.4.3.4), to be read and written.
func memory(base, size uint32) term {
	return le.AppendUint32(le.AppendUint32(term{0x86, 9, 0, 1}, base), size)
}

// interrupt is one GSI (§6.4.3.6): consumed, edge-triggered, active high, exclusive.
func interrupt(gsi uint32) term { return le.AppendUint32(term{0x89, 6, 0, 3, 1}, gsi) }

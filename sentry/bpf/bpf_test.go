package bpf

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

type row = instruction

func encode(rows ...row) []byte {
	var b []byte
	for _, r := range rows {
		b = binary.LittleEndian.AppendUint16(b, r.code)
		b = append(b, r.jt, r.jf)
		b = binary.LittleEndian.AppendUint32(b, r.k)
	}
	return b
}

func TestParse(t *testing.T) {
	allow := row{code: ret, k: 7}
	for _, c := range []struct {
		name string
		code []row
		good bool
	}{
		{"empty", nil, false},
		{"return", []row{allow}, true},
		{"no return", []row{{code: ld | abs}}, false},
		{"unaligned load", []row{{code: ld | abs, k: 2}, allow}, false},
		{"load past the end", []row{{code: ld | abs, k: 64}, allow}, false},
		{"last load", []row{{code: ld | abs, k: 60}, allow}, true},
		{"half word", []row{{code: ld | abs | 8}, allow}, false},
		{"modulo", []row{{code: alu | 0x90, k: 3}, allow}, false},
		{"division by zero", []row{{code: alu | div}, allow}, false},
		{"wide shift", []row{{code: alu | lsh, k: 32}, allow}, false},
		{"jump past the end", []row{{code: jmp | ja, k: 1}, allow}, false},
		{"jump to the end", []row{{code: jmp | ja}, allow}, true},
		{"jump far", []row{{code: jmp | ja, k: 0xffffffff}, allow}, false},
		{"branch past the end", []row{{code: jmp | jeq, jt: 1}, allow}, false},
		{"scratch unset", []row{{code: ld | mem}, allow}, false},
		{"scratch set", []row{{code: st, k: 15}, {code: ld | mem, k: 15}, allow}, true},
		{"scratch set on one way", []row{{code: jmp | jeq, jf: 1}, {code: st}, {code: ld | mem}, allow}, false},
		{"no such scratch", []row{{code: st, k: 16}, allow}, false},
		{"too long", make([]row, MaxInstructions+1), false},
	} {
		if _, err := Parse(encode(c.code...)); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestRun(t *testing.T) {
	d := &Data{Number: 39, Arch: unix.AUDIT_ARCH_X86_64, IP: 0x1_0000_0002, Args: [6]uint64{0x3_0000_0004, 5, 6, 7, 8, 0x9_0000_000a}}
	for off := range uint32(DataSize / 4) {
		if got, want := d.word(off*4), binary.LittleEndian.Uint32(d.Bytes()[off*4:]); got != want {
			t.Errorf("word %d is %#x, want %#x", off, got, want)
		}
	}
	for _, c := range []struct {
		name string
		code []row
		want uint32
	}{
		{"number", []row{{code: ld | abs}, {code: ret | retA}}, 39},
		{"length", []row{{code: ldx | length}, {code: misc | txa}, {code: ret | retA}}, 64},
		{"branch", []row{{code: ld | abs}, {code: jmp | jgt, k: 38, jt: 1}, {code: ret, k: 1}, {code: ret, k: 2}}, 2},
		{"set", []row{{code: ld | abs}, {code: jmp | jset, k: 8, jt: 1}, {code: ret, k: 1}, {code: ret, k: 2}}, 1},
		{"by X", []row{{code: ldx | imm, k: 39}, {code: ld | abs}, {code: jmp | jeq | fromX, jf: 1}, {code: ret, k: 1}, {code: ret, k: 2}}, 1},
		{"sums", []row{{code: ld | imm, k: 7}, {code: alu | mul, k: 6}, {code: alu | sub, k: 2}, {code: alu | div, k: 4},
			{code: alu | lsh, k: 2}, {code: alu | xor, k: 1}, {code: ret | retA}}, 41},
		{"negate", []row{{code: ld | imm, k: 1}, {code: alu | neg}, {code: ret | retA}}, 0xffffffff},
		{"division by X of zero", []row{{code: ld | imm, k: 9}, {code: alu | div | fromX}, {code: ret, k: 3}}, 0},
		{"scratch", []row{{code: ld | abs, k: 60}, {code: st, k: 3}, {code: ldx | mem, k: 3}, {code: misc | txa}, {code: ret | retA}}, 9},
	} {
		p, err := Parse(encode(c.code...))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := p.Run(d); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestConstant(t *testing.T) {
	p, err := Parse(encode(row{code: ld | abs}, row{code: jmp | jeq, k: 1, jt: 1}, row{code: ret, k: 7}, row{code: ld | abs, k: 16}, row{code: ret | retA}))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok := p.Constant(&Data{Number: 2}); !ok || v != 7 {
		t.Errorf("number 2: %d, %v", v, ok)
	}
	if _, ok := p.Constant(&Data{Number: 1}); ok {
		t.Error("number 1 looks at an argument")
	}
}

// FuzzProgram: what Parse lets through ends within its bounds, and a constant answer is
// the answer.
func FuzzProgram(f *testing.F) {
	f.Add(encode(row{code: ld | abs}, row{code: jmp | jeq, k: 39, jt: 0, jf: 1}, row{code: ret, k: 0x7fff0000}, row{code: ret}), []byte{1})
	f.Add(encode(row{code: ldx | length}, row{code: stx, k: 3}, row{code: ld | mem, k: 3}, row{code: alu | div | fromX}, row{code: ret | retA}), []byte{})
	f.Fuzz(func(t *testing.T, code, data []byte) {
		p, err := Parse(code)
		if err != nil {
			return
		}
		var d Data
		b := make([]byte, DataSize)
		copy(b, data)
		if _, err := binary.Decode(b, binary.LittleEndian, &d); err != nil {
			t.Fatal(err)
		}
		got := p.Run(&d)
		if want, ok := p.Constant(&d); ok && got != want {
			t.Errorf("%#x, constant %#x", got, want)
		}
	})
}

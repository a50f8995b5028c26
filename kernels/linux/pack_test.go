package linux

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// memory is what a loader makes of an ELF file, from base on.
func memory(t *testing.T, b []byte, base uint64, size int) []byte {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	m := make([]byte, size)
	for _, p := range f.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		if p.Filesz > p.Memsz || p.Paddr-base+p.Memsz > uint64(size) {
			t.Fatalf("segment %+v", p.ProgHeader)
		}
		if _, err := io.ReadFull(p.Open(), m[p.Paddr-base:][:p.Filesz]); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// TestPack: the same memory, but for padding, from a smaller file; and the note is found.
func TestPack(t *testing.T) {
	const base, gapAt, gapSize, tail = 16 << 20, 0x3000, 2 << 20, 0x5000
	text := bytes.Repeat([]byte{0x90}, gapAt)
	text = append(text, bytes.Repeat([]byte{0xcc}, gapSize)...)
	text = append(text, bytes.Repeat([]byte{0x91}, tail+123)...)
	copy(text[gapAt+gapSize+0x100:], "a note")
	data := append(make([]byte, 0x20000), "behind a long run of zeroes at the start"...)
	data = append(data, make([]byte, 0x4000)...) // too short to gain
	data = append(data, 1)
	rows := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: 5, Off: 0x200000, Vaddr: 0xffff_0000_0000_0000 + base, Paddr: base, Filesz: uint64(len(text)), Memsz: uint64(len(text)), Align: 2 << 20},
		{Type: uint32(elf.PT_LOAD), Flags: 6, Off: 0x800000, Vaddr: 0, Paddr: base + 4<<20, Filesz: uint64(len(data)), Memsz: uint64(len(data)) + 0x7000, Align: 2 << 20},
		{Type: uint32(elf.PT_NOTE), Flags: 4, Off: 0x200000 + gapAt + gapSize + 0x100, Vaddr: 0xffff_0000_0000_0000 + base + gapAt + gapSize + 0x100, Paddr: base + gapAt + gapSize + 0x100, Filesz: 6, Memsz: 6, Align: 4},
	}
	whole := make([]byte, 0x800000+len(data))
	var head bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: base, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	for _, v := range []any{h, rows} {
		if err := binary.Write(&head, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	copy(whole, head.Bytes())
	copy(whole[0x200000:], text)
	copy(whole[0x800000:], data)
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(from, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pack(from, to); err != nil {
		t.Fatal(err)
	}
	small, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if len(small) > 0x40000 {
		t.Errorf("the packed file has %#x bytes", len(small))
	}
	want, got := memory(t, whole, base, 6<<20), memory(t, small, base, 6<<20)
	clear(want[gapAt:][:gapSize])
	if !bytes.Equal(want, got) {
		t.Error("it makes other memory")
	}
	f, err := elf.NewFile(bytes.NewReader(small))
	if err != nil {
		t.Fatal(err)
	}
	var end uint64
	for _, p := range f.Progs {
		if p.Type == elf.PT_NOTE {
			if b, err := io.ReadAll(p.Open()); err != nil || string(b) != "a note" {
				t.Errorf("the note is %q, %v", b, err)
			}
			continue
		}
		if p.Paddr < end {
			t.Errorf("segment at %#x overlaps one that ends at %#x", p.Paddr, end)
		}
		end = p.Paddr + p.Memsz
	}
	if f.Entry != base || end != base+4<<20+uint64(len(data))+0x7000 {
		t.Errorf("entry %#x, end of memory %#x", f.Entry, end)
	}
}

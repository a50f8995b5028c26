package linux

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// pack writes the ELF file from again as to, without what a boot does not need:
// sections, symbols, the linker's alignment to 2 MiB in the file, and long runs
// of padding, of which a kernel has as much as of code: text is filled up to 2 MiB
// three times, so that it can be mapped by large pages. Such a run becomes the end of a
// segment that has more bytes in memory than in the file, so it reads as zero there.
func pack(from, to string) error {
	f, err := elf.Open(from)
	if err != nil {
		return fmt.Errorf("kernel: pack: %w", err)
	}
	defer f.Close()
	packed, err := packed(f)
	if err != nil {
		return fmt.Errorf("kernel: pack %s: %w", from, err)
	}
	return writeFile(to, packed)
}

func writeFile(name string, b []byte) error {
	if err := os.WriteFile(name, b, 0o755); err != nil {
		return fmt.Errorf("kernel: %w", err)
	}
	return nil
}

const (
	pageSize   = 4096
	leastGap   = 16 * pageSize // of padding that is left out
	headerSize = 64
	rowSize    = 56
)

// packed is the new file.
func packed(f *elf.File) ([]byte, error) {
	var rows []elf.Prog64
	var contents [][]byte
	var notes []*elf.Prog
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			content := make([]byte, p.Filesz)
			if _, err := io.ReadFull(p.Open(), content); err != nil {
				return nil, fmt.Errorf("read the segment at %#x: %w", p.Paddr, err)
			}
			for _, c := range chunks(content) {
				row := elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(p.Flags), Align: pageSize,
					Vaddr: p.Vaddr + uint64(c.at), Paddr: p.Paddr + uint64(c.at), Filesz: uint64(len(c.data)), Memsz: uint64(c.size)}
				if c.at+c.size == len(content) { // and what was zero in memory anyway
					row.Memsz += p.Memsz - p.Filesz
				}
				rows, contents = append(rows, row), append(contents, c.data)
			}
		case elf.PT_NOTE:
			notes = append(notes, p)
		}
	}
	at := uint64(headerSize + (len(rows)+len(notes))*rowSize)
	for i := range rows {
		at = (at + pageSize - 1) &^ (pageSize - 1)
		rows[i].Off = at
		at += rows[i].Filesz
	}
	for _, n := range notes {
		row, err := within(rows, n)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return assemble(f, rows, contents), nil
}

// within is the row of a note, which lies in a segment.
func within(rows []elf.Prog64, n *elf.Prog) (elf.Prog64, error) {
	for _, r := range rows {
		if n.Vaddr >= r.Vaddr && n.Vaddr+n.Filesz <= r.Vaddr+r.Filesz {
			return elf.Prog64{Type: uint32(n.Type), Flags: uint32(n.Flags), Off: r.Off + n.Vaddr - r.Vaddr,
				Vaddr: n.Vaddr, Paddr: n.Paddr, Filesz: n.Filesz, Memsz: n.Memsz, Align: n.Align}, nil
		}
	}
	return elf.Prog64{}, fmt.Errorf("the note at %#x lies in no segment", n.Vaddr)
}

func assemble(f *elf.File, rows []elf.Prog64, contents [][]byte) []byte {
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(f.Type), Machine: uint16(f.Machine), Version: uint32(f.Version), Entry: f.Entry,
		Phoff: headerSize, Ehsize: headerSize, Phentsize: rowSize, Phnum: uint16(len(rows))}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(f.Class), byte(f.Data), byte(f.Version)
	// A Buffer takes all of it.
	_ = binary.Write(&b, binary.LittleEndian, h)
	_ = binary.Write(&b, binary.LittleEndian, rows)
	for i, c := range contents {
		b.Write(make([]byte, rows[i].Off-uint64(b.Len())))
		b.Write(c)
	}
	return b.Bytes()
}

// chunk is a part of a segment: data, and the padding behind it.
type chunk struct {
	at, size int
	data     []byte
}

// chunks divides a segment behind its long runs of padding.
func chunks(content []byte) []chunk {
	var all []chunk
	at := 0
	for at < len(content) {
		start, end := gap(content, at)
		all = append(all, chunk{at, end - at, content[at:start]})
		at = end
	}
	return all
}

// gap is the first run of padding behind at that is worth leaving out, or the end.
// Padding at the very start has no segment before it and stays.
func gap(content []byte, at int) (start, end int) {
	for start = at + pageSize; start < len(content); start = end {
		end = start
		for end < len(content) && isPadding(content[end:min(end+pageSize, len(content))], content[start]) {
			end = min(end+pageSize, len(content))
		}
		if end-start >= leastGap {
			return start, end
		}
		end = max(end, start+pageSize)
	}
	return len(content), len(content)
}

// isPadding is a page of zeroes, or of int3, with which the linker fills text.
func isPadding(page []byte, fill byte) bool {
	return (fill == 0 || fill == 0xcc) && bytes.Count(page, []byte{fill}) == len(page)
}

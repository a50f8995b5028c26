package boot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

var elfMagic = []byte("\x7fELF")

// Offsets and sizes of ELF-64 (System V ABI, "Object Files").
const (
	ehSize, phSize = 64, 56

	elfClass64, elfLittle = 2, 1
	elfExec, elfDyn       = 2, 3
	elfX86                = 62

	ptLoad, ptNote = 1, 4
)

// segment is a program header: size bytes at off in the file, which in memory
// lie at the beginning of span.
type segment struct {
	index     int // of its program header, for errors
	off, size uint64
	span      Span
}

// kernel is what a vmlinux's headers say. Its segments lie in order of their
// addresses and do not overlap.
type kernel struct {
	entry    uint64
	segments []segment
	notes    []segment
}

func (k *kernel) span() Span {
	return Span{k.segments[0].span.Start, k.segments[len(k.segments)-1].span.End}
}

// parseELF checks head, the first headLen bytes of a file or all that it has.
func parseELF(head []byte) (*kernel, error) {
	if len(head) < ehSize {
		return nil, errors.New("is an ELF file cut short")
	}
	kind, machine := le.Uint16(head[16:]), le.Uint16(head[18:])
	switch {
	case head[4] != elfClass64 || head[5] != elfLittle || machine != elfX86:
		return nil, fmt.Errorf("is an ELF file for another machine (class %d, machine %d); x86-64 is needed", head[4], machine)
	case kind != elfExec && kind != elfDyn:
		return nil, fmt.Errorf("is an ELF file of type %d, not an executable", kind)
	case le.Uint16(head[54:]) != phSize:
		return nil, fmt.Errorf("is an ELF file with program headers of %d bytes, not %d", le.Uint16(head[54:]), phSize)
	}
	k := &kernel{entry: le.Uint64(head[24:])}
	off, n := le.Uint64(head[32:]), uint64(le.Uint16(head[56:]))
	if off > uint64(len(head)) || n*phSize > uint64(len(head))-off {
		return nil, fmt.Errorf("is an ELF file whose %d program headers at %#x are not among its first %d bytes", n, off, len(head))
	}
	for i := range int(n) {
		if err := k.add(i, head[off+uint64(i)*phSize:]); err != nil {
			return nil, fmt.Errorf("segment %d: %w", i, err)
		}
	}
	return k, k.order()
}

func (k *kernel) add(index int, ph []byte) error {
	kind := le.Uint32(ph)
	addr, inMemory := le.Uint64(ph[24:]), le.Uint64(ph[40:])
	s := segment{index, le.Uint64(ph[8:]), le.Uint64(ph[32:]), Span{addr, addr + inMemory}}
	if s.off > 1<<62 || s.size > 1<<62 {
		return fmt.Errorf("%#x bytes at %#x of the file cannot be", s.size, s.off)
	}
	switch {
	case kind == ptNote:
		k.notes = append(k.notes, s)
	case kind != ptLoad || inMemory == 0:
	case s.size > inMemory:
		return fmt.Errorf("has %#x bytes in the file for %#x in memory", s.size, inMemory)
	case addr > ^uint64(0)-inMemory:
		return fmt.Errorf("%#x bytes at %#x wrap around", inMemory, addr)
	case addr < kernels:
		return fmt.Errorf("lies at %#x; below %#x are the boot tables", addr, kernels)
	default:
		k.segments = append(k.segments, s)
	}
	return nil
}

func (k *kernel) order() error {
	if len(k.segments) == 0 {
		return errors.New("is an ELF file with nothing to load")
	}
	slices.SortFunc(k.segments, func(a, b segment) int { return cmp.Compare(a.span.Start, b.span.Start) })
	for i, s := range k.segments[1:] {
		if last := k.segments[i]; s.span.overlaps(last.span) {
			return fmt.Errorf("segments %d and %d overlap, at %#x", last.index, s.index, s.span.Start)
		}
	}
	if !k.enters(k.entry) {
		return fmt.Errorf("its entry point %#x lies in no segment", k.entry)
	}
	return nil
}

// enters tells whether addr lies in one of the segments.
func (k *kernel) enters(addr uint64) bool {
	return slices.ContainsFunc(k.segments, func(s segment) bool { return s.span.Start <= addr && addr < s.span.End })
}

// XEN_ELFNOTE_PHYS32_ENTRY (xen/include/public/elfnote.h): where PVH enters.
const (
	noteOwner  = "Xen\x00"
	noteEntry  = 18
	noteHeader = 12
	notesLimit = 64 << 10 // bytes; Linux has half a KiB
)

// pvhEntry looks through a note segment, whose parts are padded to four bytes.
func pvhEntry(notes []byte) (uint64, bool) {
	for len(notes) >= noteHeader {
		name, desc, kind := padded(le.Uint32(notes)), padded(le.Uint32(notes[4:])), le.Uint32(notes[8:])
		size := uint64(le.Uint32(notes[4:]))
		notes = notes[noteHeader:]
		if name > uint64(len(notes)) || desc > uint64(len(notes))-name {
			return 0, false
		}
		owner, value := notes[:name], notes[name:name+desc]
		notes = notes[name+desc:]
		if kind != noteEntry || string(owner) != noteOwner {
			continue
		}
		switch size {
		case 4:
			return uint64(le.Uint32(value)), true
		case 8:
			return le.Uint64(value), true
		}
	}
	return 0, false
}

func padded(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }

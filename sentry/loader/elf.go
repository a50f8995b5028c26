package loader

import (
	"debug/elf"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// segment is a PT_LOAD with sane numbers: it lies within the address space, its
// file part is no larger than its memory part, and offset and address agree
// within a page.
type segment struct {
	at, fileSize, memSize, offset uint64
	flags                         uint32
}

// program is an ELF file's headers, checked.
type program struct {
	dyn       bool // ET_DYN
	entry     uint64
	phoff     uint64
	phnum     int
	segments  []segment // ascending, without overlap
	low, high uint64    // page-aligned extent of the segments
	align     uint64    // largest p_align
	interpAt  uint64    // PT_INTERP in the file
	interpLen uint64
	stackExec bool
}

// Limits of what we look at: Linux reads at most 64 KiB of program headers.
const (
	ehdrSize  = 64
	phdrSize  = 56
	maxPhdrs  = 65536 / phdrSize
	interpMax = 4096 // PATH_MAX
)

// elfHeader is the part of an ELF header that says where the rest is.
type elfHeader struct {
	typ          elf.Type
	entry, phoff uint64
	phnum        int
}

// parseHeader checks the first bytes of a file. Whatever is not an x86-64
// executable is ENOEXEC (fs/binfmt_elf.c, load_elf_binary).
func parseHeader(b []byte) (h elfHeader, err error) {
	le := binary.LittleEndian
	if len(b) < ehdrSize || string(b[:4]) != elf.ELFMAG {
		return h, unix.ENOEXEC
	}
	if elf.Class(b[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(b[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return h, unix.ENOEXEC
	}
	h = elfHeader{elf.Type(le.Uint16(b[16:])), le.Uint64(b[24:]), le.Uint64(b[32:]), int(le.Uint16(b[56:]))}
	switch {
	case h.typ != elf.ET_EXEC && h.typ != elf.ET_DYN,
		elf.Machine(le.Uint16(b[18:])) != elf.EM_X86_64,
		le.Uint16(b[54:]) != phdrSize,
		h.phnum == 0 || h.phnum > maxPhdrs,
		h.phoff > 1<<62:
		return h, unix.ENOEXEC
	}
	return h, nil
}

// parseELF checks the program headers that ph holds, of a file of size bytes.
func parseELF(h elfHeader, ph []byte, size uint64) (*program, error) {
	le := binary.LittleEndian
	if len(ph) < h.phnum*phdrSize {
		return nil, unix.ENOEXEC
	}
	p := &program{dyn: h.typ == elf.ET_DYN, entry: h.entry, phoff: h.phoff, phnum: h.phnum, align: platform.PageSize}
	for i := range h.phnum {
		b := ph[i*phdrSize:]
		s := segment{
			flags: le.Uint32(b[4:]), offset: le.Uint64(b[8:]), at: le.Uint64(b[16:]),
			fileSize: le.Uint64(b[32:]), memSize: le.Uint64(b[40:]),
		}
		align := le.Uint64(b[48:])
		switch elf.ProgType(le.Uint32(b)) {
		case elf.PT_LOAD:
			if err := p.addSegment(s, align, size); err != nil {
				return nil, err
			}
		case elf.PT_INTERP:
			if p.interpLen != 0 {
				continue
			}
			if s.fileSize < 2 || s.fileSize > interpMax || s.offset > size || s.fileSize > size-s.offset {
				return nil, unix.ENOEXEC
			}
			p.interpAt, p.interpLen = s.offset, s.fileSize
		case elf.PT_GNU_STACK:
			p.stackExec = s.flags&uint32(elf.PF_X) != 0
		}
	}
	if len(p.segments) == 0 {
		return nil, unix.ENOEXEC
	}
	return p, nil
}

func (p *program) addSegment(s segment, align, size uint64) error {
	const page = platform.PageSize
	limit := uint64(platform.TaskSize)
	switch {
	case s.memSize == 0 && s.fileSize == 0:
		return nil
	case s.fileSize > s.memSize, s.at > limit, s.memSize > limit-s.at,
		s.at%page != s.offset%page, s.offset > 1<<62:
		return unix.EINVAL
	case s.fileSize > 0 && (s.offset > size || s.fileSize > size-s.offset):
		return unix.ENOEXEC // truncated
	}
	low, high := s.at&^(page-1), (s.at+s.memSize+page-1)&^(page-1)
	if n := len(p.segments); n == 0 {
		p.low = low
	} else if low < p.high {
		return unix.EINVAL // out of order, or two on one page
	}
	p.high = high
	if align&(align-1) == 0 && align > p.align && align <= 1<<30 {
		p.align = align
	}
	p.segments = append(p.segments, s)
	return nil
}

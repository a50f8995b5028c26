package loader

import (
	"crypto/rand"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

const page = memory.PageSize

// load is one program on its way into an address space.
type load struct {
	p      Program
	mm     *memory.Space
	execfn string
	creds  *vfs.Creds
	secure bool
	start  kernel.Start
}

// read parses an ELF file.
func read(f file) (*program, error) {
	head, err := f.head()
	if err != nil {
		return nil, err
	}
	h, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	ph := make([]byte, h.phnum*phdrSize)
	if n, err := f.readAt(ph, int64(h.phoff)); err != nil {
		return nil, err
	} else if n < len(ph) {
		return nil, unix.ENOEXEC
	}
	return parseELF(h, ph, uint64(f.attr.Size))
}

const aslrBits = 28 // pages; mmap_rnd_bits

func random(pages uint) uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:]) % (1 << pages) * page
}

const (
	addrNoRandomize = 0x0040000      // personality(2)
	pieBase         = 0x555555554000 // ELF_ET_DYN_BASE
)

func (l *load) elf(f file) (kernel.Image, error) {
	prog, err := read(f)
	if err != nil {
		return kernel.Image{}, err
	}
	var interp *program
	var interpFile file
	if prog.interpLen != 0 {
		if interpFile, interp, err = l.interpreter(f, prog); err != nil {
			return kernel.Image{}, err
		}
		defer interpFile.close()
	}
	bias := uint64(0)
	randomize := l.p.Personality&addrNoRandomize == 0
	if prog.dyn {
		base := uint64(pieBase)
		if randomize {
			base += random(aslrBits)
		}
		bias = base&^(prog.align-1) - prog.low
	}
	if err := l.segments(f, prog, bias); err != nil {
		return kernel.Image{}, err
	}
	brk := prog.high + bias
	if randomize {
		brk += random(13) // arch_randomize_brk: 32 MiB
	}
	l.mm.SetBrk(memory.Addr(brk))
	entry := prog.entry + bias
	interpBase := uint64(0)
	if interp != nil {
		if interpBase, err = l.anywhere(interpFile, interp); err != nil {
			return kernel.Image{}, err
		}
		entry = interp.entry + interpBase
	}
	if entry >= uint64(platform.TaskSize) {
		return kernel.Image{}, unix.EINVAL
	}
	vdso, err := l.vdso()
	if err != nil {
		return kernel.Image{}, err
	}
	sp, err := l.stack(prog, auxv{
		phdr: l.phdrAddr(prog) + bias, phnum: prog.phnum, base: interpBase, entry: prog.entry + bias, vdso: vdso,
	})
	if err != nil {
		return kernel.Image{}, err
	}
	return kernel.Image{MM: l.mm, Entry: entry, Stack: sp, Start: &l.start}, nil
}

// phdrAddr is where the program headers lie once loaded.
func (l *load) phdrAddr(p *program) uint64 {
	for _, s := range p.segments {
		if p.phoff >= s.offset && p.phoff-s.offset < s.fileSize {
			return p.phoff - s.offset + s.at
		}
	}
	return 0
}

// interpreter opens and parses the dynamic linker that f names.
func (l *load) interpreter(f file, p *program) (file, *program, error) {
	b := make([]byte, p.interpLen)
	if n, err := f.readAt(b, int64(p.interpAt)); err != nil || n < len(b) {
		return file{}, nil, unix.ENOEXEC
	}
	if b[len(b)-1] != 0 {
		return file{}, nil, unix.ENOEXEC
	}
	name := string(b[:len(b)-1])
	for i := range name {
		if name[i] == 0 {
			name = name[:i]
			break
		}
	}
	i, err := open(l.p, name, false, false)
	if err != nil {
		return file{}, nil, err
	}
	prog, err := read(i)
	if err == unix.ENOEXEC || err == nil && prog.interpLen != 0 && !prog.dyn {
		err = unix.ELIBBAD
	}
	if err != nil {
		i.close()
		return file{}, nil, err
	}
	return i, prog, nil
}

// anywhere loads an ET_DYN program where there is room, and returns its bias.
func (l *load) anywhere(f file, p *program) (uint64, error) {
	if !p.dyn {
		return 0, l.segments(f, p, 0)
	}
	at, err := l.mm.Map(memory.MapRequest{Length: p.high - p.low})
	if err != nil {
		return 0, err
	}
	if err := l.mm.Unmap(at, p.high-p.low); err != nil {
		return 0, err
	}
	bias := uint64(at) - p.low
	return bias, l.segments(f, p, bias)
}

// segments maps a program's file parts and its zeroed ends.
func (l *load) segments(f file, p *program, bias uint64) error {
	for _, s := range p.segments {
		if err := l.segment(f, s, bias); err != nil {
			return err
		}
	}
	return nil
}

func (l *load) segment(f file, s segment, bias uint64) error {
	at := s.at + bias
	access := accessOf(s.flags)
	low := at &^ (page - 1)
	fileEnd := at + s.fileSize
	mapEnd := (fileEnd + page - 1) &^ (page - 1)
	end := (at + s.memSize + page - 1) &^ (page - 1)
	if s.fileSize == 0 {
		mapEnd = low
	}
	if mapEnd > low {
		r := memory.MapRequest{
			At: memory.Addr(low), Length: mapEnd - low, Fixed: true, NoReplace: true,
			Prot: access, MaxProt: platform.Read | platform.Write | platform.Exec, Offset: s.offset &^ (page - 1),
		}
		if err := MapFile(l.p.Context, f.d, &r); err != nil {
			return err
		}
		if _, err := l.mm.Map(r); err != nil {
			return err
		}
	}
	if end > mapEnd {
		_, err := l.mm.Map(memory.MapRequest{
			At: memory.Addr(mapEnd), Length: end - mapEnd, Fixed: true, NoReplace: true,
			Prot: access, MaxProt: platform.Read | platform.Write | platform.Exec,
		})
		if err != nil {
			return err
		}
	}
	// What the file has behind the segment's end is not the program's.
	if s.memSize > s.fileSize && s.fileSize > 0 && mapEnd > fileEnd && access&platform.Write != 0 {
		if _, err := l.mm.Write(memory.Addr(fileEnd), make([]byte, mapEnd-fileEnd)); err != nil {
			return err
		}
	}
	return nil
}

// MapFile completes r for a mapping of d: its object and what /proc/PID/maps
// says of it.
func MapFile(ctx vfs.Context, d *vfs.Description, r *memory.MapRequest) error {
	m, err := d.Mappable(ctx, *r)
	if err != nil {
		return err
	}
	r.Object = m
	if attr, err := d.Stat(ctx); err == nil {
		r.Dev, r.Ino = attr.Dev, attr.Ino
	}
	if p := d.Path(); p.Ok() {
		r.Origin = vfs.Mapped{Path: p, Readable: d.Readable(), Writable: d.Writable()}
	}
	return nil
}

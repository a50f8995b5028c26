package boot

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"

	"bulkhead/virtio"
)

// Load writes the kernel and all that it is told into mem, which is zero.
func (i *Image) Load(mem Memory, p Params) (Entry, error) {
	l := &loader{image: i, mem: mem, Params: p}
	if err := l.load(); err != nil {
		return Entry{}, fmt.Errorf("boot: load %s: %w", i.file.Name(), err)
	}
	return l.entry, nil
}

// loader is one Load under way.
type loader struct {
	Params
	image *Image
	mem   Memory

	kernel *kernel
	notes  [][]byte
	entry  Entry
}

func (l *loader) load() error {
	// The protocol is known once the kernel's notes are there, and where the
	// initrd may lie once the protocol is.
	for _, step := range []func() error{l.checkMap, l.checkSeed, l.loadKernel, l.choose, l.loadInitrd, l.writeCmdline} {
		if err := step(); err != nil {
			return err
		}
	}
	if l.entry.Protocol == PVH {
		return l.writePVH()
	}
	return l.writeLinux64()
}

const mapLimit = 128 // E820_MAX_ENTRIES_ZEROPAGE

func (l *loader) checkMap() error {
	if len(l.Map) == 0 || len(l.Map) > mapLimit {
		return fmt.Errorf("the memory map has %d regions; 1 to %d are possible", len(l.Map), mapLimit)
	}
	var end uint64
	for _, r := range l.Map {
		if r.Start < end || r.Size == 0 || r.Start > ^uint64(0)-r.Size {
			return fmt.Errorf("the memory map's region of %#x bytes at %#x overlaps another, wraps or is empty", r.Size, r.Start)
		}
		end = r.Start + r.Size
	}
	if !l.isRAM(Span{0, ebdaAt}) {
		return errors.New("the memory map has no RAM from 0 to 639 KiB, where the boot tables go")
	}
	return nil
}

const seedLimit = 64 // bytes

func (l *loader) checkSeed() error {
	if len(l.Seed) > seedLimit {
		return fmt.Errorf("a seed of %d bytes; up to %d are possible", len(l.Seed), seedLimit)
	}
	return nil
}

func (l *loader) isRAM(s Span) bool {
	return slices.ContainsFunc(l.Map, func(r Region) bool {
		return r.Kind == RAM && Span{r.Start, r.Start + r.Size}.holds(s)
	})
}

// slice is s in guest memory, which the map says to be RAM.
func (l *loader) slice(s Span) ([]byte, error) { return l.mem.Slice(virtio.Addr(s.Start), s.Size()) }

// write puts b at addr, in the low memory that checkMap has seen.
func (l *loader) write(addr uint64, b []byte) error {
	to, err := l.slice(Span{addr, addr + uint64(len(b))})
	if err == nil {
		copy(to, b)
	}
	return err
}

// vmlinux is the ELF file that a kernel is loaded from.
type vmlinux interface {
	head() ([]byte, error)
	// fill makes p, which is zero, the len(p) bytes from off on. It is called
	// with ascending ranges.
	fill(p []byte, off uint64) error
	finish() error
}

// plain is a vmlinux that is a file of its own.
type plain struct{ *Image }

func (f plain) head() ([]byte, error) {
	b := make([]byte, min(headLen, f.size))
	return b, f.fill(b, 0)
}

// fill reads straight into guest memory.
func (f plain) fill(p []byte, off uint64) error {
	_, err := f.file.ReadAt(p, int64(off))
	return unexpected(err)
}

func (plain) finish() error { return nil }

func (l *loader) loadKernel() error {
	if l.image.wrap == nil {
		return l.loadVMLinux(plain{l.image})
	}
	// The decoders had windows of up to 128 MiB. The machine that comes now
	// lives long and should not keep them.
	defer debug.FreeOSMemory()
	u, err := l.image.wrap.open(l.image.file)
	if err != nil {
		return err
	}
	defer u.close()
	return l.loadVMLinux(u)
}

func (l *loader) loadVMLinux(file vmlinux) error {
	head, err := file.head()
	if err != nil {
		return fmt.Errorf("read its ELF header: %w", err)
	}
	if !bytes.HasPrefix(head, elfMagic) {
		return errors.New("holds something else than an ELF file")
	}
	if l.kernel, err = parseELF(head); err != nil {
		return err
	}
	pieces, err := l.pieces()
	if err != nil {
		return err
	}
	for _, p := range pieces {
		if err := file.fill(p.to, p.off); err != nil {
			return fmt.Errorf("read %d bytes at %#x of the ELF file: %w", len(p.to), p.off, cause(err))
		}
	}
	l.entry.Kernel = l.kernel.span()
	return file.finish()
}

// piece is a part of the file and where it goes.
type piece struct {
	off uint64
	to  []byte
}

// pieces is what is to be read, in the file's order. Notes mostly lie in a
// segment and are then looked at in its copy.
func (l *loader) pieces() ([]piece, error) {
	var all []piece
	for _, s := range l.kernel.segments {
		if !l.isRAM(s.span) {
			return nil, fmt.Errorf("segment %d, %#x up to %#x, lies outside the guest's memory, which may be too small", s.index, s.span.Start, s.span.End)
		}
		to, err := l.slice(s.span)
		if err != nil {
			return nil, fmt.Errorf("segment %d: %w", s.index, err)
		}
		all = append(all, piece{s.off, to[:s.size]})
	}
	for _, n := range l.kernel.notes {
		if n.size > notesLimit {
			continue
		}
		in := slices.IndexFunc(all, func(p piece) bool {
			return p.off <= n.off && n.off+n.size <= p.off+uint64(len(p.to))
		})
		if in >= 0 {
			at := n.off - all[in].off
			l.notes = append(l.notes, all[in].to[at:at+n.size])
			continue
		}
		to := make([]byte, n.size)
		l.notes = append(l.notes, to)
		all = append(all, piece{n.off, to})
	}
	slices.SortFunc(all, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	return all, nil
}

// choose settles the protocol and the entry point.
func (l *loader) choose() error {
	var pvh uint64
	has := false
	for _, n := range l.notes {
		if pvh, has = pvhEntry(n); has {
			break
		}
	}
	if has && (pvh >= top || !l.kernel.enters(pvh)) {
		return fmt.Errorf("its PVH entry point %#x lies in no segment below 4 GiB", pvh)
	}
	switch {
	case has && l.Protocol != Linux64:
		l.entry.Protocol, l.entry.RIP, l.entry.Info = PVH, pvh, startAt
	case l.Protocol == PVH:
		return errors.New("has no PVH entry point (CONFIG_PVH)")
	case l.entry.Kernel.End > top:
		return errors.New("lies above 4 GiB, where no page tables are at its start")
	default:
		l.entry.Protocol, l.entry.RIP, l.entry.Info = Linux64, l.kernel.entry, paramsAt
	}
	return nil
}

func (l *loader) writeCmdline() error {
	limit := cmdlineNo - 1
	if w := l.image.wrap; w != nil && w.cmdlineMax != 0 {
		limit = min(limit, int(w.cmdlineMax))
	}
	if len(l.Cmdline) > limit {
		return fmt.Errorf("the command line has %d bytes; this kernel takes %d", len(l.Cmdline), limit)
	}
	if strings.ContainsRune(l.Cmdline, 0) {
		return errors.New("the command line has a zero byte in it")
	}
	return l.write(cmdlineAt, []byte(l.Cmdline))
}

const pageSize = 4096

// loadInitrd joins the parts as high as they may lie, so that the kernel has
// its low memory in one piece.
func (l *loader) loadInitrd() error {
	var size uint64
	for _, p := range l.Initrd {
		if p.Size < 0 || uint64(p.Size) > 1<<62-size {
			return fmt.Errorf("initrd %s: a size of %d bytes cannot be", p.Name, p.Size)
		}
		size = (size+3)&^3 + uint64(p.Size)
	}
	if size == 0 {
		return nil
	}
	s, err := l.place(size)
	if err != nil {
		return err
	}
	to, err := l.slice(s)
	if err != nil {
		return fmt.Errorf("initrd: %w", err)
	}
	at := uint64(0)
	for _, p := range l.Initrd {
		at = (at + 3) &^ 3
		if n, err := p.ReadAt(to[at:at+uint64(p.Size)], 0); err != nil && (err != io.EOF || int64(n) < p.Size) {
			return fmt.Errorf("read initrd %s: %w", p.Name, unexpected(err))
		}
		at += uint64(p.Size)
	}
	l.entry.Initrd = s
	return nil
}

// place finds room for an initrd: below 4 GiB if there is any, since older
// kernels and PVH know no other, or else above.
func (l *loader) place(size uint64) (Span, error) {
	limit, above := l.initrdLimit()
	s, room := l.highest(size, limit)
	if s.End == 0 && above {
		var more uint64
		s, more = l.highest(size, ^uint64(0))
		room = max(room, more)
	}
	if s.End == 0 {
		return s, fmt.Errorf("the initrd has %d MiB, and the largest room for it in the guest's memory %d MiB; give the guest more memory",
			(size+1<<20-1)>>20, room>>20)
	}
	return s, nil
}

// initrdLimit is how high an initrd may end, and whether it may lie above 4 GiB.
// A bzImage may name a limit, always 2 GiB for x86-64. That is about boot
// loaders, and a kernel that allows 4 GiB and more does not mean it.
func (l *loader) initrdLimit() (uint64, bool) {
	if l.entry.Protocol == PVH {
		return top, false // a kernel keeps 32 bits of it
	}
	w := l.image.wrap
	if w == nil || w.above4G {
		return top, true
	}
	if named := uint64(le.Uint32(w.header[hdrInitrdMax-hdrSetupSects:])); named != 0 {
		return named + 1, false
	}
	return top, false
}

// highest is the highest page-aligned room of size bytes in RAM below limit and
// beside the kernel; without one, End is 0, and room how much the largest has.
func (l *loader) highest(size, limit uint64) (_ Span, room uint64) {
	k := l.entry.Kernel
	for _, r := range slices.Backward(l.Map) {
		if r.Kind != RAM {
			continue
		}
		ram := Span{max(r.Start, kernels), min(r.Start+r.Size, limit)}
		for _, gap := range []Span{{max(ram.Start, k.End), ram.End}, {ram.Start, min(ram.End, k.Start)}} {
			start := (gap.Start + pageSize - 1) &^ (pageSize - 1)
			if start >= gap.End {
				continue
			}
			if size <= gap.End-start {
				at := (gap.End - size) &^ (pageSize - 1)
				return Span{at, at + size}, 0
			}
			room = max(room, gap.End-start)
		}
	}
	return Span{}, room
}

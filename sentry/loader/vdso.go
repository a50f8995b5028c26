package loader

import (
	"debug/elf"
	"encoding/binary"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

// The vDSO is one page of ELF image with the clock functions, behind the page of
// numbers that they read. It is made of vdsoCode when the first program is loaded.

const vdsoCodeAt = 0x800 // where the code lies in the image

// vdsoSymbols are the functions that libcs and language runtimes look up, by
// the label that they start at (vdso(7), x86-64 functions).
var vdsoSymbols = []struct{ name, label string }{
	{"__vdso_clock_gettime", "clock_gettime"},
	{"__vdso_gettimeofday", "gettimeofday"},
	{"__vdso_time", "time"},
	{"__vdso_getcpu", "getcpu"},
	{"__vdso_clock_getres", "clock_getres"},
}

// vdsoImage is the page: ELF header, program headers, dynamic section with
// symbols in version LINUX_2.6, and the code.
func vdsoImage() []byte {
	le := binary.LittleEndian
	img := make([]byte, page)
	labels := map[string]uint64{}
	at := uint64(vdsoCodeAt)
	for _, row := range vdsoCode {
		if row.label != "" {
			labels[row.label] = at
		}
		at += uint64(copy(img[at:], row.bytes))
	}

	strtab := []byte{0}
	text := func(s string) uint32 {
		at := len(strtab)
		strtab = append(append(strtab, s...), 0)
		return uint32(at)
	}
	soname, version := text("linux-vdso.so.1"), text("LINUX_2.6")
	var symtab []byte
	symtab = append(symtab, make([]byte, 24)...) // the undefined symbol
	versym := []byte{0, 0}
	for _, s := range vdsoSymbols {
		symtab = le.AppendUint32(symtab, text(s.name))
		symtab = append(symtab, byte(elf.STB_GLOBAL)<<4|byte(elf.STT_FUNC), 0)
		symtab = le.AppendUint16(symtab, 1) // any section but undefined
		symtab = le.AppendUint64(symtab, labels[s.label])
		symtab = le.AppendUint64(symtab, 16)
		versym = le.AppendUint16(versym, 2)
	}
	n := uint32(len(vdsoSymbols) + 1)
	hash := le.AppendUint32(nil, 1) // one bucket: a chain of all
	hash = le.AppendUint32(hash, n)
	hash = le.AppendUint32(hash, 1)
	hash = le.AppendUint32(hash, 0)
	for i := uint32(1); i < n; i++ {
		hash = le.AppendUint32(hash, (i+1)%n)
	}
	verdef := func(flags, index uint16, name uint32, s string, last bool) []byte {
		var b []byte
		for _, v := range []uint16{1, flags, index, 1} {
			b = le.AppendUint16(b, v)
		}
		next := uint32(28)
		if last {
			next = 0
		}
		for _, v := range []uint32{elfHash(s), 20, next, name, 0} {
			b = le.AppendUint32(b, v)
		}
		return b
	}
	verdefs := append(verdef(1, 1, soname, "linux-vdso.so.1", false), verdef(0, 2, version, "LINUX_2.6", true)...)

	// Everything before the code, one after the other.
	pos := uint64(ehdrSize + 2*phdrSize)
	put := func(b []byte) uint64 {
		pos = (pos + 7) &^ 7
		at := pos
		pos += uint64(copy(img[at:vdsoCodeAt], b))
		return at
	}
	hashAt, symAt, strAt, verAt, defAt := put(hash), put(symtab), put(strtab), put(versym), put(verdefs)
	var dyn []byte
	for _, d := range [][2]uint64{
		{uint64(elf.DT_SONAME), uint64(soname)}, {uint64(elf.DT_HASH), hashAt}, {uint64(elf.DT_STRTAB), strAt},
		{uint64(elf.DT_SYMTAB), symAt}, {uint64(elf.DT_STRSZ), uint64(len(strtab))}, {uint64(elf.DT_SYMENT), 24},
		{uint64(elf.DT_VERSYM), verAt}, {uint64(elf.DT_VERDEF), defAt}, {uint64(elf.DT_VERDEFNUM), 2}, {0, 0},
	} {
		dyn = le.AppendUint64(le.AppendUint64(dyn, d[0]), d[1])
	}
	dynAt := put(dyn)

	copy(img, elf.ELFMAG)
	copy(img[4:], []byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)})
	le.PutUint16(img[16:], uint16(elf.ET_DYN))
	le.PutUint16(img[18:], uint16(elf.EM_X86_64))
	le.PutUint32(img[20:], 1)
	le.PutUint64(img[32:], ehdrSize)
	le.PutUint16(img[52:], ehdrSize)
	le.PutUint16(img[54:], phdrSize)
	le.PutUint16(img[56:], 2)
	header := func(i int, typ elf.ProgType, flags elf.ProgFlag, at, size, align uint64) {
		b := img[ehdrSize+i*phdrSize:]
		le.PutUint32(b, uint32(typ))
		le.PutUint32(b[4:], uint32(flags))
		for j, v := range []uint64{at, at, at, size, size, align} {
			le.PutUint64(b[8+8*j:], v)
		}
	}
	header(0, elf.PT_LOAD, elf.PF_R|elf.PF_X, 0, page, page)
	header(1, elf.PT_DYNAMIC, elf.PF_R, dynAt, uint64(len(dyn)), 8)
	return img
}

// elfHash is the System V hash of a symbol's name.
func elfHash(s string) (h uint32) {
	for i := range len(s) {
		h = h<<4 + uint32(s[i])
		if g := h & 0xf0000000; g != 0 {
			h ^= g>>24 ^ g
		}
	}
	return h
}

// VDSO is the image, to be mapped again where a restored program has it.
func VDSO(k *kernel.Kernel) (memory.Mappable, error) { return k.VDSO(vdsoImage) }

// vdso maps both pages and returns the image's address.
func (l *load) vdso() (uint64, error) {
	k := l.p.Kernel
	code, err := k.VDSO(vdsoImage)
	if err != nil {
		return 0, err
	}
	var ns *kernel.TimeNamespace
	if t, ok := l.p.Context.(*kernel.Task); ok && t.Namespaces() != nil {
		ns = t.Namespaces().TimeForChildren // which exec enters
	}
	base, err := l.mm.Map(memory.MapRequest{
		Length: 2 * page, Object: k.VVAR(ns), Shared: true, Prot: platform.Read, MaxProt: platform.Read, Name: "[vvar]",
	})
	if err != nil {
		return 0, err
	}
	at := base + page
	_, err = l.mm.Map(memory.MapRequest{
		At: at, Fixed: true, Length: page, Object: code, Prot: platform.Read | platform.Exec,
		MaxProt: platform.Read | platform.Write | platform.Exec, Name: "[vdso]",
	})
	return uint64(at), err
}

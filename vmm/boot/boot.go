// Package boot writes a kernel, its initrd and the tables of a boot protocol
// into a guest's memory, and says with which registers to enter it. There are
// two protocols: PVH (Xen's docs/misc/pvh.pandoc: 32-bit, named by an ELF note)
// and 64-bit Linux (Documentation/arch/x86/boot.rst). A bzImage is unpacked
// here, on the host, and the vmlinux in it entered as any other ELF kernel: the
// guest neither decompresses nor relocates.
//
// The package knows guest memory and kvm's register types, and nothing of a
// running machine. An image is input like any other: no number in it is used
// unchecked.
package boot

import (
	"io"

	"bulkhead/virtio"
)

// Memory is the guest's RAM (virtio.Memory), all zero: Load leaves alone what is
// to be zero (a kernel's .bss, the unused part of a table), so that nothing is
// allocated for it. A new memfd is zero; a machine that boots again takes
// a new one.
type Memory interface {
	Slice(addr virtio.Addr, n uint64) ([]byte, error)
}

// Where things lie in low memory. A kernel keeps this memory for itself until
// it has read them: Linux reserves all below 1 MiB at its start.
const (
	gdtAt     = 0x500   // Linux64
	startAt   = 0x6000  // PVH: hvm_start_info, then the list of modules
	paramsAt  = 0x7000  // Linux64: boot_params, a page. PVH: the memory map
	seedAt    = 0x8000  // Linux64: the seed
	tablesAt  = 0x9000  // Linux64: page tables, six pages
	cmdlineAt = 0x20000 // both
	cmdlineNo = 2048    // bytes with the final zero: COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h

	ebdaAt  = 0x9fc00
	kernels = 1 << 20 // the lowest address of a segment
	top     = 1 << 32 // of what a 32-bit address reaches

	// Tables is where a guest looks for an RSDP, and TablesLen how many bytes
	// there are; Map reserves them.
	Tables    = 0xe0000
	TablesLen = 1<<20 - Tables
)

// Kind is what a Region holds. The numbers are E820's; PVH has the same.
type Kind uint32

const (
	RAM      Kind = 1
	Reserved Kind = 2
)

// Region is a row of the memory map that the guest is told.
type Region struct {
	Start, Size uint64 // bytes
	Kind        Kind
}

// Map is the memory map of a machine with below bytes of RAM from address 0 and
// above bytes from 4 GiB: RAM, less what PCs keep between 639 KiB and 1 MiB.
func Map(below, above uint64) []Region {
	m := []Region{{0, ebdaAt, RAM}, {ebdaAt, 1<<20 - ebdaAt, Reserved}}
	if below > 1<<20 {
		m = append(m, Region{1 << 20, below - 1<<20, RAM})
	}
	if above > 0 {
		m = append(m, Region{top, above, RAM})
	}
	return m
}

// Part is a piece of an initrd: a cpio archive, compressed or not.
type Part struct {
	io.ReaderAt
	Size int64  // bytes
	Name string // for errors
}

// Params is what a kernel is told.
type Params struct {
	Cmdline  string
	Initrd   []Part   // joined; each begins at a multiple of four bytes
	Map      []Region // ascending and without overlap, as Map gives it
	RSDP     uint64   // address, 0: none
	Protocol Protocol // 0: PVH where the kernel has it, else Linux64
	// Seed is for the kernel's random numbers, up to 64 bytes. PVH has no place for one:
	// there the guest has the processor's and the entropy device's.
	Seed []byte
}

// Protocol is a way to enter a kernel.
type Protocol int

const (
	PVH     Protocol = 1 + iota // 32-bit, no paging, where the note XEN_ELFNOTE_PHYS32_ENTRY says
	Linux64                     // 64-bit, identity-mapped, at the ELF file's entry point
)

func (p Protocol) String() string { return [...]string{"any protocol", "PVH", "64-bit Linux"}[p] }

// Entry is where and how the first vCPU begins.
type Entry struct {
	Protocol Protocol
	RIP      uint64
	Info     uint64 // address of hvm_start_info (PVH) or boot_params (Linux64)

	Kernel, Initrd Span // where they lie; the kernel with its .bss
}

// Span is the addresses from Start up to and without End.
type Span struct{ Start, End uint64 }

// Size is how many bytes s has.
func (s Span) Size() uint64 { return s.End - s.Start }

func (s Span) overlaps(o Span) bool { return s.Start < o.End && o.Start < s.End }
func (s Span) holds(o Span) bool    { return s.Start <= o.Start && o.End <= s.End }

// Package boot writes a kernel, its initrd and the tables of a boot protocol
// into a guest's memory, and says with which registers to enter it. Two
// protocols: PVH (Xen's docs/misc/pvh.pandoc, 32-bit entry, by an ELF note) and
// 64-bit Linux (Documentation/arch/x86/boot.rst). A bzImage is unpacked here, on
// the host, and its vmlinux entered as any other ELF kernel: the guest neither
// decompresses nor relocates.
//
// The package knows guest memory and kvm's register types and nothing of a
// running machine. A kernel image is input like any other: every number in it
// is checked before it is used.
package boot

import (
	"io"

	"bulkhead/virtio"
)

// Memory is the guest's RAM (virtio.Memory). Load writes only what is not
// zero: RAM that Load has not written must read zero, as a new memfd does, for
// a kernel's .bss and the unused parts of the tables rely on it. A machine that
// boots again takes new memory.
type Memory interface {
	Slice(addr virtio.Addr, n uint64) ([]byte, error)
}

// Kind is what a Region holds; the numbers are E820's, and PVH's.
type Kind uint32

const (
	RAM      Kind = 1
	Reserved Kind = 2
	ACPI     Kind = 3 // tables that a guest may reclaim
)

// Region is a row of the memory map that the guest is told.
type Region struct {
	Start, Size uint64 // bytes
	Kind        Kind
}

// Where the low memory that Load uses lies. The rest of it, from lowEnd up to
// Map's reserved area, is free for the machine.
const (
	Top4G   = 1 << 32
	Low     = 640 << 10 // end of conventional memory, less the EBDA: see Map
	OneMiB  = 1 << 20
	BIOS    = 0xe0000 // where a guest looks for an RSDP, up to OneMiB; reserved by Map
	BIOSLen = OneMiB - BIOS
)

// Map is the memory map of a machine with below bytes of RAM from 0 and above
// bytes from 4 GiB. The last KiB of conventional memory (EBDA) and what lies
// between 640 KiB and 1 MiB are reserved; the latter holds the ACPI tables.
func Map(below, above uint64) []Region {
	m := []Region{
		{0, Low - 1024, RAM},
		{Low - 1024, OneMiB - (Low - 1024), Reserved},
		{OneMiB, below - OneMiB, RAM},
	}
	if above > 0 {
		m = append(m, Region{Top4G, above, RAM})
	}
	return m
}

// Part is a piece of an initrd: a cpio archive, compressed or not.
type Part struct {
	Name string // for errors
	io.ReaderAt
	Size int64 // bytes
}

// Params is what a kernel is told.
type Params struct {
	Cmdline  string
	Initrd   []Part   // joined, each from a multiple of 4 bytes
	Map      []Region // see Map; ascending, without overlap
	RSDP     uint64   // where acpi.Write put it; 0: none
	Protocol Protocol // 0: PVH if the kernel has it, or else Linux64
}

// Protocol is how a kernel is entered.
type Protocol int

const (
	PVH     Protocol = 1 + iota // 32-bit, no paging, by the note XEN_ELFNOTE_PHYS32_ENTRY
	Linux64                     // 64-bit, identity-mapped, at the ELF's entry point
)

package boot

import "fmt"

// Offsets in struct boot_params beside the setup header
// (arch/x86/include/uapi/asm/bootparam.h).
const (
	bpRSDP        = 0x070 // 8
	bpImageHigh   = 0x0c0 // 4: upper half of hdrImage
	bpSizeHigh    = 0x0c4 // 4: upper half of hdrImageSize
	bpE820Entries = 0x1e8 // byte
	bpE820        = 0x2d0
	e820Size      = 20

	loaderUndefined = 0xff
	// headerVersion is what an ELF kernel's header says: 2.12 has all that
	// writeLinux64 fills in.
	headerVersion = 0x20c
)

func (l *loader) writeLinux64() error {
	bp := make([]byte, bpE820+len(l.Map)*e820Size)
	if w := l.image.wrap; w != nil {
		copy(bp[hdrSetupSects:], w.header)
	} else {
		le.PutUint16(bp[hdrBootFlag:], bootFlag)
		copy(bp[hdrMagic:], headerMagic)
		le.PutUint16(bp[hdrVersion:], headerVersion)
		le.PutUint32(bp[hdrAlignment:], 2<<20)
	}
	bp[hdrLoader] = loaderUndefined
	le.PutUint32(bp[hdrCmdline:], cmdlineAt)
	le.PutUint32(bp[hdrCmdlineSize:], uint32(len(l.Cmdline)))
	le.PutUint64(bp[hdrSetupData:], l.setupData())

	image, size := l.entry.Initrd.Start, l.entry.Initrd.Size()
	le.PutUint32(bp[hdrImage:], uint32(image))
	le.PutUint32(bp[bpImageHigh:], uint32(image>>32))
	le.PutUint32(bp[hdrImageSize:], uint32(size))
	le.PutUint32(bp[bpSizeHigh:], uint32(size>>32))

	le.PutUint64(bp[bpRSDP:], l.RSDP)
	bp[bpE820Entries] = byte(len(l.Map))
	for i, r := range l.Map {
		row := bp[bpE820+i*e820Size:]
		le.PutUint64(row, r.Start)
		le.PutUint64(row[8:], r.Size)
		le.PutUint32(row[16:], uint32(r.Kind))
	}
	if err := l.write(paramsAt, bp); err != nil {
		return fmt.Errorf("write boot_params: %w", err)
	}
	if err := l.writeSeed(); err != nil {
		return fmt.Errorf("write the seed: %w", err)
	}
	return l.writeTables()
}

// setupSeed is SETUP_RNG_SEED, known since Linux 6.0; older ones pass over it.
const setupSeed = 9

// setupData is the address of the list of struct setup_data, 0 for none.
func (l *loader) setupData() uint64 {
	if len(l.Seed) == 0 {
		return 0
	}
	return seedAt
}

// writeSeed writes the list's one item. The kernel clears it once it has it.
func (l *loader) writeSeed() error {
	if len(l.Seed) == 0 {
		return nil
	}
	b := le.AppendUint64(nil, 0) // no next one
	b = le.AppendUint32(b, setupSeed)
	b = le.AppendUint32(b, uint32(len(l.Seed)))
	return l.write(seedAt, append(b, l.Seed...))
}

// Bits of a page table's entry.
const present, writable, large = 1 << 0, 1 << 1, 1 << 7

// writeTables writes the GDT and page tables that map the first 4 GiB to
// themselves: a table of level 4, one of level 3, and four of 2 MiB pages.
func (l *loader) writeTables() error {
	const tables = 4
	t := make([]byte, 0, (2+tables)*pageSize)
	t = le.AppendUint64(t, tablesAt+pageSize|present|writable)
	t = t[:pageSize]
	for i := range uint64(tables) {
		t = le.AppendUint64(t, tablesAt+(2+i)*pageSize|present|writable)
	}
	t = t[:2*pageSize]
	for i := range uint64(tables * 512) {
		t = le.AppendUint64(t, i<<21|present|writable|large)
	}
	if err := l.write(tablesAt, t); err != nil {
		return fmt.Errorf("write page tables: %w", err)
	}
	var g []byte
	for _, d := range gdt {
		g = le.AppendUint64(g, d)
	}
	return l.write(gdtAt, g)
}

package acpi

import "encoding/binary"

var le = binary.LittleEndian

const (
	align      = 16 // of RSDP (§5.2.5.1), and of the others for tidiness
	headerSize = 36 // §5.2.6

	oemID      = "BLKHD "
	oemTable   = "BULKHEAD"
	creator    = "BLKH"
	oemVersion = 1
)

// tables is all of them, as they lie from address at on, the RSDP first.
func (c *Config) tables(at uint64) []byte {
	b := make([]byte, rsdpSize)
	put := func(table []byte) uint64 {
		for len(b)%align != 0 {
			b = append(b, 0)
		}
		addr := at + uint64(len(b))
		b = append(b, table...)
		return addr
	}
	dsdt := put(c.dsdt())
	fadt := put(c.fadt(dsdt))
	madt := put(c.madt())
	copy(b, rsdp(put(xsdt(fadt, madt))))
	return b
}

// table is body behind a header with its length and checksum.
func table(signature string, revision byte, body []byte) []byte {
	b := append(make([]byte, 0, headerSize+len(body)), signature...)
	b = le.AppendUint32(b, uint32(headerSize+len(body)))
	b = append(b, revision, 0) // checksum
	b = append(b, oemID+oemTable...)
	b = le.AppendUint32(b, oemVersion)
	b = append(b, creator...)
	b = le.AppendUint32(b, oemVersion)
	b = append(b, body...)
	b[9] = checksum(b)
	return b
}

// checksum is what makes the bytes of b, with it in place of a zero, sum up to zero.
func checksum(b []byte) (sum byte) {
	for _, v := range b {
		sum -= v
	}
	return sum
}

const rsdpSize = 36

// rsdp is §5.2.5.3, of revision 2: there is no RSDT.
func rsdp(xsdt uint64) []byte {
	b := append(make([]byte, 0, rsdpSize), "RSD PTR \x00"+oemID+"\x02"...)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, rsdpSize)
	b = le.AppendUint64(b, xsdt)
	b = append(b, 0, 0, 0, 0)
	b[8] = checksum(b[:20]) // as of revision 0
	b[32] = checksum(b)
	return b
}

// xsdt is §5.2.8.
func xsdt(tables ...uint64) []byte {
	var b []byte
	for _, t := range tables {
		b = le.AppendUint64(b, t)
	}
	return table("XSDT", 1, b)
}

// Offsets in the FADT (§5.2.9); what is not here is zero in a hardware-reduced machine.
const (
	fadtDSDT         = 40
	fadtBootArch     = 109
	fadtFlags        = 112
	fadtReset        = 116
	fadtResetValue   = 128
	fadtMinor        = 131
	fadtXDSDT        = 140
	fadtSleepControl = 244
	fadtSleepStatus  = 256
	fadtSize         = 276

	bootLegacy = 1 << 0 // a serial port at a PC's address
	boot8042   = 1 << 1
	bootNoVGA  = 1 << 2
	bootNoRTC  = 1 << 5

	flagWBINVD      = 1 << 0
	flagNoPower     = 1 << 4 // no power button of fixed hardware
	flagNoSleep     = 1 << 5
	flagReset       = 1 << 10
	flagHeadless    = 1 << 12
	flagHWReduced   = 1 << 20
	spaceIO         = 1 // §5.2.3.2
	oneByte         = 1
	fadtRevision    = 6
	fadtMinorNumber = 5
)

func (c *Config) fadt(dsdt uint64) []byte {
	b := make([]byte, fadtSize)
	arch := uint16(bootLegacy | bootNoVGA)
	if c.I8042 {
		arch |= boot8042
	}
	if !c.RTC {
		arch |= bootNoRTC
	}
	if dsdt < 1<<32 {
		le.PutUint32(b[fadtDSDT:], uint32(dsdt))
	}
	le.PutUint64(b[fadtXDSDT:], dsdt)
	le.PutUint16(b[fadtBootArch:], arch)
	le.PutUint32(b[fadtFlags:], flagWBINVD|flagNoPower|flagNoSleep|flagReset|flagHeadless|flagHWReduced)
	port(b[fadtReset:], c.Reset)
	b[fadtResetValue] = c.ResetValue
	b[fadtMinor] = fadtMinorNumber
	port(b[fadtSleepControl:], c.SleepControl)
	port(b[fadtSleepStatus:], c.SleepStatus)
	return table("FACP", fadtRevision, b[headerSize:])
}

// port is a generic address of one byte in I/O space (§5.2.3.2).
func port(b []byte, number uint16) {
	b[0], b[1], b[3] = spaceIO, 8, oneByte
	le.PutUint64(b[4:], uint64(number))
}

// Types of entries in the MADT (§5.2.12).
const (
	madtLocalAPIC   = 0
	madtIOAPIC      = 1
	madtLocalNMI    = 4
	madtLocalX2APIC = 9

	cpuEnabled    = 1 << 0
	everyCPU      = 0xff
	madtRevision  = 6
	firstX2APICID = 255 // an 8-bit id of 255 means all
)

func (c *Config) madt() []byte {
	b := le.AppendUint32(nil, LocalAPIC)
	b = le.AppendUint32(b, 0) // no PIC to be switched off
	for i, id := range c.CPUs {
		if id < firstX2APICID && i < everyCPU {
			b = append(b, madtLocalAPIC, 8, byte(i), byte(id))
			b = le.AppendUint32(b, cpuEnabled)
			continue
		}
		b = append(b, madtLocalX2APIC, 16, 0, 0)
		b = le.AppendUint32(b, id)
		b = le.AppendUint32(b, cpuEnabled)
		b = le.AppendUint32(b, uint32(i))
	}
	b = append(b, madtIOAPIC, 12, 0, 0) // id 0
	b = le.AppendUint32(b, IOAPIC)
	b = le.AppendUint32(b, 0)                         // its first GSI
	b = append(b, madtLocalNMI, 6, everyCPU, 0, 0, 1) // LINT1, as its bus has it
	return table("APIC", madtRevision, b)
}

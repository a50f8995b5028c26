// Package acpi writes a machine's ACPI tables into guest memory: RSDP, XSDT,
// FADT, MADT and a DSDT (ACPI 6.5, §5.2). The machine is hardware-reduced
// (§4.1): no PM timer, no SCI, no legacy PIC or PIT to look for; it sleeps by the
// sleep control register and resets by the reset register.
package acpi

import (
	"errors"

	"bulkhead/virtio"
)

// Config is the machine as its guest is to see it.
type Config struct {
	CPUs   []uint32 // local APIC ids, the boot processor's first
	IOAPIC uint32   // address; GSIs 0–23

	Serial []Serial
	Virtio []MMIO
	RTC    bool // CMOS clock at ports 0x70 and 0x71
	I8042  bool // a keyboard to look for; reset by port 0x64 needs no such thing

	// One-byte ports (§4.8.4.1.1, §4.8.4.1.2, §4.8.4.6). The guest powers off by writing
	// PowerOff to SleepControl and resets by writing ResetValue to Reset.
	// SleepStatus may read 0 always.
	SleepControl, SleepStatus uint16
	Reset                     uint16
	ResetValue                uint8
}

// PowerOff is what a guest writes to SleepControl to end: SLP_EN, and in
// SLP_TYP the 5 that \_S5 names.
const PowerOff = 1<<5 | 5<<2

// Serial is a 16550.
type Serial struct {
	Port uint16
	GSI  uint32 // edge-triggered, active high
}

// MMIO is a virtio-mmio device (LNRO0005).
type MMIO struct {
	Base uint64
	Size uint32
	GSI  uint32 // edge-triggered, active high, as an irqfd wants it
}

// Memory is the guest's RAM (virtio.Memory), zero where the tables go.
type Memory interface {
	Slice(addr virtio.Addr, n uint64) ([]byte, error)
}

// Write puts the tables into the size bytes at address at (boot.BIOS,
// boot.BIOSLen) and returns the RSDP's address.
func Write(mem Memory, at, size uint64, c Config) (rsdp uint64, err error) {
	return 0, errors.New("acpi: not yet")
}

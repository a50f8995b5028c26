// Package acpi writes a machine's ACPI tables into guest memory: RSDP, XSDT,
// FADT, MADT and DSDT. It follows the ACPI Specification 6.5; sections are cited
// as §5.2. The machine is hardware-reduced (§4.1): it has no SCI and no PM timer,
// its guest looks for neither a PIC nor a PIT, it sleeps by the sleep control
// register and resets by the reset register.
//
// The package knows what Config says of the machine and nothing else. Every
// table is written once, before the guest runs, and never read back.
package acpi

import (
	"errors"
	"fmt"

	"bulkhead/virtio"
)

// Where PCs have their interrupt controllers, and how many inputs (GSIs) KVM's IOAPIC has.
const (
	LocalAPIC = 0xfee00000
	IOAPIC    = 0xfec00000
	GSIs      = 24
)

// PowerOff is what the guest writes to Config.SleepControl to power off:
// SLP_EN, and as SLP_TYP the 5 that \_S5 gives (§4.8.3.7).
const PowerOff = 1<<5 | s5<<2

const s5 = 5

// Config is the machine as its guest is to see it.
type Config struct {
	CPUs   []uint32 // ids of the local APICs, the boot processor's first
	Serial []Serial
	Virtio []MMIO
	RTC    bool // a CMOS clock at ports 0x70 and 0x71, without interrupt
	I8042  bool // a keyboard controller worth probing: GSI 1, ports 0x60 and 0x64

	PowerButton uint32     // GSI, an edge when it is pressed; 0: no such button
	Generation  Generation // the zero value: none

	// Ports of one byte. SleepStatus may read zero for ever; reset is ResetValue
	// written to Reset.
	SleepControl, SleepStatus uint16
	Reset                     uint16
	ResetValue                uint8
}

// Serial is a 16550.
type Serial struct {
	Port uint16
	GSI  uint32
}

// Generation is a random number of 16 bytes at Addr, outside of RAM, that differs when the
// machine goes on from a snapshot, which an edge at GSI tells (Microsoft's
// "Virtual Machine Generation ID").
type Generation struct {
	Addr, GSI uint32
}

// MMIO is a virtio-mmio device.
type MMIO struct {
	Base, Size uint32
	GSI        uint32
}

// Memory is the guest's RAM (virtio.Memory).
type Memory interface {
	Slice(addr virtio.Addr, n uint64) ([]byte, error)
}

// Write puts the tables into the size bytes at address at (boot.Tables and
// boot.TablesLen) and returns the RSDP's address, which is at.
func Write(mem Memory, at, size uint64, c Config) (rsdp uint64, err error) {
	if err := c.check(); err != nil {
		return 0, fmt.Errorf("acpi: %w", err)
	}
	if at%align != 0 {
		return 0, fmt.Errorf("acpi: tables at %#x are not aligned to %d bytes", at, align)
	}
	b := c.tables(at)
	if uint64(len(b)) > size {
		return 0, fmt.Errorf("acpi: tables of %d bytes for %d CPUs and %d devices; there is room for %d",
			len(b), len(c.CPUs), len(c.Virtio), size)
	}
	to, err := mem.Slice(virtio.Addr(at), uint64(len(b)))
	if err != nil {
		return 0, fmt.Errorf("acpi: %d bytes of tables at %#x: %w", len(b), at, err)
	}
	copy(to, b)
	return at, nil
}

// deviceLimit is how many names like V001 there are.
const deviceLimit = 1 << 12

func (c *Config) check() error {
	if len(c.CPUs) == 0 {
		return errors.New("a machine without CPUs")
	}
	ids := map[uint32]bool{}
	for _, id := range c.CPUs {
		if ids[id] {
			return fmt.Errorf("two CPUs have the APIC id %d", id)
		}
		ids[id] = true
	}
	if len(c.Virtio) > deviceLimit || len(c.Serial) > deviceLimit {
		return fmt.Errorf("%d virtio and %d serial devices; %d of each are possible", len(c.Virtio), len(c.Serial), deviceLimit)
	}
	return c.checkGSIs()
}

// checkGSIs refuses to share an input: all are edge-triggered, and an edge
// that comes while another device holds the line is lost.
func (c *Config) checkGSIs() error {
	users := map[uint32]string{}
	if c.I8042 {
		users[keyboardGSI] = "the keyboard"
	}
	take := func(gsi uint32, user string) error {
		if gsi >= GSIs {
			return fmt.Errorf("%s has GSI %d; the IOAPIC has %d", user, gsi, GSIs)
		}
		if other, taken := users[gsi]; taken {
			return fmt.Errorf("%s and %s share GSI %d", other, user, gsi)
		}
		users[gsi] = user
		return nil
	}
	if c.PowerButton != 0 {
		if err := take(c.PowerButton, "the power button"); err != nil {
			return err
		}
	}
	if g := c.Generation; g.Addr != 0 {
		if err := take(g.GSI, "the generation"); err != nil {
			return err
		}
		if g.Addr%8 != 0 {
			return fmt.Errorf("the generation at %#x is not aligned to 8 bytes", g.Addr)
		}
	}
	for i, s := range c.Serial {
		if err := take(s.GSI, fmt.Sprintf("serial device %d", i)); err != nil {
			return err
		}
	}
	for i, v := range c.Virtio {
		if err := take(v.GSI, fmt.Sprintf("virtio device %d", i)); err != nil {
			return err
		}
	}
	return nil
}

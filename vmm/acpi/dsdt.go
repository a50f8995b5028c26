package acpi

import "fmt"

const keyboardGSI = 1

// dsdt is the devices that no bus enumerates, and how to power off.
func (c *Config) dsdt() []byte {
	var devices []term
	for i, s := range c.Serial {
		devices = append(devices, device(fmt.Sprintf("U%03X", i),
			name("_HID", eisa("PNP0501")), name("_UID", integer(uint32(i))),
			name("_CRS", resources(ports(s.Port, 8), interrupt(s.GSI)))))
	}
	if c.RTC {
		devices = append(devices, device("RTC_",
			name("_HID", eisa("PNP0B00")),
			name("_CRS", resources(ports(0x70, 2)))))
	}
	if c.I8042 {
		devices = append(devices, device("KBD_",
			name("_HID", eisa("PNP0303")),
			name("_CRS", resources(ports(0x60, 1), ports(0x64, 1), interrupt(keyboardGSI)))))
	}
	for i, v := range c.Virtio {
		// _CCA: DMA is coherent, which Linux asks of a device that no bus speaks for.
		devices = append(devices, device(fmt.Sprintf("V%03X", i),
			name("_HID", text("LNRO0005")), name("_UID", integer(uint32(i))), name("_CCA", integer(1)),
			name("_CRS", resources(memory(v.Base, v.Size), interrupt(v.GSI)))))
	}
	devices = append(devices, c.events()...)
	body := scope(`\_SB_`, devices...)
	return table("DSDT", 2, append(body, name("_S5_", pack(integer(s5), integer(0), integer(0), integer(0)))...))
}

// Notifications of the devices below (§5.6.6).
const (
	pressed = 0x80 // §4.8.3.2.2: a control method power button
	changed = 0x80 // Virtual Machine Generation ID, "Virtual machine generation ID notification"
)

// events is what a hardware-reduced machine has in place of an SCI: a generic
// event device (§5.6.9), and what its interrupts speak for.
func (c *Config) events() []term {
	var devices, lines, cases []term
	add := func(called string, gsi, what uint32, content ...term) {
		devices = append(devices, device(called, content...))
		lines = append(lines, interrupt(gsi))
		cases = append(cases, ifArg(gsi, notify(called, what)))
	}
	if c.PowerButton != 0 {
		add("PWRB", c.PowerButton, pressed, name("_HID", eisa("PNP0C0C")))
	}
	if g := c.Generation; g.Addr != 0 {
		add("VGEN", g.GSI, changed,
			name("_HID", text("BLKH0001")), name("_CID", text("VM_Gen_Counter")), name("_DDN", text("VM_Gen_Counter")),
			name("ADDR", pack(integer(g.Addr), integer(0))))
	}
	if len(devices) == 0 {
		return nil
	}
	return append(devices, device("GED_",
		name("_HID", text("ACPI0013")), name("_UID", integer(0)),
		name("_CRS", resources(lines...)), method("_EVT", cases...)))
}

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
	body := scope(`\_SB_`, devices...)
	return table("DSDT", 2, append(body, name("_S5_", pack(integer(s5), integer(0), integer(0), integer(0)))...))
}

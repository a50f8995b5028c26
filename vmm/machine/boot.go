package machine

import (
	"errors"
	"fmt"
	"os"

	"bulkhead/virtio/mmio"
	"bulkhead/vmm/acpi"
	"bulkhead/vmm/boot"
)

// Kernel is what to boot.
type Kernel struct {
	File     *os.File
	Initrd   []boot.Part
	Cmdline  string
	Protocol boot.Protocol // 0: whichever the kernel has
}

// Boot loads a kernel and prepares the vCPUs to run it.
func (m *Machine) Boot(k Kernel) error {
	m.control.Lock()
	defer m.control.Unlock()
	if m.stage != assembled {
		return errors.New("machine: boot: it has something to run already")
	}
	image, err := boot.Open(k.File)
	if err != nil {
		return err
	}
	rsdp, err := m.writeTables()
	if err != nil {
		return err
	}
	entry, err := image.Load(m.mem, boot.Params{
		Cmdline: k.Cmdline, Initrd: k.Initrd, Map: m.layout, RSDP: rsdp, Protocol: k.Protocol,
	})
	if err != nil {
		return err
	}
	for _, c := range m.cpus {
		if err := m.prepare(c, entry); err != nil {
			return fmt.Errorf("machine: boot: %w", err)
		}
	}
	m.stage = ready
	return nil
}

// writeTables describes the machine to its guest.
func (m *Machine) writeTables() (rsdp uint64, err error) {
	c := acpi.Config{
		Serial: []acpi.Serial{{Port: serialPort, GSI: serialGSI}},
		RTC:    true,

		SleepControl: sleepPort, SleepStatus: sleepPort + 1,
		Reset: resetPort, ResetValue: resetValue,
	}
	for id := range m.cpus {
		c.CPUs = append(c.CPUs, uint32(id))
	}
	for _, s := range m.slots {
		c.Virtio = append(c.Virtio, acpi.MMIO{Base: uint32(s.base), Size: mmio.Size, GSI: s.gsi})
	}
	return acpi.Write(m.mem, boot.Tables, boot.TablesLen, c)
}

package machine

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"bulkhead/virtio/mmio"
	"bulkhead/vmm/acpi"
	"bulkhead/vmm/boot"
	"bulkhead/vmm/ram"
)

// Kernel is what to boot.
type Kernel struct {
	File     *os.File
	Initrd   []boot.Part
	Cmdline  string
	Protocol boot.Protocol // 0: whichever the kernel has
}

// Load puts a kernel into new memory, for Boot of the machine that has it. It
// needs no machine, so that one can be made meanwhile: together they take half
// the time from the program's start to the guest's.
func Load(mem *ram.Memory, k Kernel) (boot.Entry, error) {
	image, err := boot.Open(k.File)
	if err != nil {
		return boot.Entry{}, err
	}
	var below, above uint64
	for _, r := range mem.Regions() {
		if r.At < ram.HoleEnd {
			below = uint64(len(r.Host))
		} else {
			above = uint64(len(r.Host))
		}
	}
	seed := make([]byte, 32)
	rand.Read(seed) // which does not fail
	return image.Load(mem, boot.Params{
		Cmdline: k.Cmdline, Initrd: k.Initrd, Map: boot.Map(below, above), RSDP: boot.Tables, Protocol: k.Protocol, Seed: seed,
	})
}

// Boot describes the machine to the kernel that Load put into its memory, and
// prepares the vCPUs to run it.
func (m *Machine) Boot(e boot.Entry) error {
	m.control.Lock()
	defer m.control.Unlock()
	if m.stage != assembled {
		return errors.New("machine: boot: it has something to run already")
	}
	if err := m.writeTables(); err != nil {
		return err
	}
	if err := m.writeVector(); err != nil {
		return fmt.Errorf("machine: boot: %w", err)
	}
	for _, c := range m.cpus {
		if err := m.prepare(c, e); err != nil {
			return fmt.Errorf("machine: boot: %w", err)
		}
	}
	m.stage = ready
	return nil
}

// writeTables describes the machine where Load told the kernel to look.
func (m *Machine) writeTables() error {
	c := acpi.Config{
		Serial: []acpi.Serial{{Port: serialPort, GSI: serialGSI}},
		RTC:    true,

		PowerButton:  buttonGSI,
		Generation:   acpi.Generation{Addr: generationAt, GSI: generationGSI},
		SleepControl: sleepPort, SleepStatus: sleepPort + 1,
		Reset: resetPort, ResetValue: resetValue,
	}
	for id := range m.cpus {
		c.CPUs = append(c.CPUs, uint32(id))
	}
	for _, s := range m.slots {
		c.Virtio = append(c.Virtio, acpi.MMIO{Base: uint32(s.base), Size: mmio.Size, GSI: s.gsi})
	}
	if err := m.newGeneration(); err != nil {
		return err
	}
	_, err := acpi.Write(m.mem, boot.Tables, generationAt-boot.Tables, c)
	return err
}

// generationAt is the last page of what boot.Map reserves for tables, which ends with
// the reset vector.
const generationAt = boot.Tables + boot.TablesLen - 4096

// newGeneration makes the guest another than any that had its memory before: a
// snapshot may be gone on from more than once, and each has to draw other random numbers.
func (m *Machine) newGeneration() error {
	id, err := m.mem.Slice(generationAt, 16)
	if err != nil {
		return err
	}
	rand.Read(id) // which does not fail
	return nil
}

// PressPower presses the power button: the guest is asked to switch itself off.
// It is no error that nobody in there listens.
func (m *Machine) PressPower() error {
	if m.Ended() {
		return ErrEnded
	}
	return m.edge(buttonGSI)
}

// edge is an interrupt that comes once.
func (m *Machine) edge(gsi uint32) error {
	if err := m.vm.SetIRQ(gsi, true); err != nil {
		return err
	}
	return m.vm.SetIRQ(gsi, false)
}

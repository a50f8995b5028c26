package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"bulkhead/kvm"
	"bulkhead/virtio"
	"bulkhead/virtio/mmio"
	"bulkhead/vmm/i8042"
	"bulkhead/vmm/ram"
	"bulkhead/vmm/rtc"
	"bulkhead/vmm/serial"
	"bulkhead/vmm/snapshot"
)

// state is all of a machine but its memory. A field more or less is a new
// snapshot.Version.
type state struct {
	Taken    time.Time
	Clock    uint64 // ns of kvmclock
	TSCKHz   int
	CPUs     []cpuState
	Chips    records[kvm.IRQChip]
	PIT      record[kvm.PIT]
	UART     serial.State
	Keyboard i8042.State
	CMOS     rtc.State
	Devices  []deviceState
	Next     records[extent] // pages that its copies write to first
}

type deviceState struct {
	Name  string
	State mmio.State
}

// chips are the interrupt controllers that a VM has one of each of.
const chips = 3 // PIC, its slave, IOAPIC

// Save writes the machine to a file at path. It leaves the machine paused: whoever
// lets it go on must give its disks other files, or end it.
func (m *Machine) Save(path string) error {
	return m.save(func(state []byte) error { return snapshot.Write(path, state, m.mem.Bytes(), m.mem.Used()) })
}

func (m *Machine) save(write func(state []byte) error) error {
	m.control.Lock()
	defer m.control.Unlock()
	if err := m.pauseLocked(); err != nil {
		return err
	}
	s, err := m.state()
	if err != nil {
		return fmt.Errorf("machine: save: %w", err)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("machine: save: %w", err)
	}
	if err := write(b); err != nil {
		return fmt.Errorf("machine: save: %w", err)
	}
	return nil
}

func (m *Machine) state() (*state, error) {
	s := &state{Taken: time.Now(), UART: m.uart.Save(), Keyboard: m.keyboard.Save(), CMOS: m.clock.Save()}
	clock, err := m.vm.Clock()
	if err != nil {
		return nil, err
	}
	s.Clock = clock.Clock
	if s.TSCKHz, err = m.cpus[0].TSCKHz(); err != nil {
		return nil, err
	}
	s.CPUs = make([]cpuState, len(m.cpus))
	for i, c := range m.cpus {
		if err := s.CPUs[i].save(c, m.msrs); err != nil {
			return nil, err
		}
	}
	for id := range uint32(chips) {
		chip, err := m.vm.IRQChip(id)
		if err != nil {
			return nil, err
		}
		s.Chips = append(s.Chips, *chip)
	}
	pit, err := m.vm.PIT()
	if err != nil {
		return nil, err
	}
	s.PIT.is = *pit
	for _, d := range m.slots {
		saved, err := d.transport.Save()
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.name, err)
		}
		s.Devices = append(s.Devices, deviceState{d.name, saved})
	}
	return s, nil
}

// Snapshot is a machine in a file.
type Snapshot struct {
	file  *snapshot.File
	state state
}

// OpenSnapshot reads all but the memory.
func OpenSnapshot(path string) (*Snapshot, error) {
	f, err := snapshot.Open(path)
	if err != nil {
		return nil, err
	}
	return parseSnapshot(f)
}

// SnapshotFrom is OpenSnapshot of a file that is open, which it closes if it fails.
func SnapshotFrom(file *os.File) (*Snapshot, error) {
	f, err := snapshot.From(file)
	if err != nil {
		return nil, err
	}
	return parseSnapshot(f)
}

func parseSnapshot(f *snapshot.File) (_ *Snapshot, err error) {
	s := &Snapshot{file: f}
	if s.state, err = parseState(f.State); err != nil {
		f.Close()
		return nil, fmt.Errorf("snapshot %s: %w", f.Name(), err)
	}
	f.State = nil
	if err := checkNext(s.state.Next, f.MemorySize); err != nil {
		f.Close()
		return nil, fmt.Errorf("snapshot %s: %w", f.Name(), err)
	}
	return s, nil
}

func parseState(b []byte) (state, error) {
	var s state
	if err := virtio.ParseState(b, &s); err != nil {
		return s, err
	}
	return s, s.check()
}

// check finds what is wrong with a state for its own sake. What a device keeps is the
// device's to check, and the registers of CPUs are KVM's.
func (s *state) check() error {
	switch {
	case len(s.CPUs) < 1 || len(s.CPUs) > MostCPUs:
		return fmt.Errorf("%d CPUs", len(s.CPUs))
	case len(s.Chips) != chips:
		return fmt.Errorf("%d interrupt controllers", len(s.Chips))
	case s.TSCKHz <= 0:
		return fmt.Errorf("a TSC of %d kHz", s.TSCKHz)
	}
	for i, c := range s.Chips {
		if int(c.ID) != i {
			return fmt.Errorf("interrupt controller %d in the place of %d", c.ID, i)
		}
	}
	for _, check := range []func() error{s.UART.Check, s.Keyboard.Check, s.CMOS.Check} {
		if err := check(); err != nil {
			return err
		}
	}
	for i, c := range s.CPUs {
		if len(c.XSave) != len(kvm.XSave{}) || len(c.LAPIC) != len(kvm.LAPIC{}) {
			return fmt.Errorf("CPU %d: %d bytes of vector state, %d of local APIC", i, len(c.XSave), len(c.LAPIC))
		}
	}
	return nil
}

// Check tells whether a machine with these devices could go on from s.
func (s *Snapshot) Check(devices []Device) error {
	if err := s.state.sameDevices(devices); err != nil {
		return fmt.Errorf("snapshot %s: %w", s.file.Name(), err)
	}
	return nil
}

// CPUs is how many the machine has.
func (s *Snapshot) CPUs() int { return len(s.state.CPUs) }

// MemorySize is how many bytes of memory it has.
func (s *Snapshot) MemorySize() uint64 { return s.file.MemorySize }

// Memory maps the machine's memory, which is read from the file as the guest
// comes to it. The file must stay as it is while the memory is in use; to
// remove it or put another in its place does no harm.
func (s *Snapshot) Memory() (*ram.Memory, error) {
	mem, err := ram.Map(s.file.File, s.file.MemoryAt, s.file.MemorySize)
	if err != nil {
		return nil, err
	}
	for _, e := range s.state.Next {
		if mem.Populate(uint64(e.From)*kvm.PageSize, uint64(e.To)*kvm.PageSize) != nil {
			break // a kernel that cannot: the guest makes them
		}
	}
	return mem, nil
}

// Close closes the file; memory that was mapped stays.
func (s *Snapshot) Close() error { return s.file.Close() }

// Restore puts the machine, assembled with the snapshot's CPUs and memory and the
// same devices, where the other was. Its clocks go on as if it had merely stood
// still, and show the time of day.
func (m *Machine) Restore(s *Snapshot) error {
	// A host's clock that was set back moves no guest's.
	return m.restoreAfter(s, max(0, time.Since(s.state.Taken)))
}

// RestoreAnew restores it as if no time had passed since: it has been up for as long as
// it had been then, and whoever has it restored tells it the time of day.
func (m *Machine) RestoreAnew(s *Snapshot) error { return m.restoreAfter(s, 0) }

func (m *Machine) restoreAfter(s *Snapshot, away time.Duration) error {
	m.control.Lock()
	defer m.control.Unlock()
	if m.stage != assembled {
		return errors.New("machine: restore: it has something to run already")
	}
	if err := m.restore(&s.state, away); err != nil {
		return fmt.Errorf("machine: restore %s: %w", s.file.Name(), err)
	}
	m.stage = ready
	return nil
}

func (m *Machine) restore(s *state, away time.Duration) error {
	if len(s.CPUs) != len(m.cpus) {
		return fmt.Errorf("it has %d CPUs, not %d", len(s.CPUs), len(m.cpus))
	}
	if err := s.sameDevices(m.cfg.Devices); err != nil {
		return err
	}
	if err := m.restoreCPUs(s, away); err != nil {
		return err
	}
	if err := m.restoreChips(s, away); err != nil {
		return err
	}
	for i, d := range m.slots {
		if err := d.transport.Restore(s.Devices[i].State); err != nil {
			return fmt.Errorf("device %s: %w", d.name, err)
		}
	}
	for _, c := range m.cpus {
		// EINVAL: a guest without kvmclock, whose watchdogs nobody can calm.
		_ = c.Paused()
	}
	if err := m.newGeneration(); err != nil {
		return err
	}
	return m.edge(generationGSI)
}

// restoreCPUs moves their TSCs on by the time that the guest was away.
func (m *Machine) restoreCPUs(s *state, away time.Duration) error {
	khz, err := m.cpus[0].TSCKHz()
	if err != nil {
		return err
	}
	ticks := uint64(away.Microseconds()) * uint64(s.TSCKHz) / 1000
	for i, c := range m.cpus {
		if khz != s.TSCKHz {
			if err := c.SetTSCKHz(s.TSCKHz); err != nil {
				return fmt.Errorf("its TSC counts %d kHz, this host's %d, and cannot be scaled: %w", s.TSCKHz, khz, err)
			}
		}
		if err := s.CPUs[i].restore(c, ticks); err != nil {
			return err
		}
	}
	return nil
}

// restoreChips restores all that the CPUs share, and moves kvmclock on.
func (m *Machine) restoreChips(s *state, away time.Duration) error {
	for i := range s.Chips {
		if err := m.vm.SetIRQChip(&s.Chips[i]); err != nil {
			return err
		}
	}
	if err := m.vm.SetPIT(&s.PIT.is); err != nil {
		return err
	}
	m.uart.Restore(s.UART)
	m.keyboard.Restore(s.Keyboard)
	m.clock.Restore(s.CMOS)
	return m.vm.SetClock(kvm.Clock{Clock: s.Clock + uint64(away.Nanoseconds())})
}

func (s *state) sameDevices(devices []Device) error {
	var was, are []string
	for _, d := range s.Devices {
		was = append(was, d.Name)
	}
	for _, d := range devices {
		are = append(are, d.Name)
	}
	if !slices.Equal(was, are) {
		return fmt.Errorf("it has the devices %v, this machine %v; give the same ones in the same order", was, are)
	}
	return nil
}

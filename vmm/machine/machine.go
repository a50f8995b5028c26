// Package machine is a PC of our own on KVM: memory with a hole below 4 GiB,
// interrupt controllers in the kernel, a serial port, a clock, the keyboard
// controller's reset line, and virtio devices in windows of MMIO, all described
// to the guest by ACPI. It boots a kernel, pauses and resumes it, keeps it in a
// snapshot, and says why it ended.
//
// Each vCPU has a goroutine that holds its thread from Start to Close. Lock
// order: Machine.control, then gate.mu; a device's own lock is below both, and is
// never held while gate.mu is taken.
package machine

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"bulkhead/guestinit/config"
	"bulkhead/kvm"
	"bulkhead/virtio"
	"bulkhead/vmm/bus"
	"bulkhead/vmm/i8042"
	"bulkhead/vmm/ram"
	"bulkhead/vmm/rtc"
	"bulkhead/vmm/serial"

	"golang.org/x/sys/unix"
)

// MostCPUs is as many as anyone has tried here; KVM and ACPI would take more.
const MostCPUs = 32

// MostDevices is how many virtio devices there are interrupts for.
var MostDevices = len(deviceGSIs)

// Config is what a machine is made of.
type Config struct {
	CPUs int
	// Memory is the guest's; the machine closes it. New memory is for Boot, a
	// Snapshot's for Restore.
	Memory *ram.Memory
	Mask   []string // CPU features that the guest is not shown, by Linux's names

	Serial  io.Writer // where the first serial port's output goes; nil: nowhere
	Devices []Device

	// Reached is told what guestinit says of its progress, by a vCPU that waits
	// meanwhile; nil: nobody asks.
	Reached func(config.Stage)

	Log *slog.Logger
}

// Device is a virtio device, and what people call it.
type Device struct {
	Name string
	virtio.Device
}

// Machine is a guest and all that it sees.
type Machine struct {
	cfg  Config
	log  *slog.Logger
	vm   *kvm.VM
	mem  *ram.Memory
	cpus []*kvm.VCPU
	msrs []uint32 // that make up a vCPU's state

	ports, mmio bus.Bus
	uart        *serial.UART
	keyboard    *i8042.Controller
	clock       *rtc.Clock
	slots       []*slot // of virtio devices
	counters    counters
	anchor      anchor

	gate    gate
	running sync.WaitGroup
	entered chan struct{} // closed when vCPU 0 is about to run for the first time
	since   time.Time     // when that was
	control sync.Mutex    // one of Start, Pause, Resume, Save at a time
	stage   stage         // guarded by control, as is paused
	paused  bool
}

// stage is how far a machine has come.
type stage int

const (
	assembled stage = iota
	ready           // has something to run
	live            // its vCPU goroutines are there
	closed
)

// New assembles a machine. It has nothing to run yet: Boot or Restore follows.
func New(sys *kvm.System, c Config) (_ *Machine, err error) {
	if c.CPUs < 1 || c.CPUs > MostCPUs {
		return nil, errors.Join(fmt.Errorf("machine: %d CPUs: a guest has 1 to %d", c.CPUs, MostCPUs), c.Memory.Close())
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Serial == nil {
		c.Serial = io.Discard
	}
	m := &Machine{cfg: c, log: c.Log, mem: c.Memory, entered: make(chan struct{})}
	m.gate.init()
	m.anchor.start()
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.msrs, err = sys.MSRs(); err != nil {
		return nil, err
	}
	if m.vm, err = newVM(sys); err != nil {
		return nil, err
	}
	// The kernel takes a millisecond to say what CPUID can show.
	ask := sync.OnceValues(func() (profile, error) { return cpuid(sys, c.CPUs, c.Mask) })
	go ask()
	steps := []func() error{m.addChips, m.addMemory, m.addPorts, m.addDevices, func() error { return m.addCPUs(ask) }}
	for _, step := range steps {
		if err := step(); err != nil {
			_, _ = ask() // it is done with sys when New returns
			return nil, err
		}
	}
	return m, nil
}

// newVM asks again where a signal came between, as Go's runtime sends them:
// mm/mmap.c, mm_take_all_locks gives up for one.
func newVM(sys *kvm.System) (*kvm.VM, error) {
	for {
		vm, err := sys.NewVM()
		if !errors.Is(err, unix.EINTR) {
			return vm, err
		}
	}
}

// Pages that Intel hosts without unrestricted guests want for real mode.
const (
	tssAt      kvm.GPA = 0xfffb_d000
	identityAt kvm.GPA = 0xfffb_c000
)

func (m *Machine) addChips() error {
	if err := m.vm.SetIdentityMapAddr(identityAt); err != nil {
		return err
	}
	if err := m.vm.SetTSSAddr(tssAt); err != nil {
		return err
	}
	if err := m.vm.NewIRQChip(); err != nil {
		return err
	}
	// Kernels without kvmclock calibrate their TSC by the PIT, through the speaker's gate.
	return m.vm.NewPIT(true)
}

func (m *Machine) addMemory() error {
	for i, r := range m.mem.Regions() {
		if err := m.vm.SetMemory(uint32(i), r.At, r.Host, 0); err != nil {
			return err
		}
	}
	return nil
}

func (m *Machine) addCPUs(ask func() (profile, error)) error {
	list, err := ask()
	if err != nil {
		return err
	}
	for id := range m.cfg.CPUs {
		c, err := m.vm.NewVCPU(id)
		if err != nil {
			return err
		}
		m.cpus = append(m.cpus, c)
		if err := c.SetCPUID(list.of(id)); err != nil {
			return err
		}
	}
	return nil
}

// CPUs is how many the guest has.
func (m *Machine) CPUs() int { return len(m.cpus) }

// Memory is the guest's RAM.
func (m *Machine) Memory() *ram.Memory { return m.mem }

// Type hands b to the guest as if typed at its serial port; it waits until the
// guest has taken it.
func (m *Machine) Type(b []byte) error { return m.uart.Receive(b) }

// Entered is closed when the first instruction is about to run.
func (m *Machine) Entered() <-chan struct{} { return m.entered }

// EnteredAt is when, once Entered is closed.
func (m *Machine) EnteredAt() time.Time {
	<-m.entered
	return m.since
}

// Done is closed when the guest has ended.
func (m *Machine) Done() <-chan struct{} { return m.gate.done }

// Ending is why, once Done is closed.
func (m *Machine) Ending() Ending {
	<-m.gate.done
	return m.gate.ending
}

// End ends the guest as it stands.
func (m *Machine) End(e Ending) { m.gate.end(e) }

// Close ends the guest and gives back all that it held. Devices stop before the
// memory that they work on goes, and vCPUs before devices, so that nothing new
// is asked of them.
func (m *Machine) Close() error {
	m.gate.end(Ending{Reason: Stopped})
	m.control.Lock()
	defer m.control.Unlock()
	if m.stage == closed {
		return nil
	}
	m.stage = closed
	m.running.Wait()
	var errs []error
	for _, s := range m.slots {
		errs = append(errs, s.close())
	}
	if m.uart != nil {
		errs = append(errs, m.uart.Close())
	}
	m.anchor.stop()
	m.gate.forget()
	for _, c := range m.cpus {
		errs = append(errs, c.Close())
	}
	if m.vm != nil {
		errs = append(errs, m.vm.Close())
	}
	errs = append(errs, m.mem.Close())
	return errors.Join(errs...)
}

// now is the host's clock, which the guest's CMOS shows.
func now() time.Time { return time.Now() }

package machine

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"bulkhead/kvm"
	"bulkhead/virtio"
	"bulkhead/virtio/mmio"
)

// windowsAt is where virtio devices begin, in the hole below 4 GiB.
const windowsAt = 0xd000_0000

// deviceGSIs are the pins of the IOAPIC that nothing else of a PC claims. An
// interrupt by eventfd is an edge, and two devices on one would lose some.
var deviceGSIs = []uint32{5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}

// slot is a virtio device in its window: the guest's write of a queue's number
// becomes an eventfd's count, and an eventfd's count the guest's interrupt,
// neither of them by way of a vCPU's loop.
type slot struct {
	name      string
	base      uint64
	gsi       uint32
	transport *mmio.Transport
	irq       eventfd
	bells     []eventfd
	anchor    *anchor
	look      atomic.Uint32 // of the anchor, that the device saw last
	failures  atomic.Uint32
}

// CheckDevices finds what no machine can have: two devices of a name, or more than there
// are interrupts for.
func CheckDevices(devices []Device) error {
	if n := len(devices); n > len(deviceGSIs) {
		return fmt.Errorf("machine: %d devices: there are interrupts for %d", n, len(deviceGSIs))
	}
	seen := map[string]bool{}
	for _, d := range devices {
		if seen[d.Name] {
			return fmt.Errorf("machine: two devices are called %q", d.Name)
		}
		seen[d.Name] = true
	}
	return nil
}

// addDevices gives each device its window and interrupt.
func (m *Machine) addDevices() error {
	if err := CheckDevices(m.cfg.Devices); err != nil {
		return err
	}
	for i, d := range m.cfg.Devices {
		if err := m.addDevice(d, windowsAt+uint64(i)*mmio.Size, deviceGSIs[i]); err != nil {
			return fmt.Errorf("machine: device %s: %w", d.Name, err)
		}
	}
	return nil
}

func (m *Machine) addDevice(d Device, base uint64, gsi uint32) error {
	s := &slot{name: d.Name, base: base, gsi: gsi, irq: noEventfd, anchor: &m.anchor}
	m.slots = append(m.slots, s) // from here on Close has what there is of it
	var err error
	if s.irq, err = newEventfd(false); err != nil {
		return err
	}
	if err := m.vm.BindIRQ(int(s.irq), gsi); err != nil {
		return err
	}
	for queue := range d.Queues() {
		bell, err := newEventfd(true)
		if err != nil {
			return err
		}
		s.bells = append(s.bells, bell)
		notify := kvm.Doorbell{Addr: base + mmio.QueueNotify, Len: 4, Match: true, Data: uint64(queue)}
		if err := m.vm.BindDoorbell(int(bell), notify); err != nil {
			return err
		}
	}
	s.transport, err = mmio.New(d.Device, m.mem, mmio.Lines{
		Interrupt: func() { s.irq.Ring(); s.works() },
		Doorbell:  func(queue int) virtio.Doorbell { return doorbell{s.bells[queue], s} },
		Failed:    func(err error) { m.failed(d.Name, &s.failures, err) },
	})
	if err != nil {
		return err
	}
	return m.mmio.Add(base, mmio.Size, d.Name, s.transport)
}

// works is what a device's goroutines say as they come and go.
func (s *slot) works() {
	s.anchor.touch()
	s.anchor.yield(&s.look)
}

// doorbell is a queue's, a virtio.Pollable.
type doorbell struct {
	eventfd
	slot *slot
}

// Wait lets those run first to whom the queue's goroutine has given work: they are behind it on
// its processor, and who takes that away while it waits is the monitor (anchor).
func (d doorbell) Wait() error {
	runtime.Gosched()
	return d.Hear()
}

// Hear implements virtio.Pollable.
func (d doorbell) Hear() error {
	err := d.eventfd.Wait()
	d.slot.works()
	return err
}

// Descriptor implements virtio.Pollable.
func (d doorbell) Descriptor() int { return int(d.eventfd) }

// failed tells that a device needs a reset. A driver can make it fail as often as
// it likes, and fill no log with it: the rest is in Metrics.
func (m *Machine) failed(device string, times *atomic.Uint32, err error) {
	const enough = 5
	if n := times.Add(1); n <= enough {
		m.log.Warn("device needs a reset", "device", device, "err", err, "silent from now on", n == enough)
	}
}

func (s *slot) pause()  { s.transport.Pause() }
func (s *slot) resume() { s.transport.Resume() }

// close stops the device, and then closes what it waits on.
func (s *slot) close() error {
	if s.transport != nil {
		s.transport.Close()
	}
	errs := []error{s.irq.close()}
	for _, b := range s.bells {
		errs = append(errs, b.close())
	}
	return errors.Join(errs...)
}

package machine

import (
	"bulkhead/guestinit/config"
	"bulkhead/vmm/acpi"
	"bulkhead/vmm/i8042"
	"bulkhead/vmm/rtc"
	"bulkhead/vmm/serial"
)

// The machine's own addresses. A PC's where a PC has one; sleep and reset are
// where Intel's chip sets have them.
const (
	serialPort = 0x3f8
	sleepPort  = 0x600 // control, and status after it
	resetPort  = 0xcf9
	resetValue = 0x06
)

// Interrupts of what is not virtio.
const (
	keyboardGSI   = 1
	buttonGSI     = 3
	serialGSI     = 4
	generationGSI = 8 // the clock has no interrupt
)

// addPorts puts on the bus what has ports.
func (m *Machine) addPorts() error {
	m.uart = serial.New(m.cfg.Serial, m.line(serialGSI))
	m.keyboard = i8042.New(m.reset, m.line(keyboardGSI))
	m.clock = rtc.New(now)
	rows := []struct {
		at, size uint64
		name     string
		to       handler
	}{
		{serialPort, serial.Ports, "serial port", m.uart},
		{rtc.Index, 2, "clock", m.clock},
		{i8042.Data, 1, "keyboard data", m.keyboard},
		{i8042.Command, 1, "keyboard command", offset{m.keyboard, i8042.Command - i8042.Data}},
		{sleepPort, 2, "sleep", written(m.sleep)},
		{resetPort, 1, "reset", written(m.resetWritten)},
		{config.ExitPort, 1, "exit code", written(m.exit)},
		{config.ReadyPort, 1, "stage", written(m.reached)},
	}
	for _, r := range rows {
		if err := m.ports.Add(r.at, r.size, r.name, r.to); err != nil {
			return err
		}
	}
	return nil
}

// handler is bus.Handler.
type handler interface {
	Read(off uint64, b []byte)
	Write(off uint64, b []byte)
}

// offset is a device of which the range shows a later part.
type offset struct {
	handler
	by uint64
}

func (o offset) Read(off uint64, b []byte)  { o.handler.Read(off+o.by, b) }
func (o offset) Write(off uint64, b []byte) { o.handler.Write(off+o.by, b) }

// written is a register that reads 0 and calls when written.
type written func(off uint64, v byte)

func (w written) Read(_ uint64, b []byte)    { clear(b) }
func (w written) Write(off uint64, b []byte) { w(off, b[0]) }

// line is an interrupt line into the chips.
func (m *Machine) line(gsi uint32) func(high bool) {
	return func(high bool) {
		if err := m.vm.SetIRQ(gsi, high); err != nil {
			m.gate.end(Ending{Reason: Broken, Err: err})
		}
	}
}

func (m *Machine) sleep(off uint64, v byte) {
	if off == 0 && v == acpi.PowerOff {
		m.gate.end(Ending{Reason: PowerOff})
	}
}

func (m *Machine) resetWritten(_ uint64, v byte) {
	if v == resetValue {
		m.reset()
	}
}

// exit ends the guest with its command's exit code: all is synced and unmounted
// by then, and what the guest would do to switch itself off is time lost.
func (m *Machine) exit(_ uint64, status byte) {
	m.gate.end(Ending{Reason: PowerOff, Status: int(status)})
}

func (m *Machine) reached(_ uint64, stage byte) {
	if m.cfg.Reached != nil {
		m.cfg.Reached(config.Stage(stage))
	}
}

func (m *Machine) reset() { m.gate.end(Ending{Reason: Reset}) }

package kvm

import "fmt"

// NewIRQChip puts two PICs, an IOAPIC and, for vCPUs made later, local APICs into the kernel.
func (vm *VM) NewIRQChip() error {
	if _, err := ioctlInt(vm.fd, createIRQChip, 0); err != nil {
		return fmt.Errorf("kvm: create irqchip: %w", err)
	}
	return nil
}

// SplitIRQChip puts local APICs alone into the kernel, with pins IOAPIC routes.
func (vm *VM) SplitIRQChip(pins int) error { return vm.Enable(CapSplitIRQChip, uint64(pins)) }

// IRQChip reads the state of chip id.
func (vm *VM) IRQChip(id uint32) (*IRQChip, error) {
	c := &IRQChip{ID: id}
	if err := ioctl(vm.fd, getIRQChip, c); err != nil {
		return nil, fmt.Errorf("kvm: get irqchip %d: %w", id, err)
	}
	return c, nil
}

// SetIRQChip restores what IRQChip read.
func (vm *VM) SetIRQChip(c *IRQChip) error {
	if err := ioctl(vm.fd, setIRQChip, c); err != nil {
		return fmt.Errorf("kvm: set irqchip %d: %w", c.ID, err)
	}
	return nil
}

// NewPIT puts an 8254 into the kernel; speaker also answers port 0x61.
func (vm *VM) NewPIT(speaker bool) error {
	var arg pitConfig
	if speaker {
		arg.Flags = 1
	}
	if err := ioctl(vm.fd, createPIT2, &arg); err != nil {
		return fmt.Errorf("kvm: create pit: %w", err)
	}
	return nil
}

// PIT reads the timer's state.
func (vm *VM) PIT() (*PIT, error) {
	p := new(PIT)
	if err := ioctl(vm.fd, getPIT2, p); err != nil {
		return nil, fmt.Errorf("kvm: get pit: %w", err)
	}
	return p, nil
}

// SetPIT restores what PIT read.
func (vm *VM) SetPIT(p *PIT) error {
	if err := ioctl(vm.fd, setPIT2, p); err != nil {
		return fmt.Errorf("kvm: set pit: %w", err)
	}
	return nil
}

// SetIRQ raises or lowers a GSI.
func (vm *VM) SetIRQ(gsi uint32, high bool) error {
	arg := irqLevel{GSI: gsi}
	if high {
		arg.Level = 1
	}
	if err := ioctl(vm.fd, irqLine, &arg); err != nil {
		return fmt.Errorf("kvm: set gsi %d to %d: %w", gsi, arg.Level, err)
	}
	return nil
}

// SignalMSI sends m and reports whether a vCPU took it; not so if the guest
// has the interrupt masked.
func (vm *VM) SignalMSI(m MSI) (bool, error) {
	n, err := ioctlArg(vm.fd, signalMSI, &m)
	if err != nil {
		return false, fmt.Errorf("kvm: signal msi %#x to %#x: %w", m.Data, m.Address, err)
	}
	return n > 0, nil
}

// Route says where a GSI goes: to a pin of a chip, or out as a message.
// It is struct kvm_irq_routing_entry.
type Route struct {
	GSI, Type, Flags uint32
	_                uint32
	Body             [8]uint32
}

const (
	routeChip = 1
	routeMSI  = 2
)

// PinRoute sends gsi to a pin of chip (0 and 1 PIC, 2 IOAPIC).
func PinRoute(gsi, chip, pin uint32) Route {
	return Route{GSI: gsi, Type: routeChip, Body: [8]uint32{chip, pin}}
}

// MSIRoute sends gsi as m.
func MSIRoute(gsi uint32, m MSI) Route {
	return Route{GSI: gsi, Type: routeMSI,
		Body: [8]uint32{uint32(m.Address), uint32(m.Address >> 32), m.Data, m.DevID}}
}

// SetRoutes replaces the whole table, the kernel's own first one included.
func (vm *VM) SetRoutes(routes []Route) error {
	if _, _, err := ioctlList(vm.fd, setGSIRouting, routes); err != nil {
		return fmt.Errorf("kvm: set %d gsi routes: %w", len(routes), err)
	}
	return nil
}

const (
	irqfdDeassign = 1
	irqfdResample = 2
)

// BindIRQ makes a write to the eventfd fd raise gsi, as an edge.
func (vm *VM) BindIRQ(fd int, gsi uint32) error {
	return vm.irqfd(irqfdArg{FD: uint32(fd), GSI: gsi})
}

// BindLevelIRQ is BindIRQ for a level: the guest's end of interrupt lowers gsi
// and writes to resample, so that a device that still wants it can raise it again.
func (vm *VM) BindLevelIRQ(fd, resample int, gsi uint32) error {
	return vm.irqfd(irqfdArg{FD: uint32(fd), GSI: gsi, Flags: irqfdResample, Resample: uint32(resample)})
}

// UnbindIRQ undoes either.
func (vm *VM) UnbindIRQ(fd int, gsi uint32) error {
	return vm.irqfd(irqfdArg{FD: uint32(fd), GSI: gsi, Flags: irqfdDeassign})
}

func (vm *VM) irqfd(arg irqfdArg) error {
	if err := ioctl(vm.fd, irqfd, &arg); err != nil {
		return fmt.Errorf("kvm: irqfd %d, gsi %d, flags %d: %w", arg.FD, arg.GSI, arg.Flags, err)
	}
	return nil
}

// Doorbell is an address or port, a write to which becomes an eventfd's count
// and not an exit.
type Doorbell struct {
	Addr  uint64
	Len   uint32 // bytes of the write; 0: any
	Port  bool   // Addr is a port
	Match bool   // only writes of Data count
	Data  uint64
}

const (
	ioeventfdMatch    = 1 << 0
	ioeventfdPort     = 1 << 1
	ioeventfdDeassign = 1 << 2
)

// BindDoorbell makes the guest's writes to d count in the eventfd fd.
func (vm *VM) BindDoorbell(fd int, d Doorbell) error { return vm.ioeventfd(fd, d, 0) }

// UnbindDoorbell undoes it; d is the same.
func (vm *VM) UnbindDoorbell(fd int, d Doorbell) error {
	return vm.ioeventfd(fd, d, ioeventfdDeassign)
}

func (vm *VM) ioeventfd(fd int, d Doorbell, flags uint32) error {
	if d.Port {
		flags |= ioeventfdPort
	}
	if d.Match {
		flags |= ioeventfdMatch
	}
	arg := ioeventfdArg{Match: d.Data, Addr: d.Addr, Len: d.Len, FD: int32(fd), Flags: flags}
	if err := ioctl(vm.fd, ioeventfd, &arg); err != nil {
		return fmt.Errorf("kvm: ioeventfd %d at %#x, %d bytes, flags %d: %w", fd, d.Addr, d.Len, flags, err)
	}
	return nil
}

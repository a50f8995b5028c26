package kvm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// VM is a virtual machine: memory, vCPUs and what they share.
type VM struct {
	fd   int
	page int
}

// MemFlags are a memory slot's.
type MemFlags uint32

const (
	LogDirty MemFlags = 1 << 0
	ReadOnly MemFlags = 1 << 1 // writes become MMIO exits
)

// SetMemory backs the guest's [at, at+len(host)) by host, as slot id. The kernel
// keeps the address and no copy: host stays mapped until DropMemory(id).
// Documentation/virt/kvm/api.rst, KVM_SET_USER_MEMORY_REGION.
func (vm *VM) SetMemory(id uint32, at GPA, host []byte, flags MemFlags) error {
	if at%PageSize != 0 || len(host) == 0 || len(host)%PageSize != 0 {
		return fmt.Errorf("kvm: slot %d: %d bytes at %v are not whole pages", id, len(host), at)
	}
	arg := userMemory{id, uint32(flags), uint64(at), uint64(len(host)), address(host)}
	if err := ioctl(vm.fd, setUserMemoryRegion, &arg); err != nil {
		return fmt.Errorf("kvm: set slot %d, %d bytes at %v: %w", id, len(host), at, err)
	}
	return nil
}

// DropMemory takes slot id away. The kernel then also forgets every translation
// that it made for the whole machine.
func (vm *VM) DropMemory(id uint32) error {
	if err := ioctl(vm.fd, setUserMemoryRegion, &userMemory{slot: id}); err != nil {
		return fmt.Errorf("kvm: drop slot %d: %w", id, err)
	}
	return nil
}

// DirtyLog reads and clears the log of slot id into bitmap, a bit a page.
func (vm *VM) DirtyLog(id uint32, bitmap []uint64) error {
	if err := ioctlBitmap(vm.fd, getDirtyLog, &dirtyLog{Slot: id}, bitmap); err != nil {
		return fmt.Errorf("kvm: dirty log of slot %d: %w", id, err)
	}
	return nil
}

// ClearDirtyLog clears the pages set in bitmap, from page first on, where
// CapManualDirtyLog was enabled and DirtyLog therefore only reads.
func (vm *VM) ClearDirtyLog(id uint32, first uint64, pages uint32, bitmap []uint64) error {
	arg := clearLog{Slot: id, Pages: pages, First: first}
	if err := ioctlClear(vm.fd, clearDirtyLog, &arg, bitmap); err != nil {
		return fmt.Errorf("kvm: clear dirty log of slot %d, %d pages from %d: %w", id, pages, first, err)
	}
	return nil
}

// Check asks for a capability of this machine, where it may differ from the system's.
func (vm *VM) Check(c Cap) (int, error) {
	n, err := ioctlInt(vm.fd, checkExtension, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("kvm: check %v: %w", c, err)
	}
	return n, nil
}

// Enable switches a capability on.
func (vm *VM) Enable(c Cap, args ...uint64) error {
	arg := enableCapArg{Cap: uint32(c)}
	copy(arg.Args[:], args)
	if err := ioctl(vm.fd, enableCap, &arg); err != nil {
		return fmt.Errorf("kvm: enable %v: %w", c, err)
	}
	return nil
}

// SetTSSAddr gives Intel hosts three pages below 4 GiB for real mode.
func (vm *VM) SetTSSAddr(at GPA) error {
	if _, err := ioctlInt(vm.fd, setTSSAddr, uintptr(at)); err != nil {
		return fmt.Errorf("kvm: set tss at %v: %w", at, err)
	}
	return nil
}

// SetIdentityMapAddr gives Intel hosts another page for the same; before any vCPU.
func (vm *VM) SetIdentityMapAddr(at GPA) error {
	v := uint64(at)
	if err := ioctl(vm.fd, setIdentityMapAddr, &v); err != nil {
		return fmt.Errorf("kvm: set identity map at %v: %w", at, err)
	}
	return nil
}

// Clock reads the clock that kvmclock shows.
func (vm *VM) Clock() (Clock, error) {
	var c Clock
	if err := ioctl(vm.fd, getClock, &c); err != nil {
		return c, fmt.Errorf("kvm: get clock: %w", err)
	}
	return c, nil
}

// SetClock sets it.
func (vm *VM) SetClock(c Clock) error {
	if err := ioctl(vm.fd, setClock, &c); err != nil {
		return fmt.Errorf("kvm: set clock: %w", err)
	}
	return nil
}

// NewVCPU makes vCPU id, which is also its APIC's id.
func (vm *VM) NewVCPU(id int) (*VCPU, error) {
	fd, err := ioctlInt(vm.fd, createVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("kvm: create vcpu %d: %w", id, err)
	}
	run, shared, err := share(fd, vm.page)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("kvm: map vcpu %d: %w", id, err)
	}
	return &VCPU{id: id, fd: fd, run: run, shared: shared}, nil
}

// Close closes the machine; its vCPUs keep it alive until they are closed too.
func (vm *VM) Close() error {
	if err := unix.Close(vm.fd); err != nil {
		return fmt.Errorf("kvm: close vm: %w", err)
	}
	return nil
}

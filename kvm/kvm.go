// Package kvm is /dev/kvm in Go's types: the system, a VM, its vCPUs and memory
// slots, and what else the kernel offers for them, a method a request. It follows
// Documentation/virt/kvm/api.rst. It is mechanism only: it has no policy, no
// goroutines and no locks of its own. A VM's methods may be called from any
// goroutine; a VCPU belongs to one at a time, except for Kick.
//
// EINTR of KVM_RUN is never retried here: it is a kick, and whoever runs the
// vCPU knows what to look at before running on. Every other request is.
package kvm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// PageSize is the unit of memory slots and of dirty logs.
const PageSize = 4096

// GPA is an address in a guest's physical memory.
type GPA uint64

func (a GPA) String() string { return fmt.Sprintf("gpa %#x", uint64(a)) }

// ErrVersion means a kernel whose KVM is not the one API that there ever was.
var ErrVersion = errors.New("kvm: API version is not 12")

// System is an open /dev/kvm.
type System struct {
	fd   int
	page int // bytes of a vCPU's shared page and what follows it
}

// Open opens /dev/kvm.
func Open() (*System, error) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("kvm: open /dev/kvm: %w", err)
	}
	return New(fd)
}

// New takes over fd, an open /dev/kvm: of a process that may not open it itself.
func New(fd int) (*System, error) {
	v, err := ioctlInt(fd, getAPIVersion, 0)
	if err == nil && v != 12 {
		err = ErrVersion
	}
	page := 0
	if err == nil {
		page, err = ioctlInt(fd, getVCPUMmapSize, 0)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("kvm: descriptor %d: %w", fd, err)
	}
	return &System{fd: fd, page: page}, nil
}

// Check asks for a capability: 0 is no, otherwise the capability's own meaning.
func (s *System) Check(c Cap) (int, error) {
	n, err := ioctlInt(s.fd, checkExtension, uintptr(c))
	if err != nil {
		return 0, fmt.Errorf("kvm: check %v: %w", c, err)
	}
	return n, nil
}

// CPUID is what this KVM can show to a guest, a fit argument for VCPU.SetCPUID.
func (s *System) CPUID() ([]CPUIDEntry, error) {
	list := make([]CPUIDEntry, 256) // arch/x86/kvm/cpuid.h, KVM_MAX_CPUID_ENTRIES
	n, _, err := ioctlList(s.fd, getSupportedCPUID, list)
	if err != nil {
		return nil, fmt.Errorf("kvm: get supported cpuid: %w", err)
	}
	return list[:n], nil
}

// MSRs lists the model-specific registers that make up a guest's state.
func (s *System) MSRs() ([]uint32, error) { return s.msrList(getMSRIndexList) }

// FeatureMSRs lists those that tell what the host offers.
func (s *System) FeatureMSRs() ([]uint32, error) { return s.msrList(getMSRFeatureIndexList) }

func (s *System) msrList(req uint32) ([]uint32, error) {
	var list msrIndexes
	list.N = uint32(len(list.Index))
	if err := ioctl(s.fd, req, &list); err != nil {
		return nil, fmt.Errorf("kvm: list of msrs: %w", err)
	}
	return list.Index[:min(int(list.N), len(list.Index))], nil
}

// NewVM makes an empty machine.
func (s *System) NewVM() (*VM, error) {
	fd, err := ioctlInt(s.fd, createVM, 0)
	if err != nil {
		return nil, fmt.Errorf("kvm: create vm: %w", err)
	}
	return &VM{fd: fd, page: s.page}, nil
}

// Close closes /dev/kvm; machines made from it live on.
func (s *System) Close() error {
	if err := unix.Close(s.fd); err != nil {
		return os.NewSyscallError("close /dev/kvm", err)
	}
	return nil
}

// Package host says whether this host can run a Linux guest, and if not, why, in the
// words of hwtest (vmm/ring0), and what to do about it.
package host

import (
	"errors"
	"fmt"

	"bulkhead/kvm"
	"bulkhead/vmm/ring0"

	"golang.org/x/sys/unix"
)

// Check is nil where it can.
func Check() error {
	sys, err := kvm.Open()
	if err != nil {
		return Explain(err)
	}
	defer sys.Close()
	return MayRun(sys)
}

// Explain says what to do about /dev/kvm.
func Explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: this host has no KVM, or its module is not loaded (modprobe kvm_intel or kvm_amd); `hwtest` says more", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: become a member of its group, kvm, or root", err)
	}
	return err
}

// MayRun refuses a host that would not get a Linux guest to its init.
func MayRun(sys *kvm.System) error {
	native, reason, err := ring0.Native(sys)
	switch {
	case err != nil:
		return err
	case !native:
		return fmt.Errorf("this host cannot run a Linux guest: %s; `hwtest` says what it can do, and `hwtest lab` has a machine that can", reason)
	}
	return nil
}

// Package probe reads what a host says of itself: processor, hypervisor, kernel,
// KVM's capabilities and settings, memory, devices, control groups, mitigations.
// No network and no metadata server is asked. What a host says and what it does
// differ; package guest tries, and where the two disagree it is right.
package probe

import (
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/hwtest/cpuid"
	"bulkhead/kvm"
)

// Facts is all of it, as it stands in the JSON report.
type Facts struct {
	CPU         CPU               `json:"cpu"`
	Machine     Machine           `json:"machine"`
	Kernel      Kernel            `json:"kernel"`
	KVM         KVM               `json:"kvm"`
	Memory      Memory            `json:"memory"`
	Devices     []Device          `json:"devices"`
	Userfaultfd string            `json:"userfaultfd"` // "all faults", "user faults only", or why not
	Cgroup      Cgroup            `json:"cgroup"`
	IOMMUGroups int               `json:"iommu_groups"`
	Mitigations map[string]string `json:"mitigations"` // by vulnerability, in the kernel's words
}

// Host is where facts come from.
type Host struct {
	Files fs.FS // the root
	CPUID func(leaf, sub uint32) (eax, ebx, ecx, edx uint32)
	Has   func(cpuid.Feature) bool
	Try   Attempts
	KVM   *kvm.System // nil: none
	NoKVM error       // why KVM is nil
}

// Attempts are what can only be found out by asking the kernel for it.
type Attempts struct {
	Open        func(path string) error
	Userfaultfd func(flags int) error
	HugePages   func() (transparent bool, reserved error) // by use of each kind
	Uname       func() (release, version, machine string)
}

// This is the host that the program runs on.
func This(sys *kvm.System, noKVM error) Host {
	return Host{
		Files: os.DirFS("/"),
		CPUID: cpuid.Read,
		Has:   cpuid.Feature.Here,
		KVM:   sys, NoKVM: noKVM,
		Try: Attempts{Open: openDevice, Userfaultfd: userfaultfd, HugePages: hugePages, Uname: uname},
	}
}

// Facts reads them all. What cannot be read is left empty: another fact of the host.
func (h Host) Facts() Facts {
	return Facts{
		CPU:         h.cpu(),
		Machine:     h.machine(),
		Kernel:      h.kernel(),
		KVM:         h.kvm(),
		Memory:      h.memory(),
		Devices:     h.devices(),
		Userfaultfd: h.userfaultfd(),
		Cgroup:      h.cgroup(),
		IOMMUGroups: len(h.list("sys/kernel/iommu_groups")),
		Mitigations: h.mitigations(),
	}
}

// line is a file of one line, without its end; empty if there is none.
func (h Host) line(path string) string {
	text, err := fs.ReadFile(h.Files, path)
	if err != nil {
		return ""
	}
	return strings.TrimRight(strings.TrimSpace(string(text)), "\x00")
}

// list is the names in a directory.
func (h Host) list(path string) []string {
	entries, err := fs.ReadDir(h.Files, path)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (h Host) exists(path string) bool {
	_, err := fs.Stat(h.Files, path)
	return err == nil
}

// Kernel is uname. Not the command line: it is long, and may hold secrets.
type Kernel struct {
	Release string `json:"release"`
	Version string `json:"version"`
	Machine string `json:"machine"`
}

func (h Host) kernel() Kernel {
	release, version, machine := h.Try.Uname()
	return Kernel{release, version, machine}
}

func uname() (release, version, machine string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:]), unix.ByteSliceToString(u.Machine[:])
}

func (h Host) mitigations() map[string]string {
	const dir = "sys/devices/system/cpu/vulnerabilities"
	m := map[string]string{}
	for _, name := range h.list(dir) {
		m[name] = h.line(dir + "/" + name)
	}
	return m
}

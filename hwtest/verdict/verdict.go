// Package verdict draws the conclusions: which class of host this is, and which
// wall can stand on it. It decides from what was tried and measured, in the words
// of shared design kvm-hosts.md, and knows no host itself.
package verdict

import (
	"fmt"
	"slices"
	"strings"

	"bulkhead/hwtest/cost"
	"bulkhead/hwtest/guest"
	"bulkhead/hwtest/probe"
	"bulkhead/kvm"
)

// Class is what a host can do, in one word.
type Class string

const (
	Full     Class = "full"      // VMX or SVM on metal
	Nested   Class = "nested"    // the same inside a virtual machine
	UserOnly Class = "user-only" // ring 3 on the processor, ring 0 in an emulator
	None     Class = "none"      // no KVM, or none for us
)

// Meaning of each class, for people.
var Meaning = map[Class]string{
	Full:     "ring 0 and ring 3 of a guest run on the processor",
	Nested:   "ring 0 and ring 3 of a guest run on the processor, exits pass through another hypervisor",
	UserOnly: "ring 3 of a guest runs on the processor, its ring 0 is emulated",
	None:     "no guest runs here",
}

// Evidence is what is decided from.
type Evidence struct {
	Facts        probe.Facts
	Ring0        Ring0
	Modes        []guest.Trial
	Instructions []guest.Trial
	Behaviours   []guest.Trial
	Costs        []cost.Cost // none where only a yes or no is wanted
	NoPtrace     error       // why no process can be traced
}

// Ring0 is vmm/ring0's answer.
type Ring0 struct {
	Native bool   `json:"native"`
	Reason string `json:"reason"` // of either answer
	Error  string `json:"error"`  // why there is none
}

// Wall is an answer.
type Wall struct {
	Name    string   `json:"name"`  // as --require takes it
	Title   string   `json:"title"` // as people say it
	Yes     bool     `json:"yes"`
	Line    string   `json:"line"`    // "yes, …" or "no, …"
	Reasons []string `json:"reasons"` // every reason against it; none if Yes
	Advice  string   `json:"advice"`  // what to do about the first; may be empty
}

// Of classifies.
func (e Evidence) Of() Class {
	switch {
	case !e.Facts.KVM.Present || e.Ring0.Error != "":
		return None
	case !e.Ring0.Native:
		return UserOnly
	case e.Facts.Machine.Virtual:
		return Nested
	}
	return Full
}

// wall is a row: what somebody needs of a host.
type wall struct {
	name, title string
	kvm         kvm.User // 0: needs none
	ring0       bool     // on the processor
	trials      []string // modes and behaviours that must work
	ptrace      bool
	praise      func(Evidence) string // after "yes"
}

// enter is what every user of KVM needs.
var enter = []string{"64-bit, ring 3", "exceptions from ring 3", "kick", "page taken from a running CPU"}

// machines need this beside native ring 0.
var machines = append(slices.Clone(enter), "64-bit, ring 0", "exceptions from ring 0", "ioeventfd, MMIO with a value", "irqfd", "irqfd ends hlt", "timer of the local APIC", "CPUID leaf 0x40000000")

var walls = []wall{
	{"sentry-kvm", "sentry on kvm", kvm.Sentry, false, append(slices.Clone(enter), "syscall"), false, sentryCosts("kvm")},
	{"sentry-ptrace", "sentry on ptrace", 0, false, nil, true, sentryCosts("ptrace")},
	{"vm", "vm", kvm.VMM, true, append(slices.Clone(machines), "second CPU by INIT and SIPI"), false, machineCosts},
	{"firecracker", "Firecracker", kvm.Firecracker, true, machines, false, machineCosts},
	{"cloud-hypervisor", "Cloud Hypervisor", kvm.CloudHypervisor, true, machines, false, machineCosts},
}

// Names are what --require takes.
func Names() []string {
	var names []string
	for _, w := range walls {
		names = append(names, w.name)
	}
	return names
}

// Walls answers for each.
func (e Evidence) Walls() []Wall {
	var list []Wall
	for _, w := range walls {
		list = append(list, w.judge(e))
	}
	return list
}

func (w wall) judge(e Evidence) Wall {
	v := Wall{Name: w.name, Title: w.title, Reasons: []string{}}
	v.Reasons, v.Advice = w.against(e)
	if v.Reasons == nil {
		v.Reasons = []string{}
	}
	if v.Yes = len(v.Reasons) == 0; v.Yes {
		v.Line = "yes" + w.praise(e)
	} else {
		v.Line = "no, " + v.Reasons[0]
		if more := len(v.Reasons) - 1; more > 0 {
			v.Line += fmt.Sprintf(" (and %d more %s)", more, map[bool]string{true: "reason", false: "reasons"}[more == 1])
		}
	}
	return v
}

// against lists what speaks against w, the weightiest first, and what helps.
func (w wall) against(e Evidence) (reasons []string, advice string) {
	if w.ptrace {
		if e.NoPtrace != nil {
			return []string{"no process can be traced: " + e.NoPtrace.Error()}, "allow ptrace: a container needs CAP_SYS_PTRACE or a seccomp profile with it"
		}
		return nil, ""
	}
	if !e.Facts.KVM.Present {
		return []string{e.Facts.KVM.Error}, noKVM(e.Facts)
	}
	if e.Ring0.Error != "" {
		return []string{"KVM runs no guest: " + e.Ring0.Error}, "look at the kernel's log for what kvm says"
	}
	if w.ring0 && !e.Ring0.Native {
		reasons = append(reasons, e.Ring0.Reason)
		advice = "a Linux kernel cannot boot here; --isolation=sentry can, and so can a host with VMX or SVM (docs/hosts)"
	}
	if missing := e.Facts.KVM.Missing(w.kvm); missing != nil {
		reasons = append(reasons, "KVM lacks "+strings.Join(missing, ", "))
	}
	for _, t := range slices.Concat(e.Modes, e.Behaviours) {
		if slices.Contains(w.trials, t.Name) && t.Status != guest.Works {
			reasons = append(reasons, fmt.Sprintf("%s: %s: %s", t.Name, t.Status, t.Saw))
		}
	}
	if w.ring0 {
		if lost := broken(e.Instructions); lost != "" {
			reasons = append(reasons, lost)
		}
	}
	return reasons, advice
}

// broken lists the instructions that a kernel would execute in vain.
func broken(trials []guest.Trial) string {
	var names []string
	for _, t := range trials {
		if t.Status == guest.Fails || t.Status == guest.Hangs || t.Status == guest.Stuck {
			names = append(names, t.Name)
		}
	}
	if names == nil {
		return ""
	}
	return "in ring 0 these fail: " + strings.Join(names, ", ")
}

// noKVM says how this host could have one.
func noKVM(f probe.Facts) string {
	switch {
	case strings.Contains(f.KVM.Error, "permission denied"):
		return "run as root or as a member of the group that owns /dev/kvm"
	case f.CPU.VMX:
		return "modprobe kvm_intel"
	case f.CPU.SVM:
		return "modprobe kvm_amd"
	case f.Machine.Cloud == "Google Cloud":
		return "make the VM again with --enable-nested-virtualization (docs/hosts/gcp.md)"
	case f.Machine.Cloud == "Amazon EC2":
		return "take a .metal instance, or a type with nested virtualization"
	case f.Machine.Virtual:
		return "switch nested virtualization on in " + f.Machine.Hypervisor + " and expose VMX or SVM to this machine"
	}
	return "switch VMX or SVM on in the firmware's setup (docs/hosts/bare-metal.md)"
}

// Nanos writes nanoseconds as a person would, with three digits that count.
func Nanos(ns float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		if ns >= u.size*0.9995 {
			return digits(ns/u.size) + " " + u.name
		}
	}
	return digits(ns) + " ns"
}

func digits(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// figure finds a cost's median.
func (e Evidence) figure(id string) (string, bool) {
	for _, c := range e.Costs {
		if c.ID == id && c.Error == "" {
			return Nanos(c.Median), true
		}
	}
	return "", false
}

func sentryCosts(platform string) func(Evidence) string {
	return func(e Evidence) string {
		trapped, ok := e.figure("sentry-" + platform + "-trapped")
		if !ok {
			return ""
		}
		line := ", system call ≈ " + trapped
		if patched, ok := e.figure("sentry-" + platform + "-patched"); ok {
			line += ", " + patched + " from a patched site"
		}
		if fault, ok := e.figure("sentry-" + platform + "-fault"); ok {
			line += "; page fault " + fault
		}
		return line
	}
}

func machineCosts(e Evidence) string {
	line := ""
	if exit, ok := e.figure("exit-ring0"); ok {
		line = ", exit ≈ " + exit
	}
	if bell, ok := e.figure("ioeventfd"); ok {
		line += ", doorbell " + bell
	}
	return line
}

package report

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"bulkhead/hwtest/guest"
	"bulkhead/hwtest/probe"
	"bulkhead/hwtest/verdict"
)

// Row is a fact: the same rows make the terminal's table, the page and the comparison.
type Row struct {
	Group, Name, Value string
	Good               Mood
}

// Mood colours a row.
type Mood int

const (
	Plain Mood = iota
	Glad
	Sad
)

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// none is a dash for what is empty.
func none(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// facts lists what probe read.
func (r *Report) facts() []Row {
	f := r.Host
	rows := []Row{
		{"processor", "model", none(f.CPU.Model), Plain},
		{"processor", "vendor", none(f.CPU.Vendor), Plain},
		{"processor", "online", none(f.CPU.Online), Plain},
		{"processor", "SMT", none(f.CPU.SMT), Plain},
		{"processor", "VMX (Intel), SVM (AMD) shown", yes(f.CPU.VMX) + ", " + yes(f.CPU.SVM), Plain},
		{"machine", "runs on", runsOn(f.Machine), Plain},
		{"machine", "cloud", none(f.Machine.Cloud), Plain},
		{"machine", "DMI", none(strings.TrimSpace(f.Machine.Maker + " " + f.Machine.Product)), Plain},
		{"machine", "firmware", none(strings.TrimSpace(f.Machine.BIOS + " " + f.Machine.ACPI)), Plain},
		{"machine", "IOMMU groups", fmt.Sprint(f.IOMMUGroups), Plain},
		{"kernel", "release", none(f.Kernel.Release), Plain},
		{"kernel", "cgroup", cgroup(f.Cgroup), Plain},
		{"kernel", "userfaultfd", f.Userfaultfd, Plain},
		{"KVM", "/dev/kvm", device(f.KVM), mood(f.KVM.Present)},
		{"KVM", "modules", none(strings.Join(f.KVM.Modules, " ")), Plain},
		{"KVM", "guest memory by", f.KVM.MMU, Plain},
		{"memory", "total", fmt.Sprintf("%.1f GiB", float64(f.Memory.Total)/(1<<30)), Plain},
		{"memory", "transparent huge pages", fmt.Sprintf("%s, by use: %s", none(f.Memory.Transparent), map[bool]string{true: "works", false: "none came"}[f.Memory.Works]), mood(f.Memory.Works)},
		{"memory", "the same for shared memory", none(f.Memory.Shared), Plain},
		{"memory", "reserved huge pages", fmt.Sprintf("%d, a mapping: %s", f.Memory.Reserved, f.Memory.Hugetlb), Plain},
	}
	for _, d := range f.Devices[min(1, len(f.Devices)):] {
		rows = append(rows, Row{"devices", d.Path, d.State + " (" + d.Reason + ")", Plain})
	}
	for _, p := range slices.Sorted(maps.Keys(f.KVM.Parameters)) {
		rows = append(rows, Row{"settings", p, f.KVM.Parameters[p], Plain})
	}
	for _, m := range slices.Sorted(maps.Keys(f.Mitigations)) {
		good := Plain
		if strings.HasPrefix(f.Mitigations[m], "Vulnerable") {
			good = Sad
		}
		rows = append(rows, Row{"mitigations", m, f.Mitigations[m], good})
	}
	return rows
}

func runsOn(m probe.Machine) string {
	if !m.Virtual {
		return "bare metal"
	}
	return "a virtual machine of " + m.Hypervisor
}

func cgroup(c probe.Cgroup) string {
	s := c.Version
	if c.FavorDynMods {
		s += ", favordynmods"
	}
	if len(c.Controllers) > 0 {
		s += ": " + strings.Join(c.Controllers, " ")
	}
	return s
}

func device(k probe.KVM) string {
	if k.Present {
		return "opens"
	}
	return k.Error
}

func mood(good bool) Mood {
	if good {
		return Glad
	}
	return Sad
}

// trials lists what was tried, in one group.
func trials(group string, list []guest.Trial) []Row {
	var rows []Row
	for _, t := range list {
		value := string(t.Status)
		if t.Saw != "" {
			value += ": " + t.Saw
		}
		good := Plain
		switch t.Status {
		case guest.Works:
			good = Glad
		case guest.Fails, guest.Hangs, guest.Stuck:
			good = Sad
		}
		rows = append(rows, Row{group, t.Name, value, good})
	}
	return rows
}

// Groups of trials.
const (
	modesGroup        = "modes"
	instructionsGroup = "ring 0, an instruction at a time"
	behavioursGroup   = "behaviour"
)

func (r *Report) tried() []Row {
	return slices.Concat(trials(modesGroup, r.Modes), trials(behavioursGroup, r.Behaviours), trials(instructionsGroup, r.Instructions))
}

// counts says how a group of trials went, in a few words.
func counts(list []guest.Trial) string {
	n := map[guest.Status]int{}
	for _, t := range list {
		n[t.Status]++
	}
	parts := []string{fmt.Sprintf("%d of %d work", n[guest.Works], len(list))}
	for _, s := range []guest.Status{guest.Fails, guest.Hangs, guest.Stuck, guest.Absent} {
		if n[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s], map[guest.Status]string{
				guest.Fails: "fail", guest.Hangs: "hang", guest.Stuck: "are stuck", guest.Absent: "not offered"}[s]))
		}
	}
	return strings.Join(parts, ", ")
}

func (r *Report) walls() []Row {
	var rows []Row
	for _, w := range r.Walls {
		rows = append(rows, Row{"verdict", w.Title, w.Line, mood(w.Yes)})
	}
	return rows
}

// advice lists each once, with the walls that it is for.
func (r *Report) advice() []Row {
	var rows []Row
	for _, w := range r.Walls {
		at := slices.IndexFunc(rows, func(row Row) bool { return row.Value == w.Advice })
		switch {
		case w.Advice == "":
		case at >= 0:
			rows[at].Name += ", " + w.Title
		default:
			rows = append(rows, Row{"advice", w.Title, w.Advice, Plain})
		}
	}
	return rows
}

// capabilities says who lacks what, and in full which value each has.
func (r *Report) capabilities(full bool) []Row {
	var rows []Row
	for _, user := range users {
		has, lacks := 0, []string{}
		for _, c := range r.Host.KVM.Capabilities {
			switch {
			case !slices.Contains(c.For, user):
			case c.Value == 0:
				lacks = append(lacks, c.Name)
			default:
				has++
			}
		}
		row := Row{"capabilities", "for " + user, fmt.Sprintf("all %d", has), Glad}
		if len(lacks) > 0 {
			row.Value, row.Good = fmt.Sprintf("%d, lacks %s", has, strings.Join(lacks, ", ")), Sad
		}
		rows = append(rows, row)
	}
	if !full {
		return rows
	}
	for _, c := range r.Host.KVM.Capabilities {
		value := fmt.Sprintf("%d (%s; since Linux %s", c.Value, c.Why, c.Since)
		if len(c.For) > 0 {
			value += "; for " + strings.Join(c.For, ", ")
		}
		rows = append(rows, Row{"capabilities", c.Name, value + ")", mood(c.Value != 0 || len(c.For) == 0)})
	}
	return rows
}

// users of KVM, as kvm.User spells them.
var users = []string{"sentry", "vmm", "firecracker", "cloud-hypervisor"}

// costs lists the figures.
func (r *Report) costs() []Row {
	var rows []Row
	for _, c := range r.Costs {
		value := fmt.Sprintf("%9s   %s … %s", verdict.Nanos(c.Median), verdict.Nanos(c.Low), verdict.Nanos(c.High))
		good := Plain
		if c.Error != "" {
			value, good = "–   "+c.Error, Sad
		}
		rows = append(rows, Row{c.Group, c.Name, value, good})
	}
	return rows
}

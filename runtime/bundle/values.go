package bundle

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What the specification enumerates: "Runtimes MUST generate an error when invalid or
// unsupported values are encountered" (config.md, "Valid values"). The error names the
// field and the value.

// oneOf complains of a value that is none of those that can be honoured.
func oneOf[T ~string](field string, value T, all ...T) error {
	if slices.Contains(all, value) {
		return nil
	}
	words := make([]string, len(all))
	for i, w := range all {
		words[i] = string(w)
	}
	if value == "" {
		return complain(field, "is missing (%s)", strings.Join(words, ", "))
	}
	return complain(field, "%q is none of %s", value, strings.Join(words, ", "))
}

func checkScheduler(p *specs.Process) error {
	s := p.Scheduler
	if s == nil {
		return nil
	}
	// Others need a right to the host's processors that a sandbox has not.
	if err := oneOf("scheduler.policy", s.Policy, specs.SchedOther, specs.SchedBatch, specs.SchedIdle); err != nil {
		return err
	}
	if s.Nice < -20 || s.Nice > 19 {
		return complain("scheduler.nice", "%d is not between -20 and 19", s.Nice)
	}
	if s.Priority != 0 {
		return complain("scheduler.priority", "%d is not 0, which is all that %s has", s.Priority, s.Policy)
	}
	for i, f := range s.Flags {
		return complain(fmt.Sprintf("scheduler.flags[%d]", i), "%q cannot be honoured", f)
	}
	for _, of := range []struct {
		name  string
		value uint64
	}{{"runtime", s.Runtime}, {"deadline", s.Deadline}, {"period", s.Period}} {
		if of.value != 0 {
			return complain("scheduler."+of.name, "%d is SCHED_DEADLINE's", of.value)
		}
	}
	return nil
}

func checkIOPriority(p *specs.Process) error {
	io := p.IOPriority
	if io == nil {
		return nil
	}
	if err := oneOf("ioPriority.class", io.Class, specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE); err != nil {
		return err
	}
	if io.Priority < 0 || io.Priority > 7 {
		return complain("ioPriority.priority", "%d is not between 0 and 7", io.Priority)
	}
	return nil
}

func checkAffinity(p *specs.Process) error {
	a := p.ExecCPUAffinity
	if a == nil {
		return nil
	}
	for _, list := range []struct{ field, text string }{{"execCPUAffinity.initial", a.Initial}, {"execCPUAffinity.final", a.Final}} {
		if _, err := agent.ParseCPUs(list.text); err != nil {
			return complain(list.field, "%q is no list of numbers, as 0-2,7", list.text)
		}
	}
	return nil
}

// checkLabels refuses what a host without the security module cannot have, as runc does.
// With it, the label means nothing to a program behind a wall: the wall's own process
// keeps the engine's.
func checkLabels(p *specs.Process) error {
	if p.ApparmorProfile != "" && p.ApparmorProfile != "unconfined" && !has("/sys/kernel/security/apparmor", "/sys/module/apparmor") {
		return complain("apparmorProfile", "%q: this host has no AppArmor", p.ApparmorProfile)
	}
	if p.SelinuxLabel != "" && !has("/sys/fs/selinux/enforce") {
		return complain("selinuxLabel", "%q: this host has no SELinux", p.SelinuxLabel)
	}
	return nil
}

func has(paths ...string) bool {
	return slices.ContainsFunc(paths, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// capabilities that the walls' kernels know, by their numbers' order
// (include/uapi/linux/capability.h).
var known = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
	SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
	AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// UnknownCapabilities takes out of the sets what no kernel here knows, and says what
// that was.
func UnknownCapabilities(c *specs.LinuxCapabilities) (names []string) {
	if c == nil {
		return nil
	}
	for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Inheritable, &c.Permitted, &c.Ambient} {
		var rest []string
		for _, name := range *set {
			if slices.Contains(known, strings.TrimPrefix(name, "CAP_")) {
				rest = append(rest, name)
			} else if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		*set = rest
	}
	return names
}

func checkLinuxValues(s *specs.Spec) error {
	if p := s.Linux.Personality; p != nil {
		if err := oneOf("linux.personality.domain", p.Domain, specs.PerLinux, specs.PerLinux32); err != nil {
			return err
		}
		for i, f := range p.Flags {
			return complain(fmt.Sprintf("linux.personality.flags[%d]", i), "%q cannot be honoured", f)
		}
	}
	for clock, o := range s.Linux.TimeOffsets {
		if err := oneOf("linux.timeOffsets", clock, "boottime", "monotonic"); err != nil {
			return err
		}
		const most = (1<<63 - 1) / 1_000_000_000 / 2 // seconds: KTIME_SEC_MAX / 2 (include/linux/ktime.h)
		if o.Secs < -most || o.Secs > most {
			return complain("linux.timeOffsets."+clock+".secs", "%d is not between -%d and %d", o.Secs, most, most)
		}
		if o.Nanosecs >= 1_000_000_000 {
			return complain("linux.timeOffsets."+clock+".nanosecs", "%d is a second or more", o.Nanosecs)
		}
		if !slices.ContainsFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.TimeNamespace && n.Path == "" }) {
			return complain("linux.timeOffsets", "is given, and no new time namespace in linux.namespaces")
		}
	}
	if p := s.Linux.MemoryPolicy; p != nil {
		if err := oneOf("linux.memoryPolicy.mode", p.Mode, specs.MpolDefault, specs.MpolBind, specs.MpolInterleave,
			specs.MpolWeightedInterleave, specs.MpolPreferred, specs.MpolPreferredMany, specs.MpolLocal); err != nil {
			return err
		}
	}
	return within("linux.seccomp.", checkSeccomp(s.Linux.Seccomp))
}

// architectures are libseccomp's, of config-linux.md, "Seccomp". Those of other machines
// are in every engine's profile.
var architectures = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
	specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X,
	specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// actions are those that the walls have. SCMP_ACT_NOTIFY would need a listener on the host.
var actions = []specs.LinuxSeccompAction{
	specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog,
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
}

func checkSeccomp(s *specs.LinuxSeccomp) error {
	if s == nil {
		return nil
	}
	if err := checkAction("default", s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return err
	}
	for i, a := range s.Architectures {
		if err := oneOf(fmt.Sprintf("architectures[%d]", i), a, architectures...); err != nil {
			return err
		}
	}
	for i, f := range s.Flags {
		if err := oneOf(fmt.Sprintf("flags[%d]", i), f, "SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv); err != nil {
			return err
		}
	}
	if s.ListenerMetadata != "" && s.ListenerPath == "" {
		return complain("listenerMetadata", "is given, and listenerPath is not")
	}
	for i, c := range s.Syscalls {
		field := fmt.Sprintf("syscalls[%d].", i)
		if len(c.Names) == 0 {
			return complain(field+"names", "is empty")
		}
		if err := checkAction(field, c.Action, c.ErrnoRet); err != nil {
			return err
		}
		for j, a := range c.Args {
			if a.Index > 5 {
				return complain(fmt.Sprintf("%sargs[%d].index", field, j), "%d is above 5", a.Index)
			}
			if err := oneOf(fmt.Sprintf("%sargs[%d].op", field, j), a.Op, operators...); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkAction judges an action and its errno, the default's or a call's.
func checkAction(at string, action specs.LinuxSeccompAction, errno *uint) error {
	name, number := at+"action", at+"errnoRet"
	if at == "default" {
		name, number = "defaultAction", "defaultErrnoRet"
	}
	if err := oneOf(name, action, actions...); err != nil {
		return err
	}
	switch {
	case errno == nil:
	case action != specs.ActErrno && action != specs.ActTrace:
		// "When the action doesn't support an errno, the runtime MUST print and error and fail."
		return complain(number, "%d is given, and %s has none", *errno, action)
	case *errno > 0xffff: // SECCOMP_RET_DATA
		return complain(number, "%d is above 65535", *errno)
	}
	return nil
}

// checkFurther judges limits whose controllers the walls leave to the host's kernel, as
// far as the specification does.
func checkFurther(r *specs.LinuxResources) error {
	for i, h := range r.HugepageLimits {
		if !hugePage(h.Pagesize) {
			return complain(fmt.Sprintf("hugepageLimits[%d].pageSize", i), "%q is no size of this host's huge pages", h.Pagesize)
		}
	}
	for device, l := range r.Rdma {
		if l.HcaHandles == nil && l.HcaObjects == nil {
			return complain("rdma", "%s has neither hcaHandles nor hcaObjects", OneLine(device))
		}
	}
	if b := r.BlockIO; b != nil {
		for i, w := range b.WeightDevice {
			if w.Weight == nil && w.LeafWeight == nil {
				return complain(fmt.Sprintf("blockIO.weightDevice[%d]", i), "has neither weight nor leafWeight")
			}
		}
	}
	for i, d := range r.Devices {
		field := fmt.Sprintf("devices[%d].", i)
		if err := oneOf(field+"type", d.Type, "", "a", "c", "b"); err != nil {
			return err
		}
		if strings.Trim(d.Access, "rwm") != "" {
			return complain(field+"access", "%q is not of r, w and m", d.Access)
		}
	}
	return nil
}

// hugePage looks for a size, as 2MB, among the kernel's, which names them by kB.
func hugePage(size string) bool {
	var n uint64
	var unit string
	if _, err := fmt.Sscanf(size, "%d%s", &n, &unit); err != nil {
		return false
	}
	shift, ok := map[string]int{"KB": 0, "MB": 10, "GB": 20}[unit]
	return ok && has(fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB", n<<shift))
}

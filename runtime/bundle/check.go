package bundle

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"bulkhead/runtime/agent"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// checks are the demands upon a specification, in the order in which they are
// reported: the first that is not met is the error. Fields that are not
// mentioned here are honoured or mean nothing behind a wall (Fields).
var checks = []func(*specs.Spec) error{
	checkVersion,
	func(s *specs.Spec) error {
		if s.Process == nil {
			return complain("process", "is missing")
		}
		return within("process.", CheckProcess(s.Process))
	},
	checkRoot,
	checkNames,
	checkMounts,
	checkHooks,
	checkNamespaces,
	checkIDs,
	checkDevices,
	checkResources,
	checkPaths,
	checkLinuxValues,
	refuse,
}

// Check judges a specification by itself, and adds an empty Linux if there is none.
func Check(s *specs.Spec) error {
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	for _, check := range checks {
		if err := check(s); err != nil {
			return err
		}
	}
	return nil
}

func within(prefix string, err error) error {
	if fe, ok := err.(*fieldError); ok {
		return &fieldError{prefix + fe.field, fe.problem}
	}
	return err
}

// semver is the shape of semver.org 2.0.0, which the specification names.
var semver = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

func checkVersion(s *specs.Spec) error {
	if s.Version == "" {
		return complain("ociVersion", "is missing")
	}
	m := semver.FindStringSubmatch(s.Version)
	if m == nil {
		return complain("ociVersion", "%q is no version number", s.Version)
	}
	if m[1] != "1" {
		return complain("ociVersion", "%s is not supported, 1.x is", s.Version)
	}
	return nil
}

// CheckProcess judges a process, of a specification or of exec.
func CheckProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0:
		return complain("args", "is empty")
	case p.Args[0] == "":
		return complain("args[0]", "is empty")
	case p.Cwd == "":
		return complain("cwd", "is missing")
	case !path.IsAbs(p.Cwd):
		return complain("cwd", "%q is not an absolute path", p.Cwd)
	case strings.ContainsRune(p.Cwd, 0):
		return complain("cwd", "contains a zero byte")
	case p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000):
		return complain("oomScoreAdj", "%d is not between -1000 and 1000", *p.OOMScoreAdj)
	case p.User.Umask != nil && *p.User.Umask > 0o777:
		return complain("user.umask", "%#o is above 0777", *p.User.Umask)
	case p.User.UID == ^uint32(0):
		return complain("user.uid", "4294967295 is no user")
	case p.User.GID == ^uint32(0):
		return complain("user.gid", "4294967295 is no group")
	case p.ConsoleSize != nil && (p.ConsoleSize.Height > 0xffff || p.ConsoleSize.Width > 0xffff):
		return complain("consoleSize", "%d by %d is too large for a terminal", p.ConsoleSize.Height, p.ConsoleSize.Width)
	}
	for i, a := range p.Args {
		if strings.ContainsRune(a, 0) {
			return complain(fmt.Sprintf("args[%d]", i), "contains a zero byte")
		}
	}
	for i, e := range p.Env {
		if strings.ContainsRune(e, 0) {
			return complain(fmt.Sprintf("env[%d]", i), "contains a zero byte")
		}
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return complain(fmt.Sprintf("env[%d]", i), "%q is not NAME=VALUE", e)
		}
	}
	for _, check := range []func(*specs.Process) error{
		func(p *specs.Process) error { return checkRlimits(p.Rlimits) },
		func(p *specs.Process) error { return checkCapabilities(p.Capabilities) },
		checkScheduler, checkIOPriority, checkAffinity, checkLabels,
	} {
		if err := check(p); err != nil {
			return err
		}
	}
	return nil
}

// rlimits are the limits that Linux knows (getrlimit(2)).
var rlimits = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS",
	"RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC",
	"RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

func checkRlimits(limits []specs.POSIXRlimit) error {
	seen := map[string]bool{}
	for i, r := range limits {
		field := fmt.Sprintf("rlimits[%d]", i)
		switch {
		case !slices.Contains(rlimits, r.Type):
			return complain(field+".type", "%q is no limit of Linux's", r.Type)
		case seen[r.Type]:
			return complain(field+".type", "%s is given twice", r.Type)
		case r.Soft > r.Hard:
			return complain(field+".soft", "%d is above the hard limit of %d", r.Soft, r.Hard)
		}
		seen[r.Type] = true
	}
	return nil
}

// Capability looks like this; unknown ones are ignored, as config.md, "Linux
// Process" demands, because a newer engine may know more of them than we do.
var capability = regexp.MustCompile(`^CAP_[A-Z0-9_]+$`)

func checkCapabilities(c *specs.LinuxCapabilities) error {
	if c == nil {
		return nil
	}
	for _, set := range []struct {
		name string
		caps []string
	}{
		{"bounding", c.Bounding}, {"effective", c.Effective}, {"inheritable", c.Inheritable},
		{"permitted", c.Permitted}, {"ambient", c.Ambient},
	} {
		for i, name := range set.caps {
			if !capability.MatchString(name) {
				return complain(fmt.Sprintf("capabilities.%s[%d]", set.name, i), "%q is no capability", name)
			}
		}
	}
	return nil
}

func checkRoot(s *specs.Spec) error {
	switch {
	case s.Root == nil:
		return complain("root", "is missing")
	case s.Root.Path == "":
		return complain("root.path", "is missing")
	case strings.ContainsRune(s.Root.Path, 0):
		return complain("root.path", "contains a zero byte")
	}
	return nil
}

func checkNames(s *specs.Spec) error {
	const limit = 64 // bytes; __NEW_UTS_LEN
	for _, row := range []struct{ field, name string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		switch {
		case len(row.name) > limit:
			return complain(row.field, "has %d bytes, %d are allowed", len(row.name), limit)
		case strings.ContainsRune(row.name, 0):
			return complain(row.field, "contains a zero byte")
		}
	}
	for name := range s.Annotations {
		if name == "" {
			return complain("annotations", "one has no name")
		}
	}
	return nil
}

// mountTypes are the file systems that can be mounted inside.
var mountTypes = []string{"tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"}

func checkMounts(s *specs.Spec) error {
	for i := range s.Mounts {
		m := &s.Mounts[i]
		field := fmt.Sprintf("mounts[%d]", i)
		switch {
		case m.Destination == "":
			return complain(field+".destination", "is missing")
		case strings.ContainsRune(m.Destination, 0):
			return complain(field+".destination", "contains a zero byte")
		case IsBind(m) && m.Source == "":
			return complain(field+".source", "is missing")
		case IsBind(m):
		case m.Type == "":
			return complain(field+".type", "is missing")
		case !slices.Contains(mountTypes, m.Type):
			return complain(field+".type", "%q cannot be mounted at %s inside a sandbox (bind, %s can)", m.Type, OneLine(m.Destination), strings.Join(mountTypes, ", "))
		}
		// Relative destinations are from /, as runc has it for old engines.
		m.Destination = path.Clean("/" + m.Destination)
	}
	return nil
}

func checkHooks(s *specs.Spec) error {
	if s.Hooks == nil {
		return nil
	}
	for _, kind := range HookKinds(s.Hooks) {
		for i, h := range kind.Hooks {
			field := fmt.Sprintf("hooks.%s[%d]", kind.Name, i)
			switch {
			case h.Path == "":
				return complain(field+".path", "is missing")
			case !path.IsAbs(h.Path):
				return complain(field+".path", "%q is not an absolute path", h.Path)
			case h.Timeout != nil && *h.Timeout <= 0:
				return complain(field+".timeout", "%d is not above 0", *h.Timeout)
			}
		}
	}
	return nil
}

// HookKind is one list of hooks under its name.
type HookKind struct {
	Name  string
	Hooks []specs.Hook
}

// HookKinds are all hooks in the order in which a container meets them.
func HookKinds(h *specs.Hooks) []HookKind {
	if h == nil {
		h = &specs.Hooks{}
	}
	return []HookKind{
		//lint:ignore SA1019 prestart is deprecated, and docker's way to set up its networks
		{"prestart", h.Prestart},
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	}
}

// Namespaces are the kinds that the specification knows.
var Namespaces = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

func checkNamespaces(s *specs.Spec) error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range s.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		switch {
		case !slices.Contains(Namespaces, ns.Type):
			return complain(field+".type", "%q is no namespace of Linux's", ns.Type)
		case seen[ns.Type]:
			return complain(field+".type", "%s is given twice", ns.Type)
		case ns.Path != "" && !path.IsAbs(ns.Path):
			return complain(field+".path", "%q is not an absolute path", ns.Path)
		}
		seen[ns.Type] = true
	}
	return nil
}

// devices are those that the Sentry has. Others would be the host's, and behind
// the wall there is no way to them.
var devices = []struct{ major, minor int64 }{
	{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, // null, zero, full, random, urandom
	{5, 0}, {5, 1}, {5, 2}, // tty, console, ptmx
}

func checkDevices(s *specs.Spec) error {
	for i, d := range s.Linux.Devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		known := false
		for _, have := range devices {
			known = known || (d.Type == "c" || d.Type == "u") && have.major == d.Major && have.minor == d.Minor
		}
		switch {
		case !path.IsAbs(d.Path):
			return complain(field+".path", "%q is not an absolute path", d.Path)
		case !slices.Contains([]string{"c", "b", "u", "p"}, d.Type):
			return complain(field+".type", "%q is none of c, b, u, p", d.Type)
		case d.Type != "p" && !known:
			return complain(field, "the host's device %s (%s %d:%d) cannot be reached from a sandbox", d.Path, d.Type, d.Major, d.Minor)
		}
	}
	return nil
}

func checkResources(s *specs.Spec) error {
	return within("linux.resources.", CheckResources(s.Linux.Resources))
}

// CheckResources judges limits, of a specification or of update.
func CheckResources(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	if err := checkFurther(r); err != nil {
		return err
	}
	if m := r.Memory; m != nil {
		if m.Limit != nil && m.Swap != nil && *m.Limit > 0 && *m.Swap > 0 && *m.Swap < *m.Limit {
			return complain("memory.swap", "%d is memory and swap together, and below the memory limit of %d", *m.Swap, *m.Limit)
		}
		if m.Swappiness != nil && *m.Swappiness > 100 {
			return complain("memory.swappiness", "%d is above 100", *m.Swappiness)
		}
		if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
			return complain("memory.disableOOMKiller", "behind a wall a program that goes beyond the limit is killed, and cannot wait")
		}
	}
	if c := r.CPU; c != nil {
		// kernel/sched/core.c: a period is from 1 ms to 1 s, a quota at least 1 ms.
		if c.Period != nil && *c.Period != 0 && (*c.Period < 1000 || *c.Period > 1_000_000) {
			return complain("cpu.period", "%d is not between 1000 and 1000000 microseconds", *c.Period)
		}
		if c.Quota != nil && *c.Quota > 0 && *c.Quota < 1000 {
			return complain("cpu.quota", "%d is below 1000 microseconds", *c.Quota)
		}
		if c.Burst != nil && c.Quota != nil && *c.Quota > 0 && *c.Burst > uint64(*c.Quota) {
			return complain("cpu.burst", "%d is above the quota of %d microseconds", *c.Burst, *c.Quota)
		}
		if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
			return complain("cpu.idle", "%d is neither 0 nor 1", *c.Idle)
		}
		for _, list := range []struct{ field, text string }{{"cpu.cpus", c.Cpus}, {"cpu.mems", c.Mems}} {
			if _, err := agent.ParseCPUs(list.text); err != nil {
				return complain(list.field, "%q is no list of numbers, as 0-2,7", list.text)
			}
		}
	}
	return nil
}

func checkPaths(s *specs.Spec) error {
	for _, list := range []struct {
		field string
		paths []string
	}{{"linux.maskedPaths", s.Linux.MaskedPaths}, {"linux.readonlyPaths", s.Linux.ReadonlyPaths}} {
		for i, p := range list.paths {
			if !path.IsAbs(p) {
				return complain(fmt.Sprintf("%s[%d]", list.field, i), "%q is not an absolute path", p)
			}
		}
	}
	if slices.Contains(strings.Split(s.Linux.CgroupsPath, "/"), "..") {
		return complain("linux.cgroupsPath", "%q contains ..", s.Linux.CgroupsPath)
	}
	propagation := []string{"", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"}
	if !slices.Contains(propagation, s.Linux.RootfsPropagation) {
		return complain("linux.rootfsPropagation", "%q is unknown", s.Linux.RootfsPropagation)
	}
	return nil
}

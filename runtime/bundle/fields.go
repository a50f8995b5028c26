package bundle

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Verdict is what becomes of a field behind a wall.
type Verdict string

const (
	Honoured    Verdict = "honoured"
	Refused     Verdict = "refused"     // by its name, wherever it is given
	Meaningless Verdict = "meaningless" // taken, and nothing could come of it
)

// Field is one of a configuration's, with all beneath it that has no row of its own.
type Field struct {
	Path       string // as errors have it; [] is each of an array, {} each of a map
	Sentry, VM Verdict
	Note       string // why not, or how

	// given says whether a configuration has it: the check of a field that is refused. nil: it
	// is another's (checks; cgroup.Guest).
	given func(*specs.Spec) bool
}

// both is a row that holds for both walls.
func both(v Verdict, path, note string) Field { return Field{Path: path, Sentry: v, VM: v, Note: note} }

// refused is a row for a field that no wall can honour; why is the error's words.
func refused(path, why string, given func(*specs.Spec) bool) Field {
	return Field{path, Refused, Refused, why, given}
}

// honoured are rows without a word.
func honoured(paths string) (rows []Field) {
	for path := range strings.FieldsSeq(paths) {
		rows = append(rows, both(Honoured, path, ""))
	}
	return rows
}

// Fields is every field of the specification, in its order. refuse reads it, bulkhead
// features --fields and docs/oci.md print it, and TestFields looks that none is missing.
func Fields() []Field {
	return slices.Concat(generalFields(), processFields(), linuxFields(), resourceFields())
}

const (
	windows = "Windows'"
	idsNote = "owners of the host's files are translated on their way in and out; a machine's files have the host's owners"
)

func generalFields() []Field {
	return slices.Concat(
		[]Field{both(Honoured, "ociVersion", "1.x, later ones' unknown fields passed over")},
		honoured("root.path"),
		[]Field{
			both(Honoured, "root.readonly", "with --overlay=memory nothing reaches the host in any case"),
			both(Honoured, "hostname", "without one the name of the uts namespace that is joined, or the host's"),
		},
		honoured("domainname mounts[].destination"),
		[]Field{
			both(Honoured, "mounts[].type", strings.Join(mountTypes, ", ")+", and what is bound; others are refused: a file system of the host's kernel has no place behind a wall"),
			both(Honoured, "mounts[].source", "of what is bound; else a word for /proc/mounts"),
			both(Honoured, "mounts[].options", "`bulkhead features` has the words, the rest is the file system's; propagation means nothing in a tree that nobody else sees"),
			{"mounts[].uidMappings", Honoured, Refused, idsNote, func(s *specs.Spec) bool { return slices.ContainsFunc(s.Mounts, IsIDMapped) }},
			{"mounts[].gidMappings", Honoured, Refused, idsNote, nil}, // which come with the users'
		},
		hookFields(),
		[]Field{
			both(Honoured, "annotations", "those of ours begin with dev.bulkhead., a pod's are containerd's and CRI-O's"),
			refused("solaris", "this runtime runs Linux containers", func(s *specs.Spec) bool { return s.Solaris != nil }),
			refused("windows", "this runtime runs Linux containers", func(s *specs.Spec) bool { return s.Windows != nil }),
			refused("vm", "this wall has no virtual machine to configure", func(s *specs.Spec) bool { return s.VM != nil }),
			refused("zos", "this runtime runs Linux containers", func(s *specs.Spec) bool { return s.ZOS != nil }),
			refused("freebsd", "this runtime runs Linux containers", func(s *specs.Spec) bool { return s.FreeBSD != nil }),
		})
}

func hookFields() (rows []Field) {
	for _, kind := range HookKinds(nil) {
		rows = append(rows, both(Honoured, "hooks."+kind.Name+"[]", ""))
	}
	return rows
}

func processFields() []Field {
	return slices.Concat(
		honoured("process.terminal process.consoleSize process.user.uid process.user.gid"),
		[]Field{both(Honoured, "process.user.umask", "0022 where there is none")},
		honoured("process.user.additionalGids"),
		[]Field{both(Meaningless, "process.user.username", windows)},
		honoured("process.args"),
		[]Field{both(Meaningless, "process.commandLine", windows)},
		honoured("process.env process.cwd"),
		[]Field{both(Honoured, "process.capabilities", "towards the wall's own kernel: behind it, all of them reach nothing of the host's; unknown ones are left out, with a warning")},
		honoured("process.rlimits[] process.noNewPrivileges"),
		[]Field{
			both(Meaningless, "process.apparmorProfile", "refused where the host has no AppArmor; else it is about a program's calls to the host's kernel, and there are none"),
			both(Honoured, "process.oomScoreAdj", "inside, and the sandbox's place among the host's processes"),
			both(Honoured, "process.scheduler.policy", "SCHED_OTHER, SCHED_BATCH, SCHED_IDLE; others are refused"),
			both(Honoured, "process.scheduler.nice", ""),
			both(Refused, "process.scheduler.priority", "policies with a priority have no place behind a wall"),
			both(Refused, "process.scheduler.flags", "no scheduler's flag can be honoured"),
			both(Refused, "process.scheduler.runtime", "SCHED_DEADLINE has no place behind a wall"),
			both(Refused, "process.scheduler.deadline", "SCHED_DEADLINE has no place behind a wall"),
			both(Refused, "process.scheduler.period", "SCHED_DEADLINE has no place behind a wall"),
			both(Meaningless, "process.selinuxLabel", "refused where the host has no SELinux; else it is about a program's calls to the host's kernel, and there are none"),
			both(Honoured, "process.ioPriority", "by the processes that do the I/O, on the host; inside, the default is told"),
			both(Meaningless, "process.execCPUAffinity.initial", "nothing of an exec's runs before its program does"),
			both(Honoured, "process.execCPUAffinity.final", "of the CPUs that there are inside"),
		})
}

func linuxFields() []Field {
	return slices.Concat(
		[]Field{
			{"linux.uidMappings", Honoured, Refused, idsNote, hasUserNamespace},
			{"linux.gidMappings", Honoured, Refused, idsNote, nil}, // which come with the users'
			both(Honoured, "linux.sysctl", "the container's own kernel's; one that it has not is refused by name, but for net.*, which engines set for all"),
			both(Honoured, "linux.cgroupsPath", "of the sandbox's processes on the host"),
			both(Honoured, "linux.namespaces[].type", "new ones are the wall's own; user with the Sentry alone"),
			both(Honoured, "linux.namespaces[].path", "network, ipc and uts of the host's; of a pod's containers, pid as well"),
			both(Honoured, "linux.devices[]", "those that the wall has itself (null, zero, full, random, urandom, tty, console, ptmx) and FIFOs; the host's are refused"),
			refused("linux.netDevices", "moving the host's network devices is not supported", func(s *specs.Spec) bool { return len(s.Linux.NetDevices) > 0 }),
			both(Honoured, "linux.seccomp.defaultAction", "but for SCMP_ACT_NOTIFY, which is refused"),
		},
		honoured("linux.seccomp.defaultErrnoRet linux.seccomp.architectures"),
		[]Field{
			both(Honoured, "linux.seccomp.flags", "SECCOMP_FILTER_FLAG_LOG; the others mean nothing to a program of one thread, on a kernel that is not the host's"),
			both(Meaningless, "linux.seccomp.listenerPath", "its only user is SCMP_ACT_NOTIFY, which is refused"),
			both(Meaningless, "linux.seccomp.listenerMetadata", "its only user is SCMP_ACT_NOTIFY, which is refused"),
		},
		honoured("linux.seccomp.syscalls[]"),
		[]Field{
			both(Meaningless, "linux.rootfsPropagation", "nobody else sees the tree"),
		},
		honoured("linux.maskedPaths linux.readonlyPaths"),
		[]Field{
			both(Meaningless, "linux.mountLabel", "no mount is the host's"),
			refused("linux.intelRdt", "resource director technology is not supported", func(s *specs.Spec) bool { return s.Linux.IntelRdt != nil }),
			refused("linux.memoryPolicy", "NUMA policies are not supported", func(s *specs.Spec) bool { return s.Linux.MemoryPolicy != nil }),
			both(Honoured, "linux.personality.domain", "LINUX, LINUX32"),
			both(Refused, "linux.personality.flags", "the specification has none yet"),
			{"linux.timeOffsets", Honoured, Refused, "a guest's clocks cannot be off for one container", func(s *specs.Spec) bool { return len(s.Linux.TimeOffsets) > 0 }},
		})
}

const (
	outside    = "by the sandbox's control group on the host"
	outsideToo = "inside exactly, and by the sandbox's control group on the host with slack for the wall itself"
)

func resourceFields() []Field {
	return []Field{
		both(Meaningless, "linux.resources.devices[]", "no device of the host's can be reached, whatever the rules are; those of the wall's own are there"),
		both(Honoured, "linux.resources.memory.limit", outsideToo),
		{Path: "linux.resources.memory.reservation", Sentry: Honoured, VM: Honoured, Note: outside + "; in a machine as memory.low besides"},
		{Path: "linux.resources.memory.swap", Sentry: Honoured, VM: Honoured, Note: outside + "; inside there is no swap"},
		both(Meaningless, "linux.resources.memory.kernel", "deprecated; the wall's kernel takes its memory from the sandbox's"),
		both(Meaningless, "linux.resources.memory.kernelTCP", "deprecated; the wall's kernel takes its memory from the sandbox's"),
		both(Honoured, "linux.resources.memory.swappiness", outside),
		both(Refused, "linux.resources.memory.disableOOMKiller", "behind a wall a program that goes beyond the limit is killed"),
		both(Meaningless, "linux.resources.memory.useHierarchy", "a container's group has none beneath"),
		both(Honoured, "linux.resources.memory.checkBeforeUpdate", "by update"),
		both(Honoured, "linux.resources.cpu.shares", outside),
		both(Honoured, "linux.resources.cpu.quota", outside),
		both(Honoured, "linux.resources.cpu.burst", outside),
		both(Honoured, "linux.resources.cpu.period", outside),
		{Path: "linux.resources.cpu.realtimeRuntime", Sentry: Honoured, VM: Refused, Note: outside + "; a guest's control groups have no real-time share"},
		{Path: "linux.resources.cpu.realtimePeriod", Sentry: Honoured, VM: Honoured, Note: outside},
		both(Honoured, "linux.resources.cpu.cpus", outside+"; inside there are as many"),
		both(Honoured, "linux.resources.cpu.mems", outside),
		both(Honoured, "linux.resources.cpu.idle", outside),
		both(Honoured, "linux.resources.pids.limit", outsideToo),
		both(Honoured, "linux.resources.blockIO", outside+", for what the sandbox and its file server do"),
		both(Meaningless, "linux.resources.hugepageLimits[]", "a size that the host has not is refused; inside no huge page is ever taken from the host's pool"),
		both(Honoured, "linux.resources.network", outside),
		both(Meaningless, "linux.resources.rdma", "there is no such device behind a wall"),
		{Path: "linux.resources.unified", Sentry: Honoured, VM: Honoured, Note: "by the sandbox's control group on the host; in a machine by the guest's"},
	}
}

// refuse complains of a field that no wall can honour and that must not be ignored.
func refuse(s *specs.Spec) error {
	for _, f := range Fields() {
		if f.given != nil && f.Sentry == Refused && f.given(s) {
			return complain(f.Path, "%s", f.Note)
		}
	}
	return nil
}

// CheckMachine complains of a field that a machine alone cannot honour.
func CheckMachine(s *specs.Spec) error {
	for _, f := range Fields() {
		if f.given != nil && f.Sentry != Refused && f.VM == Refused && f.given(s) {
			return complain(f.Path, "%s", f.Note)
		}
	}
	return nil
}

// WriteFields prints the table in Markdown, which a person reads as it is.
func WriteFields(w io.Writer) error {
	text := strings.NewReplacer("|", `\|`)
	var b strings.Builder
	b.WriteString("| field | sentry | vm | |\n|---|---|---|---|\n")
	for _, f := range Fields() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.Path, f.Sentry, f.VM, text.Replace(f.Note))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

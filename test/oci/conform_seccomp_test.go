package oci

import (
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccompRules are config-linux.md's "Seccomp".
func seccompRules() []rule {
	const (
		seccomp = "config-linux.md, Seccomp"
		valid   = "config.md, Valid values"
		invalid = "Runtimes MUST generate an error when invalid or unsupported values are encountered."
		action  = "action (string, REQUIRED) - the action for seccomp rules."
		ops     = "op (string, REQUIRED) - the operator for syscall arguments in seccomp."
	)
	call := func(calls ...specs.LinuxSyscall) func(*specs.Spec) {
		return func(s *specs.Spec) {
			if s.Linux.Seccomp == nil {
				s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
			}
			s.Linux.Seccomp.Syscalls = append(s.Linux.Seccomp.Syscalls, calls...)
		}
	}
	far := uint(unix.EXDEV)
	one := func(name string, a specs.LinuxSeccompAction, errno *uint, args ...specs.LinuxSeccompArg) func(*specs.Spec) {
		return call(specs.LinuxSyscall{Names: []string{name}, Action: a, ErrnoRet: errno, Args: args})
	}
	with := func(s specs.LinuxSeccomp) func(*specs.Spec) { return func(c *specs.Spec) { c.Linux.Seccomp = &s } }
	in := func(name, says, look, sees string, edit func(*specs.Spec)) rule {
		return rule{name: "seccomp_" + name, in: seccomp, says: says, batch: "seccomp", edit: edit, look: look, sees: sees}
	}
	refused := func(name, says string, edit func(*specs.Spec), words ...string) rule {
		return rule{name: "seccomp_" + name, in: seccomp, says: says, edit: edit, refused: append([]string{"linux.seccomp"}, words...)}
	}
	rules := []rule{
		in("errno", action, "acts call 83 0", "EPERM", one("mkdir", specs.ActErrno, nil)), // mkdir(NULL)
		in("errno_given", "errnoRet (uint, OPTIONAL) - the errno return code to use.", "acts call 84 0", "EXDEV", one("rmdir", specs.ActErrno, &far)),
		in("default_allows", "defaultAction (string, REQUIRED) - the default action for seccomp.", "acts call 87 0", "EFAULT", nil), // unlink(NULL)
		in("kill_process", "SCMP_ACT_KILL_PROCESS", "acts call 162; echo $?", "(.*\n)?159", one("sync", specs.ActKillProcess, nil)),
		in("kill", "SCMP_ACT_KILL", "acts call 306 1; echo $?", "(.*\n)?159", one("syncfs", specs.ActKill, nil)),
		in("kill_thread", "SCMP_ACT_KILL_THREAD", "acts call 74 1; echo $?", "(.*\n)?159", one("fsync", specs.ActKillThread, nil)),
		in("trap", "SCMP_ACT_TRAP", "acts call 75 1; echo $?", "(.*\n)?159", one("fdatasync", specs.ActTrap, nil)),
		in("log", "SCMP_ACT_LOG", "acts call 95 022", "[0-9]+", one("umask", specs.ActLog, nil)),
		in("trace", "SCMP_ACT_TRACE", "acts call 100 0", "ENOSYS", one("times", specs.ActTrace, nil)), // nobody traces
		in("several_names", "names (array of strings, REQUIRED) - the names of the syscalls.", "acts call 88 0 0; acts call 86 0 0", "EPERM\nEPERM", call(specs.LinuxSyscall{Names: []string{"symlink", "link"}, Action: specs.ActErrno})),
		in("unknown_name", "names (array of strings, REQUIRED) - the names of the syscalls.", "echo runs", "runs", call(specs.LinuxSyscall{Names: []string{"no_such_call_yet", "mkdir"}, Action: specs.ActErrno})),
		in("mode", "Seccomp configuration allows one to configure actions to take for matched syscalls and furthermore also allows matching on values passed as arguments to syscalls.", "grep ^Seccomp: /proc/self/status | cut -f2", "2", nil),
		in("equal", ops, "acts call 62 1 40; acts call 62 99999 0", "EPERM\nESRCH", one("kill", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 1, Value: 40, Op: specs.OpEqualTo})),
		in("not_equal", ops, "acts call 113 1 5; acts call 113 -1 -1", "EPERM\n0", one("setreuid", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 1, Value: 0xffffffffffffffff, Op: specs.OpNotEqual})),
		in("less", ops, "acts call 37 9; acts call 37 10", "EPERM\n0", one("alarm", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 0, Value: 10, Op: specs.OpLessThan})),
		in("less_or_equal", ops, "acts call 32 900; acts call 32 901", "EPERM\nEBADF", one("dup", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 0, Value: 900, Op: specs.OpLessEqual})),
		in("greater", ops, "acts call 121 1000; acts call 121 1001", "ESRCH\nEPERM", one("getpgid", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 0, Value: 1000, Op: specs.OpGreaterThan})),
		in("greater_or_equal", ops, "acts call 124 999; acts call 124 1000", "ESRCH\nEPERM", one("getsid", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 0, Value: 1000, Op: specs.OpGreaterEqual})),
		in("masked_equal", ops, "acts call 140 0x10 99; acts call 140 0x20 99", "EPERM\nEINVAL", one("getpriority", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 0, Value: 0xf0, ValueTwo: 0x10, Op: specs.OpMaskedEqual})),
		in("two_arguments", "index (uint, REQUIRED) - the index for syscall arguments in seccomp.", "acts call 141 7 8 9; acts call 141 7 9 9", "EPERM\nEINVAL", one("setpriority", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 0, Value: 7, Op: specs.OpEqualTo}, specs.LinuxSeccompArg{Index: 1, Value: 8, Op: specs.OpEqualTo})),
		in("value_64", "value (uint64, REQUIRED) - the value for syscall arguments in seccomp.", "acts call 8 77 0x100000000 0; acts call 8 77 0 0", "EPERM\nEBADF", one("lseek", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 1, Value: 1 << 32, Op: specs.OpEqualTo})),
		in("children", "Seccomp provides application sandboxing mechanism in the Linux kernel.", "sh -c 'sh -c \"acts call 83 0\"'", "EPERM", nil),
		{name: "seccomp_default_errno", in: seccomp, says: "defaultErrnoRet (uint, OPTIONAL) - the errno return code to use.", steps: func(x *trial) {
			x.prints("EXDEV\n", with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: nil, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: &far}}}), "acts", "call", "83", "0")
		}},
		{name: "seccomp_flags", in: seccomp, says: "flags (array of strings, OPTIONAL) - list of flags to use with seccomp(2).", batch: "seccomp_flags", edit: with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno}}}), look: "acts call 83 0", sees: "EPERM", runc: "runc 1.1.5 in Debian knows no seccomp flags"},
		{name: "seccomp_architectures", in: seccomp, says: "architectures (array of strings, OPTIONAL) - the architecture used for system calls.", batch: "seccomp_architectures", edit: with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
			Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno}}}), look: "acts call 83 0", sees: "EPERM"},
		{name: "seccomp_none", in: seccomp, says: "seccomp (object, OPTIONAL)", look: "grep ^Seccomp: /proc/self/status | cut -f2", sees: "0"},
		{name: "seccomp_exec", in: seccomp, says: "Seccomp provides application sandboxing mechanism in the Linux kernel.", batch: "seccomp", edit: one("mkdir", specs.ActErrno, nil), watch: func(x *trial, name string) {
			if r := x.do("exec", name, "acts", "call", "83", "0"); r.Out != "EPERM\n" {
				x.errorf("exec: %s", r)
			}
		}},
		refused("action_unknown", action, one("mkdir", "SCMP_ACT_MAYBE", nil), "SCMP_ACT_MAYBE"),
		refused("default_unknown", "Allowed values are the same as syscalls[].action.", with(specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_MAYBE"}), "SCMP_ACT_MAYBE"),
		refused("default_absent", "defaultAction (string, REQUIRED) - the default action for seccomp.", with(specs.LinuxSeccomp{Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActErrno}}}), "defaultAction"),
		refused("operator_unknown", ops, one("mkdir", specs.ActErrno, nil, specs.LinuxSeccompArg{Op: "SCMP_CMP_ISH"}), "SCMP_CMP_ISH"),
		refused("arch_unknown", "A valid list of constants as of libseccomp v2.6.0 is shown below.", with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_PDP11"}}), "SCMP_ARCH_PDP11"),
		refused("flag_unknown", "A valid list of constants is shown below.", with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_MAGIC"}}), "SECCOMP_FILTER_FLAG_MAGIC"),
		refused("no_names", "names MUST contain at least one entry.", call(specs.LinuxSyscall{Action: specs.ActErrno}), "names"),
		refused("index_beyond", "index (uint, REQUIRED) - the index for syscall arguments in seccomp.", one("mkdir", specs.ActErrno, nil, specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}), "index"),
		refused("errno_of_kill", "When the action doesn't support an errno, the runtime MUST print and error and fail.", one("mkdir", specs.ActKill, &far), "errnoRet"),
		refused("default_errno_of_allow", "When the action doesn't support an errno, the runtime MUST print and error and fail.", with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: &far}), "defaultErrnoRet"),
		refused("listener_metadata", "This field MUST NOT be set if listenerPath is not set.", with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerMetadata: "x"}), "listenerMetadata"),
		refused("notify", "If sending to this socket fails, the runtime MUST generate an error.", with(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/no/such/socket", Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}), "SCMP_ACT_NOTIFY"),
	}
	return rules
}

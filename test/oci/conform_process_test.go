package oci

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// processRules are config.md's "Process" and what is beneath.
func processRules() []rule {
	const (
		process = "config.md, Process"
		posix   = "config.md, POSIX process"
		linux   = "config.md, Linux Process"
		user    = "config.md, POSIX-platform User"
		valid   = "config.md, Valid values"
		invalid = "Runtimes MUST generate an error when invalid or unsupported values are encountered."
		args    = "This specification extends the IEEE standard in that at least one entry is REQUIRED (non-Windows), and that entry is used with the same semantics as execvp's file."
		env     = "env (array of strings, OPTIONAL) with the same semantics as IEEE Std 1003.1-2008's environ."
		cwd     = "cwd (string, REQUIRED) is the working directory that will be set for the executable."
		unmeant = "The runtime MUST generate an error for any values which cannot be mapped to a relevant kernel interface."
	)
	capabilities := func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{
			Bounding:    []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW", "CAP_SYS_ADMIN"},
			Permitted:   []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"},
			Inheritable: []string{"CAP_KILL", "CAP_SETUID", "CAP_NET_RAW"},
			Effective:   []string{"CAP_CHOWN", "CAP_KILL"},
			Ambient:     []string{"CAP_NET_RAW"},
		}
		s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 1002}, Umask: pointer(uint32(0o27))}
		s.Process.NoNewPrivileges = true
		s.Process.OOMScoreAdj = pointer(321)
		s.Process.Env = []string{"PATH=/bin", "HOME=/root", "A=b c", "EMPTY=", "A_B-c.d=odd", "UTF=ü", "LINES_=a\nb"}
		s.Process.Cwd = "/etc"
	}
	inProcess := func(name, in, says, look, sees string) rule {
		return rule{name: name, in: in, says: says, batch: "process", edit: capabilities, look: look, sees: sees}
	}
	status := func(field string) string { return "grep ^" + field + ": /proc/1/status | tr -s '\t ' ' '" }
	rules := []rule{
		{name: "process_no_args", in: process, says: args, edit: func(s *specs.Spec) { s.Process.Args = nil }, refused: []string{"process.args"}},
		{name: "process_empty_args", in: process, says: args, raw: func(c map[string]any) { c["process"].(map[string]any)["args"] = []string{} }, refused: []string{"process.args"}},
		{name: "process_empty_program", in: process, says: args, edit: func(s *specs.Spec) { s.Process.Args = []string{""} }, refused: []string{"process.args[0]"}},
		{name: "process_program_absent", in: process, says: args, edit: func(s *specs.Spec) { s.Process.Args = []string{"/no/such/program"} }, refused: []string{"/no/such/program"}},
		{name: "process_program_not_found", in: process, says: args, edit: func(s *specs.Spec) { s.Process.Args = []string{"no-such-program"} }, refused: []string{"no-such-program", "executable file not found in $PATH"}},
		{name: "process_path_of_env", in: process, says: "used with the same semantics as execvp's file", raw: func(c map[string]any) { c["process"].(map[string]any)["env"] = []string{"PATH=/none:/bin"} }, look: "echo $PATH", sees: "/none:/bin"},
		{name: "process_path_elsewhere", in: process, says: "used with the same semantics as execvp's file", edit: func(s *specs.Spec) { s.Process.Env = []string{"PATH=/none"} }, refused: []string{"executable file not found in $PATH"}},
		{name: "process_relative_program", in: process, says: "used with the same semantics as execvp's file", steps: func(x *trial) {
			x.prints("root\n", func(s *specs.Spec) { s.Process.Cwd = "/bin" }, "./sh", "-c", "echo root")
		}},
		{name: "process_args_whole", in: process, says: "args (array of strings, OPTIONAL) with similar semantics to IEEE Std 1003.1-2008 execvp's argv.", steps: func(x *trial) {
			x.prints("[a b] [] [*] ['\"] [x\ny] ", nil, "sh", "-c", `for a in "$@"; do printf '[%s] ' "$a"; done`, "sh", "a b", "", "*", `'"`, "x\ny")
		}},
		{name: "process_no_cwd", in: process, says: cwd, edit: func(s *specs.Spec) { s.Process.Cwd = "" }, refused: []string{"process.cwd"}},
		{name: "process_relative_cwd", in: process, says: "This value MUST be an absolute path.", edit: func(s *specs.Spec) { s.Process.Cwd = "etc" }, refused: []string{"process.cwd", "etc"}},
		{name: "process_cwd_file", in: process, says: cwd, edit: func(s *specs.Spec) { s.Process.Cwd = "/etc/passwd" }, refused: []string{"/etc/passwd"}},
		inProcess("process_cwd", process, cwd, "pwd; readlink /proc/1/cwd", "/etc\n/etc"),
		inProcess("process_env", process, env, `echo "$A|${EMPTY-unset}|$UTF|$LINES_"; tr '\0' '\n' </proc/1/environ | grep -c odd`, "b c\\|\\|ü\\|a\nb\n1"),
		{name: "process_env_only", in: process, says: env, look: `tr '\0' '\n' </proc/1/environ | sort`, sees: "HOME=/root\nPATH=/bin"},
		{name: "process_env_order", in: process, says: env, batch: "order", edit: func(s *specs.Spec) {
			s.Process.Env = []string{"Z=1", "PATH=/bin", "B=2", "HOME=/x", "A=3"}
		}, look: `tr '\0' ' ' </proc/1/environ`, sees: "Z=1 PATH=/bin B=2 HOME=/x A=3"},
		{name: "process_no_terminal", in: process, says: "terminal (bool, OPTIONAL) specifies whether a terminal is attached to the process, defaults to false.", look: "[ -t 0 ] || [ -t 1 ] || echo none; (cat </dev/tty) 2>/dev/null || echo none", sees: "none\nnone"},
		{name: "process_console_size_ignored", in: process, says: "Runtimes MUST ignore consoleSize if terminal is false or unset.", batch: "console", edit: func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 1, Width: 2} }, look: "[ -t 0 ] || echo none", sees: "none"},
		{name: "process_terminal", in: process, says: "As an example, if set to true on Linux a pseudoterminal pair is allocated for the process and the pseudoterminal pty is duplicated on the process's standard streams.", steps: func(x *trial) {
			x.terminal("tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo three; ls /dev/console; exit", "/dev/pts/0", "30 100", "three", "/dev/console")
		}},

		inProcess("user_uid", user, "uid (int, REQUIRED) specifies the user ID in the container namespace.", status("Uid"), "Uid: 1000 1000 1000 1000"),
		inProcess("user_gid", user, "gid (int, REQUIRED) specifies the group ID in the container namespace.", status("Gid"), "Gid: 1001 1001 1001 1001"),
		inProcess("user_groups", user, "additionalGids (array of ints, OPTIONAL) specifies additional group IDs in the container namespace to be added to the process.", "grep ^Groups: /proc/1/status | tr -s '\t ' '\n' | grep . | sort -n | tr '\n' ' '", "Groups: 5 1002"),
		inProcess("user_umask", user, "umask (int, OPTIONAL) specifies the umask of the user.", "umask; touch /tmp/u; mkdir /tmp/ud; stat -c %a /tmp/u /tmp/ud", "0027\n640\n750"),
		inProcess("user_owns", user, "uid (int, REQUIRED) specifies the user ID in the container namespace.", "touch /tmp/o; stat -c '%u %g' /tmp/o", "1000 1001"),
		{name: "user_root", in: user, says: "uid (int, REQUIRED) specifies the user ID in the container namespace.", look: "id -u; id -g; grep ^Groups: /proc/1/status | tr -d '\t '", sees: "0\n0\nGroups:"},
		{name: "user_umask_kept", in: user, says: "If unspecified, the umask should not be changed from the calling process' umask.",
			ours: "the umask is 0022 where none is given, as runc has it: an engine's own is no part of the container", runc: "it sets 0022", steps: func(x *trial) {
				name := id(x.T)
				x.forget(name)
				line := append([]string{}, x.p.args...)
				x.p = &program{name: x.p.name, root: x.p.root, log: x.p.log, args: append([]string{"sh", "-c", `umask 0077; exec "$@"`, "sh"}, line...)}
				if r := x.do("run", "--bundle", bundle(x.T, nil, "sh", "-c", "umask"), name); r.Out != "0077\n" {
					x.errorf("run: %s", r)
				}
			}},
		{name: "user_umask_beyond", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Process.User.Umask = pointer(uint32(0o1777)) }, refused: []string{"process.user.umask"}},
		{name: "user_negative", in: valid, says: invalid, raw: func(c map[string]any) { c["process"].(map[string]any)["user"] = map[string]any{"uid": -1, "gid": 0} }, refused: []string{"process.user.uid"}},
		{name: "user_beyond", in: valid, says: invalid, raw: func(c map[string]any) {
			c["process"].(map[string]any)["user"] = map[string]any{"uid": 0, "gid": 1 << 33}
		}, refused: []string{"process.user.gid"}},

		inProcess("capabilities_effective", linux, "effective (array of strings, OPTIONAL) the effective field is an array of effective capabilities that are kept for the process.", status("CapEff"), "CapEff: 0000000000002000"),
		inProcess("capabilities_bounding", linux, "bounding (array of strings, OPTIONAL) the bounding field is an array of bounding capabilities that are kept for the process.", status("CapBnd"), "CapBnd: 00000000002020a1"),
		inProcess("capabilities_permitted", linux, "permitted (array of strings, OPTIONAL) the permitted field is an array of permitted capabilities that are kept for the process.", status("CapPrm"), "CapPrm: 0000000000002000"),
		inProcess("capabilities_inheritable", linux, "inheritable (array of strings, OPTIONAL) the inheritable field is an array of inheritable capabilities that are kept for the process.", status("CapInh"), "CapInh: 00000000000020a0"),
		inProcess("capabilities_ambient", linux, "ambient (array of strings, OPTIONAL) the ambient field is an array of ambient capabilities that are kept for the process.", status("CapAmb"), "CapAmb: 0000000000002000"),
		{name: "capabilities_unknown", in: linux, says: "Runtimes SHOULD NOT fail if the container configuration requests capabilities that cannot be granted, for example, if the runtime operates in a restricted environment with a limited set of capabilities.", steps: func(x *trial) {
			x.prints("00000000000000a1\n", func(s *specs.Spec) {
				c := []string{"CAP_CHOWN", "CAP_NEXT_BIG_THING", "CAP_KILL", "CAP_SETUID"}
				s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: c, Permitted: c, Effective: c}
			}, "sh", "-c", "grep CapEff /proc/1/status | cut -f2")
		}},
		{name: "capabilities_unknown_warning", in: linux, says: "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted otherwise MUST be logged as a warning by the runtime.", steps: func(x *trial) {
			name := id(x.T)
			r := x.create(name, bundle(x.T, func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_NEXT_BIG_THING"} }, "true"))
			if log := r.Err + x.p.logged(); r.Code != 0 || !strings.Contains(log, "CAP_NEXT_BIG_THING") {
				x.errorf("no warning: %s%s", r, log)
			}
		}},
		{name: "capabilities_none", in: linux, says: "capabilities (object, OPTIONAL) is an object containing arrays that specifies the sets of capabilities for the process.", batch: "nocaps", edit: func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} },
			look: `grep -E '^Cap(Prm|Eff|Inh|Amb|Bnd)' /proc/1/status | cut -f2 | sort -u; chown 5 /tmp; hostname x`, sees: "0000000000000000\nchown: /tmp: Operation not permitted\nhostname: .*: Operation not permitted"},
		inProcess("no_new_privileges", linux, "noNewPrivileges (bool, OPTIONAL) setting noNewPrivileges to true prevents the process from gaining additional privileges.", status("NoNewPrivs"), "NoNewPrivs: 1"),
		{name: "new_privileges", in: linux, says: "noNewPrivileges (bool, OPTIONAL) setting noNewPrivileges to true prevents the process from gaining additional privileges.", look: status("NoNewPrivs"), sees: "NoNewPrivs: 0"},
		inProcess("oom_score_adj", linux, "If oomScoreAdj is set, the runtime MUST set oom_score_adj to the given value.", "cat /proc/1/oom_score_adj", "321"),
		{name: "oom_score_adj_host", in: linux, says: "If oomScoreAdj is set, the runtime MUST set oom_score_adj to the given value.", batch: "oom", edit: func(s *specs.Spec) { s.Process.OOMScoreAdj = pointer(322) }, watch: func(x *trial, name string) {
			if got := strings.TrimSpace(x.read(fmt.Sprintf("/proc/%d/oom_score_adj", x.state(name).Pid))); got != "322" {
				x.errorf("oom_score_adj is %s", got)
			}
		}},
		{name: "oom_score_adj_kept", in: linux, says: "If oomScoreAdj is not set, the runtime MUST NOT change the value of oom_score_adj.", watch: func(x *trial, name string) {
			want := strings.TrimSpace(x.read("/proc/self/oom_score_adj"))
			if got := strings.TrimSpace(x.read(fmt.Sprintf("/proc/%d/oom_score_adj", x.state(name).Pid))); got != want {
				x.errorf("oom_score_adj is %s, ours %s", got, want)
			}
		}},
		{name: "oom_score_adj_beyond", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Process.OOMScoreAdj = pointer(1001) }, refused: []string{"process.oomScoreAdj"}},

		{name: "scheduler_nice", in: linux, says: "nice (int32, OPTIONAL) is the nice value for the process, affecting its priority.", batch: "scheduler", edit: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 5}
		}, look: "cut -d' ' -f19 /proc/1/stat", sees: "5"},
		{name: "scheduler_batch", in: linux, says: "policy (string, REQUIRED) represents the scheduling policy.", batch: "batch", edit: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
		}, look: "cut -d' ' -f19,41 /proc/1/stat", sees: "3 3"},
		{name: "scheduler_idle", in: linux, says: "policy (string, REQUIRED) represents the scheduling policy.", batch: "idle", edit: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedIdle}
		}, look: "cut -d' ' -f41 /proc/1/stat", sees: "5"},
		{name: "scheduler_unknown", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_LOTTERY"} }, refused: []string{"process.scheduler.policy", "SCHED_LOTTERY"}},
		{name: "scheduler_no_policy", in: linux, says: "policy (string, REQUIRED) represents the scheduling policy.", edit: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Nice: 5} }, refused: []string{"process.scheduler.policy"}},
		{name: "scheduler_flag", in: valid, says: invalid, edit: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_MAGIC"}}
		}, refused: []string{"process.scheduler.flags[0]", "SCHED_FLAG_MAGIC"}},
		{name: "scheduler_nice_beyond", in: valid, says: invalid, edit: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 20}
		}, refused: []string{"process.scheduler.nice"}},
		{name: "io_priority", in: linux, says: "ioPriority (object, OPTIONAL) configures the I/O priority settings for the container's processes within the process group.", batch: "scheduler", edit: func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}, look: "ionice -p 1", sees: "best-effort: prio 6",
			ours: "the sandbox does the I/O, and has the priority on the host; inside, the default is told"},
		{name: "io_priority_class", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_FUN"} }, refused: []string{"process.ioPriority.class", "IOPRIO_CLASS_FUN"}},
		{name: "io_priority_level", in: linux, says: "The value should be an integer ranging from 0 (highest) to 7 (lowest).", edit: func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		}, refused: []string{"process.ioPriority.priority"}},
		{name: "apparmor_absent", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Process.ApparmorProfile = "no-such-profile" }, refused: []string{"process.apparmorProfile"}},
		{name: "selinux_absent", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Process.SelinuxLabel = "system_u:system_r:no_such_t:s0" }, refused: []string{"process.selinuxLabel"}},
		{name: "exec_cpu_affinity", in: linux, says: "This setting is not applicable to the container's init process.", batch: "console", edit: func(s *specs.Spec) {
			s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
		}, look: "echo runs", sees: "runs"},
		{name: "exec_cpu_affinity_invalid", in: valid, says: invalid, edit: func(s *specs.Spec) {
			s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "all"}
		}, refused: []string{"process.execCPUAffinity.final"}},
		{name: "exec_cpu_affinity_final", in: linux, says: "final (string, OPTIONAL) is a list of CPUs the process will be run on after the transition to container's cgroup.", watch: func(x *trial, name string) {
			x.execs(name, "0\n", func(p *specs.Process) {
				p.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"}
				p.Args = []string{"sh", "-c", "grep Cpus_allowed_list /proc/self/status | cut -f2"}
			})
		}},

		{name: "exec_process", in: process, says: "process (object, OPTIONAL) specifies the container process.", watch: func(x *trial, name string) {
			x.execs(name, "1000 1001 /etc b c 0037\n", func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 1001, Umask: pointer(uint32(0o37))}
				p.Cwd, p.Env = "/etc", []string{"PATH=/bin", "A=b c"}
				p.Args = []string{"sh", "-c", "echo $(id -u) $(id -g) $(pwd) $A $(umask)"}
			})
		}},
		{name: "exec_process_capabilities", in: linux, says: "capabilities (object, OPTIONAL) is an object containing arrays that specifies the sets of capabilities for the process.", watch: func(x *trial, name string) {
			x.execs(name, "0000000000000001 1\n", func(p *specs.Process) {
				p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}}
				p.NoNewPrivileges = true
				p.Args = []string{"sh", "-c", "echo $(grep CapEff /proc/self/status | cut -f2) $(grep NoNewPrivs /proc/self/status | cut -f2)"}
			})
		}},
		{name: "exec_process_rlimits", in: posix, says: "rlimits (array of objects, OPTIONAL) allows setting resource limits for the process.", watch: func(x *trial, name string) {
			x.execs(name, "77 88\n", func(p *specs.Process) {
				p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 77, Hard: 88}}
				p.Args = []string{"sh", "-c", "echo $(ulimit -n) $(ulimit -Hn)"}
			})
		}},
		{name: "exec_process_oom", in: linux, says: "This is a per-process setting, where as disableOOMKiller is scoped for a memory cgroup.", watch: func(x *trial, name string) {
			x.execs(name, "123\n", func(p *specs.Process) {
				p.OOMScoreAdj = pointer(123)
				p.Args = []string{"cat", "/proc/self/oom_score_adj"}
			})
		}},
		{name: "exec_process_nice", in: linux, says: "scheduler (object, OPTIONAL) is an object describing the scheduler properties for the process.", runc: "runc 1.1.5 knows no scheduler", watch: func(x *trial, name string) {
			x.execs(name, "7\n", func(p *specs.Process) {
				p.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 7}
				p.Args = []string{"sh", "-c", "cut -d' ' -f19 /proc/self/stat"}
			})
		}},
		{name: "exec_process_refused", in: process, says: "This value MUST be an absolute path.", watch: func(x *trial, name string) {
			path := x.process(func(p *specs.Process) { p.Args, p.Cwd = []string{"true"}, "etc" })
			if r := x.do("exec", "--process", path, name); r.Code == 0 || x.ours() && !strings.Contains(r.Err, "cwd") {
				x.errorf("exec: %s", r)
			}
		}},
		{name: "exec_inherits", in: process, says: "process (object, OPTIONAL) specifies the container process.", watch: func(x *trial, name string) {
			r := x.do("exec", "--cwd", "/etc", "--env", "X=y", "--user", "5:6", name, "sh", "-c", "echo $(pwd) $X $(id -u) $(id -g) $HOME")
			if r.Out != "/etc y 5 6 /root\n" && r.Out != "/etc y 5 6 /\n" {
				x.errorf("exec: %s", r)
			}
		}},
	}
	limits := map[string]string{"CORE": "Max core file size", "CPU": "Max cpu time", "DATA": "Max data size", "FSIZE": "Max file size", "LOCKS": "Max file locks", "MEMLOCK": "Max locked memory", "MSGQUEUE": "Max msgqueue size",
		"NICE": "Max nice priority", "NOFILE": "Max open files", "NPROC": "Max processes", "RSS": "Max resident set", "RTPRIO": "Max realtime priority", "RTTIME": "Max realtime timeout", "SIGPENDING": "Max pending signals", "STACK": "Max stack size", "AS": "Max address space"}
	soft := uint64(1 << 20)
	for name, line := range limits {
		soft := soft
		switch name {
		case "NICE", "RTPRIO":
			soft = 30
		case "AS", "DATA", "STACK", "FSIZE", "RSS":
			soft = 1 << 33
		case "NOFILE":
			soft = 999
		case "NPROC", "SIGPENDING", "MSGQUEUE": // below what a host has by default
			soft = 1 << 13
		}
		rules = append(rules, rule{name: "rlimit_" + name, in: posix, says: "rlim.rlim_cur MUST match the configured value.", batch: "rlimits", host: unraised(name, soft+7), edit: func(s *specs.Spec) {
			if name == "NOFILE" {
				s.Process.Rlimits = s.Process.Rlimits[1:] // the bundle's own
			}
			s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + name, Soft: soft, Hard: soft + 7})
		}, look: "grep '^" + line + "' /proc/1/limits | tr -s ' ' | cut -c" + itoa(len(line)+2) + "- | cut -d' ' -f1,2", sees: fmt.Sprintf("%d %d", soft, soft+7)})
	}
	rules = append(rules,
		rule{name: "rlimit_enforced", in: posix, says: "soft (uint64, REQUIRED) the value of the limit enforced for the corresponding resource.", steps: func(x *trial) {
			x.prints("1024\nFile size limit exceeded\n|1024\n153\n", func(s *specs.Spec) {
				s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FSIZE", Soft: 1024, Hard: 1024}}
			}, "sh", "-c", "(head -c 5000 /dev/zero >/tmp/f) 2>/dev/null; s=$?; stat -c %s /tmp/f; echo $s")
		}},
		rule{name: "rlimit_infinite", in: posix, says: "rlim.rlim_max MUST match the configured value.", batch: "infinite", edit: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: ^uint64(0), Hard: ^uint64(0)}}
		}, look: "ulimit -c; ulimit -Hc", sees: "unlimited\nunlimited"},
		rule{name: "rlimit_duplicate", in: posix, says: "If rlimits contains duplicated entries with same type, the runtime MUST generate an error.", edit: func(s *specs.Spec) {
			s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0])
		}, refused: []string{"process.rlimits[1].type", "RLIMIT_NOFILE"}},
		rule{name: "rlimit_unknown", in: posix, says: unmeant, edit: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_HAPPINESS"}}
		}, refused: []string{"process.rlimits[0].type", "RLIMIT_HAPPINESS"}},
		rule{name: "rlimit_lower_case", in: posix, says: unmeant, edit: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "rlimit_nofile", Soft: 10, Hard: 10}}
		}, refused: []string{"process.rlimits[0].type", "rlimit_nofile"}},
		rule{name: "rlimit_soft_above_hard", in: posix, says: "hard (uint64, REQUIRED) the ceiling for the soft limit that could be set by an unprivileged process.", edit: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 20, Hard: 10}}
		}, refused: []string{"process.rlimits[0].soft"}},
	)
	return rules
}

func pointer[T any](v T) *T { return &v }

// unraised says of a limit that this host's root has too little of it, and may not have more:
// a program that runs on the host's kernel is not given it.
func unraised(name string, want uint64) string {
	numbers := map[string]int{"NICE": unix.RLIMIT_NICE, "RTPRIO": unix.RLIMIT_RTPRIO, "NPROC": unix.RLIMIT_NPROC, "SIGPENDING": unix.RLIMIT_SIGPENDING,
		"MSGQUEUE": unix.RLIMIT_MSGQUEUE, "MEMLOCK": unix.RLIMIT_MEMLOCK, "NOFILE": unix.RLIMIT_NOFILE}
	n, ok := numbers[name]
	var l unix.Rlimit
	if !ok || unix.Getrlimit(n, &l) != nil || l.Max >= want || mayRaise() {
		return ""
	}
	return fmt.Sprintf("this host's root has a hard limit of %d, and no CAP_SYS_RESOURCE", l.Max)
}

func mayRaise() bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[0].Effective>>unix.CAP_SYS_RESOURCE&1 == 1
}

// prints demands what a container prints.
func (x *trial) prints(want string, edit func(*specs.Spec), args ...string) {
	name := id(x.T)
	x.forget(name)
	r := x.do("run", "--bundle", bundle(x.T, edit, args...), name)
	for one := range strings.SplitSeq(want, "|") {
		if r.Out == one {
			return
		}
	}
	x.errorf("%q prints %s, want %q%s", args, r, want, x.p.logged())
}

// process writes a file for exec --process.
func (x *trial) process(edit func(*specs.Process)) string {
	p := &specs.Process{Cwd: "/", Env: []string{"PATH=/bin"}}
	edit(p)
	text, err := json.Marshal(p)
	path := filepath.Join(x.TempDir(), "process.json")
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		x.Fatal(err)
	}
	return path
}

// execs demands what a process that exec --process starts prints.
func (x *trial) execs(name, want string, edit func(*specs.Process)) {
	if r := x.do("exec", "--process", x.process(edit), name); r.Out != want {
		x.errorf("exec prints %s, want %q", r, want)
	}
}

// terminal runs a script in a container with one of 30 by 100, and demands lines.
func (x *trial) terminal(script string, lines ...string) {
	path := filepath.Join(x.TempDir(), "s")
	master := receiveTerminal(x.T, path)
	name := id(x.T)
	dir := bundle(x.T, func(s *specs.Spec) {
		s.Process.Terminal, s.Process.ConsoleSize = true, &specs.Box{Height: 30, Width: 100}
	}, "sh", "-c", script)
	if r := x.create(name, dir, "--console-socket", path); r.Code != 0 {
		x.fatalf("create: %s", r)
	}
	console := master()
	defer console.Close()
	x.must("start", name)
	in := bufio.NewReader(console)
	for _, want := range lines {
		if line, err := in.ReadString('\n'); strings.TrimSpace(line) != want {
			x.errorf("the terminal shows %q, want %q: %v", line, want, err)
		}
	}
}

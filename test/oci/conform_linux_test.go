package oci

import (
	"fmt"
	"os"
	"os/exec"
	"strings"

	"bulkhead/test/rig"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// linuxRules are config-linux.md's but for resources and seccomp.
func linuxRules() []rule {
	const (
		namespaces = "config-linux.md, Namespaces"
		users      = "config-linux.md, User namespace mappings"
		devices    = "config-linux.md, Devices"
		defaults   = "config-linux.md, Default Devices"
		netDevices = "config-linux.md, Network Devices"
		valid      = "config.md, Valid values"
		invalid    = "Runtimes MUST generate an error when invalid or unsupported values are encountered."
		fresh      = "If path is not specified, the runtime MUST create a new container namespace of type type."
		supply     = "In addition to any devices configured with this setting, the runtime MUST also supply:"
		available  = "devices (array of objects, OPTIONAL) lists devices that MUST be available in the container."
		wrongType  = "The runtime MUST generate an error if path is not associated with a namespace of type type."
	)
	namespace := func(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == kind {
					s.Linux.Namespaces[i].Path = path
					return
				}
			}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	without := func(kind specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(s *specs.Spec) {
			var rest []specs.LinuxNamespace
			for _, ns := range s.Linux.Namespaces {
				if ns.Type != kind {
					rest = append(rest, ns)
				}
			}
			s.Linux.Namespaces = rest
		}
	}
	device := func(d specs.LinuxDevice) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Devices = append(s.Linux.Devices, d)
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		}
	}
	mode := os.FileMode(0o640)
	system := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}})
	}
	masks := func(s *specs.Spec) {
		s.Linux.MaskedPaths = []string{"/etc/passwd", "/root", "/no/such/path", "/proc/keys", "/proc/timer_list"}
		s.Linux.ReadonlyPaths = []string{"/proc/sys", "/tmp", "/no/such/path"}
	}
	rules := []rule{
		{name: "filesystem_proc", in: "config-linux.md, Default Filesystems", says: "/proc | proc", look: "grep ' /proc ' /proc/mounts | cut -d' ' -f3; cat /proc/1/comm", sees: "proc\nsh"},
		{name: "filesystem_sys", in: "config-linux.md, Default Filesystems", says: "/sys | sysfs", batch: "sys", edit: system, look: "grep ' /sys ' /proc/mounts | cut -d' ' -f3; ls -d /sys/kernel /sys/devices", sees: "sysfs\n/sys/devices\n/sys/kernel"},
		{name: "filesystem_pts", in: "config-linux.md, Default Filesystems", says: "/dev/pts | devpts", look: "grep ' /dev/pts ' /proc/mounts | cut -d' ' -f3; ls /dev/pts", sees: "devpts\nptmx"},
		{name: "filesystem_shm", in: "config-linux.md, Default Filesystems", says: "/dev/shm | tmpfs", look: "grep ' /dev/shm ' /proc/mounts | cut -d' ' -f3; touch /dev/shm/x && echo writable", sees: "tmpfs\nwritable"},
		{name: "filesystem_mqueue", in: "config.md, POSIX-platform Mounts", says: "type (string, OPTIONAL) The type of the filesystem to be mounted.", batch: "sys", edit: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}})
		}, look: "grep ' /dev/mqueue ' /proc/mounts | cut -d' ' -f3", sees: "mqueue"},

		{name: "namespace_pid", in: namespaces, says: "pid processes inside the container will only be able to see other processes inside the same container or inside the same pid namespace.", look: "ls /proc | grep -c '^[0-9]'; cat /proc/1/comm", sees: "[2-6]\nsh"},
		{name: "namespace_network", in: namespaces, says: "network the container will have its own network stack.", batch: "sys", look: "ls /sys/class/net; grep -c : /proc/net/dev", sees: "lo\n1"},
		{name: "namespace_mount", in: namespaces, says: "mount the container will have an isolated mount table.", look: "grep -c -e ' /sys/fs/cgroup' -e '/boot' /proc/mounts", sees: "0"},
		{name: "namespace_ipc", in: namespaces, says: "ipc processes inside the container will only be able to communicate to other processes inside the same container via system level IPC.", steps: func(x *trial) {
			rig.Need(x, "ipcmk", "ipcrm")
			out, err := exec.Command("ipcmk", "-M", "4096").Output()
			if err != nil {
				x.Fatal(err)
			}
			fields := strings.Fields(string(out))
			defer exec.Command("ipcrm", "-m", fields[len(fields)-1]).Run()
			x.prints("1\n", nil, "sh", "-c", "wc -l </proc/sysvipc/shm")
		}},
		{name: "namespace_uts", in: namespaces, says: "uts the container will be able to have its own hostname and domain name.", look: "hostname", sees: "box"},
		{name: "namespace_cgroup", in: namespaces, says: "cgroup the container will have an isolated view of the cgroup hierarchy.", batch: "cgroupns", edit: namespace("cgroup", ""), look: "cut -d: -f3 /proc/1/cgroup | sort -u", sees: "/"},
		{name: "namespace_new", in: namespaces, says: fresh, steps: func(x *trial) {
			marks := x.marks()
			one := x.started(shared(marks), "sleep", "1000")
			for _, kind := range []string{"net", "ipc", "uts"} {
				its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", x.state(one).Pid, kind))
				if ours, _ := os.Readlink("/proc/self/ns/" + kind); err != nil || its == ours {
					x.errorf("%s: its namespace is %q, ours %q: %v", kind, its, ours, err)
				}
			}
		}},
		{name: "namespace_host_network", in: namespaces, says: "If a namespace type is not specified in the namespaces array, the container MUST inherit the runtime namespace of that type.", batch: "hostnet", ours: "the host's network is refused by name: it would be no wall", edit: edits(without("network"), func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}})
		}), watch: func(x *trial, name string) {
			its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", x.state(name).Pid))
			if ours, _ := os.Readlink("/proc/self/ns/net"); err != nil || its != ours {
				x.errorf("its namespace is %q, ours %q: %v", its, ours, err)
			}
		}},
		{name: "namespace_host_name", in: namespaces, says: "If a namespace type is not specified in the namespaces array, the container MUST inherit the runtime namespace of that type.", steps: func(x *trial) {
			host, err := os.Hostname()
			if err != nil {
				x.Fatal(err)
			}
			x.prints(host+"\n", edits(without("uts"), func(s *specs.Spec) { s.Hostname = "" }), "hostname")
		}},
		{name: "namespace_joined", in: namespaces, says: "The runtime MUST place the container process in the namespace associated with that path.", steps: func(x *trial) {
			first := x.started(nil, "sleep", "1000")
			pid := x.state(first).Pid
			edit := func(s *specs.Spec) {}
			for kind, file := range map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts"} {
				edit = edits(edit, namespace(kind, fmt.Sprintf("/proc/%d/ns/%s", pid, file)))
			}
			second := x.started(edits(edit, func(s *specs.Spec) { s.Hostname = "" }), "sleep", "1000")
			for _, kind := range []string{"net"} {
				want, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
				if got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", x.state(second).Pid, kind)); got != want || err != nil {
					x.errorf("%s: it is in %q, want %q: %v", kind, got, want, err)
				}
			}
		}},
		{name: "namespace_joined_name", in: namespaces, says: "The runtime MUST place the container process in the namespace associated with that path.", steps: func(x *trial) {
			rig.Need(x, "unshare")
			// A uts namespace with a name of its own.
			holder := exec.Command("unshare", "--uts", "sh", "-c", "hostname joined; echo ready; read x")
			in, err := holder.StdinPipe()
			if err != nil {
				x.Fatal(err)
			}
			out, err := holder.StdoutPipe()
			if err != nil {
				x.Fatal(err)
			}
			if err := holder.Start(); err != nil {
				x.Fatal(err)
			}
			defer holder.Wait()
			defer in.Close()
			if _, err := out.Read(make([]byte, 16)); err != nil {
				x.Fatal(err)
			}
			x.prints("joined\n", edits(namespace("uts", fmt.Sprintf("/proc/%d/ns/uts", holder.Process.Pid)), func(s *specs.Spec) { s.Hostname = "" }), "hostname")
		}},
		{name: "namespace_wrong_type", in: namespaces, says: wrongType, edit: namespace("network", "/proc/self/ns/uts"), refused: []string{"linux.namespaces[4].path", "/proc/self/ns/uts"}},
		{name: "namespace_no_namespace", in: namespaces, says: wrongType, edit: namespace("network", "/etc/passwd"), refused: []string{"linux.namespaces[4].path", "/etc/passwd"}},
		{name: "namespace_absent_path", in: namespaces, says: wrongType, edit: namespace("network", "/run/netns/no-such"), refused: []string{"linux.namespaces[4].path", "/run/netns/no-such"}},
		{name: "namespace_relative_path", in: namespaces, says: "This value MUST be an absolute path in the runtime mount namespace.", edit: namespace("network", "proc/self/ns/net"), refused: []string{"linux.namespaces[4].path"}},
		{name: "namespace_duplicate", in: namespaces, says: "If a namespaces field contains duplicated namespaces with same type, the runtime MUST generate an error.", edit: func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
		}, refused: []string{"linux.namespaces[5].type", "pid"}},
		{name: "namespace_unknown", in: valid, says: invalid, edit: namespace("dream", ""), refused: []string{"linux.namespaces[5].type", "dream"}},
		{name: "namespace_no_type", in: namespaces, says: "type (string, REQUIRED) - namespace type.", edit: func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{}) }, refused: []string{"linux.namespaces[5].type"}},
		{name: "namespace_user", in: namespaces, says: "user the container will be able to remap user and group IDs from the host to local users and groups within the container.", batch: "userns", edit: edits(namespace("user", ""), func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 5000}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		}), look: "tr -s ' ' </proc/1/uid_map; tr -s ' ' </proc/1/gid_map", sees: "0 0 5000\n 0 0 5000"},
		{name: "namespace_time", in: namespaces, says: "time the container will be able to have its own clocks.", batch: "timens", edit: edits(namespace("time", ""), func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1 << 30}, "monotonic": {Secs: 86400, Nanosecs: 5}}
		}), look: "[ $(cut -d. -f1 /proc/uptime) -gt 1000000000 ] && echo later; tr -s ' ' </proc/self/timens_offsets", sees: "later\nmonotonic 86400 5\nboottime 1073741824 0", runc: "runc 1.1.5 knows no time namespace"},
		{name: "namespace_time_before", in: namespaces, says: "time the container will be able to have its own clocks.", edit: edits(namespace("time", ""), func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: -1 << 32}}
		}), refused: []string{"linux.timeOffsets.monotonic"}},
		{name: "namespace_time_unknown", in: valid, says: invalid, edit: edits(namespace("time", ""), func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {Secs: 1}}
		}), refused: []string{"linux.timeOffsets", "realtime"}},
		{name: "mappings_without_namespace", in: users, says: "uidMappings (array of objects, OPTIONAL) describes the user namespace uid mappings from the host to the container.", edit: func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
		}, refused: []string{"linux.uidMappings"}},

		{name: "device_extra", in: devices, says: available, batch: "devices", edit: device(specs.LinuxDevice{Path: "/dev/my", Type: "c", Major: 1, Minor: 5}), look: "stat -c '%F %t:%T' /dev/my; head -c 3 /dev/my | wc -c", sees: "character special file 1:5\n3"},
		{name: "device_mode", in: devices, says: "fileMode (uint32, OPTIONAL) - file mode for the device.", batch: "devices", edit: device(specs.LinuxDevice{Path: "/dev/mode", Type: "c", Major: 1, Minor: 3, FileMode: &mode}), look: "stat -c %a /dev/mode", sees: "640"},
		{name: "device_owner", in: devices, says: "uid (uint32, OPTIONAL) - id of device owner in the container namespace.", batch: "devices", edit: device(specs.LinuxDevice{Path: "/dev/owned", Type: "c", Major: 1, Minor: 8, UID: pointer(uint32(7)), GID: pointer(uint32(8))}), look: "stat -c '%u %g' /dev/owned", sees: "7 8"},
		{name: "device_unbuffered", in: devices, says: "type (string, REQUIRED) - type of device: c, b, u or p.", batch: "devices", edit: device(specs.LinuxDevice{Path: "/dev/unbuffered", Type: "u", Major: 1, Minor: 7}), look: "stat -c '%F %t:%T' /dev/unbuffered", sees: "character special file 1:7"},
		{name: "device_fifo", in: devices, says: "type (string, REQUIRED) - type of device: c, b, u or p.", batch: "devices", edit: device(specs.LinuxDevice{Path: "/dev/pipe", Type: "p"}), look: "stat -c %F /dev/pipe; (echo through >/dev/pipe &); cat /dev/pipe", sees: "fifo\nthrough"},
		{name: "device_elsewhere", in: devices, says: "The path MAY be anywhere in the container filesystem, notably outside of /dev.", batch: "devices", edit: device(specs.LinuxDevice{Path: "/tmp/made/null", Type: "c", Major: 1, Minor: 3}), look: "echo x >/tmp/made/null && stat -c %t:%T /tmp/made/null", sees: "1:3"},
		{name: "device_there_already", in: devices, says: "If a file already exists at path that does not match the requested device, the runtime MUST generate an error.", edit: device(specs.LinuxDevice{Path: "/etc/hostname", Type: "c", Major: 1, Minor: 3}), refused: []string{"linux.devices[0]", "/etc/hostname"}},
		{name: "device_there_and_right", in: devices, says: "If a file already exists at path that does not match the requested device, the runtime MUST generate an error.", batch: "devices", edit: device(specs.LinuxDevice{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}), look: "stat -c %t:%T /dev/null", sees: "1:3"},
		{name: "device_type_unknown", in: valid, says: invalid, edit: device(specs.LinuxDevice{Path: "/dev/x", Type: "z", Major: 1, Minor: 3}), refused: []string{"linux.devices[0].type"}},
		{name: "device_relative", in: devices, says: "path (string, REQUIRED) - full path to device inside container.", edit: device(specs.LinuxDevice{Path: "dev/x", Type: "c", Major: 1, Minor: 3}), refused: []string{"linux.devices[0].path"}},
		{name: "device_not_listed", in: devices, says: "Containers MAY NOT access any device node that is not either explicitly referenced in the devices array or listed as being part of the default devices.", look: "ls /dev/kmsg /dev/mem /dev/sda /dev/vda /dev/kvm 2>/dev/null", sees: ""},

		{name: "device_console", in: defaults, says: "/dev/console is set up if terminal is enabled in the config by bind mounting the pseudoterminal pty to /dev/console.", steps: func(x *trial) {
			x.terminal("[ -c /dev/console ] && echo there; echo through >/dev/console; exit", "there", "through")
		}},
		{name: "device_ptmx", in: defaults, says: "A bind-mount or symlink of the container's /dev/pts/ptmx.", look: "readlink -f /dev/ptmx || stat -c %t:%T /dev/ptmx", sees: "/dev/pts/ptmx"},

		{name: "net_device_absent", in: netDevices, says: "The runtime MUST check if moving the network interface to the container namespace is possible.", edit: func(s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"no-such0": {}}
		}, refused: []string{"linux.netDevices"}},

		{name: "sysctl", in: "config-linux.md, Sysctl", says: "sysctl (object, OPTIONAL) allows kernel parameters to be modified at runtime for the container.", batch: "sysctl", edit: func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.shmmni": "123", "kernel.msgmax": "4321", "fs.mqueue.msg_max": "12", "net.ipv4.ip_forward": "1", "net.core.somaxconn": "257", "net/ipv4/ip_unprivileged_port_start": "90"}
		}, look: "cd /proc/sys; cat kernel/shmmni kernel/msgmax", sees: "123\n4321"},
		{name: "sysctl_net", in: "config-linux.md, Sysctl", says: "sysctl (object, OPTIONAL) allows kernel parameters to be modified at runtime for the container.", batch: "sysctl", look: "cd /proc/sys/net; cat ipv4/ip_forward core/somaxconn ipv4/ip_unprivileged_port_start", sees: "1\n257\n90"},
		{name: "sysctl_mqueue", in: "config-linux.md, Sysctl", says: "sysctl (object, OPTIONAL) allows kernel parameters to be modified at runtime for the container.", batch: "sysctl", look: "cat /proc/sys/fs/mqueue/msg_max", sees: "12"},
		{name: "sysctl_host", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "7"} }, refused: []string{"linux.sysctl", "vm.swappiness"},
			ours: "what runc refuses since it is the host's is the container's own kernel's here, and can be set"},
		{name: "sysctl_value", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.shmmni": "many"} }, refused: []string{"linux.sysctl", "kernel.shmmni"}},

		{name: "masked_file", in: "config-linux.md, Masked Paths", says: "maskedPaths (array of strings, OPTIONAL) will mask over the provided paths inside the container so that they cannot be read.", batch: "masked", edit: masks, look: "wc -c </etc/passwd; wc -c </proc/keys; wc -c </proc/timer_list", sees: "0\n0\n(0|.*no such file.*)"},
		{name: "masked_directory", in: "config-linux.md, Masked Paths", says: "maskedPaths (array of strings, OPTIONAL) will mask over the provided paths inside the container so that they cannot be read.", batch: "masked", look: "ls -A /root; touch /root/x", sees: "touch: /root/x: Read-only file system"},
		{name: "masked_absent", in: "config-linux.md, Masked Paths", says: "maskedPaths (array of strings, OPTIONAL) will mask over the provided paths inside the container so that they cannot be read.", batch: "masked", look: "ls /no 2>&1 | grep -c 'No such'", sees: "1"},
		{name: "masked_relative", in: "config-linux.md, Masked Paths", says: "The values MUST be absolute paths in the container namespace.", edit: func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc/keys"} }, refused: []string{"linux.maskedPaths[0]"}},
		{name: "readonly_directory", in: "config-linux.md, Readonly Paths", says: "readonlyPaths (array of strings, OPTIONAL) will set the provided paths as readonly inside the container.", batch: "masked", look: "touch /tmp/x; cat /proc/sys/kernel/hostname; echo x >/proc/sys/kernel/hostname", sees: "touch: /tmp/x: Read-only file system\nbox\n.*Read-only file system"},
		{name: "readonly_relative", in: "config-linux.md, Readonly Paths", says: "The values MUST be absolute paths in the container namespace.", edit: func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"proc/sys"} }, refused: []string{"linux.readonlyPaths[0]"}},

		{name: "propagation_unknown", in: "config-linux.md, Rootfs Mount Propagation", says: "Its value is either shared, slave, private or unbindable.", edit: func(s *specs.Spec) { s.Linux.RootfsPropagation = "wide" }, refused: []string{"linux.rootfsPropagation", "wide"}},
		{name: "mount_label", in: "config-linux.md, Mount Label", says: "mountLabel (string, OPTIONAL) will set the Selinux context for the mounts in the container.", batch: "label", edit: func(s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811" }, look: "echo runs", sees: "runs"},

		{name: "personality_linux", in: "config-linux.md, Personality", says: "personality (object, OPTIONAL) sets the Linux execution personality.", batch: "personality", edit: func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux}
		}, look: "uname -m", sees: "x86_64"},
		{name: "personality_32", in: "config-linux.md, Personality", says: "LINUX32 will set the uname system call to show a 32 bit CPU type, such as i686.", batch: "personality32", edit: func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}, look: "uname -m", sees: "i686", runc: "runc 1.1.5 does not know it"},
		{name: "personality_unknown", in: "config-linux.md, Personality", says: "The valid list of constants is shown below.", edit: func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"}
		}, refused: []string{"linux.personality", "BSD"}},
		{name: "personality_flags", in: "config-linux.md, Personality", says: "Currently no flag values are supported.", edit: func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}}
		}, refused: []string{"linux.personality.flags", "ADDR_NO_RANDOMIZE"}},
		{name: "rdt_absent", in: "config-linux.md, IntelRdt", says: "If no mounted resctrl pseudo-filesystem is available in the runtime mount namespace, the runtime MUST generate an error.", edit: func(s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "group"}
		}, refused: []string{"linux.intelRdt"}},
		{name: "memory_policy_unknown", in: valid, says: invalid, edit: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_RANDOM"}
		}, refused: []string{"linux.memoryPolicy", "MPOL_RANDOM"}},
	}
	for name, node := range map[string]string{"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"} {
		rules = append(rules, rule{name: "device_" + name, in: defaults, says: supply, look: "stat -c '%F %a %t:%T' /dev/" + name, sees: "character special file 666 " + node})
	}
	for name, p := range map[string][2]string{"null": {"echo x >/dev/null; wc -c </dev/null", "0"}, "zero": {"head -c 5 /dev/zero | od -An -tx1", "00 00 00 00 00"}, "full": {"echo x >/dev/full", ".*(No space left on device|write error).*"},
		"random": {"head -c 5 /dev/random | wc -c", "5"}, "urandom": {"head -c 5 /dev/urandom | wc -c", "5"}} {
		rules = append(rules, rule{name: "device_works_" + name, in: defaults, says: supply, look: p[0], sees: p[1]})
	}
	for _, value := range []string{"slave", "private"} { // each costs a container
		rules = append(rules, rule{name: "propagation_" + value, in: "config-linux.md, Rootfs Mount Propagation", says: "rootfsPropagation (string, OPTIONAL) sets the rootfs's mount propagation.", edit: func(s *specs.Spec) { s.Linux.RootfsPropagation = value }, look: "echo runs", sees: "runs"})
	}
	return rules
}

package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// edit gives the default configuration with one thing replaced.
func edit(t testing.TB, change func(*specs.Spec)) string {
	t.Helper()
	s := Default()
	if change != nil {
		change(s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var five = 5

// complaints are what can be wrong, and the words that have to name it.
var complaints = []struct {
	name   string
	change func(*specs.Spec)
	want   string
}{
	{"no version", func(s *specs.Spec) { s.Version = "" }, "ociVersion: is missing"},
	{"major 2", func(s *specs.Spec) { s.Version = "2.0.0" }, "ociVersion: 2.0.0 is not supported, 1.x is"},
	{"no number", func(s *specs.Spec) { s.Version = "one" }, `ociVersion: "one" is no version number`},
	{"no process", func(s *specs.Spec) { s.Process = nil }, "process: is missing"},
	{"no args", func(s *specs.Spec) { s.Process.Args = nil }, "process.args: is empty"},
	{"empty program", func(s *specs.Spec) { s.Process.Args = []string{""} }, "process.args[0]: is empty"},
	{"zero in args", func(s *specs.Spec) { s.Process.Args = []string{"a", "b\x00"} }, "process.args[1]: contains a zero byte"},
	{"no cwd", func(s *specs.Spec) { s.Process.Cwd = "" }, "process.cwd: is missing"},
	{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd: "tmp" is not an absolute path`},
	{"env without =", func(s *specs.Spec) { s.Process.Env = []string{"A=b", "C"} }, `process.env[1]: "C" is not NAME=VALUE`},
	{"unknown rlimit", func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}} }, `process.rlimits[0].type: "RLIMIT_FUN" is no limit of Linux's`},
	{"soft above hard", func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 2, Hard: 1}}
	}, "process.rlimits[0].soft: 2 is above the hard limit of 1"},
	{"rlimit twice", func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE"}, {Type: "RLIMIT_NOFILE"}}
	}, "process.rlimits[1].type: RLIMIT_NOFILE is given twice"},
	{"odd capability", func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{Effective: []string{"chown"}} }, `process.capabilities.effective[0]: "chown" is no capability`},
	{"oom score", func(s *specs.Spec) { n := 2000; s.Process.OOMScoreAdj = &n }, "process.oomScoreAdj: 2000 is not between -1000 and 1000"},
	{"huge console", func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 1 << 20} }, "process.consoleSize: 1048576 by 0 is too large"},
	{"no root", func(s *specs.Spec) { s.Root = nil }, "root: is missing"},
	{"no root path", func(s *specs.Spec) { s.Root.Path = "" }, "root.path: is missing"},
	{"absent rootfs", func(s *specs.Spec) { s.Root.Path = "nowhere" }, "nowhere: no such directory"},
	{"rootfs is a file", func(s *specs.Spec) { s.Root.Path = "config.json" }, "config.json: not a directory"},
	{"long hostname", func(s *specs.Spec) { s.Hostname = strings.Repeat("h", 65) }, "hostname: has 65 bytes, 64 are allowed"},
	{"mount without destination", func(s *specs.Spec) { s.Mounts[0].Destination = "" }, "mounts[0].destination: is missing"},
	{"mount without type", func(s *specs.Spec) { s.Mounts[0].Type = "" }, "mounts[0].type: is missing"},
	{"mount of a disk", func(s *specs.Spec) { s.Mounts[1].Type = "ext4" }, `mounts[1].type: "ext4" cannot be mounted at /dev inside a sandbox`},
	{"bind without source", func(s *specs.Spec) { s.Mounts[0] = specs.Mount{Destination: "/x", Type: "bind"} }, "mounts[0].source: is missing"},
	{"bind of nothing", func(s *specs.Spec) {
		s.Mounts[0] = specs.Mount{Destination: "/x", Source: "/nonexistent", Options: []string{"rbind"}}
	}, "mounts[0].source: /nonexistent: no such file or directory"},
	{"idmapped, no bind", func(s *specs.Spec) { s.Mounts[0].Options = []string{"idmap"} }, "mounts[0]: idmap: only bind mounts can be id-mapped, not proc"},
	{"idmapped by nothing", func(s *specs.Spec) {
		s.Mounts[0] = specs.Mount{Destination: "/x", Source: "/", Options: []string{"rbind", "idmap"}}
	}, "mounts[0]: idmap: neither the mount has uidMappings, nor the container a user namespace"},
	{"idmapped by half", func(s *specs.Spec) {
		s.Mounts[0] = specs.Mount{Destination: "/x", Source: "/", Options: []string{"rbind"}, UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}
	}, "mounts[0]: uidMappings and gidMappings come together"},
	{"hook without path", func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{}}} }, "hooks.poststop[0].path: is missing"},
	{"relative hook", func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "a"}}} }, `hooks.createRuntime[0].path: "a" is not an absolute path`},
	{"hook without time", func(s *specs.Spec) {
		n := 0
		s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/a", Timeout: &n}}}
	}, "hooks.poststart[0].timeout: 0 is not above 0"},
	{"unknown namespace", func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "dream" }, `linux.namespaces[0].type: "dream" is no namespace of Linux's`},
	{"namespace twice", func(s *specs.Spec) { s.Linux.Namespaces[1] = s.Linux.Namespaces[0] }, "linux.namespaces[1].type: pid is given twice"},
	{"absent namespace", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/run/netns/none-such" }, "linux.namespaces[1].path: /run/netns/none-such: no such file or directory"},
	{"user namespace without ids", func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "user" }, "linux.uidMappings: is missing"},
	{"ids without user namespace", func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, "linux.uidMappings: is given without a user namespace"},
	{"user namespace without groups", users([]specs.LinuxIDMapping{{Size: 1}}, nil), "linux.gidMappings: is missing"},
	{"no ids", users([]specs.LinuxIDMapping{{Size: 1}, {ContainerID: 1}}, nil), "linux.uidMappings[1].size: is 0"},
	{"ids beyond the last", users([]specs.LinuxIDMapping{{HostID: 5, Size: 1<<32 - 2}}, nil), "linux.uidMappings[0].size: 4294967294 ids from 0 and 5 do not end"},
	{"ids twice", users([]specs.LinuxIDMapping{{Size: 10, HostID: 100}, {ContainerID: 50, HostID: 109, Size: 1}}, nil), "linux.uidMappings[1]: has ids that linux.uidMappings[0] has, too"},
	{"a user without a number", func(s *specs.Spec) {
		users([]specs.LinuxIDMapping{{Size: 10}}, []specs.LinuxIDMapping{{Size: 10}})(s)
		s.Process.User.UID = 10
	}, "process.user.uid: 10 is not in linux.uidMappings"},
	{"host device", func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/sda", Type: "b", Major: 8}}
	}, "linux.devices[0]: the host's device /dev/sda (b 8:0) cannot be reached"},
	{"relative masked path", func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"proc"} }, `linux.maskedPaths[0]: "proc" is not an absolute path`},
	{"cgroup above", func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/../../b" }, "linux.cgroupsPath: \"/a/../../b\" contains .."},
	{"swap below memory", func(s *specs.Spec) {
		a, b := int64(2), int64(1)
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &a, Swap: &b}}
	}, "linux.resources.memory.swap: 1 is memory and swap together"},
	{"short CPU period", func(s *specs.Spec) {
		p := uint64(10)
		s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: &p}}
	}, "linux.resources.cpu.period: 10 is not between"},
	{"CPUs", func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-"}}
	}, `linux.resources.cpu.cpus: "0-" is no list of numbers, as 0-2,7`},
	{"memory nodes", func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Mems: "all"}}
	}, `linux.resources.cpu.mems: "all" is no list of numbers, as 0-2,7`},
	{"time offsets", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, "linux.timeOffsets: is given, and no new time namespace in linux.namespaces"},
	{"nanoseconds", func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Nanosecs: 1e9}}
	}, "linux.timeOffsets.boottime.nanosecs: 1000000000 is a second or more"},
	{"centuries", func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1 << 60}}
	}, "linux.timeOffsets.monotonic.secs: 1152921504606846976 is not between"},
	{"unknown clock", func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"realtime": {}} }, `linux.timeOffsets: "realtime" is none of boottime, monotonic`},
	{"personality", func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"} }, `linux.personality.domain: "BSD" is none of LINUX, LINUX32`},
	{"real time", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO} }, `process.scheduler.policy: "SCHED_FIFO" is none of`},
	{"nice", func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: -21} }, "process.scheduler.nice: -21 is not between"},
	{"I/O class", func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Class: "A"} }, `process.ioPriority.class: "A" is none of`},
	{"affinity", func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "x"} }, `process.execCPUAffinity.initial: "x" is no list`},
	{"not a namespace", func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/dev/null" }, "linux.namespaces[1].path: /dev/null: is no network namespace"},
	{"seccomp action", func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: "A"} }, `linux.seccomp.defaultAction: "A" is none of`},
	{"device access", func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "q"}}}
	}, `linux.resources.devices[0].access: "q" is not of r, w and m`},
}

func write(t testing.TB, config string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// users gives a container a user namespace.
func users(uids, gids []specs.LinuxIDMapping) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		s.Linux.UIDMappings, s.Linux.GIDMappings = uids, gids
	}
}

func TestComplaints(t *testing.T) {
	for _, row := range complaints {
		dir := write(t, edit(t, row.change))
		_, err := Load(dir)
		if err == nil {
			t.Errorf("%s: accepted", row.name)
			continue
		}
		if got := err.Error(); !strings.HasPrefix(got, filepath.Join(dir, "config.json")+": ") || !strings.Contains(got, row.want) || strings.Contains(got, "\n") {
			t.Errorf("%s: got %q, want the file and %q", row.name, got, row.want)
		}
	}
}

func TestMalformed(t *testing.T) {
	for _, row := range []struct{ config, want string }{
		{"", "config.json: is empty"},
		{"{", "line 1, column 1: unexpected end of JSON input"},
		{"{\n  \"process\": {,\n}", "line 2, column 15: invalid character ','"},
		{"[]", "the whole: a JSON array where an object is expected"},
		{`{"ociVersion":1}`, "ociVersion: a JSON number where a string is expected"},
		{`{"process":{"args":"sh"}}`, "process.args: a JSON string where an array is expected"},
		{`{"process":{"user":{"uid":-1}}}`, "process.user.uid: a JSON number -1 where a number from 0 (uint32) is expected"},
		{`{"process":{"terminal":"yes"}}`, "process.terminal: a JSON string where true or false is expected"},
		{`{} {}`, "invalid character '{' after top-level value"},
		{"null", "ociVersion: is missing"},
	} {
		_, err := Load(write(t, row.config))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q: got %v, want %s", row.config, err, row.want)
		}
	}
}

func TestNoBundle(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct{ dir, want string }{
		{filepath.Join(dir, "none"), "bundle " + dir + "/none: no such directory"},
		{dir, dir + "/config.json: no such file or directory"},
		{"/dev/null", "bundle /dev/null: not a directory"},
		{filepath.Join(dir, "two\nlines"), `bundle "` + dir + `/two\nlines": no such directory`},
	} {
		_, err := Load(row.dir)
		if err == nil || err.Error() != row.want {
			t.Errorf("%q: got %v, want %s", row.dir, err, row.want)
		}
	}
}

func TestAccepted(t *testing.T) {
	for _, row := range []struct {
		name   string
		change func(*specs.Spec)
	}{
		{"as it is", nil},
		{"1.0.2-dev", func(s *specs.Spec) { s.Version = "1.0.2-dev" }},
		{"a future 1.x", func(s *specs.Spec) { s.Version = "1.99.0" }},
		{"no linux", func(s *specs.Spec) { s.Linux = nil }},
		{"unknown capability", func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_TELEPORT"} }},
		{"unlimited", func(s *specs.Spec) { s.Process.Rlimits[0].Soft, s.Process.Rlimits[0].Hard = ^uint64(0), ^uint64(0) }},
		{"bind", func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "x", Type: "none", Source: "rootfs", Options: []string{"rbind", "ro"}})
		}},
		{"a device that we have", func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}}
		}},
		{"hooks", func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/true", Timeout: &five}}}
		}},
	} {
		dir := write(t, edit(t, row.change))
		b, err := Load(dir)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		real, _ := filepath.EvalSymlinks(dir)
		if b.Spec.Linux == nil || b.Spec.Root.Path != filepath.Join(real, "rootfs") {
			t.Errorf("%s: %+v", row.name, b.Spec.Root)
		}
		for _, m := range b.Spec.Mounts {
			if !filepath.IsAbs(m.Destination) || IsBind(&m) && m.Source != b.Spec.Root.Path {
				t.Errorf("%s: mount %+v", row.name, m)
			}
		}
	}
}

// TestRootIsALink: a root that is a symlink is the directory to which that leads, as with runc,
// or refused by what it leads to.
func TestRootIsALink(t *testing.T) {
	dir := write(t, edit(t, func(s *specs.Spec) { s.Root.Path = "link" }))
	link := filepath.Join(dir, "link")
	real, err := filepath.EvalSymlinks(filepath.Join(dir, "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ to, want string }{
		{"rootfs", ""}, {real, ""}, {"config.json", "not a directory"}, {"nowhere", "no such directory"}, {"link", "too many levels of symbolic links"},
	} {
		_ = os.Remove(link)
		if err := os.Symlink(row.to, link); err != nil {
			t.Fatal(err)
		}
		b, err := Load(dir)
		switch {
		case row.want == "" && (err != nil || b.Spec.Root.Path != real):
			t.Errorf("to %s: %v", row.to, err)
		case row.want != "" && (err == nil || !strings.Contains(err.Error(), "root.path") || !strings.Contains(err.Error(), row.want)):
			t.Errorf("to %s: %v, want %s", row.to, err, row.want)
		}
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	config := strings.Replace(edit(t, nil), `{"ociVersion"`, `{"future":{"a":[1]},"ociVersion"`, 1)
	if _, err := Load(write(t, config)); err != nil {
		t.Error(err)
	}
}

// Whatever config.json holds, it is refused in one line or what is promised of a
// bundle holds.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(edit(f, nil)))
	for _, row := range complaints {
		f.Add([]byte(edit(f, row.change)))
	}
	f.Add([]byte(`{"process":{"user":{"uid":-1}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err == nil {
			err = Check(s)
		}
		if err != nil {
			if e := err.Error(); e == "" {
				t.Error("an empty complaint")
			}
			return
		}
		if s.Process == nil || len(s.Process.Args) == 0 || s.Root == nil || s.Linux == nil || !filepath.IsAbs(s.Process.Cwd) {
			t.Errorf("accepted, and incomplete: %s", b)
		}
	})
}

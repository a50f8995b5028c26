package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are those that config.md says MUST of.
var mountOptions = strings.Fields(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev
	nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid private rbind relatime remount ro rprivate
	rshared rslave runbindable rw shared silent slave strictatime suid sync unbindable`)

// mountRules are config.md's "Mounts" and what is beneath.
func mountRules() []rule {
	const (
		mounts  = "config.md, Mounts"
		options = "config.md, Linux mount options"
		posix   = "config.md, POSIX-platform Mounts"
		should  = "Runtimes MUST/SHOULD/MAY implement the following option strings for Linux:"
		valid   = "config.md, Valid values"
		invalid = "Runtimes MUST generate an error when invalid or unsupported values are encountered."
		idmap   = "If there are no uidMappings and gidMappings specified and the container isn't using user namespaces, an error MUST be returned."
	)
	add := func(m specs.Mount) func(*specs.Spec) { return func(s *specs.Spec) { s.Mounts = append(s.Mounts, m) } }
	tmpfs := func(at string, options ...string) func(*specs.Spec) {
		return add(specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: options})
	}
	bound := func(at, source string, options ...string) func(*specs.Spec) {
		return add(specs.Mount{Destination: at, Type: "none", Source: source, Options: options})
	}
	flags := func(at string) string {
		return "grep ' " + at + " ' /proc/mounts | tail -1 | cut -d' ' -f4 | tr ',' '\n'"
	}
	rules := []rule{
		{name: "mounts_order", in: mounts, says: "The runtime MUST mount entries in the listed order.", batch: "mounts", edit: edits(tmpfs("/tmp/order"), tmpfs("/tmp/order/a/b"), tmpfs("/tmp/order/a/b", "size=1m")),
			look: "grep ' /tmp/order' /proc/mounts | cut -d' ' -f2; grep ' /tmp/order/a/b ' /proc/mounts | tail -1 | grep -o size=1024k", sees: "/tmp/order\n/tmp/order/a/b\n/tmp/order/a/b\nsize=1024k"},
		{name: "mounts_order_hides", in: mounts, says: "The runtime MUST mount entries in the listed order.", batch: "mounts", edit: edits(tmpfs("/tmp/hides/deep"), tmpfs("/tmp/hides")), look: "ls -A /tmp/hides", sees: ""},
		{name: "mounts_relative", in: mounts, says: "For compatibility with old tools and configurations, it MAY be a relative path, in which case it MUST be interpreted as relative to \"/\".", batch: "relative", edit: tmpfs("tmp/relative", "size=2m"), look: "grep -c ' /tmp/relative ' /proc/mounts", sees: "1"},
		{name: "mounts_dots", in: mounts, says: "destination (string, REQUIRED) Destination of mount point: path inside container.", batch: "mounts", edit: tmpfs("/tmp/../../../tmp/dots"), look: "grep -c ' /tmp/dots ' /proc/mounts", sees: "1"},
		{name: "mounts_no_destination", in: mounts, says: "destination (string, REQUIRED) Destination of mount point: path inside container.", edit: tmpfs(""), refused: []string{"mounts[5].destination"}},
		{name: "mounts_source_absent", in: mounts, says: "Path values for bind mounts are either absolute or relative to the bundle.", edit: bound("/mnt", "/no/such/source", "rbind"), refused: []string{"mounts[5].source", "/no/such/source"}},
		{name: "mounts_source_relative", in: mounts, says: "Path values for bind mounts are either absolute or relative to the bundle.", steps: func(x *trial) {
			dir := bundle(x.T, bound("/mnt", "volume", "bind"), "cat", "/mnt/f")
			if err := os.Mkdir(filepath.Join(dir, "volume"), 0o755); err != nil {
				x.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "volume/f"), []byte("beside it\n"), 0o644); err != nil {
				x.Fatal(err)
			}
			name := id(x.T)
			x.forget(name)
			if r := x.do("run", "--bundle", dir, name); r.Out != "beside it\n" {
				x.errorf("run: %s", r)
			}
		}},
		{name: "mounts_bind_by_option", in: mounts, says: "A mount is a bind mount if it has either bind or rbind in the options.", batch: "mounts", edit: edits(bound("/tmp/bind", "/etc", "bind", "ro"), bound("/tmp/rbind", "/etc", "rbind", "ro"),
			add(specs.Mount{Destination: "/tmp/typed", Type: "tmpfs", Source: "/etc", Options: []string{"bind", "ro"}})), look: "cmp /tmp/bind/passwd /tmp/rbind/passwd && cmp /tmp/bind/passwd /tmp/typed/passwd && echo same", sees: "same"},
		{name: "mounts_file", in: mounts, says: "A device name, but can also be a file or directory name for bind mounts or a dummy.", batch: "mounts", edit: bound("/tmp/file", "/etc/passwd", "bind", "ro"), look: "[ -f /tmp/file ] && grep -c ^root: /tmp/file", sees: "1"},
		{name: "mounts_over_file", in: mounts, says: "A device name, but can also be a file or directory name for bind mounts or a dummy.", batch: "mounts", edit: bound("/etc/hostname", "/etc/passwd", "bind", "ro"), look: "grep -c ^root: /etc/hostname", sees: "1"},
		{name: "mounts_unknown_type", in: posix, says: "type (string, OPTIONAL) The type of the filesystem to be mounted.", edit: add(specs.Mount{Destination: "/tmp/x", Type: "magicfs", Source: "x"}), refused: []string{"mounts[5].type", "magicfs"}},
		{name: "mounts_made", in: mounts, says: "destination (string, REQUIRED) Destination of mount point: path inside container.", batch: "mounts", edit: tmpfs("/tmp/made/as/needed"), look: "touch /tmp/made/as/needed/x && ls /tmp/made/as/needed", sees: "x"},
		{name: "mounts_propagates_nothing", in: "config-linux.md, Namespaces", says: "mount the container will have an isolated mount table.", batch: "mounts", edit: tmpfs("/tmp/nothing"), look: "grep -c bulkhead-rootfs /proc/mounts", sees: "0"},
		{name: "mounts_data", in: options, says: "Runtimes SHOULD treat unknown options as filesystem-specific ones) and pass those as a comma-separated string to the fifth (const void *data) argument of mount(2).", batch: "mounts", edit: tmpfs("/tmp/data", "size=1m", "mode=0700", "uid=5", "gid=6", "nr_inodes=10"),
			look: "stat -c '%u %g' /tmp/data; for i in 1 2 3 4 5 6 7 8 9 0; do : >/tmp/data/$i; done 2>&1 | grep -c 'No space'; head -c 2000000 /dev/zero >/tmp/data/1 2>/dev/null; stat -c %s /tmp/data/1", sees: "5 6\n1\n1048576"},
		{name: "mounts_data_unknown", in: options, says: "Runtimes SHOULD treat unknown options as filesystem-specific ones) and pass those as a comma-separated string to the fifth (const void *data) argument of mount(2).", edit: tmpfs("/tmp/x", "no_such_option=1"), refused: []string{"mounts[5]"}},
		{name: "mounts_tmpcopyup", in: options, says: "tmpcopyup | MAY | copy up the contents to a tmpfs", batch: "copyup", edit: tmpfs("/etc", "tmpcopyup"), look: "grep -c root /etc/group; touch /etc/x && echo writable", sees: "1\nwritable"},
		{name: "mounts_idmap_without", in: options, says: idmap, edit: bound("/mnt", "/etc", "bind", "idmap"), refused: []string{"mounts[5]", "idmap"}},
		{name: "mounts_ridmap_without", in: options, says: idmap, edit: bound("/mnt", "/etc", "rbind", "ridmap"), refused: []string{"mounts[5]", "idmap"}},
		{name: "mounts_idmap_half", in: posix, says: "If specified, it MUST be specified along with gidMappings.", edit: add(specs.Mount{Destination: "/mnt", Source: "/etc", Options: []string{"bind", "idmap"},
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}}), refused: []string{"mounts[5]"}},
		{name: "mounts_idmap", in: options, says: "If uidMappings or gidMappings are specified for the mount, the runtime MUST use those values for the mount's mapping.", steps: func(x *trial) {
			marks := x.marks()
			if err := os.WriteFile(filepath.Join(marks, "f"), nil, 0o644); err != nil {
				x.Fatal(err)
			}
			if err := os.Chown(filepath.Join(marks, "f"), 1003, 1004); err != nil {
				x.Fatal(err)
			}
			x.prints("3 4\n", func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: marks, Options: []string{"bind", "idmap"},
					UIDMappings: []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 0, Size: 10}}, GIDMappings: []specs.LinuxIDMapping{{ContainerID: 1000, HostID: 0, Size: 10}}})
			}, "stat", "-c", "%u %g", "/mnt/f")
		}, runc: "runc 1.1.5 has no idmapped mounts"},
		{name: "mounts_rshared", in: options, says: "rshared | MUST | Bind mount propagation", batch: "mounts", edit: bound("/tmp/shared", "/etc", "rbind", "ro", "rshared"), look: "ls /tmp/shared/passwd", sees: "/tmp/shared/passwd"},

		{name: "option_ro", in: options, says: "ro | MUST |", batch: "mounts", edit: tmpfs("/tmp/ro", "ro"), look: "touch /tmp/ro/x", sees: "touch: /tmp/ro/x: Read-only file system"},
		{name: "option_ro_bind", in: options, says: "ro | MUST |", batch: "mounts", look: "touch /tmp/bind/x", sees: "touch: /tmp/bind/x: Read-only file system"},
		{name: "option_noexec", in: options, says: "noexec | MUST |", batch: "mounts", edit: tmpfs("/tmp/noexec", "noexec"), look: "cp /bin/busybox /tmp/noexec/true && /tmp/noexec/true", sees: ".*Permission denied"},
		{name: "option_noexec_bind", in: options, says: "noexec | MUST |", batch: "mounts", edit: bound("/tmp/noexecbind", "/bin", "rbind", "ro", "noexec"), look: "/tmp/noexecbind/true", sees: ".*Permission denied"},
		{name: "option_nodev", in: options, says: "nodev | MUST |", batch: "nodev", edit: edits(tmpfs("/tmp/nodev", "nodev"), func(s *specs.Spec) {
			for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Permitted, &s.Process.Capabilities.Effective} {
				*set = append(*set, "CAP_MKNOD")
			}
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		}), look: "mknod /tmp/nodev/null c 1 3 && cat /tmp/nodev/null", sees: ".*Permission denied"},
		{name: "option_nosuid", in: options, says: "nosuid | MUST |", batch: "mounts", edit: tmpfs("/tmp/nosuid", "nosuid"), look: flags("/tmp/nosuid") + " | grep -x nosuid", sees: "nosuid"},
		{name: "option_last_wins", in: options, says: "rw | MUST |", batch: "mounts", edit: edits(tmpfs("/tmp/rw", "ro", "noexec", "rw", "exec")), look: "touch /tmp/rw/x && " + flags("/tmp/rw") + " | grep -c -e noexec -e ro$", sees: "0"},
		{name: "option_nosymfollow", in: options, says: "nosymfollow | SHOULD |", batch: "nosymfollow", edit: tmpfs("/tmp/nosym", "nosymfollow"), look: "ln -s /etc/hostname /tmp/nosym/link && cat /tmp/nosym/link", sees: ".*(Too many levels of symbolic links|Symbolic link loop)"},
		{name: "option_rro", in: options, says: "rro | SHOULD | Recursive ro", steps: func(x *trial) {
			x.submount(func(dir string) func(*specs.Spec) { return bound("/mnt", dir, "rbind", "rro") }, "touch /mnt/x /mnt/sub/y; ls -A /mnt /mnt/sub", "touch: /mnt/x: Read-only file system\ntouch: /mnt/sub/y: Read-only file system\n/mnt:\nsub\n\n/mnt/sub:\nf\n")
		}},
		{name: "option_rnoexec", in: options, says: "rnoexec | SHOULD | Recursive noexec", batch: "recursive", edit: bound("/tmp/rnoexec", "/bin", "rbind", "ro", "rnoexec"), look: "/tmp/rnoexec/true", sees: ".*Permission denied"},
		{name: "option_rnosuid", in: options, says: "rnosuid | SHOULD | Recursive nosuid", batch: "recursive", edit: bound("/tmp/rnosuid", "/bin", "rbind", "ro", "rnosuid"), look: flags("/tmp/rnosuid") + " | grep -x nosuid", sees: "nosuid"},
		{name: "option_rnodev", in: options, says: "rdev | SHOULD | Recursive dev", batch: "recursive", edit: bound("/tmp/rnodev", "/bin", "rbind", "ro", "rnodev"), look: flags("/tmp/rnodev") + " | grep -x nodev", sees: "nodev"},
		{name: "option_rnoatime", in: options, says: "rnoatime | SHOULD | Recursive noatime", batch: "recursive", edit: bound("/tmp/rnoatime", "/bin", "rbind", "ro", "rnoatime"), look: flags("/tmp/rnoatime") + " | grep -x noatime", sees: "noatime"},
		{name: "option_rnosymfollow", in: options, says: "rnosymfollow | SHOULD | Recursive nosymfollow", batch: "recursive", edit: bound("/tmp/rnosym", "/bin", "rbind", "ro", "rnosymfollow"), look: "cat /tmp/rnosym/sh", sees: ".*(Too many levels of symbolic links|Symbolic link loop)"},
		{name: "option_rbind", in: options, says: "rbind | MUST | Recursive bind mount", steps: func(x *trial) {
			x.submount(func(dir string) func(*specs.Spec) { return bound("/mnt", dir, "rbind", "rw") }, "ls /mnt/sub", "f\n")
		}},
		{name: "option_bind", in: options, says: "bind | MUST | Bind mount", steps: func(x *trial) {
			x.submount(func(dir string) func(*specs.Spec) { return bound("/mnt", dir, "bind", "rw") }, "ls /mnt/sub", "")
		}},
		{name: "options_all_must", in: options, says: should, batch: "options_all", edit: func(s *specs.Spec) {
			for _, o := range mountOptions {
				if o != "remount" && o != "bind" && o != "rbind" {
					tmpfs("/tmp/o-"+o, o)(s)
				}
			}
		}, look: "grep -c ' /tmp/o-' /proc/mounts", sees: itoa(len(mountOptions) - 3)},
	}
	for o, want := range map[string]string{"noatime": "noatime", "nodiratime": "nodiratime", "relatime": "relatime", "atime": "relatime", "nodev": "nodev", "noexec": "noexec", "nosuid": "nosuid", "ro": "ro", "rw": "rw", "defaults": "rw"} {
		rules = append(rules, rule{name: "option_shown_" + o, in: options, says: o + " | MUST |", batch: "options", edit: tmpfs("/tmp/o-"+o, o), look: flags("/tmp/o-"+o) + " | grep -x " + want, sees: want})
	}
	for _, o := range []string{"strictatime", "norelatime", "exec", "dev", "suid"} {
		hidden := map[string]string{"strictatime": "relatime", "norelatime": "norelatime"}[o]
		rules = append(rules, rule{name: "option_shown_" + o, in: options, says: o + " | MUST |", batch: "options", edit: tmpfs("/tmp/o-"+o, o), look: flags("/tmp/o-"+o) + " | grep -c -x -e no" + o + " -e '" + hidden + "'", sees: "0"})
	}
	return rules
}

// submount runs a script in a container that is given a directory of the host's with a
// mount beneath, whose file is f.
func (x *trial) submount(edit func(dir string) func(*specs.Spec), script, want string) {
	dir := x.marks()
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o777); err != nil {
		x.Fatal(err)
	}
	if err := unix.Mount("tmpfs", sub, "tmpfs", 0, "size=64k"); err != nil {
		x.Skipf("needs to mount a tmpfs: %v", err)
	}
	defer unix.Unmount(sub, unix.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(sub, "f"), nil, 0o666); err != nil {
		x.Fatal(err)
	}
	x.prints(want, edit(dir), "sh", "-c", fmt.Sprintf("( %s ) 2>&1", script))
}

package oci

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// configRules are config.md's but for its long sections: process, mounts, hooks.
func configRules() []rule {
	const (
		version   = "config.md, Specification version"
		root      = "config.md, Root"
		extension = "config.md, Extensibility"
		valid     = "config.md, Valid values"
		ignore    = "Runtimes MAY log unknown properties but MUST otherwise ignore them."
		invalid   = "Runtimes MUST generate an error when invalid or unsupported values are encountered."
		semver    = "ociVersion (string, REQUIRED) MUST be in SemVer v2.0.0 format and specifies the version of the Open Container Initiative Runtime Specification with which the bundle complies."
		follows   = "The Open Container Initiative Runtime Specification follows semantic versioning and retains forward and backward compatibility within major versions."
		notes     = "config.md, Annotations"
	)
	rules := []rule{
		{name: "version_absent", in: version, says: semver, raw: func(c map[string]any) { delete(c, "ociVersion") }, refused: []string{"ociVersion"}},
		{name: "version_next_major", in: version, says: follows, edit: func(s *specs.Spec) { s.Version = "2.0.0" }, refused: []string{"ociVersion", "2.0.0"}},
		{name: "version_number", in: version, says: semver, raw: func(c map[string]any) { c["ociVersion"] = 1 }, refused: []string{"ociVersion"}},

		{name: "root_absent", in: root, says: "On all other platforms, this field is REQUIRED.", edit: func(s *specs.Spec) { s.Root = nil }, refused: []string{"root: is missing"}},
		{name: "root_no_path", in: root, says: "path (string, REQUIRED) Specifies the path to the root filesystem for the container.", edit: func(s *specs.Spec) { s.Root.Path = "" }, refused: []string{"root.path"}},
		{name: "root_no_directory", in: root, says: "A directory MUST exist at the path declared by the field.", edit: func(s *specs.Spec) { s.Root.Path = "/no/such/root" }, refused: []string{"root.path", "/no/such/root"}},
		{name: "root_file", in: root, says: "A directory MUST exist at the path declared by the field.", edit: func(s *specs.Spec) { s.Root.Path = "/etc/passwd" }, refused: []string{"root.path", "/etc/passwd"}},
		{name: "root_readonly", in: root, says: "readonly (bool, OPTIONAL) If true then the root filesystem MUST be read-only inside the container, defaults to false.",
			look: "touch /x; mkdir /etc/y; rm /etc/hostname; echo no >/etc/hostname; cat /etc/hostname", sees: "touch: /x: Read-only file system\nmkdir: can't create directory '/etc/y': Read-only file system\nrm: can't remove '/etc/hostname': Read-only file system\n.*/etc/hostname: Read-only file system\nimage"},
		{name: "root_readonly_mounts", in: root, says: "readonly (bool, OPTIONAL) If true then the root filesystem MUST be read-only inside the container, defaults to false.",
			look: "touch /tmp/x /dev/shm/x && echo written", sees: "written"},
		{name: "root_writable", in: root, says: "readonly (bool, OPTIONAL) If true then the root filesystem MUST be read-only inside the container, defaults to false.", steps: func(x *trial) {
			dir := bundle(x.T, nil, "sh", "-c", "echo new >/new && rm /etc/hostname && cat /new")
			x.copyRoot(dir, "rootfs")
			x.rewrite(dir, func(c map[string]any) { c["root"] = map[string]any{"path": "rootfs"} })
			name := id(x.T)
			x.forget(name)
			if r := x.do("run", "--bundle", dir, name); r.Out != "new\n" {
				x.errorf("run: %s", r)
			}
			if !x.marked(dir, "rootfs/new") || x.marked(dir, "rootfs/etc/hostname") {
				x.errorf("what was written is not in the root file system")
			}
		}},
		{name: "root_absolute", in: root, says: "On POSIX platforms, path is either an absolute path or a relative path to the bundle.", look: "cat /etc/hostname", sees: "image"},
		{name: "root_relative_elsewhere", in: root, says: "On POSIX platforms, path is either an absolute path or a relative path to the bundle.", steps: func(x *trial) {
			dir := bundle(x.T, nil, "cat", "/etc/hostname")
			base, err := rootfs()
			if err != nil {
				x.Fatal(err)
			}
			relative, err := filepath.Rel(dir, base)
			if err != nil {
				x.Fatal(err)
			}
			x.rewrite(dir, func(c map[string]any) { c["root"].(map[string]any)["path"] = relative })
			name := id(x.T)
			x.forget(name)
			if r := x.do("run", "--bundle", dir, name); r.Out != "image\n" {
				x.errorf("run: %s", r)
			}
		}},

		{name: "hostname", in: "config.md, Hostname", says: "hostname (string, OPTIONAL) specifies the container's hostname as seen by processes running inside the container.", look: "hostname; uname -n; cat /proc/sys/kernel/hostname", sees: "box\nbox\nbox"},
		{name: "hostname_longest", in: "config.md, Hostname", says: "hostname (string, OPTIONAL) specifies the container's hostname as seen by processes running inside the container.", batch: "names", edit: func(s *specs.Spec) { s.Hostname = strings.Repeat("h", 64) }, look: "hostname", sees: "h{64}"},
		{name: "hostname_too_long", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Hostname = strings.Repeat("h", 65) }, refused: []string{"hostname"}},
		{name: "hostname_host_keeps", in: "config.md, Hostname", says: "On Linux, for example, this will change the hostname in the container UTS namespace.", watch: func(x *trial, name string) {
			if host, err := os.Hostname(); err != nil || host == "box" {
				x.errorf("the host is called %q: %v", host, err)
			}
		}},
		{name: "domainname", in: "config.md, Domainname", says: "domainname (string, OPTIONAL) specifies the container's domainname as seen by processes running inside the container.", batch: "names", edit: func(s *specs.Spec) { s.Domainname = "example.org" }, look: "cat /proc/sys/kernel/domainname", sees: "example.org"},
		{name: "domainname_too_long", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Domainname = strings.Repeat("d", 65) }, refused: []string{"domainname"}},

		{name: "annotations_empty_key", in: notes, says: "Keys MUST NOT be an empty string.", edit: func(s *specs.Spec) { s.Annotations = map[string]string{"": "value"} }, refused: []string{"annotations"}},
		{name: "annotations_number", in: notes, says: "Values MUST be strings.", raw: func(c map[string]any) { c["annotations"] = map[string]any{"com.example.key": 1} }, refused: []string{"annotations"}},
		{name: "annotations_list", in: notes, says: "Annotations MUST be a key-value map.", raw: func(c map[string]any) { c["annotations"] = []string{"com.example.key"} }, refused: []string{"annotations"}},
		{name: "annotations_empty_value", in: notes, says: "Values MAY be an empty string.", batch: "names", edit: func(s *specs.Spec) {
			s.Annotations = map[string]string{"com.example.key": ""}
		}, look: "echo runs", sees: "runs"},
		{name: "annotations_empty_map", in: notes, says: "If there are no annotations then this property MAY either be absent or an empty map.", raw: func(c map[string]any) { c["annotations"] = map[string]any{} }, look: "echo runs", sees: "runs"},
		{name: "annotations_unknown", in: notes, says: "Runtimes MUST handle unknown annotation keys like any other unknown property.", batch: "names", edit: func(s *specs.Spec) {
			s.Annotations["org.example.unknown/key"], s.Annotations["org.opencontainers.image.os"] = "x", "linux"
		}, look: "echo runs", sees: "runs"},

		{name: "unknown_properties", in: extension, says: ignore, raw: func(c map[string]any) {
			strange := map[string]any{"new": []any{1, map[string]any{"x": nil}}}
			c["com.example.new"], c["zos2"] = strange, 7
			for _, at := range []string{"root", "process", "linux"} {
				c[at].(map[string]any)["com.example.new"] = strange
			}
			c["process"].(map[string]any)["user"].(map[string]any)["shoe"] = 43
			c["mounts"].([]any)[0].(map[string]any)["com.example.new"] = strange
			linux := c["linux"].(map[string]any)
			linux["namespaces"].([]any)[0].(map[string]any)["com.example.new"] = strange
			linux["resources"] = map[string]any{"memory": map[string]any{"flavour": 1}, "gravity": 9.81}
			c["hooks"] = map[string]any{"poststop": []any{map[string]any{"path": "/bin/true", "colour": "red"}}}
		}, look: "echo runs", sees: "runs"},
		{name: "unknown_in_seccomp", in: extension, says: ignore, raw: func(c map[string]any) {
			c["linux"].(map[string]any)["seccomp"] = map[string]any{"defaultAction": "SCMP_ACT_ALLOW", "mood": "good", "syscalls": []any{map[string]any{"names": []any{"sync"}, "action": "SCMP_ACT_ERRNO", "why": "so"}}}
		}, look: "echo runs", sees: "runs"},
		{name: "nulls", in: extension, says: "That includes not generating errors if they encounter an unknown property.", raw: func(c map[string]any) {
			for _, key := range []string{"hooks", "annotations", "solaris", "windows", "vm", "com.example.new"} {
				c[key] = nil
			}
			c["linux"].(map[string]any)["devices"], c["process"].(map[string]any)["rlimits"] = nil, nil
		}, look: "echo runs", sees: "runs"},
		{name: "no_linux", in: "config.md, Platform-specific configuration", says: "linux (object, OPTIONAL) Linux-specific configuration.", raw: func(c map[string]any) { delete(c, "linux"); delete(c, "hostname") },
			ours: "without linux there is no network namespace, and the host's network is refused by name", look: "echo runs", sees: "runs"},
		{name: "windows", in: valid, says: invalid, edit: func(s *specs.Spec) { s.Windows = &specs.Windows{LayerFolders: []string{"c:"}} }, refused: []string{"windows"}},
		{name: "not_json", in: valid, says: invalid, steps: func(x *trial) {
			dir := bundle(x.T, nil, "true")
			for _, text := range []string{"", "{", "[]", `"ociVersion"`, "null", "{}"} {
				if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o644); err != nil {
					x.Fatal(err)
				}
				if r := x.create(id(x.T), dir); r.Code == 0 {
					x.errorf("create with %q succeeds", text)
				}
			}
		}},
		{name: "byte_order_mark", in: valid, says: invalid, steps: func(x *trial) {
			// RFC 8259, 8.1: nobody writes one, and a parser may ignore it or take it for an error.
			dir := bundle(x.T, nil, "true")
			path := filepath.Join(dir, "config.json")
			if err := os.WriteFile(path, []byte("\xef\xbb\xbf"+x.read(path)), 0o644); err != nil {
				x.Fatal(err)
			}
			if r := x.create(id(x.T), dir); r.Code == 0 || x.ours() && !strings.Contains(r.Err, "config.json") {
				x.errorf("create: %s", r)
			}
		}},
		{name: "own_default", in: "config.md, Configuration", says: "The canonical schema is defined in this document, but there is a JSON Schema in schema/config-schema.json and Go bindings in specs-go/config.go.", steps: func(x *trial) {
			dir := x.TempDir()
			x.must("spec", "--bundle", dir)
			x.adheres("config-schema.json", x.read(filepath.Join(dir, "config.json")))
		}},
	}
	for text, good := range map[string]bool{"1": false, "1.0": false, "v1.0.2": false, "1.0.2.3": false, "one": false, "1.0.x": false, "01.0.2": false, "": false, "1.0.2-": false,
		"1.0.0-rc5-dev": true, "1.1.0+build.5": true, "1.3.0": true, "1.99.7": true} {
		r := rule{name: "version_" + strings.NewReplacer(".", "_", "+", "_plus_").Replace(first(text, "empty")), in: version, says: semver, raw: func(c map[string]any) { c["ociVersion"] = text }}
		if good {
			r.says, r.steps = follows, func(x *trial) {
				if said := x.create(id(x.T), x.bundle(&r, "true")); said.Code != 0 {
					x.errorf("create: %s", said)
				}
			}
		} else {
			r.refused = []string{"ociVersion"}
		}
		rules = append(rules, r)
	}
	for field, value := range map[string]any{"ociVersion": []any{}, "root": "rootfs", "process": []any{}, "mounts": map[string]any{}, "hostname": 5, "hooks": []any{}, "linux": "yes"} {
		rules = append(rules, rule{name: "mistyped_" + field, in: valid, says: invalid, raw: func(c map[string]any) { c[field] = value }, refused: []string{field}})
	}
	return rules
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// featureRules are features.md's.
func featureRules() []rule {
	const version = "features.md, Specification version"
	type features struct {
		OCIVersionMin, OCIVersionMax string
		Hooks, MountOptions          []string
		Annotations                  map[string]string
	}
	get := func(x *trial) (f features) {
		if err := json.Unmarshal([]byte(x.must("features")), &f); err != nil {
			x.fatalf("features: %v", err)
		}
		return f
	}
	accepts := func(x *trial, edit func(*specs.Spec)) {
		if r := x.create(id(x.T), bundle(x.T, edit, "true")); r.Code != 0 {
			x.errorf("create: %s", r)
		}
	}
	return []rule{
		{name: "features_schema", in: "features.md, Features Structure", says: "A runtime MAY provide a JSON structure about its implemented features to runtime callers.", steps: func(x *trial) {
			x.adheres("features-schema.json", x.must("features"))
		}},
		{name: "features_min", in: version, says: "ociVersionMin (string, REQUIRED) The minimum recognized version of the Open Container Initiative Runtime Specification.", steps: func(x *trial) {
			accepts(x, func(s *specs.Spec) { s.Version = get(x).OCIVersionMin })
		}},
		{name: "features_max", in: version, says: "ociVersionMax (string, REQUIRED) The maximum recognized version of the Open Container Initiative Runtime Specification.", steps: func(x *trial) {
			accepts(x, func(s *specs.Spec) { s.Version = get(x).OCIVersionMax })
		}},
		{name: "features_range", in: version, says: "The value MUST NOT be less than the value of the ociVersionMin property.", steps: func(x *trial) {
			if f := get(x); f.OCIVersionMin == "" || f.OCIVersionMax < f.OCIVersionMin {
				x.errorf("from %q to %q", f.OCIVersionMin, f.OCIVersionMax)
			}
		}},
		{name: "features_known_properties", in: version, says: "The Features structure MUST NOT contain properties that are not defined in this version of the Open Container Initiative Runtime Specification.", steps: func(x *trial) {
			var got map[string]any
			if err := json.Unmarshal([]byte(x.must("features")), &got); err != nil {
				x.fatalf("features: %v", err)
			}
			for key := range got {
				if !strings.Contains(" ociVersionMin ociVersionMax hooks mountOptions linux annotations potentiallyUnsafeConfigAnnotations ", " "+key+" ") {
					x.errorf("there is a property %q", key)
				}
			}
		}},
		{name: "features_hooks", in: "features.md, Hooks", says: "The runtime MUST support the elements in this array as the hooks property of config.json.", steps: func(x *trial) {
			want := "prestart createRuntime createContainer startContainer poststart poststop"
			if got := strings.Join(get(x).Hooks, " "); got != want {
				x.errorf("hooks are %q, want %q", got, want)
			}
		}},
		{name: "features_mount_options", in: "features.md, Mount Options", says: "The runtime MUST recognize the elements in this array as the options of mounts objects in config.json.", steps: func(x *trial) {
			// What is recognized is not handed to the file system, which would say no.
			accepts(x, func(s *specs.Spec) {
				for _, o := range get(x).MountOptions {
					if o != "bind" && o != "rbind" && o != "remount" && o != "idmap" && o != "ridmap" {
						s.Mounts = append(s.Mounts, specs.Mount{Destination: "/tmp/" + o, Type: "tmpfs", Source: "tmpfs", Options: []string{o}})
					}
				}
			})
		}},
		{name: "features_must_options", in: "config.md, Linux mount options", says: "Runtimes MUST/SHOULD/MAY implement the following option strings for Linux:", steps: func(x *trial) {
			have := " " + strings.Join(get(x).MountOptions, " ") + " "
			for _, o := range mountOptions {
				if !strings.Contains(have, " "+o+" ") && o != "loud" && o != "silent" { // runc's list has neither
					x.errorf("features has no mount option %q", o)
				}
			}
		}},
		{name: "features_annotations", in: "features.md, Annotations", says: "annotations (object, OPTIONAL) contains arbitrary metadata of the runtime.", steps: func(x *trial) {
			for key := range get(x).Annotations {
				if !strings.Contains(key, ".") {
					x.errorf("annotation %q is in no domain's name space", key)
				}
			}
		}},
		{name: "features_unsafe_annotations", in: "features.md, Unsafe annotations in config.json", says: "that may potentially change the behavior of the runtime.", runc: "runc 1.1.5 knows no such property", steps: func(x *trial) {
			var f struct{ PotentiallyUnsafeConfigAnnotations []string }
			if err := json.Unmarshal([]byte(x.must("features")), &f); err != nil {
				x.fatalf("features: %v", err)
			}
			if len(f.PotentiallyUnsafeConfigAnnotations) == 0 {
				x.errorf("none is named")
			}
		}},
	}
}

package oci

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/test/rig"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestBadInput: one clear line that names the file and the field, a non-zero
// exit, and nothing left behind.
func TestBadInput(t *testing.T) {
	rewrite := func(old, new string) func(*testing.T, string) []string {
		return func(t *testing.T, dir string) []string {
			path := filepath.Join(dir, "config.json")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), old, new, 1)
			if changed == string(text) {
				t.Fatalf("config.json has no %s:\n%s", old, text)
			}
			if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
				t.Fatal(err)
			}
			return nil
		}
	}
	rows := []struct {
		name string
		args []string
		edit func(*specs.Spec)
		// breaks changes the bundle; what it returns replaces the arguments of run.
		breaks func(t *testing.T, dir string) []string
		names  []string // what the error must name
	}{
		{name: "no_config", breaks: func(t *testing.T, dir string) []string { os.Remove(filepath.Join(dir, "config.json")); return nil }, names: []string{"config.json", "no such file"}},
		{name: "no_bundle", breaks: func(t *testing.T, dir string) []string { return []string{"run", "--bundle", "/no/such/bundle", id(t)} }, names: []string{"/no/such/bundle"}},
		{name: "empty_config", breaks: func(t *testing.T, dir string) []string { os.Truncate(filepath.Join(dir, "config.json"), 0); return nil }, names: []string{"config.json"}},
		{name: "cut_config", breaks: func(t *testing.T, dir string) []string {
			os.Truncate(filepath.Join(dir, "config.json"), 100)
			return nil
		}, names: []string{"config.json"}},
		{name: "wrong_type", breaks: rewrite(`"cwd":"/"`, `"cwd":7`), names: []string{"config.json", "cwd"}},
		{name: "version", breaks: rewrite(`"ociVersion":"1.0.2"`, `"ociVersion":"2.0.0"`), names: []string{"ociVersion", "2.0.0"}},
		{name: "no_version", breaks: rewrite(`"ociVersion":"1.0.2"`, `"ociVersion":""`), names: []string{"ociVersion"}},
		{name: "no_root", edit: func(s *specs.Spec) { s.Root = nil }, names: []string{"root"}},
		{name: "absent_root", edit: func(s *specs.Spec) { s.Root.Path = "/no/such/root" }, names: []string{"/no/such/root"}},
		{name: "root_is_a_file", edit: func(s *specs.Spec) { s.Root.Path = "/etc/passwd" }, names: []string{"/etc/passwd"}},
		{name: "no_process", edit: func(s *specs.Spec) { s.Process = nil }, names: []string{"process"}},
		{name: "no_args", edit: func(s *specs.Spec) { s.Process.Args = nil }, names: []string{"args"}},
		{name: "relative_cwd", edit: func(s *specs.Spec) { s.Process.Cwd = "etc" }, names: []string{"cwd", "etc"}},
		{name: "absent_program", args: []string{"/no/such/program"}, names: []string{"/no/such/program"}},
		{name: "program_not_on_path", args: []string{"nosuchprogram"}, names: []string{"nosuchprogram"}},
		{name: "program_is_a_directory", args: []string{"/etc"}, names: []string{"/etc"}},
		{name: "program_not_executable", args: []string{"/etc/passwd"}, names: []string{"/etc/passwd"}},
		{name: "unknown_rlimit", edit: func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_MAGIC"}} }, names: []string{"RLIMIT_MAGIC"}},
		{name: "unknown_mount_type", edit: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "magicfs", Source: "x"})
		}, names: []string{"magicfs", "/mnt"}},
		{name: "absent_bind_source", edit: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}})
		}, names: []string{"/no/such/source"}},
		{name: "pid_file", breaks: func(t *testing.T, dir string) []string {
			return []string{"run", "--bundle", dir, "--pid-file", "/no/such/dir/pid", id(t)}
		}, names: []string{"/no/such/dir/pid"}},
		{name: "bad_name", breaks: func(t *testing.T, dir string) []string { return []string{"run", "--bundle", dir, "../escape"} }, names: []string{"../escape"}},
		{name: "empty_name", breaks: func(t *testing.T, dir string) []string { return []string{"run", "--bundle", dir, ""} }},
		{name: "console_without_terminal", breaks: func(t *testing.T, dir string) []string {
			return []string{"create", "--bundle", dir, "--console-socket", "/no/such/socket", id(t)}
		}, names: []string{"terminal"}},
		{name: "terminal_without_console", edit: func(s *specs.Spec) { s.Process.Terminal = true }, breaks: func(t *testing.T, dir string) []string {
			return []string{"create", "--bundle", dir, id(t)}
		}, names: []string{"console-socket"}},
		{name: "hook_absent", edit: func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/no/such/hook"}}} }, names: []string{"/no/such/hook"}},
		{name: "unknown_flag", breaks: func(t *testing.T, dir string) []string { return []string{"run", "--magic", id(t)} }, names: []string{"--magic"}},
		{name: "namespace_path", edit: func(s *specs.Spec) { s.Linux.Namespaces[4].Path = "/no/such/ns" }, names: []string{"/no/such/ns"}},
	}
	eachPlatform(t, func(t *testing.T, p *program) {
		for _, row := range rows {
			t.Run(row.name, func(t *testing.T) {
				args := row.args
				if args == nil {
					args = []string{"true"}
				}
				dir := bundle(t, row.edit, args...)
				verb := []string{"run", "--bundle", dir, id(t)}
				if row.breaks != nil {
					if other := row.breaks(t, dir); other != nil {
						verb = other
					}
				}
				leavesNothing(t, p, func() { refused(t, p.do(t, verb...), row.names) })
			})
		}
	})
}

// refused checks the form of a refusal.
func refused(t *testing.T, r rig.Result, names []string) {
	t.Helper()
	line := strings.TrimSuffix(r.Err, "\n")
	if r.Code == 0 || line == "" || strings.Contains(line, "\n") || strings.Contains(line, "EOF") && !strings.Contains(line, "unexpected end") {
		t.Errorf("want one clear line and a non-zero exit: %s", r)
	}
	for _, name := range names {
		if !strings.Contains(line, name) {
			t.Errorf("the error does not name %q: %s", name, r)
		}
	}
}

// TestBadPrograms: an ELF of another machine, or cut at any byte, or a script
// whose interpreter is missing, is refused and named.
func TestBadPrograms(t *testing.T) {
	base, err := rootfs()
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(base, "bin/acts"))
	if err != nil {
		t.Fatal(err)
	}
	arm := append([]byte{}, whole...)
	arm[18], arm[19] = byte(elf.EM_AARCH64), 0
	rows := map[string][]byte{
		"other_machine": arm,
		"script":        []byte("#!/no/such/interpreter\n"),
		"text":          []byte("just text\n"),
		"empty":         {},
	}
	// The header's every byte, then the program headers, then some of the rest.
	for cut := 1; cut < 64; cut += 7 {
		rows[fmt.Sprintf("cut_%d", cut)] = whole[:cut]
	}
	for cut := 64; cut < 1000; cut += 131 {
		rows[fmt.Sprintf("cut_%d", cut)] = whole[:cut]
	}
	dir := t.TempDir()
	for name, content := range rows {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
	}
	eachPlatform(t, func(t *testing.T, p *program) {
		for name := range rows {
			t.Run(name, func(t *testing.T) {
				leavesNothing(t, p, func() { refused(t, p.run(t, edit, "/mnt/"+name), []string{"/mnt/" + name}) })
			})
		}
	})
}

// TestBundlePathWithNewline: an odd path works, and an error about it stays one line.
func TestBundlePathWithNewline(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		dir := filepath.Join(t.TempDir(), "a\nb c")
		if err := os.Rename(bundle(t, nil, "echo", "hi"), dir); err != nil {
			t.Fatal(err)
		}
		leavesNothing(t, p, func() {
			if r := p.do(t, "run", "--bundle", dir, id(t)); r.Out != "hi\n" || r.Code != 0 {
				t.Errorf("%s%s", r, p.logged())
			}
			if err := os.Truncate(filepath.Join(dir, "config.json"), 10); err != nil {
				t.Fatal(err)
			}
			refused(t, p.do(t, "run", "--bundle", dir, id(t)), []string{"config.json"})
		})
	})
}

// TestFullDisk has --root on a file system without room.
func TestFullDisk(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k,nr_inodes=3"); err != nil {
			t.Skipf("needs to mount a tmpfs: %v", err)
		}
		defer unix.Unmount(dir, unix.MNT_DETACH)
		full := *p
		full.root = filepath.Join(dir, "root")
		full.args = append(append([]string{}, p.args...), "--root="+full.root)
		before := look(t, t.TempDir())
		refused(t, full.do(t, "run", "--bundle", bundle(t, nil, "true"), id(t)), []string{full.root})
		if left := look(t, t.TempDir()).beyond(before); len(left) != 0 {
			t.Errorf("left behind: %q", left)
		}
	})
}

// TestLogFormat: docker reads the error from the log, as JSON.
func TestLogFormat(t *testing.T) {
	eachPlatform(t, func(t *testing.T, p *program) {
		r := p.do(t, "--log-format=json", "run", "--bundle", "/no/such/bundle", id(t))
		text, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil || entry.Level != "error" || !strings.Contains(entry.Msg, "/no/such/bundle") {
			t.Errorf("the log's last line: %q, %v; the command said %s", lines[len(lines)-1], err, r)
		}
	})
}

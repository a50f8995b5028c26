package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bulkhead/runtime/container"
)

func TestLines(t *testing.T) {
	for _, row := range []struct{ line, key, value, err string }{
		{"", "", "", ""}, {"  # a comment", "", "", ""},
		{`isolation = "vm"`, "isolation", "vm", ""},
		{`isolation = 'vm'`, "isolation", "vm", ""},
		{`platform="ptrace" # slow`, "platform", "ptrace", ""},
		{"debug = true # all", "debug", "true", ""},
		{"debug", "", "", "is not key = value"},
		{"= true", "", "", "is not key = value"},
		{"debug =", "", "", "neither a quoted string"},
		{`a = "b`, "", "", "has no end"},
		{`a = "b" c`, "", "", `"c" after the string`},
		{`a = "\n"`, "", "", "escapes"},
		{`a = b`, "", "", "neither a quoted string"},
	} {
		key, value, err := parseLine(row.line)
		if key != row.key || value != row.value || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%q: %q, %q, %v", row.line, key, value, err)
		}
	}
}

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	for _, row := range []struct{ text, complaint string }{
		{"# ours\nplatform = \"ptrace\"\n\nspeed = \"max\"\n", `line 4: "speed" is unknown (isolation, platform, overlay, disks, template, debug)`},
		{"isolatoin = \"vm\"", `line 1: "isolatoin" is unknown; is isolation meant? (there are isolation, platform, overlay, disks, template, debug)`},
		{"isolation = \"wm\"", `line 1: isolation: "wm" is none of sentry, vm, auto`},
		{"debug = \"yes\"", `line 1: debug: "yes" is neither true nor false`},
		{"root = \"/x\"", `line 1: "root" is unknown (isolation, platform, overlay, disks, template, debug)`},
	} {
		os.WriteFile(path, []byte(row.text), 0o600)
		rt := &container.Runtime{}
		if err := Read(path, rt); err == nil || err.Error() != path+": "+row.complaint {
			t.Errorf("got %v, want %s", err, row.complaint)
		}
	}
	os.WriteFile(path, []byte("isolation = \"vm\"\nplatform = 'ptrace'\noverlay = \"memory\"\ntemplate = \"off\"\ndebug = true"), 0o600)
	rt := &container.Runtime{}
	if err := Read(path, rt); err != nil || rt.DefaultIsolation != "vm" || rt.DefaultPlatform != "ptrace" || rt.DefaultOverlay != "memory" || rt.DefaultTemplate != "off" || !rt.Debug {
		t.Errorf("%v, %+v", err, rt)
	}
	if err := Read(filepath.Join(t.TempDir(), "none"), rt); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := ReadHandler(filepath.Join(t.TempDir(), "none"), rt); err == nil {
		t.Error("a file that was named and is not there is no error")
	}
	if err := ParseHandler("options", []byte("root = \"/run/x\"\nsystemd_cgroup = true\n"), rt); err != nil || rt.Root != "/run/x" || !rt.SystemdCgroup {
		t.Errorf("%v, %+v", err, rt)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("isolation = \"vm\" # c\n"))
	f.Fuzz(func(t *testing.T, text []byte) { _ = ParseHandler("text", text, &container.Runtime{}) })
}

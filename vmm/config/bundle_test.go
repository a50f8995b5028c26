package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bundled is a machine of a bundle with config.json so.
func bundled(t testing.TB, text string, args ...string) (*Machine, []string, error) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"rootfs", "data"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := parsed(t, "", append(args, "--bundle", dir)...)
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := m.ReadBundle()
	if err == nil {
		err = m.Check()
	}
	return m, ignored, err
}

const bundle = `{"ociVersion":"1.0.2","hostname":"box",
"process":{"args":["sleep","9"],"env":["A=1"],"cwd":"/srv","user":{"uid":5,"gid":6,"additionalGids":[7]},"noNewPrivileges":true},
"root":{"path":"rootfs","readonly":true},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","source":"tmpfs"},
{"destination":"/cache/../var","type":"tmpfs","source":"tmpfs","options":["nosuid","size=1m","rprivate"]},
{"destination":"/data","type":"none","source":"data","options":["rbind","ro"]}],
"linux":{"resources":{}}}`

func TestBundle(t *testing.T) {
	m, ignored, err := bundled(t, bundle, "--share", "src=/src,at=/mnt/rootfs/src")
	if err != nil {
		t.Fatal(err)
	}
	want := []Share{
		{"rootfs", filepath.Join(m.Bundle, "rootfs"), true, "/mnt/rootfs"},
		{"src", "/src", false, "/mnt/rootfs/src"},
		{"mount3", filepath.Join(m.Bundle, "data"), true, "/mnt/rootfs/data"},
	}
	if !slices.Equal(m.Shares, want) {
		t.Errorf("shares %+v, want %+v", m.Shares, want)
	}
	c := m.Container
	if c.Root != "/mnt/rootfs" || c.Cwd != "/srv" || c.UID != 5 || c.GID != 6 || len(c.Groups) != 1 || c.Hostname != "box" || len(c.Env) != 1 {
		t.Errorf("%+v", c)
	}
	if len(c.Mounts) != 1 || c.Mounts[0].Target != "/mnt/rootfs/var" || !slices.Equal(c.Mounts[0].Options, []string{"nosuid", "size=1m"}) {
		t.Errorf("mounts %+v", c.Mounts)
	}
	if !slices.Equal(m.Command, []string{"sleep", "9"}) || !m.Guestinit() {
		t.Errorf("command %q", m.Command)
	}
	if !slices.Equal(ignored, []string{"process.noNewPrivileges", "linux.resources"}) {
		t.Errorf("not honoured: %q", ignored)
	}
}

func TestBundleRefused(t *testing.T) {
	const process = `"process":{"args":["a"],"cwd":"/"}`
	cases := []struct{ text, want string }{
		{"{", "config.json"},
		{"{}", "no process.args"},
		{"{" + process + "}", "no root.path"},
		{`{"process":{"args":["a"],"cwd":"srv"},"root":{"path":"rootfs"}}`, `"srv" is not absolute`},
		{"{" + process + `,"root":{"path":"rootfs"},"mounts":[{"destination":"/x","type":"bind","source":"config.json"}]}`, "not a directory"},
		{"{" + process + `,"root":{"path":"rootfs"},"mounts":[{"destination":"/x","type":"bind","source":"/no/such"}]}`, "not a directory"},
		{"{" + process + `,"root":{"path":"rootfs"},"mounts":[{"destination":"x","type":"tmpfs"}]}`, "absolute"},
		{"{" + process + `,"root":{"path":"rootfs"},"mounts":[{"destination":"/..","type":"tmpfs"}]}`, "the root is"},
		{"{" + process + `,"root":{"path":"rootfs"},"mounts":[{"destination":"/x","type":"nfs"}]}`, `"nfs"`},
		{`{"process":{"args":["a"],"cwd":"/","env":["A"]},"root":{"path":"rootfs"}}`, "NAME=value"},
		{`{"hostname":"a b",` + process + `,"root":{"path":"rootfs"}}`, "hostname"},
		{strings.Repeat(" ", bundleLimit) + "{}", "longer than 4 MiB"},
	}
	for _, c := range cases {
		if _, _, err := bundled(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.100s: %v, want %q", c.text, err, c.want)
		}
	}
	m := Default()
	m.Bundle = "/no/such/bundle"
	if _, err := m.ReadBundle(); err == nil || !strings.Contains(err.Error(), "/no/such/bundle/config.json") {
		t.Errorf("a bundle that is not there: %v", err)
	}
}

// FuzzBundle: whatever config.json says, the mounts of its guest lie below its root.
func FuzzBundle(f *testing.F) {
	f.Add(bundle)
	f.Fuzz(func(t *testing.T, text string) {
		m, _, err := bundled(t, text)
		if err != nil {
			return
		}
		for _, s := range m.Shares {
			if s.At != bundleRoot && !strings.HasPrefix(s.At, bundleRoot+"/") {
				t.Errorf("a share at %s", s.At)
			}
		}
		for _, c := range m.Container.Mounts {
			if !strings.HasPrefix(c.Target, bundleRoot+"/") {
				t.Errorf("a mount at %s", c.Target)
			}
		}
	})
}

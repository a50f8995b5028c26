package install

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

const program = "/usr/local/bin/bulkhead"

// At these paths the tables of handlers stand, by the version of the configuration.
const (
	v2 = "\n" + `[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.bulkhead]`
	v3 = "\n" + `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bulkhead]`
	v1 = "\n" + `[plugins.cri.containerd.runtimes.bulkhead]`
)

const (
	docker     = "/etc/docker/daemon.json"
	containerd = "/etc/containerd/config.toml"
	podman     = "/etc/containers/containers.conf.d/bulkhead.conf"
)

// files are what stands in the files before install, and a part of what stands there after.
var files = []struct{ name, path, text, want string }{
	{"object", docker, "{}", `{"runtimes": { "bulkhead": {"path": "/usr/local/bin/bulkhead"}, "bulkhead-vm": {"path": "/usr/local/bin/bulkhead", "runtimeArgs": ["--isolation=vm"]} }}`},
	{"object and line", docker, "{ }\n", `"bulkhead"`},
	{"object of two lines", docker, "{\n}\n", "{\n    \"runtimes\": {\n        \"bulkhead\": {"},
	{"order and numbers", docker, "{\n  \"z\": 1.50e3,\n  \"a\": \"\\u0041\\\"}\"\n}\n", "\"a\": \"\\u0041\\\"}\",\n  \"runtimes\": {\n    \"bulkhead\": {"},
	{"tabs", docker, "{\n\t\"debug\": true,\n\t\"log-opts\": {\"a\": [1, {\"b\": null}]}\n}", "]},\n\t\"runtimes\": {\n\t\t\"bulkhead\": {"},
	{"no indent", docker, "{\n\"debug\": true\n}\n", "true,\n\"runtimes\": {\n    \"bulkhead\""},
	{"ends of lines of Windows", docker, "{\r\n  \"debug\": true\r\n}\r\n", "true,\r\n  \"runtimes\": {\r\n    \"bulkhead\""},
	{"one line", docker, `{"debug":true,"hosts":["fd://"]}`, `"hosts":["fd://"], "runtimes": { "bulkhead": {`},
	{"runtimes of others", docker, "{\n    \"runtimes\": {\n        \"runc2\": {\n            \"path\": \"runc\"\n        }\n    },\n    \"debug\": true\n}\n", "        },\n        \"bulkhead\": {\"path\""},
	{"runtimes on one line", docker, `{"runtimes": {"x": {"path": "x"}}, "a": []}`, `{"path": "x"}, "bulkhead": {`},
	{"runtimes empty", docker, `{"runtimes":{}}`, `{"runtimes":{"bulkhead": {`},
	{"runtimes empty with space", docker, "{\"runtimes\": {\n  }, \"x\": 1}", `"x": 1}`},
	{"space everywhere", docker, " \n{ \"a\" : 1 , \"b\" : 2 }\n\n", `"b" : 2, "runtimes": { "bulkhead"`},
	{"blank lines", docker, "{\n\n  \"a\": 1,\n\n  \"b\": 2\n\n}\n", "\"b\": 2,\n  \"runtimes\""},
	{"another default", docker, `{"default-runtime": "runc"}`, `"bulkhead"`},

	{"version 2", containerd, "version = 2\n", v2},
	{"version 3", containerd, "version = 3\n", v3},
	{"version 1", containerd, "version = 1 # old\n", v1},
	{"no version", containerd, "#   Copyright\n\ndisabled_plugins = [\"cri\"]\n", v1},
	{"empty", containerd, "", v1},
	{"no end of line", containerd, "version = 2", "version = 2\n\n" + blockCut + "[plugins"},
	{"blank lines at the end", containerd, "version = 2\n\n\n", v2},
	{"ends of lines of Windows", containerd, "version = 2\r\n[plugins]\r\n", v2},
	{"tables", containerd, "version = 2\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"] # ours\n    [plugins.'io.containerd.grpc.v1.cri'.containerd]\n      default_runtime_name = \"runc\"\n      [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n        runtime_type = \"io.containerd.runc.v2\"\n", v2},
	{"everything", containerd, "version = 2\na = [ 1, 2, # two\n ]\nb = { x = \"}\", y.z = ['a', \"b\"] }\nc = \"\"\"x\n[y]\\\"\"\"\"\"\"\nd = '''\nversion = 9\n'''\ne = 1979-05-27 07:32:00Z\nf = -1_000.5e+3\n[[s]]\nt = nan\n[[s]]\n", v2},

	{"a table", podman, "[engine]\nruntime = \"crun\"", "[engine.runtimes]\nbulkhead = [\"/usr/local/bin/bulkhead\"]"},
}

// new files are written as this.
var fresh = []struct{ path, want string }{
	{docker, "{\n  \"runtimes\": {\n    \"bulkhead\": {\"path\": \"/usr/local/bin/bulkhead\"},\n    \"bulkhead-vm\": {\"path\": \"/usr/local/bin/bulkhead\", \"runtimeArgs\": [\"--isolation=vm\"]}\n  }\n}\n"},
	{containerd, blockNew + "version = 2\n" + strings.Replace(v2[1:], "bulkhead]", "runc]", 1)},
	{podman, blockNew + "[engine.runtimes]\nbulkhead = [\"/usr/local/bin/bulkhead\"]\n" + blockEnd},
}

// engineOf is whose file path is.
func engineOf(t *testing.T, path string) string {
	t.Helper()
	for _, e := range engines {
		for _, f := range e.files {
			if f.path == path {
				return e.name
			}
		}
	}
	t.Fatalf("%s is no engine's", path)
	return ""
}

// host is one with text in the file path, or none where there is false.
func host(t *testing.T, path, text string, there bool) Host {
	t.Helper()
	h := Host{Destdir: t.TempDir(), Program: program}
	if there {
		if err := os.MkdirAll(filepath.Dir(h.at(path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(h.at(path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h Host) at(path string) string { return filepath.Join(h.Destdir, path) }

// do carries a plan out.
func do(t *testing.T, p *Plan, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Changes {
		if err := c.Write(); err != nil {
			t.Fatal(err)
		}
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Install adds and keeps, a second changes nothing, and uninstall leaves each byte as it was.
func TestRoundTrip(t *testing.T) {
	for _, row := range files {
		t.Run(filepath.Base(row.path)+" "+row.name, func(t *testing.T) {
			engine := []string{engineOf(t, row.path)}
			h := host(t, row.path, row.text, true)
			p, err := h.Install(engine)
			do(t, p, err)
			got := text(t, h.at(row.path))
			if !strings.Contains(got, row.want) {
				t.Errorf("got\n%s\nwithout\n%s", got, row.want)
			}
			sameOtherwise(t, row.path, row.text, got)
			if p, err = h.Install(engine); err != nil || len(p.Changes) != 0 {
				t.Errorf("a second install: %v, changes %v", err, p)
			}
			if info, err := os.Stat(h.at(row.path)); err != nil || info.Mode() != 0o600 {
				t.Errorf("mode: %v %v", info.Mode(), err)
			}
			h.Program = "/opt/bulkhead" // moved: what was written is written anew
			p, err = h.Install(engine)
			do(t, p, err)
			if got := text(t, h.at(row.path)); row.path != containerd && (strings.Contains(got, program) || !strings.Contains(got, "/opt/bulkhead")) {
				t.Errorf("after a move:\n%s", got)
			}
			p, err = h.Uninstall(engine)
			do(t, p, err)
			if got := text(t, h.at(row.path)); got != row.text {
				t.Errorf("after uninstall: %q, want %q", got, row.text)
			}
			if p, err = h.Uninstall(engine); err != nil || len(p.Changes) != 0 {
				t.Errorf("a second uninstall: %v, changes %v", err, p)
			}
		})
	}
}

// sameOtherwise looks with another reader whether new is old and our entries.
func sameOtherwise(t *testing.T, path, old, new string) {
	t.Helper()
	var was, is map[string]any
	decode := func(text string, to *map[string]any) {
		t.Helper()
		var err error
		if path == docker {
			err = json.Unmarshal([]byte(text), to)
		} else {
			_, err = toml.Decode(text, to)
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
	}
	decode(old, &was)
	decode(new, &is)
	prune(is, "bulkhead", "bulkhead-vm")
	if !strings.Contains(old, "runtimes.runc]") {
		if path == containerd && !strings.Contains(new, ".runtimes.runc]") {
			t.Errorf("the handler runc is gone:\n%s", new)
		}
		prune(is, "runc")
	}
	prune(was)
	a, _ := json.Marshal(was)
	b, _ := json.Marshal(is)
	if !bytes.Equal(a, b) {
		t.Errorf("other settings were %s and are %s", a, b)
	}
}

// prune takes keys out at every depth, tables that are empty, and what JSON cannot say.
func prune(m map[string]any, keys ...string) {
	for _, key := range keys {
		delete(m, key)
	}
	for key, v := range m {
		switch v := v.(type) {
		case map[string]any:
			if prune(v, keys...); len(v) == 0 {
				delete(m, key)
			}
		case float64:
			if v != v {
				delete(m, key)
			}
		case []map[string]any:
			for _, each := range v {
				prune(each, keys...)
			}
		}
	}
}

func TestNewFiles(t *testing.T) {
	for _, row := range fresh {
		h := host(t, row.path, "", false)
		engine := []string{engineOf(t, row.path)}
		p, err := h.Install(engine)
		do(t, p, err)
		if got := text(t, h.at(row.path)); !strings.HasPrefix(got, row.want) {
			t.Errorf("%s: %s", row.path, got)
		}
		if p, err = h.Install(engine); err != nil || len(p.Changes) != 0 {
			t.Errorf("%s: a second install: %v, changes %v", row.path, err, p)
		}
		p, err = h.Uninstall(engine)
		do(t, p, err)
		filepath.WalkDir(h.Destdir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				t.Errorf("left: %s %v", path, err)
			}
			return nil
		})
	}
}

// What somebody has added meanwhile, stays; and works without us.
func TestChangedMeanwhile(t *testing.T) {
	kata := strings.Replace(v2[1:], ".bulkhead", ".kata", 1)
	runc := strings.Replace(v2[1:], ".bulkhead", ".runc", 1)
	for _, row := range []struct{ path, add, cut, with, want string }{
		{docker, "", "{\n", "{\n  \"debug\": true,\n", "{\n  \"debug\": true\n}\n"},
		{docker, "", "\n  }\n}", "\n  },\n  \"debug\": true\n}", "{\n  \"debug\": true\n}\n"},
		{containerd, "[debug]\n  level = \"info\"\n", "", "", "version = 2\n[debug]\n  level = \"info\"\n"},
		{containerd, "[debug]\n", "version = 2", "version = 3", "version = 3\n[debug]\n"},
		{podman, "[network]\n", "", "", "[network]\n"},
		{containerd, kata, "", "", "version = 2\n" + kata + "\n" + fmt.Sprintf(runcBody, strings.Trim(runc, "[]"))},
		{containerd, kata + "\n" + runc, "", "", "version = 2\n" + kata + "\n" + runc},
	} {
		h := host(t, row.path, "", false)
		engine := []string{engineOf(t, row.path)}
		p, err := h.Install(engine)
		do(t, p, err)
		changed := strings.Replace(text(t, h.at(row.path)), row.cut, row.with, 1) + row.add
		if err := os.WriteFile(h.at(row.path), []byte(changed), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err = h.Install(engine)
		do(t, p, err)
		p, err = h.Uninstall(engine)
		do(t, p, err)
		if got := text(t, h.at(row.path)); got != row.want {
			t.Errorf("%s with %q and %q: %q, want %q", row.path, row.with, row.add, got, row.want)
		}
	}
}

// Entries that somebody wrote by hand for our names are theirs.
func TestByHand(t *testing.T) {
	for _, row := range []struct{ path, text string }{
		{docker, `{"runtimes": {"bulkhead": {"path": "/x/bulkhead", "runtimeArgs": ["--platform=kvm"]}, "bulkhead-vm": {"path": "/y"}}}`},
		{containerd, "version = 2" + v2 + strings.Replace(v2, "bulkhead]", "bulkhead-vm.options]", 1) + "\n"},
		{podman, "[engine]\nruntimes.bulkhead = []\n"},
	} {
		h := host(t, row.path, row.text, true)
		for _, plan := range []func([]string) (*Plan, error){h.Install, h.Uninstall} {
			p, err := plan([]string{engineOf(t, row.path)})
			do(t, p, err)
			if got := text(t, h.at(row.path)); got != row.text || len(p.Notes) == 0 {
				t.Errorf("%s: %q, notes %v", row.path, got, p.Notes)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for _, row := range []struct{ path, text, want string }{
		{docker, "", "is empty; remove it, or write {} to it"},
		{docker, " \n", "is empty; remove it, or write {} to it"},
		{docker, "{\n  \"a\": 1,\n}\n", "line 3 is not JSON: invalid character '}'"},
		{docker, "// x\n{}", "line 1 is not JSON: "},
		{docker, "{\"a\":", "line 1 is not JSON: unexpected end"},
		{docker, "[]", "is no object of JSON"},
		{docker, "{} {}", "line 1 is not JSON: "},
		{docker, "\xef\xbb\xbf{}", "line 1 is not JSON: "},
		{docker, strings.Repeat(`{"a":`, 20000), "line 1 is not JSON: "},
		{docker, `{"runtimes": []}`, "runtimes: it is no object"},
		{docker, `{"runtimes": {}, "runtimes": {}}`, `is no object of JSON: "runtimes" stands there twice`},
		{containerd, "version = 4\n", "version = 4 is none that is known here (1, 2, 3)"},
		{containerd, "version = \"2\"\n", `version = "2" is none that is known here`},
		{containerd, "version = 2\n[plugins\n", `line 2 is not TOML: '\n' where the header of a table should end`},
		{containerd, "version 2\n", `line 1 is not TOML: '2' where a = should be`},
		{containerd, "version = 2\nx = y\n", `line 2 is not TOML: "y" is no value (strings have quotes)`},
		{containerd, "a = [1 2]\n", `line 1 is not TOML: '2' in an array`},
		{containerd, "a = \"x\n", "line 1 is not TOML: a string has no end"},
		{containerd, "a = '''x\n", "line 2 is not TOML: a string has no end"},
		{containerd, "a = \xff\n", "is not TOML: it is not UTF-8"},
		{containerd, "a = " + strings.Repeat("[", 100000), "line 1 is not TOML: arrays or tables stand in each other too deep"},
		{containerd, "[" + strings.Repeat("a.", 64) + "a]\n", "line 1 is not TOML: a key has too many parts"},
		{containerd, "version = 2\nplugins = {}\n", `plugins is no table that [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.bulkhead] could stand below`},
		{containerd, "version = 2\n[[plugins]]\n", "plugins is no table that "},
		{containerd, "version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\".containerd.runtimes = {}\n", `plugins."io.containerd.grpc.v1.cri".containerd.runtimes is no table that `},
		{containerd, blockLine + "x\n", "the part marked as bulkhead install's (# >>>) has no end (# <<<)"},
		{containerd, blockEnd, "an end of bulkhead install's part (# <<<) stands there without its begin"},
		{containerd, blockLine + blockEnd + blockLine + blockEnd, "it has two parts marked as bulkhead install's"},
		{podman, "[engine.runtimes]\n", `has a table [engine.runtimes] of your own; put there: bulkhead = ["/usr/local/bin/bulkhead"]`},
	} {
		h := host(t, row.path, row.text, true)
		_, err := h.Install([]string{engineOf(t, row.path)})
		if err == nil || !strings.Contains(err.Error(), h.at(row.path)+": "+row.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s of %.60q: %v, want %s", row.path, row.text, err, row.want)
		}
		if got := text(t, h.at(row.path)); got != row.text {
			t.Errorf("%s: %q has become %q", row.path, row.text, got)
		}
	}
}

// An engine whose default is bulkhead would not start without it.
func TestDefaultRuntime(t *testing.T) {
	for _, row := range []struct{ path, text, want string }{
		{docker, `{"default-runtime": "bulkhead"}`, "bulkhead is docker's default-runtime; choose another first"},
		{containerd, "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd]\ndefault_runtime_name = \"bulkhead-vm\"\n", "bulkhead-vm is the default_runtime_name; choose another first"},
	} {
		h := host(t, row.path, row.text, true)
		engine := []string{engineOf(t, row.path)}
		p, err := h.Install(engine)
		do(t, p, err)
		if _, err = h.Uninstall(engine); err == nil || !strings.HasSuffix(err.Error(), row.want) {
			t.Errorf("%s: %v, want %s", row.path, err, row.want)
		}
	}
}

func TestNoRegularFile(t *testing.T) {
	h := host(t, docker, "", true)
	os.Remove(h.at(docker))
	for want, make := range map[string]func() error{
		"is a symbolic link":  func() error { return os.Symlink("/etc/passwd", h.at(docker)) },
		"is no regular file":  func() error { return os.Mkdir(h.at(docker), 0o755) },
		"is no regular file ": func() error { return unix.Mkfifo(h.at(docker), 0o600) },
		"has 5000000 bytes": func() error {
			if err := os.WriteFile(h.at(docker), nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(h.at(docker), 5000000)
		},
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		for _, plan := range []func([]string) (*Plan, error){h.Install, h.Uninstall} {
			if _, err := plan(nil); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
				t.Errorf("%v, want %s", err, want)
			}
		}
		os.Remove(h.at(docker))
	}
}

func TestWhoIsThere(t *testing.T) {
	h := Host{Destdir: t.TempDir(), Program: program, Path: "/sbin:/bin"}
	if _, err := h.Install(nil); err == nil || !strings.Contains(err.Error(), "no engine is here") {
		t.Error(err)
	}
	if _, err := h.Install([]string{"dokcer"}); err == nil || err.Error() != `"dokcer" is no engine known here; is docker meant?` {
		t.Error(err)
	}
	os.MkdirAll(h.at("/etc/containerd"), 0o755)
	os.MkdirAll(h.at("/bin/dockerd"), 0o755) // a directory is no program
	os.WriteFile(h.at("/bin/podman"), nil, 0o755)
	p, err := h.Install(nil)
	if err != nil || strings.Join(p.Engines, " ") != "containerd podman" {
		t.Error(p, err)
	}
	for _, program := range []string{"", "bin/bulkhead", "/x\ny", "/\xff"} {
		if _, err := (Host{Program: program}).Install(nil); err == nil {
			t.Errorf("%q is taken", program)
		}
	}
}

// A file that changes between the diff and the yes is not overwritten.
func TestWriteRace(t *testing.T) {
	h := host(t, docker, "{}", true)
	p, err := h.Install(nil)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(h.at(docker), []byte(`{"a": 1}`), 0o600)
	if err := p.Changes[0].Write(); err == nil || !strings.Contains(err.Error(), "has changed meanwhile") {
		t.Error(err)
	}
	if got := text(t, h.at(docker)); got != `{"a": 1}` {
		t.Error(got)
	}
	if left, _ := os.ReadDir(filepath.Dir(h.at(docker))); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// patch(1) is who says whether a diff is one.
func TestDiff(t *testing.T) {
	patch, err := exec.LookPath("patch")
	if err != nil {
		t.Skip("needs patch(1): apt-get install patch")
	}
	for _, row := range files {
		h := host(t, row.path, row.text, true)
		p, err := h.Install([]string{engineOf(t, row.path)})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Changes {
			if !c.old.there {
				continue
			}
			cmd := exec.Command(patch, "--binary", c.Path)
			cmd.Stdin = strings.NewReader(c.Diff())
			if out, err := cmd.CombinedOutput(); err != nil || text(t, c.Path) != c.new.text {
				t.Errorf("%s: %v\n%s\n%s", row.name, err, out, c.Diff())
			}
		}
	}
	c := Change{"/x", content{true, "1\n2\n3\n4\n5\n6\n7\n8\n9"}, content{true, "1\n2\n3\n4\nV\n6\n7\n8\n9"}}
	if want := "--- /x\n+++ /x\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+V\n 6\n 7\n 8\n"; c.Diff() != want {
		t.Errorf("%s, want %s", c.Diff(), want)
	}
	c = Change{"/x", content{}, content{true, "1"}}
	if want := "--- /dev/null\n+++ /x\n@@ -0,0 +1,1 @@\n+1\n\\ No newline at end of file\n"; c.Diff() != want {
		t.Errorf("%s, want %s", c.Diff(), want)
	}
}

// What engines say of it themselves, those that are on this machine.
func TestEnginesRead(t *testing.T) {
	program, err := exec.LookPath("containerd")
	if err != nil {
		t.Skip("needs containerd: apt-get install containerd")
	}
	for _, row := range []struct {
		name, text string
		there      bool
	}{
		{"version 2", "version = 2", true},
		{"version 1", "oom_score = -1\n", true},
		{"tables", "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/usr/lib/cni\"\n", true},
		{"no file", "", false},
	} {
		h := host(t, containerd, row.text, row.there)
		p, err := h.Install([]string{"containerd"})
		do(t, p, err)
		out, err := exec.Command(program, "--config", h.at(containerd), "config", "dump").CombinedOutput()
		for _, want := range []string{".containerd.runtimes.bulkhead]", ".containerd.runtimes.bulkhead-vm]", `ConfigPath = "/etc/bulkhead/vm.toml"`, ".containerd.runtimes.runc]"} {
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%s: %v, no %s in\n%s", row.name, err, want, out)
			}
		}
	}
}

// dockerd 23 and later reads a configuration and says what it thinks.
func TestDockerdReads(t *testing.T) {
	program, err := exec.LookPath("dockerd")
	if err != nil {
		t.Skip("needs dockerd: apt-get install docker.io")
	}
	if help, _ := exec.Command(program, "--help").Output(); !strings.Contains(string(help), "--validate") {
		t.Skip("needs a dockerd that has --validate: docker 23 or newer, which Debian 12 does not have")
	}
	h := host(t, docker, "{\"debug\": true}", true)
	p, err := h.Install([]string{"docker"})
	do(t, p, err)
	if out, err := exec.Command(program, "--validate", "--config-file", h.at(docker)).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bulkhead/runtime/container"
	"bulkhead/runtime/state"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "rewrite testdata")

// The help is read by people: it changes on purpose or not at all.
func TestHelp(t *testing.T) {
	a := &app{}
	root := a.root()
	root.InitDefaultHelpCmd()
	var all bytes.Buffer
	fmt.Fprintf(&all, "# bulkhead --help\n\n%s\n", help(root))
	for _, c := range root.Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			fmt.Fprintf(&all, "# bulkhead %s --help\n\n%s\n", c.Name(), help(c))
		}
	}
	got := strings.ReplaceAll(all.String(), defaultRoot(), "/run/bulkhead")
	file := filepath.Join("testdata", "help.txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the help has changed; see go test -update and git diff. It is now:\n%s", got)
	}
}

func help(c *cobra.Command) string {
	var b bytes.Buffer
	c.SetOut(&b)
	c.Help()
	return b.String()
}

// What engines pass has to be taken (go-runc, runc.go; moby).
func TestEnginesFlags(t *testing.T) {
	for _, line := range []string{
		"--root /run/x --log /run/x/log.json --log-format json --systemd-cgroup create --bundle /b --pid-file /b/init.pid --console-socket /s --no-pivot --no-new-keyring --preserve-fds 2 ID",
		"--root /run/x --rootless=true start ID",
		"exec --process /tmp/p --console-socket /s --tty --detach --pid-file /p ID",
		"exec --cwd / --user 1:2 --env A=b --cap CAP_CHOWN --preserve-fds 1 ID sh -c id",
		"run --bundle /b --detach --pid-file /p --keep --no-pivot ID",
		"kill --all ID 9",
		"delete --force ID",
		"ps --format json ID",
		"events --stats ID",
		"events --interval=1s ID",
		"update --resources=- ID",
		"update --cpu-share 2 --memory 1g --kernel-memory 1 --pids-limit -1 ID",
		"list --format=json",
		"state ID",
		"spec --bundle /b --rootless",
		"pause ID", "resume ID", "features",
		"checkpoint --image-path /x --leave-running ID",
		"restore --image-path /x --detach ID",
		"do ls -l --color",
	} {
		a := &app{}
		root := a.root()
		c, rest, err := root.Traverse(strings.Fields(line))
		if err == nil && !c.DisableFlagParsing {
			err = c.ParseFlags(rest)
		}
		if err != nil || c == root {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// Main's answers to wrong use: what it says, and the code.
func TestWrongUse(t *testing.T) {
	root := t.TempDir()
	for _, row := range []struct {
		args string
		code int
		want string
	}{
		{"--log-format=xml list", 1, "bulkhead: --log-format=xml is neither text nor json\n"},
		{"--rootless=maybe list", 1, "bulkhead: --rootless=maybe is none of true, false, auto\n"},
		{"frobnicate", 1, "bulkhead: unknown command \"frobnicate\" for \"bulkhead\"\n"},
		{"stat x", 1, "bulkhead: unknown command \"stat\" for \"bulkhead\"\n"},
		{"--frobnicate list", 1, "bulkhead: unknown flag: --frobnicate\n"},
		{"state", 1, "bulkhead: state: ID is missing; see bulkhead state --help\n"},
		{"state a b", 1, "bulkhead: state: \"b\" is one argument too many; see bulkhead state --help\n"},
		{"state a/b", 1, "bulkhead: container ID \"a/b\": only letters, digits, _ + - . are allowed, and no - first\n"},
		{"state nobody", 1, "bulkhead: container does not exist: nobody\n"},
		{"kill nobody FOO", 1, "bulkhead: signal \"FOO\" is unknown\n"},
		{"delete nobody", 1, "bulkhead: container does not exist: nobody\n"},
		{"delete --force nobody", 0, ""},
		{"exec nobody true", 255, "bulkhead: container does not exist: nobody\n"},
		{"create --bundle /nonexistent x", 1, "bulkhead: container x: bundle /nonexistent: no such directory\n"},
		{"list --format=xml", 1, "bulkhead: list: --format=xml is neither table nor json\n"},
		{"do", 1, "bulkhead: do: COMMAND is missing; see bulkhead do --help\n"},
		{"do --rw /nonexistent true", 1, "bulkhead: do: --rw=/nonexistent: no such file or directory\n"},
		{"do --user me true", 1, "bulkhead: do: --user=me: \"me\" is no user number\n"},
		{"--isolation=vm do true", 1, "bulkhead: isolation vm: this build has no machines; use --isolation=sentry\n"},
		{"--isolation=paper do true", 1, "bulkhead: isolation \"paper\" is unknown (sentry, vm, auto)\n"},
		{"--platform=gpu do true", 1, "bulkhead: platform \"gpu\" is unknown (auto, kvm, ptrace)\n"},
		{"--overlay=dir=x do true", 1, "bulkhead: open descriptors: --overlay=dir=x is none of none, memory, dir=/absolute/path\n"},
		{"install --program=/b --destdir=/nonexistent", 1, "bulkhead: install: no engine is here: neither a directory of theirs in /nonexistent/etc nor their programs; name those that you want (docker, containerd, podman)\n"},
		{"install --program=/b --destdir=/nonexistent dokcer", 1, "bulkhead: install: \"dokcer\" is no engine known here; is docker meant?\n"},
		{"install --program=b docker", 1, "bulkhead: install: \"b\" is no absolute path to call bulkhead by\n"},
		{"install --program=/b --destdir=/nonexistent docker", 2, "bulkhead: install: nothing was written, since there is no terminal to ask on; --yes writes\n"},
		{"uninstall --destdir=/nonexistent docker", 0, ""},
	} {
		code, said := invoke(t, append([]string{"--root", root}, strings.Fields(row.args)...))
		if code != row.code || said != row.want {
			t.Errorf("%s: exit %d and %q, want %d and %q", row.args, code, said, row.code, row.want)
		}
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// invoke runs Main and gives what it wrote to standard error.
func invoke(t *testing.T, args []string) (int, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	saved := os.Stderr
	os.Stderr = w
	code := Program{}.Main(args)
	os.Stderr = saved
	w.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return code, string(b)
}

// Engines read the last error from the log (go-runc, containerd's getLastRuntimeError).
func TestErrorsInTheLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log.json")
	invoke(t, []string{"--root", t.TempDir(), "--log", log, "--log-format", "json", "state", "nobody"})
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var line struct{ Level, Msg, Time string }
	if err := json.Unmarshal(data, &line); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	if line.Level != "error" || line.Msg != "container does not exist: nobody" || line.Time == "" {
		t.Errorf("%+v", line)
	}
}

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]unix.Signal{
		"9": 9, "KILL": 9, "SIGKILL": 9, "sigterm": 15, "hup": 1, "RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "64": 64,
		"0": 0, "65": 0, "-1": 0, "": 0, "SIG": 0, "RTMIN+40": 0, "RTMIN+x": 0,
	} {
		got, err := parseSignal(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
}

func TestBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "-1": -1, "1024": 1024, "1k": 1 << 10, "512M": 512 << 20, "2g": 2 << 30, "3GiB": 3 << 30, "1mb": 1 << 20,
	} {
		var got *int64
		if err := parseBytes(&got, s); err != nil || *got != want {
			t.Errorf("%q: %v, want %d", s, err, want)
		}
	}
	for _, s := range []string{"", "x", "-2", "-1k", "1.5g", "99999999999g"} {
		var got *int64
		if err := parseBytes(&got, s); err == nil {
			t.Errorf("%q: accepted as %d", s, *got)
		}
	}
}

func TestMerge(t *testing.T) {
	limit := int64(5)
	r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
	file := filepath.Join(t.TempDir(), "r.json")
	os.WriteFile(file, []byte(`{"memory":{"limit":7}}`), 0o600)
	if err := merge(r, file); err != nil || *r.Memory.Limit != 7 || *r.Pids.Limit != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	os.WriteFile(file, []byte(`{"memory":7}`), 0o600)
	if err := merge(r, file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HERE", "yes")
	got := environment([]string{"A=1", "B=2", "odd", "=C:=x", "HERE=no"}, []string{"A=3", "-B", "HERE", "NOT_SET_ANYWHERE"})
	if want := []string{"A=3", "HERE=yes"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestDoDescribes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	d := doFlags{rw: []string{"."}, user: "7:8"}
	o, err := d.container([]string{"ls", "-l"})
	if err != nil {
		t.Fatal(err)
	}
	s := o.Bundle.Spec
	last := s.Mounts[len(s.Mounts)-1]
	if s.Process.Cwd != dir || s.Process.User.UID != 7 || s.Process.User.GID != 8 || last.Source != dir || !slices.Contains(last.Options, "rw") {
		t.Errorf("%+v %+v", s.Process, last)
	}
	if !slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace && ns.Path == "" }) {
		t.Errorf("no network namespace of its own: %+v", s.Linux.Namespaces)
	}
	d.netns = "/proc/self/ns/net"
	if o, err = d.container([]string{"ls"}); err != nil {
		t.Fatal(err)
	}
	if s := o.Bundle.Spec; !slices.ContainsFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace && ns.Path == d.netns }) {
		t.Errorf("not the network namespace that was named: %+v", s.Linux.Namespaces)
	}
	d.netns = "nobody-made-this"
	noted := doFlags{annotations: []string{"a.b=c=d", "e="}}
	if o, err := noted.container([]string{"ls"}); err != nil || !maps.Equal(o.Bundle.Spec.Annotations, map[string]string{"a.b": "c=d", "e": ""}) {
		t.Errorf("annotations: %v", err)
	}
	noted.annotations = []string{"=x"}
	if _, err := noted.container([]string{"ls"}); err == nil || err.Error() != "do: --annotation==x is not NAME=VALUE" {
		t.Errorf("an annotation without a name: %v", err)
	}
	if _, err := d.container([]string{"ls"}); err == nil || err.Error() != "do: --netns=nobody-made-this: no such file or directory" {
		t.Errorf("a network namespace that is not there: %v", err)
	}
}

func TestExecDescribes(t *testing.T) {
	base := &specs.Process{Args: []string{"init"}, Cwd: "/w", Env: []string{"A=1"}, Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}}
	x := execFlags{env: []string{"B=2"}, user: "5", caps: []string{"chown"}, cwd: "/x"}
	p, err := x.describe(base, []string{"ls"})
	if err != nil {
		t.Fatal(err)
	}
	if p.Args[0] != "ls" || p.Cwd != "/x" || len(p.Env) != 2 || p.User.UID != 5 || !slices.Contains(p.Capabilities.Effective, "CAP_CHOWN") {
		t.Errorf("%+v", p)
	}
	if len(base.Env) != 1 || len(base.Capabilities.Bounding) != 1 {
		t.Errorf("the container's own process was changed: %+v", base)
	}
	if _, err := (&execFlags{}).describe(base, nil); err == nil {
		t.Error("an exec of nothing was accepted")
	}
	file := filepath.Join(t.TempDir(), "process.json")
	os.WriteFile(file, []byte(`{"args":["a"],"cwd":"b"}`), 0o600)
	want := file + `: cwd: "b" is not an absolute path`
	if _, err := (&execFlags{process: file}).describe(base, nil); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A list with the remains of a creation that was cut off.
func TestListShowsRemains(t *testing.T) {
	root := t.TempDir()
	os.Mkdir(filepath.Join(root, "nothing"), 0o700)
	os.Mkdir(filepath.Join(root, "half"), 0o700)
	os.WriteFile(filepath.Join(root, "half", "sandbox.log"), nil, 0o600)
	a := &app{log: slog.New(slog.DiscardHandler)}
	a.rt = container.Runtime{Root: root, Log: a.log}
	ids, err := listIDs(root)
	if err != nil || len(ids) != 2 {
		t.Fatalf("%v, %v", ids, err)
	}
	if err := a.rt.Delete(context.Background(), "nothing", false); err != nil {
		t.Error(err)
	}
	if err := a.rt.Delete(context.Background(), "half", false); err == nil || !strings.Contains(err.Error(), "delete --force removes it") {
		t.Errorf("%v", err)
	}
	if err := a.rt.Delete(context.Background(), "half", true); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Errorf("left: %v", left)
	}

	// docker keeps runc's containers beside ours.
	os.Mkdir(filepath.Join(root, "runcs"), 0o700)
	os.WriteFile(filepath.Join(root, "runcs", "state.json"), []byte(`{"id":"runcs","init_process_pid":1}`), 0o600)
	if err := a.rt.Delete(context.Background(), "runcs", true); !errors.Is(err, state.ErrForeign) {
		t.Errorf("delete of another runtime's: %v", err)
	}
	if _, err := os.Stat(filepath.Join(root, "runcs", "state.json")); err != nil {
		t.Error(err)
	}
}

func TestPrintFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", 100_000)
	if err := os.WriteFile(path, []byte("one\r\n\x1b[2Jtwo\t2\n"+long+"\nlast"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := printFile(&b, path); err != nil || b.String() != "one\n?[2Jtwo    2\n"+long+"\nlast" {
		t.Errorf("%.60q, %v", b.String(), err)
	}
}

// TestVersions: version -v names kernels. (A test's program is not told its modules.)
func TestVersions(t *testing.T) {
	var out strings.Builder
	if err := (&app{Program: Program{Kernel: "Linux 6.12.0-x"}}).allVersions(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"host kernel: Linux ", "sentry: Linux 6.12.0-x\n", "guest kernel: "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

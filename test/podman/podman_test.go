// Package podman runs Debian's Podman with bulkhead as its runtime: rootful, and rootless as
// a user that the test makes, in directories of their own. The same session runs with runc,
// whose words are what is expected. Slow: make engines.
package podman

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"
)

// user is who runs rootless; made, and deleted.
const user = "bulkhead-podman"

// engine is Podman with directories of its own, for one user.
type engine struct {
	dir     string
	user    string // "" is root
	runtime string
}

// open gives one, with the image box.
func open(t *testing.T, as string) *engine {
	t.Helper()
	rig.NeedRoot(t)
	if os.Getenv("BULKHEAD_SLOW") == "" {
		t.Skip("takes minutes: make engines")
	}
	needs := []string{"podman", "conmon", "runc", "busybox"}
	if as != "" {
		needs = append(needs, "useradd", "newuidmap")
	}
	for _, program := range needs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: scripts/need engines installs it", program)
		}
	}
	dir, err := os.MkdirTemp("", "bulkhead-podman-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{dir: dir, user: as}
	t.Cleanup(func() {
		e.podman(t, "", "rm", "--all", "--force", "--time", "0")
		e.podman(t, "", "unshare", "rm", "-rf", filepath.Join(dir, "root"), filepath.Join(dir, "run")) // another's numbers
		os.RemoveAll(dir)
	})
	binary, err := os.ReadFile(rig.Bulkhead(t))
	if err != nil {
		t.Fatal(err)
	}
	// Limits that the host's root need not raise.
	config := fmt.Sprintf("[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=4096:4096\"]\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n[engine.runtimes]\nbulkhead = [%q]\n", filepath.Join(dir, "bulkhead"))
	for name, text := range map[string][]byte{"bulkhead": binary, "containers.conf": []byte(config), "file": []byte("data\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := `cd "$(mktemp -d)" && mkdir -p bin etc proc sys dev tmp root && chmod 1777 tmp && cp "$(command -v busybox)" bin/busybox
		for a in $(busybox --list); do [ $a = busybox ] || ln -s busybox bin/$a; done
		echo root:x:0:0::/root:/bin/sh >etc/passwd; echo user:x:1000:1000::/:/bin/sh >>etc/passwd; echo root:x:0: >etc/group
		chmod 755 . && tar -cf "$0/box.tar" . && rm -rf "$PWD" && mkdir "$0/home" "$0/volume" && chmod 755 "$0"`
	if out, err := exec.Command("sh", "-ec", script, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if as != "" {
		e.makeUser(t)
	}
	if r := e.podman(t, "", "import", filepath.Join(dir, "box.tar"), "box"); r.Code != 0 {
		t.Fatalf("import: %s", r)
	}
	return e
}

// makeUser has one with numbers for a user namespace (subuid(5)).
func (e *engine) makeUser(t *testing.T) {
	t.Helper()
	exec.Command("userdel", "--force", e.user).Run() // that a test which was killed has left, and its process
	if out, err := exec.Command("useradd", "--no-create-home", "--home-dir", e.dir+"/home", e.user).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		e.podman(t, "", "system", "migrate") // ends the process that keeps the user namespace
		if out, err := exec.Command("userdel", "--force", e.user).CombinedOutput(); err != nil {
			t.Errorf("userdel: %v\n%s", err, out)
		}
	})
	if text, _ := os.ReadFile("/etc/subuid"); !bytes.Contains(text, []byte(e.user+":")) {
		if out, err := exec.Command("usermod", "--add-subuids", "700000-765535", "--add-subgids", "700000-765535", e.user).CombinedOutput(); err != nil {
			t.Fatalf("usermod: %v\n%s", err, out)
		}
	}
	if out, err := exec.Command("chown", "-R", e.user, e.dir).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v\n%s", err, out)
	}
}

// podman is one command.
func (e *engine) podman(t *testing.T, stdin string, args ...string) rig.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*rig.Limit)
	defer cancel()
	command := []string{"podman", "--root", e.dir + "/root", "--runroot", e.dir + "/run", "--storage-driver=vfs"}
	if e.runtime != "" {
		command = append(command, "--runtime="+e.runtime)
	}
	command = append(command, args...)
	if e.user != "" {
		command = append([]string{"runuser", "-u", e.user, "--"}, command...)
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir, cmd.Stdin = e.dir, strings.NewReader(stdin)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + e.dir + "/home", "XDG_RUNTIME_DIR=" + e.dir + "/home", "CONTAINERS_CONF=" + e.dir + "/containers.conf"}
	// A container that it leaves may keep its output.
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	r := rig.Result{Out: out.String(), Err: errs.String()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		t.Fatalf("podman %q hung; so far:\n%s", args, r)
	case errors.As(err, &exit):
		r.Code = exit.ExitCode()
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		t.Fatal(err)
	}
	return r
}

// until waits for what inspect says of a container.
func (e *engine) until(t *testing.T, name, field, want string) {
	t.Helper()
	for limit := time.Now().Add(2 * rig.Limit); ; time.Sleep(50 * time.Millisecond) {
		r := e.podman(t, "", "inspect", "-f", field, name)
		if got := strings.TrimSpace(r.Out); got == want {
			return
		} else if time.Now().After(limit) {
			t.Fatalf("%s of %s is %q, want %q", field, name, got, want)
		}
	}
}

// step is one command of a session, or a wait for what inspect says.
type step struct {
	args  string // in words; %s is the engine's directory
	stdin string
	until [2]string // field, value, of the container that args names
}

// session is what people do with containers. Lines of a container's own script are quoted by |.
var session = []step{
	{args: "run --rm --network=none box id"},
	{args: "run --network=none --name a box sh -c |echo hi; echo err >&2; exit 3|"},
	{args: "logs a"},
	{args: "inspect -f {{.State.Status}}-{{.State.ExitCode}} a"},
	{args: "start -a a"},
	{args: "cp %s/file a:/tmp/file"}, // of one that does not run
	{args: "cp a:/tmp/file -"},
	{args: "run -d --network=none --name b box sh -c |trap 'echo term; exit 5' TERM; echo up; while :; do sleep 0.1; done|"},
	{args: "exec b sh -c |echo in; exit 7|"},
	{args: "exec -u user -w /tmp -e A=b b sh -c |id -u; pwd; echo $A|"},
	{args: "exec -i b cat", stdin: "typed\n"},
	{args: "pause b"},
	{args: "inspect -f {{.State.Status}} b"},
	{args: "unpause b"},
	{args: "stop -t 60 b"},
	{args: "inspect -f {{.State.Status}}-{{.State.ExitCode}} b"},
	{args: "logs b"},
	{args: "kill b"},
	{args: "run --rm --network=none -v %s/volume:/v box sh -c |echo v >/v/x; ls /v; rm /v/x|"},
	{args: "run --rm --network=none --read-only box touch /x"},
	{args: "run --rm --network=none --tmpfs /t:size=1m box sh -c |df /t; head -c 2000000 /dev/zero >/t/x|"},
	{args: "run --rm --network=none --hostname h --ulimit nofile=100:200 --ulimit nproc=4096:4096 --user 1000:1000 --cap-drop all box sh -c |hostname; ulimit -n; id -u; grep CapEff /proc/self/status|"},
	{args: "run --rm --network=none -i box cat", stdin: "typed\n"},
	{args: "run --rm --network=none --init box sh -c |exit 9|"},
	{args: "run -d --network=none --restart on-failure:2 --name c box sh -c |echo go; exit 1|"},
	{args: "c", until: [2]string{"{{.RestartCount}} {{.State.Status}}", "2 exited"}},
	{args: "logs c"},
	{args: "run -d --network=none --name d --health-cmd |test -e /tmp/ok| --health-interval=disable box sleep 1000"},
	{args: "healthcheck run d"},
	{args: "exec d touch /tmp/ok"},
	{args: "healthcheck run d"},
	{args: "commit -q d made"},
	{args: "run --rm --network=none made ls /tmp"},
	{args: "rm -f -t 0 d"},
	{args: "build -q --network=none --isolation=oci -t built -", stdin: "FROM box\nRUN echo made > /made && test $(id -u) = 0\nUSER user\nRUN id -u\nCMD cat /made\n"},
	{args: "run --rm --network=none built"},
	{args: "pod create --infra=false --name p"},
	{args: "run --rm --pod p --network=none box echo in a pod"},
	{args: "pod create --network=none --infra-image box --infra-command |sleep 1000| --name q"},
	{args: "run --rm --pod q box hostname"},
	{args: "pod rm -f -t 0 p q"},
	{args: "ps -a --format {{.Names}}-{{.Status}}"},
	{args: "rm -f -t 0 a"},
	{args: "rm -f -t 0 b"},
	{args: "rm -f -t 0 c"},
	{args: "rmi -f made built"},
}

var (
	numbers  = regexp.MustCompile(`\b[0-9a-f]{64}\b`)
	warnings = regexp.MustCompile(`(?m)^time=.*\n`) // no systemd for healthchecks, and the like
	ago      = regexp.MustCompile(`(\([0-9]+\)) .* ago`)
	own      = regexp.MustCompile(`(?m)^Error: .*: (exec|.* is in state)`)
)

// play runs the session, and gives what a person sees of it.
func (e *engine) play(t *testing.T, runtime string) []string {
	t.Helper()
	e.runtime = runtime
	var seen []string
	for _, s := range session {
		if s.until[0] != "" {
			e.until(t, s.args, s.until[0], s.until[1])
			continue
		}
		var args []string
		for i, part := range strings.Split(fmt.Sprintf(strings.ReplaceAll(strings.ReplaceAll(s.args, "%", "%%"), "%%s", "%s"), e.words(s.args)...), "|") {
			if i%2 == 1 {
				args = append(args, part)
			} else {
				args = append(args, strings.Fields(part)...)
			}
		}
		r := e.podman(t, s.stdin, args...)
		r.Out, r.Err = plain(r.Out), plain(r.Err)
		seen = append(seen, fmt.Sprintf("podman %s\n%s", s.args, r))
	}
	return seen
}

// words are what the directory is put in for.
func (e *engine) words(args string) (all []any) {
	for range strings.Count(args, "%s") {
		all = append(all, e.dir)
	}
	return all
}

// plain takes out what is another in each run.
func plain(text string) string {
	text = warnings.ReplaceAllString(text, "")
	text = numbers.ReplaceAllString(text, "ID")
	text = ago.ReplaceAllString(text, "$1")
	return own.ReplaceAllString(text, "Error: $1")
}

// TestSession: what a person sees of Podman is the same with either runtime.
func TestSession(t *testing.T) {
	for _, row := range []struct{ name, user string }{{"rootful", ""}, {"rootless", user}} {
		t.Run(row.name, func(t *testing.T) {
			e := open(t, row.user)
			want, got := e.play(t, "runc"), e.play(t, "bulkhead")
			for i := range want {
				if want[i] != got[i] {
					t.Errorf("runc (-) and bulkhead (+):\n%s", rig.Diff(t, want[i], got[i]))
				}
			}
		})
	}
}

// TestInstall: what bulkhead install writes for Podman Podman reads, and uninstall leaves
// nothing. In a mount namespace whose /etc/containers is the test's.
func TestInstall(t *testing.T) {
	e := open(t, "")
	etc := filepath.Join(e.dir, "etc")
	script := `mount --bind "$0/etc" /etc/containers
		unset CONTAINERS_CONF
		PATH="$0:$PATH"
		p() { podman --root "$0/root" --runroot "$0/run" --storage-driver=vfs --cgroup-manager=cgroupfs --events-backend=file "$@"; }
		bulkhead install podman --yes >/dev/null
		p --runtime bulkhead info --format '{{.Host.OCIRuntime.Name}}'
		p --runtime bulkhead run --rm --network=none --ulimit nofile=1024:4096 --ulimit nproc=4096:4096 box uname -r
		bulkhead install podman --yes
		bulkhead uninstall podman --yes >/dev/null
		p --runtime bulkhead info --format '{{.Host.OCIRuntime.Name}}' 2>&1 | grep -c 'not found' || :
		find /etc/containers -type f`
	if err := os.Mkdir(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "sh", "-ec", script, e.dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	if !regexp.MustCompile(`^bulkhead\n[0-9.]+-bulkhead\n.*\n1\n$`).Match(out) {
		t.Errorf("it prints %s", out)
	}
}

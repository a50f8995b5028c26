package docker

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bulkhead/test/rig"
)

// TestRun compares `docker run` with runc's, option by option.
func TestRun(t *testing.T) {
	native := map[string]rig.Result{} // runc's, by row
	eachOfOurs(t, func(t *testing.T, d *daemon, runtime string) { testRun(t, d, runtime, native) })
}

func testRun(t *testing.T, d *daemon, runtime string, native map[string]rig.Result) {
	host := t.TempDir()
	if err := os.Chmod(host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(host, "f"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sh := func(options []string, script string) []string {
		return append(options, "box", "sh", "-c", script)
	}
	rows := map[string][]string{
		"hello":        {"box", "echo", "hi"},
		"exit":         sh(nil, "exit 42"),
		"fault":        sh(nil, "kill -SEGV $$; sh -c 'kill -SEGV $$'; echo $?"),
		"environment":  sh([]string{"-e", "A=b c", "-e", "PATH=/bin:/x"}, `echo "$A" $PATH $HOME; hostname | wc -c`),
		"directory":    sh([]string{"-w", "/made/new"}, "pwd; ls -ld . | cut -c1-10"),
		"user":         sh([]string{"-u", "1000:1000"}, "id -u; id -g; touch /x; grep Cap /proc/self/status"),
		"user_streams": sh([]string{"-u", "1000:1000"}, "stat -L -c %u /dev/fd/1 /dev/fd/2; echo out >/dev/stdout; echo err >/dev/stderr"),
		"user_files": sh(nil, `mkdir -m 777 /u; su user -c 'cd /u; umask 077; echo a >f; echo b >>f; exec 3>g; echo c >&3; cat f g; stat -c "%a %u %g %s" f g'
			chown 5:6 /u/f; exec 4>>/u/f; echo d >&4; stat -c "%u %g" /u/f`),
		"root":          sh(nil, "id; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status | grep -v Seccomp; touch /x && ls /x"),
		"volume":        sh([]string{"-v", host + ":/v"}, "cat /v/f; echo w >/v/w; cat /v/w; rm /v/w"),
		"volume_ro":     sh([]string{"-v", host + ":/v:ro"}, "cat /v/f; echo w >/v/w"),
		"read_only":     sh([]string{"--read-only"}, "touch /x; touch /dev/shm/x && echo fine"),
		"tmpfs":         sh([]string{"--read-only", "--tmpfs", "/t:size=1m,mode=1777"}, "stat -c %a /t; dd if=/dev/zero of=/t/f bs=64k count=100 2>&1 | tail -1 | cut -d' ' -f1,2"),
		"memory":        sh([]string{"--memory", "64m"}, "dd if=/dev/zero of=/dev/null bs=300M count=1; echo $?"),
		"cpus":          sh([]string{"--cpus", "0.5"}, "echo $((3 * 7))"),
		"pids_limit":    sh([]string{"--pids-limit", "20"}, "for i in $(seq 30); do sleep 2 & done 2>&1 | grep -c ."),
		"hostname":      sh([]string{"--hostname", "named"}, "hostname; cat /etc/hostname; tail -1 /etc/hosts | cut -f2"),
		"entrypoint":    {"--entrypoint", "/bin/expr", "box", "6", "*", "7"},
		"shm_size":      sh([]string{"--shm-size", "1m"}, "df -k /dev/shm | tail -1 | awk '{print $2}'"),
		"cap_drop":      sh([]string{"--cap-drop", "ALL", "--cap-add", "CHOWN"}, "grep Cap /proc/self/status"),
		"ulimit":        sh([]string{"--ulimit", "nofile=77:88"}, "ulimit -n; ulimit -Hn"),
		"init":          sh([]string{"--init"}, "cat /proc/1/comm; [ $$ -gt 1 ] && echo a child"),
		"no_new_privs":  sh([]string{"--security-opt", "no-new-privileges"}, "grep NoNew /proc/self/status"),
		"debian":        {"deb", "bash", "-c", "cat /etc/debian_version; dpkg -l | wc -l; apt-get --version | head -1; ls / | sort; perl -e 'print 6*7, qq{\n}'"},
		"debian_write":  {"deb", "bash", "-ec", "useradd -m someone; su someone -c 'cd; pwd; id -un'; echo x >/etc/new; tar -cf /tmp/t.tar /etc 2>/dev/null; [ -s /tmp/t.tar ] && echo tar"},
		"kcore":         sh(nil, "wc -c </proc/kcore"),
		"masked":        sh(nil, "ls /proc/acpi 2>/dev/null | wc -l; echo 1 >/proc/sys/kernel/shmmni"),
		"standard_dirs": sh(nil, "cut -d' ' -f2,3 /proc/mounts | grep -vE '^/ |/etc/|/sys/fs|/proc/(kcore|keys|timer|sched|latency|interrupts|acpi)|/sys/(firmware|devices)' | sort -u"),
	}
	for name, args := range rows {
		t.Run(name, func(t *testing.T) {
			run := func(runtime string) rig.Result {
				return d.do(t, append([]string{"run", "--rm", "--runtime=" + runtime}, args...)...)
			}
			want, known := native[name]
			if runtime == machines && byNature[name] != (rig.Result{}) {
				want = byNature[name]
			} else if !known {
				want = run("runc")
				native[name] = want
			}
			rig.Compare(t, want, run(runtime))
		})
	}
}

// TestRefusals: docker gives a missing program 127 and one that cannot be run 126.
func TestRefusals(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		for args, want := range map[string]int{"/no/such/program": 127, "nosuchprogram": 127, "/etc": 126, "/etc/passwd": 126} {
			r := d.do(t, "run", "--rm", "--runtime="+runtime, "box", args)
			if r.Code != want || !strings.Contains(r.Err, args) {
				t.Errorf("run %s: want %d: %s", args, want, r)
			}
		}
	})
}

// sized waits for the size that docker sets just after the start.
const sized = "until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.1; done; stty size"

func TestTerminal(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		terminal := rig.Open(t, rig.Command{}, "docker", "-H", d.host, "run", "-it", "--rm", "-e", "PS1=% ", "--runtime="+runtime,
			"deb", "bash", "--norc", "--noprofile", "--noediting")
		terminal.Expect("% ")
		terminal.Type("tty; " + sized + "; echo $TERM\n")
		terminal.Expect("/dev/pts/0\r\n24 80\r\nxterm\r\n% ")
		terminal.Type("(echo he''re; exec sleep 100)\n")
		terminal.Expect("here\r\n")
		terminal.Type("\x1a")
		terminal.Expect("Stopped")
		terminal.Expect("% ")
		terminal.Type("kill %1; cat\n")
		terminal.Type("text\n")
		terminal.Expect("text\r\ntext\r\n")
		terminal.Type("\x03")
		terminal.Expect("% ")
		terminal.Resize(40, 100)
		terminal.Type("sleep 0.2; stty size\n")
		terminal.Expect("40 100\r\n% ")
		terminal.Type("exit 4\n")
		if text, code := terminal.Close(); code != 4 {
			t.Errorf("exit status %d, want 4:\n%s", code, text)
		}
	})
}

func TestLogsAndExec(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		name := d.detached(t, runtime, "box", "sh", "-c", "echo out; echo err >&2; exec sleep 1000")
		for limit := time.Now().Add(patience()); ; time.Sleep(20 * time.Millisecond) {
			if r := d.do(t, "logs", name); r.Out == "out\n" && r.Err == "err\n" {
				break
			} else if time.Now().After(limit) {
				t.Fatalf("logs: %s", r)
			}
		}
		if r := d.do(t, "exec", "-e", "A=b", "-w", "/tmp", "-u", "1000", name, "sh", "-c", "echo $A; pwd; id -u; exit 6"); r.Out != "b\n/tmp\n1000\n" || r.Code != 6 {
			t.Errorf("exec: %s", r)
		}
		if r := d.doWith(t, "typed\n", "exec", "-i", name, "cat"); r.Out != "typed\n" {
			t.Errorf("exec -i: %s", r)
		}
		if r := d.do(t, "exec", name, "nosuchprogram"); r.Code != 127 && r.Code != 126 {
			t.Errorf("exec of a missing program: %s", r)
		}
		terminal := rig.Open(t, rig.Command{}, "docker", "-H", d.host, "exec", "-it", name, "sh", "-c", "tty; until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.05; done; echo sized; read x; echo got $x; exit 3")
		terminal.Expect("/dev/pts/0\r\nsized\r\n") // docker sizes the terminal once it runs
		terminal.Type("line\n")
		terminal.Expect("got line\r\n")
		if text, code := terminal.Close(); code != 3 {
			t.Errorf("exec -it: exit status %d, want 3:\n%s", code, text)
		}
		d.must(t, "exec", "-d", name, "sleep", "2000")
		// docker top runs the host's ps, which sees the sandbox and not what is in it.
		shown := "bulkhead-sandbox"
		if runtime == "runc" {
			shown = "sleep"
		}
		if out := d.must(t, "top", name); !strings.Contains(out, shown) {
			t.Errorf("top: %s", out)
		}
		if out := d.must(t, "exec", name, "ps"); strings.Count(out, "sleep") < 2 {
			t.Errorf("ps inside: %s", out)
		}
	})
}

func TestStopAndKill(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		polite := d.detached(t, runtime, "box", "sh", "-c", "trap 'echo told; exit 5' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done")
		shows := func(name, want string) {
			t.Helper()
			for limit := time.Now().Add(patience()); ; time.Sleep(20 * time.Millisecond) {
				if r := d.do(t, "logs", name); strings.Contains(r.Out, want) {
					return
				} else if time.Now().After(limit) {
					t.Fatalf("logs have no %q: %s", want, r)
				}
			}
		}
		shows(polite, "ready")
		d.must(t, "kill", "-s", "USR1", polite)
		shows(polite, "usr1")
		d.must(t, "stop", polite)
		if code := d.inspect(t, polite, ".State.ExitCode"); code != "5" {
			t.Errorf("stop: exit status %s, want 5", code)
		}
		d.must(t, "start", polite)
		d.until(t, polite, ".State.Status", "running")
		d.must(t, "kill", polite)
		if code := d.inspect(t, polite, ".State.ExitCode"); code != "137" {
			t.Errorf("kill: exit status %s, want 137", code)
		}
		stubborn := d.detached(t, runtime, "box", "sleep", "1000") // PID 1 without a handler
		d.must(t, "stop", "-t", "1", stubborn)
		if code := d.inspect(t, stubborn, ".State.ExitCode"); code != "137" {
			t.Errorf("stop of a stubborn program: exit status %s, want 137", code)
		}
	})
}

func TestPauseStatsInspect(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		name := d.detached(t, runtime, "--memory", "100m", "box", "sleep", "1000")
		for field, want := range map[string]string{".State.Status": "running", ".State.Running": "true", ".State.Paused": "false", ".HostConfig.Runtime": runtime} {
			if got := d.inspect(t, name, field); got != want {
				t.Errorf("%s is %s, want %s", field, got, want)
			}
		}
		d.must(t, "pause", name)
		if got := d.inspect(t, name, ".State.Status"); got != "paused" {
			t.Errorf("status after pause: %s", got)
		}
		if r := d.do(t, "exec", name, "true"); r.Code == 0 {
			t.Error("exec in a paused container succeeded")
		}
		d.must(t, "unpause", name)
		if got := d.must(t, "exec", name, "echo", "on"); got != "on" {
			t.Errorf("exec after unpause: %s", got)
		}
		stats := d.must(t, "stats", "--no-stream", "--format", "{{.MemUsage}};{{.PIDs}}", name)
		usage, pids, _ := strings.Cut(stats, ";")
		// They are the host's view: the limit has the Sentry's share on top, or the machine's,
		// whose guest has memory of its own as well; and their threads count as processes.
		limit := "iB / 1"
		if runtime == machines {
			limit = "iB / 284.5MiB" // 100, 96 of the guest's own, and 64 and an eighth for the machine
		}
		n, err := strconv.Atoi(pids)
		if strings.HasPrefix(usage, "0B") || !strings.Contains(usage, limit) || err != nil || n < 1 {
			t.Errorf("stats: %s", stats)
		}
		if out := d.must(t, "exec", name, "sh", "-c", "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes"); out != "104857600" {
			t.Errorf("the limit inside: %s", out)
		}
		updates := [][2]string{{"200m", "209715200"}}
		if runtime == machines { // a machine's memory is what it was made with: more than that is refused
			updates = [][2]string{{"150m", "157286400"}, {"60m", "62914560"}}
		}
		for _, u := range updates {
			if out := d.must(t, "update", "--memory", u[0], "--memory-swap", "-1", name); !strings.Contains(out, name[:12]) && out != name {
				t.Errorf("update: %s", out)
			}
			if out := d.must(t, "exec", name, "sh", "-c", "cd /sys/fs/cgroup; cat memory.max 2>/dev/null || cat memory/memory.limit_in_bytes"); out != u[1] {
				t.Errorf("the limit inside after update to %s: %s", u[0], out)
			}
		}
		if runtime == machines {
			if r := d.do(t, "update", "--memory", "200m", "--memory-swap", "-1", name); r.Code == 0 || !strings.Contains(r.Err, "the machine has 196 MiB of memory and cannot give the container 200") {
				t.Errorf("update beyond the machine's memory: %s", r)
			}
			// The host's limit follows what the guest has given back, 40 MiB with the machine's eighth of them.
			if now := d.must(t, "stats", "--no-stream", "--format", "{{.MemUsage}}", name); !strings.HasSuffix(now, " / 239.5MiB") {
				t.Errorf("the host's limit after update to 60m: %s, before it %s", now, usage)
			}
		}
		d.must(t, "rm", "-f", name)
		exited := d.detached(t, runtime, "box", "sh", "-c", "exit 3")
		d.until(t, exited, ".State.Status", "exited")
		if code := d.inspect(t, exited, ".State.ExitCode"); code != "3" {
			t.Errorf("exit status %s, want 3", code)
		}
		if r := d.do(t, "wait", exited); r.Out != "3\n" {
			t.Errorf("wait: %s", r)
		}
	})
}

// TestOOM: docker shows a container that its memory limit killed.
func TestOOM(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		r := d.do(t, "run", "--rm", "--runtime="+runtime, "--memory", "64m", "--memory-swap", "64m", "deb", "perl", "-e", `my @a; push @a, "x" x 1000000 for 1..1000; print "unharmed\n"`)
		if r.Code != 137 || r.Out != "" {
			t.Errorf("want exit 137: %s", r)
		}
	})
}

// TestTwenty has 20 containers at once and then nothing; of machines 10, in the lab's one processor.
func TestTwenty(t *testing.T) {
	eachRuntime(t, func(t *testing.T, d *daemon, runtime string) {
		d.must(t, "run", "--rm", "--runtime=runc", "box", "true") // with its first container a daemon makes directories that stay
		before := d.look(t)
		names := make([]string, 20)
		if runtime == machines {
			names = names[:10]
		}
		failed := make(chan error)
		for i := range names {
			names[i] = fmt.Sprintf("twenty-%s-%d", runtime, i)
			go func() {
				out, err := exec.Command("docker", "-H", d.host, "run", "-d", "--runtime="+runtime, "--name", names[i], "--memory", "64m", "box", "sh", "-c", fmt.Sprintf("echo %d; exec sleep 1000", i)).CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%s: %w: %s", names[i], err, out)
				}
				failed <- err
			}()
		}
		for range names {
			if err := <-failed; err != nil {
				t.Error(err)
			}
		}
		for i, name := range names {
			if got := d.do(t, "exec", name, "cat", "/proc/1/comm"); got.Out != "sleep\n" {
				t.Errorf("%s runs %s", name, got)
			}
			if got := d.do(t, "logs", name); got.Out != fmt.Sprintf("%d\n", i) {
				t.Errorf("%s logged %s", name, got)
			}
		}
		if runtime == machines { // docker waits ten seconds for the end of one that it kills
			for _, name := range names {
				d.must(t, "rm", "-f", name)
			}
		} else {
			d.must(t, append([]string{"rm", "-f"}, names...)...)
		}
		var left []string
		for limit := time.Now().Add(patience() / 6); ; time.Sleep(50 * time.Millisecond) {
			left = slices.DeleteFunc(d.look(t), func(line string) bool { return slices.Contains(before, line) })
			if len(left) == 0 {
				return
			}
			if time.Now().After(limit) {
				break
			}
		}
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	})
}

// look lists what containers of this daemon have on the host: processes, mounts, cgroups, files.
func (d *daemon) look(t *testing.T) []string {
	t.Helper()
	var now []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		text := strings.ReplaceAll(string(line), "\x00", " ")
		if strings.HasPrefix(text, "bulkhead") || strings.Contains(text, d.bin) || strings.Contains(text, "containerd-shim") && strings.Contains(text, d.dir) {
			now = append(now, "process "+entry.Name()+" "+text)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	now = append(now, strings.Split(string(mounts), "\n")...)
	for _, root := range []string{"/sys/fs/cgroup", filepath.Join(d.dir, "exec"), filepath.Join(d.dir, "data/containers"), "/run/bulkhead", "/run/docker/runtime-runc"} {
		filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
			// Other tests have control groups as well, and run at the same time.
			if err == nil && (entry.IsDir() && strings.Contains(name, "/docker") || !strings.HasPrefix(name, "/sys")) {
				now = append(now, name)
			}
			return nil
		})
	}
	return now
}

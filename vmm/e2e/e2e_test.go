// Package e2e runs the program vmm as a person does, with guests that boot
// Linux: directly where this host runs ring 0 natively, else in the lab. What
// needs no Linux, as bad input, runs anywhere with /dev/kvm.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bulkhead/hwtest/lab"
	"bulkhead/hwtest/lab/labtest"
	"bulkhead/kernels/debian"
	"bulkhead/kernels/linux"
	"bulkhead/kvm"
	"bulkhead/vmm/ring0"

	"golang.org/x/sys/unix"
)

// home is where the programs under test are built, in this tree, which another tree's tests
// do not see. The lab gets it as a share, for this tree may lie below /tmp, which it has anew.
func home() (string, error) { return filepath.Abs("../../out/e2e") }

var build = sync.OnceValue(func() error {
	dir, err := home()
	if err != nil {
		return err
	}
	for _, program := range []string{"vmm", "guestinit"} {
		c := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", filepath.Join(dir, program), "bulkhead/"+program)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", c, err, out)
		}
	}
	return nil
})

// program is the path of vmm, which has guestinit beside it.
func program(t testing.TB) string {
	t.Helper()
	if os.Getenv(lab.Variable) == "" { // it is built before the lab starts
		if err := build(); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := home()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "vmm")
}

// slow tells whether to run also what adds little and takes long in the lab: `make lab` says so.
func slow(t *testing.T) bool {
	t.Helper()
	return os.Getenv("BULKHEAD_SLOW") != "" || os.Getenv(lab.Variable) == "" && native(t)
}

// processors is how many a guest has that works its devices for long: two; one in the
// lab, where QEMU's emulation loses a busy guest of two now and then (lab.Machine, CPUs),
// but for `make lab`.
func processors(t *testing.T) string {
	t.Helper()
	if os.Getenv(lab.Variable) != "" && !slow(t) {
		return "1"
	}
	return "2"
}

// inLinux is true where guests of ours boot Linux: here, or in the lab.
func inLinux(t *testing.T, m lab.Machine) bool {
	t.Helper()
	program(t)
	kernels(t)
	if os.Getenv(lab.Variable) == "" && native(t) {
		return true
	}
	if m.Memory == 0 {
		m.Memory = 3072
	}
	dir, err := home()
	if err != nil {
		t.Fatal(err)
	}
	return labtest.Inside(t, m, lab.Share{Host: dir, Inside: dir})
}

// native tells whether this host runs ring 0 natively.
func native(t *testing.T) bool {
	sys, err := kvm.Open()
	if err != nil {
		return false
	}
	defer sys.Close()
	yes, _, err := ring0.Native(sys)
	return err == nil && yes
}

// needKVM leaves out what needs a machine of any class.
func needKVM(t *testing.T) {
	t.Helper()
	sys, err := kvm.Open()
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) {
		t.Skip("needs /dev/kvm (load kvm-intel or kvm-amd; be root or in group kvm):", err)
	}
	if err == nil {
		sys.Close()
	}
}

// kernel is one that guests boot, with what it wants before our initramfs.
type kernel struct {
	name, path string
	args       []string
}

// kernels are ours, if it has been built, and Debian's. Both are in the cache.
func kernels(t testing.TB) []kernel {
	t.Helper()
	var list []kernel
	image, found, err := linux.Find()
	if err != nil {
		t.Fatal(err)
	}
	if found {
		list = append(list, kernel{"ours, ELF", image.ELF, nil}, kernel{"ours, bzImage", image.BzImage, nil})
	} else {
		t.Log("our kernel has not been built (make kernel): Debian's alone")
	}
	guest, err := debian.FetchGuest(t.Context())
	if err != nil {
		if len(list) == 0 {
			t.Skip("needs a kernel to boot; make kernel, or make kernel-debian with a network:", err)
		}
		return list
	}
	return append(list, kernel{"Debian's", guest.Image, []string{"--initrd", guest.Modules, "--init", "guestinit"}})
}

// vm is a running vmm.
type vm struct {
	t   *testing.T
	cmd *exec.Cmd
	out output
	api string // path of the socket
}

// output is what vmm and its guest print, awaited a text at a time.
type output struct {
	mu   sync.Mutex
	more sync.Cond
	buf  bytes.Buffer
	end  bool
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.more.Broadcast()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// await returns when text was printed after the first skip bytes, and where it ended.
func (o *output) await(text string, skip int) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if i := strings.Index(o.buf.String()[skip:], text); i >= 0 {
			return skip + i + len(text), nil
		}
		if o.end {
			return 0, fmt.Errorf("the end came before %q", text)
		}
		o.more.Wait()
	}
}

// start runs vmm boot; it is killed when the test ends.
func start(t *testing.T, args ...string) *vm {
	t.Helper()
	return startOn(t, nil, args...)
}

// startOn is start with a standard input; a terminal is its output too.
func startOn(t *testing.T, stdin io.Reader, args ...string) *vm {
	t.Helper()
	v := &vm{t: t, api: filepath.Join(t.TempDir(), "api")}
	v.out.more.L = &v.out.mu
	v.cmd = exec.CommandContext(t.Context(), program(t), append([]string{"boot", "--api", v.api, "--cpu-without", without}, args...)...)
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = stdin, &v.out, &v.out
	if tty, ok := stdin.(*os.File); ok {
		v.cmd.Stdout = tty
	}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	watch := time.AfterFunc(bounds(t), v.hung)
	go func() {
		_ = v.cmd.Wait() // the exit code is in ProcessState
		watch.Stop()
		v.out.mu.Lock()
		defer v.out.mu.Unlock()
		v.out.end = true
		v.out.more.Broadcast()
	}()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill()
		v.wait()
		if t.Failed() {
			t.Logf("vmm %q:\n%s", args, &v.out)
		}
	})
	return v
}

// bound is when a guest is taken to hang: it is ended, and its test fails alone, with
// what there is to say of it. 100 MB through a device take a minute in the lab on
// a host that has other work.
const bound = 100 * time.Second

// bounds is bound, but for tests of one guest that does more: they call it the lab's own, less
// what it takes to start.
func bounds(t *testing.T) time.Duration {
	if strings.HasPrefix(t.Name(), "TestShare") {
		return 4 * time.Minute
	}
	return bound
}

// hung ends a vmm so that it tells what each of its goroutines does, behind what its
// guest has printed, and what the kernel has each of its threads do.
func (v *vm) hung() {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", v.cmd.Process.Pid))
	fmt.Fprintf(&v.out, "\n[e2e: no end after %v]\n", bounds(v.t))
	for _, dir := range threads {
		for _, name := range []string{"stat", "wchan", "stack"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				b = []byte(err.Error())
			}
			fmt.Fprintf(&v.out, "%s: %s\n", name, bytes.TrimSpace(b))
		}
	}
	_ = v.cmd.Process.Signal(unix.SIGQUIT)
	// Goroutines inside the guest do not hear of it where the processor does not. A
	// process that is gone makes nothing of the second signal.
	time.AfterFunc(5*time.Second, func() { _ = v.cmd.Process.Kill() })
}

// without is what QEMU's emulation does not tell its hypervisors of: a guest's
// XSETBV is not intercepted (target/i386/tcg), and KVM knows of no AVX in use.
const without = "xsave"

// wait is the exit code.
func (v *vm) wait() int {
	v.out.mu.Lock()
	defer v.out.mu.Unlock()
	for !v.out.end {
		v.out.more.Wait()
	}
	return v.cmd.ProcessState.ExitCode()
}

func (v *vm) await(text string, skip int) int {
	v.t.Helper()
	n, err := v.out.await(text, skip)
	if err != nil {
		v.t.Fatal(err)
	}
	return n
}

// ask is a request to the API; the answer goes into to, if that is not nil.
func (v *vm) ask(method, path, body string, to any) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", v.api)
	}}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(v.t.Context(), method, "http://vmm"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", answer.Status, b)
	}
	if err == nil && to != nil {
		err = json.Unmarshal(b, to)
	}
	return err
}

func (v *vm) must(method, path, body string, to any) {
	v.t.Helper()
	if err := v.ask(method, path, body, to); err != nil {
		v.t.Fatalf("%s %s %s: %v", method, path, body, err)
	}
}

// run is a guest from beginning to end.
func run(t *testing.T, args ...string) (code int, out string) {
	t.Helper()
	v := start(t, args...)
	code = v.wait()
	return code, v.out.String()
}

// with is the arguments for k and a shell command, with flags before.
func (k kernel) with(script string, flags ...string) []string {
	args := append(append([]string{}, k.args...), flags...)
	return append(args, k.path, "--", "sh", "-c", script)
}

func TestBoot(t *testing.T) {
	if !inLinux(t, lab.Machine{}) {
		return
	}
	sizes := []struct {
		cpus   int
		memory string
		least  int // MiB that the guest sees
		most   int
	}{{1, "128M", 80, 128}, {2, "256M", 180, 256}, {4, "6G", 5600, 6144}}
	for i, k := range kernels(t) {
		for j, s := range sizes {
			// The first kernel in every machine, and the others in one.
			if i > 0 && j != 1 && !slow(t) {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d, %s", k.name, s.cpus, s.memory), func(t *testing.T) {
				code, out := run(t, k.with(`echo "cpus $(nproc)"; grep MemTotal /proc/meminfo; exit 7`,
					"--cpus", fmt.Sprint(s.cpus), "--memory", s.memory)...)
				if code != 7 || !strings.Contains(out, fmt.Sprintf("cpus %d\r\n", s.cpus)) {
					t.Errorf("exit code %d, want 7; or not %d CPUs", code, s.cpus)
				}
				var kib int
				if _, after, ok := strings.Cut(out, "MemTotal:"); ok {
					fmt.Sscan(after, &kib)
				}
				if kib>>10 < s.least || kib>>10 > s.most {
					t.Errorf("the guest has %d MiB, want %d to %d", kib>>10, s.least, s.most)
				}
			})
		}
	}
}

func TestEndings(t *testing.T) {
	if !inLinux(t, lab.Machine{}) {
		return
	}
	all := kernels(t)
	cases := []struct {
		name, script string
		do           func(v *vm)
		code         int
		says         string
	}{
		{"power-off", "poweroff", nil, 0, ""},
		{"reboot", "reboot", nil, 100, "the guest ended: reset"},
		// Debian's, as many, comes by the reset vector.
		{"reboot of Debian's", "reboot", nil, 100, "the guest ended: reset"},
		{"panic of Debian's", "echo c >/proc/sysrq-trigger", nil, 100, "the guest ended: reset"},
		{"command killed", "kill -9 $$", nil, 137, ""},
		{"no such command", "exec no-such-command", nil, 127, "no-such-command"},
		{"stopped from outside", "echo up; sleep 1000", func(v *vm) {
			v.await("up\r\n", 0)
			v.must("POST", "/v1/machine/shutdown", "", nil)
		}, 103, "stopped"},
		{"terminated", "echo up; sleep 1000", func(v *vm) {
			v.await("up\r\n", 0)
			_ = v.cmd.Process.Signal(unix.SIGTERM)
		}, 103, "stopped"},
		{"time over", "sleep 1000", nil, 124, "timed out"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var flags []string
			if c.code == 124 {
				flags = []string{"--timeout", "1s"}
			}
			k := all[0]
			if strings.Contains(c.name, "Debian's") {
				k = all[len(all)-1]
			}
			v := start(t, k.with(c.script, flags...)...)
			if c.do != nil {
				c.do(v)
			}
			if code := v.wait(); code != c.code || !strings.Contains(v.out.String(), c.says) {
				t.Errorf("exit code %d, want %d and %q", code, c.code, c.says)
			}
		})
	}
}

// TestShell: a kernel alone gives a shell, to type to.
func TestShell(t *testing.T) {
	if !inLinux(t, lab.Machine{}) {
		return
	}
	k := kernels(t)[0]
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	v := startOn(t, struct{ io.Reader }{in}, append(k.args, k.path)...)
	defer typed.Close() // if it never comes to that
	v.await("# ", 0)    // what is typed before the guest opens its serial port, it drops
	if _, err := typed.WriteString("echo answer $((6*7))\nexit 5\n"); err != nil {
		t.Fatal(err)
	}
	must(t, typed.Close())
	if code := v.wait(); code != 5 || !strings.Contains(v.out.String(), "answer 42\r\n") {
		t.Errorf("exit code %d, want 5 and the answer", code)
	}
}

// TestSnapshot: a guest is saved, its machine killed, and another goes on where it was.
func TestSnapshot(t *testing.T) {
	bin := filepath.Dir(guestProgram(t))
	if !inLinux(t, lab.Machine{}) {
		return
	}
	dir := t.TempDir()
	disk, snap := filepath.Join(dir, "disk"), filepath.Join(dir, "snap")
	if err := os.Truncate(create(t, disk), 16<<20); err != nil {
		t.Fatal(err)
	}
	share := filepath.Join(dir, "share")
	if err := os.Mkdir(share, 0o755); err != nil {
		t.Fatal(err)
	}
	uds := filepath.Join(dir, "vsock")
	devices := []string{"--disk", disk, "--share", "host=" + share, "--share", "bin=" + bin + ",ro", "--vsock", "CID=5,uds=" + uds, "--balloon"}
	k := kernels(t)[0]
	// A port that is open for one connection after the other: of the second the guest
	// says so before it is saved, and it is answered after.
	const port, exchanged = 1000, 64 << 10
	v := start(t, k.with(fmt.Sprintf(`while true; do /mnt/bin/guest listen %d 1 %d >&2; done & `, port, exchanged)+`
		i=0; while true; do echo "count $i at $(date)" >&2; echo $i
		dd if=/dev/vda of=/dev/null bs=4k count=1 skip=$i 2>/dev/null; i=$((i+1)); sleep 0.1; done >/mnt/host/log`,
		append(devices, "--cpus", "2", "--memory", "256M")...)...)
	const open = "listening on 1000\r\n"
	at := v.await(open, 0)
	exchangeAll(t, []net.Conn{connect(t, uds, port)}, exchanged)
	v.await(open, at)
	v.await("count 5 ", 0)
	v.must("POST", "/v1/machine/snapshot", fmt.Sprintf(`{"path":%q}`, snap), nil)
	var state struct{ State string }
	if v.must("GET", "/v1/machine", "", &state); state.State != "paused" {
		t.Errorf("after the snapshot the machine is %s", state.State)
	}
	_ = v.cmd.Process.Kill()
	v.wait()
	last := lastCount(t, v.out.String())

	w := start(t, append(devices, "--from-snapshot", snap)...)
	if _, err := waitFor(w, "/v1/machine"); err != nil {
		t.Fatal(err)
	}
	exchangeAll(t, []net.Conn{connect(t, uds, port)}, exchanged)
	w.await(open, 0) // for the next
	at = w.await(fmt.Sprintf("count %d ", last+1), 0)
	w.await(fmt.Sprintf("count %d ", last+20), at) // and it goes on, disk and share with it
	if strings.Contains(w.out.String(), fmt.Sprintf("count %d ", last-1)) {
		t.Error("the restored guest repeats what it had done")
	}
	b, err := os.ReadFile(filepath.Join(share, "log"))
	if err != nil || !strings.Contains(string(b), fmt.Sprintf("\n%d\n", last+10)) {
		t.Errorf("the file that was open on the share does not go on: %v", err)
	}
	checkClock(t, w.out.String())
	w.must("POST", "/v1/machine/shutdown", "", nil)
	if code := w.wait(); code != 103 {
		t.Errorf("exit code %d", code)
	}
}

func create(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// lastCount is the highest n of the lines "count n at …".
func lastCount(t *testing.T, out string) int {
	t.Helper()
	last := -1
	for line := range strings.Lines(out) {
		var n int
		if _, err := fmt.Sscanf(line, "count %d at", &n); err == nil {
			last = n
		}
	}
	if last < 0 {
		t.Fatal("the guest counted nothing")
	}
	return last
}

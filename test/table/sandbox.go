package table

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// patience is how long the Sentry may take for what the executor gives a
	// second: it is the deadline of the fuzzer's promise, on a machine that is
	// loaded by others as well.
	patience = 120 * time.Second
	perRun   = 400 // milliseconds that a program may take

	memoryLimit = 512 << 20 // bytes
	pidsLimit   = 300

	reportSize  = 24 + 2*4*512
	reportMagic = 0x52455054
)

// Report is what the executor tells of one program (struct report).
type Report struct {
	Killed       bool   // at the end of its time
	Seen         uint32 // 0: nothing that must not be
	Broken       uint32 // the program could not be set up: an errno, or the step
	Value        uint64 // what was seen
	Done, Failed [512]uint32
}

var sights = map[uint32]string{
	1: "the host's marker was read inside",
	2: "a pointer into the Sentry's heap was read inside",
	3: "fresh memory held what another process had left",
}

// Setup is where sandboxes come from.
type Setup struct {
	Bulkhead string // the program
	Platform string
	Executor string   // compiled testdata/executor.c
	Dir      string   // for bundles, logs and state
	Env      []string // beyond PATH
}

// Sandbox is a container with an executor in it.
type Sandbox struct {
	setup  *Setup
	id     string
	dir    string
	marker string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    io.ReadCloser
	errs   bytes.Buffer
	ran    []*Program // those since the start, for whoever must explain its end
}

// Start makes a container, with a marker in every place of the host's that no
// container may read: the runtime's environment and memory, the sandbox
// process's memory (an annotation), and files beside the root.
func (s *Setup) Start(id string) (_ *Sandbox, err error) {
	b := &Sandbox{setup: s, id: id, dir: filepath.Join(s.Dir, id), marker: "marker-" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	for _, dir := range []string{"root/bin", "root/proc", "root/sys", "root/dev", "root/tmp", "root/etc", "root/work", "root/host", "host"} {
		if err := os.MkdirAll(filepath.Join(b.dir, dir), 0o777); err != nil {
			return nil, err
		}
	}
	files := map[string]string{"secret": b.marker, "root/etc/passwd": "root:x:0:0::/:/bin/sh\n", "root/bin/busybox": "#!/executor\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	if err := copyFile(filepath.Join(b.dir, "root/executor"), s.Executor); err != nil {
		return nil, err
	}
	text, err := json.Marshal(b.spec())
	if err == nil {
		err = os.WriteFile(filepath.Join(b.dir, "config.json"), text, 0o644)
	}
	if err != nil {
		return nil, err
	}
	b.cmd = b.command("run", "--bundle", b.dir, id)
	if b.in, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if b.out, err = b.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	b.cmd.Stderr = &b.errs
	b.cmd.WaitDelay = time.Second
	return b, b.cmd.Start()
}

func (b *Sandbox) command(args ...string) *exec.Cmd {
	all := append([]string{"--debug", "--platform=" + b.setup.Platform, "--root=" + filepath.Join(b.setup.Dir, "state"), "--log=" + filepath.Join(b.dir, "log")}, args...)
	cmd := exec.Command(b.setup.Bulkhead, all...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "MARKER=" + b.marker}, b.setup.Env...)
	return cmd
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

func (b *Sandbox) spec() *specs.Spec {
	var caps []string
	for _, name := range strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST
		NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_NICE SYS_RESOURCE SYS_TTY_CONFIG MKNOD LEASE SETFCAP SYSLOG`) {
		caps = append(caps, "CAP_"+name)
	}
	// The marker passes through the executor's arguments in another guise, or it would be inside.
	disguised := []byte(b.marker)
	for i := range disguised {
		disguised[i] ^= 0x5a
	}
	memory, pids := int64(memoryLimit), int64(pidsLimit)
	return &specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "root"}, Hostname: "table",
		Annotations: map[string]string{"test.marker": b.marker},
		Process: &specs.Process{
			Args: []string{"/executor", strconv.Itoa(perRun), string(disguised)}, Cwd: "/", Env: []string{"PATH=/bin"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"newinstance", "ptmxmode=0666", "mode=0620"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"mode=1777", "size=65536k"}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue"},
			{Destination: "/host", Type: "bind", Source: filepath.Join(b.dir, "host"), Options: []string{"rbind", "rw"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			Resources:  &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}},
		},
	}
}

// ErrGone is wrapped by Run's error when the container has ended.
var ErrGone = errors.New("the container has ended")

// Run has the executor run a program. An error is a failure of the Sentry's, and
// the sandbox is of no more use.
func (b *Sandbox) Run(p *Program) (*Report, error) {
	b.ran = append(b.ran, p)
	encoded := p.Encode()
	message := append(binary.LittleEndian.AppendUint32(nil, uint32(len(encoded))), encoded...)
	answer := make([]byte, reportSize)
	done := make(chan error, 1)
	go func() {
		_, err := b.in.Write(message)
		if err == nil {
			_, err = io.ReadFull(b.out, answer)
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			return nil, fmt.Errorf("%w: %v; exit: %v", ErrGone, err, b.wait())
		}
	case <-time.After(patience):
		stacks, _ := b.command("debug", b.id, "stacks").CombinedOutput()
		b.Kill()
		return nil, fmt.Errorf("no answer for %v; the Sentry's goroutines:\n%s", patience, stacks)
	}
	r := &Report{}
	le := binary.LittleEndian
	if magic := le.Uint32(answer); magic != reportMagic {
		return nil, fmt.Errorf("the report begins with %#x", magic)
	}
	r.Killed, r.Seen, r.Broken, r.Value = le.Uint32(answer[4:]) == 1, le.Uint32(answer[8:]), le.Uint32(answer[12:]), le.Uint64(answer[16:])
	for i := range r.Done {
		r.Done[i], r.Failed[i] = le.Uint32(answer[24+4*i:]), le.Uint32(answer[24+4*512+4*i:])
	}
	if r.Seen != 0 {
		return r, fmt.Errorf("%s: %#x", sights[r.Seen], r.Value)
	}
	return r, b.log()
}

// log fails where the Sentry has logged a failure of its own.
func (b *Sandbox) log() error {
	text, err := os.ReadFile(filepath.Join(b.dir, "log"))
	if err != nil {
		return nil // nothing was logged yet
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "panic") || strings.Contains(line, "fatal error") || strings.Contains(line, "DATA RACE") {
			return fmt.Errorf("the Sentry logged: %s", line)
		}
	}
	if errs := b.errs.String(); strings.Contains(errs, "DATA RACE") {
		return fmt.Errorf("the race detector says:\n%s", errs)
	}
	return nil
}

// Close ends the container by the end of its input, and fails if that is not an
// orderly end, or if something is left.
func (b *Sandbox) Close() error {
	b.in.Close()
	if err := b.wait(); err != nil {
		return fmt.Errorf("the container ended with: %w", err)
	}
	if err := b.log(); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(b.setup.Dir, "state", b.id, "*"))
	if err == nil && len(left) != 0 {
		return fmt.Errorf("left behind: %q", left)
	}
	return os.RemoveAll(b.dir)
}

// wait returns when the container has ended, which is an error if that was not orderly.
func (b *Sandbox) wait() error {
	done := make(chan error, 1)
	go func() { done <- b.cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		stacks, _ := b.command("debug", b.id, "stacks").CombinedOutput()
		return fmt.Errorf("it did not end within %v; the Sentry's goroutines:\n%s", patience, stacks)
	}
}

// Log is the end of what the Sentry has logged.
func (b *Sandbox) Log() string {
	text, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	const most = 64 << 10
	if len(text) > most {
		end := text[len(text)-most:]
		// Why it crashed stands before the goroutines, of which there may be thousands.
		for _, why := range []string{"fatal error: ", "panic: ", "WARNING: DATA RACE"} {
			if i := bytes.Index(text, []byte(why)); i >= 0 {
				end = text[max(i-1<<10, 0):min(i+most, len(text))]
				break
			}
		}
		text = end
	}
	return string(text) + b.errs.String()
}

// Ran are the programs since the start, the last one last.
func (b *Sandbox) Ran() []*Program { return b.ran }

// Kill ends a container that does not end by itself.
func (b *Sandbox) Kill() {
	b.command("kill", b.id, "KILL").Run()
	b.cmd.Process.Kill()
	b.cmd.Wait()
	b.command("delete", "--force", b.id).Run()
}

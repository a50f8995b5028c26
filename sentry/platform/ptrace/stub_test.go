package ptrace

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

const (
	textAt = 0x40_0000
	rx     = platform.Read | platform.Exec
)

// rig is a platform with one page of code.
type rig struct {
	p   *Platform
	as  *space
	seg platform.Segment
}

func newRig(code ...byte) (*rig, error) {
	p, err := New()
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("rig", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, platform.PageSize)
	}
	var host []byte
	if err == nil {
		host, err = unix.Mmap(fd, 0, platform.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	copy(host, code)
	r := &rig{p: p, seg: platform.Segment{FD: fd, Host: host}}
	as, err := p.NewAddressSpace()
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.as = as.(*space)
	return r, as.Map(textAt, r.seg, rx)
}

func (r *rig) close() error {
	if r.as != nil {
		r.as.Release()
	}
	err := r.p.Close()
	unix.Munmap(r.seg.Host)
	unix.Close(r.seg.FD)
	return err
}

func (r *rig) context() *platform.Context {
	c := &platform.Context{Dirty: platform.DirtyAll}
	c.Rip = textAt
	return c
}

func setup(t *testing.T, code ...byte) (*rig, *Thread, *platform.Context) {
	t.Helper()
	r, err := newRig(code...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	th, err := r.p.NewThread()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(th.Close)
	return r, th.(*Thread), r.context()
}

// status is the fields of /proc/PID/status.
func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		fields[k] = strings.TrimSpace(v)
	}
	return fields
}

// TestWall looks at a stub from outside: what it has, and what it may do.
func TestWall(t *testing.T) {
	r, th, c := setup(t, 0x0f, 0x05) // syscall
	if e, err := th.Run(c, r.as); err != nil || e.Reason != platform.Syscall {
		t.Fatalf("got %+v, %v", e, err)
	}
	for _, pid := range []int{r.as.proc.pid, th.x.tid, r.p.template.pid} {
		s := status(t, pid)
		for field, want := range map[string]string{
			"NoNewPrivs": "1", "Seccomp": "2",
			"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapInh": "0000000000000000",
			"SigBlk": fmt.Sprintf("%016x",
				// int3 forces SIGTRAP through (force_sig_info_to_task), which unblocks it.
				^uint64(1<<(kickSignal-1)|1<<(unix.SIGKILL-1)|1<<(unix.SIGSTOP-1)|1<<(unix.SIGTRAP-1))),
		} {
			if s[field] != want {
				t.Errorf("task %d: %s is %s, want %s", pid, field, s[field], want)
			}
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", r.as.proc.pid))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(maps)) {
		if at, _, _ := strings.Cut(line, " "); !strings.Contains(line, "[vsyscall]") {
			got = append(got, at+" "+strings.Fields(line)[1])
		}
	}
	want := []string{
		fmt.Sprintf("%08x-%08x r-xs", textAt, textAt+platform.PageSize),
		fmt.Sprintf("%08x-%08x r-xp", stubAt, stubAt+platform.PageSize),
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the stub maps %q, want %q", got, want)
	}
}

// TestStubPage: what an application gets by using our page itself.
func TestStubPage(t *testing.T) {
	r, th, c := setup(t, 0x48, 0x89, 0x07) // mov %rax,(%rdi)
	for _, at := range []uint64{callAt, spawnAt, pauseAt + 5} {
		c.Rip, c.Rax, c.Dirty = at, unix.SYS_EXIT_GROUP, platform.DirtyAll
		e, err := th.Run(c, r.as)
		if err != nil || e.Reason != platform.Syscall || c.Orig_rax != unix.SYS_EXIT_GROUP {
			t.Fatalf("jump to %#x: got %+v, %v", at, e, err)
		}
	}
	c.Rip, c.Rdi, c.Dirty = textAt, stubAt, platform.DirtyAll
	e, err := th.Run(c, r.as)
	if err != nil || e.Reason != platform.Fault || e.Access != platform.Write || e.Addr != stubAt {
		t.Fatalf("store to the stub page: got %+v, %v", e, err)
	}
	if err := r.as.Map(stubAt, r.seg, rx); err == nil {
		t.Error("the stub page was mapped over")
	}
	if err := r.as.Protect(stubAt, platform.PageSize, 0); err == nil {
		// Beyond TaskSize there is nothing to protect.
		c.Rip, c.Dirty = callAt, platform.DirtyAll
		if e, err := th.Run(c, r.as); err != nil || e.Reason != platform.Syscall {
			t.Fatalf("after Protect: got %+v, %v", e, err)
		}
	}
	if err := r.as.Unmap(0, 1<<63); err != nil {
		t.Fatal(err)
	}
	c.Rip, c.Dirty = callAt, platform.DirtyAll
	if e, err := th.Run(c, r.as); err != nil || e.Reason != platform.Syscall {
		t.Fatalf("after Unmap of everything: got %+v, %v", e, err)
	}
}

// TestForeignSignals: what the host sends to a stub is no business of the application's.
func TestForeignSignals(t *testing.T) {
	r, th, c := setup(t, 0x0f, 0x05, 0xeb, 0xfc) // syscall; jmp to it
	if _, err := th.Run(c, r.as); err != nil {
		t.Fatal(err)
	}
	for _, sig := range []unix.Signal{unix.SIGSEGV, unix.SIGTRAP, unix.SIGTERM, unix.SIGINT, unix.SIGSTOP, unix.SIGCONT, kickSignal, unix.SIGCHLD} {
		if err := unix.Tgkill(r.as.proc.pid, th.x.tid, sig); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			c.Rax = uint64(sig)
			if e, err := th.Run(c, r.as); err != nil || e.Reason != platform.Syscall || c.Orig_rax != uint64(sig) {
				t.Fatalf("after %v: got %+v, call %d, %v", sig, e, c.Orig_rax, err)
			}
		}
	}
}

// TestKilledStub: a stub that the host ends is an error, and nothing hangs.
func TestKilledStub(t *testing.T) {
	r, th, c := setup(t, 0xeb, 0xfe) // jmp .
	go unix.Kill(r.as.proc.pid, unix.SIGKILL)
	if e, err := th.Run(c, r.as); err == nil {
		t.Fatalf("got %+v", e)
	}
}

// children is the processes that this one is parent of.
func children(t *testing.T) []string {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if os.IsNotExist(err) {
			continue // the thread, or CONFIG_PROC_CHILDREN
		}
		all = append(all, strings.Fields(string(b))...)
	}
	return all
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// TestNothingStays: no process, zombie or descriptor after Close, twice over.
func TestNothingStays(t *testing.T) {
	before := descriptors(t)
	for range 3 {
		r, err := newRig(0x0f, 0x05)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		for range 3 {
			go func() {
				th, err := r.p.NewThread()
				if err == nil {
					_, err = th.Run(r.context(), r.as)
					th.Close()
					th.Close()
				}
				done <- err
			}()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		for i := range 2*maxSpare + 4 {
			as, err := r.p.NewAddressSpace()
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				defer as.Release() // late: Close has ended the process
			} else {
				as.Release()
			}
		}
		if err := r.close(); err != nil {
			t.Error(err)
		}
		if err := r.p.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		r.as = nil
	}
	if left := children(t); len(left) > 0 {
		t.Errorf("processes %v stay", left)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestSentryDies kills a Sentry with a running thread, an idle one and spare
// processes. All stubs must go: they become ours, to be waited for.
func TestSentryDies(t *testing.T) {
	if os.Getenv("PTRACE_TEST_SENTRY") != "" {
		dyingSentry()
		return
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("become a subreaper: %v", err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSentryDies$")
	cmd.Env = append(os.Environ(), "PTRACE_TEST_SENTRY=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "running" {
		var pid int
		if _, err := fmt.Sscanf(lines.Text(), "stub %d", &pid); err != nil {
			t.Errorf("the Sentry says %q", lines.Text())
			continue
		}
		pids = append(pids, pid)
	}
	if len(pids) < 4 {
		t.Errorf("%d stubs", len(pids))
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, pid := range pids {
		var ws unix.WaitStatus
		if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
			t.Errorf("stub %d: %v", pid, err)
		} else if !ws.Signaled() || ws.Signal() != unix.SIGKILL {
			t.Errorf("stub %d: status %#x", pid, uint32(ws))
		}
	}
}

func dyingSentry() {
	r, err := newRig(0xc6, 0x07, 0x01, 0xeb, 0xfe) // movb $1,(%rdi); jmp .
	if err != nil {
		fmt.Println(err)
		return
	}
	var spaces []platform.AddressSpace
	for range 3 {
		as, err := r.p.NewAddressSpace()
		if err != nil {
			fmt.Println(err)
			return
		}
		spaces = append(spaces, as)
	}
	fmt.Println("stub", r.p.template.pid)
	fmt.Println("stub", r.as.proc.pid)
	for i, as := range spaces {
		fmt.Println("stub", as.(*space).proc.pid)
		if i > 0 {
			as.Release() // to the spare ones
		}
	}
	th, err := r.p.NewThread()
	if err != nil {
		fmt.Println(err)
		return
	}
	c := r.context()
	c.Rdi = textAt
	if err := r.as.Map(textAt, r.seg, rx|platform.Write); err != nil {
		fmt.Println(err)
		return
	}
	go func() {
		for r.seg.Host[0] != 1 { // the guest's first store
			runtime.Gosched()
		}
		fmt.Println("running")
	}()
	th.Run(c, r.as)
}

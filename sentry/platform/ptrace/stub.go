package ptrace

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/platform"
)

// stubAt is the stub page, the last that a process can map
// (arch/x86/include/asm/page_64_types.h, TASK_SIZE_MAX). Applications end at
// platform.TaskSize, below it.
const (
	stubAt    = 0x7fff_ffff_e000
	topOfUser = 0x7fff_ffff_f000

	callAt  = stubAt + callOff
	spawnAt = stubAt + spawnOff
	pauseAt = stubAt + pauseOff
)

// What the stub page holds, by offset.
const (
	callOff   = 0
	spawnOff  = 8
	pauseOff  = 16
	filterOff = 64  // struct sock_fprog, then its instructions
	actionOff = 512 // struct sigaction: SIG_IGN
	maskOff   = 576 // every signal but kickSignal
	capsOff   = 640 // __user_cap_header_struct, then no capabilities
	nameOff   = 704
)

var (
	callCode = []byte{
		0x0f, 0x05, // syscall
		0xcc, // int3
	}
	spawnCode = []byte{
		0x0f, 0x05, // syscall (clone)
		0x85, 0xc0, // test %eax,%eax
		0x74, 0x02, // jz to pauseCode, in the child
		0xcc, // int3
		0xcc,
	}
	pauseCode = []byte{
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov $34,%eax (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp to the mov
	}
)

const (
	userCS = 0x33 // __USER_CS
	userSS = 0x2b // __USER_DS

	// kickSignal interrupts a running stub. It is the one that stubs do not
	// block; they ignore it when nobody traces them.
	kickSignal = unix.SIGSTKFLT
)

// stubPage is the bytes of the stub page.
func stubPage() []byte {
	page := make([]byte, platform.PageSize)
	copy(page[callOff:], callCode)
	copy(page[spawnOff:], spawnCode)
	copy(page[pauseOff:], pauseCode)
	filter := stubFilter()
	le := binary.LittleEndian
	le.PutUint16(page[filterOff:], uint16(len(filter)))
	le.PutUint64(page[filterOff+8:], stubAt+filterOff+16)
	for i, f := range filter {
		b := page[filterOff+16+8*i:]
		le.PutUint16(b, f.Code)
		b[2], b[3] = f.Jt, f.Jf
		le.PutUint32(b[4:], f.K)
	}
	le.PutUint64(page[actionOff:], 1) // SIG_IGN
	le.PutUint64(page[maskOff:], ^(uint64(1) << (kickSignal - 1)))
	le.PutUint32(page[capsOff:], unix.LINUX_CAPABILITY_VERSION_3)
	copy(page[nameOff:], "bulkhead-stub\x00")
	return page
}

// stubFilter allows what the stub page calls. SYSEMU lets no call come so far
// but those that we inject, and those by the vsyscall page, which stop.
func stubFilter() []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K

		arch, ipLow, ipHigh = 4, 8, 12 // offsets in struct seccomp_data
	)
	return []unix.SockFilter{
		{Code: load, K: arch},
		{Code: equal, K: unix.AUDIT_ARCH_X86_64, Jf: 7},
		{Code: load, K: ipHigh},
		{Code: equal, K: 0xffff_ffff, Jt: 7},
		{Code: equal, K: stubAt >> 32, Jf: 4},
		{Code: load, K: ipLow},
		{Code: equal, K: (callAt + 2) & 0xffff_ffff, Jt: 3},
		{Code: equal, K: (spawnAt + 2) & 0xffff_ffff, Jt: 2},
		{Code: equal, K: (pauseAt + 7) & 0xffff_ffff, Jt: 1},
		{Code: answer, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		{Code: answer, K: unix.SECCOMP_RET_TRACE},
	}
}

// makeTemplate forks the Sentry and empties the child. The calling OS thread
// becomes the parent of every stub.
func (p *Platform) makeTemplate() (*process, error) {
	page, err := unix.Mmap(-1, 0, platform.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("ptrace: map the stub page: %w", err)
	}
	defer unix.Munmap(page)
	copy(page, stubPage())
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		return nil, fmt.Errorf("ptrace: protect the stub page: %w", err)
	}
	here := addressOf(page)

	pid, err := forkAsleep(here + pauseOff)
	if err != nil {
		return nil, fmt.Errorf("ptrace: fork a stub: %w", err)
	}
	copied := &process{p: p, pid: pid}
	x, err := copied.seize(pid)
	if err != nil {
		copied.kill()
		return nil, err
	}
	pr, err := p.strip(x, here)
	if err != nil {
		copied.kill()
		return nil, err
	}
	return pr, nil
}

// forkAsleep forks a child that sleeps at pc, with every signal blocked: it
// has Go's handlers and must never run one.
func forkAsleep(pc uint64) (int, error) {
	all, old := unix.Sigset_t{}, unix.Sigset_t{}
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, err
	}
	pid := forkAt(unix.CLONE_FILES|unix.CLONE_FS, uintptr(pc))
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return 0, err
	}
	if pid < 0 {
		return 0, unix.Errno(-pid)
	}
	return pid, nil
}

func forkAt(flags, pc uintptr) (pid int)

// strip makes the template out of a copy of the Sentry: a second task that
// shares its memory and so has no rseq area registered (rseq_fork), which a C
// library in the Sentry may have left. The first task ends.
func (p *Platform) strip(x *tracee, here uint64) (*process, error) {
	tid, err := x.callAt(here+callOff, unix.SYS_CLONE,
		unix.CLONE_VM|unix.CLONE_FILES|unix.CLONE_FS|unix.CLONE_PARENT|unix.CLONE_PTRACE)
	if err != nil {
		return nil, fmt.Errorf("ptrace: fork the template: %w", err)
	}
	pr := &process{p: p, pid: int(tid)}
	b, err := pr.arrived(pr.pid)
	if err == nil {
		err = x.exit(here + callOff)
	}
	if err == nil {
		err = b.empty(here)
	}
	if err == nil {
		err = b.settle()
	}
	if err == nil {
		p.xstate, err = readXState(b.tid)
	}
	if err == nil {
		err = b.park()
	}
	if err != nil {
		pr.kill()
		return nil, err
	}
	return pr, nil
}

// empty removes everything but the stub page, and moves that to its place.
func (x *tracee) empty(here uint64) error {
	behind := here + platform.PageSize
	for _, c := range []struct {
		nr   uintptr
		args []uint64
	}{
		{unix.SYS_MUNMAP, []uint64{0, here}},
		{unix.SYS_MUNMAP, []uint64{behind, topOfUser - behind}},
		{unix.SYS_MREMAP, []uint64{here, platform.PageSize, platform.PageSize,
			unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED, stubAt}},
	} {
		if _, err := x.callAt(here+callOff, c.nr, c.args...); err != nil {
			return fmt.Errorf("ptrace: empty the template, call %d: %w", c.nr, err)
		}
	}
	return nil
}

// settle gives the template what every stub inherits.
func (x *tracee) settle() error {
	for _, c := range []struct {
		what string
		nr   uintptr
		args []uint64
	}{
		{"name", unix.SYS_PRCTL, []uint64{unix.PR_SET_NAME, stubAt + nameOff}},
		{"end with the Sentry", unix.SYS_PRCTL, []uint64{unix.PR_SET_PDEATHSIG, uint64(unix.SIGKILL)}},
		{"no new privileges", unix.SYS_PRCTL, []uint64{unix.PR_SET_NO_NEW_PRIVS, 1}},
		{"drop capabilities", unix.SYS_CAPSET, []uint64{stubAt + capsOff, stubAt + capsOff + 8}},
		{"be traceable", unix.SYS_PRCTL, []uint64{unix.PR_SET_DUMPABLE, 1}},
		{"ignore the kick", unix.SYS_RT_SIGACTION, []uint64{uint64(kickSignal), stubAt + actionOff, 0, 8}},
		{"block signals", unix.SYS_RT_SIGPROCMASK, []uint64{unix.SIG_SETMASK, stubAt + maskOff, 0, 8}},
		{"filter calls", unix.SYS_SECCOMP, []uint64{
			unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, stubAt + filterOff}},
	} {
		if _, err := x.call(c.nr, c.args...); err != nil {
			return fmt.Errorf("ptrace: template: %s: %w", c.what, err)
		}
	}
	return nil
}

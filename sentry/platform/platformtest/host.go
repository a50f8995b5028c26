package platformtest

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// wildStack tells whether this host's kernel returns to a program whose stack pointer is
// not canonical, as a processor does: a traced program is given one, and takes a step. A kernel
// that is itself a guest in user mode (kvm_pvm) has its hypervisor return, which faults.
var wildStack = sync.OnceValue(func() bool {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := exec.Command("/proc/self/exe")
	c.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := c.Start(); err != nil {
		return true
	}
	pid := c.Process.Pid
	defer func() {
		_ = c.Process.Kill()
		_, _ = c.Process.Wait()
	}()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
		return true
	}
	var regs syscall.PtraceRegs
	if err := syscall.PtraceGetRegs(pid, &regs); err != nil {
		return true
	}
	regs.Rsp = 1 << 63
	if syscall.PtraceSetRegs(pid, &regs) != nil || syscall.PtraceSingleStep(pid) != nil {
		return true
	}
	_, err := syscall.Wait4(pid, &status, 0, nil)
	return err != nil || !status.Stopped() || status.StopSignal() == unix.SIGTRAP
})

// anyStack is a stack pointer that nothing uses, as wild as the host can take.
func anyStack() uint64 {
	if wildStack() {
		return rand.Uint64()
	}
	return rand.Uint64() >> 17
}

// needWildStack leaves out what the host itself cannot do.
func needWildStack(t *testing.T) {
	t.Helper()
	if !wildStack() {
		t.Skip("this host's kernel cannot return to a stack pointer that is not canonical (kvm_pvm guest): to be run where the kernel is on a processor or under VMX or SVM")
	}
}

// fsgsbase is the bit of AT_HWCAP2 (arch/x86/include/uapi/asm/hwcap2.h, HWCAP2_FSGSBASE).
const fsgsbase = 1 << 1

// needFSGSBASE leaves out what a kernel does not see that has not enabled the
// instructions, though a hypervisor beneath it has.
func needFSGSBASE(t *testing.T) {
	t.Helper()
	if os.Getenv("BULKHEAD_LAB") == "" && hwcap2()&fsgsbase == 0 {
		t.Skip("this host's kernel does not offer wrfsbase (AT_HWCAP2), and does not see what it wrote: Linux 5.9 or newer has it, unless under kvm_pvm or booted with nofsgsbase")
	}
}

func hwcap2() uint64 {
	const atHWCAP2 = 26 // getauxval(3)
	aux, err := unix.Auxv()
	if err != nil {
		return 0
	}
	for _, pair := range aux {
		if pair[0] == atHWCAP2 {
			return uint64(pair[1])
		}
	}
	return 0
}

package cost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// tracee is an ELF program of one page: mov eax,39 (getpid); syscall; jmp to it.
// It never ends by itself; its tracer ends it, and dies with it in the worst case.
func tracee() []byte {
	const at, header, program = 0x40_0000, 64, 56
	code := []byte{0xb8, unix.SYS_GETPID, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7}
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	b = le.AppendUint16(b, 2)  // ET_EXEC
	b = le.AppendUint16(b, 62) // EM_X86_64
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, at+header+program) // entry
	b = le.AppendUint64(b, header)            // program headers
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{header, program, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // read, execute
	size := uint64(header + program + len(code))
	for _, v := range []uint64{0, at, at, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}

// sysemu is PTRACE_SYSEMU: on to the next system call, which is not made.
const sysemu = 31

func ptraceStops(same bool) func(*bench) ([]float64, error) {
	return func(b *bench) ([]float64, error) {
		runtime.LockOSThread() // never unlocked: the thread's CPU is changed, and ends with the goroutine
		pid, end, err := startTracee()
		if err != nil {
			return nil, err
		}
		defer end()
		if err := pin(0, pid, same); err != nil {
			return nil, err
		}
		return b.each(400, func() error { return nextStop(pid) })
	}
}

// startTracee runs the program from a memfd to its first instruction.
func startTracee() (pid int, end func(), err error) {
	fd, err := unix.MemfdCreate("tracee", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, nil, fmt.Errorf("memfd: %w", err)
	}
	file := os.NewFile(uintptr(fd), "tracee")
	defer file.Close()
	if _, err := file.Write(tracee()); err != nil {
		return 0, nil, fmt.Errorf("write the traced program: %w", err)
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, file // it uses none; by default they are /dev/null, which a jail may lack
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, nil, fmt.Errorf("start the traced program: %w", err)
	}
	pid = cmd.Process.Pid
	end = func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || !status.Stopped() {
		end()
		return 0, nil, errors.Join(err, fmt.Errorf("the traced program did not stop at its exec: %#x", status))
	}
	return pid, end, nil
}

// pin puts this thread on a CPU and the traced process there or on the next.
func pin(cpu, pid int, same bool) error {
	var mine, allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("affinity: %w", err)
	}
	for !allowed.IsSet(cpu) && cpu < 1024 {
		cpu++
	}
	mine.Set(cpu)
	its := mine
	if !same {
		next := cpu + 1
		for !allowed.IsSet(next) && next < 1024 {
			next++
		}
		its = unix.CPUSet{}
		its.Set(next)
	}
	if err := errors.Join(unix.SchedSetaffinity(0, &mine), unix.SchedSetaffinity(pid, &its)); err != nil {
		return fmt.Errorf("affinity: %w", err)
	}
	return nil
}

// nextStop goes on to the next system call, which comes: the process does nothing else.
func nextStop(pid int) error {
	if _, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, sysemu, uintptr(pid), 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("PTRACE_SYSEMU: %w", errno)
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the traced process: %w", err)
		}
		break
	}
	if !status.Stopped() || status.StopSignal() != unix.SIGTRAP {
		return fmt.Errorf("the traced process ended or stopped with %#x", status)
	}
	return nil
}

// Ptrace tells why no process can be traced here, if so.
func Ptrace() error {
	_, err := guarded(func() (none struct{}, err error) {
		runtime.LockOSThread() // ptrace belongs to a thread
		defer runtime.UnlockOSThread()
		pid, end, err := startTracee()
		if err != nil {
			return none, err
		}
		defer end()
		return none, nextStop(pid)
	})
	return err
}

package profile

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/syscalls"
)

func TestCompile(t *testing.T) {
	eacces := uint(unix.EACCES)
	arg := func(i uint, op specs.LinuxSeccompOperator, v, v2 uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: v2}
	}
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
	}
	const big = 1<<40 | 5
	p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX32}, Syscalls: []specs.LinuxSyscall{
		allow("getpid"), allow("no_such_call"),
		{Names: []string{"mkdir", "rmdir"}, Action: specs.ActErrno, ErrnoRet: &eacces},
		allow("lseek", arg(1, specs.OpEqualTo, big, 0)),
		allow("dup", arg(0, specs.OpNotEqual, big, 0)),
		allow("dup2", arg(0, specs.OpGreaterThan, big, 0)),
		allow("fsync", arg(0, specs.OpGreaterEqual, big, 0)),
		allow("fchdir", arg(0, specs.OpLessThan, big, 0)),
		allow("fchmod", arg(0, specs.OpLessEqual, big, 0)),
		allow("clone", arg(0, specs.OpMaskedEqual, 0x7e020000, 0)),
		allow("socket", arg(0, specs.OpEqualTo, 1, 0), arg(1, specs.OpEqualTo, 2, 0)),
		allow("personality", arg(0, specs.OpEqualTo, 0, 0), arg(0, specs.OpEqualTo, 8, 0)),
		allow("kill", arg(0, specs.OpEqualTo, 1, 0)), allow("kill"),
	}}, syscalls.Number)
	if err != nil {
		t.Fatal(err)
	}
	f, err := bpf.Parse(p.Code)
	if err != nil {
		t.Fatal(err)
	}
	const no, yes = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), uint32(unix.SECCOMP_RET_ALLOW)
	for _, c := range []struct {
		nr   int32
		args [6]uint64
		want uint32
	}{
		{unix.SYS_GETPID, [6]uint64{9}, yes},
		{unix.SYS_GETPPID, [6]uint64{}, no},
		{unix.SYS_RMDIR, [6]uint64{}, unix.SECCOMP_RET_ERRNO | uint32(unix.EACCES)},
		{unix.SYS_OPENAT2, [6]uint64{}, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{unix.SYS_LSEEK, [6]uint64{0, big}, yes}, {unix.SYS_LSEEK, [6]uint64{0, 5}, no}, {unix.SYS_LSEEK, [6]uint64{0, big + 1}, no},
		{unix.SYS_DUP, [6]uint64{big}, no}, {unix.SYS_DUP, [6]uint64{5}, yes}, {unix.SYS_DUP, [6]uint64{big - 1}, yes},
		{unix.SYS_DUP2, [6]uint64{big}, no}, {unix.SYS_DUP2, [6]uint64{big + 1}, yes}, {unix.SYS_DUP2, [6]uint64{2 << 40}, yes}, {unix.SYS_DUP2, [6]uint64{6}, no},
		{unix.SYS_FSYNC, [6]uint64{big}, yes}, {unix.SYS_FSYNC, [6]uint64{big - 1}, no},
		{unix.SYS_FCHDIR, [6]uint64{big}, no}, {unix.SYS_FCHDIR, [6]uint64{big - 1}, yes}, {unix.SYS_FCHDIR, [6]uint64{6}, yes}, {unix.SYS_FCHDIR, [6]uint64{2 << 40}, no},
		{unix.SYS_FCHMOD, [6]uint64{big}, yes}, {unix.SYS_FCHMOD, [6]uint64{big + 1}, no},
		{unix.SYS_CLONE, [6]uint64{0x11}, yes}, {unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWNS | 0x11}, no},
		{unix.SYS_SOCKET, [6]uint64{1, 2}, yes}, {unix.SYS_SOCKET, [6]uint64{1, 1}, no}, {unix.SYS_SOCKET, [6]uint64{2, 2}, no},
		{unix.SYS_PERSONALITY, [6]uint64{8}, yes}, {unix.SYS_PERSONALITY, [6]uint64{}, yes}, {unix.SYS_PERSONALITY, [6]uint64{1}, no},
		{unix.SYS_KILL, [6]uint64{7}, yes},
	} {
		if got := f.Run(&bpf.Data{Number: c.nr, Arch: unix.AUDIT_ARCH_X86_64, Args: c.args}); got != c.want {
			t.Errorf("call %d with %#x: %#x, want %#x", c.nr, c.args, got, c.want)
		}
	}
	for _, c := range []struct {
		nr   int32
		arch uint32
		want uint32
	}{{unix.SYS_GETPID, unix.AUDIT_ARCH_I386, unix.SECCOMP_RET_KILL_THREAD}, {1<<30 | unix.SYS_GETPID, unix.AUDIT_ARCH_X86_64, unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}} {
		if got := f.Run(&bpf.Data{Number: c.nr, Arch: c.arch}); got != c.want {
			t.Errorf("call %#x of architecture %#x: %#x, want %#x", c.nr, c.arch, got, c.want)
		}
	}
	for _, bad := range []*specs.LinuxSeccomp{
		{DefaultAction: specs.ActNotify},
		{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NONE"}},
		{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow("dup", arg(6, specs.OpEqualTo, 0, 0))}},
		{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{allow("dup", arg(0, "SCMP_CMP_ALMOST", 0, 0))}},
	} {
		if _, err := Compile(bad, syscalls.Number); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// TestKernel: Linux takes what is compiled, and answers by it. The thread ends with it.
func TestKernel(t *testing.T) {
	p, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagSpecAllow}, Syscalls: []specs.LinuxSyscall{
		{Names: []string{"chroot"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EDOM))},
	}}, syscalls.Number)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			got <- err
			return
		}
		filters := make([]unix.SockFilter, len(p.Code)/instruction)
		if _, err := binary.Decode(p.Code, binary.LittleEndian, filters); err != nil {
			got <- err
			return
		}
		if err := install(filters, p.Flags); err != nil {
			got <- err
			return
		}
		got <- unix.Chroot("/")
	}()
	if err := <-got; err != unix.EDOM {
		t.Errorf("chroot: %v, want %v", err, unix.EDOM)
	}
}

package boot

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"bulkhead/sentry/bpf"
	"bulkhead/sentry/kernel"
)

func TestCompileFilter(t *testing.T) {
	eacces := uint(unix.EACCES)
	arg := func(i uint, op specs.LinuxSeccompOperator, v, v2 uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: i, Op: op, Value: v, ValueTwo: v2}
	}
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
	}
	const big = 1<<40 | 5
	f, err := compileFilter(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
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
	}})
	if err != nil {
		t.Fatal(err)
	}
	const no, yes = kernel.RetErrno | uint32(unix.EPERM), uint32(kernel.RetAllow)
	for _, c := range []struct {
		nr   int32
		args [6]uint64
		want uint32
	}{
		{unix.SYS_GETPID, [6]uint64{9}, yes},
		{unix.SYS_GETPPID, [6]uint64{}, no},
		{unix.SYS_RMDIR, [6]uint64{}, kernel.RetErrno | uint32(unix.EACCES)},
		{unix.SYS_OPENAT2, [6]uint64{}, kernel.RetErrno | uint32(unix.ENOSYS)},
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
		if got := f.Answer(&bpf.Data{Number: c.nr, Arch: unix.AUDIT_ARCH_X86_64, Args: c.args}); got != c.want {
			t.Errorf("call %d with %#x: %#x, want %#x", c.nr, c.args, got, c.want)
		}
	}
	if _, err := compileFilter(&specs.LinuxSeccomp{DefaultAction: specs.ActNotify}); err == nil {
		t.Error("SCMP_ACT_NOTIFY is accepted")
	}
}

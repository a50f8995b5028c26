package syscalls

import (
	"crypto/rand"
	"io"
	"math/bits"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
)

func miscCalls() []row {
	return []row{
		{unix.SYS_UNAME, uname, Full, ""},
		{unix.SYS_SETHOSTNAME, sethostname, Full, ""},
		{unix.SYS_SETDOMAINNAME, setdomainname, Full, ""},
		{unix.SYS_SYSINFO, sysinfo, Full, ""},
		{unix.SYS_GETRANDOM, getrandom, Full, ""},
		{unix.SYS_GETCPU, getcpu, Full, "there is one node"},
		{unix.SYS_PERSONALITY, personality, Full, ""},
		{unix.SYS_PRCTL, prctl, Partial, "the options that programs use; others EINVAL"},
		{unix.SYS_RSEQ, refuse(unix.ENOSYS), None, "no CPU is a thread's alone while it runs, which restartable sequences build on; libc falls back to sched_getcpu"},
		{unix.SYS_SYSFS, sysfsCall, Full, ""},
		{unix.SYS_KEXEC_FILE_LOAD, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_FANOTIFY_MARK, refuse(unix.EBADF), Partial, "refused: no descriptor is a fanotify one"},
		{unix.SYS_QUOTACTL_FD, refuse(unix.ENOSYS), None, "as a kernel without quotas"},
		{unix.SYS_LANDLOCK_CREATE_RULESET, refuse(unix.ENOSYS), None, "as a kernel without Landlock"},
		{unix.SYS_LANDLOCK_ADD_RULE, refuse(unix.ENOSYS), None, "as a kernel without Landlock"},
		{unix.SYS_LANDLOCK_RESTRICT_SELF, refuse(unix.ENOSYS), None, "as a kernel without Landlock"},
		{unix.SYS_LSM_GET_SELF_ATTR, refuse(unix.EOPNOTSUPP), Partial, "there is no security module"},
		{unix.SYS_LSM_SET_SELF_ATTR, refuse(unix.EOPNOTSUPP), Partial, "there is no security module"},
		{unix.SYS_LSM_LIST_MODULES, lsmListModules, Full, "there is none"},
		{unix.SYS_SYNC, syncAll, Full, ""},
		{unix.SYS_VHANGUP, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_SYSLOG, syslog, Partial, "an empty kernel log"},
		{unix.SYS_REBOOT, reboot, Full, "ends the pid namespace, as in any but Linux's first"},
		{unix.SYS_ACCT, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_SWAPON, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_SWAPOFF, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_IOPL, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_IOPERM, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_INIT_MODULE, refuse(unix.EPERM), Partial, "refused: there are no modules"},
		{unix.SYS_FINIT_MODULE, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_DELETE_MODULE, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_KEXEC_LOAD, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_PERF_EVENT_OPEN, refuse(unix.EACCES), Partial, "refused"},
		{unix.SYS_BPF, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_QUOTACTL, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_FANOTIFY_INIT, refuse(unix.EPERM), Partial, "refused"},
		{unix.SYS_MODIFY_LDT, refuse(unix.ENOSYS), None, "64-bit programs do not need segments"},
		{unix.SYS_GET_MEMPOLICY, getMempolicy, Partial, "one node"},
		{unix.SYS_SET_MEMPOLICY, advice, Partial, "accepted: one node"},
		{unix.SYS_MBIND, advice, Partial, "accepted: one node"},
		{unix.SYS_IOPRIO_GET, advice, Partial, "always the default class"},
		{unix.SYS_IOPRIO_SET, advice, Partial, "accepted, not followed"},
	}
}

// sysfs(2): the file systems that mount(2) can name, by place.
func sysfsCall(t *kernel.Task, a *Args) (uintptr, error) {
	const index, name, count = 1, 2, 3
	var types []string
	for n, k := range local(t).FSTypes {
		if !k.Hidden {
			types = append(types, n)
		}
	}
	slices.Sort(types)
	switch a.Int(0) {
	case index:
		s, err := path(t, a.Addr(1))
		if err != nil {
			return 0, err
		}
		if i := slices.Index(types, s); i >= 0 {
			return uintptr(i), nil
		}
	case name:
		if i := a.Uint32(1); int(i) < len(types) {
			return 0, out(t, a.Addr(2), append([]byte(types[i]), 0))
		}
	case count:
		return uintptr(len(types)), nil
	}
	return 0, unix.EINVAL
}

// reboot(2). No container is in Linux's first pid namespace, and in no other does it
// reach a machine: process 1 is killed by the signal that tells its parent which of
// the two was asked for, and the rest is EINVAL (kernel/reboot.c).
func reboot(t *kernel.Task, a *Args) (uintptr, error) {
	if !t.Creds().HasIn(t.PIDNamespace().Owner(), unix.CAP_SYS_BOOT) {
		return 0, unix.EPERM
	}
	if a.Uint32(0) != unix.LINUX_REBOOT_MAGIC1 {
		return 0, unix.EINVAL
	}
	switch a.Uint32(1) {
	case unix.LINUX_REBOOT_MAGIC2, 0x05121996, 0x16041998, 0x20112000: // and A, B, C (linux/reboot.h)
	default:
		return 0, unix.EINVAL
	}
	switch a.Uint32(2) {
	case unix.LINUX_REBOOT_CMD_RESTART, unix.LINUX_REBOOT_CMD_RESTART2:
		t.EndNamespace(unix.SIGHUP)
	case unix.LINUX_REBOOT_CMD_HALT, unix.LINUX_REBOOT_CMD_POWER_OFF:
		t.EndNamespace(unix.SIGINT)
	default:
		return 0, unix.EINVAL
	}
	return 0, nil
}

// lsm_list_modules(2): an empty list.
func lsmListModules(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(2) != 0 {
		return 0, unix.EINVAL
	}
	if _, err := in32(t, a.Addr(1)); err != nil {
		return 0, err
	}
	return 0, out32(t, a.Addr(1), 0)
}

// advice is for advice that changes nothing here.
func advice(*kernel.Task, *Args) (uintptr, error) { return 0, nil }

// What the container sees as its kernel. Programs take version numbers for
// features: this is the oldest that has those we serve.
const (
	Sysname = "Linux"
	Release = "6.12.0-bulkhead"
	Version = "#1 SMP PREEMPT_DYNAMIC Bulkhead"
	Machine = "x86_64"
)

// Of personality(2), include/uapi/linux/personality.h.
const (
	perMask    = 0xff
	perLinux32 = 0x8
)

func uname(t *kernel.Task, a *Args) (uintptr, error) {
	var b [6 * 65]byte
	host, domain := t.Namespaces().UTS.Names()
	machine := Machine
	if t.Personality.Load()&perMask == perLinux32 {
		machine = "i686" // kernel/sys.c, override_architecture
	}
	for i, s := range []string{Sysname, host, Release, Version, machine, domain} {
		copy(b[65*i:65*i+64], s)
	}
	return 0, out(t, a.Addr(0), b[:])
}

func inName(t *kernel.Task, a *Args) (string, error) {
	if !t.Creds().HasIn(t.Namespaces().UTS.Owner(), unix.CAP_SYS_ADMIN) {
		return "", unix.EPERM
	}
	n := a.Int(1)
	if n < 0 || n > 64 {
		return "", unix.EINVAL
	}
	b := make([]byte, n)
	err := in(t, a.Addr(0), b)
	return string(b), err
}

func sethostname(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := inName(t, a)
	if err == nil {
		t.Namespaces().UTS.SetHostname(s)
	}
	return 0, err
}

func setdomainname(t *kernel.Task, a *Args) (uintptr, error) {
	s, err := inName(t, a)
	if err == nil {
		t.Namespaces().UTS.SetDomainname(s)
	}
	return 0, err
}

// uptime is the container's, as t's time namespace has it.
func uptime(t *kernel.Task) time.Duration {
	_, boot := t.Namespaces().Time.Offsets()
	return t.Kernel().Clock.Uptime() + boot
}

func sysinfo(t *kernel.Task, a *Args) (uintptr, error) {
	c := t.Cgroup()
	used := c.Arena.Usage()
	total := max(c.Memory, used)
	n := c.Live()
	var b [112]byte
	le.PutUint64(b[0:], uint64(uptime(t)/time.Second))
	le.PutUint64(b[32:], total)
	le.PutUint64(b[40:], total-used)
	le.PutUint16(b[80:], uint16(min(n, 65535)))
	le.PutUint32(b[104:], 1) // mem_unit
	return 0, out(t, a.Addr(0), b[:])
}

// getrandom(2). The host's pool was ready before any sandbox started, so
// GRND_RANDOM and GRND_NONBLOCK change nothing.
func getrandom(t *kernel.Task, a *Args) (uintptr, error) {
	const clash = unix.GRND_RANDOM | unix.GRND_INSECURE
	flags := a.Uint32(2)
	if flags&^(clash|unix.GRND_NONBLOCK) != 0 || flags&clash == clash {
		return 0, unix.EINVAL // drivers/char/random.c, getrandom
	}
	size := min(a.Size(1), maxRW)
	done := uint64(0)
	for done < size {
		b, release, err := t.MM().Pin(a.Addr(0)+memory.Addr(done), min(size-done, 1<<20), platform.Write)
		if err != nil {
			return partial(done, err)
		}
		for _, p := range b {
			io.ReadFull(rand.Reader, p)
		}
		done += uint64(b.Len())
		release()
		if t.Interrupted() {
			break
		}
	}
	return uintptr(done), nil
}

func getcpu(t *kernel.Task, a *Args) (uintptr, error) {
	cpu := uint32(0)
	if m := t.Affinity.Load(); m != 0 {
		cpu = uint32(bits.TrailingZeros64(m))
	}
	if a[0] != 0 {
		if err := out32(t, a.Addr(0), cpu); err != nil {
			return 0, err
		}
	}
	if a[1] != 0 {
		return 0, out32(t, a.Addr(1), 0)
	}
	return 0, nil
}

func personality(t *kernel.Task, a *Args) (uintptr, error) {
	old := t.Personality.Load()
	if a.Uint32(0) != 0xffffffff {
		t.Personality.Store(a.Uint32(0))
	}
	return uintptr(old), nil
}

func syncAll(t *kernel.Task, _ *Args) (uintptr, error) {
	t.FS().Namespace().Sync(t)
	return 0, nil
}

// syslog(2): the log of a kernel that has nothing to say.
func syslog(t *kernel.Task, a *Args) (uintptr, error) {
	const readAll, readClear, unread, size = 3, 4, 9, 10
	switch a.Int(0) {
	case readAll, readClear, unread:
		return 0, nil
	case size:
		return 1 << 17, nil
	}
	if !t.Creds().Has(unix.CAP_SYSLOG) {
		return 0, unix.EPERM
	}
	return 0, nil
}

func getMempolicy(t *kernel.Task, a *Args) (uintptr, error) {
	if a[0] != 0 {
		if err := out32(t, a.Addr(0), 0); err != nil {
			return 0, err
		}
	}
	if a[1] != 0 && a[2] != 0 {
		return 0, out64(t, a.Addr(1), 1)
	}
	return 0, nil
}

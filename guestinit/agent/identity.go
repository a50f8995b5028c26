package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// capabilityNames are the capabilities by number (include/uapi/linux/capability.h).
var capabilityNames = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
	LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
	SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
	AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

func capabilities(field string, names []string) (set uint64, err error) {
	for _, name := range names {
		found := false
		for i, n := range capabilityNames {
			if n == strings.TrimPrefix(strings.ToUpper(name), "CAP_") {
				set |= 1 << i
				found = true
			}
		}
		if !found {
			return 0, fmt.Errorf("process.capabilities.%s: %q is no capability", field, name)
		}
	}
	return set, nil
}

// becomeUser takes on the process's user, groups and capabilities. Whatever is a
// thread's is set for the one that will execute the program.
func (st *stage) becomeUser() error {
	p := st.Process
	if err := adjustOOM(p.OOMScoreAdj); err != nil {
		return err
	}
	var sets [5]uint64 // bounding, effective, permitted, inheritable, ambient
	if c := p.Capabilities; c != nil {
		for i, s := range []struct {
			field string
			names []string
		}{{"bounding", c.Bounding}, {"effective", c.Effective}, {"permitted", c.Permitted}, {"inheritable", c.Inheritable}, {"ambient", c.Ambient}} {
			var err error
			if sets[i], err = capabilities(s.field, s.names); err != nil {
				return err
			}
		}
	}
	for c := range capabilityNames {
		if sets[0]>>c&1 == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("drop a capability: %w", err)
			}
		}
	}
	// Capabilities survive the change of user to be set behind it (capabilities(7)).
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	groups := make([]int, len(p.User.AdditionalGids))
	for i, g := range p.User.AdditionalGids {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return fmt.Errorf("process.user: groups: %w", err)
	}
	if err := syscall.Setresgid(int(p.User.GID), int(p.User.GID), int(p.User.GID)); err != nil {
		return fmt.Errorf("process.user: group %d: %w", p.User.GID, err)
	}
	if err := syscall.Setresuid(int(p.User.UID), int(p.User.UID), int(p.User.UID)); err != nil {
		return fmt.Errorf("process.user: user %d: %w", p.User.UID, err)
	}
	st.final = capabilityData(sets[1], sets[2], sets[3])
	if len(st.Filter) > 0 && !p.NoNewPrivileges {
		sets[1], sets[2] = sets[1]|1<<unix.CAP_SYS_ADMIN, sets[2]|1<<unix.CAP_SYS_ADMIN // to set it (seccomp(2)); execFiltered drops it
	}
	if err := setCapabilities(capabilityData(sets[1], sets[2], sets[3])); err != nil {
		return err
	}
	if err := setAmbient(sets[4]); err != nil {
		return err
	}
	umask := 0o022
	if p.User.Umask != nil {
		umask = int(*p.User.Umask & 0o777)
	}
	unix.Umask(umask)
	if p.NoNewPrivileges {
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	return nil
}

func capabilityData(effective, permitted, inheritable uint64) (d [2]unix.CapUserData) {
	for i := range d {
		d[i] = unix.CapUserData{Effective: uint32(effective >> (32 * i)), Permitted: uint32(permitted >> (32 * i)), Inheritable: uint32(inheritable >> (32 * i))}
	}
	return d
}

func setCapabilities(d [2]unix.CapUserData) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capset(&h, &d[0]); err != nil {
		return fmt.Errorf("process.capabilities: %w", err)
	}
	return nil
}

func setAmbient(set uint64) error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("process.capabilities.ambient: %w", err)
	}
	for c := range capabilityNames {
		if set>>c&1 == 0 {
			continue
		}
		// One that is not inheritable and permitted is passed over, as runc does.
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("process.capabilities.ambient: %w", err)
		}
	}
	return nil
}

func adjustOOM(score *int) error {
	if score == nil {
		return nil
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(*score)), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	return nil
}

var rlimits = map[string]int{
	"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_STACK": unix.RLIMIT_STACK,
	"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
}

// limit sets the process's limits. syscall.Setrlimit is what keeps Go from putting
// back the number of open files that it found (syscall/rlimit.go), which under a
// filter it does not do: it is done here.
func (st *stage) limit() error {
	if len(st.Filter) > 0 {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			return err
		}
		const kernels = 1024 // include/uapi/linux/fs.h, INR_OPEN_CUR: what a guest's init begins with
		l.Cur = min(kernels, l.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
			return err
		}
	}
	for _, l := range st.Process.Rlimits {
		n, ok := rlimits[l.Type]
		if !ok {
			return fmt.Errorf("%q is none", l.Type)
		}
		if err := syscall.Setrlimit(n, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return fmt.Errorf("%s: %w", l.Type, err)
		}
	}
	return nil
}

// changeDirectory goes to process.cwd, and makes it as engines expect.
func (st *stage) changeDirectory() error {
	dir := st.Process.Cwd
	if dir == "" {
		dir = "/"
	}
	err := unix.Chdir(dir)
	if errors.Is(err, unix.ENOENT) {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = unix.Chdir(dir)
		}
	}
	if err != nil {
		return fmt.Errorf("process.cwd %q: %w", dir, err)
	}
	return nil
}

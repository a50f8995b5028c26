package syscalls

import (
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

func credCalls() []row {
	return []row{
		{unix.SYS_GETUID, getuid, Full, ""},
		{unix.SYS_GETEUID, geteuid, Full, ""},
		{unix.SYS_GETGID, getgid, Full, ""},
		{unix.SYS_GETEGID, getegid, Full, ""},
		{unix.SYS_GETRESUID, getresuid, Full, ""},
		{unix.SYS_GETRESGID, getresgid, Full, ""},
		{unix.SYS_GETGROUPS, getgroups, Full, ""},
		{unix.SYS_SETUID, setuid, Full, ""},
		{unix.SYS_SETGID, setgid, Full, ""},
		{unix.SYS_SETREUID, setreuid, Full, ""},
		{unix.SYS_SETREGID, setregid, Full, ""},
		{unix.SYS_SETRESUID, setresuid, Full, ""},
		{unix.SYS_SETRESGID, setresgid, Full, ""},
		{unix.SYS_SETFSUID, setfsuid, Full, ""},
		{unix.SYS_SETFSGID, setfsgid, Full, ""},
		{unix.SYS_SETGROUPS, setgroups, Full, ""},
		{unix.SYS_CAPGET, capget, Full, ""},
		{unix.SYS_CAPSET, capset, Full, ""},
	}
}

func getuid(t *kernel.Task, _ *Args) (uintptr, error) { return uintptr(showUID(t, t.Creds().UID)), nil }
func geteuid(t *kernel.Task, _ *Args) (uintptr, error) {
	return uintptr(showUID(t, t.Creds().EUID)), nil
}
func getgid(t *kernel.Task, _ *Args) (uintptr, error) { return uintptr(showGID(t, t.Creds().GID)), nil }
func getegid(t *kernel.Task, _ *Args) (uintptr, error) {
	return uintptr(showGID(t, t.Creds().EGID)), nil
}

// showUID and showGID are ids as t's user namespace has them; meanUID and meanGID
// are what it means by one, where -1 stays what it is. An id without meaning is EINVAL.
func showUID(t *kernel.Task, id uint32) uint32 { return t.Creds().User.ShowUID(id) }
func showGID(t *kernel.Task, id uint32) uint32 { return t.Creds().User.ShowGID(id) }

func meanUID(t *kernel.Task, id uint32) (uint32, error) { return mean(t.Creds().User.UIDs(), id) }
func meanGID(t *kernel.Task, id uint32) (uint32, error) { return mean(t.Creds().User.GIDs(), id) }

func mean(m *vfs.IDMap, id uint32) (uint32, error) {
	if id == keep {
		return keep, nil
	}
	if id, ok := m.In(id); ok {
		return id, nil
	}
	return 0, unix.EINVAL
}

// meanIDs are the first n arguments, each meant as mean says.
func meanIDs(m *vfs.IDMap, a *Args, n int) (ids [3]uint32, err error) {
	for i := range n {
		if ids[i], err = mean(m, a.Uint32(i)); err != nil {
			return
		}
	}
	return
}

func out3(t *kernel.Task, a *Args, v ...uint32) (uintptr, error) {
	for i, x := range v {
		if err := out32(t, a.Addr(i), x); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func getresuid(t *kernel.Task, a *Args) (uintptr, error) {
	c := t.Creds()
	return out3(t, a, showUID(t, c.UID), showUID(t, c.EUID), showUID(t, c.SUID))
}

func getresgid(t *kernel.Task, a *Args) (uintptr, error) {
	c := t.Creds()
	return out3(t, a, showGID(t, c.GID), showGID(t, c.EGID), showGID(t, c.SGID))
}

func getgroups(t *kernel.Task, a *Args) (uintptr, error) {
	g, n := t.Creds().Groups, a.Int(0)
	if n < 0 || n > 0 && n < len(g) {
		return 0, unix.EINVAL
	}
	if n == 0 {
		return uintptr(len(g)), nil
	}
	var b []byte
	for _, x := range g {
		b = le.AppendUint32(b, showGID(t, x))
	}
	return uintptr(len(g)), out(t, a.Addr(1), b)
}

const maxGroups = 65536

func setgroups(t *kernel.Task, a *Args) (uintptr, error) {
	if !t.Creds().HasHere(unix.CAP_SETGID) || !t.Creds().User.MaySetgroups() {
		return 0, unix.EPERM
	}
	n := a.Uint32(0)
	if n > maxGroups {
		return 0, unix.EINVAL
	}
	b := make([]byte, 4*n)
	if err := in(t, a.Addr(1), b); err != nil {
		return 0, err
	}
	c := *t.Creds()
	c.Groups = make([]uint32, n)
	for i := range c.Groups {
		id, ok := c.User.GIDs().In(le.Uint32(b[4*i:]))
		if !ok {
			return 0, unix.EINVAL
		}
		c.Groups[i] = id
	}
	slices.Sort(c.Groups)
	t.SetCreds(&c)
	return 0, nil
}

const keep = ^uint32(0) // an id of -1 stays as it is

// setIDs is one of the set*uid calls: change edits a copy of the credentials.
func setIDs(t *kernel.Task, change func(c *vfs.Creds) error) (uintptr, error) {
	old := t.Creds()
	c := *old
	if err := change(&c); err != nil {
		return 0, err
	}
	fixCaps(old, &c)
	if old.EUID != c.EUID || old.EGID != c.EGID || old.FSUID != c.FSUID || old.FSGID != c.FSGID {
		t.Group().Dumpable.Store(0)
		t.SetParentDeath(0)
	}
	t.SetCreds(&c)
	return 0, nil
}

// The securebits that matter here (include/uapi/linux/securebits.h).
const (
	secNoSetuidFixup = 1 << 2
	secKeepCaps      = 1 << 4
)

// fsCaps are the capabilities that follow the file-system identity.
const fsCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER |
	1<<unix.CAP_FSETID | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MKNOD | 1<<unix.CAP_MAC_OVERRIDE

// fixCaps gives up capabilities that leave with user 0
// (security/commoncap.c, cap_emulate_setxuid).
func fixCaps(old, c *vfs.Creds) {
	if c.SecureBits&secNoSetuidFixup != 0 {
		return
	}
	root, _ := c.User.UIDs().In(0)
	wasRoot := old.UID == root || old.EUID == root || old.SUID == root
	isRoot := c.UID == root || c.EUID == root || c.SUID == root
	if wasRoot && !isRoot {
		if c.SecureBits&secKeepCaps == 0 {
			c.Permitted, c.Effective = 0, 0
		}
		c.Ambient = 0
	}
	switch {
	case old.EUID == root && c.EUID != root:
		c.Effective = 0
	case old.EUID != root && c.EUID == root:
		c.Effective = c.Permitted
	}
	switch {
	case old.FSUID == root && c.FSUID != root:
		c.Effective &^= fsCaps
	case old.FSUID != root && c.FSUID == root:
		c.Effective |= c.Permitted & fsCaps
	}
}

func setuid(t *kernel.Task, a *Args) (uintptr, error) {
	id, err := meanUID(t, a.Uint32(0))
	if err != nil {
		return 0, err
	}
	return setIDs(t, func(c *vfs.Creds) error {
		switch {
		case id == keep:
			return unix.EINVAL
		case c.HasHere(unix.CAP_SETUID):
			c.UID, c.SUID = id, id
		case id != c.UID && id != c.SUID:
			return unix.EPERM
		}
		c.EUID, c.FSUID = id, id
		return nil
	})
}

func setgid(t *kernel.Task, a *Args) (uintptr, error) {
	id, err := meanGID(t, a.Uint32(0))
	if err != nil {
		return 0, err
	}
	return setIDs(t, func(c *vfs.Creds) error {
		switch {
		case id == keep:
			return unix.EINVAL
		case c.HasHere(unix.CAP_SETGID):
			c.GID, c.SGID = id, id
		case id != c.GID && id != c.SGID:
			return unix.EPERM
		}
		c.EGID, c.FSGID = id, id
		return nil
	})
}

func setreuid(t *kernel.Task, a *Args) (uintptr, error) {
	ids, err := meanIDs(t.Creds().User.UIDs(), a, 2)
	if err != nil {
		return 0, err
	}
	r, e := ids[0], ids[1]
	return setIDs(t, func(c *vfs.Creds) error {
		old := *c
		if !c.HasHere(unix.CAP_SETUID) && (r != keep && r != old.UID && r != old.EUID ||
			e != keep && e != old.UID && e != old.EUID && e != old.SUID) {
			return unix.EPERM
		}
		c.UID, c.EUID = pick(r, c.UID), pick(e, c.EUID)
		if r != keep || e != keep && e != old.UID {
			c.SUID = c.EUID
		}
		c.FSUID = c.EUID
		return nil
	})
}

func setregid(t *kernel.Task, a *Args) (uintptr, error) {
	ids, err := meanIDs(t.Creds().User.GIDs(), a, 2)
	if err != nil {
		return 0, err
	}
	r, e := ids[0], ids[1]
	return setIDs(t, func(c *vfs.Creds) error {
		old := *c
		if !c.HasHere(unix.CAP_SETGID) && (r != keep && r != old.GID && r != old.EGID ||
			e != keep && e != old.GID && e != old.EGID && e != old.SGID) {
			return unix.EPERM
		}
		c.GID, c.EGID = pick(r, c.GID), pick(e, c.EGID)
		if r != keep || e != keep && e != old.GID {
			c.SGID = c.EGID
		}
		c.FSGID = c.EGID
		return nil
	})
}

func pick(id, old uint32) uint32 {
	if id == keep {
		return old
	}
	return id
}

func setresuid(t *kernel.Task, a *Args) (uintptr, error) {
	ids, err := meanIDs(t.Creds().User.UIDs(), a, 3)
	if err != nil {
		return 0, err
	}
	return setIDs(t, func(c *vfs.Creds) error {
		have := []uint32{c.UID, c.EUID, c.SUID, keep}
		for i := range 3 {
			if !c.HasHere(unix.CAP_SETUID) && !slices.Contains(have, ids[i]) {
				return unix.EPERM
			}
		}
		c.UID, c.EUID, c.SUID = pick(ids[0], c.UID), pick(ids[1], c.EUID), pick(ids[2], c.SUID)
		c.FSUID = c.EUID
		return nil
	})
}

func setresgid(t *kernel.Task, a *Args) (uintptr, error) {
	ids, err := meanIDs(t.Creds().User.GIDs(), a, 3)
	if err != nil {
		return 0, err
	}
	return setIDs(t, func(c *vfs.Creds) error {
		have := []uint32{c.GID, c.EGID, c.SGID, keep}
		for i := range 3 {
			if !c.HasHere(unix.CAP_SETGID) && !slices.Contains(have, ids[i]) {
				return unix.EPERM
			}
		}
		c.GID, c.EGID, c.SGID = pick(ids[0], c.GID), pick(ids[1], c.EGID), pick(ids[2], c.SGID)
		c.FSGID = c.EGID
		return nil
	})
}

func setfsuid(t *kernel.Task, a *Args) (uintptr, error) {
	old := t.Creds().FSUID
	id, err := meanUID(t, a.Uint32(0))
	if err != nil {
		id = keep
	}
	setIDs(t, func(c *vfs.Creds) error {
		if id != keep && (id == c.UID || id == c.EUID || id == c.SUID || id == c.FSUID || c.HasHere(unix.CAP_SETUID)) {
			c.FSUID = id
		}
		return nil
	})
	return uintptr(showUID(t, old)), nil
}

func setfsgid(t *kernel.Task, a *Args) (uintptr, error) {
	old := t.Creds().FSGID
	id, err := meanGID(t, a.Uint32(0))
	if err != nil {
		id = keep
	}
	setIDs(t, func(c *vfs.Creds) error {
		if id != keep && (id == c.GID || id == c.EGID || id == c.SGID || id == c.FSGID || c.HasHere(unix.CAP_SETGID)) {
			c.FSGID = id
		}
		return nil
	})
	return uintptr(showGID(t, old)), nil
}

// Capability headers (include/uapi/linux/capability.h).
const (
	capV1, capV2, capV3 = 0x19980330, 0x20071026, 0x20080522
	allCaps             = 1<<(unix.CAP_LAST_CAP+1) - 1
)

// capHeader reads the header and returns how many 32-bit words a set has.
func capHeader(t *kernel.Task, at memory.Addr) (pid int32, words int, err error) {
	v, err := in32(t, at)
	if err != nil {
		return 0, 0, err
	}
	p, err := in32(t, at+4)
	if err != nil {
		return 0, 0, err
	}
	switch v {
	case capV1:
		return int32(p), 1, nil
	case capV2, capV3:
		return int32(p), 2, nil
	}
	if err := out32(t, at, capV3); err != nil {
		return 0, 0, err
	}
	return 0, 0, unix.EINVAL
}

func capget(t *kernel.Task, a *Args) (uintptr, error) {
	pid, words, err := capHeader(t, a.Addr(0))
	if err != nil {
		if err == unix.EINVAL && a[1] == 0 {
			return 0, nil // asked for the version only
		}
		return 0, err
	}
	if pid < 0 {
		return 0, unix.EINVAL
	}
	c := t.Creds()
	if pid != 0 && pid != t.TID() {
		x := t.Find(pid)
		if x == nil {
			return 0, unix.ESRCH
		}
		c = x.Creds()
	}
	if a[1] == 0 {
		return 0, nil
	}
	var b []byte
	for i := range words {
		for _, s := range []uint64{c.Effective, c.Permitted, c.Inheritable} {
			b = le.AppendUint32(b, uint32(s>>(32*i)))
		}
	}
	return 0, out(t, a.Addr(1), b)
}

func capset(t *kernel.Task, a *Args) (uintptr, error) {
	pid, words, err := capHeader(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	if pid != 0 && pid != t.TID() {
		return 0, unix.EPERM
	}
	b := make([]byte, 12*words)
	if err := in(t, a.Addr(1), b); err != nil {
		return 0, err
	}
	var sets [3]uint64
	for i := range words {
		for j := range sets {
			sets[j] |= uint64(le.Uint32(b[12*i+4*j:])) << (32 * i)
		}
	}
	old := t.Creds()
	c := *old
	c.Effective, c.Permitted, c.Inheritable = sets[0]&allCaps, sets[1]&allCaps, sets[2]&allCaps
	switch { // security/commoncap.c, cap_capset
	case !old.HasHere(unix.CAP_SETPCAP) && c.Inheritable&^(old.Inheritable|old.Permitted) != 0,
		c.Inheritable&^(old.Inheritable|old.Bounding) != 0,
		c.Permitted&^old.Permitted != 0,
		c.Effective&^c.Permitted != 0:
		return 0, unix.EPERM
	}
	c.Ambient &= c.Permitted & c.Inheritable
	t.SetCreds(&c)
	return 0, nil
}

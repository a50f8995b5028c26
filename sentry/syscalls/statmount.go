package syscalls

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// What statmount(2) tells of (include/uapi/linux/mount.h).
const (
	wantSuper = 1 << iota
	wantMount
	wantFrom
	wantRoot
	wantPoint
	wantType
	wantNamespace
	wantOptions
	wantSubtype
	wantSource
	wantArray
	wantSecurity
	wantSupported

	supported = 1<<13 - 1
)

// mountRequest is struct mnt_id_req.
type mountRequest struct{ id, param, ns uint64 }

func inMountRequest(t *kernel.Task, at memory.Addr) (r mountRequest, err error) {
	const first, known = 24, 32
	size, err := in32(t, at)
	if err != nil {
		return r, err
	}
	if size > 4096 {
		return r, unix.E2BIG
	}
	if size < first {
		return r, unix.EINVAL
	}
	b := make([]byte, max(size, known))
	if err := in(t, at, b[:size]); err != nil {
		return r, err
	}
	for _, extra := range b[known:] {
		if extra != 0 {
			return r, unix.E2BIG
		}
	}
	r = mountRequest{le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
	if le.Uint32(b[4:]) != 0 || r.id <= 1<<31 { // not a unique id
		return r, unix.EINVAL
	}
	if r.ns != 0 && r.ns != t.FS().Namespace().Number() {
		return r, unix.ENOENT
	}
	return r, nil
}

func statmount(t *kernel.Task, a *Args) (uintptr, error) {
	if a[3] != 0 {
		return 0, unix.EINVAL
	}
	r, err := inMountRequest(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	m := t.FS().Namespace().Find(r.id)
	if m == nil {
		return 0, unix.ENOENT
	}
	i := m.Info(t, t.FS().Root())
	if !i.Reachable && !t.Creds().HasIn(t.FS().Namespace().Owner(), unix.CAP_SYS_ADMIN) {
		return 0, unix.EPERM
	}
	s := mountStat{mask: r.param & supported}
	s.fill(t, m, &i)
	const fixed = 512
	size := a.Size(2)
	if uint64(len(s.strings)) > 0 && uint64(fixed+len(s.strings)) > size {
		return 0, unix.EOVERFLOW
	}
	le.PutUint32(s.b[0:], uint32(fixed+len(s.strings)))
	le.PutUint64(s.b[8:], s.got)
	if err := out(t, a.Addr(1), s.b[:min(size, fixed)]); err != nil {
		return 0, err
	}
	if len(s.strings) > 0 {
		return 0, out(t, a.Addr(1)+fixed, s.strings)
	}
	return 0, nil
}

// mountStat is struct statmount as it is filled in.
type mountStat struct {
	mask, got uint64
	b         [512]byte
	strings   []byte
}

// text puts a string, if it is wanted, and says where at offset at.
func (s *mountStat) text(bit uint64, at int, text string) {
	if s.mask&bit == 0 || text == "" {
		return
	}
	le.PutUint32(s.b[at:], uint32(len(s.strings)))
	s.strings = append(append(s.strings, text...), 0)
	s.got |= bit
}

func (s *mountStat) fill(t *kernel.Task, m *vfs.Mount, i *vfs.MountInfo) {
	if s.mask&wantSuper != 0 {
		s.got |= wantSuper
		le.PutUint32(s.b[16:], unix.Major(i.Dev))
		le.PutUint32(s.b[20:], unix.Minor(i.Dev))
		if st, err := m.FS().Statfs(t); err == nil {
			le.PutUint64(s.b[24:], uint64(st.Type))
		}
		le.PutUint32(s.b[32:], uint32(i.SuperFlags&unix.MS_RDONLY))
	}
	if s.mask&wantMount != 0 {
		s.got |= wantMount
		le.PutUint64(s.b[40:], m.UniqueID())
		le.PutUint64(s.b[48:], i.ParentOf)
		le.PutUint32(s.b[56:], uint32(i.ID))
		le.PutUint32(s.b[60:], uint32(i.Parent))
		le.PutUint64(s.b[64:], attrsOf(i.Flags))
		le.PutUint64(s.b[72:], uint64(i.Propagation()))
		le.PutUint64(s.b[80:], uint64(i.Peers))
		le.PutUint64(s.b[88:], uint64(i.Master))
	}
	if s.mask&wantFrom != 0 {
		s.got |= wantFrom
		le.PutUint64(s.b[96:], uint64(i.From))
	}
	if s.mask&wantNamespace != 0 {
		s.got |= wantNamespace
		le.PutUint64(s.b[112:], i.Namespace)
	}
	s.text(wantType, 36, i.Type)
	s.text(wantRoot, 104, i.Root)
	if i.Reachable {
		s.text(wantPoint, 108, i.Point)
	}
	s.text(wantOptions, 4, i.Data)
	s.text(wantSource, 124, i.Source)
	if s.mask&wantArray != 0 && i.Data != "" {
		le.PutUint32(s.b[128:], uint32(strings.Count(i.Data, ",")+1))
		s.text(wantArray, 132, strings.ReplaceAll(i.Data, ",", "\x00"))
	}
	if s.mask&wantSupported != 0 {
		s.got |= wantSupported
		le.PutUint64(s.b[144:], supported)
	}
}

// attrsOf are a mount's flags as MOUNT_ATTR_….
func attrsOf(f vfs.MountFlags) (attr uint64) {
	for _, b := range attrBits {
		if f&b.flag != 0 {
			attr |= b.attr
		}
	}
	switch {
	case f&unix.MS_NOATIME != 0:
		attr |= attrNoAtime
	case f&unix.MS_RELATIME == 0:
		attr |= attrStrictAtime
	}
	return attr
}

func listmount(t *kernel.Task, a *Args) (uintptr, error) {
	const reverse, most = 1, 1000000
	const root = ^uint64(0) // LSMT_ROOT
	if a.Uint32(3)&^reverse != 0 {
		return 0, unix.EINVAL
	}
	n := a.Size(2)
	if n > most {
		return 0, unix.EOVERFLOW
	}
	r, err := inMountRequest(t, a.Addr(0))
	if err != nil {
		return 0, err
	}
	if r.param != 0 && r.param <= 1<<31 {
		return 0, unix.EINVAL
	}
	ns := t.FS().Namespace()
	var ids []uint64
	if r.id == root {
		for _, i := range ns.Mounts(t.FS().Root()) {
			ids = append(ids, i.Unique)
		}
	} else {
		m := ns.Find(r.id)
		if m == nil {
			return 0, unix.ENOENT
		}
		ids = m.Below()
	}
	backward := a.Uint32(3)&reverse != 0
	if backward {
		slices.Reverse(ids)
	}
	var b []byte
	count := uint64(0)
	for _, id := range ids {
		if r.param != 0 && (!backward && id <= r.param || backward && id >= r.param) {
			continue
		}
		if count == n {
			break
		}
		b = le.AppendUint64(b, id)
		count++
	}
	if count == 0 {
		return 0, nil
	}
	return uintptr(count), out(t, a.Addr(1), b)
}

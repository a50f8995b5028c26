package gofer

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// IDs say under which numbers the owners of an attachment's files go in the container, as
// user namespaces and id-mapped mounts have it (Documentation/filesystems/idmappings.rst).
// An id of the disk is first what the mount makes of it, on the host, and then what the
// container's user namespace makes of that. The Sentry's own namespaces are all below: its
// first is the container's. What has no number is nobody's (vfs.ExpectUnnamed), and cannot
// be given to a file.
type IDs struct{ UIDs, GIDs IDMaps }

// IDMaps are both steps for users or groups; nil changes nothing. First in Mount is the
// disk's id and Base the host's, in User it is the container's and Base the host's.
type IDMaps struct{ Mount, User *vfs.IDMap }

// noID is an id without a number.
const noID = ^uint32(0)

// shown is an id of the disk as the container has it.
func (m *IDMaps) shown(id uint32) uint32 {
	ok := true
	if m.Mount != nil {
		id, ok = m.Mount.In(id)
	}
	if ok && m.User != nil {
		id, ok = m.User.Out(id)
	}
	if !ok {
		return noID
	}
	return id
}

// kept is the disk's id for one of the container's. EINVAL: the user namespace has no such
// id; EOVERFLOW: the mount has none for it.
func (m *IDMaps) kept(id uint32) (uint32, error) {
	ok := true
	if m.User != nil {
		if id, ok = m.User.In(id); !ok {
			return 0, unix.EINVAL
		}
	}
	if m.Mount != nil {
		if id, ok = m.Mount.Out(id); !ok {
			return 0, unix.EOVERFLOW
		}
	}
	return id, nil
}

// MapIDs is said once, before the file system is used.
func (f *FS) MapIDs(ids IDs) {
	f.ids = &ids
	vfs.ExpectUnnamed()
}

// shownIDs and keptIDs are both of a file's. EOVERFLOW: a new one cannot have them.
func (f *FS) shownIDs(uid, gid uint32) (uint32, uint32) {
	if f.ids == nil {
		return uid, gid
	}
	return f.ids.UIDs.shown(uid), f.ids.GIDs.shown(gid)
}

func (f *FS) keptIDs(uid, gid uint32) (uint32, uint32, error) {
	if f.ids == nil {
		return uid, gid, nil
	}
	u, err := f.ids.UIDs.kept(uid)
	g, err2 := f.ids.GIDs.kept(gid)
	if err != nil || err2 != nil {
		return 0, 0, unix.EOVERFLOW // fs/namei.c, may_create
	}
	return u, g, nil
}

// fileCaps is the attribute in which a file's capabilities stand, in revision 2 those of the
// host's root, in revision 3 those of the root that it names (include/uapi/linux/capability.h).
const (
	fileCaps     = "security.capability"
	fileCapsRev2 = 0x02000000
	fileCapsRev3 = 0x03000000
	fileCapsRev  = 0xff000000
)

// ownerOf divides capabilities of revision 2 or 3 into what they are and whose.
func ownerOf(b []byte) (caps []byte, owner uint32, ok bool) {
	if len(b) != 20 && len(b) != 24 {
		return nil, 0, false
	}
	if len(b) == 24 {
		owner = binary.LittleEndian.Uint32(b[20:])
	}
	return b[:20], owner, true
}

// withOwner puts them together; root's own need no owner.
func withOwner(caps []byte, owner uint32) []byte {
	le := binary.LittleEndian
	flags := le.Uint32(caps) &^ fileCapsRev
	if owner == 0 {
		return append(le.AppendUint32(nil, flags|fileCapsRev2), caps[4:]...)
	}
	b := append(le.AppendUint32(nil, flags|fileCapsRev3), caps[4:]...)
	return le.AppendUint32(b, owner)
}

// shownCaps are a file's capabilities as the container has them: those of the host's root
// are nobody's inside a user namespace.
func (f *FS) shownCaps(b []byte) []byte {
	caps, owner, ok := ownerOf(b)
	if f.ids == nil || !ok {
		return b
	}
	return withOwner(caps, f.ids.UIDs.shown(owner))
}

// keptCaps are they as the disk has them: root inside gives no capabilities outside. EINVAL:
// their owner has no number there.
func (f *FS) keptCaps(b []byte) ([]byte, error) {
	caps, owner, ok := ownerOf(b)
	if f.ids == nil || !ok {
		return b, nil
	}
	owner, err := f.ids.UIDs.kept(owner)
	if err != nil {
		return nil, unix.EINVAL
	}
	return withOwner(caps, owner), nil
}

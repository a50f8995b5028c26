package loader

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// Secure bits that execve looks at (capabilities(7)).
const (
	noRoot   = 1 << 0
	keepCaps = 1 << 4
)

// privileges are the credentials after execve: set-user-ID and set-group-ID bits,
// the file's capabilities, root's and ambient ones (security/commoncap.c,
// cap_bprm_creds_from_file). EPERM: the file's capabilities are more than the
// bounding set has, and the program cannot do without. EINVAL: the attribute is
// no such thing.
func privileges(ctx vfs.Context, f file, traced bool) (_ *vfs.Creds, secure bool, err error) {
	old := ctx.Creds()
	c := *old
	setIDs(&c, old, f)
	caps, err := capsOf(ctx, f)
	if err != nil {
		return nil, false, err
	}
	c.Permitted = old.Bounding&caps.permitted | old.Inheritable&caps.inheritable
	if caps.effective && caps.permitted&^c.Permitted != 0 {
		return nil, false, unix.EPERM
	}
	root, _ := old.User.UIDs().In(0)
	effective := caps.effective
	// A set-user-ID root program with capabilities has no more than those, whoever
	// else than root runs it (handle_privileged_root).
	mixed := caps.any && c.UID != root && c.EUID == root
	if old.SecureBits&noRoot == 0 && !mixed {
		if c.EUID == root || c.UID == root {
			c.Permitted = old.Bounding | old.Inheritable
		}
		effective = effective || c.EUID == root
	}
	changed := c.EUID != old.UID || c.EGID != old.GID
	if (changed || c.Permitted&^old.Permitted != 0) && (old.NoNewPrivs || traced) {
		if !old.HasIn(old.User, unix.CAP_SETUID) || old.NoNewPrivs {
			c.EUID, c.EGID = c.UID, c.GID
		}
		c.Permitted &= old.Permitted
	}
	c.SUID, c.FSUID, c.SGID, c.FSGID = c.EUID, c.EUID, c.EGID, c.EGID
	if caps.any || changed {
		c.Ambient = 0
	}
	c.Permitted |= c.Ambient
	c.Effective = c.Ambient
	if effective {
		c.Effective = c.Permitted
	}
	c.SecureBits &^= keepCaps
	secure = changed || c.UID != root && (effective || c.Permitted&^c.Ambient != 0)
	return &c, secure, nil
}

// setIDs is fs/exec.c, bprm_fill_uid.
func setIDs(c, old *vfs.Creds, f file) {
	if f.d.Path().Mount.NoSetID(old) || old.NoNewPrivs {
		return
	}
	// An owner without a name in the program's user namespace gives nothing.
	if _, ok := old.User.UIDs().Out(f.attr.UID); !ok {
		return
	}
	if _, ok := old.User.GIDs().Out(f.attr.GID); !ok {
		return
	}
	if f.attr.Mode&unix.S_ISUID != 0 {
		c.EUID = f.attr.UID
	}
	if f.attr.Mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP {
		c.EGID = f.attr.GID
	}
}

// fileCaps are a file's capabilities.
type fileCaps struct {
	permitted, inheritable uint64
	effective, any         bool
}

// capsOf reads what counts for who executes f; a mount without set-user-ID has none.
func capsOf(ctx vfs.Context, f file) (fileCaps, error) {
	p := f.d.Path()
	x, ok := p.Inode().(vfs.Xattrs)
	if !ok || p.Mount.NoSetID(ctx.Creds()) {
		return fileCaps{}, nil
	}
	b, err := x.GetXattr(ctx, "security.capability")
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return fileCaps{}, nil
	}
	if err != nil {
		return fileCaps{}, err
	}
	caps, owner, err := parseFileCaps(b)
	if err != nil || !ctx.Creds().User.Owns(owner) {
		return fileCaps{}, err
	}
	return caps, nil
}

// parseFileCaps takes a struct vfs_cap_data or vfs_ns_cap_data apart
// (include/uapi/linux/capability.h); owner is the root that the latter is for.
// EINVAL: it is neither.
func parseFileCaps(b []byte) (caps fileCaps, owner uint32, err error) {
	const revision1, revision2, revision3, effective = 0x01000000, 0x02000000, 0x03000000, 1
	const all = 1<<(unix.CAP_LAST_CAP+1) - 1
	if len(b) < 4 {
		return fileCaps{}, 0, unix.EINVAL
	}
	le := binary.LittleEndian
	magic := le.Uint32(b)
	words := 2
	switch revision := magic & 0xff000000; {
	case revision == revision1 && len(b) == 12:
		words = 1
	case revision == revision2 && len(b) == 20:
	case revision == revision3 && len(b) == 24:
		owner = le.Uint32(b[20:])
	default:
		return fileCaps{}, 0, unix.EINVAL
	}
	for i := range words {
		caps.permitted |= uint64(le.Uint32(b[4+8*i:])) << (32 * i)
		caps.inheritable |= uint64(le.Uint32(b[8+8*i:])) << (32 * i)
	}
	caps.permitted &= all
	caps.inheritable &= all
	caps.effective, caps.any = magic&effective != 0, true
	return caps, owner, nil
}

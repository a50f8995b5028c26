package vfs

import (
	"encoding/binary"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of extended attributes (include/uapi/linux/limits.h).
const (
	maxXattrName  = 255
	maxXattrValue = 65536
)

// fileCaps is a struct vfs_cap_data or vfs_ns_cap_data (include/uapi/linux/capability.h):
// a word of revision and flags, two of permitted and two of inheritable capabilities; of
// revision 3 also the user whom the capabilities need as root, in the first namespace's ids.
const (
	fileCaps      = "security.capability"
	fileCapsRev2  = 0x02000000
	fileCapsRev3  = 0x03000000
	fileCapsMask  = 0xff000000
	fileCapsFlags = 1 // effective
)

// xattrs returns the attributes of p if name may be used there
// (fs/xattr.c, xattr_permission).
func xattrs(ctx Context, p Path, name string, want Access) (_ Xattrs, err error) {
	if name == "" || len(name) > maxXattrName {
		return nil, unix.ERANGE
	}
	x, ok := p.Inode().(Xattrs)
	if !ok || name == "system.posix_acl_access" || name == "system.posix_acl_default" {
		return nil, unix.EOPNOTSUPP
	}
	a, err := p.Inode().Attr(ctx)
	if err != nil {
		return nil, err
	}
	c := ctx.Creds()
	refusal := unix.EPERM
	if want == MayRead {
		refusal = unix.ENODATA
	}
	space, rest, dot := strings.Cut(name, ".")
	if !dot {
		space = "" // what has no dot is in no space
	}
	if dot && rest == "" {
		defer func() { // only now xattr_resolve_name finds the name too short
			if err == nil {
				err = unix.EINVAL
			}
		}()
	}
	switch {
	case space == "trusted":
		if !c.Has(unix.CAP_SYS_ADMIN) {
			return nil, refusal
		}
		return x, nil
	case space == "security":
		may := want != MayWrite
		if name == fileCaps {
			may = may || c.HasOver(a.UID, a.GID, unix.CAP_SETFCAP)
		} else {
			may = may || c.Has(unix.CAP_SYS_ADMIN)
		}
		if !may {
			return nil, unix.EPERM
		}
		return x, nil
	case space == "user":
		if t := a.Type(); t != unix.S_IFREG && t != unix.S_IFDIR {
			return nil, refusal
		}
		if want == MayWrite && a.Type() == unix.S_IFDIR && a.Mode&unix.S_ISVTX != 0 && !owns(c, &a) {
			return nil, unix.EPERM
		}
		return x, p.Dentry.allowed(ctx, &a, want)
	}
	if err := p.Dentry.allowed(ctx, &a, want); err != nil {
		return nil, err
	}
	return nil, unix.EOPNOTSUPP
}

// Getxattr is getxattr(2).
func Getxattr(ctx Context, p Path, name string) ([]byte, error) {
	x, err := xattrs(ctx, p, name, MayRead)
	if err != nil {
		return nil, err
	}
	b, err := x.GetXattr(ctx, name)
	if err == nil && name == fileCaps {
		return shownFileCaps(ctx.Creds().User, b)
	}
	return b, err
}

// shownFileCaps is how a program in ns sees a file's capabilities: those of its own
// root without an owner, those of another's with its number here. EOVERFLOW: that has
// none (security/commoncap.c, cap_inode_getsecurity).
func shownFileCaps(ns *UserNamespace, b []byte) ([]byte, error) {
	if !isFileCaps(b) {
		return nil, unix.EINVAL
	}
	le := binary.LittleEndian
	owner := uint32(0)
	if len(b) == 24 {
		owner = le.Uint32(b[20:])
	}
	magic := le.Uint32(b) & fileCapsFlags
	if here, ok := ns.UIDs().Out(owner); ok && here != 0 {
		b = append(le.AppendUint32(nil, magic|fileCapsRev3), b[4:20]...)
		return le.AppendUint32(b, here), nil
	}
	if !ns.Owns(owner) {
		return nil, unix.EOVERFLOW
	}
	return append(le.AppendUint32(nil, magic|fileCapsRev2), b[4:20]...), nil
}

// Setxattr is setxattr(2); flags are XATTR_CREATE or XATTR_REPLACE.
func Setxattr(ctx Context, p Path, name string, value []byte, flags int) error {
	if flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0 {
		return unix.EINVAL
	}
	if len(value) > maxXattrValue {
		return unix.E2BIG
	}
	if name == fileCaps && !isFileCaps(value) {
		return unix.EINVAL
	}
	return changeXattr(ctx, p, name, func(x Xattrs) error {
		if name == fileCaps {
			var err error
			if value, err = keptFileCaps(ctx.Creds(), value); err != nil {
				return err
			}
		}
		return x.SetXattr(ctx, name, value, flags)
	})
}

// isFileCaps checks the shape.
func isFileCaps(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	revision := binary.LittleEndian.Uint32(b) & fileCapsMask
	return len(b) == 20 && revision == fileCapsRev2 || len(b) == 24 && revision == fileCapsRev3
}

// keptFileCaps is what stays of capabilities that c gives a file: who has CAP_SETFCAP in
// the first namespace may give some that need no owner; those of all others count only
// where the root that they name, or the writer's own, is root. EINVAL: it has no number
// (security/commoncap.c, cap_convert_nscap).
func keptFileCaps(c *Creds, b []byte) ([]byte, error) {
	le := binary.LittleEndian
	root := uint32(0)
	switch {
	case len(b) == 24:
		root = le.Uint32(b[20:])
	case c.Has(unix.CAP_SETFCAP):
		return b, nil
	}
	owner, ok := c.User.UIDs().In(root)
	if !ok {
		return nil, unix.EINVAL
	}
	magic := le.Uint32(b) & fileCapsFlags
	kept := append(le.AppendUint32(nil, magic|fileCapsRev3), b[4:20]...)
	return le.AppendUint32(kept, owner), nil
}

// Removexattr is removexattr(2).
func Removexattr(ctx Context, p Path, name string) error {
	return changeXattr(ctx, p, name, func(x Xattrs) error { return x.RemoveXattr(ctx, name) })
}

func changeXattr(ctx Context, p Path, name string, change func(Xattrs) error) error {
	if p.Mount.ReadOnly() {
		return unix.EROFS
	}
	x, err := xattrs(ctx, p, name, MayWrite)
	if err != nil {
		return err
	}
	if err := change(x); err != nil {
		return err
	}
	tellAt(p, unix.IN_ATTRIB)
	return nil
}

// Listxattr is listxattr(2).
func Listxattr(ctx Context, p Path) ([]string, error) {
	x, ok := p.Inode().(Xattrs)
	if !ok {
		return nil, nil
	}
	names, err := x.ListXattr(ctx)
	if !ctx.Creds().Has(unix.CAP_SYS_ADMIN) {
		names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "trusted.") })
	}
	return names, err
}

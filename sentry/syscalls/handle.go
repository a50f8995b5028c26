package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/vfs"
)

func handleCalls() []row {
	return []row{
		{unix.SYS_NAME_TO_HANDLE_AT, nameToHandleAt, Partial, "tmpfs and the host's files; the last 4096 handles of each"},
		{unix.SYS_OPEN_BY_HANDLE_AT, openByHandleAt, Partial, "see name_to_handle_at"},
	}
}

// A handle has the file's number and a mark (struct file_handle, f_handle).
const (
	handleSize = 12
	handleType = 1 // FILEID_INO32_GEN
	maxHandle  = 128
)

func nameToHandleAt(t *kernel.Task, a *Args) (uintptr, error) {
	const fid, unique, connectable = 0x200, 1, 2
	flags := a.Int(4)
	if flags&^(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH|fid|unique|connectable) != 0 || flags&fid != 0 && flags&connectable != 0 {
		return 0, unix.EINVAL
	}
	p, err := lookup(t, a.Int(0), a.Addr(1), flags&(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH), false)
	if err != nil {
		return 0, err
	}
	handle, err := vfs.HandleOf(t, p)
	if err != nil {
		return 0, err
	}
	room, err := in32(t, a.Addr(2))
	if err != nil {
		return 0, err
	}
	if room > maxHandle {
		return 0, unix.EINVAL
	}
	b := le.AppendUint32(nil, handleSize)
	if room < handleSize {
		b = le.AppendUint32(b, 0xff) // FILEID_INVALID
		err = unix.EOVERFLOW
	} else {
		b = le.AppendUint32(b, handleType)
		b = le.AppendUint64(b, handle)
		b = le.AppendUint32(b, 0)
	}
	if e := out(t, a.Addr(2), b); e != nil {
		return 0, e
	}
	id := le.AppendUint32(nil, uint32(p.Mount.ID()))
	if flags&unique != 0 {
		id = le.AppendUint64(nil, p.Mount.UniqueID())
	}
	if e := out(t, a.Addr(3), id); e != nil {
		return 0, e
	}
	return 0, err
}

func openByHandleAt(t *kernel.Task, a *Args) (uintptr, error) {
	if !t.Creds().Has(unix.CAP_DAC_READ_SEARCH) {
		return 0, unix.EPERM
	}
	m, err := mountOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	size, err := in32(t, a.Addr(1))
	if err != nil {
		return 0, err
	}
	if size == 0 || size > maxHandle {
		return 0, unix.EINVAL
	}
	b := make([]byte, 4+size)
	if err := in(t, a.Addr(1)+4, b); err != nil {
		return 0, err
	}
	if size < handleSize || le.Uint32(b) != handleType {
		return 0, unix.ESTALE
	}
	p, err := m.ByHandle(le.Uint64(b[4:]))
	if err != nil {
		return 0, err
	}
	d, err := vfs.OpenPath(t, p, a.Int(2)&^unix.O_CLOEXEC)
	if err != nil {
		return 0, err
	}
	return installNew(t, d, a.Int(2)&unix.O_CLOEXEC != 0)
}

// mountOf is the mount that a descriptor is open on.
func mountOf(t *kernel.Task, fd int) (*vfs.Mount, error) {
	if fd == unix.AT_FDCWD {
		return t.FS().Cwd().Mount, nil
	}
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	return d.Path().Mount, nil
}

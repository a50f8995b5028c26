package tmpfs

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/vfs"
)

// seals are those that fcntl(F_ADD_SEALS) knows.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_FUTURE_WRITE | sealExec

// sealExec is F_SEAL_EXEC (include/uapi/linux/fcntl.h).
const sealExec = 0x20

// Memfd is memfd_create(2): an open file without a name. Cloexec is the
// descriptor's business.
func (fs *FileSystem) Memfd(ctx vfs.Context, name string, flags int) (*vfs.Description, error) {
	const known = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING | unix.MFD_NOEXEC_SEAL | unix.MFD_EXEC
	if flags&^known != 0 { // MFD_HUGETLB is not served
		return nil, unix.EINVAL
	}
	const exec = unix.MFD_NOEXEC_SEAL | unix.MFD_EXEC
	if flags&exec == exec || len(name) > 249 {
		return nil, unix.EINVAL
	}
	c := ctx.Creds()
	mode := uint32(unix.S_IFREG | 0o777)
	if flags&unix.MFD_NOEXEC_SEAL != 0 {
		mode = unix.S_IFREG | 0o666
	}
	n, err := fs.make(ctx, vfs.New{Mode: mode, UID: c.FSUID, GID: c.FSGID})
	if err != nil {
		return nil, err
	}
	r := n.(*regular)
	r.attr.Nlink = 0
	if flags&(unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL) != 0 {
		r.seals = 0
	}
	if flags&unix.MFD_NOEXEC_SEAL != 0 {
		r.seals = sealExec
	}
	f, err := r.Open(ctx, vfs.Path{}, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return vfs.NewAnonymousOn(r, f, "/memfd:"+name+" (deleted)", unix.O_RDWR), nil
}

// Sealer is a File that fcntl(F_ADD_SEALS) and F_GET_SEALS work on.
type Sealer interface {
	Seals() (uint32, error)
	AddSeals(s uint32) error
}

// Seals are those set. Any file here answers, with F_SEAL_SEAL if it is no memfd.
func (f *file) Seals() (uint32, error) {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	return f.r.seals, nil
}

// AddSeals implements Sealer (mm/memfd.c, memfd_add_seals).
func (f *file) AddSeals(s uint32) error {
	r := f.r
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !f.writable:
		return unix.EPERM
	case s&^seals != 0:
		return unix.EINVAL
	case r.seals&unix.F_SEAL_SEAL != 0:
		return unix.EPERM
	case s&unix.F_SEAL_WRITE&^r.seals != 0 && r.writers.Load() != 0:
		return unix.EBUSY
	}
	if s&sealExec != 0 && r.attr.Mode&0o111 != 0 {
		s |= unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_FUTURE_WRITE
	}
	r.seals |= s
	return nil
}

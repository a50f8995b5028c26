package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/inotify"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

func watchCalls() []row {
	return []row{
		{unix.SYS_INOTIFY_INIT, inotifyInit, Full, ""},
		{unix.SYS_INOTIFY_INIT1, inotifyInit1, Full, ""},
		{unix.SYS_INOTIFY_ADD_WATCH, inotifyAddWatch, Full, "changes that the host makes are not seen"},
		{unix.SYS_INOTIFY_RM_WATCH, inotifyRmWatch, Full, ""},
		{unix.SYS_PROCESS_VM_READV, processVMReadv, Full, ""},
		{unix.SYS_PROCESS_VM_WRITEV, processVMWritev, Full, ""},
	}
}

func inotifyInit(t *kernel.Task, _ *Args) (uintptr, error) {
	return installNew(t, inotify.New(0), false)
}

func inotifyInit1(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(0)
	if flags&^(unix.IN_CLOEXEC|unix.IN_NONBLOCK) != 0 {
		return 0, unix.EINVAL
	}
	return installNew(t, inotify.New(flags&unix.IN_NONBLOCK), flags&unix.IN_CLOEXEC != 0)
}

func inotifyOf(t *kernel.Task, fd int) (*inotify.Instance, *vfs.Description, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, nil, err
	}
	f, ok := d.File().(*inotify.Instance)
	if !ok {
		d.Unref()
		return nil, nil, unix.EINVAL
	}
	return f, d, nil
}

func inotifyAddWatch(t *kernel.Task, a *Args) (uintptr, error) {
	const known = unix.IN_ALL_EVENTS | unix.IN_UNMOUNT | unix.IN_Q_OVERFLOW | unix.IN_IGNORED | unix.IN_ONLYDIR |
		unix.IN_DONT_FOLLOW | unix.IN_EXCL_UNLINK | unix.IN_MASK_CREATE | unix.IN_MASK_ADD | unix.IN_ISDIR | unix.IN_ONESHOT
	mask := a.Uint32(2)
	// A bit that is known to no other use is enough, were it one that only the kernel sets.
	if mask&known == 0 || mask&unix.IN_MASK_ADD != 0 && mask&unix.IN_MASK_CREATE != 0 {
		return 0, unix.EINVAL
	}
	f, d, err := inotifyOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	s, name, err := at(t, cwd, a.Addr(1))
	if err != nil {
		return 0, err
	}
	var flags vfs.ResolveFlags
	if mask&unix.IN_DONT_FOLLOW != 0 {
		flags |= vfs.ResolveNoFollow
	}
	if mask&unix.IN_ONLYDIR != 0 {
		flags |= vfs.ResolveDirectory
	}
	p, err := vfs.Resolve(t, s, name, flags)
	if err != nil {
		return 0, err
	}
	wd, err := f.Add(t, p, mask)
	return uintptr(wd), err
}

func inotifyRmWatch(t *kernel.Task, a *Args) (uintptr, error) {
	f, d, err := inotifyOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	return 0, f.Remove(a.Int(1))
}

func processVMReadv(t *kernel.Task, a *Args) (uintptr, error)  { return processVM(t, a, false) }
func processVMWritev(t *kernel.Task, a *Args) (uintptr, error) { return processVM(t, a, true) }

// processVM copies between the caller's memory and another process's.
func processVM(t *kernel.Task, a *Args, write bool) (uintptr, error) {
	if a[5] != 0 {
		return 0, unix.EINVAL
	}
	local, err := inIovec(t, a.Addr(1), a.Size(2))
	if err != nil {
		return 0, err
	}
	remote, err := inIovec(t, a.Addr(3), a.Size(4))
	if err != nil {
		return 0, err
	}
	x := t.Find(int32(a.Int(0)))
	if x == nil {
		return 0, unix.ESRCH
	}
	if err := mayInspect(t, x); err != nil {
		return 0, err
	}
	_, _, mm := x.Look()
	if mm == nil || len(local) == 0 || len(remote) == 0 {
		return 0, nil
	}
	access := platform.Write
	if write {
		access = platform.Read
	}
	mine, release, err := pinPieces(t, local, access)
	if err != nil {
		return 0, err
	}
	defer release()
	done := 0
	buf := make([]byte, 64<<10)
	for _, p := range remote {
		for off := uint64(0); off < p.n && done < mine.Len(); {
			n := int(min(p.n-off, uint64(len(buf)), uint64(mine.Len()-done)))
			m, err := 0, error(nil)
			at := p.at + memory.Addr(off)
			if write {
				mine.Skip(done).CopyIn(buf[:n])
				m, err = mm.Write(at, buf[:n])
			} else if m, err = mm.Read(at, buf[:n]); m > 0 {
				mm.Original(at, buf[:m])
				m = mine.Skip(done).CopyOut(buf[:m])
			}
			done += m
			off += uint64(m)
			if err != nil || m < n {
				return partial(uint64(done), unix.EFAULT)
			}
		}
	}
	return uintptr(done), nil
}

package syscalls

import (
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/uring"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/loader"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/platform"
	"bulkhead/sentry/vfs"
)

const (
	pageSize = memory.PageSize
	taskSize = platform.TaskSize
)

func memoryCalls() []row {
	return []row{
		{unix.SYS_BRK, brk, Full, ""},
		{unix.SYS_MMAP, mmap, Partial, "MAP_HUGETLB takes ordinary pages"},
		{unix.SYS_MUNMAP, munmap, Full, ""},
		{unix.SYS_MPROTECT, mprotect, Full, ""},
		{unix.SYS_MREMAP, mremap, Full, ""},
		{unix.SYS_MADVISE, madvise, Full, ""},
		{unix.SYS_MSYNC, msync, Full, ""},
		{unix.SYS_MINCORE, mincore, Full, ""},
		{unix.SYS_MLOCK, mlock, Full, "accounting only: the Sentry does not swap"},
		{unix.SYS_MUNLOCK, munlock, Full, ""},
		{unix.SYS_MLOCK2, mlock2, Full, "accounting only"},
		{unix.SYS_MLOCKALL, mlockall, Full, "accounting only"},
		{unix.SYS_MUNLOCKALL, munlockall, Full, ""},
		{unix.SYS_MEMBARRIER, membarrier, Full, ""},
	}
}

// legacyMap are the flags that MAP_SHARED_VALIDATE takes (include/linux/mman.h,
// LEGACY_MAP_MASK): all that there were before it.
const legacyMap = 0xf | unix.MAP_FIXED | unix.MAP_ANONYMOUS | unix.MAP_DENYWRITE | unix.MAP_EXECUTABLE | unix.MAP_GROWSDOWN |
	unix.MAP_LOCKED | unix.MAP_NORESERVE | unix.MAP_POPULATE | unix.MAP_NONBLOCK | unix.MAP_STACK | unix.MAP_HUGETLB |
	unix.MAP_32BIT | 0x80 /* MAP_ABOVE4G */ | 0x3f<<26 /* sizes of huge pages */

func brk(t *kernel.Task, a *Args) (uintptr, error) { return uintptr(t.MM().Brk(a.Addr(0))), nil }

// access turns PROT_ bits into what a page allows. x86 has no write-only pages.
func access(prot int) platform.Access {
	var p platform.Access
	if prot&unix.PROT_READ != 0 {
		p |= platform.Read
	}
	if prot&unix.PROT_WRITE != 0 {
		p |= platform.Write | platform.Read
	}
	if prot&unix.PROT_EXEC != 0 {
		p |= platform.Exec | platform.Read
	}
	return p
}

func mmap(t *kernel.Task, a *Args) (uintptr, error) {
	prot, flags, off := a.Int(2), a.Int(3), a[5]
	kind := flags & 0xf // MAP_TYPE
	shared := kind == unix.MAP_SHARED || kind == unix.MAP_SHARED_VALIDATE
	anonymous := flags&unix.MAP_ANONYMOUS != 0
	var d *vfs.Description
	if off%pageSize != 0 {
		return 0, unix.EINVAL
	}
	if !anonymous {
		var err error
		if d, err = t.FDs().Get(a.Int(4)); err != nil {
			return 0, err
		}
		defer d.Unref()
		if d.Flags()&unix.O_PATH != 0 {
			return 0, unix.EBADF
		}
	}
	bound, limit := lockBound(t)
	switch {
	case a.Size(1) == 0, !shared && kind != unix.MAP_PRIVATE:
		return 0, unix.EINVAL
	case kind == unix.MAP_SHARED_VALIDATE && anonymous, flags&unix.MAP_GROWSDOWN != 0 && (shared || !anonymous):
		return 0, unix.EINVAL
	case kind == unix.MAP_SHARED_VALIDATE && flags&^legacyMap != 0:
		return 0, unix.EOPNOTSUPP
	case flags&unix.MAP_LOCKED != 0 && bound && limit == 0:
		return 0, unix.EPERM
	}
	const readImpliesExec = 0x0400000
	if prot&unix.PROT_READ != 0 && t.Personality.Load()&readImpliesExec != 0 {
		prot |= unix.PROT_EXEC
	}
	r := memory.MapRequest{
		At: a.Addr(0), Length: a.Size(1), Offset: off, Shared: shared,
		Prot: access(prot), MaxProt: platform.Read | platform.Write | platform.Exec,
		Fixed: flags&(unix.MAP_FIXED|unix.MAP_FIXED_NOREPLACE) != 0, NoReplace: flags&unix.MAP_FIXED_NOREPLACE != 0,
		GrowsDown: flags&unix.MAP_GROWSDOWN != 0, Populate: flags&unix.MAP_POPULATE != 0 && flags&unix.MAP_NONBLOCK == 0,
		LockBound: bound, LockLimit: limit, Locked: flags&unix.MAP_LOCKED != 0, Noreserve: flags&unix.MAP_NORESERVE != 0, Low32: flags&unix.MAP_32BIT != 0,
	}
	if anonymous {
		r.Offset = 0
		if shared {
			o := memory.NewObject(t.Arena())
			if err := o.Truncate((a.Size(1) + pageSize - 1) &^ (pageSize - 1)); err != nil {
				return 0, err
			}
			r.Object = o
			r.Name = "/dev/zero (deleted)"
			at, err := t.MM().Map(r)
			o.Unref()
			return uintptr(at), err
		}
		at, err := t.MM().Map(r)
		return uintptr(at), err
	}
	if err := mapFile(t, d, prot, &r); err != nil {
		return 0, err
	}
	at, err := t.MM().Map(r)
	return uintptr(at), err
}

// mapFile completes r for a mapping of d, with the checks of mm/mmap.c, do_mmap.
func mapFile(t *kernel.Task, d *vfs.Description, prot int, r *memory.MapRequest) error {
	if !d.Readable() {
		return unix.EACCES
	}
	if r.Shared && !d.Writable() {
		if prot&unix.PROT_WRITE != 0 {
			return unix.EACCES
		}
		r.MaxProt &^= platform.Write
	}
	if noexec(t, d) {
		if prot&unix.PROT_EXEC != 0 {
			return unix.EPERM
		}
		r.MaxProt &^= platform.Exec
	}
	if _, ok := d.File().(vfs.Mapper); !ok {
		return unix.ENODEV
	}
	if r.Offset+r.Length < r.Offset {
		return unix.EOVERFLOW
	}
	if f, ok := d.File().(*uring.Ring); ok {
		if err := loader.MapFile(t, d, r); err != nil {
			return err
		}
		off, err := f.MapOffset(r.Offset)
		r.Offset = off
		return err
	}
	return loader.MapFile(t, d, r)
}

var neverRun = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.ANON_INODE_FS_MAGIC, unix.SOCKFS_MAGIC, unix.PIPEFS_MAGIC, unix.NSFS_MAGIC, unix.PID_FS_MAGIC}

// noexec is path_noexec: on a mount that says so, or on one of the kernel's own file
// systems (sockets, anonymous inodes, proc), which do (SB_I_NOEXEC).
func noexec(t *kernel.Task, d *vfs.Description) bool {
	p := d.Path()
	if !p.Ok() {
		_, maps := d.File().(vfs.Mapper)
		return !maps
	}
	if p.Mount.Flags()&unix.MS_NOEXEC != 0 {
		return true
	}
	st, err := vfs.Statfs(t, p)
	return err == nil && slices.Contains(neverRun, int64(st.Type))
}

func munmap(t *kernel.Task, a *Args) (uintptr, error) { return 0, t.MM().Unmap(a.Addr(0), a.Size(1)) }

func mprotect(t *kernel.Task, a *Args) (uintptr, error) {
	const grows = unix.PROT_GROWSDOWN | unix.PROT_GROWSUP
	prot := a.Int(2)
	if prot&^(unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC|grows|8 /* PROT_SEM */) != 0 || prot&grows == grows {
		return 0, unix.EINVAL
	}
	switch {
	case prot&unix.PROT_GROWSUP != 0 && a[1] != 0:
		return 0, unix.EINVAL // no stack grows up on x86
	case prot&unix.PROT_GROWSDOWN != 0:
		return 0, t.MM().ProtectStack(a.Addr(0), a.Size(1), access(prot))
	}
	return 0, t.MM().Protect(a.Addr(0), a.Size(1), access(prot))
}

func mremap(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(3)
	may, fixed, keep := flags&unix.MREMAP_MAYMOVE != 0, flags&unix.MREMAP_FIXED != 0, flags&unix.MREMAP_DONTUNMAP != 0
	if flags&^(unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED|unix.MREMAP_DONTUNMAP) != 0 || (fixed || keep) && !may {
		return 0, unix.EINVAL
	}
	at, err := t.MM().Remap(a.Addr(0), a.Size(1), a.Size(2), may, fixed, keep, a.Addr(4))
	return uintptr(at), err
}

func madvise(t *kernel.Task, a *Args) (uintptr, error) {
	return 0, t.MM().Advise(a.Addr(0), a.Size(1), a.Int(2))
}

func msync(t *kernel.Task, a *Args) (uintptr, error) {
	return 0, t.MM().Sync(a.Addr(0), a.Size(1), a.Int(2))
}

func mincore(t *kernel.Task, a *Args) (uintptr, error) {
	vec, err := t.MM().Mincore(a.Addr(0), a.Size(1))
	if err != nil {
		return 0, err
	}
	return 0, out(t, a.Addr(2), vec)
}

func mlock(t *kernel.Task, a *Args) (uintptr, error)   { return lock(t, a.Addr(0), a.Size(1)) }
func munlock(t *kernel.Task, a *Args) (uintptr, error) { return 0, t.MM().Unlock(a.Addr(0), a.Size(1)) }

func mlock2(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(2)&^1 != 0 { // MLOCK_ONFAULT
		return 0, unix.EINVAL
	}
	return lock(t, a.Addr(0), a.Size(1))
}

// lockBound says whether RLIMIT_MEMLOCK holds for t, and what it is.
func lockBound(t *kernel.Task) (bound bool, limit uint64) {
	if t.Creds().Has(unix.CAP_IPC_LOCK) {
		return false, math.MaxUint64
	}
	return true, t.Limit(unix.RLIMIT_MEMLOCK)
}

func lock(t *kernel.Task, at memory.Addr, n uint64) (uintptr, error) {
	_, limit := lockBound(t)
	if limit == 0 {
		return 0, unix.EPERM
	}
	return 0, t.MM().Lock(at, n, limit)
}

func mlockall(t *kernel.Task, a *Args) (uintptr, error) {
	flags := a.Int(0)
	if flags == 0 || flags&^(unix.MCL_CURRENT|unix.MCL_FUTURE|unix.MCL_ONFAULT) != 0 || flags == unix.MCL_ONFAULT {
		return 0, unix.EINVAL
	}
	_, limit := lockBound(t)
	if limit == 0 {
		return 0, unix.EPERM
	}
	return 0, t.MM().LockAll(flags&unix.MCL_CURRENT != 0, flags&unix.MCL_FUTURE != 0, limit)
}

func munlockall(t *kernel.Task, _ *Args) (uintptr, error) {
	t.MM().UnlockAll()
	return 0, nil
}

// membarrier commands (include/uapi/linux/membarrier.h). Every system call of
// ours passes through locked instructions on the caller's side; the other
// threads are interrupted for the expedited commands.
const (
	membarrierQuery        = 0
	membarrierGlobal       = 1 << 0
	membarrierGlobalExp    = 1 << 1
	membarrierRegGlobalExp = 1 << 2
	membarrierPrivateExp   = 1 << 3
	membarrierRegPrivate   = 1 << 4
	membarrierSync         = 1 << 5
	membarrierRegSync      = 1 << 6
	membarrierRegistered   = 1 << 9
)

func membarrier(t *kernel.Task, a *Args) (uintptr, error) {
	const supported = membarrierGlobal | membarrierGlobalExp | membarrierRegGlobalExp | membarrierPrivateExp |
		membarrierRegPrivate | membarrierSync | membarrierRegSync | membarrierRegistered
	if a.Uint32(1) != 0 {
		return 0, unix.EINVAL
	}
	registered := &t.Group().Membarrier
	switch cmd := a.Int(0); cmd {
	case membarrierQuery:
		return supported, nil
	case membarrierRegistered:
		return uintptr(registered.Load()), nil
	case membarrierRegGlobalExp, membarrierRegPrivate, membarrierRegSync:
		registered.Or(uint32(cmd))
		return 0, nil
	case membarrierPrivateExp, membarrierSync:
		if registered.Load()&uint32(cmd<<1) == 0 {
			return 0, unix.EPERM
		}
		t.Barrier(false)
		return 0, nil
	case membarrierGlobal, membarrierGlobalExp:
		t.Barrier(true)
		return 0, nil
	}
	return 0, unix.EINVAL
}

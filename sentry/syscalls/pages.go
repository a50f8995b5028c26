package syscalls

import (
	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
)

// pageCalls are calls about pages, of one's own or another's process.
func pageCalls() []row {
	return []row{
		{unix.SYS_MSEAL, mseal, Full, ""},
		{unix.SYS_REMAP_FILE_PAGES, remapFilePages, Full, ""},
		{unix.SYS_PKEY_ALLOC, pkeyAlloc, Partial, "ENOSPC, as on a CPU without protection keys"},
		{unix.SYS_PKEY_FREE, refuse(unix.EINVAL), Partial, "none is allocated"},
		{unix.SYS_PKEY_MPROTECT, pkeyMprotect, Partial, "with key -1 it is mprotect; no other is allocated"},
		{unix.SYS_MIGRATE_PAGES, migratePages, Full, "there is one node"},
		{unix.SYS_MOVE_PAGES, movePages, Full, "there is one node"},
		{unix.SYS_SET_MEMPOLICY_HOME_NODE, homeNode, Partial, "accepted: one node"},
		{unix.SYS_CACHESTAT, cachestat, Partial, "nothing is dirty or evicted; of files of the host's no page counts as cached"},
		{unix.SYS_PROCESS_MADVISE, processMadvise, Full, ""},
		{unix.SYS_PROCESS_MRELEASE, processMrelease, Full, "a dying process gives its memory up at once anyway"},
		{unix.SYS_MEMFD_SECRET, refuse(unix.ENOSYS), None, "refused: as a kernel without CONFIG_SECRETMEM"},
		{unix.SYS_MAP_SHADOW_STACK, refuse(unix.ENOSYS), None, "refused: no shadow stacks"},
	}
}

func mseal(t *kernel.Task, a *Args) (uintptr, error) {
	if a[2] != 0 {
		return 0, unix.EINVAL
	}
	return 0, t.MM().Seal(a.Addr(0), a.Size(1))
}

func remapFilePages(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(2) != 0 { // prot
		return 0, unix.EINVAL
	}
	return 0, t.MM().RemapPages(a.Addr(0), a.Size(1), a[3])
}

func pkeyAlloc(_ *kernel.Task, a *Args) (uintptr, error) {
	const rights = 3 // PKEY_DISABLE_ACCESS, PKEY_DISABLE_WRITE
	if a[0] != 0 || a[1]&^rights != 0 {
		return 0, unix.EINVAL
	}
	return 0, unix.ENOSPC
}

func pkeyMprotect(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Int(3) != -1 {
		return 0, unix.EINVAL
	}
	return mprotect(t, a)
}

// nodes reads a mask of NUMA nodes, of which there is number 0.
func nodes(t *kernel.Task, at memory.Addr, n uint64) (uint64, error) {
	const most = 1 << 10 // MAX_NUMNODES
	if at == 0 || n <= 1 {
		return 0, nil
	}
	if n > most*64 {
		return 0, unix.EINVAL
	}
	v, err := in64(t, at)
	if n <= 64 {
		v &= 1<<(n-1) - 1
	}
	return v, err
}

// migrate_pages(2): pages are where they go.
func migratePages(t *kernel.Task, a *Args) (uintptr, error) {
	if _, err := nodes(t, a.Addr(2), a.Size(1)); err != nil {
		return 0, err
	}
	to, err := nodes(t, a.Addr(3), a.Size(1))
	if err != nil {
		return 0, err
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	if err := mayInspect(t, x); err != nil {
		return 0, unix.EPERM
	}
	if to&1 == 0 {
		return 0, unix.EINVAL
	}
	return 0, nil
}

// move_pages(2) tells where pages are, which is node 0 where they are at all.
func movePages(t *kernel.Task, a *Args) (uintptr, error) {
	const move, moveAll = 2, 4
	n, pages, to, status, flags := a.Size(1), a.Addr(2), a.Addr(3), a.Addr(4), a.Uint32(5)
	switch {
	case flags&^(move|moveAll) != 0:
		return 0, unix.EINVAL
	case flags&moveAll != 0 && !t.Creds().Has(unix.CAP_SYS_NICE):
		return 0, unix.EPERM
	case n > 1<<32:
		return 0, unix.E2BIG
	}
	x, err := taskByID(t, int32(a.Int(0)))
	if err != nil {
		return 0, err
	}
	if err := mayInspect(t, x); err != nil {
		return 0, unix.EPERM
	}
	_, _, mm := x.Look()
	if mm == nil {
		return 0, unix.EINVAL
	}
	mm.Retain()
	defer mm.Release()
	for i := range n {
		at, err := in64(t, pages+memory.Addr(8*i))
		if err != nil {
			return 0, err
		}
		if to != 0 {
			node, err := in32(t, to+memory.Addr(4*i))
			if err != nil {
				return 0, err
			}
			if node != 0 {
				return 0, unix.ENODEV
			}
		}
		v := uint32(0)
		if e, ok := mm.Where(memory.Addr(at)).(unix.Errno); ok {
			v = uint32(-int32(e))
		}
		if err := out32(t, status+memory.Addr(4*i), v); err != nil {
			return 0, err
		}
		if t.Interrupted() {
			return 0, kernel.ERESTARTNOINTR
		}
	}
	return 0, nil
}

func homeNode(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Addr(0)%pageSize != 0 || a[2] != 0 || a[3] != 0 || a[0]+a[1] < a[0] {
		return 0, unix.EINVAL
	}
	return 0, nil
}

// cachestat(2) counts pages of a file that are in memory.
func cachestat(t *kernel.Task, a *Args) (uintptr, error) {
	d, err := t.FDs().Get(a.Int(0))
	if err != nil {
		return 0, err
	}
	defer d.Unref()
	r, err := inStruct[[2]uint64](t, a.Addr(1)) // off, len
	if err != nil {
		return 0, err
	}
	if d.Flags()&unix.O_PATH != 0 {
		return 0, unix.EBADF
	}
	if a.Uint32(3) != 0 {
		return 0, unix.EINVAL
	}
	end := r[0] + r[1]
	if r[1] == 0 || end < r[0] {
		end = memory.MaxObject
	}
	var stat [5]uint64 // cache, dirty, writeback, evicted, recently_evicted
	if m, err := d.Mappable(t, memory.MapRequest{Length: pageSize, Prot: access(unix.PROT_READ), Shared: true}); err == nil {
		if o, ok := m.(interface{ Resident(off, n uint64) uint64 }); ok {
			first := r[0] &^ (pageSize - 1)
			stat[0] = o.Resident(first, end-first) / pageSize
		}
	}
	return 0, outStruct(t, a.Addr(2), &stat)
}

// processOf is the process of a pidfd.
func processOf(t *kernel.Task, fd int) (*kernel.ThreadGroup, error) {
	d, err := t.FDs().Get(fd)
	if err != nil {
		return nil, err
	}
	defer d.Unref()
	f, ok := d.File().(*pidfd)
	if !ok {
		return nil, unix.EBADF
	}
	return f.group, nil
}

func processMadvise(t *kernel.Task, a *Args) (uintptr, error) {
	what := a.Int(3)
	if a[4] != 0 {
		return 0, unix.EINVAL
	}
	pieces, err := inIovec(t, a.Addr(1), a.Size(2))
	if err != nil {
		return 0, err
	}
	g, err := processOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	x := g.Leader()
	if g.Dead() {
		return 0, unix.ESRCH
	}
	if g != t.Group() {
		switch what {
		case unix.MADV_COLD, unix.MADV_PAGEOUT, unix.MADV_WILLNEED, unix.MADV_COLLAPSE:
		default:
			return 0, unix.EINVAL
		}
		if err := mayInspect(t, x); err != nil {
			return 0, err
		}
		if !t.Creds().Has(unix.CAP_SYS_NICE) {
			return 0, unix.EPERM
		}
	}
	_, _, mm := x.Look()
	if mm == nil {
		return 0, unix.ESRCH
	}
	mm.Retain()
	defer mm.Release()
	done := uint64(0)
	for _, p := range pieces {
		if err := mm.Advise(p.at, p.n, what); err != nil {
			return partial(done, err)
		}
		done += p.n
	}
	return uintptr(done), nil
}

func processMrelease(t *kernel.Task, a *Args) (uintptr, error) {
	if a.Uint32(1) != 0 {
		return 0, unix.EINVAL
	}
	g, err := processOf(t, a.Int(0))
	if err != nil {
		return 0, err
	}
	switch {
	case g.Dead():
		return 0, unix.ESRCH
	case !g.Exiting():
		return 0, unix.EINVAL
	}
	return 0, nil
}

package ipc

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
)

// Bits of a segment's mode beyond the permissions (include/linux/shm.h).
const (
	ShmDest   = 0o1000 // to go with the last user
	ShmLocked = 0o2000
)

type shmSpace struct {
	mu    sync.Mutex
	ids   ids[*Segment]
	pages uint64 // of all segments
}

// Segment is a piece of System V shared memory. As a memory.Mappable it counts
// who maps it.
type Segment struct {
	*memory.Object
	ns   *Namespace
	size uint64
	name string

	// Under shmSpace.mu.
	p                   Perm
	attached            int // areas that show it
	atime, dtime, ctime int64
	cpid, lpid          int32
	gone                bool // without an id
}

func (s *Segment) perm() *Perm { return &s.p }

// Size is what was asked for, in bytes.
func (s *Segment) Size() uint64 { return s.size }

// Name is what /proc/PID/maps shows. The key is the one that it was made with.
func (s *Segment) Name() string { return s.name }

// ShmGet is shmget(2).
func (ns *Namespace) ShmGet(t Task, key int32, size uint64, flags int) (int, error) {
	limits := ns.Limits()
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	fits := func(s *Segment) error {
		if s.size < size {
			return unix.EINVAL
		}
		return nil
	}
	return getOrMake(&ns.shm.ids, t, key, flags, fits, func() (*Segment, error) {
		if size < 1 || size > limits.ShmMax {
			return nil, unix.EINVAL
		}
		pages := (size-1)/memory.PageSize + 1
		if pages > memory.MaxObject/memory.PageSize || ns.shm.pages+pages > limits.ShmAll || len(ns.shm.ids.at) >= limits.ShmMNI {
			return nil, unix.ENOSPC
		}
		s := &Segment{Object: memory.NewObject(t.Arena()), ns: ns, size: size, name: fmt.Sprintf("/SYSV%08x (deleted)", uint32(key)), p: ns.newPerm(t, key, uint32(flags)),
			ctime: seconds(t), cpid: t.PID()}
		if err := s.Truncate(pages * memory.PageSize); err != nil {
			s.Object.Unref()
			return nil, unix.ENOSPC
		}
		ns.shm.pages += pages
		return s, nil
	})
}

func seconds(t Task) int64 { return t.Now().Sec }

// ShmAttach finds a segment for shmat(2), with a reference that the caller gives
// back by Unref once it is mapped, or is not; Attached counts it as a user
// meanwhile.
func (ns *Namespace) ShmAttach(t Task, id int, want uint32) (*Segment, error) {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	s, err := ns.shm.ids.get(id)
	if err != nil {
		return nil, err
	}
	if err := s.p.allows(t, want); err != nil {
		return nil, err
	}
	s.refLocked()
	return s, nil
}

func (s *Segment) refLocked() {
	s.attached++
	s.Object.Ref()
}

// Ref implements memory.Mappable: an area more shows the segment.
func (s *Segment) Ref() {
	s.ns.shm.mu.Lock()
	defer s.ns.shm.mu.Unlock()
	s.refLocked()
}

// Unref implements memory.Mappable. The last area of a removed segment ends it.
func (s *Segment) Unref() {
	s.ns.shm.mu.Lock()
	s.attached--
	if s.attached == 0 && (s.p.Mode&ShmDest != 0 || s.ns.Limits().RmidForced != 0) {
		s.destroyLocked()
	}
	s.ns.shm.mu.Unlock()
	s.Object.Unref()
}

// destroyLocked takes the id away; the object lives as long as areas show it.
func (s *Segment) destroyLocked() {
	if s.gone {
		return
	}
	s.gone = true
	s.ns.shm.ids.remove(s)
	s.ns.shm.pages -= (s.size-1)/memory.PageSize + 1
	s.Object.Unref()
}

// Attach implements memory.Mappable: shm_open. A mapping in another place is an
// Attach and a Detach of the same area, which tell of the same process.
func (s *Segment) Attach(sp *memory.Space, at memory.Addr, off, length uint64, shared bool) {
	s.Object.Attach(sp, at, off, length, shared)
	s.touch(sp, &s.atime)
}

// Detach implements memory.Mappable: shm_close.
func (s *Segment) Detach(sp *memory.Space, at memory.Addr, off, length uint64, shared bool) {
	s.Object.Detach(sp, at, off, length, shared)
	s.touch(sp, &s.dtime)
}

func (s *Segment) touch(sp *memory.Space, when *int64) {
	s.ns.shm.mu.Lock()
	defer s.ns.shm.mu.Unlock()
	*when = time.Now().Unix()
	if pid := sp.Owner(); pid != 0 {
		s.lpid = pid
	}
}

// ShmStat is struct shmid64_ds.
type ShmStat struct {
	Perm
	Size                uint64
	Atime, Dtime, Ctime int64
	CPID, LPID          int32
	Attached            int
	Resident            uint64 // bytes
}

func (s *Segment) statLocked() ShmStat {
	return ShmStat{s.p, s.size, s.atime, s.dtime, s.ctime, s.cpid, s.lpid, s.attached, s.Usage()}
}

// ShmStat is IPC_STAT, with byPlace SHM_STAT, and without the permission to read
// SHM_STAT_ANY.
func (ns *Namespace) ShmStat(t Task, id int, byPlace, any bool) (ShmStat, error) {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	s, err := find(&ns.shm.ids, id, byPlace)
	if err != nil {
		return ShmStat{}, err
	}
	if !any {
		if err := s.p.allows(t, 0o444); err != nil {
			return ShmStat{}, err
		}
	}
	return s.statLocked(), nil
}

func find[T permed](s *ids[T], id int, byPlace bool) (T, error) {
	if byPlace {
		return s.place(id)
	}
	return s.get(id)
}

// ShmSet is IPC_SET, ShmRemove IPC_RMID.
func (ns *Namespace) ShmSet(t Task, id int, o Owner) error {
	return ns.shmControl(t, id, func(s *Segment) error {
		if err := s.p.set(o); err != nil {
			return err
		}
		s.ctime = seconds(t)
		return nil
	})
}

func (ns *Namespace) ShmRemove(t Task, id int) error {
	return ns.shmControl(t, id, func(s *Segment) error {
		if s.attached > 0 {
			s.p.Mode |= ShmDest
			ns.shm.ids.dropKey(s)
			return nil
		}
		s.destroyLocked()
		return nil
	})
}

func (ns *Namespace) shmControl(t Task, id int, f func(*Segment) error) error {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	s, err := ns.shm.ids.get(id)
	if err != nil {
		return err
	}
	if err := s.p.mayControl(t); err != nil {
		return err
	}
	return f(s)
}

// ShmLock is SHM_LOCK and SHM_UNLOCK: nothing is swapped, so the bit is all.
func (ns *Namespace) ShmLock(t Task, id int, on bool) error {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	s, err := ns.shm.ids.get(id)
	if err != nil {
		return err
	}
	c := t.Creds()
	if !c.HasIn(ns.owner, unix.CAP_IPC_LOCK) {
		if c.EUID != s.p.UID && c.EUID != s.p.CUID || on && t.Limit(unix.RLIMIT_MEMLOCK) == 0 {
			return unix.EPERM
		}
	}
	s.p.Mode &^= ShmLocked
	if on {
		s.p.Mode |= ShmLocked
	}
	return nil
}

// ShmInfo is what SHM_INFO counts.
type ShmInfo struct {
	Used            int
	Highest         int
	Pages, Resident uint64 // pages
}

func (ns *Namespace) ShmInfo() ShmInfo {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	i := ShmInfo{Used: len(ns.shm.ids.at), Highest: ns.shm.ids.highest(), Pages: ns.shm.pages}
	for s := range maps.Values(ns.shm.ids.at) {
		i.Resident += s.Usage() / memory.PageSize
	}
	return i
}

// Segments are for /proc/sysvipc/shm.
func (ns *Namespace) Segments() []ShmStat {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	all := ns.shm.ids.all()
	l := make([]ShmStat, 0, len(all))
	for s := range slices.Values(all) {
		l = append(l, s.statLocked())
	}
	return l
}

// Release ends a namespace without processes: segments that nobody maps go.
func (ns *Namespace) Release() {
	ns.shm.mu.Lock()
	defer ns.shm.mu.Unlock()
	for _, s := range ns.shm.ids.all() {
		if s.attached > 0 {
			s.p.Mode |= ShmDest
			ns.shm.ids.dropKey(s)
			continue
		}
		s.destroyLocked()
	}
}

// Package ipc is System V's shared memory, semaphores and message queues, and
// POSIX message queues: what lives in an IPC namespace. It follows Linux's
// ipc/{util,shm,sem,msg,mqueue}.c in behaviour.
//
// A Namespace has one lock a kind of object; nothing is called with one held but
// the wake-up of who waits. Who waits does it through the Task interface, so that
// the room of tasks may hold a Namespace and this one knows no tasks.
//
// Lock order: memory.Space's lock, then that of shared memory, then memory.Object's.
// Undo lists are under the lock of semaphores.
package ipc

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/memory"
	"bulkhead/sentry/vfs"
)

// Task is who calls, and sleeps.
type Task interface {
	vfs.Context
	PID() int32
	Arena() *memory.Arena // of its container, which a segment that it makes counts to
	Waiter(mask vfs.Events, c chan struct{}) *vfs.Waiter
	BlockOn(c <-chan struct{}, deadline time.Duration) error
}

// Flags and commands that all three kinds have (include/uapi/linux/ipc.h).
const (
	Private = 0
	Create  = 0o1000
	Excl    = 0o2000
	NoWait  = 0o4000
)

// Limits are the namespace's, as /proc/sys/kernel has them.
type Limits struct {
	ShmMax, ShmAll uint64 // bytes of a segment, pages of all
	ShmMNI         int
	RmidForced     int // not 0: a segment goes with its last user
	SemMSL         int // semaphores of a set
	SemMNS         int // of all sets
	SemOPM         int // operations of a call
	SemMNI         int
	MsgMax, MsgMNB int // bytes of a message, of a queue
	MsgMNI         int
	MQueues        int // POSIX queues
	MQMsgMax       int // messages of one
	MQMsgSizeMax   int // bytes of a message
	MQMsgDefault   int
	MQSizeDefault  int
}

func defaultLimits() Limits {
	const shmMax = ^uint64(0) - 1<<24 // ULONG_MAX - (1UL << 24)
	return Limits{
		ShmMax: shmMax, ShmAll: shmMax, ShmMNI: 4096,
		SemMSL: 32000, SemMNS: 1024000000, SemOPM: 500, SemMNI: 32000,
		MsgMax: 8192, MsgMNB: 16384, MsgMNI: 32000,
		MQueues: 256, MQMsgMax: 10, MQMsgSizeMax: 8192, MQMsgDefault: 10, MQSizeDefault: 8192,
	}
}

// Namespace is one IPC namespace.
type Namespace struct {
	owner *vfs.UserNamespace // in which capabilities over it count; nil: the first

	limitsMu sync.Mutex
	limits   Limits

	shm shmSpace
	sem semSpace
	msg msgSpace

	queuesOnce sync.Once
	queues     any
}

// Queues are the POSIX message queues: a file system of a higher room, which makes
// it with the first call.
func (ns *Namespace) Queues(make func() any) any {
	ns.queuesOnce.Do(func() { ns.queues = make() })
	return ns.queues
}

// New makes an empty namespace of owner's.
func New(owner *vfs.UserNamespace) *Namespace {
	return &Namespace{owner: owner, limits: defaultLimits()}
}

// Limits are what holds now; SetLimits changes some.
func (ns *Namespace) Limits() Limits {
	ns.limitsMu.Lock()
	defer ns.limitsMu.Unlock()
	return ns.limits
}

func (ns *Namespace) SetLimits(change func(*Limits)) {
	ns.limitsMu.Lock()
	defer ns.limitsMu.Unlock()
	change(&ns.limits)
}

// Perm is struct kern_ipc_perm.
type Perm struct {
	ID                   int
	Key                  int32
	UID, GID, CUID, CGID uint32
	Mode                 uint32

	owner *vfs.UserNamespace // the namespace's
}

// Seq is the part of the id that tells objects in one place apart.
func (p *Perm) Seq() uint16 { return uint16(p.ID >> idShift) }

func (ns *Namespace) newPerm(t Task, key int32, mode uint32) Perm {
	c := t.Creds()
	return Perm{owner: ns.owner, Key: key, UID: c.EUID, GID: c.EGID, CUID: c.EUID, CGID: c.EGID, Mode: mode & 0o777}
}

// allows is ipc/util.c, ipcperms: want has bits as in a mode, of any class.
func (p *Perm) allows(t Task, want uint32) error {
	c := t.Creds()
	want = (want>>6 | want>>3 | want) & 7
	granted := p.Mode
	if c.EUID == p.CUID || c.EUID == p.UID {
		granted >>= 6
	} else if inGroup(c, p.CGID) || inGroup(c, p.GID) {
		granted >>= 3
	}
	if want&^granted&7 != 0 && !c.HasIn(p.owner, unix.CAP_IPC_OWNER) {
		return unix.EACCES
	}
	return nil
}

// inGroup is in_egroup_p.
func inGroup(c *vfs.Creds, gid uint32) bool {
	if c.EGID == gid {
		return true
	}
	for _, g := range c.Groups {
		if g == gid {
			return true
		}
	}
	return false
}

// mayControl is the check of IPC_SET and IPC_RMID (ipc/util.c, ipcctl_obtain_check).
func (p *Perm) mayControl(t Task) error {
	c := t.Creds()
	if c.EUID == p.CUID || c.EUID == p.UID || c.HasIn(p.owner, unix.CAP_SYS_ADMIN) {
		return nil
	}
	return unix.EPERM
}

// Owner is what IPC_SET changes.
type Owner struct {
	UID, GID, Mode uint32
}

func (p *Perm) set(o Owner) error {
	if o.UID == ^uint32(0) || o.GID == ^uint32(0) {
		return unix.EINVAL
	}
	p.UID, p.GID, p.Mode = o.UID, o.GID, p.Mode&^0o777|o.Mode&0o777
	return nil
}

const (
	idShift = 15 // IPCMNI_SHIFT
	idMask  = 1<<idShift - 1
)

// permed is an object with a Perm.
type permed interface{ perm() *Perm }

// ids are the objects of one kind, by place. An id is a place and a number that
// grows when places are used again (ipc/util.c, ipc_idr_alloc).
type ids[T permed] struct {
	at   map[int]T
	keys map[int32]T
	seq  int
	last int
}

func (s *ids[T]) init() {
	if s.at == nil {
		s.at, s.keys, s.last = map[int]T{}, map[int32]T{}, -1
	}
}

func (s *ids[T]) add(x T) int {
	s.init()
	i := 0
	for ; ; i++ {
		if _, used := s.at[i]; !used {
			break
		}
	}
	if i <= s.last {
		s.seq = (s.seq + 1) & 0xffff
	}
	s.last = i
	p := x.perm()
	p.ID = s.seq<<idShift | i
	s.at[i] = x
	if p.Key != Private {
		s.keys[p.Key] = x
	}
	return p.ID
}

// get finds by id: EINVAL if the place is empty, EIDRM if another has it now.
func (s *ids[T]) get(id int) (x T, err error) {
	if id < 0 {
		return x, unix.EINVAL
	}
	x, ok := s.at[id&idMask]
	if !ok {
		return x, unix.EINVAL
	}
	if x.perm().ID != id {
		return x, unix.EIDRM
	}
	return x, nil
}

// place finds by place, for the _STAT commands of ipcs.
func (s *ids[T]) place(i int) (x T, err error) {
	x, ok := s.at[i&idMask]
	if i < 0 || !ok {
		return x, unix.EINVAL
	}
	return x, nil
}

func (s *ids[T]) byKey(key int32) (T, bool) {
	x, ok := s.keys[key]
	return x, ok
}

func (s *ids[T]) remove(x T) {
	p := x.perm()
	delete(s.at, p.ID&idMask)
	s.dropKey(x)
}

func (s *ids[T]) dropKey(x T) {
	if p := x.perm(); p.Key != Private {
		delete(s.keys, p.Key)
		p.Key = Private
	}
}

// highest is the highest place in use; 0 if there is none, as the INFO commands
// answer.
func (s *ids[T]) highest() int {
	n := 0
	for i := range s.at {
		n = max(n, i)
	}
	return n
}

// all are the objects in the order of their places.
func (s *ids[T]) all() []T {
	l := make([]T, 0, len(s.at))
	for i := 0; len(l) < len(s.at); i++ {
		if x, ok := s.at[i]; ok {
			l = append(l, x)
		}
	}
	return l
}

// getOrMake is the common part of the three get calls (ipc/util.c, ipcget): make is
// called if there is none, and fits checks one that there is.
func getOrMake[T permed](s *ids[T], t Task, key int32, flags int, fits func(T) error, make func() (T, error)) (int, error) {
	if key != Private {
		if x, ok := s.byKey(key); ok {
			if flags&Create != 0 && flags&Excl != 0 {
				return 0, unix.EEXIST
			}
			if err := fits(x); err != nil {
				return 0, err
			}
			return x.perm().ID, x.perm().allows(t, uint32(flags))
		}
		if flags&Create == 0 {
			return 0, unix.ENOENT
		}
	}
	x, err := make()
	if err != nil {
		return 0, err
	}
	return s.add(x), nil
}

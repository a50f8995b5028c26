package kernel

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/kernel/ipc"
	"bulkhead/sentry/vfs"
)

// Namespaces is the set of namespaces that a task is in, but for those that hang
// elsewhere: the mounts in FSContext, the users in vfs.Creds, and the pid
// namespace in the task's id. Tasks share one set, which does not change, until
// unshare(2), setns(2) or clone(2) give one another (kernel/nsproxy.c).
//
// A set holds references to its namespaces, each task one to its set; nsfs
// descriptors hold namespaces of their own.
type Namespaces struct {
	UTS    *UTSNamespace
	IPC    *IPCNamespace
	Net    *NetNamespace
	Cgroup *CgroupNamespace
	Time   *TimeNamespace
	// What children will be in.
	PIDForChildren  *PIDNamespace
	TimeForChildren *TimeNamespace

	refs atomic.Int64
}

// Contents is what a room above the kernel keeps in a namespace: System V IPC
// and message queues, or a network stack.
type Contents interface {
	// Release is called when nothing refers to the namespace any more.
	Release()
}

// NewContents makes the contents of a new namespace, whose number and owner are
// known. Config has one for each kind that has any.
type NewContents func(ns *NamespaceBase) Contents

// NamespaceBase is what all kinds have.
type NamespaceBase struct {
	number   uint64
	owner    *vfs.UserNamespace
	contents Contents
	refs     atomic.Int64
}

// Number is the inode number in /proc/PID/ns, Owner the user namespace in which
// capabilities over it count (nil: the first), Contents what a room above keeps.
func (b *NamespaceBase) Number() uint64            { return b.number }
func (b *NamespaceBase) Owner() *vfs.UserNamespace { return b.owner }
func (b *NamespaceBase) Contents() Contents        { return b.contents }

// Take and Drop count who refers to the namespace.
func (b *NamespaceBase) Take() { b.refs.Add(1) }

func (b *NamespaceBase) Drop() {
	if b.refs.Add(-1) == 0 && b.contents != nil {
		b.contents.Release()
	}
}

func (b *NamespaceBase) init(number uint64, owner *vfs.UserNamespace, make NewContents) {
	b.number, b.owner = number, owner
	if make != nil {
		b.contents = make(b)
	}
}

// UTSNamespace has the names of the machine.
type UTSNamespace struct {
	NamespaceBase
	mu           sync.Mutex
	host, domain string
}

// Names are the host's and the domain's.
func (u *UTSNamespace) Names() (host, domain string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.host, u.domain
}

// SetHostname and SetDomainname change them.
func (u *UTSNamespace) SetHostname(s string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.host = s
}

func (u *UTSNamespace) SetDomainname(s string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.domain = s
}

// IPCNamespace has the System V objects and message queues: an ipc.Namespace.
type IPCNamespace struct{ NamespaceBase }

// NetNamespace has the network devices, addresses and abstract socket names
// (Config.NewNet).
type NetNamespace struct{ NamespaceBase }

// CgroupNamespace has the control group that its processes see as the root. The
// container has one control group, so all are alike but for their number.
type CgroupNamespace struct{ NamespaceBase }

// TimeNamespace shifts CLOCK_MONOTONIC and CLOCK_BOOTTIME (time_namespaces(7)). The vDSO's
// page is chosen by exec: a child that was forked into a namespace and has not executed a
// program goes on with its parent's.
type TimeNamespace struct {
	NamespaceBase
	mu        sync.Mutex
	mono      time.Duration
	boot      time.Duration
	inhabited bool // by a task: the offsets stay
}

// Offsets are what is added to the two clocks.
func (n *TimeNamespace) Offsets() (mono, boot time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mono, n.boot
}

// SetOffsets changes them, before the first task is in n; nil keeps one as it is.
func (n *TimeNamespace) SetOffsets(mono, boot *time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.inhabited {
		return unix.EACCES
	}
	if mono != nil {
		n.mono = *mono
	}
	if boot != nil {
		n.boot = *boot
	}
	return nil
}

func (n *TimeNamespace) inhabit() *TimeNamespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.inhabited = true
	return n
}

// The numbers of the first namespaces (include/uapi/linux/nsfs.h).
const (
	firstIPC    = 0xEFFFFFFF
	firstUTS    = 0xEFFFFFFE
	firstPID    = 0xEFFFFFFC
	firstCgroup = 0xEFFFFFFB
	firstTime   = 0xEFFFFFFA
	firstNet    = 0xEFFFFFF9
)

func newIPC(b *NamespaceBase) Contents { return ipc.New(b.Owner()) }

// firstNamespaces are those of the first container, whose processes are in pids.
func (k *Kernel) firstNamespaces(pids *PIDNamespace) *Namespaces {
	n := &Namespaces{
		UTS: &UTSNamespace{host: k.Config.Hostname, domain: k.Config.Domain}, IPC: &IPCNamespace{}, Net: &NetNamespace{},
		Cgroup: &CgroupNamespace{}, Time: &TimeNamespace{mono: k.Monotonic, boot: k.Boottime}, PIDForChildren: pids,
	}
	if n.UTS.domain == "" {
		n.UTS.domain = "(none)"
	}
	n.TimeForChildren = n.Time.inhabit()
	n.UTS.init(firstUTS, nil, nil)
	n.IPC.init(firstIPC, nil, newIPC)
	n.Net.init(firstNet, nil, k.NewNet)
	n.Cgroup.init(firstCgroup, nil, nil)
	n.Time.init(firstTime, nil, nil)
	n.takeAll()
	n.refs.Store(1) // the kernel's own: the first namespaces stay
	return n
}

func (n *Namespaces) bases() []*NamespaceBase {
	return []*NamespaceBase{&n.UTS.NamespaceBase, &n.IPC.NamespaceBase, &n.Net.NamespaceBase, &n.Cgroup.NamespaceBase,
		&n.Time.NamespaceBase, &n.PIDForChildren.NamespaceBase, &n.TimeForChildren.NamespaceBase}
}

func (n *Namespaces) takeAll() {
	for _, b := range n.bases() {
		b.Take()
	}
}

func (n *Namespaces) take() *Namespaces {
	n.refs.Add(1)
	return n
}

func (n *Namespaces) drop() {
	if n.refs.Add(-1) != 0 {
		return
	}
	for _, b := range n.bases() {
		b.Drop()
	}
}

// Namespaces is the set that the task is in; nil once it has exited.
func (t *Task) Namespaces() *Namespaces { return t.namespaces.Load() }

// Namespaces are the container's first.
func (k *Kernel) Namespaces() *Namespaces { return k.first.set }

// ofSet are the clone flags of what a set holds.
const ofSet = unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// NewNamespaceFlags are the clone flags that ask for namespaces.
const NewNamespaceFlags = ofSet | unix.CLONE_NEWNS | unix.CLONE_NEWUSER

// mayCloneInto is what copy_process (kernel/fork.c) refuses about namespaces.
func (t *Task) mayCloneInto(flags uint64) error {
	const threads = unix.CLONE_NEWUSER | unix.CLONE_NEWPID
	switch {
	case flags&unix.CLONE_FS != 0 && flags&(unix.CLONE_NEWNS|unix.CLONE_NEWUSER) != 0,
		flags&unix.CLONE_THREAD != 0 && (flags&threads != 0 || t.Namespaces().PIDForChildren != t.PIDNamespace()),
		flags&unix.CLONE_PARENT != 0 && t.group.id.ns.init == t.group,
		flags&unix.CLONE_NEWIPC != 0 && flags&unix.CLONE_SYSVSEM != 0:
		return unix.EINVAL
	}
	return nil
}

// namespacesFor are the credentials and the set, with a reference, of a task
// that asks for what flags say.
func (t *Task) namespacesFor(flags uint64) (*vfs.Creds, *Namespaces, error) {
	c := t.Creds()
	if flags&unix.CLONE_NEWUSER != 0 {
		var err error
		if c, err = t.newUser(); err != nil {
			return nil, nil, err
		}
	}
	old := t.Namespaces()
	if flags&(ofSet|unix.CLONE_NEWNS) == 0 {
		if old.Time != old.TimeForChildren && flags&unix.CLONE_VM == 0 {
			return c, old.with(func(n *Namespaces) { n.Time = n.TimeForChildren.inhabit() }), nil // timens_on_fork
		}
		return c, old.take(), nil
	}
	if !c.HasIn(c.User, unix.CAP_SYS_ADMIN) {
		return nil, nil, unix.EPERM
	}
	set, err := t.unshared(old, c, flags)
	if err == nil && flags&unix.CLONE_NEWTIME == 0 {
		set.Time.Drop()
		set.Time = set.TimeForChildren.inhabit()
		set.Time.Take()
	}
	return c, set, err
}

// newUser are t's credentials in a new user namespace, where it may do anything
// (kernel/user_namespace.c, create_user_ns and set_cred_user_ns).
func (t *Task) newUser() (*vfs.Creds, error) {
	if t.fs.Root() != t.fs.Namespace().Root() {
		return nil, unix.EPERM // a chroot could be left
	}
	ns, err := vfs.NewUserNamespace(t.Creds())
	if err != nil {
		return nil, err
	}
	return inUser(t.Creds(), ns), nil
}

func inUser(old *vfs.Creds, ns *vfs.UserNamespace) *vfs.Creds {
	const all = 1<<(unix.CAP_LAST_CAP+1) - 1
	c := *old
	c.User, c.SecureBits = ns, 0
	c.Permitted, c.Effective, c.Bounding = all, all, all
	c.Inheritable, c.Ambient = 0, 0
	return &c
}

// with is a copy of n, with references, that change has been applied to.
func (n *Namespaces) with(change func(*Namespaces)) *Namespaces {
	c := &Namespaces{UTS: n.UTS, IPC: n.IPC, Net: n.Net, Cgroup: n.Cgroup, Time: n.Time,
		PIDForChildren: n.PIDForChildren, TimeForChildren: n.TimeForChildren}
	change(c)
	c.takeAll()
	c.refs.Store(1)
	return c
}

// unshared is old with new namespaces for flags, which c's user namespace owns.
func (t *Task) unshared(old *Namespaces, c *vfs.Creds, flags uint64) (*Namespaces, error) {
	pids := old.PIDForChildren
	if flags&unix.CLONE_NEWPID != 0 {
		if pids != t.PIDNamespace() {
			return nil, unix.EINVAL
		}
		var err error
		if pids, err = newPIDNamespace(pids, c.User); err != nil {
			return nil, err
		}
	}
	return old.with(func(n *Namespaces) {
		n.PIDForChildren = pids
		if flags&unix.CLONE_NEWUTS != 0 {
			host, domain := n.UTS.Names()
			n.UTS = &UTSNamespace{host: host, domain: domain}
			n.UTS.init(vfs.NewNamespaceNumber(), c.User, nil)
		}
		if flags&unix.CLONE_NEWIPC != 0 {
			n.IPC = &IPCNamespace{}
			n.IPC.init(vfs.NewNamespaceNumber(), c.User, newIPC)
		}
		if flags&unix.CLONE_NEWNET != 0 {
			n.Net = &NetNamespace{}
			n.Net.init(vfs.NewNamespaceNumber(), c.User, t.k.NewNet)
		}
		if flags&unix.CLONE_NEWCGROUP != 0 {
			n.Cgroup = &CgroupNamespace{}
			n.Cgroup.init(vfs.NewNamespaceNumber(), c.User, nil)
		}
		if flags&unix.CLONE_NEWTIME != 0 {
			n.TimeForChildren = &TimeNamespace{}
			n.TimeForChildren.init(vfs.NewNamespaceNumber(), c.User, nil)
		}
	}), nil
}

// Unshare is unshare(2) for namespaces and CLONE_FS; flags have been checked.
func (t *Task) Unshare(flags uint64) error {
	c := t.Creds()
	if flags&unix.CLONE_NEWUSER != 0 {
		var err error
		if c, err = t.newUser(); err != nil {
			return err
		}
	}
	if flags&(ofSet|unix.CLONE_NEWNS) != 0 && !c.HasIn(c.User, unix.CAP_SYS_ADMIN) {
		return unix.EPERM
	}
	if flags&ofSet != 0 {
		set, err := t.unshared(t.Namespaces(), c, flags)
		if err != nil {
			return err
		}
		t.namespaces.Swap(set).drop()
	}
	if flags&(unix.CLONE_SYSVSEM|unix.CLONE_NEWIPC) != 0 {
		t.DropSemUndo()
	}
	if flags&(unix.CLONE_FS|unix.CLONE_NEWNS|unix.CLONE_NEWUSER) != 0 {
		t.UnshareFS()
	}
	if flags&unix.CLONE_NEWNS != 0 {
		t.fs.unshareMounts(c.User)
	}
	t.SetCreds(c)
	return nil
}

// MoveRoots has all tasks whose root or directory is from go to to, after pivot_root(2).
func (k *Kernel) MoveRoots(from, to vfs.Path) {
	k.mu.Lock()
	var all []*FSContext
	for _, p := range k.root.ids {
		if p.task != nil {
			if f, _, _ := p.task.Look(); f != nil {
				all = append(all, f)
			}
		}
	}
	k.mu.Unlock()
	for _, f := range all {
		f.follow(from, to)
	}
}

// Enter is what setns(2) brings a task into; nil fields stay as they are.
type Enter struct {
	User   *vfs.UserNamespace
	IsUser bool // User counts, which may be the first
	Mounts *vfs.Namespace
	UTS    *UTSNamespace
	IPC    *IPCNamespace
	Net    *NetNamespace
	PID    *PIDNamespace
	Cgroup *CgroupNamespace
	Time   *TimeNamespace
}

// Setns enters namespaces, all or none (kernel/nsproxy.c, validate_nsset).
func (t *Task) Setns(e Enter) error {
	c := t.Creds()
	if e.IsUser {
		switch {
		case e.User == c.User, len(t.group.Tasks()) > 1, t.fs.refs.Load() != 1:
			return unix.EINVAL
		case !c.HasIn(e.User, unix.CAP_SYS_ADMIN):
			return unix.EPERM
		}
		c = inUser(c, e.User)
	}
	may := func(owner *vfs.UserNamespace, caps ...int) error {
		for _, cap := range caps {
			if !c.HasIn(owner, cap) && !t.Creds().HasIn(owner, cap) || !c.HasHere(cap) {
				return unix.EPERM
			}
		}
		return nil
	}
	if e.Mounts != nil {
		if err := may(e.Mounts.Owner(), unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT); err != nil {
			return err
		}
		if t.fs.refs.Load() != 1 {
			return unix.EINVAL
		}
	}
	if e.PID != nil {
		if err := may(e.PID.Owner(), unix.CAP_SYS_ADMIN); err != nil {
			return err
		}
		if !e.PID.Under(t.PIDNamespace()) {
			return unix.EINVAL // a child's number must be seen by its ancestors
		}
	}
	if e.Time != nil {
		if err := may(e.Time.Owner(), unix.CAP_SYS_ADMIN); err != nil {
			return err
		}
		if len(t.group.Tasks()) > 1 {
			return unix.EUSERS
		}
	}
	for _, b := range e.plain() {
		if err := may(b.Owner(), unix.CAP_SYS_ADMIN); err != nil {
			return err
		}
	}
	if e.IPC != nil {
		t.DropSemUndo()
	}
	t.namespaces.Swap(t.Namespaces().with(e.put)).drop()
	if e.Mounts != nil {
		t.fs.enterMounts(e.Mounts)
	}
	t.SetCreds(c)
	return nil
}

func (e *Enter) plain() (bs []*NamespaceBase) {
	if e.UTS != nil {
		bs = append(bs, &e.UTS.NamespaceBase)
	}
	if e.IPC != nil {
		bs = append(bs, &e.IPC.NamespaceBase)
	}
	if e.Net != nil {
		bs = append(bs, &e.Net.NamespaceBase)
	}
	if e.Cgroup != nil {
		bs = append(bs, &e.Cgroup.NamespaceBase)
	}
	return bs
}

func (e *Enter) put(n *Namespaces) {
	if e.UTS != nil {
		n.UTS = e.UTS
	}
	if e.IPC != nil {
		n.IPC = e.IPC
	}
	if e.Net != nil {
		n.Net = e.Net
	}
	if e.Cgroup != nil {
		n.Cgroup = e.Cgroup
	}
	if e.PID != nil {
		n.PIDForChildren = e.PID
	}
	if e.Time != nil {
		n.Time, n.TimeForChildren = e.Time.inhabit(), e.Time
	}
}

// mayChoose says whether c's user may choose ids in ns and above (clone3's set_tid).
func mayChoose(c *vfs.Creds, ns *PIDNamespace, ids []int32) error {
	if len(ids) > ns.level-ns.base+1 {
		return unix.EINVAL
	}
	for range ids {
		if !c.HasIn(ns.owner, unix.CAP_SYS_ADMIN) && !c.HasIn(ns.owner, unix.CAP_CHECKPOINT_RESTORE) {
			return unix.EPERM
		}
		ns = ns.parent
	}
	return nil
}

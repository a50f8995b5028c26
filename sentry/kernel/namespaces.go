package kernel

import (
	"sync"
	"sync/atomic"

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

// IPCNamespace has the System V objects and message queues (Config.NewIPC).
type IPCNamespace struct{ NamespaceBase }

// NetNamespace has the network devices, addresses and abstract socket names
// (Config.NewNet).
type NetNamespace struct{ NamespaceBase }

// CgroupNamespace has the control group that its processes see as the root. The
// container has one control group, so all are alike but for their number.
type CgroupNamespace struct{ NamespaceBase }

// TimeNamespace shifts CLOCK_MONOTONIC and CLOCK_BOOTTIME.
type TimeNamespace struct{ NamespaceBase }

// PIDNamespace numbers processes.
type PIDNamespace struct{ NamespaceBase }

// The numbers of the first namespaces (include/uapi/linux/nsfs.h).
const (
	firstIPC    = 0xEFFFFFFF
	firstUTS    = 0xEFFFFFFE
	firstPID    = 0xEFFFFFFC
	firstCgroup = 0xEFFFFFFB
	firstTime   = 0xEFFFFFFA
	firstNet    = 0xEFFFFFF9
)

// firstNamespaces are those of the container.
func (k *Kernel) firstNamespaces() *Namespaces {
	n := &Namespaces{
		UTS: &UTSNamespace{host: k.Config.Hostname, domain: k.Config.Domain}, IPC: &IPCNamespace{}, Net: &NetNamespace{},
		Cgroup: &CgroupNamespace{}, Time: &TimeNamespace{}, PIDForChildren: &PIDNamespace{},
	}
	if n.UTS.domain == "" {
		n.UTS.domain = "(none)"
	}
	n.TimeForChildren = n.Time
	n.UTS.init(firstUTS, nil, nil)
	n.IPC.init(firstIPC, nil, k.NewIPC)
	n.Net.init(firstNet, nil, k.NewNet)
	n.Cgroup.init(firstCgroup, nil, nil)
	n.Time.init(firstTime, nil, nil)
	n.PIDForChildren.init(firstPID, nil, nil)
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
func (k *Kernel) Namespaces() *Namespaces { return k.first }

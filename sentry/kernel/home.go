package kernel

import (
	"time"

	"bulkhead/sentry/kernel/ipc"
	"bulkhead/sentry/vfs"
)

// Home is where a container's processes are that nobody inside cloned: its control group,
// and the namespaces that it begins with. Mounts and users come with each (NewProcess).
type Home struct {
	cgroup *Cgroup
	set    *Namespaces
}

// Cgroup is the container's control group, PIDs the namespace that its processes are
// numbered in, and Namespaces all but that of mounts.
func (h *Home) Cgroup() *Cgroup         { return h.cgroup }
func (h *Home) PIDs() *PIDNamespace     { return h.set.PIDForChildren }
func (h *Home) Namespaces() *Namespaces { return h.set }

// IPC is what there is of System V IPC and message queues.
func (h *Home) IPC() *ipc.Namespace { return h.set.IPC.Contents().(*ipc.Namespace) }

// Home is the first container's.
func (k *Kernel) Home() *Home { return k.first }

// firstHome makes the first container's. Its pid namespace has a parent that nobody sees:
// the containers' stand beside each other there, as on a host.
func (k *Kernel) firstHome() *Home {
	k.root, _ = newPIDNamespace(nil, nil)
	k.root.base = 1
	pids, _ := newPIDNamespace(k.root, nil)
	pids.ordinary = k.OrdinaryInit
	return &Home{
		cgroup: k.NewCgroup(CgroupConfig{Arena: k.Arena, PIDs: k.PIDs, Memory: k.Memory, CPUs: k.CPUs, Local: k.Local}),
		set:    k.firstNamespaces(pids),
	}
}

// HomeConfig is what a further container's home is made of. The network namespace is the
// first container's.
type HomeConfig struct {
	CgroupConfig
	ShareUTS, ShareIPC, SharePID bool          // with the first container
	PIDs                         *PIDNamespace // another container's; nil: as SharePID says
	Hostname, Domain             string
	Monotonic, Boottime          time.Duration // of a time namespace of its own; both 0: it is the first container's
	OrdinaryInit                 bool          // of a pid namespace of its own
}

// NewHome makes one.
func (k *Kernel) NewHome(c HomeConfig) (*Home, error) {
	first := k.first.set
	pids := first.PIDForChildren
	switch {
	case c.PIDs != nil:
		pids = c.PIDs
	case !c.SharePID:
		var err error
		if pids, err = newPIDNamespace(k.root, nil); err != nil {
			return nil, err
		}
		pids.ordinary = c.OrdinaryInit
	}
	set := first.with(func(n *Namespaces) {
		n.PIDForChildren = pids
		n.Cgroup = &CgroupNamespace{}
		n.Cgroup.init(vfs.NewNamespaceNumber(), nil, nil)
		if !c.ShareUTS {
			n.UTS = &UTSNamespace{host: c.Hostname, domain: c.Domain}
			if n.UTS.domain == "" {
				n.UTS.domain = "(none)"
			}
			n.UTS.init(vfs.NewNamespaceNumber(), nil, nil)
		}
		if !c.ShareIPC {
			n.IPC = &IPCNamespace{}
			n.IPC.init(vfs.NewNamespaceNumber(), nil, newIPC)
		}
		if c.Monotonic != 0 || c.Boottime != 0 {
			n.Time = &TimeNamespace{mono: c.Monotonic, boot: c.Boottime}
			n.Time.init(vfs.NewNamespaceNumber(), nil, nil)
			n.TimeForChildren = n.Time.inhabit()
		}
	})
	return &Home{cgroup: k.NewCgroup(c.CgroupConfig), set: set}, nil
}

// Release gives up a home that NewHome made, when Kill has left no task of its group.
func (h *Home) Release() {
	h.set.drop()
	h.cgroup.Arena.GiveUp()
}

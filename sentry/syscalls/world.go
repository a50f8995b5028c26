package syscalls

import (
	"bulkhead/sentry/fs/tmpfs"
	"bulkhead/sentry/kernel"
	"bulkhead/sentry/memory"
	"bulkhead/sentry/net/inet"
	"bulkhead/sentry/net/unix"
	"bulkhead/sentry/vfs"
)

// World is what system calls need for the whole sandbox, besides the kernel: the
// abstract names of sockets. kernel.Config.World holds it.
type World struct {
	Names *unix.Names

	aio  aioTable
	keys keyTable
}

// NewWorld makes an empty one.
func NewWorld() *World { return &World{Names: unix.NewNames()} }

func world(t *kernel.Task) *World { return t.Kernel().World.(*World) }

// Local is what they need for one container: a file system for files without a name, in
// its memory. kernel.CgroupConfig.Local holds it.
type Local struct {
	Memfd *tmpfs.FileSystem
	// FSTypes are what mount(2) can name.
	FSTypes map[string]*vfs.FSType
}

// NewLocal makes one.
func NewLocal(a *memory.Arena, types map[string]*vfs.FSType) *Local {
	return &Local{Memfd: tmpfs.New(a, tmpfs.Options{Mode: 0o1777}), FSTypes: types}
}

func local(t *kernel.Task) *Local { return t.Cgroup().Local.(*Local) }

// NewNet makes network namespaces (kernel.Config.NewNet). The loopback device of
// the first, the container's, is up.
func NewNet() kernel.NewContents {
	first := true
	return func(ns *kernel.NamespaceBase) kernel.Contents {
		n := inet.New(first, ns.Owner())
		first = false
		return n
	}
}

// netOf is the network of the namespace that t is in.
func netOf(t *kernel.Task) *inet.Stack { return t.Namespaces().Net.Contents().(*inet.Stack) }

// NetOf is the network of who asks: the container's first for who is no task.
func NetOf(k *kernel.Kernel, ctx vfs.Context) *inet.Stack {
	if t, ok := ctx.(*kernel.Task); ok && t.Namespaces() != nil {
		return netOf(t)
	}
	return k.Namespaces().Net.Contents().(*inet.Stack)
}

package sandbox

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/guestinit/config"
	"bulkhead/jail/seccomp"
	"bulkhead/kvm"
	"bulkhead/runtime/agent"
	"bulkhead/virtio/balloon"
	"bulkhead/virtio/fs"
	"bulkhead/virtio/fs/remote"
	"bulkhead/virtio/rng"
	"bulkhead/virtio/vsock"
	"bulkhead/vmm/boot"
	"bulkhead/vmm/initramfs"
	"bulkhead/vmm/machine"
	"bulkhead/vmm/ram"
)

// tag is the share's, which guestinit/agent mounts.
const tag = "bulkhead"

// guestCID is the guest's on its own bus, which no other machine is on.
const guestCID = 3

// cmdline: a panic is a reset at once, which ends the machine; its words are on the console.
const cmdline = "console=ttyS0 quiet panic=-1 pci=off 8250.nr_uarts=1"

// assemble makes the machine: a copy of a template, or anew.
func (s *sandbox) assemble(sys *kvm.System) error {
	s.console = newConsole(s.config.Files.Console)
	if t := s.openTemplate(); t != nil {
		return s.assembleCopy(sys, t)
	}
	mem, err := ram.New(s.size.memory, ram.Memfd) // the share's process maps it as well
	if err != nil {
		return err
	}
	load := sync.OnceValues(func() (boot.Entry, error) { return s.load(mem) })
	go load()    // while the machine is made
	defer load() // into memory that stays
	server, err := s.reachShare(mem)
	if err != nil {
		return err
	}
	if err := s.assembleOn(sys, mem, server); err != nil {
		return err
	}
	if s.config.Files.NewTemplate == 0 {
		s.presentDisks()
	}
	entry, err := load()
	if err != nil {
		return err
	}
	return s.vm.Boot(entry)
}

// assembleOn makes a machine with nothing to run.
func (s *sandbox) assembleOn(sys *kvm.System, mem *ram.Memory, files fs.Server) (err error) {
	c := machine.Config{CPUs: s.size.cpus, Mask: s.size.without, Memory: mem, Serial: s.console, Log: s.log}
	if c.Devices, err = s.devices(mem, files); err != nil {
		return err
	}
	s.vm, err = machine.New(sys, c)
	s.machine = s.vm
	return err
}

// load puts the kernel and the init into the guest's memory.
func (s *sandbox) load(mem *ram.Memory) (boot.Entry, error) {
	kernel, init := os.NewFile(uintptr(s.config.Files.Kernel), "guest kernel"), os.NewFile(uintptr(s.config.Files.Init), "guestinit")
	if kernel == nil || init == nil {
		return boot.Entry{}, fmt.Errorf("the runtime gave no kernel or no init for the guest")
	}
	defer kernel.Close()
	defer init.Close()
	guest := config.Config{
		Agent: true, Hostname: "guest", Time: time.Now(), Debug: s.config.LogLevel == "debug",
		// A root that can be exchanged for a container's, as the initramfs cannot (pivot_root(2)).
		Root: "/mnt/root", Mounts: []config.Mount{{Source: "root", Target: "/mnt/root", Type: "tmpfs", Options: []string{"mode=0755"}}},
	}
	text, err := guest.Marshal()
	if err != nil {
		return boot.Entry{}, err
	}
	file, err := initramfs.Copy("/init", 0o755, init)
	if err != nil {
		return boot.Entry{}, err
	}
	parts, err := initramfs.Build(file, initramfs.Bytes(config.Path, 0o600, text))
	if err != nil {
		return boot.Entry{}, err
	}
	return machine.Load(mem, machine.Kernel{File: kernel, Initrd: parts, Cmdline: cmdline})
}

// reachShare gives the share's process the memory in which it finds requests.
func (s *sandbox) reachShare(mem *ram.Memory) (fs.Server, error) {
	f := os.NewFile(agent.GoferFD, "share")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("the share's socket: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("the share's socket is none")
	}
	if err := remote.SendMemory(conn, mem.File()); err != nil {
		return nil, fmt.Errorf("the share: %w", err)
	}
	s.share = remote.NewClient(conn, mem)
	return s.share, nil
}

// devices are those of every machine. A template is of one with the same, in this order.
func (s *sandbox) devices(mem *ram.Memory, server fs.Server) ([]machine.Device, error) {
	files, err := fs.NewFront(tag, server)
	if err != nil {
		return nil, err
	}
	s.lines = newSwitchboard()
	sockets, err := vsock.New(vsock.Options{CID: guestCID, Dial: s.lines.dial, EventTime: s.patience / 2, Log: s.log})
	if err != nil {
		return nil, err
	}
	spare := balloon.NewOnDemand(mem, mem, s.log)
	s.balloon = spare
	all := []machine.Device{
		{Name: "share", Device: files}, {Name: "vsock", Device: sockets}, {Name: "rng", Device: rng.New(rand.Reader)}, {Name: "balloon", Device: spare},
	}
	disks, err := s.openDisks()
	if err != nil {
		return nil, err
	}
	slots, err := s.makeSlots()
	if err != nil {
		return nil, err
	}
	nets, err := s.networks()
	return slices.Concat(all, disks, slots, nets), err
}

// restrict allows the process no system calls but those that it makes.
func (s *sandbox) restrict() error {
	off := seccomp.Kill
	if s.config.LogLevel == "debug" {
		off = seccomp.Trap // with stacks in the log
	}
	rows := append(seccomp.Runtime(os.Getpid()), calls...)
	if s.config.Files.NewTemplate != 0 {
		rows = append(rows, keepCalls...)
	}
	if len(s.disks)+len(s.slots) > 0 {
		rows = append(rows, diskCalls...)
	}
	if len(s.slots) > 0 {
		rows = append(rows, slotCalls...)
	}
	return seccomp.Install(rows, off)
}

// calls are those beyond seccomp.Runtime.
var calls = []seccomp.Row{
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "KVM", When: []seccomp.Cond{{Arg: 1, Mask: 0xff00, Value: 0xae00}}},
	{NR: unix.SYS_MMAP, Name: "mmap", Why: "balloon: memory of a template's that the guest does without", When: seccomp.Is(3, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED|unix.MAP_NORESERVE)},
	{NR: unix.SYS_SENDMSG, Name: "sendmsg", Why: "share"},
	{NR: unix.SYS_RECVMSG, Name: "recvmsg", Why: "runtime, with descriptors"},
	{NR: unix.SYS_SOCKETPAIR, Name: "socketpair", Why: "streams", When: seccomp.Is(0, unix.AF_UNIX)},
	{NR: unix.SYS_PIPE2, Name: "pipe2", Why: "streams: to end the wait for input"},
	{NR: unix.SYS_ACCEPT4, Name: "accept4", Why: "runtime"},
	{NR: unix.SYS_GETSOCKNAME, Name: "getsockname", Why: "package net, of a descriptor"},
	{NR: unix.SYS_GETPEERNAME, Name: "getpeername", Why: "package net, of a descriptor"},
	{NR: unix.SYS_GETSOCKOPT, Name: "getsockopt", Why: "package net, of a descriptor"},
	{NR: unix.SYS_SETSOCKOPT, Name: "setsockopt", Why: "package net"},
	{NR: unix.SYS_SHUTDOWN, Name: "shutdown", Why: "one half of a stream"},
	{NR: unix.SYS_FCNTL, Name: "fcntl", Why: "descriptors: duplicates, flags"},
	{NR: unix.SYS_FSTAT, Name: "fstat", Why: "package os"},
	{NR: unix.SYS_READV, Name: "readv", Why: "vsock: to the guest"},
	{NR: unix.SYS_WRITEV, Name: "writev", Why: "vsock: the guest's bytes"},
	{NR: unix.SYS_POLL, Name: "poll", Why: "streams: is there more"},
	{NR: unix.SYS_PPOLL, Name: "ppoll", Why: "streams: is there more"},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TIOCGWINSZ", When: seccomp.Is(1, unix.TIOCGWINSZ)},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TCGETS", When: seccomp.Is(1, unix.TCGETS)},
	{NR: unix.SYS_IOCTL, Name: "ioctl", Why: "terminals: TCSETS", When: seccomp.Is(1, unix.TCSETS)},
}

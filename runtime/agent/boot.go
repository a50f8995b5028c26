package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"bulkhead/runtime/spec"
)

// The descriptors with which a sandbox process starts. 0 to 2 are the
// container's standard streams, or with a terminal the slave of a host pty.
// Further ones are named by number in BootConfig.
const (
	ConfigFD  = 3 // BootConfig as JSON, to be read to its end; see ReadBootConfig
	ControlFD = 4 // a listening Unix socket, for Serve
	GoferFD   = 5 // a Unix packet socket (SOCK_SEQPACKET) to the gofer
	SyncFD    = 6 // a stream socket: Ready goes out, and Keep comes in
	LogFD     = 7 // append; closed means that nobody listens, which is no error
	FirstFD   = 8 // the first number that an optional descriptor can have
)

// GoferFDs are those of the gofer process: 0 to 2 are /dev/null, ConfigFD the
// gofer's configuration as JSON (GoferConfig), LogFD as above.
const GoferSocketFD = 4 // the gofer's end of GoferFD

// BootConfig is what a sandbox process needs to know. The process is started
// first and gets the configuration when its cgroup is in place and the hooks
// that need its namespaces have run, so reading it may block; end of file
// without a configuration means that the runtime gave up, and is no error.
type BootConfig struct {
	Version int    `json:"version"`
	ID      string `json:"id"`
	Bundle  string `json:"bundle"` // for messages; the sandbox cannot reach it

	// Spec is validated and complete: Process, Root and Linux are not nil.
	// Root.Path and the sources of bind mounts are the gofer's business; mount i
	// of the gofer is Spec.Mounts[i] where GoferMounts has i.
	Spec *spec.Spec `json:"spec"`

	// GoferMounts lists the indices in Spec.Mounts that the gofer serves, in the
	// order of its attach points 1, 2, …; attach point 0 is the root.
	GoferMounts []int `json:"goferMounts,omitempty"`

	DiskSlots int `json:"diskSlots,omitempty"` // a machine's devices for disks of containers that come later

	Platform string   `json:"platform"` // auto, kvm, ptrace
	Overlay  Overlay  `json:"overlay"`
	Limits   Limits   `json:"limits"`
	Cgroup   Cgroup   `json:"cgroup,omitempty"` // of a machine
	Files    Files    `json:"files"`
	Network  string   `json:"network,omitempty"` // none, sandbox (what is in the process's network namespace), host
	Console  *Console `json:"console,omitempty"`

	// Devices are the interfaces of the network namespace, from which their addresses
	// have been taken: nobody answers there but the sandbox.
	Devices []Device `json:"devices,omitempty"`

	// NameServer is one that an engine runs in the network namespace, on its loopback.
	NameServer *NameServer `json:"nameServer,omitempty"`

	// Terminal says that 0 is the slave of a host pty. The process is the leader
	// of a session of its own with that as its controlling terminal, so that the
	// host's SIGWINCH reaches it; the new size is to be had by TIOCGWINSZ.
	Terminal bool `json:"terminal,omitempty"`

	// Start lets init run as soon as the sandbox is ready, without a call of Start.
	Start bool `json:"start,omitempty"`

	// OrdinaryInit lets signals end init as they end any process, though it is
	// process 1. Who types `bulkhead do sleep 100` expects ^C to work.
	OrdinaryInit bool `json:"ordinaryInit,omitempty"`

	LogLevel  string `json:"logLevel,omitempty"`  // debug, info, warn, error
	LogFormat string `json:"logFormat,omitempty"` // text, json

	// Began is when the runtime was started, for the milestones of --debug.
	Began time.Time `json:"began"`
}

// Annotations of a bundle that say what a machine is like.
const (
	MachineAnnotations = "dev.bulkhead.vm." // what their names begin with

	MemoryAnnotation     = MachineAnnotations + "memory"      // of the guest in all, as 512M
	CPUsAnnotation       = MachineAnnotations + "cpus"        // a number
	WithoutAnnotation    = MachineAnnotations + "cpu-without" // CPU features, by Linux's names, that the guest is not shown
	WatchdogAnnotation   = MachineAnnotations + "watchdog"    // how long its init may be silent, as 90s; 0 is for ever
	RootfsAnnotation     = MachineAnnotations + "rootfs"      // share; erofs; ext4, or ext4,size=4G
	DisksAnnotation      = MachineAnnotations + "disks"       // HOST:NODE[:ro], …
	DiskSlotsAnnotation  = MachineAnnotations + "disk-slots"  // how many disks containers can have that come later
	ShareCacheAnnotation = MachineAnnotations + "share-cache" // auto, never, always: virtiofsd's words
)

// MachineWords are all of them.
var MachineWords = []string{MemoryAnnotation, CPUsAnnotation, WithoutAnnotation, WatchdogAnnotation, RootfsAnnotation, DisksAnnotation, DiskSlotsAnnotation, ShareCacheAnnotation}

// EgressAnnotation of a bundle limits what each of its interfaces sends, in the words of virtio/ratelimit:
// bytes=10M/s,burst=1M.
const EgressAnnotation = "dev.bulkhead.network.egress"

// Device is a network interface, with a packet socket that is bound to it.
type Device struct {
	// FD comes with the configuration (SCM_RIGHTS); it is the sandbox's number once
	// ReadBootConfig has it.
	FD        int            `json:"-"`
	Index     int            `json:"index"`
	Name      string         `json:"name"`
	Ethernet  string         `json:"ethernet"`
	MTU       int            `json:"mtu"`
	Offload   bool           `json:"offload,omitempty"` // PACKET_VNET_HDR is on
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Routes    []Route        `json:"routes,omitempty"` // but for those that the addresses bring

	// Unrouted are those of Addresses that bring no route to their network: whoever gave them
	// took it away (CNI's ptp does), as one is not to look for others on the link.
	Unrouted []netip.Prefix `json:"unrouted,omitempty"`
}

// Route is a way to a destination; without a gateway that is on the link.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway,omitzero"`
}

// NameServer is a server of names, with sockets of that namespace. They come with the
// configuration as a device's does, behind those.
type NameServer struct {
	Address netip.AddrPort `json:"address"`
	Packets int            `json:"-"`       // a datagram socket that is connected to it
	Streams []int          `json:"streams"` // idle stream sockets; here their numbers do not matter
}

// How many descriptors go with one message (net/core/scm.c, SCM_MAX_FD, is more).
const (
	MostDevices = 64
	MostStreams = 8 // of a name server
)

// descriptors are the numbers that Boot sends, to be filled in by who receives them.
func (c *BootConfig) descriptors() (list []*int) {
	for i := range c.Devices {
		list = append(list, &c.Devices[i].FD)
	}
	if s := c.NameServer; s != nil {
		list = append(list, &s.Packets)
		for i := range s.Streams {
			list = append(list, &s.Streams[i])
		}
	}
	return list
}

// Descriptors are what goes with the configuration.
func (c *BootConfig) Descriptors() (fds []int) {
	for _, fd := range c.descriptors() {
		fds = append(fds, *fd)
	}
	return fds
}

// Console is the first size of a terminal.
type Console struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// Overlay says where writes to the root go.
type Overlay struct {
	// Kind is none (through the gofer to the rootfs), memory, or dir (an empty
	// directory of the host's, which is the gofer's last attach point,
	// len(GoferMounts)+1).
	Kind string `json:"kind"`
}

// Files are the numbers of optional descriptors; 0 is absent.
type Files struct {
	KVM      int    `json:"kvm,omitempty"`      // /dev/kvm
	NoKVM    string `json:"noKVM,omitempty"`    // why it is absent, for people
	Restore  int    `json:"restore,omitempty"`  // a checkpoint to go on from, instead of loading the program
	Preserve []int  `json:"preserve,omitempty"` // become 3, 4, … of init (--preserve-fds)

	// Of a machine: what it boots, and where its console goes.
	Kernel  int `json:"kernel,omitempty"`
	Init    int `json:"init,omitempty"`    // guestinit
	Console int `json:"console,omitempty"` // append

	// Template is a guest that has booted as this one would, to go on from instead;
	// NewTemplate an empty file to keep this one in before it is like no other.
	Template    int `json:"template,omitempty"`
	NewTemplate int `json:"newTemplate,omitempty"`

	// Disks are a machine's, in their order.
	Disks []Disk `json:"disks,omitempty"`
}

// Disk is a block device of a machine's. One of Root, Upper and Node says what its
// container has it for.
type Disk struct {
	FD       int    `json:"fd"` // a file or a block device, open for writing unless ReadOnly
	Name     string `json:"name"`
	ReadOnly bool   `json:"readonly,omitempty"`

	Root  string `json:"root,omitempty"`  // the type of the file system in it, whose directory root is the container's root
	Upper string `json:"upper,omitempty"` // the type of that which writes to the root go to
	Node  string `json:"node,omitempty"`  // where the container finds it, beneath /dev
}

// ReadBootConfig reads the configuration from ConfigFD, a stream socket. It is io.EOF
// when the runtime has given up.
func ReadBootConfig(f *os.File) (*BootConfig, error) {
	b, fds, err := receiveAll(int(f.Fd()))
	if err != nil {
		return nil, fmt.Errorf("agent: read boot config: %w", err)
	}
	return parseBootConfig(b, fds)
}

// receiveAll reads a stream to its end, and the descriptors that came with it.
func receiveAll(fd int) (all []byte, fds []int, err error) {
	b, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*(MostDevices+1+MostStreams)))
	for len(all) < maxConfig {
		n, oobn, _, _, err := unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, nil, os.NewSyscallError("recvmsg", err)
		}
		if n == 0 {
			break
		}
		all = append(all, b[:n]...)
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, nil, err
		}
		for i := range messages {
			rights, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return nil, nil, err
			}
			fds = append(fds, rights...)
		}
	}
	return all, fds, nil
}

func parseBootConfig(b []byte, fds []int) (*BootConfig, error) {
	if len(b) == 0 {
		return nil, io.EOF
	}
	c := new(BootConfig)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("agent: parse boot config: %w", err)
	}
	switch {
	case c.Version != Version:
		return nil, fmt.Errorf("agent: boot config has version %d, want %d", c.Version, Version)
	case c.Spec == nil || c.Spec.Process == nil || c.Spec.Root == nil:
		return nil, errors.New("agent: boot config has no complete spec")
	case len(fds) != len(c.descriptors()):
		return nil, fmt.Errorf("agent: boot config names %d descriptors, and %d came", len(c.descriptors()), len(fds))
	}
	for i, fd := range c.descriptors() {
		*fd = fds[i]
	}
	return c, nil
}

// maxConfig is far above any OCI configuration; engines' are some 20 KiB.
const maxConfig = 16 << 20 // bytes

// Ready is the one line that a sandbox process writes to SyncFD, then closing
// it: that init is loaded and ControlFD served, or which step failed and why.
// Like Exec, a program that cannot be found or run fails here already, in the
// words that Handler.Exec prescribes.
type Ready struct {
	Ready    bool   `json:"ready,omitempty"`
	Platform string `json:"platform,omitempty"` // kvm, ptrace
	Reason   string `json:"reason,omitempty"`   // why auto took that one
	Error    string `json:"error,omitempty"`    // "step: why"
	Usage    bool   `json:"usage,omitempty"`    // the error is the container's (no such program), not ours

	// Template is what became of Files.Template or NewTemplate; "" where there was none.
	Template TemplateUse `json:"template,omitempty"`

	Milestones []Milestone `json:"milestones,omitempty"`
}

// TemplateUse is what a sandbox did with a template.
type TemplateUse string

const (
	TemplateKept    TemplateUse = "kept"     // it is in NewTemplate now
	TemplateCopied  TemplateUse = "copied"   // the guest went on from it
	TemplateUnfit   TemplateUse = "unfit"    // it is of another machine, or broken
	TemplateNotKept TemplateUse = "not kept" // the log says why
)

// Milestone is a step of the start and the time since BootConfig.Began at its end.
type Milestone struct {
	Step string        `json:"step"`
	At   time.Duration `json:"at"`
}

// Keep tells the sandbox that the runtime has written down what there is of it. One that
// has ended meanwhile does not hear of it.
func Keep(w io.Writer) { _, _ = w.Write([]byte{keepWord}) }

const keepWord = 'k'

// OpenSync is the sandbox's SyncFD, which waits in Go's poller.
func OpenSync() *os.File {
	_ = unix.SetNonblock(SyncFD, true) // at worst it holds a thread
	return os.NewFile(SyncFD, "sync")
}

// Kept waits for Keep in the background. Where the runtime has ended without it, nobody
// knows of the sandbox, or will: gone is called.
func Kept(sync io.ReadCloser, gone func()) {
	go func() {
		defer sync.Close()
		var word [1]byte
		if _, err := io.ReadFull(sync, word[:]); err != nil || word[0] != keepWord {
			gone()
		}
	}()
}

// Write sends r over SyncFD.
func (r *Ready) Write(w io.Writer) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// ReadReady is the runtime's side: it waits for the line. io.EOF says that the
// process ended, or closed the socket, without a word.
func ReadReady(r io.Reader) (*Ready, error) {
	b, err := bufio.NewReader(io.LimitReader(r, maxFrame)).ReadBytes('\n')
	if err != nil && err != io.EOF && !errors.Is(err, unix.ECONNRESET) { // it left the configuration unread
		return nil, fmt.Errorf("agent: read ready line: %w", err)
	}
	if len(b) == 0 {
		return nil, io.EOF
	}
	ready := new(Ready)
	if err := json.Unmarshal(b, ready); err != nil {
		return nil, fmt.Errorf("agent: parse ready line: %w", err)
	}
	if !ready.Ready && ready.Error == "" {
		return nil, errors.New("agent: the ready line says neither ready nor why not")
	}
	ready.Error = Words(ready.Error)
	return ready, nil
}

// GoferConfig configures the gofer process, as sentry/gofer.Config has it. The
// attach points are Root (0), then Mounts, then Overlay.
type GoferConfig struct {
	Root    GoferMount   `json:"root"` // no Source: it is not the process's business (a machine's, on a disk)
	Mounts  []GoferMount `json:"mounts,omitempty"`
	Overlay *GoferMount  `json:"overlay,omitempty"`
	// Cache is how long a machine may believe what it knows of names: 0 is what is usual,
	// less is not at all.
	Cache time.Duration `json:"cache,omitempty"`
	Debug bool          `json:"debug,omitempty"`
}

// AttachRequest adds the files of a further container to a share that is in use. It
// is what the process of the attaching verb reads from ConfigFD.
type AttachRequest struct {
	PID       int    `json:"pid"`       // the share's process, as we see it
	Container string `json:"container"` // the name of the directory beneath pods
	GoferConfig
}

// ImageRequest asks for a disk with a file system, and a directory's files in it. It is what
// the process that makes it reads from ConfigFD. Through the socket FirstFD that process
// sends one byte and the disk, a file without a name, before it writes to it.
type ImageRequest struct {
	Type   string `json:"type"`             // erofs, ext4
	Source string `json:"source,omitempty"` // becomes the directory root in there; "": an empty file system, of ext4
	Size   int64  `json:"size,omitempty"`   // bytes, of ext4; 0: what is there and room for more
	Where  string `json:"where"`            // the directory whose file system the disk is in
}

// ReceiveFile takes what the process of an ImageRequest sends, which has not met a byte of the
// directory's by then.
func ReceiveFile(from *os.File, name string) (*os.File, error) {
	var one [1]byte
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn int
	for {
		var err error
		_, oobn, _, _, err = unix.Recvmsg(int(from.Fd()), one[:], oob, unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return nil, os.NewSyscallError("recvmsg", err)
		}
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("agent: %d messages with a file, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("agent: %d descriptors for a file, %v", len(fds), err)
	}
	return os.NewFile(uintptr(fds[0]), name), nil
}

// GoferMount is a host file or directory shown inside the container.
type GoferMount struct {
	Source      string `json:"source"`                // absolute, symlinks resolved
	Destination string `json:"destination,omitempty"` // for messages
	ReadOnly    bool   `json:"readonly,omitempty"`
	Exclusive   bool   `json:"exclusive,omitempty"` // nobody else changes it
	Recursive   bool   `json:"recursive,omitempty"` // rbind: mounts beneath the source are visible
	Sockets     bool   `json:"sockets,omitempty"`   // the container may connect to the host's sockets in it
}

package net

import (
	"errors"
	"fmt"
	hostnet "net"
	"os"

	"golang.org/x/sys/unix"
)

// host is the other end of a device's ports.
type host interface {
	// offload tells which of guestOffloads the guest can take.
	offload(features uint64) error
	// attach says whether port i takes part in spreading frames over ports.
	attach(i int, on bool) error
	// header is how much of our header a frame has before it there, in bytes. The rest,
	// num_buffers, is of no use to a host.
	header() int
	// lacks are features that the host leaves no device to offer.
	lacks() uint64
	// admits tells whether the guest can take a frame with this header.
	admits(h *header) bool
	String() string
}

// port is the descriptor of one queue of the host's interface: a frame a read or write, each
// behind a header. It is not for Go's poller, which would wake up for every frame as well.
type port int

// noPort is that of an interface which goes nowhere.
const noPort port = -1

// newPort takes fd over.
func newPort(fd int, name string) (port, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, fmt.Errorf("network %s: make its descriptor non-blocking: %w", name, err)
	}
	return port(fd), nil
}

func (p port) close() error {
	if p == noPort {
		return nil
	}
	return os.NewSyscallError("close", unix.Close(int(p)))
}

// tap is a TAP of the host (Documentation/networking/tuntap.rst).
type tap struct {
	name     string
	ports    []port
	attached []bool
	mtu      int
	up       bool
}

const tunDevice = "/dev/net/tun"

// openTap opens the TAP that o names, or takes over its descriptors.
func openTap(o Options) (*tap, error) {
	t := &tap{name: o.Tap}
	err := t.open(o)
	if err != nil {
		for _, p := range t.ports {
			p.close()
		}
		return nil, err
	}
	return t, nil
}

func (t *tap) open(o Options) error {
	switch {
	case len(o.FDs) > 0 && o.Tap != "":
		return fmt.Errorf("network %s: give the name of a TAP or its descriptors, not both", o.Tap)
	case len(o.FDs) > 0:
		return t.inherit(o.FDs)
	case o.Tap == "":
		return errors.New("network: no TAP; give its name, as in tap=tap0, or none")
	}
	index, err := t.find()
	if err != nil {
		return err
	}
	if n, err := queuesInUse(index); err != nil {
		return fmt.Errorf("network %s: %w", t.name, err)
	} else if n > 0 {
		return t.inUse()
	}
	for range o.Pairs {
		if err := t.addQueue(o.Pairs); err != nil {
			return err
		}
	}
	// A TAP that went away in between was made anew by TUNSETIFF, for us alone.
	if again, err := t.find(); err != nil || again != index {
		return t.missing()
	}
	return nil
}

// find looks for the interface and its MTU: TUNSETIFF would make one that is
// not there, which nobody has connected to anything.
func (t *tap) find() (index int, err error) {
	i, err := hostnet.InterfaceByName(t.name)
	if err != nil {
		return 0, t.missing()
	}
	t.mtu, t.up = i.MTU, i.Flags&hostnet.FlagUp != 0
	return i.Index, nil
}

func (t *tap) missing() error {
	return fmt.Errorf("network %s: no such interface; make one with: ip tuntap add %s mode tap && ip link set %s up", t.name, t.name, t.name)
}

const tapFlags = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR

// addQueue opens one more queue of the TAP. One that has room for several
// wants to be asked for as such, even by a user of one.
func (t *tap) addQueue(pairs int) error {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("network %s: open %s: %w; load it with: modprobe tun, or run as a user who may open it", t.name, tunDevice, err)
	}
	if pairs > 1 {
		err = t.bind(fd, tapFlags|unix.IFF_MULTI_QUEUE)
	} else if err = t.bind(fd, tapFlags); errors.Is(err, unix.EINVAL) {
		err = t.bind(fd, tapFlags|unix.IFF_MULTI_QUEUE)
	}
	if err != nil {
		unix.Close(fd)
		return t.bindError(err, pairs)
	}
	return t.add(fd)
}

func (t *tap) bind(fd int, flags uint16) error {
	request, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	request.SetUint16(flags)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

func (t *tap) inUse() error {
	return fmt.Errorf("network %s: in use by another machine; end that one, or give another TAP", t.name)
}

func (t *tap) bindError(err error, pairs int) error {
	switch {
	case errors.Is(err, unix.EBUSY):
		return t.inUse()
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("network %s: it belongs to another user; make it yours with: ip tuntap add %s mode tap user NAME", t.name, t.name)
	case errors.Is(err, unix.EINVAL) && pairs > 1:
		return fmt.Errorf("network %s: not a TAP of several queues, and %d are asked for; make one with: ip tuntap add %s mode tap multi_queue", t.name, pairs, t.name)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("network %s: not a TAP; make one with: ip tuntap add NAME mode tap", t.name)
	}
	return fmt.Errorf("network %s: attach to the TAP: %w", t.name, err)
}

// inherit takes descriptors that somebody else opened, and asks what they are.
func (t *tap) inherit(fds []int) error {
	for _, fd := range fds {
		request, err := unix.NewIfreq("")
		if err == nil {
			err = unix.IoctlIfreq(fd, unix.TUNGETIFF, request)
		}
		if err != nil {
			return fmt.Errorf("network: descriptor %d is not a TAP: %w", fd, err)
		}
		if flags := request.Uint16(); flags&tapFlags != tapFlags {
			return fmt.Errorf("network: descriptor %d: open it with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR (flags are %#x)", fd, flags)
		}
		t.name = request.Name()
		if err := t.add(fd); err != nil {
			return err
		}
	}
	if _, err := t.find(); err != nil { // it may be in another network namespace
		t.mtu, t.up = 1500, true
	}
	return nil
}

// add makes fd, which is bound, the next port.
func (t *tap) add(fd int) error {
	port, err := newPort(fd, t.name)
	if err != nil {
		unix.Close(fd)
		return err
	}
	t.ports, t.attached = append(t.ports, port), append(t.attached, true)
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, headerSize); err != nil {
		return fmt.Errorf("network %s: set the size of its headers: %w", t.name, err)
	}
	return nil
}

// tunOffloads are the TAP's names for features.
var tunOffloads = []struct {
	feature uint64
	flag    int
}{
	{FeatureGuestCsum, unix.TUN_F_CSUM},
	{FeatureGuestTSO4, unix.TUN_F_TSO4},
	{FeatureGuestTSO6, unix.TUN_F_TSO6},
	{FeatureGuestECN, unix.TUN_F_TSO_ECN},
}

// tunFlags leaves out what lacks its base (§5.1.3.1), which the TAP would refuse.
func tunFlags(features uint64) int {
	flags := 0
	for _, o := range tunOffloads {
		if features&o.feature != 0 {
			flags |= o.flag
		}
	}
	switch {
	case flags&unix.TUN_F_CSUM == 0:
		return 0
	case flags&(unix.TUN_F_TSO4|unix.TUN_F_TSO6) == 0:
		return unix.TUN_F_CSUM
	}
	return flags
}

// offload is for the TAP as a whole.
func (t *tap) offload(features uint64) error {
	flags := tunFlags(features)
	if err := unix.IoctlSetInt(int(t.ports[0]), unix.TUNSETOFFLOAD, flags); err != nil {
		return fmt.Errorf("network %s: set its offloads to %#x: %w", t.name, flags, err)
	}
	return nil
}

func (t *tap) attach(i int, on bool) error {
	if t.attached[i] == on {
		return nil
	}
	flags := uint16(unix.IFF_DETACH_QUEUE)
	if on {
		flags = unix.IFF_ATTACH_QUEUE
	}
	request, err := unix.NewIfreq("")
	if err == nil {
		request.SetUint16(flags)
		err = unix.IoctlIfreq(int(t.ports[i]), unix.TUNSETQUEUE, request)
	}
	if err != nil {
		return fmt.Errorf("network %s: attach queue %d (%v): %w", t.name, i, on, err)
	}
	t.attached[i] = on
	return nil
}

func (*tap) header() int         { return headerSize }
func (*tap) lacks() uint64       { return 0 }
func (*tap) admits(*header) bool { return true } // it does what the guest cannot
func (t *tap) String() string    { return t.name }

package sys

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"bulkhead/sentry/fs/kernfs"
	"bulkhead/sentry/vfs"
)

// Interface is a network interface, as it is at one moment.
type Interface struct {
	Index                          int
	Name                           string
	Type                           uint16 // ARPHRD_…
	Flags                          uint32 // IFF_…
	MTU, Queue                     uint32
	Address, Broadcast             []byte
	State                          uint8 // IF_OPER_…
	RxPackets, RxBytes             uint64
	TxPackets, TxBytes             uint64
	RxDropped, RxMissed, TxDropped uint64
}

// operStates are the words of net/core/net-sysfs.c, operstates.
var operStates = []string{"unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"}

// mac is an Ethernet address as the kernel prints it.
func mac(b []byte) string {
	var s []string
	for _, x := range b {
		s = append(s, fmt.Sprintf("%02x", x))
	}
	return strings.Join(s, ":")
}

func (i *Interface) up() bool       { return i.Flags&unix.IFF_UP != 0 }
func (i *Interface) ethernet() bool { return i.Type == unix.ARPHRD_ETHER }

// invalid is what reads as EINVAL: it has a meaning only while the interface is up, or has a
// cable.
const invalid = "\x00"

// interfaceFiles are those of net/core/net-sysfs.c.
var interfaceFiles = []struct {
	name string
	read func(*Interface) string
}{
	{"addr_assign_type", always("0")}, {"addr_len", always("6")}, {"address", func(i *Interface) string { return mac(i.Address) }},
	{"broadcast", func(i *Interface) string { return mac(i.Broadcast) }}, {"carrier", whileUp("1")}, {"carrier_changes", always("0")},
	{"carrier_down_count", always("0")}, {"carrier_up_count", always("0")}, {"dev_id", always("0x0")}, {"dev_port", always("0")},
	{"dormant", whileUp("0")}, {"duplex", ofCable("full")},
	// What is kept of the flags without regard to how the interface is (dev->flags).
	{"flags", func(i *Interface) string {
		return fmt.Sprintf("%#x", i.Flags&(unix.IFF_UP|unix.IFF_BROADCAST|unix.IFF_LOOPBACK|unix.IFF_MULTICAST|unix.IFF_PROMISC))
	}},
	{"ifalias", always("")}, {"gro_flush_timeout", always("0")}, {"ifindex", func(i *Interface) string { return strconv.Itoa(i.Index) }},
	{"iflink", func(i *Interface) string { return strconv.Itoa(i.Index) }}, {"link_mode", always("0")},
	{"mtu", func(i *Interface) string { return fmt.Sprint(i.MTU) }}, {"name_assign_type", func(i *Interface) string {
		if !i.ethernet() {
			return "2" // NET_NAME_PREDICTABLE
		}
		return "4" // NET_NAME_RENAMED
	}}, {"napi_defer_hard_irqs", always("0")}, {"netdev_group", always("0")},
	{"operstate", func(i *Interface) string { return operStates[min(int(i.State), len(operStates)-1)] }}, {"proto_down", always("0")},
	{"speed", ofCable("10000")}, {"testing", whileUp("0")}, {"threaded", always("0")}, {"tx_queue_len", func(i *Interface) string { return fmt.Sprint(i.Queue) }},
	{"type", func(i *Interface) string { return fmt.Sprint(i.Type) }},
	{"uevent", func(i *Interface) string { return fmt.Sprintf("INTERFACE=%s\nIFINDEX=%d", i.Name, i.Index) }},
}

func always(s string) func(*Interface) string { return func(*Interface) string { return s } }

func whileUp(s string) func(*Interface) string {
	return func(i *Interface) string {
		if !i.up() {
			return invalid
		}
		return s
	}
}

// ofCable is what ethtool says of a veth, which a container has; loopback has none.
func ofCable(s string) func(*Interface) string {
	return func(i *Interface) string {
		if !i.ethernet() {
			return invalid
		}
		return s
	}
}

// statistics are struct rtnl_link_stats64's fields in net-sysfs.c; who is not counted has none.
var statistics = []string{"collisions", "multicast", "rx_bytes", "rx_compressed", "rx_crc_errors", "rx_dropped", "rx_errors", "rx_fifo_errors",
	"rx_frame_errors", "rx_length_errors", "rx_missed_errors", "rx_nohandler", "rx_over_errors", "rx_packets", "tx_aborted_errors", "tx_bytes",
	"tx_carrier_errors", "tx_compressed", "tx_dropped", "tx_errors", "tx_fifo_errors", "tx_heartbeat_errors", "tx_packets", "tx_window_errors"}

func (i *Interface) counter(name string) uint64 {
	switch name {
	case "rx_bytes":
		return i.RxBytes
	case "rx_packets":
		return i.RxPackets
	case "rx_dropped":
		return i.RxDropped
	case "rx_missed_errors":
		return i.RxMissed
	case "tx_dropped":
		return i.TxDropped
	case "tx_bytes":
		return i.TxBytes
	case "tx_packets":
		return i.TxPackets
	}
	return 0
}

// interfaces shows those of one network namespace, as they come, go and change their names.
type interfaces struct {
	fs  *kernfs.FileSystem
	now func() []Interface

	mu   sync.Mutex
	dirs map[int]*kernfs.Dir // by index
}

// network adds /sys/class/net and /sys/devices/virtual/net.
func (b *builder) network(root *kernfs.Dir) {
	n := &interfaces{fs: b.fs, now: b.cfg.Interfaces, dirs: map[int]*kernfs.Dir{}}
	class, devices := b.dir(root, "class/net"), b.dir(root, "devices/virtual/net")
	class.List = func(vfs.Context) ([]kernfs.Entry, error) { return n.list(unix.DT_LNK), nil }
	class.Find = func(_ vfs.Context, name string) (vfs.Inode, error) {
		if _, ok := n.named(name); !ok {
			return nil, unix.ENOENT
		}
		return b.fs.TextLink("../../devices/virtual/net/" + name), nil
	}
	devices.List = func(vfs.Context) ([]kernfs.Entry, error) { return n.list(unix.DT_DIR), nil }
	devices.Find = func(_ vfs.Context, name string) (vfs.Inode, error) {
		i, ok := n.named(name)
		if !ok {
			return nil, unix.ENOENT
		}
		return n.dir(i.Index), nil
	}
}

func (n *interfaces) list(kind uint8) (list []kernfs.Entry) {
	for _, i := range n.now() {
		list = append(list, kernfs.Entry{Name: i.Name, Ino: uint64(i.Index), Type: kind, Key: int64(i.Index)})
	}
	slices.SortFunc(list, func(a, b kernfs.Entry) int { return int(a.Key - b.Key) })
	return list
}

func (n *interfaces) named(name string) (Interface, bool) {
	return n.find(func(i *Interface) bool { return i.Name == name })
}

func (n *interfaces) find(match func(*Interface) bool) (Interface, bool) {
	for _, i := range n.now() {
		if match(&i) {
			return i, true
		}
	}
	return Interface{}, false
}

// dir is the directory of an interface, made once; how it is is asked for with each read.
func (n *interfaces) dir(index int) *kernfs.Dir {
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.dirs[index]; d != nil {
		return d
	}
	d := n.fs.NewDir(0o555)
	file := func(d *kernfs.Dir, name string, read func(*Interface) string) {
		d.Add(name, n.fs.NewFile(0o444, func(vfs.Context) ([]byte, error) {
			i, ok := n.find(func(i *Interface) bool { return i.Index == index })
			if !ok {
				return nil, unix.ENODEV
			}
			switch text := read(&i); text {
			case invalid:
				return nil, unix.EINVAL
			case "":
				return nil, nil
			default:
				return []byte(text + "\n"), nil
			}
		}))
	}
	for _, f := range interfaceFiles {
		file(d, f.name, f.read)
	}
	counters := d.Sub("statistics")
	for _, name := range statistics {
		file(counters, name, func(i *Interface) string { return fmt.Sprint(i.counter(name)) })
	}
	d.Add("subsystem", n.fs.TextLink("../../../../class/net"))
	n.dirs[index] = d
	return d
}

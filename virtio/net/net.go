// Package net is the network device (virtio 1.3 §5.1) on a TAP of the host, or on a packet
// socket. It knows chains and its TAP; how the guest runs and how it hears of a used
// buffer is the transport's business.
//
// Frames go straight between guest memory and the TAP, behind a header that
// says what is left to do for the other side (checksums, segmentation). The
// guest's header is read once, checked, and passed on as our copy.
//
// Each pair of queues has a goroutine, which waits for the TAP and both doorbells
// by one poll(2); the control queue's starts and
// ends pairs as the driver asks. Device.mu guards what it changes and others
// read; nothing is called from beneath it.
package net

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	hostnet "net"
	"sync"
	"sync/atomic"

	"bulkhead/virtio"
	"bulkhead/virtio/ratelimit"
)

// Feature bits (§5.1.3).
const (
	FeatureCsum          = 1 << 0 // the driver leaves checksums to us
	FeatureGuestCsum     = 1 << 1 // and we leave them to it
	FeatureGuestOffloads = 1 << 2
	FeatureMTU           = 1 << 3
	FeatureMAC           = 1 << 5
	FeatureGuestTSO4     = 1 << 7
	FeatureGuestTSO6     = 1 << 8
	FeatureGuestECN      = 1 << 9
	FeatureHostTSO4      = 1 << 11
	FeatureHostTSO6      = 1 << 12
	FeatureHostECN       = 1 << 13
	FeatureMergeable     = 1 << 15
	FeatureStatus        = 1 << 16
	FeatureControl       = 1 << 17
	FeatureControlRx     = 1 << 18
	FeatureMultiQueue    = 1 << 22
	FeatureControlMAC    = 1 << 23

	guestOffloads = FeatureGuestCsum | FeatureGuestTSO4 | FeatureGuestTSO6 | FeatureGuestECN
)

const (
	queueSize   = 256 // entries
	controlSize = 64  // entries
	maxPairs    = 16
	minMTU      = 68 // bytes (§5.1.4.1)
	maxMTU      = 65535
)

// Options are an interface's. Tap, FDs or Socket say where its frames go; Unplugged, that
// they go nowhere.
type Options struct {
	Name      string // for people; Tap by default
	Socket    int    // packet socket with PACKET_VNET_HDR, the device's from then on; 0 is none
	Unplugged bool

	Tap   string // name of a TAP that exists
	FDs   []int  // or TAP queues that are open; they are the device's from then on
	Pairs int    // queue pairs with Tap; 0 is 1
	MAC   hostnet.HardwareAddr
	MTU   int // 0 is the TAP's own
	// What the guest may receive and send.
	ReceiveLimit, SendLimit ratelimit.Limits
	Log                     *slog.Logger // nil is silent
}

// Stats counts frames since the device was made, seen from the guest. Dropped
// ones are not among the others.
type Stats struct {
	Received, ReceivedBytes, ReceiveDropped uint64
	Sent, SentBytes, SendDropped            uint64
}

// Device implements virtio.Runner, Configured, Resetter and Keeper.
type Device struct {
	host                host
	mtu                 int
	address             hostnet.HardwareAddr // after a reset
	log                 *slog.Logger
	receiveMay, sendMay *ratelimit.Limiter
	pairs               []*pair

	mu   sync.Mutex
	mode mode
	up   bool // the link

	// While it runs.
	active  *virtio.Active
	control *virtio.Queue
	server  sync.WaitGroup // of the control queue

	received, receivedBytes, receiveDropped, sent, sentBytes, sendDropped atomic.Uint64
}

// mode is what the driver chooses while it runs, and a snapshot keeps.
type mode struct {
	chosen   bool // by a driver's start; not after a reset
	mac      [6]byte
	offloads uint64 // of guestOffloads
	pairs    int    // that are in use
	rx       byte   // PROMISC and ALLMULTI, bits 0 and 1; we filter nothing
}

// New makes a device of a TAP.
func New(o Options) (*Device, error) {
	if o.Pairs == 0 {
		o.Pairs = 1
	}
	if o.Pairs < 1 || o.Pairs > maxPairs || len(o.FDs) > maxPairs {
		return nil, fmt.Errorf("network %s: %d queue pairs; give 1 to %d", o.Tap, max(o.Pairs, len(o.FDs)), maxPairs)
	}
	if err := checkMAC(o); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Unplugged {
		return newDevice(unplugged{o.Name}, []port{noPort}, o), nil
	}
	if o.Socket != 0 {
		p, at, err := newPacket(o)
		if err != nil {
			return nil, err
		}
		return newDevice(p, []port{at}, o), nil
	}
	tap, err := openTap(o)
	if err != nil {
		return nil, err
	}
	if o.MTU == 0 {
		o.MTU = min(max(tap.mtu, minMTU), maxMTU)
	}
	if !tap.up {
		o.Log.Warn("TAP is down; no frame passes before it is up", "device", tap.name, "try", "ip link set "+tap.name+" up")
	}
	return newDevice(tap, tap.ports, o), nil
}

func checkMAC(o Options) error {
	switch {
	case o.MTU != 0 && (o.MTU < minMTU || o.MTU > maxMTU):
		return fmt.Errorf("network %s: MTU %d; give %d to %d", o.Tap, o.MTU, minMTU, maxMTU)
	case o.MAC == nil:
	case len(o.MAC) != 6:
		return fmt.Errorf("network %s: MAC %s has %d bytes; give 6, as in 02:00:00:00:00:01", o.Tap, o.MAC, len(o.MAC))
	case o.MAC[0]&1 != 0:
		return fmt.Errorf("network %s: MAC %s is a group's; give one with an even first byte, as in 02:00:00:00:00:01", o.Tap, o.MAC)
	}
	return nil
}

func newDevice(h host, ports []port, o Options) *Device {
	if o.MAC == nil {
		o.MAC = RandomMAC()
	}
	d := &Device{
		host: h, mtu: o.MTU, address: o.MAC, log: o.Log, up: true,
		receiveMay: ratelimit.New(o.ReceiveLimit), sendMay: ratelimit.New(o.SendLimit),
	}
	for _, port := range ports {
		d.pairs = append(d.pairs, newPair(d, port))
	}
	d.Reset()
	return d
}

// RandomMAC is a locally administered address.
func RandomMAC() hostnet.HardwareAddr {
	mac := make(hostnet.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac
}

// Close lets go of the TAP; the device has been stopped.
func (d *Device) Close() error {
	var errs []error
	for _, p := range d.pairs {
		errs = append(errs, p.port.close())
	}
	return errors.Join(errs...)
}

// MAC is the address that the guest has now.
func (d *Device) MAC() hostnet.HardwareAddr {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(hostnet.HardwareAddr(nil), d.mode.mac[:]...)
}

// Stats is a look at the counters, which go on.
func (d *Device) Stats() Stats {
	return Stats{
		Received: d.received.Load(), ReceivedBytes: d.receivedBytes.Load(), ReceiveDropped: d.receiveDropped.Load(),
		Sent: d.sent.Load(), SentBytes: d.sentBytes.Load(), SendDropped: d.sendDropped.Load(),
	}
}

// ID implements virtio.Device.
func (*Device) ID() virtio.DeviceID { return virtio.Net }

// Queues implements virtio.Device: receiver and sender of each pair, then control.
func (d *Device) Queues() []uint16 {
	var sizes []uint16
	for range d.pairs {
		sizes = append(sizes, queueSize, queueSize)
	}
	return append(sizes, controlSize)
}

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := uint64(FeatureCsum | FeatureHostTSO4 | FeatureHostTSO6 | FeatureHostECN | guestOffloads | FeatureGuestOffloads |
		FeatureMTU | FeatureMAC | FeatureStatus | FeatureMergeable | FeatureControl | FeatureControlRx | FeatureControlMAC)
	if len(d.pairs) > 1 {
		f |= FeatureMultiQueue
	}
	return f &^ d.host.lacks()
}

// Start implements virtio.Runner. After a reset one pair is in use, until the
// driver asks for more (§5.1.6.5.5).
func (d *Device) Start(a *virtio.Active) error {
	d.mu.Lock()
	if !d.mode.chosen {
		d.mode.chosen, d.mode.offloads, d.mode.pairs = true, a.Features&guestOffloads, 1
	}
	offloads, pairs := d.mode.offloads, d.mode.pairs
	d.mu.Unlock()
	if err := d.host.offload(offloads); err != nil {
		return err
	}
	d.active = a
	for i := range d.pairs {
		if err := d.attach(i, i < pairs); err != nil {
			d.Stop()
			return err
		}
	}
	d.startControl(a)
	return nil
}

// startControl serves the last queue, which comes after one pair if there is
// no VIRTIO_NET_F_MQ (§5.1.2).
func (d *Device) startControl(a *virtio.Active) {
	at := 2
	if a.Features&FeatureMultiQueue != 0 {
		at = 2 * len(d.pairs)
	}
	if d.control = a.Queues[at]; d.control == nil || a.Features&FeatureControl == 0 {
		d.control = nil
		return
	}
	d.control.Release()
	d.server.Go(func() {
		if err := d.serveControl(d.control); !errors.Is(err, virtio.ErrStopped) {
			d.fail(fmt.Errorf("control queue: %w", err))
		}
	})
}

// Stop implements virtio.Runner. The control queue ends first, for it starts pairs.
func (d *Device) Stop() {
	if d.active == nil {
		return
	}
	if d.control != nil {
		d.control.Interrupt()
	}
	d.server.Wait()
	for _, p := range d.pairs {
		p.stop()
	}
	d.active, d.control = nil, nil
}

func (d *Device) fail(err error) { d.active.Fail(fmt.Errorf("network %v: %w", d.host, err)) }

// use changes how many pairs are in use. It is the control queue's.
func (d *Device) use(pairs int) error {
	d.mu.Lock()
	d.mode.pairs = pairs
	d.mu.Unlock()
	for i := range d.pairs {
		if err := d.attach(i, i < pairs); err != nil {
			return err
		}
	}
	return nil
}

// attach takes pair i in use, or out of use.
func (d *Device) attach(i int, on bool) error {
	p := d.pairs[i]
	if !on {
		p.stop()
	}
	if err := d.host.attach(i, on); err != nil || !on {
		return err
	}
	return p.start(d.active.Queues[2*i], d.active.Queues[2*i+1])
}

// lost says once that the TAP is gone, to the log and to the driver.
func (d *Device) lost(err error) {
	d.mu.Lock()
	was := d.up
	d.up = false
	d.mu.Unlock()
	if was {
		d.log.Error("TAP is gone; the guest's link is down", "device", d.host.String(), "err", err)
		d.active.ConfigChanged()
	}
}

// Reset implements virtio.Resetter.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mode = mode{mac: [6]byte(d.address), pairs: 1}
}

// modeSize is a mode in a snapshot.
const modeSize = 1 + 6 + 8 + 2 + 1 // bytes

// Save implements virtio.Keeper.
func (d *Device) Save() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := &d.mode
	b := append([]byte{0}, m.mac[:]...)
	if m.chosen {
		b[0] = 1
	}
	b = binary.LittleEndian.AppendUint64(b, m.offloads)
	b = binary.LittleEndian.AppendUint16(b, uint16(m.pairs))
	return append(b, m.rx), nil
}

// Restore implements virtio.Keeper. The guest keeps its address.
func (d *Device) Restore(b []byte) error {
	if len(b) != modeSize {
		return fmt.Errorf("network %v: restore: %d bytes of state, want %d", d.host, len(b), modeSize)
	}
	m := mode{
		chosen: b[0] != 0, mac: [6]byte(b[1:7]), offloads: binary.LittleEndian.Uint64(b[7:]),
		pairs: int(binary.LittleEndian.Uint16(b[15:])), rx: b[17],
	}
	if b[0] > 1 || m.offloads&^guestOffloads != 0 || m.rx > 3 {
		return fmt.Errorf("network %v: restore: a state that no machine writes: % x", d.host, b)
	}
	if m.pairs < 1 || m.pairs > len(d.pairs) {
		return fmt.Errorf("network %v: restore: the guest uses %d queue pairs, the TAP has %d; give one with as many", d.host, m.pairs, len(d.pairs))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mode = m
	return nil
}

const (
	configSize = 12 // bytes (§5.1.4)
	linkUp     = 1
)

// ReadConfig implements virtio.Configured.
func (d *Device) ReadConfig(at uint32, b []byte) {
	clear(b)
	if c := d.config(); at < configSize {
		copy(b, c[at:])
	}
}

func (d *Device) config() [configSize]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	var c [configSize]byte
	copy(c[:], d.mode.mac[:])
	if d.up {
		c[6] = linkUp
	}
	binary.LittleEndian.PutUint16(c[8:], uint16(len(d.pairs)))
	binary.LittleEndian.PutUint16(c[10:], uint16(d.mtu))
	return c
}

// WriteConfig implements virtio.Configured: the address is set by the control queue.
func (*Device) WriteConfig(uint32, []byte) {}

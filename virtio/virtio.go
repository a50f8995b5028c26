// Package virtio is virtio 1.x as a device sees it: guest memory, feature bits,
// split queues and the chains of buffers that come through them. It follows
// "Virtual I/O Device (VIRTIO) Version 1.3"; sections are cited as §2.7. A
// device sees queues and guest memory and nothing else: registers and
// interrupts are the transport's (virtio/mmio), and how the guest runs is the
// machine's (vmm).
//
// Everything that a guest wrote is hostile: it is read once, checked, and
// decided upon in our copy. What breaks the specification becomes an error, on
// which the transport stops the device and sets DEVICE_NEEDS_RESET (§2.1.2).
package virtio

// Addr is an address in the guest's physical memory. It is the driver's number
// until Memory has said yes to it.
type Addr uint64

// Memory is the guest's RAM.
type Memory interface {
	// Slice is the n bytes of RAM at addr, as they are: the guest may change
	// them at any time. It fails if any of them is not RAM, or if they do
	// not lie together.
	Slice(addr Addr, n uint64) ([]byte, error)
}

// DeviceID is a device's type (§5).
type DeviceID uint32

const (
	Net     DeviceID = 1
	Block   DeviceID = 2
	Console DeviceID = 3
	Entropy DeviceID = 4
	Balloon DeviceID = 5
	Vsock   DeviceID = 19
	FS      DeviceID = 26
)

// Feature bits of every device (§6). The queue and the transport answer for
// these; a device's own Features leaves them out.
const (
	FeatureIndirectDesc   = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx       = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1       = 1 << 32 // VIRTIO_F_VERSION_1
	FeatureAccessPlatform = 1 << 33
	FeatureRingReset      = 1 << 40
)

// Device is what every device can tell of itself before it runs. It is also a
// Server or a Runner, and may be Configured and a Keeper.
type Device interface {
	ID() DeviceID
	Features() uint64 // what it offers, less the bits above
	Queues() []uint16 // the largest size of each queue, in entries
}

// Server is a device that answers one buffer after the other. Whoever wires it
// (Serve) gives each queue a goroutine of its own, so calls for different
// queues may overlap.
type Server interface {
	Device
	// Serve answers c and says how many bytes it wrote into it. After an
	// error the device needs a reset and Serve is called no more.
	Serve(queue int, c *Chain) (written int, err error)
}

// Runner is a device with goroutines of its own.
type Runner interface {
	Device
	// Start begins work: the driver has set DRIVER_OK (or a machine resumes).
	Start(a *Active) error
	// Stop ends all goroutines and waits for them. Every chain taken from a
	// queue has been given back to it when Stop returns, so the rings are
	// all there is to save. The device may be started again, with other
	// features and queues (after a reset) or the same (after a pause).
	// Reset tells which: see Keeper.
	Stop()
}

// Active is a device in operation: what the driver settled on.
type Active struct {
	Features uint64   // negotiated
	Queues   []*Queue // those the driver did not enable are nil
	// ConfigChanged tells the driver that the configuration space differs
	// (§2.5): the generation goes up, and a configuration interrupt is sent.
	ConfigChanged func()
	// Fail stops the device for what the driver did, with
	// DEVICE_NEEDS_RESET. It may be called from the device's own goroutines
	// and returns at once; Stop follows.
	Fail func(error)
}

// Interrupt ends the waits at all queues (Queue.Interrupt), as a Runner's Stop begins with.
func (a *Active) Interrupt() {
	for _, q := range a.Queues {
		if q != nil {
			q.Interrupt()
		}
	}
}

// Configured is a device with a configuration space.
type Configured interface {
	// ReadConfig fills b from offset at. Bytes past the end of the space read 0.
	ReadConfig(at uint32, b []byte)
	// WriteConfig takes a driver's write; what may not be written is ignored.
	WriteConfig(at uint32, b []byte)
}

// Resetter is a device with state that a driver's reset clears (negotiated
// modes, connections). Reset is called after Stop, never during a pause.
type Resetter interface{ Reset() }

// Keeper is a device with state of its own to keep in a snapshot, beyond
// features and queues, which the transport keeps. Save is called while the
// device is stopped, Restore before its first Start.
type Keeper interface {
	Save() ([]byte, error)
	Restore(state []byte) error
}

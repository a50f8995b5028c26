// Package mmio is virtio over MMIO (virtio 1.3 §4.2, version 2 of its
// registers): what a driver reads and writes, the ladder of a device's status,
// and when a device runs. It turns rings and interrupts into calls of its
// Lines, and knows neither KVM nor where in memory it lies.
//
// Locks: Transport.mu, and beneath it the device's own. A device's goroutines
// never take mu, since it is held while they are stopped: what they tell us
// (Active) goes through atomics, or a goroutine of its own (Fail).
package mmio

import (
	"fmt"
	"sync"
	"sync/atomic"

	"bulkhead/virtio"
)

const (
	// Size is the address space of a device, in bytes.
	Size = 0x1000
	// QueueNotify is the offset whose 32-bit write of a queue's index rings
	// its doorbell. A machine may take these writes by ioeventfd.
	QueueNotify = 0x050
)

// Lines tie a transport to its machine. Each may be nil.
type Lines struct {
	// Interrupt raises the device's interrupt, an edge. It is called from
	// any goroutine and must not block.
	Interrupt func()
	// Doorbell is asked once for each queue. Without it the doorbells are
	// channels, rung by Write alone.
	Doorbell func(queue int) virtio.Doorbell
	// Failed hears why a device needs a reset. It does not call the transport.
	Failed func(error)
}

// Transport is one device's window of registers.
type Transport struct {
	device   virtio.Device
	runner   virtio.Runner
	config   virtio.Configured // nil: no configuration space
	features uint64            // offered
	mem      virtio.Memory
	lines    Lines
	bells    []virtio.Doorbell // one a queue

	interrupts atomic.Uint32 // InterruptStatus
	generation atomic.Uint32 // ConfigGeneration
	failing    sync.WaitGroup
	counters   counters

	mu             sync.Mutex
	status         Status
	deviceSel      uint32 // which 32 bits of the features the driver looks at
	driverSel      uint32
	driverFeatures uint64
	queueSel       uint32
	queues         []queue
	active         *virtio.Active // set by DRIVER_OK until the device is reset or fails
	paused         bool
	past           virtio.Traffic // of queues that are no more
}

// queue is a queue's registers.
type queue struct {
	virtio.Layout
	max  uint16
	live *virtio.Queue // QueueReady
}

// New is device in its state after reset. Its interrupt status, queues and
// features are the transport's business; a virtio.Server is served by a
// goroutine a queue.
func New(device virtio.Device, mem virtio.Memory, lines Lines) (*Transport, error) {
	t := &Transport{device: device, mem: mem, lines: lines}
	switch d := device.(type) {
	case virtio.Runner:
		t.runner = d
	case virtio.Server:
		t.runner = virtio.Serve(d)
	default:
		return nil, fmt.Errorf("mmio: device %T is neither a Server nor a Runner", device)
	}
	t.config, _ = device.(virtio.Configured)
	t.offer()
	for i, max := range device.Queues() {
		t.queues = append(t.queues, queue{max: max})
		if lines.Doorbell != nil {
			t.bells = append(t.bells, lines.Doorbell(i))
		} else {
			t.bells = append(t.bells, make(channelBell, 1))
		}
	}
	return t, nil
}

// offer is what the next driver finds.
func (t *Transport) offer() {
	t.features = t.device.Features() | virtio.FeatureVersion1 | virtio.FeatureIndirectDesc |
		virtio.FeatureEventIdx | virtio.FeatureRingReset
}

// channelBell is a doorbell that only this process rings.
type channelBell chan struct{}

func (c channelBell) Wait() error { <-c; return nil }
func (c channelBell) Ring() {
	select {
	case c <- struct{}{}:
	default: // it is ringing
	}
}

// Read is a driver's read of len(b) bytes at offset at. What is no register,
// or not read as §4.2.2.2 wants it, reads 0.
func (t *Transport) Read(at uint64, b []byte) {
	clear(b)
	if at >= configSpace {
		if t.config != nil && within(at, b) {
			t.config.ReadConfig(uint32(at-configSpace), b)
		}
		return
	}
	r := registerAt(at, b)
	if r == nil || r.read == nil {
		t.counters.refused.Add(1)
		return
	}
	if !r.unlocked {
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	putUint32(b, r.read(t))
}

// Write is a driver's write of b at offset at. What is no register, or not
// written as §4.2.2.2 wants it, is ignored.
func (t *Transport) Write(at uint64, b []byte) {
	if at >= configSpace {
		if t.config != nil && within(at, b) {
			t.config.WriteConfig(uint32(at-configSpace), b)
		}
		return
	}
	r := registerAt(at, b)
	if r == nil || r.write == nil {
		t.counters.refused.Add(1)
		return
	}
	if !r.unlocked {
		t.mu.Lock()
		defer t.mu.Unlock()
	}
	if !r.write(t, getUint32(b)) {
		t.counters.refused.Add(1)
	}
}

func within(at uint64, b []byte) bool { return uint64(len(b)) <= Size && at <= Size-uint64(len(b)) }

// Pause stops the device where it is, so that all it has to keep is in the
// rings and in Save. The machine's vCPUs have stopped before.
func (t *Transport) Pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused {
		t.stopLocked()
		t.paused = true
	}
}

// Resume lets a paused device go on.
func (t *Transport) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused {
		return
	}
	t.paused = false
	t.startLocked()
	if t.interrupts.Load() != 0 {
		t.raise() // it may have been lost with the machine that was saved
	}
}

// Close stops the device for good.
func (t *Transport) Close() {
	t.Pause()
	t.failing.Wait()
}

// startLocked runs the device if the driver has said so.
func (t *Transport) startLocked() {
	if t.active == nil || t.paused {
		return
	}
	if err := t.runner.Start(t.active); err != nil {
		t.failLocked(err)
	}
}

// stopLocked waits for the device's goroutines.
func (t *Transport) stopLocked() {
	if t.active != nil && !t.paused {
		t.runner.Stop()
	}
}

// activateLocked is DRIVER_OK.
func (t *Transport) activateLocked() {
	active := &virtio.Active{Features: t.driverFeatures, ConfigChanged: t.configChanged}
	for _, q := range t.queues {
		active.Queues = append(active.Queues, q.live)
	}
	var once sync.Once
	active.Fail = func(err error) {
		once.Do(func() { t.failing.Go(func() { t.failed(active, err) }) })
	}
	t.active = active
	t.startLocked()
}

// failed ends the operation that Fail belongs to, if it has not ended by itself.
func (t *Transport) failed(active *virtio.Active, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.active == active {
		t.stopLocked()
		t.failLocked(err)
	}
}

// failLocked says that only a reset helps (§2.1.2). The device does not run.
func (t *Transport) failLocked(err error) {
	t.active = nil
	t.status |= NeedsReset
	t.counters.failures.Add(1)
	if t.status&DriverOK != 0 {
		t.configChanged()
	}
	if t.lines.Failed != nil {
		t.lines.Failed(err)
	}
}

// resetLocked is a write of 0 to Status (§2.4, §4.2.2.1).
func (t *Transport) resetLocked() {
	t.stopLocked()
	t.active = nil
	if r, ok := t.device.(virtio.Resetter); ok {
		r.Reset()
	}
	for i := range t.queues {
		t.dropLocked(i)
	}
	t.status = 0
	t.deviceSel, t.driverSel, t.driverFeatures, t.queueSel = 0, 0, 0, 0
	t.interrupts.Store(0)
	t.counters.resets.Add(1)
}

// Bits of InterruptStatus.
const (
	usedBuffer    = 1
	configuration = 2
)

func (t *Transport) usedBuffer() {
	t.interrupts.Or(usedBuffer)
	t.raise()
}

func (t *Transport) configChanged() {
	t.generation.Add(1)
	t.interrupts.Or(configuration)
	t.raise()
}

// raise is an edge for every event, also for one whose bit the driver has not
// yet acknowledged: it may be just about to.
func (t *Transport) raise() {
	t.counters.interrupts.Add(1)
	if t.lines.Interrupt != nil {
		t.lines.Interrupt()
	}
}

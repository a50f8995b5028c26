package mmio

import (
	"encoding/binary"
	"fmt"

	"bulkhead/virtio"
)

// configSpace is where the device's own configuration begins.
const configSpace = 0x100

const (
	magic  = 0x74726976 // "virt"
	vendor = 0x4b4c5542 // "BULK"
)

// A register is reached by aligned 32-bit accesses alone (§4.2.2.2). A write
// answers false when it came out of turn and was ignored.
type register struct {
	name     string
	read     func(*Transport) uint32
	write    func(*Transport, uint32) bool
	unlocked bool // it does without Transport.mu
}

// registers are those of §4.2.2, by offset in words.
var registers = [configSpace / 4]register{
	0:         {name: "MagicValue", read: constant(magic), unlocked: true},
	0x004 / 4: {name: "Version", read: constant(2), unlocked: true},
	0x008 / 4: {name: "DeviceID", read: func(t *Transport) uint32 { return uint32(t.device.ID()) }, unlocked: true},
	0x00c / 4: {name: "VendorID", read: constant(vendor), unlocked: true},
	0x010 / 4: {name: "DeviceFeatures", read: func(t *Transport) uint32 { return half(t.features, t.deviceSel) }},
	0x014 / 4: {name: "DeviceFeaturesSel", write: func(t *Transport, v uint32) bool { t.deviceSel = v; return true }},
	0x020 / 4: {name: "DriverFeatures", write: (*Transport).writeFeatures},
	0x024 / 4: {name: "DriverFeaturesSel", write: func(t *Transport, v uint32) bool { t.driverSel = v; return true }},
	0x030 / 4: {name: "QueueSel", write: func(t *Transport, v uint32) bool { t.queueSel = v; return true }},
	0x034 / 4: {name: "QueueSizeMax", read: (*Transport).readSizeMax},
	0x038 / 4: {name: "QueueSize", write: (*Transport).writeSize},
	0x044 / 4: {name: "QueueReady", read: (*Transport).readReady, write: (*Transport).writeReady},
	0x050 / 4: {name: "QueueNotify", write: (*Transport).notify, unlocked: true},
	0x060 / 4: {name: "InterruptStatus", read: func(t *Transport) uint32 { return t.interrupts.Load() }, unlocked: true},
	0x064 / 4: {name: "InterruptACK", write: func(t *Transport, v uint32) bool { t.interrupts.And(^v); return true }, unlocked: true},
	0x070 / 4: {name: "Status", read: func(t *Transport) uint32 { return uint32(t.status) }, write: (*Transport).writeStatus},
	0x080 / 4: {name: "QueueDescLow", write: low(func(q *queue) *virtio.Addr { return &q.Desc })},
	0x084 / 4: {name: "QueueDescHigh", write: high(func(q *queue) *virtio.Addr { return &q.Desc })},
	0x090 / 4: {name: "QueueDriverLow", write: low(func(q *queue) *virtio.Addr { return &q.Avail })},
	0x094 / 4: {name: "QueueDriverHigh", write: high(func(q *queue) *virtio.Addr { return &q.Avail })},
	0x0a0 / 4: {name: "QueueDeviceLow", write: low(func(q *queue) *virtio.Addr { return &q.Used })},
	0x0a4 / 4: {name: "QueueDeviceHigh", write: high(func(q *queue) *virtio.Addr { return &q.Used })},
	// No device has shared memory: every region has the length of none (§4.2.2, SHMLen).
	0x0ac / 4: {name: "SHMSel", write: func(*Transport, uint32) bool { return true }, unlocked: true},
	0x0b0 / 4: {name: "SHMLenLow", read: constant(^uint32(0)), unlocked: true},
	0x0b4 / 4: {name: "SHMLenHigh", read: constant(^uint32(0)), unlocked: true},
	0x0b8 / 4: {name: "SHMBaseLow", read: constant(^uint32(0)), unlocked: true},
	0x0bc / 4: {name: "SHMBaseHigh", read: constant(^uint32(0)), unlocked: true},
	0x0c0 / 4: {name: "QueueReset", read: constant(0), write: (*Transport).writeReset},
	0x0fc / 4: {name: "ConfigGeneration", read: func(t *Transport) uint32 { return t.generation.Load() }, unlocked: true},
}

// registerAt is the register that an access is for, or nil.
func registerAt(at uint64, b []byte) *register {
	if len(b) != 4 || at%4 != 0 {
		return nil
	}
	return &registers[at/4]
}

func getUint32(b []byte) uint32    { return binary.LittleEndian.Uint32(b) }
func putUint32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }

func constant(v uint32) func(*Transport) uint32 { return func(*Transport) uint32 { return v } }

// half is the 32 bits of features that sel selects; beyond 64 there are none.
func half(features uint64, sel uint32) uint32 {
	if sel > 1 {
		return 0
	}
	return uint32(features >> (32 * sel))
}

// writeFeatures counts between DRIVER and FEATURES_OK (§3.1.1).
func (t *Transport) writeFeatures(v uint32) bool {
	if !t.may(Driver) || t.status&FeaturesOK != 0 {
		return false
	}
	if t.driverSel > 1 {
		return v == 0
	}
	shift := 32 * t.driverSel
	t.driverFeatures = t.driverFeatures&^(0xffffffff<<shift) | uint64(v)<<shift
	return true
}

// selected is the queue of QueueSel, nil if there is none.
func (t *Transport) selected() *queue {
	if uint64(t.queueSel) >= uint64(len(t.queues)) {
		return nil
	}
	return &t.queues[t.queueSel]
}

func (t *Transport) readSizeMax() uint32 {
	if q := t.selected(); q != nil {
		return uint32(q.max)
	}
	return 0
}

// settable is the selected queue, if its layout may be written now: from
// FEATURES_OK (§3.1.1, step 7) to QueueReady.
func (t *Transport) settable() *queue {
	if q := t.selected(); q != nil && q.live == nil && t.may(FeaturesOK) {
		return q
	}
	return nil
}

func (t *Transport) writeSize(v uint32) bool {
	q := t.settable()
	if q == nil || v > uint32(q.max) {
		return false
	}
	q.Size = uint16(v)
	return true
}

func low(field func(*queue) *virtio.Addr) func(*Transport, uint32) bool {
	return func(t *Transport, v uint32) bool {
		q := t.settable()
		if q == nil {
			return false
		}
		a := field(q)
		*a = *a&^0xffffffff | virtio.Addr(v)
		return true
	}
}

func high(field func(*queue) *virtio.Addr) func(*Transport, uint32) bool {
	return func(t *Transport, v uint32) bool {
		q := t.settable()
		if q == nil {
			return false
		}
		a := field(q)
		*a = *a&0xffffffff | virtio.Addr(v)<<32
		return true
	}
}

func (t *Transport) readReady() uint32 {
	if q := t.selected(); q != nil && q.live != nil {
		return 1
	}
	return 0
}

// writeReady makes a queue of its layout, or takes it out of use. A layout that
// cannot be is a failure, for the driver does not look whether it was taken.
func (t *Transport) writeReady(v uint32) bool {
	q := t.selected()
	switch {
	case q == nil || v > 1:
		return false
	case v == 0:
		return t.takeOut()
	case q.live != nil:
		return true
	case t.settable() == nil:
		return false
	}
	live, err := t.newQueue(int(t.queueSel))
	if err != nil {
		t.stopLocked()
		t.failLocked(fmt.Errorf("queue %d: %w", t.queueSel, err))
		return true
	}
	t.exchange(live)
	return true
}

// newQueue is queue i as its registers describe it.
func (t *Transport) newQueue(i int) (*virtio.Queue, error) {
	live, err := virtio.NewQueue(t.mem, t.queues[i].Layout, t.driverFeatures, t.queues[i].max)
	if err != nil {
		return nil, err
	}
	live.SetDoorbell(t.bells[i])
	live.SetInterrupt(t.usedBuffer)
	return live, nil
}

// writeReset resets the selected queue alone (§2.6.1), with the answer to be
// read at once.
func (t *Transport) writeReset(v uint32) bool {
	if v != 1 || t.driverFeatures&virtio.FeatureRingReset == 0 || !t.may(DriverOK) || t.selected() == nil {
		return false
	}
	t.takeOut()
	t.selected().Layout = virtio.Layout{}
	return true
}

// takeOut ends the use of the selected queue.
func (t *Transport) takeOut() bool {
	if t.selected().live == nil {
		return true
	}
	t.exchange(nil)
	return true
}

// exchange puts live, or nothing, where the selected queue was. A device that
// runs is stopped for that: it sees its queues at Start alone.
func (t *Transport) exchange(live *virtio.Queue) {
	i := int(t.queueSel)
	t.stopLocked()
	layout := t.queues[i].Layout
	t.dropLocked(i)
	t.queues[i].Layout, t.queues[i].live = layout, live
	if t.active != nil {
		t.active.Queues[i] = live
		t.startLocked()
	}
}

// dropLocked forgets queue i. It is not in use any more.
func (t *Transport) dropLocked(i int) {
	q := &t.queues[i]
	if q.live != nil {
		t.past.Add(q.live.Traffic())
	}
	*q = queue{max: q.max}
}

// notify rings a queue's doorbell. With FeatureNotificationData, which we do not
// offer, there would be more in v than the index (§4.2.3.3).
func (t *Transport) notify(v uint32) bool {
	if uint64(v) >= uint64(len(t.bells)) {
		return false
	}
	t.counters.notifications.Add(1)
	t.bells[v].Ring()
	return true
}

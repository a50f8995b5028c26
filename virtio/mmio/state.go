package mmio

import (
	"errors"
	"fmt"
	"sync/atomic"

	"bulkhead/virtio"
)

// State is all that a transport and its device remember, for a snapshot.
type State struct {
	Device          virtio.DeviceID
	Status          Status
	InterruptStatus uint32
	Generation      uint32
	DeviceSel       uint32
	DriverSel       uint32
	DriverFeatures  uint64
	QueueSel        uint32
	Queues          []StateQueue
	Own             []byte // virtio.Keeper's
}

// StateQueue is a queue's registers and its place in the rings.
type StateQueue struct {
	virtio.Layout
	Ready bool
	virtio.QueueState
}

// Save is the state of a paused transport.
func (t *Transport) Save() (State, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.paused {
		return State{}, errors.New("mmio: save a device that is not paused")
	}
	s := State{
		Device: t.device.ID(), Status: t.status, InterruptStatus: t.interrupts.Load(), Generation: t.generation.Load(),
		DeviceSel: t.deviceSel, DriverSel: t.driverSel, DriverFeatures: t.driverFeatures, QueueSel: t.queueSel,
	}
	for i, q := range t.queues {
		saved := StateQueue{Layout: q.Layout, Ready: q.live != nil}
		if q.live != nil {
			saved.QueueState = q.live.Save()
			if saved.NextAvail != saved.NextUsed && t.active != nil {
				return State{}, fmt.Errorf("mmio: save device %d: it holds %d chains of queue %d while it is paused",
					s.Device, saved.NextAvail-saved.NextUsed, i)
			}
		}
		s.Queues = append(s.Queues, saved)
	}
	keeper, ok := t.device.(virtio.Keeper)
	if !ok {
		return s, nil
	}
	var err error
	if s.Own, err = keeper.Save(); err != nil {
		return State{}, fmt.Errorf("mmio: save device %d: %w", s.Device, err)
	}
	return s, nil
}

// Restore puts a new transport where another was saved, and leaves it paused.
// The guest's memory is restored before.
func (t *Transport) Restore(s State) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.restoreLocked(s); err != nil {
		return fmt.Errorf("mmio: restore device %d: %w", t.device.ID(), err)
	}
	return nil
}

func (t *Transport) restoreLocked(s State) error {
	switch {
	case t.status != 0:
		return errors.New("it is in use")
	case s.Device != t.device.ID():
		return fmt.Errorf("the snapshot has device %d in its place", s.Device)
	case len(s.Queues) != len(t.queues):
		return fmt.Errorf("the snapshot has %d queues, not %d", len(s.Queues), len(t.queues))
	case s.DriverFeatures&^t.features != 0 && s.Status&FeaturesOK != 0:
		return fmt.Errorf("the driver uses features %#x, which it has not here", s.DriverFeatures&^t.features)
	}
	if err := t.checkState(s); err != nil {
		return err
	}
	t.driverFeatures = s.DriverFeatures
	for i, saved := range s.Queues {
		t.queues[i].Layout = saved.Layout
		if !saved.Ready {
			continue
		}
		live, err := t.newQueue(i)
		if err != nil {
			return fmt.Errorf("queue %d: %w", i, err)
		}
		live.Restore(saved.QueueState)
		t.queues[i].live = live
	}
	if keeper, ok := t.device.(virtio.Keeper); ok {
		if err := keeper.Restore(s.Own); err != nil {
			return err
		}
	}
	t.paused = true
	t.status, t.deviceSel, t.driverSel, t.queueSel = s.Status, s.DeviceSel, s.DriverSel, s.QueueSel
	t.interrupts.Store(s.InterruptStatus)
	t.generation.Store(s.Generation)
	if t.may(DriverOK) {
		t.activateLocked()
	}
	return nil
}

// checkState refuses what no transport of this kind can have saved.
func (t *Transport) checkState(s State) error {
	_, keeps := t.device.(virtio.Keeper)
	switch {
	case !s.Status.reachable():
		return fmt.Errorf("no driver gets to the status %#x", s.Status)
	case s.InterruptStatus&^(usedBuffer|configuration) != 0:
		return fmt.Errorf("there are no such interrupts: %#x", s.InterruptStatus)
	case s.Status&FeaturesOK != 0 && s.DriverFeatures&virtio.FeatureVersion1 == 0:
		return errors.New("a driver of before version 1")
	case !keeps && len(s.Own) > 0:
		return fmt.Errorf("it keeps nothing, and the snapshot has %d bytes of it", len(s.Own))
	}
	for i, q := range s.Queues {
		switch {
		case s.Status&FeaturesOK == 0 && q != StateQueue{}:
			return fmt.Errorf("queue %d is in use before features are", i)
		case q.Size > t.queues[i].max:
			return fmt.Errorf("queue %d has %d entries; there are up to %d", i, q.Size, t.queues[i].max)
		case !q.Ready && q.QueueState != virtio.QueueState{}:
			return fmt.Errorf("queue %d is not ready, and was used", i)
		case s.Status&(DriverOK|NeedsReset|Failed) == DriverOK && q.NextAvail != q.NextUsed:
			return fmt.Errorf("queue %d: its device holds %d chains", i, q.NextAvail-q.NextUsed)
		}
	}
	return nil
}

// counters are what the transport itself sees.
type counters struct {
	notifications, interrupts, resets, failures, refused atomic.Uint64
}

// Metrics are a device's counts since it was made. A restored one begins anew.
type Metrics struct {
	virtio.Traffic
	Notifications uint64 // rings that came by Write and not by ioeventfd
	Interrupts    uint64
	Resets        uint64
	Failures      uint64 // how often it came to need a reset
	Refused       uint64 // accesses of no meaning, or out of turn
}

// Metrics may be asked at any time.
func (t *Transport) Metrics() Metrics {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := Metrics{
		Traffic:       t.past,
		Notifications: t.counters.notifications.Load(), Interrupts: t.counters.interrupts.Load(),
		Resets: t.counters.resets.Load(), Failures: t.counters.failures.Load(), Refused: t.counters.refused.Load(),
	}
	for _, q := range t.queues {
		if q.live != nil {
			m.Traffic.Add(q.live.Traffic())
		}
	}
	return m
}

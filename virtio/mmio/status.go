package mmio

import "slices"

// Status is the Device Status field (§2.1).
type Status uint32

const (
	Acknowledge Status = 1
	Driver      Status = 2
	DriverOK    Status = 4
	FeaturesOK  Status = 8
	NeedsReset  Status = 64
	Failed      Status = 128
)

// rung is a step of a driver.
type rung struct {
	at, adds Status
	enter    func(*Transport) bool
}

// ladder is the order in which a driver climbs (§3.1.1). From any rung 0 resets
// and FAILED gives up; every other write is refused and counted. What enter does
// not allow leaves the status as it is, which the driver sees.
var ladder = []rung{
	{0, Acknowledge, nil},
	{Acknowledge, Driver, nil},
	{Acknowledge | Driver, FeaturesOK, (*Transport).featuresAgreed},
	{Acknowledge | Driver | FeaturesOK, DriverOK, nil}, // then the device runs
}

// writeStatus is the driver's write of the Status register. Drivers write what
// they read and a bit more, so that NEEDS_RESET may come back to us.
func (t *Transport) writeStatus(value uint32) bool {
	wants := Status(value) &^ NeedsReset
	switch now := t.status &^ NeedsReset; {
	case value == 0:
		t.resetLocked()
		return true
	case wants == now:
		return true
	case wants == now|Failed:
		t.stopLocked()
		t.active = nil
		t.status |= Failed
		return true
	}
	for _, rung := range ladder { // nobody climbs with NEEDS_RESET or FAILED, which no rung has
		if t.status != rung.at || wants != rung.at|rung.adds {
			continue
		}
		if rung.enter != nil && !rung.enter(t) {
			return false
		}
		t.status = wants
		switch rung.adds {
		case Driver: // which reads what is offered from here on (§3.1.1)
			t.offer()
		case DriverOK:
			t.activateLocked()
		}
		return true
	}
	return false
}

// featuresAgreed tells whether the driver took what is offered (§2.2.2), and
// the version of this transport (§6.2).
func (t *Transport) featuresAgreed() bool {
	const version1 = 1 << 32
	return t.driverFeatures&^t.features == 0 && t.driverFeatures&version1 != 0
}

// reachable tells whether a driver and its device can come to s.
func (s Status) reachable() bool {
	base := s &^ (NeedsReset | Failed)
	return base == 0 || slices.ContainsFunc(ladder, func(r rung) bool { return base == r.at|r.adds })
}

// may tells whether all of these bits are set and nothing has gone wrong.
func (t *Transport) may(need Status) bool {
	return t.status&(need|NeedsReset|Failed) == need
}

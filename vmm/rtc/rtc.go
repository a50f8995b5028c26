// Package rtc is the CMOS clock (Motorola MC146818) at ports 0x70 and 0x71, and
// the 114 bytes of memory that it keeps. It tells the host's time in UTC, as
// Linux expects of a machine; a guest that sets it moves its own clock alone. It
// raises no interrupts: the alarm register holds what is written there, and
// kernels have better timers.
package rtc

import (
	"fmt"
	"sync"
	"time"
)

// Index is the first of the clock's two ports, the number of a register; the
// second reads or writes that register.
const Index = 0x70

// Registers.
const (
	seconds   = 0x00
	minutes   = 0x02
	hours     = 0x04
	weekday   = 0x06
	day       = 0x07
	month     = 0x08
	year      = 0x09
	statusA   = 0x0a
	statusB   = 0x0b
	statusC   = 0x0c
	statusD   = 0x0d
	century   = 0x32
	indexes   = 128 // bit 7 of the index masks NMIs, which nobody sends
	divider   = 0x26
	updating  = 0x80 // of status A
	batteryOK = 0x80
)

// Bits of status B.
const (
	halt   = 1 << 7 // the clock stands while the guest sets it
	binary = 1 << 2 // numbers are binary, not decimal digits
	hour24 = 1 << 1
	pm     = 0x80 // in the hours of a 12-hour clock
)

// State is what a snapshot keeps.
type State struct {
	Index  byte
	Offset time.Duration // guest's time less the host's
	Cells  [indexes]byte
}

// Clock is the chip. Its methods may be called from any vCPU.
type Clock struct {
	now func() time.Time

	mu sync.Mutex
	s  State
}

// New makes a clock that shows now.
func New(now func() time.Time) *Clock {
	c := &Clock{now: now}
	c.s.Cells[statusA] = divider
	c.s.Cells[statusB] = hour24
	return c
}

// Read is a read of port Index+off.
func (c *Clock) Read(off uint64, b []byte) {
	clear(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if off == 0 {
		b[0] = c.s.Index
		return
	}
	b[0] = c.readLocked(c.s.Index)
}

func (c *Clock) readLocked(index byte) byte {
	switch index {
	case statusC: // no interrupt
		return 0
	case statusD:
		return batteryOK
	case statusA, statusB:
		return c.s.Cells[index]
	}
	if c.s.Cells[statusB]&halt != 0 {
		return c.s.Cells[index]
	}
	t := c.now().Add(c.s.Offset).UTC()
	switch index {
	case seconds:
		return c.encode(t.Second())
	case minutes:
		return c.encode(t.Minute())
	case hours:
		return c.encodeHour(t.Hour())
	case weekday:
		return c.encode(int(t.Weekday()) + 1)
	case day:
		return c.encode(t.Day())
	case month:
		return c.encode(int(t.Month()))
	case year:
		return c.encode(t.Year() % 100)
	case century:
		return c.encode(t.Year() / 100)
	}
	return c.s.Cells[index]
}

// Write is a write of port Index+off.
func (c *Clock) Write(off uint64, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off == 0 {
		c.s.Index = b[0] % indexes
		return
	}
	c.writeLocked(c.s.Index, b[0])
}

func (c *Clock) writeLocked(index, v byte) {
	switch index {
	case statusC, statusD:
		return
	case statusA:
		v &^= updating // the clock's to say
	case statusB:
		switch was := c.s.Cells[statusB]; {
		case v&halt != 0 && was&halt == 0:
			c.stopLocked()
			c.s.Cells[statusB] = v
		case v&halt == 0 && was&halt != 0:
			c.s.Cells[statusB] = v
			c.startLocked()
		}
	}
	c.s.Cells[index] = v
	if c.s.Cells[statusB]&halt == 0 && isTime(index) {
		// A guest may set a register of a running clock: the others go on.
		c.stopLocked()
		c.s.Cells[index] = v
		c.startLocked()
	}
}

func isTime(index byte) bool {
	switch index {
	case seconds, minutes, hours, weekday, day, month, year, century:
		return true
	}
	return false
}

// stopLocked puts the time into the registers, where the guest sets it.
func (c *Clock) stopLocked() {
	for i := range c.s.Cells {
		if isTime(byte(i)) {
			c.s.Cells[i] = c.readLocked(byte(i))
		}
	}
}

// startLocked makes what stands in the registers the time. Numbers out of range
// carry over, as time.Date does.
func (c *Clock) startLocked() {
	n := func(i int) int { return c.decode(c.s.Cells[i]) }
	h := n(hours)
	if c.s.Cells[statusB]&hour24 == 0 {
		h = c.decode(c.s.Cells[hours]&^pm) % 12
		if c.s.Cells[hours]&pm != 0 {
			h += 12
		}
	}
	t := time.Date(n(century)*100+n(year), time.Month(n(month)), n(day), h, n(minutes), n(seconds), 0, time.UTC)
	c.s.Offset = t.Sub(c.now())
}

func (c *Clock) encode(n int) byte {
	if c.s.Cells[statusB]&binary != 0 {
		return byte(n)
	}
	return byte(n/10<<4 | n%10)
}

func (c *Clock) encodeHour(h int) byte {
	if c.s.Cells[statusB]&hour24 != 0 {
		return c.encode(h)
	}
	v := c.encode((h+11)%12 + 1)
	if h >= 12 {
		v |= pm
	}
	return v
}

func (c *Clock) decode(v byte) int {
	if c.s.Cells[statusB]&binary != 0 {
		return int(v)
	}
	return int(v>>4)*10 + int(v&15)
}

// Save is the state for a snapshot.
func (c *Clock) Save() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.s
}

// Check refuses what no guest can have made of a clock: a snapshot is a file, which
// somebody may have changed.
func (s State) Check() error {
	if s.Index >= indexes || s.Cells[statusA]&updating != 0 || s.Cells[statusC] != 0 || s.Cells[statusD] != 0 {
		return fmt.Errorf("rtc: no clock is like %+v", s)
	}
	return nil
}

// Restore takes back a state that Check has passed.
func (c *Clock) Restore(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s = s
}

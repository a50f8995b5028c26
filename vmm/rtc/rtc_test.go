package rtc

import (
	"testing"
	"time"
)

func (c *Clock) get(i byte) byte {
	c.Write(0, []byte{i})
	b := []byte{0}
	c.Read(1, b)
	return b[0]
}

func (c *Clock) set(i, v byte) {
	c.Write(0, []byte{i})
	c.Write(1, []byte{v})
}

// at is a host whose clock stands, until it is moved.
func at(now *time.Time) *Clock { return New(func() time.Time { return *now }) }

func TestTime(t *testing.T) {
	now := time.Date(2026, 11, 23, 22, 5, 9, 0, time.FixedZone("", 3600)) // 21:05:09 UTC, a Monday
	cases := []struct {
		name   string
		status byte
		want   []byte // seconds, minutes, hours, weekday, day, month, year, century
	}{
		{"decimal, 24 hours", hour24, []byte{0x09, 0x05, 0x21, 2, 0x23, 0x11, 0x26, 0x20}},
		{"binary, 24 hours", hour24 | binary, []byte{9, 5, 21, 2, 23, 11, 26, 20}},
		{"decimal, 12 hours", 0, []byte{0x09, 0x05, 0x09 | pm, 2, 0x23, 0x11, 0x26, 0x20}},
		{"binary, 12 hours", binary, []byte{9, 5, 9 | pm, 2, 23, 11, 26, 20}},
	}
	for _, c := range cases {
		clock := at(&now)
		clock.set(statusB, c.status)
		for i, reg := range []byte{seconds, minutes, hours, weekday, day, month, year, century} {
			if got := clock.get(reg); got != c.want[i] {
				t.Errorf("%s: register %#x is %#x, want %#x", c.name, reg, got, c.want[i])
			}
		}
		if clock.get(statusD) != batteryOK || clock.get(statusA)&0x80 != 0 {
			t.Errorf("%s: the clock says that it does not work", c.name)
		}
	}
}

// TestMidnight: 12 comes before 1 on a 12-hour clock.
func TestMidnight(t *testing.T) {
	for hour, want := range map[int]byte{0: 0x12, 1: 0x01, 11: 0x11, 12: 0x12 | pm, 13: 0x01 | pm, 23: 0x11 | pm} {
		now := time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC)
		c := at(&now)
		c.set(statusB, 0)
		if got := c.get(hours); got != want {
			t.Errorf("%d o'clock reads %#x, want %#x", hour, got, want)
		}
		c.set(hours, want)
		if c.s.Offset != 0 {
			t.Errorf("%#x set at %d o'clock moves the clock by %v", want, hour, c.s.Offset)
		}
	}
}

// TestSet is hwclock --systohc: the clock stands while it is set.
func TestSet(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	c := at(&now)
	c.set(statusB, hour24|halt)
	for reg, v := range map[byte]byte{seconds: 0x30, minutes: 0x45, hours: 0x06, day: 0x01, month: 0x02, year: 0x99, century: 0x19} {
		c.set(reg, v)
	}
	now = now.Add(time.Hour)
	if c.get(seconds) != 0x30 {
		t.Error("the clock goes on while it is set")
	}
	c.set(statusB, hour24)
	now = now.Add(90 * time.Second)
	for reg, want := range map[byte]byte{seconds: 0x00, minutes: 0x47, hours: 0x06, day: 0x01, month: 0x02, year: 0x99, century: 0x19} {
		if got := c.get(reg); got != want {
			t.Errorf("register %#x is %#x, want %#x", reg, got, want)
		}
	}
	d := at(&now)
	d.Restore(c.Save())
	if d.get(century) != 0x19 {
		t.Error("a restored clock shows another time")
	}
}

func TestMemory(t *testing.T) {
	now := time.Now()
	c := at(&now)
	c.set(0x0f, 0x42)
	c.set(0x7f, 0x43)
	if c.get(0x0f) != 0x42 || c.get(0x7f|0x80) != 0x43 {
		t.Error("the memory forgets; bit 7 of the index is no part of it")
	}
}

// FuzzRegisters: no guest makes the clock panic, whatever it sets.
func FuzzRegisters(f *testing.F) {
	f.Add([]byte("\x8b\x82\x80\x99\x8b\x02\x00\x00"))
	f.Fuzz(func(t *testing.T, ops []byte) {
		now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
		c := at(&now)
		for i := 0; i+1 < len(ops); i += 2 {
			if ops[i]&0x80 != 0 {
				c.set(ops[i], ops[i+1])
			} else {
				c.get(ops[i])
			}
			now = now.Add(time.Second)
		}
	})
}

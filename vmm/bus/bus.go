// Package bus finds the device behind an address or a port: ranges that do not
// overlap, and a handler for each. One Bus is the machine's ports, another its
// MMIO. It is filled while the machine is assembled, and from then on only read,
// by all vCPUs at once; each handler has a lock of its own.
package bus

import (
	"cmp"
	"fmt"
	"slices"
)

// Handler is a device's registers. An access may have any width from 1 to 8
// bytes and begin anywhere in the range; it never reaches past the end of it.
type Handler interface {
	Read(off uint64, b []byte)
	Write(off uint64, b []byte)
}

type span struct {
	at, size uint64
	name     string
	to       Handler
}

// Bus maps addresses to handlers. The zero value is empty.
type Bus struct{ spans []span }

// Add puts h behind [at, at+size).
func (b *Bus) Add(at, size uint64, name string, h Handler) error {
	if size == 0 || at+size-1 < at {
		return fmt.Errorf("bus: %s: no room for %d bytes at %#x", name, size, at)
	}
	i, _ := slices.BinarySearchFunc(b.spans, at, func(s span, at uint64) int { return cmp.Compare(s.at, at) })
	if i > 0 && at-b.spans[i-1].at < b.spans[i-1].size {
		return overlap(name, at, b.spans[i-1])
	}
	if i < len(b.spans) && b.spans[i].at-at < size {
		return overlap(name, at, b.spans[i])
	}
	b.spans = slices.Insert(b.spans, i, span{at, size, name, h})
	return nil
}

func overlap(name string, at uint64, s span) error {
	return fmt.Errorf("bus: %s at %#x lies over %s, %d bytes at %#x", name, at, s.name, s.size, s.at)
}

// find is the span that holds all n bytes at addr.
func (b *Bus) find(at uint64, n int) (*span, bool) {
	i, found := slices.BinarySearchFunc(b.spans, at, func(s span, at uint64) int { return cmp.Compare(s.at, at) })
	if !found {
		i--
	}
	if i < 0 {
		return nil, false
	}
	s := &b.spans[i]
	off := at - s.at
	return s, off < s.size && uint64(n) <= s.size-off
}

// Read fills data from what lies at addr. Where there is nothing, all bits are
// set, as on a bus that nobody drives, and the answer is false.
func (b *Bus) Read(at uint64, data []byte) bool {
	if s, ok := b.find(at, len(data)); ok {
		s.to.Read(at-s.at, data)
		return true
	}
	for i := range data {
		data[i] = 0xff
	}
	return false
}

// Write hands data to what lies at addr, or drops it and answers false.
func (b *Bus) Write(at uint64, data []byte) bool {
	s, ok := b.find(at, len(data))
	if ok {
		s.to.Write(at-s.at, data)
	}
	return ok
}
